"""Result tables to files: chunk by chunk, under the final name only when complete."""

import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table

from galmeasure.io.fits_files import quiet
from galmeasure.io.spool import Spool, other_folders
from galmeasure.io.table_rows import RowWriter
from galmeasure.utils.chunks import chunk_size
from galmeasure.utils.files import sync_file, sync_folder

if TYPE_CHECKING:
    from astropy.table import QTable

__all__ = ["FORMATS", "ChunkedWriter", "output_format", "write_table"]

FORMATS = {
    ".fits": "fits",
    ".ecsv": "ascii.ecsv",
    ".csv": "ascii.csv",
    ".parquet": "parquet",
    ".votable": "votable",
}
"""Formats of result tables by the end of the file's name."""


def output_format(path: str | PathLike) -> str:
    """Format of a result table by the end of its name.

    Raises
    ------
    ValueError
        If the end of the name is not one of `FORMATS`.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        msg = f"output must end in one of {', '.join(FORMATS)}, not {suffix or Path(path).name!r}"
        raise ValueError(msg)
    if suffix == ".parquet" and find_spec("pyarrow") is None:
        msg = "output: Parquet files need pyarrow, which is not installed"
        raise ValueError(msg)
    return FORMATS[suffix]


class ChunkedWriter:
    """Write a table in chunks.

    The chunks wait in a nameless temporary file in the output's folder, which vanishes with the process;
    `finish` makes the table under a temporary name and renames it, so no half file is ever seen.
    Where the disk is full, the chunks wait in another folder, and so does the table, see `finish`.
    Memory stays that of one chunk for FITS, CSV and Parquet; ECSV and VOTable are made in memory.
    CSV keeps no units, and the elements of a vector column are columns of their own; Parquet flattens them to one list.
    Units that FITS does not have (nmgy, DN, 3.631 uJy) stand in the header's comments, where astropy finds them again;
    of a unit that astropy does not know the text is written, as which it reads it, with a warning.

    Parameters
    ----------
    path : path-like
        The table; the end of its name gives the format.
    overwrite : bool, optional
        Whether an existing file may be replaced.
    spool : galmeasure.io.spool.Spool, optional
        File in which the chunks wait, which may hold some already; whoever made it closes it.
    columns : sequence of str, optional
        Columns of the table, in their order; others that are written wait with the chunks and are left out of it.

    Raises
    ------
    ValueError
        If the format is unknown.
    FileExistsError
        If the file exists and may not be replaced.
    """

    def __init__(self, path, *, overwrite=False, spool: Spool | None = None, columns: Sequence[str] | None = None):
        self.path, self.overwrite, self.columns = Path(path), overwrite, columns
        self.format = check_new(self.path, overwrite=overwrite)
        self._own_spool = None if spool is not None else Spool(self.path.parent)
        self._spool = self._own_spool if spool is None else spool

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.abort()

    def __len__(self):
        return len(self._spool)

    @property
    def _template(self):
        """Table without rows that has the columns of the first chunk."""
        return self._spool.template

    def write(self, table: Table) -> None:
        """Append rows.

        Parameters
        ----------
        table : astropy.table.QTable
            Its columns must be those of the first chunk.

        Raises
        ------
        ValueError
            If the columns differ from those of the first chunk.
        """
        if self._template is None:
            self._spool.begin(table)
        elif table.colnames != self._template.colnames:
            msg = f"table must have the columns of the first chunk, {self._template.colnames}, not {table.colnames}"
            raise ValueError(msg)
        arrays = {name: self._array(name, table[name]) for name in table.colnames}
        masks = {f"{n}{_MASK}": np.ma.getmaskarray(a) for n, a in arrays.items() if isinstance(a, np.ma.MaskedArray)}
        arrays = {name: np.ma.getdata(array) for name, array in arrays.items()} | masks
        rows = np.empty(len(table), dtype=[(n, a.dtype.newbyteorder("="), a.shape[1:]) for n, a in arrays.items()])
        for name, array in arrays.items():
            rows[name] = array
        self._spool.append(rows)

    def _array(self, name, column):
        """Numbers or text of a column in the unit of the first chunk; masked only where NaN cannot say so."""
        if column.dtype.kind not in "biufcUS":
            msg = f"table: the column {name} must hold numbers or text, not {_kind(column)}"
            raise ValueError(msg)
        unit, mask = self._template[name].unit, getattr(column, "mask", None)
        column = getattr(column, "unmasked", column)
        values = column.to_value(unit) if unit is not None and hasattr(column, "to_value") else np.ma.getdata(column)
        if mask is None or not np.any(mask):
            return np.asarray(values)
        if values.dtype.kind in "fc":
            return np.where(mask, np.nan, values)
        return np.ma.array(values, mask=mask)

    def try_columns(self, table: Table) -> None:
        """Write a few rows as the table will be written, and forget them: what the format cannot hold is found out.

        Parameters
        ----------
        table : astropy.table.QTable
            At least one row with columns that the table will have.

        Raises
        ------
        ValueError
            If a column has no form in the format of the output.
        """
        trial = type(self)(self._temporary(), overwrite=True)
        try:
            with trial:
                trial.write(table)
                trial._make()
        except (ValueError, TypeError, AttributeError, KeyError, NotImplementedError) as err:
            msg = f"columns: {', '.join(table.colnames)} cannot be written to {self.path.suffix} ({err})"
            raise ValueError(msg) from err
        finally:
            trial.path.unlink(missing_ok=True)

    def _temporary(self):
        """Path of a file that nobody else knows of, beside the table."""
        return self.path.with_name(f".galmeasure-{secrets.token_hex(8)}.tmp{self.path.suffix}")

    def finish(self) -> None:
        """Make the table and give it its name.

        Raises
        ------
        ValueError
            If nothing was written.
        OSError
            If the table cannot be written there, for example because the disk is full or another program has taken
            the name. It then is in the folder for temporary files, the home or the current folder, under a name that
            the message gives.
        """
        if self._template is None:
            msg = "table: nothing was written"
            raise ValueError(msg)
        try:
            self._make()
        except OSError as err:
            reason = f"{self.path}: cannot be written ({err.strerror or err})"
            rescued = self._rescue()
            where = "could not be written anywhere else either" if rescued is None else f"are in {rescued}"
            msg = f"{reason}; the {len(self)} rows that were measured {where}"
            raise (FileExistsError if isinstance(err, FileExistsError) else OSError)(msg) from err
        finally:
            self.abort()

    def _rescue(self):
        """Path of the table in another folder, or None where there is no space either."""
        for folder in other_folders():
            path = folder / f"galmeasure-{secrets.token_hex(8)}{self.path.suffix}"
            try:
                with quiet():
                    _MAKERS[self.format](self, path)
            except OSError:
                path.unlink(missing_ok=True)
            else:
                return path
        return None

    def _make(self):
        _check_free(self.path, self.overwrite)
        temporary = self._temporary()
        try:
            with quiet():  # about units outside the standard, which astropy keeps all the same
                _MAKERS[self.format](self, temporary)
            sync_file(temporary)
            if self.overwrite:
                temporary.replace(self.path)
            else:
                _rename_new(temporary, self.path)
            sync_folder(self.path.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def abort(self) -> None:
        """Forget what was written, unless it waits in a file that was given."""
        if self._own_spool is not None:
            self._own_spool.close()

    def row_type(self) -> np.dtype:
        """Type of a row that holds every chunk: the widest text of each column."""
        types = list(dict.fromkeys(dtype for _, dtype, _ in self._spool.chunks))
        if len(types) == 1:
            return types[0]
        fields = []
        for name in dict.fromkeys(name for dtype in types for name in dtype.names):
            kinds = [dtype.fields[name][0] for dtype in types if name in dtype.names]
            fields.append((name, np.result_type(*(kind.base for kind in kinds)), kinds[0].shape))
        return np.dtype(fields)

    def tables(self, block_bytes: int) -> "Iterator[QTable]":
        """The table again, in blocks of about `block_bytes`."""
        dtype, waiting, size = self.row_type(), [], 0
        for number in range(len(self._spool.chunks)):
            rows = self._spool.read(number)
            waiting.append(rows if rows.dtype == dtype else _widened(rows, dtype))
            size += len(rows) * dtype.itemsize
            if size >= block_bytes:
                yield self._table(np.concatenate(waiting))
                waiting, size = [], 0
        if waiting:
            yield self._table(np.concatenate(waiting))

    def read(self, number: int) -> "QTable":
        """Rows of a chunk as they were written, with all columns.

        Parameters
        ----------
        number : int
            Number of the chunk, counted from 0.

        Returns
        -------
        astropy.table.QTable
            Rows with the units and formats of the first chunk.
        """
        return self._table(self._spool.read(number), self._template.colnames)

    def _table(self, rows, names=None):
        """Table of some rows: with the columns and units of the output, or with some columns as they were written."""
        import astropy.units as u
        from astropy.table import QTable

        table = QTable(meta=self._template.meta)
        for name in names or self.columns or self._template.colnames:
            unit = self._template[name].unit
            unit = _named(unit) if self.format == "fits" and names is None else unit
            table[name] = rows[name] if unit is None else u.Quantity(rows[name], unit, copy=False)
            if f"{name}{_MASK}" in rows.dtype.names:
                table[name] = self._masked(rows[name], rows[f"{name}{_MASK}"], unit)
            table[name].info.description = self._template[name].info.description
            table[name].info.format = self._template[name].info.format
        return table

    def _masked(self, values, mask, unit):
        """Masked column; FITS, which has no empty truth values, holds them as integers."""
        from astropy.table import MaskedColumn

        if values.dtype.kind == "b" and self.format == "fits":
            values = values.astype(np.int16)
        column = MaskedColumn(values, mask=mask, unit=unit)
        if values.dtype.kind in "iu":
            limits = np.iinfo(values.dtype)  # TNULL of unsigned integers must fit into signed ones
            column.fill_value = limits.min if values.dtype.kind == "i" else limits.max // min(2, values.itemsize)
        return column


def write_table(table: Table, path: str | PathLike, *, overwrite: bool = False) -> None:
    """Write a table; the end of the name gives the format.

    Parameters
    ----------
    table : astropy.table.QTable
        Result table to be written.
    path : path-like
        ``.fits``, ``.ecsv``, ``.csv``, ``.parquet`` or ``.votable``.
    overwrite : bool, optional
        Whether an existing file may be replaced.
    """
    with ChunkedWriter(path, overwrite=overwrite) as writer:
        writer.write(table)
        writer.finish()


_MASK = "\0mask"
"""End of the name under which the mask of a column waits."""


def check_new(path: str | PathLike, *, overwrite: bool = False) -> str:
    """Raise unless a table of this name could be written now; it is not.

    Parameters
    ----------
    path : path-like
        Table that is to be written later.
    overwrite : bool, optional
        Whether an existing file may be replaced.

    Returns
    -------
    str
        Format of the table, one of those in `FORMATS`.

    Raises
    ------
    ValueError
        If the format is unknown.
    OSError
        If the file exists and may not be replaced, or could not be written.
    """
    table_format = output_format(path)
    _check_free(Path(path), overwrite)
    check_folder(path)
    return table_format


def _check_free(path, overwrite):
    """Raise if the name is taken."""
    if path.is_dir():
        msg = f"{path}: is a folder"
        raise IsADirectoryError(msg)
    if os.path.lexists(path) and not overwrite:
        msg = f"{path}: exists already; --overwrite (overwrite=True) replaces it"
        raise FileExistsError(msg)


def check_folder(path: str | PathLike) -> None:
    """Raise unless a file of this name could be written now; it is not.

    Parameters
    ----------
    path : path-like
        File that is to be written later.

    Raises
    ------
    OSError
        If its name is too long, or its folder is missing or cannot be written to.
    """
    path = Path(path)
    if not path.parent.is_dir():
        msg = f"{path}: the folder does not exist"
        raise FileNotFoundError(msg)
    _check_name(path)
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as err:
        msg = f"{path}: the folder cannot be written to ({err.strerror or err})"
        raise PermissionError(msg) from err


def _check_name(path):
    """Raise if the file system has no such names."""
    try:
        path.lstat()
    except FileNotFoundError:
        pass
    except OSError as err:
        msg = f"{path}: cannot be written ({err.strerror})"
        raise OSError(msg) from err


def _kind(column):
    return "objects" if column.dtype.kind == "O" else "dates and times" if column.dtype.kind in "mM" else column.dtype


def _widened(rows, dtype):
    """Rows in a wider type; no value of a column is masked where there is no mask."""
    wide = np.zeros(len(rows), dtype=dtype)
    for name in rows.dtype.names:
        wide[name] = rows[name]
    return wide


def _named(unit):
    """A unit with a factor in it, such as 3.631 uJy, as a mere name: astropy refuses to write FITS with the factor."""
    import astropy.units as u
    from astropy.units.format.fits import UnitScaleError

    try:
        if unit is not None:
            unit.to_string(format="fits")
    except UnitScaleError:
        return u.def_unit(unit.to_string())
    except ValueError:  # astropy keeps what FITS does not know
        pass
    return unit


def _rename_new(temporary, path):
    """Rename, unless another file has taken the name in the meantime."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        temporary.replace(path)


def _make_fits(writer, path):
    """All that comes before the rows of the first block as astropy writes it, then the rows of every block."""
    import io

    from astropy.io import fits

    rows = None
    with path.open("w+b") as file:
        for table in writer.tables(chunk_size("table bytes")):
            buffer = io.BytesIO()
            table.write(buffer, format="fits")
            buffer.seek(0)
            with fits.open(buffer) as hdus:
                header, info = hdus[1].header, hdus[1].fileinfo()
                if rows is None:
                    file.write(buffer.getbuffer()[: info["hdrLoc"]])
                    rows = RowWriter(file, info["hdrLoc"], header)
                rows.write(buffer.getbuffer()[info["datLoc"] :][: header["NAXIS1"] * len(table)])
        rows.finish()


def _make_csv(writer, path):
    """Header once, then rows; elements of vector columns are columns of their own. CSV keeps no units."""
    from astropy.io import ascii as text

    with path.open("w", newline="") as file:
        for number, table in enumerate(writer.tables(chunk_size("text bytes"))):
            fmt = "csv" if number == 0 else "no_header"
            text.write(_flat(table), file, format=fmt, delimiter=",", comment=False)


def _flat(table):
    from astropy.table import Table

    flat = Table()
    for name in table.colnames:
        values = getattr(table[name], "value", table[name])
        values = values if isinstance(values, np.ma.MaskedArray) else np.asarray(values)
        if values.ndim == 1:
            flat[name] = values
            continue
        for index in np.ndindex(values.shape[1:]):
            flat["_".join([name, *map(str, index)])] = values[(slice(None), *index)]
    return flat


def _make_parquet(writer, path):
    """Schema as astropy writes it, so that `QTable.read` restores units; one row group a block."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parquet = None
    try:
        for table in writer.tables(chunk_size("table bytes")):
            if parquet is None:
                _with_masks(table[:1]).write(path, format="parquet", overwrite=True)
                parquet = pq.ParquetWriter(path, pq.read_schema(path))
            parquet.write_table(pa.Table.from_arrays(list(_arrow(table, parquet.schema)), schema=parquet.schema))
    finally:
        if parquet is not None:
            parquet.close()


def _with_masks(table):
    """Copy of a table in which every masked column masks something, since astropy forgets the other masks."""
    table = table.copy()
    for name in table.colnames:
        if isinstance(table[name], np.ma.MaskedArray):
            table[name].mask = True
    return table


def _arrow(table, schema):
    import pyarrow as pa

    for field in schema:
        name = field.name.removesuffix(".mask")
        if field.name not in table.colnames and name in table.colnames:
            yield pa.array(np.ma.getmaskarray(np.ma.asarray(table[name])))
            continue
        column = getattr(table[field.name], "value", table[field.name])
        values = np.ascontiguousarray(np.ma.getdata(column))
        if values.ndim == 1:
            yield pa.array(values, type=field.type)
        else:
            flat = pa.array(values.reshape(-1))
            yield pa.FixedSizeListArray.from_arrays(flat, int(np.prod(values.shape[1:])))


def _make_in_memory(writer, path):
    from astropy.table import vstack

    tables = list(writer.tables(2**62))
    table = tables[0] if len(tables) == 1 else vstack(tables)
    if writer.format == "votable":
        for name in table.colnames:
            if (table[name].dtype.kind == "u" and table[name].dtype.itemsize > 1) or table[name].dtype.str == "|i1":
                table[name] = _signed(table[name])
        _write_votable(table, path)
        return
    table.write(path, format=writer.format, overwrite=True)


def _write_votable(table, path):
    """Table with its metadata, of which astropy writes none: numbers as parameters, texts as information."""
    from astropy.io.votable import from_table
    from astropy.io.votable.tree import Info, Param

    tree = from_table(table)
    first = tree.get_first_table()
    for key, value in table.meta.items():
        if isinstance(value, str):  # astropy escapes the text of a parameter twice
            first.infos.append(Info(name=key, value=value))
        elif type(value) in (int, float):
            first.params.append(Param(tree, name=key, datatype="long" if type(value) is int else "double", value=value))
    tree.to_xml(os.fspath(path))  # astropy 6 takes no Path for VOTable


def _signed(column):
    """Integers of a type that VOTable has; as text where one is too large for all of these."""
    widest = 0 if np.ma.is_masked(column) and np.all(column.mask) else column.max()
    kind = str if widest > np.iinfo(np.int64).max else np.int64
    new = column.astype(kind)
    new.info.description = column.info.description
    return new


_MAKERS = {
    "fits": _make_fits,
    "ascii.csv": _make_csv,
    "ascii.ecsv": _make_in_memory,
    "parquet": _make_parquet,
    "votable": _make_in_memory,
}
