"""Medians of the rows of a table, compiled: the middle is found without sorting."""

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from galmeasure.utils.compiled import compile_loop

__all__ = ["masked_medians", "median_of"]


_SAMPLE = 64  # values that bracket the middle
_MARGIN = 10  # of their ranks, 2.5 standard deviations, on either side
_FEW = 1024  # values that are parted at once, which costs less than a bracket
_PIVOTS = 9  # values from which a pivot is chosen
_U = np.uint64  # indices of this type need no test of their sign


@njit(error_model="numpy")
def _bracket(values, count, rank):
    """Sampled bounds between which the values of a rank and of the one before it are likely to be."""
    sample, step = np.empty(_SAMPLE, values.dtype), count // _SAMPLE
    for number in range(_SAMPLE):
        value, place = values[number * step], number
        while place > 0 and sample[place - 1] > value:
            sample[place] = sample[place - 1]
            place -= 1
        sample[place] = value
    middle = rank * _SAMPLE // count
    return sample[max(middle - _MARGIN, 0)], sample[min(middle + _MARGIN, _SAMPLE - 1)]


@njit(error_model="numpy")
def _keep_between(values, count, low, high, kept):
    """Write the values between two bounds; how many they are, and how many are below."""
    n_kept, n_below = _U(0), _U(0)
    for index in range(_U(count)):
        value = values[index]
        kept[n_kept] = value
        n_kept += _U(value >= low) & _U(value <= high)
        n_below += _U(value < low)
    return np.int64(n_kept), np.int64(n_below)


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
def median_of(values: NDArray, count: int, room: NDArray) -> float:
    """Median of the first ``count`` values, none of which is NaN; NaN if there are none.

    Parameters
    ----------
    values : ndarray
        Values in single or double precision, which are overwritten.
    count : int
        Number of values that count.
    room : ndarray
        Room for as many values of the same type.
    """
    if count == 0:
        return np.nan
    rank, number = count // 2, count
    if count > _FEW:
        low, high = _bracket(values, count, rank)
        kept, below = _keep_between(values, count, low, high, room)
        if below < rank and rank < below + kept:
            values, room, number, rank = room, values, kept, rank - below
    lower, upper = _values_of_ranks(values, number, rank, room)
    return float(upper) if count % 2 else 0.5 * float(lower) + 0.5 * float(upper)


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
        count = 0
        for column in range(values.shape[1]):
            chosen[count] = values[row, column]
            count += good[row, column]
        out[row] = median_of(chosen, count, room)
