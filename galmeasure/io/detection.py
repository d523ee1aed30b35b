"""Detection of sources in an image, with photutils: background, segments, deblending."""

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from galmeasure.exceptions import CatalogError

__all__ = ["Detections", "detect_sources"]


@dataclass(frozen=True)
class Detections:
    """Sources found in an image.

    Attributes
    ----------
    data : ndarray
        Image without its background, float32.
    background_rms : ndarray
        Standard deviation of the background a pixel, float32.
    segmentation : ndarray
        Label of the source of each pixel, 0 for none.
    positions : ndarray
        Shape (N, 2): centroids x, y.
    labels : ndarray
        Shape (N,): labels of the sources.
    """

    data: np.ndarray
    background_rms: np.ndarray
    segmentation: np.ndarray
    positions: np.ndarray
    labels: np.ndarray


def detect_sources(
    image: npt.ArrayLike,
    *,
    mask: npt.ArrayLike | None = None,
    threshold: float = 1.5,
    n_pixels: int = 8,
    box_size: int = 64,
    deblend: bool = True,
    may_be_empty: bool = False,
) -> Detections:
    """Find sources in an image.

    Parameters
    ----------
    image : array_like
        Image with two axes.
    mask : array_like of bool, optional
        True for bad pixels; those that are not finite are bad as well.
    threshold : float, optional
        Level over the background in its standard deviations, in the image smoothed with a Gaussian of
        3 pixels FWHM.
    n_pixels : int, optional
        Fewest connected pixels over the threshold.
    box_size : int, optional
        Side of the boxes in which the background is estimated.
    deblend : bool, optional
        Separate sources that touch.
    may_be_empty : bool, optional
        Whether an image without sources is no error.

    Returns
    -------
    Detections
        The sources, the segmentation and the background.

    Raises
    ------
    CatalogError
        If there is no background to be seen, or no source.
    """
    from astropy.convolution import convolve
    from photutils.background import Background2D
    from photutils.segmentation import deblend_sources, make_2dgaussian_kernel
    from photutils.segmentation import detect_sources as detect_segments

    data = np.asarray(image, dtype=np.float32)
    bad = ~np.isfinite(data) if mask is None else ~np.isfinite(data) | np.asarray(mask, dtype=bool)
    box = [min(box_size, n) for n in data.shape]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            background = Background2D(data, box, mask=bad, exclude_percentile=90.0)
        except ValueError as err:
            msg = f"image: the background cannot be estimated: {err}"
            raise CatalogError(msg) from err
        data = np.where(bad, data, data - background.background).astype(np.float32)
        rms = background.background_rms.astype(np.float32)
        smooth = convolve(np.where(bad, 0.0, data), make_2dgaussian_kernel(3.0, size=5), boundary="extend")
        segments = detect_segments(smooth, threshold * rms, n_pixels, mask=bad)
        if segments is not None and deblend:
            segments = deblend_sources(smooth, segments, n_pixels, progress_bar=False)
    if segments is None and may_be_empty:
        return Detections(data, rms, np.zeros(data.shape, dtype=np.int32), np.zeros((0, 2)), np.zeros(0, dtype=int))
    if segments is None:
        msg = f"image: no source with {n_pixels} pixels over {threshold} standard deviations of the background"
        raise CatalogError(msg)
    positions = _centroids(np.where(bad, 0.0, data), segments.data, segments.labels)
    return Detections(data, rms, segments.data, positions, np.asarray(segments.labels))


def _centroids(data, segmentation, labels):
    from scipy import ndimage

    weights = np.maximum(data, 0.0) + 1e-12
    centres = ndimage.center_of_mass(weights, segmentation, labels)
    return np.array(centres, dtype=float).reshape(-1, 2)[:, ::-1]
