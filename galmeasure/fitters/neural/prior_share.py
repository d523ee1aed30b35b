"""How much of a posterior is prior, and whether a galaxy is a point: from quantiles."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from galmeasure.networks import NATIVE_SIZE
from galmeasure.networks.base import ONE_SIGMA_HIGH, ONE_SIGMA_LOW
from galmeasure.parameters import SERSIC
from galmeasure.priors import Prior

__all__ = ["point_probability", "prior_dominated"]

_DOMINATED = 0.75
"""Width of a posterior, in units of that of the prior, from which the data count as hardly telling."""

_POINT = 0.1
"""Half-light radius, in units of the PSF's FWHM, below which a galaxy counts as a point."""

_DRAWS = 20_000
_SHAPE_COLUMNS = SERSIC.indices("n", "r_eff")


def prior_dominated(quantiles: Tensor, prior: Prior) -> Tensor:
    """Decide whether the data hardly narrow the prior of the Sersic index or of the half-light radius.

    Parameters
    ----------
    quantiles : Tensor
        At the five probabilities of networks, in the pixels of the network, shape ``(B, 5, 7)``.
    prior : Prior
        Prior of the posteriors.

    Returns
    -------
    Tensor
        Boolean, shape ``(B,)``: the central 68 % of the logarithm of either are wider than three quarters of those
        of the prior.
    """
    is_dominated = torch.zeros(len(quantiles), dtype=torch.bool, device=quantiles.device)
    for column, width in zip(_SHAPE_COLUMNS, _prior_widths(prior), strict=True):
        low, high = (quantiles[:, level, column].clamp_min(1e-6).log() for level in (ONE_SIGMA_LOW, ONE_SIGMA_HIGH))
        is_dominated |= high - low > _DOMINATED * width
    return is_dominated


@lru_cache(maxsize=8)
def _prior_widths(prior):
    """Widths of the central 68 % of the logarithms of n and r_eff."""
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        drawn = prior.sample(_DRAWS, (NATIVE_SIZE, NATIVE_SIZE), generator=generator)
        levels = torch.tensor([0.15865525, 0.84134475])
        bounds = torch.quantile(drawn[:, list(_SHAPE_COLUMNS)].log(), levels, dim=0)
        return tuple((bounds[1] - bounds[0]).tolist())


def point_probability(quantiles: Tensor, fwhm: Tensor) -> Tensor:
    """Probability that the half-light radius is below a tenth of the width of the PSF.

    Parameters
    ----------
    quantiles : Tensor
        Quantiles, as in `prior_dominated`.
    fwhm : Tensor
        Width of each PSF, pixel response included, in the pixels of the network, shape ``(B,)``.

    Returns
    -------
    Tensor
        Shape ``(B,)``: the quantiles of the logarithm are joined by lines in units of sigma.
    """
    nodes = quantiles[:, :, SERSIC.index("r_eff")].clamp_min(1e-6).log().double()
    limit = torch.log(_POINT * fwhm.double())
    upper = (nodes < limit[:, None]).sum(1).clamp(1, nodes.shape[1] - 1)
    low, high = (nodes.gather(1, index[:, None])[:, 0] for index in (upper - 1, upper))
    sigma = upper - 3.0 + (limit - low) / (high - low).clamp_min(1e-6)  # the nodes lie at -2, -1, 0, 1, 2 sigma
    return 0.5 * (1.0 + torch.erf(sigma / math.sqrt(2.0)))
