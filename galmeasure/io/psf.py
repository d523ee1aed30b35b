"""PSF files: images, cubes with one PSF for each row, and PSFEx models that vary over the image."""

import math
import re
from dataclasses import dataclass

import numpy as np

from galmeasure.exceptions import CatalogError

from ._fits import (
    TableRows,
    image_data,
    is_chosen,
    is_image,
    is_table,
    open_fits,
    reading,
    split_extension,
    table_names,
)
from ._headers import psf_oversampling
from ._names import EXTENSION_NAMES

__all__ = ["PSFExModel", "PSFInput", "load_psf", "read_psf"]


class PSFExModel:
    """PSF of PSFEx: images whose pixels are polynomials in the position.

    Parameters
    ----------
    basis : array_like
        Shape (n_terms, py, px): one image a polynomial term, in PSFEx's order
        (1, x, x**2, ..., y, x y, ..., y**2, ...).
    degree : int
        Degree of the polynomial.
    pixel_step : float, optional
        Step of the samples in image pixels (``PSF_SAMP``).
    zero, scale : tuple of float, optional
        ``POLZERO`` and ``POLSCAL`` of x and y, in FITS pixels (the first pixel's centre is 1).
    n_axes : {0, 1, 2}, optional
        Number of variables of the polynomial: none, x, or x and y.

    Attributes
    ----------
    oversampling : int
        Samples a pixel of the images given by `image_at`: the whole number at or above ``1 / pixel_step``.

    Raises
    ------
    ValueError
        If the number of images is not that of the polynomial's terms.

    Notes
    -----
    PSFEx samples the effective PSF, pixel response included. Where its step is not
    one over a whole number the images are resampled once, by Lanczos interpolation.

    Examples
    --------
    >>> import numpy as np
    >>> from galmeasure.io import PSFExModel
    >>> model = PSFExModel(np.ones((1, 25, 25)), degree=0, pixel_step=0.5)
    >>> model.oversampling, model.image_at(100.0, 200.0).shape
    (2, (25, 25))
    """

    def __init__(self, basis, degree, pixel_step=1.0, *, zero=(0.0, 0.0), scale=(1.0, 1.0), n_axes=2):
        basis = np.asarray(basis, dtype=float)
        self.degree, self.pixel_step, self.n_axes = int(degree), float(pixel_step), int(n_axes)
        self.zero, self.scale = tuple(zero), tuple(scale)
        n_terms = math.comb(self.degree + self.n_axes, self.n_axes)
        if basis.ndim != 3 or len(basis) != n_terms:
            msg = f"basis must have {n_terms} images for degree {self.degree} in {self.n_axes} variables: {basis.shape}"
            raise ValueError(msg)
        if not 0.02 <= self.pixel_step <= 50.0:
            msg = f"pixel_step must lie between 0.02 and 50 pixels, not {pixel_step}"
            raise ValueError(msg)
        self.oversampling = max(1, math.ceil(1.0 / self.pixel_step - 1e-3))
        self.basis = _resample(basis, 1.0 / (self.oversampling * self.pixel_step))

    def __repr__(self):
        return f"<PSFExModel: degree {self.degree}, {self.basis.shape[1:]} samples, {self.oversampling} a pixel>"

    def images_at(self, positions):
        """PSF images at several positions.

        Parameters
        ----------
        positions : array_like
            Shape (N, 2): x, y in image pixels, 0 is the centre of the first pixel.

        Returns
        -------
        ndarray
            Shape (N, py, px), float64, at `oversampling` samples a pixel.
        """
        positions = np.atleast_2d(np.asarray(positions, dtype=float))
        terms = self._terms(positions)
        return np.tensordot(terms, self.basis, axes=(1, 0))

    def image_at(self, x, y):
        """PSF image at one position; see `images_at`."""
        return self.images_at([[x, y]])[0]

    def _terms(self, positions):
        x, y = ((positions[:, i] + 1.0 - self.zero[i]) / self.scale[i] for i in range(2))
        if self.n_axes == 0:
            return np.ones((len(positions), 1))
        if self.n_axes == 1:
            return np.stack([x**i for i in range(self.degree + 1)], axis=1)
        return np.stack([x**i * y**j for j in range(self.degree + 1) for i in range(self.degree + 1 - j)], axis=1)


def _resample(images, ratio):
    """Images at `ratio` times the step, centre kept, odd shapes; by separable Lanczos interpolation."""
    if abs(ratio - 1.0) < 1e-3:
        return images
    matrices = [_lanczos(size, ratio) for size in images.shape[1:]]
    return np.einsum("ay,nyx,bx->nab", matrices[0], images, matrices[1])


def _lanczos(size, ratio, order=4):
    centre = (size - 1) / 2.0
    half = int(centre / ratio)
    distance = (centre + ratio * np.arange(-half, half + 1))[:, None] - np.arange(size)
    width = max(1.0, ratio)
    kernel = np.sinc(distance / width) * np.sinc(distance / width / order) * (np.abs(distance) < order * width)
    return kernel / kernel.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class PSFInput:
    """A PSF as it came from a file: an array, one array for each row, or a model of the position."""

    psf: object
    oversampling: int = 1

    @property
    def varies(self):
        """Whether the PSF is a model that needs positions."""
        return isinstance(self.psf, PSFExModel)

    @property
    def per_row(self):
        """Whether there is one PSF image a row."""
        return isinstance(self.psf, np.ndarray) and self.psf.ndim == 3

    def at_rows(self, rows):
        """What belongs to the given rows, as `Cutouts` takes it."""
        return self.psf[rows] if self.per_row else self.psf


def read_psf(path, *, return_oversampling=False):
    """PSF of a file.

    Parameters
    ----------
    path : path-like
        FITS file with a PSF image, with a cube of one PSF image for each row of a catalogue,
        or a PSFEx model (``.psf``). ``file.fits[NAME]`` chooses an extension; otherwise an
        extension named ``PSF`` is preferred, then the first image.
    return_oversampling : bool, optional
        Also return the samples in a pixel, from the header keywords ``OVERSAMP``, ``DET_SAMP``
        or ``PSFSAMP``; 1 without any.

    Returns
    -------
    psf : ndarray or PSFExModel
        Array of shape (py, px) or (N, py, px), or the model.
    oversampling : int
        Only if asked for.

    Raises
    ------
    CatalogError
        If the file cannot be read or holds no PSF.
    """
    found = load_psf(path)
    return (found.psf, found.oversampling) if return_oversampling else found.psf


def load_psf(path):
    """PSF of a file as a `PSFInput`; see `read_psf`."""
    path, extension = split_extension(path)
    with reading(path), open_fits(path) as hdus:
        tables = [hdu for hdu in hdus if is_table(hdu) and "PSF_MASK" in [name.upper() for name in table_names(hdu)]]
        if tables:
            return _read_psfex(path, tables[0])
        images = [hdu for hdu in hdus if is_image(hdu)]
        if extension is not None:
            images = [hdu for i, hdu in enumerate(hdus) if is_image(hdu) and is_chosen(extension, i, hdu)]
        named = [hdu for hdu in images if hdu.name.upper() in EXTENSION_NAMES["psf"]]
        if not images:
            msg = f"{path}: psf: neither an image nor a PSFEx model is there"
            raise CatalogError(msg)
        return psf_from_hdu((named or images)[0], path)


def psf_from_hdu(hdu, path):
    """PSF image or cube of an image HDU."""
    data = np.array(image_data(hdu, path, "psf"), dtype=float)
    return PSFInput(data, psf_oversampling(hdu.header, path))


def _read_psfex(path, hdu):
    header, rows = hdu.header, TableRows(path, hdu)
    name = next(name for name in rows.names if name.upper() == "PSF_MASK")
    basis = np.asarray(rows.read([0], [name])[name][0], dtype=float)
    n_axes = int(header.get("POLNAXIS", 0))
    names = [str(header.get(f"POLNAME{i + 1}", "")).strip() for i in range(n_axes)]
    axes = ["x" if re.match("X", n) else "y" if re.match("Y", n) else "?" for n in names]
    if int(header.get("POLNGRP", 1)) > 1 or axes not in ([], ["x"], ["x", "y"]):
        msg = f"{path}: psf: PSFEx polynomials must be in x, or x and y, not in {', '.join(names)}"
        raise CatalogError(msg)
    try:
        return _psfex_model(header, basis, n_axes)
    except (ValueError, TypeError, KeyError, ZeroDivisionError) as err:
        msg = f"{path}: psf: damaged PSFEx model ({err})"
        raise CatalogError(msg) from err


def _psfex_model(header, basis, n_axes):
    model = PSFExModel(
        basis.reshape(-1, *basis.shape[-2:]),
        int(header.get("POLDEG1", 0)) if n_axes else 0,
        float(header["PSF_SAMP"]),
        zero=[float(header.get(f"POLZERO{i}", 0.0)) for i in (1, 2)],
        scale=[float(header.get(f"POLSCAL{i}", 1.0)) for i in (1, 2)],
        n_axes=n_axes,
    )
    return PSFInput(model, model.oversampling)
