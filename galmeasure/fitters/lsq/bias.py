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
from galmeasure.render.sersic import RAW_INDEX, is_narrow_ridge

__all__ = ["evaluate_with_bias", "likelihood_bias", "parameter_covariance"]

_FAR = 0.05  # sigma to the maximum, by a Newton step: somewhat more than that from which a fit ends without a model
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Loss, half its negative gradient, half its curvature, bias of a maximum at this point, and light in the stamp.

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
        As of `Problem.evaluate`, and as of `likelihood_bias`; one model serves both. The bias is NaN where the maximum
        is so far that the fit cannot end here.
    inside : Tensor
        Fraction of the model's flux within the stamp, shape ``(K,)``, double precision.
    """
    columns = []
    # rows that are rendered on one grid go together
    order = (
        is_narrow_ridge(_variables.to_parameters(variables), problem.psf.padded).to(torch.uint8).argsort(stable=True)
    )
    for chunk, point in zip(*_in_chunks(problem, rows[order], variables[order]), strict=True):
        parameters = _variables.to_parameters(point)
        background = point[:, _variables.BACKGROUND] if point.shape[1] > N_PARAMETERS else None
        drawn = problem.draw(chunk, parameters, background)
        terms = problem.equations(chunk, point, *drawn)
        of_variables = _variable_covariance(terms[2], free)
        near = torch.nonzero(torch.einsum("bi,bij,bj->b", terms[1], of_variables, terms[1]) < _FAR**2)[:, 0]
        bias = torch.full_like(point, torch.nan)
        if len(near):
            covariance = _by_parameters(of_variables[near], point[near])
            of_near = parameters[near], tuple(images[near] for images in drawn), covariance
            bias[near] = _where_finite(_bias(problem, chunk[near], *of_near, int(free.sum())))
        inside = drawn[1][:, RAW_INDEX["model"]].flatten(1).sum(1, dtype=torch.float64)
        columns.append((*terms, bias, inside))
    back = order.argsort()
    return tuple(torch.cat(column)[back] for column in zip(*columns, strict=True))


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
    return _by_parameters(_variable_covariance(hessian, free), variables)


def _variable_covariance(hessian, free):
    """Covariance of the variables of the fit."""
    covariance = torch.zeros_like(hessian)
    index = torch.nonzero(free)[:, 0]
    covariance[:, index[:, None], index] = invert_information(hessian[:, free][:, :, free])
    return covariance


def _by_parameters(covariance, variables):
    """Covariance of parameters (and background) from that of the variables."""
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
