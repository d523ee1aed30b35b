"""Recover the band beyond Nyquist of a natively sampled PSF that is somewhat under-sampled.

A native image holds the sum of all the aliases of the PSF's transform, which is what a star on the same pixel
phase looks like, but not what a galaxy convolved with it looks like. The transform near and beyond Nyquist is
smooth, so a stretched exponential times the pixel's response, fitted with its aliases to the upper half of the
native band, says how much of each wavenumber is alias. What the model does not explain stays where it was.
"""

from functools import lru_cache

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


def extend_band(transform: Tensor, padded: tuple[int, int], half_pixel: tuple[bool, bool]) -> Tensor:
    """Extend native transforms to twice the band.

    Parameters
    ----------
    transform : Tensor
        Complex, shape ``(M, ly, lx // 2 + 1)``, the PSF's centre at phase zero.
    padded : tuple of int
        Sides ``(ly, lx)`` of the grid, in native pixels.
    half_pixel : tuple of bool
        True where the PSF's centre lies between pixels, in y and x (an even side): the aliases change sign.

    Returns
    -------
    Tensor
        Complex, shape ``(M, 2 ly, lx + 1)``; rows whose fit failed hold the native band alone.
    """
    amplitude = transform[:, :1, :1].real
    scaled = transform / amplitude
    stride = max(1, transform.shape[1] // _SAMPLES)
    keys = (half_pixel, transform.device, amplitude.dtype)
    ky, kx = (wave.to(amplitude.dtype) for wave in _grid(padded, 1, stride, transform.device))
    target = scaled.real[:, ::stride, ::stride]
    upper = torch.maximum(ky.abs(), kx) > _LOWEST * torch.pi
    weight = upper / (target.abs() + _SOFTENING)
    shape = _fit(target, weight, kx[0], _waves(padded, 1, stride, 1, *keys))
    folded = _model(shape, _waves(padded, 1, 1, 1, *keys), slopes=False)
    model = _model(shape, _waves(padded, FOLD, 1, 0, *keys), slopes=False)
    residual = scaled - folded
    usable = (torch.isfinite(shape).all(1) & (residual.abs().amax((1, 2)) < 1.5))[:, None, None]
    residual = torch.where(usable, residual, scaled)
    extended = torch.where(usable, model, 0.0).to(transform.dtype)
    return _add_base(extended, residual) * amplitude


def _grid(padded, fold, stride, device):
    """Every ``stride``-th of the wavenumbers ``ky`` and ``kx`` of ``fold`` native bands, double precision."""
    (ly, lx), keys = padded, {"dtype": torch.float64, "device": device}
    ky = torch.fft.fftfreq(fold * ly, 1.0 / (fold * ly), **keys) * (2.0 * torch.pi / ly)
    kx = torch.arange(fold * lx // 2 + 1, **keys) * (2.0 * torch.pi / lx)
    return tuple(wave.contiguous() for wave in torch.broadcast_tensors(ky[::stride, None], kx[None, ::stride]))


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


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is kept must serve autograd too
def _waves(padded, fold, stride, aliases, half_pixel, device, dtype):
    """Quadratic forms ``(3, A, rows, columns)`` of a grid and its aliases, and signed responses of the pixel."""
    ky, kx = _grid(padded, fold, stride, device)
    forms, responses = [], []
    for my in range(-aliases, aliases + 1):
        for mx in range(-aliases, aliases + 1):
            y, x = ky + 2 * torch.pi * my, kx + 2 * torch.pi * mx
            sign = (-1.0) ** (my * half_pixel[0] + mx * half_pixel[1])
            responses.append(sign * torch.sinc(x / (2 * torch.pi)) * torch.sinc(y / (2 * torch.pi)))
            forms.append(torch.stack([x**2 + y**2, x**2 - y**2, 2.0 * x * y]))
    return torch.stack(forms, 1).to(dtype), torch.stack(responses).to(dtype)


def _model(shape, waves, *, slopes=True):
    """Model with aliases; derivatives by (log amplitude, log a, b / a, c / a, exponent)."""
    (plus, minus, cross), response = waves
    log_amplitude, log_a, b, c, exponent = (column[:, None, None, None] for column in shape.unbind(-1))
    a = torch.exp(log_a)
    u = torch.addcmul(torch.addcmul(plus, b, minus), c, cross).mul_(a).clamp_min_(1e-12)
    log_u = torch.log(u)
    power = torch.exp(0.5 * exponent * log_u)
    model = torch.exp(log_amplitude - power).mul_(response)
    if not slopes:
        return model.sum(1)
    steep = model * power
    by_u = -0.5 * exponent * steep
    by_form = by_u.div(u).mul_(a)
    derivatives = [model, by_u, by_form * minus, by_form * cross, steep.mul_(log_u).mul_(-0.5)]
    return model.sum(1), torch.stack([image.sum(1) for image in derivatives], 1)


def _fit(target, weight, kx, waves):
    """Levenberg-Marquardt for the model's five numbers, all PSFs at once, shape ``(M, 5)``.

    A PSF that has converged leaves the batch, so that its numbers do not depend on the others.
    """
    shape = target.new_tensor([0.0, 0.0, 0.0, 0.0, 1.5]).repeat(target.shape[0], 1)
    shape[:, 1] = torch.log(_width(target, kx))
    active = torch.arange(target.shape[0], device=target.device)
    damping = torch.full_like(shape[:, 0], 1e-2)
    model, slopes = _model(shape, waves)
    loss = ((weight * (target - model)) ** 2).sum((1, 2))
    for _ in range(_STEPS):
        trial = _step(shape[active], target, weight, model, slopes, damping)
        new_model, new_slopes = _model(trial, waves)
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
    images = (slopes * weight[:, None]).flatten(2).double()
    normal = images @ images.transpose(1, 2)
    gradient = (images @ (weight * (target - model)).flatten(1).double()[:, :, None])[:, :, 0]
    normal = normal + torch.diag_embed(damping[:, None].double() * normal.diagonal(dim1=1, dim2=2) + 1e-10)
    trial = shape + torch.linalg.solve_ex(normal, gradient)[0].to(shape.dtype)
    trial[:, 0] = trial[:, 0].clamp(-3.0, 3.0)
    trial[:, 2:4] = trial[:, 2:4].clamp(-0.6, 0.6)
    trial[:, 4] = trial[:, 4].clamp(0.7, 6.0)
    return trial


def _width(target, kx):
    """Scale ``a`` at which the transform falls to a third, from its values along x."""
    along = target[:, 0].abs()
    is_outside = (along < 0.35) | (torch.arange(len(kx), device=kx.device) == len(kx) - 1)
    first = is_outside.to(torch.int64).argmax(1)
    return 1.0 / kx[first].clamp_min(1e-3) ** 2
