"""Pictures of one fit: data, model, residual and radial profile, together or one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from astropy import units as u
from astropy.table import QTable, Row

from galmeasure.flags import decode_flags
from galmeasure.parameters import PARAMETERS
from galmeasure.plotting.figures import (
    BLUE,
    ORANGE,
    RESIDUAL_RANGE,
    brightness_colours,
    brightness_scale,
    difference_colours,
    new_axes,
    new_figure,
    one_cutout,
    one_row,
    plain,
    with_error,
)
from galmeasure.plotting.panels import FitImages
from galmeasure.plotting.profile import elliptical_profile
from galmeasure.results.frame import Frame

if TYPE_CHECKING:
    import numpy.typing as npt
    from astropy.table import Table
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from galmeasure.cutouts import Cutouts

__all__ = ["plot_data", "plot_fit", "plot_model", "plot_profile", "plot_residual"]


@dataclass(frozen=True)
class _Fit:
    """One galaxy's row, cutout and images."""

    table: Table
    cutout: Cutouts
    images: FitImages

    @classmethod
    def of(cls, row, cutout, index, model):
        table, cutout = one_row(row), one_cutout(cutout, index)
        return cls(table, cutout, FitImages.of(table, cutout, model))


def plot_fit(
    row: Row | QTable,
    cutout: Cutouts,
    index: int | None = None,
    *,
    model: npt.ArrayLike | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Draw data, model, residual and radial profile of one galaxy.

    Parameters
    ----------
    row : `~astropy.table.Row` or `~astropy.table.QTable`
        The galaxy's row of a result table, or a table of one row.
    cutout : `~galmeasure.Cutouts`
        The galaxy's cutout, or all cutouts together with ``index``.
    index : int, optional
        Row of ``cutout`` to draw; not needed when it holds one galaxy.
    model : (ny, nx) array_like, optional
        Model image. By default it is drawn from the row.
    figure : `~matplotlib.figure.Figure`, optional
        Figure to draw in; a new one by default. It is not known to ``pyplot``: save it with
        ``figure.savefig``, or give ``figure=plt.figure()`` to show it in a window.

    Returns
    -------
    `~matplotlib.figure.Figure`
        The figure. The residual is in units of the error, source noise included where there is a gain. The profile
        is the mean in elliptical annuli of the fitted shape; the PSF's is scaled to the model's innermost one.

    Raises
    ------
    ValueError
        If ``row`` is not one row, ``index`` is missing or out of range, or ``model`` has another shape than the cutout.
    ImportError
        If matplotlib is not installed.
    """
    fit = _Fit.of(row, cutout, index, model)
    figure = new_figure(14.5, 3.9) if figure is None else figure
    axes = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.25))
    shown = _draw_data(axes[0], fit)
    _draw_model(axes[1], fit)
    wheel = _draw_residual(axes[2], fit)
    if fit.images.model is None:
        figure.colorbar(shown, ax=axes[0], shrink=0.75)
    else:
        figure.colorbar(shown, ax=list(axes[:2]), shrink=0.75, ticks=_brightness_ticks(fit))
        figure.colorbar(wheel, ax=axes[2], shrink=0.75, extend="both")
    _draw_profile(axes[3], fit)
    axes[0].set_ylabel("y [pixel]")
    figure.suptitle(_title(fit.table), fontsize="medium")
    return figure


def plot_data(row: Row | QTable, cutout: Cutouts, index: int | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw the pixels of one galaxy, with the ellipse that holds half of the light of its model.

    Parameters
    ----------
    row, cutout, index
        Same arguments as those of `plot_fit`.
    ax : `~matplotlib.axes.Axes`, optional
        Axes to draw in; those of a new figure by default.

    Returns
    -------
    `~matplotlib.axes.Axes`
        The axes, with a scale of colours beside them.

    Raises
    ------
    ValueError, ImportError
        As `plot_fit` raises them.
    """
    fit, axes = _Fit.of(row, cutout, index, None), new_axes(ax)
    shown = _draw_data(axes, fit)
    return _finished(axes, shown, ticks=_brightness_ticks(fit))


def plot_model(
    row: Row | QTable,
    cutout: Cutouts,
    index: int | None = None,
    *,
    model: npt.ArrayLike | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the model of one galaxy, on the scale of brightness of its data.

    Parameters
    ----------
    row, cutout, index, model
        Same arguments as those of `plot_fit`.
    ax : `~matplotlib.axes.Axes`, optional
        Axes to draw in; those of a new figure by default.

    Returns
    -------
    `~matplotlib.axes.Axes`
        The axes; empty but for a note where there is no measurement.

    Raises
    ------
    ValueError, ImportError
        As `plot_fit` raises them.
    """
    fit, axes = _Fit.of(row, cutout, index, model), new_axes(ax)
    shown = _draw_model(axes, fit)
    return _finished(axes, shown, ticks=_brightness_ticks(fit))


def plot_residual(
    row: Row | QTable,
    cutout: Cutouts,
    index: int | None = None,
    *,
    model: npt.ArrayLike | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw data minus model of one galaxy in units of the error.

    Parameters
    ----------
    row, cutout, index, model
        Same arguments as those of `plot_fit`.
    ax : `~matplotlib.axes.Axes`, optional
        Axes to draw in; those of a new figure by default.

    Returns
    -------
    `~matplotlib.axes.Axes`
        The axes; empty but for a note where there is no measurement.

    Raises
    ------
    ValueError, ImportError
        As `plot_fit` raises them.
    """
    fit, axes = _Fit.of(row, cutout, index, model), new_axes(ax)
    return _finished(axes, _draw_residual(axes, fit), extend="both")


def plot_profile(
    row: Row | QTable,
    cutout: Cutouts,
    index: int | None = None,
    *,
    model: npt.ArrayLike | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the mean brightness of data, model and PSF along the ellipses of the fit.

    Parameters
    ----------
    row, cutout, index, model
        Same arguments as those of `plot_fit`.
    ax : `~matplotlib.axes.Axes`, optional
        Axes to draw in; those of a new figure by default.

    Returns
    -------
    `~matplotlib.axes.Axes`
        The axes; switched off where there is no measurement.

    Raises
    ------
    ValueError, ImportError
        As `plot_fit` raises them.
    """
    fit, axes = _Fit.of(row, cutout, index, model), new_axes(ax, 5.2, 4.0)
    _draw_profile(axes, fit)
    return axes


def _finished(axes, shown, **options):
    """Axes with the label of y and a scale of colours, if anything is shown."""
    axes.set_ylabel("y [pixel]")
    if shown is not None:
        axes.figure.colorbar(shown, ax=axes, shrink=0.85, **options)
    return axes


def _extent(fit):
    """Edges of the stamp in pixels of the parent image, as ``imshow`` takes them."""
    (x0, y0), (ny, nx) = fit.cutout.origin[0], fit.images.image.shape
    return x0 - 0.5, x0 + nx - 0.5, y0 - 0.5, y0 + ny - 0.5


def _show(axis, fit, title, pixels, **options):
    """Image with its title, or a note where there is none."""
    axis.set_title(title)
    if pixels is None:
        axis.set_axis_off()
        axis.text(0.5, 0.5, "no model", ha="center", va="center", transform=axis.transAxes)
        return None
    shown = axis.imshow(pixels, origin="lower", extent=_extent(fit), interpolation="nearest", **options)
    axis.set_xlabel("x [pixel]")
    axis.set_aspect("equal")
    return shown


def _draw_data(axis, fit):
    """Data, with the ellipse of the half-light radius."""
    images, unit = fit.images, fit.cutout.unit
    norm, _, _ = brightness_scale(images.image, images.error, images.good)
    pixels = np.where(images.good, images.image, np.nan)
    title = "data" if unit is None else f"data [{unit}]"
    shown = _show(axis, fit, title, pixels, norm=norm, cmap=brightness_colours())
    _draw_ellipse(axis, fit, "white")
    return shown


def _draw_model(axis, fit):
    """Model on the scale of the data."""
    images, unit = fit.images, fit.cutout.unit
    norm, _, _ = brightness_scale(images.image, images.error, images.good)
    title = "model" if unit is None else f"model [{unit}]"
    return _show(axis, fit, title, images.model, norm=norm, cmap=brightness_colours())


def _draw_residual(axis, fit):
    """Residual over the error, with the ellipse of the half-light radius."""
    limits = {"vmin": -RESIDUAL_RANGE, "vmax": RESIDUAL_RANGE}
    shown = _show(axis, fit, "residual [sigma]", fit.images.residual, cmap=difference_colours(), **limits)
    _draw_ellipse(axis, fit, "0.2")
    return shown


def _draw_ellipse(axis, fit, colour):
    """Ellipse that holds half of the light of the model."""
    from matplotlib.patches import Ellipse

    (x, y), radius = _pixels(fit.table, fit.cutout)
    if fit.images.model is None or not np.isfinite([x, y, radius]).all():
        return
    (x0, y0), extent = fit.cutout.origin[0], _extent(fit)
    height, angle = 2 * radius * float(fit.table["q"][0]), float(plain(fit.table["theta"][0]))
    axis.add_patch(Ellipse((x + x0, y + y0), 2 * radius, height, angle=angle, fill=False, color=colour, lw=0.8))
    axis.set(xlim=extent[:2], ylim=extent[2:])


def _brightness_ticks(fit):
    """Ticks of the scale of brightness."""
    _, noise, peak = brightness_scale(fit.images.image, fit.images.error, fit.images.good)
    return _ticks(noise, peak)


def _pixels(table, cutout):
    """Centre (x, y) in stamp pixels and semi-major half-light radius in pixels."""
    frame = Frame.of(cutout)
    columns = {"x": "x_fit", "y": "y_fit", "r_eff_major": "r_eff_major"}
    x, y, radius = (float(frame.values(name, table[column], column)[0]) for name, column in columns.items())
    return (x, y), radius


def _ticks(noise, peak):
    """Powers of ten between the noise and the peak, and zero."""
    decades = 10.0 ** np.arange(np.ceil(np.log10(noise)), np.floor(np.log10(peak)) + 1)
    return [0.0, *decades[decades > 1.5 * noise]]


def _draw_profile(axis, fit):
    """Profile of data, model and PSF against the semi-major radius."""
    table, cutout, images = fit.table, fit.cutout, fit.images
    if images.model is None or not np.isfinite(float(plain(table["flux_fit"][0]))):
        axis.set_axis_off()
        return
    centre, r_eff = _pixels(table, cutout)
    q, theta = float(table["q"][0]), float(plain(table["theta"][0]))
    frame = Frame.of(cutout)
    step, label = float(frame.scale("r_eff_major")[0]), {u.pix: "pixel"}.get(frame.length_unit, "arcsec")
    radius, mean, mean_error = elliptical_profile(images.image, images.error, images.good, centre, q, theta)
    _, expected, _ = elliptical_profile(images.model, images.error, images.good, centre, q, theta)
    psf = cutout.psf_image(0)
    middle = (np.array(psf.shape[::-1]) - 1) / 2
    psf_radius, star, _ = elliptical_profile(psf, np.zeros_like(psf), np.ones(psf.shape, bool), middle, 1.0, 0.0)
    star *= np.max(expected) / star[0]
    psf_radius = psf_radius / cutout.psf_oversampling
    inside = psf_radius <= radius[-1]

    axis.plot(psf_radius[inside] * step, star[inside], color="0.6", ls="--", lw=1, label="PSF, scaled")
    axis.plot(radius * step, expected, color=ORANGE, lw=1.5, label="model")
    axis.errorbar(radius * step, mean, mean_error, fmt="o", ms=3, color=BLUE, lw=1, label="data")
    axis.axvline(r_eff * step, color="0.5", lw=0.8, ls=":", label="r_eff_major")
    width = float(np.min(mean_error[mean_error > 0], initial=np.max(np.abs(expected))))
    top = 1.6 * max(np.max(mean), np.max(expected))
    axis.set_yscale("asinh", linear_width=2 * width)
    axis.set_yticks(_ticks(2 * width, top))
    axis.axhline(0, color="0.8", lw=0.8, zorder=0)
    low = min(float(np.min(mean - mean_error)), 0.0)
    axis.set(xlabel=f"semi-major radius [{label}]", xlim=(0, None), ylim=(1.3 * low - 2 * width, top))
    axis.set_title("profile per pixel" if cutout.unit is None else f"profile [{cutout.unit}/pixel]")
    axis.legend(fontsize="small", frameon=False)


def _title(table):
    """Identifier, parameters with errors, and flags."""
    row = table[0]
    texts = []
    for parameter in PARAMETERS:
        if parameter.kind == "position":
            continue
        value, error = row[f"{parameter.name}_fit"], row[f"{parameter.name}_err"]
        unit = f" {value.unit}" if getattr(value, "unit", None) not in (None, u.dimensionless_unscaled) else ""
        texts.append(f"{parameter.latex} = {with_error(float(plain(value)), float(plain(error)))}{unit}")
    flags = ", ".join(decode_flags(int(row["flags"]))) or "none"
    return (
        f"{row['id']}:  "
        + "   ".join(texts)
        + f"\nS/N {row['snr']:.1f}   $\\chi^2_r$ {row['chi2_reduced']:.3f}   flags: {flags}"
    )
