"""Batches of cutouts for the fitters: scaled to unit noise, bad pixels masked, everything vectorised over a batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from galmeasure.cutouts.border_noise import border_noise, masked_median
from galmeasure.cutouts.noise import error_values
from galmeasure.flags import Flag
from galmeasure.parameters import N_PARAMETERS
from galmeasure.utils.chunks import rows_per_chunk
from galmeasure.utils.compiled import compiled_module
from galmeasure.utils.progress import BatchProgress

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from galmeasure.cutouts.validate import Store

__all__ = ["CutoutBatch", "PAD_MULTIPLE", "make_batch", "plan_batches"]

PAD_MULTIPLE = 16
"""Cutouts of unequal shapes are padded to multiples of this many pixels."""

_MAX_RATIO = 1e9
_MAX_PIXEL = 1e12
_SCALE_RANGE = (1e-140, 1e140)
_GAIN_RANGE = (1e-30, 1e30)


@dataclass(frozen=True)
class CutoutBatch:
    """Cutouts of one (padded) shape, ready to become tensors.

    Parameters
    ----------
    index : ndarray of int64, shape (B,)
        Rows of the :class:`~galmeasure.Cutouts`.
    flags : ndarray of int64, shape (B,)
        Quality bits found so far; rows with ``Flag.FAILED`` have no good pixel.
    image : ndarray of float32, shape (B, ny, nx)
        Pixel values in units of ``scale``; 0 where bad.
    error : ndarray of float32, broadcasts to ``image``
        Noise in units of ``scale``; 1 where bad.
    good : ndarray of bool, shape (B, ny, nx)
        True for pixels that are used.
    shape : ndarray of int64, shape (B, 2)
        True ny, nx; pixels beyond are padding.
    scale : ndarray of float64, shape (B,)
        Units of the input per unit of the batch: the median error of the good pixels, 1 for failed rows.
    gain : ndarray of float64, shape (B,), or None
        Electrons per unit of the batch.
    psf : tuple of ndarray
        Distinct PSFs of the batch, normalised.
    psf_index : ndarray of int64, shape (B,)
        PSF of each row.
    psf_oversampling : int
        PSF pixels per cutout pixel.
    psf_fwhm : ndarray of float64
        Width of each of ``psf``, pixel response included, in pixels of the cutout; infinite or NaN if it has none.
    progress : BatchProgress, optional
        Counter of the rows that a fitter has done.
    """

    index: np.ndarray
    flags: np.ndarray
    image: np.ndarray
    error: np.ndarray
    good: np.ndarray
    shape: np.ndarray
    scale: np.ndarray
    gain: np.ndarray | None
    psf: tuple
    psf_index: np.ndarray
    psf_oversampling: int
    psf_fwhm: np.ndarray
    progress: BatchProgress = field(default_factory=BatchProgress, compare=False)

    def __len__(self):
        """Number of rows."""
        return len(self.index)


def plan_batches(
    shapes: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], max_pixels: int, *, pad: bool
) -> Iterator[tuple[npt.NDArray[np.int64], tuple[int, int]]]:
    """Divide rows into batches of one shape.

    Parameters
    ----------
    shapes : ndarray of int, shape (N, 2)
        ny, nx of the cutouts.
    rows : ndarray of int, shape (B,)
        Rows to divide, ascending.
    max_pixels : int
        Largest number of pixels of a batch; a batch has at least one row.
    pad : bool
        True to round shapes up to multiples of `PAD_MULTIPLE`.

    Yields
    ------
    rows : ndarray of int
        Rows of a batch.
    box : tuple of int
        ny, nx of the padded cutouts.
    """
    padded = -(-shapes[rows] // PAD_MULTIPLE) * PAD_MULTIPLE if pad else shapes[rows]
    if len(rows) == 0:
        return
    _, first, group = np.unique(padded, axis=0, return_index=True, return_inverse=True)
    group = group.reshape(-1)
    for kind in np.argsort(first, kind="stable"):
        members = rows[group == kind]
        ny, nx = (int(size) for size in padded[first[kind]])
        step = max(1, int(max_pixels) // (ny * nx))
        for start in range(0, len(members), step):
            yield members[start : start + step], (ny, nx)


def _plane(source, rows, box, dtype, fill):
    """Planes of a stack or of a list of 2-D arrays (B, ny, nx) of ``dtype``, padded with ``fill``, to be read only."""
    if isinstance(source, np.ndarray):
        contiguous = len(rows) and rows[-1] - rows[0] + 1 == len(rows)
        planes = source[rows[0] : rows[-1] + 1] if contiguous else source[rows]
        return planes != 0 if dtype is bool and planes.dtype != bool else np.asarray(planes, dtype=dtype)
    block = np.full((len(rows), *box), fill, dtype=dtype)
    for plane, row in zip(block, rows, strict=True):
        entry = source[row]
        if entry is not None:
            plane[: entry.shape[0], : entry.shape[1]] = entry != 0 if dtype is bool else entry
    return block


def _work_dtype(source, rows):
    """float32 where it holds the pixel values of these rows exactly, else float64."""
    kinds = {source.dtype} if isinstance(source, np.ndarray) else {source[row].dtype for row in rows}
    small = all(kind.itemsize <= (4 if kind.kind == "f" else 2) for kind in kinds)
    return np.float32 if small else np.float64


def _inside(shape, box):
    """Boolean (B, ny, nx): pixels that are not padding."""
    ny, nx = box
    inside_y = np.arange(ny)[None, :] < shape[:, :1]
    inside_x = np.arange(nx)[None, :] < shape[:, 1:]
    return inside_y[:, :, None] & inside_x[:, None, :]


def _error_block(errors, rows, box):
    """Error maps of the rows that have one: (positions among these, (B', ny, nx), unit of the maps), or None."""
    maps = errors.maps
    if maps is None:
        return None
    if isinstance(maps, np.ndarray):
        return slice(None), _plane(maps, rows, box, _work_dtype(maps, rows), 1.0), errors.factor
    have = np.flatnonzero([maps[row] is not None for row in rows])
    if len(have) == 0:
        return None
    block = np.ones((len(have), *box))
    for plane, row in zip(block, rows[have], strict=True):
        values = error_values(*maps[row])
        plane[: values.shape[0], : values.shape[1]] = values
    return have, block, 1.0


def _has_maps(errors, rows):
    """Test if any of the rows has an error map."""
    maps = errors.maps
    return maps is not None and (isinstance(maps, np.ndarray) or any(maps[row] is not None for row in rows))


def make_batch(store: Store, rows: npt.NDArray[np.int64], box: tuple[int, int]) -> CutoutBatch:
    """:class:`CutoutBatch` of some rows.

    Parameters
    ----------
    store : object
        Has ``images``, ``masks``, ``errors``, ``shapes``, ``gain``, ``bad_rows`` and ``psfs``.
    rows : ndarray of int64, shape (B,)
        Rows of the batch, ascending.
    box : tuple of int
        ny, nx of the batch.

    Returns
    -------
    CutoutBatch
        The batch; never raises because of pixel values.
    """
    shape = store.shapes[rows]
    flags = np.zeros(len(rows), dtype=np.int64)
    image, good = np.empty((len(rows), *box), dtype=np.float32), np.empty((len(rows), *box), dtype=bool)
    relative = None
    if _has_maps(store.errors, rows):
        relative = np.empty(image.shape, dtype=np.float32)
        if isinstance(store.errors.maps, list):  # of which some may be None
            relative[...] = 1.0
    scale, n_good = np.empty(len(rows)), np.empty(len(rows), dtype=np.int64)
    step = rows_per_chunk("prepared pixels", box[0] * box[1])
    with np.errstate(all="ignore"):
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            maps = None if relative is None else relative[part]
            scale[part], n_good[part] = _prepare(
                store, rows[part], box, shape[part], flags[part], image[part], good[part], maps
            )
        gain = None if store.gain is None else np.clip(store.gain[rows] * scale, *_GAIN_RANGE)
    flags[_many_masked(good, n_good, shape)] |= Flag.MANY_MASKED
    flags[store.psfs.unusual(store.shapes, rows)] |= Flag.PSF_UNUSUAL
    failed = ~np.isfinite(scale) | store.bad_rows[rows] | (n_good <= N_PARAMETERS)
    return _assemble(store, rows, flags, failed, image, relative, good, shape, scale, gain)


def _prepare(store, rows, box, shape, flags, image, good, relative):
    """(scale, number of good pixels) of a few rows, (B,); ``flags``, ``image``, ``good``, ``relative`` are filled."""
    loops = compiled_module("galmeasure.cutouts.compiled")
    pixels = _plane(store.images, rows, box, _work_dtype(store.images, rows), 0.0)
    n_unmasked = box[0] * box[1]
    is_padded = not (shape == box).all()
    good[...] = _inside(shape, box) if is_padded else True
    for source in store.masks:
        good &= ~_plane(source, rows, box, bool, False)
    if store.masks or is_padded:
        n_unmasked = _number(good)
    if loops is None:
        good &= np.isfinite(pixels)
    else:
        pixels = np.ascontiguousarray(pixels)
        if relative is not None or store.errors.estimate[rows].any():  # pixels are checked when they are scaled, too
            loops.mark_finite(pixels, good.view(np.uint8))
    sigma = _noise(store, rows, box, pixels, good, relative, shape, flags)
    scale = np.where((sigma >= _SCALE_RANGE[0]) & (sigma <= _SCALE_RANGE[1]), sigma, np.nan)
    if loops is None:
        _scale(pixels, scale, image, good)
        n_good = _number(good)
        np.copyto(image, 0.0, where=~good)
    else:
        n_good = np.empty(len(rows), dtype=np.int64)
        loops.scale_pixels(pixels, scale, _MAX_PIXEL, good.view(np.uint8), image, n_good)
    flags[n_good < n_unmasked] |= Flag.NONFINITE_PIXELS
    return scale, n_good


def _number(flags):
    """Number of pixels (B,) that are True."""
    loops = compiled_module("galmeasure.cutouts.compiled")
    if loops is None:
        return np.count_nonzero(flags.reshape(len(flags), -1), axis=1)
    number = np.empty(len(flags), dtype=np.int64)
    loops.count_good(flags.view(np.uint8), number)
    return number


def _noise(store, rows, box, image, good, relative, shape, flags):
    """Median error (B,); ``relative`` becomes the errors over it, and pixels without a valid one are not ``good``."""
    errors = store.errors
    sigma = errors.values[rows].copy()
    sigma[~(np.isfinite(sigma) & (sigma > 0))] = np.nan
    estimate = errors.estimate[rows]
    if estimate.any():
        estimate = slice(None) if estimate.all() else estimate  # which copies nothing
        sigma[estimate] = border_noise(image[estimate], good[estimate], shape[estimate])
        flags[estimate] |= Flag.ERROR_ESTIMATED
    maps = _error_block(errors, rows, box)
    if maps is None:
        return sigma
    have, block, factor = maps
    loops = compiled_module("galmeasure.cutouts.compiled")
    if loops is not None:
        valid, ratio, median = good[have], relative[have], np.empty(len(block))
        loops.relative_errors(np.ascontiguousarray(block), _MAX_RATIO, valid.view(np.uint8), ratio, median)
        if not isinstance(have, slice):  # else these are views
            good[have], relative[have] = valid, ratio
        sigma[have] = median * factor
        return sigma
    valid = np.isfinite(block)
    valid &= block > 0
    valid &= good[have]
    median = masked_median(block.reshape(len(block), -1), valid.reshape(len(block), -1))
    wide = block.astype(np.float64)  # so that equal values come out alike
    wide /= median[:, None, None]
    ratio = wide.astype(np.float32)
    valid &= ratio < _MAX_RATIO
    valid &= ratio > 1.0 / _MAX_RATIO
    np.copyto(ratio, 1.0, where=~valid)
    good[have], relative[have] = valid, ratio
    sigma[have] = median * factor
    return sigma


def _scale(pixels, scale, image, good):
    """Fill ``image`` with the pixels over their scale; those that no float32 sum could hold are not ``good``.

    The product is double precision whatever the type of the pixels, so that equal values come out alike.
    """
    wide = pixels.astype(np.float64)
    wide *= np.where(np.isfinite(scale), 1.0 / scale, 0.0)[:, None, None]
    image[...] = wide
    good &= np.abs(image) < _MAX_PIXEL


def _many_masked(good, n_good, shape):
    """Boolean (B,): more than half of the pixels, or all of the central 3 x 3, are bad."""
    is_mostly_masked = 2 * n_good < shape.prod(axis=1)
    if (shape == shape[0]).all():
        y, x = (shape[0] - 1) // 2
        return is_mostly_masked | ~good[:, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].any(axis=(1, 2))
    centre = np.zeros(len(good), dtype=bool)
    rows = np.arange(len(good))
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            y = np.clip((shape[:, 0] - 1) // 2 + dy, 0, shape[:, 0] - 1)
            x = np.clip((shape[:, 1] - 1) // 2 + dx, 0, shape[:, 1] - 1)
            centre |= good[rows, y, x]
    return is_mostly_masked | ~centre


def _assemble(store, rows, flags, failed, image, relative, good, shape, scale, gain):
    """The batch, with failed rows emptied."""
    flags[failed] |= Flag.FAILED
    scale = np.where(failed, 1.0, scale)
    good[failed] = False
    image[failed] = 0.0
    if relative is None:
        relative = np.ones((len(rows), 1, 1), dtype=np.float32)
    else:
        relative[failed] = 1.0
    if gain is not None:
        gain = np.where(failed, 1.0, gain)
    kinds, psf_index = np.unique(store.psfs.index[rows], return_inverse=True)
    psf = tuple(store.psfs.images[kind] for kind in kinds)
    return CutoutBatch(
        rows, flags, image, relative, good, shape, scale, gain, psf, psf_index.reshape(-1), store.psfs.oversampling,
        store.psfs.fwhm[kinds],
    )  # fmt: skip
