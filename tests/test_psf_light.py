"""Light outside of PSF images: its estimate for rings and wings, what a user says about it, and the flag."""

import numpy as np
import pytest
from _galaxies import draw, gaussian_psf
from numpy.testing import assert_allclose, assert_array_equal

from galmeasure import Cutouts, Flag, LSQSersicFitter
from galmeasure.psf.wings import missing_light

DATA = np.random.default_rng(1).normal(size=(3, 32, 32))
INSTRUMENTS = {
    "ACS": {"lam": 800, "diam": 2.4, "obscuration": 0.33, "scale": 0.05},
    "WFC3/IR": {"lam": 1540, "diam": 2.4, "obscuration": 0.36, "scale": 0.128},
    "VIS": {"lam": 725, "diam": 1.2, "obscuration": 0.30, "scale": 0.1},
}


def diffraction(name, size=63, oversampling=1, jitter=0.0):
    """Diffraction-limited PSF image with the pixel; its sum is the fraction of the light that it holds."""
    galsim = pytest.importorskip("galsim")
    params = galsim.GSParams(folding_threshold=1e-3, maximum_fft_size=16384)
    optics = dict(INSTRUMENTS[name])
    scale = optics.pop("scale")
    parts = [galsim.Airy(**optics, gsparams=params), galsim.Pixel(scale)]
    parts += [galsim.Gaussian(sigma=jitter)] if jitter else []
    side = size * oversampling
    psf = galsim.Convolve(parts, gsparams=params)
    return psf.drawImage(nx=side, ny=side, scale=scale / oversampling, method="no_pixel", dtype=float).array


@pytest.mark.parametrize("size", [47, 63, 101])
@pytest.mark.parametrize("name", INSTRUMENTS)
def test_rings(name, size):
    image = diffraction(name, size)
    found, true = missing_light(3.0 * image[None]), 1.0 - image.sum()
    assert_allclose(found.fraction, true, rtol=0.1)
    assert (np.abs(found.fraction - true) < found.error).all()
    assert (found.error < 0.005).all()


def test_rings_of_a_jittered_and_oversampled_image():
    image = diffraction("VIS", 63, 3, jitter=0.03)
    assert_allclose(missing_light(image[None], 3).fraction, 1.0 - image.sum(), rtol=0.1)


@pytest.mark.parametrize("pedestal", [1e-3, -1e-3, 1e-4, -1e-4])
def test_pedestal_is_no_light(pedestal):
    moffat = (1 + np.hypot(*np.mgrid[-31:32, -31:32]) ** 2 / 3) ** -2.0
    for image in (diffraction("ACS"), gaussian_psf(63), moffat):
        found = missing_light((image + pedestal * image.max())[None])
        assert found.fraction[0] == 0.0
        assert found.error[0] > 0.005


def test_correlated_noise_is_no_light():
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(2).normal(size=(100, 63, 63)), (0, 1, 1))
    noise /= noise.std()
    for image in (diffraction("ACS"), gaussian_psf(63)):
        for level in (0.01, 0.001):
            found = missing_light(image + level * image.max() * noise)
            assert_array_equal(found.fraction, 0.0)
            assert (found.error > 0.005).all()


def test_image_without_wings_misses_nothing():
    found = missing_light(gaussian_psf(63)[None])
    assert found.fraction[0] == 0.0
    assert found.error[0] < 1e-6


def test_estimate_does_not_depend_on_the_other_images():
    images = np.stack([diffraction("ACS"), gaussian_psf(63), diffraction("VIS")])
    together = missing_light(images)
    for i, image in enumerate(images):
        alone = missing_light(image[None])
        assert alone.fraction[0] == together.fraction[i]
        assert alone.error[0] == together.error[i]


def test_stated_flux():
    psf = 7.0 * gaussian_psf()
    assert_allclose(Cutouts(DATA, psf, error=1, psf_flux=0.983).psf_image(0).sum(), 0.983)
    assert_allclose(Cutouts(DATA, 0.97 * gaussian_psf(), error=1, psf_flux="sum").psf_image(0).sum(), 0.97)
    cutouts = Cutouts(DATA, psf, error=1, psf_flux=[0.9, 1.0, 0.9])
    assert_array_equal(cutouts.psf_index, [0, 1, 0])
    assert_allclose([cutouts.psf_image(i).sum() for i in range(3)], [0.9, 1.0, 0.9])
    assert_allclose(cutouts[1:].psf_image(1).sum(), 0.9)
    psfs = [gaussian_psf(), gaussian_psf(31), gaussian_psf()]
    cutouts = Cutouts(DATA, psfs, error=1, psf_flux=[0.9, 0.8, 0.7])
    assert_allclose([cutouts.psf_image(i).sum() for i in range(3)], [0.9, 0.8, 0.7])


def test_a_wrong_flux_of_one_cutout_fails_only_its_row():
    for options in ({"psf_flux": [0.9, np.nan, 2.0]}, {"psf_flux": "sum"}):
        psf = np.array([0.9, 7.0, 2.0])[:, None, None] * gaussian_psf()
        table = LSQSersicFitter().fit(DATA, psf, error=1.0, **options)
        assert_array_equal((table["flags"] & Flag.FAILED) > 0, [False, True, True])


@pytest.mark.parametrize(
    ("flux", "error", "match"),
    [
        (0.0, ValueError, "psf_flux must be"),
        (1.2, ValueError, "psf_flux must be above 0 and at most 1.05"),
        (-0.5, ValueError, "psf_flux must be"),
        (np.nan, ValueError, "psf_flux must be"),
        ("all", ValueError, "psf_flux must be above 0 and at most 1.05, .* or 'sum', not 'all'"),
        ([0.9, 0.8], ValueError, r"psf_flux must be a scalar or have one value per cutout \(3\)"),
        ([2.0, 2.0, 2.0], ValueError, "psf_flux must be above 0 and at most 1.05"),
        (1j, TypeError, "psf_flux must hold real numbers"),
        ("sum", ValueError, "psf_flux must be above 0 and at most 1.05"),
    ],
)
def test_wrong_flux(flux, error, match):
    with pytest.raises(error, match=match):
        Cutouts(DATA, 7.0 * gaussian_psf(), error=1, psf_flux=flux)


def test_flux_of_a_model_is_computed():
    from astropy.modeling.models import Gaussian2D

    with pytest.raises(ValueError, match="psf_flux is for PSF images"):
        Cutouts(DATA, Gaussian2D(x_stddev=2, y_stddev=2), error=1, psf_flux=0.9)
    with pytest.raises(ValueError, match="psf_flux must not be given if cutouts is a Cutouts object"):
        Cutouts(Cutouts(DATA, gaussian_psf(), error=1), psf_flux=0.9)


@pytest.fixture(scope="module")
def observed():
    """Galaxies of S/N 1000 through a VIS-like PSF, its image of 63 pixels, and their flux."""
    galsim = pytest.importorskip("galsim")
    params = galsim.GSParams(folding_threshold=1e-3, maximum_fft_size=16384)
    optics = {key: value for key, value in INSTRUMENTS["VIS"].items() if key != "scale"}
    galaxy = galsim.Sersic(1.5, half_light_radius=0.5).shear(g1=0.1, g2=0.2)
    parts = [galaxy, galsim.Airy(**optics, gsparams=params), galsim.Gaussian(sigma=0.03)]
    image = galsim.Convolve(parts, gsparams=params).drawImage(nx=64, ny=64, scale=0.1, dtype=float).array
    flux = 1000.0 / np.sqrt((image**2).sum())
    noise = np.random.default_rng(0).normal(size=(20, 64, 64))
    return flux * image + noise, diffraction("VIS", 63, 3, jitter=0.03), flux


@pytest.mark.parametrize("given", [None, "sum", "number"])
def test_flux_through_a_diffraction_psf(observed, given):
    images, psf, flux = observed
    psf_flux = psf.sum() if given == "number" else given
    table = LSQSersicFitter().fit(images, psf, error=1.0, psf_oversampling=3, psf_flux=psf_flux)
    pulls = (table["flux_fit"] - flux) / table["flux_err"]
    assert abs(pulls.mean()) < 1.0
    assert_array_equal((table["flags"] & Flag.PSF_LIGHT_UNKNOWN) > 0, given is None)
    assert table.meta.get("PSFFLUX") == psf_flux


def test_flag_is_for_bright_galaxies_and_unknown_light():
    psf = gaussian_psf(25, 3.0)
    noise = np.random.default_rng(3).normal(size=(2, 48, 48))
    parameters = np.array([[1e3, 1.5, 2.5, 0.1, 0.0, 23.5, 23.5], [3e4, 1.5, 2.5, 0.1, 0.0, 23.5, 23.5]])
    images = draw((48, 48), psf, parameters) + noise
    expected = {"clean": (psf, [False, False]), "pedestal": (psf + 1e-3 * psf.max(), [False, True])}
    for image, flagged in expected.values():
        table = LSQSersicFitter().fit(images, image, error=1.0)
        assert_array_equal(table["snr"] > 200, [False, True])
        assert_array_equal((table["flags"] & Flag.PSF_LIGHT_UNKNOWN) > 0, flagged)


def test_option_of_the_command(tmp_path, monkeypatch, capsys):
    from _catalogs import cutout_table
    from astropy.table import Table

    from galmeasure.cli import main

    monkeypatch.chdir(tmp_path)
    cutout_table("cat.fits", {"error": np.ones(7)})
    with pytest.raises(SystemExit) as stop:
        main(["cat.fits", "--method", "lsq", "--psf-flux", "0.983"])
    assert stop.value.code == 0
    assert Table.read("cat_galmeasure.fits").meta["PSFFLUX"] == 0.983
    capsys.readouterr()
    for text in ("1.5", "most", "sum"):  # the image in this file adds up to 10
        with pytest.raises(SystemExit) as stop:
            main(["cat.fits", "--method", "lsq", "--psf-flux", text, "--overwrite"])
        assert stop.value.code == 2
        assert "psf_flux must be above 0 and at most 1.05" in capsys.readouterr().err
