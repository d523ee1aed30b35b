"""Stamps of models and of their derivatives, from spectra to pixels in one pass for each galaxy, compiled.

A stamp is shorter than its period, and its PSF passes fewer wavenumbers. Products with waves therefore are quicker than
fast Fourier transforms, for sides up to some dozens of pixels.
"""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from galmeasure.render.compiled import alias_columns
from galmeasure.render.compiled_lines import blend_pieces, fill_lines, fill_wave, line_buffers
from galmeasure.utils.compiled import FAST_MATH, compile_loop
from galmeasure.utils.compiled_math import multiply

__all__ = ["model_stamps"]

_F = np.float32
_WIDTH = 4  # rows of a matrix that its product takes at once


@njit(fastmath=FAST_MATH, error_model="numpy")
def _add_row(lines, sign, half, aliases, sums, differences):
    """Add a row of spectra to the sums over opposite wavenumbers in y, and to their differences."""
    straight_index, mirrored_index = aliases
    count, width = lines.shape[1] // 2, len(sums) // len(lines)
    size = 2 * min(count, half + 1)
    for image in range(len(lines)):
        line, start = lines[image], image * width
        total, difference = sums[start : start + width], differences[start : start + width]
        for number in range(size):
            total[number] += line[number]
        if sign > 0:
            for number in range(size):
                difference[number] += line[number]
        else:
            for number in range(size):
                difference[number] -= line[number]
        for column in range(half, count):
            re, im = line[2 * column], line[2 * column + 1]
            alias = straight_index[column]
            if alias >= 0:
                total[2 * alias] += re
                total[2 * alias + 1] += im
                difference[2 * alias] += sign * re
                difference[2 * alias + 1] += sign * im
            alias = mirrored_index[column]
            if alias >= 0:
                total[2 * alias] += re
                total[2 * alias + 1] -= im
                difference[2 * alias] -= sign * re
                difference[2 * alias + 1] += sign * im


@njit(fastmath=FAST_MATH, error_model="numpy")
def _unfold(even, odd, start, used, lines):
    """Fill columns of rows on both sides of the middle one from what is even about it, and what is odd over i."""
    middle = len(lines) // 2
    for distance in range(middle + 1):
        first, second = even[distance, start : start + used], odd[distance, start : start + used]
        line = lines[middle - distance]
        for column in range(used // 2):
            line[2 * column] = first[2 * column] + second[2 * column + 1]
            line[2 * column + 1] = first[2 * column + 1] - second[2 * column]
        if middle + distance < len(lines):
            line = lines[middle + distance]
            for column in range(used // 2):
                line[2 * column] = first[2 * column] - second[2 * column + 1]
                line[2 * column + 1] = first[2 * column + 1] + second[2 * column]


@njit(fastmath=FAST_MATH, error_model="numpy")
def _fill_light(matrix_y, nodes, start, lines):
    """Fill columns with less the light of each row at the nodes in x."""
    for y in range(len(lines)):
        for j in range(nodes.shape[1]):
            light = _F(0.0)
            for i in range(len(nodes)):
                light += matrix_y[y, i] * nodes[i, j]
            lines[y, start + j] = -light


@compile_loop(
    "void(float32[:, :, ::1], int64[::1], float32[:, :, ::1], float32[:, ::1], float64[:, ::1], float32[:, :, :, ::1],"
    "int64[::1], float64[::1], float64[::1], int64[::1], int64, int64, float32, float32[:, ::1], float32[:, ::1],"
    "float32[:, ::1], float32[:, :, :, ::1], float32[:, ::1], float32[:, ::1], float32[:, :, :, ::1])"
)
def model_stamps(
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
    side_y: int,
    side_x: int,
    least: float,
    cosines: NDArray,
    sines: NDArray,
    waves: NDArray,
    nodes: NDArray,
    matrix_y: NDArray,
    matrix_x: NDArray,
    out: NDArray,
) -> None:
    """Write stamps of models and of their six raw derivatives, less the light at nodes.

    Parameters
    ----------
    table : ndarray
        Polynomial pieces of the transform in log k, shape ``(rows, pieces, 4)``.
    first, weights : ndarray
        First row used by each galaxy, shape ``(B,)``; weights of four rows, and, for derivatives, their derivatives,
        shape ``(B, 1 or 2, 4)``.
    form, position : ndarray
        Coefficients of ``kappa**2``, shape ``(B, 3)``, and centres (y, x), y from row ``ny // 2``, shape ``(B, 2)``.
    psf, psf_index : ndarray
        Transforms of the PSFs, real and imaginary parts side by side, shape ``(M, rows, columns, 2)``, and that of each
        galaxy, shape ``(B,)``.
    ky, kx : ndarray
        Wavenumbers of the rows and columns.
    alias_y : ndarray
        Row of a period for each of these rows.
    side_y, side_x : int
        Periods; wavenumbers beyond their halves are aliases of others.
    least : float
        Smallest ``kappa**2`` that is told from zero.
    cosines, sines : ndarray
        Waves in y at 0, 1, ... pixels from row ``ny // 2``, by wavenumber, shape ``(ny // 2 + 1 or more, rows)``.
    waves : ndarray
        Waves in x, by real and imaginary part of a column, shape ``(2 columns or more, nx)``.
    nodes : ndarray
        Light that is subtracted at nodes, shape ``(B, 7 or 1, nodes, nodes)``.
    matrix_y, matrix_x : ndarray
        Interpolation from nodes to pixels, shapes ``(ny, nodes)`` and, turned, ``(nodes, nx)``.
    out : ndarray
        Result, shape ``(B, 7 or 1, ny, nx)``.
    """
    n_columns, n_images, half = len(kx), out.shape[1], side_x // 2
    width, of_nodes = len(waves), len(matrix_x) + (-len(matrix_x)) % _WIDTH
    pieces = np.empty((table.shape[1], 8), np.float32)
    buffers, aliases = line_buffers(n_columns, kx), alias_columns(n_columns, side_x)
    lines = np.empty((n_images, 2 * n_columns), np.float32)
    size = n_images * width
    sums, differences = np.empty((cosines.shape[1], size), np.float32), np.empty((cosines.shape[1], size), np.float32)
    even, odd = np.empty((len(cosines), size), np.float32), np.empty((len(cosines), size), np.float32)
    rows = np.zeros((out.shape[2], width + of_nodes), np.float32)
    across = np.zeros((width + of_nodes, out.shape[3]), np.float32)
    across[:width] = waves
    across[width : width + len(matrix_x)] = matrix_x
    for galaxy in range(len(first)):
        for order in range(weights.shape[1]):
            blend_pieces(table, first[galaxy], weights[galaxy, order], 4 * order, pieces)
        sums[:] = _F(0.0)
        differences[:] = _F(0.0)
        fill_wave(position[galaxy, 1], kx, buffers[3][1])
        transform = psf[psf_index[galaxy]]
        for row in range(len(ky)):
            angle = -position[galaxy, 0] * ky[row]
            phase = _F(math.cos(angle)), _F(math.sin(angle))
            fill_lines(pieces, form[galaxy], least, _F(ky[row]), phase, transform[row], buffers, lines)
            place, sign = alias_y[row], 1
            if 2 * place > side_y:
                place, sign = side_y - place, -1
            _add_row(lines, sign, half, aliases, sums[place], differences[place])
        multiply(cosines, sums, even)
        multiply(sines, differences, odd)
        for image in range(n_images):
            _unfold(even, odd, image * width, width, rows)
            _fill_light(matrix_y, nodes[galaxy, image], width, rows)
            multiply(rows, across, out[galaxy, image])
