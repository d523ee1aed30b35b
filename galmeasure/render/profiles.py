"""The unit Sersic profile and its Fourier (Hankel) transform, by quadrature, and the table that ships with the package.

``python -m galmeasure.render.profiles`` writes the table anew.
"""

from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

TABLE_LOG_N = np.linspace(np.log(0.27), np.log(8.6), 80)
TABLE_LOG_K = np.linspace(np.log(1e-4), np.log(2e4), 640)
_TABLE_FILE = "sersic_transform.npy"
_EXPONENT_MAX = 45.0  # exp(-45) is below the rounding of the sum


def sersic_b(n: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Constant ``b_n`` that makes ``r_eff`` the half-light radius (Ciotti & Bertin 1999, A&A 352, 447)."""
    from scipy.special import gammaincinv

    return gammaincinv(2.0 * np.asarray(n, dtype=float), 0.5)


def sersic_amplitude(n: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Central surface brightness of the profile with unit flux and unit half-light radius."""
    from scipy.special import gammaln

    n = np.asarray(n, dtype=float)
    return np.exp(2.0 * n * np.log(sersic_b(n)) - np.log(2.0 * np.pi * n) - gammaln(2.0 * n))


def hankel_transform(n: float, kappa: npt.ArrayLike, n_nodes: int = 600) -> npt.NDArray[np.float64]:
    """Fourier transform of the Sersic profile of unit flux and unit half-light radius.

    The Hankel integral is taken along a ray rotated into the complex plane, where both the profile
    and the Bessel function decay, so a trapezoid rule in the logarithm of the radius is exact to rounding.

    Parameters
    ----------
    n : float
        Sersic index of the profile.
    kappa : array_like
        Wavenumber times half-light radius, positive.
    n_nodes : int, optional
        Nodes of the quadrature.

    Returns
    -------
    transform : ndarray
        Value at each ``kappa``, accurate to about 1e-12.
    """
    from scipy.special import hankel1, kv

    kappa = np.atleast_1d(np.asarray(kappa, dtype=float))[:, None]
    b = sersic_b(n)
    angle = min(np.pi / 2.0, n * np.pi / 4.0)
    s_max = (_EXPONENT_MAX / (b * np.cos(angle / n))) ** n
    s_max = np.minimum(s_max, _EXPONENT_MAX / (kappa * np.sin(angle)))
    s_min = np.minimum(1e-9, s_max * 1e-12)
    log_s = np.log(s_min) + np.linspace(0.0, 1.0, n_nodes) * np.log(s_max / s_min)
    s = np.exp(log_s)
    on_axis = angle == np.pi / 2.0
    bessel = kv(0, kappa * s) * (2.0 / (np.pi * 1j)) if on_axis else hankel1(0, kappa * s * np.exp(1j * angle))
    integrand = np.exp(-b * s ** (1.0 / n) * np.exp(1j * angle / n)) * bessel * s**2 * np.exp(2j * angle)
    integrand[:, [0, -1]] *= 0.5
    return 2.0 * np.pi * sersic_amplitude(n) * integrand.sum(axis=1).real * (log_s[:, 1] - log_s[:, 0])


def _spline_coefficients(values, axis):
    """Coefficients of the interpolating cubic B-spline on a uniform grid, two more than the values."""
    from scipy.sparse import diags
    from scipy.sparse.linalg import spsolve

    n_values = values.shape[axis]
    size = n_values + 2
    matrix = diags([np.full(size, 1 / 6), np.full(size, 4 / 6), np.full(size, 1 / 6)], [0, 1, 2], (n_values, size))
    matrix = matrix.tolil()
    matrix.resize((size, size))
    matrix[n_values, :3] = [1.0, -2.0, 1.0]
    matrix[n_values + 1, -3:] = [1.0, -2.0, 1.0]
    right = np.moveaxis(values, axis, 0).reshape(n_values, -1)
    right = np.vstack([right, np.zeros((2, right.shape[1]))])
    solved = spsolve(matrix.tocsc(), right).reshape(size, *np.moveaxis(values, axis, 0).shape[1:])
    return np.moveaxis(solved, 0, axis)


def build_table() -> npt.NDArray[np.float64]:
    """B-spline coefficients of the transform on the grid ``TABLE_LOG_N`` x ``TABLE_LOG_K``."""
    values = np.array([hankel_transform(n, np.exp(TABLE_LOG_K)) for n in np.exp(TABLE_LOG_N)])
    return _spline_coefficients(_spline_coefficients(values, 0), 1)


@cache
def load_table() -> npt.NDArray[np.float64]:
    """Read-only B-spline coefficients, shape ``(len(TABLE_LOG_N) + 2, len(TABLE_LOG_K) + 2)``."""
    with (files("galmeasure") / "data" / _TABLE_FILE).open("rb") as stream:
        table = np.load(stream, allow_pickle=False)
    table.flags.writeable = False
    return table


def polynomial_pieces(table: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Polynomials between the nodes of uniform cubic B-splines.

    Parameters
    ----------
    table : ndarray
        Coefficients of the B-splines along the second axis, shape ``(rows, K + 2)``.

    Returns
    -------
    ndarray
        Coefficients of the four powers of the fraction between two nodes, shape ``(rows, 4, K - 1)``.
    """
    t0, t1, t2, t3 = (table[:, j : table.shape[1] - 3 + j] for j in range(4))
    constant, linear, square = (t0 + 4.0 * t1 + t2) / 6.0, (t2 - t0) / 2.0, (t0 + t2) / 2.0 - t1
    return np.stack([constant, linear, square, (t3 - t0) / 6.0 + (t1 - t2) / 2.0], 1)


@cache
def coarse_table(stride: int) -> npt.NDArray[np.float64]:
    """B-spline coefficients of the transform on every ``stride``-th node in log k of the table.

    Parameters
    ----------
    stride : int
        Nodes of `TABLE_LOG_K` for each one that is kept; must divide their number less one.

    Returns
    -------
    ndarray
        Read-only, shape ``(len(TABLE_LOG_N) + 2, (len(TABLE_LOG_K) - 1) // stride + 3)``.
    """
    table = load_table()
    values = (table[:, :-2] + 4.0 * table[:, 1:-1] + table[:, 2:]) / 6.0
    coarse = _spline_coefficients(values[:, ::stride], 1)
    coarse.flags.writeable = False
    return coarse


@cache
def profile_table() -> npt.NDArray[np.float64]:
    """B-spline coefficients in log n of ``b_n`` and of the log amplitude, shape ``(len(TABLE_LOG_N) + 2, 2)``."""
    n = np.exp(TABLE_LOG_N)
    table = _spline_coefficients(np.stack([sersic_b(n), np.log(sersic_amplitude(n))], 1), 0)
    table.flags.writeable = False
    return table


if __name__ == "__main__":
    np.save(str(files("galmeasure") / "data" / _TABLE_FILE), build_table())
