"""The study's baseline fit: recovers what is easy, and gives the table of the other fitters."""

import builtins

import numpy as np
import pytest
from astropy import units as u

from galmeasure import LSQSersicFitter, decode_flags

galsim = pytest.importorskip("galsim")

SCALE = 0.23
SIZE = 32
TRUTH = {"flux": 2e5, "n": 1.5, "r_eff": 0.45, "g1": 0.2, "g2": -0.1}


def stamp(**changes):
    """Noise-free galaxy and PSF image."""
    true = {**TRUTH, **changes}
    moffat = galsim.Moffat(beta=3, fwhm=0.7)
    galaxy = galsim.Sersic(true["n"], half_light_radius=true["r_eff"], flux=true["flux"])
    galaxy = galsim.Convolve(galaxy.shear(g1=true["g1"], g2=true["g2"]), moffat)
    psf = moffat.drawImage(nx=63, ny=63, scale=SCALE)
    return galaxy.drawImage(nx=SIZE, ny=SIZE, scale=SCALE).array, psf.array


@pytest.fixture(scope="module")
def fitter_class():
    from galmeasure.evaluation import GalSimSersicFitter

    return GalSimSersicFitter


@pytest.fixture(scope="module")
def easy():
    image, psf = stamp()
    noisy = image + np.random.default_rng(5).normal(0, 50, image.shape)
    return np.array([noisy, np.full_like(image, np.nan)]), psf, {"error": 50.0, "pixel_scale": SCALE}


@pytest.fixture(scope="module")
def table(fitter_class, easy):
    images, psf, options = easy
    return fitter_class(rescale=True).fit(images, psf, **options)


def test_recovers_an_easy_galaxy(table, easy):
    images, psf, options = easy
    lsq = LSQSersicFitter(fixed={"x": (SIZE - 1) / 2, "y": (SIZE - 1) / 2}).fit(images, psf, **options)
    for name, true in TRUTH.items():
        value, error = u.Quantity(table[f"{name}_fit"][0]).value, u.Quantity(lsq[f"{name}_err"][0]).value
        assert abs(value - true) < 4 * error
        assert abs(value - u.Quantity(lsq[f"{name}_fit"][0]).value) < 0.3 * error
    assert table["flags"][0] == 0
    assert table["x_fit"][0] == table["y_fit"][0] == (SIZE - 1) / 2
    assert table["method"][0] == "galsim"


def test_quality_agrees_with_the_other_fitter(table, easy):
    images, psf, options = easy
    lsq = LSQSersicFitter().fit(images, psf, **options)
    assert table.colnames == lsq.colnames
    assert [column.unit for column in table.itercols()] == [column.unit for column in lsq.itercols()]
    assert table["snr"][0] == pytest.approx(lsq["snr"][0], rel=0.01)
    assert table["chi2_reduced"][0] == pytest.approx(lsq["chi2_reduced"][0], rel=0.01)
    assert table["n_pixels_fit"][0] == SIZE**2


def test_errors_are_not_given(table):
    for name in ("flux", "n", "r_eff", "g1", "g2", "x", "y", "q"):
        assert np.isnan(table[f"{name}_err"]).all()


def test_failed_row(table):
    assert "failed" in decode_flags(table["flags"][1])
    assert np.isnan(table["flux_fit"][1])


def test_start_and_bounds(fitter_class, easy):
    """One step from the sum of the pixels, or from what is given; a galaxy rounder than allowed ends at its bound."""
    images, psf, options = easy
    fitter = fitter_class(bounds={"g1": (0.4, 0.5)}, max_iter=1)
    given = {"n": [np.nan, 1.0], "r_eff": [0.5, 0.5]}
    table = fitter.fit(images, psf, init_params=given, **options)
    row = table[0]
    assert row["flux_init"] == pytest.approx(images[0].sum(), rel=1e-6)
    assert row["n_init"] == 3.0
    assert row["r_eff_init"].value == pytest.approx(0.5)
    assert row["g1_init"] == 0.4
    assert {"at_bound", "not_converged"} <= set(decode_flags(row["flags"]))


def test_oversampled_psf_and_mask(fitter_class):
    image, _ = stamp()
    psf = galsim.Convolve(galsim.Moffat(beta=3, fwhm=0.7), galsim.Pixel(SCALE))
    psf = psf.drawImage(nx=189, ny=189, scale=SCALE / 3, method="no_pixel").array
    mask = np.zeros(image.shape, dtype=bool)
    mask[3:6, 20:24] = True
    image[mask] = 1e6
    table = fitter_class(rescale=True).fit(image, psf, psf_oversampling=3, error=50.0, mask=mask, pixel_scale=SCALE)
    assert table["n_fit"][0] == pytest.approx(TRUTH["n"], abs=0.01)
    assert table["r_eff_fit"][0].value == pytest.approx(TRUTH["r_eff"], rel=0.003)
    assert table["n_pixels_fit"][0] == SIZE**2 - mask.sum()


@pytest.mark.parametrize(
    ("options", "kind", "match"),
    [
        ({"bounds": [(1, 2)]}, TypeError, "bounds must be a dict"),
        ({"bounds": {"x": (0, 1)}}, ValueError, "bounds names 'x'"),
        ({"bounds": {"n": 3}}, TypeError, r"bounds\['n'\] must be a pair"),
        ({"bounds": {"flux": (2.0, 1.0)}}, ValueError, r"bounds\['flux'\] must be finite and increase"),
        ({"bounds": {"n": (0.1, 4)}}, ValueError, r"bounds\['n'\] must lie between"),
        ({"bounds": {"r_eff": (0, 4)}}, ValueError, r"bounds\['r_eff'\] must be positive"),
        ({"bounds": {"g1": (-0.9, 0.9)}}, ValueError, r"\|g\| below 1"),
        ({"max_iter": 0}, ValueError, "max_iter must be a positive integer"),
        ({"batch_size": 0}, ValueError, "batch_size must be a positive integer"),
    ],
)
def test_wrong_configuration(fitter_class, options, kind, match):
    with pytest.raises(kind, match=match):
        fitter_class(**options)


def test_without_galsim(fitter_class, monkeypatch):
    real = builtins.__import__

    def fake(name, *args, **kwargs):
        if name == "galsim":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fake)
    with pytest.raises(ImportError, match=r"pip install 'galmeasure\[train\]'"):
        fitter_class()


def test_names_of_the_room():
    import galmeasure.evaluation as room

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = room.nothing
