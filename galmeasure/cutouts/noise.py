"""The forms in which the noise arrives, brought to one: a number per cutout, a stack, or a list of maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from galmeasure.utils.arrays import boolean_mask, is_numbers, split_stack
from galmeasure.utils.units import as_numbers, read_only, split_unit, unit_factor

if TYPE_CHECKING:
    import astropy.units as u
    import numpy.typing as npt

__all__ = ["Errors", "error_arrays", "error_values", "read_uncertainty"]

_POWERS = {"std": 1, "var": 2, "ivar": -2}


@dataclass
class Errors:
    """Noise of the cutouts as it was given.

    ``values`` (N,) holds the noise where it is one number per cutout; it is to be estimated where ``estimate`` (N,).
    ``maps`` is None, a stack (in units of ``factor``), or a list with (array, power, factor) or None per cutout:
    error = factor * array**(1/power).
    """

    values: np.ndarray
    estimate: np.ndarray
    maps: object = None
    factor: float = 1.0


def error_arrays(error: object, pixels: Any) -> Errors:
    """(:class:`Errors`, mask sources that the error brings) of the ``error`` argument and of :class:`Pixels`."""
    n_cutouts = len(pixels.images)
    nothing = Errors(np.full(n_cutouts, np.nan), np.ones(n_cutouts, dtype=bool))
    if error is None:
        return (nothing, []) if pixels.errors is None else (_from_list(pixels.errors, pixels), [])
    if isinstance(error, str | bytes):
        msg = "error must be numbers, not a string"
        raise TypeError(msg)
    if isinstance(error, list | tuple) and not all(is_numbers(item) for item in error):
        return _error_list(list(error), pixels)
    if isinstance(error, np.ndarray) and error.dtype == object and error.ndim == 1 and len(error) == n_cutouts:
        return _error_list(list(error), pixels)
    if hasattr(error, "uncertainty_type"):
        if n_cutouts != 1:
            msg = "error must be a list with one uncertainty per cutout"
            raise ValueError(msg)
        return _from_list([read_uncertainty(error, pixels.unit, tuple(pixels.shapes[0]), "error")], pixels), []
    return _error_array(error, pixels)


def _error_array(error, pixels):
    """(:class:`Errors`, masks) of an ``error`` that is one array or number."""
    images, n_cutouts = pixels.images, len(pixels.images)
    value, unit, mask = split_unit("error", error)
    array = as_numbers("error", value)
    factor = unit_factor("error", unit, pixels.unit)
    if array.ndim <= 1:
        if array.ndim == 1 and array.shape[0] != n_cutouts:
            msg = (
                f"error must be a scalar, one value per cutout ({n_cutouts}) or one per pixel, not shape {array.shape}"
            )
            raise ValueError(msg)
        with np.errstate(all="ignore"):
            values = array.astype(np.float64) * factor
        values = values if mask is None else np.where(mask, np.nan, values)
        if values.ndim == 0 and not (np.isfinite(values) and values > 0):
            msg = f"error must be positive and finite, not {values}"
            raise ValueError(msg)
        return Errors(np.array(np.broadcast_to(values, n_cutouts)), np.zeros(n_cutouts, dtype=bool)), []
    if isinstance(images, list):
        planes = split_stack("error", array, pixels.shapes, _fits)
        maps = [(read_only(plane), 1, factor) for plane in planes]
        masks = [] if mask is None else [split_stack("error.mask", np.asarray(mask), pixels.shapes, boolean_mask)]
        return Errors(np.full(n_cutouts, np.nan), np.zeros(n_cutouts, dtype=bool), maps), masks
    maps = _fits("error", array, images.shape)
    masks = [] if mask is None else [boolean_mask("error.mask", mask, images.shape)]
    return Errors(np.full(n_cutouts, np.nan), np.zeros(n_cutouts, dtype=bool), read_only(maps), factor), masks


def _fits(name, array, shape):
    """View of ``array`` with the shape of the cutouts."""
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        msg = f"{name} must have the shape of the cutouts {shape}, not {array.shape}"
        raise ValueError(msg) from None


def _error_list(entries, pixels):
    """(:class:`Errors`, masks) of a list with a number, an array, an uncertainty or None for every cutout."""
    shapes, n_cutouts = pixels.shapes, len(pixels.images)
    if len(entries) != n_cutouts:
        msg = f"error must have one entry per cutout ({n_cutouts}), not {len(entries)}"
        raise ValueError(msg)
    parsed, masks = [], []
    for i, entry in enumerate(entries):
        name, shape = f"error[{i}]", tuple(int(size) for size in shapes[i])
        mask = None
        if entry is None:
            parsed.append(None if pixels.errors is None else pixels.errors[i])
        elif hasattr(entry, "uncertainty_type"):
            parsed.append(read_uncertainty(entry, pixels.unit, shape, name))
        else:
            value, unit, mask = split_unit(name, entry)
            array = as_numbers(name, value)
            if array.ndim and array.shape != shape:
                msg = f"{name} must be a number or have the shape of its cutout {shape}, not {array.shape}"
                raise ValueError(msg)
            parsed.append((read_only(array), 1, unit_factor(name, unit, pixels.unit)))
        masks.append(boolean_mask(f"{name}.mask", mask, shape))
    if not isinstance(pixels.images, list):
        masks = (
            [np.zeros(shape, dtype=bool) if m is None else m for m, shape in zip(masks, shapes, strict=True)]
            if any(m is not None for m in masks)
            else []
        )
        masks = [np.array(masks)] if masks else []
    else:
        masks = [masks] if any(m is not None for m in masks) else []
    return _from_list(parsed, pixels), masks


def _from_list(entries, pixels):
    """:class:`Errors` of a list of (array, power, factor) or None per cutout."""
    n_cutouts = len(pixels.images)
    values, estimate, maps = np.full(n_cutouts, np.nan), np.zeros(n_cutouts, dtype=bool), [None] * n_cutouts
    for i, entry in enumerate(entries):
        if entry is None:
            estimate[i] = True
        elif entry[0].ndim == 0:
            values[i] = error_values(*entry)
        else:
            maps[i] = entry
    return Errors(values, estimate, maps if any(m is not None for m in maps) else None)


def error_values(array: np.ndarray, power: float, factor: float) -> npt.NDArray[np.float64]:
    """Return the standard deviations of a stored error: ``factor * array**(1/power)``; NaN where there is none."""
    with np.errstate(all="ignore"):
        values = np.asarray(array, dtype=np.float64)
        if power != 1:
            values = np.where(values > 0, values, np.nan) ** (1.0 / power)
        return values * factor


def read_uncertainty(
    uncertainty: object, unit: u.UnitBase | None, shape: tuple[int, ...], name: str
) -> tuple[np.ndarray, float, float] | None:
    """Return (array, power, factor) of an NDUncertainty: error = factor * array**(1/power); None stays None."""
    if uncertainty is None:
        return None
    kind = getattr(uncertainty, "uncertainty_type", None)
    if kind not in _POWERS:
        msg = f"{name} must be a standard deviation, variance or inverse variance, not {kind!r}"
        raise TypeError(msg)
    power = _POWERS[kind]
    array = as_numbers(name, uncertainty.array)
    if array.ndim and array.shape != shape:
        msg = f"{name} must have the shape of its cutout {shape}, not {array.shape}"
        raise ValueError(msg)
    factor = 1.0
    if uncertainty.unit is not None:
        factor = unit_factor(name, uncertainty.unit, None if unit is None else unit**power) ** (1.0 / power)
    return array, power, factor
