"""Draws of one posterior: where they come from, how many there are, and what their weights are worth."""

import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from galmeasure.fitters.importance.mixture import Mixture, effective_size, fit_mixture, normalised, tempered
from galmeasure.fitters.importance.two_phase import choose, corrected, inclusion
from galmeasure.parameters import N_PARAMETERS

__all__ = ["N_UNIFORM", "ImportanceSettings", "Sampler", "WeightedDraws", "sobol"]

LEVELS = (0.15865525, 0.5, 0.84134475)
"""Probabilities of the quantiles."""

_FIRST = 64
"""Draws of the first two rounds; a multiple of what is rendered at once."""

_STEP = 16
"""Later rounds have a multiple of this number of draws."""

_EVALUATED, _EVALUATED_LATER = 8, 32
"""Draws with cheap weights for each one that is evaluated exactly: in the first round, and later if `_CLOSE` holds."""

_MOST_EVALUATED = 32
"""Exact evaluations at most, at a time: the ratio of the weights scatters enough to need more only where it is poor."""

_CLOSE = 0.08
"""Scatter of exact over cheap weights up to which few more need to be known."""

_WORST, _MOST_NEGATIVE = 0.5, 0.1
"""Scatter, and sum of negative weights, beyond which cheap weights are not used."""

_EXPANSIONS = 3
"""Approximations that are tried, each about the best draw of the one before, before all draws are evaluated exactly."""

_KNOWN = 0.15
"""Effective part of the draws from which the best of them is near the highest density, and worth an evaluation."""

WORTHLESS = 0.2
"""With fewer effective draws than this part of those wanted, the draws are not used."""

_FEWEST = 4
"""Exact evaluations at least, at a time, and from which this scatter is known."""

_GOOD = 0.4  # effective part of the draws of the flow that is good enough to go on with it
_WIDE_SHARE, _WIDE = 0.15, 1.7  # of the adapted proposal: a wide component and its width
_TEMPERED = 45.0  # effective draws of the weights to which mixtures are fitted
_SHARE = 0.5  # of the draws, where this is less
_MOST_COMPONENTS = 4
N_UNIFORM = N_PARAMETERS + 2
"""Random numbers of a draw."""

_LOST_AFTER, _LOST = 3 * _FIRST, 2.5
"""Draws from which a flow is given up that is worth fewer effective ones: a fit shows sooner where the posterior is."""

_EDGE = 1e-9


@dataclass(frozen=True, kw_only=True)
class ImportanceSettings:
    """Numbers of draws that are made for a posterior.

    Parameters
    ----------
    n_draws : int
        Most draws of one galaxy.
    min_ess : float
        Number of effective draws to reach.
    """

    n_draws: int
    min_ess: float


@dataclass(frozen=True)
class WeightedDraws:
    """Weighted draws of one posterior, in the units and pixels of the network.

    Parameters
    ----------
    values : ndarray, shape (S, 7)
        Parameters of the draws.
    log_density : ndarray, shape (S,)
        Log of likelihood times prior.
    log_weights : ndarray, shape (S,)
        Log of this over the density of the proposals.
    factors : ndarray, shape (S,)
        Factors of the weights that make cheap ones exact, see `galmeasure.fitters.importance.two_phase`; 1 where all
        draws are evaluated exactly.
    """

    values: np.ndarray
    log_density: np.ndarray
    log_weights: np.ndarray
    factors: np.ndarray

    def __len__(self) -> int:
        """Number of draws."""
        return len(self.values)

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """Weights, which sum to 1; all zero where the prior excludes all draws. Some may be slightly negative."""
        weights = normalised(self.log_weights) * self.factors
        total = weights.sum()
        return weights / total if total > 0 else np.zeros_like(weights)

    @property
    def ess(self) -> float:
        """Effective number of draws."""
        return effective_size(self.weights)

    @property
    def log_evidence(self) -> float:
        """Log of the integral of likelihood times prior."""
        highest = self.log_weights.max()
        if not np.isfinite(highest):
            return -np.inf
        return highest + np.log((self.factors * np.exp(self.log_weights - highest)).mean())

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """Posterior mean, shape ``(7,)``."""
        return self.weights @ self.values

    @property
    def covariance(self) -> npt.NDArray[np.float64]:
        """Posterior covariance, shape ``(7, 7)``."""
        weights = self.weights
        away = self.values - weights @ self.values
        return (weights[:, None] * away).T @ away / (1.0 - (weights**2).sum())

    @property
    def best(self) -> npt.NDArray[np.float64]:
        """Draw of the highest posterior density, shape ``(7,)``."""
        return self.values[self.log_density.argmax()]

    def quantiles(self, levels: npt.ArrayLike = LEVELS) -> npt.NDArray[np.float64]:
        """Quantiles of each parameter, shape ``(len(levels), 7)``."""
        columns, weights = [], self.weights
        for column in self.values.T:
            order = column.argsort(kind="stable")
            mass = weights[order]
            below = np.maximum.accumulate(mass.cumsum() - 0.5 * mass)
            columns.append(np.interp(levels, below, column[order]))
        return np.stack(columns, 1)

    def resampled(self, count: int, generator: np.random.Generator) -> npt.NDArray[np.float64]:
        """Draws ``(count, 7)`` of equal weight, in no order: each as often as its weight says, up to one."""
        levels = (generator.random() + np.arange(count)) / count
        chosen = np.searchsorted(np.maximum.accumulate(self.weights.cumsum()), levels).clip(max=len(self) - 1)
        return self.values[generator.permutation(chosen)]


@lru_cache(maxsize=4)
def sobol(count: int) -> npt.NDArray[np.float64]:
    """Quasi-random numbers ``(count, 9)``."""
    engine = torch.quasirandom.SobolEngine(N_UNIFORM)
    return engine.draw(count, dtype=torch.float64).numpy()


class Sampler:
    """Draws of one galaxy, and the proposals they came from.

    Parameters
    ----------
    image : ndarray
        Stamp of the galaxy, of whose pixels the random numbers are a function.
    start : Mixture or None
        First proposal; None is the flow.
    is_cheap : bool
        True if there is an approximation by which draws are weighted first.

    Attributes
    ----------
    is_cheap : bool
        True as long as draws are weighted by an approximation.
    wants_expansion : bool
        True if the approximation is to be made anew, about ``best``.
    draws : WeightedDraws or None
        Draws so far.
    """

    def __init__(self, image: npt.NDArray[np.float32], start: Mixture | None, is_cheap: bool) -> None:
        self._start, self.is_cheap = start, is_cheap
        self._key = [zlib.crc32(np.ascontiguousarray(image)), 0]
        self._hint, self._n_expansions, self.wants_expansion = None, 1, False
        self.best = None
        self.begin()

    def begin(self) -> None:
        """Forget all draws."""
        self._generator = np.random.Generator(np.random.Philox(key=self._key))
        self._shift = self._generator.random(N_UNIFORM)
        self.proposals, self._counts = [], []
        self._columns, self._log_densities = None, []
        self.draws = None
        self._factors, self._probability, self._n_settled = np.ones(0), np.ones(0), 0
        self._offset, self._log_ratio = None, np.full(0, np.nan)

    def __len__(self):
        return 0 if self._columns is None else len(self._columns[0])

    def uniforms(self, count: int) -> npt.NDArray[np.float64]:
        """Numbers ``(count, 9)`` between 0 and 1, evenly spread together with those before."""
        start = len(self)
        # powers of two, so that few tables are kept
        table = sobol(1 << (start + count - 1).bit_length())
        return np.clip((table[start : start + count] + self._shift) % 1.0, _EDGE, 1.0 - _EDGE)

    def is_done(self, settings: ImportanceSettings) -> bool:
        """Whether there are draws enough, and no cheap ones that wait to be corrected, or no hope for more."""
        return self._is_hopeless(settings) or (self._has_enough(settings) and not self._waiting())

    def is_due(self, settings: ImportanceSettings) -> bool:
        """Whether some draws are to be evaluated exactly: when they show where the posterior is, and in the end."""
        if not self._waiting() or self._is_hopeless(settings):
            return False
        first = self._n_settled == 0 and self.draws.ess > _KNOWN * len(self)
        return first or self._has_enough(settings)

    def _waiting(self):
        return self.is_cheap and self._n_settled < len(self)

    def _is_hopeless(self, settings):
        """Whether the draws are worth so little that they will not be used, and more of them would not help."""
        if not len(self) or self.draws.ess >= WORTHLESS * settings.min_ess:
            return False
        is_lost = self._start is None and len(self) >= _LOST_AFTER and self.draws.ess < _LOST
        return is_lost or len(self) >= settings.n_draws

    def give_up_approximation(self, settings: ImportanceSettings) -> None:
        """Begin again with exact weights, if cheap ones led nowhere and there is no other proposal to try."""
        if self.is_cheap and self._start is not None and self._is_hopeless(settings):
            self._hint, self.is_cheap = self._fit(), False
            self.begin()

    def _has_enough(self, settings):
        return len(self) >= settings.n_draws or (len(self) > 0 and self.draws.ess >= settings.min_ess)

    def next_round(self, settings: ImportanceSettings) -> tuple[bool, int]:
        """Choose where to draw from next; gives whether that is the flow, and the number of draws."""
        return self._next_proposal() is None, self._next_count(settings)

    def _next_count(self, settings):
        """Two rounds of the same size, later ones of what is missing, but no more than half of what there is."""
        count, most = _FIRST, max(_FIRST, len(self) // 2 // _FIRST * _FIRST)
        if len(self) >= 2 * _FIRST:
            missing = settings.min_ess * len(self) / max(self.draws.ess, 1.0) - len(self)
            count = int(np.clip(np.ceil(missing / _STEP) * _STEP, _STEP, most))
        return min(count, settings.n_draws - len(self))

    def _next_proposal(self):
        """Choose a proposal: None is the flow, else a Mixture."""
        proposal = self._start
        if len(self) and (self.proposals[-1] is not None or self.draws.ess < _GOOD * len(self)):
            proposal, self._hint = self._fit() if self._hint is None else self._hint, None
        self.proposals.append(proposal)
        return proposal

    def add(self, *columns: npt.NDArray[np.float64]) -> None:
        """Add the draws of the proposal that was chosen last: values, u, log volume, target, flux and flow."""
        self._counts.append(len(columns[0]))
        if self._columns is None:
            self._columns = list(columns)
        else:
            self._columns = [np.concatenate(pair) for pair in zip(self._columns, columns, strict=True)]
        if self._offset is not None:
            self._columns[3][-len(columns[3]) :] += self._offset
        self._extend_densities(len(columns[0]))
        for name, fill in (("_factors", 1.0), ("_probability", 1.0), ("_log_ratio", np.nan)):
            setattr(self, name, np.append(getattr(self, name), np.full(len(columns[0]), fill)))
        self._update()

    def _update(self):
        values, _, _, log_density, _, _ = self._columns
        possible = np.isfinite(log_density)
        log_weights = np.full(len(values), -np.inf)
        log_weights[possible] = log_density[possible] - self._log_proposal(possible)
        log_weights[~(log_weights < np.inf)] = -np.inf
        known = np.isfinite(self._log_ratio)
        log_density = np.where(known, log_density + np.where(known, self._log_ratio, 0.0), log_density)
        self.draws = WeightedDraws(values, log_density, log_weights, self._factors)

    def choose(self) -> npt.NDArray[np.int64]:
        """Choose those of the draws since the last time that are to be evaluated exactly."""
        start, part = self._n_settled, _EVALUATED
        if start and self._scatter() < _CLOSE:
            part = _EVALUATED_LATER
        self._n_settled = len(self)
        weights = normalised(self.draws.log_weights[start:])
        if not weights.any():
            return np.zeros(0, dtype=np.int64)
        self._probability[start:] = probability = inclusion(
            weights, int(np.clip((len(self) - start) // part, _FEWEST, _MOST_EVALUATED))
        )
        return start + choose(probability, self._generator.random())

    def correct(self, picks: npt.NDArray[np.int64], log_density: npt.NDArray[np.float64]) -> None:
        """Correct the weights by the exact log densities of some draws; begin again if they have little in common.

        Parameters
        ----------
        picks : ndarray of int64
            Draws that `choose` gave, ``M`` of them.
        log_density : ndarray
            Their exact log densities, shape ``(M,)``.
        """
        if not len(picks):
            return
        best = self.draws.values[picks[log_density.argmax()]]
        log_ratio = log_density - self._columns[3][picks]
        probability = self._probability[picks]
        if self._offset is None and np.isfinite(log_ratio).any():
            share = np.exp(self.draws.log_weights[picks] - self.draws.log_weights[picks].max()) / probability
            highest = log_ratio.max()
            self._offset = highest + np.log(share @ np.exp(log_ratio - highest) / share.sum())
            self._columns[3] = self._columns[3] + self._offset
            log_ratio = log_ratio - self._offset
        self._log_ratio[picks] = log_ratio
        self._factors[picks] = corrected(np.exp(np.minimum(log_ratio, 50.0)), probability)
        self._update()
        if self._disagree():
            self.best = best
            self._begin_again(np.isfinite(log_density).any())

    def _begin_again(self, is_known):
        """Begin again with an approximation about the best draw, or, if that was done before, with exact weights."""
        if is_known and self._n_expansions < _EXPANSIONS:
            self._n_expansions += 1
            self.wants_expansion = True
        else:
            self.is_cheap = False
            # cheap draws that are worth something lead to the posterior faster than a flow that is worth nothing
            if any(proposal is not None for proposal in self.proposals):
                self._hint = self._fit()
        self.begin()

    def _scatter(self):
        """Standard deviation of exact over cheap weights; infinite as long as hardly any are known."""
        ratios = np.exp(self._log_ratio[~np.isnan(self._log_ratio)])
        return np.std(ratios) if len(ratios) >= _FEWEST else np.inf

    def _disagree(self):
        """Whether cheap weights are too far from exact ones."""
        weights = self.draws.weights
        return not (weights.any() and self._scatter() < _WORST and -weights.clip(max=0.0).sum() < _MOST_NEGATIVE)

    def _extend_densities(self, count):
        """Log densities, by the parameters, of all draws in all proposals, after new draws of a new proposal."""
        start = len(self) - count
        self._log_densities = [
            np.append(log_density, self._log_density(proposal, start))
            for proposal, log_density in zip(self.proposals[:-1], self._log_densities, strict=True)
        ]
        self._log_densities.append(self._log_density(self.proposals[-1], 0))

    def _log_density(self, proposal, start):
        """Log density of the draws from ``start`` on in a proposal, by the parameters."""
        _, u, log_volume, _, log_flux, log_flow = (column[start:] for column in self._columns)
        if proposal is None:
            return log_flow
        with np.errstate(invalid="ignore"):  # draws outside the prior
            return proposal.log_prob(u) - log_volume + log_flux

    def _log_proposal(self, chosen):
        """Log density, by the parameters, of the mixture of all proposals."""
        total = np.full(np.count_nonzero(chosen), -np.inf)
        for log_density, count in zip(self._log_densities, self._counts, strict=True):
            total = np.logaddexp(total, log_density[chosen] + np.log(count / len(self)))
        return total

    def _fit(self):
        u, log_weights = self._columns[1], self.draws.log_weights
        possible = np.isfinite(log_weights)
        u, log_weights = u[possible], log_weights[possible]
        if len(u) <= 2 * N_PARAMETERS:
            return self._start
        n_components = int(np.clip(self.draws.ess / _TEMPERED, 1, _MOST_COMPONENTS))
        weights = tempered(log_weights, min(_TEMPERED, _SHARE * len(u)))
        return fit_mixture(self._generator, u, weights, n_components).widened(_WIDE_SHARE, _WIDE)
