"""The noise model, and what follows from it: log-likelihood, score, Fisher matrix, Cramer-Rao bound.

Everywhere: ``image``, ``error`` and models are in the same unit, ``gain`` is electrons per that unit, and
``variance = error**2 + max(model, 0) / gain`` when a gain is given. Simulation and fit use this one model.
"""

from dataclasses import dataclass

import torch

from galmeasure.render import PSFGrid, render_sersic

__all__ = ["NormalEquations", "cramer_rao_bound", "fisher_matrix", "log_likelihood", "normal_equations", "variance"]

CACHE_LINE = 16
"""Single-precision numbers in a cache line: matrix products round alike wherever such a block lies in memory."""


@dataclass(frozen=True)
class NormalEquations:
    """Sums over pixels that a least-squares step needs, for images ``R_j`` (``J`` of them).

    Parameters
    ----------
    loss : Tensor
        Minus twice the log-likelihood without its constant, shape ``(B,)``, double precision.
    chi2 : Tensor
        Sum of squared residuals over the variance, shape ``(B,)``, double precision.
    score : Tensor
        Derivative of the log-likelihood along each image, shape ``(B, J)``, double precision.
    fisher : Tensor
        Expected information, shape ``(B, J, J)``, double precision.
    """

    loss: torch.Tensor
    chi2: torch.Tensor
    score: torch.Tensor
    fisher: torch.Tensor


def variance(model, error, gain=None):
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


def log_likelihood(model, image, error, good, gain=None, *, dof=None):
    """Log-likelihood of images, summed over their good pixels.

    Parameters
    ----------
    model, image : Tensor
        Shape ``(B, ny, nx)``.
    error : Tensor
        Broadcasts to ``image``.
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


def normal_equations(model, images, data, error, good, gain=None, *, dof=None):
    """Loss, score and Fisher matrix of one evaluation.

    Parameters
    ----------
    model : Tensor
        Expected image, shape ``(B, ny, nx)``.
    images : Tensor
        Derivatives of the model along ``J`` directions, shape ``(B, J, ny, nx)``.
    data, error, good, gain, dof
        As in :func:`log_likelihood`.

    Returns
    -------
    NormalEquations
        Pixel sums. With a Student t loss, the Fisher matrix is that of the t distribution.
    """
    residual = data - model
    var = variance(model, error, gain)
    inverse = good / var
    scaled = residual * inverse
    residual2 = residual * scaled
    loss, score, weight = residual2, scaled, inverse
    if dof is not None:
        loss = (dof + 1.0) * torch.log1p(residual2 / dof)
        tail = (dof + 1.0) / (dof + residual2)
        score, weight = scaled * tail, inverse * ((dof + 1.0) / (dof + 3.0))
        shot = scaled**2 * tail - inverse
        shot_weight = inverse**2 * (dof / (dof + 3.0))
    else:
        shot, shot_weight = scaled**2 - inverse, inverse**2
    if gain is not None:
        slope = (model > 0) / gain[:, None, None]  # of the variance by the model
        score = score + 0.5 * slope * shot
        weight = weight + 0.5 * slope**2 * shot_weight
        loss = loss + torch.where(good, torch.log(var), 0.0)
    sums = _pixel_sums(images.flatten(2), weight.flatten(1), score.flatten(1))
    fisher = sums[:, :-1]
    return NormalEquations(
        loss=loss.flatten(1).sum(1, dtype=torch.float64),
        chi2=residual2.flatten(1).sum(1, dtype=torch.float64),
        score=sums[:, -1],
        fisher=0.5 * (fisher + fisher.transpose(1, 2)),
    )


def _pixel_sums(images, weight, score):
    """Sums over pixels of ``weight images_i images_j``, and in the last row of ``score images_j``, double precision.

    Each galaxy's pixels fill whole cache lines, which makes the sums independent of the other galaxies of the batch.
    """
    left = torch.cat([images * weight[:, None], score[:, None]], 1)
    missing = -images.shape[-1] % CACHE_LINE
    if missing:
        left, images = (torch.nn.functional.pad(each, (0, missing)) for each in (left, images))
    return torch.bmm(left, images.transpose(1, 2)).double()


def fisher_matrix(parameters, psf: PSFGrid, error, *, psf_index=None, good=None, gain=None):
    """Expected information of images about the seven Sersic parameters.

    Parameters
    ----------
    parameters : Tensor
        Shape ``(B, 7)``.
    psf : PSFGrid
        From :func:`galmeasure.render.prepare_psf`.
    error : Tensor
        Broadcasts to ``(B, ny, nx)``.
    psf_index, good, gain : Tensor, optional
        As in :func:`galmeasure.render.render_sersic` and :func:`log_likelihood`.

    Returns
    -------
    Tensor
        Shape ``(B, 7, 7)``, double precision.
    """
    model, jacobian = render_sersic(parameters, psf, psf_index, jacobian=True)
    good = torch.ones_like(model, dtype=torch.bool) if good is None else good
    return normal_equations(model, jacobian, model, error, good, gain).fisher


def cramer_rao_bound(fisher, free=None):
    """Smallest 1-sigma error that an unbiased estimator can have.

    Parameters
    ----------
    fisher : Tensor
        Shape ``(B, P, P)``.
    free : sequence of int, optional
        Parameters that are not known; the others count as fixed, with a bound of 0. All by default.

    Returns
    -------
    Tensor
        Shape ``(B, P)``; NaN where the information matrix is singular.
    """
    free = list(range(fisher.shape[-1])) if free is None else list(free)
    bound = torch.zeros_like(fisher[..., 0])
    bound[..., free] = torch.sqrt(invert_information(fisher[..., free, :][..., free]).diagonal(dim1=-2, dim2=-1))
    return bound


def invert_information(fisher):
    """Inverse of symmetric positive matrices ``(B, P, P)``, balanced first; NaN where singular or not finite."""
    scale = fisher.diagonal(dim1=-2, dim2=-1).clamp_min(0.0).sqrt()
    outer = scale[..., :, None] * scale[..., None, :]
    balanced = fisher / outer
    usable = torch.isfinite(balanced).flatten(-2).all(-1)
    identity = torch.eye(fisher.shape[-1], dtype=fisher.dtype, device=fisher.device)
    factor, info = torch.linalg.cholesky_ex(torch.where(usable[..., None, None], balanced, identity))
    usable = (usable & (info == 0))[..., None, None]
    inverse = torch.cholesky_inverse(torch.where(usable, factor, identity)) / outer
    return torch.where(usable, inverse, torch.nan)
