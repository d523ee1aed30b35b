"""Spline flows as zuko has them, but quicker: torch is slow at a softmax over a short last axis."""

import math
from functools import partial
from typing import Any

import torch
import zuko
from torch import Tensor

__all__ = ["MonotonicSpline", "spline_flow"]


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
        bound: float = 5.0,
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
