"""Truths of simulated galaxies, from the files that have them."""

import contextlib
import json
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable

from galmeasure.exceptions import CatalogError
from galmeasure.io.names import spelling_of
from galmeasure.results.columns import TRUE

__all__ = ["read_noiseless", "read_simulation", "read_truth", "read_truth_of_list"]

_PREFIX = TRUE.format("")


def read_truth(path: str | PathLike) -> QTable:
    """True parameters of a FITS table of cutouts, as `galmeasure.training.make_dataset` writes it.

    Parameters
    ----------
    path : path-like
        File that is to be read.

    Returns
    -------
    `~astropy.table.QTable`
        The columns ``true_<p>``, and ``id`` if there is a column of identifiers.

    Raises
    ------
    CatalogError
        If it is not a FITS file, or has no true parameters.
    """
    with _first_table(path) as (_, hdu):
        units = {column.name: column.unit for column in hdu.columns}
        ids = spelling_of(list(units), "id")
        table = QTable()
        for name in [name for name in units if name == ids or name.startswith(_PREFIX)]:
            column = np.array(hdu.data[name])
            column = column.astype(column.dtype.newbyteorder("="))
            unit = None if name == ids or not units[name] else u.Unit(units[name], parse_strict="silent")
            table["id" if name == ids else name] = column if unit is None else u.Quantity(column, unit)
    return table


def read_truth_of_list(path: str | PathLike) -> QTable:
    """True parameters of any catalogue that has them, with the identifiers that its measurements have.

    Parameters
    ----------
    path : path-like
        Table of cutouts or list of sources with columns ``true_<p>`` or ``<p>_true``, as FITS, ECSV, CSV, Parquet or
        VOTable.

    Returns
    -------
    `~astropy.table.QTable`
        Those columns, and ``id``: a column of identifiers, or 1 to N without one, as measurements count then.

    Raises
    ------
    CatalogError
        If the file cannot be read, or has no true parameters.
    """
    from galmeasure.io.other_codes import read_results

    path = Path(path)
    with contextlib.suppress(CatalogError):  # the pixels of a table of cutouts need not be read
        truth = read_truth(path)
        if "id" not in truth.colnames:
            truth["id"] = np.arange(1, len(truth) + 1)
        return truth
    table = read_results(path)
    names = [name for name in table.colnames if name.startswith(_PREFIX) or name.endswith("_true")]
    if not names:
        msg = f"{path}: has no true parameters (columns true_flux, true_n, ... or flux_true, n_true, ...)"
        raise CatalogError(msg)
    ids, truth = spelling_of(table.colnames, "id"), table[names]
    truth["id"] = np.arange(1, len(table) + 1) if ids is None else table[ids]
    return truth


def read_noiseless(path: str | PathLike, rows: Iterable[int]) -> dict[int, npt.NDArray[np.float64]]:
    """Noiseless stamps of some rows of such a file.

    Parameters
    ----------
    path : path-like
        File that is to be read.
    rows : list of int
        Rows, counted from 0.

    Returns
    -------
    dict of int to ndarray
        Stamps by row; empty if the file has none.
    """
    with _first_table(path) as (_, hdu):
        if "noiseless" not in hdu.columns.names:
            return {}
        return {int(row): np.array(hdu.data["noiseless"][row], dtype=float) for row in rows}


def read_simulation(path: str | PathLike) -> tuple[dict[str, Any], int | None]:
    """Configuration and seed with which such a file was simulated.

    Parameters
    ----------
    path : path-like
        File that is to be read.

    Returns
    -------
    config : dict
        What `galmeasure.training.DatasetConfig.to_dict` gave; empty if the file does not say.
    seed : int or None
        Of the random numbers.
    """
    with _first_table(path) as (_, hdu):
        try:
            config = json.loads(hdu.header.get("SIMCONF", "{}"))
        except json.JSONDecodeError:
            config = {}
        return config if isinstance(config, dict) else {}, hdu.header.get("SIMSEED")


class _first_table:
    """Context of the open file and its first table with true parameters."""

    def __init__(self, path):
        self.path = Path(path)

    def __enter__(self):
        if not self.path.is_file():
            msg = f"{self.path}: no such file"
            raise CatalogError(msg)
        try:
            self._hdus = fits.open(self.path, memmap=True)
        except OSError as err:
            msg = f"{self.path}: not a FITS file"
            raise CatalogError(msg) from err
        for hdu in self._hdus:
            if isinstance(hdu, fits.BinTableHDU) and any(name.startswith(_PREFIX) for name in hdu.columns.names):
                return self._hdus, hdu
        self._hdus.close()
        msg = f"{self.path}: has no true parameters (columns true_flux, true_n, ...)"
        raise CatalogError(msg)

    def __exit__(self, *_):
        self._hdus.close()
