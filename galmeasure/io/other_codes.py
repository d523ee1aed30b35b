"""Results of other codes in our words: their columns, their radii, angles, magnitudes and first pixels."""

import dataclasses
import re
from os import PathLike
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.table import QTable, Table

from galmeasure.exceptions import CatalogError
from galmeasure.flags import Flag
from galmeasure.io.code_files import ZERO_POINT, read_code_file
from galmeasure.io.code_presets import ANGLES, PRESETS, CatalogPreset, find_preset
from galmeasure.io.ellipses import axes_of_covariance, propagated, shear_errors
from galmeasure.io.list_columns import checked_votable
from galmeasure.parameters import g_from_q_theta
from galmeasure.render.profiles import sersic_amplitude, sersic_b

__all__ = ["PRESETS", "CatalogPreset", "convert_results", "read_results"]

_POGSON = 2.5 / np.log(10.0)
_NUMBER = r"[\[{*]*\s*([-+.\deE]+|nan|inf)\s*[\]}*]*"
_GALFIT = re.compile(rf"^{_NUMBER}(?:\s*(?:\+/-|±)\s*{_NUMBER})?$")


def read_results(
    path: str | PathLike,
    preset: str | CatalogPreset | None = None,
    *,
    columns: dict[str, str] | None = None,
    pixel_scale: float | None = None,
    zero_point: float | None = None,
    band: str | None = None,
) -> QTable:
    r"""Read a catalogue of results, of galmeasure or of another code.

    Parameters
    ----------
    path : path-like
        FITS, ECSV, CSV, Parquet or VOTable file. With the preset ``"galfit"`` also an output block of GALFIT (its
        header) or its file ``galfit.01``, and with ``"imfit"`` the file of best-fit parameters of imfit.
    preset : str or CatalogPreset, optional
        Conventions of the code, one of `PRESETS` by name; by default the table is galmeasure's own.
    columns : dict of str to str, optional
        Columns of the file, by what they hold (see `CatalogPreset`), that have other names than the preset's.
    pixel_scale : float, optional
        Arcsec per pixel: turns radii in pixels into arcsec, and positions in arcsec into pixels.
    zero_point : float, optional
        Magnitude of a flux of 1: turns magnitudes into fluxes. By default that of GALFIT's files, where they say it.
    band : str, optional
        Band of the flux, where the preset has a column for each.

    Returns
    -------
    `~astropy.table.QTable`
        Columns of a result table as far as they follow from the file: see `convert_results`.

    Raises
    ------
    CatalogError
        If the file cannot be read, or has none of the columns.
    ValueError
        If there is no such preset.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from galmeasure.evaluation import read_results
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "galfit.csv")
    ...     _ = path.write_text("id,mag,re,n,ar,pa\n7,20.0,4.0,1.5,0.25,10\n")
    ...     table = read_results(path, "galfit", zero_point=25.0)
    >>> print(f"{table['r_eff_fit'][0]:.1f} {table['theta'][0]:.0f} {table['flux_fit'][0]:.0f}")
    2.0 pix 100 deg 100
    """
    preset = find_preset(preset)
    table = _read_table(path, preset)
    if preset is None and not columns:
        return table
    how = {"columns": columns, "pixel_scale": pixel_scale, "band": band}
    how["zero_point"] = table.meta.get(ZERO_POINT) if zero_point is None else zero_point
    try:
        result = convert_results(table, preset, **how)
    except ValueError as err:
        msg = f"{path}: {err}"
        raise CatalogError(msg) from err
    if zero_point is None and ZERO_POINT in table.meta:
        result.meta[ZERO_POINT] = table.meta[ZERO_POINT]
    return result


def convert_results(
    table: Table,
    preset: str | CatalogPreset | None = None,
    *,
    to: str | CatalogPreset | None = None,
    columns: dict[str, str] | None = None,
    pixel_scale: float | None = None,
    zero_point: float | None = None,
    band: str | None = None,
) -> QTable:
    """Columns of a result table from those of another code, or the other way round with ``to``.

    Parameters
    ----------
    table : `~astropy.table.Table`
        One row per galaxy: columns of the code that ``preset`` names, or of galmeasure if none is given.
    preset : str or CatalogPreset, optional
        Conventions of the code that wrote the table, one of `PRESETS` by name.
    to : str or CatalogPreset, optional
        Conventions in which to give the columns; by default galmeasure's.
    columns : dict of str to str, optional
        Columns of the table, by what they hold (see `CatalogPreset`), that have other names than the preset's.
    pixel_scale : float, optional
        Arcsec per pixel: turns radii in pixels into arcsec and positions in arcsec into pixels, or back.
    zero_point : float, optional
        Magnitude of a flux of 1: turns magnitudes into fluxes and fluxes into magnitudes.
    band : str, optional
        Band of the flux, where a preset has a column for each.

    Returns
    -------
    `~astropy.table.QTable`
        ``id``, ``x_fit``, ``y_fit``, ``flux_fit``, ``n_fit``, ``r_eff_fit`` (circularised), ``g1_fit``, ``g2_fit``,
        ``r_eff_major``, ``q``, ``theta``, ``mag`` and their ``_err``, ``ra``, ``dec`` and ``pa``, as far as they follow
        from what is there, and ``flags`` where the file marks values. NaN stands for no measurement. With ``to``, the
        columns of that code instead, under the first of its names.

    Raises
    ------
    ValueError
        If there is no such preset, a column or a scale, a zero point or a band that is needed is not there.

    Notes
    -----
    Errors of the circularised radius and of the shear are propagated from those of radius, axis ratio and angle as if
    these were independent; a flux from a surface brightness has no error, and the other way round. Positions in arcsec
    (AstroPhot) are left out without ``pixel_scale``. Angles from north give ``pa``, and ``theta`` for an image with
    north up and east to the left; for the other direction the table must have ``pa``, as with a WCS.

    Examples
    --------
    >>> from astropy.table import Table
    >>> from galmeasure.evaluation import convert_results
    >>> imfit = Table({"n": [1.0], "r_e": [3.0], "ell": [0.5], "PA": [45.0], "I_e": [2.0]})
    >>> table = convert_results(imfit, "imfit")
    >>> print(f"{table['q'][0]:.1f} {table['theta'][0]:.0f} {table['flux_fit'][0]:.1f}")
    0.5 135 deg 107.5
    >>> galfit = convert_results(table, to="galfit", zero_point=25.0)
    >>> print(galfit.colnames, f"{galfit['re'][0]:.1f} {galfit['pa'][0]:.0f} {galfit['mag'][0]:.2f}")
    ['mag', 'n', 're', 'ar', 'pa'] 3.0 pix 45 deg 19.92 mag
    """
    preset, target = find_preset(preset), find_preset(to, "to")
    how = {"pixel_scale": pixel_scale, "zero_point": zero_point, "band": band}
    if preset is not None or columns or to is None:
        table = _in_our_words(table, preset or CatalogPreset(), columns, **how)
    if target is None:
        return table if isinstance(table, QTable) else QTable(table)
    from galmeasure.io.code_exporters import export_results

    return export_results(table, target, code=to if isinstance(to, str) else "the preset", **how)


def _in_our_words(table, preset, columns, *, pixel_scale, zero_point, band):
    """Result table of another code's, see `convert_results`."""
    if columns:
        own_columns = {key: names for key, names in CatalogPreset(columns=columns).columns.items() if key in columns}
        for key, names in own_columns.items():
            if names[0] not in table.colnames:
                msg = f"columns: there is no {names[0]} (for {key}) among {', '.join(table.colnames[:20])}"
                raise ValueError(msg)
        preset = dataclasses.replace(preset, columns={**preset.columns, **own_columns})
    given = _Given(table, preset, pixel_scale, band)
    result = QTable()
    if given.name("id") is not None:
        result["id"] = table[given.name("id")]
    _add_position(result, given, preset)
    _add_flux(result, given, zero_point)
    n = given.values("n")
    _add(result, "n_fit", None if n is None else np.where(n > 0, n, np.nan), given.values("n_err"))
    _add_shape(result, given, preset)
    if not set(result.colnames) - {"id"}:
        msg = f"none of the columns of the preset is there; there are {', '.join(table.colnames[:20])}"
        raise ValueError(msg)
    if given.marked.any():
        result["flags"] = np.where(given.marked, int(Flag.NOT_CONVERGED), 0)
    return result


class _Given:
    """Columns of a table by what they hold."""

    def __init__(self, table, preset, pixel_scale=None, band=None):
        self.table, self.preset, self.pixel_scale, self.band = table, preset, pixel_scale, band
        self.marked = np.zeros(len(table), bool)
        self.lower = {name.lower(): name for name in reversed(table.colnames)}

    def name(self, key):
        """Name of the column that holds something, or None."""
        column = self._find_column(key)
        return None if column is None else column[0]

    def _find_column(self, key):
        """Name of a column and the element of its vectors, None for a column of numbers."""
        for form in self.preset.columns.get(key, ()):
            name = self._with_band(form.lower())
            vector = re.fullmatch(r"(.+)\[(\d)\]", name)
            if name in self.lower:
                return self.lower[name], None
            if vector and vector[1] in self.lower and self.table[self.lower[vector[1]]].ndim == 2:
                return self.lower[vector[1]], int(vector[2])
            if vector and f"{vector[1]}_{vector[2]}" in self.lower:  # as vectors are written to CSV
                return self.lower[f"{vector[1]}_{vector[2]}"], None
        return None

    def _with_band(self, form):
        """Name of a column with its band: the one that is asked for, or the only one."""
        if "{band}" not in form:
            return form
        before, after = form.split("{band}")
        if self.band is not None:
            return f"{before}{self.band.lower()}{after}"
        inner = [re.fullmatch(f"{re.escape(before)}([a-z0-9]+){re.escape(after)}", name) for name in self.lower]
        bands = sorted(match[1] for match in inner if match)
        if len(bands) > 1:
            msg = f"band must be given, there are fluxes in {', '.join(bands)}"
            raise ValueError(msg)
        return f"{before}{bands[0]}{after}" if bands else form

    def unit(self, key):
        """Unit of a column, or None."""
        name = self.name(key)
        unit = None if name is None else self.table[name].unit
        return None if unit is None or unit == u.dimensionless_unscaled else unit

    def radius_unit(self, key="radius"):
        """Unit of the radii."""
        return self.unit(key) or u.Unit(self.preset.radius_unit)

    def values(self, key):
        """Numbers, NaN where there is none; None without the column."""
        column = self._find_column(key)
        if column is None:
            return self._error_otherwise(key.removesuffix("_err")) if key.endswith("_err") else None
        if self.table[column[0]].dtype.kind in "USO":
            return self._from_text(key)[0]
        values = np.ma.filled(np.ma.asarray(self._column(column[0])).astype(float), np.nan)
        values = values if column[1] is None else values[:, column[1]]
        return np.where(np.isin(values, self.preset.sentinels), np.nan, values)

    def _error_otherwise(self, key):
        """Errors that stand beside their values, or follow from an inverse variance."""
        inverse = self.values(f"{key}_ivar")
        if inverse is None:
            return self._from_text(key)[1]
        return 1.0 / np.sqrt(np.where(inverse > 0, inverse, np.nan))

    def _column(self, name):
        column = self.table[name]
        return getattr(column, "value", column)

    def _from_text(self, key):
        """Values and errors of texts such as 3.21 +/- 0.05."""
        name = self.name(key)
        if name is None or self.table[name].dtype.kind not in "USO":
            return None, None
        pairs = [_GALFIT.match(str(cell).strip()) for cell in self._column(name)]
        self.marked |= np.array(["*" in str(cell) for cell in self._column(name)])
        values, errors = (np.array([float(pair[k]) if pair and pair[k] else np.nan for pair in pairs]) for k in (1, 2))
        if not np.isfinite(values).any():
            msg = f"the column {name} must hold numbers"
            raise ValueError(msg)
        return values, errors if np.isfinite(errors).any() else None


def _add(result, name, values, error=None, unit=None):
    """One column and its error, named as in result tables."""
    if values is None:
        return
    result[name] = values if unit is None else u.Quantity(values, unit, copy=False)
    if error is not None:
        base = name.removesuffix("_fit")
        result[f"{base}_err"] = error if unit is None else u.Quantity(error, unit, copy=False)


def _add_position(result, given, preset):
    """Positions in pixels and on the sky."""
    scale = 1.0 if preset.position_unit == "pix" else given.pixel_scale
    for name in ("x", "y"):
        values, error = given.values(name), given.values(f"{name}_err")
        if values is not None and scale is not None:
            _add(result, f"{name}_fit", values / scale - preset.origin, None if error is None else error / scale)
    for name in ("ra", "dec"):
        values = given.values(name)
        if values is not None:
            _add(result, name, values * (given.unit(name) or u.deg).to(u.deg), None, u.deg)


def _add_flux(result, given, zero_point):
    """Flux and magnitude, whichever there is; a surface brightness becomes a flux."""
    mag, mag_err = given.values("mag"), given.values("mag_err")
    flux, flux_err = given.values("flux"), given.values("flux_err")
    unit = given.unit("flux")
    if given.preset.flux_unit and (unit is None or isinstance(unit, u.UnrecognizedUnit)):  # such as nanomaggy
        unit = u.Unit(given.preset.flux_unit)
    with np.errstate(all="ignore"):
        if flux is None and mag is not None and zero_point is not None:
            flux = 10.0 ** (-0.4 * (mag - zero_point))
            flux_err = None if mag_err is None else flux * mag_err / _POGSON
        elif flux is None and given.values("intensity") is not None:
            flux, flux_err = _flux_of_intensity(given), None
        elif mag is None and flux is not None and zero_point is not None:
            positive = np.where(flux > 0, flux, np.nan)
            mag = zero_point - 2.5 * np.log10(positive)
            mag_err = None if flux_err is None else _POGSON * flux_err / positive
    _add(result, "flux_fit", flux, flux_err, unit)
    _add(result, "mag", mag, mag_err, u.mag)


def _flux_of_intensity(given):
    """Flux of a surface brightness at the half-light radius, which is per square of the unit of the preset's radii."""
    n, radius, q = given.values("n"), given.values("radius"), _axis_ratio(given)[0]
    if n is None or radius is None or q is None:
        return None
    unit, preset_unit = given.radius_unit(), u.Unit(given.preset.radius_unit)
    if unit.is_equivalent(u.pix) != preset_unit.is_equivalent(u.pix):
        if given.pixel_scale is None:
            msg = f"pixel_scale must be given: the surface brightness is per {preset_unit}2, the radius in {unit}"
            raise ValueError(msg)
        radius = (radius * unit).to_value(preset_unit, u.pixel_scale(given.pixel_scale * u.arcsec / u.pix))
    else:
        radius = radius * unit.to(preset_unit)
    area = radius**2 * (1.0 if given.preset.circularised else q)
    good = np.where(n > 0, n, np.nan)
    return given.values("intensity") * area * np.exp(sersic_b(good)) / sersic_amplitude(good)


def _axis_ratio(given):
    q, error = given.values("q"), given.values("q_err")
    if q is None and given.values("ellipticity") is not None:
        q, error = 1.0 - given.values("ellipticity"), given.values("ellipticity_err")
    return (None, None) if q is None else (np.where((q > 0) & (q <= 1), q, np.nan), error)


@dataclasses.dataclass
class _Shape:
    """Radius in its unit, axis ratio, angle in degrees from the preset's axis, and their errors."""

    radius: np.ndarray | None
    radius_err: np.ndarray | None
    unit: u.UnitBase
    q: np.ndarray | None
    q_err: np.ndarray | None
    angle: np.ndarray | None
    angle_err: np.ndarray | None
    component_errs: tuple | None = None


def _shape(given, preset):
    """Shape of whatever describes it."""
    if given.name("rho") is not None and given.name("radius_x") is not None and given.name("radius_y") is not None:
        return _shape_of_covariance(given)
    radius, radius_err = given.values("radius"), given.values("radius_err")
    if given.name("e1") is not None and given.name("e2") is not None:
        return _Shape(radius, radius_err, given.radius_unit(), *_shape_of_components(given))
    angle, angle_err = given.values("angle"), given.values("angle_err")
    if angle is not None:
        factor = (given.unit("angle") or u.Unit(preset.angle_unit)).to(u.deg)
        angle, angle_err = angle * factor, None if angle_err is None else angle_err * factor
    return _Shape(radius, radius_err, given.radius_unit(), *_axis_ratio(given), angle, angle_err)


def _shape_of_components(given):
    """Axis ratio and angle of the components of (a - b) / (a + b), and the components' errors."""
    e1, e2, errors = given.values("e1"), given.values("e2"), [given.values(f"e{k}_err") for k in (1, 2)]
    size = np.hypot(e1, e2)
    size = np.where(size < 1, size, np.nan)
    q, angle = (1.0 - size) / (1.0 + size), np.degrees(0.5 * np.arctan2(e2, e1))
    if errors[0] is None or errors[1] is None:
        return q, None, angle, None
    with np.errstate(all="ignore"):
        q_err = 2.0 / (1.0 + size) ** 2 * np.hypot(e1 * errors[0], e2 * errors[1]) / size
        angle_err = np.degrees(0.5 * np.hypot(e2 * errors[0], e1 * errors[1]) / size**2)
    return q, q_err, angle, angle_err, tuple(errors)


def _shape_of_covariance(given):
    """Shape of an ellipse in the form of a covariance; errors as if its three numbers were independent."""
    keys = ("radius_x", "radius_y", "rho")
    values, errors = [given.values(key) for key in keys], [given.values(f"{key}_err") for key in keys]
    good = (np.abs(values[2]) < 1) & (values[0] > 0) & (values[1] > 0)
    values = [np.where(good, column, np.nan) for column in values]
    radius, q, angle = axes_of_covariance(*values)
    radius_err, q_err, angle_err = propagated(axes_of_covariance, values, errors, period=180.0)
    return _Shape(radius, radius_err, given.radius_unit("radius_x"), q, q_err, angle, angle_err)


def _add_shape(result, given, preset):
    """Radii, axis ratio, angle and shear."""
    shape, from_sky = _shape(given, preset), preset.angle_from == "north"
    theta = None
    if shape.angle is not None:
        theta = (shape.angle + (ANGLES["y"] if from_sky else ANGLES[preset.angle_from])) % 180.0
    if shape.radius is not None:
        shape.radius = np.where(shape.radius > 0, shape.radius, np.nan)
        _add_radii(result, shape, preset.circularised, given.pixel_scale)
    if shape.q is not None and theta is not None:
        _add_shear(result, shape, theta)
    _add(result, "q", shape.q, shape.q_err)
    _add(result, "theta", theta, shape.angle_err, u.deg)
    if from_sky and theta is not None:
        _add(result, "pa", shape.angle % 180.0, None, u.deg)


def _add_radii(result, shape, circularised, pixel_scale):
    radius, radius_err, unit, q = shape.radius, shape.radius_err, shape.unit, shape.q
    if unit == u.pix and pixel_scale is not None:
        radius, unit = radius * pixel_scale, u.arcsec
        radius_err = None if radius_err is None else radius_err * pixel_scale
    if q is None:
        _add(result, "r_eff_fit" if circularised else "r_eff_major", radius, radius_err, unit)
        return
    power = -0.5 if circularised else 0.5
    converted, converted_err = radius * q**power, None
    if radius_err is not None:
        from_q = 0.0 if shape.q_err is None else 0.5 * radius * shape.q_err / q
        converted_err = q**power * np.hypot(radius_err, from_q)
    pairs = [(radius, radius_err), (converted, converted_err)]
    major, circular = pairs[::-1] if circularised else pairs
    _add(result, "r_eff_fit", *circular, unit)
    _add(result, "r_eff_major", *major, unit)


def _add_shear(result, shape, theta):
    g1, g2 = g_from_q_theta(shape.q, theta)
    errors = shape.component_errs or shear_errors(shape.q, shape.q_err, theta, shape.angle_err)
    _add(result, "g1_fit", g1, errors[0])
    _add(result, "g2_fit", g2, errors[1])


def _read_table(path, preset):
    """Table of a file, with its units."""
    path = Path(path)
    if not path.is_file():
        msg = f"{path}: no such file"
        raise CatalogError(msg)
    table = read_code_file(path, preset)
    if table is not None:
        return table
    formats = {".csv": "ascii.csv", ".ecsv": "ascii.ecsv", ".parquet": "parquet", ".parq": "parquet"}
    formats |= dict.fromkeys((".vot", ".votable", ".xml"), "votable")
    chosen = formats.get(path.suffix.lower())
    if chosen == "votable":
        checked_votable(path)
    try:
        table = Table.read(path) if chosen is None else Table.read(path, format=chosen)
    except Exception as err:  # astropy's readers raise nearly everything
        msg = f"{path}: cannot be read as a table ({' '.join(str(err).split())[:200]})"
        raise CatalogError(msg) from err
    if not len(table):
        msg = f"{path}: no rows"
        raise CatalogError(msg)
    return QTable(table, copy=False)
