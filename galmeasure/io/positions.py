"""Positions of a source list in the pixels of an image: of pixel columns, or of sky coordinates through the WCS."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import astropy.units as u
import numpy as np
from astropy.table import Table

from galmeasure.exceptions import CatalogError
from galmeasure.io.fits_files import quiet, reading
from galmeasure.io.names import PIXEL_NAMES, SKY_NAMES, find_pair, some_names

if TYPE_CHECKING:
    from astropy.coordinates import SkyCoord
    from astropy.wcs import WCS

    from galmeasure.io.image import ImagePlanes

__all__ = ["find_positions", "parent_offset", "sky_to_pixels"]

_UNIT_SPELLINGS = {"angle[deg]": u.deg, "angle[rad]": u.rad, "degrees": u.deg, "decimal degrees": u.deg}
_UNIT_SPELLINGS |= {"degs": u.deg, "degree": u.deg, "radians": u.rad, "radian": u.rad, "arcsecs": u.arcsec}
_UNIT_SPELLINGS |= {"arcseconds": u.arcsec, "pixels": u.pix, "pixel": u.pix, "hours": u.hourangle}

ROUND_TRIP = 0.1
"""Pixels by which a position may be missed when it is taken to the image and back to the sky."""


def find_positions(table: Table, planes: "ImagePlanes", path: str | os.PathLike) -> np.ndarray:
    """Pixel positions of the sources of a list.

    Parameters
    ----------
    table : astropy.table.Table
        The list, see `read_list`.
    planes : ImagePlanes
        The image, with its WCS.
    path : path-like
        File of the list, for messages.

    Returns
    -------
    ndarray
        Shape (N, 2): x, y, the centre of the first pixel at 0; NaN where a position is missing or not on the image.

    Raises
    ------
    CatalogError
        If the list has no usable positions, or the image no WCS for those on the sky.
    """
    plain = [name for name in table.colnames if not hasattr(table[name], "spherical")]
    pixels = find_pair([name for name in plain if _may_be_pixels(table[name])], PIXEL_NAMES)
    if pixels:
        positions = np.stack([_numbers(table[name], name, path) for name in pixels[:2]], axis=1) - pixels[2]
        return _in_image(positions, parent_offset(planes.header), table, plain, planes, path)
    sky = _sky_positions(table, plain, path)
    if sky is None:
        msg = f"{path}: no positions (x and y, or ra and dec); there are {some_names(table.colnames)}"
        raise CatalogError(msg)
    if planes.wcs is None:
        msg = f"{planes.path}: image: has no celestial WCS, so the list must give x and y rather than ra and dec"
        raise CatalogError(msg)
    with reading(planes.path):
        return sky_to_pixels(planes.wcs, sky, planes.shape, planes.path)


def parent_offset(header: Mapping) -> np.ndarray | None:
    """Pixels to add to positions in the parent of a sub-image, by ``LTV1`` and ``LTV2``; None if it has no parent.

    Parameters
    ----------
    header : mapping
        Header of the image; IRAF, the pipelines of HST and those of Rubin write these keywords.

    Returns
    -------
    ndarray or None
        Shape (2,): x, y. None as well where the header says that the pixels of the parent are of another size.
    """
    offset = [header.get(f"LTV{i}", 0.0) for i in (1, 2)]
    steps = [header.get(f"LTM{i}_{i}", 1.0) for i in (1, 2)]
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in (*offset, *steps)):
        return None
    return np.array(offset, dtype=float) if any(offset) and steps == [1, 1] and np.isfinite(offset).all() else None


def _in_image(positions, offset, table, plain, planes, path):
    """Pixel positions in the image itself, where they may be those in its parent: sky positions of the list decide.

    Without these they are those in the image, as the documentation says, unless they fit the parent better.
    """
    if offset is None:
        return positions
    moved, words = positions + offset, f"LTV1 {offset[0]:g}, LTV2 {offset[1]:g}"
    sky = _sky_positions(table, plain, path) if planes.wcs is not None else None
    if sky is not None:
        with quiet():
            right = sky_to_pixels(planes.wcs, sky, planes.shape, planes.path)
        distances = [np.hypot(*(right - pixels).T) for pixels in (positions, moved)]
        if np.isfinite(distances[0]).any():
            if np.nanmedian(distances[1]) < np.nanmedian(distances[0]):
                planes.notes.append(f"x and y are pixels of the parent image ({words}), as the sky positions say")
                return moved
            return positions
    n_inside, n_moved = (np.count_nonzero(_is_inside(pixels, planes.shape)) for pixels in (positions, moved))
    if n_moved > n_inside:
        msg = (
            f"{path}: x and y: {n_inside} of {len(positions)} positions lie in the image, and {n_moved} would if they "
            f"were pixels of its parent ({words}, to be added to them): give pixels of the image, or ra and dec"
        )
        raise CatalogError(msg)
    planes.notes.append(f"x and y taken as pixels of the image, not of its parent ({words})")
    return positions


def _is_inside(positions, shape):
    """Whether positions lie in an image of shape (ny, nx)."""
    x, y = positions.T
    with np.errstate(invalid="ignore"):
        return (x > -0.5) & (x < shape[1] - 0.5) & (y > -0.5) & (y < shape[0] - 0.5)


def _unit(column, name, path):
    """Unit of a column, or None; spellings that astropy does not know are tried."""
    unit = getattr(column, "unit", None)
    if unit is None or not str(unit).strip():
        return None
    spelled = _UNIT_SPELLINGS.get(str(unit).strip().lower())
    if spelled is None:
        with quiet():
            spelled = u.Unit(str(unit), parse_strict="silent") if isinstance(unit, str) else unit
    if isinstance(spelled, u.UnrecognizedUnit):
        msg = f"{path}: the column {name} has the unit {str(unit)!r}, which is not known"
        raise CatalogError(msg)
    return None if spelled == u.dimensionless_unscaled else spelled


def _may_be_pixels(column):
    """Whether the unit of a column, if it has one, is not another than that of pixels."""
    try:
        unit = _unit(column, "", "")
    except CatalogError:
        return True
    return unit is None or unit == u.pix


def _numbers(column, name, path):
    """Numbers of a column, NaN where they are missing."""
    try:
        if getattr(column, "dtype", np.dtype("O")).kind not in "biuf":
            raise TypeError
        return np.ma.filled(np.ma.asarray(column).astype(float), np.nan)
    except (TypeError, ValueError) as err:
        msg = f"{path}: the column {name} must hold numbers"
        raise CatalogError(msg) from err


def _sky_positions(table, plain, path):
    """Sky coordinates of a list: those of a `SkyCoord` column, or of a pair of columns; None if there are none."""
    from astropy.coordinates import SkyCoord

    mixins = [name for name in table.colnames if name not in plain]
    if mixins:
        preferred = [name for name in mixins if "centroid" in name.lower()] or mixins
        if len(preferred) > 1:
            msg = f"{path}: several sky positions ({some_names(preferred)}); the list must have one"
            raise CatalogError(msg)
        return table[preferred[0]]
    columns = find_pair(plain, SKY_NAMES)
    if not columns:
        stem = next((n[:-3] for n in plain if n.endswith(".ra") and f"{n[:-3]}.dec" in plain), None)
        columns = None if stem is None else (f"{stem}.ra", f"{stem}.dec")
    if not columns:
        return None
    lon, lat = (_degrees(table[name], name, path, is_longitude=i == 0) for i, name in enumerate(columns))
    lat = np.where(np.abs(lat) <= 90.0, lat, np.nan)
    is_galactic = columns[0].lower() == "glon"
    return SkyCoord(lon, lat, unit="deg", frame="galactic" if is_galactic else "icrs")


def _degrees(column, name, path, *, is_longitude):
    """Angles of a column in degrees; sexagesimal text is read, longitudes as hours unless the unit says otherwise."""
    if column.dtype.kind in "US":
        return _sexagesimal(column, name, path, u.hourangle if is_longitude else u.deg)
    unit = _unit(column, name, path) or u.deg
    if unit == u.hour and is_longitude:
        unit = u.hourangle
    if not unit.is_equivalent(u.deg):
        msg = f"{path}: the column {name} must hold angles, not numbers in {unit}"
        raise CatalogError(msg)
    return _numbers(column, name, path) * unit.to(u.deg)


def _sexagesimal(column, name, path, unit):
    from astropy.coordinates import Angle

    missing = np.ma.getmaskarray(np.ma.asarray(column))
    degrees = np.full(len(column), np.nan)
    for i, text in enumerate(np.asarray(column)):
        if missing[i] or not str(text).strip():
            continue
        try:
            if not any(sign in str(text).strip() for sign in ": hd"):
                raise ValueError
            degrees[i] = Angle(str(text), unit=unit).deg
        except ValueError as err:
            msg = f"{path}: the column {name} must hold numbers"
            raise CatalogError(msg) from err
    return degrees


def sky_to_pixels(wcs: "WCS", sky: "SkyCoord", shape: tuple[int, int], path: str | os.PathLike) -> np.ndarray:
    """Pixel positions of sky coordinates; NaN where the WCS does not lead there and back.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        Celestial WCS of the image, in any frame, order of axes and distortion.
    sky : astropy.coordinates.SkyCoord
        N positions, in any frame; missing ones are NaN.
    shape : tuple of int
        (ny, nx) of the image: distortions are inverted only near it.
    path : path-like
        File of the image, for messages.

    Returns
    -------
    ndarray
        Shape (N, 2): x, y.
    """
    positions = np.full((len(sky), 2), np.nan)
    try:
        sky = sky.transform_to(_frame(wcs))
    except (ValueError, TypeError) as err:
        msg = f"{path}: image: positions cannot be taken to the frame of its WCS ({err})"
        raise CatalogError(msg) from err
    spherical = sky.spherical
    usable = np.flatnonzero(_is_finite(spherical.lon.deg) & _is_finite(spherical.lat.deg))
    usable = usable[_near_image(wcs, sky[usable], shape)] if len(usable) else usable
    if not len(usable):
        return positions
    pixels = np.stack(np.broadcast_arrays(*wcs.world_to_pixel(sky[usable])), axis=1).astype(float)
    pixels[~np.isfinite(pixels).all(axis=1)] = np.nan
    back = wcs.pixel_to_world(*np.nan_to_num(pixels).T)
    x, y = pixels.T
    step = wcs.pixel_to_world(np.nan_to_num(x) + 1.0, np.nan_to_num(y) + 1.0)
    tolerance = ROUND_TRIP * back.separation(step).deg
    with np.errstate(invalid="ignore"):
        is_right = back.separation(sky[usable]).deg <= tolerance
    positions[usable[is_right]] = pixels[is_right]
    return positions


def _frame(wcs):
    from astropy.wcs.utils import wcs_to_celestial_frame

    return wcs_to_celestial_frame(wcs)


def _is_finite(values):
    """Whether numbers, some of them masked perhaps, are there and finite."""
    values = np.ma.filled(np.ma.asarray(getattr(values, "unmasked", values), dtype=float), np.nan) * np.where(
        getattr(values, "mask", False), np.nan, 1.0
    )
    return np.isfinite(values)


def _near_image(wcs, sky, shape):
    """Whether positions lie within three sides of the image without its distortion, which has no inverse far away."""
    if not getattr(wcs, "has_distortion", False):
        return np.ones(len(sky), dtype=bool)
    undistorted = wcs.deepcopy()
    undistorted.sip = undistorted.cpdis1 = undistorted.cpdis2 = None
    undistorted.det2im1 = undistorted.det2im2 = None
    x, y = undistorted.world_to_pixel(sky)
    side = max(shape)
    with np.errstate(invalid="ignore"):
        return (np.abs(x - shape[1] / 2) < 1.5 * side) & (np.abs(y - shape[0] / 2) < 1.5 * side)
