"""Time and memory of fitters, for ``default_answer.py``."""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import _one_core  # noqa: F401
import galsim
import numpy as np
from _answer_statistics import make_fitters
from _instruments import instruments

from galmeasure import Cutouts


def seconds(function):
    """Clock and processor seconds of a call."""
    clock, processor = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - clock, time.process_time() - processor


def rates(fitters, cutouts, rows_of, repeat):
    """Rows per second of each fitter, by clock and by processor: the best of runs that take turns.

    Parameters
    ----------
    fitters : dict
        Fitters by name.
    cutouts : Cutouts
        What is fitted.
    rows_of : dict
        Number of rows for each fitter, the first ones.
    repeat : int
        Runs of each fitter.

    Returns
    -------
    dict
        Rates ``(clock, processor)`` by name.
    """
    times = {name: [] for name in fitters}
    for fitter in fitters.values():
        fitter.fit(cutouts[:16])  # tables and caches
    for _ in range(repeat):
        for name, fitter in fitters.items():
            part = cutouts[: rows_of[name]]
            times[name].append(seconds(lambda fitter=fitter, part=part: fitter.fit(part)))
    return {name: rows_of[name] / np.min(values, axis=0) for name, values in times.items()}


def one_galaxy(fitter, cutouts, repeat):
    """Clock and processor milliseconds of a galaxy that is fitted alone: medians."""
    fitter.fit(cutouts[:1])
    times = [seconds(lambda i=i: fitter.fit(cutouts[i : i + 1])) for i in range(min(repeat, len(cutouts)))]
    return 1e3 * np.median(times, axis=0)


def single_stamp(side, seed):
    """Cutouts of one galaxy of S/N 60 on a stamp of any side."""
    instrument, rng = instruments()["LSST"], np.random.default_rng(seed)
    galaxy = galsim.Exponential(half_light_radius=min(5.0, side / 12.0)).shear(g1=0.1)
    profile = galsim.Convolve(galaxy, instrument.psf)
    image = profile.drawImage(nx=side, ny=side, scale=instrument.pixel_scale, dtype=float).array
    image = 60.0 * image / np.sqrt((image**2).sum()) + rng.normal(size=image.shape)
    return Cutouts(image, instrument.psf_image(25), error=1.0)


def stamp_cost(name, weights, refine, side, seed):
    """Seconds by clock and processor, and MB of memory that one stamp takes beyond what was taken before."""
    fitter = make_fitters(weights, refine)[name]
    fitter.fit(single_stamp(64, seed))
    cutouts = single_stamp(side, seed)
    _forget_peak()
    before = _memory("VmRSS")
    times = seconds(lambda: fitter.fit(cutouts))
    return *times, _memory("VmHWM") - before


def in_own_process(function, *args):
    """Return what a function gives in a fresh process, whose memory nothing else has filled."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *args).result()


def _forget_peak():
    """Let the peak of the memory begin anew, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _memory(name):
    """Memory of this process from the kernel's status file, MB; NaN where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return np.nan
    values = [int(line.split()[1]) / 1024.0 for line in lines if line.startswith(f"{name}:")]
    return values[0] if values else np.nan
