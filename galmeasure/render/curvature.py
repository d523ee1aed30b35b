"""Second derivatives of the model, contracted with a covariance: the curvature of the model within its errors."""

import torch
from torch import Tensor

from galmeasure.parameters import SERSIC
from galmeasure.render.grid import PSFGrid, wavenumbers
from galmeasure.render.sersic import (
    LOG_K_STEP,
    RAW_FORM,
    RAW_INDEX,
    carrier_wave,
    profile_pieces,
    quadratic_form,
    raw_jacobian_matrix,
    table_position,
    to_pixels,
)

__all__ = ["render_curvature"]

_FLUX, _N, _R_EFF, _G1, _G2 = SERSIC.indices("flux", "n", "r_eff", "g1", "g2")
_SHAPE = SERSIC.slice("r_eff", "g2")
_STEP = 1e-3  # of the second difference of the quadratic form, in units of the covariance


def render_curvature(parameters: Tensor, covariance: Tensor, psf: PSFGrid, psf_index: Tensor | None = None) -> Tensor:
    """Sum over ``i, j`` of ``covariance[i, j]`` times the second derivative of the model by parameters ``i, j``.

    Half of it is the difference, to second order, between the mean of models drawn from the covariance and the model.

    Parameters
    ----------
    parameters : Tensor
        Sersic parameters, shape ``(B, 7)``, double precision.
    covariance : Tensor
        Covariance of the parameters, shape ``(B, 7, 7)``, double precision.
    psf : PSFGrid
        From :func:`galmeasure.render.prepare_psf`; the images have the precision of its transform.
    psf_index : Tensor, optional
        Index of each galaxy's PSF, shape ``(B,)``; the first one by default.

    Returns
    -------
    Tensor
        Shape ``(B, ny, nx)``. The light that the Fourier grid wraps around is not subtracted here.
    """
    dtype = psf.transform.real.dtype
    flux = parameters[:, _FLUX].clone()
    unit = parameters.clone()
    unit[:, _FLUX] = 1.0
    chain = raw_jacobian_matrix(unit)
    raw = (chain.transpose(1, 2) @ covariance @ chain).to(dtype)  # of flux, n, a, b, c, y, x
    form_curvature = (flux[:, None] * _form_curvature(parameters, covariance)).to(dtype)
    parameters, flux = parameters.to(dtype), flux.to(dtype)
    spectrum = _contracted(parameters, flux, raw, form_curvature, psf) * carrier_wave(parameters, psf, psf_index)
    return to_pixels(spectrum[:, None], psf)[:, 0]


def _form_curvature(parameters, covariance):
    """Contracted second derivatives of the quadratic form by r_eff, g1, g2, shape ``(B, 3)``."""
    values, vectors = torch.linalg.eigh(torch.nan_to_num(covariance[:, _SHAPE, _SHAPE]))
    roots = vectors * values.clamp_min(0.0).sqrt()[:, None, :]
    # a step that keeps |g| below 1 and r_eff positive
    largest = roots.abs().amax((1, 2)).clamp_min(1e-300)
    room = torch.minimum(parameters[:, _R_EFF], 1.0 - torch.hypot(parameters[:, _G1], parameters[:, _G2]))
    step = torch.minimum(torch.full_like(largest, _STEP), 0.1 * room / largest)[:, None]
    centre = quadratic_form(parameters)
    total = torch.zeros_like(centre)
    for k in range(3):
        moved = torch.zeros_like(parameters)
        moved[:, _SHAPE] = step * roots[:, :, k]
        total += (quadratic_form(parameters + moved) + quadratic_form(parameters - moved) - 2.0 * centre) / step**2
    return total


def _contracted(parameters, flux, raw, form_curvature, psf):
    """Complex factor ``(B, rows, columns)`` of the carrier wave."""
    ky, kx, forms = wavenumbers(psf.padded, psf.band, parameters.device, parameters.dtype)
    grid = forms.shape[1:]
    coefficients, _ = profile_pieces(parameters[:, _N], order=2)
    kappa2, index, t = table_position(quadratic_form(parameters), forms.flatten(1))
    tables = coefficients.unbind(1)  # of the transform and its first two derivatives in n
    value, by_u, by_uu = _spline_derivatives(tables[0], index, t, kappa2, 2)
    by_n, by_nu = _spline_derivatives(tables[1], index, t, kappa2, 1)
    (by_nn,) = _spline_derivatives(tables[2], index, t, kappa2, 0)
    value, by_u, by_uu, by_n, by_nu, by_nn = (x.view(-1, *grid) for x in (value, by_u, by_uu, by_n, by_nu, by_nn))

    def along(row):
        """Covariance of raw coordinate ``row`` with the quadratic forms, on the grid."""
        return _combination(raw[:, RAW_INDEX[row], RAW_FORM], forms)

    def entry(i, j):
        return raw[:, RAW_INDEX[i], RAW_INDEX[j]][:, None, None]

    f = flux[:, None, None]
    uu = sum(form * along(row) for form, row in zip(forms, "abc", strict=True))
    shift = entry("x", "x") * kx**2 + 2.0 * entry("y", "x") * kx * ky + entry("y", "y") * ky**2
    real = 2.0 * entry("model", "n") * by_n + by_u * (2.0 * along("model") + _combination(form_curvature, forms))
    real = real + f * (entry("n", "n") * by_nn + 2.0 * by_nu * along("n") + by_uu * uu - value * shift)
    imag = 0.0
    for row, k in (("x", kx), ("y", ky)):
        imag = imag + k * (entry("model", row) * value + f * (entry("n", row) * by_n + by_u * along(row)))
    return torch.complex(real, -2.0 * imag)


def _combination(weights, forms):
    """Weighted sum ``(B, ky, kx)`` of the three quadratic forms."""
    first, second, third = (column[:, None, None] for column in weights.unbind(-1))
    return first * forms[0] + second * forms[1] + third * forms[2]


def _spline_derivatives(coefficients, index, t, kappa2, order):
    """Value of polynomial pieces ``(B, 4, K - 1)`` and its derivatives by the squared wavenumber."""
    c0, c1, c2, c3 = (torch.gather(coefficients[:, j], 1, index) for j in range(4))
    derivatives = [c0 + t * (c1 + t * (c2 + t * c3))]
    if order > 0:
        slope = (c1 + t * (2.0 * c2 + t * (3.0 * c3))) * (0.5 / LOG_K_STEP) / kappa2
        derivatives.append(slope)
    if order > 1:
        curvature = (2.0 * c2 + t * (6.0 * c3)) * (0.5 / LOG_K_STEP) ** 2 / kappa2**2
        derivatives.append(curvature - slope / kappa2)
    return derivatives
