"""What every kind of catalogue has in common: its length, its chunks of rows, its PSF and calibration."""

import itertools
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import astropy.units as u
import numpy as np

from galmeasure._psf_flux import read_psf_flux
from galmeasure.exceptions import CatalogError

from ._fits import OptionError, reading
from ._headers import keyword_number
from .psf import PSFExModel, PSFInput, load_psf

__all__ = ["CatalogSource", "ReadOptions"]

MAX_PIXELS = 2**21
"""Pixels of image read at once, unless asked for otherwise."""

NO_PSF = "none"
"""Option ``psf`` for a delta function, unless a file has this name."""

SENTINEL = -1e29
"""Pixels at or below this are masked: SExtractor marks what lies outside the image or in a neighbour with -1e30."""


@dataclass(frozen=True)
class ReadOptions:
    """Options of `open_catalog`, which describes them."""

    image: object = None
    psf: object = None
    psf_oversampling: int | None = None
    psf_flux: float | str | None = None
    psf_includes_pixel: bool | None = None
    error: object = None
    weight: object = None
    mask: object = None
    segmentation: object = None
    size: int | None = None
    detect: bool = False
    gain: float | None = None
    pixel_scale: float | None = None
    zero_point: float | None = None

    def __post_init__(self):
        for name in ("gain", "pixel_scale", "zero_point"):
            value = getattr(self, name)
            if value is not None and not np.isfinite(value):
                msg = f"{name} must be a finite number, not {value}"
                raise ValueError(msg)
        if self.pixel_scale is not None and self.pixel_scale <= 0:
            msg = f"pixel_scale must be positive, not {self.pixel_scale}"
            raise ValueError(msg)
        if self.gain is not None and self.gain < 0:
            msg = f"gain must be positive, or 0 for none, not {self.gain}"
            raise ValueError(msg)
        if self.size is not None and not 3 <= self.size <= 4096:
            msg = f"size must lie between 3 and 4096 pixels, not {self.size}"
            raise ValueError(msg)
        if self.psf_flux is not None and np.ndim(self.psf_flux) == 0:
            read_psf_flux(self.psf_flux, 1)
        if self.error is not None and self.weight is not None:
            msg = "error and weight exclude one another"
            raise ValueError(msg)


@dataclass
class CatalogSource:
    """A catalogue that is read row by row; made by `open_catalog`.

    Attributes
    ----------
    kind : str
        "cutout table", "source list", "detection" or "multi-extension file".
    path : Path
        The file.
    notes : list of str
        What was found in the headers and is used, for people to read.
    """

    path: os.PathLike
    options: ReadOptions
    kind: str = ""
    notes: list = field(default_factory=list)
    psf: PSFInput | None = None
    unit: u.UnitBase | None = None
    gain: object = None
    pixel_scale: object = None
    zero_point: object = None

    def __len__(self):
        raise NotImplementedError

    def read(self, rows):
        """Cutouts of the given rows.

        Parameters
        ----------
        rows : array_like of int
            Row numbers, counted from 0.

        Returns
        -------
        galmeasure.Cutouts
            In the order of `rows`.
        """
        from galmeasure.cutouts import Cutouts

        rows = np.atleast_1d(np.asarray(rows, dtype=np.int64))
        with reading(self.path):
            parts = self._parts(rows)
        images, error = parts.pop("cutouts"), parts.pop("error")
        if self.unit is not None:
            images, error = _with_unit(images, self.unit), _with_unit(error, self.unit)
        oversampling = self.options.psf_oversampling or (1 if self.psf.varies else self.psf.oversampling)
        psf = parts.pop("psf", None)
        psf = self.psf.at_rows(rows) if psf is None else psf
        pixel = self.options.psf_includes_pixel
        told = {"psf_includes_pixel": self.psf.includes_pixel is not False if pixel is None else pixel}
        calibration = {name: self._per_row(name, parts, rows) for name in ("gain", "pixel_scale", "zero_point")}
        with self._naming_the_file():
            return Cutouts._from_chunk(
                images, psf, error=error, psf_oversampling=oversampling, **told, **self._psf_flux(rows), **calibration,
                **parts,
            )  # fmt: skip

    def _psf_flux(self, rows):
        """Argument ``psf_flux`` of some rows; one number for each row of the catalogue is divided like these."""
        flux = self.options.psf_flux
        if flux is None or isinstance(flux, str) or np.ndim(flux) == 0:
            return {"psf_flux": flux}
        flux = np.asarray(flux)
        if flux.shape != (len(self),):
            msg = f"psf_flux must be one number or have one for each of the {len(self)} rows, not shape {flux.shape}"
            raise ValueError(msg)
        return {"psf_flux": flux[rows]}

    @contextmanager
    def _naming_the_file(self):
        """What `Cutouts` refuses becomes a CatalogError with the name of the file, unless an option holds it."""
        try:
            yield
        except (ValueError, TypeError) as err:
            name = re.match(r"\w*", str(err))[0]
            option = getattr(self.options, name, None)
            if option is not None and not isinstance(option, str | os.PathLike):
                raise
            msg = f"{option if option is not None and name == 'psf' else self.path}: {err}"
            raise CatalogError(msg) from err

    def _parts(self, rows):
        """Arguments of `Cutouts` for some rows: cutouts, error, and what else there is; plain numbers in `unit`."""
        raise NotImplementedError

    def _per_row(self, name, parts, rows):
        if name in parts:
            return parts.pop(name)
        value = getattr(self, name)
        return value[rows] if isinstance(value, np.ndarray) else value

    def n_pixels(self, rows):
        """Pixels of the stamps of some rows."""
        raise NotImplementedError

    def blocks(self, rows=None, size=None, max_pixels=MAX_PIXELS):
        """Row numbers in blocks that are small enough to be read at once.

        Parameters
        ----------
        rows : array_like of int, optional
            Rows wanted; all of them if not given.
        size : int, optional
            Rows in a block; by default as many as hold about `max_pixels`.
        max_pixels : int, optional
            Pixels in a block.

        Yields
        ------
        ndarray of int
            Row numbers.
        """
        rows = np.arange(len(self)) if rows is None else np.asarray(rows, dtype=np.int64)
        if size is not None:
            edges = np.arange(0, len(rows) + size, size)
        else:
            number = np.cumsum(self.n_pixels(rows)) // max_pixels
            edges = np.concatenate([[0], np.flatnonzero(np.diff(number)) + 1, [len(rows)]])
        for first, last in itertools.pairwise(edges):
            if first < min(last, len(rows)):
                yield rows[first:last]

    def chunks(self, rows=None, size=None):
        """Cutouts in chunks, in order; see `blocks` for the parameters.

        Yields
        ------
        galmeasure.Cutouts
            The next rows.
        """
        for block in self.blocks(rows, size):
            yield self.read(block)

    def columns(self, rows, names):
        """Input columns with one value a row, to be copied beside the measurements.

        Parameters
        ----------
        rows : array_like of int
            Row numbers, counted from 0.
        names : list of str
            Columns; those that `column_names` lists.

        Returns
        -------
        dict of str to ndarray
            One entry a column.
        """
        raise NotImplementedError

    @property
    def column_names(self):
        """Names of the input columns with one value a row."""
        return []

    def _calibrate(self, headers, path, scale=None):
        """Set gain, pixel scale and zero point: options first, then the first keyword found; `path` has the headers."""
        for name in ("gain", "pixel_scale", "zero_point"):
            value, origin = getattr(self.options, name), "option"
            if value is None:
                value, origin = keyword_number(headers, name, path)
            if value is None and name == "pixel_scale":
                value, origin = scale, "WCS"
            if value is None or (name == "gain" and value == 0):
                continue
            setattr(self, name, float(value))
            self.notes.append(f"{name.replace('_', ' ')} {value:.6g} ({origin})")

    def _set_psf(self, found=None):
        """Set the PSF: the option first, then what was found in the file."""
        option, pixel = self.options.psf, self.options.psf_includes_pixel
        if option is not None:
            found = _psf_of_option(option)
        if found is None:
            msg = (
                f"{self.path}: no PSF: there is no psf column and no PSF extension; give one with --psf (psf=), "
                "or --psf none for a delta function"
            )
            if self.kind == "multi-extension file" and len(self) == 1:
                msg += f"; if this is a field and no cutout, did you mean --image {self.path} --detect?"
            raise CatalogError(msg)
        if pixel is not None and found.includes_pixel not in (None, bool(pixel)):
            what = found.note or "PSFEx model"
            msg = f"psf_includes_pixel must be {found.includes_pixel} for this PSF, as its kind says ({what})"
            raise OptionError(msg)
        if found.note and pixel is None:
            self.notes.append(found.note)
        elif pixel is False:
            self.notes.append("PSF convolved with the pixel (option)")
        if found.per_row and len(found.psf) == 1:
            found = replace(found, psf=found.psf[0])
        if found.per_row and len(found.psf) != len(self):
            allowed = f"one image, or one for each of the {len(self)} rows" if len(self) else "one image"
            msg = f"{self.path}: psf: must be {allowed}, not {len(found.psf)}"
            raise CatalogError(msg)
        self.psf = found


def _psf_of_option(option):
    """PSF of the option: a file, ``"none"``, or what it is itself."""
    if not isinstance(option, str | os.PathLike):
        return PSFInput(option, includes_pixel=True if isinstance(option, PSFExModel) else None)
    if str(option).lower() == NO_PSF and not Path(option).exists():
        return PSFInput(None, note="no PSF: a delta function")
    return load_psf(option)


def _with_unit(values, unit):
    if values is None:
        return None
    if isinstance(values, list):
        return [_with_unit(v, unit) for v in values]
    return values << unit


def weight_to_error(weight):
    """Errors of inverse variances, and the mask of pixels without weight."""
    weight = np.asarray(weight, dtype=np.float64 if np.asarray(weight).dtype.itemsize > 4 else np.float32)
    bad = ~(weight > 0) | ~np.isfinite(weight)
    error = np.ones_like(weight)
    np.divide(1.0, np.sqrt(weight, where=~bad, out=np.ones_like(weight)), out=error, where=~bad)
    return error, bad


def segmentation_mask(segmentation, x, y):
    """Mask of the neighbours in one segmentation stamp.

    The target is the label at (x, y), or else the label nearest to it within three pixels; every
    other positive label is masked. Without such a label every positive label is.
    """
    positive = segmentation > 0
    rows, columns = np.nonzero(positive)
    if not len(rows):
        return positive
    distance = np.hypot(columns - x, rows - y)
    nearest = np.argmin(distance)
    if distance[nearest] > 3.0:
        return positive
    return positive & (segmentation != segmentation[rows[nearest], columns[nearest]])
