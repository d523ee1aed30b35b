"""The command: help in groups, completion, hints, several catalogues, standard input and output."""

import io
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from _catalogs import POSITIONS, cutout_table, field, psf_image
from astropy.io import fits
from astropy.table import Table
from click.shell_completion import ShellComplete

from galmeasure.cli import commands, main
from galmeasure.fitters.registry import FITTERS


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A catalogue of seven rows in the current folder, measured by a quick fitter."""
    monkeypatch.chdir(tmp_path)
    for method in ("neural", "lsq"):
        monkeypatch.setitem(FITTERS, method, replace(FITTERS[method], module="_fake_fitter", class_name="SumFitter"))
    monkeypatch.setattr("galmeasure.workflows.executors.n_cores", lambda: 1)
    cutout_table("cat.fits", {"error": np.ones(7)})
    return tmp_path


def call(*args):
    """Exit code of the command."""
    with pytest.raises(SystemExit) as stop:
        main(list(args))
    return stop.value.code


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version(capsys, option):
    assert call(option) == 0
    assert capsys.readouterr().out.startswith("galmeasure ")


def test_module():
    run = subprocess.run([sys.executable, "-m", "galmeasure", "-V"], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("galmeasure ")


@pytest.mark.parametrize("command", ["measure", "calibrate", "evaluate"])
def test_options_are_in_titled_groups(capsys, command):
    assert call(command, "--help") == 0
    out = capsys.readouterr().out
    titles = [line for line in out.splitlines() if line.endswith(":") and not line.startswith((" ", "Usage"))]
    assert len(titles) >= 5
    assert "Options:" not in titles
    assert titles[-1] == "Running:"
    assert "-h, --help" in out
    assert "\n  [CATALOG]" not in out  # arguments stand in the usage, not among the options
    for param in commands.cli.commands[command].params:
        assert all(name in out for name in param.opts if name.startswith("--"))


def completed(*args, incomplete=""):
    """Values and kinds that the shell is given."""
    found = ShellComplete(commands.cli, {}, "galmeasure", "_GALMEASURE_COMPLETE").get_completions(
        list(args), incomplete
    )
    return {(item.type, item.value) for item in found}


@pytest.mark.parametrize("option", ["--psf", "--image", "--mask", "-o", "--calibration", "--weights"])
def test_paths_are_completed(option):
    assert ("file", "fi") in completed("cat.fits", option, incomplete="fi")
    assert ("file", "fi") in completed("measure", option, incomplete="fi")


def test_words_are_completed():
    assert ("plain", "evaluate") in completed(incomplete="ev")
    assert ("file", "ca") in completed(incomplete="ca")
    assert ("plain", "--psf-oversampling") in completed(incomplete="--psf")
    assert ("plain", "--psf-oversampling") in completed("cat.fits", incomplete="--psf")
    assert ("plain", "survey-v3") in completed("cat.fits", "--weights", incomplete="sur")
    assert ("file", "") in completed("calibrate")


@pytest.mark.parametrize(
    ("word", "command"), [("evalute", "evaluate"), ("calibate", "calibrate"), ("Measure", "measure")]
)
def test_mistyped_commands(folder, capsys, word, command):
    assert call(word, "--size", "3") == 2
    assert capsys.readouterr().err == (
        f"galmeasure: error: {word}: neither a command nor a file; did you mean galmeasure {command}?\n"
    )
    (folder / "cat.fits").rename(word)
    assert call(word, "-o", "o.fits") == 0


@pytest.mark.parametrize("word", ["nope.fits", "folder/measure", "galaxies"])
def test_other_words_are_files(folder, capsys, word):
    assert call(word) == 2
    assert capsys.readouterr().err == f"galmeasure: error: {word}: no such file\n"


def test_image_given_as_a_catalogue(folder, capsys):
    fits.writeto("large.fits", np.zeros((3, 3000), dtype="f4"))
    assert call("large.fits", "--psf", "none") == 2
    assert "did you mean --image large.fits --detect" in capsys.readouterr().err
    field("field.fits", (420, 430), noise=1.0, PSF=psf_image())
    assert call("field.fits") == 0
    out = capsys.readouterr().out
    assert "next: field.fits was measured as one galaxy; did you mean --image field.fits --detect?\n" in out


def test_field_without_a_psf(folder, capsys):
    field("field.fits", noise=1.0)
    assert call("field.fits") == 2
    assert "no PSF" in (err := capsys.readouterr().err)
    assert "did you mean --image field.fits --detect?" in err


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
def test_pipes(folder):
    """A reader that leaves early is no error; a list from another command is read."""
    field("i.fits", noise=2.0, PSF=psf_image())
    Table({"x": POSITIONS[:, 0], "y": POSITIONS[:, 1]}).write("list.csv")
    command = f"{sys.executable} -m galmeasure"
    args = "--image i.fits --error 2.0 --size 32 --method lsq --quiet"
    script = f"{command} cat.fits -o - --method lsq --quiet | true; cat list.csv | {command} - {args} -o -"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert len(Table.read(done.stdout, format="ascii.csv")) == len(POSITIONS)


def test_several_catalogues(folder, capsys):
    cutout_table("two.fits", {"error": np.ones(7)})
    assert call("cat.fits", "two.fits") == 0
    out = capsys.readouterr().out
    assert out.count("measured 7 of 7 galaxies") == 2
    assert out.index("table cat_galmeasure.fits") < out.index("table two_galmeasure.fits")
    assert len(Table.read("cat_galmeasure.fits")) == len(Table.read("two_galmeasure.fits")) == 7


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["cat.fits", "two.fits", "-o", "o.fits"], "output is for one catalogue, and 2 were given"),
        (["two.fits", "cat.fits"], "cat_galmeasure.fits: exists already; --overwrite"),
        (["cat.fits", "cat.fits"], "cat.fits: another catalogue has the same table, cat_galmeasure.fits"),
        (["-"], "output must be given for a catalogue from the standard input"),
    ],
)
def test_several_are_checked_before_the_first(folder, capsys, args, message):
    cutout_table("two.fits", {"error": np.ones(7)})
    (folder / "cat_galmeasure.fits").write_text("a result")
    assert call(*args) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"galmeasure: error: {message}")
    assert out == ""
    assert not (folder / "two_galmeasure.fits").exists()


def test_standard_output(folder, capfd):
    before = sorted(folder.iterdir())
    assert call("cat.fits", "-o", "-", "--columns", "id,flux_fit,flags") == 0
    out, err = capfd.readouterr()
    table = Table.read(out, format="ascii.csv")
    assert table.colnames == ["id", "flux_fit", "flags"]
    assert table["id"].tolist() == list(range(1, 8))
    assert err.startswith("measured 7 of 7 galaxies")
    assert "table on the standard output" in err
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("ending", ["csv", "ecsv", "fits", "votable", "parquet"])
def test_standard_input(folder, monkeypatch, capsys, ending):
    field("i.fits", noise=2.0, PSF=psf_image())
    kind = {"csv": "ascii.csv", "ecsv": "ascii.ecsv"}.get(ending, ending)
    Table({"x": POSITIONS[:, 0], "y": POSITIONS[:, 1]}).write(f"list.{ending}", format=kind)
    content = io.BytesIO((folder / f"list.{ending}").read_bytes())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(content))
    assert call("-", "--image", "i.fits", "--error", "1.5", "--size", "32", "-o", "o.fits") == 0
    assert len(Table.read("o.fits")) == len(POSITIONS)


def test_quiet(folder, capsys):
    assert call("cat.fits", "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert len(Table.read("cat_galmeasure.fits")) == 7
    assert call("cat.fits", "-q") == 2
    assert capsys.readouterr().err.startswith("galmeasure: error: cat_galmeasure.fits: exists already")


def test_next_step(folder, capsys):
    assert call("cat.fits") == 0
    assert "next: the same command with --rows 0:20 --plots FOLDER shows the first fits\n" in capsys.readouterr().out
    cutout_table("sim.fits", {"error": np.ones(7), "true_n": np.ones(7)})
    assert call("sim.fits") == 0
    expected = "next: galmeasure evaluate sim_galmeasure.fits --against sim.fits\n"
    assert expected in capsys.readouterr().out
