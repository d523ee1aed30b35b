"""Weighted draws of exact posteriors, proposed by a network's flow and by mixtures adapted to them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import ndtri
from torch import Tensor

from galmeasure.fitters.importance.fourier import FourierPosterior
from galmeasure.fitters.importance.mixture import Mixture
from galmeasure.fitters.importance.sampler import ImportanceSettings, Sampler, WeightedDraws, sobol
from galmeasure.fitters.importance.target import ExactPosterior
from galmeasure.fitters.neural.encode import EncodedChunk
from galmeasure.networks import NATIVE_SIZE, SersicPosterior, Window
from galmeasure.networks.correction import Correction
from galmeasure.networks.flow_frame import FlowFrame
from galmeasure.parameters import N_PARAMETERS, SERSIC
from galmeasure.priors import Prior
from galmeasure.utils.chunks import chunk_size, chunk_sizes, padded_chunks

__all__ = ["HeldParameters", "gaussian_proposal", "weighted_draws"]

_N_GAUSSIAN, _LEAST_INSIDE = 1023, 30
_START_SHARE, _START_WIDE = 0.4, 2.5  # of the proposal about a Gaussian


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
        where exact and cheap weights disagree begin again with an approximation about their best draw, and in the end
        without any.

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
    if not len(members):
        return []
    coordinates = _Coordinates.of(network, target.prior, held)
    proposals = [None] * len(members) if starts is None else starts
    rows = chunk.rows[members]
    densities = [cheap if cheap is not None and int(row) in cheap.has_row else None for row in rows]
    samplers = [Sampler(images[row], start, density is not None)
                for row, start, density in zip(rows, proposals, densities, strict=True)]  # fmt: skip
    frame = None if held is not None else _frame(network, chunk.context, members)
    active = np.arange(len(members))
    while len(active):
        for (by_flow, count, _), chosen in sorted(_by_kind(samplers, densities, active, settings).items()):
            used, density = [samplers[index] for index in chosen], densities[chosen[0]] or target
            draw = _flow_round if by_flow else _fitted_round
            of_flow = None if frame is None else frame[torch.as_tensor(chosen, device=target.device)]
            draw(of_flow, rows[chosen], chunk.window[members[chosen]], used, density, coordinates, count)
        due = np.array([index for index in active if samplers[index].is_due(settings)], dtype=np.int64)
        if len(due):
            _evaluate_some(target, rows[due], chunk.window[members[due]], [samplers[index] for index in due])
            _expand_again(cheap, rows, chunk.window[members], samplers, densities, due)
        for index in active:
            samplers[index].give_up_approximation(settings)
            densities[index] = densities[index] if samplers[index].is_cheap else None
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
    normal = torch.from_numpy(ndtri(sobol(_N_GAUSSIAN + 1)[1:, :N_PARAMETERS])).to(values.device)
    drawn = values + (normal * value.clamp_min(0.0).sqrt()) @ vector.T
    middle = drawn.new_full((len(drawn),), (prior.snr.lower * prior.snr.upper) ** 0.5)
    drawn = drawn[prior.contains(drawn, (NATIVE_SIZE, NATIVE_SIZE), middle)]
    if len(drawn) < _LEAST_INSIDE:
        return None
    u = _Coordinates.of(network, prior, held).forward(drawn)[0].cpu().numpy()
    scale = np.atleast_2d(np.cov(u.T)) + 1e-8 * np.eye(u.shape[1])
    return Mixture.of_moments(np.ones(1), u.mean(0)[None], scale[None]).widened(_START_SHARE, _START_WIDE)


def _by_kind(samplers, densities, active, settings):
    """Indices of samplers whose next draws are of one kind: from the flow or not, how many, and by which density."""
    kinds, numbers = {}, {}
    for index in active:
        density = densities[index]
        number = numbers.setdefault(id(density), len(numbers))
        kinds.setdefault((*samplers[index].next_round(settings), number), []).append(index)
    return kinds


def _expand_again(cheap, rows, window, samplers, densities, due):
    """Approximate anew the posteriors of those of the samplers that want it, in place; others become exact."""
    wanting = np.array([index for index in due if samplers[index].wants_expansion], dtype=np.int64)
    if len(wanting):
        best = np.stack([samplers[index].best for index in wanting])
        density = cheap.about(rows[wanting], window[wanting], torch.from_numpy(best).to(cheap.device))
    for index in due:
        if samplers[index].wants_expansion:
            densities[index], samplers[index].wants_expansion = density, False
        elif not samplers[index].is_cheap:
            densities[index] = None


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


def _frame(network, context, members):
    """Flows of some members of a chunk; always of as many galaxies at once, because products of matrices round so."""
    parts = []
    for padded, n_members in padded_chunks(members, chunk_sizes("proposals", context.features.device)):
        parts.append(network.frame(context[padded])[slice(n_members)])
    return FlowFrame.joined(parts)


def _flow_round(frame, rows, window, samplers, target, coordinates, count):
    """Draw from the flow."""
    normal = np.stack([ndtri(sampler.uniforms(count)[:, :N_PARAMETERS]) for sampler in samplers], 1)
    normal = torch.from_numpy(normal.astype(np.float32)).to(target.device)
    drawn = [frame[part].draw(normal[:, part]) for part in _parts(frame)]
    values, log_flow = (torch.cat(columns, 1).transpose(0, 1).double() for columns in zip(*drawn, strict=True))
    values, log_density, log_flux = target.evaluate(rows, window, values)
    u, log_volume = coordinates.forward(values)
    _add(samplers, values, u, log_volume, log_density, log_flux, log_flow)


def _fitted_round(frame, rows, window, samplers, target, coordinates, count):
    """Draw from mixtures that are fitted to the draws so far."""
    device = target.device
    uniform = np.stack([sampler.uniforms(count) for sampler in samplers])
    columns = coordinates.n_free + 2
    drawn = [
        sampler.proposals[-1].sample(numbers[:, :columns]) for sampler, numbers in zip(samplers, uniform, strict=True)
    ]
    u = torch.from_numpy(np.stack(drawn)).to(device)
    uniform = torch.from_numpy(uniform[..., -1].copy()).to(device)
    if coordinates.held is not None:
        values, log_volume = coordinates.inverse(u, coordinates.held.of(rows, window))
        uniform = None if coordinates.held.flux else uniform
        values, log_density, log_flux = target.evaluate(rows, window, values, uniform)
        log_flux = torch.zeros_like(log_flux) if coordinates.held.flux else log_flux
        _add(samplers, values, u, log_volume, log_density, log_flux, torch.full_like(log_flux, -torch.inf))
        return
    values, log_volume = coordinates.inverse(u)
    values, log_density, log_flux = target.evaluate(rows, window, values, uniform)
    shown = values.transpose(0, 1).float()
    log_flow = torch.cat([frame[part].log_prob(shown[:, part]) for part in _parts(frame)], 1).T.double()
    _add(samplers, values, u, log_volume, log_density, log_flux, log_flow)


def _parts(frame):
    """Slices of the galaxies of a frame whose draws stay in a cache."""
    size = chunk_size("flow frames", str(frame.centre.device))
    return [slice(start, start + size) for start in range(0, len(frame), size)]


def _add(samplers, *columns):
    columns = [column.cpu().numpy() for column in columns]
    for index, sampler in enumerate(samplers):
        sampler.add(*(column[index] for column in columns))


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
