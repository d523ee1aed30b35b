"""Small galaxies in crops of their stamps: their models cost a third, and nothing is lost beyond the crop."""

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from galmeasure.cutouts.batches import CutoutBatch
from galmeasure.utils.progress import BatchProgress

__all__ = ["CROPS", "Crop", "crop_sides", "rows_of"]

CROPS = (32, 48)
"""Sides of the crops, pixels."""

_EDGE = 2.0  # pixels between what must be seen of a galaxy and the edge of its crop
_WIDEST_PSF = 0.16  # FWHM, sides of the crop
_ROOM = 1.3  # side of a stamp, sides of the crop, from which a crop is worth it
_LOST, _LOST_SHARE = 1.0, 0.02  # signal-to-noise ratio beyond the crop, and over that of the galaxy
_SIGMA = 0.4247  # standard deviation over FWHM of a Gaussian


def crop_sides(values: Tensor, shapes: NDArray[np.int64], fwhm: Tensor) -> NDArray[np.int64]:
    """Choose the smallest crop that holds all that matters of each galaxy.

    Parameters
    ----------
    values : Tensor
        Parameters in pixels of the stamp and units of the noise of a pixel, shape ``(B, 7)``.
    shapes : ndarray
        ny, nx of each stamp, shape ``(B, 2)``.
    fwhm : Tensor
        Width of each PSF, in pixels, shape ``(B,)``.

    Returns
    -------
    ndarray of int
        Shape ``(B,)``: one of `CROPS`, or 0 for the whole stamp. The light of the profile beyond the crop has a
        signal-to-noise ratio below 1, and below a fiftieth of the galaxy's.
    """
    flux, n, r_eff, g1, g2, x, y = values.unbind(1)
    g = torch.hypot(g1, g2).clamp_max(0.95)
    major = r_eff * ((1.0 + g) / (1.0 - g)).sqrt()
    b = 2.0 * n - 1.0 / 3.0 + 4.0 / (405.0 * n)
    area = 4.0 * math.pi * (r_eff**2 + (_SIGMA * fwhm) ** 2)
    snr = flux.abs() / area.sqrt()
    sides = torch.from_numpy(np.asarray(shapes)).to(values.device)
    ny, nx = sides.unbind(1)
    inside = (x > 0) & (y > 0) & (x < nx - 1) & (y < ny - 1)
    chosen = np.zeros(len(values), dtype=np.int64)
    for crop in reversed(CROPS):
        inner = (0.5 * crop - _EDGE - 0.5 * fwhm).clamp_min(0.0)
        beyond = torch.special.gammaincc(2.0 * n, b * (inner / major.clamp_min(1e-3)) ** (1.0 / n))
        lost = beyond * (area / (sides.prod(1) - crop**2).clamp_min(1.0)).sqrt()
        fits = (lost * snr < _LOST) & (lost < _LOST_SHARE) & (fwhm < _WIDEST_PSF * crop) & inside
        fits &= sides.amin(1) > _ROOM * crop
        chosen[fits.cpu().numpy()] = crop
    return chosen


def rows_of(batch: CutoutBatch, rows: NDArray[np.int64]) -> CutoutBatch:
    """Batch of some rows, in their order.

    Parameters
    ----------
    batch : CutoutBatch
        Cutouts in units of their noise.
    rows : ndarray of int64
        Positions in the batch.

    Returns
    -------
    CutoutBatch
        With all the PSFs.
    """
    names = ("index", "flags", "image", "good", "shape", "scale", "psf_index")
    parts = {name: getattr(batch, name)[rows] for name in names}
    parts["error"] = batch.error if len(batch.error) == 1 else batch.error[rows]
    parts["gain"] = None if batch.gain is None else batch.gain[rows]
    return replace(batch, progress=BatchProgress(), **parts)


@dataclass(frozen=True)
class Crop:
    """Rows of a batch, cut to a square about their galaxies.

    Parameters
    ----------
    side : int
        Side of the crops, pixels.
    batch : CutoutBatch
        Batch that holds the crops.
    rows : ndarray of int64
        Positions in the whole batch, shape ``(K,)``.
    start : ndarray of int64
        Pixel of the stamp, y and x, with which each crop begins, shape ``(K, 2)``.
    residual : ndarray
        Whole stamps over their noise, 0 where bad, shape ``(K, ny, nx)``: residuals of a model that is nothing.
    chi2, n_pixels : ndarray
        Sum of squares of these beyond the crop, and all good pixels, shape ``(K,)``.
    """

    side: int
    batch: CutoutBatch
    rows: np.ndarray
    start: np.ndarray
    residual: np.ndarray
    chi2: np.ndarray
    n_pixels: np.ndarray

    @classmethod
    def of(cls, side: int, batch: CutoutBatch, rows: NDArray[np.int64], centre: NDArray[np.float64]) -> Self:
        """Cut squares of a side out of rows of a batch, about centres ``(K, 2)``, x and y in pixels of the stamp."""
        whole = rows_of(batch, rows)
        room = np.maximum(np.array(whole.image.shape[1:]) - side, 0)
        start = np.clip(np.round(centre[:, ::-1] - (side - 1) / 2.0).astype(np.int64), 0, room)
        steps = np.arange(side)
        row, column = (start[:, axis, None] + steps for axis in (0, 1))
        row, column = (
            np.minimum(pixel, limit - 1) for pixel, limit in zip((row, column), whole.image.shape[1:], strict=True)
        )
        pixels = np.arange(len(rows))[:, None, None], row[:, :, None], column[:, None, :]
        residual = np.where(whole.good, whole.image / whole.error, np.float32(0.0))
        error, shape = whole.error, np.full_like(whole.shape, side)
        if error.shape[1:] != (1, 1):
            error = np.broadcast_to(error, whole.image.shape)[pixels]
        cut = replace(whole, image=whole.image[pixels], good=whole.good[pixels], error=error, shape=shape)
        squares, inner = (
            np.square(over_noise, dtype=np.float64).sum((1, 2)) for over_noise in (residual, residual[pixels])
        )
        return cls(side, cut, rows, start, residual, squares - inner, whole.good.sum((1, 2)))

    def whole(self, local: NDArray[np.int64], residual: Tensor) -> Tensor:
        """Residuals of whole stamps, and their good pixels, from those of the crops ``local``."""
        stamps = torch.from_numpy(self.residual[local]).to(residual.device)
        for row, (y, x) in enumerate(self.start[local]):
            stamps[row, y : y + self.side, x : x + self.side] = residual[
                row, : stamps.shape[1] - y, : stamps.shape[2] - x
            ]
        return stamps
