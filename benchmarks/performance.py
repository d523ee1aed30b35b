"""How fast is everything? Renderer, estimators and the command, by stamp size, rows and cores; what a survey costs.

Rates are the best of runs that take turns, by the clock and by the processor. On a machine that does other work,
compare rates by the processor, and ratios to least squares in the same run. ``speed.py`` compares other codes.
"""

import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path

import _one_core  # noqa: F401
import click
import numpy as np
import torch
from _cost import in_own_process, rates, seconds
from _report import metadata, report
from astropy.io import fits
from astropy.table import Table

from galmeasure import LSQSersicFitter, NeuralSersicFitter, read_cutouts
from galmeasure.networks.precision import bf16_is_fast
from galmeasure.render import prepare_psf, render_sersic
from galmeasure.training import SimulationConfig, simulate_cutouts
from galmeasure.utils.compiled import VARIABLE
from galmeasure.weights import DEFAULT_WEIGHTS

SIDES = (32, 64, 128)
ROWS = (1, 64, 1024)
SURVEYS = {"one million": 1e6, "one billion": 1e9}
FAST = "survey-v3-fast"
SLOW = {"neural, importance": 8}
"""Estimators that are given fewer rows, and by what factor."""


class Renderer:
    """Renderer as a fitter: models of the first 64 stamps at their true parameters, all with one PSF."""

    def __init__(self, truth, psf, side, *, jacobian):
        self.truth = torch.as_tensor(truth[:64], dtype=torch.float32)
        self.psf = prepare_psf(torch.tensor(np.array(psf), dtype=torch.float32)[None], (side, side))
        self.jacobian = jacobian

    def fit(self, cutouts):
        """Render as many models as there are cutouts, at most 64."""
        with torch.inference_mode():
            render_sersic(self.truth[: len(cutouts)], self.psf, jacobian=self.jacobian)


def estimators(truth, psf, side):
    """What is timed, by name."""
    return {
        "render": Renderer(truth, psf, side, jacobian=False),
        "render with derivatives": Renderer(truth, psf, side, jacobian=True),
        "lsq": LSQSersicFitter(),
        "neural, no refinement": NeuralSersicFitter(refine=None),
        "neural": NeuralSersicFitter(),
        f"{FAST}, no refinement": NeuralSersicFitter(weights=FAST, refine=None),
        FAST: NeuralSersicFitter(weights=FAST),
        "neural, importance": NeuralSersicFitter(refine="importance"),
    }


def time_estimators(side, rows, threads, seed, repeat):
    """Rates by name of the estimator, with some rows of stamps of a side."""
    torch.set_num_threads(threads)
    cutouts, truth = next(simulate_cutouts(SimulationConfig(prior="galaxies", size=side), rows, seed=seed))
    fitters = estimators(truth, cutouts.psf_image(0), side)
    rows_of = {name: max(1, rows // SLOW.get(name, 1)) for name in fitters}
    rows_of |= {name: min(rows, 64) for name in fitters if name.startswith("render")}
    found = rates(fitters, cutouts, rows_of, repeat)
    return {name: (rows_of[name], *map(float, values)) for name, values in found.items()}


def throughput(sides, rows, cores, seed, repeat):
    """Rows of the table of rates."""
    cases = [(side, max(rows), 1) for side in sides]
    cases += [(64, count, 1) for count in rows if count != max(rows)]
    cases += [(64, max(rows), count) for count in cores if count > 1]
    for side, count, threads in cases:
        found = in_own_process(time_estimators, side, count, threads, seed, repeat)
        for name, (measured, clock, processor) in found.items():
            yield name, side, measured, threads, clock, processor, processor / found["lsq"][2]


def network_rates(rows, threads, seed, repeat):
    """Rates of the default and of the fast weights, with and without refinement, on stamps of 64 x 64 pixels."""
    torch.set_num_threads(threads)
    cutouts, _ = next(simulate_cutouts(SimulationConfig(prior="galaxies"), rows, seed=seed))
    fitters = {
        f"{weights}, {label}": NeuralSersicFitter(weights=weights, refine=refine)
        for weights in (DEFAULT_WEIGHTS, FAST)
        for label, refine in (("default", "auto"), ("no refinement", None))
    }
    return rates(fitters, cutouts, dict.fromkeys(fitters, rows), repeat)


def networks(rows, cores, seed, repeat):
    """Rows of the table of networks."""
    for threads in cores:
        for name, (clock, processor) in in_own_process(network_rates, rows, threads, seed, repeat).items():
            yield name, rows, threads, float(clock), float(processor), 1e6 / float(clock) / 60.0


def loop_fitters():
    """Estimators that compiled loops serve, by name, and by what their number of rows is divided."""
    return {
        "lsq": (LSQSersicFitter(), 4),
        "neural": (NeuralSersicFitter(), 1),
        FAST: (NeuralSersicFitter(weights=FAST), 1),
        "neural, importance": (NeuralSersicFitter(refine="importance"), 32),
    }


def loop_rates(rows, seed, repeat, names, barrier=None):
    """Rates by clock and processor, by name of the estimator and whether loops are compiled: the best of all turns.

    Other processes that do the same work side by side wait for each other at the barrier.
    """
    torch.set_num_threads(1)
    cutouts, _ = next(simulate_cutouts(SimulationConfig(prior="galaxies"), rows, seed=seed))
    times = {}
    for name in names:
        fitter, divisor = loop_fitters()[name]
        part = cutouts[: rows // divisor]
        for turn in range(repeat + 1):
            for is_compiled in (False, True):
                os.environ[VARIABLE] = str(int(is_compiled))
                if not turn:
                    fitter.fit(part[:16])  # tables, caches and compilation
                    continue
                if barrier is not None:
                    barrier.wait()
                key = name, is_compiled
                times.setdefault(key, []).append((len(part), *seconds(lambda f=fitter, p=part: f.fit(p))))
    return {key: [turns[0][0] / min(turn[i] for turn in turns) for i in (1, 2)] for key, turns in times.items()}


def loops(rows, cores, seed, repeat):
    """Rows of the table of compiled loops: one process, and several side by side, each with rows of its own."""
    for count in cores:
        names = list(loop_fitters()) if count == 1 else ["neural", FAST]
        context = multiprocessing.get_context("spawn")
        with context.Manager() as manager, ProcessPoolExecutor(count, mp_context=context) as pool:
            barrier = manager.Barrier(count)
            tasks = [pool.submit(loop_rates, rows, seed + i, repeat, names, barrier) for i in range(count)]
            found = [task.result() for task in tasks]
        for name in names:
            plain, compiled = (np.sum([rates[name, kind] for rates in found], axis=0) for kind in (False, True))
            minutes = 1e6 / compiled[0] / 60.0
            yield name, count, *map(float, (plain[0], compiled[0], compiled[1] / plain[1], minutes))


def write_catalog(path, rows, seed):
    """Catalogue of cutouts with errors and one PSF; gives the bytes of a row."""
    cutouts, _ = next(simulate_cutouts(SimulationConfig(prior="galaxies"), rows, seed=seed))
    images = np.stack([cutouts.image(row) for row in range(rows)]).astype(np.float32)
    errors = np.stack([cutouts.error(row) for row in range(rows)]).astype(np.float32)
    table = fits.table_to_hdu(Table({"id": np.arange(rows), "cutout": images, "error": errors}))
    psf = fits.ImageHDU(cutouts.psf_image(0), name="PSF")
    fits.HDUList([fits.PrimaryHDU(), table, psf]).writeto(path)
    return path.stat().st_size / rows


COMMANDS = {
    "lsq": (LSQSersicFitter, {}),
    "neural": (NeuralSersicFitter, {}),
    FAST: (NeuralSersicFitter, {"weights": FAST}),
}
"""Fitters of the command by name, with the options that the command is given too."""


def time_command(folder, rows, name, n_jobs, seed):
    """Clock seconds of the command on a file less those on its first row, and of the fitter on the same rows."""
    path = folder / "catalog.fits"
    if not path.exists():
        write_catalog(path, rows, seed)
    fitter_class, options = COMMANDS[name]
    fitter = fitter_class(**options)
    words = [sys.executable, "-m", "galmeasure", str(path), "--overwrite", "--quiet", "--method", fitter.method]
    words += [word for option, value in options.items() for word in (f"--{option}", value)]
    words += ["--n-jobs", str(n_jobs), "-o", str(folder / "out.fits")]
    command = seconds(lambda: subprocess.run(words, check=True))[0]
    start = seconds(lambda: subprocess.run([*words, "--rows", "0"], check=True))[0]
    cutouts = read_cutouts(path)
    fitter.fit(cutouts[:16])
    return command - start, seconds(lambda: fitter.fit(cutouts))[0]


def end_to_end(rows, cores, seed):
    """Rows of the table of the command."""
    folder = Path(tempfile.mkdtemp())
    try:
        for name in COMMANDS:
            for n_jobs in cores:
                command, fitter = time_command(folder, rows, name, n_jobs, seed)
                yield name, rows, n_jobs, rows / command, rows / fitter, fitter / command
    finally:
        shutil.rmtree(folder)


def survey_costs(table, bytes_in, bytes_out):
    """Core-hours and storage of surveys, from the rates by the processor for stamps of 64 x 64 pixels."""
    chosen = table[(table["side"] == 64) & (table["cores"] == 1)]
    largest = {row["what"]: row for row in sorted(chosen, key=lambda row: row["rows"])}
    for row in [row for name, row in largest.items() if not name.startswith("render")]:
        for survey, count in SURVEYS.items():
            hours = count / row["per_cpu_second"] / 3600.0
            yield row["what"], survey, hours, count * bytes_in / 1e12, count * bytes_out / 1e12


def result_bytes(seed):
    """Bytes of a row of the default's table, as FITS."""
    cutouts, _ = next(simulate_cutouts(SimulationConfig(prior="galaxies"), 64, seed=seed))
    table = NeuralSersicFitter().fit(cutouts)
    return fits.table_to_hdu(Table(table)).header["NAXIS1"]


@click.command(help=__doc__)
@click.option("--rows", default=max(ROWS), show_default=True, help="Rows of the largest batch.")
@click.option("--cores", multiple=True, type=int, default=(1,), show_default=True, help="Numbers of cores.")
@click.option("--repeat", default=2, show_default=True, help="Runs of each; the best counts.")
@click.option("--seed", default=11, show_default=True, help="Seed of the stamps.")
@click.option("--networks", "only_networks", is_flag=True, help="Compare the default with the fast weights, only.")
@click.option("--loops", "only_loops", is_flag=True, help="Compare compiled loops with torch alone, only.")
@click.option("--output", type=click.Path(path_type=Path), help="Folder of the tables.")
def main(rows, cores, repeat, seed, only_networks, only_loops, output):
    """Take the times and write three tables, or that of networks, or that of compiled loops."""
    meta = metadata(max(cores), seed=seed, repeat=repeat)
    if only_loops:
        meta |= {"rows": rows, "bfloat16": bf16_is_fast("cpu"), "numba": version("numba")}
        names = ("what", "processes", "plain_per_second", "compiled_per_second", "ratio", "minutes_a_million")
        table = Table(rows=list(loops(rows, cores, seed, repeat)), names=names)
        report("performance_loops", table, meta, title="Galaxies a second with compiled loops", output=output)
        return
    if only_networks:
        meta["bfloat16"] = bf16_is_fast("cpu")
        names = ("what", "rows", "cores", "per_second", "per_cpu_second", "minutes_a_million")
        table = Table(rows=list(networks(rows, cores, seed, repeat)), names=names)
        report("performance_networks", table, meta, title="The default and the fast weights", output=output)
        return
    counts = sorted({count for count in ROWS if count < rows} | {rows})
    found = list(throughput(SIDES, counts, cores, seed, repeat))
    names = ("what", "side", "rows", "cores", "per_second", "per_cpu_second", "over_lsq")
    table = Table(rows=found, names=names)
    report("performance", table, meta, title="Galaxies a second, one PSF for every eight", output=output)
    found = list(end_to_end(2 * rows, cores, seed))
    names = ("method", "rows", "processes", "command_per_second", "fitter_per_second", "share")
    title = "The command on a FITS table, without its start, beside the fitter on the same rows with one thread"
    report("performance_command", Table(rows=found, names=names), meta, title=title, output=output)
    stamp = 2 * 4 * 64**2 + 8
    found = list(survey_costs(table, stamp, result_bytes(seed)))
    names = ("what", "galaxies", "core_hours", "stamps_tb", "results_tb")
    title = "What a survey costs: stamps of 64 x 64 with errors in single precision, and all columns of the results"
    report("performance_surveys", Table(rows=found, names=names), meta, title=title, output=output)


if __name__ == "__main__":
    main()
