"""Result of an explanation: one map per galaxy, and what it is a map of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from astropy import units as u

if TYPE_CHECKING:
    import numpy.typing as npt

    from galmeasure.cutouts import Cutouts

__all__ = ["METHODS", "Explanation", "numbers_of"]

METHODS = {
    "saliency": "derivative of the estimate by each pixel",
    "integrated_gradients": "part of each pixel in the difference from the estimate for blank sky",
    "gradcam": "gradient times activation of the last map of features, up-sampled",
}
"""Methods of `galmeasure.explain.explain`, and what their maps hold."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """Maps that tell how a network's posterior mean of one parameter follows from the pixels.

    Parameters
    ----------
    parameter : str
        Name of the parameter that is explained.
    method : str
        Name of the method, one of ``galmeasure.explain.METHODS``.
    maps : list of ndarray or Quantity
        One map per galaxy, in the shape of its cutout; NaN where there is no measurement. A saliency is in the unit of
        the parameter over that of the pixels, integrated gradients are in the unit of the parameter, and Grad-CAM maps
        have no unit and a largest absolute value of 1.
    values : ndarray or Quantity
        Posterior mean of each galaxy, before any correction of it, shape ``(N,)``; positions are those in the parent
        image.
    cutouts : Cutouts
        Cutouts that were explained.
    weights : str
        Name of the weights of the network.
    map_side : int or None
        Number of places along a side of the map of features that was up-sampled; None for maps of pixels.
    baselines : ndarray or Quantity or None
        Estimates for stamps of blank sky, from which integrated gradients start, shape ``(N,)``; None for other
        methods.
    """

    parameter: str
    method: str
    maps: list[npt.NDArray[np.float64] | u.Quantity]
    values: npt.NDArray[np.float64] | u.Quantity
    cutouts: Cutouts
    weights: str
    map_side: int | None = None
    baselines: npt.NDArray[np.float64] | u.Quantity | None = None

    def __len__(self) -> int:
        """Number of galaxies."""
        return len(self.maps)

    @property
    def is_upsampled(self) -> bool:
        """True if the maps have fewer places than pixels and were up-sampled."""
        return self.map_side is not None

    @property
    def incompleteness(self) -> npt.NDArray[np.float64] | u.Quantity:
        """What integrated gradients miss of the difference from blank sky, of each galaxy, shape ``(N,)``.

        Their sums would be equal to the differences if the integrals were exact: more steps make it smaller.
        """
        if self.baselines is None:
            msg = f"method must be 'integrated_gradients' for incompleteness, not {self.method!r}"
            raise ValueError(msg)
        sums = np.array([np.nansum(numbers_of(pixels)) for pixels in self.maps])
        missing = numbers_of(self.values) - numbers_of(self.baselines) - sums
        unit = getattr(self.values, "unit", None)
        return missing if unit is None else u.Quantity(missing, unit, copy=False)

    def average(self, *, absolute: bool = False) -> npt.NDArray[np.float64] | u.Quantity:
        """Average the maps of all galaxies that have one.

        Parameters
        ----------
        absolute : bool, optional
            Average absolute values: where the network looks, whatever the sign. Default False.

        Returns
        -------
        ndarray or Quantity
            Map in the shape of the cutouts; NaN in pixels without a map.

        Raises
        ------
        ValueError
            If the cutouts do not all have one shape, or none has a map.
        """
        shapes = {np.shape(pixels) for pixels in self.maps}
        if len(shapes) != 1:
            msg = f"maps must have one shape to be averaged, and there are {len(shapes)}"
            raise ValueError(msg)
        stacked = np.stack([numbers_of(pixels) for pixels in self.maps])
        count = np.isfinite(stacked).sum(0)
        if not count.any():
            msg = "maps must hold numbers, and no galaxy was measured"
            raise ValueError(msg)
        total = np.nansum(np.abs(stacked) if absolute else stacked, axis=0)
        mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        unit = getattr(self.maps[0], "unit", None)
        return mean if unit is None else u.Quantity(mean, unit, copy=False)


def numbers_of(values: npt.ArrayLike | u.Quantity) -> npt.NDArray[np.float64]:
    """Give values without their unit, in double precision."""
    return np.asarray(getattr(values, "value", values), dtype=float)
