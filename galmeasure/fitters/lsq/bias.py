"""The bias of maximum likelihood, to second order, so that it can be taken off.

Where the model bends within the errors, the maximum of the likelihood is off on average, although the noise is
Gaussian (Box 1971, J. R. Stat. Soc. B 33, 171): for compact or faint galaxies by up to a fifth of the error, and the
spread grows with it.
"""

import torch
from torch import Tensor

from galmeasure.fitters import variables as _variables
from galmeasure.fitters.problem import Problem
from galmeasure.likelihood import image_products, invert_information, variance
from galmeasure.parameters import N_PARAMETERS
from galmeasure.render.curvature import render_curvature

__all__ = ["evaluate_with_bias", "likelihood_bias", "parameter_covariance"]

_LONGEST = 1.0
"""Longest correction, in sigma, the parameters' correlations included: beyond it second order tells little."""


def likelihood_bias(
    problem: Problem, parameters: Tensor, background: Tensor | None, covariance: Tensor, n_free: int
) -> Tensor:
    """Mean offset of the maximum-likelihood estimate from the truth.

    Parameters
    ----------
    problem : Problem
        Least-squares problem of the cutouts.
    parameters : Tensor
        Shape ``(B, 7)``, at the maximum.
    background : Tensor or None
        Constant per pixel, shape ``(B,)``.
    covariance : Tensor
        Of parameters and background, shape ``(B, P, P)``.
    n_free : int
        Number of free parameters.

    Returns
    -------
    Tensor
        Shape ``(B, P)``; never longer than one sigma (chi-squared grows by 1 at most), and 0 where it cannot
        be told.

    Notes
    -----
    Half the second derivative, contracted with the covariance, is the mean of the model over the errors less the model;
    its projection on the parameters is the bias. The bias comes from the noise that is there, so it is scaled with the
    reduced chi-squared where this is below 1: data without noise are not corrected.
    """
    biases = []
    for rows in problem.chunks(torch.arange(len(parameters), device=parameters.device)):
        level = None if background is None else background[rows]
        drawn = problem.draw(rows, parameters[rows], level)
        biases.append(_bias(problem, rows, parameters[rows], drawn, covariance[rows], n_free))
    return _where_finite(torch.cat(biases))


def evaluate_with_bias(
    problem: Problem, rows: Tensor, variables: Tensor, free: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss, half its negative gradient, half its curvature, and the bias of a maximum at this point.

    Parameters
    ----------
    problem : Problem
        Least-squares problem of the cutouts, without a prior.
    rows : Tensor
        Rows of the problem, shape ``(K,)``.
    variables : Tensor
        Variables of the fit, shape ``(K, P)``, double precision.
    free : Tensor
        Variables that are free, boolean, shape ``(P,)``.

    Returns
    -------
    loss, gradient, hessian, bias : Tensor
        As of `Problem.evaluate`, and as of `likelihood_bias`; one model serves both.
    """
    columns = []
    for chunk, point in zip(*_in_chunks(problem, rows, variables), strict=True):
        parameters = _variables.to_parameters(point)
        background = point[:, _variables.BACKGROUND] if point.shape[1] > N_PARAMETERS else None
        drawn = problem.draw(chunk, parameters, background)
        terms = problem.equations(chunk, point, *drawn)
        covariance = parameter_covariance(terms[2], point, free)
        bias = _bias(problem, chunk, parameters, drawn, covariance, int(free.sum()))
        columns.append((*terms, _where_finite(bias)))
    return tuple(torch.cat(column) for column in zip(*columns, strict=True))


def _in_chunks(problem, rows, variables):
    """Rows and their variables in chunks that are rendered at once."""
    chunks = problem.chunks(rows)
    return chunks, variables.split([len(chunk) for chunk in chunks])


def parameter_covariance(hessian: Tensor, variables: Tensor, free: Tensor) -> Tensor:
    """Covariance of parameters (and background) from half the curvature of the loss by the variables of the fit.

    Parameters
    ----------
    hessian : Tensor
        Shape ``(B, P, P)``, double precision.
    variables : Tensor
        Variables of the fit, shape ``(B, P)``.
    free : Tensor
        Variables that are free, boolean, shape ``(P,)``; the others have no variance.
    """
    covariance = torch.zeros_like(hessian)
    index = torch.nonzero(free)[:, 0]
    covariance[:, index[:, None], index] = invert_information(hessian[:, free][:, :, free])
    chain = _variables.jacobian(variables)
    return chain.transpose(1, 2) @ covariance @ chain


def _where_finite(bias):
    return torch.where(torch.isfinite(bias).all(1, keepdim=True), bias, 0.0)


def _bias(problem, rows, parameters, drawn, covariance, n_free):
    """Bias of rows whose model and raw images are drawn."""
    image, error, good, gain = problem.data(rows)
    model, raw, matrix = drawn
    curvature = render_curvature(
        parameters, covariance[:, :N_PARAMETERS, :N_PARAMETERS], problem.psf, problem.psf_index[rows]
    )
    weight = good / variance(model, error, gain)
    projected = matrix @ image_products(raw, 0.5 * curvature * weight)[:, :, None]
    chi2 = (weight * (image - model) ** 2).flatten(1).sum(1, dtype=torch.float64)
    noise = (chi2 / (good.flatten(1).sum(1) - n_free).clamp_min(1)).clamp_max(1.0)
    bias = -(covariance @ projected)[:, :, 0] * noise[:, None]
    length = (-(bias * projected[:, :, 0]).sum(1)).clamp_min(0.0).mul(noise).sqrt()  # in sigma, correlations included
    return bias * (_LONGEST / length.clamp_min(_LONGEST))[:, None]
