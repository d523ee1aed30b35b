"""Learn the correction of a network from simulated galaxies, by the same steps as galaxies are measured."""

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from galmeasure.cutouts import Cutouts
from galmeasure.fitters.neural.posteriors import corrected_posteriors
from galmeasure.fitters.tensors import BatchTensors
from galmeasure.fitters.threads import single_threaded
from galmeasure.networks.base import LOWER_LEVELS, UPPER_LEVELS
from galmeasure.networks.correction import Correction, CorrectionConfig, correction_inputs
from galmeasure.parameters import N_PARAMETERS, PARAMETER_INDEX
from galmeasure.utils.chunks import chunk_size
from galmeasure.weights import Weights, load_network
from galmeasure.weights.registry import find_weights

__all__ = ["CorrectionSample", "collect_sample", "learn_correction"]

_VALIDATION = 0.1
_LOSSES = ("flow", "mean", "covariance", "quantiles")
_MEMORY = 0.995  # of the moving average of the weights
_LEAST = 1000
_GROUP = 200  # galaxies whose losses are averaged, before the median of these means


@dataclass(frozen=True)
class CorrectionSample:
    """Sample from which a correction learns: its inputs and the truth for each galaxy.

    Parameters
    ----------
    inputs, anchor, whitener : Tensor
        From `galmeasure.networks.correction.correction_inputs`, shapes ``(B, D)``, ``(B, 7)`` and ``(B, 7, 7)``.
    flux_scale : Tensor
        Unit of the flux, shape ``(B,)``.
    truth : Tensor
        Parameters in the pixels of the network, shape ``(B, 7)``.
    """

    inputs: torch.Tensor
    anchor: torch.Tensor
    whitener: torch.Tensor
    flux_scale: torch.Tensor
    truth: torch.Tensor

    def __len__(self) -> int:
        """Number of galaxies."""
        return len(self.truth)

    def __getitem__(self, rows: torch.Tensor) -> "CorrectionSample":
        """Return some of the galaxies, in the order of the index."""
        return CorrectionSample(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    @classmethod
    def join(cls, samples: "Sequence[CorrectionSample]") -> Self:
        """Concatenate several samples."""
        return cls(*(torch.cat([getattr(sample, name) for sample in samples]) for name in cls.__dataclass_fields__))


def collect_sample(
    weights: str | PathLike | Weights,
    simulated: Iterable[tuple[Cutouts, npt.NDArray[np.float64]]],
    *,
    device: str = "cpu",
    bf16: bool = False,
) -> CorrectionSample:
    """Measure simulated galaxies up to the correction.

    Parameters
    ----------
    weights : str, path-like or Weights
        Weights of the network that is to be corrected.
    simulated : iterable of (Cutouts, ndarray)
        Galaxies of the training domain and their parameters, see `galmeasure.training.simulate_cutouts`.
    device : str, optional
        Torch device on which to compute.
    bf16 : bool, optional
        Whether the encoder's blocks compute in bfloat16.

    Returns
    -------
    CorrectionSample
        On the CPU, in single precision.

    Raises
    ------
    ValueError
        If no galaxy could be measured.
    """
    weights = find_weights(weights, "weights")
    network = load_network(weights, device)
    samples = []
    with single_threaded(), torch.inference_mode():
        for cutouts, truth in simulated:
            for batch in cutouts.batches(chunk_size("network batch")):
                posteriors = corrected_posteriors(network, None, BatchTensors.of(batch, device), bf16=bf16)
                values = torch.from_numpy(truth[batch.index]).to(device)
                values[:, PARAMETER_INDEX["flux"]] /= torch.from_numpy(batch.scale).to(device)
                samples += [_sample(network, posteriors, chunk, values, device) for chunk in posteriors.chunks]
    if not samples:
        msg = "simulated must hold galaxies within the domain of the weights"
        raise ValueError(msg)
    return CorrectionSample.join(samples)


def _sample(network, posteriors, chunk, truth, device):
    """Sample of the rows of a chunk whose truth lies in the network's domain."""
    keep = torch.from_numpy(chunk.keep).to(device)
    rows = torch.from_numpy(chunk.rows).to(device)
    inputs, anchor, whitener = correction_inputs(network, chunk.context, posteriors.evaluation.evaluation[rows])
    in_network = chunk.window.from_stamp(truth[rows]).float()
    keep = (
        keep & network.inside(in_network) & torch.isfinite(anchor).all(1) & torch.isfinite(whitener).flatten(1).all(1)
    )
    sample = CorrectionSample(inputs, anchor, whitener, chunk.context.flux_scale, in_network)
    return CorrectionSample(*(getattr(sample, name)[keep].cpu() for name in sample.__dataclass_fields__))


def learn_correction(
    weights: str | PathLike | Weights,
    sample: CorrectionSample,
    *,
    config: CorrectionConfig | None = None,
    epochs: int = 12,
    batch_size: int = 512,
    learning_rate: float = 2e-3,
    seed: int = 0,
    device: str = "cpu",
) -> tuple[Correction, dict[str, Any]]:
    """Train a correction.

    Parameters
    ----------
    weights : str, path-like or Weights
        Weights of the network that is corrected.
    sample : CorrectionSample
        What to learn from; a tenth of it is held out.
    config : CorrectionConfig, optional
        Architecture of the correction.
    epochs : int, optional
        How often each galaxy is seen.
    batch_size : int, optional
        Number of galaxies per step.
    learning_rate : float, optional
        Largest rate, from which it falls to zero along half a cosine.
    seed : int, optional
        Seed of the first weights and of the order.
    device : str, optional
        Torch device on which to train.

    Returns
    -------
    correction : galmeasure.networks.correction.Correction
        On the CPU, in evaluation mode: the moving average of its weights.
    metrics : dict
        Held-out losses, and coverage of the intervals of 68 and 95 % by parameter.

    Raises
    ------
    ValueError
        If there are fewer than 1,000 galaxies.
    """
    if len(sample) < _LEAST:
        msg = f"sample must hold at least {_LEAST} galaxies, not {len(sample)}"
        raise ValueError(msg)
    network = load_network(find_weights(weights, "weights"), device)
    with torch.random.fork_rng(), torch.inference_mode(False):
        torch.manual_seed(seed)
        correction = Correction(config or CorrectionConfig(), network).to(device)
        order = torch.randperm(len(sample))
        held = int(_VALIDATION * len(sample))
        learn, held_out = sample[order[held:]], sample[order[:held]]
        correction.normalise(learn.inputs.to(device))
        average = _train(correction, learn, epochs, batch_size, learning_rate, device)
    average = average.cpu().eval().requires_grad_(False)
    with torch.inference_mode():
        return average, correction_metrics(average, held_out)


def _train(correction, sample, epochs, batch_size, learning_rate, device):
    """Train in place; gives the moving average of the weights."""
    average = copy.deepcopy(correction)
    optimizer = torch.optim.AdamW(correction.parameters(), lr=learning_rate, weight_decay=0.01)
    per_epoch = max(1, len(sample) // batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / 100.0) * 0.5 * (1.0 + math.cos(math.pi * step / (epochs * per_epoch))),
    )
    step = 0
    for _ in range(epochs):
        order = torch.randperm(len(sample))
        for rows in order[: per_epoch * batch_size].split(batch_size):
            batch = sample[rows]
            batch = CorrectionSample(*(getattr(batch, name).to(device) for name in batch.__dataclass_fields__))
            losses = correction.loss(_context(correction, batch), batch.truth)
            optimizer.zero_grad(set_to_none=True)
            sum(losses.values()).backward()
            norm = torch.nn.utils.clip_grad_norm_(correction.parameters(), 5.0)
            if torch.isfinite(norm):
                optimizer.step()
            schedule.step()
            step += 1
            memory = min(_MEMORY, (1.0 + step) / (10.0 + step))
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), list(correction.parameters()), 1.0 - memory)
    return average


def _context(correction, sample):
    return correction.encode(sample.inputs, sample.anchor, sample.whitener, sample.flux_scale)


def correction_metrics(correction: Correction, sample: CorrectionSample) -> dict[str, Any]:
    """Losses and coverage of a correction on a sample.

    Parameters
    ----------
    correction : galmeasure.networks.correction.Correction
        The correction, on the CPU.
    sample : CorrectionSample
        Galaxies that it has not seen.

    Returns
    -------
    dict
        ``galaxies``, ``loss``, and ``coverage_68``, ``coverage_95`` and ``pull_std``, lists in the order of the
        parameters. The losses are medians of the means of 200 galaxies, which one galaxy that was mistaken for its
        neighbour does not spoil.
    """
    groups = torch.arange(len(sample)).split(_GROUP)
    losses_of_groups = [correction.loss(_context(correction, sample[rows]), sample[rows].truth) for rows in groups]
    losses = {
        name: round(float(torch.stack([group[name] for group in losses_of_groups]).median()), 5) for name in _LOSSES
    }
    context = _context(correction, sample)
    summary = correction.summarise(context)
    low, high = summary.quantiles[:, LOWER_LEVELS], summary.quantiles[:, UPPER_LEVELS]
    inside = ((sample.truth[:, None] > low) & (sample.truth[:, None] < high)).double().mean(0)
    pull = (sample.truth - summary.mean) / summary.covariance.diagonal(dim1=1, dim2=2).sqrt()

    def rounded(values):
        return [round(float(value), 4) for value in values[:N_PARAMETERS]]

    return {
        "galaxies": len(sample), "loss": losses, "coverage_68": rounded(inside[1]), "coverage_95": rounded(inside[0]),
        "pull_std": rounded(pull.std(0)),
    }  # fmt: skip
