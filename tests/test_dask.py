"""Workers of a Dask cluster give the table of one process, to the last bit, and one that is killed costs nothing."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from _catalogs import cutout_table, psf_image, stamps

from galmeasure import Cutouts, LSQSersicFitter
from galmeasure.cli import main
from galmeasure.fitters.registry import FitterSpec
from galmeasure.io import open_catalog
from galmeasure.workflows import dask as workflow
from galmeasure.workflows.dask import compute_table, fitter_spec, measure_dask, measure_rows
from galmeasure.workflows.executors import Division, measured_chunks
from galmeasure.workflows.measure import MeasureSettings, measure_catalog

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")

N_ROWS = 14
DIVISION = Division(1, batch_size=3)
DATE = "1000000000"
SUMS = FitterSpec("_fake_fitter", "SumFitter", {"delay": 0.2})


@pytest.fixture(scope="module")
def cluster():
    """Two worker processes with a thread each, which find the modules of the tests."""
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "memory_limit": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.setenv("SOURCE_DATE_EPOCH", DATE)
        with distributed.LocalCluster(**options) as cluster:
            yield cluster


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    path = tmp_path_factory.mktemp("dask") / "cat.fits"
    cutout_table(path, {"error": np.ones(N_ROWS)}, count=N_ROWS)
    return path


@pytest.fixture(scope="module")
def expected(catalog):
    """Tables of the blocks, measured in this process."""
    source = open_catalog(catalog)
    chunks = measured_chunks(source, np.arange(N_ROWS), fitter_spec(LSQSersicFitter()), DIVISION)
    return [table for _, _, table in chunks]


def assert_same(table, expected):
    """Every column of every row has the same bits."""
    first = 0
    for part in expected:
        rows = table[first : first + len(part)]
        for name in part.colnames:
            if name != "id":
                assert np.asarray(rows[name]).tobytes() == np.asarray(part[name]).tobytes(), name
        first += len(part)
    assert first == len(table)


@pytest.mark.parametrize("kind", ["path", "cutouts", "numpy", "dask"])
def test_every_source_gives_the_same_bits(catalog, expected, kind):
    """In threads of this process, one block after the other and side by side."""
    arrays = {"cutouts": stamps(N_ROWS), "psf": psf_image(), "error": np.ones(N_ROWS)}
    source = {"path": str(catalog), "cutouts": Cutouts(**arrays), "numpy": arrays, "dask": arrays}[kind]
    if kind == "dask":
        da = pytest.importorskip("dask.array")
        source = arrays | {"cutouts": da.from_array(arrays["cutouts"], chunks=(5, 24, 24))}
    partitions = measure_dask(source, LSQSersicFitter(), division=DIVISION)
    assert len(partitions) == 5
    with dask.config.set(scheduler="threads"):
        table = compute_table(partitions)
    assert_same(table, expected)
    assert table["id"].tolist() == list(range(1, N_ROWS + 1))


def test_rows_are_chosen(catalog):
    table = compute_table(measure_dask(catalog, SUMS, rows=[3, 9, 4], division=DIVISION))
    assert table["id"].tolist() == [4, 10, 5]


def test_workers_give_the_same_bits(catalog, expected, cluster):
    with distributed.Client(cluster):
        assert_same(compute_table(measure_dask(catalog, LSQSersicFitter(), division=DIVISION)), expected)


def test_weights_are_loaded_once_a_worker(cluster, catalog):
    def kept(worker=None):
        import torch

        from galmeasure.workflows import dask as module
        from galmeasure.workflows import readers

        return len(module._FITTERS), len(readers._SOURCES), torch.get_num_threads()

    with distributed.Client(cluster) as client:
        compute_table(measure_dask(catalog, SUMS, division=DIVISION))
        compute_table(measure_dask(catalog, SUMS, division=DIVISION))
        for n_fitters, n_sources, n_threads in client.run(kept).values():
            assert n_fitters <= 2
            assert n_sources == 1
            assert n_threads == 1


def test_command_and_a_worker_that_is_killed(cluster, catalog, tmp_path, monkeypatch):
    """The table is that of one process, byte for byte, although a worker dies on the way."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", DATE)
    monkeypatch.chdir(tmp_path)
    settings = {"fitter": fitter_spec(LSQSersicFitter()), "batch_size": 1, "threads": 1}
    measure_catalog(catalog, MeasureSettings(output="one.fits", **settings))
    killed, take_next = [], workflow._next

    def kill_one(waiting, report):
        if len(killed) == 0:
            with distributed.Client(cluster) as client:
                killed.append(min(client.run(os.getpid).values()))
            os.kill(killed[0], signal.SIGKILL)
        return take_next(waiting, report)

    monkeypatch.setattr(workflow, "_next", kill_one)
    address = cluster.scheduler_address
    summary = measure_catalog(catalog, MeasureSettings(output="two.fits", scheduler=address, **settings))
    assert summary.n_rows == N_ROWS
    assert len(killed) == 1
    assert Path("two.fits").read_bytes() == Path("one.fits").read_bytes()


def test_a_stopped_run_goes_on_elsewhere(cluster, catalog, tmp_path, monkeypatch):
    """A run on a cluster that was stopped goes on in this process, and the table is the same."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", DATE)
    monkeypatch.chdir(tmp_path)
    settings = {"fitter": fitter_spec(LSQSersicFitter()), "batch_size": 2, "threads": 1}
    measure_catalog(catalog, MeasureSettings(output="one.fits", **settings))
    take_next, calls = workflow._next, []

    def stop(waiting, report):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return take_next(waiting, report)

    monkeypatch.setattr(workflow, "_next", stop)
    with pytest.raises(KeyboardInterrupt) as caught:
        measure_catalog(catalog, MeasureSettings(output="two.fits", scheduler=cluster.scheduler_address, **settings))
    assert caught.value.__notes__[0].startswith("6 of 14 rows are kept")
    measure_catalog(catalog, MeasureSettings(output="two.fits", resume=True, **settings))
    assert Path("two.fits").read_bytes() == Path("one.fits").read_bytes()


def test_errors_of_workers_are_told(cluster, catalog, tmp_path):
    missing = tmp_path / "cat.fits"
    missing.write_bytes(catalog.read_bytes())
    partitions = measure_dask(str(missing), SUMS, division=DIVISION)
    missing.unlink()
    with distributed.Client(cluster), pytest.raises(ValueError, match=r"cat\.fits: no such file"):
        compute_table(partitions)


def test_another_version_is_refused(catalog, monkeypatch):
    partitions = measure_dask(catalog, SUMS, division=DIVISION)
    monkeypatch.setattr("galmeasure.__version__", "0.0.1")
    with pytest.raises(ValueError, match=r"a worker has version 0\.0\.1( with the extra fast)?, and "):
        compute_table(partitions)


def test_workers_compile_their_loops_or_none_does(catalog, monkeypatch):
    monkeypatch.setattr(workflow, "is_compiled", lambda: False)
    partitions = measure_dask(catalog, SUMS, division=DIVISION)
    monkeypatch.setattr(workflow, "is_compiled", lambda: True)
    with pytest.raises(ValueError, match=r"a worker has version \S+ with the extra fast, and \S+ is needed"):
        compute_table(partitions)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scheduler", "tcp://127.0.0.1:9", "--n-jobs", "2"], "cannot be given with scheduler"),
        (["--scheduler", "tcp://127.0.0.1:9"], "scheduler: tcp://127.0.0.1:9 cannot be reached"),
    ],
)
def test_wrong_schedulers(catalog, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(workflow, "_CONNECT_SECONDS", 1)
    with pytest.raises(SystemExit) as stop:
        main([str(catalog), "-o", str(tmp_path / "o.fits"), "--method", "lsq", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_wrong_arguments(catalog):
    with pytest.raises(TypeError, match="source must be a path"):
        measure_dask(3, SUMS)
    with pytest.raises(TypeError, match="fitter must be an estimator"):
        measure_dask(catalog, LSQSersicFitter)
    with pytest.raises(ValueError, match="source must have an array cutouts"):
        measure_dask({"cutouts": np.zeros((3, 3))}, SUMS)
    with pytest.raises(ValueError, match="partitions must be at least one"):
        compute_table([])


@pytest.mark.parametrize("form", ["flat", "stamps"])
def test_rows_of_data_frames(form):
    """As LSDB and Dask hand them over, one partition at a time."""
    pandas = pytest.importorskip("pandas")
    images = stamps(4)
    column = [list(image.ravel()) if form == "flat" else image for image in images]
    frame = pandas.DataFrame({"cutouts": column, "error": np.ones(4), "ids": [7, 8, 9, 10], "other": 1.0})
    table = measure_rows(frame, SUMS, psf=psf_image())
    assert table["id"].tolist() == [7, 8, 9, 10]
    np.testing.assert_allclose(table["flux_fit"], images.sum(axis=(1, 2)), rtol=1e-4)
    with pytest.raises(ValueError, match="cutouts must hold square stamps"):
        measure_rows({"cutouts": [np.zeros(5)]}, SUMS)
    with pytest.raises(ValueError, match="rows must be at least one"):
        measure_rows(frame[:0], SUMS)
    with pytest.raises(ValueError, match="rows must have a column cutouts"):
        measure_rows({}, SUMS)
