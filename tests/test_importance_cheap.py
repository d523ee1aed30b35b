"""Cheap weights in Fourier space, and how a few exact evaluations make them exact."""

import numpy as np
import pytest
import torch
from _agreement import plain
from _galaxies import draw, gaussian_psf
from scipy.special import ndtri

from galmeasure import Cutouts, NeuralSersicFitter
from galmeasure.fitters.importance import fourier, refine
from galmeasure.fitters.importance.fourier import FourierPosterior
from galmeasure.fitters.importance.mixture import Mixture
from galmeasure.fitters.importance.sampler import ImportanceSettings, Sampler
from galmeasure.fitters.importance.sampling import gaussian_proposal, weighted_draws
from galmeasure.fitters.importance.target import ExactPosterior
from galmeasure.fitters.importance.two_phase import choose, corrected, inclusion
from galmeasure.fitters.neural.encode import EncodedChunk
from galmeasure.fitters.tensors import BatchTensors
from galmeasure.flags import Flag
from galmeasure.networks import Context, NetworkConfig, SersicPosterior, Window
from galmeasure.parameters import PARAMETER_NAMES
from galmeasure.priors import Disc, Prior, Range, get_prior

PRIOR = Prior("test", Range(0.5, 6), Range(0.5, 8, log=True), Disc(0.8, 2.0), 1.0, Range(5, 500, log=True), Range(1, 7))
TRUTH = np.array([1200.0, 2.0, 2.5, 0.1, 0.2, 31.4, 31.8])
WIDTH = np.array([30.0, 0.3, 0.15, 0.04, 0.04, 0.06, 0.06])
SMALL = {"widths": (16, 16), "depths": (1, 1), "features": 16, "psf_features": 8, "flow_hidden": 16, "flow_context": 8}


def tensors_of(*, gain=None, error=1.0, mask=None, shape=(64, 64), count=1):
    """Tensors of noisy images of one galaxy."""
    rng, psf = np.random.default_rng(3), gaussian_psf(25, 2.6)
    truth = TRUTH.copy()
    truth[5:] += (np.array(shape[::-1]) - 64) / 2
    model = draw(shape, psf, truth[None])[0]
    var = np.asarray(error) ** 2 + (0.0 if gain is None else model.clip(0) / gain)
    images = model + rng.normal(size=(count, *shape)) * np.sqrt(var)
    (batch,) = Cutouts(images, psf, error=error, mask=mask, gain=gain).batches(2**24)
    return BatchTensors.of(batch)


def window(count):
    return Window(torch.zeros((count, 2), dtype=torch.int64))


def around(tensors, count, seed=0):
    """Parameters about the truth in the unit of the batch, shape ``(B, count, 7)``."""
    rng = np.random.default_rng(seed)
    values = TRUTH + WIDTH * rng.normal(size=(len(tensors), count, 7))
    values[..., 0] /= tensors.batch.scale[:, None]
    return torch.from_numpy(values)


def posteriors(tensors):
    """Exact posterior and its approximation, about parameters half a width away from the truth."""
    exact = ExactPosterior(tensors, PRIOR)
    reference = TRUTH + 0.5 * WIDTH
    reference = np.repeat(reference[None], len(tensors), 0)
    reference[:, 0] /= tensors.batch.scale
    rows = np.arange(len(tensors))
    return exact, FourierPosterior(exact, rows, window(len(rows)), torch.from_numpy(reference))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("gain", [None, 10.0, 100.0])
def test_differences_of_log_density_agree(gain, masked):
    """At a S/N of 100 or a little less, while the log densities themselves vary by tens; with neighbours masked."""
    mask = np.zeros((2, 64, 64), dtype=bool)
    mask[:, 40:50, 40:55] = True
    tensors = tensors_of(gain=gain, count=2, mask=mask if masked else None)
    exact, cheap = posteriors(tensors)
    values = around(tensors, 64)
    _, expected, _ = exact.evaluate([0, 1], window(2), values)
    same, found, _ = cheap.evaluate(np.array([0, 1]), window(2), values)
    torch.testing.assert_close(same, values)
    assert torch.isfinite(expected).all()
    spread = expected.std(1)
    assert float(spread.min()) > 10.0
    assert float(((found - expected).std(1) / spread).max()) < 0.03
    assert float((found - expected).abs().max()) < 2.0


@pytest.mark.parametrize("gain", [None, 10.0])
def test_proposed_fluxes_are_those_of_the_exact_posterior(gain):
    tensors = tensors_of(gain=gain)
    exact, cheap = posteriors(tensors)
    values = around(tensors, 1).expand(1, 256, -1)
    uniform = (torch.arange(256, dtype=torch.float64)[None] + 0.5) / 256
    (expected, _, _), (found, density, log_flux) = (
        each.evaluate(np.array([0]), window(1), values, uniform) for each in (exact, cheap)
    )
    mean, std = expected[0, :, 0].mean(), expected[0, :, 0].std()
    assert float((found[0, :, 0].mean() - mean) / std) == pytest.approx(0.0, abs=0.3)
    assert float(found[0, :, 0].std() / std) == pytest.approx(1.0, abs=0.1)
    weights = torch.softmax(density - log_flux, 1)
    assert 1.0 / float((weights**2).sum()) > 0.7 * 256


def uneven_noise(kind):
    """Error map, mask and gain of a kind of noise that is not the same wherever the galaxy is."""
    error, mask = np.ones((64, 64)), np.zeros((64, 64), dtype=bool)
    if kind == "steps":
        error[:, 32:] = 1.5
    if kind == "masked centre":
        mask[30:32, 30:33] = True
    if kind == "masked columns":
        mask[:, 33:35] = True
    return {"error": error, "mask": mask, "gain": 0.05 if kind == "shot noise" else None}


@pytest.mark.parametrize("kind", ["steps", "masked centre", "masked columns", "shot noise"])
def test_gradient_and_curvature_are_exact_in_uneven_noise(kind, monkeypatch):
    """Near the reference the correction removes nearly all of the difference to the exact log density."""
    tensors = tensors_of(**uneven_noise(kind))
    values = around(tensors, 64)
    middle = posteriors(tensors)[1]
    exact = middle._exact
    reference = torch.from_numpy(TRUTH)[None].clone()
    reference[:, 0] /= tensors.batch.scale[0]
    values = reference[:, None] + 0.3 * (values - reference[:, None])
    expected = exact.evaluate([0], window(1), values)[1]
    cheap = middle.about(np.array([0]), window(1), reference)
    found = cheap.evaluate(np.array([0]), window(1), values)[1]
    assert float((found - expected).std()) < 0.08
    monkeypatch.setattr(fourier, "_want_correction", lambda problem, rows, references: torch.zeros(len(rows)).bool())
    without = middle.about(np.array([0]), window(1), reference).evaluate(np.array([0]), window(1), values)[1]
    assert float((without - expected).std()) > 3.0 * float((found - expected).std())


def test_bright_and_large_galaxies():
    """At a S/N of some hundreds, in single precision, with a fifth of the light outside the stamp."""
    rng, psf = np.random.default_rng(3), gaussian_psf(25, 2.6)
    truth = np.array([3e4, 3.0, 14.0, 0.1, 0.2, 31.4, 31.8])
    images = draw((64, 64), psf, truth[None]) + rng.normal(size=(1, 64, 64))
    (batch,) = Cutouts(images, psf, error=1.0).batches(2**24)
    tensors = BatchTensors.of(batch)
    reference = torch.from_numpy(truth)[None].clone()
    reference[:, 0] /= tensors.batch.scale[0]
    width = torch.tensor([0.01 * reference[0, 0], 0.02, 0.15, 0.002, 0.002, 0.01, 0.01])
    values = reference[:, None] + width * torch.from_numpy(rng.normal(size=(1, 64, 7)))
    exact = ExactPosterior(tensors, get_prior("survey"))
    cheap = FourierPosterior(exact, np.array([0]), window(1), reference)
    expected = exact.evaluate([0], window(1), values)[1]
    found = cheap.evaluate(np.array([0]), window(1), values)[1]
    assert torch.isfinite(expected).all()
    assert float(expected.std()) > 20.0
    assert float((found - expected).std()) < 0.03 * float(expected.std())


def test_stamps_without_an_approximation():
    """Tiny stamps have too few wavenumbers."""
    assert list(posteriors(tensors_of())[1].has_row) == [0]
    assert not posteriors(tensors_of(shape=(14, 14)))[1].has_row


def test_probabilities_of_a_choice():
    weights = np.array([0.5, 0.2, 0.1, 0.1, 0.05, 0.05, 0.0])
    probability = inclusion(weights, 4)
    assert probability.sum() == pytest.approx(4.0)
    assert probability[0] == 1.0
    assert probability[-1] == 0.0
    np.testing.assert_allclose(probability[2] / probability[4], 2.0)
    np.testing.assert_array_equal(inclusion(weights, 9), weights > 0)
    picks = [choose(probability, uniform) for uniform in (np.arange(4000) + 0.5) / 4000]
    assert all(len(set(pick)) == len(pick) == 4 for pick in picks)
    np.testing.assert_allclose(np.bincount(np.concatenate(picks), minlength=7) / 4000, probability, atol=1e-3)


def test_corrected_weights_are_exact_in_the_mean():
    """Over the choices the sums have the exact expectation, though the approximation is bad."""
    rng = np.random.default_rng(0)
    cheap = rng.gamma(2.0, size=100)
    ratio = np.exp(0.5 * rng.normal(size=100) + 0.4)
    probability = inclusion(cheap, 20)
    sums = []
    for uniform in rng.random(4000):
        picks = choose(probability, uniform)
        weights = cheap.copy()
        weights[picks] *= corrected(ratio[picks], probability[picks])
        sums.append(weights.sum())
    allowed = 4.0 * np.std(sums) / np.sqrt(len(sums))
    assert np.mean(sums) == pytest.approx((cheap * ratio).sum(), abs=allowed)
    assert abs(cheap.sum() - (cheap * ratio).sum()) > 10.0 * allowed


class Gaussian:
    """A Gaussian posterior, exact or with another mean."""

    device = "cpu"

    def __init__(self, prior, mean, std, rows=()):
        self.prior, self.mean, self.std = prior, torch.tensor(mean), torch.tensor(std)
        self.has_row = dict.fromkeys(rows)
        self.n_evaluated, self.n_expansions = 0, 0

    def about(self, rows, window, reference):
        self.n_expansions += len(rows)
        return self

    def evaluate(self, rows, window, values, uniform=None):
        values = values.clone()
        proposal = torch.distributions.Normal(self.mean[0], 1.1 * self.std[0])
        if uniform is not None:
            values[..., 0] = proposal.icdf(uniform)
        self.n_evaluated += values[..., 0].numel()
        density = torch.distributions.Normal(self.mean, self.std).log_prob(values).sum(-1)
        return values, density, proposal.log_prob(values[..., 0])

    def log_density(self, rows, window, values):
        return self.evaluate(rows, window, values[:, None])[1][:, 0]


def drawn_with(shift, count=24):
    """Draws of Gaussian posteriors weighted by those whose means are some standard deviations away, or None."""
    prior = get_prior("survey")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = SersicPosterior(NetworkConfig.for_prior(prior, **SMALL)).eval()
    std = np.array([60.0, 0.2, 0.1, 0.03, 0.04, 0.05, 0.04])
    mean = np.array([1000.0, 2.0, 1.4, 0.15, -0.1, 31.6, 31.4])
    exact = Gaussian(prior, mean, std)
    away = np.zeros(7) if shift is None else shift * std
    away[0] = 0.0  # the flux is drawn from the same distribution
    cheap = None if shift is None else Gaussian(prior, mean + away, std, range(count))
    context = Context(torch.zeros(count, 16), torch.full((count,), 900.0))
    chunk = EncodedChunk(np.arange(count), np.ones(count, bool), context, None, window(count))
    images = np.random.default_rng(0).normal(size=(count, 2, 2))
    start = gaussian_proposal(network, prior, torch.tensor(mean), torch.diag(torch.tensor(std) ** 2))
    settings = ImportanceSettings(n_draws=1024, min_ess=150.0)
    with torch.inference_mode():
        draws = weighted_draws(
            network, chunk, np.arange(count), exact, images, settings, [start] * count, cheap=cheap
        )  # fmt: skip
    return draws, np.array([(each.mean - mean) / std for each in draws]), exact.n_evaluated


def test_a_bad_approximation_gives_the_exact_posterior():
    """Shifted by 0.1 standard deviations in six parameters: the cheap means would be off by twenty standard errors."""
    draws, away, n_exact = drawn_with(0.1)
    n_draws = sum(len(each) for each in draws)
    assert n_exact < 0.35 * n_draws
    assert min(each.ess for each in draws) > 150.0
    limit = 4.0 / np.sqrt(sum(each.ess for each in draws))
    np.testing.assert_allclose(away.mean(0), 0.0, atol=limit)
    assert limit < 0.1
    spread = away.std(0) * np.sqrt(np.mean([each.ess for each in draws]))
    assert spread.max() < 1.5  # the effective number of draws counts the scatter of the corrections
    np.testing.assert_allclose([each.log_evidence for each in draws], 0.0, atol=0.3)
    quantiles = np.mean([(each.quantiles() - each.mean) / np.sqrt(np.diag(each.covariance)) for each in draws], 0)
    np.testing.assert_allclose(quantiles, np.array([[-1.0], [0.0], [1.0]]).repeat(7, 1), atol=0.1)


def test_a_hopeless_approximation_is_not_used():
    """It is made anew twice, then all draws are evaluated exactly."""
    draws, away, n_exact = drawn_with(3.0)
    _, _, n_alone = drawn_with(None)
    assert n_exact > n_alone
    assert min(each.ess for each in draws) > 150.0
    np.testing.assert_allclose(away.mean(0), 0.0, atol=4.0 / np.sqrt(sum(each.ess for each in draws)))
    for found in draws:
        np.testing.assert_array_equal(found.factors, 1.0)


@pytest.mark.parametrize(("start", "worth", "expected"), [(None, 0.0, 192), (None, 3.0, 1024), ("fit", 0.0, 1024)])
def test_a_lost_flow_is_given_up_early(start, worth, expected):
    """One draw has all of the weight: a flow that is worth so little is given up, a fit and a better flow are not."""
    settings = ImportanceSettings(n_draws=1024, min_ess=100.0)
    mixture = None if start is None else Mixture.of_moments(np.ones(1), np.zeros((1, 6)), np.eye(6)[None])
    sampler = Sampler(np.zeros((2, 2), np.float32), mixture, False)
    while not sampler.is_done(settings):
        count = sampler.next_round(settings)[1]
        u = ndtri(sampler.uniforms(count)[:, :6])
        log_density = np.full(count, -50.0)
        n_heavy = 1 + int(worth) if len(sampler) == 0 else 0
        log_density[:n_heavy] = 50.0
        sampler.add(np.pad(u, ((0, 0), (0, 1))), u, *(np.zeros(count), log_density, np.zeros(count), np.zeros(count)))
    assert len(sampler) == expected


@pytest.fixture(scope="module")
def stamps():
    rng, psf = np.random.default_rng(5), gaussian_psf(25, 2.6)
    count = 6
    truth = np.stack([rng.uniform(1500, 6000, count), rng.uniform(1, 3, count), rng.uniform(1.5, 3, count),
                      *rng.uniform(-0.2, 0.2, (2, count)), *rng.uniform(31.2, 31.8, (2, count))], 1)  # fmt: skip
    return draw((64, 64), psf, truth) + rng.normal(size=(count, 64, 64)), psf


def steps_between(table, expected):
    """Largest difference of the means of each row, in units of their Monte Carlo error."""
    steps = [
        (plain(table[f"{name}_fit"]) - plain(expected[f"{name}_fit"])) / plain(expected[f"{name}_err"])
        for name in PARAMETER_NAMES
    ]
    return np.abs(steps).max(0) * np.sqrt(np.minimum(table["ess"], expected["ess"]))


@pytest.mark.parametrize("fixed", [{}, {"n": 1.0}])
def test_galaxies_without_an_image_are_flagged(stamps, fixed):
    """One of them, and nothing but them."""
    images, psf = stamps
    fitter = NeuralSersicFitter(refine="importance", fixed=fixed)
    for count in (1, 2):
        empty = np.concatenate([np.full((1, 64, 64), np.nan), images[: count - 1]])
        table = fitter.fit(empty, psf, error=1.0)
        assert np.isnan(plain(table["flux_fit"])[0])
        assert np.isfinite(plain(table["flux_fit"])[1:]).all()
        assert (table["flags"][0] & Flag.FAILED) > 0


def test_cheap_and_exact_weights_agree(stamps, monkeypatch):
    images, psf = stamps
    fitter = NeuralSersicFitter(refine="importance", min_ess=400.0, n_draws=4096)
    found = fitter.fit(images, psf, error=1.0)
    monkeypatch.setattr(refine, "FourierPosterior", lambda *arguments: None)
    expected = fitter.fit(images, psf, error=1.0)
    assert (found["ess"] >= 400.0).all()
    assert (np.asarray(found["ess"] / found["n_draws"]) > 0.7 * np.asarray(expected["ess"] / expected["n_draws"])).all()
    assert steps_between(found, expected).max() < 4.0
    for name in PARAMETER_NAMES:
        np.testing.assert_allclose(plain(found[f"{name}_err"]) / plain(expected[f"{name}_err"]), 1.0, atol=0.2)
    np.testing.assert_allclose(found["log_evidence"], expected["log_evidence"], atol=0.25)


@pytest.mark.parametrize("kind", ["steps", "masked centre", "masked columns"])
def test_cheap_and_exact_weights_agree_in_uneven_noise(stamps, kind, monkeypatch):
    images, psf = stamps
    noise = {"error": uneven_noise(kind)["error"], "mask": np.repeat(uneven_noise(kind)["mask"][None], 2, 0)}
    fitter = NeuralSersicFitter(refine="importance", min_ess=400.0, n_draws=4096)
    found = fitter.fit(images[:2], psf, **noise)
    monkeypatch.setattr(refine, "FourierPosterior", lambda *arguments: None)
    expected = fitter.fit(images[:2], psf, **noise)
    assert steps_between(found, expected).max() < 4.0
    np.testing.assert_allclose(found["log_evidence"], expected["log_evidence"], atol=0.25)


def test_rows_do_not_depend_on_order_and_batches(stamps):
    """But for rounding, which decides now and then whether a few more draws are made."""
    images, psf = stamps
    table = NeuralSersicFitter(refine="importance").fit(images, psf, error=1.0)
    again = NeuralSersicFitter(refine="importance").fit(images, psf, error=1.0)
    np.testing.assert_array_equal(plain(again["n_fit"]), plain(table["n_fit"]))
    order = [4, 1, 5, 0, 3, 2]
    moved = NeuralSersicFitter(refine="importance", batch_size=2).fit(images[order], psf, error=1.0)
    steps = steps_between(moved, table[order])
    assert np.mean(steps < 0.05) >= 0.5
    assert steps.max() < 5.0
