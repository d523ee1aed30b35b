"""Quality of given models of a batch, rendered as cheaply as is exact enough."""

from functools import partial

import numpy as np
import torch

from galmeasure.fitters.quality import Quality, model_quality, piece_quality
from galmeasure.fitters.rendering import rendering_groups, stamps_at_once
from galmeasure.fitters.tensors import groups

__all__ = ["batch_quality"]


def batch_quality(batch, values, *, psfs=None, device="cpu", crb=False, see=None):
    """Quality of the models of all measurable rows of a batch.

    Parameters
    ----------
    batch : CutoutBatch
        Cutouts in units of their noise.
    values : ndarray
        Parameters, shape ``(B, 7)``.
    psfs : CleanedPSFs, optional
        See `galmeasure.fitters.rendering.rendering_groups`.
    device : str, optional
        Torch device on which models are rendered.
    crb : bool, optional
        Also compute Cramer-Rao bounds, with the PSFs as they were given.
    see : callable, optional
        Called with the residuals of some rows, as `ResidualWatch.see`.

    Returns
    -------
    rows : ndarray of int64
        Positions in the batch.
    quality : Quality
        Of these rows.
    """
    values = torch.from_numpy(values).to(device)
    if crb:
        parts = [(group.rows, model_quality(group.problem, values[group.rows], crb=True))
                 for group in groups(batch, device=device)]  # fmt: skip
        if see is not None:
            list(_quick(batch, values, psfs, device, see))
    else:
        parts = list(_quick(batch, values, psfs, device, see))
    if not parts:
        return np.zeros(0, dtype=np.int64), None
    return np.concatenate([rows for rows, _ in parts]), Quality.join([quality for _, quality in parts])


def _quick(batch, values, psfs, device, see):
    """Yield rows and quality, without derivatives."""
    rows = np.flatnonzero(batch.good.any(axis=(1, 2)))
    size = stamps_at_once(batch.image.shape[1:], device)
    for members, problem in rendering_groups(batch, rows, psfs=psfs, device=device):
        for index in torch.from_numpy(members).to(device).split(size):
            chunk = index.cpu().numpy()
            seen = None if see is None else partial(see, chunk)
            yield chunk, piece_quality(problem, index, values[index], enlarge=False, see=seen)
