"""The default estimator: a trained network gives every galaxy's posterior."""

import os
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from astropy.table import QTable

from galmeasure.cutouts import Cutouts
from galmeasure.cutouts.batches import CutoutBatch
from galmeasure.fitters.base import BatchMeasurement, SersicFitterBase
from galmeasure.fitters.batch_quality import batch_quality
from galmeasure.fitters.importance.refine import check_refinement, refine_batch, refined_draws
from galmeasure.fitters.importance.sampling import HeldParameters
from galmeasure.fitters.neural.condition import conditioned_chunk
from galmeasure.fitters.neural.domain import beyond_domain, data_snr, widen
from galmeasure.fitters.neural.draws import check_integer, draw_table, given_parameters, row_normals, split_for_flow
from galmeasure.fitters.neural.network_images import NetworkImages
from galmeasure.fitters.neural.posteriors import corrected_posteriors, network_posteriors
from galmeasure.fitters.neural.recentre import off_middle
from galmeasure.fitters.neural.reweight import (
    LEAST_DRAWS,
    PriorRatio,
    check_prior,
    log_evidence_ratio,
    reweighted_chunk,
    reweighted_draws,
)
from galmeasure.fitters.neural.summaries import network_view, summarise
from galmeasure.fitters.quality import quality_flags
from galmeasure.fitters.tensors import BatchTensors
from galmeasure.flags import Flag
from galmeasure.networks import NATIVE_SIZE
from galmeasure.networks.precision import bf16_is_fast
from galmeasure.ood.inputs import ood_inputs
from galmeasure.ood.reference import FALSE_ALARMS, load_ood, ood_path
from galmeasure.parameters import N_PARAMETERS, PARAMETER_INDEX, PARAMETER_NAMES
from galmeasure.priors import Prior, get_prior
from galmeasure.render.memory import reserve_heap
from galmeasure.results.columns import fixed_values
from galmeasure.utils.chunks import chunk_size
from galmeasure.weights import DEFAULT_WEIGHTS, load_network
from galmeasure.weights.corrections import load_correction
from galmeasure.weights.registry import find_weights, known_digest

__all__ = ["NeuralSersicFitter"]

_SUMMARIES = ("mean", "median", "mode")
_PRECISIONS = ("float32", "bfloat16")
_REFINEMENTS = ("auto", "importance", None)
_CORRECTED = "neural+newton"
_POINT = 0.5  # probability from which an object counts as a point
_DECIMALS = 4  # of scores: what is beyond depends on how many galaxies are scored at once


@dataclass(frozen=True, kw_only=True)
class NeuralSersicFitter(NetworkImages, SersicFitterBase):
    """Posterior of the Sersic parameters, from a trained network.

    Parameters
    ----------
    weights : str or path-like, optional
        Name of weights that galmeasure ships (see `galmeasure.list_weights`), or path of a file of weights.
    summary : {"mean", "median", "mode"}, optional
        What of the posterior the columns ``<p>_fit`` hold: its mean, which has the smallest squared error, the median
        of each parameter, or the point of highest density.
    precision : {"float32", "bfloat16"}, optional
        With which the network's blocks compute; by default bfloat16 where the processor is made for it.
    refine : {"auto", "importance", None}, optional
        ``"auto"``, the default, evaluates the exact model and its derivatives at the network's estimate, takes steps
        towards the optimum where the galaxy is bright, and corrects the posterior by what is learned of all this; with
        weights that have no correction it is the same as None. ``"importance"`` replaces posteriors by exact ones:
        draws of the corrected posterior, weighted with the likelihood of the pixels and the prior; see
        :doc:`/exact_posteriors`. None leaves the network the last word.
    views : {1, 8}, optional
        Number of turned and flipped views of each stamp whose estimates are averaged, for networks of point estimates.
    n_draws : int, optional
        Most draws of a galaxy for ``refine``; most need fewer.
    min_ess : float, optional
        Effective draws wanted for ``refine``.
    prior : str or Prior, optional
        Prior of the posteriors, see `galmeasure.priors`, or its name; by default that of the training of the weights.
        Posteriors are re-weighted by the ratio of the two.
    fixed : dict, optional
        Parameters that are known: name to value in the units of the result table, or to ``"init"``, the galaxy's value
        in ``init_params``. The others are those of the posterior given these; g1 and g2 are held together.
    crb : bool, optional
        Add the columns ``<p>_crb``, the Cramer-Rao bound at the point estimate.
    covariance : bool, optional
        Add the column ``covariance``, in the order of `galmeasure.parameters.PARAMETERS`.
    calibration : path-like, optional
        File of ``galmeasure calibrate``: corrects estimates, errors and quantiles; see :doc:`/calibration`.
    device : str, optional
        Torch device on which to compute.
    batch_size : int, optional
        Cutouts held as tensors at one time; chosen by their size by default.

    Raises
    ------
    ValueError, TypeError
        If there are no such weights, their file is damaged, or an option is wrong.

    Notes
    -----
    The posterior is that under the prior of the training, see the card of the weights. ``<p>_err`` and
    ``covariance`` are the standard deviations and the covariance of the posterior, ``<p>_q16``, ``<p>_q50`` and
    ``<p>_q84`` the quantiles of each parameter; none of them are drawn at random. `sample` and `log_prob` give the
    whole posterior.

    Outside the domain of the training a row is flagged ``outside_domain``, and its errors and quantiles are widened
    by a factor: 1, plus 8 times the natural logarithm of the ratio by which the width of the PSF or the side of the
    stamp lies beyond its range, plus that of a signal-to-noise ratio that is too low, plus 1 where the posterior
    crowds at an edge in ``n``, ``r_eff``, the shear or the centre, because the truth may lie beyond.

    ``ood_score`` says how unlike the galaxies of the training each one looks, in its residuals and to the network: of
    those, one in ``10**ood_score`` looks stranger. One in a hundred, a score of 2, is flagged
    ``out_of_distribution``; ``ood_reason`` names what is strangest in these, and is empty in all others, see
    :doc:`/unusual`. Weights without an OOD reference give neither column.

    Weights of the study's networks (``xception-...``) give point estimates with Gaussian errors, for galaxies in the
    middle of their stamps: ``x_fit`` and ``y_fit`` are the middle, their errors are 0, galaxies elsewhere are flagged
    ``outside_domain``; ``prior``, ``fixed`` and ``refine="importance"`` are not for them.

    Stamps of any size are taken: see :doc:`/neural`. Starting values (``init_params``) are accepted and not used, and
    the table has no columns ``<p>_init``.

    Examples
    --------
    >>> from galmeasure import NeuralSersicFitter, read_cutouts
    >>> cutouts = read_cutouts("examples/demo_catalog.fits")
    >>> table = NeuralSersicFitter().fit(cutouts[:4])
    >>> len(table), table["r_eff_q84"].unit
    (4, Unit("arcsec"))
    """

    weights: str = DEFAULT_WEIGHTS
    summary: str = "mean"
    precision: str | None = None
    refine: str | None = "auto"
    views: int = 1
    n_draws: int = 1024
    min_ess: float = 100.0
    prior: str | Prior | None = None
    fixed: dict = field(default_factory=dict)
    crb: bool = False
    covariance: bool = False
    calibration: str | os.PathLike | None = None
    device: str = "cpu"
    batch_size: int | None = None

    _has_starts: ClassVar[bool] = False

    def __post_init__(self):
        """Check the configuration."""
        super().__post_init__()
        if self.summary not in _SUMMARIES:
            msg = f"summary must be one of {', '.join(map(repr, _SUMMARIES))}, not {self.summary!r}"
            raise ValueError(msg)
        if self.precision is not None and self.precision not in _PRECISIONS:
            msg = f"precision must be one of {', '.join(map(repr, _PRECISIONS))} or None, not {self.precision!r}"
            raise ValueError(msg)
        if self.refine not in _REFINEMENTS:
            msg = f"refine must be one of {', '.join(map(repr, _REFINEMENTS))}, not {self.refine!r}"
            raise ValueError(msg)
        object.__setattr__(self, "_weights", find_weights(self.weights, "weights"))
        self._ood_reference()  # so that a damaged file is noticed at once
        network = load_network(self._weights, self.device)
        load_correction(self._weights)
        self._check_held(network)
        if self.prior is not None:
            check_prior(get_prior(self.prior), self._weights)
        if self.refine == "importance" and set(self.fixed) >= set(PARAMETER_NAMES) - {"flux"}:
            msg = "fixed must leave one parameter besides the flux free with refine='importance'"
            raise ValueError(msg)
        if self.refine == "importance":
            check_refinement(self._weights, network, self.n_draws, self.min_ess)
        self._load_calibration()

    def _check_held(self, network):
        """Refuse what needs the posterior of parameters that a network takes as known, and what only these have."""
        allowed = (1, 8) if network.held else (1,)
        if self.views not in allowed:
            numbers = " or ".join(map(str, allowed))
            msg = f"views must be {numbers} with weights {self._weights.name}, not {self.views!r}"
            raise ValueError(msg)
        if not network.held:
            return
        names = ", ".join(network.held)
        if self.refine == "importance":
            msg = f"refine must be 'auto' or None with weights {self._weights.name}, which take {names} as known"
            raise ValueError(msg)
        if self.fixed:
            msg = f"fixed must be empty with weights {self._weights.name}, which take {names} as known"
            raise ValueError(msg)
        if self.prior is not None:
            msg = f"prior must be None with weights {self._weights.name}, which take {names} as known"
            raise ValueError(msg)

    def describe_estimator(self) -> dict[str, Any]:
        """Weights, summary and refinement: a calibration holds for these."""
        weights = {"weights": self._weights.name, "sha256": self._weights.sha256}
        return {**super().describe_estimator(), **weights, "summary": self.summary, "refine": self.refine,
                "prior": self._prior().name, "fixed": sorted(self.fixed)}  # fmt: skip

    def measure(self, batch: CutoutBatch, init: npt.NDArray[np.float64]) -> BatchMeasurement:
        """Measure one batch, as `fit` needs it; ``init`` is used for ``fixed`` only."""
        reserve_heap()
        measurement = BatchMeasurement.empty(len(batch), **self._columns())
        reference = self._ood_reference()
        with torch.inference_mode():
            tensors = BatchTensors.of(batch, self.device)
            posteriors = self._posteriors(tensors, residuals=reference is not None)
            posteriors = self._with_prior(posteriors, tensors, measurement)
            posteriors = self._conditioned(posteriors, init)
            summaries = summarise(posteriors, tensors, self.summary, self._weights.domain, self._prior())
            self._store(summaries, posteriors, batch, measurement)
            refined = self._refine(posteriors, tensors, init, measurement)
            network_models = None if reference is None else self._network_models(posteriors, tensors)
            rows, quality = self._quality(posteriors, tensors, measurement.values, network_models)
            if reference is not None:
                self._score(reference, self._ood_inputs(posteriors, tensors, network_models), measurement)
        if len(rows):
            self._store_quality(rows, quality, summaries, batch, measurement)
            self._widen(summaries, refined, batch, measurement)
            self._flag_off_middle(rows, batch, measurement)
        return measurement

    def _each_ood_inputs(self, cutouts):
        """Yield what the score of each batch of cutouts is made of, `galmeasure.ood.reference.OODInputs`."""

        def look(batch):
            with torch.inference_mode():
                tensors = BatchTensors.of(batch, self.device)
                posteriors = self._posteriors(tensors, residuals=True)
                return batch, self._ood_inputs(posteriors, tensors, self._network_models(posteriors, tensors))

        for _, inputs in self._each_batch(cutouts, look, False):
            yield inputs

    def _posteriors(self, tensors, residuals=False):
        """Posteriors of a batch under the prior of the training."""
        network, bf16 = load_network(self._weights, self.device), self._bf16()
        network = network.with_views(self.views) if self.views > 1 else network
        correction = None if self.refine is None else load_correction(self._weights, self.device)
        if correction is None:
            return network_posteriors(network, tensors, bf16=bf16)
        return corrected_posteriors(network, correction, tensors, bf16=bf16, residuals=residuals)

    def _prior(self):
        """Prior of the posteriors."""
        return self._weights.get_prior() if self.prior is None else get_prior(self.prior)

    def _with_prior(self, posteriors, tensors, measurement=None):
        """Posteriors under ``prior``; rows with too few effective draws are flagged."""
        if self.prior is None or self.refine == "importance":
            return posteriors
        chunks = []
        for chunk in posteriors.chunks:
            ratio = self._ratio(posteriors, tensors, chunk)
            reweighted, effective = reweighted_chunk(posteriors.module, chunk, ratio)
            poor = (effective.cpu().numpy() < LEAST_DRAWS) & chunk.keep
            measurement.flags[chunk.rows[poor]] |= int(Flag.POOR_PROPOSAL)
            chunks.append(reweighted)
        return replace(posteriors, chunks=chunks)

    def _conditioned(self, posteriors, init):
        """Posteriors given the parameters of ``fixed``, with the values of ``init``, shape ``(B, 7)``."""
        if not self.fixed:
            return posteriors
        given, transform = torch.from_numpy(init).to(self.device), posteriors.module.transform
        chunks = [conditioned_chunk(transform, chunk, given[chunk.rows], self.fixed) for chunk in posteriors.chunks]
        return replace(posteriors, chunks=chunks)

    def _ratio(self, posteriors, tensors, chunk):
        """Ratio of the prior that is wanted to that of the training, for the rows of a chunk."""
        rows, window = torch.from_numpy(chunk.rows).to(self.device), chunk.window
        flux = chunk.summary.mean[:, PARAMETER_INDEX["flux"]].double()
        if posteriors.evaluation is None:
            values = np.full((len(tensors), N_PARAMETERS), np.nan)
            values[chunk.rows] = window.to_stamp(chunk.summary.mean).cpu().numpy()
            members, quality = batch_quality(tensors, values, psfs=posteriors.psfs)
            snr = torch.full((len(tensors),), torch.nan, dtype=torch.float64, device=self.device)
            snr[torch.from_numpy(members).to(self.device)] = quality.snr
        else:
            snr = posteriors.evaluation.evaluation.snr
        fwhm = tensors.psf_fwhm()[rows] / window.block
        return PriorRatio(self._prior(), self._weights.get_prior(), snr[rows], flux, fwhm)

    def _network_models(self, posteriors, tensors):
        """Means of the network alone, rows and their quality with residuals; None where there is an evaluation."""
        if posteriors.evaluation is not None:
            return None
        values = posteriors.network_values(len(tensors))
        return values, *batch_quality(tensors, values, psfs=posteriors.psfs, residuals=True)

    def _quality(self, posteriors, tensors, values, network_models):
        """Rows and quality of their models, from what was rendered already where that is enough."""
        if posteriors.evaluation is not None and self.refine == "auto" and not self.crb:
            return posteriors.quality(values)
        if network_models is not None and not self.crb and np.array_equal(values, network_models[0], equal_nan=True):
            return network_models[1:]
        return batch_quality(tensors, values, psfs=posteriors.psfs, crb=self.crb)

    def _ood_inputs(self, posteriors, tensors, network_models):
        """Input of the score: residuals of the evaluation, or of the network's means where there is none."""
        view = network_view(posteriors, tensors)
        if network_models is None:
            values, residual = posteriors.evaluation.values, posteriors.evaluation.residual
            return ood_inputs(view, values, posteriors.evaluation.evaluation.snr, residual, tensors.good)
        values, rows, quality = network_models
        index = torch.from_numpy(rows).to(self.device)
        snr = torch.full((len(tensors),), torch.nan, dtype=torch.float64, device=self.device)
        residual = torch.zeros_like(tensors.image)
        if quality is not None:
            snr[index], residual[index] = quality.snr, quality.residual
        return ood_inputs(view, values, snr, residual, tensors.good)

    def sample(
        self,
        cutouts: Any,
        psf: Any = None,
        n_samples: int = 500,
        *,
        seed: int = 0,
        progress_bar: bool = False,
        **options: Any,
    ) -> QTable:
        """Draw from the posteriors.

        Parameters
        ----------
        cutouts, psf
            The same arguments as those of `fit`.
        n_samples : int, optional
            Draws for each galaxy.
        seed : int, optional
            The draws of a row are a function of the seed, the row's number and its cutout.
        progress_bar : bool, optional
            Show a bar on standard error.
        **options
            ``error``, ``mask``, ``gain``, ``pixel_scale``, ``wcs``, ``psf_oversampling``, ``psf_flux``,
            ``psf_includes_pixel``, ``positions``, ``ids`` and ``zero_point``, as in `fit`.

        Returns
        -------
        `~astropy.table.QTable`
            One row per cutout: ``id`` and the parameters ``x``, ``y``, ``flux``, ``n``, ``r_eff``, ``g1``, ``g2``,
            ``r_eff_major``, ``q`` and ``theta``, each a vector of ``n_samples`` draws (those of different parameters
            belong together), in the units of the table that `fit` gives; NaN where there is no measurement.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind, shape or unit; the message names it and the rule.

        Notes
        -----
        The draws are those of the normalising flow: not widened outside the domain of the training, and not calibrated.
        With ``refine`` they are chosen among the weighted draws of the exact posteriors, some more than once if there
        are fewer effective ones than wanted; NaN where least squares had to step in.
        """
        check_integer("n_samples", n_samples, 1)
        check_integer("seed", seed, 0)
        cutouts = Cutouts(cutouts, psf, **options)
        given = self._given(cutouts)
        drawn = np.full((len(cutouts), n_samples, N_PARAMETERS), np.nan)

        def draw(batch):
            return batch, self._draw_batch(batch, n_samples, seed, given[batch.index])

        for batch, values in self._each_batch(cutouts, draw, progress_bar):
            values[..., PARAMETER_INDEX["flux"]] *= batch.scale[:, None]
            drawn[batch.index] = values
        return draw_table(cutouts, drawn, self._meta() | cutouts.psf_meta)

    def log_prob(
        self, cutouts: Any, psf: Any = None, parameters: Any = None, *, progress_bar: bool = False, **options: Any
    ) -> npt.NDArray[np.float64]:
        """Log density of the posterior at given parameters.

        Parameters
        ----------
        cutouts, psf
            The same arguments as those of `fit`.
        parameters : table
            One row per cutout, with the seven columns ``<p>_fit`` or ``<p>``, in the units of the result table: a
            result of `fit`, or, with vectors of ``S`` values, of `sample`.
        progress_bar : bool, optional
            Show a bar on standard error.
        **options
            The same options as those of `sample`.

        Returns
        -------
        ndarray
            Natural logarithm of the density by the parameters in the units of the result table, shape ``(N,)`` or
            ``(N, S)``; minus infinity outside the domain of the training, NaN where there is no measurement.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind, shape or unit; the message names it and the rule.
        """
        if self.fixed:
            msg = "fixed must be empty for log_prob, which is the density of all seven parameters"
            raise ValueError(msg)
        cutouts = Cutouts(cutouts, psf, **options)
        values = given_parameters(parameters, cutouts)
        log_density = np.full(values.shape[:2], np.nan)

        def evaluate(batch):
            return batch, self._log_prob_batch(batch, values[batch.index])

        for batch, density in self._each_batch(cutouts, evaluate, progress_bar):
            log_density[batch.index] = density - np.log(batch.scale)[:, None]
        if cutouts.pixel_scale is not None:
            log_density -= np.log(cutouts.pixel_scale)[:, None]
        log_density[~np.isfinite(values).all(axis=2)] = np.nan
        return log_density if np.ndim(_first_column(parameters)) > 1 else log_density[:, 0]

    def _columns(self):
        return {**super()._columns(), "quantiles": True, "draws": self.refine == "importance",
                "ood": self._ood_reference() is not None, "method": True}  # fmt: skip

    def _meta(self):
        return {"WEIGHTS": self._weights.name, "SHA256": self._weights.sha256, "PRIOR": self._prior().name}

    def _max_pixels(self, cutouts, n_workers):
        if self.batch_size is None and self.device != "cpu":
            return chunk_size("network batch", self.device)
        return super()._max_pixels(cutouts, n_workers)

    def _batch_pixels(self):
        """More than for other fitters: rows that are rendered together must share the band of their PSFs."""
        return chunk_size("network batch")

    def _bf16(self):
        return bf16_is_fast(self.device) if self.precision is None else self.precision == "bfloat16"

    def _store(self, summaries, posteriors, batch, measurement):
        """Columns and flags that follow from the posteriors."""
        for name in ("values", "covariance", "quantiles", "point_like"):
            getattr(measurement, name)[:] = getattr(summaries, name)
        measurement.flags |= summaries.prior_dominated * int(Flag.PRIOR_DOMINATED)
        if posteriors.psfs is not None:
            measurement.flags[posteriors.psfs.unusual_rows(batch.psf_index)] |= int(Flag.PSF_UNUSUAL)
        measurement.method[:] = self.method if posteriors.evaluation is None else _CORRECTED
        if posteriors.evaluation is not None:
            # the shape of a point means nothing, and its steps go on without end
            restless = posteriors.evaluation.restless & ~(summaries.point_like > _POINT)
            measurement.flags[restless] |= int(Flag.NOT_CONVERGED)

    def _held(self, init):
        """Parameters that are known, from starting values ``(B, 7)``, or None."""
        if not self.fixed:
            return None
        columns = tuple(sorted(PARAMETER_INDEX[name] for name in self.fixed))
        return HeldParameters(columns, torch.from_numpy(init).to(self.device))

    def _refine(self, posteriors, tensors, init, measurement):
        """Exact posteriors, if they are wanted; gives the rows that have no longer the network's, boolean."""
        if self.refine != "importance":
            return np.zeros(len(tensors), dtype=bool)
        options = {"n_draws": self.n_draws, "min_ess": self.min_ess, "summary": self.summary}
        return refine_batch(
            posteriors.module, posteriors.chunks, tensors, measurement, self._weights, self._prior(),
            held=self._held(init), **options,
        )  # fmt: skip

    def _store_quality(self, rows, quality, summaries, batch, measurement):
        """Columns and flags of the quality of models."""
        values, shapes = torch.from_numpy(measurement.values[rows]), torch.from_numpy(batch.shape[rows])
        quality = quality.cpu()
        measurement.snr[rows] = quality.snr.numpy()
        measurement.chi2_reduced[rows] = quality.reduced(N_PARAMETERS)[1].numpy()
        measurement.n_pixels_fit[rows] = quality.n_pixels.numpy()
        if self.crb:
            measurement.crb[rows] = quality.crb.numpy()
        measurement.flags[rows] |= quality_flags(quality, N_PARAMETERS, values, shapes).numpy()

    def _widen(self, summaries, refined, batch, measurement):
        """Flag what lies outside the domain of the training, and widen its errors, but for exact posteriors."""
        is_point = bool(load_network(self._weights, self.device).held)
        outside, growth = beyond_domain(
            data_snr(batch, measurement) if is_point else measurement.snr, batch.psf_fwhm[batch.psf_index],
            batch.shape.min(axis=1), summaries.block, self._weights.domain, _smallest_stamp(self._weights),
        )  # fmt: skip
        measured = np.isfinite(measurement.snr)
        outside, growth = outside & measured, np.where(measured, growth, 0.0)
        measurement.flags |= (outside | summaries.near_edge) * int(Flag.OUTSIDE_DOMAIN)
        factor = np.where(refined, 1.0, 1.0 + growth + summaries.near_edge)
        widen(measurement.covariance, measurement.quantiles, factor)

    def _flag_off_middle(self, rows, batch, measurement):
        """Flag galaxies off the middle of their stamps, if the network takes the centre as known."""
        if load_network(self._weights, self.device).held:
            measurement.flags[rows[off_middle(batch, rows)]] |= int(Flag.OUTSIDE_DOMAIN)

    def _ood_reference(self):
        path, sha256 = ood_path(self._weights.path), self._weights.sha256
        return load_ood(path, sha256, known_digest(sha256, path.suffix))

    def _score(self, reference, inputs, measurement):
        """Scores of galaxies that do not look like those of the training, and their flag."""
        score, reason = (column.numpy() for column in reference.score(inputs))
        measurement.ood_score[:] = score = score.round(_DECIMALS)
        with np.errstate(invalid="ignore"):
            is_flagged = score > -np.log10(FALSE_ALARMS)
        measurement.ood_reason[:] = np.where(is_flagged, np.array([*reference.names, ""])[reason], "")
        measurement.flags[is_flagged] |= int(Flag.OUT_OF_DISTRIBUTION)

    def _normals(self, batch, rows, count, seed):
        return torch.from_numpy(row_normals(batch.index[rows], count, seed)).to(self.device)

    def _given(self, cutouts):
        """Starting values ``(N, 7)`` that hold what ``fixed`` knows, for `sample`."""
        if self.fixed and self.refine != "importance":
            msg = "fixed must be empty for sample, unless refine is 'importance'"
            raise ValueError(msg)
        if any(isinstance(value, str) for value in self.fixed.values()):
            msg = "fixed must hold numbers for sample, which is given no init_params"
            raise ValueError(msg)
        return fixed_values(self.fixed, np.full((len(cutouts), N_PARAMETERS), np.nan), cutouts)

    def _draw_batch(self, batch, n_samples, seed, given):
        """Draws ``(B, S, 7)`` in the units of the batch and pixels of the stamp."""
        drawn = np.full((len(batch), n_samples, N_PARAMETERS), np.nan)
        with torch.inference_mode():
            tensors = BatchTensors.of(batch, self.device)
            posteriors = self._posteriors(tensors)
            if self.refine == "importance":
                given[:, PARAMETER_INDEX["flux"]] /= batch.scale
                posteriors = self._conditioned(posteriors, given)
                options = {"n_draws": self.n_draws, "min_ess": self.min_ess}
                options |= {"prior": self._prior(), "held": self._held(given)}
                return refined_draws(
                    posteriors.module, posteriors.chunks, tensors, self._weights, n_samples, seed, **options
                )
            for chunk, members, count in split_for_flow(posteriors.chunks, n_samples):
                rows = chunk.rows[members]
                normal = self._normals(batch, rows, n_samples, seed)
                values = self._draws(posteriors, tensors, chunk, members, normal, seed).transpose(0, 1)
                drawn[rows[:count]] = chunk.window[members].to_stamp(values).cpu().numpy()[:count]
        return drawn

    def _draws(self, posteriors, tensors, chunk, members, normal, seed):
        """Draws ``(S, P, 7)`` of some rows of a chunk, under the prior that is wanted."""
        context = chunk.context[members]
        if self.prior is None:
            return posteriors.module.sample(context, normal)
        generator = torch.Generator(self.device).manual_seed(seed)
        ratio = self._ratio(posteriors, tensors, chunk)[members]
        return reweighted_draws(posteriors.module, context, normal, ratio, generator)

    def _log_prob_batch(self, batch, values):
        """Log densities ``(B, S)`` by parameters in the units of the batch and pixels of the stamp."""
        density = np.full(values.shape[:2], np.nan)
        values = values.copy()
        values[..., PARAMETER_INDEX["flux"]] /= batch.scale[:, None]
        with torch.inference_mode():
            tensors = BatchTensors.of(batch, self.device)
            posteriors = self._posteriors(tensors)
            for chunk, members, count in split_for_flow(posteriors.chunks, values.shape[1]):
                rows, window = chunk.rows[members], chunk.window[members]
                parameters = window.from_stamp(torch.from_numpy(values[rows]).to(self.device)).transpose(0, 1).float()
                context = chunk.context[members]
                log_prob = posteriors.module.log_prob(context, parameters).double() - window.scale.log().sum()
                if self.prior is not None:
                    ratio = self._ratio(posteriors, tensors, chunk)
                    evidence = log_evidence_ratio(posteriors.module, chunk, ratio)[members]
                    log_prob = log_prob + ratio[members].log(parameters) - evidence
                density[rows[:count]] = log_prob.T.cpu().numpy()[:count]
        return density


def _smallest_stamp(weights):
    """Side of the smallest stamp that the training saw."""
    simulation = weights.card["simulation"]
    if simulation.get("small_stamps", 0.0) > 0.0:
        return simulation.get("smallest", NATIVE_SIZE)
    return NATIVE_SIZE


def _first_column(parameters):
    return next(np.asarray(column) for name, column in parameters.items() if name in ("n", "n_fit"))
