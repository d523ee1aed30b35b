"""Measuring a catalogue: read, measure and write in chunks."""

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path

import numpy as np
from astropy.table import QTable
from numpy.typing import NDArray

from galmeasure.fitters.registry import FitterSpec
from galmeasure.flags import FLAGS, Flag
from galmeasure.io import ChunkedWriter, ReadOptions, open_catalog
from galmeasure.io.writers import check_new
from galmeasure.results.columns import TRUE
from galmeasure.results.table import chosen_columns
from galmeasure.utils.text import printable
from galmeasure.workflows.executors import Division, measured_chunks
from galmeasure.workflows.fingerprint import fingerprint, processor_kind
from galmeasure.workflows.gallery import Gallery
from galmeasure.workflows.journal import Journal
from galmeasure.workflows.outputs import refuse_inputs

__all__ = ["MeasureSettings", "Summary", "measure_catalog", "output_path", "parse_rows"]

FIELD_SIDE = 400
"""Side of an image, in pixels, that is rather a field than a cutout."""

MOST_PLOTS = 500
"""Plots that are made without being asked for by --rows."""


CHI2_RANGE = (0.7, 1.5)
"""Median reduced chi2 of a catalogue beyond which its errors are doubted."""

LEAST_ROWS = 3
"""Measured rows of which the median says something about a catalogue."""


_COUNTED = ("flags", "chi2_reduced")
"""Columns of which the closing lines speak: the journal has them, also where the table does not."""


@dataclass
class Summary:
    """Closing lines of the command.

    Parameters
    ----------
    path : Path
        File of the table.
    notes : list of str
        What was read from the headers.
    n_rows, n_failed : int
        Rows of the table, and those that could not be measured.
    n_before : int
        Rows that an earlier run, which was stopped, has measured.
    by_flag : ndarray of int
        Rows with each flag, in the order of ``galmeasure.flags.FLAGS``.
    seconds : float
        Time the measurements took.
    next_step : str
        What may be done with the table; empty for nothing.
    chi2 : list of ndarray
        Finite reduced chi2 of the measured rows of each chunk, in single precision: a few bytes of each row are all
        that stays in memory.
    """

    path: Path
    notes: list
    n_rows: int = 0
    n_failed: int = 0
    n_before: int = 0
    by_flag: np.ndarray = None
    seconds: float = 0.0
    next_step: str = ""
    chi2: list = field(default_factory=list)

    def add(self, table: QTable | np.ndarray) -> None:
        """Count the flags of more rows, and keep their reduced chi2."""
        flags = np.asarray(table["flags"], dtype=np.int64)
        if "chi2_reduced" in (table.colnames if isinstance(table, QTable) else table.dtype.names):
            with np.errstate(over="ignore"):
                chi2 = np.asarray(table["chi2_reduced"], dtype=np.float32)
            self.chi2.append(chi2[(flags & Flag.FAILED == 0) & np.isfinite(chi2)])
        counts = np.array([np.count_nonzero(flags & flag.value) for flag in FLAGS])
        self.by_flag = counts if self.by_flag is None else self.by_flag + counts
        self.n_rows += len(flags)
        self.n_failed += np.count_nonzero(flags & Flag.FAILED)

    def median_chi2(self) -> float:
        """Median of the reduced chi2 of the measured rows; NaN if there is none."""
        chi2 = np.concatenate(self.chi2) if self.chi2 else np.zeros(0)
        return float(np.median(chi2, overwrite_input=True)) if len(chi2) else np.nan

    def warning(self) -> str | None:
        """Doubt about the errors of the whole catalogue, or None where they look right."""
        chi2, n_measured = self.median_chi2(), self.n_rows - self.n_failed
        if n_measured < LEAST_ROWS or not (chi2 < CHI2_RANGE[0] or chi2 > CHI2_RANGE[1]):
            return None
        at_bound = self.by_flag[[flag.name for flag in FLAGS].index("at_bound")] / self.n_rows
        size = "large" if chi2 < 1 else "small"
        return (
            f"the median reduced chi2 is {chi2:.2f} and {100 * at_bound:.0f} % of the rows are at bounds: the errors "
            f"of the pixels seem too {size}; usual causes are the gain (--gain 0 where the error has the sources' "
            "noise in it), the units of image and error, and weights that are no inverse variances"
        )

    def __str__(self):
        rate = (self.n_rows - self.n_before) / max(self.seconds, 1e-9)
        before = f", {self.n_before} of them by the run that was stopped" if self.n_before else ""
        lines = [
            f"measured {self.n_rows - self.n_failed} of {self.n_rows} galaxies in {self.seconds:.1f} s "
            f"({rate:.3g} galaxies/s){before}"
        ]
        for flag, count in zip(FLAGS, self.by_flag, strict=True):
            if count:
                lines.append(f"  {count:>8}  {flag.name}: {flag.description}")
        if np.isfinite(self.median_chi2()):
            lines.append(f"median reduced chi2 {self.median_chi2():.2f}")
        if self.notes:
            lines.append(f"used {', '.join(self.notes)}")
        if self.next_step:
            lines.append(f"next: {self.next_step}")
        lines.append(f"table {self.path}")
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class MeasureSettings:
    """Settings of `measure_catalog`.

    Parameters
    ----------
    fitter : FitterSpec
        Estimator and its arguments, see ``galmeasure.fitters.registry.get_fitter``.
    reading : ReadOptions, optional
        Options with which the catalogue is read, see `galmeasure.io.open_catalog`.
    output : path-like, optional
        Table to write; the catalogue's name with ``_galmeasure.fits`` by default.
    overwrite : bool, optional
        Whether a table that is there may be replaced.
    rows : str, optional
        Rows to measure, counted from 0, such as ``"0:100"`` or ``"3,5,7"``; all of them by default.
    columns : tuple of str, optional
        Columns to write; those that are not results are copied from the catalogue. All results by default.
    batch_size : int, optional
        Cutouts that each thread measures at once.
    n_jobs : int, optional
        Number of processes; -1 for one per core.
    scheduler : str, optional
        Address of the scheduler of a Dask cluster, whose workers measure instead of processes of this machine.
    threads : int, optional
        Number of threads of each process; by default the cores are shared among the processes. With a scheduler, the
        number of threads for which batches are made, 1 by default.
    resume : bool, optional
        Whether to go on with a run that was stopped, if there is one.
    journal : bool, optional
        Whether to keep finished chunks beside the table until it is written, so that the run can be gone on with.
    how_to_resume : str, optional
        Command, or call, that goes on with this run after a stop, for messages.
    plots : path-like, optional
        Folder for a plot of each fit.
    gallery : path-like, optional
        HTML file with the results and a thumbnail of each galaxy, or of a thousand of them.
    progress : bool, optional
        Whether to show a progress bar where the standard error is a terminal.
    verbose : bool, optional
        Whether to say on the standard error what is measured.
    """

    fitter: FitterSpec
    reading: ReadOptions = field(default_factory=ReadOptions)
    output: str | PathLike | None = None
    overwrite: bool = False
    rows: str | None = None
    columns: tuple[str, ...] | None = None
    batch_size: int | None = None
    n_jobs: int = 1
    scheduler: str | None = None
    threads: int | None = None
    resume: bool = False
    journal: bool = True
    how_to_resume: str = "the same call with resume=True"
    plots: str | PathLike | None = None
    gallery: str | PathLike | None = None
    progress: bool = False
    verbose: bool = False

    def __post_init__(self) -> None:
        """Check the names of the columns and the number of threads."""
        if self.threads is not None and self.threads < 1:
            msg = f"threads must be 1 or more, not {self.threads}"
            raise ValueError(msg)
        if self.scheduler is not None and self.n_jobs != 1:
            msg = "n_jobs is for processes of this machine, and cannot be given with scheduler"
            raise ValueError(msg)
        if self.resume and not self.journal:
            msg = "resume needs a journal, and there is none (journal=False)"
            raise ValueError(msg)
        if self.columns is not None and (not self.columns or len(set(self.columns)) < len(self.columns)):
            msg = f"columns must be names that differ, not {', '.join(self.columns) or 'none'}"
            raise ValueError(msg)


def measure_catalog(catalog: str | PathLike | None, settings: MeasureSettings) -> Summary:
    """Measure a catalogue and write the table of results, chunk by chunk.

    Parameters
    ----------
    catalog : path-like or None
        File that is measured; None if the image of ``settings.reading`` alone says it.
    settings : MeasureSettings
        Estimator, options of reading, and what to write.

    Returns
    -------
    Summary
        Counts, notes and the path of the table.

    Raises
    ------
    CatalogError
        If a file cannot be read, or something is missing in it.
    JournalError
        If another run writes the same table, or a run that was stopped is there: see ``galmeasure.workflows.journal``.
    ValueError
        If settings do not fit together, or the table cannot be written.

    Notes
    -----
    Finished chunks are kept in a file beside the table, ``OUTPUT.journal``, until the table is written. If the run is
    stopped in whatever way, another one with ``resume=True`` goes on after the last of them, and gives the same table
    to the last byte, on the same kind of processor; on another one a warning says that the last digits may differ. It
    is refused if anything else on which the rows depend has changed. An exception that ends the run has a note that
    says how many rows are kept, and how to go on; `galmeasure.workflows.journal.read_journal` reads them.
    """
    reading, fitter = settings.reading, settings.fitter
    source = open_catalog(catalog, **vars(reading))
    rows = parse_rows(settings.rows, len(source))
    source.check_rows(rows)
    output = output_path(catalog or reading.image, settings.output)
    for path in filter(None, (output, settings.gallery)):
        refuse_inputs(path, catalog, vars(reading) | fitter.arguments)
    plots = _plot_folder(settings.plots, rows, settings.rows)
    gallery = Gallery(settings.gallery, rows, f"Galaxies of {Path(source.path).name}", overwrite=settings.overwrite)
    summary = Summary(
        output, source.notes, next_step=_next_step(catalog, output, source, settings.plots or settings.gallery)
    )
    if settings.verbose:
        _say(f"{source.kind} {source.path}: {len(rows)} of {len(source)} rows, method {fitter.name}")
    with _journal(catalog, output, rows, settings) as journal:
        _measure_rows(source, rows, settings, journal, summary, _Pictures(plots, gallery))
    for warning in filter(None, (gallery.finish(), summary.warning())):
        _say(f"galmeasure: warning: {warning}")
    return summary


@contextmanager
def _journal(
    catalog: str | PathLike | None, output: Path, rows: NDArray[np.int64], settings: MeasureSettings
) -> Iterator[Journal | None]:
    """Journal of a run, or None where it has none."""
    if not settings.journal:
        yield None
        return
    check_new(output, overwrite=settings.overwrite)
    about = fingerprint(catalog, settings.reading, settings.fitter, rows=settings.rows, columns=settings.columns)
    division = asdict(_division(settings))
    options = {"resume": settings.resume, "overwrite": settings.overwrite, "how": settings.how_to_resume}
    options["processor"] = processor_kind() if settings.scheduler is None else None  # workers may have any
    with Journal(output, about, division, len(rows), **options) as journal:
        yield journal


@dataclass
class _Pictures:
    """Folder of plots, or None, and the gallery."""

    plots: Path | None
    gallery: Gallery

    def add(self, source, chunk, cutouts, table):
        """Draw a chunk; workers of a cluster do not send its cutouts back."""
        if self.plots is None and self.gallery.path is None:
            return
        cutouts = source.read(chunk) if cutouts is None else cutouts
        if self.plots is not None:
            self.plots = _plotted(self.plots, chunk, cutouts, table)
        self.gallery.add(chunk, cutouts, table)

    def add_before(self, source, blocks, writer):
        """Show what an earlier run has measured in the gallery; plots of it are there."""
        for number, block in enumerate(blocks):
            chosen = self.gallery.chosen(block)
            if len(chosen):
                self.gallery.add(block[chosen], source.read(block[chosen]), writer.read(number)[chosen])


def _measure_rows(source, rows, settings, journal, summary, pictures):
    """Measure the rows that a journal does not have, and write the table."""
    division = _division(settings) if journal is None else Division(**journal.settings)
    options = {"overwrite": settings.overwrite, "spool": journal, "columns": settings.columns}
    with ChunkedWriter(summary.path, **options) as writer, _bar(len(rows), settings.progress) as bar:
        if settings.columns is not None:
            _try_copied_columns(writer, settings.columns, source, rows)
        n_chunks = 0 if journal is None else _count_before(journal, summary, bar)
        if settings.columns is None:  # else the journal does not have all that is shown
            pictures.add_before(source, division.blocks(source, rows)[:n_chunks], writer)
        start = time.perf_counter()
        how = {"first": n_chunks, "report": None if bar.disable else bar.update}
        for chunk, cutouts, table in _chunks(source, rows, settings, division, how):
            if journal is not None:
                journal.check_meta(table)
            pictures.add(source, chunk, cutouts, table)
            writer.write(table if settings.columns is None else _select(table, settings.columns, source, chunk))
            summary.add(table)
            del cutouts, table  # else they would be in memory while the next ones are read and measured
        summary.seconds = time.perf_counter() - start
        writer.finish()


def _division(settings):
    """Division of a run that begins."""
    threads = settings.threads if settings.scheduler is None else settings.threads or 1
    return Division.of(settings.n_jobs, threads, settings.batch_size)


def _chunks(source, rows, settings, division, how):
    """Chunks measured in this process, in others, or by the workers of a scheduler."""
    if settings.scheduler is None:
        more = {"n_jobs": settings.n_jobs, "threads": settings.threads}
        return measured_chunks(source, rows, settings.fitter, division, **more, **how)
    from galmeasure.workflows.dask import cluster_chunks

    return cluster_chunks(source, rows, settings.fitter, division, scheduler=settings.scheduler, **how)


def _count_before(journal, summary, bar):
    """Count the rows of a journal among those of the table; the number of its chunks."""
    for number in range(len(journal.chunks)):
        summary.add(journal.read(number))
    summary.n_before = len(journal)
    bar.update(len(journal))
    return len(journal.chunks)


def parse_rows(text: str | None, count: int) -> NDArray[np.int64]:
    """Row numbers of a text such as ``0:100``, ``3,5,7`` or ``::10``.

    Parameters
    ----------
    text : str or None
        Numbers and Python slices between commas, counted from 0; None for all rows.
    count : int
        Rows of the catalogue.

    Returns
    -------
    ndarray of int
        In the order given.

    Raises
    ------
    ValueError
        If the text is something else, or a row does not exist.

    Examples
    --------
    >>> from galmeasure.workflows.measure import parse_rows
    >>> parse_rows("0:3,8", 10).tolist()
    [0, 1, 2, 8]
    """
    if text is None:
        return np.arange(count)
    rows = []
    for item in text.replace(" ", "").split(","):
        if re.fullmatch(r"-?\d+", item):
            if not -count <= int(item) < count:
                msg = f"rows: there is no row {item} in {count} rows (counted from 0)"
                raise ValueError(msg)
            rows.append(int(item) % count)
        elif re.fullmatch(r"(-?\d+)?:(-?\d+)?(:(-?[1-9]\d*)?)?", item):
            rows.extend(range(*slice(*(int(n) if n else None for n in item.split(":"))).indices(count)))
        else:
            msg = f"rows must be numbers or ranges such as 0:100 or 3,5,7, not {text!r}"
            raise ValueError(msg)
    if not rows:
        msg = f"rows: {text} chooses none of the {count} rows"
        raise ValueError(msg)
    return np.array(rows, dtype=np.int64)


def _next_step(catalog, output, source, plots):
    """What to do with the table: compare it with truths that the catalogue has, or look at the fits."""
    if source.kind == "multi-extension file" and len(source) == 1 and source.n_pixels(np.arange(1))[0] > FIELD_SIDE**2:
        return f"{source.path} was measured as one galaxy; did you mean --image {source.path} --detect?"
    if any(name.lower().startswith(TRUE.format("")) for name in source.column_names):
        return f"galmeasure evaluate {output} --against {catalog}"
    if plots is not None:
        return ""
    return "the same command with --rows 0:20 --plots FOLDER shows the first fits"


def output_path(catalog: str | PathLike, output: str | PathLike | None) -> Path:
    """Path of the table of a catalogue.

    Parameters
    ----------
    catalog : path-like
        File that is measured.
    output : path-like or None
        Name that the user has given.

    Returns
    -------
    pathlib.Path
        The option, or the catalogue's name with ``_galmeasure.fits``.

    Raises
    ------
    ValueError
        If it is the catalogue itself.
    """
    source = Path(re.sub(r"\[[^\[\]]*\]$", "", str(catalog)))
    if output is None:
        name = source.name.removesuffix(".gz").removesuffix(".fz")
        return source.with_name(Path(name).stem + "_galmeasure.fits")
    return Path(output)


def _select(table, names, source, rows):
    """Chosen columns of a result table, with those that are counted; others are copied from the catalogue."""
    copied = [name for name in names if name not in table.colnames]
    for name in copied:
        if name not in source.column_names:
            msg = f"columns: there is no {name}, neither in the results nor in the catalogue"
            raise ValueError(msg)
    if copied:
        for name, values in source.columns(rows, copied).items():
            table[name] = values
    counted = [name for name in _COUNTED if name in table.colnames]
    return chosen_columns(table, list(dict.fromkeys((*names, *counted))))


def _try_copied_columns(writer, names, source, rows):
    """Raise before measuring if a column of the catalogue cannot be copied to the output."""
    copied = [name for name in names if name in source.column_names]
    if copied:
        writer.try_columns(QTable(source.columns(rows[:1], copied)))


def _bar(count, show):
    from tqdm import tqdm

    hidden = not show or not sys.stderr.isatty()
    return tqdm(total=count, unit="gal", file=sys.stderr, disable=hidden, dynamic_ncols=True)


def _say(text):
    import click

    click.echo(printable(text), err=True)


def _plot_folder(folder, rows, chosen):
    if folder is None:
        return None
    if chosen is None and len(rows) > MOST_PLOTS:
        msg = f"plots: {len(rows)} plots are too many; choose rows with --rows"
        raise ValueError(msg)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _plotted(folder, rows, cutouts, table):
    """Plot the fits of a chunk; gives the folder, or None where it cannot be written to: the table does not need it."""
    try:
        _plot(folder, rows, cutouts, table)
    except OSError as err:
        _say(f"galmeasure: warning: plots: no more are written to {folder} ({err.strerror or err})")
        return None
    return folder


def _plot(folder, rows, cutouts, table):
    from galmeasure.evaluation import plot_fit

    for i, row in enumerate(rows):
        figure = plot_fit(table[i], cutouts[i])
        name = re.sub(r"[^\w.+-]+", "_", str(table["id"][i]))
        figure.savefig(folder / f"{row:06d}_{name}.png")
