"""Learning a calibration from measurements of known galaxies, and its gain, by cross-validation."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
from astropy import units as u
from astropy.table import QTable, Table

from galmeasure import __version__
from galmeasure.calibration import QuantileCalibration
from galmeasure.calibration.quantiles import MIN_GALAXIES, coverage_metrics
from galmeasure.flags import Flag
from galmeasure.parameters import N_PARAMETERS, PARAMETER_INDEX, PARAMETER_NAMES
from galmeasure.results.columns import TRUE
from galmeasure.results.frame import convert, plain_numbers

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from galmeasure.fitters.base import SersicFitterBase


__all__ = ["CalibrationResult", "calibrate"]

LEFT_OUT = Flag.FAILED | Flag.NOT_CONVERGED | Flag.AT_BOUND | Flag.NEGATIVE_FLUX
"""Rows that nothing is learned from: there is no proper measurement, and the flag says so."""

_QUANTILES = ("q16", "q50", "q84")


@dataclass(frozen=True, eq=False)
class CalibrationResult:
    """Calibration that `calibrate` learns, and measurements before and after it.

    Parameters
    ----------
    calibration : QuantileCalibration
        The correction, learned from all galaxies; ``metrics`` has those before and after.
    truth, before, after : `~astropy.table.QTable`
        Truths and measurements of the galaxies used, without the correction and with one that was learned from other
        galaxies: the seven parameters, their errors and quantiles, ``snr`` and ``flags``.
    n_left_out : int
        Galaxies that were not used, because their measurement failed or is flagged as improper.
    """

    calibration: QuantileCalibration
    truth: QTable
    before: QTable
    after: QTable
    n_left_out: int

    def summary(self) -> QTable:
        """Return a table of bias and coverage of each parameter before and after.

        Returns
        -------
        `~astropy.table.QTable`
            ``parameter``; ``bias``, the mean of measured minus true in units of the error; ``coverage_68`` and
            ``coverage_95``, the fractions of truths within one and two errors; ``coverage_q``, that between the 16 and
            84 % quantiles, NaN where there are none; each also as ``<name>_after``.
        """
        table = QTable({"parameter": list(PARAMETER_NAMES)})
        for key in ("bias", "coverage_68", "coverage_95", "coverage_q"):
            for when, suffix in (("before", ""), ("after", "_after")):
                metrics = self.calibration.metrics[when]
                table[key + suffix] = [metrics[name].get(key, np.nan) for name in PARAMETER_NAMES]
        return table


def calibrate(
    fitter: SersicFitterBase, truth: Table, result: Table, *, about: Mapping[str, object] | None = None, seed: int = 0
) -> CalibrationResult:
    """Learn a calibration from measurements of galaxies of known parameters.

    Parameters
    ----------
    fitter : SersicFitterBase
        Fitter that measured the galaxies, without a calibration.
    truth : `~astropy.table.Table`
        One row per galaxy: ``true_<p>`` of the seven parameters and ``true_psf_fwhm``, as `inject_galaxies` gives them.
    result : `~astropy.table.Table`
        Result of the fitter, in the order of the truths.
    about : dict, optional
        Entries of the calibration's ``about``: where the galaxies come from.
    seed : int, optional
        Seed of the halves of the cross-validation. Default 0.

    Returns
    -------
    CalibrationResult
        The calibration, to be saved with ``result.calibration.save(path)``, and how good it is.

    Raises
    ------
    ValueError
        If columns are missing, tables are not of the same galaxies, or fewer than 200 galaxies can be used.

    Notes
    -----
    The correction depends on the measured S/N and size, so it holds for galaxies like those it was learned from. Half
    of the galaxies are corrected with what the other half says, and the other way round: that is "after".
    """
    if getattr(fitter, "calibration", None) is not None:
        msg = "fitter must have no calibration when one is learned"
        raise ValueError(msg)
    if len(truth) != len(result):
        msg = f"result must have one row per truth: {len(truth)}, not {len(result)}"
        raise ValueError(msg)
    arrays = _arrays(truth, result)
    is_good = (np.asarray(result["flags"]) & int(LEFT_OUT)) == 0
    is_good &= np.isfinite(arrays["truth"]).all(axis=1) & np.isfinite(arrays["values"]).all(axis=1)
    n_good = int(is_good.sum())
    if n_good < 2 * MIN_GALAXIES:
        msg = f"result: {n_good} of {len(is_good)} galaxies are measured properly; {2 * MIN_GALAXIES} are needed"
        raise ValueError(msg)
    arrays = {key: value[is_good] if value is not None else None for key, value in arrays.items()}
    point = getattr(fitter, "summary", "mean" if getattr(fitter, "bias_correction", True) else "median")
    halves = np.random.default_rng(seed).permutation(len(arrays["snr"])) % 2
    after = {key: arrays[key].copy() for key in ("values", "covariance")}
    after["quantiles"] = None if arrays["quantiles"] is None else arrays["quantiles"].copy()
    for half in (0, 1):
        learned, rows = _learn(_rows(arrays, halves != half), point), halves == half
        corrected = _correct(learned, _rows(arrays, rows))
        for key, value in zip(("values", "covariance", "quantiles"), corrected, strict=True):
            if value is not None:
                after[key][rows] = value
    metrics = {
        "before": coverage_metrics(arrays["truth"], arrays["values"], arrays["error"], arrays["quantiles"]),
        "after": coverage_metrics(arrays["truth"], after["values"], _errors(after), after["quantiles"]),
    }
    about = {
        **(about or {}), "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S"), "galmeasure": __version__,
        "n_left_out": int((~is_good).sum()),
    }  # fmt: skip
    estimator = fitter.describe_estimator()
    calibration = _learn(arrays, point, estimator=estimator, about=about, metrics=metrics)
    tables = _table(result[is_good], arrays), _table(result[is_good], {**after, "error": _errors(after)})
    return CalibrationResult(calibration, QTable(truth[is_good]), *tables, int((~is_good).sum()))


def _learn(arrays, point, **more):
    names = ("truth", "values", "error", "quantiles")
    return QuantileCalibration.fit(
        *(arrays[name] for name in names), snr=arrays["snr"], size=arrays["size"], point=point, **more
    )


def _correct(calibration, arrays):
    names = ("values", "covariance", "quantiles")
    return calibration.apply(*(arrays[name] for name in names), snr=arrays["snr"], size=arrays["size"])


def _rows(arrays, rows):
    return {key: None if value is None else value[rows] for key, value in arrays.items()}


def _errors(arrays):
    return np.sqrt(np.diagonal(arrays["covariance"], axis1=1, axis2=2))


def _arrays(truth, result):
    """Plain numbers, truths in the units of the results."""
    units = {name: _unit(result, f"{name}_fit") for name in PARAMETER_NAMES}

    def stack(table, form, role):
        columns = (column_numbers(table, form.format(name), role, units[name]) for name in PARAMETER_NAMES)
        return np.stack(list(columns), axis=1)

    arrays = {
        "truth": stack(truth, TRUE, "truth"),
        "values": stack(result, "{}_fit", "result"),
        "error": stack(result, "{}_err", "result"),
        "quantiles": None,
    }
    if f"n_{_QUANTILES[0]}" in result.colnames:
        arrays["quantiles"] = np.stack([stack(result, "{}_" + level, "result") for level in _QUANTILES], axis=1)
    arrays["covariance"] = arrays["error"][:, :, None] * np.eye(N_PARAMETERS) * arrays["error"][:, None, :]
    arrays["snr"] = column_numbers(result, "snr", "result", u.dimensionless_unscaled)
    width = column_numbers(truth, TRUE.format("psf_fwhm"), "truth", units["r_eff"])
    with np.errstate(all="ignore"):
        arrays["size"] = arrays["values"][:, PARAMETER_INDEX["r_eff"]] / width
    return arrays


def _unit(result, name):
    """Unit of a column of the result."""
    if name not in result.colnames:
        msg = f"result has no column {name}"
        raise ValueError(msg)
    return result[name].unit or u.dimensionless_unscaled


def column_numbers(table: Table, name: str, role: str, unit: u.UnitBase) -> npt.NDArray[np.float64]:
    """Return the numbers of a column in a given unit; columns without one count as being in it.

    Parameters
    ----------
    table : `~astropy.table.Table`
        Table with the column.
    name : str
        Name of the column.
    role : str
        Name that messages give to the table.
    unit : UnitBase
        Unit of the numbers that are returned; dimensionless for those of the column as they are.

    Returns
    -------
    ndarray
        Numbers, NaN where masked.

    Raises
    ------
    ValueError
        If the column is missing, or its unit does not convert.
    """
    if name not in table.colnames:
        msg = f"{role} has no column {name}"
        raise ValueError(msg)
    label, parameter = f"{role}[{name!r}]", name.removeprefix(TRUE.format("")).removesuffix("_fit")
    units = (None if unit == u.dimensionless_unscaled else unit for unit in (table[name].unit, unit))
    return convert(parameter, plain_numbers(table[name], label), *units, label)


def _table(result, arrays):
    """Columns of a result that a calibration changes, and those that go with them."""
    table = QTable({"id": result["id"]} if "id" in result.colnames else None)
    columns = {"fit": arrays["values"], "err": arrays["error"]}
    if arrays["quantiles"] is not None:
        columns |= {q: arrays["quantiles"][:, k] for k, q in enumerate(_QUANTILES)}
    for i, name in enumerate(PARAMETER_NAMES):
        unit = result[f"{name}_fit"].unit
        for suffix, values in columns.items():
            table[f"{name}_{suffix}"] = values[:, i] if unit is None else u.Quantity(values[:, i], unit)
    for name in ("snr", "flags"):
        table[name] = np.asarray(result[name])
    return table
