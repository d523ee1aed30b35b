"""Medians of the rows of a table, compiled: the middle is found without sorting."""

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from galmeasure.utils.compiled import compile_loop

__all__ = ["masked_medians", "median_of"]


_SAMPLE = 64  # values that bracket the median
_MARGIN = 10  # of their ranks, 2.5 standard deviations, on either side
_FEW = 256  # values that are partitioned at once


@njit(error_model="numpy")
def _value_of_rank(values, count, rank):
    """Value of a rank among the first ``count``, whose order and number change."""
    sample = np.empty(_SAMPLE, values.dtype)
    while count > _FEW:
        step = count // _SAMPLE
        for number in range(_SAMPLE):
            value, place = values[number * step], number
            while place > 0 and sample[place - 1] > value:
                sample[place] = sample[place - 1]
                place -= 1
            sample[place] = value
        middle = rank * _SAMPLE // count
        low, high = sample[max(middle - _MARGIN, 0)], sample[min(middle + _MARGIN, _SAMPLE - 1)]
        n_below, n_up_to = 0, 0
        for index in range(count):
            n_below += values[index] < low
            n_up_to += values[index] <= high
        if rank < n_below or rank >= n_up_to or n_up_to - n_below == count:
            break
        kept = 0
        for index in range(count):
            value = values[index]
            values[kept] = value
            kept += low <= value and value <= high
        count, rank = kept, rank - n_below
    first, last = 0, count - 1
    while first < last:
        pivot, i, j = values[(first + last) // 2], first, last
        while i <= j:
            while values[i] < pivot:
                i += 1
            while pivot < values[j]:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if rank <= j:
            last = j
        elif rank >= i:
            first = i
        else:
            break
    return values[rank]


@njit(error_model="numpy")
def median_of(values: NDArray, count: int, room: NDArray) -> float:
    """Median of the first ``count`` values, none of which is NaN; NaN if there are none.

    Parameters
    ----------
    values : ndarray
        Values in single or double precision.
    count : int
        Number of values that count.
    room : ndarray
        Room for as many values of the same type.
    """
    if count == 0:
        return np.nan
    for index in range(count):
        room[index] = values[index]
    upper = _value_of_rank(room, count, count // 2)
    if count % 2:
        return float(upper)
    n_less, lower = 0, -np.inf
    for index in range(count):
        value = values[index]
        n_less += value < upper
        lower = max(lower, value if value < upper else -np.inf)
    return 0.5 * float(lower if n_less == count // 2 else upper) + 0.5 * float(upper)


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
