"""Pixels that are converted where they are read: scaled integers, squared errors, bits of a mask."""

import math
import mmap
import os
import weakref
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from galmeasure.exceptions import CatalogError
from galmeasure.io.layout import FileState, UnpackedFile

__all__ = [
    "FilePixels", "LazyPixels", "MappedFile", "asinh_note", "constant_pixels", "constant_shape", "linear_pixels",
    "scaled_pixels",
]  # fmt: skip

_MOST_CONSTANT = 2**26
"""Most pixels of an array that is declared to be constant; those of HST have 2**23."""

_MAGNITUDE = math.log(10.0) / 2.5
"""Natural logarithm of the ratio of two fluxes that differ by one magnitude."""


class MappedFile:
    """File that is mapped into memory, whose length and time are checked before its bytes are touched.

    Parameters
    ----------
    path : path-like
        The file, which is not compressed.
    unpacked : UnpackedFile, optional
        Copy of a compressed file, which is mapped instead; nobody else writes to it.
    """

    def __init__(self, path, unpacked: UnpackedFile | None = None):
        self._unpacked = unpacked
        if unpacked is None:
            self._state = FileState(path)
            self._number = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            weakref.finalize(self, os.close, self._number)
        number = self._number if unpacked is None else unpacked.fileno()
        self._content = mmap.mmap(number, 0, access=mmap.ACCESS_READ)

    def array(self, offset: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> np.ndarray:
        """View of numbers in the file."""
        count = math.prod(shape)
        return np.frombuffer(self._content, dtype=dtype, count=count, offset=offset).reshape(shape)

    def check(self) -> None:
        """Raise CatalogError if the file was written to: to touch bytes that were cut off would end the process."""
        if self._unpacked is None:
            self._state.check(self._number)


class FilePixels:
    """Image in a file, of which the parts that are asked for are read; it can be sliced as an array can.

    What is read is a copy, made right after the file was seen to be as it was opened.

    Parameters
    ----------
    file : MappedFile
        File that holds the pixels.
    offset : int
        Place of the first pixel, in bytes.
    shape : tuple of int
        Shape of the image.
    dtype : data type
        Type of the pixels in the file.
    """

    def __init__(self, file, offset, shape, dtype):
        self._file, self._pixels = file, file.array(offset, shape, dtype)
        self.shape, self.dtype, self.ndim = self._pixels.shape, self._pixels.dtype, self._pixels.ndim

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, key):
        self._file.check()
        return np.array(self._pixels[key])

    def __array__(self, dtype=None, copy=None):
        values = self[...]
        return values if dtype is None else values.astype(dtype, copy=False)


class LazyPixels:
    """Image whose pixels are computed from others where they are read; it can be sliced as an array can.

    Parameters
    ----------
    planes : sequence of array_like
        Images of one shape, which may be lazy themselves.
    convert : callable
        Function of the same part of each image, whose result is an array of that part.
    dtype : data type
        Type of the result's elements.
    """

    def __init__(self, planes, convert, dtype):
        self._planes, self._convert, self.dtype = tuple(planes), convert, np.dtype(dtype)
        self.shape = self._planes[0].shape
        self.ndim = len(self.shape)

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, key):
        return self._convert(*(np.asarray(plane[key]) for plane in self._planes))

    def __array__(self, dtype=None, copy=None):
        values = np.asarray(self[...])
        return values if dtype is None else values.astype(dtype, copy=False)


def scaled_pixels(raw: np.ndarray, header: Mapping, where: str) -> np.ndarray | LazyPixels:
    """Physical values of the pixels of an image: ``BSCALE * pixel + BZERO``, and NaN where the pixel is ``BLANK``.

    Integers stay integers where the scaling only moves them (unsigned ones are stored so), unless some may be blank.

    Parameters
    ----------
    raw : ndarray
        Pixels as they are stored.
    header : astropy.io.fits.Header
        Header of the image.
    where : str
        File and role, for messages.

    Returns
    -------
    ndarray or LazyPixels
        The pixels; the array itself where nothing is to be done.
    """
    scale, zero = (_number(header, name, value, where) for name, value in (("BSCALE", 1), ("BZERO", 0)))
    is_integer = raw.dtype.kind in "iu"
    blank = header.get("BLANK") if is_integer else None
    blank = blank if isinstance(blank, int | float) and not isinstance(blank, bool) else None
    if scale == 1 and zero == 0 and blank is None:
        return raw
    if is_integer and scale == 1 and blank is None and float(zero).is_integer() and abs(zero) < 2**64:
        return _moved(raw, int(zero))
    in_steps = abs(zero) + abs(scale) * 2**16 <= abs(scale) * 2**24  # single precision tells neighbours apart
    dtype = np.float32 if is_integer and raw.dtype.itemsize <= 2 and in_steps else np.float64
    dtype = raw.dtype.newbyteorder("=") if not is_integer else dtype

    def convert(values):
        scaled = np.asarray(values, dtype=dtype) * dtype_scale + dtype_zero
        return scaled if blank is None else np.where(values == blank, dtype_nan, scaled)

    dtype_scale, dtype_zero, dtype_nan = (np.dtype(dtype).type(value) for value in (scale, zero, np.nan))
    return LazyPixels([raw], convert, dtype)


def constant_shape(header: Mapping) -> tuple[int, int] | None:
    """Shape of an array that is not in the file, since all its pixels have one value.

    Pipelines of HST write an extension whose pixels are all equal without an axis, and with the keywords ``NPIX1``,
    ``NPIX2`` and ``PIXVALUE`` instead.

    Parameters
    ----------
    header : mapping
        Header of the extension.

    Returns
    -------
    tuple of int or None
        (ny, nx); None where the header does not say so, or what cannot be.
    """
    if header.get("NAXIS") != 0 or "PIXVALUE" not in header:
        return None
    shape = header.get("NPIX2"), header.get("NPIX1")
    if any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in shape):
        return None
    return shape if math.prod(shape) <= _MOST_CONSTANT else None


def constant_pixels(header: Mapping, where: str) -> np.ndarray:
    """Pixels of an array of one value, which takes no memory; see `constant_shape`.

    Parameters
    ----------
    header : mapping
        Header of an extension that has such a shape.
    where : str
        File and role, for messages.

    Returns
    -------
    ndarray
        Read-only, integers where the header says so.
    """
    value = _number(header, "PIXVALUE", None, where)
    is_whole = header.get("BITPIX", -32) > 0 and float(value).is_integer() and abs(value) < 2**63
    return np.broadcast_to(np.int64(value) if is_whole else np.float64(value), constant_shape(header))


def linear_pixels(pixels: np.ndarray | LazyPixels, header: Mapping, where: str) -> np.ndarray | LazyPixels:
    """Fluxes of the pixels of a stack of Pan-STARRS 1, which are stored as asinh magnitudes.

    Parameters
    ----------
    pixels : array_like
        Physical values of the image, in magnitudes where the header has ``BSOFTEN`` and ``BOFFSET``.
    header : mapping
        Header of the image.
    where : str
        File and role, for messages.

    Returns
    -------
    array_like
        ``BOFFSET + 2 BSOFTEN sinh(m ln(10) / 2.5)`` of the pixels m; the pixels themselves without these keywords.
    """
    if not asinh_note(header):
        return pixels
    softening, offset = (_number(header, name, None, where) for name in ("BSOFTEN", "BOFFSET"))
    if softening <= 0:
        msg = f"{where}: BSOFTEN must be positive, not {softening}"
        raise CatalogError(msg)
    dtype = pixels.dtype if pixels.dtype.kind == "f" else np.dtype(float)
    dtype = dtype.newbyteorder("=")

    def convert(values):
        with np.errstate(over="ignore"):
            flux = offset + 2.0 * softening * np.sinh(np.asarray(values, dtype=float) * _MAGNITUDE)
        return flux.astype(dtype)

    return LazyPixels([pixels], convert, dtype)


def asinh_note(header: Mapping) -> str:
    """Note that the pixels of an image are asinh magnitudes, empty where its header does not say so.

    Parameters
    ----------
    header : mapping
        Header of the image.

    Returns
    -------
    str
        Text for people to read.
    """
    return "asinh magnitudes converted to fluxes (BSOFTEN and BOFFSET)" if {"BSOFTEN", "BOFFSET"} & {*header} else ""


def _moved(raw, zero):
    """Integers plus a whole number, in a type that holds them all."""
    low, high = (int(limit) + zero for limit in (np.iinfo(raw.dtype).min, np.iinfo(raw.dtype).max))
    names = ("u1", "i1", "u2", "i2", "u4", "i4", "i8", "u8")
    dtype = next((np.dtype(n) for n in names if np.iinfo(n).min <= low and high <= np.iinfo(n).max), np.dtype(float))
    if dtype.kind == "f":
        return LazyPixels([raw], lambda values: np.asarray(values, dtype=float) + zero, dtype)
    unsigned = np.dtype(f"u{dtype.itemsize}")  # sums wrap around, so that no larger type is needed
    step = unsigned.type(zero % 2 ** (8 * unsigned.itemsize))
    signed = np.dtype(f"{raw.dtype.kind}{dtype.itemsize}")

    def convert(values):
        return (values.astype(signed).view(unsigned) + step).view(dtype)

    return LazyPixels([raw], convert, dtype)


def _number(header, keyword, default, where):
    value = header.get(keyword, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        msg = f"{where}: {keyword} must be a finite number, not {value!r}"
        raise CatalogError(msg)
    return value
