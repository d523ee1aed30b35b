"""Encoders of plain and of residual convolutions."""

from collections.abc import Iterator
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from galmeasure.networks.config import NetworkConfig
from galmeasure.networks.inputs import N_CHANNELS, N_MOMENTS, N_NUMBERS, NATIVE_SIZE, StampViews

__all__ = ["ConvolutionEncoder", "ResidualEncoder"]

_DEFAULTS = {"width": 32, "depth": 1, "kernel": 3}
_STAGES = 3  # each halves the maps and doubles the channels
_NORMS = ("none", "group")
_POOLINGS = ("mean", "flatten")


def _norm(name, width):
    return nn.GroupNorm(min(8, width), width) if name == "group" else nn.Identity()


class _Layer(nn.Module):
    """A convolution, its norm and its activation; with a shortcut around them if it is residual."""

    def __init__(self, width, kernel, norm, residual):
        super().__init__()
        self.convolution = nn.Conv2d(width, width, kernel, padding=kernel // 2)
        self.norm, self.residual = _norm(norm, width), residual

    def forward(self, maps):
        inner = functional.gelu(self.norm(self.convolution(maps)))
        return maps + inner if self.residual else inner


class ConvolutionEncoder(nn.Module):
    """Convolutions over both views of a stamp, side by side as channels.

    Three stages halve the maps of 32 x 32 and double the channels; each has some more layers. The PSF shifts and scales
    the channels at the end of each stage.

    Parameters
    ----------
    features, psf_features : int
        Length of the result, and of the PSF's embedding.
    width, depth, kernel : int, optional
        Channels of the first stage, more layers in each stage, and odd side of the filters.
    norm : int, optional
        1 for a norm over groups of channels, 0 for none.
    flatten : int, optional
        1 to read the last maps place by place, 0 to read the mean of each.
    dropout : float, optional
        Chance with which features are left out in training.

    Raises
    ------
    ValueError
        If an option is out of range.
    """

    residual: ClassVar[bool] = False

    def __init__(
        self, *, features: int = 256, psf_features: int = 64, width: int = 32, depth: int = 1, kernel: int = 3,
        norm: int = 1, flatten: int = 1, dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if kernel % 2 == 0:
            msg = f"kernel must be odd, not {kernel}"
            raise ValueError(msg)
        for name, value in (("norm", norm), ("flatten", flatten)):
            if value not in (0, 1):
                msg = f"{name} must be 0 or 1, not {value}"
                raise ValueError(msg)
        self.pooling = _POOLINGS[flatten]
        widths = [2 * N_CHANNELS, *(width * 2**stage for stage in range(_STAGES))]
        self.reduce = nn.ModuleList(
            nn.Conv2d(widths[stage], widths[stage + 1], kernel, stride=2, padding=kernel // 2)
            for stage in range(_STAGES)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(_Layer(last, kernel, _NORMS[norm], self.residual) for _ in range(depth)))
            for last in widths[1:]
        )
        self.psf = nn.ModuleList(nn.Linear(psf_features, 2 * last) for last in widths[1:])
        for layer in self.psf:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        side = NATIVE_SIZE // 2 >> _STAGES
        self.dropout = nn.Dropout(dropout)
        count = widths[-1] * (side**2 if flatten else 1) + N_MOMENTS + N_NUMBERS + psf_features
        self.join = nn.Sequential(
            nn.Linear(count, 2 * features), nn.GELU(), nn.Linear(2 * features, features), nn.LayerNorm(features)
        )

    @classmethod
    def from_config(cls, config: NetworkConfig) -> Self:
        """Encoder of a network's configuration."""
        return cls(features=config.features, psf_features=config.psf_features, **config.encoder_options)

    @staticmethod
    def tensor_shapes(config: NetworkConfig) -> Iterator[tuple[str, tuple[int | None, ...]]]:
        """Names and shapes of the tensors from which the numbers of a configuration can be told."""
        sizes = _DEFAULTS | {name: size for name, size in config.encoder_options.items() if name in _DEFAULTS}
        width, kernel = sizes["width"], sizes["kernel"]
        yield "reduce.0.weight", (width, 2 * N_CHANNELS, kernel, kernel)
        for layer in range(sizes["depth"]):
            yield f"stages.0.{layer}.convolution.weight", (width, width, kernel, kernel)
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
        maps = torch.cat([views.near, views.far], 1).contiguous(memory_format=torch.channels_last)
        with torch.autocast(psf.device.type, dtype=torch.bfloat16, enabled=bf16):
            for reduce, layers, modulate in zip(self.reduce, self.stages, self.psf, strict=True):
                maps = layers(functional.gelu(reduce(maps)))
                scale, shift = modulate(psf)[..., None, None].chunk(2, 1)
                maps = maps * (1.0 + scale) + shift
        maps = maps.float()
        pooled = maps.flatten(1) if self.pooling == "flatten" else maps.mean((2, 3))
        return self.join(torch.cat([self.dropout(pooled), views.moments, views.numbers, psf], 1))


class ResidualEncoder(ConvolutionEncoder):
    """Convolutions with shortcuts; options as those of `ConvolutionEncoder`.

    References
    ----------
    He et al. 2016, Deep residual learning for image recognition, arXiv:1512.03385.
    """

    residual: ClassVar[bool] = True
