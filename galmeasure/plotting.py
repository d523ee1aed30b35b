"""Pictures of a fit: data, model, residual and radial profile. Matplotlib is imported when a picture is asked for."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

import numpy as np
from astropy import units as u
from astropy.table import QTable, Row

from galmeasure.flags import decode_flags
from galmeasure.parameters import PARAMETERS
from galmeasure.results.frame import Frame

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.figure import Figure

    from galmeasure.cutouts import Cutouts

__all__ = ["elliptical_profile", "plot_fit"]

_RESIDUAL_RANGE = 5.0  # sigma


def elliptical_profile(
    image: npt.ArrayLike,
    error: npt.ArrayLike,
    good: npt.ArrayLike,
    centre: tuple[float, float],
    q: float,
    theta: float,
    *,
    n_bins: int = 24,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Compute the mean of an image in elliptical annuli.

    Parameters
    ----------
    image, error : (ny, nx) array_like
        Pixels and their 1-sigma errors.
    good : (ny, nx) array_like of bool
        True for pixels that are used.
    centre : (float, float)
        x and y of the centre, in pixels.
    q, theta : float
        Axis ratio, and position angle of the major axis in degrees, counter-clockwise from +x.
    n_bins : int, optional
        Largest number of annuli. Their widths grow with the radius; one without pixels is left out.

    Returns
    -------
    radius : ndarray
        Mean semi-major radius of the pixels of each annulus, in pixels.
    mean, mean_error : ndarray
        Mean of the pixels and the error of that mean.

    Examples
    --------
    >>> import numpy as np
    >>> from galmeasure.evaluation import elliptical_profile
    >>> flat = np.full((9, 9), 2.0)
    >>> radius, mean, mean_error = elliptical_profile(flat, 0.1 * flat, flat > 0, (4, 4), 0.5, 30.0)
    >>> bool(np.all(mean == 2.0))
    True
    """
    image, error, good = np.asarray(image, float), np.asarray(error, float), np.asarray(good, bool)
    y, x = np.indices(image.shape)
    dx, dy = x - centre[0], y - centre[1]
    cos, sin = np.cos(np.radians(theta)), np.sin(np.radians(theta))
    radius = np.hypot(dx * cos + dy * sin, (dy * cos - dx * sin) / q)
    largest = np.hypot(*image.shape) / 2
    edges = largest * np.linspace(0, 1, n_bins + 1) ** 1.5  # annuli widen outwards
    index = np.searchsorted(edges, radius, side="right") - 1
    use = good & (index < n_bins) & np.isfinite(image) & np.isfinite(error)
    index = index[use]
    count = np.bincount(index, minlength=n_bins)
    filled = count > 0

    def total(values):
        return np.bincount(index, values[use], n_bins)[filled]

    return total(radius) / count[filled], total(image) / count[filled], np.sqrt(total(error**2)) / count[filled]


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
    table, cutout = _one_row(row), _one_cutout(cutout, index)
    image, good = cutout.image(0), ~cutout.mask(0)
    good &= np.isfinite(image)
    measured = bool(np.isfinite(_plain(table["flux_fit"][0])))
    if model is None and measured:
        from galmeasure.fitters import make_model_images

        model = make_model_images(table, cutout)[0]
    if model is not None:
        model = np.asarray(_plain(model), float)
        if model.shape != image.shape:
            msg = f"model must have the shape of the cutout, {image.shape}, not {model.shape}"
            raise ValueError(msg)
    error = _total_error(cutout, model)
    if figure is None:
        figure = new_figure(14.5, 3.9)
    axes = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.25))
    _draw_images(axes[:3], table, cutout, image, model, error, good)
    if measured and model is not None:
        _draw_profile(axes[3], table, cutout, image, model, error, good)
    else:
        axes[3].set_axis_off()
    figure.suptitle(_title(table), fontsize="medium")
    return figure


def _plain(value):
    """Value without its unit."""
    return getattr(value, "value", value)


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure that is not known to ``pyplot``.

    Parameters
    ----------
    width, height : float
        Size of the figure in inches.

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
    return Figure(figsize=(width, height), layout="constrained")


def _one_row(row):
    """Table of one row."""
    if isinstance(row, Row):
        return row.table[row.index : row.index + 1]
    if not isinstance(row, QTable) or len(row) != 1:
        msg = "row must be one row of a result table, or a table of one row"
        raise ValueError(msg)
    return row


def _one_cutout(cutout, index):
    """`~galmeasure.Cutouts` of one galaxy."""
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


def _total_error(cutout, model):
    """1-sigma error of every pixel, source noise of the model included where there is a gain."""
    variance = np.broadcast_to(np.asarray(cutout.error(0), float), tuple(cutout.shapes[0])) ** 2
    if cutout.gain is not None and model is not None:
        variance = variance + np.maximum(model, 0) / cutout.gain[0]
    return np.sqrt(variance)


def _pixels(table, cutout):
    """Centre (x, y) in stamp pixels and semi-major half-light radius in pixels."""
    frame = Frame.of(cutout)
    columns = {"x": "x_fit", "y": "y_fit", "r_eff_major": "r_eff_major"}
    x, y, radius = (float(frame.values(name, table[column], column)[0]) for name, column in columns.items())
    return (x, y), radius


def _draw_images(axes, table, cutout, image, model, error, good):
    """Data, model and residual."""
    import matplotlib as mpl
    from astropy.visualization import AsinhStretch, ImageNormalize
    from matplotlib.patches import Ellipse

    x0, y0 = cutout.origin[0]
    ny, nx = image.shape
    extent = (x0 - 0.5, x0 + nx - 0.5, y0 - 0.5, y0 + ny - 0.5)
    options = {"origin": "lower", "extent": extent, "interpolation": "nearest"}
    noise = float(np.median(error[good])) if good.any() else 1.0
    peak = max(float(np.max(image[good])) if good.any() else 0.0, 10 * noise)
    scale = ImageNormalize(vmin=-3 * noise, vmax=peak, stretch=AsinhStretch(min(1.0, 5 * noise / peak)), clip=False)
    grey = mpl.colormaps["viridis"].with_extremes(bad="0.75")
    diverging = mpl.colormaps["RdBu_r"].with_extremes(bad="0.75")
    unit = "" if cutout.unit is None else f" [{cutout.unit}]"

    shown = axes[0].imshow(np.where(good, image, np.nan), norm=scale, cmap=grey, **options)
    axes[0].set_title(f"data{unit}")
    axes[0].set_ylabel("y [pixel]")
    axes[1].set_title(f"model{unit}")
    axes[2].set_title("residual [sigma]")
    for axis in axes:
        axis.set_xlabel("x [pixel]")
        axis.set_aspect("equal")
    if model is None:
        for axis in axes[1:]:
            axis.set_axis_off()
            axis.text(0.5, 0.5, "no model", ha="center", va="center", transform=axis.transAxes)
        axes[0].figure.colorbar(shown, ax=axes[0], shrink=0.75)
        return
    axes[1].imshow(model, norm=scale, cmap=grey, **options)
    residual = np.where(good, (image - model) / error, np.nan)
    wheel = axes[2].imshow(residual, vmin=-_RESIDUAL_RANGE, vmax=_RESIDUAL_RANGE, cmap=diverging, **options)
    axes[0].figure.colorbar(shown, ax=list(axes[:2]), shrink=0.75, ticks=_ticks(noise, peak))
    axes[0].figure.colorbar(wheel, ax=axes[2], shrink=0.75, extend="both")
    (x, y), radius = _pixels(table, cutout)
    if np.isfinite([x, y, radius]).all():
        width, height = 2 * radius, 2 * radius * float(table["q"][0])
        angle = float(_plain(table["theta"][0]))
        for axis, colour in ((axes[0], "white"), (axes[2], "0.2")):
            axis.add_patch(Ellipse((x + x0, y + y0), width, height, angle=angle, fill=False, color=colour, lw=0.8))
            axis.set(xlim=extent[:2], ylim=extent[2:])


def _ticks(noise, peak):
    """Powers of ten between the noise and the peak, and zero."""
    decades = 10.0 ** np.arange(np.ceil(np.log10(noise)), np.floor(np.log10(peak)) + 1)
    return [0.0, *decades[decades > 1.5 * noise]]


def _draw_profile(axis, table, cutout, image, model, error, good):
    """Profile of data, model and PSF against the semi-major radius."""
    centre, r_eff = _pixels(table, cutout)
    q, theta = float(table["q"][0]), float(_plain(table["theta"][0]))
    frame = Frame.of(cutout)
    step, label = float(frame.scale("r_eff_major")[0]), {u.pix: "pixel"}.get(frame.length_unit, "arcsec")
    radius, mean, mean_error = elliptical_profile(image, error, good, centre, q, theta)
    _, expected, _ = elliptical_profile(model, error, good, centre, q, theta)
    psf = cutout.psf_image(0)
    middle = (np.array(psf.shape[::-1]) - 1) / 2
    psf_radius, star, _ = elliptical_profile(psf, np.zeros_like(psf), np.ones(psf.shape, bool), middle, 1.0, 0.0)
    star *= np.max(expected) / star[0]
    psf_radius = psf_radius / cutout.psf_oversampling
    inside = psf_radius <= radius[-1]

    axis.plot(psf_radius[inside] * step, star[inside], color="0.6", ls="--", lw=1, label="PSF, scaled")
    axis.plot(radius * step, expected, color="C1", lw=1.5, label="model")
    axis.errorbar(radius * step, mean, mean_error, fmt="o", ms=3, color="C0", lw=1, label="data")
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
        texts.append(f"{parameter.latex} = {with_error(float(_plain(value)), float(_plain(error)))}{unit}")
    flags = ", ".join(decode_flags(int(row["flags"]))) or "none"
    return (
        f"{row['id']}:  "
        + "   ".join(texts)
        + f"\nS/N {row['snr']:.1f}   $\\chi^2_r$ {row['chi2_reduced']:.3f}   flags: {flags}"
    )


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
