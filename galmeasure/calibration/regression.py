"""Smooth regression of quantiles and of means on two covariates, no more flexible than the data ask for."""

import numpy as np
import numpy.typing as npt
from numpy.polynomial.legendre import legvander2d
from scipy.special import ndtr

__all__ = ["SIZES", "basis", "fit_mean", "fit_quantile"]

SIZES = (0, 1, 3, 6, 10)
"""Numbers of coefficients: nothing, a constant, and polynomials of degree 1, 2 and 3 in two covariates."""

_DEGREE = 3
_RIDGE = 10.0  # pulls coefficients towards 0, with the weight of some 30 galaxies
_FOLDS = 4
_DOUBT = 1.0  # standard errors by which a fit with more terms must be better
_STEPS = 40
_TOLERANCE = 1e-3  # decrease of the loss that does not count; that of one galaxy is about 1
_HUBER = 3.0  # robust standard deviations beyond which a galaxy pulls no harder
_ROOT_TWO_PI = np.sqrt(2.0 * np.pi)
_MAD_TO_SIGMA = 1.4826022


def basis(u: npt.NDArray[np.float64], v: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.float64]:
    """Products of Legendre polynomials, by degree.

    Parameters
    ----------
    u, v : ndarray
        Covariates within -1 and 1, shape ``(N,)``.
    size : int
        Number of terms, one of `SIZES`.

    Returns
    -------
    ndarray
        Shape ``(N, size)``.
    """
    products = legvander2d(u, v, (_DEGREE, _DEGREE)).reshape(len(u), _DEGREE + 1, _DEGREE + 1)
    by_degree = [(total - j, j) for total in range(_DEGREE + 1) for j in range(total + 1)][:size]
    left, right = np.array(by_degree, dtype=np.int64).reshape(-1, 2).T
    return products[:, left, right]


def fit_quantile(
    u: npt.NDArray[np.float64],
    v: npt.NDArray[np.float64],
    target: npt.NDArray[np.float64],
    level: float,
    scale: float | None = None,
) -> npt.NDArray[np.float64]:
    """Coefficients of a conditional quantile.

    Parameters
    ----------
    u, v, target : ndarray
        Covariates and the quantity that follows them, shape ``(N,)``.
    level : float
        Probability of the quantile, between 0 and 1.
    scale : float, optional
        Width of the target's distribution near the quantile; by default a robust standard deviation.

    Returns
    -------
    ndarray
        Shape ``(size,)``, with as many terms as cross-validation finds useful; none if 0 is as good.

    Notes
    -----
    The check function of Koenker & Bassett (1978), convolved with a Gaussian (He et al. 2023, "conquer"), plus a ridge.
    """
    scale = _spread(target) if scale is None else scale
    width = scale * min(0.3, ((6.0 + np.log(len(target))) / len(target)) ** 0.4)

    def loss(residual):
        z = residual / width
        density, below = np.exp(-0.5 * z**2) / _ROOT_TWO_PI, ndtr(-z)
        return residual * (level - below) + width * density, level - below, density / width

    return _select(u, v, target, loss)


def fit_mean(
    u: npt.NDArray[np.float64], v: npt.NDArray[np.float64], target: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Coefficients of a conditional mean, outliers bounded (Huber); see `fit_quantile`."""
    limit = _HUBER * _spread(target)

    def loss(residual):
        size = np.abs(residual)
        inner = size <= limit
        value = np.where(inner, 0.5 * size**2, limit * (size - 0.5 * limit))
        return value, np.clip(residual, -limit, limit), inner.astype(float)

    return _select(u, v, target, loss)


def _spread(values):
    """Robust standard deviation, never 0."""
    return max(_MAD_TO_SIGMA * float(np.median(np.abs(values - np.median(values)))), 1e-6)


def _select(u, v, target, loss):
    """Simplest fit whose loss in cross-validation is within a standard error of the best (Breiman et al. 1984)."""
    fold = np.arange(len(target)) % _FOLDS
    full = basis(u, v, SIZES[-1])
    losses, fits = np.empty((len(SIZES), len(target))), []
    for i, size in enumerate(SIZES):
        start = np.zeros(size)
        if fits:
            start[: len(fits[-1])] = fits[-1]
        fits.append(_minimise(full[:, :size], target, loss, start))
        for k in range(_FOLDS):
            held = fold == k
            coefficients = _minimise(full[~held, :size], target[~held], loss, fits[-1])
            losses[i, held] = loss(target[held] - full[held, :size] @ coefficients)[0]
    best = losses[losses.mean(axis=1).argmin()]
    excess = losses - best
    error = excess.std(axis=1) / np.sqrt(len(target))
    return fits[int(np.argmax(excess.mean(axis=1) <= _DOUBT * error))]


def _minimise(design, target, loss, solution):
    """Coefficients of least loss plus ridge, by damped Newton steps from a start; the problem is convex."""
    size = len(solution)
    if not size:
        return solution

    def total(coefficients):
        value, slope, bend = loss(target - design @ coefficients)
        return value.sum() + 0.5 * _RIDGE * coefficients @ coefficients, slope, bend

    value, slope, bend = total(solution)
    for _ in range(_STEPS):
        gradient = design.T @ slope - _RIDGE * solution
        curvature = design.T @ ((bend + 0.05 * bend.mean())[:, None] * design) + _RIDGE * np.eye(size)
        step = np.linalg.solve(curvature, gradient)
        if step @ gradient < _TOLERANCE:
            break
        fraction = 1.0
        while fraction > 1e-4:
            trial = total(solution + fraction * step)
            if trial[0] <= value - 1e-4 * fraction * (step @ gradient):
                break
            fraction *= 0.5
        else:
            break
        solution = solution + fraction * step
        value, slope, bend = trial
    return solution
