"""Deep ensembles: the mixture of the posteriors of several networks."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from astropy.table import QTable
from scipy.special import logsumexp, ndtr

from galmeasure.cutouts import Cutouts
from galmeasure.cutouts.batches import CutoutBatch
from galmeasure.fitters.base import BatchMeasurement, SersicFitterBase
from galmeasure.fitters.batch_quality import batch_quality
from galmeasure.fitters.neural import NeuralSersicFitter
from galmeasure.fitters.quality import quality_flags
from galmeasure.fitters.tensors import BatchTensors
from galmeasure.flags import Flag
from galmeasure.parameters import N_PARAMETERS, SERSIC

__all__ = ["EnsembleSersicFitter"]

_SUMMARIES = ("mean", "median")
_LEVELS = np.array([0.15865525, 0.5, 0.84134475])
_MEDIAN = 1  # place among the levels
_STEPS = 50  # bisections of a quantile: to a millionth of a millionth of the bracket
_REACH = 8.0  # errors from the outermost medians, between which the quantiles of a mixture lie
_POSITIVE = np.array(SERSIC.indices("flux", "n", "r_eff"))
_MEMBER_FLAGS = Flag.OUTSIDE_DOMAIN | Flag.OUT_OF_DISTRIBUTION | Flag.PRIOR_DOMINATED | Flag.PSF_UNUSUAL


@dataclass(frozen=True, kw_only=True)
class EnsembleSersicFitter(SersicFitterBase):
    """Mixture of the posteriors of several trained networks, all with the same weight.

    Networks that were trained from other random numbers differ where their training tells little. The spread of their
    means adds to the errors, which so grow for galaxies unlike those of the training.

    Parameters
    ----------
    members : sequence of str or path-like, or str
        Names or files of the weights, at least two; a text may hold several names with commas between them.
    summary : {"mean", "median"}, optional
        What of the mixture the columns ``<p>_fit`` hold.
    refine : {"auto", None}, optional
        Refinement of each member, as in `NeuralSersicFitter`.
    precision : {"float32", "bfloat16"}, optional
        Precision of the networks, as in `NeuralSersicFitter`.
    crb : bool, optional
        Add the columns ``<p>_crb``, the Cramer-Rao bound at the point estimate.
    covariance : bool, optional
        Add the column ``covariance``.
    device : str, optional
        Torch device on which to compute.
    batch_size : int, optional
        Number of cutouts held as tensors at one time; chosen by their size by default.

    Raises
    ------
    ValueError
        If there are fewer than two members, or weights or an option are wrong.

    Notes
    -----
    Mean and covariance are those of the mixture. Its quantiles are those of the mixture of the members' marginals, each
    taken as two halves of Gaussians (in the logarithm for flux, n and r_eff) that meet at the median and have the
    member's quantiles. A galaxy's ``ood_score`` is the largest among the members'.

    References
    ----------
    Lakshminarayanan et al. 2017, Simple and scalable predictive uncertainty estimation using deep ensembles,
    arXiv:1612.01474.

    Examples
    --------
    >>> from galmeasure import read_cutouts
    >>> from galmeasure.fitters import EnsembleSersicFitter
    >>> cutouts = read_cutouts("examples/demo_catalog.fits")
    >>> table = EnsembleSersicFitter(members=("survey-v3", "survey-v3-fast")).fit(cutouts[:4])
    >>> len(table)
    4
    """

    members: Sequence[str | os.PathLike[str]] | str = ("survey-v3", "survey-v3-fast")
    summary: str = "mean"
    refine: str | None = "auto"
    precision: str | None = None
    crb: bool = False
    covariance: bool = False
    device: str = "cpu"
    batch_size: int | None = None

    _has_starts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the configuration."""
        super().__post_init__()
        members = self.members.split(",") if isinstance(self.members, str) else list(self.members)
        object.__setattr__(self, "members", tuple(m.strip() if isinstance(m, str) else m for m in members))
        if len(self.members) < 2:
            msg = f"members must be at least two names or files of weights, not {self.members!r}"
            raise ValueError(msg)
        if self.summary not in _SUMMARIES:
            msg = f"summary must be one of {', '.join(map(repr, _SUMMARIES))}, not {self.summary!r}"
            raise ValueError(msg)
        if self.refine not in ("auto", None):
            msg = f"refine must be 'auto' or None for an ensemble, not {self.refine!r}"
            raise ValueError(msg)
        self.fitters  # noqa: B018 - so that damaged weights are noticed at once

    @cached_property
    def fitters(self) -> tuple[NeuralSersicFitter, ...]:
        """Fitters of the members."""
        options = {"refine": self.refine, "precision": self.precision, "device": self.device}
        return tuple(NeuralSersicFitter(weights=member, **options) for member in self.members)

    def describe_estimator(self) -> dict[str, Any]:
        """Members and summary: a calibration holds for these."""
        members = [fitter.describe_estimator() for fitter in self.fitters]
        return {**super().describe_estimator(), "summary": self.summary, "members": members}

    def measure(self, batch: CutoutBatch, init: npt.NDArray[np.float64]) -> BatchMeasurement:
        """Measure one batch by all members, and mix what they give."""
        parts = [fitter.measure(batch, init) for fitter in self.fitters]
        measurement = BatchMeasurement.empty(len(batch), **self._columns())
        measurement.values[:], measurement.covariance[:] = mixture_moments(
            np.stack([part.values for part in parts]), np.stack([part.covariance for part in parts])
        )
        measurement.quantiles[:] = mixture_quantiles(np.stack([part.quantiles for part in parts]))
        if self.summary == "median":
            measurement.values[:] = measurement.quantiles[:, _MEDIAN]
        measurement.point_like[:] = np.mean([part.point_like for part in parts], axis=0)
        measurement.method[:] = self.method
        for part in parts:
            measurement.flags |= part.flags & int(_MEMBER_FLAGS | Flag.FAILED)
        _mix_scores(measurement, [part for part in parts if part.ood_score is not None])
        self._store_quality(batch, measurement)
        return measurement

    def sample(
        self, cutouts: Any, psf: Any = None, n_samples: int = 500, *, seed: int = 0, progress_bar: bool = False,
        **options: Any,
    ) -> QTable:  # fmt: skip
        """Draw from the mixture: as many draws from each member, or one more, in random order.

        Parameters
        ----------
        cutouts, psf, n_samples, seed, progress_bar, **options
            The same arguments as those of `NeuralSersicFitter.sample`; ``n_samples`` is at least the number of members.

        Returns
        -------
        `~astropy.table.QTable`
            Draws of each galaxy, as `NeuralSersicFitter.sample` gives them.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind, shape or unit.
        """
        count = len(self.fitters)
        if isinstance(n_samples, bool) or not isinstance(n_samples, int | np.integer) or n_samples < count:
            msg = f"n_samples must be an integer of at least {count}, the number of members, not {n_samples!r}"
            raise ValueError(msg)
        cutouts = Cutouts(cutouts, psf, **options)
        sizes = [n_samples // count + (member < n_samples % count) for member in range(count)]
        tables = [
            fitter.sample(cutouts, None, size, seed=seed + member, progress_bar=progress_bar)
            for member, (fitter, size) in enumerate(zip(self.fitters, sizes, strict=True))
        ]
        order, mixed = np.random.default_rng(seed).permutation(n_samples), tables[0].copy()
        for name in mixed.colnames:
            if name != "id":
                mixed[name] = np.concatenate([table[name] for table in tables], axis=1)[:, order]
        mixed.meta |= self._meta()
        return mixed

    def log_prob(
        self, cutouts: Any, psf: Any = None, parameters: Any = None, *, progress_bar: bool = False, **options: Any
    ) -> npt.NDArray[np.float64]:
        """Log density of the mixture at given parameters.

        Parameters
        ----------
        cutouts, psf, parameters, progress_bar, **options
            The same arguments as those of `NeuralSersicFitter.log_prob`.

        Returns
        -------
        ndarray
            Natural logarithm of the density, as `NeuralSersicFitter.log_prob` gives it.
        """
        cutouts = Cutouts(cutouts, psf, **options)
        densities = [fitter.log_prob(cutouts, None, parameters, progress_bar=progress_bar) for fitter in self.fitters]
        return logsumexp(densities, axis=0) - np.log(len(densities))

    def _columns(self):
        scored = any(fitter._columns()["ood"] for fitter in self.fitters)
        return {**super()._columns(), "quantiles": True, "ood": scored, "method": True}

    def _meta(self):
        return {"WEIGHTS": ",".join(fitter._meta()["WEIGHTS"] for fitter in self.fitters)}

    def _batch_pixels(self):
        return self.fitters[0]._batch_pixels()

    def _store_quality(self, batch, measurement):
        """Quality of the models of the mixture, and its flags."""
        with torch.inference_mode():
            rows, quality = batch_quality(BatchTensors.of(batch, self.device), measurement.values, crb=self.crb)
        if quality is None:
            return
        quality = quality.cpu()
        values, shapes = torch.from_numpy(measurement.values[rows]), torch.from_numpy(batch.shape[rows])
        measurement.snr[rows] = quality.snr.numpy()
        measurement.chi2_reduced[rows] = quality.reduced(N_PARAMETERS)[1].numpy()
        measurement.n_pixels_fit[rows] = quality.n_pixels.numpy()
        if self.crb:
            measurement.crb[rows] = quality.crb.numpy()
        measurement.flags[rows] |= quality_flags(quality, N_PARAMETERS, values, shapes).numpy()


def mixture_moments(
    means: npt.NDArray[np.float64], covariances: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and covariance of mixtures with equal weights.

    Parameters
    ----------
    means : ndarray
        Means of the members, shape ``(K, B, P)``.
    covariances : ndarray
        Covariances of the members, shape ``(K, B, P, P)``.

    Returns
    -------
    mean, covariance : ndarray
        Shapes ``(B, P)`` and ``(B, P, P)``.
    """
    mean = means.mean(axis=0)
    offset = means - mean
    return mean, covariances.mean(axis=0) + np.einsum("kbi,kbj->bij", offset, offset) / len(means)


def mixture_quantiles(quantiles: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Quantiles of mixtures of marginals that are known by their own quantiles of 16, 50 and 84 %.

    Parameters
    ----------
    quantiles : ndarray
        Quantiles of the members, shape ``(K, B, 3, 7)``.

    Returns
    -------
    ndarray
        Shape ``(B, 3, 7)``; NaN where a member has none.
    """
    known = np.moveaxis(quantiles, 2, 0).copy()
    with np.errstate(all="ignore"):
        known[..., _POSITIVE] = np.log(known[..., _POSITIVE])
    low, middle, high = known
    below, above = np.maximum(middle - low, 1e-12), np.maximum(high - middle, 1e-12)
    reach = _REACH * np.maximum(below, above).max(axis=0)
    results = np.empty((len(_LEVELS), *middle.shape[1:]))
    for place, level in enumerate(_LEVELS):
        first, last = middle.min(axis=0) - reach, middle.max(axis=0) + reach
        for _ in range(_STEPS):
            point = 0.5 * (first + last)
            share = ndtr((point - middle) / np.where(point < middle, below, above)).mean(axis=0)
            first, last = np.where(share < level, point, first), np.where(share < level, last, point)
        results[place] = 0.5 * (first + last)
    results[..., _POSITIVE] = np.exp(results[..., _POSITIVE])
    results[:, ~np.isfinite(quantiles).all(axis=(0, 2))] = np.nan
    return np.moveaxis(results, 0, 1)


def _mix_scores(measurement: BatchMeasurement, parts: list[BatchMeasurement]) -> None:
    """Largest score of the members and its reason, in place."""
    if not parts:
        return
    scores = np.stack([part.ood_score for part in parts])
    largest = np.nan_to_num(scores, nan=-1.0).argmax(axis=0)
    rows = np.arange(scores.shape[1])
    measurement.ood_score[:] = scores[largest, rows]
    measurement.ood_reason[:] = np.stack([part.ood_reason for part in parts])[largest, rows]
