"""Statistics of residuals in one pass for each stamp, compiled."""

import math

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from galmeasure.utils.compiled import FAST_MATH, compile_loop

__all__ = ["residual_statistics"]

_F = np.float32
_ZERO, _ONE = _F(0.0), _F(1.0)
_PIXELS = types.Array(types.float32, 3, "C", readonly=True)
_FLAGS = types.Array(types.boolean, 3, "C", readonly=True)
_COLUMNS = types.Array(types.float32, 2, "C", readonly=True)
_N_SCALES = 3


@njit(fastmath=FAST_MATH, error_model="numpy")
def _sum_fours(image, height, width, step, out):
    """Fill sums of 2 x 2 neighbours of every ``step``-th pixel of an image; how many rows and columns there are."""
    rows, columns = (height + step - 1) // step - 1, (width + step - 1) // step - 1
    for y in range(rows):
        upper, lower = image[y * step], image[(y + 1) * step]
        for x in range(columns):
            out[y, x] = upper[x * step] + upper[(x + 1) * step] + lower[x * step] + lower[(x + 1) * step]
    return rows, columns


@njit(fastmath=FAST_MATH, error_model="numpy")
def _largest_mean(sums, numbers, rows, columns):
    """Largest mean, in units of its noise, and how many means there are."""
    largest, count = _ZERO, _ZERO
    for y in range(rows):
        of_sums, of_numbers = sums[y], numbers[y]
        for x in range(columns):
            number = of_numbers[x]
            largest = max(largest, abs(of_sums[x]) / math.sqrt(max(number, _ONE)))
            count += _ONE if number > _ZERO else _ZERO
    return largest, count


@njit(error_model="numpy")
def _significance(largest, number):
    return _F(0.5) * largest * largest - _F(math.log(max(number, _ONE)))


@njit(error_model="numpy")
def _excess(total, number):
    """Chi-squared of pixels, less its mean, over its standard deviation."""
    return (total - number) / math.sqrt(_F(2.0) * max(number, _ONE))


@njit(fastmath=FAST_MATH, error_model="numpy")
def _zones(residual, good, centre, limits, clip, seen, is_seen):
    """Sums over zones of a stamp, and what is seen of it near the galaxy.

    Returns chi-squared and pixels in the centre, in the wings, of clipped residuals everywhere, and seen pixels and the
    largest and smallest residual there.
    """
    height, width = residual.shape
    inner, outer, reach = limits
    in_centre, n_centre, in_wings, n_wings, clipped, n_good = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
    n_seen, highest, lowest = _ZERO, _ZERO, _ZERO
    for y in range(height):
        dy = _F(y) - centre[1]
        of_y, line, is_good, of_seen, of_is_seen = dy * dy, residual[y], good[y], seen[y], is_seen[y]
        for x in range(width):
            dx = _F(x) - centre[0]
            radius, value = of_y + dx * dx, line[x]
            counts = _ONE if is_good[x] else _ZERO
            square = value * value
            first = counts if radius < inner else _ZERO
            second = (counts if radius < outer else _ZERO) - first
            near = counts if radius < reach else _ZERO
            in_centre += first * square
            n_centre += first
            in_wings += second * square
            n_wings += second
            clipped += min(square, clip)
            n_good += counts
            n_seen += near
            of_seen[x], of_is_seen[x] = near * value, near
            highest, lowest = max(highest, near * value), min(lowest, near * value)
    return in_centre, n_centre, in_wings, n_wings, clipped, n_good, n_seen, highest, lowest


@compile_loop(types.void(_PIXELS, _FLAGS, _COLUMNS, _COLUMNS, *[types.float32] * 3, types.Array(types.float32, 2, "C")))
def residual_statistics(
    residual: NDArray,
    good: NDArray,
    centre: NDArray,
    limits: NDArray,
    clip: float,
    mean: float,
    variance: float,
    out: NDArray,
) -> None:
    """Write the statistics of residuals, as `galmeasure.ood.residuals.residual_features` defines them.

    Parameters
    ----------
    residual, good : ndarray
        Image minus model over the noise, 0 where bad, and pixels that count, shape ``(B, ny, nx)``.
    centre, limits : ndarray
        Centres x, y of the galaxies, shape ``(B, 2)``, and squared radii of the centre, of the wings, and within which
        single places are looked at, shape ``(B, 3)``.
    clip, mean, variance : float
        Largest square that counts whole in the scatter; its mean and variance if residuals are noise.
    out : ndarray
        Result, shape ``(B, 9)``.
    """
    _, height, width = residual.shape
    sums, numbers = np.empty((2, height, width), np.float32), np.empty((2, height, width), np.float32)
    for row in range(len(residual)):
        found = _zones(residual[row], good[row], centre[row], limits[row], clip, sums[0], numbers[0])
        in_centre, n_centre, in_wings, n_wings, clipped, n_good, n_seen, highest, lowest = found
        spread = (clipped - mean * n_good) / math.sqrt(variance * max(n_good, _ONE))
        out[row, 0], out[row, 1] = _excess(in_centre, n_centre), _excess(in_wings, n_wings)
        out[row, 2], out[row, 3] = spread, -spread
        out[row, 4] = _significance(max(highest, -lowest), n_seen)
        out[row, 5] = _significance(-lowest, n_seen)
        rows, columns, step = height, width, 1
        for scale in range(_N_SCALES):
            old, new = scale % 2, 1 - scale % 2
            _sum_fours(numbers[old], rows, columns, step, numbers[new])
            rows, columns = _sum_fours(sums[old], rows, columns, step, sums[new])
            out[row, 6 + scale] = _significance(*_largest_mean(sums[new], numbers[new], rows, columns))
            step = 2
