"""The registry of the weights that galmeasure ships, and the search for weights by name or path."""

import hashlib
import json
import os
import re
from os import PathLike
from pathlib import Path

from galmeasure.exceptions import WeightsError
from galmeasure.weights.cards import SUFFIX, Weights, check_side_card, parse_header, read_bytes, read_card

__all__ = [
    "DEFAULT_WEIGHTS", "MAX_TOTAL_BYTES", "find_weights", "get_weights", "known_digest", "list_weights",
    "update_registry",
]  # fmt: skip

DEFAULT_WEIGHTS = "survey-v3"
"""Weights that are used unless others are asked for."""

MAX_TOTAL_BYTES = 40 * 10**6
"""Largest size of all files shipped."""

COMPANIONS = (".ood", ".correction")
"""Endings of the files that may lie beside weights, and whose digests are in the registry as well."""

_FOLDER = Path(__file__).parent
_REGISTRY = "registry.json"


def list_weights() -> list[Weights]:
    """Weights that galmeasure ships.

    Only the headers of the files are read.

    Returns
    -------
    list of Weights
        In the order of their names.

    Raises
    ------
    WeightsError
        If a file is missing or damaged.

    Examples
    --------
    >>> from galmeasure import list_weights
    >>> for weights in list_weights():  # doctest: +SKIP
    ...     print(weights.name, weights.prior)
    study-v2 study
    survey-v3 galaxies
    survey-v3-fast galaxies
    """
    return [_shipped(name, entry) for name, entry in sorted(_read_registry(_FOLDER).items())]


def get_weights(name: str | PathLike[str] | Weights = DEFAULT_WEIGHTS) -> Weights:
    """Weights of a name, or from a file.

    Parameters
    ----------
    name : str or path-like, optional
        Name of weights that galmeasure ships, or path of a file written by `galmeasure.weights.save_weights`.

    Returns
    -------
    Weights
        Name, path, digest and card.

    Raises
    ------
    ValueError
        If there are no weights of that name.
    WeightsError
        If the file is missing, damaged or not one of weights; a kind of ``ValueError``.
    TypeError
        If ``name`` is neither a string nor a path.

    Examples
    --------
    >>> from galmeasure import get_weights
    >>> get_weights("no-such-weights")
    Traceback (most recent call last):
    ...
    ValueError: name must be that of shipped weights or the path of a .safetensors file, not 'no-such-weights'
    """
    return find_weights(name, "name")


def find_weights(value: str | PathLike[str] | Weights, argument: str) -> Weights:
    """`get_weights`, or the argument itself if it is a Weights; messages name the user's argument."""
    if isinstance(value, Weights):
        return value
    if not isinstance(value, str | os.PathLike):
        msg = f"{argument} must be a name or a path, not {type(value).__name__}"
        raise TypeError(msg)
    registry = _read_registry(_FOLDER)
    if value in registry:
        return _shipped(value, registry[value])
    if isinstance(value, os.PathLike) or value.endswith(SUFFIX) or _exists(value):
        return _read_weights(Path(value))
    names = ", ".join(sorted(registry)) or "none in this version"
    msg = f"{argument} must be that of shipped weights ({names}) or the path of a {SUFFIX} file, not {value!r}"
    raise ValueError(msg)


def update_registry(folder: str | PathLike[str] | None = None, *, replace: bool = False) -> dict[str, dict[str, str]]:
    """Write the registry anew from the files in a folder; for maintainers, before a release.

    Parameters
    ----------
    folder : path-like, optional
        Folder of the files; that of the package by default.
    replace : bool, optional
        Let entries change or go. Names that were released are never used again, so this is for files that
        nobody has yet.

    Returns
    -------
    dict
        The registry: ``{name: {"file": ..., "sha256": ..., ".ood": ..., ".correction": ...}}``; the last two are
        digests of the files of the same name, where there are any.

    Raises
    ------
    ValueError
        If a name has no version, an entry would change, the files are too large together, or one has no card beside
        it.
    WeightsError
        If a file is damaged or its cards disagree.
    """
    folder = _FOLDER if folder is None else Path(folder)
    released = _read_registry(folder) if (folder / _REGISTRY).exists() else {}
    files = [_read_weights(path) for path in sorted(folder.glob(f"*{SUFFIX}"))]
    registry = {weights.name: _entry(weights) for weights in files}
    for weights in files:
        if not re.fullmatch(r"[a-z][a-z0-9-]*-v[0-9]+(-[a-z]+)?", weights.name):
            msg = f"{weights.path.name}: names of shipped weights hold their version, such as survey-v1"
            raise ValueError(msg)
        if not weights.path.with_suffix(".json").exists():
            msg = f"{weights.path.name}: shipped weights have their card beside them"
            raise ValueError(msg)
    changed = sorted(name for name, entry in released.items() if not entry.items() <= registry.get(name, {}).items())
    if changed and not replace:
        msg = f"folder: the weights {', '.join(changed)} were released before; give what is new a new name"
        raise ValueError(msg)
    if sum(weights.path.stat().st_size for weights in files) > MAX_TOTAL_BYTES:
        msg = f"folder: the files have more than {MAX_TOTAL_BYTES // 10**6} MB together"
        raise ValueError(msg)
    (folder / _REGISTRY).write_text(json.dumps(registry, indent=1) + "\n", encoding="utf-8")
    return registry


def known_digest(sha256: str, suffix: str) -> str | None:
    """Digest of a file that came with weights.

    Parameters
    ----------
    sha256 : str
        Digest of the file of weights.
    suffix : str
        Ending of the file beside it, one of ``COMPANIONS``.

    Returns
    -------
    str or None
        Its digest; None if the weights did not come with galmeasure, or without such a file.
    """
    return next((e.get(suffix) for e in _read_registry(_FOLDER).values() if e["sha256"] == sha256), None)


def _entry(weights):
    """Entry of the registry for a file and those beside it."""
    beside = {suffix: weights.path.with_suffix(suffix) for suffix in COMPANIONS}
    digests = {s: hashlib.sha256(path.read_bytes()).hexdigest() for s, path in beside.items() if path.exists()}
    return {"file": weights.path.name, "sha256": weights.sha256, **digests}


def _read_registry(folder):
    return json.loads((folder / _REGISTRY).read_text(encoding="utf-8"))


def _shipped(name, entry):
    """Weights of an entry of the registry."""
    path = _FOLDER / entry["file"]
    return Weights(name, path, entry["sha256"], read_card(path))


def _read_weights(path):
    """Weights of any file; all of it is read and checked against the digests in its cards."""
    data = read_bytes(path)
    card, end = parse_header(path, data)
    if hashlib.sha256(data[end:]).hexdigest() != card["tensors_sha256"]:
        msg = f"{path}: the tensors do not match their sha256; the file is truncated, damaged or was changed"
        raise WeightsError(msg)
    sha256 = hashlib.sha256(data).hexdigest()
    check_side_card(path, card, sha256)
    return Weights(path.stem, path, sha256, card)


def _exists(value):
    """True if a string is the path of something; the empty string is not."""
    try:
        return bool(value) and Path(value).exists()
    except (OSError, ValueError):  # too long, or with a null character
        return False
