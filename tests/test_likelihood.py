"""The noise model and what follows from it."""

import numpy as np
import pytest
import torch

from galmeasure.likelihood import (
    cramer_rao_bound,
    deviance,
    fisher_matrix,
    invert_information,
    log_likelihood,
    normal_equations,
    variance,
)
from galmeasure.render import prepare_psf, render_sersic


def _grid(shape=(32, 32), fwhm=3.0):
    y, x = np.mgrid[-15:16, -15:16]
    image = np.exp(-(x**2 + y**2) * 4 * np.log(2) / fwhm**2)
    return prepare_psf(torch.from_numpy(image / image.sum())[None], shape, dtype=torch.float64)


PARAMETERS = torch.tensor([[900.0, 1.5, 3.0, 0.2, -0.1, 15.2, 15.9]], dtype=torch.float64)


@pytest.mark.parametrize(("sigma", "expected"), [(200.0, (0.0565, 0.777, 0.0287, 0.0543, 0.0549)), (400.0, None)])
def test_bound_of_the_reference_galaxy(sigma, expected):
    """The bounds of the study (flux in 1e5, r_eff in arcsec), to 3 %."""
    galsim = pytest.importorskip("galsim")
    psf = galsim.Convolve(galsim.Moffat(beta=2, fwhm=0.5), galsim.Pixel(0.23))
    image = psf.drawImage(nx=321, ny=321, scale=0.23 / 5, method="no_pixel", dtype=float).array
    grid = prepare_psf(torch.from_numpy(image)[None], (64, 64), oversampling=5, dtype=torch.float64)
    galaxy = torch.tensor([[1e5, 3.0, 0.3 / 0.23, -0.069, 0.15, 31.5, 31.5]], dtype=torch.float64)
    error = torch.full((1, 1, 1), sigma, dtype=torch.float64)
    bound = cramer_rao_bound(fisher_matrix(galaxy, grid, error, gain=torch.ones(1, dtype=torch.float64)))[0]
    bound = (bound * torch.tensor([1e-5, 1, 0.23, 1, 1, 1, 1]))[:5].numpy()
    if expected is None:  # the published row at S/N 30 has two digits
        np.testing.assert_allclose(bound, (0.11, 1.56, 0.056, 0.11, 0.11), rtol=0.03)
    else:
        np.testing.assert_allclose(bound, expected, rtol=0.03)


def test_fixing_a_parameter_tightens_the_others():
    grid = _grid()
    fisher = fisher_matrix(PARAMETERS, grid, torch.ones(1, 1, 1, dtype=torch.float64))
    free, fixed = cramer_rao_bound(fisher)[0], cramer_rao_bound(fisher, [0, 2, 3, 4, 5, 6])[0]
    assert fixed[1] == 0
    assert (fixed[[0, 2]] < 0.9 * free[[0, 2]]).all()


def _noisy(gain):
    generator = torch.Generator().manual_seed(1)
    grid = _grid()
    data = render_sersic(PARAMETERS, grid) * 1.05 + torch.randn((1, 32, 32), generator=generator, dtype=torch.float64)
    good = torch.rand((1, 32, 32), generator=generator) > 0.1
    error = torch.full((1, 1, 1), 1.3, dtype=torch.float64)
    return grid, data, error, good, None if gain is None else torch.tensor([gain], dtype=torch.float64)


@pytest.mark.parametrize(("gain", "dof"), [(None, None), (None, 4.0), (2.0, 4.0)])
def test_score_is_the_gradient_of_the_log_likelihood(gain, dof):
    grid, data, error, good, gain = _noisy(gain)
    parameters = PARAMETERS.clone().requires_grad_()
    log_likelihood(render_sersic(parameters, grid), data, error, good, gain, dof=dof).sum().backward()
    model, jacobian = render_sersic(PARAMETERS, grid, jacobian=True)
    found = normal_equations(model, jacobian, data, error, good, gain, dof=dof)
    torch.testing.assert_close(found.score, parameters.grad, rtol=1e-6, atol=1e-6)
    first = log_likelihood(model, data, error, good, gain, dof=dof)
    other = log_likelihood(model * 1.01, data, error, good, gain, dof=dof)
    change = normal_equations(model * 1.01, jacobian, data, error, good, gain, dof=dof).loss - found.loss
    torch.testing.assert_close(change, -2 * (other - first))


def test_rows_with_and_without_shot_noise_are_those_of_each_kind_alone():
    grid, data, error, good, _ = _noisy(2.0)
    model, jacobian = render_sersic(PARAMETERS, grid, jacobian=True)
    columns = [column.repeat(3, *[1] * (column.ndim - 1)) for column in (model, jacobian, data)]
    gain = torch.tensor([2.0, 1e12, torch.inf], dtype=torch.float64)
    together = normal_equations(*columns, error, good, gain)
    for row, electrons in enumerate((gain[:1], None, None)):
        alone = normal_equations(model, jacobian, data, error, good, electrons)
        torch.testing.assert_close(together.loss[row : row + 1], alone.loss, rtol=1e-9, atol=0.0)
    assert together.loss[0] != together.chi2[0]


@pytest.mark.parametrize("gain", [0.05, 0.5, 2.0, 1e3, 1e7, torch.inf])
def test_deviance_has_the_score_as_its_gradient(gain):
    grid, data, error, good, gain = _noisy(gain)
    for flux in (900.0, -300.0):
        parameters = PARAMETERS.clone()
        parameters[0, 0] = flux
        model, jacobian = render_sersic(parameters, grid, jacobian=True)
        parameters.requires_grad_()
        deviance(render_sersic(parameters, grid), data, error, good, gain).sum().backward()
        found = normal_equations(model, jacobian, data, error, good, gain)
        torch.testing.assert_close(-2 * found.score, parameters.grad, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found.loss, deviance(model, data, error, good, gain))


def test_deviance_in_single_precision_is_that_in_double():
    for gain in (0.5, 300.0, 1e6):
        grid, data, error, good, gain = _noisy(gain)
        model = render_sersic(PARAMETERS, grid)
        double = deviance(model, data, error, good, gain)
        single = deviance(*(each.float() for each in (model, data, error)), good, gain.float())
        torch.testing.assert_close(single, double, rtol=1e-4, atol=1e-3)


def test_deviance_with_a_large_gain_is_chi_squared():
    grid, data, error, good, _ = _noisy(None)
    model = render_sersic(PARAMETERS, grid)
    expected = deviance(model, data, error, good)
    torch.testing.assert_close(deviance(model, data, error, good, torch.tensor([1e9]).double()), expected)
    torch.testing.assert_close(deviance(model, data, error, good, torch.tensor([torch.inf]).double()), expected)


def test_deviance_is_smallest_at_the_truth_without_noise():
    grid, _, error, good, gain = _noisy(0.5)
    model = render_sersic(PARAMETERS, grid)
    least = deviance(model, model, error, good, gain)
    for factor in (0.97, 0.999, 1.001, 1.03):
        assert deviance(model * factor, model, error, good, gain) > least


def test_fisher_is_the_covariance_of_the_score():
    generator = torch.Generator().manual_seed(2)
    grid = _grid()
    gain = torch.tensor([1.0], dtype=torch.float64)
    error = torch.full((1, 1, 1), 1.0, dtype=torch.float64)
    model, jacobian = render_sersic(PARAMETERS, grid, jacobian=True)
    noise = torch.randn((4000, 32, 32), generator=generator, dtype=torch.float64) * variance(model, error, gain).sqrt()
    count = len(noise)
    good = torch.ones_like(noise, dtype=torch.bool)
    found = normal_equations(
        model.expand(count, -1, -1), jacobian.expand(count, -1, -1, -1), model + noise, error, good, gain.expand(count)
    )
    expected = found.fisher[0]
    scale = expected.diagonal().sqrt()
    empirical = torch.cov(found.score.T) / scale[:, None] / scale
    np.testing.assert_allclose(empirical, expected / scale[:, None] / scale, atol=0.08)


def test_log_likelihood_is_normalised():
    values = torch.linspace(-60, 60, 24001, dtype=torch.float64)[:, None, None]
    for dof in (None, 4.0):
        log_density = log_likelihood(
            torch.zeros_like(values), values, torch.full((1, 1, 1), 1.5, dtype=torch.float64),
            torch.ones_like(values, dtype=torch.bool), dof=dof,
        )  # fmt: skip
        assert torch.exp(log_density).sum().item() * 0.005 == pytest.approx(1.0, abs=2e-3)


def test_masked_pixels_do_not_count():
    data = torch.zeros((1, 4, 4))
    data[0, 1, 1] = 1e6
    good = torch.ones((1, 4, 4), dtype=torch.bool)
    good[0, 1, 1] = False
    value = log_likelihood(torch.zeros((1, 4, 4)), data, torch.ones(1, 1, 1), good)
    assert value.item() == pytest.approx(-7.5 * np.log(2 * np.pi))


def test_singular_information_gives_nan():
    matrices = torch.stack([torch.eye(3), torch.ones(3, 3), torch.full((3, 3), torch.nan)]).double()
    inverse = invert_information(matrices)
    torch.testing.assert_close(inverse[0], torch.eye(3).double())
    assert torch.isnan(inverse[1:]).all()
