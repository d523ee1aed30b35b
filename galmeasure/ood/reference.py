"""Distributions of galaxies of the training domain, and an out-of-distribution (OOD) score for all others."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from galmeasure.exceptions import WeightsError
from galmeasure.ood.residuals import STATISTICS, ResidualFeatures
from galmeasure.utils.chunks import chunk_size
from galmeasure.utils.digests import check_companion, companion_card
from galmeasure.utils.files import in_brief, write_whole

__all__ = ["FALSE_ALARMS", "LEAST", "OODInputs", "OODReference", "load_ood", "ood_path"]

FALSE_ALARMS = 0.01
"""Fraction of the galaxies of the training domain that are flagged."""

SUFFIX = ".ood"
"""Ending of the file beside that of the weights."""

FORMAT = 1

LEAST = 2000
"""Fewest galaxies from which the distributions are learned."""

_SNR_NODES = 8
_NODES = 5
_NODE_QUANTILES = (0.04, 0.3, 0.6, 0.85, 0.97)
_GRID = (0.0, 0.15, 0.3, 0.6, 1.0, 1.4, 1.8, 2.2, 2.6, 3.0, 3.4)
"""Minus the decimal logarithm of the probabilities of more at which quantiles are kept."""

_PROBABILITIES = tuple(1.0 - 10.0**-exponent for exponent in _GRID)

_FLOOR = 1e-5  # least variance along any direction, in units of the mean one
_TENSORS = (
    "snr_nodes", "nodes", "moment_mean", "moment_white", "feature_mean", "feature_white", "tails", "last",
)  # fmt: skip
_MATRICES = ("moment_white", "feature_white")
_STORED = torch.float16
_NETWORK = "expectation."
_HIDDEN = 64
_STEPS = 3000
_BATCH = 2048
_RATE = 2e-3


@dataclass(frozen=True)
class OODInputs:
    """Quantities of a batch of galaxies from which their score follows.

    Parameters
    ----------
    snr, size : Tensor
        Signal-to-noise ratio, and ``r_eff`` over the FWHM of the PSF, of the network's estimate, shape ``(B,)``.
    residuals : ResidualFeatures
        Residuals of the model of that estimate.
    features : Tensor
        Features from the encoder, shape ``(B, F)``.
    """

    snr: torch.Tensor
    size: torch.Tensor
    residuals: ResidualFeatures
    features: torch.Tensor

    def __len__(self) -> int:
        """Number of galaxies."""
        return len(self.snr)

    def __getitem__(self, rows: Tensor | slice) -> "OODInputs":
        """Return some of the rows, in the order of the index."""
        return OODInputs(self.snr[rows], self.size[rows], self.residuals[rows], self.features[rows])

    @classmethod
    def join(cls, batches: "Sequence[OODInputs]") -> Self:
        """Concatenate the quantities of several batches."""
        columns = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("snr", "size"))
        residuals = ResidualFeatures.join([batch.residuals for batch in batches])
        return cls(*columns, residuals, torch.cat([batch.features for batch in batches]))

    def usable(self) -> Tensor:
        """Rows of finite numbers, boolean."""
        finite = torch.isfinite(self.snr) & torch.isfinite(self.size) & (self.snr > 0) & (self.size > 0)
        for columns in (self.residuals.statistics, self.residuals.moments, self.features):
            finite &= torch.isfinite(columns).all(1)
        return finite


class Expectation(nn.Module):
    """Regression of the residual that a network's own error leaves, log(1 + chi-squared excess), on the features.

    A network is not equally good at all galaxies, and where they are bright its error shows in their residuals.

    Parameters
    ----------
    features : int
        Number of features of the encoder.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features + 2))
        self.register_buffer("scale", torch.ones(features + 2))
        self.layers = nn.Sequential(
            nn.Linear(features + 2, _HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, _HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, 1),
        )  # fmt: skip

    def forward(self, inputs: OODInputs) -> Tensor:
        """Expected value for each galaxy, shape ``(B,)``."""
        return self.layers(((self.regressors(inputs) - self.mean) / self.scale).to(self.mean.dtype))[:, 0]

    @staticmethod
    def regressors(inputs: OODInputs) -> Tensor:
        """Features and the logarithms of S/N and size, shape ``(B, F + 2)``."""
        return torch.cat([inputs.features.double(), inputs.snr.log()[:, None], inputs.size.log()[:, None]], 1)

    @staticmethod
    def target(inputs: OODInputs) -> Tensor:
        """Target of the regression: the larger one of the excesses in the centre and in the wings."""
        excesses = inputs.residuals.statistics[:, [STATISTICS.index(name) for name in ("centre", "wings")]]
        return excesses.amax(1).clamp_min(0.0).log1p()

    @classmethod
    def learn(cls, inputs: OODInputs) -> Self:
        """Learn the regression from galaxies; the same galaxies give the same result."""
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
            torch.manual_seed(0)
            expectation = cls(inputs.features.shape[1])
            regressors, target = cls.regressors(inputs), cls.target(inputs)
            expectation.mean[:], expectation.scale[:] = regressors.mean(0), regressors.std(0).clamp_min(1e-6)
            regressors = ((regressors - expectation.mean) / expectation.scale).float()
            optimizer = torch.optim.Adam(expectation.layers.parameters(), _RATE)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
            for _ in range(_STEPS):
                rows = torch.randint(len(regressors), (_BATCH,))
                loss = nn.functional.mse_loss(expectation.layers(regressors[rows])[:, 0], target[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        return expectation.double().eval().requires_grad_(False)


@dataclass(frozen=True)
class OODReference:
    """Distribution of residuals and features over galaxies of the training domain.

    Parameters
    ----------
    expectation : Expectation
        Regression of the residual that the network's own error leaves.
    snr_nodes : Tensor
        Logarithms of S/N; the distributions are kept at these ``S`` nodes.
    nodes : Tensor
        At each of these, nodes in what is expected and in the logarithm of the size, shape ``(2, S, R)``.
    moment_mean, moment_white : Tensor
        Mean of the residuals' moments and the matrix that whitens them, shape ``(2, S * R, M)`` and
        ``(2, S * R, M, M)``.
    feature_mean, feature_white : Tensor
        Mean and whitening matrix of the encoder's features, by S/N only, shape ``(S, F)`` and ``(S, F, F)``.
    tails : Tensor
        Quantiles of each statistic, shape ``(2, S * R, K, L)``.
    last : Tensor
        Quantiles of the least probability among the statistics, by S/N only, shape ``(S, L)``.
    card : dict
        ``weights_sha256``, number of galaxies, seed and more.

    Notes
    -----
    Each statistic (those of `residual_features`, and the Mahalanobis distances of the residuals' moments and of
    the encoder's features from their means) has a probability of being exceeded by galaxies of the same S/N of which
    as large residuals are expected, and by those of the same S/N and size: the encoder may be misled by what is
    out of distribution. The least of these probabilities is turned into one by its own distribution, so that the score,
    minus the decimal logarithm of that, exceeds 2 for one in a hundred galaxies of the training domain at every S/N.
    Beyond what has been simulated the tails are taken as exponential.
    """

    expectation: Expectation
    snr_nodes: torch.Tensor
    nodes: torch.Tensor
    moment_mean: torch.Tensor
    moment_white: torch.Tensor
    feature_mean: torch.Tensor
    feature_white: torch.Tensor
    tails: torch.Tensor
    last: torch.Tensor
    card: dict

    @classmethod
    def learn(cls, inputs: OODInputs, card: dict[str, Any]) -> Self:
        """Learn the distributions of galaxies of the training domain.

        Parameters
        ----------
        inputs : OODInputs
            Galaxies of the training domain: tens of thousands, at least 2,000.
        card : dict
            Plain JSON with ``weights_sha256``.

        Returns
        -------
        OODReference
            Their distributions.

        Raises
        ------
        ValueError
            If there are too few galaxies.
        """
        inputs = inputs[torch.nonzero(inputs.usable())[:, 0]]
        if len(inputs) < LEAST:
            msg = f"inputs must hold at least {LEAST} galaxies that were measured, not {len(inputs)}"
            raise ValueError(msg)
        # each step has galaxies of its own: those that it learned from look nearer to it than others
        first, second, third, fourth = (inputs[rows] for rows in _shares(len(inputs)))
        ends = torch.quantile(first.snr.log(), torch.tensor([0.01, 0.99], dtype=torch.float64)).tolist()
        learned = dict.fromkeys(_TENSORS, torch.zeros(0))
        learned["card"] = {**card, "galaxies": len(inputs)}
        learned["expectation"] = Expectation.learn(first)
        learned["snr_nodes"] = torch.linspace(*ends, _SNR_NODES, dtype=torch.float64)
        by_snr, by = cls(**learned)._snr_weights(second), cls(**learned)._compared(second)
        learned["nodes"] = torch.stack(
            [torch.stack([_quantiles(column[:, None], w, _NODE_QUANTILES)[0] for w in by_snr.T]) for column in by]
        )
        whitening = [_whitening(second.residuals.moments, weight) for weight in cls(**learned)._weights(second)]
        learned["moment_mean"], learned["moment_white"] = (
            torch.stack(column) for column in zip(*whitening, strict=True)
        )
        learned["feature_mean"], learned["feature_white"] = _whitening(second.features, by_snr)
        learned["tails"] = cls(**learned)._learn_tails(third)
        partial = cls(**learned)
        least = torch.cat([partial.probabilities(chunk).amax(1) for chunk in _chunks(fourth)])[:, None]
        learned["last"] = torch.stack(
            [_quantiles(least, column)[0].float() for column in partial._snr_weights(fourth).T]
        )
        return cls(**learned)

    def score(self, inputs: OODInputs) -> tuple[Tensor, Tensor]:
        """Score galaxies.

        Parameters
        ----------
        inputs : OODInputs
            Quantities of ``B`` galaxies.

        Returns
        -------
        score : Tensor
            Minus the decimal logarithm of the fraction of galaxies of the training domain that are further out, shape
            ``(B,)``; NaN where there is no measurement.
        reason : Tensor of int64
            Index of the least probable among `names`, shape ``(B,)``; -1 where there is no measurement.
        """
        score = torch.full((len(inputs),), torch.nan, dtype=torch.float64)
        reason = torch.full((len(inputs),), -1, dtype=torch.int64)
        usable = torch.nonzero(inputs.usable())[:, 0]
        if len(usable):
            inputs = inputs[usable]
            table = self._snr_weights(inputs) @ self.last.double()
            least, reason[usable] = self.probabilities(inputs).max(1)
            score[usable] = _rarity(table, least)
        return score, reason

    def probabilities(self, inputs: OODInputs) -> Tensor:
        """Minus the decimal logarithm of each statistic's probability, shape ``(B, K)``, ``K`` as in `names`."""
        weights = self._weights(inputs)
        rarities = [
            _rarity(torch.einsum("bn,nkl->bkl", weight, tails.double()), values)
            for weight, tails, values in zip(weights, self.tails, self._statistics(inputs, weights), strict=True)
        ]
        return torch.maximum(*rarities)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the statistics."""
        return (*STATISTICS, "moments", "features")

    def save(self, path: str | PathLike[str]) -> None:
        """Write to a file, in safetensors' format."""
        tensors = {name: getattr(self, name).contiguous() for name in _TENSORS}
        tensors |= {name: tensors[name].to(_STORED) for name in _MATRICES}
        tensors |= {_NETWORK + name: tensor.float() for name, tensor in self.expectation.state_dict().items()}
        card = companion_card({**self.card, "format": FORMAT}, tensors)
        content = save(tensors, {"card": json.dumps(card, sort_keys=True)})
        write_whole(path, content)

    def _learn_tails(self, inputs):
        """Quantiles of the statistics, shape ``(2, S * R, K, L)``."""
        weights = self._weights(inputs)
        chunks = torch.arange(len(inputs)).split(chunk_size("scores"))
        statistics = [self._statistics(inputs[rows], [column[rows] for column in weights]) for rows in chunks]
        tails = []
        for weight, *values in zip(weights, *statistics, strict=True):
            tails.append(torch.stack([_quantiles(torch.cat(values), column).float() for column in weight.T]))
        return torch.stack(tails)

    def _compared(self, inputs):
        """Two numbers by which galaxies are compared beside S/N, each of shape ``(B,)``."""
        return self.expectation(inputs), inputs.size.log()

    def _weights(self, inputs):
        """Linear interpolation between the nodes of both comparisons, each of shape ``(B, S * R)``."""
        by_snr, weights = self._snr_weights(inputs), []
        for value, nodes in zip(self._compared(inputs), self.nodes, strict=True):
            hats = torch.stack([_hats(value, node) for node in nodes], 1)
            weights.append((by_snr[:, :, None] * hats).flatten(1))
        return weights

    def _snr_weights(self, inputs):
        """Linear interpolation between the nodes in S/N alone, shape ``(B, S)``."""
        return _hats(inputs.snr.log(), self.snr_nodes)

    def _statistics(self, inputs, weights):
        """Statistics, monotonously squeezed, for both comparisons, each of shape ``(B, K)``."""
        features = _distance(self._snr_weights(inputs), inputs.features, self.feature_mean, self.feature_white)
        local, statistics = torch.asinh(inputs.residuals.statistics.double()), []
        for weight, mean, white in zip(weights, self.moment_mean, self.moment_white, strict=True):
            moments = _distance(weight, inputs.residuals.moments, mean, white)
            distances = torch.stack([moments, features], 1).clamp_min(1e-3).log()
            statistics.append(torch.cat([local, distances], 1))
        return statistics


def ood_path(path: str | PathLike[str]) -> Path:
    """Path of the OOD reference of a file of weights."""
    return Path(path).with_suffix(SUFFIX)


def load_ood(path: str | PathLike[str], weights_sha256: str, shipped_sha256: str | None = None) -> OODReference | None:
    """Read an OOD reference.

    Parameters
    ----------
    path : pathlib.Path
        File that `OODReference.save` has written.
    weights_sha256 : str
        Digest of the weights in use.
    shipped_sha256 : str, optional
        Digest of the file that came with these weights, against which files without a digest are checked.

    Returns
    -------
    OODReference or None
        None if there is no such file.

    Raises
    ------
    WeightsError
        If the file is damaged, or of other weights.
    """
    try:
        state = Path(path).stat()
    except FileNotFoundError:
        return None
    return _load(Path(path), weights_sha256, shipped_sha256, state.st_mtime_ns, state.st_size)


TypicalGalaxies = OODReference
"""Deprecated name of `OODReference`."""

load_typical = load_ood
"""Deprecated name of `load_ood`."""

typical_path = ood_path
"""Deprecated name of `ood_path`."""


@lru_cache(maxsize=4)
def _load(path, weights_sha256, shipped_sha256, *_):
    """Read a file; what else identifies it keeps an older one from being taken for it."""
    other_version = f"{path}: was written by another version of galmeasure"
    try:
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        card = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["card"])
        if card["format"] != FORMAT:
            raise WeightsError(other_version)
        tensors = load(content)
        check_companion(path, content, card, tensors, shipped_sha256)
        tensors |= {name: tensors[name].double() for name in _MATRICES}
        expectation = Expectation(tensors["feature_mean"].shape[1])
        layers = {name: tensors.pop(name) for name in list(tensors) if name.startswith(_NETWORK)}
        expectation.load_state_dict({name.removeprefix(_NETWORK): tensor for name, tensor in layers.items()})
        expectation = expectation.double().eval().requires_grad_(False)
        galaxies = OODReference(expectation, *(tensors[name] for name in _TENSORS), card=card)
        has_right_shape = galaxies.tails.shape == (2, _SNR_NODES * _NODES, len(galaxies.names), len(_GRID))
    except WeightsError:
        raise
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, RuntimeError, OverflowError) as err:
        msg = f"{path}: is damaged, or no OOD reference ({in_brief(err)})"
        raise WeightsError(msg) from err
    if not has_right_shape:
        raise WeightsError(other_version)
    if card.get("weights_sha256") != weights_sha256:
        msg = f"{path}: is not of these weights; write it again with galmeasure weights --ood, or remove it"
        raise WeightsError(msg)
    return galaxies


def _shares(count):
    """Rows in four parts, each spread over all."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return torch.tensor_split(order, [int(share * count) for share in (0.3, 0.5, 0.8)])


def _chunks(inputs):
    size = chunk_size("scores")
    return (inputs[start : start + size] for start in range(0, len(inputs), size))


def _hats(value, nodes):
    """Weights of linear interpolation between ascending nodes, constant beyond them, shape ``(B, len(nodes))``."""
    value = value.clamp(nodes[0], nodes[-1])
    upper = torch.searchsorted(nodes, value).clamp(1, len(nodes) - 1)
    fraction = (value - nodes[upper - 1]) / (nodes[upper] - nodes[upper - 1]).clamp_min(1e-9)
    weight = torch.zeros((len(value), len(nodes)), dtype=value.dtype)
    rows = torch.arange(len(value))
    weight[rows, upper - 1] = 1.0 - fraction
    weight[rows, upper] = fraction
    return weight


def _whitening(values, weight):
    """Means ``(N, M)`` and whitening matrices ``(N, M, M)`` of values, weighted with each column of ``(B, N)``."""
    means, matrices = [], []
    for column in weight.T:
        rows = torch.nonzero(column > 0)[:, 0]
        sample, share = values[rows].double(), column[rows] / column.sum()
        mean = share @ sample
        offset = sample - mean
        variance, axes = torch.linalg.eigh(offset.T @ (share[:, None] * offset))
        variance = variance.clamp_min(_FLOOR * variance.mean())
        means.append(mean)
        matrices.append(axes / variance.sqrt())
    return torch.stack(means).float(), torch.stack(matrices).to(_STORED).double()


def _distance(weight, values, means, matrices):
    """Squared Mahalanobis distances per dimension, each by the node of its largest weight, shape ``(B,)``."""
    distances, nearest = torch.empty(len(values), dtype=torch.float64), weight.argmax(1)
    values = values.double()
    for node in nearest.unique().tolist():
        rows = torch.nonzero(nearest == node)[:, 0]
        distances[rows] = ((values[rows] - means[node]) @ matrices[node]).square_().mean(1)
    return distances


def _quantiles(values, weight, probabilities=_PROBABILITIES):
    """Weighted quantiles of columns, shape ``(K, L)``, strictly ascending."""
    rows = torch.nonzero(weight > 0)[:, 0]
    values, order = values[rows].sort(0)
    weight = weight[rows]
    levels = torch.tensor(probabilities, dtype=torch.float64)
    quantiles = []
    for k in range(values.shape[1]):
        share = weight[order[:, k]]
        below = (share.cumsum(0) - 0.5 * share) / share.sum()
        index = torch.searchsorted(below, levels).clamp(1, len(below) - 1)
        fraction = (levels - below[index - 1]) / (below[index] - below[index - 1]).clamp_min(1e-12)
        low, high = values[index - 1, k], values[index, k]
        quantiles.append(low + fraction.clamp(0.0, 1.0) * (high - low))
    steps = torch.arange(len(probabilities), dtype=torch.float64) * 1e-6
    return torch.stack(quantiles).double().cummax(1).values + steps


def _rarity(table, values):
    """Minus the decimal logarithm of the probability of larger values, from quantiles ``(..., L)``."""
    grid = torch.tensor(_GRID, dtype=torch.float64)
    upper = torch.searchsorted(table, values[..., None]).clamp(1, len(_GRID) - 1)
    low, high = table.gather(-1, upper - 1), table.gather(-1, upper)
    fraction = (values[..., None] - low) / (high - low).clamp_min(1e-9)
    rarity = grid[upper - 1] + fraction * (grid[upper] - grid[upper - 1])
    return rarity[..., 0].clamp_min(0.0)
