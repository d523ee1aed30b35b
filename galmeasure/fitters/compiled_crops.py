"""Squares cut out of stamps, and put back, by compiled loops."""

import numpy as np
from numba import types
from numpy.typing import NDArray

from galmeasure.utils.compiled import compile_loop

__all__ = ["cut_squares", "put_squares"]

_PIXELS = types.Array(types.float32, 3, "C", readonly=True)
_FLAGS = types.Array(types.boolean, 3, "C", readonly=True)
_ROWS = types.Array(types.int64, 1, "C", readonly=True)
_STARTS = types.Array(types.int64, 2, "C", readonly=True)
_ZERO = np.float32(0.0)
_OUT, _OUT_FLAGS = types.Array(types.float32, 3, "C"), types.Array(types.boolean, 3, "C")
_SUMS, _COUNTS = types.Array(types.float64, 1, "C"), types.Array(types.int64, 1, "C")


@compile_loop(
    types.void(
        _PIXELS, _PIXELS, _FLAGS, _ROWS, _STARTS, types.int64, _OUT, _OUT, _OUT, _OUT_FLAGS, _SUMS, _COUNTS
    )
)  # fmt: skip
def cut_squares(
    image: NDArray,
    error: NDArray,
    good: NDArray,
    rows: NDArray,
    start: NDArray,
    side: int,
    residual: NDArray,
    cut_image: NDArray,
    cut_error: NDArray,
    cut_good: NDArray,
    chi2: NDArray,
    n_pixels: NDArray,
) -> None:
    """Write squares of stamps, and whole stamps over their noise.

    Parameters
    ----------
    image, error, good : ndarray
        Pixels, their noise and whether they count, shape ``(B, ny, nx)``; the noise may have one row, or one pixel a
        row.
    rows, start : ndarray
        Rows of these, shape ``(K,)``, and the pixel, y and x, with which each square begins, shape ``(K, 2)``.
    side : int
        Side of the squares, pixels, not above those of the stamps.
    residual : ndarray
        Written: whole stamps over their noise, 0 where bad, shape ``(K, ny, nx)``.
    cut_image, cut_error, cut_good : ndarray
        Written: squares, shape ``(K, side, side)``; those of the noise only where it differs within a stamp.
    chi2, n_pixels : ndarray
        Written: sum of the squares of pixels over their noise beyond the square, and all pixels that count, ``(K,)``.
    """
    _, ny, nx = image.shape
    is_map = error.shape[1] > 1 or error.shape[2] > 1
    for number in range(len(rows)):
        row, first_y, first_x = rows[number], start[number, 0], start[number, 1]
        error_row = row if len(error) > 1 else 0
        total, count = 0.0, 0
        for y in range(ny):
            error_y = y if error.shape[1] > 1 else 0
            for x in range(nx):
                noise = error[error_row, error_y, x if error.shape[2] > 1 else 0]
                value = image[row, y, x] / noise if good[row, y, x] else _ZERO
                residual[number, y, x] = value
                total += float(value) * float(value)
                count += good[row, y, x]
        for y in range(side):
            error_y = first_y + y if error.shape[1] > 1 else 0
            for x in range(side):
                value = residual[number, first_y + y, first_x + x]
                total -= float(value) * float(value)
                cut_image[number, y, x] = image[row, first_y + y, first_x + x]
                cut_good[number, y, x] = good[row, first_y + y, first_x + x]
                if is_map:
                    cut_error[number, y, x] = error[error_row, error_y, first_x + x if error.shape[2] > 1 else 0]
        chi2[number], n_pixels[number] = total, count


@compile_loop(types.void(_PIXELS, _ROWS, _STARTS, _PIXELS, _OUT))
def put_squares(stamps: NDArray, rows: NDArray, start: NDArray, squares: NDArray, out: NDArray) -> None:
    """Write stamps with squares in their places.

    Parameters
    ----------
    stamps : ndarray
        Whole stamps, shape ``(B, ny, nx)``.
    rows, start : ndarray
        Rows of these, shape ``(K,)``, and the pixel, y and x, with which each square begins, shape ``(K, 2)``.
    squares : ndarray
        Shape ``(K, side, side)``.
    out : ndarray
        Result, shape ``(K, ny, nx)``.
    """
    side = squares.shape[1]
    for number in range(len(rows)):
        out[number] = stamps[rows[number]]
        first_y, first_x = start[number, 0], start[number, 1]
        out[number, first_y : first_y + side, first_x : first_x + side] = squares[number]
