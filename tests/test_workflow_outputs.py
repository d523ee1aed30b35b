"""What the commands write: never an input, nothing that fails after the measurements, and a line on the whole."""

import os
from dataclasses import replace

import numpy as np
import pytest
from _catalogs import POSITIONS, cutout_table, field, psf_image
from astropy.io import fits
from astropy.table import QTable, Table

from galmeasure.cli import main
from galmeasure.fitters.registry import FITTERS
from galmeasure.flags import Flag
from galmeasure.io import ChunkedWriter
from galmeasure.workflows.measure import Summary

PLANES = ("image", "psf", "error", "weight", "mask", "segmentation")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Files of every kind in the current folder, measured by a quick fitter."""
    monkeypatch.chdir(tmp_path)
    for method in ("neural", "lsq"):
        monkeypatch.setitem(FITTERS, method, replace(FITTERS[method], module="_fake_fitter", class_name="SumFitter"))
    monkeypatch.setattr("galmeasure.workflows.executors.n_cores", lambda: 1)
    field("image.fits")
    fits.writeto("psf.fits", psf_image())
    for name in ("error", "weight"):
        fits.writeto(f"{name}.fits", np.ones((150, 180), "f4"))
    for name in ("mask", "segmentation"):
        fits.writeto(f"{name}.fits", np.zeros((150, 180), "u1"))
    Table({"x": POSITIONS[:, 0], "y": POSITIONS[:, 1]}).write("list.fits")
    return tmp_path


def failure(capsys, *args):
    """The one line of an error."""
    with pytest.raises(SystemExit) as stop:
        main(list(args))
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1)
    return err


def files(folder):
    """Names and contents of the files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("kind", ["same", "path", "symlink", "hard link"])
@pytest.mark.parametrize("name", PLANES)
def test_output_is_no_input(folder, capsys, name, kind):
    output = f"{name}.fits"
    if kind == "path":
        output = f"{folder}/../{folder.name}/{name}.fits"
    elif kind != "same":
        (os.symlink if kind == "symlink" else os.link)(output, "other.fits")
        output = "other.fits"
    noise = "weight" if name == "weight" else "error"
    options = [f"--{o}={o}.fits" for o in ("image", "psf", noise, "mask", "segmentation")]
    before = files(folder)
    assert f"output must not be the file of --{name}" in failure(
        capsys, "list.fits", *options, "-o", output, "--overwrite"
    )
    options.remove("--image=image.fits")
    message = failure(capsys, "calibrate", "image.fits", *options, "-o", output, "--overwrite", "--method", "lsq")
    what = "the catalogue itself" if name == "image" else f"the file of --{name}"
    assert f"output must not be {what}" in message
    assert files(folder) == before


def test_output_is_no_extension_nor_calibration(folder, capsys):
    args = ["list.fits", "--image", "image.fits[0]", "--psf", "psf.fits", "--error", "1", "--overwrite"]
    assert "the file of --image" in failure(capsys, *args, "-o", "image.fits")
    (folder / "c.csv").write_text("{}")
    assert "the file of --calibration" in failure(capsys, *args, "--calibration", "c.csv", "-o", "c.csv")


def test_output_is_not_in_a_folder_that_is_read(folder, capsys):
    pytest.importorskip("pyarrow")
    (folder / "list").mkdir()
    Table.read("list.fits").write("list/a.parquet")
    args = ["list", "--image", "image.fits", "--psf", "psf.fits", "--error", "1", "--overwrite"]
    assert "the catalogue itself" in failure(capsys, *args, "-o", "list/a.parquet")
    assert "the catalogue itself" in failure(capsys, *args, "-o", "list/b.parquet")


@pytest.mark.parametrize("length", [240, 300])
def test_long_names(folder, capsys, length):
    cutout_table("cat.fits", {"error": np.ones(7)})
    name = "o" * (length - 5) + ".fits"
    if length > 255:
        assert "File name too long" in failure(capsys, "cat.fits", "-o", name)
        name = name.replace(".fits", ".json")
        options = ["--psf", "psf.fits", "--error", "1", "--method", "lsq"]
        assert "File name too long" in failure(capsys, "calibrate", "image.fits", "-o", name, *options)
        return
    with pytest.raises(SystemExit):
        main(["cat.fits", "-o", name])
    assert len(Table.read(name)) == 7


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="nothing is forbidden")
def test_folder_that_cannot_be_written(folder, capsys):
    cutout_table("cat.fits", {"error": np.ones(7)})
    (folder / "closed").mkdir(mode=0o500)
    assert "cannot be written to" in failure(capsys, "cat.fits", "-o", "closed/o.fits")


def test_link_without_a_file(folder, capsys):
    cutout_table("cat.fits", {"error": np.ones(7)})
    (folder / "o.fits").symlink_to("nowhere.fits")
    assert "exists already" in failure(capsys, "cat.fits", "-o", "o.fits")


@pytest.mark.filterwarnings("ignore:OverflowError")  # astropy reads large integers of CSV as text
@pytest.mark.parametrize("suffix", ["fits", "ecsv", "csv", "parquet", "votable"])
def test_columns_of_parquet_are_copied(folder, suffix):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {
        "id": pa.array([2**63 + 1, None, 3, 4, 5], pa.uint64()),
        "x": POSITIONS[:, 0],
        "y": POSITIONS[:, 1],
        "band": pa.array(["g", "r", None, "gri", "i"]).dictionary_encode(),
        "name": pa.array(list("abcde"), pa.large_string()),
        "when": pa.array([0, 10**9, 2, 3, 4], pa.timestamp("us")),
        "tile": pa.array([1, None, 3, 4, 5], pa.int32()),
    }
    pq.write_table(pa.table(columns), "list.parquet")
    args = ["--image", "image.fits", "--psf", "psf.fits", "--error", "1", "--batch-size", "2"]
    with pytest.raises(SystemExit) as stop:
        main(["list.parquet", *args, "-o", f"o.{suffix}", "--columns", "id,flux_fit,band,name,when,tile"])
    assert stop.value.code == 0
    kind = {"csv": "ascii.csv", "votable": "votable"}.get(suffix)
    table = Table.read(f"o.{suffix}", format=kind)
    assert str(table["id"][0]) == str(2**63 + 1)
    assert np.ma.getmaskarray(np.ma.asarray(table["tile"])).tolist() == [False, True, False, False, False]
    assert table["tile"][4] == 5
    assert [str(name) for name in table["name"]] == list("abcde")
    assert table["band"][3] == "gri"


def test_columns_that_the_format_does_not_have(tmp_path):
    with ChunkedWriter(tmp_path / "o.fits") as writer:
        with pytest.raises(ValueError, match=r"columns: when cannot be written to \.fits .*dates and times"):
            writer.try_columns(QTable({"when": np.zeros(1, "datetime64[s]")}))
        writer.write(QTable({"a": [1]}))
        writer.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["o.fits"]


def summary(chi2, bounds=1):
    """Summary of ten rows, one of which could not be measured, in two chunks."""
    total = Summary("o.fits", [])
    flags = np.zeros(5, dtype=int)
    flags[:bounds] = Flag.AT_BOUND
    for value, last in ((chi2, Flag.FAILED), (chi2, 0)):
        flags[4] = last
        values = np.where(flags & Flag.FAILED, np.nan, value + np.linspace(-0.01, 0.01, 5))
        total.add(Table({"flags": flags, "chi2_reduced": values}))
    return total


@pytest.mark.parametrize(("chi2", "word"), [(0.31, "large"), (2.3, "small"), (1.0, None), (0.72, None), (1.45, None)])
def test_warning_about_the_whole(chi2, word):
    total = summary(chi2)
    if word is None:
        assert total.warning() is None
    else:
        assert f"median reduced chi2 is {chi2:.2f} and 20 % of the rows are at bounds" in total.warning()
        assert f"too {word}; usual causes are the gain" in total.warning()
    assert f"median reduced chi2 {chi2:.2f}" in str(total)


def test_warning_is_one_line_of_the_command(folder, capsys):
    data = np.random.default_rng(0).normal(size=(4, 24, 24)) + 20 * psf_image(24)
    table = Table({"cutout": data, "error": np.full(4, 5.0)})
    hdus = [fits.PrimaryHDU(), fits.table_to_hdu(table), fits.ImageHDU(psf_image(), name="PSF")]
    fits.HDUList(hdus).writeto("cat.fits")
    FITTERS["lsq"] = replace(FITTERS["lsq"], module="galmeasure.fitters", class_name="LSQSersicFitter")
    with pytest.raises(SystemExit) as stop:
        main(["cat.fits", "--method", "lsq"])
    err = capsys.readouterr().err
    assert stop.value.code == 0
    assert err.startswith("galmeasure: warning: the median reduced chi2 is 0.0")
    assert err.count("\n") == 1
