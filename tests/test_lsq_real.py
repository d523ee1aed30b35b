"""The least-squares fit of real galaxies, against the results of another code."""

from pathlib import Path

import numpy as np
import pytest
from _agreement import plain
from astropy import units as u
from astropy.io import fits

from galmeasure import Cutouts, LSQSersicFitter, decode_flags
from galmeasure.parameters import PARAMETER_NAMES

REAL = Path(__file__).parents[2] / "shared" / "real" / "sdss"

# mag, n, r_major [arcsec], q, theta [deg], reduced chi2, found by imfit with neighbours masked
IMFIT = {
    "G265911": (16.179, 2.81, 2.374, 0.396, 50.9, 0.988),
    "G265940": (17.428, 3.28, 1.836, 0.330, 21.9, 0.966),
    "G266033": (16.695, 3.58, 2.169, 0.562, 129.2, 1.046),
    "G266035": (17.514, 0.81, 3.928, 0.315, 146.2, 0.973),
    "G266662": (15.854, 2.23, 3.845, 0.453, 107.1, 1.027),
    "G267199": (16.887, 1.62, 3.723, 0.579, 132.5, 0.956),
    "G267489": (16.697, 1.49, 4.821, 0.488, 94.8, 1.005),
    "G267525": (18.208, 0.96, 2.490, 0.237, 67.3, 0.994),
    "G278109": (14.840, 4.01, 3.503, 0.483, 80.8, 1.780),
    "G279148": (17.060, 0.99, 2.602, 0.318, 99.5, 1.014),
}
SDSS_SCALE = 0.339


def real_cutouts():
    """The ten galaxies as they are read from their files; other segments than that of the target are masked."""
    planes = {kind: [] for kind in ("fitim", "sigma", "psfim", "mskim", "segim")}
    for name in IMFIT:
        for kind, images in planes.items():
            images.append(fits.getdata(REAL / f"{name}{kind}.fits"))
    masks = []
    for bad, segments in zip(planes["mskim"], planes["segim"], strict=True):
        target = segments[segments.shape[0] // 2, segments.shape[1] // 2]
        masks.append((bad != 0) | ((segments > 0) & (segments != target)))
    return Cutouts(
        planes["fitim"], planes["psfim"], error=planes["sigma"], mask=masks, pixel_scale=SDSS_SCALE,
        zero_point=0.0, ids=list(IMFIT),
    )  # fmt: skip


@pytest.fixture(scope="module")
def real():
    if not REAL.exists():
        pytest.skip("the SDSS galaxies are not beside the repository")
    return LSQSersicFitter().fit(real_cutouts())


@pytest.mark.parametrize("name", IMFIT)
def test_real_galaxy(real, name):
    row = real[list(real["id"]).index(name)]
    mag, n, r_major, q, theta, chi2 = IMFIT[name]
    assert not set(decode_flags(row["flags"])) & {"failed", "not_converged", "at_bound", "truncated"}
    assert row["chi2_reduced"] < chi2 * 1.005
    assert row["mag"].value == pytest.approx(mag, abs=0.02)
    assert row["r_eff_major"].to_value(u.arcsec) == pytest.approx(r_major, rel=0.05)
    assert row["q"] == pytest.approx(q, abs=0.02)
    assert (row["theta"].to_value(u.deg) - theta + 90) % 180 - 90 == pytest.approx(0, abs=1.0)
    if r_major / SDSS_SCALE > 8:
        assert row["n_fit"] == pytest.approx(n, rel=0.1)


@pytest.mark.slow
def test_real_galaxies_simulated_again(real):
    """GalSim draws the galaxies that were found, through the same PSFs: the fit recovers them."""
    galsim = pytest.importorskip("galsim")
    cutouts = real_cutouts()
    for i, row in enumerate(real):
        ny, nx = cutouts.shapes[i]
        params = galsim.GSParams(maximum_fft_size=16384)
        psf = galsim.InterpolatedImage(galsim.Image(np.array(cutouts.psf_image(i)), scale=1.0))
        galaxy = galsim.Sersic(
            row["n_fit"], half_light_radius=row["r_eff_fit"].value / SDSS_SCALE, flux=row["flux_fit"]
        ).shear(g1=row["g1_fit"], g2=row["g2_fit"])
        galaxy = galaxy.shift(row["x_fit"] - (nx - 1) / 2, row["y_fit"] - (ny - 1) / 2)
        image = galsim.Convolve(galaxy, psf, gsparams=params)
        image = image.drawImage(nx=nx, ny=ny, scale=1.0, method="no_pixel", dtype=float).array
        again = LSQSersicFitter().fit(
            image, cutouts.psf_image(i), error=cutouts.error(i), mask=cutouts.mask(i), pixel_scale=SDSS_SCALE
        )[0]
        for name in PARAMETER_NAMES:
            offset = plain(again[f"{name}_fit"]) - plain(row[f"{name}_fit"])
            assert abs(offset) < 0.3 * plain(row[f"{name}_err"]), (row["id"], name)
