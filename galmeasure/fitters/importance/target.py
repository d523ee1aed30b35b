"""The exact posterior of stamps: likelihood of their pixels times the prior, for many parameters of each."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from galmeasure.fitters.problem import Problem
from galmeasure.fitters.tensors import BatchTensors, groups
from galmeasure.likelihood import log_likelihood, variance
from galmeasure.networks import NATIVE_SIZE, Window
from galmeasure.parameters import SERSIC
from galmeasure.priors import Prior
from galmeasure.render import render_sersic
from galmeasure.utils.chunks import chunk_size

__all__ = ["ExactPosterior"]

_FLUX = SERSIC.index("flux")
_STRETCH = 1.1  # of the proposal of the flux
_NATIVE = (NATIVE_SIZE, NATIVE_SIZE)
_PIXEL = 8.0 * math.log(2.0) / 12.0  # squared FWHM that a pixel adds


class ExactPosterior:
    """Posterior density of the rows of a batch under a prior in the pixels of a network.

    Parameters
    ----------
    tensors : BatchTensors
        Tensors of the batch, on the device on which models are rendered.
    prior : Prior
        Prior of the posterior, in the pixels of the network.

    Notes
    -----
    Where the prior is one of the signal-to-noise ratio, the density of the flux is that of the ratio times its
    derivative, shot noise included. The prior is not normalised for its cut in signal-to-noise ratio.
    """

    def __init__(self, tensors: BatchTensors, prior: Prior) -> None:
        self.prior, self.device, batch = prior, tensors.device, tensors.batch
        self._problems: dict[int, tuple[Problem, int]] = {}
        width = np.maximum(batch.psf_fwhm[batch.psf_index] ** 2 - _PIXEL, 0.01) ** 0.5
        self._fwhm = torch.from_numpy(np.clip(width, prior.psf_fwhm.lower, prior.psf_fwhm.upper)).to(self.device)
        for group in groups(tensors):
            self._problems.update({int(row): (group.problem, index) for index, row in enumerate(group.rows)})

    def evaluate(
        self,
        rows: Sequence[int] | NDArray[np.int64],
        window: Window,
        values: Tensor,
        uniform: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log posterior density of parameters, and a proposal of the flux given the others.

        Parameters
        ----------
        rows : sequence of int
            Rows of the batch, ``R``.
        window : Window
            Where the network's pixels lie on these rows.
        values : Tensor
            Parameters in the units and pixels of the network, double precision, shape ``(R, S, 7)``.
        uniform : Tensor, optional
            Numbers between 0 and 1, shape ``(R, S)``: the fluxes are drawn from their proposal with them, and those
            in ``values`` not used.

        Returns
        -------
        values : Tensor
            Parameters with the fluxes that count.
        log_density : Tensor
            By the parameters, not normalised, shape ``(R, S)``; minus infinity outside the prior.
        log_flux : Tensor
            Log density of these fluxes in their proposal, shape ``(R, S)``.
        """
        values = values.clone()
        log_densities = torch.empty((2, *values.shape[:2]), dtype=torch.float64, device=values.device)
        problems = [self._problems[int(row)] for row in rows]
        fwhm = self._fwhm[torch.as_tensor(np.asarray(rows), device=values.device)] / window.block
        stamps = window.to_stamp(values)
        for problem in {id(problem): problem for problem, _ in problems}.values():
            chosen = [index for index, (owner, _) in enumerate(problems) if owner is problem]
            local = torch.tensor([problems[index][1] for index in chosen], device=values.device)
            pairs = torch.tensor(chosen, device=values.device).repeat_interleave(values.shape[1])
            local = local.repeat_interleave(values.shape[1])
            draws = torch.arange(values.shape[1], device=values.device).repeat(len(chosen))
            size = chunk_size("posterior models", self.device)
            for start in range(0, len(pairs), size):
                models = slice(start, start + size)
                index = pairs[models], draws[models]
                number = None if uniform is None else uniform[index]
                flux, log_density, log_flux = self._evaluate_models(
                    problem, local[models], window.block, values[index], stamps[index], fwhm[pairs[models]], number
                )
                values[(*index, _FLUX)] = flux
                log_densities[(0, *index)], log_densities[(1, *index)] = log_density, log_flux
        return values, log_densities[0], log_densities[1]

    def _evaluate_models(self, problem, local, block, values, stamps, fwhm, uniform):
        """Fluxes, log posterior densities and log densities of the fluxes in their proposal, of a few models."""
        image, error, good, gain = problem.data(local)
        of_unit_flux = stamps.to(image.dtype)
        of_unit_flux[:, _FLUX] = 1.0
        unit = render_sersic(of_unit_flux, problem.psf, problem.psf_index[local])
        proposal, norm = self._flux_proposal(unit, image, error, good, gain)
        # one unit of the network's flux is as many of the stamp's as a block has pixels along its side
        flux = block * values[:, _FLUX] if uniform is None else proposal.sample(uniform)
        log_flux = proposal.log_prob(flux) + math.log(block)
        model = flux[:, None, None].to(unit.dtype) * unit
        total = log_likelihood(model, image, error, good, gain)
        values = values.clone()
        values[:, _FLUX] = flux / block
        total = total + self._log_prior(values, model, norm * flux, error, good, gain, block, fwhm)
        return flux / block, torch.where(torch.isfinite(log_flux), total, -torch.inf), log_flux

    def _flux_proposal(self, unit, image, error, good, gain):
        """Normal distribution of the flux within the prior; S/N of a unit of flux to the background alone."""
        weight = good / error**2
        light = weight * unit
        power, along = _sum(light * unit), _sum(light * image)
        norm = power.clamp_min(1e-60).sqrt()
        lower, upper = self.prior.snr.lower / norm, torch.full_like(norm, torch.inf)
        if self.prior.electrons is not None:
            lower = torch.maximum(lower, self.prior.electrons.lower / gain.double())
            upper = torch.minimum(self.prior.snr.upper / norm, self.prior.electrons.upper / gain.double())
        elif gain is None:
            upper = self.prior.snr.upper / norm
        mean, power = along / power.clamp_min(1e-60), power.clamp_min(1e-60)
        if gain is not None:
            start = torch.minimum(torch.maximum(mean, lower), upper)
            mean, power = self._scoring_step(start, unit, image, error, good, gain)
        return _TruncatedNormal(mean, _STRETCH / power.sqrt(), lower, upper), norm

    @staticmethod
    def _scoring_step(flux, unit, image, error, good, gain):
        """Flux of highest likelihood, from one near it, and the information about it; with shot noise."""
        model = flux[:, None, None].to(unit.dtype) * unit
        inverse = good / variance(model, error, gain)
        residual = image - model
        growth = inverse * unit.clamp_min(0.0) / gain[:, None, None]  # of the logarithm of the variance
        light = inverse * unit
        score = _sum(residual * light + 0.5 * (residual**2 * inverse - 1.0) * growth)
        power = _sum(light * unit + 0.5 * growth**2).clamp_min(1e-60)
        return flux + score / power, power

    def _log_prior(self, values, model, background_snr, error, good, gain, block, fwhm):
        """Log prior of parameters in the network's units, by the parameters."""
        if self.prior.electrons is not None:
            return self.prior.log_prob(values, _NATIVE, background_snr, gain.double() * block)
        if gain is None:
            return self.prior.log_prob(values, _NATIVE, background_snr, psf_fwhm=fwhm)
        var = variance(model, error, gain)
        light = good * model**2 / var
        squares = _sum(light)
        shot = _sum(light * (1.0 - error**2 / var))
        slope = 1.0 - 0.5 * shot / squares.clamp_min(1e-60)  # of the logarithms of the ratio and of the flux
        return self.prior.log_prob(values, _NATIVE, squares.sqrt(), psf_fwhm=fwhm) + slope.log()


def _sum(pixels):
    return pixels.flatten(1).sum(1, dtype=torch.float64)


class _TruncatedNormal:
    """Normal distributions between bounds, double precision, shape ``(B,)``."""

    def __init__(self, mean, std, lower, upper):
        self.mean, self.std, self.lower, self.upper = mean, std, lower, upper
        low, high = (lower - mean) / std, (upper - mean) / std
        self.side = torch.where(low > 0, -1.0, 1.0).double()  # the lower tail is exact in floating point
        low, high = self.side * low, self.side * high
        self.low, self.high = torch.minimum(low, high), torch.maximum(low, high)
        self.mass = torch.special.ndtr(self.high) - torch.special.ndtr(self.low)
        log_low, log_high = torch.special.log_ndtr(self.low), torch.special.log_ndtr(self.high)
        self.log_mass = log_high + torch.log1p(-torch.exp(log_low - log_high))

    def sample(self, uniform):
        """Draw a value for each number between 0 and 1."""
        z = torch.special.ndtri(torch.special.ndtr(self.low) + self.mass * uniform)
        drawn = torch.minimum(torch.maximum(self.mean + self.std * self.side * z, self.lower), self.upper)
        return torch.where(torch.isfinite(drawn), drawn, self.lower)

    def log_prob(self, value):
        """Log density; minus infinity outside the bounds, and where there is nothing between them."""
        z = (value - self.mean) / self.std
        density = -0.5 * z**2 - 0.5 * math.log(2.0 * math.pi) - self.std.log() - self.log_mass
        inside = (value >= self.lower) & (value <= self.upper) & (self.mass > 0) & torch.isfinite(density)
        return torch.where(inside, density, -torch.inf)
