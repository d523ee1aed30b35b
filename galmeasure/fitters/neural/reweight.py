"""Posteriors under another prior than that of the training, from weighted draws of those that the network gives."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from galmeasure.fitters.neural.encode import EncodedChunk
from galmeasure.networks import Context, PosteriorSummary, SersicPosterior
from galmeasure.networks.base import LEVELS
from galmeasure.networks.correction import CorrectedContext, Correction
from galmeasure.parameters import N_PARAMETERS, PARAMETER_INDEX
from galmeasure.priors import Prior
from galmeasure.weights import Weights

__all__ = [
    "LEAST_DRAWS",
    "PriorRatio",
    "check_prior",
    "log_evidence_ratio",
    "reweighted_chunk",
    "reweighted_draws",
]

LEAST_DRAWS = 20.0
"""Effective draws below which a re-weighted posterior is flagged."""

_DRAWS = 512
_PIXEL = 8.0 * math.log(2.0) / 12.0  # squared FWHM that a pixel adds
_FLUX = PARAMETER_INDEX["flux"]


@dataclass(frozen=True)
class PriorRatio:
    """The ratio of two priors for the rows of a chunk.

    Parameters
    ----------
    prior, training_prior : Prior
        Prior of the posteriors that are asked for, and that of the training.
    snr : Tensor
        Signal-to-noise ratio of each row's summary, shape ``(P,)``.
    flux : Tensor
        Flux of each row's summary, shape ``(P,)``.
    fwhm : Tensor
        Width of each row's PSF, pixel response included, in the pixels of the network, shape ``(P,)``.
    """

    prior: Prior
    training_prior: Prior
    snr: torch.Tensor
    flux: torch.Tensor
    fwhm: torch.Tensor

    def __getitem__(self, rows: Tensor | slice) -> "PriorRatio":
        """Return some of the rows, in the order of the index."""
        return PriorRatio(self.prior, self.training_prior, self.snr[rows], self.flux[rows], self.fwhm[rows])

    def log(self, parameters: Tensor) -> Tensor:
        """Logarithm of the ratio for parameters ``(S, P, 7)``, shape ``(S, P)``."""
        parameters = parameters.double()
        snr = (self.snr * parameters[..., _FLUX] / self.flux).clamp_min(1e-3)
        width = (self.fwhm**2 - _PIXEL).clamp_min(0.01).sqrt().expand_as(snr)
        log_prior = self._log_prob(self.prior, parameters, snr, width)
        log_training = self._log_prob(self.training_prior, parameters, snr, width)
        return torch.where(torch.isfinite(log_training), log_prior - log_training, -torch.inf)

    @staticmethod
    def _log_prob(prior, parameters, snr, width):
        width = width.clamp(prior.psf_fwhm.lower, prior.psf_fwhm.upper)
        inside = snr.clamp(prior.snr.lower, prior.snr.upper)
        flux = prior.snr.log_prob(inside) + inside.log()
        return prior.log_prob_shapes(*parameters.unbind(-1)[1:5], inside, width) + flux


def check_prior(prior: Prior, weights: Weights) -> None:
    """Raise ValueError if weights cannot serve a prior."""
    domain = weights.domain
    for name in ("n", "r_eff"):
        distribution = getattr(prior, name)
        if distribution.lower < domain[name][0] or distribution.upper > domain[name][1]:
            low, high = domain[name]
            msg = f"prior: {name} must lie within the domain of weights {weights.name!r}, {low:g} to {high:g}"
            raise ValueError(msg)
    if (prior.electrons is None) != (weights.get_prior().electrons is None):
        msg = f"prior: its flux must be given as that of the prior of weights {weights.name!r}, {weights.prior!r}"
        raise ValueError(msg)


def reweighted_chunk(
    module: SersicPosterior | Correction, chunk: EncodedChunk, ratio: PriorRatio
) -> tuple[EncodedChunk, Tensor]:
    """Replace the summary of a chunk by that under another prior.

    Parameters
    ----------
    module : SersicPosterior or Correction
        What gives draws from the context of the chunk.
    chunk : EncodedChunk
        Rows with their summary.
    ratio : PriorRatio
        Ratio of the priors for the rows.

    Returns
    -------
    chunk : EncodedChunk
        With the other summary: weighted and plain moments and quantiles of the same draws are compared, so that it
        is the same where the ratio is constant.
    effective : Tensor
        Effective number of draws, shape ``(P,)``.
    """
    draws, log_ratio = _draws(module, chunk, ratio)
    weight = torch.softmax(log_ratio, 0).nan_to_num(0.0)
    plain = torch.full_like(weight, 1.0 / len(weight))
    summary = chunk.summary
    mean, plain_mean = (torch.einsum("sb,sbi->bi", share, draws) for share in (weight, plain))
    factor, plain_factor = _factor(draws - mean, weight), _factor(draws - plain_mean, plain)
    change = factor @ torch.linalg.inv(plain_factor)
    covariance = change @ summary.covariance.double() @ change.mT
    quantiles = summary.quantiles.double() + _quantiles(draws, weight) - _quantiles(draws, plain)
    summary = PosteriorSummary(
        (summary.mean + mean - plain_mean).float(), covariance.float(), quantiles.sort(1).values.float()
    )
    return replace(chunk, summary=summary), 1.0 / weight.square().sum(0).clamp_min(1e-12)


def reweighted_draws(
    module: SersicPosterior | Correction,
    context: Context | CorrectedContext,
    normal: Tensor,
    ratio: PriorRatio,
    generator: torch.Generator,
) -> Tensor:
    """Draws ``(S, B, 7)`` under another prior, chosen among as many draws by their weights."""
    draws = module.sample(context, normal)
    log_ratio = ratio.log(draws)
    weight = torch.softmax(log_ratio, 0).nan_to_num(0.0) + 1e-30
    chosen = torch.multinomial(weight.T, len(draws), replacement=True, generator=generator).T
    return draws.gather(0, chosen[..., None].expand_as(draws))


def log_evidence_ratio(module: SersicPosterior | Correction, chunk: EncodedChunk, ratio: PriorRatio) -> Tensor:
    """Logarithm of the mean ratio of the priors over each posterior, which normalises densities, shape ``(P,)``."""
    _, log_ratio = _draws(module, chunk, ratio)
    return torch.logsumexp(log_ratio, 0) - math.log(len(log_ratio))


def _draws(module, chunk, ratio):
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn((_DRAWS // 2, 1, N_PARAMETERS), generator=generator)
    normal = torch.cat([normal, -normal]).to(chunk.summary.mean)
    draws = module.sample(chunk.context, normal.expand(-1, len(chunk.rows), -1)).double()
    return draws, ratio.log(draws)


def _factor(offset, weight):
    """Cholesky factors ``(B, 7, 7)`` of weighted covariances, in units that keep them well conditioned."""
    covariance = torch.einsum("sb,sbi,sbj->bij", weight, offset, offset)
    scale = covariance.diagonal(dim1=1, dim2=2).clamp_min(1e-20).sqrt()
    balanced = covariance / (scale[:, :, None] * scale[:, None])
    balanced = balanced + 1e-6 * torch.eye(N_PARAMETERS, dtype=balanced.dtype, device=balanced.device)
    return scale[..., None] * torch.linalg.cholesky_ex(balanced)[0]


def _quantiles(draws, weight):
    """Weighted quantiles at the levels of networks, shape ``(B, 5, 7)``."""
    values, order = draws.sort(0)
    share = weight[..., None].expand_as(draws).gather(0, order)
    below = share.cumsum(0) - 0.5 * share
    levels = torch.tensor(LEVELS, dtype=below.dtype, device=below.device)
    below, values = (column.permute(1, 2, 0).contiguous() for column in (below, values))
    upper = torch.searchsorted(below, levels.expand(*below.shape[:2], -1).contiguous()).clamp(1, below.shape[-1] - 1)
    low, high = below.gather(-1, upper - 1), below.gather(-1, upper)
    fraction = ((levels - low) / (high - low).clamp_min(1e-12)).clamp(0.0, 1.0)
    quantiles = torch.lerp(values.gather(-1, upper - 1), values.gather(-1, upper), fraction)
    return quantiles.transpose(1, 2)
