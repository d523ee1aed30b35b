"""Picture of many galaxies with their models, residuals and flags."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from galmeasure.flags import decode_flags
from galmeasure.plotting.figures import VERMILION, new_figure, plain
from galmeasure.plotting.panels import FitImages
from galmeasure.plotting.strips import galaxy_strip, palette

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from astropy.table import Table
    from matplotlib.figure import Figure

    from galmeasure.cutouts import Cutouts

__all__ = ["MOST_GALAXIES", "plot_mosaic"]

MOST_GALAXIES = 60
"""Galaxies of a mosaic that is not told which to draw."""

_LONGEST_LINE = 44  # characters of flags under a strip


def plot_mosaic(
    table: Table,
    cutouts: Cutouts,
    *,
    rows: Sequence[int] | None = None,
    n_columns: int = 3,
    figure: Figure | None = None,
) -> npt.NDArray:
    """Draw data, model and residual of many galaxies, with identifier, S/N and flags.

    Parameters
    ----------
    table : `~astropy.table.Table`
        Result of a fitter, one row per cutout.
    cutouts : `~galmeasure.Cutouts`
        Cutouts that were fitted.
    rows : sequence of int, optional
        Rows to draw, in this order; by default all of them, or sixty at even distances if there are more.
    n_columns : int, optional
        Number of galaxies beside one another.
    figure : `~matplotlib.figure.Figure`, optional
        Figure to draw in; a new one by default, not known to ``pyplot``.

    Returns
    -------
    ndarray of `~matplotlib.axes.Axes`
        Axes of the galaxies, one each, in the order of ``rows``. Within each, from left to right: data and model on the
        same scale, which is chosen for each galaxy, and the residual from -5 (blue) to 5 (red) times the error. Bad
        pixels are grey. The title of a galaxy with flags is coloured, and names them.

    Raises
    ------
    ValueError
        If ``table`` does not have one row per cutout, a row does not exist, or ``n_columns`` is not positive.
    ImportError
        If matplotlib is not installed.
    """
    if len(table) != len(cutouts):
        msg = f"table must have one row per cutout: {len(cutouts)}, not {len(table)}"
        raise ValueError(msg)
    if n_columns < 1:
        msg = f"n_columns must be at least 1, not {n_columns}"
        raise ValueError(msg)
    rows = _rows(rows, len(table))
    n_lines = -(-len(rows) // n_columns)
    figure = new_figure(3.9 * n_columns, 1.65 * n_lines + 0.35) if figure is None else figure
    axes = figure.subplots(n_lines, n_columns, squeeze=False).ravel()
    for axis, row in zip(axes, rows, strict=False):
        _draw(axis, table[row : row + 1], cutouts[row : row + 1])
    for axis in axes[len(rows) :]:
        axis.remove()
    figure.suptitle("data, model, and residual from -5 to 5 times the error", fontsize="small")
    return axes[: len(rows)]


def _rows(rows, count):
    """Rows to draw as integers that exist."""
    if rows is None:
        return np.unique(np.linspace(0, count - 1, min(count, MOST_GALAXIES)).round().astype(int))
    rows = np.atleast_1d(np.asarray(rows))
    if not len(rows) or rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= count:
        msg = f"rows must be integers between 0 and {count - 1}, at least one of them"
        raise ValueError(msg)
    return rows


def _draw(axis, table, cutout):
    """One galaxy."""
    strip = palette()[galaxy_strip(FitImages.of(table, cutout))]
    axis.imshow(strip, origin="lower", interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_visible(False)
    flags = decode_flags(int(table["flags"][0]))
    snr = float(plain(table["snr"][0]))
    axis.set_title(
        f"{table['id'][0]}   S/N {snr:.0f}", fontsize="small", color=VERMILION if flags else "black", parse_math=False
    )
    text = ", ".join(flags)
    text = text if len(text) <= _LONGEST_LINE else f"{text[: _LONGEST_LINE - 4]} ..."
    axis.set_xlabel(text, fontsize="x-small", color=VERMILION)
