"""Digests that files carry of what they hold, so that a flipped bit is noticed: independent of how it is written."""

import hashlib
import json

from galmeasure.exceptions import WeightsError

__all__ = ["DIGEST", "check_companion", "companion_card", "json_digest"]

DIGEST = "sha256"
"""Entry of a card, or of a JSON file, that holds its digest."""


_LARGEST = 2**1023
"""Integers beyond this have no floating-point number."""


def json_digest(content):
    """Digest of plain JSON, whatever the order of its keys; the entry that holds the digest is left out.

    Parameters
    ----------
    content : dict
        What a file holds, as JSON reads it.

    Returns
    -------
    str
        Hexadecimal SHA-256.
    """
    rest = {name: value for name, value in content.items() if name != DIGEST}
    return hashlib.sha256(json.dumps(_as_floats(rest), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _as_floats(value):
    """The same with all numbers as floats, since other programs write 1.0 as 1."""
    if isinstance(value, dict):
        return {str(name): _as_floats(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_as_floats(each) for each in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST:
        return float(value)
    return value


def companion_card(card, tensors):
    """Card of a file that lies beside weights, with its digest.

    Parameters
    ----------
    card : dict
        What the file says of itself, plain JSON.
    tensors : dict of str to torch.Tensor
        What the file holds beside the card, on the CPU.

    Returns
    -------
    dict
        The card with the digest of everything in the file.
    """
    return {**card, DIGEST: _digest(card, tensors)}


def check_companion(path, content, card, tensors, known=None):
    """Check a file that lies beside weights against its digest.

    Parameters
    ----------
    path : pathlib.Path
        The file, for messages.
    content : bytes
        Everything in the file, for its checksum.
    card : dict
        Card that was read from the file.
    tensors : dict of str to torch.Tensor
        What it holds beside the card.
    known : str, optional
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
        right = known is None or known == hashlib.sha256(content).hexdigest()
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
