"""Cutouts: the validated, read-only set of images, errors, masks and PSFs that every fitter takes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from galmeasure.cutouts.batches import CutoutBatch, make_batch, plan_batches
from galmeasure.cutouts.noise import error_values
from galmeasure.cutouts.source_catalog import is_source_catalog, read_source_catalog
from galmeasure.cutouts.validate import build_store, row_index
from galmeasure.utils.chunks import chunk_size
from galmeasure.utils.peer_arguments import refuse_words
from galmeasure.utils.units import positive_integer, read_only

if TYPE_CHECKING:
    from collections.abc import Iterator

    import astropy.units as u
    import numpy.typing as npt

__all__ = ["CutoutBatch", "Cutouts"]

_ARGUMENTS = (
    "cutouts", "psf", "error", "mask", "gain", "pixel_scale", "wcs", "psf_oversampling", "psf_flux",
    "psf_includes_pixel", "positions", "ids", "zero_point",
)  # fmt: skip


class Cutouts:
    """Postage stamps of galaxies with their noise, masks and PSFs, validated once.

    Parameters
    ----------
    cutouts : array_like, `~astropy.units.Quantity`, list or Cutouts
        Background-subtracted pixels ``[y, x]``: one cutout ``(ny, nx)``, a stack ``(N, ny, nx)``, or a list (of unequal
        shapes if need be) of arrays, `~astropy.nddata.NDData`, `~astropy.nddata.CCDData` or
        `~astropy.nddata.Cutout2D`; or a photutils ``SourceCatalog``, whose image is cut around its sources, with its
        errors and mask, and other segments masked. Any real type and byte order, masked arrays, memory-mapped files.
        Never modified, and not copied. A ``Cutout2D`` that reaches beyond the image has lost its unit, and is taken to
        have that of the others, or of ``error``.
    psf : array_like or model, optional
        PSF, pixel response included: one image, one per cutout (stack or list), a photutils or astropy 2-D model, a
        photutils GriddedPSFModel or a PSFEx model (both evaluated at ``positions``), a GalSim object (drawn with its
        pixel), or a list of models. Images may have any odd or even shape and any normalisation; single pixels that are
        not finite are filled. Without a PSF it is a delta function, averaged over the pixel. Both set ``psf_unusual``.
    error : scalar, array_like or list, optional
        1-sigma Gaussian noise in the unit of ``cutouts``: a number, one number per cutout ``(N,)``, or one per pixel.
        Estimated from the border pixels if not given (and if NDData bring no uncertainty).
    mask : array_like of bool or list, optional
        True (non-zero) = bad pixel. Joined with the masks of masked arrays and NDData.
    gain : float or array_like, shape (N,), optional
        Electrons per unit of ``cutouts``; source shot noise is then added to ``error``.
    pixel_scale : float, `~astropy.units.Quantity` or array_like, shape (N,), optional
        Arcsec per pixel. Taken from ``wcs`` if not given.
    wcs : WCS or list of WCS, optional
        One, in pixels of the parent image, or a list with one per cutout, in pixels of the cutout.
    psf_oversampling : int, optional
        Pixels of a PSF image per pixel of a cutout.
    psf_flux : float, array_like of shape (N,), or "sum", optional
        Fraction of a star's light that the PSF image holds, above 0 and at most 1.05, for example 0.983; ``"sum"``: the
        images are not normalised, and their sums are this fraction. Estimated from the outer part of each image if not
        given, see :attr:`psf_images`.
    psf_includes_pixel : bool, optional
        True if the images and models of the PSF include the response of the detector's pixel. If False, as for the
        oversampled images of GALFIT, petrofit and Tiny Tim, they are convolved with the square of a cutout's pixel.
    positions : array_like, shape (N, 2), optional
        x, y of the centre of each cutout, ``((nx-1)/2, (ny-1)/2)``, in the parent image.
    ids : array_like, shape (N,), optional
        Names or numbers of the cutouts; 1..N if not given.
    zero_point : float or array_like, shape (N,), optional
        Magnitude of a flux of 1 unit of ``cutouts``.
    **others
        Nothing else is taken: names that other codes have for these arguments raise a TypeError that tells ours.

    Raises
    ------
    ValueError
        If shapes cannot match, units are incompatible, the input is empty, or no PSF has a positive finite sum.
    TypeError
        If an argument is of the wrong kind.

    Notes
    -----
    What is wrong with one cutout only (pixels, its number in a per-cutout argument, its PSF) never raises: its row
    fails alone, and is flagged. PSFs are normalised to 1 minus the fraction of their flux beyond the image, see
    :attr:`psf_images`.

    Examples
    --------
    >>> import numpy as np
    >>> from galmeasure import Cutouts
    >>> y, x = np.mgrid[-12:13, -12:13]
    >>> psf = np.exp(-(x**2 + y**2) / 8)
    >>> cutouts = Cutouts(np.zeros((3, 64, 64)), psf, error=1.0)
    >>> cutouts
    <Cutouts: 3 of 64 x 64 pixels>
    >>> len(cutouts[:2])
    2
    """

    def __init__(
        self,
        cutouts: object,
        psf: object = None,
        *,
        error: object = None,
        mask: object = None,
        gain: object = None,
        pixel_scale: object = None,
        wcs: object = None,
        psf_oversampling: int = 1,
        psf_flux: float | str | npt.ArrayLike | None = None,
        psf_includes_pixel: bool = True,
        positions: npt.ArrayLike | None = None,
        ids: npt.ArrayLike | None = None,
        zero_point: object = None,
        **unknown: object,
    ):
        refuse_words("Cutouts", unknown, _ARGUMENTS)
        given = {
            "psf": psf,
            "psf_flux": psf_flux,
            "error": error,
            "mask": mask,
            "gain": gain,
            "pixel_scale": pixel_scale,
            "wcs": wcs,
            "positions": positions,
            "ids": ids,
            "zero_point": zero_point,
        }
        if isinstance(cutouts, Cutouts):
            _refuse_others(given, psf_oversampling, psf_includes_pixel)
            self._store = cutouts._store
            return
        if is_source_catalog(cutouts):
            arguments = read_source_catalog(cutouts)
            cutouts = arguments.pop("cutouts")
            given |= {name: value for name, value in arguments.items() if given[name] is None}
        images = {"psf_oversampling": psf_oversampling, "psf_includes_pixel": psf_includes_pixel}
        self._store = build_store(cutouts, **images, **given)

    @classmethod
    def _from_chunk(cls, cutouts, psf, **options):
        """Part of a catalogue: rows whose PSFs are all bad fail as they would in the whole catalogue."""
        new = object.__new__(cls)
        new._store = build_store(cutouts, psf, strict=False, **options)
        return new

    def _with_images(self, images):
        """Return the same cutouts with other pixels, of the same shapes."""
        new = object.__new__(type(self))
        new._store = replace(self._store, images=images)
        return new

    def __len__(self):
        """Number of cutouts."""
        return len(self._store.shapes)

    def __repr__(self):
        """Number and shape."""
        low, high = self.shapes.min(axis=0), self.shapes.max(axis=0)
        size = (
            " x ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in zip(low, high, strict=True))
            if len(self)
            else "0 x 0"
        )
        unit = f" in {self.unit}" if self.unit is not None else ""
        return f"<{type(self).__name__}: {len(self)} of {size} pixels{unit}>"

    def __getitem__(self, key):
        """Some of the cutouts: a :class:`Cutouts` with views for a slice, with copies for an index or boolean array."""
        if isinstance(key, int | np.integer):
            if not -len(self) <= key < len(self):
                msg = f"index {key} is out of range for {len(self)} cutouts"
                raise IndexError(msg)
            key = slice(int(key) % len(self), int(key) % len(self) + 1)
        elif not isinstance(key, slice):
            key = row_index(key, len(self))
        new = object.__new__(type(self))
        new._store = self._store.rows(key)
        return new

    @property
    def shapes(self) -> npt.NDArray[np.int64]:
        """Shapes ny, nx of the cutouts, (N, 2)."""
        return self._store.shapes

    @property
    def unit(self) -> u.UnitBase | None:
        """Unit of the pixels, or None."""
        return self._store.unit

    @property
    def ids(self) -> np.ndarray:
        """Names or numbers of the cutouts, (N,)."""
        return self._store.ids

    @property
    def gain(self) -> npt.NDArray[np.float64] | None:
        """Electrons per unit of the pixels, (N,), or None."""
        return self._store.gain

    @property
    def pixel_scale(self) -> npt.NDArray[np.float64] | None:
        """Arcsec per pixel, (N,), or None."""
        return self._store.pixel_scale

    @property
    def zero_point(self) -> npt.NDArray[np.float64] | None:
        """Magnitude of a flux of one unit, (N,), or None."""
        return self._store.zero_point

    @property
    def origin(self) -> npt.NDArray[np.int64]:
        """x, y of the first pixel in the parent image, (N, 2): parent = local + origin; zeros if unknown."""
        return self._store.origin

    @property
    def wcs(self) -> list | None:
        """World coordinate systems, a list of N (entries may repeat or be None), or None."""
        return None if self._store.wcs is None else list(self._store.wcs)

    @property
    def wcs_in_parent(self) -> bool:
        """True if ``wcs`` take pixels of the parent image, False if they take those of the cutout."""
        return self._store.wcs_in_parent

    @property
    def psf_images(self) -> list[npt.NDArray[np.float64]]:
        """Distinct PSFs, a list of read-only float64 arrays.

        Each sums to the fraction of the star's light that it holds: ``psf_flux``, or 1 minus an estimate of the flux
        that lies beyond the image. That is extrapolated where the outer profile is a clean power law (a Moffat image of
        64 pixels lacks 0.3 to 1 %) or where, averaged over diffraction rings, it falls as ``r**-3``; it is 0 otherwise.
        Unusable PSFs are zeros.
        """
        return list(self._store.psfs.images)

    @property
    def psf_flux(self) -> float | str | npt.NDArray[np.float64] | None:
        """Argument ``psf_flux`` in short: a number, ``"sum"``, ``"per cutout"``, or None if it was not given."""
        return self._store.psfs.given

    @property
    def psf_meta(self) -> dict:
        """Entries about the PSF for the metadata of result tables: that there is none, or changes made to it."""
        given = {} if self.psf_flux is None else {"PSFFLUX": self.psf_flux}
        return self._store.psfs.meta | given

    @property
    def psf_light_unknown(self) -> npt.NDArray[np.bool_]:
        """Boolean (N,): more than 0.5 % of the star's light is, or may be, outside of the PSF image by estimate."""
        return self._store.psfs.light_unknown()

    @property
    def psf_index(self) -> npt.NDArray[np.int64]:
        """Index of each cutout's PSF in :attr:`psf_images`, (N,)."""
        return read_only(self._store.psfs.index)

    @property
    def psf_oversampling(self) -> int:
        """Pixels of the PSF images per pixel of a cutout."""
        return self._store.psfs.oversampling

    def image(self, i: int) -> np.ndarray:
        """Pixels of one cutout, as they were given.

        Parameters
        ----------
        i : int
            Number of the row.

        Returns
        -------
        ndarray of float64, shape (ny, nx)
            A copy, without unit.
        """
        return np.array(self._store.images[self._row(i)], dtype=np.float64)

    def error(self, i: int) -> np.ndarray:
        """Noise of one cutout: what was given, or the estimate from the border.

        Parameters
        ----------
        i : int
            Number of the row.

        Returns
        -------
        ndarray of float64, shape (ny, nx)
            1-sigma noise in the unit of the cutout; NaN where there is none.
        """
        i, errors = self._row(i), self._store.errors
        shape = tuple(self.shapes[i])
        maps = errors.maps if errors.maps is None else errors.maps[i]
        if maps is not None:
            entry = maps if isinstance(maps, tuple) else (maps, 1, errors.factor)
            return np.array(error_values(*entry))
        if errors.estimate[i]:
            batch = self._batch(i)
            return np.full(shape, np.nan if not batch.good.any() else batch.scale[0])
        return np.full(shape, errors.values[i])

    def mask(self, i: int) -> npt.NDArray[np.bool_]:
        """Pixels of one cutout that are not used: masked by the user, not finite, or without a valid error.

        Parameters
        ----------
        i : int
            Number of the row.

        Returns
        -------
        ndarray of bool, shape (ny, nx)
            True = not used; all True if the cutout cannot be measured.
        """
        i = self._row(i)
        ny, nx = self.shapes[i]
        return ~self._batch(i).good[0, :ny, :nx]

    def psf_image(self, i: int) -> npt.NDArray[np.float64]:
        """Normalised PSF of one cutout.

        Parameters
        ----------
        i : int
            Number of the row.

        Returns
        -------
        ndarray of float64, shape (py, px)
            Image of the PSF, read-only.
        """
        return self._store.psfs.images[self._store.psfs.index[self._row(i)]]

    def batches(
        self, max_pixels: int = chunk_size("batch"), select: npt.ArrayLike | None = None
    ) -> Iterator[CutoutBatch]:
        """Iterate over batches of one shape, in order of the rows.

        Stacks are sliced; lists are grouped by shape, rounded up to multiples of 16 pixels. All work on pixels happens
        here, a batch at a time.

        Parameters
        ----------
        max_pixels : int, optional
            Largest number of pixels in a batch (one cutout at least).
        select : array_like of int or bool, optional
            Rows to give; all by default.

        Yields
        ------
        CutoutBatch
            Batch of cutouts of one shape.
        """
        max_pixels = positive_integer("max_pixels", max_pixels)
        rows = np.arange(len(self)) if select is None else np.unique(row_index(select, len(self)))
        ragged = isinstance(self._store.images, list)
        for index, box in plan_batches(self.shapes, rows, max_pixels, pad=ragged):
            yield make_batch(self._store, index, box)

    def _batch(self, i):
        """Batch of one row."""
        return next(iter(self.batches(select=[i])))

    def _row(self, i):
        """``i`` as a row number, counted from the end if negative."""
        if not isinstance(i, int | np.integer):
            msg = f"i must be the number of a cutout, not {type(i).__name__}"
            raise TypeError(msg)
        if not -len(self) <= i < len(self):
            msg = f"i must be the number of one of the {len(self)} cutouts, not {i}"
            raise IndexError(msg)
        return int(i) % len(self)


def _refuse_others(given, psf_oversampling, psf_includes_pixel):
    """Raise if an argument is given beside a Cutouts object."""
    names = [name for name, value in given.items() if value is not None]
    names += ["psf_oversampling"] if psf_oversampling != 1 else []
    names += [] if psf_includes_pixel is True else ["psf_includes_pixel"]
    if names:
        msg = f"{names[0]} must not be given if cutouts is a Cutouts object, which holds its own"
        raise ValueError(msg)
