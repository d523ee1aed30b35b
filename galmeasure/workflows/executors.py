"""Chunks measured in order, in this process or in several."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

import numpy as np
from astropy.table import QTable
from numpy.typing import NDArray

from galmeasure.cutouts import Cutouts
from galmeasure.fitters.registry import FitterSpec
from galmeasure.io import CatalogSource
from galmeasure.utils.chunks import chunk_size
from galmeasure.utils.processes import count_jobs, leave_with_parent, n_cores

__all__ = ["check_device", "measured_chunks"]


def measured_chunks(
    source: CatalogSource,
    rows: NDArray[np.int64],
    fitter: FitterSpec,
    batch_size: int | None = None,
    n_jobs: int = 1,
) -> Iterator[tuple[NDArray[np.int64], Cutouts, QTable]]:
    """Read and measure a catalogue chunk by chunk.

    Parameters
    ----------
    source : CatalogSource
        Catalogue that is measured.
    rows : ndarray of int
        Row numbers to measure.
    fitter : FitterSpec
        Estimator, made in each process.
    batch_size : int, optional
        Cutouts measured at once by each thread; by default as many as hold about a million pixels.
    n_jobs : int, optional
        Processes; -1 for one per core.

    Yields
    ------
    rows : ndarray of int
        Rows of the chunk.
    cutouts : galmeasure.Cutouts
        Their cutouts.
    table : astropy.table.QTable
        Their measurements.
    """
    n_jobs = count_jobs(n_jobs, n_cores())
    threads = max(1, n_cores() // n_jobs)
    size = None if batch_size is None else batch_size * threads
    blocks = list(source.blocks(rows, size, _pixels_at_once(threads)))
    n_jobs = min(n_jobs, len(blocks))
    if n_jobs == 1:
        fit = fitter.make()
        for block in blocks:
            cutouts = source.read(block)
            yield block, cutouts, fit(cutouts)
        return
    yield from _in_processes(source, blocks, fitter, n_jobs, threads)


def _pixels_at_once(threads):
    """Pixels of stamps in a chunk: a batch for each thread, within the memory that all of them may take."""
    return min(chunk_size("batch") * max(2, threads), chunk_size("catalogue pixels of all threads"))


def check_device(name: str) -> None:
    """Raise if torch cannot compute on a device."""
    if name == "cpu":
        return
    import torch

    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as err:
        msg = f"device {name!r} cannot be used: {err}"
        raise ValueError(msg) from err


def _in_processes(source, blocks, fitter, n_jobs, threads):
    """Chunks are read here, measured elsewhere, and given back in order; at most two per process are under way."""
    pool = ProcessPoolExecutor(n_jobs, get_context("spawn"), initializer=_start_worker, initargs=(fitter, threads))
    waiting = deque()
    try:
        for block in blocks:
            cutouts = source.read(block)
            waiting.append((block, cutouts, pool.submit(_measure, cutouts)))
            if len(waiting) >= 2 * n_jobs:
                yield _next(waiting)
        while waiting:
            yield _next(waiting)
    except BrokenProcessPool as err:
        msg = "n_jobs: a worker process has died (not enough memory?)"
        raise ValueError(msg) from err
    finally:
        workers = list((pool._processes or {}).values()) if waiting else []
        pool.shutdown(wait=not waiting, cancel_futures=True)
        for worker in workers:  # nobody waits for their results any more
            worker.terminate()


def _next(waiting):
    block, cutouts, future = waiting[0]
    table = future.result()
    waiting.popleft()
    return block, cutouts, table


_STATE = {}


def _start_worker(fitter, threads):
    """Make the fitter of a worker, which leaves Ctrl-C to its parent and does not outlive it."""
    leave_with_parent()
    import torch

    torch.set_num_threads(threads)
    _STATE["fit"] = fitter.make()


def _measure(cutouts):
    return _STATE["fit"](cutouts)
