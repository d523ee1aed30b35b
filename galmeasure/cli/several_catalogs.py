"""Several catalogues in one call, and those that come from the standard input or go to the standard output."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import click

from galmeasure.workflows.measure import MeasureSettings, Summary, measure_catalog, output_path

__all__ = ["STREAM", "measure_all"]

STREAM = "-"
"""Name of the standard input and output."""

_KINDS = {b"SIMPLE  =": ".fits", b"\x1f\x8b": ".fits.gz", b"PAR1": ".parquet", b"<": ".votable", b"# %ECSV": ".ecsv"}
"""Endings by the first bytes; anything else is taken for CSV."""


def measure_all(catalogs: Sequence[str], settings: MeasureSettings) -> Iterator[Summary]:
    """Measure catalogues one after the other.

    Parameters
    ----------
    catalogs : sequence of str
        Files, or ``-`` for the standard input; none of them if ``--image`` alone says what is measured.
    settings : MeasureSettings
        Settings for all of them; the output may be ``-``.

    Yields
    ------
    Summary
        Closing lines for each of them.
    """
    paths: list[str | None] = [*catalogs] or [None]
    _check(paths, settings)
    for catalog in _unfinished(paths, settings):
        with ExitStack() as stack:
            path = stack.enter_context(_standard_input()) if catalog == STREAM else catalog
            if settings.output == STREAM:
                yield _to_standard_output(path, settings)
            else:
                yield measure_catalog(path, settings)


def _check(catalogs, settings):
    """Raise where outputs are missing, are those of others, or are there already; before anything is measured."""
    if len(catalogs) > 1 and settings.output is not None:
        msg = f"output is for one catalogue, and {len(catalogs)} were given; each has its own table by default"
        raise ValueError(msg)
    if len(catalogs) > 1 and settings.gallery is not None:
        msg = f"gallery is for one catalogue, and {len(catalogs)} were given; measure them one by one"
        raise ValueError(msg)
    if STREAM in catalogs and settings.output is None:
        msg = "output must be given for a catalogue from the standard input, a file or -"
        raise ValueError(msg)
    if settings.resume and settings.output == STREAM:
        msg = "resume needs an output that is a file, not the standard output"
        raise ValueError(msg)
    if len(catalogs) == 1:
        return
    paths = [output_path(catalog, None) for catalog in catalogs]
    for catalog, path in zip(catalogs, paths, strict=True):
        if paths.count(path) > 1:
            msg = f"{catalog}: another catalogue has the same table, {path}; measure them one by one, with --output"
            raise ValueError(msg)
        if path.exists() and not settings.overwrite and not settings.resume:
            msg = f"{path}: exists already; --overwrite replaces it"
            raise ValueError(msg)


def _unfinished(catalogs, settings):
    """Catalogues without a table, where a run over several of them is gone on with; otherwise all."""
    for catalog in catalogs:
        if len(catalogs) > 1 and settings.resume and output_path(catalog, None).exists():
            click.echo(f"galmeasure: {output_path(catalog, None)} is there already, and is left as it is", err=True)
        else:
            yield catalog


@contextmanager
def _standard_input():
    """File with what comes from the standard input."""
    with tempfile.TemporaryDirectory(prefix="galmeasure_") as folder:
        stream = sys.stdin.buffer
        start = stream.read(16)
        ending = next((ending for magic, ending in _KINDS.items() if start.lstrip().startswith(magic)), ".csv")
        path = Path(folder) / f"standard_input{ending}"
        with path.open("wb") as file:
            file.write(start)
            shutil.copyfileobj(stream, file)
        yield str(path)


def _to_standard_output(catalog, settings):
    """Measure a catalogue, and write the table to the standard output as CSV."""
    with tempfile.TemporaryDirectory(prefix="galmeasure_") as folder:
        path = Path(folder) / "table.csv"
        summary = measure_catalog(catalog, replace(settings, output=path, journal=False))
        stream = sys.stdout.buffer
        try:
            with path.open("rb") as file:
                shutil.copyfileobj(file, stream)
            stream.flush()
        except BrokenPipeError:  # whoever reads has seen enough; nothing is left to be written when Python ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    summary.path, summary.next_step = "on the standard output", ""
    return summary
