"""A cheap approximation of the exact posterior, from the wavenumbers that the PSF lets through."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from galmeasure.fitters.importance.target import STRETCH, ExactPosterior, FluxProposal
from galmeasure.fitters.problem import Problem
from galmeasure.likelihood import log_likelihood, variance
from galmeasure.networks import Window
from galmeasure.parameters import SERSIC
from galmeasure.render import render_sersic
from galmeasure.render.modes import Modes, Profiles, mode_bands, modes_of_band
from galmeasure.render.wrap import wrapped_light
from galmeasure.utils.chunks import chunk_size, rows_per_chunk

__all__ = ["FourierPosterior"]

_FLUX, _X, _Y = SERSIC.indices("flux", "x", "y")
_BANDS = (0.45, 0.525, 0.6, 0.7, 0.8, 0.9, 1.0, 1.15, 1.42)  # radii of discs of wavenumbers, over Nyquist
_TOLERANCE = 0.007  # modulus of the PSF's transform below which wavenumbers are left out
_SMALLEST = 16  # pixels a side: smaller stamps have too few wavenumbers
_CENTRAL = 10  # pixels a side of the square in which shot noise is that of each model
_LEAST_OUTSIDE = 1e-4  # share of the light outside a stamp that counts as none
_UNEVEN = 0.2  # relative scatter of the inverse variance, where the galaxy is, up to which it may be the mean


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _central_waves(shape, band, device, dtype):
    """Pixels of the central square, and cosines and sines ``(K, pixels)`` that transform a half-plane to them."""
    modes = modes_of_band(shape, band, device, dtype)
    starts = [(side - _CENTRAL) // 2 for side in shape]
    y, x = torch.meshgrid(*(torch.arange(start, start + _CENTRAL) for start in starts), indexing="ij")
    y, x = y.flatten(), x.flatten()
    offset_y, offset_x = y.double() - (shape[0] - 1) / 2.0, x.double() - (shape[1] - 1) / 2.0
    angle = modes.ky.double()[:, None] * offset_y.to(device) + modes.kx.double()[:, None] * offset_x.to(device)
    scale = modes.count.double()[:, None] / (shape[0] * shape[1])
    waves = torch.cat([scale * torch.cos(angle), -scale * torch.sin(angle)])
    return (y * shape[1] + x).to(device), waves.to(dtype)


@dataclass(frozen=True)
class _Disc:
    """Stamps that share a disc of wavenumbers.

    Parameters
    ----------
    modes : Modes
        Wavenumbers, ``K`` of them.
    psf : Tensor
        Real and imaginary part of the PSFs' transforms, shape ``(R, 2, K)``.
    slope : Tensor
        The same of the derivative of the log-likelihood by a model of zero, in the quadratic form that has the value
        and the derivative of the exact one at the reference, shape ``(R, 2, K)``.
    power : Tensor
        Weights of the squared profile in the square of the signal-to-noise ratio, shape ``(R, K)``.
    constant : Tensor
        Log-likelihood of a model of zero in that form, double precision, shape ``(R,)``.
    weight : Tensor
        Mean inverse variance without the source where the galaxy is, 0 of masked pixels, shape ``(R,)``.
    excess : Tensor
        Transform of what the unit model at the reference has too much, real and imaginary part, shape ``(R, 2, K)``:
        that is mostly light that wraps around the stamp's own period, and is taken to grow like the light outside.
    outside : Tensor
        Light outside the stamp at the reference, shape ``(R,)``.
    central : tuple of Tensor or None
        The central square of stamps with shot noise: waves, and whether a pixel counts, data, variance without the
        source, reference, its exact derivative and log-likelihood, and excess, by pixel.
    gain : Tensor or None
        Electrons per unit, shape ``(R,)``.
    """

    modes: Modes
    psf: torch.Tensor
    slope: torch.Tensor
    power: torch.Tensor
    constant: torch.Tensor
    weight: torch.Tensor
    excess: torch.Tensor
    outside: torch.Tensor
    central: tuple[torch.Tensor, ...] | None
    gain: torch.Tensor | None

    @classmethod
    def of(cls, problem: Problem, transform: Tensor, rows: Tensor, band: float, stamps: Tensor) -> Self:
        """Expand the log-likelihood of some rows of a problem about the models of parameters ``(R, 7)``."""
        image, error, good, gain = problem.data(rows)
        shape, n_pixels = problem.psf.shape, image[0].numel()
        modes = modes_of_band(shape, band, image.device, image.dtype)
        reference = _render(problem, rows, stamps)
        var = variance(reference, error, gain)
        residual = (image - reference) / var
        derivative = good * residual
        if gain is not None:
            growth = good * (reference > 0) / gain[:, None, None]
            derivative = derivative + 0.5 * growth * (residual**2 - 1.0 / var)
        weight, _ = _mean_weight(reference, error, good)
        slope = derivative + weight[:, None, None] * reference
        constant = log_likelihood(reference, image, error, good, gain)
        constant = constant - _sum((derivative + 0.5 * weight[:, None, None] * reference) * reference)
        scale = modes.count / n_pixels

        def on_modes(images):
            wave = torch.fft.rfft2(images).flatten(1)[:, modes.index] * modes.middle
            return torch.stack([wave.real, wave.imag], 1)

        psf = transform.flatten(1)[problem.psf_index[rows][:, None], modes.index]
        power = psf.abs() ** 2 * scale * weight[:, None]
        psf = torch.stack([psf.real, psf.imag], 1)
        profiles = Profiles.of(stamps.to(image.dtype))
        outside = profiles.light_outside(shape, derivatives=False)
        wrapped = wrapped_light(stamps.to(image.dtype), profiles.form, profiles.scales(), shape, shape, False)[:, 0]
        excess = on_modes(wrapped - outside[:, :, None] / n_pixels)
        central = None
        if gain is not None:
            pixels, waves = _central_waves(shape, band, image.device, image.dtype)
            columns = (good.to(image.dtype), image, error.expand_as(image) ** 2, reference, derivative)
            columns = [column.flatten(1)[:, pixels] for column in columns]
            log_like = -0.5 * (residual**2 * var + torch.log(var)).flatten(1)[:, pixels]
            central = (waves, *columns, log_like, excess.flatten(1) @ waves)
        return cls(modes, psf, on_modes(slope) * scale, power, constant, weight, excess, outside[:, 0], central, gain)

    def of_rows(self, rows: Tensor) -> "_Disc":
        """Return some of the stamps."""
        names = ("psf", "slope", "power", "constant", "weight", "excess", "outside")
        columns = [getattr(self, name)[rows] for name in names]
        central = None if self.central is None else (self.central[0], *(column[rows] for column in self.central[1:]))
        return _Disc(self.modes, *columns, central, None if self.gain is None else self.gain[rows])

    def project(self, stamps: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Sums over the wavenumbers of unit models of parameters ``(R, S, 7)``, and their central pixels.

        Returns
        -------
        along, power : Tensor
            Products of the models with the slope and, weighted, with themselves, double precision, ``(R, S)``.
        pixels : Tensor or None
            Models in the central square, shape ``(R, S, pixels)``.
        """
        value, wave, outside = _unit_models(self.modes, self.psf, stamps)
        scale = self.weight[:, None, None] * self.modes.count / (self.modes.shape[0] * self.modes.shape[1])
        slope, excess = self.slope.flatten(1), self.excess.flatten(1)
        weighted = (self.excess * scale).flatten(1)
        along, cross = torch.bmm(wave, torch.stack([slope, weighted], 2)).double().unbind(-1)
        power = torch.bmm(value.square_(), self.power[:, :, None])[..., 0].double()
        share = (outside + _LEAST_OUTSIDE) / (self.outside[:, None] + _LEAST_OUTSIDE)
        amount = share.double()
        along = along - amount * (slope * excess).sum(1, dtype=torch.float64)[:, None]
        power = power - amount * (2.0 * cross - amount * (weighted * excess).sum(1, dtype=torch.float64)[:, None])
        if self.central is None:
            return along, power, None
        pixels = (wave.flatten(0, 1) @ self.central[0]).unflatten(0, stamps.shape[:2])
        return along, power, torch.addcmul(pixels, share[..., None], self.central[-1][:, None], value=-1.0)

    def flux_proposal(self, along, power, pixels):
        """Mean and standard deviation ``(R, S)`` of the flux given the other parameters, without the prior."""
        if pixels is not None:
            _, good, _, background, reference, *_ = self.central
            inverse = 1.0 / (background + reference.clamp_min(0.0) / self.gain[:, None])
            excess = good * (inverse + 0.5 * (inverse / self.gain[:, None]) ** 2) - self.weight[:, None]
            along = along + (pixels * (excess * reference)[:, None]).sum(-1, dtype=torch.float64)
            power = power + (pixels**2 * excess[:, None]).sum(-1, dtype=torch.float64)
        power = power.clamp_min(1e-60)
        return along / power, power.rsqrt()

    def shot_noise(self, flux, pixels):
        """What shot noise adds to the log-likelihood, the square of the S/N and its part that slows its growth."""
        good, data, background, reference, derivative, log_like, _ = (column[:, None] for column in self.central[1:])
        model = flux.to(pixels.dtype)[..., None] * pixels
        var = background + model.clamp_min(0.0) / self.gain[:, None, None]
        away, weight = model - reference, self.weight[:, None, None]
        exact = -0.5 * ((data - model) ** 2 / var + torch.log(var))
        total = good * (exact - log_like) - away * (derivative - 0.5 * weight * away)
        light = model**2
        squares = (light * (good / var - weight)).sum(-1, dtype=torch.float64)
        shot = (good * light / var * (1.0 - background / var)).sum(-1, dtype=torch.float64)
        return total.sum(-1, dtype=torch.float64), squares, shot


def _unit_models(modes, psf, stamps):
    """Profiles, transforms about the middle of the stamp (real parts, imaginary parts), and light outside of models."""
    count, (ny, nx), dtype = stamps.shape[:2], modes.shape, psf.dtype
    flat = stamps.flatten(0, 1)
    y, x = ((flat[:, axis, None] - (side - 1) / 2.0).to(dtype) for axis, side in ((_Y, ny), (_X, nx)))
    profiles = Profiles.of(flat.to(dtype))
    value, outside = profiles.value_on_modes(modes), profiles.light_outside(modes.shape, derivatives=False)[:, 0]
    value[:, 0] -= outside
    angle = torch.addcmul(y * modes.ky, x, modes.kx)
    cosine, sine = (wave.mul_(value).unflatten(0, count) for wave in (torch.cos(angle), torch.sin(angle)))
    real, imag = psf[:, None, 0], psf[:, None, 1]
    wave = cosine.new_empty(*count, 2, cosine.shape[-1])
    torch.addcmul(cosine * real, sine, imag, out=wave[:, :, 0])
    torch.addcmul(cosine * imag, sine, real, value=-1.0, out=wave[:, :, 1])
    return value.unflatten(0, count), wave.flatten(2), outside.unflatten(0, count)


class FourierPosterior:
    """Approximate posterior density of the rows of a batch whose noise is nearly the same wherever the galaxy is.

    Parameters
    ----------
    exact : ExactPosterior
        Posterior that is approximated.
    rows : ndarray of int64
        Rows of the batch for which the approximation is made, if they can have one.
    window : Window
        Where the network's pixels lie on these rows.
    reference : Tensor
        Parameters about which the likelihood is expanded, in the network's units and pixels, shape ``(R, 7)``.

    Attributes
    ----------
    has_row : dict
        Rows that have an approximation.

    Notes
    -----
    With ``m0`` the exact model at the reference, ``g`` the derivative of the exact log-likelihood by its pixels and
    ``w`` the mean inverse variance without the source, weighted with ``m0**2`` and 0 where pixels are masked, the
    log-likelihood of a model ``m`` is taken to be

        L(m0) + sum g (m - m0) - w/2 sum (m - m0)**2,

    whose sums are those over the wavenumbers of the stamp where the PSF has power (Parseval). In a central square,
    where shot noise matters, the terms of the sums are replaced by the exact ones. What wraps around the stamp's own
    period has the pattern that it has at the reference.
    """

    def __init__(self, exact: ExactPosterior, rows: NDArray[np.int64], window: Window, reference: Tensor) -> None:
        self._exact = exact
        self.prior, self.device = exact.prior, exact.device
        self._discs: list[_Disc] = []
        self.has_row: dict[int, tuple[int, int]] = {}
        stamps = window.to_stamp(reference)
        for group in exact.groups:
            problem, members = group.problem, np.flatnonzero(np.isin(rows, group.rows))
            if min(problem.psf.shape) < _SMALLEST or not len(members):
                continue
            local = torch.from_numpy(np.searchsorted(group.rows, rows[members])).to(self.device)
            usable = torch.isfinite(stamps[members]).all(1)
            usable[usable.clone()] = _is_regular(problem, local[usable], stamps[members][usable])
            bands = mode_bands(group.psf_on_stamp, problem.psf.shape, _BANDS, _TOLERANCE)[problem.psf_index[local]]
            for position in bands[usable].unique().tolist():
                chosen = torch.nonzero(usable & (bands == position))[:, 0]
                models = stamps[members][chosen]
                disc = _Disc.of(problem, group.psf_on_stamp, local[chosen], _BANDS[position], models)
                of_disc = enumerate(rows[members][chosen.cpu().numpy()])
                self.has_row.update({int(row): (len(self._discs), index) for index, row in of_disc})
                self._discs.append(disc)

    def evaluate(
        self, rows: NDArray[np.int64], window: Window, values: Tensor, uniform: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log posterior density of parameters, and a proposal of the flux, as `ExactPosterior.evaluate`."""
        values = values.clone()
        log_densities = torch.empty((2, *values.shape[:2]), dtype=torch.float64, device=values.device)
        fwhm = self._exact.psf_fwhm(rows) / window.block
        stamps = window.to_stamp(values)
        places = np.array([self.has_row[int(row)] for row in rows])
        for number in np.unique(places[:, 0]):
            chosen = np.flatnonzero(places[:, 0] == number)
            disc = self._discs[number]
            size = rows_per_chunk("Fourier temporaries", values.shape[1] * len(disc.modes.index), str(self.device))
            for start in range(0, len(chosen), size):
                members = torch.from_numpy(chosen[start : start + size]).to(values.device)
                index = torch.from_numpy(places[chosen[start : start + size], 1]).to(values.device)
                numbers = None if uniform is None else uniform[members]
                values[members], *found = self._evaluate_stamps(
                    disc.of_rows(index), window.block, values[members], stamps[members], fwhm[members], numbers
                )
                log_densities[:, members] = torch.stack(found)
        return values, log_densities[0], log_densities[1]

    def _evaluate_stamps(self, disc, block, values, stamps, fwhm, uniform):
        along, power, pixels = disc.project(stamps)
        norm = power.clamp_min(1e-60).sqrt()
        gain = None if disc.gain is None else disc.gain[:, None].expand_as(norm)
        mean, std = disc.flux_proposal(along, power, pixels)
        proposal = FluxProposal(mean, STRETCH * std, *self._exact.flux_bounds(norm, gain))
        flux = block * values[..., _FLUX] if uniform is None else proposal.sample(uniform)
        log_flux = proposal.log_prob(flux) + np.log(block)
        total = disc.constant[:, None] + flux * (along - 0.5 * flux * power)
        signal, shot = norm * flux, None
        if gain is not None:
            extra, squares, shot = disc.shot_noise(flux, pixels)
            total = total + extra
            if self.prior.electrons is None:
                signal = signal**2 + squares
        values = values.clone()
        values[..., _FLUX] = flux / block
        flat = [None if column is None else column.flatten(0, 1) for column in (values, signal, shot, gain)]
        width = fwhm[:, None].expand_as(norm).flatten()
        total = total + self._exact.log_prior(*flat, block, width).view_as(total)
        return values, torch.where(torch.isfinite(log_flux), total, -torch.inf), log_flux


def _mean_weight(reference, error, good):
    """Mean inverse variance, weighted with the square of the galaxy's light, and its relative scatter, ``(R,)``."""
    weight, light = (good / error**2).flatten(1), reference.flatten(1) ** 2
    light = light / light.sum(1, keepdim=True).clamp_min(1e-30)
    mean = (light * weight).sum(1)
    scatter = (light * (weight - mean[:, None]) ** 2).sum(1).sqrt()
    return mean, scatter / mean.clamp_min(1e-30)


def _is_regular(problem, rows, parameters):
    """Stamps with nearly the same noise wherever the galaxy is, boolean ``(R,)``."""
    if not len(rows):
        return torch.zeros(0, dtype=torch.bool, device=rows.device)
    _, error, good, _ = problem.data(rows)
    _, scatter = _mean_weight(_render(problem, rows, parameters), error, good)
    return scatter < _UNEVEN


def _render(problem, rows, parameters):
    """Exact models ``(R, ny, nx)`` of some rows of a problem."""
    size = chunk_size("posterior models", problem.image.device.type)
    chunks = zip(rows.split(size), parameters.to(problem.image.dtype).split(size), strict=True)
    return torch.cat([render_sersic(values, problem.psf, problem.psf_index[index]) for index, values in chunks])


def _sum(pixels):
    return pixels.flatten(1).sum(1, dtype=torch.float64)
