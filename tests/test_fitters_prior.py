"""Priors that are exchanged: least squares with one, and posteriors of the network under another."""

import numpy as np
import pytest
import torch

from galmeasure import Flag, LSQSersicFitter, NeuralSersicFitter, PSFConvolvedSersic2D
from galmeasure.fitters.neural.prior_share import point_probability, prior_dominated
from galmeasure.fitters.prior_term import PriorTerm
from galmeasure.priors import get_prior, prior_from_dict

Y, X = np.mgrid[-12:13, -12:13]
PSF = np.exp(-(X**2 + Y**2) / (2 * 1.5**2))
DISCS = prior_from_dict({
    "base": "galaxies", "name": "narrow discs",
    "populations": [{
        "name": "discs", "fraction": 1.0, "n": {"median": 1.0, "scatter": 0.1, "lower": 0.3, "upper": 8.0},
        "r_eff": {"median": 3.0, "scatter": 0.7, "lower": 0.2, "upper": 16.0},
        "shear": {"g_max": 0.9, "concentration": 2.0},
    }],
})  # fmt: skip


def stamps(flux, count=12, n=2.0):
    rng, (y, x) = np.random.default_rng(4), np.mgrid[:64, :64]
    model = PSFConvolvedSersic2D(flux, n=n, r_eff=2.5, g1=0.1, g2=0.2, x_0=31.4, y_0=31.7, psf=PSF)(x, y)
    return model + rng.normal(size=(count, 64, 64))


def numbers(column):
    return np.asarray(getattr(column, "value", column))


@pytest.mark.parametrize("name", ["galaxies", "survey"])
def test_derivatives_of_the_term(name):
    term = PriorTerm(get_prior(name), torch.full((6,), 30.0).double(), torch.full((6,), 3.0).double())
    variables = 0.6 * torch.randn((6, 7), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows, step = torch.arange(6), 1e-5
    _, gradient, hessian = term.evaluate(rows, variables)
    for column in range(7):
        change = torch.zeros(7, dtype=torch.float64)
        change[column] = step
        high, low = (term.evaluate(rows, variables + sign * change)[0] for sign in (1, -1))
        np.testing.assert_allclose(gradient[:, column], -0.25 * (high - low) / step, atol=1e-5)
    assert (torch.linalg.eigvalsh(hessian) > -1e-9).all()


def test_least_squares_with_a_prior():
    """Faint galaxies are drawn to the prior, with smaller errors; bright ones are not."""
    plain, prior = LSQSersicFitter(bias_correction=False), LSQSersicFitter(prior=DISCS)
    faint, held = (numbers(fitter.fit(stamps(300.0), PSF, error=1.0)["n_fit"]) for fitter in (plain, prior))
    assert np.abs(np.log(held)).max() < 0.15
    assert np.abs(np.log(faint)).max() > 0.3
    bright = [fitter.fit(stamps(50_000.0), PSF, error=1.0) for fitter in (plain, prior)]
    step = (numbers(bright[1]["n_fit"]) - numbers(bright[0]["n_fit"])) / numbers(bright[0]["n_err"])
    assert np.abs(step).max() < 1.0
    assert bright[1].meta["PRIOR"] == "narrow discs"
    assert "PRIOR" not in bright[0].meta


def test_the_network_under_another_prior():
    images = stamps(300.0)
    own, other = (NeuralSersicFitter(prior=prior).fit(images, PSF, error=1.0) for prior in (None, DISCS))
    good = (np.asarray(other["flags"]) & int(Flag.POOR_PROPOSAL)) == 0
    assert good.sum() > 4
    assert (numbers(other["n_err"]) < numbers(own["n_err"]))[good].all()
    assert np.abs(np.log(numbers(other["n_fit"])[good])).max() < 0.3
    same = NeuralSersicFitter(prior=NeuralSersicFitter()._weights.get_prior()).fit(images, PSF, error=1.0)
    np.testing.assert_allclose(numbers(same["n_fit"]), numbers(own["n_fit"]), rtol=1e-5)
    assert own.meta["PRIOR"] == NeuralSersicFitter()._weights.prior
    assert other.meta["PRIOR"] == "narrow discs"


def test_draws_and_density_under_another_prior():
    images, fitter = stamps(300.0, 2), NeuralSersicFitter(prior=DISCS)
    draws = fitter.sample(images, PSF, 400, error=1.0)
    assert np.abs(np.log(numbers(draws["n"])).mean(1)).max() < 0.3
    density = fitter.log_prob(images, PSF, draws, error=1.0)
    plain = NeuralSersicFitter().log_prob(images, PSF, draws, error=1.0)
    assert np.isfinite(density).all()
    assert (density.mean(1) > plain.mean(1)).all()


def test_known_parameters():
    images = stamps(3000.0, 6)
    free, held = (NeuralSersicFitter(fixed=fixed).fit(images, PSF, error=1.0) for fixed in ({}, {"x": 31.4, "y": 31.7}))
    np.testing.assert_array_equal(numbers(held["x_fit"]), 31.4)
    np.testing.assert_array_equal(numbers(held["y_err"]), 0.0)
    assert (numbers(held["flux_err"]) <= 1.001 * numbers(free["flux_err"])).all()
    step = (numbers(held["n_fit"]) - numbers(free["n_fit"])) / numbers(free["n_err"])
    assert np.abs(step).max() < 2.0
    given = NeuralSersicFitter(fixed={"n": "init"}).fit(images, PSF, error=1.0, init_params={"n": np.full(6, 1.7)})
    np.testing.assert_allclose(numbers(given["n_fit"]), 1.7)
    np.testing.assert_allclose(numbers(given["n_q16"]), 1.7)


def test_wrong_priors():
    with pytest.raises(ValueError, match="name must be one of"):
        LSQSersicFitter(prior="best")
    with pytest.raises(TypeError, match="prior must be a Prior or the name of one, not float"):
        LSQSersicFitter(prior=1.0)
    wide = prior_from_dict({"base": "survey", "r_eff": {"lower": 0.2, "upper": 40.0, "log": True}})
    with pytest.raises(ValueError, match="prior: r_eff must lie within the domain of weights"):
        NeuralSersicFitter(prior=wide)
    with pytest.raises(ValueError, match="prior: its flux must be given as that of the prior of weights"):
        NeuralSersicFitter(prior="study")


def test_prior_dominated():
    prior = get_prior("survey")  # ln r_eff is uniform over 4.4
    levels = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])[:, None]
    quantiles = torch.ones((3, 5, 7))
    quantiles[:, :, 1] = torch.exp(0.1 * levels.T) * 2.0
    quantiles[:, :, 2] = torch.exp(torch.tensor([[0.1], [1.6], [0.5]]) * levels.T)
    assert prior_dominated(quantiles, prior).tolist() == [False, True, False]


def test_point_probability():
    """Of lognormal radii, about a tenth of a PSF of 4 pixels."""
    levels = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
    quantiles = torch.ones((3, 5, 7))
    for row, median in enumerate((0.4, 0.2, 3.0)):
        quantiles[row, :, 2] = median * torch.exp(0.5 * levels)
    found = point_probability(quantiles, torch.full((3,), 4.0))
    np.testing.assert_allclose(found, [0.5, 0.917, 0.0], atol=2e-3)
