"""The correction of error bars and quantiles: learned from truths, applied to measurements, kept in a file."""

import hashlib
import json
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch

from galmeasure.calibration.regression import SIZES, basis, fit_mean, fit_quantile
from galmeasure.parameters import G_MAX, N_PARAMETERS, PARAMETER_INDEX, PARAMETER_NAMES, PARAMETERS, SERSIC
from galmeasure.transforms import Linear, Log, Logit, Tanh
from galmeasure.utils.digests import DIGEST, json_digest
from galmeasure.utils.files import in_brief, write_whole

__all__ = ["MIN_GALAXIES", "QuantileCalibration", "coverage_metrics"]

MIN_GALAXIES = 100
"""Fewest galaxies that a calibration is learned from."""

FORMAT = "galmeasure calibration"
FORMAT_VERSION = 1

_COVARIATES = ("log_snr", "log_r_eff_over_psf_fwhm")
"""Names of the two ranges in a file, in the order of `QuantileCalibration.ranges`."""

_POINTS = ("mean", "median", "mode")
_QUANTITIES = ("shift", "scale", "median", "lower", "upper")
_POSITIVE = ("flux", "n", "r_eff")
_LEVEL_68 = 0.6826894921370859
_LEVEL_84 = 0.5 + 0.5 * _LEVEL_68
_SHIFT_MAX = 3.0
_SCALE_MAX = np.log(5.0)
_RANGE = (1.0, 99.0)  # per cent of the galaxies between the ends of each covariate
_TINY = 1e-3
_LOG_SPREAD = 0.7  # of the logarithm of a Gaussian distance, about


@dataclass(frozen=True)
class QuantileCalibration:
    """A small correction of point estimates, errors and quantiles, smooth in S/N and size.

    Parameters
    ----------
    coefficients : dict of str to dict
        For each parameter, those of ``"shift"`` (of the point estimate, in units of its error, or of itself where that
        is smaller), ``"scale"`` (logarithm of the factor of the error) and, where there are quantiles, ``"median"``
        (its shift in units of half of the 68 % interval), ``"lower"`` and ``"upper"`` (logarithms of the factors of
        its distances from the other two quantiles).
    ranges : tuple of tuple of float
        Lower and upper end of the natural logarithms of S/N and of ``r_eff_fit`` over the FWHM of the PSF.
    n_galaxies : int
        Galaxies it was learned from.
    point : {"mean", "median", "mode"}, optional
        Kind of the point estimate, see the notes.
    estimator : dict, optional
        Description of the estimator that it is for.
    about : dict, optional
        Origin of the correction: names, seed, date, versions.
    metrics : dict, optional
        Bias and coverage of the estimator, without and with the correction.

    Notes
    -----
    Every quantity is a polynomial (of degree 0 to 3, or nothing) in the two covariates, which are clamped to the range
    of the galaxies it was learned from. How many terms it has is chosen by cross-validation, in favour of fewer: where
    the estimator is calibrated nothing changes.

    A posterior mean is corrected to have no mean error, which is what a right one has; a median to lie above the truth
    as often as below, as all medians of quantiles are; and a mode moves with the median. Errors hold 68.27 % of the
    truths about the corrected estimate, and the distance between two quantiles what it promises. Quantiles move in the
    logarithm of ``flux`` and ``r_eff``, in the logit of ``n`` between its bounds and in the inverse hyperbolic tangent
    of the shear, so that they keep their order and stay within bounds.

    Examples
    --------
    Errors that are too small by a third:

    >>> import numpy as np
    >>> from galmeasure.calibration import QuantileCalibration
    >>> rng = np.random.default_rng(1)
    >>> truth = np.tile([1e3, 2.0, 3.0, 0.0, 0.0, 32.0, 32.0], (4000, 1))
    >>> error = np.tile([50.0, 0.2, 0.3, 0.05, 0.05, 0.1, 0.1], (4000, 1))
    >>> values = truth + 1.5 * error * rng.normal(size=truth.shape)
    >>> snr, size = rng.uniform(10, 100, 4000), np.ones(4000)
    >>> calibration = QuantileCalibration.fit(truth, values, error, snr=snr, size=size)
    >>> covariance = error[:, :, None] * np.eye(7) * error[:, None, :]
    >>> _, calibrated, _ = calibration.apply(values, covariance, snr=snr, size=size)
    >>> print(f"{np.sqrt(calibrated[0, 1, 1] / covariance[0, 1, 1]):.1f}")
    1.5
    """

    coefficients: dict
    ranges: tuple
    n_galaxies: int
    point: str = "mean"
    estimator: dict = field(default_factory=dict)
    about: dict = field(default_factory=dict)
    metrics: dict = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        truth: npt.ArrayLike,
        values: npt.ArrayLike,
        error: npt.ArrayLike,
        quantiles: npt.ArrayLike | None = None,
        *,
        snr: npt.ArrayLike,
        size: npt.ArrayLike,
        point: Literal["mean", "median", "mode"] = "mean",
        estimator: dict[str, Any] | None = None,
        about: dict[str, Any] | None = None,
        metrics: dict[str, Any] | None = None,
    ) -> Self:
        """Learn a correction.

        Parameters
        ----------
        truth, values, error : array_like
            True and measured parameters and the 1-sigma errors, shape ``(N, 7)``, in any units; rows with NaN are
            left out.
        quantiles : array_like, optional
            16, 50 and 84 % quantiles, shape ``(N, 3, 7)``; NaN where there are none.
        snr : array_like
            Measured signal-to-noise ratio, shape ``(N,)``.
        size : array_like
            Measured ``r_eff`` over the FWHM of the PSF, shape ``(N,)``.
        point : {"mean", "median", "mode"}, optional
            Kind of the point estimate.
        estimator, about, metrics : dict, optional
            Attributes of the correction, as in the class.

        Returns
        -------
        QuantileCalibration
            The correction.

        Raises
        ------
        ValueError
            If shapes differ, ``point`` is unknown, or there are fewer than 100 galaxies.
        """
        if point not in _POINTS:
            msg = f"point must be one of {', '.join(map(repr, _POINTS))}, not {point!r}"
            raise ValueError(msg)
        truth, values, error, quantiles, snr, size = _arrays(truth, values, error, quantiles, snr, size)
        with np.errstate(all="ignore"):
            covariates = np.log(snr), np.log(size)
        good = np.isfinite(truth).all(axis=1) & np.isfinite(values).all(axis=1)
        good &= np.isfinite(error).all(axis=1) & np.isfinite(covariates).all(axis=0)
        if good.sum() < MIN_GALAXIES:
            msg = f"values must have at least {MIN_GALAXIES} galaxies that are measured, not {int(good.sum())}"
            raise ValueError(msg)
        ranges = tuple(tuple(float(v) for v in np.percentile(covariate[good], _RANGE)) for covariate in covariates)
        u, v = (_unit_interval(covariate[good], limits) for covariate, limits in zip(covariates, ranges, strict=True))
        coefficients = {}
        for i, name in enumerate(PARAMETER_NAMES):
            columns = truth[good, i], values[good, i], error[good, i]
            terms = {}
            if quantiles is not None:
                terms |= _learn_quantiles(name, columns[0], quantiles[good, :, i], u, v)
            terms |= _learn_point(name, *columns, u, v, point, terms, quantiles, good)
            coefficients[name] = {key: tuple(map(float, numbers)) for key, numbers in terms.items()}
        return cls(
            coefficients=coefficients,
            ranges=ranges, n_galaxies=int(good.sum()), point=point, estimator=dict(estimator or {}),
            about=dict(about or {}), metrics=dict(metrics or {}),
        )  # fmt: skip

    def apply(
        self,
        values: npt.ArrayLike,
        covariance: npt.ArrayLike,
        quantiles: npt.ArrayLike | None = None,
        *,
        snr: npt.ArrayLike,
        size: npt.ArrayLike,
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64] | None]:
        """Correct measurements.

        Parameters
        ----------
        values : array_like
            Measured parameters, shape ``(N, 7)``, in any units.
        covariance : array_like
            Their covariance, shape ``(N, 7, 7)``.
        quantiles : array_like, optional
            16, 50 and 84 % quantiles, shape ``(N, 3, 7)``.
        snr, size : array_like
            Signal-to-noise ratio and size as in `fit`, shape ``(N,)``. Rows where they are not positive, or infinite,
            stay as they are.

        Returns
        -------
        values, covariance, quantiles : ndarray
            Corrected copies; ``quantiles`` is None if there were none.
        """
        covariance = np.array(covariance, dtype=float)
        with np.errstate(all="ignore"):
            error = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        values, _, error, quantiles, snr, size = _arrays(values, values, error, quantiles, snr, size)
        u, v, has_covariates = self._covariates(snr, size)
        factor = np.ones_like(values)
        new, new_quantiles = values.copy(), quantiles
        with np.errstate(all="ignore"):
            for i, name in enumerate(PARAMETER_NAMES):
                terms = {key: _evaluate(c, u, v) for key, c in self.coefficients[name].items()}
                if quantiles is not None and "median" in terms:
                    moved = _move_quantiles(name, quantiles[:, :, i], terms)
                    new[:, i] = _move_point(name, values[:, i], error[:, i], terms, self.point, quantiles[:, :, i])
                    new_quantiles[:, :, i] = np.where(has_covariates[:, None], moved, quantiles[:, :, i])
                else:
                    new[:, i] = _shifted(name, values[:, i], error[:, i], _limited(terms["shift"], _SHIFT_MAX))
                factor[:, i] = np.exp(_limited(terms["scale"], _SCALE_MAX))
        new = np.where(has_covariates[:, None] & np.isfinite(new), _within_bounds(new, values), values)
        factor[~has_covariates] = 1.0
        return new, covariance * factor[:, :, None] * factor[:, None, :], new_quantiles

    def _covariates(self, snr, size):
        """Both covariates in -1 to 1, and where they are known."""
        with np.errstate(all="ignore"):
            logs = np.log(snr), np.log(size)
        finite = np.isfinite(logs).all(axis=0)
        scaled = [_unit_interval(np.where(finite, z, 0.0), limits) for z, limits in zip(logs, self.ranges, strict=True)]
        return *scaled, finite

    def save(self, path: str | PathLike[str], *, overwrite: bool = False) -> None:
        """Write the correction as JSON.

        Parameters
        ----------
        path : path-like
            File to write, in JSON.
        overwrite : bool, optional
            Replace it if it exists.

        Raises
        ------
        ValueError
            If the file exists and ``overwrite`` is not set.
        """
        path = Path(path)
        if path.exists() and not overwrite:
            msg = f"path: {path} exists already; overwrite must be set to replace it"
            raise ValueError(msg)
        content = {
            "format": FORMAT, "version": FORMAT_VERSION, "estimator": self.estimator, "point": self.point,
            "n_galaxies": self.n_galaxies,
            "ranges": {name: list(limits) for name, limits in zip(_COVARIATES, self.ranges, strict=True)},
            "coefficients": {n: {k: list(c) for k, c in terms.items()} for n, terms in self.coefficients.items()},
            "metrics": self.metrics, "about": self.about,
        }  # fmt: skip
        text = json.dumps({**content, DIGEST: json_digest(content)}, indent=1, allow_nan=False)
        write_whole(path, (text + "\n").encode())

    @classmethod
    def read(cls, path: str | PathLike[str]) -> Self:
        """Read a correction.

        Parameters
        ----------
        path : path-like
            File written by `save`.

        Returns
        -------
        QuantileCalibration
            The correction.

        Raises
        ------
        ValueError
            If the file is missing, damaged, something else, or of a version that is not known.
        """
        return cls.read_with_digest(path)[0]

    @classmethod
    def read_with_digest(cls, path: str | PathLike[str]) -> tuple[Self, str]:
        """Read a correction; also gives the SHA-256 of the file. See `read`."""
        try:
            data = Path(path).read_bytes()
        except (OSError, TypeError, ValueError) as err:
            msg = f"calibration: {path} cannot be read ({getattr(err, 'strerror', None) or err})"
            raise ValueError(msg) from err
        try:
            content = json.loads(data.decode("utf-8"))
        except (ValueError, RecursionError) as err:
            msg = f"calibration: {path} is damaged, or no calibration file: not JSON"
            raise ValueError(msg) from err
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            msg = f"calibration: {path} is not a calibration file of galmeasure"
            raise ValueError(msg)
        if content.get("version") != FORMAT_VERSION:
            version = in_brief(content.get("version"), 40)
            msg = f"calibration: {path} has version {version}; this galmeasure reads {FORMAT_VERSION}"
            raise ValueError(msg)
        if DIGEST in content and content[DIGEST] != json_digest(content):
            msg = f"calibration: {path} is damaged or was changed: it does not match its sha256"
            raise ValueError(msg)
        try:
            return cls._of_content(content), hashlib.sha256(data).hexdigest()
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as err:
            msg = f"calibration: {path} is damaged: {in_brief(err)}"
            raise ValueError(msg) from err

    @classmethod
    def _of_content(cls, content):
        """Correction of what a file holds; anything wrong raises."""
        ranges = tuple(tuple(float(v) for v in content["ranges"].get(name, ())) for name in _COVARIATES)
        if any(len(r) != 2 or not np.isfinite(r).all() or r[0] > r[1] for r in ranges):
            msg = f"ranges must hold pairs of numbers for {' and '.join(_COVARIATES)}"
            raise ValueError(msg)
        coefficients = {}
        for name in PARAMETER_NAMES:
            terms = {key: tuple(float(c) for c in value) for key, value in content["coefficients"][name].items()}
            kinds = set(terms)
            sound = kinds in (set(_QUANTITIES), set(_QUANTITIES[:2]))
            if not sound or any(len(c) not in SIZES or not np.isfinite(c).all() for c in terms.values()):
                msg = f"coefficients of {name} are not those of a calibration"
                raise ValueError(msg)
            coefficients[name] = terms
        if content["point"] not in _POINTS or not all(isinstance(content[k], dict) for k in ("estimator", "about")):
            msg = "point, estimator or about is wrong"
            raise ValueError(msg)
        return cls(
            coefficients=coefficients, ranges=ranges, n_galaxies=int(content["n_galaxies"]), point=content["point"],
            estimator=content["estimator"], about=content["about"], metrics=dict(content["metrics"]),
        )  # fmt: skip

    def check_estimator(self, estimator: dict[str, Any]) -> None:
        """Raise if it was made for another estimator.

        Parameters
        ----------
        estimator : dict
            Description of the estimator that is to be corrected.

        Raises
        ------
        ValueError
            If it is not the one that the correction was learned for; the message says in what they differ.
        """
        names = [name for name in {**self.estimator, **estimator} if name != "weights"]
        differing = [name for name in names if self.estimator.get(name) != estimator.get(name)]
        if not differing:
            return
        name = differing[0]
        mine, theirs = self.estimator.get(name), estimator.get(name)
        if name == "sha256":
            name, mine, theirs = "weights", _weights_label(self.estimator), _weights_label(estimator)
        mine, theirs = (in_brief(repr(label), 80) for label in (mine, theirs))
        msg = f"calibration was made for another estimator: for {name} {mine}, not {theirs}"
        raise ValueError(msg)


def coverage_metrics(
    truth: npt.ArrayLike, values: npt.ArrayLike, error: npt.ArrayLike, quantiles: npt.ArrayLike | None = None
) -> dict[str, dict[str, float]]:
    """Bias and coverage of each parameter.

    Parameters
    ----------
    truth, values, error : array_like
        True and measured parameters and 1-sigma errors, shape ``(N, 7)``.
    quantiles : array_like, optional
        16, 50 and 84 % quantiles, shape ``(N, 3, 7)``.

    Returns
    -------
    dict of str to dict
        For each parameter: ``bias`` and ``median_bias``, the mean (of all within five) and the median of measured minus
        true in units of the error, ``coverage_68`` and ``coverage_95``, the fractions within one and two errors, and
        ``coverage_q``, that between the 16 and 84 % quantiles (where there are some).
    """
    truth, values, error, quantiles, *_ = _arrays(truth, values, error, quantiles, *np.ones((2, len(truth))))
    metrics = {}
    for i, name in enumerate(PARAMETER_NAMES):
        with np.errstate(all="ignore"):
            pull = (values[:, i] - truth[:, i]) / error[:, i]
        good = np.isfinite(pull)
        pull = pull[good]
        if not len(pull):
            metrics[name] = {}
            continue
        numbers = {
            "bias": np.mean(np.clip(pull, -5.0, 5.0)), "median_bias": np.median(pull),
            "coverage_68": np.mean(np.abs(pull) <= 1.0), "coverage_95": np.mean(np.abs(pull) <= 2.0),
        }  # fmt: skip
        if quantiles is not None:
            low, high, true = quantiles[:, 0, i], quantiles[:, 2, i], truth[:, i]
            finite = np.isfinite(low) & np.isfinite(high) & np.isfinite(true)
            if finite.any():
                numbers["coverage_q"] = np.mean((true >= low)[finite] & (true <= high)[finite])
        metrics[name] = {key: float(value) for key, value in numbers.items()}
    return metrics


def _arrays(truth, values, error, quantiles, snr, size):
    """Copies as float64 in matching shapes."""
    arrays = [np.array(array, dtype=float) for array in (truth, values, error)]
    count = len(arrays[1])
    for name, array in zip(("truth", "values", "error"), arrays, strict=True):
        if array.shape != (count, N_PARAMETERS):
            msg = f"{name} must have shape (N, {N_PARAMETERS}), not {array.shape}"
            raise ValueError(msg)
    quantiles = None if quantiles is None else np.array(quantiles, dtype=float)
    if quantiles is not None and quantiles.shape != (count, 3, N_PARAMETERS):
        msg = f"quantiles must have shape ({count}, 3, {N_PARAMETERS}), not {quantiles.shape}"
        raise ValueError(msg)
    snr, size = np.asarray(snr, dtype=float), np.asarray(size, dtype=float)
    for name, array in (("snr", snr), ("size", size)):
        if array.shape != (count,):
            msg = f"{name} must have shape ({count},), not {array.shape}"
            raise ValueError(msg)
    return (*arrays, quantiles, snr, size)


def _unit_interval(values, limits):
    """Covariate clamped to its range, -1 to 1; 0 where the range is empty."""
    low, high = limits
    if high - low < _TINY:
        return np.zeros_like(values)
    return 2.0 * (np.clip(values, low, high) - low) / (high - low) - 1.0


def _evaluate(coefficients, u, v):
    return basis(u, v, len(coefficients)) @ np.asarray(coefficients, dtype=float)


def _limited(values, largest):
    return np.clip(values, -largest, largest)


def _step(name, value, error):
    """Unit of the shift of a point estimate: its error, for positive parameters no more than itself."""
    return np.minimum(error, np.abs(value)) if name in _POSITIVE else error


def _shifted(name, value, error, shift):
    """Point estimate moved by ``shift`` units; one that is positive stays so."""
    move = shift * _step(name, value, error)
    if name not in _POSITIVE:
        return value + move
    ratio = move / value
    gentle = np.where(ratio < 0.0, 1.0 / (1.0 - ratio), 1.0 + ratio)
    return np.where(value > 0.0, value * gentle, value + move)


def _within_bounds(new, old):
    """Corrected values within the bounds of the parameters; what was beyond may stay there."""
    new = new.copy()
    for name in ("n", "r_eff"):
        i = PARAMETER_INDEX[name]
        parameter = PARAMETERS[i]
        low = 0.0 if name == "r_eff" else parameter.lower  # a radius may be in any unit
        new[:, i] = np.clip(new[:, i], np.minimum(low, old[:, i]), np.maximum(parameter.upper, old[:, i]))
    i, j = PARAMETER_INDEX["g1"], PARAMETER_INDEX["g2"]
    modulus, before = (np.hypot(point[:, i], point[:, j]) for point in (new, old))
    with np.errstate(all="ignore"):
        shrink = np.minimum(1.0, np.maximum(G_MAX, before) / modulus)
    shrink = np.where(np.isfinite(shrink), shrink, 1.0)
    new[:, i] *= shrink
    new[:, j] *= shrink
    return new


def _forward(name, values):
    """Coordinate without bounds of the values of one parameter, infinite or NaN at its bounds and beyond."""
    return _marginal(name).to_coordinates([torch.from_numpy(values)], 1.0)[0].numpy()


def _backward(name, values):
    """Inverse of `_forward`."""
    return _marginal(name).from_coordinates([torch.from_numpy(values)], 1.0)[0].numpy()


def _marginal(name):
    """Transform of one parameter alone; lengths may be in any unit, so only numbers have bounds."""
    parameter = SERSIC[name]
    if parameter.coordinate == "log":
        return Log()
    if parameter.coordinate == "logit":
        return Logit(parameter.lower, parameter.upper, edge=0.0)
    return Tanh(1.0, edge=0.0) if parameter.coordinate == "disc" else Linear()


def _pieces(name, quantiles):
    """Median and its distances from the lower and upper quantile, without bounds; and where these are sound."""
    low, middle, high = _forward(name, quantiles).T
    lower, upper = middle - low, high - middle
    sound = np.isfinite(lower) & np.isfinite(upper) & (lower > 0.0) & (upper > 0.0)
    return middle, lower, upper, sound


def _learn_quantiles(name, truth, quantiles, u, v):
    """Coefficients of the median's shift and of both half-widths."""
    with np.errstate(all="ignore"):
        middle, lower, upper, sound = _pieces(name, quantiles)
        true = _forward(name, truth)
        sound &= np.isfinite(true)
    if sound.sum() < MIN_GALAXIES:
        return {"median": (), "lower": (), "upper": ()}
    middle, lower, upper, true, u, v = (column[sound] for column in (middle, lower, upper, true, u, v))
    half = 0.5 * (lower + upper)
    shift = fit_quantile(u, v, (true - middle) / half, 0.5)
    away = true - middle - _limited(_evaluate(shift, u, v), _SHIFT_MAX) * half
    coefficients = {"median": shift}
    for key, distance in (("lower", -away / lower), ("upper", away / upper)):
        coefficients[key] = fit_quantile(u, v, np.log(np.maximum(distance, _TINY)), _LEVEL_84, _LOG_SPREAD)
    return coefficients


def _learn_point(name, truth, value, error, u, v, point, quantile_terms, quantiles, good):
    """Coefficients of the point's shift and of its error's factor."""
    with np.errstate(all="ignore"):
        pull = (truth - value) / _step(name, value, error)
        sound = np.isfinite(pull) & (error > 0.0)
    if sound.sum() < MIN_GALAXIES:  # a parameter that is held fixed
        return {"shift": (), "scale": ()}
    fit = fit_mean if point == "mean" else lambda u, v, target: fit_quantile(u, v, target, 0.5)
    terms = {"shift": fit(u[sound], v[sound], pull[sound])}
    evaluated = {key: _evaluate(c, u, v) for key, c in (terms | quantile_terms).items()}
    with np.errstate(all="ignore"):
        if quantile_terms:
            i = PARAMETER_INDEX[name]
            moved = _move_point(name, value, error, evaluated, point, quantiles[good, :, i])
        else:
            moved = _shifted(name, value, error, _limited(evaluated["shift"], _SHIFT_MAX))
        off = np.log(np.maximum(np.abs(truth - moved) / error, _TINY))
    return terms | {"scale": fit_quantile(u[sound], v[sound], off[sound], _LEVEL_68, _LOG_SPREAD)}


def _move_point(name, value, error, terms, point, quantiles):
    """Corrected point estimate of a posterior: means have their own shift, medians and modes that of the median."""
    alone = _shifted(name, value, error, _limited(terms["shift"], _SHIFT_MAX))
    if point == "mean":
        return alone
    if point == "median":
        return np.where(np.isfinite(quantiles[:, 1]), _move_quantiles(name, quantiles, terms)[:, 1], alone)
    _, lower, upper, sound = _pieces(name, quantiles)
    moved = _backward(name, _forward(name, value) + _limited(terms["median"], _SHIFT_MAX) * 0.5 * (lower + upper))
    return np.where(sound & np.isfinite(moved), moved, value)


def _move_quantiles(name, quantiles, terms):
    """Corrected quantiles ``(N, 3)``; those in no order, or at bounds, stay."""
    middle, lower, upper, sound = _pieces(name, quantiles)
    centre = middle + _limited(terms["median"], _SHIFT_MAX) * 0.5 * (lower + upper)
    low, high = (
        np.exp(_limited(terms[key], _SCALE_MAX)) * width for key, width in (("lower", lower), ("upper", upper))
    )
    moved = _backward(name, np.stack([centre - low, centre, centre + high], axis=1))
    sound &= np.any([terms[key] != 0.0 for key in ("median", "lower", "upper")], axis=0)
    sound &= (np.diff(moved, axis=1) > 0.0).all(axis=1) & np.isfinite(_forward(name, moved)).all(axis=1)
    return np.where(sound[:, None], moved, quantiles)


def _weights_label(estimator):
    return f"{estimator.get('weights')} ({str(estimator.get('sha256'))[:12]})"
