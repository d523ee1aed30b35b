"""Cutout tables: columns, keywords, units, sentinels, FITS_LDAC, ragged stamps, and messages."""

import astropy.units as u
import numpy as np
import pytest
from _catalogs import SIZE, cutout_table, gaussian, psf_image, stamps, tan_wcs
from astropy.io import fits
from astropy.table import Table

from galmeasure.exceptions import CatalogError
from galmeasure.flags import Flag
from galmeasure.io import open_catalog, read_cutouts


@pytest.mark.parametrize("name", ["cutout", "IMAGE", "Stamp", "VIGNET"])
def test_names_of_the_cutout_column(tmp_path, name):
    data = cutout_table(tmp_path / "c.fits", name=name)
    cutouts = read_cutouts(tmp_path / "c.fits")
    assert len(cutouts) == 7
    np.testing.assert_array_equal(cutouts.image(3), data[3])
    np.testing.assert_array_equal(cutouts.ids, np.arange(1, 8))
    np.testing.assert_allclose(cutouts.psf_image(0), psf_image() / psf_image().sum(dtype=float), rtol=1e-3)


def test_errors_masks_and_ids(tmp_path):
    error = np.full((7, SIZE, SIZE), 2.0, "f4")
    mask = np.zeros((7, SIZE, SIZE), bool)
    mask[2, 4, 5] = True
    cutout_table(tmp_path / "c.fits", {"ERR": error, "mask": mask, "NUMBER": np.arange(20, 27)})
    cutouts = read_cutouts(tmp_path / "c.fits")
    assert cutouts.ids.tolist() == list(range(20, 27))
    assert (cutouts.error(1) == 2.0).all()
    assert np.argwhere(cutouts.mask(2)).tolist() == [[4, 5]]
    assert not cutouts.mask(1).any()


def test_error_of_one_number_a_row(tmp_path):
    cutout_table(tmp_path / "c.fits", {"sigma": np.arange(1.0, 8.0), "id": [f"g{i}" for i in range(7)]})
    cutouts = read_cutouts(tmp_path / "c.fits")
    assert [cutouts.error(i)[0, 0] for i in range(7)] == list(range(1, 8))
    assert cutouts.ids[3] == "g3"


def test_weight_is_inverse_variance_and_zero_is_bad(tmp_path):
    weight = np.full((7, SIZE, SIZE), 0.25, "f4")
    weight[1, 0, 3] = 0.0
    cutout_table(tmp_path / "c.fits", {"weight": weight})
    cutouts = read_cutouts(tmp_path / "c.fits")
    assert cutouts.error(0)[5, 5] == pytest.approx(2.0)
    assert np.argwhere(cutouts.mask(1)).tolist() == [[0, 3]]


def test_options_instead_of_columns(tmp_path):
    columns = {"error": np.full(7, 3.0), "noise": np.full(7, 5.0), "bad": np.ones((7, SIZE, SIZE), "i2")}
    cutout_table(tmp_path / "c.fits", columns)
    assert read_cutouts(tmp_path / "c.fits", error=4).error(0)[0, 0] == 4.0
    assert read_cutouts(tmp_path / "c.fits", error="noise").error(0)[0, 0] == 5.0
    assert read_cutouts(tmp_path / "c.fits", weight="noise").error(0)[0, 0] == pytest.approx(5.0**-0.5)
    assert read_cutouts(tmp_path / "c.fits", mask="BAD").mask(0).all()
    with pytest.raises(CatalogError, match="error must be a number or a column of the cutout table"):
        read_cutouts(tmp_path / "c.fits", error="nothing")
    with pytest.raises(ValueError, match="error and weight cannot be given together"):
        read_cutouts(tmp_path / "c.fits", error=1.0, weight="noise")


def test_sentinels_of_sextractor_are_masked(tmp_path):
    data = stamps()
    data[4, :3] = -1e30
    hdu = fits.BinTableHDU.from_columns([fits.Column("VIGNET", f"{SIZE**2}E", dim=f"({SIZE},{SIZE})", array=data)])
    fits.HDUList([fits.PrimaryHDU(), hdu, fits.ImageHDU(psf_image(), name="PSF")]).writeto(tmp_path / "c.fits")
    cutouts = read_cutouts(tmp_path / "c.fits", error=1.0)
    assert cutouts.mask(4)[:3].all()
    assert not cutouts.mask(4)[3:].any()
    assert not next(cutouts.batches()).flags.any()


def ldac(path, size=SIZE + 1):
    """A FITS_LDAC catalogue as SExtractor writes it."""
    data = stamps(size=size)
    header = tan_wcs((500, 500)).to_header()
    header["GAIN"] = 2.5
    header["SEXMGZPT"] = 25.0
    text = header.tostring(sep="", endcard=True, padding=True)
    imhead = fits.BinTableHDU.from_columns([fits.Column("Field Header Card", f"{len(text)}A", array=[text])])
    imhead.name = "LDAC_IMHEAD"
    imhead.header["TDIM1"] = f"(80, {len(text) // 80})"
    columns = [
        fits.Column("NUMBER", "1J", array=np.arange(1, 8)),
        fits.Column("X_IMAGE", "1E", array=np.full(7, 101.3)),
        fits.Column("Y_IMAGE", "1E", array=np.full(7, 50.8)),
        fits.Column("VIGNET", f"{size**2}E", dim=f"({size},{size})", array=data, unit="count"),
    ]
    objects = fits.BinTableHDU.from_columns(columns, name="LDAC_OBJECTS")
    fits.HDUList([fits.PrimaryHDU(), imhead, objects]).writeto(path)
    return data


def test_fits_ldac(tmp_path):
    data = ldac(tmp_path / "c.fits")
    cutouts = read_cutouts(tmp_path / "c.fits", psf=psf_image(), error=1.0)
    np.testing.assert_array_equal(cutouts.image(2), data[2])
    assert cutouts.unit == u.ct
    assert cutouts.gain[0] == 2.5
    assert cutouts.zero_point[0] == 25.0
    assert cutouts.pixel_scale[0] == pytest.approx(0.2, rel=1e-5)
    assert cutouts.wcs_in_parent
    # 101.3 counted from 1 is pixel 100 counted from 0, the centre of the stamp
    np.testing.assert_array_equal(cutouts.origin[0] + SIZE / 2, [100, 50])


def test_positions_move_to_whole_pixels(tmp_path):
    cutout_table(tmp_path / "c.fits", {"x": np.full(7, 105.3), "y": np.full(7, 105.5)})
    np.testing.assert_array_equal(read_cutouts(tmp_path / "c.fits").origin[0], [94, 94])


def test_keywords_units_and_options(tmp_path):
    header = {"PIXSCALE": 0.23, "EGAIN": 4.0}
    cutout_table(tmp_path / "c.fits", {"error": np.full(7, 2.0)}, header=header, primary={"MAGZERO": 27.0},
                 units={"cutout": "nanomaggies", "error": "nmgy"})  # fmt: skip
    source = open_catalog(tmp_path / "c.fits")
    cutouts = source.read([0, 5])
    assert cutouts.unit == u.nmgy
    assert (cutouts.pixel_scale[0], cutouts.gain, cutouts.zero_point[0]) == (0.23, None, 27.0)
    assert source.notes[:2] == ["pixel scale 0.23 (PIXSCALE)", "zero point 27 (MAGZERO)"]
    assert source.notes[2].startswith("EGAIN 4 not used, it is per ADU and the unit is nanomaggies")
    cutouts = read_cutouts(tmp_path / "c.fits", pixel_scale=0.5, gain=0, zero_point=22.5)
    assert (cutouts.pixel_scale[0], cutouts.gain, cutouts.zero_point[0]) == (0.5, None, 22.5)


def test_unit_of_the_error_is_converted(tmp_path):
    cutout_table(tmp_path / "c.fits", {"error": np.full(7, 2.0)}, units={"cutout": "nJy", "error": "uJy"})
    assert read_cutouts(tmp_path / "c.fits").error(0)[0, 0] == pytest.approx(2000.0)


@pytest.mark.parametrize("units", [{"cutout": "electron", "error": "m"}, {"error": "electron"}])
def test_units_that_do_not_fit(tmp_path, units):
    cutout_table(tmp_path / "c.fits", {"error": np.full(7, 2.0)}, units=units)
    with pytest.raises(CatalogError, match="the unit of error, .* does not fit that of cutout"):
        open_catalog(tmp_path / "c.fits")


def test_one_psf_a_row_and_oversampling(tmp_path):
    psfs = np.array([gaussian(31, 2 + i / 10) for i in range(7)], "f4")
    cutout_table(tmp_path / "c.fits", {"psf": psfs}, psf=False, header={"OVERSAMP": 2})
    cutouts = read_cutouts(tmp_path / "c.fits")
    assert cutouts.psf_oversampling == 2
    assert cutouts.psf_images[cutouts.psf_index[4]].shape == (31, 31)
    assert len(cutouts.psf_images) == 7
    assert open_catalog(tmp_path / "c.fits", psf_oversampling=1).read([2]).psf_oversampling == 1


def test_cube_of_psfs_must_have_the_length(tmp_path):
    cutout_table(tmp_path / "c.fits", psf=False)
    fits.writeto(tmp_path / "p.fits", np.array([gaussian(25, 2)] * 7, "f4"))
    fits.writeto(tmp_path / "q.fits", np.array([gaussian(25, 2)] * 3, "f4"))
    assert len(open_catalog(tmp_path / "c.fits", psf=tmp_path / "p.fits").read([1, 2])) == 2
    with pytest.raises(CatalogError, match="psf: must be one image, or one for each of the 7 rows, not 3"):
        open_catalog(tmp_path / "c.fits", psf=tmp_path / "q.fits")


def test_calibration_columns(tmp_path):
    cutout_table(tmp_path / "c.fits", {"gain": np.arange(1.0, 8), "zero_point": np.arange(20.0, 27)})
    cutouts = open_catalog(tmp_path / "c.fits").read([6, 2])
    assert cutouts.gain.tolist() == [7, 3]
    assert cutouts.zero_point.tolist() == [26, 22]


def test_segmentation_column_masks_neighbours(tmp_path):
    labels = np.zeros((7, SIZE, SIZE), "i4")
    labels[:, 8:16, 8:16] = 5
    labels[:, :4, :4] = 9
    cutout_table(tmp_path / "c.fits", {"segmap": labels})
    np.testing.assert_array_equal(read_cutouts(tmp_path / "c.fits").mask(0), labels[0] == 9)


def test_stamps_of_unequal_shapes(tmp_path):
    shapes = [(10, 12), (14, 9), (11, 11)]
    data = [np.arange(ny * nx, dtype="f4").reshape(ny, nx) for ny, nx in shapes]
    columns = [
        fits.Column("cutout", "PE()", array=np.array([d.ravel() for d in data], dtype=object)),
        fits.Column("sigma", "PE()", array=np.array([np.full(d.size, 2.0, "f4") for d in data], dtype=object)),
        fits.Column("ny", "J", array=[s[0] for s in shapes]),
        fits.Column("nx", "J", array=[s[1] for s in shapes]),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "c.fits")
    source = open_catalog(tmp_path / "c.fits", psf=psf_image())
    cutouts = source.read([2, 0, 1])
    assert cutouts.shapes.tolist() == [[11, 11], [10, 12], [14, 9]]
    np.testing.assert_array_equal(cutouts.image(2), data[1])
    assert (cutouts.error(1) == 2).all()


def padded_table(path, ny, nx, **columns):
    """Write stamps of unequal shapes, padded to 24 pixels with NaN; gives the padded pixels."""
    data = stamps(3)
    for image, rows, width in zip(data, ny, nx, strict=True):
        image[rows:], image[:, width:] = np.nan, np.nan
    table = Table({"cutout": data, "ny": ny, "nx": nx, **columns})
    fits.HDUList([fits.PrimaryHDU(), fits.table_to_hdu(table)]).writeto(path)
    return data


@pytest.mark.parametrize("column", ["error", "weight", "mask", "segmap"])
def test_padding_is_cut_off(tmp_path, column):
    other = np.random.default_rng(0).integers(0 if column in ("mask", "segmap") else 1, 3, (3, SIZE, SIZE))
    columns = {column: other, "x": [50.0, 60.0, 70.0], "y": [40.0, 50.0, 60.0]}
    data = padded_table(tmp_path / "c.fits", [10, 14, SIZE], [12, 9, SIZE], **columns)
    cutouts = open_catalog(tmp_path / "c.fits", psf=psf_image()).read([2, 0, 1])
    assert cutouts.shapes.tolist() == [[SIZE, SIZE], [10, 12], [14, 9]]
    np.testing.assert_array_equal(cutouts.image(1), data[0, :10, :12])
    np.testing.assert_array_equal(cutouts.image(2), data[1, :14, :9])
    assert cutouts.origin[1:].tolist() == [[44.0, 35.0], [56.0, 43.0]]
    if column == "error":
        np.testing.assert_array_equal(cutouts.error(1), other[0, :10, :12])
    if column == "weight":
        np.testing.assert_allclose(cutouts.error(2), other[1, :14, :9] ** -0.5)
    if column == "mask":
        np.testing.assert_array_equal(cutouts.mask(1), other[0, :10, :12] != 0)
    for batch in cutouts.batches():
        assert not (batch.flags & Flag.MANY_MASKED).any() or column in ("mask", "segmap")


def test_padding_without_shapes_is_masked(tmp_path):
    data = padded_table(tmp_path / "c.fits", [10, 14, SIZE], [12, 9, SIZE])
    with fits.open(tmp_path / "c.fits", mode="update") as hdus:
        hdus[1].columns.change_name("ny", "rows")
    cutouts = read_cutouts(tmp_path / "c.fits", psf=psf_image())
    np.testing.assert_array_equal(cutouts.mask(0), np.isnan(data[0]))
    flags = next(cutouts.batches()).flags
    assert ((flags & Flag.MANY_MASKED) != 0).tolist() == [True, True, False]


@pytest.mark.parametrize("ny", [0, -3, SIZE + 1])
def test_shapes_beyond_the_padding(tmp_path, ny):
    padded_table(tmp_path / "c.fits", [10, ny, SIZE], [12, 9, SIZE])
    with pytest.raises(CatalogError, match=r"c\.fits: ny and nx must lie between 1 and the stamp's \(24, 24\), not"):
        read_cutouts(tmp_path / "c.fits", psf=psf_image())


@pytest.mark.parametrize("dtype", ["i2", "u2", "f8", "u1"])
def test_types_and_scaling(tmp_path, dtype):
    data = (np.arange(3 * 8 * 8) % 200).reshape(3, 8, 8).astype(dtype)
    form, zero = {"i2": "64I", "u2": "64I", "f8": "64D", "u1": "64B"}[dtype], 32768 if dtype == "u2" else None
    column = fits.Column("cutout", form, dim="(8,8)", array=data, bzero=zero)
    fits.BinTableHDU.from_columns([column]).writeto(tmp_path / "c.fits")
    cutouts = read_cutouts(tmp_path / "c.fits", psf=psf_image(), error=1.0)
    np.testing.assert_array_equal(cutouts.image(1), data[1])


def test_gzip(tmp_path):
    data = cutout_table(tmp_path / "c.fits.gz")
    np.testing.assert_array_equal(open_catalog(tmp_path / "c.fits.gz").read([5, 1]).image(0), data[5])


def test_rows_in_any_order_and_chunks(tmp_path):
    data = cutout_table(tmp_path / "c.fits", {"tag": np.arange(7) * 10})
    source = open_catalog(tmp_path / "c.fits")
    assert (len(source), source.kind) == (7, "cutout table")
    cutouts = source.read([5, 6, 0, 3])
    np.testing.assert_array_equal([cutouts.image(i)[0] for i in range(4)], data[[5, 6, 0, 3], 0])
    assert cutouts.ids.tolist() == [6, 7, 1, 4]
    assert [len(c) for c in source.chunks(size=3)] == [3, 3, 1]
    assert [len(c) for c in source.chunks(rows=[1, 2], size=3)] == [2]
    assert [b.tolist() for b in source.blocks()] == [list(range(7))]
    assert source.column_names == ["tag"]
    assert source.columns([2, 6], ["tag"])["tag"].tolist() == [20, 60]


def test_blocks_hold_a_limited_number_of_pixels(tmp_path):
    cutout_table(tmp_path / "c.fits")
    blocks = list(open_catalog(tmp_path / "c.fits").blocks(max_pixels=3 * SIZE**2))
    assert np.concatenate(blocks).tolist() == list(range(7))
    assert max(len(b) for b in blocks) == 3


class TestMessages:
    def test_missing_file(self, tmp_path):
        with pytest.raises(CatalogError, match=r"nope\.fits: no such file"):
            open_catalog(tmp_path / "nope.fits")

    def test_folder(self, tmp_path):
        with pytest.raises(CatalogError, match="is a folder"):
            open_catalog(tmp_path)

    def test_not_fits(self, tmp_path):
        (tmp_path / "t.fits").write_text("hello")
        with pytest.raises(CatalogError, match=r"t\.fits: not a FITS file"):
            open_catalog(tmp_path / "t.fits")

    def test_empty_file(self, tmp_path):
        (tmp_path / "t.fits").touch()
        with pytest.raises(CatalogError, match=r"t\.fits: not a FITS file"):
            open_catalog(tmp_path / "t.fits")

    def test_no_cutout_column(self, tmp_path):
        cutout_table(tmp_path / "c.fits", name="picture")
        with pytest.raises(CatalogError, match="no cutout column .*; it has picture; a source list needs an image"):
            open_catalog(tmp_path / "c.fits")

    def test_no_psf(self, tmp_path):
        cutout_table(tmp_path / "c.fits", psf=False)
        with pytest.raises(CatalogError, match="no PSF: .*--psf"):
            open_catalog(tmp_path / "c.fits")

    def test_no_rows(self, tmp_path):
        cutout_table(tmp_path / "c.fits", count=0)
        with pytest.raises(CatalogError, match="no rows"):
            open_catalog(tmp_path / "c.fits")

    def test_text_in_place_of_stamps(self, tmp_path):
        column = fits.Column("cutout", "10A", array=["text"] * 3)
        fits.BinTableHDU.from_columns([column]).writeto(tmp_path / "c.fits")
        with pytest.raises(CatalogError, match="column cutout must hold numbers, not text"):
            open_catalog(tmp_path / "c.fits")

    def test_text_in_place_of_errors(self, tmp_path):
        cutout_table(tmp_path / "c.fits", {"error": ["a"] * 7})
        with pytest.raises(CatalogError, match="column error must hold numbers, not text"):
            open_catalog(tmp_path / "c.fits")

    def test_one_number_in_place_of_stamps(self, tmp_path):
        fits.BinTableHDU.from_columns([fits.Column("image", "E", array=[1.0])]).writeto(tmp_path / "c.fits")
        with pytest.raises(CatalogError, match="column image must hold one 2-D stamp per row"):
            open_catalog(tmp_path / "c.fits")

    @pytest.mark.parametrize("value", ["wide", -0.2])
    def test_keyword(self, tmp_path, value):
        cutout_table(tmp_path / "c.fits", header={"PIXSCALE": value})
        source = open_catalog(tmp_path / "c.fits")
        assert source.pixel_scale is None
        assert source.notes == [f"PIXSCALE = {str(value)!r} not used, it must be a positive number"]

    @pytest.mark.parametrize("shape", [(0,), (0, 24), (0, 0)])
    def test_no_pixels(self, tmp_path, shape):
        table = Table({"number": np.arange(7), "cutout": np.ones((7, *shape))})
        psf = fits.ImageHDU(psf_image(), name="PSF")
        fits.HDUList([fits.PrimaryHDU(), fits.table_to_hdu(table), psf]).writeto(tmp_path / "c.fits")
        with pytest.raises(CatalogError, match=r"^\S*c\.fits: the column cutout must hold one 2-D stamp"):
            read_cutouts(tmp_path / "c.fits")

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"mask": np.ones((7, 23, 24), bool)}, "mask must have the shape of the cutouts"),
            ({"mask": np.ones((7, 30, 30), bool)}, "mask must have the shape of the cutouts"),
            ({"mask": np.ones((7, 5), bool)}, "the column mask must hold one 2-D stamp"),
            ({"error": np.ones((7, 23, 24))}, "error must have the shape of the cutouts"),
            ({"psf": np.ones((7, 3))}, "the column psf must hold one 2-D stamp"),
        ],
    )
    def test_shapes_of_other_columns(self, tmp_path, columns, message):
        cutout_table(tmp_path / "c.fits", columns, psf=False)
        with pytest.raises(CatalogError, match=rf"^\S*c\.fits: {message}"):
            read_cutouts(tmp_path / "c.fits", psf=None if "psf" in columns else psf_image())

    @pytest.mark.parametrize("shape", [(25,), (2, 2, 5, 5), (3, 25, 25)])
    def test_shapes_of_the_psf(self, tmp_path, shape):
        fits.writeto(tmp_path / "p.fits", np.ones(shape))
        cutout_table(tmp_path / "c.fits", psf=False)
        with pytest.raises(CatalogError, match=r"^\S*p\.fits: psf: "):
            read_cutouts(tmp_path / "c.fits", psf=tmp_path / "p.fits")

    def test_argument_of_the_wrong_shape(self, tmp_path):
        cutout_table(tmp_path / "c.fits", psf=False)
        with pytest.raises(ValueError, match=r"^psf must"):
            read_cutouts(tmp_path / "c.fits", psf=np.ones((2, 2, 5, 5)))
        with pytest.raises(ValueError, match=r"^error must be positive"):
            read_cutouts(tmp_path / "c.fits", psf=psf_image(), error=-1.0)

    @pytest.mark.parametrize("options", [{"gain": -1.0}, {"pixel_scale": 0.0}, {"zero_point": np.nan}, {"size": 1}])
    def test_options(self, tmp_path, options):
        with pytest.raises(ValueError, match=f"^{next(iter(options))} must"):
            open_catalog(tmp_path / "c.fits", **options)

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("fraction", [0.02, 0.2, 0.5, 0.81, 0.93])
    @pytest.mark.parametrize("suffix", [".fits", ".fits.gz"])
    def test_truncated(self, tmp_path, fraction, suffix):
        path = tmp_path / f"c{suffix}"
        cutout_table(path)
        raw = path.read_bytes()
        path.write_bytes(raw[: int(len(raw) * fraction)])
        with pytest.raises(CatalogError, match=rf"c{suffix}: "):
            read_cutouts(path, psf=psf_image())
