"""Posteriors of a batch: those of a network, or those that a correction makes of them and of the exact model."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from galmeasure.fitters.network_psfs import CleanedPSFs
from galmeasure.fitters.neural.encode import EncodedChunk, encode_batch
from galmeasure.fitters.neural.newton import BatchEvaluation, NetworkFrame, evaluate_batch
from galmeasure.fitters.quality import Quality
from galmeasure.fitters.tensors import BatchTensors
from galmeasure.networks import SersicPosterior
from galmeasure.networks.correction import Correction, correction_inputs
from galmeasure.networks.point import PointPosterior
from galmeasure.parameters import N_PARAMETERS, PARAMETER_INDEX

__all__ = ["Posteriors", "corrected_posteriors", "network_posteriors"]

_FLUX = PARAMETER_INDEX["flux"]


@dataclass(frozen=True)
class Posteriors:
    """Posteriors of the measurable rows of a batch.

    Parameters
    ----------
    module : SersicPosterior or Correction
        What gives draws and densities from the context of a chunk.
    chunks : list of EncodedChunk
        Together they keep each measurable row once.
    psfs : CleanedPSFs or None
        PSFs with which models are rendered; None where these are as they were given.
    network_chunks : list of EncodedChunk
        The same rows as the network alone describes them.
    frame : NetworkFrame or None
        Where the network's coordinates lie on the stamps; None for the posteriors of the network alone.
    evaluation : BatchEvaluation or None
        The exact model, which goes with ``frame``.
    """

    module: SersicPosterior | Correction
    chunks: list[EncodedChunk]
    psfs: CleanedPSFs | None
    network_chunks: list[EncodedChunk]
    frame: NetworkFrame | None = None
    evaluation: BatchEvaluation | None = None

    @property
    def is_gaussian(self) -> bool:
        """True if the posteriors are Gaussians, whose highest density is at their means."""
        return isinstance(self.module, PointPosterior)

    def quality(self, values: NDArray[np.float64]) -> tuple[NDArray[np.int64], Quality]:
        """Quality of models near the points of the evaluation, to second order.

        Parameters
        ----------
        values : ndarray
            Parameters in pixels of the stamp, shape ``(B, 7)``.

        Returns
        -------
        rows : ndarray of int64
            Rows of the batch with a measurement.
        quality : Quality
            Of these rows.
        """
        frame, exact = self.frame, self.evaluation.evaluation
        parameters = torch.from_numpy(values).to(frame.scale.device)
        point = self.module.transform.forward((parameters - frame.offset) / frame.scale, frame.flux_scale)
        step = point - exact.point
        slope = (step * exact.score).sum(1)
        curvature = torch.einsum("bi,bij,bj->b", step, exact.fisher, step)
        chi2 = torch.minimum(exact.chi2 - 2.0 * slope + curvature, exact.chi2 + curvature).clamp_min(0.0)
        snr = exact.snr * torch.exp(point[:, _FLUX] - exact.point[:, _FLUX])
        rows = np.flatnonzero(torch.isfinite(chi2).cpu().numpy())
        chosen = torch.from_numpy(rows).to(chi2.device)
        n_pixels, inside = self.evaluation.n_pixels[chosen].long(), self.evaluation.inside[chosen]
        return rows, Quality(chi2[chosen], snr[chosen], n_pixels, inside)

    def network_values(self, count: int) -> NDArray[np.float64]:
        """Means of the network alone.

        Parameters
        ----------
        count : int
            Number of rows of the batch.

        Returns
        -------
        ndarray
            Parameters in pixels of the stamps, shape ``(count, 7)``; NaN where there is no measurement.
        """
        values = np.full((count, N_PARAMETERS), np.nan)
        for chunk in self.network_chunks:
            values[chunk.rows[chunk.keep]] = chunk.window.to_stamp(chunk.summary.mean).cpu().numpy()[chunk.keep]
        return values


def network_posteriors(network: SersicPosterior, tensors: BatchTensors, *, bf16: bool = False) -> Posteriors:
    """Posteriors of the network alone.

    Parameters
    ----------
    network : SersicPosterior
        Network whose posteriors are used.
    tensors : BatchTensors
        Tensors of the batch, on the device of the network.
    bf16 : bool, optional
        Whether the encoder's blocks compute in bfloat16.

    Returns
    -------
    Posteriors
        Posteriors without an evaluation of the exact model.
    """
    encoded = encode_batch(network, tensors, bf16=bf16)
    return Posteriors(network, encoded.chunks, encoded.psfs if network.config.clean_psf else None, encoded.chunks)


def corrected_posteriors(
    network: SersicPosterior,
    correction: Correction | None,
    tensors: BatchTensors,
    *,
    bf16: bool = False,
    residuals: bool = False,
) -> Posteriors:
    """Posteriors of a network, corrected after an evaluation of the exact model.

    Parameters
    ----------
    network : SersicPosterior
        Network whose posteriors are used.
    correction : Correction or None
        The correction; None gives the network's posteriors beside the evaluation.
    tensors : BatchTensors
        Tensors of the batch, on the device of the network.
    bf16 : bool, optional
        Whether the encoder's blocks compute in bfloat16.
    residuals : bool, optional
        Also keep the residuals of the evaluation.

    Returns
    -------
    Posteriors
        Posteriors with the evaluation.
    """
    plain = network_posteriors(network, tensors, bf16=bf16)
    frame = NetworkFrame.of(network, tensors, plain.chunks, plain.psfs)
    evaluation = evaluate_batch(network, tensors, frame, psfs=plain.psfs, residuals=residuals)
    plain = replace(plain, frame=frame, evaluation=evaluation)
    if correction is None:
        return plain
    chunks = [_corrected(network, correction, chunk, evaluation.evaluation, tensors.device) for chunk in plain.chunks]
    return replace(plain, module=correction, chunks=chunks)


def _corrected(network, correction, chunk, evaluation, device):
    """Give the same chunk with the correction's context and summary."""
    rows = torch.from_numpy(chunk.rows).to(device)
    inputs, anchor, whitener = correction_inputs(network, chunk.context, evaluation[rows])
    context = correction.encode(inputs, anchor, whitener, chunk.context.flux_scale)
    return replace(chunk, context=context, summary=correction.summarise(context))
