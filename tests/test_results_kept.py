"""Results are kept where the disk is full at the end, and a file that changes while it is measured ends in one line."""

import errno
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from _catalogs import POSITIONS, cutout_table, field, psf_image
from astropy.io import fits
from astropy.table import QTable, Table

from galmeasure import LSQSersicFitter
from galmeasure.cli import main
from galmeasure.exceptions import CatalogError
from galmeasure.fitters.registry import FITTERS
from galmeasure.io import ChunkedWriter, open_catalog, spool, writers

SUFFIXES = ("fits", "ecsv", "csv", "parquet", "votable")


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """A folder on a disk that can be full, and one for temporary files that has space."""
    full, spare = tmp_path / "full", tmp_path / "spare"
    full.mkdir()
    spare.mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(spare))
    monkeypatch.chdir(full)
    return full, spare


def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_maker(monkeypatch, full, suffix):
    """Let tables be written anywhere but in a folder."""
    kind = writers.FORMATS[f".{suffix}"]
    make = writers._MAKERS[kind]

    def maker(writer, path):
        if path.parent.resolve() == full.resolve():
            path.write_bytes(b"half a table")
            no_space()
        make(writer, path)

    monkeypatch.setitem(writers._MAKERS, kind, maker)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_disk_is_full_at_the_end(disk, monkeypatch, suffix):
    full, spare = disk
    full_maker(monkeypatch, full, suffix)
    table = QTable({"id": [1, 2, 3], "flux_fit": [1.0, 2.0, 3.0]})
    with ChunkedWriter(full / f"o.{suffix}") as writer:
        writer.write(table[:2])
        writer.write(table[2:])
        with pytest.raises(OSError, match="No space left on device.*the 3 rows that were measured are in") as caught:
            writer.finish()
    saved = Path(re.search(r"are in (\S+)", str(caught.value))[1])
    assert saved.parent == spare
    kind = {"csv": "ascii.csv", "votable": "votable"}.get(suffix)
    assert Table.read(saved, format=kind)["flux_fit"].tolist() == [1.0, 2.0, 3.0]
    assert not list(full.iterdir())


def test_disk_is_full_in_the_middle(disk, monkeypatch):
    """The chunks go on to another folder, and the table to its own where there is space in the end."""
    full, _ = disk
    append, spools = spool.append, []

    def limited(file, offset, content):
        spools.append(file) if file not in spools else None
        if file is spools[0] and offset > 0:
            append(file, offset, content[:7])
            no_space()
        append(file, offset, content)

    monkeypatch.setattr(spool, "append", limited)
    table = QTable({"id": np.arange(9), "x": np.arange(9.0)})
    with ChunkedWriter(full / "o.fits") as writer:
        for start in range(0, 9, 3):
            writer.write(table[start : start + 3])
        writer.finish()
    assert len(spools) == 2
    assert Table.read(full / "o.fits")["x"].tolist() == list(range(9))


def test_name_is_taken_in_the_meantime(disk):
    full, spare = disk
    with ChunkedWriter(full / "o.fits") as writer:
        writer.write(QTable({"id": [1]}))
        (full / "o.fits").write_text("somebody else's")
        with pytest.raises(FileExistsError, match="exists already.*the 1 rows that were measured are in"):
            writer.finish()
    assert (full / "o.fits").read_text() == "somebody else's"
    assert len(list(spare.iterdir())) == 1


def test_command_says_where_the_rows_are(disk, monkeypatch, capsys):
    full, spare = disk
    fake = replace(FITTERS["lsq"], module="_fake_fitter", class_name="SumFitter")
    monkeypatch.setitem(FITTERS, "lsq", fake)
    full_maker(monkeypatch, full, "fits")
    cutout_table("cat.fits", {"error": np.ones(7)})
    with pytest.raises(SystemExit) as stop:
        main(["cat.fits", "--method", "lsq", "-o", "o.fits", "--no-progress"])
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1)
    saved = re.search(r"the 7 rows that were measured are in ([^\s;]+)", err)[1]
    assert Path(saved).parent == spare
    assert len(Table.read(saved)) == 7


def test_nowhere_is_space(disk, monkeypatch):
    full, _ = disk
    monkeypatch.setitem(writers._MAKERS, "fits", no_space)
    with ChunkedWriter(full / "o.fits") as writer:
        writer.write(QTable({"id": [1]}))
        with pytest.raises(OSError, match="could not be written anywhere else either"):
            writer.finish()


def changed(path, how):
    """Change a file that is open for measuring."""
    if how == "cut":
        with path.open("r+b") as file:
            file.truncate(2880)
    elif how == "rewritten":
        path.write_bytes(path.read_bytes()[:-2880] + bytes(2880))
        os.utime(path, ns=(1, 1))
    else:
        path.unlink()


CHANGES = ("cut", "rewritten", "removed")


@pytest.mark.parametrize("how", CHANGES[:2])
def test_image_changes_while_it_is_measured(tmp_path, how):
    path = tmp_path / "image.fits"
    field(path, error=np.ones((150, 180), "f4"))
    Table({"x": POSITIONS[:, 0], "y": POSITIONS[:, 1]}).write(tmp_path / "list.fits")
    source = open_catalog(tmp_path / "list.fits", image=path, psf=psf_image(), size=16)
    first = source.read([0])
    changed(path, how)
    with pytest.raises(CatalogError, match="image.fits: has changed since it was opened") as caught:
        source.read([1])
    assert "\n" not in str(caught.value)
    assert len(LSQSersicFitter(max_iter=2).fit(first)) == 1  # what was read is not part of the file any more


def test_image_is_replaced_while_it_is_measured(tmp_path):
    """The image that was opened is measured to its end."""
    path = tmp_path / "image.fits"
    field(path)
    Table({"x": POSITIONS[:, 0], "y": POSITIONS[:, 1]}).write(tmp_path / "list.fits")
    options = {"image": path, "psf": psf_image(), "size": 16, "error": 1.0}
    expected = open_catalog(tmp_path / "list.fits", **options).read([1]).image(0)
    source = open_catalog(tmp_path / "list.fits", **options)
    path.unlink()
    fits.writeto(path, np.zeros((150, 180)))
    assert np.array_equal(source.read([1]).image(0), expected)


@pytest.mark.parametrize("how", CHANGES)
def test_extensions_change_while_they_are_measured(tmp_path, how):
    path = tmp_path / "extensions.fits"
    images = np.random.default_rng(0).normal(size=(3, 24, 24)).astype("f4")
    hdus = [fits.ImageHDU(image, name="SCI", ver=k + 1) for k, image in enumerate(images)]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    source = open_catalog(path, psf=psf_image())
    first = source.read([0, 1])
    changed(path, how)
    with pytest.raises(CatalogError, match="extensions.fits: has changed since it was opened"):
        source.read([2])
    assert len(LSQSersicFitter(max_iter=2).fit(first)) == 2


@pytest.mark.parametrize("how", CHANGES)
def test_table_changes_while_it_is_measured(tmp_path, how):
    path = tmp_path / "cat.fits"
    cutout_table(path, {"error": np.ones(7)})
    source = open_catalog(path)
    source.read([0])
    changed(path, how)
    with pytest.raises(CatalogError, match="cat.fits: has changed since it was opened"):
        source.read([1])
