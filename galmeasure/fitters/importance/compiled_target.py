"""Sums over the pixels of many models of the same stamps, compiled."""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from galmeasure.utils.compiled import FAST_MATH, compile_loop
from galmeasure.utils.compiled_math import fast_log

__all__ = ["likelihood_terms", "products", "scoring_sums"]

_F = np.float32
_ZERO, _ONE, _HALF = _F(0.0), _F(1.0), _F(0.5)
_LOG_TWO_PI = math.log(2.0 * math.pi)


@njit(fastmath=FAST_MATH, error_model="numpy")
def _fill_noise(errors, flags, row, noise, counts):
    """Fill a row's variance without shot noise, and 1 or 0 for pixels that count or not; gives how many count."""
    error, good, total = errors[row if len(errors) > 1 else 0], flags[row], 0
    for pixel in range(len(noise)):
        noise[pixel] = error[pixel] * error[pixel] if len(error) > 1 else error[0] * error[0]
        counts[pixel] = _F(good[pixel])
        total += good[pixel]
    return total


@njit(fastmath=FAST_MATH, error_model="numpy")
def _products(unit, data, noise, counts):
    along, power = _ZERO, _ZERO
    for pixel in range(len(unit)):
        light = counts[pixel] / noise[pixel] * unit[pixel]
        along += light * data[pixel]
        power += light * unit[pixel]
    return along, power


@njit(fastmath=FAST_MATH, error_model="numpy")
def _scoring_sums(flux, unit, data, noise, counts, per_gain):
    score, power = _ZERO, _ZERO
    for pixel in range(len(unit)):
        model = flux * unit[pixel]
        inverse = counts[pixel] / (noise[pixel] + max(model, _ZERO) * per_gain)
        residual = data[pixel] - model
        growth = inverse * max(unit[pixel], _ZERO) * per_gain
        light = inverse * unit[pixel]
        score += residual * light + _HALF * (residual * residual * inverse - _ONE) * growth
        power += light * unit[pixel] + _HALF * growth * growth
    return score, power


@njit(fastmath=FAST_MATH, error_model="numpy")
def _likelihood_terms(flux, unit, data, noise, counts, per_gain):
    chi2, log_variance, squares, shot = _ZERO, _ZERO, _ZERO, _ZERO
    for pixel in range(len(unit)):
        model = flux * unit[pixel]
        growth = max(model, _ZERO) * per_gain
        var = noise[pixel] + growth
        inverse = counts[pixel] / var
        residual = data[pixel] - model
        chi2 += residual * residual * inverse
        log_variance += counts[pixel] * fast_log(var)
        light = model * model * inverse
        squares += light
        shot += light * (growth / var)
    return chi2, log_variance, squares, shot


_MAPS = "float32[:, ::1], int64[::1], float32[:, ::1], float32[:, ::1], boolean[:, ::1]"


@compile_loop(f"void({_MAPS}, float64[:, ::1])")
def products(unit: NDArray, rows: NDArray, data: NDArray, error: NDArray, good: NDArray, out: NDArray) -> None:
    """Write products of models of unit flux with the data and with themselves, weighted without shot noise.

    Parameters
    ----------
    unit : ndarray
        Models, shape ``(M, P)``.
    rows : ndarray
        Stamp of each model, shape ``(M,)``; those of one stamp best one after the other.
    data, error, good : ndarray
        Stamps ``(R, P)``, their noise that does not come from the model, ``(R, P)``, ``(R, 1)``, ``(1, P)`` or
        ``(1, 1)``, and good pixels ``(R, P)``.
    out : ndarray
        Result, shape ``(M, 2)``.
    """
    noise, counts = np.empty(unit.shape[1], np.float32), np.empty(unit.shape[1], np.float32)
    last = -1
    for model in range(len(unit)):
        row = rows[model]
        if row != last:
            _fill_noise(error, good, row, noise, counts)
            last = row
        out[model, 0], out[model, 1] = _products(unit[model], data[row], noise, counts)


@compile_loop(f"void(float64[::1], {_MAPS}, float32[::1], float64[:, ::1])")
def scoring_sums(
    flux: NDArray,
    unit: NDArray,
    rows: NDArray,
    data: NDArray,
    error: NDArray,
    good: NDArray,
    gain: NDArray,
    out: NDArray,
) -> None:
    """Write derivatives of log-likelihoods by the flux, and the information about it, with shot noise.

    Parameters
    ----------
    flux : ndarray
        Fluxes of the models, shape ``(M,)``.
    unit, rows, data, error, good : ndarray
        The same as of `products`.
    gain : ndarray
        Electrons per unit, shape ``(R,)``.
    out : ndarray
        Result, shape ``(M, 2)``.
    """
    noise, counts = np.empty(unit.shape[1], np.float32), np.empty(unit.shape[1], np.float32)
    last = -1
    for model in range(len(unit)):
        row = rows[model]
        if row != last:
            _fill_noise(error, good, row, noise, counts)
            last = row
        sums = _scoring_sums(_F(flux[model]), unit[model], data[row], noise, counts, _ONE / gain[row])
        out[model, 0], out[model, 1] = sums


@compile_loop(f"void(float64[::1], {_MAPS}, float32[::1], float64[:, ::1])")
def likelihood_terms(
    flux: NDArray,
    unit: NDArray,
    rows: NDArray,
    data: NDArray,
    error: NDArray,
    good: NDArray,
    gain: NDArray,
    out: NDArray,
) -> None:
    """Write log-likelihoods, squares of the signal-to-noise ratio, and the part of this that slows its growth.

    Parameters
    ----------
    flux, unit, rows, data, error, good : ndarray
        The same as of `scoring_sums`.
    gain : ndarray
        Electrons per unit, shape ``(R,)``; of length 0 if there is no shot noise.
    out : ndarray
        Result, shape ``(M, 3)``.
    """
    noise, counts = np.empty(unit.shape[1], np.float32), np.empty(unit.shape[1], np.float32)
    last, n_good = -1, 0
    for model in range(len(unit)):
        row = rows[model]
        if row != last:
            n_good = _fill_noise(error, good, row, noise, counts)
            last = row
        per_gain = _ONE / gain[row] if len(gain) else _ZERO
        terms = _likelihood_terms(_F(flux[model]), unit[model], data[row], noise, counts, per_gain)
        chi2, log_variance, out[model, 1], out[model, 2] = terms
        out[model, 0] = -0.5 * (float(chi2) + float(log_variance) + n_good * _LOG_TWO_PI)
