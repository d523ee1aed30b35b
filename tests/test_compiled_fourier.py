"""Compiled loops over wavenumbers and through normalising flows against the operations of torch that they replace."""

import numpy as np
import pytest
import torch
from _galaxies import draw, gaussian_psf

from galmeasure import Cutouts
from galmeasure.fitters.importance.fourier import FourierPosterior
from galmeasure.fitters.importance.target import ExactPosterior
from galmeasure.fitters.lsq.fourier import FourierProblem, Stamps
from galmeasure.fitters.tensors import BatchTensors, groups
from galmeasure.fitters.variables import from_parameters, to_parameters
from galmeasure.networks import Window
from galmeasure.networks.splines import draw_values, log_densities, spline_flow
from galmeasure.parameters import SERSIC
from galmeasure.priors import Disc, Prior, Range
from galmeasure.utils.compiled import VARIABLE

pytest.importorskip("numba")

PRIOR = Prior("test", Range(0.5, 6), Range(0.5, 8, log=True), Disc(0.8, 2.0), 1.0, Range(5, 500, log=True), Range(1, 7))
WIDTH = np.array([30.0, 0.3, 0.15, 0.04, 0.04, 0.06, 0.06])
EXACT = {"rtol": 0.0, "atol": 0.0}


def some_flow(hidden, transforms, context):
    """Flow with random weights, twice as large as those of a network that has not learned yet."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        flow = spline_flow(7, context, bins=8, slope=1e-3, transforms=transforms, hidden_features=hidden)
    for parameter in flow.parameters():
        parameter.requires_grad_(False).mul_(2.0)
    return flow.eval()


@pytest.mark.parametrize(("hidden", "transforms", "context"), [((48,), 1, 24), ((32, 32), 2, 16), ((16,) * 3, 3, 1)])
def test_flow(both_ways, monkeypatch, hidden, transforms, context):
    """Draws and densities, beyond the bounds of the splines too, are those of zuko."""
    flow, generator = some_flow(hidden, transforms, context), torch.Generator().manual_seed(1)
    features = torch.randn(5, context, generator=generator)
    normal = 2.0 * torch.randn(50, 5, 7, generator=generator)
    (compiled, compiled_density), (plain, plain_density) = both_ways(lambda: draw_values(flow, features, normal))
    assert (plain.abs() > 5.0).any()
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=2e-4)
    assert float((compiled - plain).abs().median()) < 2e-6
    for densities in both_ways(lambda: log_densities(flow, features, plain)):
        for others in (compiled_density, plain_density):
            torch.testing.assert_close(densities, others, rtol=1e-4, atol=2e-3)
            assert float((densities - others).abs().median()) < 2e-5
    monkeypatch.setenv(VARIABLE, "1")
    one, all_draws = log_densities(flow, features, normal[0]), log_densities(flow, features, normal)
    torch.testing.assert_close(one, all_draws[0], **EXACT)


def test_draws_of_a_galaxy_do_not_depend_on_others():
    flow, generator = some_flow((48,), 2, 8), torch.Generator().manual_seed(1)
    features, normal = torch.randn(6, 8, generator=generator), torch.randn(20, 6, 7, generator=generator)
    (draws, of_draws), densities = draw_values(flow, features, normal), log_densities(flow, features, normal)
    for rows in (slice(0, 1), slice(2, 6)):
        drawn = draw_values(flow, features[rows], normal[:, rows])
        for found, expected in zip(drawn, (draws, of_draws), strict=True):
            torch.testing.assert_close(found, expected[:, rows], **EXACT)
        torch.testing.assert_close(log_densities(flow, features[rows], normal[:, rows]), densities[:, rows], **EXACT)
    assert torch.isnan(log_densities(flow, features, normal * torch.nan)).all()


def test_gradients_of_a_flow_need_torch():
    flow = some_flow((48,), 1, 8)
    values = torch.zeros(2, 7, requires_grad=True)
    log_densities(flow, torch.zeros(2, 8), values).sum().backward()
    assert torch.isfinite(values.grad).all()


def cheap_posterior(shape, *, width, gain=None, error=1.0, count=3):
    """Cheap posteriors of noisy images of one galaxy about parameters near its own, and others about them."""
    rng, psf = np.random.default_rng(3), gaussian_psf(25, width)
    start = (np.array(shape) - 64) // 2
    middle = start[::-1] + 31.5
    truth = np.array([1200.0, 2.0, 2.5, 0.1, 0.2, middle[0] - 0.1, middle[1] + 0.3])
    model = draw(shape, psf, truth[None])[0]
    images = model + rng.normal(size=(count, *shape)) * np.sqrt(np.asarray(error) ** 2 + model.clip(0) / (gain or 1e9))
    (batch,) = Cutouts(images, psf, error=error, gain=gain).batches(2**24)
    tensors = BatchTensors.of(batch)
    values = truth + WIDTH * np.random.default_rng(0).normal(size=(count, 40, 7))
    reference = np.repeat((truth + 0.5 * WIDTH)[None], count, 0)
    for parameters in (values.reshape(-1, 7), reference):
        parameters[:, 0] /= tensors.batch.scale[0]
        parameters[:, 5:] -= start[::-1]
    window = Window(torch.from_numpy(start).expand(count, -1))
    exact = ExactPosterior(tensors, PRIOR)
    make = lambda rows: FourierPosterior(exact, rows, window[rows], torch.from_numpy(reference[rows]))  # noqa: E731
    return make, window, torch.from_numpy(values), exact


CASES = {
    "white noise": ((64, 64), {"width": 2.6}),
    "odd sides": ((41, 50), {"width": 2.6}),
    "shot noise": ((64, 64), {"width": 3.5, "gain": 1.5}),
    "narrow PSF": ((32, 33), {"width": 1.6, "gain": 5.0}),
    "uneven noise": ((64, 64), {"width": 2.6, "error": np.linspace(1.0, 1.5, 64)[:, None] * np.ones(64)}),
}


@pytest.mark.parametrize("name", CASES)
def test_cheap_posterior(both_ways, name):
    """Densities differ by less than their own error, while they vary by tens; fluxes are drawn alike."""
    shape, options = CASES[name]
    make, window, values, _ = cheap_posterior(shape, **options)
    rows = np.arange(3)
    uniform = torch.from_numpy(np.random.default_rng(1).random(values.shape[:2]))
    for numbers in (None, uniform):
        compiled, plain = both_ways(lambda: make(rows).evaluate(rows, window, values, numbers))  # noqa: B023
        (fluxes, density, log_flux), (expected_fluxes, expected, expected_log_flux) = compiled, plain
        assert float(expected.std(1).min()) > 3.0
        torch.testing.assert_close(fluxes, expected_fluxes, rtol=2e-5, atol=0.0)
        torch.testing.assert_close(density, expected, rtol=0.0, atol=0.01)
        torch.testing.assert_close(log_flux, expected_log_flux, rtol=0.0, atol=0.01)


@pytest.mark.parametrize("name", CASES)
def test_exact_posterior(both_ways, name):
    """Densities, fluxes and their proposals are those of torch, with and without pixels that do not count."""
    shape, options = CASES[name]
    _, window, values, exact = cheap_posterior(shape, **options)
    rows = np.arange(3)
    (group,) = exact.groups
    group.problem.good[1, : shape[0] // 3] = False
    uniform = torch.from_numpy(np.random.default_rng(1).random(values.shape[:2]))
    for numbers in (None, uniform):
        compiled, plain = both_ways(lambda: exact.evaluate(rows, window, values, numbers))  # noqa: B023
        assert float(plain[1].std(1).min()) > 2.0
        torch.testing.assert_close(compiled[0], plain[0], rtol=2e-5, atol=0.0)
        for found, expected in zip(compiled[1:], plain[1:], strict=True):
            torch.testing.assert_close(found, expected, rtol=0.0, atol=0.02)
    given = rows.repeat(5)
    picks = values[:, :5].flatten(0, 1)
    compiled, plain = both_ways(lambda: exact.log_density(given, window[given], picks))
    torch.testing.assert_close(compiled, plain, rtol=0.0, atol=0.01)
    expected = exact.evaluate(rows, window, values[:, :5])[1].flatten()
    torch.testing.assert_close(plain, expected, rtol=0.0, atol=0.01)


def test_cheap_posterior_of_a_galaxy_does_not_depend_on_others():
    make, window, values, _ = cheap_posterior((64, 64), width=2.6, gain=5.0)
    rows = np.arange(3)
    together = make(rows).evaluate(rows, window, values)
    for row in rows:
        alone = make(rows).evaluate(rows[row : row + 1], window[row : row + 1], values[row : row + 1])
        for found, expected in zip(alone, together, strict=True):
            torch.testing.assert_close(found, expected[row : row + 1], **EXACT)


def fourier_problem(shape, width, count=4):
    """Least-squares problem of noisy images of one galaxy in Fourier space, and parameters about its own."""
    rng, psf = np.random.default_rng(3), gaussian_psf(25, width)
    truth = np.array([1200.0, 2.0, 2.5, 0.1, 0.2, shape[1] / 2.0, shape[0] / 2.0 - 1.2])
    images = draw(shape, psf, truth[None]) + rng.normal(size=(count, *shape))
    (batch,) = Cutouts(images, psf, error=1.0).batches(2**24)
    (group,) = groups(BatchTensors.of(batch), on_stamp=True)
    stamps = Stamps.of(group.problem, group.psf_on_stamp)
    values = truth + 3.0 * WIDTH * rng.uniform(-1.0, 1.0, size=(count, 7))
    values[:, 0] /= batch.scale
    problem = FourierProblem.join([(part, torch.arange(count)) for part in stamps])
    return problem, from_parameters(torch.from_numpy(values))


@pytest.mark.parametrize(("shape", "width"), [((64, 64), 2.6), ((41, 50), 2.2), ((32, 33), 5.0)])
def test_least_squares(both_ways, shape, width):
    """Loss, gradient and curvature, in units of the errors."""
    problem, variables = fourier_problem(shape, width)
    rows = torch.arange(len(variables))
    compiled, plain = both_ways(lambda: problem.evaluate(rows, variables))
    torch.testing.assert_close(compiled[0], plain[0], rtol=2e-6, atol=0.0)
    sigma = plain[2].diagonal(dim1=1, dim2=2).rsqrt()
    assert float(((compiled[1] - plain[1]) * sigma).abs().max()) < 2e-3
    difference = (compiled[2] - plain[2]) * sigma[:, :, None] * sigma[:, None]
    assert float(difference.abs().max()) < 2e-5
    torch.testing.assert_close(*both_ways(lambda: problem.solve_flux(to_parameters(variables))), rtol=1e-5, atol=1e-8)


def test_least_squares_of_a_galaxy_does_not_depend_on_others():
    problem, variables = fourier_problem((64, 64), 2.6)
    together = problem.evaluate(torch.arange(4), variables)
    for row in range(4):
        alone = problem.evaluate(torch.tensor([row]), variables[row : row + 1])
        for found, expected in zip(alone, together, strict=True):
            torch.testing.assert_close(found, expected[row : row + 1], **EXACT)


@pytest.mark.parametrize("name", ["r_eff", "g1", "x"])
def test_what_is_no_number_spoils_its_row_only(name):
    """No memory is read where a place in a table is no number."""
    column = SERSIC.index(name)
    problem, variables = fourier_problem((64, 64), 2.6)
    expected = problem.evaluate(torch.arange(4), variables)
    variables[1, column] = torch.nan
    loss, _, curvature = problem.evaluate(torch.arange(4), variables)
    assert torch.isnan(loss[1])
    torch.testing.assert_close(loss[[0, 2, 3]], expected[0][[0, 2, 3]], **EXACT)
    torch.testing.assert_close(curvature[[0, 2, 3]], expected[2][[0, 2, 3]], **EXACT)
    make, window, values, _ = cheap_posterior((64, 64), width=2.6, gain=5.0)
    posterior, rows = make(np.arange(3)), np.arange(3)
    disc = posterior._discs[0]
    stamps = window.to_stamp(values)
    stamps[1, 5, column] = torch.nan
    projection = disc.project(stamps)
    spoiled = torch.isnan(projection.sums).any(2)
    assert spoiled.nonzero().tolist() == [[1, 5]]
    assert rows[torch.isnan(projection.square).any(1).numpy()].tolist() == [1]
