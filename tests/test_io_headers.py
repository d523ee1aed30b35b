"""What headers say about units, gains, masks and weights, and what is believed of it."""

import astropy.units as u
import numpy as np
import pytest
from _catalogs import POSITIONS, cutout_table, field, psf_image, stamps
from _galaxies import draw, gaussian_psf
from astropy.io import fits
from astropy.table import Table

from galmeasure import LSQSersicFitter
from galmeasure.cli import main
from galmeasure.exceptions import CatalogError
from galmeasure.flags import Flag
from galmeasure.io import SkySource, open_catalog, read_cutouts
from galmeasure.io.unit_spellings import parse_unit

SHAPE = (150, 180)


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("ELECTRONS/S", u.electron / u.s),
        ("counts/s", u.ct / u.s),
        ("COUNTS/S", u.ct / u.s),
        ("MJY/SR", u.MJy / u.sr),
        ("microJy", u.uJy),
        ("nanoJansky", u.nJy),
        ("e-/s", u.electron / u.s),
        ("E-/S", u.electron / u.s),
        ("e/s", u.electron / u.s),
        ("e- s-1", u.electron / u.s),
        ("cps", u.ct / u.s),
        ("DN/S", u.DN / u.s),
        ("electrons/sec", u.electron / u.s),
        ("ADU", u.adu),
        ("JY", u.Jy),
        ("nanomaggies", u.nmgy),
        ("MJy2 / sr2", u.MJy**2 / u.sr**2),
        ("10^-17 erg/s/cm^2/Ang", 1e-17 * u.erg / u.s / u.cm**2 / u.AA),
        ("1E-17 ERG/S/CM**2/ANG", 1e-17 * u.erg / u.s / u.cm**2 / u.AA),
        ("1e-17 erg / (Angstrom cm2 s)", 1e-17 * u.erg / u.s / u.cm**2 / u.AA),
    ],
)
def test_spellings_of_units(text, unit):
    assert parse_unit(text) == u.Unit(unit)


@pytest.mark.parametrize("text", ["(24,...)", "parsnip", "electrons per second", "MJY"])
def test_units_that_are_not_understood_are_noted(tmp_path, text):
    cutout_table(tmp_path / "c.fits", units={"cutout": text})
    source = open_catalog(tmp_path / "c.fits")
    assert source.unit is None
    assert source.notes == [f"no unit: {text!r} of the column cutout is not understood"]
    field(tmp_path / "i.fits", unit=text, PSF=psf_image())
    Table({"x": [100.0], "y": [60.0]}).write(tmp_path / "l.csv")
    source = open_catalog(tmp_path / "l.csv", image=tmp_path / "i.fits", error=1.0)
    assert f"no unit: {text!r} of the image is not understood" in source.notes
    with pytest.raises(SystemExit) as done:
        main([str(tmp_path / "c.fits"), "--method", "lsq", "--rows", "0", "--columns", "id,flux_fit"])
    assert done.value.code == 0


@pytest.mark.parametrize("text", ["", "  ", "UNITLESS", "none"])
def test_no_unit_is_no_news(tmp_path, text):
    cutout_table(tmp_path / "c.fits", units={"cutout": text})
    assert open_catalog(tmp_path / "c.fits").notes == []


def test_units_of_cutouts_in_extensions(tmp_path):
    data = stamps(2)
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(data[0], name="SCI", ver=1), fits.ImageHDU(data[1], name="SCI", ver=2)]
    hdus += [fits.ImageHDU(np.full((24, 24), 4e-18), name="VAR", ver=i) for i in (1, 2)]
    for hdu, unit in zip(hdus[1:], ("nJy", "uJy", "Jy2", "Jy2"), strict=True):
        hdu.header["BUNIT"] = unit
    fits.HDUList([*hdus, fits.ImageHDU(psf_image(), name="PSF")]).writeto(tmp_path / "m.fits")
    cutouts = read_cutouts(tmp_path / "m.fits")
    assert cutouts.unit == u.nJy
    np.testing.assert_allclose(cutouts.image(1), 1e3 * data[1], rtol=1e-6)
    np.testing.assert_allclose([cutouts.error(i)[0, 0] for i in range(2)], 2.0)
    fits.setval(tmp_path / "m.fits", "BUNIT", value="electron", ext=2)
    with pytest.raises(CatalogError, match="SCI,2: its unit, electron, is not that of the first cutout, nJy"):
        read_cutouts(tmp_path / "m.fits")


@pytest.mark.parametrize(
    ("name", "value", "unit"),
    [("ERR", 0.002, "uJy"), ("VARIANCE", 4e-6, "uJy2"), ("VARIANCE", 4.0, "nJy"), ("IVAR", 0.25e6, "1/uJy2"),
     ("IVAR", 0.25, None), ("WHT", 0.25e6, "uJy**-2")],
)  # fmt: skip
def test_noise_in_units_of_its_own(tmp_path, name, value, unit):
    field(tmp_path / "i.fits", unit="nJy", PSF=psf_image(), **{name: np.full(SHAPE, value)})
    if unit is not None:
        fits.setval(tmp_path / "i.fits", "BUNIT", value=unit, extname=name)
    Table({"x": [100.0], "y": [60.0]}).write(tmp_path / "l.csv")
    assert read_cutouts(tmp_path / "l.csv", image=tmp_path / "i.fits").error(0)[5, 5] == pytest.approx(2.0)


def test_unit_of_the_first_header(tmp_path):
    """The Rubin pipelines write the unit into the header without an image."""
    rubin(tmp_path / "i.fits", range(3))
    with fits.open(tmp_path / "i.fits", mode="update") as hdus:
        hdus[0].header["BUNIT"] = hdus[1].header.pop("BUNIT")
    assert open_catalog(tmp_path / "i.fits", psf=psf_image()).unit == u.nJy
    Table({"x": [12.0], "y": [12.0]}).write(tmp_path / "l.csv")
    assert open_catalog(tmp_path / "l.csv", image=tmp_path / "i.fits", psf=psf_image()).unit == u.nJy


@pytest.mark.parametrize("kind", ["StdDevUncertainty", "VarianceUncertainty", "InverseVariance"])
def test_uncertainty_of_ccddata(tmp_path, kind):
    from astropy import nddata

    value = {"StdDevUncertainty": 2.0, "VarianceUncertainty": 4.0, "InverseVariance": 0.25}[kind]
    uncertainty = getattr(nddata, kind)(np.full((24, 24), value))
    nddata.CCDData(stamps(1)[0], unit="adu", uncertainty=uncertainty).write(tmp_path / "c.fits")
    Table({"x": [12.0], "y": [12.0]}).write(tmp_path / "l.csv")
    cutouts = read_cutouts(tmp_path / "c.fits", psf=psf_image())
    cut = read_cutouts(tmp_path / "l.csv", image=tmp_path / "c.fits", psf=psf_image(), size=9)
    assert cutouts.error(0)[3, 3] == cut.error(0)[3, 3] == pytest.approx(2.0)


def test_noise_in_a_unit_that_does_not_fit(tmp_path):
    field(tmp_path / "i.fits", unit="nJy", PSF=psf_image(), ERR=np.ones(SHAPE))
    fits.setval(tmp_path / "i.fits", "BUNIT", value="adu", extname="ERR")
    Table({"x": [100.0], "y": [60.0]}).write(tmp_path / "l.csv")
    with pytest.raises(CatalogError, match="error: its unit, adu, does not fit that of the image, nJy"):
        open_catalog(tmp_path / "l.csv", image=tmp_path / "i.fits")


class TestGain:
    """The reduced chi-squared of galaxies whose noise is known is 1 if the gain is what it should be."""

    TRUTH = {"flux": 5e4, "n": 1.5, "r_eff": 3.0, "g1": 0.1, "g2": 0.0}
    SIGMA = 4.0

    def expected(self):
        return draw((41, 41), gaussian_psf(21), [[*self.TRUTH.values(), 20.0, 20.0]] * 3)

    def write(self, path, unit, electrons, total, header, error=True):
        """Write three galaxies with shot noise; `electrons` per unit of the image."""
        rng = np.random.default_rng(7)
        model = self.expected()  # electrons
        variance = self.SIGMA**2 + np.maximum(model, 0)
        image = model + rng.normal(0, 1, model.shape) * np.sqrt(variance)
        noise = np.sqrt(variance) if total else np.full(model.shape, self.SIGMA)
        hdus = [fits.PrimaryHDU()]
        for i in range(len(model)):
            hdus.append(fits.ImageHDU(image[i] / electrons, name="SCI", ver=i + 1))
            hdus[-1].header.update({"BUNIT": unit} | header)
            if error:
                hdus.append(fits.ImageHDU(noise[i] / electrons, name="ERR", ver=i + 1))
        fits.HDUList([*hdus, fits.ImageHDU(gaussian_psf(21), name="PSF")]).writeto(path)

    def chi2(self, path, **options):
        source = open_catalog(path, **options)
        return source, np.asarray(LSQSersicFitter().fit(source.read(np.arange(3)))["chi2_reduced"])

    @pytest.mark.parametrize("total", [False, True])
    @pytest.mark.parametrize(
        ("unit", "electrons", "header", "total_only"),
        [
            ("electron/s", 1000.0, {"GAIN": 2.0, "EXPTIME": 1000.0}, False),
            ("ELECTRONS", 1.0, {"GAIN": 2.0, "EXPTIME": 1000.0}, False),
            ("adu", 2.0, {"GAIN": 2.0, "EXPTIME": 1000.0}, False),
            ("", 2.0, {"GAIN": "2.0 e-/ADU"}, False),
            ("counts/s", 200.0, {"GAIN": 2.0, "EXPTIME": 100.0}, False),
            ("nJy", 30.0, {"GAIN": 2.0, "EXPTIME": 1000.0}, True),
            ("parsnip", 30.0, {"GAIN": 2.0}, True),
            ("electron/s", 1000.0, {"GAIN": 2.0}, True),
        ],
    )
    def test_unit_and_gain(self, tmp_path, unit, electrons, header, total_only, total):
        if total_only and not total:
            pytest.skip("the noise of the sources is not known")
        self.write(tmp_path / "m.fits", unit, electrons, total, header)
        source, chi2 = self.chi2(tmp_path / "m.fits")
        assert (chi2 > 0.85).all()
        assert (chi2 < 1.15).all()
        used = [note for note in source.notes if note.startswith("gain ") and "not used" not in note]
        assert bool(used) == (not total)
        assert any("not used" in note for note in source.notes) == total

    def test_option_wins(self, tmp_path):
        self.write(tmp_path / "m.fits", "nJy", 30.0, False, {"GAIN": 2.0})
        source, chi2 = self.chi2(tmp_path / "m.fits", gain=30.0)
        assert source.gain == 30.0
        assert abs(chi2 - 1).max() < 0.15

    def test_image_with_total_errors(self, tmp_path):
        self.write(tmp_path / "m.fits", "electron/s", 1000.0, True, {"GAIN": 2.0, "EXPTIME": 1000.0})
        Table({"x": [20.0], "y": [20.0]}).write(tmp_path / "l.csv")
        for error in (None, f"{tmp_path / 'm.fits'}[ERR,2]"):
            source = open_catalog(tmp_path / "l.csv", image=f"{tmp_path / 'm.fits'}[SCI,2]", error=error, size=41)
            assert source.gain is None
            assert "gain not used, the errors contain" in " ".join(source.notes)


@pytest.mark.parametrize(
    ("value", "gain", "note"),
    [
        ("HIGH", None, "GAIN = 'HIGH' not used, it must be a positive number"),
        (-999, None, "GAIN = '-999' not used, it must be a positive number"),
        (-999.0, None, "GAIN = '-999.0' not used, it must be a positive number"),
        ("NaN", None, "GAIN = 'NaN' not used, it must be a positive number"),
        (True, None, "GAIN = 'True' not used, it must be a positive number"),
        ("2.5 e-/ADU", 2.5, "gain 2.5 (GAIN)"),
        ("2.5", 2.5, "gain 2.5 (GAIN)"),
        ("2.5e0", 2.5, "gain 2.5 (GAIN)"),
        ("2/4", None, "GAIN = '2/4' not used, it must be a positive number"),
    ],
)
def test_gain_that_is_no_number(tmp_path, value, gain, note):
    cutout_table(tmp_path / "c.fits", header={"GAIN": value})
    source = open_catalog(tmp_path / "c.fits")
    assert (source.gain, source.notes) == (gain, [note])
    field(tmp_path / "i.fits", unit="adu", PSF=psf_image())
    fits.setval(tmp_path / "i.fits", "GAIN", value=value)
    assert note in open_catalog(tmp_path / "i.fits", detect=True, error=1.0).notes
    hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(stamp, name="SCI", ver=i + 1) for i, stamp in enumerate(stamps(2)))]
    for hdu in hdus[1:]:
        hdu.header["GAIN"] = value
    fits.HDUList([*hdus, fits.ImageHDU(psf_image(), name="PSF")]).writeto(tmp_path / "m.fits")
    source = open_catalog(tmp_path / "m.fits")
    assert note in source.notes
    assert gain is None or np.all(source.gain == gain)


RUBIN = {"BAD": 0, "SAT": 1, "INTRP": 2, "CR": 3, "EDGE": 4, "DETECTED": 5, "DETECTED_NEGATIVE": 6, "NO_DATA": 8}


def rubin(path, bits, planes=RUBIN, dtype="i4", image=None):
    """An image, mask and variance as the Rubin pipelines write them; each bit at another pixel, DETECTED everywhere."""
    image = stamps(1)[0] if image is None else image
    mask = np.full(image.shape, sum(1 << planes[name] for name in ("DETECTED",) if name in planes), dtype)
    for i, bit in enumerate(bits):
        mask[0, i] |= dtype_of(dtype)(1 << bit)
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(image, name="IMAGE"), fits.ImageHDU(mask, name="MASK")]
    hdus[2].header.update({f"HIERARCH MP_{name}": bit for name, bit in planes.items()})
    hdus[1].header["BUNIT"] = "nJy"
    hdus.append(fits.ImageHDU(np.full(image.shape, 4.0, "f4"), name="VARIANCE"))
    fits.HDUList(hdus).writeto(path)


def dtype_of(name):
    return np.dtype(name).type


def masked_bits(cutouts, row=0):
    return np.flatnonzero(cutouts.mask(row)[0]).tolist()


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (None, [0, 1, 2, 3, 4, 7, 8]),
        ("BAD,SAT", [0, 1]),
        (["SAT", "NO_DATA"], [1, 8]),
        ("sat, 3", [1, 3]),
        ([0, 3], [0, 3]),
        (9, [0, 3]),
        ("9", [0, 3]),
        ("0x100", [8]),
        ("1+8", [0, 3]),
        ("~DETECTED,BAD", [1, 2, 3, 4, 6, 7, 8]),
        ("MP_CR", [3]),
    ],
)
@pytest.mark.parametrize("dtype", ["i2", "u2", "i4", "i8"])
def test_bits_of_masks(tmp_path, option, expected, dtype):
    rubin(tmp_path / "m.fits", range(9), dtype=dtype)
    source = open_catalog(tmp_path / "m.fits", psf=psf_image(), mask_bits=option)
    cutouts = source.read([0])
    assert masked_bits(cutouts) == [i for i in expected if i != 5]
    assert not cutouts.mask(0)[1:].any()
    assert cutouts.error(0)[3, 3] == 2.0
    if option is None:
        assert "mask bits all but DETECTED, DETECTED_NEGATIVE" in source.notes


def test_bits_of_the_mask_of_an_image(tmp_path, capsys):
    rng = np.random.default_rng(3)
    image = field(tmp_path / "f.fits", noise=2.0) + rng.normal(0, 0.1, SHAPE).astype("f4")
    rubin(tmp_path / "i.fits", range(9), image=image)
    Table({"x": POSITIONS[:2, 0], "y": POSITIONS[:2, 1]}).write(tmp_path / "l.csv")
    fits.writeto(tmp_path / "p.fits", psf_image())
    source = open_catalog(tmp_path / "l.csv", image=tmp_path / "i.fits", psf=psf_image())
    assert not source.read([1]).mask(0).any()
    assert source.read([1]).error(0)[3, 3] == 2.0
    assert source.notes[-3:] == [
        "mask (MASK,1)",
        "mask bits all but DETECTED, DETECTED_NEGATIVE",
        "variance (VARIANCE,1)",
    ]
    every = open_catalog(tmp_path / "l.csv", image=tmp_path / "i.fits", psf=psf_image(), mask_bits="DETECTED")
    assert every.read([1]).mask(0).all()
    given = open_catalog(tmp_path / "l.csv", image=tmp_path / "f.fits", mask=tmp_path / "i.fits", psf=psf_image())
    assert not given.read([1]).mask(0).any()
    assert len(open_catalog(tmp_path / "i.fits", detect=True, psf=psf_image())) >= 3
    sky = SkySource(tmp_path / "i.fits", psf=psf_image(), mask_bits="BAD", size=33)
    assert sky.blank_positions(5, 5, np.random.default_rng(1))[1] > 0.1
    options = ["--image", str(tmp_path / "i.fits"), "--psf", str(tmp_path / "p.fits"), "--method", "lsq"]
    with pytest.raises(SystemExit) as done:
        main([str(tmp_path / "l.csv"), *options, "--mask-bits", "BAD,CR"])
    assert done.value.code == 0
    assert "mask bits BAD, CR" in capsys.readouterr().out
    assert not (Table.read(tmp_path / "l_galmeasure.fits")["flags"] & int(Flag.FAILED)).any()


def test_bits_of_a_mask_column(tmp_path):
    mask = np.zeros((7, 24, 24), "i2")
    mask[:, 0, :16] = np.arange(16)
    cutout_table(tmp_path / "c.fits", {"mask": mask})
    assert masked_bits(read_cutouts(tmp_path / "c.fits", mask_bits=4)) == [4, 5, 6, 7, 12, 13, 14, 15]
    assert masked_bits(read_cutouts(tmp_path / "c.fits")) == list(range(1, 16))


@pytest.mark.parametrize(
    ("primary", "expected"),
    [({"TELESCOP": "JWST"}, [0]), ({"TELESCOP": "HST", "INSTRUME": "ACS"}, [0, 1, 2, 3, 4, 7]), ({}, list(range(8)))],
)
def test_bits_of_telescopes(tmp_path, primary, expected):
    hdus = observed = [fits.PrimaryHDU(), fits.ImageHDU(stamps(1)[0], name="SCI")]
    hdus[0].header.update(primary)
    dq = np.zeros((24, 24), "u4")
    dq[0, :8] = 1 << np.arange(8)
    observed.append(fits.ImageHDU(dq, name="DQ"))
    fits.HDUList(hdus).writeto(tmp_path / "m.fits")
    assert masked_bits(read_cutouts(tmp_path / "m.fits", psf=psf_image())) == expected
    if primary.get("TELESCOP") == "JWST":
        cutouts = read_cutouts(tmp_path / "m.fits", psf=psf_image(), mask_bits="SATURATED,JUMP_DET")
        assert masked_bits(cutouts) == [1, 2]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("SATURN", "mask_bits: the mask has no bit SATURN: there are BAD, SAT"),
        (0, "mask_bits must be a positive sum of powers of two, not 0"),
        (-4, "mask_bits must be a positive sum"),
        ("3,99", "mask_bits: numbers in a list are bits from 0 to 63, not 99"),
        ("a b", "mask_bits must be names or numbers of bits"),
        ("", "mask_bits must be names or numbers of bits"),
        ([], "mask_bits must be names or numbers of bits"),
        (2.5, "mask_bits must be names or numbers of bits"),
        (True, "mask_bits must be names or numbers of bits"),
    ],
)
def test_wrong_bits(tmp_path, option, message):
    rubin(tmp_path / "m.fits", range(9))
    with pytest.raises((ValueError, TypeError), match=message):
        open_catalog(tmp_path / "m.fits", psf=psf_image(), mask_bits=option)


def test_meanings_of_what_is_not_there(tmp_path):
    cutout_table(tmp_path / "c.fits")
    field(tmp_path / "i.fits", PSF=psf_image())
    Table({"x": [100.0], "y": [60.0]}).write(tmp_path / "l.csv")
    fits.HDUList([fits.PrimaryHDU(stamps(1)[0]), fits.ImageHDU(psf_image(), name="PSF")]).writeto(tmp_path / "m.fits")
    for options, message in (
        ({"mask_bits": 1}, "mask_bits says what a mask means, and no mask is used"),
        ({"weight_type": "ivar"}, "weight_type says what a weight means, and no weight is used"),
    ):
        for path, image in (("c.fits", None), ("m.fits", None), ("l.csv", tmp_path / "i.fits")):
            with pytest.raises(ValueError, match=message):
                open_catalog(tmp_path / path, image=image, **options)


class TestWeight:
    """A weight is an inverse variance where something says so; otherwise the error is estimated."""

    @pytest.fixture
    def paths(self, tmp_path):
        weight = np.full(SHAPE, 0.04, "f4")
        weight[60, 100] = 0.0
        for name, factor in (("WHT", 1.0), ("IVAR", 1.0), ("EXPOSURE", 2e4)):
            field(tmp_path / f"{name}.fits", noise=5.0, PSF=psf_image(),
                  **{"WHT" if name == "EXPOSURE" else name: factor * weight})  # fmt: skip
        Table({"x": [100.0], "y": [60.0]}).write(tmp_path / "l.csv")
        return tmp_path / "l.csv", tmp_path

    @pytest.mark.parametrize(
        ("name", "option", "believed"),
        [
            ("WHT", None, False),
            ("WHT", "ivar", True),
            ("WHT", "relative", False),
            ("EXPOSURE", None, False),
            ("EXPOSURE", "exposure", False),
            ("IVAR", None, True),
            ("IVAR", "relative", False),
        ],
    )
    def test_image(self, paths, name, option, believed):
        source = open_catalog(paths[0], image=paths[1] / f"{name}.fits", weight_type=option)
        cutouts = source.read([0])
        assert cutouts.error(0)[3, 3] == pytest.approx(5.0, rel=1e-6 if believed else 0.25)
        x0, y0 = cutouts.origin[0].astype(int)
        assert np.argwhere(cutouts.mask(0)).tolist() == [[60 - y0, 100 - x0]]
        label = "IVAR,1" if name == "IVAR" else "WHT,1"
        expected = f"inverse variance ({label})" if believed else f"error estimated from the noise ({label} is "
        assert any(note.startswith(expected) for note in source.notes)
        assert bool(next(cutouts.batches()).flags[0] & int(Flag.ERROR_ESTIMATED)) != believed

    def test_option_is_inverse_variance_as_its_help_says(self, paths):
        path = paths[1] / "WHT.fits"
        for option, believed in ((None, True), ("relative", False)):
            source = open_catalog(paths[0], image=path, weight=f"{path}[WHT]", weight_type=option)
            flags = next(source.read([0]).batches()).flags[0]
            assert bool(flags & int(Flag.ERROR_ESTIMATED)) != believed

    def test_option_against_its_unit(self, paths):
        path = paths[1] / "EXPOSURE.fits"
        fits.setval(path, "BUNIT", value="s", extname="WHT")
        with pytest.raises(CatalogError, match="weight: its unit, s, does not fit that of the image, electron"):
            open_catalog(paths[0], image=path, weight=f"{path}[WHT]")

    def test_option_against_the_noise(self, paths):
        path = paths[1] / "EXPOSURE.fits"
        message = r"weight: as inverse variances \(option weight, .*\) they give errors 0.00\d+ times the noise"
        with pytest.raises(CatalogError, match=message):
            open_catalog(paths[0], image=path, weight=f"{path}[WHT]")
        for kind in ("exposure", "ivar"):
            assert len(open_catalog(paths[0], image=path, weight=f"{path}[WHT]", weight_type=kind)) == 1

    def test_detection_and_sky(self, paths):
        path = paths[1] / "EXPOSURE.fits"
        source = open_catalog(path, detect=True)
        cutouts = source.read([0])
        assert np.median(cutouts.error(0)[~cutouts.mask(0)]) == pytest.approx(5.0, rel=0.3)
        sky = SkySource(path, size=33)
        positions = sky.blank_positions(3, 5, np.random.default_rng(1))[0]
        assert sky.at(positions).read([0]).error(0)[3, 3] == pytest.approx(5.0, rel=0.25)

    @pytest.mark.parametrize(("name", "believed"), [("WHT", False), ("IVAR", True)])
    def test_cutouts_in_extensions(self, tmp_path, name, believed):
        weight = np.full((24, 24), 100.0)
        weight[0, 0] = 0.0
        hdus = [fits.PrimaryHDU(), fits.ImageHDU(stamps(1)[0], name="SCI"), fits.ImageHDU(weight, name=name)]
        fits.HDUList(hdus).writeto(tmp_path / "m.fits")
        cutouts = read_cutouts(tmp_path / "m.fits", psf=psf_image())
        assert cutouts.error(0)[3, 3] == pytest.approx(0.1 if believed else 1.0, rel=0.3)
        assert np.argwhere(cutouts.mask(0)).tolist() == [[0, 0]]
        said = read_cutouts(tmp_path / "m.fits", psf=psf_image(), weight_type="ivar")
        assert said.error(0)[3, 3] == pytest.approx(0.1)

    @pytest.mark.parametrize("value", [np.full((7, 24, 24), 100.0), np.full(7, 100.0)])
    def test_column(self, tmp_path, value):
        cutout_table(tmp_path / "w.fits", {"weight": value})
        with pytest.raises(CatalogError, match=r"inverse variances \(column weight\) they give errors 0.\d* times"):
            open_catalog(tmp_path / "w.fits")
        for name, believed in (("wht", False), ("ivar", True)):
            cutout_table(tmp_path / f"{name}.fits", {name: value})
            source = open_catalog(tmp_path / f"{name}.fits")
            assert source.read([0]).error(0)[3, 3] == pytest.approx(0.1 if believed else 1.0, rel=0.3)
            assert name in " ".join(source.notes)

    def test_wrong_type(self, paths):
        with pytest.raises(ValueError, match="weight_type must be one of ivar, exposure, relative, not 'map'"):
            open_catalog(paths[0], image=paths[1] / "WHT.fits", weight_type="map")
