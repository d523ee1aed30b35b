"""The forms in which cutouts and masks arrive, brought to one: a stack, or a list of 2-D arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import astropy.units as u
import numpy as np

from galmeasure.cutouts.noise import read_uncertainty
from galmeasure.cutouts.source_catalog import is_table
from galmeasure.utils.arrays import boolean_mask, is_numbers, split_stack
from galmeasure.utils.units import as_array, as_numbers, flux_unit, read_only, split_unit, unit_factor

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Pixels", "adopt_unit", "mask_arrays", "read_pixels"]


_SAME_UNIT = 30.0  # noise over error beyond which they are in different units


@dataclass
class Pixels:
    """Content of the argument ``cutouts``, before the other arguments are looked at.

    ``images`` is an array (N, ny, nx) or a list of N 2-D arrays. ``masks`` is a list of mask sources, each shaped like
    ``images`` (None entries allowed in lists). ``errors`` (list of (array, power, factor) or None), ``wcs`` (list) and
    ``origins`` come from NDData and Cutout2D objects and are None if no cutout had them. ``unit_lost``: perhaps the
    cutouts had a unit, which astropy dropped.
    """

    images: object
    unit: object = None
    masks: list = field(default_factory=list)
    errors: list | None = None
    wcs: list | None = None
    origins: np.ndarray | None = None
    unit_lost: bool = False

    @property
    def shapes(self) -> npt.NDArray[np.int64]:
        """(N, 2) integer array of ny, nx."""
        if isinstance(self.images, list):
            return np.array([image.shape for image in self.images], dtype=np.int64)
        return np.tile(np.array(self.images.shape[1:], dtype=np.int64), (len(self.images), 1))


def _is_nddata(item):
    """Test if an object is NDData-like (NDData, CCDData)."""
    return not isinstance(item, np.ndarray) and hasattr(item, "data") and hasattr(item, "uncertainty")


def _is_cutout2d(item):
    """Test if an object is a Cutout2D."""
    return not isinstance(item, np.ndarray) and hasattr(item, "data") and hasattr(item, "origin_original")


def read_pixels(cutouts: object) -> Pixels:
    """:class:`Pixels` of any accepted form of cutouts."""
    if cutouts is None:
        msg = "cutouts must be given: one cutout, a stack or a list of cutouts"
        raise ValueError(msg)
    if isinstance(cutouts, str | bytes):
        msg = "cutouts must be pixels, not a string; galmeasure.read_cutouts reads files"
        raise TypeError(msg)
    if is_table(cutouts):
        msg = "cutouts must be pixels, not a table: give stamps or a photutils SourceCatalog with its image; "
        msg += "galmeasure.read_cutouts(list, image=...) cuts the sources of a list from an image"
        raise TypeError(msg)
    if _is_nddata(cutouts) or _is_cutout2d(cutouts):
        return _read_list([cutouts])
    if isinstance(cutouts, list | tuple) and not all(is_numbers(item) for item in cutouts):
        return _read_list(list(cutouts))
    if isinstance(cutouts, np.ndarray) and cutouts.dtype == object and cutouts.ndim == 1 and cutouts.size:
        return _read_list(list(cutouts))
    return _read_array(cutouts)


def _read_array(cutouts):
    """:class:`Pixels` of one array, a stack or a single cutout."""
    value, unit, mask = split_unit("cutouts", cutouts)
    array = as_numbers("cutouts", value)
    if array.size == 0:
        msg = f"cutouts must hold at least one cutout of at least one pixel, not shape {array.shape}"
        raise ValueError(msg)
    if array.ndim not in (2, 3):
        msg = f"cutouts must be one cutout (ny, nx), a stack (N, ny, nx) or a list, not an array of shape {array.shape}"
        raise ValueError(msg)
    stack = read_only(array if array.ndim == 3 else array[None])
    masks = [] if mask is None else [np.broadcast_to(mask, array.shape).reshape(stack.shape)]
    return Pixels(stack, flux_unit("cutouts", unit), masks)


def _read_list(items):
    """:class:`Pixels` of a list of arrays, NDData or Cutout2D objects."""
    if not items:
        msg = "cutouts must hold at least one cutout, not an empty list"
        raise ValueError(msg)
    images, units, masks, errors, wcs, origins = [], [], [], [], [], []
    for i, item in enumerate(items):
        name = f"cutouts[{i}]"
        value = item.data if _is_nddata(item) or _is_cutout2d(item) else item
        value, unit, mask = split_unit(name, value)
        image = as_numbers(name, value)
        if image.ndim != 2 or image.size == 0:
            msg = f"{name} must be a 2-D array with at least one pixel, not of shape {image.shape}"
            raise ValueError(msg)
        nddata_mask = getattr(item, "mask", None) if _is_nddata(item) else None
        images.append(read_only(image))
        units.append(flux_unit(name, unit if unit is not None else getattr(item, "unit", None)))
        masks.append(_joined(mask, nddata_mask, image.shape, name))
        uncertainty = item.uncertainty if _is_nddata(item) else None
        errors.append(read_uncertainty(uncertainty, units[-1], image.shape, f"{name}.uncertainty"))
        wcs.append(getattr(item, "wcs", None))
        origins.append(_origin(item))
    lost = [unit is None and _lost_its_unit(item) for unit, item in zip(units, items, strict=True)]
    declared = [unit for unit, is_lost in zip(units, lost, strict=True) if not is_lost]
    common = declared[0] if declared and None not in declared else None
    units = [common if is_lost else unit for unit, is_lost in zip(units, lost, strict=True)]
    factors = [unit_factor(f"cutouts[{i}]", unit, units[0], target_name="cutouts[0]") for i, unit in enumerate(units)]
    images = [
        image if factor == 1.0 else read_only(image * factor) for image, factor in zip(images, factors, strict=True)
    ]
    for i, (error, factor) in enumerate(zip(errors, factors, strict=True)):
        if error is not None and factor != 1.0:
            errors[i] = (error[0], error[1], error[2] * factor)
    return Pixels(
        images,
        units[0],
        [masks] if any(mask is not None for mask in masks) else [],
        errors if any(error is not None for error in errors) else None,
        wcs if any(entry is not None for entry in wcs) else None,
        None if all(origin is None for origin in origins) else np.array([o or (0.0, 0.0) for o in origins]),
        not declared,
    )


def adopt_unit(pixels: Pixels, error: object) -> None:
    """Give pixels that lost their unit that of their errors, the only statement about it, if their numbers allow it.

    Raises
    ------
    ValueError
        If the noise is far above the errors, or no pixel is above them: they are then in another unit.
    """
    if not pixels.unit_lost or error is None:
        return
    first = error[0] if isinstance(error, list | tuple) and len(error) else error
    value, unit, _ = split_unit("error", first)
    if flux_unit("error", unit) is None:
        return
    image = np.asarray(pixels.images[0], dtype=np.float64)
    with np.errstate(all="ignore"):
        change = np.abs(np.diff(image, axis=1))
        noise, size = np.nanmedian(change), np.nanmedian(np.asarray(value, dtype=np.float64))
        fits = noise < _SAME_UNIT * size and np.nanmax(np.abs(image)) > size
    if not fits:
        msg = "cutouts have lost their unit, as Cutout2D does at the edge of an image, "
        msg += f"and error, in {unit}, does not fit their noise; give it in their unit"
        raise ValueError(msg)
    pixels.unit = unit


def _lost_its_unit(item):
    """Test if a Cutout2D reaches beyond its image, where astropy gives its pixels without their unit."""
    if not _is_cutout2d(item) or isinstance(item.data, u.Quantity):
        return False
    inside = tuple(span.stop - span.start for span in item.slices_cutout)
    return inside != np.shape(item.data)


def _joined(first, second, shape, name):
    """Union of two masks, either of which may be None."""
    masks = [boolean_mask(f"{name}.mask", mask, shape) for mask in (first, second) if mask is not None]
    masks = [mask for mask in masks if mask is not None]
    if not masks:
        return None
    return masks[0] if len(masks) == 1 else masks[0] | masks[1]


def _origin(item):
    """(x, y) of the first pixel of a Cutout2D in its parent image, or None."""
    if not _is_cutout2d(item):
        return None
    inside = getattr(item, "origin_cutout", (0, 0))
    return tuple(float(a - b) for a, b in zip(item.origin_original, inside, strict=True))


def mask_arrays(mask: object, pixels: Pixels) -> list:
    """Mask sources of :class:`Pixels` with the ``mask`` argument added: each a stack, or a list like the images."""
    if mask is None or mask is np.ma.nomask:
        return list(pixels.masks)
    images, shapes = pixels.images, pixels.shapes
    n_cutouts = len(images)
    if not isinstance(mask, list | tuple) and np.ndim(mask) == 0:
        kind = TypeError if np.asarray(mask).dtype.kind not in "biu" else ValueError
        msg = "mask must be an array of booleans with the shape of the cutouts, or a list of them"
        raise kind(msg)
    if isinstance(mask, list | tuple) and (isinstance(images, list) or any(m is None for m in mask)):
        if n_cutouts == 1 and len(mask) != 1:
            mask = [np.asarray(mask)]
        if len(mask) != n_cutouts:
            msg = f"mask must have one entry per cutout ({n_cutouts}), not {len(mask)}"
            raise ValueError(msg)
        return [*pixels.masks, [boolean_mask(f"mask[{i}]", m, tuple(shapes[i])) for i, m in enumerate(mask)]]
    array = as_array("mask", mask)
    if isinstance(images, list):
        if array.dtype == object and array.ndim == 1 and len(array) == n_cutouts:
            return mask_arrays(list(array), pixels)
        return [*pixels.masks, split_stack("mask", array, shapes, boolean_mask)]
    return [*pixels.masks, boolean_mask("mask", array, images.shape)]
