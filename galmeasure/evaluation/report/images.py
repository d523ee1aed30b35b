"""Images of a few galaxies: noisy, noiseless, model of the estimate, residual, on linear or logarithmic scales."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from galmeasure.fitters import make_model_images
from galmeasure.plotting.figures import new_figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from astropy.table import QTable
    from matplotlib.figure import Figure

    from galmeasure.cutouts import Cutouts

__all__ = ["choose_rows", "plot_images"]


def choose_rows(snr: npt.ArrayLike, count: int = 4) -> npt.NDArray[np.int64]:
    """Rows of galaxies whose S/N spread from low to high.

    Parameters
    ----------
    snr : array_like
        S/N of the galaxies.
    count : int, optional
        Number of rows to choose. Default 4.

    Returns
    -------
    ndarray of int
        Row numbers, in the order of their S/N.

    Examples
    --------
    >>> from galmeasure.evaluation.report.images import choose_rows
    >>> print(choose_rows([30, 10, 20, 50, 40], 3))
    [1 0 3]
    """
    order = np.argsort(np.asarray(snr, dtype=float), kind="stable")
    order = order[np.isfinite(np.asarray(snr, dtype=float)[order])]
    return order[np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))]


def plot_images(
    cutouts: Cutouts,
    table: QTable,
    *,
    noiseless: npt.ArrayLike | None = None,
    scale: str = "linear",
    labels: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """Noisy image, noiseless image, model of the estimated parameters and residual of some galaxies.

    Parameters
    ----------
    cutouts : Cutouts
        The galaxies, a few.
    table : `~astropy.table.Table`
        Their results, columns ``<p>_fit``.
    noiseless : (N, ny, nx) array_like, optional
        Images without noise, shown beside the others.
    scale : {"linear", "log"}, optional
        Scale of the brightness. Default "linear".
    labels : list of str, optional
        A line beside each galaxy.
    title : str, optional
        Title above the figure.

    Returns
    -------
    `~matplotlib.figure.Figure`
        One row per galaxy. The residual is the noisy image minus the model over the error; where there is a noiseless
        image, a last column shows the model minus that over the same.

    Raises
    ------
    ValueError
        If ``scale`` is neither of its choices.
    """
    from matplotlib.colors import LogNorm, Normalize

    if scale not in ("linear", "log"):
        msg = f"scale must be 'linear' or 'log', not {scale!r}"
        raise ValueError(msg)
    models = [np.asarray(getattr(model, "value", model)) for model in make_model_images(table, cutouts)]
    columns = ["noisy", "model", "residual / error"]
    if noiseless is not None:
        columns = ["noisy", "noiseless", "model", "residual / error", "(model - noiseless) / error"]
    figure = new_figure(1.75 * len(columns) + 0.8, 1.6 * len(cutouts) + 0.5)
    axes = figure.subplots(len(cutouts), len(columns), squeeze=False)
    for i, line in enumerate(axes):
        image, error = np.asarray(cutouts.image(i), float), _error(cutouts, i, models[i])
        good = ~cutouts.mask(i) & np.isfinite(image)
        images = {"noisy": np.where(good, image, np.nan), "model": models[i]}
        images["residual / error"] = np.where(good, (image - models[i]) / error, np.nan)
        if noiseless is not None:
            images["noiseless"] = np.asarray(noiseless[i], float)
            images["(model - noiseless) / error"] = (models[i] - images["noiseless"]) / error
        noise, peak = float(np.median(error)), float(np.nanmax(images.get("noiseless", images["noisy"])))
        peak = max(peak, 3 * noise)
        norm = LogNorm(0.1 * noise, peak, clip=True) if scale == "log" else Normalize(-2 * noise, peak)
        shown = {name: _show(axis, name, images[name], norm) for axis, name in zip(line, columns, strict=True)}
        count = columns.index("model") + 1
        _add_scale(figure, shown["model"], list(line[:count]))
        for axis, name in zip(line[count:], columns[count:], strict=True):
            _add_scale(figure, shown[name], axis)
        if i == 0:
            for axis, name in zip(line, columns, strict=True):
                axis.set_title(name, fontsize="small")
        if labels is not None:
            line[0].set_ylabel(labels[i], fontsize="small")
    figure.suptitle(f"{title}, {scale} scale" if title else f"{scale} scale")
    return figure


def _show(axis, name, image, norm):
    """One panel; what is divided by the error has a scale of its own."""
    options = {"origin": "lower", "interpolation": "nearest"}
    axis.set(xticks=[], yticks=[])
    if name.endswith("error"):
        limit = 5.0 if name.startswith("residual") else 2.0
        return axis.imshow(image, vmin=-limit, vmax=limit, cmap="RdBu_r", **options)
    return axis.imshow(image, norm=norm, cmap="viridis", **options)


def _add_scale(figure, shown, axes):
    scale = figure.colorbar(shown, ax=axes, shrink=0.8, pad=0.02).ax
    scale.tick_params(which="both", labelsize="xx-small")
    scale.tick_params(which="minor", labelright=False)


def _error(cutouts, i, model):
    """1-sigma errors of the pixels, the model's shot noise included."""
    variance = np.broadcast_to(np.asarray(cutouts.error(i), float), tuple(cutouts.shapes[i])) ** 2
    if cutouts.gain is not None:
        variance = variance + np.nan_to_num(np.maximum(model, 0)) / cutouts.gain[i]
    return np.sqrt(variance)
