"""PSFs on the wavenumbers of a stamp: padding, oversampling and the Fourier bands that hold power."""

from dataclasses import dataclass
from functools import lru_cache

import torch

from galmeasure.render.dealias import FOLD, extend_band, is_aliased

__all__ = ["PSFGrid", "good_size", "padded_shape", "prepare_psf", "wavenumbers"]

PADDING = 1.5
"""Side of the Fourier grid over side of the stamp; what wraps around is subtracted (:mod:`galmeasure.render.wrap`)."""

MAX_FOLD = 3
"""Most copies of the native Fourier band that an oversampled PSF may fill."""

_FOLD_TOLERANCE = 1e-4


@dataclass(frozen=True)
class PSFGrid:
    """Transforms of PSFs on the wavenumbers of a stamp.

    Parameters
    ----------
    transform : Tensor
        Complex, shape ``(M, fold * ly, fold * lx // 2 + 1)``, centre of the PSF at phase zero.
    shape : tuple of int
        Stamp ``(ny, nx)``.
    padded : tuple of int
        Fourier grid ``(ly, lx)`` in native pixels.
    fold : int
        Bands kept in each direction; 1 for natively sampled PSFs.
    """

    transform: torch.Tensor
    shape: tuple[int, int]
    padded: tuple[int, int]
    fold: int


def good_size(size):
    """Smallest even number not below ``size`` with no prime factor above 5."""
    size = int(size) + int(size) % 2
    while True:
        rest = size
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 2


def padded_shape(shape):
    """Fourier grid of a stamp of ``shape`` ``(ny, nx)``."""
    return tuple(good_size(max(PADDING * side, side + 8)) for side in shape)


@lru_cache(maxsize=64)
def wavenumbers(padded, fold, device, dtype):
    """``ky (fold ly, 1)``, ``kx (1, fold lx // 2 + 1)`` and the three quadratic forms of the grid."""
    ly, lx = padded
    ky = 2.0 * torch.pi / ly * torch.fft.fftfreq(fold * ly, 1.0 / (fold * ly), dtype=torch.float64, device=device)
    kx = 2.0 * torch.pi / lx * torch.arange(fold * lx // 2 + 1, dtype=torch.float64, device=device)
    ky, kx = ky[:, None], kx[None, :]
    forms = torch.stack([kx**2 + ky**2, kx**2 - ky**2, 2.0 * kx * ky])
    return ky.to(dtype), kx.to(dtype), forms.to(dtype)


def prepare_psf(images, shape, *, oversampling=1, device="cpu", dtype=torch.float32):
    """Transform PSF images for the stamps of one shape.

    Parameters
    ----------
    images : Tensor
        Shape ``(M, py, px)``: centred on ``((py-1)/2, (px-1)/2)``, pixel response included; the sum is kept.
    shape : tuple of int
        Stamp ``(ny, nx)`` in native pixels.
    oversampling : int, optional
        PSF pixels per native pixel. Only as many Fourier bands are kept as hold power; native images that are
        under-sampled are extended (:mod:`galmeasure.render.dealias`).
    device, dtype : optional
        Of the result; the transform itself is taken in double precision.

    Returns
    -------
    PSFGrid
        Ready for :func:`render_sersic`.
    """
    images = images.to(device=device, dtype=torch.float64)
    padded = padded_shape(shape)
    transform = _centred_transform(images, padded, oversampling)
    if oversampling == 1:
        transform, fold = _native_bands(transform, padded, images.shape)
    else:
        fold = _bands_needed(transform, oversampling)
        transform = _crop_band(transform, fold * padded[0], fold * padded[1])
    complex_dtype = torch.complex128 if dtype == torch.float64 else torch.complex64
    return PSFGrid(transform.to(complex_dtype), tuple(shape), padded, fold)


def _centred_transform(images, padded, oversampling):
    """Full transforms on the (oversampled) grid, with the centre of the images at phase zero."""
    sides = [oversampling * side for side in padded]
    transform = torch.fft.fft2(_wrap_image(images, sides))
    for axis, side in ((-2, sides[0]), (-1, sides[1])):
        k = 2.0 * torch.pi * torch.fft.fftfreq(side, dtype=torch.float64, device=images.device)
        angle = k * (images.shape[axis] - 1) / 2.0
        phase = torch.polar(torch.ones_like(angle), angle)
        transform = transform * (phase[:, None] if axis == -2 else phase)
    return transform


def _native_bands(transform, padded, shape):
    """The native band of native images, or two bands if any of them is under-sampled."""
    half = transform[..., : padded[1] // 2 + 1].contiguous()
    aliased = is_aliased(half)
    if not aliased.any():
        return half, 1
    keys = (transform.device, torch.float64)
    native, extended = (wavenumbers(padded, fold, *keys)[:2] for fold in (1, FOLD))
    half_pixel = (shape[-2] % 2 == 0, shape[-1] % 2 == 0)
    return extend_band(half, native, extended, half_pixel), FOLD


def _wrap_image(images, size):
    """Place images at the origin of a periodic grid; what is larger than the grid wraps around."""
    for axis, side in ((-2, size[0]), (-1, size[1])):
        periods = -(-images.shape[axis] // side)
        pad = periods * side - images.shape[axis]
        images = torch.nn.functional.pad(images, (0, 0, 0, pad) if axis == -2 else (0, pad))
        images = images.unflatten(axis, (periods, side)).sum(axis - 1)
    return images


def _bands_needed(transform, oversampling):
    """Smallest number of native bands beyond which the PSF holds no power."""
    my, mx = transform.shape[-2:]
    fy = torch.fft.fftfreq(my, dtype=torch.float64, device=transform.device).abs() * oversampling
    fx = torch.fft.fftfreq(mx, dtype=torch.float64, device=transform.device).abs() * oversampling
    band = torch.maximum(fy[:, None].expand(my, mx), fx.expand(my, mx))
    power = transform.abs().amax(0) if transform.shape[0] else torch.zeros((my, mx), device=transform.device)
    for fold in range(1, min(oversampling, MAX_FOLD)):
        outside = power[band > fold / 2.0]
        if not outside.numel() or outside.max() < _FOLD_TOLERANCE * power.max():
            return fold
    return min(oversampling, MAX_FOLD)


def _crop_band(transform, my, mx):
    """Keep the ``my`` lowest wavenumbers in y and the non-negative half of ``mx`` in x."""
    high = my // 2
    rows = torch.cat([transform[..., : my - high, :], transform[..., transform.shape[-2] - high :, :]], dim=-2)
    return rows[..., : mx // 2 + 1].contiguous()
