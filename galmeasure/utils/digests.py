"""Digests that files carry of what they hold, so that a flipped bit is noticed: independent of how it is written."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from galmeasure.exceptions import WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

__all__ = ["DIGEST", "check_companion", "companion_card", "json_digest"]

DIGEST = "sha256"
"""Entry of a card, or of a JSON file, that holds its digest."""


_LARGEST = 2**1023
"""Integers beyond this have no floating-point number."""


def json_digest(content: Mapping[str, object]) -> str:
    """Compute the digest of plain JSON, whatever the order of its keys; the entry that holds the digest is left out.

    Parameters
    ----------
    content : dict
        Content of a file, as JSON reads it.

    Returns
    -------
    str
        SHA-256 in hexadecimal digits.
    """
    digested = {name: value for name, value in content.items() if name != DIGEST}
    return hashlib.sha256(json.dumps(_as_floats(digested), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _as_floats(value):
    """Convert all numbers to floats, since other programs write 1.0 as 1."""
    if isinstance(value, dict):
        return {str(name): _as_floats(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_as_floats(entry) for entry in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST:
        return float(value)
    return value


def companion_card(card: Mapping[str, object], tensors: Mapping[str, Any]) -> dict[str, object]:
    """Add the digest to the card of a file that lies beside weights.

    Parameters
    ----------
    card : dict
        Card of the file, plain JSON.
    tensors : dict of str to torch.Tensor
        Tensors of the file beside the card, on the CPU.

    Returns
    -------
    dict
        The card with the digest of everything in the file.
    """
    return {**card, DIGEST: _digest(card, tensors)}


def check_companion(
    path: Path,
    content: bytes,
    card: Mapping[str, object],
    tensors: Mapping[str, Any],
    shipped_sha256: str | None = None,
) -> None:
    """Check a file that lies beside weights against its digest.

    Parameters
    ----------
    path : pathlib.Path
        Path of the file, for messages.
    content : bytes
        Everything in the file, for its checksum.
    card : dict
        Card that was read from the file.
    tensors : dict of str to torch.Tensor
        Tensors that the file holds beside the card.
    shipped_sha256 : str, optional
        SHA-256 of the whole file that came with galmeasure. It counts where the card has no digest, as in files of
        earlier versions; where neither is there nothing is checked.

    Raises
    ------
    WeightsError
        If the digest is another one.
    """
    if DIGEST in card:
        right = card[DIGEST] == _digest(card, tensors)
    else:
        right = shipped_sha256 is None or shipped_sha256 == hashlib.sha256(content).hexdigest()
    if not right:
        msg = f"{path}: does not match its sha256; the file is damaged or was changed"
        raise WeightsError(msg)


def _digest(card, tensors):
    digest = hashlib.sha256(json_digest(card).encode())
    for name in sorted(tensors):
        array = tensors[name].detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
