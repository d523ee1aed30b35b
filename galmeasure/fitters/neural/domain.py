"""Whether galaxies lie in the domain that a network was trained on, and by how much their errors grow where not."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from galmeasure.cutouts.batches import CutoutBatch
from galmeasure.fitters.base import BatchMeasurement
from galmeasure.networks import NATIVE_SIZE, PosteriorSummary
from galmeasure.networks.base import MEDIAN, ONE_SIGMA_HIGH, ONE_SIGMA_LOW
from galmeasure.parameters import N_PARAMETERS, SERSIC

__all__ = ["beyond_domain", "data_snr", "piled_up", "widen"]

_G1, _G2 = SERSIC.indices("g1", "g2")
_POSITIVE = list(SERSIC.indices("flux", "n", "r_eff"))
_PIXEL = 8.0 * math.log(2.0) / 12.0  # squared FWHM that a pixel adds
_NEAR = 0.35
_WIDE = 0.25  # of a range: wider posteriors near an edge follow the prior, and the data do not point beyond
_SNR_MARGIN = 1.0  # the noise of a signal-to-noise ratio
_MARGIN = 0.05
_UNDERSAMPLED = 3.0  # FWHM in pixels below which PSFs are measured too wide: a Moffat profile of 2.2 pixels by 8 %
_UNDERSAMPLED_MARGIN = 0.1
_NARROW_MARGIN = 0.25  # widths of under-sampled PSFs are only roughly known from their pixels
_STEEP = 8.0
_MIDDLE = (NATIVE_SIZE - 1) / 2.0


def piled_up(summary: PosteriorSummary, domain: Mapping[str, Any]) -> Tensor:
    """Tell if posteriors crowd at an edge of the domain: the truth may lie beyond.

    Parameters
    ----------
    summary : PosteriorSummary
        In the pixels of the network.
    domain : dict
        ``n``, ``r_eff``: bounds; ``g_max`` and ``centre``: largest values.

    Returns
    -------
    Tensor
        Boolean, shape ``(B,)``: the median is nearer to an edge than 0.35 times the width of the 68 % interval (of a
        Gaussian whose peak is at the edge it would be 0.55), and this interval is narrower than a quarter of the range.
    """
    low, middle, high = (summary.quantiles[:, level] for level in (ONE_SIGMA_LOW, MEDIAN, ONE_SIGMA_HIGH))
    reach = domain["centre"]
    edges = [("n", domain["n"], False), ("r_eff", domain["r_eff"], True)]
    edges += [(axis, (_MIDDLE - reach, _MIDDLE + reach), False) for axis in ("x", "y")]
    near_edge = torch.zeros(len(middle), dtype=torch.bool, device=middle.device)
    for name, (lower, upper), log in edges:
        column = SERSIC.index(name)
        q16, q50, q84 = (quantile[:, column].log() if log else quantile[:, column] for quantile in (low, middle, high))
        lower, upper = (math.log(lower), math.log(upper)) if log else (lower, upper)
        near = torch.minimum(q50 - lower, upper - q50) < _NEAR * (q84 - q16)
        near_edge |= near & (q84 - q16 < _WIDE * (upper - lower))
    g1, g2 = summary.mean[:, _G1], summary.mean[:, _G2]
    sigma = (0.5 * summary.covariance.diagonal(dim1=1, dim2=2)[:, SERSIC.slice("g1", "g2")].sum(1)).sqrt()
    near = domain["g_max"] - torch.hypot(g1, g2) < 2.0 * _NEAR * sigma
    return near_edge | (near & (sigma < _WIDE * domain["g_max"]))


def beyond_domain(
    snr: NDArray[np.float64],
    psf_fwhm: NDArray[np.float64],
    sides: NDArray[np.int64],
    block: NDArray[np.int64],
    domain: Mapping[str, Any],
    smallest: int,
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Which measurements lie beyond the domain, and by how much more their errors are then.

    Parameters
    ----------
    snr : ndarray
        Signal-to-noise ratios, shape ``(B,)``.
    psf_fwhm : ndarray
        Widths of the PSFs, pixel response included, pixels of the stamp.
    sides : ndarray of int
        Shorter side of each stamp.
    block : ndarray of int
        Pixels of the stamp along each side of the network's.
    domain : dict
        ``snr`` and ``psf_fwhm``: bounds.
    smallest : int
        Side of the smallest stamp of the training.

    Returns
    -------
    outside : ndarray of bool
        Shape ``(B,)``.
    growth : ndarray
        What the errors' factor is above 1, shape ``(B,)``: the natural logarithm of the ratio to the bound for a low
        signal-to-noise ratio, 8 times that for the PSF and for the stamp's side.

    Notes
    -----
    These numbers are what the pulls of simulated galaxies need, about, at a ratio of 200; there was no need to widen
    those of very bright ones. A PSF that is narrow in blocks of pixels does not count: blocks are smoothed as
    needed, and only galaxies much larger than them are seen in blocks.
    """
    with np.errstate(all="ignore"):
        width = np.sqrt(np.maximum(psf_fwhm**2 - _PIXEL, 0.01)) / block
        lack = np.clip(_UNDERSAMPLED - domain["psf_fwhm"][1], 0.0, 1.0)
        margin = _MARGIN + _UNDERSAMPLED_MARGIN * lack
        narrow = _excess(domain["psf_fwhm"][0] / width, _NARROW_MARGIN)
        shape = np.where(block == 1, narrow, 0.0) + _excess(width / domain["psf_fwhm"][1], margin)
        shape += _excess(smallest / sides)
        low, high = domain["snr"]
        faint = np.where(snr + _SNR_MARGIN < low, _excess(low / np.maximum(snr, 0.1)), 0.0)
        growth = _STEEP * np.where(np.isfinite(shape), shape, 1.0) + faint
        return (growth > 0.0) | (snr - _SNR_MARGIN > high), growth


def _excess(ratio, margin=0.0):
    """Logarithm of ratios above 1, 0 for others and for those within a margin."""
    return np.where(ratio > 1.0 + margin, np.log(np.maximum(ratio, 1.0)), 0.0)


def data_snr(batch: CutoutBatch, measurement: BatchMeasurement) -> NDArray[np.float64]:
    """Signal-to-noise ratio that the pixels have under the shapes of the models.

    A network of point estimates gives no flux below the least of its training, so that the ratio of its model says
    nothing of a galaxy that is fainter.

    Parameters
    ----------
    batch : CutoutBatch
        Cutouts in units of their noise.
    measurement : BatchMeasurement
        Measurement with the quality of its models.

    Returns
    -------
    ndarray
        ``sum(data * model / error**2) / sqrt(sum(model**2 / error**2))``, shape ``(B,)``; NaN where there is no model.
    """
    error = np.broadcast_to(batch.error, batch.image.shape)
    with np.errstate(all="ignore"):
        total = np.where(batch.good, batch.image / error, 0.0).astype(np.float64) ** 2
        chi2 = measurement.chi2_reduced * (measurement.n_pixels_fit - N_PARAMETERS)
        return 0.5 * (total.sum(axis=(1, 2)) - chi2 + measurement.snr**2) / measurement.snr


def widen(covariance: NDArray[np.float64], quantiles: NDArray[np.float64], factor: NDArray[np.float64]) -> None:
    """Multiply errors by a factor ``(B,)``, in place.

    Quantiles move away from the median: those of flux, n and r_eff, which are positive, in the logarithm.
    """
    covariance *= factor[:, None, None] ** 2
    middle = quantiles[:, [quantiles.shape[1] // 2]]
    wide = middle + factor[:, None, None] * (quantiles - middle)
    with np.errstate(all="ignore"):
        log_wide = middle * (quantiles / middle) ** factor[:, None, None]
    wide[:, :, _POSITIVE] = np.where(np.isfinite(log_wide), log_wide, wide)[:, :, _POSITIVE]
    quantiles[:] = wide
