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
from _importance import Mixture, Settings, sample_posterior
from _report import RESULTS, metadata, report
from _simulate import OVERSAMPLING
from astropy.table import Table
from scipy.special import expit, log_expit, log_ndtr, logit, ndtr, ndtri
from tqdm import tqdm

from galmeasure import LSQSersicFitter, read_cutouts
from galmeasure.likelihood import log_likelihood
from galmeasure.parameters import PARAMETER_NAMES
from galmeasure.priors import get_prior
from galmeasure.render import prepare_psf, render_sersic
from galmeasure.training import get_dataset_config, make_dataset

PRIOR = get_prior("study")
LEVELS = {"q02": 0.02275, "q16": 0.15866, "q50": 0.5, "q84": 0.84134, "q98": 0.97725}
"""Quantiles in the table: 0, 1 and 2 standard deviations of a normal distribution."""

STATISTICS = ("mean", "std", *LEVELS)
PUBLISHED_UNITS = np.array([1e5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
_DIGITS = dict(zip(PARAMETER_NAMES, (1, 4, 5, 5, 5, 4, 4), strict=True))
_DIGITS |= {"snr": 3, "psf_fwhm": 5, "sigma": 3, "ess": 0, "log_evidence": 3}

_PIECE = 12  # stamps rendered at once, so that temporaries stay in the cache
_FLUX_STRETCH = 1.1  # of the proposal of the flux
_LEAST_STD = 0.02  # of the starting proposal
_WIDE_STD = np.array([1.9, 1.9, 0.75, 0.75])  # of the prior in the variables of index, radius and shear
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


class Galaxy:
    """Posterior density of one galaxy; brightness in units of the background noise, lengths in pixels.

    Parameters
    ----------
    cutouts : `~galmeasure.Cutouts`
        Stamps.
    row : int
        Which of them.
    """

    def __init__(self, cutouts, row):
        self.sigma = float(cutouts.error(row)[0, 0])
        self.scale = float(cutouts.pixel_scale[row])
        self.image = torch.from_numpy(cutouts.image(row) / self.sigma).float()
        self.gain = float(cutouts.gain[row]) * self.sigma
        self.shape = tuple(self.image.shape)
        psf = torch.from_numpy(cutouts.psf_image(row).copy())[None]
        self.psf = prepare_psf(psf, self.shape, oversampling=cutouts.psf_oversampling)
        self.units = np.array([self.sigma, 1.0, self.scale, 1.0, 1.0, 1.0, 1.0])

    @property
    def middle(self):
        """Centre of the stamp, x and y."""
        return (np.array(self.shape[::-1]) - 1) / 2

    def log_likelihood(self, model):
        """Log-likelihood of models ``(B, ny, nx)``, shape ``(B,)``."""
        image, good = self.image.expand_as(model), torch.ones_like(model, dtype=torch.bool)
        gain = torch.full((len(model),), self.gain)
        return log_likelihood(model, image, torch.ones(()), good, gain).numpy()

    def log_prior(self, parameters, norm):
        """Log prior of parameters ``(B, 7)``; ``norm`` is the root sum of squares of the models of unit flux."""
        parameters = torch.from_numpy(parameters)
        snr = parameters[:, 0] * torch.from_numpy(norm)
        gain = torch.full((len(parameters),), self.gain, dtype=torch.float64)
        return PRIOR.log_prob(parameters, self.shape, snr, gain).numpy()

    def unit_models(self, parameters):
        """Models of unit flux, in pieces: rows and stamps."""
        parameters = torch.from_numpy(parameters).float()
        parameters[:, 0] = 1.0
        for rows in np.array_split(np.arange(len(parameters)), -(-len(parameters) // _PIECE)):
            yield rows, render_sersic(parameters[rows[0] : rows[-1] + 1], self.psf)

    def log_posterior(self, parameters):
        """Log posterior ``(B,)`` of parameters ``(B, 7)``, not normalised."""
        result = np.full(len(parameters), -np.inf)
        for rows, unit in self.unit_models(parameters):
            norm = unit.flatten(1).norm(dim=1).double().numpy()
            model = torch.from_numpy(parameters[rows, 0, None, None]).float() * unit
            result[rows] = self.log_likelihood(model) + self.log_prior(parameters[rows], norm)
        return result


class FluxFree:
    """Posterior of six unbounded variables, the flux drawn given them: a target of `sample_posterior`.

    Variables are those of index, radius, shear (in a plane where the prior is smooth: ``|g|`` goes as the square of
    the distance from its origin) and centre. The flux comes from a normal distribution within its bounds, of which
    the density is divided by; so the target's exponential has the posterior of the variables as expectation.

    Parameters
    ----------
    galaxy : Galaxy
        Whose.
    rng : numpy.random.Generator
        Of the fluxes.
    """

    ranges = (PRIOR.n, PRIOR.r_eff)

    def __init__(self, galaxy, rng):
        self.galaxy, self.rng = galaxy, rng

    def parameters(self, u):
        """Parameters ``(S, 7)`` of variables ``(S, 6)``, with a flux of 1, and the log of the volume's change."""
        parameters, log_volume = np.ones((len(u), 7)), np.zeros(len(u))
        for i, limits in enumerate(self.ranges):
            width = limits.upper - limits.lower
            parameters[:, 1 + i] = limits.lower + width * expit(u[:, i])
            log_volume += np.log(width) + log_expit(u[:, i]) + log_expit(-u[:, i])
        distance = np.hypot(u[:, 2], u[:, 3]) + 1e-30
        root = np.tanh(distance)
        g_max = PRIOR.shear.g_max
        parameters[:, 3:5] = (g_max * root**2 / distance)[:, None] * u[:, 2:4]
        log_cosh = distance + np.log1p(np.exp(-2 * distance)) - np.log(2)
        log_volume += np.log(2 * g_max**2 / distance) + 3 * np.log(root) - 2 * log_cosh
        width = 2 * PRIOR.centre
        parameters[:, 5:] = self.galaxy.middle - PRIOR.centre + width * expit(u[:, 4:])
        log_volume += (np.log(width) + log_expit(u[:, 4:]) + log_expit(-u[:, 4:])).sum(1)
        return parameters, log_volume

    def variables(self, parameters):
        """Variables ``(S, 6)`` of parameters ``(S, 7)`` within the prior."""
        u = np.empty((len(parameters), 6))
        for i, limits in enumerate(self.ranges):
            u[:, i] = logit((parameters[:, 1 + i] - limits.lower) / (limits.upper - limits.lower))
        g = np.hypot(parameters[:, 3], parameters[:, 4]) + 1e-30
        u[:, 2:4] = (np.arctanh(np.sqrt(g / PRIOR.shear.g_max)) / g)[:, None] * parameters[:, 3:5]
        u[:, 4:] = logit((parameters[:, 5:] - self.galaxy.middle) / (2 * PRIOR.centre) + 0.5)
        return u

    def __call__(self, u):
        """Log density, shape ``(S,)``, and parameters with a drawn flux, shape ``(S, 7)``."""
        parameters, log_volume = self.parameters(u)
        result = np.full(len(u), -np.inf)
        for rows, unit in self.galaxy.unit_models(parameters):
            norm = unit.flatten(1).norm(dim=1).double().numpy()
            flux, log_density = self._draw_flux(unit, norm)
            parameters[rows, 0] = flux
            model = torch.from_numpy(flux[:, None, None]).float() * unit
            total = self.galaxy.log_likelihood(model) + self.galaxy.log_prior(parameters[rows], norm) - log_density
            result[rows] = np.where(np.isfinite(log_density), total, -np.inf)
        return result + log_volume, parameters

    def _draw_flux(self, unit, norm):
        """Fluxes ``(B,)`` of models of unit flux within the prior, and their log density; NaN where none is."""
        electrons, gain = PRIOR.electrons, self.galaxy.gain
        lower = np.maximum(electrons.lower / gain, PRIOR.snr.lower / norm)
        upper = np.minimum(electrons.upper / gain, PRIOR.snr.upper / norm)
        by_image = (unit * self.galaxy.image).flatten(1).sum(1, dtype=torch.float64).numpy()
        guess = np.clip(by_image / norm**2, lower, np.maximum(lower, upper))
        light = torch.from_numpy(guess[:, None, None]).float() * unit
        weighted = unit / (1.0 + light.clamp_min(0.0) / gain)
        information = (weighted * unit).flatten(1).sum(1, dtype=torch.float64).numpy()
        by_image = (weighted * self.galaxy.image).flatten(1).sum(1, dtype=torch.float64).numpy()
        mean, std = by_image / information, _FLUX_STRETCH / np.sqrt(information)
        return _truncated_normal(self.rng, mean, std, lower, upper)


def _truncated_normal(rng, mean, std, lower, upper):
    """Draws of normal distributions between bounds and their log densities; NaN where there is nothing between."""
    low, high = (lower - mean) / std, (upper - mean) / std
    side = np.where(low > 0, -1.0, 1.0)  # the lower tail is exact in floating point
    low, high = np.minimum(side * low, side * high), np.maximum(side * low, side * high)
    with np.errstate(divide="ignore", invalid="ignore"):
        mass = np.where((lower < upper), ndtr(high) - ndtr(low), 0.0)
        z = ndtri(ndtr(low) + mass * rng.random(len(mean)))
        log_mass = log_ndtr(high) + np.log1p(-np.exp(log_ndtr(low) - log_ndtr(high)))
        log_density = -0.5 * z**2 - 0.5 * np.log(2 * np.pi) - np.log(std) - log_mass
    draws = np.clip(mean + std * side * z, lower, upper)
    failed = ~((mass > 0) & np.isfinite(z) & np.isfinite(log_density))
    return np.where(failed, lower, draws), np.where(failed, np.nan, log_density)


def starting_mixtures(target, solution, covariance, rng):
    """First proposal and the wide one, from a maximum-likelihood fit ``(7,)`` in the galaxy's units."""
    usable = np.isfinite(solution).all() and np.isfinite(covariance).all()
    draws = np.empty((0, 7))
    if usable:
        value, vector = np.linalg.eigh(covariance)
        draws = solution + (rng.standard_normal((4000, 7)) * np.sqrt(value.clip(0))) @ vector.T
        inside = PRIOR.shear.contains(*torch.from_numpy(draws[:, 3:5]).unbind(1)).numpy()
        for column, limits in zip((1, 2), target.ranges, strict=True):
            inside &= (draws[:, column] > limits.lower) & (draws[:, column] < limits.upper)
        inside &= (np.abs(draws[:, 5:] - target.galaxy.middle) < PRIOR.centre).all(1)
        draws = draws[inside]
    mean, std = np.zeros(6), np.array([*_WIDE_STD, 1.0, 1.0])
    if len(draws) >= 30:
        u = target.variables(draws)
        local = u.mean(0), np.cov(u.T) + _LEAST_STD**2 * np.eye(6)
        mean[4:] = local[0][4:]
        std[4:] = np.clip(3.0 * np.sqrt(np.diag(local[1])[4:]), 0.2, 1.5)
    wide = Mixture.of_moments([1.0], mean[None], np.diag(std**2)[None])
    if len(draws) < 30:
        return wide, wide
    near = Mixture.of_moments([0.7, 0.3], [local[0]] * 2, [local[1], 4.0 * local[1]])
    return near.joined(wide, 0.5), wide


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

    return NeuralSersicFitter(weights="study-v1")


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


def stretch_moves(log_density, start, n_steps, rng, scale=2.0):
    """Markov chains by the affine-invariant stretch move (Goodman & Weare 2010, CAMCoS 5, 65).

    Parameters
    ----------
    log_density : callable
        Of ``(W / 2, D)`` values, shape ``(W / 2,)``.
    start : ndarray, shape (W, D)
        Walkers, an even number of them.
    n_steps : int
        Moves of each walker.
    rng : numpy.random.Generator
        Of the moves.
    scale : float, optional
        Largest stretch.

    Returns
    -------
    ndarray, shape (n_steps, W, D)
        All positions.
    """
    walkers, half = start.copy(), len(start) // 2
    values = np.concatenate([log_density(walkers[:half]), log_density(walkers[half:])])
    chain = np.empty((n_steps, *walkers.shape))
    for step in range(n_steps):
        for mine, others in ((slice(0, half), slice(half, None)), (slice(half, None), slice(0, half))):
            z = ((scale - 1.0) * rng.random(half) + 1.0) ** 2 / scale
            partners = walkers[others][rng.integers(0, half, half)]
            proposed = partners + z[:, None] * (walkers[mine] - partners)
            new = log_density(proposed)
            log_ratio = (walkers.shape[1] - 1) * np.log(z) + new - values[mine]
            accepted = np.log(rng.random(half)) < log_ratio
            walkers[mine] = np.where(accepted[:, None], proposed, walkers[mine])
            values[mine] = np.where(accepted, new, values[mine])
        chain[step] = walkers
    return chain


def _log_density(galaxy, parameters):
    """Log posterior, without rendering what lies outside the prior."""
    result = np.full(len(parameters), -np.inf)
    flux, n, r_eff, g1, g2, x, y = torch.from_numpy(parameters).unbind(1)
    inside = PRIOR.n.contains(n) & PRIOR.r_eff.contains(r_eff) & PRIOR.shear.contains(g1, g2) & (flux > 0)
    for value, middle in zip((x, y), galaxy.middle, strict=True):
        inside &= (value - middle).abs() <= PRIOR.centre
    inside = inside.numpy()
    if inside.any():
        result[inside] = galaxy.log_posterior(parameters[inside])
    return result


def _first_walkers(galaxy, solution, rng, count):
    """Walkers about the solution, within the prior and with a flux that suits each shape."""
    lower = np.array([PRIOR.n.lower, PRIOR.r_eff.lower, -0.3, -0.3, *(galaxy.middle - 0.2)])
    upper = np.array([PRIOR.n.upper, PRIOR.r_eff.upper, 0.3, 0.3, *(galaxy.middle + 0.2)])
    found = np.empty((0, 7))
    while len(found) < count:
        values = np.column_stack([np.ones(4 * count), rng.uniform(lower, upper, (4 * count, 6))])
        values[:, 0] = solution[0] * np.exp(rng.normal(0.0, 0.2, len(values)))
        found = np.concatenate([found, values[np.isfinite(_log_density(galaxy, values))]])
    return found[:count]


def _autocorrelation_time(chain):
    """Integrated time of chains ``(T, W)``, averaged over them (Sokal's window)."""
    away = chain - chain.mean()
    size = 2 ** int(np.ceil(np.log2(2 * len(away))))
    transform = np.fft.rfft(away, size, axis=0)
    correlation = np.fft.irfft(np.abs(transform) ** 2, size, axis=0)[: len(away)].mean(1)
    times = 2.0 * np.cumsum(correlation / correlation[0]) - 1.0
    window = np.arange(len(times)) >= 5.0 * times
    return times[window.argmax()] if window.any() else times[-1]


def check_table(cutouts, exact, args):
    """Means and deviations of Markov chains next to those of importance sampling, in units of the deviation."""
    rows = []
    for row in tqdm(range(args.check), unit="chain"):
        rng = np.random.default_rng([args.seed, row, 1])
        galaxy = Galaxy(cutouts, row)
        mean, std = (columns(exact[row : row + 1], f"_{name}")[0] / galaxy.units for name in ("mean", "std"))
        with torch.inference_mode():
            walkers = _first_walkers(galaxy, mean, rng, 4 * _PIECE)
            chain = stretch_moves(functools.partial(_log_density, galaxy), walkers, args.steps, rng)
        chain = chain[len(chain) // 4 :]
        for i, name in enumerate(PARAMETER_NAMES):
            effective = chain[..., i].size / _autocorrelation_time(chain[..., i])
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
    meta = metadata(1, **{key: exact.meta[key] for key in keys}, steps=args.steps, walkers=4 * _PIECE)
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
