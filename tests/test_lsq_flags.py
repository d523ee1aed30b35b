"""Quality flags of the least-squares fit, a test each."""

import numpy as np
import pytest
from _galaxies import draw
from _lsq import GALAXY, PSF, SHAPE, SIGMA, draws, values

from galmeasure import LSQSersicFitter, decode_flags


def flags_of(image, fitter=None, **options):
    options.setdefault("error", SIGMA)
    table = (fitter or LSQSersicFitter()).fit(image, PSF, **options)
    return set(decode_flags(table["flags"][0])), table[0]


def test_no_flag():
    assert flags_of(draws(1, seed=1)[0])[0] == set()


def test_flag_not_converged():
    flags, row = flags_of(draws(1, seed=1)[0], LSQSersicFitter(max_iter=2))
    assert flags == {"not_converged"}
    assert np.isfinite(row["flux_fit"])


@pytest.mark.parametrize("held", ["nothing", "n"])
def test_flag_at_bound_of_the_index(held):
    """A disc with an edge needs an index below the bound; an index that is held is at no bound."""
    y, x = np.indices(SHAPE)
    image = 50.0 * (np.hypot(x - 15, y - 16) < 8) + np.random.default_rng(1).normal(0, SIGMA, SHAPE)
    fitter = LSQSersicFitter(fixed={} if held == "nothing" else {"n": 0.3})
    flags, row = flags_of(image, fitter)
    assert ("at_bound" in flags) is (held == "nothing")
    assert row["n_fit"] == pytest.approx(0.3, rel=1e-3)


def test_flag_at_bound_of_the_radius():
    """A star that is sharper than the PSF."""
    y, x = np.indices(SHAPE)
    star = 300 * np.exp(-4 * np.log(2) * ((x - 14) ** 2 + (y - 15) ** 2) / 2.7**2)
    flags, row = flags_of(star + np.random.default_rng(5).normal(0, SIGMA / 10, SHAPE), error=SIGMA / 10)
    assert "at_bound" in flags
    assert row["r_eff_fit"].value == pytest.approx(0.05, rel=1e-3)


def test_flag_at_bound_of_the_ellipticity():
    """A line that is longer than the radius at which the fit is held."""
    image = draw(SHAPE, PSF, (5000.0, 1.0, 1.0, 0.945, 0.0, 14.7, 15.4))[0]
    flags, row = flags_of(image, LSQSersicFitter(fixed={"r_eff": 0.6}), error=0.05)
    assert "at_bound" in flags
    assert np.hypot(row["g1_fit"], row["g2_fit"]) > 0.94


def test_flag_negative_flux():
    flags, row = flags_of(-draws(1, seed=1)[0])
    assert "negative_flux" in flags
    assert row["flux_fit"] < 0


def test_flag_centre_outside():
    image = draw(SHAPE, PSF, (20000.0, 1.0, 3.0, 0.0, 0.0, 33.0, 15.4))[0]
    flags, row = flags_of(image + np.random.default_rng(1).normal(0, SIGMA, SHAPE), init_params={"x": [28.0]})
    assert {"centre_outside", "truncated"} <= flags
    assert row["x_fit"] == pytest.approx(33.0, abs=5 * row["x_err"])
    assert row["x_fit"] > SHAPE[1] - 0.5


def test_flag_truncated():
    image = draw(SHAPE, PSF, (50000.0, 2.0, 14.0, 0.0, 0.0, 14.7, 15.4))[0]
    flags, _ = flags_of(image + np.random.default_rng(1).normal(0, SIGMA, SHAPE))
    assert flags == {"truncated"}


def test_flag_bad_fit():
    """Two galaxies, or an error that is too small by half."""
    pair = draw(SHAPE, PSF, [GALAXY, (8000.0, 1.0, 2.0, 0.0, 0.0, 22.0, 8.0)]).sum(0)
    flags, row = flags_of(pair + np.random.default_rng(1).normal(0, SIGMA, SHAPE))
    assert "bad_fit" in flags
    assert row["chi2_reduced"] > 1.3
    assert flags_of(draws(1, seed=1)[0], error=0.5 * SIGMA)[0] == {"bad_fit"}


def test_flag_failed():
    flags, row = flags_of(np.full(SHAPE, np.nan))
    assert {"failed", "many_masked", "nonfinite_pixels"} == flags
    assert np.isnan(values(row.table)).all()
    assert np.isnan(row["snr"])
