"""Medians of the rows of a table, compiled: the middle is found without sorting."""

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from galmeasure.utils.compiled import FAST_MATH, compile_loop

__all__ = ["masked_medians", "median_of"]


_SAMPLE = 64  # values that bracket the middle
_MARGIN = 10  # of their ranks, 2.5 standard deviations, on either side
_SLACK = 0.1  # of the values in a bracket, on either side, in a narrower one
_FEW = 1024  # values that are parted at once, which costs less than a bracket
_PIVOTS = 9  # values from which a pivot is chosen
_BLOCK = 4096  # values that are counted in single precision
_U = np.uint64  # indices of this type need no test of their sign


@njit(error_model="numpy")
def _bracket(values, count, rank):
    """Sampled bounds between which the values of a rank and of the one before it are likely to be."""
    sample, step = np.empty(_SAMPLE, values.dtype), (count // _SAMPLE - 1) | 1  # odd: not down a column of an image
    for number in range(_SAMPLE):
        value, place = values[number * step], number
        while place > 0 and sample[place - 1] > value:
            sample[place] = sample[place - 1]
            place -= 1
        sample[place] = value
    middle = rank * _SAMPLE // count
    return sample[max(middle - _MARGIN, 0)], sample[min(middle + _MARGIN, _SAMPLE - 1)]


@njit(fastmath=FAST_MATH, error_model="numpy")
def _count_block(values, low, high):
    zero, one = values.dtype.type(0.0), values.dtype.type(1.0)
    below, up_to = zero, zero
    for index in range(len(values)):
        below += one if values[index] < low else zero
        up_to += one if values[index] <= high else zero
    return below, up_to


@njit(error_model="numpy")
def _count(values, count, low, high):
    """How many of the first values are below a bound, and how many are not above another one."""
    n_below, n_up_to = 0, 0
    for start in range(0, count, _BLOCK):
        below, up_to = _count_block(values[start : min(start + _BLOCK, count)], low, high)
        n_below, n_up_to = n_below + np.int64(below), n_up_to + np.int64(up_to)
    return n_below, n_up_to


@njit(error_model="numpy")
def _keep_between(values, count, low, high, kept):
    """Write the values between two bounds."""
    n_kept = _U(0)
    for index in range(_U(count)):
        value = values[index]
        kept[n_kept] = value
        n_kept += _U(value >= low) & _U(value <= high)


@njit(error_model="numpy")
def _middle_of(first, second, third):
    return max(min(first, second), min(max(first, second), third))


@njit(error_model="numpy")
def _largest(values, count):
    largest = values[0]
    for index in range(1, count):
        largest = max(largest, values[index])
    return largest


@njit(error_model="numpy")
def _values_of_ranks(values, count, rank, room):
    """Values of a rank and of the one before it among the first ``count``, whose order changes; nothing branches.

    The values below and above a pivot are written to the beginning of the one and of the other array.
    """
    before = values[0]  # the largest value that was left behind below
    while True:
        step = count // _PIVOTS
        pivot = (
            _middle_of(values[0], values[count // 2], values[count - 1])
            if step < 5
            else _middle_of(
                _middle_of(values[0], values[step], values[2 * step]),
                _middle_of(values[3 * step], values[4 * step], values[5 * step]),
                _middle_of(values[6 * step], values[7 * step], values[8 * step]),
            )
        )
        n_less, n_more = _U(0), _U(0)
        for index in range(_U(count)):
            value = values[index]
            values[n_less] = value
            room[n_more] = value
            n_less += _U(value < pivot)
            n_more += _U(value > pivot)
        less, more = np.int64(n_less), np.int64(n_more)
        if rank < less:
            count = less
        elif rank < count - more:
            if rank > less:
                before = pivot
            elif less > 0:
                before = _largest(values, less)
            return before, pivot
        else:
            before = pivot
            rank -= count - more
            count = more
            values, room = room, values


@njit(error_model="numpy")
def _middle_values(values, count, rank, room):
    """Values of a rank from 1 on and of the one before it among the first ``count``, which may be overwritten."""
    if count > _FEW:
        low, high = _bracket(values, count, rank)
        below, up_to = _count(values, count, low, high)
        if below < rank and rank < up_to:
            if low == high:
                return low, high
            share, width = (rank - below) / (up_to - below), high - low
            narrow_low = values.dtype.type(low + width * (share - _SLACK))
            narrow_high = values.dtype.type(low + width * (share + _SLACK))
            narrow_below, narrow_up_to = _count(values, count, narrow_low, narrow_high)
            if low <= narrow_low and narrow_below < rank:
                low, below = narrow_low, narrow_below
            if narrow_high <= high and rank < narrow_up_to:
                high, up_to = narrow_high, narrow_up_to
            _keep_between(values, count, low, high, room)
            values, room, count, rank = room, values, up_to - below, rank - below
    return _values_of_ranks(values, count, rank, room)


@njit(error_model="numpy")
def median_of(values: NDArray, count: int, room: NDArray, size: int) -> float:
    """Median of the ``count`` smallest of the first ``size`` values, none of which is NaN; NaN if there are none.

    Parameters
    ----------
    values : ndarray
        Values in single or double precision, which are overwritten.
    count : int
        Number of values that count; all others are larger, for example infinite.
    room : ndarray
        Room for as many values of the same type.
    size : int
        Number of values that there are.
    """
    if count == 0:
        return np.nan
    if count == 1:
        smallest = values[0]
        for index in range(1, size):
            smallest = min(smallest, values[index])
        return float(smallest)
    lower, upper = _middle_values(values, size, count // 2, room)
    return float(upper) if count % 2 else 0.5 * float(lower) + 0.5 * float(upper)


@njit(error_model="numpy")
def _keep_good(values, good, kept):
    """Write the values that count; how many they are."""
    count = _U(0)
    for index in range(len(values)):
        kept[count] = values[index]
        count += _U(good[index])
    return np.int64(count)


@compile_loop(
    *(
        types.void(
            types.Array(kind, 2, "A", readonly=True),
            types.Array(types.boolean, 2, "A", readonly=True),
            types.float64[::1],
        )
        for kind in (types.float32, types.float64)
    )
)
def masked_medians(values: NDArray, good: NDArray, out: NDArray) -> None:
    """Write medians of the good values of each row.

    Parameters
    ----------
    values : ndarray
        Values, shape ``(B, P)``.
    good : ndarray of bool
        Values that count, shape ``(B, P)``.
    out : ndarray
        Result, shape ``(B,)``; NaN for rows with no good value.
    """
    chosen, room = np.empty(values.shape[1], values.dtype), np.empty(values.shape[1], values.dtype)
    for row in range(len(values)):
        count = _keep_good(values[row], good[row], chosen)
        out[row] = median_of(chosen, count, room, count)
