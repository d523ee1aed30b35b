"""Content of a set of cutouts, and how the arguments of a user become it: the one place of validation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from galmeasure.cutouts.noise import Errors, error_arrays
from galmeasure.cutouts.pixels import adopt_unit, mask_arrays, read_pixels
from galmeasure.psf.collection import PSFCollection, read_psf_collection
from galmeasure.utils.units import (
    as_array,
    as_numbers,
    gain_values,
    per_cutout,
    pixel_scale_values,
    read_only,
    split_unit,
    zero_point_values,
)
from galmeasure.utils.wcs import check_wcs, local_sky

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Store", "build_store", "row_index"]


@dataclass(frozen=True)
class Store:
    """Everything a set of cutouts holds: arrays and lists with one entry per cutout, or None.

    ``bad_rows`` are those which an argument other than the pixels makes impossible to measure.
    """

    images: object
    masks: list
    errors: Errors
    shapes: np.ndarray
    psfs: PSFCollection
    bad_rows: np.ndarray
    ids: np.ndarray
    origin: np.ndarray
    unit: object
    gain: np.ndarray | None
    pixel_scale: np.ndarray | None
    zero_point: np.ndarray | None
    wcs: list | None
    wcs_in_parent: bool

    def rows(self, key: int | slice | npt.ArrayLike) -> Store:
        """The store of some of the rows; a slice gives views."""
        pick = _take(key)
        return replace(
            self,
            images=pick(self.images),
            masks=[pick(source) for source in self.masks],
            errors=replace(
                self.errors,
                values=pick(self.errors.values),
                estimate=pick(self.errors.estimate),
                maps=pick(self.errors.maps),
            ),
            psfs=self.psfs.rows(key),
            **{
                name: pick(getattr(self, name))
                for name in ("shapes", "bad_rows", "ids", "origin", "gain", "pixel_scale", "zero_point", "wcs")
            },
        )


def _take(key):
    """Function that takes rows ``key`` of an array or a list, and leaves None alone."""

    def pick(values):
        if isinstance(values, list):
            return values[key] if isinstance(key, slice) else [values[i] for i in key]
        return None if values is None else read_only(values[key])

    return pick


def build_store(
    cutouts: object,
    psf: object = None,
    *,
    error: object = None,
    mask: object = None,
    gain: object = None,
    pixel_scale: object = None,
    wcs: object = None,
    psf_oversampling: int = 1,
    psf_flux: float | str | npt.ArrayLike | None = None,
    psf_includes_pixel: bool = True,
    positions: npt.ArrayLike | None = None,
    ids: npt.ArrayLike | None = None,
    zero_point: object = None,
    strict: bool = True,
) -> Store:
    """:class:`Store` of the arguments of :class:`~galmeasure.Cutouts`, all of them checked.

    ``strict=False`` is for a part of a catalogue, of which all PSFs may be bad.
    """
    pixels = read_pixels(cutouts)
    adopt_unit(pixels, error)
    shapes = read_only(pixels.shapes)
    n_cutouts = len(shapes)
    errors, error_masks = error_arrays(error, pixels)
    masks = mask_arrays(mask, pixels) + error_masks
    gain, good_gain = per_cutout("gain", gain_values(gain, pixels.unit), n_cutouts)
    scale, good_scale = per_cutout("pixel_scale", pixel_scale_values(pixel_scale), n_cutouts)
    zero_point, _ = per_cutout("zero_point", zero_point_values(zero_point), n_cutouts, what="finite")
    origin, positions = _origin_and_positions(positions, pixels.origins, shapes)
    entries, in_parent = _wcs_of(wcs, pixels.wcs, n_cutouts)
    if scale is None and entries is not None:
        centre = 0.5 * (shapes[:, ::-1] - 1) + (origin if in_parent else 0.0)
        scale = local_sky(entries, centre[:, 0], centre[:, 1]).pixel_scale
        good_scale = np.isfinite(scale) & (scale > 0)
    psfs = read_psf_collection(
        psf,
        shapes=shapes,
        oversampling=psf_oversampling,
        positions=positions,
        pixel_scale=scale,
        flux=psf_flux,
        includes_pixel=psf_includes_pixel,
        strict=strict,
    )
    good = _usable_errors(errors) & good_gain & good_scale & np.isfinite(origin).all(axis=1) & ~psfs.bad()
    return Store(
        images=pixels.images,
        masks=masks,
        errors=errors,
        shapes=shapes,
        psfs=psfs,
        bad_rows=~good,
        ids=_ids(ids, n_cutouts),
        origin=read_only(origin),
        unit=pixels.unit,
        gain=gain,
        pixel_scale=None if scale is None else read_only(scale),
        zero_point=zero_point,
        wcs=entries,
        wcs_in_parent=in_parent,
    )


def row_index(key: npt.ArrayLike, n_rows: int) -> npt.NDArray[np.int64]:
    """Return the integer rows of an index array, a list or a boolean mask.

    Parameters
    ----------
    key : array_like of int or bool
        Index of rows, negative ones counted from the end, or a mask.
    n_rows : int
        Number of rows that there are.

    Returns
    -------
    ndarray of int64
        Rows from 0 on.

    Raises
    ------
    TypeError, IndexError
        If the key is of another kind, or out of range.
    """
    key = np.atleast_1d(np.asarray(key))
    if key.size == 0:
        return np.zeros(0, dtype=np.int64)
    if key.dtype == bool and key.shape == (n_rows,):
        return np.flatnonzero(key)
    if key.dtype.kind not in "iu" or key.ndim != 1:
        msg = f"rows must be a slice, integers or a boolean array of length {n_rows}"
        raise TypeError(msg)
    if key.min() < -n_rows or key.max() >= n_rows:
        msg = f"rows must lie between {-n_rows} and {n_rows - 1}"
        raise IndexError(msg)
    return key.astype(np.int64) % n_rows


def _usable_errors(errors):
    """Boolean (N,): rows whose noise is a valid number, a map, or to be estimated."""
    has_map = errors.maps is not None
    if isinstance(errors.maps, list):
        has_map = np.array([entry is not None for entry in errors.maps])
    with np.errstate(invalid="ignore"):
        return (np.isfinite(errors.values) & (errors.values > 0)) | has_map | errors.estimate


def _origin_and_positions(positions, origins, shapes):
    """(origin (N, 2), positions (N, 2) or None) of the cutouts in the parent image."""
    centre = 0.5 * (shapes[:, ::-1] - 1)
    if positions is None:
        return (np.zeros((len(shapes), 2)), None) if origins is None else (origins, origins + centre)
    value, _, mask = split_unit("positions", positions)
    with np.errstate(all="ignore"):
        positions = as_numbers("positions", value).astype(np.float64)
    if mask is not None:
        positions[np.broadcast_to(mask, positions.shape)] = np.nan
    if positions.shape == (2,) and len(shapes) == 1:
        positions = positions[None]
    if positions.shape != (len(shapes), 2):
        msg = f"positions must have x and y for every cutout, shape ({len(shapes)}, 2), not {positions.shape}"
        raise ValueError(msg)
    return positions - centre, positions


def _wcs_of(wcs, of_cutouts, n_cutouts):
    """(list of WCS or None, whether they are in pixels of the parent image)."""
    if wcs is None:
        return (None, False) if of_cutouts is None else (check_wcs(of_cutouts, n_cutouts), False)
    entries = check_wcs(wcs, n_cutouts)
    if all(entry is None for entry in entries):
        return None, False
    return entries, not isinstance(wcs, list | tuple | np.ndarray)


def _ids(ids, n_cutouts):
    """Names of the cutouts, (N,), read-only."""
    if ids is None:
        return read_only(np.arange(1, n_cutouts + 1))
    if isinstance(ids, np.ma.MaskedArray) and np.ma.getmaskarray(ids).any():
        return _masked_ids(ids, n_cutouts)
    array = np.atleast_1d(as_array("ids", ids))
    if array.shape != (n_cutouts,):
        msg = f"ids must have one entry per cutout ({n_cutouts}), not shape {array.shape}"
        raise ValueError(msg)
    if array.dtype.kind not in "iufUSb":
        array = array.astype(str)
    return read_only(array.copy())


def _masked_ids(ids, n_cutouts):
    """Identifiers some of which are missing: they stay masked."""
    mask = np.ma.getmaskarray(ids)
    names = _ids(np.asarray(ids.data), n_cutouts)
    masked = np.ma.array(names, mask=np.atleast_1d(mask), copy=True)
    masked.flags.writeable = False
    return masked
