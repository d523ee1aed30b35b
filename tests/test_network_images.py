"""Images that networks make: denoised and decoded stamps; losses by noiseless images; the stages of a training."""

import dataclasses

import numpy as np
import pytest
import torch
from astropy import units as u

from galmeasure import NeuralSersicFitter, read_cutouts
from galmeasure.networks import build_network
from galmeasure.networks.bodies.denoisers import EDSR, RDN
from galmeasure.training import Trainer, read_training_config, train
from galmeasure.training.pool import StampPool, orient

SIZES = {"first": 4, "width": 8, "depth": 2}
DENOISER = {"denoiser_width": 8, "denoiser_depth": 2}


def short(name, **changes):
    """Configuration of a short training of a small network."""
    config = read_training_config(name)
    options = {"widths": (4, 8, 8, 8, 8)} if config.network.encoder == "autoencoder" else SIZES | DENOISER
    network = dataclasses.replace(config.network, encoder_options=options)
    base = {"steps": 6, "batch_size": 16, "pool": 128, "held_out": 64, "validate_every": 100, "bf16": False}
    base |= {"log_every": 2, "start": None, "network": network}
    return dataclasses.replace(config, **(base | changes))


@pytest.fixture(scope="module")
def stamps():
    pool = StampPool(read_training_config("xception-set1-v1").simulation, capacity=128, seed=5)
    list(pool.fill())
    return pool.draw(64)


@pytest.fixture(scope="module")
def edsr(tmp_path_factory):
    return train(short("edsr-xception-set1-v1", losses=()), tmp_path_factory.mktemp("edsr"), progress_bar=False)


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    return train(short("autoencoder-set3-v1"), tmp_path_factory.mktemp("auto"), progress_bar=False)


@pytest.fixture(scope="module")
def cutouts():
    return read_cutouts("examples/demo_catalog.fits")


@pytest.mark.parametrize("denoiser", [EDSR(8, 2), RDN(8, 2, 4, 2)], ids=["edsr", "rdn"])
def test_denoisers_begin_with_the_image_and_learn(denoiser, stamps):
    inputs, _ = stamps
    assert torch.equal(denoiser(inputs.image), inputs.image)
    optimizer = torch.optim.Adam(denoiser.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        error = (denoiser(inputs.image) - inputs.noiseless).abs().mean()
        error.backward()
        optimizer.step()
    assert error < 0.5 * (inputs.image - inputs.noiseless).abs().mean()


def test_noiseless_images_turn_with_the_stamps(stamps):
    inputs, truth = stamps
    clean = dataclasses.replace(inputs, image=inputs.noiseless)
    for element in range(8):
        turned, _ = orient(clean, truth, element)
        assert torch.equal(turned.image, turned.noiseless)
    residual = (inputs.image - inputs.noiseless) / inputs.error
    assert abs(float(residual[:, :8].std()) - 1.0) < 0.03


def test_labels_do_not_reach_the_denoiser(stamps):
    inputs, truth = stamps
    network = build_network(short("edsr-xception-set1-v1").network)
    losses = network.loss(inputs, truth)
    assert set(losses) == {"mean", "covariance", "image"}
    losses["mean"].backward()
    assert all(tensor.grad is None for tensor in network.body.denoiser.parameters())
    network.loss(inputs, truth, only=("image",))["image"].backward()
    assert any(tensor.grad is not None for tensor in network.body.denoiser.parameters())


def test_stages_train_what_they_name(tmp_path):
    first = Trainer(short("edsr-set1-v1"), tmp_path / "first")
    before = {name: tensor.clone() for name, tensor in first.network.state_dict().items()}
    first.run(progress_bar=False)
    after = first.network.state_dict()
    assert torch.equal(before["body.labels.weight"], after["body.labels.weight"])
    assert not torch.equal(before["body.denoiser.tail.weight"], after["body.denoiser.tail.weight"])
    weights = first.save()
    assert weights.card["metrics"]["loss"]["image"] > 0.0
    second = Trainer(short("edsr-xception-set1-v1", start=str(weights.path)), tmp_path / "second")
    trained = second.network.state_dict()["body.denoiser.tail.weight"].clone()
    second.run(progress_bar=False)
    assert torch.equal(second.network.state_dict()["body.denoiser.tail.weight"], trained)


def test_decoder_draws_unit_flux(stamps):
    inputs, truth = stamps
    network = build_network(short("autoencoder-set3-v1").network).eval()
    labels = network._to_labels(truth, torch.ones(len(truth)))
    with torch.inference_mode():
        light = network.body.decode(labels, inputs.psf)
    assert light.shape == inputs.image.shape
    assert (light > 0).all()
    assert (light.sum((1, 2)) < 1.0).all()
    losses = network.loss(inputs, truth)
    losses["image"].backward()
    assert network.body.decoder.last.weight.grad.any()
    assert network.body.layers[0].weight.grad.any()  # the images teach the encoder as well


def test_denoise(edsr, cutouts):
    fitter = NeuralSersicFitter(weights=edsr.path)
    images = fitter.denoise(cutouts)
    assert len(images) == len(cutouts)
    for row, image in enumerate(images):
        assert image.shape == tuple(cutouts.shapes[row])
        assert image.unit == cutouts.unit
    assert np.isfinite(images[0].value).all()
    assert len(fitter.fit(cutouts)) == len(cutouts)


def test_stamps_larger_and_smaller_than_the_window(edsr):
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:91, :70]
    large = 300.0 * np.exp(-np.hypot(x - 34.5, y - 45.0) / 3.0) + rng.normal(size=x.shape)
    psf = np.exp(-((np.mgrid[-8:9, -8:9] ** 2).sum(0)) / 4.0)
    image, small = NeuralSersicFitter(weights=edsr.path).denoise([large, large[30:61, 20:50]], psf, error=1.0)
    assert np.isfinite(image).sum() == 64 * 64
    assert np.isfinite(image[45, 34])
    assert np.isfinite(small).all()
    assert not isinstance(image, u.Quantity)


def test_reconstruct(autoencoder, cutouts):
    fitter = NeuralSersicFitter(weights=autoencoder.path)
    images, table = fitter.reconstruct(cutouts[:3]), fitter.fit(cutouts[:3])
    for image, flux in zip(images, table["flux_fit"], strict=True):
        assert np.nansum(image) <= 1.01 * abs(flux)
        assert (image >= 0).all()


def test_stamp_without_good_pixels(autoencoder):
    psf = np.exp(-((np.mgrid[-8:9, -8:9] ** 2).sum(0)) / 4.0)
    (image,) = NeuralSersicFitter(weights=autoencoder.path).reconstruct(np.full((1, 32, 32), np.nan), psf, error=1.0)
    assert np.isnan(image).all()


@pytest.mark.parametrize("method", ["denoise", "reconstruct"])
def test_weights_that_make_no_images(method, cutouts):
    with pytest.raises(ValueError, match=rf"weights must be .* for {method}, and survey-v3 have no de(noiser|coder)"):
        getattr(NeuralSersicFitter(), method)(cutouts)


def test_attention_maps(cutouts, tmp_path):
    smoke = read_training_config("smoke")
    network = dataclasses.replace(
        smoke.network, encoder="attention", encoder_options={"width": 16, "depth": 1, "heads": 2}
    )
    weights = train(dataclasses.replace(smoke, name="mine", network=network, steps=2), tmp_path, progress_bar=False)
    maps = NeuralSersicFitter(weights=weights.path).attention_maps(cutouts)
    for row, image in enumerate(maps):
        assert image.shape == tuple(cutouts.shapes[row])
        if image.shape == (64, 64):
            assert np.nansum(image) == pytest.approx(1.0, abs=1e-5)
            assert np.ptp(image[32:36, 32:36]) < 1e-9
            assert image[0, 0] < image[32, 32]
    with pytest.raises(ValueError, match="weights must have an encoder of attention for attention_maps"):
        NeuralSersicFitter().attention_maps(cutouts)
