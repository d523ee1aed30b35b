"""Sersic parameters without bounds, relative to a stamp: what flows and heads work with."""

import math
from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid

__all__ = ["ParameterTransform"]


@dataclass(frozen=True)
class ParameterTransform:
    """From the seven parameters inside their domain to unconstrained numbers, and back.

    Flux is a logarithm relative to a scale; n and log r_eff are logits between their bounds; the shear is stretched
    from the disc to the plane, ``g = g_max tanh(|v|) v / |v|``; the centre is a logit about the stamp's centre.

    Parameters
    ----------
    n, r_eff : tuple of float
        Bounds, r_eff in pixels.
    g_max : float
        Radius of the disc.
    centre : float
        Largest offset of the centre along x and y, pixels.
    size : int
        Side of the stamp.
    """

    n: tuple[float, float]
    r_eff: tuple[float, float]
    g_max: float
    centre: float
    size: int

    def forward(self, parameters, flux_scale):
        """Unconstrained numbers of parameters.

        Parameters
        ----------
        parameters : Tensor
            Shape ``(..., 7)``; what lies outside the domain is moved to its edge.
        flux_scale : Tensor
            Shape ``(...)``.

        Returns
        -------
        Tensor
            Shape ``(..., 7)``.
        """
        flux, n, r_eff, g1, g2, x, y = parameters.unbind(-1)
        middle = (self.size - 1) / 2.0
        low, high = (math.log(bound) for bound in self.r_eff)
        radius = torch.hypot(g1, g2)
        stretch = torch.atanh((radius / self.g_max).clamp_max(1.0 - 1e-6)) / radius.clamp_min(1e-12)
        stretch = torch.where(radius < 1e-6, 1.0 / self.g_max, stretch)
        return torch.stack(
            [
                torch.log(flux.clamp_min(1e-30) / flux_scale),
                _logit((n - self.n[0]) / (self.n[1] - self.n[0])),
                _logit((torch.log(r_eff.clamp_min(1e-30)) - low) / (high - low)),
                g1 * stretch,
                g2 * stretch,
                _logit(0.5 + (x - middle) / (2.0 * self.centre)),
                _logit(0.5 + (y - middle) / (2.0 * self.centre)),
            ],
            -1,
        )

    def inverse(self, values, flux_scale):
        """Parameters of unconstrained numbers, shapes as in :meth:`forward`."""
        log_flux, n, r_eff, v1, v2, x, y = values.unbind(-1)
        middle = (self.size - 1) / 2.0
        low, high = (math.log(bound) for bound in self.r_eff)
        length = torch.sqrt(v1**2 + v2**2 + 1e-12)
        shrink = self.g_max * torch.tanh(length) / length
        return torch.stack(
            [
                flux_scale * torch.exp(log_flux),
                self.n[0] + (self.n[1] - self.n[0]) * torch.sigmoid(n),
                torch.exp(low + (high - low) * torch.sigmoid(r_eff)),
                v1 * shrink,
                v2 * shrink,
                middle + self.centre * (2.0 * torch.sigmoid(x) - 1.0),
                middle + self.centre * (2.0 * torch.sigmoid(y) - 1.0),
            ],
            -1,
        )

    def jacobian(self, values, flux_scale):
        """Differentiate :meth:`inverse`: parameters along the rows, unconstrained numbers along the columns.

        Parameters
        ----------
        values : Tensor
            Unconstrained numbers, shape ``(B, 7)``.
        flux_scale : Tensor
            Shape ``(B,)``.

        Returns
        -------
        Tensor
            Shape ``(B, 7, 7)``; only the two components of the shear are mixed.
        """
        log_flux, n, r_eff, v1, v2, x, y = values.unbind(-1)
        low, high = (math.log(bound) for bound in self.r_eff)
        slope_r = (high - low) * _log_slope(r_eff).exp()
        reach = 2.0 * self.centre
        diagonal = torch.stack(
            [
                flux_scale * torch.exp(log_flux),
                (self.n[1] - self.n[0]) * _log_slope(n).exp(),
                slope_r * torch.exp(low + (high - low) * torch.sigmoid(r_eff)),
                *[torch.zeros_like(v1)] * 2,
                reach * _log_slope(x).exp(),
                reach * _log_slope(y).exp(),
            ],
            -1,
        )
        matrix = torch.diag_embed(diagonal)
        length = torch.sqrt(v1**2 + v2**2 + 1e-12)
        shrink = self.g_max * torch.tanh(length) / length
        steep = self.g_max * (1.0 - torch.tanh(length) ** 2) - shrink
        u1, u2 = v1 / length, v2 / length
        matrix[..., 3, 3], matrix[..., 4, 4] = shrink + steep * u1**2, shrink + steep * u2**2
        matrix[..., 3, 4] = matrix[..., 4, 3] = steep * u1 * u2
        return matrix

    def log_volume(self, values, flux_scale):
        """Logarithm of the determinant of the derivatives of :meth:`inverse`, shape ``(...)``."""
        log_flux, n, r_eff, v1, v2, x, y = values.unbind(-1)
        low, high = (math.log(bound) for bound in self.r_eff)
        length = torch.sqrt(v1**2 + v2**2 + 1e-12)
        total = torch.log(flux_scale) + log_flux + math.log(self.n[1] - self.n[0]) + _log_slope(n)
        total = total + low + (high - low) * torch.sigmoid(r_eff) + math.log(high - low) + _log_slope(r_eff)
        log_cosh = length + torch.nn.functional.softplus(-2.0 * length) - math.log(2.0)
        total = total + 2.0 * math.log(self.g_max) + torch.log(torch.tanh(length) / length) - 2.0 * log_cosh
        return total + 2.0 * math.log(2.0 * self.centre) + _log_slope(x) + _log_slope(y)

    def largest_variance(self, mean):
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
        bounds = mean.new_tensor(
            [
                [-math.inf, self.n[0], self.r_eff[0], -self.g_max, -self.g_max, *[middle - self.centre] * 2],
                [math.inf, self.n[1], self.r_eff[1], self.g_max, self.g_max, *[middle + self.centre] * 2],
            ]
        )
        return (mean - bounds[0]).clamp_min(0.0) * (bounds[1] - mean).clamp_min(0.0)

    def marginal_forward(self, parameters, flux_scale):
        """As :meth:`forward`, but each number depends on one parameter alone: for quantiles."""
        values = self.forward(parameters, flux_scale)
        stretched = torch.atanh((parameters[..., 3:5] / self.g_max).clamp(-1.0 + 1e-6, 1.0 - 1e-6))
        return torch.cat([values[..., :3], stretched, values[..., 5:]], -1)

    def marginal_inverse(self, values, flux_scale):
        """Inverse of :meth:`marginal_forward`."""
        parameters = self.inverse(values, flux_scale)
        return torch.cat([parameters[..., :3], self.g_max * torch.tanh(values[..., 3:5]), parameters[..., 5:]], -1)


def _logit(fraction):
    fraction = fraction.clamp(1e-6, 1.0 - 1e-6)
    return torch.log(fraction) - torch.log1p(-fraction)


def _log_slope(value):
    """Logarithm of the derivative of the logistic function."""
    return logsigmoid(value) + logsigmoid(-value)
