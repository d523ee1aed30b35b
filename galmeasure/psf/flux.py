"""The argument ``psf_flux``: the fraction of a star's light that its PSF image holds, where the user knows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from galmeasure.utils.units import per_cutout

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["FLUX_OF_SUM", "PSFFlux", "hold_fluxes", "read_psf_flux"]

FLUX_OF_SUM = "sum"
"""Word for images whose sums are these fractions."""

_LARGEST = 1.05  # noise and over-subtracted sky can lift the sum of an image that holds all the light above 1


@dataclass(frozen=True)
class PSFFlux:
    """Light in PSF images as the user gives it.

    Parameters
    ----------
    told : float or str or None
        The one fraction of all images, ``"sum"``, ``"per cutout"``, or None if nothing is said.
    values : ndarray, shape (N,), or None
        Fraction for each cutout, NaN where it is not a possible one; None unless there are numbers.
    """

    RULE: ClassVar[str] = f"must be above 0 and at most {_LARGEST}, the fraction of the light in the image, or 'sum'"

    told: float | str | None = None
    values: np.ndarray | None = None


def read_psf_flux(flux: float | str | npt.ArrayLike | None, n_cutouts: int) -> PSFFlux:
    """Read the argument ``psf_flux``.

    Parameters
    ----------
    flux : float, array_like of shape (N,), "sum" or None
        Value of the argument ``psf_flux``.
    n_cutouts : int
        Number of cutouts, N.

    Returns
    -------
    PSFFlux
        Fractions of the light within the images.

    Raises
    ------
    ValueError, TypeError
        If it is another word or kind, has another shape, or a single number is not in the range.
    """
    if flux is None:
        return PSFFlux()
    if isinstance(flux, str):
        if flux != FLUX_OF_SUM:
            msg = f"psf_flux {PSFFlux.RULE}, not {flux!r}"
            raise ValueError(msg)
        return PSFFlux(FLUX_OF_SUM)
    values, _ = per_cutout("psf_flux", flux, n_cutouts)
    possible = _possible(values)
    if np.ndim(flux) == 0:
        if not possible.all():
            msg = f"psf_flux {PSFFlux.RULE}, not {flux}"
            raise ValueError(msg)
        return PSFFlux(float(values[0]), values)
    return PSFFlux("per cutout", np.where(possible, values, np.nan))


def _possible(values):
    """Test if fractions are in the range."""
    with np.errstate(invalid="ignore"):
        return (values > 0) & (values <= _LARGEST)


def hold_fluxes(
    images: list[npt.NDArray[np.float64]],
    index: npt.NDArray[np.int64],
    flux: PSFFlux,
    sums: npt.NDArray[np.float64] | None = None,
) -> tuple[list[npt.NDArray[np.float64]], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Scale PSF images to the sums that a user gives.

    Parameters
    ----------
    images : list of ndarray
        Normalised images of any positive sum, M of them.
    index : ndarray of int, shape (N,)
        Image of each cutout, -1 for none.
    flux : PSFFlux
        Fractions of the light as the user gives them.
    sums : ndarray, shape (M,), optional
        Sums of the images as they were given, for ``"sum"``.

    Returns
    -------
    images : list of ndarray
        Images for each pair of an image and a flux, K of them; zeros where the flux is not a possible one.
    index : ndarray of int, shape (N,)
        Image of each cutout, -1 for none.
    kind : ndarray of int, shape (K,)
        Index of the given image of each of them.
    """
    kind, new_index, fractions = np.arange(len(images)), index, sums
    if flux.values is not None:
        pairs = np.stack([index.astype(np.float64), np.nan_to_num(flux.values)], axis=1)[index >= 0]
        pairs, inverse = np.unique(pairs, axis=0, return_inverse=True)
        if not len(pairs):
            return images, index, kind
        kind, fractions = pairs[:, 0].astype(np.int64), pairs[:, 1]
        new_index = np.full(len(index), -1, dtype=np.int64)
        new_index[index >= 0] = inverse.reshape(-1)
    fractions = np.where(_possible(fractions), fractions, 0.0)
    return [_with_sum(images[k], value) for k, value in zip(kind, fractions, strict=True)], new_index, kind


def _with_sum(image, value):
    """Copy of an image, scaled to a sum; zeros if that is impossible."""
    total = image.sum()
    return image * (value / total) if total > 0 else np.zeros_like(image)
