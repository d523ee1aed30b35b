"""Starts of least squares: the better of the one given and the one from moments, and steps that meet a bound."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from _galaxies import draw, gaussian_psf, mixed_parameters

from galmeasure import LSQSersicFitter
from galmeasure.fitters.base import BatchMeasurement, SersicFitterBase
from galmeasure.fitters.lsq.levenberg import minimise
from galmeasure.parameters import PARAMETER_NAMES

SHAPE = (48, 48)
PSF = gaussian_psf(25, 3.0)
N_GALAXIES = 40
CORRUPTED = {
    "bright point": {"n": 8.0, "r_eff": 0.6, "flux": 2.5},
    "faint point": {"n": 8.0, "r_eff": 0.6, "flux": 0.4},
    "wide": {"n": 0.5, "r_eff": 25.0, "flux": 1.0},
    "huge": {"n": 7.9, "r_eff": 30.0, "flux": 1.0},
}
"""Index and radius in pixels of bad starts, and their flux over the true one."""


@dataclass(frozen=True, kw_only=True)
class Guess(SersicFitterBase):
    """Fitter that has its answers already, in the units of the batch, and NaN for odd rows."""

    answers: tuple = ()
    crb: bool = False
    covariance: bool = False
    device: str = "cpu"
    batch_size: int | None = None

    def measure(self, batch, init):
        found = BatchMeasurement.empty(len(batch))
        found.values[:] = np.array(self.answers)[batch.index]
        return found


def values(table, suffix="fit"):
    return np.stack([getattr(table[f"{p}_{suffix}"], "value", table[f"{p}_{suffix}"]) for p in PARAMETER_NAMES], 1)


@pytest.fixture(scope="module")
def galaxies():
    """Images with unit noise, their true parameters, and what a fit from moments gives."""
    rng = np.random.default_rng(4)
    true = mixed_parameters(N_GALAXIES, SHAPE, rng)
    images = draw(SHAPE, PSF, true) + rng.normal(size=(N_GALAXIES, *SHAPE))
    return images, true, LSQSersicFitter().fit(images, PSF, error=1.0)


def corrupted(true, change):
    bad = true.copy()
    bad[:, 0] *= change["flux"]
    bad[:, 1], bad[:, 2] = change["n"], change["r_eff"]
    return bad


def assert_same_end(table, expected):
    assert (np.abs(values(table) - values(expected)) < 0.02 * values(expected, "err")).mean() > 0.99
    np.testing.assert_allclose(table["chi2_reduced"], expected["chi2_reduced"], rtol=1e-4)


@pytest.mark.parametrize("kind", CORRUPTED)
def test_bad_start_does_no_harm(galaxies, kind):
    images, true, usual = galaxies
    start = dict(zip(PARAMETER_NAMES, corrupted(true, CORRUPTED[kind]).T, strict=True))
    table = LSQSersicFitter().fit(images, PSF, error=1.0, init_params=start)
    assert_same_end(table, usual)
    assert (table["n_init"] != CORRUPTED[kind]["n"]).mean() > 0.9


def test_bad_estimates_of_another_fitter_do_no_harm(galaxies):
    images, true, usual = galaxies
    bad = corrupted(true, CORRUPTED["bright point"])
    bad[:, 5:] += 8.0
    bad[1::2] = np.nan
    table = LSQSersicFitter(init=Guess(answers=tuple(map(tuple, bad)))).fit(images, PSF, error=1.0)
    assert_same_end(table, usual)
    np.testing.assert_allclose(values(table, "init")[1::2], values(usual, "init")[1::2])


def test_good_start_is_kept(galaxies):
    images, true, usual = galaxies
    table = LSQSersicFitter(init=Guess(answers=tuple(map(tuple, true)))).fit(images, PSF, error=1.0)
    np.testing.assert_allclose(values(table, "init"), true, rtol=1e-9)
    assert_same_end(table, usual)


def test_what_is_fixed_is_in_both_starts(galaxies):
    images, true, _ = galaxies
    start = {"n": true[:, 1], "flux": 1.1 * true[:, 0], "r_eff": np.full(N_GALAXIES, 20.0)}
    fitter = LSQSersicFitter(fixed={"n": "init", "flux": "init"})
    table = fitter.fit(images, PSF, error=1.0, init_params=start)
    np.testing.assert_allclose(table["n_fit"], true[:, 1])
    np.testing.assert_allclose(table["flux_init"], 1.1 * true[:, 0])
    assert (np.abs(table["r_eff_fit"].value - true[:, 2]) < 1.0).all()


@pytest.mark.parametrize("options", [{"loss": "student-t"}, {"fit_background": True}])
def test_options(galaxies, options):
    images, true, _ = galaxies
    start = dict(zip(PARAMETER_NAMES, corrupted(true, CORRUPTED["bright point"]).T, strict=True))
    usual, table = (LSQSersicFitter(**options).fit(images, PSF, error=1.0, init_params=i) for i in (None, start))
    assert_same_end(table, usual)


def test_step_across_a_bound_goes_downhill():
    """Cutting the step of one of two correlated variables leads uphill: the other must take the step of the bound."""
    hessian = torch.tensor([[[1.0, -0.99], [-0.99, 1.0]]], dtype=torch.float64)
    lowest = torch.tensor([[2.0, 2.0]], dtype=torch.float64)

    def evaluate(rows, x):
        gradient = torch.einsum("bij,bj->bi", hessian, lowest - x)
        return torch.einsum("bi,bi->b", lowest - x, gradient), gradient, hessian

    start = torch.tensor([[0.0, -0.2]], dtype=torch.float64)
    bound = torch.full_like(start, torch.inf)
    upper = torch.tensor([[0.1, torch.inf]], dtype=torch.float64)
    solution = minimise(evaluate, start, -bound, upper)
    assert solution.converged.all()
    np.testing.assert_allclose(solution.x, [[0.1, 2.0 - 0.99 * 1.9]], atol=1e-2)
