"""Starting values from adaptive moments of the cutout and of its PSF."""

from collections.abc import Callable

import torch
from torch import Tensor

from galmeasure.fitters.problem import Problem
from galmeasure.likelihood import fit_loss, variance
from galmeasure.parameters import G_MAX, SERSIC
from galmeasure.render import render_raw
from galmeasure.utils.chunks import CACHE_LINE

__all__ = ["psf_moments", "solve_flux", "starting_values"]

_FLUX = SERSIC.index("flux")
_ITERATIONS = 8
_PSF_REACH = 20  # pixels
_SMALLEST = 0.4  # variance of the weight, pixels squared
_N_START = 2.0
_RADIUS_PER_SIGMA = 0.9  # half-light radius of a galaxy of index 2 over its adaptive Gaussian width, about


def _quadratic_basis(shape, device, dtype):
    """Rows 1, x, y, x^2, x y, y^2 about the stamp's centre, shape ``(6, ny nx)``, filled up to whole cache lines."""
    ny, nx = shape
    y = torch.arange(ny, device=device, dtype=dtype) - (ny - 1) / 2.0
    x = torch.arange(nx, device=device, dtype=dtype) - (nx - 1) / 2.0
    y, x = (grid.flatten() for grid in torch.meshgrid(y, x, indexing="ij"))
    basis = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y])
    return torch.nn.functional.pad(basis, (0, -basis.shape[1] % CACHE_LINE))


def adaptive_moments(image: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and covariance of the elliptical Gaussian that matches each image (Bernstein & Jarvis 2002, section 3).

    Parameters
    ----------
    image : Tensor
        Shape ``(B, ny, nx)``, masked pixels 0.
    centre : Tensor
        First guess of x, y relative to the stamp's centre, shape ``(B, 2)``.

    Returns
    -------
    centre : Tensor
        Shape ``(B, 2)``, relative to the stamp's centre.
    covariance : Tensor
        Shape ``(B, 2, 2)``, pixels squared, positive definite.
    """
    shape = image.shape[-2:]
    flat = torch.nn.functional.pad(image.flatten(1), (0, -image[0].numel() % CACHE_LINE))
    # one product a galaxy: in a product with all of them at once, rounding would depend on their number
    basis = _quadratic_basis(shape, image.device, image.dtype).expand(len(flat), -1, -1)
    largest = (min(shape) / 3.0) ** 2
    identity = torch.eye(2, dtype=image.dtype, device=image.device)
    covariance = identity * min(9.0, largest) + torch.zeros_like(image[:, :1, :1])
    reach = min(shape) / 4.0
    first = centre
    for _ in range(_ITERATIONS):
        inverse = torch.linalg.inv(covariance)
        a, b, c = _xx_xy_yy(inverse)
        x0, y0 = centre.unbind(1)
        exponent = torch.stack(
            [a * x0**2 + 2 * b * x0 * y0 + c * y0**2, -2 * (a * x0 + b * y0), -2 * (b * x0 + c * y0), a, 2 * b, c], 1
        )
        weighted = flat * torch.exp(-0.5 * torch.bmm(exponent[:, None], basis)[:, 0].clamp(0.0, 80.0))
        sums = torch.bmm(weighted[:, None], basis.transpose(1, 2))[:, 0]
        total = sums[:, 0]
        usable = total > 1e-3 * weighted.abs().sum(1).clamp_min(1e-20)
        x, y, xx, xy, yy = (sums[:, 1:] / total[:, None]).unbind(1)
        mean = torch.stack([x, y], 1)
        moment = torch.stack([xx - 2 * x * x0 + x0**2, xy - x * y0 - y * x0 + x0 * y0, yy - 2 * y * y0 + y0**2], 1)
        step = (2.0 * (mean - centre)).clamp(-2.0, 2.0)
        moved = (centre + step - first).clamp(-reach, reach) + first
        matched = _bounded(2.0 * moment, largest)
        centre = torch.where(usable[:, None], moved, centre)
        covariance = torch.where(usable[:, None, None], matched, covariance)
    return centre, covariance


def _xx_xy_yy(matrix):
    """Entries of symmetric matrices ``(B, 2, 2)``."""
    (xx, xy), (_, yy) = (row.unbind(1) for row in matrix.unbind(1))
    return xx, xy, yy


def _bounded(moments, largest):
    """Covariance ``(B, 2, 2)`` of moments xx, xy, yy with eigenvalues kept within bounds."""
    xx, xy, yy = torch.nan_to_num(moments, nan=1.0, posinf=1.0, neginf=1.0).unbind(1)
    half, difference = (xx + yy) / 2.0, (xx - yy) / 2.0
    spread = torch.hypot(difference, xy)
    upper = (half + spread).clamp(_SMALLEST, largest)
    lower = (half - spread).clamp(_SMALLEST, largest)
    lower = torch.maximum(lower, 0.02 * upper)
    ratio = torch.where(spread > 1e-9, (upper - lower) / 2.0 / spread.clamp_min(1e-9), torch.zeros_like(spread))
    mean = (upper + lower) / 2.0
    rows = [mean + ratio * difference, ratio * xy, ratio * xy, mean - ratio * difference]
    return torch.stack(rows, 1).reshape(-1, 2, 2)


def psf_moments(images: Tensor, oversampling: int) -> Tensor:
    """Adaptive covariance of PSF images ``(M, py, px)``, native pixels squared, shape ``(M, 2, 2)``.

    Oversampled images are sampled at native pixels about their centre, and wide ones are cut: this is for a start.
    """
    for axis in (-2, -1):
        centre = (images.shape[axis] - 1) // 2
        reach = min(centre // oversampling, _PSF_REACH)
        index = centre + oversampling * torch.arange(-reach, reach + 1, device=images.device)
        images = images.index_select(axis, index.clamp_max(images.shape[axis] - 1))
    images = images.float()
    centre = torch.zeros(images.shape[0], 2, device=images.device)
    return adaptive_moments(images / images.amax((1, 2), keepdim=True), centre)[1]


def starting_values(
    problem: Problem, psf_covariance: Tensor, centre: Tensor, flux_of: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Sersic parameters ``(B, 7)`` to start a fit from, double precision.

    Parameters
    ----------
    problem : Problem
        Least-squares problem of the cutouts.
    psf_covariance : Tensor
        Shape ``(B, 2, 2)``.
    centre : Tensor
        Where to look for the galaxy, stamp pixels x, y, shape ``(B, 2)``.
    flux_of : callable, optional
        Function that gives the best flux ``(B,)`` of models with parameters ``(B, 7)``; by default `solve_flux`, which
        renders them.
    """
    ny, nx = problem.psf.shape
    middle = torch.tensor([(nx - 1) / 2.0, (ny - 1) / 2.0], device=centre.device, dtype=centre.dtype)
    centre, covariance = adaptive_moments(problem.image, (centre - middle).to(problem.image.dtype))
    intrinsic = (covariance - psf_covariance.to(covariance.dtype)).double()
    xx, xy, yy = _xx_xy_yy(intrinsic)
    half, spread = (xx + yy) / 2.0, torch.hypot((xx - yy) / 2.0, xy)
    floor = 0.1 * psf_covariance.double().diagonal(dim1=1, dim2=2).mean(1)
    major, minor = torch.maximum(half + spread, floor), torch.maximum(half - spread, floor)
    q = torch.sqrt(minor / major)
    g = ((1.0 - q) / (1.0 + q)).clamp_max(0.6 * G_MAX)
    angle = torch.atan2(2.0 * xy, xx - yy)
    r_eff = _RADIUS_PER_SIGMA * (major * minor) ** 0.25
    x, y = (centre.double() + middle.double()).unbind(1)
    columns = [
        torch.ones_like(q),
        torch.full_like(q, _N_START),
        r_eff,
        g * torch.cos(angle),
        g * torch.sin(angle),
        x,
        y,
    ]
    parameters = torch.stack(columns, 1)
    parameters[:, _FLUX] = solve_flux(problem, parameters)[0] if flux_of is None else flux_of(parameters)
    return parameters


def solve_flux(problem: Problem, parameters: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Least-squares flux of each galaxy at its other parameters, and the losses with it and with the flux given.

    Parameters
    ----------
    problem : Problem
        Least-squares problem of the cutouts.
    parameters : Tensor
        Sersic parameters, shape ``(K, 7)``, double precision.
    rows : Tensor, optional
        Cutouts that the parameters belong to, shape ``(K,)``; all of them by default.

    Returns
    -------
    flux : Tensor
        Shape ``(K,)``, double precision.
    losses : Tensor
        Loss with this flux and with the one in ``parameters``, shape ``(K, 2)``; infinite where it is not finite.
    """
    if rows is None:
        rows = torch.arange(len(parameters), device=parameters.device)
    fluxes, losses, start = [], [], 0
    for chunk in problem.chunks(rows):
        image, error, good, gain = problem.data(chunk)
        values = parameters[start : start + len(chunk)]
        start += len(chunk)
        typed = values.to(image.dtype)
        model = render_raw(typed, problem.psf, problem.psf_index[chunk], derivatives=False)[:, 0]
        weight = good / variance(model, error)
        top, bottom = ((weight * model * pixels).flatten(1).sum(1, dtype=torch.float64) for pixels in (image, model))
        fluxes.append(top / bottom.clamp_min(1e-30))
        scaled = (flux[:, None, None].to(model.dtype) * model for flux in (fluxes[-1], values[:, _FLUX]))
        losses.append(
            torch.stack([fit_loss(at_flux, image, error, good, gain, dof=problem.dof) for at_flux in scaled], 1)
        )
    return torch.cat(fluxes), torch.nan_to_num(torch.cat(losses), nan=torch.inf, posinf=torch.inf)
