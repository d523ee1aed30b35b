"""FITS files, carefully: opened without warnings, checked for their length, tables read by ranges of rows."""

import gzip
import itertools
import math
import os
import re
import shutil
import tempfile
import warnings
import weakref
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from galmeasure.exceptions import CatalogError
from galmeasure.io.layout import FileState, file_layout, open_binary
from galmeasure.io.pixels import FilePixels, MappedFile, constant_pixels, constant_shape, linear_pixels, scaled_pixels

__all__ = ["TableRows", "has_fits_magic", "is_table", "open_fits"]

READ_ERRORS = (OSError, EOFError, zlib.error, ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError)
"""What astropy and numpy raise on damaged files."""


def existing(path: str | os.PathLike, *, may_be_folder: bool = False) -> Path:
    """`path` as a Path, or CatalogError if it is no file (or folder) that can be read, more than once."""
    path = Path(path)
    try:
        if path.is_dir():
            if may_be_folder:
                return path
            reason = "is a folder, not a file"
        elif path.is_file():
            with path.open("rb"):
                return path
        elif path.exists():
            reason = "is a pipe or a device, and files are read more than once: save it to a file first"
        else:
            reason = "no such file"
    except (OSError, ValueError) as err:
        reason = f"cannot be read ({getattr(err, 'strerror', None) or one_line(err)})"
    msg = f"{path}: {reason}"
    raise CatalogError(msg)


def has_fits_magic(path: str | os.PathLike) -> bool:
    """Tell if a file begins as FITS files do, compressed with gzip or not."""
    try:
        with open_binary(path) as file:
            return file.read(9) == b"SIMPLE  ="
    except READ_ERRORS:
        return False


class OptionError(ValueError):
    """An option that does not fit the file: the message names the option."""


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings: what is wrong with a file is found out here and raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def reading(path: str | os.PathLike) -> Iterator[None]:
    """Turn errors of astropy and numpy for damaged files into a CatalogError that names the file; no warnings."""
    try:
        with quiet():
            yield
    except (CatalogError, OptionError):
        raise
    except Exception as err:  # damaged headers end in errors of every kind
        msg = f"{path}: damaged file ({type(err).__name__}: {one_line(err)[:200]})"
        raise CatalogError(msg) from err


def open_fits(path: str | os.PathLike, *, cut_table: bool = False) -> fits.HDUList:
    """HDUList of a FITS file whose data are all there; images are not scaled, see `image_data`.

    Parameters
    ----------
    path : path-like
        FITS file; may be compressed with gzip.
    cut_table : bool, optional
        Whether a table at the end of the file may end early, see ``TableRows.n_whole``.

    Returns
    -------
    astropy.io.fits.HDUList
        Opened for reading, not memory-mapped by astropy; to be closed by the caller.

    Raises
    ------
    CatalogError
        If the file is missing, is not FITS, or is truncated.
    """
    path = existing(path)
    if not has_fits_magic(path):
        msg = f"{path}: not a FITS file"
        raise CatalogError(msg)
    try:
        layout = file_layout(path, cut_table=cut_table)
        with quiet():
            hdus = fits.open(path, memmap=False, lazy_load_hdus=True, do_not_scale_image_data=True)
    except CatalogError:
        raise
    except READ_ERRORS as err:
        msg = f"{path}: truncated or damaged FITS file ({one_line(err)})"
        raise CatalogError(msg) from err
    try:
        with quiet():
            _check_headers(hdus, layout, path)
    except BaseException:
        hdus.close()
        raise
    return hdus


def _check_headers(hdus, layout, path):
    """Load every header; raise if astropy finds another HDU than `file_layout`, or none, at one of the places."""
    for number, header in enumerate(layout):
        try:
            data_start = hdus[number].fileinfo()["datLoc"]
        except READ_ERRORS as err:
            msg = f"{path}: damaged FITS file, HDU {number} cannot be read ({one_line(err)})"
            raise CatalogError(msg) from err
        if data_start != header.data:
            msg = f"{path}: damaged FITS file, HDU {number} is not where the headers before it say"
            raise CatalogError(msg)
    hdus._read_all = True  # what follows the last HDU is none, and astropy would read it as if it were one


def one_line(err: object) -> str:
    """Text of an exception on one line."""
    return " ".join(str(err).split()) or type(err).__name__


def is_table(hdu: fits.ImageHDU | fits.BinTableHDU) -> bool:
    """Tell if `hdu` is a table for users: not a compressed image, not the header in a table of FITS_LDAC."""
    return isinstance(hdu, fits.BinTableHDU) and not isinstance(hdu, fits.CompImageHDU) and hdu.name != "LDAC_IMHEAD"


def table_names(hdu: fits.BinTableHDU) -> list[str]:
    """Names of a table's columns, as its header has them: the formats may be damaged."""
    return [str(hdu.header.get(f"TTYPE{i + 1}", "")).strip() for i in range(hdu.header.get("TFIELDS", 0))]


def is_image(hdu: fits.ImageHDU | fits.BinTableHDU) -> bool:
    """Tell if `hdu` is an image with two or more axes, or one whose pixels have all the value that its header says."""
    return hdu.is_image and (hdu.header.get("NAXIS", 0) >= 2 or constant_shape(hdu.header) is not None)


def image_shape(header: fits.Header) -> tuple[int, ...]:
    """Axes of an image by its header, the slowest one first, those of `constant_shape` included; () for none."""
    sides = (int(header[f"NAXIS{i}"]) for i in range(header["NAXIS"], 0, -1))
    return constant_shape(header) or tuple(sides)


def image_data(hdu: fits.ImageHDU, path: str | os.PathLike, what: str, axes: tuple[int, ...] = (2, 3)) -> npt.ArrayLike:
    """Physical values of an image HDU, read where they are used; axes of length one at the front are dropped."""
    if constant_shape(hdu.header) is not None:
        return constant_pixels(hdu.header, f"{path}: {what}")
    try:
        with quiet():
            header, data = hdu.header.copy(), _stored_pixels(hdu, max(axes))
    except CatalogError:
        raise
    except Exception as err:  # damaged headers and compressed pixels end in errors of every kind
        msg = f"{path}: {what}: cannot be read ({one_line(err)[:200]})"
        raise CatalogError(msg) from err
    if data is None or data.ndim not in axes or 0 in data.shape:
        shape = None if data is None else data.shape
        msg = f"{path}: {what}: must be an image with {' or '.join(map(str, axes))} axes, not {shape}"
        raise CatalogError(msg)
    pixels = scaled_pixels(data, header, f"{path}: {what}")
    return pixels if what in ("mask", "segmentation") else linear_pixels(pixels, header, f"{path}: {what}")


def _stored_pixels(hdu, most_axes):
    """Pixels of an HDU as they are stored, None without any; read where they are used if the file allows it."""
    info = hdu.fileinfo() if type(hdu) in (fits.PrimaryHDU, fits.ImageHDU) else None
    if info is None or info["file"].compression is not None:
        data = hdu.data
        while data is not None and data.ndim > most_axes and data.shape[0] == 1:
            data = data[0]
        return data
    header = hdu.header
    shape = [int(header[f"NAXIS{i}"]) for i in range(header["NAXIS"], 0, -1)]
    while len(shape) > most_axes and shape[0] == 1:
        shape = shape[1:]
    if not shape:
        return None
    if info["file"] not in _MAPPED:
        _MAPPED[info["file"]] = MappedFile(info["file"].name)
    return FilePixels(_MAPPED[info["file"]], info["datLoc"], shape, _BITPIX[header["BITPIX"]])


_MAPPED = weakref.WeakKeyDictionary()
"""Mapped files by the file objects of astropy, so that a file with many extensions is mapped once."""


_BITPIX = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
"""Types of the pixels of images."""


def split_extension(path: str | os.PathLike) -> tuple[Path, str | None]:
    """``"file.fits[SCI,1]"`` as path and extension, ``"SCI,1"``; the extension is None where none is given."""
    match = re.fullmatch(r"(.+)\[([^\[\]]+)\]", str(path))
    if match and not Path(path).exists():
        return Path(match[1]), re.sub(r"\s*,\s*", ",", match[2].strip()).upper()
    return Path(path), None


def is_chosen(extension: str | None, number: int, hdu: fits.ImageHDU | fits.BinTableHDU) -> bool:
    """Tell if an extension such as ``"2"``, ``"SCI"`` or ``"SCI,1"`` is an HDU and its number; None is every one."""
    if extension is None:
        return True
    name, _, version = extension.partition(",")
    return extension == str(number) or (name == hdu.name.upper() and version in ("", str(hdu.ver)))


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
        self.path, self.header, self._unpacked, self._state = Path(path), hdu.header, None, FileState(path)
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
            msg = f"{path}: damaged table, its columns need {dtype.itemsize} bytes a row and a row has {width}"
            raise CatalogError(msg)
        self._start = hdu.fileinfo()["datLoc"]
        self._heap = self._start + int(hdu.header.get("THEAP", width * self._n_rows))
        self._end = self._start + hdu.size
        self.n_whole = self._n_rows
        self.n_whole = self._count_whole(hdu.size)

    def __len__(self):
        return self._n_rows

    def _count_whole(self, size):
        """Number of rows whose bytes, those of arrays of varying length included, come before the end of the file."""
        end = self.path.stat().st_size
        with open_binary(self.path) as file:
            if isinstance(file, gzip.GzipFile) or self._start + size <= end:
                return self._n_rows
            count = min(self._n_rows, max(0, end - self._start) // self._dtype.itemsize)
            names = [name for name in self.names if self._variable(name)]
            rows = self._raw(np.arange(count if names else 0), file)
        for name in names:
            width = np.dtype(fits.column.FITS2NUMPY[self._variable(name)[1]]).itemsize
            last = self._heap + rows[name][:, 1].astype(np.int64) + rows[name][:, 0].astype(np.int64) * width
            beyond = np.flatnonzero(last > end)
            count = min(count, beyond[0]) if len(beyond) else count
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
            One entry a column, a list where the length varies from row to row.
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
        """The file, or a nameless copy that is not compressed: to unpack it again for every block takes too long."""
        if self._unpacked is None:
            self._state.check()
            with open_binary(self.path) as file:
                if not isinstance(file, gzip.GzipFile):
                    yield file
                    self._state.check()
                    return
                unpacked = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the table)
                weakref.finalize(self, unpacked.close)
                shutil.copyfileobj(file, unpacked, 2**20)
                self._unpacked = unpacked
        yield self._unpacked

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
        n_read = 0
        while n_read < len(buffer):
            n_new = file.readinto(buffer[n_read:])
            if not n_new:
                msg = f"{self.path}: truncated FITS file, the table ends early"
                raise CatalogError(msg)
            n_read += n_new

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
