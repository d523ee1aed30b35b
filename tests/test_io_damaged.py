"""Files that end early, whose headers say what cannot be, or that are no plain files: one clear line, at no cost."""

import gzip
import os
import resource
import tracemalloc

import numpy as np
import pytest
from _catalogs import POSITIONS, cutout_table, field, positions_list, psf_image, stamps
from astropy.io import fits
from astropy.table import Table

from galmeasure.cli import main
from galmeasure.exceptions import CatalogError
from galmeasure.io import open_catalog, read_cutouts


def damaged(path, keyword, value):
    """Replace the number of a card of the last header that has it."""
    raw = bytearray(path.read_bytes())
    place = raw.rindex(f"{keyword:8}= ".encode())
    raw[place : place + 80] = f"{keyword:8}= {value:>20}".ljust(80).encode()
    path.write_bytes(bytes(raw))


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("NAXIS", 100_000_000),
        ("TFIELDS", 100_000_000),
        ("NAXIS1", 10**15),
        ("NAXIS2", 10**17),
        ("NAXIS2", 10**12),
        ("NAXIS2", 10**9),
        ("PCOUNT", 10**15),
    ],
)
@pytest.mark.parametrize("suffix", [".fits", ".fits.gz"])
def test_absurd_counts_cost_nothing(tmp_path, keyword, value, suffix):
    path = tmp_path / "c.fits"
    cutout_table(path, psf=False)
    damaged(path, keyword, value)
    if suffix == ".fits.gz":
        path = tmp_path / "c.fits.gz"
        path.write_bytes(gzip.compress((tmp_path / "c.fits").read_bytes()))
    tracemalloc.start()
    try:
        with pytest.raises(CatalogError, match=rf"c{suffix}: (damaged|truncated)"):
            read_cutouts(path, psf=psf_image())
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("place", [0, 4])
def test_absurd_arrays_cost_nothing(tmp_path, place):
    """The length or the offset of an array of varying length is beyond the file."""
    column = fits.Column("cutout", "PE()", array=np.array([np.ones(100, "f4"), np.ones(121, "f4")], dtype=object))
    fits.BinTableHDU.from_columns([column]).writeto(tmp_path / "c.fits")
    with fits.open(tmp_path / "c.fits") as hdus:
        start = hdus[1].fileinfo()["datLoc"]
    raw = bytearray((tmp_path / "c.fits").read_bytes())
    raw[start + place : start + place + 4] = (2**31 - 1).to_bytes(4, "big")
    (tmp_path / "c.fits").write_bytes(bytes(raw))
    tracemalloc.start()
    try:
        with pytest.raises(CatalogError, match=r"c\.fits: damaged table, an array of \d+ elements is not in the file"):
            read_cutouts(tmp_path / "c.fits", psf=psf_image())
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("value", [10**9, 10**12])
def test_absurd_lists_cost_nothing(tmp_path, value):
    Table({"x": [1.0], "y": [1.0]}).write(tmp_path / "l.fits")
    damaged(tmp_path / "l.fits", "NAXIS2", value)
    fits.BinTableHDU.from_columns([]).writeto(tmp_path / "m.fits")
    damaged(tmp_path / "m.fits", "NAXIS2", value)
    field(tmp_path / "i.fits", PSF=psf_image())
    for name in ("l.fits", "m.fits"):
        with pytest.raises(CatalogError, match=rf"{name}: (damaged|truncated)"):
            open_catalog(tmp_path / name, image=tmp_path / "i.fits", error=1.0)


@pytest.mark.parametrize(("keyword", "value"), [("ZNAXIS1", 10**6), ("ZNAXIS", 10**8), ("ZTILE1", 10**9)])
def test_absurd_compressed_images_cost_nothing(tmp_path, keyword, value):
    path = tmp_path / "i.fits"
    hdu = fits.CompImageHDU(np.zeros((1000, 100), "i2"), tile_shape=(1000, 100))
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    damaged(path, keyword, value)
    if keyword == "ZTILE1":
        damaged(path, "ZNAXIS1", value)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CatalogError, match=r"i\.fits: damaged"):
        open_catalog(path, detect=True, psf=psf_image())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


class TestCutTable:
    """A table that ends early: its rows are measured where they are asked for, and only then."""

    @pytest.fixture
    def path(self, tmp_path):
        table = Table({"id": np.arange(10, 17), "cutout": stamps()})
        fits.HDUList([fits.PrimaryHDU(), fits.table_to_hdu(table)]).writeto(tmp_path / "c.fits")
        raw = (tmp_path / "c.fits").read_bytes()
        with fits.open(tmp_path / "c.fits") as hdus:
            start, width = hdus[1].fileinfo()["datLoc"], hdus[1].header["NAXIS1"]
        (tmp_path / "c.fits").write_bytes(raw[: start + 4 * width + width // 2])
        fits.writeto(tmp_path / "p.fits", psf_image())
        return tmp_path / "c.fits"

    @pytest.mark.parametrize("is_packed", [False, True])
    def test_whole_rows(self, path, is_packed):
        if is_packed:
            packed = path.with_name("c.fits.gz")
            packed.write_bytes(gzip.compress(path.read_bytes()))
            path = packed
        source = open_catalog(path, psf=psf_image())
        assert len(source) == 7
        cutouts = source.read(np.arange(4))
        np.testing.assert_array_equal([cutouts.image(i) for i in range(4)], stamps()[:4])
        assert cutouts.ids.tolist() == [10, 11, 12, 13]
        for rows in (None, [4], [0, 6]):
            with pytest.raises(CatalogError, match="4 of the 7 rows are whole: choose these with --rows 0:4"):
                list(source.chunks(rows))

    def test_command(self, path, capsys):
        options = ["--psf", str(path.with_name("p.fits")), "--method", "lsq", "--no-progress"]
        with pytest.raises(SystemExit) as done:
            main([str(path), *options])
        assert done.value.code == 2
        assert "truncated FITS file, 4 of the 7 rows are whole: choose these with --rows 0:4" in capsys.readouterr().err
        assert not path.with_name("c_galmeasure.fits").exists()
        with pytest.raises(SystemExit) as done:
            main([str(path), *options, "--rows", "0:4"])
        assert done.value.code == 0
        assert len(Table.read(path.with_name("c_galmeasure.fits"))) == 4

    def test_arrays_of_varying_length(self, path):
        data = [stamp[: 10 + i, : 10 + i] for i, stamp in enumerate(stamps())]
        column = fits.Column("cutout", "PE()", array=np.array([d.ravel() for d in data], dtype=object))
        fits.BinTableHDU.from_columns([column]).writeto(path, overwrite=True)
        with fits.open(path) as hdus:
            info, header = hdus[1].fileinfo(), hdus[1].header
            start = info["datLoc"] + header["NAXIS1"] * header["NAXIS2"]
        raw = path.read_bytes()
        path.write_bytes(raw[: start + 4 * (100 + 121 + 144) + 10])
        source = open_catalog(path, psf=psf_image())
        np.testing.assert_array_equal(source.read([2]).image(0), data[2])
        with pytest.raises(CatalogError, match="3 of the 7 rows are whole"):
            source.read([3])


def test_list_that_ends_early(tmp_path, capsys):
    names = np.array(["a", "b", "c", "d", "e"])
    x, y = np.repeat(POSITIONS[:, 0], 200), np.repeat(POSITIONS[:, 1], 200)
    table = Table({"id": np.arange(1000), "name": np.repeat(names, 200), "x": x, "y": y})
    table.write(tmp_path / "l.fits")
    with fits.open(tmp_path / "l.fits") as hdus:
        end = hdus[1].fileinfo()["datLoc"] + 700 * hdus[1].header["NAXIS1"] + 3
    (tmp_path / "l.fits").write_bytes((tmp_path / "l.fits").read_bytes()[:end])
    field(tmp_path / "i.fits", noise=2.0, PSF=psf_image())
    source = open_catalog(tmp_path / "l.fits", image=tmp_path / "i.fits", error=2.0)
    assert (len(source), source.n_whole) == (1000, 700)
    assert source.read([699]).ids.tolist() == [699]
    options = ["--image", str(tmp_path / "i.fits"), "--error", "2", "--method", "lsq", "--no-progress"]
    with pytest.raises(SystemExit) as done:
        main([str(tmp_path / "l.fits"), *options])
    assert done.value.code == 2
    assert "700 of the 1000 rows are whole: choose these with --rows 0:700" in capsys.readouterr().err
    with pytest.raises(SystemExit) as done:
        main([str(tmp_path / "l.fits"), *options, "--rows", "690:700", "--columns", "id,name,flux_fit"])
    assert done.value.code == 0
    assert Table.read(tmp_path / "l_galmeasure.fits")["id"].tolist() == list(range(690, 700))


def test_pipe_is_one_clear_line(tmp_path):
    os.mkfifo(tmp_path / "c.fits")
    field(tmp_path / "i.fits", PSF=psf_image())
    positions_list(tmp_path / "l.csv")
    message = r"c\.fits: is a pipe or a device, and files are read more than once: save it to a file first"
    with pytest.raises(CatalogError, match=message):
        open_catalog(tmp_path / "c.fits", psf=psf_image())
    for name in ("image", "psf", "mask"):
        options = {"image": tmp_path / "i.fits"} | {name: tmp_path / "c.fits"}
        with pytest.raises(CatalogError, match=message):
            open_catalog(tmp_path / "l.csv", error=1.0, **options)
    with pytest.raises(CatalogError, match="is a pipe or a device"):
        open_catalog("/dev/null", psf=psf_image())


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_file_that_may_not_be_read(tmp_path):
    cutout_table(tmp_path / "c.fits")
    (tmp_path / "c.fits").chmod(0)
    with pytest.raises(CatalogError, match=r"c\.fits: cannot be read \(Permission denied\)"):
        open_catalog(tmp_path / "c.fits")


def test_name_that_is_too_long(tmp_path):
    with pytest.raises(CatalogError, match="cannot be read|no such file"):
        open_catalog(tmp_path / ("x" * 400 + ".fits"), psf=psf_image())


def test_name_that_is_not_text(tmp_path, capsys):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.fits")
    cutout_table(path)
    assert len(open_catalog(path)) == 7
    with pytest.raises(SystemExit) as done:
        main([path, "--method", "lsq", "--rows", "0"])
    assert done.value.code == 0
    with pytest.raises(SystemExit) as done:
        main([path + "x", "--method", "lsq", "--rows", "0"])
    assert done.value.code == 2
    assert "no such file" in capsys.readouterr().err
