"""The study's table: bias and scatter over noise draws of one galaxy, beside the Cramer-Rao bound."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from astropy.table import QTable, Table

from galmeasure.evaluation.matching import match_tables
from galmeasure.evaluation.report.published import REFERENCE_BOUNDS, REFERENCE_RESULTS, STUDY_PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BASELINE", "Estimate", "ReferenceDraws", "reference_table"]

BASELINE = "baseline fit (GalSim)"
"""Name of the study's baseline fit where it is run here, without noise in its model; times are in units of its."""

_UNITS = (1e5, 1.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Results of one estimator.

    Parameters
    ----------
    name : str
        Name of the estimator.
    table : `~astropy.table.Table`
        Results of the estimator, see `match_tables`.
    samples : `~astropy.table.Table`, optional
        Draws from its posteriors.
    seconds : float, optional
        Time for all rows in seconds.
    core_seconds : float, optional
        Processor time for all rows in seconds, all threads together.
    plain : str, optional
        Name of the estimator that this one refines.
    about : str, optional
        One sentence about the estimator.
    """

    name: str
    table: Table
    samples: Table | None = None
    seconds: float = np.nan
    core_seconds: float = np.nan
    plain: str | None = None
    about: str = ""

    @property
    def seconds_per_galaxy(self) -> float:
        """Time of one row."""
        return self.seconds / len(self.table)

    @property
    def core_seconds_per_galaxy(self) -> float:
        """Processor time of one row."""
        return self.core_seconds / len(self.table)


@dataclass(frozen=True, kw_only=True)
class ReferenceDraws:
    """Noise draws of one galaxy and the results of estimators on them.

    Parameters
    ----------
    snr : int
        Rounded signal-to-noise ratio, by which published numbers are found.
    truth : `~astropy.table.Table`
        One row per draw, all equal.
    bounds : `~astropy.table.Table`
        Cramer-Rao bounds ``<p>_crb``, one row.
    estimates : list of Estimate
        Results; of the first draws if a table has fewer rows.
    """

    snr: int
    truth: Table
    bounds: Table
    estimates: list = field(default_factory=list)


def reference_table(draws: Sequence[ReferenceDraws], *, published: bool = True) -> QTable:
    """Compute bias and standard deviation of every estimator over noise draws, beside the Cramer-Rao bound.

    Parameters
    ----------
    draws : list of ReferenceDraws
        One for each signal-to-noise ratio.
    published : bool, optional
        Add the numbers of the study's networks, where it has some for the S/N. Those of its baseline fit are of other
        galaxies, and never here.

    Returns
    -------
    `~astropy.table.QTable`
        One row per S/N, estimator and parameter: ``n_used`` draws, ``n_failed`` without a result, ``bias``, ``std``
        and ``rmse`` with their errors, ``bound``, ``rmse_over_bound``, and the times per galaxy; flux in 1e5, r_eff in
        the unit of the truth. Published numbers have no errors, and ``n_used`` 0; their bound is the published one.

    Examples
    --------
    >>> import numpy as np
    >>> from astropy.table import Table
    >>> from galmeasure.evaluation import Estimate, ReferenceDraws, reference_table
    >>> names = ("flux", "n", "r_eff", "g1", "g2")
    >>> truth = Table({f"true_{name}": np.ones(100) for name in names})
    >>> found = Table({f"{name}_fit": 1 + np.random.default_rng(1).normal(size=100) for name in names})
    >>> bounds = Table({f"{name}_crb": [1.0] for name in names})
    >>> draws = ReferenceDraws(snr=60, truth=truth, bounds=bounds, estimates=[Estimate(name="mine", table=found)])
    >>> table = reference_table([draws])
    >>> print(*sorted(set(table["estimator"])), sep="; ")
    Xception CNN (published); autoencoder (published); autoencoder, its module (published); mine
    """
    rows = []
    for draws_of_snr in draws:
        if published:
            rows += _published_rows(draws_of_snr.snr)
        for estimate in draws_of_snr.estimates:
            rows += _measured_rows(draws_of_snr, estimate)
    names = ("snr", "estimator", "parameter", "n_used", "n_failed", "bias", "bias_err", "std", "std_err", "rmse",
             "rmse_err", "bound", "rmse_over_bound", "seconds_per_galaxy", "core_seconds_per_galaxy")  # fmt: skip
    return QTable(rows=rows, names=names)


def _published_rows(snr):
    rows = []
    for name, (bias, std) in REFERENCE_RESULTS.get(snr, {}).items():
        for parameter, b, s, bound in zip(STUDY_PARAMETERS, bias, std, REFERENCE_BOUNDS[snr], strict=True):
            rmse = np.hypot(b, s)
            rows.append((snr, f"{name} (published)", parameter, 0, 0, b, np.nan, s, np.nan, rmse, np.nan, bound,
                         rmse / bound, np.nan, np.nan))  # fmt: skip
    return rows


def _measured_rows(draws, estimate):
    table = estimate.table
    matched = match_tables(draws.truth[: len(table)], table)
    rows = []
    for parameter, unit in zip(STUDY_PARAMETERS, _UNITS, strict=True):
        delta = matched.difference(parameter) / unit
        good = delta[np.isfinite(delta)]
        bound = float(getattr(draws.bounds[f"{parameter}_crb"][0], "value", draws.bounds[f"{parameter}_crb"][0])) / unit
        numbers = [np.nan] * 6
        if len(good) > 1:
            bias, std, rmse = good.mean(), good.std(ddof=1), np.sqrt(np.mean(good**2))
            errors = std / np.sqrt(len(good)), std / np.sqrt(2 * (len(good) - 1)), _rmse_error(good, rmse)
            numbers = [bias, errors[0], std, errors[1], rmse, errors[2]]
        rows.append((draws.snr, estimate.name, parameter, len(good), len(delta) - len(good), *numbers, bound,
                     numbers[4] / bound, estimate.seconds_per_galaxy, estimate.core_seconds_per_galaxy))  # fmt: skip
    return rows


def _rmse_error(delta, rmse):
    """Standard error of a root mean square, from the scatter of the squares."""
    return np.std(delta**2, ddof=1) / np.sqrt(len(delta)) / (2.0 * rmse) if rmse > 0 else 0.0
