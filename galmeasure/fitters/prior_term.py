"""A prior as a term of a least-squares problem: value, gradient and curvature by the variables of the fit."""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from galmeasure.fitters import variables as _variables
from galmeasure.parameters import N_PARAMETERS, SERSIC
from galmeasure.priors import Prior

__all__ = ["PriorTerm"]

_PIXEL = 8.0 * math.log(2.0) / 12.0  # squared FWHM that a pixel adds
_FWHM_SIGMA = 2.3548
_SHAPE, _SHEAR = SERSIC.slice("n", "g2"), SERSIC.slice("g1", "g2")  # ln n, ln r_eff and the two unbounded shears
_INSIDE = 1e-4  # of the domain, that parameters are kept within its edge


@dataclass(frozen=True)
class PriorTerm:
    """Prior of the index, the size and the shear of each galaxy of a problem.

    Parameters
    ----------
    prior : Prior
        The prior, whose lengths are in pixels.
    snr : Tensor
        Signal-to-noise ratio of each galaxy, which sizes may follow, shape ``(B,)``.
    fwhm : Tensor
        Width of each PSF before the pixel's response, in pixels, shape ``(B,)``.

    Notes
    -----
    The density is one by the variables of the fit: the logarithms of n and of r_eff, and the unbounded shears. Beyond
    the domain of the prior it is that at its edge. It is flat in the flux and in the centre.
    """

    prior: Prior
    snr: torch.Tensor
    fwhm: torch.Tensor

    @classmethod
    def of(cls, prior: Prior, snr: Tensor, psf_covariance: Tensor) -> Self:
        """Term of galaxies whose PSFs have second moments ``(B, 2, 2)``."""
        width = _FWHM_SIGMA**2 * psf_covariance.double().diagonal(dim1=1, dim2=2).mean(1)
        fwhm = (width - _PIXEL).clamp_min(0.01).sqrt().clamp(prior.psf_fwhm.lower, prior.psf_fwhm.upper)
        return cls(prior, torch.nan_to_num(snr, nan=prior.snr.lower), fwhm)

    def evaluate(self, rows: Tensor, variables: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Minus twice the logarithm of the density, half its negative gradient, and half its curvature.

        Parameters
        ----------
        rows : Tensor
            Rows of the problem, shape ``(K,)``.
        variables : Tensor
            Variables of the fit, shape ``(K, P)``, double precision.

        Returns
        -------
        loss, gradient, hessian : Tensor
            Shapes ``(K,)``, ``(K, P)`` and ``(K, P, P)``; the curvature is the part of it that is not negative.
        """
        with torch.inference_mode(False), torch.enable_grad():
            shape = variables[:, _SHAPE].clone().requires_grad_()
            density = self._log_density(shape, self.snr[rows].clone(), self.fwhm[rows].clone())
            (slope,) = torch.autograd.grad(density.sum(), shape, create_graph=True)
            second = [
                torch.autograd.grad(slope[:, column].sum(), shape, retain_graph=True)[0]
                for column in range(shape.shape[1])
            ]
        value, vector = torch.linalg.eigh(-torch.stack(second, 1).detach())
        curvature = vector @ torch.diag_embed(value.clamp_min(0.0)) @ vector.mT
        gradient, hessian = torch.zeros_like(variables), variables.new_zeros((*variables.shape, variables.shape[1]))
        gradient[:, _SHAPE] = slope.detach()
        hessian[:, _SHAPE, _SHAPE] = curvature
        return -2.0 * density.detach(), gradient, hessian

    def _log_density(self, shape, snr, fwhm):
        """Log density ``(K,)`` by ``ln n``, ``ln r_eff`` and unbounded shears ``(K, 4)``."""
        full = torch.nn.functional.pad(shape, (_SHAPE.start, N_PARAMETERS - _SHAPE.stop))
        _, n, r_eff, g1, g2, _, _ = _variables.to_parameters(full).unbind(1)
        n, r_eff = (
            parameter.clamp(domain.lower * (1.0 + _INSIDE), domain.upper * (1.0 - _INSIDE))
            for parameter, domain in ((n, self.prior.n), (r_eff, self.prior.r_eff))
        )
        radius = torch.sqrt(g1**2 + g2**2 + 1e-12)
        shrink = (self.prior.shear.g_max * (1.0 - _INSIDE) / radius).clamp_max(1.0)
        density = self.prior.log_prob_shapes(n, r_eff, g1 * shrink, g2 * shrink, snr, fwhm)
        stretch = torch.linalg.det(_variables.jacobian(full)[:, _SHEAR, _SHEAR]).abs().clamp_min(1e-12)
        return density + n.log() + r_eff.log() + stretch.log()
