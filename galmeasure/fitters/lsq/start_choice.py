"""The better of two starts of each fit: the one that was given, and the one from moments."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from galmeasure.fitters import variables as _variables
from galmeasure.fitters.lsq.levenberg import minimise
from galmeasure.fitters.moments import solve_flux
from galmeasure.fitters.problem import Problem
from galmeasure.parameters import SERSIC

__all__ = ["Begun", "choose_starts"]

_FLUX = SERSIC.index("flux")
_SAME_LOSS = 1.0  # a smaller difference of two losses is no reason to prefer a start
_SAME_FLUX = 9.0  # nor is this one, 3 sigma, to replace a flux that is given
_GOOD_FIT_SIGMA = 5.0
_CLEAR_RATIO = 10.0  # of what two losses have too much: a start that fits so much better needs no trial
_TRIAL_EVALUATIONS = 3
"""Evaluations of each of two starts that are tried against one another, its own included."""


@dataclass(frozen=True)
class Begun:
    """Starts that were chosen, and how far trials of them have come.

    Parameters
    ----------
    start : Tensor
        Sersic parameters that each fit began from, shape ``(B, 7)``, double precision.
    variables : Tensor
        Variables of the fit to go on from, shape ``(B, 7)`` or ``(B, 8)`` with a background.
    """

    start: torch.Tensor
    variables: torch.Tensor


def choose_starts(
    problem: Problem,
    given: Tensor,
    moments: Tensor,
    bounds: Callable[..., tuple[Tensor, Tensor]],
    options: Mapping[str, Any],
) -> Begun:
    """Choose between two starts of each fit by their losses and, where these do not decide, by a few steps of both.

    A flux that is free is solved for first, at the other parameters of each start; a given one is kept where that
    gains nothing beyond the noise. The start with the smaller loss is not always in the better basin. Where both fit
    badly and neither is far better than the other, both are therefore followed for a few evaluations, and the fit goes
    on from the better end.

    Parameters
    ----------
    problem : Problem
        Least-squares problem of the cutouts.
    given, moments : Tensor
        Sersic parameters of the two starts, equal where parameters are fixed, shape ``(B, 7)``, double precision.
    bounds : callable
        ``bounds(variables)`` gives the lower and upper bounds ``(B, P)`` of a fit that begins there.
    options : dict
        Options of `minimise`; ``free`` (shape ``(P,)``) says how many variables there are.

    Returns
    -------
    Begun
        One row per cutout.
    """
    free = options["free"]
    start = given.clone()
    variables = _fit_variables(start, len(free))
    rows = torch.nonzero((given != moments).any(1))[:, 0]
    if not len(rows):
        return Begun(start, variables)
    pair = [_inside(candidate[rows], rows, bounds) for candidate in (start, moments)]
    losses = [_with_solved_flux(problem, candidate, rows, free[_FLUX]) for candidate in pair]
    margin = losses[1] - losses[0]
    second = margin < -_SAME_LOSS
    start[rows] = torch.where(second[:, None], pair[1], pair[0])
    variables[rows] = _fit_variables(start[rows], len(free))
    tried = _undecided(losses, problem.good[rows])
    rows, pair = rows[tried], [candidate[tried] for candidate in pair]
    if len(rows):
        ends = [_trial(problem, candidate, rows, bounds, options) for candidate in pair]
        second = (ends[1].loss < ends[0].loss)[:, None]
        start[rows] = torch.where(second, pair[1], pair[0])
        variables[rows] = torch.where(second, ends[1].x, ends[0].x)
    return Begun(start, variables)


def _undecided(losses, good):
    """Whether neither of two losses ``(K,)`` each is that of a good fit, and neither is far below the other."""
    n_pixels = good.flatten(1).sum(1).double()
    low, high = torch.minimum(*losses) - n_pixels, torch.maximum(*losses) - n_pixels
    is_poor = low > _GOOD_FIT_SIGMA * torch.sqrt(2.0 * n_pixels)
    return is_poor & (high - low > _SAME_LOSS) & (high < _CLEAR_RATIO * low)


def _inside(parameters, rows, bounds):
    """Starts of some rows, moved into the bounds of the fit where they lie outside."""
    variables = _variables.from_parameters(parameters)
    clamped = torch.clamp(variables, *bounds(variables, rows))
    moved = (clamped != variables).any(1, keepdim=True)
    return torch.where(moved, _variables.to_parameters(clamped), parameters)


def _fit_variables(parameters, size):
    """Variables ``(K, size)`` of Sersic parameters ``(K, 7)``; a background begins at zero."""
    return torch.nn.functional.pad(_variables.from_parameters(parameters), (0, size - parameters.shape[1]))


def _with_solved_flux(problem, parameters, rows, is_free):
    """Losses ``(K,)`` of some starts, whose flux is replaced in place where it is free and that lowers the loss."""
    flux, losses = solve_flux(problem, parameters, rows)
    solved, given = losses.unbind(1)
    if not is_free:
        return given
    better = solved < given - _SAME_FLUX
    parameters[:, _FLUX] = torch.where(better, flux, parameters[:, _FLUX])
    return torch.where(better, solved, given)


def _trial(problem, parameters, rows, bounds, options):
    """Solution after a few evaluations of the fits of some rows."""
    variables = _fit_variables(parameters, len(options["free"]))
    lower, upper = bounds(variables, rows)
    options = {**options, "max_iter": min(_TRIAL_EVALUATIONS, options["max_iter"])}
    return minimise(lambda inner, inside: problem.evaluate(rows[inner], inside), variables, lower, upper, **options)
