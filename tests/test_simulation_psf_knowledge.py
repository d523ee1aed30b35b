"""How often PSF images are told wrong, and by how much."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from galmeasure.priors import Range
from galmeasure.simulation.psf_knowledge import told_images
from galmeasure.simulation.psfs import FAMILIES
from galmeasure.training import PSFKnowledge, draw_psfs

COUNT = 250
SIDE = 63


@pytest.fixture(scope="module")
def psfs():
    with torch.inference_mode():
        return draw_psfs(COUNT, Range(1.8, 4.0), (64, 64), generator=torch.Generator().manual_seed(7))


def told(psfs, seed=3, **knowledge):
    options = {"pedestals": 0.0, "noisy": 0.0, "wrong_shapes": 0.0, "cut": 0.0} | knowledge
    with torch.inference_mode():
        generator = torch.Generator().manual_seed(seed)
        return told_images(PSFKnowledge(**options), psfs, FAMILIES, generator=generator)


def relative(images, psfs):
    """Change of the pixels over the peak, shape ``(M, side**2)``."""
    return ((images - psfs.images) / psfs.images.amax((1, 2), keepdim=True)).flatten(1)


@pytest.mark.parametrize("name", ["pedestals", "noisy", "wrong_shapes", "cut"])
def test_fractions(psfs, name):
    """Images are wrong as often as was asked for, and the others are the true ones to the last bit."""
    share = 0.3
    changed = (told(psfs, **{name: share, "cut_light": 0.9}) != psfs.images).flatten(1).any(1).double().mean().item()
    if name == "cut":  # a compact PSF may end before the place of the cut
        share *= (told(psfs, cut=1.0, cut_light=0.9) != psfs.images).flatten(1).any(1).double().mean().item()
    assert changed == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / COUNT))


def test_one_fault_does_not_bring_another(psfs):
    """Pedestals and noise are drawn independently."""
    images = told(psfs, pedestals=0.5, noisy=0.5, noise=(1e-5, 1e-5), pedestal=(1e-3, 1e-3), pedestal_light=1.0)
    change = relative(images, psfs)
    shifted, noisy = change.mean(1).abs() > 5e-4, change.std(1) > 5e-6
    both = (shifted & noisy).double().mean().item()
    assert both == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / COUNT))


def test_levels_of_pedestals(psfs):
    """Uniform in the logarithm, of either sign, the same in all pixels."""
    change = relative(told(psfs, pedestals=1.0, pedestal=(1e-5, 1e-3), pedestal_light=1.0), psfs).double()
    level = change.mean(1)
    assert (change.std(1) < 1e-3 * level.abs() + 1e-8).all()
    assert kstest(np.log10(level.abs().numpy()), "uniform", args=(-5, 2)).pvalue > 1e-3
    assert (level > 0).double().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(COUNT))


def test_light_of_pedestals_is_bounded(psfs):
    """However faint the peak, so that the sum of the image stays positive."""
    images = told(psfs, pedestals=1.0, pedestal=(0.01, 0.1), pedestal_light=0.4)
    light = (images - psfs.images).sum((1, 2))
    torch.testing.assert_close(light.abs(), torch.full((COUNT,), 0.4), rtol=1e-3, atol=1e-4)
    assert float(images.sum((1, 2)).min()) > 0.59


def test_levels_of_noise(psfs):
    """Uniform in the logarithm; half of it white, half of it correlated, both of the same strength."""
    change = relative(told(psfs, noisy=1.0, noise=(1e-4, 1e-2)), psfs).double().view(-1, SIDE, SIDE)
    beside = (change[:, :, 1:] * change[:, :, :-1]).mean((1, 2)) / change.square().mean((1, 2))
    white = beside < 0.4
    assert white.double().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(COUNT))
    assert float(beside[white].abs().max()) < 5 / SIDE
    # two pixels beside each other, each a mean of white noise with a Gaussian of 1.5 pixels
    assert float(beside[~white].mean()) == pytest.approx(math.exp(-1 / (4 * 1.5**2)), abs=0.02)
    for chosen in (white, ~white):
        strength = np.log10(change[chosen].square().mean((1, 2)).sqrt().numpy())
        assert kstest(strength, "uniform", args=(-4, 2)).pvalue > 1e-3


def test_errors_of_shapes(psfs):
    """The second moments under a weight change as the width does, and by either sign."""
    images = told(psfs, wrong_shapes=1.0, width_error=0.01, shear_error=0.0)
    gaussian = psfs.shapes.family == FAMILIES.index("gaussian")
    peak = (images.amax((1, 2)) / psfs.images.amax((1, 2)))[gaussian].double()
    sigma2 = (psfs.fwhm[gaussian].double() / 2.3548) ** 2
    # of a Gaussian in a pixel of variance 1/12, the peak is the inverse of the area
    width = 1.0 + 0.5 * (1.0 / peak - 1.0) * (1.0 + 1.0 / (12.0 * sigma2))
    number = (width - 1.0) / 0.01
    assert abs(number.mean()) < 4 / math.sqrt(len(number))
    assert float(number.std()) == pytest.approx(1.0, abs=4 / math.sqrt(2 * len(number)) + 0.05)
    torch.testing.assert_close(images.sum((1, 2)), torch.ones(COUNT), rtol=1e-4, atol=0.0)


def test_errors_of_ellipticities(psfs):
    images = told(psfs, wrong_shapes=1.0, width_error=0.0, shear_error=0.01)
    offset = torch.arange(SIDE).double() - SIDE // 2
    weight = torch.exp(-(offset**2 + offset[:, None] ** 2) / 18.0)

    def quadrupole(each):
        light = each.double() * weight
        return (light * (offset**2 - offset[:, None] ** 2)).sum((1, 2)) / light.sum((1, 2))

    change = quadrupole(images) - quadrupole(psfs.images)
    assert abs(change.mean() / change.std()) < 4 / math.sqrt(COUNT)
    assert float(change.std()) > 0.005
    assert (images.amax((1, 2)) / psfs.images.amax((1, 2)) - 1.0).abs().max() < 0.02


@pytest.mark.parametrize("least", [0.9, 0.99])
def test_images_that_end_earlier(psfs, least):
    """At a square that holds at least so much light; inside of it nothing changes."""
    psfs = replace(psfs, images=psfs.images.clamp_min(1e-12))  # so that zeros are those of the cut
    images = told(psfs, cut=1.0, cut_light=least)
    assert float(images.sum((1, 2)).min()) > least - 1e-5
    kept = images != 0
    assert torch.equal(images[kept], psfs.images[kept])
    middle = SIDE // 2
    half = kept[:, middle].sum(1) // 2
    offset = (torch.arange(SIDE) - middle).abs()
    square = torch.maximum(offset[:, None], offset) <= half[:, None, None]
    assert torch.equal(images, torch.where(square, psfs.images, 0.0))
    # the side is uniform between that of the least light and the whole
    rings = torch.stack([psfs.images[:, middle - k : middle + k + 1, middle - k : middle + k + 1].sum((1, 2))
                         for k in range(middle + 1)], 1)  # fmt: skip
    lowest = (rings < least).sum(1)
    place = ((half - lowest) / (middle - lowest).clamp_min(1)).double()
    assert ((place >= 0) & (place <= 1)).all()
    assert place.mean().item() == pytest.approx(0.5, abs=4 * math.sqrt(1 / 12 / COUNT) + 0.01)


def test_what_is_told_follows_from_the_generator(psfs):
    options = {"pedestals": 0.5, "noisy": 0.5, "wrong_shapes": 0.5, "cut": 0.5}
    assert torch.equal(told(psfs, **options), told(psfs, **options))
    assert not torch.equal(told(psfs, **options), told(psfs, seed=4, **options))


@pytest.mark.parametrize("seed", [1, 2])
def test_perfect_knowledge_is_the_truth(psfs, seed):
    with torch.inference_mode():
        found = told_images(PSFKnowledge.perfect(), psfs, FAMILIES, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(found, psfs.images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({name: value}, f"^{name} must lie between 0 and 1, not {value}")
          for name in ("pedestals", "noisy", "wrong_shapes", "cut", "cut_light", "pedestal_light")
          for value in (-0.1, 1.1)),
        *(({name: value}, f"^{name} must be two numbers between 0 and 1 in ascending order")
          for name in ("pedestal", "noise") for value in ((0.0, 0.1), (0.2, 0.1), (0.1, 1.0), (0.1,), 0.1)),
        *(({name: value}, f"^{name} must lie between 0 and 0.2")
          for name in ("width_error", "shear_error") for value in (-0.1, 0.2)),
    ],
)  # fmt: skip
def test_messages(options, message):
    with pytest.raises(ValueError, match=message):
        PSFKnowledge(**options)
