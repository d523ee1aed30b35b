"""Rows of catalogues read by other processes than the one that has opened them."""

import pickle
import threading
import warnings
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galmeasure.cutouts import Cutouts
from galmeasure.io import CatalogSource, open_catalog

__all__ = ["MOST_KEPT", "address_of", "read_rows"]

MOST_KEPT = 4
"""Catalogues that a process keeps open."""

_LOCK = threading.RLock()
_SOURCES: dict[bytes, tuple[CatalogSource, threading.Lock]] = {}


def address_of(source: CatalogSource) -> tuple[str | None, dict[str, Any]]:
    """Absolute path and options with which another process opens a catalogue.

    Parameters
    ----------
    source : CatalogSource
        Catalogue that is open.

    Returns
    -------
    path : str or None
        Argument of `galmeasure.io.open_catalog`.
    options : dict
        Its options.
    """
    options = {name: value for name, value in vars(source.options).items() if value is not None}
    files = {name: str(Path(value).resolve()) for name, value in options.items() if _is_file(value)}
    path = source.opened_as
    return (str(Path(path).resolve()) if _is_file(path) else _with_folder(path)), options | files


def _is_file(value):
    return isinstance(value, str | PathLike) and Path(value).exists()


def _with_folder(path):
    """Absolute path of a file with an extension in brackets behind it."""
    return None if path is None else str(Path.cwd() / path)


def read_rows(argument: tuple[str | None, dict[str, Any], NDArray[np.int64]]) -> Cutouts:
    """Read some rows of a catalogue, which this process keeps open.

    Parameters
    ----------
    argument : tuple
        Path and options, see `address_of`, and row numbers.

    Returns
    -------
    galmeasure.Cutouts
        In the order of the rows.
    """
    path, options, rows = argument
    key = pickle.dumps((path, options))
    with _LOCK:
        if key not in _SOURCES:
            while len(_SOURCES) >= MOST_KEPT:
                _SOURCES.pop(next(iter(_SOURCES)))
            with warnings.catch_warnings(action="ignore"):  # who opened it first has shown them
                _SOURCES[key] = open_catalog(path, **options), threading.Lock()
        source, lock = _SOURCES[key]
    with lock:
        return source.read(rows)
