"""PSF images: normalisation, missing wings, models of other packages, and what is said about unusual ones."""

import numpy as np
import pytest
from astropy.modeling.models import Gaussian2D
from numpy.testing import assert_allclose, assert_array_equal

from galmeasure import Cutouts, Flag
from galmeasure.psf.images import find_equal, normalise_psf, psf_stats
from galmeasure.psf.wings import missing_flux_fraction

DATA = np.random.default_rng(1).normal(size=(4, 32, 32))


def gaussian(size=25, sigma=2.0, dx=0.0, dy=0.0):
    """Gaussian image with a centre off by dx, dy."""
    ny, nx = np.broadcast_to(size, 2)
    y, x = np.mgrid[:ny, :nx]
    r2 = (x - dx - (nx - 1) / 2) ** 2 + (y - dy - (ny - 1) / 2) ** 2
    return np.exp(-r2 / (2 * sigma**2))


def flags_of(cutouts):
    """Flags of all rows, in their order."""
    flags = np.empty(len(cutouts), dtype=np.int64)
    for batch in cutouts.batches():
        flags[batch.index] = batch.flags
    return flags


class TestMissingFlux:
    """The fraction of the flux beyond a PSF image."""

    @pytest.mark.parametrize("size", [48, 64, 65, 96])
    @pytest.mark.parametrize(("beta", "fwhm"), [(2.0, 2.17), (2.0, 4.0), (2.5, 3.0), (3.5, 3.5)])
    def test_moffat(self, size, beta, fwhm):
        alpha = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))

        def profile(n):
            y, x = np.mgrid[:n, :n] - (n - 1) / 2
            return (1 + (x**2 + y**2) / alpha**2) ** -beta

        wide = 1025 if size % 2 else 1024
        beyond = (1 + (wide / 2 / alpha) ** 2) ** (1 - beta)
        true = 1 - profile(size).sum() / (profile(wide).sum() / (1 - beyond))
        assert_allclose(missing_flux_fraction(profile(size)), true, atol=2e-4)

    @pytest.mark.parametrize("size", [25, 48, 64, 65])
    def test_galsim_moffat_with_pixel(self, size):
        galsim = pytest.importorskip("galsim")
        params = galsim.GSParams(folding_threshold=1e-4, maximum_fft_size=16384)
        psf = galsim.Moffat(beta=2, fwhm=0.5, gsparams=params)
        image = psf.drawImage(nx=size, ny=size, scale=0.23, dtype=float).array
        assert_allclose(missing_flux_fraction(image), 1 - image.sum(), atol=2e-4)

    def test_galsim_kolmogorov(self):
        galsim = pytest.importorskip("galsim")
        params = galsim.GSParams(folding_threshold=1e-4, maximum_fft_size=16384)
        image = galsim.Kolmogorov(fwhm=0.7, gsparams=params).drawImage(nx=64, ny=64, scale=0.23, dtype=float).array
        assert_allclose(missing_flux_fraction(image), 1 - image.sum(), atol=2e-4)

    def test_rectangular_image(self):
        y, x = np.mgrid[-40:41, -24:25]
        image = (1 + (x**2 + y**2) / 3) ** -2.0
        big_y, big_x = np.mgrid[-500:501, -500:501]
        total = ((1 + (big_x**2 + big_y**2) / 3) ** -2.0).sum() / (1 - 1 / (1 + 500.5**2 / 3))
        assert_allclose(missing_flux_fraction(image), 1 - image.sum() / total, atol=2e-4)

    @pytest.mark.parametrize("sigma", [1.0, 2.0, 4.0, 8.0, 12.0, 16.0])
    def test_gaussian_misses_nothing(self, sigma):
        assert missing_flux_fraction(gaussian(64, sigma)) == 0

    def test_nothing_is_guessed(self):
        y, x = np.mgrid[-31.5:32, -31.5:32]
        r2 = x**2 + y**2
        moffat = (1 + r2 / 3) ** -2.0
        noise = np.random.default_rng(0).normal(size=moffat.shape)
        assert missing_flux_fraction(moffat) > 0.002
        assert missing_flux_fraction(moffat + 1e-4 * noise) == 0
        assert missing_flux_fraction(moffat + 1e-4) == 0
        assert missing_flux_fraction(np.where(r2 < 30**2, moffat, 0)) == 0
        assert missing_flux_fraction(moffat * np.clip(1 - np.sqrt(r2) / 32, 0, 1)) == 0
        assert missing_flux_fraction((1 + r2 / 300) ** -2.0) == 0  # more than 5 % would be missing
        assert missing_flux_fraction(np.ones((64, 64))) == 0
        assert missing_flux_fraction(np.ones((3, 3))) == 0

    def test_stack_and_oversampling(self):
        y, x = np.mgrid[-31.5:32, -31.5:32]
        moffat = (1 + (x**2 + y**2) / 3) ** -2.0
        found = missing_flux_fraction(np.stack([moffat, gaussian(64)]))
        assert_allclose(found, [missing_flux_fraction(moffat), 0.0])
        assert_allclose(missing_flux_fraction(moffat, 3), found[0], rtol=0.02)

    def test_cutouts_normalise_to_the_flux_inside(self):
        y, x = np.mgrid[-31.5:32, -31.5:32]
        moffat = 7 * (1 + (x**2 + y**2) / 3) ** -2.0
        total = Cutouts(DATA, moffat, error=1).psf_image(0).sum()
        assert_allclose(total, 1 - missing_flux_fraction(moffat))
        assert_allclose(Cutouts(DATA, 7 * gaussian(), error=1).psf_image(0).sum(), 1.0)


class TestHelpers:
    """Functions on stacks of PSF images."""

    def test_normalise_marks_bad_images(self):
        good = gaussian()
        nan = good.copy()
        nan[3, 3] = np.nan
        stack = np.stack([good, nan, 0 * good, -good, 1e300 * good, 1e-300 * good])
        found, ok = normalise_psf(stack)
        images = found.images
        assert_array_equal(ok, [True, False, False, False, True, True])
        assert_allclose(images.sum(axis=(1, 2)), ok, atol=1e-12)

    @pytest.mark.parametrize("sigma", [0.7, 1.0, 2.0, 4.0])
    @pytest.mark.parametrize("size", [24, 25])
    def test_width_and_centre(self, sigma, size):
        images = np.stack([gaussian(size, sigma), gaussian(size, sigma, 0.3, -0.4)])
        stats = psf_stats(images, np.ones(2, dtype=bool))
        assert_allclose(stats.fwhm, 2.3548 * sigma, rtol=0.02)
        assert_allclose(stats.offset, [0, 0.5], atol=0.06)

    def test_width_of_a_constant(self):
        assert psf_stats(np.ones((1, 9, 9)) / 81, np.ones(1, dtype=bool)).fwhm[0] == np.inf

    def test_find_equal(self):
        a, b = gaussian(), gaussian(dx=0.1)
        almost = a.copy()
        almost[7, 9] += 1e-9  # a pixel outside the sample that is compared first
        first, index = find_equal(np.stack([a, b, a, almost, b]))
        assert_array_equal(first, [0, 1, 3])
        assert_array_equal(index, [0, 1, 0, 2, 1])


class TestForms:
    """Every form of PSF."""

    def test_shared_image_is_kept_once(self):
        for psf in (gaussian(), gaussian()[None], [gaussian()], gaussian().tolist(), np.repeat(gaussian()[None], 4, 0)):
            cutouts = Cutouts(DATA, psf, error=1)
            assert len(cutouts.psf_images) == 1
            assert_array_equal(cutouts.psf_index, 0)
            assert not cutouts.psf_image(0).flags.writeable

    def test_one_per_cutout(self):
        psfs = np.stack([gaussian(sigma=s) for s in (2, 3, 2, 4)])
        cutouts = Cutouts(DATA, psfs.astype(">f4"), error=1)
        assert_array_equal(cutouts.psf_index, [0, 1, 0, 2])
        assert_allclose(cutouts.psf_image(3), psfs[3] / psfs[3].sum(), atol=1e-7)
        batch = next(cutouts.batches(select=[1, 3]))
        assert_array_equal(batch.psf_index, [0, 1])
        assert_allclose(batch.psf[1], cutouts.psf_image(3))

    def test_list_of_unequal_shapes(self):
        wide = gaussian(31)
        cutouts = Cutouts(DATA, [gaussian(), wide, gaussian((20, 25)), wide], error=1)
        assert [p.shape for p in cutouts.psf_images] == [(25, 25), (31, 31), (20, 25)]
        assert_array_equal(cutouts.psf_index, [0, 1, 2, 1])

    def test_bad_one_fails_only_its_row(self):
        psfs = np.stack([gaussian()] * 4)
        psfs[1, 12, 12], psfs[2] = np.nan, 0
        assert_array_equal(flags_of(Cutouts(DATA, psfs, error=1)), [0, Flag.FAILED, Flag.FAILED, 0])
        assert_array_equal(flags_of(Cutouts(DATA, list(psfs), error=1)), [0, Flag.FAILED, Flag.FAILED, 0])

    def test_part_of_a_catalogue_may_have_bad_ones_only(self):
        cutouts = Cutouts._from_chunk(DATA[:1], np.zeros((1, 9, 9)), error=1)
        assert_array_equal(flags_of(cutouts), Flag.FAILED)
        with pytest.raises(ValueError, match="psf must have only finite pixels"):
            Cutouts._from_chunk(DATA[:1], np.zeros((9, 9)), error=1)

    def test_inputs_stay_as_they_are(self):
        psf = 5 * gaussian()
        keep = psf.copy()
        Cutouts(DATA, psf, error=1)
        assert_array_equal(psf, keep)
        assert psf.flags.writeable

    @pytest.mark.parametrize(
        ("psf", "error", "match"),
        [
            ("psf.fits", TypeError, "psf must be an image or a model, not a string"),
            (np.full((9, 9), np.nan), ValueError, "psf must have only finite pixels and a positive sum"),
            (np.zeros((9, 9)), ValueError, "psf must have only finite pixels and a positive sum"),
            (-np.ones((9, 9)), ValueError, "psf must have only finite pixels and a positive sum"),
            (np.zeros((4, 9, 9)), ValueError, "psf must have only finite pixels and a positive sum"),
            (np.ones((9, 9)) * 1j, TypeError, "psf must hold real numbers, not complex"),
            (np.ones((3, 9, 9)), ValueError, r"one image per cutout \(4\), not shape \(3, 9, 9\)"),
            ([np.ones((9, 9))] * 3, ValueError, r"one image per cutout \(4\), not 3"),
            (np.ones(9), ValueError, "psf must be a 2-D image"),
            ([], ValueError, "psf must hold at least one image"),
            ([Gaussian2D()] * 3, ValueError, r"psf must have one model per cutout \(4\)"),
            ([Gaussian2D(), np.ones((9, 9))] * 2, TypeError, "psf must be a list of images or a list of models"),
        ],
    )
    def test_wrong_psf(self, psf, error, match):
        with pytest.raises(error, match=match):
            Cutouts(DATA, psf, error=1)

    @pytest.mark.parametrize(
        ("value", "error"),
        [(0, ValueError), (1.5, ValueError), ("2", TypeError), (True, ValueError), (1000, ValueError)],
    )
    def test_wrong_oversampling(self, value, error):
        with pytest.raises(error, match="psf_oversampling must be an integer"):
            Cutouts(DATA, gaussian(), error=1, psf_oversampling=value)

    def test_oversampling_is_for_images(self):
        with pytest.raises(ValueError, match="psf_oversampling is for PSF images"):
            Cutouts(DATA, Gaussian2D(), error=1, psf_oversampling=2)


class TestUnusual:
    """The flag ``psf_unusual``."""

    @pytest.mark.parametrize(
        ("psf", "oversampling", "unusual"),
        [
            (gaussian(), 1, False),
            (gaussian(24), 1, False),
            (gaussian(dx=0.7), 1, True),
            (gaussian(dx=0.7), 2, False),
            (gaussian(sigma=0.5), 1, True),
            (gaussian(sigma=2), 4, True),
            (gaussian(101, 20.0), 1, True),
        ],
    )
    def test_flag(self, psf, oversampling, unusual):
        flags = flags_of(Cutouts(DATA, psf, error=1, psf_oversampling=oversampling))
        assert_array_equal(flags, Flag.PSF_UNUSUAL if unusual else 0)


class TestModels:
    """PSF models of other packages."""

    def test_astropy_model(self):
        cutouts = Cutouts(DATA, Gaussian2D(3.0, 10.0, 11.0, 2.0, 2.0), error=1)
        psf = cutouts.psf_image(0)
        assert cutouts.psf_oversampling == 3
        assert_allclose(psf, gaussian(psf.shape, 6.0) / gaussian(psf.shape, 6.0).sum(), atol=1e-9)

    def test_image_psf(self):
        photutils = pytest.importorskip("photutils.psf")
        even = photutils.ImagePSF(gaussian(26, 4.0), oversampling=2)
        cutouts = Cutouts(DATA, even, error=1)
        assert cutouts.psf_oversampling == 2
        assert_allclose(cutouts.psf_image(0), gaussian(26, 4.0) / gaussian(26, 4.0).sum())

    def test_image_psf_with_its_own_origin(self):
        photutils = pytest.importorskip("photutils.psf")
        cutouts = Cutouts(DATA, photutils.ImagePSF(gaussian(31, 2.0, 2.0), origin=(17, 15)), error=1)
        psf = cutouts.psf_image(0)
        assert cutouts.psf_oversampling == 3
        assert_array_equal(flags_of(cutouts), 0)
        middle = (psf.shape[0] - 1) // 2
        assert np.unravel_index(psf.argmax(), psf.shape) == (middle, middle)

    def test_gridded_psf_is_photutils_own(self):
        photutils = pytest.importorskip("photutils.psf")
        from astropy.nddata import NDData

        grid = [(0, 0), (0, 100), (100, 0), (100, 100)]
        images = np.stack([gaussian(25, s) for s in (2, 2.5, 3, 3.5)])
        model = photutils.GriddedPSFModel(NDData(images, meta={"grid_xypos": grid, "oversampling": 2}))
        positions = [(10.0, 20.0), (50.0, 50.0), (130.0, 90.0), (np.nan, 3.0)]
        cutouts = Cutouts(DATA, model, error=1, positions=positions)
        assert cutouts.psf_oversampling == 2
        y, x = (np.mgrid[:25, :25] - 12) / 2
        for i, (px, py) in enumerate(positions[:3]):
            expected = model.evaluate(x + px, y + py, 1.0, px, py)
            assert_allclose(cutouts.psf_image(i), expected / expected.sum(), atol=1e-12)
        assert_array_equal(flags_of(cutouts), [0, 0, 0, Flag.FAILED])
        with pytest.raises(ValueError, match="positions must be given if psf depends on the position"):
            Cutouts(DATA, model, error=1)
        many = np.random.default_rng(0).uniform(0, 100, (1500, 2))
        assert len(Cutouts(np.ones((1500, 9, 9)), model, error=1, positions=many).psf_images) <= 1024

    def test_position_dependent_object(self):
        class Field:
            oversampling = 1

            def images_at(self, positions):
                return np.stack([gaussian(21, 2 + 0.01 * x) for x, _ in positions])

        positions = [(0, 0), (100, 0), (0, 0), (50, 0)]
        cutouts = Cutouts(DATA, Field(), error=1, positions=positions)
        expected = gaussian(21, 3.0)
        assert_allclose(cutouts.psf_image(1), expected / expected.sum())
        assert cutouts.psf_index[0] == cutouts.psf_index[2]

    def test_galsim(self):
        galsim = pytest.importorskip("galsim")
        psf = galsim.Moffat(beta=2, fwhm=0.5)
        cutouts = Cutouts(DATA, psf, error=1, pixel_scale=0.23)
        image = cutouts.psf_image(0)
        assert (cutouts.psf_oversampling, image.shape[0] % 2, len(cutouts.psf_images)) == (3, 1, 1)
        size = image.shape[0]
        reference = galsim.Convolve(psf, galsim.Pixel(0.23)).withGSParams(
            folding_threshold=1e-4, maximum_fft_size=16384
        )
        reference = reference.drawImage(nx=size, ny=size, scale=0.23 / 3, method="no_pixel", dtype=float).array
        assert_allclose(image, reference, atol=1e-5 * reference.max())
        assert_allclose(image.sum(), reference.sum(), atol=3e-4)

    def test_galsim_objects_are_drawn_once(self):
        galsim = pytest.importorskip("galsim")
        narrow, wide = galsim.Gaussian(fwhm=0.5), galsim.Gaussian(fwhm=0.8)
        cutouts = Cutouts(DATA, [narrow, wide, narrow, wide], error=1, pixel_scale=0.2)
        assert_array_equal(cutouts.psf_index, [0, 1, 0, 1])
        scales = [0.2, 0.2, 0.3, 0.20001]
        assert_array_equal(Cutouts(DATA, narrow, error=1, pixel_scale=scales).psf_index, [0, 0, 1, 0])

    def test_galsim_needs_a_pixel_scale(self):
        galsim = pytest.importorskip("galsim")
        with pytest.raises(ValueError, match="pixel_scale must be given"):
            Cutouts(DATA, galsim.Gaussian(fwhm=0.5), error=1)

    def test_galsim_that_cannot_be_drawn(self):
        galsim = pytest.importorskip("galsim")
        with pytest.raises(ValueError, match="psf must be an object that GalSim can draw"):
            Cutouts(DATA, galsim.DeltaFunction(), error=1, pixel_scale=0.2)
