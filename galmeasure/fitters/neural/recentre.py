"""Galaxies that are not in the middle of their stamps: where they are."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, maximum_filter

from galmeasure.cutouts.batches import CutoutBatch
from galmeasure.utils.chunks import rows_per_chunk

__all__ = ["centre_shifts", "off_middle", "seem_off_centre"]

_REACH, _WIDTH = 12, 4.0  # of the window about the middle, pixels
_FAINT = 3.0  # signal-to-noise ratio in this window below which a galaxy may be elsewhere
_AWAY = 1.5  # pixels from the middle
_CERTAIN = 3.0  # errors of a centroid
_KNOWN = 0.25  # pixels from the middle that networks which take the centre as known can bear

_SMOOTHING = 2.0  # sigma of the filter, pixels
_SIGNIFICANT = 5.0  # signal-to-noise ratio of the filtered image
_EXPECTED, _AT_MIDDLE = 3.0, 2.5  # that is enough so many pixels from the middle
_NEIGHBOURHOOD = 5  # side within which a maximum is one, pixels


def seem_off_centre(batch: CutoutBatch, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Decide which stamps are worth a search for their galaxy: a quick look at the middle.

    Parameters
    ----------
    batch : CutoutBatch
        Cutouts in units of their noise.
    rows : ndarray of int64
        Positions in the batch, ``K`` of them.

    Returns
    -------
    ndarray of bool
        Shape ``(K,)``: there is no significant light under a Gaussian of 4 pixels about the middle, or its centroid
        lies more than 1.5 pixels, and three errors, away.
    """
    distance, error, is_faint = _centroids(batch, rows)
    return is_faint | (distance - _AWAY > _CERTAIN * error)


def off_middle(batch: CutoutBatch, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell which galaxies are certainly not in the middle of their stamps.

    Parameters
    ----------
    batch : CutoutBatch
        Cutouts in units of their noise.
    rows : ndarray of int64
        Positions in the batch, ``K`` of them.

    Returns
    -------
    ndarray of bool
        Shape ``(K,)``: the centroid lies more than a quarter of a pixel, and three errors, away.
    """
    distance, error, _ = _centroids(batch, rows)
    return distance - _KNOWN > _CERTAIN * error


def _centroids(batch, rows):
    """Distance of centroids from the middle, their errors, and whether there is too little light for them."""
    steps = np.arange(-_REACH, _REACH + 1)
    index, distance = [], []
    for axis in (0, 1):
        middle = (batch.shape[rows, axis] - 1) / 2.0
        pixel = np.floor(middle).astype(np.int64)[:, None] + steps
        index.append(np.clip(pixel, 0, batch.shape[rows, axis, None] - 1))
        # pixels beyond the stamp repeat its last one, without weight
        distance.append(np.where(index[-1] == pixel, pixel - middle[:, None], np.inf))
    window = rows[:, None, None], index[0][:, :, None], index[1][:, None, :]
    good = batch.good[window]
    error = batch.error if batch.error.shape[1:] == (1, 1) else np.broadcast_to(batch.error, batch.image.shape)[window]
    error = error[rows] if error.shape[1:] == (1, 1) and len(error) > 1 else error
    weight = [np.exp(-0.5 * (pixels / _WIDTH) ** 2) for pixels in distance]
    weight = good * weight[0][:, :, None] * weight[1][:, None, :]
    light = weight * batch.image[window]
    noise = np.sqrt(np.square(weight * error).sum((1, 2)))
    total = light.sum((1, 2))
    with np.errstate(all="ignore"):
        offset = [np.where(np.isfinite(pixels), pixels, 0.0) for pixels in distance]
        y, x = (light.sum(2) * offset[0]).sum(1) / total, (light.sum(1) * offset[1]).sum(1) / total
        return np.hypot(x, y), _WIDTH * noise / np.abs(total), total < _FAINT * noise


def centre_shifts(batch: CutoutBatch, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find the source nearest to the middle of each stamp.

    Parameters
    ----------
    batch : CutoutBatch
        Cutouts in units of their noise.
    rows : ndarray of int64
        Positions in the batch, ``K`` of them.

    Returns
    -------
    ndarray of int64
        y, x of the source from the middle of the stamp, to a pixel, shape ``(K, 2)``; 0 where nothing is significant.

    Notes
    -----
    A source is a local maximum, of a signal-to-noise ratio of at least 5, of the image filtered with a Gaussian of
    2 pixels; in the middle itself, within 2.5 pixels, a ratio of 3 is enough, because something is expected there, and
    a bright neighbour is not what is to be measured.
    """
    shifts = np.zeros((len(rows), 2), dtype=np.int64)
    shapes, kind = np.unique(batch.shape[rows], axis=0, return_inverse=True)
    for number, (ny, nx) in enumerate(shapes.tolist()):
        members = np.flatnonzero(kind.reshape(-1) == number)
        step = rows_per_chunk("rendered stamps", ny * nx)
        for chosen in (members[start : start + step] for start in range(0, len(members), step)):
            shifts[chosen] = _shifts(batch, rows[chosen], ny, nx)
    return shifts


def _shifts(batch, rows, ny, nx):
    """The same for stamps of one shape."""
    inside = (rows, slice(ny), slice(nx))
    good = batch.good[inside]
    if batch.error.shape[1:] == (1, 1):
        error = batch.error if len(batch.error) == 1 else batch.error[rows]
    else:
        error = batch.error[inside] if len(batch.error) > 1 else batch.error[:, :ny, :nx]
    weight = np.where(good, 1.0 / error.astype(np.float64) ** 2, 0.0)
    image = np.where(good, batch.image[inside], 0.0)
    signal = gaussian_filter(image * weight, (0.0, _SMOOTHING, _SMOOTHING), mode="constant")
    # the filter's squared kernel is a kernel of width sigma / sqrt(2), times 1 / (4 pi sigma^2)
    width = _SMOOTHING / np.sqrt(2.0)
    power = gaussian_filter(weight, (0.0, width, width), mode="constant") / (4.0 * np.pi * _SMOOTHING**2)
    ratio = signal / np.sqrt(np.maximum(power, 1e-30))
    is_peak = ratio == maximum_filter(ratio, (1, _NEIGHBOURHOOD, _NEIGHBOURHOOD))
    stamp, y, x = np.nonzero(is_peak & (ratio > _EXPECTED))
    away = np.stack([y - (ny - 1) / 2.0, x - (nx - 1) / 2.0], 1)
    distance = np.hypot(*away.T)
    is_source = (ratio[stamp, y, x] > _SIGNIFICANT) | (distance < _AT_MIDDLE)
    stamp, away, distance = stamp[is_source], away[is_source], distance[is_source]
    order = np.lexsort((distance, stamp))
    stamp, first = np.unique(stamp[order], return_index=True)
    nearest = away[order[first]]
    shifts = np.zeros((len(rows), 2), dtype=np.int64)
    shifts[stamp] = np.trunc(nearest + 0.25 * np.sign(nearest)).astype(np.int64)
    return shifts
