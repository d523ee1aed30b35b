"""The least-squares problem in Fourier space: chi-squared and its derivatives without transforms to pixels.

With white noise and no masked pixels chi-squared is a sum over the wavenumbers of the stamp (Parseval), of which only
those matter where the PSF has power. A fit there costs a tenth of one in pixels, and ends close to its end.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from galmeasure.fitters import variables as _variables
from galmeasure.fitters.prior_term import PriorTerm
from galmeasure.fitters.problem import Problem
from galmeasure.likelihood import variance
from galmeasure.parameters import SERSIC
from galmeasure.render.modes import BANDS, Modes, light_outside, mode_bands, modes_of_band, sersic_on_modes
from galmeasure.render.sersic import RAW, RAW_FORM, RAW_INDEX, raw_jacobian_matrix
from galmeasure.utils.chunks import rows_per_chunk

__all__ = ["FourierProblem", "fourier_problems"]

_FLUX, _X, _Y = SERSIC.indices("flux", "x", "y")
_MODEL, _BY_N, _Y_RAW, _X_RAW = (RAW_INDEX[name] for name in ("model", "n", "y", "x"))
_SHAPES = slice(0, RAW_FORM.stop)  # raw images that are even about the centre
_CENTRE = [_Y_RAW, _X_RAW]
_SMALLEST = 16  # pixels a side: smaller stamps have too few wavenumbers
_LEFT_OVER = 1e-20


@dataclass(frozen=True)
class FourierProblem:
    """Stamps of one disc of wavenumbers.

    Parameters
    ----------
    rows : Tensor
        Number of each stamp among all that are solved together, shape ``(B,)``.
    prior_rows : Tensor
        Rows of the problem in pixels, and of the prior, shape ``(B,)``.
    modes : Modes
        Wavenumbers, ``K`` of them.
    real, imag : Tensor
        Transform of the stamps about their middle, in units of the noise, turned by the phase of the PSF, ``(B, K)``.
    amplitude : Tensor
        Modulus of the transform of each PSF, shape ``(M, K)``, times the square root of how often a mode occurs.
    psf_index : Tensor
        Position of each stamp's PSF in ``amplitude``, shape ``(B,)``.
    scale : Tensor
        Inverse of the noise of each stamp's modes, shape ``(B,)``.
    prior : PriorTerm or None
        A term that is added to the loss.
    """

    rows: torch.Tensor
    prior_rows: torch.Tensor
    modes: Modes
    real: torch.Tensor
    imag: torch.Tensor
    amplitude: torch.Tensor
    psf_index: torch.Tensor
    scale: torch.Tensor
    prior: PriorTerm | None = None

    def numbered(self, numbers: Tensor) -> Self:
        """Return the same problem with other numbers of its stamps, by those of all rows of the problem in pixels."""
        return replace(self, rows=numbers[self.prior_rows])

    def evaluate(self, rows: Tensor, variables: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, half the negative gradient and half the expected second derivative, by the fit's variables.

        Parameters
        ----------
        rows : Tensor
            Rows of this problem, shape ``(K,)``.
        variables : Tensor
            Variables of the fit, shape ``(K, 7)``, double precision.
        """
        size = rows_per_chunk("Fourier temporaries", len(RAW) * len(self.modes.index), rows.device.type)
        terms = [self._evaluate(*chunk) for chunk in zip(rows.split(size), variables.split(size), strict=True)]
        loss, gradient, hessian = (torch.cat(column) for column in zip(*terms, strict=True))
        if self.prior is None:
            return loss, gradient, hessian
        prior = self.prior.evaluate(self.prior_rows[rows], variables)
        return tuple(term + extra for term, extra in zip((loss, gradient, hessian), prior, strict=True))

    def _evaluate(self, rows, variables):
        parameters = _variables.to_parameters(variables)
        loss, score, fisher = self._normal_equations(rows, parameters.to(self.real.dtype))
        matrix = _variables.jacobian(variables) @ raw_jacobian_matrix(parameters)
        return loss, (matrix @ score[:, :, None])[:, :, 0], matrix @ fisher @ matrix.transpose(1, 2)

    def _normal_equations(self, rows, parameters):
        """Loss ``(B,)``, score ``(B, 7)`` and information ``(B, 7, 7)`` by raw coordinates, double precision."""
        real, imag = self._turned(rows, parameters)
        amplitude = self.amplitude[self.psf_index[rows]] * self.scale[rows, None]
        images = self._even_images(parameters, amplitude)
        flux = parameters[:, _FLUX, None]
        value = images[:, _MODEL]
        residual = torch.addcmul(real, flux, value, value=-1.0)
        loss = torch.addcmul(residual * residual, imag, imag).sum(1, dtype=torch.float64)
        sums = torch.bmm(torch.cat([images, residual[:, None]], 1), images.transpose(1, 2)).double()
        # the derivatives by the centre are odd: i k times the model
        odd = torch.stack([value * value, value * imag], 1)
        products = self.modes.centre_products.expand(len(rows), -1, -1)
        yy, yx, xx, y, x = torch.bmm(odd, products.transpose(1, 2)).double().unbind(2)
        size = len(RAW)
        fisher, score = sums.new_zeros(len(rows), size, size), sums.new_zeros(len(rows), size)
        fisher[:, _SHAPES, _SHAPES], score[:, _SHAPES] = sums[:, :-1], sums[:, -1]
        fisher[:, _Y_RAW, _Y_RAW], fisher[:, _X_RAW, _X_RAW] = yy[:, 0], xx[:, 0]
        fisher[:, _Y_RAW, _X_RAW] = fisher[:, _X_RAW, _Y_RAW] = yx[:, 0]
        score[:, _Y_RAW], score[:, _X_RAW] = -y[:, 1], -x[:, 1]
        return loss, score, 0.5 * (fisher + fisher.transpose(1, 2))

    def _turned(self, rows, parameters):
        """Transforms of the stamps about the galaxies' centres, real and imaginary part."""
        ny, nx = self.modes.shape
        y, x = parameters[:, _Y, None] - (ny - 1) / 2.0, parameters[:, _X, None] - (nx - 1) / 2.0
        angle = torch.addcmul(y * self.modes.ky, x, self.modes.kx)
        cosine, sine = torch.cos(angle), torch.sin(angle)
        real, imag = self.real[rows], self.imag[rows]
        return real * cosine - imag * sine, torch.addcmul(real * sine, imag, cosine)

    def _even_images(self, parameters, amplitude):
        """Unit-flux model and its derivatives by n, a, b, c, shape ``(B, 5, K)``."""
        value, by_n, slope = sersic_on_modes(parameters, self.modes)
        images = value.new_empty(len(value), RAW_FORM.stop, value.shape[1])
        torch.mul(value, amplitude, out=images[:, _MODEL])
        torch.mul(by_n, amplitude, out=images[:, _BY_N])
        slope.mul_(amplitude)
        for position, form in enumerate(self.modes.forms, RAW_FORM.start):
            torch.mul(slope, form, out=images[:, position])
        images[:, :, 0] -= amplitude[:, :1] * light_outside(parameters, self.modes.shape)
        return images


def fourier_problems(problem: Problem, transform: Tensor) -> Iterator[FourierProblem]:
    """Transform the stamps of a problem that have no masked pixels.

    Parameters
    ----------
    problem : Problem
        Problem in pixels.
    transform : Tensor
        Transforms of its PSFs, from `galmeasure.render.modes.stamp_transforms`, shape ``(M, ny, nx // 2 + 1)``.

    Yields
    ------
    FourierProblem
        Stamps whose PSFs need the same disc of wavenumbers. The variance of a stamp's modes is the one that has the mean
        weight of its pixels.
    """
    shape = problem.psf.shape
    if min(shape) < _SMALLEST or problem.dof is not None:
        return
    is_whole = problem.good.flatten(1).all(1)
    bands = mode_bands(transform, shape)
    for band in bands.unique().tolist():
        rows = torch.nonzero(is_whole & (bands[problem.psf_index] == band))[:, 0]
        if len(rows):
            members, local = problem.psf_index[rows].unique(return_inverse=True)
            yield _on_modes(problem, rows, transform[members], local, BANDS[band])


def _on_modes(problem, rows, transform, psf_index, band):
    """Stamps ``rows`` on the modes of one band."""
    image, error, good, gain = problem.data(rows)
    modes = modes_of_band(problem.psf.shape, band, image.device, image.dtype)
    psf = transform.flatten(1)[:, modes.index]
    modulus = psf.abs().clamp_min(_LEFT_OVER)
    weight = (good / variance(image, error, gain)).flatten(1).mean(1)
    root = (modes.count / image[0].numel()).sqrt()
    ny, nx = modes.shape
    middle = (modes.ky * ((ny - 1) / 2.0) + modes.kx * ((nx - 1) / 2.0)).to(torch.float64)
    turned = torch.polar(torch.ones_like(middle), middle).to(psf.dtype) * (psf.conj() / modulus)[psf_index]
    data = torch.fft.rfft2(image).flatten(1)[:, modes.index] * turned * (root * weight.sqrt()[:, None])
    return FourierProblem(
        rows, rows, modes, data.real.contiguous(), data.imag.contiguous(), modulus * root, psf_index, weight.sqrt()
    )
