"""Batches side by side in threads, each with single-threaded tensor operations.

The operations of a fit are too small to be split among threads: that costs more than it gives, and very much more on
a busy machine. So while a fit runs, torch works with one thread, and as many batches as it had threads before
run at the same time. What the caller had set is put back when the last fit ends.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch

__all__ = ["batch_division", "divided_as", "map_batches", "single_threaded"]

_Batch = TypeVar("_Batch")
_Result = TypeVar("_Result")
_LOCK = threading.Lock()
_STATE = {"depth": 0, "threads": 1}
_DIVISION: ContextVar[int | None] = ContextVar("division", default=None)


@contextmanager
def single_threaded() -> Iterator[int]:
    """Run torch with one thread for the time being; gives the number of threads it had."""
    with _LOCK:
        if _STATE["depth"] == 0:
            _STATE["threads"] = torch.get_num_threads()
            torch.set_num_threads(1)
        _STATE["depth"] += 1
    try:
        yield _STATE["threads"]
    finally:
        with _LOCK:
            _STATE["depth"] -= 1
            if _STATE["depth"] == 0:
                torch.set_num_threads(_STATE["threads"])


@contextmanager
def divided_as(n_threads: int | None) -> Iterator[None]:
    """Divide cutouts into batches as for a number of threads, however many there are.

    The rounding of a row depends on the rows of its batch, and so on this number: it must be that of the first run
    where a run is to give the same numbers as another one.

    Parameters
    ----------
    n_threads : int or None
        Number of threads for which batches are made; None for those of torch.
    """
    token = _DIVISION.set(n_threads)
    try:
        yield
    finally:
        _DIVISION.reset(token)


def batch_division(n_threads: int) -> int:
    """Return the number of threads for which batches are made: that of `divided_as`, or those that there are."""
    return _DIVISION.get() or n_threads


def map_batches(function: Callable[[_Batch], _Result], batches: Iterable[_Batch], n_workers: int) -> Iterator[_Result]:
    """Yield ``function(batch)`` in order, ``n_workers`` at a time, with few batches in memory."""
    if n_workers == 1:
        yield from map(function, batches)
        return
    with ThreadPoolExecutor(n_workers) as pool:
        waiting: deque[Future] = deque()
        try:
            for batch in batches:
                waiting.append(pool.submit(function, batch))
                if len(waiting) > n_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
