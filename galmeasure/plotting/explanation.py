"""Picture of what a network looks at: the galaxy, the map of an explanation, and the optimal filter beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from astropy import units as u

from galmeasure.explain.explanation import numbers_of
from galmeasure.parameters import SERSIC
from galmeasure.plotting.figures import brightness_colours, brightness_scale, difference_colours, new_figure
from galmeasure.plotting.panels import total_error

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.figure import Figure

    from galmeasure.explain import Explanation, OptimalFilter

__all__ = ["plot_explanation"]

_TITLES = {"saliency": "derivative", "integrated_gradients": "integrated gradients", "gradcam": "Grad-CAM"}


def plot_explanation(
    explanation: Explanation,
    index: int | None = 0,
    *,
    best: OptimalFilter | None = None,
    window: int | None = None,
    figure: Figure | None = None,
) -> npt.NDArray:
    """Draw a galaxy and what the network reads from each of its pixels.

    Parameters
    ----------
    explanation : `~galmeasure.explain.Explanation`
        Maps to draw, from `galmeasure.explain.explain`.
    index : int or None, optional
        Galaxy to draw; None for the mean of all galaxies and of their maps. Default 0.
    best : `~galmeasure.explain.OptimalFilter`, optional
        Optimal filter of the same parameter and galaxies: two more panels show it, on the scale of the explanation if
        that is a saliency, with the correlation of both, and the information of each pixel.
    window : int, optional
        Side of the central pixels that are shown; all by default.
    figure : `~matplotlib.figure.Figure`, optional
        Figure to draw in; a new one by default, not known to ``pyplot``.

    Returns
    -------
    ndarray of `~matplotlib.axes.Axes`
        Two axes, or four with ``best``. Grad-CAM maps are labelled with the number of places that were up-sampled.

    Raises
    ------
    ValueError
        If the index is out of range, or ``best`` is of another parameter or number of galaxies.
    ImportError
        If matplotlib is not installed.
    """
    _check(explanation, index, best)
    figure = new_figure(3.7 * (4 if best else 2), 3.4) if figure is None else figure
    axes = figure.subplots(1, 4 if best else 2)
    _draw_galaxy(axes[0], explanation, index)
    pixels = _chosen(explanation.maps, index)
    limit = _largest(pixels)
    if best is not None:
        optimal = _chosen(best.maps, index)
        is_same = explanation.method == "saliency"
        limit = max(limit, _largest(optimal)) if is_same else limit
        both = np.isfinite(pixels) & np.isfinite(optimal)
        correlation = np.corrcoef(pixels[both], optimal[both])[0, 1] if both.any() else np.nan
        title = f"optimal filter, correlation {correlation:.3f}" if is_same else "optimal filter"
        _draw_map(axes[2], optimal, title, limit if is_same else _largest(optimal), _unit(best.maps[0]))
        _draw_information(axes[3], _chosen(best.information, index))
    _draw_map(axes[1], pixels, _title(explanation), limit, _unit(explanation.maps[0]))
    for axis in axes:
        axis.set(xlabel="x [pixel]", aspect="equal")
        _crop(axis, pixels.shape, window)
    axes[0].set_ylabel("y [pixel]")
    return axes


def _check(explanation, index, best):
    if index is not None and not 0 <= index < len(explanation):
        msg = f"index must lie between 0 and {len(explanation) - 1} or be None for the mean, not {index}"
        raise ValueError(msg)
    if best is not None and (best.parameter, len(best)) != (explanation.parameter, len(explanation)):
        msg = f"best must be the filter of {explanation.parameter} for the same {len(explanation)} galaxies"
        raise ValueError(msg)


def _chosen(maps, index):
    """Map of one galaxy, or the mean of those that have one."""
    if index is not None:
        return numbers_of(maps[index])
    if len({np.shape(pixels) for pixels in maps}) != 1:
        msg = "index must be given where the cutouts have several shapes"
        raise ValueError(msg)
    stacked = np.stack([numbers_of(pixels) for pixels in maps])
    count = np.isfinite(stacked).sum(0)
    return np.where(count > 0, np.nansum(stacked, axis=0) / np.maximum(count, 1), np.nan)


def _draw_galaxy(axis, explanation, index):
    """Pixels of a galaxy, or the mean of all."""
    cutouts = explanation.cutouts
    rows = range(len(cutouts)) if index is None else [index]
    images = [np.where(cutouts.mask(row), np.nan, np.asarray(cutouts.image(row), float)) for row in rows]
    image, first = _chosen(images, None), cutouts[rows[0] : rows[0] + 1]
    error = total_error(first, None) / np.sqrt(len(images))
    norm, _, _ = brightness_scale(image, error, np.isfinite(image))
    shown = axis.imshow(image, norm=norm, cmap=brightness_colours(), origin="lower", interpolation="nearest")
    name = f"mean of {len(images)}" if index is None else f"{cutouts.ids[index]}"
    axis.set_title(f"{name} [{cutouts.unit}]" if cutouts.unit else name, fontsize="medium", parse_math=False)
    axis.figure.colorbar(shown, ax=axis, shrink=0.8)


def _draw_map(axis, pixels, title, limit, unit):
    """Map of positive and negative numbers."""
    options = {"vmin": -limit, "vmax": limit, "cmap": difference_colours(), "origin": "lower"}
    shown = axis.imshow(pixels, interpolation="nearest", **options)
    axis.set_title(title, fontsize="medium")
    scale = axis.figure.colorbar(shown, ax=axis, shrink=0.8)
    scale.formatter.set_powerlimits((-2, 3))
    if unit:
        scale.set_label(unit)


def _draw_information(axis, information):
    """Share of the information of each pixel."""
    shares = 100.0 * information / np.nansum(information)
    shown = axis.imshow(shares, cmap="cividis", origin="lower", interpolation="nearest", vmin=0.0)
    axis.set_title("information of each pixel", fontsize="medium")
    axis.figure.colorbar(shown, ax=axis, shrink=0.8).set_label("per cent")


def _title(explanation):
    """Name of the method and of the parameter, and how far a map was up-sampled."""
    symbol = SERSIC[explanation.parameter].latex
    title = f"{_TITLES[explanation.method]} of {symbol}"
    side = explanation.map_side
    return f"{title}, up-sampled from {side} × {side}" if explanation.is_upsampled else title


def _unit(pixels):
    unit = getattr(pixels, "unit", None)
    return "" if unit in (None, u.dimensionless_unscaled) else str(unit)


def _largest(pixels):
    """Largest absolute value, or 1 where there is none."""
    finite = np.abs(pixels[np.isfinite(pixels)])
    return float(finite.max()) if finite.size and finite.max() > 0 else 1.0


def _crop(axis, shape, window):
    """Show the central pixels alone."""
    if window is not None:
        for side, limits in zip(shape, (axis.set_ylim, axis.set_xlim), strict=True):
            middle = (side - 1) / 2
            limits(middle - window / 2, middle + window / 2)
