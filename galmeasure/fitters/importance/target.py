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
from galmeasure.render.sersic import is_narrow_ridge
from galmeasure.utils.chunks import chunk_size
from galmeasure.utils.compiled import compiled_module

__all__ = ["STRETCH", "ExactPosterior", "FluxProposal", "PixelSums"]

_FLUX = SERSIC.index("flux")
STRETCH = 1.1  # of the proposal of the flux
_LARGER = 4  # times as many wavenumbers has the grid of narrow ridges
_NATIVE = (NATIVE_SIZE, NATIVE_SIZE)
_LOOPS = "galmeasure.fitters.importance.compiled_target"
_NO_GAIN = np.empty(0, np.float32)
_LEAST_POWER = 1e-60  # so that nothing is divided by zero
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
        self.groups = list(groups(tensors, on_stamp=True))
        for group in self.groups:
            self._problems.update({int(row): (group.problem, index) for index, row in enumerate(group.rows)})

    def psf_fwhm(self, rows: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """Width of the PSFs of some rows before the pixel's response, in pixels of the stamp."""
        return self._fwhm[torch.as_tensor(np.asarray(rows), device=self._fwhm.device)]

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
        return self._evaluate(rows, window, values, uniform, True)

    def _evaluate(self, rows, window, values, uniform, propose):
        values = values.clone()
        shape = values.shape[:2]
        log_like, log_flux, signal, shot = values.new_zeros((4, *shape))
        gain = values.new_ones(len(values))
        problems = [self._problems[int(row)] for row in rows]
        stamps = window.to_stamp(values)
        for problem in {id(problem): problem for problem, _ in problems}.values():
            chosen = [index for index, (owner, _) in enumerate(problems) if owner is problem]
            local = torch.tensor([problems[index][1] for index in chosen], device=values.device)
            if problem.gain is not None:
                gain[chosen] = problem.gain[local].double()
            pairs = torch.tensor(chosen, device=values.device).repeat_interleave(shape[1])
            local = local.repeat_interleave(shape[1])
            draws = torch.arange(shape[1], device=values.device).repeat(len(chosen))
            for models in self._chunks(stamps[pairs, draws], problem):
                index = pairs[models], draws[models]
                number = None if uniform is None else uniform[index]
                found = self._evaluate_models(
                    problem, local[models], window.block, values[index], stamps[index], number, propose
                )
                values[(*index, _FLUX)], log_like[index], log_flux[index], signal[index], shot[index] = found
        has_gain = problems[0][0].gain is not None
        # of all models at once: there are many small operations in a prior
        numbers = (column[:, None].expand(shape).flatten() for column in (gain, self.psf_fwhm(rows) / window.block))
        gains, fwhm = numbers
        with_shot = has_gain and self.prior.electrons is None
        log_prior = self.log_prior(
            values.flatten(0, 1), signal.flatten(), shot.flatten() if with_shot else None, gains if has_gain else None,
            window.block, fwhm,
        )  # fmt: skip
        total = torch.where(torch.isfinite(log_flux), log_like + log_prior.view(shape), -torch.inf)
        return values, total, log_flux

    def log_density(self, rows: NDArray[np.int64], window: Window, values: Tensor) -> Tensor:
        """Log posterior density of one set of parameters for each of some rows.

        Parameters
        ----------
        rows : ndarray of int64
            Rows of the batch, ``R``; the same one may occur again.
        window : Window
            Where the network's pixels lie on these rows.
        values : Tensor
            Parameters in the units and pixels of the network, double precision, shape ``(R, 7)``.

        Returns
        -------
        Tensor
            By the parameters, not normalised, shape ``(R,)``; minus infinity outside the prior.
        """
        return self._evaluate(rows, window, values[:, None], None, False)[1][:, 0]

    def _chunks(self, stamps, problem):
        """Models that are rendered together: those that need a larger grid come last, by themselves."""
        is_wide = is_narrow_ridge(stamps, problem.psf.padded)
        size = chunk_size("posterior models", self.device)
        for models, count in ((torch.nonzero(~is_wide)[:, 0], size), (torch.nonzero(is_wide)[:, 0], size // _LARGER)):
            if len(models):
                yield from models.split(count)

    def _evaluate_models(self, problem, local, block, values, stamps, uniform, propose):
        """Fluxes, log-likelihoods, log densities of the fluxes in their proposal, and what `log_prior` takes."""
        of_unit_flux = stamps.to(problem.image.dtype)
        of_unit_flux[:, _FLUX] = 1.0
        unit = render_sersic(of_unit_flux, problem.psf, problem.psf_index[local])
        loops = compiled_module(_LOOPS, unit)
        sums = PixelSums(problem, local, unit) if loops is None else _CompiledSums(loops, problem, local, unit)
        flux, gain = block * values[:, _FLUX], None if problem.gain is None else problem.gain[local]
        log_flux = torch.zeros_like(flux)
        of_background = self.prior.electrons is not None or gain is None  # is the ratio of the prior
        if propose or of_background:
            along, power = sums.products()
        if propose:
            proposal = self._flux_proposal(along, power, sums, gain)
            # one unit of the network's flux is as many of the stamp's as a block has pixels along its side
            flux = flux if uniform is None else proposal.sample(uniform)
            log_flux = proposal.log_prob(flux) + math.log(block)
        log_like, squares, shot = sums.terms(flux)
        if of_background:
            squares, shot = power.sqrt() * flux, torch.zeros_like(flux)
        return flux / block, log_like, log_flux, squares, shot

    def _flux_proposal(self, along, power, sums, gain):
        """Normal distribution of the flux within the prior, from the products without shot noise."""
        lower, upper = self.flux_bounds(power.sqrt(), gain)
        mean = along / power
        if gain is not None:
            start = torch.minimum(torch.maximum(mean, lower), upper)
            score, power = sums.scoring(start)
            mean = start + score / power
        return FluxProposal(mean, STRETCH / power.sqrt(), lower, upper)

    def flux_bounds(self, norm: Tensor, gain: Tensor | None) -> tuple[Tensor, Tensor]:
        """Bounds between which the prior allows the flux, in the unit of the stamps.

        Parameters
        ----------
        norm : Tensor
            Signal-to-noise ratio of a unit of flux to the background alone, shape ``(B,)``.
        gain : Tensor or None
            Electrons per unit, shape ``(B,)``.
        """
        lower, upper = self.prior.snr.lower / norm, torch.full_like(norm, torch.inf)
        if self.prior.electrons is not None:
            lower = torch.maximum(lower, self.prior.electrons.lower / gain.double())
            upper = torch.minimum(self.prior.snr.upper / norm, self.prior.electrons.upper / gain.double())
        elif gain is None:
            upper = self.prior.snr.upper / norm
        return lower, upper

    def log_prior(
        self, values: Tensor, signal: Tensor, shot: Tensor | None, gain: Tensor | None, block: int, fwhm: Tensor
    ) -> Tensor:
        """Log prior of parameters in the network's units, by the parameters.

        Parameters
        ----------
        values : Tensor
            Parameters in the units and pixels of the network, shape ``(B, 7)``.
        signal : Tensor
            Signal-to-noise ratio to the background alone, shape ``(B,)``; its square, shot noise included, if ``shot``
            is given.
        shot : Tensor or None
            Part of this square that shot noise takes from the slope by the flux; None where that does not matter.
        gain : Tensor or None
            Electrons per unit of the stamp, shape ``(B,)``.
        block : int
            Pixels of the stamp along each side of one of the network's.
        fwhm : Tensor
            Width of the PSFs before the pixel's response, in the network's pixels, shape ``(B,)``.
        """
        if self.prior.electrons is not None:
            return self.prior.log_prob(values, _NATIVE, signal, gain.double() * block)
        if shot is None:
            return self.prior.log_prob(values, _NATIVE, signal, psf_fwhm=fwhm)
        slope = 1.0 - 0.5 * shot / signal.clamp_min(1e-60)  # of the logarithms of the ratio and of the flux
        return self.prior.log_prob(values, _NATIVE, signal.sqrt(), psf_fwhm=fwhm) + slope.log()


class PixelSums:
    """Sums over pixels of models and of the stamps of some rows of a problem, double precision.

    Parameters
    ----------
    problem : Problem
        Least-squares problem that holds the stamps.
    local : Tensor
        Row of the problem to which each model belongs, shape ``(M,)``.
    unit : Tensor
        Models of unit flux, shape ``(M, ny, nx)``.
    """

    def __init__(self, problem: Problem, local: Tensor, unit: Tensor) -> None:
        self._unit, (self._image, self._error, self._good, self._gain) = unit, problem.data(local)

    def products(self) -> tuple[Tensor, Tensor]:
        """Products of the models with the data and with themselves, weighted without shot noise."""
        light = (self._good / self._error**2 * self._unit).flatten(1)[:, None]
        along, power = (torch.bmm(light, other.flatten(1)[:, :, None])[:, 0, 0].double()
                        for other in (self._image, self._unit))  # fmt: skip
        return along, power.clamp_min(_LEAST_POWER)

    def scoring(self, flux: Tensor) -> tuple[Tensor, Tensor]:
        """Derivative of the log-likelihood by the flux, and the information about it, with shot noise."""
        model = self._model(flux)
        inverse = self._good / variance(model, self._error, self._gain)
        residual = self._image - model
        growth = inverse * self._unit.clamp_min(0.0) / self._gain[:, None, None]  # of the logarithm of the variance
        light = inverse * self._unit
        score = _sum(residual * light + 0.5 * (residual**2 * inverse - 1.0) * growth)
        return score, _sum(light * self._unit + 0.5 * growth**2).clamp_min(_LEAST_POWER)

    def terms(self, flux: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Log-likelihood, square of the signal-to-noise ratio, and the part of this that slows its growth."""
        model = self._model(flux)
        log_like = log_likelihood(model, self._image, self._error, self._good, self._gain)
        if self._gain is None:
            return log_like, None, None
        var = variance(model, self._error, self._gain)
        light = self._good * model**2 / var
        return log_like, _sum(light), _sum(light * (1.0 - self._error**2 / var))

    def _model(self, flux):
        return flux[:, None, None].to(self._unit.dtype) * self._unit


class _CompiledSums:
    """The same sums by compiled loops, which need no copies of the stamps."""

    def __init__(self, loops, problem, local, unit):
        maps = (maps.flatten(1) for maps in (problem.image, problem.error, problem.good))
        columns = unit.flatten(1), local, *maps
        self._loops, self._arrays = loops, [column.contiguous().numpy() for column in columns]
        self._gain = None if problem.gain is None else problem.gain.numpy()

    def products(self):
        """Do the same as `PixelSums.products`."""
        along, power = self._run(self._loops.products, 2)
        return along, power.clamp_min(_LEAST_POWER)

    def scoring(self, flux):
        """Do the same as `PixelSums.scoring`."""
        score, power = self._run(self._loops.scoring_sums, 2, flux)
        return score, power.clamp_min(_LEAST_POWER)

    def terms(self, flux):
        """Do the same as `PixelSums.terms`."""
        return self._run(self._loops.likelihood_terms, 3, flux)

    def _run(self, loop, n_columns, *flux):
        out = np.empty((len(self._arrays[0]), n_columns))
        flux = [column.contiguous().numpy() for column in flux]
        gain = [_NO_GAIN if self._gain is None else self._gain] if flux else []
        loop(*flux, *self._arrays, *gain, out)
        return torch.from_numpy(out).unbind(1)


def _sum(pixels):
    return pixels.flatten(1).sum(1, dtype=torch.float64)


class FluxProposal:
    """Normal distributions of fluxes between bounds.

    Parameters
    ----------
    mean, std, lower, upper : Tensor
        Before they are cut off, and where, double precision, shape ``(B,)``.
    """

    def __init__(self, mean: Tensor, std: Tensor, lower: Tensor, upper: Tensor) -> None:
        self.mean, self.std, self.lower, self.upper = mean, std, lower, upper
        low, high = (lower - mean) / std, (upper - mean) / std
        self.side = torch.where(low > 0, -1.0, 1.0).double()  # the lower tail is exact in floating point
        low, high = self.side * low, self.side * high
        self.low, self.high = torch.minimum(low, high), torch.maximum(low, high)
        self.mass = torch.special.ndtr(self.high) - torch.special.ndtr(self.low)
        log_low, log_high = torch.special.log_ndtr(self.low), torch.special.log_ndtr(self.high)
        self.log_mass = log_high + torch.log1p(-torch.exp(log_low - log_high))

    def sample(self, uniform: Tensor) -> Tensor:
        """Draw a value for each number between 0 and 1."""
        z = torch.special.ndtri(torch.special.ndtr(self.low) + self.mass * uniform)
        drawn = torch.minimum(torch.maximum(self.mean + self.std * self.side * z, self.lower), self.upper)
        return torch.where(torch.isfinite(drawn), drawn, self.lower)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density; minus infinity outside the bounds, and where there is nothing between them."""
        z = (value - self.mean) / self.std
        density = -0.5 * z**2 - 0.5 * math.log(2.0 * math.pi) - self.std.log() - self.log_mass
        inside = (value >= self.lower) & (value <= self.upper) & (self.mass > 0) & torch.isfinite(density)
        return torch.where(inside, density, -torch.inf)
