"""Light of a star that its PSF image does not hold, estimated from the outer part of the image."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from galmeasure.utils.chunks import rows_per_chunk

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["MissingLight", "missing_flux_fraction", "missing_light"]

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
    annuli, bands = _annuli(*stack.shape[1:], oversampling), _bands(*stack.shape[1:], oversampling)
    step = rows_per_chunk("PSF pixels", stack[0].size)
    for start in range(0, len(stack), step):
        rows = slice(start, start + step)
        with np.errstate(all="ignore"):
            if bands is not None:
                fraction[rows], error[rows] = _ringed_wing(stack[rows], bands, oversampling)
            if annuli is not None:
                clean = _clean_wing(stack[rows], annuli)
                is_clean = np.isfinite(clean)
                fraction[rows] = np.where(is_clean, clean, fraction[rows])
                error[rows] = np.where(is_clean, _CLEAN_ERROR * clean, error[rows])
    return MissingLight(fraction, error)


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


def _annuli(ny, nx, oversampling):
    """List of (pixels, their radii over the half size) of the outer annuli, or None if the image is too small."""
    half = 0.5 * (min(ny, nx) - 1)
    n_annuli = int(min(_N_ANNULI, (_WING_END - _WING_START) * half / max(1, oversampling)))
    if n_annuli < 4:
        n_annuli = int(min(4, (_WING_END - _WING_START) * half))
    if n_annuli < 4:
        return None
    y, x = np.ogrid[:ny, :nx]
    radius = np.hypot(y - 0.5 * (ny - 1), x - 0.5 * (nx - 1)).ravel() / half
    edges = np.linspace(_WING_START, _WING_END, n_annuli + 1)
    groups = [np.flatnonzero((radius >= a) & (radius < b)) for a, b in pairwise(edges)]
    return [(pixels, radius[pixels]) for pixels in groups]


def _clean_wing(stack, annuli):
    """Missing fraction (M,) of PSFs whose wings are clean declining power laws with 2.7 < p < 8; NaN for others."""
    n_psf, ny, nx = stack.shape
    flat, total = stack.reshape(n_psf, -1), stack.sum(axis=(1, 2))
    wings = [flat[:, pixels] for pixels, _ in annuli]
    radius = np.array([np.median(r) for _, r in annuli])
    profile = np.stack([np.median(wing, axis=1) for wing in wings], axis=1)
    fit = _fit_wing(np.log(np.where(profile > 0, profile, np.nan)), radius)
    # a second pass with the slope inside each annulus taken out: few distinct radii bias the plain medians
    flat_wings = [
        wing * (r**2 + fit[0][:, None]) ** -fit[1][:, None] for wing, (_, r) in zip(wings, annuli, strict=True)
    ]
    level = np.stack([np.median(wing, axis=1) for wing in flat_wings], axis=1)
    log_level = np.log(np.where(level > 0, level, np.nan))
    log_profile = log_level + fit[1][:, None] * np.log(radius**2 + fit[0][:, None])
    core2, slope, intercept, scatter = _fit_wing(log_profile, radius)
    exponent = -2.0 * slope
    outside = _integral_outside(core2, exponent, ny, nx) * np.exp(intercept)
    fraction = outside / (total + outside)
    clean = (scatter < _MAX_SCATTER) & (exponent > _EXPONENTS[0]) & (exponent < _EXPONENTS[1])
    return np.where(clean & (fraction > 0) & (fraction < _MAX_MISSING), fraction, np.nan)


def _fit_wing(log_profile, radius):
    """Best (a**2, slope, intercept, rms) of log profile = intercept + slope log(r**2 + a**2), for each PSF."""
    best = None
    for core in _CORES:
        u = np.log(radius**2 + core**2)
        du = u - u.mean()
        slope = (log_profile * du).sum(axis=1) / (du**2).sum()
        intercept = log_profile.mean(axis=1) - slope * u.mean()
        rms = np.sqrt(np.mean((log_profile - intercept[:, None] - slope[:, None] * u) ** 2, axis=1))
        rms = np.where(np.isfinite(rms), rms, np.inf)
        trial = np.stack([np.full_like(rms, core**2), slope, intercept, rms])
        best = trial if best is None else np.where(rms < best[3], trial, best)
    return best


def _integral_outside(core2, exponent, ny, nx):
    """Integral of (r**2 + a**2)**(-p/2), r in half sizes, in pixel units over the plane outside the image."""
    half = 0.5 * (min(ny, nx) - 1)
    theta = (np.arange(256) + 0.5) * (0.5 * np.pi / 256)
    edge = np.minimum(0.5 * nx / np.cos(theta), 0.5 * ny / np.sin(theta)) / half
    power = 2.0 - exponent[:, None]
    return 2.0 * np.pi * half**2 * np.mean((edge**2 + core2[:, None]) ** (0.5 * power), axis=1) / -power[:, 0]


@dataclass(frozen=True)
class _Bands:
    """Wide annuli of an image of one shape.

    ``pixels`` holds the flat indices of each band's pixels, ``partner`` the pixels opposite to them; ``sector`` (0 to
    11) is that of each pixel, those of the other half plane being -1. ``power`` is the sum of ``r**-3`` over a band,
    ``radius`` its mean radius and ``outside`` the integral of ``r**-3`` beyond the image, with r in half sides.
    """

    pixels: list
    partner: list
    sector: list
    power: np.ndarray
    radius: np.ndarray
    outside: float


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
    pixels = [np.flatnonzero((radius >= a) & (radius < b)) for a, b in pairwise(_BANDS)]
    return _Bands(
        pixels=pixels,
        partner=[len(radius) - 1 - index for index in pixels],
        sector=[sector[index] for index in pixels],
        power=np.array([np.sum(radius[index] ** -_DIFFRACTION) for index in pixels]),
        radius=np.array([np.mean(radius[index]) for index in pixels]),
        outside=_integral_outside(np.zeros(1), np.array([_DIFFRACTION]), ny, nx)[0],
    )


def _ringed_wing(stack, bands, oversampling):
    """(fraction, error) of what is missing (M,) beyond PSFs with diffraction rings, see :func:`missing_light`."""
    flat, total = stack.reshape(len(stack), -1), stack.sum(axis=(1, 2))
    flux = np.stack([np.take(flat, index, axis=1).sum(axis=1) for index in bands.pixels], axis=1)
    noise = np.stack([_band_noise(flat, bands, k) for k in range(len(bands.pixels))], axis=1)
    n_pixels = np.array([len(index) for index in bands.pixels])
    amplitude = flux.sum(axis=1) / bands.power.sum()
    spikes = _spike_share(flat, bands) * amplitude * bands.outside
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


def _spike_share(flat, bands):
    """Share (M,) of the light of the bands that stands out of the median of their sectors: the spikes of struts.

    Along a spike light declines as ``r**-2`` until the width of the strut is resolved, far beyond a usual image, so
    that more of it is missing than behind rings: about as much again, which is also the uncertainty.
    """
    shares = []
    for pixels, partner, sector in zip(bands.pixels, bands.partner, bands.sector, strict=True):
        mean = 0.5 * (np.take(flat, pixels, axis=1) + np.take(flat, partner, axis=1))
        sectors = [np.flatnonzero(sector == k) for k in range(_N_SECTORS)]
        levels = np.stack([np.take(mean, index, axis=1).mean(axis=1) for index in sectors], axis=1)
        shares.append(1.0 - np.median(levels, axis=1) / levels.mean(axis=1))
    return np.clip(np.mean(shares, axis=0), 0.0, 1.0)


def _band_noise(flat, bands, band):
    """Standard deviation (M,) of the sum over a band, from the differences between opposite sectors."""
    difference = np.take(flat, bands.pixels[band], axis=1) - np.take(flat, bands.partner[band], axis=1)
    sectors = [np.flatnonzero(bands.sector[band] == k) for k in range(_N_SECTORS)]
    sums = [np.take(difference, index, axis=1).sum(axis=1) for index in sectors]
    return np.sqrt(np.square(sums).sum(axis=0))


def _amplitude_on_pedestal(scaled, pixels_over_power):
    """Amplitude (M,) of ``r**-3`` beside a constant per pixel, by least squares over the bands ``(M, 3)``."""
    mean = pixels_over_power.mean()
    slope = _slope(scaled, pixels_over_power)
    return scaled.mean(axis=1) - slope * mean


def _slope(values, abscissa):
    """Slope (M,) of straight lines through values (M, K) at an abscissa (K,)."""
    offset = abscissa - abscissa.mean()
    return (values * offset).sum(axis=1) / (offset**2).sum()
