"""Pictures as arrays of colours and as PNG files: quick to make, which is what matters while a slider moves."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from galmeasure.parameters import PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    from matplotlib.figure import Figure

    from galmeasure.cutouts import Cutouts

__all__ = [
    "RESIDUAL_RANGE", "figure_png", "fit_mosaic", "histograms", "label", "psf_picture", "residual_picture",
    "stamp_mosaic", "stamp_picture",
]  # fmt: skip

RESIDUAL_RANGE = 5.0
"""Residual, in units of the noise, of the strongest colours."""

_SIDE = 256  # pixels of a picture that is shown alone
_GAP = 2  # pixels between the stamps of a mosaic
_SOFT = 5.0  # noises at which the stretch turns from linear to logarithmic
_FLOOR = 3.0  # noises below zero that have the darkest colour
_BAD = (191, 191, 191)
_UNITS = {"flux": "adu", "r_eff": "arcsec", "psf_fwhm": "arcsec", "sigma": "adu"}
_LABELS = {"psf_fwhm": "PSF FWHM", "sigma": "noise", "snr": "S/N", "snr_total": "S/N with the galaxy's noise"}
_LABELS |= {parameter.name: parameter.latex for parameter in PARAMETERS}


def label(name: str) -> str:
    """Return the label of an axis.

    Parameters
    ----------
    name : str
        Name of a parameter, or ``"psf_fwhm"``, ``"sigma"``, ``"snr"`` or ``"snr_total"``.

    Returns
    -------
    str
        Symbol or words, with the unit.
    """
    return _LABELS[name] + (f" [{_UNITS[name]}]" if name in _UNITS else "")


def stamp_picture(image: npt.ArrayLike, noise: float, peak: float | None = None, side: int = _SIDE) -> npt.NDArray:
    """Colour a stamp with a stretch that shows both the noise and the centre.

    Parameters
    ----------
    image : array_like
        Pixels, shape ``(ny, nx)``; those that are not finite become grey.
    noise : float
        1-sigma noise of a pixel.
    peak : float, optional
        Value of the brightest colour; by default the largest pixel.
    side : int, optional
        Least number of pixels of the longer side of the picture.

    Returns
    -------
    ndarray
        Colours of type uint8, shape ``(m ny, m nx, 3)``, the first row of the stamp at the bottom.
    """
    image = np.asarray(image, dtype=float)
    if peak is None:
        peak = float(np.max(image[np.isfinite(image)], initial=0.0))
    peak, soft = max(peak, 10.0 * noise), _SOFT * noise
    low, high = np.arcsinh(-_FLOOR * noise / soft), np.arcsinh(peak / soft)
    return _enlarged(_coloured((np.arcsinh(image / soft) - low) / (high - low), "viridis"), side)


def psf_picture(image: npt.ArrayLike, side: int = _SIDE) -> npt.NDArray:
    """Colour the image of a PSF in four decades of brightness.

    Parameters
    ----------
    image : array_like
        Pixels of the PSF, shape ``(ny, nx)``.
    side : int, optional
        Least number of pixels of the longer side of the picture.

    Returns
    -------
    ndarray
        Colours of type uint8, as those of `stamp_picture`.
    """
    image = np.asarray(image, dtype=float)
    decades = np.log10(np.maximum(image, 1e-30) / np.max(image))
    return _enlarged(_coloured(1.0 + decades / 4.0, "viridis"), side)


def residual_picture(residual: npt.ArrayLike, side: int = _SIDE) -> npt.NDArray:
    """Colour residuals: blue where the model is too bright, red where it is too faint.

    Parameters
    ----------
    residual : array_like
        Data minus model in units of the noise, shape ``(ny, nx)``.
    side : int, optional
        Least number of pixels of the longer side of the picture.

    Returns
    -------
    ndarray
        Colours of type uint8, as those of `stamp_picture`.
    """
    return _enlarged(_coloured(0.5 + np.asarray(residual, dtype=float) / (2.0 * RESIDUAL_RANGE), "RdBu_r"), side)


def stamp_mosaic(cutouts: Cutouts, columns: int = 10, side: int = 64) -> npt.NDArray:
    """Put the stamps of a gallery side by side.

    Parameters
    ----------
    cutouts : Cutouts
        Stamps that are shown, row by row.
    columns : int, optional
        Number of stamps in a row.
    side : int, optional
        Side of the place of a stamp in pixels of the picture.

    Returns
    -------
    ndarray
        Colours of type uint8, shape ``(height, width, 3)``.
    """
    pictures = (stamp_picture(_pixels(cutouts, i), _noise(cutouts, i), side=1) for i in range(len(cutouts)))
    return _tiled([_fitted(picture, side) for picture in pictures], columns)


def fit_mosaic(cutouts: Cutouts, models: list[npt.NDArray], columns: int = 2, side: int = 128) -> npt.NDArray:
    """Put stamp, model and residual of several galaxies side by side.

    Parameters
    ----------
    cutouts : Cutouts
        Stamps that were measured.
    models : list of ndarray
        Model of each stamp in its unit; NaN where the measurement failed.
    columns : int, optional
        Number of galaxies in a row.
    side : int, optional
        Side of the place of a stamp in pixels of the picture.

    Returns
    -------
    ndarray
        Colours of type uint8, shape ``(height, width, 3)``.
    """
    tiles = []
    for i, model in enumerate(models):
        image, noise, model = _pixels(cutouts, i), _noise(cutouts, i), np.asarray(model, dtype=float)
        peak = float(np.max(image[np.isfinite(image)], initial=0.0))
        pictures = (
            stamp_picture(image, noise, peak, 1), stamp_picture(model, noise, peak, 1),
            residual_picture((image - model) / _error(cutouts, i, model), 1),
        )  # fmt: skip
        tiles += [_fitted(picture, side) for picture in pictures]
    return _tiled(tiles, 3 * columns)


def histograms(values: Mapping[str, npt.ArrayLike], columns: int = 3) -> Figure:
    """Draw one histogram for each quantity.

    Parameters
    ----------
    values : mapping of str to array_like
        Numbers of each quantity, by names that `label` knows.
    columns : int, optional
        Number of histograms in a row.

    Returns
    -------
    Figure
        Figure that ``pyplot`` does not know.
    """
    from galmeasure.plotting import new_figure

    rows = -(-len(values) // columns)
    figure = new_figure(3.3 * columns, 2.1 * rows)
    axes = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for axis, (name, numbers) in zip(axes, values.items(), strict=False):
        axis.hist(np.asarray(numbers, dtype=float), bins=25, color="#0072B2")
        axis.set_xlabel(label(name))
        axis.tick_params(labelsize="small")
    for axis in axes[len(values) :]:
        axis.set_axis_off()
    for axis in axes[::columns]:
        axis.set_ylabel("galaxies")
    return figure


def figure_png(figure: Figure, dpi: int = 100) -> bytes:
    """Render a figure as a PNG file.

    Parameters
    ----------
    figure : Figure
        Figure of matplotlib to be drawn.
    dpi : int, optional
        Pixels per inch of the picture.

    Returns
    -------
    bytes
        Contents of the file.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, pil_kwargs={"compress_level": 1})  # quick rather than small
    return buffer.getvalue()


def _coloured(values, name):
    """Colours of numbers between 0 and 1; grey where they are not finite."""
    import matplotlib as mpl

    table = (255.0 * mpl.colormaps[name](np.linspace(0.0, 1.0, 256))[:, :3]).round().astype(np.uint8)
    finite = np.isfinite(values)
    colours = table[(np.clip(np.where(finite, values, 0.0), 0.0, 1.0) * 255.0).astype(int)]
    colours[~finite] = _BAD
    return colours[::-1]


def _enlarged(colours, side):
    """Picture with square pixels, none of them blurred, whose longer side has at least ``side``."""
    factor = max(1, -(-side // max(colours.shape[:2])))
    return colours.repeat(factor, axis=0).repeat(factor, axis=1)


def _fitted(colours, side):
    """Picture made larger or smaller, without blur, until it fits into a square."""
    longest = max(colours.shape[:2])
    height, width = (max(1, round(length * side / longest)) for length in colours.shape[:2])
    rows, columns = (np.arange(new) * old // new for new, old in zip((height, width), colours.shape, strict=False))
    colours = colours[rows[:, None], columns]
    place = np.full((side, side, 3), 255, dtype=np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    place[top : top + height, left : left + width] = colours
    return place


def _tiled(pictures, columns):
    """Pictures of one size in rows, with white gaps."""
    side = pictures[0].shape[0] + _GAP
    rows = -(-len(pictures) // columns)
    mosaic = np.full((rows * side - _GAP, min(columns, len(pictures)) * side - _GAP, 3), 255, dtype=np.uint8)
    for number, picture in enumerate(pictures):
        top, left = side * (number // columns), side * (number % columns)
        mosaic[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return mosaic


def _pixels(cutouts, i):
    """Pixels of a stamp, NaN where they are masked."""
    return np.where(cutouts.mask(i), np.nan, np.asarray(cutouts.image(i), dtype=float))


def _noise(cutouts, i):
    """Typical noise of a pixel."""
    error = np.asarray(cutouts.error(i), dtype=float)
    usable = error[np.isfinite(error) & (error > 0)]
    return float(np.median(usable)) if usable.size else 1.0


def _error(cutouts, i, model):
    """Noise of every pixel, that of the source's light included where there is a gain."""
    variance = np.asarray(cutouts.error(i), dtype=float) ** 2
    if cutouts.gain is not None and np.isfinite(cutouts.gain[i]):
        variance = variance + np.maximum(model, 0.0) / cutouts.gain[i]
    return np.sqrt(variance)
