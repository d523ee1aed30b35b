"""The one builder of the result table: columns, units, derived quantities, flags and meta."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import astropy.units as u
import numpy as np
from astropy.table import Column, MaskedColumn, QTable

from galmeasure.flags import FLAGS, Flag
from galmeasure.parameters import N_PARAMETERS, PARAMETER_INDEX, PARAMETERS
from galmeasure.results.derived import ab_zero_point, magnitude, shape_columns, sky_shape_columns
from galmeasure.results.formats import set_formats
from galmeasure.results.frame import Frame
from galmeasure.utils.wcs import local_sky

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from galmeasure.cutouts import Cutouts

__all__ = ["Measurement", "build_table", "chosen_columns", "flat_meta"]

COLUMN_ORDER = ("x", "y", "flux", "n", "r_eff", "g1", "g2")
"""Order of the parameters among the columns."""

FIRST_COLUMNS = (
    "id", "flux_fit", "flux_err", "n_fit", "n_err", "r_eff_fit", "r_eff_err", "q", "q_err", "theta", "theta_err", "snr",
    "flags",
)  # fmt: skip
"""Columns that a table begins with; the others follow in the order in which they are made."""

_QUANTILES = (("q16", "16 % quantile"), ("q50", "median"), ("q84", "84 % quantile"))
_DESCRIPTIONS = {
    "r_eff_major": "half-light radius along the major axis",
    "q": "axis ratio b/a; on the sky where a WCS says that pixels are not square",
    "theta": "position angle of the major axis in the pixel frame, counter-clockwise from +x, [0, 180)",
    "pa": "position angle of the major axis, east of north, [0, 180)",
    "ra": "right ascension of the centre, ICRS",
    "dec": "declination of the centre, ICRS",
    "mag": "magnitude of the total flux",
    "snr": "optimal signal to noise, sqrt(sum((model / sigma)**2))",
    "chi2_reduced": "chi2 of the residuals over the degrees of freedom",
    "n_pixels_fit": "number of pixels used",
    "background_fit": "constant background, per pixel",
    "ess": "effective number of draws that the posterior rests on",
    "n_draws": "number of draws, of which ess are effective",
    "ood_score": "how unlike the galaxies of the training the object looks",
    "ood_reason": "in what a flagged object is unlike the galaxies of the training",
    "point_like": "posterior probability that the object is a point",
    "log_evidence": "log of the integral of likelihood times prior, pixels in units of their median error",
}


@dataclass
class Measurement:
    """Measurement of all N rows as arrays, in the flux unit of the input and in pixels of the cutout.

    Parameters
    ----------
    values : ndarray, shape (N, 7)
        Parameters in the order of `~galmeasure.parameters.PARAMETERS`; NaN where failed.
    covariance : ndarray, shape (N, 7, 7)
        Covariance of the parameters.
    flags : ndarray of int, shape (N,)
        Quality bits, see `galmeasure.decode_flags`.
    snr, chi2_reduced : ndarray, shape (N,)
        Signal-to-noise ratio and reduced chi-squared of the model at ``values``.
    n_pixels_fit : ndarray of int, shape (N,)
        Number of pixels used.
    init : ndarray, shape (N, 7), optional
        Starting values of the parameters.
    quantiles : ndarray, shape (N, 3, 7), optional
        16, 50 and 84 % quantiles.
    crb : ndarray, shape (N, 7), optional
        Cramer-Rao bounds (standard deviations).
    method : str or ndarray of str, shape (N,), optional
        Name of the method that measured each row.
    extra : dict of str to ndarray, optional
        More columns; those named ``flux...`` or ``background...`` are in the unit of the pixels.
    """

    values: np.ndarray
    covariance: np.ndarray
    flags: np.ndarray
    snr: np.ndarray
    chi2_reduced: np.ndarray
    n_pixels_fit: np.ndarray
    init: np.ndarray | None = None
    quantiles: np.ndarray | None = None
    crb: np.ndarray | None = None
    method: str | np.ndarray = ""
    extra: dict = field(default_factory=dict)


def build_table(
    cutouts: Cutouts,
    measurement: Measurement,
    *,
    covariance: bool = False,
    meta: Mapping[str, str | float] | None = None,
) -> QTable:
    """Build the table of a measurement, one row per cutout in their order.

    Parameters
    ----------
    cutouts : Cutouts
        Cutouts that were measured.
    measurement : Measurement
        Arrays that the fitter returned.
    covariance : bool, optional
        True to add the column ``covariance``, (7, 7) per row, in the units of the other columns. Default False.
    meta : dict, optional
        Entries for ``table.meta``: keys of at most 8 capitals, values str, int or float.

    Returns
    -------
    `~astropy.table.QTable`
        The table; rows flagged as failed hold NaN in all measured columns.

    Raises
    ------
    ValueError
        If an array of the measurement does not have one row per cutout.

    Examples
    --------
    >>> import numpy as np
    >>> from galmeasure import Cutouts
    >>> from galmeasure.results.table import Measurement, build_table
    >>> cutouts = Cutouts(np.zeros((1, 9, 9)), np.ones((3, 3)), error=1.0, pixel_scale=0.2)
    >>> values = np.array([[100.0, 1.0, 2.0, 0.0, 1 / 3, 4.0, 4.0]])
    >>> one = np.ones(1)
    >>> found = Measurement(values, np.eye(7)[None], np.zeros(1, dtype=int), one, one, one.astype(int))
    >>> table = build_table(cutouts, found)
    >>> print(f"{table['r_eff_fit'][0]:.2f} {table['r_eff_major'][0]:.2f} {table['q'][0]:.2f} {table['theta'][0]:.0f}")
    0.40 arcsec 0.57 arcsec 0.50 45 deg
    """
    _check_lengths(cutouts, measurement)
    with np.errstate(all="ignore"):  # huge values may overflow when they are squared or scaled
        table = _build(cutouts, measurement, covariance)
    table.meta.update(flat_meta(meta))
    return table


def _build(cutouts, measurement, covariance):
    """The table without its meta, see :func:`build_table`."""
    flags = np.asarray(measurement.flags).astype(np.int64)
    failed = (flags & Flag.FAILED) != 0
    values = _blanked(measurement.values, failed)
    full = _blanked(measurement.covariance, failed)
    builder = _Columns(cutouts)
    is_masked = isinstance(cutouts.ids, np.ma.MaskedArray)
    ids = MaskedColumn(cutouts.ids, copy=True) if is_masked else np.array(cutouts.ids)
    builder.plain("id", ids, text="identifier of the cutout")
    if measurement.init is not None:
        builder.parameters("{}_init", _blanked(measurement.init), "start: {}")
    errors = _standard_deviations(full)
    builder.parameters("{}_fit", values, "{}", second=("{}_err", errors, "1-sigma error: {}"))
    if measurement.quantiles is not None:
        quantiles = _blanked(measurement.quantiles, failed)
        for k, (suffix, text) in enumerate(_QUANTILES):
            builder.parameters("{}_" + suffix, quantiles[:, k], text + ": {}")
    _add_derived(builder, values, full, _sky(cutouts, values))
    _add_magnitude(builder, values[:, PARAMETER_INDEX["flux"]], errors[:, PARAMETER_INDEX["flux"]])
    builder.plain("snr", _blanked(measurement.snr, failed))
    builder.plain("chi2_reduced", _blanked(measurement.chi2_reduced, failed))
    builder.plain("n_pixels_fit", np.asarray(measurement.n_pixels_fit).astype(np.int64))
    if measurement.crb is not None:
        builder.parameters("{}_crb", _blanked(measurement.crb, failed), "Cramer-Rao bound: {}", position_offset=False)
    for name, column in measurement.extra.items():
        is_flux = name.startswith(("flux", "background"))
        builder.plain(name, np.asarray(column), cutouts.unit if is_flux else None)
    if covariance:
        scale = np.stack([builder.frame.scale(p.name) for p in PARAMETERS], axis=1)
        order = ", ".join(p.name for p in PARAMETERS)
        text = f"covariance of {order}, in the units of their columns"
        builder.plain("covariance", full * scale[:, :, None] * scale[:, None, :], text=text)
    method = np.broadcast_to(np.asarray(measurement.method, dtype=str), len(cutouts)).copy()
    builder.plain("method", method, text="what measured the row")
    builder.plain("flags", flags, text="quality bits, see galmeasure.decode_flags")
    table = builder.table()
    set_formats(table)
    return table


def chosen_columns(table: QTable, names: Sequence[str]) -> QTable:
    """Choose columns of a table that is needed no more.

    Unlike ``table[names]`` this copies no values and leaves no table behind that refers to itself, with all of its
    values, until Python looks for such objects: a long run had some fifty megabytes of them.

    Parameters
    ----------
    table : astropy.table.QTable
        Table whose columns become those of the new one.
    names : sequence of str
        Names of the columns, in their order.

    Returns
    -------
    astropy.table.QTable
        Table with these columns and the metadata of the other one.
    """
    return QTable([table[name] for name in names], names=names, copy=False, meta=table.meta)


class _Columns:
    """Collects columns in the units and frame of the table, which is made of all of them at once."""

    def __init__(self, cutouts):
        self.columns, self.cutouts, self.frame = {}, cutouts, Frame.of(cutouts)

    def table(self):
        """Return the table, the most important columns first."""
        names = [*FIRST_COLUMNS, *(name for name in self.columns if name not in FIRST_COLUMNS)]
        return QTable([self.columns[name] for name in names], names=names, copy=False)

    def parameters(self, name, values, text, *, second=None, position_offset=True):
        """One column (or a column and its error) for each parameter."""
        for p in COLUMN_ORDER:
            i = PARAMETER_INDEX[p]
            column = self.frame.column(p, values[:, i], difference=not position_offset)
            self.plain(name.format(p), column, text=text.format(PARAMETERS[i].description))
            if second is not None:
                name2, values2, text2 = second
                column = self.frame.column(p, values2[:, i], difference=True)
                self.plain(name2.format(p), column, text=text2.format(PARAMETERS[i].description))

    def plain(self, name, column, unit=None, text=None):
        """One column."""
        if unit is not None or isinstance(column, u.Quantity):
            column = u.Quantity(column, unit)
        elif not isinstance(column, Column):
            column = Column(column)
        if text is None:
            base = name.removesuffix("_err")
            text = _DESCRIPTIONS.get(base, "")
            text = f"1-sigma error: {text}" if text and base != name else text
        column.info.description = text or f"{name}, as the estimator gives it"
        self.columns[name] = column


def _add_derived(builder, values, covariance, sky):
    """Semi-major radius, axis ratio and angle, on the sky where a WCS says that pixels are not square; and ``pa``."""
    columns, pa = shape_columns(values, covariance), None
    if sky is not None:
        pa = sky.position_angle(columns["theta"])
        on_sky, turned = sky_shape_columns(values, covariance, sky.jacobian, columns)
        columns |= on_sky
        pa = np.where(np.isfinite(turned), turned, pa)
    for name, column in columns.items():
        base = name.removesuffix("_err")
        if base == "r_eff_major":
            column = builder.frame.column(base, column)
        builder.plain(name, column, u.deg if base == "theta" else None)
    if sky is not None:
        builder.plain("pa", pa, u.deg)
        builder.plain("ra", sky.ra, u.deg)
        builder.plain("dec", sky.dec, u.deg)


def _sky(cutouts, values):
    """Sky around the centres, if there is a WCS."""
    if cutouts.wcs is None:
        return None
    xy = values[:, [PARAMETER_INDEX["x"], PARAMETER_INDEX["y"]]]
    if cutouts.wcs_in_parent:
        xy = xy + cutouts.origin
    return local_sky(cutouts.wcs, xy[:, 0], xy[:, 1])


def _add_magnitude(builder, flux, flux_err):
    """Magnitude, if the zero point is known or follows from the unit (AB)."""
    cutouts = builder.cutouts
    zero_point = cutouts.zero_point
    text = None
    if zero_point is None:
        zero_point = ab_zero_point(cutouts.unit, cutouts.pixel_scale)
        text = "AB magnitude of the total flux"
    if zero_point is None:
        return
    mag, mag_err = magnitude(flux, flux_err, zero_point)
    builder.plain("mag", mag, u.mag, text)
    builder.plain("mag_err", mag_err, u.mag)


def _blanked(array, failed=None):
    """float64 copy with NaN in failed rows."""
    array = np.array(array, dtype=np.float64)
    if failed is not None:
        array[failed] = np.nan
    return array


def _standard_deviations(covariance):
    """Roots of the diagonals, NaN where negative."""
    variance = np.diagonal(covariance, axis1=1, axis2=2)
    with np.errstate(invalid="ignore"):
        return np.sqrt(np.where(variance >= 0, variance, np.nan))


def _check_lengths(cutouts, measurement):
    """Raise unless every array has one row per cutout and the right width."""
    n, p = len(cutouts), N_PARAMETERS
    expected = {
        "values": (n, p),
        "covariance": (n, p, p),
        "flags": (n,),
        "snr": (n,),
        "chi2_reduced": (n,),
        "n_pixels_fit": (n,),
        "init": (n, p),
        "quantiles": (n, 3, p),
        "crb": (n, p),
    }
    for name, shape in expected.items():
        array = getattr(measurement, name)
        if array is not None and np.shape(array) != shape:
            msg = f"measurement.{name} must have shape {shape}, not {np.shape(array)}"
            raise ValueError(msg)
    for name, column in measurement.extra.items():
        if np.shape(column)[:1] != (n,):
            msg = f"measurement.extra[{name!r}] must have {n} rows, not shape {np.shape(column)}"
            raise ValueError(msg)


def flat_meta(extra: Mapping[str, str | float] | None = None) -> dict[str, str | float]:
    """Return metadata of a table with keys and values that FITS headers can hold.

    Parameters
    ----------
    extra : dict, optional
        Further entries: keys of at most 8 capitals, values str, int or float.

    Returns
    -------
    dict
        Date, versions, meaning of the flags, definitions, and the further entries. The date is that of the environment
        variable ``SOURCE_DATE_EPOCH``, in seconds since 1970, where that is set, so that tables can be made again.
    """
    meta = {
        "DATE": _date(),
        "GALMEAS": _version("galmeasure"),
        "ASTROPY": _version("astropy"),
        "NUMPY": np.__version__,
    }
    if "torch" in sys.modules:
        meta["TORCH"] = str(sys.modules["torch"].__version__)
    meta.update({f"FLAG{flag.bit}": f"{flag.name}: {flag.description}" for flag in FLAGS})
    meta["RDEF"] = "r_eff is circularised, sqrt(a b); r_eff_major is the semi-major one"
    meta["GDEF"] = "|g| = (a-b)/(a+b), g1 + i g2 = |g| exp(2i theta), theta from +x"
    for key, value in (extra or {}).items():
        if len(key) > 8 or key != key.upper():
            msg = f"meta must have keys of at most 8 capitals, not {key!r}"
            raise ValueError(msg)
        if not isinstance(value, str | int | float):
            msg = f"meta[{key!r}] must be a str, int or float, not {type(value).__name__}"
            raise TypeError(msg)
        meta[key] = _header_value(value)
    return meta


def _date():
    """Date of today, or that of SOURCE_DATE_EPOCH."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    date = datetime.fromtimestamp(int(epoch), UTC) if epoch.isdecimal() else datetime.now(UTC)
    return date.strftime("%Y-%m-%dT%H:%M:%S")


def _header_value(value):
    """A value as FITS headers can hold it: text in one line of ASCII, numbers finite."""
    if isinstance(value, str):
        return " ".join(value.encode("ascii", "backslashreplace").decode().split())
    return value if np.isfinite(value) else str(value)


@lru_cache(maxsize=4)
def _version(package):
    """Version of an installed package, ``"unknown"`` if it runs from a source tree."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
