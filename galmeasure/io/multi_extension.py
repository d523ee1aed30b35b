"""Multi-extension cutout files: sets of image, error, mask and PSF extensions, or cubes of stamps."""

import re

import numpy as np

from galmeasure.exceptions import CatalogError

from ._fits import OptionError, image_data, is_image, open_fits
from ._headers import celestial_wcs, keyword_number, parse_unit, wcs_pixel_scale
from ._names import EXTENSION_NAMES
from .psf import only_psf, psf_from_hdu
from .source import CatalogSource, segmentation_mask, weight_to_error

__all__ = ["MultiExtensionSource"]

LARGEST = 2048
"""Largest side of an image that is taken for a cutout; a larger one is a field."""


class MultiExtensionSource(CatalogSource):
    """Cutouts as image extensions of one FITS file.

    An image named ``SCI`` (or ``SCIENCE``, ``IMAGE``, ``CUTOUT``, ``STAMP``, or an unnamed primary) is a
    cutout; ``ERR``, ``WHT``, ``VAR``, ``MASK``, ``DQ``, ``SEG``, ``PSF`` belong to the cutout with the same
    ``EXTVER`` or the same trailing number (``SCI_7``, ``ERR_7``), else to the last cutout before them. A PSF
    that stands before every cutout, or is the only one, is shared. A cube holds one cutout a plane.

    Parameters
    ----------
    path : Path
        The file.
    options : ReadOptions
        Options; `error` may be a number.
    hdus : astropy.io.fits.HDUList
        The open file; used during the call only.
    """

    def __init__(self, path, options, hdus):
        super().__init__(path, options, kind="multi-extension file")
        self._refuse_options()
        self._headers = [hdu.header for hdu in hdus]
        self._sets, shared = _group([(i, hdu) for i, hdu in enumerate(hdus) if is_image(hdu)])
        if not self._sets:
            msg = f"{path}: neither a table with a cutout column nor an image of a cutout"
            raise CatalogError(msg)
        self._cube = len(self._sets) == 1 and self._header(0)["NAXIS"] > 2 and self._header(0)["NAXIS3"] > 1
        self._shapes = self._find_shapes()
        headers = [self._header(0), hdus[0].header]
        self.unit = parse_unit(headers[0].get("BUNIT"))
        self._wcs = None if self._cube else [celestial_wcs(self._header(i)) for i in range(len(self._sets))]
        if self._wcs and any(wcs is None for wcs in self._wcs):
            self._wcs = None
        self._calibrate(headers, path, wcs_pixel_scale(self._wcs[0]) if self._wcs else None)
        self._calibrate_each()
        psfs = [(i, hdu) for i, hdu in enumerate(hdus) if is_image(hdu) and _role(hdu)[0] == "psf"]
        if options.psf is None and len(psfs) > len(self._sets):
            only_psf(psfs, path)
        own = [found for found in self._sets if "psf" in found]
        self._own_psf = options.psf is None and len(own) == len(self._sets) and len(own) > 1 and not self._cube
        shared = shared if shared is not None else (own[0]["psf"] if len(own) == 1 or (self._cube and own) else None)
        if own and shared is None and not self._own_psf and options.psf is None:
            msg = f"{path}: psf: there must be one for each of the {len(self._sets)} cutouts, or one, not {len(own)}"
            raise CatalogError(msg)
        first = own[0]["psf"] if self._own_psf else shared
        self._set_psf(psf_from_hdu(hdus[first], path) if first is not None else None)
        if self.psf.varies:
            msg = f"{path}: psf: a PSF that varies over the image needs positions, which this kind of file has not"
            raise CatalogError(msg)

    def _refuse_options(self):
        for name in ("weight", "mask", "segmentation", "size"):
            if getattr(self.options, name) is not None:
                msg = f"{name} does not apply to a file of cutouts in extensions: they are read from the file"
                raise OptionError(msg)
        if self.options.error is not None and not isinstance(self.options.error, int | float):
            msg = f"error must be a number for a file of cutouts in extensions, not {self.options.error!r}"
            raise OptionError(msg)

    def _find_shapes(self):
        if self._cube:
            return np.tile(_plane_shape(self._header(0)), (self._header(0)["NAXIS3"], 1))
        shapes = np.array([_plane_shape(self._header(i)) for i in range(len(self._sets))])
        if shapes.max() > LARGEST:
            msg = (
                f"{self.path}: an image of {shapes.max()} pixels is not a cutout; did you mean --image {self.path} "
                "--detect, or a list of sources with --image?"
            )
            raise CatalogError(msg)
        return shapes

    def _calibrate_each(self):
        """Calibration of each cutout, where the headers of the extensions differ."""
        if len(self._sets) == 1:
            return
        for name in ("gain", "pixel_scale", "zero_point"):
            if getattr(self.options, name) is None:
                values = [keyword_number([self._header(i)], name, self.path)[0] for i in range(len(self._sets))]
                if None not in values:
                    setattr(self, name, np.array(values, dtype=float))

    def __len__(self):
        return len(self._shapes)

    def n_pixels(self, rows):
        """Pixels of the stamps of some rows."""
        return np.prod(self._shapes[rows], axis=1)

    def _header(self, number):
        """Header of a cutout."""
        return self._headers[self._sets[number]["cutout"]]

    def _planes(self, hdus, number, roles=None):
        """Arrays of a set, the PSF only if asked for."""
        found = self._sets[number]
        roles = [role for role in found if role != "psf"] if roles is None else roles
        return {role: image_data(hdus[found[role]], self.path, role) for role in roles}

    def _parts(self, rows):
        psfs = None
        with open_fits(self.path) as hdus:
            if self._cube:
                planes = self._planes(hdus, 0)
                stamps = [{role: _plane(data, row) for role, data in planes.items()} for row in rows]
            else:
                stamps = [self._planes(hdus, row) for row in rows]
            if self._own_psf:
                psfs = [np.array(self._planes(hdus, row, ["psf"])["psf"], dtype=float) for row in rows]
        pairs = [self._error_and_mask(found, row) for found, row in zip(stamps, rows, strict=True)]
        errors = [error for error, _ in pairs]
        if all(isinstance(error, float) or error is None for error in errors):
            errors = errors[0]
        elif any(error is None for error in errors):
            msg = f"{self.path}: error: every cutout must have one, or none"
            raise CatalogError(msg)
        data, masks = [found["cutout"] for found in stamps], [mask for _, mask in pairs]
        parts = {"cutouts": data, "error": errors, "mask": masks, "ids": self._ids(rows)}
        if self._cube:
            parts["cutouts"], parts["mask"] = np.stack(data), np.stack(masks)
            parts["error"] = np.stack(errors) if isinstance(errors, list) else errors
        if self._wcs:
            parts["wcs"] = [self._wcs[row] for row in rows]
        return {**parts, "psf": psfs}

    def _ids(self, rows):
        if self._cube:
            return rows + 1
        headers = [self._header(i) for i in range(len(self._sets))]
        for keyword in ("ID", "OBJID", "OBJECT"):
            values = [header.get(keyword) for header in headers]
            if None not in values and len(set(values)) == len(values):
                return np.array(values)[rows]
        return rows + 1

    def _error_and_mask(self, found, row):
        shape = found["cutout"].shape
        for role, data in found.items():
            if data.shape != shape:
                msg = f"{self.path}: {role} of cutout {row + 1}: must have its shape, {shape}, not {data.shape}"
                raise CatalogError(msg)
        mask = np.zeros(shape, dtype=bool)
        if "mask" in found:
            mask |= found["mask"] != 0
        if "segmentation" in found:
            mask |= segmentation_mask(found["segmentation"], (shape[1] - 1) / 2, (shape[0] - 1) / 2)
        if self.options.error is not None:
            return float(self.options.error), mask
        if "error" in found:
            return found["error"], mask
        if "variance" in found:
            with np.errstate(invalid="ignore"):
                return np.sqrt(found["variance"]), mask
        if "weight" in found:
            error, bad = weight_to_error(found["weight"])
            return error, mask | bad
        return None, mask


def _plane(data, row):
    return data[row] if data.ndim == 3 else data


def _plane_shape(header):
    return int(header["NAXIS2"]), int(header["NAXIS1"])


def _group(images):
    """Sets of extensions (their numbers) that belong together, and the shared PSF or None."""
    named = [(*_role(hdu), index) for index, hdu in images]
    numbers = [number for role, number, _ in named if role == "cutout"]
    by_number = len(numbers) > 1 and None not in numbers and len(set(numbers)) == len(numbers)
    sets, shared, last = {}, None, None
    for role, number, index in named:
        if role == "cutout":
            sets[number if by_number else len(sets)] = {"cutout": index}
    order = iter(sets)
    for role, number, index in named:
        if role == "cutout":
            last = next(order)
            continue
        key = number if by_number and number in sets else last
        if role == "psf" and (key is None or (by_number and number not in sets)):
            shared = index
        elif role is not None and key is not None:
            sets[key].setdefault(role, index)
    return list(sets.values()), shared


_UNCERTAINTY = {
    "StdDevUncertainty": "error",
    "VarianceUncertainty": "variance",
    "InverseVariance": "weight",
}


def _role(hdu):
    """What an extension holds, and the number of its set."""
    name = hdu.name.upper()
    if name in ("", "PRIMARY"):
        return "cutout", hdu.ver if name else None
    match = re.fullmatch(r"([A-Z]+?)[_-]?(\d+)?", name)
    base, number = (match[1], match[2]) if match else (name, None)
    role = next((role for role, names in EXTENSION_NAMES.items() if base in names), None)
    if role == "uncertainty":
        role = _UNCERTAINTY.get(hdu.header.get("UTYPE", "StdDevUncertainty"))
    return role, int(number) if number else hdu.ver
