"""Source lists with an image, and the sources detected in one: stamps are cut where the sources are."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from galmeasure.exceptions import CatalogError
from galmeasure.io.fits_files import reading
from galmeasure.io.headers import wcs_pixel_scale
from galmeasure.io.image import ImagePlanes, stamp_origins, stamp_size
from galmeasure.io.list_columns import N_WHOLE, read_list
from galmeasure.io.names import spelling_of
from galmeasure.io.positions import find_positions
from galmeasure.io.source import CatalogSource

__all__ = ["DEFAULT_SIZE", "DetectionSource", "ImageSource", "SourceListSource"]

DEFAULT_SIZE = 64
"""Side of the stamps where neither `size` nor a segmentation says how large the sources are."""


class ImageSource(CatalogSource):
    """Sources at positions of an image: what `SkySource`, source lists and detections have in common."""

    def _set_up(self, planes, positions, ids):
        self._planes, self._positions, self._ids = planes, positions, ids
        with reading(planes.path):
            self._use_headers(planes)
        self._set_psf(planes.psf() if self.options.psf is None else None)
        self.notes.extend(planes.notes)
        self._assumed_weight = planes.assumed_weight

    def _use_headers(self, planes):
        self._set_unit(planes.unit_text, "the image")
        self._sizes = self._stamp_sizes()
        self._origins = stamp_origins(self._positions, self._sizes)
        self._calibrate([planes.header, planes.primary_header], planes.path, wcs_pixel_scale(planes.wcs))

    def _stamp_sizes(self):
        count = len(self._positions)
        if self.options.size is not None:
            return np.full(count, self.options.size)
        sizes = np.full(count, DEFAULT_SIZE)
        if self._planes.segmentation is not None:
            extents = self._planes.extents(self._positions)
            sizes[extents > 0] = [stamp_size(extent) for extent in extents[extents > 0]]
        return sizes

    def __len__(self):
        return len(self._positions)

    def n_pixels(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Pixels of the stamps of some rows."""
        return self._sizes[rows] ** 2

    def _arguments(self, rows):
        origins, sizes = self._origins[rows], self._sizes[rows]
        data, error, mask = self._planes.stamps(origins, sizes, np.nan_to_num(self._positions[rows], nan=-1e9))
        if len(set(sizes.tolist())) == 1:
            data, mask = np.stack(data), np.stack(mask)
            error = np.stack(error) if isinstance(error, list) else error
        centres = origins + (sizes[:, None] - 1.0) / 2.0
        centres[~np.isfinite(self._positions[rows]).all(axis=1)] = np.nan
        return {
            "cutouts": data,
            "error": error,
            "mask": mask,
            "positions": centres,
            "wcs": self._planes.wcs,
            "ids": self._ids[rows],
        }


class SourceListSource(ImageSource):
    """Source list (FITS, ECSV, CSV, Parquet, VOTable, SExtractor text) with an image.

    Parameters
    ----------
    path : path-like
        File of the list of sources.
    options : ReadOptions
        Options; `image` is needed.
    """

    def __init__(self, path, options):
        super().__init__(path, options, kind="source list")
        self._table = read_list(path, cut_table=True)
        planes = ImagePlanes(options.image, options)
        positions = find_positions(self._table, planes, self.path)
        if not len(positions):
            msg = f"{self.path}: no sources"
            raise CatalogError(msg)
        name = spelling_of(self.column_names, "id")
        ids = np.arange(1, len(positions) + 1) if name is None else _array(self._table[name])
        self._set_up(planes, positions, ids)

    @property
    def n_whole(self) -> int:
        """Number of rows, from the first one on, that are whole in the file."""
        return self._table.meta.get(N_WHOLE, len(self))

    @property
    def column_names(self) -> list[str]:
        """Names of the input columns with one value per row."""
        return [name for name in self._table.colnames if not hasattr(self._table[name], "spherical")]

    def columns(self, rows: npt.ArrayLike, names: Sequence[str]) -> dict[str, Any]:
        """Input columns with one value per row, with their units and masks."""
        return {name: self._table[name][np.asarray(rows, dtype=np.int64)] for name in names}


def _array(column):
    """Plain array of a column, masked where values are missing."""
    if isinstance(column, np.ma.MaskedArray) and np.ma.getmaskarray(column).any():
        return np.ma.array(column.data, mask=column.mask)
    return np.asarray(column)


class DetectionSource(ImageSource):
    """Sources detected in an image; its background is subtracted.

    Parameters
    ----------
    path : path-like
        File of the image with the sources.
    options : ReadOptions
        Options with which files are read.
    """

    def __init__(self, path, options):
        from galmeasure.io.detection import detect_sources

        super().__init__(path, options, kind="detection")
        planes = ImagePlanes(path, options)
        bad = None if planes.mask is None else np.asarray(planes.mask) != 0
        detection = detect_sources(planes.data, mask=bad)
        planes.data = detection.data
        planes.segmentation = detection.segmentation
        if planes.error is None and planes.weight is None:
            planes.error = detection.background_rms
            self.notes.append("error: rms of the background")
        self._set_up(planes, detection.positions, detection.labels)
        self.notes.append(f"{len(self)} sources detected")
