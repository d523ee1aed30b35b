"""Second derivatives of the model, contracted with a covariance: the curvature of the model within its errors."""

from functools import lru_cache

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

_FLUX, _N, _R_EFF = SERSIC.indices("flux", "n", "r_eff")
_SHEAR = SERSIC.slice("g1", "g2")
_MODEL, _BY_N, _A = (RAW_INDEX[name] for name in ("model", "n", "a"))
_CENTRE = slice(RAW_INDEX["y"], RAW_INDEX["x"] + 1)
_PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))  # of quadratic forms
_ENTRIES = (("x", "x"), ("x", "y"), ("y", "y"), ("model", "n"), ("n", "n"))


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
    """Second derivatives of the quadratic form by r_eff, g1, g2, contracted with their covariance, shape ``(B, 3)``."""
    r_eff, shear = parameters[:, _R_EFF, None], parameters[:, _SHEAR]
    with_radius, of_shear = covariance[:, _R_EFF, _SHEAR], covariance[:, _SHEAR, _SHEAR]
    u = 1.0 / (1.0 - (shear**2).sum(1, keepdim=True))
    trace = of_shear.diagonal(dim1=1, dim2=2).sum(1, keepdim=True)
    turned = (of_shear @ shear[:, :, None])[:, :, 0]
    along = (shear * with_radius).sum(1, keepdim=True)
    # the form is r_eff**2 times (2 u - 1, 2 u g1, 2 u g2)
    by_shear = 4.0 * u**2 * (trace + 4.0 * u * (shear * turned).sum(1, keepdim=True))
    round_part = r_eff**2 * by_shear + 16.0 * r_eff * u**2 * along
    long_part = shear * round_part + r_eff * u * (8.0 * r_eff * u * turned + 8.0 * with_radius)
    by_radius = 2.0 * covariance[:, _R_EFF, _R_EFF, None] / r_eff**2
    return by_radius * quadratic_form(parameters) + torch.cat([round_part, long_part], 1)


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is kept must serve autograd too
def _products(padded, band, device, dtype):
    """Products of wavenumbers on a flattened grid: linear ``(2, K)``, of third ``(6, K)`` and of fourth order."""
    ky, kx, forms = wavenumbers(padded, band, device, torch.float64)
    waves, forms = torch.stack(torch.broadcast_tensors(ky, kx)).flatten(1), forms.flatten(1)
    cubic = (waves[:, None] * forms).flatten(0, 1)
    quartic = torch.stack([forms[i] * forms[j] for i, j in _PAIRS])
    return tuple(products.to(dtype) for products in (waves, cubic, quartic))


def _combined(weights, products):
    """Sums ``(B, I, K)`` of products ``(J, K)`` with weights ``(B, I, J)``."""
    return torch.bmm(weights, products.expand(len(weights), -1, -1))


def _contracted(parameters, flux, raw, form_curvature, psf):
    """Complex factor ``(B, rows, columns)`` of the carrier wave."""
    _, _, forms = wavenumbers(psf.padded, psf.band, parameters.device, parameters.dtype)
    grid, forms = forms.shape[1:], forms.flatten(1)
    waves, cubic, quartic = _products(psf.padded, psf.band, parameters.device, parameters.dtype)
    f = flux[:, None]
    entry = {(i, j): raw[:, RAW_INDEX[i], RAW_INDEX[j]] for i, j in _ENTRIES}
    xx, xy, yy = entry["x", "x"], entry["x", "y"], entry["y", "y"]
    shift = torch.stack([xx + yy, xx - yy, 2.0 * xy], 1) * (-0.5 * f)  # kx**2, ky**2 and kx ky as quadratic forms
    of_forms = torch.stack(
        [2.0 * raw[:, _MODEL, RAW_FORM] + form_curvature, 2.0 * f * raw[:, _BY_N, RAW_FORM], shift], 1
    )
    by_u_weight, by_nu_weight, value_weight = _combined(of_forms, forms).unbind(1)
    of_pairs = torch.stack([raw[:, _A + i, _A + j] * (1.0 if i == j else 2.0) for i, j in _PAIRS], 1)
    by_uu_weight = _combined((f * of_pairs)[:, None], quartic)[:, 0]
    imag_value, imag_n = _combined(
        -2.0 * torch.stack([raw[:, _MODEL, _CENTRE], f * raw[:, _BY_N, _CENTRE]], 1), waves
    ).unbind(1)
    imag_u = _combined((-2.0 * f * raw[:, _CENTRE, RAW_FORM].flatten(1))[:, None], cubic)[:, 0]

    # tables of the transform and of its first two derivatives by n
    of_value, of_slope, of_curvature = profile_pieces(parameters[:, _N], order=2)[0].unbind(1)
    kappa2, index, t = table_position(quadratic_form(parameters), forms)
    c0, c1, c2, c3 = (torch.gather(of_value[:, j], 1, index) for j in range(4))
    value = torch.addcmul(c0, t, torch.addcmul(c1, t, torch.addcmul(c2, t, c3)))
    # derivatives in log k become those by kappa**2
    slope = torch.addcmul(c1, t, torch.addcmul(c2.mul_(2.0), t, c3, value=3.0))
    bend = c2.addcmul_(t, c3, value=6.0).sub_(slope, alpha=2.0 * LOG_K_STEP)
    c0, c1, c2, c3 = (torch.gather(of_slope[:, j], 1, index) for j in range(4))
    by_n = torch.addcmul(c0, t, torch.addcmul(c1, t, torch.addcmul(c2, t, c3)))
    by_n_slope = c1.addcmul_(t, c2.mul_(2.0).addcmul_(t, c3, value=3.0))
    c0, c1, c2, c3 = (torch.gather(of_curvature[:, j], 1, index) for j in range(4))
    by_nn = c0.addcmul_(t, c1.addcmul_(t, c2.addcmul_(t, c3)))

    chain = kappa2.reciprocal_().mul_(0.5 / LOG_K_STEP)
    real = by_uu_weight.mul_(bend).mul_(chain)
    real.addcmul_(by_u_weight, slope).addcmul_(by_nu_weight, by_n_slope).mul_(chain)
    real.addcmul_(value_weight, value)
    real.addcmul_(2.0 * entry["model", "n"][:, None], by_n).addcmul_(f * entry["n", "n"][:, None], by_nn)
    imag = imag_u.mul_(slope).mul_(chain).addcmul_(imag_value, value).addcmul_(imag_n, by_n)
    return torch.complex(real, imag).view(-1, *grid)
