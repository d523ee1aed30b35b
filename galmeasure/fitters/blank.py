"""Stamps without anything to measure: all their good pixels have one value."""

from dataclasses import replace

import numpy as np

from galmeasure.flags import Flag

__all__ = ["fail_blank", "flag_unknown_errors"]


def fail_blank(batch):
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


def flag_unknown_errors(part):
    """Set the bit ``NOT_CONVERGED``, in place, where there are values and an error of theirs is not finite."""
    measured = np.isfinite(part.values).all(axis=1)
    known = np.isfinite(np.diagonal(part.covariance, axis1=1, axis2=2)).all(axis=1)
    part.flags[measured & ~known] |= Flag.NOT_CONVERGED
