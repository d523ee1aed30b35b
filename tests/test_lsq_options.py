"""Options of the least-squares fit: background, fixed and starting values, robust residuals, masks."""

import numpy as np
import pytest
from _agreement import plain
from _galaxies import draw
from _lsq import GALAXY, PSF, SHAPE, SIGMA, assert_normal, assert_same, draws, values
from astropy import units as u

from galmeasure import LSQSersicFitter, decode_flags
from galmeasure.parameters import PARAMETER_NAMES


def test_background():
    images = draws(60, seed=3) + 3.0
    table = LSQSersicFitter(fit_background=True).fit(images * u.Jy, PSF, error=SIGMA * u.Jy)
    assert table["background_fit"].unit == table["background_err"].unit == u.Jy
    pulls = (plain(table["background_fit"]) - 3.0) / plain(table["background_err"])
    assert_normal(np.column_stack([pulls, (values(table) - GALAXY) / values(table, "err")]), bias=0.15)
    ignored = LSQSersicFitter().fit(images, PSF, error=SIGMA)
    assert np.median((ignored["flux_fit"] - GALAXY[0]) / plain(table["flux_err"])) > 4
    known = LSQSersicFitter().fit(images - 3.0, PSF, error=SIGMA)
    assert (plain(table["flux_err"]) > known["flux_err"]).mean() > 0.9


def test_fixed_number():
    images = draws(60, seed=4)
    free = LSQSersicFitter().fit(images, PSF, error=SIGMA)
    table = LSQSersicFitter(fixed={"n": 2.0}, covariance=True).fit(images, PSF, error=SIGMA)
    np.testing.assert_allclose(table["n_fit"], 2.0, rtol=1e-12)
    assert (table["n_err"] == 0.0).all()
    assert (plain(table["covariance"])[:, 1] == 0.0).all()
    others = [i for i, name in enumerate(PARAMETER_NAMES) if name != "n"]
    assert_normal((values(table) - GALAXY)[:, others] / values(table, "err")[:, others], bias=0.1)
    assert np.median(plain(table["flux_err"]) / plain(free["flux_err"])) < 0.9


def test_fixed_number_that_is_wrong():
    table = LSQSersicFitter(fixed={"n": 4, "g1": 0.0, "g2": 0.1}).fit(
        draws(3, seed=4), PSF, error=SIGMA, pixel_scale=0.2
    )
    np.testing.assert_allclose(table["n_fit"], 4.0)
    np.testing.assert_array_equal(table["g1_fit"], 0.0)
    np.testing.assert_allclose(table["g2_fit"], 0.1)
    assert (plain(table["flux_fit"]) > GALAXY[0]).all()


def test_forced_photometry():
    """All but the flux held at the start: the optimal linear estimate of the flux."""
    images = draws(50, seed=5)
    held = ("n", "r_eff", "g1", "g2", "x", "y")
    start = {name: np.full(50, value) for name, value in zip(PARAMETER_NAMES, GALAXY, strict=True) if name != "flux"}
    table = LSQSersicFitter(fixed=dict.fromkeys(held, "init")).fit(images, PSF, error=SIGMA, init_params=start)
    unit = draw(SHAPE, PSF, (1.0, *GALAXY[1:]))[0]
    np.testing.assert_allclose(table["flux_fit"], (images * unit).sum((1, 2)) / (unit**2).sum(), rtol=1e-4)
    np.testing.assert_allclose(table["flux_err"], SIGMA / np.sqrt((unit**2).sum()), rtol=1e-4)
    for name in held:
        np.testing.assert_allclose(plain(table[f"{name}_fit"]), start[name], rtol=1e-12)
    with pytest.raises(ValueError, match="init_params must give the parameters that fixed holds"):
        LSQSersicFitter(fixed={"n": "init"}).fit(images, PSF, error=SIGMA)
    start["n"][7] = np.nan
    other = LSQSersicFitter(fixed=dict.fromkeys(held, "init")).fit(images, PSF, error=SIGMA, init_params=start)
    assert [row for row in range(50) if "failed" in decode_flags(other["flags"][row])] == [7]
    assert_same(table[:7], other[:7])


def test_student_t_ignores_outliers():
    images = draws(40, seed=6)
    spoiled = images.copy()
    rng = np.random.default_rng(7)
    hit = rng.random(images.shape) < 0.01
    spoiled[hit] += rng.uniform(20, 60, hit.sum()) * SIGMA
    clean = values(LSQSersicFitter().fit(images, PSF, error=SIGMA))
    scale = values(LSQSersicFitter().fit(images, PSF, error=SIGMA), "err")
    shift = {
        loss: np.median(np.abs(values(LSQSersicFitter(loss=loss).fit(spoiled, PSF, error=SIGMA)) - clean) / scale, 0)
        for loss in ("gaussian", "student-t")
    }
    assert (shift["student-t"] < 0.8).all()
    assert shift["gaussian"][0] > 2.0
    assert (shift["student-t"] < shift["gaussian"]).all()


def test_student_t_errors():
    """On noise that is drawn from the t distribution, the errors are right."""
    image = draw(SHAPE, PSF, GALAXY)[0]
    images = image + SIGMA * np.random.default_rng(8).standard_t(4, (100, *SHAPE))
    table = LSQSersicFitter(loss="student-t", dof=4).fit(images, PSF, error=SIGMA)
    assert_normal((values(table) - GALAXY) / values(table, "err"), bias=0.1)


def test_start_from_a_result():
    images = draws(20, seed=9)
    first = LSQSersicFitter().fit(images, PSF, error=SIGMA, pixel_scale=0.2)
    again = LSQSersicFitter().fit(images, PSF, error=SIGMA, pixel_scale=0.2, init_params=first)
    np.testing.assert_allclose(values(again, "init"), values(first), rtol=1e-9)
    assert (np.abs(values(again) - values(first)) < 0.01 * values(first, "err")).all()


def test_start_from_some_values():
    """What is missing or NaN is estimated; a start worse than the one from moments is not used."""
    images = draws(10, seed=9)
    usual = LSQSersicFitter().fit(images, PSF, error=SIGMA)
    good = {"n": np.full(10, GALAXY[1]), "r_eff": np.full(10, GALAXY[2]), "g1": [np.nan, GALAXY[3]] * 5}
    table = LSQSersicFitter().fit(images, PSF, error=SIGMA, init_params=good)
    np.testing.assert_allclose(table["n_init"], GALAXY[1])
    np.testing.assert_allclose(table["g1_init"][1::2], GALAXY[3])
    np.testing.assert_allclose(table["g1_init"][::2], usual["g1_init"][::2], rtol=1e-2)
    assert (np.abs(values(table) - values(usual)) < 0.02 * values(usual, "err")).all()
    far = {"n": np.full(10, 5.0), "g1": [np.nan, -0.5] * 5, "x_fit": np.full(10, 15.0)}
    table = LSQSersicFitter().fit(images, PSF, error=SIGMA, init_params=far)
    np.testing.assert_allclose(values(table, "init"), values(usual, "init"), atol=0.02, rtol=1e-3)
    assert (np.abs(values(table) - values(usual)) < 0.02 * values(usual, "err")).all()


def test_start_with_one_shear():
    """One component of the shear may be given alone; together they count only where |g| is below 1."""
    images = draws(2, seed=9)
    usual = LSQSersicFitter().fit(images, PSF, error=SIGMA)
    near = {"n": [GALAXY[1]] * 2, "r_eff": [GALAXY[2]] * 2, "g1": [GALAXY[3]] * 2}
    table = LSQSersicFitter().fit(images, PSF, error=SIGMA, init_params=near)
    np.testing.assert_allclose(table["g1_init"], GALAXY[3], rtol=1e-9)
    shears = {"g1": [0.9, GALAXY[3]], "g2": [0.9, GALAXY[4]]}
    table = LSQSersicFitter().fit(images, PSF, error=SIGMA, init_params=near | shears)
    assert table["g1_init"][0] == pytest.approx(usual["g1_init"][0], rel=1e-4)
    assert table["g2_init"][1] == pytest.approx(GALAXY[4])


def test_one_shear_cannot_be_fixed_alone():
    with pytest.raises(ValueError, match="fixed must hold g1 and g2 together"):
        LSQSersicFitter(fixed={"g1": 0.3})


def test_masked_pixels_do_not_count():
    images = draws(12, seed=10)
    mask = np.zeros(images.shape, dtype=bool)
    mask[:, 3:8, 20:26] = True
    mask[::2, 15, 14] = True
    spoiled = np.where(mask, 1e5, images)
    table = LSQSersicFitter().fit(spoiled, PSF, error=SIGMA, mask=mask)
    other = LSQSersicFitter().fit(np.where(mask, np.nan, images), PSF, error=SIGMA)
    assert_same(table, other)
    np.testing.assert_array_equal(table["n_pixels_fit"], (~mask).sum((1, 2)))
    assert all(decode_flags(flags) == [] for flags in table["flags"])
    assert all(decode_flags(flags) == ["nonfinite_pixels"] for flags in other["flags"])
    assert_normal((values(table) - GALAXY) / values(table, "err"), bias=0.1)
