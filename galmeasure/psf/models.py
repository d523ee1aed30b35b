"""PSF models of other packages turned into images: photutils, astropy, GalSim and PSFEx, none of them imported here."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from galmeasure.psf.images import find_equal

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["MODEL_OVERSAMPLING", "draw_models", "is_model", "is_position_model", "position_images"]

MODEL_OVERSAMPLING = 3
"""Image pixels per native pixel with which analytic PSF models are drawn; odd, so that a pixel lies at the centre."""

_MAX_DISTINCT = 1024
_SCALE_STEP = 0.002
_FOLDING = 1.0e-3


def is_galsim(psf: object) -> bool:
    """Test if ``psf`` is a GalSim object."""
    return hasattr(psf, "drawImage") and hasattr(psf, "withFlux")


def _is_astropy_model(psf):
    """Test if ``psf`` is an astropy (or photutils) model of two inputs."""
    return getattr(psf, "n_inputs", None) == 2 and callable(psf) and hasattr(psf, "param_names")


def is_position_model(psf: object) -> bool:
    """Test if ``psf`` depends on the position in the parent image: GriddedPSFModel, PSFEx."""
    return hasattr(psf, "grid_xypos") or hasattr(psf, "images_at") or hasattr(psf, "image_at")


def is_model(psf: object) -> bool:
    """Test if ``psf`` is one model that does not depend on the position."""
    return not isinstance(psf, np.ndarray) and not is_position_model(psf) and (is_galsim(psf) or _is_astropy_model(psf))


def position_images(
    psf: object, positions: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], int]:
    """Draw images of a position-dependent PSF.

    Parameters
    ----------
    psf : object
        GriddedPSFModel, or an object with ``images_at(positions)`` or ``image_at(x, y)``.
    positions : ndarray, shape (N, 2)
        x, y in the parent image.

    Returns
    -------
    images : ndarray, shape (M, py, px)
        Distinct images of the PSF.
    index : ndarray of int, shape (N,)
        Image of every position; -1 where the position is not finite.
    oversampling : int
        Image pixels per native pixel.
    """
    index = np.full(len(positions), -1, dtype=np.int64)
    finite = np.isfinite(positions).all(axis=1)
    if finite.any():
        distinct, index[finite] = _distinct_positions(positions[finite])
    else:
        distinct = np.zeros((1, 2))
    if hasattr(psf, "grid_xypos"):
        images, oversampling = _gridded_images(psf, distinct), _equal_pair(psf.oversampling)
    else:
        images = psf.images_at(distinct) if hasattr(psf, "images_at") else [psf.image_at(x, y) for x, y in distinct]
        images, oversampling = np.asarray(images, dtype=np.float64), _equal_pair(getattr(psf, "oversampling", 1))
        if images.ndim != 3 or len(images) != len(distinct):
            msg = f"psf must give one 2-D image per position, not an array of shape {images.shape}"
            raise ValueError(msg)
    return images, index, oversampling


def _distinct_positions(positions):
    """(distinct (M, 2), index (N,)): the positions, or the means over cells of a 32 x 32 grid if there are many."""
    if len(positions) <= _MAX_DISTINCT:
        distinct, index = np.unique(positions, axis=0, return_inverse=True)
        return distinct, index.reshape(-1)
    low, span = positions.min(axis=0), np.ptp(positions, axis=0)
    n_side = int(np.sqrt(_MAX_DISTINCT))
    cells = np.minimum((n_side * (positions - low) / np.where(span > 0, span, 1.0)).astype(np.int64), n_side - 1)
    _, index, count = np.unique(cells @ (1, n_side), return_inverse=True, return_counts=True)
    index = index.reshape(-1)
    distinct = np.stack([np.bincount(index, weights=positions[:, i]) / count for i in (0, 1)], axis=1)
    return distinct, index


def _gridded_images(model, positions):
    """Bilinear interpolation of the images of a GriddedPSFModel, constant outside of its grid."""
    from scipy.interpolate import RegularGridInterpolator

    data = np.asarray(model.data, dtype=np.float64)
    if len(data) == 1:
        return np.repeat(data, len(positions), axis=0)
    grid = np.asarray(model.grid_xypos, dtype=np.float64)
    x_axis, y_axis = np.unique(grid[:, 0]), np.unique(grid[:, 1])
    number = {(x, y): i for i, (x, y) in enumerate(grid)}
    images = data[np.array([[number[x, y] for x in x_axis] for y in y_axis])]
    axes = {0: y_axis, 1: x_axis}
    points = np.stack([np.clip(positions[:, 1], *y_axis[[0, -1]]), np.clip(positions[:, 0], *x_axis[[0, -1]])], axis=1)
    along = [i for i, axis in axes.items() if len(axis) > 1]  # nothing varies along an axis of one value
    images = images.squeeze(tuple(set(axes) - set(along)))
    return RegularGridInterpolator([axes[i] for i in along], images)(points[:, along])


def _equal_pair(oversampling):
    """One integer oversampling from a number or an equal pair."""
    values = np.unique(np.atleast_1d(np.asarray(oversampling, dtype=np.float64)))
    if len(values) != 1 or values[0] < 1 or values[0] != round(values[0]):
        msg = f"psf must be oversampled by one integer in x and y, not by {oversampling}"
        raise ValueError(msg)
    return int(values[0])


def draw_models(
    models: list, pixel_scale: npt.NDArray[np.float64] | None, shape: tuple[int, int]
) -> tuple[list[npt.NDArray[np.float64]], list[float | None], npt.NDArray[np.int64], int]:
    """Draw images of PSF models that do not depend on the position, each once.

    Parameters
    ----------
    models : list
        GalSim objects or astropy models, one for all cutouts or one per cutout.
    pixel_scale : ndarray, shape (N,), or None
        Arcsec per pixel, needed by GalSim objects.
    shape : tuple of int
        Largest ny, nx of the cutouts.

    Returns
    -------
    images : list of ndarray
        Images of the distinct models.
    enclosed : list of float or None
        Flux fraction inside each image where the model knows it.
    index : ndarray of int, shape (N,) or (1,)
        Image of every model.
    oversampling : int
        Image pixels per native pixel.
    """
    direct = _direct_images(models)
    if direct is not None:
        return direct
    if any(is_galsim(model) for model in models) and pixel_scale is None:
        msg = "pixel_scale must be given (or a wcs) to draw a GalSim psf"
        raise ValueError(msg)
    n_rows = 1 if pixel_scale is None else len(pixel_scale)
    models = list(models) * (n_rows if len(models) == 1 else 1)
    scales = [None] * len(models) if pixel_scale is None else list(_rounded(pixel_scale))
    drawn, images, enclosed, index = {}, [], [], np.zeros(len(models), dtype=np.int64)
    for i, (model, scale) in enumerate(zip(models, scales, strict=True)):
        key = (id(model), scale if is_galsim(model) else None)
        if key not in drawn:
            drawn[key] = len(images)
            image, fraction = (
                _draw_galsim(model, scale, shape) if is_galsim(model) else (_draw_astropy(model, shape), None)
            )
            images.append(image)
            enclosed.append(fraction)
        index[i] = drawn[key]
    return images, enclosed, index, MODEL_OVERSAMPLING


def _rounded(pixel_scale):
    """Pixel scales rounded to steps of 0.2 % around their median, so that a WCS gives few distinct ones."""
    usable = np.isfinite(pixel_scale) & (pixel_scale > 0)
    middle = np.median(pixel_scale[usable]) if usable.any() else 1.0
    ratio = np.where(usable, pixel_scale, middle) / middle
    return middle * np.exp(_SCALE_STEP * np.round(np.log(ratio) / _SCALE_STEP))


def _direct_images(models):
    """The images inside photutils ImagePSF models, if all are centred and equally oversampled; else None."""
    images, index, number_of, factors = [], [], {}, set()
    for model in models:
        data, oversampling = getattr(model, "data", None), getattr(model, "oversampling", None)
        if is_galsim(model) or not isinstance(data, np.ndarray) or data.ndim != 2 or oversampling is None:
            return None
        centre = 0.5 * (np.array(data.shape[::-1]) - 1)
        factor = np.unique(np.asarray(oversampling, dtype=np.float64))
        if (
            not np.allclose(getattr(model, "origin", centre), centre)
            or len(factor) != 1
            or factor[0] != round(factor[0])
        ):
            return None
        factors.add(int(factor[0]))
        if id(model) not in number_of:
            number_of[id(model)] = len(images)
            images.append(np.asarray(data, dtype=np.float64))
        index.append(number_of[id(model)])
    if len(factors) != 1:
        return None
    return images, [None] * len(images), np.array(index, dtype=np.int64), factors.pop()


def _odd(size):
    """Smallest odd integer not below ``size``."""
    return 2 * int(np.ceil((size - 1) / 2)) + 1


def _draw_astropy(model, shape):
    """Image of an astropy model, evaluated around its centre on a grid finer than the pixels."""
    factor = MODEL_OVERSAMPLING
    centre = [0.0, 0.0]
    for name, value in zip(model.param_names, model.parameters, strict=True):
        for axis, prefixes in enumerate((("x_0", "x_mean"), ("y_0", "y_mean"))):
            if name.startswith(prefixes):
                centre[axis] = float(value)
    size = [_odd(factor * length) for length in shape]
    try:
        box = model.bounding_box.bounding_box()
        spans = [float(high) - float(low) for low, high in box]
        size = [min(max(_odd(factor * span), 9), _odd(2 * s)) for span, s in zip(spans, size, strict=True)]
    except (AttributeError, NotImplementedError, TypeError, ValueError):
        pass
    y, x = ((np.arange(n) - 0.5 * (n - 1)) / factor for n in size)
    try:
        with np.errstate(all="ignore"):
            image = model(*np.meshgrid(x + centre[0], y + centre[1]))
        return np.asarray(getattr(image, "value", image), dtype=np.float64).reshape(len(y), len(x))
    except Exception as err:
        msg = f"psf must be a model that can be evaluated at pixel coordinates ({err})"
        raise ValueError(msg) from err


def _draw_galsim(psf, scale, shape):
    """(image, flux fraction inside) of a GalSim object, convolved with the native pixel and sampled more finely."""
    import galsim

    factor = MODEL_OVERSAMPLING
    try:
        effective = galsim.Convolve(psf.withGSParams(folding_threshold=_FOLDING), galsim.Pixel(scale))
        step = scale / factor
        size = _odd(min(effective.getGoodImageSize(step), 2 * factor * max(shape) + 1))
        with warnings.catch_warnings():
            warnings.simplefilter("error", galsim.GalSimWarning)  # of transforms that would not fit into memory
            image = effective.drawImage(nx=size, ny=size, scale=step, method="no_pixel", dtype=float).array
    except (galsim.GalSimError, galsim.GalSimWarning, MemoryError) as err:
        msg = f"psf must be an object that GalSim can draw at this pixel_scale ({' '.join(str(err).split())})"
        raise ValueError(msg) from err
    flux = float(psf.flux)
    fraction = float(image.sum()) / flux if flux > 0 else 1.0
    return np.array(image, dtype=np.float64), min(fraction, 1.0) if fraction > 0.5 else None


def distinct_stack(stack: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return distinct images (M, py, px) and index (N,) of a stack of images in which some may be equal."""
    first, index = find_equal(stack)
    return stack if len(first) == len(stack) else stack[first], index
