"""Quantities derived from the seven Sersic parameters, with errors propagated from their covariance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import astropy.units as u
import numpy as np

from galmeasure.parameters import PARAMETER_INDEX, g_to_q_theta

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

__all__ = ["ab_zero_point", "magnitude", "shape_columns", "sky_shape_columns"]

MAX_THETA_ERR = 90.0 / np.sqrt(3.0)
"""Standard deviation in degrees of an angle of which nothing is known."""

_POGSON = 2.5 / np.log(10.0)


def shape_columns(
    values: npt.NDArray[np.float64], covariance: npt.NDArray[np.float64]
) -> dict[str, npt.NDArray[np.float64]]:
    """Compute semi-major radius, axis ratio and position angle with their errors.

    Parameters
    ----------
    values : ndarray, shape (N, 7)
        Parameters in the order of the table of parameters.
    covariance : ndarray, shape (N, 7, 7)
        Covariance of the parameters.

    Returns
    -------
    dict of str to ndarray
        ``r_eff_major``, ``q``, ``theta`` (degrees) and each with ``_err``.
    """
    i_r, i_1, i_2 = (PARAMETER_INDEX[name] for name in ("r_eff", "g1", "g2"))
    r_eff, g1, g2 = values[:, i_r], values[:, i_1], values[:, i_2]
    with np.errstate(all="ignore"):
        g = np.hypot(g1, g2)
        q, theta = g_to_q_theta(g1, g2)
        theta = np.where(np.isfinite(g), theta, np.nan)
        cos, sin = np.where(g > 0, g1 / g, 1.0), np.where(g > 0, g2 / g, 0.0)
        along, across = (cos, sin), (-sin, cos)
        block = covariance[:, [[i_1, i_1], [i_2, i_2]], [[i_1, i_2], [i_1, i_2]]]
        var_g, var_t = _quadratic(block, along), _quadratic(block, across)
        cov_rg = covariance[:, i_r, i_1] * cos + covariance[:, i_r, i_2] * sin
        stretch = 1.0 / np.sqrt(q)
        d_g = r_eff * stretch / (1.0 - g**2)
        var_major = stretch**2 * covariance[:, i_r, i_r] + d_g**2 * var_g + 2.0 * stretch * d_g * cov_rg
        theta_err = np.degrees(0.5 * np.sqrt(var_t) / g)
        theta_err = np.where(np.isfinite(var_t), np.fmin(theta_err, MAX_THETA_ERR), np.nan)
        return {
            "r_eff_major": r_eff * stretch,
            "r_eff_major_err": np.sqrt(np.maximum(var_major, 0.0)),
            "q": np.where(q > 0, q, np.nan),
            "q_err": 2.0 * np.sqrt(np.maximum(var_g, 0.0)) / (1.0 + g) ** 2,
            "theta": theta,
            "theta_err": theta_err,
        }


SQUARE = 1e-3
"""Relative difference of the axes of a pixel on the sky below which it counts as square."""

_STEP = 1e-6


def sky_shape_columns(
    values: npt.NDArray[np.float64],
    covariance: npt.NDArray[np.float64],
    jacobian: npt.NDArray[np.float64],
    columns: Mapping[str, npt.NDArray[np.float64]],
) -> tuple[dict[str, npt.NDArray[np.float64]], npt.NDArray[np.float64]]:
    """Compute semi-major radius, axis ratio and position angle on the sky, where pixels are not square on it.

    Parameters
    ----------
    values : ndarray, shape (N, 7)
        Parameters, lengths in pixels.
    covariance : ndarray, shape (N, 7, 7)
        Covariance of the parameters.
    jacobian : ndarray, shape (N, 2, 2)
        Arcsec towards (east, north) per pixel in (x, y).
    columns : dict of str to ndarray
        Columns that `shape_columns` returns for the pixel frame; rows with square pixels are taken from them.

    Returns
    -------
    columns : dict of str to ndarray
        ``r_eff_major`` (in pixels of the same area), ``q`` and each with ``_err``.
    pa : ndarray, shape (N,)
        Angle of the major axis east of north, degrees in [0, 180); NaN where pixels are square or without a WCS.
    """
    pa = np.full(len(values), np.nan)
    columns = {name: np.array(columns[name]) for name in ("r_eff_major", "r_eff_major_err", "q", "q_err")}
    with np.errstate(all="ignore"):
        stretch = np.linalg.svd(np.where(np.isfinite(jacobian), jacobian, 0.0), compute_uv=False)
        rows = np.flatnonzero(stretch[:, 0] > (1.0 + SQUARE) * stretch[:, 1])
        rows = rows[(stretch[rows, 1] > 0) & np.isfinite(values[rows]).all(axis=1)]
        if not len(rows):
            return columns, pa
        i_1, i_2 = PARAMETER_INDEX["g1"], PARAMETER_INDEX["g2"]
        g, jacobian = values[rows][:, [i_1, i_2]], jacobian[rows]
        slope = np.tile(np.eye(values.shape[1]), (len(rows), 1, 1))
        for k, i in enumerate((i_1, i_2)):
            step = np.where(np.arange(2) == k, _STEP, 0.0)
            change = (_sky_ellipticity(g + step, jacobian) - _sky_ellipticity(g - step, jacobian)) / (2.0 * _STEP)
            slope[:, [i_1, i_2], i] = change
        turned = values[rows].copy()
        turned[:, [i_1, i_2]] = _sky_ellipticity(g, jacobian)
        on_sky = shape_columns(turned, slope @ covariance[rows] @ slope.transpose(0, 2, 1))
        for name, column in columns.items():
            column[rows] = on_sky[name]
        pa[rows] = on_sky["theta"]
    return columns, pa


def _sky_ellipticity(g, jacobian):
    """Ellipticity (N, 2) on the sky, from north through east, of ellipticities (N, 2) in pixels."""
    g1, g2 = g.T
    size = 1.0 + g1**2 + g2**2
    ellipse = np.stack([size + 2.0 * g1, 2.0 * g2, 2.0 * g2, size - 2.0 * g1], axis=-1).reshape(-1, 2, 2)
    (ee, en), (_, nn) = np.moveaxis(jacobian @ ellipse @ jacobian.transpose(0, 2, 1), 0, -1)
    e1, e2 = (nn - ee) / (nn + ee), 2.0 * en / (nn + ee)
    shrink = 1.0 + np.sqrt(np.maximum(1.0 - e1**2 - e2**2, 0.0))
    return np.stack([e1 / shrink, e2 / shrink], axis=-1)


def _quadratic(block, direction):
    """Variance (N,) along a direction, two arrays (N,), of 2 x 2 covariances (N, 2, 2)."""
    a, b = direction
    return a**2 * block[:, 0, 0] + 2.0 * a * b * block[:, 0, 1] + b**2 * block[:, 1, 1]


def ab_zero_point(
    unit: u.UnitBase | None, pixel_scale: npt.NDArray[np.float64] | None
) -> float | npt.NDArray[np.float64] | None:
    """Return the AB magnitude of a flux of 1, if the unit is physical.

    Parameters
    ----------
    unit : UnitBase or None
        Unit of the pixels. Surface brightnesses (MJy/sr) need the pixel scale, as fluxes are sums over pixels.
    pixel_scale : ndarray, shape (N,), or None
        Arcsec per pixel, where it is known.

    Returns
    -------
    float or ndarray or None
        Magnitude, of shape ``(N,)`` for surface brightnesses; None if the unit is not physical.
    """
    if unit is None:
        return None
    for reference, zero in ((u.Jy, 3631.0), (u.maggy, 1.0)):
        if unit.is_equivalent(reference):
            return -2.5 * np.log10(unit.to(reference) / zero)
        if unit.is_equivalent(reference / u.sr) and pixel_scale is not None:
            area = (pixel_scale * u.arcsec.to(u.rad)) ** 2
            with np.errstate(all="ignore"):
                return -2.5 * np.log10(unit.to(reference / u.sr) * area / zero)
    return None


def magnitude(
    flux: npt.NDArray[np.float64], flux_err: npt.NDArray[np.float64], zero_point: float | npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Compute magnitudes and their errors.

    Parameters
    ----------
    flux, flux_err : ndarray, shape (N,)
        Fluxes and their 1-sigma errors.
    zero_point : float or ndarray
        Magnitude of a flux of 1.

    Returns
    -------
    mag, mag_err : ndarray, shape (N,)
        Magnitudes and errors; NaN where the flux is not positive.
    """
    with np.errstate(all="ignore"):
        positive = np.where(flux > 0, flux, np.nan)
        return zero_point - 2.5 * np.log10(positive), _POGSON * flux_err / positive
