"""The noise model of independent pixels, and what follows from it: log-likelihood, deviance, normal equations.

Everywhere: ``image``, ``error`` and models are in the same unit, ``gain`` is electrons per that unit, and
``variance = error**2 + max(model, 0) / gain`` when a gain is given. Simulation and fit use this one model.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from galmeasure.utils.chunks import CACHE_LINE
from galmeasure.utils.compiled import compiled_module

__all__ = [
    "NormalEquations",
    "deviance",
    "fit_loss",
    "flux_of_snr",
    "image_products",
    "log_likelihood",
    "normal_equations",
    "signal_to_noise",
    "variance",
]

_SNR_STEPS = 6


@dataclass(frozen=True)
class NormalEquations:
    """Sums over pixels that a least-squares step needs, for images ``R_j`` (``J`` of them).

    Parameters
    ----------
    loss : Tensor
        Loss that a fit minimises: minus twice the (quasi-)log-likelihood without its constant, shape ``(B,)``.
    chi2 : Tensor
        Sum of squared residuals over the variance, shape ``(B,)``, double precision.
    score : Tensor
        Derivative of the log-likelihood along each image, shape ``(B, J)``, double precision.
    fisher : Tensor
        Expected information, shape ``(B, J, J)``, double precision.
    snr : Tensor or None
        Optimal signal-to-noise ratio of the model, shape ``(B,)``, double precision; where asked for.
    light : Tensor or None
        Sum of the model over all pixels, shape ``(B,)``, double precision; where asked for.
    residual : Tensor or None
        Data minus model over the noise, 0 where bad, shape ``(B, ny, nx)``; where asked for.
    """

    loss: torch.Tensor
    chi2: torch.Tensor
    score: torch.Tensor
    fisher: torch.Tensor
    snr: torch.Tensor | None = None
    light: torch.Tensor | None = None
    residual: torch.Tensor | None = None


def variance(model: Tensor, error: Tensor, gain: Tensor | None = None) -> Tensor:
    """Noise variance per pixel.

    Parameters
    ----------
    model : Tensor
        Expected image, shape ``(B, ny, nx)``.
    error : Tensor
        1-sigma noise that does not come from the model; broadcasts to ``model``.
    gain : Tensor, optional
        Electrons per unit, shape ``(B,)``. None: ``error`` holds all the noise.

    Returns
    -------
    Tensor
        ``error**2 + max(model, 0) / gain``, shape ``(B, ny, nx)``.
    """
    if gain is None:
        return error.expand_as(model) ** 2
    return error**2 + model.clamp_min(0.0) / gain[:, None, None]


def signal_to_noise(model: Tensor, error: Tensor, good: Tensor, gain: Tensor | None = None) -> Tensor:
    """Optimal signal-to-noise ratio of models.

    Parameters
    ----------
    model, error, gain : Tensor
        Arguments of `variance`, with the same meaning.
    good : Tensor
        Good pixels, boolean, shape ``(B, ny, nx)``.

    Returns
    -------
    Tensor
        ``sqrt(sum(model**2 / variance))``, shape ``(B,)``.
    """
    return (good * model**2 / variance(model, error, gain)).flatten(1).sum(1).sqrt()


def flux_of_snr(unit: Tensor, snr: Tensor, error: Tensor, good: Tensor, gain: Tensor | None = None) -> Tensor:
    """Fluxes that give models a signal-to-noise ratio.

    Parameters
    ----------
    unit : Tensor
        Models of unit flux, shape ``(B, ny, nx)``.
    snr : Tensor
        Ratios that the models are to have, shape ``(B,)``.
    error, good, gain : Tensor
        Arguments of `signal_to_noise`, with the same meaning; an infinite gain is none.

    Returns
    -------
    Tensor
        Shape ``(B,)``.
    """
    flux = snr / signal_to_noise(unit, error, good).clamp_min(1e-30)
    if gain is None:
        return flux
    slope = torch.where(torch.isinf(gain), 1.0, 0.75)  # with shot noise the ratio grows more slowly than the flux
    for _ in range(_SNR_STEPS):
        ratio = signal_to_noise(flux[:, None, None] * unit, error, good, gain)
        flux = flux * (snr / ratio.clamp_min(1e-30)) ** (1.0 / slope)
    return flux


def log_likelihood(
    model: Tensor, image: Tensor, error: Tensor, good: Tensor, gain: Tensor | None = None, *, dof: float | None = None
) -> Tensor:
    """Log-likelihood of images, summed over their good pixels.

    Parameters
    ----------
    model, image : Tensor
        Expected and observed pixels, shape ``(B, ny, nx)``.
    error : Tensor
        1-sigma noise that does not come from the model; broadcasts to ``image``.
    good : Tensor
        Boolean, pixels that count, shape ``(B, ny, nx)``.
    gain : Tensor, optional
        Electrons per unit, shape ``(B,)``.
    dof : float, optional
        Degrees of freedom of a Student t distribution of the scaled residuals; None is Gaussian.

    Returns
    -------
    Tensor
        Shape ``(B,)``, double precision, normalisation included.
    """
    var = variance(model, error, gain)
    residual2 = (image - model) ** 2 / var
    if dof is None:
        terms = -0.5 * (residual2 + torch.log(2.0 * torch.pi * var))
    else:
        half = torch.tensor((dof + 1.0) / 2.0, dtype=torch.float64)
        constant = float(torch.lgamma(half) - torch.lgamma(half - 0.5)) - 0.5 * torch.log(dof * torch.pi * var)
        terms = constant - (dof + 1.0) / 2.0 * torch.log1p(residual2 / dof)
    return torch.where(good, terms, 0.0).flatten(1).sum(1, dtype=torch.float64)


def normal_equations(
    model: Tensor,
    images: Tensor,
    data: Tensor,
    error: Tensor,
    good: Tensor,
    gain: Tensor | None = None,
    *,
    dof: float | None = None,
    residuals: bool = False,
) -> NormalEquations:
    """Loss, score and Fisher matrix of one evaluation.

    Parameters
    ----------
    model : Tensor
        Expected image, shape ``(B, ny, nx)``.
    images : Tensor
        Derivatives of the model along ``J`` directions, shape ``(B, J, ny, nx)``.
    data, error, good, gain, dof
        Arguments of :func:`log_likelihood`, with the same meaning.
    residuals : bool, optional
        Also give the signal-to-noise ratio and the light of the model, and the residuals. Default False.

    Returns
    -------
    NormalEquations
        Pixel sums. With a Student t loss, the Fisher matrix is that of the t distribution.

    Notes
    -----
    The Gaussian loss is :func:`deviance`: chi-squared without a gain, and with one the function whose derivative is
    ``-2 (data - model) / variance``, so that the score vanishes at the truth for an image without noise.
    """
    loops = compiled_module("galmeasure.likelihood.compiled", model, images, data, error)
    if dof is None and loops is not None:
        return _compiled_equations(loops, model, images, data, error, good, gain, residuals=residuals)
    residual = data - model
    var = variance(model, error, gain)
    inverse = good / var
    score, weight = residual * inverse, inverse
    residual2 = residual * score
    if dof is None:
        loss = residual2 if gain is None else residual2 + _skewness(model, data, error, var, gain) * good
    else:
        loss, score, weight = _student_t(model, residual2, score, inverse, good, var, gain, dof)
    sums = _pixel_sums(images.flatten(2), weight.flatten(1), score.flatten(1))
    fisher = sums[:, :-1]
    equations = NormalEquations(
        loss=loss.flatten(1).sum(1, dtype=torch.float64),
        chi2=residual2.flatten(1).sum(1, dtype=torch.float64),
        score=sums[:, -1],
        fisher=0.5 * (fisher + fisher.transpose(1, 2)),
    )
    if not residuals:
        return equations
    root = inverse.sqrt()
    power = (root * model).square().flatten(1).sum(1, dtype=torch.float64)
    light = model.flatten(1).sum(1, dtype=torch.float64)
    return replace(equations, snr=power.sqrt(), light=light, residual=root * residual)


def _compiled_equations(loops, model, images, data, error, good, gain, *, residuals):
    """Gaussian normal equations, by compiled loops."""
    count, n_images = images.shape[:2]
    totals = model.new_empty(count, 3, dtype=torch.float64)
    sums = model.new_empty(count, n_images + 1, n_images, dtype=torch.float64)
    residual = torch.empty_like(data, memory_format=torch.contiguous_format) if residuals else data.new_empty(0, 0, 0)
    gains = model.new_empty(0) if gain is None else gain.expand(count)
    inputs = (model, images.contiguous(), data, error.expand_as(data), good.expand_as(data), gains)
    loops.pixel_sums(*(tensor.detach().numpy() for tensor in (*inputs, totals, sums, residual)))
    chi2, power, light = totals.unbind(1)
    loss = chi2
    if gain is not None:
        skewness = torch.empty_like(chi2)
        pixels = (tensor.detach().numpy() for tensor in (model, *inputs[2:]))
        loops.skewness(*pixels, _GAIN_NEGLIGIBLE, np.array(_SERIES), _SERIES_LIMIT, skewness.numpy())
        loss = chi2 + skewness
    lower = sums[:, :-1].tril()
    equations = NormalEquations(loss, chi2, sums[:, -1], lower + lower.tril(-1).mT)
    return replace(equations, snr=power.sqrt(), light=light, residual=residual) if residuals else equations


def deviance(model: Tensor, data: Tensor, error: Tensor, good: Tensor, gain: Tensor | None = None) -> Tensor:
    """Minus twice the quasi-log-likelihood, up to a constant: chi-squared where the noise does not follow the model.

    Parameters
    ----------
    model, data, error, good, gain
        Arguments of :func:`log_likelihood`, with the same meaning.

    Returns
    -------
    Tensor
        Shape ``(B,)``, double precision.

    Notes
    -----
    With a gain this is the likelihood of the shifted Poisson distribution that has the noise's mean and variance
    (Snyder et al. 1995, JOSA A 12, 272): its derivative by the model is ``-2 (data - model) / variance``, and its
    information ``1 / variance``. Source counts that are Poisson distributed are described better than by a Gaussian.
    """
    var = variance(model, error, gain)
    loss = (data - model) ** 2 / var
    if gain is not None:
        loss = loss + _skewness(model, data, error, var, gain)
    return (loss * good).flatten(1).sum(1, dtype=torch.float64)


def fit_loss(
    model: Tensor, data: Tensor, error: Tensor, good: Tensor, gain: Tensor | None = None, *, dof: float | None = None
) -> Tensor:
    """Loss that a fit minimises, as that of :func:`normal_equations`, without derivatives.

    Parameters
    ----------
    model, data, error, good, gain, dof
        Arguments of :func:`log_likelihood`, with the same meaning.

    Returns
    -------
    Tensor
        Shape ``(B,)``, double precision.
    """
    if dof is None:
        return deviance(model, data, error, good, gain)
    var = variance(model, error, gain)
    scaled = (data - model) * good / var
    loss, _, _ = _student_t(model, (data - model) * scaled, scaled, good / var, good, var, gain, dof)
    return loss.flatten(1).sum(1, dtype=torch.float64)


_SERIES = (0.0, -1 / 3, 1 / 6, -1 / 10, 1 / 15, -1 / 21)
_SERIES_LIMIT = 0.05
_FEW = 0.2  # of the pixels: so many are picked out and put back at less cost than that of a logarithm of all
_GAIN_MAX = 1e12  # no shot noise to speak of beyond
_GAIN_NEGLIGIBLE = 1e10  # from which single precision does not hold what the skewness adds to chi-squared


def _excess(w):
    """``2 ((1 + w) log(1 + w) - w) - w**2`` over ``w**2``, for ``w > -1``."""
    series = torch.full_like(w, _SERIES[-1])
    for coefficient in reversed(_SERIES[:-1]):
        series = series * w + coefficient
    return _replaced(series, w.abs() >= _SERIES_LIMIT, _closed_excess, w)


def _closed_excess(w):
    """The same in closed form, for ``w`` that are not small; of small ones, that of 1."""
    w = torch.where(w.abs() < _SERIES_LIMIT, 1.0, w.clamp_min(-1.0 + 1e-6))
    return 2.0 * ((1.0 + w) * torch.log1p(w) - w) / w**2 - 1.0


def _replaced(values, condition, function, *tensors):
    """``values``, or ``function(*tensors)`` where a condition holds, computed there alone if these are few places."""
    places = torch.nonzero(condition.flatten())[:, 0]
    if not len(places):
        return values
    tensors = [tensor.expand_as(values) for tensor in tensors]
    if len(places) > _FEW * condition.numel():
        return torch.where(condition, function(*tensors), values)
    chosen = (tensor.reshape(-1)[places] for tensor in tensors)
    return values.flatten().index_put((places,), function(*chosen)).view_as(values)


def _skewness(model, data, error, var, gain):
    """Deviance with shot noise minus squared residual over variance, per pixel; 0 for rows without shot noise."""
    gain = gain.expand(len(model))
    has_shot_noise = gain < _GAIN_NEGLIGIBLE
    if has_shot_noise.all():
        return _row_skewness(model, data, error, var, gain)
    skewness = torch.zeros_like(model)
    if has_shot_noise.any():
        pixels = (tensor.expand_as(model)[has_shot_noise] for tensor in (model, data, error, var))
        skewness[has_shot_noise] = _row_skewness(*pixels, gain[has_shot_noise])
    return skewness


def _row_skewness(model, data, error, var, gain):
    """The same for rows that all have shot noise."""
    gain = gain.clamp_max(_GAIN_MAX)[:, None, None]
    base, light = error**2, model.clamp_min(0.0)
    excess = data - light
    over_variance = excess / var
    skewness = excess * over_variance * _excess(over_variance / gain)
    counts = base + data / gain
    return _replaced(skewness, ~(counts > 0), _low_skewness, model, data, var, base, gain, counts)


def _low_skewness(model, data, var, base, gain, counts):
    """The same where pixels are so low that shifted counts are negative: the same derivative, another constant."""
    loss = 2.0 * gain**2 * (var - base - counts * torch.log(var / base)) + data**2 / base - (data - model) ** 2 / var
    return torch.where(model > 0, loss, 0.0)


def _student_t(model, residual2, scaled, inverse, good, var, gain, dof):
    """Loss, score and weight per pixel of a t distribution whose scale is the noise."""
    loss = (dof + 1.0) * torch.log1p(residual2 / dof)
    tail = (dof + 1.0) / (dof + residual2)
    score, weight = scaled * tail, inverse * ((dof + 1.0) / (dof + 3.0))
    if gain is not None:
        slope = (model > 0) / gain[:, None, None]  # of the variance by the model
        score = score + 0.5 * slope * (scaled**2 * tail - inverse)
        weight = weight + 0.5 * slope**2 * inverse**2 * (dof / (dof + 3.0))
        loss = loss + torch.where(good, torch.log(var), 0.0)
    return loss, score, weight


def _pixel_sums(images, weight, score):
    """Sums over pixels of ``weight images_i images_j``, and in the last row of ``score images_j``, double precision.

    Each galaxy's pixels fill whole cache lines, which makes the sums independent of the other galaxies of the batch.
    """
    return _products(torch.cat([images * weight[:, None], score[:, None]], 1), images)


def _products(left, images):
    """Sums over pixels of the products of ``left`` ``(B, I, pixels)`` and ``images`` ``(B, J, pixels)``, double."""
    missing = -images.shape[-1] % CACHE_LINE
    if missing:
        left, images = (torch.nn.functional.pad(side, (0, missing)) for side in (left, images))
    return torch.bmm(left, images.transpose(1, 2)).double()


def image_products(images: Tensor, other: Tensor) -> Tensor:
    """Sums over pixels of the product of each image with another one.

    Parameters
    ----------
    images : Tensor
        Shape ``(B, J, ny, nx)``.
    other : Tensor
        Image for each row, shape ``(B, ny, nx)``.

    Returns
    -------
    Tensor
        Shape ``(B, J)``, double precision, the same whatever the other rows.
    """
    return _products(other.flatten(1)[:, None], images.flatten(2))[:, 0]
