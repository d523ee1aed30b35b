"""Inputs of a network: two views of a stamp's pixels, windowed moments and a few numbers, all dimensionless."""

import math
from dataclasses import dataclass, fields
from functools import lru_cache

import torch
from torch import Tensor

from galmeasure.utils.compiled import compiled_module

__all__ = [
    "NATIVE_SIZE",
    "N_CHANNELS",
    "N_MOMENTS",
    "N_NUMBERS",
    "N_PSF_MOMENTS",
    "PSF_SIZE",
    "StampInputs",
    "StampViews",
    "filled_images",
    "hermite_moments",
    "make_views",
    "psf_moments",
    "quick_asinh",
    "turned_inputs",
]

NATIVE_SIZE = 64
"""Side of the stamps that networks take."""

PSF_SIZE = 33
"""Odd side of the PSF images that networks take, native sampling, the star on the central pixel."""

WINDOWS = (0.9, 1.6, 2.8, 5.0, 9.0, 16.0)
"""Widths (sigma) of the Gaussian windows, pixels."""

_DEGREE = 4  # of the Hermite polynomials under the windows
_PER_WINDOW = (_DEGREE + 1) * (_DEGREE + 2) // 2
_COLUMNS = 16
_LOOPS = "galmeasure.networks.compiled_views"

N_CHANNELS = 4
N_MOMENTS = 2 * len(WINDOWS) * _PER_WINDOW + len(WINDOWS)
N_PSF_MOMENTS = len(WINDOWS) * _PER_WINDOW
N_NUMBERS = 3


@dataclass(frozen=True)
class StampInputs:
    """A batch of stamps of 64 x 64 pixels, in units in which the noise of a pixel is about 1.

    Parameters
    ----------
    image, error : Tensor
        Pixels and their 1-sigma noise, shape ``(B, 64, 64)``; ``error`` may broadcast.
    good : Tensor
        Boolean, shape ``(B, 64, 64)``, True for good pixels; the values of bad ones must be finite, and do not matter.
    gain : Tensor
        Electrons per unit, shape ``(B,)``; infinite where ``error`` is all the noise.
    psf : Tensor
        Distinct PSFs, shape ``(M, 33, 33)``, normalised, pixel response included, the star on the central pixel.
    psf_index : Tensor
        Index of each stamp's PSF, shape ``(B,)``.
    psf_quality : Tensor, optional
        Numbers that describe pedestal, noise and size of the PSF images, from `galmeasure.networks.clean_psfs`, shape
        ``(M, 3)``; needed by networks whose PSFs are cleaned.
    noiseless : Tensor, optional
        Images before their noise, shape ``(B, 64, 64)``, from which denoisers and decoders learn.
    """

    image: torch.Tensor
    error: torch.Tensor
    good: torch.Tensor
    gain: torch.Tensor
    psf: torch.Tensor
    psf_index: torch.Tensor
    psf_quality: torch.Tensor | None = None
    noiseless: torch.Tensor | None = None

    def __len__(self) -> int:
        """Number of stamps."""
        return len(self.image)

    def to(self, device: torch.device | str) -> "StampInputs":
        """Return the same on another device."""
        values = (getattr(self, entry.name) for entry in fields(self))
        return type(self)(*(None if value is None else value.to(device) for value in values))


@dataclass(frozen=True)
class StampViews:
    """Dimensionless views of a batch of stamps, the input of encoders.

    Parameters
    ----------
    near, far : Tensor
        The central 32 x 32 pixels, and the whole stamp in blocks of 2 x 2, shape ``(B, 4, 32, 32)``: pixels over
        noise and over the galaxy's amplitude (both asinh), fraction of good pixels, log of the noise.
    moments : Tensor
        Hermite moments under Gaussian windows, over noise and over amplitude, and the good part of each window,
        shape ``(B, N_MOMENTS)``.
    numbers : Tensor
        Logarithms of signal-to-noise ratio, size and shot noise, shape ``(B, N_NUMBERS)``.
    flux_scale : Tensor
        Rough flux of the galaxy, in the unit of the stamp, shape ``(B,)``.
    """

    near: torch.Tensor
    far: torch.Tensor
    moments: torch.Tensor
    numbers: torch.Tensor
    flux_scale: torch.Tensor


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _moment_basis(device, size=NATIVE_SIZE):
    """Gauss-Hermite functions of unit norm, columns ``(size * size, windows * functions)``; squared windows."""
    offset = torch.arange(size, dtype=torch.float64) - (size - 1) / 2.0
    basis, windows = [], []
    for sigma in WINDOWS:
        t = offset / sigma
        hermite = [torch.exp(-0.5 * t**2)]
        hermite.append(math.sqrt(2.0) * t * hermite[0])
        for k in range(2, _DEGREE + 1):
            hermite.append(math.sqrt(2.0 / k) * t * hermite[-1] - math.sqrt((k - 1.0) / k) * hermite[-2])
        hermite = [h / h.norm() for h in hermite]
        basis += [
            (hermite[order - i][:, None] * hermite[i][None, :]).flatten()
            for order in range(_DEGREE + 1)
            for i in range(order + 1)
        ]
        windows.append((hermite[0][:, None] * hermite[0][None, :]).square().flatten())
    # as many columns as products need to round each row alike, wherever it stands
    windows += [torch.zeros_like(windows[0])] * (-len(windows) % _COLUMNS)
    return torch.stack(basis, 1).float().to(device), torch.stack(windows, 1).float().to(device)


def make_views(inputs: StampInputs) -> StampViews:
    """Dimensionless views of stamps.

    Parameters
    ----------
    inputs : StampInputs
        Stamps in units of their noise.

    Returns
    -------
    StampViews
        Views in single precision.

    Notes
    -----
    A bad pixel takes the value of the pixel opposite to it (a galaxy looks the same upside down), or 0 where that is
    bad too. The amplitude by which pixels are divided is that of Gaussians fitted to the stamp, so that the shape of a
    bright galaxy keeps its precision; the division by the noise keeps that of a faint one.
    """
    good, image = inputs.good, filled_images(inputs)
    error = inputs.error.expand_as(image)
    fraction = good.to(image.dtype)

    basis, windows = _moment_basis(image.device, image.shape[-1])
    coefficients = image.flatten(1) @ basis
    covered = (fraction.flatten(1) @ windows)[:, : len(WINDOWS)]
    fluxes = coefficients[:, ::_PER_WINDOW]  # order 0
    sigma = torch.tensor(WINDOWS, device=image.device)
    weight = fluxes.clamp_min(0.5).pow(4)
    weight = weight / weight.sum(1, keepdim=True)
    amplitude = (weight * fluxes / (math.sqrt(math.pi) * sigma)).sum(1).clamp_min(0.3)
    flux_scale = (weight * fluxes * (2.0 * math.sqrt(math.pi) * sigma)).sum(1).clamp_min(3.0)
    level = (weight * fluxes).sum(1, keepdim=True).clamp_min(0.5)
    size = (weight * sigma.log()).sum(1)
    moments = torch.cat([quick_asinh(coefficients), coefficients / level, covered], 1)
    numbers = torch.stack([level[:, 0].log(), size, torch.log1p(amplitude / inputs.gain)], 1)

    near, far = _pixel_views(image, fraction, error, amplitude)
    return StampViews(near, far, moments, numbers, flux_scale)


def _pixel_views(image, fraction, error, amplitude):
    """Four channels of the central pixels, and of all in blocks of 2 x 2."""
    loops = compiled_module(_LOOPS, image, fraction, error, amplitude)
    if loops is not None:
        near, far = image.new_empty(2, len(image), N_CHANNELS, image.shape[1] // 2, image.shape[2] // 2)
        arrays = image.contiguous(), fraction.contiguous(), error, amplitude.contiguous(), near, far
        loops.fill_views(*(array.numpy() for array in arrays))
        return near, far
    scaled = image / amplitude[:, None, None]
    near = _view(*map(_centre, (image, scaled, fraction, error)), 1.0)
    return near, _view(*map(_blocks, (image, scaled, fraction, error)), 2.0)


def turned_inputs(inputs: StampInputs, element: int) -> StampInputs:
    """Turn and flip stamps and their PSFs by one of the eight symmetries of a square.

    Parameters
    ----------
    inputs : StampInputs
        Square stamps and their PSFs.
    element : int
        Number of the symmetry, 0 to 7: bit 0 exchanges x and y, bit 1 flips x, bit 2 flips y.

    Returns
    -------
    StampInputs
        Turned stamps and PSFs.
    """
    maps = [inputs.image, inputs.error.expand_as(inputs.image), inputs.good, inputs.psf]
    maps += [] if inputs.noiseless is None else [inputs.noiseless]
    if element & 1:
        maps = [pixels.mT for pixels in maps]
    for bit, axis in ((2, -1), (4, -2)):
        if element & bit:
            maps = [pixels.flip(axis) for pixels in maps]
    image, error, good, psf, *noiseless = maps
    return StampInputs(image, error, good, inputs.gain, psf, inputs.psf_index, inputs.psf_quality, *noiseless)


def filled_images(inputs: StampInputs) -> Tensor:
    """Images ``(B, H, W)`` whose bad pixels have the value of the opposite pixel, or 0 where that is bad too."""
    opposite = torch.where(inputs.good, inputs.image, 0.0).flip(-1, -2)
    return torch.where(inputs.good, inputs.image, opposite)


def hermite_moments(image: Tensor) -> Tensor:
    """Gauss-Hermite moments of square images about their middle under the windows, shape ``(B, 90)``.

    Each is a sum over the pixels with weights of unit norm.
    """
    return image.flatten(1) @ _moment_basis(image.device, image.shape[-1])[0]


def psf_moments(psf: Tensor) -> Tensor:
    """Hermite moments of PSF images ``(M, 33, 33)`` under the windows of stamps, shape ``(M, N_PSF_MOMENTS)``."""
    return 10.0 * hermite_moments(psf)


def quick_asinh(value: Tensor) -> Tensor:
    """Inverse hyperbolic sine to an absolute error of 3e-7, several times faster than that of torch on a CPU."""
    size = value.abs().clamp_max(1e18)  # the square is finite
    return torch.log(size + torch.sqrt(size * size + 1.0)).copysign(value)


def _centre(image):
    """Central half of the pixels along both axes."""
    start = image.shape[-1] // 4
    return image[:, start : 3 * start, start : 3 * start]


def _blocks(image):
    """Means of 2 x 2 pixels."""
    rows = image[:, ::2] + image[:, 1::2]
    return (rows[..., ::2] + rows[..., 1::2]) * 0.25


def _view(image, scaled, fraction, error, noise_gain):
    """Four channels; ``noise_gain`` is the factor by which averaging has lowered the noise."""
    return torch.stack([quick_asinh(noise_gain * image / error), quick_asinh(scaled), fraction, error.log()], 1)
