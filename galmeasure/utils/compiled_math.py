"""Elementary functions in single precision for compiled loops, in a form that vectorizes."""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from galmeasure.utils.compiled import FAST_MATH

__all__ = ["dot", "fast_exp", "fast_log"]

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
