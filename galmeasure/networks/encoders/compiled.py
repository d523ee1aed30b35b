"""What the encoder that mixes places does between its products of matrices, compiled."""

import math

import numpy as np
from numba import njit
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from scipy.special import ndtr

from galmeasure.utils.compiled import FAST_MATH, compile_loop

__all__ = ["apply_gelu", "cut_patches", "join_groups", "split_groups"]

_F = np.float32
_ONE, _HALF = _F(1.0), _F(0.5)
_TOP = 5.0  # standard deviations beyond which a normal variable is not found
_PER_SQUARE, _BOUND = _F(2.0 / _TOP**2), _F(_TOP)


def _normal_series(degree=12, n_nodes=400):
    """Polynomial in ``2 v**2 / top**2 - 1`` for the normal distribution function less a half, over ``v``.

    An error of 2e-6 in GELU, of the order of what single precision leaves in the products of matrices about it.
    """
    node = np.cos(np.pi * (np.arange(n_nodes) + 0.5) / n_nodes)
    value = _TOP * np.sqrt(0.5 * (node + 1.0))
    series = chebyshev.chebfit(node, (ndtr(value) - 0.5) / value, degree)
    return tuple(chebyshev.cheb2poly(series).astype(np.float32))


_NORMAL = _normal_series()


@compile_loop("void(float32[::1])")
def apply_gelu(values: NDArray) -> None:
    """Replace numbers by their products with the normal distribution function; what is no number stays so.

    Parameters
    ----------
    values : ndarray
        Argument, and in its place the result, shape ``(N,)``.
    """
    for number in range(len(values)):
        value = values[number]
        bounded = -_BOUND if value < -_BOUND else value
        bounded = _BOUND if bounded > _BOUND else bounded
        place = bounded * bounded * _PER_SQUARE - _ONE
        low = ((_NORMAL[3] * place + _NORMAL[2]) * place + _NORMAL[1]) * place + _NORMAL[0]
        middle = ((_NORMAL[7] * place + _NORMAL[6]) * place + _NORMAL[5]) * place + _NORMAL[4]
        high = ((_NORMAL[11] * place + _NORMAL[10]) * place + _NORMAL[9]) * place + _NORMAL[8]
        square = place * place
        square *= square
        series = ((_NORMAL[12] * square + high) * square + middle) * square + low
        values[number] = value * (_HALF + bounded * series)


@compile_loop("void(float32[:, :, :, ::1], int64, float32[:, :, ::1])")
def cut_patches(view: NDArray, side: int, out: NDArray) -> None:
    """Write square patches of images side by side.

    Parameters
    ----------
    view : ndarray
        Images, shape ``(B, channels, rows, columns)``.
    side : int
        Pixels of a patch along its side.
    out : ndarray
        Result, channels of a patch one after another, shape ``(B, patches, channels * side**2)``.
    """
    n_channels, n_rows, n_columns = view.shape[1:]
    across, area = n_columns // side, side * side
    for galaxy in range(len(view)):
        for channel in range(n_channels):
            for y in range(n_rows // side * side):
                line, start = view[galaxy, channel, y], channel * area + y % side * side
                for patch in range(across):
                    to = out[galaxy, y // side * across + patch]
                    for x in range(side):
                        to[start + x] = line[patch * side + x]


@compile_loop("void(float32[:, :, ::1], float32[:, :, ::1])")
def split_groups(tokens: NDArray, out: NDArray) -> None:
    """Write the channels of places group by group, those of all galaxies side by side.

    Parameters
    ----------
    tokens : ndarray
        Shape ``(B, places, channels)``.
    out : ndarray
        Result, shape ``(groups, places, B * channels of a group)``.
    """
    count, n_places, width = tokens.shape
    size = width // len(out)
    for place in range(n_places):  # so that rows of the result are filled from end to end
        for galaxy in range(count):
            row = tokens[galaxy, place]
            for group in range(len(out)):
                to, start = out[group, place], galaxy * size
                for channel in range(size):
                    to[start + channel] = row[group * size + channel]


@njit(fastmath=FAST_MATH, error_model="numpy")
def _normalise(row, scale, shift, least):
    """Turn a row into one of mean zero and variance one, times a scale, plus a shift."""
    total, square = _F(0.0), _F(0.0)
    for channel in range(len(row)):
        total += row[channel]
    mean = total / _F(len(row))
    for channel in range(len(row)):
        away = row[channel] - mean
        square += away * away
    factor = _ONE / math.sqrt(square / _F(len(row)) + least)
    for channel in range(len(row)):
        row[channel] = (row[channel] - mean) * factor * scale[channel] + shift[channel]


@compile_loop("void(float32[:, :, ::1], float32[::1], float32[::1], float32[:, ::1], float32, float32[:, :, ::1])")
def join_groups(
    mixed: NDArray, weight: NDArray, bias: NDArray, modulation: NDArray, least: float, out: NDArray
) -> None:
    """Write channels place by place, normalised, and scaled and shifted by what is known of the PSF.

    Parameters
    ----------
    mixed : ndarray
        Channels group by group, as `split_groups` writes them.
    weight, bias : ndarray
        Of the normalisation, shape ``(channels,)``.
    modulation : ndarray
        What is added to a scale of 1, then the shift, shape ``(B, 2 * channels)``.
    least : float
        Added to the variance.
    out : ndarray
        Result, shape ``(B, places, channels)``.
    """
    count, n_places, width = out.shape
    size = width // len(mixed)
    scale, shift = np.empty((2, count, width), np.float32)
    for galaxy in range(count):
        for channel in range(width):
            factor = _ONE + modulation[galaxy, channel]
            scale[galaxy, channel] = weight[channel] * factor
            shift[galaxy, channel] = bias[channel] * factor + modulation[galaxy, width + channel]
    for place in range(n_places):  # so that rows of the groups are read from end to end
        for galaxy in range(count):
            row = out[galaxy, place]
            for group in range(len(mixed)):
                line, start = mixed[group, place], galaxy * size
                for channel in range(size):
                    row[group * size + channel] = line[start + channel]
            _normalise(row, scale[galaxy], shift[galaxy], least)
