"""Posteriors given some of the parameters: a Gaussian in the network's coordinates, conditional on them."""

from dataclasses import replace

import torch

from galmeasure.networks import PosteriorSummary
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
    summary, scale = chunk.summary, chunk.context.flux_scale.double()
    known = chunk.window.from_stamp(given)
    mean = summary.mean.double()
    point = transform.forward(mean, scale)
    target = transform.forward(torch.where(_column_mask(held, mean), known, mean), scale)
    jacobian = transform.jacobian(point, scale)
    inverse = torch.linalg.inv(jacobian)
    covariance = inverse @ summary.covariance.double() @ inverse.mT
    block = covariance[:, held][:, :, held]
    gain = torch.linalg.solve(block, covariance[:, held][:, :, free]).mT
    step = torch.zeros_like(point)
    step[:, held] = (target - point)[:, held]
    step[:, free] = (gain @ step[:, held, None])[..., 0]
    rest = covariance[:, free][:, :, free] - gain @ covariance[:, held][:, :, free]
    values = transform.inverse(point + step, scale)
    values[:, held] = known[:, held]
    new = torch.zeros_like(covariance)
    index = torch.tensor(free, device=mean.device)
    new[:, index[:, None], index] = rest
    jacobian = transform.jacobian(point + step, scale)
    new = jacobian @ new @ jacobian.mT
    new[:, held], new[:, :, held] = 0.0, 0.0
    quantiles = _moved(summary, mean, values, new, free)
    quantiles[:, :, held] = known[:, None, held]
    return replace(chunk, summary=PosteriorSummary(values, new, quantiles))


def _column_mask(columns, like):
    mask = torch.zeros(like.shape[1], dtype=torch.bool, device=like.device)
    mask[columns] = True
    return mask


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
