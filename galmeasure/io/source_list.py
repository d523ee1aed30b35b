"""Source lists with an image, and the sources detected in one: stamps are cut where the sources are."""

import numpy as np
from astropy.io import fits

from galmeasure.exceptions import CatalogError

from ._fits import (
    READ_ERRORS,
    TableRows,
    existing,
    has_fits_magic,
    is_chosen,
    is_table,
    one_line,
    open_fits,
    quiet,
    split_extension,
)
from ._headers import wcs_pixel_scale
from ._names import PIXEL_NAMES, SKY_NAMES, find_column, find_pair, some_names
from .image import ImagePlanes, stamp_origins, stamp_size
from .source import CatalogSource

__all__ = ["DEFAULT_SIZE", "DetectionSource", "ImageSource", "SourceListSource", "read_list"]

DEFAULT_SIZE = 64
"""Side of the stamps where neither `size` nor a segmentation says how large the sources are."""


class ImageSource(CatalogSource):
    """Sources at positions of an image: what `SkySource`, source lists and detections have in common."""

    def _set_up(self, planes, positions, ids):
        self._planes, self._positions, self._ids = planes, positions, ids
        self._set_unit(planes.unit_text, "the image")
        self._sizes = self._stamp_sizes()
        self._origins = stamp_origins(positions, self._sizes)
        self._calibrate([planes.header, planes.primary_header], planes.path, wcs_pixel_scale(planes.wcs))
        self._set_psf(planes.psf() if self.options.psf is None else None)
        self.notes.extend(planes.notes)
        self._assumed_weight = planes.assumed_weight

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

    def n_pixels(self, rows):
        """Pixels of the stamps of some rows."""
        return self._sizes[rows] ** 2

    def _parts(self, rows):
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
        The list.
    options : ReadOptions
        Options; `image` is needed.
    """

    def __init__(self, path, options):
        super().__init__(path, options, kind="source list")
        self._columns = read_list(path, cut_table=True)
        planes = ImagePlanes(options.image, options)
        positions = self._find_positions(planes)
        if not len(positions):
            msg = f"{self.path}: no sources"
            raise CatalogError(msg)
        name = find_column(self._columns, "id")
        ids = np.arange(1, len(positions) + 1) if name is None else np.asarray(self._columns[name])
        self._set_up(planes, positions, ids)

    def _find_positions(self, planes):
        found = find_pair(self._columns, PIXEL_NAMES)
        if found:
            return np.stack([self._numbers(name) for name in found[:2]], axis=1) - found[2]
        found = find_pair(self._columns, SKY_NAMES)
        if not found:
            msg = f"{self.path}: no positions (x and y, or ra and dec); there are {some_names(self._columns)}"
            raise CatalogError(msg)
        if planes.wcs is None:
            msg = f"{planes.path}: image: has no celestial WCS, so the list must give x and y rather than ra and dec"
            raise CatalogError(msg)
        with quiet():
            return np.stack(planes.wcs.world_to_pixel_values(*(self._numbers(name) for name in found)), axis=1)

    def _numbers(self, name):
        try:
            return np.asarray(self._columns[name], dtype=float)
        except (TypeError, ValueError) as err:
            msg = f"{self.path}: the column {name} must hold numbers"
            raise CatalogError(msg) from err

    @property
    def n_whole(self) -> int:
        """Number of rows, from the first one on, that are whole in the file."""
        return getattr(self._columns, "n_whole", len(self))

    @property
    def column_names(self):
        """Names of the input columns with one value a row."""
        return list(self._columns)

    def columns(self, rows, names):
        """Input columns with one value a row."""
        return {name: np.asarray(self._columns[name])[rows] for name in names}


class DetectionSource(ImageSource):
    """Sources detected in an image; its background is subtracted.

    Parameters
    ----------
    path : path-like
        The image.
    options : ReadOptions
        Options.
    """

    def __init__(self, path, options):
        from .detection import detect_sources

        super().__init__(path, options, kind="detection")
        planes = ImagePlanes(path, options)
        bad = None if planes.mask is None else np.asarray(planes.mask) != 0
        found = detect_sources(planes.data, mask=bad)
        planes.data = found.data
        planes.segmentation = found.segmentation
        if planes.error is None and planes.weight is None:
            planes.error = found.background_rms
            self.notes.append("error: rms of the background")
        self._set_up(planes, found.positions, found.labels)
        self.notes.append(f"{len(self)} sources detected")


class _CutColumns(dict):
    """Columns of a table whose file ends early; only the first `n_whole` rows are from the file."""

    n_whole = 0


def read_list(path, *, cut_table=False):
    """Columns with one value a row of a source list.

    Parameters
    ----------
    path : path-like
        FITS, ECSV, CSV, Parquet, VOTable, or SExtractor text (``.cat``).
    cut_table : bool, optional
        Whether a FITS table may end early; the columns then have an attribute ``n_whole``, and are filled up with
        zeros beyond these rows.

    Returns
    -------
    dict of str to ndarray
        In the order of the file; positions in degrees where they have a unit, missing numbers as NaN.

    Raises
    ------
    CatalogError
        If the file cannot be read as a table.
    """
    path, extension = split_extension(path)
    existing(path)
    if has_fits_magic(path):
        return _read_fits_list(path, extension, cut_table)
    try:
        with quiet():
            columns = _parquet_columns(path) if path.suffix == ".parquet" else _table_columns(path)
    except CatalogError:
        raise
    except (*READ_ERRORS, ImportError, RuntimeError) as err:
        msg = f"{path}: cannot be read as a table ({one_line(err)[:200]})"
        raise CatalogError(msg) from err
    if not columns:
        msg = f"{path}: no columns"
        raise CatalogError(msg)
    return columns


def _read_fits_list(path, extension, cut_table):
    with open_fits(path, cut_table=cut_table) as hdus:
        tables = [hdu for i, hdu in enumerate(hdus) if is_table(hdu) and is_chosen(extension, i, hdu)]
        if not tables:
            kind = "an ASCII table" if any(isinstance(hdu, fits.TableHDU) for hdu in hdus) else "no table"
            msg = f"{path}: {kind} where a FITS binary table is needed"
            raise CatalogError(msg)
        rows = TableRows(path, tables[0])
        names = [name for name in rows.names if rows.shape(name) == ()]
        values = rows.read(np.arange(rows.n_whole), names)
    if rows.n_whole < len(rows):
        missing = len(rows) - rows.n_whole
        values = _CutColumns({n: np.concatenate([v, np.zeros(missing, v.dtype)]) for n, v in values.items()})
        values.n_whole = rows.n_whole
        return values
    return {n: v.astype(v.dtype.newbyteorder("=")) if v.dtype.kind in "iufc" else v for n, v in values.items()}


def _table_columns(path):
    from astropy.table import Table

    formats = {
        ".ecsv": "ascii.ecsv",
        ".csv": "ascii.csv",
        ".vot": "votable",
        ".votable": "votable",
        ".xml": "votable",
        ".cat": "ascii.sextractor",
    }
    if path.suffix.lower() in (".fits", ".fit", ".gz", ".fz"):
        msg = f"{path}: not a FITS file"
        raise CatalogError(msg)
    if path.suffix.lower() not in formats:
        known = ", ".join([".fits", *formats, ".parquet"])
        msg = f"{path}: not a FITS file, and its name ends in none of {known}"
        raise CatalogError(msg)
    table = Table.read(path, format=formats[path.suffix.lower()])
    columns = {}
    for name in table.colnames:
        column = table[name]
        if hasattr(column, "ra") and hasattr(column, "dec"):
            columns.setdefault("ra", column.ra.deg)
            columns.setdefault("dec", column.dec.deg)
        elif getattr(column, "ndim", 0) == 1:
            columns[name] = _plain(column)
    return columns


def _plain(column):
    """Column as an array: angles in degrees, missing numbers as NaN."""
    import astropy.units as u

    if getattr(column, "unit", None) is not None and u.Unit(column.unit).is_equivalent(u.deg):
        column = column * u.Unit(column.unit).to(u.deg)
    if hasattr(column, "filled"):
        column = (
            column.astype(float).filled(np.nan) if column.dtype.kind in "iuf" and column.mask.any() else column.filled()
        )
    return np.asarray(column)


def _parquet_columns(path):
    try:
        import pyarrow.parquet as pq
    except ImportError as err:
        msg = f"{path}: Parquet files need pyarrow, which is not installed"
        raise CatalogError(msg) from err
    import pyarrow as pa

    table = pq.read_table(path)
    simple = [f.name for f in table.schema if not pa.types.is_nested(f.type)]
    return {name: table[name].to_numpy() for name in simple}
