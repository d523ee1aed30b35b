"""The forms in which cutouts, masks and errors arrive, brought to one: a stack, or a list of 2-D arrays."""

from dataclasses import dataclass, field

import numpy as np

from galmeasure._units import as_array, as_numbers, flux_unit, read_only, split_unit, unit_factor

__all__ = ["Pixels", "error_arrays", "mask_arrays", "read_pixels"]

_VARIANCE_POWER = {"std": 1, "var": 2, "ivar": -2}


@dataclass
class Pixels:
    """What the data argument holds, before the other arguments are looked at.

    ``images`` is an array (N, ny, nx) or a list of N 2-D arrays. ``masks`` is a list of mask sources, each shaped like
    ``images`` (None entries allowed in lists). ``errors`` (list of (array, power, factor) or None), ``wcs`` (list) and
    ``origins`` come from NDData and Cutout2D objects and are None if no cutout had them.
    """

    images: object
    unit: object = None
    masks: list = field(default_factory=list)
    errors: list | None = None
    wcs: list | None = None
    origins: np.ndarray | None = None

    @property
    def shapes(self):
        """(N, 2) integer array of ny, nx."""
        if isinstance(self.images, list):
            return np.array([image.shape for image in self.images], dtype=np.int64)
        return np.tile(np.array(self.images.shape[1:], dtype=np.int64), (len(self.images), 1))


def _is_nddata(item):
    """Whether an object is NDData-like (NDData, CCDData)."""
    return not isinstance(item, np.ndarray) and hasattr(item, "data") and hasattr(item, "uncertainty")


def _is_cutout2d(item):
    """Whether an object is a Cutout2D."""
    return not isinstance(item, np.ndarray) and hasattr(item, "data") and hasattr(item, "origin_original")


def read_pixels(data):
    """:class:`Pixels` of any accepted form of cutouts."""
    if data is None:
        msg = "data must be given: one cutout, a stack or a list of cutouts"
        raise ValueError(msg)
    if isinstance(data, str | bytes):
        msg = "data must be pixels, not a string; galmeasure.read_cutouts reads files"
        raise TypeError(msg)
    if _is_nddata(data) or _is_cutout2d(data):
        return _read_list([data])
    if isinstance(data, list | tuple) and not all(_is_numbers(item) for item in data):
        return _read_list(list(data))
    if isinstance(data, np.ndarray) and data.dtype == object and data.ndim == 1 and data.size:
        return _read_list(list(data))
    return _read_array(data)


def _is_numbers(item):
    """Whether a list item is a number or a list of numbers, i.e. part of one cutout written as nested lists."""
    if np.isscalar(item) and not hasattr(item, "unit"):
        return True
    return isinstance(item, list | tuple) and len(item) > 0 and all(np.isscalar(entry) for entry in item)


def _read_array(data):
    """:class:`Pixels` of one array, a stack or a single cutout."""
    value, unit, mask = split_unit("data", data)
    array = as_numbers("data", value)
    if array.size == 0:
        msg = f"data must hold at least one cutout of at least one pixel, not shape {array.shape}"
        raise ValueError(msg)
    if array.ndim not in (2, 3):
        msg = f"data must be one cutout (ny, nx), a stack (N, ny, nx) or a list, not an array of shape {array.shape}"
        raise ValueError(msg)
    stack = read_only(array if array.ndim == 3 else array[None])
    masks = [] if mask is None else [np.broadcast_to(mask, array.shape).reshape(stack.shape)]
    return Pixels(stack, flux_unit("data", unit), masks)


def _read_list(items):
    """:class:`Pixels` of a list of arrays, NDData or Cutout2D objects."""
    if not items:
        msg = "data must hold at least one cutout, not an empty list"
        raise ValueError(msg)
    images, units, masks, errors, wcs, origins = [], [], [], [], [], []
    for i, item in enumerate(items):
        name = f"data[{i}]"
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
        errors.append(_uncertainty(item, units[-1], image.shape, name) if _is_nddata(item) else None)
        wcs.append(getattr(item, "wcs", None))
        origins.append(_origin(item))
    factors = [unit_factor(f"data[{i}]", unit, units[0], data_name="data[0]") for i, unit in enumerate(units)]
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
    )


def _joined(first, second, shape, name):
    """Union of two masks, either of which may be None."""
    masks = [_boolean(f"{name}.mask", mask, shape) for mask in (first, second) if mask is not None]
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


def _uncertainty(item, unit, shape, name):
    """(array, power, factor) of an NDData uncertainty: error = factor * array**(1/power), or None."""
    uncertainty = item.uncertainty
    if uncertainty is None:
        return None
    kind = getattr(uncertainty, "uncertainty_type", None)
    if kind not in _VARIANCE_POWER:
        msg = f"{name}.uncertainty must be a standard deviation, variance or inverse variance, not {kind!r}"
        raise TypeError(msg)
    power = _VARIANCE_POWER[kind]
    array = as_numbers(f"{name}.uncertainty", uncertainty.array)
    if array.ndim and array.shape != shape:
        msg = f"{name}.uncertainty must have the shape of its cutout {shape}, not {array.shape}"
        raise ValueError(msg)
    factor = 1.0
    if uncertainty.unit is not None and unit is not None:
        factor = unit_factor(f"{name}.uncertainty", uncertainty.unit, unit**power, data_name=name) ** (1.0 / power)
    return array, power, factor


def _boolean(name, mask, shape):
    """A mask as a boolean array of ``shape`` (a view if it can be), True = bad; None stays None."""
    if mask is None or mask is np.ma.nomask:
        return None
    array = as_array(name, mask)
    if array.dtype.kind not in "biu":
        msg = f"mask must be boolean (or integer, non-zero = bad): {name} is of type {array.dtype}"
        raise TypeError(msg)
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        msg = f"{name} must have the shape of the data {shape}, not {array.shape}"
        raise ValueError(msg) from None


def mask_arrays(mask, pixels):
    """Mask sources of :class:`Pixels` with the ``mask`` argument added: each a stack, or a list like the images."""
    if mask is None or mask is np.ma.nomask:
        return list(pixels.masks)
    images, shapes = pixels.images, pixels.shapes
    n_cutouts = len(images)
    if not isinstance(mask, list | tuple) and np.ndim(mask) == 0:
        kind = TypeError if np.asarray(mask).dtype.kind not in "biu" else ValueError
        msg = "mask must be an array of booleans with the shape of the data, or a list of them"
        raise kind(msg)
    if isinstance(mask, list | tuple) and (isinstance(images, list) or any(m is None for m in mask)):
        if n_cutouts == 1 and len(mask) != 1:
            mask = [np.asarray(mask)]
        if len(mask) != n_cutouts:
            msg = f"mask must have one entry per cutout ({n_cutouts}), not {len(mask)}"
            raise ValueError(msg)
        return [*pixels.masks, [_boolean(f"mask[{i}]", m, tuple(shapes[i])) for i, m in enumerate(mask)]]
    array = as_array("mask", mask)
    if isinstance(images, list):
        if array.dtype == object and array.ndim == 1 and len(array) == n_cutouts:
            return mask_arrays(list(array), pixels)
        return [*pixels.masks, _split_stack("mask", array, shapes, _boolean)]
    return [*pixels.masks, _boolean("mask", array, images.shape)]


def _split_stack(name, array, shapes, check):
    """List with the planes of ``array`` that belong to a list of cutouts."""
    if array.ndim == 2:
        return [check(name, array, tuple(shape)) for shape in shapes]
    if array.ndim != 3 or len(array) != len(shapes):
        msg = (
            f"{name} must be a list with one 2-D array per cutout ({len(shapes)}), not an array of shape {array.shape}"
        )
        raise ValueError(msg)
    return [check(f"{name}[{i}]", plane, tuple(shapes[i])) for i, plane in enumerate(array)]


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


def error_arrays(error, pixels):
    """(:class:`Errors`, mask sources that the error brings) of the ``error`` argument and of :class:`Pixels`."""
    n_cutouts = len(pixels.images)
    nothing = Errors(np.full(n_cutouts, np.nan), np.ones(n_cutouts, dtype=bool))
    if error is None:
        return (nothing, []) if pixels.errors is None else (_from_list(pixels.errors, pixels), [])
    if isinstance(error, str | bytes):
        msg = "error must be numbers, not a string"
        raise TypeError(msg)
    if isinstance(error, list | tuple) and not all(_is_numbers(item) for item in error):
        return _error_list(list(error), pixels)
    if isinstance(error, np.ndarray) and error.dtype == object and error.ndim == 1 and len(error) == n_cutouts:
        return _error_list(list(error), pixels)
    if hasattr(error, "uncertainty_type"):
        return _from_list([_loose_uncertainty(error, pixels)], pixels), []
    return _error_array(error, pixels)


def _loose_uncertainty(error, pixels):
    """Entry for an NDUncertainty given as ``error`` of a single cutout."""
    if len(pixels.images) != 1:
        msg = "error must be one uncertainty per cutout"
        raise ValueError(msg)

    class _Holder:
        uncertainty = error

    return _uncertainty(_Holder, pixels.unit, tuple(pixels.shapes[0]), "error")


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
        planes = _split_stack("error", array, pixels.shapes, _fits)
        maps = [(read_only(plane), 1, factor) for plane in planes]
        masks = [] if mask is None else [_split_stack("error.mask", np.asarray(mask), pixels.shapes, _boolean)]
        return Errors(np.full(n_cutouts, np.nan), np.zeros(n_cutouts, dtype=bool), maps), masks
    maps = _fits("error", array, images.shape)
    masks = [] if mask is None else [_boolean("error.mask", mask, images.shape)]
    return Errors(np.full(n_cutouts, np.nan), np.zeros(n_cutouts, dtype=bool), read_only(maps), factor), masks


def _fits(name, array, shape):
    """View of ``array`` with the shape of the data."""
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        msg = f"{name} must have the shape of the data {shape}, not {array.shape}"
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
            parsed.append(_loose_uncertainty(entry, Pixels([pixels.images[i]], pixels.unit)))
        else:
            value, unit, mask = split_unit(name, entry)
            array = as_numbers(name, value)
            if array.ndim and array.shape != shape:
                msg = f"{name} must be a number or have the shape of its cutout {shape}, not {array.shape}"
                raise ValueError(msg)
            parsed.append((read_only(array), 1, unit_factor(name, unit, pixels.unit)))
        masks.append(_boolean(f"{name}.mask", mask, shape))
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


def error_values(array, power, factor):
    """Standard deviations, float64, of a stored error: ``factor * array**(1/power)``; NaN where there is none."""
    with np.errstate(all="ignore"):
        values = np.asarray(array, dtype=np.float64)
        if power != 1:
            values = np.where(values > 0, values, np.nan) ** (1.0 / power)
        return values * factor
