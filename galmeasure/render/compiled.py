"""The renderer's loops, compiled: spectra of models and derivatives, and the light that wraps around."""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from galmeasure.render.profiles import TABLE_LOG_K
from galmeasure.utils.compiled import FAST_MATH, compile_loop
from galmeasure.utils.compiled_math import fast_exp, fast_log

__all__ = ["light_beyond", "spectra", "subtract_wrapped", "wrapped_nodes"]

_F = np.float32
_ONE, _TWO, _HALF = _F(1.0), _F(2.0), _F(0.5)

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
def _add_row(lines, straight, half, straight_index, mirrored_index, images):
    """Add a row of spectra to the wavenumbers of pixels, and what lies at Nyquist or beyond to its aliases."""
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
    n_pieces, n_columns, half = table.shape[1], len(kx), side_x // 2
    is_full = weights.shape[1] > 1
    pieces = np.empty((n_pieces, 8), np.float32)
    factor, fraction = np.empty((2, n_columns), np.float32)
    index = np.empty(n_columns, np.int32)
    # numbers that real and imaginary parts share stand twice, as those of the result do
    value, slope, by_n, carrier, turned, twice_kx, wave_x = np.empty((7, 2 * n_columns), np.float32)
    lines = np.empty((out.shape[1], 2 * n_columns), np.float32)
    straight_index, mirrored_index = np.full(n_columns, -1), np.full(n_columns, -1)
    for column in range(half, n_columns):
        alias = column % side_x
        if half < column and alias <= half:
            straight_index[column] = alias
        if alias >= half or alias == 0:
            mirrored_index[column] = (side_x - alias) % side_x
    for column in range(n_columns):
        twice_kx[2 * column] = twice_kx[2 * column + 1] = _F(kx[column])
    kx32 = kx.astype(np.float32)
    for galaxy in range(len(first)):
        for order in range(weights.shape[1]):
            _blend(table, first[galaxy], weights[galaxy, order], 4 * order, pieces)
        out[galaxy] = _F(0.0)
        for column in range(n_columns):
            angle = -position[galaxy, 1] * kx[column]
            wave_x[2 * column], wave_x[2 * column + 1] = _F(math.cos(angle)), _F(math.sin(angle))
        transform = psf[psf_index[galaxy]]
        for row in range(len(ky)):
            k_y, angle = _F(ky[row]), -position[galaxy, 0] * ky[row]
            _fill_places(kx32, k_y, form[galaxy], least, n_pieces, factor, fraction, index)
            _fill_carrier(transform[row], _F(math.cos(angle)), _F(math.sin(angle)), wave_x, carrier)
            _fill_profile(pieces, fraction, index, factor, is_full, value, slope, by_n)
            line = lines[0]
            for number in range(2 * n_columns):
                line[number] = value[number] * carrier[number]
            if is_full:
                for column in range(n_columns):
                    turned[2 * column], turned[2 * column + 1] = line[2 * column + 1], -line[2 * column]
                _lines_of_derivatives(twice_kx, k_y, slope, by_n, carrier, turned, lines)
            _add_row(lines, alias_y[row], half, straight_index, mirrored_index, out[galaxy])


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
    n_nodes, nx = matrix_x.shape
    light = np.empty(nx, np.float32)
    for galaxy in range(images.shape[0]):
        for image in range(images.shape[1]):
            values = nodes[galaxy, image]
            for y in range(images.shape[2]):
                light[:] = _F(0.0)
                for j in range(n_nodes):
                    factor = _F(0.0)
                    for i in range(n_nodes):
                        factor += matrix_y[y, i] * values[i, j]
                    row = matrix_x[j]
                    for x in range(nx):
                        light[x] += factor * row[x]
                line, periodic = out[galaxy, image, y], images[galaxy, image, y]
                for x in range(nx):
                    line[x] = periodic[x] - light[x]
