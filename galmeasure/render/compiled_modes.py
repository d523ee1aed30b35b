"""Parts of compiled loops over a list of wavenumbers: tables of profiles, and phases of centres."""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from galmeasure.render.modes import COARSE_STEP
from galmeasure.render.profiles import TABLE_LOG_K
from galmeasure.utils.compiled import FAST_MATH
from galmeasure.utils.compiled_math import fast_log

__all__ = ["blend_rows", "fill_phases", "fill_places", "fill_slopes", "fill_turned", "fill_values", "fill_waves"]

_F = np.float32
_ZERO, _TWO, _THREE = _F(0.0), _F(2.0), _F(3.0)
_SLOPE, _OFFSET = _F(0.5 / COARSE_STEP), _F(float(TABLE_LOG_K[0]) / COARSE_STEP)
_BEFORE_END = _F(0.0001)


@njit(fastmath=FAST_MATH, error_model="numpy")
def blend_rows(table: NDArray, first: int, weights: NDArray, pieces: NDArray) -> None:
    """Write a weighted sum of four rows of a table.

    Parameters
    ----------
    table : ndarray
        Polynomial pieces of the transform in log k, shape ``(rows, 4 P)``.
    first : int
        First of the four rows.
    weights : ndarray
        Weights of the rows, shape ``(4,)``.
    pieces : ndarray
        Result, shape ``(4 P,)``.
    """
    first = min(max(first, 0), len(table) - 4)  # no memory beyond the table is read
    w0, w1, w2, w3 = weights[0], weights[1], weights[2], weights[3]
    t0, t1, t2, t3 = table[first], table[first + 1], table[first + 2], table[first + 3]
    for number in range(len(pieces)):
        pieces[number] = w0 * t0[number] + w1 * t1[number] + w2 * t2[number] + w3 * t3[number]


@njit(fastmath=FAST_MATH, error_model="numpy")
def fill_places(
    forms: NDArray, form: NDArray, least: float, n_pieces: int, kappa2: NDArray, fraction: NDArray, index: NDArray
) -> None:
    """Write the places of wavenumbers in a profile's table.

    Parameters
    ----------
    forms : ndarray
        Quadratic forms of the wavenumbers, shape ``(3, K)``.
    form : ndarray
        Coefficients of ``kappa**2``, shape ``(3,)``.
    least : float
        Smallest ``kappa**2`` that is told from zero.
    n_pieces : int
        Number of polynomial pieces.
    kappa2, fraction, index : ndarray
        Results: ``kappa**2``, pieces and fractions along them, shape ``(K,)``.
    """
    a, b, c = form[0], form[1], form[2]
    plus, minus, cross = forms[0], forms[1], forms[2]
    last = _F(n_pieces) - _BEFORE_END
    for mode in range(len(index)):
        square = a * plus[mode] + b * minus[mode] + c * cross[mode]
        kappa2[mode] = square if square > least else least
    for mode in range(len(index)):
        place = fast_log(kappa2[mode]) * _SLOPE - _OFFSET
        place = place if place > _ZERO else _ZERO  # not a number counts as zero: what follows is an index
        fraction[mode] = place if place < last else last
    for mode in range(len(index)):
        index[mode] = np.int32(fraction[mode])
        fraction[mode] -= _F(index[mode])


@njit(fastmath=FAST_MATH, error_model="numpy")
def fill_values(pieces: NDArray, fraction: NDArray, index: NDArray, value: NDArray) -> None:
    """Write polynomials of a profile's table at some places, all of shape ``(K,)`` but the pieces."""
    for mode in range(len(index)):
        start, t = 4 * index[mode], fraction[mode]
        value[mode] = pieces[start] + t * (pieces[start + 1] + t * (pieces[start + 2] + t * pieces[start + 3]))


@njit(fastmath=FAST_MATH, error_model="numpy")
def fill_slopes(pieces: NDArray, fraction: NDArray, index: NDArray, kappa2: NDArray, slope: NDArray) -> None:
    """Write derivatives of such polynomials by ``kappa**2``, all of shape ``(K,)`` but the pieces."""
    for mode in range(len(index)):
        start, t = 4 * index[mode], fraction[mode]
        slope[mode] = pieces[start + 1] + t * (_TWO * pieces[start + 2] + t * (_THREE * pieces[start + 3]))
    for mode in range(len(index)):
        slope[mode] *= _SLOPE / kappa2[mode]


@njit(error_model="numpy")
def fill_waves(step: float, offset: float, cosine: NDArray, sine: NDArray) -> None:
    """Write cosine and sine of the multiples of an angle, from zero on.

    Parameters
    ----------
    step : float
        Wavenumber of order one.
    offset : float
        Distance by which the wavenumbers are multiplied.
    cosine, sine : ndarray
        Results by order, single precision; powers of one number in double precision, which lose nothing that matters.
    """
    c1, s1 = math.cos(step * offset), math.sin(step * offset)
    c, s = 1.0, 0.0
    for order in range(len(cosine)):
        cosine[order], sine[order] = c, s
        c, s = c * c1 - s * s1, c * s1 + s * c1


@njit(fastmath=FAST_MATH, error_model="numpy")
def _turn_wave(of_cosine, of_sine, cosine, sine, out):
    for mode in range(len(out)):
        out[mode] = of_cosine * cosine[mode] + of_sine * sine[mode]


@njit(fastmath=FAST_MATH, error_model="numpy")
def fill_phases(lines: NDArray, waves: tuple[NDArray, NDArray, NDArray, NDArray], out: NDArray) -> None:
    """Write cosines and sines of the phases of all wavenumbers.

    Parameters
    ----------
    lines : ndarray
        Wavenumbers that lie side by side: `galmeasure.render.modes.Modes.lines`.
    waves : tuple of ndarray
        Cosines and sines by order along y, and along x, from `fill_waves`.
    out : ndarray
        Result, shape ``(2, K)``; not written where wavenumbers count nothing.
    """
    cos_y, sin_y, cos_x, sin_x = waves
    for line in range(len(lines)):
        start, count, order, column = lines[line, 0], lines[line, 1], lines[line, 2], lines[line, 3]
        row_cos, row_sin = cos_y[abs(order)], sin_y[abs(order)]
        if order < 0:
            row_sin = -row_sin
        cosine, sine = cos_x[column : column + count], sin_x[column : column + count]
        _turn_wave(row_cos, -row_sin, cosine, sine, out[0, start : start + count])
        _turn_wave(row_sin, row_cos, cosine, sine, out[1, start : start + count])


@njit(fastmath=FAST_MATH, error_model="numpy")
def _turn(value, of_cosine, of_sine, cosine, sine, out):
    for mode in range(len(out)):
        out[mode] = value[mode] * (of_cosine * cosine[mode] + of_sine * sine[mode])


@njit(fastmath=FAST_MATH, error_model="numpy")
def fill_turned(lines: NDArray, waves: tuple[NDArray, NDArray, NDArray, NDArray], value: NDArray, out: NDArray) -> None:
    """Write products of values with cosines and sines of the phases of wavenumbers in full lines.

    Parameters
    ----------
    lines : ndarray
        Full lines, see `galmeasure.render.modes.modes_of_band`.
    waves : tuple of ndarray
        Cosines and sines by order along y, and along x, from `fill_waves`.
    value : ndarray
        Values by wavenumber, shape ``(K,)``.
    out : ndarray
        Result, shape ``(2, K)``; not written where the last cache line is filled.
    """
    cos_y, sin_y, cos_x, sin_x = waves
    for line in range(len(lines)):
        start, count, order = lines[line, 0], lines[line, 1], lines[line, 2]
        cosine, sine = cos_y[abs(order)], sin_y[abs(order)]
        if order < 0:
            sine = -sine
        of_line = value[start : start + count]
        _turn(of_line, cosine, -sine, cos_x, sin_x, out[0, start : start + count])
        _turn(of_line, sine, cosine, cos_x, sin_x, out[1, start : start + count])
