"""Corrections to and from files, beside the weights of the network that they correct."""

import json
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from galmeasure.exceptions import WeightsError
from galmeasure.networks.correction import Correction, CorrectionConfig
from galmeasure.utils.digests import check_companion, companion_card
from galmeasure.utils.files import in_brief, write_whole
from galmeasure.weights.cards import Weights
from galmeasure.weights.files import load_network
from galmeasure.weights.registry import known_digest
from galmeasure.weights.shapes import check_arguments, check_shapes, correction_shapes

__all__ = ["correction_card", "correction_path", "load_correction", "save_correction"]

FORMAT = 1
_SUFFIX = ".correction"
_CONSTANT = "flow.base."  # tensors of the standard normal, whose names depend on zuko's version


def correction_path(path: str | PathLike[str]) -> Path:
    """Name of the file that holds the correction of a file of weights.

    Parameters
    ----------
    path : path-like
        Path of a file of weights.

    Returns
    -------
    pathlib.Path
        The same name with the ending ``.correction``.
    """
    return Path(path).with_suffix(_SUFFIX)


def save_correction(weights: Weights, correction: Correction, card: dict[str, Any]) -> Path:
    """Write a correction beside the weights that it belongs to.

    Parameters
    ----------
    weights : Weights
        Weights of the network that is corrected.
    correction : galmeasure.networks.correction.Correction
        Correction to be written.
    card : dict
        Plain JSON about its training: ``galaxies``, ``seed``, ``epochs``, ``metrics``, ``date`` and more.

    Returns
    -------
    pathlib.Path
        The file, in the format of safetensors.
    """
    card = {**card, "format": FORMAT, "arguments": correction.config.as_dict(), "weights": weights.name,
            "weights_sha256": weights.sha256}  # fmt: skip
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in correction.state_dict().items()
        if not name.startswith(_CONSTANT)
    }
    path = correction_path(weights.path)
    card = companion_card(card, tensors)
    write_whole(path, save(tensors, {"card": json.dumps(card, sort_keys=True)}))
    return path


def load_correction(weights: Weights, device: torch.device | str = "cpu") -> Correction | None:
    """Read the correction that lies beside weights.

    Parameters
    ----------
    weights : Weights
        Weights of the network that is corrected.
    device : str, optional
        Torch device of the correction.

    Returns
    -------
    galmeasure.networks.correction.Correction or None
        In evaluation mode, without gradients; None if there is no such file. The last few are kept and shared.

    Raises
    ------
    WeightsError
        If the file is damaged, or belongs to other weights.
    """
    path = correction_path(weights.path)
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    return _load(path, weights, str(device), state.st_mtime_ns, state.st_size)


def correction_card(weights: Weights) -> dict[str, Any] | None:
    """Card of the correction that lies beside weights, or None; raises WeightsError if it cannot be read."""
    path = correction_path(weights.path)
    if not path.exists():
        return None
    return _read(path, weights)[0]


def _read(path, weights):
    """Card and tensors of a file that is not damaged."""
    try:
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        card = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["card"])
        if not isinstance(card, dict):
            msg = "its card is no JSON object"
            raise TypeError(msg)
        if card.get("format") != FORMAT:
            msg = f"{path}: was written by another version of galmeasure"
            raise WeightsError(msg)
        tensors = load(content)
        check_companion(path, content, card, tensors, known_digest(weights.sha256, _SUFFIX))
        return card, tensors
    except WeightsError:
        raise
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, OverflowError, RecursionError) as err:
        msg = f"{path}: is damaged, or no file of a correction ({in_brief(err)})"
        raise WeightsError(msg) from err


@lru_cache(maxsize=4)
def _load(path, weights, device, *_):
    """Read a file; what else identifies it keeps an older one from being taken for it."""
    card, tensors = _read(path, weights)
    if card.get("weights_sha256") != weights.sha256:
        msg = f"{path}: is not of these weights; write it again with galmeasure weights --correct, or remove it"
        raise WeightsError(msg)
    try:
        check_arguments(card["arguments"], CorrectionConfig())
        config = CorrectionConfig(**card["arguments"])
        check_shapes(path, tensors, correction_shapes(config))
        correction = Correction(config, load_network(weights))
        expected = correction.state_dict()
        missing = {name for name in expected if not name.startswith(_CONSTANT)} ^ set(tensors)
        if missing:
            msg = f"tensors do not fit: {', '.join(sorted(missing))}"
            raise ValueError(msg)
        correction.load_state_dict(expected | tensors)
    except WeightsError:
        raise
    except (LookupError, TypeError, ValueError, RuntimeError) as err:
        msg = f"{path}: is damaged, or no file of a correction ({in_brief(err)})"
        raise WeightsError(msg) from err
    return correction.to(torch.device(device)).eval().requires_grad_(False)
