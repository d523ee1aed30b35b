"""The study's Xception network: normalised pixels, Xception, and one linear layer of five labels."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from galmeasure.networks.bodies.base import N_LABELS, Normalisation, central, stamp_channels
from galmeasure.networks.encoders.xception import Xception
from galmeasure.networks.inputs import NATIVE_SIZE, StampInputs, filled_images

if TYPE_CHECKING:
    from galmeasure.networks.point_config import PointConfig

__all__ = ["XceptionBody"]

_DEFAULTS = {"first": 16, "width": 64, "depth": 8}


class XceptionBody(nn.Module):
    """Labels of a stamp by Xception; with one channel and the default sizes it has 109,304 numbers, as the study's.

    Parameters
    ----------
    psf_channel : bool, optional
        True if the image of the PSF is the second channel.
    window : int, optional
        Side of the central pixels that are seen, a multiple of 4; a training begins four times faster with half of 64.
    first, width, depth : int, optional
        Sizes of the maps, see `galmeasure.networks.encoders.xception.Xception`.
    dropout : float, optional
        Chance with which a map inside a block is left out in training.
    """

    makes: tuple[str, ...] = ()
    has_image_loss = False

    def __init__(
        self, *, psf_channel: bool = False, window: int = NATIVE_SIZE, first: int = 16, width: int = 64, depth: int = 8,
        dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        channels = 2 if psf_channel else 1
        self.psf_channel, self.window = psf_channel, window
        self.normalise = Normalisation(channels)
        self.maps = Xception(channels, first=first, width=width, depth=depth, dropout=dropout)
        self.features = self.maps.features
        self.labels = nn.Linear(self.features, N_LABELS)

    @classmethod
    def from_config(cls, config: "PointConfig") -> Self:
        """Body of a network's configuration."""
        return cls(psf_channel=config.psf_channel, window=config.window, **config.encoder_options)

    @staticmethod
    def tensor_shapes(config: "PointConfig") -> Iterator[tuple[str, tuple[int | None, ...]]]:
        """Names and shapes of the tensors from which the numbers of a configuration can be told."""
        sizes = _DEFAULTS | {name: size for name, size in config.encoder_options.items() if name in _DEFAULTS}
        yield "maps.stem.weight", (sizes["first"], 2 if config.psf_channel else 1, 5, 5)
        yield f"maps.blocks.{sizes['depth'] - 1}.second.pointwise.weight", (sizes["width"], sizes["width"], 1, 1)
        yield "labels.weight", (N_LABELS, 2 * sizes["width"])

    def adapt(self, inputs: StampInputs, psf: Tensor) -> None:
        """Set the normalisation by stamps with PSFs ``(B, 33, 33)``."""
        self.normalise.adapt(self._channels(inputs, psf))

    def forward(
        self, inputs: StampInputs, psf: Tensor, *, bf16: bool = False, number: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Labels and features.

        Parameters
        ----------
        inputs : StampInputs
            Stamps in units of their noise.
        psf : Tensor
            PSF of each stamp, shape ``(B, 33, 33)``.
        bf16 : bool, optional
            Compute the convolutions in bfloat16.
        number : int, optional
            Number of a pass with dropout.

        Returns
        -------
        labels, features : Tensor
            Shapes ``(B, 5)`` and ``(B, features)``, single precision.
        """
        images = self.normalise(self._channels(inputs, psf, bf16))
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=bf16):
            maps = self.maps.feature_maps(images, number)
        # the mean over the places of a whole stamp, so that weights of one window are a start for another
        features = maps.float().mean((2, 3)) * (self.window / NATIVE_SIZE) ** 2
        return self.labels(features), features

    def _channels(self, inputs, psf, bf16=False):
        image = self._images(inputs, bf16)
        return central(stamp_channels(image, psf if self.psf_channel else None), self.window)

    def _images(self, inputs, bf16):
        """Images that the convolutions see, shape ``(B, 64, 64)``."""
        return filled_images(inputs)
