"""What is done with a catalogue is not kept: memory does not grow with the number of rows."""

import gc
import weakref

import numpy as np
import pytest
from _catalogs import cutout_table
from _fake_fitter import SumFitter

from galmeasure import Cutouts, LSQSersicFitter
from galmeasure.fitters.registry import FitterSpec
from galmeasure.io.spool import Spool
from galmeasure.workflows.journal import Journal
from galmeasure.workflows.measure import MeasureSettings, Summary, measure_catalog

N_ROWS = 24


class WatchingFitter(SumFitter):
    """Sums of pixels; notes how many of the earlier cutouts and tables are still there when it is called."""

    made, n_alive = [], []

    def fit(self, cutouts):
        self.n_alive.append(sum(reference() is not None for reference in self.made))
        table = super().fit(cutouts)
        self.made.extend([weakref.ref(cutouts), weakref.ref(table)])
        return table


@pytest.fixture
def no_collection():
    """Nothing is found by the collector of objects that refer to themselves."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_tables_of_fitters_do_not_refer_to_themselves(no_collection):
    cutouts = Cutouts(np.random.default_rng(1).normal(size=(2, 15, 15)), np.ones((3, 3)), error=1.0)
    table = weakref.ref(LSQSersicFitter().fit(cutouts))
    assert table() is None


@pytest.mark.parametrize("columns", [None, ("flux_fit", "id", "field")])
def test_measured_chunks_are_forgotten(tmp_path, no_collection, columns):
    WatchingFitter.made, WatchingFitter.n_alive = [], []
    cutout_table(tmp_path / "c.fits", {"field": np.arange(N_ROWS)}, count=N_ROWS)
    settings = MeasureSettings(
        fitter=FitterSpec(__name__, "WatchingFitter"), output=tmp_path / "o.fits", batch_size=4, threads=1,
        columns=columns,
    )  # fmt: skip
    summary = measure_catalog(tmp_path / "c.fits", settings)
    assert summary.n_rows == N_ROWS
    assert WatchingFitter.n_alive == [0] * 6


@pytest.mark.parametrize("make", [Spool, lambda folder: Journal(folder / "o.fits", {}, {}, 12)])
def test_chunks_of_one_type_share_it(tmp_path, make):
    spool = make(tmp_path)
    for number in range(6):
        spool.append(np.zeros(2, dtype=[("flux", "f8"), ("text", f"U{3 + number % 2}")]))
    assert len(spool) == 12
    assert len({id(dtype) for _, dtype, _ in spool.chunks}) == 2
    spool.close()


def test_stored_chunks_of_one_type_share_it(tmp_path):
    journal = Journal(tmp_path / "o.fits", {}, {}, 12)
    for _ in range(6):
        journal.append(np.zeros(2, dtype=[("flux", "f8")]))
    journal.close()
    with Journal(tmp_path / "o.fits", {}, {}, 12, resume=True) as journal:
        assert len(journal) == 12
        assert len({id(dtype) for _, dtype, _ in journal.chunks}) == 1


def test_closing_lines_keep_four_bytes_of_a_row(tmp_path):
    from astropy.table import QTable

    summary, rng = Summary(tmp_path, []), np.random.default_rng(3)
    chi2 = rng.chisquare(5, 2000) / 5
    for part in np.split(chi2, 4):
        summary.add(QTable({"flags": np.zeros(500, dtype=np.int64), "chi2_reduced": part}))
    assert sum(values.nbytes for values in summary.chi2) == 4 * 2000
    assert summary.median_chi2() == pytest.approx(np.median(chi2), rel=1e-6)
    assert summary.median_chi2() == summary.median_chi2()
