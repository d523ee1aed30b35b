"""Quality of refined posteriors: effective draws, methods of the rows, and gain over the unrefined ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from galmeasure.flags import Flag

if TYPE_CHECKING:
    from astropy.table import QTable, Table

    from galmeasure.evaluation.matching import Matched

__all__ = ["is_refined", "paired_rmse", "refinement_summary"]

_EFFICIENCIES = (0.3, 0.05)  # below the first a posterior is rough, below the second it is poor


def is_refined(table: Table) -> bool:
    """Test if a result has the columns of weighted draws.

    Parameters
    ----------
    table : `~astropy.table.Table`
        Result table of any fitter.

    Returns
    -------
    bool
        True if it has ``ess``, ``n_draws`` and ``method``.
    """
    return {"ess", "n_draws", "method"} <= set(table.colnames)


def refinement_summary(table: Table) -> QTable:
    """Summarise the weighted draws of a refined result.

    Parameters
    ----------
    table : `~astropy.table.Table`
        Result table of ``NeuralSersicFitter(refine="importance")``.

    Returns
    -------
    dict of str to float
        Numbers by their description: medians of ``ess / n_draws`` and of ``ess``, fractions of galaxies with less than
        0.3 and 0.05 of ``ess / n_draws``, the mean and the largest number of draws, the fraction flagged
        ``poor_proposal``, that of each ``method``, and quantiles of ``log_evidence``. Galaxies without draws enter only
        the fractions of the last two kinds.

    Examples
    --------
    >>> from astropy.table import Table
    >>> from galmeasure.evaluation.refinement import refinement_summary
    >>> table = Table({"ess": [120.0, 10.0], "n_draws": [200, 1000], "method": ["neural+importance"] * 2})
    >>> found = refinement_summary(table)
    >>> print(f"{found['ess / draws below 0.05']:.1f} {found['median ess / draws']:.3f}")
    0.5 0.305
    """
    ess, count = (np.ma.filled(np.ma.asarray(table[name]).astype(float), np.nan) for name in ("ess", "n_draws"))
    drawn = (count > 0) & np.isfinite(ess)
    efficiency = ess[drawn] / count[drawn]
    summary = {"median ess / draws": _of(np.median, efficiency)}
    summary |= {f"ess / draws below {least:g}": _of(np.mean, efficiency < least) for least in _EFFICIENCIES}
    summary |= {"median ess": _of(np.median, ess[drawn]), "mean draws": _of(np.mean, count[drawn])}
    summary["most draws"] = _of(np.max, count[drawn])
    if "flags" in table.colnames:
        summary["flagged poor_proposal"] = float(np.mean((np.asarray(table["flags"]) & int(Flag.POOR_PROPOSAL)) > 0))
    method = np.asarray(table["method"]).astype(str)
    summary |= {f"method {name}": float(np.mean(method == name)) for name in dict.fromkeys(method.tolist())}
    if "log_evidence" in table.colnames:
        evidence = np.ma.filled(np.ma.asarray(table["log_evidence"]).astype(float), np.nan)
        evidence = evidence[np.isfinite(evidence)]
        for level in (16, 50, 84):
            summary[f"log evidence, {level} % quantile"] = _of(
                lambda values, q=level: np.percentile(values, q), evidence
            )
    return summary


def _of(statistic, values):
    return float(statistic(values)) if len(values) else np.nan


def paired_rmse(
    refined: Matched, plain: Matched, name: str, *, n_bootstrap: int = 200, seed: int = 0
) -> tuple[float, float]:
    """Compute the ratio of the RMSE of two estimators on the same galaxies, and its error.

    Parameters
    ----------
    refined, plain : Matched
        Results of the two estimators on the same truths.
    name : str
        Name of the parameter.
    n_bootstrap, seed : int, optional
        Rounds of the bootstrap over galaxies that gives the error, and its seed.

    Returns
    -------
    ratio, error : float
        RMSE of the first over that of the second, over the galaxies that both have measured. The chance that both share
        cancels.
    """
    squares = np.stack([matched.difference(name) ** 2 for matched in (refined, plain)])
    squares = squares[:, np.isfinite(squares).all(axis=0)]
    count = squares.shape[1]
    if not count or not squares[1].any():
        return np.nan, np.nan
    ratio = np.sqrt(squares[0].sum() / squares[1].sum())
    picks = (np.random.default_rng([seed, round_]).integers(count, size=count) for round_ in range(n_bootstrap))
    again = [np.sqrt(np.divide(*squares[:, pick].sum(axis=1))) for pick in picks]
    return float(ratio), float(np.std(again)) if again else np.nan
