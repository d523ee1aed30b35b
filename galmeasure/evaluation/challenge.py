"""The metrics of the Euclid Morphology Challenge, so that results can be laid beside its tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from astropy.table import QTable

from galmeasure.evaluation.matching import Matched, match_tables
from galmeasure.evaluation.metrics import groups, pieces

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    import numpy.typing as npt
    from astropy.table import Table

__all__ = ["CHALLENGE_OUTLIER", "challenge_metrics"]

CHALLENGE_OUTLIER = 0.5
"""An outlier of the challenge has an error above this, in the error's own measure."""

_MEASURES = {"flux": "relative", "r_eff_major": "relative", "r_eff": "relative", "q": "absolute", "n": "log10"}
_COLUMNS = ("bias", "dispersion", "outlier_fraction", "within_1_sigma")


def challenge_metrics(
    truth: Table | Matched,
    result: Table | None = None,
    *,
    bins: int | Mapping[str, npt.ArrayLike] = 0,
    outlier: float = CHALLENGE_OUTLIER,
    n_bootstrap: int = 200,
    seed: int = 0,
    **options: Any,
) -> QTable:
    """Compute metrics as in the Euclid Morphology Challenge.

    Parameters
    ----------
    truth, result : `~astropy.table.Table`
        One row per galaxy; see `match_tables`. ``truth`` may be the value of `match_tables`, without a result.
    bins : int or dict, optional
        Bins as in `compare`; the papers have bins of magnitude.
    outlier : float, optional
        Size of the error from which a galaxy is an outlier.
    n_bootstrap : int, optional
        Rounds of the bootstrap that gives the errors.
    seed : int, optional
        Seed of the bootstrap. Default 0.
    **options
        Further arguments of `match_tables`.

    Returns
    -------
    `~astropy.table.QTable`
        A row for each parameter (and bin): ``measure`` of the error, ``completeness``, ``bias``, ``dispersion``,
        ``outlier_fraction`` and ``within_1_sigma``, the last four with ``_err``.

    Notes
    -----
    Euclid Collaboration: Bretonniere et al. 2023, A&A 671, A102 (structure), and Merlin et al. 2023, A&A 671, A101
    (photometry). The definitions here follow the analysis code that the first authors published
    (github.com/Hbretonniere/Euclid_Morphology_Challenge):

    * error of a galaxy: relative, (measured - true) / true, for fluxes and radii; absolute for axis ratios;
      log10(measured / true) for the Sersic index (an error of 0.5 of n from 2 is as one of 1 from 4);
    * bias: the median error;
    * dispersion: the 68 % quantile of the distance from the median, abs(error - bias). (That code takes the quantile
      of abs(error) - bias, which is the same where the bias is small.);
    * outlier fraction: the fraction of galaxies with abs(error) above the threshold, 0.5 in the papers;
    * completeness: the fraction of true galaxies that have a measurement. The papers count detections;
    * within 1 sigma: the fraction of truths in (measured - error, measured + error], 0.68 if errors are right.

    The radius of the papers is the semi-major one, here ``r_eff_major``. They leave galaxies without a measurement out
    of all but the completeness, and so is it here. Their bins, magnitude limits and global score, which weights bins
    by S/N, are those of their simulations and are not repeated.

    Examples
    --------
    >>> from astropy.table import Table
    >>> from galmeasure.evaluation import challenge_metrics
    >>> truth = Table({"true_n": [1.0, 2.0, 4.0, 4.0]})
    >>> found = Table({"n_fit": [1.0, 2.0, 40.0, float("nan")], "n_err": [0.1, 0.1, 0.1, 0.1]})
    >>> row = challenge_metrics(truth, found)[0]
    >>> print(f"{row['completeness']:.2f} {row['outlier_fraction']:.2f} {row['within_1_sigma']:.2f}")
    0.75 0.33 0.67
    """
    matched = truth if isinstance(truth, Matched) and result is None else match_tables(truth, result, **options)
    if not outlier > 0:
        msg = f"outlier must be positive, not {outlier!r}"
        raise ValueError(msg)
    rng, rows = np.random.default_rng(seed), []
    for by, low, high, inside in groups(matched.about, bins, len(matched)):
        for name in (name for name in _MEASURES if name in matched.names):
            error, covered = _errors(matched, name)
            good = inside & np.isfinite(error)
            values = _metrics(error[good], covered[good], outlier, n_bootstrap, rng)
            complete = good.sum() / inside.sum() if inside.any() else np.nan
            rows.append((by, low, high, name, _MEASURES[name], int(good.sum()), complete, *values))
    names = ["by", "low", "high", "parameter", "measure", "n_used", "completeness"]
    names += [name for column in _COLUMNS for name in (column, f"{column}_err")]
    return QTable(rows=rows, names=names, meta={**matched.counts(), "outlier": outlier})


def _errors(matched, name):
    """Errors of the galaxies in their measure, and whether the truth is within 1 sigma (0, 1 or NaN)."""
    truth, value = matched.truth[name], matched.value[name]
    with np.errstate(all="ignore"):
        error = {
            "relative": lambda: (value - truth) / truth,
            "absolute": lambda: value - truth,
            "log10": lambda: np.log10(value) - np.log10(truth),
        }[_MEASURES[name]]()
    sigma = matched.error.get(name)
    if sigma is None:
        return error, np.full(len(error), np.nan)
    covered = np.where(np.isfinite(sigma), (truth <= value + sigma) & (truth > value - sigma), np.nan)
    return error, covered


def _metrics(error, covered, outlier, n_bootstrap, rng):
    """Each metric and its error."""
    if len(error) < 2:
        return [np.nan] * (2 * len(_COLUMNS))

    def metrics(error, covered):
        bias = np.median(error, axis=-1)
        dispersion = np.quantile(np.abs(error - bias[..., None]), 0.68, axis=-1)
        is_known = np.isfinite(covered)
        with np.errstate(invalid="ignore"):
            within = np.where(is_known, covered, 0.0).sum(-1) / is_known.sum(-1)
        return np.array([bias, dispersion, np.mean(np.abs(error) > outlier, axis=-1), within])

    values = metrics(error[None], covered[None])[:, 0]
    again = np.zeros((len(_COLUMNS), 0))
    if n_bootstrap:
        sizes = pieces(n_bootstrap, len(error))
        picks = (rng.integers(len(error), size=(size, len(error))) for size in sizes)
        again = np.concatenate([metrics(error[pick], covered[pick]) for pick in picks], axis=1)
    spread = again.std(axis=1) if n_bootstrap else np.full(len(_COLUMNS), np.nan)
    return [number for pair in zip(values, spread, strict=True) for number in pair]
