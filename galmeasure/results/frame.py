"""Conversion between stamp pixels and the units of result tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from astropy import units as u

from galmeasure.parameters import PARAMETERS

if TYPE_CHECKING:
    import numpy.typing as npt

    from galmeasure.cutouts import Cutouts

__all__ = ["Frame", "convert", "plain_numbers"]

_KIND = {parameter.name: parameter.kind for parameter in PARAMETERS}
_KIND |= {"r_eff_major": "length", "psf_fwhm": "length"}


@dataclass(frozen=True, eq=False)
class Frame:
    """Flux unit, pixel scale and origin of a set of cutouts.

    Fitters work in stamp pixels and in the flux unit of the pixels. Tables have lengths in arcsec where the pixel
    scale is known, and positions in pixels of the image from which the stamps were cut.

    Parameters
    ----------
    unit : `~astropy.units.UnitBase` or None
        Unit of the pixels, and of fluxes; None if they have none.
    pixel_scale : ndarray or None
        Arcsec per pixel, shape ``(N,)`` or scalar; None if it is not known.
    origin : ndarray
        Position (x, y) of the first pixel of each stamp in the parent image, shape ``(N, 2)``.

    Examples
    --------
    >>> import numpy as np
    >>> from galmeasure.results.frame import Frame
    >>> frame = Frame(None, np.array([0.2]), np.array([[100, 40]]))
    >>> print(frame.column("r_eff", np.array([5.0])), frame.column("x", np.array([15.5])))
    [1.] arcsec [115.5]
    >>> print(frame.values("r_eff", [1.0]), frame.values("x", [115.5]))
    [5.] [15.5]
    """

    unit: u.UnitBase | None
    pixel_scale: npt.NDArray[np.float64] | None
    origin: npt.NDArray[np.int64]

    @classmethod
    def of(cls, cutouts: Cutouts) -> Frame:
        """Return the frame of cutouts.

        Parameters
        ----------
        cutouts : Cutouts
            Cutouts whose unit, pixel scale and origin are used.

        Returns
        -------
        Frame
            Frame of the cutouts.
        """
        return cls(cutouts.unit, cutouts.pixel_scale, cutouts.origin)

    @property
    def length_unit(self) -> u.UnitBase:
        """Unit of lengths in tables: arcsec, or pixels where no scale is known."""
        return u.pix if self.pixel_scale is None else u.arcsec

    def unit_of(self, name: str) -> u.UnitBase | None:
        """Return the unit of a parameter's column.

        Parameters
        ----------
        name : str
            Name of one of the seven parameters, or ``"r_eff_major"`` or ``"psf_fwhm"``.

        Returns
        -------
        UnitBase or None
            Unit; None for positions and numbers.
        """
        return {"flux": self.unit, "length": self.length_unit}.get(_KIND[name])

    def scale(self, name: str) -> npt.NDArray[np.float64]:
        """Return the factor from stamp pixels to table units.

        Parameters
        ----------
        name : str
            Name of a parameter, see `unit_of`.

        Returns
        -------
        ndarray, shape (N,)
            Table units per pixel for lengths, 1 for everything else.
        """
        if _KIND[name] == "length" and self.pixel_scale is not None:
            return self.pixel_scale
        return np.ones(len(self.origin))

    def numbers(
        self, name: str, values: npt.NDArray[np.float64], *, difference: bool = False
    ) -> npt.NDArray[np.float64]:
        """Convert values in stamp pixels to numbers in table units.

        Parameters
        ----------
        name : str
            Name of a parameter, see `unit_of`.
        values : ndarray, shape (N, ...)
            Values in stamp pixels and in the flux unit of the pixels.
        difference : bool, optional
            True for errors and other differences, to which the origin is not added. Default False.

        Returns
        -------
        ndarray
            Numbers of the same shape.
        """
        offset = self.origin[:, _axis(name)] if _KIND[name] == "position" and not difference else np.zeros(1)
        return values * _per_row(self.scale(name), values) + _per_row(offset, values)

    def column(
        self, name: str, values: npt.NDArray[np.float64], *, difference: bool = False
    ) -> npt.NDArray[np.float64] | u.Quantity:
        """Convert values in stamp pixels to a column of a table.

        Parameters
        ----------
        name, values, difference
            Same arguments as those of `numbers`.

        Returns
        -------
        Quantity or ndarray
            The numbers with their unit, or plain where the parameter has none.
        """
        numbers, unit = self.numbers(name, values, difference=difference), self.unit_of(name)
        return numbers if unit is None else u.Quantity(numbers, unit, copy=False)

    def values(
        self, name: str, column: npt.ArrayLike | u.Quantity, argument: str = "column"
    ) -> npt.NDArray[np.float64]:
        """Convert a column of a table to stamp pixels and the flux unit of the pixels.

        Parameters
        ----------
        name : str
            Name of a parameter, see `unit_of`.
        column : array_like or Quantity
            Numbers ``(N, ...)``, or one for all rows; in table units where they carry none. Masked ones become NaN.
        argument : str, optional
            Name that messages give to the column.

        Returns
        -------
        ndarray
            Values in stamp pixels.

        Raises
        ------
        TypeError
            If the column does not hold real numbers.
        ValueError
            If its unit does not convert to that of the frame.
        """
        unit = getattr(column, "unit", None)
        if unit is not None:
            values = self._without_unit(name, u.Quantity(column, unit), argument)
        elif _KIND[name] == "length" and self.pixel_scale is not None:
            values = plain_numbers(column, argument)
            values = values / _per_row(self.pixel_scale, values)
        else:
            values = column
        values = plain_numbers(values, argument)
        return values - _per_row(self.origin[:, _axis(name)], values) if _KIND[name] == "position" else values

    def _without_unit(self, name: str, values: u.Quantity, argument: str) -> npt.NDArray[np.float64]:
        """Convert a quantity to stamp pixels, the unit of the pixels, or a plain number."""
        kind = _KIND[name]
        try:
            if kind == "flux":
                return values.to_value(u.dimensionless_unscaled if self.unit is None else self.unit)
            if kind in ("length", "position") and values.unit.is_equivalent(u.pix):
                return values.to_value(u.pix)
            if kind == "length" and self.pixel_scale is not None:
                return values.to_value(u.arcsec) / _per_row(self.pixel_scale, values)
            return values.to_value(u.dimensionless_unscaled)
        except u.UnitConversionError:
            target = (
                f"that of the pixels, {self.unit or 'none'}" if kind == "flux" else f"{self.unit_of(name) or 'none'}"
            )
            raise _does_not_convert(argument, values.unit, target) from None


def _axis(name: str) -> int:
    """Return the column of a position in an array of (x, y)."""
    return "xy".index(name)


def _per_row(factor: npt.NDArray, values: npt.NDArray) -> npt.NDArray:
    """Reshape a factor per row so that it broadcasts over the further axes of the values."""
    return np.reshape(factor, (-1, *[1] * (values.ndim - 1))) if values.ndim > 1 else factor


def _does_not_convert(argument: str, unit: u.UnitBase, target: object) -> ValueError:
    return ValueError(f"{argument} has unit {unit}, which does not convert to {target}")


def convert(
    name: str,
    values: npt.NDArray[np.float64],
    unit: u.UnitBase | None,
    target: u.UnitBase | None,
    argument: str,
    *,
    pixel_scale: float | None = None,
) -> npt.NDArray[np.float64]:
    """Convert the numbers of a column from one unit to that of another table.

    Parameters
    ----------
    name : str
        Name of the parameter: those that are lengths convert between pixels and arcsec.
    values : ndarray
        Numbers in ``unit``, of any shape.
    unit, target : UnitBase or None
        Unit of the numbers and the unit to convert to. Where one is missing, the numbers are returned as they are.
    argument : str
        Name that messages give to the column.
    pixel_scale : float, optional
        Arcsec per pixel, for lengths of which one is in pixels and one is an angle.

    Returns
    -------
    ndarray
        Numbers in the unit ``target``.

    Raises
    ------
    ValueError
        If the units do not convert, or the pixel scale is needed and missing.
    """
    if unit is None or target is None or unit == target:
        return values
    try:
        if _KIND.get(name) == "length" and unit.is_equivalent(u.pix) != target.is_equivalent(u.pix):
            if pixel_scale is None:
                msg = f"pixel_scale must be given: {argument} is in {unit}, the other table in {target}"
                raise ValueError(msg)
            arcsec = u.pixel_scale(float(pixel_scale) * u.arcsec / u.pix)
            return values * unit.to(target, equivalencies=arcsec)
        return values * unit.to(target)
    except u.UnitConversionError:
        raise _does_not_convert(argument, unit, target) from None


def plain_numbers(column: npt.ArrayLike, argument: str) -> npt.NDArray[np.float64]:
    """Return the numbers of a column without its unit; masked ones are NaN.

    Parameters
    ----------
    column : array_like, Column or Quantity
        Column of a table, of any shape.
    argument : str
        Name that messages give to the column.

    Returns
    -------
    ndarray
        Numbers in double precision.

    Raises
    ------
    TypeError
        If the column does not hold real numbers.
    """
    try:
        array = np.ma.asarray(getattr(column, "value", column))
        if array.dtype.kind == "c":
            raise TypeError
        return np.ma.filled(array.astype(float), np.nan)
    except (TypeError, ValueError):
        msg = f"{argument} must hold real numbers"
        raise TypeError(msg) from None
