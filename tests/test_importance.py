"""Exact posteriors: the target, the sampler, and what the fitter makes of them."""

from dataclasses import replace
from types import SimpleNamespace

import astropy.units as u
import numpy as np
import pytest
import torch
from _agreement import plain
from _galaxies import draw, gaussian_psf

from galmeasure import Cutouts, LSQSersicFitter, NeuralSersicFitter
from galmeasure.fitters.importance.mixture import Mixture, fit_mixture
from galmeasure.fitters.importance.sampler import ImportanceSettings
from galmeasure.fitters.importance.sampling import HeldParameters, gaussian_proposal, weighted_draws
from galmeasure.fitters.importance.target import ExactPosterior, PixelSums
from galmeasure.fitters.neural.encode import EncodedChunk, encode_batch
from galmeasure.fitters.tensors import BatchTensors
from galmeasure.flags import Flag
from galmeasure.likelihood import log_likelihood
from galmeasure.networks import Context, NetworkConfig, SersicPosterior, Window
from galmeasure.parameters import PARAMETER_NAMES
from galmeasure.priors import Disc, Prior, Range, get_prior
from galmeasure.render import prepare_psf, render_sersic
from galmeasure.weights import prior_domain, save_weights

SMALL = {"widths": (16, 16), "depths": (1, 1), "features": 16, "psf_features": 8, "flow_hidden": 16, "flow_context": 8}
SETTINGS = ImportanceSettings(n_draws=1024, min_ess=100.0)
SIZE = 48
ERROR = 300.0

COLUMNS = [name + end for name in PARAMETER_NAMES for end in ("_fit", "_err", "_q16", "_q50", "_q84")]
STANDARD_ERROR = {"fit": 1.0, "err": 0.71, "q16": 1.52, "q50": 1.25, "q84": 1.52}
"""Of summaries of a Gaussian posterior from one independent draw, in units of its width."""


def untrained(config, seed=0):
    """Return a network that knows nothing: it proposes the same broad distribution everywhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SersicPosterior(config).eval()


@pytest.fixture(scope="module")
def wrong(tmp_path_factory):
    """File of weights that are of no use, for the study's prior."""
    prior = get_prior("study")
    card = {
        "prior": "study", "domain": prior_domain(prior), "simulation": {"small_stamps": 1.0}, "metrics": {},
        "training": {"steps": 1, "stamps": 64, "batch_size": 64, "seed": 1, "minutes": 0.1, "device": "cpu"},
        "date": "2026-01-31T12:00:00", "revision": "0" * 40, "description": "untrained",
    }  # fmt: skip
    path = tmp_path_factory.mktemp("weights") / "wrong.safetensors"
    network = untrained(NetworkConfig.for_prior(prior, **SMALL))
    with torch.no_grad():  # features of all sizes: it looks away from no galaxy, and says the same of all
        network.base.weight.zero_()
    save_weights(path, network, card)
    return path


def galaxies(count, seed=1, error=ERROR):
    """Images in electrons, parameters within the study's prior in pixels, and the PSF."""
    rng = np.random.default_rng(seed)
    psf = gaussian_psf(25, 2.6)
    middle = (SIZE - 1) / 2
    g, angle = rng.uniform(0.05, 0.4, count), rng.uniform(0, 2 * np.pi, count)
    columns = [rng.uniform(0.5e5, 1.2e5, count), rng.uniform(1, 3, count), rng.uniform(1, 2, count)]
    columns += [g * np.cos(angle), g * np.sin(angle), *(middle + rng.uniform(-0.3, 0.3, (2, count)))]
    truth = np.stack(columns, 1)
    model = draw((SIZE, SIZE), psf, truth)
    return model + rng.normal(size=model.shape) * np.sqrt(error**2 + model.clip(0)), truth, psf


def only_batch(cutouts):
    (batch,) = cutouts.batches(2**24)
    return batch


class TestTarget:
    """The density that draws are weighted with."""

    prior = Prior("test", Range(0.5, 6), Range(0.5, 5, log=True), Disc(0.8, 2.0), 1.0, Range(5, 500, log=True),
                  Range(1, 7))  # fmt: skip

    def target(self, *, gain, psf_size=25):
        rng = np.random.default_rng(3)
        error, mask = rng.uniform(1.0, 2.0, (64, 64)), rng.random((64, 64)) < 0.1
        image = draw((64, 64), gaussian_psf(), [[300.0, 2.0, 3.0, 0.1, 0.2, 31.4, 31.8]])[0]
        image = image + rng.normal(size=image.shape) * error
        batch = only_batch(Cutouts(image, gaussian_psf(psf_size), error=error, mask=mask, gain=gain))
        return batch, ExactPosterior(BatchTensors.of(batch), self.prior)

    @staticmethod
    def window():
        return Window(torch.zeros((1, 2), dtype=torch.int64))

    @pytest.mark.parametrize("gain", [None, 0.3])
    def test_density_is_likelihood_times_prior(self, gain):
        batch, target = self.target(gain=gain)
        values = torch.tensor([[[180.0, 1.5, 2.5, 0.1, 0.1, 31.5, 31.6], [220.0, 3.0, 2.0, 0.0, 0.3, 31.2, 31.9]]])
        values = values.double().expand(-1, 2, -1)
        same, found, _ = target.evaluate([0], self.window(), values)
        torch.testing.assert_close(same, values)
        grid = prepare_psf(torch.from_numpy(gaussian_psf())[None], (64, 64))
        image, error, good = (torch.from_numpy(np.array(each)) for each in (batch.image, batch.error, batch.good))
        electrons = None if gain is None else torch.tensor(batch.gain).float()

        def ratio(parameters):
            model = render_sersic(parameters[None].float(), grid).double()
            extra = 0.0 if gain is None else model / electrons
            return ((good * model**2) / (error.double() ** 2 + extra)).sum().sqrt()

        for parameters, density in zip(values[0], found[0], strict=True):
            model = render_sersic(parameters[None].float(), grid)
            likelihood = log_likelihood(model, image, error, good, electrons)[0]
            step = torch.tensor([1e-3 * parameters[0], 0, 0, 0, 0, 0, 0])
            slope = (ratio(parameters + step) - ratio(parameters - step)).log() - (2e-3 * parameters[0]).log()
            prior = self.prior.n.log_prob(parameters[1]) + self.prior.r_eff.log_prob(parameters[2])
            prior = prior + self.prior.shear.log_prob(*parameters[3:5]) + 2 * np.log(0.5)
            prior = prior + self.prior.snr.log_prob(ratio(parameters)) + slope
            assert float(density) == pytest.approx(float(likelihood + prior), abs=0.02)

    @pytest.mark.parametrize("gain", [None, 0.3])
    def test_prior_of_the_flux_is_normalised(self, gain):
        """Integrated over the flux, what is added to the likelihood is the prior of the other parameters."""
        _, target = self.target(gain=gain)
        problem, _ = target._problems[0]
        local = torch.zeros(400, dtype=torch.int64)
        _, error, good, electrons = problem.data(local)
        flux = torch.logspace(0.5, 6, 400, dtype=torch.float64)
        values = torch.tensor([1.0, 2.0, 2.0, 0.1, 0.1, 31.5, 31.5]).double().repeat(400, 1)
        unit = render_sersic(values.float(), problem.psf, problem.psf_index[local])
        values[:, 0] = flux
        signal, shot = (good * (flux[:, None, None] * unit / error) ** 2).sum((1, 2)).sqrt(), None
        if gain is not None:
            _, signal, shot = PixelSums(problem, local, unit).terms(flux)
        density = target.log_prior(values, signal, shot, electrons, 1, torch.ones(400).double()).exp()
        total = torch.trapezoid(density * flux, flux.log())
        rest = self.prior.n.log_prob(values[0, 1]) + self.prior.r_eff.log_prob(values[0, 2])
        rest = rest + self.prior.shear.log_prob(*values[0, 3:5]) + 2 * np.log(0.5)
        assert float(total.log() - rest) == pytest.approx(0.0, abs=0.02)

    @pytest.mark.parametrize("gain", [None, 0.3])
    def test_proposed_fluxes_follow_their_density(self, gain):
        """Weighted with target over proposal, fluxes have the moments of the target on a fine grid."""
        _, target = self.target(gain=gain)
        values = torch.tensor([1.0, 1.5, 2.5, 0.1, 0.1, 31.5, 31.6]).double().expand(1, 512, -1)
        uniform = (torch.arange(512, dtype=torch.float64)[None] + 0.5) / 512
        drawn, density, log_flux = target.evaluate([0], self.window(), values, uniform)
        weights = torch.softmax(density - log_flux, 1)[0]
        assert 1.0 / float((weights**2).sum()) > 0.7 * 512
        flux = torch.linspace(float(drawn[..., 0].min()), float(drawn[..., 0].max()), 512, dtype=torch.float64)
        grid = torch.cat([flux[None, :, None], values[..., 1:]], -1)
        expected = torch.softmax(target.evaluate([0], self.window(), grid)[1], 1)[0]
        mean = float(expected @ flux)
        std = float((expected @ (flux - mean) ** 2).sqrt())
        assert float(weights @ drawn[0, :, 0]) == pytest.approx(mean, abs=0.03 * std)
        assert float((weights @ (drawn[0, :, 0] - mean) ** 2).sqrt()) == pytest.approx(std, rel=0.03)

    def test_nothing_outside_the_prior(self):
        _, target = self.target(gain=None)
        values = torch.tensor([200.0, 2.0, 2.0, 0.1, 0.1, 31.5, 31.5]).double().repeat(1, 6, 1)
        for i, (column, value) in enumerate(((0, -5.0), (0, 1e6), (1, 7.0), (2, 5.1), (3, 0.85)), 1):
            values[0, i, column] = value
        _, density, _ = target.evaluate([0], self.window(), values)
        assert torch.isfinite(density).tolist() == [[True] + [False] * 5]

    def test_blocks_of_pixels_change_the_prior_alone(self):
        """In a window of larger pixels, lengths are in these and fluxes are exact."""
        rng = np.random.default_rng(0)
        image = draw((128, 128), gaussian_psf(), [[3000.0, 2.0, 6.0, 0.1, 0.2, 63.4, 63.8]]) + rng.normal(
            size=(128, 128)
        )
        target = ExactPosterior(BatchTensors.of(only_batch(Cutouts(image, gaussian_psf(), error=1.0))), self.prior)
        fine, coarse = (Window(torch.tensor([[start, start]]), k) for start, k in ((32, 1), (0, 2)))
        stamp = torch.tensor([[[3000.0, 2.0, 4.0, 0.1, 0.2, 63.4, 63.5]]]).double()
        densities = []
        for window in (fine, coarse):
            values = window.from_stamp(stamp)
            flux = values[0, 0, 0]
            _, density, _ = target.evaluate([0], window, values)
            length = self.prior.r_eff.log_prob(values[0, 0, 2])
            densities.append(float(density[0, 0] - length + flux.log()))
        assert densities[0] == pytest.approx(densities[1], abs=1e-3)


class Known:
    """A target whose posterior is Gaussian in the parameters."""

    device = "cpu"

    def __init__(self, prior, mean, covariance):
        self.prior, self.mean = prior, torch.tensor(mean)
        self.normal = torch.distributions.MultivariateNormal(self.mean, torch.tensor(covariance))
        self.precision = torch.linalg.inv(torch.tensor(covariance))

    def evaluate(self, rows, window, values, uniform=None):
        values = values.clone()
        away = values[..., 1:] - self.mean[1:]
        flux = self.mean[0] - (away @ self.precision[0, 1:]) / self.precision[0, 0]
        proposal = torch.distributions.Normal(flux, 1.1 / self.precision[0, 0].sqrt())
        if uniform is not None:
            values[..., 0] = proposal.icdf(uniform)
        return values, self.normal.log_prob(values), proposal.log_prob(values[..., 0])


@pytest.mark.parametrize("name", ["study", "survey"])
def test_known_posterior(name):
    """Mean, covariance, quantiles and evidence of a Gaussian, from a network that knows nothing."""
    prior = get_prior(name)
    network = untrained(NetworkConfig.for_prior(prior, **SMALL))
    std = np.array([60.0, 0.2, 0.1, 0.03, 0.04, 0.05, 0.04])
    correlation = np.eye(7)
    correlation[0, 1] = correlation[1, 0] = correlation[1, 2] = correlation[2, 1] = 0.6
    mean = np.array([1000.0, 2.0, 1.4, 0.15, -0.1, 31.6, 31.4])
    covariance = correlation * std * std[:, None]
    target = Known(prior, mean, covariance)
    count = 12
    context = Context(torch.zeros(count, 16), torch.full((count,), 900.0))
    window = Window(torch.zeros((count, 2), dtype=torch.int64))
    piece = EncodedChunk(np.arange(count), np.ones(count, bool), context, None, window)
    images = np.random.default_rng(0).normal(size=(count, 2, 2))
    start = gaussian_proposal(network, prior, torch.tensor(mean), torch.tensor(covariance))
    settings = ImportanceSettings(n_draws=2048, min_ess=400.0)
    with torch.inference_mode():
        found = weighted_draws(network, piece, np.arange(count), target, images, settings, [start] * count)
    assert min(each.ess for each in found) > 400
    assert all(each.ess > 0.3 * len(each) for each in found)
    limit = 5.0 / np.sqrt(sum(each.ess for each in found))  # five standard errors of a mean
    np.testing.assert_allclose(np.mean([(each.mean - mean) / std for each in found], 0), 0, atol=limit)
    np.testing.assert_allclose(np.mean([each.covariance for each in found], 0) / np.outer(std, std),
                               correlation, atol=np.sqrt(2.0) * limit)  # fmt: skip
    quantiles = np.mean([(each.quantiles() - mean) / std for each in found], 0)
    np.testing.assert_allclose(quantiles, np.array([[-1.0], [0.0], [1.0]]).repeat(7, 1),
                               atol=STANDARD_ERROR["q16"] * limit)  # fmt: skip
    np.testing.assert_allclose([each.log_evidence for each in found], 0, atol=0.2)


@pytest.mark.parametrize("columns", [(5, 6), (0, 1), (1, 3, 4), (0, 2, 3, 4, 5, 6)])
def test_known_posterior_given_some_parameters(columns):
    """The conditional Gaussian of the others, from a start that is half an error away and too wide."""
    prior = get_prior("survey")
    network = untrained(NetworkConfig.for_prior(prior, **SMALL))
    std = np.array([60.0, 0.2, 0.1, 0.03, 0.04, 0.05, 0.04])
    correlation = np.full((7, 7), 0.3) + 0.7 * np.eye(7)
    mean = np.array([1000.0, 2.0, 1.4, 0.15, -0.1, 31.6, 31.4])
    covariance = correlation * std * std[:, None]
    held, free = list(columns), [i for i in range(7) if i not in columns]
    known = mean + std
    gain = covariance[np.ix_(free, held)] @ np.linalg.inv(covariance[np.ix_(held, held)])
    middle = mean[free] + gain @ (known - mean)[held]
    rest = covariance[np.ix_(free, free)] - gain @ covariance[np.ix_(held, free)]
    width = np.sqrt(np.diag(rest))
    count = 12
    start_mean, start_covariance = known.copy(), np.zeros((7, 7))
    start_mean[free] = middle + 0.5 * width
    start_covariance[np.ix_(free, free)] = 1.5 * rest
    given = HeldParameters(columns, torch.from_numpy(known).expand(count, -1))
    start = gaussian_proposal(network, prior, torch.tensor(start_mean), torch.tensor(start_covariance), given)
    context = Context(torch.zeros(count, 16), torch.full((count,), 900.0))
    window = Window(torch.zeros((count, 2), dtype=torch.int64))
    piece = EncodedChunk(np.arange(count), np.ones(count, bool), context, None, window)
    images = np.random.default_rng(0).normal(size=(count, 2, 2))
    settings = ImportanceSettings(n_draws=2048, min_ess=400.0)
    target = Known(prior, mean, covariance)
    with torch.inference_mode():
        found = weighted_draws(network, piece, np.arange(count), target, images, settings, [start] * count, given)
    assert min(each.ess for each in found) > 400
    for each in found:
        np.testing.assert_array_equal(each.values[:, held], np.broadcast_to(known[held], (len(each), len(held))))
    limit = 5.0 / np.sqrt(sum(each.ess for each in found))  # five standard errors of a mean
    np.testing.assert_allclose(np.mean([(each.mean[free] - middle) / width for each in found], 0), 0, atol=limit)
    spread = np.mean([each.covariance[np.ix_(free, free)] for each in found], 0)
    np.testing.assert_allclose(
        spread / np.outer(width, width), rest / np.outer(width, width), atol=np.sqrt(2.0) * limit
    )


def test_agrees_with_a_grid():
    """Flux, index and radius of a noisy galaxy whose other parameters the prior holds."""
    prior = Prior("held", Range(0.5, 4.0), Range(1.0, 4.0), Disc(0.02, 1.0), 0.05, Range(5.0, 200.0), Range(1.0, 7.0))
    config = NetworkConfig(n=(0.5, 4.0), r_eff=(1.0, 4.0), g_max=0.02, centre=0.05, **SMALL)
    rng, psf = np.random.default_rng(8), gaussian_psf(17)
    image = draw((64, 64), psf, [[150.0, 1.5, 2.0, 0.0, 0.0, 31.5, 31.5]])[0] + rng.normal(size=(64, 64))
    batch = only_batch(Cutouts(image, psf, error=1.0))
    network, target = untrained(config), ExactPosterior(BatchTensors.of(batch), prior)
    with torch.inference_mode():
        (piece,) = encode_batch(network, BatchTensors.of(batch)).chunks
        settings = ImportanceSettings(n_draws=4096, min_ess=1000.0)
        (found,) = weighted_draws(network, piece, np.array([0]), target, batch.image, settings)
        axes = (torch.linspace(60, 320, 40), torch.linspace(0.55, 3.95, 18), torch.linspace(1.05, 3.95, 18))
        grid = torch.cartesian_prod(*axes).double()
        middle = torch.tensor([0.005, 0.005, 31.5, 31.5]).double().expand(len(grid), -1)
        window = Window(torch.zeros((1, 2), dtype=torch.int64))
        density = target.evaluate([0], window, torch.cat([grid, middle], 1)[None])[1][0]
        weights = torch.softmax(density, 0)
        mean = weights @ grid
        std = (weights @ (grid - mean) ** 2).sqrt()
    assert found.ess > 1000
    np.testing.assert_allclose((found.mean[:3] - mean.numpy()) / std.numpy(), 0, atol=0.12)
    np.testing.assert_allclose(np.sqrt(np.diag(found.covariance))[:3] / std.numpy(), 1, atol=0.1)


def test_mixture_density_is_that_of_its_draws():
    rng = np.random.default_rng(0)
    covariances = np.array([[[1.0, 0.5], [0.5, 2.0]], [[0.3, 0.0], [0.0, 0.2]]])
    mixture = Mixture.of_moments([0.3, 0.7], [[0.0, 1.0], [3.0, -1.0]], covariances)
    drawn = mixture.sample(rng.random((20000, 4)))
    x = np.linspace(-30, 30, 601)
    points = np.stack(np.meshgrid(x, x, indexing="ij"), -1).reshape(-1, 2)
    density = np.exp(mixture.log_prob(points)) * (x[1] - x[0]) ** 2
    assert density.sum() == pytest.approx(1, abs=0.01)
    np.testing.assert_allclose(drawn.mean(0), density @ points, atol=0.05)
    fitted = fit_mixture(rng, drawn, np.full(len(drawn), 1 / len(drawn)), 2)
    assert fitted.log_prob(drawn).mean() > mixture.log_prob(drawn).mean() - 0.1


@pytest.fixture(scope="module")
def measured(wrong):
    """A few galaxies with the worst of proposals."""
    images, truth, psf = galaxies(10)
    fitter = NeuralSersicFitter(weights=wrong, refine="importance", covariance=True)
    return SimpleNamespace(table=fitter.fit(images, psf, error=ERROR, gain=1.0), truth=truth, images=images, psf=psf)


def test_a_wrong_network_is_made_good_or_flagged(measured):
    table = measured.table
    methods = set(table["method"])
    assert methods <= {"neural+importance", "lsq+importance", "lsq"}
    assert "neural" not in methods
    exact = np.char.endswith(np.array(table["method"]), "importance")
    assert exact.sum() >= 8
    poor = (table["flags"] & Flag.POOR_PROPOSAL) > 0
    assert poor[np.array(table["method"]) != "neural+importance"].all()
    assert (poor == (table["ess"] < 100))[np.array(table["method"]) == "neural+importance"].all()
    values, errors = (
        np.stack([table[f"{name}{end}"].value for name in PARAMETER_NAMES], 1) for end in ("_fit", "_err")
    )
    pulls = ((values - measured.truth) / errors)[exact]
    assert np.abs(pulls).max() < 4.5
    assert 0.7 < np.sqrt((pulls**2).mean()) < 1.3


def test_columns(measured):
    table = measured.table
    assert ((table["ess"] > 1) & (table["ess"] <= table["n_draws"])).all()
    assert (table["n_draws"] >= 64).all()
    exact = np.char.endswith(np.array(table["method"]), "importance")
    assert np.isfinite(table["log_evidence"][exact]).all()
    assert np.isnan(table["log_evidence"][~exact]).all()
    for name in PARAMETER_NAMES:
        q16, q50, q84 = (table[f"{name}_q{level}"][exact] for level in (16, 50, 84))
        assert ((q16 < q50) & (q50 < q84)).all()
        assert np.isnan(table[f"{name}_q50"][~exact]).all()
    np.testing.assert_allclose(np.sqrt(table["covariance"][:, 1, 1]), table["n_err"])
    assert (table["chi2_reduced"] < 1.2).all()


def test_draws_are_those_of_the_exact_posterior(wrong, measured):
    fitter = NeuralSersicFitter(weights=wrong, refine="importance")
    options = {"error": ERROR, "gain": 1.0, "n_samples": 4000}
    drawn = fitter.sample(measured.images[:4], measured.psf, **options)
    table = fitter.fit(measured.images[:4], measured.psf, error=ERROR, gain=1.0)
    again = fitter.sample(measured.images[:4], measured.psf, seed=0, **options)
    other = fitter.sample(measured.images[:4], measured.psf, seed=1, **options)
    exact = np.char.endswith(np.array(table["method"]), "importance")
    assert exact.any()
    for name in PARAMETER_NAMES:
        values = drawn[name].value
        assert values.shape == (4, 4000)
        assert np.isnan(values[~exact]).all()
        fit, error = (np.array(table[f"{name}_{end}"].value)[exact] for end in ("fit", "err"))
        # systematic resampling of weighted draws leaves their mean and spread as they are, nearly, as no draw has a
        # negative weight: two draws of one posterior would differ by 0.1, the square root of 1 / ess
        np.testing.assert_allclose((values[exact].mean(1) - fit) / error, 0.0, atol=0.03)
        np.testing.assert_allclose(values[exact].std(1) / error, 1.0, atol=0.03)
        same = np.abs(values[exact] - again[name].value[exact]) < 1e-3 * error[:, None]
        assert same.mean() > 0.99
        assert (np.diff(values[exact], axis=1) > 0).mean() == pytest.approx(0.5, abs=0.05)  # in no order
    assert (drawn["n"].value[exact] != other["n"].value[exact]).any()


def monte_carlo_steps(table, expected):
    """Differences of all summaries of exact posteriors in units of the standard error of weighted draws, ``(N, 35)``.

    Rounding changes the weights a little, which moves a summary by a hundredth of its standard error. Now and then it
    decides, too, whether one more round is drawn or which component a draw belongs to; then both are summaries of
    different draws, and differ by about one standard error. A row must not rely on other draws than its own: if
    its random numbers depended on its place or its neighbours, that would be so in all rows.
    """
    steps = []
    for column in COLUMNS:
        name, _, end = column.rpartition("_")
        found, wanted = (plain(t[column]) for t in (table, expected))
        error = plain(expected[f"{name}_err"])
        steps.append((found - wanted) / error * np.sqrt(expected["ess"]) / STANDARD_ERROR[end])
    return np.abs(np.stack(steps, 1))


def assert_same_posteriors(table, expected):
    """In at least half of the rows the draws are the same; in the others summaries agree as those of two samples do."""
    assert list(table["method"]) == list(expected["method"])
    steps = monte_carlo_steps(table, expected)
    steps = steps[np.isfinite(steps).all(axis=1)]
    assert len(steps) >= 2
    assert np.mean(steps.max(axis=1) < 0.05) >= 0.5
    assert np.sqrt((steps**2).mean(axis=1)).max() < 5.0  # about 1.4 for other draws
    evidence = np.abs(table["log_evidence"] - expected["log_evidence"]) * np.sqrt(expected["ess"])
    assert np.nanmax(evidence) < 5.0 * np.sqrt(2.0)


def test_rows_are_those_of_the_galaxy_alone(wrong, measured):
    """Neither the place in the input nor the neighbours matter, but for rounding."""
    fitter = NeuralSersicFitter(weights=wrong, refine="importance", covariance=True)
    chosen = [7, 2, 3, 9, 4]
    again = fitter.fit(measured.images[chosen], measured.psf, error=ERROR, gain=1.0)
    assert again.colnames == measured.table.colnames
    assert_same_posteriors(again, measured.table[chosen])


def test_units(wrong, measured):
    """Other units of flux and length, and stamps somewhere in an image."""
    fitter = NeuralSersicFitter(weights=wrong, refine="importance", covariance=True)
    part = measured.images[:2] * 4.0 * u.mJy
    positions = [(100.0, 200.0), (300.0, 50.0)]
    table = fitter.fit(part, measured.psf, error=4 * ERROR * u.mJy, gain=0.25, pixel_scale=0.5, positions=positions)
    first = measured.table[:2]
    assert table["flux_fit"].unit == u.mJy
    assert table["r_eff_fit"].unit == u.arcsec
    origin = {}
    for axis, name in enumerate("xy"):
        origin[name] = np.round(2 * (table[f"{name}_fit"].value - first[f"{name}_fit"].value)) / 2
        shift = np.array(positions)[:, axis] - (SIZE - 1) / 2
        assert np.abs(origin[name] - shift).max() < 1.01
    back = first.copy()
    for column in COLUMNS:
        name, _, end = column.rpartition("_")
        value = u.Quantity(table[column]).value / {"flux": 4.0, "r_eff": 0.5}.get(name, 1.0)
        value = value if end == "err" or name not in origin else value - origin[name]
        back[column] = u.Quantity(value, first[column].unit)
    back["log_evidence"] = table["log_evidence"]
    assert_same_posteriors(back, first)
    covariance = 0.5 * table["covariance"][:, 0, 2] / (back["flux_err"].value * back["r_eff_err"].value)
    expected = first["covariance"][:, 0, 2] / (first["flux_err"].value * first["r_eff_err"].value)
    np.testing.assert_allclose(covariance, expected, atol=5.0 / np.sqrt(first["ess"].min()))


def test_broken_rows_do_not_matter(wrong, measured):
    images = measured.images[:4].copy()
    images[0] = np.nan
    images[2, 10:30, 24] = np.inf
    images[3] = 0.0
    fitter = NeuralSersicFitter(weights=wrong, refine="importance", covariance=True, n_draws=256)
    table = fitter.fit(images, measured.psf, error=ERROR, gain=1.0)
    assert table["flags"][0] & Flag.FAILED
    assert np.isnan(table["flux_fit"][0])
    assert np.isnan(table["ess"][0])
    assert table["n_draws"][0] == 0
    assert table["flags"][2] & Flag.NONFINITE_PIXELS
    assert np.isfinite(table["flux_fit"][1:3].value).all()
    assert table["flags"][3] & Flag.FAILED


def test_noise_far_from_any_galaxy_falls_back(wrong):
    """Outside the prior there is no posterior: such a galaxy is that of least squares."""
    psf = gaussian_psf(25, 2.6)
    image = draw((SIZE, SIZE), psf, [[9e5, 1.5, 2.0, 0.1, 0.1, 23.5, 23.5]])
    image = image + np.random.default_rng(0).normal(size=image.shape) * ERROR
    table = NeuralSersicFitter(weights=wrong, refine="importance").fit(image, psf, error=ERROR, gain=1.0)
    assert table["method"][0] == "lsq"
    assert table["flags"][0] & Flag.POOR_PROPOSAL
    assert table["ess"][0] == 0
    assert table["flux_fit"][0] == pytest.approx(9e5, rel=0.1)


@pytest.mark.parametrize("summary", ["median", "mode"])
def test_summaries(wrong, measured, summary):
    options = {"weights": wrong, "refine": "importance", "covariance": True}
    table = NeuralSersicFitter(summary=summary, **options).fit(measured.images[:2], measured.psf, error=ERROR, gain=1.0)
    first = measured.table[:2]
    steps = np.abs(table["n_q50"] - first["n_q50"]) / first["n_err"] * np.sqrt(first["ess"])
    assert steps.min() < 0.05
    assert steps.max() < 5.0 * np.sqrt(2.0) * STANDARD_ERROR["q50"]
    if summary == "median":
        np.testing.assert_array_equal(table["n_fit"], table["n_q50"])
        assert np.isfinite(table["n_fit"]).all()
    else:
        assert (np.abs(table["n_fit"] - first["n_fit"]) < 3 * first["n_err"]).all()
        assert (table["n_fit"] != first["n_fit"]).all()


def test_gain_is_needed_where_the_prior_counts_electrons(wrong, measured):
    fitter = NeuralSersicFitter(weights=wrong, refine="importance")
    with pytest.raises(ValueError, match="gain must be given to refine with weights"):
        fitter.fit(measured.images[:1], measured.psf, error=ERROR)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"refine": "mcmc"}, "refine must be one of 'auto', 'importance', None, not 'mcmc'"),
        ({"refine": "importance", "n_draws": 10}, "n_draws must be an integer of at least 64, not 10"),
        ({"refine": "importance", "n_draws": 100.0}, "n_draws must be an integer"),
        ({"refine": "importance", "min_ess": 0}, "min_ess must be a number of at least 1"),
        ({"refine": "importance", "min_ess": 2000}, "min_ess must be a number of at least 1 and below n_draws"),
    ],
)
def test_wrong_options(wrong, options, message):
    with pytest.raises(ValueError, match=message):
        NeuralSersicFitter(weights=wrong, **options)


def test_prior_must_lie_within_the_network(wrong, tmp_path):
    from galmeasure.weights import get_weights

    network = untrained(NetworkConfig(n=(0.5, 5.0), r_eff=(0.4, 3.0), g_max=0.67, centre=0.5, **SMALL))
    names = ("prior", "domain", "simulation", "training", "metrics", "date", "revision", "description")
    path = tmp_path / "narrow.safetensors"
    save_weights(path, network, {name: get_weights(wrong).card[name] for name in names})
    NeuralSersicFitter(weights=path)
    with pytest.raises(ValueError, match="prior 'study' reaches beyond their domain"):
        NeuralSersicFitter(weights=path, refine="importance")


def test_without_refinement_nothing_is_added(wrong, measured):
    table = NeuralSersicFitter(weights=wrong).fit(measured.images[:2], measured.psf, error=ERROR, gain=1.0)
    assert not {"ess", "n_draws", "log_evidence"} & set(table.colnames)
    assert set(table["method"]) == {"neural"}


def test_command(wrong, measured, tmp_path, monkeypatch, capsys):
    """``--refine importance`` gives the same table; other methods refuse it."""
    from astropy.table import QTable

    from galmeasure.cli import main

    monkeypatch.chdir(tmp_path)
    catalog = QTable({"cutout": measured.images[:2], "error": [ERROR, ERROR], "gain": [1.0, 1.0]})
    catalog["psf"] = np.repeat(measured.psf[None], 2, 0)
    catalog.write("cat.fits")
    with pytest.raises(SystemExit) as stop:
        main(["cat.fits", "--weights", str(wrong), "--refine", "importance"])
    assert stop.value.code == 0, capsys.readouterr().err
    table = QTable.read("cat_galmeasure.fits")
    assert_same_posteriors(table, measured.table[:2])
    with pytest.raises(SystemExit) as stop:
        main(["cat.fits", "--method", "lsq", "--refine", "importance"])
    assert stop.value.code == 2
    assert "refine is an option of --method neural" in capsys.readouterr().err


def test_fitter_given_the_centre():
    """Exact posteriors given the centre, against least squares with the same parameters held."""
    rng, psf = np.random.default_rng(12), gaussian_psf(25)
    truth = np.array([[3000.0, 1.5, 2.5, 0.1, 0.2, 31.4, 31.7]] * 4)
    images = draw((64, 64), psf, truth) + rng.normal(size=(4, 64, 64))
    known = {"x": 31.4, "y": "init"}
    fitter = NeuralSersicFitter(refine="importance", fixed=known)
    table = fitter.fit(images, psf, error=1.0, init_params={"y": np.full(4, 31.7)})
    other = LSQSersicFitter(fixed={"x": 31.4, "y": 31.7}).fit(images, psf, error=1.0)
    assert all("importance" in method for method in table["method"])
    for name, value in (("x", 31.4), ("y", 31.7)):
        for end in ("fit", "q16", "q84"):
            np.testing.assert_array_equal(plain(table[f"{name}_{end}"]), value)
        np.testing.assert_array_equal(plain(table[f"{name}_err"]), 0.0)
    for name in ("flux", "n", "r_eff", "g1", "g2"):
        error = plain(other[name + "_err"])
        np.testing.assert_allclose(plain(table[name + "_err"]) / error, 1.0, atol=0.3)
        assert (np.abs(plain(table[name + "_fit"]) - plain(other[name + "_fit"])) < 0.5 * error).all()
    assert np.isnan(table["log_evidence"]).all()
    drawn = replace(fitter, fixed={"x": 31.4}).sample(images[:1], psf, 50, error=1.0)
    np.testing.assert_allclose(plain(drawn["x"]), 31.4)
    assert np.ptp(plain(drawn["y"])) > 0.0


@pytest.mark.parametrize(
    ("options", "call", "message"),
    [
        ({"refine": None, "fixed": {"n": 1.0}}, "sample", "fixed must be empty for sample, unless refine"),
        ({"refine": "importance", "fixed": {"n": "init"}}, "sample", "fixed must hold numbers for sample"),
        ({"refine": "importance", "fixed": {"n": 1.0}}, "log_prob", "fixed must be empty for log_prob"),
    ],
)
def test_draws_given_parameters_need_exact_posteriors(options, call, message):
    with pytest.raises(ValueError, match=message):
        getattr(NeuralSersicFitter(**options), call)(np.zeros((1, 64, 64)), gaussian_psf(25), error=1.0)


def test_something_must_be_free():
    fixed = dict.fromkeys(("n", "r_eff", "g1", "g2", "x", "y"), "init")
    with pytest.raises(ValueError, match="fixed must leave one parameter besides the flux free"):
        NeuralSersicFitter(refine="importance", fixed=fixed)
