"""Results of other codes in our words: their columns, their radii, angles, magnitudes and first pixels."""

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.table import QTable, Table

from galmeasure.exceptions import CatalogError
from galmeasure.flags import Flag
from galmeasure.parameters import g_from_q_theta
from galmeasure.render.profiles import sersic_amplitude, sersic_b

__all__ = ["PRESETS", "CatalogPreset", "convert_results", "read_results"]

QUANTITIES = (
    "id",
    "x",
    "y",
    "flux",
    "mag",
    "intensity",
    "n",
    "radius",
    "q",
    "ellipticity",
    "angle",
)
"""What a column of a catalogue may hold; with ``_err`` its error."""

_IDS = ("id", "number", "source_id", "label")
_ANGLES = {"x": 0.0, "y": 90.0}
_POGSON = 2.5 / np.log(10.0)
_NUMBER = r"[\[{*]*\s*([-+.\deE]+|nan|inf)\s*[\]}*]*"
_GALFIT = re.compile(rf"^{_NUMBER}(?:\s*(?:\+/-|±)\s*{_NUMBER})?$")


@dataclass(frozen=True, kw_only=True)
class CatalogPreset:
    """How a code writes its results.

    Parameters
    ----------
    columns : dict of str to tuple of str
        Names that a column may have, the first one found counts, without regard to case; by what it holds: ``id``
        (by default id, number, source_id or label), ``x``, ``y``, ``flux`` (of the whole model) or ``mag`` or
        ``intensity`` (surface brightness per pixel at the half-light radius), ``n``, ``radius``, ``q`` or
        ``ellipticity`` (1 - q), ``angle``; each with ``_err``.
    origin : float, optional
        Coordinate of the centre of the first pixel: 0 or 1.
    circularised : bool, optional
        Whether ``radius`` is circularised; otherwise it is that of the major axis.
    angle_from : {"x", "y"}, optional
        Axis from which ``angle`` counts, counter-clockwise.
    angle_unit : {"deg", "rad"}, optional
        Unit of ``angle`` where the column has none.
    sentinels : tuple of float, optional
        Numbers that stand for no measurement.
    description : str, optional
        What is assumed.

    Raises
    ------
    ValueError
        If a field is not one of the choices.

    Examples
    --------
    >>> from galmeasure.evaluation import CatalogPreset
    >>> preset = CatalogPreset(columns={"n": ("sersic",), "radius": ("hlr",)}, circularised=True)
    >>> preset.angle_from
    'x'
    """

    columns: dict = field(default_factory=dict)
    origin: float = 0.0
    circularised: bool = False
    angle_from: str = "x"
    angle_unit: str = "deg"
    sentinels: tuple = ()
    description: str = ""

    def __post_init__(self):
        """Check the fields."""
        for name, choices in (("angle_from", tuple(_ANGLES)), ("angle_unit", ("deg", "rad"))):
            if getattr(self, name) not in choices:
                msg = f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}"
                raise ValueError(msg)
        unknown = {name.removesuffix("_err") for name in self.columns} - set(QUANTITIES)
        if unknown:
            msg = (
                f"columns must be named {', '.join(QUANTITIES)}, each also with _err, not {', '.join(sorted(unknown))}"
            )
            raise ValueError(msg)
        names = {key: (each,) if isinstance(each, str) else tuple(each) for key, each in self.columns.items()}
        names.setdefault("id", _IDS)
        object.__setattr__(self, "columns", names)


def _columns(error, **names):
    """Names of columns and of their errors; ``error`` says how these are named after them."""
    found = dict(names)
    for key, each in names.items():
        stems = [(name, name.removesuffix("_galfit")) for name in each]
        found[f"{key}_err"] = tuple(form.format(name, stem=stem) for name, stem in stems for form in error)
    return found


PRESETS = {
    "galfit": CatalogPreset(
        columns=_columns(
            ("{}_err", "e_{}", "{stem}err_galfit"),
            x=("xc", "x", "1_xc", "x_galfit"),
            y=("yc", "y", "1_yc", "y_galfit"),
            mag=("mag", "1_mag", "mag_galfit"),
            n=("n", "1_n", "n_galfit"),
            radius=("re", "r_e", "1_re", "re_galfit"),
            q=("ar", "q", "b/a", "1_ar", "q_galfit"),
            angle=("pa", "1_pa", "pa_galfit"),
        ),
        origin=1.0,
        angle_from="y",
        sentinels=(-99.0, -999.0),
        description="GALFIT 3 and GALAPAGOS: magnitude of the whole model, semi-major R_e in pixels, b/a, PA in "
        "degrees from +y, the first pixel is 1. Cells may be texts as in its headers, 3.21 +/- 0.05, where asterisks "
        "mark what did not converge",
    ),
    "imfit": CatalogPreset(
        columns=_columns(
            ("{}_err", "{}_error"),
            x=("X0",),
            y=("Y0",),
            intensity=("I_e",),
            n=("n",),
            radius=("r_e",),
            ellipticity=("ell",),
            angle=("PA",),
        ),
        origin=1.0,
        angle_from="y",
        description="imfit's Sersic function: I_e per pixel at the semi-major r_e in pixels, ellipticity 1 - b/a, PA "
        "in degrees from +y, the first pixel is 1",
    ),
    "pysersic": CatalogPreset(
        columns=_columns(
            ("{}_err", "{}_std", "{}_sd"),
            x=("xc",),
            y=("yc",),
            flux=("flux",),
            n=("n",),
            radius=("r_eff",),
            ellipticity=("ellip",),
            angle=("theta",),
        ),
        angle_from="y",
        angle_unit="rad",
        description="pysersic 0.1.5: flux of the whole model, semi-major r_eff in pixels, ellipticity 1 - b/a, theta "
        "in radians from +y (in earlier releases from +x: use angle_from='x'), the first pixel is 0",
    ),
    "statmorph": CatalogPreset(
        columns=_columns(
            ("{}_err",),
            x=("sersic_xc",),
            y=("sersic_yc",),
            intensity=("sersic_amplitude",),
            n=("sersic_n",),
            radius=("sersic_rhalf",),
            ellipticity=("sersic_ellip",),
            angle=("sersic_theta",),
        ),
        angle_unit="rad",
        sentinels=(-99.0,),
        description="statmorph's Sersic fit: surface brightness at the semi-major half-light radius in pixels, "
        "ellipticity 1 - b/a, theta in radians from +x, the first pixel is 0, -99 for none",
    ),
    "sourcextractor++": CatalogPreset(
        columns=_columns(
            ("{}_err",),
            x=("x", "model_x"),
            y=("y", "model_y"),
            flux=("flux", "model_flux"),
            mag=("mag", "model_mag"),
            n=("sersic_index", "sersic", "n"),
            radius=("effective_radius", "radius", "rad"),
            q=("aspect_ratio", "ratio"),
            angle=("angle",),
        ),
        origin=1.0,
        angle_unit="rad",
        description="SourceXtractor++'s Sersic model: flux of the whole model, semi-major effective radius in pixels, "
        "aspect ratio b/a, angle in radians from +x, the first pixel is 1. Its users name the columns: these are the "
        "names of the parameters, and those of the Euclid Morphology Challenge",
    ),
}  # fmt: skip
"""Conventions of other codes, see :doc:`/conventions`; ``description`` says what is assumed."""


def read_results(path, preset=None, *, columns=None, pixel_scale=None, zero_point=None):
    r"""Read a catalogue of results, of galmeasure or of another code.

    Parameters
    ----------
    path : path-like
        FITS, ECSV, CSV, Parquet or VOTable.
    preset : str or CatalogPreset, optional
        Conventions of the code, one of `PRESETS` by name; by default the table is galmeasure's own.
    columns : dict of str to str, optional
        Columns of the file, by what they hold (see `CatalogPreset`), that have other names than the preset's.
    pixel_scale : float, optional
        Arcsec per pixel: turns radii in pixels into arcsec.
    zero_point : float, optional
        Magnitude of a flux of 1: turns magnitudes into fluxes.

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
    preset = _preset(preset)
    table = _read_table(path)
    if preset is None and not columns:
        return table
    try:
        return convert_results(table, preset, columns=columns, pixel_scale=pixel_scale, zero_point=zero_point)
    except ValueError as err:
        msg = f"{path}: {err}"
        raise CatalogError(msg) from err


def convert_results(table, preset=None, *, columns=None, pixel_scale=None, zero_point=None):
    """Columns of a result table from those of another code.

    Parameters
    ----------
    table : `~astropy.table.Table`
        One row a galaxy.
    preset, columns, pixel_scale, zero_point
        See `read_results`.

    Returns
    -------
    `~astropy.table.QTable`
        ``id``, ``x_fit``, ``y_fit``, ``flux_fit``, ``n_fit``, ``r_eff_fit`` (circularised), ``g1_fit``, ``g2_fit``,
        ``r_eff_major``, ``q``, ``theta``, ``mag`` and their ``_err``, as far as they follow from what is there, and
        ``flags`` where the file marks values. NaN stands for no measurement.

    Raises
    ------
    ValueError
        If there is no such preset, a column is not there, or nothing is.

    Notes
    -----
    Errors of the circularised radius and of the shear are propagated from those of radius, axis ratio and angle as if
    these were independent; a flux from a surface brightness has no error.

    Examples
    --------
    >>> from astropy.table import Table
    >>> from galmeasure.evaluation import convert_results
    >>> imfit = Table({"n": [1.0], "r_e": [3.0], "ell": [0.5], "PA": [45.0], "I_e": [2.0]})
    >>> table = convert_results(imfit, "imfit")
    >>> print(f"{table['q'][0]:.1f} {table['theta'][0]:.0f} {table['flux_fit'][0]:.1f}")
    0.5 135 deg 107.5
    """
    preset = _preset(preset) or CatalogPreset()
    if columns:
        own = {key: names for key, names in CatalogPreset(columns=columns).columns.items() if key in columns}
        for key, names in own.items():
            if names[0] not in table.colnames:
                msg = f"columns: there is no {names[0]} (for {key}) among {', '.join(table.colnames[:20])}"
                raise ValueError(msg)
        preset = dataclasses.replace(preset, columns={**preset.columns, **own})
    given = _Given(table, preset)
    found = QTable()
    if given.name("id") is not None:
        found["id"] = table[given.name("id")]
    _add_position(found, given, preset)
    _add_flux(found, given, zero_point)
    _add(found, "n_fit", given.values("n"), given.values("n_err"))
    _add_shape(found, given, preset, pixel_scale)
    if not set(found.colnames) - {"id"}:
        msg = f"none of the columns of the preset is there; there are {', '.join(table.colnames[:20])}"
        raise ValueError(msg)
    if given.marked.any():
        found["flags"] = np.where(given.marked, int(Flag.NOT_CONVERGED), 0)
    return found


class _Given:
    """Columns of a table by what they hold."""

    def __init__(self, table, preset):
        self.table, self.preset = table, preset
        self.marked = np.zeros(len(table), bool)
        self.lower = {name.lower(): name for name in reversed(table.colnames)}

    def name(self, key):
        """Name of the column that holds something, or None."""
        return next((self.lower[n.lower()] for n in self.preset.columns.get(key, ()) if n.lower() in self.lower), None)

    def unit(self, key):
        """Unit of a column, or None."""
        name = self.name(key)
        return None if name is None else self.table[name].unit

    def values(self, key):
        """Numbers, NaN where there is none; None without the column."""
        name = self.name(key)
        if name is None:
            return self._from_text(key.removesuffix("_err"))[1] if key.endswith("_err") else None
        if self.table[name].dtype.kind in "USO":
            return self._from_text(key)[0]
        values = np.ma.filled(np.ma.asarray(self._column(name)).astype(float), np.nan)
        return np.where(np.isin(values, self.preset.sentinels), np.nan, values)

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


def _preset(preset):
    if preset is None or isinstance(preset, CatalogPreset):
        return preset
    if not isinstance(preset, str) or preset.lower() not in (*PRESETS, "galmeasure"):
        msg = f"preset must be one of {', '.join(PRESETS)}, galmeasure, or a CatalogPreset, not {preset!r}"
        raise ValueError(msg)
    return PRESETS.get(preset.lower())


def _add(found, name, values, error=None, unit=None):
    """One column and its error, named as in result tables."""
    if values is None:
        return
    found[name] = values if unit is None else u.Quantity(values, unit, copy=False)
    if error is not None:
        base = name.removesuffix("_fit")
        found[f"{base}_err"] = error if unit is None else u.Quantity(error, unit, copy=False)


def _add_position(found, given, preset):
    for name in ("x", "y"):
        values = given.values(name)
        if values is not None:
            _add(found, f"{name}_fit", values - preset.origin, given.values(f"{name}_err"))


def _add_flux(found, given, zero_point):
    """Flux and magnitude, whichever there is; a surface brightness becomes a flux."""
    mag, mag_err = given.values("mag"), given.values("mag_err")
    flux, flux_err, unit = given.values("flux"), given.values("flux_err"), given.unit("flux")
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
    _add(found, "flux_fit", flux, flux_err, unit)
    _add(found, "mag", mag, mag_err, u.mag)


def _flux_of_intensity(given):
    """Flux of a surface brightness at the half-light radius."""
    n, radius, q = given.values("n"), given.values("radius"), _axis_ratio(given)[0]
    if n is None or radius is None or q is None:
        return None
    area = radius**2 * (1.0 if given.preset.circularised else q)
    good = np.where(n > 0, n, np.nan)
    return given.values("intensity") * area * np.exp(sersic_b(good)) / sersic_amplitude(good)


def _axis_ratio(given):
    q, error = given.values("q"), given.values("q_err")
    if q is None and given.values("ellipticity") is not None:
        q, error = 1.0 - given.values("ellipticity"), given.values("ellipticity_err")
    return (None, None) if q is None else (np.where((q > 0) & (q <= 1), q, np.nan), error)


def _add_shape(found, given, preset, pixel_scale):
    """Radii, axis ratio, angle and shear."""
    q, q_err = _axis_ratio(given)
    angle, angle_err = given.values("angle"), given.values("angle_err")
    if angle is not None:
        unit = given.unit("angle") or u.Unit(preset.angle_unit)
        angle = (angle * unit.to(u.deg) + _ANGLES[preset.angle_from]) % 180.0
        angle_err = None if angle_err is None else angle_err * unit.to(u.deg)
    radius, radius_err = given.values("radius"), given.values("radius_err")
    if radius is not None:
        _add_radii(found, given, preset, pixel_scale, np.where(radius > 0, radius, np.nan), radius_err, q, q_err)
    if q is not None and angle is not None:
        _add_shear(found, q, q_err, angle, angle_err)
    _add(found, "q", q, q_err)
    _add(found, "theta", angle, angle_err, u.deg)


def _add_radii(found, given, preset, pixel_scale, radius, radius_err, q, q_err):
    unit = given.unit("radius")
    unit = u.pix if unit is None or unit == u.dimensionless_unscaled else unit
    if unit == u.pix and pixel_scale is not None:
        radius, unit = radius * pixel_scale, u.arcsec
        radius_err = None if radius_err is None else radius_err * pixel_scale
    if q is None:
        _add(found, "r_eff_fit" if preset.circularised else "r_eff_major", radius, radius_err, unit)
        return
    power = -0.5 if preset.circularised else 0.5
    other, other_err = radius * q**power, None
    if radius_err is not None:
        part = 0.0 if q_err is None else 0.5 * radius * q_err / q
        other_err = q**power * np.hypot(radius_err, part)
    pairs = [(radius, radius_err), (other, other_err)]
    major, circular = pairs[::-1] if preset.circularised else pairs
    _add(found, "r_eff_fit", *circular, unit)
    _add(found, "r_eff_major", *major, unit)


def _add_shear(found, q, q_err, angle, angle_err):
    g1, g2 = g_from_q_theta(q, angle)
    errors = (None, None)
    if q_err is not None and angle_err is not None:
        along, across = 2.0 * q_err / (1.0 + q) ** 2, 2.0 * np.hypot(g1, g2) * np.radians(angle_err)
        cos, sin = np.cos(2 * np.radians(angle)), np.sin(2 * np.radians(angle))
        errors = np.hypot(cos * along, sin * across), np.hypot(sin * along, cos * across)
    _add(found, "g1_fit", g1, errors[0])
    _add(found, "g2_fit", g2, errors[1])


def _read_table(path):
    """Table of a file, with its units."""
    path = Path(path)
    if not path.is_file():
        msg = f"{path}: no such file"
        raise CatalogError(msg)
    formats = {".csv": "ascii.csv", ".ecsv": "ascii.ecsv", ".parquet": "parquet", ".vot": "votable", ".xml": "votable"}
    chosen = formats.get(path.suffix.lower())
    try:
        table = Table.read(path) if chosen is None else Table.read(path, format=chosen)
    except Exception as err:  # astropy's readers raise nearly everything
        msg = f"{path}: cannot be read as a table ({' '.join(str(err).split())[:200]})"
        raise CatalogError(msg) from err
    if not len(table):
        msg = f"{path}: no rows"
        raise CatalogError(msg)
    return QTable(table, copy=False)
