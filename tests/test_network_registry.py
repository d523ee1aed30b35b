"""A new encoder is one class and one line of the registry: trained, saved, loaded and measured with."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from galmeasure import NeuralSersicFitter
from galmeasure.exceptions import WeightsError
from galmeasure.networks import NetworkConfig, PosteriorNetwork, SersicPosterior, build_network, register_encoder
from galmeasure.networks.inputs import N_MOMENTS, N_NUMBERS
from galmeasure.networks.registry import ARCHITECTURES, ENCODERS, config_class, encoder_class, network_class
from galmeasure.simulation.cutouts import simulate_cutouts
from galmeasure.training import read_training_config, train
from galmeasure.weights import get_weights, list_weights, load_network
from galmeasure.weights.shapes import check_shapes, network_shapes

SMOKE = read_training_config("smoke")


class MomentEncoder(torch.nn.Module):
    """Two layers that read the moments of a stamp and the embedding of its PSF."""

    def __init__(self, hidden, features, psf_features):
        super().__init__()
        self.wide = torch.nn.Linear(N_MOMENTS + N_NUMBERS + psf_features, hidden)
        self.narrow = torch.nn.Linear(hidden, features)

    @classmethod
    def from_config(cls, config):
        return cls(config.encoder_options["hidden"], config.features, config.psf_features)

    @staticmethod
    def tensor_shapes(config):
        yield "narrow.weight", (config.features, config.encoder_options["hidden"])

    def forward(self, views, psf, *, bf16=False):
        return self.narrow(torch.relu(self.wide(torch.cat([views.moments, views.numbers, psf], 1))))


@pytest.fixture
def moments(monkeypatch):
    """Name of the encoder, which is registered for the time of a test."""
    monkeypatch.setattr("galmeasure.networks.registry.ENCODERS", ENCODERS.copy())
    register_encoder("moments", MomentEncoder)
    return "moments"


def test_new_encoder(moments, tmp_path):
    network = replace(SMOKE.network, encoder=moments, encoder_options={"hidden": 24})
    weights = train(replace(SMOKE, name="mine", network=network), tmp_path, progress_bar=False)
    assert weights.card["architecture"] == "SersicPosterior"
    assert weights.card["encoder"] == "moments"
    assert weights.card["arguments"]["encoder_options"] == {"hidden": 24}
    assert get_weights(weights.path).config == network
    loaded = load_network(weights.path)
    assert isinstance(loaded.encoder, MomentEncoder)
    assert isinstance(loaded, PosteriorNetwork)
    cutouts, _ = next(simulate_cutouts(SMOKE.simulation, 8, seed=2))
    table = NeuralSersicFitter(weights=weights.path).fit(cutouts)
    assert len(table) == 8
    assert np.isfinite(np.asarray(table["n_fit"])).sum() >= 6


def test_stored_sizes_are_checked(moments, tmp_path):
    """Before memory is taken for a network."""
    network = replace(SMOKE.network, encoder=moments, encoder_options={"hidden": 24})
    tensors = build_network(network).state_dict()
    check_shapes(tmp_path, tensors, network_shapes(network))
    with pytest.raises(WeightsError, match=r"encoder.narrow.weight has the shape \(32, 24\), not 32 x 8000"):
        check_shapes(tmp_path, tensors, network_shapes(replace(network, encoder_options={"hidden": 8000})))


def test_encoder_that_this_program_does_not_have(moments, tmp_path, monkeypatch):
    network = replace(SMOKE.network, encoder=moments, encoder_options={"hidden": 24})
    weights = train(replace(SMOKE, name="mine", network=network, steps=1), tmp_path, progress_bar=False)
    monkeypatch.setattr("galmeasure.networks.registry.ENCODERS", {"mixer": ENCODERS["mixer"]})
    with pytest.raises(WeightsError, match="encoder must be one of mixer, not 'moments'"):
        load_network(weights.path)


def test_names(moments):
    register_encoder(moments, MomentEncoder)
    with pytest.raises(ValueError, match="name must be new, and 'mixer' is that of another encoder"):
        register_encoder("mixer", MomentEncoder)
    with pytest.raises(ValueError, match="encoder must be one of .*, mixer, moments, .*, not 'transformer'"):
        build_network(NetworkConfig(encoder="transformer"))
    with pytest.raises(ValueError, match="architecture must be one of PointPosterior, SersicPosterior, not 'Xception'"):
        network_class("Xception")


@pytest.mark.parametrize("name", ENCODERS)
def test_registered_encoders(name):
    """Their shapes are those of their tensors."""
    encoder = encoder_class(name).from_config(NetworkConfig())
    tensors = encoder.state_dict()
    for tensor, shape in encoder_class(name).tensor_shapes(NetworkConfig()):
        assert all(b in (a, None) for a, b in zip(tensors[tensor].shape, shape, strict=True))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_registered_architectures(name):
    assert config_class(name).architecture == name
    network = build_network(config_class(name)())
    assert isinstance(network, network_class(name))
    assert isinstance(network, PosteriorNetwork)
    assert set(network.domain) == {"n", "r_eff", "g_max", "centre"}


def test_files_from_before_there_was_a_choice():
    before = [weights for weights in list_weights() if "encoder" not in weights.card]
    assert {weights.name for weights in before} == {"study-v2", "survey-v3"}
    for weights in before:
        assert weights.config.encoder == "mixer"
        assert isinstance(load_network(weights), SersicPosterior)
        assert weights.card["arguments"].items() <= weights.config.as_dict().items()


def test_configuration_as_plain_values():
    config = NetworkConfig(encoder="attention", encoder_options={"heads": 4, "widths": (8, 16)})
    plain = json.loads(json.dumps(config.as_dict()))
    assert plain["encoder_options"] == {"heads": 4, "widths": [8, 16]}
    assert NetworkConfig.from_dict(plain) == config
    assert hash(config) == hash(NetworkConfig(encoder="attention"))


def test_configuration_file(moments, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\n[network]\nencoder = "moments"\n[network.encoder_options]\nhidden = 24\nsides = [3, 5]\n'
    )
    network = read_training_config(path).network
    assert network.encoder == "moments"
    assert network.encoder_options == {"hidden": 24, "sides": (3, 5)}
