"""An image with its error, mask and segmentation, and the stamps cut from them."""

import math
import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from astropy.io import fits
from scipy import ndimage

from galmeasure.exceptions import CatalogError
from galmeasure.io.extensions import choose_image, label, load_plane, only_plane, planes_beside, role_of
from galmeasure.io.fits_files import OptionError, image_data, open_fits, reading, split_extension
from galmeasure.io.headers import celestial_wcs, parse_unit
from galmeasure.io.mask_bits import find_mask_bits
from galmeasure.io.noise_maps import in_unit, is_inverse_variance, variance_to_error, weight_to_error
from galmeasure.io.pixels import LazyPixels, asinh_note
from galmeasure.io.psf import PSFInput, only_psf, psf_from_hdu
from galmeasure.io.source import segmentation_mask

__all__ = ["ImagePlanes", "stamp_origins"]


@dataclass(frozen=True)
class _Plane:
    """Pixels of an extension, its header, what it holds by its name, and by which name it is called in messages."""

    pixels: object
    header: fits.Header
    role: str | None
    name: str
    path: os.PathLike


class ImagePlanes:
    """Image, error or weight, mask and segmentation of one field, all of one shape.

    Planes that no option gives are taken from extensions of the image's own file (``ERR``, ``VAR``, ``WHT``,
    ``MASK``, ``SEG``, ``PSF``), those with the image's ``EXTVER`` where there are several.

    Parameters
    ----------
    path : path-like
        FITS image; ``file.fits[NAME]`` and ``file.fits[NAME,VERSION]`` choose an extension.
    options : ReadOptions
        Where the other planes are; `error` may be a number.

    Attributes
    ----------
    notes : list of str
        What was taken from the image's own file without being asked for, and what was not.
    assumed_weight : str
        What alone says that the weights are inverse variances, the option; empty where their name or unit does.
    """

    def __init__(self, path, options):
        self.path, extension = split_extension(path)
        self.notes, self._psf, self.assumed_weight = [], None, ""
        with reading(self.path):
            self._read(extension, options)

    def _read(self, extension, options):
        """Set everything that is in the files; those of other planes are named in errors that concern them."""
        with open_fits(self.path) as hdus:
            number = choose_image(hdus, self.path, "image", ("cutout",), extension)
            self.header, self.primary_header = hdus[number].header.copy(), hdus[0].header.copy()
            self.data = image_data(hdus[number], self.path, "image", axes=(2,))
            self.wcs = celestial_wcs(self.header, hdus)
            self._version = role_of(hdus[number])[1]
            planes = self._planes_of_file(planes_beside(hdus, number), options)
        self.notes.extend(note for note in (asinh_note(self.header),) if note)
        self.unit_text = self.header.get("BUNIT", self.primary_header.get("BUNIT"))
        self.unit = parse_unit(self.unit_text)
        self.mask = self._find_mask(planes, options)
        self.error, self.weight, self._has_weight = None, None, False
        has_mask = self.mask is not None
        self._find_noise(planes, options)
        options.check_used(mask=has_mask, weight=self._has_weight)
        self.segmentation = self._find_segmentation(planes, options)
        self._boxes = None

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx) of the image."""
        return self.data.shape

    def psf(self) -> PSFInput | None:
        """PSF of an extension of the image's file, or None."""
        return self._psf

    def _planes_of_file(self, beside, options):
        """Planes in extensions of the image's own file that no option gives; those not needed are not read."""
        noise = next((role for role in ("error", "variance", "weight") if role in beside), None)
        is_needed = {
            noise: options.error is None and options.weight is None,
            "mask": options.mask is None,
            "segmentation": options.segmentation is None,
        }
        if "psf" in beside and options.psf is None:
            self._psf = psf_from_hdu(only_psf(beside["psf"], self.path), self.path)
        planes = {}
        for role, hdus in beside.items():
            if is_needed.get(role):
                hdu = only_plane(hdus, self.path, role)
                pixels = image_data(hdu, self.path, role, axes=(2,))
                planes[role] = _Plane(pixels, hdu.header.copy(), role, label(hdu, role), self.path)
        return planes

    def _plane(self, what, option, planes, roles):
        """Plane of an option, or one of the image's own planes, or None; of the shape of the image."""
        plane = next((planes[role] for role in roles if role in planes), None)
        if option is not None:
            pixels, hdu = load_plane(option, what, roles, self._version)
            plane = _Plane(pixels, hdu.header, role_of(hdu)[0], hdu.name, option)
        if plane is not None and plane.pixels.shape != self.shape:
            msg = f"{plane.path}: {what}: must have the shape of the image, {self.shape}, not {plane.pixels.shape}"
            raise CatalogError(msg)
        return plane

    def _find_mask(self, planes, options):
        """Boolean image of the bad pixels, or None."""
        plane = self._plane("mask", options.mask, planes, ("mask",))
        if plane is None:
            return None
        primary = self.primary_header if options.mask is None else plane.header
        bits = find_mask_bits(options.mask_bits, [plane.header, primary, self.primary_header], plane.path)
        if options.mask is None:
            self.notes.append(f"mask ({plane.name})")
        if bits.note:
            self.notes.append(bits.note)
        return bits.bad_pixels(plane.pixels)

    def _find_noise(self, planes, options):
        """Set error or weight: options first, then the image's own planes."""
        if isinstance(options.error, str | os.PathLike) or (options.error is None and options.weight is None):
            roles = ("error", "variance", "weight")
            plane = self._plane("error", options.error, planes, roles)
            role = None if plane is None else plane.role if plane.role in roles else "error"
        elif options.weight is not None:
            plane, role = self._plane("weight", options.weight, planes, ("weight",)), "weight"
            if plane.role in ("error", "variance"):
                msg = f"weight: {options.weight} holds {plane.role}s by the name of its extension, {plane.name}: "
                raise OptionError(msg + "give it with --error (error=)")
        else:
            self.error = float(options.error)
            return
        if plane is None:
            return
        self._has_weight = role == "weight"
        default_type = "ivar" if options.weight is not None else None
        if role == "weight" and default_type and options.weight_type is None:
            is_declared = is_inverse_variance(plane.name, plane.header, self.unit, None)
            self.assumed_weight = "" if is_declared else f"option weight, {options.weight}"
        unit = plane.header.get("BUNIT")
        name = plane.name.split(",")[0]
        if role == "weight" and not is_inverse_variance(
            name, plane.header, self.unit, options.weight_type or default_type
        ):
            self._use_relative_weight(plane, options.weight_type)
            return
        pixels = in_unit(role, plane.pixels, unit, self.unit, plane.path)
        if role == "variance":
            pixels = LazyPixels([pixels], variance_to_error, np.result_type(pixels.dtype, np.float32))
        self.error, self.weight = (None, pixels) if role == "weight" else (pixels, None)
        if options.error is None and options.weight is None:
            kind = {"weight": "inverse variance"}.get(role, role)
            self.notes.append(f"{kind} ({plane.name})")

    def _use_relative_weight(self, plane, weight_type):
        """Mask the pixels without weight; the error is estimated where the pixels are read."""
        no_weight = LazyPixels([plane.pixels], lambda values: weight_to_error(values)[1], bool)
        self.mask = no_weight if self.mask is None else LazyPixels([self.mask, no_weight], np.logical_or, bool)
        meaning = f"is {weight_type}" if weight_type else "is not said to be inverse variance, see --weight-type"
        self.notes.append(f"error estimated from the noise ({plane.name} {meaning})")

    def _find_segmentation(self, planes, options):
        """Integer labels, 0 where they are blank, or None."""
        plane = self._plane("segmentation", options.segmentation, planes, ("segmentation",))
        if plane is None:
            return None
        if options.segmentation is None:
            self.notes.append(f"segmentation ({plane.name})")
        if plane.pixels.dtype.kind != "f":
            return plane.pixels
        return np.nan_to_num(np.asarray(plane.pixels), nan=0.0, posinf=0.0, neginf=0.0).astype(np.int64)

    def label_at(self, x: float, y: float) -> int:
        """Segmentation label of the source at a position, within three pixels of it; 0 if there is none."""
        x0, y0 = round(x) - 3, round(y) - 3
        stamp = self.segmentation[max(0, y0) : max(0, y0 + 7), max(0, x0) : max(0, x0 + 7)]
        rows, columns = np.nonzero(stamp > 0)
        if not len(rows):
            return 0
        distance = np.hypot(columns + max(0, x0) - x, rows + max(0, y0) - y)
        nearest = np.argmin(distance)
        return int(stamp[rows[nearest], columns[nearest]]) if distance[nearest] <= 3.0 else 0

    def extents(self, positions: np.ndarray) -> np.ndarray:
        """Longer side of the box around the segment at each position, in pixels; 0 where there is none."""
        if self._boxes is None:
            self._boxes = _segment_boxes(np.asarray(self.segmentation))
        extents = np.zeros(len(positions), dtype=np.int64)
        for i, (x, y) in enumerate(positions):
            label = self.label_at(x, y) if np.isfinite([x, y]).all() and max(abs(x), abs(y)) < 1e9 else 0
            box = self._boxes.get(label)
            extents[i] = max(side.stop - side.start for side in box) if box else 0
        return extents

    def stamps(
        self, origins: np.ndarray, sizes: np.ndarray, positions: np.ndarray
    ) -> tuple[list, list | float | None, list]:
        """Stamps of image, error and mask; what lies outside the image is masked.

        Parameters
        ----------
        origins : ndarray of int
            Shape (N, 2): x, y of the first pixel of each stamp.
        sizes : ndarray of int
            Shape (N,): side of each.
        positions : ndarray
            Shape (N, 2): x, y of the sources, for the segmentation.

        Returns
        -------
        data, error, mask : list
            2-D arrays; `error` may be a number or None.
        """
        data, errors, masks = [], [], []
        for (x0, y0), size, position in zip(origins, sizes, positions, strict=True):
            image, outside = _cut(self.data, x0, y0, size)
            mask = outside
            if self.mask is not None:
                mask = mask | _cut(self.mask, x0, y0, size)[0]
            if self.weight is not None:
                error, bad = weight_to_error(_cut(self.weight, x0, y0, size)[0])
                mask = mask | bad
                errors.append(error)
            elif self.error is not None and not isinstance(self.error, float):
                errors.append(np.where(outside, 1.0, _cut(self.error, x0, y0, size)[0]))
            if self.segmentation is not None:
                labels, _ = _cut(self.segmentation, x0, y0, size)
                mask = mask | segmentation_mask(labels, *(position - (x0, y0)))
            data.append(image)
            masks.append(mask)
        return data, errors or self.error, masks

    def whole(self) -> tuple[npt.NDArray, npt.NDArray | float | None, npt.NDArray[np.bool_]]:
        """Pixels of the image as one stamp: data, error and mask; segments but that in the middle are masked."""
        ny, nx = self.shape
        mask = np.zeros(self.shape, dtype=bool) if self.mask is None else np.array(self.mask, dtype=bool)
        error = self.error
        if self.weight is not None:
            error, bad = weight_to_error(np.asarray(self.weight))
            mask |= bad
        elif error is not None and not isinstance(error, float):
            error = np.array(error)
        if self.segmentation is not None:
            mask |= segmentation_mask(np.asarray(self.segmentation), (nx - 1) / 2, (ny - 1) / 2)
        return np.array(self.data), error, mask


def _segment_boxes(segmentation):
    """Box of each segment by its label; labels may be as large as they like."""
    largest = int(segmentation.max())
    if largest <= segmentation.size:
        boxes = ndimage.find_objects(np.maximum(segmentation, 0).astype(np.int64))
        return {i + 1: box for i, box in enumerate(boxes) if box is not None}
    labels, numbers = np.unique(segmentation, return_inverse=True)
    boxes = ndimage.find_objects(numbers.reshape(segmentation.shape) + 1)
    return {int(label): box for label, box in zip(labels, boxes, strict=True) if label > 0}


def _cut(image, x0, y0, size):
    """Square stamp of an image, zero outside it, and the mask of what is outside."""
    ny, nx = image.shape
    bottom, top, left, right = (min(max(v, 0), n) for v, n in ((y0, ny), (y0 + size, ny), (x0, nx), (x0 + size, nx)))
    stamp = np.zeros((size, size), dtype=image.dtype.newbyteorder("="))
    outside = np.ones((size, size), dtype=bool)
    inner = slice(bottom - y0, top - y0), slice(left - x0, right - x0)
    if bottom < top and left < right:
        stamp[inner] = image[bottom:top, left:right]
        outside[inner] = False
    return stamp, outside


def stamp_origins(positions: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """First pixel (x, y) of stamps around positions, rounded as `astropy.nddata.Cutout2D` does."""
    safe = np.clip(np.nan_to_num(positions, nan=-1e9), -1e9, 1e9)
    return np.ceil(safe - sizes[:, None] / 2.0).astype(np.int64)


def stamp_size(extent: float, factor: float = 2.0, smallest: int = 32, largest: int = 512, step: int = 16) -> int:
    """Side of a stamp for a source whose segment is `extent` pixels long, a multiple of 16."""
    return min(max(smallest, step * math.ceil(factor * extent / step)), largest)
