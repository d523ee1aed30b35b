"""Truths of simulated galaxies, from the files that have them."""

import json
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable

from galmeasure.exceptions import CatalogError
from galmeasure.results.columns import TRUE

__all__ = ["read_noiseless", "read_simulation", "read_truth"]

_PREFIX = TRUE.format("")


def read_truth(path):
    """True parameters of a FITS table of cutouts, as `galmeasure.training.make_dataset` writes it.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    `~astropy.table.QTable`
        The columns ``true_<p>``, and ``id`` if it is there.

    Raises
    ------
    CatalogError
        If it is not a FITS file, or has no true parameters.
    """
    with _first_table(path) as (_, hdu):
        units = {column.name: column.unit for column in hdu.columns}
        names = [name for name in units if name == "id" or name.startswith(_PREFIX)]
        table = QTable()
        for name in names:
            column = np.array(hdu.data[name])
            column = column.astype(column.dtype.newbyteorder("="))
            table[name] = column if not units[name] else u.Quantity(column, u.Unit(units[name], parse_strict="silent"))
    return table


def read_noiseless(path, rows):
    """Noiseless stamps of some rows of such a file.

    Parameters
    ----------
    path : path-like
        The file.
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


def read_simulation(path):
    """Configuration and seed with which such a file was simulated.

    Parameters
    ----------
    path : path-like
        The file.

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
