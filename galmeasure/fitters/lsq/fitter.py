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
from galmeasure.fitters.lsq.bias import likelihood_bias, parameter_covariance
from galmeasure.fitters.lsq.end_quality import quality_of_ends
from galmeasure.fitters.lsq.fourier import FourierProblem, Stamps
from galmeasure.fitters.lsq.joint import JointProblem
from galmeasure.fitters.lsq.solve import solve
from galmeasure.fitters.lsq.start_choice import Begun, choose_starts
from galmeasure.fitters.moments import solve_flux, starting_values
from galmeasure.fitters.prior_term import PriorTerm
from galmeasure.fitters.problem import Problem
from galmeasure.fitters.quality import model_quality, quality_flags
from galmeasure.fitters.tensors import BatchTensors, Group, groups
from galmeasure.flags import Flag
from galmeasure.parameters import G_MAX, N_PARAMETERS, SERSIC
from galmeasure.priors import Prior, get_prior
from galmeasure.render.memory import reserve_heap
from galmeasure.utils.chunks import chunk_size

__all__ = ["LSQSersicFitter"]

_N, _R_EFF, _G1, _G2 = SERSIC.indices("n", "r_eff", "g1", "g2")
_SHEAR, _CENTRE = SERSIC.slice("g1", "g2"), SERSIC.slice("x", "y")
_BACKGROUND = _variables.BACKGROUND
_LOSSES = ("gaussian", "student-t")
_BOUND_MARGIN = 1e-3


@dataclass(frozen=True)
class _Fit:
    """A group of stamps with what its fits begin from."""

    group: Group
    problem: Problem
    in_fourier: list[Stamps]
    begun: Begun
    lower: torch.Tensor
    upper: torch.Tensor


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

    def _batch_pixels(self):
        return chunk_size("least-squares batch")

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
        on_stamp = dof is None and not self.fit_background
        with torch.inference_mode():
            chosen = groups(BatchTensors.of(batch, self.device), dof=dof, on_stamp=on_stamp)
            fits = [self._begin(group, init[group.rows], centre[group.rows]) for group in chosen]
            if fits:
                self._solve(fits, measurement, batch.progress.add)
        return measurement

    def _begin(self, group, init, centre):
        """Choose the starts of a group, and make its problems."""
        problem = group.problem
        given, centre = (torch.from_numpy(values).to(self.device) for values in (init, centre))
        size = N_PARAMETERS + self.fit_background
        free = self._free(size)
        lower, upper = _variables.bounds(group.shapes, size)

        def bounds(variables, rows=slice(None)):
            """Bounds of some fits; what is fixed stays where it is, also outside the bounds."""
            width = variables.shape[1]
            return tuple(torch.where(free[:width], bound[rows, :width], variables) for bound in (lower, upper))

        in_fourier = [] if group.psf_on_stamp is None else Stamps.of(problem, group.psf_on_stamp)
        begun = choose_starts(problem, *self._starts(group, in_fourier, given, centre), bounds, self._options())
        if self.prior is not None:
            snr = model_quality(problem, begun.start).snr
            prior = PriorTerm.of(get_prior(self.prior), snr, group.psf_covariance)
            problem = replace(problem, prior=prior)
        return _Fit(group, problem, in_fourier, begun, *bounds(begun.variables))

    def _options(self):
        """Options of the minimiser."""
        size = N_PARAMETERS + self.fit_background
        return {
            "free": self._free(size), "hold": _variables.hold_shape_of_a_point, "max_iter": self.max_iter,
            "max_step": _variables.max_step(size, self.device),
        }  # fmt: skip

    def _solve(self, fits, measurement, finished):
        """Minimise the losses of all groups side by side."""
        counts = [len(fit.group.rows) for fit in fits]
        rows = torch.arange(sum(counts), device=self.device).split(counts)
        exact = JointProblem.of([fit.problem for fit in fits], rows)
        parts = [(stamps, index) for fit, index in zip(fits, rows, strict=True) for stamps in fit.in_fourier]
        fourier = FourierProblem.join(parts) if parts else None
        start, lower, upper = (
            torch.cat(columns)
            for columns in zip(*((fit.begun.variables, fit.lower, fit.upper) for fit in fits), strict=True)
        )
        options = self._options()
        with_bias = self.bias_correction and self.prior is None
        solution, *extra = solve(exact, fourier, start, lower, upper, options, with_bias=with_bias, finished=finished)
        for fit, index in zip(fits, rows, strict=True):
            of_fit = (column[index] for column in extra)
            self._store(fit, solution.of_rows(index), *of_fit, options["free"], measurement)
            measurement.init[fit.group.rows] = fit.begun.start.cpu().numpy()

    def _free(self, size):
        free = torch.ones(size, dtype=torch.bool, device=self.device)
        for name in self.fixed:
            free[SERSIC.index(name)] = False
        return free

    def _starts(self, group, in_fourier, given, centre):
        """Starts ``(B, 7)`` of what is given, where it is finite, and of moments about ``centre``; within bounds."""
        sides = group.shapes.double()
        centre = torch.where(torch.isfinite(centre), centre, (sides.flip(1) - 1.0) / 2.0)
        moments = starting_values(
            group.problem, group.psf_covariance, centre, lambda start: _best_flux(group.problem, in_fourier, start)
        )
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

    def _store(self, fit, solution, bias, inside, free, measurement):
        """Turn a solution into parameters, errors, quality measures and flags."""
        group, problem = fit.group, fit.problem
        rows = group.rows
        x = solution.x
        parameters = _variables.to_parameters(x)
        covariance = parameter_covariance(solution.hessian, x, free)
        usable = torch.isfinite(solution.loss)
        background = x[:, _BACKGROUND] if self.fit_background else None
        bits = self._bound_flags(parameters, group.shapes, free)
        if self.bias_correction and self.prior is None:
            bias = self._bias(fit, bias, solution.converged & (bits == 0), parameters, background, covariance)
            parameters = _within(parameters - bias[:, :N_PARAMETERS], parameters)
            background = None if background is None else background - bias[:, _BACKGROUND]
        values = torch.where(usable[:, None], parameters, torch.nan)
        measurement.values[rows] = values.cpu().numpy()
        measurement.covariance[rows] = covariance[:, :N_PARAMETERS, :N_PARAMETERS].cpu().numpy()
        if background is not None:
            measurement.background[rows] = torch.where(usable, background, torch.nan).cpu().numpy()
            measurement.background_err[rows] = covariance[:, _BACKGROUND, _BACKGROUND].sqrt().cpu().numpy()
        inside = torch.where(bits == 0, inside, torch.nan)
        quality = self._quality(problem, solution, values, background, inside, free)
        n_free = int(free.sum())
        measurement.snr[rows] = quality.snr.cpu().numpy()
        measurement.chi2_reduced[rows] = quality.reduced(n_free)[1].cpu().numpy()
        measurement.n_pixels_fit[rows] = quality.n_pixels.cpu().numpy()
        if self.crb:
            measurement.crb[rows] = quality.crb.cpu().numpy()
        bits |= quality_flags(quality, n_free, values, group.shapes) | ~usable * Flag.FAILED
        bits |= (usable & ~solution.converged) * Flag.NOT_CONVERGED
        measurement.flags[rows] |= bits.cpu().numpy()

    def _quality(self, problem, solution, values, background, inside, free):
        """Quality of all rows of a group, from models where their last evaluation does not give it."""
        columns = torch.nonzero(free[:N_PARAMETERS])[:, 0].tolist()
        options = {"crb": self.crb, "free": columns}
        if self.crb or self.prior is not None:
            return model_quality(problem, values, background, **options)
        quality, is_known = quality_of_ends(problem, solution, values, inside)
        rows = torch.nonzero(~is_known)[:, 0]
        if len(rows):
            level = None if background is None else background[rows]
            quality.put(rows, model_quality(problem.of_rows(rows), values[rows], level, **options))
        return quality

    def _bias(self, fit, bias, wanted, parameters, background, covariance):
        """Bias of the rows ``wanted``, where it is not yet known, and zero for the others."""
        rows = torch.nonzero(wanted & torch.isnan(bias).any(1))[:, 0]
        if len(rows):
            problem = fit.problem.of_rows(rows)
            background = None if background is None else background[rows]
            n_free = int(self._free(covariance.shape[1]).sum())
            bias[rows] = likelihood_bias(problem, parameters[rows], background, covariance[rows], n_free)
        return torch.where(wanted[:, None], bias, 0.0)

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


def _best_flux(problem, in_fourier, parameters):
    """Best flux ``(B,)`` at parameters ``(B, 7)``, without rendering stamps that are at hand in Fourier space."""
    flux, to_render = parameters.new_zeros(len(parameters)), torch.ones(len(parameters), dtype=torch.bool)
    rows = torch.arange(len(parameters), device=parameters.device)
    if in_fourier:
        joint = FourierProblem.join([(stamps, rows) for stamps in in_fourier])
        flux[joint.rows] = joint.solve_flux(parameters[joint.rows])
        to_render[joint.rows.cpu()] = False
    rest = torch.nonzero(to_render)[:, 0].to(rows.device)
    if len(rest):
        flux[rest] = solve_flux(problem, parameters[rest], rest)[0]
    return flux


def _within(corrected, parameters):
    """Corrected parameters, or as before where these would leave the bounds of the fit."""
    n, g = corrected[:, _N], torch.hypot(corrected[:, _G1], corrected[:, _G2])
    usable = (n > SERSIC["n"].lower) & (n < SERSIC["n"].upper)
    usable &= (corrected[:, _R_EFF] > SERSIC["r_eff"].lower) & (g < G_MAX)
    return torch.where(usable[:, None], corrected, parameters)
