"""A calibration learned from measurements of known galaxies, and what it is worth, by cross-validation."""

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from astropy import units as u
from astropy.table import QTable

from galmeasure import __version__
from galmeasure.calibration import QuantileCalibration
from galmeasure.calibration.quantiles import MIN_GALAXIES, coverage_metrics
from galmeasure.evaluation.matching import parameter_label
from galmeasure.flags import Flag
from galmeasure.parameters import N_PARAMETERS, PARAMETER_NAMES
from galmeasure.plotting import new_figure

__all__ = ["CalibrationResult", "calibrate", "plot_calibration_trends"]

LEFT_OUT = Flag.FAILED | Flag.NOT_CONVERGED | Flag.AT_BOUND | Flag.NEGATIVE_FLUX
"""Rows that nothing is learned from: there is no proper measurement, and the flag says so."""

_QUANTILES = ("q16", "q50", "q84")
_FAR = 5.0
_SHOWN = ("flux", "n", "r_eff", "g1", "g2")


@dataclass(frozen=True, eq=False)
class CalibrationResult:
    """What `calibrate` finds.

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

    def summary(self):
        """Table of bias and coverage of each parameter before and after.

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
                found = self.calibration.metrics[when]
                table[key + suffix] = [found[name].get(key, np.nan) for name in PARAMETER_NAMES]
        return table


def calibrate(fitter, truth, result, *, about=None, seed=0):
    """Learn a calibration from measurements of galaxies of known parameters.

    Parameters
    ----------
    fitter : SersicFitterBase
        What measured them, without a calibration.
    truth : `~astropy.table.Table`
        One row a galaxy: ``true_<p>`` of the seven parameters and ``true_psf_fwhm``, as `inject_galaxies` gives them.
    result : `~astropy.table.Table`
        Result of the fitter, in the order of the truths.
    about : dict, optional
        Entries of the calibration's ``about``: where the galaxies come from.
    seed : int, optional
        Of the halves of the cross-validation.

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
    used = (np.asarray(result["flags"]) & int(LEFT_OUT)) == 0
    used &= np.isfinite(arrays["truth"]).all(axis=1) & np.isfinite(arrays["values"]).all(axis=1)
    if used.sum() < 2 * MIN_GALAXIES:
        msg = f"result: {int(used.sum())} of {len(used)} galaxies are measured properly; {2 * MIN_GALAXIES} are needed"
        raise ValueError(msg)
    arrays = {key: value[used] if value is not None else None for key, value in arrays.items()}
    point = getattr(fitter, "summary", "mean" if getattr(fitter, "bias_correction", True) else "median")
    halves = np.random.default_rng(seed).permutation(len(arrays["snr"])) % 2
    after = {key: arrays[key].copy() for key in ("values", "covariance")}
    after["quantiles"] = None if arrays["quantiles"] is None else arrays["quantiles"].copy()
    for half in (0, 1):
        learned, rows = _learn(_rows(arrays, halves != half), point), halves == half
        found = _correct(learned, _rows(arrays, rows))
        for key, value in zip(("values", "covariance", "quantiles"), found, strict=True):
            if value is not None:
                after[key][rows] = value
    metrics = {
        "before": coverage_metrics(arrays["truth"], arrays["values"], arrays["error"], arrays["quantiles"]),
        "after": coverage_metrics(arrays["truth"], after["values"], _errors(after), after["quantiles"]),
    }
    about = {
        **(about or {}), "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S"), "galmeasure": __version__,
        "n_left_out": int((~used).sum()),
    }  # fmt: skip
    estimator = fitter.describe_estimator()
    calibration = _learn(arrays, point, estimator=estimator, about=about, metrics=metrics)
    tables = _table(result[used], arrays), _table(result[used], {**after, "error": _errors(after)})
    return CalibrationResult(calibration, QTable(truth[used]), *tables, int((~used).sum()))


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
    measured = {name: _numbers(result, f"{name}_fit", "result") for name in PARAMETER_NAMES}
    found = {
        "truth": np.stack([_numbers(truth, f"true_{n}", "truth", measured[n][1]) for n in PARAMETER_NAMES], 1),
        "values": np.stack([measured[name][0] for name in PARAMETER_NAMES], 1),
        "error": np.stack([_numbers(result, f"{n}_err", "result", measured[n][1]) for n in PARAMETER_NAMES], 1),
        "quantiles": None,
    }
    if f"n_{_QUANTILES[0]}" in result.colnames:
        levels = [[_numbers(result, f"{n}_{q}", "result", measured[n][1]) for n in PARAMETER_NAMES] for q in _QUANTILES]
        found["quantiles"] = np.stack([np.stack(level, 1) for level in levels], 1)
    found["covariance"] = found["error"][:, :, None] * np.eye(N_PARAMETERS) * found["error"][:, None, :]
    found["snr"] = _numbers(result, "snr", "result", u.dimensionless_unscaled)
    width = _numbers(truth, "true_psf_fwhm", "truth", measured["r_eff"][1])
    with np.errstate(all="ignore"):
        found["size"] = measured["r_eff"][0] / width
    return found


def _numbers(table, name, role, unit=None):
    """Numbers of a column in a unit; without one, also the unit that the column has."""
    if name not in table.colnames:
        msg = f"{role} has no column {name}"
        raise ValueError(msg)
    column = table[name]
    own = column.unit or u.dimensionless_unscaled
    values = np.ma.filled(np.ma.asarray(getattr(column, "value", column)).astype(float), np.nan)
    if unit is None:
        return values, own
    try:
        return values if own == unit or u.dimensionless_unscaled in (own, unit) else values * own.to(unit)
    except u.UnitConversionError:
        msg = f"{role}[{name!r}] has unit {own}, which does not convert to {unit}"
        raise ValueError(msg) from None


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


def plot_calibration_trends(found, *, n_bins=8):
    """Bias and coverage by S/N and size, before and after.

    Parameters
    ----------
    found : CalibrationResult
        What `calibrate` gives.
    n_bins : int, optional
        Bins with equal numbers of galaxies.

    Returns
    -------
    `~matplotlib.figure.Figure`
        A row of panels for each parameter: mean of measured minus true in units of the error (within 5), and coverage
        of the 68 % interval (of the quantiles, where there are some), by measured S/N and by measured size.
    """
    from matplotlib.ticker import NullFormatter

    truth = found.truth
    width = np.asarray(getattr(truth["true_psf_fwhm"], "value", truth["true_psf_fwhm"]))
    radius = np.asarray(getattr(found.before["r_eff_fit"], "value", found.before["r_eff_fit"]))
    sorters = (("S/N", np.asarray(found.before["snr"])), ("r_eff / PSF FWHM", radius / width))
    figure = new_figure(11.0, 1.7 * len(_SHOWN) + 0.6)
    axes = figure.subplots(len(_SHOWN), 4, squeeze=False, sharex="col")
    for name, line in zip(_SHOWN, axes, strict=True):
        for table, style, label in ((found.before, "C1--", "before"), (found.after, "C0-", "after")):
            pull, inside = _pull_and_inside(truth, table, name)
            for k, (_, values) in enumerate(sorters):
                edges = np.unique(np.quantile(values, np.linspace(0.0, 1.0, n_bins + 1)))
                where = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
                some = [np.flatnonzero(where == b) for b in range(len(edges) - 1)]
                x = [np.median(values[rows]) for rows in some]
                bias = [np.mean(np.clip(pull[rows], -_FAR, _FAR)) for rows in some]
                part = np.array([np.mean(inside[rows]) for rows in some])
                error = np.sqrt(0.6827 * 0.3173 / np.array([len(rows) for rows in some]))
                spread = [np.std(np.clip(pull[rows], -_FAR, _FAR)) / np.sqrt(len(rows)) for rows in some]
                line[2 * k].errorbar(x, bias, spread, fmt=style, label=label)
                line[2 * k + 1].errorbar(x, part, error, fmt=style, label=label)
        for k in range(2):
            line[2 * k].axhline(0.0, color="0.7", lw=0.8)
            line[2 * k + 1].axhline(0.6827, color="0.7", lw=0.8)
        line[0].set_ylabel(parameter_label(name))
    for k, (text, _) in enumerate(sorters):
        for axis, title in zip(axes[0, 2 * k : 2 * k + 2], ("bias / error", "68 % coverage"), strict=True):
            axis.set(xscale="log", title=title)
            axis.xaxis.set_minor_formatter(NullFormatter())
        for axis in axes[-1, 2 * k : 2 * k + 2]:
            axis.set_xlabel(text)
    axes[0, 0].legend(fontsize="small")
    return figure


def _pull_and_inside(truth, table, name):
    """Measured minus true over the error, and whether the truth is in the 68 % interval."""

    def numbers(label):
        return _numbers(table, label, "result", table[f"{name}_fit"].unit or u.dimensionless_unscaled)

    true = _numbers(truth, f"true_{name}", "truth", table[f"{name}_fit"].unit or u.dimensionless_unscaled)
    pull = (numbers(f"{name}_fit") - true) / numbers(f"{name}_err")
    if f"{name}_q16" not in table.colnames:
        return pull, np.abs(pull) <= 1.0
    return pull, (true >= numbers(f"{name}_q16")) & (true <= numbers(f"{name}_q84"))
