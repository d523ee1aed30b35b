"""Light that a periodic Fourier grid wraps around into the stamp, to be subtracted.

The copies of a galaxy that the grid's periods bring in are far away, so that they are smooth: they need no
PSF, and are evaluated in real space at a few nodes and interpolated by polynomials. All copies beyond a few
rings add up to a constant, the light outside the rings spread over one period.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from galmeasure.parameters import SERSIC

__all__ = ["light_beyond", "wrapped_light"]

_N, _X, _Y = SERSIC.indices("n", "x", "y")
_N_NODES = 6
_RINGS = 2
_N_ANGLES = 16  # of half a turn: the other half is the same
_N_LAGUERRE = 12


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept must serve autograd too
def _interpolation(side, device, dtype):
    """Chebyshev nodes on ``[0, side - 1]`` and the matrix ``(side, nodes)`` of their Lagrange polynomials."""
    order = torch.arange(_N_NODES, dtype=torch.float64, device=device)
    nodes = (side - 1) / 2.0 * (1.0 - torch.cos(torch.pi * (order + 0.5) / _N_NODES))
    pixels = torch.arange(side, dtype=torch.float64, device=device)
    matrix = torch.ones((side, _N_NODES), dtype=torch.float64, device=device)
    for i in range(_N_NODES):
        for j in range(_N_NODES):
            if i != j and side > 1:
                matrix[:, i] *= (pixels - nodes[j]) / (nodes[i] - nodes[j])
    if side == 1:
        matrix /= _N_NODES
    return nodes.to(dtype), matrix.to(dtype)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept must serve autograd too
def _lattice(padded, device, dtype):
    """Offsets ``(2, rings)`` in x and y of the periodic copies within the nearest rings."""
    steps = torch.arange(-_RINGS, _RINGS + 1, dtype=dtype, device=device)
    y, x = torch.meshgrid(steps * padded[0], steps * padded[1], indexing="ij")
    away = (x != 0) | (y != 0)
    return torch.stack([x[away], y[away]])


def wrapped_light(
    parameters: Tensor,
    form: Tensor,
    b_and_amplitude: Tensor,
    shape: tuple[int, int],
    padded: tuple[int, int],
    derivatives: bool,
) -> Tensor:
    """Images of the wrapped light and of its derivatives, shape ``(B, 7 or 1, ny, nx)``, for unit flux.

    Parameters
    ----------
    parameters : Tensor
        Sersic parameters, shape ``(B, 7)``.
    form : Tensor
        Coefficients of ``kappa**2``, shape ``(B, 3)``, from `galmeasure.render.sersic.quadratic_form`.
    b_and_amplitude : Tensor
        Value and slope in ``n`` of ``b_n`` and of the log amplitude, shape ``(B, 2, 2)``.
    shape : tuple of int
        Sides of the stamp ``(ny, nx)``, pixels.
    padded : tuple of int
        Sides of the period ``(ly, lx)``, pixels.
    derivatives : bool
        Let the derivatives by n, a, b, c, y, x follow the model.
    """
    nodes_y, matrix_y = _interpolation(shape[0], parameters.device, parameters.dtype)
    nodes_x, matrix_x = _interpolation(shape[1], parameters.device, parameters.dtype)
    offsets = _lattice(padded, parameters.device, parameters.dtype)
    dx = nodes_x - parameters[:, _X, None]
    dy = nodes_y - parameters[:, _Y, None]
    dx = (dx[:, None, None, :] + offsets[0][:, None, None]).expand(-1, -1, len(nodes_y), -1)
    dy = (dy[:, None, :, None] + offsets[1][:, None, None]).expand(-1, -1, -1, len(nodes_x))
    values = _profile(dx, dy, parameters[:, _N], form, b_and_amplitude, derivatives)  # (B, C, nodes, nodes)
    tail = light_beyond(parameters[:, _N, None], form, b_and_amplitude, padded, derivatives)
    values[:, : tail.shape[1]] += tail[:, :, None, None]
    return matrix_y @ values @ matrix_x.T


def _profile(dx, dy, n, form, b_and_amplitude, derivatives):
    """Sum over copies of the Sersic profile and its raw derivatives at offsets ``(B, copies, nodes, nodes)``."""
    expand = (slice(None), None, None, None)
    a, b, c = (column[expand] for column in form.unbind(-1))
    n, b_n, log_amplitude = n[expand], b_and_amplitude[:, 0, 0][expand], b_and_amplitude[:, 0, 1][expand]
    determinant = a**2 - b**2 - c**2
    plus, minus, cross = dx**2 + dy**2, dx**2 - dy**2, 2.0 * dx * dy
    z2 = (a * plus - b * minus - c * cross) / determinant
    log_z = 0.5 * torch.log(z2)
    power = b_n * torch.exp(log_z / n)
    light = torch.exp(log_amplitude - power) / torch.sqrt(determinant)
    if not derivatives:
        return light.sum(1)[:, None]
    b_slope, amplitude_slope = b_and_amplitude[:, 1, 0][expand], b_and_amplitude[:, 1, 1][expand]
    by_n = light * (amplitude_slope - power * (b_slope / b_n - log_z / n**2))
    by_z2 = -light * power / (2.0 * n * z2)
    inverse = 1.0 / determinant
    by_a = -light * a * inverse + by_z2 * (plus - 2.0 * a * z2) * inverse
    by_b = light * b * inverse + by_z2 * (2.0 * b * z2 - minus) * inverse
    by_c = light * c * inverse + by_z2 * (2.0 * c * z2 - cross) * inverse
    by_x = -by_z2 * 2.0 * ((a - b) * dx - c * dy) * inverse
    by_y = -by_z2 * 2.0 * ((a + b) * dy - c * dx) * inverse
    return torch.stack([image.sum(1) for image in (light, by_n, by_a, by_b, by_c, by_y, by_x)], 1)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept must serve autograd too
def _boundary(padded, rings, device, dtype):
    """Distance squared to the end of the rings, at angles, and its products with cosine and sine of twice the angle."""
    angle = (torch.arange(_N_ANGLES, dtype=torch.float64, device=device) + 0.5) * (torch.pi / _N_ANGLES)
    half_y, half_x = ((rings + 0.5) * side for side in padded)
    distance = torch.minimum(half_x / torch.cos(angle).abs(), half_y / torch.sin(angle).abs())
    square = distance**2
    return torch.stack([square, square * torch.cos(2 * angle), square * torch.sin(2 * angle)]).to(dtype)


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is kept must serve autograd too
def _laguerre(device, dtype):
    """Nodes and weights of Gauss-Laguerre quadrature."""
    nodes, weights = np.polynomial.laguerre.laggauss(_N_LAGUERRE)
    return torch.tensor(nodes, dtype=dtype, device=device), torch.tensor(weights, dtype=dtype, device=device)


def light_beyond(
    n: Tensor, form: Tensor, b_and_amplitude: Tensor, padded: tuple[int, int], derivatives: bool, *, rings: int = _RINGS
) -> Tensor:
    """Light beyond some rings of periods, per pixel of a period, and its derivatives by n, a, b, c.

    Parameters
    ----------
    n : Tensor
        Sersic indices, shape ``(B, 1)``.
    form, b_and_amplitude : Tensor
        Arguments of `wrapped_light`, with the same meaning.
    padded : tuple of int
        Sides of a period, in pixels.
    derivatives : bool
        Let the derivatives follow the light.
    rings : int, optional
        Rings of periods around the one in whose middle the galaxy is; with 0 all light outside of this one counts.

    Returns
    -------
    Tensor
        For unit flux, shape ``(B, 5)``, or ``(B, 1)`` without derivatives.

    Notes
    -----
    In each direction the light beyond ``z`` is ``Gamma(2 n, t) / Gamma(2 n)`` with ``t = b_n z**(1 / n)``.
    """
    plus, minus, cross = _boundary(padded, rings, n.device, n.dtype)
    a, b, c = (column[:, None] for column in form.unbind(-1))
    b_n = b_and_amplitude[:, 0, 0, None]
    determinant = a**2 - b**2 - c**2
    z2 = (a * plus - b * minus - c * cross) / determinant
    log_z = 0.5 * torch.log(z2)
    t = b_n * torch.exp(log_z / n)
    nodes, weights = _laguerre(n.device, n.dtype)
    log_sum = torch.log(t[..., None] + nodes)
    log_gamma = torch.lgamma(2.0 * n)
    terms = weights * torch.exp((2.0 * n[..., None] - 1.0) * log_sum - (t + log_gamma)[..., None])
    outside = terms.sum(-1)
    share = plus / (determinant.sqrt() * z2) / (_N_ANGLES * padded[0] * padded[1])
    if not derivatives:
        return (share * outside).sum(1, keepdim=True)
    b_slope = b_and_amplitude[:, 1, 0, None]
    by_t = -torch.exp((2.0 * n - 1.0) * torch.log(t) - t - log_gamma)
    by_n = 2.0 * ((terms * log_sum).sum(-1) - outside * torch.digamma(2.0 * n))
    by_n = by_n + by_t * t * (b_slope / b_n - log_z / n**2)
    by_z2 = by_t * t / (2.0 * n * z2) - outside / z2
    columns = [outside, by_n]
    for value, square, sign in ((a, plus, 1.0), (b, minus, -1.0), (c, cross, -1.0)):
        columns.append((by_z2 * (sign * square - 2.0 * sign * value * z2) - sign * value * outside) / determinant)
    return torch.stack([(share * column).sum(1) for column in columns], 1)
