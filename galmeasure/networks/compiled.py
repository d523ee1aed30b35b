"""Autoregressive flows of splines, compiled: one pass through a network for each draw, in both directions."""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from galmeasure.utils.compiled import FAST_MATH, compile_loop
from galmeasure.utils.compiled_math import fast_exp

__all__ = ["transform_draws"]

_F = np.float32
_ZERO, _ONE, _TWO, _FOUR = _F(0.0), _F(1.0), _F(2.0), _F(4.0)
_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


@njit(fastmath=FAST_MATH, error_model="numpy")
def _add_multiple(factor, left, total):
    for number in range(len(total)):
        total[number] += factor * left[number]


@njit(fastmath=FAST_MATH, error_model="numpy")
def _fill_knots(shares, bound, log_slope, knots):
    """Fill knots, whose distances are softmax functions of bounded numbers."""
    n_bins, total = len(shares), _ZERO
    for number in range(n_bins):
        share = shares[number]
        share = fast_exp(share / (_ONE + abs(_TWO * share / log_slope)))
        knots[number + 1] = share
        total += share
    knots[0], end = -bound, _ZERO
    for number in range(1, n_bins + 1):
        end += knots[number] / total
        knots[number] = bound * (_TWO * end - _ONE)


@njit(error_model="numpy")
def _derivative(numbers, knot, log_slope):
    """Slope at a knot, 1 at the ends."""
    if knot == 0 or knot > len(numbers):
        return _ONE
    number = numbers[knot - 1]
    return fast_exp(number / (_ONE + abs(number / log_slope)))


@njit(error_model="numpy")
def _spline(numbers, value, inverse, bound, log_slope, x, y):
    """Value of a spline, or of its inverse, and the logarithm of the derivative of the spline in both cases."""
    n_bins = len(x) - 1
    _fill_knots(numbers[:n_bins], bound, log_slope, x)
    _fill_knots(numbers[n_bins : 2 * n_bins], bound, log_slope, y)
    knots, k = y if inverse else x, -1
    for knot in knots:
        k += int(knot < value)
    if k < 0 or k >= n_bins:
        return value, 0.0
    d0 = _derivative(numbers[2 * n_bins :], k, log_slope)
    d1 = _derivative(numbers[2 * n_bins :], k + 1, log_slope)
    width, height = x[k + 1] - x[k], y[k + 1] - y[k]
    s = height / width
    bend = d0 + d1 - _TWO * s
    if inverse:
        away = value - y[k]
        a, b, c = height * (s - d0) + away * bend, height * d0 - away * bend, -s * away
        z = _TWO * c / (-b - math.sqrt(b * b - _FOUR * a * c))
    else:
        z = (value - x[k]) / width
    rest = _ONE - z
    share = s + bend * z * rest
    slope = s * s * (_TWO * s * z * rest + d0 * rest * rest + d1 * z * z) / (share * share)
    moved = x[k] + z * width if inverse else y[k] + height * (s * z * z + d0 * z * rest) / share
    return moved, math.log(float(slope))


@njit(error_model="numpy")
def _pass(layers, ends, order, inverse, bound, log_slope, values, units, numbers, x, y):
    """Transform the values of one draw in place, in the order of their dependence; gives the log of the volume."""
    first, hidden, last = layers
    n_layers, n_features = len(units), len(order)
    size, log_volume = len(numbers) // n_features, 0.0
    for position in range(n_features):
        # units of which all inputs are known by now: what they add to those after them
        for layer in range(n_layers):
            for unit in range(ends[layer, position], ends[layer, position + 1]):
                level = units[layer, unit]
                if level <= _ZERO:
                    continue
                if layer + 1 < n_layers:
                    start = ends[layer + 1, position]
                    _add_multiple(level, hidden[layer, unit, start:], units[layer + 1, start:])
                else:
                    start = position * size
                    _add_multiple(level, last[unit, start:], numbers[start:])
        feature = order[position]
        spline = numbers[position * size : (position + 1) * size]
        moved, log_slope_here = _spline(spline, values[feature], inverse, bound, log_slope, x, y)
        start = ends[0, position + 1]
        _add_multiple(moved if inverse else values[feature], first[feature, start:], units[0, start:])
        values[feature] = moved
        log_volume += log_slope_here
    return log_volume


@compile_loop(
    "void(float32[:, :, ::1], float32[:, ::1], float32[:, :, ::1], float32[:, ::1], float32[:, :, :, ::1],"
    "float32[:, :, ::1], float32[:, :, ::1], float32[:, ::1], int64[:, :, ::1], int64[:, ::1], float32, float32,"
    "boolean, float32[:, :, ::1], float32[:, ::1])"
)
def transform_draws(
    values: NDArray,
    context: NDArray,
    first: NDArray,
    first_bias: NDArray,
    hidden: NDArray,
    hidden_bias: NDArray,
    last: NDArray,
    last_bias: NDArray,
    ends: NDArray,
    order: NDArray,
    bound: float,
    log_slope: float,
    inverse: bool,
    out: NDArray,
    log_density: NDArray,
) -> None:
    """Write draws transformed by a flow or by its inverse.

    Parameters
    ----------
    values, context : ndarray
        Draws, shape ``(S, B, D)``, and context of each galaxy, shape ``(B, C)``.
    first, first_bias : ndarray
        Weights of the first layer of each transform, by input, shape ``(T, D + C, H)``, and biases, shape ``(T, H)``.
    hidden, hidden_bias : ndarray
        Those of the other hidden layers, shapes ``(T, L - 1, H, H)`` and ``(T, L - 1, H)``.
    last, last_bias : ndarray
        Those of the last layer, shapes ``(T, H, D P)`` and ``(T, D P)``, the numbers of a spline side by side.
    ends : ndarray
        How many units of each layer are known before each feature, shape ``(T, L, D + 1)``.
    order : ndarray
        Features in the order of their dependence, shape ``(T, D)``.
    bound, log_slope : float
        Bound of the splines' domains, and logarithm of their smallest slope.
    inverse : bool
        Go from the base distribution to the draws.
    out : ndarray
        Result, shape ``(S, B, D)``.
    log_density : ndarray
        Result: log density of the draws in the flow, those that go in or those that come out, shape ``(S, B)``.
    """
    n_transforms, n_layers, n_features = ends.shape[0], ends.shape[1], order.shape[1]
    n_hidden, n_bins = first.shape[2], (last.shape[2] // n_features + 1) // 3
    start_units = np.empty((n_transforms, n_layers, n_hidden), np.float32)
    units, numbers = np.empty((n_layers, n_hidden), np.float32), np.empty(last.shape[2], np.float32)
    x, y = np.empty(n_bins + 1, np.float32), np.empty(n_bins + 1, np.float32)
    for galaxy in range(values.shape[1]):
        for transform in range(n_transforms):
            start_units[transform, 0], start_units[transform, 1:] = first_bias[transform], hidden_bias[transform]
            for number in range(context.shape[1]):
                weights = first[transform, n_features + number]
                _add_multiple(context[galaxy, number], weights, start_units[transform, 0])
        for draw in range(len(values)):
            moved, log_volume = out[draw, galaxy], 0.0
            moved[:] = values[draw, galaxy]
            for step in range(n_transforms):
                transform = n_transforms - 1 - step if inverse else step
                units[:], numbers[:] = start_units[transform], last_bias[transform]
                layers = first[transform], hidden[transform], last[transform]
                of_transform = ends[transform], order[transform], inverse, bound, log_slope
                log_volume += _pass(layers, *of_transform, moved, units, numbers, x, y)
            normal = values[draw, galaxy] if inverse else moved
            for feature in range(n_features):
                log_volume -= 0.5 * float(normal[feature]) ** 2 + _HALF_LOG_TWO_PI
            log_density[draw, galaxy] = log_volume
