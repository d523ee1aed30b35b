"""Bits of masks: which of them are bad, by name, by number or by value; what is known of the masks of pipelines."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

from galmeasure.exceptions import CatalogError
from galmeasure.io.names import some_names
from galmeasure.io.pixels import LazyPixels

__all__ = ["MaskBits", "check_mask_bits", "find_mask_bits"]

ALL_BITS = 2**64 - 1

HARMLESS_PLANES = (
    "DETECTED", "DETECTED_NEGATIVE", "CROSSTALK", "INEXACT_PSF", "SENSOR_EDGE", "CLIPPED", "REJECTED",
    "NOT_DEBLENDED", "NOT_BLENDED", "BRIGHT_OBJECT", "FAKE", "INJECTED", "INJECTED_CORE", "INJECTED_TEMPLATE",
    "DETECTED_TEMPLATE", "PARTLY_VIGNETTED", "HIGH_VARIANCE", "OTHERDET", "NOISE_REPLACED", "THISDET",
)  # fmt: skip
"""Mask planes of the Rubin and HSC pipelines whose pixels can be measured: they say what is there, or its history."""

JWST_PLANES = (
    "DO_NOT_USE", "SATURATED", "JUMP_DET", "DROPOUT", "OUTLIER", "PERSISTENCE", "AD_FLOOR", "CHARGELOSS",
    "UNRELIABLE_ERROR", "NON_SCIENCE", "DEAD", "HOT", "WARM", "LOW_QE", "RC", "TELEGRAPH", "NONLINEAR", "BAD_REF_PIXEL",
    "NO_FLAT_FIELD", "NO_GAIN_VALUE", "NO_LIN_CORR", "NO_SAT_CHECK", "UNRELIABLE_BIAS", "UNRELIABLE_DARK",
    "UNRELIABLE_SLOPE", "UNRELIABLE_FLAT", "OPEN", "ADJ_OPEN", "FLUX_ESTIMATED", "MSA_FAILED_OPEN",
    "OTHER_BAD_PIXEL", "REFERENCE_PIXEL",
)  # fmt: skip
"""Flags of JWST and Roman, from the first bit on; ``DO_NOT_USE`` is set wherever another one makes a pixel useless."""

HST_HARMLESS = {"ACS": 32 | 64, "WFC3": 64}
"""Values of stable warm pixels (and tails of hot ones in the ACS), which the drizzling of the archive uses too."""


@dataclass(frozen=True)
class MaskBits:
    """Bits of a mask that are bad; None stands for all of them.

    Attributes
    ----------
    value : int or None
        Sum of ``2**bit`` over the bad bits.
    note : str
        What they are, for people to read; empty where any bit is bad.
    """

    value: int | None = None
    note: str = ""

    def bad(self, mask: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Boolean array of the bad pixels of some values of the mask; blank ones are bad."""
        mask = np.asarray(mask)
        if mask.dtype.kind == "b" or self.value is None:
            return mask != 0
        if mask.dtype.kind == "f":
            blank = ~np.isfinite(mask)
            whole = np.where(blank, 0, mask).astype(np.int64)
            return blank | ((whole.view(np.uint64) & np.uint64(self.value)) != 0)
        mask = np.ascontiguousarray(mask, dtype=mask.dtype.newbyteorder("="))
        unsigned = mask.view(f"u{mask.dtype.itemsize}")
        return (unsigned.astype(np.uint64) & np.uint64(self.value)) != 0

    def bad_pixels(self, plane: Any) -> LazyPixels:
        """Boolean image of the bad pixels of a mask, which is computed where it is read."""
        return LazyPixels([plane], self.bad, bool)


def check_mask_bits(option: int | str | Iterable | None) -> None:
    """Raise if bits of a mask are given as what they cannot be, as far as this is known without the mask."""
    _parse(option, None, "mask_bits")


def find_mask_bits(option: int | str | Iterable | None, headers: list, path: str | PathLike) -> "MaskBits":
    """Bad bits of a mask: those that are asked for, or what is known of masks with such headers.

    Parameters
    ----------
    option : int, str, sequence or None
        Sum of ``2**bit`` (as a text, ``"16+64"`` as well); or names and bit numbers, in a list or between commas. With
        ``~`` in front of a text, all the others.
    headers : list of astropy.io.fits.Header
        Header of the mask, and of the primary HDU.
    path : path-like
        The file, for messages.

    Returns
    -------
    MaskBits
        The bits.
    """
    planes, harmless = _planes(headers)
    if option is not None:
        value = _parse(option, planes, f"{path}: mask_bits")
        return MaskBits(value, f"mask bits {_names(value, planes)}")
    if not harmless:
        return MaskBits()
    value = ALL_BITS & ~harmless
    return MaskBits(value, f"mask bits {_names(value, planes)}")


def _planes(headers):
    """(bits by their names, sum of those that are harmless) of a mask."""
    planes = {}
    for keyword in headers[0]:
        bit = headers[0][keyword] if keyword.startswith("MP_") else None
        if isinstance(bit, int) and not isinstance(bit, bool) and 0 <= bit < 64:
            planes[keyword.removeprefix("MP_").upper()] = bit
    if planes:
        return planes, sum({1 << bit for name, bit in planes.items() if name in HARMLESS_PLANES})
    telescope, instrument = (
        next((str(header[name]).strip().upper() for header in headers if name in header), "")
        for name in ("TELESCOP", "INSTRUME")
    )
    if telescope in ("JWST", "ROMAN"):
        return {name: bit for bit, name in enumerate(JWST_PLANES)}, ALL_BITS & ~1
    if telescope == "HST":
        return {}, HST_HARMLESS.get(instrument, 0)
    return {}, 0


def _parse(option, planes, where):
    """Sum of ``2**bit`` of an option; names are not looked up where `planes` is None."""
    if isinstance(option, bool | np.bool_ | float) or not isinstance(option, str | int | np.integer | Iterable):
        msg = f"{where} must be names or numbers of bits in a list, or a sum of powers of two, not {option!r}"
        raise TypeError(msg)
    if isinstance(option, int | np.integer):
        return _sum_of_bits(option, where)
    inverted = isinstance(option, str) and option.strip().startswith("~")
    items = option.strip().lstrip("~").split(",") if isinstance(option, str) else list(option)
    terms = items[0].split("+") if isinstance(option, str) and len(items) == 1 else [""]
    if all(_is_whole(term) for term in terms):
        value = _sum_of_bits(sum({int(term.strip(), 0) for term in terms}), where)
    else:
        value = sum({1 << _bit(item, planes, where) for item in items or [""]})
    return ALL_BITS & ~value if inverted else value


def _sum_of_bits(number, where):
    if not 0 < number < 2**64:
        msg = f"{where} must be a positive sum of powers of two, not {number}"
        raise ValueError(msg)
    return int(number)


def _bit(item, planes, where):
    """Number of one bit of a list."""
    if isinstance(item, int | np.integer) or _is_whole(item):
        bit = int(item)
        if not 0 <= bit < 64:
            msg = (
                f"{where}: numbers in a list are bits from 0 to 63, not {item}; a sum of values 2**bit must stand alone"
            )
            raise ValueError(msg)
        return bit
    name = str(item).strip().upper().removeprefix("MP_")
    if not re.fullmatch(r"[A-Z]\w*", name):
        msg = f"{where} must be names or numbers of bits between commas, or a sum of powers of two, not {item!r}"
        raise ValueError(msg)
    if planes is None:
        return 0
    if name not in planes:
        choices = f"there are {some_names(planes, 40)}" if planes else "it has no names (MP_...), only numbers"
        msg = f"{where}: the mask has no bit {name}: {choices}"
        raise CatalogError(msg)
    return planes[name]


def _is_whole(item):
    return isinstance(item, str) and re.fullmatch(r"\s*(0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)\s*", item) is not None


def _names(value, planes):
    """Bits of a sum as words: numbers, and names where there are any."""
    names = {bit: name for name, bit in planes.items()}
    if value >= 2**63:
        return f"all but {_names(ALL_BITS & ~value, planes)}" if value != ALL_BITS else "all"
    return ", ".join(names.get(bit, str(bit)) for bit in range(64) if value >> bit & 1)
