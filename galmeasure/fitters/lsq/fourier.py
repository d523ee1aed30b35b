"""The least-squares problem in Fourier space: chi-squared and its derivatives without transforms to pixels.

With white noise and no masked pixels chi-squared is a sum over the wavenumbers of the stamp (Parseval), of which only
those matter where the PSF has power. A fit there costs a tenth of one in pixels, and ends close to its end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from galmeasure.fitters import variables as _variables
from galmeasure.fitters.problem import Problem
from galmeasure.likelihood import variance
from galmeasure.parameters import SERSIC
from galmeasure.render.modes import BANDS, Modes, Profiles, compiled_table, mode_bands, modes_of_band
from galmeasure.render.sersic import KAPPA_MIN, RAW, RAW_FORM, RAW_INDEX, raw_jacobian_matrix
from galmeasure.utils.chunks import rows_per_chunk
from galmeasure.utils.compiled import compiled_module

__all__ = ["FourierProblem", "Stamps"]

_FLUX, _X, _Y = SERSIC.indices("flux", "x", "y")
_MODEL, _BY_N, _Y_RAW, _X_RAW = (RAW_INDEX[name] for name in ("model", "n", "y", "x"))
_EVEN = slice(0, RAW_FORM.stop)  # raw images that are even about the centre
_SMALLEST = 16  # pixels a side: smaller stamps have too few wavenumbers
_TINY = 1e-20
_LOOPS = "galmeasure.fitters.lsq.compiled"


@dataclass(frozen=True)
class Stamps:
    """Stamps of a problem in pixels that share a disc of wavenumbers.

    Parameters
    ----------
    rows : Tensor
        Rows of the problem in pixels, shape ``(B,)``.
    modes : Modes
        Wavenumbers, ``K`` of them.
    real, imag : Tensor
        Transform of the stamps about their middle, in units of the noise, turned by the phase of the PSF, ``(B, K)``.
    amplitude : Tensor
        Modulus of the PSF's transform over the noise, times the square root of how often a mode occurs, ``(B, K)``.
    """

    rows: torch.Tensor
    modes: Modes
    real: torch.Tensor
    imag: torch.Tensor
    amplitude: torch.Tensor

    @classmethod
    def of(cls, problem: Problem, transform: Tensor) -> list[Self]:
        """Transform the stamps of a problem that have no masked pixels.

        Parameters
        ----------
        problem : Problem
            Least-squares problem in pixels.
        transform : Tensor
            Transforms of its PSFs, from `galmeasure.render.modes.stamp_transforms`, shape ``(M, ny, nx // 2 + 1)``.

        Returns
        -------
        list of Stamps
            One for each disc that a PSF needs. The variance of a stamp's modes is the inverse of the mean weight of its
            pixels.
        """
        shape = problem.psf.shape
        if min(shape) < _SMALLEST or problem.dof is not None:
            return []
        is_whole = problem.good.flatten(1).all(1)
        bands = mode_bands(transform, shape)[problem.psf_index]
        chosen = ((torch.nonzero(is_whole & (bands == band))[:, 0], BANDS[band]) for band in bands.unique().tolist())
        return [cls._on_disc(problem, transform, rows, band) for rows, band in chosen if len(rows)]

    @classmethod
    def _on_disc(cls, problem, transform, rows, band):
        image, error, good, gain = problem.data(rows)
        modes = modes_of_band(problem.psf.shape, band, image.device, image.dtype)
        psf = transform.flatten(1)[problem.psf_index[rows][:, None], modes.index]
        modulus = psf.abs().clamp_min(_TINY)
        weight = (good / variance(image, error, gain)).flatten(1).mean(1)
        root = (modes.count / image[0].numel()).sqrt() * weight.sqrt()[:, None]
        data = torch.fft.rfft2(image).flatten(1)[:, modes.index] * modes.middle * psf.conj() * (root / modulus)
        return cls(rows, modes, data.real.contiguous(), data.imag.contiguous(), modulus * root)

    @classmethod
    def join(cls, parts: Sequence["Stamps"], numbers: Sequence[Tensor]) -> Self:
        """Join stamps of one disc from several problems, whose rows get the numbers that are given."""
        rows = torch.cat([number[part.rows] for part, number in zip(parts, numbers, strict=True)])
        columns = (torch.cat([getattr(part, name) for part in parts]) for name in ("real", "imag", "amplitude"))
        return cls(rows, parts[0].modes, *columns)

    def normal_equations(self, rows: Tensor, parameters: Tensor, profiles: Profiles, outside: Tensor) -> Tensor:
        """Sums over modes of the products of raw images with each other and with the residual.

        Parameters
        ----------
        rows : Tensor
            Positions of the stamps, shape ``(R,)``.
        parameters : Tensor
            Sersic parameters, shape ``(R, 7)``.
        profiles : Profiles
            Profiles of these parameters.
        outside : Tensor
            Light outside of the stamp and its derivatives, from `Profiles.light_outside`, shape ``(R, 5)``.

        Returns
        -------
        Tensor
            Double precision, shape ``(R, 8, 8)``: information by raw coordinates, in the last row and column the score
            and the loss.
        """
        loops = compiled_module(_LOOPS, self.real, parameters, profiles.form, outside)
        if loops is not None:
            return self._compiled_equations(loops, rows, parameters, profiles, outside)
        real, imag = self._turned(rows, parameters)
        amplitude, flux = self.amplitude[rows], parameters[:, _FLUX, None]
        images = self._even_images(profiles, amplitude, outside)
        value = images[:, _MODEL]
        residual = torch.addcmul(real, flux, value, value=-1.0, out=images[:, -1])
        loss = torch.addcmul(residual * residual, imag, imag).sum(1, dtype=torch.float64)
        even = torch.bmm(images, images.transpose(1, 2)).double()
        # the derivatives by the centre are odd: i k times the model
        odd = torch.stack([value * value, value * imag], 1)
        odd = torch.bmm(odd, self.modes.centre_products.T.expand(len(rows), -1, -1)).double()
        sums = even.new_zeros(len(rows), len(RAW) + 1, len(RAW) + 1)
        sums[:, _EVEN, _EVEN], sums[:, _EVEN, -1] = even[:, :-1, :-1], even[:, :-1, -1]
        for position, (row, column) in enumerate(((_Y_RAW, _Y_RAW), (_Y_RAW, _X_RAW), (_X_RAW, _X_RAW))):
            sums[:, row, column] = sums[:, column, row] = odd[:, 0, position]
        sums[:, _Y_RAW, -1], sums[:, _X_RAW, -1] = -odd[:, 1, 3], -odd[:, 1, 4]
        sums[:, -1, -1] = loss
        return sums

    def _compiled_equations(self, loops, rows, parameters, profiles, outside):
        """Compute the same as `normal_equations` in one pass for each galaxy."""
        (ny, nx), modes = self.modes.shape, self.modes
        offset = parameters[:, [_Y, _X]].double() - parameters.new_tensor([(ny - 1) / 2.0, (nx - 1) / 2.0])
        sums = torch.empty(len(rows), len(RAW) + 1, len(RAW) + 1, dtype=torch.float64)
        of_galaxies = profiles.rows[:, 0], profiles.weights, profiles.form, offset, parameters[:, _FLUX], outside
        of_stamps = rows, self.real, self.imag, self.amplitude
        loops.mode_sums(
            compiled_table(), *(column.contiguous().numpy() for column in of_galaxies), modes.lines,
            modes.forms.numpy(), modes.centre_products.numpy(), 2.0 * np.pi / ny, 2.0 * np.pi / nx, KAPPA_MIN**2,
            *(column.contiguous().numpy() for column in of_stamps), sums.numpy(),
        )  # fmt: skip
        return sums

    def _turned(self, rows, parameters):
        """Transforms of the stamps about the galaxies' centres, real and imaginary part."""
        ny, nx = self.modes.shape
        y, x = parameters[:, _Y, None] - (ny - 1) / 2.0, parameters[:, _X, None] - (nx - 1) / 2.0
        angle = torch.addcmul(y * self.modes.ky, x, self.modes.kx)
        cosine, sine = torch.cos(angle), torch.sin(angle)
        real, imag = self.real[rows], self.imag[rows]
        return torch.addcmul(real * cosine, imag, sine, value=-1.0), torch.addcmul(real * sine, imag, cosine)

    def _even_images(self, profiles, amplitude, outside):
        """Unit-flux model and its derivatives by n, a, b, c, and room for another, shape ``(R, 6, K)``."""
        value, by_n, slope = profiles.on_modes(self.modes)
        images = value.new_empty(len(value), RAW_FORM.stop + 1, value.shape[1])
        torch.mul(value, amplitude, out=images[:, _MODEL])
        torch.mul(by_n, amplitude, out=images[:, _BY_N])
        torch.mul(slope.mul_(amplitude)[:, None], self.modes.forms, out=images[:, RAW_FORM])
        images[:, _EVEN, 0] -= amplitude[:, :1] * outside
        return images


@dataclass(frozen=True)
class FourierProblem:
    """Least-squares problem of stamps on discs of wavenumbers.

    Parameters
    ----------
    discs : tuple of Stamps
        Stamps by disc; their rows are those of all problems in pixels.
    disc : Tensor
        Position of each stamp's disc in ``discs``, shape ``(B,)``.
    """

    discs: tuple[Stamps, ...]
    disc: torch.Tensor

    @classmethod
    def join(cls, parts: Sequence[tuple[Stamps, Tensor]]) -> Self:
        """Join stamps of several problems in pixels, each with the numbers that the rows of its problem get."""
        by_disc = {}
        for stamps, numbers in parts:
            by_disc.setdefault(len(stamps.modes.index), []).append((stamps, numbers))
        discs = tuple(Stamps.join(*zip(*pairs, strict=True)) for pairs in by_disc.values())
        counts = torch.tensor([len(disc.rows) for disc in discs])
        return cls(discs, torch.arange(len(discs)).repeat_interleave(counts).to(discs[0].rows.device))

    @property
    def rows(self) -> Tensor:
        """Number of each stamp among those of the problems in pixels, shape ``(B,)``."""
        return torch.cat([disc.rows for disc in self.discs])

    def evaluate(self, rows: Tensor, variables: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, half the negative gradient and half the expected second derivative, by the fit's variables.

        Parameters
        ----------
        rows : Tensor
            Stamps of this problem, shape ``(R,)``.
        variables : Tensor
            Variables of the fit, shape ``(R, 7)``, double precision.
        """
        parameters = _variables.to_parameters(variables)
        sums = self._sums(rows, parameters.to(self.discs[0].real.dtype))
        matrix = _variables.jacobian(variables) @ raw_jacobian_matrix(parameters)
        gradient = (matrix @ sums[:, :-1, -1:])[:, :, 0]
        return sums[:, -1, -1], gradient, matrix @ sums[:, :-1, :-1] @ matrix.transpose(1, 2)

    def solve_flux(self, parameters: Tensor) -> Tensor:
        """Least-squares flux of each stamp at its other parameters.

        Parameters
        ----------
        parameters : Tensor
            Sersic parameters of all stamps of this problem, shape ``(B, 7)``, double precision.

        Returns
        -------
        Tensor
            Shape ``(B,)``, double precision.
        """
        without = parameters.to(self.discs[0].real.dtype).clone()
        without[:, _FLUX] = 0.0
        sums = self._sums(torch.arange(len(parameters), device=parameters.device), without)
        return sums[:, _MODEL, -1] / sums[:, _MODEL, _MODEL].clamp_min(1e-30)

    def _sums(self, rows, parameters):
        profiles = Profiles.of(parameters)
        outside = profiles.light_outside(self.discs[0].modes.shape)
        sums = torch.empty(len(rows), len(RAW) + 1, len(RAW) + 1, dtype=torch.float64, device=rows.device)
        of_rows, first = self.disc[rows], 0
        for position, disc in enumerate(self.discs):
            chosen = torch.nonzero(of_rows == position)[:, 0]
            size = rows_per_chunk("Fourier temporaries", len(RAW) * len(disc.modes.index), rows.device.type)
            if compiled_module(_LOOPS, disc.real, parameters) is not None:  # one galaxy at a time, without temporaries
                size = max(1, len(chosen))
            for chunk in chosen.split(size) if len(chosen) else ():
                arguments = rows[chunk] - first, parameters[chunk], profiles.of_rows(chunk), outside[chunk]
                sums[chunk] = disc.normal_equations(*arguments)
            first += len(disc.rows)
        return sums
