"""Cards of weights: their entries, and their reading from the header of a safetensors file, without torch."""

import hashlib
import json
import math
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from galmeasure.exceptions import WeightsError
from galmeasure.networks.config import DEFAULT_ENCODER
from galmeasure.networks.registry import ARCHITECTURES, DEFAULT_ARCHITECTURE, config_class
from galmeasure.utils.files import in_brief

if TYPE_CHECKING:
    from galmeasure.networks.config import NetworkConfig
    from galmeasure.priors import Prior

__all__ = [
    "MAX_BYTES", "SUFFIX", "Weights", "card_config", "card_digest", "check_card", "check_side_card", "dump_card",
    "parse_header", "prior_domain", "read_bytes", "read_card", "side_path",
]  # fmt: skip

MAX_BYTES = 8 * 10**6
"""Largest size of a file of weights."""

SUFFIX = ".safetensors"

_LENGTH = 8  # bytes that give the length of the header
_DIGESTS = ("tensors_sha256", "card_sha256")
_TYPES = {
    "architecture": str, "arguments": dict, "version": str, "prior": str, "domain": dict, "simulation": dict,
    "training": dict, "date": str, "revision": str, "metrics": dict, "description": str,
}  # fmt: skip
_RANGES = ("n", "r_eff", "snr", "psf_fwhm")
_LIMITS = ("g_max", "centre")
_TRAINING = ("steps", "stamps", "batch_size", "seed", "minutes", "device")


@dataclass(frozen=True)
class Weights:
    """A file of trained weights and its card.

    Parameters
    ----------
    name : str
        Name: that of the registry, or the name of a user's file without its suffix.
    path : pathlib.Path
        Path of the safetensors file.
    sha256 : str
        Hexadecimal digest of the whole file.
    card : dict
        Architecture, prior, domain, training, metrics and more, as `save_weights` lists them.
    """

    name: str
    path: Path
    sha256: str
    card: dict = field(repr=False, hash=False)

    @property
    def prior(self) -> str:
        """Name of the prior that the training drew from."""
        return self.card["prior"]

    @property
    def domain(self) -> dict[str, Any]:
        """Training domain: ``n``, ``r_eff``, ``snr``, ``psf_fwhm`` as ``[lower, upper]``; ``g_max``, ``centre``."""
        return self.card["domain"]

    def get_prior(self) -> "Prior":
        """Return the prior of the training, a `galmeasure.priors.Prior`."""
        from galmeasure.priors import prior_from_dict

        try:
            return prior_from_dict(self.card.get("prior_definition", self.card["prior"]))
        except (ValueError, TypeError, LookupError, AttributeError) as err:
            msg = f"{self.path}: the prior on its card cannot be used ({in_brief(err)})"
            raise WeightsError(msg) from err

    def check_posterior(self, purpose: str) -> None:
        """Check that the network gives the posterior of all parameters.

        Parameters
        ----------
        purpose : str
            What needs it, for the message.

        Raises
        ------
        ValueError
            If the network takes some parameters as known.
        """
        if self.card["architecture"] != DEFAULT_ARCHITECTURE:
            msg = f"{purpose} needs the posterior of all parameters, which weights {self.name} do not give"
            raise ValueError(msg)

    @property
    def config(self) -> "NetworkConfig":
        """Architecture, a `galmeasure.networks.NetworkConfig`."""
        return card_config(self.card)


def card_config(card: dict[str, Any]) -> "NetworkConfig":
    """Configuration of the network of a card.

    Parameters
    ----------
    card : dict
        Card of weights; one that was written before there was a choice has no ``encoder``.

    Returns
    -------
    galmeasure.networks.NetworkConfig
        Configuration, of the class that belongs to the architecture.

    Raises
    ------
    ValueError
        If the architecture, or an argument, is unknown.
    """
    encoder = {"encoder": card["encoder"]} if "encoder" in card else {}
    return config_class(card["architecture"]).from_dict({**card["arguments"], **encoder})


def prior_domain(prior: "Prior") -> dict[str, Any]:
    """Domain of a prior, as a card has it.

    Parameters
    ----------
    prior : galmeasure.priors.Prior
        Prior of the training.

    Returns
    -------
    dict
        Lengths in pixels: ranges ``[lower, upper]`` of ``n``, ``r_eff``, ``snr``, ``psf_fwhm``, and the largest
        ``g_max`` and ``centre``.

    Examples
    --------
    >>> from galmeasure.priors import get_prior
    >>> from galmeasure.weights import prior_domain
    >>> prior_domain(get_prior("survey"))["r_eff"]
    [0.2, 16.0]
    """
    ranges = {name: [getattr(prior, name).lower, getattr(prior, name).upper] for name in _RANGES}
    return {**ranges, "g_max": prior.shear.g_max, "centre": max(prior.centre, 0.5)}


def dump_card(card: dict[str, Any]) -> str:
    """Text of a card in one line, the same for equal cards; raises ValueError if it is not plain JSON."""
    try:
        text = json.dumps(card, sort_keys=True, separators=(",", ":"), allow_nan=False)
        plain = json.loads(text) == card
    except (TypeError, ValueError, RecursionError) as err:
        msg = f"card must be plain JSON ({in_brief(err)})"
        raise ValueError(msg) from err
    if not plain:
        msg = "card must be plain JSON: lists, not tuples, and keys that are strings"
        raise ValueError(msg)
    return text


def card_digest(card: dict[str, Any]) -> str:
    """Digest of a card, but for the entry that holds it."""
    content = {name: value for name, value in card.items() if name != "card_sha256"}
    return hashlib.sha256(dump_card(content).encode()).hexdigest()


def check_card(card: dict[str, Any]) -> None:
    """Check that a card says what it must.

    Raises
    ------
    ValueError
        If an entry is missing or of another kind than it should be; the message begins with ``card``.
    """
    if not isinstance(card, dict):
        msg = f"card must be a dict, not {type(card).__name__}"
        raise ValueError(msg)
    missing = [name for name in _TYPES if name not in card]
    if missing:
        msg = f"card must have the entries {', '.join(missing)}"
        raise ValueError(msg)
    for name, kind in _TYPES.items():
        if not isinstance(card[name], kind):
            msg = f"card[{name!r}] must be a {kind.__name__}, not {type(card[name]).__name__}"
            raise ValueError(msg)
    if card["architecture"] not in ARCHITECTURES:
        names = " or ".join(map(repr, sorted(ARCHITECTURES)))
        msg = f"card['architecture'] must be {names}, not {card['architecture']!r}"
        raise ValueError(msg)
    if not isinstance(card.get("encoder", DEFAULT_ENCODER), str):
        msg = f"card['encoder'] must be a str, not {type(card['encoder']).__name__}"
        raise ValueError(msg)
    missing = [name for name in _TRAINING if name not in card["training"]]
    if missing:
        msg = f"card['training'] must have the entries {', '.join(missing)}"
        raise ValueError(msg)
    _check_domain(card["domain"])
    try:
        datetime.fromisoformat(card["date"])
    except ValueError as err:
        msg = f"card['date'] must be a date of ISO 8601, not {card['date']!r}"
        raise ValueError(msg) from err


def _check_domain(domain):
    """Check the ranges of a domain."""
    for name in _RANGES:
        value = domain.get(name)
        if not (isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)) and value[0] < value[1]):
            msg = f"card['domain'][{name!r}] must be [lower, upper], not {value!r}"
            raise ValueError(msg)
    for name in _LIMITS:
        value = domain.get(name)
        if not (_is_number(value) and value > 0):
            msg = f"card['domain'][{name!r}] must be a positive number, not {value!r}"
            raise ValueError(msg)


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def side_path(path: Path) -> Path:
    """Path of the copy of a file's card, beside it."""
    return path.with_suffix(".json")


def read_bytes(path: Path, count: int = -1) -> bytes:
    """Read the first ``count`` bytes of a file, or all, if it can be one of weights."""
    if path.is_dir():
        msg = f"{path}: is a folder, not a file of weights"
        raise WeightsError(msg)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1 if count < 0 else count)
    except FileNotFoundError as err:
        msg = f"{path}: there is no such file"
        raise WeightsError(msg) from err
    except OSError as err:
        msg = f"{path}: cannot be read ({err.strerror})"
        raise WeightsError(msg) from err
    if len(data) > MAX_BYTES:
        msg = f"{path}: is larger than {MAX_BYTES // 10**6} MB, the most a file of weights may have"
        raise WeightsError(msg)
    return data


def parse_header(path: Path, data: bytes) -> tuple[dict[str, Any], int]:
    """Card and length of the header of a safetensors file that begins with ``data``; the card is checked."""
    end = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    if data[_LENGTH : _LENGTH + 1] != b"{":
        pickled = data.startswith((b"PK", *(bytes([0x80, protocol]) for protocol in range(2, 6))))
        rule = "looks like a pickle, which is never loaded" if pickled else "is not a safetensors file"
        msg = f"{path}: {rule}; weights are files written by galmeasure.weights.save_weights"
        raise WeightsError(msg)
    if len(data) < end:
        msg = f"{path}: ends within its header; it is truncated or damaged"
        raise WeightsError(msg)
    try:
        header = json.loads(data[_LENGTH:end])
    except (ValueError, RecursionError) as err:
        msg = f"{path}: has a header that cannot be read; it is damaged, or not a safetensors file"
        raise WeightsError(msg) from err
    try:
        card = json.loads(header["__metadata__"]["card"])
    except (KeyError, TypeError, ValueError, RecursionError) as err:
        msg = f"{path}: has no card in its header; weights are written by galmeasure.weights.save_weights"
        raise WeightsError(msg) from err
    try:
        check_card(card)
        missing = [name for name in _DIGESTS if not isinstance(card.get(name), str)]
        if missing:
            msg = f"card must have the entries {', '.join(missing)}"
            raise ValueError(msg)
        damaged = card["card_sha256"] != card_digest(card)
    except ValueError as err:
        msg = f"{path}: {in_brief(err)}"
        raise WeightsError(msg) from err
    if damaged:
        msg = f"{path}: the card does not match its sha256; the file is damaged or was changed"
        raise WeightsError(msg)
    return card, end


def read_card(path: Path) -> dict[str, Any]:
    """Card of a file, of which only the header is read."""
    length = int.from_bytes(read_bytes(path, _LENGTH), "little")
    return parse_header(path, read_bytes(path, min(_LENGTH + length, MAX_BYTES)))[0]


def check_side_card(path: Path, card: dict[str, Any], sha256: str) -> None:
    """Check the card beside a file, if there is one, against that of its header and the digest of the file."""
    side = side_path(path)
    try:
        beside = json.loads(side.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError, RecursionError) as err:
        msg = f"{side}: cannot be read as the card of {path.name}"
        raise WeightsError(msg) from err
    if not isinstance(beside, dict) or "sha256" not in beside:
        msg = f"{side}: is not the card of {path.name}: it has no sha256"
        raise WeightsError(msg)
    if beside.pop("sha256") != sha256:
        msg = f"{path}: does not match the sha256 in {side.name}; the file is damaged or was changed"
        raise WeightsError(msg)
    if beside != card:
        msg = f"{side}: differs from the card in the header of {path.name}"
        raise WeightsError(msg)
