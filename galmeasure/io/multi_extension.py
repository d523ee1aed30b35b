"""Multi-extension cutout files: sets of image, error, mask and PSF extensions, or cubes of stamps."""

import os

import numpy as np
from astropy.io import fits

from galmeasure.exceptions import CatalogError
from galmeasure.io.extensions import UNNAMED, label, role_of
from galmeasure.io.fits_files import OptionError, image_data, image_shape, is_chosen, is_image, open_fits
from galmeasure.io.headers import (
    agreed_pixel_scale,
    celestial_wcs,
    keyword_number,
    parse_unit,
    psf_oversampling,
    wcs_pixel_scale,
)
from galmeasure.io.layout import FileState, unpacked_file
from galmeasure.io.mask_bits import find_mask_bits
from galmeasure.io.noise_maps import in_unit, is_inverse_variance, variance_to_error, weight_to_error
from galmeasure.io.pixels import asinh_note
from galmeasure.io.psf import only_psf, psf_from_hdu
from galmeasure.io.source import CatalogSource, segmentation_mask
from galmeasure.io.unit_spellings import unit_factor

__all__ = ["LARGEST", "LARGEST_ALONE", "MultiExtensionSource", "field_advice", "holds_cutouts"]

LARGEST = 2048
"""Largest side of an image that is taken for one of several cutouts; a larger one is a field."""

LARGEST_ALONE = 512
"""Largest side of the only image of a file that is taken for a cutout, unless it is chosen by its extension."""

_NO_PSF = (3, 3)
"""Shape of the blank PSF of a cutout that has none."""


class MultiExtensionSource(CatalogSource):
    """Cutouts as image extensions of one FITS file.

    An image named ``SCI`` (or ``SCIENCE``, ``IMAGE``, ``CUTOUT``, ``STAMP``, or an unnamed primary) is a
    cutout; ``ERR``, ``WHT``, ``VAR``, ``MASK``, ``DQ``, ``SEG``, ``PSF`` belong to the cutout with the same
    ``EXTVER`` or the same trailing number (``SCI_7``, ``ERR_7``), else to the last cutout before them. A PSF
    that stands before every cutout, or is the only one, is shared. A cube holds one cutout a plane.

    Parameters
    ----------
    path : Path
        File that is to be read.
    options : ReadOptions
        Options; `error` may be a number.
    hdus : astropy.io.fits.HDUList
        The open file; used during the call only.
    extension : str, optional
        Extension, such as ``SCI,1``, whose cutouts are meant; all of them if not given.
    """

    def __init__(self, path, options, hdus, extension=None):
        super().__init__(path, options, kind="multi-extension file")
        self._state, self._unpacked = FileState(path), unpacked_file(path)  # which is held, to be unpacked once
        self._headers = [hdu.header.copy() for hdu in hdus]
        self._labels = [label(hdu, number) for number, hdu in enumerate(hdus)]
        sets, shared = _group([(i, hdu) for i, hdu in enumerate(hdus) if is_image(hdu) or _is_empty_cutout(hdu)])
        shared = _share_psf(sets, shared, hdus, path) if options.psf is None else None
        chosen = [is_chosen(extension, numbers["cutout"], hdus[numbers["cutout"]]) for _, numbers in sets]
        self._numbers = [number for (number, _), is_meant in zip(sets, chosen, strict=True) if is_meant]
        self._sets = [numbers for (_, numbers), is_meant in zip(sets, chosen, strict=True) if is_meant]
        if not any(len(image_shape(self._header(i))) > 1 for i in range(len(self._sets))):
            suffix = "" if extension is None else f" in extension {extension}"
            msg = f"{path}: neither a table with a cutout column nor an image of a cutout{suffix}"
            raise CatalogError(msg)
        self._refuse_options()
        self._cube = len(self._sets) == 1 and len(self._shape(0)) > 2 and self._shape(0)[-3] > 1
        self._shapes = self._find_shapes(LARGEST if extension or len(self._sets) > 1 else LARGEST_ALONE)
        headers = [self._header(0), self._headers[0]]
        self._set_unit(self._unit_text_of(0), self._labels[self._sets[0]["cutout"]])
        self._factors = self._unit_factors()
        self._wcs = None if self._cube else [celestial_wcs(self._header(i), hdus) for i in range(len(self._sets))]
        if self._wcs and any(wcs is None for wcs in self._wcs):
            self._wcs = None
        self._calibrate(headers, path, wcs_pixel_scale(self._wcs[0]) if self._wcs else None)
        self._calibrate_rows()
        self._note_planes()
        self._any_noise = any(self._has_noise(numbers) for numbers in self._sets)
        self._find_psfs(hdus, shared)
        self._sample = None if self.gain is None else self._read_arguments(hdus, self._sample_rows())

    def _find_psfs(self, hdus, shared):
        """Set the PSF of each cutout: its own, or else the one for all of them; rows that have neither fail alone."""
        psf_numbers = [numbers.get("psf", shared) if self.options.psf is None else None for numbers in self._sets]
        first = next((number for number in psf_numbers if number is not None), None)
        self._set_psf(psf_from_hdu(hdus[first], self.path) if first is not None else None)
        if self.psf.varies:
            msg = f"{self.path}: psf: a PSF that varies over the image needs positions, which such a file does not have"
            raise CatalogError(msg)
        self._psf_numbers = psf_numbers if len(set(psf_numbers)) > 1 else None
        if self._psf_numbers is None:
            return
        for number in set(psf_numbers) - {first, None}:
            samples = psf_oversampling(self._headers[number], self.path)
            if samples != self.psf.oversampling:
                msg = f"{self.path}: psf: {self._labels[first]} has {self.psf.oversampling} samples per pixel, and "
                msg += f"{self._labels[number]} has {samples}; they must be the same"
                raise CatalogError(msg)
        missing = psf_numbers.count(None)
        if missing:
            self.notes.append(f"no PSF for {missing} of the {len(psf_numbers)} cutouts, which fail")

    def _refuse_options(self):
        """Raise if an option is given that says something about fields."""
        advice = f"; {field_advice(self.path)}" if len(self._sets) == 1 else ""
        for name in ("weight", "mask", "segmentation", "size"):
            if getattr(self.options, name) is not None:
                msg = f"{name} does not apply to a file of cutouts in extensions: they are read from the file{advice}"
                raise OptionError(msg)
        if self.options.error is not None and not isinstance(self.options.error, int | float):
            msg = f"error must be a number for a file of cutouts in extensions, not {self.options.error!r}{advice}"
            raise OptionError(msg)

    def _unit_text_of(self, number):
        """Unit of a cutout as its header, or else the first of the file, has it."""
        return self._header(number).get("BUNIT", self._headers[0].get("BUNIT"))

    def _unit_factors(self):
        """Factor from the unit of each cutout to that of the first."""
        factors = []
        for number in range(len(self._sets)):
            text = self._unit_text_of(number)
            factor = unit_factor(parse_unit(text), self.unit)
            if factor is None or (self.unit is None and parse_unit(text) is not None):
                msg = f"{self.path}: {self._labels[self._sets[number]['cutout']]}: its unit, {text}, is not that of "
                msg += f"the first cutout, {self.unit}"
                raise CatalogError(msg)
            factors.append(factor)
        return factors

    def _note_planes(self):
        """Note what is taken for the noise and the mask of the first cutout, and how it is understood."""
        numbers = self._sets[0]
        role = next((role for role in ("error", "variance", "weight") if role in numbers), None)
        self.options.check_used(mask="mask" in numbers, weight=role == "weight")
        if self.options.error is None and role is not None:
            name = self._labels[numbers[role]]
            if role == "weight" and not self._is_inverse_variance(numbers):
                meaning = self.options.weight_type
                statement = f"is {meaning}" if meaning else "is not said to be inverse variance, see --weight-type"
                self.notes.append(f"error estimated from the noise ({name} {statement})")
            else:
                self.notes.append(f"{'inverse variance' if role == 'weight' else role} ({name})")
        if "mask" in numbers and (note := self._bits(numbers).note):
            self.notes.append(note)
        if note := asinh_note(self._headers[numbers["cutout"]]):
            self.notes.append(note)

    def _is_inverse_variance(self, numbers):
        """Whether the weight of a set is believed to be an inverse variance."""
        header, name = self._headers[numbers["weight"]], self._labels[numbers["weight"]].split(",")[0]
        return is_inverse_variance(name, header, self.unit, self.options.weight_type)

    def _has_noise(self, numbers):
        """Whether an error map belongs to a set."""
        return bool({"error", "variance"} & numbers.keys()) or (
            "weight" in numbers and self._is_inverse_variance(numbers)
        )

    def _bits(self, numbers):
        """Bits of the mask of a set that are bad."""
        headers = [self._headers[numbers["mask"]], self._headers[numbers["cutout"]], self._headers[0]]
        return find_mask_bits(self.options.mask_bits, headers, self.path)

    def _find_shapes(self, largest):
        """(ny, nx) of each cutout; raise if one is larger than cutouts are."""
        if self._cube:
            return np.tile(self._plane_shape(0), (self._shape(0)[-3], 1))
        shapes = np.array([self._plane_shape(i) for i in range(len(self._sets))])
        if shapes.max() > largest:
            number = shapes.max(axis=1).argmax()
            ny, nx = shapes[number]
            msg = f"{self.path}: an image of {nx} x {ny} pixels is not a cutout; {field_advice(self.path)}"
            if max(nx, ny) <= LARGEST:
                msg += f" {self.path}[{self._labels[self._sets[number]['cutout']]}] measures it as one galaxy"
            raise CatalogError(msg)
        return shapes

    def _shape(self, number):
        """Axes of a cutout, the slowest one first; () if it has no pixels."""
        return image_shape(self._header(number))

    def _plane_shape(self, number):
        """(ny, nx) of a cutout; one pixel where there are none."""
        shape = self._shape(number)
        return shape[-2:] if len(shape) > 1 else (1, 1)

    def _calibrate_rows(self):
        """Calibration of each cutout, where the headers of the extensions differ."""
        if len(self._sets) == 1:
            return
        for name in ("gain", "pixel_scale", "zero_point"):
            if getattr(self.options, name) is None:
                values = [self._keyword(name, i) for i in range(len(self._sets))]
                if None not in values:
                    setattr(self, name, np.array(values, dtype=float))

    def _keyword(self, name, number):
        """Gain, pixel scale or zero point of one cutout by its own header, or None."""
        headers = [self._header(number)]
        if name == "gain":
            return self._header_gain(headers, self.path, [])[0]
        if name == "pixel_scale":
            scale = wcs_pixel_scale(self._wcs[number]) if self._wcs else None
            return agreed_pixel_scale(headers, scale, self.path, [])[0]
        return keyword_number(headers, name, self.path, [])[0]

    def __len__(self):
        return len(self._shapes)

    def n_pixels(self, rows: np.ndarray) -> np.ndarray:
        """Pixels of the stamps of some rows."""
        return np.prod(self._shapes[rows], axis=1)

    def _header(self, number):
        """Header of a cutout."""
        return self._headers[self._sets[number]["cutout"]]

    def _planes(self, hdus, number, roles=None):
        """Arrays of a set, the PSF only if asked for."""
        numbers = self._sets[number]
        if roles is None and len(self._shape(number)) < 2:
            return {"cutout": np.full(self._plane_shape(number), np.nan)}
        roles = [role for role in numbers if role != "psf"] if roles is None else roles
        return {role: image_data(hdus[numbers[role]], self.path, role) for role in roles}

    def _arguments(self, rows):
        self._state.check()
        with open_fits(self.path) as hdus:
            return self._read_arguments(hdus, rows)

    def _sample_arguments(self, rows):
        """Parts that were read when the file was open: to open one with many extensions takes long."""
        return self._sample

    def _read_arguments(self, hdus, rows):
        """Arguments of `Cutouts` for some rows, from the open file."""
        psfs = None
        if self._cube:
            planes = self._planes(hdus, 0)
            self._check_planes(planes)
            stamps = [{role: np.asarray(_plane(data, row)) for role, data in planes.items()} for row in rows]
        else:
            stamps = [{r: _only_plane(np.asarray(p)) for r, p in self._planes(hdus, row).items()} for row in rows]
        if self._psf_numbers is not None:
            psfs = [self._psf_at(hdus, row) for row in rows]
        pairs = [self._error_and_mask(stamp, row) for stamp, row in zip(stamps, rows, strict=True)]
        errors, masks = [error for error, _ in pairs], [mask for _, mask in pairs]
        errors = errors if self._any_noise and self.options.error is None else errors[0]
        data = [self._in_first_unit(stamp["cutout"], row) for stamp, row in zip(stamps, rows, strict=True)]
        arguments = {"cutouts": data, "error": errors, "mask": masks, "ids": self._ids(rows)}
        if self._cube:
            arguments["cutouts"], arguments["mask"] = np.stack(data), np.stack(masks)
            arguments["error"] = np.stack(errors) if isinstance(errors, list) else errors
        if self._wcs:
            arguments["wcs"] = [self._wcs[row] for row in rows]
        return {**arguments, "psf": psfs}

    def _check_planes(self, planes):
        """Raise if what belongs to a cube is neither one image for all of its planes nor another cube of as many."""
        for role, data in planes.items():
            if data.ndim == 3 and len(data) not in (1, len(self)):
                msg = f"{self.path}: {role}: must be one image, or one for each of {len(self)} planes, not {len(data)}"
                raise CatalogError(msg)

    def _psf_at(self, hdus, row):
        """PSF image of one cutout; NaN where it has none."""
        number = self._psf_numbers[row]
        image = np.full(_NO_PSF, np.nan) if number is None else np.array(image_data(hdus[number], self.path, "psf"))
        image = _only_plane(image)
        return image.astype(float) if image.ndim == 2 else np.full(_NO_PSF, np.nan)

    def _in_first_unit(self, data, row):
        factor = self._factors[0 if self._cube else row]
        return data if factor == 1.0 else data * factor

    def _ids(self, rows):
        if self._cube:
            return rows + 1
        headers = [self._header(i) for i in range(len(self._sets))]
        for keyword in ("ID", "OBJID", "OBJECT"):
            values = [header.get(keyword) for header in headers]
            if None not in values and len(set(values)) == len(values):
                return np.array(values)[rows]
        return np.array(self._numbers)[rows]

    def _error_and_mask(self, planes, row):
        """Error and mask of a cutout; one that lacks the error that others have, or has another shape, fails alone."""
        shape, numbers = planes["cutout"].shape, self._sets[0 if self._cube else row]
        planes = {role: data if data.shape == shape else None for role, data in planes.items()}
        mask = np.full(shape, None in [data if data is None else 0 for data in planes.values()])
        if planes.get("mask") is not None:
            mask |= self._bits(numbers).bad(planes["mask"])
        if planes.get("segmentation") is not None:
            mask |= segmentation_mask(planes["segmentation"], (shape[1] - 1) / 2, (shape[0] - 1) / 2)
        if self.options.error is not None:
            return float(self.options.error), mask
        role = next((role for role in ("error", "variance", "weight") if planes.get(role) is not None), None)
        if role == "weight" and not self._is_inverse_variance(numbers):
            mask |= weight_to_error(planes["weight"])[1]
            role = None
        if role is None:
            return np.full(shape, np.nan) if self._any_noise else None, mask
        unit = self._headers[numbers[role]].get("BUNIT")
        values = np.asarray(in_unit(role, planes[role], unit, self.unit, f"{self.path}: {self._labels[numbers[role]]}"))
        if role == "weight":
            error, bad = weight_to_error(values)
            return error, mask | bad
        return variance_to_error(values) if role == "variance" else values, mask


def _is_empty_cutout(hdu):
    """Whether an extension has the name of a cutout and no pixels: its row is there, without a measurement."""
    return hdu.is_image and hdu.name.upper() not in UNNAMED and not is_image(hdu) and role_of(hdu)[0] == "cutout"


def holds_cutouts(hdus: fits.HDUList, extension: str | None = None) -> bool:
    """Tell if an image of a cutout is in a file, among the extensions that are chosen."""
    images = [(number, hdu) for number, hdu in enumerate(hdus) if is_image(hdu)]
    return any(is_chosen(extension, number, hdu) and role_of(hdu)[0] == "cutout" for number, hdu in images)


def _plane(data, row):
    return data[row if len(data) > 1 else 0] if data.ndim == 3 else data


def _only_plane(data):
    """An image without its first axis where that has one element."""
    return data[0] if data.ndim == 3 and len(data) == 1 else data


def field_advice(path: str | os.PathLike) -> str:
    """What to do with an image of many sources that was given as a file of cutouts."""
    return f"did you mean --image {path} --detect, or LIST --image {path} with a list of the sources?"


def _group(images):
    """Sets of extensions (number of the set, and numbers of its HDUs by role) and the PSFs that belong to none."""
    named = [(*role_of(hdu), index) for index, hdu in images]
    numbers = [number for role, number, _ in named if role == "cutout"]
    by_number = None not in numbers and len(set(numbers)) == len(numbers)
    sets, shared, last = {}, [], None
    for role, number, index in named:
        if role == "cutout":
            sets[number if by_number else len(sets) + 1] = {"cutout": index}
    order = iter(sets)
    for role, number, index in named:
        if role == "cutout":
            last = next(order)
            continue
        key = number if by_number and number in sets and len(sets) > 1 else last
        if role == "psf" and (key is None or (by_number and number not in sets and len(sets) > 1)):
            shared.append(index)
        elif role is not None and key is not None:
            sets[key].setdefault(role, index)
    return list(sets.items()), shared


def _share_psf(sets, shared, hdus, path):
    """Number of the PSF of all cutouts that have none of their own, or None; the only PSF of a file is such a one.

    Only where its name or its version says to which of several sets it belongs, it is that one's alone.
    """
    psfs = [(i, hdu) for i, hdu in enumerate(hdus) if is_image(hdu) and role_of(hdu)[0] == "psf"]
    if len(psfs) > len(sets) or len(shared) > 1:
        only_psf(psfs, path)
    if len(psfs) != 1 or shared:
        return shared[0] if shared else None
    number, hdu = psfs[0]
    if len(sets) > 1 and (hdu.ver > 1 or hdu.name[-1:].isdigit() or "." in hdu.name):
        return None
    for _, numbers in sets:
        numbers.pop("psf", None)
    return number
