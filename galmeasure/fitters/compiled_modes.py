"""Chi-squared on wavenumbers and its derivatives, compiled."""

import math

import numpy as np
from numpy.typing import NDArray

from galmeasure.utils.compiled import compile_loop
from galmeasure.utils.compiled_math import fast_log

__all__ = ["normal_equations"]

_F = np.float32
_ZERO, _TWO, _THREE = _F(0.0), _F(2.0), _F(3.0)
_N_EVEN = 5  # images that are even about the centre


@compile_loop(
    "void(float32[:, :, ::1], int64[::1], float32[:, :, ::1], float32[:, ::1], float64[:, ::1], float32[::1],"
    "int64[::1], float32[:, ::1], float32[:, ::1], float32[:, ::1], float32[:, ::1], float32[::1], float32[::1],"
    "int64[::1], int64[::1], int64, float64, float64, float32, float64[:, :, ::1])"
)
def normal_equations(
    table: NDArray, first: NDArray, weights: NDArray, form: NDArray, offset: NDArray, flux: NDArray, rows: NDArray,
    real: NDArray, imag: NDArray, amplitude: NDArray, outside: NDArray, ky: NDArray, kx: NDArray,
    row_of: NDArray, column_of: NDArray, n_y: int, start: float, step: float, least: float, out: NDArray,
) -> None:  # fmt: skip
    """Write sums over modes of the products of raw images with each other and with the residual.

    Parameters
    ----------
    table : ndarray
        Polynomial pieces of the transform in log k, shape ``(rows, pieces, 4)``.
    first, weights : ndarray
        First row of the table used by each galaxy, shape ``(R,)``; weights of four rows and their derivatives by the
        index, shape ``(R, 2, 4)``.
    form, offset, flux : ndarray
        Coefficients of ``kappa**2``, shape ``(R, 3)``; centres (y, x) about the middle of the stamp, times one wave of
        the period, shape ``(R, 2)``; fluxes, shape ``(R,)``.
    rows : ndarray
        Stamp of each galaxy, shape ``(R,)``.
    real, imag, amplitude : ndarray
        Transforms of the stamps and moduli of the PSFs, as `galmeasure.fitters.lsq.fourier.Stamps` has, ``(B, K)``.
    outside : ndarray
        Light outside of the stamp and its derivatives by n, a, b, c, shape ``(R, 5)``.
    ky, kx : ndarray
        Wavenumbers, radians per pixel, shape ``(K,)``.
    row_of, column_of : ndarray
        Whole waves of the period in y and x, shape ``(K,)``.
    n_y : int
        Largest number of waves, in y or x.
    start, step : float
        First node of the table in log k, and the distance of its nodes.
    least : float
        Smallest ``kappa**2`` that is told from zero.
    out : ndarray
        Result: information by raw coordinates, in the last column the score and the loss, shape ``(R, 8, 8)``.
    """
    count, n_pieces = len(ky), table.shape[1]
    pieces = np.empty((n_pieces, 8), np.float32)
    images = np.empty((_N_EVEN + 2, count), np.float32)  # those that are even, and the residual
    kappa2, place = np.empty(count, np.float32), np.empty(count, np.float32)
    slope = np.empty(count, np.float32)
    waves = np.empty((2, 2, n_y + 1), np.float32)
    scale, shift, last = _F(0.5 / step), _F(start / step), _F(n_pieces - 0.0001)
    for galaxy in range(len(first)):
        for order in range(2):
            w0, w1, w2, w3 = weights[galaxy, order]
            row = min(max(first[galaxy], 0), len(table) - 4)
            t0, t1, t2, t3 = table[row], table[row + 1], table[row + 2], table[row + 3]
            for piece in range(n_pieces):
                for power in range(4):
                    pieces[piece, 4 * order + power] = (
                        w0 * t0[piece, power] + w1 * t1[piece, power] + w2 * t2[piece, power] + w3 * t3[piece, power]
                    )
        for axis in range(2):
            for wave in range(n_y + 1):
                angle = offset[galaxy, axis] * wave
                waves[axis, 0, wave], waves[axis, 1, wave] = _F(math.cos(angle)), _F(math.sin(angle))
        a, b, c = form[galaxy]
        for mode in range(count):
            y, x = ky[mode], kx[mode]
            kappa2[mode] = max((a + b) * x * x + (a - b) * y * y + _TWO * c * x * y, least)
        for mode in range(count):
            place[mode] = min(max(fast_log(kappa2[mode]) * scale - shift, _ZERO), last)
            kappa2[mode] = scale / kappa2[mode]
        stamp = rows[galaxy]
        stamp_real, stamp_imag, modulus = real[stamp], imag[stamp], amplitude[stamp]
        value, by_n, residual, odd = images[0], images[1], images[_N_EVEN], images[_N_EVEN + 1]
        for mode in range(count):
            index = min(max(np.int32(place[mode]), 0), n_pieces - 1)  # NaN is no number of a piece
            t, piece = place[mode] - _F(index), pieces[index]
            value[mode] = piece[0] + t * (piece[1] + t * (piece[2] + t * piece[3]))
            by_n[mode] = piece[4] + t * (piece[5] + t * (piece[6] + t * piece[7]))
            slope[mode] = piece[1] + t * (_TWO * piece[2] + t * _THREE * piece[3])
            number, sign = row_of[mode], _F(1.0)
            if number < 0:
                number, sign = -number, _F(-1.0)
            cos_y, sin_y = waves[0, 0, number], sign * waves[0, 1, number]
            cos_x, sin_x = waves[1, 0, column_of[mode]], waves[1, 1, column_of[mode]]
            cosine, sine = cos_y * cos_x - sin_y * sin_x, sin_y * cos_x + cos_y * sin_x
            residual[mode] = stamp_real[mode] * cosine - stamp_imag[mode] * sine
            odd[mode] = stamp_real[mode] * sine + stamp_imag[mode] * cosine
        of_a, of_b, of_c = images[2], images[3], images[4]
        for mode in range(count):
            value[mode] *= modulus[mode]
            by_n[mode] *= modulus[mode]
            factor = slope[mode] * kappa2[mode] * modulus[mode]
            y, x = ky[mode], kx[mode]
            of_a[mode] = factor * (x * x + y * y)
            of_b[mode] = factor * (x * x - y * y)
            of_c[mode] = factor * _TWO * x * y
        for image in range(_N_EVEN):
            images[image, 0] -= modulus[0] * outside[galaxy, image]
        brightness, loss = flux[galaxy], _ZERO
        for mode in range(count):
            residual[mode] -= brightness * value[mode]
            loss += residual[mode] * residual[mode] + odd[mode] * odd[mode]
        sums = out[galaxy]
        sums[:] = 0.0
        for i in range(_N_EVEN + 1):
            left = images[i]
            for j in range(min(i + 1, _N_EVEN)):
                right, product = images[j], _ZERO
                for mode in range(count):
                    product += left[mode] * right[mode]
                if i == _N_EVEN:
                    sums[j, 7] = product
                else:
                    sums[i, j] = sums[j, i] = product
        sums[7, 7] = loss
        # the derivatives by the centre are odd: i k times the model
        yy, yx, xx, to_y, to_x = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
        for mode in range(count):
            y, x = ky[mode], kx[mode]
            square, product = value[mode] * value[mode], value[mode] * odd[mode]
            yy += square * y * y
            yx += square * y * x
            xx += square * x * x
            to_y -= product * y
            to_x -= product * x
        sums[5, 5], sums[6, 6] = yy, xx
        sums[5, 6] = sums[6, 5] = yx
        sums[5, 7], sums[6, 7] = to_y, to_x
