"""PSF images: normalisation, width and centre, and finding equal ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from galmeasure.psf.wings import normalised_light
from galmeasure.utils.chunks import rows_per_chunk
from galmeasure.utils.compiled import compiled_module

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["NormalisedPSFs", "PSFStats", "find_equal", "normalise_psf", "psf_stats"]


@dataclass(frozen=True)
class PSFStats:
    """Properties of each PSF of a collection (M,): ``ok``, ``offset`` of the centroid and ``fwhm`` in native pixels."""

    ok: np.ndarray
    offset: np.ndarray
    fwhm: np.ndarray


@dataclass(frozen=True)
class NormalisedPSFs:
    """Normalised float64 copies of PSF images.

    ``images`` (M, ny, nx); ``outside`` (M,): the estimated fraction of the light beyond each image, or its uncertainty
    if that is larger.
    """

    images: np.ndarray
    outside: np.ndarray


def normalise_psf(
    stack: npt.NDArray[np.float64], oversampling: int = 1
) -> tuple[NormalisedPSFs, npt.NDArray[np.bool_]]:
    """Normalise a stack of PSF images, and test which of them can be used.

    A PSF image that has a non-finite pixel, or whose sum is not positive, cannot be used; it comes back as zeros.
    Others sum to 1 minus the flux missing beyond the image.
    """
    images, ok = np.empty((len(stack), *stack[0].shape)), np.zeros(len(stack), dtype=bool)
    outside = np.empty(len(stack))
    step = rows_per_chunk("PSF pixels", images[0].size)
    for start in range(0, len(images), step):
        rows = slice(start, start + step)
        images[rows] = stack[rows]
        light, ok[rows] = normalised_light(images[rows], oversampling)
        images[rows] *= 1.0 - light.fraction[:, None, None]
        outside[rows] = np.maximum(light.fraction, light.error)
    return NormalisedPSFs(images, outside), ok


def psf_stats(stack: npt.NDArray[np.float64], ok: npt.NDArray[np.bool_], oversampling: int = 1) -> PSFStats:
    """Measure centroids and widths of a stack of normalised PSF images.

    Parameters
    ----------
    stack : ndarray, shape (M, ny, nx)
        Normalised images of PSFs.
    ok : ndarray of bool, shape (M,)
        Images that can be used; others get NaN.
    oversampling : int, optional
        Image pixels per native pixel. Default 1.

    Returns
    -------
    PSFStats
        Offsets and widths in native pixels.
    """
    n_psf, ny, nx = stack.shape
    offset, fwhm = np.full(n_psf, np.nan), np.full(n_psf, np.nan)
    loops = compiled_module("galmeasure.psf.compiled")
    if loops is not None:
        loops.measure_shapes(np.ascontiguousarray(stack, dtype=np.float64), ok, offset, fwhm)
        return PSFStats(ok, offset / oversampling, fwhm / oversampling)
    y, x = np.arange(ny) - 0.5 * (ny - 1), np.arange(nx) - 0.5 * (nx - 1)
    rows = np.flatnonzero(ok)
    step = rows_per_chunk("PSF pixels", ny * nx)
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step]
        images = stack[chunk]
        index = images.reshape(len(chunk), -1).argmax(axis=1)
        peak = images.reshape(len(chunk), -1)[np.arange(len(chunk)), index]
        weight = np.maximum(images - 0.1 * peak[:, None, None], 0.0)
        norm = weight.sum(axis=(1, 2))
        norm = np.where(norm > 0, norm, 1.0)
        offset[chunk] = np.hypot(weight.sum(axis=1) @ x / norm, weight.sum(axis=2) @ y / norm) / oversampling
        along_x = _half_width(images[np.arange(len(chunk)), index // nx], index % nx)
        along_y = _half_width(images[np.arange(len(chunk)), :, index % nx], index // nx)
        fwhm[chunk] = 0.5 * (along_x + along_y) / oversampling
    return PSFStats(ok, offset, fwhm)


def _half_width(profiles, peak_index):
    """Full width at half maximum (B,) of profiles (B, P) around their peaks, interpolated as Gaussians; inf if none."""
    rows, n_pixels = np.arange(len(profiles)), profiles.shape[1]
    distance = np.arange(n_pixels)
    width = np.zeros(len(profiles))
    with np.errstate(all="ignore"):
        log_ratio = np.log(np.maximum(profiles / profiles[rows, peak_index][:, None], 1e-12))
        shift, half = _sub_pixel_peak(log_ratio, peak_index)
        half = half - np.log(2.0)
        for side in (1, -1):
            beyond = (log_ratio < half[:, None]) & (side * (distance - peak_index[:, None]) > 0)
            steps = np.where(beyond, side * (distance - peak_index[:, None]), n_pixels)
            outer = steps.min(axis=1)
            first = np.clip(peak_index + side * outer, 0, n_pixels - 1)
            low, high = log_ratio[rows, first], log_ratio[rows, np.clip(first - side, 0, n_pixels - 1)]
            far, near = (outer - side * shift) ** 2, (outer - 1 - side * shift) ** 2
            crossing = np.sqrt(np.maximum(near + (half - high) / (low - high) * (far - near), 0.0))
            width += np.where(outer < n_pixels, crossing, np.inf)
    return width


def _sub_pixel_peak(log_ratio, peak_index):
    """(shift from the peak pixel, log height) of the parabola through the peak and its neighbours, (B,) each."""
    rows, last = np.arange(len(log_ratio)), log_ratio.shape[1] - 1
    left = log_ratio[rows, np.maximum(peak_index - 1, 0)]
    right = log_ratio[rows, np.minimum(peak_index + 1, last)]
    curvature = left + right
    inside = (peak_index > 0) & (peak_index < last) & (curvature < 0)
    shift = np.where(inside, 0.5 * (left - right) / np.where(inside, curvature, -1.0), 0.0)
    return shift, -0.25 * (left - right) * shift


def find_equal(stack: npt.NDArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Find the distinct images of a stack: ``stack[i]`` equals ``stack[first[index[i]]]``.

    Parameters
    ----------
    stack : ndarray, shape (N, ny, nx)
        Images of any real type.

    Returns
    -------
    first : ndarray of int, shape (M,)
        Row of one image of each kind, ascending.
    index : ndarray of int, shape (N,)
        Kind of every row.
    """
    n_images = len(stack)
    if n_images == 1 or stack.strides[0] == 0:
        return np.zeros(1, dtype=np.int64), np.zeros(n_images, dtype=np.int64)
    flat = stack.reshape(n_images, -1)
    columns = np.unique(np.linspace(0, flat.shape[1] - 1, 64).astype(np.int64))
    sample = np.ascontiguousarray(flat[:, columns].astype(flat.dtype.newbyteorder("=")))
    keys = sample.view(np.dtype((np.void, sample.dtype.itemsize * sample.shape[1]))).ravel()
    _, first, index = np.unique(keys, return_index=True, return_inverse=True)
    index = index.reshape(-1)
    is_equal = np.ones(n_images, dtype=bool)  # the sample of pixels may agree where others differ
    others = np.flatnonzero(first[index] != np.arange(n_images))
    step = rows_per_chunk("PSF pixels", flat.shape[1])
    for start in range(0, len(others), step):
        rows = others[start : start + step]
        is_equal[rows] = (flat[rows] == flat[first[index[rows]]]).all(axis=1)
    alone = np.flatnonzero(~is_equal)
    first = np.concatenate([first, alone])
    index[alone] = len(first) - len(alone) + np.arange(len(alone))
    used, index = np.unique(first[index], return_inverse=True)
    return used.astype(np.int64), index.reshape(-1).astype(np.int64)
