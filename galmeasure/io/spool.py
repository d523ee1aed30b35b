"""Rows of a table that wait in a file for the table to be made: whole chunks, and memory for one of them."""

import contextlib
import tempfile
from io import FileIO
from os import PathLike
from pathlib import Path

import numpy as np
from astropy.table import QTable

from galmeasure.utils.chunks import chunk_size
from galmeasure.utils.files import read_into

__all__ = ["Spool", "append", "other_folders"]


class Spool:
    """Chunks of rows in a nameless temporary file, which vanishes with the process.

    Where the disk is full, the chunks go on in another folder.

    Parameters
    ----------
    folder : path-like
        Folder of the temporary file.

    Attributes
    ----------
    chunks : list of (int, dtype, int)
        Place in the file, type of a row and number of rows of each chunk.
    template : QTable or None
        Table without rows that has the columns, units, descriptions and metadata of the chunks.
    """

    def __init__(self, folder: str | PathLike):
        self._start(tempfile.TemporaryFile(dir=Path(folder), buffering=0))  # noqa: SIM115

    def _start(self, file):
        """Begin with an empty file."""
        self._file, self._size, self.template = file, 0, None
        self.chunks: list[tuple[int, np.dtype, int]] = []
        self._types: dict[np.dtype, np.dtype] = {}

    def __len__(self):
        return sum(count for _, _, count in self.chunks)

    def begin(self, template: QTable) -> None:
        """Keep the columns, units, descriptions and metadata of the chunks that follow.

        Parameters
        ----------
        template : astropy.table.QTable
            Table of which no row is needed.
        """
        self.template = template[:0]

    def append(self, rows: np.ndarray) -> None:
        """Append a chunk.

        Parameters
        ----------
        rows : ndarray
            Structured array with one element per row.

        Raises
        ------
        OSError
            If there is no space, neither here nor in another folder.
        """
        payload = rows.tobytes()
        head = self._head(rows, payload)
        self._append(head + payload)
        self._note(self._size - len(payload), rows.dtype, len(rows))

    def _note(self, offset, dtype, count):
        """Note where a chunk is; all chunks of one type share it, since that of seventy columns takes 14 kB."""
        self.chunks.append((offset, self._types.setdefault(dtype, dtype), count))

    def _head(self, rows, payload):
        """Bytes in front of those of a chunk."""
        return b""

    def _append(self, content):
        """Append bytes to the file, or to another one that has space."""
        try:
            append(self._file, self._size, content)
        except OSError as err:
            self._move(content, err)
        self._size += len(content)

    def _move(self, content, err):
        """Let everything, and more bytes, wait in a folder that has space."""
        for folder in other_folders():
            try:
                file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
            except OSError:
                continue
            try:
                step = chunk_size("table bytes")
                for start in range(0, self._size, step):
                    append(file, start, self._read_at(start, min(step, self._size - start)))
                append(file, self._size, content)
            except OSError:
                file.close()
                continue
            self._file.close()
            self._file = file
            return
        raise err

    def read(self, number: int) -> np.ndarray:
        """Rows of a chunk.

        Parameters
        ----------
        number : int
            Number of the chunk, counted from 0.

        Returns
        -------
        ndarray
            The structured array that was appended.

        Raises
        ------
        OSError
            If they are not in the file any more.
        """
        offset, dtype, count = self.chunks[number]
        return np.frombuffer(self._read_at(offset, count * dtype.itemsize), dtype=dtype)

    def _read_at(self, offset, size):
        """Some bytes of the file."""
        content = bytearray(size)
        self._file.seek(offset)
        if not read_into(self._file, memoryview(content)):
            msg = "the temporary file of the measurements ends early"
            raise OSError(msg)
        return content

    def close(self) -> None:
        """Forget the chunks."""
        self._file.close()


def append(file: FileIO, offset: int, content: bytes) -> None:
    """Write bytes to an unbuffered file from a place on, all of them.

    Parameters
    ----------
    file : io.FileIO
        Open file; what comes after the place is replaced.
    offset : int
        Place in the file, in bytes.
    content : bytes
        Bytes that are to be written.

    Raises
    ------
    OSError
        If there is no space.
    """
    file.seek(offset)
    remaining = memoryview(content)
    while len(remaining):
        remaining = remaining[file.write(remaining) :]


def other_folders() -> list[Path]:
    """Folders in which results may be saved when their own has no space: temporary files, home and current folder."""
    folders = [Path(tempfile.gettempdir())]
    with contextlib.suppress(RuntimeError):
        folders.append(Path.home())
    return [*folders, Path.cwd()]
