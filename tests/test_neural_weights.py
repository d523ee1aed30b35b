"""The weights that ship: calibrated, their heads agree with their flow, and they know where their domain ends."""

import numpy as np
import pytest
from _agreement import BFLOAT16
from _galaxies import draw, gaussian_psf

from galmeasure import Flag, LSQSersicFitter, NeuralSersicFitter, get_weights, list_weights
from galmeasure.training import simulate_cutouts
from galmeasure.training.config import simulation_from_dict

NAMES = ("flux", "n", "r_eff", "g1", "g2", "x", "y")
SHIPPED = {weights.name for weights in list_weights()}
WEIGHTS = [
    pytest.param(name, marks=pytest.mark.skipif(name not in SHIPPED, reason=f"{name} is not in this version"))
    for name in ("study-v2", "survey-v3", "survey-v3-fast")
]
needs_survey = pytest.mark.skipif("survey-v3" not in SHIPPED, reason="survey-v3 is not in this version")
COUNT = 1500


def columns(table, end="_fit"):
    return np.stack([np.asarray(getattr(table[name + end], "value", table[name + end])) for name in NAMES], -1)


@pytest.fixture(scope="module", params=WEIGHTS)
def measured(request):
    """Fitter, simulated galaxies of its prior, their truth and their table."""
    config = simulation_from_dict(get_weights(request.param).card["simulation"])
    cutouts, truth = next(simulate_cutouts(config, COUNT, seed=20260101))
    fitter = NeuralSersicFitter(weights=request.param)
    return fitter, cutouts, truth, fitter.fit(cutouts)


def test_calibration(measured):
    _, _, truth, table = measured
    inside = (columns(table, "_q16") < truth) & (truth < columns(table, "_q84"))
    np.testing.assert_allclose(inside.mean(0), 0.683, atol=0.05)
    np.testing.assert_allclose((columns(table, "_q50") < truth).mean(0), 0.5, atol=0.05)
    pull = (columns(table) - truth) / columns(table, "_err")
    # a few neighbours, which nobody has masked, are taken for the galaxy
    assert (np.abs(pull) > 8).any(1).mean() < 0.01
    pull = np.clip(pull, -5, 5)
    np.testing.assert_allclose(pull.mean(0), 0.0, atol=0.1)
    np.testing.assert_allclose(pull.std(0), 1.0, atol=0.12)


def test_flags_inside_the_domain(measured):
    table = measured[3]
    assert not (table["flags"] & Flag.FAILED).any()
    # posteriors of stars crowd at the lower edge of r_eff
    resolved = table["point_like"] < 0.1
    assert ((table["flags"][resolved] & Flag.OUTSIDE_DOMAIN) > 0).mean() < 0.04


def test_heads_agree_with_the_flow(measured):
    fitter, cutouts, _, table = measured
    count = 150
    draws = fitter.sample(cutouts[:count], n_samples=256)
    drawn = columns(draws, "")
    error = columns(table, "_err")[:count]
    offset = (columns(table)[:count] - drawn.mean(1)) / error
    np.testing.assert_allclose(np.median(offset, 0), 0.0, atol=0.05)
    assert (np.abs(offset) < 0.5).mean() > 0.97
    np.testing.assert_allclose(np.median(error / drawn.std(1), 0), 1.0, atol=0.1)
    for end, probability in (("_q16", 0.159), ("_q50", 0.5), ("_q84", 0.841)):
        below = (drawn < columns(table, end)[:count, None]).mean((0, 1))
        np.testing.assert_allclose(below, probability, atol=0.03)


def test_density_is_highest_near_the_truth(measured):
    """The truth is as likely as a draw: its rank among the densities of draws is uniform."""
    fitter, cutouts, truth, _ = measured
    count = 150
    some = cutouts[:count]
    drawn = fitter.log_prob(some, parameters=fitter.sample(some, n_samples=64))
    at_truth = fitter.log_prob(some, parameters=dict(zip(NAMES, truth[:count].T, strict=True)))
    rank = (drawn < at_truth[:, None]).mean(1)
    np.testing.assert_allclose(rank.mean(), 0.5, atol=0.1)
    assert (rank < 0.05).mean() < 0.15


@needs_survey
def test_precision_does_not_matter():
    images, psf, _ = large_galaxies([2.0, 3.0, 4.0], 64)
    fits = [NeuralSersicFitter(precision=each).fit(images, psf, error=1.0) for each in ("float32", "bfloat16")]
    step = (columns(fits[0]) - columns(fits[1])) / columns(fits[0], "_err")
    assert np.abs(step).max() < BFLOAT16


def large_galaxies(radii, side, snr=100.0):
    """Images, PSF and truth (N, 7) of galaxies of given radii, noise 1."""
    rng = np.random.default_rng(3)
    psf = gaussian_psf(33, 3.0)
    middle = (side - 1) / 2
    truth = np.array([[1.0, rng.uniform(0.8, 3), r, *rng.uniform(-0.3, 0.3, 2), *(middle + rng.uniform(-0.5, 0.5, 2))]
                      for r in radii])  # fmt: skip
    models = draw((side, side), psf, truth)
    truth[:, 0] = snr / np.sqrt((models**2).sum((1, 2)))
    return models * truth[:, 0, None, None] + rng.normal(size=models.shape), psf, truth


@needs_survey
def test_large_stamps():
    """Radii far beyond what 64 pixels hold are measured in blocks; positions and fluxes are those of the stamp."""
    images, psf, truth = large_galaxies(np.geomspace(3, 30, 24), 211)
    table = NeuralSersicFitter().fit(images, psf, error=1.0)
    pull = (columns(table) - truth) / columns(table, "_err")
    assert (np.abs(pull) < 4).mean() > 0.98
    assert np.median(np.abs(columns(table)[:, 2] / truth[:, 2] - 1)) < 0.1
    assert np.abs(columns(table)[:, 5:] - truth[:, 5:]).max() < 2.0
    assert (table["n_pixels_fit"] == 211**2).all()
    assert not (table["flags"] & Flag.OUTSIDE_DOMAIN).any()


@needs_survey
def test_margins_do_not_matter():
    """A stamp cut smaller or larger gives the same galaxy."""
    images, psf, _ = large_galaxies([2.0, 3.0, 4.0], 96)
    fitter = NeuralSersicFitter(precision="float32")
    whole = fitter.fit(images, psf, error=1.0)
    for cut in (16, 20, 24):
        part = fitter.fit(images[:, cut:-cut, cut:-cut], psf, error=1.0)
        shift = columns(part) - columns(whole) + np.array([0, 0, 0, 0, 0, cut, cut])
        # 64 pixels are what the network sees, but the exact model is compared with all of them
        assert (np.abs(shift) < columns(whole, "_err")).all()


@needs_survey
def test_outside_the_domain():
    images, psf, _ = large_galaxies([2.0, 3.0, 4.0], 64)
    fitter = NeuralSersicFitter()
    faint = fitter.fit(images, psf, error=80.0)
    assert ((faint["flags"] & Flag.OUTSIDE_DOMAIN) > 0).all()
    assert not (fitter.fit(images, psf, error=1.0)["flags"] & Flag.OUTSIDE_DOMAIN).any()


@needs_survey
def test_galaxies_off_the_middle():
    images, psf, truth = large_galaxies([2.0, 3.0, 4.0], 64)
    table = NeuralSersicFitter().fit(np.roll(images, 5, axis=2), psf, error=1.0)
    assert not (table["flags"] & Flag.OUTSIDE_DOMAIN).any()
    pull = (columns(table) - truth - np.array([0, 0, 0, 0, 0, 5, 0])) / columns(table, "_err")
    assert np.abs(pull).max() < 5


@needs_survey
def test_agrees_with_least_squares():
    """A start from the network leads to the usual end, which lies within the network's posterior."""
    images, psf, _ = large_galaxies(np.geomspace(1.5, 5, 12), 64, snr=200.0)
    network = NeuralSersicFitter()
    usual, other = (f.fit(images, psf, error=1.0) for f in (LSQSersicFitter(), LSQSersicFitter(init=network)))
    assert (np.abs(columns(other) - columns(usual)) < 0.02 * columns(usual, "_err")).mean() > 0.97
    table = network.fit(images, psf, error=1.0)
    assert (np.abs(columns(table) - columns(usual)) < 3 * columns(table, "_err")).all()
