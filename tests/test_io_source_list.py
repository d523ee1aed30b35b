"""Source lists with an image, segmentation maps, detection, and cutouts in extensions."""

import astropy.units as u
import numpy as np
import pytest
from _catalogs import POSITIONS, field, gaussian, psf_image, stamps, tan_wcs
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.table import QTable, Table

from galmeasure import LSQSersicFitter
from galmeasure.exceptions import CatalogError
from galmeasure.flags import Flag
from galmeasure.io import open_catalog, read_cutouts


@pytest.fixture
def image(tmp_path):
    field(tmp_path / "i.fits", PSF=psf_image())
    return tmp_path / "i.fits"


def pixel_list(offset=0, names=("x", "y")):
    return Table({"id": np.arange(5) + 11, names[0]: POSITIONS[:, 0] + offset, names[1]: POSITIONS[:, 1] + offset})


def check(cutouts):
    """Every source lies where the list says, whatever the list's names and format."""
    for i, (x, y) in enumerate(POSITIONS):
        image, good = cutouts.image(i), ~cutouts.mask(i)
        rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
        near = good & (np.hypot(columns + cutouts.origin[i, 0] - x, rows + cutouts.origin[i, 1] - y) < 1.5)
        peak = np.unravel_index(np.where(near, image, 0).argmax(), image.shape)
        assert np.hypot(peak[1] + cutouts.origin[i, 0] - x, peak[0] + cutouts.origin[i, 1] - y) < 0.75
        assert image[peak] > 180


@pytest.mark.parametrize("suffix", ["fits", "ecsv", "csv", "parquet", "votable"])
def test_formats(tmp_path, image, suffix):
    table = pixel_list()
    table.write(tmp_path / f"l.{suffix}", format={"votable": "votable"}.get(suffix))
    source = open_catalog(tmp_path / f"l.{suffix}", image=image, error=1.0)
    assert (source.kind, len(source)) == ("source list", 5)
    cutouts = source.read(np.arange(5))
    check(cutouts)
    assert cutouts.ids.tolist() == [11, 12, 13, 14, 15]
    assert cutouts.shapes.tolist() == [[64, 64]] * 5
    assert cutouts.unit == u.electron
    assert cutouts.pixel_scale[0] == pytest.approx(0.2, rel=1e-4)
    assert source.columns([2], ["id"])["id"].tolist() == [13]


def test_sextractor_names_count_from_one(tmp_path, image):
    pixel_list(1, ("X_IMAGE", "Y_IMAGE")).write(tmp_path / "l.fits")
    check(read_cutouts(tmp_path / "l.fits", image=image, error=1.0, size=33))


@pytest.mark.parametrize("names", [("ra", "dec"), ("ALPHA_J2000", "DELTA_J2000")])
def test_sky_positions(tmp_path, image, names):
    ra, dec = tan_wcs((150, 180)).pixel_to_world_values(*POSITIONS.T)
    Table({names[0]: ra, names[1]: dec}).write(tmp_path / "l.csv")
    cutouts = read_cutouts(tmp_path / "l.csv", image=image, error=1.0)
    check(cutouts)
    assert cutouts.wcs_in_parent


def test_sky_coordinates_and_hours(tmp_path, image):
    ra, dec = tan_wcs((150, 180)).pixel_to_world_values(*POSITIONS.T)
    QTable({"where": SkyCoord(ra, dec, unit="deg")}).write(tmp_path / "a.ecsv")
    check(read_cutouts(tmp_path / "a.ecsv", image=image, error=1.0))
    QTable({"ra": ra / 15 * u.hourangle, "dec": dec * u.deg}).write(tmp_path / "b.ecsv")
    check(read_cutouts(tmp_path / "b.ecsv", image=image, error=1.0))


def test_edges_and_sources_outside(tmp_path, image):
    Table({"x": [2.0, 500.0, np.nan, 1e300, 100.0], "y": [3.0, 60.0, 60.0, 60.0, 60.0]}).write(tmp_path / "l.fits")
    cutouts = read_cutouts(tmp_path / "l.fits", image=image, error=1.0)
    assert cutouts.origin[0].tolist() == [-30, -29]
    assert cutouts.mask(0)[:29].all()
    assert cutouts.mask(0)[:, :30].all()
    assert not cutouts.mask(0)[29:, 30:].any()
    failed = next(cutouts.batches()).flags & int(Flag.FAILED) != 0
    assert failed.tolist() == [False, True, True, True, False]


def test_error_weight_and_mask_images(tmp_path, image):
    pixel_list().write(tmp_path / "l.fits")
    weight = np.full((150, 180), 0.25, "f4")
    weight[60, 100] = 0
    mask = np.zeros((150, 180), "u1")
    mask[61, 100] = 4
    fits.writeto(tmp_path / "w.fits", weight)
    fits.writeto(tmp_path / "e.fits", np.full((150, 180), 3.0))
    fits.writeto(tmp_path / "m.fits", mask)
    cutouts = read_cutouts(
        tmp_path / "l.fits", image=image, weight=tmp_path / "w.fits", mask=tmp_path / "m.fits", size=32
    )
    assert cutouts.error(1)[0, 0] == pytest.approx(2.0)
    x0, y0 = cutouts.origin[1].astype(int)
    assert np.argwhere(cutouts.mask(1)).tolist() == [[60 - y0, 100 - x0], [61 - y0, 100 - x0]]
    cutouts = read_cutouts(tmp_path / "l.fits", image=image, error=tmp_path / "e.fits")
    assert np.nanmax(cutouts.error(1)) == 3.0
    batch = next(cutouts.batches())
    assert not (batch.flags & int(Flag.NONFINITE_PIXELS)).any()


def test_planes_in_the_image_file(tmp_path):
    shape = (150, 180)
    labels = np.zeros(shape, "i2")
    field(tmp_path / "i.fits", ERR=np.full(shape, 2.0, "f4"), MASK=labels.astype("u1"), SEG=labels, PSF=psf_image())
    pixel_list().write(tmp_path / "l.fits")
    assert read_cutouts(tmp_path / "l.fits", image=tmp_path / "i.fits").error(1)[3, 3] == 2.0


@pytest.mark.parametrize("plane", ["error", "weight", "mask", "segmentation"])
def test_planes_must_have_the_shape(tmp_path, image, plane):
    pixel_list().write(tmp_path / "l.fits")
    fits.writeto(tmp_path / "w.fits", np.ones((150, 181)))
    with pytest.raises(CatalogError, match=rf"w\.fits: {plane}: must have the shape of the image"):
        open_catalog(tmp_path / "l.fits", image=image, **{plane: tmp_path / "w.fits"})


def segmentation(shape=(150, 180)):
    labels = np.zeros(shape, "i4")
    labels[50:70, 90:110] = 3
    labels[40:48, 90:120] = 7
    return labels


def test_segmentation_masks_neighbours_and_sizes_stamps(tmp_path, image):
    fits.writeto(tmp_path / "s.fits", segmentation())
    Table({"x": [100.0, 100.0, 88.0, 30.3], "y": [60.0, 44.0, 60.0, 40.7]}).write(tmp_path / "l.fits")
    cutouts = read_cutouts(tmp_path / "l.fits", image=image, error=1.0, segmentation=tmp_path / "s.fits")
    assert cutouts.shapes[:, 0].tolist() == [48, 64, 48, 64]
    for row, masked in enumerate([{7}, {3}, {7}, {3, 7}]):
        x0, y0 = cutouts.origin[row].astype(int)
        ny, nx = cutouts.shapes[row]
        padded = np.zeros((400, 400), int)
        padded[100:250, 100:280] = segmentation()
        outside = np.ones((400, 400), bool)
        outside[100:250, 100:280] = False
        window = slice(y0 + 100, y0 + 100 + ny), slice(x0 + 100, x0 + 100 + nx)
        np.testing.assert_array_equal(cutouts.mask(row), np.isin(padded[window], list(masked)) | outside[window])


def test_size_option_overrules_the_segmentation(tmp_path, image):
    fits.writeto(tmp_path / "s.fits", segmentation())
    pixel_list().write(tmp_path / "l.fits")
    cutouts = read_cutouts(tmp_path / "l.fits", image=image, error=1.0, segmentation=tmp_path / "s.fits", size=41)
    assert cutouts.shapes.tolist() == [[41, 41]] * 5


def test_detection(tmp_path):
    field(tmp_path / "i.fits", noise=2.0, PSF=psf_image())
    raw = fits.getdata(tmp_path / "i.fits").copy()
    with fits.open(tmp_path / "i.fits", mode="update") as hdus:
        hdus[0].data += 50.0
    source = open_catalog(tmp_path / "i.fits", detect=True)
    cutouts = source.read(np.arange(len(source)))
    centres = cutouts.origin + (cutouts.shapes[:, ::-1] - 1) / 2
    for x, y in POSITIONS:
        assert np.hypot(*(centres - (x, y)).T).min() < 1.5
    assert len(source) < 8
    assert source.kind == "detection"
    assert np.median([cutouts.error(i)[16, 16] for i in range(5)]) == pytest.approx(2.0, rel=0.2)
    image, good = cutouts.image(1), ~cutouts.mask(1)
    x0, y0 = cutouts.origin[1].astype(int)
    ny, nx = image.shape
    inside = raw[max(y0, 0) : y0 + ny, max(x0, 0) : x0 + nx]
    assert abs(np.median(image[good]) - np.median(inside)) < 1.0


def test_sources_that_touch_are_separated(tmp_path):
    y, x = np.mgrid[:120, :120]
    places = [(40.0, 60.0), (49.0, 63.0), (90.0, 30.0)]
    image = sum(200.0 * np.exp(-0.5 * ((x - x0) ** 2 + (y - y0) ** 2) / 2.5**2) for x0, y0 in places)
    image += np.random.default_rng(3).normal(0.0, 1.0, image.shape)
    fits.writeto(tmp_path / "i.fits", image.astype("f4"))
    source = open_catalog(tmp_path / "i.fits", detect=True, psf=psf_image())
    cutouts = source.read(np.arange(len(source)))
    centres = cutouts.origin + (cutouts.shapes[:, ::-1] - 1) / 2
    assert len(source) == 3
    for place in places:
        assert np.hypot(*(centres - place).T).min() < 1.5


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_nothing_to_detect(tmp_path, value):
    fits.writeto(tmp_path / "i.fits", np.full((100, 100), value, "f4"))
    with pytest.raises(CatalogError, match="image: "):
        open_catalog(tmp_path / "i.fits", detect=True, psf=psf_image())


class TestMessages:
    def test_list_without_image(self, tmp_path):
        pixel_list().write(tmp_path / "l.csv")
        with pytest.raises(CatalogError, match="a source list needs an image"):
            open_catalog(tmp_path / "l.csv")

    def test_image_without_list(self, image):
        with pytest.raises(ValueError, match="image: give a list of its sources as well .*, or --detect"):
            open_catalog(image=image)

    def test_nothing(self):
        with pytest.raises(ValueError, match="path: a catalogue or an image is needed"):
            open_catalog()

    def test_detect_with_list(self, tmp_path, image):
        with pytest.raises(ValueError, match="detect .* takes no list"):
            open_catalog(tmp_path / "l.csv", image=image, detect=True)

    def test_no_positions(self, tmp_path, image):
        Table({"a": [1.0], "b": [2.0]}).write(tmp_path / "l.csv")
        with pytest.raises(CatalogError, match=r"no positions \(x and y, or ra and dec\); there are a, b"):
            open_catalog(tmp_path / "l.csv", image=image)

    def test_text_positions(self, tmp_path, image):
        Table({"x": ["left"], "y": [2.0]}).write(tmp_path / "l.csv")
        with pytest.raises(CatalogError, match="column x must hold numbers"):
            open_catalog(tmp_path / "l.csv", image=image)

    def test_no_wcs(self, tmp_path):
        fits.writeto(tmp_path / "i.fits", np.ones((50, 50)))
        Table({"ra": [1.0], "dec": [2.0]}).write(tmp_path / "l.csv")
        with pytest.raises(CatalogError, match="no celestial WCS"):
            open_catalog(tmp_path / "l.csv", image=tmp_path / "i.fits", psf=psf_image())

    def test_empty_list(self, tmp_path, image):
        Table({"x": np.zeros(0), "y": np.zeros(0)}).write(tmp_path / "l.fits")
        with pytest.raises(CatalogError, match="no sources"):
            open_catalog(tmp_path / "l.fits", image=image)

    @pytest.mark.parametrize("name", ["l.txt", "l.ecsv", "l.parquet", "l.votable", "l.csv"])
    def test_garbage(self, tmp_path, image, name):
        (tmp_path / name).write_bytes(bytes(range(256)) * 4)
        with pytest.raises(CatalogError, match=rf"{name}: "):
            open_catalog(tmp_path / name, image=image)

    def test_image_is_not_two_dimensional(self, tmp_path):
        fits.writeto(tmp_path / "i.fits", np.ones((3, 50, 50)))
        pixel_list().write(tmp_path / "l.csv")
        with pytest.raises(CatalogError, match="image: must be an image with 2 axes"):
            open_catalog(tmp_path / "l.csv", image=tmp_path / "i.fits")


def extensions(path, names=("SCI_{}", "ERR_{}", "MASK_{}", "PSF_{}"), count=3):
    hdus = [fits.PrimaryHDU()]
    data = stamps(count, 20)
    for i in range(count):
        planes = data[i], np.full((20, 20), 1.0 + i), np.eye(20, dtype="u1"), gaussian(21, 1.3 + i / 10)
        hdus += [
            fits.ImageHDU(plane, name=name.format(i + 1), ver=i + 1) for plane, name in zip(planes, names, strict=False)
        ]
        hdus[-len(names)].header["GAIN"] = 1.0 + i
    fits.HDUList(hdus).writeto(path)
    return data


@pytest.mark.parametrize("names", [("SCI_{}", "ERR_{}", "MASK_{}", "PSF_{}"), ("SCI", "ERR", "DQ", "PSF")])
def test_extensions(tmp_path, names):
    data = extensions(tmp_path / "m.fits", names)
    source = open_catalog(tmp_path / "m.fits")
    assert (source.kind, len(source)) == ("multi-extension file", 3)
    cutouts = source.read([2, 0])
    np.testing.assert_array_equal(cutouts.image(0), data[2])
    assert cutouts.error(0)[0, 1] == 3.0
    np.testing.assert_array_equal(cutouts.mask(0), np.eye(20, dtype=bool))
    assert len(cutouts.psf_images) == 2
    assert cutouts.gain.tolist() == [3, 1]
    assert cutouts.ids.tolist() == [3, 1]


def test_extensions_with_a_shared_psf(tmp_path):
    extensions(tmp_path / "m.fits", ("SCI_{}", "ERR_{}"))
    with fits.open(tmp_path / "m.fits", mode="append") as hdus:
        hdus.append(fits.ImageHDU(psf_image(), name="PSF"))
    assert len(read_cutouts(tmp_path / "m.fits").psf_images) == 1


def test_extensions_with_too_few_psfs(tmp_path):
    extensions(tmp_path / "m.fits")
    with fits.open(tmp_path / "m.fits") as hdus:
        fits.HDUList([h for h in hdus if h.name != "PSF_2"]).writeto(tmp_path / "n.fits")
    table = LSQSersicFitter().fit(read_cutouts(tmp_path / "n.fits"))
    assert ((table["flags"] & Flag.FAILED) != 0).tolist() == [False, True, False]


def test_ccddata_file(tmp_path):
    data = stamps(1)[0]
    CCDData(data, unit="adu", uncertainty=StdDevUncertainty(np.full(data.shape, 4.0)), mask=data > 90).write(
        tmp_path / "c.fits"
    )
    cutouts = read_cutouts(tmp_path / "c.fits", psf=psf_image())
    assert cutouts.unit == u.adu
    assert cutouts.error(0)[0, 0] == 4.0
    np.testing.assert_array_equal(cutouts.mask(0), data > 90)


def test_cube(tmp_path):
    data = stamps()
    hdus = [
        fits.PrimaryHDU(data),
        fits.ImageHDU(np.full(data.shape, 2.0), name="ERR"),
        fits.ImageHDU(psf_image(), name="PSF"),
    ]
    fits.HDUList(hdus).writeto(tmp_path / "c.fits")
    cutouts = open_catalog(tmp_path / "c.fits").read([4, 2])
    np.testing.assert_array_equal(cutouts.image(1), data[2])
    assert cutouts.error(0)[0, 0] == 2.0


def test_field_is_not_a_cutout(tmp_path):
    fits.writeto(tmp_path / "c.fits", np.zeros((10, 3000), "u1"))
    with pytest.raises(CatalogError, match="is not a cutout; did you mean --image .* --detect"):
        open_catalog(tmp_path / "c.fits", psf=psf_image())


@pytest.mark.parametrize("value", ["high", -3.0])
def test_keyword_of_the_image(tmp_path, image, value):
    pixel_list().write(tmp_path / "l.fits")
    fits.setval(image, "GAIN", value=value)
    for source in (open_catalog(tmp_path / "l.fits", image=image), open_catalog(image, detect=True)):
        assert source.gain is None
        assert f"GAIN = {str(value)!r} not used, it must be a positive number" in source.notes


def test_extensions_without_pixels(tmp_path):
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(np.zeros((0, 24)), name="SCI"), fits.ImageHDU(psf_image(), name="PSF")]
    fits.HDUList(hdus).writeto(tmp_path / "m.fits")
    with pytest.raises(CatalogError, match=r"^\S*m\.fits: "):
        read_cutouts(tmp_path / "m.fits")
