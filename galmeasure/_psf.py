"""PSF images: normalisation with the light beyond the image, width and centre, and finding equal ones."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

__all__ = ["PSFStats", "find_equal", "missing_flux_fraction", "normalise_psf", "psf_stats"]

_WING_START = 0.55
_WING_END = 0.98
_N_ANNULI = 10
_MAX_MISSING = 0.05
_EXPONENTS = (2.7, 8.0)
_MAX_SCATTER = 0.015
_CORES = np.linspace(0.0, 0.5, 26)
_CHUNK = 2**21


@dataclass(frozen=True)
class PSFStats:
    """What is known of each PSF of a set (M,): ``ok``, ``offset`` of the centroid and ``fwhm`` in native pixels."""

    ok: np.ndarray
    offset: np.ndarray
    fwhm: np.ndarray


def missing_flux_fraction(image, oversampling=1):
    """Fraction of a PSF's flux that lies beyond its image.

    The azimuthal median profile in the outer annuli is fitted with ``A (r**2 + a**2)**(-p/2)``. If that is a clean
    declining power law with 2.7 < p < 8, its integral over the plane outside the (rectangular) image is the missing
    flux. In all other cases (noisy wings, wings that end, a pedestal, a Gaussian, more than 5 % missing) nothing is
    assumed to be missing.

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
    >>> from galmeasure._psf import missing_flux_fraction
    >>> y, x = np.mgrid[-32:33, -32:33]
    >>> print(f"{missing_flux_fraction((1 + (x**2 + y**2) / 3) ** -2.0):.4f}")
    0.0023
    >>> print(missing_flux_fraction(np.exp(-(x**2 + y**2) / 8)))
    0.0
    """
    stack = np.asarray(image, dtype=np.float64)
    single = stack.ndim == 2
    stack = stack[None] if single else stack
    fraction = np.zeros(len(stack))
    annuli = _annuli(*stack.shape[1:], oversampling)
    if annuli is not None:
        for start in range(0, len(stack), max(1, _CHUNK // stack[0].size)):
            rows = slice(start, start + max(1, _CHUNK // stack[0].size))
            with np.errstate(all="ignore"):
                fraction[rows] = _missing(stack[rows], annuli)
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


def _missing(stack, annuli):
    """Missing fraction (M,) of a stack, see :func:`missing_flux_fraction`."""
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
    return np.where(clean & (fraction > 0) & (fraction < _MAX_MISSING), fraction, 0.0)


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


def normalise_psf(stack, oversampling=1):
    """Normalised float64 copy of a stack of PSF images, and which of them can be used.

    A PSF image that has a non-finite pixel, or whose sum is not positive, cannot be used; it comes back as zeros.
    Others sum to 1 minus the flux missing beyond the image.
    """
    with np.errstate(all="ignore"):
        images = np.array(stack, dtype=np.float64)
        peak = np.abs(images).max(axis=(1, 2))
        ok = np.isfinite(peak) & (peak > 0)
        images[~ok] = 0.0
        images /= np.where(ok, peak, 1.0)[:, None, None]
        total = images.sum(axis=(1, 2))
        ok &= total > 1e-6
        images /= np.where(ok, total, 1.0)[:, None, None]
        images[~ok] = 0.0
    images *= 1.0 - missing_flux_fraction(images, oversampling)[:, None, None]
    return images, ok


def psf_stats(stack, ok, oversampling=1):
    """:class:`PSFStats` of a stack of normalised PSF images, lengths in native pixels."""
    n_psf, ny, nx = stack.shape
    offset, fwhm = np.full(n_psf, np.nan), np.full(n_psf, np.nan)
    y, x = np.arange(ny) - 0.5 * (ny - 1), np.arange(nx) - 0.5 * (nx - 1)
    rows = np.flatnonzero(ok)
    for start in range(0, len(rows), max(1, _CHUNK // (ny * nx))):
        part = rows[start : start + max(1, _CHUNK // (ny * nx))]
        images = stack[part]
        index = images.reshape(len(part), -1).argmax(axis=1)
        peak = images.reshape(len(part), -1)[np.arange(len(part)), index]
        weight = np.maximum(images - 0.1 * peak[:, None, None], 0.0)
        norm = weight.sum(axis=(1, 2))
        norm = np.where(norm > 0, norm, 1.0)
        offset[part] = np.hypot(weight.sum(axis=1) @ x / norm, weight.sum(axis=2) @ y / norm) / oversampling
        along_x = _half_width(images[np.arange(len(part)), index // nx], index % nx)
        along_y = _half_width(images[np.arange(len(part)), :, index % nx], index // nx)
        fwhm[part] = 0.5 * (along_x + along_y) / oversampling
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


def find_equal(stack):
    """Representatives and index of the distinct images of a stack: ``stack[i]`` equals ``stack[first[index[i]]]``.

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
    same = np.empty(n_images, dtype=bool)  # the sample of pixels may agree where others differ
    for start in range(0, n_images, max(1, _CHUNK // flat.shape[1])):
        rows = slice(start, start + max(1, _CHUNK // flat.shape[1]))
        same[rows] = (flat[rows] == flat[first[index[rows]]]).all(axis=1)
    alone = np.flatnonzero(~same)
    first = np.concatenate([first, alone])
    index[alone] = len(first) - len(alone) + np.arange(len(alone))
    used, index = np.unique(first[index], return_inverse=True)
    return used.astype(np.int64), index.reshape(-1).astype(np.int64)
