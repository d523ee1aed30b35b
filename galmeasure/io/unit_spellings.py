"""Units as headers spell them."""

import re
from functools import cache

import astropy.units as u

from galmeasure.io.fits_files import quiet

__all__ = ["parse_unit", "unit_factor"]

_WORDS = {
    "adu": "adu",
    "angstrom": "Angstrom",
    "angstroms": "Angstrom",
    "ang": "Angstrom",
    "cm": "cm",
    "count": "ct",
    "counts": "ct",
    "cts": "ct",
    "ct": "ct",
    "cps": "ct/s",
    "dn": "DN",
    "dns": "DN",
    "e": "electron",
    "e-": "electron",
    "electron": "electron",
    "electrons": "electron",
    "erg": "erg",
    "ergs": "erg",
    "hz": "Hz",
    "jansky": "Jy",
    "janskys": "Jy",
    "jy": "Jy",
    "maggie": "mgy",
    "maggies": "mgy",
    "mgy": "mgy",
    "microjansky": "uJy",
    "microjanskys": "uJy",
    "microjy": "uJy",
    "millijansky": "mJy",
    "millijanskys": "mJy",
    "millijy": "mJy",
    "megajansky": "MJy",
    "megajy": "MJy",
    "nanojansky": "nJy",
    "nanojanskys": "nJy",
    "nanojy": "nJy",
    "nanomaggie": "nmgy",
    "nanomaggies": "nmgy",
    "nanomaggy": "nmgy",
    "nmgy": "nmgy",
    "njy": "nJy",
    "photon": "photon",
    "photons": "photon",
    "pixel": "pix",
    "pixels": "pix",
    "pix": "pix",
    "s": "s",
    "sec": "s",
    "second": "s",
    "seconds": "s",
    "sr": "sr",
    "steradian": "sr",
    "ujy": "uJy",
}
"""Words of other people's units in lower case; for the others upper and lower case are believed."""

_WORD = re.compile(r"(?<![A-Za-z\d.])(?:[eE]-(?!\s*\d)|[A-Za-z]+)")

_POWER = re.compile(r"(?<![\w.])10(?:\*\*|\^)\(?([-+]?\d+)\)?")


def parse_unit(text: str | None) -> u.UnitBase | None:
    """Unit of a header's text, or None where there is none or it is not understood.

    Plurals, abbreviations and capitals of many pipelines are understood (``ELECTRONS/S``, ``counts/s``, ``e-/s``,
    ``MJY/SR``, ``microJy``).
    """
    return None if text is None else _parse_unit(str(text).strip())


@cache
def _parse_unit(text):
    """Unit of a text without blanks around it."""
    if not text:
        return None
    spelled = _POWER.sub(lambda match: f"1e{int(match[1])}", _WORD.sub(_word, text))
    if "sr" in spelled:
        spelled = spelled.replace("MJY", "MJy")
    if "erg" in spelled:
        spelled = re.sub(r"(?<![A-Za-z])A(?![A-Za-z])", "Angstrom", spelled)
    for spelling in dict.fromkeys((spelled, spelled.replace("^", "**"), text)):
        with quiet():
            try:
                unit = u.Unit(spelling, parse_strict="silent")
            except (ValueError, TypeError):
                continue
        if not isinstance(unit, u.UnrecognizedUnit):
            return None if unit == u.dimensionless_unscaled else unit
    return None


def _word(match):
    return _WORDS.get(match[0].lower(), match[0])


def unit_factor(unit: u.UnitBase | None, target: u.UnitBase | None) -> float | None:
    """Factor from one unit to another: 1 where either is None, and None where they cannot be converted."""
    if unit is None or target is None or unit == target:
        return 1.0
    try:
        return float(unit.to(target))
    except u.UnitConversionError:
        return None
