"""Statistics of results: bias, scatter, outliers, pulls, coverage and distance to the limit, with bootstrap errors."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from astropy.table import QTable
from scipy import stats

from galmeasure.evaluation.coverage import expected_coverage, quantile_uniformity, rank_uniformity, sample_ranks
from galmeasure.evaluation.matching import Matched, match_tables
from galmeasure.utils.chunks import rows_per_chunk

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt
    from astropy.table import Row, Table

__all__ = ["OUTLIER_SIGMA", "STATISTICS", "Comparison", "compare"]

OUTLIER_SIGMA = 5.0
"""An outlier is further than this many robust scatters from the median difference."""

STATISTICS = {
    "bias": "mean of measured minus true",
    "median_bias": "median of measured minus true",
    "scatter": "standard deviation of measured minus true",
    "robust_scatter": "half of the interval from 16 to 84 % of measured minus true",
    "rmse": "root mean square of measured minus true",
    "outlier_fraction": "fraction further than 5 robust scatters from the median difference",
    "scatter_over_crb": "scatter over the root mean square of the Cramer-Rao bounds",
    "typical_over_crb": "robust scatter of (measured minus true) / Cramer-Rao bound",
    "rmse_over_limit": "rmse over that of the exact posterior mean",
    "pull_mean": "mean of (measured minus true) / error; 0 if there is no bias",
    "pull_std": "standard deviation of (measured minus true) / error; 1 if errors are right",
    "coverage_68": "fraction of truths within the 1-sigma interval; 0.683 if errors are right",
    "coverage_95": "fraction of truths within two errors; 0.954 if errors are right and Gaussian",
    "pull_p": "p-value of the pulls against a unit Gaussian (Kolmogorov-Smirnov)",
    "rank_p": "p-value of the ranks of the truths among posterior draws (Kolmogorov-Smirnov)",
    "below_q16": "fraction of truths below the 16 % quantile; 0.159 if posteriors are right",
    "below_q50": "fraction of truths below the median; 0.5 if posteriors are right",
    "below_q84": "fraction of truths below the 84 % quantile; 0.841 if posteriors are right",
    "quantile_p": "p-value of the truths between these quantiles (chi-squared)",
}
"""Columns of a comparison, and what they mean."""

_LOW, _HIGH = 100 * stats.norm.cdf([-1.0, 1.0])
_BELOW = ("below_q16", "below_q50", "below_q84")
_RELATIVE = ("flux", "r_eff")
_RANKED = ("flux", "n", "r_eff", "g1", "g2", "x", "y")


@dataclass(frozen=True)
class Comparison:
    """Statistics of one estimator that `compare` computes.

    Parameters
    ----------
    name : str
        Name of the estimator.
    table : `~astropy.table.QTable`
        One row per parameter, over all galaxies (``by`` is ``"all"``) and in bins of ``by`` from ``low`` to
        ``high``: ``parameter``, ``unit``, ``n_used``, ``n_failed`` and the statistics in `STATISTICS`, each with
        its bootstrap error ``<statistic>_err``. NaN where something is not known.
    counts : dict
        ``n_truth``, ``n_missing`` (truths without a row), ``n_failed`` (rows without a measurement), ``n_flagged`` and
        ``n_extra`` (rows of no truth).
    matched : Matched
        Truths and measurements that were compared.
    ranks : dict of str to ndarray
        Fraction of the posterior draws below each truth, ``(N,)``, where draws were given.
    coverage : tuple of ndarray or None
        Credibility, expected coverage of the joint posterior and its error (TARP), where draws were given.
    """

    name: str
    table: QTable
    counts: dict
    matched: Matched
    ranks: dict
    coverage: tuple | None

    @property
    def overall(self) -> QTable:
        """Rows over all galaxies."""
        return self.table[self.table["by"] == "all"]

    def row(self, parameter: str) -> Row:
        """Return the row of one parameter over all galaxies."""
        overall = self.overall
        return overall[list(overall["parameter"]).index(parameter)]


def compare(
    truth: Table,
    result: Table,
    *,
    samples: Table | None = None,
    bounds: Table | None = None,
    limit: Mapping[str, float] | None = None,
    bins: int | Mapping[str, npt.ArrayLike] = 4,
    pixel_scale: float | None = None,
    zero_point: float | None = None,
    psf_fwhm: npt.ArrayLike | None = None,
    n_bootstrap: int = 200,
    seed: int = 0,
    name: str = "result",
) -> Comparison:
    """Compare results with truths.

    Parameters
    ----------
    truth, result : `~astropy.table.Table`
        One row per galaxy; see `match_tables`.
    samples : `~astropy.table.Table`, optional
        Posterior draws, as `galmeasure.NeuralSersicFitter.sample` gives them: vectors in the columns ``<p>``.
    bounds : `~astropy.table.Table`, optional
        Cramer-Rao bounds ``<p>_crb``, one row per truth; see `cramer_rao_bounds`. By default those of the result.
    limit : dict of str to float, optional
        RMSE of the exact posterior mean by parameter, in the units of the truths.
    bins : int or dict, optional
        Bins with equal numbers of galaxies in S/N, n, r_eff over the PSF's FWHM and the modulus of the shear; or
        the edges for each of ``"snr"``, ``"n"``, ``"r_eff / PSF FWHM"``, ``"|g|"``. 0 for none.
    pixel_scale, zero_point, psf_fwhm
        Same arguments as in `match_tables`.
    n_bootstrap : int, optional
        Rounds of the bootstrap that gives the errors.
    seed : int, optional
        Seed of the bootstrap and of the reference points of the coverage. Default 0.
    name : str, optional
        Name of the estimator. Default "result".

    Returns
    -------
    Comparison
        The statistics. Galaxies without a measurement are left out of them, and counted.

    Raises
    ------
    ValueError, TypeError
        If tables cannot be matched, or an argument is out of range.

    Notes
    -----
    Differences of ``theta`` are taken modulo 180 degrees; ``flux_relative`` and ``r_eff_relative`` are divided by the
    truth. ``coverage_68`` is that of the quantiles ``<p>_q16`` to ``<p>_q84`` where the result has them, otherwise of
    one error to both sides.

    A posterior mean may have less scatter than the Cramer-Rao bound, which holds for estimators without bias: it pays
    with a bias that depends on the truth.

    Examples
    --------
    >>> import numpy as np
    >>> from astropy.table import Table
    >>> from galmeasure.evaluation import compare
    >>> rng = np.random.default_rng(1)
    >>> n = rng.uniform(1, 4, 5000)
    >>> found = Table({"n_fit": n + 0.1 + 0.2 * rng.normal(size=5000), "n_err": np.full(5000, 0.2)})
    >>> row = compare(Table({"true_n": n}), found).row("n")
    >>> print(f"bias {row['bias']:.2f} scatter {row['scatter']:.2f} pull {row['pull_std']:.2f}")
    bias 0.10 scatter 0.20 pull 1.00
    """
    for label, value in (("n_bootstrap", n_bootstrap), ("seed", seed)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
            msg = f"{label} must be a whole number of at least 0, not {value!r}"
            raise ValueError(msg)
    matched = match_tables(
        truth, result, bounds=bounds, pixel_scale=pixel_scale, zero_point=zero_point, psf_fwhm=psf_fwhm
    )
    rng = np.random.default_rng(seed)
    ranks, coverage = {}, None
    if samples is not None:
        draws = match_draws(truth, samples, matched)
        ranks = sample_ranks({name: matched.truth[name] for name in draws}, draws, rng)
        coverage = expected_coverage({name: matched.truth[name] for name in draws}, draws, rng=rng)
    rows = []
    for by, low, high, inside in groups(matched.about, bins, len(matched)):
        for label, column in _columns(matched, limit or {}, ranks):
            rows.append((by, low, high, label, column.pop("unit"), *_statistics(column, inside, n_bootstrap, rng)))
    names = ["by", "low", "high", "parameter", "unit", "n_used", "n_failed"]
    names += [column for statistic in STATISTICS for column in (statistic, f"{statistic}_err")]
    table = QTable(rows=rows, names=names)
    for statistic, text in STATISTICS.items():
        table[statistic].info.description = text
        table[f"{statistic}_err"].info.description = f"bootstrap error: {text}"
    counts = matched.counts()
    table.meta.update({"name": name, **counts, "bootstrap": n_bootstrap})
    return Comparison(name, table, counts, matched, ranks, coverage)


def match_draws(truth: Table, samples: Table, matched: Matched) -> dict[str, npt.NDArray[np.float64]]:
    """Match posterior draws to truths.

    Parameters
    ----------
    truth : `~astropy.table.Table`
        One row per galaxy, with ``id`` if the draws have it.
    samples : `~astropy.table.Table`
        Vectors of draws in columns named after parameters.
    matched : Matched
        Truths, whose units the draws get.

    Returns
    -------
    dict of str to ndarray
        Draws ``(N, S)`` of the parameters that are ranked, in the rows and units of the truths.

    Raises
    ------
    ValueError
        If there are no vectors of draws, or rows cannot be matched.
    """
    thinned = samples["id"] if "id" in samples.colnames else None
    draws, columns = {}, [name for name in _RANKED if name in samples.colnames and name in matched.truth]
    if not columns:
        msg = "samples must have vectors of draws in columns named like the parameters"
        raise ValueError(msg)
    row = np.arange(len(truth))
    if thinned is not None and "id" in truth.colnames:
        row_of = {str(key): i for i, key in enumerate(np.asarray(thinned).tolist())}
        row = np.array([row_of.get(str(key), -1) for key in np.asarray(truth["id"]).tolist()])
    elif len(samples) != len(truth):
        msg = f"samples must have one row per truth: {len(truth)}, not {len(samples)}"
        raise ValueError(msg)
    for name in columns:
        column = samples[name]
        values, unit = np.asarray(getattr(column, "value", column), dtype=float), matched.unit.get(name, "")
        if values.ndim != 2:
            msg = f"samples[{name!r}] must hold a vector of draws in each row"
            raise ValueError(msg)
        if unit and column.unit is not None and column.unit.to_string() not in ("", unit):
            values = values * column.unit.to(unit)
        draws[name] = np.where((row >= 0)[:, None], values[row], np.nan)
    return draws


def groups(
    about: Mapping[str, npt.NDArray[np.float64]], bins: int | Mapping[str, npt.ArrayLike], count: int
) -> Iterator[tuple[str, float, float, npt.NDArray[np.bool_]]]:
    """Sort galaxies into bins.

    Parameters
    ----------
    about : dict of str to ndarray
        Quantities to sort by, each of shape ``(N,)``.
    bins : int or dict
        Number of bins with equal numbers of galaxies, or edges by quantity.
    count : int
        Number of galaxies, N.

    Yields
    ------
    by : str
        Name of the quantity; first ``"all"``, with all galaxies.
    low, high : float
        Edges of the bin.
    inside : ndarray of bool, shape (N,)
        Galaxies in the bin.
    """
    yield "all", np.nan, np.nan, np.ones(count, bool)
    for by, values in about.items():
        edges = bins.get(by) if isinstance(bins, dict) else _equal_edges(values, bins)
        if edges is None or len(edges) < 2:
            continue
        for i, (low, high) in enumerate(pairwise(edges)):
            last = i == len(edges) - 2
            yield by, float(low), float(high), (values >= low) & ((values <= high) if last else (values < high))


def _equal_edges(values, bins):
    """Edges of bins with equal numbers, of values that differ."""
    values = values[np.isfinite(values)]
    if not bins or not len(values) or np.ptp(values) <= 1e-9 * np.abs(values).max():
        return None
    return np.unique(np.quantile(values, np.linspace(0.0, 1.0, bins + 1)))


def _columns(matched, limit, ranks):
    """Yield a label and what belongs to it, for the parameters and the relative differences."""
    for name in matched.names:
        truth, delta = matched.truth[name], matched.difference(name)
        column = {
            "delta": delta,
            "error": matched.error.get(name),
            "bound": matched.bound.get(name),
            "inside": _inside(matched, name),
            **_below(matched, name),
            "rank": ranks.get(name),
            "limit": limit.get(name),
        }
        yield name, {**column, "unit": matched.unit.get(name, "")}
        if name in _RELATIVE:
            size = np.where(truth != 0, np.abs(truth), np.nan)
            for key in ("delta", "error", "bound"):
                column[key] = None if column[key] is None else column[key] / size
            column["limit"] = limit.get(f"{name}_relative")
            yield f"{name}_relative", {**column, "unit": ""}


def _inside(matched, name):
    """Return 1 where the truth is in the 1-sigma interval, else 0 or NaN; None if there is no interval."""
    truth = matched.truth[name]
    if name in matched.quantiles:
        low, _, high = matched.quantiles[name].T
        is_known = np.isfinite(low) & np.isfinite(high)
        return np.where(is_known, (truth >= low) & (truth <= high), np.nan)
    if name in matched.error:
        delta, error = matched.difference(name), matched.error[name]
        return np.where(np.isfinite(delta) & np.isfinite(error), np.abs(delta) <= error, np.nan)
    return None


def _below(matched, name):
    """Return 1 where the truth is below a quantile, else 0 or NaN, for each quantile."""
    if name not in matched.quantiles:
        return {}
    truth, quantiles = matched.truth[name], matched.quantiles[name].T
    return {
        key: np.where(np.isfinite(values) & np.isfinite(truth), truth < values, np.nan)
        for key, values in zip(_BELOW, quantiles, strict=True)
    }


def _statistics(column, inside, n_bootstrap, rng):
    """Numbers of galaxies, then each statistic and its error."""
    good = inside & np.isfinite(column["delta"])
    picked = {key: value[good] for key, value in column.items() if isinstance(value, np.ndarray)}
    limit, count = column["limit"], int(good.sum())
    numbers = [count, int(inside.sum()) - count]
    if count < 2:
        return numbers + [np.nan] * (2 * len(STATISTICS))
    statistics = _all_statistics(picked, limit)
    again = []
    for size in pieces(n_bootstrap, count):
        picks = rng.integers(count, size=(size, count))
        again.append(_all_statistics({key: value[picks] for key, value in picked.items()}, limit, tests=False))
    for statistic in STATISTICS:
        spread = np.nan
        if again and not statistic.endswith("_p"):
            spread = float(np.std(np.concatenate([chunk[statistic] for chunk in again])))
        numbers += [float(statistics[statistic][0]), spread]
    return numbers


def pieces(rounds: int, count: int) -> list[int]:
    """Divide the rounds of a bootstrap into chunks that fit into memory.

    Parameters
    ----------
    rounds, count : int
        Numbers of rounds and of galaxies in each.

    Returns
    -------
    list of int
        Numbers of rounds of the chunks.
    """
    size = rows_per_chunk("resampled numbers", count)
    return [min(size, rounds - start) for start in range(0, rounds, size)]


def _all_statistics(columns, limit, tests=True):
    """Every statistic along the last axis, arrays of the leading shape."""
    columns = {key: np.atleast_2d(value) for key, value in columns.items()}
    delta = columns["delta"]
    nothing = np.full(len(delta), np.nan)
    mean, scatter = delta.mean(-1), delta.std(-1, ddof=1)
    low, median, high = np.percentile(delta, [_LOW, 50.0, _HIGH], axis=-1)
    robust, rmse = (high - low) / 2, np.sqrt((delta**2).mean(-1))
    statistics = dict.fromkeys(STATISTICS, nothing)
    statistics |= {"bias": mean, "median_bias": median, "scatter": scatter, "robust_scatter": robust, "rmse": rmse}
    statistics["outlier_fraction"] = np.mean(np.abs(delta - median[:, None]) > OUTLIER_SIGMA * robust[:, None], axis=-1)
    with np.errstate(all="ignore"):
        if "bound" in columns:
            has_bound = np.isfinite(columns["bound"]) & (columns["bound"] > 0)
            bound = np.where(has_bound, columns["bound"], np.nan)
            statistics["scatter_over_crb"] = _nan_std(np.where(has_bound, delta, np.nan)) / np.sqrt(_nan_mean(bound**2))
            statistics["typical_over_crb"] = _robust(delta / bound)
        if limit is not None:
            statistics["rmse_over_limit"] = rmse / limit
        if "error" in columns:
            pull = np.where(columns["error"] > 0, delta / columns["error"], np.nan)
            statistics["pull_mean"], statistics["pull_std"] = _nan_mean(pull), _nan_std(pull)
            statistics["coverage_95"] = _nan_mean(np.where(np.isfinite(pull), np.abs(pull) <= 2.0, np.nan))
            if tests:
                statistics["pull_p"] = np.array([_normal_p(row) for row in pull])
        if "inside" in columns:
            statistics["coverage_68"] = _nan_mean(columns["inside"])
        statistics |= {name: _nan_mean(columns[name]) for name in _BELOW if name in columns}
        if _BELOW[0] in columns and tests:
            statistics["quantile_p"] = np.array([quantile_uniformity(np.stack([columns[key][0] for key in _BELOW]))])
        if "rank" in columns and tests:
            statistics["rank_p"] = np.array([rank_uniformity(row) for row in columns["rank"]])
    return statistics


def _nan_mean(values):
    """Mean along the last axis of finite values, NaN without a warning where there are none."""
    finite = np.isfinite(values)
    return np.where(finite, values, 0.0).sum(-1) / finite.sum(-1)


def _nan_std(values):
    finite = np.isfinite(values)
    residual = np.where(finite, values - _nan_mean(values)[..., None], 0.0)
    return np.sqrt((residual**2).sum(-1) / (finite.sum(-1) - 1))


def _robust(values):
    """Half of the interval from 16 to 84 % of finite values."""
    if np.isfinite(values).all():
        low, high = np.percentile(values, [_LOW, _HIGH], axis=-1)
        return (high - low) / 2
    finite = [row[np.isfinite(row)] for row in values]
    return np.array([np.diff(np.percentile(row, [_LOW, _HIGH]))[0] / 2 if len(row) else np.nan for row in finite])


def _normal_p(pull):
    pull = pull[np.isfinite(pull)]
    return stats.kstest(pull, "norm").pvalue if len(pull) else np.nan
