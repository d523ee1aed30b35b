"""PSF images without their pedestals and noise, and those of a batch as networks take them."""

import numpy as np
import pytest
import torch

from galmeasure import Cutouts
from galmeasure.fitters.network_psfs import cleaned_psfs
from galmeasure.networks import CLEANING_SIZE, clean_psfs
from galmeasure.priors import Range
from galmeasure.simulation.psf_knowledge import told_images
from galmeasure.training import PSFKnowledge, draw_psfs
from galmeasure.utils.chunks import padded_chunks


@pytest.fixture(scope="module")
def psfs():
    with torch.inference_mode():
        return draw_psfs(60, Range(2.0, 4.5), (64, 64), generator=torch.Generator().manual_seed(1))


def deviation(found, truth):
    """Largest difference of each image from the true one, over its peak."""
    return ((found - truth).abs().amax((1, 2)) / truth.amax((1, 2))).numpy()


def test_clean_images_stay(psfs):
    found = clean_psfs(psfs.images)
    assert np.median(deviation(found.images, psfs.images)) < 3e-3
    assert deviation(found.images, psfs.images).max() < 0.02
    np.testing.assert_allclose(found.images.sum((1, 2)), 1.0, rtol=1e-5)
    assert float(found.noise.max()) < 1e-3


@pytest.mark.parametrize("level", [-3e-3, -1e-3, 1e-3, 3e-3])
@pytest.mark.parametrize("side", [33, 63])
def test_pedestals_come_off(psfs, level, side):
    peak = psfs.images.amax((1, 2), keepdim=True)
    cut = (CLEANING_SIZE - side) // 2
    told = torch.nn.functional.pad((psfs.images + level * peak)[:, cut : cut + side, cut : cut + side], (cut,) * 4)
    found = clean_psfs(told)
    assert float(found.pedestal.median()) == pytest.approx(level, rel=0.15, abs=3e-4)
    as_told = told / told.sum((1, 2), keepdim=True).abs().clamp_min(0.1)
    assert np.median(deviation(found.images, psfs.images)) < (0.02 if side == 33 else 0.01)
    assert np.median(deviation(found.images, psfs.images)) < 0.4 * np.median(deviation(as_told, psfs.images))


@pytest.mark.parametrize("level", [3e-3, 1e-2])
def test_noise_is_suppressed(psfs, level):
    generator = torch.Generator().manual_seed(2)
    noise = level * psfs.images.amax((1, 2), keepdim=True) * torch.randn(psfs.images.shape, generator=generator)
    found = clean_psfs(psfs.images + noise)
    np.testing.assert_allclose(found.noise, level, rtol=0.15)
    wing = torch.ones_like(psfs.images[0], dtype=torch.bool)
    wing[16:-16, 16:-16] = False
    left = (found.images * found.light[:, None, None] - psfs.images)[:, wing].std(1)
    assert float((left / noise[:, wing].std(1)).max()) < 0.3


def test_spikes_are_no_noise():
    galsim = pytest.importorskip("galsim")
    optics = galsim.OpticalPSF(lam=700, diam=1.2, obscuration=0.3, nstruts=3, strut_thick=0.02)
    image = galsim.Convolve(optics, galsim.Pixel(0.1)).drawImage(nx=63, ny=63, scale=0.1, method="no_pixel").array
    told = torch.from_numpy(image)[None]
    found = clean_psfs(told)
    assert float(found.noise[0]) < 1e-4
    assert deviation(found.images * found.light[:, None, None], told)[0] < 1e-3


def gaussian(side, sigma=1.6, oversampling=1, shift=(0.0, 0.0)):
    steps = (np.arange(side) - (side - 1) / 2) / oversampling
    return np.exp(-((steps[:, None] - shift[0]) ** 2 + (steps - shift[1]) ** 2) / (2 * sigma**2))


def batch_of(psf, **options):
    images = np.random.default_rng(0).normal(size=(2, 40, 40))
    return next(iter(Cutouts(images, psf, error=1.0, **options).batches()))


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (gaussian(25), {}),
        (gaussian(24), {}),
        (gaussian(91), {}),
        (gaussian(75, oversampling=3), {"psf_oversampling": 3}),
        (gaussian(31, shift=(0.3, -0.2)), {}),
    ],
)
def test_psfs_of_a_batch(image, options):
    """Whatever the image is like, the network gets the same star in the middle of 63 native pixels."""
    found = cleaned_psfs(batch_of(image, **options), np.array([0]))
    wanted = gaussian(63) / gaussian(63).sum()
    np.testing.assert_allclose(found.images[0], wanted, atol=5e-3 * wanted.max())
    assert float(found.held[0]) == pytest.approx(1.0, abs=2e-3)
    assert not found.is_dirty.any()


def test_light_that_an_image_holds():
    found = cleaned_psfs(batch_of(gaussian(63), psf_flux=0.9), np.array([0]))
    assert float(found.held[0]) == pytest.approx(0.9, abs=1e-3)


def test_dirty_images_are_named():
    dirty = cleaned_psfs(batch_of(gaussian(33) + 3e-3), np.array([0]))
    assert dirty.is_dirty[0]
    assert dirty.is_unusual[0]
    assert dirty.unusual_rows(np.zeros(2, dtype=int)).tolist() == [True, True]


def test_chunks():
    found = [(chunk.tolist(), count) for chunk, count in padded_chunks(np.arange(11), (1, 4))]
    assert found == [([0, 1, 2, 3], 4), ([4, 5, 6, 7], 4), ([8, 9, 10, 10], 3)]
    assert [count for _, count in padded_chunks(np.arange(5), (1, 4))] == [4, 1]


# What is told


def told(psfs, seed=3, **knowledge):
    options = {"pedestals": 0.0, "noisy": 0.0, "wrong_shapes": 0.0, "cut": 0.0} | knowledge
    with torch.inference_mode():
        return told_images(
            PSFKnowledge(**options), psfs, ("moffat", "gaussian", "double_gaussian", "kolmogorov", "airy"),
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip


def test_perfect_knowledge(psfs):
    assert torch.equal(told(psfs), psfs.images)
    assert PSFKnowledge.perfect() == PSFKnowledge(pedestals=0.0, noisy=0.0, wrong_shapes=0.0, cut=0.0)


def test_pedestals_are_told(psfs):
    change = told(psfs, pedestals=1.0, pedestal=(1e-3, 1e-3)) - psfs.images
    level = (change / psfs.images.amax((1, 2), keepdim=True)).flatten(1)
    wanted = np.minimum(1e-3, 0.4 / 63**2 / psfs.images.amax((1, 2)).numpy())
    np.testing.assert_allclose(level.abs().mean(1), wanted, rtol=1e-2)
    assert 10 < int((level[:, 0] > 0).sum()) < 50  # both signs


def test_noise_is_told(psfs):
    change = told(psfs, noisy=1.0, noise=(2e-3, 2e-3)) - psfs.images
    relative = (change / psfs.images.amax((1, 2), keepdim=True)).flatten(1)
    assert float(relative.std(1).mean()) == pytest.approx(2e-3, rel=0.05)
    beside = (relative[:, 1:] * relative[:, :-1]).mean(1) / relative.square().mean(1)
    assert 10 < int((beside > 0.5).sum()) < 50  # some of it is correlated


def test_images_end_where_little_light_is_left(psfs):
    images = told(psfs, cut=1.0, cut_light=0.98)
    assert float((images * psfs.images).sign().sum((1, 2)).min()) > 9 * 9
    assert float(images.sum((1, 2)).min()) > 0.98 - 1e-4
    assert int((images[:, 0, 0] == 0).sum()) > 30


def test_wrong_shapes_are_slight(psfs):
    images = told(psfs, wrong_shapes=1.0, width_error=0.01, shear_error=0.0)
    width = 1.0 / images.amax((1, 2)).sqrt() * psfs.images.amax((1, 2)).sqrt() - 1.0
    assert 0.004 < float(width.std()) < 0.015


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cut": 1.5}, "cut must lie between 0 and 1"),
        ({"noise": (1e-2, 1e-3)}, "noise must be two numbers between 0 and 1 in ascending order"),
        ({"width_error": 0.5}, "width_error must lie between 0 and 0.2"),
    ],
)
def test_messages(options, message):
    with pytest.raises(ValueError, match=message):
        PSFKnowledge(**options)
