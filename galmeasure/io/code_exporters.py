"""Result tables in the conventions of other codes: the inverse of reading their catalogues."""

import numpy as np
from astropy import units as u
from astropy.table import QTable, Table

from galmeasure.io.code_presets import ANGLES, CatalogPreset
from galmeasure.io.ellipses import covariance_of_axes, propagated, shear_errors
from galmeasure.parameters import g_to_q_theta
from galmeasure.render.profiles import sersic_amplitude, sersic_b
from galmeasure.results.derived import ab_zero_point

__all__ = ["export_results"]

_POGSON = 2.5 / np.log(10.0)
_SQUARE = 1e-3
"""Difference of axis ratios in pixels and on the sky from which the pixels are not square."""
_NORTH = 0.1
"""Degrees from north up within which the errors of the components of the shape are those in pixels."""


def export_results(
    table: Table,
    preset: CatalogPreset,
    *,
    code: str,
    pixel_scale: float | None = None,
    zero_point: float | None = None,
    band: str | None = None,
) -> QTable:
    """Columns of another code from those of a result table.

    Parameters
    ----------
    table : `~astropy.table.Table`
        Result table, as fitters and `~galmeasure.evaluation.convert_results` give it.
    preset : CatalogPreset
        Conventions in which to give the columns.
    code : str
        Name of the code, for the messages of errors.
    pixel_scale : float, optional
        Arcsec per pixel, where one side has pixels and the other arcsec.
    zero_point : float, optional
        Magnitude of a flux of 1, where one side has magnitudes and the other fluxes.
    band : str, optional
        Band of the flux, where the preset has a column for each.

    Returns
    -------
    `~astropy.table.QTable`
        One row per row of the table, in the same order.

    Raises
    ------
    ValueError
        If a scale, a zero point, a band or an angle on the sky is needed and is not there, or nothing is.
    """
    writer = _Writer(table, preset, code, pixel_scale, zero_point, band)
    if "id" in table.colnames:
        writer.catalog[preset.columns["id"][0]] = table["id"]
    writer.position()
    with np.errstate(all="ignore"):
        shape = _Shape(writer)
        writer.light(shape)
        writer.put("n", writer.numbers("n_fit"), writer.numbers("n_err"))
        writer.shape(shape)
    if not set(writer.catalog.colnames) - {preset.columns["id"][0]}:
        msg = f"the table must have columns of galmeasure, not {', '.join(table.colnames[:20])}"
        raise ValueError(msg)
    return writer.catalog


class _Writer:
    """Writes columns under the names and in the units of a preset."""

    def __init__(self, table, preset, code, pixel_scale, zero_point, band):
        self.table, self.preset, self.code, self.band = table, preset, code, band
        self.pixel_scale, self.zero_point = pixel_scale, zero_point
        self.catalog = QTable()

    def has(self, key):
        """Whether the code has a column of this."""
        return key in self.preset.columns

    def numbers(self, name, unit=None):
        """Numbers of our column, NaN where there is none, in a unit if the column has one; None without it."""
        if name not in self.table.colnames:
            return None
        column = self.table[name]
        values = np.ma.filled(np.ma.asarray(getattr(column, "value", column)).astype(float), np.nan)
        if unit is None or self.unit(name) is None:
            return values
        return values * self.unit(name).to(unit)

    def unit(self, name):
        """Unit of our column, or None."""
        unit = self.table[name].unit if name in self.table.colnames else None
        return None if unit is None or unit == u.dimensionless_unscaled else unit

    def length(self, name, unit):
        """Numbers of our column of radii, in the unit of the code."""
        values, column_unit = self.numbers(name), self.unit(name) or u.pix
        if values is None or column_unit.is_equivalent(unit):
            return values if values is None else values * column_unit.to(unit)
        if self.pixel_scale is None:
            msg = f"pixel_scale must be given: {self.code} has radii in {unit}, and {name} is in {column_unit}"
            raise ValueError(msg)
        return (values * column_unit).to_value(unit, u.pixel_scale(float(self.pixel_scale) * u.arcsec / u.pix))

    def put(self, key, values, error=None, unit=None):
        """One column and its error, as far as the code has them."""
        if values is None or not self.has(key):
            return
        self._put(key, values, unit)
        if error is None:
            return
        if self.has(f"{key}_err"):
            self._put(f"{key}_err", error, unit)
        elif self.has(f"{key}_ivar"):
            inverse = np.where(np.isfinite(error) & (error > 0), 1.0 / np.square(error), 0.0)
            self._put(f"{key}_ivar", inverse, None if unit is None else unit**-2)

    def _put(self, key, values, unit):
        name = self.preset.columns[key][0]
        if "{band}" in name:
            name = name.replace("{band}", self._band(name))
        if name.endswith("]"):  # an element of a vector of two
            name, k = name[:-3], int(name[-2])
            if name not in self.catalog.colnames:
                self.catalog[name] = np.full((len(values), 2), np.nan) * (1.0 if unit is None else unit)
            self.catalog[name][:, k] = values if unit is None else values * unit
            return
        self.catalog[name] = values if unit is None else u.Quantity(values, unit)

    def _band(self, name):
        if self.band is None:
            msg = f"band must be given: {self.code} names fluxes {name.replace('{band}', '<band>')}"
            raise ValueError(msg)
        return self.band.upper() if name.replace("{band}", "").isupper() else self.band

    def position(self):
        """Positions in pixels and on the sky."""
        in_pixels = self.preset.position_unit == "pix"
        scale = 1.0 if in_pixels else self.pixel_scale
        for name in ("x", "y"):
            values, error = self.numbers(f"{name}_fit"), self.numbers(f"{name}_err")
            if values is None or not self.has(name):
                continue
            if scale is None:
                msg = f"pixel_scale must be given: {self.code} has positions in arcsec"
                raise ValueError(msg)
            error = None if error is None else error * scale
            self.put(name, (values + self.preset.origin) * scale, error, None if in_pixels else u.arcsec)
        for name in ("ra", "dec"):
            self.put(name, self.numbers(name, u.deg), None, u.deg)

    def light(self, shape):
        """Flux, magnitude or surface brightness, whichever the code has."""
        if self.has("flux"):
            self.put("flux", *self._flux())
        elif self.has("mag"):
            self.put("mag", *self._magnitude(), u.mag)
        elif self.has("intensity"):
            n, flux = self.numbers("n_fit"), self._flux()[0]
            if n is None or flux is None or shape.radius is None or shape.q is None:
                return
            area = shape.radius**2 * (1.0 if self.preset.circularised else shape.q)
            n = np.where(n > 0, n, np.nan)
            self.put("intensity", flux * sersic_amplitude(n) * np.exp(-sersic_b(n)) / area)

    def _flux(self):
        """Flux, its error and its unit, those that the code wants where it wants some."""
        flux, error, unit = self.numbers("flux_fit"), self.numbers("flux_err"), self.unit("flux_fit")
        if flux is None:
            mag, mag_err = self.numbers("mag"), self.numbers("mag_err")
            if mag is None:
                return None, None, None
            if self.zero_point is None and not self.preset.flux_unit:
                msg = f"zero_point must be given: {self.code} has fluxes, the table has magnitudes"
                raise ValueError(msg)
            flux = 10.0 ** (-0.4 * (mag - (self.zero_point or 0.0)))
            error = None if mag_err is None else flux * mag_err / _POGSON
            unit = None if self.zero_point is not None else 3631.0 * u.Jy  # AB magnitudes
        if not self.preset.flux_unit:
            return flux, error, unit
        flux_unit = u.Unit(self.preset.flux_unit)
        zero_point = ab_zero_point(unit, self.pixel_scale) if unit is not None else self.zero_point
        zero_point = self.zero_point if zero_point is None else zero_point
        if zero_point is None:
            msg = f"zero_point must be given: {self.code} has fluxes in {flux_unit}, and flux_fit is in {unit}"
            raise ValueError(msg)
        factor = 10.0 ** (-0.4 * (zero_point - ab_zero_point(flux_unit, None))) if unit != flux_unit else 1.0
        return flux * factor, None if error is None else error * factor, flux_unit

    def _magnitude(self):
        """Magnitude and its error."""
        mag, error = self.numbers("mag"), self.numbers("mag_err")
        flux, flux_err = self.numbers("flux_fit"), self.numbers("flux_err")
        if flux is None or (self.zero_point is None and mag is not None):
            return mag, error
        if self.zero_point is None:
            msg = f"zero_point must be given: {self.code} has magnitudes, the table has fluxes"
            raise ValueError(msg)
        positive = np.where(flux > 0, flux, np.nan)
        return self.zero_point - 2.5 * np.log10(positive), None if flux_err is None else _POGSON * flux_err / positive

    def shape(self, shape):
        """Radius, axis ratio and angle in the form of the code."""
        unit = u.Unit(self.preset.radius_unit)
        self.put("radius", shape.radius, shape.radius_err, unit)
        if shape.q is None:
            return
        self.put("q", shape.q, shape.q_err)
        self.put("ellipticity", 1.0 - shape.q, shape.q_err)
        if shape.angle is None:
            return
        to = u.Unit(self.preset.angle_unit)
        factor = u.deg.to(to)
        angle_err = None if shape.angle_err is None else shape.angle_err * factor
        self.put("angle", shape.angle * factor, angle_err, to)
        if self.has("e1"):
            self._components(shape)
        if self.has("rho") and shape.radius is not None:
            self._covariance(shape, unit)

    def _components(self, shape):
        """Components of (a - b) / (a + b), with angles from where the angle of the code counts."""
        size, twice = (1.0 - shape.q) / (1.0 + shape.q), 2.0 * np.radians(shape.angle)
        errors = [self.numbers("g1_err"), self.numbers("g2_err")]
        propagated_errors = shear_errors(shape.q, shape.q_err, shape.angle, shape.angle_err)
        for k, (error, propagated_error) in enumerate(zip(errors, propagated_errors, strict=True)):
            if error is not None and propagated_error is not None:
                errors[k] = np.where(shape.square & shape.north_up, error, propagated_error)
            elif error is None or not (shape.square & shape.north_up).all():
                errors[k] = propagated_error
        self.put("e1", size * np.cos(twice), errors[0])
        self.put("e2", size * np.sin(twice), errors[1])

    def _covariance(self, shape, unit):
        """Ellipse of half of the light as a covariance."""
        axes = (shape.radius, shape.q, shape.angle)
        components = covariance_of_axes(*axes)
        errors = propagated(covariance_of_axes, axes, (shape.radius_err, shape.q_err, shape.angle_err))
        for key, values, error in zip(("radius_x", "radius_y", "rho"), components, errors, strict=True):
            self.put(key, values, error, None if key == "rho" else unit)


class _Shape:
    """Radius, axis ratio and angle in degrees in the frame and the units of a code, with their errors.

    Codes that work on pixels get the ellipse in the frame of the pixels, which the circularised radius and the shear
    describe; those that give angles from north get the one on the sky. Where pixels are not square the two differ, and
    the errors of the one are not those of the other.
    """

    def __init__(self, writer):
        preset, numbers = writer.preset, writer.numbers
        unit = u.Unit(preset.radius_unit)
        q, theta = numbers("q"), numbers("theta", u.deg)
        g1, g2 = numbers("g1_fit"), numbers("g2_fit")
        major = circular = None
        if {"radius", "radius_x", "intensity"} & set(preset.columns):
            major, circular = writer.length("r_eff_major", unit), writer.length("r_eff_fit", unit)
        self.square = np.ones(len(writer.table), bool)
        if g1 is not None and g2 is not None:
            q_pixels, theta_pixels = g_to_q_theta(g1, g2)
            self.square = np.abs(q_pixels - (q_pixels if q is None else q)) < _SQUARE
            if preset.angle_from != "north" or q is None:
                q, theta = q_pixels, theta_pixels
                major = circular / np.sqrt(q) if circular is not None else major
        if major is None and circular is not None and q is not None:
            major = circular / np.sqrt(q)
        if circular is None and major is not None and q is not None:
            circular = major * np.sqrt(q)
        self.q, self.radius = q, circular if preset.circularised else major
        # where north is up and east to the left, the components on the sky are those of the pixels but for the sign
        pa = numbers("pa", u.deg)
        turned = np.nan if pa is None or theta is None else (theta - pa) % 180.0 - 90.0
        self.north_up = np.abs(turned) < _NORTH
        keep = np.where(self.square | (preset.angle_from == "north"), 1.0, np.nan)
        error = "r_eff_err" if preset.circularised else "r_eff_major_err"
        radius_err = None if self.radius is None else writer.length(error, unit)
        errors = (radius_err, numbers("q_err"), numbers("theta_err", u.deg))
        self.radius_err, self.q_err, self.angle_err = (None if sigma is None else sigma * keep for sigma in errors)
        if preset.angle_from == "north":
            self.angle = pa
            shapes = {"angle", "e1", "e2"} & set(preset.columns)
            if self.angle is None and theta is not None and shapes:
                msg = f"the table must have pa: {writer.code} has angles from north, and theta is one in pixels"
                raise ValueError(msg)
        else:
            self.angle = None if theta is None else (theta - ANGLES[preset.angle_from]) % 180.0
