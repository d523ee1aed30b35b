"""The blank sky of an image: where it is, and stamps of it, cut and masked as those of sources are."""

import copy

import numpy as np
import numpy.typing as npt

from galmeasure.exceptions import CatalogError
from galmeasure.io.detection import detect_sources
from galmeasure.io.image import ImagePlanes, stamp_origins
from galmeasure.io.source import CatalogSource, ReadOptions
from galmeasure.io.source_list import DEFAULT_SIZE, ImageSource
from galmeasure.utils.chunks import chunk_size

__all__ = ["SkySource"]

_MOST_TRIALS = 400_000
_LEAST_PIXELS = 400  # of blank sky
_BAD_RADIUS = 2.0


class SkySource(ImageSource):
    """Blank sky of an image.

    Sky is blank where no segment is near: those of the option ``segmentation``, or of the sources that are detected in
    the image if there is none. Only ``detect`` changes the image: its background is subtracted and neighbours are
    masked, as they are when the image is measured with it.

    Parameters
    ----------
    path : path-like
        FITS image; ``file.fits[NAME]`` chooses an extension.
    **options
        ``psf``, ``psf_oversampling``, ``psf_flux``, ``psf_includes_pixel``, ``error``, ``weight``, ``weight_type``,
        ``mask``, ``mask_bits``, ``segmentation``, ``size``, ``detect``, ``gain``, ``pixel_scale`` and ``zero_point``
        of `open_catalog`.

    Raises
    ------
    CatalogError
        If a file cannot be read, or there is no PSF, or one for each row of a catalogue.
    ValueError
        If options do not fit together.
    """

    def __init__(self, path, **options):
        CatalogSource.__init__(self, path, ReadOptions(**options), kind="sky")
        planes = ImagePlanes(path, self.options)
        bad = None if planes.mask is None else np.asarray(planes.mask) != 0
        self._segments = planes.segmentation
        if self.options.detect or self._segments is None:
            detection = detect_sources(planes.data, mask=bad, deblend=False, may_be_empty=True)
            self._segments = detection.segmentation
        if self.options.detect:
            planes.data, planes.segmentation = detection.data, detection.segmentation
            if planes.error is None and planes.weight is None:
                planes.error = detection.background_rms
                self.notes.append("error: rms of the background")
        self._set_up(planes, np.zeros((0, 2)), np.zeros(0, dtype=np.int64))

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx) of the image."""
        return self._planes.shape

    @property
    def size(self) -> int:
        """Side of the stamps."""
        return self.options.size or DEFAULT_SIZE

    def blank_positions(
        self, count: int, core: float, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.float64], float]:
        """Draw positions in blank sky, uniformly, within pixels as well.

        Parameters
        ----------
        count : int
            Number of positions to draw.
        core : float
            No segment is within this many pixels, and no bad pixel within two.
        rng : numpy.random.Generator
            Source of the random numbers.

        Returns
        -------
        positions : ndarray
            Shape ``(count, 2)``: x, y; whole stamps lie within the image.
        fraction : float
            Part of the image that is blank in this sense, where stamps fit.

        Raises
        ------
        CatalogError
            If stamps do not fit into the image, or there is too little blank sky.
        ValueError
            If ``core`` is not within 0 to half of the side of the stamps.
        """
        if not 0.0 <= core <= 0.5 * self.size:
            msg = f"core must lie between 0 and half of the stamp, {0.5 * self.size:g} pixels, not {core:g}"
            raise ValueError(msg)
        ny, nx = self._planes.shape
        low = self.size // 2
        high = np.array([nx, ny]) - 1 - low
        if (high < low).any():
            msg = f"{self.path}: stamps of {self.size} pixels do not fit into the image, {nx} x {ny}; give a size"
            raise CatalogError(msg)
        positions, n_positions, n_trials, step = [], 0, 0, chunk_size("sky positions")
        while n_positions < count and n_trials < (max(_MOST_TRIALS, 10 * count) if n_positions else 5 * step):
            pixels = rng.integers(low, high + 1, size=(step, 2))
            pixels = pixels[self._is_blank(pixels, core)]
            positions.append(pixels + rng.uniform(-0.5, 0.5, pixels.shape))
            n_positions, n_trials = n_positions + len(pixels), n_trials + step
        fraction = n_positions / n_trials
        n_pixels = fraction * np.prod(high - low + 1.0)
        if n_positions < count or n_pixels < _LEAST_PIXELS:
            msg = (
                f"{self.path}: too little blank sky: {n_pixels:.0f} pixels are {core:.1f} pixels from all sources, "
                f"with room for stamps of {self.size}; {_LEAST_PIXELS} are needed"
            )
            raise CatalogError(msg)
        return np.concatenate(positions)[:count], fraction

    def at(self, positions: npt.ArrayLike, ids: npt.ArrayLike | None = None) -> CatalogSource:
        """Catalogue of stamps at given positions.

        Parameters
        ----------
        positions : array_like
            Shape ``(N, 2)``: x, y.
        ids : array_like, optional
            Names; 1 to N by default.

        Returns
        -------
        CatalogSource
            To be read as any other.
        """
        new = copy.copy(self)
        new._positions = np.asarray(positions, dtype=float)
        new._ids = np.arange(1, len(new._positions) + 1) if ids is None else np.asarray(ids)
        new._sizes = np.full(len(new._positions), self.size)
        new._origins = stamp_origins(new._positions, new._sizes)
        return new

    def _is_blank(self, pixels, core):
        """Whether each of some pixels ``(N, 2)`` is far enough from segments and from bad pixels."""
        blank = np.ones(len(pixels), dtype=bool)
        reach = int(np.ceil(core))
        steps = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1).T
        distance = np.hypot(*steps.T)
        for step, away in zip(steps[np.argsort(distance)], np.sort(distance), strict=True):
            if away > core or not blank.any():
                break
            y, x = (np.clip(pixels[blank, 1 - i] + step[i], 0, self._planes.shape[i] - 1) for i in (0, 1))
            clear = np.asarray(self._segments[y, x]) <= 0
            if away <= _BAD_RADIUS:
                clear &= ~self._is_bad(y, x)
            blank[blank] = clear
        return blank

    def _is_bad(self, y, x):
        """Whether pixels are masked, not finite or without a valid error."""
        planes = self._planes
        bad = ~np.isfinite(planes.data[y, x])
        if planes.mask is not None:
            bad |= np.asarray(planes.mask[y, x]) != 0
        noise = planes.weight if planes.weight is not None else planes.error
        if noise is not None and not isinstance(noise, float):
            values = np.asarray(noise[y, x], dtype=float)
            bad |= ~(np.isfinite(values) & (values > 0))
        return bad
