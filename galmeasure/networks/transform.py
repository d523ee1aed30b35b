"""The coordinates of networks: Sersic parameters without bounds, relative to a stamp."""

import math
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from galmeasure.parameters import SERSIC
from galmeasure.transforms import Disc, Logit, LogitOfLog, LogitOfOffset, SpaceTransform, Tanh

__all__ = ["ParameterTransform"]

_INFINITE = (-math.inf, math.inf)


@dataclass(frozen=True)
class ParameterTransform:
    """Change of variables from the seven parameters inside their domain to unbounded coordinates, and back.

    The flux becomes a logarithm relative to a scale; n and log r_eff become logits between their bounds; the shear is
    stretched from the disc to the plane, ``g = g_max tanh(|v|) v / |v|``; the centre becomes a logit about the middle
    of the stamp. The mathematics is that of `galmeasure.transforms.SpaceTransform`.

    Parameters
    ----------
    n, r_eff : tuple of float
        Bounds of the domain, those of r_eff in pixels.
    g_max : float
        Radius of the disc of the reduced shear.
    centre : float
        Largest offset of the centre along x and y, pixels.
    size : int
        Side of the stamp in pixels.
    """

    n: tuple[float, float]
    r_eff: tuple[float, float]
    g_max: float
    centre: float
    size: int

    @cached_property
    def coordinates(self) -> SpaceTransform:
        """Transform of the space of Sersic parameters."""
        middle = (self.size - 1) / 2.0
        transforms = {
            "n": Logit(*self.n), "r_eff": LogitOfLog(*self.r_eff), "g1": Disc(self.g_max),
            "x": LogitOfOffset(middle, self.centre),
        }  # fmt: skip
        return SpaceTransform.of(SERSIC, transforms)

    @cached_property
    def marginal_coordinates(self) -> SpaceTransform:
        """Transform of which each coordinate depends on one parameter alone."""
        return self.coordinates.with_transforms({"g1": Tanh(self.g_max)})

    def forward(self, parameters: Tensor, flux_scale: Tensor) -> Tensor:
        """Unbounded coordinates of parameters.

        Parameters
        ----------
        parameters : Tensor
            Shape ``(..., 7)``; values outside the domain are moved to its edge.
        flux_scale : Tensor
            Unit of the flux, shape ``(...)``.

        Returns
        -------
        Tensor
            Shape ``(..., 7)``.
        """
        return self.coordinates.to_coordinates(parameters, flux_scale)

    def inverse(self, values: Tensor, flux_scale: Tensor) -> Tensor:
        """Parameters of unbounded coordinates, shapes as in :meth:`forward`."""
        return self.coordinates.from_coordinates(values, flux_scale)

    def jacobian(self, values: Tensor, flux_scale: Tensor) -> Tensor:
        """Derivatives of :meth:`inverse`: parameters along the rows, unbounded coordinates along the columns.

        Parameters
        ----------
        values : Tensor
            Unbounded coordinates, shape ``(B, 7)``.
        flux_scale : Tensor
            Unit of the flux, shape ``(B,)``.

        Returns
        -------
        Tensor
            Shape ``(B, 7, 7)``; only the two components of the shear are mixed.
        """
        return self.coordinates.jacobian(values, flux_scale)

    def log_volume(self, values: Tensor, flux_scale: Tensor) -> Tensor:
        """Logarithm of the determinant of the derivatives of :meth:`inverse`, shape ``(...)``."""
        return self.coordinates.log_volume(values, flux_scale)

    def largest_variance(self, mean: Tensor) -> Tensor:
        """Upper bound of the variance of each parameter inside the domain, given its mean.

        A variable between ``a`` and ``b`` with mean ``m`` has a variance of at most ``(m - a) (b - m)`` (Bhatia and
        Davis 2000, Am. Math. Mon. 107, 353).

        Parameters
        ----------
        mean : Tensor
            Means of the parameters, shape ``(B, 7)``.

        Returns
        -------
        Tensor
            Shape ``(B, 7)``; infinite for the flux, which has no bounds.
        """
        middle = (self.size - 1) / 2.0
        shear, centre = (-self.g_max, self.g_max), (middle - self.centre, middle + self.centre)
        limits = {"n": self.n, "r_eff": self.r_eff, "g1": shear, "g2": shear, "x": centre, "y": centre}
        lower, upper = mean.new_tensor([limits.get(name, _INFINITE) for name in SERSIC.names]).T
        return (mean - lower).clamp_min(0.0) * (upper - mean).clamp_min(0.0)

    def marginal_forward(self, parameters: Tensor, flux_scale: Tensor) -> Tensor:
        """Coordinates as in :meth:`forward`, but each depends on one parameter alone: for quantiles."""
        return self.marginal_coordinates.to_coordinates(parameters, flux_scale)

    def marginal_inverse(self, values: Tensor, flux_scale: Tensor) -> Tensor:
        """Inverse of :meth:`marginal_forward`."""
        return self.marginal_coordinates.from_coordinates(values, flux_scale)
