"""A cheap approximation of the exact posterior, from the wavenumbers that the PSF lets through."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from galmeasure.fitters.importance.local_correction import LocalCorrection, information
from galmeasure.fitters.importance.target import STRETCH, ExactPosterior, FluxProposal
from galmeasure.fitters.problem import Problem
from galmeasure.likelihood import log_likelihood, variance
from galmeasure.networks import Window
from galmeasure.parameters import SERSIC
from galmeasure.render import render_sersic
from galmeasure.render.modes import Modes, Profiles, compiled_table, mode_bands, modes_of_band
from galmeasure.render.sersic import KAPPA_MIN
from galmeasure.render.wrap import wrapped_light
from galmeasure.utils.chunks import chunk_size, rows_per_chunk
from galmeasure.utils.compiled import compiled_module

__all__ = ["FourierPosterior"]

_FLUX, _X, _Y = SERSIC.indices("flux", "x", "y")
_BANDS = (0.45, 0.525, 0.6, 0.7, 0.8, 0.9, 1.0, 1.15, 1.42)  # radii of discs of wavenumbers, over Nyquist
_TOLERANCE = 0.015  # modulus of the PSF's transform below which wavenumbers are left out
_SMALLEST = 16  # pixels a side: smaller stamps have too few wavenumbers
_CENTRAL = 10  # pixels a side of the square in which shot noise is that of each model
_BRIGHT, _UNEVEN = 60.0, 1e-3  # S/N, and scatter of the inverse variance, from which a correction is worth its time
_LOOPS = "galmeasure.fitters.importance.compiled"
_LEAST_OUTSIDE = 1e-4  # share of the light outside a stamp that counts as none


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _central_waves(shape, band, device, dtype):
    """Pixels of the central square, and cosines and sines ``(K, pixels)`` that transform a half-plane to them."""
    modes = _modes(shape, band, device, dtype)
    starts = [(side - _CENTRAL) // 2 for side in shape]
    y, x = torch.meshgrid(*(torch.arange(start, start + _CENTRAL) for start in starts), indexing="ij")
    y, x = y.flatten(), x.flatten()
    offset_y, offset_x = y.double() - (shape[0] - 1) / 2.0, x.double() - (shape[1] - 1) / 2.0
    angle = modes.ky.double()[:, None] * offset_y.to(device) + modes.kx.double()[:, None] * offset_x.to(device)
    scale = modes.count.double()[:, None] / (shape[0] * shape[1])
    waves = torch.cat([scale * torch.cos(angle), -scale * torch.sin(angle)])
    return (y * shape[1] + x).to(device), waves.to(dtype)


def _modes(shape, band, device, dtype):
    """Wavenumbers within a disc; in full lines where compiled loops may work on them."""
    return modes_of_band(shape, band, device, dtype, full_lines=torch.device(device).type == "cpu")


@lru_cache(maxsize=64)
def central_square(
    shape: tuple[int, int], orders: tuple[int, ...], n_columns: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Transform from wavenumbers in full lines to the central square, one axis after the other.

    Parameters
    ----------
    shape : tuple of int
        Sides of the stamp ``(ny, nx)``, pixels.
    orders : tuple of int
        Orders of the rows of the lines.
    n_columns : int
        Number of columns of the longest one.

    Returns
    -------
    waves_y : ndarray
        Cosines, then sines, of the products of these orders with distances in y from the middle, shape
        ``(2 distances, rows)``, filled up with zeros to whole blocks of `galmeasure.utils.compiled_math.multiply`.
    waves_x : ndarray
        Twice the cosines, then sines, per pixel, of the products of columns with the places in x, one column for each
        place, shape ``(2 n_columns, places)``, filled up as well.
    square : ndarray
        Number of the distance of each place in y, and its sign, shape ``(places, 2)``.
    """
    offset_y, offset_x = ((side - _CENTRAL) // 2 + np.arange(_CENTRAL) - (side - 1) / 2.0 for side in shape)
    distances, number = np.unique(np.abs(offset_y), return_inverse=True)
    angle = 2.0 * np.pi / shape[0] * np.outer(distances, orders)
    waves_y = np.zeros((2, 6, len(orders) + -len(orders) % 4), np.float32)
    waves_y[0, : len(angle), : len(orders)], waves_y[1, : len(angle), : len(orders)] = np.cos(angle), np.sin(angle)
    angle = 2.0 * np.pi / shape[1] * np.outer(np.arange(n_columns), offset_x)
    waves_x = np.zeros((2 * n_columns, 16), np.float32)
    waves_x[:, :_CENTRAL] = np.concatenate([np.cos(angle), -np.sin(angle)]) * (2.0 / (shape[0] * shape[1]))
    return waves_y.reshape(12, -1), waves_x, np.stack([number, np.where(offset_y < 0, -1, 1)], 1).astype(np.int64)


@dataclass(frozen=True)
class _Disc:
    """Stamps that share a disc of wavenumbers.

    Parameters
    ----------
    modes : Modes
        Wavenumbers, ``K`` of them.
    psf : Tensor
        Real and imaginary part of the PSFs' transforms, shape ``(R, 2, K)``.
    flux : Tensor
        Flux of the reference, double precision, shape ``(R,)``.
    wave : Tensor
        Transform of the unit model at the reference on the stamp's own period, real and imaginary parts, ``(R, 2 K)``.
    excess : Tensor
        What this has too much, shape ``(R, 2 K)``: that is mostly light that wraps around the period, and is taken to
        grow like the light outside.
    outside : Tensor
        Light outside the stamp at the reference, shape ``(R,)``.
    patterns : Tensor
        Waves whose products with a displacement are its sums over pixels with the derivative of the exact
        log-likelihood, with the weighted model at the reference, and with the images of the correction, if there is
        one, ``(R, 2 or 9, 2 K)``.
    products : Tensor
        The same products of the unit model at the reference, double precision, shape ``(R, 2 or 9)``.
    constant : Tensor
        Exact log-likelihood of the reference, double precision, shape ``(R,)``.
    weight : Tensor
        Mean inverse variance where the galaxy is, 0 of masked pixels, shape ``(R,)``.
    central : tuple of Tensor or None
        The central square of stamps with shot noise: waves, and whether a pixel counts, data, variance without the
        source, reference, its exact derivative and log-likelihood, by pixel.
    gain : Tensor or None
        Electrons per unit, shape ``(R,)``.
    correction : LocalCorrection or None
        Gradient and curvature that the form lacks.
    """

    modes: Modes
    psf: torch.Tensor
    flux: torch.Tensor
    wave: torch.Tensor
    excess: torch.Tensor
    outside: torch.Tensor
    patterns: torch.Tensor
    products: torch.Tensor
    constant: torch.Tensor
    weight: torch.Tensor
    central: tuple[torch.Tensor, ...] | None
    gain: torch.Tensor | None
    correction: LocalCorrection | None = None

    @classmethod
    def of(
        cls,
        problem: Problem,
        transform: Tensor,
        rows: Tensor,
        band: float,
        stamps: Tensor,
        reference: Tensor,
        *,
        is_corrected: bool,
    ) -> Self:
        """Expand the log-likelihood of some rows of a problem about the models of parameters ``(R, 7)``."""
        image, error, good, gain = problem.data(rows)
        shape, n_pixels = problem.psf.shape, image[0].numel()
        modes = _modes(shape, band, image.device, image.dtype)
        _, derivative = information(problem, rows, reference)
        weight = _mean_weight(reference, good / variance(reference, error, gain))
        scale = modes.count / n_pixels

        def on_modes(images):
            wave = torch.fft.rfft2(images).flatten(1)[:, modes.index] * modes.middle
            return torch.stack([wave.real, wave.imag], 1) * (modes.count > 0)

        psf = transform.flatten(1)[problem.psf_index[rows][:, None], modes.index]
        psf = torch.stack([psf.real, psf.imag], 1) * (modes.count > 0)
        wave, outside = (column.squeeze(1) for column in _unit_models(modes, psf, stamps[:, None]))
        profiles = Profiles.of(stamps.to(image.dtype))
        of_profile = stamps.to(image.dtype), profiles.form, profiles.b_and_amplitude
        wrapped = wrapped_light(*of_profile, shape, shape, False)[:, 0]
        excess = on_modes(wrapped - outside[:, None, None] / n_pixels).flatten(1)
        unit = wave - excess
        patterns = torch.stack([(on_modes(derivative) * scale).flatten(1), _weighted(unit, weight, scale)], 1)
        central, pixels = None, None
        if gain is not None:
            pixels, waves = _central_waves(shape, band, image.device, image.dtype)
            var = variance(reference, error, gain)
            log_like = -0.5 * ((image - reference) ** 2 / var + torch.log(var))
            maps = (good.to(image.dtype), image, error.expand_as(image) ** 2, reference, derivative, log_like)
            central = (waves, *(pixel_map.flatten(1)[:, pixels] for pixel_map in maps))
        constant = log_likelihood(reference, image, error, good, gain)
        products = _sums(unit[:, None], patterns).squeeze(1)
        disc = cls(
            modes, psf, stamps[:, _FLUX], wave, excess, outside, patterns, products, constant, weight, central, gain
        )
        return disc._corrected(problem, rows, stamps, pixels) if is_corrected else disc

    def _corrected(self, problem, rows, stamps, pixels):
        """Return this with the gradient and curvature of the exact log-likelihood at the reference."""

        def cheap(span, moved):
            some = self.of_rows(torch.arange(span.start, span.stop, device=rows.device))
            return some.log_likelihood(moved[..., _FLUX], some.project(moved))[0]

        waves, correction = LocalCorrection.of(problem, rows, stamps, self.modes, self.weight, pixels, cheap)
        patterns = torch.cat([self.patterns, waves], 1)
        products = _sums((self.wave - self.excess)[:, None], patterns).squeeze(1)
        return replace(self, patterns=patterns, products=products, correction=correction)

    def of_rows(self, rows: Tensor) -> "_Disc":
        """Return some of the stamps."""
        names = ("psf", "flux", "wave", "excess", "outside", "patterns", "products", "constant", "weight")
        columns = [getattr(self, name)[rows] for name in names]
        central = None if self.central is None else (self.central[0], *(column[rows] for column in self.central[1:]))
        gain = None if self.gain is None else self.gain[rows]
        correction = None if self.correction is None else self.correction.of_rows(rows)
        return _Disc(self.modes, *columns, central, gain, correction)

    def project(self, stamps: Tensor) -> "_Projection":
        """Sums over the wavenumbers of unit models of parameters ``(R, S, 7)``, and their central pixels."""
        loops = compiled_module(_LOOPS, self.psf)
        if loops is not None:
            return self._project_compiled(loops, stamps)
        away, outside = _unit_models(self.modes, self.psf, stamps)
        share = (outside + _LEAST_OUTSIDE) / (self.outside[:, None] + _LEAST_OUTSIDE)
        away.sub_(self.wave[:, None])  # what is small must be small before it is squared
        away.addcmul_((1.0 - share)[..., None], self.excess[:, None])
        sums = _sums(away, self.patterns)
        pixels = None
        if self.central is not None:
            pixels = (away.flatten(0, 1) @ self.central[0]).unflatten(0, stamps.shape[:2])
            pixels = pixels + (self.central[4] / self.flux[:, None].to(pixels.dtype))[:, None]
        scale = self.modes.count / (self.modes.shape[0] * self.modes.shape[1])
        square = (away.square_() @ torch.cat([scale, scale])).double() * self.weight[:, None]
        return _Projection(sums, square, pixels)

    def _project_compiled(self, loops, stamps):
        """Do the same as `project` in one pass over the wavenumbers for each draw."""
        modes, (ny, nx), (count, size) = self.modes, self.modes.shape, stamps.shape[:2]
        flat = stamps.flatten(0, 1)
        profiles = Profiles.of(flat.to(self.psf.dtype))
        outside = profiles.light_outside(modes.shape, derivatives=False)[:, 0]
        offset = flat[:, [_Y, _X]] - flat.new_tensor([(ny - 1) / 2.0, (nx - 1) / 2.0])
        draws = profiles.rows[:, 0], profiles.weights[:, 0], profiles.form, offset, outside
        draws = [column.contiguous().unflatten(0, (count, size)).numpy() for column in draws]
        constants = modes.lines, modes.forms.contiguous().numpy(), (modes.count / (ny * nx)).numpy()
        steps = 2.0 * np.pi / ny, 2.0 * np.pi / nx, KAPPA_MIN**2
        _, lengths, orders, _ = modes.lines.T.tolist()
        square = central_square(modes.shape, tuple(orders), max(lengths))
        patterns = self.patterns.numpy()
        references = self.psf.numpy(), self.wave.numpy(), self.excess.numpy(), self.outside.numpy()
        squares, sums = np.empty((count, size)), np.empty((count, size, patterns.shape[1]))
        shape = (count, 0, 0, 0) if self.central is None else (count, size, _CENTRAL, _CENTRAL)
        pixels = np.empty(shape, np.float32)
        for row in range(count):
            loops.projections(
                compiled_table(), *(array[row] for array in draws), *constants, *steps,
                *(array[row] for array in references), _LEAST_OUTSIDE, patterns[row], *square,
                squares[row], sums[row], pixels[row],
            )  # fmt: skip
        central = None
        if self.central is not None:
            central = torch.from_numpy(pixels).flatten(2)
            central += (self.central[4] / self.flux[:, None].to(central.dtype))[:, None]
        return _Projection(torch.from_numpy(sums), torch.from_numpy(squares) * self.weight[:, None], central)

    def log_likelihood(self, flux: Tensor, projection: "_Projection") -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Approximate log-likelihood of models, and what shot noise changes in their S/N.

        Parameters
        ----------
        flux : Tensor
            Fluxes of the models, double precision, shape ``(R, S)``.
        projection : _Projection
            Their sums, from `project`.

        Returns
        -------
        log_likelihood : Tensor
            Shape ``(R, S)``.
        squares, shot : Tensor or None
            What shot noise adds to the square of the S/N, and its part that slows its growth; None without it.
        """
        more = flux - self.flux[:, None]
        sums = flux[..., None] * projection.sums + more[..., None] * self.products[:, None]
        along, _, *coefficients = sums.unbind(-1)
        _, away, *_ = projection.sums.unbind(-1)
        _, unit, *_ = self.products[:, None].unbind(-1)
        square = flux**2 * projection.square + more * (2.0 * flux * away + more * unit)
        total = self.constant[:, None] + along - 0.5 * square
        if self.correction is not None:
            total = total + self.correction.log_likelihood(torch.stack(coefficients, -1))
        if self.central is None:
            return total, None, None
        extra, squares, shot = self._shot_noise(flux, projection.pixels)
        return total + extra, squares, shot

    def flux_sums(self, projection: "_Projection") -> tuple[Tensor, Tensor]:
        """Products of the models with the data, in the quadratic form, and, weighted, with themselves, ``(R, S)``."""
        along, away, *_ = projection.sums.unbind(-1)
        of_reference, square, *_ = self.products[:, None].unbind(-1)
        with_reference = away + square
        return along + of_reference + self.flux[:, None] * with_reference, projection.square + away + with_reference

    def flux_proposal(self, along, power, pixels):
        """Mean and standard deviation ``(R, S)`` of the flux given the other parameters, without the prior."""
        loops = None if pixels is None else compiled_module(_LOOPS, pixels)
        if loops is not None:
            along, power = along.clone(), power.clone()
            arrays = (pixels, torch.stack(self.central[1:]), self.gain, self.weight, along, power)
            loops.central_products(*(array.numpy() for array in arrays))
        elif pixels is not None:
            _, good, _, background, reference, *_ = self.central
            inverse = 1.0 / (background + reference.clamp_min(0.0) / self.gain[:, None])
            excess = good * (inverse + 0.5 * (inverse / self.gain[:, None]) ** 2) - self.weight[:, None]
            along = along + (pixels * (excess * reference)[:, None]).sum(-1, dtype=torch.float64)
            power = power + (pixels**2 * excess[:, None]).sum(-1, dtype=torch.float64)
        power = power.clamp_min(1e-60)
        return along / power, power.rsqrt()

    def _shot_noise(self, flux, pixels):
        """What shot noise adds to the log-likelihood, the square of the S/N and its part that slows its growth."""
        loops = compiled_module(_LOOPS, pixels)
        if loops is not None:
            sums = torch.empty((3, *flux.shape), dtype=torch.float64)
            arrays = (flux.contiguous(), pixels, torch.stack(self.central[1:]), self.gain, self.weight, sums)
            loops.shot_noise(*(array.numpy() for array in arrays))
            return sums.unbind(0)
        good, data, background, reference, derivative, log_like = (column[:, None] for column in self.central[1:])
        model = flux.to(pixels.dtype)[..., None] * pixels
        var = background + model.clamp_min(0.0) / self.gain[:, None, None]
        away, weight = model - reference, self.weight[:, None, None]
        exact = -0.5 * ((data - model) ** 2 / var + torch.log(var))
        total = good * (exact - log_like) - away * (derivative - 0.5 * weight * away)
        light = model**2
        squares = (light * (good / var - weight)).sum(-1, dtype=torch.float64)
        shot = (good * light / var * (1.0 - background / var)).sum(-1, dtype=torch.float64)
        return total.sum(-1, dtype=torch.float64), squares, shot


@dataclass(frozen=True)
class _Projection:
    """Sums of displacements of unit models from the reference.

    Parameters
    ----------
    sums : Tensor
        Products with the patterns of a `_Disc`, double precision, shape ``(R, S, 2 or 9)``.
    square : Tensor
        Weighted square, double precision, shape ``(R, S)``.
    pixels : Tensor or None
        Unit models in the central square, shape ``(R, S, pixels)``.
    """

    sums: torch.Tensor
    square: torch.Tensor
    pixels: torch.Tensor | None


def _sums(waves, patterns):
    """Products of waves ``(R, S, 2 K)`` with patterns ``(R, C, 2 K)``, double precision."""
    return torch.bmm(waves, patterns.mT).double()


def _weighted(wave, weight, scale):
    """Wave ``(R, 2 K)`` whose products are sums over pixels, weighted."""
    return wave * torch.cat([scale, scale]) * weight[:, None]


def _unit_models(modes, psf, stamps):
    """Transforms about the middle of the stamp (real parts, imaginary parts), and light outside of models."""
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
    return wave.flatten(2), outside.unflatten(0, count)


class FourierPosterior:
    """Approximate posterior density of the rows of a batch.

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
    ``w`` the mean inverse variance, weighted with ``m0**2`` and 0 where pixels are masked, the log-likelihood of a
    model ``m`` is taken to be

        L(m0) + sum g (m - m0) - w/2 sum (m - m0)**2,

    whose sums are those over the wavenumbers of the stamp where the PSF has power (Parseval). In a central square,
    where shot noise matters, the terms of the sums are replaced by the exact ones. What wraps around the stamp's own
    period has the pattern that it has at the reference. For galaxies that are bright or lie in uneven noise, gradient
    and curvature at the reference are then made exact (`galmeasure.fitters.importance.local_correction`).
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
            members, local = members[usable.cpu().numpy()], local[usable]
            if not len(members):
                continue
            models = stamps[members]
            references = _render(problem, local, models)
            bands = mode_bands(group.psf_on_stamp, problem.psf.shape, _BANDS, _TOLERANCE)[problem.psf_index[local]]
            kinds = 2 * bands + _want_correction(problem, local, references)
            for kind in kinds.unique().tolist():
                chosen = torch.nonzero(kinds == kind)[:, 0]
                arguments = problem, group.psf_on_stamp, local[chosen], _BANDS[kind // 2], models[chosen]
                disc = _Disc.of(*arguments, references[chosen], is_corrected=kind % 2 == 1)
                of_disc = enumerate(rows[members][chosen.cpu().numpy()])
                self.has_row.update({int(row): (len(self._discs), index) for index, row in of_disc})
                self._discs.append(disc)

    def about(self, rows: NDArray[np.int64], window: Window, reference: Tensor) -> "FourierPosterior":
        """Return an approximation of the same posterior for some rows, about other parameters."""
        return FourierPosterior(self._exact, rows, window, reference)

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
            numbers = len(disc.modes.index) if compiled_module(_LOOPS, disc.psf) is None else _CENTRAL**2
            size = rows_per_chunk("Fourier temporaries", values.shape[1] * numbers, str(self.device))
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
        projection = disc.project(stamps)
        along, power = disc.flux_sums(projection)
        norm = power.clamp_min(1e-60).sqrt()
        gain = None if disc.gain is None else disc.gain[:, None].expand_as(norm)
        mean, std = disc.flux_proposal(along, power, projection.pixels)
        proposal = FluxProposal(mean, STRETCH * std, *self._exact.flux_bounds(norm, gain))
        flux = block * values[..., _FLUX] if uniform is None else proposal.sample(uniform)
        log_flux = proposal.log_prob(flux) + np.log(block)
        total, squares, shot = disc.log_likelihood(flux, projection)
        signal = norm * flux
        if squares is not None and self.prior.electrons is None:
            signal = signal**2 + squares
        values = values.clone()
        values[..., _FLUX] = flux / block
        flat = [None if column is None else column.flatten(0, 1) for column in (values, signal, shot, gain)]
        width = fwhm[:, None].expand_as(norm).flatten()
        total = total + self._exact.log_prior(*flat, block, width).view_as(total)
        return values, torch.where(torch.isfinite(log_flux), total, -torch.inf), log_flux


def _mean_weight(reference, weight):
    """Mean of the weights of pixels, weighted with the square of the galaxy's light, ``(R,)``."""
    light = reference.flatten(1) ** 2
    return (light * weight.flatten(1)).sum(1) / light.sum(1).clamp_min(1e-30)


def _want_correction(problem, rows, references):
    """Stamps whose cheap log-likelihood is not close enough to the exact one without a correction, boolean ``(R,)``.

    They are bright, or their noise is not the same wherever the galaxy is.
    """
    _, error, good, gain = problem.data(rows)
    weight = good / variance(references, error, gain)
    mean = _mean_weight(references, weight)
    scatter = _mean_weight(references, (weight / mean.clamp_min(1e-30)[:, None, None] - 1.0) ** 2).sqrt()
    signal = (mean * references.flatten(1).square().sum(1)).sqrt()
    return (scatter > _UNEVEN) | (signal > _BRIGHT)


def _render(problem, rows, parameters):
    """Exact models ``(R, ny, nx)`` of some rows of a problem."""
    size = chunk_size("posterior models", problem.image.device.type)
    chunks = zip(rows.split(size), parameters.to(problem.image.dtype).split(size), strict=True)
    return torch.cat([render_sersic(values, problem.psf, problem.psf_index[index]) for index, values in chunks])
