"""Encoders: from views of a stamp and its PSF to a vector of features."""

import torch
from torch import nn
from torch.nn import functional

from galmeasure.networks.inputs import (
    N_CHANNELS,
    N_MOMENTS,
    N_NUMBERS,
    N_PSF_MOMENTS,
    NATIVE_SIZE,
    PSF_SIZE,
    psf_moments,
    quick_asinh,
)

__all__ = ["PSFEncoder", "StampEncoder"]

_PATCH = 4


class PSFEncoder(nn.Module):
    """Embedding of PSF images.

    Parameters
    ----------
    features : int
        Length of the embedding.
    stretch : float, optional
        Pixels over the peak are multiplied by this before their inverse hyperbolic sine is taken: what is far below
        its inverse is seen in proportion.
    quality : int, optional
        Length of the vector that describes the quality of each image.
    """

    def __init__(self, features, *, stretch=1e3, quality=0):
        super().__init__()
        self.stretch, self.quality = stretch, quality
        self.layers = nn.Sequential(
            nn.Linear(PSF_SIZE**2 + N_PSF_MOMENTS + quality, 2 * features), nn.GELU(),
            nn.Linear(2 * features, 2 * features), nn.GELU(), nn.Linear(2 * features, features),
        )  # fmt: skip

    def forward(self, psf, quality=None):
        """Embed PSFs ``(M, 33, 33)``, with the quality ``(M, Q)`` of their images, as ``(M, features)``."""
        peak = psf.amax((-2, -1), keepdim=True).clamp_min(1e-12)
        log_profile = quick_asinh(self.stretch * psf / peak) * 0.2
        parts = [psf_moments(psf), log_profile.flatten(1)]
        if self.quality:
            parts.append(psf.new_zeros((len(psf), self.quality)) if quality is None else quality)
        return self.layers(torch.cat(parts, 1))


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
        count, places, width = tokens.shape
        split = tokens.reshape(count, places, self.groups, -1).permute(2, 1, 0, 3).reshape(self.groups, places, -1)
        mixed = torch.bmm(self.places.mT, split).view(self.groups, places, count, -1)
        mixed = mixed.permute(2, 1, 0, 3).reshape(count, places, width)
        scale, shift = self.psf(psf)[:, None].chunk(2, -1)
        mixed = self.norm(mixed) * (1.0 + scale) + shift
        return tokens + self.narrow(functional.gelu(self.widen(mixed)))


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
        Blocks at each.
    expansion : int
        Of the channels inside a block.
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

    def __init__(self, *, widths=(96, 192), depths=(3, 2), expansion=2, groups=4, features=256, psf_features=64):
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

    def forward(self, views, psf, *, bf16=False):
        """Encode stamps.

        Parameters
        ----------
        views : StampViews
            From :func:`galmeasure.networks.make_views`.
        psf : Tensor
            Embedding of each stamp's PSF, shape ``(B, psf_features)``.
        bf16 : bool, optional
            Whether the blocks compute in bfloat16; the moments and what follows the blocks never do.

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
        cut = view.reshape(count, channels, self.side, _PATCH, self.side, _PATCH)
        return cut.permute(0, 2, 4, 1, 3, 5).reshape(count, self.side**2, -1)

    def _quarters(self, tokens):
        """Places joined two by two, shape ``(B, places / 4, 4 * width)``."""
        count, _, width = tokens.shape
        half = self.side // 2
        cut = tokens.reshape(count, half, 2, half, 2, width)
        return cut.permute(0, 1, 3, 2, 4, 5).reshape(count, half**2, 4 * width)
