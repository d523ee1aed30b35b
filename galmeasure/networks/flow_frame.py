"""A flow about a Gaussian, of each galaxy of a batch: draws from it and their densities."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
import zuko
from torch import Tensor

from galmeasure.networks.splines import draw_values, log_densities
from galmeasure.networks.transform import ParameterTransform

__all__ = ["FlowFrame"]

_OF_GALAXIES = ("context", "centre", "factor", "log_volume", "flux_scale")


@dataclass(frozen=True)
class FlowFrame:
    """Conditional flow whose values are relative to the Gaussian of each of ``B`` galaxies.

    Parameters
    ----------
    flow : zuko.flows.MAF
        Flow, made by `galmeasure.networks.splines.spline_flow`.
    transform : ParameterTransform
        Unbounded coordinates in which the Gaussians are.
    inside : callable
        Function that tells, for parameters ``(..., 7)``, which of them lie in the domain.
    is_lower : bool
        True if the factors are lower triangular.
    context : Tensor
        Context of the flow, shape ``(B, C)``.
    centre, factor : Tensor
        Centres of the Gaussians ``(B, 7)`` and factors ``F`` of their covariances ``F F^T``, shape ``(B, 7, 7)``.
    log_volume : Tensor
        Logarithm of the determinant of each factor, shape ``(B,)``.
    flux_scale : Tensor
        Unit of the flux, shape ``(B,)``.
    """

    flow: zuko.flows.MAF
    transform: ParameterTransform
    inside: Callable[[Tensor], Tensor]
    is_lower: bool
    context: torch.Tensor
    centre: torch.Tensor
    factor: torch.Tensor
    log_volume: torch.Tensor
    flux_scale: torch.Tensor

    def __len__(self) -> int:
        """Number of galaxies."""
        return len(self.centre)

    def __getitem__(self, rows: Tensor | slice) -> Self:
        """Return some of the galaxies, in the order of the index."""
        return replace(self, **{name: getattr(self, name)[rows] for name in _OF_GALAXIES})

    @classmethod
    def joined(cls, frames: Sequence["FlowFrame"]) -> "FlowFrame":
        """Return the galaxies of several frames of the same flow, one after the other."""
        columns = {name: torch.cat([getattr(frame, name) for frame in frames]) for name in _OF_GALAXIES}
        return replace(frames[0], **columns)

    def sample(self, normal: Tensor) -> Tensor:
        """Draw from the posteriors.

        Parameters
        ----------
        normal : Tensor
            Standard normal numbers, of which the draws are a function, shape ``(S, B, 7)``.

        Returns
        -------
        Tensor
            Parameters, shape ``(S, B, 7)``.
        """
        return self._moved(draw_values(self.flow, self.context, normal)[0])[1]

    def draw(self, normal: Tensor) -> tuple[Tensor, Tensor]:
        """Draw from the posteriors, and give the log density of each draw.

        Parameters
        ----------
        normal : Tensor
            Standard normal numbers, of which the draws are a function, shape ``(S, B, 7)``.

        Returns
        -------
        parameters : Tensor
            Shape ``(S, B, 7)``.
        log_density : Tensor
            The same as from :meth:`log_prob` up to rounding, shape ``(S, B)``.
        """
        white, density = draw_values(self.flow, self.context, normal)
        values, parameters = self._moved(white)
        return parameters, self._by_parameters(density - self.log_volume, values, parameters)

    def log_prob(self, parameters: Tensor) -> Tensor:
        """Log posterior density of parameters, in their own units.

        Parameters
        ----------
        parameters : Tensor
            Points at which to evaluate, shape ``(B, 7)`` or ``(S, B, 7)``.

        Returns
        -------
        Tensor
            Shape ``(B,)`` or ``(S, B)``; minus infinity outside the domain.
        """
        values = self.transform.forward(parameters, self.flux_scale.expand(parameters.shape[:-1]))
        return self._by_parameters(self.log_density(values), values, parameters)

    def log_density(self, values: Tensor) -> Tensor:
        """Log density in unbounded coordinates, of values ``(B, 7)`` or ``(S, B, 7)``."""
        offset = values - self.centre
        flat = offset[..., None] if offset.ndim == 2 else offset.permute(1, 2, 0)
        if self.is_lower:
            white = torch.linalg.solve_triangular(self.factor, flat, upper=False)
        else:
            white = torch.linalg.solve(self.factor, flat)
        white = white[..., 0] if offset.ndim == 2 else white.permute(2, 0, 1)
        return log_densities(self.flow, self.context, white) - self.log_volume

    def _moved(self, white):
        """Unbounded coordinates and parameters of draws ``(S, B, 7)`` from the flow."""
        values = self.centre + torch.einsum("bij,sbj->sbi", self.factor, white)
        return values, self.transform.inverse(values, self.flux_scale)

    def _by_parameters(self, density, values, parameters):
        """Log density in the units of the parameters, from that in unbounded coordinates."""
        density = density - self.transform.log_volume(values, self.flux_scale.expand(values.shape[:-1]))
        return torch.where(self.inside(parameters), density, -torch.inf)
