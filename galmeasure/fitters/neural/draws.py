"""Draws from posteriors: random numbers by row, chunks of constant size for the flow, and tables of vectors."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import QTable, Table
from numpy.typing import NDArray

from galmeasure.cutouts import Cutouts
from galmeasure.fitters.neural.encode import EncodedChunk
from galmeasure.parameters import N_PARAMETERS, PARAMETER_INDEX, PARAMETERS
from galmeasure.results.columns import RESULT_FORMS, find_column
from galmeasure.results.derived import shape_columns
from galmeasure.results.frame import Frame
from galmeasure.results.table import COLUMN_ORDER, flat_meta
from galmeasure.utils.chunks import chunk_size

__all__ = ["check_integer", "draw_table", "given_parameters", "row_normals", "split_for_flow"]

_MOST_GALAXIES = 64


def row_normals(rows: NDArray[np.int64], count: int, seed: int) -> NDArray[np.float32]:
    """Standard normal numbers ``(count, B, 7)``, single precision, a function of the seed and of each row's number."""
    normal = np.empty((count, len(rows), N_PARAMETERS), dtype=np.float32)
    for column, row in enumerate(rows):
        generator = np.random.Generator(np.random.Philox(key=[seed, int(row)]))
        normal[:, column] = generator.standard_normal((count, N_PARAMETERS), dtype=np.float32)
    return normal


def split_for_flow(chunks: Iterable[EncodedChunk], count: int) -> Iterator[tuple[EncodedChunk, NDArray[np.int64], int]]:
    """Split the rows that chunks keep into groups whose size depends on the number of draws alone.

    Parameters
    ----------
    chunks : iterable of EncodedChunk
        Rows of a batch.
    count : int
        Number of draws of each galaxy.

    Yields
    ------
    chunk : EncodedChunk
        Chunk to which the group belongs.
    members : ndarray of int64
        Indices of the rows within the chunk, filled up with the last one to a constant size.
    n_members : int
        Number of the indices that count.
    """
    size = int(np.clip(chunk_size("flow draws") // count, 1, _MOST_GALAXIES))
    for chunk in chunks:
        kept_rows = np.flatnonzero(chunk.keep)
        for start in range(0, len(kept_rows), size):
            members = kept_rows[start : start + size]
            yield chunk, np.concatenate([members, np.repeat(members[-1:], size - len(members))]), len(members)


def draw_table(cutouts: Cutouts, drawn: NDArray[np.float64], meta: Mapping[str, Any]) -> QTable:
    """Table of draws ``(N, S, 7)`` in flux units of the input and pixels of the stamp."""
    table = QTable()
    table["id"] = np.array(cutouts.ids)
    table["id"].info.description = "identifier of the cutout"
    frame = Frame.of(cutouts)
    for name in COLUMN_ORDER:
        column = frame.column(name, drawn[..., PARAMETER_INDEX[name]])
        _add(table, name, column, PARAMETERS[PARAMETER_INDEX[name]].description)
    flat = drawn.reshape(-1, N_PARAMETERS)
    derived = shape_columns(flat, np.zeros((len(flat), N_PARAMETERS, N_PARAMETERS)))
    shape = drawn.shape[:2]
    r_eff_major = frame.column("r_eff_major", derived["r_eff_major"].reshape(shape))
    _add(table, "r_eff_major", r_eff_major, "half-light semi-major axis")
    _add(table, "q", derived["q"].reshape(shape), "axis ratio b/a")
    _add(table, "theta", derived["theta"].reshape(shape) * u.deg, "position angle, counter-clockwise from +x")
    table.meta.update(flat_meta(meta))
    return table


def _add(table, name, column, description):
    table[name] = column
    table[name].info.description = f"draws: {description}"


def given_parameters(parameters: Any, cutouts: Cutouts) -> NDArray[np.float64]:
    """Parameters ``(N, S, 7)`` of a table with columns ``<p>_fit`` or ``<p>``, in stamp pixels and input units."""
    try:
        table = parameters if isinstance(parameters, Table) else Table(parameters)
    except (TypeError, ValueError):
        msg = f"parameters must be a table or a dict of columns, not {type(parameters).__name__}"
        raise TypeError(msg) from None
    if len(table) != len(cutouts):
        msg = f"parameters must have one row per cutout: {len(cutouts)}, not {len(table)}"
        raise ValueError(msg)
    values, frame = None, Frame.of(cutouts)
    for index, parameter in enumerate(PARAMETERS):
        name = find_column(table, parameter.name, RESULT_FORMS)
        if name is None:
            msg = f"parameters must have a column {parameter.name} or {parameter.name}_fit"
            raise ValueError(msg)
        column = frame.values(parameter.name, table[name], f"parameters[{name!r}]").reshape(len(cutouts), -1)
        values = np.empty((*column.shape, N_PARAMETERS)) if values is None else values
        if column.shape != values.shape[:2]:
            msg = f"parameters[{name!r}] must have {values.shape[1]} numbers a row, not {column.shape[1]}"
            raise ValueError(msg)
        values[..., index] = column
    return values


def check_integer(name: str, value: object, lowest: int) -> None:
    """Check that an argument is an integer that is not below the lowest one.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    value : object
        Value of the argument.
    lowest : int
        Lowest value that is allowed.

    Raises
    ------
    ValueError
        If it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < lowest:
        msg = f"{name} must be an integer of at least {lowest}, not {value!r}"
        raise ValueError(msg)
