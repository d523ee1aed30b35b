"""Stamps with nothing to measure, and rows whose errors are not known."""

import numpy as np
import pytest

from galmeasure import Cutouts, Flag, LSQSersicFitter, NeuralSersicFitter
from galmeasure.fitters.base import BatchMeasurement
from galmeasure.fitters.blank import flag_unknown_errors

Y, X = np.mgrid[-16:17, -16:17]
PSF = np.exp(-(X**2 + Y**2) / 4.5)
GALAXY = 200 * np.exp(-np.hypot(X, Y) / 3.0) + np.random.default_rng(1).normal(size=X.shape)
BLANK = {
    "zeros": np.zeros_like(GALAXY),
    "constant": np.full_like(GALAXY, 5.0),
    "zeros and nan": np.where(X > 3, np.nan, 0.0),
    "one pixel": np.where((X == 0) & (Y == 0), np.inf, 7.0),
}
FITTERS = {
    "lsq": LSQSersicFitter(),
    "background": LSQSersicFitter(fit_background=True),
    "fixed": LSQSersicFitter(fixed={"n": 1.0}),
    "neural": NeuralSersicFitter(),
}


@pytest.mark.parametrize("fitter", FITTERS)
@pytest.mark.parametrize("error", [1.0, np.ones(GALAXY.shape), None])
def test_blank_stamps_fail_alone(fitter, error):
    stack = np.stack([GALAXY, *BLANK.values(), GALAXY])
    error = np.broadcast_to(error, stack.shape) if np.ndim(error) else error
    table = FITTERS[fitter].fit(stack, PSF, error=error)
    failed = [False, *[True] * len(BLANK), False]
    assert (table["flags"] & Flag.FAILED > 0).tolist() == failed
    for name in ("flux_fit", "flux_err", "n_fit", "n_err", "r_eff_fit", "x_fit", "chi2_reduced"):
        assert np.isnan(np.asarray(table[name], dtype=float)).tolist() == failed
    assert table["id"].tolist() == list(range(1, len(stack) + 1))
    again = FITTERS[fitter].fit(GALAXY, PSF, error=None if error is None else 1.0)
    assert float(table["n_fit"][-1]) == pytest.approx(float(again["n_fit"][0]), rel=5e-3)


def test_draws_of_blank_stamps():
    drawn = NeuralSersicFitter().sample(np.stack([GALAXY, BLANK["zeros"]]), PSF, 3, error=1.0)
    assert np.isfinite(drawn["n"][0]).all()
    assert np.isnan(drawn["n"][1]).all()


def test_noise_alone_is_measured():
    noise = np.random.default_rng(2).normal(size=GALAXY.shape)
    table = LSQSersicFitter().fit(Cutouts(noise, PSF, error=1.0))
    assert not table["flags"][0] & Flag.FAILED


def test_unknown_errors_are_flagged():
    measurement = BatchMeasurement.empty(3)
    measurement.values[:2] = 1.0
    measurement.covariance[0] = np.eye(7)
    measurement.covariance[1] = np.diag([1.0, np.inf, 1, 1, 1, 1, 1])
    flag_unknown_errors(measurement.values, measurement.covariance, measurement.flags)
    assert measurement.flags.tolist() == [0, int(Flag.NOT_CONVERGED), 0]
