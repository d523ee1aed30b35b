"""Result tables from files, as they were written: units, metadata, and flags with their meanings."""

import re
from os import PathLike
from pathlib import Path

import numpy as np
from astropy.table import Column, QTable, Table
from astropy.units import Quantity
from astropy.utils.masked import Masked

from galmeasure.flags import FLAGS
from galmeasure.io.fits_files import quiet
from galmeasure.io.list_columns import checked_votable
from galmeasure.io.writers import FORMATS, write_table

__all__ = ["FLAG_NAMES", "read_table", "write_result"]

FLAG_NAMES = "flag_names"
"""Column of the names of the flags that are set, separated by commas."""

_MORE_SUFFIXES = {".fit": "fits", ".fts": "fits", ".parq": "parquet", ".vot": "votable", ".xml": "votable"}


def read_table(path: str | PathLike, **options) -> QTable:
    """Read a result table: the reader behind ``QTable.read(path, format="galmeasure")``.

    Parameters
    ----------
    path : path-like
        File that galmeasure has written; the end of its name gives the format.
    **options
        Options for astropy's reader of that format.

    Returns
    -------
    `~astropy.table.QTable`
        The table with its units and metadata, which CSV does not hold. The column ``flag_names`` behind ``flags`` has
        the names of the flags that are set, and the metadata of the column ``flags`` what each value means.

    Raises
    ------
    ValueError
        If the end of the name is not that of a format.
    FileNotFoundError
        If there is no such file.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import galmeasure
    >>> from astropy.table import QTable
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "shapes.ecsv")
    ...     QTable({"id": [1, 2], "flags": [0, 6]}).write(path, format="galmeasure")
    ...     table = QTable.read(path, format="galmeasure")
    >>> print(*table["flag_names"], table["flags"].info.meta["4"])
     not_converged,at_bound at_bound: a parameter ended at its bound
    """
    path = Path(path)
    kind = {**FORMATS, **_MORE_SUFFIXES}.get(path.suffix.lower())
    if kind is None:
        msg = f"{path}: the name of a result table must end in one of {', '.join(FORMATS)}"
        raise ValueError(msg)
    if not path.is_file():
        msg = f"{path}: no such file"
        raise FileNotFoundError(msg)
    if kind == "votable":
        checked_votable(path)
    with quiet():  # about units outside the standard, which are restored all the same
        table = QTable.read(path, format=kind, **options)
    if kind == "votable":
        table.meta.update(_votable_meta(path))
    table.convert_bytestring_to_unicode()
    for name in table.colnames:
        _unmask(table, name)
    if "covariance" in table.colnames and table["covariance"].ndim == 2:  # Parquet has lists only
        _square(table, "covariance")
    _explain_flags(table)
    return table


def write_result(table: Table, path: str | PathLike, *, overwrite: bool = False) -> None:
    """Write a result table: the writer behind ``QTable.write(path, format="galmeasure")``.

    Parameters
    ----------
    table : `~astropy.table.Table`
        Result table; the column ``flag_names`` is not written, since it follows from ``flags``.
    path : path-like
        File to write; the end of its name gives the format.
    overwrite : bool, optional
        Whether an existing file may be replaced.
    """
    names = [name for name in table.colnames if name != FLAG_NAMES]
    write_table(QTable(table[names], copy=False), path, overwrite=overwrite)


def _unmask(table, name):
    """Column without a mask, unless it has no other way to say that a value is missing: numbers have NaN."""
    column = table[name]
    mask, description = getattr(column, "mask", None), column.info.description
    if mask is None or (np.any(mask) and column.dtype.kind != "f"):
        return
    plain = column.unmasked if isinstance(column, Masked) else np.ma.getdata(column)
    if np.any(mask):
        plain = plain.copy()
        plain[mask] = np.nan
    unit = column.unit
    table[name] = plain if isinstance(plain, Quantity) else Column(np.asarray(plain), unit=unit)
    table[name].info.description = description


def _votable_meta(path):
    """Metadata of a VOTable: the numbers and texts that stand with its table."""
    from astropy.io.votable import parse

    with quiet():
        first = parse(path).get_first_table()
    numbers = {param.name: param.value for param in first.params}
    numbers = {name: value.item() if isinstance(value, np.generic) else value for name, value in numbers.items()}
    return {info.name: info.value for info in first.infos} | numbers


def _square(table, name):
    column = table[name]
    side = round(column.shape[1] ** 0.5)
    if side**2 == column.shape[1]:
        description = column.info.description
        table[name] = np.asarray(column).reshape(-1, side, side)
        table[name].info.description = description


def _explain_flags(table):
    """Meanings of the flags: those of the file, whose version may know others than this one, or else ours."""
    if "flags" not in table.colnames or table["flags"].dtype.kind not in "iu":
        return
    texts = {int(match[1]): str(text) for key, text in table.meta.items() if (match := re.fullmatch(r"FLAG(\d+)", key))}
    texts = texts or {flag.bit: f"{flag.name}: {flag.description}" for flag in FLAGS}
    table["flags"].info.meta = {str(1 << bit): text for bit, text in sorted(texts.items())}
    names = {bit: text.partition(":")[0] for bit, text in sorted(texts.items())}
    values = np.ma.filled(np.ma.asarray(table["flags"]), 0).astype(np.int64)
    decoded = [",".join(names.get(bit, f"bit {bit}") for bit in range(63) if value >> bit & 1) for value in values]
    if FLAG_NAMES in table.colnames:
        table.remove_column(FLAG_NAMES)
    column = Column(decoded, dtype=str, description="names of the quality bits that are set in flags")
    table.add_column(column, name=FLAG_NAMES, index=table.index_column("flags") + 1)
