"""Spectra of the model of a galaxy and of its derivatives, compiled."""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from galmeasure.render.profiles import TABLE_LOG_K
from galmeasure.utils.compiled import FAST_MATH
from galmeasure.utils.compiled_math import fast_log

__all__ = ["fill_spectrum", "spectrum_buffers"]

_F = np.float32
_TWO = _F(2.0)

_K_START = float(TABLE_LOG_K[0])
_K_STEP = float(TABLE_LOG_K[1] - TABLE_LOG_K[0])
_SLOPE = _F(0.5 / _K_STEP)
_OFFSET = _F(_K_START / _K_STEP)
_LAST = _F(len(TABLE_LOG_K) - 1.0001)


@njit(fastmath=FAST_MATH, error_model="numpy")
def _lines_of_derivatives(twice_kx, k_y, slope, by_n, carrier, turned, lines):
    """Fill a row of the spectra of derivatives, from the second on."""
    k_y2 = k_y * k_y
    line = lines[1]
    for number in range(len(line)):
        line[number] = by_n[number] * carrier[number]
    line, of_b, of_c = lines[2], lines[3], lines[4]
    for number in range(len(line)):
        k_x = twice_kx[number]
        factor = slope[number] * carrier[number]
        line[number] = (k_x * k_x + k_y2) * factor
        of_b[number] = (k_x * k_x - k_y2) * factor
        of_c[number] = (_TWO * k_y) * k_x * factor
    line, of_x = lines[5], lines[6]
    for number in range(len(line)):
        line[number] = k_y * turned[number]
        of_x[number] = twice_kx[number] * turned[number]


@njit(fastmath=FAST_MATH, error_model="numpy")
def _blend(table, first, weights, start, pieces):
    """Fill four columns of the pieces of a profile with a weighted sum of four rows of the table."""
    row = min(max(first, 0), len(table) - 4)
    w0, w1, w2, w3 = weights
    t0, t1, t2, t3 = table[row], table[row + 1], table[row + 2], table[row + 3]
    for piece in range(len(pieces)):
        for power in range(4):
            pieces[piece, start + power] = (
                w0 * t0[piece, power] + w1 * t1[piece, power] + w2 * t2[piece, power] + w3 * t3[piece, power]
            )


@njit(fastmath=FAST_MATH, error_model="numpy")
def _fill_places(kx, k_y, form, least, n_pieces, factor, fraction, index):
    """Fill pieces and places of a row of wavenumbers, and the factor from slopes in log k to those in ``kappa**2``."""
    a, b, c = form
    of_x2, of_y2, of_x = a + b, (a - b) * k_y * k_y, _TWO * c * k_y
    for column in range(len(kx)):
        factor[column] = max(of_y2 + kx[column] * (of_x + kx[column] * of_x2), least)
    for column in range(len(kx)):
        place = fast_log(factor[column]) * _SLOPE - _OFFSET
        fraction[column] = min(max(place, _F(0.0)), _LAST)
        factor[column] = _SLOPE / factor[column]
    for column in range(len(kx)):
        index[column] = min(max(np.int32(fraction[column]), 0), n_pieces - 1)  # NaN is no number of a piece


@njit(fastmath=FAST_MATH, error_model="numpy")
def _fill_carrier(psf_row, cosine, sine, wave_x, carrier):
    """Fill the transform of the PSF at the galaxy's centre."""
    for column in range(len(psf_row)):
        wave_re, wave_im = wave_x[2 * column], wave_x[2 * column + 1]
        re, im = cosine * wave_re - sine * wave_im, cosine * wave_im + sine * wave_re
        psf_re, psf_im = psf_row[column, 0], psf_row[column, 1]
        carrier[2 * column] = psf_re * re - psf_im * im
        carrier[2 * column + 1] = psf_re * im + psf_im * re


@njit(fastmath=FAST_MATH, error_model="numpy")
def _fill_profile(pieces, fraction, index, factor, is_full, value, slope, by_n):
    """Fill the transform of the profile, and its derivatives by ``kappa**2`` and by the index."""
    for column in range(len(index)):
        i = index[column]
        t = fraction[column] - _F(i)
        height = pieces[i, 0] + t * (pieces[i, 1] + t * (pieces[i, 2] + t * pieces[i, 3]))
        value[2 * column] = value[2 * column + 1] = height
        if is_full:
            height = pieces[i, 4] + t * (pieces[i, 5] + t * (pieces[i, 6] + t * pieces[i, 7]))
            by_n[2 * column] = by_n[2 * column + 1] = height
            height = pieces[i, 1] + t * (_TWO * pieces[i, 2] + t * _F(3.0) * pieces[i, 3])
            slope[2 * column] = slope[2 * column + 1] = height * factor[column]


@njit(fastmath=FAST_MATH, error_model="numpy")
def _fill_lines(pieces, form, least, k_y, phase, psf_row, buffers, lines):
    """Fill a row of the spectra ``(7 or 1, 2 columns)`` of a galaxy.

    Of the buffers, one holds the phases along the row. The phase of the row is a pair of numbers.
    """
    kx, of_columns, index, twice = buffers
    factor, fraction = of_columns[0], of_columns[1]
    twice_kx, wave_x, carrier, value, slope, by_n, turned = (
        twice[0], twice[1], twice[2], twice[3], twice[4], twice[5], twice[6],
    )  # fmt: skip
    is_full = len(lines) > 1
    _fill_places(kx, k_y, form, least, len(pieces), factor, fraction, index)
    _fill_carrier(psf_row, phase[0], phase[1], wave_x, carrier)
    _fill_profile(pieces, fraction, index, factor, is_full, value, slope, by_n)
    line = lines[0]
    for number in range(len(line)):
        line[number] = value[number] * carrier[number]
    if is_full:
        for column in range(len(kx)):
            turned[2 * column], turned[2 * column + 1] = line[2 * column + 1], -line[2 * column]
        _lines_of_derivatives(twice_kx, k_y, slope, by_n, carrier, turned, lines)


@njit(error_model="numpy")
def _alias_columns(n_columns, side_x):
    """Columns to which those at Nyquist and beyond are added, and those to which their conjugates are, or -1."""
    half = side_x // 2
    straight_index, mirrored_index = np.full(n_columns, -1), np.full(n_columns, -1)
    for column in range(half, n_columns):
        alias = column % side_x
        if half < column and alias <= half:
            straight_index[column] = alias
        if alias >= half or alias == 0:
            mirrored_index[column] = (side_x - alias) % side_x
    return straight_index, mirrored_index


@njit(fastmath=FAST_MATH, error_model="numpy")
def _add_row(lines, straight, half, aliases, images):
    """Add a row of spectra to the wavenumbers of pixels, and what lies at Nyquist or beyond to its aliases."""
    straight_index, mirrored_index = aliases
    mirrored = (images.shape[1] - straight) % images.shape[1]
    n_columns = len(straight_index)
    for image in range(len(lines)):
        for number in range(2 * min(n_columns, half + 1)):
            images[image, straight, number] += lines[image, number]
        for column in range(half, n_columns):
            re, im = lines[image, 2 * column], lines[image, 2 * column + 1]
            alias = straight_index[column]
            if alias >= 0:
                images[image, straight, 2 * alias] += re
                images[image, straight, 2 * alias + 1] += im
            alias = mirrored_index[column]
            if alias >= 0:
                images[image, mirrored, 2 * alias] += re
                images[image, mirrored, 2 * alias + 1] -= im


@njit(error_model="numpy")
def spectrum_buffers(table: NDArray, kx: NDArray, side_x: int, n_images: int) -> tuple[NDArray, ...]:
    """Arrays that `fill_spectrum` works in, of a galaxy's profile, of its rows, and where their columns are added.

    Numbers that real and imaginary parts share stand twice in those of rows, as those of the result do.
    """
    n_columns = len(kx)
    twice = np.empty((7, 2 * n_columns), np.float32)
    for column in range(n_columns):
        twice[0, 2 * column] = twice[0, 2 * column + 1] = _F(kx[column])
    of_columns, index = np.empty((2, n_columns), np.float32), np.empty(n_columns, np.int32)
    pieces, lines = np.empty((table.shape[1], 8), np.float32), np.empty((n_images, 2 * n_columns), np.float32)
    return pieces, (kx.astype(np.float32), of_columns, index, twice), lines, _alias_columns(n_columns, side_x)


@njit(error_model="numpy")
def fill_spectrum(table: NDArray, of_galaxy: tuple, of_grid: tuple, buffers: tuple, out: NDArray) -> None:
    """Fill spectra of a galaxy's model and derivatives ``(7 or 1, period in y, 2 columns)``.

    Arguments and results are those of `galmeasure.render.compiled.spectra`, for a single galaxy.
    """
    first, weights, form, position, transform = of_galaxy
    ky, kx, alias_y, side_x, least = of_grid
    pieces, of_rows, lines, aliases = buffers
    for order in range(len(weights)):
        _blend(table, first, weights[order], 4 * order, pieces)
    wave = of_rows[3][1]
    for column in range(len(kx)):
        angle = -position[1] * kx[column]
        wave[2 * column], wave[2 * column + 1] = _F(math.cos(angle)), _F(math.sin(angle))
    out[:] = _F(0.0)
    for row in range(len(ky)):
        angle = -position[0] * ky[row]
        phase = _F(math.cos(angle)), _F(math.sin(angle))
        _fill_lines(pieces, form, least, _F(ky[row]), phase, transform[row], of_rows, lines)
        _add_row(lines, alias_y[row], side_x // 2, aliases, out)
