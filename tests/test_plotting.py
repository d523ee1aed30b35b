"""Pictures of fits: what is drawn, and what is refused."""

import numpy as np
import pytest
from astropy import units as u
from astropy.table import QTable

from galmeasure import Cutouts
from galmeasure.evaluation import elliptical_profile, plot_fit
from galmeasure.plotting import plot_data, plot_model, plot_profile, plot_residual

pytest.importorskip("matplotlib")

SHAPE = (40, 48)


def gaussian_galaxy(centre, q, theta, size=4.0):
    y, x = np.indices(SHAPE)
    dx, dy = x - centre[0], y - centre[1]
    cos, sin = np.cos(np.radians(theta)), np.sin(np.radians(theta))
    return 100 * np.exp(-((dx * cos + dy * sin) ** 2 + ((dy * cos - dx * sin) / q) ** 2) / (2 * size**2))


def result_table(flux=1e4, unit=1, length=u.pix, flags=0, centre=(22.0, 19.0)):
    values = {
        "x": centre[0],
        "y": centre[1],
        "flux": flux * unit,
        "n": 1.0,
        "r_eff": 3.0 * length,
        "g1": 0.1,
        "g2": 0.2,
    }
    table = QTable({"id": [7]})
    for name, value in values.items():
        table[f"{name}_fit"] = u.Quantity([value])
        table[f"{name}_err"] = u.Quantity([0.01 * value])
    table["r_eff_major"] = [4.0] * length
    table["q"], table["theta"] = [0.6], [30.0] * u.deg
    table["snr"], table["chi2_reduced"], table["flags"] = [50.0], [1.01], [flags]
    return table


@pytest.fixture
def model():
    return gaussian_galaxy((22.0, 19.0), 0.6, 30.0)


@pytest.fixture
def psf():
    y, x = np.mgrid[-10:11, -10:11]
    return np.exp(-(x**2 + y**2) / 8)


@pytest.fixture
def image(model):
    return model + np.random.default_rng(5).normal(0, 2, SHAPE)


def test_profile_follows_the_ellipse(model):
    """On the ellipses of a Gaussian the profile is the Gaussian of the semi-major radius."""
    radius, mean, error = elliptical_profile(model, np.ones(SHAPE), np.ones(SHAPE, bool), (22.0, 19.0), 0.6, 30.0)
    np.testing.assert_allclose(mean, 100 * np.exp(-(radius**2) / 32), atol=2.0)
    assert np.all(np.diff(radius) > 0)
    assert np.all(error <= 1)
    _, wrong, _ = elliptical_profile(model, np.ones(SHAPE), np.ones(SHAPE, bool), (22.0, 19.0), 0.6, 120.0)
    assert np.abs(wrong - 100 * np.exp(-(radius**2) / 32)).max() > 10


def test_profile_error_is_that_of_the_mean():
    good = np.ones(SHAPE, bool)
    _, _, error = elliptical_profile(np.zeros(SHAPE), np.full(SHAPE, 3.0), good, (24, 20), 1.0, 0.0, n_bins=1)
    y, x = np.indices(SHAPE)
    used = np.hypot(x - 24, y - 20) < np.hypot(*SHAPE) / 2
    assert error == pytest.approx(3.0 / np.sqrt(used.sum()))


def test_profile_leaves_bad_pixels_out(model):
    good = np.ones(SHAPE, bool)
    good[:, :20] = False
    spoiled = np.where(good, model, np.nan)
    _, mean, _ = elliptical_profile(spoiled, np.ones(SHAPE), good, (22.0, 19.0), 0.6, 30.0)
    assert np.isfinite(mean).all()


def test_panels(image, model, psf):
    figure = plot_fit(result_table()[0], Cutouts(image, psf, error=2.0), model=model)
    titles = [axis.get_title() for axis in figure.axes[:4]]
    assert titles == ["data", "model", "residual [sigma]", "profile per pixel"]
    residual = figure.axes[2].images[0].get_array()
    np.testing.assert_allclose(residual, (image - model) / 2.0)
    assert "7:" in figure.get_suptitle()
    assert "flags: none" in figure.get_suptitle()


def test_residual_has_the_source_noise(image, model, psf):
    figure = plot_fit(result_table()[0], Cutouts(image, psf, error=2.0, gain=0.5), model=model)
    residual = figure.axes[2].images[0].get_array()
    np.testing.assert_allclose(residual, (image - model) / np.sqrt(4.0 + model / 0.5))


def test_units_scale_and_parent_image(image, model, psf):
    cutouts = Cutouts(
        image * u.adu, psf, error=2.0 * u.adu, pixel_scale=0.2, positions=[(123.5, 219.5)], psf_oversampling=1
    )
    table = result_table(unit=u.adu, length=u.arcsec, centre=(122.0, 219.0))
    figure = plot_fit(table, cutouts, model=model * u.adu)
    assert figure.axes[0].get_title() == "data [adu]"
    assert figure.axes[3].get_xlabel() == "semi-major radius [arcsec]"
    assert figure.axes[0].get_xlim() == (99.5, 147.5)
    ellipse = figure.axes[0].patches[0]
    assert ellipse.center == (122.0, 219.0)
    assert ellipse.width == pytest.approx(2 * 4.0 / 0.2)


def test_masked_pixels_are_not_drawn(image, model, psf):
    mask = np.zeros(SHAPE, bool)
    mask[:5, :5] = True
    figure = plot_fit(result_table()[0], Cutouts(image, psf, error=2.0, mask=mask), model=model)
    assert np.isnan(np.ma.filled(figure.axes[2].images[0].get_array(), np.nan)[:5, :5]).all()


def test_failed_row(image, psf):
    table = result_table(flux=np.nan, flags=1)
    figure = plot_fit(table[0], Cutouts(image, psf, error=2.0))
    assert "failed" in figure.get_suptitle()
    assert not figure.axes[1].images


def test_one_of_many_and_a_figure_of_the_caller(image, model, psf):
    from matplotlib.figure import Figure

    mine = Figure()
    cutouts = Cutouts(np.stack([image, image]), psf, error=2.0)
    assert plot_fit(result_table()[0], cutouts, 1, model=model, figure=mine) is mine


def test_refusals(image, model, psf):
    two = Cutouts(np.stack([image, image]), psf, error=2.0)
    with pytest.raises(ValueError, match="index must be given"):
        plot_fit(result_table(), two)
    with pytest.raises(ValueError, match="index must lie between 0 and 1, not 2"):
        plot_fit(result_table(), two, 2)
    with pytest.raises(ValueError, match="model must have the shape of the cutout"):
        plot_fit(result_table(), two, 0, model=model[:5])
    with pytest.raises(ValueError, match="row must be one row"):
        plot_fit(result_table()[[0, 0]], two, 0)


def test_draws_the_model_itself(image, psf):
    from galmeasure import LSQSersicFitter

    cutouts = Cutouts(image, psf, error=2.0)
    figure = plot_fit(LSQSersicFitter().fit(cutouts)[0], cutouts)
    residual = np.asarray(figure.axes[2].images[0].get_array())
    assert residual.std() < 1.5


def test_panels_one_by_one(image, model, psf):
    from matplotlib.figure import Figure

    row, cutouts = result_table(length=u.pix)[0], Cutouts(image, psf, error=2.0)
    axes = Figure().subplots(1, 4)
    assert plot_data(row, cutouts, ax=axes[0]) is axes[0]
    np.testing.assert_allclose(axes[0].images[0].get_array(), image)
    plot_model(row, cutouts, model=model, ax=axes[1])
    np.testing.assert_allclose(axes[1].images[0].get_array(), model)
    plot_residual(row, cutouts, model=model, ax=axes[2])
    np.testing.assert_allclose(axes[2].images[0].get_array(), (image - model) / 2.0)
    assert plot_profile(row, cutouts, model=model, ax=axes[3]).get_xlabel() == "semi-major radius [pixel]"
    failed = result_table(flux=np.nan, flags=1)[0]
    assert plot_model(failed, cutouts).texts[0].get_text() == "no model"
    assert not plot_profile(failed, cutouts).axison


def test_very_small_values_share_a_power_of_ten():
    from galmeasure.plotting import with_error

    assert with_error(2.091e-7, 1.8e-9) == "(2.091 ± 0.018) × 10$^{-7}$"
    assert with_error(35395.8, 586.6) == "35396 ± 587"
    assert with_error(3.485, 0.075) == "3.485 ± 0.075"
