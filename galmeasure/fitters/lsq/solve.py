"""The fits of many stamps: in Fourier space where that can be, then with the exact likelihood; some from two starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from galmeasure.fitters.lsq.bias import evaluate_with_bias
from galmeasure.fitters.lsq.fourier import FourierProblem
from galmeasure.fitters.lsq.joint import Evaluated, JointProblem
from galmeasure.fitters.lsq.levenberg import Solution, minimise
from galmeasure.parameters import SERSIC

__all__ = ["solve"]

_N, _R_EFF, _G1, _G2 = SERSIC.indices("n", "r_eff", "g1", "g2")
_SIZES, _SHEAR = SERSIC.slice("n", "r_eff"), SERSIC.slice("g1", "g2")
_SECOND_STARTS = (0.8, 5.0)  # n, when the first fit ended above and below _N_MIDDLE
_N_MIDDLE = 2.0
_N_FLAT = 0.6
_ELONGATED = 2.0  # of the unbounded shear
_SLOW = 15
_SECOND_ITERATIONS = 15  # a second start that is better shows it by then
_NEAR_TOLERANCE = 1e-2  # of the squared length, in sigma, of the last step in Fourier space
_CORRECTIONS = 10
_MARGIN = 1e-3  # of a loss and of a variable: smaller differences are none


def solve(
    exact: JointProblem,
    fourier: Sequence[FourierProblem],
    start: Tensor,
    lower: Tensor,
    upper: Tensor,
    options: Mapping[str, Any],
    *,
    with_bias: bool,
) -> tuple[Solution, Tensor]:
    """Minimise the losses of all rows.

    Parameters
    ----------
    exact : JointProblem
        Problems in pixels.
    fourier : sequence of FourierProblem
        Problems in Fourier space of some of the rows.
    start, lower, upper : Tensor
        Variables to begin from and their bounds, shape ``(B, P)``, double precision.
    options : dict
        Options of `galmeasure.fitters.lsq.levenberg.minimise`.
    with_bias : bool
        Also compute the bias of the maximum where that costs no other evaluation.

    Returns
    -------
    solution : Solution
        Minima of the exact losses.
    bias : Tensor
        Bias of parameters (and background) at the minimum, NaN where it is not known, shape ``(B, P)``.
    """
    solution, bias = Solution.unsolved(start), torch.full_like(start, torch.nan)
    is_near = torch.zeros(len(start), dtype=torch.bool, device=start.device)
    if fourier:
        rows = torch.cat([problem.rows for problem in fourier])
        near = _Near.of(fourier, exact, rows, start[rows], lower[rows], upper[rows], options)
        usable = torch.isfinite(near.solution.loss)
        ends, of_ends = near.polish(torch.nonzero(usable)[:, 0], options, with_bias)
        rows = rows[usable]
        is_near[rows] = True
        solution.put(rows, ends, torch.ones_like(ends.converged))
        solution.n_iter[rows] = ends.n_iter
        bias[rows] = of_ends
    others = torch.nonzero(~is_near)[:, 0]
    if len(others):
        ends = _minimise_rows(exact, others, start[others], lower, upper, options, options["max_iter"])
        solution.put(others, ends, torch.ones_like(ends.converged))
        solution.n_iter[others] = ends.n_iter
    if options["free"][_N]:
        slow = ~solution.converged | (solution.n_iter > _SLOW)
        doubtful = _doubtful(solution, lower, upper) & (~is_near | slow)
        _second_start(exact, solution, doubtful, lower, upper, options)
        bias[doubtful] = torch.nan
    return solution, bias


@dataclass(frozen=True)
class _Near:
    """Fits in Fourier space, which end near those in pixels."""

    problem: JointProblem
    exact: JointProblem
    rows: torch.Tensor  # of the problems in pixels
    solution: Solution
    lower: torch.Tensor
    upper: torch.Tensor

    @classmethod
    def of(cls, fourier, exact, rows, start, lower, upper, options):
        """Fit in Fourier space, from a second start as well where the first was doubtful."""
        places = torch.arange(len(rows), device=rows.device).split([len(problem.rows) for problem in fourier])
        joint = JointProblem.of(fourier, places)
        solution = minimise(joint.evaluate, start, lower, upper, tolerance=_NEAR_TOLERANCE, **options)
        if options["free"][_N]:
            _second_start(joint, solution, _doubtful(solution, lower, upper), lower, upper, options)
        return cls(joint, exact, rows, solution, lower, upper)

    def polish(self, local, options, with_bias):
        """Minima of the exact losses of the fits ``local``, and their bias where it comes for nothing."""
        rows, lower, upper = self.rows[local], self.lower[local], self.upper[local]
        corrected = self._corrected(local, options)
        if with_bias:
            free = options["free"]
            *terms, bias = self.exact.apply(
                lambda problem, index, points: evaluate_with_bias(problem, index, points, free), rows, corrected
            )
        else:
            terms, bias = self.exact.evaluate(rows, corrected), torch.full_like(corrected, torch.nan)
        at_hand = [terms]

        def evaluate(inner, variables):
            return at_hand.pop() if at_hand else self.exact.evaluate(rows[inner], variables)

        solution = minimise(evaluate, corrected, lower, upper, **options)
        return solution, torch.where((solution.n_iter == 1)[:, None], bias, torch.nan)

    def _corrected(self, local, options):
        """Ends of the fits in Fourier space, whose losses get the derivatives of the exact ones there."""
        here = self.solution.x[local]
        terms = self.exact.evaluate(self.rows[local], here)
        differences = [one - other for one, other in zip(terms, self.problem.evaluate(local, here), strict=True)]
        usable = torch.isfinite(differences[0]) & torch.isfinite(differences[2]).flatten(1).all(1)
        _, gradient, hessian = (
            torch.where(usable.view(-1, *(1,) * (term.ndim - 1)), term, 0.0) for term in differences
        )

        def evaluate(inner, variables):
            loss, slope, curvature = self.problem.evaluate(local[inner], variables)
            step = variables - here[inner]
            bent = (hessian[inner] @ step[:, :, None])[:, :, 0]
            loss = loss + (step * (bent - 2.0 * gradient[inner])).sum(1)
            return loss, slope + gradient[inner] - bent, curvature + hessian[inner]

        options = {**options, "max_iter": min(_CORRECTIONS, options["max_iter"])}
        return minimise(evaluate, here, self.lower[local], self.upper[local], **options).x


def _doubtful(solution, lower, upper):
    """Fits that were slow, failed, or ended at a bound, elongated or with a very flat profile, boolean ``(B,)``."""
    x = solution.x
    at_bound = ((x[:, _SIZES] < lower[:, _SIZES] + _MARGIN) | (x[:, _SIZES] > upper[:, _SIZES] - _MARGIN)).any(1)
    elongated = torch.hypot(x[:, _G1], x[:, _G2]) > _ELONGATED
    flat = torch.exp(x[:, _N]) < _N_FLAT
    doubtful = at_bound | elongated | flat | ~solution.converged | (solution.n_iter > _SLOW)
    return doubtful & torch.isfinite(solution.loss)


def _second_start(problem: Evaluated, solution, doubtful, lower, upper, options):
    """Start doubtful fits again from another Sersic index, and keep the better end, in place."""
    x, free = solution.x, options["free"]
    rows = torch.nonzero(doubtful)[:, 0]
    if not len(rows):
        return
    start = x[rows].clone()
    low, high = (torch.full_like(start[:, _N], value).log() for value in _SECOND_STARTS)
    start[:, _N] = torch.where(start[:, _N] > torch.log(torch.tensor(_N_MIDDLE)), low, high)
    start[:, _SHEAR] = torch.where(free[_SHEAR], 0.5 * start[:, _SHEAR].clamp(-1.0, 1.0), start[:, _SHEAR])
    start[:, _R_EFF] = torch.where(free[_R_EFF], start[:, _R_EFF].clamp_min(-0.7), start[:, _R_EFF])
    restarted = _minimise_rows(problem, rows, start, lower, upper, options, _SECOND_ITERATIONS)
    solution.n_iter[rows] += restarted.n_iter
    better = restarted.loss < solution.loss[rows] - _MARGIN
    solution.put(rows[better], restarted, better)
    rows = rows[better & ~restarted.converged]
    if len(rows):
        continued = _minimise_rows(problem, rows, solution.x[rows], lower, upper, options, options["max_iter"])
        solution.n_iter[rows] += continued.n_iter
        solution.put(rows, continued, torch.ones_like(continued.converged))


def _minimise_rows(problem, rows, start, lower, upper, options, max_iter):
    """Minimise some rows of a problem again, with at most ``max_iter`` evaluations."""
    options = {**options, "max_iter": min(max_iter, options["max_iter"])}
    return minimise(
        lambda inner, variables: problem.evaluate(rows[inner], variables), start, lower[rows], upper[rows], **options
    )
