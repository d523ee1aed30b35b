"""Files that are either read or written whole or not at all, and what is said of those that cannot be read."""

import contextlib
import errno
import os
import secrets
from os import PathLike
from pathlib import Path
from typing import BinaryIO

__all__ = ["in_brief", "read_into", "sync", "sync_file", "sync_folder", "write_whole"]


def in_brief(text: object, most: int = 200) -> str:
    """Shorten the text of an exception, or of a value from a file, to one line of at most so many characters."""
    line = " ".join(str(text).split()) or type(text).__name__
    return line if len(line) <= most else f"{line[: most - 4]} ..."


def read_into(file: BinaryIO, buffer: memoryview) -> bool:
    """Fill a buffer with the next bytes of a file, however few of them it gives at once.

    Parameters
    ----------
    file : binary file
        File open for reading, buffered or not.
    buffer : memoryview
        Bytes that are to be filled, all of them.

    Returns
    -------
    bool
        True if the file has as many.
    """
    n_read = 0
    while n_read < len(buffer):
        n_new = file.readinto(buffer[n_read:])
        if not n_new:
            return False
        n_read += n_new
    return True


def write_whole(path: str | PathLike, content: bytes) -> None:
    """Write bytes to a file under another name, then rename it."""
    path = Path(path)
    temporary = path.with_name(f".galmeasure-{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sync_file(path: str | PathLike) -> None:
    """Wait until the content of a file is on the disk, so that it outlives a loss of power, where the system can."""
    with Path(path).open("r+b") as file:
        sync(file.fileno())


def sync(descriptor: int) -> None:
    """Wait until what was written to an open file is on the disk, where the system can; raise if there is no space."""
    try:
        os.fsync(descriptor)
    except OSError as err:
        if err.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


def sync_folder(path: str | PathLike) -> None:
    """Wait until the names of the files in a folder are on the disk, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
