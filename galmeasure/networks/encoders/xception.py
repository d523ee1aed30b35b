"""Xception: residual blocks of separable convolutions, for whole stamps or for the two views of a stamp."""

from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from galmeasure.networks.config import NetworkConfig
from galmeasure.networks.inputs import N_CHANNELS, N_MOMENTS, N_NUMBERS, StampViews

__all__ = ["MapDropout", "SeparableConv2d", "Xception", "XceptionEncoder"]

_WIDTH, _DEPTH = 64, 8


class SeparableConv2d(nn.Module):
    """Separable convolution: one 3 x 3 filter for each channel, then a mixing of the channels at each place.

    Parameters
    ----------
    channels, width : int
        Number of channels of the input and of the output.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, width, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Convolve maps ``(B, channels, H, W)``; the result has the shape ``(B, width, H, W)``."""
        return self.pointwise(self.depthwise(maps))


class MapDropout(nn.Module):
    """Whole maps left out at random in training, or in one of several fixed ways in a numbered pass.

    Parameters
    ----------
    chance : float
        Chance with which a map is left out; the others are raised accordingly.
    seed : int
        Seed of the fixed ways, another one for each layer.
    """

    def __init__(self, chance: float, seed: int = 0) -> None:
        super().__init__()
        if not 0.0 <= chance < 1.0:
            msg = f"dropout must lie between 0 and 1, not {chance}"
            raise ValueError(msg)
        self.chance, self.seed = chance, seed

    def forward(self, maps: Tensor, number: int | None = None) -> Tensor:
        """Leave out maps of ``(B, channels, H, W)``: those of a numbered pass are the same for all galaxies."""
        if number is None:
            return functional.dropout2d(maps, self.chance, self.training) if self.chance else maps
        generator = torch.Generator().manual_seed(1000 * number + self.seed)
        keep = torch.rand(maps.shape[1], generator=generator) >= self.chance
        return maps * (keep.to(maps) / (1.0 - self.chance))[:, None, None]


class _Block(nn.Module):
    """Two separable convolutions, each after a SELU, beside a shortcut."""

    def __init__(self, channels, width, dropout=0.0, seed=0):
        super().__init__()
        self.first, self.second = SeparableConv2d(channels, width), SeparableConv2d(width, width)
        self.shortcut = nn.Identity() if channels == width else nn.Conv2d(channels, width, 1)
        self.dropout = MapDropout(dropout, seed)

    def forward(self, maps, number=None):
        inner = self.second(functional.selu(self.first(functional.selu(maps))))
        return self.dropout(inner, number) + self.shortcut(maps)


class Xception(nn.Module):
    """The study's Xception network, up to the pooled features.

    A convolution, residual blocks of two separable convolutions without batch normalisation, and an exit block that is
    twice as wide and halves the maps; then the mean of each map. Maps are kept in the memory order ``channels last``,
    with which convolutions take half the time on a CPU.

    Parameters
    ----------
    channels : int
        Number of channels of the input.
    first, width, depth : int, optional
        Width of the first convolution, width of the residual blocks, and their number.
    stride : int, optional
        Stride of the first convolution.
    dropout : float, optional
        Chance with which a map inside a block is left out in training.
    memory_format : torch.memory_format, optional
        Order of the maps in memory; ``torch.channels_last`` by default.

    References
    ----------
    Chollet 2017, Xception: deep learning with depthwise separable convolutions, arXiv:1610.02357; Klambauer et al.
    2017, Self-normalizing neural networks, arXiv:1706.02515.
    """

    def __init__(
        self, channels: int, *, first: int = 16, width: int = _WIDTH, depth: int = _DEPTH, stride: int = 2,
        dropout: float = 0.0, memory_format: torch.memory_format = torch.channels_last,
    ) -> None:  # fmt: skip
        super().__init__()
        self.features, self.memory_format = 2 * width, memory_format
        self.stem = nn.Conv2d(channels, first, 5, stride=stride, padding=2)
        self.blocks = nn.ModuleList(_Block(width if block else first, width, dropout, block) for block in range(depth))
        self.exit_first = SeparableConv2d(width, self.features)
        self.exit_second = SeparableConv2d(self.features, self.features)
        self.exit_shortcut = nn.Conv2d(width, self.features, 1, stride=2)
        self.last = nn.Identity()  # where explanations find the last maps
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # the variance that keeps SELU normalised
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def feature_maps(self, images: Tensor, number: int | None = None) -> Tensor:
        """Maps before the pooling.

        Parameters
        ----------
        images : Tensor
            Shape ``(B, channels, H, W)``.
        number : int, optional
            Number of a pass with dropout, see `MapDropout`.

        Returns
        -------
        Tensor
            Shape ``(B, features, H / (2 stride), W / (2 stride))``.
        """
        maps = functional.selu(self.stem(images.contiguous(memory_format=self.memory_format)))
        for block in self.blocks:
            maps = block(maps, number)
        inner = self.exit_second(functional.selu(self.exit_first(functional.selu(maps))))
        return self.last(functional.max_pool2d(inner, 3, 2, 1) + self.exit_shortcut(maps))

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features ``(B, features)`` of images ``(B, channels, H, W)``."""
        return self.feature_maps(images).mean((2, 3))


class XceptionEncoder(nn.Module):
    """Xception as an encoder of posterior networks: it sees both views of a stamp, side by side as channels.

    Parameters
    ----------
    features, psf_features : int
        Length of the result, and of the PSF's embedding.
    first, width, depth, dropout
        Same options as those of `Xception`.
    """

    def __init__(
        self, *, features: int = 256, psf_features: int = 64, first: int = 16, width: int = _WIDTH,
        depth: int = _DEPTH, dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.maps = Xception(2 * N_CHANNELS, first=first, width=width, depth=depth, stride=1, dropout=dropout)
        numbers = self.maps.features + N_MOMENTS + N_NUMBERS + psf_features
        self.join = nn.Sequential(
            nn.Linear(numbers, 2 * features), nn.GELU(), nn.Linear(2 * features, features), nn.LayerNorm(features)
        )

    @classmethod
    def from_config(cls, config: NetworkConfig) -> Self:
        """Encoder of a network's configuration."""
        return cls(features=config.features, psf_features=config.psf_features, **config.encoder_options)

    @staticmethod
    def tensor_shapes(config: NetworkConfig) -> Iterator[tuple[str, tuple[int | None, ...]]]:
        """Names and shapes of the tensors from which the numbers of a configuration can be told."""
        width = config.encoder_options.get("width", _WIDTH)
        depth = config.encoder_options.get("depth", _DEPTH)
        yield "maps.stem.weight", (config.encoder_options.get("first", 16), 2 * N_CHANNELS, 5, 5)
        yield f"maps.blocks.{depth - 1}.second.pointwise.weight", (width, width, 1, 1)
        yield "join.2.weight", (config.features, 2 * config.features)

    def forward(self, views: StampViews, psf: Tensor, *, bf16: bool = False) -> Tensor:
        """Encode stamps.

        Parameters
        ----------
        views : StampViews
            Views of the stamps, from `galmeasure.networks.make_views`.
        psf : Tensor
            Embedding of each stamp's PSF, shape ``(B, psf_features)``.
        bf16 : bool, optional
            Compute the convolutions in bfloat16.

        Returns
        -------
        Tensor
            Shape ``(B, features)``, single precision.
        """
        with torch.autocast(psf.device.type, dtype=torch.bfloat16, enabled=bf16):
            maps = self.maps(torch.cat([views.near, views.far], 1))
        return self.join(torch.cat([maps.float(), views.moments, views.numbers, psf], 1))
