"""Corner plot of a posterior, with the truth, least squares and the Cramer-Rao bound on top of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import QTable, Row, Table

from galmeasure.parameters import PARAMETER_INDEX
from galmeasure.plotting.figures import BLUE, GREEN, ORANGE, axis_label, new_figure, one_row
from galmeasure.results.columns import RESULT_FORMS, TRUTH_FORMS, find_column
from galmeasure.results.frame import convert, plain_numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from matplotlib.figure import Figure

__all__ = ["plot_corner"]

_SHAPE = ("flux", "n", "r_eff", "g1", "g2")
_LEVELS = tuple(1.0 - np.exp(-0.5 * np.array([1.0, 2.0]) ** 2))
"""Share of a Gaussian of two parameters within its ellipses of one and two sigma."""

_TAIL = 0.002  # share of the draws beyond each end of an axis
_MARGIN = 0.1  # of the width, on either side
_FARTHEST = 0.5  # widths by which an axis grows so that a truth or an estimate is seen
_BINS = 30  # over nearly all draws
_PANEL = 1.9  # inches
_TRUTH = "0.1"
_LABEL_PAD = 0.08  # between numbers and names of an axis, in heights of a panel


@dataclass(frozen=True)
class _Overlay:
    """A Gaussian that is drawn on top of the draws: centre, errors and, if it is known, covariance."""

    label: str
    colour: str
    style: str
    centre: npt.NDArray[np.float64]
    error: npt.NDArray[np.float64]
    covariance: npt.NDArray[np.float64] | None


def plot_corner(
    draws: Row | QTable,
    *,
    parameters: Sequence[str] = _SHAPE,
    truth: Row | Table | Mapping[str, Any] | None = None,
    least_squares: Row | Table | None = None,
    bounds: Row | Table | None = None,
    fig: Figure | None = None,
) -> npt.NDArray:
    """Draw the posterior of one galaxy: each parameter, and each pair of them.

    Parameters
    ----------
    draws : `~astropy.table.Row` or `~astropy.table.QTable`
        The galaxy's row of the table that `galmeasure.NeuralSersicFitter.sample` gives, or a table of one row.
    parameters : sequence of str, optional
        Columns to draw; besides the seven parameters there are ``r_eff_major``, ``q`` and ``theta``.
    truth : Row, Table or dict, optional
        True parameters, columns ``true_<p>`` or ``<p>``, shown as lines. Numbers without a unit are in that of the
        draws.
    least_squares : Row or Table, optional
        The galaxy's row of a result of `galmeasure.LSQSersicFitter`, shown as a Gaussian: an ellipse of one sigma for
        each pair if there is a column ``covariance``, else a cross of the errors.
    bounds : Row or Table, optional
        The galaxy's row with Cramer-Rao bounds, columns ``<p>_crb``, from `galmeasure.evaluation.cramer_rao_bounds` or
        from a fitter with ``crb=True``. They are shown about the truth, or else about the least-squares estimate or the
        median of the draws.
    fig : `~matplotlib.figure.Figure`, optional
        Figure without a layout engine to draw in; a new one by default, not known to ``pyplot``.

    Returns
    -------
    ndarray of `~matplotlib.axes.Axes`
        Axes, shape ``(K, K)`` for ``K`` parameters; those above the diagonal are switched off. Contours hold 39 % and
        86 % of the draws, as the ellipses of one and two sigma of a Gaussian do.

    Raises
    ------
    ValueError
        If ``draws`` is not one row, holds no measurement or a parameter that does not vary, or lacks a parameter.
    ImportError
        If matplotlib or corner is not installed.
    """
    table, names = one_row(draws), tuple(parameters)
    values = _draws(table, names)
    units = [getattr(table[name], "unit", None) for name in names]
    true = None if truth is None else _row_values(_as_table(truth), names, TRUTH_FORMS, units, "truth")
    overlays = list(_overlays(values, names, units, true, least_squares, bounds))
    side = _PANEL * len(names) + 0.9
    fig = new_figure(side, side, layout=None) if fig is None else fig
    axes = _draw_corner(fig, values, [axis_label(*pair) for pair in zip(names, units, strict=True)],
                        _ranges(values, true, overlays), true)  # fmt: skip
    for overlay in overlays:
        _draw_overlay(axes, overlay, len(values) * _bin_widths(values))
    _add_legend(fig, overlays, true)
    return axes


def _draws(table, names):
    """Finite draws of the parameters, shape ``(S, K)``."""
    missing = [name for name in names if name not in table.colnames]
    if missing or len(set(names)) < max(len(names), 1):
        msg = f"parameters must be different columns of draws, not {', '.join(missing or names) or 'none'}"
        raise ValueError(msg)
    columns = [np.atleast_1d(plain_numbers(table[name][0], f"draws[{name!r}]")) for name in names]
    values = np.stack(columns, 1)
    values = values[np.isfinite(values).all(1)]
    if len(values) <= len(names):
        msg = f"draws must hold more draws than parameters; this row has {len(values)} for {len(names)}"
        raise ValueError(msg)
    constant = [name for name, column in zip(names, values.T, strict=True) if np.ptp(column) == 0]
    if constant:
        msg = f"parameters must vary among the draws; {', '.join(constant)} is known to this estimator"
        raise ValueError(msg)
    return values


def _as_table(values):
    """Table of one row from a row, a table or a dict."""
    if isinstance(values, Mapping):
        values = QTable({name: [value] for name, value in values.items()})
    if isinstance(values, Row):
        values = values.table[values.index : values.index + 1]
    if not isinstance(values, Table) or len(values) != 1:
        msg = "truth, least_squares and bounds must be one row of a table each, or a table of one row"
        raise ValueError(msg)
    return values


def _row_values(table, names, forms, units, argument):
    """Numbers of one row in the units of the draws, NaN where there is no such column."""
    numbers = np.full(len(names), np.nan)
    for i, (name, unit) in enumerate(zip(names, units, strict=True)):
        column = find_column(table, name, forms)
        if column is not None:
            value = plain_numbers(table[column], f"{argument}[{column!r}]")
            numbers[i] = convert(name, value, getattr(table[column], "unit", None), unit, f"{argument}[{column!r}]")[0]
    return numbers


def _overlays(values, names, units, true, least_squares, bounds):
    """Yield what is drawn on top of the posterior."""
    centre = np.median(values, 0)
    if least_squares is not None:
        table = _as_table(least_squares)
        estimate = _row_values(table, names, RESULT_FORMS, units, "least_squares")
        error = _row_values(table, names, ("{}_err",), units, "least_squares")
        yield _Overlay("least squares", ORANGE, "-", estimate, error, _covariance(table, names, error))
        centre = np.where(np.isfinite(estimate), estimate, centre)
    if bounds is not None:
        error = _row_values(_as_table(bounds), names, ("{}_crb",), units, "bounds")
        centre = centre if true is None else np.where(np.isfinite(true), true, centre)
        yield _Overlay("Cramer-Rao bound", GREEN, "--", centre, error, None)


def _covariance(table, names, error):
    """Covariance of the parameters of the plot, from their correlations and errors, or None."""
    if "covariance" not in table.colnames or not set(names) <= set(PARAMETER_INDEX):
        return None
    columns = [PARAMETER_INDEX[name] for name in names]
    full = np.asarray(table["covariance"][0], dtype=float)[np.ix_(columns, columns)]
    sigma = np.sqrt(np.diagonal(full))
    return full / np.outer(sigma, sigma) * np.outer(error, error)


def _ranges(values, true, overlays):
    """Ends of the axes: nearly all draws, and truths and estimates that are not too far away."""
    low, high = np.quantile(values, [_TAIL, 1.0 - _TAIL], axis=0)
    width = high - low
    low, high = low - _MARGIN * width, high + _MARGIN * width
    points = [] if true is None else [true]
    for overlay in overlays:
        points += [overlay.centre - overlay.error, overlay.centre + overlay.error]
    for point in points:
        near = np.clip(point, low - _FARTHEST * width, high + _FARTHEST * width)
        low, high = np.fmin(low, near), np.fmax(high, near)
    return list(zip(low, high, strict=True))


def _bin_widths(values):
    """Widths of the bins of the histograms, shape ``(K,)``."""
    return np.ptp(np.quantile(values, [_TAIL, 1.0 - _TAIL], axis=0), axis=0) / _BINS


def _draw_corner(fig, values, labels, ranges, true):
    """Histograms and contours of the draws; gives the axes."""
    try:
        import corner
    except ImportError as err:
        msg = "corner plots need the package corner: pip install 'galmeasure[plots]'"
        raise ImportError(msg) from err
    truths = None if true is None else [value if np.isfinite(value) else None for value in true]
    bins = np.ceil(np.ptp(ranges, axis=1) / _bin_widths(values)).astype(int)
    corner.corner(
        values, bins=list(bins), range=ranges, labels=labels, color=BLUE, truths=truths, truth_color=_TRUTH,
        levels=_LEVELS, plot_datapoints=False, fill_contours=True, smooth=0.8, max_n_ticks=4,
        labelpad=_LABEL_PAD, fig=fig,
    )  # fmt: skip
    count = values.shape[1]
    return np.array(fig.axes[: count**2]).reshape(count, count)


def _draw_overlay(axes, overlay, area):
    """Gaussian of an overlay in each panel; those of one parameter have the area of its histogram."""
    from matplotlib.patches import Ellipse

    options = {"color": overlay.colour, "ls": overlay.style, "lw": 1.4}
    centre, error = overlay.centre, overlay.error
    for i in range(len(centre)):
        low, high = axes[i, i].get_xlim()
        if not (np.isfinite(centre[i]) and error[i] > 0):
            continue
        x = np.linspace(low, high, 200)
        density = np.exp(-0.5 * ((x - centre[i]) / error[i]) ** 2) / (error[i] * np.sqrt(2 * np.pi))
        curve = area[i] * density
        axes[i, i].plot(x, curve, **options)
        axes[i, i].set_ylim(0, max(axes[i, i].get_ylim()[1], 1.05 * curve.max()))
        for j in range(i):
            if not (np.isfinite(centre[j]) and error[j] > 0):
                continue
            if overlay.covariance is None:
                axes[i, j].errorbar(centre[j], centre[i], error[i], error[j], color=overlay.colour, lw=1.4, capsize=2)
            else:
                width, height, angle = _ellipse(overlay.covariance[np.ix_([j, i], [j, i])])
                patch = Ellipse((centre[j], centre[i]), width, height, angle=angle, fill=False, **options)
                axes[i, j].add_patch(patch)


def _ellipse(covariance):
    """Full axes and angle in degrees of the ellipse of one sigma, in the units of the data."""
    size, axes = np.linalg.eigh(covariance)
    width, height = 2.0 * np.sqrt(np.maximum(size[::-1], 0.0))
    return width, height, np.degrees(np.arctan2(axes[1, 1], axes[0, 1]))


def _add_legend(fig, overlays, true):
    """Names of what is shown, in the empty corner."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=BLUE, lw=2, label="posterior")]
    if true is not None:
        handles.append(Line2D([], [], color=_TRUTH, lw=1.4, label="truth"))
    handles += [Line2D([], [], color=o.colour, ls=o.style, lw=1.4, label=o.label) for o in overlays]
    fig.legend(handles=handles, loc="upper right", bbox_to_anchor=(0.97, 0.97), frameon=False)
