"""Posteriors given some of the parameters: a Gaussian in the network's coordinates, conditional on them."""

from collections.abc import Iterable
from dataclasses import replace

from torch import Tensor

from galmeasure.fitters.neural.encode import EncodedChunk
from galmeasure.networks import PosteriorSummary
from galmeasure.networks.conditional import conditional_gaussian
from galmeasure.networks.transform import ParameterTransform
from galmeasure.parameters import SERSIC

__all__ = ["conditioned_chunk"]

_POSITIVE = SERSIC.indices("flux", "n", "r_eff")


def conditioned_chunk(
    transform: ParameterTransform, chunk: EncodedChunk, given: Tensor, names: Iterable[str]
) -> EncodedChunk:
    """Condition the summary of a chunk on known parameters.

    Parameters
    ----------
    transform : ParameterTransform
        Coordinates of the network.
    chunk : EncodedChunk
        Rows with their summary.
    given : Tensor
        Parameters in the pixels of the stamps, shape ``(P, 7)``; only the columns of ``names`` are used.
    names : iterable of str
        Parameters that are known.

    Returns
    -------
    EncodedChunk
        The known parameters have the given values and no error; the others are those of the Gaussian with the
        summary's mean and covariance, in the coordinates of the network, given the known ones.
    """
    held = sorted(SERSIC.index(name) for name in names)
    free = [column for column in range(given.shape[1]) if column not in held]
    summary, held_values = chunk.summary, chunk.window.from_stamp(given)
    mean = summary.mean.double()
    values, covariance = conditional_gaussian(
        transform, mean, summary.covariance.double(), chunk.context.flux_scale.double(), held_values, tuple(held)
    )
    quantiles = _moved(summary, mean, values, covariance, free)
    quantiles[:, :, held] = held_values[:, None, held]
    return replace(chunk, summary=PosteriorSummary(values, covariance, quantiles))


def _moved(summary, mean, values, covariance, free):
    """Quantiles about new means, narrowed as the errors are; those of positive parameters in the logarithm."""
    plain_sigma = summary.covariance.double().diagonal(dim1=1, dim2=2).sqrt()
    sigma = covariance.diagonal(dim1=1, dim2=2).clamp_min(0.0).sqrt()
    quantiles = summary.quantiles.double()
    moved = quantiles.clone()
    for column in free:
        plain, middle, centre = quantiles[:, :, column], mean[:, column, None], values[:, column, None]
        if column in _POSITIVE:
            ratio = (sigma[:, column, None] / centre) / (plain_sigma[:, column, None] / middle)
            moved[:, :, column] = centre * (plain / middle).clamp_min(1e-12) ** ratio.nan_to_num(1.0)
        else:
            moved[:, :, column] = centre + (plain - middle) * (sigma / plain_sigma)[:, column, None]
    return moved
