"""Galaxies that are not in the middle of their stamps: where they are."""

import numpy as np
from scipy.ndimage import gaussian_filter, maximum_filter

__all__ = ["centre_shifts"]

_SMOOTHING = 2.0  # sigma of the filter, pixels
_SIGNIFICANT = 5.0  # signal-to-noise ratio of the filtered image
_NEIGHBOURHOOD = 5  # side within which a maximum is one, pixels


def centre_shifts(batch, rows):
    """Find the source nearest to the middle of each stamp.

    Parameters
    ----------
    batch : CutoutBatch
        Cutouts in units of their noise.
    rows : ndarray of int64
        Positions in the batch, ``K`` of them.

    Returns
    -------
    ndarray of int64
        y, x of the source from the middle of the stamp, to a pixel, shape ``(K, 2)``; 0 where nothing is significant.

    Notes
    -----
    A source is a local maximum, of a signal-to-noise ratio of at least 5, of the image filtered with a Gaussian of
    2 pixels.
    """
    return np.array([_shift(batch, row) for row in rows], dtype=np.int64).reshape(-1, 2)


def _shift(batch, row):
    ny, nx = batch.shape[row]
    good = batch.good[row, :ny, :nx]
    error = batch.error[row if len(batch.error) > 1 else 0]
    error = np.broadcast_to(error[:ny, :nx] if error.shape[0] > 1 else error, (ny, nx))
    weight = np.where(good, 1.0 / error.astype(np.float64) ** 2, 0.0)
    signal = gaussian_filter(np.where(good, batch.image[row, :ny, :nx], 0.0) * weight, _SMOOTHING, mode="constant")
    # the filter's squared kernel is a kernel of width sigma / sqrt(2), times 1 / (4 pi sigma^2)
    power = gaussian_filter(weight, _SMOOTHING / np.sqrt(2.0), mode="constant") / (4.0 * np.pi * _SMOOTHING**2)
    ratio = signal / np.sqrt(np.maximum(power, 1e-30))
    peak = (ratio == maximum_filter(ratio, _NEIGHBOURHOOD)) & (ratio > _SIGNIFICANT)
    y, x = np.nonzero(peak)
    if not len(y):
        return 0, 0
    away = np.stack([y - (ny - 1) / 2.0, x - (nx - 1) / 2.0], 1)
    nearest = away[np.hypot(*away.T).argmin()]
    return tuple(np.trunc(nearest + 0.25 * np.sign(nearest)).astype(int))
