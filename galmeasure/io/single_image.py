"""An image of one galaxy whose error, mask and segmentation are in files of their own."""

import os

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from galmeasure.exceptions import CatalogError
from galmeasure.io.extensions import role_of
from galmeasure.io.fits_files import OptionError, image_shape, is_chosen, is_image, reading
from galmeasure.io.headers import wcs_pixel_scale
from galmeasure.io.image import ImagePlanes
from galmeasure.io.multi_extension import LARGEST, LARGEST_ALONE, field_advice
from galmeasure.io.source import CatalogSource, ReadOptions

__all__ = ["SingleImageSource", "is_single_image"]

_ID_KEYWORDS = ("ID", "OBJID", "OBJECT")


def is_single_image(hdus: fits.HDUList, extension: str | None, options: ReadOptions) -> bool:
    """Tell if a file has one image of a cutout and the options name files with what belongs to it.

    Parameters
    ----------
    hdus : astropy.io.fits.HDUList
        The open FITS file.
    extension : str or None
        Extension that was asked for; all of them if None.
    options : ReadOptions
        Options with which the file is read.
    """
    planes = (options.error, options.weight, options.mask, options.segmentation)
    if not any(isinstance(plane, str | os.PathLike) for plane in planes):
        return False
    images = [(number, hdu) for number, hdu in enumerate(hdus) if is_image(hdu)]
    chosen = [(number, hdu) for number, hdu in images if is_chosen(extension, number, hdu)]
    cutouts = [hdu for _, hdu in chosen if role_of(hdu)[0] == "cutout"] or [hdu for _, hdu in chosen]
    return len(cutouts) == 1 and len(image_shape(cutouts[0].header)) == 2


class SingleImageSource(CatalogSource):
    """One galaxy: an image, and files with its error or weight, mask and segmentation.

    What no option names is taken from extensions of the image's own file.

    Parameters
    ----------
    path : path-like
        File of the image; ``file.fits[NAME]`` chooses an extension.
    options : ReadOptions
        Options, which name the other files.
    extension : str, optional
        Extension that `path` names: a larger image then is taken for one galaxy.
    """

    def __init__(self, path, options, extension=None):
        super().__init__(path, options, kind="image of one galaxy")
        if options.size is not None:
            msg = "size does not apply to an image of one galaxy, which is measured as it is"
            raise OptionError(msg)
        self._planes = planes = ImagePlanes(path, options)
        self.path = planes.path
        ny, nx = planes.shape
        if max(ny, nx) > (LARGEST_ALONE if extension is None else LARGEST):
            msg = f"{path}: an image of {nx} x {ny} pixels is not a cutout; {field_advice(path)}"
            raise CatalogError(msg)
        headers = [planes.header, planes.primary_header]
        with reading(planes.path):
            self._set_unit(planes.unit_text, "the image")
            self._calibrate(headers, planes.path, wcs_pixel_scale(planes.wcs))
        self._set_psf(planes.psf() if options.psf is None else None)
        if self.psf.varies:
            msg = f"{self.path}: psf: a PSF that varies over the image needs positions, which one galaxy does not have"
            raise CatalogError(msg)
        self.notes.extend(planes.notes)
        self._assumed_weight = planes.assumed_weight
        names = (header.get(keyword) for keyword in _ID_KEYWORDS for header in headers)
        self._id = next((name for name in names if name is not None), 1)

    def __len__(self):
        return 1

    def n_pixels(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Pixels of the stamps of some rows."""
        return np.full(len(rows), np.prod(self._planes.shape))

    def _arguments(self, rows):
        data, error, mask = self._planes.whole()
        arguments = {"cutouts": data[None], "error": error, "mask": mask[None], "ids": np.array([self._id])}
        if isinstance(error, np.ndarray):
            arguments["error"] = error[None]
        if self._planes.wcs is not None:
            arguments["wcs"] = [self._planes.wcs]
        return arguments if len(rows) == 1 else {name: _repeated(value, rows) for name, value in arguments.items()}


def _repeated(value, rows):
    """Argument of several rows, which are the same galaxy."""
    if isinstance(value, list):
        return value * len(rows)
    return np.repeat(value, len(rows), axis=0) if isinstance(value, np.ndarray) else value
