"""Source lists as surveys and pipelines deliver them: units, masks, names, sky coordinates and formats."""

import astropy.units as u
import numpy as np
import pytest
from _catalogs import POSITIONS, field, psf_image, tan_wcs
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Column, MaskedColumn, QTable, Table
from astropy.wcs import WCS, Sip

from galmeasure.exceptions import CatalogError
from galmeasure.flags import Flag
from galmeasure.io import open_catalog, read_cutouts
from galmeasure.io.positions import sky_to_pixels

SHAPE = (150, 180)
FORMATS = {"fits": None, "ecsv": None, "parquet": None, "votable": "votable"}
LARGE = np.array([2**63 + 1, 2**63 + 2, 3, 2**64 - 1, 2**53 + 1], dtype=np.uint64)


@pytest.fixture
def image(tmp_path):
    field(tmp_path / "i.fits", PSF=psf_image())
    return tmp_path / "i.fits"


def sky():
    return tan_wcs(SHAPE).pixel_to_world(*POSITIONS.T)


def found_positions(path, image):
    """Positions of the sources of a list in pixels of the image."""
    return open_catalog(path, image=image, error=1.0)._positions


def write(table, path):
    pytest.importorskip("pyarrow") if path.suffix == ".parquet" else None
    table.write(path, format=FORMATS[path.suffix[1:]])


@pytest.mark.parametrize("suffix", ["fits", "ecsv", "parquet"])
@pytest.mark.parametrize("frame", ["icrs", "galactic", "fk5"])
def test_sky_coordinate_columns(tmp_path, image, suffix, frame):
    table = QTable({"label": np.arange(5), "sky_centroid": sky().transform_to(frame)})
    write(table, tmp_path / f"l.{suffix}")
    np.testing.assert_allclose(found_positions(tmp_path / f"l.{suffix}", image), POSITIONS, atol=1e-6)


@pytest.mark.parametrize("suffix", list(FORMATS))
@pytest.mark.parametrize("unit", ["rad", "arcsec", "hourangle", "deg"])
def test_units_of_angles(tmp_path, image, suffix, unit):
    units = (
        (u.deg if (suffix, unit) in (("votable", "hourangle"), ("fits", "hourangle")) else u.Unit(unit)),
        u.Unit("arcmin" if unit == "hourangle" else unit),
    )
    columns = {"ra": sky().ra.to_value(units[0]) * units[0], "dec": sky().dec.to_value(units[1]) * units[1]}
    write(QTable(columns), tmp_path / f"l.{suffix}")
    np.testing.assert_allclose(found_positions(tmp_path / f"l.{suffix}", image), POSITIONS, atol=1e-5)


@pytest.mark.parametrize(
    ("names", "unit"),
    [
        (("coord_ra", "coord_dec"), "rad"),
        (("RIGHT_ASCENSION", "DECLINATION"), "deg"),
        (("_RAJ2000", "_DEJ2000"), "deg"),
        (("world_centroid_alpha", "world_centroid_delta"), None),
    ],
)
def test_names_of_surveys(tmp_path, image, names, unit):
    columns = [(angle.deg * u.deg).to_value(unit or "deg") for angle in (sky().ra, sky().dec)]
    table = Table({name: Column(values, unit=unit) for name, values in zip(names, columns, strict=True)})
    table.write(tmp_path / "l.fits")
    np.testing.assert_allclose(found_positions(tmp_path / "l.fits", image), POSITIONS, atol=1e-6)


def test_galactic_columns_and_sexagesimal_text(tmp_path, image):
    galactic = sky().galactic
    Table({"GLON": galactic.l.deg, "GLAT": galactic.b.deg}).write(tmp_path / "g.csv")
    np.testing.assert_allclose(found_positions(tmp_path / "g.csv", image), POSITIONS, atol=1e-6)
    text = {"RAJ2000": sky().ra.to_string("hour", sep=" ", precision=6)}
    Table(text | {"DEJ2000": sky().dec.to_string(sep=":", precision=5)}).write(tmp_path / "s.fits")
    np.testing.assert_allclose(found_positions(tmp_path / "s.fits", image), POSITIONS, atol=1e-3)


def test_names_of_sourcextractor(tmp_path, image):
    table = Table({"pixel_centroid_x": POSITIONS[:, 0] + 1, "pixel_centroid_y": POSITIONS[:, 1] + 1})
    table.write(tmp_path / "l.fits")
    np.testing.assert_allclose(found_positions(tmp_path / "l.fits", image), POSITIONS)


def test_pixel_names_with_units_of_the_sky_are_no_pixels(tmp_path, image):
    table = Table({"x": Column(POSITIONS[:, 0], unit="arcsec"), "y": Column(POSITIONS[:, 1], unit="arcsec")})
    table.write(tmp_path / "l.fits")
    with pytest.raises(CatalogError, match="no positions"):
        open_catalog(tmp_path / "l.fits", image=image)


@pytest.mark.parametrize(("unit", "message"), [("mag", "must hold angles"), ("parsnip", "'parsnip', which is not")])
def test_units_that_are_no_angles(tmp_path, image, unit, message):
    columns = [fits.Column(name, "D", unit=unit, array=np.ones(2)) for name in ("ra", "dec")]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "l.fits")
    with pytest.raises(CatalogError, match=f"column ra .*{message}"):
        open_catalog(tmp_path / "l.fits", image=image)


@pytest.mark.parametrize("suffix", ["fits", "ecsv", "parquet"])
def test_masked_values(tmp_path, image, suffix):
    """Masked positions are rows without a measurement; masked integers stay masked and large ones exact."""
    mask = [False, True, False, False, False]
    table = Table({"id": LARGE, "x": MaskedColumn(POSITIONS[:, 0], mask=mask), "y": POSITIONS[:, 1]})
    table["y"][3] = np.nan
    table["tile"] = MaskedColumn([1, 2, 3, 4, 999999], mask=mask)
    write(table, tmp_path / f"l.{suffix}")
    source = open_catalog(tmp_path / f"l.{suffix}", image=image, error=1.0)
    cutouts = source.read(np.arange(5))
    assert cutouts.ids.dtype == np.uint64
    assert cutouts.ids.tolist() == LARGE.tolist()
    failed = next(cutouts.batches()).flags & int(Flag.FAILED) != 0
    assert failed.tolist() == [False, True, False, True, False]
    tile = source.columns([0, 1, 2, 3], ["tile"])["tile"]
    assert tile.dtype.kind == "i"
    assert np.ma.getmaskarray(tile).tolist() == mask[:4]


@pytest.mark.parametrize("suffix", ["fits", "ecsv"])
def test_masked_identifiers(tmp_path, image, suffix):
    table = Table({"id": MaskedColumn(LARGE, mask=[0, 1, 0, 0, 0]), "x": POSITIONS[:, 0], "y": POSITIONS[:, 1]})
    write(table, tmp_path / f"l.{suffix}")
    ids = read_cutouts(tmp_path / f"l.{suffix}", image=image, error=1.0).ids
    assert np.ma.getmaskarray(ids).tolist() == [False, True, False, False, False]
    assert ids[0] == LARGE[0]


def test_large_and_masked_integers_of_cutout_tables(tmp_path):
    data = np.random.default_rng(0).normal(size=(5, 20, 20))
    table = Table({"id": LARGE, "cutout": data, "tile": MaskedColumn([1, 2, 3, 4, 5], mask=[0, 1, 0, 0, 0])})
    hdus = [fits.PrimaryHDU(), fits.table_to_hdu(table), fits.ImageHDU(psf_image(), name="PSF")]
    fits.HDUList(hdus).writeto(tmp_path / "c.fits")
    source = open_catalog(tmp_path / "c.fits", error=1.0)
    assert source.read([0, 3]).ids.tolist() == [int(LARGE[0]), int(LARGE[3])]
    assert source.columns([0, 1], ["tile"])["tile"].mask.tolist() == [False, True]


def distorted_wcs():
    """WCS with a distortion of SIP that is two pixels at the corners."""
    wcs = tan_wcs(SHAPE)
    wcs.wcs.ctype = "RA---TAN-SIP", "DEC--TAN-SIP"
    a, b = np.zeros((4, 4)), np.zeros((4, 4))
    a[2, 0], b[0, 2], a[0, 3] = 2e-4, -2e-4, 1e-6
    wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
    wcs.wcs.set()
    return wcs


def test_positions_over_the_whole_sky():
    wcs, rng = distorted_wcs(), np.random.default_rng(1)
    lon, lat = rng.uniform(0, 360, 20_000), np.degrees(np.arcsin(rng.uniform(-1, 1, 20_000)))
    inside = wcs.pixel_to_world(*POSITIONS.T)
    lon[:5], lat[:5] = inside.ra.deg, inside.dec.deg
    lon[5:1005] = 150.0 + rng.uniform(-1, 1, 1000)
    lat[5:1005] = 2.0 + rng.uniform(-1, 1, 1000)
    sources = SkyCoord(lon, lat, unit="deg")
    x, y = sky_to_pixels(wcs, sources, SHAPE, "i.fits").T
    np.testing.assert_allclose(np.stack([x, y], axis=1)[:5], POSITIONS, atol=1e-3)
    is_inside = (x > -0.5) & (x < SHAPE[1] - 0.5) & (y > -0.5) & (y < SHAPE[0] - 0.5)
    separation = wcs.pixel_to_world(SHAPE[1] / 2, SHAPE[0] / 2).separation(sources).arcsec
    assert is_inside[:5].all()
    assert separation[is_inside].max() < 0.2 * np.hypot(*SHAPE)


@pytest.mark.parametrize("kind", ["galactic", "swapped", "fk4"])
def test_frames_and_order_of_axes(kind):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = {"galactic": ("GLON-TAN", "GLAT-TAN"), "swapped": ("DEC--TAN", "RA---TAN")}.get(
        kind, ("RA---TAN", "DEC--TAN")
    )
    wcs.wcs.crval = (2.0, 150.0) if kind == "swapped" else (150.0, 2.0)
    wcs.wcs.crpix, wcs.wcs.cdelt = (80, 70), (5e-5, 5e-5)
    if kind == "fk4":
        wcs.wcs.radesys, wcs.wcs.equinox = "FK4", 1950.0
    positions = wcs.pixel_to_world(*POSITIONS.T).icrs
    np.testing.assert_allclose(sky_to_pixels(wcs, positions, SHAPE, "i.fits"), POSITIONS, atol=1e-4)


@pytest.mark.parametrize(
    "start",
    ["\ufeff", "# a catalogue\n# of sources\n", "\ufeff# made by hand\n\n"],
)
def test_comma_separated_with_a_mark_or_comments(tmp_path, image, start):
    rows = "\n".join(f"{i + 11},{x},{y}" for i, (x, y) in enumerate(POSITIONS))
    (tmp_path / "l.csv").write_text(f"{start}id,x,y\n{rows}\n", encoding="utf-8")
    source = open_catalog(tmp_path / "l.csv", image=image, error=1.0)
    assert source.read([0, 4]).ids.tolist() == [11, 15]
    (tmp_path / "n.csv").write_text(f"# made by hand\n# id,x,y\n{rows}\n", encoding="utf-8")
    assert open_catalog(tmp_path / "n.csv", image=image, error=1.0).read([4]).ids.tolist() == [15]


@pytest.mark.parametrize("name", ["l.PARQUET", "l.parq", "folder"])
def test_parquet_of_other_programs(tmp_path, image, name):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table(
        {
            "id": pa.array([2**63 + 1, None, 3, 4, 5], pa.uint64()),
            "x": pa.array([30.3, None, 2.0, 150.49, 80.2]),
            "y": pa.array(POSITIONS[:, 1]),
            "band": pa.array(["g", "r", None, "g", "i"]).dictionary_encode(),
            "name": pa.array(list("abcde"), pa.large_string()),
            "when": pa.array([0, 10**9, 2, 3, 4], pa.timestamp("us")),
            "list": pa.array([[1], [2, 3], [], [4], [5]]),
        }
    )
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
        pq.write_table(table[:2], path / "a.parquet")
        pq.write_table(table[2:], path / "b.parquet")
    else:
        pq.write_table(table, path)
    source = open_catalog(path, image=image, error=1.0)
    assert source.column_names == ["id", "x", "y", "band", "name", "when"]
    assert len(source) == 5
    assert source.read([0]).ids.tolist() == [2**63 + 1]
    columns = source.columns([0, 2], ["band", "name", "when"])
    assert columns["band"].tolist() == ["g", None]
    assert columns["name"].tolist() == ["a", "c"]
    assert columns["when"][0].startswith("1970-01-01")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_votable_with_data_elsewhere(tmp_path, image, encoding):
    (tmp_path / "secret").write_bytes(bytes(16))
    text = f"""<?xml version="1.0"?><VOTABLE version="1.3"><RESOURCE><TABLE>
    <FIELD name="x" datatype="double"/><FIELD name="y" datatype="double"/>
    <DATA><BINARY><STREAM encoding="none" href="file://{tmp_path}/secret"/></BINARY></DATA></TABLE></RESOURCE></VOTABLE>"""
    (tmp_path / "l.vot").write_bytes(text.replace("?>", f' encoding="{encoding}"?>').encode(encoding))
    with pytest.raises(CatalogError, match=r"l\.vot: .*href"):
        open_catalog(tmp_path / "l.vot", image=image)


def test_several_lists_in_a_file(tmp_path, image):
    def hdu(name):
        return fits.table_to_hdu(Table({"x": POSITIONS[:, 0], "y": POSITIONS[:, 1]}, meta={"EXTNAME": name}))

    other = fits.table_to_hdu(Table({"a": [1]}, meta={"EXTNAME": "HDRTAB"}))
    fits.HDUList([fits.PrimaryHDU(), other, hdu("ONE"), hdu("TWO")]).writeto(tmp_path / "l.fits")
    with pytest.raises(CatalogError, match=r"several lists \(ONE, TWO\)"):
        open_catalog(tmp_path / "l.fits", image=image)
    assert len(open_catalog(f"{tmp_path}/l.fits[TWO]", image=image)) == 5
    fits.HDUList([fits.PrimaryHDU(), other, hdu("ONE")]).writeto(tmp_path / "m.fits")
    assert len(open_catalog(tmp_path / "m.fits", image=image)) == 5


def test_rows_without_pixels_or_of_another_shape(tmp_path):
    """A row whose pixels do not make a stamp fails alone, in its place."""
    sizes = [400, 0, 399, 400]
    pixels = np.empty(4, dtype=object)
    pixels[:] = [np.arange(size, dtype="f4") for size in sizes]
    errors = np.empty(4, dtype=object)
    errors[:] = [np.ones(size, dtype="f4") for size in (400, 400, 399, 5)]
    columns = [
        fits.Column("id", "J", array=np.arange(4) + 7),
        fits.Column("cutout", "PE()", array=pixels),
        fits.Column("error", "PE()", array=errors),
    ]
    hdus = [fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns), fits.ImageHDU(psf_image(), name="PSF")]
    fits.HDUList(hdus).writeto(tmp_path / "c.fits")
    cutouts = read_cutouts(tmp_path / "c.fits")
    assert cutouts.ids.tolist() == [7, 8, 9, 10]
    flags = np.zeros(4, dtype=int)
    for batch in cutouts.batches():
        flags[batch.index] = batch.flags
    assert (flags & int(Flag.FAILED) != 0).tolist() == [False, True, True, True]
