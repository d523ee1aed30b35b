"""The PSFs of a set of cutouts: every accepted form brought to distinct, normalised images and an index."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from galmeasure.psf.flux import FLUX_OF_SUM, hold_fluxes, read_psf_flux
from galmeasure.psf.images import normalise_psf, psf_stats
from galmeasure.psf.models import distinct_stack, draw_models, is_galsim, is_model, is_position_model, position_images
from galmeasure.psf.repair import DELTA_OVERSAMPLING, convolve_with_pixel, delta_psf, fill_bad_pixels
from galmeasure.utils.units import as_numbers, positive_integer, split_unit

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["PSFCollection", "read_psf_collection"]

_MAX_OFFSET = 0.5 + 1e-6  # pixels: the centroid of a star in the middle of an image of even side is within
_MIN_FWHM = 1.5  # pixels; narrower PSFs are under-sampled
_MAX_OVERSAMPLING = 100
_MAX_OUTSIDE = 0.005


@dataclass(frozen=True)
class PSFCollection:
    """Distinct PSFs.

    ``images``: M float64 arrays, normalised. ``index`` (N,): image of each cutout. ``ok``, ``offset``, ``fwhm`` (M,):
    whether it can be used, distance of its centroid from its centre and width, in native pixels. ``outside`` (M,): the
    fraction of the star's light that is beyond the image by estimate, or the uncertainty of that if it is larger; 0
    where it is known. ``doubtful`` (M,): images that are unusual whatever they look like, as bad pixels were filled or
    there is no PSF. ``given``: what the user said about the light, None if nothing. ``meta``: entries of the metadata
    of tables.
    """

    images: list
    index: np.ndarray
    oversampling: int
    ok: np.ndarray
    offset: np.ndarray = field(repr=False)
    fwhm: np.ndarray = field(repr=False)
    outside: np.ndarray = field(repr=False)
    doubtful: np.ndarray = field(repr=False)
    given: float | str | None = None
    meta: dict = field(default_factory=dict, repr=False)

    def rows(self, key: slice | npt.ArrayLike) -> PSFCollection:
        """Return the collection of selected cutouts, with the same images."""
        return replace(self, index=self.index[key])

    def bad(self) -> npt.NDArray[np.bool_]:
        """Return a mask (N,) of cutouts whose PSF cannot be used."""
        return ~self.ok[self.index]

    def light_unknown(self) -> npt.NDArray[np.bool_]:
        """Return a mask (N,) of cutouts whose PSF image may lack much of the light of the star."""
        return self.outside[self.index] > _MAX_OUTSIDE

    def unusual(self, shapes: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return a mask (B,) of rows with a PSF off centre, under-sampled, wider than the cutout, mended or missing."""
        fwhm, offset = self.fwhm[self.index[rows]], self.offset[self.index[rows]]
        with np.errstate(invalid="ignore"):
            return (
                self.doubtful[self.index[rows]]
                | (offset > _MAX_OFFSET)
                | (fwhm < _MIN_FWHM)
                | (fwhm > shapes[rows].min(axis=1))
            )


def read_psf_collection(
    psf: object,
    *,
    shapes: npt.NDArray[np.int64],
    oversampling: int = 1,
    positions: npt.NDArray[np.float64] | None = None,
    pixel_scale: npt.NDArray[np.float64] | None = None,
    flux: float | str | npt.ArrayLike | None = None,
    includes_pixel: bool = True,
    strict: bool = True,
) -> PSFCollection:
    """Read a PSF of any accepted form.

    Parameters
    ----------
    psf : object
        Image, stack, list, model or list of models; None for a delta function.
    shapes : ndarray, shape (N, 2)
        ny, nx of the cutouts.
    oversampling : int, optional
        Image pixels per native pixel, for images.
    positions : ndarray, shape (N, 2), optional
        x, y in the parent image, for models that depend on the position.
    pixel_scale : ndarray, shape (N,), optional
        Arcsec per pixel, for GalSim objects.
    flux : float, array_like or "sum", optional
        Argument ``psf_flux`` of :class:`~galmeasure.Cutouts`.
    includes_pixel : bool, optional
        True if the pixel's response is in the images and models; if False they are convolved with it.
    strict : bool, optional
        True if it is an error that none of several PSFs can be used.

    Returns
    -------
    PSFCollection
        Distinct PSFs and the index of each cutout's.
    """
    n_cutouts = len(shapes)
    if isinstance(psf, str | bytes):
        msg = "psf must be an image or a model, not a string; galmeasure.read_psf reads files"
        raise TypeError(msg)
    flux = read_psf_flux(flux, n_cutouts)
    oversampling = positive_integer("psf_oversampling", oversampling, largest=_MAX_OVERSAMPLING)
    _check_includes_pixel(includes_pixel, psf)
    if psf is None:
        return _no_psf(n_cutouts, oversampling, flux)
    if is_position_model(psf) or is_model(psf) or _is_list_of_models(psf, n_cutouts):
        if oversampling != 1:
            msg = "psf_oversampling is for PSF images; a PSF model is sampled as it needs"
            raise ValueError(msg)
        collection = _from_models(psf, shapes, positions, pixel_scale, flux, includes_pixel)
    else:
        collection = _build(
            *_read_images(psf, n_cutouts), oversampling, n_cutouts, flux=flux, includes_pixel=includes_pixel
        )
    if (strict or getattr(psf, "ndim", 3) == 2) and collection.bad().all():
        msg = "psf must have only finite pixels and a positive sum (and finite positions, if it depends on them)"
        if flux.told:
            msg = f"psf_flux {flux.RULE}; and {msg}"
        raise ValueError(msg)
    return collection


def _check_includes_pixel(includes_pixel, psf):
    """Raise unless ``psf_includes_pixel`` is a truth value that fits the PSF."""
    if not isinstance(includes_pixel, bool | np.bool_):
        msg = f"psf_includes_pixel must be True or False, not {includes_pixel!r}"
        raise TypeError(msg)
    if not includes_pixel and getattr(psf, "includes_pixel", False):
        msg = "psf_includes_pixel must be True for a PSFEx model, which describes stars as pixels see them"
        raise ValueError(msg)


def _no_psf(n_cutouts, oversampling, flux):
    """:class:`PSFCollection` of no PSF: a delta function, averaged over the pixel."""
    for name, given in (("psf_oversampling", oversampling != 1), ("psf_flux", flux.told)):
        if given:
            msg = f"psf must be given with {name}, which describes its image"
            raise ValueError(msg)
    image = delta_psf()
    collection = _build(image[None], np.zeros(1, dtype=np.int64), DELTA_OVERSAMPLING, n_cutouts, [1.0], flux=flux)
    return replace(collection, doubtful=np.ones(1, dtype=bool), meta={"PSF": "none: a delta function"})


def _is_list_of_models(psf, n_cutouts):
    """Test if ``psf`` is a list of models, one per cutout."""
    if not isinstance(psf, list | tuple) or not any(is_model(entry) or is_position_model(entry) for entry in psf):
        return False
    if not all(is_model(entry) for entry in psf):
        msg = "psf must be a list of images or a list of models that do not depend on the position, not a mixture"
        raise TypeError(msg)
    if len(psf) != n_cutouts:
        msg = f"psf must have one model per cutout ({n_cutouts}), not {len(psf)}"
        raise ValueError(msg)
    return True


def _from_models(psf, shapes, positions, pixel_scale, flux, includes_pixel):
    """:class:`PSFCollection` of a model or of a list of models."""
    n_cutouts = len(shapes)
    if is_position_model(psf):
        if positions is None:
            msg = "positions must be given if psf depends on the position in the image"
            raise ValueError(msg)
        images, index, oversampling = position_images(psf, positions)
        return _build(images, index, oversampling, n_cutouts, flux=flux, includes_pixel=includes_pixel)
    models = list(psf) if isinstance(psf, list | tuple) else [psf]
    images, enclosed, index, oversampling = draw_models(models, pixel_scale, tuple(int(s) for s in shapes.max(axis=0)))
    if flux.told and not all(hasattr(model, "data") for model in models):
        msg = "psf_flux is for PSF images; of a PSF model the light outside of the image is computed"
        raise ValueError(msg)
    includes_pixel = includes_pixel or all(is_galsim(model) for model in models)  # they are drawn with it
    return _build(images, index, oversampling, n_cutouts, enclosed, flux=flux, includes_pixel=includes_pixel)


def _read_images(psf, n_cutouts):
    """(images, index) of a PSF given as an image, a stack or a list; images is a stack, or a list if shapes differ."""
    psf = _as_array_if_regular(psf)
    if isinstance(psf, list):
        if len(psf) == 1:
            return _image("psf[0]", psf[0], 2)[None], np.zeros(1, dtype=np.int64)
        if len(psf) != n_cutouts:
            msg = f"psf must be one image or have one image per cutout ({n_cutouts}), not {len(psf)}"
            raise ValueError(msg)
        number_of, images, index = {}, [], np.empty(n_cutouts, dtype=np.int64)
        for i, entry in enumerate(psf):
            if id(entry) not in number_of:
                number_of[id(entry)] = len(images)
                images.append(_image(f"psf[{i}]", entry, 2))
            index[i] = number_of[id(entry)]
        return images, index
    stack = _image("psf", psf, (2, 3))
    if stack.ndim == 2 or len(stack) == 1:
        return stack.reshape(1, *stack.shape[-2:]), np.zeros(1, dtype=np.int64)
    if len(stack) != n_cutouts:
        msg = f"psf must be one image or have one image per cutout ({n_cutouts}), not shape {stack.shape}"
        raise ValueError(msg)
    return distinct_stack(stack)


def _as_array_if_regular(psf):
    """``psf`` itself, or a list if it holds one image per cutout; nested lists of numbers become an array."""
    if isinstance(psf, np.ndarray) and psf.dtype == object and psf.ndim == 1:
        psf = list(psf)
    if isinstance(psf, list | tuple):
        if len(psf) == 0:
            msg = "psf must hold at least one image, not an empty list"
            raise ValueError(msg)
        if any(hasattr(entry, "ndim") or hasattr(entry, "uncertainty") for entry in psf) and np.ndim(psf[0]) != 1:
            return list(psf)
        return np.asarray(psf) if _regular(psf) else list(psf)
    return psf


def _regular(nested):
    """Test if nested lists make a regular array."""
    try:
        np.asarray(nested)
    except ValueError:
        return False
    return True


def _image(name, value, n_dim):
    """Array of a PSF image; masked pixels become NaN."""
    if hasattr(value, "uncertainty"):
        value = value.data
    value, _, mask = split_unit(name, value)
    array = as_numbers(name, value)
    if array.ndim not in np.atleast_1d(n_dim) or array.size == 0:
        msg = f"{name} must be a 2-D image (or a stack of them) with at least one pixel, not of shape {array.shape}"
        raise ValueError(msg)
    if mask is not None and np.any(mask):
        array = np.where(mask, np.nan, array)
    return array


def _build(images, index, oversampling, n_cutouts, enclosed=None, *, flux, includes_pixel=True):
    """:class:`PSFCollection` of images and their index."""
    images, doubtful = fill_bad_pixels(images)
    if not includes_pixel:
        images = [convolve_with_pixel(image, oversampling) for image in images]
    sums = np.array([np.sum(image, dtype=np.float64) for image in images]) if flux.told == FLUX_OF_SUM else None
    normalised, ok, offset, fwhm, outside = _normalised(images, oversampling)
    for i, fraction in enumerate(enclosed or ()):
        if fraction is not None and ok[i]:
            normalised[i], outside[i] = normalised[i] * (fraction / normalised[i].sum()), 0.0
    if len(index) == 1:
        index = np.repeat(index, n_cutouts)
    if flux.told:
        normalised, index, kind = hold_fluxes(normalised, index, flux, sums)
        ok, offset, fwhm, doubtful, outside = ok[kind], offset[kind], fwhm[kind], doubtful[kind], np.zeros(len(kind))
        ok = ok & np.array([image.any() for image in normalised])
    if (index < 0).any():  # no position: no PSF
        normalised, ok, doubtful = (
            [*normalised, np.zeros_like(normalised[0])],
            np.append(ok, False),
            np.append(doubtful, False),
        )
        offset, fwhm, outside = np.append(offset, np.nan), np.append(fwhm, np.nan), np.append(outside, 0.0)
        index = np.where(index < 0, len(ok) - 1, index)
    for image in normalised:
        image.flags.writeable = False
    meta = {} if includes_pixel else {"PSFPIXEL": "convolved with the pixel"}
    return PSFCollection(normalised, index, oversampling, ok, offset, fwhm, outside, doubtful, flux.told, meta)


def _normalised(images, oversampling):
    """Normalised images, and arrays of whether each can be used, of its offset, width and light outside."""
    if len({image.shape for image in images}) == 1:
        normalised, ok = normalise_psf(images, oversampling)
        stats = psf_stats(normalised.images, ok, oversampling)
        return list(normalised.images), ok, stats.offset, stats.fwhm, normalised.outside
    pairs = [normalise_psf(image[None], oversampling) for image in images]
    stats = [psf_stats(psf.images, ok, oversampling) for psf, ok in pairs]
    normalised, ok = [psf.images[0] for psf, _ in pairs], np.array([ok[0] for _, ok in pairs])
    outside = np.array([psf.outside[0] for psf, _ in pairs])
    offset, fwhm = np.array([s.offset[0] for s in stats]), np.array([s.fwhm[0] for s in stats])
    return normalised, ok, offset, fwhm, outside
