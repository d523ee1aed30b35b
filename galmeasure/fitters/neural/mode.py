"""The point of highest posterior density: the best of some draws, improved by gradient ascent."""

import copy
from functools import lru_cache

import torch

from galmeasure.parameters import N_PARAMETERS

__all__ = ["posterior_mode"]

_DRAWS = 64
_STEPS = 40
_RATE = 0.15
_DECAYS = (0.9, 0.99)


def posterior_mode(network, context):
    """Parameters of the highest posterior density, in their own units.

    Parameters
    ----------
    network : SersicPosterior
        The network.
    context : Context or CorrectedContext
        ``B`` galaxies. All have the same random numbers, so that each row's mode is its own.

    Returns
    -------
    Tensor
        Shape ``(B, 7)``.
    """
    with torch.inference_mode(False), torch.enable_grad():
        network = _double(network)
        context = context.double()
        with torch.no_grad():
            scale = context.flux_scale
            normal = torch.randn((_DRAWS, 1, N_PARAMETERS), generator=torch.Generator().manual_seed(0)).to(scale)
            drawn = network.sample(context, normal.expand(-1, len(scale), -1))
            density = network.log_prob(context, drawn)
            values = network.transform.forward(drawn, scale.expand(drawn.shape[:-1]))
            spread = values.std(0).clamp_min(1e-4)
            first = torch.nan_to_num(density, nan=-torch.inf).argmax(0)
            start = values[first, torch.arange(len(first), device=first.device)]
        return _ascend(network, context, start, spread)


@lru_cache(maxsize=2)
def _double(network):
    """Copy of a network in double precision, in which the way to a mode does not depend on rounding."""
    return copy.deepcopy(network).double()


def _ascend(network, context, start, spread):
    """Adam in units of the posterior's width; the best point on the way is the answer."""
    step = torch.zeros_like(start)
    mean, square = torch.zeros_like(start), torch.zeros_like(start)
    best, best_density = None, None
    for i in range(1, _STEPS + 1):
        step = step.detach().requires_grad_()
        point = network.transform.inverse(start + spread * step, context.flux_scale)
        density = network.log_prob(context, point)
        (gradient,) = torch.autograd.grad(density.sum(), step)
        with torch.no_grad():
            better = density > best_density if best is not None else torch.ones_like(density, dtype=torch.bool)
            best = torch.where(better[:, None], point, best) if best is not None else point
            best_density = torch.where(better, density, best_density) if best_density is not None else density
            gradient = torch.nan_to_num(gradient, posinf=0.0, neginf=0.0)
            mean = _DECAYS[0] * mean + (1.0 - _DECAYS[0]) * gradient
            square = _DECAYS[1] * square + (1.0 - _DECAYS[1]) * gradient**2
            size = (mean / (1.0 - _DECAYS[0] ** i)) / ((square / (1.0 - _DECAYS[1] ** i)).sqrt() + 1e-8)
            step = step + _RATE * (1.0 - (i - 1) / _STEPS) * size
    return best.detach()
