"""The explained output of a network, as a function of the pixels of stamps through which gradients flow."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from galmeasure.fitters.network_psfs import NetworkPSFs, embedded_psfs
from galmeasure.fitters.neural.encode import EncodedChunk, encode_batch
from galmeasure.fitters.tensors import BatchTensors
from galmeasure.networks import Context, PosteriorNetwork, Window, resize_stamps
from galmeasure.utils.chunks import chunk_size

__all__ = ["ExplainedRows", "explained_rows"]


@dataclass(frozen=True)
class ExplainedRows:
    """Posterior mean of one parameter of some rows of a batch, as a function of their pixels.

    Parameters
    ----------
    network : PosteriorNetwork
        Network that is explained.
    tensors : BatchTensors
        Tensors of the batch.
    rows : ndarray of int64
        Rows of the batch.
    window : Window
        Pixels that the network sees of each row: those that it saw when it measured.
    psfs : NetworkPSFs
        Embedded PSFs of these rows.
    column : int
        Column of the parameter.
    """

    network: PosteriorNetwork
    tensors: BatchTensors
    rows: NDArray[np.int64]
    window: Window
    psfs: NetworkPSFs
    column: int

    @property
    def images(self) -> Tensor:
        """Pixels of the rows, shape ``(B, ny, nx)``, a copy of which gradients can be asked for."""
        return self.tensors.image[self._index].clone().requires_grad_()

    @property
    def members(self) -> Tensor:
        """Numbers of the rows, from 0, shape ``(B,)``; second argument of a call."""
        return torch.arange(len(self.rows), device=self._index.device)

    def __call__(self, images: Tensor, members: Tensor) -> Tensor:
        """Posterior mean of the parameter for given pixels.

        Parameters
        ----------
        images : Tensor
            Pixels in units of the batch, shape ``(K, ny, nx)``.
        members : Tensor
            Which of the rows these are stamps of, with its noise, mask and PSF, shape ``(K,)``.

        Returns
        -------
        Tensor
            Estimates in units of the batch and pixels of the stamps, shape ``(K,)``, double precision.
        """
        tensors, index = self.tensors, self._index[members]
        error = tensors.error if len(tensors.error) == 1 else tensors.error[index]
        gain = None if tensors.gain is None else tensors.gain[index]
        psf_index = torch.from_numpy(self.psfs.index).to(index.device)[index]
        smoothing = None if self.psfs.smoothing is None else self.psfs.smoothing[psf_index]
        window = self.window[members]
        inputs = resize_stamps(
            images, error, tensors.good[index], gain, self.psfs.embedding, psf_index, window, smoothing
        )
        context = self.network.encode(inputs, psf=self.psfs.embedding)
        context = Context(context.features, context.flux_scale / self.psfs.held[psf_index])
        return window.to_stamp(self.network.summarise(context).mean)[:, self.column]

    @property
    def _index(self):
        return torch.from_numpy(self.rows).to(self.tensors.device)


def explained_rows(network: PosteriorNetwork, tensors: BatchTensors, column: int) -> Iterator[ExplainedRows]:
    """Measure a batch, and split it into groups of rows that are explained together.

    Parameters
    ----------
    network : PosteriorNetwork
        Network that is explained.
    tensors : BatchTensors
        Tensors of the batch, on the device of the network.
    column : int
        Column of the parameter that is explained.

    Yields
    ------
    ExplainedRows
        Rows that the network sees in windows of one kind; together each measurable row once.
    """
    with torch.no_grad():
        encoded = encode_batch(network, tensors)
        for chunk in encoded.chunks:
            yield from _of_chunk(network, tensors, chunk, encoded.psfs, column)


def _of_chunk(network, tensors, chunk: EncodedChunk, cleaned, column):
    kept, size = np.flatnonzero(chunk.keep), chunk_size("explained stamps", tensors.device)
    for start in range(0, len(kept), size):
        members = kept[start : start + size]
        rows, window = chunk.rows[members], chunk.window[torch.from_numpy(members).to(tensors.device)]
        psfs = embedded_psfs(network, tensors.batch, rows, window.block, cleaned, tensors.device)
        if psfs.offset is not None:
            index = torch.from_numpy(psfs.index[rows]).to(tensors.device)
            window = window.with_psf_offset(psfs.offset[index])
        yield ExplainedRows(network, tensors, rows, window, psfs, column)
