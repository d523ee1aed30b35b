"""Cutouts measured in several processes, as evaluate and calibrate do: the numbers of one, to the last bit."""

import json
import os

import numpy as np
import pytest
import torch
from _catalogs import gaussian
from astropy.io import fits
from astropy.table import QTable

from galmeasure import Cutouts
from galmeasure.cli import main
from galmeasure.fitters.registry import FitterSpec, get_fitter
from galmeasure.io import write_table
from galmeasure.workflows import fit_pool
from galmeasure.workflows.fit_pool import FitPool

SIDE = 17
N_ROWS = 50


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of twelve stamps, so that fifty galaxies are several."""
    monkeypatch.setattr(fit_pool, "chunk_size", lambda name, device: 12 * SIDE**2)


def stamps():
    rng = np.random.default_rng(4)
    images = [gaussian(SIDE, rng.uniform(1.5, 3.0)) for _ in range(N_ROWS)]
    return 50.0 * np.array(images) + rng.normal(size=(N_ROWS, SIDE, SIDE))


def same_bits(first, second):
    """All columns of two tables have the same bytes, units and formats."""
    assert first.colnames == second.colnames
    for name in first.colnames:
        assert np.asarray(first[name]).tobytes() == np.asarray(second[name]).tobytes(), name
        assert first[name].unit == second[name].unit
        assert first[name].info.format == second[name].info.format


def sums(**options):
    return FitterSpec("_fake_fitter", "SumFitter", options)


def test_results_do_not_depend_on_processes_or_threads(monkeypatch):
    cutouts = Cutouts(stamps(), gaussian(9, 1.0), error=1.0)
    specs = [get_fitter("lsq").spec(), get_fitter("neural").spec({"refine": "none"})]
    with FitPool(1) as pool:
        expected = [pool.fit(spec, cutouts) for spec in specs]
    with FitPool(2) as pool:
        measured = [pool.fit(spec, cutouts) for spec in specs]
    n_threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with FitPool(1) as pool:
            threaded = [pool.fit(spec, cutouts) for spec in specs]
    finally:
        torch.set_num_threads(n_threads)
    for one, two, three in zip(expected, measured, threaded, strict=True):
        assert one.table["id"].tolist() == list(range(1, N_ROWS + 1))
        assert min(one.core_seconds, two.core_seconds, one.seconds, two.seconds) > 0
        same_bits(one.table, two.table)
        same_bits(one.table, three.table)


def test_processes_are_used_and_kept():
    cutouts = Cutouts(stamps(), error=1.0)
    with FitPool(2) as pool:
        first = set(pool.fit(sums(), cutouts).table["process"])
        second = set(pool.fit(sums(fit_background=True), cutouts).table["process"])
        alone = set(pool.fit(sums(), cutouts[:5]).table["process"])
    assert len(first | second) <= 2
    assert os.getpid() not in first | second
    assert alone == {os.getpid()}


def test_one_device_is_not_shared():
    with FitPool(2, device="cuda") as pool:
        table = pool.fit(sums(), Cutouts(stamps(), error=1.0)).table
    assert set(table["process"]) == {os.getpid()}


@pytest.mark.parametrize(("fail", "message"), [("die", "a worker process has died"), (True, "cutouts must be good")])
def test_failures_in_processes(fail, message):
    with pytest.raises(ValueError, match=message), FitPool(2) as pool:
        pool.fit(sums(fail=fail), Cutouts(stamps(), error=1.0))


def test_chunks_are_taken_as_they_are_needed():
    cutouts, taken, reported = Cutouts(stamps(), error=1.0), [], []

    def chunks():
        for first in range(0, N_ROWS, 10):
            taken.append(first)
            yield cutouts[first : first + 10]

    with FitPool(1) as pool:
        tables = pool.tables(sums(), chunks(), reported.append)
        next(tables)
        assert len(taken) <= 3
        n_more = sum(len(table) for table in tables)
    assert n_more == N_ROWS - 10
    assert sum(reported) == N_ROWS


def call(*arguments):
    """Exit code of the command."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def test_evaluate(tmp_path, capsys):
    table = QTable({"id": np.arange(N_ROWS), "cutout": stamps().astype("f4"), "true_flux": np.full(N_ROWS, 50.0)})
    table["true_n"] = np.full(N_ROWS, 0.5)
    write_table(table, tmp_path / "c.fits")
    fits.append(tmp_path / "c.fits", gaussian(9, 1.0).astype("f4"), fits.Header({"EXTNAME": "PSF"}))
    outputs = []
    for n_jobs in (1, 2):
        words = ["--against", tmp_path / "c.fits", "--method", "lsq", "--n-jobs", n_jobs, "--bootstrap", 3]
        assert call("evaluate", *words) == 0
        outputs.append(capsys.readouterr().out)
    assert f"lsq against {N_ROWS} galaxies" in outputs[0]
    assert outputs[0] == outputs[1]


def test_calibrate(tmp_path, capsys):
    rng = np.random.default_rng(5)
    sky = fits.HDUList([fits.PrimaryHDU(rng.normal(size=(200, 200)).astype("f4"))])
    sky.append(fits.ImageHDU(gaussian(9, 1.2).astype("f4"), name="PSF"))
    sky.writeto(tmp_path / "i.fits")
    learned = []
    for n_jobs in (1, 2):
        path = tmp_path / f"{n_jobs}.json"
        words = [
            "--error",
            1,
            "--method",
            "lsq",
            "--number",
            260,
            "--snr",
            40,
            200,
            "--size",
            SIDE,
            "--n-jobs",
            n_jobs,
            "-o",
            path,
        ]
        assert call("calibrate", tmp_path / "i.fits", *words) == 0
        content = json.loads(path.read_text())
        del content["about"]["date"], content["sha256"]
        learned.append(content)
    assert learned[0] == learned[1]
