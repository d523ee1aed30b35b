"""Gradient and curvature that a cheap log-likelihood lacks at its reference, in the span of the model's derivatives.

A cheap log-likelihood differs from the exact one by what is smooth in the parameters: the light that wraps around the
stamp, aliases of narrow PSFs, uneven noise, masked pixels. Near the reference ``m0`` a model differs from it by a
combination of the derivatives, whose coefficients are products of ``m - m0`` with seven images: sums over wavenumbers.
A linear and a quadratic form of these coefficients make gradient and curvature exact.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from galmeasure.fitters.problem import Problem
from galmeasure.likelihood import variance
from galmeasure.parameters import SERSIC
from galmeasure.render.modes import Modes

__all__ = ["LocalCorrection", "information"]

_INDEPENDENT = 1e-6  # part of the largest eigenvalue from which directions count as measured in single precision
_STEP = 0.3  # of the differences that give the gradient, in units of the error
_SMALL = {"flux": 0.1, "n": 0.1, "r_eff": 0.1}  # relative changes at most in such a step
_SMALL_SHIFT = {"g1": 0.03, "g2": 0.03, "x": 0.3, "y": 0.3}  # changes at most


@dataclass(frozen=True)
class LocalCorrection:
    """Linear and quadratic form of the displacement of models from the reference.

    Parameters
    ----------
    slope : Tensor
        Exact less cheap derivative of the log-likelihood by the coefficients, shape ``(R, 7)``, double precision.
    curvature : Tensor
        Exact less cheap information about them, shape ``(R, 7, 7)``, double precision.
    """

    slope: torch.Tensor
    curvature: torch.Tensor

    @classmethod
    def of(
        cls,
        problem: Problem,
        rows: Tensor,
        stamps: Tensor,
        modes: Modes,
        mean: Tensor,
        central: Tensor | None,
        log_likelihood: Callable[[slice, Tensor], Tensor],
    ) -> tuple[Tensor, Self]:
        """Compare the cheap log-likelihood with the exact one about reference models.

        Parameters
        ----------
        problem : Problem
            Least-squares problem that holds the stamps.
        rows : Tensor
            Rows of the problem, shape ``(R,)``.
        stamps : Tensor
            Parameters of the reference, in pixels of the stamps, shape ``(R, 7)``, double precision.
        modes : Modes
            Wavenumbers of the cheap log-likelihood.
        mean : Tensor
            Inverse variance of the cheap log-likelihood, shape ``(R,)``.
        central : Tensor or None
            Flat indices of pixels that it treats exactly.
        log_likelihood : callable
            Function that gives the cheap log-likelihood of some of the rows, a slice, at parameters ``(R', S, 7)``.

        Returns
        -------
        waves : Tensor
            Images on wavenumbers, real and imaginary parts, whose products with a displacement are its coefficients,
            shape ``(R, 7, 2 K)``.
        correction : LocalCorrection
            Forms of these coefficients.
        """
        chunks, start = [], 0
        for chunk in problem.chunks(rows):
            span = slice(start, start + len(chunk))
            start += len(chunk)
            reference = stamps[span]
            model, raw, matrix = problem.draw(chunk, reference)
            weight, derivative = information(problem, chunk, model)
            images, coefficients, is_measured = _whitened(raw, weight)
            score = (images @ derivative.flatten(1)[..., None])[..., 0].double()
            waves, known = _on_modes(images, weight, model.shape, modes, mean[span], central, is_measured)
            curvature = torch.diag_embed(is_measured.double()) - known
            along = torch.linalg.solve(matrix.mT, coefficients).mT
            size = _step_sizes(along, reference)
            step = size[..., None] * along
            moved = torch.cat([reference[:, None] + step, reference[:, None] - step], 1)
            above, below = log_likelihood(span, moved).chunk(2, 1)
            cheap = (above - below) / (2.0 * size)
            chunks.append((waves, torch.where(is_measured, score - cheap, 0.0), curvature))
        waves, *forms = (torch.cat(column) for column in zip(*chunks, strict=True))
        return waves, cls(*forms)

    def of_rows(self, rows: Tensor) -> "LocalCorrection":
        """Return some of the stamps."""
        return LocalCorrection(self.slope[rows], self.curvature[rows])

    def log_likelihood(self, coefficients: Tensor) -> Tensor:
        """Part of the log-likelihood of models, from the coefficients of their displacements ``(R, S, 7)``."""
        linear = (coefficients * self.slope[:, None]).sum(-1)
        return linear - 0.5 * ((coefficients @ self.curvature) * coefficients).sum(-1)


def information(problem: Problem, rows: Tensor, model: Tensor) -> tuple[Tensor, Tensor]:
    """Expected information of each pixel about its model, and derivative of the log-likelihood; 0 where it is masked.

    Parameters
    ----------
    problem : Problem
        Least-squares problem that holds the stamps.
    rows : Tensor
        Rows of the problem, shape ``(R,)``.
    model : Tensor
        Their models, shape ``(R, ny, nx)``.
    """
    image, error, good, gain = problem.data(rows)
    inverse = 1.0 / variance(model, error, gain)
    residual = (image - model) * inverse
    if gain is None:
        return good * inverse, good * residual
    growth = (model > 0) / gain[:, None, None]
    return good * (inverse + 0.5 * (growth * inverse) ** 2), good * (residual + 0.5 * growth * (residual**2 - inverse))


def _whitened(raw, weight):
    """Combinations of raw images with unit information, their coefficients, by column, and which exist."""
    images = raw.flatten(2)
    scale = (images**2 @ weight.flatten(1)[..., None]).clamp_min(1e-30).rsqrt()
    images = images * scale
    value, vector = torch.linalg.eigh(((images * weight.flatten(1)[:, None]) @ images.mT).double())
    is_measured = value > _INDEPENDENT * value.amax(1, keepdim=True)
    vector = torch.where(is_measured[:, None], vector * value.clamp_min(1e-30).rsqrt()[:, None], 0.0)
    return vector.mT.to(images.dtype) @ images, vector * scale.double(), is_measured


def _on_modes(images, weight, shape, modes, mean, central, is_measured):
    """Waves that give coefficients, and the information about these that the cheap log-likelihood has."""
    wave = torch.fft.rfft2(images.unflatten(2, shape[1:])).flatten(2)[..., modes.index] * modes.middle
    wave = torch.cat([wave.real, wave.imag], 2)
    scaled = wave * torch.cat([modes.count, modes.count]).div(images.shape[2])
    products = (scaled @ wave.mT).double()
    known = mean.double()[:, None, None] * products
    if central is not None:
        images = images[..., central]
        excess = weight.flatten(1)[:, central] - mean[:, None]
        known = known + ((images * excess[:, None]) @ images.mT).double()
    products = products + torch.diag_embed((~is_measured).double())
    inverse = torch.linalg.inv(products).to(wave.dtype)
    return inverse @ scaled, known


def _step_sizes(along, reference):
    """Sizes ``(R, 7)`` of steps along changes of the parameters, so short that models are nearly linear."""
    limit = torch.empty_like(reference)
    for name, part in _SMALL.items():
        limit[:, SERSIC.index(name)] = part * reference[:, SERSIC.index(name)].abs()
    for name, change in _SMALL_SHIFT.items():
        limit[:, SERSIC.index(name)] = change
    ratio = (along.abs() / limit[:, None].clamp_min(1e-30)).amax(2)
    return (1.0 / ratio.clamp_min(1e-30)).clamp_max(_STEP)
