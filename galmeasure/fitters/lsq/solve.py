"""The fits of many stamps: in Fourier space where that can be, then with the exact likelihood; some from two starts."""

from collections.abc import Callable, Mapping
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
_NEAR_EVALUATIONS = 16
_ROUNDS = 5
_TRUST = 0.025
_DAMPING = 0.05
_CORRECTIONS = 10
_END_TOLERANCE = 1e-6
_MARGIN = 1e-3  # of a loss and of a variable: smaller differences are none


def solve(
    exact: JointProblem,
    fourier: FourierProblem | None,
    start: Tensor,
    lower: Tensor,
    upper: Tensor,
    options: Mapping[str, Any],
    *,
    with_bias: bool,
    finished: Callable[[int], None],
) -> tuple[Solution, Tensor, Tensor]:
    """Minimise the losses of all rows.

    Parameters
    ----------
    exact : JointProblem
        Problems of all rows in pixels.
    fourier : FourierProblem or None
        Problem in Fourier space of some of the rows.
    start, lower, upper : Tensor
        Variables to begin from and their bounds, shape ``(B, P)``, double precision.
    options : dict
        Options of the function `galmeasure.fitters.lsq.levenberg.minimise`.
    with_bias : bool
        Also compute the bias of the maximum where that costs no other evaluation.
    finished : callable
        Function that is told how many more fits are done.

    Returns
    -------
    solution : Solution
        Minima of the exact losses.
    bias : Tensor
        Bias of parameters (and background) at the minimum, NaN where it is not known, shape ``(B, P)``.
    inside : Tensor
        Fraction of the model's flux within the stamp there, NaN where it is not known, shape ``(B,)``.
    """
    solution, bias = Solution.unsolved(start), torch.full_like(start, torch.nan)
    inside = start.new_full((len(start),), torch.nan)
    is_near = torch.zeros(len(start), dtype=torch.bool, device=start.device)
    if fourier is not None:
        near = _Near(fourier, exact, fourier.rows, lower[fourier.rows], upper[fourier.rows], options)
        is_near[near.rows] = near.fit(start, solution, (bias, inside), finished, with_bias=with_bias)
    others = torch.nonzero(~solution.converged & (solution.n_iter < options["max_iter"]))[:, 0]
    if len(others):
        begin = torch.where(torch.isfinite(solution.loss[others])[:, None], solution.x[others], start[others])
        told = {**options, "finished": finished}
        ends = _minimise_rows(exact, others, begin, lower, upper, told, options["max_iter"])
        solution.put(others, ends, torch.ones_like(ends.converged))
        solution.n_iter[others] += ends.n_iter
        bias[others], inside[others] = torch.nan, torch.nan
    if options["free"][_N]:
        doubtful = _doubtful(solution, lower, upper) & ~(is_near & solution.converged)
        _second_start(exact, solution, doubtful, lower, upper, options)
        bias[doubtful], inside[doubtful] = torch.nan, torch.nan
    return solution, bias, inside


@dataclass(frozen=True)
class _Near:
    """Fits in Fourier space, which end near those in pixels, and what turns their ends into those.

    At the end of a fit the exact loss is evaluated. The loss in Fourier space plus the differences of its first and
    second derivatives from the exact ones then is a model of the exact loss, whose minimum is close to the exact one
    where it is close by: the model errs in the third derivative only.
    """

    fourier: FourierProblem
    exact: JointProblem
    rows: torch.Tensor  # of the problems in pixels
    lower: torch.Tensor
    upper: torch.Tensor
    options: Mapping[str, Any]

    def fit(self, start, solution, extra, finished, *, with_bias):
        """Fit all stamps; put minima into the rows of a solution, biases and light in the stamp into ``extra``.

        Returns which stamps have been evaluated.
        """
        near = minimise(
            self.evaluate, start[self.rows], self.lower, self.upper, **self._options(_NEAR_EVALUATIONS, _NEAR_TOLERANCE)
        )
        if self.options["free"][_N]:
            doubtful = _doubtful(near, self.lower, self.upper)
            _second_start(self, near, doubtful, self.lower, self.upper, self.options)
        is_near = torch.isfinite(near.loss)
        local = torch.nonzero(is_near)[:, 0]
        trial, damping = near.x[local], torch.zeros_like(near.loss)
        for _ in range(min(_ROUNDS, self.options["max_iter"])):
            if not len(local):
                break
            self._evaluate_exactly(local, trial, damping, solution, extra, with_bias=with_bias)
            count = len(local)
            local, trial = self._follow_model(local, damping, solution)
            finished(count - len(local))
        return is_near

    def evaluate(self, rows, variables):
        """Loss in Fourier space, half its negative gradient and half its curvature, priors included."""
        terms = self.fourier.evaluate(rows, variables)
        if self.exact.parts[0].prior is None:
            return terms
        prior = self.exact.apply(
            lambda problem, index, points: problem.prior.evaluate(index, points), self.rows[rows], variables
        )
        return tuple(term + extra for term, extra in zip(terms, prior, strict=True))

    def _options(self, max_iter, tolerance):
        return {**self.options, "max_iter": min(max_iter, self.options["max_iter"]), "tolerance": tolerance}

    def _evaluate_exactly(self, local, trial, damping, solution, extra, *, with_bias):
        """Evaluate exact losses at points; put those that are lower into the solution, and damp the others' models."""
        rows = self.rows[local]
        *terms, bias, inside = self._exact_terms(rows, trial, with_bias)
        solution.n_iter[rows] += 1
        better = torch.isfinite(terms[0]) & torch.isfinite(terms[2]).flatten(1).all(1)
        better &= terms[0] < solution.loss[rows]
        is_first = ~torch.isfinite(solution.loss[rows])
        damping[local] = torch.where(better, 0.25 * damping[local], (4.0 * damping[local]).clamp_min(_DAMPING))
        damping[local[is_first]] = 0.0
        at_trial = Solution(trial, *terms, torch.zeros_like(better), solution.n_iter[rows])
        solution.put(rows[better], at_trial, better)
        for column, of_rows in zip(extra, (bias, inside), strict=True):
            column[rows[better]] = of_rows[better]

    def _follow_model(self, local, damping, solution):
        """Go to the minima of the models of the exact losses; return those that are too far to be trusted."""
        local = local[torch.isfinite(solution.loss[self.rows[local]])]
        rows, weight = self.rows[local], damping[local]
        here = solution.of_rows(rows)
        ends = self._corrected(local, here, weight)
        step = ends.x - here.x
        length = torch.einsum("bi,bij,bj->b", step, here.hessian, step)
        near = ends.converged & (length < _TRUST**2) & (weight < _DAMPING)
        solution.put(rows[near], ends, near)
        return local[~near], ends.x[~near]

    def _exact_terms(self, rows, x, with_bias):
        if not with_bias:
            return *self.exact.evaluate(rows, x), torch.full_like(x, torch.nan), x.new_full((len(x),), torch.nan)
        free = self.options["free"]
        return self.exact.apply(
            lambda problem, index, points: evaluate_with_bias(problem, index, points, free), rows, x
        )

    def _corrected(self, local, here, damping):
        """Minima of the models of the exact losses around the points ``here``, damped."""
        of_near = self.evaluate(local, here.x)
        loss, gradient, hessian = (
            exact - near for exact, near in zip((here.loss, here.gradient, here.hessian), of_near, strict=True)
        )
        hessian = hessian + damping[:, None, None] * here.hessian

        def evaluate(inner, variables):
            of_model, slope, curvature = self.evaluate(local[inner], variables)
            step = variables - here.x[inner]
            bent = (hessian[inner] @ step[:, :, None])[:, :, 0]
            of_model = of_model + loss[inner] + (step * (bent - 2.0 * gradient[inner])).sum(1)
            return of_model, slope + gradient[inner] - bent, curvature + hessian[inner]

        options = self._options(_CORRECTIONS, _END_TOLERANCE)
        # the model is the exact loss where it was evaluated
        first = here.loss, here.gradient, (1.0 + damping[:, None, None]) * here.hessian
        return minimise(evaluate, here.x, self.lower[local], self.upper[local], first=first, **options)


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
