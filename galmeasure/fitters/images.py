"""Model and residual images of a result table, photutils fashion."""

import numpy as np
import numpy.typing as npt
import torch
from astropy import units as u
from astropy.table import Table

from galmeasure.cutouts import Cutouts
from galmeasure.fitters.threads import single_threaded
from galmeasure.render import prepare_psf, render_sersic
from galmeasure.results.columns import table_values

__all__ = ["make_model_images", "make_residual_images"]


def make_model_images(table: Table, cutouts: Cutouts) -> list[npt.NDArray | u.Quantity]:
    """Draw the fitted models, convolved with the PSF and with the fitted background if there is one.

    Parameters
    ----------
    table : `~astropy.table.Table`
        Result of a fitter: columns ``<p>_fit``; one row per cutout.
    cutouts : Cutouts
        Cutouts that were fitted.

    Returns
    -------
    list of ndarray or Quantity
        One image per cutout, in its shape and unit; NaN where the fit failed.

    Raises
    ------
    TypeError
        If ``cutouts`` is not a `~galmeasure.Cutouts`.
    ValueError
        If ``table`` does not have one row per cutout, or lacks a parameter.

    Examples
    --------
    >>> import numpy as np
    >>> from galmeasure import Cutouts, LSQSersicFitter
    >>> y, x = np.mgrid[-12:13, -12:13]
    >>> psf = np.exp(-(x**2 + y**2) / 8.0)
    >>> image = 500 * np.exp(-np.hypot(x, y) / 3.0)
    >>> cutouts = Cutouts(image, psf, error=1.0)
    >>> fitter = LSQSersicFitter()
    >>> model = fitter.make_model_images(fitter.fit(cutouts), cutouts)
    >>> model[0].shape
    (25, 25)
    """
    if not isinstance(cutouts, Cutouts):
        msg = f"cutouts must be a Cutouts, which holds the PSF, not {type(cutouts).__name__}"
        raise TypeError(msg)
    parameters = table_values(table, cutouts, ("{}_fit",), argument="table")
    missing = [name for name in ("flux", "n", "r_eff", "g1", "g2", "x", "y") if f"{name}_fit" not in table.colnames]
    if missing:
        msg = f"table lacks the columns {', '.join(name + '_fit' for name in missing)}"
        raise ValueError(msg)
    background = _background(table, cutouts)
    with single_threaded():
        return [_model_image(parameters[i], background[i], cutouts, i) for i in range(len(cutouts))]


def make_residual_images(table: Table, cutouts: Cutouts) -> list[npt.NDArray | u.Quantity]:
    """Data minus model; masked pixels keep their residual.

    Parameters
    ----------
    table : `~astropy.table.Table`
        Result of a fitter.
    cutouts : Cutouts
        Cutouts that were fitted.

    Returns
    -------
    list of ndarray or Quantity
        One image per cutout; see `make_model_images`.
    """
    residuals = []
    for i, model in enumerate(make_model_images(table, cutouts)):
        data = cutouts.image(i)
        residuals.append(data - model if cutouts.unit is None else u.Quantity(data, cutouts.unit) - model)
    return residuals


def _background(table, cutouts):
    if "background_fit" not in table.colnames:
        return np.zeros(len(cutouts))
    column = table["background_fit"]
    return column.to_value(cutouts.unit) if isinstance(column, u.Quantity) else np.asarray(column, dtype=float)


def _model_image(parameters, background, cutouts, i):
    shape = tuple(int(side) for side in cutouts.shapes[i])
    if not np.isfinite(parameters).all():
        image = np.full(shape, np.nan)
    else:
        psf = torch.from_numpy(np.array(cutouts.psf_image(i), dtype=float))[None]
        grid = prepare_psf(psf, shape, oversampling=cutouts.psf_oversampling, dtype=torch.float64)
        with torch.inference_mode():
            image = render_sersic(torch.from_numpy(parameters)[None], grid)[0].numpy() + np.nan_to_num(background)
    return image if cutouts.unit is None else u.Quantity(image, cutouts.unit, copy=False)
