"""The image of one galaxy, with its error, mask, segmentation and PSF in files of their own."""

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable
from astropy.wcs import WCS

from galmeasure import LSQSersicFitter, PSFConvolvedSersic2D, read_cutouts
from galmeasure.cli import main
from galmeasure.exceptions import CatalogError
from galmeasure.io import open_catalog

SHAPE = (40, 52)  # not square: the whole image is the stamp


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Image, error, mask, segmentation and PSF of one galaxy with a neighbour, in the current folder."""
    monkeypatch.chdir(tmp_path)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    py, px = np.mgrid[-10:11, -10:11]
    psf = np.exp(-(px**2 + py**2) / 6.0)
    image = PSFConvolvedSersic2D(4000.0, n=1.5, r_eff=3.0, g1=0.1, g2=0.2, x_0=26.0, y_0=19.0, psf=psf)(x, y)
    image += np.random.default_rng(3).normal(0.0, 2.0, SHAPE)
    segments = np.where(np.hypot(x - 26, y - 19) < 9, 4, 0)
    segments[:6, :6], image[:6, :6] = 7, 500.0
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[30:33, 40:43], image[30:33, 40:43] = 1, np.nan
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [10.0, 5.0], [20.0, 20.0]
    wcs.wcs.cdelt = [-0.3 / 3600, 0.3 / 3600]
    header = wcs.to_header()
    header["BUNIT"], header["OBJECT"] = "nJy", "G1"
    fits.PrimaryHDU(image, header).writeto("image.fits")
    for name, values in {"sigma": np.full(SHAPE, 2.0), "mask": mask, "seg": segments, "psf": psf}.items():
        fits.PrimaryHDU(values).writeto(f"{name}.fits")
    fits.PrimaryHDU(np.full(SHAPE, 0.25)).writeto("ivar.fits")
    return tmp_path


OPTIONS = {"error": "sigma.fits", "mask": "mask.fits", "segmentation": "seg.fits", "psf": "psf.fits"}


def test_everything_is_read(files):
    source = open_catalog("image.fits", **OPTIONS)
    assert (len(source), source.kind, source.pixel_scale) == (1, "image of one galaxy", pytest.approx(0.3))
    cutouts = source.read([0])
    assert cutouts.shapes.tolist() == [list(SHAPE)]
    bad = np.zeros(SHAPE, dtype=bool)
    bad[:6, :6] = bad[30:33, 40:43] = True
    np.testing.assert_array_equal(cutouts.mask(0), bad)
    np.testing.assert_array_equal(np.asarray(cutouts.error(0))[~bad], 2.0)
    row = LSQSersicFitter().fit(cutouts)[0]
    assert (row["id"], row["flux_fit"].unit) == ("G1", u.nJy)
    assert row["flags"] == 0
    for name, truth in {"flux": 4000.0, "n": 1.5, "x": 26.0, "y": 19.0, "g2": 0.2}.items():
        assert abs(getattr(row[f"{name}_fit"], "value", row[f"{name}_fit"]) - truth) < 5 * getattr(
            row[f"{name}_err"], "value", row[f"{name}_err"]
        ), name
    assert abs(row["r_eff_fit"].to_value("arcsec") - 0.9) < 0.1
    assert abs(row["ra"].to_value("deg") - 10.0) < 1e-2


def test_weights_and_numbers(files):
    plain = read_cutouts("image.fits", error=2.0, mask="mask.fits", psf="psf.fits")
    weighted = read_cutouts("image.fits", weight="ivar.fits", mask="mask.fits", psf="psf.fits")
    np.testing.assert_allclose(plain.error(0), 2.0)
    np.testing.assert_allclose(weighted.error(0), 2.0)
    np.testing.assert_array_equal(plain.mask(0), weighted.mask(0))


def test_rows_may_be_repeated(files):
    cutouts = open_catalog("image.fits", **OPTIONS).read([0, 0])
    np.testing.assert_array_equal(cutouts.image(0), cutouts.image(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 32}, "size does not apply to an image of one galaxy"),
        ({"error": "psf.fits"}, r"psf.fits: error: must have the shape of the image, \(40, 52\), not \(21, 21\)"),
        ({"mask": "nothing.fits"}, "nothing.fits"),
        ({"psf": None}, "no PSF"),
    ],
)
def test_refusals(files, options, message):
    with pytest.raises((CatalogError, ValueError, FileNotFoundError), match=message):
        open_catalog("image.fits", **{**OPTIONS, **options})


def test_fields_and_several_cutouts_are_refused(files):
    fits.PrimaryHDU(np.zeros((520, 30))).writeto("field.fits")
    fits.PrimaryHDU(np.ones((520, 30))).writeto("field_sigma.fits")
    with pytest.raises(CatalogError, match=r"30 x 520 pixels is not a cutout; did you mean --image field.fits"):
        open_catalog("field.fits", error="field_sigma.fits", psf="psf.fits")
    assert len(open_catalog("field.fits[0]", error="field_sigma.fits", psf="psf.fits")) == 1
    images = [fits.ImageHDU(np.ones(SHAPE), name="SCI", ver=version) for version in (1, 2)]
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto("two.fits")
    with pytest.raises(ValueError, match="mask does not apply to a file of cutouts in extensions"):
        open_catalog("two.fits", error=1.0, mask="mask.fits", psf="psf.fits")
    assert len(open_catalog("two.fits[SCI,2]", error=1.0, mask="mask.fits", psf="psf.fits")) == 1


def test_command(files):
    arguments = [part for name, value in OPTIONS.items() for part in (f"--{name}", value)]
    with pytest.raises(SystemExit) as end:
        main(["image.fits", *arguments, "--method", "lsq", "-o", "one.fits", "--no-progress"])
    assert end.value.code == 0
    table = QTable.read("one.fits")
    assert (len(table), table["id"][0], table["flags"][0]) == (1, "G1", 0)
