"""Random PSFs for simulations: analytic families, drawn in Fourier space with the pixel's response."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from galmeasure.render import PSFGrid
from galmeasure.render.grid import padded_shape, place_rows, prepare_psf, wavenumbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from galmeasure.priors import Range

__all__ = ["FAMILIES", "PSFShapes", "RandomPSFs", "draw_psfs", "moffat_shapes", "psf_images", "psfs_of_shapes"]

FAMILIES = ("moffat", "gaussian", "double_gaussian", "kolmogorov", "airy")
"""Names of the families: Moffat with beta 1.8 to 5, Gaussian, two Gaussians, Kolmogorov, obscured Airy."""

_BETA = (1.8, 5.0)  # exponents of the Moffat profile
_OBSCURATION = (0.0, 0.45)  # radius of the secondary mirror over that of the pupil
_OUTER_WIDTH = (1.6, 3.0)  # of the second Gaussian, in widths of the first
_OUTER_SHARE = (0.05, 0.4)  # of the light in the second Gaussian
_KOLMOGOROV = 0.976  # FWHM in units of wavelength over Fried length
_AIRY = 1.029  # FWHM in units of wavelength over diameter, unobscured
_FINE = 2  # samples per pixel of the images from which the transforms are made
_TAPER = 0.7  # radius, in half sizes of the image, from which the wings are brought to zero
_FWHM_SIGMA = 2.3548200450309493  # FWHM over sigma of a Gaussian
_TABLE_BETAS, _TABLE_KAPPAS, _KAPPA_MAX = 65, 4096, 40.0  # grid in beta and k times scale radius


@dataclass(frozen=True)
class PSFShapes:
    """Families, widths and shapes of random PSFs.

    Parameters
    ----------
    family : Tensor
        Index into the names of the families, shape ``(M,)``.
    width : Tensor
        FWHM of the optical PSF, before the pixel, in pixels, shape ``(M,)``.
    numbers : Tensor
        Two numbers between 0 and 1 that a family turns into its own, shape ``(M, 2)``.
    g1, g2 : Tensor
        Components of the reduced shear, shape ``(M,)``.
    """

    family: torch.Tensor
    width: torch.Tensor
    numbers: torch.Tensor
    g1: torch.Tensor
    g2: torch.Tensor


@dataclass(frozen=True)
class RandomPSFs:
    """PSFs of a batch.

    Parameters
    ----------
    grid : PSFGrid
        Transforms of the PSFs for the renderer.
    images : Tensor
        Images of a star on the central pixel, at native sampling, shape ``(M, size, size)``, odd side; the sum is 1,
        because the wings end inside the image.
    fwhm : Tensor
        FWHM of the optical PSF, before the pixel, in pixels, shape ``(M,)``.
    shapes : PSFShapes
        Families, widths and shapes of the PSFs.
    """

    grid: PSFGrid
    images: torch.Tensor
    fwhm: torch.Tensor
    shapes: PSFShapes


def draw_psfs(
    count: int,
    fwhm: Range,
    shape: tuple[int, int],
    *,
    families: Sequence[str] = FAMILIES,
    max_shear: float = 0.1,
    size: int = 63,
    ends: bool = True,
    moffat_beta: float | None = None,
    generator: torch.Generator | None = None,
    device: str = "cpu",
) -> RandomPSFs:
    """Draw PSFs of random families, shapes and widths.

    Parameters
    ----------
    count : int
        Number of PSFs to draw.
    fwhm : Range
        Distribution of the FWHM of the optical PSF in pixels.
    shape : tuple of int
        Stamp ``(ny, nx)`` for which the transforms are made.
    families : sequence of str, optional
        Names among ``FAMILIES``, drawn with equal chances.
    max_shear : float, optional
        Radius of the disc within which the reduced shear is uniform.
    size : int, optional
        Odd side of the images in pixels. Default 63.
    ends : bool, optional
        True if the wings end inside the images. Otherwise the PSFs are those of the analytic families, whose wings go
        on beyond, and the images hold less light than 1.
    moffat_beta : float, optional
        Exponent of all Moffat profiles, between 1.8 and 5; random by default.
    generator : torch.Generator, optional
        Random number generator on the device.
    device : str, optional
        Torch device on which to draw, for example "cpu" or "cuda". Default "cpu".

    Returns
    -------
    RandomPSFs
        Transforms, images and widths.

    Raises
    ------
    ValueError
        If ``size`` is even, a family is not known or ``moffat_beta`` is out of range.

    Notes
    -----
    By default the wings of every PSF are brought to zero within the image, and the transforms are those of the same
    pixels (at twice the native sampling). Truth and image so agree, which they do not if a part of the star's light
    lies beyond the image.
    """
    if size % 2 == 0:
        msg = f"size must be odd, not {size}"
        raise ValueError(msg)
    unknown = set(families) - set(FAMILIES)
    if unknown:
        msg = f"families must be among {', '.join(FAMILIES)}, not {', '.join(sorted(unknown))}"
        raise ValueError(msg)
    if moffat_beta is not None:
        _check_beta("moffat_beta", moffat_beta)
    width = fwhm.sample(count, generator, device)
    family = torch.randint(len(families), (count,), generator=generator, device=device)
    numbers = torch.rand((count, 2), generator=generator, device=device)
    if moffat_beta is not None:
        is_moffat = family == families.index("moffat") if "moffat" in families else torch.zeros_like(family, dtype=bool)
        numbers[is_moffat, 0] = _beta_number(moffat_beta)
    radius = max_shear * torch.rand(count, generator=generator, device=device).sqrt()
    angle = 2.0 * torch.pi * torch.rand(count, generator=generator, device=device)
    shapes = PSFShapes(family, width, numbers, radius * torch.cos(angle), radius * torch.sin(angle))
    return psfs_of_shapes(shapes, shape, families=families, size=size, ends=ends)


def psfs_of_shapes(
    shapes: PSFShapes,
    shape: tuple[int, int],
    *,
    families: Sequence[str] = FAMILIES,
    size: int = 63,
    ends: bool = True,
) -> RandomPSFs:
    """Make transforms and images of PSFs whose shapes are known.

    Parameters
    ----------
    shapes : PSFShapes
        Families, widths and shapes of the PSFs.
    shape, families, size, ends
        Same arguments as in `draw_psfs`; ``families`` are those to which ``shapes.family`` is an index.

    Returns
    -------
    RandomPSFs
        Transforms, images and widths.
    """
    if not ends:
        padded = padded_shape(shape)
        grid = PSFGrid(_transforms(shapes, families, padded, float(_FINE)), tuple(shape), padded, float(_FINE))
        return RandomPSFs(grid, _native(_periodic_images(shapes, families, size)) * _FINE**2, shapes.width, shapes)
    fine = _fine_images(shapes, families, size)
    grid = prepare_psf(fine, shape, oversampling=_FINE, device=fine.device)
    images = _native(fine)
    return RandomPSFs(grid, images / images.sum((-2, -1), keepdim=True), shapes.width, shapes)


def moffat_shapes(fwhm: torch.Tensor, beta: float) -> PSFShapes:
    """Describe round Moffat PSFs of given widths, for `psfs_of_shapes` with ``families=("moffat",)``.

    Parameters
    ----------
    fwhm : Tensor
        FWHM of the optical PSFs, before the pixel, in pixels, shape ``(M,)``.
    beta : float
        Exponent of all profiles, between 1.8 and 5.

    Returns
    -------
    PSFShapes
        Description of the PSFs.

    Raises
    ------
    ValueError
        If ``beta`` is out of range.
    """
    _check_beta("beta", beta)
    numbers = torch.full((len(fwhm), 2), _beta_number(beta), dtype=fwhm.dtype, device=fwhm.device)
    none = torch.zeros_like(fwhm)
    return PSFShapes(torch.zeros_like(fwhm, dtype=torch.long), fwhm, numbers, none, none)


def _check_beta(name, beta):
    """Raise if an exponent is not one that the table of transforms holds."""
    if not _BETA[0] <= beta <= _BETA[1]:
        msg = f"{name} must lie between {_BETA[0]} and {_BETA[1]}, not {beta}"
        raise ValueError(msg)


def _beta_number(beta):
    """Number between 0 and 1 that stands for an exponent in `PSFShapes`."""
    return (beta - _BETA[0]) / (_BETA[1] - _BETA[0])


def psf_images(shapes: PSFShapes, *, families: Sequence[str] = FAMILIES, size: int = 63) -> torch.Tensor:
    """Draw images of PSFs at native sampling.

    Parameters
    ----------
    shapes : PSFShapes
        Families, widths and shapes of the PSFs.
    families : sequence of str, optional
        Names of the families to which ``shapes.family`` is an index.
    size : int, optional
        Odd side of the images in pixels. Default 63.

    Returns
    -------
    Tensor
        Shape ``(M, size, size)``, the star on the central pixel, the sum 1.
    """
    images = _native(_fine_images(shapes, families, size))
    return images / images.sum((-2, -1), keepdim=True)


def _native(fine):
    """Every second sample of images at twice the native sampling, the central one among them."""
    half = fine.shape[-1] // 2
    start = half % _FINE
    return fine[:, start::_FINE, start::_FINE]


def _fine_images(shapes, families, size):
    """Images ``(M, 2 size + 1, 2 size + 1)`` at twice the native sampling, with the wings brought to zero, sum 1."""
    image = _periodic_images(shapes, families, size)
    half = image.shape[-1] // 2
    offset = torch.arange(-half, half + 1, device=image.device, dtype=image.dtype) / half
    phase = (torch.hypot(offset[:, None], offset) - _TAPER) / (1.0 - _TAPER)
    image = image * (0.5 + 0.5 * torch.cos(torch.pi * phase.clamp(0.0, 1.0)))
    return image / image.sum((-2, -1), keepdim=True)


def _periodic_images(shapes, families, size):
    """Images ``(M, 2 size + 1, 2 size + 1)`` at twice the native sampling, as they are on a period a half larger."""
    side = padded_shape((size, size))[0]
    transform = _transforms(shapes, families, (side, side), float(_FINE))
    image = torch.fft.irfft2(place_rows(transform, _FINE * side), s=(_FINE * side, _FINE * side))
    half = _FINE * (size // 2) + 1
    return torch.roll(image, (half, half), (-2, -1))[..., : 2 * half + 1, : 2 * half + 1]


def _transforms(shapes, families, padded, band):
    """Transforms ``(M, rows, columns)`` with the pixel's response."""
    ky, kx, _ = wavenumbers(padded, band, shapes.width.device, shapes.width.dtype)
    g1, g2 = (component[:, None, None] for component in (shapes.g1, shapes.g2))
    scale = torch.rsqrt(1.0 - g1**2 - g2**2)
    k = scale * torch.hypot((1.0 + g1) * kx + g2 * ky, g2 * kx + (1.0 - g1) * ky)
    transform = torch.empty_like(k)
    for i, family in enumerate(families):
        chosen = torch.nonzero(shapes.family == i)[:, 0]
        if len(chosen):
            transform[chosen] = _RADIAL[family](k[chosen], shapes.width[chosen], shapes.numbers[chosen])
    transform = transform * torch.sinc(kx / (2.0 * torch.pi)) * torch.sinc(ky / (2.0 * torch.pi))
    return torch.complex(transform, torch.zeros_like(transform))


def _gaussian(k, width, _numbers):
    sigma = (width / _FWHM_SIGMA)[:, None, None]
    return torch.exp(-0.5 * (sigma * k) ** 2)


def _double_gaussian(k, width, numbers):
    share = (_OUTER_SHARE[0] + numbers[:, 0] * (_OUTER_SHARE[1] - _OUTER_SHARE[0]))[:, None, None]
    wider = width * (_OUTER_WIDTH[0] + numbers[:, 1] * (_OUTER_WIDTH[1] - _OUTER_WIDTH[0]))
    return (1.0 - share) * _gaussian(k, width, numbers) + share * _gaussian(k, wider, numbers)


def _kolmogorov(k, width, _numbers):
    frequency = k * (width / (2.0 * torch.pi * _KOLMOGOROV))[:, None, None]
    return torch.exp(-3.44 * frequency ** (5.0 / 3.0))


def _airy(k, width, numbers):
    """Autocorrelation of an annular pupil of unit outer radius (O'Neill 1956, JOSA 46, 285)."""
    inner = (_OBSCURATION[0] + numbers[:, 0] * (_OBSCURATION[1] - _OBSCURATION[0]))[:, None, None]
    distance = k * (width / (_AIRY * torch.pi))[:, None, None]  # 2 at the cut-off
    outer = torch.ones_like(distance)
    inner = inner.expand_as(distance).clamp_min(1e-3)
    overlap = (
        _overlap(outer, outer, distance) - 2.0 * _overlap(outer, inner, distance) + _overlap(inner, inner, distance)
    )
    return overlap / (torch.pi * (1.0 - inner**2))


def _overlap(large, small, distance):
    """Area that two circles share."""
    apart = distance >= large + small
    within = distance <= large - small
    d = torch.where(apart | within, large - small + 1e-3, distance).clamp_min(1e-6)
    d = torch.where(apart | within, torch.maximum(d, large - small + 1e-3), d)
    cos_large = ((d**2 + large**2 - small**2) / (2.0 * d * large)).clamp(-1.0, 1.0)
    cos_small = ((d**2 + small**2 - large**2) / (2.0 * d * small)).clamp(-1.0, 1.0)
    kite = (-d + small + large) * (d + small - large) * (d - small + large) * (d + small + large)
    lens = large**2 * torch.acos(cos_large) + small**2 * torch.acos(cos_small) - 0.5 * kite.clamp_min(0.0).sqrt()
    return torch.where(apart, 0.0, torch.where(within, torch.pi * small**2, lens))


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _moffat_table(device, dtype):
    """Transform of the Moffat profile at (beta, k times scale radius), for bilinear interpolation."""
    import numpy as np
    from scipy.special import gamma, kv

    beta = np.linspace(*_BETA, _TABLE_BETAS)[:, None]
    kappa = np.linspace(0.0, _KAPPA_MAX, _TABLE_KAPPAS)[None, 1:]
    table = 2.0 / gamma(beta - 1.0) * (kappa / 2.0) ** (beta - 1.0) * kv(beta - 1.0, kappa)
    table = np.concatenate([np.ones((_TABLE_BETAS, 1)), table], axis=1)
    return torch.tensor(table, dtype=dtype, device=device)


def _moffat(k, width, numbers):
    beta = _BETA[0] + numbers[:, 0] * (_BETA[1] - _BETA[0])
    radius = width / (2.0 * torch.sqrt(2.0 ** (1.0 / beta) - 1.0))
    table = _moffat_table(k.device, k.dtype)
    row = (numbers[:, 0] * (_TABLE_BETAS - 1)).clamp(0, _TABLE_BETAS - 1.001)
    low = row.floor().long()
    weight = (row - low)[:, None]
    lines = table[low] * (1.0 - weight) + table[low + 1] * weight
    column = (k * radius[:, None, None]).flatten(1) * ((_TABLE_KAPPAS - 1) / _KAPPA_MAX)
    column = column.clamp(0, _TABLE_KAPPAS - 1.001)
    index = column.long()
    weight = column - index
    value = torch.gather(lines, 1, index) * (1.0 - weight) + torch.gather(lines, 1, index + 1) * weight
    return value.view_as(k)


_RADIAL = {
    "moffat": _moffat,
    "gaussian": _gaussian,
    "double_gaussian": _double_gaussian,
    "kolmogorov": _kolmogorov,
    "airy": _airy,
}
