"""Units and numbers of arguments: split quantities into plain arrays, and check that numbers are numbers."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

import astropy.units as u
import numpy as np
from astropy.units.function import FunctionUnitBase

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "as_array",
    "as_numbers",
    "per_cutout",
    "positive_integer",
    "pixel_scale_values",
    "read_only",
    "split_unit",
    "unit_factor",
]

_ELECTRON = u.electron


def split_unit(name: str, value: object) -> tuple[object, u.UnitBase | None, npt.NDArray | None]:
    """Split a value into array, unit and mask; the array is a view wherever that is possible."""
    mask = None
    if hasattr(value, "unmasked"):  # astropy Masked
        mask, value = value.mask, value.unmasked
    unit = getattr(value, "unit", None)
    if isinstance(value, np.ma.MaskedArray):
        mask = None if value.mask is np.ma.nomask else value.mask
        value = value.data
    if isinstance(value, u.Quantity):
        value = value.value
    if isinstance(unit, str):
        try:
            unit = u.Unit(unit)
        except ValueError as err:
            msg = f"{name} has a unit that astropy does not know: {unit!r}"
            raise ValueError(msg) from err
    if not isinstance(unit, u.UnitBase | FunctionUnitBase):
        unit = None
    return value, unit, mask


def as_numbers(name: str, value: object) -> np.ndarray:
    """Return a value as an array of real numbers, not copied if it is one already."""
    array = as_array(name, value)
    if array.dtype.kind not in "iuf":
        msg = f"{name} must hold real numbers, not {_kind_name(array)}"
        raise TypeError(msg)
    return array


def as_array(name: str, value: object) -> np.ndarray:
    """Return a value as an array, with the argument's name in the message if that is impossible."""
    try:
        return np.asarray(value)
    except (TypeError, ValueError) as err:
        msg = f"{name} must be an array of a regular shape"
        raise type(err)(msg) from err


def _kind_name(array):
    """Name of what an array holds, for messages."""
    kinds = {"U": "strings", "S": "strings", "T": "strings", "c": "complex numbers", "b": "booleans", "O": "objects"}
    return kinds.get(array.dtype.kind, str(array.dtype))


def read_only(array: np.ndarray) -> np.ndarray:
    """Return a view of an array that cannot be written to; the array itself stays as it is."""
    view = array.view() if isinstance(array, np.ma.MaskedArray) else array.view(np.ndarray)
    view.flags.writeable = False
    return view


def flux_unit(name: str, unit: u.UnitBase | None) -> u.UnitBase | None:
    """Return a unit if pixel values can be measured in it, else raise ``ValueError``."""
    if unit is None:
        return None
    if isinstance(unit, FunctionUnitBase) or unit.is_equivalent(u.mag):
        msg = f"{name} must have a linear flux unit, not the logarithmic {unit}"
        raise ValueError(msg)
    return unit


def unit_factor(
    name: str, unit: u.UnitBase | None, target: u.UnitBase | None, *, target_name: str = "cutouts"
) -> float:
    """Return the factor that converts numbers in ``unit`` to ``target``; both or neither must have a unit."""
    if unit is None and target is None:
        return 1.0
    if unit is None or target is None:
        present = unit if target is None else target
        if present == u.dimensionless_unscaled:
            return 1.0
        with_unit, without = (name, target_name) if target is None else (target_name, name)
        msg = (
            f"{name} and {target_name} must both have a unit or neither: {with_unit} is in {present}, {without} is not"
        )
        raise ValueError(msg)
    try:
        return float(unit.to(target))
    except (u.UnitConversionError, TypeError) as err:
        msg = f"{name} must be convertible to the unit of {target_name}: {unit} is not convertible to {target}"
        raise ValueError(msg) from err


def per_cutout(
    name: str, value: object, n_cutouts: int, *, what: str = "positive"
) -> tuple[npt.NDArray[np.float64] | None, npt.NDArray[np.bool_]]:
    """Return values of a per-cutout argument as read-only float64 ``(N,)``, and a mask of the usable ones.

    A scalar must be usable; of an array only the rows that are not usable are lost. None stays None.
    """
    if value is None:
        return None, np.ones(n_cutouts, dtype=bool)
    value, _, mask = split_unit(name, value)
    array = as_numbers(name, value)
    if array.ndim > 1 or (array.ndim == 1 and array.shape[0] != n_cutouts):
        msg = f"{name} must be a scalar or have one value per cutout ({n_cutouts}), not shape {array.shape}"
        raise ValueError(msg)
    with np.errstate(all="ignore"):
        values = array.astype(np.float64)
        if mask is not None:
            values = np.where(mask, np.nan, values)
        usable = np.isfinite(values) & ((values > 0) if what == "positive" else True)
    if values.ndim == 0:
        if not usable:
            rule = "positive and finite" if what == "positive" else "finite"
            msg = f"{name} must be {rule}, not {values}"
            raise ValueError(msg)
        values, usable = np.full(n_cutouts, float(values)), np.ones(n_cutouts, dtype=bool)
    return read_only(values), usable


def gain_values(gain: object, cutouts_unit: u.UnitBase | None) -> object:
    """Return the gain in electrons per unit of the cutouts, without its unit."""
    value, unit, mask = split_unit("gain", gain)
    if unit is None:
        return gain
    factor = None
    if cutouts_unit is not None:
        for electron in (_ELECTRON, u.photon, u.dimensionless_unscaled):
            if unit.is_equivalent(electron / cutouts_unit):
                factor = unit.to(electron / cutouts_unit)
    elif unit in (_ELECTRON / u.adu, u.photon / u.adu, _ELECTRON / u.DN, _ELECTRON, u.dimensionless_unscaled):
        factor = 1.0
    if factor is None:
        per = "unit of the cutouts" if cutouts_unit is None else cutouts_unit
        msg = f"gain must be in electrons per {per}, not {unit}"
        raise ValueError(msg)
    values = np.asarray(value) * factor
    return values if mask is None else np.ma.MaskedArray(values, mask=mask)


def pixel_scale_values(pixel_scale: object) -> object:
    """Return the pixel scale in arcsec per pixel, without its unit."""
    value, unit, mask = split_unit("pixel_scale", pixel_scale)
    if unit is None:
        return pixel_scale
    for target in (u.arcsec, u.arcsec / u.pix):
        if unit.is_equivalent(target):
            values = np.asarray(value) * unit.to(target)
            return values if mask is None else np.ma.MaskedArray(values, mask=mask)
    msg = f"pixel_scale must be an angle, or an angle per pixel, not in {unit}"
    raise ValueError(msg)


def zero_point_values(zero_point: object) -> object:
    """Return the zero point in magnitudes, without its unit."""
    value, unit, mask = split_unit("zero_point", zero_point)
    if unit is None:
        return zero_point
    if not (isinstance(unit, FunctionUnitBase) or unit.is_equivalent(u.mag)):
        msg = f"zero_point must be in magnitudes, not {unit}"
        raise ValueError(msg)
    function_unit = unit.function_unit if isinstance(unit, FunctionUnitBase) else unit
    values = np.asarray(value) * function_unit.to(u.mag)
    return values if mask is None else np.ma.MaskedArray(values, mask=mask)


def positive_integer(name: str, value: object, *, largest: int | None = None) -> int:
    """Return a value as an int >= 1, and not above ``largest``."""
    try:
        number = operator.index(value)
    except TypeError:
        number = value
        if isinstance(value, float | np.floating) and float(value).is_integer():
            number = int(value)
        elif not isinstance(value, float | np.floating):
            msg = f"{name} must be an integer, not {type(value).__name__}"
            raise TypeError(msg) from None
    if isinstance(value, bool) or not isinstance(number, int) or number < 1:
        msg = f"{name} must be an integer >= 1, not {value!r}"
        raise ValueError(msg)
    if largest is not None and number > largest:
        msg = f"{name} must be an integer <= {largest}"
        raise ValueError(msg)
    return number
