"""The reference galaxy in a report: the study's table, with errors, and times beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table

from galmeasure.evaluation.report.page import numbers
from galmeasure.evaluation.report.published import (
    BASELINE_FIRST_ORDER,
    BASELINE_RESULTS,
    REFERENCE_BOUNDS,
    STUDY_PARAMETERS,
)
from galmeasure.evaluation.report.reference import BASELINE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from galmeasure.evaluation.report.reference import ReferenceDraws

__all__ = ["baseline_table", "in_brackets", "time_table", "time_text", "wide_reference"]

_UNITS = {"flux": " [1e5]", "r_eff": " [arcsec]"}


def wide_reference(table: Table, reference: Sequence[ReferenceDraws]) -> Table:
    """Arrange the reference table with one row per S/N and estimator, and one column per parameter.

    Parameters
    ----------
    table : `~astropy.table.Table`
        Table that `reference_table` returns.
    reference : list of ReferenceDraws
        Noise draws in the order of the rows.

    Returns
    -------
    `~astropy.table.Table`
        Table of texts for a page.
    """
    names = list(dict.fromkeys(str(name) for name in table["parameter"]))
    rows = []
    for draws in reference:
        label, of_snr = f"S/N {draws.snr}", table[table["snr"] == draws.snr]
        bounds = {str(row["parameter"]): row["bound"] for row in of_snr if row["n_used"]}
        rows.append((label, "Cramer-Rao bound", "", *numbers([bounds.get(name, np.nan) for name in names])))
        if draws.snr in REFERENCE_BOUNDS:
            rows.append((label, "Cramer-Rao bound (published)", "", *numbers(REFERENCE_BOUNDS[draws.snr])))
        for estimator in dict.fromkeys(str(name) for name in of_snr["estimator"]):
            row_of = {str(row["parameter"]): row for row in of_snr if str(row["estimator"]) == estimator}
            n_used = max(int(row["n_used"]) for row in row_of.values())
            cells = (_bias_and_std(row_of[name]) if name in row_of else "-" for name in names)
            rows.append((label, estimator, str(n_used) if n_used else "", *cells))
    return Table(rows=rows, names=("galaxy", "estimator", "draws", *_with_units(names)))


def baseline_table() -> Table:
    """Arrange what the study published of its baseline fit, with the sign of measured minus true.

    Returns
    -------
    `~astropy.table.Table`
        Table of texts for a page: for each S/N the published bias and standard deviation, and the bias that follows to
        first order from the noise image that the study added to every model.
    """
    rows = []
    for snr, (bias, std) in BASELINE_RESULTS.items():
        published = (f"{b:+.3f} / {s:.3f}" for b, s in zip(bias, std, strict=True))
        predicted = BASELINE_FIRST_ORDER[snr]
        rows.append((f"S/N {snr}", "baseline fit (published)", *published))
        cells = (f"{predicted[name]:+.3f}" if name in predicted else "-" for name in STUDY_PARAMETERS)
        rows.append((f"S/N {snr}", "bias by the noise in the model", *cells))
    return Table(rows=rows, names=("galaxies", "what it is", *_with_units(STUDY_PARAMETERS)))


def _with_units(names):
    """Names of parameters with the units of the published tables."""
    return [f"{name}{_UNITS.get(name, '')}" for name in names]


def _bias_and_std(row):
    """Bias / standard deviation, with errors where they are known."""
    if not np.isfinite(row["bias"]):
        return "-"
    if not row["n_used"]:
        return f"{row['bias']:+.3f} / {row['std']:.3f}"
    return f"{in_brackets(row['bias'], row['bias_err'], '+')} / {in_brackets(row['std'], row['std_err'])}"


def time_table(table: Table) -> Table:
    """Arrange the times of the estimators beside each other and that of the baseline.

    Parameters
    ----------
    table : `~astropy.table.Table`
        Table that `reference_table` returns.

    Returns
    -------
    `~astropy.table.Table`
        Table of texts for a page; empty without times.
    """
    rows_of = {}
    for row in table[np.isfinite(table["seconds_per_galaxy"])]:
        rows_of.setdefault(str(row["estimator"]), {})[row["snr"]] = row
    kinds = ("seconds", "core_seconds")
    mean = {
        name: {kind: np.mean([row[f"{kind}_per_galaxy"] for row in rows.values()]) for kind in kinds}
        for name, rows in rows_of.items()
    }
    slowest = mean.get(BASELINE, {"core_seconds": np.nan})
    rows = [
        (name, str(sum(row["n_used"] for row in rows_of[name].values())), time_text(times["seconds"]),
         time_text(times["core_seconds"]), _rounded(1.0 / times["seconds"], 3),
         "-" if name == BASELINE else _rounded(slowest["core_seconds"] / times["core_seconds"], 2))
        for name, times in mean.items()
    ]  # fmt: skip
    names = ("estimator", "galaxies", "time per galaxy", "core time per galaxy", "galaxies per second",
             "times as fast as the baseline, by core time")  # fmt: skip
    return Table(rows=rows, names=names) if rows else Table()


def _rounded(value, digits):
    """Number of few digits, not in powers of ten."""
    return f"{float(f'{value:.{digits}g}'):g}" if np.isfinite(value) else "-"


def in_brackets(value: float, error: float, sign: str = "") -> str:
    """Format a value with its error in units of its last digit, as in 0.061(7)."""
    if not (np.isfinite(error) and error > 0):
        return f"{value:{sign}.3g}"
    digits = max(0, -int(np.floor(np.log10(error))))
    last = round(error * 10.0**digits)
    return f"{value:{sign}.{digits}f}({last})"


def time_text(seconds: float) -> str:
    """Format a time in seconds to two digits, NaN as a dash."""
    if not np.isfinite(seconds):
        return "-"
    value, unit = (seconds, "s") if seconds >= 0.9995 else (1e3 * seconds, "ms")
    return f"{_rounded(value, 2)} {unit}"
