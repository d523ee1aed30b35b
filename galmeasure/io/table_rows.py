"""Rows of FITS binary tables as the bytes that they are in files: read by ranges, and appended one chunk after another.

Neither needs the memory of a whole table, nor its number of rows beforehand.
"""

import itertools
import math
import os
import re
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from galmeasure.exceptions import CatalogError
from galmeasure.io.fits_files import READ_ERRORS, one_line, quiet
from galmeasure.io.layout import BLOCK, FileState, unpacked_file
from galmeasure.utils.files import read_into

__all__ = ["RowWriter", "TableRows"]


class TableRows:
    """Rows of a FITS binary table, read from the file by ranges: memory is that of the rows asked for.

    Parameters
    ----------
    path : path-like
        File that is to be read.
    hdu : astropy.io.fits.BinTableHDU
        The table in it; its header is used, never its data.

    Attributes
    ----------
    n_whole : int
        Number of rows, from the first one on, that are whole in the file: all of them unless the file ends early.
    """

    def __init__(self, path, hdu):
        self.path, self.header = Path(path), hdu.header
        self._unpacked, self._state = unpacked_file(path), FileState(path)
        if hdu.header.get("ZTABLE"):
            msg = f"{path}: the table is tile-compressed (ZTABLE), which is not read: unpack it first, with funpack"
            raise CatalogError(msg)
        try:
            with quiet():
                columns = hdu.columns
                dtype = columns.dtype.newbyteorder(">")
            self._columns = {column.name: column for column in columns}
        except READ_ERRORS as err:
            msg = f"{path}: damaged table ({one_line(err)})"
            raise CatalogError(msg) from err
        self.names = list(self._columns)
        self._n_rows = int(hdu.header["NAXIS2"])
        width = int(hdu.header["NAXIS1"])
        offsets = [dtype.fields[name][1] for name in dtype.names] if dtype.names else []
        self._dtype = np.dtype(
            {
                "names": list(dtype.names or ()),
                "formats": [dtype.fields[name][0] for name in dtype.names or ()],
                "offsets": offsets,
                "itemsize": max(width, dtype.itemsize),
            }
        )
        if dtype.itemsize > width:
            msg = f"{path}: damaged table, its columns need {dtype.itemsize} bytes per row and a row has {width}"
            raise CatalogError(msg)
        self._start = hdu.fileinfo()["datLoc"]
        self._heap = self._start + int(hdu.header.get("THEAP", width * self._n_rows))
        self._end = self._start + hdu.size
        self.n_whole = self._n_rows
        self.n_whole = self._count_whole(hdu.size)

    def __len__(self):
        return self._n_rows

    @property
    def is_packed(self) -> bool:
        """True if the file is compressed, so that each process unpacks it."""
        return self._unpacked is not None

    def check_unchanged(self) -> None:
        """Raise a CatalogError if the file has changed since it was opened, or is gone."""
        self._state.check()

    def _count_whole(self, size):
        """Number of rows whose bytes, those of arrays of varying length included, come before the end of the file."""
        with self._open() as file:
            end = file.seek(0, os.SEEK_END)
            if self._start + size <= end:
                return self._n_rows
            count = min(self._n_rows, max(0, end - self._start) // self._dtype.itemsize)
            names = [name for name in self.names if self._variable(name)]
            rows = self._raw(np.arange(count if names else 0), file)
        for name in names:
            width = np.dtype(fits.column.FITS2NUMPY[self._variable(name)[1]]).itemsize
            last = self._heap + rows[name][:, 1].astype(np.int64) + rows[name][:, 0].astype(np.int64) * width
            cut = np.flatnonzero(last > end)
            count = min(count, cut[0]) if len(cut) else count
        return int(count)

    def unit(self, name: str) -> str | None:
        """Text of TUNIT of a column, or None."""
        return self._columns[name].unit

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of one element of a column; None where it varies from row to row."""
        return None if self._variable(name) else self._dtype.fields[name][0].shape

    def is_number(self, name: str) -> bool:
        """Tell if a column holds real numbers or truth values."""
        kind = self._columns[name].format.strip("0123456789")[:1]
        if kind in "PQ":
            kind = self._variable(name)[1]
        return kind in "LXBIJKED"

    def dtype_name(self, name: str) -> str:
        """Type of a column's elements, for messages."""
        return "text" if "A" in str(self._columns[name].format) else str(self._columns[name].format)

    def read(self, rows: npt.ArrayLike, names: Sequence[str] | None = None) -> dict[str, np.ndarray | list[np.ndarray]]:
        """Columns at the given rows.

        Parameters
        ----------
        rows : array_like of int
            Row numbers, counted from 0.
        names : list of str, optional
            Columns; all of them if not given.

        Returns
        -------
        dict of str to ndarray or list of ndarray
            One entry per column, a list where the length varies from row to row.
        """
        rows = np.asarray(rows, dtype=np.int64)
        names = self.names if names is None else names
        try:
            with self._open() as file:
                raw = self._raw(rows, file)
                return {name: self._values(name, raw[name], file) for name in names}
        except READ_ERRORS as err:
            msg = str(err) if isinstance(err, CatalogError) else f"{self.path}: cannot be read ({one_line(err)})"
            raise CatalogError(msg) from err

    @contextmanager
    def _open(self):
        """The file, or its copy that is not compressed."""
        if self._unpacked is not None:
            with self._unpacked.open() as file:
                yield file
            return
        self._state.check()
        with self.path.open("rb") as file:
            yield file
        self._state.check()

    def _raw(self, rows, file):
        """Bytes of some rows as a structured array."""
        raw = np.empty(len(rows), dtype=self._dtype)
        buffer = memoryview(raw.view(np.uint8)) if len(rows) else None
        width = self._dtype.itemsize
        for first, last in runs(rows):
            file.seek(self._start + int(rows[first]) * width)
            self._fill(file, buffer[first * width : last * width])
        return raw

    def _fill(self, file, buffer):
        if not read_into(file, buffer):
            msg = f"{self.path}: truncated FITS file, the table ends early"
            raise CatalogError(msg)

    def _variable(self, name):
        return re.match(r"\d*[PQ]([A-Z])", str(self._columns[name].format))

    def _values(self, name, values, file):
        column = self._columns[name]
        if variable := self._variable(name):
            return [self._scaled(column, v) for v in self._from_heap(variable[1], values, file)]
        kind = str(column.format).strip("0123456789")[:1]
        if kind == "L":
            return values == ord("T")
        if kind == "X":
            bits = math.prod(column.dim or ()) or int(re.match(r"\d*", column.format)[0] or 1)
            return np.unpackbits(values.reshape(len(values), -1), axis=1)[:, :bits].astype(bool)
        if values.dtype.kind == "S":
            return np.char.rstrip(np.char.decode(np.ascontiguousarray(values), "ascii", "replace"))
        return self._scaled(column, values)

    def _from_heap(self, code, descriptors, file):
        dtype = np.dtype(fits.column.FITS2NUMPY[code]).newbyteorder(">")
        for count, offset in descriptors.astype(np.int64).tolist():
            if min(count, offset) < 0 or self._heap + offset + count * dtype.itemsize > self._end:
                msg = f"{self.path}: damaged table, an array of {count} elements is not in the file"
                raise CatalogError(msg)
            values = np.empty(int(count), dtype=dtype)
            file.seek(self._heap + int(offset))
            self._fill(file, memoryview(values.view(np.uint8)) if count else b"")
            yield values

    @staticmethod
    def _scaled(column, values):
        """Physical values of a column: integers stay exact, those that are TNULL are masked (NaN in vector columns)."""
        scale, zero = (default if v in (None, "") else v for v, default in ((column.bscale, 1), (column.bzero, 0)))
        raw = values
        if scale == 1 and zero == 2**63 and values.dtype.kind == "i":
            values = values.astype(np.int64).view(np.uint64) ^ np.uint64(2**63)
        elif scale == 1 and float(zero).is_integer() and zero and abs(zero) < 2**62 and values.dtype.kind in "iu":
            values = values.astype(np.int64) + int(zero)
        elif scale != 1 or zero != 0:
            values = values * float(scale) + float(zero)
        if column.null in (None, "") or raw.dtype.kind not in "iu":
            return values
        null = raw == int(column.null)
        if values.dtype.kind in "iu":  # astropy writes TNULL of unsigned integers with TZERO added
            null = null | (values == int(column.null))
        if not null.any():
            return values
        return np.ma.array(values, mask=null) if values.ndim == 1 else np.where(null, np.nan, values.astype(float))


def runs(rows: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (first, last) of positions in `rows` between which row numbers follow one another."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    edges = [0, *breaks.tolist(), len(rows)]
    return [pair for pair in itertools.pairwise(edges) if pair[1] > pair[0]]


class RowWriter:
    """Writer of the rows of a FITS binary table, whose number is known when the last one is written.

    Parameters
    ----------
    file : binary file
        File open for writing, which has everything that comes before the table.
    start : int
        Position of the table's header in the file, in bytes.
    header : astropy.io.fits.Header
        Header of the table; its number of rows is set.
    n_rows : int, optional
        Number of rows that the file has already. Default 0.

    Attributes
    ----------
    n_rows : int
        Number of rows written so far.
    """

    def __init__(self, file: BinaryIO, start: int, header: fits.Header, n_rows: int = 0):
        self._file, self._start, self._header, self.n_rows = file, start, header, n_rows
        self._data = start + len(header.tostring())
        self._write_header(0)

    def _write_header(self, n_rows):
        self._header["NAXIS2"] = n_rows
        self._file.seek(self._start)
        self._file.write(self._header.tostring().encode())

    @property
    def _end(self):
        return self._data + self.n_rows * self._header["NAXIS1"]

    def write(self, rows: bytes | memoryview) -> None:
        """Append rows.

        Parameters
        ----------
        rows : bytes
            Whole rows as they are stored, big-endian.
        """
        self._file.seek(self._end)
        self._file.write(rows)
        self.n_rows += len(rows) // self._header["NAXIS1"]

    def finish(self) -> None:
        """End the table with a whole block and put its number of rows into the header; the file stands at its end."""
        self._file.truncate(self._end)
        self._file.seek(self._end)
        self._file.write(b"\0" * (-self._end % BLOCK))
        self._write_header(self.n_rows)
        self._file.seek(0, os.SEEK_END)
