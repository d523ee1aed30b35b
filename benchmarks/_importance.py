"""Adaptive importance sampling of one low-dimensional posterior, by mixtures of Student t distributions."""

from dataclasses import dataclass, field

import numpy as np
from scipy.special import logsumexp

from galmeasure.fitters.importance import mixture as _mixture
from galmeasure.fitters.importance.mixture import normalised, tempered

_RIDGE = 0.02  # part of the overall covariance in that of each component: none collapses
_ITERATIONS = 15
_TEMPERED_ESS = 60.0  # per component: while weights are worth less, a power of them is fitted


class Mixture(_mixture.Mixture):
    """Mixture of Student t distributions that is drawn from with a generator, and joined with others."""

    def joined(self, other, share):
        """Return this mixture with a share of another one."""
        weights = np.concatenate([(1 - share) * self.weights, share * other.weights])
        parts = (np.concatenate([getattr(self, name), getattr(other, name)]) for name in ("means", "factors"))
        return Mixture(weights, *parts)

    def sample(self, rng, count):
        """Draw ``(count, D)`` values."""
        chosen = rng.choice(len(self.weights), count, p=self.weights)
        normal = rng.standard_normal((count, self.means.shape[1]))
        stretch = np.sqrt(_mixture.DOF / rng.chisquare(_mixture.DOF, count))
        return self.means[chosen] + stretch[:, None] * np.einsum("sij,sj->si", self.factors[chosen], normal)


@dataclass(frozen=True)
class Draws:
    """Weighted draws of a posterior.

    Parameters
    ----------
    values : ndarray, shape (S, P)
        Parameters.
    log_weights : ndarray, shape (S,)
        Log of target over proposal.
    """

    values: np.ndarray
    log_weights: np.ndarray
    weights: np.ndarray = field(init=False)

    def __post_init__(self):
        """Normalise the weights."""
        object.__setattr__(self, "weights", normalised(self.log_weights))

    @property
    def ess(self):
        """Effective number of draws."""
        return 1.0 / (self.weights**2).sum()

    @property
    def log_evidence(self):
        """Log of the integral of the target."""
        return float(logsumexp(self.log_weights) - np.log(len(self.log_weights)))

    @property
    def mean(self):
        """Shape ``(P,)``."""
        return self.weights @ self.values

    @property
    def std(self):
        """Shape ``(P,)``."""
        return np.sqrt(self.weights @ (self.values - self.mean) ** 2)

    def quantiles(self, levels):
        """Shape ``(len(levels), P)``."""
        columns = []
        for column in self.values.T:
            order = column.argsort()
            mass = self.weights[order]
            columns.append(np.interp(levels, mass.cumsum() - 0.5 * mass, column[order]))
        return np.stack(columns, 1)


def fit_mixture(rng, u, weights, n_components):
    """Mixture of weighted draws ``(S, D)``, by expectation and maximisation of Gaussians."""
    keep = weights > 1e-9 * weights.max()
    u, weights = u[keep], weights[keep] / weights[keep].sum()
    overall = np.cov(u.T, aweights=weights, ddof=0)
    ridge = _RIDGE * overall + 1e-8 * np.eye(len(overall))
    start = u[rng.choice(len(u), n_components, p=weights)]
    found = Mixture.of_moments(
        np.full(n_components, 1 / n_components), start, np.repeat((0.5 * overall + ridge)[None], n_components, 0)
    )
    for _ in range(_ITERATIONS):
        log_parts = found.log_components(u, dof=None)
        shares = weights[:, None] * np.exp(log_parts - logsumexp(log_parts, axis=1, keepdims=True))
        total = shares.sum(0) + 1e-6
        means = (shares.T @ u + 1e-6 * (weights @ u)) / total[:, None]
        away = u[None] - means[:, None]  # (K, S, D)
        covariances = np.einsum("ks,ksi,ksj->kij", shares.T, away, away) / total[:, None, None] + ridge
        found = Mixture.of_moments(total / total.sum(), means, covariances)
    return found


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much work is done for a posterior.

    Parameters
    ----------
    first : int
        Draws of the starting proposal.
    rounds, draws : int
        Rounds of adaptation, and draws of each.
    components : int
        Of the mixture.
    wide_share : float
        Part of the wide distribution in the final proposal.
    ess : float
        Effective draws wanted.
    piece, most : int
        The final proposal is drawn from in pieces of so many, and so many in all at most.
    """

    first: int = 1500
    rounds: int = 4
    draws: int = 600
    components: int = 6
    wide_share: float = 0.05
    ess: float = 1000.0
    piece: int = 1500
    most: int = 30000


def sample_posterior(target, start, wide, rng, settings):
    """Draw from a posterior.

    Parameters
    ----------
    target : callable
        Of variables ``(S, D)``; gives the log density ``(S,)`` (minus infinity where there is none) and the parameters
        ``(S, P)``. It may be random, where its exponential has the density as expectation.
    start, wide : Mixture
        First proposal, and what is mixed into all of them, as wide as the prior.
    rng : numpy.random.Generator
        Of the draws.
    settings : Settings
        How many.

    Returns
    -------
    Draws
        Of the final proposal, which does not depend on them.
    """
    proposals, counts, u, log_target = [start], [settings.first], [], []
    for _ in range(settings.rounds + 1):
        u.append(proposals[-1].sample(rng, counts[-1]))
        log_target.append(target(u[-1])[0])
        every, total = np.concatenate(u), sum(counts)
        parts = [np.log(count / total) + p.log_prob(every) for p, count in zip(proposals, counts, strict=True)]
        log_weights = np.concatenate(log_target) - logsumexp(parts, axis=0)
        possible = np.isfinite(log_weights)
        weights = tempered(log_weights[possible], _TEMPERED_ESS * settings.components)
        fitted = fit_mixture(rng, every[possible], weights, settings.components)
        proposals.append(fitted.joined(wide, settings.wide_share))
        counts.append(settings.draws)
    final, values, log_weights = proposals[-1], [], []
    while True:
        u = final.sample(rng, settings.piece)
        density, parameters = target(u)
        values.append(parameters)
        log_weights.append(density - final.log_prob(u))
        found = Draws(np.concatenate(values), np.concatenate(log_weights))
        if found.ess >= settings.ess or len(found.values) >= settings.most:
            return found
