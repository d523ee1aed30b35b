"""Ellipses as axes and as covariances, and errors through any function."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["axes_of_covariance", "covariance_of_axes", "propagated", "shear_errors"]

_STEP = 1e-6
"""Step of numerical derivatives: their error is its square, and rounding over it is as small."""


def axes_of_covariance(
    radius_x: npt.NDArray[np.float64], radius_y: npt.NDArray[np.float64], rho: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Semi-major axis, axis ratio and angle in degrees from +x of the ellipse that a covariance describes."""
    xx, yy, xy = radius_x**2, radius_y**2, rho * radius_x * radius_y
    with np.errstate(all="ignore"):
        major = np.sqrt(0.5 * (xx + yy + np.hypot(xx - yy, 2.0 * xy)))
        # the product of the axes is the root of the determinant; a difference of trace and spread would lose digits
        minor = radius_x * radius_y * np.sqrt(1.0 - rho**2) / major
        return major, minor / major, np.degrees(0.5 * np.arctan2(2.0 * xy, xx - yy))


def covariance_of_axes(
    major: npt.NDArray[np.float64], q: npt.NDArray[np.float64], angle: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Roots of the diagonal of a covariance and its correlation, the inverse of `axes_of_covariance`."""
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    xx = major**2 * (cos**2 + (q * sin) ** 2)
    yy = major**2 * (sin**2 + (q * cos) ** 2)
    xy = major**2 * (1.0 - q**2) * sin * cos
    with np.errstate(all="ignore"):
        return np.sqrt(xx), np.sqrt(yy), xy / np.sqrt(xx * yy)


def propagated(
    function: Callable[..., Sequence[npt.NDArray[np.float64]]],
    values: Sequence[npt.NDArray[np.float64]],
    errors: Sequence[npt.NDArray[np.float64] | None],
    *,
    period: float | None = None,
) -> list[npt.NDArray[np.float64] | None]:
    """Errors of what a function gives, as if those of its arguments were independent.

    Parameters
    ----------
    function : callable
        Gives arrays (N,) of as many arrays (N,).
    values, errors : sequence of ndarray or None
        Arguments of the function, and their errors.
    period : float, optional
        Period of the last array that the function gives, such as 180 for position angles.

    Returns
    -------
    list of ndarray or None
        Errors of each array that the function gives; None for all of them where one of the errors is None.
    """
    count = len(function(*values))
    if any(error is None for error in errors):
        return [None] * count
    square = 0.0
    for k, error in enumerate(errors):
        ends = [np.array(function(*(v + s * _STEP * (i == k) for i, v in enumerate(values)))) for s in (-1.0, 1.0)]
        change = ends[1] - ends[0]
        if period is not None:
            change[-1] = (change[-1] + 0.5 * period) % period - 0.5 * period
        square = square + (change / (2.0 * _STEP) * error) ** 2
    return list(np.sqrt(square))


def shear_errors(
    q: npt.NDArray[np.float64],
    q_err: npt.NDArray[np.float64] | None,
    angle: npt.NDArray[np.float64],
    angle_err: npt.NDArray[np.float64] | None,
) -> tuple[npt.NDArray[np.float64] | None, npt.NDArray[np.float64] | None]:
    """Errors of the two components of (a - b) / (a + b), of those of axis ratio and angle in degrees."""
    if q_err is None or angle_err is None:
        return None, None
    along = 2.0 * q_err / (1.0 + q) ** 2
    across = 2.0 * (1.0 - q) / (1.0 + q) * np.radians(angle_err)
    cos, sin = np.cos(2 * np.radians(angle)), np.sin(2 * np.radians(angle))
    return np.hypot(cos * along, sin * across), np.hypot(sin * along, cos * across)
