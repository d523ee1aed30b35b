"""Results beside the truths of their own input, for ``galmeasure evaluate --against``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import QTable

__all__ = ["compare_with_input"]

COLUMNS = ("bias", "scatter", "rmse", "outlier_fraction", "pull_std", "coverage_68")
"""Statistics that are shown; a report has all of them."""


def compare_with_input(settings: Any, measured: Callable[[QTable], list], tables: dict[str, QTable]) -> str:
    """Compare results with the true parameters of the catalogue that was measured.

    Parameters
    ----------
    settings : EvaluationSettings
        Settings of which ``against`` is the catalogue, and ``report`` a folder or None.
    measured : callable
        Gives estimates of the catalogue's cutouts; called where there is no result table.
    tables : dict of str to `~astropy.table.QTable`
        Results by their names; where there are none, those that the command has written beside the catalogue, and
        otherwise the catalogue is measured now.

    Returns
    -------
    str
        One table per result, and where the report is.

    Raises
    ------
    ValueError
        If the results have nothing in common with the truths.
    CatalogError
        If a file cannot be read, or has no true parameters.
    """
    from galmeasure.evaluation import Estimate, compare, read_results
    from galmeasure.io.truths import read_truth_of_list
    from galmeasure.workflows.measure import output_path

    against = settings.against
    truth = read_truth_of_list(against)
    beside = output_path(against, None)
    if not tables and beside.is_file():
        tables = {beside.stem: read_results(beside)}
    estimates = [Estimate(name=name, table=table, about="catalogue") for name, table in tables.items()]
    estimates = estimates or measured(truth)
    how = {"zero_point": settings.zero_point, "pixel_scale": settings.pixel_scale}
    how["n_bootstrap"] = settings.bootstrap
    lines = []
    for estimate in estimates:
        comparison = compare(truth, estimate.table, name=estimate.name, **how)
        lines += [_counts(comparison, against), *_rows(comparison), ""]
    if settings.report is not None:
        from galmeasure.evaluation import write_report

        names = ", ".join(estimate.name for estimate in estimates)
        about = [f"The galaxies are those of {Path(against).name}."]
        page = write_report(settings.report, truth, estimates, about=about, title=f"Evaluation of {names}", **how)
        lines.append(f"report {page}")
    return "\n".join(lines).rstrip()


def _counts(comparison, against):
    """What was compared, and what is missing."""
    counts = comparison.counts
    words = {"n_missing": "without a row", "n_failed": "not measured", "n_flagged": "flagged", "n_extra": "of no truth"}
    counted = [f"{counts[key]} {text}" for key, text in words.items() if counts[key]]
    return ", ".join([f"{comparison.name} against {counts['n_truth']} galaxies of {Path(against).name}", *counted])


def _rows(comparison):
    """Statistics of every parameter, one line each."""
    overall = comparison.overall
    columns = [name for name in COLUMNS if np.isfinite(np.asarray(overall[name], float)).any()]
    cells = [["parameter", "unit", "n", *columns]]
    for row in overall:
        numbers = [_number(row[name], row[f"{name}_err"] if name == "bias" else None) for name in columns]
        cells.append([str(row["parameter"]), str(row["unit"]), str(row["n_used"]), *numbers])
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        aligned = [c.rjust(w) if k > 1 else c.ljust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  " + "  ".join(aligned).rstrip())
    return lines


def _number(value, error):
    """A number with three digits, and its error with two; nothing where it is not known."""
    if not np.isfinite(value):
        return "-"
    return f"{value:.3g}" if error is None or not np.isfinite(error) else f"{value:.3g} +/- {error:.2g}"
