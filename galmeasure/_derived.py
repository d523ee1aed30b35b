"""Quantities derived from the seven Sersic parameters, with errors propagated from their covariance."""

import astropy.units as u
import numpy as np

from galmeasure.parameters import PARAMETER_INDEX, g_to_q_theta

__all__ = ["ab_zero_point", "magnitude", "shape_columns"]

MAX_THETA_ERR = 90.0 / np.sqrt(3.0)
"""Standard deviation in degrees of an angle of which nothing is known."""

_POGSON = 2.5 / np.log(10.0)


def shape_columns(values, covariance):
    """Semi-major radius, axis ratio and position angle with their errors.

    Parameters
    ----------
    values : ndarray, shape (N, 7)
        Parameters.
    covariance : ndarray, shape (N, 7, 7)
        Their covariance.

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


def _quadratic(block, direction):
    """Variance (N,) along a direction, two arrays (N,), of 2 x 2 covariances (N, 2, 2)."""
    a, b = direction
    return a**2 * block[:, 0, 0] + 2.0 * a * b * block[:, 0, 1] + b**2 * block[:, 1, 1]


def ab_zero_point(unit, pixel_scale):
    """AB magnitude of a flux of 1 in ``unit`` (scalar or (N,)), or None if the unit is not physical.

    Surface brightnesses (MJy/sr) count if the pixel scale, arcsec, is known: fluxes are sums over pixels.
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


def magnitude(flux, flux_err, zero_point):
    """Magnitude and its error; NaN where the flux is not positive."""
    with np.errstate(all="ignore"):
        positive = np.where(flux > 0, flux, np.nan)
        return zero_point - 2.5 * np.log10(positive), _POGSON * flux_err / positive
