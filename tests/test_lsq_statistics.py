"""The least-squares fit as a measurement: errors, bounds and goodness of fit of many noise draws."""

import numpy as np
import pytest
from _agreement import plain
from _galaxies import SCALE, draw, galsim_image, galsim_psf, noisy
from _lsq import GALAXY, PSF, SHAPE, SIGMA, assert_normal, values
from astropy import units as u

from galmeasure import LSQSersicFitter


def reference_table(count, sigma, seed, **options):
    pytest.importorskip("galsim")
    images = noisy(galsim_image(), count, sigma, np.random.default_rng(seed))
    fitter = LSQSersicFitter(covariance=True, crb=True, **options)
    table = fitter.fit(images, galsim_psf(), psf_oversampling=3, error=sigma, gain=1.0, pixel_scale=SCALE)
    truth = np.array([1e5, 3.0, 0.3, -0.069, 0.15, 31.5, 31.5])
    return table, values(table) - truth


@pytest.fixture(scope="module")
def reference():
    return reference_table(250, 200.0, seed=11)


def test_pulls_of_the_reference_galaxy(reference):
    table, offset = reference
    assert_normal(offset / values(table, "err"), bias=0.1)
    assert (table["flags"] == 0).mean() > 0.98
    assert plain(table["snr"]).mean() == pytest.approx(57, abs=5)


def test_scatter_is_the_covariance(reference):
    """Chi-squared of the true parameters has seven degrees of freedom; the errors are those of the bound."""
    table, offset = reference
    chi2 = np.einsum("bi,bij,bj->b", offset, np.linalg.inv(table["covariance"]), offset)
    assert np.median(chi2) == pytest.approx(6.35, abs=4 * 1.5 * np.sqrt(14 / 250) / 1.25)
    errors = np.median(values(table, "err"), axis=0)
    np.testing.assert_allclose(errors, plain_bound(200.0), rtol=0.05)
    scatter = np.array([np.subtract(*np.percentile(column, [84, 16])) / 2 for column in offset.T])
    np.testing.assert_allclose(scatter / errors, 1.0, atol=4 * 0.066)
    np.testing.assert_allclose(
        values(table, "err"), np.sqrt(np.diagonal(table["covariance"], axis1=1, axis2=2)), rtol=1e-9
    )


def test_chi2_of_the_reference_galaxy(reference):
    """The gain accounts for the source's own noise: without it chi-squared would be larger than one."""
    table, _ = reference
    dof = 64 * 64 - 7
    assert plain(table["chi2_reduced"]).mean() == pytest.approx(1.0, abs=4 * np.sqrt(2 / dof / len(table)))


@pytest.mark.slow
def test_faint_reference_galaxy():
    """At S/N 30 the likelihood is far from normal: the pulls of the maximum itself are centred in the median."""
    table, offset = reference_table(2000, 400.0, seed=12, bias_correction=False)
    converged = plain(table["flags"]) == 0
    assert converged.mean() > 0.9
    pulls = (offset / values(table, "err"))[converged]
    assert (np.abs(np.median(pulls, axis=0)) < 0.15).all()


@pytest.mark.slow
def test_many_draws_of_the_reference_galaxy():
    sigma = 200.0
    table, offset = reference_table(2000, sigma, seed=12)
    assert (plain(table["flags"]) == 0).mean() > 0.99
    # without its bias the estimate is at the bound in the mean and in the scatter; its pulls are skewed
    bound = plain_bound(sigma)
    assert (np.abs(offset.mean(0)) < 0.1 * bound).all(), offset.mean(0) / bound
    assert (np.abs(offset.std(0) / bound - 1.0) < 0.08).all(), offset.std(0) / bound
    pulls = offset / values(table, "err")
    assert (np.abs(pulls.std(0) - 1.0) < 0.1).all(), pulls.std(0)


@pytest.mark.slow
def test_maximum_likelihood_of_the_reference_galaxy():
    """The maximum itself is unbiased in the median; in the mean it is off by more than a tenth of the bound."""
    table, offset = reference_table(2000, 200.0, seed=12, bias_correction=False)
    bound = plain_bound(200.0)
    assert (np.abs(np.median(offset, axis=0)) < 0.1 * bound).all(), np.median(offset, axis=0) / bound
    assert offset.mean(0)[2] > 0.1 * bound[2]
    np.testing.assert_allclose(values(table, "err"), values(table, "crb"), rtol=0.03)


def plain_bound(sigma):
    """Cramer-Rao bound of the reference galaxy: what a fit to an image without noise reports."""
    image = galsim_image()
    fitter = LSQSersicFitter(crb=True)
    table = fitter.fit(image, galsim_psf(), psf_oversampling=3, error=sigma, gain=1.0, pixel_scale=SCALE)
    return values(table, "crb")[0]


@pytest.mark.parametrize("gain", [None, 1.0])
def test_noise_free_reference_galaxy(gain):
    """Data without noise are not corrected for a bias, and shot noise in the model does not matter."""
    pytest.importorskip("galsim")
    image = galsim_image()
    options = {"psf_oversampling": 3, "error": 200.0, "pixel_scale": SCALE}
    table = LSQSersicFitter().fit(image, galsim_psf(), gain=gain, **options)
    row = table[0]
    assert row["flux_fit"] == pytest.approx(1e5, rel=1e-3)
    assert row["n_fit"] == pytest.approx(3.0, abs=0.01)
    assert row["r_eff_fit"].to_value(u.arcsec) == pytest.approx(0.3, rel=2e-3)
    assert row["g1_fit"] == pytest.approx(-0.069, abs=1e-3)
    assert row["g2_fit"] == pytest.approx(0.15, abs=1e-3)


def test_gain_is_total_error():
    """A gain, or the error map that holds the same noise: the same galaxy with the same errors."""
    image = draw(SHAPE, PSF, GALAXY)[0]
    gain = 2.0
    total = np.sqrt(SIGMA**2 + np.maximum(image, 0) / gain)
    images = image + np.random.default_rng(2).normal(size=(40, *SHAPE)) * total
    with_gain = LSQSersicFitter().fit(images, PSF, error=SIGMA, gain=gain)
    with_map = LSQSersicFitter().fit(images, PSF, error=np.broadcast_to(total, images.shape))
    without = LSQSersicFitter().fit(images, PSF, error=SIGMA)
    assert (np.abs(values(with_gain) - values(with_map)) < 0.35 * values(with_map, "err")).all()
    ratio = np.median(values(with_gain, "err") / values(with_map, "err"), axis=0)
    assert (np.abs(ratio - 1) < 5e-3).all()
    np.testing.assert_allclose(with_gain["chi2_reduced"].mean(), 1.0, atol=4 * np.sqrt(2 / images.size))
    assert without["chi2_reduced"].mean() > 1.05
    assert_normal((values(with_gain) - GALAXY) / values(with_gain, "err"), bias=0.1)
