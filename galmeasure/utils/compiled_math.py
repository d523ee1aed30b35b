"""Elementary functions in single precision for compiled loops, in a form that vectorizes."""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from galmeasure.utils.compiled import FAST_MATH

__all__ = ["dot", "fast_exp", "fast_log", "multiply"]

_F = np.float32
_ONE, _TWO = _F(1.0), _F(2.0)
_LOG_TWO = _F(math.log(2.0))
_PER_LOG_TWO = _F(1.0 / math.log(2.0))
_THIRD, _FIFTH, _SEVENTH, _NINTH = _F(1 / 3), _F(1 / 5), _F(1 / 7), _F(1 / 9)
_INFINITY = _F(np.inf)
_ROOT_HALF_BITS = np.int32(0x3F3504F3)
_MANTISSA = np.int32(23)  # bits
_EXPONENT_BIAS = np.int32(127)
_LOWEST, _HIGHEST = _F(-87.0), _F(88.0)  # arguments beyond these count as these
_EXP = tuple(_F(1.0 / math.factorial(order)) for order in range(2, 7))


@njit(inline="always")
def fast_log(x: np.float32) -> np.float32:
    """Natural logarithm of a positive normal number, to two units in the last place; NaN and infinity stay."""
    bits = _F(x).view(np.int32)
    exponent = (bits - _ROOT_HALF_BITS) >> _MANTISSA
    mantissa = np.int32(bits - (exponent << _MANTISSA)).view(np.float32)
    s = (mantissa - _ONE) / (mantissa + _ONE)
    q = s * s
    series = _ONE + q * (_THIRD + q * (_FIFTH + q * (_SEVENTH + q * _NINTH)))
    return _F(exponent) * _LOG_TWO + _TWO * s * series if x < _INFINITY else x


@njit(inline="always")
def fast_exp(x: np.float32) -> np.float32:
    """Exponential function, to a few units in the last place."""
    x = min(max(x, _LOWEST), _HIGHEST)
    whole = np.int32(x * _PER_LOG_TWO + _F(128.5)) - np.int32(128)  # the nearest integer
    rest = x - _F(whole) * _LOG_TWO
    series = _EXP[3] + rest * _EXP[4]
    series = _EXP[1] + rest * (_EXP[2] + rest * series)
    series = _ONE + rest * (_ONE + rest * (_EXP[0] + rest * series))
    return series * np.int32((whole + _EXPONENT_BIAS) << _MANTISSA).view(np.float32)


@njit(fastmath=FAST_MATH, error_model="numpy")
def dot(left: NDArray, right: NDArray) -> np.float32:
    """Sum of the products of two arrays of single-precision numbers."""
    total = _F(0.0)
    for number in range(len(left)):
        total += left[number] * right[number]
    return total


@njit(fastmath=FAST_MATH, error_model="numpy")
def _add_row_product(left, right, out):
    """Add the product of a row and a matrix to a row."""
    for inner in range(len(left)):
        factor, row = left[inner], right[inner]
        for column in range(len(row)):
            out[column] += factor * row[column]


@njit(fastmath=FAST_MATH, error_model="numpy")
def multiply(left: NDArray, right: NDArray, out: NDArray) -> None:
    """Fill ``out (m, n)`` with the product of small matrices ``left (m, k)`` and ``right (k, n)``.

    Quick where ``m`` and ``k`` are multiples of 4 and ``n`` is one of 8. Unlike in a product by a library, each element
    is the same whatever the others are.
    """
    count, whole, even = len(left), len(left) // 4 * 4, left.shape[1] // 4 * 4
    out[:] = _F(0.0)
    for row in range(0, whole, 4):
        o0, o1, o2, o3 = out[row], out[row + 1], out[row + 2], out[row + 3]
        l0, l1, l2, l3 = left[row], left[row + 1], left[row + 2], left[row + 3]
        for k in range(0, even, 4):
            a0, a1, a2, a3 = l0[k], l0[k + 1], l0[k + 2], l0[k + 3]
            b0, b1, b2, b3 = l1[k], l1[k + 1], l1[k + 2], l1[k + 3]
            c0, c1, c2, c3 = l2[k], l2[k + 1], l2[k + 2], l2[k + 3]
            d0, d1, d2, d3 = l3[k], l3[k + 1], l3[k + 2], l3[k + 3]
            r0, r1, r2, r3 = right[k], right[k + 1], right[k + 2], right[k + 3]
            for column in range(len(r0)):
                v0, v1, v2, v3 = r0[column], r1[column], r2[column], r3[column]
                o0[column] += a0 * v0 + a1 * v1 + a2 * v2 + a3 * v3
                o1[column] += b0 * v0 + b1 * v1 + b2 * v2 + b3 * v3
                o2[column] += c0 * v0 + c1 * v1 + c2 * v2 + c3 * v3
                o3[column] += d0 * v0 + d1 * v1 + d2 * v2 + d3 * v3
        for extra in range(row, row + 4):
            _add_row_product(left[extra, even:], right[even:], out[extra])
    for row in range(whole, count):
        _add_row_product(left[row], right, out[row])
