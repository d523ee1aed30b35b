"""Exact posteriors: draws of a network's flow are weighted with the likelihood of the pixels and the prior."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from galmeasure.cutouts.batches import CutoutBatch
from galmeasure.fitters.base import BatchMeasurement
from galmeasure.fitters.crop import rows_of
from galmeasure.fitters.importance.fourier import FourierPosterior
from galmeasure.fitters.importance.sampler import WORTHLESS, ImportanceSettings
from galmeasure.fitters.importance.sampling import HeldParameters, gaussian_proposal, weighted_draws
from galmeasure.fitters.importance.target import ExactPosterior
from galmeasure.fitters.lsq.fitter import LSQSersicFitter
from galmeasure.fitters.neural.encode import EncodedChunk
from galmeasure.fitters.tensors import BatchTensors
from galmeasure.flags import Flag
from galmeasure.networks import SersicPosterior
from galmeasure.networks.correction import Correction
from galmeasure.parameters import N_PARAMETERS, PARAMETER_NAMES
from galmeasure.priors import Prior
from galmeasure.weights import Weights

__all__ = ["AGAIN", "LEAST_DRAWS", "METHOD", "check_refinement", "refine_batch", "refined_draws"]

METHOD = "neural+importance"
"""What the column ``method`` says of refined rows."""

AGAIN = "lsq+importance"
"""The same of rows whose draws came from about the least-squares fit."""

LEAST_DRAWS = 64
"""Draws that every galaxy gets."""


def check_refinement(weights: Weights, network: SersicPosterior, n_draws: int, min_ess: float) -> None:
    """Check the options of a refinement, and that a network is fit for it.

    Parameters
    ----------
    weights : Weights
        Weights of the network.
    network : SersicPosterior
        Network whose posteriors are used.
    n_draws : int
        Most draws of a galaxy.
    min_ess : float
        Number of effective draws to reach.

    Raises
    ------
    ValueError
        If an option is wrong, or the network's flow does not reach everywhere in its prior.
    """
    if isinstance(n_draws, bool) or not isinstance(n_draws, int | np.integer) or n_draws < LEAST_DRAWS:
        msg = f"n_draws must be an integer of at least {LEAST_DRAWS}, not {n_draws!r}"
        raise ValueError(msg)
    if isinstance(min_ess, bool) or not isinstance(min_ess, int | float) or not 1.0 <= min_ess < n_draws:
        msg = f"min_ess must be a number of at least 1 and below n_draws, not {min_ess!r}"
        raise ValueError(msg)
    prior, config = weights.get_prior(), network.config
    inside = config.n[0] <= prior.n.lower and prior.n.upper <= config.n[1]
    inside &= config.r_eff[0] <= prior.r_eff.lower and prior.r_eff.upper <= config.r_eff[1]
    inside &= prior.shear.g_max <= config.g_max and prior.centre <= config.centre
    if not inside:
        msg = f"weights {weights.name!r} cannot be refined: their prior {prior.name!r} reaches beyond their domain"
        raise ValueError(msg)


def refine_batch(
    network: SersicPosterior | Correction,
    chunks: Sequence[EncodedChunk],
    tensors: BatchTensors,
    measurement: BatchMeasurement,
    weights: Weights,
    prior: Prior,
    *,
    n_draws: int,
    min_ess: float,
    summary: str = "mean",
    held: HeldParameters | None = None,
) -> npt.NDArray[np.bool_]:
    """Replace the posteriors of a batch by exact ones, in place.

    Parameters
    ----------
    network : SersicPosterior
        Network whose posteriors are used.
    chunks : list of EncodedChunk
        Description of the batch by the network.
    tensors : BatchTensors
        Tensors of the batch, on the device of the network.
    measurement : BatchMeasurement
        Measurement by the network, which is overwritten.
    weights : Weights
        Weights of the network.
    prior : Prior
        Prior of the posteriors, in the pixels of the network.
    n_draws : int
        Most draws of a galaxy.
    min_ess : float
        Number of effective draws to reach.
    summary : {"mean", "median", "mode"}, optional
        Point estimate; the mode is that of the draws.
    held : HeldParameters, optional
        Parameters that are known; the chunks hold the posteriors given these.

    Returns
    -------
    ndarray of bool
        Rows that were replaced, by exact posteriors or by least squares, shape ``(B,)``.

    Raises
    ------
    ValueError
        If the prior is one of electrons and the cutouts have no gain.

    Notes
    -----
    The posterior is that of the Sersic model under the prior of the training, in the pixels and the window of the
    network, and the Gaussian likelihood of the cutout's own pixels. Where the draws are worth less than a fifth of
    ``min_ess``, others are drawn about the least-squares fit, and if these are not worth more either, the row is that
    of `LSQSersicFitter`. These rows, and those that do not reach ``min_ess``, are flagged ``poor_proposal``.
    """
    settings = ImportanceSettings(n_draws=n_draws, min_ess=min_ess)
    target = _target(tensors, weights, prior)
    _Refinement(network, tensors.batch, measurement, target, settings, summary, held).refine_all(chunks)
    return measurement.method != "neural"


def refined_draws(
    network: SersicPosterior | Correction,
    chunks: Sequence[EncodedChunk],
    tensors: BatchTensors,
    weights: Weights,
    n_samples: int,
    seed: int,
    *,
    prior: Prior,
    n_draws: int,
    min_ess: float,
    held: HeldParameters | None = None,
) -> npt.NDArray[np.float64]:
    """Equally weighted draws of exact posteriors, resampled from weighted ones.

    Parameters
    ----------
    network, chunks, tensors, weights, prior, n_draws, min_ess, held
        The same arguments as those of `refine_batch`.
    n_samples : int
        Draws for each galaxy.
    seed : int
        Seed of the choice among the weighted draws, together with each row's number.

    Returns
    -------
    ndarray
        In the units and pixels of the stamps, shape ``(B, n_samples, 7)``; NaN where there is no posterior.
    """
    settings = ImportanceSettings(n_draws=n_draws, min_ess=min_ess)
    measurement = BatchMeasurement.empty(len(tensors), quantiles=True, draws=True)
    drawn = np.full((len(tensors), n_samples, N_PARAMETERS), np.nan)
    target = _target(tensors, weights, prior)
    _Refinement(network, tensors.batch, measurement, target, settings, "mean", held, drawn, seed).refine_all(chunks)
    return drawn


def _target(tensors, weights, prior):
    if prior.electrons is not None and tensors.gain is None:
        msg = f"gain must be given to refine with weights {weights.name!r}, whose prior is one of electrons"
        raise ValueError(msg)
    return ExactPosterior(tensors, prior)


@dataclass(frozen=True)
class _Refinement:
    """What the refinement of a batch needs."""

    network: SersicPosterior | Correction
    batch: CutoutBatch
    measurement: BatchMeasurement
    target: ExactPosterior
    settings: ImportanceSettings
    summary: str
    held: HeldParameters | None = None
    drawn: np.ndarray | None = None
    seed: int = 0

    def refine_all(self, chunks):
        """Refine all rows of all chunks."""
        self.measurement.method[:] = "neural"
        poor = []
        for chunk in chunks:
            members = np.flatnonzero(chunk.keep)
            poor.append(self.refine(chunk, members) if self.held is None else self.refine_given(chunk, members))
        if any(len(members) for members in poor):
            self.refine_again(chunks, poor)

    def refine_given(self, chunk, members):
        """Draw posteriors given the held parameters, about the Gaussian of the chunk; gives the members left."""
        summary = chunk.summary
        starts = [
            gaussian_proposal(
                self.network, self.target.prior, summary.mean[member].double(), summary.covariance[member].double(),
                self.held,
            )
            for member in members
        ]  # fmt: skip
        hopeful = np.array([start is not None for start in starts], dtype=bool)
        poor = members[~hopeful]
        if hopeful.any():
            poor = np.append(
                poor, self.refine(chunk, members[hopeful], [start for start in starts if start is not None])
            )
        return np.sort(poor)

    def refine(self, chunk, members, starts=None, method=METHOD, reference=None):
        """Draw posteriors of some rows of a chunk and store them; gives the members whose draws are worthless.

        Approximations are made about the network's means, or about a ``reference``.
        """
        poor, measurement = [], self.measurement
        least = self.settings.min_ess
        reference = chunk.summary.mean[members].double() if reference is None else reference
        cheap = FourierPosterior(self.target, chunk.rows[members], chunk.window[members], reference)
        draws = weighted_draws(
            self.network, chunk, members, self.target, self.batch.image, self.settings, starts, self.held,
            self.batch.progress.add, cheap,
        )  # fmt: skip
        for row, member, drawn in zip(chunk.rows[members], members, draws, strict=True):
            ess = drawn.ess
            measurement.ess[row] = np.fmax(measurement.ess[row], ess)
            measurement.n_draws[row] += len(drawn)
            measurement.flags[row] |= (ess < least) * Flag.POOR_PROPOSAL
            if ess < WORTHLESS * least:
                poor.append(member)
            else:
                self._store(row, drawn, chunk.window[member : member + 1], method)
        return np.array(poor, dtype=np.int64)

    def refine_again(self, chunks, poor):
        """Draw posteriors of some members of chunks about least-squares fits, the answer if that does not help."""
        rows = np.concatenate([chunk.rows[members] for chunk, members in zip(chunks, poor, strict=True)])
        names = [] if self.held is None else [PARAMETER_NAMES[column] for column in self.held.columns]
        fitter = LSQSersicFitter(device=self.target.device, fixed=dict.fromkeys(names, "init"))
        init = np.full_like(self.measurement.values[rows], np.nan)
        if self.held is not None:
            columns = list(self.held.columns)
            init[:, columns] = self.held.values.cpu().numpy()[rows][:, columns]
        # all of the batch at once, because few rows are fitted slowly
        order = rows.argsort()
        fallback = fitter.measure(rows_of(self.batch, rows[order]), init[order])
        position = order.argsort()
        for chunk, members, index in zip(
            chunks, poor, np.split(position, np.cumsum([len(members) for members in poor])[:-1]), strict=True
        ):
            if len(members):
                self._refine_about(chunk, members, fallback, index, fitter.method)

    def _refine_about(self, chunk, members, fallback, index, method):
        """Draw posteriors of some members of a chunk about rows of a measurement, and store this where that fails."""
        rows, measurement = chunk.rows[members], self.measurement
        values, covariance, flags = (getattr(fallback, name)[index] for name in ("values", "covariance", "flags"))
        usable = np.isfinite(values).all(axis=1)
        starts = [self._start(chunk.window[member : member + 1], *estimate)
                  for member, *estimate in zip(members, values, covariance, strict=True)]  # fmt: skip
        hopeful = np.array([start is not None for start in starts])
        left = ~hopeful
        if hopeful.any():
            starts = [start for start in starts if start is not None]
            fitted = torch.from_numpy(values[hopeful]).to(self.target.device)
            reference = chunk.window[members[hopeful]].from_stamp(fitted)
            poor = self.refine(chunk, members[hopeful], starts, AGAIN, reference)
            left |= np.isin(members, poor)
        left &= usable
        measurement.values[rows[left]] = values[left]
        measurement.covariance[rows[left]] = covariance[left]
        measurement.quantiles[rows[left]] = np.nan
        measurement.flags[rows[left]] |= flags[left]
        measurement.method[rows[left]] = method

    def _start(self, window, values, covariance):
        """Proposal about a least-squares fit in the pixels of the stamp, or None."""
        values, covariance = (torch.from_numpy(array).to(self.target.device) for array in (values, covariance))
        scale = window.scale
        values = window.from_stamp(values[None])[0]
        covariance = covariance / scale / scale[:, None]
        return gaussian_proposal(self.network, self.target.prior, values, covariance, self.held)

    def _store(self, row, drawn, window, method):
        """Summary of weighted draws, in the pixels of the stamp."""
        quantiles, measurement = drawn.quantiles(), self.measurement
        point = {"mean": drawn.mean, "median": quantiles[1], "mode": drawn.best}[self.summary]
        scale, offset = window.scale.cpu().numpy(), window.offset()[0].cpu().numpy()
        measurement.values[row] = point * scale + offset
        measurement.quantiles[row] = quantiles * scale + offset
        measurement.covariance[row] = drawn.covariance * scale[:, None] * scale
        if self.held is None:
            measurement.log_evidence[row] = drawn.log_evidence
        else:
            columns, held_values = list(self.held.columns), self.held.values[row].cpu().numpy()
            measurement.values[row, columns] = held_values[columns]
            measurement.quantiles[row][:, columns] = held_values[columns]
            measurement.covariance[row][columns], measurement.covariance[row][:, columns] = 0.0, 0.0
        measurement.method[row] = method
        if self.drawn is not None:
            generator = np.random.Generator(np.random.Philox(key=[self.seed, int(self.batch.index[row])]))
            self.drawn[row] = drawn.resampled(self.drawn.shape[1], generator) * scale + offset
