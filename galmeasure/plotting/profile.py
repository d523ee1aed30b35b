"""Mean brightness along ellipses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["elliptical_profile"]


def elliptical_profile(
    image: npt.ArrayLike,
    error: npt.ArrayLike,
    good: npt.ArrayLike,
    centre: tuple[float, float],
    q: float,
    theta: float,
    *,
    n_bins: int = 24,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Compute the mean of an image in elliptical annuli.

    Parameters
    ----------
    image, error : (ny, nx) array_like
        Pixels and their 1-sigma errors.
    good : (ny, nx) array_like of bool
        True for pixels that are used.
    centre : (float, float)
        x and y of the centre, in pixels.
    q, theta : float
        Axis ratio, and position angle of the major axis in degrees, counter-clockwise from +x.
    n_bins : int, optional
        Largest number of annuli. Their widths grow with the radius; one without pixels is left out.

    Returns
    -------
    radius : ndarray
        Mean semi-major radius of the pixels of each annulus, in pixels.
    mean, mean_error : ndarray
        Mean of the pixels and the error of that mean.

    Examples
    --------
    >>> import numpy as np
    >>> from galmeasure.evaluation import elliptical_profile
    >>> flat = np.full((9, 9), 2.0)
    >>> radius, mean, mean_error = elliptical_profile(flat, 0.1 * flat, flat > 0, (4, 4), 0.5, 30.0)
    >>> bool(np.all(mean == 2.0))
    True
    """
    image, error, good = np.asarray(image, float), np.asarray(error, float), np.asarray(good, bool)
    y, x = np.indices(image.shape)
    dx, dy = x - centre[0], y - centre[1]
    cos, sin = np.cos(np.radians(theta)), np.sin(np.radians(theta))
    radius = np.hypot(dx * cos + dy * sin, (dy * cos - dx * sin) / q)
    largest = np.hypot(*image.shape) / 2
    edges = largest * np.linspace(0, 1, n_bins + 1) ** 1.5  # annuli widen outwards
    index = np.searchsorted(edges, radius, side="right") - 1
    use = good & (index < n_bins) & np.isfinite(image) & np.isfinite(error)
    index = index[use]
    count = np.bincount(index, minlength=n_bins)
    filled = count > 0

    def total(values):
        return np.bincount(index, values[use], n_bins)[filled]

    return total(radius) / count[filled], total(image) / count[filled], np.sqrt(total(error**2)) / count[filled]
