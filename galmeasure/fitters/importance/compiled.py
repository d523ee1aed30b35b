"""Loops over the draws of a cheap posterior, compiled."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from galmeasure.render.compiled_modes import blend_rows, fill_places, fill_turned, fill_values, fill_waves
from galmeasure.utils.compiled import FAST_MATH, compile_loop
from galmeasure.utils.compiled_math import dot, fast_log, multiply

__all__ = ["central_products", "projections", "shot_noise"]

_F = np.float32
_ZERO, _ONE, _HALF = _F(0.0), _F(1.0), _F(0.5)


@njit(fastmath=FAST_MATH, error_model="numpy")
def _fill_displacement(turned, psf, reference, excess, more, out):
    """Fill the displacement of a model, turned to its place, from the reference; loops so short that they vectorize."""
    n_modes = turned.shape[1]
    cosine, sine, real, imag = turned[0], turned[1], psf[0], psf[1]
    half, before, wrapped = out[:n_modes], reference[:n_modes], excess[:n_modes]
    for mode in range(n_modes):
        half[mode] = cosine[mode] * real[mode] + sine[mode] * imag[mode] + more * wrapped[mode] - before[mode]
    half, before, wrapped = out[n_modes:], reference[n_modes:], excess[n_modes:]
    for mode in range(n_modes):
        half[mode] = cosine[mode] * imag[mode] - sine[mode] * real[mode] + more * wrapped[mode] - before[mode]


@njit(fastmath=FAST_MATH, error_model="numpy")
def _square(wave, scale):
    total, n_modes = _ZERO, len(scale)
    for mode in range(n_modes):
        total += (wave[mode] * wave[mode] + wave[n_modes + mode] * wave[n_modes + mode]) * scale[mode]
    return total


@njit(fastmath=FAST_MATH, error_model="numpy")
def _copy(source, out):
    for number in range(len(out)):
        out[number] = source[number]


@njit(fastmath=FAST_MATH, error_model="numpy")
def _fill_pixels(wave, lines, waves_y, waves_x, square, buffers, out):
    """Fill pixels of the central square of a model from its transform: one axis after the other."""
    by_row, along_y, turned, pixels = buffers
    length, n_offsets, half = by_row.shape[1] // 2, len(along_y) // 2, len(wave) // 2
    for line in range(len(lines)):
        start, count = lines[line, 0], lines[line, 1]
        _copy(wave[start : start + count], by_row[line, :count])
        _copy(wave[half + start : half + start + count], by_row[line, length : length + count])
    by_row[0][0] *= _HALF  # every other wavenumber occurs twice
    multiply(waves_y, by_row, along_y)
    for row in range(len(square)):
        number, side = square[row]
        sign = _F(side)  # cosines are even, sines are odd
        cosine, sine = along_y[number], along_y[n_offsets + number]
        _combine(cosine[:length], -sign, sine[length:], turned[row, :length])
        _combine(cosine[length:], sign, sine[:length], turned[row, length:])
    multiply(turned, waves_x, pixels)
    for row in range(len(square)):
        _copy(pixels[row], out[row])


@njit(fastmath=FAST_MATH, error_model="numpy")
def _combine(left, factor, right, out):
    for number in range(len(out)):
        out[number] = left[number] + factor * right[number]


@njit(fastmath=FAST_MATH, error_model="numpy")
def _central_square(model, weight):
    total = _ZERO
    for pixel in range(len(model)):
        total += model[pixel] * model[pixel] * weight[pixel]
    return total


@compile_loop(
    "void(float32[:, ::1], int64[::1], float32[:, ::1], float32[:, ::1], float64[:, ::1], float32[::1],"
    "int64[:, ::1], float32[:, ::1], float32[::1], float64, float64, float32, float32[:, ::1], float32[::1],"
    "float32[::1], float32, float32, float32[:, ::1], float32[:, ::1], float32[:, ::1], int64[:, ::1],"
    "float64[::1], float64[:, ::1], float32[:, :, ::1])"
)
def projections(
    table: NDArray,
    first: NDArray,
    weights: NDArray,
    form: NDArray,
    offset: NDArray,
    outside: NDArray,
    lines: NDArray,
    forms: NDArray,
    scale: NDArray,
    step_y: float,
    step_x: float,
    least: float,
    psf: NDArray,
    reference: NDArray,
    excess: NDArray,
    outside_reference: float,
    least_outside: float,
    patterns: NDArray,
    waves_y: NDArray,
    waves_x: NDArray,
    square: NDArray,
    squares: NDArray,
    sums: NDArray,
    pixels: NDArray,
) -> None:
    """Write sums over displacements of the unit models of one galaxy's draws from the reference, and central pixels.

    Parameters
    ----------
    table : ndarray
        Polynomial pieces of the transform in log k, shape ``(rows, 4 P)``.
    first, weights : ndarray
        First row used by each draw, and weights of four rows, shapes ``(S,)`` and ``(S, 4)``.
    form, offset : ndarray
        Coefficients of ``kappa**2`` and centres (y, x) relative to the stamp's, shapes ``(S, 3)`` and ``(S, 2)``.
    outside : ndarray
        Light outside the stamp of each draw, shape ``(S,)``.
    lines : ndarray
        Full lines of wavenumbers, see `galmeasure.render.modes.modes_of_band`.
    forms, scale : ndarray
        Quadratic forms ``(3, K)`` of the wavenumbers, and how often each one occurs, per pixel, ``(K,)``.
    step_y, step_x : float
        Differences of neighbouring wavenumbers.
    least : float
        Smallest ``kappa**2`` that is told from zero.
    psf, reference, excess : ndarray
        Transforms of the PSF ``(2, K)``, of the reference, and of what that has too much, ``(2 K,)``.
    outside_reference, least_outside : float
        Light outside the stamp at the reference, and what counts as none.
    patterns : ndarray
        Waves of which products with the displacements are taken, shape ``(C, 2 K)``.
    waves_y, waves_x, square : ndarray
        Transform to the central square, see `galmeasure.fitters.importance.fourier.central_square`.
    squares, sums : ndarray
        Results: squares of the displacements, per pixel, shape ``(S,)``, and the products, shape ``(S, C)``.
    pixels : ndarray
        Result: displacements in the central square, shape ``(S, side, side)``, or ``(0, 0, 0)``.
    """
    n_modes, length = len(scale), waves_x.shape[0] // 2
    pieces = np.empty(table.shape[1], np.float32)
    # each by itself: loops do not vectorize over rows of one array, which might overlap for all that is known of them
    kappa2, fraction = np.empty(n_modes, np.float32), np.empty(n_modes, np.float32)
    value = np.empty(n_modes, np.float32)
    index = np.empty(n_modes, np.int32)
    turned, wave = np.zeros((2, n_modes), np.float32), np.zeros(2 * n_modes, np.float32)
    cos_y, sin_y = np.empty((2, np.abs(lines[:, 2]).max() + 1), np.float32)
    cos_x, sin_x = np.empty((2, length), np.float32)
    by_row = np.zeros((waves_y.shape[1], 2 * length), np.float32)
    along_y = np.empty((len(waves_y), 2 * length), np.float32)
    buffers = by_row, along_y, np.zeros((12, 2 * length), np.float32), np.empty((12, waves_x.shape[1]), np.float32)
    for draw in range(len(first)):
        blend_rows(table, first[draw], weights[draw], pieces)
        fill_places(forms, form[draw], least, len(pieces) // 4, kappa2, fraction, index)
        fill_values(pieces, fraction, index, value)
        value[0] -= outside[draw]
        more = _ONE - (outside[draw] + least_outside) / (outside_reference + least_outside)
        fill_waves(step_y, offset[draw, 0], cos_y, sin_y)
        fill_waves(step_x, offset[draw, 1], cos_x, sin_x)
        fill_turned(lines, (cos_y, sin_y, cos_x, sin_x), value, turned)
        _fill_displacement(turned, psf, reference, excess, more, wave)
        squares[draw] = _square(wave, scale)
        for number in range(len(patterns)):
            sums[draw, number] = dot(wave, patterns[number])
        if len(pixels):
            _fill_pixels(wave, lines, waves_y, waves_x, square, buffers, pixels[draw])


@compile_loop(
    "void(float32[:, :, ::1], float32[:, :, ::1], float32[::1], float32[::1], float64[:, ::1], float64[:, ::1])"
)
def central_products(
    pixels: NDArray, maps: NDArray, gain: NDArray, weight: NDArray, along: NDArray, power: NDArray
) -> None:
    """Add what shot noise changes in the products of models with the data and with themselves.

    Parameters
    ----------
    pixels : ndarray
        Unit models in the central square, shape ``(R, S, P)``.
    maps : ndarray
        By pixel of the square, shape ``(6, R, P)``: whether it counts, data, variance without the source, reference,
        and the derivative and the value of its log-likelihood.
    gain, weight : ndarray
        Electrons per unit, and mean inverse variances, shape ``(R,)``.
    along, power : ndarray
        Products with the data and with themselves, shape ``(R, S)``, to which is added.
    """
    n_pixels = pixels.shape[2]
    with_data, excess = np.empty(n_pixels, np.float32), np.empty(n_pixels, np.float32)
    for galaxy in range(len(pixels)):
        good, background, reference = maps[0, galaxy], maps[2, galaxy], maps[3, galaxy]
        for pixel in range(n_pixels):
            light = _ZERO if reference[pixel] < _ZERO else reference[pixel]
            inverse = _ONE / (background[pixel] + light / gain[galaxy])
            growth = inverse / gain[galaxy]
            excess[pixel] = good[pixel] * (inverse + _HALF * growth * growth) - weight[galaxy]
            with_data[pixel] = excess[pixel] * reference[pixel]
        for draw in range(pixels.shape[1]):
            model = pixels[galaxy, draw]
            along[galaxy, draw] += dot(model, with_data)
            power[galaxy, draw] += _central_square(model, excess)


@njit(fastmath=FAST_MATH, error_model="numpy")
def _pixel_terms(flux, unit, maps, of_reference, gain, weight):
    """Sums over the central square of one model: log-likelihood, square of the S/N, and its part that slows it."""
    good, data, background, reference, derivative = maps
    inverse_reference, chi2_reference = of_reference
    total, squares, shot = 0.0, 0.0, 0.0
    for pixel in range(len(unit)):
        model = flux * unit[pixel]
        light = _ZERO if model < _ZERO else model
        var = background[pixel] + light / gain
        inverse = _ONE / var
        difference, away = data[pixel] - model, model - reference[pixel]
        chi2 = difference * difference * inverse - chi2_reference[pixel]
        exact = -_HALF * (chi2 + fast_log(var * inverse_reference[pixel]))
        total += good[pixel] * exact - away * (derivative[pixel] - _HALF * weight * away)
        power = model * model
        squares += power * (good[pixel] * inverse - weight)
        shot += good[pixel] * power * inverse * (_ONE - background[pixel] * inverse)
    return total, squares, shot


@compile_loop(
    "void(float64[:, ::1], float32[:, :, ::1], float32[:, :, ::1], float32[::1], float32[::1], float64[:, :, ::1])"
)
def shot_noise(flux: NDArray, pixels: NDArray, maps: NDArray, gain: NDArray, weight: NDArray, out: NDArray) -> None:
    """Write what shot noise in the central square adds to cheap log-likelihoods.

    Parameters
    ----------
    flux : ndarray
        Fluxes of the models, shape ``(R, S)``.
    pixels, maps, gain, weight : ndarray
        The same as of `central_products`.
    out : ndarray
        Result: what is added to the log-likelihood and to the square of the S/N, and the part of this that slows its
        growth, shape ``(3, R, S)``.
    """
    n_pixels = pixels.shape[2]
    inverse, chi2 = np.empty(n_pixels, np.float32), np.empty(n_pixels, np.float32)
    for galaxy in range(len(pixels)):
        data, background, reference = maps[1, galaxy], maps[2, galaxy], maps[3, galaxy]
        for pixel in range(n_pixels):
            light = _ZERO if reference[pixel] < _ZERO else reference[pixel]
            inverse[pixel] = _ONE / (background[pixel] + light / gain[galaxy])
            chi2[pixel] = (data[pixel] - reference[pixel]) ** 2 * inverse[pixel]
        columns = maps[0, galaxy], data, background, reference, maps[4, galaxy]
        for draw in range(pixels.shape[1]):
            unit, factor = pixels[galaxy, draw], _F(flux[galaxy, draw])
            terms = _pixel_terms(factor, unit, columns, (inverse, chi2), gain[galaxy], weight[galaxy])
            for number in range(3):
                out[number, galaxy, draw] = terms[number]
