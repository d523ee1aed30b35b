"""Exact posteriors: draws of a network's flow are weighted with the likelihood of the pixels and the prior."""

from dataclasses import dataclass

import numpy as np
import torch

from galmeasure.cutouts.batches import CutoutBatch
from galmeasure.fitters.base import BatchMeasurement
from galmeasure.fitters.crop import rows_of
from galmeasure.fitters.importance.sampling import HeldParameters, ImportanceSettings, gaussian_proposal, weighted_draws
from galmeasure.fitters.importance.target import ExactPosterior
from galmeasure.fitters.lsq.fitter import LSQSersicFitter
from galmeasure.flags import Flag
from galmeasure.networks import SersicPosterior
from galmeasure.parameters import N_PARAMETERS, PARAMETER_NAMES

__all__ = ["AGAIN", "LEAST_DRAWS", "METHOD", "check_refinement", "refine_batch", "refined_draws"]

METHOD = "neural+importance"
"""What the column ``method`` says of refined rows."""

AGAIN = "lsq+importance"
"""The same of rows whose draws came from about the least-squares fit."""

LEAST_DRAWS = 64
"""Draws that every galaxy gets."""

_WORTHLESS = 0.2
"""With fewer effective draws than this part of those wanted, the draws are not used."""


def check_refinement(weights, network, n_draws, min_ess):
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


def refine_batch(network, pieces, tensors, found, weights, prior, *, n_draws, min_ess, summary="mean", held=None):
    """Replace the posteriors of a batch by exact ones, in place.

    Parameters
    ----------
    network : SersicPosterior
        Network whose posteriors are used.
    pieces : list of EncodedChunk
        What it says of the batch.
    tensors : BatchTensors
        Tensors of the batch, on the device of the network.
    found : BatchMeasurement
        With the network's measurement.
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
        Parameters that are known; the pieces hold the posteriors given these.

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
    _Refinement(network, tensors.batch, found, target, settings, summary, held).refine_all(pieces)
    return found.method != "neural"


def refined_draws(network, pieces, tensors, weights, n_samples, seed, *, prior, n_draws, min_ess, held=None):
    """Equally weighted draws of exact posteriors, resampled from weighted ones.

    Parameters
    ----------
    network, pieces, tensors, weights, prior, n_draws, min_ess, held
        The same arguments as those of `refine_batch`.
    n_samples : int
        Draws for each galaxy.
    seed : int
        Of the choice among the weighted draws, with each row's number.

    Returns
    -------
    ndarray
        In the units and pixels of the stamps, shape ``(B, n_samples, 7)``; NaN where there is no posterior.
    """
    settings = ImportanceSettings(n_draws=n_draws, min_ess=min_ess)
    found = BatchMeasurement.empty(len(tensors), quantiles=True, draws=True)
    drawn = np.full((len(tensors), n_samples, N_PARAMETERS), np.nan)
    target = _target(tensors, weights, prior)
    _Refinement(network, tensors.batch, found, target, settings, "mean", held, drawn, seed).refine_all(pieces)
    return drawn


def _target(tensors, weights, prior):
    if prior.electrons is not None and tensors.gain is None:
        msg = f"gain must be given to refine with weights {weights.name!r}, whose prior is one of electrons"
        raise ValueError(msg)
    return ExactPosterior(tensors, prior)


@dataclass(frozen=True)
class _Refinement:
    """What the refinement of a batch needs."""

    network: SersicPosterior
    batch: CutoutBatch
    found: BatchMeasurement
    target: ExactPosterior
    settings: ImportanceSettings
    summary: str
    held: HeldParameters | None = None
    drawn: np.ndarray | None = None
    seed: int = 0

    def refine_all(self, pieces):
        """Refine all rows of all pieces."""
        self.found.method[:] = "neural"
        for piece in pieces:
            places = np.flatnonzero(piece.keep)
            poor = self.refine(piece, places) if self.held is None else self.refine_given(piece, places)
            if len(poor):
                self.refine_again(piece, poor)

    def refine_given(self, piece, places):
        """Draw posteriors given the held parameters, about the Gaussian of the piece; gives the places left."""
        summary = piece.summary
        starts = [
            gaussian_proposal(
                self.network, self.target.prior, summary.mean[place].double(), summary.covariance[place].double(),
                self.held,
            )
            for place in places
        ]  # fmt: skip
        hopeful = np.array([start is not None for start in starts], dtype=bool)
        poor = places[~hopeful]
        if hopeful.any():
            poor = np.append(poor, self.refine(piece, places[hopeful], [each for each in starts if each is not None]))
        return np.sort(poor)

    def refine(self, piece, places, starts=None, method=METHOD):
        """Draw posteriors of some rows of a piece and store them; gives the places where the draws are worthless."""
        poor, found = [], self.found
        least = self.settings.min_ess
        draws = weighted_draws(
            self.network, piece, places, self.target, self.batch.image, self.settings, starts, self.held
        )  # fmt: skip
        for row, place, drawn in zip(piece.rows[places], places, draws, strict=True):
            ess = drawn.ess
            found.ess[row] = np.fmax(found.ess[row], ess)
            found.n_draws[row] += len(drawn)
            found.flags[row] |= (ess < least) * Flag.POOR_PROPOSAL
            if ess < _WORTHLESS * least:
                poor.append(place)
            else:
                self._store(row, drawn, piece.window[place : place + 1], method)
        return np.array(poor, dtype=np.int64)

    def refine_again(self, piece, places):
        """Draw posteriors of some rows about least-squares fits, which are the answer if that does not help."""
        rows, found = piece.rows[places], self.found
        names = [] if self.held is None else [PARAMETER_NAMES[column] for column in self.held.columns]
        fitter = LSQSersicFitter(device=self.target.device, fixed=dict.fromkeys(names, "init"))
        init = np.full_like(found.values[rows], np.nan)
        if self.held is not None:
            columns = list(self.held.columns)
            init[:, columns] = self.held.values.cpu().numpy()[rows][:, columns]
        part = fitter.measure(rows_of(self.batch, rows), init)
        usable = np.isfinite(part.values).all(axis=1)
        starts = [self._start(piece.window[place : place + 1], *each)
                  for place, *each in zip(places, part.values, part.covariance, strict=True)]  # fmt: skip
        hopeful = np.array([start is not None for start in starts])
        left = ~hopeful
        if hopeful.any():
            starts = [start for start in starts if start is not None]
            poor = self.refine(piece, places[hopeful], starts, AGAIN)
            left |= np.isin(places, poor)
        left &= usable
        for name in ("values", "covariance"):
            getattr(found, name)[rows[left]] = getattr(part, name)[left]
        found.quantiles[rows[left]] = np.nan
        found.flags[rows[left]] |= part.flags[left]
        found.method[rows[left]] = fitter.method

    def _start(self, window, values, covariance):
        """Proposal about a least-squares fit in the pixels of the stamp, or None."""
        values, covariance = (torch.from_numpy(each).to(self.target.device) for each in (values, covariance))
        scale = window.scale
        values = window.from_stamp(values[None])[0]
        covariance = covariance / scale / scale[:, None]
        return gaussian_proposal(self.network, self.target.prior, values, covariance, self.held)

    def _store(self, row, drawn, window, method):
        """Summary of weighted draws, in the pixels of the stamp."""
        quantiles, found = drawn.quantiles(), self.found
        point = {"mean": drawn.mean, "median": quantiles[1], "mode": drawn.best}[self.summary]
        scale, offset = window.scale.cpu().numpy(), window.offset()[0].cpu().numpy()
        found.values[row] = point * scale + offset
        found.quantiles[row] = quantiles * scale + offset
        found.covariance[row] = drawn.covariance * scale[:, None] * scale
        if self.held is None:
            found.log_evidence[row] = drawn.log_evidence
        else:
            columns, known = list(self.held.columns), self.held.values[row].cpu().numpy()
            found.values[row, columns] = known[columns]
            found.quantiles[row][:, columns] = known[columns]
            found.covariance[row][columns], found.covariance[row][:, columns] = 0.0, 0.0
        found.method[row] = method
        if self.drawn is not None:
            generator = np.random.Generator(np.random.Philox(key=[self.seed, int(self.batch.index[row])]))
            self.drawn[row] = drawn.resampled(self.drawn.shape[1], generator) * scale + offset
