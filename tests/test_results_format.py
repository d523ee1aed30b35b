"""The format ``galmeasure`` of astropy's tables: the table as it was, and flags with their meanings."""

import re
import subprocess
import sys

import numpy as np
import pytest
from astropy import units as u
from astropy.table import MaskedColumn, QTable, Table

from galmeasure.evaluation import read_results
from galmeasure.exceptions import CatalogError
from galmeasure.flags import FLAGS, Flag, decode_flags
from galmeasure.results.table import flat_meta

SUFFIXES = ["fits", "ecsv", "parquet", "votable"]


def how(suffix):
    """Options for astropy's own reader."""
    return {"format": "votable"} if suffix == "votable" else {}


def plain(column):
    """Values of a column as a list."""
    return np.ma.asarray(getattr(column, "value", column)).tolist()


@pytest.fixture
def result():
    """A table as fitters give it."""
    table = QTable({"id": MaskedColumn([1, 2, 3], mask=[False, False, True]), "flux_fit": [1.0, np.nan, 3.0] * u.adu})
    table["r_eff_fit"], table["mag"] = [0.5, 1.0, 2.0] * u.arcsec, [20.0, 21.0, 22.0] * u.mag
    table["flags"] = [0, Flag.FAILED, Flag.NOT_CONVERGED | Flag.AT_BOUND]
    table["covariance"] = np.arange(3 * 49, dtype=float).reshape(3, 7, 7)
    table["method"] = ["lsq", "neural", "lsq"]
    table["r_eff_fit"].info.description = "half-light radius"
    table.meta.update(flat_meta({"ZEROPT": 25.5, "NROWS": 3, "FITTER": "Test(a<b)"}))
    return table


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_table_comes_back(tmp_path, result, suffix):
    result.write(tmp_path / f"shapes.{suffix}", format="galmeasure")
    back = QTable.read(tmp_path / f"shapes.{suffix}", format="galmeasure")
    assert [name for name in back.colnames if name != "flag_names"] == result.colnames
    for name in result.colnames:
        assert back[name].unit == result[name].unit, name
        assert back[name].shape == result[name].shape, name
        assert name == "flux_fit" or plain(back[name]) == plain(result[name]), name
        assert isinstance(back[name], u.Quantity) is isinstance(result[name], u.Quantity), name
    assert np.ma.getmaskarray(back["id"]).tolist() == [False, False, True]
    assert np.isnan(back["flux_fit"][1])
    assert back["r_eff_fit"].info.description == "half-light radius"
    assert back.meta == result.meta
    assert [type(back.meta[key]) for key in ("ZEROPT", "NROWS", "FITTER")] == [float, int, str]


@pytest.mark.parametrize("suffix", [*SUFFIXES, "csv"])
def test_flags_have_their_meanings(tmp_path, result, suffix):
    result.write(tmp_path / f"shapes.{suffix}", format="galmeasure")
    back = QTable.read(tmp_path / f"shapes.{suffix}", format="galmeasure")
    assert back["flag_names"].tolist() == ["", "failed", "not_converged,at_bound"]
    assert back["flags"].info.meta["2"] == f"not_converged: {FLAGS[1].description}"
    assert len(back["flags"].info.meta) == len(FLAGS)
    assert [",".join(names) for names in decode_flags(back["flags"])] == back["flag_names"].tolist()
    back.write(tmp_path / f"again.{suffix}", format="galmeasure")
    assert QTable.read(tmp_path / f"again.{suffix}", format="galmeasure").colnames == back.colnames
    assert "flag_names" not in Table.read(tmp_path / f"again.{suffix}", **how(suffix)).colnames


def test_meanings_are_those_of_the_file(tmp_path):
    """A bit that this version does not know, or knows otherwise, is named as the version that wrote it did."""
    table = QTable({"flags": [1, 1 << 20, 1 << 21]}, meta={"FLAG0": "lost: nothing", "FLAG20": "new: later"})
    table.write(tmp_path / "later.fits", format="galmeasure")
    back = QTable.read(tmp_path / "later.fits", format="galmeasure")
    assert back["flag_names"].tolist() == ["lost", "new", "bit 21"]


def test_files_that_are_none(tmp_path, result):
    with pytest.raises(FileNotFoundError, match="no such file"):
        QTable.read(tmp_path / "none.fits", format="galmeasure")
    with pytest.raises(ValueError, match="must end in one of .fits, .ecsv, .csv, .parquet, .votable"):
        QTable.read(tmp_path / "none.txt", format="galmeasure")
    result.write(tmp_path / "here.fits", format="galmeasure")
    with pytest.raises(OSError, match="exists already"):
        result.write(tmp_path / "here.fits", format="galmeasure")
    result.write(tmp_path / "here.fits", format="galmeasure", overwrite=True)


@pytest.mark.parametrize(
    "first",
    [
        "import galmeasure; assert 'numpy' not in sys.modules; from astropy.table import QTable",
        "from astropy.table import QTable; import galmeasure",
        "import galmeasure; import astropy.io.fits; import astropy.table; QTable = astropy.table.QTable",
    ],
)
def test_importing_the_package_is_enough_and_stays_light(tmp_path, first):
    Table({"flags": [6]}).write(tmp_path / "t.fits")
    code = (
        f"import sys; {first}; print(QTable.read({str(tmp_path / 't.fits')!r}, format='galmeasure')['flag_names'][0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "not_converged,at_bound"


@pytest.mark.parametrize("read", [read_results, lambda path: QTable.read(path, format="galmeasure")])
def test_a_votable_whose_data_are_elsewhere_is_refused(tmp_path, read):
    path = tmp_path / "result.votable"
    QTable({"id": [1, 2], "n_fit": [1.0, 2.0]}).write(path, format="votable")
    assert len(read(path)) == 2
    elsewhere = '<DATA><BINARY><STREAM href="file:///x"/></BINARY></DATA>'
    path.write_text(re.sub(r"<DATA>.*</DATA>", elsewhere, path.read_text(), flags=re.DOTALL))
    with pytest.raises(CatalogError, match=r"result\.votable: .*STREAM with href"):
        read(path)
