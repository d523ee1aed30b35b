"""What every body offers, and the normalisation that they share."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol, Self

import torch
from torch import Tensor, nn

from galmeasure.networks.inputs import NATIVE_SIZE, PSF_SIZE, StampInputs
from galmeasure.parameters import SERSIC

if TYPE_CHECKING:
    from galmeasure.networks.point_config import PointConfig

__all__ = ["LABELS", "N_LABELS", "Body", "Normalisation", "central", "stamp_channels"]

LABELS = SERSIC.without("x", "y")
"""Parameters that networks of point estimates measure; the centre is taken as the middle of the stamp."""

N_LABELS = LABELS.size
"""Number of labels, which are these parameters scaled to (-1, 1)."""


class Body(Protocol):
    """Module from stamps and their PSFs to the five labels and to features for the head of the errors.

    A class is added under its name to `galmeasure.networks.registry.BODIES`.
    """

    features: int
    """Length of the features."""

    makes: tuple[str, ...]
    """Images that the body can make: ``"denoised"`` with a method ``denoise``, ``"decoded"`` with ``decode``."""

    has_image_loss: bool
    """True if there is a method ``image_loss``, which compares images with the noiseless ones."""

    @classmethod
    def from_config(cls, config: "PointConfig") -> Self:
        """Body of a configuration, which may read ``config.encoder_options``."""
        ...

    @staticmethod
    def tensor_shapes(config: "PointConfig") -> Iterator[tuple[str, tuple[int | None, ...]]]:
        """Names and shapes of the tensors from which every number of the configuration can be told."""
        ...

    def adapt(self, inputs: StampInputs, psf: Tensor) -> None:
        """Set the constants of the normalisation by the first stamps of the training."""
        ...

    def __call__(self, inputs: StampInputs, psf: Tensor, *, bf16: bool = False) -> tuple[Tensor, Tensor]:
        """Labels ``(B, 5)`` and features ``(B, features)`` of stamps with PSFs ``(B, 33, 33)``."""
        ...


class Normalisation(nn.Module):
    """Shift and scale of each channel by the mean and the variance of the data.

    Parameters
    ----------
    channels : int
        Number of channels of the images.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.register_buffer("count", torch.zeros(1))

    def adapt(self, images: Tensor) -> None:
        """Take mean and variance of images ``(B, channels, H, W)``."""
        self.mean.copy_(images.mean((0, 2, 3)))
        self.variance.copy_(images.var((0, 2, 3), correction=0))
        self.count.fill_(len(images))

    def forward(self, images: Tensor) -> Tensor:
        """Normalise images ``(B, channels, H, W)``."""
        scale = self.variance.clamp_min(1e-12).rsqrt()
        return (images - self.mean[:, None, None]) * scale[:, None, None]


def stamp_channels(image: Tensor, psf: Tensor | None) -> Tensor:
    """Channels of a stamp: its pixels, and the image of the PSF if one is given.

    Parameters
    ----------
    image : Tensor
        Pixels, shape ``(B, 64, 64)``.
    psf : Tensor or None
        PSF of each stamp, shape ``(B, 33, 33)``.

    Returns
    -------
    Tensor
        Shape ``(B, 1 or 2, 64, 64)``; the PSF stands in the middle of its channel.
    """
    image = image[:, None]
    if psf is None:
        return image
    before = (NATIVE_SIZE - PSF_SIZE) // 2
    after = NATIVE_SIZE - PSF_SIZE - before
    return torch.cat([image, nn.functional.pad(psf, (before, after, before, after))[:, None]], 1)


def central(images: Tensor, window: int) -> Tensor:
    """Central ``window`` pixels along both sides of images ``(..., 64, 64)``."""
    start = (NATIVE_SIZE - window) // 2
    return images[..., start : start + window, start : start + window]
