"""Small galaxies in crops of their stamps: their models cost a third, and nothing is lost beyond the crop."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from galmeasure.cutouts.batches import CutoutBatch
from galmeasure.utils.compiled import compiled_module
from galmeasure.utils.progress import BatchProgress

__all__ = ["CROPS", "Crop", "crop_sides", "rows_of"]

CROPS = (32, 48)
"""Sides of the crops, pixels."""

_LOOPS = "galmeasure.fitters.compiled_crops"
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


def rows_of(batch: CutoutBatch, rows: NDArray[np.int64], planes: Mapping[str, NDArray] | None = None) -> CutoutBatch:
    """Batch of some rows, in their order.

    Parameters
    ----------
    batch : CutoutBatch
        Cutouts in units of their noise.
    rows : ndarray of int64
        Positions in the batch.
    planes : mapping, optional
        Arrays ``image``, ``error`` and ``good`` of these rows, where they are not those of the batch.

    Returns
    -------
    CutoutBatch
        With all the PSFs.
    """
    parts = {name: getattr(batch, name)[rows] for name in ("index", "flags", "shape", "scale", "psf_index")}
    if planes is None:
        error = batch.error if len(batch.error) == 1 else batch.error[rows]
        planes = {"image": batch.image[rows], "good": batch.good[rows], "error": error}
    parts["gain"] = None if batch.gain is None else batch.gain[rows]
    return replace(batch, progress=BatchProgress(), **parts, **planes)


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
        loops = compiled_module(_LOOPS)
        if loops is not None and min(batch.image.shape[1:]) >= side:
            return cls._compiled(loops, side, batch, rows, centre)
        whole = rows_of(batch, rows)
        start = _starts(side, whole.image.shape[1:], centre)
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

    @classmethod
    def _compiled(cls, loops, side, batch, rows, centre):
        """Cut squares by compiled loops, without copies of whole stamps."""
        start = np.ascontiguousarray(_starts(side, batch.image.shape[1:], centre))
        count, shape = len(rows), (len(rows), side, side)
        is_map = batch.error.shape[1:] != (1, 1)
        residual, chi2 = np.empty((count, *batch.image.shape[1:]), np.float32), np.empty(count)
        image, good, n_pixels = np.empty(shape, np.float32), np.empty(shape, bool), np.empty(count, np.int64)
        error = np.empty(shape if is_map else (0, 1, 1), np.float32)
        pixels = map(np.ascontiguousarray, (batch.image, batch.error, batch.good))
        loops.cut_squares(*pixels, rows, start, side, residual, image, error, good, chi2, n_pixels)
        if not is_map:
            error = batch.error if len(batch.error) == 1 else batch.error[rows]
        cut = rows_of(batch, rows, {"image": image, "good": good, "error": error})
        cut = replace(cut, shape=np.full_like(cut.shape, side))
        return cls(side, cut, rows, start, residual, chi2, n_pixels)

    def whole(self, local: NDArray[np.int64], residual: Tensor) -> Tensor:
        """Residuals of whole stamps, and their good pixels, from those of the crops ``local``."""
        loops = compiled_module(_LOOPS, residual)
        if loops is not None and min(self.residual.shape[1:]) >= self.side:
            whole = np.empty((len(local), *self.residual.shape[1:]), np.float32)
            loops.put_squares(self.residual, local, self.start[local], residual.contiguous().numpy(), whole)
            return torch.from_numpy(whole)
        stamps = torch.from_numpy(self.residual[local]).to(residual.device)
        for row, (y, x) in enumerate(self.start[local]):
            stamps[row, y : y + self.side, x : x + self.side] = residual[
                row, : stamps.shape[1] - y, : stamps.shape[2] - x
            ]
        return stamps


def _starts(side, shape, centre):
    """Pixel, y and x, with which squares about centres ``(K, 2)``, x and y, begin on stamps of a shape."""
    room = np.maximum(np.array(shape) - side, 0)
    return np.clip(np.round(centre[:, ::-1] - (side - 1) / 2.0).astype(np.int64), 0, room)
