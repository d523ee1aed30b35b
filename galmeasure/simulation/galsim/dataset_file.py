"""The FITS file of a simulated data set while it grows: whole blocks are kept when a run is stopped."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from astropy.io import fits

from galmeasure.io.layout import BLOCK
from galmeasure.io.table_rows import RowWriter
from galmeasure.results.columns import TRUE
from galmeasure.simulation.galsim.draw import BLOCK_ROWS, draw_psf, import_galsim, row_type

if TYPE_CHECKING:
    from os import PathLike

    from galmeasure.simulation.galsim.config import DatasetConfig

__all__ = ["DatasetFile"]

_VERSION = 1
"""Of the way rows are drawn; another one does not continue a file."""

_TRUE_UNITS = {"r_eff": "arcsec", "psf_fwhm": "arcsec", "x": "pix", "y": "pix", "flux": "adu", "sigma": "adu"}
_COLUMN_UNITS = dict.fromkeys(("cutout", "error", "noiseless"), "adu")
_COLUMN_UNITS |= {TRUE.format(name): unit for name, unit in _TRUE_UNITS.items()}
_FORMATS = {"i8": "K", "f8": "D", "f4": "E"}

_TRUE_COMMENTS = {
    "r_eff": "circularised half-light radius",
    "snr": "over the background noise: the cut",
    "snr_total": "with shot noise of the source",
    "sigma": "background noise",
    "psf_fwhm": "without the pixel",
}
_COMMENTS = {"error": "background noise, see GAIN"}
_COMMENTS |= {TRUE.format(name): comment for name, comment in _TRUE_COMMENTS.items()}


class DatasetFile:
    """A file that grows row by row under a temporary name, and gets its own when it is whole.

    Parameters
    ----------
    path : path-like
        FITS file of the data set.
    config : DatasetConfig
        Configuration of the data set.
    seed : int
        Seed of the random numbers.
    size : int
        Number of rows of the data set.
    noiseless : bool
        True if stamps without noise are written too.
    overwrite : bool
        True if an existing file may be replaced.

    Attributes
    ----------
    partial : Path
        Temporary name of the file.
    n_rows : int
        Rows that are there; at the start, those that an earlier run of the same configuration left.

    Raises
    ------
    FileExistsError
        If the file exists and may not be replaced.
    FileNotFoundError
        If its folder does not exist.
    ValueError
        If the rows of an earlier run are of another configuration, or another run is at work on them.
    """

    def __init__(
        self, path: str | PathLike, config: DatasetConfig, seed: int, size: int, noiseless: bool, overwrite: bool
    ):
        self.path, self.config, self.size, self.overwrite = Path(path), config, size, overwrite
        self.partial = self.path.with_name(f"{self.path.name}.partial")
        self._type = row_type(config, noiseless).newbyteorder(">")
        self._check_path()
        header = self._header({"SIMVERS": _VERSION, "SIMBLOCK": BLOCK_ROWS, "SIMSEED": seed})
        existed = self.partial.exists()
        self._file = self.partial.open("r+b" if existed else "x+b")
        try:
            self._lock()
            if existed and self.partial.stat().st_size:
                self._continue(header)
            else:
                self._start(header)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()
        if not self.n_rows:
            self.partial.unlink(missing_ok=True)

    def _check_path(self):
        if self.path.suffix.lower() != ".fits":
            msg = f"output must end in .fits, not {self.path.name!r}"
            raise ValueError(msg)
        if self.path.is_dir():
            msg = f"{self.path}: is a folder"
            raise IsADirectoryError(msg)
        if self.path.exists() and not self.overwrite:
            msg = f"{self.path}: exists already; --overwrite (overwrite=True) replaces it"
            raise FileExistsError(msg)
        if not self.path.parent.is_dir():
            msg = f"{self.path}: the folder does not exist"
            raise FileNotFoundError(msg)

    def _lock(self):
        """Keep other runs out, where the system can; the lock goes with the process."""
        try:
            import fcntl
        except ImportError:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            msg = f"{self.partial}: another run is writing it"
            raise ValueError(msg) from err
        except OSError:  # a file system without locks
            return

    def _header(self, run):
        """Header of the table, for no rows yet."""
        from galmeasure import __version__

        columns = []
        for name in self._type.names:
            base, shape = self._type[name].base, self._type[name].shape
            dim = f"({shape[1]},{shape[0]})" if shape else None
            form = f"{int(np.prod(shape))}{_FORMATS[base.str[1:]]}"
            columns.append(fits.Column(name=name, format=form, dim=dim, unit=_COLUMN_UNITS.get(name)))
        header = fits.BinTableHDU.from_columns(columns, nrows=0, name="CUTOUTS").header
        for number, name in enumerate(self._type.names, 1):
            if name in _COMMENTS:
                header.comments[f"TTYPE{number}"] = _COMMENTS[name]
        header["PIXSCALE"] = self.config.pixel_scale, "arcsec per pixel"
        header["GAIN"] = self.config.gain, "electrons per adu"
        if not self.config.shared_psf:
            header["PSFSAMP"] = 1.0 / self.config.psf_oversampling, "step of the PSF images, pixels"
        comments = {"SIMSEED": "seed of the random numbers", "SIMBLOCK": "rows of one random generator"}
        for key, value in run.items():
            header[key] = value, comments.get(key, "version of the simulation")
        header["GALSIM"] = import_galsim().__version__
        header["GALMEAS"] = __version__
        header["SIMCONF"] = json.dumps(self.config.to_dict())
        return header

    def _start(self, header):
        primary = fits.PrimaryHDU().header
        primary["EXTEND"] = True
        self._file.write(primary.tostring().encode())
        self._rows = RowWriter(self._file, BLOCK, header)

    def _continue(self, header):
        """Go on after the last whole block of an earlier run."""
        try:
            fits.Header.fromfile(self._file)
            old_header = fits.Header.fromfile(self._file)
        except (OSError, EOFError, ValueError) as err:
            msg = f"{self.partial}: is not the beginning of a data set; delete it to start again"
            raise ValueError(msg) from err
        data = self._file.tell()
        different = _differences(old_header, header)
        if different:
            msg = (
                f"{self.partial}: holds the rows of a stopped run of another configuration ({', '.join(different)}); "
                "repeat that one to continue it, or delete the file to start again"
            )
            raise ValueError(msg)
        count = (self.partial.stat().st_size - data) // self._type.itemsize
        count = self.size if count >= self.size else count // BLOCK_ROWS * BLOCK_ROWS
        self._rows = RowWriter(self._file, BLOCK, old_header, count)

    @property
    def n_rows(self) -> int:
        """Number of rows that are there."""
        return self._rows.n_rows

    def write(self, rows: np.ndarray) -> None:
        """Append rows.

        Parameters
        ----------
        rows : ndarray
            Structured array of the type `row_type`.
        """
        self._rows.write(rows.astype(self._type).tobytes())
        self._file.flush()

    def finish(self) -> None:
        """Close the table, add the PSF that all rows share, and give the file its name."""
        self._rows.finish()
        if self.config.shared_psf:
            hdu = fits.ImageHDU(draw_psf(self.config, self.config.psf_fwhm[0]), name="PSF")
            hdu.header["PSFSAMP"] = 1.0 / self.config.psf_oversampling, "step of the samples, pixels"
            buffer = io.BytesIO()
            fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(buffer)
            self._file.write(buffer.getvalue()[BLOCK:])
        self._file.flush()
        os.fsync(self._file.fileno())
        self._check_path()
        self.partial.replace(self.path)


def _differences(old, new):
    """Differences between two headers in words."""
    before, now = json.loads(old.get("SIMCONF", "{}")), json.loads(new["SIMCONF"])
    names = {"SIMSEED": "seed", "SIMBLOCK": "rows of a block", "SIMVERS": "version of the simulation"}
    before.update({text: old.get(key) for key, text in names.items()})
    now.update({text: new[key] for key, text in names.items()})
    before["noiseless"], now["noiseless"] = ("noiseless" in _column_names(h) for h in (old, new))
    changed = [key for key in now | before if before.get(key) != now.get(key)]
    return [f"{key} {before.get(key)}, not {now.get(key)}" for key in changed]


def _column_names(header):
    return {header[key] for key in header if key.startswith("TTYPE")}
