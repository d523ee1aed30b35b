"""Posteriors given some of the parameters: a Gaussian in the network's coordinates, conditional on them."""

from dataclasses import replace

from galmeasure.networks import PosteriorSummary
from galmeasure.networks.conditional import conditional_gaussian
from galmeasure.parameters import SERSIC

__all__ = ["conditioned_chunk"]

_POSITIVE = SERSIC.indices("flux", "n", "r_eff")


def conditioned_chunk(transform, chunk, given, names):
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
    free = [i for i in range(given.shape[1]) if i not in held]
    summary, known = chunk.summary, chunk.window.from_stamp(given)
    mean = summary.mean.double()
    values, covariance = conditional_gaussian(
        transform, mean, summary.covariance.double(), chunk.context.flux_scale.double(), known, tuple(held)
    )
    quantiles = _moved(summary, mean, values, covariance, free)
    quantiles[:, :, held] = known[:, None, held]
    return replace(chunk, summary=PosteriorSummary(values, covariance, quantiles))


def _moved(summary, mean, values, covariance, free):
    """Quantiles about new means, narrowed as the errors are; those of positive parameters in the logarithm."""
    old = summary.covariance.double().diagonal(dim1=1, dim2=2).sqrt()
    new = covariance.diagonal(dim1=1, dim2=2).clamp_min(0.0).sqrt()
    quantiles = summary.quantiles.double()
    found = quantiles.clone()
    for column in free:
        q, m, v, s, t = quantiles[:, :, column], mean[:, column], values[:, column], old[:, column], new[:, column]
        if column in _POSITIVE:
            shrink = ((t / v) / (s / m)).nan_to_num(1.0)
            found[:, :, column] = v[:, None] * (q / m[:, None]).clamp_min(1e-12) ** shrink[:, None]
        else:
            found[:, :, column] = v[:, None] + (q - m[:, None]) * (t / s)[:, None]
    return found
