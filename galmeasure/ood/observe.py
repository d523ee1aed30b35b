"""Residuals of a batch in the pixels of the network, collected for the out-of-distribution score."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from galmeasure.networks import Window, resize_stamps, width_in_blocks
from galmeasure.ood.residuals import ResidualFeatures, residual_features
from galmeasure.ood.typical import Observed
from galmeasure.parameters import N_PARAMETERS, PARAMETER_INDEX

if TYPE_CHECKING:
    from galmeasure.cutouts.batches import CutoutBatch

__all__ = ["ResidualWatch"]


class ResidualWatch:
    """Collect what the score needs while the network's models of a batch are rendered.

    Parameters
    ----------
    batch : CutoutBatch
        Cutouts in units of their noise.

    Attributes
    ----------
    values : ndarray
        Posterior means in pixels of the stamps, shape ``(B, 7)``; NaN where there are none.
    """

    def __init__(self, batch: "CutoutBatch") -> None:
        count = len(batch)
        self.values = np.full((count, N_PARAMETERS), np.nan)
        self._fwhm = batch.psf_fwhm[batch.psf_index].astype(float)
        self._block = np.ones(count, dtype=np.int64)
        self._start = torch.zeros((count, 2), dtype=torch.int64)
        self._snr = torch.full((count,), torch.nan, dtype=torch.float64)
        self._features = self._statistics = self._moments = None

    def begin(self, chunks: Iterable[Any]) -> Callable[..., None]:
        """Take the encoded chunks of a batch, and return the method `see`."""
        for chunk in chunks:
            rows = chunk.rows[chunk.keep]
            self.values[rows] = chunk.window.to_stamp(chunk.summary.mean).cpu().numpy()[chunk.keep]
            self._block[rows] = chunk.window.block
            self._start[rows] = chunk.window.start.cpu()[chunk.keep]
            features = chunk.context.features.cpu()[chunk.keep]
            if self._features is None:
                self._features = torch.full((len(self.values), features.shape[1]), torch.nan)
            self._features[rows] = features
        return self.see

    def see(
        self, rows: npt.NDArray[np.int64], residual: Tensor, good: Tensor, snr: Tensor, values: Tensor | None = None
    ) -> None:
        """Take residuals.

        Parameters
        ----------
        rows : ndarray of int64
            Positions in the batch, ``P`` of them.
        residual : Tensor
            Image minus model over noise, shape ``(P, ny, nx)``.
        good : Tensor
            Boolean of the same shape, True for good pixels.
        snr : Tensor
            Signal-to-noise ratio of the models, shape ``(P,)``.
        values : Tensor, optional
            Parameters of the models in pixels of the stamps, shape ``(P, 7)``, where they are not the network's means.
        """
        if values is not None:
            self.values[rows] = values.cpu().numpy()
        blocks = self._block[rows]
        for block in np.unique(blocks).tolist():
            features = self._features_of(rows, residual, good, block)
            chosen = np.flatnonzero(blocks == block)
            self._put(rows[chosen], features[torch.from_numpy(chosen).to(residual.device)])
        self._snr[rows] = snr.double().cpu()

    def observed(self) -> Observed:
        """Return the quantities of the batch from which its score follows."""
        size = torch.from_numpy(self.values[:, PARAMETER_INDEX["r_eff"]] / self._fwhm)
        if self._statistics is None:
            empty = torch.full((len(size), 0), torch.nan)
            return Observed(torch.full_like(size, torch.nan), size, ResidualFeatures(empty, empty), empty)
        return Observed(self._snr, size, ResidualFeatures(self._statistics, self._moments), self._features)

    def _features_of(self, rows, residual, good, block):
        """Features of residuals, all of them seen in blocks of one size."""
        device = residual.device
        window = Window(self._start[rows].to(device), block)
        noise = residual.new_ones((1, 1, 1))
        index = torch.zeros(len(rows), dtype=torch.int64, device=device)
        seen = resize_stamps(residual, noise, good, None, residual.new_zeros((1, 1, 1)), index, window)
        values = window.from_stamp(torch.from_numpy(self.values[rows]).to(device))
        fwhm = torch.from_numpy(width_in_blocks(self._fwhm[rows], block)).to(device)
        return residual_features((seen.image / seen.error) * seen.good, seen.good, values, fwhm)

    def _put(self, rows, features):
        if self._statistics is None:
            count = len(self.values)
            self._statistics = torch.full((count, features.statistics.shape[1]), torch.nan)
            self._moments = torch.full((count, features.moments.shape[1]), torch.nan)
        self._statistics[rows] = features.statistics.cpu()
        self._moments[rows] = features.moments.cpu()
