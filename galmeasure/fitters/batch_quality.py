"""Quality of given models of a batch, rendered as cheaply as is exact enough."""

import numpy as np
import torch
from numpy.typing import NDArray

from galmeasure.fitters.network_psfs import CleanedPSFs
from galmeasure.fitters.quality import Quality, chunk_quality, model_quality
from galmeasure.fitters.rendering import rendering_groups, stamps_at_once
from galmeasure.fitters.tensors import BatchTensors, groups

__all__ = ["batch_quality"]


def batch_quality(
    tensors: BatchTensors,
    values: NDArray[np.float64],
    *,
    psfs: CleanedPSFs | None = None,
    crb: bool = False,
    residuals: bool = False,
) -> tuple[NDArray[np.int64], Quality | None]:
    """Quality of the models of all measurable rows of a batch.

    Parameters
    ----------
    tensors : BatchTensors
        Tensors of the batch.
    values : ndarray
        Parameters in pixels of the stamps, shape ``(B, 7)``.
    psfs : CleanedPSFs, optional
        Cleaned PSFs for images that need it, see `galmeasure.fitters.rendering.rendering_groups`.
    crb : bool, optional
        Also compute Cramer-Rao bounds, with the PSFs as they were given.
    residuals : bool, optional
        Also keep the residuals, which takes as much memory as the stamps; not together with ``crb``.

    Returns
    -------
    rows : ndarray of int64
        Row numbers in the batch.
    quality : Quality or None
        Quality of these rows; None if there are none.
    """
    values = torch.from_numpy(values).to(tensors.device)
    if crb:
        chunks = [(group.rows, model_quality(group.problem, values[group.rows], crb=True)) for group in groups(tensors)]
    else:
        chunks = list(_quick(tensors, values, psfs, residuals))
    if not chunks:
        return np.zeros(0, dtype=np.int64), None
    return np.concatenate([rows for rows, _ in chunks]), Quality.join([quality for _, quality in chunks])


def _quick(tensors, values, psfs, residuals):
    """Yield rows and quality, without derivatives."""
    size = stamps_at_once(tensors.box, tensors.device)
    for members, problem in rendering_groups(tensors, tensors.measurable_rows(), psfs=psfs):
        for index in torch.from_numpy(members).to(tensors.device).split(size):
            yield index.cpu().numpy(), chunk_quality(problem, index, values[index], enlarge=False, residuals=residuals)
