"""Posteriors given some of the parameters: a Gaussian in unbounded coordinates, conditional on them."""

import torch
from torch import Tensor

from galmeasure.networks.transform import ParameterTransform

__all__ = ["conditional_gaussian"]


def conditional_gaussian(
    transform: ParameterTransform,
    mean: Tensor,
    covariance: Tensor,
    flux_scale: Tensor,
    given: Tensor,
    columns: tuple[int, ...],
) -> tuple[Tensor, Tensor]:
    """Mean and covariance of posteriors given some parameters.

    Parameters
    ----------
    transform : ParameterTransform
        Unbounded coordinates, in which the posterior is taken as a Gaussian.
    mean : Tensor
        Posterior means, shape ``(B, 7)``.
    covariance : Tensor
        Covariances of the parameters, shape ``(B, 7, 7)``.
    flux_scale : Tensor
        Unit of the flux, shape ``(B,)``.
    given : Tensor
        Parameters, shape ``(B, 7)``, of which those of ``columns`` are known; the others are not read.
    columns : tuple of int
        Places of the known parameters.

    Returns
    -------
    mean, covariance : Tensor
        The known parameters have the given values and no error.
    """
    held = list(columns)
    free = [column for column in range(mean.shape[1]) if column not in held]
    is_held = torch.zeros(mean.shape[1], dtype=torch.bool, device=mean.device)
    is_held[held] = True
    point = transform.forward(mean, flux_scale)
    target = transform.forward(torch.where(is_held, given, mean), flux_scale)
    inverse = torch.linalg.inv(transform.jacobian(point, flux_scale))
    unbounded = inverse @ covariance @ inverse.mT
    gain = torch.linalg.solve(unbounded[:, held][:, :, held], unbounded[:, held][:, :, free]).mT
    step = torch.zeros_like(point)
    step[:, held] = (target - point)[:, held]
    step[:, free] = (gain @ step[:, held, None])[..., 0]
    values = transform.inverse(point + step, flux_scale)
    values[:, held] = given[:, held]
    conditional = torch.zeros_like(unbounded)
    index = torch.tensor(free, device=mean.device)
    conditional[:, index[:, None], index] = unbounded[:, free][:, :, free] - gain @ unbounded[:, held][:, :, free]
    jacobian = transform.jacobian(point + step, flux_scale)
    conditional = jacobian @ conditional @ jacobian.mT
    conditional[:, held], conditional[:, :, held] = 0.0, 0.0
    return values, conditional
