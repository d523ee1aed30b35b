"""Files in which GALFIT and imfit leave the parameters of one fit, as tables of their components."""

import re
from pathlib import Path

from astropy.io import fits
from astropy.table import QTable

from galmeasure.exceptions import CatalogError
from galmeasure.io.code_presets import PRESETS, CatalogPreset

__all__ = ["ZERO_POINT", "read_code_file"]

ZERO_POINT = "MAGZPT"
"""Entry of the meta for the zero point that a file states, named as in GALFIT's headers."""

_GALFIT_NAMES = ("XC", "YC", "MAG", "RE", "N", "AR", "PA")
_IMFIT_NAMES = ("X0", "Y0", "PA", "ell", "n", "I_e", "r_e")
_SKIES = ("sky", "flatsky", "tiltedskyplane")
_START = 2**16
"""Bytes of a file that are looked into for what it is."""


def read_code_file(path: Path, preset: CatalogPreset | None) -> QTable | None:
    """Components of a file of GALFIT or imfit.

    Parameters
    ----------
    path : Path
        File that may be one of these.
    preset : CatalogPreset or None
        Preset of the code; files of others than these two are not looked into.

    Returns
    -------
    `~astropy.table.QTable` or None
        One row per Sersic component, numbered by ``id``, in the words of the code; None if the file is none of these.

    Raises
    ------
    CatalogError
        If the file holds components that are neither Sersic profiles nor a sky, or numbers lack.
    """
    if preset in (PRESETS["galfit"], PRESETS["galapagos"]):
        with path.open("rb") as file:
            is_fits = file.read(6) == b"SIMPLE"
        return _galfit_block(path) if is_fits else _galfit_text(path)
    return _imfit_text(path) if preset is PRESETS["imfit"] else None


def _galfit_block(path):
    """Components in the headers of GALFIT's output block, or None."""
    try:
        with fits.open(path) as hdus:
            header = next((hdu.header for hdu in hdus if "COMP_1" in hdu.header), None)
    except OSError:  # the reader of tables says what is wrong
        return None
    if header is None:
        return None
    numbers = [int(key[5:]) for key in header if re.fullmatch(r"COMP_\d+", key)]
    components = [(str(header[f"COMP_{k}"]).strip(), _galfit_cards(header, k)) for k in numbers]
    return _table(path, components, _GALFIT_NAMES, header.get("MAGZPT"))


def _galfit_cards(header, k):
    return {name: str(header[f"{k}_{name}"]) for name in _GALFIT_NAMES if f"{k}_{name}" in header}


def _galfit_text(path):
    """Components of GALFIT's file of parameters (galfit.01), or None."""
    lines = _lines(path)
    if not any(re.match(r"\s*0\)\s*\w+", line) for line in lines):
        return None
    numbered = {"3": "MAG", "4": "RE", "5": "N", "9": "AR", "10": "PA"}
    components, zero_point = [], None
    for line in lines:
        words = line.partition("#")[0].split()
        if len(words) < 2 or not words[0].endswith(")"):
            continue
        key = words[0][:-1]
        if key == "0":
            components.append((words[1], {}))
        elif not components:
            zero_point = words[1] if key == "J" else zero_point
        elif key == "1" and len(words) > 2:
            components[-1][1].update(XC=words[1], YC=words[2])
        elif key in numbered:
            components[-1][1][numbered[key]] = words[1]
    return _table(path, components, _GALFIT_NAMES, zero_point)


def _imfit_text(path):
    """Components of imfit's file of best-fit parameters, or None."""
    lines = _lines(path)
    if not any(re.match(r"\s*FUNCTION\s+\w+", line) for line in lines):
        return None
    components, centre = [], {}
    for line in lines:
        words = line.split()
        if len(words) < 2 or words[0].startswith("#"):
            continue
        error = re.search(r"#\s*\+/-\s*(\S+)", line)
        cell = f"{words[1]} +/- {error[1]}" if error else words[1]
        if words[0] == "FUNCTION":
            components.append((words[1], dict(centre)))
        elif words[0] in ("X0", "Y0"):
            centre[words[0]] = cell
        elif components:
            components[-1][1][words[0]] = cell
    return _table(path, components, _IMFIT_NAMES, None)


def _lines(path):
    """Lines of a text file, none if it is too long to be one of these."""
    with path.open("rb") as file:
        data = file.read(_START + 1)
    return [] if len(data) > _START or b"\0" in data else data.decode("utf-8", "replace").splitlines()


def _table(path, components, names, zero_point):
    """One row per Sersic component."""
    other_kinds = [kind for kind, _ in components if kind.lower() != "sersic" and kind.lower() not in _SKIES]
    profiles = [values for kind, values in components if kind.lower() == "sersic"]
    if other_kinds or not profiles:
        kinds = ", ".join(kind for kind, _ in components)
        msg = f"{path}: components must be Sersic profiles, beside a sky; there are {kinds}"
        raise CatalogError(msg)
    for k, values in enumerate(profiles):
        lacking = [name for name in names if name not in values]
        if lacking:
            msg = f"{path}: component {k + 1} has no {', '.join(lacking)}"
            raise CatalogError(msg)
    table = QTable({"id": list(range(1, len(profiles) + 1))})
    for name in names:
        table[name] = [values[name] for values in profiles]
    try:
        table.meta |= {} if zero_point is None else {ZERO_POINT: float(zero_point)}
    except ValueError:
        msg = f"{path}: the zero point must be a number, not {zero_point!r}"
        raise CatalogError(msg) from None
    return table
