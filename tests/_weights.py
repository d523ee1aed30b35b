"""Small networks and files of weights of the tests, and ways to damage them."""

import hashlib
import json
from pathlib import Path

import safetensors.torch
import torch

import galmeasure
from galmeasure.networks import NetworkConfig, SersicPosterior
from galmeasure.priors import get_prior
from galmeasure.weights import cards, prior_domain, save_weights
from galmeasure.weights.registry import update_registry

FOLDER = Path(galmeasure.__file__).parent / "weights"
SMALL = {"widths": (16, 32), "depths": (1, 1), "features": 32, "psf_features": 16, "flow_hidden": 16,
         "flow_context": 16, "groups": 2}  # fmt: skip
TENSOR = "base.weight"


def make_network(seed=0, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SersicPosterior(NetworkConfig(**{**SMALL, **options}))


def make_card(**changes):
    training = {"steps": 10, "stamps": 640, "batch_size": 64, "seed": 1, "minutes": 0.5, "device": "cpu"}
    card = {
        "prior": "survey", "domain": prior_domain(get_prior("survey")), "simulation": {"gain": None},
        "training": training, "metrics": {"rmse": {"n": 0.5}}, "date": "2026-01-31T12:00:00", "revision": "0" * 40,
        "description": "A test, σ = 1",
    }  # fmt: skip
    return {**card, **changes}


def lonely(path):
    """Remove the card beside a file."""
    path.with_suffix(".json").unlink()
    return path


def split(path):
    """Header and data of a file."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def rewrite(path, tensors=None, **changes):
    """A file that was made to be consistent, with other tensors or another card; no card beside it."""
    header, data = split(path)
    card = {**json.loads(header["__metadata__"]["card"]), **changes}
    tensors = safetensors.torch.load_file(path) if tensors is None else tensors
    data = split_data(safetensors.torch.save(tensors))
    card["tensors_sha256"] = hashlib.sha256(data).hexdigest()
    card["card_sha256"] = cards.card_digest(card)
    path.write_bytes(safetensors.torch.save(tensors, {"card": json.dumps(card)}))
    return lonely(path)


def split_data(content):
    return content[8 + int.from_bytes(content[:8], "little") :]


def ship(monkeypatch, folder, names):
    """A folder of shipped weights in place of the package's."""
    folder.mkdir(exist_ok=True)
    for seed, name in enumerate(names):
        save_weights(folder / f"{name}.safetensors", make_network(seed=seed), make_card())
    registry = update_registry(folder)
    monkeypatch.setattr("galmeasure.weights.registry._FOLDER", folder)
    return registry
