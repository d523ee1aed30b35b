"""Results beside the truths of their own input: ``galmeasure evaluate --against``."""

import re

import numpy as np
import pytest
from astropy import units as u
from astropy.table import QTable, Table

from galmeasure.cli import main

COUNT, SIDE = 12, 25


def call(*args):
    """Exit code of the command."""
    with pytest.raises(SystemExit) as stop:
        main([str(arg) for arg in args])
    return stop.value.code


def row(text, parameter):
    """Numbers of a line of the printed table: how many galaxies, bias, its error, and the others."""
    line = next(line for line in text.splitlines() if line.split()[:1] == [parameter])
    return [float(number) for number in re.findall(r"(?<=\s)-?\d[\d.e+-]*", line)]


@pytest.fixture
def truth():
    """A list of sources with truths."""
    rng = np.random.default_rng(1)
    table = Table({"NUMBER": np.arange(COUNT) * 3 + 10, "x": rng.uniform(0, 99, COUNT), "y": rng.uniform(0, 99, COUNT)})
    table["flux_true"], table["n_true"] = rng.uniform(10, 20, COUNT), rng.uniform(1, 4, COUNT)
    return table


def result_of(truth):
    """Measurements that are off by 0.25 in n and by 10 % in flux, in another order."""
    table = QTable({"id": truth["NUMBER"][::-1], "n_fit": truth["n_true"][::-1] + 0.25, "n_err": np.full(COUNT, 0.5)})
    table["flux_fit"], table["flags"] = truth["flux_true"][::-1] * 1.1, [4, *[0] * (COUNT - 1)]
    return table


@pytest.mark.parametrize("suffix", ["csv", "ecsv", "fits", "parquet"])
def test_a_list_with_truths(tmp_path, capsys, truth, suffix):
    truth.write(tmp_path / f"list.{suffix}")
    result_of(truth)[1:].write(tmp_path / "shapes.fits")
    assert call("evaluate", tmp_path / "shapes.fits", "--against", tmp_path / f"list.{suffix}", "--bootstrap", "4") == 0
    out = capsys.readouterr().out
    assert f"shapes against {COUNT} galaxies of list.{suffix}, 1 without a row" in out
    assert row(out, "n")[:2] == [COUNT - 1, 0.25]
    assert row(out, "flux_relative")[1] == 0.1
    assert not (tmp_path / "galmeasure_report").exists()


def test_the_table_beside_the_input_is_taken(tmp_path, capsys, truth):
    truth.rename_column("flux_true", "true_flux")
    truth[["x", "y", "n_true", "true_flux"]].write(tmp_path / "list.csv")  # without ids: measurements count from 1
    truth["NUMBER"], truth["flux_true"] = np.arange(1, COUNT + 1), truth["true_flux"]
    result_of(truth).write(tmp_path / "list_galmeasure.fits")
    assert call("evaluate", "--against", tmp_path / "list.csv", "--bootstrap", "4") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"list_galmeasure against {COUNT} galaxies of list.csv, 1 flagged\n")
    assert row(out, "flux_relative")[1] == 0.1
    assert row(out, "n")[1] == 0.25


def test_a_catalogue_of_cutouts_is_measured_and_reported(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    psf = np.exp(-0.5 * (x**2 + y**2) / 1.5**2)
    rng = np.random.default_rng(5)
    stamps = 200.0 * np.exp(-0.5 * (x**2 + y**2) / 3.0**2)[None] + rng.normal(size=(COUNT, SIDE, SIDE))
    table = QTable({"id": np.arange(COUNT), "cutout": stamps, "psf": np.repeat(psf[None], COUNT, axis=0)})
    table["error"], table["true_flux"] = np.ones(COUNT), np.full(COUNT, 200.0 * 2 * np.pi * 9.0)
    table["true_n"] = np.full(COUNT, 0.5)
    table.write(tmp_path / "stamps.fits")
    report = tmp_path / "report"
    assert call("evaluate", "--against", tmp_path / "stamps.fits", "--method", "lsq", "--report", report,
                "--bootstrap", "4", "--no-progress") == 0  # fmt: skip
    out = capsys.readouterr().out
    assert out.startswith(f"lsq against {COUNT} galaxies of stamps.fits")
    assert abs(row(out, "flux_relative")[1]) < 0.02
    assert out.rstrip().endswith(f"report {report / 'index.html'}")
    assert (report / "index.html").is_file()


def test_results_of_another_code(tmp_path, capsys, truth):
    truth["r_eff_major_true"] = np.full(COUNT, 1.0) * u.arcsec
    truth.write(tmp_path / "list.ecsv")
    galfit = Table({"number": truth["NUMBER"], "re": np.full(COUNT, 6.0), "n": truth["n_true"]})
    galfit.write(tmp_path / "galfit.csv")
    assert call("evaluate", "--catalog", tmp_path / "galfit.csv", "--preset", "galfit", "--pixel-scale", "0.2",
                "--against", tmp_path / "list.ecsv", "--bootstrap", "4") == 0  # fmt: skip
    assert row(capsys.readouterr().out, "r_eff_major")[1] == 0.2


@pytest.mark.parametrize(
    ("names", "message"),
    [(["NUMBER", "x", "y"], "list.csv: has no true parameters"), (["NUMBER", "x", "y", "n_true"], "list.csv")],
)
def test_what_cannot_be_compared(tmp_path, capsys, truth, names, message):
    truth[names].write(tmp_path / "list.csv")
    assert call("evaluate", "--against", tmp_path / "list.csv") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
