"""Where does the time of the default go? Microseconds a galaxy by the processor, with one PSF, one for eight, one each.

Stamps of 64 x 64 pixels of the prior of the default's training, without and with bfloat16 where the processor has it.
The shares of one run compare well on a busy machine; the sums of several runs do not. Another table has what comes
before a device can begin: microseconds a row of checking arguments and preparing batches, for each form of the error.
"""

import cProfile
import pstats
import time
from pathlib import Path

import _one_core  # noqa: F401
import click
import numpy as np
import torch
from _report import metadata, report
from astropy.table import Table

from galmeasure import Cutouts, NeuralSersicFitter
from galmeasure.networks.precision import bf16_is_fast
from galmeasure.simulation.stamps import SimulationConfig, simulate_stamps
from galmeasure.utils.chunks import chunk_size

STAGES = {
    "check the arguments": ("cutouts.py", "__init__"),
    "make batches": ("batches.py", "make_batch"),
    "clean PSFs": ("network_psfs.py", "cleaned_psfs"),
    "encoder": ("posterior.py", "encode"),
    "PSFs of models": ("rendering.py", "rendering_groups"),
    "models": ("sersic.py", "render_raw"),
    "normal equations": ("white_noise.py", "normal_equations"),
    "rest of the steps": ("newton.py", "evaluate_batch"),
    "correction": ("posteriors.py", "_corrected"),
    "out-of-distribution score": ("fitter.py", "_ood_inputs"),
    "table": ("table.py", "build_table"),
}
"""Functions whose time, with all that they call, is that of a stage."""

PARTS_OF_STEPS = ("PSFs of models", "models", "normal equations")
_HOST_REPEAT = 5  # they take little time
PSFS = {"one": 10**9, "one for eight": 8, "one each": 1}


def arguments(stamps_per_psf, rows, seed):
    """Stamps and the words of ``fit``, a PSF image for each of them unless all share one."""
    config = SimulationConfig(prior="survey", stamps_per_psf=stamps_per_psf)
    stamps = simulate_stamps(config, rows, generator=torch.Generator().manual_seed(seed))
    psf = stamps.psf_images.numpy()
    psf = psf[0] if len(psf) == 1 else psf[stamps.psf_index.numpy()]
    gain = np.minimum(stamps.gain.numpy().astype(float), 1e12)
    options = {"error": stamps.error.numpy(), "mask": ~stamps.good.numpy(), "gain": gain}
    return stamps.image.numpy(), psf, options


def profile(function):
    """Seconds by the processor of a call: all of it, and each of the stages."""
    profiler = cProfile.Profile(time.process_time)
    start = time.process_time()
    profiler.runcall(function)
    total = time.process_time() - start
    seconds = dict.fromkeys(STAGES, 0.0)
    for (path, _, name), (*_, cumulative, _callers) in pstats.Stats(profiler).stats.items():
        for stage, (file, called) in STAGES.items():
            if "galmeasure" in path and Path(path).name == file and name == called:
                seconds[stage] += cumulative
    seconds["rest of the steps"] -= sum(seconds[part] for part in PARTS_OF_STEPS)
    return total, seconds


def shares(label, stamps_per_psf, precision, rows, repeat, seed):
    """Rows of the table for stamps with some PSFs: those of the fastest run."""
    images, psf, options = arguments(stamps_per_psf, rows, seed)
    fitter = NeuralSersicFitter(precision=precision)
    fitter.fit(Cutouts(images, psf, **options)[:16])  # tables and caches
    total, seconds = min(
        (profile(lambda: fitter.fit(images, psf, **options)) for _ in range(repeat)), key=lambda run: run[0]
    )
    seconds["everything else"] = total - sum(seconds.values())
    for stage, value in {**seconds, "all": total}.items():
        yield label, precision, stage, 1e6 * value / rows, value / total


def errors(options):
    """Forms in which the error may come: a number, a map for each stamp, and none."""
    return {"one number": {"error": 1.0}, "maps, masks and gain": options, "estimated": {}}


def host_cost(label, stamps_per_psf, rows, repeat, seed):
    """Rows of the table of checks and batches for stamps with some PSFs: the least of several times."""
    images, psf, options = arguments(stamps_per_psf, rows, seed)
    for form, words in errors(options).items():
        seconds = []
        for _ in range(repeat):
            start = time.process_time()
            cutouts = Cutouts(images, psf, **words)
            checked = time.process_time()
            for _batch in cutouts.batches(chunk_size("network batch")):
                pass
            seconds.append((checked - start, time.process_time() - checked))
        yield label, form, *(1e6 * min(values) / rows for values in zip(*seconds, strict=True))


@click.command(help=__doc__)
@click.option("--rows", default=2048, show_default=True, help="Galaxies.")
@click.option("--repeat", default=2, show_default=True, help="Runs of each; the fastest counts.")
@click.option("--seed", default=5, show_default=True, help="Seed of the stamps.")
@click.option("--host", is_flag=True, help="Only the table of checks and batches.")
@click.option("--output", type=click.Path(path_type=Path), help="Folder of the tables.")
def main(rows, repeat, seed, host, output):
    """Take the times and write the tables."""
    meta = metadata(1, rows=rows, seed=seed, repeat=max(repeat, _HOST_REPEAT))
    costs = [row for label, count in PSFS.items() for row in host_cost(label, count, rows, meta["repeat"], seed)]
    table = Table(rows=costs, names=("psfs", "error", "check", "batch"))
    title, formats = "Microseconds a row before a device can begin", {"check": ".1f", "batch": ".1f"}
    report("default_host", table, meta, title=title, formats=formats, output=output)
    if host:
        return
    precisions = ["float32", *(["bfloat16"] if bf16_is_fast("cpu") else [])]
    cases = [(label, count, precision) for precision in precisions for label, count in PSFS.items()]
    found = [row for case in cases for row in shares(*case, rows, repeat, seed)]
    table = Table(rows=found, names=("psfs", "precision", "stage", "microseconds", "share"))
    title, formats = "The default's time a galaxy by the processor", {"microseconds": ".0f", "share": ".3f"}
    meta = metadata(1, rows=rows, seed=seed, repeat=repeat)
    report("default_shares", table, meta, title=title, formats=formats, output=output)


if __name__ == "__main__":
    main()
