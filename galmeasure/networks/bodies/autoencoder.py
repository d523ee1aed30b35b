"""The study's convolutional autoencoder: its latent space are the parameters, its decoder draws noiseless galaxies."""

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from galmeasure.networks.bodies.base import LABELS, N_LABELS, Normalisation, stamp_channels
from galmeasure.networks.inputs import NATIVE_SIZE, PSF_SIZE, StampInputs, filled_images, quick_asinh

if TYPE_CHECKING:
    from galmeasure.networks.point_config import PointConfig

__all__ = ["AutoencoderBody", "Decoder"]

_SHAPE = LABELS.slice("n", "g2")  # all but the flux
_WIDTHS = (32, 64, 96, 128, 192)
_DENSE = (256, 64)
_CHANNELS, _STATISTICS = 7, 4
_PSF_FEATURES = 16
_SLOPE = 0.1  # of LeakyReLU below zero
_ELECTRONS = 300.0  # typical noise of a pixel of the study, electrons
_ROBUST = 30.0  # half squared errors of an image from which they grow logarithmically
_BRIGHTEST = 1e4  # pixel over noise above which the quadratic channels are cut


class Decoder(nn.Module):
    """From labels and PSF to the noiseless image of a galaxy of unit flux.

    Logarithms of the pixels are decoded, so that core and wings are both kept; the pixels of the stamp are then scaled
    to sum up to the share of the light that falls on it, which is decoded as well.

    Parameters
    ----------
    widths : tuple of int
        Number of channels from the largest to the smallest maps.
    """

    def __init__(self, widths: tuple[int, ...] = _WIDTHS) -> None:
        super().__init__()
        self.side = NATIVE_SIZE >> len(widths)
        self.psf = nn.Linear(PSF_SIZE**2, _PSF_FEATURES)
        self.dense = nn.Sequential(
            nn.Linear(N_LABELS - 1 + _PSF_FEATURES, _DENSE[1]), nn.LeakyReLU(_SLOPE),
            nn.Linear(_DENSE[1], _DENSE[0]), nn.LeakyReLU(_SLOPE),
        )  # fmt: skip
        self.spread = nn.Linear(_DENSE[0], widths[-1] * self.side**2)
        self.share = nn.Linear(_DENSE[0], 1)
        outputs = (*reversed(widths[:-1]), 8)
        self.layers = nn.ModuleList(
            nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)
            for before, after in zip(reversed(widths), outputs, strict=True)
        )
        self.last = nn.Conv2d(outputs[-1], 1, 3, padding=1)

    def forward(self, labels: Tensor, psf: Tensor) -> Tensor:
        """Images ``(B, 64, 64)`` of unit flux, of labels ``(B, 5)``, the first not read, and PSFs ``(B, 33, 33)``."""
        profile = quick_asinh(1e3 * psf.flatten(1)) * 0.2
        code = self.dense(torch.cat([labels[:, _SHAPE], self.psf(profile)], 1))
        maps = self.spread(code).view(len(labels), -1, self.side, self.side)
        for layer in self.layers:
            maps = layer(functional.leaky_relu(maps, _SLOPE))
        logarithms = self.last(functional.leaky_relu(maps, _SLOPE)).float()
        light = torch.softmax(logarithms.flatten(1), 1).view(-1, NATIVE_SIZE, NATIVE_SIZE)
        return light * torch.sigmoid(3.0 + self.share(code).float())[:, :, None]


class AutoencoderBody(nn.Module):
    """Labels of a stamp by strided convolutions of seven channels, and the image of the galaxy that they describe.

    The channels are the pixels, the pixels over their noise, their square over 1.41 times the variance of the noise,
    the pixels over the variance of the stamp, that over the noise once more, the PSF, and its square; the square of
    the pixels is compressed to a logarithm, so that bright cores do not drown the others. Four numbers join the maps:
    noise, width of the PSF, standard deviation and mean of the stamp.

    Parameters
    ----------
    widths : tuple of int
        Number of channels of the convolutions.
    """

    makes: tuple[str, ...] = ("decoded",)
    has_image_loss = True

    def __init__(self, *, widths: tuple[int, ...] = _WIDTHS) -> None:
        super().__init__()
        self.normalise = Normalisation(_CHANNELS)
        self.statistics = Normalisation(_STATISTICS)
        channels = (_CHANNELS, *widths)
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, 4, stride=2, padding=1) for before, after in pairwise(channels)
        )
        side = NATIVE_SIZE >> len(widths)
        self.dense = nn.ModuleList([
            nn.Linear(widths[-1] * side**2 + _STATISTICS, _DENSE[0]), nn.Linear(_DENSE[0], _DENSE[1])
        ])  # fmt: skip
        self.labels = nn.Linear(_DENSE[1], N_LABELS)
        self.decoder = Decoder(widths)
        self.features = _DENSE[1]

    @classmethod
    def from_config(cls, config: "PointConfig") -> Self:
        """Body of a network's configuration."""
        return cls(**config.encoder_options)

    @staticmethod
    def tensor_shapes(config: "PointConfig") -> Iterator[tuple[str, tuple[int | None, ...]]]:
        """Names and shapes of the tensors from which the numbers of a configuration can be told."""
        widths = tuple(config.encoder_options.get("widths", _WIDTHS))
        for layer, (before, after) in enumerate(zip((_CHANNELS, *widths), widths, strict=False)):
            yield f"layers.{layer}.weight", (after, before, 4, 4)
        yield "dense.0.weight", (_DENSE[0], None)

    def adapt(self, inputs: StampInputs, psf: Tensor) -> None:
        """Set the normalisation by stamps with PSFs ``(B, 33, 33)``."""
        channels, statistics = self._inputs(inputs, psf)
        self.normalise.adapt(channels)
        self.statistics.adapt(statistics[..., None, None])

    def forward(self, inputs: StampInputs, psf: Tensor, *, bf16: bool = False) -> tuple[Tensor, Tensor]:
        """Labels and features.

        Parameters
        ----------
        inputs : StampInputs
            Stamps in units of their noise.
        psf : Tensor
            PSF of each stamp, shape ``(B, 33, 33)``.
        bf16 : bool, optional
            Compute the convolutions in bfloat16.

        Returns
        -------
        labels, features : Tensor
            Shapes ``(B, 5)`` and ``(B, features)``, single precision.
        """
        channels, statistics = self._inputs(inputs, psf)
        maps = self.normalise(channels).contiguous(memory_format=torch.channels_last)
        with torch.autocast(maps.device.type, dtype=torch.bfloat16, enabled=bf16):
            for layer in self.layers:
                maps = functional.leaky_relu(layer(maps), _SLOPE)
        numbers = self.statistics(statistics[..., None, None])[..., 0, 0]
        features = torch.cat([maps.float().flatten(1), numbers], 1)
        for layer in self.dense:
            features = functional.leaky_relu(layer(features), _SLOPE)
        return self.labels(features), features

    def decode(self, labels: Tensor, psf: Tensor, *, bf16: bool = False) -> Tensor:
        """Draw galaxies of unit flux.

        Parameters
        ----------
        labels : Tensor
            Labels, of which that of the flux is not read, shape ``(B, 5)``.
        psf : Tensor
            PSF of each galaxy, shape ``(B, 33, 33)``.
        bf16 : bool, optional
            Compute the convolutions in bfloat16.

        Returns
        -------
        Tensor
            Noiseless images, shape ``(B, 64, 64)``, single precision.
        """
        with torch.autocast(labels.device.type, dtype=torch.bfloat16, enabled=bf16):
            return self.decoder(labels, psf)

    def image_loss(self, inputs: StampInputs, labels: Tensor, flux: Tensor, psf: Tensor, *, bf16: bool) -> Tensor:
        """Half the squared error of the decoded stamps over the noise, summed over the pixels.

        Large sums grow logarithmically, so that the first steps of a training do not run away; the mean over the stamps
        is given.

        Parameters
        ----------
        inputs : StampInputs
            Stamps with their noiseless images.
        labels, flux : Tensor
            Estimated labels ``(B, 5)`` and flux ``(B,)`` of the stamps.
        psf : Tensor
            PSF of each stamp, shape ``(B, 33, 33)``.
        bf16 : bool
            Compute the convolutions in bfloat16.

        Returns
        -------
        Tensor
            One number.
        """
        error = flux[:, None, None] * self.decode(labels, psf, bf16=bf16) - inputs.noiseless
        per_stamp = torch.where(inputs.good, error, 0.0).square().sum((1, 2))
        return _ROBUST * torch.log1p(0.5 * per_stamp / _ROBUST).mean()

    def _inputs(self, inputs, psf):
        """Channels ``(B, 7, 64, 64)`` and statistics ``(B, 4)``."""
        image = filled_images(inputs).clamp(-_BRIGHTEST, _BRIGHTEST)
        electrons = torch.where(torch.isfinite(inputs.gain), inputs.gain, _ELECTRONS).clamp_max(1e6)[:, None, None]
        noise = electrons / _ELECTRONS
        variance = image.var((1, 2), keepdim=True)
        stretched = quick_asinh(0.05 * image.square()) * image.sign()
        planes = torch.stack([image * noise, image, stretched / 1.41, image / variance, image / (variance * noise)], 1)
        _, stars = stamp_channels(image, psf).split(1, 1)
        peak = stars.amax((2, 3), keepdim=True)
        width = (psf.amax((1, 2))).clamp_min(1e-6).rsqrt()
        statistics = torch.stack([noise[:, 0, 0], width, variance[:, 0, 0].sqrt(), image.mean((1, 2))], 1)
        return torch.cat([planes, stars, stars.square() / peak], 1), statistics
