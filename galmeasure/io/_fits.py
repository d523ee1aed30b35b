"""FITS files, carefully: opened without warnings, checked for their length, tables read by ranges of rows."""

import gzip
import itertools
import math
import re
import warnings
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from astropy.io import fits

from galmeasure.exceptions import CatalogError

__all__ = ["TableRows", "has_fits_magic", "is_table", "load_plane", "open_fits"]

_VALID_HDUS = (fits.PrimaryHDU, fits.ImageHDU, fits.BinTableHDU, fits.TableHDU, fits.CompImageHDU, fits.GroupsHDU)

READ_ERRORS = (OSError, EOFError, zlib.error, ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError)
"""What astropy and numpy raise on damaged files."""


def existing(path):
    """`path` as a Path, or CatalogError if there is no such file."""
    path = Path(path)
    if not path.exists():
        msg = f"{path}: no such file"
        raise CatalogError(msg)
    if path.is_dir():
        msg = f"{path}: is a folder, not a file"
        raise CatalogError(msg)
    return path


def has_fits_magic(path):
    """Whether the file begins as FITS files do, compressed with gzip or not."""
    try:
        with open_binary(path) as file:
            return file.read(9) == b"SIMPLE  ="
    except READ_ERRORS:
        return False


def open_binary(path):
    """Open a file for reading, through gzip where its first bytes say so."""
    with Path(path).open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if compressed else Path(path).open("rb")


class OptionError(ValueError):
    """An option that does not fit the file: the message names the option."""


@contextmanager
def quiet():
    """Without warnings: what is wrong with a file is found out here and raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def reading(path):
    """What damaged files raise in astropy and numpy becomes a CatalogError that names the file; no warnings."""
    try:
        with quiet():
            yield
    except (CatalogError, OptionError):
        raise
    except Exception as err:  # damaged headers end in errors of every kind
        msg = f"{path}: damaged file ({type(err).__name__}: {one_line(err)[:200]})"
        raise CatalogError(msg) from err


def open_fits(path):
    """HDUList of a FITS file whose data are all there.

    Parameters
    ----------
    path : path-like
        FITS file; may be compressed with gzip.

    Returns
    -------
    astropy.io.fits.HDUList
        Opened for reading, memory-mapped; to be closed by the caller.

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
        with quiet():
            hdus = fits.open(path, memmap=True, lazy_load_hdus=True)
    except READ_ERRORS as err:
        msg = f"{path}: damaged FITS file ({one_line(err)})"
        raise CatalogError(msg) from err
    try:
        with quiet():
            _check_length(hdus, path)
    except BaseException:
        hdus.close()
        raise
    return hdus


def _check_length(hdus, path):
    """Load every header; raise if data end early, or if the header of one more HDU begins and does not end."""
    end = 0
    try:
        with open_binary(path) as file:
            size = None if isinstance(file, gzip.GzipFile) else path.stat().st_size
            for number, hdu in enumerate(_each(hdus)):
                end = _end_of_data(hdu, number, path, size, end)
            file.seek(end)
            rest = file.read(8)
    except CatalogError:
        raise
    except READ_ERRORS as err:
        msg = f"{path}: truncated or damaged FITS file ({one_line(err)})"
        raise CatalogError(msg) from err
    if rest == b"XTENSION":
        msg = f"{path}: truncated or damaged FITS file, its last header is not whole"
        raise CatalogError(msg)


def _each(hdus):
    """HDUs one by one as they are read, since a damaged size can make a list of them endless."""
    for number in itertools.count():
        try:
            hdu = hdus[number]
        except IndexError:
            return
        yield hdu


def _end_of_data(hdu, number, path, size, before):
    """End of an HDU in the file; raise if it is not there or not after the HDU before it."""
    if not isinstance(hdu, _VALID_HDUS):
        msg = f"{path}: damaged FITS file, HDU {number} is neither an image nor a table"
        raise CatalogError(msg)
    info = hdu.fileinfo()
    wanted, end = info["datLoc"] + min(hdu.size, info["datSpan"]), info["datLoc"] + info["datSpan"]
    if end <= before or hdu.size < 0:
        msg = f"{path}: damaged FITS file, HDU {number} has an impossible size"
        raise CatalogError(msg)
    if size is not None and wanted > size:
        msg = f"{path}: truncated FITS file, HDU {number} needs {wanted} bytes and there are {size}"
        raise CatalogError(msg)
    return end


def one_line(err):
    """Text of an exception on one line."""
    return " ".join(str(err).split()) or type(err).__name__


def is_table(hdu):
    """Whether `hdu` is a table for users: not a compressed image, not the header in a table of FITS_LDAC."""
    return isinstance(hdu, fits.BinTableHDU) and not isinstance(hdu, fits.CompImageHDU) and hdu.name != "LDAC_IMHEAD"


def is_image(hdu):
    """Whether `hdu` is an image with two or more axes."""
    return hdu.is_image and hdu.header.get("NAXIS", 0) >= 2


def load_plane(path, what, name=None):
    """The 2-D image of a FITS file, with its header.

    Parameters
    ----------
    path : path-like
        FITS file; ``file.fits[2]`` and ``file.fits[NAME]`` choose an extension.
    what : str
        What it is read as, for messages.
    name : tuple of str, optional
        Names of extensions to prefer; otherwise the first image counts.

    Returns
    -------
    data : ndarray
        2-D array, memory-mapped where possible.
    header : astropy.io.fits.Header
        Header of the image.
    """
    path, extension = split_extension(path)
    with open_fits(path) as hdus:
        images = [hdu for hdu in hdus if is_image(hdu)]
        if extension is not None:
            images = [hdu for i, hdu in enumerate(hdus) if is_image(hdu) and extension in (str(i), hdu.name)]
        elif name:
            images = [hdu for hdu in images if hdu.name.upper() in name] or images
        if not images:
            msg = f"{path}: {what}: no image" + (f" in extension {extension}" if extension else "")
            raise CatalogError(msg)
        return image_data(images[0], path, what, axes=(2,)), images[0].header


def image_data(hdu, path, what, axes=(2, 3)):
    """Numbers of an image HDU, axes of length one at the front dropped."""
    try:
        with quiet():
            data = hdu.data
    except READ_ERRORS as err:
        msg = f"{path}: {what}: cannot be read ({one_line(err)})"
        raise CatalogError(msg) from err
    while data is not None and data.ndim > max(axes) and data.shape[0] == 1:
        data = data[0]
    if data is None or data.ndim not in axes or 0 in data.shape:
        shape = None if data is None else data.shape
        msg = f"{path}: {what}: must be an image with {' or '.join(map(str, axes))} axes, not {shape}"
        raise CatalogError(msg)
    return data


def split_extension(path):
    """``"file.fits[SCI]"`` as path and extension; the extension is None where none is given."""
    match = re.fullmatch(r"(.+)\[(\w+)\]", str(path))
    if match and not Path(path).exists():
        return Path(match[1]), match[2].upper()
    return Path(path), None


class TableRows:
    """Rows of a FITS binary table, read from the file by ranges: memory is that of the rows asked for.

    Parameters
    ----------
    path : path-like
        The file.
    hdu : astropy.io.fits.BinTableHDU
        The table in it; its header is used, never its data.
    """

    def __init__(self, path, hdu):
        self.path, self.header = Path(path), hdu.header
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

    def __len__(self):
        return self._n_rows

    def unit(self, name):
        """Text of TUNIT of a column, or None."""
        return self._columns[name].unit

    def shape(self, name):
        """Shape of one element of a column; None where it varies from row to row."""
        return None if self._variable(name) else self._dtype.fields[name][0].shape

    def is_number(self, name):
        """Whether a column holds real numbers or truth values."""
        kind = self._columns[name].format.strip("0123456789")[:1]
        if kind in "PQ":
            kind = self._variable(name)[1]
        return kind in "LXBIJKED"

    def dtype_name(self, name):
        """Type of a column's elements, for messages."""
        return "text" if "A" in str(self._columns[name].format) else str(self._columns[name].format)

    def read(self, rows, names=None):
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
        raw = np.empty(len(rows), dtype=self._dtype)
        buffer = memoryview(raw.view(np.uint8)) if len(rows) else None
        width = self._dtype.itemsize
        try:
            with open_binary(self.path) as file:
                for first, last in runs(rows):
                    file.seek(self._start + int(rows[first]) * width)
                    self._fill(file, buffer[first * width : last * width])
                return {name: self._values(name, raw[name], file) for name in names}
        except READ_ERRORS as err:
            msg = str(err) if isinstance(err, CatalogError) else f"{self.path}: cannot be read ({one_line(err)})"
            raise CatalogError(msg) from err

    def _fill(self, file, buffer):
        done = 0
        while done < len(buffer):
            got = file.readinto(buffer[done:])
            if not got:
                msg = f"{self.path}: truncated FITS file, the table ends early"
                raise CatalogError(msg)
            done += got

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
        for count, offset in descriptors:
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


def runs(rows):
    """Pairs (first, last) of positions in `rows` between which row numbers follow one another."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    edges = [0, *breaks.tolist(), len(rows)]
    return [pair for pair in itertools.pairwise(edges) if pair[1] > pair[0]]
