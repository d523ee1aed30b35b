"""Posteriors of a batch: those of a network, or those that a correction makes of them and of the exact model."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from galmeasure.fitters.neural.encode import encode_batch
from galmeasure.fitters.neural.newton import BatchEvaluation, NetworkFrame, evaluate_batch
from galmeasure.fitters.quality import Quality
from galmeasure.networks.correction import correction_inputs
from galmeasure.parameters import PARAMETER_INDEX

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
    frame : NetworkFrame or None
        Where the network's coordinates lie on the stamps; None for the posteriors of the network alone.
    evaluation : BatchEvaluation or None
        The exact model, which goes with ``frame``.
    """

    module: object
    chunks: list
    psfs: object
    frame: NetworkFrame | None = None
    evaluation: BatchEvaluation | None = None

    def quality(self, values):
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
        frame, found = self.frame, self.evaluation
        exact = found.evaluation
        values = torch.from_numpy(values).to(frame.scale.device)
        own = self.module.transform.forward((values - frame.offset) / frame.scale, frame.flux_scale)
        step = own - exact.point
        along = (step * exact.score).sum(1)
        bend = torch.einsum("bi,bij,bj->b", step, exact.fisher, step)
        chi2 = torch.minimum(exact.chi2 - 2.0 * along + bend, exact.chi2 + bend).clamp_min(0.0)
        snr = exact.snr * torch.exp(own[:, _FLUX] - exact.point[:, _FLUX])
        rows = np.flatnonzero(torch.isfinite(chi2).cpu().numpy())
        chosen = torch.from_numpy(rows).to(chi2.device)
        return rows, Quality(chi2[chosen], snr[chosen], found.n_pixels[chosen].long(), found.inside[chosen], None)


def network_posteriors(network, batch, *, device="cpu", bf16=False):
    """Posteriors of the network alone; arguments are those of `encode_batch`."""
    encoded = encode_batch(network, batch, device=device, bf16=bf16)
    return Posteriors(network, encoded.chunks, encoded.psfs if network.config.clean_psf else None)


def corrected_posteriors(network, correction, batch, *, device="cpu", bf16=False, see=None):
    """Posteriors of a network, corrected after an evaluation of the exact model.

    Parameters
    ----------
    network : SersicPosterior
        The network.
    correction : Correction or None
        The correction; None gives the network's posteriors beside the evaluation.
    batch : CutoutBatch
        Cutouts in units of their noise.
    device, bf16
        As in `encode_batch`.
    see : callable, optional
        Called with the chunks, and gives what `evaluate_batch` calls with residuals.

    Returns
    -------
    Posteriors
        With the evaluation.
    """
    plain = network_posteriors(network, batch, device=device, bf16=bf16)
    frame = NetworkFrame.of(network, batch, plain.chunks, plain.psfs, device)
    watch = None if see is None else see(plain.chunks)
    found = evaluate_batch(network, batch, frame, psfs=plain.psfs, device=device, see=watch)
    if correction is None:
        return replace(plain, frame=frame, evaluation=found)
    chunks = [_corrected(network, correction, chunk, found.evaluation, device) for chunk in plain.chunks]
    return Posteriors(correction, chunks, plain.psfs, frame, found)


def _corrected(network, correction, chunk, evaluation, device):
    """Give the same chunk with the correction's context and summary."""
    rows = torch.from_numpy(chunk.rows).to(device)
    inputs, anchor, whitener = correction_inputs(network, chunk.context, evaluation[rows])
    context = correction.encode(inputs, anchor, whitener, chunk.context.flux_scale)
    return replace(chunk, context=context, summary=correction.summarise(context))
