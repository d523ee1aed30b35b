"""PSF images made fit for use: bad pixels filled, the pixel's response added, and the image that stands for none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from galmeasure.utils.compiled import compiled_module

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["DELTA_OVERSAMPLING", "convolve_with_pixel", "delta_psf", "fill_bad_pixels"]

DELTA_OVERSAMPLING = 7
"""Samples in a pixel of the image that stands for no PSF; odd, so that one lies at the centre."""

_MAX_FILLED = 0.005  # fraction of the light in bad pixels beyond which nothing is left to fill them from


def fill_bad_pixels(
    images: list[npt.NDArray[np.float64]] | npt.NDArray[np.float64],
) -> tuple[list[npt.NDArray[np.float64]] | npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Fill the few bad pixels of PSF images.

    A pixel that is not finite takes the value of the one opposite to it, or, if that is bad too, the value of the
    nearest good pixel, falling with the third power of the radius as the wings of PSFs do.

    Parameters
    ----------
    images : list of ndarray, or ndarray
        PSF images, M of them, of one shape ``(py, px)`` or of several.

    Returns
    -------
    images : list of ndarray, or ndarray
        Given images, float64 copies of those that were filled; an image stays as it is if more than 0.5 % of its
        light would be invented. A list if any was filled.
    filled : ndarray of bool, shape (M,)
        True for images that were filled.
    """
    filled, result = np.zeros(len(images), dtype=bool), images
    for i in np.flatnonzero(_may_be_bad(images)):
        good = np.isfinite(images[i])
        if good.all() or not good.any():
            continue
        whole = _filled(np.where(good, images[i], 0.0).astype(np.float64), good)
        with np.errstate(all="ignore"):
            share = np.abs(whole[~good]).sum() / whole.sum()
        if 0.0 <= share <= _MAX_FILLED:
            result = list(images) if result is images else result
            result[i], filled[i] = whole, True
    return result, filled


def _may_be_bad(images):
    """Test which images may have a pixel that is not finite, (M,)."""
    loops = compiled_module("galmeasure.psf.compiled")
    if loops is not None and isinstance(images, np.ndarray) and images.dtype in (np.float32, np.float64):
        bad = np.empty(len(images), dtype=bool)
        loops.has_bad_pixels(np.ascontiguousarray(images), bad)
        return bad
    with np.errstate(all="ignore"):
        return ~np.isfinite([np.sum(image, dtype=np.float64) for image in images])


def _filled(image, good):
    """Fill an image in place, and give it back."""
    opposite, has_opposite = image[::-1, ::-1].copy(), good[::-1, ::-1]
    y, x = (np.arange(n) - 0.5 * (n - 1) for n in image.shape)
    radius = np.hypot(y[:, None], x)
    near = tuple(ndimage.distance_transform_edt(~good, return_distances=False, return_indices=True))
    with np.errstate(all="ignore"):
        fall = np.minimum(1.0, (radius[near] / radius) ** 3)
    guess = np.where(has_opposite, opposite, image[near] * np.where(radius > 0, fall, 1.0))
    image[~good] = guess[~good]
    return image


def convolve_with_pixel(image: npt.NDArray[np.float64], oversampling: int = 1) -> npt.NDArray[np.float64]:
    """Convolve a PSF image with the response of a native pixel, a square over which it is averaged.

    Parameters
    ----------
    image : ndarray
        Samples of the PSF without the pixel's response, shape ``(..., py, px)``.
    oversampling : int, optional
        Samples along the side of a native pixel.

    Returns
    -------
    ndarray
        Float64, of the same shape. The average is exact for well sampled images, and the centre does not move.
    """
    margin = 2 * int(oversampling)
    borders = [(0, 0)] * (np.ndim(image) - 2) + [(margin, margin)] * 2
    padded = np.pad(np.asarray(image, dtype=np.float64), borders, mode="edge")  # the wings go on beyond the edge
    ny, nx = padded.shape[-2:]
    response = np.sinc(oversampling * np.fft.fftfreq(ny))[:, None] * np.sinc(oversampling * np.fft.rfftfreq(nx))
    with np.errstate(all="ignore"):
        padded = np.fft.irfft2(np.fft.rfft2(padded) * response, s=(ny, nx))
    return padded[..., margin:-margin, margin:-margin]


def delta_psf() -> npt.NDArray[np.float64]:
    """Return the image for no PSF: the square of a pixel at `DELTA_OVERSAMPLING` samples per pixel, with sum 1."""
    image = np.zeros((3 * DELTA_OVERSAMPLING, 3 * DELTA_OVERSAMPLING))
    image[DELTA_OVERSAMPLING : 2 * DELTA_OVERSAMPLING, DELTA_OVERSAMPLING : 2 * DELTA_OVERSAMPLING] = 1.0
    return image
