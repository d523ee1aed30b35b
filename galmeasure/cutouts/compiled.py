"""Pixels of a batch of cutouts, checked and scaled by compiled loops."""

import math

import numpy as np
from numba import types
from numpy.typing import NDArray

from galmeasure.utils.compiled import compile_loop
from galmeasure.utils.compiled_medians import median_of

__all__ = ["clipped_deviations", "mark_finite", "relative_errors", "scale_pixels"]

_FLAGS = types.Array(types.boolean, 3, "C")
_NUMBERS = types.Array(types.float64, 1, "C")
_STACKS = [types.Array(kind, 3, "C", readonly=True) for kind in (types.float32, types.float64)]


@compile_loop(*(types.void(stack, _FLAGS) for stack in _STACKS))
def mark_finite(pixels: NDArray, good: NDArray) -> None:
    """Let pixels that are not finite not count.

    Parameters
    ----------
    pixels : ndarray
        Pixel values of the cutouts, shape ``(B, ny, nx)``.
    good : ndarray of bool
        Pixels that count, changed in place, shape ``(B, ny, nx)``.
    """
    for row in range(len(pixels)):
        for y in range(pixels.shape[1]):
            for x in range(pixels.shape[2]):
                difference = pixels[row, y, x] - pixels[row, y, x]
                good[row, y, x] &= difference == difference


@compile_loop(
    *(
        types.void(
            stack, _NUMBERS, types.float64, _FLAGS, types.Array(types.float32, 3, "C"), types.Array(types.int64, 1, "C")
        )
        for stack in _STACKS
    )
)
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
    good : ndarray of bool
        Pixels that count, changed in place, shape ``(B, ny, nx)``.
    image : ndarray
        Result in single precision, shape ``(B, ny, nx)``.
    n_good : ndarray of int
        Result: number of pixels that count, shape ``(B,)``.
    """
    limit = np.float32(largest)
    for row in range(len(pixels)):
        factor = 1.0 / scale[row] if math.isfinite(scale[row]) else 0.0
        count = 0
        for y in range(pixels.shape[1]):
            for x in range(pixels.shape[2]):
                value = np.float32(float(pixels[row, y, x]) * factor)
                is_good = good[row, y, x] and abs(value) < limit
                good[row, y, x] = is_good
                image[row, y, x] = value if is_good else np.float32(0.0)
                count += is_good
        n_good[row] = count


@compile_loop(
    *(types.void(stack, types.float64, _FLAGS, types.Array(types.float32, 3, "C"), _NUMBERS) for stack in _STACKS)
)
def relative_errors(errors: NDArray, largest: float, good: NDArray, relative: NDArray, median: NDArray) -> None:
    """Write error maps over their medians, 1 where they are not valid.

    Parameters
    ----------
    errors : ndarray
        Error maps, shape ``(B, ny, nx)``.
    largest : float
        Ratio to the median, or its inverse, from which errors are not valid.
    good : ndarray of bool
        Pixels that count, changed in place to those with a valid error too, shape ``(B, ny, nx)``.
    relative : ndarray
        Result in single precision, shape ``(B, ny, nx)``.
    median : ndarray
        Result: medians of the errors that are finite and positive, shape ``(B,)``.
    """
    _, ny, nx = errors.shape
    chosen = np.empty(ny * nx, errors.dtype)
    room = np.empty(ny * nx, errors.dtype)
    high, low = np.float32(largest), np.float32(1.0 / largest)
    for row in range(len(errors)):
        count = 0
        for y in range(ny):
            for x in range(nx):
                error = errors[row, y, x]
                is_valid = good[row, y, x] and error > 0 and error < np.inf
                good[row, y, x] = is_valid
                chosen[count] = error
                count += is_valid
        median[row] = median_of(chosen, count, room)
        for y in range(ny):
            for x in range(nx):
                ratio = np.float32(float(errors[row, y, x]) / median[row])
                is_valid = good[row, y, x] and ratio < high and ratio > low
                good[row, y, x] = is_valid
                relative[row, y, x] = ratio if is_valid else np.float32(1.0)


@compile_loop(
    *(
        types.void(
            types.Array(kind, 2, "C", readonly=True),
            types.Array(types.boolean, 2, "C", readonly=True),
            types.int64,
            types.float64,
            types.float64,
            _NUMBERS,
        )
        for kind in (types.float32, types.float64)
    )
)
def clipped_deviations(
    values: NDArray, good: NDArray, n_clips: int, clip: float, to_sigma: float, out: NDArray
) -> None:
    """Write standard deviations from the median absolute deviation, with outliers clipped.

    Parameters
    ----------
    values : ndarray
        Values of each row, shape ``(B, P)``.
    good : ndarray of bool
        Values that count, shape ``(B, P)``.
    n_clips : int
        Largest number of rounds of clipping.
    clip : float
        Deviation, in standard deviations, beyond which a value is clipped.
    to_sigma : float
        Standard deviation over median absolute deviation.
    out : ndarray
        Result, shape ``(B,)``; not positive or NaN where there is none.
    """
    n_values = values.shape[1]
    chosen, use = np.empty(n_values), np.empty(n_values, np.bool_)
    room = np.empty(n_values)
    for row in range(len(values)):
        for column in range(n_values):
            use[column] = good[row, column]
        sigma = np.nan
        for _ in range(n_clips):
            count = 0
            for column in range(n_values):
                chosen[count] = values[row, column]
                count += use[column]
            median = median_of(chosen, count, room)
            count = 0
            for column in range(n_values):
                chosen[count] = abs(float(values[row, column]) - median)
                count += use[column]
            sigma = to_sigma * median_of(chosen, count, room)
            is_same = True
            for column in range(n_values):
                is_used = good[row, column] and abs(float(values[row, column]) - median) <= clip * sigma
                is_same &= is_used == use[column]
                use[column] = is_used
            if is_same:
                break
        out[row] = sigma
