"""Embedding of the images of PSFs."""

import torch
from torch import Tensor, nn

from galmeasure.networks.inputs import N_PSF_MOMENTS, PSF_SIZE, psf_moments, quick_asinh

__all__ = ["PSFEncoder"]


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

    def __init__(self, features: int, *, stretch: float = 1e3, quality: int = 0) -> None:
        super().__init__()
        self.stretch, self.quality = stretch, quality
        self.layers = nn.Sequential(
            nn.Linear(PSF_SIZE**2 + N_PSF_MOMENTS + quality, 2 * features), nn.GELU(),
            nn.Linear(2 * features, 2 * features), nn.GELU(), nn.Linear(2 * features, features),
        )  # fmt: skip

    def forward(self, psf: Tensor, quality: Tensor | None = None) -> Tensor:
        """Embed PSFs.

        Parameters
        ----------
        psf : Tensor
            Images, shape ``(M, 33, 33)``, the star on the central pixel.
        quality : Tensor, optional
            Numbers that describe the quality of the images, shape ``(M, Q)``; zeros by default.

        Returns
        -------
        Tensor
            Shape ``(M, features)``.
        """
        peak = psf.amax((-2, -1), keepdim=True).clamp_min(1e-12)
        log_profile = quick_asinh(self.stretch * psf / peak) * 0.2
        inputs = [psf_moments(psf), log_profile.flatten(1)]
        if self.quality:
            inputs.append(psf.new_zeros((len(psf), self.quality)) if quality is None else quality)
        return self.layers(torch.cat(inputs, 1))
