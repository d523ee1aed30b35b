"""The door: what kind of catalogue a file is."""

import os
from typing import TYPE_CHECKING

import numpy as np
from astropy.io import fits

from galmeasure.exceptions import CatalogError
from galmeasure.io.cutout_table import CutoutTableSource, find_cutout_table
from galmeasure.io.fits_files import (
    OptionError,
    existing,
    has_fits_magic,
    is_chosen,
    is_image,
    is_table,
    open_fits,
    reading,
    split_extension,
    table_names,
)
from galmeasure.io.list_columns import read_list
from galmeasure.io.multi_extension import MultiExtensionSource, holds_cutouts
from galmeasure.io.names import COLUMN_NAMES, some_names, spelling_of
from galmeasure.io.parquet_rows import ParquetRows, is_parquet
from galmeasure.io.single_image import SingleImageSource, is_single_image
from galmeasure.io.source import CatalogSource, ReadOptions
from galmeasure.io.source_list import DetectionSource, SourceListSource

if TYPE_CHECKING:
    from galmeasure.cutouts import Cutouts

__all__ = ["open_catalog", "read_cutouts"]


def open_catalog(path: str | os.PathLike | None = None, **options) -> CatalogSource:
    """Open a catalogue to be read in chunks.

    Parameters
    ----------
    path : path-like
        A FITS cutout table (one stamp per row in a column ``cutout``, ``image``, ``stamp`` or ``vignet``), a FITS file
        of cutouts in extensions or a cube, Parquet with such a column of lists, a source list (with `image`), an
        image (with `detect`), or the image of one galaxy (with `error`, `mask` and the like in files of their own).
        ``file.fits[NAME]``, ``file.fits[NAME,VERSION]`` and ``file.fits[2]`` choose an extension.
    image : path-like, optional
        Image in which the sources of the list at `path` are measured.
    psf : path-like, ndarray or PSFExModel, optional
        PSF, see `read_psf`; instead of the one in the file. ``"none"``: a delta function.
    psf_oversampling : int, optional
        Samples per pixel of the PSF images; instead of what their header says.
    psf_flux : float, array_like or "sum", optional
        Fraction of a star's light that the PSF images hold: one, or one for each row; ``"sum"``: that of their pixels.
        Estimated from the images if not given.
    psf_includes_pixel : bool, optional
        Whether the response of the pixel is in the PSF images; if not they are convolved with it. By default what the
        file says, else True.
    error : float or str, optional
        1-sigma error: a number, an image (with `image` or `detect`, or of one galaxy), or a column of the cutout table.
    weight : str, optional
        Inverse variances in place of the error: an image or a column. Pixels without weight are masked.
    weight_type : {"ivar", "exposure", "relative"}, optional
        Meaning of the weights: inverse variances, exposure times, or numbers without a unit. With the last two the
        error is estimated at the border of each stamp. By default `weight`, and what its name or unit says, is "ivar".
    mask : str, optional
        Image or column in which anything but zero is bad, see `mask_bits`.
    mask_bits : int, str or list, optional
        Bits of the mask that are bad: the sum of their values ``2**bit``, or a list (or text with commas) of bit
        numbers, counted from 0, and names of planes; ``"~DETECTED"``: all the others. By default all bits but those
        that are known to be harmless.
    segmentation : str, optional
        Image or column of segment labels. Other labels than that of the target are masked.
    size : int, optional
        Side of the stamps cut from an image. By default twice the source's segment, 32 to 512, or 64 without segments.
    detect : bool, optional
        Detect the sources of the image, and subtract its background.
    gain, pixel_scale, zero_point : float, optional
        e- per unit (0 for none), arcsec per pixel, and magnitude of one unit; instead of what the headers say.

    Returns
    -------
    CatalogSource
        With ``len()``, ``kind``, ``blocks(rows)``, ``chunks(rows)``, ``read(rows)`` and ``columns(rows, names)``.

    Raises
    ------
    CatalogError
        If a file cannot be read, or something is missing in it.
    ValueError
        If options do not fit together.
    """
    options = ReadOptions(**options)
    source = _open_rows(options.image if path is None else path, options)
    source.opened_as = path
    source.check_noise()
    return source


def _open_rows(path, options):
    """Source of the kind that the options ask for, which has a row at least."""
    if path is None:
        msg = "path: a catalogue or an image is needed"
        raise ValueError(msg)
    with reading(path):
        source = _open(path, options)
        if not len(source):
            msg = f"{path}: no rows"
            raise CatalogError(msg)
    return source


def _open(path, options):
    """Source of the kind that the options ask for."""
    if options.detect:
        if options.image is not None and os.fspath(options.image) != os.fspath(path):
            msg = "detect finds the sources in the image itself: it takes no list"
            raise OptionError(msg)
        return DetectionSource(path, options)
    if options.image is not None:
        if os.fspath(options.image) == os.fspath(path):
            msg = f"image: give a list of its sources as well (LIST --image {path}), or --detect (detect=True)"
            raise OptionError(msg)
        return SourceListSource(path, options)
    return _open_cutouts(path, options)


def _open_cutouts(path, options):
    """Cutout table, cube, multi-extension file or one galaxy; or the reason why it is none of them."""
    whole_path = path
    path, extension = split_extension(path)
    existing(path, may_be_folder=True)  # of Parquet files
    if is_parquet(path):
        rows = ParquetRows(path)
        name = spelling_of(rows.names, "cutout")
        if name is not None and rows.shape(name) != ():
            return CutoutTableSource(path, options, fits.HDUList([fits.PrimaryHDU(header=rows.header)]), rows=rows)
    if not has_fits_magic(path):
        names = read_list(path).colnames
        msg = f"{path}: has no cutouts (columns {some_names(names)}); a source list needs an image (--image)"
        raise CatalogError(msg)
    with open_fits(path, cut_table=True) as hdus:
        if find_cutout_table(hdus, extension) is not None:
            return CutoutTableSource(path, options, hdus, extension)
        if is_single_image(hdus, extension, options):
            return SingleImageSource(whole_path, options, extension)
        tables = [hdu for number, hdu in enumerate(hdus) if is_table(hdu) and is_chosen(extension, number, hdu)]
        if holds_cutouts(hdus, extension):
            return MultiExtensionSource(path, options, hdus, extension)
        if tables:
            msg = (
                f"{path}: no cutout column ({', '.join(COLUMN_NAMES['cutout'])}) in the table; it has "
                f"{some_names(table_names(tables[0]))}; a source list needs an image (--image)"
            )
            raise CatalogError(msg)
        if not any(is_image(hdu) for hdu in hdus):
            msg = f"{path}: neither a table nor an image is there (is the file truncated?)"
            raise CatalogError(msg)
        return MultiExtensionSource(path, options, hdus, extension)


def read_cutouts(path: str | os.PathLike, **options) -> "Cutouts":
    """All the cutouts of a catalogue.

    Parameters
    ----------
    path : path-like
        The catalogue; see `open_catalog`.
    **options
        The same options as those of `open_catalog`.

    Returns
    -------
    galmeasure.Cutouts
        One cutout a row.
    """
    source = open_catalog(path, **options)
    return source.read(np.arange(len(source)))
