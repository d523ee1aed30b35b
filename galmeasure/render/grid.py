"""PSFs on the wavenumbers of a stamp: padding, oversampling and the Fourier bands that hold power."""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from galmeasure.render.dealias import FOLD, extend_band, is_aliased

__all__ = ["PSFGrid", "good_size", "padded_shape", "prepare_psf", "wavenumbers"]

PADDING = 1.5
"""Side of the Fourier grid over side of the stamp; what wraps around is subtracted (:mod:`galmeasure.render.wrap`)."""

MIN_PADDING = 24
"""Pixels added at least, for small stamps."""

MAX_FOLD = 3
"""Most copies of the native Fourier band that an oversampled PSF may fill."""

_FOLD_TOLERANCE = 1e-4
_PIECE = 32  # images transformed at once


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

    def with_transform(self, transform):
        """Return the same grid with other transforms."""
        return replace(self, transform=transform)


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
    return tuple(good_size(max(PADDING * side, side + MIN_PADDING)) for side in shape)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept must serve autograd too
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
        Of the result.

    Returns
    -------
    PSFGrid
        Ready for :func:`render_sersic`.
    """
    parts = prepare_psfs(images, shape, oversampling=oversampling, device=device, dtype=dtype, together=True)
    return next(iter(parts))[1]


def prepare_psfs(images, shape, *, oversampling=1, device="cpu", dtype=torch.float32, together=False):
    """Transform PSF images as :func:`prepare_psf` does, in groups that fill the same number of bands.

    Parameters
    ----------
    images, shape, oversampling, device, dtype
        As in :func:`prepare_psf`.
    together : bool, optional
        Keep all of them in one group, with as many bands as any of them needs.

    Yields
    ------
    members : Tensor
        Which of the images, shape ``(K,)``.
    grid : PSFGrid
        Their transforms.
    """
    images = images.to(device=device, dtype=dtype)
    padded = padded_shape(shape)
    complex_dtype = torch.complex128 if dtype == torch.float64 else torch.complex64
    pieces = {}
    for rows in torch.arange(images.shape[0], device=images.device).split(_PIECE):
        transform = _centred_transform(images[rows], padded, oversampling)
        bands = _bands(transform, padded, oversampling)
        if together:
            bands = torch.full_like(bands, int(_most_bands(images, padded, oversampling)))
        for fold in bands.unique().tolist():
            chosen = bands == fold
            part = _to_bands(transform[chosen], padded, oversampling, fold, images.shape)
            pieces.setdefault(fold, []).append((rows[chosen], part.to(complex_dtype)))
    for fold, parts in pieces.items():
        transform = torch.cat([part for _, part in parts])
        yield torch.cat([rows for rows, _ in parts]), PSFGrid(transform, tuple(shape), padded, fold)


def _most_bands(images, padded, oversampling):
    """Bands that the most demanding of the images needs."""
    parts = images.split(_PIECE)
    return max(
        int(_bands(_centred_transform(part, padded, oversampling), padded, oversampling).max()) for part in parts
    )


def _bands(transform, padded, oversampling):
    """Bands that each transform needs, shape ``(M,)``."""
    if oversampling == 1:
        return torch.where(is_aliased(transform), FOLD, 1)
    return _bands_needed(transform, oversampling)


def _to_bands(transform, padded, oversampling, fold, shape):
    """The lowest ``fold`` bands of transforms."""
    if oversampling > 1 or fold == 1:
        return _crop_band(transform, fold * padded[0], fold * padded[1])
    keys = (transform.device, torch.float64)
    native, extended = (wavenumbers(padded, bands, *keys)[:2] for bands in (1, FOLD))
    return extend_band(transform.to(torch.complex128), native, extended, (shape[-2] % 2 == 0, shape[-1] % 2 == 0))


def _centred_transform(images, padded, oversampling):
    """Half-plane transforms on the (oversampled) grid, with the centre of the images at phase zero."""
    sides = [oversampling * side for side in padded]
    transform = torch.fft.rfft2(_wrap_image(images, sides))
    phases = []
    for axis, frequencies in ((-2, torch.fft.fftfreq(sides[0])), (-1, torch.fft.rfftfreq(sides[1]))):
        angle = torch.pi * frequencies.to(images.device, torch.float64) * (images.shape[axis] - 1)
        phases.append(torch.polar(torch.ones_like(angle), angle).to(transform.dtype))
    return transform * phases[0][:, None] * phases[1]


def _wrap_image(images, size):
    """Place images at the origin of a periodic grid; what is larger than the grid wraps around."""
    for axis, side in ((-2, size[0]), (-1, size[1])):
        periods = -(-images.shape[axis] // side)
        pad = periods * side - images.shape[axis]
        images = torch.nn.functional.pad(images, (0, 0, 0, pad) if axis == -2 else (0, pad))
        images = images.unflatten(axis, (periods, side)).sum(axis - 1)
    return images


def _bands_needed(transform, oversampling):
    """Smallest number of native bands beyond which each oversampled PSF holds no power, shape ``(M,)``."""
    my, mx = transform.shape[-2:]
    fy = torch.fft.fftfreq(my, dtype=torch.float64, device=transform.device).abs() * oversampling
    fx = torch.arange(mx, dtype=torch.float64, device=transform.device) / (2 * (mx - 1)) * oversampling
    band = torch.maximum(fy[:, None].expand(my, mx), fx.expand(my, mx))
    power = transform.abs()
    limit = _FOLD_TOLERANCE * power.amax((1, 2))
    needed = torch.ones_like(limit, dtype=torch.int64)
    for fold in range(1, min(oversampling, MAX_FOLD)):
        outside = torch.where(band > fold / 2.0, power, 0.0).amax((1, 2))
        needed = torch.where(outside > limit, fold + 1, needed)
    return needed


def _crop_band(transform, my, mx):
    """Keep the ``my`` lowest wavenumbers in y and the non-negative half of ``mx`` in x."""
    high = my // 2
    rows = torch.cat([transform[..., : my - high, :], transform[..., transform.shape[-2] - high :, :]], dim=-2)
    return rows[..., : mx // 2 + 1].contiguous()
