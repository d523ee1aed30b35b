"""Exact posteriors: draws of a network's flow are weighted with the likelihood of the pixels and the prior."""

from dataclasses import replace

import numpy as np

from galmeasure.fitters._sampling import ImportanceSettings, weighted_draws
from galmeasure.fitters._target import ExactPosterior
from galmeasure.fitters.lsq import LSQSersicFitter
from galmeasure.flags import Flag
from galmeasure.priors import get_prior

__all__ = ["LEAST_DRAWS", "METHOD", "check_refinement", "refine_batch"]

METHOD = "neural+importance"
"""What the column ``method`` says of refined rows."""

LEAST_DRAWS = 64
"""Draws that every galaxy gets."""

_WORTHLESS = 0.2
"""With fewer effective draws than this part of those wanted, the draws are not used."""


def check_refinement(weights, network, n_draws, min_ess):
    """Check the options of a refinement, and that a network is fit for it.

    Parameters
    ----------
    weights : Weights
        Of the network.
    network : SersicPosterior
        The network.
    n_draws : int
        Most draws of a galaxy.
    min_ess : float
        Effective draws wanted.

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
    prior, config = get_prior(weights.card["prior"]), network.config
    inside = config.n[0] <= prior.n.lower and prior.n.upper <= config.n[1]
    inside &= config.r_eff[0] <= prior.r_eff.lower and prior.r_eff.upper <= config.r_eff[1]
    inside &= prior.shear.g_max <= config.g_max and prior.centre <= config.centre
    if not inside:
        msg = f"weights {weights.name!r} cannot be refined: their prior {prior.name!r} reaches beyond their domain"
        raise ValueError(msg)


def refine_batch(network, pieces, batch, found, weights, *, n_draws, min_ess, summary="mean", device="cpu"):
    """Replace the posteriors of a batch by exact ones, in place.

    Parameters
    ----------
    network : SersicPosterior
        The network.
    pieces : list of EncodedPiece
        What it says of the batch.
    batch : CutoutBatch
        Cutouts in units of their noise.
    found : BatchMeasurement
        With the network's measurement.
    weights : Weights
        Of the network, for the prior.
    n_draws : int
        Most draws of a galaxy.
    min_ess : float
        Effective draws wanted.
    summary : {"mean", "median", "mode"}, optional
        Point estimate; the mode is that of the draws.
    device : str, optional
        Where to compute.

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
    network, and the Gaussian likelihood of the cutout's own pixels. Rows whose draws are worth less than ``min_ess``
    are flagged ``poor_proposal``; where this is less than a fifth of it, the row is that of `LSQSersicFitter`.
    """
    prior = get_prior(weights.card["prior"])
    if prior.electrons is not None and batch.gain is None:
        msg = f"gain must be given to refine with weights {weights.name!r}, whose prior is one of electrons"
        raise ValueError(msg)
    target = ExactPosterior(batch, prior, device)
    settings = ImportanceSettings(n_draws=n_draws, min_ess=min_ess)
    found.method[:] = "neural"
    done, poor = np.zeros(len(batch), dtype=bool), []
    for piece in pieces:
        places = np.flatnonzero(piece.keep)
        draws = weighted_draws(network, piece, target, batch.image, settings)
        for row, place, drawn in zip(piece.rows[places], places, draws, strict=True):
            found.ess[row], found.n_draws[row] = drawn.ess, len(drawn)
            found.flags[row] |= (drawn.ess < min_ess) * Flag.POOR_PROPOSAL
            if drawn.ess < _WORTHLESS * min_ess:
                poor.append(row)
                continue
            done[row] = True
            _store(found, row, drawn, piece.window[place : place + 1], summary)
    if poor:
        done |= _least_squares(batch, np.sort(poor), found, device)
    return done


def _store(found, row, drawn, window, summary):
    """Summary of weighted draws, in the pixels of the stamp."""
    quantiles = drawn.quantiles()
    point = {"mean": drawn.mean, "median": quantiles[1], "mode": drawn.best}[summary]
    scale, offset = window.scale.cpu().numpy(), window.offset()[0].cpu().numpy()
    found.values[row] = point * scale + offset
    found.quantiles[row] = quantiles * scale + offset
    found.covariance[row] = drawn.covariance * scale[:, None] * scale
    found.log_evidence[row] = drawn.log_evidence
    found.method[row] = METHOD


def _least_squares(batch, rows, found, device):
    """Put least-squares fits into some rows; gives those where there is one, boolean."""
    fitter = LSQSersicFitter(device=device)
    part = fitter.measure(_rows_of(batch, rows), np.full_like(found.values[rows], np.nan))
    usable = np.isfinite(part.values).all(axis=1)
    rows = rows[usable]
    for name in ("values", "covariance"):
        getattr(found, name)[rows] = getattr(part, name)[usable]
    found.quantiles[rows] = np.nan
    found.flags[rows] |= part.flags[usable]
    found.method[rows] = fitter.method
    done = np.zeros(len(batch), dtype=bool)
    done[rows] = True
    return done


def _rows_of(batch, rows):
    """Batch of some rows."""
    names = ("index", "flags", "image", "good", "shape", "scale", "psf_index")
    parts = {name: getattr(batch, name)[rows] for name in names}
    parts["error"] = batch.error if len(batch.error) == 1 else batch.error[rows]
    parts["gain"] = None if batch.gain is None else batch.gain[rows]
    return replace(batch, **parts)
