"""The renderer's loops, compiled: spectra of models and derivatives, and the light that wraps around."""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from galmeasure.render.compiled_spectra import fill_spectrum, spectrum_buffers
from galmeasure.utils.compiled import FAST_MATH, compile_loop
from galmeasure.utils.compiled_math import fast_exp, fast_log

__all__ = ["fill_light", "light_beyond", "spectra", "subtract_wrapped", "wrapped_nodes"]

_F = np.float32
_ONE, _TWO, _HALF = _F(1.0), _F(2.0), _F(0.5)


@compile_loop(
    "void(float32[:, :, ::1], int64[::1], float32[:, :, ::1], float32[:, ::1], float64[:, ::1], float32[:, :, :, ::1],"
    "int64[::1], float64[::1], float64[::1], int64[::1], int64, float32, float32[:, :, :, ::1])"
)
def spectra(
    table: NDArray,
    first: NDArray,
    weights: NDArray,
    form: NDArray,
    position: NDArray,
    psf: NDArray,
    psf_index: NDArray,
    ky: NDArray,
    kx: NDArray,
    alias_y: NDArray,
    side_x: int,
    least: float,
    out: NDArray,
) -> None:
    """Write spectra of models and of their six raw derivatives on the wavenumbers of pixels.

    Parameters
    ----------
    table : ndarray
        Polynomial pieces of the transform in log k, shape ``(rows, pieces, 4)``.
    first, weights : ndarray
        First row used by each galaxy, shape ``(B,)``; weights of four rows, and, for derivatives, their derivatives,
        shape ``(B, 1 or 2, 4)``.
    form, position : ndarray
        Coefficients of ``kappa**2``, shape ``(B, 3)``, and centres (y, x), shape ``(B, 2)``.
    psf, psf_index : ndarray
        Transforms of the PSFs, real and imaginary parts side by side, shape ``(M, rows, columns, 2)``, and that of each
        galaxy, shape ``(B,)``.
    ky, kx : ndarray
        Wavenumbers of the rows and columns.
    alias_y : ndarray
        Row of the result for each of these rows.
    side_x : int
        Period of the result in x; columns beyond its half are aliases of others.
    least : float
        Smallest ``kappa**2`` that is told from zero.
    out : ndarray
        Result, real and imaginary parts side by side, shape ``(B, 7 or 1, side in y, 2 columns)``.
    """
    buffers = spectrum_buffers(table, kx, side_x, out.shape[1])
    for galaxy in range(len(first)):
        of_galaxy = first[galaxy], weights[galaxy], form[galaxy], position[galaxy], psf[psf_index[galaxy]]
        fill_spectrum(table, of_galaxy, (ky, kx, alias_y, side_x, least), buffers, out[galaxy])


@compile_loop(
    "void(float32[::1], float32[:, ::1], float32[:, :, ::1], float32[::1], float32[:, ::1], float32[::1], float32[::1],"
    "float32, float32[:, ::1])"
)
def light_beyond(
    n: NDArray,
    form: NDArray,
    b_and_amplitude: NDArray,
    digamma: NDArray,
    signed: NDArray,
    laguerre: NDArray,
    weights: NDArray,
    area: float,
    out: NDArray,
) -> None:
    """Write the light beyond some rings of periods, per pixel, as `galmeasure.render.wrap.light_beyond` does.

    Parameters
    ----------
    n, form, b_and_amplitude : ndarray
        Sersic indices ``(B,)``, coefficients of ``kappa**2`` ``(B, 3)``, value and slope in ``n`` of ``b_n`` and of
        the log amplitude ``(B, 1 or 2, 2)``.
    digamma : ndarray
        Digamma function of ``2 n``, shape ``(B,)``.
    signed : ndarray
        Squared distance to the end of the rings, and less its products with cosine and sine of two angles, ``(3, A)``.
    laguerre, weights : ndarray
        Nodes and weights of the quadrature.
    area : float
        Pixels of a period.
    out : ndarray
        Result: light, and its derivatives by n, a, b, c, shape ``(B, 5 or 1)``.
    """
    n_angles, is_full = signed.shape[1], out.shape[1] > 1
    log_sum, term = np.empty(len(laguerre), np.float32), np.empty(len(laguerre), np.float32)
    for galaxy in range(len(n)):
        a, b, c = form[galaxy]
        determinant = a * a - b * b - c * c
        index, b_n = n[galaxy], b_and_amplitude[galaxy, 0, 0]
        b_slope = b_and_amplitude[galaxy, 1, 0] if is_full else _F(0.0)
        log_gamma, exponent = _F(math.lgamma(_TWO * index)), _TWO * index - _ONE
        total, by_n, along, along_b, along_c, inside = _F(0), _F(0), _F(0), _F(0), _F(0), _F(0)
        for angle in range(n_angles):
            square, of_b, of_c = signed[0, angle], signed[1, angle], signed[2, angle]
            z2 = (a * square + b * of_b + c * of_c) / determinant
            log_z = _HALF * fast_log(z2)
            t = b_n * fast_exp(log_z / index)
            outside, slope = _F(0.0), _F(0.0)
            for node in range(len(laguerre)):
                log_sum[node] = fast_log(t + laguerre[node])
                term[node] = weights[node] * fast_exp(exponent * log_sum[node] - t - log_gamma)
            for node in range(len(laguerre)):
                outside += term[node]
                slope += term[node] * log_sum[node]
            share = square / (math.sqrt(determinant) * z2) / (n_angles * area)
            total += share * outside
            if is_full:
                t_by_t = -fast_exp(exponent * fast_log(t) - t - log_gamma) * t
                slope = _TWO * (slope - outside * digamma[galaxy])
                by_n += share * (slope + t_by_t * (b_slope / b_n - log_z / (index * index)))
                weight = share * (t_by_t / (_TWO * index) - outside) / z2
                along += weight * square
                along_b += weight * of_b
                along_c += weight * of_c
                inside += _TWO * weight * z2 + share * outside
        out[galaxy, 0] = total
        if is_full:
            out[galaxy, 1] = by_n
            out[galaxy, 2] = (along - a * inside) / determinant
            out[galaxy, 3] = (along_b + b * inside) / determinant
            out[galaxy, 4] = (along_c + c * inside) / determinant


@compile_loop(
    "void(float32[::1], float32[:, ::1], float32[:, :, ::1], float32[:, ::1], float32[::1], float32[::1],"
    "float32[:, ::1], float32[:, :, :, ::1])"
)
def wrapped_nodes(
    n: NDArray,
    form: NDArray,
    b_and_amplitude: NDArray,
    position: NDArray,
    nodes_y: NDArray,
    nodes_x: NDArray,
    offsets: NDArray,
    out: NDArray,
) -> None:
    """Write sums over copies of the Sersic profile, and of its raw derivatives, at nodes.

    Parameters
    ----------
    n, form, b_and_amplitude : ndarray
        Sersic indices ``(B,)``, coefficients of ``kappa**2`` ``(B, 3)``, value and slope in ``n`` of ``b_n`` and of
        the log amplitude ``(B, 1 or 2, 2)``.
    position : ndarray
        Centres (y, x), shape ``(B, 2)``.
    nodes_y, nodes_x : ndarray
        Nodes on the stamp, pixels.
    offsets : ndarray
        Offsets in x and y of the copies, shape ``(2, copies)``.
    out : ndarray
        Result, shape ``(B, 7 or 1, nodes, nodes)``.
    """
    n_copies = offsets.shape[1]
    is_full = out.shape[1] > 1
    sums = np.empty(8, np.float32)
    log_z, power = np.empty(n_copies, np.float32), np.empty(n_copies, np.float32)
    light, z2 = np.empty(n_copies, np.float32), np.empty(n_copies, np.float32)
    for galaxy in range(len(n)):
        a, b, c = form[galaxy]
        inverse = _ONE / (a * a - b * b - c * c)
        of_xx, of_yy, of_xy = (a - b) * inverse, (a + b) * inverse, -_TWO * c * inverse
        root, scale = _ONE / n[galaxy], math.sqrt(inverse)
        b_n, amplitude = b_and_amplitude[galaxy, 0]
        for i in range(len(nodes_y)):
            for j in range(len(nodes_x)):
                x0, y0 = nodes_x[j] - position[galaxy, 1], nodes_y[i] - position[galaxy, 0]
                for copy in range(n_copies):
                    dx, dy = x0 + offsets[0, copy], y0 + offsets[1, copy]
                    z2[copy] = of_xx * dx * dx + of_yy * dy * dy + of_xy * dx * dy
                for copy in range(n_copies):
                    log_z[copy] = _HALF * fast_log(z2[copy])
                    power[copy] = b_n * fast_exp(log_z[copy] * root)
                    light[copy] = fast_exp(amplitude - power[copy])
                sums[:] = _F(0.0)
                for copy in range(n_copies):
                    sums[0] += light[copy]
                out[galaxy, 0, i, j] = sums[0] * scale
                if not is_full:
                    continue
                s1, s2, s3, s4, s5, s6, s7 = _F(0), _F(0), _F(0), _F(0), _F(0), _F(0), _F(0)
                for copy in range(n_copies):
                    dx, dy = x0 + offsets[0, copy], y0 + offsets[1, copy]
                    steep = light[copy] * power[copy]
                    steeper = steep / z2[copy]
                    s1 += steep
                    s2 += steep * log_z[copy]
                    s3 += steeper * dx * dx
                    s4 += steeper * dy * dy
                    s5 += steeper * dx * dy
                    s6 += steeper * dy
                    s7 += steeper * dx
                total, steep = sums[0] * scale, s1 * scale
                b_slope, amplitude_slope = b_and_amplitude[galaxy, 1]
                by_n = total * amplitude_slope - steep * (b_slope / b_n) + s2 * scale * root * root
                half = -_HALF * root  # the derivative of the light by z**2 is this times the sums
                common = total + _TWO * half * steep
                xx, yy, xy, by_y, by_x = s3 * scale, s4 * scale, s5 * scale, s6 * scale, s7 * scale
                out[galaxy, 1, i, j] = by_n
                out[galaxy, 2, i, j] = (half * (xx + yy) - a * common) * inverse
                out[galaxy, 3, i, j] = (b * common - half * (xx - yy)) * inverse
                out[galaxy, 4, i, j] = (c * common - _TWO * half * xy) * inverse
                out[galaxy, 5, i, j] = -_TWO * half * ((a + b) * by_y - c * by_x) * inverse
                out[galaxy, 6, i, j] = -_TWO * half * ((a - b) * by_x - c * by_y) * inverse


@njit(fastmath=FAST_MATH, error_model="numpy")
def fill_light(values: NDArray, weights: NDArray, matrix_x: NDArray, line: NDArray) -> None:
    """Fill a row of pixels with light that is known at nodes ``values (nodes, nodes)``."""
    line[:] = _F(0.0)
    for j in range(len(matrix_x)):
        factor = _F(0.0)
        for i in range(len(weights)):
            factor += weights[i] * values[i, j]
        row = matrix_x[j]
        for x in range(len(line)):
            line[x] += factor * row[x]


@compile_loop(
    "void(float32[:, :, :, ::1], float32[:, :, :, ::1], float32[:, ::1], float32[:, ::1], float32[:, :, :, ::1])"
)
def subtract_wrapped(images: NDArray, nodes: NDArray, matrix_y: NDArray, matrix_x: NDArray, out: NDArray) -> None:
    """Write images from which the light at nodes, interpolated to pixels, is subtracted.

    Parameters
    ----------
    images : ndarray
        Periodic images, shape ``(B, C, ny, period in x)``.
    nodes : ndarray
        Light that is subtracted at nodes, shape ``(B, C, nodes, nodes)``.
    matrix_y, matrix_x : ndarray
        Interpolation from nodes to pixels, shapes ``(ny, nodes)`` and, turned, ``(nodes, nx)``.
    out : ndarray
        Result, shape ``(B, C, ny, nx)``.
    """
    nx = matrix_x.shape[1]
    light = np.empty(nx, np.float32)
    for galaxy in range(images.shape[0]):
        for image in range(images.shape[1]):
            values = nodes[galaxy, image]
            for y in range(images.shape[2]):
                fill_light(values, matrix_y[y], matrix_x, light)
                line, periodic = out[galaxy, image, y], images[galaxy, image, y]
                for x in range(nx):
                    line[x] = periodic[x] - light[x]
