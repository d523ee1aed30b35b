"""Figures of a report: truths against results, errors by S/N, calibration of posteriors. Matplotlib comes late."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from galmeasure.evaluation.matching import parameter_label
from galmeasure.plotting.figures import new_figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from astropy.table import Table
    from matplotlib.figure import Figure

    from galmeasure.evaluation.metrics import Comparison

__all__ = [
    "plot_calibration",
    "plot_errors",
    "plot_expected_coverage",
    "plot_limits",
    "plot_predicted",
    "plot_pulls",
    "plot_ranks",
    "plot_reference",
    "plot_trends",
]

SHOWN = ("flux", "n", "r_eff", "g1", "g2")
_RANKED = (*SHOWN, "x", "y")
_LABELS = {"snr": "S/N", "n": "true Sersic index", "r_eff / PSF FWHM": "r_eff / PSF FWHM", "|g|": "|g|"}


def colours(names: Sequence[str]) -> dict[str, str]:
    """Choose the colour of each estimator, the same in all figures.

    Parameters
    ----------
    names : sequence of str
        Names of the estimators in their order.

    Returns
    -------
    dict of str to str
        Colour of matplotlib by name.
    """
    return {name: f"C{i}" for i, name in enumerate(names)}


def plot_limits(comparisons: Sequence[Comparison]) -> Figure:
    """Errors in units of the Cramer-Rao bound, and of the exact posterior mean where that is known.

    Parameters
    ----------
    comparisons : list of Comparison
        One comparison per estimator.

    Returns
    -------
    `~matplotlib.figure.Figure`
        A panel for each limit; a point with its error for each parameter and estimator.
    """
    kinds = {"typical_over_crb": "typical error / Cramer-Rao bound", "rmse_over_limit": "RMSE / exact posterior mean"}
    kinds = {k: text for k, text in kinds.items() if any(np.isfinite(c.overall[k]).any() for c in comparisons)}
    figure = new_figure(6.4 * max(len(kinds), 1), 3.6)
    axes = np.atleast_1d(figure.subplots(1, max(len(kinds), 1)))
    tint = colours([c.name for c in comparisons])
    for axis, (kind, text) in zip(axes, kinds.items(), strict=False):
        names = [n for n in _RANKED if any(n in c.matched.names and np.isfinite(c.row(n)[kind]) for c in comparisons)]
        axis.axhline(1, color="0.4", lw=1)
        for i, c in enumerate(comparisons):
            shift = 0.6 * ((i + 0.5) / len(comparisons) - 0.5)
            rows = {k: c.row(name) for k, name in enumerate(names) if name in c.matched.names}
            axis.errorbar([k + shift for k in rows], [row[kind] for row in rows.values()],
                          [row[f"{kind}_err"] for row in rows.values()], color=tint[c.name], fmt="o", ms=5,
                          capsize=2, label=c.name)  # fmt: skip
        axis.set_xticks(range(len(names)), [parameter_label(name) for name in names])
        axis.set(ylabel=text, xlim=(-0.5, len(names) - 0.5))
        axis.set_ylim(min(0.9, axis.get_ylim()[0]), max(1.1, axis.get_ylim()[1]))
        axis.grid(axis="y", color="0.92")
        axis.set_axisbelow(True)
    _legend(figure, axes[0])
    return figure


def plot_predicted(comparison: Comparison) -> Figure:
    """Measured against true values of one estimator, coloured by S/N.

    Parameters
    ----------
    comparison : Comparison
        Comparison that `compare` returns.

    Returns
    -------
    `~matplotlib.figure.Figure`
        One panel per parameter; the numbers are of all galaxies.
    """
    matched = comparison.matched
    names = [name for name in SHOWN if name in matched.names]
    figure = new_figure(2.5 * len(names) + 0.7, 3.0)
    axes = np.atleast_1d(figure.subplots(1, len(names)))
    snr = matched.about.get("snr", np.full(len(matched), np.nan))
    order = np.argsort(np.where(np.isfinite(snr), snr, -np.inf))
    for axis, name in zip(axes, names, strict=True):
        truth, value = matched.truth[name][order], matched.value[name][order]
        size = np.clip(6000 / len(matched), 3, 16)
        shown = axis.scatter(truth, value, c=snr[order], s=size, cmap="viridis", linewidths=0, rasterized=True)
        low, high = _span(truth)
        margin = 0.25 * (high - low)
        axis.plot([low, high], [low, high], color="0.3", lw=1)
        axis.set(xlim=(low, high), ylim=(low - margin, high + margin))
        axis.set(xlabel=f"true {_with_unit(matched, name)}", ylabel=f"measured {parameter_label(name)}")
        hidden = np.mean((value < low - margin) | (value > high + margin))
        row = comparison.row(name)
        text = f"rmse {row['rmse']:.3g}" + (f", {100 * hidden:.1f} % not shown" if hidden else "")
        axis.set_title(text, fontsize="small")
        axis.locator_params(nbins=5)
        _short_numbers(axis)
    if np.isfinite(snr).any():
        figure.colorbar(shown, ax=list(axes), label="S/N", pad=0.01)
    figure.suptitle(comparison.name)
    return figure


def plot_errors(comparisons: Sequence[Comparison]) -> Figure:
    """Distributions of measured minus true values of several estimators.

    Parameters
    ----------
    comparisons : list of Comparison
        One comparison per estimator.

    Returns
    -------
    `~matplotlib.figure.Figure`
        One panel per parameter.
    """
    names = [name for name in SHOWN if any(name in c.matched.names for c in comparisons)]
    figure = new_figure(2.6 * len(names), 2.9)
    axes = np.atleast_1d(figure.subplots(1, len(names)))
    tint = colours([c.name for c in comparisons])
    for axis, name in zip(axes, names, strict=True):
        differences = [(c, c.matched.difference(name)) for c in comparisons if name in c.matched.names]
        width = 4.0 * np.nanmax([c.row(name)["robust_scatter"] for c, _ in differences])
        width = width if np.isfinite(width) and width > 0 else 1.0
        for c, delta in differences:
            good = delta[np.isfinite(delta)]
            axis.hist(np.clip(good, -width, width), np.linspace(-width, width, 61), density=True, histtype="step",
                      color=tint[c.name], label=c.name)  # fmt: skip
        axis.axvline(0, color="0.6", lw=0.8)
        axis.set(xlabel=f"measured - true {_with_unit(differences[0][0].matched, name)}", yticks=[])
        axis.locator_params(axis="x", nbins=4)
        _short_numbers(axis)
    _legend(figure, axes[0])
    return figure


def plot_trends(comparisons: Sequence[Comparison]) -> Figure:
    """Bias and scatter in bins of S/N, Sersic index, size and ellipticity, with the Cramer-Rao bound.

    Parameters
    ----------
    comparisons : list of Comparison
        One comparison per estimator.

    Returns
    -------
    `~matplotlib.figure.Figure`
        A row of panels for each parameter: thick lines are the robust scatter, thin ones the median difference with its
        error, dashed ones the median bound of the bin.
    """
    names = [name for name in SHOWN if any(name in c.matched.names for c in comparisons)]
    by = list(dict.fromkeys(b for c in comparisons for b in c.table["by"] if b != "all"))
    figure = new_figure(3.25 * max(len(by), 1), 1.9 * len(names))
    axes = figure.subplots(len(names), max(len(by), 1), squeeze=False, sharey="row", sharex="col")
    tint = colours([c.name for c in comparisons])
    for line, name in zip(axes, names, strict=True):
        for axis, quantity in zip(line, by, strict=False):
            for c in comparisons:
                rows = c.table[(c.table["by"] == quantity) & (c.table["parameter"] == name)]
                if len(rows):
                    _draw_trend(axis, rows, c, name, quantity, tint[c.name])
            axis.axhline(0, color="0.7", lw=0.8, zorder=0)
        line[0].set_ylabel(f"error of {_with_unit(comparisons[0].matched, name)}")
        _short_numbers(line[0])
        _limit_trend(line, comparisons, name)
    for axis, quantity in zip(axes[-1], by, strict=False):
        axis.set_xlabel(_LABELS.get(quantity, quantity))
        if quantity == "snr":
            _log_axis(axis)
    _legend(figure, axes[0, 0])
    return figure


def _draw_trend(axis, rows, comparison, name, quantity, colour):
    middle = (rows["low"] + rows["high"]) / 2
    if quantity == "snr":
        middle = np.sqrt(rows["low"] * rows["high"])
    axis.plot(middle, rows["robust_scatter"], color=colour, lw=2.2, marker="o", ms=3, label=comparison.name)
    axis.errorbar(middle, rows["median_bias"], rows["median_bias_err"], color=colour, lw=0.9, marker="s", ms=3, mfc="w")
    bound = comparison.matched.bound.get(name)
    if bound is not None:
        values = comparison.matched.about[quantity]
        typical = [np.nanmedian(bound[(values >= r["low"]) & (values <= r["high"])]) for r in rows]
        axis.plot(middle, typical, color="0.3", lw=1.2, ls="--", zorder=1)


def _limit_trend(line, comparisons, name):
    """Limits that a broken bin of one estimator does not decide."""
    sizes = [c.table["robust_scatter"][(c.table["parameter"] == name)] for c in comparisons]
    sizes = np.concatenate(sizes)
    sizes = sizes[np.isfinite(sizes)]
    high = 1.25 * np.quantile(sizes, 0.95) if len(sizes) else 0.0
    if high > 1e-12:  # not where all is exact
        line[0].set_ylim(-0.6 * high, high)


def plot_pulls(comparisons: Sequence[Comparison]) -> Figure:
    """Distributions of measured minus true over error, with the unit Gaussian.

    Parameters
    ----------
    comparisons : list of Comparison
        Comparisons of estimators that give errors.

    Returns
    -------
    `~matplotlib.figure.Figure`
        One panel per parameter.
    """
    figure = new_figure(1.9 * len(_RANKED), 2.5)
    axes = figure.subplots(1, len(_RANKED))
    tint, edges = colours([c.name for c in comparisons]), np.linspace(-5, 5, 41)
    x = np.linspace(-5, 5, 200)
    for axis, name in zip(axes, _RANKED, strict=True):
        axis.plot(x, stats.norm.pdf(x), color="0.3", lw=1, ls="--")
        for c in comparisons:
            pull = _pulls(c.matched, name)
            if len(pull):
                axis.hist(np.clip(pull, -5, 5), edges, density=True, histtype="step", color=tint[c.name], label=c.name)
        axis.set(xlabel=f"pull of {parameter_label(name)}", yticks=[])
    _legend(figure, axes[0])
    return figure


def _pulls(matched, name):
    if name not in matched.names or name not in matched.error:
        return np.zeros(0)
    with np.errstate(all="ignore"):
        pull = matched.difference(name) / np.where(matched.error[name] > 0, matched.error[name], np.nan)
    return pull[np.isfinite(pull)]


def _normal_scores(matched, name):
    """Truths as a Gaussian would have them, from the quantiles to both sides of the median, or from errors."""
    if name not in matched.quantiles or name not in matched.names:
        return _pulls(matched, name)
    low, middle, high = matched.quantiles[name].T
    away = matched.truth[name] - middle
    with np.errstate(all="ignore"):
        score = away / np.where(away > 0, high - middle, middle - low)
    return score[np.isfinite(score)]


def plot_calibration(comparisons: Sequence[Comparison]) -> Figure:
    """Fraction of truths inside central intervals against the credibility of these.

    Parameters
    ----------
    comparisons : list of Comparison
        Comparisons of estimators that give errors; ranks among draws are used where there are some,
        otherwise quantiles, with half a Gaussian to either side of the median, otherwise Gaussian errors.

    Returns
    -------
    `~matplotlib.figure.Figure`
        One panel per parameter: the fraction minus the credibility; the grey band holds 95 % of what chance gives.
    """
    figure = new_figure(1.9 * len(_RANKED), 2.8)
    axes = figure.subplots(1, len(_RANKED), sharey=True)
    tint, levels = colours([c.name for c in comparisons]), np.linspace(0, 1, 101)
    count = max(len(c.matched) for c in comparisons)
    band = 1.96 * np.sqrt(levels * (1 - levels) / count)
    for axis, name in zip(axes, _RANKED, strict=True):
        axis.fill_between(levels, -band, band, color="0.85", lw=0)
        axis.axhline(0, color="0.4", lw=0.8)
        for c in comparisons:
            if name in c.ranks:
                inside = np.abs(2 * c.ranks[name][np.isfinite(c.ranks[name])] - 1)
            else:
                inside = 2 * stats.norm.cdf(np.abs(_normal_scores(c.matched, name))) - 1
            if len(inside):
                fraction = np.searchsorted(np.sort(inside), levels, side="right") / len(inside)
                axis.plot(levels, fraction - levels, color=tint[c.name], lw=1.5, label=c.name)
        axis.set(xlabel="credibility", title=parameter_label(name), xlim=(0, 1))
    low, high = axes[0].get_ylim()
    axes[0].set_ylim(min(low, -0.08), max(high, 0.08))
    axes[0].set_ylabel("fraction of truths inside - credibility")
    _legend(figure, axes[0])
    return figure


def plot_ranks(comparison: Comparison, n_bins: int = 20) -> Figure:
    """Histograms of the ranks of the truths among posterior draws (SBC).

    Parameters
    ----------
    comparison : Comparison
        Made with draws of the posteriors.
    n_bins : int, optional
        Bins of the histograms.

    Returns
    -------
    `~matplotlib.figure.Figure`
        One panel per parameter; the grey band holds 99 % of the bins of right posteriors.
    """
    names = list(comparison.ranks)
    figure = new_figure(1.9 * len(names), 2.6)
    axes = np.atleast_1d(figure.subplots(1, len(names), sharey=True))
    for axis, name in zip(axes, names, strict=True):
        ranks = comparison.ranks[name]
        ranks = ranks[np.isfinite(ranks)]
        low, high = stats.binom.ppf([0.005, 0.995], max(len(ranks), 1), 1 / n_bins)
        axis.axhspan(low, high, color="0.85", lw=0)
        axis.axhline(len(ranks) / n_bins, color="0.4", lw=0.8)
        axis.hist(ranks, np.linspace(0, 1, n_bins + 1), histtype="step", color="C0")
        p_value = comparison.row(name)["rank_p"]
        axis.set(xlabel=f"rank of {parameter_label(name)}", title=f"p = {p_value:.2g}", xlim=(0, 1))
    axes[0].set(ylabel="galaxies", ylim=(0, None))
    figure.suptitle(comparison.name)
    return figure


def plot_expected_coverage(comparisons: Sequence[Comparison]) -> Figure:
    """Expected coverage of joint posteriors against their credibility (TARP).

    Parameters
    ----------
    comparisons : list of Comparison
        Made with draws of the posteriors.

    Returns
    -------
    `~matplotlib.figure.Figure`
        The coverage, and its difference from the credibility with errors of 2 sigma.
    """
    figure = new_figure(7.6, 3.6)
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="0.4", lw=0.8)
    right.axhline(0, color="0.4", lw=0.8)
    tint = colours([c.name for c in comparisons])
    for c in (c for c in comparisons if c.coverage is not None):
        level, coverage, error = c.coverage
        left.plot(level, coverage, color=tint[c.name], label=c.name)
        right.plot(level, coverage - level, color=tint[c.name])
        difference = coverage - level
        right.fill_between(level, difference - 2 * error, difference + 2 * error, color=tint[c.name], alpha=0.2, lw=0)
    left.set(xlabel="credibility", ylabel="expected coverage", xlim=(0, 1), ylim=(0, 1))
    low, high = right.get_ylim()
    right.set(xlabel="credibility", ylabel="coverage - credibility", xlim=(0, 1))
    right.set_ylim(min(low, -0.08), max(high, 0.08))
    left.legend(fontsize="x-small", frameon=False)
    return figure


def plot_reference(table: Table) -> Figure:
    """Bias and standard deviation over noise draws of one galaxy, in units of the Cramer-Rao bound.

    Parameters
    ----------
    table : `~astropy.table.Table`
        Table that `reference_table` returns.

    Returns
    -------
    `~matplotlib.figure.Figure`
        A row of panels for each S/N: points are biases, bars standard deviations; open points are published numbers.
    """
    ratios = list(dict.fromkeys(int(snr) for snr in table["snr"]))
    estimators = list(dict.fromkeys(str(name) for name in table["estimator"]))
    names = list(dict.fromkeys(str(name) for name in table["parameter"]))
    figure = new_figure(2.2 * len(names) + 1.6, 0.6 + (0.29 * len(estimators) + 0.7) * len(ratios))
    axes = figure.subplots(len(ratios), len(names), squeeze=False, sharey=True, sharex=True)
    ours = [name for name in estimators if not name.endswith("(published)")]
    tint = colours(ours)
    for line, snr in zip(axes, ratios, strict=True):
        for axis, name in zip(line, names, strict=True):
            axis.axvspan(-1, 1, color="0.9", lw=0)
            axis.axvline(0, color="0.5", lw=0.8)
            for row in table[(table["snr"] == snr) & (table["parameter"] == name)]:
                height, colour = estimators.index(str(row["estimator"])), tint.get(str(row["estimator"]), "0.4")
                bias, std = row["bias"] / row["bound"], row["std"] / row["bound"]
                face = colour if row["n_used"] else "w"
                axis.errorbar(bias, height, xerr=std, color=colour, marker="o", ms=4, mfc=face, capsize=2)
            axis.set_title(f"{parameter_label(name)}, S/N {snr}", fontsize="small")
        line[0].set_yticks(range(len(estimators)), estimators, fontsize="small")
        line[0].set_ylim(len(estimators) - 0.5, -0.5)
    for axis in axes[-1]:
        axis.set_xlabel("(bias ± std) / bound", fontsize="small")
        axis.set_xlim(-4.2, 4.2)
    return figure


def _legend(figure, axis):
    """Names of the estimators above the panels."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=max(len(labels), 1), frameon=False)


def _log_axis(axis):
    """Logarithmic axis with plain numbers."""
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    ticks = [t for power in range(-1, 5) for t in (10.0**power, 2 * 10.0**power, 5 * 10.0**power) if low <= t <= high]
    axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axis.minorticks_off()


def _short_numbers(axis):
    """Common powers of ten of long numbers at the ends of the axes."""
    for coordinate in (axis.xaxis, axis.yaxis):
        if hasattr(coordinate.get_major_formatter(), "set_powerlimits"):
            coordinate.get_major_formatter().set_powerlimits((-3, 4))


def _span(values):
    values = values[np.isfinite(values)]
    low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
    margin = 0.04 * (high - low) or max(abs(low), 1.0)
    return low - margin, high + margin


def _with_unit(matched, name):
    unit = matched.unit.get(name, "")
    return parameter_label(name) + (f" [{unit}]" if unit else "")
