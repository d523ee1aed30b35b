"""Stamps of models and of their derivatives, from spectra to pixels in one pass for each galaxy, compiled.

A stamp is shorter than its period, and its PSF passes fewer wavenumbers. Products with waves therefore are quicker than
fast Fourier transforms, for sides up to some dozens of pixels.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from galmeasure.render.compiled_spectra import fill_spectrum, spectrum_buffers
from galmeasure.utils.compiled import FAST_MATH, compile_loop
from galmeasure.utils.compiled_math import multiply

__all__ = ["model_stamps"]

_F = np.float32
_WIDTH = 4  # rows of a matrix that its product takes at once


@njit(fastmath=FAST_MATH, error_model="numpy")
def _fill_pairs(spectrum, start, sums, differences):
    """Fill columns with sums and differences of the rows of a spectrum that belong to opposite wavenumbers in y."""
    side, width = spectrum.shape
    for row in range(min(side // 2 + 1, len(sums))):
        line, other = spectrum[row], spectrum[(side - row) % side]
        total, difference = sums[row, start : start + width], differences[row, start : start + width]
        weight = _F(0.5) if row == (side - row) % side else _F(1.0)  # zero and Nyquist are their own opposites
        for number in range(width):
            total[number] = weight * (line[number] + other[number])
            difference[number] = line[number] - other[number]


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
    "int64[::1], float64[::1], float64[::1], int64[::1], int64, float32, int64, float32[:, ::1], float32[:, ::1],"
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
    side_x: int,
    least: float,
    side_y: int,
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
    table, first, weights, form, position, psf, psf_index, ky, kx, alias_y, side_x, least
        As in `galmeasure.render.compiled.spectra`, with centres from the pixel ``(ny // 2, nx // 2)``.
    side_y : int
        Period of the grid in y, in pixels.
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
    n_images, width, of_nodes = out.shape[1], len(waves), len(matrix_x) + (-len(matrix_x)) % _WIDTH
    buffers = spectrum_buffers(table, kx, side_x, n_images)
    spectrum = np.empty((n_images, side_y, 2 * min(len(kx), side_x // 2 + 1)), np.float32)
    size = n_images * width
    sums, differences = np.zeros((cosines.shape[1], size), np.float32), np.zeros((cosines.shape[1], size), np.float32)
    even, odd = np.empty((len(cosines), size), np.float32), np.empty((len(cosines), size), np.float32)
    rows = np.zeros((out.shape[2], width + of_nodes), np.float32)
    across = np.zeros((width + of_nodes, out.shape[3]), np.float32)
    across[:width] = waves
    across[width : width + len(matrix_x)] = matrix_x
    for galaxy in range(len(first)):
        of_galaxy = first[galaxy], weights[galaxy], form[galaxy], position[galaxy], psf[psf_index[galaxy]]
        fill_spectrum(table, of_galaxy, (ky, kx, alias_y, side_x, least), buffers, spectrum)
        for image in range(n_images):
            _fill_pairs(spectrum[image], image * width, sums, differences)
        multiply(cosines, sums, even)
        multiply(sines, differences, odd)
        for image in range(n_images):
            _unfold(even, odd, image * width, width, rows)
            _fill_light(matrix_y, nodes[galaxy, image], width, rows)
            multiply(rows, across, out[galaxy, image])
