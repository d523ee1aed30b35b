"""Files laid out as those of telescopes and surveys, made small: what is read, what is believed, what is refused."""

import gzip

import astropy.units as u
import numpy as np
import pytest
from _catalogs import POSITIONS, positions_list, psf_image, stamps, tan_wcs
from astropy.io import fits
from astropy.table import Table

from galmeasure import LSQSersicFitter
from galmeasure.exceptions import CatalogError
from galmeasure.flags import Flag
from galmeasure.io import open_catalog, read_cutouts

SHAPE = (150, 180)
NOISE = 2.0
FLUX = 200 * 2 * np.pi * 2.5**2
"""Flux of each source, in the unit of the pixels."""

GALAXY = 1
"""Number of a source that is alone and far from the border, at (100, 60)."""


def pixels(unit=1.0):
    """Field with a source at each of POSITIONS; `unit` in units of the noise."""
    rng = np.random.default_rng(2)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    image = rng.normal(0, NOISE, SHAPE)
    for x, y in POSITIONS:
        image += 200 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 2.5**2))
    return (image / unit).astype("f4")


def plane(data, name=None, version=None, *, packed=False, **cards):
    """Extension with the WCS of the field."""
    header = tan_wcs(SHAPE).to_header()
    header.update(cards)
    if packed:
        return fits.CompImageHDU(np.asarray(data), header, name=name, quantize_level=64)
    hdu = fits.ImageHDU(np.asarray(data), header, name=name)
    if version is not None:
        hdu.ver = version
    return hdu


def constant(value, dtype="f4"):
    return np.full(SHAPE, value, dtype)


def bits(*bad, dtype="i4"):
    """Mask with some bits set, given as (value, row, column)."""
    mask = np.zeros(SHAPE, dtype)
    for value, row, column in bad:
        mask[row, column] |= value
    return mask


def table(name):
    return fits.BinTableHDU.from_columns([fits.Column("A", "J", array=np.arange(3))], name=name)


def write(path, *hdus, **cards):
    primary = fits.PrimaryHDU()
    primary.header.update(cards)
    fits.HDUList([primary, *hdus]).writeto(path)
    return path


@pytest.fixture
def sky_list(tmp_path):
    ra, dec = tan_wcs(SHAPE).all_pix2world(*POSITIONS.T, 0)
    Table({"ID": np.arange(5, dtype="i2") + 10, "RA": ra.astype(">f8"), "DEC": dec}).write(tmp_path / "sky.fits")
    return tmp_path / "sky.fits"


def measured(sky_list, image, **options):
    """Source, stamp and row of the galaxy."""
    options = {"psf": psf_image(), "size": 41, **options}
    source = open_catalog(sky_list, image=image, **options)
    cutouts = source.read([GALAXY])
    return source, cutouts, LSQSersicFitter().fit(cutouts)


def check(row, factor=1.0):
    """The galaxy has its flux, in a unit of which the noise's unit holds `factor`, and a chi2 near 1."""
    flux = getattr(row["flux_fit"], "value", row["flux_fit"])[0]
    assert flux * factor == pytest.approx(FLUX, rel=0.03)
    assert abs(row["chi2_reduced"][0] - 1) < 0.2
    assert row["id"][0] == 11


def test_jwst_i2d(tmp_path, sky_list):
    unit = {"BUNIT": "MJy/sr"}
    context = plane(np.zeros((1, *SHAPE), "i4"), "CON")
    others = [plane(constant(9.0), name) for name in ("VAR_POISSON", "VAR_RNOISE", "VAR_FLAT")]
    sci, err = plane(pixels(), "SCI", PIXAR_A2=0.04, **unit), plane(constant(NOISE), "ERR", **unit)
    tables = [table("HDRTAB"), table("ASDF")]
    write(tmp_path / "i.fits", sci, err, context, plane(constant(9e4), "WHT"), *others, *tables, TELESCOP="JWST")
    source, _, row = measured(sky_list, tmp_path / "i.fits")
    check(row)
    assert source.unit == u.MJy / u.sr
    assert "error (ERR,1)" in source.notes


def test_jwst_cal(tmp_path, sky_list):
    dq = plane(bits((1, 60, 100), (4, 58, 100), dtype="u4"), "DQ")
    hdus = [plane(pixels(), "SCI", BUNIT="MJy/sr"), plane(constant(NOISE), "ERR"), dq, plane(constant(1.0), "AREA")]
    write(tmp_path / "i.fits", *hdus, table("ASDF"), TELESCOP="JWST", INSTRUME="NIRCAM")
    _, cutouts, row = measured(sky_list, tmp_path / "i.fits")
    check(row)
    assert cutouts.mask(0).sum() == 1


def test_hst_flc(tmp_path, sky_list):
    hdus = []
    for number in (1, 2):
        hdus += [plane(number * pixels(), "SCI", number, BUNIT="ELECTRONS")]
        hdus += [plane(constant(number * NOISE), "ERR", number, BUNIT="ELECTRONS")]
        hdus += [plane(bits((64, 60, 100), (256, 58, 100), dtype="i2"), "DQ", number)]
    hdus += [table("WCSCORR"), fits.ImageHDU(np.zeros((5, 5), "f4"), name="D2IMARR")]
    write(tmp_path / "flc.fits", *hdus, TELESCOP="HST", INSTRUME="ACS", CCDGAIN=2.0, EXPTIME=500.0)
    with pytest.raises(CatalogError, match="there are 2 images, SCI,1, SCI,2; choose one"):
        measured(sky_list, tmp_path / "flc.fits")
    for number in (1, 2):
        source, cutouts, row = measured(sky_list, f"{tmp_path / 'flc.fits'}[SCI,{number}]")
        check(row, 1 / number)
        assert cutouts.mask(0).sum() == 1
        assert f"error (ERR,{number})" in source.notes


@pytest.mark.parametrize("n_planes", [1, 2])
def test_hst_drz(tmp_path, sky_list, n_planes):
    context = np.ones((n_planes, *SHAPE), "i4") if n_planes > 1 else np.ones(SHAPE, "i4")
    hdus = [plane(pixels(500), "SCI", BUNIT="ELECTRONS/S"), plane(constant(900), "WHT"), plane(context, "CTX")]
    write(tmp_path / "drz.fits", *hdus, table("HDRTAB"), TELESCOP="HST", EXPTIME=500.0, CCDGAIN=1.0)
    source, _, row = measured(sky_list, tmp_path / "drz.fits")
    check(row, 500)
    assert any(note.startswith("error estimated from the noise (WHT,1 is not said") for note in source.notes)


PLANES = {"MP_BAD": 0, "MP_SAT": 1, "MP_INTRP": 2, "MP_CR": 3, "MP_EDGE": 4, "MP_DETECTED": 5, "MP_NO_DATA": 8}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.filterwarnings("ignore:Keyword name")
def test_rubin_calexp(tmp_path, sky_list, packed):
    """DETECTED covers the galaxy, a bad pixel is in its middle; the unit of the variance is that of the image."""
    mask = bits((1, 60, 100))
    mask[50:70, 90:110] |= 32
    hdus = [plane(pixels(), "IMAGE", packed=packed, BUNIT="nJy"), plane(mask, "MASK", packed=packed, **PLANES)]
    hdus += [plane(constant(NOISE**2), "VARIANCE", packed=packed, BUNIT="nJy")]
    tables = [table(name) for name in ("ARCHIVE_INDEX", "FilterLabel", "SkyWcs", "PSF")]
    write(tmp_path / "calexp.fits", *hdus, *tables, AR_HDU=5)
    source, cutouts, row = measured(sky_list, tmp_path / "calexp.fits")
    check(row)
    assert cutouts.mask(0).sum() == 1
    assert source.unit == u.nJy


def test_euclid_mer(tmp_path, sky_list):
    """Mosaic, errors and flags are files of their own; identifiers have 19 digits, and may be negative."""
    header = tan_wcs(SHAPE).to_header()
    for name, data in (("image", pixels()), ("rms", constant(NOISE)), ("flag", bits((2, 60, 100)))):
        fits.PrimaryHDU(data, header).writeto(tmp_path / f"{name}.fits")
    positions = Table.read(sky_list)
    ids = np.array([-1, -(2**62) - 1, 3, 4, 5])
    columns = {"OBJECT_ID": ids, "RIGHT_ASCENSION": positions["RA"], "DECLINATION": positions["DEC"]}
    Table(columns).write(tmp_path / "mer.fits")
    planes = {"error": tmp_path / "rms.fits", "mask": tmp_path / "flag.fits"}
    _, cutouts, row = measured(tmp_path / "mer.fits", tmp_path / "image.fits", **planes)
    assert row["id"].tolist() == [-(2**62) - 1]
    assert cutouts.mask(0).sum() == 1
    assert abs(row["chi2_reduced"][0] - 1) < 0.2


def test_sets_with_names(tmp_path, sky_list):
    """Chips whose extensions are called CHIP.SCI, CHIP.RMS and CHIP.FLG, as those of Euclid's VIS."""
    hdus = []
    for number, chip in enumerate(("CCDID 1-1", "3-4.E"), 1):
        hdus += [plane(number * pixels(), f"{chip}.SCI"), plane(constant(number * NOISE), f"{chip}.RMS")]
        hdus += [plane(bits((1, 60, 100 + number)), f"{chip}.FLG"), plane(psf_image(21 + 2 * number), f"{chip}.PSF")]
    write(tmp_path / "vis.fits", *hdus)
    for number, chip in enumerate(("CCDID 1-1", "3-4.E"), 1):
        source, cutouts, row = measured(sky_list, f"{tmp_path / 'vis.fits'}[{chip}.SCI]", psf=None)
        check(row, 1 / number)
        x0, y0 = cutouts.origin[0].astype(int)
        assert np.argwhere(cutouts.mask(0)).tolist() == [[60 - y0, 100 + number - x0]]
        assert cutouts.psf_images[0].shape == (21 + 2 * number,) * 2
        assert f"error ({chip.upper()}.RMS,1)" in source.notes
    with pytest.raises(CatalogError, match=r"2 images, CCDID 1-1\.SCI,1, 3-4\.E\.SCI,1; choose one"):
        measured(sky_list, tmp_path / "vis.fits")


def test_cutouts_in_sets_with_names(tmp_path):
    hdus = []
    for number, stamp in enumerate(stamps(3), 1):
        hdus += [fits.ImageHDU(stamp, name=f"GAL{number}.SCI")]
        hdus += [fits.ImageHDU(np.full(stamp.shape, 1.0 * number), name=f"GAL{number}.ERR")]
    hdus += [fits.ImageHDU(psf_image(), name=f"GAL{number}.PSF") for number in (1, 3)]
    write(tmp_path / "m.fits", *hdus)
    cutouts = read_cutouts(tmp_path / "m.fits")
    assert cutouts.ids.tolist() == ["GAL1", "GAL2", "GAL3"]
    assert [cutouts.error(i)[0, 0] for i in (0, 2)] == [1.0, 3.0]
    assert ((LSQSersicFitter().fit(cutouts)["flags"] & Flag.FAILED) != 0).tolist() == [False, True, False]


@pytest.mark.parametrize("axes", [1, 2])
def test_axes_of_one_element(tmp_path, axes):
    """Cutouts, errors and PSFs may have axes of one element in front."""
    first = (None,) * axes
    hdus = []
    for number, stamp in enumerate(stamps(2), 1):
        hdus += [fits.ImageHDU(stamp[first], name="SCI", ver=number)]
        hdus += [fits.ImageHDU(np.full((24, 24), 1.0 * number)[first], name="ERR", ver=number)]
        hdus += [fits.ImageHDU(psf_image(19 + 2 * number)[first], name="PSF", ver=number)]
    write(tmp_path / "m.fits", *hdus)
    cutouts = read_cutouts(tmp_path / "m.fits")
    np.testing.assert_array_equal(cutouts.image(1), stamps(2)[1])
    assert [cutouts.error(i)[0, 0] for i in range(2)] == [1.0, 2.0]
    assert [image.shape for image in cutouts.psf_images] == [(21, 21), (23, 23)]
    write(tmp_path / "one.fits", *hdus[:3])
    assert not LSQSersicFitter().fit(read_cutouts(tmp_path / "one.fits"))["flags"][0] & Flag.FAILED


@pytest.mark.parametrize("count", [1, 2, 3])
def test_planes_of_a_cube(tmp_path, count):
    errors, psf = np.ones((count, 24, 24)), fits.ImageHDU(psf_image(), name="PSF")
    fits.HDUList([fits.PrimaryHDU(stamps(3)), fits.ImageHDU(errors, name="ERR"), psf]).writeto(tmp_path / "c.fits")
    if count == 2:
        with pytest.raises(CatalogError, match="error: must be one image, or one for each of 3 planes, not 2"):
            read_cutouts(tmp_path / "c.fits")
    else:
        assert [read_cutouts(tmp_path / "c.fits").error(i)[0, 0] for i in range(3)] == [1.0] * 3


@pytest.mark.parametrize(
    ("said", "scale", "note"),
    [
        (0.2, 0.2, "pixel scale 0.2 (PIXSCALE)"),
        (0.205, 0.2, "pixel scale 0.2 (WCS; PIXSCALE says 0.205)"),
        (0.5, None, ""),
    ],
)
def test_pixel_scale_against_the_wcs(tmp_path, sky_list, said, scale, note):
    """Of two that differ a little, that of the WCS counts; of two that differ much, none."""
    write(tmp_path / "i.fits", plane(pixels(), "SCI", PIXSCALE=said), plane(constant(NOISE), "ERR"))
    hdus = []
    for number, stamp in enumerate(stamps(2), 1):
        hdus.append(fits.ImageHDU(stamp, tan_wcs((24, 24)).to_header(), name="SCI", ver=number))
        hdus[-1].header["PIXSCALE"] = said
    write(tmp_path / "m.fits", *hdus)
    if scale is None:
        for path, options in ((sky_list, {"image": tmp_path / "i.fits"}), (tmp_path / "m.fits", {})):
            with pytest.raises(CatalogError, match=r"PIXSCALE says 0\.5 arcsec and the WCS 0\.2; say which"):
                open_catalog(path, psf=psf_image(), **options)
            assert open_catalog(path, psf=psf_image(), pixel_scale=0.5, **options).pixel_scale == 0.5
        return
    source, _, row = measured(sky_list, tmp_path / "i.fits")
    assert note in source.notes
    assert source.pixel_scale == pytest.approx(scale, rel=1e-6)
    assert row["r_eff_fit"].unit == u.arcsec
    assert open_catalog(tmp_path / "m.fits", psf=psf_image()).pixel_scale == pytest.approx([scale, scale], rel=1e-6)


def test_decam(tmp_path, sky_list):
    """Image, mask and weight in files of their own with a compressed extension for each chip."""
    for name, data in (("ooi", pixels()), ("ood", bits((4, 60, 100))), ("oow", constant(1 / NOISE**2))):
        chips = [plane(data if chip == "N4" else 0 * data, chip, packed=True) for chip in ("S29", "N4", "N7")]
        write(tmp_path / f"{name}.fits.fz", *chips)
    with pytest.raises(CatalogError, match="there are 3 images, S29,1, N4,1, N7,1"):
        measured(sky_list, tmp_path / "ooi.fits.fz")
    planes = {"mask": f"{tmp_path / 'ood.fits.fz'}[N4]", "weight": f"{tmp_path / 'oow.fits.fz'}[N4]"}
    _, cutouts, row = measured(sky_list, f"{tmp_path / 'ooi.fits.fz'}[N4]", **planes)
    check(row)
    assert cutouts.mask(0).sum() == 1


def test_megacam(tmp_path, sky_list):
    """Unsigned integers, chips by name and by a version that begins at 0; the gain is one of each chip."""
    counts = np.round(10 * pixels() + 1000).astype("u2")
    chips = [plane(counts, f"ccd{i:02d}", i, GAIN=1.6 + i) for i in range(3)]
    write(tmp_path / "p.fits", *chips)
    source, cutouts, _ = measured(sky_list, f"{tmp_path / 'p.fits'}[ccd02]")
    assert source.gain == 3.6
    x0, y0 = cutouts.origin[0].astype(int)
    np.testing.assert_array_equal(cutouts.image(0), counts[y0 : y0 + 41, x0 : x0 + 41])


def test_legacy_survey(tmp_path, sky_list):
    """Bricks: image and inverse variance, compressed and without names, and maskbits with three images."""
    unit = {"BUNIT": "nanomaggy"}
    write(tmp_path / "image.fits.fz", plane(pixels(1e3), "COMPRESSED_IMAGE", packed=True, **unit))
    weight = plane(constant(1e6 / NOISE**2), "COMPRESSED_IMAGE", packed=True, BUNIT="1/nanomaggy^2")
    write(tmp_path / "invvar.fits.fz", weight)
    mask = bits((2, 60, 100), (1, 58, 100), dtype="i2")
    names = ("MASKBITS", "WISEM1", "WISEM2")
    write(tmp_path / "maskbits.fits.fz", *[plane(mask, name, packed=True) for name in names])
    planes = {"weight": tmp_path / "invvar.fits.fz", "mask": f"{tmp_path / 'maskbits.fits.fz'}[MASKBITS]"}
    source, cutouts, row = measured(sky_list, tmp_path / "image.fits.fz", mask_bits="1", **planes)
    check(row, 1e3)
    assert cutouts.mask(0).sum() == 1
    assert source.unit == u.nmgy
    with pytest.raises(CatalogError, match="mask: there are 3 images, MASKBITS,1, WISEM1,1, WISEM2,1; choose one"):
        measured(sky_list, tmp_path / "image.fits.fz", mask=tmp_path / "maskbits.fits.fz")
    with pytest.raises(CatalogError, match="error: its unit, 1 / nmgy2, does not fit"):
        measured(sky_list, tmp_path / "image.fits.fz", error=tmp_path / "invvar.fits.fz")


def test_des_tile(tmp_path, sky_list):
    hdus = [plane(pixels(), "SCI", packed=True), plane(bits((8, 60, 100), dtype="i2"), "MSK", packed=True)]
    write(tmp_path / "tile.fits.fz", *hdus, plane(constant(1 / NOISE**2), "WGT", packed=True))
    for options, note in (
        ({}, "error estimated from the noise (WGT,1"),
        ({"weight_type": "ivar"}, "inverse variance (W"),
    ):
        source, cutouts, row = measured(sky_list, tmp_path / "tile.fits.fz", **options)
        check(row)
        assert cutouts.mask(0).sum() == 1
        assert any(text.startswith(note) for text in source.notes)


def test_kids(tmp_path, sky_list):
    """Weights that are relative are refused, unless they are said to be so."""
    header = tan_wcs(SHAPE).to_header()
    for name, data in (("image", pixels()), ("weight", constant(1e4)), ("ivar", constant(1 / NOISE**2))):
        fits.PrimaryHDU(data, header).writeto(tmp_path / f"{name}.fits")
    check(measured(sky_list, tmp_path / "image.fits", weight=tmp_path / "ivar.fits")[2])
    with pytest.raises(CatalogError, match="say what they are with --weight-type"):
        measured(sky_list, tmp_path / "image.fits", weight=tmp_path / "weight.fits")
    options = {"weight": tmp_path / "weight.fits", "weight_type": "relative"}
    check(measured(sky_list, tmp_path / "image.fits", **options)[2])


@pytest.mark.parametrize(("name", "value"), [("ERR", NOISE), ("VARIANCE", NOISE**2)])
def test_errors_given_as_weights(tmp_path, sky_list, name, value):
    """The name of an extension says that it holds no weights; as errors it is understood."""
    fits.PrimaryHDU(pixels(), tan_wcs(SHAPE).to_header()).writeto(tmp_path / "image.fits")
    write(tmp_path / "noise.fits", plane(constant(value), name))
    with pytest.raises(ValueError, match=r"weight: .* holds (error|variance)s by the name of its extension.*--error"):
        measured(sky_list, tmp_path / "image.fits", weight=tmp_path / "noise.fits")
    check(measured(sky_list, tmp_path / "image.fits", error=tmp_path / "noise.fits")[2])


class TestColumnsOfNoise:
    """Columns of a cutout table whose names say what they hold."""

    def write(self, path, unit=None, **columns):
        hdu = fits.table_to_hdu(Table({"cutout": stamps(3), **columns}))
        if unit:
            hdu.columns["cutout"].unit, hdu.columns[1].unit = unit
        return write(path, hdu, fits.ImageHDU(psf_image(), name="PSF"))

    def errors(self, path, **options):
        cutouts = read_cutouts(path, **options)
        return [float(cutouts.error(i)[0, 0]) for i in range(3)]

    def test_images_of_variances(self, tmp_path):
        variance = np.array([1.0, 4.0, 9.0])[:, None, None] * np.ones((3, 24, 24))
        self.write(tmp_path / "c.fits", variance=variance)
        assert self.errors(tmp_path / "c.fits") == [1.0, 2.0, 3.0]
        assert open_catalog(tmp_path / "c.fits").notes == ["variance (variance)"]
        self.write(tmp_path / "d.fits", VAR=variance, unit=("nJy", "uJy2"))
        assert self.errors(tmp_path / "d.fits") == pytest.approx([1e3, 2e3, 3e3])

    def test_numbers(self, tmp_path):
        """One number a row may be the variance of anything: it is used where it is asked for."""
        self.write(tmp_path / "c.fits", var=np.array([1.0, 4.0, 9.0]))
        assert self.errors(tmp_path / "c.fits", error="var") == [1.0, 2.0, 3.0]
        assert open_catalog(tmp_path / "c.fits").notes == []

    def test_other_columns_win(self, tmp_path):
        self.write(tmp_path / "c.fits", variance=np.ones((3, 24, 24)), error=np.full(3, 7.0))
        assert self.errors(tmp_path / "c.fits") == [7.0] * 3
        assert self.errors(tmp_path / "c.fits", error="variance") == [1.0] * 3

    @pytest.mark.parametrize(
        ("column", "option", "other"),
        [("ivar", "error", "weight"), ("rms", "weight", "error"), ("var", "weight", "error")],
    )
    def test_options_that_the_names_contradict(self, tmp_path, column, option, other):
        self.write(tmp_path / "c.fits", **{column: np.full(3, 4.0)})
        with pytest.raises(ValueError, match=rf"{option}: the column {column} holds .* give it with --{other}"):
            open_catalog(tmp_path / "c.fits", **{option: column})


@pytest.mark.parametrize("ending", ["csv", "ecsv", "vot"])
def test_packed_lists(tmp_path, ending):
    fits.PrimaryHDU(pixels(), tan_wcs(SHAPE).to_header()).writeto(tmp_path / "i.fits")
    kind = {"csv": "ascii.csv", "ecsv": "ascii.ecsv", "vot": "votable"}[ending]
    Table({"x": POSITIONS[:, 0], "y": POSITIONS[:, 1]}).write(tmp_path / f"l.{ending}", format=kind)
    packed = tmp_path / f"l.{ending}.gz"
    packed.write_bytes(gzip.compress((tmp_path / f"l.{ending}").read_bytes()))
    source = open_catalog(packed, image=tmp_path / "i.fits", psf=psf_image(), error=NOISE)
    np.testing.assert_allclose(source._positions, POSITIONS)
    positions_list(tmp_path / "m.csv")
    (tmp_path / "m.fits.gz").write_bytes(gzip.compress((tmp_path / "m.csv").read_bytes()))
    with pytest.raises(CatalogError, match=r"m\.fits\.gz: not a FITS file"):
        open_catalog(tmp_path / "m.fits.gz", image=tmp_path / "i.fits", psf=psf_image())
