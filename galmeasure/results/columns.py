"""Parameters read from tables and from configuration, in stamp pixels and in the flux unit of the pixels.

The spellings of the columns of parameters stand here and nowhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table

from galmeasure.parameters import N_PARAMETERS, PARAMETER_INDEX, PARAMETERS
from galmeasure.results.frame import Frame

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from galmeasure.cutouts import Cutouts

__all__ = [
    "GALAXY_FORMS",
    "RESULT_FORMS",
    "START_FORMS",
    "TRUE",
    "TRUTH_FORMS",
    "find_column",
    "fixed_values",
    "initial_values",
    "table_values",
]

TRUE = "true_{}"
"""Columns of truths that this package writes, for example ``true_r_eff``."""

TRUTH_FORMS = (TRUE, "{}_true", "{}", "{}_fit")
"""Columns of truths, in the order of preference."""

RESULT_FORMS = ("{}_fit", "{}")
"""Columns of results."""

START_FORMS = ("{}_fit", "{}_init", "{}")
"""Columns of starting values: a result table, which has both of the first two, is taken up where its fits ended."""

GALAXY_FORMS = (TRUE, *RESULT_FORMS)
"""Columns of galaxies to draw again: truths, or what was measured."""


def find_column(table: Table, name: str, forms: Sequence[str]) -> str | None:
    """Find the column of a parameter among those of a table.

    Parameters
    ----------
    table : `~astropy.table.Table`
        Table with columns named after parameters.
    name : str
        Name of the parameter, for example ``"r_eff"``.
    forms : sequence of str
        Spellings in the order of preference, such as `TRUTH_FORMS`.

    Returns
    -------
    str or None
        Name of the first column that the table has; None if it has none of them.
    """
    return next((form.format(name) for form in forms if form.format(name) in table.colnames), None)


def table_values(
    table: Table | Mapping[str, npt.ArrayLike],
    cutouts: Cutouts,
    forms: Sequence[str] = START_FORMS,
    *,
    argument: str = "init_params",
) -> npt.NDArray[np.float64]:
    """Read the parameters of a table.

    Parameters
    ----------
    table : `~astropy.table.Table` or dict
        One row per cutout, with columns of any of the seven parameters.
    cutouts : Cutouts
        Cutouts whose units and frame the values get.
    forms : sequence of str, optional
        Spellings of the columns in the order of preference. Default `START_FORMS`.
    argument : str, optional
        Name that messages give to the table.

    Returns
    -------
    ndarray, shape (N, 7)
        Values in stamp pixels; NaN for a parameter without a column.

    Raises
    ------
    TypeError, ValueError
        If the table is none, or a column has the wrong length, kind or unit.
    """
    table = table if isinstance(table, Table) else _as_table(table, argument)
    if len(table) != len(cutouts):
        msg = f"{argument} must have one row per cutout: {len(cutouts)}, not {len(table)}"
        raise ValueError(msg)
    values, frame = np.full((len(cutouts), N_PARAMETERS), np.nan), Frame.of(cutouts)
    for i, parameter in enumerate(PARAMETERS):
        column = find_column(table, parameter.name, forms)
        if column is None:
            continue
        label = f"{argument}[{column!r}]"
        if table[column].shape != (len(cutouts),):
            msg = f"{label} must hold one number per cutout, not an array of shape {table[column].shape}"
            raise ValueError(msg)
        values[:, i] = frame.values(parameter.name, table[column], label)
    return values


def _as_table(table: object, argument: str) -> Table:
    try:
        return Table(table)
    except (TypeError, ValueError):
        msg = f"{argument} must be a table or a dict of columns, not {type(table).__name__}"
        raise TypeError(msg) from None


def initial_values(
    init_params: Table | Mapping[str, npt.ArrayLike] | None, cutouts: Cutouts
) -> npt.NDArray[np.float64]:
    """Read starting values; infinite and impossible ones count as not given.

    Parameters
    ----------
    init_params : `~astropy.table.Table` or dict or None
        Columns as for `table_values`; None if no parameter has a starting value.
    cutouts : Cutouts
        Cutouts whose units and frame the values get.

    Returns
    -------
    ndarray, shape (N, 7)
        Values in stamp pixels, NaN where none are given.
    """
    if init_params is None:
        return np.full((len(cutouts), N_PARAMETERS), np.nan)
    values = table_values(init_params, cutouts)
    values[~np.isfinite(values)] = np.nan
    for name in ("n", "r_eff"):
        i = PARAMETER_INDEX[name]
        values[~(values[:, i] > 0), i] = np.nan
    shear = [PARAMETER_INDEX["g1"], PARAMETER_INDEX["g2"]]
    impossible = np.hypot(*np.nan_to_num(values[:, shear]).T) >= 1.0
    values[np.ix_(impossible, shear)] = np.nan
    return values


def fixed_values(
    fixed: Mapping[str, npt.ArrayLike | str], init: npt.NDArray[np.float64], cutouts: Cutouts
) -> npt.NDArray[np.float64]:
    """Put the values of fixed parameters into the starting values.

    Parameters
    ----------
    fixed : dict
        Value of each fixed parameter in table units, or ``"init"`` for its starting value.
    init : ndarray, shape (N, 7)
        Starting values in stamp pixels.
    cutouts : Cutouts
        Cutouts whose units and frame the values get.

    Returns
    -------
    ndarray, shape (N, 7)
        New array with the fixed values.
    """
    values, frame = init.copy(), Frame.of(cutouts)
    for name, value in fixed.items():
        i = PARAMETER_INDEX[name]
        if not isinstance(value, str):
            values[:, i] = frame.values(name, value, f"fixed[{name!r}]")
    return values
