"""What every kind of catalogue has in common: its length, its chunks of rows, its PSF and calibration."""

import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import numpy.typing as npt

from galmeasure.cutouts import Cutouts
from galmeasure.exceptions import CatalogError
from galmeasure.io.fits_files import OptionError, reading
from galmeasure.io.headers import agreed_pixel_scale, effective_gain, keyword_number, parse_unit
from galmeasure.io.mask_bits import check_mask_bits
from galmeasure.io.noise_maps import WEIGHT_TYPES, error_over_noise, has_error_maps, shot_noise_share
from galmeasure.io.psf import PSFExModel, PSFInput, load_psf
from galmeasure.psf.flux import read_psf_flux
from galmeasure.utils.chunks import chunk_size

__all__ = ["CatalogSource", "ReadOptions"]

MAX_PIXELS = chunk_size("catalogue pixels")
"""Pixels of image read at once, unless asked for otherwise."""

_FAR_FROM_NOISE = 4.0
"""Ratio of errors and noise from which weights are no inverse variances; that of drizzled images may be 3."""

_SAMPLE_ROWS = 32
"""Rows that are looked at to find out what the errors of a catalogue contain."""

_NO_UNIT = ("", "NONE", "UNITLESS", "DIMENSIONLESS", "1")
"""Texts in capitals that say that there is no unit."""

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
    weight_type: str | None = None
    mask: object = None
    mask_bits: object = None
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
        if self.weight_type not in (None, *WEIGHT_TYPES):
            msg = f"weight_type must be one of {', '.join(WEIGHT_TYPES)}, not {self.weight_type!r}"
            raise ValueError(msg)
        if self.mask_bits is not None:
            check_mask_bits(self.mask_bits)
        if self.error is not None and self.weight is not None:
            msg = "error and weight cannot be given together"
            raise ValueError(msg)

    def check_used(self, *, mask: bool, weight: bool) -> None:
        """Raise if it is said what a mask or a weight means, and there is none."""
        for name, value, exists in (("mask", self.mask_bits, mask), ("weight", self.weight_type, weight)):
            if value is not None and not exists:
                option = {"mask": "mask_bits", "weight": "weight_type"}[name]
                msg = f"{option} says what a {name} means, and no {name} is used"
                raise OptionError(msg)


@dataclass
class CatalogSource:
    """A catalogue that is read row by row; made by `open_catalog`.

    Attributes
    ----------
    kind : str
        "cutout table", "source list", "detection" or "multi-extension file".
    path : Path
        File that is to be read.
    notes : list of str
        What was found in the headers and is used, for people to read.
    opened_as : path-like or None
        Argument of `open_catalog`, with which another process opens the same catalogue.
    """

    path: os.PathLike
    options: ReadOptions
    kind: str = ""
    notes: list = field(default_factory=list)
    opened_as: str | os.PathLike | None = None
    psf: PSFInput | None = None
    unit: u.UnitBase | None = None
    gain: object = None
    pixel_scale: object = None
    zero_point: object = None
    _unit_text: str = ""
    _assumed_weight: str = ""

    def __len__(self):
        raise NotImplementedError

    def read(self, rows: npt.ArrayLike) -> Cutouts:
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
        rows = np.atleast_1d(np.asarray(rows, dtype=np.int64))
        self.check_rows(rows)
        with reading(self.path):
            arguments = self._arguments(rows)
        images, error = arguments.pop("cutouts"), arguments.pop("error")
        if self.unit is not None:
            images, error = _with_unit(images, self.unit), _with_unit(error, self.unit)
        oversampling = self.options.psf_oversampling or (1 if self.psf.varies else self.psf.oversampling)
        psf = arguments.pop("psf", None)
        psf = self.psf.at_rows(rows) if psf is None else psf
        pixel = self.options.psf_includes_pixel
        response = {"psf_includes_pixel": self.psf.includes_pixel is not False if pixel is None else pixel}
        calibration = {name: self._per_row(name, arguments, rows) for name in ("gain", "pixel_scale", "zero_point")}
        with self._naming_the_file():
            return Cutouts._from_chunk(
                images, psf, error=error, psf_oversampling=oversampling, **response, **self._psf_flux(rows),
                **calibration, **arguments,
            )  # fmt: skip

    @property
    def is_read_in_parts(self) -> bool:
        """True if any process reads some rows at the cost of these rows: nothing is unpacked, searched or kept."""
        return False

    def check_unchanged(self) -> None:
        """Raise if the file of a catalogue that other processes read has changed since it was opened here.

        Raises
        ------
        CatalogError
            If so, or if the file is gone.
        """

    @property
    def n_whole(self) -> int:
        """Number of rows, from the first one on, that can be read: all of them unless the file ends early."""
        return len(self)

    def check_noise(self) -> None:
        """Look at some stamps: what is only taken to be an inverse variance, or a gain, must fit the pixels.

        A gain of a header is not used where the error maps contain the noise of the sources already: this must not be
        added once more. A gain that the options or a column give is kept.

        Raises
        ------
        CatalogError
            If weights that nothing but the option `weight`, or the column's name, says to be inverse variances give
            errors that are far from the noise of the pixels.
        """
        check_gain = self.gain is not None and self.options.gain is None
        if not self.n_whole or not (check_gain or self._assumed_weight):
            return
        rows = self._sample_rows()
        with reading(self.path):
            arguments = self._sample_arguments(rows)
        masks = [None] * len(rows) if arguments["mask"] is None else arguments["mask"]
        if self._assumed_weight:
            self._check_weight(*error_over_noise(arguments["cutouts"], arguments["error"], masks))
        if check_gain and "gain" not in arguments and has_error_maps(arguments["error"]):
            gain = np.broadcast_to(self._per_row("gain", {}, rows), rows.shape)
            if shot_noise_share(arguments["cutouts"], arguments["error"], masks, gain) > 0.5:
                self.gain = None
                self.notes = [note for note in self.notes if not note.startswith("gain ")]
                note = "gain not used, the errors contain the noise of the sources: give it with --gain (gain=)"
                self.notes.append(note)

    def _sample_rows(self):
        """Rows that are looked at by `check_noise`, evenly over the catalogue."""
        rows = np.unique(np.linspace(0, self.n_whole - 1, _SAMPLE_ROWS).astype(np.int64))
        return rows[np.cumsum(self.n_pixels(rows)) <= max(MAX_PIXELS, self.n_pixels(rows[:1])[0])]

    def _sample_arguments(self, rows):
        """What `_arguments` gives for the rows of `_sample_rows`."""
        return self._arguments(rows)

    def _check_weight(self, lower, upper):
        """Raise if errors, in units of the larger and the smaller noise of the pixels, are not of inverse variances."""
        if lower > _FAR_FROM_NOISE or upper < 1.0 / _FAR_FROM_NOISE:
            ratio, types = (lower if lower > 1 else upper), ", ".join(WEIGHT_TYPES)
            msg = f"{self.path}: weight: as inverse variances ({self._assumed_weight}) they give errors {ratio:.3g} "
            msg += f"times the noise of the pixels: say what they are with --weight-type {types} (weight_type=)"
            raise CatalogError(msg)

    def check_rows(self, rows: npt.ArrayLike) -> None:
        """Raise if some rows cannot be read, because the file ends before they do.

        Parameters
        ----------
        rows : array_like of int
            Row numbers, counted from 0.

        Raises
        ------
        CatalogError
            If so; the message says which rows can be read.
        """
        if self.n_whole < len(self) and len(rows) and np.max(rows) >= self.n_whole:
            whole = self.n_whole
            advice = f"choose these with --rows 0:{whole}" if whole else "nothing can be measured"
            msg = f"{self.path}: truncated FITS file, {whole} of the {len(self)} rows are whole: {advice}"
            raise CatalogError(msg)

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

    def _arguments(self, rows):
        """Arguments of `Cutouts` for some rows: cutouts, error, and what else there is; plain numbers in `unit`."""
        raise NotImplementedError

    def _per_row(self, name, arguments, rows):
        if name in arguments:
            return arguments.pop(name)
        value = getattr(self, name)
        return value[rows] if isinstance(value, np.ndarray) else value

    def n_pixels(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Pixels of the stamps of some rows."""
        raise NotImplementedError

    def blocks(
        self, rows: npt.ArrayLike | None = None, size: int | None = None, max_pixels: int = MAX_PIXELS
    ) -> Iterator[npt.NDArray[np.int64]]:
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
        self.check_rows(rows)
        yield from row_blocks(rows, size, max_pixels, self.n_pixels)

    def chunks(self, rows: npt.ArrayLike | None = None, size: int | None = None) -> Iterator[Cutouts]:
        """Cutouts in chunks, in order; see `blocks` for the parameters.

        Yields
        ------
        galmeasure.Cutouts
            The next rows.
        """
        for block in self.blocks(rows, size):
            yield self.read(block)

    def columns(self, rows: npt.ArrayLike, names: Sequence[str]) -> dict[str, Any]:
        """Input columns with one value per row, to be copied beside the measurements.

        Parameters
        ----------
        rows : array_like of int
            Row numbers, counted from 0.
        names : list of str
            Columns; those that `column_names` lists.

        Returns
        -------
        dict of str to ndarray
            One entry per column.
        """
        raise NotImplementedError

    @property
    def column_names(self) -> list[str]:
        """Names of the input columns with one value per row."""
        return []

    def _set_unit(self, text, what):
        """Set the unit of the pixels from a header's text; one that is not understood is noted."""
        self._unit_text = "" if text is None else str(text)
        self.unit = parse_unit(text)
        if self.unit is None and self._unit_text.strip().upper() not in _NO_UNIT:
            self.notes.append(f"no unit: {self._unit_text.strip()!r} of {what} is not understood")

    def _calibrate(self, headers, path, scale=None):
        """Set gain, pixel scale and zero point: options first, then the first keyword found; `path` has the headers."""
        ignored = []
        for name in ("gain", "pixel_scale", "zero_point"):
            value, origin = getattr(self.options, name), "option"
            if value is None and name == "gain":
                value, origin = self._header_gain(headers, path, ignored)
            elif value is None and name == "pixel_scale":
                value, origin = agreed_pixel_scale(headers, scale, path, ignored)
            elif value is None:
                value, origin = keyword_number(headers, name, path, ignored)
            if value is None or (name == "gain" and value == 0):
                continue
            setattr(self, name, float(value))
            self.notes.append(f"{name.replace('_', ' ')} {value:.6g} ({origin})")
        self.notes.extend(dict.fromkeys(ignored))

    def _header_gain(self, headers, path, ignored):
        """Electrons per unit of the image by its headers, and from which keywords."""
        text = "" if self._unit_text.strip().upper() in _NO_UNIT else self._unit_text
        return effective_gain(headers, path, self.unit, text, ignored)

    def _set_psf(self, psf_input=None):
        """Set the PSF: the option first, then what was found in the file."""
        option, pixel = self.options.psf, self.options.psf_includes_pixel
        if option is not None:
            psf_input = _psf_of_option(option)
        if psf_input is None:
            msg = (
                f"{self.path}: no PSF: there is no psf column and no PSF extension; give one with --psf (psf=), "
                "or --psf none for a delta function"
            )
            if self.kind == "multi-extension file" and len(self) == 1:
                msg += f"; if this is a field and no cutout, did you mean --image {self.path} --detect?"
            raise CatalogError(msg)
        if pixel is not None and psf_input.includes_pixel not in (None, bool(pixel)):
            what = psf_input.note or "PSFEx model"
            msg = f"psf_includes_pixel must be {psf_input.includes_pixel} for this PSF, as its kind says ({what})"
            raise OptionError(msg)
        if psf_input.note and pixel is None:
            self.notes.append(psf_input.note)
        elif pixel is False:
            self.notes.append("PSF convolved with the pixel (option)")
        if psf_input.per_row and len(psf_input.psf) == 1:
            psf_input = replace(psf_input, psf=psf_input.psf[0])
        if psf_input.per_row and len(psf_input.psf) != len(self):
            allowed = f"one image, or one for each of the {len(self)} rows" if len(self) else "one image"
            where = option if isinstance(option, str | os.PathLike) else self.path
            msg = f"{where}: psf: must be {allowed}, not {len(psf_input.psf)}"
            raise CatalogError(msg)
        self.psf = psf_input


def row_blocks(
    rows: npt.NDArray[np.int64],
    size: int | None,
    max_pixels: int,
    n_pixels: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]],
) -> Iterator[npt.NDArray[np.int64]]:
    """Divide rows into blocks of so many rows, or of about so many pixels where ``size`` is None."""
    if size is not None:
        edges = np.arange(0, len(rows) + size, size)
    else:
        number = np.cumsum(n_pixels(rows)) // max_pixels
        edges = np.concatenate([[0], np.flatnonzero(np.diff(number)) + 1, [len(rows)]])
    for first, last in itertools.pairwise(edges):
        if first < min(last, len(rows)):
            yield rows[first:last]


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


def segmentation_mask(segmentation: npt.NDArray, x: float, y: float) -> npt.NDArray[np.bool_]:
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
