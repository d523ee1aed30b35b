"""Sums over wavenumbers of one evaluation of a fit in Fourier space, compiled."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from galmeasure.render.compiled_modes import (
    blend_rows,
    fill_phases,
    fill_places,
    fill_slopes,
    fill_values,
    fill_waves,
)
from galmeasure.utils.compiled import FAST_MATH, compile_loop
from galmeasure.utils.compiled_math import dot

__all__ = ["mode_sums"]

_F = np.float32
_ZERO = _F(0.0)
_N_EVEN = 5  # the model and its derivatives by n, a, b, c
_Y, _X, _LAST = 5, 6, 7  # rows of the results


@njit(fastmath=FAST_MATH, error_model="numpy")
def _squares(left, right):
    """Sum of the squares of single numbers, in double precision: small differences of it are looked at."""
    total = 0.0
    for number in range(len(left)):
        total += float(left[number] * left[number] + right[number] * right[number])
    return total


@njit(fastmath=FAST_MATH, error_model="numpy")
def _multiply(left, right, out):
    for number in range(len(out)):
        out[number] = left[number] * right[number]


@njit(fastmath=FAST_MATH, error_model="numpy")
def _turn(real, imag, phases, turned):
    """Fill real and imaginary parts of the data about the galaxy's centre."""
    cosine, sine, out = phases[0], phases[1], turned[0]
    for mode in range(len(out)):
        out[mode] = real[mode] * cosine[mode] - imag[mode] * sine[mode]
    out = turned[1]
    for mode in range(len(out)):
        out[mode] = real[mode] * sine[mode] + imag[mode] * cosine[mode]


@njit(fastmath=FAST_MATH, error_model="numpy")
def _fill_residual(real, flux, model, out):
    for mode in range(len(out)):
        out[mode] = real[mode] - flux * model[mode]


@compile_loop(
    "void(float32[:, ::1], int64[::1], float32[:, :, ::1], float32[:, ::1], float64[:, ::1], float32[::1],"
    "float32[:, ::1], int64[:, ::1], float32[:, ::1], float32[:, ::1], float64, float64, float32, int64[::1],"
    "float32[:, ::1], float32[:, ::1], float32[:, ::1], float64[:, :, ::1])"
)
def mode_sums(
    table: NDArray,
    first: NDArray,
    weights: NDArray,
    form: NDArray,
    offset: NDArray,
    flux: NDArray,
    outside: NDArray,
    lines: NDArray,
    forms: NDArray,
    centre_products: NDArray,
    step_y: float,
    step_x: float,
    least: float,
    rows: NDArray,
    real: NDArray,
    imag: NDArray,
    amplitude: NDArray,
    out: NDArray,
) -> None:
    """Write sums over wavenumbers of products of raw images with each other and with the residual.

    Parameters
    ----------
    table : ndarray
        Polynomial pieces of the transform in log k, shape ``(rows, 4 P)``.
    first, weights : ndarray
        First row used by each galaxy, shape ``(R,)``, and weights of four rows and their derivatives by the index,
        shape ``(R, 2, 4)``.
    form, offset, flux : ndarray
        Coefficients of ``kappa**2``, centres (y, x) relative to the stamp's, and fluxes, shapes ``(R, 3)``, ``(R, 2)``
        and ``(R,)``.
    outside : ndarray
        Light outside the stamp and its derivatives by n, a, b, c, shape ``(R, 5)``.
    lines, forms, centre_products : ndarray
        Of the wavenumbers, see `galmeasure.render.modes.Modes`.
    step_y, step_x : float
        Differences of neighbouring wavenumbers.
    least : float
        Smallest ``kappa**2`` that is told from zero.
    rows : ndarray
        Position of each galaxy in the following arrays, shape ``(R,)``.
    real, imag, amplitude : ndarray
        Stamps and moduli of their PSFs, see `galmeasure.fitters.lsq.fourier.Stamps`, shape ``(B, K)``.
    out : ndarray
        Result, shape ``(R, 8, 8)``: information by raw coordinates, in the last row and column the score and the loss.
    """
    n_modes, n_pieces = amplitude.shape[1], table.shape[1] // 4
    pieces = np.empty((2, table.shape[1]), np.float32)
    # each by itself: loops do not vectorize over rows of one array, which might overlap for all that is known of them
    kappa2, fraction = np.empty(n_modes, np.float32), np.empty(n_modes, np.float32)
    slope = np.empty(n_modes, np.float32)
    index = np.empty(n_modes, np.int32)
    images, residual = np.empty((_N_EVEN, n_modes), np.float32), np.empty(n_modes, np.float32)
    turned, odd = np.empty((2, n_modes), np.float32), np.empty((2, n_modes), np.float32)
    phases = np.zeros((2, n_modes), np.float32)  # zero where the last cache line is filled
    cos_y, sin_y = np.empty((2, np.abs(lines[:, 2]).max() + 1), np.float32)
    cos_x, sin_x = np.empty((2, (lines[:, 1] + lines[:, 3]).max()), np.float32)
    for galaxy in range(len(first)):
        row, sums = rows[galaxy], out[galaxy]
        modulus = amplitude[row]
        for order in range(2):
            blend_rows(table, first[galaxy], weights[galaxy, order], pieces[order])
        fill_places(forms, form[galaxy], least, n_pieces, kappa2, fraction, index)
        for order in range(2):
            fill_values(pieces[order], fraction, index, images[order])
            _multiply(modulus, images[order], images[order])
        fill_slopes(pieces[0], fraction, index, kappa2, slope)
        _multiply(modulus, slope, slope)
        for number in range(3):
            _multiply(slope, forms[number], images[2 + number])
        for number in range(_N_EVEN):
            images[number, 0] -= modulus[0] * outside[galaxy, number]
        fill_waves(step_y, offset[galaxy, 0], cos_y, sin_y)
        fill_waves(step_x, offset[galaxy, 1], cos_x, sin_x)
        fill_phases(lines, (cos_y, sin_y, cos_x, sin_x), phases)
        _turn(real[row], imag[row], phases, turned)
        _fill_residual(turned[0], flux[galaxy], images[0], residual)
        sums[:] = 0.0
        for left in range(_N_EVEN):
            for right in range(left + 1):
                sums[left, right] = sums[right, left] = dot(images[left], images[right])
            sums[left, _LAST] = dot(images[left], residual)
        # the derivatives by the centre are odd: i k times the model
        _multiply(images[0], images[0], odd[0])
        _multiply(images[0], turned[1], odd[1])
        sums[_Y, _Y] = dot(odd[0], centre_products[0])
        sums[_Y, _X] = sums[_X, _Y] = dot(odd[0], centre_products[1])
        sums[_X, _X] = dot(odd[0], centre_products[2])
        sums[_Y, _LAST] = -dot(odd[1], centre_products[3])
        sums[_X, _LAST] = -dot(odd[1], centre_products[4])
        sums[_LAST, _LAST] = _squares(residual, turned[1])
