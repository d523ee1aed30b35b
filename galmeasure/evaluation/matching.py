"""Truths and results side by side: rows matched by id, units made equal, missing radii and shapes derived."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from astropy import units as u
from astropy.table import Table

from galmeasure.parameters import PARAMETER_NAMES, PARAMETERS, g_from_q_theta, g_to_q_theta
from galmeasure.results.columns import RESULT_FORMS, TRUE, TRUTH_FORMS, find_column
from galmeasure.results.frame import convert, plain_numbers

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["MEASURED", "Matched", "match_tables", "wrapped_angle"]

MEASURED = (*PARAMETER_NAMES, "r_eff_major", "q", "theta", "mag")
"""What results are compared in: the seven parameters, and what follows from them."""

_UNITS = {"theta": u.deg, "mag": u.mag, "x": u.pix, "y": u.pix}


def wrapped_angle(difference: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Wrap a difference of two position angles to -90 to 90 degrees.

    Parameters
    ----------
    difference : array_like
        Differences of angles in degrees.

    Returns
    -------
    ndarray
        Differences modulo 180 degrees.

    Examples
    --------
    >>> from galmeasure.evaluation.matching import wrapped_angle
    >>> print(wrapped_angle([179.0, -100.0, 30.0]))
    [-1. 80. 30.]
    """
    return (np.asarray(difference, dtype=float) + 90.0) % 180.0 - 90.0


@dataclass(frozen=True)
class Matched:
    """Truths and their measurements, one row per truth, plain numbers in equal units.

    Parameters
    ----------
    truth, value : dict of str to ndarray
        True and measured values ``(N,)`` by parameter: the seven of the model, ``r_eff_major``, ``q``, ``theta`` and
        ``mag``; NaN where there is none.
    error : dict of str to ndarray
        1-sigma errors, of those that have one.
    quantiles : dict of str to ndarray
        16, 50 and 84 % quantiles ``(N, 3)``, of those that have the outer two; NaN for a median that lacks.
    bound : dict of str to ndarray
        Cramer-Rao bounds, of those that have one.
    unit : dict of str to str
        Units, ``""`` where there is none.
    about : dict of str to ndarray
        Quantities to sort galaxies by: ``snr``, ``n``, ``r_eff / PSF FWHM`` and ``|g|``, as far as they are known.
    row : ndarray of int
        Row of the result, -1 where it has none.
    n_extra : int
        Rows of the result that are of no truth.
    flagged : ndarray of bool
        Rows with a flag.
    """

    truth: dict
    value: dict
    error: dict
    quantiles: dict
    bound: dict
    unit: dict
    about: dict
    row: np.ndarray
    n_extra: int = 0
    flagged: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))

    def __len__(self):
        """Number of truths."""
        return len(self.row)

    @property
    def names(self) -> list[str]:
        """Parameters that have truths and values."""
        return [name for name in MEASURED if name in self.truth and name in self.value]

    def difference(self, name: str) -> npt.NDArray[np.float64]:
        """Return measured minus true values ``(N,)`` of a parameter; angles within -90 to 90 degrees."""
        delta = self.value[name] - self.truth[name]
        return wrapped_angle(delta) if name == "theta" else delta

    def counts(self) -> dict[str, int]:
        """Count truths, those without a row, rows without a measurement, rows with a flag, and rows of no truth."""
        main = [name for name in PARAMETER_NAMES if name in self.value]
        measured = np.all([np.isfinite(self.value[name]) for name in main], axis=0)
        missing = self.row < 0
        return {
            "n_truth": len(self),
            "n_missing": int(missing.sum()),
            "n_failed": int((~missing & ~measured).sum()),
            "n_flagged": int(self.flagged.sum()),
            "n_extra": self.n_extra,
        }


def match_tables(
    truth: Table,
    result: Table,
    *,
    bounds: Table | None = None,
    pixel_scale: float | None = None,
    zero_point: float | None = None,
    psf_fwhm: npt.ArrayLike | None = None,
) -> Matched:
    """Put a table of truths and a table of results side by side.

    Parameters
    ----------
    truth : `~astropy.table.Table`
        One row per galaxy: ``true_<p>``, ``<p>_true`` or ``<p>``, for any of the seven parameters, ``r_eff_major``,
        ``q``, ``theta`` and ``mag``; ``id``, ``true_snr`` (or ``true_snr_total``) and ``true_psf_fwhm`` are used as
        well if they are there.
    result : `~astropy.table.Table`
        One row per measurement: ``<p>_fit`` or ``<p>``, and where there are ``<p>_err``, ``<p>_q16``, ``<p>_q50``,
        ``<p>_q84``, ``<p>_crb``, ``flags``. Rows are matched by ``id``; without one, in order.
    bounds : `~astropy.table.Table`, optional
        Cramer-Rao bounds, columns ``<p>_crb``, one row per truth; instead of those of the result.
    pixel_scale : float, optional
        Arcsec per pixel, where one table gives radii in arcsec and the other in pixels.
    zero_point : float, optional
        Magnitude of a flux of 1, to compare magnitudes where a table has none.
    psf_fwhm : float or array_like, optional
        Width of the PSF in the unit of the true radii, where the truths do not have it.

    Returns
    -------
    Matched
        One row per truth.

    Raises
    ------
    ValueError
        If rows cannot be matched, an id is there twice, units do not convert, or nothing is there to compare.

    Notes
    -----
    Shears follow from ``q`` and ``theta`` and the other way round, the circularised radius from the semi-major one and
    the other way round, in both tables, where a column lacks.

    Examples
    --------
    >>> from astropy.table import Table
    >>> from galmeasure.evaluation import match_tables
    >>> truth = Table({"id": [1, 2, 3], "true_n": [1.0, 2.0, 4.0]})
    >>> found = Table({"id": [3, 1], "n_fit": [4.5, 1.0]})
    >>> matched = match_tables(truth, found)
    >>> print(matched.difference("n"))
    [0.  nan 0.5]
    """
    row, n_extra = _match_rows(truth, result)
    true_values, units = _values(truth, "truth", TRUTH_FORMS, {}, pixel_scale)
    _derive(true_values, units, zero_point)
    values, result_units = _values(result, "result", RESULT_FORMS, units, pixel_scale)
    _derive(values, {**result_units, **units}, zero_point)
    names = [name for name in MEASURED if name in true_values and name in values]
    if not names:
        msg = "result must have a column <p>_fit or <p> of a parameter that truth has as true_<p> or <p>"
        raise ValueError(msg)
    columns, nothing = {}, np.full(len(result), np.nan)
    for key, forms in (("error", ("{}_err",)), ("low", ("{}_q16",)), ("middle", ("{}_q50",)),
                       ("high", ("{}_q84",)), ("bound", ("{}_crb",))):  # fmt: skip
        columns[key] = _values(result, "result", forms, units, pixel_scale)[0]
    bound = {name: _placed(column, row) for name, column in columns["bound"].items()}
    if bounds is not None:
        if len(bounds) != len(truth):
            msg = f"bounds must have one row per truth: {len(truth)}, not {len(bounds)}"
            raise ValueError(msg)
        bound = _values(bounds, "bounds", ("{}_crb",), units, pixel_scale)[0]
    return Matched(
        truth=true_values,
        value={name: _placed(values[name], row) for name in names},
        error={name: _placed(column, row) for name, column in columns["error"].items() if name in names},
        quantiles={
            name: np.stack([_placed(columns[key].get(name, nothing), row) for key in ("low", "middle", "high")], axis=1)
            for name in names
            if name in columns["low"] and name in columns["high"]
        },
        bound={name: column for name, column in bound.items() if name in names},
        unit={name: units[name].to_string() if units.get(name) is not None else "" for name in true_values},
        about=_about(truth, result, row, true_values, psf_fwhm),
        row=row,
        n_extra=n_extra,
        flagged=_flagged(result, row),
    )


def _match_rows(truth, result):
    """Row of the result for each truth, -1 for none, and how many rows are of no truth."""
    for name, table in (("truth", truth), ("result", result)):
        if not isinstance(table, Table):
            msg = f"{name} must be an astropy table, not {type(table).__name__}"
            raise TypeError(msg)
        if not len(table):
            msg = f"{name} must have rows"
            raise ValueError(msg)
    if "id" not in truth.colnames or "id" not in result.colnames:
        if len(truth) != len(result):
            msg = f"result must have an id, as truth must, or as many rows: {len(truth)}, not {len(result)}"
            raise ValueError(msg)
        return np.arange(len(truth)), 0
    keys = [_keys(table["id"], name) for name, table in (("truth", truth), ("result", result))]
    row_of = {key: i for i, key in enumerate(keys[1])}
    row = np.array([row_of.get(key, -1) for key in keys[0]])
    if (row < 0).all():
        msg = f"result has none of the ids of truth (truth: {keys[0][0]}, ..., result: {keys[1][0]}, ...)"
        raise ValueError(msg)
    return row, len(keys[1]) - int((row >= 0).sum())


def _keys(column, name):
    """Ids as texts, so that 7 and "7" are the same."""
    values = np.asarray(column)
    if values.dtype.kind == "f" and np.array_equal(values, np.round(values)):
        values = values.astype(np.int64)
    keys = [(key.decode() if isinstance(key, bytes) else str(key)).strip() for key in values.tolist()]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        msg = f"{name} has the id {twice} more than once"
        raise ValueError(msg)
    return keys


def _values(table, role, forms, units, pixel_scale):
    """Columns by parameter in given units, or in their own, which are returned too."""
    columns, column_units = {}, {}
    for name in MEASURED:
        column = find_column(table, name, forms)
        if column is None:
            continue
        label, unit = f"{role}[{column!r}]", table[column].unit
        unit = None if unit is None or unit == u.dimensionless_unscaled else unit
        target = units.get(name, _UNITS.get(name))
        numbers = _numbers(table[column], label)
        columns[name] = convert(name, numbers, unit, target, label, pixel_scale=pixel_scale)
        column_units[name] = unit if target is None else target
    return columns, column_units


def _numbers(column, label):
    """Numbers (N,) of a column; masked ones are NaN."""
    values = plain_numbers(column, label)
    if values.ndim != 1:
        msg = f"{label} must hold one number per row, not an array of shape {values.shape}"
        raise ValueError(msg)
    return values


def _derive(values, units, zero_point):
    """Add to a set of columns what follows from the others."""
    with np.errstate(all="ignore"):
        if "g1" not in values and {"q", "theta"} <= set(values):
            values["g1"], values["g2"] = g_from_q_theta(values["q"], values["theta"])
        if {"g1", "g2"} <= set(values):
            q, theta = g_to_q_theta(values["g1"], values["g2"])
            values.setdefault("q", np.where(np.isfinite(q), q, np.nan))
            values.setdefault("theta", np.where(np.isfinite(q), theta, np.nan))
        if "q" in values and "r_eff" in values:
            values.setdefault("r_eff_major", values["r_eff"] / np.sqrt(values["q"]))
        elif "q" in values and "r_eff_major" in values:
            values["r_eff"] = values["r_eff_major"] * np.sqrt(values["q"])
        if zero_point is not None and "flux" in values:
            positive = np.where(values["flux"] > 0, values["flux"], np.nan)
            values.setdefault("mag", zero_point - 2.5 * np.log10(positive))
    units.setdefault("theta", u.deg)
    for name, source in (("r_eff", "r_eff_major"), ("r_eff_major", "r_eff")):
        units.setdefault(name, units.get(source))


def _placed(column, row):
    """Column of the result in the order of the truths."""
    return np.where(row >= 0, column[row], np.nan)


def _flagged(result, row):
    if "flags" not in result.colnames:
        return np.zeros(len(row), bool)
    flags = np.ma.filled(np.ma.asarray(result["flags"]), 0)
    return (row >= 0) & (np.asarray(flags)[row] != 0)


def _about(truth, result, row, values, psf_fwhm):
    """Quantities to sort galaxies by; the S/N is the measured one only where no true one is known."""
    about = {}
    names = (find_column(truth, name, forms) for forms in ((TRUE,), ("{}",)) for name in ("snr_total", "snr"))
    name = next((name for name in names if name is not None), None)
    if name is not None:
        about["snr"] = _numbers(truth[name], f"truth[{name!r}]")
    elif "snr" in result.colnames:
        about["snr"] = _placed(_numbers(result["snr"], "result['snr']"), row)
    if "n" in values:
        about["n"] = values["n"]
    name = find_column(truth, "psf_fwhm", (TRUE, "{}"))
    width = psf_fwhm if name is None else _numbers(truth[name], f"truth[{name!r}]")
    if width is not None and "r_eff" in values:
        about["r_eff / PSF FWHM"] = values["r_eff"] / np.asarray(width, dtype=float)
    if {"g1", "g2"} <= set(values):
        about["|g|"] = np.hypot(values["g1"], values["g2"])
    return about


def parameter_label(name: str) -> str:
    """Return the LaTeX symbol of a parameter.

    Parameters
    ----------
    name : str
        Name among those in `MEASURED`.

    Returns
    -------
    str
        Symbol for labels of plots.
    """
    symbols = {p.name: p.latex for p in PARAMETERS}
    more = {"r_eff_major": r"$a_\mathrm{eff}$", "q": r"$q$", "theta": r"$\theta$", "mag": r"$m$"}
    return {**symbols, **more}[name]
