"""Images as telescopes and pipelines write them: scaled integers, compressed, with other extensions, by version."""

import gc
import gzip

import numpy as np
import pytest
from _catalogs import POSITIONS, cutout_table, field, positions_list, psf_image, stamps, tan_wcs
from astropy.io import fits
from astropy.table import Table

from galmeasure import LSQSersicFitter
from galmeasure.cli import main
from galmeasure.exceptions import CatalogError
from galmeasure.flags import Flag
from galmeasure.io import SkySource, layout, open_catalog, read_cutouts, read_psf

SHAPE = (150, 180)


def image_of(dtype=None):
    """Pixels of the field with noise, rounded to what an integer type can hold where one is asked for."""
    rng = np.random.default_rng(2)
    image = rng.normal(100.0, 3.0, SHAPE)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for x, y in POSITIONS:
        image += 200 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 2.5**2))
    return image if dtype is None else np.round(image).astype(dtype)


def write_scaled(path, scale=0.5, zero=100.0, blank=-999, compressed=False, name=None):
    """Write the field as scaled 16-bit integers with a blank pixel at row 60, column 100; gives the values."""
    stored = np.round((image_of() - zero) / scale).astype("i2")
    stored[60, 100] = blank
    make = fits.CompImageHDU if compressed else fits.ImageHDU
    hdu = make(stored, name=name)
    hdu.header.update({"BSCALE": scale, "BZERO": zero, "BLANK": blank})
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    values = stored * scale + zero
    values[60, 100] = np.nan
    return values


def inside(cutouts, i, image):
    """Pixels of the image under the unmasked part of a stamp, and those of the stamp."""
    x0, y0 = cutouts.origin[i].astype(int)
    good = ~cutouts.mask(i)
    rows, columns = np.nonzero(good)
    return image[rows + y0, columns + x0], cutouts.image(i)[good]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "u4", "f4", "f8"])
def test_images_of_integers(tmp_path, dtype, compressed):
    image = image_of(dtype)
    make = fits.CompImageHDU if compressed else fits.ImageHDU
    fits.HDUList([fits.PrimaryHDU(), make(image)]).writeto(tmp_path / "i.fits")
    source = positions_list(tmp_path / "l.csv")
    cutouts = read_cutouts(source, image=tmp_path / "i.fits", psf=psf_image(), error=3.0)
    for i in range(5):
        np.testing.assert_allclose(*inside(cutouts, i, image), atol=1.0 if compressed and dtype[0] == "f" else 0.0)


@pytest.mark.parametrize("suffix", [".fits", ".fits.gz"])
@pytest.mark.parametrize("compressed", [False, True])
def test_scaled_image_with_blank_pixels(tmp_path, compressed, suffix):
    values = write_scaled(tmp_path / f"i{suffix}", compressed=compressed)
    source = positions_list(tmp_path / "l.csv")
    cutouts = read_cutouts(source, image=tmp_path / f"i{suffix}", psf=psf_image(), error=3.0)
    for i in range(5):
        np.testing.assert_allclose(*inside(cutouts, i, values), rtol=1e-6)
    x0, y0 = cutouts.origin[1].astype(int)
    assert np.argwhere(cutouts.mask(1)).tolist() == [[60 - y0, 100 - x0]]


def test_scaled_float_image(tmp_path):
    stored = image_of("f4")
    hdu = fits.PrimaryHDU(stored)
    hdu.header.update({"BSCALE": 2.0, "BZERO": -5.0})
    hdu.writeto(tmp_path / "i.fits")
    cutouts = read_cutouts(positions_list(tmp_path / "l.csv"), image=tmp_path / "i.fits", psf=psf_image(), error=3.0)
    np.testing.assert_allclose(*inside(cutouts, 1, 2.0 * stored - 5.0), rtol=1e-6)


@pytest.mark.parametrize(("keyword", "value"), [("BSCALE", "two"), ("BZERO", True)])
def test_scaling_that_is_no_number(tmp_path, keyword, value):
    fits.writeto(tmp_path / "i.fits", image_of("i2"))
    fits.setval(tmp_path / "i.fits", keyword, value=value)
    with pytest.raises(CatalogError, match=rf"i\.fits: (image: {keyword} must be a finite number|damaged)"):
        open_catalog(positions_list(tmp_path / "l.csv"), image=tmp_path / "i.fits", psf=psf_image(), error=3.0)


def pack(path, monkeypatch):
    """Compress a file, whose name gets .gz behind it; gives the new path, and a list of what is read through gzip."""
    packed, sizes = path.with_name(f"{path.name}.gz"), []
    packed.write_bytes(gzip.compress(path.read_bytes()))

    class CountingFile(gzip.GzipFile):
        def read(self, size=-1):
            content = super().read(size)
            sizes.append(len(content))
            return content

    monkeypatch.setattr(gzip, "GzipFile", CountingFile)
    return packed, sizes


def check_read_once(sizes, path):
    """The file was unpacked to its end, and nothing of it was read twice but the first bytes that tell its kind."""
    size = path.stat().st_size
    assert size <= sum(sizes) < size + 100


def test_packed_table_is_unpacked_once(tmp_path, monkeypatch):
    data = cutout_table(tmp_path / "c.fits")
    path, sizes = pack(tmp_path / "c.fits", monkeypatch)
    source = open_catalog(path)
    path.unlink()
    found = [cutouts.image(0) for cutouts in source.chunks(rows=[5, 1, 6, 0, 2], size=1)]
    np.testing.assert_array_equal(found, data[[5, 1, 6, 0, 2]])
    check_read_once(sizes, tmp_path / "c.fits")


def test_packed_cube_is_unpacked_once(tmp_path, monkeypatch):
    data = stamps()
    fits.HDUList([fits.PrimaryHDU(data), fits.ImageHDU(psf_image(), name="PSF")]).writeto(tmp_path / "c.fits")
    path, sizes = pack(tmp_path / "c.fits", monkeypatch)
    found = [cutouts.image(0) for cutouts in open_catalog(path).chunks(size=1)]
    np.testing.assert_array_equal(found, data)
    check_read_once(sizes, tmp_path / "c.fits")


def test_packed_image_is_unpacked_once(tmp_path, monkeypatch):
    field(tmp_path / "i.fits", ERR=np.ones((150, 180)))
    path, sizes = pack(tmp_path / "i.fits", monkeypatch)
    positions_list(tmp_path / "l.csv")
    found, expected = (read_cutouts(tmp_path / "l.csv", image=p, psf=psf_image()) for p in (path, tmp_path / "i.fits"))
    np.testing.assert_array_equal(found.image(1), expected.image(1))
    np.testing.assert_array_equal(found.error(1), expected.error(1))
    check_read_once(sizes, tmp_path / "i.fits")


def test_nothing_stays_of_a_packed_file(tmp_path):
    cutout_table(tmp_path / "c.fits.gz")
    source = open_catalog(tmp_path / "c.fits.gz")
    assert layout.unpacked_file(tmp_path / "c.fits.gz") is source._rows._unpacked
    del source
    gc.collect()
    assert not layout._UNPACKED


def test_tile_compressed_table_is_refused(tmp_path):
    cutout_table(tmp_path / "c.fits")
    with fits.open(tmp_path / "c.fits", mode="update") as hdus:
        hdus[1].header["ZTABLE"] = True
    with pytest.raises(CatalogError, match="the table is tile-compressed"):
        open_catalog(tmp_path / "c.fits")


@pytest.mark.parametrize("compressed", [False, True])
def test_scaled_image_is_detected_and_calibrated(tmp_path, compressed):
    write_scaled(tmp_path / "i.fits", compressed=compressed)
    source = open_catalog(tmp_path / "i.fits", detect=True, psf=psf_image())
    cutouts = source.read(np.arange(len(source)))
    centres = cutouts.origin + (cutouts.shapes[:, ::-1] - 1) / 2
    assert all(np.hypot(*(centres - position).T).min() < 1.5 for position in POSITIONS)
    sky = SkySource(tmp_path / "i.fits", detect=True, psf=psf_image(), size=33)
    positions, fraction = sky.blank_positions(10, 5, np.random.default_rng(1))
    assert 0.1 < fraction < 0.9
    assert sky.at(positions).read([0]).image(0)[~sky.at(positions).read([0]).mask(0)].mean() == pytest.approx(0, abs=2)


def test_planes_of_unsigned_integers(tmp_path):
    image = image_of("f4")
    mask, labels = np.zeros(SHAPE, "u4"), np.zeros(SHAPE, "u2")
    mask[61, 100] = 2**31
    labels[50:70, 90:110], labels[40:48, 90:120] = 40000, 50000
    psf = np.round(1e4 * psf_image()).astype("u2")
    hdus = [fits.PrimaryHDU(image), fits.ImageHDU(mask, name="DQ"), fits.ImageHDU(labels, name="SEG")]
    fits.HDUList([*hdus, fits.ImageHDU(psf, name="PSF")]).writeto(tmp_path / "i.fits")
    for name, plane in (("m", mask), ("s", labels), ("p", psf)):
        fits.writeto(tmp_path / f"{name}.fits", plane)
    fits.writeto(tmp_path / "j.fits", image)
    positions_list(tmp_path / "l.csv")
    own = read_cutouts(tmp_path / "l.csv", image=tmp_path / "i.fits", error=3.0)
    given = read_cutouts(
        tmp_path / "l.csv", image=tmp_path / "j.fits", error=3.0, mask=tmp_path / "m.fits",
        segmentation=tmp_path / "s.fits", psf=tmp_path / "p.fits",
    )  # fmt: skip
    for cutouts in (own, given):
        x0, y0 = cutouts.origin[1].astype(int)
        masked = cutouts.mask(1)
        assert masked[61 - y0, 100 - x0]
        assert masked.sum() == 1 + (labels[y0 : y0 + 48, x0 : x0 + 48] == 50000).sum()
        np.testing.assert_allclose(cutouts.psf_images[0], own.psf_images[0])
    assert read_psf(tmp_path / "p.fits").max() == 10000


def test_blank_mask_error_and_segment(tmp_path):
    """A blank pixel is bad in a mask and in an error, and belongs to no segment."""
    for name, unblank in (("mask", 0), ("error", 3), ("segmentation", 0)):
        hdu = fits.PrimaryHDU(np.full(SHAPE, unblank, "i2"))
        hdu.data[55 + len(name), 100] = -5
        hdu.header["BLANK"] = -5
        hdu.writeto(tmp_path / f"{name}.fits")
    field(tmp_path / "i.fits", noise=3.0, PSF=psf_image())
    positions_list(tmp_path / "l.csv")
    planes = {name: tmp_path / f"{name}.fits" for name in ("mask", "error", "segmentation")}
    cutouts = read_cutouts(tmp_path / "l.csv", image=tmp_path / "i.fits", **planes)
    x0, y0 = cutouts.origin[1].astype(int)
    assert np.argwhere(cutouts.mask(1)).tolist() == [[59 - y0, 100 - x0], [60 - y0, 100 - x0]]


def test_scaled_cutouts_in_extensions(tmp_path):
    data = np.round(10 * stamps(3)).astype("i2") + 1000
    hdus = [fits.PrimaryHDU()]
    for number, image in zip((3, 5, 8), data, strict=True):
        hdu = fits.ImageHDU(image.astype("u2"), name="SCI", ver=number)
        dq = np.eye(24, dtype="u4") << 31
        hdus += [hdu, fits.ImageHDU(dq, name="DQ", ver=number)]
    fits.HDUList([*hdus, fits.ImageHDU(psf_image(), name="PSF")]).writeto(tmp_path / "m.fits")
    cutouts = read_cutouts(tmp_path / "m.fits")
    np.testing.assert_array_equal([cutouts.image(i) for i in range(3)], data)
    np.testing.assert_array_equal(cutouts.mask(1), np.eye(24, dtype=bool))
    assert cutouts.ids.tolist() == [3, 5, 8]
    one = read_cutouts(f"{tmp_path / 'm.fits'}[SCI,5]")
    assert one.ids.tolist() == [5]
    np.testing.assert_array_equal(one.image(0), data[1])


def test_scaled_cube(tmp_path):
    data = np.round(10 * stamps(4)).astype("u2") + 1000
    fits.HDUList([fits.PrimaryHDU(data), fits.ImageHDU(psf_image(), name="PSF")]).writeto(tmp_path / "c.fits")
    np.testing.assert_array_equal(read_cutouts(tmp_path / "c.fits").image(2), data[2])


def observed(shape=SHAPE):
    """SCI, ERR and DQ as a telescope's pipeline writes them."""
    wcs = tan_wcs(shape).to_header()
    image = image_of() if shape == SHAPE else stamps(1)[0]
    sci = fits.ImageHDU(image.astype("f4"), fits.Header(wcs), name="SCI")
    sci.header["BUNIT"] = "MJy/sr"
    err = fits.ImageHDU(np.full(shape, 3.0, "f4"), name="ERR")
    dq = np.zeros(shape, "u4")
    dq[shape[0] // 2, shape[1] // 2] = 1
    return [fits.PrimaryHDU(), sci, err, fits.ImageHDU(dq, name="DQ")]


def append_raw(path, keyword="HDRLET"):
    """Append an extension of a kind that the standard does not know."""
    cards = [f"XTENSION= '{keyword:8}'", "BITPIX  =                    8", "NAXIS   =                    1"]
    cards += ["NAXIS1  =                 3000", "PCOUNT  =                    0", "GCOUNT  =                    1"]
    cards += [f"EXTNAME = '{keyword:8}'", "END"]
    header = "".join(card.ljust(80) for card in cards).ljust(2880).encode()
    with path.open("ab") as file:
        file.write(header + bytes(5760))


def unneeded_tables():
    index = fits.BinTableHDU.from_columns([fits.Column("ID", "J", array=np.arange(3))], name="ARCHIVE_INDEX")
    asdf = fits.BinTableHDU.from_columns([fits.Column("ASDF_METADATA", "30B", array=np.zeros((1, 30), "u1"))])
    asdf.name = "ASDF"
    return [index, fits.BinTableHDU.from_columns([fits.Column("FILE", "9A", array=["a"])], name="HDRTAB"), asdf]


@pytest.mark.parametrize("first", [False, True])
def test_image_with_extensions_that_are_not_needed(tmp_path, first):
    hdus = observed()
    hdus = [hdus[0], *unneeded_tables(), *hdus[1:]] if first else [*hdus, *unneeded_tables()]
    fits.HDUList(hdus).writeto(tmp_path / "i2d.fits")
    append_raw(tmp_path / "i2d.fits")
    append_raw(tmp_path / "i2d.fits", "WEIRD")
    positions_list(tmp_path / "l.csv")
    source = open_catalog(tmp_path / "l.csv", image=tmp_path / "i2d.fits", psf=psf_image())
    cutouts = source.read([1])
    assert np.unique(cutouts.error(0)[~cutouts.mask(0)]).tolist() == [3.0]
    assert source.notes[-2:] == ["mask (DQ,1)", "error (ERR,1)"]
    detected = open_catalog(tmp_path / "i2d.fits", detect=True, psf=psf_image())
    assert len(detected) >= 4


@pytest.mark.parametrize("first", [False, True])
def test_cutout_with_extensions_that_are_not_needed(tmp_path, first):
    hdus = observed((24, 24))
    hdus = [hdus[0], *unneeded_tables(), *hdus[1:]] if first else [*hdus, *unneeded_tables()]
    fits.HDUList(hdus).writeto(tmp_path / "c.fits")
    append_raw(tmp_path / "c.fits")
    cutouts = read_cutouts(tmp_path / "c.fits", psf=psf_image())
    assert len(cutouts) == 1
    assert cutouts.mask(0).sum() == 1
    table = LSQSersicFitter().fit(cutouts)
    assert not table["flags"][0] & (Flag.FAILED | Flag.NOT_CONVERGED)


def test_table_that_is_not_needed_may_be_damaged(tmp_path):
    fits.HDUList([*observed((24, 24)), *unneeded_tables()]).writeto(tmp_path / "c.fits")
    raw = (tmp_path / "c.fits").read_bytes().replace(b"TFORM1  = '30B ", b"TFORM1  = '30? ")
    (tmp_path / "c.fits").write_bytes(raw)
    assert len(read_cutouts(tmp_path / "c.fits", psf=psf_image())) == 1


def chips(path, shape=SHAPE):
    """Two chips of one exposure, each with its errors, mask and unit."""
    hdus = [fits.PrimaryHDU()]
    for number in (1, 2):
        hdus.append(fits.ImageHDU((image_of() + 1000 * number).astype("f4"), name="SCI", ver=number))
        hdus.append(fits.ImageHDU(np.full(shape, 3.0 * number, "f4"), name="ERR", ver=number))
        hdus.append(fits.ImageHDU(np.eye(*shape, dtype="u2") * (number == 2), name="DQ", ver=number))
        hdus.append(fits.ImageHDU(psf_image(21 + 2 * number), name="PSF", ver=number))
    fits.HDUList(hdus).writeto(path)
    return path


@pytest.mark.parametrize("choice", ["SCI,2", "sci,2", "SCI, 2", "5"])
def test_extension_by_version(tmp_path, choice):
    path = chips(tmp_path / "flc.fits")
    positions_list(tmp_path / "l.csv")
    cutouts = read_cutouts(tmp_path / "l.csv", image=f"{path}[{choice}]", size=32)
    assert np.median(cutouts.image(1)) > 2000
    assert np.nanmin(cutouts.error(1)) == 6.0
    assert cutouts.psf_images[0].shape == (25, 25)
    assert read_psf(f"{path}[PSF,1]").shape == (23, 23)
    cutouts = read_cutouts(
        tmp_path / "l.csv", image=f"{path}[SCI,2]", size=32, psf=f"{path}[PSF,1]", error=f"{path}[ERR,1]",
        mask=f"{path}[DQ,1]",
    )  # fmt: skip
    assert cutouts.psf_images[0].shape == (23, 23)
    assert np.nanmin(cutouts.error(1)) == 3.0


def test_list_by_version(tmp_path):
    first = fits.table_to_hdu(Table({"x": [100.0], "y": [60.0]}))
    second = fits.table_to_hdu(Table({"x": [30.0, 80.0], "y": [40.0, 120.0]}))
    first.name = second.name = "CAT"
    second.ver = 2
    fits.HDUList([fits.PrimaryHDU(), first, second]).writeto(tmp_path / "l.fits")
    field(tmp_path / "i.fits", PSF=psf_image())
    assert len(open_catalog(f"{tmp_path / 'l.fits'}[CAT,2]", image=tmp_path / "i.fits", error=1.0)) == 2


def test_several_images_are_not_the_first_of_them(tmp_path):
    path = chips(tmp_path / "flc.fits")
    positions_list(tmp_path / "l.csv")
    with pytest.raises(CatalogError, match=r"image: there are 2 images, SCI,1, SCI,2; choose one"):
        open_catalog(tmp_path / "l.csv", image=path)
    with pytest.raises(CatalogError, match=r"no image in extension SCI,7"):
        open_catalog(tmp_path / "l.csv", image=f"{path}[SCI,7]")


def test_an_image_is_not_taken_for_a_mask(tmp_path):
    fits.HDUList(observed()[:3]).writeto(tmp_path / "o.fits")
    positions_list(tmp_path / "l.csv")
    field(tmp_path / "i.fits", PSF=psf_image())
    with pytest.raises(CatalogError, match=r"mask: not one of the images SCI,1, ERR,1; choose it as"):
        open_catalog(tmp_path / "l.csv", image=tmp_path / "i.fits", error=1.0, mask=tmp_path / "o.fits")


def test_the_only_image_of_a_file_is_meant(tmp_path):
    """Whatever its name; but none of two without a name is."""
    plane = fits.ImageHDU(np.full(SHAPE, 2.0), name="SCI")
    fits.HDUList([fits.PrimaryHDU(), plane]).writeto(tmp_path / "e.fits")
    fits.HDUList([fits.PrimaryHDU(plane.data), fits.ImageHDU(3 * plane.data)]).writeto(tmp_path / "f.fits")
    positions_list(tmp_path / "l.csv")
    field(tmp_path / "i.fits", PSF=psf_image())
    options = {"image": tmp_path / "i.fits"}
    assert np.nanmax(read_cutouts(tmp_path / "l.csv", error=tmp_path / "e.fits", **options).error(1)) == 2.0
    with pytest.raises(CatalogError, match="error: there are 2 images, 0, 1; choose one"):
        open_catalog(tmp_path / "l.csv", error=tmp_path / "f.fits", **options)
    with pytest.raises(CatalogError, match="image: there are 2 images, 0, 1; choose one"):
        open_catalog(tmp_path / "f.fits", detect=True)
    assert np.nanmax(read_cutouts(tmp_path / "l.csv", error=f"{tmp_path / 'f.fits'}[1]", **options).error(1)) == 6.0


def test_command_with_a_version(tmp_path, capsys):
    path = chips(tmp_path / "flc.fits")
    positions_list(tmp_path / "l.csv")
    with pytest.raises(SystemExit) as done:
        main([str(tmp_path / "l.csv"), "--image", f"{path}[SCI,2]", "--method", "lsq", "--rows", "1", "--size", "32"])
    assert done.value.code == 0
    assert "error (ERR,2)" in capsys.readouterr().out


def distorted(path):
    """An image whose positions are moved by a look-up table, by up to half a pixel; gives its WCS as astropy has it."""
    header = tan_wcs(SHAPE).to_header()
    rows, columns = np.mgrid[:16, :19]
    for axis, name in ((1, "DP1"), (2, "DP2")):
        header[f"CPDIS{axis}"] = "LOOKUP"
        for card in (f"{name}.EXTVER: {axis}", f"{name}.NAXES: 2", f"{name}.AXIS.1: 1", f"{name}.AXIS.2: 2"):
            header.append(fits.Card.fromstring(f"{name:8}= '{card.removeprefix(name + '.')}'"))
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(image_of("f4"), header, name="SCI")]
    for axis in (1, 2):
        table = fits.ImageHDU((0.5 * np.sin(rows / 5.0 + axis) * np.cos(columns / 6.0)).astype("f4"), name="WCSDVARR",
                              ver=axis)  # fmt: skip
        for i in (1, 2):
            table.header.update({f"CRPIX{i}": 1.0, f"CRVAL{i}": 1.0, f"CDELT{i}": 10.0})
        hdus.append(table)
    fits.HDUList(hdus).writeto(path)


def test_distortion_tables(tmp_path):
    from astropy.wcs import WCS

    distorted(tmp_path / "i.fits")
    with fits.open(tmp_path / "i.fits") as hdus:
        wcs = WCS(hdus["SCI"].header, hdus)
        assert wcs.cpdis1 is not None
        ra, dec = wcs.all_pix2world(*POSITIONS.T, 0)
    Table({"ra": ra, "dec": dec}).write(tmp_path / "l.csv")
    source = open_catalog(tmp_path / "l.csv", image=tmp_path / "i.fits", psf=psf_image(), error=3.0, size=33)
    assert np.abs(source._positions - POSITIONS).max() < 1e-3


def test_large_labels_cost_no_more_than_small_ones(tmp_path):
    labels = np.zeros(SHAPE, "i8")
    labels[50:70, 90:110], labels[40:48, 90:120] = 2**60, 2**40
    fits.writeto(tmp_path / "s.fits", labels)
    field(tmp_path / "i.fits", PSF=psf_image())
    Table({"x": [100.0, 100.0], "y": [60.0, 44.0]}).write(tmp_path / "l.csv")
    source = open_catalog(tmp_path / "l.csv", image=tmp_path / "i.fits", error=1.0, segmentation=tmp_path / "s.fits")
    assert source.read([0, 1]).shapes[:, 0].tolist() == [48, 64]


@pytest.mark.parametrize("case", ["empty", "no error", "other shape", "no numbers"])
def test_one_bad_cutout_costs_its_row(tmp_path, case):
    data = stamps(3)
    hdus = [fits.PrimaryHDU()]
    for number, image in zip((3, 5, 8), data, strict=True):
        error = np.ones((24, 24), "f4")
        if number == 5:
            image = {"empty": None, "no numbers": np.full((24, 24), np.nan)}.get(case, image)
            error = {"no error": None, "other shape": np.ones((5, 5))}.get(case, error)
        hdus.append(fits.ImageHDU(image, name="SCI", ver=number))
        hdus += [] if error is None else [fits.ImageHDU(error, name="ERR", ver=number)]
    fits.HDUList([*hdus, fits.ImageHDU(psf_image(), name="PSF")]).writeto(tmp_path / "m.fits")
    source = open_catalog(tmp_path / "m.fits")
    table = LSQSersicFitter().fit(source.read([0, 1, 2]))
    assert table["id"].tolist() == [3, 5, 8]
    assert ((table["flags"] & Flag.FAILED) != 0).tolist() == [False, True, False]
    assert np.isnan(table["n_fit"][1])
    assert (LSQSersicFitter().fit(source.read([1]))["flags"] & Flag.FAILED)[0]


def test_extensions_of_one_name_and_version(tmp_path):
    image = image_of("f4")
    errors = [fits.ImageHDU(np.full(SHAPE, value), name="ERR") for value in (1.0, 2.0)]
    fits.HDUList([fits.PrimaryHDU(image), *errors, fits.ImageHDU(psf_image(), name="PSF")]).writeto(tmp_path / "i.fits")
    positions_list(tmp_path / "l.csv")
    with pytest.raises(CatalogError, match="error: there are 2 extensions ERR,1; choose one by its number"):
        open_catalog(tmp_path / "l.csv", image=tmp_path / "i.fits")
    chosen = read_cutouts(tmp_path / "l.csv", image=tmp_path / "i.fits", error=f"{tmp_path / 'i.fits'}[2]")
    assert np.nanmax(chosen.error(1)) == 2.0
