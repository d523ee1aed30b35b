"""Chunks measured in order, in this process or in several."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np
from astropy.table import QTable
from numpy.typing import NDArray

from galmeasure.cutouts import Cutouts
from galmeasure.fitters.base import SersicFitterBase
from galmeasure.fitters.registry import FitterSpec
from galmeasure.fitters.threads import divided_as
from galmeasure.io import CatalogSource
from galmeasure.io.source import row_blocks
from galmeasure.utils.chunks import chunk_size
from galmeasure.utils.processes import count_jobs, leave_with_parent, n_cores
from galmeasure.workflows.readers import address_of, read_rows

__all__ = ["Division", "check_device", "fit_divided", "measured_chunks", "process_pool"]

_REPORT_SECONDS = 0.3
"""Time between two looks at what other processes have done."""


@dataclass(frozen=True)
class Division:
    """Division of a catalogue into blocks of rows that are read at once, and of these into batches.

    The rounding of a row's numbers depends on the batch that it is measured in, and on nothing else of how a run is
    executed: runs of the same division give the same table to the last bit, however many processes they have, and
    whether or not they were stopped.

    Parameters
    ----------
    threads : int
        Number of threads for which batches are made; a process may have more or fewer.
    batch_size : int, optional
        Number of cutouts in a batch; by default as many as hold about a million pixels.
    """

    threads: int
    batch_size: int | None = None

    @classmethod
    def of(cls, n_jobs: int, threads: int | None = None, batch_size: int | None = None) -> "Division":
        """Make the division that suits a number of processes on this machine.

        Parameters
        ----------
        n_jobs : int
            Number of processes; -1 for one per core.
        threads : int, optional
            Number of threads of each process; by default the cores are shared among the processes.
        batch_size : int, optional
            Number of cutouts in a batch.

        Returns
        -------
        Division
            Division for these threads.
        """
        return cls(threads or max(1, n_cores() // count_jobs(n_jobs, n_cores())), batch_size)

    def blocks(self, source: CatalogSource, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Divide rows into blocks that are read at once.

        Parameters
        ----------
        source : CatalogSource
            Catalogue that is measured.
        rows : ndarray of int
            Row numbers to measure.

        Returns
        -------
        list of ndarray of int
            Row numbers of each block, in order.
        """
        return list(source.blocks(rows, *self._limits()))

    def blocks_of_stamps(self, n_pixels: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Divide stamps that are in memory into blocks, as those of a catalogue.

        Parameters
        ----------
        n_pixels : ndarray of int, shape (N,)
            Number of pixels of each stamp.

        Returns
        -------
        list of ndarray of int
            Numbers of the stamps of each block, in order.
        """
        return list(row_blocks(np.arange(len(n_pixels)), *self._limits(), n_pixels.__getitem__))

    def _limits(self):
        """Rows of a block, or None, and pixels of a block."""
        size = None if self.batch_size is None else self.batch_size * self.threads
        return size, _pixels_at_once(self.threads)


def measured_chunks(
    source: CatalogSource,
    rows: NDArray[np.int64],
    fitter: FitterSpec,
    division: Division,
    *,
    n_jobs: int = 1,
    threads: int | None = None,
    first: int = 0,
    report: Callable[[int], None] | None = None,
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
    division : Division
        Division of the rows into blocks and batches.
    n_jobs : int, optional
        Number of processes; -1 for one per core.
    threads : int, optional
        Number of threads of each process; by default the cores are shared among the processes.
    first : int, optional
        Number of the block with which to begin, counted from 0. Default 0.
    report : callable, optional
        Function that is told how many more galaxies are done, also while their chunk goes on.

    Yields
    ------
    rows : ndarray of int
        Rows of the chunk.
    cutouts : galmeasure.Cutouts or None
        Their cutouts; None where other processes have read them.
    table : astropy.table.QTable
        Their measurements.
    """
    n_jobs = count_jobs(n_jobs, n_cores())
    blocks = division.blocks(source, rows)[first:]
    n_jobs = min(n_jobs, len(blocks))
    if n_jobs <= 1:
        with _torch_threads(threads):
            fit = fitter.make() if blocks else None
            for block in blocks:
                yield block, *_read_and_fit(source, block, fit, division.threads, report)
        return
    threads = threads or max(1, n_cores() // n_jobs)
    count = None if report is None else get_context("spawn").Value("q", 0)
    with _reported(count, report):
        yield from _in_processes(source, blocks, (fitter, threads, division.threads, count), n_jobs)


def _read_and_fit(source, block, fit, threads, report):
    """Cutouts of a block and their table, of which nothing is kept here while the next block is read."""
    cutouts = source.read(block)
    return cutouts, fit_divided(fit, cutouts, threads, report)


def fit_divided(
    fit: Callable[..., QTable], cutouts: Cutouts, threads: int, report: Callable[[int], None] | None = None
) -> QTable:
    """Measure cutouts in the batches of a division.

    Parameters
    ----------
    fit : SersicFitterBase or callable
        Estimator that is called with the cutouts.
    cutouts : Cutouts
        Rows of one block.
    threads : int
        Number of threads for which batches are made, see `Division`.
    report : callable, optional
        Function that is told how many more galaxies are done; by estimators of others at the end only.

    Returns
    -------
    astropy.table.QTable
        Measurements of the cutouts.
    """
    with divided_as(threads):
        if report is not None and isinstance(fit, SersicFitterBase):
            return fit.fit(cutouts, progress_bar=report)
        table = fit(cutouts)
    if report is not None:
        report(len(cutouts))
    return table


@contextmanager
def _reported(count, report):
    """Report what other processes count."""
    if report is None:
        yield
        return
    ended = threading.Event()

    def watch():
        n_reported, is_last = 0, False
        while not is_last:
            is_last = ended.wait(_REPORT_SECONDS)
            n_done = count.value
            report(n_done - n_reported)
            n_reported = n_done

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def _torch_threads(threads):
    """Let torch have a number of threads for the time being; None for those that it has."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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


@contextmanager
def process_pool(n_jobs: int, start: Callable[..., None], arguments: tuple[Any, ...]) -> Iterator[ProcessPoolExecutor]:
    """Start processes that measure, and end them: after their work, or at once where an exception ends it.

    Parameters
    ----------
    n_jobs : int
        Number of processes that are started.
    start : callable
        Function that each of them calls first.
    arguments : tuple
        Arguments of this function.

    Yields
    ------
    concurrent.futures.ProcessPoolExecutor
        The processes.

    Raises
    ------
    ValueError
        If one of them dies.
    """
    pool = ProcessPoolExecutor(n_jobs, get_context("spawn"), initializer=start, initargs=arguments)
    try:
        yield pool
    except BaseException as err:
        workers = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:  # nobody waits for their results any more
            worker.terminate()
        if isinstance(err, BrokenProcessPool):
            msg = "n_jobs: a worker process has died (not enough memory?)"
            raise ValueError(msg) from err
        raise
    pool.shutdown()


def _in_processes(source, blocks, worker, n_jobs):
    """Chunks are measured elsewhere, and given back in order; at most two per process are under way.

    They are read elsewhere, too, where that costs no more than here: one process reads for a few others at most.
    """
    waiting, address = deque(), address_of(source) if source.is_read_in_parts else None
    with process_pool(n_jobs, _start_worker, worker) as pool:
        for block in blocks:
            if address is None:
                waiting.append(_submitted(pool, source, block))
            else:
                waiting.append((block, None, pool.submit(_read_and_measure, (*address, block))))
            if len(waiting) >= 2 * n_jobs:
                yield _next(waiting, source)
        while waiting:
            yield _next(waiting, source)


def _submitted(pool, source, block):
    """Block of rows with its cutouts, which are measured elsewhere."""
    cutouts = source.read(block)
    return block, cutouts, pool.submit(_measure, cutouts)


def _next(waiting, source):
    block, cutouts, future = waiting.popleft()
    table = future.result()
    if cutouts is None:  # the process that has read them opened the file later than this one
        source.check_unchanged()
    return block, cutouts, table


_STATE = {}


def _start_worker(fitter, threads, batch_threads, count):
    """Make the fitter of a worker, which leaves Ctrl-C to its parent and does not outlive it."""
    leave_with_parent()
    import torch

    torch.set_num_threads(threads)
    _STATE["fit"], _STATE["batch_threads"], _STATE["count"] = fitter.make(), batch_threads, count


def _read_and_measure(argument):
    return _measure(read_rows(argument))


def _measure(cutouts):
    report = None if _STATE["count"] is None else _count
    return fit_divided(_STATE["fit"], cutouts, _STATE["batch_threads"], report)


def _count(n_more):
    """Add galaxies that are done to those of all processes."""
    with _STATE["count"].get_lock():
        _STATE["count"].value += n_more
