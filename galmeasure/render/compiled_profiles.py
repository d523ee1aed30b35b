"""What renderers need of each Sersic profile before they evaluate it anywhere, compiled."""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from galmeasure.utils.compiled import FAST_MATH, compile_loop

__all__ = ["describe_profiles"]

_F = np.float32


@njit(fastmath=FAST_MATH, error_model="numpy")
def _fill_weights(t, step, n, weights):
    """Fill the weights of four cubic B-splines at a fraction of their distance, and their derivatives by n."""
    rest, slope = 1.0 - t, 1.0 / (step * n)
    weights[0, 0], weights[0, 3] = rest * rest * rest / 6.0, t * t * t / 6.0
    weights[0, 1] = (4.0 + t * t * (3.0 * t - 6.0)) / 6.0
    weights[0, 2] = (4.0 + rest * rest * (3.0 * rest - 6.0)) / 6.0
    if len(weights) > 1:
        weights[1, 0], weights[1, 3] = -0.5 * rest * rest * slope, 0.5 * t * t * slope
        weights[1, 1] = 0.5 * t * (3.0 * t - 4.0) * slope
        weights[1, 2] = -0.5 * rest * (3.0 * rest - 4.0) * slope


@compile_loop(
    "void(float32[:], float32[:], float32[:], float32[:], float64, float64, float32[:, ::1], int64[::1],"
    "float32[:, :, ::1], float32[:, ::1], float32[:, :, ::1])"
)
def describe_profiles(
    n: NDArray,
    r_eff: NDArray,
    g1: NDArray,
    g2: NDArray,
    start: float,
    step: float,
    table: NDArray,
    first: NDArray,
    weights: NDArray,
    form: NDArray,
    b_and_amplitude: NDArray,
) -> None:
    """Write where profiles lie in the tables, the forms of their wavenumbers, and ``b_n`` and the log amplitude.

    Parameters
    ----------
    n, r_eff, g1, g2 : ndarray
        Parameters of the profiles, shape ``(B,)``.
    start, step : float
        Logarithm of the Sersic index of the first row of the tables, and between their rows.
    table : ndarray
        ``b_n`` and log amplitude, spline coefficients by row, shape ``(rows, 2)``.
    first : ndarray
        Result: first of the four rows used, shape ``(B,)``.
    weights : ndarray
        Result: weights of these for the value, and for the derivative by n if it has the room, ``(B, 1 or 2, 4)``.
    form : ndarray
        Result: coefficients of ``kappa**2``, shape ``(B, 3)``.
    b_and_amplitude : ndarray
        Result: ``b_n`` and log amplitude, value and perhaps derivative by n, shape ``(B, 1 or 2, 2)``.
    """
    last = len(table) - 4
    for row in range(len(n)):
        position = (math.log(float(n[row])) - start) / step
        if not math.isfinite(position):
            first[row], weights[row], form[row], b_and_amplitude[row] = 0, np.nan, np.nan, np.nan
            continue
        whole = min(max(math.floor(position), 0.0), float(last))
        first[row] = int(whole)
        _fill_weights(position - whole, step, float(n[row]), weights[row])
        for order in range(weights.shape[1]):
            for column in range(2):
                total = 0.0
                for number in range(4):
                    total += float(weights[row, order, number]) * float(table[int(whole) + number, column])
                b_and_amplitude[row, order, column] = total
        along, across = float(g1[row]), float(g2[row])
        square = along * along + across * across
        scale = float(r_eff[row]) ** 2 / (1.0 - square)
        form[row, 0], form[row, 1], form[row, 2] = scale * (1.0 + square), 2.0 * scale * along, 2.0 * scale * across
