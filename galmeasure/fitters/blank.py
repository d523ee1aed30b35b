"""Stamps without anything to measure: all their good pixels have one value."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from galmeasure.cutouts.batches import CutoutBatch
from galmeasure.flags import Flag

__all__ = ["fail_blank", "flag_unknown_errors"]


def fail_blank(batch: CutoutBatch) -> CutoutBatch:
    """Batch whose blank stamps fail.

    Parameters
    ----------
    batch : CutoutBatch
        Batch with or without blank stamps.

    Returns
    -------
    CutoutBatch
        The same; or, where good pixels of a stamp are all equal, a copy in which it has no good pixel and the bit
        ``FAILED``: zeros with a given error are a gap of the image and no galaxy of flux 0.
    """
    high, low = batch.image.max(axis=(1, 2)), batch.image.min(axis=(1, 2))
    blank = (high == low) | (high == 0) | (low == 0)  # bad pixels are 0: no other stamp can be one of equal pixels
    for row in np.flatnonzero(blank):
        values = batch.image[row][batch.good[row]]
        blank[row] = len(values) > 0 and values.min() == values.max()
    if not blank.any():
        return batch
    flags = batch.flags | blank * int(Flag.FAILED)
    good = batch.good & ~blank[:, None, None]
    return replace(batch, flags=flags, good=good, image=np.where(good, batch.image, np.float32(0.0)))


def flag_unknown_errors(values: NDArray[np.float64], covariance: NDArray[np.float64], flags: NDArray[np.int64]) -> None:
    """Set the bit ``NOT_CONVERGED`` in ``flags``, in place, where there are values and an error is not finite.

    Parameters
    ----------
    values : ndarray
        Parameters, shape ``(B, 7)``.
    covariance : ndarray
        Covariance matrices of the parameters, shape ``(B, 7, 7)``.
    flags : ndarray of int64
        Bits of each row, shape ``(B,)``.
    """
    is_measured = np.isfinite(values).all(axis=1)
    has_errors = np.isfinite(np.diagonal(covariance, axis1=1, axis2=2)).all(axis=1)
    flags[is_measured & ~has_errors] |= Flag.NOT_CONVERGED
