"""Arrays of one galaxy that pictures show: data, model, error, and which pixels count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from galmeasure.plotting.figures import plain

if TYPE_CHECKING:
    import numpy.typing as npt
    from astropy.table import Table

    from galmeasure.cutouts import Cutouts

__all__ = ["FitImages", "total_error"]


@dataclass(frozen=True)
class FitImages:
    """Images of one galaxy and of its model.

    Parameters
    ----------
    image, error : ndarray
        Pixels and their 1-sigma errors, source noise of the model included where there is a gain, shape ``(ny, nx)``.
    good : ndarray of bool
        True for pixels that are used, shape ``(ny, nx)``.
    model : ndarray or None
        Model of the fit, shape ``(ny, nx)``; None where there is no measurement.
    """

    image: npt.NDArray[np.float64]
    error: npt.NDArray[np.float64]
    good: npt.NDArray[np.bool_]
    model: npt.NDArray[np.float64] | None

    @classmethod
    def of(cls, table: Table, cutout: Cutouts, model: npt.ArrayLike | None = None) -> FitImages:
        """Collect the images of one galaxy.

        Parameters
        ----------
        table : `~astropy.table.Table`
            Result of one row.
        cutout : Cutouts
            Cutout of the same galaxy.
        model : (ny, nx) array_like, optional
            Model image; drawn from the row by default.

        Returns
        -------
        FitImages
            Images of this galaxy.

        Raises
        ------
        ValueError
            If ``model`` has another shape than the cutout.
        """
        image = np.asarray(cutout.image(0), float)
        good = ~cutout.mask(0) & np.isfinite(image)
        if model is None and bool(np.isfinite(plain(table["flux_fit"][0]))):
            from galmeasure.fitters import make_model_images

            model = make_model_images(table, cutout)[0]
        if model is not None:
            model = np.asarray(plain(model), float)
            if model.shape != image.shape:
                msg = f"model must have the shape of the cutout, {image.shape}, not {model.shape}"
                raise ValueError(msg)
        return cls(image, total_error(cutout, model), good, model)

    @property
    def residual(self) -> npt.NDArray[np.float64] | None:
        """Data minus model in units of the error, NaN in pixels that are not used; None without a model."""
        if self.model is None:
            return None
        return np.where(self.good, (self.image - self.model) / self.error, np.nan)


def total_error(cutout: Cutouts, model: npt.NDArray[np.float64] | None) -> npt.NDArray[np.float64]:
    """Compute the 1-sigma error of every pixel of one cutout.

    Parameters
    ----------
    cutout : Cutouts
        Cutout of one galaxy.
    model : ndarray or None
        Model whose source noise is added where there is a gain.

    Returns
    -------
    ndarray
        Errors in the unit of the pixels, shape ``(ny, nx)``.
    """
    variance = np.broadcast_to(np.asarray(cutout.error(0), float), tuple(cutout.shapes[0])) ** 2
    if cutout.gain is not None and model is not None:
        variance = variance + np.maximum(model, 0) / cutout.gain[0]
    return np.sqrt(variance)
