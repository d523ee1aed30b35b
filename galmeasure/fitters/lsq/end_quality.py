"""Quality of fits from their last evaluation, without another model."""

import torch
from torch import Tensor

from galmeasure.fitters import variables as _variables
from galmeasure.fitters.lsq.levenberg import Solution
from galmeasure.fitters.problem import Problem
from galmeasure.fitters.quality import Quality
from galmeasure.parameters import N_PARAMETERS, SERSIC

__all__ = ["quality_of_ends"]

_FLUX = SERSIC.index("flux")
_LONGEST = 0.5  # sigma from the minimum: nearer ones have chi-squared to 0.15, the signal-to-noise ratio to 0.2 %
_INSIDE = 0.85  # of the light: with less of it the stamp may cut the galaxy off
_DETECTED = 5.0  # sigma of the flux: below it the model is no measure of itself


def quality_of_ends(problem: Problem, solution: Solution, values: Tensor, inside: Tensor) -> tuple[Quality, Tensor]:
    """Quality of models near minima whose losses and second derivatives are known.

    Around a minimum chi-squared is quadratic, and the model is linear, which gives its signal-to-noise ratio too.

    Parameters
    ----------
    problem : Problem
        Least-squares problem of the rows.
    solution : Solution
        Minima of its loss, which are not at bounds.
    values : Tensor
        Sersic parameters of the models, shape ``(B, 7)``, such as the minima less their bias.
    inside : Tensor
        Fraction of the model's flux within the stamp at the minimum, NaN where this is not known, shape ``(B,)``.

    Returns
    -------
    quality : Quality
        Of each row.
    is_known : Tensor
        Boolean, shape ``(B,)``: rows whose quality this is; others are too far from the minimum, badly determined or
        not within the stamp, and need a model.
    """
    n_pixels = problem.good.flatten(1).sum(1)
    if problem.gain is not None or problem.dof is not None or solution.x.shape[1] > N_PARAMETERS:
        unknown = [torch.full_like(inside, torch.nan) for _ in range(3)]
        return Quality(*unknown[:2], n_pixels, unknown[2]), torch.zeros_like(n_pixels, dtype=torch.bool)
    x, hessian = solution.x, solution.hessian
    step = _variables.from_parameters(values) - x
    length2 = torch.einsum("bi,bij,bj->b", step, hessian, step)
    growth = values[:, _FLUX] / x[:, _FLUX]
    model = step * growth[:, None]  # the model is this sum of its derivatives
    model[:, _FLUX] = values[:, _FLUX]
    snr2 = torch.einsum("bi,bij,bj->b", model, hessian, model)
    is_known = solution.converged & (inside > _INSIDE) & (length2 < _LONGEST**2)
    is_known &= (x[:, _FLUX] ** 2 * hessian[:, _FLUX, _FLUX] > _DETECTED**2) & (snr2 > 0.0)
    return Quality(solution.loss + length2, snr2.sqrt(), n_pixels, inside), is_known
