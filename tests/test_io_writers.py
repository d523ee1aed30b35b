"""Result tables to files: formats, chunks, and no half files."""

import warnings

import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable, Table

from galmeasure.io import ChunkedWriter, write_table

SUFFIXES = ["fits", "ecsv", "csv", "parquet", "votable"]


def chunk(first, count):
    rows = np.arange(first, first + count)
    table = QTable({"id": [f"g{row}" for row in rows], "flux_fit": rows * 1.5 * u.nJy, "flags": rows.astype(np.int64)})
    table["covariance"] = rows[:, None, None] * np.ones((2, 2))
    table["bound"] = rows % 2 == 0
    table["flux_fit"].info.description = "total flux"
    table["flux_fit"][0] = np.nan
    table.meta["FITTER"] = "Test()"
    return table


def read(path):
    kind = {"csv": "ascii.csv", "votable": "votable"}.get(path.suffix[1:])
    return QTable.read(path, format=kind) if path.suffix != ".csv" else Table.read(path, format=kind)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_chunks_make_one_table(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr("galmeasure.io.writers.chunk_size", {"table bytes": 400, "text bytes": 50}.get)
    path = tmp_path / f"t.{suffix}"
    with ChunkedWriter(path) as writer:
        for first, count in ((0, 9), (9, 3), (12, 995)):
            writer.write(chunk(first, count))
        assert len(writer) == 1007
        assert list(tmp_path.iterdir()) == []
        writer.finish()
    assert list(tmp_path.iterdir()) == [path]
    table = read(path)
    assert len(table) == 1007
    assert table["id"][1006] == "g1006"
    assert table["id"][3] == "g3"
    first = table["flux_fit"][[0, 9, 12]]
    assert getattr(first, "mask", np.isnan(first)).all()
    assert table["flags"].dtype.kind == "i"
    np.testing.assert_array_equal(table["flags"], np.arange(1007))
    if suffix == "csv":
        assert table["flux_fit"][1006] == 1509.0
        assert table["covariance_1_0"][5] == 5.0
        assert table["bound"][4] == "True"
        return
    assert table["flux_fit"][1006] == 1509.0 * u.nJy
    assert table["bound"][4]
    assert not table["bound"][5]
    assert table["covariance"].shape == ((1007, 4) if suffix == "parquet" else (1007, 2, 2))
    assert (table["covariance"][5] == 5.0).all()
    if suffix != "votable":
        assert table["flux_fit"].info.description == "total flux"
        assert table.meta["FITTER"] == "Test()"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_same_as_astropy_for_one_chunk(tmp_path, suffix):
    table = chunk(1, 5)
    write_table(table, tmp_path / f"t.{suffix}")
    back = read(tmp_path / f"t.{suffix}")
    names = table.colnames if suffix != "csv" else [n for n in table.colnames if n != "covariance"]
    assert [n for n in back.colnames if not n.startswith("covariance_")] == names


def test_existing_file_is_kept(tmp_path):
    path = tmp_path / "t.fits"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match=r"t\.fits: exists already; --overwrite"):
        ChunkedWriter(path)
    assert path.read_text() == "precious"
    write_table(chunk(0, 3), path, overwrite=True)
    assert len(Table.read(path)) == 3


def test_file_that_appears_meanwhile_is_kept(tmp_path):
    path = tmp_path / "t.fits"
    with ChunkedWriter(path) as writer:
        writer.write(chunk(0, 3))
        path.write_text("precious")
        with pytest.raises(FileExistsError):
            writer.finish()
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


def test_abort_leaves_nothing(tmp_path):
    with ChunkedWriter(tmp_path / "t.fits") as writer:
        writer.write(chunk(0, 3))
    assert list(tmp_path.iterdir()) == []


def test_failure_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        msg = "disk full"
        raise OSError(msg)

    monkeypatch.setattr("galmeasure.io.table_rows.RowWriter.finish", fail)
    with ChunkedWriter(tmp_path / "t.fits") as writer:
        writer.write(chunk(0, 3))
        with pytest.raises(OSError, match="disk full"):
            writer.finish()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["t.txt", "t", "t.hdf5"])
def test_unknown_format(tmp_path, name):
    with pytest.raises(ValueError, match="output must end in one of .fits, .ecsv, .csv, .parquet, .votable"):
        ChunkedWriter(tmp_path / name)


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="the folder does not exist"):
        ChunkedWriter(tmp_path / "no" / "t.fits")


def test_columns_must_stay(tmp_path):
    with ChunkedWriter(tmp_path / "t.fits") as writer:
        writer.write(chunk(0, 3))
        with pytest.raises(ValueError, match="table must have the columns of the first chunk"):
            writer.write(chunk(3, 3)["id", "flags"])


def test_nothing_written(tmp_path):
    with ChunkedWriter(tmp_path / "t.fits") as writer, pytest.raises(ValueError, match="nothing was written"):
        writer.finish()


def test_objects_are_refused(tmp_path):
    with ChunkedWriter(tmp_path / "t.fits") as writer, pytest.raises(ValueError, match="column a must hold numbers"):
        writer.write(QTable({"a": np.array([{}], dtype=object)}))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", ["nmgy", "DN", "electron / s", "AB", "3.631 uJy", "0.37 nmgy", "%"])
def test_units_that_fits_does_not_have(tmp_path, suffix, name):
    """Neither writing nor reading warns: warnings are errors here."""
    unit, path = u.Unit(name), tmp_path / f"t.{suffix}"
    write_table(QTable({"flux_fit": [1.5, 2.0] * unit, "x_fit": [1.0, 2.0] * u.pix}), path)
    table = read(path)
    np.testing.assert_array_equal(u.Quantity(table["flux_fit"]).value, [1.5, 2.0])
    if suffix not in ("csv", "votable"):
        assert table["flux_fit"].unit == unit
        assert table["x_fit"].unit == u.pix


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_units_that_astropy_does_not_know(tmp_path, suffix):
    path = tmp_path / f"t.{suffix}"
    write_table(QTable({"flux_fit": u.Quantity([1.5, 2.0], u.Unit("e-/s", parse_strict="silent"))}), path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", u.UnitsWarning)
        table = read(path)
    np.testing.assert_array_equal(getattr(table["flux_fit"], "value", table["flux_fit"]), [1.5, 2.0])
    if suffix != "csv":
        assert table["flux_fit"].unit.to_string() == "e-/s"
