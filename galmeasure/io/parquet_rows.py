"""Rows of Parquet files with stamps, read by ranges, as those of FITS tables are."""

import math
import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from galmeasure.exceptions import CatalogError
from galmeasure.io.fits_files import READ_ERRORS, one_line, quiet
from galmeasure.io.layout import FileState
from galmeasure.io.list_columns import PARQUET

__all__ = ["ParquetRows", "is_parquet"]


def is_parquet(path: str | PathLike) -> bool:
    """Tell if a path is a Parquet file, or a folder of some, by the ends of the names."""
    path = Path(path)
    return path.suffix.lower() in PARQUET or (path.is_dir() and bool(_files(path)))


def _files(path):
    """Files of a data set, in the order of their names."""
    if path.is_file():
        return [path]
    names = sorted(entry for entry in path.rglob("*") if entry.suffix.lower() in PARQUET and entry.is_file())
    return [name for name in names if not name.name.startswith(("_", "."))]


class ParquetRows:
    """Rows of a Parquet file, or of all the files in a folder, with the methods of `TableRows`.

    Stamps are lists of one fixed size, tensors of a fixed shape (Arrow's type ``fixed_shape_tensor``), or lists of any
    size. The shape of a stamp is that of the tensor, or the entry ``shape`` in the metadata of its column, such as
    ``[64, 64]``; a list without it is square. The entry ``unit`` is the unit of a column. Entries of the metadata of
    the file with the names of FITS keywords (``PIXSCALE``, ``GAIN``, ``MAGZERO``) are used as those of a header. What
    astropy writes to the metadata of its own tables is understood, too.

    Parameters
    ----------
    path : path-like
        File, or folder of files of one schema, which are read in the order of their names.

    Attributes
    ----------
    names : list of str
        Columns that hold numbers, text, or lists of numbers.
    header : astropy.io.fits.Header
        Keywords in the metadata of the file.
    n_whole : int
        Number of rows, all of which can be read.

    Raises
    ------
    CatalogError
        If files cannot be read, or have different columns.
    """

    def __init__(self, path: str | PathLike):
        self.path, self._kept = Path(path), (None, None)
        try:
            self._open()
        except (*READ_ERRORS, ImportError, RuntimeError) as err:
            msg = str(err) if isinstance(err, CatalogError) else f"{path}: cannot be read ({one_line(err)[:200]})"
            raise CatalogError(msg) from err

    def _open(self):
        """Look at the schema and the row groups of all files."""
        import pyarrow.parquet as pq

        files, self._groups, self._states, schema = _files(self.path), [], {}, None
        for file in files:
            self._states[file] = FileState(file)
            parquet = pq.ParquetFile(file)
            if schema is not None and not parquet.schema_arrow.equals(schema):
                msg = f"{file}: must have the columns of {files[0]}"
                raise CatalogError(msg)
            schema = parquet.schema_arrow
            self._groups += [(file, k, parquet.metadata.row_group(k).num_rows) for k in range(parquet.num_row_groups)]
        if schema is None:
            msg = f"{self.path}: no Parquet files are there"
            raise CatalogError(msg)
        self._starts = np.cumsum([0, *(count for _, _, count in self._groups)])
        self._fields = {field.name: field for field in schema if _element(field.type) is not None}
        self._units, self.header = _astropy_metadata(schema)
        self.names, self.n_whole = list(self._fields), len(self)

    def __len__(self):
        return int(self._starts[-1])

    @property
    def is_packed(self) -> bool:
        """True: groups of rows are compressed, and unpacked whole."""
        return True

    def check_unchanged(self) -> None:
        """Raise a CatalogError if a file has changed since it was opened, or is gone."""
        for state in self._states.values():
            state.check()

    def unit(self, name: str) -> str | None:
        """Text of the unit of a column, or None."""
        text = (self._fields[name].metadata or {}).get(b"unit")
        return self._units.get(name) if text is None else text.decode()

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of one element of a column; None where it varies from row to row."""
        field, kind = self._fields[name], self._fields[name].type
        if hasattr(kind, "shape"):
            return tuple(kind.shape)
        if not hasattr(kind, "value_type"):
            return ()
        sides = re.findall(rb"\d+", (field.metadata or {}).get(b"shape", b""))
        size = getattr(kind, "list_size", None)
        if size is None:
            return None
        shape = tuple(int(side) for side in sides) or (size,)
        if math.prod(shape) != size:
            msg = f"{self.path}: the column {name} has lists of {size} numbers, and its shape is {shape}"
            raise CatalogError(msg)
        return shape

    def is_number(self, name: str) -> bool:
        """Tell if a column holds real numbers or truth values."""
        return _element(self._fields[name].type) == "number"

    def dtype_name(self, name: str) -> str:
        """Type of a column's elements, for messages."""
        return "text" if _element(self._fields[name].type) == "text" else str(self._fields[name].type)

    def read(self, rows: npt.ArrayLike, names: Sequence[str] | None = None) -> dict[str, Any]:
        """Columns at the given rows.

        Parameters
        ----------
        rows : array_like of int
            Row numbers, counted from 0.
        names : list of str, optional
            Columns to be read; all of them if not given.

        Returns
        -------
        dict of str to ndarray or list of ndarray
            One entry per column, a list where the length varies from row to row; without a value they are masked, and
            pixels are NaN.
        """
        rows = np.asarray(rows, dtype=np.int64)
        names = self.names if names is None else list(names)
        try:
            with quiet():
                table = self._take(rows, names)
                return {name: self._values(table.column(name).combine_chunks(), name) for name in names}
        except (*READ_ERRORS, RuntimeError) as err:
            msg = str(err) if isinstance(err, CatalogError) else f"{self.path}: cannot be read ({one_line(err)[:200]})"
            raise CatalogError(msg) from err

    def _take(self, rows, names):
        """Table of some rows in their order, from the row groups that have them."""
        import pyarrow as pa

        group = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(group, kind="stable")
        tables = []
        for number in np.unique(group):
            members = rows[order][group[order] == number] - self._starts[number]
            table, first, count = self._group(int(number), tuple(names)), int(members[0]), len(members)
            is_range = np.all(np.diff(members) == 1)
            tables.append(table.slice(first, count) if is_range else table.take(pa.array(members)))
        if not tables:
            return self._group(0, tuple(names)).slice(0, 0)
        table = pa.concat_tables(tables)
        return table if np.all(order == np.arange(len(rows))) else table.take(pa.array(np.argsort(order)))

    def _group(self, number, names):
        """Columns of a row group; those that were read last are kept, since blocks are smaller."""
        import pyarrow.parquet as pq

        if self._kept[0] != (number, names):
            file, group, _ = self._groups[number]
            self._states[file].check()
            self._kept = (number, names), pq.ParquetFile(file).read_row_group(group, columns=list(names))
            self._states[file].check()
        return self._kept[1]

    def _values(self, column, name):
        """Array of a column, or list of arrays."""
        import pyarrow as pa

        column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        if isinstance(column, pa.DictionaryArray):
            column = column.dictionary_decode()
        shape, is_valid = self.shape(name), np.asarray(column.is_valid())
        if shape == ():
            return _plain(column, is_valid)
        lists = column if is_valid.all() else column.filter(pa.array(is_valid))
        pixels = lists.flatten().to_numpy(zero_copy_only=False)
        if shape is None:
            lengths = np.where(is_valid, np.asarray(column.value_lengths().fill_null(0)), 0)
            return np.split(pixels, np.cumsum(lengths)[:-1]) if len(lengths) else []
        if is_valid.all():
            return pixels.reshape(-1, *shape)
        values = np.full((len(column), *shape), np.nan, dtype=np.result_type(pixels.dtype, np.float32))
        values[is_valid] = pixels.reshape(-1, *shape)
        return values


def _element(kind):
    """What the elements of a type of Arrow are: "number", "text", or None for anything else."""
    import pyarrow.types as types

    kind = getattr(kind, "value_type", kind)
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return "number"
    return "text" if types.is_string(kind) or types.is_large_string(kind) else None


def _plain(column, is_valid):
    """Numbers or text of a column without lists, masked where there are none."""
    if _element(column.type) == "text":
        values = np.array(column.fill_null("").to_pylist(), dtype=str)
    else:
        values = column.fill_null(False if column.type == "bool" else 0).to_numpy(zero_copy_only=False)
    return values if is_valid.all() else np.ma.array(values, mask=~is_valid)


def _astropy_metadata(schema):
    """Units by column, and keywords, in the metadata of the file."""
    metadata = schema.metadata or {}
    header, units = fits.Header(), {}
    for key, value in metadata.items():
        if re.fullmatch(rb"[A-Z][A-Z0-9_-]{0,7}", key):
            header[key.decode()] = _keyword(value.decode(errors="replace"))
    if b"table_meta_yaml" in metadata:
        from astropy.table.meta import get_header_from_yaml

        about = get_header_from_yaml(metadata[b"table_meta_yaml"].decode().split("\n"))
        units = {column["name"]: str(column["unit"]) for column in about["datatype"] if column.get("unit") is not None}
        for key, value in about.get("meta", {}).items():
            if re.fullmatch("[A-Z][A-Z0-9_-]{0,7}", str(key)) and isinstance(value, str | int | float):
                header[key] = value
    return units, header


def _keyword(text):
    """Number of a text where it is one."""
    try:
        return float(text)
    except ValueError:
        return " ".join(text.encode("ascii", "replace").decode().split())[:60]
