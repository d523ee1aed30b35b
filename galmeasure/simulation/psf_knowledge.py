"""Errors of PSF images: those made from real stars have pedestals and noise, end early, and have another shape."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from galmeasure.simulation.psfs import RandomPSFs, psf_images

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["PSFKnowledge", "told_images"]

_CORRELATION = 1.5  # sigma of the kernel of correlated noise, pixels
_REACH = 6  # half side of that kernel, pixels: four sigma


@dataclass(frozen=True, kw_only=True)
class PSFKnowledge:
    """Errors of the PSF images that fitters are given; fractions are of the PSFs.

    Parameters
    ----------
    pedestals : float, optional
        Fraction whose images have a constant added, of either sign: a background that was not subtracted well.
    pedestal : tuple of float, optional
        Smallest and largest constant over the peak; its logarithm is uniform.
    pedestal_light : float, optional
        Largest light of a constant within the image, in units of that of the star: an image whose sum is not positive
        cannot be normalised.
    noisy : float, optional
        Fraction whose images have noise, half of them noise that is correlated over some pixels.
    noise : tuple of float, optional
        Smallest and largest noise of a pixel over the peak; its logarithm is uniform.
    wrong_shapes : float, optional
        Fraction whose images are those of a PSF of slightly different width and ellipticity.
    width_error, shear_error : float, optional
        Standard deviations of the relative error of their widths and of the error of each component of their shear.
    cut : float, optional
        Fraction whose images end earlier, at a side within which the PSF has at least ``cut_light`` of its light.
    cut_light : float, optional
        Smallest fraction of the light within images that are cut.
    """

    pedestals: float = 0.35
    pedestal: tuple[float, float] = (1e-4, 3e-3)
    pedestal_light: float = 0.4
    noisy: float = 0.3
    noise: tuple[float, float] = (1e-4, 1e-2)
    wrong_shapes: float = 0.2
    width_error: float = 0.003
    shear_error: float = 0.002
    cut: float = 0.3
    cut_light: float = 0.99

    def __post_init__(self):
        """Check ranges of the numbers."""
        for name in ("pedestals", "noisy", "wrong_shapes", "cut", "cut_light", "pedestal_light"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                msg = f"{name} must lie between 0 and 1, not {getattr(self, name)}"
                raise ValueError(msg)
        for name in ("pedestal", "noise"):
            value = getattr(self, name)
            pair = isinstance(value, list | tuple) and len(value) == 2
            if not (pair and 0.0 < value[0] <= value[1] < 1.0):
                msg = f"{name} must be two numbers between 0 and 1 in ascending order, not {value}"
                raise ValueError(msg)
        for name in ("width_error", "shear_error"):
            if not 0.0 <= getattr(self, name) < 0.2:
                msg = f"{name} must lie between 0 and 0.2, not {getattr(self, name)}"
                raise ValueError(msg)

    @classmethod
    def perfect(cls) -> PSFKnowledge:
        """Return knowledge without any error."""
        return cls(pedestals=0.0, noisy=0.0, wrong_shapes=0.0, cut=0.0)


def told_images(
    knowledge: PSFKnowledge,
    psfs: RandomPSFs,
    families: Sequence[str],
    *,
    generator: torch.Generator | None = None,
    device: str = "cpu",
) -> torch.Tensor:
    """Draw the PSF images that fitters are given.

    Parameters
    ----------
    knowledge : PSFKnowledge
        Errors of the images and their frequencies.
    psfs : RandomPSFs
        True PSFs, with which the galaxies are convolved.
    families : sequence of str
        Names of the families to which ``psfs.shapes.family`` is an index.
    generator : torch.Generator, optional
        Random number generator on the device.
    device : str, optional
        Torch device of the images, for example "cpu" or "cuda". Default "cpu".

    Returns
    -------
    Tensor
        Shape ``(M, size, size)``: the light of the star is that of the true image, whatever has been added to it;
        pixels beyond the end of images that are cut are zero.
    """
    options = {"generator": generator, "device": device}
    images = _wrong_shapes(knowledge, psfs, families, options)
    peak = psfs.images.amax((1, 2), keepdim=True)
    count, size = images.shape[:2]
    chance = torch.rand((3, count, 1, 1), **options)
    level, noise = (
        low * torch.exp(torch.rand((count, 1, 1), **options) * math.log(high / low))
        for low, high in (knowledge.pedestal, knowledge.noise)
    )
    sign = torch.where(torch.rand((count, 1, 1), **options) < 0.5, -1.0, 1.0)
    constant = torch.minimum(level * peak, torch.full_like(peak, knowledge.pedestal_light / size**2))
    images = images + torch.where(chance[0] < knowledge.pedestals, sign * constant, 0.0)
    white = torch.randn(images.shape, **options)
    white = torch.where(torch.rand((count, 1, 1), **options) < 0.5, white, _correlated(white))
    images = images + torch.where(chance[1] < knowledge.noisy, noise * peak * white, 0.0)
    limit = _limits(knowledge, psfs.images, options)
    half = size // 2
    offset = torch.arange(-half, half + 1, device=images.device).abs()
    beyond = torch.maximum(offset[:, None], offset) > limit[:, None, None]
    return torch.where((chance[2] < knowledge.cut) & beyond, 0.0, images)


def _wrong_shapes(knowledge, psfs, families, options):
    """Native images, some of them of slightly different PSFs."""
    count = len(psfs.images)
    numbers = torch.randn((3, count), **options)
    rows = torch.nonzero(torch.rand(count, **options) < knowledge.wrong_shapes)[:, 0]
    if not len(rows):
        return psfs.images
    shapes, numbers = psfs.shapes, numbers[:, rows]
    wrong = dataclasses.replace(
        shapes,
        family=shapes.family[rows],
        width=shapes.width[rows] * (1.0 + knowledge.width_error * numbers[0]),
        numbers=shapes.numbers[rows],
        g1=shapes.g1[rows] + knowledge.shear_error * numbers[1],
        g2=shapes.g2[rows] + knowledge.shear_error * numbers[2],
    )
    images = psf_images(wrong, families=families, size=psfs.images.shape[-1])
    return psfs.images.index_copy(0, rows, images)


def _correlated(white):
    """White noise smoothed with a Gaussian kernel, of unit variance again."""
    steps = torch.arange(-_REACH, _REACH + 1, dtype=white.dtype, device=white.device)
    kernel = torch.exp(-0.5 * (steps / _CORRELATION) ** 2)
    kernel = kernel / kernel.square().sum().sqrt()
    smooth = torch.nn.functional.conv2d(white[:, None], kernel[None, None, :, None], padding=(_REACH, 0))
    return torch.nn.functional.conv2d(smooth, kernel[None, None, None, :], padding=(0, _REACH))[:, 0]


def _limits(knowledge, images, options):
    """Half sides at which images may end, shape ``(M,)``: between that of the least light and the whole."""
    half = images.shape[-1] // 2
    offset = torch.arange(-half, half + 1, device=images.device).abs()
    square = torch.maximum(offset[:, None], offset).flatten()
    rings = torch.nn.functional.one_hot(square).to(images.dtype)
    enclosed = torch.cumsum(images.flatten(1) @ rings, 1)
    least = (enclosed < knowledge.cut_light).sum(1).clamp_max(half)
    return (least + torch.rand(len(images), **options) * (half - least)).round()
