"""What headers say: pixel scale, gain, zero point, unit, sampling of a PSF, WCS."""

import math

import astropy.units as u
import numpy as np
from astropy.io import fits

from galmeasure.exceptions import CatalogError

from ._fits import quiet
from ._names import KEYWORDS

__all__ = ["celestial_wcs", "keyword_number", "parse_unit", "psf_oversampling", "wcs_pixel_scale"]

_UNIT_SPELLINGS = {
    "adu": "adu",
    "counts": "ct",
    "e-": "electron",
    "electrons": "electron",
    "maggie": "mgy",
    "maggies": "mgy",
    "nanomaggie": "nmgy",
    "nanomaggies": "nmgy",
}


def keyword_number(headers, role, path):
    """First number found under the keywords of `role`.

    Parameters
    ----------
    headers : iterable of astropy.io.fits.Header
        Headers, the one that counts first.
    role : str
        Key of ``KEYWORDS``.
    path : path-like
        The file of the headers, for messages.

    Returns
    -------
    value : float or None
        The number; None if no keyword is there, or if it is zero where zero means unknown.
    keyword : str or None
        Under which keyword.
    """
    for header in headers:
        for keyword in KEYWORDS[role]:
            value = header.get(keyword)
            if value is None or isinstance(value, fits.card.Undefined) or value == "":
                continue
            number = _number(value, f"{path}: {keyword}")
            if number == 0 and role != "zero_point":
                continue
            if role != "zero_point" and number < 0:
                msg = f"{path}: {keyword}: the header keyword must be positive, not {number:g}"
                raise CatalogError(msg)
            return number, keyword
    return None, None


def _number(value, name):
    try:
        number = float(value)
    except (TypeError, ValueError) as err:
        msg = f"{name}: the header keyword must be a number, not {value!r}"
        raise CatalogError(msg) from err
    if not math.isfinite(number):
        msg = f"{name}: the header keyword must be a finite number"
        raise CatalogError(msg)
    return number


def psf_oversampling(header, path):
    """Samples a pixel of a PSF image, from its header: 1 unless a keyword says otherwise.

    ``PSFSAMP`` is the step of the samples in pixels when it is below 1, else the samples in a pixel.
    """
    value, keyword = keyword_number([header], "oversampling", path)
    if value is None:
        step, keyword = keyword_number([header], "psf_step", path)
        value = 1.0 if step is None else max(step, 1.0 / step)
    if abs(value - round(value)) > 1e-3 * value or not 1 <= round(value) <= 50:
        msg = f"{path}: {keyword}: a PSF image must have a whole number of samples a pixel, 1 to 50, not {value:g}"
        raise CatalogError(msg)
    return round(value)


def parse_unit(text):
    """Unit of a header's text, or None where there is none or astropy does not know it."""
    if not text or not str(text).strip():
        return None
    text = str(text).strip()
    text = _UNIT_SPELLINGS.get(text.lower(), text)
    with quiet():
        unit = u.Unit(text, parse_strict="silent")
    return None if isinstance(unit, u.UnrecognizedUnit) or unit == u.dimensionless_unscaled else unit


def celestial_wcs(header):
    """Celestial WCS of an image header, or None."""
    from astropy.wcs import WCS

    if "CTYPE1" not in header:
        return None
    with quiet():
        try:
            wcs = WCS(header)
            if wcs.naxis != 2:
                wcs = wcs.celestial
        except Exception:  # wcslib raises many kinds; without a usable WCS positions stay in pixels
            return None
    return wcs if wcs.has_celestial else None


def wcs_pixel_scale(wcs):
    """Pixel scale in arcsec of a celestial WCS, or None."""
    if wcs is None:
        return None
    from astropy.wcs.utils import proj_plane_pixel_area

    scale = math.sqrt(proj_plane_pixel_area(wcs)) * 3600.0
    return scale if np.isfinite(scale) and scale > 0 else None
