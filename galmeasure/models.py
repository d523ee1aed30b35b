"""A PSF-convolved Sersic model for astropy's modelling and for photutils."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from astropy.modeling import Fittable2DModel, Parameter

from galmeasure.cutouts import Cutouts
from galmeasure.parameters import G_MAX, PARAMETERS
from galmeasure.render import prepare_psf, render_sersic

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["PSFConvolvedSersic2D"]

_N, _R_EFF = PARAMETERS[1], PARAMETERS[2]


class PSFConvolvedSersic2D(Fittable2DModel):
    """Sersic profile convolved with a PSF, on pixels: an astropy model.

    Parameters
    ----------
    flux : float, optional
        Total flux, integrated to infinity.
    n : float, optional
        Sersic index, from 0.3 to 8.
    r_eff : float, optional
        Half-light radius in pixels, circularised.
    g1, g2 : float, optional
        Reduced shear, ``|g| = (a - b) / (a + b)``.
    x_0, y_0 : float, optional
        Coordinates of the centre in pixels.
    psf : array_like, PSF model
        As in `~galmeasure.Cutouts`: pixel response included.
    psf_oversampling : int, optional
        PSF pixels per pixel.

    Raises
    ------
    ValueError
        If the model is evaluated on coordinates that are not pixels of a regular grid with unit steps.

    Notes
    -----
    The model is the flux in each pixel. Coordinates may be a full grid or any subset of its pixels, in any shape;
    a common fractional offset is allowed. The derivatives are analytic.

    Examples
    --------
    >>> import numpy as np
    >>> from astropy.modeling.fitting import LevMarLSQFitter
    >>> from galmeasure import PSFConvolvedSersic2D
    >>> y, x = np.mgrid[:25, :25]
    >>> psf = np.exp(-((x - 12) ** 2 + (y - 12) ** 2) / 8.0)
    >>> truth = PSFConvolvedSersic2D(flux=100, n=1.5, r_eff=3.0, g1=0.1, x_0=12, y_0=12, psf=psf)
    >>> start = PSFConvolvedSersic2D(flux=80, n=1.0, r_eff=2.0, x_0=12.5, y_0=11.5, psf=psf)
    >>> fitted = LevMarLSQFitter()(start, x, y, truth(x, y))
    >>> print(f"{fitted.n.value:.2f} {fitted.r_eff.value:.2f}")
    1.50 3.00
    """

    flux = Parameter(default=1.0, description=PARAMETERS[0].description)
    n = Parameter(default=1.0, bounds=(_N.lower, _N.upper), description=_N.description)
    r_eff = Parameter(default=1.0, bounds=(_R_EFF.lower, None), description=_R_EFF.description)
    g1 = Parameter(default=0.0, bounds=(-G_MAX, G_MAX), description=PARAMETERS[3].description)
    g2 = Parameter(default=0.0, bounds=(-G_MAX, G_MAX), description=PARAMETERS[4].description)
    x_0 = Parameter(default=0.0, description=PARAMETERS[5].description)
    y_0 = Parameter(default=0.0, description=PARAMETERS[6].description)

    def __init__(self, *args: float, psf: object, psf_oversampling: int = 1, **kwargs: object):
        stamp = Cutouts(np.zeros((8, 8)), psf, error=1.0, psf_oversampling=psf_oversampling)
        self._psf = torch.from_numpy(np.array(stamp.psf_image(0), dtype=float))[None]
        self._oversampling = stamp.psf_oversampling
        super().__init__(*args, **kwargs)

    # astropy takes annotations of this method for units, so it has none
    def evaluate(self, x, y, flux, n, r_eff, g1, g2, x_0, y_0):
        """Return the flux per pixel at coordinates ``x``, ``y``."""
        image, pixels = self._render(x, y, (flux, n, r_eff, g1, g2, x_0, y_0), jacobian=False)
        return image[pixels]

    def fit_deriv(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        flux: float,
        n: float,
        r_eff: float,
        g1: float,
        g2: float,
        x_0: float,
        y_0: float,
    ) -> list[npt.NDArray[np.float64]]:
        """Return the derivatives by the seven parameters at coordinates ``x``, ``y``."""
        images, pixels = self._render(x, y, (flux, n, r_eff, g1, g2, x_0, y_0), jacobian=True)
        return [image[pixels] for image in images]

    def _render(self, x, y, values, *, jacobian):
        """Image (or Jacobian) of the box around the coordinates, and the index of these in it."""
        x, y = np.broadcast_arrays(np.asarray(x, dtype=float), np.asarray(y, dtype=float))
        column, row = _pixels(x, "x"), _pixels(y, "y")
        values = [float(np.squeeze(value)) for value in values]
        values[1] = float(np.clip(values[1], _N.lower, _N.upper))
        values[2] = max(values[2], _R_EFF.lower)
        excess = max(1.0, float(np.hypot(values[3], values[4])) / G_MAX)
        values[3:5] = values[3] / excess, values[4] / excess
        values[5] -= float(x.min())
        values[6] -= float(y.min())
        grid = prepare_psf(self._psf, (int(row.max()) + 1, int(column.max()) + 1),
                           oversampling=self._oversampling, dtype=torch.float64)  # fmt: skip
        parameters = torch.tensor([values], dtype=torch.float64)
        with torch.inference_mode():
            if not jacobian:
                return render_sersic(parameters, grid)[0].numpy(), (row, column)
            return render_sersic(parameters, grid, jacobian=True)[1][0].numpy(), (row, column)


def _pixels(coordinate, name):
    """Integer steps of coordinates from their smallest."""
    steps = coordinate - coordinate.min()
    whole = np.rint(steps)
    if not np.allclose(steps, whole, atol=1e-6):
        msg = f"{name} must be pixels of a regular grid with unit steps"
        raise ValueError(msg)
    return whole.astype(int)
