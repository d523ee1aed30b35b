"""An image with its error, mask and segmentation, and the stamps cut from them."""

import math
import os

import astropy.units as u
import numpy as np
from scipy import ndimage

from galmeasure.exceptions import CatalogError

from ._fits import image_data, is_image, load_plane, open_fits, split_extension
from ._headers import celestial_wcs, parse_unit
from ._names import EXTENSION_NAMES
from .psf import psf_of_extensions
from .source import segmentation_mask, weight_to_error

__all__ = ["ImagePlanes", "stamp_origins"]


class ImagePlanes:
    """Image, error or weight, mask and segmentation of one field, all of one shape.

    Planes that no option gives are taken from extensions of the image's own file (``ERR``, ``WHT``,
    ``MASK``, ``SEG``, ``PSF``).

    Parameters
    ----------
    path : path-like
        FITS image; ``file.fits[NAME]`` chooses an extension.
    options : ReadOptions
        Where the other planes are; `error` may be a number.
    """

    def __init__(self, path, options):
        self.path, extension = split_extension(path)
        self.data, self.header = load_plane(path, "image", EXTENSION_NAMES["cutout"])
        with open_fits(self.path) as hdus:
            self.primary_header = hdus[0].header
            self._own = {} if extension else self._own_planes(hdus, with_psf=options.psf is None)
        self.wcs = celestial_wcs(self.header)
        self.unit = parse_unit(self.header.get("BUNIT"))
        self.error = self._error(options)
        self.weight = None if self.error is not None else self._plane("weight", options.weight)
        self.mask = self._plane("mask", options.mask)
        self.segmentation = self._plane("segmentation", options.segmentation)
        self._boxes = None

    @property
    def shape(self):
        """(ny, nx) of the image."""
        return self.data.shape

    def psf(self):
        """PSF of an extension of the image's file, or None."""
        return self._own.get("psf")

    def _own_planes(self, hdus, with_psf):
        """Planes in extensions of the image's own file."""
        planes = {}
        for hdu in hdus:
            role = next((r for r, names in EXTENSION_NAMES.items() if hdu.name.upper() in names), None)
            if is_image(hdu) and role in ("error", "weight", "mask", "segmentation"):
                planes.setdefault(role, image_data(hdu, self.path, role, axes=(2,)))
        psf = psf_of_extensions(hdus, self.path) if with_psf else None
        return planes if psf is None else {**planes, "psf": psf}

    def _plane(self, role, option):
        if option is None:
            if role not in self._own:
                return None
            data, origin = self._own[role], self.path
        else:
            data, origin = load_plane(option, role, EXTENSION_NAMES[role])[0], option
        if data.shape != self.shape:
            msg = f"{origin}: {role}: must have the shape of the image, {self.shape}, not {data.shape}"
            raise CatalogError(msg)
        return data

    def _error(self, options):
        if options.weight is not None:
            return None
        if isinstance(options.error, str | os.PathLike):
            self._check_unit(load_plane(options.error, "error", EXTENSION_NAMES["error"])[1], options.error)
        elif options.error is not None:
            return float(options.error)
        return self._plane("error", options.error)

    def _check_unit(self, header, path):
        unit = parse_unit(header.get("BUNIT"))
        if unit is not None and self.unit is not None and u.Unit(unit) != self.unit:
            msg = f"{path}: error: its unit, {unit}, is not that of the image, {self.unit}"
            raise CatalogError(msg)

    def label_at(self, x, y):
        """Segmentation label of the source at a position, within three pixels of it; 0 if there is none."""
        x0, y0 = round(x) - 3, round(y) - 3
        stamp = self.segmentation[max(0, y0) : max(0, y0 + 7), max(0, x0) : max(0, x0 + 7)]
        rows, columns = np.nonzero(stamp > 0)
        if not len(rows):
            return 0
        distance = np.hypot(columns + max(0, x0) - x, rows + max(0, y0) - y)
        nearest = np.argmin(distance)
        return int(stamp[rows[nearest], columns[nearest]]) if distance[nearest] <= 3.0 else 0

    def extents(self, positions):
        """Longer side of the box around the segment at each position, in pixels; 0 where there is none."""
        if self._boxes is None:
            self._boxes = ndimage.find_objects(np.maximum(np.asarray(self.segmentation, dtype=np.int64), 0))
        extents = np.zeros(len(positions), dtype=np.int64)
        for i, (x, y) in enumerate(positions):
            label = self.label_at(x, y) if np.isfinite([x, y]).all() and max(abs(x), abs(y)) < 1e9 else 0
            box = self._boxes[label - 1] if label else None
            extents[i] = max(side.stop - side.start for side in box) if box else 0
        return extents

    def stamps(self, origins, sizes, positions):
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
                mask = mask | (_cut(self.mask, x0, y0, size)[0] != 0)
            if self.weight is not None:
                error, bad = weight_to_error(_cut(self.weight, x0, y0, size)[0])
                mask = mask | bad
                errors.append(error)
            elif isinstance(self.error, np.ndarray):
                errors.append(np.where(outside, 1.0, _cut(self.error, x0, y0, size)[0]))
            if self.segmentation is not None:
                labels, _ = _cut(self.segmentation, x0, y0, size)
                mask = mask | segmentation_mask(labels, *(position - (x0, y0)))
            data.append(image)
            masks.append(mask)
        return data, errors or self.error, masks


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


def stamp_origins(positions, sizes):
    """First pixel (x, y) of stamps around positions, rounded as `astropy.nddata.Cutout2D` does."""
    safe = np.clip(np.nan_to_num(positions, nan=-1e9), -1e9, 1e9)
    return np.ceil(safe - sizes[:, None] / 2.0).astype(np.int64)


def stamp_size(extent, factor=2.0, smallest=32, largest=512, step=16):
    """Side of a stamp for a source whose segment is `extent` pixels long, a multiple of 16."""
    return min(max(smallest, step * math.ceil(factor * extent / step)), largest)
