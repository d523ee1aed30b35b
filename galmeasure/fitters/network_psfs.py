"""PSFs of a batch as a network takes them: centred, cleaned, at the sampling of its pixels, embedded."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from galmeasure.cutouts.batches import CutoutBatch
from galmeasure.networks import (
    CLEANING_SIZE,
    SersicPosterior,
    clean_psfs,
    network_psfs,
    psf_offsets,
    smooth,
    width_in_blocks,
)
from galmeasure.utils.chunks import chunk_sizes, padded_chunks

__all__ = ["CleanedPSFs", "NetworkPSFs", "cleaned_psfs", "embedded_psfs", "native_psfs"]

_STAR_OFFSET = 0.1
"""Distance of a star from the middle of its PSF image, pixels, beyond which the network gets a PSF that is centred."""

_NARROWEST = 1.7
"""FWHM of a PSF, pixel response included, in pixels of the network, to which blocks of a narrower one are smoothed."""

_NARROWEST_NATIVE = 1.4
"""Pixels that are not in blocks are smoothed as well below this: somewhat below its domain the network does better."""

_FWHM_SIGMA = 2.3548
_PEDESTAL_LIGHT = 0.003  # share of the light in a pedestal from which an image counts as dirty
_NOISE = 3e-4  # noise of a pixel, over the peak, from which an image counts as dirty
_MOST_BEYOND = 0.2  # of the light, in larger images, beyond what is cleaned
_UNUSUAL = 4.0  # by how much these must be exceeded for a flag


def native_psfs(
    batch: CutoutBatch, positions: NDArray[np.int64], block: int = 1, device: str = "cpu", size: int = 33
) -> Tensor:
    """PSF images at the sampling of a network's pixels.

    Parameters
    ----------
    batch : CutoutBatch
        Cutouts in units of their noise.
    positions : ndarray of int64
        Numbers of the PSFs in ``batch.psf``.
    block : int, optional
        Pixels of the stamp along each side of the network's.
    device : str, optional
        Torch device of the result.
    size : int, optional
        Odd side of the result.

    Returns
    -------
    Tensor
        Shape ``(len(positions), size, size)``, single precision.
    """
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, position in enumerate(positions):
        by_shape.setdefault(batch.psf[position].shape, []).append(index)
    native, sizes = None, chunk_sizes("network PSFs", device)
    for same_shape in by_shape.values():
        for chunk, count in padded_chunks(np.array(same_shape), sizes):
            images = torch.from_numpy(np.stack([batch.psf[positions[index]] for index in chunk])).to(device)
            resampled = network_psfs(images, batch.psf_oversampling, block, size=size)
            native = resampled.new_empty((len(positions), size, size)) if native is None else native
            native[torch.from_numpy(chunk[:count]).to(device)] = resampled[:count]
    return native


@dataclass(frozen=True)
class CleanedPSFs:
    """Cleaned native images of the PSFs of a batch.

    Parameters
    ----------
    positions : ndarray of int64
        Positions in ``batch.psf``, ascending, ``M`` of them.
    native : Tensor
        Images as they were given, at the sampling of the stamps, shape ``(M, 63, 63)``.
    images : Tensor
        Cleaned images with the sum 1, shape ``(M, 63, 63)``.
    quality : Tensor
        Numbers for the network, shape ``(M, 3)``.
    held : Tensor
        Share of each star's light that the cleaned image stands for, shape ``(M,)``: the rest lies beyond it.
    offset : Tensor
        y, x of the stars from the middle of their images, in pixels, shape ``(M, 2)``; 0 where they were not moved.
    is_dirty, is_unusual : ndarray of bool
        Whether pedestal or noise of the image as it was given matter, and whether they are worth a flag, shape
        ``(M,)``.
    """

    positions: np.ndarray
    native: torch.Tensor
    images: torch.Tensor
    quality: torch.Tensor
    held: torch.Tensor
    offset: torch.Tensor
    is_dirty: np.ndarray
    is_unusual: np.ndarray

    def unusual_rows(self, index: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Rows whose PSF, at ``index`` in ``batch.psf``, is worth a flag, boolean; unmeasurable rows are not."""
        unusual = np.zeros(index.max() + 1, dtype=bool)
        unusual[self.positions] = self.is_unusual
        return unusual[index]

    def indices_of(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Index of positions in ``batch.psf`` among the images."""
        return np.searchsorted(self.positions, positions)


def cleaned_psfs(batch: CutoutBatch, positions: NDArray[np.int64], device: str = "cpu") -> CleanedPSFs:
    """Clean the PSF images of a batch.

    Parameters
    ----------
    batch : CutoutBatch
        Cutouts in units of their noise.
    positions : ndarray of int64
        Positions in ``batch.psf``, ascending.
    device : str, optional
        Torch device of the result.

    Returns
    -------
    CleanedPSFs
        Images with the star in the middle.
    """
    given = native_psfs(batch, positions, 1, device, CLEANING_SIZE)
    native, offset = given.clone(), psf_offsets(given)
    moved = offset.abs().amax(1) > _STAR_OFFSET
    for index in torch.nonzero(moved)[:, 0].tolist():
        image = torch.from_numpy(np.array(batch.psf[positions[index]]))[None].to(device)
        by = tuple(offset[index].tolist())
        native[index] = network_psfs(image, batch.psf_oversampling, 1, by, CLEANING_SIZE)[0]
    offset = torch.where(moved[:, None], offset, 0.0)
    native = torch.where(_within(batch, positions, offset), native, 0.0)
    parts = []
    for chunk, count in padded_chunks(np.arange(len(positions)), chunk_sizes("network PSFs", device)):
        cleaned = clean_psfs(native[torch.from_numpy(chunk).to(device)])
        parts.append([column[:count] for column in (cleaned.images, cleaned.quality, cleaned.pedestal, cleaned.noise)])
    images, quality, pedestal, noise = (torch.cat(column) for column in zip(*parts, strict=True))
    level = pedestal * native.amax((1, 2))
    total = torch.tensor([batch.psf[position].sum() for position in positions], dtype=torch.float64, device=device)
    area = torch.tensor([batch.psf[position].size for position in positions], dtype=torch.float64, device=device)
    area = area / batch.psf_oversampling**2
    beyond = total - native.sum((1, 2), dtype=torch.float64) - level * (area - CLEANING_SIZE**2)
    held = torch.where(area > CLEANING_SIZE**2, total - beyond.clamp(0.0, _MOST_BEYOND), total)
    # a cleaned image has its star in the middle, where positions are other ones than with the image as it is
    excess = torch.maximum((level * area).abs() / _PEDESTAL_LIGHT, noise / _NOISE)
    dirty = (excess > 1.0) & ~moved
    return CleanedPSFs(
        positions,
        given,
        images,
        quality,
        held.float(),
        offset,
        dirty.cpu().numpy(),
        (excess > _UNUSUAL).cpu().numpy(),
    )


def _within(batch, positions, offset):
    """Native pixels that lie within the PSF images, boolean ``(M, 63, 63)``: interpolation rings beyond their edges."""
    shapes = [batch.psf[position].shape for position in positions]
    half = torch.tensor(shapes, dtype=torch.float64, device=offset.device)
    half = half / (2.0 * batch.psf_oversampling) + 1e-6
    pixels = torch.arange(CLEANING_SIZE, dtype=torch.float64, device=offset.device) - CLEANING_SIZE // 2
    inside = (pixels + offset[:, :, None]).abs() + 0.5 <= half[:, :, None]
    return inside[:, 0, :, None] & inside[:, 1, None, :]


@dataclass(frozen=True)
class NetworkPSFs:
    """Embedded PSFs of some rows of a batch.

    Parameters
    ----------
    embedding : Tensor
        Embeddings of the PSFs, shape ``(M, features)``.
    index : ndarray of int64
        Which of them each row of the batch has, shape ``(B,)``.
    held : Tensor
        Share of each star's light that its image stands for, shape ``(M,)``.
    offset : Tensor or None
        y, x by which stars were moved to the middle, shape ``(M, 2)``.
    smoothing : Tensor or None
        By how much narrow PSFs were smoothed, see `galmeasure.networks.smooth`, shape ``(M,)``.
    """

    embedding: torch.Tensor
    index: np.ndarray
    held: torch.Tensor
    offset: torch.Tensor | None
    smoothing: torch.Tensor | None


def embedded_psfs(
    network: SersicPosterior,
    batch: CutoutBatch,
    rows: NDArray[np.int64],
    block: int,
    cleaned: CleanedPSFs,
    device: str,
) -> NetworkPSFs:
    """Embed the PSFs of some rows of a batch.

    Parameters
    ----------
    network : SersicPosterior
        Network whose posteriors are used.
    batch : CutoutBatch
        Cutouts in units of their noise.
    rows : ndarray of int64
        Positions in the batch.
    block : int
        Pixels of the stamp along each side of the network's.
    cleaned : CleanedPSFs
        All PSFs of the batch.
    device : str
        Torch device of the network.

    Returns
    -------
    NetworkPSFs
        Embeddings; stars that stand off the middle of their images are moved there, where the network expects them.
    """
    positions, local = np.unique(batch.psf_index[rows], return_inverse=True)
    members = torch.from_numpy(cleaned.indices_of(positions)).to(device)
    offset = cleaned.offset[members]
    if network.config.clean_psf:
        images, quality, held = cleaned.images[members], cleaned.quality[members], cleaned.held[members]
        images = network_psfs(images.double(), 1, block)
    else:
        images, quality = _plain_psfs(batch, positions, block, offset, device), None
        held = torch.ones(len(positions), device=device)
    smoothing = torch.from_numpy(_smoothing(batch.psf_fwhm[positions], block)).to(device)
    smoothing = smoothing if smoothing.any() else None
    images = images if smoothing is None else smooth(images, smoothing)
    parts = []
    for chunk, count in padded_chunks(np.arange(len(positions)), chunk_sizes("network PSFs", device)):
        chosen = torch.from_numpy(chunk).to(device)
        parts.append(network.embed_psf(images[chosen], None if quality is None else quality[chosen])[:count])
    index = np.zeros(len(batch), dtype=np.int64)
    index[rows] = local.reshape(-1)
    return NetworkPSFs(torch.cat(parts), index, held, offset if offset.any() else None, smoothing)


def _plain_psfs(batch, positions, block, offset, device):
    """PSF images that are not cleaned, for the first networks."""
    images = native_psfs(batch, positions, block, device)
    for index in torch.nonzero(offset.any(1))[:, 0].tolist():
        image = torch.from_numpy(np.array(batch.psf[positions[index]]))[None].to(device)
        images[index] = network_psfs(image, batch.psf_oversampling, block, tuple(offset[index].tolist()))[0]
    return images


def _smoothing(fwhm, block):
    """Amounts of `smooth` that make PSFs of these widths, in pixels of the stamp, as wide as those of the training."""
    in_blocks = width_in_blocks(fwhm, block)
    lacking = np.nan_to_num(np.maximum(_NARROWEST**2 - in_blocks**2, 0.0)) / _FWHM_SIGMA**2
    return 0.5 * (lacking if block > 1 else np.where(in_blocks < _NARROWEST_NATIVE, lacking, 0.0))
