"""Views of stamps for encoders, in one pass over the pixels of each, compiled."""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from galmeasure.utils.compiled import FAST_MATH, compile_loop
from galmeasure.utils.compiled_math import fast_log

__all__ = ["fill_views"]

_F = np.float32
_ZERO, _ONE, _TWO, _QUARTER = _F(0.0), _F(1.0), _F(2.0), _F(0.25)
_LARGEST = _F(1e18)  # its square is finite


@njit(fastmath=FAST_MATH, error_model="numpy")
def _fill_asinh(values, factor, divisors, out):
    """Fill the inverse hyperbolic sine of values times a factor over divisors; what is no number stays so."""
    for number in range(len(out)):
        out[number] = factor * values[number] / divisors[number]
    for number in range(len(out)):
        size = abs(out[number])
        size = _LARGEST if size > _LARGEST else size
        size = fast_log(size + math.sqrt(size * size + _ONE))
        out[number] = -size if out[number] < _ZERO else size


@njit(fastmath=FAST_MATH, error_model="numpy")
def _fill_channels(values, fraction, error, noise_gain, amplitude, lines):
    """Fill a row of the four channels."""
    over_noise, over_amplitude, good, log_error = lines
    _fill_asinh(values, noise_gain, error, over_noise)
    _fill_asinh(values, _ONE, amplitude, over_amplitude)
    for column in range(len(good)):
        good[column] = fraction[column]
    for column in range(len(good)):
        log_error[column] = fast_log(error[column])


@njit(fastmath=FAST_MATH, error_model="numpy")
def _fill_means(first, second, out):
    """Fill means of 2 x 2 numbers of two rows."""
    for column in range(len(out)):
        upper, lower = first[2 * column] + second[2 * column], first[2 * column + 1] + second[2 * column + 1]
        out[column] = (upper + lower) * _QUARTER


@compile_loop(
    "void(float32[:, :, ::1], float32[:, :, ::1], float32[:, :, :], float32[::1], float32[:, :, :, ::1],"
    "float32[:, :, :, ::1])"
)
def fill_views(
    image: NDArray, fraction: NDArray, error: NDArray, amplitude: NDArray, near: NDArray, far: NDArray
) -> None:
    """Write the central pixels of stamps, and the whole of them in blocks of 2 x 2, in four channels.

    Parameters
    ----------
    image, fraction, error : ndarray
        Stamps without bad pixels, 1 where a pixel was good, and noise, shape ``(B, side, side)``.
    amplitude : ndarray
        Brightness of the galaxies, shape ``(B,)``.
    near, far : ndarray
        Results: pixels over noise and over the amplitude (both asinh), fraction of good pixels and log of the noise,
        shape ``(B, 4, side / 2, side / 2)``.
    """
    half = near.shape[2]
    start, end = half // 2, half // 2 + half
    values, good, noise, of_view = np.empty((4, half), np.float32)
    line, other = np.empty((2, 2 * half), np.float32)
    for galaxy in range(len(image)):
        of_view[:] = amplitude[galaxy]
        for y in range(half):
            for x in range(half):
                noise[x] = error[galaxy, start + y, start + x]
            lines = near[galaxy, 0, y], near[galaxy, 1, y], near[galaxy, 2, y], near[galaxy, 3, y]
            row, of_row = image[galaxy, start + y, start:end], fraction[galaxy, start + y, start:end]
            _fill_channels(row, of_row, noise, _ONE, of_view, lines)
            for x in range(2 * half):
                line[x], other[x] = error[galaxy, 2 * y, x], error[galaxy, 2 * y + 1, x]
            _fill_means(line, other, noise)
            _fill_means(image[galaxy, 2 * y], image[galaxy, 2 * y + 1], values)
            _fill_means(fraction[galaxy, 2 * y], fraction[galaxy, 2 * y + 1], good)
            lines = far[galaxy, 0, y], far[galaxy, 1, y], far[galaxy, 2, y], far[galaxy, 3, y]
            _fill_channels(values, good, noise, _TWO, of_view, lines)
