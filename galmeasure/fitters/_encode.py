"""Batches of cutouts through a network, in pieces of one constant size: a row's result is that of the row alone."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from galmeasure.networks import (
    NATIVE_SIZE,
    Context,
    PosteriorSummary,
    Window,
    central_window,
    network_psfs,
    psf_offsets,
    resize_stamps,
    smooth,
)

__all__ = ["EncodedPiece", "encode_batch", "native_psfs", "pieces_of", "width_in_blocks"]

LARGE = 0.6
"""Mean r_eff, in units of the largest of the training, beyond which a galaxy is seen again in larger blocks."""

SMALLEST_LARGE = 7.0
"""But no smaller than this, in pixels of the network: in blocks, it must still be larger than the PSF."""

_STAR_OFFSET = 0.1
"""Distance of a star from the middle of its PSF image, pixels, beyond which the network gets a PSF that is centred."""

_NARROWEST = 1.7
"""FWHM of a PSF, pixel response included, in pixels of the network, to which blocks of a narrower one are smoothed."""

_NARROWEST_NATIVE = 1.4
"""Pixels that are not in blocks are smoothed as well below this: somewhat below its domain the network does better."""

_FWHM_SIGMA = 2.3548
_PIXEL = _FWHM_SIGMA**2 / 12.0  # squared FWHM that a pixel adds
_PIECE = 64  # stamps, so that their tensors stay in the cache
_DEVICE_PIECE = 2048
_PSF_PIECE = 16
_DEVICE_PSF_PIECE = 512


@dataclass(frozen=True)
class EncodedPiece:
    """What a network says of some rows of a batch.

    Parameters
    ----------
    rows : ndarray of int64
        Positions in the batch, filled up with the last one to the constant size ``P``.
    keep : ndarray of bool
        Those that count, shape ``(P,)``.
    context : Context
        Features, ``P`` rows.
    summary : PosteriorSummary
        In the units and pixels of the network.
    window : Window
        Where these lie on the stamps.
    """

    rows: np.ndarray
    keep: np.ndarray
    context: Context
    summary: PosteriorSummary
    window: Window


def pieces_of(rows, size):
    """Yield ``(indices (size,), how many count)``: ``rows`` in pieces of a constant size, the last one filled up."""
    for start in range(0, len(rows), size):
        piece = rows[start : start + size]
        count = len(piece)
        if count < size:
            piece = np.concatenate([piece, np.repeat(piece[-1:], size - count)])
        yield piece, count


def encode_batch(network, batch, *, device="cpu", bf16=False):
    """Encode the measurable rows of a batch, those of large galaxies in blocks of pixels.

    Parameters
    ----------
    network : SersicPosterior
        The network.
    batch : CutoutBatch
        Cutouts in units of their noise.
    device : str, optional
        Where the network is.
    bf16 : bool, optional
        Precision of the encoder's blocks.

    Returns
    -------
    list of EncodedPiece
        Together they keep each measurable row once.
    """
    rows = np.flatnonzero(batch.good.any(axis=(1, 2)))
    done, block = [], 1
    while len(rows):
        psfs = _embedded_psfs(network, batch, rows, block, device)
        pieces = [
            _encode_piece(network, batch, piece, count, psfs, block, device, bf16)
            for piece, count in pieces_of(rows, _piece_size(device))
        ]
        rows = []
        for piece in pieces:
            again = _too_large(piece, batch.shape[piece.rows], network.config.r_eff[1]) & piece.keep
            rows.append(piece.rows[again])
            done.append(replace(piece, keep=piece.keep & ~again))
        rows = np.concatenate(rows)
        block *= 2
    return done


def _piece_size(device):
    return _PIECE if device == "cpu" else _DEVICE_PIECE


def _too_large(piece, shapes, limit):
    """Whether galaxies are so large that larger pixels, if the stamp has more than the network sees, tell more."""
    large = piece.summary.mean[:, 2].cpu().numpy() > max(LARGE * limit, SMALLEST_LARGE)
    return large & (shapes.max(axis=1) > NATIVE_SIZE * piece.window.block)


def _encode_piece(network, batch, rows, count, psfs, block, device, bf16):
    inputs, window = _inputs(batch, rows, psfs, block, device)
    if psfs.offset is not None:
        window = window.with_psf_offset(psfs.offset[inputs.psf_index])
    context = network.encode(inputs, psf=psfs.embedding, bf16=bf16)
    keep = np.arange(len(rows)) < count
    return EncodedPiece(rows, keep, context, network.summarise(context), window)


def _inputs(batch, rows, psfs, block, device):
    """StampInputs of some rows, and their window."""
    image, good = (_tensor(_take(array, rows), device) for array in (batch.image, batch.good))
    constant = batch.error.shape[1:] == (1, 1)
    error = batch.error[:1] if constant and len(batch.error) == 1 else _take(batch.error, rows)
    gain = None if batch.gain is None else _tensor(batch.gain[rows].astype(np.float32), device)
    window = central_window(_tensor(batch.shape[rows], device), image, block)
    index = _tensor(psfs.index[rows], device)
    smoothing = None if psfs.smoothing is None else psfs.smoothing[index]
    error = _tensor(error, device)
    inputs = resize_stamps(image, error, good, gain, psfs.embedding, index, window, smoothing)
    return inputs, window


def _take(array, rows):
    """Some rows of an array, as a view if they are neighbours; only those filled up repeat one, at the end."""
    if rows[-1] - rows[0] + 1 == len(rows) and (len(rows) == 1 or rows[-2] < rows[-1]):
        return array[rows[0] : rows[-1] + 1]
    return array[rows]


def _tensor(array, device):
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def native_psfs(batch, positions, block=1, device="cpu"):
    """PSFs at ``positions`` in ``batch.psf`` as the network takes them, shape ``(len(positions), 33, 33)``."""
    shapes = {}
    for place, position in enumerate(positions):
        shapes.setdefault(batch.psf[position].shape, []).append(place)
    out = None
    for places in shapes.values():
        for piece, count in pieces_of(np.array(places), _PSF_PIECE if device == "cpu" else _DEVICE_PSF_PIECE):
            images = np.stack([batch.psf[positions[place]] for place in piece])
            found = network_psfs(torch.from_numpy(images).to(device), batch.psf_oversampling, block)
            out = found.new_empty((len(positions), *found.shape[1:])) if out is None else out
            out[torch.from_numpy(piece[:count]).to(device)] = found[:count]
    return out


@dataclass(frozen=True)
class _PSFs:
    """Embeddings of PSFs ``(M, features)``, which of them each row of a batch has, and what was done to them.

    Offsets of stars that were moved ``(M, 2)``; by how much PSFs that are narrow in blocks were smoothed ``(M,)``.
    """

    embedding: torch.Tensor
    index: np.ndarray
    offset: torch.Tensor | None
    smoothing: torch.Tensor | None


def _embedded_psfs(network, batch, rows, block, device):
    """PSFs of some rows; stars that stand off the middle are moved there, where the network expects them."""
    positions, local = np.unique(batch.psf_index[rows], return_inverse=True)
    images = native_psfs(batch, positions, 1, device)
    offset = psf_offsets(images)
    moved = offset.abs().amax(1) > _STAR_OFFSET
    images = images if block == 1 else native_psfs(batch, positions, block, device)
    for place in torch.nonzero(moved)[:, 0].tolist():
        image = torch.from_numpy(np.array(batch.psf[positions[place]]))[None].to(device)
        images[place] = network_psfs(image, batch.psf_oversampling, block, tuple(offset[place].tolist()))[0]
    offset = torch.where(moved[:, None], offset, 0.0) if moved.any() else None
    smoothing = torch.from_numpy(_smoothing(batch.psf_fwhm[positions], block)).to(device)
    smoothing = smoothing if smoothing.any() else None
    images = images if smoothing is None else smooth(images, smoothing)
    size = _PSF_PIECE if device == "cpu" else _DEVICE_PSF_PIECE
    parts = []
    for piece, count in pieces_of(np.arange(len(positions)), size):
        parts.append(network.embed_psf(images[torch.from_numpy(piece).to(device)])[:count])
    index = np.zeros(len(batch), dtype=np.int64)
    index[rows] = local.reshape(-1)
    return _PSFs(torch.cat(parts), index, offset, smoothing)


def _smoothing(fwhm, block):
    """Amounts of `smooth` that make PSFs of these widths, in pixels of the stamp, as wide as those of the training."""
    in_blocks = width_in_blocks(fwhm, block)
    lacking = np.nan_to_num(np.maximum(_NARROWEST**2 - in_blocks**2, 0.0)) / _FWHM_SIGMA**2
    return 0.5 * (lacking if block > 1 else np.where(in_blocks < _NARROWEST_NATIVE, lacking, 0.0))


def width_in_blocks(fwhm, block):
    """FWHM of PSFs, pixel response included, in blocks of pixels; ``fwhm`` in pixels."""
    return np.sqrt(fwhm**2 + _PIXEL * (block**2 - 1)) / block
