"""FITS files, carefully: opened without warnings, checked for their length, images read where they are used."""

import errno
import os
import re
import warnings
import weakref
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy.typing as npt
from astropy.io import fits

from galmeasure.exceptions import CatalogError
from galmeasure.io.layout import file_layout, open_binary, unpacked_file
from galmeasure.io.pixels import FilePixels, MappedFile, constant_pixels, constant_shape, linear_pixels, scaled_pixels

__all__ = ["has_fits_magic", "is_table", "open_fits"]

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
        Whether a table at the end of the file may end early, see ``n_whole`` of ``galmeasure.io.table_rows.TableRows``.

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
        unpacked = unpacked_file(path)
        with path.open("rb") if unpacked is None else unpacked.open() as file:
            layout = file_layout(file, path, cut_table=cut_table)
        with quiet():
            file = path if unpacked is None else unpacked.open()
            hdus = fits.open(file, memmap=False, lazy_load_hdus=True, do_not_scale_image_data=True)
    except CatalogError:
        raise
    except READ_ERRORS as err:
        has_no_space = getattr(err, "errno", None) == errno.ENOSPC
        reason = "cannot be unpacked" if has_no_space else "truncated or damaged FITS file"
        msg = f"{path}: {reason} ({one_line(err)})"
        raise CatalogError(msg) from err
    try:
        with quiet():
            _check_headers(hdus, layout, path)
            if unpacked is not None:
                _MAPPED[hdus[0].fileinfo()["file"]] = MappedFile(path, unpacked)
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
