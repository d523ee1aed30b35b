"""The bias of maximum likelihood, to second order, so that it can be taken off.

Where the model bends within the errors, the maximum of the likelihood is off on average, although the noise is
Gaussian (Box 1971, J. R. Stat. Soc. B 33, 171): for compact or faint galaxies by up to a fifth of the error, and the
spread grows with it.
"""

import torch
from torch import Tensor

from galmeasure.fitters.problem import Problem
from galmeasure.likelihood import normal_equations, variance
from galmeasure.parameters import N_PARAMETERS
from galmeasure.render.curvature import render_curvature

__all__ = ["likelihood_bias"]

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
        biases.append(_bias(problem, rows, parameters[rows], level, covariance[rows], n_free))
    bias = torch.cat(biases)
    return torch.where(torch.isfinite(bias).all(1, keepdim=True), bias, 0.0)


def _bias(problem, rows, parameters, background, covariance, n_free):
    image, error, good, gain = problem.data(rows)
    model, raw, matrix = problem.draw(rows, parameters, background)
    curvature = render_curvature(
        parameters, covariance[:, :N_PARAMETERS, :N_PARAMETERS], problem.psf, problem.psf_index[rows]
    )
    equations = normal_equations(model, raw, model + 0.5 * curvature, error, good, gain)
    projected = matrix @ equations.score[:, :, None]
    chi2 = (good * (image - model) ** 2 / variance(model, error, gain)).flatten(1).sum(1, dtype=torch.float64)
    noise = (chi2 / (good.flatten(1).sum(1) - n_free).clamp_min(1)).clamp_max(1.0)
    bias = -(covariance @ projected)[:, :, 0] * noise[:, None]
    length = (-(bias * projected[:, :, 0]).sum(1)).clamp_min(0.0).mul(noise).sqrt()  # in sigma, correlations included
    return bias * (_LONGEST / length.clamp_min(_LONGEST))[:, None]
