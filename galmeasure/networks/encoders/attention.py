"""A small vision transformer over patches of both views of a stamp, pooled by attention."""

from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from galmeasure.networks.config import NetworkConfig
from galmeasure.networks.inputs import N_CHANNELS, N_MOMENTS, N_NUMBERS, NATIVE_SIZE, StampViews

__all__ = ["AttentionEncoder", "pixel_attention"]

_NEAR_PATCH, _FAR_PATCH = 4, 8
_SIDE = NATIVE_SIZE // 2
_NEAR, _FAR = (_SIDE // _NEAR_PATCH) ** 2, (_SIDE // _FAR_PATCH) ** 2
_DEFAULTS = {"width": 96, "depth": 4, "heads": 4, "expansion": 2}


class _Attention(nn.Module):
    """Self-attention, then two layers at each place; the PSF shifts and scales the channels of both."""

    def __init__(self, width, heads, expansion, psf_features, dropout):
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.psf = nn.Linear(psf_features, 4 * width)
        self.project = nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, expansion * width), nn.Linear(expansion * width, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.psf.weight)
        nn.init.zeros_(self.psf.bias)

    def forward(self, tokens, psf):
        query, key, value, (scale, shift) = self._heads(tokens, psf)
        # the fused function of torch takes six times as long in the backward pass on CPUs
        mixed = _weights(query, key) @ value
        tokens = tokens + self.dropout(self.join(mixed.transpose(1, 2).flatten(2)))
        inner = self.norms[1](tokens) * (1.0 + scale) + shift
        return tokens + self.dropout(self.narrow(functional.gelu(self.widen(inner))))

    def attention(self, tokens, psf):
        """Weights ``(B, heads, tokens, tokens)`` with which each token reads the others."""
        query, key, _, _ = self._heads(tokens, psf)
        return _weights(query, key)

    def _heads(self, tokens, psf):
        scale, shift, *second = self.psf(psf)[:, None].chunk(4, -1)
        inner = self.norms[0](tokens) * (1.0 + scale) + shift
        split = self.project(inner).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return *split.unbind(0), second


class AttentionEncoder(nn.Module):
    """An encoder of self-attention.

    The central pixels in patches of 4 x 4 and the whole stamp, in blocks of 2 x 2, in patches of 8 x 8 are 80 tokens.
    After some layers of self-attention a learned query for each of four heads pools them; the windowed moments and the
    embedding of the PSF join the result.

    Parameters
    ----------
    features, psf_features : int
        Length of the result, and of the PSF's embedding.
    width, depth, heads, expansion : int, optional
        Channels of a token, layers, heads of each layer, and ratio of the channels inside a layer to those outside.
    dropout : float, optional
        Chance with which channels are left out in training.

    References
    ----------
    Vaswani et al. 2017, Attention is all you need, arXiv:1706.03762; Dosovitskiy et al. 2021, An image is worth 16x16
    words, arXiv:2010.11929.
    """

    makes = ("attention",)

    def __init__(
        self, *, features: int = 256, psf_features: int = 64, width: int = 96, depth: int = 4, heads: int = 4,
        expansion: int = 2, dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if width % heads:
            msg = f"width must be a multiple of heads = {heads}, not {width}"
            raise ValueError(msg)
        self.heads = heads
        self.near = nn.Linear(N_CHANNELS * _NEAR_PATCH**2, width)
        self.far = nn.Linear(N_CHANNELS * _FAR_PATCH**2, width)
        self.places = nn.Parameter(0.02 * torch.randn(_NEAR + _FAR, width))
        self.layers = nn.ModuleList(_Attention(width, heads, expansion, psf_features, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.query = nn.Parameter(torch.randn(heads, width) / width**0.5)
        self.vector = nn.Sequential(
            nn.Linear(heads * width + N_MOMENTS + N_NUMBERS + psf_features, 2 * features), nn.GELU(),
            nn.Linear(2 * features, 2 * features), nn.GELU(), nn.Linear(2 * features, features),
            nn.LayerNorm(features),
        )  # fmt: skip

    @classmethod
    def from_config(cls, config: NetworkConfig) -> Self:
        """Encoder of a network's configuration."""
        return cls(features=config.features, psf_features=config.psf_features, **config.encoder_options)

    @staticmethod
    def tensor_shapes(config: NetworkConfig) -> Iterator[tuple[str, tuple[int | None, ...]]]:
        """Names and shapes of the tensors from which the numbers of a configuration can be told."""
        sizes = _DEFAULTS | {name: size for name, size in config.encoder_options.items() if name in _DEFAULTS}
        width = sizes["width"]
        yield "places", (_NEAR + _FAR, width)
        yield "query", (sizes["heads"], width)
        yield f"layers.{sizes['depth'] - 1}.widen.weight", (sizes["expansion"] * width, width)
        yield "vector.4.weight", (config.features, 2 * config.features)

    def forward(self, views: StampViews, psf: Tensor, *, bf16: bool = False) -> Tensor:
        """Encode stamps.

        Parameters
        ----------
        views : StampViews
            Views of the stamps, from `galmeasure.networks.make_views`.
        psf : Tensor
            Embedding of each stamp's PSF, shape ``(B, psf_features)``.
        bf16 : bool, optional
            Compute the layers of attention in bfloat16.

        Returns
        -------
        Tensor
            Shape ``(B, features)``, single precision.
        """
        tokens = self._tokens(views)
        with torch.autocast(psf.device.type, dtype=torch.bfloat16, enabled=bf16):
            for layer in self.layers:
                tokens = layer(tokens, psf)
        tokens = self.norm(tokens.float())
        pooled = self._pooling(tokens) @ tokens
        return self.vector(torch.cat([pooled.flatten(1), views.moments, views.numbers, psf], 1))

    def attention_maps(self, views: StampViews, psf: Tensor) -> tuple[Tensor, Tensor]:
        """Weights with which the patches are pooled, as maps of both views.

        Parameters
        ----------
        views : StampViews
            Views of the stamps.
        psf : Tensor
            Embedding of each stamp's PSF, shape ``(B, psf_features)``.

        Returns
        -------
        near, far : Tensor
            Shapes ``(B, heads, 8, 8)`` for the central 32 x 32 pixels and ``(B, heads, 4, 4)`` for the whole stamp; for
            each galaxy and head the sum over both is 1.
        """
        tokens = self._tokens(views)
        for layer in self.layers:
            tokens = layer(tokens, psf)
        near, far = self._pooling(self.norm(tokens)).split([_NEAR, _FAR], -1)
        side = _SIDE // _NEAR_PATCH, _SIDE // _FAR_PATCH
        return near.unflatten(-1, (side[0], side[0])), far.unflatten(-1, (side[1], side[1]))

    def layer_attention(self, views: StampViews, psf: Tensor) -> Tensor:
        """Weights of all layers, shape ``(B, layers, heads, 80, 80)``; the last axis sums to 1.

        Parameters
        ----------
        views : StampViews
            Views of the stamps.
        psf : Tensor
            Embedding of each stamp's PSF, shape ``(B, psf_features)``.

        Returns
        -------
        Tensor
            How much each of the 80 tokens (64 near, 16 far) reads of the others.
        """
        tokens, weights = self._tokens(views), []
        for layer in self.layers:
            weights.append(layer.attention(tokens, psf))
            tokens = layer(tokens, psf)
        return torch.stack(weights, 1)

    def _tokens(self, views):
        near, far = _patches(views.near, _NEAR_PATCH), _patches(views.far, _FAR_PATCH)
        return torch.cat([self.near(near), self.far(far)], 1) + self.places

    def _pooling(self, tokens):
        """Weights of the tokens for each head, shape ``(B, heads, tokens)``."""
        return torch.softmax(self.query @ tokens.mT / tokens.shape[-1] ** 0.5, -1)


def pixel_attention(near: Tensor, far: Tensor) -> Tensor:
    """Spread the weights of patches evenly over their pixels.

    Parameters
    ----------
    near : Tensor
        Weights of the patches of the central 32 x 32 pixels, shape ``(B, 8, 8)``.
    far : Tensor
        Weights of the patches of the whole stamp, shape ``(B, 4, 4)``.

    Returns
    -------
    Tensor
        Weights of the pixels, shape ``(B, 64, 64)``; their sum is that of all patches.
    """
    near, far = _spread(near, _NEAR_PATCH), _spread(far, 2 * _FAR_PATCH)
    margin = (NATIVE_SIZE - _SIDE) // 2
    return far + functional.pad(near, (margin,) * 4)


def _spread(weights, size):
    return weights.repeat_interleave(size, 1).repeat_interleave(size, 2) / size**2


def _weights(query, key):
    return torch.softmax(query @ key.mT * query.shape[-1] ** -0.5, -1)


def _patches(view, size):
    """Patches ``(B, places, channels * size**2)`` of a view ``(B, channels, H, W)``."""
    return functional.unfold(view, size, stride=size).mT
