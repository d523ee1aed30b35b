"""Distance between two posteriors of the same galaxy, from which a small network learns what a large one knows."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["gaussian_divergence", "level_distance"]


def gaussian_divergence(target: tuple[Tensor, Tensor], centre: Tensor, factor: Tensor) -> Tensor:
    """Kullback-Leibler divergence of Gaussians from those of a teacher, large values compressed.

    Parameters
    ----------
    target : tuple of Tensor
        Centres ``(B, P)`` and lower triangular factors ``(B, P, P)`` of the covariances of the teacher.
    centre, factor : Tensor
        Those of the network that learns, of the same shapes.

    Returns
    -------
    Tensor
        ``log(1 + D)`` of the divergence D of each galaxy, shape ``(B,)``. It is D where the two agree, and keeps the
        few galaxies of which the network knows nothing yet from drowning all others.
    """
    target_centre, target_factor = target
    offset = torch.linalg.solve_triangular(factor, (target_centre - centre)[..., None], upper=False)
    ratio = torch.linalg.solve_triangular(factor, target_factor, upper=False)
    log_ratio = ratio.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    trace = ratio.square().sum((-2, -1)) - centre.shape[-1]
    divergence = 0.5 * (trace + offset.square().sum((-2, -1))) - log_ratio
    return torch.log1p(divergence.clamp_min(0.0))


def level_distance(target: Tensor, levels: Tensor, width: Tensor) -> Tensor:
    """Mean distance of quantiles from those of a teacher, in units of the error.

    Parameters
    ----------
    target, levels : Tensor
        Quantiles of teacher and network, shape ``(B, Q, P)``.
    width : Tensor
        Half of the 68 % interval of the teacher, shape ``(B, P)``.

    Returns
    -------
    Tensor
        Half the square of the distance where it is small, proportional to the distance where it is large, sum over
        the quantiles and parameters, shape ``(B,)``.
    """
    off = (levels - target) / width[:, None]
    return torch.nn.functional.huber_loss(off, torch.zeros_like(off), reduction="none").sum((1, 2))
