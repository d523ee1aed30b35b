"""The PSFs of a set of cutouts: every accepted form brought to distinct, normalised images and an index."""

from dataclasses import dataclass, field, replace

import numpy as np

from galmeasure._psf import normalise_psf, psf_stats
from galmeasure._psf_flux import FLUX_OF_SUM, hold_fluxes, read_psf_flux
from galmeasure._psf_models import distinct_stack, draw_models, is_model, is_position_model, position_images
from galmeasure._units import as_numbers, positive_integer, split_unit

__all__ = ["PSFSet", "read_psf_set"]

_MAX_OFFSET = 0.5 + 1e-6
_MIN_FWHM = 1.5
_MAX_OVERSAMPLING = 100
_MAX_OUTSIDE = 0.005


@dataclass(frozen=True)
class PSFSet:
    """Distinct PSFs.

    ``images``: M float64 arrays, normalised. ``index`` (N,): image of each cutout. ``ok``, ``offset``, ``fwhm`` (M,):
    whether it can be used, distance of its centroid from its centre and width, in native pixels. ``outside`` (M,): the
    fraction of the star's light that is beyond the image by estimate, or the uncertainty of that if it is larger; 0
    where it is known. ``given``: what the user said about it, for the metadata of tables; None if nothing.
    """

    images: list
    index: np.ndarray
    oversampling: int
    ok: np.ndarray
    offset: np.ndarray = field(repr=False)
    fwhm: np.ndarray = field(repr=False)
    outside: np.ndarray = field(repr=False)
    given: float | str | None = None

    def rows(self, key):
        """The same set for some of the cutouts; images are shared."""
        return replace(self, index=self.index[key])

    def bad(self):
        """Boolean (N,): cutouts whose PSF cannot be used."""
        return ~self.ok[self.index]

    def light_unknown(self):
        """Boolean (N,): cutouts with much light of their PSF's star outside of its image, by estimate or perhaps."""
        return self.outside[self.index] > _MAX_OUTSIDE

    def unusual(self, shapes, rows):
        """Boolean (B,): PSF of these rows is off centre, under-sampled, or wider than the cutout."""
        fwhm, offset = self.fwhm[self.index[rows]], self.offset[self.index[rows]]
        with np.errstate(invalid="ignore"):
            return (offset > _MAX_OFFSET) | (fwhm < _MIN_FWHM) | (fwhm > shapes[rows].min(axis=1))


def read_psf_set(psf, *, shapes, oversampling=1, positions=None, pixel_scale=None, flux=None, strict=True):
    """:class:`PSFSet` of any accepted form of PSF.

    Parameters
    ----------
    psf : object
        Image, stack, list, model or list of models.
    shapes : ndarray, shape (N, 2)
        ny, nx of the cutouts.
    oversampling : int, optional
        Image pixels per native pixel, for images.
    positions : ndarray, shape (N, 2), optional
        x, y in the parent image, for models that depend on the position.
    pixel_scale : ndarray, shape (N,), optional
        Arcsec per pixel, for GalSim objects.
    flux : float, array_like or "sum", optional
        The argument ``psf_flux`` of :class:`~galmeasure.Cutouts`.
    strict : bool, optional
        Whether it is an error if none of several PSFs can be used.

    Returns
    -------
    PSFSet
        The distinct PSFs.
    """
    n_cutouts = len(shapes)
    if psf is None:
        msg = "psf must be given: an image of the PSF, one per cutout, or a model"
        raise ValueError(msg)
    if isinstance(psf, str | bytes):
        msg = "psf must be an image or a model, not a string; galmeasure.read_psf reads files"
        raise TypeError(msg)
    flux = read_psf_flux(flux, n_cutouts)
    oversampling = positive_integer("psf_oversampling", oversampling, largest=_MAX_OVERSAMPLING)
    if is_position_model(psf) or is_model(psf) or _is_list_of_models(psf, n_cutouts):
        if oversampling != 1:
            msg = "psf_oversampling is for PSF images; a PSF model is sampled as it needs"
            raise ValueError(msg)
        found = _from_models(psf, shapes, positions, pixel_scale, flux)
    else:
        found = _build(*_read_images(psf, n_cutouts), oversampling, n_cutouts, flux=flux)
    if (strict or getattr(psf, "ndim", 3) == 2) and found.bad().all():
        msg = "psf must have only finite pixels and a positive sum (and finite positions, if it depends on them)"
        if flux.told:
            msg = f"psf_flux {flux.RULE}; and {msg}"
        raise ValueError(msg)
    return found


def _is_list_of_models(psf, n_cutouts):
    """Whether ``psf`` is a list of models, one per cutout."""
    if not isinstance(psf, list | tuple) or not any(is_model(entry) or is_position_model(entry) for entry in psf):
        return False
    if not all(is_model(entry) for entry in psf):
        msg = "psf must be a list of images or a list of models that do not depend on the position, not a mixture"
        raise TypeError(msg)
    if len(psf) != n_cutouts:
        msg = f"psf must have one model per cutout ({n_cutouts}), not {len(psf)}"
        raise ValueError(msg)
    return True


def _from_models(psf, shapes, positions, pixel_scale, flux):
    """:class:`PSFSet` of a model or of a list of models."""
    n_cutouts = len(shapes)
    if is_position_model(psf):
        if positions is None:
            msg = "positions must be given if psf depends on the position in the image"
            raise ValueError(msg)
        images, index, oversampling = position_images(psf, positions)
        return _build(images, index, oversampling, n_cutouts, flux=flux)
    models = list(psf) if isinstance(psf, list | tuple) else [psf]
    images, enclosed, index, oversampling = draw_models(models, pixel_scale, tuple(int(s) for s in shapes.max(axis=0)))
    if flux.told and not all(hasattr(model, "data") for model in models):
        msg = "psf_flux is for PSF images; of a PSF model the light outside of the image is computed"
        raise ValueError(msg)
    return _build(images, index, oversampling, n_cutouts, enclosed, flux=flux)


def _read_images(psf, n_cutouts):
    """(images, index) of a PSF given as an image, a stack or a list; images is a stack, or a list if shapes differ."""
    psf = _as_array_if_regular(psf)
    if isinstance(psf, list):
        if len(psf) == 1:
            return _image("psf[0]", psf[0], 2)[None], np.zeros(1, dtype=np.int64)
        if len(psf) != n_cutouts:
            msg = f"psf must be one image or have one image per cutout ({n_cutouts}), not {len(psf)}"
            raise ValueError(msg)
        seen, images, index = {}, [], np.empty(n_cutouts, dtype=np.int64)
        for i, entry in enumerate(psf):
            if id(entry) not in seen:
                seen[id(entry)] = len(images)
                images.append(_image(f"psf[{i}]", entry, 2))
            index[i] = seen[id(entry)]
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
    """Whether nested lists make a regular array."""
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


def _build(images, index, oversampling, n_cutouts, enclosed=None, *, flux):
    """:class:`PSFSet` of images and their index."""
    sums = np.array([np.sum(image, dtype=np.float64) for image in images]) if flux.told == FLUX_OF_SUM else None
    shapes = {image.shape for image in images}
    if len(shapes) == 1:
        found, ok = normalise_psf(images, oversampling)
        stats = psf_stats(found.images, ok, oversampling)
        normalised, outside, offset, fwhm = list(found.images), found.outside, stats.offset, stats.fwhm
    else:
        parts = [normalise_psf(image[None], oversampling) for image in images]
        normalised, ok = [part[0].images[0] for part in parts], np.array([part[1][0] for part in parts])
        outside = np.array([part[0].outside[0] for part in parts])
        stats = [psf_stats(part[0].images, part[1], oversampling) for part in parts]
        offset, fwhm = np.array([s.offset[0] for s in stats]), np.array([s.fwhm[0] for s in stats])
    for i, fraction in enumerate(enclosed or ()):
        if fraction is not None and ok[i]:
            normalised[i], outside[i] = normalised[i] * (fraction / normalised[i].sum()), 0.0
    if len(index) == 1:
        index = np.repeat(index, n_cutouts)
    if flux.told:
        normalised, index, kind = hold_fluxes(normalised, index, flux, sums)
        ok, offset, fwhm, outside = ok[kind], offset[kind], fwhm[kind], np.zeros(len(kind))
        ok = ok & np.array([image.any() for image in normalised])
    if (index < 0).any():  # no position: no PSF
        normalised, ok = [*normalised, np.zeros_like(normalised[0])], np.append(ok, False)
        offset, fwhm, outside = np.append(offset, np.nan), np.append(fwhm, np.nan), np.append(outside, 0.0)
        index = np.where(index < 0, len(ok) - 1, index)
    for image in normalised:
        image.flags.writeable = False
    return PSFSet(normalised, index, oversampling, ok, offset, fwhm, outside, flux.told)
