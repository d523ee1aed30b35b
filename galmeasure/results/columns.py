"""Parameters from tables and from configuration, in the pixels and flux units of the cutouts."""

import numpy as np
from astropy import units as u
from astropy.table import Table

from galmeasure.parameters import N_PARAMETERS, PARAMETER_INDEX, PARAMETERS

__all__ = ["column_values", "fixed_values", "initial_values", "table_values"]

_SUFFIXES = ("_fit", "_init", "")  # a result table, which has both, is taken up where its fits ended


def column_values(name, values, cutouts, argument):
    """Values ``(N,)`` of one parameter in stamp pixels and units of the cutouts.

    Parameters
    ----------
    name : str
        Name of the parameter.
    values : array_like or Quantity
        In the units and the frame of the result table when they carry none.
    cutouts : Cutouts
        Gives the units and the frame.
    argument : str
        What the caller calls it, for messages.
    """
    parameter = PARAMETERS[PARAMETER_INDEX[name]]
    unit = getattr(values, "unit", None)
    if unit is not None:
        values = _without_unit(values, unit, parameter, cutouts, argument)
    elif parameter.kind == "length" and cutouts.pixel_scale is not None:
        values = _numbers(values, argument) / cutouts.pixel_scale
    values = _numbers(values, argument)
    if parameter.kind == "position":
        values = values - cutouts.origin[:, 0 if name == "x" else 1]
    return values


def _numbers(values, argument):
    try:
        array = np.ma.asarray(values)
        if array.dtype.kind == "c":
            raise TypeError
        return np.ma.filled(array.astype(float), np.nan)
    except (TypeError, ValueError):
        msg = f"{argument} must hold real numbers"
        raise TypeError(msg) from None


def _without_unit(values, unit, parameter, cutouts, argument):
    """Convert a quantity to stamp pixels, the unit of the cutouts, or a plain number."""
    values = u.Quantity(values, unit)
    try:
        if parameter.kind == "flux":
            return values.to_value(u.dimensionless_unscaled if cutouts.unit is None else cutouts.unit)
        if parameter.kind in ("length", "position") and unit.is_equivalent(u.pix):
            return values.to_value(u.pix)
        if parameter.kind == "length" and cutouts.pixel_scale is not None:
            return values.to_value(u.arcsec) / cutouts.pixel_scale
        return values.to_value(u.dimensionless_unscaled)
    except u.UnitConversionError:
        msg = f"{argument} has unit {unit}, which does not convert to that of the cutouts or of the pixel scale"
        raise ValueError(msg) from None


def table_values(table, cutouts, suffixes=_SUFFIXES, *, argument="init_params"):
    """Parameters ``(N, 7)`` of a table, from the first of ``<p><suffix>`` that it has; NaN where it has none."""
    table = table if isinstance(table, Table) else _as_table(table, argument)
    if len(table) != len(cutouts):
        msg = f"{argument} must have one row per cutout: {len(cutouts)}, not {len(table)}"
        raise ValueError(msg)
    values = np.full((len(cutouts), N_PARAMETERS), np.nan)
    for i, parameter in enumerate(PARAMETERS):
        for suffix in suffixes:
            column = parameter.name + suffix
            if column in table.colnames:
                name = f"{argument}[{column!r}]"
                if table[column].shape != (len(cutouts),):
                    msg = f"{name} must hold one number per cutout, not an array of shape {table[column].shape}"
                    raise ValueError(msg)
                values[:, i] = column_values(parameter.name, table[column], cutouts, name)
                break
    return values


def _as_table(table, argument):
    try:
        return Table(table)
    except (TypeError, ValueError):
        msg = f"{argument} must be a table or a dict of columns, not {type(table).__name__}"
        raise TypeError(msg) from None


def initial_values(init_params, cutouts):
    """Starting values ``(N, 7)``, NaN where none are given; infinite and impossible ones count as not given."""
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


def fixed_values(fixed, init, cutouts):
    """Starting values with the fixed parameters put in; ``"init"`` needs a value for every galaxy."""
    values = init.copy()
    for name, value in fixed.items():
        i = PARAMETER_INDEX[name]
        if not isinstance(value, str):
            values[:, i] = column_values(name, value, cutouts, f"fixed[{name!r}]")
    return values
