"""Measuring on the workers of a Dask cluster, with the table of one process, to the last bit.

A catalogue is divided into the blocks of a `galmeasure.workflows.executors.Division`, and a task reads and measures
one of them. What a row's numbers owe to other rows is the rounding of the batch in which they are measured; batches
are parts of blocks, and a task has a whole block, so that it does not matter where and in which order the tasks run,
or how often. Each worker process makes an estimator once, and loads its weights once. Torch has one thread there: the
threads of a worker measure one block each.
"""

import math
import pickle
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import QTable, vstack
from numpy.typing import NDArray

from galmeasure.cutouts import Cutouts
from galmeasure.fitters.registry import FitterSpec
from galmeasure.io import CatalogSource, open_catalog
from galmeasure.utils.compiled import is_compiled
from galmeasure.workflows.executors import Division, fit_divided
from galmeasure.workflows.readers import MOST_KEPT, address_of, read_rows

if TYPE_CHECKING:
    from dask.delayed import Delayed

__all__ = ["cluster_chunks", "compute_table", "fitter_spec", "measure_dask", "measure_rows"]

_RETRIES = 3
"""Times that a block is measured again where its worker has died, or could not read for a while."""

_CONNECT_SECONDS = 20

_LOCK = threading.RLock()
_FITTERS: dict[bytes, Any] = {}


def measure_dask(
    source: CatalogSource | Cutouts | Mapping[str, Any] | str | PathLike,
    fitter: Any,
    *,
    rows: NDArray[np.int64] | None = None,
    division: Division | None = None,
    **reading: Any,
) -> "list[Delayed]":
    """Measure galaxies lazily, in partitions that Dask computes where it likes.

    Parameters
    ----------
    source : path-like, CatalogSource, Cutouts, or mapping of str to arrays
        Catalogue, see `galmeasure.io.open_catalog`, whose files every worker must find at the same path; cutouts; or
        arguments of `~galmeasure.Cutouts` by their names, of which arrays of Dask or numpy with one entry per galaxy
        are divided (``cutouts`` has shape ``(N, ny, nx)``).
    fitter : SersicFitterBase or FitterSpec
        Estimator, which every worker makes once.
    rows : ndarray of int, optional
        Row numbers to measure, counted from 0; all of them by default.
    division : Division, optional
        Division of the rows into blocks; by default that of one thread, ``Division(1)``.
    **reading
        Options of `galmeasure.io.open_catalog`, if the source is a path.

    Returns
    -------
    list of dask.delayed.Delayed
        One result table, a `~astropy.table.QTable`, per block, in the order of the rows; nothing is measured yet.

    Raises
    ------
    ImportError
        If Dask is not installed, the extra ``dask``.
    TypeError
        If the source is something else.

    Examples
    --------
    >>> from galmeasure import LSQSersicFitter
    >>> from galmeasure.workflows.dask import compute_table, measure_dask
    >>> partitions = measure_dask("examples/demo_catalog.fits", LSQSersicFitter(), rows=[0, 1])
    >>> len(compute_table(partitions))
    2
    """
    dask = _import_dask()
    division, spec = division or Division(1), fitter_spec(fitter)
    if isinstance(source, Mapping):
        n_rows, blocks = _array_blocks(source, division, rows)
        loaders = [(_read_arrays, dask.delayed(_rows_of_arrays(source, n_rows, block))) for block in blocks]
    elif isinstance(source, Cutouts):
        rows = np.arange(len(source)) if rows is None else np.asarray(rows)
        blocks = division.blocks_of_stamps(source.shapes[rows].prod(axis=1))
        loaders = [(_as_they_are, source[rows[block]]) for block in blocks]
    else:
        source = _opened(source, reading)
        rows = np.arange(len(source)) if rows is None else np.asarray(rows, dtype=np.int64)
        loaders = [(read_rows, (*address_of(source), block)) for block in division.blocks(source, rows)]
    task = dask.delayed(_measure, pure=False)
    return [task(load, argument, spec, division.threads, _version()) for load, argument in loaders]


def compute_table(partitions: "Sequence[Delayed]") -> QTable:
    """Compute partitions and stack their tables.

    Parameters
    ----------
    partitions : list of dask.delayed.Delayed
        Partitions that `measure_dask` gives, all of them or some.

    Returns
    -------
    astropy.table.QTable
        One row per galaxy, in the order of the partitions; the metadata are those of the first one.

    Raises
    ------
    ValueError
        If there are no partitions.
    """
    if not partitions:
        msg = "partitions must be at least one"
        raise ValueError(msg)
    tables = list(_import_dask().compute(*partitions))
    table = vstack(tables, metadata_conflicts="silent")
    table.meta = dict(tables[0].meta)
    return table


def measure_rows(rows: Mapping[str, Any], fitter: Any, **arguments: Any) -> QTable:
    """Measure the rows of one partition that another library has read, such as a data frame of LSDB.

    Parameters
    ----------
    rows : mapping of str to columns
        Data frame or table. Its columns are named as the arguments of `~galmeasure.Cutouts`: ``cutouts`` and the
        others that are there (``psf``, ``error``, ``mask``, ``ids``, ...). Stamps are arrays, or flat lists of square
        ones.
    fitter : SersicFitterBase or FitterSpec
        Estimator, which every process makes once.
    **arguments
        Further arguments of `~galmeasure.Cutouts`, for all rows.

    Returns
    -------
    astropy.table.QTable
        One row per row.

    Raises
    ------
    ValueError
        If there is no column ``cutouts``, there are no rows, or the entries are no stamps.
    """
    if "cutouts" not in rows:
        msg = "rows must have a column cutouts"
        raise ValueError(msg)
    if not len(rows["cutouts"]):
        msg = "rows must be at least one: an empty partition cannot be measured"
        raise ValueError(msg)
    names = [name for name in _PER_ROW if name in rows]
    columns = {name: _stacked(name, rows[name]) for name in names}
    return _measure(_as_they_are, Cutouts(**columns, **arguments), fitter_spec(fitter), 1, _version())


def cluster_chunks(
    source: CatalogSource,
    rows: NDArray[np.int64],
    fitter: FitterSpec,
    division: Division,
    *,
    scheduler: str,
    first: int = 0,
    report: Callable[[int], None] | None = None,
) -> Iterator[tuple[NDArray[np.int64], None, QTable]]:
    """Measure a catalogue chunk by chunk on the workers of a scheduler.

    Parameters
    ----------
    source : CatalogSource
        Catalogue whose files every worker finds at the same path.
    rows : ndarray of int
        Row numbers to measure.
    fitter : FitterSpec
        Estimator, made once by each worker.
    division : Division
        Division of the rows into blocks and batches.
    scheduler : str
        Address of the scheduler, such as ``tcp://10.0.0.1:8786``.
    first : int, optional
        Number of the block with which to begin, counted from 0. Default 0.
    report : callable, optional
        Function that is told how many more galaxies are done.

    Yields
    ------
    rows : ndarray of int
        Rows of the chunk.
    cutouts : None
        Nothing: the cutouts are with the workers.
    table : astropy.table.QTable
        Their measurements.

    Raises
    ------
    ValueError
        If the scheduler cannot be reached, has no workers, or a block has killed several of these.
    """
    blocks = division.blocks(source, rows)[first:]
    address, version = address_of(source), _version()
    with _client(scheduler) as client:
        waiting: deque = deque()
        most = 2 * max(1, sum(client.nthreads().values()))
        for block in blocks:
            arguments = (read_rows, (*address, block), fitter, division.threads, version)
            waiting.append((block, client.submit(_measure, *arguments, pure=False, retries=_RETRIES)))
            if len(waiting) >= most:
                yield _next(waiting, report)
        while waiting:
            yield _next(waiting, report)


def _next(waiting, report):
    from distributed import KilledWorker

    block, future = waiting.popleft()
    try:
        table = future.result()
    except KilledWorker as err:
        msg = "scheduler: workers have died one after the other while they measured one block (not enough memory?)"
        raise ValueError(msg) from err
    if report is not None:
        report(len(block))
    return block, None, table


@contextmanager
def _client(scheduler):
    """Connection to a scheduler that has workers; what is still to be computed is given up at the end."""
    _import_dask()
    from distributed import Client

    try:
        client = Client(scheduler, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as err:
        msg = f"scheduler: {scheduler} cannot be reached ({err})"
        raise ValueError(msg) from err
    with client:
        if not client.nthreads():
            msg = f"scheduler: {scheduler} has no workers"
            raise ValueError(msg)
        yield client


def fitter_spec(fitter: Any) -> FitterSpec:
    """Arguments with which another process makes an estimator.

    Parameters
    ----------
    fitter : SersicFitterBase or FitterSpec
        Estimator, or what it takes to make it.

    Returns
    -------
    FitterSpec
        Module, class and arguments.

    Raises
    ------
    TypeError
        If it is neither.
    """
    if isinstance(fitter, FitterSpec):
        return fitter
    if not is_dataclass(fitter) or isinstance(fitter, type):
        msg = f"fitter must be an estimator or a FitterSpec, not {type(fitter).__name__}"
        raise TypeError(msg)
    arguments = {field.name: getattr(fitter, field.name) for field in fields(fitter) if field.init}
    return FitterSpec(type(fitter).__module__, type(fitter).__qualname__, arguments)


def _import_dask():
    try:
        import dask
        import distributed  # noqa: F401
    except ImportError as err:
        msg = 'Dask is needed: pip install "galmeasure[dask]"'
        raise ImportError(msg) from err
    return dask


def _version():
    """Version of the package, and whether loops are compiled, which changes last digits."""
    from galmeasure import __version__

    return f"{__version__} with the extra fast" if is_compiled() else __version__


def _measure(load, argument, spec, threads, version):
    """Read and measure one block, in a worker."""
    if version != _version():
        msg = f"galmeasure: a worker has version {_version()}, and {version} is needed"
        raise ValueError(msg)
    fit = _made(spec)
    return fit_divided(fit, load(argument), threads)


def _made(spec):
    """Estimator of this process, made once."""
    key = pickle.dumps(spec)
    with _LOCK:
        if key not in _FITTERS:
            _use_one_thread()
            while len(_FITTERS) >= MOST_KEPT:
                _FITTERS.pop(next(iter(_FITTERS)))
            _FITTERS[key] = spec.make()
        return _FITTERS[key]


def _use_one_thread():
    """Give torch one thread in a worker of a cluster, whose own threads measure blocks side by side."""
    from distributed import get_worker

    try:
        get_worker()
    except ValueError:  # this is the process of a user
        return
    import torch

    torch.set_num_threads(1)


def _opened(source, reading):
    """Catalogue of a path, or the one that was given."""
    if isinstance(source, CatalogSource):
        return source
    if not isinstance(source, str | PathLike):
        msg = f"source must be a path, a CatalogSource, Cutouts or a mapping of arrays, not {type(source).__name__}"
        raise TypeError(msg)
    return open_catalog(source, **reading)


def _as_they_are(cutouts):
    return cutouts


_PER_ROW = ("cutouts", "psf", "error", "mask", "gain", "pixel_scale", "positions", "ids", "zero_point", "psf_flux")
"""Arguments of `Cutouts` that may have one entry per galaxy."""


def _read_arrays(arguments):
    """Cutouts of arrays that Dask has computed."""
    return Cutouts(**arguments)


def _rows_of_arrays(arguments, n_rows, block):
    """Arguments of `Cutouts` for some rows."""
    chosen = slice(int(block[0]), int(block[-1]) + 1) if np.all(np.diff(block) == 1) else block
    return {
        name: value[chosen] if name in _PER_ROW and _is_per_row(name, value, n_rows) else value
        for name, value in arguments.items()
    } | ({} if "ids" in arguments else {"ids": block + 1})


def _is_per_row(name, value, n_rows):
    """Whether an argument has one entry per galaxy; one PSF for all is an image."""
    shape = getattr(value, "shape", (len(value),) if isinstance(value, list | tuple) else ())
    return len(shape) > 0 and shape[0] == n_rows and not (name == "psf" and len(shape) == 2)


def _array_blocks(arguments, division, rows):
    """Number of galaxies of arrays, and blocks of their rows."""
    if "cutouts" not in arguments or len(getattr(arguments["cutouts"], "shape", ())) != 3:
        msg = "source must have an array cutouts of shape (N, ny, nx)"
        raise ValueError(msg)
    n_rows, *sides = arguments["cutouts"].shape
    rows = np.arange(n_rows) if rows is None else np.asarray(rows)
    return n_rows, [rows[block] for block in division.blocks_of_stamps(np.full(len(rows), math.prod(sides)))]


def _stacked(name, column):
    """Column of a data frame as an array; flat stamps are square."""
    values = [np.asarray(value) for value in column]
    if name not in ("cutouts", "psf", "error", "mask") or values[0].ndim == 0:
        return np.stack(values)
    if values[0].ndim == 2:
        return values if len({value.shape for value in values}) > 1 else np.stack(values)
    sides = [int(np.sqrt(value.size)) for value in values]
    if any(side * side != value.size for side, value in zip(sides, values, strict=True)):
        msg = f"{name} must hold square stamps where they are flat lists"
        raise ValueError(msg)
    return [value.reshape(side, side) for side, value in zip(sides, values, strict=True)]
