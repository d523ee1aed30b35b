"""Tests of posteriors: ranks of truths among draws (SBC) and expected coverage of regions (TARP)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from galmeasure.utils.chunks import rows_per_chunk

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

__all__ = ["expected_coverage", "quantile_uniformity", "rank_uniformity", "sample_ranks"]


def sample_ranks(
    truth: Mapping[str, npt.ArrayLike], draws: Mapping[str, npt.ArrayLike], rng: np.random.Generator | None = None
) -> dict[str, npt.NDArray[np.float64]]:
    """Rank each truth among its posterior draws, as a fraction: uniform if the posteriors are right.

    Parameters
    ----------
    truth : dict of str to array_like
        True values ``(N,)`` by parameter.
    draws : dict of str to array_like
        Draws ``(N, S)`` by parameter; NaN where there are none.
    rng : `~numpy.random.Generator`, optional
        Spreads the ``S + 1`` possible ranks over the intervals between them, so that fractions are continuous.

    Returns
    -------
    dict of str to ndarray
        Fractions ``(N,)`` within 0 and 1; NaN where there are no draws.

    References
    ----------
    Talts et al. 2018, "Validating Bayesian inference algorithms with simulation-based calibration", arXiv:1804.06788.

    Examples
    --------
    >>> import numpy as np
    >>> from galmeasure.evaluation import sample_ranks
    >>> ranks = sample_ranks({"n": [0.0, 9.0]}, {"n": np.tile(np.linspace(-1, 1, 99), (2, 1))})
    >>> print(ranks["n"].round(1))
    [0.5 1. ]
    """
    rng = np.random.default_rng(0) if rng is None else rng
    ranks = {}
    for name, values in draws.items():
        values, true = np.asarray(values, dtype=float), np.asarray(truth[name], dtype=float)
        is_known = np.isfinite(values).all(axis=1) & np.isfinite(true)
        below = (values < true[:, None]).sum(axis=1)
        ranks[name] = np.where(is_known, (below + rng.random(len(true))) / (values.shape[1] + 1), np.nan)
    return ranks


def rank_uniformity(ranks: npt.ArrayLike) -> float:
    """P-value of the Kolmogorov-Smirnov test of ranks against the uniform distribution.

    Parameters
    ----------
    ranks : array_like
        Fractions as `sample_ranks` gives them; what is not finite is left out.

    Returns
    -------
    float
        P-value; NaN if there are no ranks.

    Examples
    --------
    >>> import numpy as np
    >>> from galmeasure.evaluation import rank_uniformity
    >>> print(rank_uniformity(np.linspace(0, 1, 101)) > 0.9, rank_uniformity(np.full(100, 0.5)) < 1e-6)
    True True
    """
    ranks = np.asarray(ranks, dtype=float)
    ranks = ranks[np.isfinite(ranks)]
    return float(stats.kstest(ranks, "uniform").pvalue) if len(ranks) else np.nan


def quantile_uniformity(below: npt.ArrayLike, levels: Sequence[float] = (0.158655, 0.5, 0.841345)) -> float:
    """P-value of the chi-squared test of truths between quantiles: ranks where there are no draws.

    Parameters
    ----------
    below : (L, N) array_like
        1 where a truth is below a quantile, else 0, in order of the quantiles; truths without all of them (NaN)
        are left out, and so is a quantile that no truth has.
    levels : (L,) array_like, optional
        Probabilities of the quantiles, by default those of one Gaussian error to both sides, and of the median.

    Returns
    -------
    float
        P-value; NaN if there are no quantiles.

    Examples
    --------
    >>> import numpy as np
    >>> from galmeasure.evaluation import quantile_uniformity
    >>> truth = np.linspace(0.0005, 0.9995, 1000)  # of posteriors that are uniform from 0 to 1
    >>> print(quantile_uniformity(np.stack([truth < level for level in (0.16, 0.5, 0.84)])) > 0.9)
    True
    >>> print(quantile_uniformity(np.stack([truth < level for level in (0.3, 0.5, 0.7)])) < 1e-6)
    True
    """
    below, levels = np.asarray(below, dtype=float), np.asarray(levels, dtype=float)
    has_truths = np.isfinite(below).any(axis=1)
    below, levels = below[has_truths], levels[has_truths]
    below = below[:, np.isfinite(below).all(axis=0)]
    if not below.size:
        return np.nan
    cells = np.diff(np.concatenate([[0.0], below.sum(axis=1), [below.shape[1]]]))
    expected = np.diff(np.concatenate([[0.0], levels, [1.0]])) * below.shape[1]
    return float(stats.chisquare(cells, expected).pvalue)


def expected_coverage(
    truth: Mapping[str, npt.ArrayLike],
    draws: Mapping[str, npt.ArrayLike],
    *,
    levels: int = 51,
    n_bootstrap: int = 100,
    rng: np.random.Generator | None = None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Compute the expected coverage of the joint posteriors, by tests of accuracy with random points (TARP).

    Parameters
    ----------
    truth : dict of str to array_like
        True values ``(N,)`` by parameter.
    draws : dict of str to array_like
        Draws ``(N, S)`` by parameter; galaxies without draws of all of them are left out.
    levels : int, optional
        Number of credibilities between 0 and 1.
    n_bootstrap : int, optional
        Rounds of the bootstrap over galaxies and reference points that gives the error.
    rng : `~numpy.random.Generator`, optional
        Source of the reference points.

    Returns
    -------
    credibility, coverage, error : ndarray
        Shape ``(levels,)``. The coverage of right posteriors equals the credibility; too narrow or too wide ones cross
        it as an S, and biased ones lie to one side.

    Notes
    -----
    For each galaxy a reference point is drawn at random; the region of the posterior that is nearer to it than the
    truth has the credibility that the fraction of draws in it says. Over many galaxies these fractions are uniform if
    (and, for all reference points, only if) the posteriors are right, under the distribution of the truths as the
    prior. Distances are Euclidean after every parameter was divided by the range of its truths; reference points are
    uniform in these ranges. A parameter that is the same in all galaxies was not drawn from a prior, and is left
    out.

    References
    ----------
    Lemos, Coogan, Hezaveh & Perreault-Levasseur 2023, "Sampling-based accuracy testing of posterior estimators for
    general inference", ICML, arXiv:2302.03026.

    Examples
    --------
    >>> import numpy as np
    >>> from galmeasure.evaluation import expected_coverage
    >>> rng = np.random.default_rng(3)
    >>> mean = rng.normal(size=2000)
    >>> draws = mean[:, None] + rng.normal(size=(2000, 100))
    >>> credibility, coverage, error = expected_coverage({"n": mean + rng.normal(size=2000)}, {"n": draws})
    >>> bool(abs(coverage - credibility).max() < 0.05)
    True
    """
    rng = np.random.default_rng(0) if rng is None else rng
    names = list(draws)
    true = np.stack([np.asarray(truth[name], dtype=float) for name in names], axis=1)
    is_known = np.isfinite(true).all(axis=1)
    for name in names:
        is_known &= np.isfinite(np.asarray(draws[name])).all(axis=1)
    credibility = np.linspace(0.0, 1.0, levels)
    if not is_known.any():
        return credibility, np.full(levels, np.nan), np.full(levels, np.nan)
    true, rows = true[is_known], np.flatnonzero(is_known)
    low, span = true.min(axis=0), np.ptp(true, axis=0)
    varies = span > 0
    if not varies.any():
        return credibility, np.full(levels, np.nan), np.full(levels, np.nan)
    names = [name for name, keep in zip(names, varies, strict=True) if keep]
    true, low, span = true[:, varies], low[varies], span[varies]
    reference = low + span * rng.random(true.shape)
    distance = np.sqrt((((true - reference) / span) ** 2).sum(axis=1))
    nearer = np.zeros(len(rows))
    size = rows_per_chunk("posterior draws", len(names) * np.asarray(draws[names[0]]).shape[1])
    for start in range(0, len(rows), size):
        chunk = slice(start, start + size)
        values = np.stack([np.asarray(draws[name], dtype=float)[rows[chunk]] for name in names], axis=2)
        far = np.sqrt((((values - reference[chunk, None]) / span) ** 2).sum(axis=2))
        nearer[chunk] = ((far < distance[chunk, None]).sum(axis=1) + rng.random(len(far))) / (far.shape[1] + 1)
    picks = rng.integers(len(rows), size=(n_bootstrap, len(rows)))
    again = np.array([_cumulative(nearer[pick], credibility) for pick in picks])
    error = again.std(axis=0) if n_bootstrap else np.full(levels, np.nan)
    return credibility, _cumulative(nearer, credibility), error


def _cumulative(values, levels):
    """Fraction of values below each level."""
    return np.searchsorted(np.sort(values), levels, side="right") / len(values)
