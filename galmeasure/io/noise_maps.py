"""Errors from maps of variance and weight, in the unit of the image; what the maps say about themselves."""

from collections.abc import Mapping, Sequence

import astropy.units as u
import numpy as np
import numpy.typing as npt

from galmeasure.cutouts.border_noise import border_noise
from galmeasure.exceptions import CatalogError
from galmeasure.io.pixels import LazyPixels
from galmeasure.io.unit_spellings import parse_unit, unit_factor

__all__ = [
    "WEIGHT_TYPES",
    "error_over_noise",
    "has_error_maps",
    "in_unit",
    "is_inverse_variance",
    "shot_noise_share",
    "variance_to_error",
    "weight_to_error",
]

WEIGHT_TYPES = ("ivar", "exposure", "relative")
"""Meanings of a weight: inverse variance, exposure time, or any number that grows with the information."""

_LEAST_AGREEMENT = 0.05
"""Least ratio of the two estimates of a stamp's noise."""

_LEAST_BRIGHT = 20
"""Fewest bright pixels from which it is seen whether errors contain their shot noise."""

_SAYS_INVERSE_VARIANCE = ("IVAR", "INVVAR")


def weight_to_error(weight: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Errors of inverse variances, and the mask of pixels without weight."""
    weight = np.asarray(weight, dtype=np.float64 if np.asarray(weight).dtype.itemsize > 4 else np.float32)
    bad = ~(weight > 0) | ~np.isfinite(weight)
    error = np.ones_like(weight)
    np.divide(1.0, np.sqrt(weight, where=~bad, out=np.ones_like(weight)), out=error, where=~bad)
    return error, bad


def variance_to_error(variance: npt.ArrayLike) -> np.ndarray:
    """Errors of variances, NaN where these are negative."""
    with np.errstate(invalid="ignore"):
        return np.sqrt(np.asarray(variance))


def is_inverse_variance(name: str, header: Mapping, image_unit: u.UnitBase | None, weight_type: str | None) -> bool:
    """Tell if a weight is an inverse variance, by the option, its name, its unit or its ``UTYPE``.

    Parameters
    ----------
    name : str
        Name of the extension or column.
    header : mapping
        Header of the weight, with ``BUNIT`` and ``UTYPE`` where these are known.
    image_unit : astropy.units.UnitBase or None
        Unit of the image.
    weight_type : str or None
        One of ``WEIGHT_TYPES``, or None where nobody said.
    """
    if weight_type is not None:
        return weight_type == "ivar"
    if (
        str(name).upper().rpartition(".")[2].rstrip("0123456789_-") in _SAYS_INVERSE_VARIANCE
        or header.get("UTYPE") == "InverseVariance"
    ):
        return True
    unit = parse_unit(header.get("BUNIT"))
    return unit is not None and image_unit is not None and unit_factor(unit, image_unit**-2) is not None


def in_unit(
    role: str, plane: npt.ArrayLike, text: str | None, image_unit: u.UnitBase | None, where: str
) -> npt.ArrayLike:
    """Pixels of a map of error, variance or weight in the unit of the image.

    Parameters
    ----------
    role : {"error", "variance", "weight"}
        What the map holds.
    plane : array_like
        Pixels of the map.
    text : str or None
        Its unit, as its header has it.
    image_unit : astropy.units.UnitBase or None
        Unit of the image.
    where : str
        File and role, for messages.

    Returns
    -------
    array_like
        The pixels themselves where there is nothing to do. A variance or a weight with the very unit of the image has
        its header, not a unit of its own.
    """
    unit = parse_unit(text)
    power = {"error": 1, "variance": 2, "weight": -2}[role]
    if unit is None or image_unit is None or (role != "error" and unit == image_unit):
        return plane
    factor = unit_factor(unit, image_unit**power)
    if factor is None:
        msg = f"{where}: {role}: its unit, {unit}, does not fit that of the image, {image_unit}"
        raise CatalogError(msg)
    if factor == 1.0:
        return plane
    return LazyPixels(
        [plane], lambda values: values * np.asarray(factor, dtype=np.result_type(values, np.float32)), float
    )


def has_error_maps(error: object) -> bool:
    """Tell if errors are given pixel by pixel: a list of images or a stack of them, rather than numbers."""
    return isinstance(error, list) or (isinstance(error, np.ndarray) and error.ndim == 3)


def shot_noise_share(images: Sequence, errors: Sequence, masks: Sequence, gains: npt.ArrayLike) -> float:
    """Part of the expected shot noise of the sources that error maps contain.

    Parameters
    ----------
    images, errors, masks : sequence of array_like
        Stamps of one shape each: pixels, 1-sigma errors in the same unit, and bad pixels.
    gains : array_like
        Electrons per unit of each stamp, shape ``(N,)``.

    Returns
    -------
    float
        Excess of the variance over that of faint pixels, in units of the image divided by the gain, summed over the
        bright pixels, whose shot noise would be at least half of the variance of the faint ones: 0 for errors of the
        background alone, 1 for all the noise. 0 where too few pixels are bright.
    """
    excess = expected = count = 0
    for image, error, mask, gain in zip(images, errors, masks, gains, strict=True):
        values, variance = np.asarray(image, dtype=float), np.asarray(error, dtype=float) ** 2
        good = np.isfinite(values) & np.isfinite(variance) & (variance > 0)
        good &= True if mask is None else ~np.asarray(mask, dtype=bool)
        if values.shape != variance.shape or not good.any() or not gain > 0:
            continue
        faint = np.median(variance[good & (values <= np.median(values[good]))])
        bright = good & (values / gain > 0.5 * faint)
        excess += np.sum(variance[bright] - faint)
        expected += np.sum(values[bright]) / gain
        count += np.count_nonzero(bright)
    return float(excess / expected) if count >= _LEAST_BRIGHT else 0.0


def error_over_noise(images: Sequence, errors: Sequence, masks: Sequence) -> tuple[float, float]:
    """Errors in units of the noise that is seen in the pixels of stamps, which is seen in two ways.

    Structure in the stamp adds to the scatter at its border, but little to differences of neighbours; correlation of
    the noise lowers these. The noise lies between the two. Stamps in which they differ much, as in images without
    noise, say nothing.

    Parameters
    ----------
    images, errors, masks : sequence of array_like
        Stamps: pixels, 1-sigma errors (an image or a number) in the same unit, and bad pixels.

    Returns
    -------
    lower, upper : float
        Medians over the stamps in units of the larger and of the smaller noise; NaN where no stamp has any.
    """
    ratios = []
    for image, error, mask in zip(images, errors, masks, strict=True):
        values, error = np.asarray(image, dtype=float), np.asarray(error, dtype=float)
        good = np.isfinite(values) & np.isfinite(error) & (True if mask is None else ~np.asarray(mask, dtype=bool))
        pairs = good[:, 1:] & good[:, :-1]
        if not pairs.any():
            continue
        steps = np.diff(values, axis=1)[pairs]
        noise = border_noise(values[None], good[None], np.array([values.shape]))[0]
        neighbour_noise = 1.4826 * np.median(np.abs(steps - np.median(steps))) / np.sqrt(2.0)
        if min(noise, neighbour_noise) > _LEAST_AGREEMENT * max(noise, neighbour_noise):
            typical = np.median(np.broadcast_to(error, values.shape)[good])
            ratios.append((typical / max(noise, neighbour_noise), typical / min(noise, neighbour_noise)))
    return tuple(np.median(ratios, axis=0)) if ratios else (np.nan, np.nan)
