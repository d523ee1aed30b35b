"""How well models fit their cutouts: S/N, chi-squared, pixels used, light inside the stamp, Cramer-Rao bounds."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from galmeasure.fitters.problem import Problem
from galmeasure.flags import Flag
from galmeasure.likelihood import cramer_rao_bound, normal_equations, variance
from galmeasure.parameters import N_PARAMETERS, SERSIC
from galmeasure.render import render_sersic

__all__ = ["Quality", "model_quality", "chunk_quality", "quality_flags"]

_FLUX, _X, _Y = SERSIC.indices("flux", "x", "y")
_BAD_FIT_SIGMA = 5.0
_TRUNCATED = 0.75


@dataclass(frozen=True)
class Quality:
    """Sums over the good pixels of each cutout.

    Parameters
    ----------
    chi2, snr : Tensor
        Shape ``(B,)``, double precision; NaN where there is no model.
    n_pixels : Tensor
        Good pixels, shape ``(B,)``.
    inside : Tensor
        Fraction of the model's flux within the stamp, shape ``(B,)``.
    crb : Tensor or None
        Cramer-Rao bounds, shape ``(B, 7)``.
    residual : Tensor or None
        Image minus model over the noise, 0 where bad, shape ``(B, ny, nx)``, where it was asked for.
    """

    chi2: torch.Tensor
    snr: torch.Tensor
    n_pixels: torch.Tensor
    inside: torch.Tensor
    crb: torch.Tensor | None = None
    residual: torch.Tensor | None = None

    @classmethod
    def join(cls, qualities: "Sequence[Quality]") -> Self:
        """Concatenate the rows of several qualities."""
        columns = ([getattr(quality, name) for quality in qualities] for name in _column_names(cls))
        return cls(*(None if column[0] is None else torch.cat(column) for column in columns))

    def cpu(self) -> "Quality":
        """Return the same on the CPU."""
        return Quality(*(None if column is None else column.cpu() for column in self._columns()))

    def first(self, count: int) -> "Quality":
        """Return the first rows."""
        return Quality(*(None if column is None else column[:count] for column in self._columns()))

    def put(self, rows: Tensor, quality: "Quality") -> None:
        """Replace the sums of some rows, in place, by those of another quality."""
        for name in ("chi2", "snr", "n_pixels", "inside"):
            getattr(self, name)[rows] = getattr(quality, name)

    def _columns(self):
        return [getattr(self, name) for name in _column_names(self)]

    def reduced(self, n_free: int) -> tuple[Tensor, Tensor]:
        """Degrees of freedom and chi-squared over them, shape ``(B,)``."""
        dof = (self.n_pixels - n_free).clamp_min(1).double()
        return dof, self.chi2 / dof


def _column_names(quality):
    return [column.name for column in fields(quality)]


def model_quality(
    problem: Problem,
    values: Tensor,
    background: Tensor | None = None,
    *,
    crb: bool = False,
    free: Sequence[int] = range(N_PARAMETERS),
) -> Quality:
    """Quality of models of all rows of a problem.

    Parameters
    ----------
    problem : Problem
        Least-squares problem of the cutouts.
    values : Tensor
        Shape ``(B, 7)``; rows with NaN have no model.
    background : Tensor, optional
        Constant per pixel, shape ``(B,)``.
    crb : bool, optional
        Also compute the bounds.
    free : sequence of int, optional
        Parameters that are not known, for the bounds.

    Returns
    -------
    Quality
        Of each row.
    """
    qualities = []
    for rows in problem.chunks(torch.arange(len(values), device=values.device)):
        level = None if background is None else background[rows]
        qualities.append(chunk_quality(problem, rows, values[rows], level, crb=crb, free=free))
    return Quality.join(qualities)


def chunk_quality(
    problem: Problem,
    rows: Tensor,
    values: Tensor,
    background: Tensor | None = None,
    *,
    crb: bool = False,
    free: Sequence[int] = range(N_PARAMETERS),
    enlarge: bool = True,
    residuals: bool = False,
) -> Quality:
    """Quality of models of a few rows, rendered in one go.

    Arguments are those of `model_quality` and ``enlarge`` of `render_sersic`; ``residuals`` keeps these.
    """
    image, error, good, gain = problem.data(rows)
    drawable = torch.nan_to_num(values, nan=0.5).to(image.dtype)
    rendered = render_sersic(drawable, problem.psf, problem.psf_index[rows], jacobian=crb, enlarge=enlarge)
    model = rendered[0] if crb else rendered
    total = model if background is None else model + background[:, None, None].to(model.dtype)
    weight = good * variance(total, error, gain).rsqrt()
    residual = weight * (image - total)
    chi2 = residual.square().flatten(1).sum(1, dtype=torch.float64)
    snr = (weight * model).square().flatten(1).sum(1, dtype=torch.float64).sqrt()
    inside = model.flatten(1).sum(1, dtype=torch.float64) / drawable[:, _FLUX]
    bound = None
    failed = ~torch.isfinite(values).all(1)
    if crb:
        images, columns = rendered[1], list(free)
        if background is not None:
            images = torch.cat([images, torch.ones_like(images[:, :1])], 1)
            columns = [*columns, N_PARAMETERS]
        fisher = normal_equations(total, images, image, error, good, gain).fisher
        bound = torch.where(failed[:, None], torch.nan, cramer_rao_bound(fisher, columns)[:, :N_PARAMETERS])
    chi2, snr = (torch.where(failed, torch.nan, column) for column in (chi2, snr))
    return Quality(chi2, snr, good.flatten(1).sum(1), inside, bound, residual if residuals else None)


def quality_flags(quality: Quality, n_free: int, values: Tensor, shapes: Tensor) -> Tensor:
    """Bits of models that do not fit, reach beyond the stamp, are negative or centred outside, shape ``(B,)``."""
    dof, reduced = quality.reduced(n_free)
    bad = reduced > 1.0 + _BAD_FIT_SIGMA * torch.sqrt(2.0 / dof)
    usable = torch.isfinite(values).all(1)
    x, y = values[:, _X], values[:, _Y]
    ny, nx = shapes.double().unbind(1)
    outside = (x < -0.5) | (y < -0.5) | (x > nx - 0.5) | (y > ny - 0.5)
    bits = bad * Flag.BAD_FIT | (usable & (quality.inside < _TRUNCATED)) * Flag.TRUNCATED
    return bits | (values[:, _FLUX] < 0) * Flag.NEGATIVE_FLUX | outside * Flag.CENTRE_OUTSIDE
