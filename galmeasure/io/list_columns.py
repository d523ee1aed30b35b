"""Columns of source lists, with their units, masks and sky coordinates, from every format of tables."""

import io
import math
import os
import re
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Column, MaskedColumn, Table

from galmeasure.exceptions import CatalogError
from galmeasure.io.fits_files import (
    READ_ERRORS,
    existing,
    has_fits_magic,
    is_chosen,
    is_image,
    is_table,
    one_line,
    open_binary,
    open_fits,
    quiet,
    split_extension,
    table_names,
)
from galmeasure.io.names import PIXEL_NAMES, SKY_NAMES, find_pair
from galmeasure.io.table_rows import TableRows

__all__ = ["N_WHOLE", "checked_votable", "read_list"]

N_WHOLE = "N_WHOLE"
"""Entry of the metadata of a list that ends early: the rows that are whole, from the first one on."""

PARQUET = (".parquet", ".parq")

_TEXT_FORMATS = {".ecsv": "ascii.ecsv", ".csv": "ascii.csv", ".cat": "ascii.sextractor"}
_VOTABLE = (".vot", ".votable", ".xml")

_HREF = re.compile(rb"""<(?:[\w.-]+:)?STREAM\b(?:[^>"']|"[^"]*"|'[^']*')*?\bhref\s*=""", re.IGNORECASE)


_ARRAYSIZE = re.compile(rb"""\barraysize\s*=\s*["']([^"']{0,400})["']""")
_N_ROWS = re.compile(rb"""\bnrows\s*=\s*["']\s*(\d{1,300})\s*["']""")
_FIELD = re.compile(rb"<(?:[\w.-]+:)?FIELD\b")

_SMALL_ELEMENT = 10_000
"""Elements of a cell of a VOTable for which memory is always taken."""

_MOST_PADDING = 1000
"""Largest ratio of the elements that the attributes of a VOTable promise to its bytes: texts may be padded."""


def read_list(path: str | os.PathLike, *, cut_table: bool = False) -> Table:
    """Columns with one value per row of a source list.

    Parameters
    ----------
    path : path-like
        FITS, ECSV, CSV, Parquet (a file or a folder of files), VOTable, or SExtractor text (``.cat``).
    cut_table : bool, optional
        Whether a FITS table may end early: the metadata then say how many rows are whole, and those beyond hold zeros.

    Returns
    -------
    astropy.table.Table
        Columns in the order of the file, with their units; missing values are masked; `SkyCoord` columns stay so.

    Raises
    ------
    CatalogError
        If the file cannot be read as a table, or holds several lists.
    """
    path, extension = split_extension(path)
    existing(path, may_be_folder=True)
    is_parquet_folder = path.is_dir() and any(p.suffix.lower() in PARQUET for p in path.rglob("*"))
    if not is_parquet_folder:
        existing(path)
    try:
        with quiet():
            if has_fits_magic(path):
                table = _read_fits(path, extension, cut_table)
            elif is_parquet_folder or path.suffix.lower() in PARQUET:
                table = _read_parquet(path)
            else:
                table = _read_text_or_votable(path)
    except CatalogError:
        raise
    except (*READ_ERRORS, ImportError, RuntimeError, AttributeError) as err:
        msg = f"{path}: cannot be read as a table ({one_line(err)[:200]})"
        raise CatalogError(msg) from err
    table.keep_columns([name for name in table.colnames if _is_plain(table[name])])
    if not table.colnames:
        msg = f"{path}: no columns"
        raise CatalogError(msg)
    return table


def _is_plain(column):
    """Whether a column holds one number, text or sky position a row."""
    if hasattr(column, "spherical"):
        return column.ndim == 1
    return getattr(column, "ndim", 0) == 1 and column.dtype.kind in "biufUS"


def _read_fits(path, extension, cut_table):
    with open_fits(path, cut_table=cut_table) as hdus:
        tables = [hdu for i, hdu in enumerate(hdus) if is_table(hdu) and is_chosen(extension, i, hdu)]
        if not tables:
            kind = "an ASCII table" if any(isinstance(hdu, fits.TableHDU) for hdu in hdus) else "no table"
            msg = f"{path}: {kind} where a FITS binary table is needed"
            raise CatalogError(msg + _image_advice(path, hdus))
        number = _the_list(path, [(hdu.name or str(hdus.index(hdu)), table_names(hdu)) for hdu in tables])
        hdu = tables[number]
        rows = TableRows(path, hdu)
        missing = len(rows) - rows.n_whole
        if not missing and "--BEGIN-ASTROPY-SERIALIZED-COLUMNS--" in hdu.header.get("COMMENT", ()):
            return Table.read(hdu, mask_invalid=False)
        names = [name for name in rows.names if rows.shape(name) == ()]
        if not names:
            msg = f"{path}: no columns with one value per row"
            raise CatalogError(msg + _image_advice(path, hdus))
        values = rows.read(np.arange(rows.n_whole), names)
    if missing:
        values = {n: np.ma.concatenate([v, np.zeros(missing, v.dtype)]) for n, v in values.items()}
    table = Table({name: _column(values[name], rows.unit(name)) for name in names}, copy=False)
    if missing:
        table.meta[N_WHOLE] = rows.n_whole
    return table


def _image_advice(path, hdus):
    """What was probably meant where a file with an image was given as a list of sources."""
    has_image = any(is_image(hdu) for hdu in hdus)
    return f"; it holds an image, did you mean --image {path} --detect?" if has_image else ""


def _the_list(path, tables):
    """Number of the one table of a file that is a list, given names and column names of each."""
    lists = [i for i, (_, columns) in enumerate(tables) if _has_positions(columns)]
    if len(lists) > 1:
        names = ", ".join(tables[i][0] for i in lists)
        msg = f"{path}: holds several lists ({names}); choose one, e.g. {Path(path).name}[{tables[lists[0]][0]}]"
        raise CatalogError(msg)
    return lists[0] if lists else 0


def _has_positions(columns):
    """Whether there are positions among column names, those of serialized sky coordinates included."""
    names = list(columns)
    return bool(
        find_pair(names, PIXEL_NAMES)
        or find_pair(names, SKY_NAMES)
        or any(f"{name.rpartition('.')[0]}.dec" in names for name in names if name.endswith(".ra"))
    )


def _column(values, unit=None):
    """Column of an array in the byte order of the machine; masked where the array is."""
    if values.dtype.kind in "iufc":
        values = values.astype(values.dtype.newbyteorder("="))
    kind = MaskedColumn if isinstance(values, np.ma.MaskedArray) else Column
    column = kind(values)
    if unit:
        column.unit = unit
    return column


def _read_text_or_votable(path):
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix in (".fits", ".fit", ".gz", ".fz"):
        msg = f"{path}: not a FITS file"
        raise CatalogError(msg)
    if suffix in _VOTABLE:
        return _read_votable(path)
    if suffix not in _TEXT_FORMATS:
        suffixes = ", ".join([".fits", *_TEXT_FORMATS, *_VOTABLE, *PARQUET])
        msg = f"{path}: not a FITS file, and its name ends in none of {suffixes}"
        raise CatalogError(msg)
    with open_binary(path) as file:
        text = file.read().decode("utf-8-sig")
    if suffix == ".csv":
        text = _without_comments(text)
    return Table.read(text.splitlines(), format=_TEXT_FORMATS[suffix])


def _without_comments(text):
    """CSV without the lines that begin with ``#`` at its top, of which the last may be the line of names."""
    lines = [line for line in text.splitlines() if line.strip()]
    first = next((i for i, line in enumerate(lines) if not line.lstrip().startswith("#")), len(lines))
    if 0 < first < len(lines):
        names = lines[first - 1].lstrip().lstrip("#").strip()
        if names.count(",") == lines[first].count(",") and any(_is_number(v) for v in lines[first].split(",")):
            return "\n".join([names, *lines[first:]])
    return "\n".join(lines[first:])


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def checked_votable(path: str | os.PathLike) -> bytes:
    """Read a VOTable and check it before it is parsed.

    Parameters
    ----------
    path : path-like
        File of the VOTable.

    Returns
    -------
    bytes
        Content of the file.

    Raises
    ------
    CatalogError
        If it is no VOTable, its data are elsewhere (a ``STREAM`` with ``href``), or it promises more data than it has.
    """
    with open_binary(path) as file:
        content = file.read()
    text = content.replace(b"\0", b"") if content[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in content[:4] else content
    if not text.lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n").startswith(b"<"):
        msg = f"{path}: not a VOTable"
        raise CatalogError(msg)
    if _HREF.search(text):
        msg = f"{path}: the data of the VOTable are in another file or place (STREAM with href), which is not read"
        raise CatalogError(msg)
    _check_votable_sizes(path, text)
    return content


def _read_votable(path):
    """The list of a VOTable."""
    from astropy.io.votable import parse

    content = checked_votable(path)
    tables = list(parse(io.BytesIO(content)).iter_tables())
    if not tables:
        msg = f"{path}: no table in the VOTable"
        raise CatalogError(msg)
    names = [(table.name or table.ID or str(i), [f.name for f in table.fields]) for i, table in enumerate(tables)]
    return tables[_the_list(path, names)].to_table(use_names_over_ids=True)


def _check_votable_sizes(path, text):
    """Raise if the attributes of a VOTable promise more than the file can hold: memory is taken for what they say."""
    shapes = [[int(n) for n in re.findall(rb"\d{1,300}", shape)] for shape in _ARRAYSIZE.findall(text)]
    n_rows = [int(number) for number in _N_ROWS.findall(text)]
    n_elements = [math.prod(shape) for shape in shapes if shape]
    a_row = sum(n_elements) + len(_FIELD.findall(text))
    too_many = max(n_rows, default=0) > len(text) or max(n_elements, default=0) > max(len(text), _SMALL_ELEMENT)
    if too_many or max([text.count(b"<TR"), *n_rows]) * a_row > _MOST_PADDING * max(len(text), _SMALL_ELEMENT):
        msg = f"{path}: damaged VOTable, arraysize and nrows say that it holds more than is in the file"
        raise CatalogError(msg)


def _read_parquet(path):
    try:
        import pyarrow.parquet as pq
    except ImportError as err:
        msg = f"{path}: Parquet files need pyarrow, which is not installed"
        raise CatalogError(msg) from err
    if path.is_file() and b"table_meta_yaml" in (pq.read_schema(path).metadata or {}):
        return Table.read(path, format="parquet")
    table = pq.read_table(path)
    columns = {name: _arrow_column(table[name]) for name in dict.fromkeys(table.column_names)}
    return Table({name: column for name, column in columns.items() if column is not None}, copy=False)


def _arrow_column(values):
    """Column of an Arrow array: dictionaries as their values, times as text; None for what has no such form."""
    import pyarrow as pa

    kind = values.type
    try:
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
            values = values.cast(kind)
        if pa.types.is_decimal(kind):
            values = values.cast(pa.float64())
        elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_temporal(kind):
            values = values.cast(pa.string())
        kind, mask = values.type, values.is_null().to_numpy()
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            array = np.array(values.fill_null("").to_pylist(), dtype=str)
        elif pa.types.is_floating(kind):
            return Column(values.to_numpy())
        elif pa.types.is_integer(kind) or pa.types.is_boolean(kind):
            array = values.fill_null(pa.scalar(False if pa.types.is_boolean(kind) else 0, kind)).to_numpy()
        else:
            return None
    except pa.ArrowException:
        return None
    return _column(np.ma.array(array, mask=mask) if mask.any() else array)
