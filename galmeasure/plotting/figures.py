"""What all pictures share: figures, colours, scales of brightness, and texts with units and errors."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy import units as u
from astropy.table import QTable, Row, Table

from galmeasure.parameters import SERSIC

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

    from galmeasure.cutouts import Cutouts

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "PURPLE",
    "RESIDUAL_RANGE",
    "VERMILION",
    "axis_label",
    "brightness_colours",
    "brightness_scale",
    "difference_colours",
    "new_axes",
    "new_figure",
    "one_cutout",
    "one_row",
    "plain",
    "with_error",
]

BLUE, ORANGE, GREEN, VERMILION, PURPLE, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#5b6168"
"""Colours that people with any colour vision tell apart (Okabe and Ito), and a grey."""

RESIDUAL_RANGE = 5.0
"""Residuals, in units of the error, at which the colours of their panels end."""

_BAD = "0.75"  # grey of pixels that are not used

_MORE_LABELS = {"r_eff_major": r"$r_\mathrm{eff, major}$", "q": r"$q$", "theta": r"$\theta$"}


def new_figure(width: float, height: float, layout: str | None = "constrained") -> Figure:
    """Make an empty figure that is not known to ``pyplot``.

    Parameters
    ----------
    width, height : float
        Size of the figure in inches.
    layout : str or None, optional
        Layout engine of the figure, which places its axes; None for none.

    Returns
    -------
    `~matplotlib.figure.Figure`
        Empty figure of that size.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as err:
        msg = "plots need matplotlib: pip install 'galmeasure[plots]'"
        raise ImportError(msg) from err
    return Figure(figsize=(width, height), layout=layout)


def new_axes(ax: Axes | None, width: float = 4.6, height: float = 4.0) -> Axes:
    """Give the axes themselves, or those of a new figure of that size in inches if there are none."""
    return new_figure(width, height).subplots() if ax is None else ax


def plain(value: Any) -> Any:
    """Give a value without its unit."""
    return getattr(value, "value", value)


def one_row(row: Row | Table) -> Table:
    """Check that an argument is one row of a table.

    Parameters
    ----------
    row : `~astropy.table.Row` or `~astropy.table.QTable`
        Row of a result table, or a table of one row.

    Returns
    -------
    `~astropy.table.QTable`
        Table of one row.

    Raises
    ------
    ValueError
        If it is something else.
    """
    if isinstance(row, Row):
        return row.table[row.index : row.index + 1]
    if not isinstance(row, QTable) or len(row) != 1:
        msg = "row must be one row of a result table, or a table of one row"
        raise ValueError(msg)
    return row


def one_cutout(cutout: Cutouts, index: int | None) -> Cutouts:
    """Choose one galaxy.

    Parameters
    ----------
    cutout : Cutouts
        Cutout of the galaxy, or all cutouts.
    index : int or None
        Row of ``cutout``; not needed when it holds one galaxy.

    Returns
    -------
    Cutouts
        Cutout of one galaxy.

    Raises
    ------
    ValueError
        If the index is missing or out of range.
    """
    if index is None:
        if len(cutout) != 1:
            msg = f"index must be given when cutout holds more than one galaxy, here {len(cutout)}"
            raise ValueError(msg)
        return cutout
    index = operator.index(index)
    if not 0 <= index < len(cutout):
        msg = f"index must lie between 0 and {len(cutout) - 1}, not {index}"
        raise ValueError(msg)
    return cutout[index : index + 1]


def brightness_colours() -> Colormap:
    """Colours of images, grey where there is no number."""
    import matplotlib as mpl

    return mpl.colormaps["viridis"].with_extremes(bad=_BAD)


def difference_colours() -> Colormap:
    """Colours of what may be positive or negative, grey where there is no number."""
    import matplotlib as mpl

    return mpl.colormaps["RdBu_r"].with_extremes(bad=_BAD)


def brightness_scale(image: npt.NDArray, error: npt.NDArray, good: npt.NDArray) -> tuple[Normalize, float, float]:
    """Scale of brightness on which both the noise and the peak of an image are seen.

    Parameters
    ----------
    image, error : ndarray
        Pixels and their 1-sigma errors.
    good : ndarray of bool
        True for pixels that are used.

    Returns
    -------
    norm : `~matplotlib.colors.Normalize`
        Scale from three times the noise below zero to the peak.
    noise, peak : float
        Typical error and largest pixel, at least ten times the error.
    """
    from astropy.visualization import AsinhStretch, ImageNormalize

    noise = float(np.median(error[good])) if good.any() else 1.0
    noise = noise if np.isfinite(noise) and noise > 0 else 1.0
    peak = max(float(np.max(image[good])) if good.any() else 0.0, 10 * noise)
    stretch = AsinhStretch(min(1.0, 5 * noise / peak))
    return ImageNormalize(vmin=-3 * noise, vmax=peak, stretch=stretch, clip=False), noise, peak


def axis_label(name: str, unit: u.UnitBase | None) -> str:
    """Give symbol and unit of a parameter, for an axis.

    Parameters
    ----------
    name : str
        Name of a column of draws, such as ``"r_eff"`` or ``"theta"``.
    unit : UnitBase or None
        Unit of the column; None or a dimensionless one is not shown.

    Returns
    -------
    str
        Label in LaTeX with the unit in brackets.
    """
    symbol = SERSIC[name].latex if name in SERSIC else _MORE_LABELS.get(name, name)
    if unit is None and name in SERSIC and SERSIC[name].kind == "position":
        unit = u.pix
    return symbol if unit in (None, u.dimensionless_unscaled) else f"{symbol} [{unit}]"


def with_error(value: float, error: float) -> str:
    """Format a value and its error to the second digit of the error.

    Parameters
    ----------
    value, error : float
        Number and its 1-sigma error.

    Returns
    -------
    str
        Text, with a common power of ten where the numbers are very small or large.
    """
    if not np.isfinite(value):
        return "nan"
    if not (np.isfinite(error) and error > 0):
        return f"{value:.4g}"
    power = int(np.floor(np.log10(max(abs(value), error))))
    if not -4 <= power <= 6:
        return f"({with_error(value / 10.0**power, error / 10.0**power)}) × 10$^{{{power}}}$"
    digits = max(0, 1 - int(np.floor(np.log10(error))))
    return f"{value:.{digits}f} ± {error:.{digits}f}"
