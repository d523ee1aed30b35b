"""How well can any estimator do? The exact posterior of galaxies of the study's data sets, centre free.

Adaptive importance sampling with the package's renderer, likelihood and ``study`` prior, noise and PSF of each galaxy
known. The posterior mean has the smallest mean square error over the prior that is possible. Writes a row for each
galaxy (``--dataset``, ``-n``, ``--seed`` say which) and a summary: RMSE, pulls, coverage.

``--compare METHOD`` measures the same stamps with another estimator and compares it with that file, galaxy by galaxy.
``--check N`` runs Markov chains, written independently, on the first galaxies and compares means and deviations.
"""

import argparse
import dataclasses
import functools
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import _one_core  # noqa: F401
import numpy as np
import torch
from _importance import Settings, sample_posterior
from _markov import autocorrelation_time, stretch_moves
from _posterior import PIECE, PRIOR, FluxFree, Galaxy, first_walkers, log_density, starting_mixtures
from _report import RESULTS, metadata, report
from _study_galaxies import OVERSAMPLING
from astropy.table import Table
from tqdm import tqdm

from galmeasure import LSQSersicFitter, read_cutouts
from galmeasure.parameters import PARAMETER_NAMES
from galmeasure.training import get_dataset_config, make_dataset

LEVELS = {"q02": 0.02275, "q16": 0.15866, "q50": 0.5, "q84": 0.84134, "q98": 0.97725}
"""Quantiles in the table: 0, 1 and 2 standard deviations of a normal distribution."""

STATISTICS = ("mean", "std", *LEVELS)
PUBLISHED_UNITS = np.array([1e5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
_DIGITS = dict(zip(PARAMETER_NAMES, (1, 4, 5, 5, 5, 4, 4), strict=True))
_DIGITS |= {"snr": 3, "psf_fwhm": 5, "sigma": 3, "ess": 0, "log_evidence": 3}

N_WALKERS = 4 * PIECE
_BOOTSTRAPS = 2000


def load_stamps(n, seed, dataset="3", *, oversampling=1):
    """Draw stamps of a data set with GalSim, always the same ones.

    Parameters
    ----------
    n : int
        How many; fewer are the first of more.
    seed : int
        Of the data set.
    dataset : str, optional
        Which of the study: ``"1"``, ``"2"`` or ``"3"``.
    oversampling : int, optional
        Samples in a pixel of the PSF images. The cutouts do not depend on it.

    Returns
    -------
    cutouts : `~galmeasure.Cutouts`
        Image, error (of the background), gain, PSF and pixel scale of each galaxy.
    truth : `~astropy.table.Table`
        Columns of `galmeasure.parameters.PARAMETER_NAMES` (flux in electrons, r_eff in arcsec), ``snr``,
        ``psf_fwhm``, ``sigma``.
    """
    config = dataclasses.replace(get_dataset_config(dataset), psf_oversampling=oversampling)
    with TemporaryDirectory() as folder:
        path = make_dataset(Path(folder) / "stamps.fits", config, n, seed=seed)
        cutouts = read_cutouts(path)
        table = Table.read(path, hdu=1, memmap=False)
        names = (*PARAMETER_NAMES, "snr", "psf_fwhm", "sigma")
        return cutouts, Table([np.array(table[f"true_{name}"], float) for name in names], names=names)


def fit_lsq(cutouts):
    """Maximum-likelihood solutions ``(N, 7)`` and covariances ``(N, 7, 7)`` in the units of the table."""
    table = LSQSersicFitter(bias_correction=False, covariance=True).fit(cutouts)
    covariance = np.asarray(table["covariance"])
    return columns(table, "_fit"), covariance


def columns(table, suffix=""):
    """Columns of parameters, shape ``(N, 7)``, without units."""
    return np.stack([np.asarray(table[f"{name}{suffix}"], dtype=float) for name in PARAMETER_NAMES], 1)


def exact_posteriors(cutouts, seed, settings, *, progress_bar=True):
    """Posterior of each galaxy.

    Parameters
    ----------
    cutouts : `~galmeasure.Cutouts`
        From `load_stamps`, with oversampled PSFs.
    seed : int
        Of the draws.
    settings : Settings
        How many.
    progress_bar : bool, optional
        Show one.

    Returns
    -------
    Table
        Columns ``<p>_mean``, ``<p>_std``, ``<p>_q02`` to ``<p>_q98``, ``ess``, ``n_draws``, ``log_evidence`` (of the
        pixels in units of the background noise; the prior is not normalised for its cut in S/N).
    """
    solutions, covariances = fit_lsq(cutouts)
    rows = []
    for row in tqdm(range(len(cutouts)), unit="gal", disable=not progress_bar):
        rng = np.random.default_rng([seed, row])
        galaxy = Galaxy(cutouts, row)
        target = FluxFree(galaxy, rng)
        units = galaxy.units
        with torch.inference_mode():
            start = starting_mixtures(target, solutions[row] / units, covariances[row] / np.outer(units, units), rng)
            found = sample_posterior(target, *start, rng, settings)
        numbers = np.stack([found.mean, found.std, *found.quantiles(list(LEVELS.values()))]) * units
        rows.append((*numbers.T.ravel(), found.ess, len(found.values), found.log_evidence))
    names = [f"{name}_{statistic}" for name in PARAMETER_NAMES for statistic in STATISTICS]
    return Table(rows=rows, names=[*names, "ess", "n_draws", "log_evidence"])


def bootstrap(function, *arrays, seed=0):
    """Value of a function of arrays and the standard deviation of it when galaxies are drawn again."""
    rng = np.random.default_rng(seed)
    draws = [rng.integers(0, len(arrays[0]), len(arrays[0])) for _ in range(_BOOTSTRAPS)]
    return function(*arrays), np.std([function(*(array[chosen] for array in arrays)) for chosen in draws], axis=0)


def rmse(delta):
    return np.sqrt(np.mean(delta**2, axis=0))


def summary_table(table):
    """RMSE of the posterior mean, what the posterior expects of it, pulls and coverage, by parameter."""
    truth, mean, std = columns(table), columns(table, "_mean"), columns(table, "_std")
    quantile = {name: columns(table, f"_{name}") for name in LEVELS}
    delta = (mean - truth) / PUBLISHED_UNITS
    error, error_err = bootstrap(rmse, delta)
    pull = delta * PUBLISHED_UNITS / std
    pull_std, pull_std_err = bootstrap(lambda p: p.std(0, ddof=1), pull)
    within = [(truth > quantile[a]) & (truth < quantile[b]) for a, b in (("q16", "q84"), ("q02", "q98"))]
    result = {
        "parameter": PARAMETER_NAMES,
        "rmse": error,
        "rmse_error": error_err,
        "rmse_expected": rmse(std / PUBLISHED_UNITS),
        "bias": delta.mean(0),
        "pull_mean": pull.mean(0),
        "pull_std": pull_std,
        "pull_std_error": pull_std_err,
        "coverage_68": within[0].mean(0),
        "coverage_95": within[1].mean(0),
    }
    return Table(result)


def _neural():
    from galmeasure import NeuralSersicFitter

    return NeuralSersicFitter(weights="study-v2")


_METHODS = {
    "lsq": LSQSersicFitter,
    "lsq-ml": functools.partial(LSQSersicFitter, bias_correction=False),
    "neural": _neural,
}
"""Estimators to compare: name to fitter."""


def comparison_table(exact, fitted):
    """RMSE of an estimator and its ratio to that of the posterior mean, on the galaxies that it could measure."""
    truth, mean, std, other = columns(exact), columns(exact, "_mean"), columns(exact, "_std"), columns(fitted, "_fit")
    kept = np.isfinite(other).all(1)
    truth, mean, std, other = (array[kept] for array in (truth, mean, std, other))
    ours, best = ((values - truth) / PUBLISHED_UNITS for values in (other, mean))
    error, error_err = bootstrap(rmse, ours)
    ratio, ratio_err = bootstrap(lambda a, b: rmse(a) / rmse(b), ours, best)
    away, away_err = bootstrap(rmse, (other - mean) / std)
    result = {
        "parameter": PARAMETER_NAMES,
        "rmse": error,
        "rmse_error": error_err,
        "rmse_exact": rmse(best),
        "ratio": ratio,
        "ratio_error": ratio_err,
        "rms_from_exact_in_std": away,
        "rms_from_exact_error": away_err,
        "bias": ours.mean(0),
    }
    return Table(result), int((~kept).sum())


def check_table(cutouts, exact, args):
    """Means and deviations of Markov chains next to those of importance sampling, in units of the deviation."""
    rows = []
    for row in tqdm(range(args.check), unit="chain"):
        rng = np.random.default_rng([args.seed, row, 1])
        galaxy = Galaxy(cutouts, row)
        mean, std = (columns(exact[row : row + 1], f"_{name}")[0] / galaxy.units for name in ("mean", "std"))
        with torch.inference_mode():
            walkers = first_walkers(galaxy, mean, rng, N_WALKERS)
            chain = stretch_moves(functools.partial(log_density, galaxy), walkers, args.steps, rng)
        chain = chain[len(chain) // 4 :]
        for i, name in enumerate(PARAMETER_NAMES):
            effective = chain[..., i].size / autocorrelation_time(chain[..., i])
            error = np.sqrt(1.0 / effective + 1.0 / exact["ess"][row])
            difference = (chain[..., i].mean() - mean[i]) / std[i]
            ratio = chain[..., i].std() / std[i]
            rows.append((row + 1, name, difference, error, difference / error, ratio, effective))
    names = ("row", "parameter", "mean_difference", "expected", "in_errors", "std_ratio", "effective_draws")
    return Table(rows=rows, names=names)


def file_name(dataset):
    """Name of the result, without extension."""
    return "exact_posterior" if dataset == "3" else f"exact_posterior_set{dataset}"


def write_galaxies(path, truth, found, meta):
    """Write one row for each galaxy with the digits that matter; the table as it is read again."""
    table = truth.copy()
    for name in found.colnames:
        table[name] = found[name]
    for name in table.colnames:
        parameter = name.rsplit("_", 1)[0] if name.endswith(STATISTICS) else name
        if table[name].dtype.kind == "f":
            table[name] = np.round(table[name], _DIGITS[parameter])
    table.meta = meta
    path.parent.mkdir(parents=True, exist_ok=True)
    table.write(path, format="ascii.ecsv", delimiter=",", overwrite=True)
    return Table.read(path, format="ascii.ecsv")


def read_galaxies(path):
    """Result file of the posteriors."""
    if not path.exists():
        msg = f"{path}: does not exist; the command without --compare and --check makes it"
        raise SystemExit(msg)
    return Table.read(path, format="ascii.ecsv")


def same_stamps(exact, oversampling):
    """Stamps of a result file, checked against the truth in it."""
    meta = exact.meta
    cutouts, truth = load_stamps(len(exact), meta["seed"], meta["dataset"], oversampling=oversampling)
    if not np.allclose(columns(truth), columns(exact), rtol=1e-5, atol=2e-4):
        msg = "the stamps are not those of the result file; make it again"
        raise SystemExit(msg)
    return cutouts


def make(args, path):
    """Draw stamps, find their posteriors, write and summarise them."""
    start = time.perf_counter()
    cutouts, truth = load_stamps(args.n, args.seed, args.dataset, oversampling=args.oversampling)
    settings = Settings(ess=args.ess)
    found = exact_posteriors(cutouts, args.draw_seed, settings)
    settings = {**dataclasses.asdict(settings), "draw_seed": args.draw_seed, "psf_oversampling": args.oversampling}
    meta = metadata(1, dataset=args.dataset, seed=args.seed, n=args.n, prior=PRIOR.name, settings=settings)
    table = write_galaxies(path, truth, found, {"title": "Exact posteriors; flux in e-, r_eff in arcsec", **meta})
    low, middle, high = np.percentile(table["ess"], [0, 50, 100])
    meta["ess"] = {"min": float(low), "median": float(middle), "max": float(high)}
    meta["seconds"] = round(time.perf_counter() - start)
    print(f"-> {path}\neffective draws: {low:.0f} at least, {middle:.0f} in the median; {meta['seconds']} s")
    title = f"Exact posterior mean, {args.n} galaxies of set {args.dataset}, centre free; flux in 1e5, r_eff in arcsec"
    formats = dict.fromkeys(("coverage_68", "coverage_95", "pull_mean", "pull_std", "pull_std_error"), ".3f")
    name = f"{path.stem}_summary"
    report(name, summary_table(table), meta, title=title, formats=formats, output=path.parent)


def compare(args, path):
    """Measure the stamps of a result file with another estimator."""
    exact = read_galaxies(path)
    cutouts = same_stamps(exact, args.oversampling)
    start = time.perf_counter()
    fitted = _METHODS[args.compare]().fit(cutouts)
    seconds = time.perf_counter() - start
    table, n_failed = comparison_table(exact, fitted)
    keys = ("dataset", "seed", "n")
    meta = metadata(1, **{key: exact.meta[key] for key in keys}, psf_oversampling=args.oversampling, failed=n_failed)
    meta["fitter"] = fitted.meta["FITTER"]
    print(f"{args.compare}: {seconds:.1f} s, {n_failed} of {len(exact)} failed")
    title = (
        f"{args.compare} and the exact posterior mean on the same {len(exact)} galaxies of set {exact.meta['dataset']}"
    )
    report(f"{path.stem}_{args.compare.replace('-', '_')}", table, meta, title=title, output=path.parent)


def check(args, path):
    """Compare importance sampling with Markov chains."""
    exact = read_galaxies(path)
    cutouts = same_stamps(exact, exact.meta["settings"]["psf_oversampling"])
    table = check_table(cutouts, exact, args)
    keys = ("dataset", "seed", "n")
    meta = metadata(1, **{key: exact.meta[key] for key in keys}, steps=args.steps, walkers=N_WALKERS)
    title = "Markov chains less importance sampling, in standard deviations of the posterior"
    report(f"{path.stem}_check", table, meta, title=title, formats={"effective_draws": ".0f"}, output=path.parent)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=("1", "2", "3"), default="3", help="set of the study (%(default)s)")
    parser.add_argument("-n", type=int, default=500, help="galaxies (%(default)s)")
    parser.add_argument("--seed", type=int, default=31, help="of the data set (%(default)s)")
    parser.add_argument("--draw-seed", type=int, default=1, help="of the draws from the posteriors (%(default)s)")
    parser.add_argument("--ess", type=float, default=1000.0, help="effective draws wanted (%(default)s)")
    parser.add_argument(
        "--oversampling", type=int, help=f"of the PSF images ({OVERSAMPLING}; 1 with --compare, as the study has them)"
    )
    parser.add_argument("--compare", choices=_METHODS, metavar="METHOD", help=f"one of {', '.join(_METHODS)}")
    parser.add_argument("--check", type=int, metavar="N", help="galaxies to run Markov chains on")
    parser.add_argument("--steps", type=int, default=3000, help="of the Markov chains (%(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.oversampling = args.oversampling or (1 if args.compare else OVERSAMPLING)
    path = args.output / f"{file_name(args.dataset)}.ecsv"
    if args.compare:
        compare(args, path)
    elif args.check:
        check(args, path)
    else:
        make(args, path)


if __name__ == "__main__":
    main()
