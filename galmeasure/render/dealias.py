"""Recover the band beyond Nyquist of a natively sampled PSF that is somewhat under-sampled.

A native image holds the sum of all the aliases of the PSF's transform, which is what a star on the same pixel
phase looks like, but not what a galaxy convolved with it looks like. The transform near and beyond Nyquist is
smooth, so a stretched exponential times the pixel's response, fitted with its aliases to the upper half of the
native band, says how much of each wavenumber is alias. What the model does not explain stays where it was.
"""

import torch
from torch import Tensor

__all__ = ["extend_band"]

FOLD = 2
"""Native bands of the extended transform, in each direction."""

ALIAS_THRESHOLD = 2e-3
"""Mean power just inside the native band's edge, relative to zero, above which a PSF is extended."""

_NEAR_EDGE = (0.75, 0.8, 0.85)  # of Nyquist; at Nyquist itself the aliases of a PSF of even side cancel

_LOWEST = 0.4  # of Nyquist: where the fit begins
_STEPS = 15
_SAMPLES = 16  # wavenumbers of the fit in y, half as many in x
_SOFTENING = 0.01


def is_aliased(transform: Tensor) -> Tensor:
    """Boolean ``(M,)``, True for native transforms ``(M, ly, lx // 2 + 1)`` that hold power near their edge."""
    high = transform.shape[1] // 2
    rows = [round(fraction * high) for fraction in _NEAR_EDGE]
    columns = [round(fraction * (transform.shape[2] - 1)) for fraction in _NEAR_EDGE]
    along_x = transform[:, rows].abs().mean((1, 2))
    along_y = transform[:, :, columns].abs().mean((1, 2))
    return torch.maximum(along_x, along_y) > ALIAS_THRESHOLD * transform[:, 0, 0].abs()


def extend_band(
    transform: Tensor, native_k: tuple[Tensor, Tensor], extended_k: tuple[Tensor, Tensor], half_pixel: tuple[bool, bool]
) -> Tensor:
    """Extend native transforms to twice the band.

    Parameters
    ----------
    transform : Tensor
        Complex double, shape ``(M, ly, lx // 2 + 1)``, the PSF's centre at phase zero.
    native_k, extended_k : tuple of Tensor
        ``ky (.., 1)`` and ``kx (1, ..)`` of the native and of the extended grid.
    half_pixel : tuple of bool
        True where the PSF's centre lies between pixels, in y and x (an even side): the aliases change sign.

    Returns
    -------
    Tensor
        Complex double, shape ``(M, 2 ly, lx + 1)``; rows whose fit failed hold the native band alone.
    """
    amplitude = transform[:, :1, :1].real
    scaled = transform / amplitude
    stride = max(1, transform.shape[1] // _SAMPLES)
    ky, kx = native_k[0][::stride], native_k[1][:, ::stride]
    target = scaled.real[:, ::stride, ::stride]
    upper = torch.maximum(ky.abs().expand(target.shape[1:]), kx.expand(target.shape[1:])) > _LOWEST * torch.pi
    weight = upper / (target.abs() + _SOFTENING)
    shape = _fit(target, weight, ky, kx, half_pixel)
    folded, _ = _folded(shape, *native_k, half_pixel, slopes=False)
    model, _ = _model(shape, *extended_k, slopes=False)
    residual = scaled - folded
    usable = (torch.isfinite(shape).all(1) & (residual.abs().amax((1, 2)) < 1.5))[:, None, None]
    residual = torch.where(usable, residual, scaled)
    extended = torch.where(usable, model, 0.0).to(transform.dtype)
    return _add_base(extended, residual) * amplitude


def _add_base(extended, base):
    """Add a native half-plane to the middle of an extended one, half of each Nyquist line on either side."""
    ly, half = base.shape[1], base.shape[2]
    high = ly // 2
    base = base.clone()
    base[:, high] *= 0.5
    base[:, :, -1] *= 0.5
    extended[:, : high + 1, :half] += base[:, : high + 1]
    extended[:, -high:, :half] += base[:, high:]
    return extended


def _model(shape, ky, kx, *, slopes=True):
    """Model transform and its derivatives by (log amplitude, log a, b / a, c / a, exponent)."""
    log_amplitude, log_a, b, c, exponent = (column[:, None, None] for column in shape.unbind(-1))
    a = torch.exp(log_a)
    plus, minus, cross = kx**2 + ky**2, kx**2 - ky**2, 2.0 * kx * ky
    u = (a * (plus + b * minus + c * cross)).clamp_min(1e-12)
    power = u ** (exponent / 2.0)
    model = torch.exp(log_amplitude - power) * torch.sinc(kx / (2 * torch.pi)) * torch.sinc(ky / (2 * torch.pi))
    if not slopes:
        return model, 0.0
    slope = -model * power * exponent / (2.0 * u)
    derivatives = [model, slope * u, slope * a * minus, slope * a * cross, -0.5 * model * power * torch.log(u)]
    return model, torch.stack(derivatives, 1)


def _folded(shape, ky, kx, half_pixel, *, slopes=True):
    """Model and derivatives as a native image holds them: with their nearest aliases."""
    model, derivatives = 0.0, 0.0
    for my in (-1, 0, 1):
        for mx in (-1, 0, 1):
            sign = (-1.0) ** (my * half_pixel[0] + mx * half_pixel[1])
            alias, slope = _model(shape, ky + 2 * torch.pi * my, kx + 2 * torch.pi * mx, slopes=slopes)
            model, derivatives = model + sign * alias, derivatives + sign * slope
    return model, derivatives


def _fit(target, weight, ky, kx, half_pixel):
    """Levenberg-Marquardt for the model's five numbers, all PSFs at once, shape ``(M, 5)``.

    A PSF that has converged leaves the batch, so that its numbers do not depend on the others.
    """
    shape = target.new_tensor([0.0, 0.0, 0.0, 0.0, 1.5]).repeat(target.shape[0], 1)
    shape[:, 1] = torch.log(_width(target, kx))
    active = torch.arange(target.shape[0], device=target.device)
    damping = torch.full_like(shape[:, 0], 1e-2)
    model, slopes = _folded(shape, ky, kx, half_pixel)
    loss = ((weight * (target - model)) ** 2).sum((1, 2))
    for _ in range(_STEPS):
        trial = _step(shape[active], target, weight, model, slopes, damping)
        new_model, new_slopes = _folded(trial, ky, kx, half_pixel)
        new_loss = ((weight * (target - new_model)) ** 2).sum((1, 2))
        better = torch.isfinite(new_loss) & (new_loss < loss)
        is_active = ~(better & (loss - new_loss < 1e-4 * loss))
        shape[active[better]] = trial[better]
        model = torch.where(better[:, None, None], new_model, model)
        slopes = torch.where(better[:, None, None, None], new_slopes, slopes)
        loss = torch.where(better, new_loss, loss)
        damping = torch.where(better, damping * 0.2, damping * 5.0)
        is_active &= damping < 1e6
        if not is_active.any():
            break
        active, target, weight, model, slopes, damping, loss = (
            tensor[is_active] for tensor in (active, target, weight, model, slopes, damping, loss)
        )
    return shape


def _step(shape, target, weight, model, slopes, damping):
    """One damped step, kept within what a PSF can be."""
    images = (slopes * weight[:, None]).flatten(2)
    normal = images @ images.transpose(1, 2)
    gradient = (images @ (weight * (target - model)).flatten(1)[:, :, None])[:, :, 0]
    normal = normal + torch.diag_embed(damping[:, None] * normal.diagonal(dim1=1, dim2=2) + 1e-10)
    trial = shape + torch.linalg.solve_ex(normal, gradient)[0]
    trial[:, 0] = trial[:, 0].clamp(-3.0, 3.0)
    trial[:, 2:4] = trial[:, 2:4].clamp(-0.6, 0.6)
    trial[:, 4] = trial[:, 4].clamp(0.7, 6.0)
    return trial


def _width(target, kx):
    """Scale ``a`` at which the transform falls to a third, from its values along x."""
    along = target[:, 0].abs()
    k = kx[0]
    is_outside = (along < 0.35) | (torch.arange(len(k), device=k.device) == len(k) - 1)
    first = is_outside.to(torch.int64).argmax(1)
    return 1.0 / k[first].clamp_min(1e-3) ** 2
