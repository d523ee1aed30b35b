"""Encoder of two views of a stamp that mixes places, then channels."""

from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from galmeasure.networks.config import NetworkConfig
from galmeasure.networks.inputs import N_CHANNELS, N_MOMENTS, N_NUMBERS, NATIVE_SIZE, StampViews
from galmeasure.utils.compiled import compiled_module

__all__ = ["StampEncoder"]

_PATCH = 4
_LOOPS = "galmeasure.networks.encoders.compiled"


class _Block(nn.Module):
    """Mixing of places, then of channels; the PSF shifts and scales the channels.

    Places are mixed by full matrices, one for each group of channels.
    """

    def __init__(self, side, width, expansion, psf_features, groups):
        super().__init__()
        self.groups = groups
        self.places = nn.Parameter(torch.randn(groups, side**2, side**2) / side)
        self.norm = nn.LayerNorm(width)
        self.psf = nn.Linear(psf_features, 2 * width)
        self.widen = nn.Linear(width, expansion * width)
        self.narrow = nn.Linear(expansion * width, width)
        nn.init.zeros_(self.psf.weight)
        nn.init.zeros_(self.psf.bias)

    def forward(self, tokens, psf):
        loops = _loops(tokens, psf, self.places)
        if loops is not None:
            return self._forward_compiled(loops, tokens, psf)
        count, places, width = tokens.shape
        split = tokens.reshape(count, places, self.groups, -1).permute(2, 1, 0, 3).reshape(self.groups, places, -1)
        mixed = torch.bmm(self.places.mT, split).view(self.groups, places, count, -1)
        mixed = mixed.permute(2, 1, 0, 3).reshape(count, places, width)
        scale, shift = self.psf(psf)[:, None].chunk(2, -1)
        mixed = self.norm(mixed) * (1.0 + scale) + shift
        return tokens + self.narrow(functional.gelu(self.widen(mixed)))

    def _forward_compiled(self, loops, tokens, psf):
        """Do the same with compiled loops between the products of matrices."""
        count, places, width = tokens.shape
        split = tokens.new_empty(self.groups, places, count * (width // self.groups))
        loops.split_groups(tokens.contiguous().numpy(), split.numpy())
        mixed, norm = torch.bmm(self.places.mT, split), self.norm
        arrays = mixed, norm.weight, norm.bias, self.psf(psf)
        rows = torch.empty_like(tokens, memory_format=torch.contiguous_format)
        loops.join_groups(*(array.detach().numpy() for array in arrays), norm.eps, rows.numpy())
        wide = self.widen(rows)
        loops.apply_gelu(wide.view(-1).numpy())
        return self.narrow(wide).add_(tokens)


def _loops(*tensors):
    """Compiled loops for tensors of which no gradients are asked, outside of lower precision; or None."""
    if torch.is_grad_enabled() or torch.is_autocast_enabled(tensors[0].device.type):
        return None
    return compiled_module(_LOOPS, *(tensor.detach() for tensor in tensors))


class StampEncoder(nn.Module):
    """An encoder of two views, joined by windowed moments.

    The central pixels and the whole stamp in blocks of 2 x 2 are cut into patches of 4 x 4, 64 places each, whose
    channels run side by side: fine sampling where the galaxy is, coarse where only its wings are. Blocks at 8 x 8 and
    at 4 x 4 places mix places, then channels; what stands at each place then goes through one linear map. Places are
    told apart throughout, because the galaxy is always in the middle; and products of matrices are quicker to train
    on CPUs than depthwise convolutions.

    Parameters
    ----------
    widths : tuple of int
        Channels at 8 x 8 and at 4 x 4 places.
    depths : tuple of int
        Number of blocks at 8 x 8 and at 4 x 4 places.
    expansion : int
        Ratio of the channels inside a block to those outside.
    groups : int
        Groups of channels, each with its own mixing of places.
    features : int
        Length of the result.
    psf_features : int
        Length of the PSF's embedding.

    References
    ----------
    Tolstikhin et al. 2021, MLP-Mixer, arXiv:2105.01601; Liu et al. 2022, A ConvNet for the 2020s, arXiv:2201.03545.
    """

    def __init__(
        self, *, widths: tuple[int, int] = (96, 192), depths: tuple[int, int] = (3, 2), expansion: int = 2,
        groups: int = 4, features: int = 256, psf_features: int = 64,
    ) -> None:  # fmt: skip
        super().__init__()
        side = NATIVE_SIZE // 2 // _PATCH
        self.side = side
        self.near = nn.Linear(N_CHANNELS * _PATCH**2, widths[0] // 2)
        self.far = nn.Linear(N_CHANNELS * _PATCH**2, widths[0] // 2)
        options = expansion, psf_features, groups
        self.fine = nn.ModuleList(_Block(side, widths[0], *options) for _ in range(depths[0]))
        self.merge = nn.Linear(4 * widths[0], widths[1])
        self.coarse = nn.ModuleList(_Block(side // 2, widths[1], *options) for _ in range(depths[1]))
        self.norm = nn.LayerNorm(widths[1])
        self.shrink = nn.Linear(widths[1], 64)
        self.read = nn.Linear(64 * (side // 2) ** 2, features)
        self.vector = nn.Sequential(
            nn.Linear(N_MOMENTS + N_NUMBERS + psf_features, 2 * features), nn.GELU(),
            nn.Linear(2 * features, 2 * features), nn.GELU(), nn.Linear(2 * features, features),
        )  # fmt: skip
        self.trunk = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(features), nn.Linear(features, 2 * features), nn.GELU(),
                          nn.Linear(2 * features, features))
            for _ in range(2)
        )  # fmt: skip
        self.last = nn.LayerNorm(features)

    @classmethod
    def from_config(cls, config: NetworkConfig) -> Self:
        """Encoder of a network's configuration."""
        return cls(
            widths=config.widths, depths=config.depths, expansion=config.expansion, groups=config.groups,
            features=config.features, psf_features=config.psf_features,
        )  # fmt: skip

    @staticmethod
    def tensor_shapes(config: NetworkConfig) -> Iterator[tuple[str, tuple[int | None, ...]]]:
        """Names and shapes of the tensors from which the numbers of a configuration can be told."""
        first, second = config.widths
        yield "merge.weight", (second, 4 * first)
        for name, width, depth in zip(("fine", "coarse"), config.widths, config.depths, strict=True):
            for block in range(depth):
                yield f"{name}.{block}.widen.weight", (config.expansion * width, width)
                yield f"{name}.{block}.places", (config.groups, None, None)

    def forward(self, views: StampViews, psf: Tensor, *, bf16: bool = False) -> Tensor:
        """Encode stamps.

        Parameters
        ----------
        views : StampViews
            Views of the stamps, from `galmeasure.networks.make_views`.
        psf : Tensor
            Embedding of each stamp's PSF, shape ``(B, psf_features)``.
        bf16 : bool, optional
            Compute the blocks in bfloat16; the moments and the layers after the blocks never are.

        Returns
        -------
        Tensor
            Shape ``(B, features)``, single precision.
        """
        near, far = self.near(self._patches(views.near)), self.far(self._patches(views.far))
        with torch.autocast(psf.device.type, dtype=torch.bfloat16, enabled=bf16):
            tokens = torch.cat([near, far], -1)
            for block in self.fine:
                tokens = block(tokens, psf)
            tokens = self.merge(self._quarters(tokens))
            for block in self.coarse:
                tokens = block(tokens, psf)
            seen = self.read(self.shrink(self.norm(tokens)).flatten(1))
        features = seen.float() + self.vector(torch.cat([views.moments, views.numbers, psf], 1))
        for layer in self.trunk:
            features = features + layer(features)
        return self.last(features)

    def _patches(self, view):
        """Patches of a view, shape ``(B, places, channels * patch**2)``."""
        count, channels = view.shape[:2]
        loops = _loops(view)
        if loops is not None:
            patches = view.new_empty(count, self.side**2, channels * _PATCH**2)
            loops.cut_patches(view.contiguous().numpy(), _PATCH, patches.numpy())
            return patches
        cut = view.reshape(count, channels, self.side, _PATCH, self.side, _PATCH)
        return cut.permute(0, 2, 4, 1, 3, 5).reshape(count, self.side**2, -1)

    def _quarters(self, tokens):
        """Places joined two by two, shape ``(B, places / 4, 4 * width)``."""
        count, _, width = tokens.shape
        half = self.side // 2
        cut = tokens.reshape(count, half, 2, half, 2, width)
        return cut.permute(0, 1, 3, 2, 4, 5).reshape(count, half**2, 4 * width)
