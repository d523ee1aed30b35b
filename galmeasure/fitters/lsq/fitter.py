"""The traditional estimator: maximum likelihood of a PSF-convolved Sersic model, many cutouts at once."""

import os
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from galmeasure.cutouts.batches import CutoutBatch
from galmeasure.fitters import variables as _variables
from galmeasure.fitters.base import BatchMeasurement, SersicFitterBase
from galmeasure.fitters.lsq.bias import likelihood_bias
from galmeasure.fitters.lsq.levenberg import minimise
from galmeasure.fitters.lsq.start_choice import choose_starts
from galmeasure.fitters.moments import starting_values
from galmeasure.fitters.prior_term import PriorTerm
from galmeasure.fitters.quality import model_quality, quality_flags
from galmeasure.fitters.tensors import BatchTensors, groups
from galmeasure.flags import Flag
from galmeasure.likelihood import invert_information
from galmeasure.parameters import G_MAX, N_PARAMETERS, SERSIC
from galmeasure.priors import Prior, get_prior
from galmeasure.render.memory import reserve_heap

__all__ = ["LSQSersicFitter"]

_N, _R_EFF, _G1, _G2 = SERSIC.indices("n", "r_eff", "g1", "g2")
_SIZES, _SHEAR, _CENTRE = SERSIC.slice("n", "r_eff"), SERSIC.slice("g1", "g2"), SERSIC.slice("x", "y")
_BACKGROUND = _variables.BACKGROUND
_LOSSES = ("gaussian", "student-t")
_SECOND_STARTS = (0.8, 5.0)  # n, when the first fit ended above and below _N_MIDDLE
_N_MIDDLE = 2.0
_N_FLAT = 0.6
_SLOW = 15
_SECOND_ITERATIONS = 15  # a second start that is better shows it by then
_BOUND_MARGIN = 1e-3


@dataclass(frozen=True, kw_only=True)
class LSQSersicFitter(SersicFitterBase):
    """Least-squares fit of a Sersic model convolved with the PSF (batched Levenberg-Marquardt).

    Parameters
    ----------
    fit_background : bool, optional
        Also fit a constant per pixel; adds the columns ``background_fit`` and ``background_err``.
    init : SersicFitterBase, optional
        Another fitter, such as `~galmeasure.NeuralSersicFitter`, whose estimates are the starting values where
        ``init_params`` gives none; moments of the stamp by default. It takes somewhat fewer steps; where there is one
        minimum, the end is the same. See the notes for starts that are far off.
    fixed : dict, optional
        Parameters that do not move: name to value in the units of the result table, or to ``"init"``, which holds
        the galaxy at its value in ``init_params`` (forced photometry). ``{"n": 4}`` is a de Vaucouleurs fit.
    prior : str or Prior, optional
        Prior of the Sersic index, the radius and the shear, see `galmeasure.priors`, or its name. The estimate then is
        the point of highest posterior density instead of highest likelihood, without a correction of its bias; see the
        notes. By default there is none.
    loss : {"gaussian", "student-t"}, optional
        ``"student-t"`` gives outlying pixels less weight.
    dof : float, optional
        Degrees of freedom of the Student t distribution.
    max_iter : int, optional
        Most model evaluations for one start of one galaxy.
    bias_correction : bool, optional
        Take off the bias of maximum likelihood, to second order; see the notes.
    crb : bool, optional
        Add the columns ``<p>_crb``, the Cramer-Rao bound at the solution.
    covariance : bool, optional
        Add the column ``covariance``, in the order of `galmeasure.parameters.PARAMETERS`.
    calibration : path-like, optional
        File of ``galmeasure calibrate``: corrects estimates and errors; see :doc:`/calibration`.
    device : str, optional
        Torch device on which to compute.
    batch_size : int, optional
        Cutouts held as tensors at one time; chosen by their size by default.

    Notes
    -----
    The maximum of the likelihood is biased where the model bends within the errors (Box 1971): for compact or faint
    galaxies up to some tenths of the error, high in ``n``, ``r_eff`` and ``flux``, with a tail. The estimate is this
    maximum less its bias; the difference vanishes as the signal-to-noise ratio grows. ``bias_correction=False``
    gives the maximum itself, which is closer to the truth in the median.

    A start that is given, by ``init`` or ``init_params``, is compared with that from moments, each with its best flux.
    The fit begins from the one that describes the pixels better; where both do so badly, a few steps from each of them
    decide. ``<p>_init`` holds the start that was used. A centre in ``init_params`` also says where moments are taken.

    With a prior the highest density is that by the flux, the logarithms of n and r_eff, the shear stretched to the
    plane and the centre. The prior is flat in the flux and the centre, sizes follow the signal-to-noise ratio of the
    start, and beyond the domain of the prior its density is that at the edge. The information of the prior is part of
    the errors.

    Errors are the square roots of the diagonal of the inverse Fisher matrix at the solution, all parameters
    free that are not fixed; they are those of the noise alone, and do not cover a galaxy that is not a Sersic
    profile. A parameter at its bound is flagged.

    Examples
    --------
    >>> import numpy as np
    >>> from galmeasure import LSQSersicFitter
    >>> y, x = np.mgrid[-12:13, -12:13]
    >>> psf = np.exp(-(x**2 + y**2) / 8.0)
    >>> rng = np.random.default_rng(1)
    >>> image = 500 * np.exp(-(x**2 + y**2) / 50.0) + rng.normal(0, 1, x.shape)
    >>> table = LSQSersicFitter().fit(image, psf, error=1.0)
    >>> len(table), int(table["flags"][0])
    (1, 0)
    """

    fit_background: bool = False
    init: SersicFitterBase | None = None
    fixed: dict = field(default_factory=dict)
    prior: str | Prior | None = None
    loss: str = "gaussian"
    dof: float = 4.0
    max_iter: int = 100
    bias_correction: bool = True
    crb: bool = False
    covariance: bool = False
    calibration: str | os.PathLike | None = None
    device: str = "cpu"
    batch_size: int | None = None

    def __post_init__(self):
        """Check the configuration."""
        super().__post_init__()
        if self.loss not in _LOSSES:
            msg = f"loss must be one of {', '.join(map(repr, _LOSSES))}, not {self.loss!r}"
            raise ValueError(msg)
        if self.init is not None and not isinstance(self.init, SersicFitterBase):
            msg = f"init must be a fitter, such as NeuralSersicFitter(), or None, not {type(self.init).__name__}"
            raise TypeError(msg)
        if self.prior is not None and not isinstance(self.prior, str | Prior):
            msg = f"prior must be a Prior or the name of one, not {type(self.prior).__name__}"
            raise TypeError(msg)
        if self.prior is not None:
            get_prior(self.prior)
        if not self.dof > 0:
            msg = f"dof must be positive, not {self.dof!r}"
            raise ValueError(msg)
        if isinstance(self.max_iter, bool) or not isinstance(self.max_iter, int) or self.max_iter < 1:
            msg = f"max_iter must be a positive integer, not {self.max_iter!r}"
            raise ValueError(msg)
        self._load_calibration()

    def describe_estimator(self) -> dict[str, Any]:
        """Likelihood and free parameters: a calibration holds for these."""
        likelihood = {"loss": self.loss, "dof": float(self.dof) if self.loss == "student-t" else None}
        free = {"fit_background": self.fit_background, "fixed": sorted(self.fixed)}
        if self.prior is not None:
            free["prior"] = get_prior(self.prior).name
        return {**super().describe_estimator(), **likelihood, "bias_correction": self.bias_correction, **free}

    def _meta(self):
        return {} if self.prior is None else {"PRIOR": get_prior(self.prior).name}

    def measure(self, batch: CutoutBatch, init: npt.NDArray[np.float64]) -> BatchMeasurement:
        """Fit one batch; see `~galmeasure.fitters.SersicFitterBase.measure`."""
        reserve_heap()
        measurement = BatchMeasurement.empty(len(batch), background=self.fit_background, crb=self.crb)
        centre = init[:, _CENTRE]  # an estimate of another fitter is no reason to look for the galaxy there
        if self.init is not None:
            estimate = self.init.measure(batch, init.copy()).values
            init = np.where(np.isnan(init), estimate, init)
        dof = self.dof if self.loss == "student-t" else None
        with torch.inference_mode():
            for group in groups(BatchTensors.of(batch, self.device), dof=dof):
                self._fit_group(group, init[group.rows], centre[group.rows], measurement, batch.progress.add)
        return measurement

    def _fit_group(self, group, init, centre, measurement, finished):
        problem, rows = group.problem, group.rows
        given, centre = (torch.from_numpy(values).to(self.device) for values in (init, centre))
        size = N_PARAMETERS + self.fit_background
        free = self._free(size)
        lower, upper = _variables.bounds(group.shapes, size)

        def bounds(variables, rows=slice(None)):
            """Bounds of some fits; what is fixed stays where it is, also outside the bounds."""
            width = variables.shape[1]
            return tuple(torch.where(free[:width], bound[rows, :width], variables) for bound in (lower, upper))

        options = {
            "free": free, "hold": _variables.hold_shape_of_a_point, "max_iter": self.max_iter,
            "max_step": _variables.max_step(size, self.device),
        }  # fmt: skip
        begun = choose_starts(problem, *self._starts(group, given, centre), bounds, options)
        lower, upper = bounds(begun.variables)
        if self.prior is not None:
            snr = model_quality(problem, begun.start).snr
            problem = replace(problem, prior=PriorTerm.of(get_prior(self.prior), snr, group.psf_covariance))
        solution = minimise(problem.evaluate, begun.variables, lower, upper, finished=finished, **options)
        if free[_N]:
            _second_start(problem, solution, lower, upper, options)
        self._store(group, solution, free, measurement)
        measurement.init[rows] = begun.start.cpu().numpy()

    def _free(self, size):
        free = torch.ones(size, dtype=torch.bool, device=self.device)
        for name in self.fixed:
            free[SERSIC.index(name)] = False
        return free

    def _starts(self, group, given, centre):
        """Starts ``(B, 7)`` of what is given, where it is finite, and of moments about ``centre``; within bounds."""
        sides = group.shapes.double()
        centre = torch.where(torch.isfinite(centre), centre, (sides.flip(1) - 1.0) / 2.0)
        moments = starting_values(group.problem, group.psf_covariance, centre)
        held = ~self._free(N_PARAMETERS) & torch.isfinite(given)
        moments = self._bounded(torch.where(held, given, moments))
        return self._bounded(torch.where(torch.isfinite(given), given, moments)), moments

    def _bounded(self, start):
        """Starts with index and radius within the bounds of the fit; what is fixed may lie above them."""
        start = start.clone()
        for name in ("n", "r_eff"):
            column, limits = SERSIC.index(name), SERSIC[name]
            start[:, column] = start[:, column].clamp(min=limits.lower)
            if name not in self.fixed:
                start[:, column] = start[:, column].clamp(max=limits.upper)
        return start

    def _store(self, group, solution, free, measurement):
        """Turn a solution into parameters, errors, quality measures and flags."""
        problem, rows = group.problem, group.rows
        x = solution.x
        parameters = _variables.to_parameters(x)
        covariance = torch.zeros_like(solution.hessian)
        inverse = invert_information(solution.hessian[:, free][:, :, free])
        index = torch.nonzero(free)[:, 0]
        covariance[:, index[:, None], index] = inverse
        chain = _variables.jacobian(x)
        covariance = chain.transpose(1, 2) @ covariance @ chain
        usable = torch.isfinite(solution.loss)
        background = x[:, _BACKGROUND] if self.fit_background else None
        bits = self._bound_flags(parameters, group.shapes, free)
        if self.bias_correction and self.prior is None:
            bias = likelihood_bias(problem, parameters, background, covariance, int(free.sum()))
            bias = torch.where((solution.converged & (bits == 0))[:, None], bias, 0.0)
            parameters = _within(parameters - bias[:, :N_PARAMETERS], parameters)
            background = None if background is None else background - bias[:, _BACKGROUND]
        values = torch.where(usable[:, None], parameters, torch.nan)
        measurement.values[rows] = values.cpu().numpy()
        measurement.covariance[rows] = covariance[:, :N_PARAMETERS, :N_PARAMETERS].cpu().numpy()
        if background is not None:
            measurement.background[rows] = torch.where(usable, background, torch.nan).cpu().numpy()
            measurement.background_err[rows] = covariance[:, _BACKGROUND, _BACKGROUND].sqrt().cpu().numpy()
        columns = torch.nonzero(free[:N_PARAMETERS])[:, 0].tolist()
        quality = model_quality(problem, values, background, crb=self.crb, free=columns)
        n_free = int(free.sum())
        measurement.snr[rows] = quality.snr.cpu().numpy()
        measurement.chi2_reduced[rows] = quality.reduced(n_free)[1].cpu().numpy()
        measurement.n_pixels_fit[rows] = quality.n_pixels.cpu().numpy()
        if self.crb:
            measurement.crb[rows] = quality.crb.cpu().numpy()
        bits |= quality_flags(quality, n_free, values, group.shapes) | ~usable * Flag.FAILED
        bits |= (usable & ~solution.converged) * Flag.NOT_CONVERGED
        measurement.flags[rows] |= bits.cpu().numpy()

    def _bound_flags(self, values, shapes, free):
        n, r_eff = values[:, _N], values[:, _R_EFF]
        limits_n, limits_r = SERSIC["n"], SERSIC["r_eff"]
        at_n = (n < limits_n.lower * (1 + _BOUND_MARGIN)) | (n > limits_n.upper * (1 - _BOUND_MARGIN))
        at_r = (r_eff < limits_r.lower * (1 + _BOUND_MARGIN)) | (r_eff > shapes.amax(1) * (1 - _BOUND_MARGIN))
        at_g = torch.hypot(values[:, _G1], values[:, _G2]) > G_MAX * (1 - _BOUND_MARGIN)
        lower, upper = _variables.bounds(shapes, N_PARAMETERS)
        centre = values[:, _CENTRE]
        at_x = ((centre <= lower[:, _CENTRE]) | (centre >= upper[:, _CENTRE])).any(1)
        return ((at_n & free[_N]) | (at_r & free[_R_EFF]) | (at_g & free[_SHEAR].any()) | at_x) * Flag.AT_BOUND


def _within(corrected, parameters):
    """Corrected parameters, or as before where these would leave the bounds of the fit."""
    n, g = corrected[:, _N], torch.hypot(corrected[:, _G1], corrected[:, _G2])
    usable = (n > SERSIC["n"].lower) & (n < SERSIC["n"].upper)
    usable &= (corrected[:, _R_EFF] > SERSIC["r_eff"].lower) & (g < G_MAX)
    return torch.where(usable[:, None], corrected, parameters)


def _second_start(problem, solution, lower, upper, options):
    """Start again from another Sersic index where the first fit was slow, failed or ended at a bound."""
    x, free = solution.x, options["free"]
    margin = _BOUND_MARGIN
    at_bound = ((x[:, _SIZES] < lower[:, _SIZES] + margin) | (x[:, _SIZES] > upper[:, _SIZES] - margin)).any(1)
    elongated = torch.hypot(x[:, _G1], x[:, _G2]) > 2.0
    flat = torch.exp(x[:, _N]) < _N_FLAT
    doubtful = at_bound | elongated | flat | ~solution.converged | (solution.n_iter > _SLOW)
    rows = torch.nonzero(doubtful & torch.isfinite(solution.loss))[:, 0]
    if not len(rows):
        return
    start = x[rows].clone()
    low, high = (torch.full_like(start[:, _N], value).log() for value in _SECOND_STARTS)
    start[:, _N] = torch.where(start[:, _N] > torch.log(torch.tensor(_N_MIDDLE)), low, high)
    start[:, _SHEAR] = torch.where(free[_SHEAR], 0.5 * start[:, _SHEAR].clamp(-1.0, 1.0), start[:, _SHEAR])
    start[:, _R_EFF] = torch.where(free[_R_EFF], start[:, _R_EFF].clamp_min(-0.7), start[:, _R_EFF])
    restarted = _minimise_rows(problem, rows, start, lower, upper, options, _SECOND_ITERATIONS)
    solution.n_iter[rows] += restarted.n_iter
    better = restarted.loss < solution.loss[rows] - _BOUND_MARGIN
    solution.put(rows[better], restarted, better)
    rows = rows[better & ~restarted.converged]
    if len(rows):
        continued = _minimise_rows(problem, rows, solution.x[rows], lower, upper, options, options["max_iter"])
        solution.n_iter[rows] += continued.n_iter
        solution.put(rows, continued, torch.ones_like(continued.converged))


def _minimise_rows(problem, rows, start, lower, upper, options, max_iter):
    """Minimise some rows of a problem again, with at most ``max_iter`` evaluations."""
    options = {**options, "max_iter": min(max_iter, options["max_iter"])}
    return minimise(
        lambda inner, variables: problem.evaluate(rows[inner], variables), start, lower[rows], upper[rows], **options
    )
