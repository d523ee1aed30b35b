"""Figure of what a calibration changes: bias and coverage by S/N and size, before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from astropy import units as u

from galmeasure.evaluation.learn_calibration import column_numbers
from galmeasure.evaluation.matching import parameter_label
from galmeasure.plotting.figures import new_figure
from galmeasure.results.columns import TRUE
from galmeasure.results.frame import plain_numbers

if TYPE_CHECKING:
    import numpy.typing as npt
    from astropy.table import Table
    from matplotlib.figure import Figure

    from galmeasure.evaluation.learn_calibration import CalibrationResult

__all__ = ["plot_calibration_trends"]

_LARGEST_PULL = 5.0  # a few wrong measurements must not hide the bias of the others
_SHOWN = ("flux", "n", "r_eff", "g1", "g2")
_COVERAGE = 0.6827  # of one standard deviation of a normal distribution


def plot_calibration_trends(result: CalibrationResult, *, n_bins: int = 8) -> Figure:
    """Draw bias and coverage by S/N and size, before and after.

    Parameters
    ----------
    result : CalibrationResult
        Calibration and tables that `calibrate` returns.
    n_bins : int, optional
        Number of bins, which hold equal numbers of galaxies. Default 8.

    Returns
    -------
    `~matplotlib.figure.Figure`
        One row of panels per parameter: mean of measured minus true in units of the error (within 5), and coverage
        of the 68 % interval (that of the quantiles if the results have them), by measured S/N and by measured size.
    """
    truth, before = result.truth, result.before
    length = before["r_eff_fit"].unit or u.dimensionless_unscaled
    radius = column_numbers(before, "r_eff_fit", "result", length)
    width = column_numbers(truth, TRUE.format("psf_fwhm"), "truth", length)
    sorters = {"S/N": plain_numbers(before["snr"], "snr"), "r_eff / PSF FWHM": radius / width}
    figure = new_figure(11.0, 1.7 * len(_SHOWN) + 0.6)
    axes = figure.subplots(len(_SHOWN), 4, squeeze=False, sharex="col")
    for name, row in zip(_SHOWN, axes, strict=True):
        for table, style, label in ((before, "C1--", "before"), (result.after, "C0-", "after")):
            pull, inside = _pull_and_inside(truth, table, name)
            for k, values in enumerate(sorters.values()):
                _draw_trends(row[2 * k : 2 * k + 2], values, pull, inside, n_bins, fmt=style, label=label)
        for k in range(2):
            row[2 * k].axhline(0.0, color="0.7", lw=0.8)
            row[2 * k + 1].axhline(_COVERAGE, color="0.7", lw=0.8)
        row[0].set_ylabel(parameter_label(name))
    _label_columns(axes, sorters)
    axes[0, 0].legend(fontsize="small")
    return figure


def _draw_trends(axes, values, pull, inside, n_bins, **style):
    """Draw bias and coverage in bins of the values with equal numbers of galaxies."""
    edges = np.unique(np.quantile(values, np.linspace(0.0, 1.0, n_bins + 1)))
    bins = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    rows_of_bin = [np.flatnonzero(bins == b) for b in range(len(edges) - 1)]
    pull = np.clip(pull, -_LARGEST_PULL, _LARGEST_PULL)
    x = [np.median(values[rows]) for rows in rows_of_bin]
    bias = [np.mean(pull[rows]) for rows in rows_of_bin]
    bias_error = [np.std(pull[rows]) / np.sqrt(len(rows)) for rows in rows_of_bin]
    coverage = [np.mean(inside[rows]) for rows in rows_of_bin]
    coverage_error = [np.sqrt(_COVERAGE * (1.0 - _COVERAGE) / len(rows)) for rows in rows_of_bin]
    axes[0].errorbar(x, bias, bias_error, **style)
    axes[1].errorbar(x, coverage, coverage_error, **style)


def _label_columns(axes, sorters):
    """Write titles and labels, and make the horizontal axes logarithmic."""
    from matplotlib.ticker import NullFormatter

    for k, text in enumerate(sorters):
        for axis, title in zip(axes[0, 2 * k : 2 * k + 2], ("bias / error", "68 % coverage"), strict=True):
            axis.set(xscale="log", title=title)
            axis.xaxis.set_minor_formatter(NullFormatter())
        for axis in axes[-1, 2 * k : 2 * k + 2]:
            axis.set_xlabel(text)


def _pull_and_inside(truth: Table, table: Table, name: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return measured minus true over the error, and whether the truth is in the 68 % interval."""
    unit = table[f"{name}_fit"].unit or u.dimensionless_unscaled

    def measured(form):
        return column_numbers(table, form.format(name), "result", unit)

    true = column_numbers(truth, TRUE.format(name), "truth", unit)
    pull = (measured("{}_fit") - true) / measured("{}_err")
    if f"{name}_q16" not in table.colnames:
        return pull, np.abs(pull) <= 1.0
    return pull, (true >= measured("{}_q16")) & (true <= measured("{}_q84"))
