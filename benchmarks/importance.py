"""How exact, how calibrated and how dear is ``NeuralSersicFitter(refine="importance")``?

Galaxies of the study's set 3 are drawn with GalSim (``--file`` takes a table that ``galmeasure simulate`` has written)
and measured with and without refinement: effective part of the draws, RMSE, coverage, seconds of one core. They are
measured, too, with all draws evaluated exactly, and so with many more draws, with which both are compared. Then the
stamps of ``exact_posterior.ecsv`` are measured and compared with it, galaxy by galaxy.
"""

import argparse
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import _one_core  # noqa: F401
import numpy as np
import torch
from _report import RESULTS, metadata, report
from astropy.table import QTable, Table
from exact_posterior import columns, load_stamps, read_galaxies

from galmeasure import NeuralSersicFitter, get_weights, read_cutouts
from galmeasure.fitters.importance import refine
from galmeasure.flags import Flag
from galmeasure.parameters import PARAMETER_NAMES
from galmeasure.training import get_dataset_config, make_dataset

UNITS = np.array([1e5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
LEVELS = ("q16", "q50", "q84")
OVERSAMPLING = 3  # of the PSFs in exact_posterior.ecsv
EXACT_DRAWS = 0.001  # one over the effective draws of exact_posterior.ecsv
MANY_DRAWS = {"min_ess": 1500.0, "n_draws": 6000}
_BOOTSTRAPS = 500


def values_of(table, suffix="_fit"):
    """Columns of parameters (N, 7), without units."""
    return np.stack([np.asarray(getattr(table[f"{name}{suffix}"], "value", table[f"{name}{suffix}"]), dtype=float)
                     for name in PARAMETER_NAMES], 1)  # fmt: skip


def truth_of(path):
    """True parameters (N, 7): r_eff in arcsec, x and y in pixels."""
    table = QTable.read(path)
    return np.stack([np.asarray(getattr(table[f"true_{name}"], "value", table[f"true_{name}"]), dtype=float)
                     for name in PARAMETER_NAMES], 1)  # fmt: skip


def timed_fit(cutouts, **options):
    """Result table, and seconds of processor time for a galaxy."""
    fitter = NeuralSersicFitter(**options)
    fitter.fit(cutouts[:16])
    start = time.process_time()
    table = fitter.fit(cutouts)
    return table, (time.process_time() - start) / len(cutouts)


@contextmanager
def all_draws_exact():
    """Evaluate all draws exactly meanwhile."""
    kept, refine.FourierPosterior = refine.FourierPosterior, lambda *arguments: None
    try:
        yield
    finally:
        refine.FourierPosterior = kept


def monte_carlo_steps(table, reference):
    """Differences of means and medians in units of their Monte Carlo error, and ratios of the errors, (N, 7) each."""
    scale = np.sqrt(1.0 / np.asarray(table["ess"]) + 1.0 / np.asarray(reference["ess"]))[:, None]
    std = values_of(reference, "_err")
    mean, median = ((values_of(table, end) - values_of(reference, end)) / std / scale for end in ("_fit", "_q50"))
    return mean, median, values_of(table, "_err") / std


def agreement(tables, reference):
    """Agreement of both ways with posteriors from many exact draws."""
    result = {"parameter": PARAMETER_NAMES}
    for label, table in tables.items():
        mean, median, ratio = monte_carlo_steps(table, reference)
        rows = np.isfinite(mean).all(1) & np.isfinite(median).all(1)
        result |= {f"mean_{label}": mean[rows].mean(0), f"rms_{label}": rmse(mean[rows]),
                   f"rms_median_{label}": rmse(median[rows]), f"worst_{label}": np.abs(mean[rows]).max(0),
                   f"err_ratio_{label}": ratio[rows].mean(0)}  # fmt: skip
    return Table(result)


def spread(statistic, array, rng):
    """Bootstrap error of a statistic of rows."""
    picks = rng.integers(len(array), size=(_BOOTSTRAPS, len(array)))
    return np.std([statistic(array[pick]) for pick in picks], axis=0)


def rmse(errors):
    return np.sqrt((errors**2).mean(0))


def accuracy(tables, truth, rng):
    """RMSE with and without refinement, their ratio, and coverage of the 68.3 % interval."""
    plain, refined = (values_of(tables[name]) for name in ("neural", "refined"))
    kept = np.isfinite(plain).all(1) & np.isfinite(refined).all(1)
    errors = np.stack([(values - truth)[kept] / UNITS for values in (refined, plain)], 1)  # (N, 2, 7)
    ratio = lambda e: rmse(e[:, 0]) / rmse(e[:, 1])  # noqa: E731
    found, error = rmse(errors), spread(rmse, errors, rng)
    result = {
        "parameter": PARAMETER_NAMES, "rmse": found[0], "rmse_error": error[0], "rmse_network": found[1],
        "ratio": ratio(errors), "ratio_error": spread(ratio, errors, rng),
    }  # fmt: skip
    for name, label in (("refined", ""), ("neural", "_network")):
        table = tables[name]
        low, high = values_of(table, "_q16"), values_of(table, "_q84")
        rows = np.isfinite(low).all(1)
        inside = ((truth > low) & (truth < high))[rows]
        result[f"coverage_68{label}"] = inside.mean(0)
        result[f"coverage_error{label}"] = np.sqrt(0.6827 * 0.3173 / len(inside)) * np.ones(7)
        result[f"pull_std{label}"] = ((values_of(table) - truth) / values_of(table, "_err"))[kept].std(0)
    return Table(result)


def efficiency(table, seconds, exact, seconds_exact, seconds_network):
    """What the draws are worth, which way the rows went and what they cost."""
    part = np.asarray(table["ess"]) / np.maximum(np.asarray(table["n_draws"]), 1)
    method = np.asarray(table["method"])
    rows = [
        ("median ess / draws", np.median(part)),
        ("fraction with ess / draws below 0.3", np.mean(part < 0.3)),
        ("fraction with ess / draws below 0.05", np.mean(part < 0.05)),
        ("smallest ess", np.min(table["ess"])),
        ("mean draws", np.mean(table["n_draws"])),
        ("most draws", np.max(table["n_draws"])),
        ("fraction drawn about least squares", np.mean(method == "lsq+importance")),
        ("fraction of least squares", np.mean(method == "lsq")),
        ("fraction flagged poor_proposal", np.mean((table["flags"] & Flag.POOR_PROPOSAL) > 0)),
        ("ms a galaxy on one core", 1e3 * seconds),
        ("ms a galaxy on one core, network alone", 1e3 * seconds_network),
        ("ms a galaxy on one core, all draws exact", 1e3 * seconds_exact),
        ("median ess / draws, all draws exact", np.median(exact["ess"] / np.maximum(exact["n_draws"], 1))),
        ("mean draws, all draws exact", np.mean(exact["n_draws"])),
    ]
    return Table(rows=rows, names=("quantity", "value"))


def against_exact(table, exact):
    """Differences from the slow sampler's posteriors, in its standard deviations."""
    std = columns(exact, "_std")
    away = (values_of(table) - columns(exact, "_mean")) / std
    rows = np.isfinite(values_of(table, "_q50")).all(1)
    expected = np.sqrt(np.mean(1.0 / np.asarray(table["ess"])[rows]) + EXACT_DRAWS)
    result = {
        "parameter": PARAMETER_NAMES, "mean_difference": away[rows].mean(0), "rms_difference": rmse(away[rows]),
        "rms_expected": np.full(7, expected), "worst_difference": np.abs(away[rows]).max(0),
        "std_ratio": (values_of(table, "_err") / std)[rows].mean(0),
    }  # fmt: skip
    for level in LEVELS:
        shift = (values_of(table, f"_{level}") - columns(exact, f"_{level}")) / std
        result[f"{level}_difference"] = shift[rows].mean(0)
    return Table(result)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=1000, help="galaxies (%(default)s)")
    parser.add_argument("--seed", type=int, default=777, help="of the data set (%(default)s)")
    parser.add_argument("--file", type=Path, help="table of set 3 to use")
    parser.add_argument("--weights", default="study-v2", help="name or file (%(default)s)")
    parser.add_argument("--min-ess", type=float, default=100.0, help="effective draws wanted (%(default)s)")
    parser.add_argument("--many", type=int, default=100, help="galaxies that get many more draws (%(default)s)")
    parser.add_argument("--exact", type=int, default=500, help="galaxies of exact_posterior.ecsv (%(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    weights = get_weights(args.weights)
    refinement = {"weights": args.weights, "refine": "importance", "min_ess": args.min_ess}
    meta = metadata(1, weights=weights.name, sha256=weights.sha256, min_ess=args.min_ess, seed=args.seed)
    rng = np.random.default_rng(1)
    with TemporaryDirectory() as folder:
        path = args.file
        if path is None:
            path = make_dataset(Path(folder) / "set3.fits", get_dataset_config("3"), args.n, seed=args.seed)
        cutouts, truth = read_cutouts(path)[: args.n], truth_of(path)[: args.n]
        plain, seconds_network = timed_fit(cutouts, weights=args.weights)
        refined, seconds = timed_fit(cutouts, **refinement)
        with all_draws_exact():
            all_exact, seconds_exact = timed_fit(cutouts, **refinement)
            many = NeuralSersicFitter(**{**refinement, **MANY_DRAWS}).fit(cutouts[: args.many])
    options = {"meta": {**meta, "galaxies": len(refined)}, "output": args.output}
    title = f"refine='importance' on {len(refined)} galaxies of set 3: what the draws are worth"
    report(
        "importance", efficiency(refined, seconds, all_exact, seconds_exact, seconds_network), title=title, **options
    )
    title = f"refine='importance' on {len(refined)} galaxies of set 3; flux in 1e5, r_eff in arcsec"
    formats = dict.fromkeys(("coverage_68", "coverage_68_network", "pull_std", "pull_std_network"), ".3f")
    table = accuracy({"neural": plain, "refined": refined}, truth, rng)
    report("importance_accuracy", table, title=title, formats=formats, **options)
    title = (
        f"Means, medians and errors against those of {MANY_DRAWS['min_ess']:.0f} effective draws, in Monte Carlo errors"
    )
    tables = {"refined": refined[: args.many], "all_exact": all_exact[: args.many]}
    report("importance_agreement", agreement(tables, many), title=title, **options)
    if args.exact:
        exact = read_galaxies(RESULTS / "exact_posterior.ecsv")[: args.exact]
        stamps, _ = load_stamps(len(exact), exact.meta["seed"], exact.meta["dataset"], oversampling=OVERSAMPLING)
        table = NeuralSersicFitter(**refinement).fit(stamps)
        title = f"refine='importance' less the exact posteriors of {len(exact)} galaxies, in standard deviations"
        options["meta"] = {**meta, "galaxies": len(exact), "seed": exact.meta["seed"]}
        report("importance_exact", against_exact(table, exact), title=title, **options)


if __name__ == "__main__":
    main()
