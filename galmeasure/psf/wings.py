"""Light of a star that its PSF image does not hold, estimated from the outer part of the image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from galmeasure.utils.chunks import rows_per_chunk
from galmeasure.utils.compiled import compiled_module

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["MissingLight", "missing_flux_fraction", "missing_light", "normalised_light"]

_WING_START = 0.55
_WING_END = 0.98
_N_ANNULI = 10
_MAX_MISSING = 0.05
_EXPONENTS = (2.7, 8.0)
_MAX_SCATTER = 0.015
_CORES = np.linspace(0.0, 0.5, 26)
_CLEAN_ERROR = 0.2  # of what a clean wing misses: those of Kolmogorov are still changing their slope at a few FWHM

_BANDS = np.linspace(0.4, 0.98, 4)
"""Edges of the bands over which rings are averaged, in half sides of the image."""

_LEAST_BAND = 2.0
"""Narrowest band in native pixels: diffraction rings are 1 to 1.5 apart, and every other one is fainter."""

_DIFFRACTION = 3.0
_DIFFRACTION_RANGE = (2.4, 3.6)
_DIFFRACTION_ERROR = 0.2  # of what a wing with rings misses: spikes of struts reach farther than rings
_MAX_PULL = 0.45
"""Largest error of a missing fraction, over the fraction, with which it is believed."""

_SLOWEST = 2.7
"""Exponent of the slowest decline that is thought possible where the wings do not show one."""

_N_SECTORS = 12

_NO_BANDS = (np.empty(0, dtype=np.int64), np.empty((0, _N_SECTORS + 1), dtype=np.int64))
_NO_ANNULI = (
    *[np.empty(0, dtype=np.int64)] * 3, np.empty(0), np.empty(0, dtype=np.int64), *[np.empty((0, 0))] * 2,
    *[np.empty(0)] * 3,
)  # fmt: skip
"""Arguments of the compiled loop for images that are too small."""


@dataclass(frozen=True)
class MissingLight:
    """Light beyond PSF images.

    Parameters
    ----------
    fraction : ndarray, shape (M,)
        Missing flux over total flux, in [0, 0.05]; 0 where the image does not tell.
    error : ndarray, shape (M,)
        Uncertainty of ``fraction``. Where the image does not tell, the most that its outermost band allows.
    """

    fraction: np.ndarray
    error: np.ndarray


def missing_light(stack: npt.NDArray[np.float64], oversampling: int = 1) -> MissingLight:
    """Estimate the light beyond each of a stack of PSF images, with its uncertainty.

    Three cases are told apart:

    * The azimuthal median profile of the outer annuli is a clean power law ``A (r**2 + a**2)**(-p/2)`` with
      2.7 < p < 8 (Moffat, Kolmogorov). Its integral over the plane outside the (rectangular) image is missing.
    * The azimuthal mean in three wide bands, which averages over diffraction rings and the spikes of struts, declines
      as ``r**-3``, as the light behind any aperture with an edge does, and is neither noise nor a pedestal: the light
      missing beyond a radius is ``C / r``.
    * Neither (Gaussian, noisy or cut wings, a pedestal, more than 5 % missing): nothing is taken to be missing, and the
      error is what would be missing behind the light in the outermost band if it declined as ``r**-2.7``.

    Parameters
    ----------
    stack : ndarray, shape (M, ny, nx)
        PSF images, centred, of any normalisation.
    oversampling : int, optional
        Image pixels per native pixel; annuli are at least one native pixel wide where there is room for that.

    Returns
    -------
    MissingLight
        One entry per image; of an image that cannot be used, a fraction of 0 and an infinite error.
    """
    fraction, error = np.zeros(len(stack)), np.full(len(stack), np.inf)
    step = rows_per_chunk("PSF pixels", stack[0].size)
    for start in range(0, len(stack), step):
        chunk = slice(start, start + step)
        fraction[chunk], error[chunk] = _missing(np.array(stack[chunk], dtype=np.float64, order="C"), oversampling)
    return MissingLight(fraction, error)


def normalised_light(
    images: npt.NDArray[np.float64], oversampling: int = 1
) -> tuple[MissingLight, npt.NDArray[np.bool_]]:
    """Give a few images the sum 1, in place, and estimate the light beyond each of them.

    Parameters
    ----------
    images : ndarray, shape (M, ny, nx)
        PSF images. One that has a pixel that is not finite, or whose sum is not positive, becomes 0.
    oversampling : int, optional
        Image pixels per native pixel.

    Returns
    -------
    light : MissingLight
        One entry per image.
    ok : ndarray of bool, shape (M,)
        Images that can be used.
    """
    ok = np.empty(len(images), dtype=bool)
    return MissingLight(*_missing(images, oversampling, ok)), ok


def _missing(images, oversampling, ok=None):
    """(fraction, error) of what is missing (M,) beyond a few PSFs, which are normalised first if ``ok`` is given."""
    ny, nx = images.shape[1:]
    annuli, bands = _annuli(ny, nx, oversampling), _bands(ny, nx, oversampling)
    fraction, error = np.zeros(len(images)), np.full(len(images), np.inf)
    with np.errstate(all="ignore"):
        wings = _measure(images, annuli, bands, ok)
        clean = np.full(len(images), np.nan) if annuli is None else _beyond_clean_wing(wings, ny, nx)
        is_clean = np.isfinite(clean)
        fraction[is_clean], error[is_clean] = clean[is_clean], _CLEAN_ERROR * clean[is_clean]
        rows = np.flatnonzero(~is_clean)
        if bands is not None and len(rows):
            fraction[rows], error[rows] = _beyond_rings(wings, rows, bands)
    return fraction, error


@dataclass(frozen=True)
class _Wings:
    """What the wings of M PSF images tell.

    ``total`` (M,): the sum of the image. ``core2``, ``slope``, ``intercept``, ``scatter`` (M,): the power law, or NaN.
    ``flux``, ``noise``, ``share`` (M, bands): light of bands, its noise, and the share of it that is in spikes.
    """

    total: np.ndarray
    core2: np.ndarray
    slope: np.ndarray
    intercept: np.ndarray
    scatter: np.ndarray
    flux: np.ndarray
    noise: np.ndarray
    share: np.ndarray


def _measure(images, annuli, bands, ok):
    """:class:`_Wings` of a few PSFs, which are normalised first if ``ok`` is given."""
    loops = compiled_module("galmeasure.psf.compiled")
    if loops is not None:
        n_bands = 0 if bands is None else len(bands.pixels)
        out = np.empty((len(images), 5 + 3 * n_bands))
        loops.measure_wings(
            images,
            ok is not None,
            _NO_ANNULI if annuli is None else annuli.tables,
            _NO_BANDS if bands is None else bands.tables,
            np.empty(0, dtype=bool) if ok is None else ok,
            out,
        )
        return _Wings(*out[:, :5].T, *out[:, 5:].reshape(len(out), 3, n_bands).swapaxes(0, 1))
    if ok is not None:
        ok[:] = _normalise(images)
    none = np.full(len(images), np.nan)
    power_law = (none,) * 4 if annuli is None else _fit_power_law(images, annuli)
    light = (none[:, None],) * 3 if bands is None else _light_of_bands(images, bands)
    return _Wings(images.sum(axis=(1, 2)), *power_law, *light)


def _normalise(images):
    """Give images the sum 1, in place, and tell which of them can be used; others become 0."""
    peak = np.maximum(images.max(axis=(1, 2)), -images.min(axis=(1, 2)))
    ok = np.isfinite(peak) & (peak > 0)
    images[~ok] = 0.0
    images /= np.where(ok, peak, 1.0)[:, None, None]
    total = images.sum(axis=(1, 2))
    ok &= total > 1e-6
    images /= np.where(ok, total, 1.0)[:, None, None]
    images[~ok] = 0.0
    return ok


def missing_flux_fraction(image: npt.ArrayLike, oversampling: int = 1) -> float | npt.NDArray[np.float64]:
    """Estimate the fraction of a PSF's flux that lies beyond its image.

    See :func:`missing_light`, which also gives its uncertainty.

    Parameters
    ----------
    image : array_like, shape (ny, nx) or (M, ny, nx)
        PSF images, centred, of any normalisation.
    oversampling : int, optional
        Image pixels per native pixel; annuli are at least one native pixel wide where there is room for that.

    Returns
    -------
    fraction : float or ndarray of shape (M,)
        Missing flux over total flux, in [0, 0.05].

    Examples
    --------
    >>> import numpy as np
    >>> from galmeasure.psf.wings import missing_flux_fraction
    >>> y, x = np.mgrid[-32:33, -32:33]
    >>> print(f"{missing_flux_fraction((1 + (x**2 + y**2) / 3) ** -2.0):.4f}")
    0.0023
    >>> print(missing_flux_fraction(np.exp(-(x**2 + y**2) / 8)))
    0.0
    """
    stack = np.asarray(image, dtype=np.float64)
    single = stack.ndim == 2
    stack = stack[None] if single else stack
    fraction = missing_light(stack, oversampling).fraction
    return float(fraction[0]) if single else fraction


@dataclass(frozen=True)
class _Annulus:
    """Pixels of an annulus, their distinct radii over the half size, which of these each has, and their median."""

    pixels: np.ndarray
    radii: np.ndarray
    index: np.ndarray
    median: float

    @classmethod
    def of(cls, pixels, radius):
        """Annulus of flat indices, with the radii of all pixels of the image."""
        radii, index = np.unique(radius[pixels], return_inverse=True)
        return cls(pixels, radii, index.reshape(-1), np.median(radius[pixels]))


@dataclass(frozen=True)
class _Annuli:
    """Outer annuli of images of a shape.

    ``abscissae`` (cores, annuli) are the logarithms of the squared median radii plus the squared core radii. ``tables``
    are the arguments of the compiled loop.
    """

    members: list
    abscissae: np.ndarray
    tables: tuple

    @classmethod
    def of(cls, members):
        """Tables of some annuli."""
        median = np.array([annulus.median for annulus in members])
        abscissae = np.log(median**2 + _CORES[:, None] ** 2)
        offsets = abscissae - abscissae.mean(axis=1, keepdims=True)
        tables = (
            np.concatenate([annulus.pixels for annulus in members]),
            _ends([annulus.pixels for annulus in members]),
            np.concatenate([annulus.index for annulus in members]),
            np.concatenate([annulus.radii for annulus in members]) ** 2,
            _ends([annulus.radii for annulus in members]),
            np.ascontiguousarray(abscissae.T),
            np.ascontiguousarray(offsets.T),
            (offsets**2).sum(axis=1),
            abscissae.mean(axis=1),
            _CORES**2,
        )
        return cls(members, abscissae, tables)


def _ends(arrays):
    """Indices at which each of some arrays begins if they are joined, and the end."""
    return np.cumsum([0, *(len(array) for array in arrays)])


@lru_cache(maxsize=16)
def _annuli(ny, nx, oversampling):
    """:class:`_Annuli` of images of a shape, or None if they are too small."""
    half = 0.5 * (min(ny, nx) - 1)
    n_annuli = int(min(_N_ANNULI, (_WING_END - _WING_START) * half / max(1, oversampling)))
    if n_annuli < 4:
        n_annuli = int(min(4, (_WING_END - _WING_START) * half))
    if n_annuli < 4:
        return None
    y, x = np.ogrid[:ny, :nx]
    radius = np.hypot(y - 0.5 * (ny - 1), x - 0.5 * (nx - 1)).ravel() / half
    edges = np.linspace(_WING_START, _WING_END, n_annuli + 1)
    return _Annuli.of([_Annulus.of(np.flatnonzero((radius >= a) & (radius < b)), radius) for a, b in pairwise(edges)])


def _beyond_clean_wing(wings, ny, nx):
    """Missing fraction (M,) of PSFs whose wings are clean declining power laws with 2.7 < p < 8; NaN for others."""
    exponent = -2.0 * wings.slope
    rows = np.flatnonzero((wings.scatter < _MAX_SCATTER) & (exponent > _EXPONENTS[0]) & (exponent < _EXPONENTS[1]))
    outside = _integral_outside(wings.core2[rows], exponent[rows], ny, nx) * np.exp(wings.intercept[rows])
    fraction, clean = outside / (wings.total[rows] + outside), np.full(len(exponent), np.nan)
    clean[rows] = np.where((fraction > 0) & (fraction < _MAX_MISSING), fraction, np.nan)
    return clean


def _fit_power_law(stack, annuli):
    """(core radius squared, slope, intercept, scatter) of the logarithmic profile of each PSF, (M,); or NaN."""
    flat = stack.reshape(len(stack), -1)
    wings = [np.take(flat, annulus.pixels, axis=1) for annulus in annuli.members]
    radius = np.array([annulus.median for annulus in annuli.members])
    profile = np.stack([_medians(wing) for wing in wings], axis=1)
    core2, slope, _, _ = _fit_wing(np.log(np.where(profile > 0, profile, np.nan)), annuli.abscissae)
    # a second pass with the slope inside each annulus taken out: few distinct radii bias the plain medians
    for wing, annulus in zip(wings, annuli.members, strict=True):
        wing *= np.exp(-slope[:, None] * np.log(annulus.radii**2 + core2[:, None]))[:, annulus.index]
    level = np.stack([_medians(wing) for wing in wings], axis=1)
    log_level = np.log(np.where(level > 0, level, np.nan))
    log_profile = log_level + slope[:, None] * np.log(radius**2 + core2[:, None])
    return _fit_wing(log_profile, annuli.abscissae)


def _medians(values):
    """Medians (M,) of rows, NaN of those with NaN: as `numpy.median`, whose passes over the values cost more."""
    middle = values.shape[1] // 2
    values = np.partition(values, middle, axis=1)
    median = values[:, middle]
    if values.shape[1] % 2 == 0:
        median = 0.5 * (values[:, :middle].max(axis=1) + median)
    return np.where(np.isnan(values[:, middle:].max(axis=1)), np.nan, median)


def _fit_wing(log_profile, u):
    """Best (a**2, slope, intercept, rms) of log profile = intercept + slope log(r**2 + a**2), for each PSF.

    ``u`` (cores, annuli) are the logarithms.
    """
    du = u - u.mean(axis=1, keepdims=True)
    level = log_profile.mean(axis=1, keepdims=True)
    slope = (log_profile[:, None] * du).sum(axis=2) / (du**2).sum(axis=1)
    residual = (log_profile - level)[:, None] - slope[:, :, None] * du
    square = np.square(residual, out=residual).mean(axis=2)
    core = np.where(np.isfinite(square), square, np.inf).argmin(axis=1)
    rows = np.arange(len(core))
    slope, rms = slope[rows, core], np.sqrt(square[rows, core])
    return _CORES[core] ** 2, slope, level[:, 0] - slope * u.mean(axis=1)[core], rms


def _integral_outside(core2, exponent, ny, nx):
    """Integral of (r**2 + a**2)**(-p/2), r in half sizes, in pixel units over the plane outside the image."""
    half, edge2 = 0.5 * (min(ny, nx) - 1), _squared_edge(ny, nx)
    power = 2.0 - exponent[:, None]
    return 2.0 * np.pi * half**2 * np.mean((edge2 + core2[:, None]) ** (0.5 * power), axis=1) / -power[:, 0]


@lru_cache(maxsize=16)
def _squared_edge(ny, nx):
    """Squared distance of the edge of an image from its centre over its half size, at angles in one quadrant."""
    theta = (np.arange(256) + 0.5) * (0.5 * np.pi / 256)
    return (np.minimum(0.5 * nx / np.cos(theta), 0.5 * ny / np.sin(theta)) / (0.5 * (min(ny, nx) - 1))) ** 2


@dataclass(frozen=True)
class _Bands:
    """Wide annuli of an image of one shape.

    ``pixels`` holds the flat indices of each band's pixels in the upper half plane, sector after sector, ``partner``
    the pixels opposite to them, ``first`` (12,) where each sector begins, ``count`` (12,) the pixels of each.
    ``tables`` are the arguments of the compiled loop: all pixels, and where the sectors of each band begin in them, and
    the end. ``power`` is the sum of ``r**-3`` over a band, ``radius`` its mean radius and ``outside`` the integral of
    ``r**-3`` beyond the image, with r in half sides.
    """

    pixels: list
    partner: list
    first: list
    count: list
    tables: tuple
    power: np.ndarray
    radius: np.ndarray
    outside: float


@lru_cache(maxsize=16)
def _bands(ny, nx, oversampling):
    """:class:`_Bands` of a shape, or None if the image is too small."""
    half = 0.5 * (min(ny, nx) - 1)
    if (_BANDS[1] - _BANDS[0]) * half / oversampling < _LEAST_BAND:
        return None
    y, x = (0.5 * (n - 1) for n in (ny, nx))
    y, x = (grid.ravel() for grid in np.mgrid[-y : y + 0.5, -x : x + 0.5])
    radius = np.hypot(y, x) / half
    angle = np.arctan2(y, x)
    sector = np.where((angle >= 0) & (angle < np.pi), (angle * (_N_SECTORS / np.pi)).astype(int), -1)
    members = [np.flatnonzero((radius >= a) & (radius < b)) for a, b in pairwise(_BANDS)]
    upper = [index[sector[index] >= 0] for index in members]
    pixels = [index[np.argsort(sector[index], kind="stable")] for index in upper]
    count = [np.bincount(sector[index], minlength=_N_SECTORS) for index in pixels]
    return _Bands(
        pixels=pixels,
        partner=[len(radius) - 1 - index for index in pixels],
        first=[np.cumsum(number) - number for number in count],
        count=count,
        tables=(np.concatenate(pixels), _first_of_sectors(count)),
        power=np.array([np.sum(radius[index] ** -_DIFFRACTION) for index in members]),
        radius=np.array([np.mean(radius[index]) for index in members]),
        outside=_integral_outside(np.zeros(1), np.array([_DIFFRACTION]), ny, nx)[0],
    )


def _first_of_sectors(count):
    """Index (bands, 13) at which each sector begins if the pixels of all bands are joined, and the end of the last."""
    ends = np.cumsum(count).reshape(len(count), -1)
    return np.concatenate([np.append(0, ends[:-1, -1])[:, None], ends], axis=1)


def _beyond_rings(wings, rows, bands):
    """(fraction, error) of what is missing (R,) beyond rows with diffraction rings, see :func:`missing_light`."""
    total, flux, noise, share = (values[rows] for values in (wings.total, wings.flux, wings.noise, wings.share))
    n_pixels = 2 * np.sum(bands.count, axis=1)
    amplitude = flux.sum(axis=1) / bands.power.sum()
    spikes = np.clip(share.mean(axis=1), 0.0, 1.0) * amplitude * bands.outside
    outside = amplitude * bands.outside + spikes
    on_pedestal = (_amplitude_on_pedestal(flux / bands.power, n_pixels / bands.power) - amplitude) * bands.outside
    noise_outside = noise.max(axis=1) * np.sqrt(len(n_pixels)) * bands.outside / bands.power.sum()
    error = np.sqrt(noise_outside**2 + on_pedestal**2 + spikes**2 + (_DIFFRACTION_ERROR * outside) ** 2)
    fraction, error = outside / (total + outside), error / (total + outside)
    exponent = -_slope(np.log(np.where(flux > 0, flux, np.nan) / n_pixels), np.log(bands.radius))
    is_ringed = (exponent > _DIFFRACTION_RANGE[0]) & (exponent < _DIFFRACTION_RANGE[1])
    is_ringed &= (fraction > 0) & (fraction < _MAX_MISSING) & (error < _MAX_PULL * fraction)
    growth = (_BANDS[-1] / _BANDS[-2]) ** (_SLOWEST - 2.0) - 1.0
    most = (np.abs(flux[:, -1]) + 2.0 * noise[:, -1]) / growth / np.abs(total)
    return np.where(is_ringed, fraction, 0.0), np.where(is_ringed, error, np.nan_to_num(most, nan=np.inf))


def _light_of_bands(stack, bands):
    """Light of each band, its noise, and the share of it that is in spikes, (M, bands) each.

    Along a spike light declines as ``r**-2`` until the width of the strut is resolved, far beyond a usual image, so
    that more of it is missing than behind rings: about as much again, which is also the uncertainty.
    """
    sums, differences = _sector_sums(stack.reshape(len(stack), -1), bands)
    levels = sums / bands.count
    share = 1.0 - np.median(levels, axis=2) / levels.mean(axis=2)
    return sums.sum(axis=2), np.sqrt(np.square(differences).sum(axis=2)), share


def _sector_sums(flat, bands):
    """Sums and differences (M, bands, 12) of the light of each sector and of the sector opposite to it."""
    sums, differences = [], []
    for pixels, partner, first in zip(bands.pixels, bands.partner, bands.first, strict=True):
        light, opposite = (np.take(flat, index, axis=1) for index in (pixels, partner))
        sums.append(np.add.reduceat(light + opposite, first, axis=1))
        differences.append(np.add.reduceat(light - opposite, first, axis=1))
    return np.stack(sums, axis=1), np.stack(differences, axis=1)


def _amplitude_on_pedestal(scaled, pixels_over_power):
    """Amplitude (M,) of ``r**-3`` beside a constant per pixel, by least squares over the bands ``(M, 3)``."""
    mean = pixels_over_power.mean()
    slope = _slope(scaled, pixels_over_power)
    return scaled.mean(axis=1) - slope * mean


def _slope(values, abscissa):
    """Slope (M,) of straight lines through values (M, K) at an abscissa (K,)."""
    offset = abscissa - abscissa.mean()
    return (values * offset).sum(axis=1) / (offset**2).sum()
