"""Residuals of a network's models in the network's own pixels, as the out-of-distribution score needs them."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from galmeasure.networks import Window, resize_stamps, width_in_blocks
from galmeasure.ood.reference import OODInputs
from galmeasure.ood.residuals import ResidualFeatures, residual_features
from galmeasure.parameters import PARAMETER_INDEX
from galmeasure.utils.chunks import chunk_size

__all__ = ["NetworkView", "ood_inputs"]


@dataclass(frozen=True)
class NetworkView:
    """Windows through which a network has seen the rows of a batch, and what its encoder says of them.

    Parameters
    ----------
    features : Tensor
        Features of the encoder, shape ``(B, F)``; NaN where there is no measurement.
    block : ndarray of int64
        Pixels of the stamp along each side of one of the network's, shape ``(B,)``.
    start : Tensor
        Pixel of the stamp, y and x, with which the window begins, int64, shape ``(B, 2)``.
    fwhm : ndarray
        Full width at half maximum of each row's PSF, pixel response included, in pixels of the stamp, shape ``(B,)``.
    """

    features: torch.Tensor
    block: NDArray[np.int64]
    start: torch.Tensor
    fwhm: NDArray[np.float64]


def ood_inputs(
    view: NetworkView, values: NDArray[np.float64], snr: torch.Tensor, residual: torch.Tensor, good: torch.Tensor
) -> OODInputs:
    """Describe the residuals of models, as an input of the out-of-distribution score.

    Parameters
    ----------
    view : NetworkView
        Windows through which the network has seen the stamps.
    values : ndarray
        Parameters of the models in pixels of the stamps, shape ``(B, 7)``; NaN where there is no measurement.
    snr : Tensor
        Signal-to-noise ratio of the models, shape ``(B,)``; NaN where there is none.
    residual : Tensor
        Image minus model over the noise, 0 where bad, shape ``(B, ny, nx)``.
    good : Tensor
        Good pixels, boolean, shape ``(B, ny, nx)``.

    Returns
    -------
    OODInputs
        Numbers of all rows, on the CPU; NaN where there is no measurement.
    """
    count, device = len(values), residual.device
    size = torch.from_numpy(values[:, PARAMETER_INDEX["r_eff"]] / view.fwhm)
    measured = np.flatnonzero(np.isfinite(values).all(axis=1) & torch.isfinite(snr).cpu().numpy())
    statistics = moments = torch.full((count, 0), torch.nan)
    is_moved = view.start.any(1).numpy()  # windows that begin elsewhere than their stamps cost copies of the pixels
    kinds = np.stack([view.block, is_moved], 1)[measured]
    for block, moved in np.unique(kinds, axis=0).tolist():
        members = measured[(kinds == (block, moved)).all(axis=1)]
        for start in range(0, len(members), chunk_size("network stamps", device.type)):
            rows = members[start : start + chunk_size("network stamps", device.type)]
            index = torch.from_numpy(rows).to(device)
            features = _features(view, rows, values, residual[index], good[index], block)
            if not statistics.shape[1]:
                statistics, moments = (
                    torch.full((count, columns.shape[1]), torch.nan)
                    for columns in (features.statistics, features.moments)
                )
            statistics[rows] = features.statistics.cpu()
            moments[rows] = features.moments.cpu()
    return OODInputs(snr.double().cpu(), size, ResidualFeatures(statistics, moments), view.features)


def _features(view, rows, values, residual, good, block):
    """Features of the residuals of some rows, all of them seen in blocks of one size."""
    device = residual.device
    window = Window(view.start[rows].to(device), block)
    index = torch.zeros(len(rows), dtype=torch.int64, device=device)
    no_psf, unit = residual.new_zeros((1, 1, 1)), residual.new_ones((1, 1, 1))
    inputs = resize_stamps(residual, unit, good, None, no_psf, index, window)
    in_window = window.from_stamp(torch.from_numpy(values[rows]).to(device))
    fwhm = torch.from_numpy(width_in_blocks(view.fwhm[rows], block)).to(device)
    return residual_features((inputs.image / inputs.error) * inputs.good, inputs.good, in_window, fwhm)
