"""Information of pixels about the Sersic parameters: Fisher matrix and Cramer-Rao bound."""

from collections.abc import Sequence

import torch
from torch import Tensor

from galmeasure.likelihood.white_noise import normal_equations
from galmeasure.render import PSFGrid, render_sersic

__all__ = ["cramer_rao_bound", "fisher_matrix", "invert_information"]


def fisher_matrix(
    parameters: Tensor,
    psf: PSFGrid,
    error: Tensor,
    *,
    psf_index: Tensor | None = None,
    good: Tensor | None = None,
    gain: Tensor | None = None,
) -> Tensor:
    """Expected information of images about the seven Sersic parameters.

    Parameters
    ----------
    parameters : Tensor
        Sersic parameters, shape ``(B, 7)``.
    psf : PSFGrid
        Transforms of the PSFs, from :func:`galmeasure.render.prepare_psf`.
    error : Tensor
        1-sigma noise of the pixels; broadcasts to ``(B, ny, nx)``.
    psf_index, good, gain : Tensor, optional
        Arguments of :func:`galmeasure.render.render_sersic` and :func:`log_likelihood`, with the same meaning.

    Returns
    -------
    Tensor
        Shape ``(B, 7, 7)``, double precision.
    """
    model, jacobian = render_sersic(parameters, psf, psf_index, jacobian=True)
    good = torch.ones_like(model, dtype=torch.bool) if good is None else good
    return normal_equations(model, jacobian, model, error, good, gain).fisher


def cramer_rao_bound(fisher: Tensor, free: Sequence[int] | None = None) -> Tensor:
    """Smallest 1-sigma error that an unbiased estimator can have.

    Parameters
    ----------
    fisher : Tensor
        Expected information, shape ``(B, P, P)``.
    free : sequence of int, optional
        Columns of the parameters that are free; the others count as fixed, with a bound of 0. All by default.

    Returns
    -------
    Tensor
        Shape ``(B, P)``; NaN where the information matrix is singular.
    """
    free = list(range(fisher.shape[-1])) if free is None else list(free)
    bound = torch.zeros_like(fisher[..., 0])
    bound[..., free] = torch.sqrt(invert_information(fisher[..., free, :][..., free]).diagonal(dim1=-2, dim2=-1))
    return bound


def invert_information(fisher: Tensor) -> Tensor:
    """Inverse of symmetric positive matrices ``(B, P, P)``, balanced first; NaN where singular or not finite."""
    scale = fisher.diagonal(dim1=-2, dim2=-1).clamp_min(0.0).sqrt()
    outer = scale[..., :, None] * scale[..., None, :]
    balanced = fisher / outer
    usable = torch.isfinite(balanced).flatten(-2).all(-1)
    identity = torch.eye(fisher.shape[-1], dtype=fisher.dtype, device=fisher.device)
    factor, info = torch.linalg.cholesky_ex(torch.where(usable[..., None, None], balanced, identity))
    usable = (usable & (info == 0))[..., None, None]
    inverse = torch.cholesky_inverse(torch.where(usable, factor, identity)) / outer
    return torch.where(usable, inverse, torch.nan)
