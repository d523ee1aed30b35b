"""Pictures of posteriors and of many galaxies."""

import numpy as np
import pytest
from astropy import units as u
from astropy.table import QTable

from galmeasure import Cutouts
from galmeasure.plotting import plot_corner, plot_mosaic
from galmeasure.plotting.figures import RESIDUAL_RANGE
from galmeasure.plotting.panels import FitImages
from galmeasure.plotting.strips import GAP, galaxy_strip, palette

pytest.importorskip("matplotlib")

NAMES = ("flux", "n", "r_eff", "g1", "g2")
CENTRE = np.array([1e4, 2.0, 0.5, 0.1, -0.2])
ERROR = np.array([300.0, 0.2, 0.03, 0.02, 0.02])


@pytest.fixture
def draws():
    pytest.importorskip("corner")
    values = CENTRE + ERROR * np.random.default_rng(1).normal(size=(2000, 5))
    table = QTable({"id": [7]})
    for i, name in enumerate(NAMES):
        table[name] = values[None, :, i] * {"flux": u.adu, "r_eff": u.arcsec}.get(name, 1)
    table["x"] = np.full((1, 2000), 31.5)
    return table


def fitted(covariance=None):
    units = {"flux": u.adu, "r_eff": u.arcsec}
    row = {f"{name}_fit": [CENTRE[i]] * units.get(name, u.one) for i, name in enumerate(NAMES)}
    row |= {
        f"{name}_{end}": [ERROR[i]] * units.get(name, u.one) for i, name in enumerate(NAMES) for end in ("err", "crb")
    }
    table = QTable(row)
    if covariance is not None:
        table["covariance"] = [covariance]
    return table


def test_corner_labels_and_lines(draws):
    truth = {"true_flux": 1e4, "true_n": 2.1, "true_r_eff": 510.0 * u.mas}
    axes = plot_corner(draws[0], truth=truth)
    assert axes.shape == (5, 5)
    assert [axis.get_xlabel() for axis in axes[-1]] == [
        "$F$ [adu]",
        "$n$",
        r"$r_\mathrm{eff}$ [arcsec]",
        "$g_1$",
        "$g_2$",
    ]
    assert axes[2, 2].lines[0].get_xdata()[0] == pytest.approx(0.51)
    assert not axes[4, 4].lines
    assert not axes[0, 1].axison or not axes[0, 1].get_frame_on()


def test_corner_overlays_have_the_area_of_the_histogram(draws):
    axes = plot_corner(draws, parameters=("n", "r_eff"), least_squares=fitted(), bounds=fitted()[0])
    x, curve = axes[0, 0].lines[0].get_data()
    heights = axes[0, 0].patches[0].get_xy()
    assert curve.max() == pytest.approx(heights[:, 1].max(), rel=0.25)
    assert x[curve.argmax()] == pytest.approx(2.0, abs=0.02)
    legend = [text.get_text() for text in axes[0, 0].figure.legends[0].get_texts()]
    assert legend == ["posterior", "least squares", "Cramer-Rao bound"]
    assert len(axes[1, 0].containers) == 2


def test_corner_ellipse_is_that_of_the_covariance(draws):
    full = np.eye(7)
    full[:2, :2] = [[9e4, 48.0], [48.0, 0.04]]
    axes = plot_corner(draws, parameters=("n", "flux"), least_squares=fitted(full))
    ellipse = axes[1, 0].patches[-1]
    vertices = ellipse.get_transform().transform_path(ellipse.get_path()).to_polygons()[0]
    x, y = axes[1, 0].transData.inverted().transform(vertices).T
    assert np.ptp(x) / 2 == pytest.approx(0.2, rel=5e-3)
    assert np.ptp(y) / 2 == pytest.approx(300.0, rel=5e-3)
    assert y[x.argmax()] == pytest.approx(1e4 + 0.8 * 300, rel=5e-3)


def test_corner_refuses(draws):
    with pytest.raises(ValueError, match="parameters must vary among the draws; x is known"):
        plot_corner(draws, parameters=("n", "x"))
    with pytest.raises(ValueError, match="different columns of draws, not size"):
        plot_corner(draws, parameters=("n", "size"))
    with pytest.raises(ValueError, match="one row of a table each"):
        plot_corner(draws, truth=QTable({"n": [1.0, 2.0]}))
    with pytest.raises(ValueError, match="does not convert"):
        plot_corner(draws, truth={"r_eff": 2.0 * u.Jy})
    draws["n"][:] = np.nan
    with pytest.raises(ValueError, match="this row has 0 for 5"):
        plot_corner(draws)


@pytest.fixture(scope="module")
def cutouts():
    y, x = np.mgrid[-6:7, -6:7]
    psf = np.exp(-(x**2 + y**2) / 4)
    images = np.random.default_rng(3).normal(size=(3, 20, 24))
    mask = np.zeros((3, 20, 24), dtype=bool)
    mask[0, :3, :4] = True
    return Cutouts(images, psf, error=1.0, mask=mask, ids=["one", "$two", "three"])


@pytest.fixture
def table():
    values = {"flux": 100.0, "n": 1.0, "r_eff": 3.0, "g1": 0.0, "g2": 0.0, "x": 12.0, "y": 10.0}
    table = QTable({"id": ["one", "$two", "three"]})
    for name, value in values.items():
        table[f"{name}_fit"] = [value, value, np.nan]
    table["snr"], table["flags"] = [20.0, 30.0, np.nan], [0, 4, 1]
    return table


def test_mosaic_shows_flags(cutouts, table):
    axes = plot_mosaic(table, cutouts, n_columns=2)
    assert [axis.get_title() for axis in axes] == ["one   S/N 20", "$two   S/N 30", "three   S/N nan"]
    assert [axis.get_xlabel() for axis in axes] == ["", "at_bound", "failed"]
    assert len(axes[0].figure.axes) == 3
    axes[0].figure.canvas.draw()
    assert [axis.get_title() for axis in plot_mosaic(table, cutouts, rows=[2])] == ["three   S/N nan"]


def test_mosaic_refuses(cutouts, table):
    with pytest.raises(ValueError, match="rows must be integers between 0 and 2"):
        plot_mosaic(table, cutouts, rows=[3])
    with pytest.raises(ValueError, match="table must have one row per cutout: 3, not 2"):
        plot_mosaic(table[:2], cutouts)
    with pytest.raises(ValueError, match="n_columns must be at least 1"):
        plot_mosaic(table, cutouts, n_columns=0)


def test_strip_shows_data_model_and_residual(cutouts, table):
    images = FitImages.of(table[:1], cutouts[:1])
    strip = palette()[galaxy_strip(images)].astype(int)
    assert strip.shape == (20, 3 * 24 + 2 * GAP, 3)
    assert (strip[:3, :4] == 191).all()
    assert (strip[:, 24:26] == 255).all()
    model, residual = strip[:, 26:50], strip[:, 52:]
    assert np.unravel_index(model[..., 1].argmax(), model.shape[:2]) == (10, 12)
    red, blue = residual[..., 0] - residual[..., 2], images.residual
    good = images.good & (np.abs(blue) > 0.2) & (np.abs(blue) < RESIDUAL_RANGE)
    assert np.all((red[good] > 0) == (blue[good] > 0))


def test_large_strip_is_averaged_and_keeps_its_significance():
    image = np.full((100, 130), 1.0)
    images = FitImages(image, np.full(image.shape, 2.0), np.ones(image.shape, bool), np.zeros(image.shape))
    strip = galaxy_strip(images, longest=64)
    assert strip.shape == (34, 3 * 44 + 2 * GAP)
    expected = 120 + round((0.5 + 0.5 * 0.5 * 3 / RESIDUAL_RANGE) * 119)
    assert strip[0, -10] == expected


def test_strip_without_a_model_is_grey(cutouts, table):
    strip = palette()[galaxy_strip(FitImages.of(table[2:], cutouts[2:]))]
    assert (strip[:, 26:50] == 191).all()
    assert (strip[:, 52:] == 191).all()
