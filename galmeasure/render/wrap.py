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
from galmeasure.utils.chunks import SIDE_BY_SIDE
from galmeasure.utils.compiled import compiled_module

__all__ = ["interpolation", "lattice", "light_beyond", "wrapped_light"]

_N, _X, _Y = SERSIC.indices("n", "x", "y")
_N_NODES = 6
_RINGS = 2
_N_ANGLES = 16  # of half a turn: the other half is the same
_N_LAGUERRE = 12


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept must serve autograd too
def interpolation(side: int, device: torch.device | str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
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
def lattice(padded: tuple[int, int], device: torch.device | str, dtype: torch.dtype) -> Tensor:
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
    nodes_y, matrix_y = interpolation(shape[0], parameters.device, parameters.dtype)
    nodes_x, matrix_x = interpolation(shape[1], parameters.device, parameters.dtype)
    offsets = lattice(padded, parameters.device, parameters.dtype)
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
    a, b, c = form.unbind(-1)
    determinant = a**2 - b**2 - c**2
    inverse = 1.0 / determinant
    coefficients = torch.stack([(a - b) * inverse, (a + b) * inverse, -2.0 * c * inverse, 1.0 / n], 1)
    of_xx, of_yy, of_xy, root = coefficients[:, :, None, None, None].unbind(1)
    xx, yy, xy = dx**2, dy**2, dx * dy
    z2 = torch.addcmul(of_xx * xx, of_yy, yy).addcmul(of_xy, xy)
    log_z = 0.5 * torch.log(z2)
    b_n, log_amplitude = b_and_amplitude[:, 0, :, None, None, None].unbind(1)
    power = b_n * torch.exp(log_z * root)
    light = torch.exp(log_amplitude - power)
    scale = determinant.rsqrt()[:, None, None]
    if not derivatives:
        return (light.sum(1) * scale)[:, None]
    # sums over the copies first: what the derivatives share of them is the same for all copies
    steep = light * power
    steeper = steep / z2
    sums = [light, steep, steep * log_z, steeper * xx, steeper * yy, steeper * xy, steeper * dy, steeper * dx]
    light, steep, steep_log, sum_xx, sum_yy, sum_xy, sum_y, sum_x = (image.sum(1) * scale for image in sums)
    a, b, c, n, inverse, b_n, b_slope, amplitude_slope = (
        column[:, None, None]
        for column in (
            a,
            b,
            c,
            n,
            inverse,
            b_and_amplitude[:, 0, 0],
            b_and_amplitude[:, 1, 0],
            b_and_amplitude[:, 1, 1],
        )
    )
    by_n = light * amplitude_slope - steep * (b_slope / b_n) + steep_log / n**2
    half = -0.5 / n  # the derivative of the light by z**2 is this times ``steeper``
    common = light + 2.0 * half * steep
    by_a = (half * (sum_xx + sum_yy) - a * common) * inverse
    by_b = (b * common - half * (sum_xx - sum_yy)) * inverse
    by_c = (c * common - 2.0 * half * sum_xy) * inverse
    by_x = -2.0 * half * ((a - b) * sum_x - c * sum_y) * inverse
    by_y = -2.0 * half * ((a + b) * sum_y - c * sum_x) * inverse
    return torch.stack([light, by_n, by_a, by_b, by_c, by_y, by_x], 1)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept must serve autograd too
def _boundary(padded, rings, device, dtype):
    """Distance squared to the end of the rings, at angles, and less its products with cosine and sine of two angles."""
    angle = (torch.arange(_N_ANGLES, dtype=torch.float64, device=device) + 0.5) * (torch.pi / _N_ANGLES)
    half_y, half_x = ((rings + 0.5) * side for side in padded)
    distance = torch.minimum(half_x / torch.cos(angle).abs(), half_y / torch.sin(angle).abs())
    square = distance**2
    return torch.stack([square, -square * torch.cos(2 * angle), -square * torch.sin(2 * angle)]).to(dtype)


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is kept must serve autograd too
def _form_signs(device, dtype):
    """Signs with which the squares of ``a, b, c`` enter the determinant of the quadratic form."""
    return torch.tensor([1.0, -1.0, -1.0], dtype=dtype, device=device)


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is kept must serve autograd too
def _laguerre(device, dtype):
    """Nodes and weights of Gauss-Laguerre quadrature."""
    nodes, weights = np.polynomial.laguerre.laggauss(_N_LAGUERRE)
    return torch.tensor(nodes, dtype=dtype, device=device), torch.tensor(weights, dtype=dtype, device=device)


@lru_cache(maxsize=1)
def _compiled_laguerre():
    """Nodes and weights for compiled loops, filled up to a whole number of vectors with nodes that weigh nothing."""
    columns = np.polynomial.laguerre.laggauss(_N_LAGUERRE)
    missing = -_N_LAGUERRE % SIDE_BY_SIDE
    return tuple(np.pad(column, (0, missing)).astype(np.float32) for column in columns)


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
    signed = _boundary(padded, rings, n.device, n.dtype)
    loops = compiled_module("galmeasure.render.compiled", n, form, b_and_amplitude)
    if loops is not None:
        digamma = torch.digamma(2.0 * n[:, 0]) if derivatives else n[:, 0]
        light = n.new_empty(len(n), 5 if derivatives else 1)
        columns = (column.contiguous().numpy() for column in (n[:, 0], form, b_and_amplitude, digamma, signed))
        loops.light_beyond(*columns, *_compiled_laguerre(), padded[0] * padded[1], light.numpy())
        return light
    signs = _form_signs(n.device, n.dtype)
    signed_form = form * signs
    b_n = b_and_amplitude[:, 0, 0, None]
    determinant = (signed_form * form).sum(1, keepdim=True)
    z2 = (form[:, :, None] * signed).sum(1) / determinant
    log_z = 0.5 * torch.log(z2)
    t = b_n * torch.exp(log_z / n)
    nodes, weights = _laguerre(n.device, n.dtype)
    log_sum = torch.log(t[..., None] + nodes)
    log_gamma = torch.lgamma(2.0 * n)
    exponent = 2.0 * n - 1.0
    terms = weights * torch.exp(exponent[..., None] * log_sum - (t + log_gamma)[..., None])
    outside = terms.sum(-1)
    share = signed[0] / (determinant.sqrt() * z2) / (_N_ANGLES * padded[0] * padded[1])
    if not derivatives:
        return (share * outside).sum(1, keepdim=True)
    b_slope = b_and_amplitude[:, 1, 0, None]
    t_by_t = -torch.exp(exponent * torch.log(t) - t - log_gamma) * t
    by_n = 2.0 * ((terms * log_sum).sum(-1) - outside * torch.digamma(2.0 * n))
    by_n = by_n + t_by_t * (b_slope / b_n - log_z / n**2)
    by_z2 = (t_by_t / (2.0 * n) - outside) / z2
    weight = (share * by_z2)[:, None]
    by_form = (weight * signed).sum(-1) - signed_form * (2.0 * weight * z2[:, None] + (share * outside)[:, None]).sum(
        -1
    )
    columns = torch.stack([(share * outside).sum(1), (share * by_n).sum(1)], 1)
    return torch.cat([columns, by_form / determinant], 1)
