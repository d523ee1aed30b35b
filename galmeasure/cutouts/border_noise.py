"""Noise of a stack of cutouts: medians over the good pixels, and the estimate from the border."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from galmeasure.utils.compiled import compiled_module

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["FRAME_WIDTH", "border_noise", "masked_median"]

FRAME_WIDTH = 2
"""Width in pixels of the border from which the noise is estimated."""

_MIN_FRAME_PIXELS = 8
_MAD_TO_SIGMA = 1.482602218505602
_CLIP_SIGMA = 4.0
_N_CLIPS = 3
_FEW_BAD = 1 / 16  # of the values: rows with more are sorted, as partition is slow where many values are equal


def masked_median(values: npt.NDArray[np.float64], good: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Compute the median of the good values of each row.

    Parameters
    ----------
    values : ndarray, shape (B, P)
        Values, which are not modified.
    good : ndarray of bool, shape (B, P)
        True for values that count.

    Returns
    -------
    median : ndarray, shape (B,)
        The median, NaN for rows with no good value.
    """
    loops = compiled_module("galmeasure.utils.compiled_medians")
    if loops is not None and values.dtype in (np.float32, np.float64):
        median = np.empty(len(values))
        loops.masked_medians(values, good, median)
        return median
    n_bad = values.shape[1] - np.count_nonzero(good, axis=1)
    is_sorted = n_bad > _FEW_BAD * values.shape[1]
    if is_sorted.all():
        return _sorted_median(values, good)
    if not is_sorted.any():
        return _partitioned_median(values, good, n_bad)
    median = np.empty(len(values))
    median[is_sorted] = _sorted_median(values[is_sorted], good[is_sorted])
    median[~is_sorted] = _partitioned_median(values[~is_sorted], good[~is_sorted], n_bad[~is_sorted])
    return median


def _sorted_median(values, good):
    """Median of the good values of each row, which are sorted."""
    count = np.count_nonzero(good, axis=1)
    ordered = values.copy()
    np.copyto(ordered, np.inf, where=~good)
    ordered.sort(axis=1)
    rows, last = np.arange(len(values)), values.shape[1] - 1
    low, high = np.clip((count - 1) // 2, 0, last), np.clip(count // 2, 0, last)
    return np.where(count > 0, _mean(ordered[rows, low], ordered[rows, high]), np.nan)


def _partitioned_median(values, good, n_bad):
    """The same, of rows with few bad values: every other one goes to either end, and the median stays in the middle."""
    middle = values.shape[1] // 2
    ordered = values.copy(order="C")
    if n_bad.any():
        bad = np.flatnonzero(~good)
        order = np.arange(len(bad)) - np.repeat(np.cumsum(n_bad) - n_bad, n_bad)
        ordered.reshape(-1)[bad] = np.where(order % 2 == 0, np.inf, -np.inf)
    ordered.partition(middle, axis=1)
    upper = ordered[:, middle]
    lower = ordered[:, :middle].max(axis=1) if middle else upper
    n_good = values.shape[1] - n_bad
    low, high = (np.where(n_bad // 2 + rank == middle, upper, lower) for rank in ((n_good - 1) // 2, n_good // 2))
    return _mean(low, high)


def _mean(low, high):
    with np.errstate(over="ignore", invalid="ignore"):
        return 0.5 * low.astype(np.float64) + 0.5 * high.astype(np.float64)


def border_noise(
    image: npt.NDArray[np.float64], good: npt.NDArray[np.bool_], shape: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Estimate the Gaussian noise of each cutout from its border, by the clipped median absolute deviation.

    Parameters
    ----------
    image : ndarray, shape (B, ny, nx)
        Pixel values of the cutouts.
    good : ndarray of bool, shape (B, ny, nx)
        Pixels that may be used.
    shape : ndarray of int, shape (B, 2)
        True ny, nx of each cutout; pixels beyond are padding.

    Returns
    -------
    sigma : ndarray, shape (B,)
        Standard deviation, NaN where the border is constant or has too few good pixels.
    """
    flat = image.reshape(len(image), -1)
    flat_good = good.reshape(len(image), -1)
    everywhere = np.arange(flat.shape[1])
    if (shape == image.shape[1:]).all():
        columns, use = np.flatnonzero(_frame(*image.shape[1:])), flat_good
    else:
        ny, nx = image.shape[1:]
        y, x = np.arange(ny)[None, :, None], np.arange(nx)[None, None, :]
        height, width = shape[:, 0, None, None], shape[:, 1, None, None]
        inner = (y >= FRAME_WIDTH) & (y < height - FRAME_WIDTH) & (x >= FRAME_WIDTH) & (x < width - FRAME_WIDTH)
        columns, use = everywhere, flat_good & ~inner.reshape(len(image), -1)
    sigma, n_used = _clipped_mad(flat, use, columns)
    few = n_used < _MIN_FRAME_PIXELS
    if few.any():
        of_few, n_used = _clipped_mad(flat[few], flat_good[few], everywhere)
        sigma[few] = np.where(n_used < _MIN_FRAME_PIXELS, np.nan, of_few)
    return sigma


def _frame(ny, nx):
    """Boolean (ny, nx), True in the border."""
    frame = np.ones((ny, nx), dtype=bool)
    frame[FRAME_WIDTH : ny - FRAME_WIDTH, FRAME_WIDTH : nx - FRAME_WIDTH] = False
    return frame


def _clipped_mad(values, good, columns):
    """Standard deviation (B,) from the median absolute deviation, with outliers clipped, and number of good values.

    Only some columns of ``values`` (B, P) are looked at.
    """
    loops = compiled_module("galmeasure.cutouts.compiled")
    if loops is not None and values.dtype in (np.float32, np.float64):
        sigma, n_good = np.empty(len(values)), np.empty(len(values), dtype=np.int64)
        values, good = np.ascontiguousarray(values), np.ascontiguousarray(good).view(np.uint8)
        loops.clipped_deviations(values, good, columns, _N_CLIPS, _CLIP_SIGMA, _MAD_TO_SIGMA, sigma, n_good)
        return np.where(np.isfinite(sigma) & (sigma > 0), sigma, np.nan), n_good
    values, good = values[:, columns], good[:, columns]
    n_good = np.count_nonzero(good, axis=1)
    values = np.where(good, values, 0.0).astype(np.float64)
    use = good
    for _ in range(_N_CLIPS):
        median = masked_median(values, use)
        with np.errstate(all="ignore"):
            deviation = np.abs(values - median[:, None])
            sigma = _MAD_TO_SIGMA * masked_median(deviation, use)
            clipped = good & (deviation <= _CLIP_SIGMA * sigma[:, None])
        if (clipped == use).all():
            break
        use = clipped
    return np.where(np.isfinite(sigma) & (sigma > 0), sigma, np.nan), n_good
