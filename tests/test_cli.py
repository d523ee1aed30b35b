"""The command line: options, messages, exit codes, chunks, processes, and what a kill leaves."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import astropy.units as u
import numpy as np
import pytest
from _catalogs import POSITIONS, cutout_table, field, psf_image
from astropy.io import fits
from astropy.table import QTable, Table

from galmeasure.cli import main
from galmeasure.fitters.registry import FITTERS, FitterSpec
from galmeasure.workflows.measure import parse_rows


@pytest.fixture
def catalog(tmp_path, monkeypatch):
    """A catalogue of seven rows in the current folder, measured by a quick fitter."""
    monkeypatch.chdir(tmp_path)
    for method in ("neural", "lsq"):
        monkeypatch.setitem(FITTERS, method, replace(FITTERS[method], module="_fake_fitter", class_name="SumFitter"))
    monkeypatch.setattr("galmeasure.workflows.executors.n_cores", lambda: 1)
    cutout_table("cat.fits", {"error": np.ones(7), "field": [f"F{i}" for i in range(7)]}, units={"cutout": "electron"})
    return tmp_path


def call(*args):
    """Exit code of the command."""
    with pytest.raises(SystemExit) as stop:
        main(list(args))
    return stop.value.code


def failure(capsys, *args):
    """The one line of an error."""
    assert call(*args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("galmeasure: error: ")
    return err.removeprefix("galmeasure: error: ").strip()


@pytest.mark.parametrize("command", [(), ("measure",)])
def test_default_command_and_output(catalog, capsys, command):
    assert call(*command, "cat.fits") == 0
    table = Table.read("cat_galmeasure.fits")
    assert len(table) == 7
    assert table["id"].tolist() == list(range(1, 8))
    assert str(table["flux_fit"].unit) == "electron"
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("measured 7 of 7 galaxies in ")
    assert out.endswith("table cat_galmeasure.fits\n")


@pytest.mark.parametrize(("text", "unit"), [("nmgy", "nmgy"), ("DN", "DN"), ("nanomaggies", "nmgy"), ("parsnip", None)])
def test_units_that_fits_does_not_have(catalog, capsys, text, unit):
    cutout_table("unit.fits", units={"cutout": text})
    assert call("unit.fits") == 0
    assert capsys.readouterr().err == ""
    found = QTable.read("unit_galmeasure.fits")["flux_fit"].unit
    assert found == (None if unit is None else u.Unit(unit))


@pytest.mark.parametrize(
    ("columns", "header", "message"),
    [
        (
            {"number": np.arange(7), "cutout": np.ones((7, 0))},
            {},
            "broken.fits: the column cutout must hold one 2-D stamp",
        ),
        ({"mask": np.ones((7, 5, 5), bool)}, {}, "broken.fits: mask must have the shape of the cutouts"),
        ({"psf": np.ones((7, 3))}, {}, "broken.fits: the column psf must hold one 2-D stamp"),
    ],
)
def test_broken_catalogue(catalog, capsys, columns, header, message):
    cutout_table("broken.fits", columns, header=header)
    before = sorted(catalog.iterdir())
    assert failure(capsys, "broken.fits").startswith(message)
    assert sorted(catalog.iterdir()) == before


@pytest.mark.parametrize("suffix", ["fits", "ecsv", "csv", "parquet", "votable"])
def test_outputs(catalog, suffix):
    assert call("cat.fits", "--output", f"o.{suffix}", "--batch-size", "2") == 0
    kind = {"csv": "ascii.csv", "votable": "votable"}.get(suffix)
    assert len(Table.read(f"o.{suffix}", format=kind)) == 7
    assert sorted(p.name for p in catalog.iterdir()) == ["cat.fits", f"o.{suffix}"]


def test_existing_output(catalog, capsys):
    assert call("cat.fits", "-o", "o.csv") == 0
    capsys.readouterr()
    assert failure(capsys, "cat.fits", "-o", "o.csv").startswith("o.csv: exists already; --overwrite")
    assert call("cat.fits", "-o", "o.csv", "--overwrite") == 0


def test_output_must_not_be_the_catalogue(catalog, capsys):
    assert "output must not be the catalogue" in failure(capsys, "cat.fits", "-o", "./cat.fits", "--overwrite")
    assert len(fits.getdata("cat.fits", 1)) == 7


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nope.fits"], "nope.fits: no such file"),
        (["text.fits"], "text.fits: not a FITS file"),
        (["cat.fits", "--method", "magic"], "Invalid value for '--method'"),
        (["cat.fits", "--magic"], "No such option"),
        (["cat.fits", "-o", "o.txt"], "output must end in one of"),
        (["cat.fits", "-o", "no/o.fits"], "no/o.fits: the folder does not exist"),
        (["cat.fits", "--rows", "9"], "rows: there is no row 9 in 7 rows"),
        (["cat.fits", "--rows", "all"], "rows must be numbers or ranges"),
        (["cat.fits", "--columns", "id,nothing"], "columns: there is no nothing"),
        (["cat.fits", "--columns", "id,id"], "columns must be names that differ"),
        (["cat.fits", "--gain", "-1"], "gain must be positive"),
        (["cat.fits", "--gain", "much"], "Invalid value for '--gain'"),
        (["cat.fits", "--error", "nothing"], "error must be a number or a column"),
        (["cat.fits", "--device", "fpga"], "device 'fpga' cannot be used"),
        (["cat.fits", "--device", "nonsense"], "device 'nonsense' cannot be used"),
        (["cat.fits", "--n-jobs", "0"], "n_jobs must be 1 or more"),
        (["cat.fits", "--psf", "nope.psf"], "nope.psf: no such file"),
        (["cat.fits", "--size", "50"], "size is for source lists"),
        (["--detect"], "path: a catalogue or an image is needed"),
        (["cut.fits"], "cut.fits: truncated FITS file"),
        (["empty.csv"], "empty.csv: "),
    ],
)
def test_errors(catalog, capsys, args, message):
    (catalog / "text.fits").write_text("hello")
    (catalog / "empty.csv").touch()
    (catalog / "cut.fits").write_bytes((catalog / "cat.fits").read_bytes()[:9000])
    before = sorted(catalog.iterdir())
    assert failure(capsys, *args).startswith(message)
    assert sorted(catalog.iterdir()) == before


def test_error_of_the_fitter(catalog, capsys, monkeypatch):
    monkeypatch.setattr("_fake_fitter.SumFitter.fit", lambda self, cutouts: np.zeros(3).reshape(2, 2))
    assert "cannot reshape" in failure(capsys, "cat.fits")
    assert call("cat.fits", "--verbose") == 2
    assert "Traceback" in capsys.readouterr().err


def test_rows_and_columns(catalog):
    assert call("cat.fits", "--rows", "5,0:3", "--columns", "id,field,flags", "-o", "o.fits") == 0
    table = Table.read("o.fits")
    assert table.colnames == ["id", "field", "flags"]
    assert table["id"].tolist() == [6, 1, 2, 3]
    assert table["field"].tolist() == ["F5", "F0", "F1", "F2"]


@pytest.mark.parametrize(
    ("text", "rows"), [("::3", [0, 3, 6, 9]), ("-1", [9]), ("2:4, 7", [2, 3, 7]), ("8:100", [8, 9]), (None, range(10))]
)
def test_parse_rows(text, rows):
    assert parse_rows(text, 10).tolist() == list(rows)


@pytest.mark.parametrize("text", ["", "1:2:0", "a", "1;2", "3:3"])
def test_parse_rows_refuses(text):
    with pytest.raises(ValueError, match="^rows"):
        parse_rows(text, 10)


def test_options_reach_the_cutouts(catalog, capsys):
    assert call("cat.fits", "--gain", "2", "--pixel-scale", "0.2", "--zero-point", "27") == 0
    assert "used gain 2 (option), pixel scale 0.2 (option), zero point 27 (option)" in capsys.readouterr().out


def test_flags_are_counted(catalog, capsys):
    data = fits.getdata("cat.fits", 1)["cutout"].copy()
    data[:2] = np.nan
    Table({"cutout": data}).write("bad.fits")
    fits.writeto("psf.fits", psf_image())
    assert call("bad.fits", "--psf", "psf.fits", "--batch-size", "3") == 0
    out = capsys.readouterr().out
    assert out.startswith("measured 5 of 7 galaxies in ")
    assert "         2  failed: no measurement was possible" in out
    assert "error_estimated: " in out


def test_source_list_and_detection(catalog):
    field("i.fits", noise=2.0, PSF=psf_image())
    Table({"x": POSITIONS[:, 0], "y": POSITIONS[:, 1]}).write("list.csv")
    assert call("list.csv", "--image", "i.fits", "--error", "1.5", "--size", "32") == 0
    table = Table.read("list_galmeasure.fits")
    assert np.abs(table["x_fit"] - POSITIONS[:, 0]).max() < 1
    assert call("i.fits", "--detect") == 0
    assert len(Table.read("i_galmeasure.fits")) >= 5
    assert call("--detect", "--image", "i.fits", "-o", "o.fits") == 0


def test_processes_keep_the_order(catalog):
    assert call("cat.fits", "--batch-size", "2", "--n-jobs", "2", "-o", "two.fits") == 0
    assert call("cat.fits", "-o", "one.fits") == 0
    one, two = Table.read("one.fits"), Table.read("two.fits")
    for name in set(one.colnames) - {"process"}:
        np.testing.assert_array_equal(one[name], two[name])
    assert os.getpid() not in two["process"]


@pytest.mark.parametrize(("fail", "message"), [(True, "cutouts must be good"), ("die", "n_jobs: a worker process")])
def test_error_in_a_process(catalog, capsys, monkeypatch, fail, message):
    fake = FitterSpec("_fake_fitter", "SumFitter", {"fail": fail})
    monkeypatch.setattr("galmeasure.cli.commands.chosen_fitter", lambda *_: fake)
    before = sorted(catalog.iterdir())
    assert failure(capsys, "cat.fits", "--batch-size", "2", "--n-jobs", "2").startswith(message)
    assert sorted(catalog.iterdir()) == before


def test_lsq_from_the_command_line(catalog, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(catalog)
    assert call("cat.fits", "--method", "lsq", "--rows", "0:3", "--no-progress") == 0
    table = Table.read("cat_galmeasure.fits")
    assert (np.asarray(table["method"]).astype(str) == "lsq").all()
    assert np.isfinite(table["flux_fit"]).all()


def test_plots(catalog, monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    monkeypatch.setattr("galmeasure.evaluation.plot_fit", lambda row, cutout: Figure())
    assert call("cat.fits", "--plots", "plots", "--rows", "1,4") == 0
    assert sorted(p.name for p in (catalog / "plots").iterdir()) == ["000001_2.png", "000004_5.png"]


def test_warnings_are_one_line(catalog, capsys, monkeypatch):
    import warnings

    from _fake_fitter import SumFitter

    fit = SumFitter.fit

    def warn(self, cutouts):
        warnings.warn("too\nhot", stacklevel=1)
        return fit(self, cutouts)

    monkeypatch.setattr(SumFitter, "fit", warn)
    warnings.simplefilter("always")
    assert call("cat.fits", "--batch-size", "2") == 0
    assert capsys.readouterr().err == "galmeasure: warning: too hot\n"


def test_help_and_version(capsys):
    assert call("--help") == 0
    assert "galmeasure catalog.fits" in capsys.readouterr().out
    assert call("measure", "-h") == 0
    out = capsys.readouterr().out
    for option in ("--method", "--output", "--pixel-scale", "--n-jobs", "--columns", "--rows", "--no-progress"):
        assert option in out
    assert call("--version") == 0
    assert capsys.readouterr().out.startswith("galmeasure ")
    assert call() == 2


def test_help_is_light():
    code = (
        "import sys\nfrom galmeasure.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'astropy', 'photutils', 'scipy', 'tqdm', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


SLOW = """
import sys
from galmeasure.cli import commands
from galmeasure.fitters.registry import FitterSpec
from galmeasure.workflows import executors
executors.n_cores = lambda: 1
commands.chosen_fitter = lambda *_: FitterSpec("_fake_fitter", "SumFitter", {"delay": 600.0})  # stopped before it ends
if __name__ == "__main__":
    commands.main(sys.argv[1:])
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_runs_leave_nothing(catalog, number, jobs):
    (catalog / "run.py").write_text(SLOW)
    before = sorted(catalog.iterdir())
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "run.py", "cat.fits", "--batch-size", "1", "--n-jobs", jobs, "--verbose"]
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr.readline().startswith("cutout table cat.fits: 7 of 7 rows")
        for _ in range(int(jobs)):
            assert process.stderr.readline() == "measuring\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=300)
    assert process.returncode == {signal.SIGKILL: -signal.SIGKILL}.get(number, 130)
    assert "Traceback" not in err
    journal = catalog / "cat_galmeasure.fits.journal"  # of no rows, which stays where a run could not even end
    assert sorted(catalog.iterdir()) == sorted([*before, *([journal] if number == signal.SIGKILL else [])])
    assert call("cat.fits") == 0
    assert not journal.exists()
