"""Encoders of the registry: trained, saved, loaded and measured with; maps of attention."""

import dataclasses

import numpy as np
import pytest
import torch

from galmeasure import NeuralSersicFitter, read_cutouts
from galmeasure.networks import build_network, make_views
from galmeasure.networks.encoders.attention import AttentionEncoder
from galmeasure.networks.registry import ENCODERS
from galmeasure.training import Trainer, read_training_config, train
from galmeasure.training.pool import StampPool
from galmeasure.weights import load_network
from galmeasure.weights.shapes import network_shapes

SMOKE = read_training_config("smoke")
OPTIONS = {
    "attention": {"width": 16, "depth": 2, "heads": 2},
    "cnn": {"width": 8, "depth": 1},
    "residual": {"width": 8, "depth": 1},
    "xception": {"first": 4, "width": 8, "depth": 2},
}


def config(encoder):
    """Configuration of a training of seconds."""
    network = dataclasses.replace(SMOKE.network, encoder=encoder, encoder_options=OPTIONS.get(encoder, {}))
    return dataclasses.replace(SMOKE, name="mine", network=network, steps=3)


@pytest.fixture(scope="module")
def stamps():
    pool = StampPool(SMOKE.simulation, capacity=64, seed=3, clean_psf=SMOKE.network.clean_psf)
    list(pool.fill())
    return pool.draw(12)[0]


@pytest.mark.parametrize("encoder", sorted(set(ENCODERS) & (set(OPTIONS) | {"mixer"})))
def test_train_save_load_measure(encoder, tmp_path):
    weights = train(config(encoder), tmp_path, progress_bar=False)
    assert weights.card["encoder"] == encoder
    assert load_network(weights.path).config == config(encoder).network
    table = NeuralSersicFitter(weights=weights.path).fit(read_cutouts("examples/demo_catalog.fits"))
    assert np.isfinite(np.asarray(table["n_fit"])).sum() > 0.8 * len(table)


@pytest.mark.parametrize("encoder", sorted(OPTIONS))
def test_every_option_can_be_told_from_the_tensors(encoder):
    """Another value of an option gives another shape of a tensor that is looked at."""
    network = config(encoder).network
    shapes = dict(network_shapes(network))
    tensors = build_network(network).state_dict()
    for name, shape in shapes.items():
        assert len(shape) == tensors[name].ndim
        assert all(length in (None, stored) for length, stored in zip(shape, tensors[name].shape, strict=True))
    for option, size in OPTIONS[encoder].items():
        other = dataclasses.replace(network, encoder_options=OPTIONS[encoder] | {option: 2 * size})
        assert dict(network_shapes(other)) != shapes


def test_attention_sums_to_one(stamps):
    encoder = AttentionEncoder(features=32, psf_features=8, width=16, depth=2, heads=2).eval()
    views, psf = make_views(stamps), torch.randn(len(stamps), 8)
    with torch.inference_mode():
        near, far = encoder.attention_maps(views, psf)
        layers = encoder.layer_attention(views, psf)
        features = encoder(views, psf)
    assert near.shape == (len(stamps), 2, 8, 8)
    assert far.shape == (len(stamps), 2, 4, 4)
    torch.testing.assert_close(near.sum((2, 3)) + far.sum((2, 3)), torch.ones(len(stamps), 2))
    assert layers.shape == (len(stamps), 2, 2, 80, 80)
    torch.testing.assert_close(layers.sum(-1), torch.ones(len(stamps), 2, 2, 80))
    assert features.shape == (len(stamps), 32)


def test_attention_sees_where_a_patch_is(stamps):
    """A stamp and its mirror image are told apart, which pooling without places could not."""
    encoder = AttentionEncoder(features=32, psf_features=8, width=16, depth=2, heads=2).eval()
    psf = torch.zeros(len(stamps), 8)
    flipped = dataclasses.replace(stamps, image=stamps.image.flip(-1), good=stamps.good.flip(-1))
    with torch.inference_mode():
        assert not torch.allclose(encoder(make_views(stamps), psf), encoder(make_views(flipped), psf), atol=1e-3)


def test_width_must_fit_the_heads():
    with pytest.raises(ValueError, match="width must be a multiple of heads = 3, not 16"):
        AttentionEncoder(width=16, heads=3)


def test_held_out_stamps_are_measured_without_dropout(tmp_path):
    network = dataclasses.replace(SMOKE.network, encoder="cnn", encoder_options=OPTIONS["cnn"] | {"dropout": 0.5})
    trainer = Trainer(dataclasses.replace(config("cnn"), network=network), tmp_path)
    trainer.run(progress_bar=False)
    assert trainer.validate()["loss"] == trainer.validate()["loss"]
    assert trainer.network.training
