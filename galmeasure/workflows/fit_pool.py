"""Cutouts in memory measured chunk by chunk, in this process or in several, with the same numbers to the last bit.

The rounding of a row depends on the batch that it is measured in. So chunks are what they are however many processes
there are, and each of them is divided into batches as for one thread.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from multiprocessing import get_context
from typing import Any, NamedTuple, Self

import numpy as np
from astropy.table import QTable, vstack

from galmeasure.cutouts import Cutouts
from galmeasure.fitters.registry import FitterSpec
from galmeasure.fitters.threads import map_batches
from galmeasure.io.source import row_blocks
from galmeasure.results.formats import set_formats
from galmeasure.utils.chunks import chunk_size
from galmeasure.utils.processes import count_jobs, leave_with_parent, n_cores
from galmeasure.workflows.executors import fit_divided, process_pool

__all__ = ["FitPool", "TimedTable", "joined"]


class TimedTable(NamedTuple):
    """Result table, and what it took.

    Parameters
    ----------
    table : astropy.table.QTable
        One row per cutout.
    seconds : float
        Time by the clock, without the start of processes.
    core_seconds : float
        Time of all processors together.
    """

    table: QTable
    seconds: float
    core_seconds: float


class FitPool:
    """Processes that measure cutouts with any estimators, as a context; with one process it is this one.

    Parameters
    ----------
    n_jobs : int, optional
        Number of processes; -1 for one per core. Default 1.
    device : str, optional
        Torch device of the estimators. On any other than ``"cpu"`` this process measures, whatever ``n_jobs`` is.

    Raises
    ------
    ValueError
        If the number of processes is neither positive nor -1.
    """

    def __init__(self, n_jobs: int = 1, device: str = "cpu"):
        n_jobs = count_jobs(n_jobs, n_cores())
        self._n_jobs, self._device = (n_jobs if device == "cpu" else 1), device
        self._stack, self._pool = ExitStack(), None
        self._specs: list[FitterSpec] = []
        self._fitters: dict[int, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.__exit__(*exception)

    def fit(self, spec: FitterSpec, cutouts: Cutouts) -> TimedTable:
        """Measure cutouts.

        Parameters
        ----------
        spec : FitterSpec
            Estimator that is made in each process.
        cutouts : Cutouts
            Galaxies that are measured.

        Returns
        -------
        TimedTable
            One row per cutout in their order, and the time that it took.
        """
        blocks = list(_blocks(cutouts, self._device))
        is_alone = self._n_jobs == 1 or len(blocks) == 1
        if is_alone:
            self._fitter(spec)
        else:
            self._prepare_processes(spec, len(blocks))
        start = time.perf_counter()
        measured = self._in_threads(spec, blocks) if is_alone else self._in_processes(spec, blocks)
        tables, core_seconds = zip(*measured, strict=True)
        return TimedTable(joined(tables), time.perf_counter() - start, sum(core_seconds))

    def tables(
        self, spec: FitterSpec, chunks: Iterable[Cutouts], report: Callable[[int], Any] | None = None
    ) -> Iterator[QTable]:
        """Measure chunks of cutouts, of which a few are in memory at the same time.

        Parameters
        ----------
        spec : FitterSpec
            Estimator that is made in each process.
        chunks : iterable of Cutouts
            Chunks, which are divided into smaller ones; the numbers of a row depend on the rows of its chunk only.
        report : callable, optional
            Function that is told how many more galaxies are done.

        Yields
        ------
        astropy.table.QTable
            Measurements of each of the smaller chunks, in order.
        """
        blocks = (block for chunk in chunks for block in _blocks(chunk, self._device))
        for table, _ in self._in_threads(spec, blocks) if self._n_jobs == 1 else self._in_processes(spec, blocks):
            if report is not None:
                report(len(table))
            yield table

    def _in_threads(self, spec, chunks):
        """Measure as many chunks side by side as torch has threads; gives tables and processor seconds."""
        import torch

        fit, before = self._fitter(spec), time.process_time()
        n_threads = torch.get_num_threads() if self._device == "cpu" else 1
        for table in map_batches(lambda chunk: fit_divided(fit, chunk, 1), chunks, n_threads):
            now = time.process_time()
            yield table, now - before
            before = now

    def _in_processes(self, spec, chunks):
        """Measure in the processes, at most two chunks of each under way; gives tables and processor seconds."""
        key, waiting = self._key(spec), deque()
        pool = self._started()
        for chunk in chunks:
            waiting.append(pool.submit(_fit, key, spec, chunk))
            if len(waiting) >= 2 * self._n_jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _key(self, spec):
        """Number by which an estimator is known, which each process makes once."""
        if spec not in self._specs:
            self._specs.append(spec)
        return self._specs.index(spec)

    def _fitter(self, spec):
        """Estimator of this process."""
        return _kept(self._fitters, self._key(spec), spec)

    def _started(self):
        """Return the processes, which begin with the first chunk."""
        if self._pool is None:
            arguments = max(1, n_cores() // self._n_jobs), get_context("spawn").Barrier(self._n_jobs)
            self._pool = self._stack.enter_context(process_pool(self._n_jobs, _start, arguments))
        return self._pool

    def _prepare_processes(self, spec, n_chunks):
        """Let every process make an estimator, so that this is not taken for the time of measuring."""
        if self._pool is None:
            self._n_jobs = min(self._n_jobs, n_chunks)
        key = self._key(spec)
        for future in [self._started().submit(_prepare, key, spec) for _ in range(self._n_jobs)]:
            future.result()


def _blocks(cutouts, device):
    """Cutouts in chunks, each for one process."""
    n_pixels, most = cutouts.shapes.prod(axis=1), chunk_size("chunk of a process", device)
    for block in row_blocks(np.arange(len(cutouts)), None, most, n_pixels.__getitem__):
        yield cutouts[int(block[0]) : int(block[-1]) + 1]


def joined(tables: Iterable[QTable]) -> QTable:
    """Join tables of chunks of one catalogue.

    Parameters
    ----------
    tables : iterable of astropy.table.QTable
        Result tables with the same columns.

    Returns
    -------
    astropy.table.QTable
        All rows, with formats that suit all of them.
    """
    tables = list(tables)
    if len(tables) == 1:
        return tables[0]
    table = vstack(tables, metadata_conflicts="silent")
    set_formats(table)
    return table


_STATE: dict[str, Any] = {}


def _kept(fitters, key, spec):
    """Estimator that is made if it is not there."""
    if key not in fitters:
        fitters[key] = spec.make()
    return fitters[key]


def _start(threads, barrier):
    """Set up a worker, which leaves Ctrl-C to its parent and does not outlive it."""
    leave_with_parent()
    import torch

    torch.set_num_threads(threads)
    _STATE["fitters"], _STATE["barrier"] = {}, barrier


def _prepare(key, spec):
    """Make an estimator, and wait until every worker has made it."""
    _kept(_STATE["fitters"], key, spec)
    _STATE["barrier"].wait()


def _fit(key, spec, cutouts):
    """Table of a chunk, and the processor seconds that it took."""
    fit, start = _kept(_STATE["fitters"], key, spec), time.process_time()
    table = fit_divided(fit, cutouts, 1)
    return table, time.process_time() - start
