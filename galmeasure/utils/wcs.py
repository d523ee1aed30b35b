"""Local geometry of celestial world coordinate systems: positions, pixel scale and orientation."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["LocalSky", "check_wcs", "local_sky"]

_STEP = 0.5  # pixels to either side, for derivatives


@dataclass(frozen=True)
class LocalSky:
    """Sky coordinates around pixel positions.

    ``ra``, ``dec``: ICRS, degrees (N,). ``jacobian``: (N, 2, 2), arcsec towards (east, north) per pixel in (x, y).
    """

    ra: np.ndarray
    dec: np.ndarray
    jacobian: np.ndarray

    @property
    def pixel_scale(self) -> npt.NDArray[np.float64]:
        """Pixel scale (N,) in arcsec per pixel: root of the area of a pixel."""
        (a, b), (c, d) = np.moveaxis(self.jacobian, 0, -1)
        return np.sqrt(np.abs(a * d - b * c))

    def position_angle(self, theta: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return angles east of north, degrees in [0, 180), of directions (N,) in degrees from +x in pixels."""
        angle = np.radians(theta)
        direction = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        east, north = np.einsum("nij,nj->in", self.jacobian, direction)
        pa = np.degrees(np.arctan2(east, north)) % 180.0
        return np.where(pa >= 180.0, 0.0, pa)


def check_wcs(wcs: object, n_cutouts: int) -> list:
    """Return a list of N world coordinate systems (or None) from one or from a list."""
    entries = list(wcs) if isinstance(wcs, list | tuple) else [wcs] * n_cutouts
    if isinstance(wcs, np.ndarray) and wcs.dtype == object:
        entries = list(wcs)
    if len(entries) != n_cutouts:
        msg = f"wcs must be one WCS or one per cutout ({n_cutouts}), not {len(entries)}"
        raise ValueError(msg)
    for entry in {id(entry): entry for entry in entries}.values():
        if entry is not None:
            _check_celestial(entry)
    return entries


def _check_celestial(wcs):
    """Raise unless ``wcs`` maps two pixel axes to the sky."""
    if not hasattr(wcs, "pixel_to_world"):
        msg = f"wcs must be an astropy WCS (or follow its interface), not {type(wcs).__name__}"
        raise TypeError(msg)
    low = getattr(wcs, "low_level_wcs", wcs)
    types = list(low.world_axis_physical_types)
    if (
        low.pixel_n_dim != 2
        or len(types) != 2
        or not all(str(t or "").startswith(("pos.", "custom:pos.")) for t in types)
    ):
        msg = f"wcs must be celestial with two axes, not {types}"
        raise ValueError(msg)


def local_sky(wcs: list, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> LocalSky:
    """Compute sky coordinates around pixel positions; NaN where there is no WCS or no sky.

    Parameters
    ----------
    wcs : list
        WCS of every position; may repeat, may be None.
    x, y : ndarray, shape (N,)
        Pixel positions in the frame of each WCS.

    Returns
    -------
    LocalSky
        Sky positions and Jacobians of the pixels.
    """
    ra, dec, jacobian = np.full(len(x), np.nan), np.full(len(x), np.nan), np.full((len(x), 2, 2), np.nan)
    groups = {}
    for i, entry in enumerate(wcs):
        if entry is not None and np.isfinite(x[i]) and np.isfinite(y[i]):
            groups.setdefault(id(entry), (entry, []))[1].append(i)
    for entry, rows in groups.values():
        index = np.array(rows)
        px = x[index] + np.array([0.0, -_STEP, _STEP, 0.0, 0.0])[:, None]
        py = y[index] + np.array([0.0, 0.0, 0.0, -_STEP, _STEP])[:, None]
        lon, lat = _icrs(entry, px, py)
        ra[index], dec[index] = lon[0], lat[0]
        cos_dec = np.cos(np.radians(lat[0]))
        for axis, (before, after) in enumerate(((1, 2), (3, 4))):
            turn = (lon[after] - lon[before] + 180.0) % 360.0 - 180.0
            jacobian[index, 0, axis] = 3600.0 * turn * cos_dec / (2 * _STEP)
            jacobian[index, 1, axis] = 3600.0 * (lat[after] - lat[before]) / (2 * _STEP)
    return LocalSky(ra, dec, jacobian)


def _icrs(wcs, x, y):
    """ICRS longitude and latitude in degrees; NaN where the WCS has no solution."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            if _is_fits_icrs(wcs):
                lon, lat = wcs.pixel_to_world_values(x, y)
            else:
                sky = wcs.pixel_to_world(x, y).icrs
                lon, lat = sky.ra.deg, sky.dec.deg
    except (ValueError, AttributeError, ArithmeticError):
        return np.full((2, *np.shape(x)), np.nan)
    return np.asarray(lon, dtype=np.float64), np.asarray(lat, dtype=np.float64)


def _is_fits_icrs(wcs):
    """Test if a FITS WCS gives ICRS right ascension and declination as they are; saves most of the time."""
    fits = getattr(wcs, "wcs", None)
    if fits is None or not hasattr(fits, "radesys"):
        return False
    in_icrs = fits.radesys.strip() == "ICRS" or (not fits.radesys.strip() and not np.isfinite(fits.equinox))
    return in_icrs and list(wcs.world_axis_physical_types) == ["pos.eq.ra", "pos.eq.dec"]
