"""The point of highest posterior density: the best of some draws, improved by gradient ascent."""

import copy
from functools import lru_cache

import torch
from torch import Tensor

from galmeasure.networks import Context, SersicPosterior
from galmeasure.networks.correction import CorrectedContext, Correction
from galmeasure.parameters import N_PARAMETERS

__all__ = ["posterior_mode"]

_DRAWS = 64
_STEPS = 40
_RATE = 0.15
_DECAYS = (0.9, 0.99)


def posterior_mode(network: SersicPosterior | Correction, context: Context | CorrectedContext) -> Tensor:
    """Parameters of the highest posterior density, in their own units.

    Parameters
    ----------
    network : SersicPosterior or Correction
        Network, or correction of one, whose posteriors are used.
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
    step = torch.zeros_like(start, requires_grad=True)
    optimizer = torch.optim.Adam([step], lr=_RATE, betas=_DECAYS, maximize=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda iteration: 1.0 - iteration / _STEPS)
    best, best_density = None, None
    for _ in range(_STEPS):
        point = network.transform.inverse(start + spread * step, context.flux_scale)
        density = network.log_prob(context, point)
        optimizer.zero_grad()
        density.sum().backward(inputs=[step])
        step.grad.nan_to_num_(posinf=0.0, neginf=0.0)
        with torch.no_grad():
            if best is None:
                best, best_density = point, density
            else:
                better = density > best_density
                best = torch.where(better[:, None], point, best)
                best_density = torch.where(better, density, best_density)
        optimizer.step()
        schedule.step()
    return best.detach()
