"""Batches of cutouts through a network, in chunks of a few constant sizes: a row's result is that of the row alone."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from galmeasure.fitters.network_psfs import CleanedPSFs, cleaned_psfs, embedded_psfs
from galmeasure.fitters.neural.recentre import centre_shifts, seem_off_centre
from galmeasure.fitters.tensors import BatchTensors
from galmeasure.networks import (
    NATIVE_SIZE,
    Context,
    PosteriorNetwork,
    PosteriorSummary,
    StampInputs,
    Window,
    central_window,
    resize_stamps,
)
from galmeasure.parameters import PARAMETER_INDEX
from galmeasure.utils.chunks import chunk_sizes, padded_chunks

__all__ = ["EncodedBatch", "EncodedChunk", "encode_batch", "network_inputs"]

LARGE = 0.6
"""Mean r_eff, in units of the largest of the training, beyond which a galaxy is seen again in larger blocks."""

SMALLEST_LARGE = 7.0
"""But no smaller than this, in pixels of the network: in blocks, it must still be larger than the PSF."""

_OFF_CENTRE = 0.9
"""Distance from the middle, in units of the largest of the training, beyond which a galaxy is looked for elsewhere."""

_MIDDLE = (NATIVE_SIZE - 1) / 2.0
_CENTRE = [PARAMETER_INDEX["x"], PARAMETER_INDEX["y"]]


@dataclass(frozen=True)
class EncodedChunk:
    """Description of some rows of a batch by a network.

    Parameters
    ----------
    rows : ndarray of int64
        Positions in the batch, filled up with the last one to a constant size ``P``.
    keep : ndarray of bool
        Those that count, shape ``(P,)``.
    context : Context or CorrectedContext
        Features of the encoder, ``P`` rows.
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


@dataclass(frozen=True)
class EncodedBatch:
    """Description of a batch by a network.

    Parameters
    ----------
    chunks : list of EncodedChunk
        Together they keep each measurable row once.
    psfs : CleanedPSFs or None
        The PSFs of these rows; None if there is no measurable row.
    """

    chunks: list[EncodedChunk]
    psfs: CleanedPSFs | None


def encode_batch(network: PosteriorNetwork, tensors: BatchTensors, *, bf16: bool = False) -> EncodedBatch:
    """Encode the measurable rows of a batch.

    Large galaxies are seen again in blocks of pixels, and those off the middle of their stamps in a window about them.

    Parameters
    ----------
    network : PosteriorNetwork
        Network whose posteriors are used.
    tensors : BatchTensors
        Tensors of the batch, on the device of the network.
    bf16 : bool, optional
        Whether the encoder's blocks compute in bfloat16.

    Returns
    -------
    EncodedBatch
        Chunks of rows, and the PSFs.
    """
    batch, rows = tensors.batch, tensors.measurable_rows()
    if not len(rows):
        return EncodedBatch([], None)
    psfs = cleaned_psfs(batch, np.unique(batch.psf_index[rows]), tensors.device)
    encoder = _BatchEncoder(network, tensors, psfs, bf16)
    shift = np.zeros((len(batch), 2), dtype=np.int64)
    chunks = encoder.encode(rows, 1, shift)
    chunks = _recentred(encoder, chunks, batch, shift)
    finished, block = [], 1
    while chunks:
        too_large = []
        for chunk in chunks:
            large = _too_large(chunk, batch.shape[chunk.rows], network.config.r_eff[1]) & chunk.keep
            too_large.append(chunk.rows[large])
            finished.append(replace(chunk, keep=chunk.keep & ~large))
        block *= 2
        rows = np.concatenate(too_large)
        chunks = encoder.encode(rows, block, shift) if len(rows) else []
    return EncodedBatch(finished, psfs)


def network_inputs(
    network: PosteriorNetwork, tensors: BatchTensors
) -> Iterator[tuple[NDArray[np.int64], int, StampInputs, Window]]:
    """Inputs of a network for the measurable rows of a batch, seen in windows about the middle of their stamps.

    Parameters
    ----------
    network : PosteriorNetwork
        Network that embeds the PSFs.
    tensors : BatchTensors
        Tensors of the batch, on the device of the network.

    Yields
    ------
    rows : ndarray of int64
        Positions in the batch, filled up with the last one to a constant size.
    count : int
        Number of rows that are not a repetition.
    inputs : StampInputs
        Stamps of these rows, with embedded PSFs in the place of their images.
    window : Window
        Position of the inputs on the stamps.
    """
    batch, rows = tensors.batch, tensors.measurable_rows()
    if not len(rows):
        return
    psfs = cleaned_psfs(batch, np.unique(batch.psf_index[rows]), tensors.device)
    encoder = _BatchEncoder(network, tensors, psfs, False)
    embedded = embedded_psfs(network, batch, rows, 1, psfs, tensors.device)
    shift = np.zeros((len(batch), 2), dtype=np.int64)
    for chunk, count in padded_chunks(rows, chunk_sizes("network stamps", tensors.device)):
        yield chunk, count, *encoder._inputs(chunk, embedded, 1, shift)


@dataclass(frozen=True)
class _BatchEncoder:
    """A network, and the batch that it encodes."""

    network: PosteriorNetwork
    tensors: BatchTensors
    psfs: CleanedPSFs
    bf16: bool

    def encode(self, rows, block, shift):
        """Encode rows in blocks of pixels, each window shifted by so many pixels (y, x)."""
        device = self.tensors.device
        psfs = embedded_psfs(self.network, self.tensors.batch, rows, block, self.psfs, device)
        chunks = padded_chunks(rows, chunk_sizes("network stamps", device))
        return [self._encode_chunk(chunk, count, psfs, block, shift) for chunk, count in chunks]

    def _encode_chunk(self, rows, count, psfs, block, shift):
        network = self.network
        inputs, window = self._inputs(rows, psfs, block, shift)
        if psfs.offset is not None:
            window = window.with_psf_offset(psfs.offset[inputs.psf_index])
        context = network.encode(inputs, psf=psfs.embedding, bf16=self.bf16)
        context = Context(context.features, context.flux_scale / psfs.held[inputs.psf_index])
        keep = np.arange(len(rows)) < count
        return EncodedChunk(rows, keep, context, network.summarise(context), window)

    def _inputs(self, rows, psfs, block, shift):
        """StampInputs of some rows, and their window."""
        tensors, device = self.tensors, self.tensors.device
        chosen = _as_index(rows, device)
        image, good, shape = tensors.image[chosen], tensors.good[chosen], tensors.shape[chosen]
        error = tensors.error if len(tensors.error) == 1 else tensors.error[chosen]
        gain = None if tensors.gain is None else tensors.gain[chosen]
        window = central_window(shape, image, block)
        if shift[rows].any():
            window = replace(window, start=window.start + torch.from_numpy(shift[rows]).to(device))
        index = torch.from_numpy(psfs.index[rows]).to(device)
        smoothing = None if psfs.smoothing is None else psfs.smoothing[index]
        return resize_stamps(image, error, good, gain, psfs.embedding, index, window, smoothing), window


def _recentred(encoder, chunks, batch, shift):
    """Look again at galaxies off the middle of their stamps, in windows about them; ``shift`` changes in place."""
    limit = _OFF_CENTRE * encoder.network.config.centre
    measurable = np.concatenate([chunk.rows[chunk.keep] for chunk in chunks])
    posterior_off = np.concatenate([_off_centre(chunk, limit)[chunk.keep] for chunk in chunks])
    rows = measurable[posterior_off | seem_off_centre(batch, measurable)]
    if not len(rows):
        return chunks
    moves = centre_shifts(batch, rows)
    moved = moves.any(axis=1)
    rows, moves = rows[moved], moves[moved]
    if not len(rows):
        return chunks
    shift[rows] = moves
    recentred = encoder.encode(rows, 1, shift)
    nearer = [chunk.keep & ~_off_centre(chunk, limit) for chunk in recentred]
    taken = np.concatenate([chunk.rows[near] for chunk, near in zip(recentred, nearer, strict=True)])
    shift[np.setdiff1d(rows, taken)] = 0
    as_before = [replace(chunk, keep=chunk.keep & ~np.isin(chunk.rows, taken)) for chunk in chunks]
    return as_before + [replace(chunk, keep=near) for chunk, near in zip(recentred, nearer, strict=True)]


def _off_centre(chunk, limit):
    """Whether galaxies seem to be off the middle of the window, boolean ``(P,)``."""
    centre = chunk.summary.mean[:, _CENTRE].cpu().numpy()
    return (np.abs(centre - _MIDDLE) > limit).any(axis=1)


def _too_large(chunk, shapes, limit):
    """Whether galaxies are so large that larger pixels, if the stamp has more than the network sees, tell more."""
    large = chunk.summary.mean[:, PARAMETER_INDEX["r_eff"]].cpu().numpy() > max(LARGE * limit, SMALLEST_LARGE)
    return large & (shapes.max(axis=1) > NATIVE_SIZE * chunk.window.block)


def _as_index(rows, device):
    """Rows as a slice, which copies nothing, where they are neighbours; as a tensor otherwise."""
    if rows[-1] - rows[0] + 1 == len(rows) and (len(rows) == 1 or rows[-2] < rows[-1]):
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return torch.from_numpy(rows).to(device)
