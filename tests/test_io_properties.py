"""Properties of reading that hold whatever the header, the storage, the units, the masks and the format of a table."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from _catalogs import POSITIONS, psf_image, stamps
from astropy import units as u
from astropy.io import fits
from astropy.table import MaskedColumn, QTable, Table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from galmeasure import Flag, LSQSersicFitter
from galmeasure.io import ChunkedWriter, open_catalog
from galmeasure.io.list_columns import read_list

SIDE = 16
PSF = psf_image(15)
N_CUTOUTS = 3

seeded = settings(
    derandomize=True, database=None, deadline=None, max_examples=25, suppress_health_check=list(HealthCheck)
)
few = settings(seeded, max_examples=6)


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def cutouts_of(path, **options):
    """Source and cutouts of a file with a PSF of its own."""
    source = open_catalog(path, psf=PSF, **options)
    return source, source.read(np.arange(len(source)))


def same_cutouts(first, second):
    """Whether two sets of cutouts hold the same numbers, errors, masks, units and identifiers."""
    assert len(first) == len(second)
    assert first.unit == second.unit
    assert list(first.ids) == list(second.ids)
    for name in ("gain", "pixel_scale", "zero_point"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    for i in range(len(first)):
        for name in ("image", "error", "mask"):
            np.testing.assert_array_equal(getattr(first, name)(i), getattr(second, name)(i), err_msg=name)


# How pixels are stored

SCALINGS = st.sampled_from([(1, 0), (1, 7), (0.5, 0), (2, -10), (0.25, 128), (1, 2**15), (1, 2**31), (-1, 3)])


def stored(data, bitpix, scale, zero, blank):
    """HDU with the cards of integers that stand for numbers, or the numbers themselves."""
    if bitpix < 0:
        values = data * scale + zero
        values[blank] = np.nan
        return fits.ImageHDU(values.astype({-32: "f4", -64: "f8"}[bitpix]))
    raw = data.astype({8: "u1", 16: "i2", 32: "i4", 64: "i8"}[bitpix])
    raw[blank] = 255
    hdu = fits.ImageHDU(raw)
    hdu.header.update({"BLANK": 255} if blank.any() else {})
    return hdu, {"BSCALE": scale, "BZERO": zero}


def write_images(path, images, name="SCI", first=(), last=(), **cards):
    """Multi-extension file of images; the cards of their scaling are added where astropy does not touch the pixels."""
    hdus = [fits.PrimaryHDU(), *first]
    changes = {}
    for number, image in enumerate(images, 1):
        hdu, scaling = image if isinstance(image, tuple) else (image, {})
        hdu.name, hdu.ver = name, number
        hdu.header.update(cards)
        hdus.append(hdu)
        changes[len(hdus) - 1] = scaling
    fits.HDUList([*hdus, *last]).writeto(path, overwrite=True)
    with fits.open(path, mode="update", do_not_scale_image_data=True) as opened:
        for place, scaling in changes.items():
            opened[place].header.update(scaling)


@seeded
@given(st.sampled_from([8, 16, 32, 64]), SCALINGS, st.integers(0, 2**16), st.booleans())
def test_storage_does_not_change_the_numbers(folder, bitpix, scaling, seed, is_blank):
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 200, (N_CUTOUTS, SIDE, SIDE))
    blank = (rng.random(data.shape) < 0.1) & is_blank
    reference = [stored(d.astype(float), -64, *scaling, b) for d, b in zip(data, blank, strict=True)]
    write_images(folder / "reference.fits", reference)
    write_images(folder / "stored.fits", [stored(d, bitpix, *scaling, b) for d, b in zip(data, blank, strict=True)])
    _, expected = cutouts_of(folder / "reference.fits", error=1.0)
    _, found = cutouts_of(folder / "stored.fits", error=1.0)
    same_cutouts(found, expected)
    for i in range(N_CUTOUTS):
        assert np.array_equal(found.mask(i) | ~np.isfinite(found.image(i)), blank[i])


@seeded
@given(st.sampled_from(["GZIP_1", "GZIP_2", "RICE_1", "HCOMPRESS_1"]), st.integers(0, 2**16), st.booleans())
def test_compression_does_not_change_the_numbers(folder, kind, seed, is_named):
    data = np.random.default_rng(seed).integers(0, 200, (SIDE, SIDE)).astype("i2")
    packed = fits.CompImageHDU(data, name="SCI" if is_named else None, compression_type=kind, tile_shape=(SIDE, SIDE))
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(folder / "packed.fits", overwrite=True)
    _, found = cutouts_of(folder / "packed.fits", error=1.0)
    assert np.array_equal(np.asarray(found.image(0)).squeeze(), data)


# What does not matter

NEEDLESS = {
    "ASDF": lambda: fits.BinTableHDU.from_columns([fits.Column("ASDF_METADATA", "9B", array=np.ones((1, 9), "u1"))]),
    "HDRTAB": lambda: fits.BinTableHDU.from_columns([fits.Column("FILENAME", "5A", array=["a", "b"])]),
    "ARCHIVE_INDEX": lambda: fits.BinTableHDU.from_columns([fits.Column("cat.id", "J", array=[1, 2, 3])]),
    "HDRLET": lambda: fits.hdu.base.NonstandardExtHDU(data=np.zeros(100, "u1")),
    "CONTENTS": lambda: fits.TableHDU.from_columns([fits.Column("n", "I4", array=[1, 2])]),
    "NOTES": fits.ImageHDU,
}
CARDS = st.dictionaries(
    st.sampled_from(["OBSERVER", "AIRMASS", "FILTER", "DATE", "HIERARCH ESO TEL", "ORIGIN", "ROTANG", "CHECK"]),
    st.one_of(st.integers(-999, 999), st.text("abc -/'+", max_size=20), st.booleans(), st.floats(-1e9, 1e9)),
)


def needless(names):
    """Extensions that nobody needs."""
    for name in names:
        hdu = NEEDLESS[name]()
        if name == "HDRLET":
            hdu.header["XTENSION"] = "HDRLET"
        else:
            hdu.name = name
        yield hdu


LISTS = st.lists(st.sampled_from([name for name in NEEDLESS if name != "HDRLET"]), unique=True, max_size=3)


@seeded
@given(LISTS, LISTS, CARDS)
def test_needless_extensions_and_cards_change_nothing(folder, first, last, cards):
    images = [fits.ImageHDU(image) for image in stamps(N_CUTOUTS, SIDE)]
    write_images(folder / "plain.fits", images, BUNIT="nJy")
    images = [fits.ImageHDU(image) for image in stamps(N_CUTOUTS, SIDE)]
    first, last = list(needless(first)), list(needless(last))
    write_images(folder / "more.fits", images, first=first, last=last, BUNIT="nJy", **cards)
    same_cutouts(cutouts_of(folder / "more.fits", error=1.0)[1], cutouts_of(folder / "plain.fits", error=1.0)[1])


@seeded
@given(st.permutations(["SCI", "ERR", "DQ"]), st.booleans())
def test_order_of_extensions_does_not_matter(folder, order, is_by_kind):
    data = {"SCI": stamps(N_CUTOUTS, SIDE), "ERR": np.full((N_CUTOUTS, SIDE, SIDE), 1.5, "f4")}
    data["DQ"] = (np.random.default_rng(3).random((N_CUTOUTS, SIDE, SIDE)) < 0.05).astype("i2")
    for path, names, by_kind in (("sorted.fits", ["SCI", "ERR", "DQ"], False), ("other.fits", order, is_by_kind)):
        pairs = [(name, k) for name in names for k in range(N_CUTOUTS)]
        if not by_kind:
            pairs = [(name, k) for k in range(N_CUTOUTS) for name in names]
        hdus = [fits.ImageHDU(data[name][k], name=name, ver=k + 1) for name, k in pairs]
        fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(folder / path, overwrite=True)
    same_cutouts(cutouts_of(folder / "other.fits")[1], cutouts_of(folder / "sorted.fits")[1])


# Units and gains

SPELLINGS = {
    "electron / s": ["electron/s", "ELECTRONS/S", "e-/s", "electrons / sec", "electron s-1", "e-/sec"],
    "ct / s": ["counts/s", "COUNTS/S", "ct/s", "cts/s", "cps"],
    "MJy / sr": ["MJy/sr", "MJY/SR", "MJy sr-1"],
    "uJy": ["uJy", "microJy", "UJY", "microjansky"],
    "nJy": ["nJy", "NJY", "nanojansky"],
    "adu": ["adu", "ADU"],
    "electron": ["electron", "ELECTRONS", "e-"],
}


@seeded
@given(st.sampled_from([(unit, text) for unit, texts in SPELLINGS.items() for text in texts]), st.integers(0, 3))
def test_units_are_kept_in_every_spelling(folder, case, spaces):
    unit, text = case
    write_images(folder / "unit.fits", [fits.ImageHDU(stamps(1, SIDE)[0])], BUNIT=f"{text}{' ' * spaces}")
    source, cutouts = cutouts_of(folder / "unit.fits", error=1.0)
    assert source.unit == u.Unit(unit)
    assert cutouts.unit == u.Unit(unit)


GAINS = st.floats(0.01, 1e4).map(lambda value: float(f"{value:.6g}"))


@seeded
@given(GAINS, st.sampled_from(["{}", "{:f}", "{} e-/ADU", " {}", "{} (e-/adu)"]), st.booleans())
def test_gain_is_a_number_in_every_form(folder, gain, form, is_text):
    value = form.format(gain) if is_text else gain
    write_images(folder / "gain.fits", [fits.ImageHDU(stamps(1, SIDE)[0])], BUNIT="adu", GAIN=value)
    source, _ = cutouts_of(folder / "gain.fits", error=1.0)
    assert source.gain == pytest.approx(gain, rel=1e-3 if is_text and form == "{:f}" else 1e-6)


@seeded
@given(st.one_of(st.sampled_from(["HIGH", "", "unknown", "-"]), st.floats(-1e9, -1e-9), st.booleans()))
def test_gain_that_is_none_is_not_used(folder, value):
    write_images(folder / "gain.fits", [fits.ImageHDU(stamps(1, SIDE)[0])], BUNIT="adu", GAIN=value)
    source, _ = cutouts_of(folder / "gain.fits", error=1.0)
    assert source.gain is None


# Tables

FORMATS = {"fits": "fits", "ecsv": "ascii.ecsv", "csv": "ascii.csv", "vot": "votable", "parquet": "parquet"}
NUMBERS = st.floats(-1e6, 1e6, allow_subnormal=False)
ROWS = st.lists(
    st.tuples(st.integers(1, 2**62), NUMBERS, NUMBERS, st.text("abcXYZ", min_size=1, max_size=5), st.booleans()),
    min_size=2,
    max_size=5,
)


def source_list(rows):
    """Table with identifiers, positions, text and a masked column."""
    ids, x, y, names, masked = map(list, zip(*rows, strict=True))
    table = Table({"id": np.array(ids, dtype=np.int64), "x": x, "y": y, "name": names})
    masked[0] = False  # a column without a number has no type in CSV
    table["mag"] = MaskedColumn(np.arange(len(rows)) + 0.5, mask=masked)
    table["mag"].unit = "mag"
    return table


@seeded
@given(st.sampled_from(sorted(FORMATS)), ROWS)
def test_lists_are_equal_in_every_format(folder, suffix, rows):
    table = source_list(rows)
    table.write(folder / f"list.{suffix}", format=FORMATS[suffix], overwrite=True)
    found = read_list(folder / f"list.{suffix}")
    assert found["id"].tolist() == table["id"].tolist()
    assert [str(name) for name in found["name"]] == table["name"].tolist()
    for name in ("x", "y"):
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(table[name]))
    mask = np.ma.getmaskarray(np.ma.asarray(found["mag"])) | ~np.isfinite(np.ma.filled(found["mag"], np.nan))
    np.testing.assert_array_equal(mask, table["mag"].mask)
    np.testing.assert_array_equal(np.asarray(found["mag"])[~mask], table["mag"].data.data[~mask])
    if suffix != "csv":
        assert u.Unit(found["mag"].unit) == u.mag


@seeded
@given(st.sampled_from(["fits", "ecsv", "csv", "votable", "parquet"]), ROWS, st.integers(1, 4))
def test_results_are_equal_in_every_format(folder, suffix, rows, size):
    table = QTable(source_list(rows))
    table["flux_fit"] = np.array([row[1] for row in rows]) * u.nJy
    path = folder / f"results.{suffix}"
    with ChunkedWriter(path, overwrite=True) as writer:
        for start in range(0, len(table), size):
            writer.write(table[start : start + size])
        writer.finish()
    found = Table.read(path, format={"votable": "votable", "csv": "ascii.csv"}.get(suffix))
    assert found.colnames == table.colnames
    assert found["id"].tolist() == table["id"].tolist()
    assert [str(name) for name in found["name"]] == [str(name) for name in table["name"]]
    np.testing.assert_array_equal(np.asarray(found["flux_fit"]), table["flux_fit"].value)
    if suffix != "csv":
        assert u.Unit(found["flux_fit"].unit) == u.nJy
    lost = ~np.isfinite(np.ma.filled(np.ma.asarray(found["mag"]).astype(float), np.nan))
    np.testing.assert_array_equal(lost, [row[4] and k > 0 for k, row in enumerate(rows)])


# Masked rows

MASKED_ROWS = st.sets(st.integers(0, len(POSITIONS) - 1), min_size=1, max_size=3)


@few
@given(st.sampled_from(sorted(FORMATS)), MASKED_ROWS, st.sampled_from(["x", "y", "id"]))
def test_a_masked_row_stays_one_flagged_row(folder, suffix, rows, column):
    rng = np.random.default_rng(2)
    image = rng.normal(0, 1, (150, 180))
    fits.writeto(folder / "field.fits", image.astype("f4"), overwrite=True)
    table = Table({"id": np.arange(10, 15), "x": POSITIONS[:, 0], "y": POSITIONS[:, 1]}, masked=True)
    table[column].mask[list(rows)] = True
    table.write(folder / f"masked.{suffix}", format=FORMATS[suffix], overwrite=True)
    source, cutouts = cutouts_of(folder / f"masked.{suffix}", image=folder / "field.fits", error=1.0, size=SIDE)
    assert len(source) == len(table)
    result = LSQSersicFitter(max_iter=2).fit(cutouts)
    is_failed = (np.asarray(result["flags"]) & Flag.FAILED) != 0
    is_masked = np.ma.getmaskarray(np.ma.asarray(result["id"]))
    if column == "id":
        np.testing.assert_array_equal(is_masked, [k in rows for k in range(5)])
    else:
        np.testing.assert_array_equal(is_failed, [k in rows for k in range(5)])
        assert [int(value) for value in result["id"]] == list(range(10, 15))
        assert np.isnan(np.asarray(result["flux_fit"][list(rows)], dtype=float)).all()
