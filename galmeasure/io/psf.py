"""PSF files: images, cubes with one PSF for each row, and PSFEx models that vary over the image."""

import math
import re
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

from galmeasure.exceptions import CatalogError
from galmeasure.io.fits_files import (
    image_data,
    is_chosen,
    is_image,
    is_table,
    one_line,
    open_fits,
    reading,
    split_extension,
    table_names,
)
from galmeasure.io.headers import psf_oversampling
from galmeasure.io.names import EXTENSION_NAMES, some_names
from galmeasure.io.table_rows import TableRows
from galmeasure.psf.images import normalise_psf, psf_stats
from galmeasure.psf.repair import convolve_with_pixel, fill_bad_pixels

__all__ = ["PSFExModel", "PSFInput", "load_psf", "read_psf"]

_OVERSAMPLED = ("OVERDIST", "OVERSAMP")
"""Extensions of STPSF that are sampled finely, without the pixel: with distortion, and without."""

_DETECTOR_SAMPLED = ("DET_DIST", "DET_SAMP")
"""Extensions of STPSF that are added up in the pixels of the detector: with distortion, and without."""

_GRID_KEYWORDS = ("DET_YX0", "DET_YX00", "NXPSFS")
"""Keywords of cubes that hold the PSFs at several places of a detector: those of STPSF, and of STScI's STDPSF."""

_WELL_SAMPLED = 2.0
"""Width of a PSF in pixels from which its sums over the pixels say all of it."""


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
    includes_pixel : bool
        Whether the response of the pixel is in the images; always True.

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

    includes_pixel = True

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

    def images_at(self, positions: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """PSF images at several positions.

        Parameters
        ----------
        positions : array_like
            Shape (N, 2): x, y in image pixels, 0 is the centre of the first pixel.

        Returns
        -------
        ndarray
            Shape (N, py, px), float64, at `oversampling` samples per pixel.
        """
        positions = np.atleast_2d(np.asarray(positions, dtype=float))
        terms = self._terms(positions)
        return np.tensordot(terms, self.basis, axes=(1, 0))

    def image_at(self, x: float, y: float) -> npt.NDArray[np.float64]:
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
    """A PSF as it came from a file: an array, one array for each row, a model of the position, or none.

    Parameters
    ----------
    psf : ndarray, PSFExModel or None
        The PSF; None stands for a delta function, or for a column that is read with the rows.
    oversampling : int, optional
        Samples in a native pixel of the images.
    includes_pixel : bool or None, optional
        Whether the response of the pixel is in the images; None if nothing says so, and it is taken to be.
    note : str, optional
        What was taken, for people to read; empty if there is nothing to say.
    """

    psf: object
    oversampling: int = 1
    includes_pixel: bool | None = None
    note: str = ""

    @property
    def varies(self) -> bool:
        """True if the PSF is a model that needs positions."""
        return isinstance(self.psf, PSFExModel) or hasattr(self.psf, "grid_xypos")

    @property
    def per_row(self) -> bool:
        """True if there is one PSF image per row."""
        return isinstance(self.psf, np.ndarray) and self.psf.ndim == 3

    def at_rows(self, rows: npt.ArrayLike) -> Any:
        """PSF of the given rows, in the form that `Cutouts` takes."""
        return self.psf[rows] if self.per_row else self.psf


def read_psf(path: str | PathLike, *, return_oversampling: bool = False) -> Any:
    """PSF of a file.

    Parameters
    ----------
    path : path-like
        FITS file with a PSF image, with a cube of one PSF image for each row of a catalogue,
        a PSFEx model (``.psf``), a grid of PSFs of photutils and STPSF, or the four images of STPSF (WebbPSF).
        ``file.fits[NAME]`` chooses an extension; otherwise an extension named ``PSF`` is preferred, then the only
        image. What STPSF sampled without the pixel's response is convolved with the pixel.
    return_oversampling : bool, optional
        Also return the samples in a pixel, from the header keywords ``OVERSAMP``, ``DET_SAMP``
        or ``PSFSAMP``; 1 without any.

    Returns
    -------
    psf : ndarray, PSFExModel or photutils.psf.GriddedPSFModel
        Array of shape (py, px) or (N, py, px), or the model.
    oversampling : int
        Only if asked for.

    Raises
    ------
    CatalogError
        If the file cannot be read, holds no PSF, or several of which none is named ``PSF``.
    """
    psf_input = load_psf(path)
    psf = psf_input.psf
    if psf_input.includes_pixel is False:
        images = fill_bad_pixels(psf[None] if psf.ndim == 2 else psf)[0]
        psf = convolve_with_pixel(np.asarray(images), psf_input.oversampling).reshape(psf.shape)
    return (psf, psf_input.oversampling) if return_oversampling else psf


def load_psf(path: str | PathLike) -> PSFInput:
    """PSF of a file as a `PSFInput`, whose images are as they are in the file; see `read_psf`."""
    path, extension = split_extension(path)
    with reading(path), open_fits(path) as hdus:
        candidates = [(i, hdu) for i, hdu in enumerate(hdus) if _is_psfex(hdu) or _may_be_psf(hdu)]
        if extension is not None:
            candidates = [(i, hdu) for i, hdu in enumerate(hdus) if is_chosen(extension, i, hdu)]
            candidates = [(i, hdu) for i, hdu in candidates if _is_psfex(hdu) or is_image(hdu)]
        if not candidates:
            msg = f"{path}: psf: neither an image nor a PSFEx model is there"
            raise CatalogError(msg + (f" in extension {extension}" if extension is not None else ""))
        if len(candidates) > 1:
            stpsf = _of_stpsf([hdu for _, hdu in candidates], path)
            if stpsf is not None:
                return stpsf
            named = [(i, hdu) for i, hdu in candidates if hdu.name.upper() in EXTENSION_NAMES["psf"]]
            candidates = named if len(named) == 1 else candidates
        hdu = only_psf(candidates, path)
        return _read_psfex(path, hdu) if is_table(hdu) else psf_from_hdu(hdu, path)


def psf_of_extensions(hdus: Any, path: str | PathLike) -> PSFInput | None:
    """PSF of the one image extension of a file that is named as one, or None; several are refused."""
    images = [(i, hdu) for i, hdu in enumerate(hdus) if is_image(hdu) and hdu.name.upper() in EXTENSION_NAMES["psf"]]
    return psf_from_hdu(only_psf(images, path), path) if images else None


def psf_from_hdu(hdu: Any, path: str | PathLike) -> PSFInput:
    """PSF image or cube of an image HDU."""
    name, header = hdu.name.upper(), hdu.header
    if any(keyword in header for keyword in _GRID_KEYWORDS):
        return _read_grid(path, hdu)
    data = np.array(image_data(hdu, path, "psf"), dtype=float)
    if name in _DETECTOR_SAMPLED:
        return PSFInput(data, 1, True, f"PSF {name}")
    if name in _OVERSAMPLED:
        return PSFInput(data, _stpsf_oversampling(header, path), False, f"PSF {name}, convolved with the pixel")
    oversampling = psf_oversampling(header, path)
    note = f"PSF with {oversampling} samples per pixel, whose response is taken to be in it" if oversampling > 1 else ""
    return PSFInput(data, oversampling, note=note)


def only_psf(candidates: list[tuple[int, Any]], path: str | PathLike) -> Any:
    """The HDU of a list of pairs (number, HDU); raise if there are several."""
    if len(candidates) > 1:
        names = some_names([_hdu_name(i, hdu) for i, hdu in candidates])
        msg = (
            f"{path}: psf: there are {len(candidates)} of them, {names}; choose one, such as {path}[{candidates[0][0]}]"
        )
        raise CatalogError(msg)
    return candidates[0][1]


def _may_be_psf(hdu):
    """Whether an HDU is an image that is not named as the errors, weights or masks of another."""
    other_names = [
        name for role in ("error", "uncertainty", "variance", "weight", "mask") for name in EXTENSION_NAMES[role]
    ]
    return is_image(hdu) and hdu.name.upper() not in other_names


def _is_psfex(hdu):
    """Whether an HDU is a table with a model of PSFEx."""
    return is_table(hdu) and "PSF_MASK" in [name.upper() for name in table_names(hdu)]


def _hdu_name(index, hdu):
    """Name of an HDU for messages."""
    return f"[{index}]" + (f" {hdu.name}" + (f",{hdu.ver}" if hdu.ver > 1 else "") if hdu.name else "")


def _of_stpsf(hdus, path):
    """PSF of a file of STPSF or WebbPSF, or None if it is another one.

    The sums over the detector's pixels count where they sample the PSF well, as some of the detector's effects are in
    them alone; else the finely sampled image, which is to be convolved with the pixel.
    """
    by_name = {hdu.name.upper(): hdu for hdu in hdus}
    if len(by_name) < len(hdus) or not by_name.keys() <= {*_OVERSAMPLED, *_DETECTOR_SAMPLED}:
        return None
    coarse = next((psf_from_hdu(by_name[name], path) for name in _DETECTOR_SAMPLED if name in by_name), None)
    fine = next((psf_from_hdu(by_name[name], path) for name in _OVERSAMPLED if name in by_name), None)
    if coarse is None or (fine is not None and _width(coarse.psf) < _WELL_SAMPLED and fine.oversampling > 1):
        return fine
    return coarse


def _width(images):
    """Full width at half maximum of a PSF image, or the least one of a cube, in its pixels; 0 if it has none."""
    normalised, ok = normalise_psf(fill_bad_pixels(images.reshape(-1, *images.shape[-2:]))[0])
    return float(np.nanmin(psf_stats(normalised.images, ok).fwhm)) if ok.any() else 0.0


def _stpsf_oversampling(header, path):
    """Samples in a pixel of the detector: DET_SAMP is that of the image, OVERSAMP that of its computation."""
    return psf_oversampling({"OVERSAMP": header.get("DET_SAMP", header.get("OVERSAMP"))}, path)


def _read_grid(path, hdu):
    """Grid of PSFs over a detector, which photutils reads and galmeasure evaluates at positions."""
    from photutils.psf import GriddedPSFModel

    try:
        model = GriddedPSFModel.read(path)
    except Exception as err:  # photutils raises all kinds
        msg = f"{path}: psf: holds the PSFs of a grid, which photutils cannot read ({one_line(err)[:200]})"
        raise CatalogError(msg) from err
    return PSFInput(model, int(model.oversampling[0]), True, f"PSF from a grid of {len(model.data)}")


def _read_psfex(path, hdu):
    header, rows = hdu.header, TableRows(path, hdu)
    if len(rows) != 1:
        msg = f"{path}: psf: the table {hdu.name} must hold one PSFEx model, not {len(rows)}"
        raise CatalogError(msg)
    name = next(name for name in rows.names if name.upper() == "PSF_MASK")
    basis = np.asarray(rows.read([0], [name])[name][0], dtype=float)
    n_axes = int(header.get("POLNAXIS", 0))
    names = [str(header.get(f"POLNAME{i + 1}", "")).strip() for i in range(min(n_axes, 9))]
    axes = ["x" if re.match("X", n) else "y" if re.match("Y", n) else "?" for n in names]
    if int(header.get("POLNGRP", 1)) > 1 or axes not in ([], ["x"], ["x", "y"]):
        msg = f"{path}: psf: PSFEx polynomials must be in x, or x and y, not in {some_names(names)}"
        raise CatalogError(msg)
    try:
        return _psfex_model(header, basis, n_axes)
    except (ValueError, TypeError, KeyError, ZeroDivisionError) as err:
        msg = f"{path}: psf: damaged PSFEx model ({one_line(err)[:200]})"
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
    return PSFInput(model, model.oversampling, True)
