"""Pixels that are converted where they are read: scaled integers, squared errors, bits of a mask."""

import math

import numpy as np

from galmeasure.exceptions import CatalogError

from ._layout import FileState

__all__ = ["FilePixels", "LazyPixels", "scaled_pixels"]


_BLOCK = 2**19
"""Bytes of whole rows that are read at once although only some columns are needed."""


class FilePixels:
    """Image in a file, of which the parts that are asked for are read; it can be sliced as an array can.

    Unlike a memory-mapped array it ends in an error, not in a crash, where another program shortens the file.

    Parameters
    ----------
    path : path-like
        The file, which is not compressed.
    offset : int
        Place of the first pixel, in bytes.
    shape : tuple of int
        Shape of the image.
    dtype : data type
        Type of the pixels in the file.
    """

    def __init__(self, path, offset, shape, dtype):
        self._state, self._offset = FileState(path), offset
        self.shape, self.dtype, self.ndim = tuple(shape), np.dtype(dtype), len(shape)

    def __len__(self):
        return self.shape[0]

    def __array__(self, dtype=None, copy=None):
        values = self._read(tuple(slice(None) for _ in self.shape))
        return values if dtype is None else values.astype(dtype, copy=False)

    def __getitem__(self, key):
        key = key if isinstance(key, tuple) else (key,)
        key = key[: key.index(...)] if key and key[-1] is ... else key
        if not all(isinstance(each, int | np.integer | slice) for each in key) or len(key) > self.ndim:
            return np.asarray(self)[key]
        return self._read((*key, *(slice(None) for _ in self.shape[len(key) :])))

    def _read(self, key):
        """Part of the image; each entry of the key is a number or a slice."""
        ranges = []
        for each, size in zip(key, self.shape, strict=True):
            if isinstance(each, slice):
                ranges.append(range(size)[each])
            else:
                number = range(size)[each]
                ranges.append(range(number, number + 1))
        first = [min(each, default=0) for each in ranges]
        shape = [max(each) + 1 - low if each else 0 for each, low in zip(ranges, first, strict=True)]
        values = self._box(first, shape)
        steps = tuple(slice(None, None, each.step) for each in ranges)
        return values[steps][tuple(0 if not isinstance(each, slice) else slice(None) for each in key)]

    def _box(self, first, shape):
        """Box of the image, from some pixel on, of some shape."""
        values = np.empty(shape, dtype=self.dtype)
        if not values.size:
            return values
        width, n_columns = self.dtype.itemsize, self.shape[-1]
        strides = [math.prod(self.shape[axis + 1 :]) * width for axis in range(self.ndim)]
        whole_rows = shape[-2] * n_columns * width <= _BLOCK or 4 * shape[-1] >= n_columns
        try:
            with self._state.path.open("rb", buffering=0) as file:
                self._state.check(file)
                for index in np.ndindex(*shape[:-2]):
                    planes = sum((low + i) * n for low, i, n in zip(first, index, strides, strict=False))
                    start = self._offset + planes + first[-2] * strides[-2]
                    if whole_rows:
                        rows = np.empty((shape[-2], n_columns), dtype=self.dtype)
                        self._fill(file, start, rows)
                        values[index] = rows[:, first[-1] : first[-1] + shape[-1]]
                        continue
                    for number, row in enumerate(values[index]):
                        self._fill(file, start + number * strides[-2] + first[-1] * width, row)
                self._state.check(file)
        except OSError:
            self._state.check()
            raise
        return values

    def _fill(self, file, start, values):
        """Read an array that is contiguous in memory and in the file."""
        file.seek(start)
        rest = memoryview(values.reshape(-1).view(np.uint8))
        while len(rest):
            got = file.readinto(rest)
            if not got:
                self._state.check(file)
                msg = f"{self._state.path}: truncated FITS file, its pixels end early"
                raise CatalogError(msg)
            rest = rest[got:]


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


def scaled_pixels(raw, header, where):
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
        found = np.asarray(values, dtype=dtype) * dtype_scale + dtype_zero
        return found if blank is None else np.where(values == blank, dtype_nan, found)

    dtype_scale, dtype_zero, dtype_nan = (np.dtype(dtype).type(value) for value in (scale, zero, np.nan))
    return LazyPixels([raw], convert, dtype)


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
