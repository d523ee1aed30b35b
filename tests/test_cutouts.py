"""Cutouts: every input form, the rules at the door, and one test for each flag that is set there."""

import pickle

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData, Cutout2D, InverseVariance, NDData, StdDevUncertainty, UnknownUncertainty
from astropy.nddata import VarianceUncertainty as Variance
from astropy.table import Column
from astropy.utils.masked import Masked
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal

from galmeasure import Cutouts, Flag, decode_flags

PSF = np.exp(-(np.add.outer(np.arange(-8, 9) ** 2, np.arange(-8, 9) ** 2)) / 8)
N, NY, NX = 5, 24, 20


@pytest.fixture
def data():
    """A stack of noise with a source in the middle of each."""
    rng = np.random.default_rng(42)
    y, x = np.mgrid[:NY, :NX]
    return rng.normal(size=(N, NY, NX)) + 50 * np.exp(-((x - 9.5) ** 2 + (y - 11.5) ** 2) / 18)


def whole(cutouts, **options):
    """Flags, scale and number of good pixels of all rows, in their order."""
    flags, scale, good = np.zeros((3, len(cutouts)))
    for batch in cutouts.batches(**options):
        flags[batch.index], scale[batch.index] = batch.flags, batch.scale
        good[batch.index] = batch.good.sum(axis=(1, 2))
    return flags.astype(int), scale, good


def make_wcs(scale=0.2, centre=(10.0, 20.0)):
    """Tangential WCS with east to the left."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 40.0]
    wcs.wcs.crpix = centre
    wcs.wcs.cdelt = [-scale / 3600, scale / 3600]
    return wcs


class TestForms:
    """Forms of the pixels."""

    def test_stack(self, data):
        cutouts = Cutouts(data, PSF, error=2.0)
        assert len(cutouts) == N
        assert_array_equal(cutouts.shapes, [[NY, NX]] * N)
        assert_array_equal(cutouts.ids, np.arange(1, N + 1))
        assert_array_equal(cutouts.origin, np.zeros((N, 2)))
        assert cutouts.unit is cutouts.wcs is cutouts.gain is cutouts.pixel_scale is cutouts.zero_point is None
        assert_array_equal(cutouts.image(1), data[1])
        assert_array_equal(cutouts.error(1), np.full((NY, NX), 2.0))
        assert not cutouts.mask(1).any()
        assert repr(cutouts) == "<Cutouts: 5 of 24 x 20 pixels>"

    def test_pixels_are_not_copied_and_not_modified(self, data):
        keep = data.copy()
        keep[0, 0, 0] = data[0, 0, 0] = np.nan
        cutouts = Cutouts(data, PSF, error=1.0)
        assert np.shares_memory(cutouts._store.images, data)
        assert not cutouts._store.images.flags.writeable
        whole(cutouts)
        assert_array_equal(data, keep)
        assert data.flags.writeable

    @pytest.mark.parametrize("dtype", ["f4", ">f4", ">f8", "f2", "i2", ">i4", "u1", "g"])
    def test_types_and_byte_orders(self, data, dtype):
        typed = np.clip(data * 3, 0, 200).astype(dtype)
        batch = next(Cutouts(typed, PSF, error=2.0).batches())
        assert (batch.image.dtype, batch.error.dtype, batch.good.dtype) == (np.float32, np.float32, bool)
        assert_allclose(batch.image * batch.scale[:, None, None], typed.astype(float), rtol=1e-6)

    def test_one_cutout(self, data):
        for form in (data[0], data[0].tolist(), [data[0]], NDData(data[0])):
            cutouts = Cutouts(form, PSF, error=np.ones((1, NY, NX)))
            assert len(cutouts) == 1
            assert_array_equal(cutouts.image(0), data[0])
        assert_allclose(Cutouts(data[0], PSF, error=np.full((NY, NX), 3.0)).error(0), 3.0)

    def test_keywords(self, data):
        assert_array_equal(Cutouts(cutouts=data, psf=PSF, error=2.0).image(2), data[2])

    def test_nested_lists(self, data):
        assert_array_equal(Cutouts(data.tolist(), PSF, error=1).image(3), data[3])

    def test_masked_array(self, data):
        masked = np.ma.MaskedArray(data, mask=data > 20)
        extra = np.zeros(data.shape, dtype=bool)
        extra[2, :3] = True
        cutouts = Cutouts(masked, PSF, error=1, mask=extra)
        assert_array_equal(cutouts.mask(2), masked.mask[2] | extra[2])
        assert_array_equal(Cutouts(Masked(data, mask=data > 20), PSF, error=1).mask(1), data[1] > 20)
        assert not Cutouts(np.ma.MaskedArray(data), PSF, error=1).mask(0).any()

    def test_memory_mapped_file(self, data, tmp_path):
        fits.writeto(tmp_path / "stack.fits", data.astype("f4"))
        with fits.open(tmp_path / "stack.fits", memmap=True) as hdus:
            cutouts = Cutouts(hdus[0].data, PSF, error=1)
            assert_allclose(cutouts.image(4), data[4], rtol=1e-6)
            assert_array_equal(whole(cutouts)[0], 0)

    def test_ragged_list(self, data):
        stamps = [data[0], data[1][:, :17], data[2][:9, :9], data[3]]
        cutouts = Cutouts(stamps, PSF, error=[1.0, 2.0, np.full((9, 9), 3.0), 4.0])
        assert_array_equal(cutouts.shapes, [[24, 20], [24, 17], [9, 9], [24, 20]])
        assert repr(cutouts) == "<Cutouts: 4 of 9-24 x 9-20 pixels>"
        assert_allclose(whole(cutouts)[1], [1, 2, 3, 4])
        assert_array_equal(whole(cutouts)[2], [480, 408, 81, 480])
        batches = list(cutouts.batches())
        assert [batch.image.shape for batch in batches] == [(3, 32, 32), (1, 16, 16)]
        assert_array_equal(np.concatenate([batch.index for batch in batches]), [0, 1, 3, 2])
        assert_allclose(batches[0].image[1, :24, :17] * 2, stamps[1], rtol=1e-6)
        assert not batches[0].good[1, :, 17:].any()
        assert not batches[0].image[1, 24:].any()
        assert [cutouts.image(i).shape for i in range(4)] == [stamp.shape for stamp in stamps]
        assert_array_equal(cutouts.mask(1), False)
        objects = np.empty(4, dtype=object)
        objects[:] = stamps
        assert_array_equal(Cutouts(objects, PSF, error=1).shapes, cutouts.shapes)

    def test_nddata(self, data):
        stamps = [
            NDData(data[0], uncertainty=StdDevUncertainty(np.full((NY, NX), 2.0)), mask=data[0] > 20, unit="nJy"),
            CCDData(data[1], uncertainty=Variance(np.full((NY, NX), 9.0)), unit="nJy"),
            NDData(data[2], uncertainty=InverseVariance(np.full((NY, NX), 1 / 16)), unit="nJy"),
            NDData(data[3], uncertainty=StdDevUncertainty(np.full((NY, NX), 0.005), unit="uJy"), unit="nJy"),
            NDData(data[4] / 1000, uncertainty=Variance(np.full((NY, NX), 36e-6)), unit="uJy"),
        ]
        cutouts = Cutouts(stamps, PSF)
        assert cutouts.unit == u.nJy
        for i, sigma in enumerate((2, 3, 4, 5, 6)):
            assert_allclose(cutouts.error(i), sigma)
            assert_allclose(cutouts.image(i), data[i])
        assert_array_equal(cutouts.mask(0), data[0] > 20)
        assert_array_equal(whole(cutouts)[0], [Flag.MANY_MASKED, 0, 0, 0, 0])
        assert_allclose(Cutouts(stamps, PSF, error=[None, 7 * u.nJy, None, None, None]).error(1), 7)

    def test_nddata_without_uncertainty_is_estimated(self, data):
        flags, scale, _ = whole(
            Cutouts([NDData(data[0], uncertainty=StdDevUncertainty(data[0] * 0 + 3)), data[1]], PSF)
        )
        assert_array_equal(flags, [0, Flag.ERROR_ESTIMATED])
        assert_allclose(scale, [3, 1], rtol=0.2)

    def test_cutout2d(self):
        parent = np.arange(60.0 * 50).reshape(60, 50)
        wcs = make_wcs()
        stamps = [
            Cutout2D(parent, (30, 40), 11, wcs=wcs),
            Cutout2D(parent, (1, 58), 11, wcs=wcs, mode="partial"),
            Cutout2D(parent * u.adu, (20, 21), (9, 12), wcs=wcs),
        ]
        with pytest.raises(ValueError, match=r"cutouts\[2\] and cutouts\[0\] must both have a unit or neither"):
            Cutouts(stamps, PSF, error=1)
        cutouts = Cutouts(stamps[:2], PSF, error=1)
        assert_array_equal(cutouts.origin, [[25, 35], [-4, 53]])
        assert not cutouts.wcs_in_parent
        assert_allclose(cutouts.pixel_scale, 0.2, rtol=1e-6)
        assert_array_equal(whole(cutouts)[0], [0, Flag.NONFINITE_PIXELS | Flag.MANY_MASKED])
        assert Cutouts(stamps[2], PSF, error=1 * u.adu).unit == u.adu

    def test_cutouts_object(self, data):
        cutouts = Cutouts(data, PSF, error=1, gain=2.0)
        assert_array_equal(Cutouts(cutouts).gain, cutouts.gain)
        with pytest.raises(ValueError, match="error must not be given if cutouts is a Cutouts"):
            Cutouts(cutouts, error=1)
        with pytest.raises(ValueError, match="psf_oversampling must not be given"):
            Cutouts(cutouts, psf_oversampling=2)

    @pytest.mark.parametrize(
        ("wrong", "error", "match"),
        [
            (None, ValueError, "cutouts must be given"),
            ("cutouts.fits", TypeError, "cutouts must be pixels, not a string"),
            ([], ValueError, "cutouts must hold at least one cutout"),
            (np.zeros((0, 5, 5)), ValueError, "cutouts must hold at least one cutout of at least one pixel"),
            (np.zeros(7), ValueError, r"cutouts must be one cutout .* shape \(7,\)"),
            (np.zeros((2, 2, 2, 2)), ValueError, "cutouts must be one cutout"),
            (np.zeros((3, 5, 5)) * 1j, TypeError, "cutouts must hold real numbers, not complex numbers"),
            (np.zeros((3, 5, 5), dtype=bool), TypeError, "cutouts must hold real numbers, not booleans"),
            (np.zeros((3, 5, 5), dtype=object), TypeError, "cutouts must hold real numbers, not objects"),
            ([["a", "b"], ["c", "d"]], TypeError, "cutouts must hold real numbers, not strings"),
            ([np.zeros((5, 5)), "x"], TypeError, r"cutouts\[1\] must hold real numbers, not strings"),
            ([np.zeros((5, 5)), np.zeros(5)], ValueError, r"cutouts\[1\] must be a 2-D array"),
            ([[1, 2], [3]], ValueError, "cutouts must be an array of a regular shape"),
            (np.zeros((5, 5)) * u.mag, ValueError, "cutouts must have a linear flux unit"),
            (
                [NDData(np.zeros((5, 5)), uncertainty=UnknownUncertainty(np.ones((5, 5))))],
                TypeError,
                r"cutouts\[0\].uncertainty must be a standard deviation",
            ),
        ],
    )
    def test_wrong_data(self, wrong, error, match):
        with pytest.raises(error, match=match):
            Cutouts(wrong, PSF, error=1)


class TestErrorAndMask:
    """The noise and the masks."""

    @pytest.mark.parametrize(
        "error",
        [2.0, np.float32(2), np.array(2), np.full(N, 2), [2] * N, np.full((N, 1, 1), 2.0), np.full((NY, NX), 2)],
    )
    def test_constant_forms(self, data, error):
        cutouts = Cutouts(data, PSF, error=error)
        assert_allclose(cutouts.error(3), np.full((NY, NX), 2.0))
        assert_allclose(whole(cutouts)[1], 2)

    def test_per_cutout(self, data):
        error = np.arange(1.0, N + 1)
        cutouts = Cutouts(data, PSF, error=error)
        assert_allclose(whole(cutouts)[1], error)
        batch = next(cutouts.batches())
        assert batch.error.shape == (N, 1, 1)
        assert_allclose(batch.image * error[:, None, None], data, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("dtype", ["f8", ">f4"])
    def test_per_pixel(self, data, dtype):
        error = np.random.default_rng(0).uniform(2, 4, data.shape).astype(dtype)
        batch = next(Cutouts(data, PSF, error=error).batches())
        assert_allclose(batch.scale, np.median(error, axis=(1, 2)), rtol=1e-6)
        assert_allclose(batch.error * batch.scale[:, None, None], error, rtol=1e-6)
        ragged = next(Cutouts(list(data), PSF, error=list(error)).batches())
        assert_allclose(ragged.error[:, :NY, :NX], batch.error, rtol=1e-6)
        assert_array_equal(Cutouts(data, PSF, error=error).error(2), error[2])

    def test_uncertainty_objects(self, data):
        four = np.full((NY, NX), 4.0)
        assert_allclose(Cutouts(data[0], PSF, error=Variance(four)).error(0), 2)
        cutouts = Cutouts(data, PSF, error=[Variance(four), 1.0, InverseVariance(four), StdDevUncertainty(four), None])
        assert_allclose([cutouts.error(i)[0, 0] for i in range(4)], [2, 1, 0.5, 4])
        with pytest.raises(ValueError, match="error must be a list with one uncertainty per cutout"):
            Cutouts(data, PSF, error=Variance(four))
        with pytest.raises(ValueError, match=r"error and cutouts must both have a unit or neither: error is in nJy2"):
            Cutouts(data[0], PSF, error=Variance(four, unit="nJy2"))

    def test_masked_errors_are_bad_pixels(self, data):
        error = np.ma.MaskedArray(np.ones(data.shape), mask=data > 20)
        assert_array_equal(Cutouts(data, PSF, error=error).mask(1), data[1] > 20)

    def test_units(self, data):
        cutouts = Cutouts(data * u.nJy, PSF, error=0.002 * u.uJy)
        assert cutouts.unit == u.nJy
        assert_allclose(cutouts.error(0), 2.0)
        assert_allclose(Cutouts(data * u.nJy, PSF, error=np.full(data.shape, 0.002) * u.uJy).error(0), 2.0)
        assert_allclose(whole(Cutouts(data * u.nJy, PSF, error=np.full(data.shape, 0.002) * u.uJy))[1], 2.0)
        assert Cutouts(Column(data, unit="nJy"), PSF, error=2 * u.nJy).unit == u.nJy
        assert Cutouts(data * u.one, PSF, error=2.0).unit == u.one

    @pytest.mark.parametrize(
        ("unit", "error", "match"),
        [
            (u.nJy, 1.0, "error and cutouts must both have a unit or neither: cutouts is in nJy"),
            (1, 1 * u.nJy, "error and cutouts must both have a unit or neither: error is in nJy"),
            (u.nJy, 1 * u.m, "error must be convertible to the unit of cutouts"),
        ],
    )
    def test_mixed_units(self, data, unit, error, match):
        with pytest.raises(ValueError, match=match):
            Cutouts(data * unit, PSF, error=error)

    @pytest.mark.parametrize(
        ("error", "kind", "match"),
        [
            ("1", TypeError, "error must be numbers, not a string"),
            (0, ValueError, "error must be positive and finite, not 0"),
            (-1.0, ValueError, "error must be positive and finite, not -1"),
            (np.nan, ValueError, "error must be positive and finite, not nan"),
            (1j, TypeError, "error must hold real numbers, not complex"),
            ([1, 2], ValueError, r"one value per cutout \(5\)"),
            (np.ones((3, NY, NX)), ValueError, "error must have the shape of the cutouts"),
            ([np.ones((NY, NX))] * 3, ValueError, r"error must have one entry per cutout \(5\), not 3"),
            ([np.ones((3, 3))] + [1.0] * 4, ValueError, r"error\[0\] must be a number or have the shape"),
        ],
    )
    def test_wrong_error(self, data, error, kind, match):
        with pytest.raises(kind, match=match):
            Cutouts(data, PSF, error=error)

    @pytest.mark.parametrize("form", [bool, "i4", ">u2", "list"])
    def test_mask_forms(self, data, form):
        bad = data > 20
        mask = list(bad) if form == "list" else (3 * bad).astype(form)
        assert_array_equal(Cutouts(data, PSF, error=1, mask=mask).mask(1), bad[1])
        assert_array_equal(Cutouts(list(data), PSF, error=1, mask=mask).mask(1), bad[1])

    def test_shared_and_partial_masks(self, data):
        bad = np.zeros((NY, NX), dtype=bool)
        bad[:2] = True
        assert_array_equal(Cutouts(data, PSF, error=1, mask=bad).mask(4), bad)
        some = Cutouts(data, PSF, error=1, mask=[None, bad, None, None, None])
        assert_array_equal(whole(some)[2], [480, 440, 480, 480, 480])

    @pytest.mark.parametrize(
        ("mask", "kind", "match"),
        [
            ("bad", TypeError, "mask must be an array of booleans"),
            (True, ValueError, "mask must be an array of booleans"),
            (np.zeros((N, NY, NX)), TypeError, "mask must be boolean"),
            (np.zeros((3, NY, NX), dtype=bool), ValueError, "mask must have the shape of the cutouts"),
            ([np.zeros((NY, NX), dtype=bool)] * 2 + [None], ValueError, r"mask must have one entry per cutout \(5\)"),
        ],
    )
    def test_wrong_mask(self, data, mask, kind, match):
        with pytest.raises(kind, match=match):
            Cutouts(data, PSF, error=1, mask=mask)


class TestOtherArguments:
    """Gain, pixel scale, WCS, positions, names, zero point."""

    def test_gain(self, data):
        assert_array_equal(Cutouts(data, PSF, error=4, gain=2).gain, [2] * N)
        assert_allclose(next(Cutouts(data, PSF, error=4, gain=2).batches()).gain, 8)
        gain = Cutouts(data * u.adu, PSF, error=4 * u.adu, gain=2 * u.electron / u.adu).gain
        assert_array_equal(gain, [2] * N)
        assert_array_equal(Cutouts(data, PSF, error=4, gain=np.arange(1, 6)[:, None][:, 0]).gain, np.arange(1, 6))
        with pytest.raises(ValueError, match="gain must be in electrons per unit of the cutouts, not m"):
            Cutouts(data, PSF, error=4, gain=2 * u.m)

    @pytest.mark.parametrize("scale", [0.2, 0.2 * u.arcsec, 0.2 / 60 * u.arcmin / u.pix, np.full(N, 0.2)])
    def test_pixel_scale(self, data, scale):
        assert_allclose(Cutouts(data, PSF, error=1, pixel_scale=scale).pixel_scale, [0.2] * N)

    @pytest.mark.parametrize("zero_point", [25, 25 * u.mag, 25 * u.ABmag, np.full(N, 25.0)])
    def test_zero_point(self, data, zero_point):
        assert_array_equal(Cutouts(data, PSF, error=1, zero_point=zero_point).zero_point, [25] * N)

    def test_ids(self, data):
        ids = np.array(["a", "b", "c", "d", "e"])
        cutouts = Cutouts(data, PSF, error=1, ids=ids)
        ids[0] = "z"
        assert_array_equal(cutouts.ids, list("abcde"))
        assert not cutouts.ids.flags.writeable
        assert_array_equal(Cutouts(data, PSF, error=1, ids=["a", 2, None, 4, 5]).ids, ["a", "2", "None", "4", "5"])

    def test_positions(self, data):
        positions = np.array([[100.5, 200.25]] * N)
        assert_array_equal(Cutouts(data, PSF, error=1, positions=positions).origin, [[91, 188.75]] * N)

    def test_wcs(self, data):
        wcs = make_wcs(0.3)
        cutouts = Cutouts(data, PSF, error=1, wcs=wcs, positions=np.full((N, 2), 50.0))
        assert cutouts.wcs_in_parent
        assert_allclose(cutouts.pixel_scale, 0.3, rtol=1e-6)
        assert cutouts.wcs == [wcs] * N
        several = Cutouts(data, PSF, error=1, wcs=[wcs, None, wcs, make_wcs(0.4), wcs])
        assert not several.wcs_in_parent
        assert_allclose(several.pixel_scale, [0.3, np.nan, 0.3, 0.4, 0.3], rtol=1e-6)
        assert_array_equal(whole(several)[0], [0, Flag.FAILED, 0, 0, 0])
        assert_allclose(Cutouts(data, PSF, error=1, wcs=wcs, pixel_scale=0.5).pixel_scale, 0.5)

    @pytest.mark.parametrize(
        ("name", "value", "kind", "match"),
        [
            ("gain", "x", TypeError, "gain must hold real numbers, not strings"),
            ("gain", 0, ValueError, "gain must be positive and finite"),
            ("gain", [1, 2], ValueError, r"gain must be a scalar or have one value per cutout \(5\)"),
            ("pixel_scale", -0.2, ValueError, "pixel_scale must be positive and finite"),
            ("pixel_scale", 1 * u.m, ValueError, "pixel_scale must be an angle"),
            ("zero_point", np.inf, ValueError, "zero_point must be finite"),
            ("zero_point", 3 * u.m, ValueError, "zero_point must be in magnitudes"),
            ("positions", [1, 2], ValueError, r"positions must have x and y for every cutout, shape \(5, 2\)"),
            ("positions", "centre", TypeError, "positions must hold real numbers"),
            ("ids", [1, 2], ValueError, r"ids must have one entry per cutout \(5\)"),
            ("wcs", "wcs.fits", TypeError, "wcs must be an astropy WCS"),
            ("wcs", [None] * 3, ValueError, r"wcs must be one WCS or one per cutout \(5\), not 3"),
            ("wcs", WCS(naxis=2), ValueError, "wcs must be celestial"),
        ],
    )
    def test_wrong(self, data, name, value, kind, match):
        with pytest.raises(kind, match=match):
            Cutouts(data, PSF, error=1, **{name: value})


class TestFlags:
    """One test for each bit that is set here; the other rows stay as they are."""

    @pytest.mark.parametrize(
        "bad", [np.nan, np.inf, 1e300, -1e38], ids=["all nan", "all infinite", "all huge", "all very negative"]
    )
    def test_failed_pixels(self, data, bad):
        reference = next(Cutouts(data, PSF, error=1).batches())
        data[2] = bad
        batch = next(Cutouts(data, PSF, error=1).batches())
        assert "failed" in decode_flags(batch.flags)[2]
        assert not batch.good[2].any()
        assert not batch.image[2].any()
        assert batch.scale[2] == 1
        others = [0, 1, 3, 4]
        assert_array_equal(batch.flags[others], 0)
        assert_array_equal(batch.image[others], reference.image[others])

    def test_failed_because_masked(self, data):
        mask = np.zeros(data.shape, dtype=bool)
        mask[1] = True
        assert_array_equal(
            whole(Cutouts(data, PSF, error=1, mask=mask))[0], [0, Flag.FAILED | Flag.MANY_MASKED, 0, 0, 0]
        )

    @pytest.mark.parametrize("name", ["error", "gain", "pixel_scale"])
    @pytest.mark.parametrize("bad", [np.nan, 0.0, -2.0, np.inf])
    def test_failed_because_of_its_number(self, data, name, bad):
        values = np.array([1.0, bad, 1.0, 1.0, 1.0])
        flags, scale, good = whole(Cutouts(data, PSF, **{"error": 1, name: values}))
        assert_array_equal(flags, [0, Flag.FAILED, 0, 0, 0])
        assert_array_equal(scale, 1)
        assert_array_equal(good, [480, 0, 480, 480, 480])

    def test_failed_because_of_its_position(self, data):
        positions = np.full((N, 2), 30.0)
        positions[3, 1] = np.nan
        assert_array_equal(whole(Cutouts(data, PSF, error=1, positions=positions))[0], [0, 0, 0, Flag.FAILED, 0])

    def test_failed_because_too_small(self):
        flags, _, _ = whole(Cutouts([np.ones((1, 1)), np.ones((2, 3)), np.ones((3, 3))], np.ones((3, 3)), error=1))
        assert [("failed" in names) for names in decode_flags(flags)] == [True, True, False]

    def test_unknown_zero_point_fails_nothing(self, data):
        assert_array_equal(whole(Cutouts(data, PSF, error=1, zero_point=[1, np.nan, 3, 4, 5]))[0], 0)

    def test_nonfinite_pixels(self, data):
        mask = np.zeros(data.shape, dtype=bool)
        data[0, 3, 4] = data[1, 3, 4] = np.nan
        mask[1, 3, 4] = True
        error = np.ones(data.shape)
        error[2, 0, 0], error[3, 0, :2] = 0, (np.nan, -1)
        flags, _, good = whole(Cutouts(data, PSF, error=error, mask=mask))
        assert_array_equal(flags, [Flag.NONFINITE_PIXELS, 0, Flag.NONFINITE_PIXELS, Flag.NONFINITE_PIXELS, 0])
        assert_array_equal(good, [479, 479, 479, 478, 480])

    def test_many_masked(self, data):
        mask = np.zeros(data.shape, dtype=bool)
        mask[0, :12, :] = True  # half, and not more
        mask[1, :12, :] = mask[1, 23, 0] = True
        mask[2, 10:13, 8:11] = True
        mask[3, 10:13, 8:10] = True
        expected = [0, Flag.MANY_MASKED, Flag.MANY_MASKED, 0, 0]
        assert_array_equal(whole(Cutouts(data, PSF, error=1, mask=mask))[0], expected)
        assert_array_equal(whole(Cutouts(list(data), PSF, error=1, mask=mask))[0], expected)

    def test_error_estimated(self):
        rng = np.random.default_rng(3)
        sigma = np.array([1.0, 3.0, 10.0])
        data = rng.normal(size=(3, 64, 64)) * sigma[:, None, None]
        data[:, 10:54, 10:54] += 1e4
        data[0, 0, :9] = 1e5  # a neighbour at the border
        data[1, :, 0] = np.nan
        flags, scale, _ = whole(Cutouts(data, PSF))
        assert_array_equal(flags & Flag.ERROR_ESTIMATED, Flag.ERROR_ESTIMATED)
        assert_allclose(scale, sigma, rtol=0.15)
        assert_array_equal(flags & Flag.NONFINITE_PIXELS, [0, Flag.NONFINITE_PIXELS, 0])
        ragged = Cutouts([*data, data[2][:33, :40]], PSF)
        assert_allclose(whole(ragged)[1][:3], scale)
        assert_allclose(ragged.error(2), scale[2])

    def test_estimate_is_unbiased(self):
        data = np.random.default_rng(4).normal(size=(400, 32, 32))
        scale = whole(Cutouts(data, PSF))[1]
        assert_allclose(scale.mean(), 1, atol=0.01)

    @pytest.mark.parametrize("value", [0.0, 3.0, -1e30])
    def test_constant_stamp_has_no_error(self, data, value):
        data[1] = value
        flags = whole(Cutouts(data, PSF))[0]
        assert_array_equal(flags & Flag.FAILED, [0, Flag.FAILED, 0, 0, 0])
        assert_array_equal(Cutouts(data, PSF).error(1), np.full((NY, NX), np.nan))
        assert Cutouts(data, PSF).mask(1).all()


class TestBatches:
    """How the rows are handed out."""

    @pytest.mark.parametrize("form", [np.asarray, list])
    def test_size_and_order(self, data, form):
        cutouts = Cutouts(form(data), PSF, error=1)
        index = [batch.index.tolist() for batch in cutouts.batches(max_pixels=2 * 32 * 32)]
        assert index == [[0, 1], [2, 3], [4]] or form is np.asarray
        assert [row for rows in index for row in rows] == list(range(N))
        assert len(list(cutouts.batches(max_pixels=1))) == N
        assert [len(batch) for batch in cutouts.batches()] == [N]

    @pytest.mark.parametrize("select", [[3, 1], np.array([False, True, False, True, False]), np.array([1, 3])])
    def test_select(self, data, select):
        batch = next(Cutouts(data, PSF, error=np.arange(1, 6)).batches(select=select))
        assert_array_equal(batch.index, [1, 3])
        assert_array_equal(batch.scale, [2, 4])
        assert_allclose(batch.image[1] * 4, data[3], rtol=1e-6)

    def test_select_nothing(self, data):
        assert list(Cutouts(data, PSF, error=1).batches(select=[])) == []

    def test_neighbours_do_not_matter(self, data):
        stamps = list(data)
        alone = next(Cutouts(stamps[:1], PSF, error=1).batches())
        together = next(Cutouts([*stamps, np.ones((1, 1)), np.ones((70, 3))], PSF, error=1).batches())
        assert_array_equal(alone.image[0], together.image[0])

    def test_huge_and_tiny_units(self, data):
        for factor in (1e-120, 1e-30, 1e30, 1e120):
            batch = next(Cutouts(data * factor, PSF, error=factor).batches())
            assert_allclose(batch.image, data, rtol=1e-5)
            assert_array_equal(batch.flags, 0)
            assert_allclose(batch.scale, factor)

    def test_wrong_arguments(self, data):
        cutouts = Cutouts(data, PSF, error=1)
        with pytest.raises(ValueError, match="max_pixels must be an integer >= 1"):
            next(cutouts.batches(max_pixels=0))
        with pytest.raises(IndexError, match="rows must lie between -5 and 4"):
            next(cutouts.batches(select=[7]))
        with pytest.raises(TypeError, match="rows must be a slice"):
            next(cutouts.batches(select=[0.5]))


class TestRows:
    """Parts of a set."""

    @pytest.mark.parametrize("form", [np.asarray, list])
    @pytest.mark.parametrize("key", [slice(1, 4, 2), [1, 3], np.array([False, True, False, True, False])])
    def test_parts(self, data, form, key):
        psfs = np.stack([PSF**k for k in (1, 0.9, 0.8, 0.7, 0.6)])
        error = form(np.ones(data.shape) * np.arange(1, 6)[:, None, None])
        ids = list("abcde")
        part = Cutouts(form(data), psfs, error=error, mask=form(data > 30), ids=ids, positions=np.full((N, 2), 9.0))[
            key
        ]
        assert_array_equal(part.ids, ["b", "d"])
        assert_array_equal(part.image(1), data[3])
        assert_array_equal(part.error(1), np.full((NY, NX), 4.0))
        assert_array_equal(part.mask(0), data[1] > 30)
        assert_allclose(part.psf_image(1), psfs[3] / psfs[3].sum())
        assert part.origin.shape == (2, 2)
        batch = next(part.batches())
        assert_array_equal(batch.index, [0, 1])
        assert_array_equal(batch.scale, [2, 4])

    def test_slices_are_views(self, data):
        assert np.shares_memory(Cutouts(data, PSF, error=1)[1:3]._store.images, data)

    def test_single(self, data):
        cutouts = Cutouts(data, PSF, error=1)
        assert_array_equal(cutouts[-1].image(0), data[4])
        with pytest.raises(IndexError, match="index 5 is out of range for 5 cutouts"):
            cutouts[5]
        with pytest.raises(IndexError, match="i must be the number of one of the 5 cutouts"):
            cutouts.image(5)
        with pytest.raises(TypeError, match="i must be the number of a cutout, not str"):
            cutouts.error("1")

    def test_pickle(self, data):
        cutouts = pickle.loads(pickle.dumps(Cutouts(data * u.nJy, PSF, error=1 * u.nJy)))
        assert cutouts.unit == u.nJy
        assert_array_equal(cutouts.image(2), data[2])

    def test_attributes_are_read_only(self, data):
        cutouts = Cutouts(data, PSF, error=1, gain=1.0, pixel_scale=1.0, zero_point=1.0, positions=np.ones((N, 2)))
        for name in ("shapes", "ids", "gain", "pixel_scale", "zero_point", "origin", "psf_index"):
            assert not getattr(cutouts, name).flags.writeable, name
            with pytest.raises(AttributeError):
                setattr(cutouts, name, None)


def test_random_broken_stamps(data):
    """Whatever happens to two cutouts, the others come out bit for bit the same, without a numpy warning."""
    spoilers = [
        lambda image, rng: image.fill(np.nan),
        lambda image, rng: image.fill(rng.normal()),
        lambda image, rng: image.fill(-np.inf),
        lambda image, rng: np.multiply(image, 1e306, out=image),
        lambda image, rng: np.multiply(image, 1e-310, out=image),
        lambda image, rng: image.__setitem__((slice(8, 16), slice(6, 14)), np.nan),
        lambda image, rng: image.__setitem__((rng.integers(NY), slice(None)), 1e308),
        lambda image, rng: image.__setitem__((slice(None, None, 2),), np.inf),
    ]
    for seed in range(200):
        rng = np.random.default_rng(seed)
        error = [1.0, None, np.ones(N), np.ones(data.shape)][seed % 4]
        form = [np.asarray, list, lambda a: a.astype(">f8")][seed % 3]
        spoilt, bad = data.copy(), rng.choice(N, 2, replace=False)
        for i in bad:
            spoilers[rng.integers(len(spoilers))](spoilt[i], rng)
        others = np.setdiff1d(np.arange(N), bad)
        reference = next(Cutouts(form(data), PSF, error=error).batches())
        batch = next(Cutouts(form(spoilt), PSF, error=error).batches())
        assert np.isfinite(batch.image).all()
        assert np.isfinite(batch.scale).all()
        assert (batch.error > 0).all()
        for name in ("image", "good", "scale", "flags"):
            assert_array_equal(getattr(batch, name)[others], getattr(reference, name)[others])
