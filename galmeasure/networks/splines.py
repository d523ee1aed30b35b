"""Spline flows as zuko has them, but quicker: torch is slow at a softmax over a short last axis."""

import math
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import zuko
from numpy.typing import NDArray
from torch import Tensor

from galmeasure.utils.compiled import compiled_module

__all__ = ["MonotonicSpline", "draw_values", "log_densities", "spline_flow"]

_BOUND = 5.0
_LOOPS = "galmeasure.networks.compiled"


class MonotonicSpline(zuko.transforms.MonotonicRQSTransform):
    """Monotonic rational-quadratic spline, the same as its parent up to rounding.

    Parameters
    ----------
    widths, heights : Tensor
        Unconstrained widths and heights of the bins, shape ``(..., K)``.
    derivatives : Tensor
        Unconstrained derivatives at the inner knots, shape ``(..., K - 1)``.
    bound : float, optional
        Bound of the domain and the codomain.
    slope : float, optional
        Smallest slope of the spline.
    **kwargs
        Options of the class `torch.distributions.Transform`.
    """

    def __init__(
        self,
        widths: Tensor,
        heights: Tensor,
        derivatives: Tensor,
        bound: float = _BOUND,
        slope: float = 1e-3,
        **kwargs: Any,
    ) -> None:
        super(zuko.transforms.MonotonicRQSTransform, self).__init__(**kwargs)
        self.horizontal, self.vertical = (_knots(shares, bound, slope) for shares in (widths, heights))
        derivatives = derivatives / (1 + abs(derivatives / math.log(slope)))
        self.derivatives = torch.exp(torch.nn.functional.pad(derivatives, (1, 1), value=0))


def _knots(shares, bound, slope):
    """Knots ``(..., K + 1)`` whose distances are softmax functions of bounded numbers ``(..., K)``."""
    shares = shares.movedim(-1, 0).contiguous()
    shares = torch.softmax(shares / (1 + abs(2 * shares / math.log(slope))), 0)
    ends = torch.cat([torch.zeros_like(shares[:1]), torch.cumsum(shares, 0)])
    return (bound * (2 * ends - 1)).movedim(0, -1)


def spline_flow(features: int, context: int, *, bins: int, slope: float, **options: Any) -> zuko.flows.MAF:
    """Autoregressive flow of splines, with the parameters of `zuko.flows.NSF`.

    Parameters
    ----------
    features, context : int
        Numbers of features and of the context's.
    bins : int
        Bins of each spline.
    slope : float
        Smallest slope of the splines.
    **options
        Options of the class `zuko.flows.MAF`.

    Returns
    -------
    zuko.flows.MAF
        Flow that reads the weights of a `zuko.flows.NSF`.
    """
    univariate = partial(MonotonicSpline, slope=slope)
    return zuko.flows.MAF(features, context, univariate=univariate, shapes=[(bins,), (bins,), (bins - 1,)], **options)


def draw_values(flow: zuko.flows.MAF, context: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
    """Draws from a flow, and their log densities.

    Parameters
    ----------
    flow : zuko.flows.MAF
        Conditional flow, made by `spline_flow`.
    context : Tensor
        Context of ``B`` galaxies, shape ``(B, C)``.
    normal : Tensor
        Standard normal numbers, of which the draws are a function, shape ``(S, B, D)``.

    Returns
    -------
    draws : Tensor
        Shape ``(S, B, D)``.
    log_densities : Tensor
        Those of the draws in the flow, shape ``(S, B)``.
    """
    loops = compiled_module(_LOOPS, context, normal)
    if loops is not None:
        return _transformed(loops, flow, context, normal, inverse=True)
    distribution = flow(context)
    draws, log_volume = distribution.transform.inv.call_and_ladj(normal)
    return draws, distribution.base.log_prob(normal) - log_volume


def log_densities(flow: zuko.flows.MAF, context: Tensor, values: Tensor) -> Tensor:
    """Log densities of values in a flow.

    Parameters
    ----------
    flow : zuko.flows.MAF
        Conditional flow, made by `spline_flow`.
    context : Tensor
        Context of ``B`` galaxies, shape ``(B, C)``.
    values : Tensor
        Points at which to evaluate, shape ``(B, D)`` or ``(S, B, D)``.

    Returns
    -------
    Tensor
        Shape ``(B,)`` or ``(S, B)``.
    """
    loops = compiled_module(_LOOPS, context, values)
    if loops is None:
        return flow(context).log_prob(values)
    draws = values if values.ndim == 3 else values[None]
    density = _transformed(loops, flow, context, draws, inverse=False)[1]
    return density if values.ndim == 3 else density[0]


def _transformed(loops, flow, context, values, *, inverse):
    """Values transformed by compiled loops, and their log densities."""
    out, density = torch.empty(values.shape), torch.empty(values.shape[:2])
    *columns, log_slope = _packed(flow)
    arrays = (column.numpy() for column in (values.contiguous(), context.contiguous()))
    loops.transform_draws(*arrays, *columns, _BOUND, log_slope, inverse, out.numpy(), density.numpy())
    return out, density


_ORDERS: WeakKeyDictionary[zuko.flows.MAF, Any] = WeakKeyDictionary()


def _packed(flow):
    """Weights of a flow as arrays, the units of each layer in the order in which they are known."""
    if flow not in _ORDERS:
        _ORDERS[flow] = [_unit_orders(transform) for transform in flow.transform.transforms]
    columns, ends, features = [], [], []
    for transform, (units, of_layers, order) in zip(flow.transform.transforms, _ORDERS[flow], strict=True):
        columns.append([array for layer in _weights(transform, units, order) for array in layer])
        ends.append(of_layers)
        features.append(order)
    first, first_bias, *hidden, last, last_bias = (np.stack(column) for column in zip(*columns, strict=True))
    count, n_units = first_bias.shape
    weights, bias = np.empty((count, 0, n_units, n_units), np.float32), np.empty((count, 0, n_units), np.float32)
    if hidden:
        weights, bias = np.stack(hidden[::2], 1), np.stack(hidden[1::2], 1)
    log_slope = math.log(transform.univariate.keywords["slope"])
    return first, first_bias, weights, bias, last, last_bias, np.stack(ends), np.stack(features), log_slope


def _linear_layers(transform):
    return [layer for layer in transform.hyper if isinstance(layer, torch.nn.Linear)]


def _unit_orders(transform) -> tuple[list[NDArray], NDArray, NDArray]:
    """Units of the hidden layers in the order in which they are known, how many before each feature, and features."""
    size, layers = len(transform.order), _linear_layers(transform)
    known = transform.order.numpy()  # features before each feature
    units, ends = [], []
    for number, layer in enumerate(layers[:-1]):
        mask = layer.mask.numpy()
        # a unit is known after the last of its inputs
        known_after = known + 1 if number == 0 else known
        inputs = mask[:, :size] if number == 0 else mask
        known = np.where(inputs, known_after, 0).max(1)
        units.append(known.argsort(kind="stable"))
        ends.append([np.count_nonzero(known < position) for position in range(size + 1)])
    return units, np.array(ends), transform.order.numpy().argsort()


def _weights(transform, units, order):
    """Weights by input, and biases, of the layers of one transform."""
    for number, layer in enumerate(_linear_layers(transform)):
        weight, bias = ((layer.mask * layer.weight).detach().numpy(), layer.bias.detach().numpy())
        numbers = np.arange(len(bias))  # those of a spline side by side
        rows = units[number] if number < len(units) else numbers.reshape(len(order), -1)[order].ravel()
        weight = weight[rows] if number == 0 else weight[rows][:, units[number - 1]]
        yield np.ascontiguousarray(weight.T), bias[rows]
