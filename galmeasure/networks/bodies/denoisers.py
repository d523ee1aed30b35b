"""Denoisers in front of Xception: the two-stage pipelines of the study, with EDSR and RDN."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from galmeasure.networks.bodies.xception import XceptionBody
from galmeasure.networks.inputs import StampInputs, filled_images

if TYPE_CHECKING:
    from galmeasure.networks.point_config import PointConfig

__all__ = ["EDSR", "RDN", "DenoisedXceptionBody", "EDSRXceptionBody", "RDNXceptionBody"]

_FOLD = 2  # pixels along each side that are folded into channels, which saves three quarters of the work
_SCALE = 0.1  # of pixels over noise, so that channels are of order 1
_RESIDUAL = 0.1


class _Denoiser(nn.Module):
    """Images of half the size with four channels in the middle of two convolutions, and the noise as the result."""

    def __init__(self, width):
        super().__init__()
        self.head = nn.Conv2d(_FOLD**2, width, 3, padding=1)
        self.tail = nn.Conv2d(width, _FOLD**2, 3, padding=1)
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(self.tail.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Denoise images ``(B, H, W)`` of even sides, in units of the noise; the result has the same shape."""
        folded = functional.pixel_unshuffle(_SCALE * images[:, None], _FOLD)
        first = self.head(folded.contiguous(memory_format=torch.channels_last))
        last = self.tail(first + self.features(first))
        return images + functional.pixel_shuffle(last.float(), _FOLD)[:, 0] / _SCALE

    def features(self, maps: Tensor) -> Tensor:
        """Maps ``(B, width, H, W)`` between the two convolutions."""
        raise NotImplementedError


class _ResidualBlock(nn.Module):
    """Two convolutions without normalisation, of which a tenth is added."""

    def __init__(self, width):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, maps):
        return maps + _RESIDUAL * self.second(functional.relu(self.first(maps)))


class EDSR(_Denoiser):
    """Residual blocks without batch normalisation.

    Parameters
    ----------
    width, depth : int
        Number of channels, and number of residual blocks.

    References
    ----------
    Lim et al. 2017, Enhanced deep residual networks for single image super-resolution, arXiv:1707.02921.
    """

    def __init__(self, width: int = 32, depth: int = 16) -> None:
        super().__init__(width)
        self.blocks = nn.Sequential(*(_ResidualBlock(width) for _ in range(depth)))
        self.join = nn.Conv2d(width, width, 3, padding=1)

    def features(self, maps: Tensor) -> Tensor:
        """Maps after the residual blocks."""
        return self.join(self.blocks(maps))


class _DenseBlock(nn.Module):
    """Convolutions each of which sees all maps before it, and a mixing of all of them."""

    def __init__(self, width, growth, layers):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(width + layer * growth, growth, 3, padding=1) for layer in range(layers))
        self.mix = nn.Conv2d(width + layers * growth, width, 1)

    def forward(self, maps):
        dense = maps
        for layer in self.layers:
            dense = torch.cat([dense, functional.relu(layer(dense))], 1)
        return maps + self.mix(dense)


class RDN(_Denoiser):
    """Residual dense blocks, whose results are mixed at the end.

    Parameters
    ----------
    width, depth : int
        Number of channels between the blocks, and number of blocks.
    growth, layers : int, optional
        Number of maps that a convolution in a block adds, and number of these convolutions.

    References
    ----------
    Zhang et al. 2018, Residual dense network for image super-resolution, arXiv:1802.08797.
    """

    def __init__(self, width: int = 32, depth: int = 4, growth: int = 16, layers: int = 4) -> None:
        super().__init__(width)
        self.blocks = nn.ModuleList(_DenseBlock(width, growth, layers) for _ in range(depth))
        self.mix = nn.Conv2d(depth * width, width, 1)
        self.join = nn.Conv2d(width, width, 3, padding=1)

    def features(self, maps: Tensor) -> Tensor:
        """Mixed maps of all blocks."""
        results = []
        for block in self.blocks:
            maps = block(maps)
            results.append(maps)
        return self.join(self.mix(torch.cat(results, 1)))


class DenoisedXceptionBody(XceptionBody):
    """Xception on denoised stamps; the squared error of the labels does not reach the denoiser.

    Parameters
    ----------
    denoiser_width, denoiser_depth : int
        Sizes of the denoiser: number of channels and number of blocks.
    **options
        Same options as those of `galmeasure.networks.bodies.xception.XceptionBody`.
    """

    makes = ("denoised",)
    has_image_loss = True
    denoiser_class: type[_Denoiser]
    """Class of the denoiser, made from its width and its depth."""

    denoiser_sizes: tuple[int, int]
    """Width and depth where none are given."""

    def __init__(
        self, *, denoiser_width: int | None = None, denoiser_depth: int | None = None, **options: bool | int
    ) -> None:
        super().__init__(**options)
        width, depth = self.denoiser_sizes
        self.denoiser = self.denoiser_class(denoiser_width or width, denoiser_depth or depth)

    @classmethod
    def tensor_shapes(cls, config: "PointConfig") -> Iterator[tuple[str, tuple[int | None, ...]]]:
        """Names and shapes of the tensors from which the numbers of a configuration can be told."""
        yield from XceptionBody.tensor_shapes(config)
        width = config.encoder_options.get("denoiser_width", cls.denoiser_sizes[0])
        depth = config.encoder_options.get("denoiser_depth", cls.denoiser_sizes[1])
        yield "denoiser.head.weight", (width, _FOLD**2, 3, 3)
        yield cls._last_block(depth), (width, None, None, None)

    def denoise(self, inputs: StampInputs, *, bf16: bool = False) -> Tensor:
        """Denoise stamps; gives images ``(B, 64, 64)`` in units of the noise."""
        images = filled_images(inputs)
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=bf16):
            return self.denoiser(images)

    def image_loss(self, inputs: StampInputs, labels: Tensor, flux: Tensor, psf: Tensor, *, bf16: bool) -> Tensor:
        """Mean absolute error of the good pixels of denoised stamps, in units of the noise.

        Parameters
        ----------
        inputs : StampInputs
            Stamps with their noiseless images.
        labels, flux, psf : Tensor
            Estimates and PSFs, which are not read.
        bf16 : bool
            Compute the convolutions in bfloat16.

        Returns
        -------
        Tensor
            One number.
        """
        error = (self.denoise(inputs, bf16=bf16) - inputs.noiseless).abs()
        return torch.where(inputs.good, error, 0.0).sum() / inputs.good.sum()

    def _images(self, inputs, bf16):
        # in a training the errors of the labels must not reach the denoiser; explanations need its derivatives
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.training):
            return self.denoise(inputs, bf16=bf16)

    @staticmethod
    def _last_block(depth):
        raise NotImplementedError


class EDSRXceptionBody(DenoisedXceptionBody):
    """Xception on stamps that `EDSR` has denoised."""

    denoiser_class, denoiser_sizes = EDSR, (32, 16)

    @staticmethod
    def _last_block(depth):
        return f"denoiser.blocks.{depth - 1}.second.weight"


class RDNXceptionBody(DenoisedXceptionBody):
    """Xception on stamps that `RDN` has denoised."""

    denoiser_class, denoiser_sizes = RDN, (32, 4)

    @staticmethod
    def _last_block(depth):
        return f"denoiser.blocks.{depth - 1}.mix.weight"
