"""What headers say: pixel scale, gain, zero point, unit, sampling of a PSF, WCS."""

import math
import os
import re
from collections.abc import Iterable
from functools import cache
from os import PathLike
from typing import Any

import astropy.units as u
import numpy as np
from astropy.io import fits

from galmeasure.exceptions import CatalogError
from galmeasure.io.fits_files import quiet
from galmeasure.io.names import KEYWORDS
from galmeasure.io.unit_spellings import parse_unit

__all__ = [
    "agreed_pixel_scale",
    "celestial_wcs",
    "effective_gain",
    "keyword_number",
    "parse_unit",
    "psf_oversampling",
    "wcs_pixel_scale",
]

_SAME_SCALE = 1e-3
"""Relative difference up to which two pixel scales are one."""

_NEAR_SCALE = 0.1
"""Relative difference up to which one of two pixel scales is taken for a nominal one."""

_NUMBER_AT_START = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(?:$|[a-zA-Z(\[])")


def keyword_number(
    headers: Iterable[fits.Header], role: str, path: str | PathLike, ignored: list[str] | None = None
) -> tuple[float | None, str | None]:
    """First number found under the keywords of `role`.

    Parameters
    ----------
    headers : iterable of astropy.io.fits.Header
        Headers, the one that counts first.
    role : str
        Key of ``KEYWORDS``, such as ``"gain"``.
    path : path-like
        The file of the headers, for messages.
    ignored : list of str, optional
        Where given, a value that is no number, or cannot be right, is noted here and not used, rather than an error.

    Returns
    -------
    value : float or None
        The number; None if no keyword is there, or if it is zero where zero means unknown.
    keyword : str or None
        Under which keyword.
    """
    for header in headers:
        for keyword in KEYWORDS[role]:
            try:
                value = header.get(keyword)
            except fits.VerifyError:
                value = "damaged"
            if value is None or isinstance(value, fits.card.Undefined) or value == "":
                continue
            try:
                number = _number(value, role, f"{path}: {keyword}")
            except CatalogError:
                if ignored is None:
                    raise
                ignored.append(f"{keyword} = {str(value).strip()[:40]!r} not used, it must be a positive number")
                continue
            if number == 0 and role != "zero_point":
                continue
            return number, keyword
    return None, None


def agreed_pixel_scale(
    headers: Iterable[fits.Header], wcs_scale: float | None, path: str | os.PathLike, ignored: list[str]
) -> tuple[float | None, str]:
    """Pixel scale by the keywords of a header and by its WCS, which must agree.

    Parameters
    ----------
    headers : iterable of astropy.io.fits.Header
        Headers, the one that counts first.
    wcs_scale : float or None
        Arcsec per pixel by the WCS, None where there is none.
    path : path-like
        The file of the headers, for messages.
    ignored : list of str
        Keywords that are not used are noted here.

    Returns
    -------
    scale : float or None
        Arcsec per pixel: of two that differ a little, that of the WCS, since keywords are often nominal.
    origin : str
        What says so.

    Raises
    ------
    CatalogError
        If the two differ by more than a tenth.
    """
    scale, keyword = keyword_number(headers, "pixel_scale", path, ignored)
    if scale is None:
        return wcs_scale, "WCS"
    if wcs_scale is None or abs(scale / wcs_scale - 1.0) <= _SAME_SCALE:
        return scale, keyword
    if abs(scale / wcs_scale - 1.0) > _NEAR_SCALE:
        msg = f"{path}: pixel scale: {keyword} says {scale:.4g} arcsec and the WCS {wcs_scale:.4g}; "
        msg += "say which is right with --pixel-scale (pixel_scale=)"
        raise CatalogError(msg)
    return wcs_scale, f"WCS; {keyword} says {scale:.6g}"


def _number(value, role, name):
    """Number of a header's value, which may have its unit behind it (``2.5 e-/ADU``)."""
    if isinstance(value, str) and (match := _NUMBER_AT_START.match(value)):
        value = match[1]
    try:
        number = float(str(value)) if isinstance(value, bool) else float(value)
    except (TypeError, ValueError) as err:
        msg = f"{name}: the header keyword must be a number, not {value!r}"
        raise CatalogError(msg) from err
    if not math.isfinite(number):
        msg = f"{name}: the header keyword must be a finite number"
        raise CatalogError(msg)
    if role != "zero_point" and number < 0:
        msg = f"{name}: the header keyword must be positive, not {number:g}"
        raise CatalogError(msg)
    return number


def effective_gain(
    headers: Iterable[fits.Header], path: str | PathLike, unit: u.UnitBase | None, unit_text: str, ignored: list[str]
) -> tuple[float | None, str]:
    """Electrons per unit of an image, from the header's gain, which is one of electrons per ADU or count.

    Parameters
    ----------
    headers : iterable of astropy.io.fits.Header
        Headers, the one that counts first.
    path : path-like
        The file of the headers, for messages.
    unit : astropy.units.UnitBase or None
        Unit of the image, None where there is none or it is not understood.
    unit_text : str
        What the header says about the unit, empty where it says nothing.
    ignored : list of str
        Statements that are not used are appended here.

    Returns
    -------
    gain : float or None
        Electrons per unit; None where the header gives no gain, or one that says nothing about this unit.
    origin : str
        The keywords from which it follows.
    """
    gain, keyword = keyword_number(headers, "gain", path, ignored)
    if gain is None:
        return None, ""
    if unit is None and not unit_text:
        return gain, keyword
    kind, per_second = (None, False) if unit is None else _electron_kind(unit)
    exposure, time_keyword = keyword_number(headers, "exposure_time", path, ignored) if per_second else (1.0, "")
    advice = "give the electrons per unit with --gain (gain=)"
    if kind is None:
        ignored.append(f"{keyword} {gain:.6g} not used, it is per ADU and the unit is {unit_text.strip()}: {advice}")
        return None, ""
    if exposure is None:
        ignored.append(f"{keyword} {gain:.6g} not used, there is no exposure time and the unit is {unit}: {advice}")
        return None, ""
    electrons, factor = kind
    value = factor * exposure * (1.0 if electrons else gain)
    origins = ([] if electrons else [keyword]) + ([time_keyword] if per_second else [])
    return value, " and ".join(origins) or f"the unit is {unit}"


@cache
def _electron_kind(unit):
    """((is it electrons, units of it), is it per second) of a unit of electrons, counts or ADU; else (None, False)."""
    for per_second in (False, True):
        total = unit * u.s if per_second else unit
        for base in (u.electron, u.adu, u.ct, u.DN, u.photon):
            for area in (u.dimensionless_unscaled, u.pix):
                try:
                    return (base in (u.electron, u.photon), float((total * area).to(base))), per_second
                except u.UnitConversionError:
                    continue
    return None, False


def psf_oversampling(header: fits.Header, path: str | PathLike) -> int:
    """Samples a pixel of a PSF image, from its header: 1 unless a keyword says otherwise.

    ``PSFSAMP`` is the step of the samples in pixels when it is below 1, else the samples in a pixel.
    """
    value, keyword = keyword_number([header], "oversampling", path)
    if value is None:
        step, keyword = keyword_number([header], "psf_step", path)
        value = 1.0 if step is None else max(step, 1.0 / step)
    if abs(value - round(value)) > 1e-3 * value or not 1 <= round(value) <= 50:
        msg = f"{path}: {keyword}: a PSF image must have a whole number of samples per pixel, 1 to 50, not {value:g}"
        raise CatalogError(msg)
    return round(value)


def celestial_wcs(header: fits.Header, hdus: fits.HDUList | None = None) -> Any:
    """Celestial WCS of an image header, or None; tables of its distortion are in the other HDUs of its open file."""
    from astropy.wcs import WCS

    if "CTYPE1" not in header:
        return None
    with quiet():
        try:
            wcs = WCS(header, fobj=hdus)
            if wcs.naxis != 2:
                wcs = wcs.celestial
        except Exception:  # wcslib raises many kinds; without a usable WCS positions stay in pixels
            return None
    return wcs if wcs.has_celestial else None


def wcs_pixel_scale(wcs: Any) -> float | None:
    """Pixel scale in arcsec of a celestial WCS, or None."""
    if wcs is None:
        return None
    from astropy.wcs.utils import proj_plane_pixel_area

    scale = math.sqrt(proj_plane_pixel_area(wcs)) * 3600.0
    return scale if np.isfinite(scale) and scale > 0 else None
