"""Several problems that are solved side by side, as one: a step of the minimiser costs little more for many rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

__all__ = ["JointProblem"]


class Evaluated(Protocol):
    """What a minimiser needs of a problem."""

    def evaluate(self, rows: Tensor, variables: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, half the negative gradient and half the expected second derivative of some rows."""


@dataclass(frozen=True)
class JointProblem:
    """Rows of several problems under one numbering.

    Parameters
    ----------
    parts : tuple
        Problems with a method ``evaluate(rows, variables)``.
    part : Tensor
        Position of each row's problem in ``parts``, shape ``(B,)``.
    local : Tensor
        Number of each row in its problem, shape ``(B,)``.
    """

    parts: tuple[Evaluated, ...]
    part: torch.Tensor
    local: torch.Tensor

    @classmethod
    def of(cls, parts: Sequence[Evaluated], rows: Sequence[Tensor]) -> Self:
        """Join problems of rows that were numbered already.

        Parameters
        ----------
        parts : sequence
            Problems with a method ``evaluate``.
        rows : sequence of Tensor
            Numbers that the rows of each problem get; together 0 to their number less one.
        """
        count = sum(len(index) for index in rows)
        part = torch.zeros(count, dtype=torch.int64, device=rows[0].device)
        local = torch.zeros_like(part)
        for position, index in enumerate(rows):
            part[index] = position
            local[index] = torch.arange(len(index), device=part.device)
        return cls(tuple(parts), part, local)

    def evaluate(self, rows: Tensor, variables: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, half the negative gradient and half the expected second derivative, by the fit's variables.

        Parameters
        ----------
        rows : Tensor
            Rows of the joint problem, shape ``(K,)``.
        variables : Tensor
            Variables of the fit, shape ``(K, P)``, double precision.
        """
        return self.apply(lambda problem, index, points: problem.evaluate(index, points), rows, variables)

    def apply(self, function: Callable[..., tuple[Tensor, ...]], rows: Tensor, variables: Tensor) -> tuple[Tensor, ...]:
        """Apply a function to each problem and its rows, and put the results into the order of the rows.

        Parameters
        ----------
        function : callable
            ``function(problem, local_rows, variables)`` gives a tuple of tensors with one entry per row.
        rows : Tensor
            Rows of the joint problem, shape ``(K,)``.
        variables : Tensor
            Variables of the fit, shape ``(K, P)``, double precision.

        Returns
        -------
        tuple of Tensor
            Results of all rows.
        """
        part, local = self.part[rows], self.local[rows]
        terms = None
        for position, problem in enumerate(self.parts):
            chosen = torch.nonzero(part == position)[:, 0]
            if len(chosen):
                values = function(problem, local[chosen], variables[chosen])
                if terms is None:
                    terms = tuple(value.new_empty((len(rows), *value.shape[1:])) for value in values)
                for term, value in zip(terms, values, strict=True):
                    term[chosen] = value
        return terms
