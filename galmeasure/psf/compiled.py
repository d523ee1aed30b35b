"""Norms, shapes and wings of PSF images by compiled loops, one image at a time."""

import math

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from galmeasure.utils.compiled import FAST_MATH, compile_loop
from galmeasure.utils.compiled_medians import median_of

__all__ = ["has_bad_pixels", "measure_shapes", "measure_wings"]

_LEAST_SUM = 1e-6  # of an image over its peak: others count as having none
_SAFE = 1e290  # peaks and inverse peaks up to this have a normal inverse
_LEAST_RATIO = 1e-12  # to the peak, below which pixels count as this
_THRESHOLD = 0.1  # of the peak, which is taken from pixels before the centroid

_IMAGES = types.Array(types.float64, 3, "C", readonly=True)
_NUMBERS = types.Array(types.float64, 1, "C", readonly=True)
_TABLE = types.Array(types.float64, 2, "C", readonly=True)
_INDICES = types.Array(types.int64, 1, "C", readonly=True)
_FLAGS, _OUT = types.Array(types.boolean, 1, "C"), types.Array(types.float64, 1, "C")


@njit(fastmath=FAST_MATH, error_model="numpy")
def _sum_and_bad(values):
    """Sum, and number of values that are not finite."""
    total, bad = 0.0, 0.0
    for index in range(len(values)):
        total += values[index]
        bad += 0.0 if abs(values[index]) < np.inf else 1.0
    return total, bad


@njit(fastmath=FAST_MATH | {"nnan"}, error_model="numpy")
def _extremes(values):
    """Largest and smallest of numbers none of which is NaN."""
    high, low = values[0], values[0]
    for value in values:
        high, low = max(high, value), min(low, value)
    return high, low


@compile_loop(
    *(types.void(types.Array(kind, 3, "C", readonly=True), _FLAGS) for kind in (types.float32, types.float64))
)
def has_bad_pixels(images: NDArray, out: NDArray) -> None:
    """Tell which images have a pixel that is not finite.

    Parameters
    ----------
    images : ndarray
        Images in single or double precision, shape ``(M, ny, nx)``.
    out : ndarray of bool
        Result: True for these images, shape ``(M,)``.
    """
    for number in range(len(images)):
        _, bad = _sum_and_bad(images[number].reshape(-1))
        out[number] = bad > 0.0


@njit(error_model="numpy")
def _multiply(values, factor):
    for index in range(len(values)):
        values[index] *= factor


@njit(error_model="numpy")
def _peak_and_sum(values):
    """Largest absolute value, 0 if a number is not finite, and the sum, which may be too large for a number."""
    total, bad = _sum_and_bad(values)
    if bad > 0.0:
        return 0.0, total
    high, low = _extremes(values)
    return max(high, -low), total


@njit(error_model="numpy")
def _normalise(values):
    """Give the pixels of an image the sum 1, or 0 if it cannot be used; whether it can."""
    peak, total = _peak_and_sum(values)
    if peak > 0.0 and not 1.0 / _SAFE < peak < _SAFE:
        for index in range(len(values)):
            values[index] /= peak
        peak, total = _peak_and_sum(values)
    is_usable = peak > 0.0 and total / peak > _LEAST_SUM
    if is_usable:
        _multiply(values, 1.0 / total)
    else:
        values[:] = 0.0
    return is_usable


@njit(error_model="numpy")
def _first_equal(image, value):
    """Row and column of the first pixel that has a value."""
    for y in range(len(image)):
        line, count = image[y], 0
        for x in range(len(line)):
            count += line[x] == value
        if count > 0:
            for x in range(len(line)):
                if line[x] == value:
                    return y, x
    return 0, 0


@njit(fastmath=FAST_MATH, error_model="numpy")
def _add_above(line, threshold, columns):
    """Add what a line has above a threshold to columns; its sum."""
    total = 0.0
    for x in range(len(line)):
        weight = line[x] - threshold if line[x] > threshold else 0.0
        columns[x] += weight
        total += weight
    return total


@njit(error_model="numpy")
def _centroid_distance(image, threshold, columns):
    """Distance of the centroid of what is above a threshold from the centre, in pixels."""
    n_rows, n_columns = image.shape
    columns[:] = 0.0
    total, moment_y, moment_x = 0.0, 0.0, 0.0
    for y in range(n_rows):
        weight = _add_above(image[y], threshold, columns)
        total += weight
        moment_y += weight * (y - 0.5 * (n_rows - 1))
    for x in range(n_columns):
        moment_x += columns[x] * (x - 0.5 * (n_columns - 1))
    norm = total if total > 0 else 1.0
    return math.hypot(moment_x / norm, moment_y / norm)


@njit(error_model="numpy")
def _log_ratio(profile, place, peak):
    ratio = profile[place] / peak
    return math.log(ratio if ratio > _LEAST_RATIO else _LEAST_RATIO)


@njit(error_model="numpy")
def _half_width(profile, middle):
    """Full width at half maximum of a profile around a pixel, interpolated as a Gaussian; infinite if there is none."""
    last, peak = len(profile) - 1, profile[middle]
    left, right = _log_ratio(profile, max(middle - 1, 0), peak), _log_ratio(profile, min(middle + 1, last), peak)
    curvature = left + right
    is_inside = middle > 0 and middle < last and curvature < 0
    shift = 0.5 * (left - right) / curvature if is_inside else 0.0
    half = -0.25 * (left - right) * shift - math.log(2.0)
    width = 0.0
    for side in (1, -1):
        outer, before = 1, 0.0
        crossing = np.inf
        while 0 <= middle + side * outer <= last:
            here = _log_ratio(profile, middle + side * outer, peak)
            if here < half:
                far, near = (outer - side * shift) ** 2, (outer - 1 - side * shift) ** 2
                square = near + (half - before) / (here - before) * (far - near)
                crossing = math.sqrt(0.0 if square < 0.0 else square)
                break
            outer, before = outer + 1, here
        width += crossing
    return width


@compile_loop(types.void(_IMAGES, types.Array(types.boolean, 1, "C", readonly=True), _OUT, _OUT))
def measure_shapes(images: NDArray, ok: NDArray, offset: NDArray, fwhm: NDArray) -> None:
    """Write distances of centroids from the centre, and widths, of images that can be used.

    Parameters
    ----------
    images : ndarray
        Images of PSFs, shape ``(M, ny, nx)``.
    ok : ndarray of bool
        Images that can be used, shape ``(M,)``; results of others stay as they are.
    offset, fwhm : ndarray
        Results in pixels of the images, shape ``(M,)``.
    """
    _, n_rows, n_columns = images.shape
    columns, along_x, along_y = np.empty(n_columns), np.empty(n_columns), np.empty(n_rows)
    for number in range(len(images)):
        if not ok[number]:
            continue
        image = images[number]
        peak, _ = _extremes(image.reshape(-1))
        y, x = _first_equal(image, peak)
        for place in range(n_columns):
            along_x[place] = image[y, place]
        for place in range(n_rows):
            along_y[place] = image[place, x]
        offset[number] = _centroid_distance(image, _THRESHOLD * peak, columns)
        fwhm[number] = 0.5 * (_half_width(along_x, x) + _half_width(along_y, y))


@njit(fastmath=FAST_MATH, error_model="numpy")
def _gather(values, pixels, out, copy):
    """Write the values of pixels twice; how many of them are not finite."""
    bad = 0.0
    for index in range(len(pixels)):
        value = values[pixels[index]]
        out[index] = value
        copy[index] = value
        bad += 0.0 if abs(value) < np.inf else 1.0
    return bad


@njit(fastmath=FAST_MATH, error_model="numpy")
def _gather_product(values, factors, index, out):
    """Write products of values and of the factors that each of them has; how many of them are not finite."""
    bad = 0.0
    for number in range(len(values)):
        product = values[number] * factors[index[number]]
        out[number] = product
        bad += 0.0 if abs(product) < np.inf else 1.0
    return bad


@njit(fastmath=FAST_MATH, error_model="numpy")
def _add_product(total, line, factor):
    for index in range(len(total)):
        total[index] += factor * line[index]


@njit(fastmath=FAST_MATH, error_model="numpy")
def _add_square(total, line, slope, height):
    for index in range(len(total)):
        residual = height - slope[index] * line[index]
        total[index] += residual * residual


@njit(error_model="numpy")
def _fit_lines(heights, offsets, squares, slope, mean_square):
    """Fit straight lines for all cores: the best core, its slope, the mean height and the scatter.

    ``offsets`` (annuli, cores) are the abscissae less their means, ``squares`` (cores,) sums of their squares.
    """
    level = 0.0
    slope[:] = 0.0
    mean_square[:] = 0.0
    for number in range(len(heights)):
        level += heights[number] / len(heights)
        _add_product(slope, offsets[number], heights[number])
    for core in range(len(slope)):
        slope[core] /= squares[core]
    for number in range(len(heights)):
        _add_square(mean_square, offsets[number], slope, heights[number] - level)
    best, least = 0, np.inf
    for core in range(len(slope)):
        if mean_square[core] < least:
            best, least = core, mean_square[core]
    return best, slope[best], level, math.sqrt(mean_square[best] / len(heights))


@njit(error_model="numpy")
def _fit_wing(flat, annuli):
    """Core radius squared, slope, intercept and scatter of the logarithms of the medians of annuli; or NaN."""
    pixels, first, index, squared_radii, first_radius, abscissae, offsets, squares, mean_abscissae, cores = annuli
    n_annuli, n_cores = abscissae.shape
    wing, values, room = np.empty(len(pixels)), np.empty(len(pixels)), np.empty(len(pixels))
    heights, slopes, mean_square = np.empty(n_annuli), np.empty(n_cores), np.empty(n_cores)
    factors, core, slope = np.empty(len(squared_radii)), 0, 0.0
    for step in range(2 * n_annuli):
        number = n_annuli - 1 - step % n_annuli  # the faintest first, which fail most often
        begin, end = first[number], first[number + 1]
        if step < n_annuli:
            bad = _gather(flat, pixels[begin:end], wing[begin:end], values)
        else:
            of_annulus = factors[first_radius[number] : first_radius[number + 1]]
            bad = _gather_product(wing[begin:end], of_annulus, index[begin:end], values)
        height = median_of(values, end - begin, room, end - begin) if bad == 0.0 else 0.0
        if not height > 0.0:
            return np.nan, np.nan, np.nan, np.nan
        heights[number] = math.log(height) + slope * abscissae[number, core]
        if step == n_annuli - 1:
            core, slope, _, _ = _fit_lines(heights, offsets, squares, slopes, mean_square)
            for radius in range(len(squared_radii)):
                factors[radius] = math.exp(-slope * math.log(squared_radii[radius] + cores[core]))
    core, slope, level, scatter = _fit_lines(heights, offsets, squares, slopes, mean_square)
    return cores[core], slope, level - slope * mean_abscissae[core], scatter


@njit(fastmath=FAST_MATH, error_model="numpy")
def _sum_pairs(values, pixels, last):
    """Sum and difference of pixels and of those opposite to them."""
    total, difference = 0.0, 0.0
    for index in range(len(pixels)):
        light, opposite = values[pixels[index]], values[last - pixels[index]]
        total += light + opposite
        difference += light - opposite
    return total, difference


@njit(error_model="numpy")
def _spike_share(levels):
    """Share of the light of a band that stands out of the median of its sectors, which are put in order."""
    total = 0.0
    for number in range(len(levels)):
        value, place = levels[number], number
        total += value
        while place > 0 and levels[place - 1] > value:
            levels[place] = levels[place - 1]
            place -= 1
        levels[place] = value
    middle = len(levels) // 2
    return 1.0 - 0.5 * (levels[middle - 1] + levels[middle]) / (total / len(levels))


@njit(error_model="numpy")
def _sum_bands(flat, bands, out):
    """Write the light of bands, its noise, and the share of it that stands out of the median of sectors."""
    pixels, first = bands
    n_bands, n_sectors = first.shape[0], first.shape[1] - 1
    levels = np.empty(n_sectors)
    for band in range(n_bands):
        total, square = 0.0, 0.0
        for sector in range(n_sectors):
            begin, end = first[band, sector], first[band, sector + 1]
            light, difference = _sum_pairs(flat, pixels[begin:end], len(flat) - 1)
            total += light
            square += difference * difference
            levels[sector] = light / (end - begin)
        out[band], out[n_bands + band], out[2 * n_bands + band] = total, math.sqrt(square), _spike_share(levels)


@compile_loop(
    types.void(
        types.Array(types.float64, 3, "C"), types.boolean,
        types.Tuple([_INDICES, _INDICES, _INDICES, _NUMBERS, _INDICES, _TABLE, _TABLE, *[_NUMBERS] * 3]),
        types.Tuple([_INDICES, types.Array(types.int64, 2, "C", readonly=True)]),
        _FLAGS, types.Array(types.float64, 2, "C"),
    )
)  # fmt: skip
def measure_wings(images: NDArray, normalise: bool, annuli: tuple, bands: tuple, ok: NDArray, out: NDArray) -> None:
    """Write what the wings of PSF images tell, and give images the sum 1 before if that is asked for.

    Parameters
    ----------
    images : ndarray
        Images of PSFs, changed in place if they are normalised, shape ``(M, ny, nx)``.
    normalise : bool
        True to give images the sum 1, or 0 if they cannot be used, before they are measured.
    annuli : tuple of ndarray
        Flat indices of the pixels of all annuli; where those of each begin, and end at last; the number of the distinct
        radius of each pixel, counted within its annulus; squares of the distinct radii of all annuli; where those of
        each begin, and end at last; logarithms of the squared radii of annuli plus squared core radii, ``(K, C)``;
        these less their means over annuli; sums of the squares of that; these means; squared core radii.
    bands : tuple of ndarray
        Flat indices of the pixels of all sectors in the upper half plane, an even number of sectors for each band; and
        where those of each sector begin, and end at last, ``(L, S + 1)``.
    ok : ndarray of bool
        Result if images are normalised: those that are finite and have a positive sum, shape ``(M,)``.
    out : ndarray
        Result, shape ``(M, 5 + 3 L)``: the sum of the image; core radius squared, slope, intercept and scatter of the
        power law, or NaN; light of bands, its noise, and the share that stands out of the median of sectors.
    """
    for number in range(len(images)):
        flat = images[number].reshape(-1)
        if normalise:
            ok[number] = _normalise(flat)
        out[number, 0], _ = _sum_and_bad(flat)
        if len(annuli[0]) > 0:
            out[number, 1], out[number, 2], out[number, 3], out[number, 4] = _fit_wing(flat, annuli)
        _sum_bands(flat, bands, out[number, 5:])
