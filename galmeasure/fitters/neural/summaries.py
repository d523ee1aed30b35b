"""Point estimates, covariances and quantiles of posteriors, in the pixels of the stamps, and what else they say."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from galmeasure.fitters.neural.domain import piled_up
from galmeasure.fitters.neural.mode import posterior_mode
from galmeasure.fitters.neural.posteriors import Posteriors
from galmeasure.fitters.neural.prior_share import point_probability, prior_dominated
from galmeasure.fitters.tensors import BatchTensors
from galmeasure.ood.inputs import NetworkView
from galmeasure.parameters import N_PARAMETERS
from galmeasure.priors import Prior

__all__ = ["Summaries", "network_view", "summarise"]

_MEDIAN = 2
_QUANTILES = slice(1, 4)  # 16, 50, 84 % of the five that networks give


@dataclass(frozen=True)
class Summaries:
    """Summaries of the posteriors of a batch, NaN or False where there is no measurement.

    Parameters
    ----------
    values : ndarray
        Point estimates in pixels of the stamps, shape ``(B, 7)``.
    covariance : ndarray
        Covariances of the posteriors, shape ``(B, 7, 7)``.
    quantiles : ndarray
        Quantiles of 16, 50 and 84 %, shape ``(B, 3, 7)``.
    point_like : ndarray
        Probability that each object is a point, shape ``(B,)``.
    prior_dominated : ndarray of bool
        Rows in which the data hardly narrow the prior of index or radius, shape ``(B,)``.
    near_edge : ndarray of bool
        Rows whose posterior crowds at an edge of the domain of the training, shape ``(B,)``.
    block : ndarray of int64
        Pixels of the stamp along each side of one of the network's, shape ``(B,)``.
    """

    values: NDArray[np.float64]
    covariance: NDArray[np.float64]
    quantiles: NDArray[np.float64]
    point_like: NDArray[np.float64]
    prior_dominated: NDArray[np.bool_]
    near_edge: NDArray[np.bool_]
    block: NDArray[np.int64]


def summarise(posteriors: Posteriors, tensors: BatchTensors, summary: str, domain: dict, prior: Prior) -> Summaries:
    """Summarise the posteriors of a batch.

    Parameters
    ----------
    posteriors : Posteriors
        Posteriors of the measurable rows.
    tensors : BatchTensors
        Tensors of the batch.
    summary : {"mean", "median", "mode"}
        Point estimate to give.
    domain : dict
        Domain of the training, from the card of the weights.
    prior : Prior
        Prior of the posteriors.

    Returns
    -------
    Summaries
        Summaries of all rows.
    """
    count, fwhm = len(tensors), tensors.psf_fwhm()
    results = Summaries(
        values=np.full((count, N_PARAMETERS), np.nan),
        covariance=np.full((count, N_PARAMETERS, N_PARAMETERS), np.nan),
        quantiles=np.full((count, 3, N_PARAMETERS), np.nan),
        point_like=np.full(count, np.nan),
        prior_dominated=np.zeros(count, dtype=bool),
        near_edge=np.zeros(count, dtype=bool),
        block=np.ones(count, dtype=np.int64),
    )
    for chunk in posteriors.chunks:
        keep, posterior, window = chunk.keep, chunk.summary, chunk.window
        rows = chunk.rows[keep]
        point = {"mean": posterior.mean, "median": posterior.quantiles[:, _MEDIAN]}.get(summary)
        if point is None:
            point = posterior_mode(posteriors.module, chunk.context)
        width = fwhm[torch.from_numpy(chunk.rows).to(fwhm.device)] / window.block
        columns = {
            "values": window.to_stamp(point),
            "covariance": window.covariance_to_stamp(posterior.covariance),
            "quantiles": window.to_stamp(posterior.quantiles[:, _QUANTILES]),
            "point_like": point_probability(posterior.quantiles, width),
            "prior_dominated": prior_dominated(posterior.quantiles, prior),
            "near_edge": piled_up(posterior, domain),
        }
        for name, column in columns.items():
            getattr(results, name)[rows] = column.cpu().numpy()[keep]
        results.block[rows] = window.block
    return results


def network_view(posteriors: Posteriors, tensors: BatchTensors) -> NetworkView:
    """Windows and features of the network for the rows of a batch.

    Parameters
    ----------
    posteriors : Posteriors
        Posteriors of the measurable rows.
    tensors : BatchTensors
        Tensors of the batch.

    Returns
    -------
    NetworkView
        Input of `galmeasure.ood.inputs.ood_inputs`.
    """
    count, batch = len(tensors), tensors.batch
    block, start = np.ones(count, dtype=np.int64), torch.zeros((count, 2), dtype=torch.int64)
    n_features = posteriors.network_chunks[0].context.features.shape[1] if posteriors.network_chunks else 0
    features = torch.full((count, n_features), torch.nan)
    for chunk in posteriors.network_chunks:
        rows = chunk.rows[chunk.keep]
        block[rows] = chunk.window.block
        start[rows] = chunk.window.start.cpu()[chunk.keep]
        features[rows] = chunk.context.features.cpu()[chunk.keep]
    return NetworkView(features, block, start, batch.psf_fwhm[batch.psf_index].astype(float))
