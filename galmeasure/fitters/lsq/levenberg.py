"""Batched Levenberg-Marquardt within bounds: many small problems at once; what has converged leaves the batch."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

__all__ = ["Solution", "minimise"]

_DAMPING = 1e-2
_DAMPING_MIN = 1e-9
_DAMPING_MAX = 1e10
_ROUNDING = 1e-6  # of the loss: differences below this are rounding


@dataclass
class Solution:
    """State of each problem.

    Parameters
    ----------
    x : Tensor
        Variables of the fits, shape ``(B, P)``.
    loss : Tensor
        Shape ``(B,)``; infinite for a problem that could not be evaluated at its start.
    gradient : Tensor
        Half the negative gradient of the loss, shape ``(B, P)``, at the last evaluation.
    hessian : Tensor
        Half the expected second derivative of the loss, shape ``(B, P, P)``, at the last evaluation.
    converged : Tensor
        Fits that have converged, boolean, shape ``(B,)``.
    n_iter : Tensor
        Evaluations used, shape ``(B,)``.
    """

    x: torch.Tensor
    loss: torch.Tensor
    gradient: torch.Tensor
    hessian: torch.Tensor
    converged: torch.Tensor
    n_iter: torch.Tensor

    @classmethod
    def unsolved(cls, start: Tensor) -> Self:
        """State before any evaluation, at ``start`` ``(B, P)``."""
        count, size = start.shape
        converged = torch.zeros(count, dtype=torch.bool, device=start.device)
        hessian = start.new_zeros(count, size, size)
        loss = start.new_full((len(start),), torch.inf)
        return cls(start.clone(), loss, torch.zeros_like(start), hessian, converged, converged.long())

    def of_rows(self, rows: Tensor) -> "Solution":
        """Return the state of some rows."""
        return Solution(*(getattr(self, column.name)[rows] for column in fields(self)))

    def put(self, rows: Tensor, solution: "Solution", chosen: Tensor) -> None:
        """Take over the rows ``chosen`` of another solution, all but the evaluations used."""
        for name in ("x", "loss", "gradient", "hessian", "converged"):
            getattr(self, name)[rows] = getattr(solution, name)[chosen]


def minimise(
    evaluate: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]],
    start: Tensor,
    lower: Tensor,
    upper: Tensor,
    *,
    free: Tensor | None = None,
    hold: Callable[[Tensor], Tensor] | None = None,
    max_step: Tensor | None = None,
    max_iter: int = 60,
    tolerance: float = 1e-4,
    first: tuple[Tensor, Tensor, Tensor] | None = None,
    finished: Callable[[int], None] | None = None,
) -> Solution:
    """Minimise ``B`` losses of ``P`` variables each.

    Parameters
    ----------
    evaluate : callable
        ``evaluate(rows, x)`` with ``rows`` (K,) and ``x`` (K, P) gives loss (K,), half the negative gradient
        (K, P) and half the (approximate) second derivative (K, P, P).
    start, lower, upper : Tensor
        Shape ``(B, P)``, double precision.
    free : Tensor, optional
        Boolean, shape ``(P,)``: variables that may move; all by default.
    hold : callable, optional
        ``hold(held)`` gets a boolean ``(K, P)``, true where a bound stops a variable, and gives it back with what
        has no meaning then held as well.
    max_step : Tensor, optional
        Shape ``(P,)``: no variable moves by more in one step; the whole step is shortened.
    max_iter : int, optional
        Most evaluations for one problem.
    tolerance : float, optional
        A problem has converged when its next step has a squared length, in units of sigma, below this; the step
        is taken, without another evaluation. So has one whose next step promises less than the rounding of the
        loss and finds neither a lower loss nor a smaller slope.
    first : tuple of Tensor, optional
        What ``evaluate`` gives at the start, where it is known and the start is within the bounds.
    finished : callable, optional
        Function that is told how many more problems are done, while others go on.

    Returns
    -------
    Solution
        Rows in the order of ``start``.
    """
    x = torch.clamp(start, lower, upper)
    count, size = x.shape
    free = torch.ones(size, dtype=torch.bool, device=x.device) if free is None else free
    rows = torch.arange(count, device=x.device)
    loss, gradient, hessian = evaluate(rows, x) if first is None else first
    usable = torch.isfinite(loss) & torch.isfinite(hessian).flatten(1).all(1) & torch.isfinite(gradient).all(1)
    at = Solution(
        x,
        torch.where(usable, loss, torch.inf),
        gradient.clone(),
        hessian.clone(),
        torch.zeros_like(usable),
        torch.ones_like(rows),
    )
    damping, growth = torch.full_like(loss, _DAMPING), torch.full_like(loss, 2.0)
    rows = rows[usable]
    n_waiting = count
    while len(rows):
        if finished is not None:
            finished(n_waiting - len(rows))
        n_waiting = len(rows)
        step = _step(at, rows, damping[rows], lower[rows], upper[rows], free, hold, max_step)
        target = torch.clamp(at.x[rows] + step, lower[rows], upper[rows])
        step = target - at.x[rows]
        curvature = torch.einsum("bi,bij,bj->b", step, at.hessian[rows], step)
        predicted = 2.0 * (step * at.gradient[rows]).sum(1) - curvature
        last = (curvature < tolerance) & (damping[rows] < 1.0)
        ended = rows[last]
        at.x[ended], at.converged[ended] = target[last], True
        at.loss[ended] -= predicted[last]
        rows, step, target, predicted = (column[~last] for column in (rows, step, target, predicted))
        if not len(rows):
            break
        loss, gradient, hessian = evaluate(rows, target)
        at.n_iter[rows] += 1
        gain = at.loss[rows] - loss
        finite = torch.isfinite(loss) & torch.isfinite(hessian).flatten(1).all(1)
        # what a loss cannot tell for its rounding, the slope along the step does
        tiny = predicted.abs() < _ROUNDING * at.loss[rows].abs().clamp_min(1.0)
        before, after = ((step * slope).sum(1).abs() for slope in (at.gradient[rows], gradient))
        flatter = tiny & (after < before)
        accept = finite & ((gain > 0) | flatter)
        taken = rows[accept]
        at.x[taken], at.loss[taken] = target[accept], loss[accept]
        at.gradient[taken], at.hessian[taken] = gradient[accept], hessian[accept]
        stalled = ~accept & tiny & (damping[rows] < 1.0)
        at.converged[rows[stalled]] = True
        ratio = torch.where(predicted > 0, gain / predicted.clamp_min(1e-300), torch.zeros_like(gain))
        ratio = torch.where(flatter, 1.0, ratio)
        shrink = (1.0 - (2.0 * ratio - 1.0).clamp(-1.0, 1.0) ** 3).clamp_min(0.1)
        factor = torch.where(accept, shrink, growth[rows])
        damping[rows] = (damping[rows] * factor).clamp_min(_DAMPING_MIN)
        growth[rows] = torch.where(accept, torch.full_like(gain, 2.0), growth[rows] * 2.0)
        rows = rows[~stalled & (damping[rows] < _DAMPING_MAX) & (at.n_iter[rows] < max_iter)]
    return at


def _step(at, rows, damping, lower, upper, free, hold, max_step):
    """Damped step; variables that are fixed, or at a bound that the step pushes against, stay.

    Variables that would cross a bound go to it, and the others take the step that belongs to that: to cut the step of
    one variable alone may lead uphill where they are correlated.
    """
    x, gradient, hessian = at.x[rows], at.gradient[rows], at.hessian[rows]
    stopped = free & (((x <= lower) & (gradient < 0)) | ((x >= upper) & (gradient > 0)))
    held = ~free | (stopped if hold is None else hold(stopped))
    step = _solve(gradient, hessian, damping, held)
    leaves = ((x <= lower) & (step < 0)) | ((x >= upper) & (step > 0))
    if (leaves & ~held).any():
        held = held | leaves
        step = _solve(gradient, hessian, damping, held)
    step = _shortened(step, max_step)
    crosses = ((x + step < lower) | (x + step > upper)) & ~held
    if crosses.any():
        to_bound = torch.where(crosses, torch.clamp(x + step, lower, upper) - x, 0.0)
        remaining = gradient - (hessian * to_bound[:, None, :]).sum(2)
        bounded = _shortened(_solve(remaining, hessian, damping, held | crosses) + to_bound, max_step)
        step = torch.where(crosses.any(1, keepdim=True), bounded, step)
    return step


def _shortened(step, max_step):
    """Steps, the whole of each shortened so that no variable moves by more than ``max_step``."""
    if max_step is None:
        return step
    return step / (step.abs() / max_step).amax(1, keepdim=True).clamp_min(1.0)


def _solve(gradient, hessian, damping, held):
    """Solve the balanced, damped normal equations; held variables get a zero step."""
    diagonal = hessian.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(held | (diagonal <= 0), torch.ones_like(diagonal), diagonal).sqrt()
    moves = (~held).to(hessian.dtype)
    matrix = hessian / (scale[:, :, None] * scale[:, None, :]) * (moves[:, :, None] * moves[:, None, :])
    matrix = matrix + torch.diag_embed(damping[:, None] + (1.0 - moves) + 1e-12)
    factor, _ = torch.linalg.cholesky_ex(matrix)
    step = torch.cholesky_solve((gradient / scale * moves)[:, :, None], factor)[:, :, 0] / scale
    return torch.nan_to_num(step * moves, nan=0.0, posinf=0.0, neginf=0.0)
