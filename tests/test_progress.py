"""Progress is told galaxy by galaxy, whatever batch they are measured in, and its sum is their number."""

import threading

import numpy as np
import pytest
from _catalogs import cutout_table, gaussian, psf_image, stamps

from galmeasure import Cutouts, LSQSersicFitter, NeuralSersicFitter
from galmeasure.fitters.registry import FitterSpec
from galmeasure.io import open_catalog
from galmeasure.utils.progress import BatchProgress
from galmeasure.workflows.executors import Division, measured_chunks

N_ROWS = 12


@pytest.fixture
def cutouts():
    """Galaxies of several brightnesses in one batch, one of them blank."""
    images = stamps(N_ROWS)
    images[1::2] = np.random.default_rng(5).normal(size=images[1::2].shape)  # noise alone, of which a fit takes longer
    images[3] = np.nan
    return Cutouts(images, psf_image(), error=1.0)


def told(fitter, cutouts):
    """Numbers of galaxies that a fitter tells."""
    counts = []
    fitter.fit(cutouts, progress_bar=counts.append)
    return counts


def test_least_squares_tell_rows_that_have_converged(cutouts):
    counts = told(LSQSersicFitter(), cutouts)
    assert sum(counts) == N_ROWS
    assert len(counts) > 1
    assert min(counts) > 0


def test_exact_posteriors_tell_rows_that_are_drawn(cutouts):
    fitter = NeuralSersicFitter(refine="importance", n_draws=512, min_ess=100)
    counts = told(fitter, cutouts)
    assert sum(counts) == N_ROWS
    assert len(counts) > 1


def test_the_same_table_with_and_without(cutouts):
    fitter = LSQSersicFitter()
    expected = fitter.fit(cutouts)
    table = fitter.fit(cutouts, progress_bar=lambda _: None)
    np.testing.assert_array_equal(table["flux_fit"], expected["flux_fit"])


def test_a_batch_tells_no_more_than_its_rows():
    counts = []
    batch = BatchProgress(10, counts.append)
    threads = [threading.Thread(target=batch.add, args=(3,)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    batch.finish()
    assert sum(counts) == 10
    assert batch.done == 10


@pytest.mark.parametrize(("method", "n_jobs"), [("lsq", 1), ("lsq", 2), ("other", 1)])
def test_processes_tell_the_sum(tmp_path, monkeypatch, method, n_jobs):
    monkeypatch.setattr("galmeasure.workflows.executors.n_cores", lambda: 2)
    cutout_table(tmp_path / "cat.fits", {"error": np.ones(N_ROWS)}, count=N_ROWS)
    source = open_catalog(tmp_path / "cat.fits")
    name = ("galmeasure.fitters", "LSQSersicFitter") if method == "lsq" else ("_fake_fitter", "SumFitter")
    counts = []
    chunks = measured_chunks(
        source, np.arange(N_ROWS), FitterSpec(*name), Division(1, 4), n_jobs=n_jobs, report=counts.append
    )
    assert sum(len(block) for block, _, _ in chunks) == N_ROWS
    assert sum(counts) == N_ROWS


def test_the_bar_moves_within_a_chunk(tmp_path, monkeypatch, capsys):
    """On a terminal, the bar shows rows of a chunk that still goes on."""
    from tqdm import tqdm

    from galmeasure.workflows import measure

    seen = []

    class Bar(tqdm):
        def update(self, n=1):
            seen.append(n)
            return super().update(n)

    monkeypatch.setattr(measure, "_bar", lambda count, _: Bar(total=count, disable=False, mininterval=0))
    cutout_table(tmp_path / "cat.fits", {"error": np.ones(N_ROWS)}, count=N_ROWS)
    settings = measure.MeasureSettings(fitter=FitterSpec("galmeasure.fitters", "LSQSersicFitter"))
    measure.measure_catalog(tmp_path / "cat.fits", settings)
    assert sum(seen) == N_ROWS
    assert len(seen) > 2
    assert f"{N_ROWS}/{N_ROWS}" in capsys.readouterr().err


def test_other_fitters_within_fitters_do_not_count(cutouts):
    """Rows of the least-squares starts of a fit are not told twice."""
    counts = told(LSQSersicFitter(init=NeuralSersicFitter()), cutouts)
    assert sum(counts) == N_ROWS


def test_one_stamp_is_one():
    counts = told(LSQSersicFitter(), Cutouts(100 * gaussian(24, 2.5), psf_image(), error=1.0))
    assert counts == [1]
