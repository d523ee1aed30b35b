"""Data, model and residual of a galaxy side by side in one small image of few colours, for mosaics and galleries."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from galmeasure.plotting.figures import RESIDUAL_RANGE, brightness_colours, brightness_scale, difference_colours

if TYPE_CHECKING:
    import numpy.typing as npt

    from galmeasure.plotting.panels import FitImages

__all__ = ["GAP", "galaxy_strip", "palette"]

GAP = 2
"""Width of the white bars between the images, in pixels."""

_LEVELS = 120  # of each of two scales of colours; 256 fit into one byte
_BAD, _WHITE = 2 * _LEVELS, 2 * _LEVELS + 1


@lru_cache(maxsize=1)
def palette() -> npt.NDArray[np.uint8]:
    """Colours of the values of strips.

    Returns
    -------
    ndarray of uint8
        Red, green and blue, shape ``(256, 3)``.
    """
    steps = np.linspace(0.0, 1.0, _LEVELS)
    colours = np.full((256, 3), 255, dtype=np.uint8)
    colours[:_LEVELS] = np.round(255 * brightness_colours()(steps)[:, :3])
    colours[_LEVELS : 2 * _LEVELS] = np.round(255 * difference_colours()(steps)[:, :3])
    colours[_BAD] = 191
    return colours


def galaxy_strip(images: FitImages, longest: int | None = None) -> npt.NDArray[np.uint8]:
    """Draw data, model and residual side by side.

    Parameters
    ----------
    images : FitImages
        Images of one galaxy.
    longest : int, optional
        Side in pixels above which stamps are averaged in blocks; no limit by default.

    Returns
    -------
    ndarray of uint8
        Numbers of colours in `palette`, shape ``(height, 3 * width + 2 * GAP)``, first row at the bottom. Where there
        is no model, its panel and that of the residual are grey.
    """
    side = max(images.image.shape)
    block = 1 if longest is None else -(-side // longest)
    norm, _, _ = brightness_scale(images.image, images.error, images.good)
    data = _blocks(np.where(images.good, images.image, np.nan), block)
    panels = [_levels(norm(data, clip=True), 0)]
    if images.model is None:
        panels += [np.full(data.shape, _BAD, dtype=np.uint8)] * 2
    else:
        residual = _blocks(images.residual, block) * block  # the noise of a mean is smaller
        panels.append(_levels(norm(_blocks(images.model, block), clip=True), 0))
        panels.append(_levels(0.5 + 0.5 * residual / RESIDUAL_RANGE, _LEVELS))
    gap = np.full((len(data), GAP), _WHITE, dtype=np.uint8)
    return np.concatenate([panels[0], gap, panels[1], gap, panels[2]], axis=1)


def _levels(shares, first):
    """Numbers of colours from ``first`` for shares between 0 and 1; that of bad pixels for NaN."""
    shares = np.ma.filled(np.ma.asarray(shares).astype(float), np.nan)
    bad = ~np.isfinite(shares)
    levels = np.clip(np.where(bad, 0.0, shares), 0.0, 1.0) * (_LEVELS - 1)
    return np.where(bad, _BAD, first + np.round(levels)).astype(np.uint8)


def _blocks(image, block):
    """Means of the finite pixels of blocks; NaN where there is none."""
    if block == 1:
        return image
    missing = [-side % block for side in image.shape]
    padded = np.pad(image, [(0, count) for count in missing], constant_values=np.nan)
    cut = padded.reshape(padded.shape[0] // block, block, padded.shape[1] // block, block)
    count = np.isfinite(cut).sum((1, 3))
    return np.where(count > 0, np.nansum(cut, (1, 3)) / np.maximum(count, 1), np.nan)
