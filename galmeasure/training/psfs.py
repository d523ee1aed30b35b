"""Random PSFs for simulations: analytic families, drawn in Fourier space with the pixel's response."""

from dataclasses import dataclass
from functools import lru_cache

import torch

from galmeasure.render import PSFGrid
from galmeasure.render.grid import padded_shape, place_rows, wavenumbers

__all__ = ["FAMILIES", "RandomPSFs", "draw_psfs"]

FAMILIES = ("moffat", "gaussian", "double_gaussian", "kolmogorov", "airy")
"""Names of the families: Moffat with beta 1.8 to 5, Gaussian, two Gaussians, Kolmogorov, obscured Airy."""

_BETA = (1.8, 5.0)
_OBSCURATION = (0.0, 0.45)
_OUTER_WIDTH = (1.6, 3.0)  # of the second Gaussian, in widths of the first
_OUTER_SHARE = (0.05, 0.4)
_KOLMOGOROV = 0.976  # FWHM in units of wavelength over Fried length
_AIRY = 1.029  # FWHM in units of wavelength over diameter, unobscured
_FWHM_SIGMA = 2.3548200450309493
_TABLE_BETAS, _TABLE_KAPPAS, _KAPPA_MAX = 65, 4096, 40.0


@dataclass(frozen=True)
class RandomPSFs:
    """PSFs of a batch.

    Parameters
    ----------
    grid : PSFGrid
        Their transforms for the renderer.
    images : Tensor
        What a star on the central pixel looks like, at native sampling, shape ``(M, size, size)``, odd side.
    fwhm : Tensor
        Width of the optical PSF, before the pixel, shape ``(M,)``.
    """

    grid: PSFGrid
    images: torch.Tensor
    fwhm: torch.Tensor


def draw_psfs(count, fwhm, shape, *, families=FAMILIES, max_shear=0.1, band=2.0, size=33, generator=None, device="cpu"):
    """Draw PSFs of random families, shapes and widths.

    Parameters
    ----------
    count : int
        How many.
    fwhm : Range
        Distribution of the width, pixels.
    shape : tuple of int
        Stamp ``(ny, nx)`` for which the transforms are made.
    families : sequence of str, optional
        Drawn from with equal chances.
    max_shear : float, optional
        The reduced shear is uniform within a disc of this radius.
    band : float, optional
        Largest wavenumber kept, in units of the Nyquist wavenumber.
    size : int, optional
        Odd side of the images.
    generator : torch.Generator, optional
        Of the device.
    device : str, optional
        Where.

    Returns
    -------
    RandomPSFs
        Transforms, images and widths.

    Raises
    ------
    ValueError
        If ``size`` is even or a family is not known.
    """
    if size % 2 == 0:
        msg = f"size must be odd, not {size}"
        raise ValueError(msg)
    unknown = set(families) - set(FAMILIES)
    if unknown:
        msg = f"families must be among {', '.join(FAMILIES)}, not {', '.join(sorted(unknown))}"
        raise ValueError(msg)
    width = fwhm.sample(count, generator, device)
    kind = torch.randint(len(families), (count,), generator=generator, device=device)
    numbers = torch.rand((count, 2), generator=generator, device=device)
    radius = max_shear * torch.rand(count, generator=generator, device=device).sqrt()
    angle = 2.0 * torch.pi * torch.rand(count, generator=generator, device=device)
    shear = radius * torch.cos(angle), radius * torch.sin(angle)
    padded = padded_shape(shape)
    transform = _transforms(kind, families, width, numbers, shear, padded, band)
    grid = PSFGrid(transform, tuple(shape), padded, band)
    return RandomPSFs(grid, _images(kind, families, width, numbers, shear, size), width)


def _transforms(kind, families, width, numbers, shear, padded, band):
    """Transforms ``(M, rows, columns)`` with the pixel's response."""
    ky, kx, _ = wavenumbers(padded, band, width.device, width.dtype)
    g1, g2 = (component[:, None, None] for component in shear)
    scale = torch.rsqrt(1.0 - g1**2 - g2**2)
    k = scale * torch.hypot((1.0 + g1) * kx + g2 * ky, g2 * kx + (1.0 - g1) * ky)
    transform = torch.empty_like(k)
    for i, family in enumerate(families):
        chosen = torch.nonzero(kind == i)[:, 0]
        if len(chosen):
            transform[chosen] = _RADIAL[family](k[chosen], width[chosen], numbers[chosen])
    transform = transform * torch.sinc(kx / (2.0 * torch.pi)) * torch.sinc(ky / (2.0 * torch.pi))
    return torch.complex(transform, torch.zeros_like(transform))


def _images(kind, families, width, numbers, shear, size):
    """Native images ``(M, size, size)`` with the star on the central pixel."""
    side = 2 * padded_shape((size, size))[0]
    transform = _transforms(kind, families, width, numbers, shear, (side, side), 2.0)
    image = torch.fft.irfft(torch.fft.ifft(place_rows(transform, side), dim=-2), n=2 * side, dim=-1)[..., ::2] * 2
    half = size // 2
    return torch.roll(image, (half, half), (-2, -1))[..., :size, :size].contiguous()


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
    one = torch.ones_like(distance)
    inner = inner.expand_as(distance).clamp_min(1e-3)
    overlap = _overlap(one, one, distance) - 2.0 * _overlap(one, inner, distance) + _overlap(inner, inner, distance)
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
    part = (row - low)[:, None]
    lines = table[low] * (1.0 - part) + table[low + 1] * part
    column = (k * radius[:, None, None]).flatten(1) * ((_TABLE_KAPPAS - 1) / _KAPPA_MAX)
    column = column.clamp(0, _TABLE_KAPPAS - 1.001)
    index = column.long()
    part = column - index
    value = torch.gather(lines, 1, index) * (1.0 - part) + torch.gather(lines, 1, index + 1) * part
    return value.view_as(k)


_RADIAL = {
    "moffat": _moffat,
    "gaussian": _gaussian,
    "double_gaussian": _double_gaussian,
    "kolmogorov": _kolmogorov,
    "airy": _airy,
}
