"""Weighted draws of exact posteriors, proposed by a network's flow and by mixtures adapted to them."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import ndtri
from torch import Tensor

from galmeasure.fitters.importance.fourier import FourierPosterior
from galmeasure.fitters.importance.mixture import Mixture, effective_size, fit_mixture, normalised, tempered
from galmeasure.fitters.importance.target import ExactPosterior
from galmeasure.fitters.importance.two_phase import choose, corrected, inclusion
from galmeasure.fitters.neural.encode import EncodedChunk
from galmeasure.networks import NATIVE_SIZE, SersicPosterior, Window
from galmeasure.networks.correction import Correction
from galmeasure.parameters import N_PARAMETERS, SERSIC
from galmeasure.priors import Prior
from galmeasure.utils.chunks import chunk_sizes, padded_chunks

__all__ = ["HeldParameters", "ImportanceSettings", "WeightedDraws", "gaussian_proposal", "weighted_draws"]

LEVELS = (0.15865525, 0.5, 0.84134475)
"""Probabilities of the quantiles."""

_FIRST = 64
"""Draws of the first two rounds; a multiple of what is rendered at once."""

_STEP = 16
"""Later rounds have a multiple of this number of draws."""

_EVALUATED, _EVALUATED_LATER = 8, 32
"""Draws with cheap weights for each one that is evaluated exactly: in the first round, and later if `_CLOSE` holds."""

_CLOSE = 0.08
"""Scatter of exact over cheap weights up to which few more need to be known."""

_WORST, _MOST_NEGATIVE = 0.5, 0.1
"""Scatter, and sum of negative weights, beyond which a galaxy's draws are all evaluated exactly."""

_FEWEST = 4
"""Exact evaluations at least, at a time, and from which this scatter is known."""

_GOOD = 0.4  # effective part of the draws of the flow that is good enough to go on with it
_WIDE_SHARE, _WIDE = 0.15, 1.7  # of the adapted proposal: a wide component and its width
_TEMPERED = 45.0  # effective draws of the weights to which mixtures are fitted
_SHARE = 0.5  # of the draws, where this is less
_MOST_COMPONENTS = 4
_N_GAUSSIAN, _LEAST_INSIDE = 1023, 30
_START_SHARE, _START_WIDE = 0.4, 2.5  # of the proposal about a Gaussian
_N_UNIFORM = N_PARAMETERS + 2
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
class HeldParameters:
    """Parameters that are known, and not drawn.

    Parameters
    ----------
    columns : tuple of int
        Indices of these parameters among the seven.
    values : Tensor
        Parameters of each row of the batch, in the units and pixels of its stamp, shape ``(B, 7)``; only the columns
        that are held are used.
    """

    columns: tuple[int, ...]
    values: torch.Tensor

    @property
    def flux(self) -> bool:
        """True if the flux is among them."""
        return 0 in self.columns

    def of(self, rows: npt.NDArray[np.int64], window: Window) -> Tensor:
        """Parameters ``(R, 7)`` of some rows in the units and pixels of the network."""
        values = self.values[torch.as_tensor(np.asarray(rows), device=self.values.device)]
        columns = list(self.columns)
        filled = torch.ones_like(values)
        filled[:, columns] = window.from_stamp(values)[:, columns]
        return filled


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


def weighted_draws(
    network: SersicPosterior | Correction,
    chunk: EncodedChunk,
    members: npt.NDArray[np.int64],
    target: ExactPosterior,
    images: npt.NDArray[np.float32],
    settings: ImportanceSettings,
    starts: Sequence[Mixture] | None = None,
    held: HeldParameters | None = None,
    finished: Callable[[int], None] | None = None,
    cheap: FourierPosterior | None = None,
) -> list[WeightedDraws]:
    """Weighted draws of the posteriors of some rows of an encoded chunk.

    Parameters
    ----------
    network : SersicPosterior
        Network that proposes draws.
    chunk : EncodedChunk
        Description of the rows by the network.
    members : ndarray of int64
        Indices of the rows within the chunk.
    target : ExactPosterior
        Exact posterior of the batch.
    images : ndarray
        Stamps of the batch: the random numbers of a row are a function of its pixels.
    settings : ImportanceSettings
        Numbers of draws to make.
    starts : list of Mixture, optional
        First proposal of each row, see `gaussian_proposal`; the flow by default.
    held : HeldParameters, optional
        Parameters that are known; ``starts`` must be given with them, because the flow knows nothing of them.
    finished : callable, optional
        Function that is told how many more rows are done, while others go on.
    cheap : FourierPosterior, optional
        Approximation of the posterior of some of the rows: their draws are weighted with it, and only one in eight is
        evaluated exactly, which makes the weights exact in the mean (`galmeasure.fitters.importance.two_phase`). Rows
        where exact and cheap weights disagree begin again without it.

    Returns
    -------
    list of WeightedDraws
        For each of the rows.

    Notes
    -----
    Draws come in rounds, from the flow as long as these are worth enough, else from a mixture of Student t
    distributions fitted to all draws so far (in the coordinates of the flow, the flux drawn from its own conditional
    distribution). All are weighted with the mixture of all proposals that were used (Veach & Guibas 1995; Cornuet
    et al. 2012), so that the flow's draws guard those of the fits.

    References
    ----------
    Veach & Guibas 1995, SIGGRAPH, 419; Cornuet et al. 2012, Scandinavian Journal of Statistics 39, 798.
    """
    coordinates = _Coordinates.of(network, target.prior, held)
    proposals = [None] * len(members) if starts is None else starts
    rows = chunk.rows[members]
    has_cheap = [cheap is not None and int(row) in cheap.has_row for row in rows]
    samplers = [_Sampler(images[row], start, flag)
                for row, start, flag in zip(rows, proposals, has_cheap, strict=True)]  # fmt: skip
    active = np.arange(len(members))
    while len(active):
        kinds = {}
        for index in active:
            kinds.setdefault(samplers[index].next_round(settings), []).append(index)
        for (by_flow, is_cheap, count), chosen in sorted(kinds.items()):
            used, density = [samplers[index] for index in chosen], cheap if is_cheap else target
            draw = _flow_round if by_flow else _fitted_round
            draw(network, chunk, members[chosen], used, density, coordinates, count)
        due = np.array([index for index in active if samplers[index].is_due(settings)], dtype=np.int64)
        if len(due):
            _evaluate_some(target, rows[due], chunk.window[members[due]], [samplers[index] for index in due])
        n_active = len(active)
        active = np.array([index for index in active if not samplers[index].is_done(settings)], dtype=np.int64)
        if finished is not None:
            finished(n_active - len(active))
    return [sampler.draws for sampler in samplers]


def gaussian_proposal(
    network: SersicPosterior | Correction,
    prior: Prior,
    values: Tensor,
    covariance: Tensor,
    held: HeldParameters | None = None,
) -> Mixture | None:
    """Proposal about a Gaussian approximation of a posterior.

    Parameters
    ----------
    network : SersicPosterior
        Network whose posteriors are used.
    prior : Prior
        Outside of which there is nothing.
    values, covariance : Tensor
        Parameters ``(7,)`` and their covariance ``(7, 7)``, in the units and pixels of the network.
    held : HeldParameters, optional
        Parameters that are known, whose covariance is zero: the proposal is one of the others.

    Returns
    -------
    Mixture or None
        None if hardly any of the Gaussian lies within the prior.
    """
    if not (torch.isfinite(values).all() and torch.isfinite(covariance).all()):
        return None
    value, vector = torch.linalg.eigh(covariance)
    normal = torch.from_numpy(ndtri(_sobol(_N_GAUSSIAN + 1)[1:, :N_PARAMETERS])).to(values.device)
    drawn = values + (normal * value.clamp_min(0.0).sqrt()) @ vector.T
    middle = drawn.new_full((len(drawn),), (prior.snr.lower * prior.snr.upper) ** 0.5)
    drawn = drawn[prior.contains(drawn, (NATIVE_SIZE, NATIVE_SIZE), middle)]
    if len(drawn) < _LEAST_INSIDE:
        return None
    u = _Coordinates.of(network, prior, held).forward(drawn)[0].cpu().numpy()
    scale = np.atleast_2d(np.cov(u.T)) + 1e-8 * np.eye(u.shape[1])
    return Mixture.of_moments(np.ones(1), u.mean(0)[None], scale[None]).widened(_START_SHARE, _START_WIDE)


def _evaluate_some(target, rows, window, samplers):
    """Evaluate exactly some of the draws since the last time, and correct the weights."""
    chosen = [sampler.choose() for sampler in samplers]
    owner = torch.from_numpy(np.repeat(np.arange(len(samplers)), [len(picks) for picks in chosen])).to(target.device)
    if not len(owner):
        return
    values = np.concatenate([sampler.draws.values[picks] for sampler, picks in zip(samplers, chosen, strict=True)])
    values = torch.from_numpy(values).to(target.device)
    exact = target.log_density(rows[owner.cpu().numpy()], window[owner], values).cpu().numpy()
    ends = np.cumsum([len(picks) for picks in chosen])[:-1]
    for sampler, picks, log_density in zip(samplers, chosen, np.split(exact, ends), strict=True):
        sampler.correct(picks, log_density)


def _flow_round(network, chunk, members, samplers, target, coordinates, count):
    """Draw from the flow."""
    context, device = chunk.context, target.device
    normal = np.stack([ndtri(sampler.uniforms(count)[:, :N_PARAMETERS]) for sampler in samplers], 1)
    normal = torch.from_numpy(normal.astype(np.float32)).to(device)
    draws, densities = [], []
    for padded, n_members in padded_chunks(np.arange(len(members)), chunk_sizes("proposals", device)):
        drawn = network.sample(context[members[padded]], normal[:, padded])
        densities.append(network.log_prob(context[members[padded]], drawn)[:, :n_members])
        draws.append(drawn[:, :n_members])
    values = torch.cat(draws, 1).transpose(0, 1).double()
    log_flow = torch.cat(densities, 1).T.double()
    values, log_density, log_flux = target.evaluate(chunk.rows[members], chunk.window[members], values)
    u, log_volume = coordinates.forward(values)
    _add(samplers, values, u, log_volume, log_density, log_flux, log_flow)


def _fitted_round(network, chunk, members, samplers, target, coordinates, count):
    """Draw from mixtures that are fitted to the draws so far."""
    device = target.device
    uniform = np.stack([sampler.uniforms(count) for sampler in samplers])
    columns = coordinates.n_free + 2
    drawn = [
        sampler.proposals[-1].sample(numbers[:, :columns]) for sampler, numbers in zip(samplers, uniform, strict=True)
    ]
    u = torch.from_numpy(np.stack(drawn)).to(device)
    uniform = torch.from_numpy(uniform[..., -1].copy()).to(device)
    rows, window = chunk.rows[members], chunk.window[members]
    if coordinates.held is not None:
        values, log_volume = coordinates.inverse(u, coordinates.held.of(rows, window))
        uniform = None if coordinates.held.flux else uniform
        values, log_density, log_flux = target.evaluate(rows, window, values, uniform)
        log_flux = torch.zeros_like(log_flux) if coordinates.held.flux else log_flux
        _add(samplers, values, u, log_volume, log_density, log_flux, torch.full_like(log_flux, -torch.inf))
        return
    values, log_volume = coordinates.inverse(u)
    values, log_density, log_flux = target.evaluate(rows, window, values, uniform)
    densities, shown = [], values.transpose(0, 1).float()
    for padded, n_members in padded_chunks(np.arange(len(members)), chunk_sizes("proposals", device)):
        densities.append(network.log_prob(chunk.context[members[padded]], shown[:, padded])[:, :n_members])
    log_flow = torch.cat(densities, 1).T.double()
    _add(samplers, values, u, log_volume, log_density, log_flux, log_flow)


def _add(samplers, *columns):
    columns = [column.cpu().numpy() for column in columns]
    for index, sampler in enumerate(samplers):
        sampler.add(*(column[index] for column in columns))


@lru_cache(maxsize=4)
def _sobol(count):
    """Quasi-random numbers ``(count, 9)``."""
    engine = torch.quasirandom.SobolEngine(_N_UNIFORM)
    return engine.draw(count, dtype=torch.float64).numpy()


class _Sampler:
    """Draws of one galaxy, and the proposals they came from."""

    def __init__(self, image, start, is_cheap):
        self._start, self.is_cheap = start, is_cheap
        self._key = [zlib.crc32(np.ascontiguousarray(image)), 0]
        self._begin()

    def _begin(self):
        self._generator = np.random.Generator(np.random.Philox(key=self._key))
        self._shift = self._generator.random(_N_UNIFORM)
        self.proposals, self._counts = [], []
        self._columns = None
        self.draws = None
        self._factors, self._probability, self._n_settled = np.ones(0), np.ones(0), 0
        self._offset, self._log_ratio = None, np.full(0, np.nan)

    def __len__(self):
        return 0 if self._columns is None else len(self._columns[0])

    def uniforms(self, count):
        """Numbers ``(count, 9)`` between 0 and 1, evenly spread together with those before."""
        start = len(self)
        # powers of two, so that few tables are kept
        table = _sobol(1 << (start + count - 1).bit_length())
        return np.clip((table[start : start + count] + self._shift) % 1.0, _EDGE, 1.0 - _EDGE)

    def is_done(self, settings):
        """Whether there are draws enough, and no cheap ones that wait to be corrected."""
        return not self._waiting() and self._has_enough(settings)

    def is_due(self, settings):
        """Whether some of the draws are to be evaluated exactly: after the first round, and in the end."""
        return self._waiting() and (self._n_settled == 0 or self._has_enough(settings))

    def _waiting(self):
        return self.is_cheap and self._n_settled < len(self)

    def _has_enough(self, settings):
        return len(self) >= settings.n_draws or (len(self) > 0 and self.draws.ess >= settings.min_ess)

    def next_round(self, settings):
        """Choose where to draw from next; gives whether that is the flow, whether weights are cheap, and the number."""
        return self._next_proposal() is None, self.is_cheap, self._next_count(settings)

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
            proposal = self._fit()
        self.proposals.append(proposal)
        return proposal

    def add(self, *columns):
        """Add the draws of the proposal that was chosen last: values, u, log volume, target, flux and flow."""
        self._counts.append(len(columns[0]))
        if self._columns is None:
            self._columns = list(columns)
        else:
            self._columns = [np.concatenate(pair) for pair in zip(self._columns, columns, strict=True)]
        if self._offset is not None:
            self._columns[3][-len(columns[3]) :] += self._offset
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

    def choose(self):
        """Choose those of the draws since the last time that are to be evaluated exactly."""
        start, part = self._n_settled, _EVALUATED
        if start and self._scatter() < _CLOSE:
            part = _EVALUATED_LATER
        self._n_settled = len(self)
        weights = normalised(self.draws.log_weights[start:])
        if not weights.any():
            return np.zeros(0, dtype=np.int64)
        self._probability[start:] = probability = inclusion(weights, max((len(self) - start) // part, _FEWEST))
        return start + choose(probability, self._generator.random())

    def correct(self, picks, log_density):
        """Correct the weights by the exact log densities of some draws; begin again if they have little in common."""
        if not len(picks):
            return
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
            self.is_cheap = False
            self._begin()

    def _scatter(self):
        """Standard deviation of exact over cheap weights; infinite as long as hardly any are known."""
        ratios = np.exp(self._log_ratio[~np.isnan(self._log_ratio)])
        return np.std(ratios) if len(ratios) >= _FEWEST else np.inf

    def _disagree(self):
        """Whether cheap weights are too far from exact ones."""
        weights = self.draws.weights
        return not (weights.any() and self._scatter() < _WORST and -weights.clip(max=0.0).sum() < _MOST_NEGATIVE)

    def _log_proposal(self, chosen):
        """Log density, by the parameters, of the mixture of all proposals."""
        _, u, log_volume, _, log_flux, log_flow = (column[chosen] for column in self._columns)
        total = np.full(len(u), -np.inf)
        for proposal, count in zip(self.proposals, self._counts, strict=True):
            density = log_flow if proposal is None else proposal.log_prob(u) - log_volume + log_flux
            total = np.logaddexp(total, density + np.log(count / len(self)))
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


class _Coordinates:
    """Parameters other than the flux as numbers without bounds, in which posteriors are smooth; the free ones."""

    def __init__(self, transform, round_peak, held):
        self._transform, self._round_peak, self.held = transform.coordinates.without("flux"), round_peak, held
        space = self._transform.space
        self._columns, self._shear = list(SERSIC.indices(*space.names)), space.slice("g1", "g2")
        self._free = [index for index, column in enumerate(self._columns) if held is None or column not in held.columns]

    @classmethod
    def of(cls, network, prior, held=None):
        """Those of a network and a prior."""
        return cls(network.transform, prior.shear.concentration is None, held)

    @property
    def n_free(self):
        """Number of the coordinates."""
        return len(self._free)

    def forward(self, values):
        """Coordinates ``(..., n_free)`` of parameters ``(..., 7)``, and log volume of the parameters in theirs."""
        u, log_volume = self._forward(values)
        return u[..., self._free], log_volume

    def inverse(self, u, given=None):
        """Parameters, with a flux of 1, and log volume; ``given`` holds the values of held parameters, ``(R, 7)``."""
        if given is None:
            return self._inverse(u)
        full = self._forward(given)[0][:, None].expand(-1, u.shape[1], -1).clone()
        full[..., self._free] = u
        values, log_volume = self._inverse(full)
        columns = list(self.held.columns)
        values[..., columns] = given[:, None, columns]
        return values, log_volume

    def _forward(self, values):
        """Coordinates ``(..., 6)`` of all parameters but the flux."""
        u = self._transform.to_coordinates(values[..., self._columns])
        log_volume = self._transform.log_volume(u)
        if self._round_peak:  # the prior's density goes as one over the shear: stretched about its origin
            shear = u[..., self._shear]
            length = torch.hypot(*shear.unbind(-1)).clamp_min(1e-12)
            log_volume = log_volume + torch.log(2.0 * length)
            u = self._with_shear(u, shear / length.sqrt()[..., None])
        return u, log_volume

    def _inverse(self, u):
        extra = 0.0
        if self._round_peak:
            shear = u[..., self._shear]
            length = torch.hypot(*shear.unbind(-1)).clamp_min(1e-6)
            extra = torch.log(2.0 * length**2)
            u = self._with_shear(u, shear * length[..., None])
        values = torch.ones((*u.shape[:-1], N_PARAMETERS), dtype=u.dtype, device=u.device)
        values[..., self._columns] = self._transform.from_coordinates(u)
        return values, self._transform.log_volume(u) + extra

    def _with_shear(self, u, shear):
        """Copy of coordinates with another shear."""
        u = u.clone()
        u[..., self._shear] = shear
        return u
