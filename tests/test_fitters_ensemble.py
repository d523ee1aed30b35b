"""Ensembles: mixtures of the posteriors of several networks."""

import numpy as np
import pytest
from astropy.table import Table
from numpy.testing import assert_allclose
from scipy.stats import norm

from galmeasure import EnsembleSersicFitter, NeuralSersicFitter, read_cutouts
from galmeasure.cli import main
from galmeasure.exceptions import WeightsError
from galmeasure.fitters.ensemble import mixture_moments, mixture_quantiles
from galmeasure.flags import Flag

MEMBERS = ("survey-v3", "survey-v3-fast")
Z = norm.ppf([0.15865525, 0.5, 0.84134475])


@pytest.fixture(scope="module")
def cutouts():
    return read_cutouts("examples/demo_catalog.fits")[:6]


@pytest.fixture(scope="module")
def table(cutouts):
    return EnsembleSersicFitter(members=MEMBERS, covariance=True, crb=True).fit(cutouts)


@pytest.fixture(scope="module")
def members(cutouts):
    return [NeuralSersicFitter(weights=name, covariance=True).fit(cutouts) for name in MEMBERS]


def test_moments_are_those_of_a_mixture():
    rng = np.random.default_rng(1)
    means = rng.normal(size=(3, 1, 2))
    factors = rng.normal(size=(3, 1, 2, 2))
    covariances = factors @ np.swapaxes(factors, -1, -2)
    draws = [rng.multivariate_normal(means[k, 0], covariances[k, 0], 200_000) for k in range(3)]
    mean, covariance = mixture_moments(means, covariances)
    assert_allclose(mean[0], np.concatenate(draws).mean(0), atol=0.01)
    assert_allclose(covariance[0], np.cov(np.concatenate(draws).T), rtol=0.02, atol=0.02)


def test_quantiles_are_those_of_a_mixture():
    """Of Gaussians in n and g1, and of one far from the other."""
    rng = np.random.default_rng(2)
    centre, width = np.array([[3.0, 0.1], [5.0, 0.4]]), np.array([[0.3, 0.05], [0.2, 0.2]])
    known = np.full((2, 1, 3, 7), 1.0)
    for member in range(2):
        known[member, 0, :, 1] = centre[member, 0] * np.exp(width[member, 0] * Z)
        known[member, 0, :, 3] = centre[member, 1] + width[member, 1] * Z
    found = mixture_quantiles(known)[0]
    n = np.concatenate([centre[k, 0] * np.exp(width[k, 0] * rng.normal(size=400_000)) for k in range(2)])
    g1 = np.concatenate([centre[k, 1] + width[k, 1] * rng.normal(size=400_000) for k in range(2)])
    assert_allclose(found[:, 1], np.quantile(n, norm.cdf(Z)), rtol=0.01)
    assert_allclose(found[:, 3], np.quantile(g1, norm.cdf(Z)), atol=0.005)


def test_one_member_twice_is_that_member(cutouts):
    alone = NeuralSersicFitter(weights="survey-v3").fit(cutouts)
    twice = EnsembleSersicFitter(members=["survey-v3", "survey-v3"]).fit(cutouts)
    for name in ("flux_fit", "n_fit", "g1_err", "r_eff_q16", "r_eff_q84", "ood_score"):
        assert_allclose(np.asarray(twice[name]), np.asarray(alone[name]), rtol=1e-6, err_msg=name)
    assert list(twice["ood_reason"]) == list(alone["ood_reason"])


def test_mixture_of_two(table, members):
    one, two = (np.asarray(member["n_fit"]) for member in members)
    assert_allclose(np.asarray(table["n_fit"]), 0.5 * (one + two), rtol=1e-10)
    errors = np.sqrt(0.5 * sum(np.asarray(member["n_err"]) ** 2 for member in members) + 0.25 * (one - two) ** 2)
    assert_allclose(np.asarray(table["n_err"]), errors, rtol=1e-6)
    assert set(table["method"]) == {"ensemble"}
    assert table.meta["WEIGHTS"] == "survey-v3,survey-v3-fast"
    assert np.isfinite(np.asarray(table["n_crb"])).all()
    worst = np.fmax(*(np.asarray(member["ood_score"]) for member in members))
    assert_allclose(np.asarray(table["ood_score"]), worst)


def test_quantiles_lie_between_those_of_the_members(table, members):
    for name in ("flux_q16", "n_q50", "r_eff_q84", "g2_q16"):
        low = np.minimum(*(np.asarray(member[name]) for member in members))
        high = np.maximum(*(np.asarray(member[name]) for member in members))
        slack = 1e-6 * np.abs(high)
        assert (np.asarray(table[name]) >= low - slack).all()
        assert (np.asarray(table[name]) <= high + slack).all()


def test_median(cutouts, table):
    median = EnsembleSersicFitter(members=MEMBERS, summary="median").fit(cutouts)
    assert_allclose(np.asarray(median["n_fit"]), np.asarray(table["n_q50"]), rtol=1e-10)


def test_draws_and_density(cutouts, table):
    fitter = EnsembleSersicFitter(members=MEMBERS, refine=None)
    plain = fitter.fit(cutouts)
    draws = fitter.sample(cutouts, n_samples=2001, seed=3)
    assert draws["n"].shape == (6, 2001)
    off = (np.asarray(draws["n"]).mean(1) - np.asarray(plain["n_fit"])) / np.asarray(plain["n_err"])
    inside = (np.asarray(plain["flags"]) & int(Flag.OUTSIDE_DOMAIN)) == 0
    assert (np.abs(off[inside]) < 0.25).all()
    density = fitter.log_prob(cutouts, parameters=plain)
    each = [NeuralSersicFitter(weights=name, refine=None).log_prob(cutouts, parameters=plain) for name in MEMBERS]
    assert_allclose(density, np.logaddexp(*each) - np.log(2.0), rtol=1e-6)


def test_row_that_cannot_be_measured(cutouts):
    images = np.stack([cutouts.image(0), np.full(cutouts.image(0).shape, np.nan)])
    table = EnsembleSersicFitter(members=MEMBERS).fit(images, cutouts.psf_image(0), error=1.0)
    assert np.isnan(table["n_fit"][1])
    assert table["flags"][1] & Flag.FAILED
    assert np.isfinite(table["n_fit"][0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"members": ["survey-v3"]}, "members must be at least two names or files of weights"),
        ({"members": "survey-v3"}, "members must be at least two names or files of weights"),
        ({"members": ["survey-v3", "survey-v99"]}, "weights must be that of shipped weights"),
        ({"summary": "mode"}, "summary must be one of 'mean', 'median', not 'mode'"),
        ({"refine": "importance"}, "refine must be 'auto' or None for an ensemble"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        EnsembleSersicFitter(**options)


def test_too_few_draws(cutouts):
    with pytest.raises(ValueError, match="n_samples must be an integer of at least 2"):
        EnsembleSersicFitter(members=MEMBERS).sample(cutouts, n_samples=1)


def test_damaged_member(tmp_path):
    (tmp_path / "mine.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsError):
        EnsembleSersicFitter(members=["survey-v3", tmp_path / "mine.safetensors"])


def test_command_line(tmp_path, table):
    out = tmp_path / "out.ecsv"
    arguments = ["measure", "examples/demo_catalog.fits", "--method", "ensemble", "--members", ", ".join(MEMBERS)]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "-o", str(out)])
    assert end.value.code == 0
    assert_allclose(np.asarray(Table.read(out)["n_fit"])[:6], np.asarray(table["n_fit"]), rtol=1e-4)
