"""How fast is the least-squares fit, how do other codes do on the same stamps, and where does the time go?

64x64 stamps of the study's set 3 (mixed galaxies), the same images, error maps and PSFs for every code, in one run.
Other codes that are not installed are left out. The same codes also measure the study's reference galaxy without noise,
which shows what their renderings do. ``--profile`` says where the time of galmeasure goes instead.
Wall-clock rates need an idle machine; the rates per CPU second suffer less from other work on it.
"""

import argparse
import cProfile
import functools
import pstats
import time
from pathlib import Path

import _one_core  # noqa: F401
import numpy as np
import torch
from _other_codes import RUNNERS
from _report import metadata, report
from _study_galaxies import (
    OVERSAMPLING,
    PIXEL_SCALE,
    REFERENCE_FWHM,
    REFERENCE_SIGMA,
    draw_psf,
    moffat,
    reference_image,
    reference_truth,
    study_set_3,
)
from astropy.table import Table

from galmeasure import Cutouts, LSQSersicFitter
from galmeasure.fitters.lsq import solve as lsq
from galmeasure.parameters import PARAMETER_NAMES

NAMES = PARAMETER_NAMES[:5]
SAMPLINGS = {"native": 1, "oversampled": OVERSAMPLING}
CODES = ("pyimfit", "petrofit", "statmorph", "astrophot", "pysersic", "lenstronomy")


def errors_of(values, truth):
    """Columns of the comparison: relative flux, n, r_eff [pixels], g1, g2: root mean square, NaN rows left out."""
    delta = values[:, :5] - truth[:, :5]
    delta[:, 0] /= truth[:, 0]
    return np.sqrt(np.nanmean(delta**2, axis=0))


def values_of(table):
    return np.stack([np.asarray(table[f"{name}_fit"].value, dtype=float) for name in PARAMETER_NAMES], 1)


def timed(function):
    """Result, wall seconds and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def best_of(repeat, function):
    runs = [timed(function) for _ in range(repeat)]
    return runs[0][0], min(run[1] for run in runs), min(run[2] for run in runs)


def fit(stamps, psf, oversampling):
    return LSQSersicFitter().fit(Cutouts(stamps.images, psf, error=stamps.error, psf_oversampling=oversampling))


def galmeasure_rows(stamps, shared, args):
    """One row per sampling of the PSF, shared or per galaxy, and number of threads; the first galaxies apart."""
    rows = []
    for threads in args.threads:
        torch.set_num_threads(threads)
        for label, chosen in (("one PSF", shared), ("PSF per galaxy", stamps)):
            for sampling, oversampling in SAMPLINGS.items():
                psf = chosen.psf_images(oversampling)
                fit(_first(chosen, 32), psf[:32] if psf.ndim == 3 else psf, oversampling)  # tables and caches
                run = functools.partial(fit, chosen, psf, oversampling)
                table, wall, cpu = best_of(args.repeat, run)
                count = len(table)
                fine = np.asarray(table["flags"]) & 0b111 == 0
                peers = slice(0, args.peer_number)
                rows.append(
                    (f"galmeasure, {label}, {sampling}", threads, count, count / wall, count / cpu, fine.mean(),
                     *errors_of(values_of(table), chosen.truth),
                     *errors_of(values_of(table)[peers], chosen.truth[peers]))
                )  # fmt: skip
                print(f"{rows[-1][0]}, {threads} thread(s): {count / wall:.1f} fits/s", flush=True)
    torch.set_num_threads(1)
    return rows


def _first(stamps, number):
    return type(stamps)(*(getattr(stamps, name)[:number] for name in ("images", "noiseless", "truth", "sigma", "fwhm")))


def peer_row(name, runner, stamps, number):
    """Fit the first galaxies, each with its own PSF, one after another."""
    oversampled = "oversampled" in name
    psf = stamps.psf_images(OVERSAMPLING if oversampled else 1)
    values, fine = np.full((number, 7), np.nan), np.zeros(number, dtype=bool)

    def run():
        for i in range(number):
            try:
                values[i], fine[i] = runner.fit(stamps.images[i], stamps.error[i], psf[i])
            except (RuntimeError, ValueError, ArithmeticError) as error:  # a failed fit is a result
                print(f"{name}: galaxy {i}: {error}")

    _, wall, cpu = timed(run)
    errors = errors_of(values, stamps.truth[:number])
    print(f"{name}: {number / wall:.2f} fits/s", flush=True)
    return (name, 1, number, number / wall, number / cpu, fine.mean(), *errors, *errors)


def compare(args):
    """Rates, accuracy and ratios of all codes."""
    stamps = study_set_3(args.number, args.seed)
    shared = study_set_3(args.number, args.seed, shared_fwhm=args.shared_fwhm)
    rows = galmeasure_rows(stamps, shared, args)
    runners = installed(RUNNERS if args.codes is None else args.codes)
    rows += [peer_row(name, runner, stamps, min(args.peer_number, args.number)) for name, runner in runners.items()]
    names = (
        "code", "threads", "galaxies", "fits_per_s", "fits_per_cpu_s", "fine",
        *(f"rmse_{name}" for name in NAMES), *(f"rmse_first_{name}" for name in NAMES),
    )  # fmt: skip
    table = Table(rows=rows, names=names)
    table["rmse_flux"].description = table["rmse_first_flux"].description = "relative to the true flux"
    table["rmse_r_eff"].description = table["rmse_first_r_eff"].description = "pixels"
    table["rmse_first_n"].description = "on the galaxies that the other codes were given"
    table["fine"].description = "fraction that converged away from all bounds"
    ours = table[2]["fits_per_s"] if len(table) > 2 else np.nan  # PSF per galaxy, native, first number of threads
    table["ours_over_this"] = ours / table["fits_per_s"]
    table["ours_over_this_cpu"] = table[2]["fits_per_cpu_s"] / table["fits_per_cpu_s"]
    meta = metadata(max(args.threads), CODES, seed=args.seed, shared_fwhm=args.shared_fwhm)
    title = "Fits a second on stamps of set 3 (ours_over_this: galmeasure with a native PSF per galaxy over the code)"
    report("speed", table, meta, title=title, output=args.output)
    title = "Noise-free reference galaxy: flux [1e5], n, r_eff [arcsec], g1, g2"
    formats = dict.fromkeys(NAMES, ".4f")
    report(
        "noise_free", noise_free_table(runners), metadata(1, CODES), title=title, formats=formats, output=args.output
    )


def installed(names):
    """Runners of the codes that are installed, by name."""
    runners = {}
    for name in names:
        try:
            runners[name] = RUNNERS[name]()
        except ImportError as error:
            print(f"{name} left out: {error}")
    return runners


def noise_free_table(runners):
    """What each code makes of the noise-free reference galaxy, with the noise map of S/N 60.

    The map is given, not a gain: the likelihood of the variance prefers a fainter model when residuals vanish.
    """
    image = reference_image()
    error = np.sqrt(REFERENCE_SIGMA[60] ** 2 + image)
    psfs = {sampling: draw_psf(moffat(REFERENCE_FWHM), oversampling=value) for sampling, value in SAMPLINGS.items()}
    units = np.array([1e-5, 1.0, PIXEL_SCALE, 1.0, 1.0])
    rows = [("truth", *reference_truth()[:5] * units)]
    for sampling, oversampling in SAMPLINGS.items():
        table = LSQSersicFitter().fit(Cutouts(image[None], psfs[sampling], error=error, psf_oversampling=oversampling))
        rows.append((f"galmeasure, {sampling} PSF", *values_of(table)[0, :5] * units))
    for name, runner in runners.items():
        values, _ = runner.fit(image, error, psfs["oversampled" if "oversampled" in name else "native"])
        rows.append((name, *values[:5] * units))
    return Table(rows=rows, names=("code", *NAMES))


class _Recorder:
    """Stands in for the minimiser and keeps what each call did."""

    def __init__(self, function):
        self.function, self.calls = function, {"in Fourier space": [], "to the exact loss": [], "other starts": []}

    def __call__(self, evaluate, *args, **kwargs):
        solution = self.function(evaluate, *args, **kwargs)
        is_model = "_corrected" in evaluate.__qualname__
        kind = (
            "to the exact loss" if is_model else "in Fourier space" if hasattr(evaluate, "__self__") else "other starts"
        )
        self.calls[kind].append((solution.n_iter.numpy().copy(), solution.converged.numpy().copy()))
        return solution


def iteration_table(stamps, psf, oversampling):
    """How many evaluations the galaxies need, in Fourier space but for those of other starts in pixels."""
    recorder = _Recorder(lsq.minimise)
    lsq.minimise = recorder
    try:
        fit(stamps, psf, oversampling)
    finally:
        lsq.minimise = recorder.function
    rows = []
    for label, calls in recorder.calls.items():
        if calls:
            count, converged = (np.concatenate(column) for column in zip(*calls, strict=True))
            rows.append(
                (label, len(count), count.sum() / len(stamps.images), count.mean(),
                 *np.percentile(count, [5, 50, 95, 99]), count.max(), converged.mean())
            )  # fmt: skip
    names = ("start", "galaxies", "evaluations_per_galaxy", "mean", "p5", "p50", "p95", "p99", "max", "converged")
    return Table(rows=rows, names=names)


def function_table(stamps, psf, oversampling, top=25):
    """Own time by Python function, in per cent."""
    profile = cProfile.Profile()
    profile.runcall(fit, stamps, psf, oversampling)
    stats = pstats.Stats(profile).stats
    total = sum(entry[2] for entry in stats.values())
    rows = []
    for (path, _, function), (_, calls, own, cumulative, _) in stats.items():
        name = function if path in ("~", "") else f"{Path(path).name}:{function}"
        rows.append((name, calls, 100 * own / total, 100 * cumulative / total))
    rows.sort(key=lambda row: -row[2])
    return Table(rows=rows[:top], names=("function", "calls", "own_percent", "with_callees_percent"))


def operator_table(stamps, psf, oversampling, top=20):
    """Own time by torch operator, in per cent of all operators."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        fit(stamps, psf, oversampling)
    events = sorted(profile.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    rows = [(event.key, event.count, 100 * event.self_cpu_time_total / total) for event in events[:top]]
    return Table(rows=rows, names=("operator", "calls", "own_percent"))


def profile(args):
    """Where the time goes, for one PSF per galaxy at native sampling and a shared oversampled one."""
    cases = {
        "per_galaxy_native": (study_set_3(args.number, args.seed), 1),
        "shared_oversampled": (study_set_3(args.number, args.seed, shared_fwhm=args.shared_fwhm), OVERSAMPLING),
    }
    meta = metadata(args.threads[0], number=args.number, seed=args.seed)
    for name, (stamps, oversampling) in cases.items():
        psf = stamps.psf_images(oversampling)
        fit(stamps, psf, oversampling)
        for kind, maker in (
            ("iterations", iteration_table),
            ("functions", function_table),
            ("operators", operator_table),
        ):
            table = maker(stamps, psf, oversampling)
            title = f"{name}: {kind}"
            report(f"profile_{name}_{kind}", table, meta, title=title, output=args.output)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--number", type=int, default=1024, help="stamps for galmeasure (%(default)s)")
    parser.add_argument("--peer-number", type=int, default=40, help="stamps for the other codes (%(default)s)")
    parser.add_argument("--codes", nargs="*", choices=RUNNERS, help="other codes to run; all by default")
    parser.add_argument("--no-codes", action="store_true", help="run galmeasure only")
    parser.add_argument("--threads", nargs="+", type=int, default=[1], help="cores for galmeasure, e.g. 1 2")
    parser.add_argument("--repeat", type=int, default=3, help="times each galmeasure run is timed; the best counts")
    parser.add_argument("--shared-fwhm", type=float, default=0.75, help="PSF of the shared-PSF runs [arcsec]")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="profile galmeasure instead of comparing")
    parser.add_argument("--output", help="folder of the results")
    args = parser.parse_args()
    if args.no_codes:
        args.codes = []
    torch.set_num_threads(args.threads[0])
    profile(args) if args.profile else compare(args)


if __name__ == "__main__":
    main()
