"""PSFs on the wavenumbers of a stamp: padding, oversampling and the Fourier bands that hold power."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from galmeasure.render.dealias import FOLD, extend_band, is_aliased
from galmeasure.utils.chunks import chunk_size, rows_per_chunk

__all__ = [
    "BANDS",
    "FEW_BANDS",
    "PSFGrid",
    "band_shape",
    "fold_columns",
    "good_size",
    "native_psfs",
    "padded_shape",
    "place_rows",
    "prepare_psf",
    "wavenumbers",
]

PADDING = 1.5
"""Side of the Fourier grid over side of the stamp; what wraps around is subtracted (:mod:`galmeasure.render.wrap`)."""

MIN_PADDING = 24
"""Pixels added at least, for small stamps."""

BANDS = (0.5, 0.625, 0.75, 0.875, 1.0, 1.25, 1.5, 1.75, 2.0, 3.0)
"""Largest wavenumbers that are kept, in units of the native Nyquist wavenumber."""

FEW_BANDS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
"""Some of :data:`BANDS`, so that many stamps share one: models of a few stamps cost hardly less than of many."""

_BAND_TOLERANCE = 6e-4


@dataclass(frozen=True)
class PSFGrid:
    """Transforms of PSFs on the wavenumbers of a stamp.

    Parameters
    ----------
    transform : Tensor
        Complex, shape ``(M, *band_shape(padded, band))``, centre of the PSF at phase zero.
    shape : tuple of int
        Sides of the stamp ``(ny, nx)``, pixels.
    padded : tuple of int
        Fourier grid ``(ly, lx)`` in native pixels.
    band : float
        Largest wavenumber kept, in units of the native Nyquist wavenumber.
    """

    transform: torch.Tensor
    shape: tuple[int, int]
    padded: tuple[int, int]
    band: float
    _kept: dict[tuple[int, tuple[int, ...]], torch.Tensor] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def fold(self) -> int:
        """Samples per native pixel that hold the band."""
        return max(1, math.ceil(self.band))

    def with_transform(self, transform: Tensor) -> "PSFGrid":
        """Return the same grid with other transforms."""
        return replace(self, transform=transform)

    def enlarged(self, index: Tensor, factor: float) -> "PSFGrid":
        """Return the transforms ``index`` on a grid with a period ``factor`` times as long, one for each entry.

        They are kept, because fits ask for the same ones again and again.
        """
        padded = tuple(good_size(factor * side) for side in self.padded)
        if self.transform.requires_grad:
            return PSFGrid(self._on_period(index, padded), self.shape, padded, self.band)
        keys = [(number, padded) for number in index.tolist()]
        found = {key: self._kept.get(key) for key in keys}
        missing = [key for key, transform in found.items() if transform is None]
        if missing:
            numbers = torch.tensor([number for number, _ in missing], device=index.device)
            found.update(zip(missing, self._on_period(numbers, padded), strict=True))
            if len(self._kept) + len(missing) > rows_per_chunk("kept transforms", found[missing[0]].numel()):
                self._kept.clear()
            self._kept.update((key, found[key]) for key in missing)
        return PSFGrid(torch.stack([found[key] for key in keys]), self.shape, padded, self.band)

    @torch.inference_mode(False)  # what is kept must serve autograd too
    def _on_period(self, index, padded):
        """Transforms ``index`` on a grid of another period."""
        image = torch.fft.irfft2(
            place_rows(self.transform[index], self.fold * self.padded[0]), s=[self.fold * side for side in self.padded]
        )
        for axis, side in zip((-2, -1), padded, strict=True):
            # the image is periodic about its first pixel: put the gap into the middle
            length = image.shape[axis]
            half, gap = length // 2, list(image.shape)
            gap[axis] = self.fold * side - length
            low, high = image.narrow(axis, 0, half), image.narrow(axis, half, length - half)
            image = torch.cat([low, image.new_zeros(gap), high], axis)
        return _to_band(torch.fft.rfft2(image), *band_shape(padded, self.band))


def good_size(size: float) -> int:
    """Smallest even number not below ``size`` with no prime factor above 5."""
    return 2 * next_fast_len((int(size) + 1) // 2, real=True)


def padded_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """Fourier grid of a stamp of ``shape`` ``(ny, nx)``."""
    return tuple(good_size(max(PADDING * side, side + MIN_PADDING)) for side in shape)


def band_shape(padded: tuple[int, int], band: float) -> tuple[int, int]:
    """Rows and columns of a half-plane of wavenumbers up to ``band`` times Nyquist."""
    return 2 * round(band * padded[0] / 2), int(band * padded[1] / 2 + 1e-9) + 1


def place_rows(spectrum: Tensor, side: int) -> Tensor:
    """Put rows in the order of wavenumbers ``0 .. h - 1, -h .. -1`` onto a period of ``side``, aliases added."""
    rows = spectrum.shape[-2]
    if rows == side:
        return spectrum
    half = rows // 2
    placed = spectrum.new_zeros((*spectrum.shape[:-2], side, spectrum.shape[-1]))
    for start in range(0, half, side):
        stop = min(start + side, half)
        placed[..., : stop - start, :] += spectrum[..., start:stop, :]
        # wavenumbers -stop .. -start - 1
        placed[..., side - (stop - start) :, :] += spectrum[..., rows - stop : rows - start, :]
    return placed


def fold_columns(spectrum: Tensor, side: int) -> Tensor:
    """Add what lies beyond the Nyquist wavenumber of a real signal's half-spectrum to its aliases.

    Parameters
    ----------
    spectrum : Tensor
        Complex, wavenumbers 0, 1, 2, ... along the last axis; the others are their conjugates.
    side : int
        Period of the signal, even.

    Returns
    -------
    Tensor
        Half-spectrum of ``side // 2 + 1`` wavenumbers of the signal's ``side`` samples.
    """
    half, columns = side // 2, spectrum.shape[-1]
    if columns <= half:
        return spectrum
    folded = spectrum[..., : half + 1].clone()
    folded[..., half] += folded[..., half].conj()
    for start in range(half + 1, columns, half):
        beyond = spectrum[..., start : start + half]
        first = start % side
        if first > half:  # wavenumbers that are aliases of negative ones, from the highest to zero
            folded[..., side - first - beyond.shape[-1] + 1 : side - first + 1] += beyond.conj().flip(-1)
            if beyond.shape[-1] == half:
                folded[..., 0] += beyond[..., -1]
        else:
            folded[..., first : first + beyond.shape[-1]] += beyond
            if beyond.shape[-1] == half:
                folded[..., half] += beyond[..., -1].conj()
    return folded


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept must serve autograd too
def wavenumbers(
    padded: tuple[int, int], band: float, device: torch.device | str, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """``ky (rows, 1)``, ``kx (1, columns)`` of a band, and the three quadratic forms ``(3, rows, columns)``."""
    rows, columns = band_shape(padded, band)
    ky = torch.fft.fftfreq(rows, 1.0 / rows, dtype=torch.float64, device=device) * (2.0 * torch.pi / padded[0])
    kx = torch.arange(columns, dtype=torch.float64, device=device) * (2.0 * torch.pi / padded[1])
    ky, kx = ky[:, None], kx[None, :]
    forms = torch.stack([kx**2 + ky**2, kx**2 - ky**2, 2.0 * kx * ky])
    return ky.to(dtype), kx.to(dtype), forms.to(dtype)


def prepare_psf(
    images: Tensor,
    shape: tuple[int, int],
    *,
    oversampling: int = 1,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> PSFGrid:
    """Transform PSF images for the stamps of one shape.

    Parameters
    ----------
    images : Tensor
        Shape ``(M, py, px)``: centred on ``((py-1)/2, (px-1)/2)``, pixel response included; the sum is kept.
    shape : tuple of int
        Sides of the stamp ``(ny, nx)`` in native pixels.
    oversampling : int, optional
        PSF pixels per native pixel. Only as many Fourier bands are kept as hold power; native images that are
        under-sampled are extended (:mod:`galmeasure.render.dealias`).
    device : torch.device or str, optional
        Torch device of the result.
    dtype : torch.dtype, optional
        Real type of the precision of the result.

    Returns
    -------
    PSFGrid
        Transforms, ready for :func:`render_sersic`.
    """
    groups = prepare_psfs(images, shape, oversampling=oversampling, device=device, dtype=dtype, together=True)
    return next(iter(groups))[1]


def native_psfs(images: Tensor, shape: tuple[int, int]) -> Iterator[tuple[Tensor, PSFGrid]]:
    """Transform native PSF images as they are, which is quick: nothing beyond the native band, no aliases undone.

    Parameters
    ----------
    images : Tensor
        Shape ``(M, py, px)``, as in :func:`prepare_psf`.
    shape : tuple of int
        Sides of the stamp ``(ny, nx)``, pixels.

    Yields
    ------
    members : Tensor
        Indices of the images, shape ``(K,)``.
    grid : PSFGrid
        Their transforms, good enough for models of faint galaxies, and of any if the PSF is well sampled. Wavenumbers
        without power are left out, which makes rendering cheaper.
    """
    padded = padded_shape(shape)
    transform = torch.cat(
        [centred_transform(chunk, padded, 1) for chunk in images.split(chunk_size("transformed images"))]
    )
    needed = _bands_needed(transform, 1.0, FEW_BANDS)
    for band in needed.unique().tolist():
        members = torch.nonzero(needed == band)[:, 0]
        chunk = _to_band(transform[members], *band_shape(padded, band)) if band < 1.0 else transform[members]
        yield members, PSFGrid(chunk, tuple(shape), padded, band)


def prepare_psfs(
    images: Tensor,
    shape: tuple[int, int],
    *,
    oversampling: int = 1,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    together: bool = False,
    bands: tuple[float, ...] = BANDS,
) -> Iterator[tuple[Tensor, PSFGrid]]:
    """Transform PSF images as :func:`prepare_psf` does, in groups that fill the same band.

    Parameters
    ----------
    images, shape, oversampling, device, dtype
        Arguments of :func:`prepare_psf`, with the same meaning.
    together : bool, optional
        Keep all of them in one group, with the widest band that any of them needs.
    bands : tuple of float, optional
        Bands to choose from, some of :data:`BANDS`.

    Yields
    ------
    members : Tensor
        Indices of the images, shape ``(K,)``.
    grid : PSFGrid
        Their transforms.
    """
    images = images.to(device=device, dtype=dtype)
    padded = padded_shape(shape)
    by_band = {}
    for rows in torch.arange(images.shape[0], device=images.device).split(chunk_size("transformed images")):
        transform = centred_transform(images[rows], padded, oversampling)
        for members, extended, available in _with_aliases(transform, padded, oversampling, images.shape):
            needed = _bands_needed(extended, available, bands)
            for band in needed.unique().tolist():
                chosen = needed == band
                by_band.setdefault(band, []).append((rows[members][chosen], extended[chosen]))
    if together:
        largest = max(by_band)
        by_band = {largest: [pair for band in sorted(by_band) for pair in by_band[band]]}
    for band, pairs in by_band.items():
        size = band_shape(padded, band)
        transform = torch.cat([_to_band(chosen, *size) for _, chosen in pairs])
        index = torch.cat([rows for rows, _ in pairs])
        order = index.argsort()
        yield index[order], PSFGrid(transform[order], tuple(shape), padded, band)


def _with_aliases(transform, padded, oversampling, shape):
    """Yield members, transforms and the band these reach: under-sampled native PSFs are extended."""
    everyone = torch.arange(transform.shape[0], device=transform.device)
    if oversampling > 1:
        yield everyone, transform, float(oversampling)
        return
    aliased = is_aliased(transform)
    if not aliased.all():
        yield everyone[~aliased], transform[~aliased], 1.0
    if aliased.any():
        half_pixel = (shape[-2] % 2 == 0, shape[-1] % 2 == 0)
        extended = extend_band(transform[aliased], padded, half_pixel)
        yield everyone[aliased], extended.to(transform.dtype), float(FOLD)


def centred_transform(images: Tensor, padded: tuple[int, int], oversampling: int) -> Tensor:
    """Half-plane transforms on the (oversampled) grid, with the centre of the images at phase zero."""
    sides = [oversampling * side for side in padded]
    transform = torch.fft.rfft2(_wrap_image(images, sides))
    phases = []
    for axis, frequencies in ((-2, torch.fft.fftfreq(sides[0])), (-1, torch.fft.rfftfreq(sides[1]))):
        angle = torch.pi * frequencies.to(images.device, torch.float64) * (images.shape[axis] - 1)
        phases.append(torch.polar(torch.ones_like(angle), angle).to(transform.dtype))
    return transform * phases[0][:, None] * phases[1]


def _wrap_image(images, size):
    """Place images at the origin of a periodic grid; what is larger than the grid wraps around."""
    for axis, side in ((-2, size[0]), (-1, size[1])):
        periods = -(-images.shape[axis] // side)
        pad = periods * side - images.shape[axis]
        images = torch.nn.functional.pad(images, (0, 0, 0, pad) if axis == -2 else (0, pad))
        images = images.unflatten(axis, (periods, side)).sum(axis - 1)
    return images


def _bands_needed(transform, available, bands):
    """Smallest of the bands beyond which each transform ``(M, rows, columns)`` holds no power, shape ``(M,)``."""
    order, starts = _rings(*transform.shape[-2:], available, bands, transform.device)
    power = transform.abs()
    limit = _BAND_TOLERANCE * power.amax((1, 2))
    needed = torch.full_like(limit, min(bands[-1], available))
    outside = torch.zeros_like(limit)
    for ring, band in reversed(list(zip(power.flatten(1)[:, order].tensor_split(starts, 1)[1:], bands, strict=False))):
        if ring.shape[1]:
            outside = torch.maximum(outside, ring.amax(1))
        needed = torch.where(outside <= limit, band, needed)
    return needed


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept must serve autograd too
def _rings(rows, columns, available, bands, device):
    """Wavenumbers of a flattened half-plane, sorted by the rings between the bands, and the start of each ring."""
    bands = [band for band in bands if band < available]
    ky = torch.fft.fftfreq(rows, dtype=torch.float64).abs() * (2.0 * available)
    kx = torch.arange(columns, dtype=torch.float64) / (columns - 1) * available
    ring = torch.maximum(ky[:, None].expand(rows, columns), kx.expand(rows, columns)).flatten()
    number = torch.bucketize(ring, torch.tensor(bands, dtype=torch.float64))
    starts = [int((number < position).sum()) for position in range(1, len(bands) + 1)]
    return number.argsort(stable=True).to(device), starts


def _to_band(transform, rows, columns):
    """Keep the ``rows`` lowest wavenumbers in y and the first ``columns`` in x; those that are not there are zero."""
    available = transform.shape[-2]
    if rows == available and columns <= transform.shape[-1]:
        return transform[..., :columns].contiguous()
    least = min(rows, available)
    half, kept = least // 2, transform[..., :columns]
    ends = [kept[..., : least - half, :], kept[..., available - half :, :]]
    if rows > available:
        ends.insert(1, kept.new_zeros(*kept.shape[:-2], rows - available, kept.shape[-1]))
    return torch.nn.functional.pad(torch.cat(ends, dim=-2), (0, columns - kept.shape[-1]))
