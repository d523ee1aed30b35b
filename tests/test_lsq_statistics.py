"""The least-squares fit as a measurement: errors, options, flags, real galaxies, and what must not matter."""

import threading
from pathlib import Path

import numpy as np
import pytest
from _agreement import STOPPING, plain
from _galaxies import SCALE, draw, galsim_image, galsim_psf, gaussian_psf, mixed_parameters, noisy
from astropy import units as u
from astropy.io import fits

from galmeasure import Cutouts, LSQSersicFitter, decode_flags
from galmeasure.parameters import PARAMETER_NAMES

SIGMA = 5.0
SHAPE = (32, 30)
PSF = gaussian_psf()
GALAXY = (5000.0, 2.0, 2.5, 0.2, -0.1, 14.7, 15.4)
REAL = Path(__file__).parents[2] / "shared" / "real" / "sdss"


def values(table, suffix="fit"):
    """Columns of the parameters, ``(N, 7)``."""
    return np.stack([plain(table[f"{name}_{suffix}"]) for name in PARAMETER_NAMES], 1)


def draws(count, seed, parameters=GALAXY, sigma=SIGMA, shape=SHAPE):
    """Noisy images of one galaxy."""
    rng = np.random.default_rng(seed)
    return draw(shape, PSF, parameters)[0] + rng.normal(0, sigma, (count, *shape))


def assert_same(table, other, names=PARAMETER_NAMES):
    """Parameters and errors are the same but for rounding, in units of the errors."""
    for name in names:
        error = plain(other[f"{name}_err"]) + 1e-9
        for suffix in ("fit", "err"):
            found, wanted = (plain(t[f"{name}_{suffix}"]) for t in (table, other))
            np.testing.assert_array_less(np.abs(found - wanted), STOPPING * error, err_msg=f"{name}_{suffix}")


# Errors


def assert_normal(pulls, *, sigmas=4.0, bias=0.0):
    """Mean and scatter of pulls are those of N(0, 1), within the error of a sample of this size."""
    count = len(pulls)
    assert (np.abs(pulls.mean(0)) < sigmas / np.sqrt(count) + bias).all(), pulls.mean(0)
    # the scatter is that of clipped pulls: the likelihood of the reference galaxy has a tail
    clipped = np.clip(pulls, -3, 3)
    assert (np.abs(clipped.std(0) - 0.985) < sigmas / np.sqrt(2 * count) + 0.05).all(), clipped.std(0)


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


# Options


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


# Flags, a test each


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


# Real galaxies

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


# What must not matter

SIDE = 30


@pytest.fixture(scope="module")
def mixed():
    """Galaxies of many kinds with noise, and their table."""
    rng = np.random.default_rng(21)
    images = draw((SIDE, SIDE), PSF, mixed_parameters(24, (SIDE, SIDE), rng)) + rng.normal(0, SIGMA, (24, SIDE, SIDE))
    return images, LSQSersicFitter().fit(images, PSF, error=SIGMA)


def assert_close(table, expected, *, signs=(1, 1), fraction=0.01, swap=False):
    """The same galaxies within a fraction of their errors, after the shears are multiplied by ``signs``."""
    wanted, error = values(expected), values(expected, "err")
    wanted = wanted * np.array([1, 1, 1, *signs, 1, 1])
    measured = ["flux", "n", "r_eff", "g1", "g2"]
    index = [PARAMETER_NAMES.index(name) for name in measured]
    offset = np.abs(values(table) - wanted)[:, index] / error[:, index]
    assert offset.max() < fraction, offset.max(0)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_rotation(mixed, quarters):
    """A quarter turn changes the sign of g1 and g2."""
    images, expected = mixed
    turned = np.rot90(images, quarters, axes=(2, 1))  # counter-clockwise with y up
    table = LSQSersicFitter().fit(turned, PSF, error=SIGMA)
    sign = (-1) ** quarters
    assert_close(table, expected, signs=(sign, sign), fraction=0.05)
    centre = (SIDE - 1) / 2
    z = (plain(expected["x_fit"]) - centre + 1j * (plain(expected["y_fit"]) - centre)) * 1j**quarters
    np.testing.assert_allclose(table["x_fit"] - centre, z.real, atol=2e-3)
    np.testing.assert_allclose(table["y_fit"] - centre, z.imag, atol=2e-3)
    change = (plain(table["theta"]) - plain(expected["theta"]) - 90 * quarters + 90) % 180 - 90
    assert (np.abs(change) < 0.05 * plain(expected["theta_err"])).all()


@pytest.mark.parametrize("axis", ["x", "y"])
def test_flip(mixed, axis):
    """A mirror changes the sign of g2."""
    images, expected = mixed
    table = LSQSersicFitter().fit(np.flip(images, 2 if axis == "x" else 1), PSF, error=SIGMA)
    assert_close(table, expected, signs=(1, -1), fraction=0.05)
    np.testing.assert_allclose(table[f"{axis}_fit"], SIDE - 1 - expected[f"{axis}_fit"], atol=2e-3)


def test_transposition(mixed):
    """The mirror at the diagonal changes the sign of g1 and exchanges x and y."""
    images, expected = mixed
    table = LSQSersicFitter().fit(images.transpose(0, 2, 1), PSF, error=SIGMA)
    assert_close(table, expected, signs=(-1, 1), fraction=0.05)
    np.testing.assert_allclose(table["x_fit"], expected["y_fit"], atol=2e-3)


@pytest.mark.parametrize("factor", [1e-9, 2.0**-40, 2.0**30, 1e9])
@pytest.mark.parametrize("gain", [None, 3.0])
def test_flux_unit(mixed, factor, gain):
    images, expected = mixed
    if gain is not None:
        expected = LSQSersicFitter().fit(images, PSF, error=SIGMA, gain=gain)
    gain = None if gain is None else gain / factor
    table = LSQSersicFitter().fit(images * factor, PSF, error=SIGMA * factor, gain=gain)
    error = values(expected, "err")
    for suffix in ("fit", "err"):
        found, wanted = values(table, suffix), values(expected, suffix)
        found[:, 0] /= factor
        assert (np.abs(found - wanted) < STOPPING * error).all()
    np.testing.assert_allclose(table["snr"], expected["snr"], rtol=1e-4)
    np.testing.assert_array_equal(table["flags"], expected["flags"])


def test_pixel_scale_changes_the_unit_of_the_radius_only(mixed):
    images, expected = mixed
    table = LSQSersicFitter().fit(images, PSF, error=SIGMA, pixel_scale=0.2)
    assert table["r_eff_fit"].unit == u.arcsec
    np.testing.assert_allclose(table["r_eff_fit"].value, 0.2 * expected["r_eff_fit"].value, rtol=1e-5)
    assert_same(table, expected, names=[name for name in PARAMETER_NAMES if name != "r_eff"])


def test_shift():
    """A stamp cut elsewhere moves the centre by whole pixels."""
    rng = np.random.default_rng(22)
    images = draw((40, 40), PSF, mixed_parameters(12, (40, 40), rng)) + rng.normal(0, SIGMA, (12, 40, 40))
    here, there = images[:, 3:37, 3:37], images[:, 2:36, 5:39]
    table, moved = (LSQSersicFitter().fit(part, PSF, error=SIGMA) for part in (here, there))
    error = values(table, "err")
    offset = values(moved) + np.array([0, 0, 0, 0, 0, 2, -1]) - values(table)
    assert (np.abs(offset) < 0.6 * error).all()  # the pixels at the border are others
    assert np.median(np.abs(offset / error)) < 0.1


def test_stack_and_list(mixed):
    """Stamps of a stack, in a list, and in a list with others of other shapes."""
    images, expected = mixed
    side = 32
    images = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    mask = np.pad(np.zeros((24, SIDE, SIDE), bool), ((0, 0), (1, 1), (1, 1)), constant_values=True)
    stack = LSQSersicFitter().fit(images, PSF, error=SIGMA, mask=mask)
    ragged = LSQSersicFitter().fit(list(images), PSF, error=SIGMA, mask=list(mask))
    others = [np.full((5 + i, side), 1.0) for i in range(24)]
    both = [image for pair in zip(images, others, strict=True) for image in pair]
    masks = [each for m, other in zip(mask, others, strict=True) for each in (m, np.zeros(other.shape, bool))]
    among = LSQSersicFitter().fit(both, PSF, error=SIGMA, mask=masks)
    assert_same(ragged, stack)
    assert_same(among[::2], stack)
    assert_close(stack, expected, fraction=0.02)


def test_padding_does_not_matter(mixed):
    """Stamps of a list are padded to a common shape, which changes the Fourier grid, not the galaxies."""
    images, expected = mixed
    ragged = LSQSersicFitter().fit(list(images), PSF, error=SIGMA)
    assert_close(ragged, expected, fraction=0.02)
    np.testing.assert_array_equal(ragged["n_pixels_fit"], expected["n_pixels_fit"])


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_batch_size(mixed, size):
    images, expected = mixed
    assert_same(LSQSersicFitter(batch_size=size).fit(images, PSF, error=SIGMA), expected)


def test_order(mixed):
    images, expected = mixed
    order = np.random.default_rng(1).permutation(len(images))
    assert_same(LSQSersicFitter().fit(images[order], PSF, error=SIGMA), expected[order])


def test_several_psfs(mixed):
    """One PSF for all, or the same one given for every cutout, among others."""
    images, expected = mixed
    psfs = [PSF if i % 2 else gaussian_psf(fwhm=3.5) for i in range(len(images))]
    table = LSQSersicFitter().fit(images, psfs, error=SIGMA)
    assert_same(table[1::2], expected[1::2])


def test_two_threads(mixed):
    images, expected = mixed
    fitter = LSQSersicFitter()
    found = {}

    def work(name, part):
        found[name] = fitter.fit(images[part], PSF, error=SIGMA)

    parts = {0: slice(0, 14), 1: slice(10, 24), 2: slice(0, 24)}
    threads = [threading.Thread(target=work, args=item) for item in parts.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, part in parts.items():
        assert_same(found[name], expected[part])


def test_inputs_are_not_modified(mixed):
    images, _ = mixed
    images, error = images.astype(">f4"), np.full(images.shape, SIGMA)
    images[3, 4, 5] = np.nan
    psf, mask = PSF * 7, np.zeros(images.shape, bool)
    before = [array.copy() for array in (images, error, psf, mask)]
    LSQSersicFitter(fit_background=True).fit(images, psf, error=error, mask=mask)
    for array, copy in zip((images, error, psf, mask), before, strict=True):
        np.testing.assert_array_equal(array, copy)
