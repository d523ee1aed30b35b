"""Journal of a run: finished chunks in a file beside the output, from which a run that was stopped goes on.

The file ``OUTPUT.journal`` begins with a line that names its format. Records follow: twelve bytes with the lengths of
a text and of a payload, a digest of both, the text in JSON, and the payload. The first record says what is measured
and how (``galmeasure.workflows.fingerprint``), the second has the columns of the table, and each of the others has
the rows of one chunk. A record that was not written to its end, or not to the disk before the power went, does not
match its digest: the journal ends before it.
"""

import hashlib
import json
import os
import struct
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import astropy.units as u
import numpy as np
from astropy.table import Column, QTable, Table
from astropy.utils.exceptions import AstropyUserWarning

from galmeasure.io.spool import Spool, append
from galmeasure.utils.files import read_into, sync, sync_folder

__all__ = ["Journal", "JournalError", "journal_path", "read_journal"]

_MAGIC = b"galmeasure journal 1\n"
_LENGTHS = struct.Struct("<IQ")
_DIGEST_SIZE = 16
_LONGEST_NAME = 255
_LONGEST_TEXT = 2**26

SYNC_SECONDS = 10.0
"""Seconds of work that a loss of power may cost: chunks are sent to the disk this often. A kill costs none of them."""


class JournalError(ValueError):
    """A journal that cannot be used, or that must not be passed over; the message says what to do."""


def journal_path(output: str | PathLike) -> Path:
    """Path of the journal of a table.

    Parameters
    ----------
    output : path-like
        Table that is written.

    Returns
    -------
    pathlib.Path
        The name of the table with ``.journal`` behind it, in the same folder.

    Examples
    --------
    >>> from galmeasure.workflows.journal import journal_path
    >>> print(journal_path("field_galmeasure.fits"))
    field_galmeasure.fits.journal
    """
    path, ending = Path(output), ".journal"
    name = os.fsencode(path.name)
    if len(name) + len(ending) > _LONGEST_NAME:
        ending = f".{hashlib.sha256(name).hexdigest()[:16]}{ending}"
        name = name[: _LONGEST_NAME - len(ending)]
    return path.with_name(os.fsdecode(name) + ending)


class _StoredChunks(Spool):
    """Chunks that are found in the file of a journal."""

    def __init__(self, path, file):
        self.path = path
        self._start(file)

    def _replay(self):
        """Find the records in the file; the first of them, or None where there is none."""
        self._file.seek(0)
        if not _MAGIC.startswith(self._file.read(len(_MAGIC))):
            msg = f"{self.path}: is not a journal of this version of galmeasure; move it away to begin anew"
            raise JournalError(msg)
        header = None
        for end, text, payload in _records(self._file, len(_MAGIC)):
            if header is None:
                header = text
            elif "columns" in text:
                self.template = _decode_template(text)
            else:
                self._note(end - len(payload), _decode_type(text["type"]), text["rows"])
            self._size = end
        return header


class Journal(_StoredChunks):
    """File of finished chunks beside the table that is written.

    As a context it closes the journal: the file is removed if the run came to its end or no chunk was finished, and
    kept otherwise; then the exception has a note that says how many rows it keeps and how to go on.

    Parameters
    ----------
    output : path-like
        Table that is written.
    fingerprint : mapping of str to JSON values
        Everything on which the rows depend, by names that people understand.
    settings : mapping of str to JSON values
        Settings that a run that goes on takes over from the first one, such as those of the division into chunks.
    n_rows : int
        Number of rows of the table.
    resume : bool, optional
        Whether to go on with the journal of a run that was stopped, if there is one. Default False.
    overwrite : bool, optional
        Whether to begin anew where there is such a journal, and ``resume`` is False. Default False.
    how : str, optional
        Command, or call, that goes on with a run that was stopped, for messages.
    processor : str, optional
        Kind of the processor that measures. A warning says so where that of the run that was stopped was another: the
        last digits of rows may differ from those of a run that was left alone.

    Attributes
    ----------
    settings : dict
        Settings of the first run.
    n_resumed : int
        Rows that were there at the beginning.

    Raises
    ------
    JournalError
        If another run writes the same table; if a run that was stopped has left a journal, and neither ``resume`` nor
        ``overwrite`` is given; or if this journal is of something else.
    """

    def __init__(
        self,
        output: str | PathLike,
        fingerprint: Mapping[str, Any],
        settings: Mapping[str, Any],
        n_rows: int,
        *,
        resume: bool = False,
        overwrite: bool = False,
        how: str = "resume=True",
        processor: str | None = None,
    ):
        path = journal_path(output)
        super().__init__(path, _open_locked(path, Path(output)))
        self._how, self._n_rows = how, n_rows
        header = {"fingerprint": dict(fingerprint), "settings": dict(settings), "rows": n_rows, "processor": processor}
        self._header = json.loads(json.dumps(header))
        self._lock, self._synced, self._is_whole = os.dup(self._file.fileno()), time.monotonic(), True
        try:
            self._begin(resume, overwrite)
        except BaseException:
            self.close()
            raise
        self.n_resumed, self.settings = len(self), self._header["settings"]

    def _begin(self, resume, overwrite):
        """Go on with what is in the file, or write the header of a new journal."""
        header = self._replay()
        if len(self) and not resume and not overwrite:
            msg = (
                f"{self.path}: {len(self)} of {header['rows']} rows are there from a run that was stopped; "
                f"go on with: {self._how}, or begin anew with --overwrite (overwrite=True)"
            )
            raise JournalError(msg)
        if len(self) and resume:
            self._check_same(header)
            self._compare_processors(header.get("processor"), self._header["processor"])
            self._header = header
            self._file.truncate(self._size)
            return
        self._start(self._file)
        self._file.truncate(0)
        content = _MAGIC + _record(self._header)
        try:
            append(self._file, 0, content)
            sync(self._file.fileno())
        except OSError as err:
            self.path.unlink(missing_ok=True)
            msg = f"{self.path}: cannot be written ({err.strerror or err}), and so the table could not be"
            raise OSError(msg) from err
        self._size = len(content)
        sync_folder(self.path.parent)

    def _check_same(self, header):
        """Raise unless the journal is of what is to be measured now."""
        old, new = header["fingerprint"], self._header["fingerprint"]
        changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        if header["rows"] != self._n_rows:
            changed.append("the number of rows")
        if changed:
            msg = (
                f"{self.path}: the run that was stopped had another {', '.join(changed)}; go on with the same, "
                "or begin anew with --overwrite (overwrite=True)"
            )
            raise JournalError(msg)

    def _compare_processors(self, old, new):
        """Warn if rows that follow are measured by another kind of processor."""
        if old is not None and new is not None and old != new:
            msg = (
                f"{self.path}: the run that was stopped had another processor ({old}, and now {new}); the last digits "
                "of the rows that follow may differ from those that it would have measured"
            )
            warnings.warn(msg, AstropyUserWarning, stacklevel=2)

    def begin(self, template: QTable) -> None:
        """Keep the columns, units, descriptions and metadata of the chunks that follow."""
        super().begin(template)
        text = _encode_template(self.template)
        _check_lossless(self.template, text)
        self._append(_record(text))

    def check_meta(self, table: QTable) -> None:
        """Raise if rows that are to follow were measured in another way than those that are there.

        Parameters
        ----------
        table : astropy.table.QTable
            Rows that were measured now.

        Raises
        ------
        JournalError
            If their metadata differ in more than the date and what is said of their PSFs.
        """
        if self.template is None:
            return
        old, new = self.template.meta, table.meta
        changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        changed = [name for name in changed if name != "DATE" and not name.startswith("PSF")]
        if changed:
            msg = (
                f"{self.path}: the rows of the run that was stopped have other metadata ({', '.join(changed)}); "
                "begin anew with --overwrite (overwrite=True)"
            )
            raise JournalError(msg)

    def append(self, rows: np.ndarray) -> None:
        """Append a chunk, and send the chunks to the disk now and then."""
        super().append(rows)
        if self._is_whole and time.monotonic() - self._synced > SYNC_SECONDS:
            sync(self._file.fileno())
            self._synced = time.monotonic()

    def _head(self, rows, payload):
        return _head({"rows": len(rows), "type": np.lib.format.dtype_to_descr(rows.dtype)}, payload)

    def _move(self, content, err):
        """Go on in another folder; the journal keeps what was finished before."""
        n_kept = len(self)
        super()._move(content, err)
        if self._is_whole:
            self._is_whole = False
            text = f"{self.path}: cannot grow ({err.strerror or err}); the journal ends at row {n_kept}, and the run "
            warnings.warn(f"{text}goes on in a temporary file elsewhere", AstropyUserWarning, stacklevel=2)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if err is None or not self.chunks:
            self.path.unlink(missing_ok=True)
        else:
            n_kept = self._sync_kept()
            err.add_note(f"{n_kept} of {self._n_rows} rows are kept in {self.path}; go on with: {self._how}")
        self.close()

    def _sync_kept(self):
        """Send everything to the disk; the number of rows that the journal keeps."""
        with suppress(OSError):  # a disk that fails now must not hide what stopped the run
            os.fsync(self._lock)
        if self._is_whole:
            return len(self)
        with self.path.open("rb", buffering=0) as file:
            kept = [text.get("rows", 0) for _, text, _ in _records(file, len(_MAGIC)) if "type" in text]
        return sum(kept)

    def close(self) -> None:
        """Close the file, which others then may write."""
        super().close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def read_journal(path: str | PathLike) -> QTable:
    """Read the rows that a run has measured so far, whether it was stopped or is still going on.

    Parameters
    ----------
    path : path-like
        Journal of the run, see `journal_path`; or its table.

    Returns
    -------
    astropy.table.QTable
        Rows in the order of the catalogue, from its first one on.

    Raises
    ------
    JournalError
        If it is no journal, or has no rows.
    """
    from galmeasure.io import ChunkedWriter

    path = Path(path)
    path = path if path.suffix == ".journal" else journal_path(path)
    spool = _StoredChunks(path, path.open("rb", buffering=0))
    try:
        spool._replay()
        if not spool.chunks:
            msg = f"{path}: no rows are there yet"
            raise JournalError(msg)
        with tempfile.TemporaryDirectory() as folder, ChunkedWriter(Path(folder) / "t.ecsv", spool=spool) as writer:
            return next(writer.tables(2**62))
    finally:
        spool.close()


def _open_locked(path, output):
    """The journal's file, open for reading and writing, and locked against other runs until this process ends."""
    while True:
        path.touch()
        file = path.open("r+b", buffering=0)
        try:
            _lock(file, output)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # a run has ended in the meantime and has removed its journal


def _lock(file, output):
    """Keep other runs out where the system can; the lock goes with the process, however this ends."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as err:
        msg = f"output: another run is writing {output}; wait for it, or give another name"
        raise JournalError(msg) from err
    except OSError:
        text = f"{output.parent}: the file system has no locks: make sure that no other run writes {output.name}"
        warnings.warn(text, AstropyUserWarning, stacklevel=2)


def _head(text, payload):
    """Bytes of a record in front of its payload."""
    encoded = json.dumps(text).encode()
    return _LENGTHS.pack(len(encoded), len(payload)) + _digest(encoded, payload) + encoded


def _record(text):
    """Record without a payload."""
    return _head(text, b"")


def _digest(text, payload):
    digest = hashlib.blake2b(text, digest_size=_DIGEST_SIZE)
    digest.update(payload)
    return digest.digest()


def _records(file, start) -> Iterator[tuple[int, dict, bytearray]]:
    """Records of a file up to the first that is not whole: where each ends, its text and its payload."""
    size = os.fstat(file.fileno()).st_size
    file.seek(start)
    head = bytearray(_LENGTHS.size + _DIGEST_SIZE)
    while read_into(file, memoryview(head)):
        n_text, n_payload = _LENGTHS.unpack_from(head)
        start += len(head) + n_text + n_payload
        if start > size or n_text > _LONGEST_TEXT:
            return
        text, payload = bytearray(n_text), bytearray(n_payload)
        if not (read_into(file, memoryview(text)) and read_into(file, memoryview(payload))):
            return
        if _digest(text, payload) != head[_LENGTHS.size :]:
            return
        yield start, json.loads(text.decode()), payload
        file.seek(start)


def _decode_type(descr):
    """Type of a row from what JSON makes of its description."""
    return np.lib.format.descr_to_dtype([tuple(tuple(e) if isinstance(e, list) else e for e in f) for f in descr])


def _encode_template(table):
    """Columns and metadata of a table as JSON has them."""
    columns = []
    for name in table.colnames:
        info = table[name].info
        unit = None if info.unit is None else info.unit.to_string()
        columns.append({"name": name, "unit": unit, "description": info.description, "format": info.format})
    return {"columns": columns, "meta": dict(table.meta)}


def _decode_template(text):
    """Table without rows from what `_encode_template` gives; its columns have no types, which the chunks have."""
    table = Table(meta=text["meta"])
    for column in text["columns"]:
        unit = None if column["unit"] is None else u.Unit(column["unit"], parse_strict="silent")
        about = {"description": column["description"], "format": column["format"]}
        table[column["name"]] = Column(np.zeros(0), unit=unit, **about)
    return table


def _check_lossless(template, text):
    """Raise if a table could not be written in the same way after a stop: a unit or an entry has no text."""
    back = _decode_template(json.loads(json.dumps(text, default=repr)))
    for name in template.colnames:
        old, new = template[name].info.unit, back[name].info.unit
        if old != new or str(old) != str(new):
            msg = f"table: the unit of {name}, {old}, cannot be kept in a journal (MeasureSettings(journal=False))"
            raise JournalError(msg)
    if dict(back.meta) != dict(template.meta):
        msg = "table: the metadata must be text and numbers, to be kept in a journal (MeasureSettings(journal=False))"
        raise JournalError(msg)
