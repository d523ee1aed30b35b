"""Networks to and from files of weights. Nothing is ever unpickled."""

import hashlib
import json
import math
from functools import lru_cache
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from galmeasure.exceptions import WeightsError
from galmeasure.networks.base import PosteriorNetwork
from galmeasure.networks.inputs import NATIVE_SIZE, PSF_SIZE, StampInputs
from galmeasure.networks.registry import ARCHITECTURES, build_network, config_class, network_class
from galmeasure.parameters import SERSIC
from galmeasure.utils.files import in_brief, write_whole
from galmeasure.weights.cards import (
    MAX_BYTES,
    SUFFIX,
    Weights,
    card_config,
    card_digest,
    check_card,
    dump_card,
    parse_header,
    read_bytes,
    side_path,
)
from galmeasure.weights.registry import DEFAULT_WEIGHTS, find_weights
from galmeasure.weights.shapes import check_arguments, check_shapes, network_shapes

__all__ = ["load_network", "probe", "save_weights"]

_WRITTEN = (
    "architecture",
    "encoder",
    "arguments",
    "check",
    "tensors_sha256",
    "card_sha256",
    "sha256",
)  # by save_weights itself
_CONSTANT = "flow.base."  # tensors of the standard normal: always the same, and their names depend on zuko's version
_HALF = 2**16  # a tensor of more numbers is stored in half precision, which no result notices
_POSITIVE = list(SERSIC.indices("flux", "r_eff"))  # of which the probe keeps the logarithms
_SWITCHES = ("clean_psf", "psf_channel")  # arguments of an architecture that are true or false
_LEAST_VARIANCE = 1e-20  # in the probe, of parameters that a network takes as known
_LARGEST = 8192  # number among the arguments of an architecture: a wrong one must not exhaust the memory


def load_network(
    weights: str | PathLike[str] | Weights = DEFAULT_WEIGHTS, device: torch.device | str = "cpu"
) -> PosteriorNetwork:
    """Build a network from its file.

    Parameters
    ----------
    weights : str, path-like or Weights, optional
        Name of shipped weights, path of a file, or what `get_weights` gives.
    device : str or torch.device, optional
        Device of the network.

    Returns
    -------
    galmeasure.networks.SersicPosterior
        In evaluation mode, without gradients. The last few networks are kept and shared: do not change them.

    Raises
    ------
    ValueError
        If there are no weights of that name.
    WeightsError
        If the file is missing, damaged, has changed, or is not one of this architecture; a kind of ``ValueError``.

    See Also
    --------
    save_weights : Writes such files; has an example.
    """
    weights = find_weights(weights, "weights")
    return _load(weights.path, weights.sha256, torch.device(device))


def save_weights(path: str | PathLike[str], network: PosteriorNetwork, card: dict[str, Any]) -> Weights:
    """Write a network and its card.

    The card stands in the header of the file and, with the file's digest, beside it as ``<name>.json``.

    Parameters
    ----------
    path : path-like
        File to write, or to replace; ends in ``.safetensors``.
    network : galmeasure.networks.SersicPosterior
        Network, written in single precision, and in half precision what has more than 65,536 numbers.
    card : dict
        Plain JSON with at least

        * ``prior``, ``description``, ``revision`` (of git), ``date`` (ISO 8601): strings;
        * ``domain``: see `prior_domain`;
        * ``simulation``: options of the simulation;
        * ``training``: ``steps``, ``stamps``, ``batch_size``, ``seed``, ``minutes``, ``device`` and more;
        * ``metrics``: on held-out data.

        ``version`` is that of galmeasure unless given; ``architecture``, ``encoder``, ``arguments``, digests and
        ``check``, the numbers that the network gives for a fixed stamp, are added.

    Returns
    -------
    Weights
        What was written.

    Raises
    ------
    ValueError
        If the card is incomplete or no plain JSON, a tensor is not finite, or the file would have more than 8 MB.
    TypeError
        If ``network`` is of another class.

    Examples
    --------
    >>> import tempfile
    >>> from galmeasure.networks import NetworkConfig, SersicPosterior
    >>> from galmeasure.priors import get_prior
    >>> from galmeasure.weights import load_network, prior_domain, save_weights
    >>> network = SersicPosterior(NetworkConfig(widths=(16, 32), depths=(1, 1), features=32))
    >>> training = {"steps": 0, "stamps": 0, "batch_size": 1, "seed": 0, "minutes": 0.0, "device": "cpu"}
    >>> card = {"prior": "survey", "domain": prior_domain(get_prior("survey")), "simulation": {},
    ...         "training": training, "metrics": {}, "date": "2026-01-31", "revision": "unknown",
    ...         "description": "Not trained at all"}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     weights = save_weights(f"{folder}/mine-v1.safetensors", network, card)
    ...     again = load_network(weights.path)
    >>> weights.name, weights.card["architecture"]
    ('mine-v1', 'SersicPosterior')
    >>> bool((again.base.weight == network.base.weight).all())
    True
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        msg = f"path must end in {SUFFIX}, not {path.name!r}"
        raise ValueError(msg)
    if not path.parent.is_dir():
        msg = f"path must be in a folder that exists, not {str(path.parent)!r}"
        raise ValueError(msg)
    architecture = getattr(getattr(network, "config", None), "architecture", None)
    if architecture not in ARCHITECTURES or not isinstance(network, network_class(architecture)):
        msg = f"network must be a {' or '.join(sorted(ARCHITECTURES))}, not a {type(network).__name__}"
        raise TypeError(msg)
    if not isinstance(card, dict):
        msg = f"card must be a dict, not {type(card).__name__}"
        raise ValueError(msg)
    tensors = {name: _plain(tensor) for name, tensor in _stored(network).items()}
    bad = _first_not_finite(tensors)
    if bad:
        msg = f"network: the tensor {bad} has values that are not finite"
        raise ValueError(msg)
    card = {
        "version": version("galmeasure"),
        **{name: value for name, value in card.items() if name not in _WRITTEN},
        "architecture": architecture,
        "encoder": network.config.encoder,
        "arguments": {name: value for name, value in network.config.as_dict().items() if name != "encoder"},
    }
    dump_card(card)
    check_card(card)
    card["check"] = probe(_build(path, card, tensors))
    if not all(map(math.isfinite, card["check"])):
        msg = "network: what it computes for a galaxy is not finite"
        raise ValueError(msg)
    card["tensors_sha256"] = hashlib.sha256(_data(save(tensors))).hexdigest()
    card["card_sha256"] = card_digest(card)
    content = save(tensors, {"card": dump_card(card)})
    if len(content) > MAX_BYTES:
        msg = f"network: the file would have {len(content) / 1e6:.2f} MB, more than {MAX_BYTES // 10**6} MB"
        raise ValueError(msg)
    sha256 = hashlib.sha256(content).hexdigest()
    write_whole(path, content)
    write_whole(side_path(path), (json.dumps({**card, "sha256": sha256}, indent=1) + "\n").encode())
    return Weights(path.stem, path, sha256, card)


def probe(network: PosteriorNetwork) -> list[float]:
    """Evaluate a network on the CPU for a fixed stamp: two draws, the mean and the log errors, 28 numbers.

    The card keeps them, so that a test notices when other versions of the code or its dependencies compute something
    else from the same tensors. Flux and r_eff are logarithms.
    """
    image, psf = _gaussian(NATIVE_SIZE, 3.0), _gaussian(PSF_SIZE, 1.6)
    gain = torch.full((1,), 1e3)
    inputs = StampInputs(
        image=1500.0 * image, error=torch.ones_like(image), good=torch.ones_like(image, dtype=torch.bool),
        gain=gain, psf=psf, psf_index=torch.zeros(1, dtype=torch.int64),
    )  # fmt: skip
    normal = torch.sin(torch.arange(14.0) ** 2).view(2, 1, SERSIC.size)
    with torch.inference_mode():
        context = network.encode(inputs)
        summary = network.summarise(context)
        numbers = torch.cat([network.sample(context, normal)[:, 0], summary.mean])
        numbers[:, _POSITIVE] = numbers[:, _POSITIVE].log()
        errors = 0.5 * summary.covariance.diagonal(dim1=-2, dim2=-1).clamp_min(_LEAST_VARIANCE).log()
    return [round(value, 5) for value in torch.cat([numbers, errors]).flatten().tolist()]


@lru_cache(maxsize=4)
def _load(path, sha256, device):
    data = read_bytes(path)
    if hashlib.sha256(data).hexdigest() != sha256:
        msg = f"{path}: does not match its sha256; the file is truncated, damaged or was changed"
        raise WeightsError(msg)
    card, _ = parse_header(path, data)
    try:
        tensors = load(data)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as err:
        msg = f"{path}: is not a valid safetensors file ({in_brief(err)})"
        raise WeightsError(msg) from err
    return _build(path, card, tensors).to(device)


def _build(path, card, tensors):
    """Network of a card, with the tensors of a file, on the CPU."""
    network = _empty_network(path, card, tensors)
    expected = _stored(network)
    missing, unknown = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    for rule, names in (("lacks the tensors", missing), ("has unknown tensors", unknown)):
        if names:
            msg = f"{path}: {rule} {', '.join(names[:3])}{' and more' * (len(names) > 3)}"
            raise WeightsError(msg)
    for name, tensor in tensors.items():
        model = expected[name]
        if tensor.shape != model.shape:
            msg = f"{path}: the tensor {name} has the shape {tuple(tensor.shape)}, not {tuple(model.shape)}"
            raise WeightsError(msg)
        dtype = _stored_dtype(model)
        if tensor.dtype != dtype:
            msg = f"{path}: the tensor {name} has the type {tensor.dtype}, not {dtype}"
            raise WeightsError(msg)
    bad = _first_not_finite(tensors)
    if bad:
        msg = f"{path}: the tensor {bad} has values that are not finite"
        raise WeightsError(msg)
    network.load_state_dict({**network.state_dict(), **tensors})
    return network.eval().requires_grad_(False)


def _empty_network(path, card, tensors):
    """Network of the arguments in a card that fit the tensors of its file.

    Neither global random numbers nor defaults of torch matter.
    """
    switches = {name for name, value in card["arguments"].items() if name in _SWITCHES and isinstance(value, bool)}
    numbers = list(_numbers({name: value for name, value in card["arguments"].items() if name not in switches}))
    if any(isinstance(n, bool) or not isinstance(n, int | float) or not 0 <= n <= _LARGEST for n in numbers):
        msg = f"{path}: card['arguments'] must be numbers between 0 and {_LARGEST}"
        raise WeightsError(msg)
    try:
        check_arguments(card["arguments"], config_class(card["architecture"])())
        config = card_config(card)
        check_shapes(path, tensors, network_shapes(config))
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            return build_network(config).float()
    except WeightsError:
        raise
    except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError) as err:
        msg = f"{path}: card['arguments'] do not describe a {card['architecture']} ({in_brief(err)})"
        raise WeightsError(msg) from err


def _numbers(value):
    """Yield what stands in nested dicts and lists."""
    if isinstance(value, dict | list):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _numbers(entry)
    else:
        yield value


def _stored(network):
    """Tensors of a network that a file holds."""
    return {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(_CONSTANT)}


def _stored_dtype(tensor):
    """Type in which a tensor of a network is stored."""
    return torch.float16 if tensor.is_floating_point() and tensor.numel() > _HALF else tensor.dtype


def _plain(tensor):
    """Tensor on the CPU in the type in which it is stored, sharing no memory."""
    tensor = tensor.detach().to("cpu", copy=True).contiguous()
    tensor = tensor.float() if tensor.is_floating_point() else tensor
    return tensor.to(_stored_dtype(tensor))


def _first_not_finite(tensors):
    """Name of the first tensor with a value that is not finite, or None."""
    return next((name for name, tensor in sorted(tensors.items()) if not torch.isfinite(tensor).all()), None)


def _data(content):
    """Bytes of a safetensors file after the header."""
    return content[8 + int.from_bytes(content[:8], "little") :]


def _gaussian(side, sigma):
    """A round Gaussian of sum 1 in the middle, shape ``(1, side, side)``."""
    profile = torch.exp(-0.5 * ((torch.arange(side) - (side - 1) / 2.0) / sigma) ** 2)
    image = profile[:, None] * profile
    return (image / image.sum())[None]
