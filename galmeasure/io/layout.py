"""Layout of a FITS file: what its headers say about sizes, checked against the file before anything is read by it.

The cards that matter are read here byte by byte: astropy makes a list as long as ``NAXIS`` or ``TFIELDS`` says, and
an array as large as the axes say, so that a few wrong digits would cost gigabytes.
"""

import gzip
import io
import math
import os
import re
import shutil
import tempfile
import threading
import weakref
from dataclasses import dataclass
from itertools import count
from os import PathLike
from pathlib import Path
from typing import BinaryIO

from galmeasure.exceptions import CatalogError

__all__ = ["FileState", "HDULayout", "UnpackedFile", "file_layout", "open_binary", "unpacked_file"]

BLOCK = 2880
CARD = 80

_GZIP_MAGIC = b"\x1f\x8b"
_UNPACKED_AT_ONCE = 2**20

_MOST_CARDS = 1_000_000
"""Cards of one header, beyond which it is taken for a damaged one."""

_MOST = {"NAXIS": 999, "TFIELDS": 999, "ZNAXIS": 999}
"""Largest counts that the FITS standard allows."""

_MOST_COMPRESSION = 10_000
"""Largest ratio of pixels to bytes of a tile-compressed image: the best algorithm reaches 8190 on an empty one."""

_MOST_CUT = 1000
"""Largest ratio of the declared size of a table that ends early to what is there of it."""

_MOST_EMPTY_ROWS = 1_000_000
"""Most rows of a table whose rows have no bytes."""

_KEYWORD = re.compile(
    rb"(SIMPLE|XTENSION|BITPIX|Z?NAXIS\d{0,3}|PCOUNT|GCOUNT|GROUPS|TFIELDS|ZIMAGE|ZTILE\d{1,3}|ZBITPIX) *$"
)
_VALUE = re.compile(rb" *('[^']*'|[^ /]+)")


@dataclass(frozen=True)
class HDULayout:
    """Place of one header with its data in a file, in bytes, and whether the data are those of a plain table."""

    data: int
    size: int
    end: int
    is_table: bool


class FileState:
    """Size, time and place of a file as it is opened, to notice that it changes while it is read.

    Parameters
    ----------
    path : path-like
        The file, which exists.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.key = self._of(self.path.stat())

    @staticmethod
    def _of(state):
        return state.st_size, state.st_mtime_ns, state.st_ino

    def check(self, file: int | None = None) -> None:
        """Raise if the file is another one or was written to; it may be open.

        Parameters
        ----------
        file : int, optional
            Number of the open file; by default that of the name.

        Raises
        ------
        CatalogError
            If so, or if there is none of this name any more.
        """
        try:
            is_unchanged = self._of(self.path.stat() if file is None else os.fstat(file)) == self.key
        except OSError:
            is_unchanged = False
        if not is_unchanged:
            msg = f"{self.path}: has changed since it was opened, or is gone: measure again when nothing writes to it"
            raise CatalogError(msg)


def open_binary(path: str | PathLike) -> BinaryIO:
    """Open a file for reading, through gzip where its first bytes say so."""
    with Path(path).open("rb") as file:
        compressed = file.read(2) == _GZIP_MAGIC
    return gzip.open(path) if compressed else Path(path).open("rb")


class UnpackedFile:
    """Nameless copy of a compressed file that is not compressed, which vanishes with all who read it.

    Parameters
    ----------
    path : path-like
        File that is compressed with gzip.
    """

    def __init__(self, path):
        self._path, self._lock = os.fspath(path), threading.Lock()
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (it lives as long as this object)
        weakref.finalize(self, self._file.close)
        with gzip.open(path) as file:
            shutil.copyfileobj(file, self._file, _UNPACKED_AT_ONCE)
        self.size = self._file.tell()

    def fileno(self) -> int:
        """Return the number of the open file."""
        return self._file.fileno()

    def read_into(self, buffer: memoryview, place: int) -> int:
        """Read from a place on, as many bytes as there are at once; the number of them."""
        with self._lock:
            self._file.seek(place)
            return self._file.readinto(buffer)

    def open(self) -> BinaryIO:
        """Open the copy for reading, from its beginning; each that was opened has a place of its own in it."""
        return io.BufferedReader(_UnpackedReader(self, self._path))


class _UnpackedReader(io.RawIOBase):
    """Unbuffered reader of an unpacked file."""

    mode = "rb"

    def __init__(self, unpacked, name):
        self._unpacked, self.name, self._place = unpacked, name, 0

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=os.SEEK_SET):
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._unpacked.size}
        self._place = start[whence] + offset
        return self._place

    def readinto(self, buffer):
        count = self._unpacked.read_into(buffer, self._place)
        self._place += count
        return count


_UNPACKED: "weakref.WeakValueDictionary[tuple, UnpackedFile]" = weakref.WeakValueDictionary()
"""Unpacked files that somebody reads, by the name and state of the compressed one."""


def unpacked_file(path: str | PathLike) -> UnpackedFile | None:
    """Unpack a file that is compressed with gzip, unless somebody reads what was unpacked before.

    Parameters
    ----------
    path : path-like
        The file, which exists.

    Returns
    -------
    UnpackedFile or None
        The copy, for as long as it is held or read; None if the file is not compressed.

    Raises
    ------
    OSError, EOFError, zlib.error
        If the file cannot be read or is damaged, or there is no space for the copy.
    CatalogError
        If the file is written to at the same time.
    """
    state = FileState(path)
    with Path(path).open("rb") as file:
        if file.read(2) != _GZIP_MAGIC:
            return None
    key = os.path.realpath(path), state.key
    unpacked = _UNPACKED.get(key)
    if unpacked is None:
        unpacked = _UNPACKED.setdefault(key, UnpackedFile(path))
        state.check()
    return unpacked


def file_layout(file: BinaryIO, path: Path, *, cut_table: bool = False) -> "list[HDULayout]":
    """Layout of each HDU of a FITS file, whose data are all there.

    Parameters
    ----------
    file : binary file
        FITS file that is open for reading and not compressed, see `unpacked_file`.
    path : Path
        Its name, for messages.
    cut_table : bool, optional
        Whether a plain table at the end of the file may end early.

    Returns
    -------
    list of HDULayout
        One for each header, in the order of the file.

    Raises
    ------
    CatalogError
        If a header says what cannot be, or the file ends before its data do.
    """
    layout, offset, length = [], 0, file.seek(0, os.SEEK_END)
    for number in count():
        file.seek(offset)
        if number and file.read(8) != b"XTENSION":
            return layout
        file.seek(offset)
        cards, data = _read_cards(file, offset, path)
        hdu = _hdu_layout(cards, data, f"{path}: damaged FITS file, HDU {number}")
        if length < hdu.data + hdu.size:
            if cut_table and hdu.is_table and hdu.size <= _MOST_CUT * max(length - hdu.data, BLOCK):
                return [*layout, hdu]
            needed = f"HDU {number} needs {hdu.data + hdu.size} bytes and there are {length}"
            msg = f"{path}: truncated FITS file, {needed}"
            raise CatalogError(msg)
        layout.append(hdu)
        offset = hdu.end
    return layout


def _read_cards(file, offset, path):
    """Keywords that say how large the data of a header are, and where these begin."""
    cards = {}
    for number in range(_MOST_CARDS):
        card = file.read(CARD)
        if len(card) < CARD:
            msg = f"{path}: truncated or damaged FITS file, its last header is not whole"
            raise CatalogError(msg)
        if card[:8].rstrip() == b"END":
            return cards, offset + (number * CARD // BLOCK + 1) * BLOCK
        if _KEYWORD.match(card[:8]) and card[8:9] == b"=":
            value = _VALUE.match(card[9:])
            cards.setdefault(card[:8].rstrip().decode(), value[1].strip(b"' ").decode("latin1") if value else "")
    msg = f"{path}: damaged FITS file, a header has no end"
    raise CatalogError(msg)


def _hdu_layout(cards, data, where):
    """Layout that belongs to some cards; raise if they say what cannot be."""

    def number(keyword, default=None):
        text = cards.get(keyword, default)
        try:
            value = int(text)
        except (TypeError, ValueError) as err:
            msg = f"{where}: {keyword} must be a whole number, not {text!r}"
            raise CatalogError(msg) from err
        if value > _MOST.get(keyword, 2**62) or (value < 0 and not keyword.endswith("BITPIX")):
            msg = f"{where}: {keyword} is {value}, which cannot be"
            raise CatalogError(msg)
        return value

    def axes(prefix):
        return [number(f"{prefix}{i + 1}") for i in range(number(prefix))]

    shape = axes("NAXIS")
    if cards.get("GROUPS") == "T" and shape and shape[0] == 0:
        shape = shape[1:]
    groups = number("GCOUNT", 1) * (number("PCOUNT", 0) + (math.prod(shape) if shape else 0))
    size = abs(number("BITPIX", 8)) // 8 * (groups if shape else 0)
    if size >= 2**62:
        msg = f"{where} has an impossible size, {size} bytes"
        raise CatalogError(msg)
    is_table = cards.get("XTENSION") == "BINTABLE"
    if is_table:
        number("TFIELDS")
        if len(shape) != 2 or (shape[0] == 0 and shape[1] > _MOST_EMPTY_ROWS):
            msg = f"{where}: a table cannot have axes of {' x '.join(map(str, shape))}"
            raise CatalogError(msg)
    compressed = is_table and cards.get("ZIMAGE") == "T"
    if compressed:
        tiled = axes("ZNAXIS")
        sides = [number(f"ZTILE{i + 1}", tiled[i] if i == 0 else 1) for i in range(len(tiled))]
        tiles = math.prod(-(-n // max(side, 1)) for n, side in zip(tiled, sides, strict=True))
        n_bytes = math.prod(tiled) * abs(number("ZBITPIX")) // 8
        if tiles != shape[1] or n_bytes > _MOST_COMPRESSION * max(size, BLOCK):
            msg = (
                f"{where}: an image of {' x '.join(map(str, tiled))} pixels cannot be in {shape[1]} tiles, {size} bytes"
            )
            raise CatalogError(msg)
    end = data + -(-size // BLOCK) * BLOCK
    return HDULayout(data, size, end, is_table and not compressed)
