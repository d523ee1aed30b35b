"""Pixels of a batch of cutouts, checked and scaled by compiled loops."""

import math

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from galmeasure.utils.compiled import FAST_MATH, compile_loop
from galmeasure.utils.compiled_medians import median_of

__all__ = ["clipped_deviations", "count_good", "mark_finite", "relative_errors", "scale_pixels"]

_F = np.float32
_ZERO, _ONE = _F(0.0), _F(1.0)
_BLOCK = 4096  # pixels that are counted in single precision
_FLAGS = types.Array(types.uint8, 3, "C")
_NUMBERS = types.Array(types.float64, 1, "C")
_COUNTS = types.Array(types.int64, 1, "C")
_SINGLE = types.Array(types.float32, 3, "C")
_STACKS = [types.Array(kind, 3, "C", readonly=True) for kind in (types.float32, types.float64)]


@njit(fastmath=FAST_MATH, error_model="numpy")
def _count_block(good):
    count = _ZERO
    for index in range(len(good)):
        count += _ONE if good[index] else _ZERO
    return count


@njit(error_model="numpy")
def _count(good):
    count = 0
    for start in range(0, len(good), _BLOCK):
        count += np.int64(_count_block(good[start : start + _BLOCK]))
    return count


@compile_loop(types.void(_FLAGS, _COUNTS))
def count_good(good: NDArray, n_good: NDArray) -> None:
    """Write how many pixels count.

    Parameters
    ----------
    good : ndarray of uint8
        1 for pixels that count, 0 for others, shape ``(B, ny, nx)``.
    n_good : ndarray of int
        Result for each row, shape ``(B,)``.
    """
    for row in range(len(good)):
        n_good[row] = _count(good[row].reshape(-1))


@njit(error_model="numpy")
def _mark_finite(values, good):
    infinite = values.dtype.type(np.inf)
    for index in range(len(values)):
        good[index] = 1 if (abs(values[index]) < infinite) & (good[index] != 0) else 0


@compile_loop(*(types.void(stack, _FLAGS) for stack in _STACKS))
def mark_finite(pixels: NDArray, good: NDArray) -> None:
    """Let pixels that are not finite not count.

    Parameters
    ----------
    pixels : ndarray
        Pixel values of the cutouts, shape ``(B, ny, nx)``.
    good : ndarray of uint8
        1 for pixels that count, changed in place, shape ``(B, ny, nx)``.
    """
    for row in range(len(pixels)):
        _mark_finite(pixels[row].reshape(-1), good[row].reshape(-1))


@njit(fastmath=FAST_MATH, error_model="numpy")
def _scale(values, factor, largest, good, out):
    """Write products with a factor; 0 for pixels that do not count, or where they are not below a limit."""
    count = _ZERO
    for index in range(len(values)):
        value = _F(values[index] * factor)
        is_good = (abs(value) < largest) & (good[index] != 0)
        out[index] = value if is_good else _ZERO
        good[index] = 1 if is_good else 0
        count += _ONE if is_good else _ZERO
    return count


@njit(fastmath=FAST_MATH, error_model="numpy")
def _relate(values, unit, low, high, good, out):
    """Write quotients with a unit; 1 for pixels that do not count, or where they are not between two limits."""
    for index in range(len(values)):
        value = _F(values[index] / unit)
        is_good = (value > low) & (value < high) & (good[index] != 0)
        out[index] = value if is_good else _ONE
        good[index] = 1 if is_good else 0


@compile_loop(*(types.void(stack, _NUMBERS, types.float64, _FLAGS, _SINGLE, _COUNTS) for stack in _STACKS))
def scale_pixels(
    pixels: NDArray, scale: NDArray, largest: float, good: NDArray, image: NDArray, n_good: NDArray
) -> None:
    """Write pixels in units of a scale, 0 where they do not count.

    Parameters
    ----------
    pixels : ndarray
        Pixel values of the cutouts, shape ``(B, ny, nx)``.
    scale : ndarray
        Unit of each cutout, shape ``(B,)``; not finite for those that have none.
    largest : float
        Absolute values from which pixels do not count.
    good : ndarray of uint8
        1 for pixels that count, changed in place, shape ``(B, ny, nx)``.
    image : ndarray
        Result in single precision, shape ``(B, ny, nx)``.
    n_good : ndarray of int
        Result: number of pixels that count, shape ``(B,)``.
    """
    limit = _F(largest)
    for row in range(len(pixels)):
        factor = 1.0 / scale[row] if math.isfinite(scale[row]) else 0.0
        values, of_row, out = pixels[row].reshape(-1), good[row].reshape(-1), image[row].reshape(-1)
        count = 0
        for start in range(0, len(values), _BLOCK):
            end = start + _BLOCK
            count += np.int64(_scale(values[start:end], factor, limit, of_row[start:end], out[start:end]))
        n_good[row] = count


@njit(error_model="numpy")
def _keep_valid(errors, good, kept):
    """Write errors, infinite ones for pixels that do not count or have no valid error, and let these not count."""
    zero, infinite = errors.dtype.type(0.0), errors.dtype.type(np.inf)
    for index in range(len(errors)):
        is_valid = (errors[index] > zero) & (errors[index] < infinite) & (good[index] != 0)
        kept[index] = errors[index] if is_valid else infinite
        good[index] = 1 if is_valid else 0


@compile_loop(*(types.void(stack, types.float64, _FLAGS, _SINGLE, _NUMBERS) for stack in _STACKS))
def relative_errors(errors: NDArray, largest: float, good: NDArray, relative: NDArray, median: NDArray) -> None:
    """Write error maps over their medians, 1 where they are not valid.

    Parameters
    ----------
    errors : ndarray
        Error maps, shape ``(B, ny, nx)``.
    largest : float
        Ratio to the median, or its inverse, from which errors are not valid.
    good : ndarray of uint8
        1 for pixels that count, changed in place to those with a valid error too, shape ``(B, ny, nx)``.
    relative : ndarray
        Result in single precision, shape ``(B, ny, nx)``.
    median : ndarray
        Result: medians of the errors that are finite and positive, shape ``(B,)``.
    """
    _, ny, nx = errors.shape
    kept, room = np.empty(ny * nx, errors.dtype), np.empty(ny * nx, errors.dtype)
    for row in range(len(errors)):
        of_row, out, flat = good[row].reshape(-1), relative[row].reshape(-1), errors[row].reshape(-1)
        _keep_valid(flat, of_row, kept)
        median[row] = median_of(kept, _count(of_row), room, len(kept))
        _relate(flat, median[row], _F(1.0 / largest), _F(largest), of_row, out)


@njit(error_model="numpy")
def _keep_used(values, use, kept):
    """Write the values that are used; how many they are."""
    count = np.uint64(0)
    for index in range(len(values)):
        kept[count] = values[index]
        count += np.uint64(use[index])
    return np.int64(count)


@njit(error_model="numpy")
def _deviate(values, median, out):
    for index in range(len(values)):
        out[index] = abs(values[index] - median)


@njit(error_model="numpy")
def _use_small(sizes, limit, use):
    """Use what is up to a limit; whether that changes anything."""
    n_changes = 0
    for index in range(len(sizes)):
        is_used = np.uint8(1) if sizes[index] <= limit else np.uint8(0)
        n_changes += is_used != use[index]
        use[index] = is_used
    return n_changes > 0


@njit(error_model="numpy")
def _gather(values, good, columns, out):
    """Write the values of columns that count; how many they are."""
    count = np.uint64(0)
    for index in range(len(columns)):
        out[count] = values[columns[index]]
        count += np.uint64(good[columns[index]])
    return np.int64(count)


@compile_loop(
    *(
        types.void(
            types.Array(kind, 2, "C", readonly=True),
            types.Array(types.uint8, 2, "C", readonly=True),
            types.Array(types.int64, 1, "C", readonly=True),
            types.int64,
            types.float64,
            types.float64,
            _NUMBERS,
            _COUNTS,
        )
        for kind in (types.float32, types.float64)
    )
)
def clipped_deviations(
    values: NDArray,
    good: NDArray,
    columns: NDArray,
    n_clips: int,
    clip: float,
    to_sigma: float,
    out: NDArray,
    n_good: NDArray,
) -> None:
    """Write standard deviations from the median absolute deviation, with outliers clipped.

    Parameters
    ----------
    values : ndarray
        Values of each row, shape ``(B, P)``.
    good : ndarray of uint8
        1 for values that count, 0 for others, shape ``(B, P)``.
    columns : ndarray
        Numbers of the values that are looked at, shape ``(C,)``.
    n_clips : int
        Largest number of rounds of clipping.
    clip : float
        Deviation, in standard deviations, beyond which a value is clipped.
    to_sigma : float
        Standard deviation over median absolute deviation.
    out : ndarray
        Result, shape ``(B,)``; not positive or NaN where there is none.
    n_good : ndarray of int
        Result: number of values that are looked at and count, shape ``(B,)``.
    """
    n_columns = len(columns)
    chosen, sizes, kept, room = np.empty(n_columns), np.empty(n_columns), np.empty(n_columns), np.empty(n_columns)
    use = np.empty(n_columns, np.uint8)
    for row in range(len(values)):
        count = _gather(values[row], good[row], columns, chosen)
        use[:] = 1
        sigma = np.nan
        for step in range(2 * n_clips):
            n_kept = _keep_used(chosen[:count] if step % 2 == 0 else sizes[:count], use, kept)
            middle = median_of(kept, n_kept, room, n_kept)
            if step % 2 == 0:
                _deviate(chosen[:count], middle, sizes)
                continue
            sigma = to_sigma * middle
            if not _use_small(sizes[:count], clip * sigma, use):
                break
        out[row], n_good[row] = sigma, count
