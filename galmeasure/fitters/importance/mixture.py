"""Mixtures of Student t distributions, fitted to weighted draws: proposals of importance sampling."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.special import gammainccinv, gammaln, ndtri

__all__ = ["Mixture", "effective_size", "fit_mixture", "normalised", "tempered"]

DOF = 6.0
"""Degrees of freedom: tails heavier than those of what the mixtures are fitted to."""

_ITERATIONS = 12
_RIDGE = 0.04  # part of the overall covariance in that of each component: none collapses
_LEAST = 1e-4  # standard deviation that is added to all
_DOUBLINGS = 12


@dataclass(frozen=True)
class Mixture:
    """Mixture of Student t distributions.

    Parameters
    ----------
    weights : ndarray, shape (K,)
        They sum to 1.
    means : ndarray, shape (K, D)
        Centres of the components.
    factors : ndarray, shape (K, D, D)
        Lower Cholesky factors of the scale matrices.
    """

    weights: np.ndarray
    means: np.ndarray
    factors: np.ndarray

    @classmethod
    def of_moments(cls, weights: npt.ArrayLike, means: npt.ArrayLike, covariances: npt.NDArray[np.float64]) -> Self:
        """Mixture of components with these scale matrices."""
        return cls(np.asarray(weights), np.asarray(means), np.linalg.cholesky(covariances))

    def widened(self, share: float, factor: float) -> "Mixture":
        """Return this mixture with a share of one component as wide as all together, times a factor."""
        mean = self.weights @ self.means
        away = self.means - mean
        covariance = np.einsum("k,kij,klj->il", self.weights, self.factors, self.factors)
        covariance += np.einsum("k,ki,kj->ij", self.weights, away, away)
        wide = np.linalg.cholesky(factor**2 * covariance)
        weights = np.append((1.0 - share) * self.weights, share)
        return Mixture(weights, np.vstack([self.means, mean]), np.concatenate([self.factors, wide[None]]))

    def sample(self, uniform: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Draw ``(S, D)`` values, a function of numbers ``(S, D + 2)`` between 0 and 1."""
        chosen = np.searchsorted(self.weights.cumsum()[:-1], uniform[:, 0], side="right")
        stretch = np.sqrt(0.5 * DOF / gammainccinv(0.5 * DOF, uniform[:, 1]))
        normal = ndtri(uniform[:, 2:])
        return self.means[chosen] + stretch[:, None] * np.einsum("sij,sj->si", self.factors[chosen], normal)

    @cached_property
    def _inverses(self):
        """Inverses of the factors, and log weights less the log determinants of the factors."""
        log_determinant = np.log(np.diagonal(self.factors, axis1=1, axis2=2)).sum(1)
        return np.linalg.inv(self.factors), np.log(self.weights + 1e-300) - log_determinant

    def log_components(self, u: npt.NDArray[np.float64], dof: float | None = DOF) -> npt.NDArray[np.float64]:
        """Log density of values ``(S, D)`` in each component times its weight, shape ``(S, K)``; dof None: Gaussian."""
        size = u.shape[1]
        # not BLAS, whose threads cost more than these small products
        inverse, constant = self._inverses
        white = np.einsum("kij,ksj->ksi", inverse, u - self.means[:, None])
        distance2 = np.einsum("ksi,ksi->sk", white, white)
        if dof is None:
            return constant - 0.5 * (distance2 + size * np.log(2.0 * np.pi))
        constant = constant + _log_norm(dof, size)
        return constant - 0.5 * (dof + size) * np.log1p(distance2 / dof)

    def log_prob(self, u: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Log density of values ``(S, D)``, shape ``(S,)``."""
        return _log_sum(self.log_components(u))[:, 0]


@lru_cache(maxsize=8)
def _log_norm(dof, size):
    """Log density of a Student t distribution of unit scale at its centre."""
    return float(gammaln(0.5 * (dof + size)) - gammaln(0.5 * dof) - 0.5 * size * np.log(dof * np.pi))


def _log_sum(logs):
    """Logarithm of the sums of exponentials along the rows, shape ``(S, 1)``; NaN stays NaN."""
    highest = logs.max(axis=1, keepdims=True)
    shift = np.where(np.isinf(highest), 0.0, highest)
    with np.errstate(divide="ignore"):
        return shift + np.log(np.exp(logs - shift).sum(axis=1, keepdims=True))


def normalised(log_weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Weights that sum to 1; all zero where none is finite."""
    highest = log_weights.max()
    if not np.isfinite(highest):
        return np.zeros_like(log_weights)
    weights = np.exp(log_weights - highest)
    return weights / weights.sum()


def effective_size(weights: npt.NDArray[np.float64]) -> float:
    """Number of equal weights that are worth as much as these, which sum to 1 (or are all 0)."""
    squares = (weights**2).sum()
    return 1.0 / squares if squares > 0 else 0.0


def tempered(log_weights: npt.NDArray[np.float64], least: float) -> npt.NDArray[np.float64]:
    """Normalised powers of weights, the power as near 1 as leaves ``least`` effective draws."""
    weights = normalised(log_weights)
    if effective_size(weights) >= least:
        return weights
    highest = log_weights.max()
    if not np.isfinite(highest):
        return weights
    logs, lower, upper = log_weights[log_weights > -np.inf] - highest, 0.0, 1.0
    for _ in range(_DOUBLINGS):
        power = 0.5 * (lower + upper)
        powers = np.exp(power * logs)
        enough = powers.sum() ** 2 >= least * (powers @ powers)
        lower, upper = (power, upper) if enough else (lower, power)
    return normalised(lower * log_weights)


def fit_mixture(
    rng: np.random.Generator, u: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], n_components: int
) -> Mixture:
    """Mixture of weighted draws, by expectation and maximisation of Gaussians.

    Parameters
    ----------
    rng : numpy.random.Generator
        Chooses where the components begin.
    u : ndarray, shape (S, D)
        Draws to which the mixture is fitted.
    weights : ndarray, shape (S,)
        They sum to 1.
    n_components : int
        Number of components of the mixture.

    Returns
    -------
    Mixture
        Whose scale matrices are the covariances.
    """
    keep = weights > 1e-9 * weights.max()
    u, weights = u[keep], weights[keep] / weights[keep].sum()
    size = u.shape[1]
    mean = weights @ u
    overall = (weights[:, None] * (u - mean)).T @ (u - mean)
    ridge = _RIDGE * np.diag(np.diag(overall)) + _LEAST**2 * np.eye(size)
    if n_components == 1:
        return Mixture.of_moments(np.ones(1), mean[None], (overall + ridge)[None])
    start = u[rng.choice(len(u), n_components, p=weights)]
    covariances = np.repeat((0.5 * overall + ridge)[None], n_components, 0)
    mixture = Mixture.of_moments(np.full(n_components, 1.0 / n_components), start, covariances)
    for _ in range(_ITERATIONS):
        log_components = mixture.log_components(u, dof=None)
        shares = weights[:, None] * np.exp(log_components - _log_sum(log_components))
        total = shares.sum(0) + 1e-6
        means = (shares.T @ u + 1e-6 * mean) / total[:, None]
        away = u[None] - means[:, None]  # (K, S, D)
        covariances = np.einsum("ks,ksi,ksj->kij", shares.T, away, away) / total[:, None, None] + ridge
        mixture = Mixture.of_moments(total / total.sum(), means, covariances)
    return mixture
