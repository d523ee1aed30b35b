"""Sums over pixels of one evaluation of a fit, compiled."""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from galmeasure.utils.compiled import compile_loop

__all__ = ["pixel_sums", "skewness"]

_F = np.float32
_ZERO, _ONE = _F(0.0), _F(1.0)


@njit(error_model="numpy")
def _skewness(model, data, noise, good, gain, series, limit):
    """Sum over a row of pixels of what shot noise adds to chi-squared, see `galmeasure.likelihood.white_noise`."""
    total = 0.0
    for x in range(len(model)):
        light = 0.0 if model[x] < _ZERO else float(model[x])
        base = float(noise[x]) ** 2
        variance, excess, counts = base + light / gain, data[x] - light, base + data[x] / gain
        if not good[x]:
            continue
        if counts > 0.0:
            w = excess / variance / gain
            if abs(w) < limit:
                factor = series[-1]
                for order in range(len(series) - 2, -1, -1):
                    factor = factor * w + series[order]
            else:
                w = max(w, -1.0 + 1e-6)
                factor = 2.0 * ((1.0 + w) * math.log1p(w) - w) / (w * w) - 1.0
            total += excess * excess / variance * factor
        elif model[x] > _ZERO:
            total += 2.0 * gain**2 * (variance - base - counts * math.log(variance / base))
            total += data[x] * data[x] / base - (data[x] - model[x]) ** 2 / variance
        elif not counts <= 0.0:
            total += counts  # not a number
    return total


@compile_loop(
    "void(float32[:, :, :], float32[:, :, :], float32[:, :, :], boolean[:, :, :], float32[:], float64, float64[::1],"
    "float64, float64[::1])"
)
def skewness(
    model: NDArray,
    data: NDArray,
    error: NDArray,
    good: NDArray,
    gain: NDArray,
    largest_gain: float,
    series: NDArray,
    limit: float,
    out: NDArray,
) -> None:
    """Write sums over good pixels of what shot noise adds to chi-squared.

    Parameters
    ----------
    model, data, error, good : ndarray
        Expected images, images, noise that does not come from the model, and good pixels, shape ``(B, ny, nx)``.
    gain : ndarray
        Electrons per unit ``(B,)``.
    largest_gain : float
        Gain from which there is nothing to add.
    series, limit : ndarray, float
        Coefficients of the skewness for small arguments, and up to which these serve.
    out : ndarray
        Result, one number per galaxy, shape ``(B,)``.
    """
    for galaxy in range(len(model)):
        out[galaxy] = 0.0
        if gain[galaxy] < largest_gain:
            for y in range(model.shape[1]):
                rows = model[galaxy, y], data[galaxy, y], error[galaxy, y], good[galaxy, y]
                out[galaxy] += _skewness(*rows, float(gain[galaxy]), series, limit)


@compile_loop(
    "void(float32[:, :, :], float32[:, :, :, ::1], float32[:, :, :], float32[:, :, :], boolean[:, :, :], float32[:],"
    "float64[:, ::1], float64[:, :, ::1], float32[:, :, ::1])"
)
def pixel_sums(
    model: NDArray,
    images: NDArray,
    data: NDArray,
    error: NDArray,
    good: NDArray,
    gain: NDArray,
    totals: NDArray,
    sums: NDArray,
    residual: NDArray,
) -> None:
    """Write sums over pixels of products of images with each other and with the residual.

    Parameters
    ----------
    model, images : ndarray
        Expected images ``(B, ny, nx)``, and their derivatives ``(B, J, ny, nx)``.
    data, error, good : ndarray
        Images, noise that does not come from the model, and good pixels, shape ``(B, ny, nx)``.
    gain : ndarray
        Electrons per unit ``(B,)``; of length 0 if there is no shot noise.
    totals : ndarray
        Result: chi-squared, squared signal-to-noise ratio and light of the model, shape ``(B, 3)``.
    sums : ndarray
        Result: products of the images, lower triangle, and of each with the residual, in the last row, shape
        ``(B, J + 1, J)``.
    residual : ndarray
        Result: residuals over the noise, shape ``(B, ny, nx)``, or of length 0 where they are not asked for.
    """
    count, n_images, ny, nx = images.shape
    weight, score, weighted = np.empty(nx, np.float32), np.empty(nx, np.float32), np.empty(nx, np.float32)
    line, noise, counts = np.empty(nx, np.float32), np.empty(nx, np.float32), np.empty(nx, np.float32)
    for galaxy in range(count):
        sums[galaxy] = 0.0
        per_gain = _ONE / gain[galaxy] if len(gain) else _ZERO
        chi2, power, light = 0.0, 0.0, 0.0
        for y in range(ny):
            for x in range(nx):
                line[x], noise[x], counts[x] = model[galaxy, y, x], error[galaxy, y, x], data[galaxy, y, x]
                weight[x] = _F(good[galaxy, y, x])
            row_chi2, row_power, row_light = _ZERO, _ZERO, _ZERO
            for x in range(nx):
                shot = _ZERO if line[x] < _ZERO else line[x] * per_gain
                inverse = weight[x] / (noise[x] * noise[x] + shot)
                difference = counts[x] - line[x]
                weight[x], score[x] = inverse, difference * inverse
                row_chi2 += difference * difference * inverse
                row_power += line[x] * line[x] * inverse
                row_light += line[x]
            chi2 += row_chi2
            power += row_power
            light += row_light
            if len(residual):
                row = residual[galaxy, y]
                for x in range(nx):
                    row[x] = (counts[x] - line[x]) * math.sqrt(weight[x])
            for i in range(n_images):
                left = images[galaxy, i, y]
                for x in range(nx):
                    weighted[x] = weight[x] * left[x]
                for j in range(i + 1):
                    right = images[galaxy, j, y]
                    product = _ZERO
                    for x in range(nx):
                        product += weighted[x] * right[x]
                    sums[galaxy, i, j] += product
                product = _ZERO
                for x in range(nx):
                    product += score[x] * left[x]
                sums[galaxy, n_images, i] += product
        totals[galaxy, 0], totals[galaxy, 1], totals[galaxy, 2] = chi2, power, light
