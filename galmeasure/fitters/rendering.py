"""Rows of a batch with the PSFs with which their models are rendered, as cheaply as is exact enough."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from galmeasure.fitters.network_psfs import CleanedPSFs, native_psfs
from galmeasure.fitters.problem import Problem
from galmeasure.fitters.tensors import BatchTensors
from galmeasure.networks import CLEANING_SIZE
from galmeasure.render.grid import FEW_BANDS, PSFGrid, prepare_psfs
from galmeasure.render.grid import native_psfs as psfs_by_band
from galmeasure.utils.chunks import chunk_size

__all__ = ["rendering_groups", "stamps_at_once"]

_BRIGHT = 150.0
"""Signal-to-noise ratio of the pixels above which the aliases of a PSF are undone; below, they drown in the noise."""

_NARROW_BRIGHT, _NARROW = 40.0, 2.0
"""That of narrow PSFs, below so many pixels FWHM, which have more aliases."""


def rendering_groups(
    tensors: BatchTensors, rows: NDArray[np.int64], *, psfs: CleanedPSFs | None = None
) -> Iterator[tuple[NDArray[np.int64], Problem]]:
    """Group rows that are rendered with transforms of one band.

    Parameters
    ----------
    tensors : BatchTensors
        Tensors of the batch.
    rows : ndarray of int64
        Row numbers in the batch.
    psfs : CleanedPSFs, optional
        With these, a PSF image with a pedestal or noise that matter is replaced by its cleaned one.

    Yields
    ------
    members : ndarray of int64
        Row numbers in the batch.
    problem : Problem
        Problem of the whole batch, with the PSFs of the members.
    """
    batch = tensors.batch
    dirty = np.zeros(len(rows), dtype=bool)
    if psfs is not None:
        dirty = psfs.is_dirty[psfs.indices_of(batch.psf_index[rows])]
    exact = _needs_exact_psf(tensors, rows)
    by_band: dict[float, list[_Part]] = {}
    for is_exact in (False, True):
        chosen = rows[exact == is_exact]
        if not len(chosen):
            continue
        kinds, local = np.unique(2 * batch.psf_index[chosen] + dirty[exact == is_exact], return_inverse=True)
        local = local.reshape(-1)
        grids = _exact_grids if is_exact else _plain_grids
        for members, grid in grids(tensors, psfs, kinds // 2, kinds % 2 == 1):
            in_grid = np.isin(local, members)
            part = _Part(chosen[in_grid], np.searchsorted(members, local[in_grid]), grid, is_exact)
            by_band.setdefault(grid.band, []).append(part)
    for parts in by_band.values():
        yield _joined(tensors, parts)


@dataclass(frozen=True)
class _Part:
    """Rows of a batch, the position of each one's PSF in a grid, and whether their PSFs must be exact."""

    rows: NDArray[np.int64]
    index: NDArray[np.int64]
    grid: PSFGrid
    is_exact: bool


def _joined(tensors, parts):
    """Rows, ascending, of parts that share a band, and their problem."""
    index = np.zeros(len(tensors), dtype=np.int64)
    enlarge = np.zeros(len(tensors), dtype=bool)
    start = 0
    for part in parts:
        index[part.rows] = part.index + start
        enlarge[part.rows] = part.is_exact
        start += len(part.grid.transform)
    grid = parts[0].grid.with_transform(torch.cat([part.grid.transform for part in parts]))
    index, enlarge = (torch.from_numpy(column).to(tensors.device) for column in (index, enlarge))
    rows = np.sort(np.concatenate([part.rows for part in parts]))
    return rows, replace(tensors.problem(), psf=grid, psf_index=index, enlarge=enlarge)


def stamps_at_once(box: tuple[int, int], device: str = "cpu") -> int:
    """Bound the number of stamps that are rendered at once.

    Parameters
    ----------
    box : tuple of int
        Height and width of the stamps, in pixels.
    device : str, optional
        Torch device on which they are rendered.

    Returns
    -------
    int
        Number of stamps, at least 1.
    """
    return max(1, chunk_size("rendered stamps", device) // (box[0] * box[1]))


def _needs_exact_psf(tensors, rows):
    """Rows whose pixels hold so much signal that the PSF must be exact, boolean."""
    batch, problem = tensors.batch, tensors.problem()
    excess = [torch.zeros(0, device=tensors.device)]
    for index in torch.from_numpy(rows).to(tensors.device).split(stamps_at_once(tensors.box, tensors.device)):
        image, error, good, _ = problem.data(index)
        excess.append((good * ((image / error) ** 2 - 1.0)).flatten(1).sum(1))
    narrow = batch.psf_fwhm[batch.psf_index[rows]] < _NARROW
    return torch.cat(excess).cpu().numpy() > np.where(narrow, _NARROW_BRIGHT, _BRIGHT) ** 2


def _plain_grids(tensors, psfs, positions, is_cleaned):
    """Transforms of PSFs, as they were given or cleaned, up to the Nyquist frequency of the stamps."""
    if psfs is None:
        images = native_psfs(tensors.batch, positions, 1, tensors.device, CLEANING_SIZE)
    else:
        images = psfs.native[torch.from_numpy(psfs.indices_of(positions)).to(tensors.device)]
        if is_cleaned.any():
            images[torch.from_numpy(is_cleaned).to(images.device)] = _cleaned(psfs, positions[is_cleaned])
    for members, grid in psfs_by_band(images, tensors.box):
        yield members.cpu().numpy(), grid


def _cleaned(psfs, positions):
    """Cleaned images of PSFs, which hold as much light as those that were given."""
    chosen = torch.from_numpy(psfs.indices_of(positions)).to(psfs.images.device)
    return psfs.images[chosen] * psfs.held[chosen, None, None]


def _exact_grids(tensors, psfs, positions, is_cleaned):
    """Transforms of PSFs, as they were given or cleaned, with the power beyond the Nyquist frequency of the stamps."""
    batch, device = tensors.batch, tensors.device
    images = [torch.from_numpy(np.float32(batch.psf[position])).to(device) for position in positions]
    samplings = np.where(is_cleaned, 1, batch.psf_oversampling)
    for index in np.flatnonzero(is_cleaned):
        images[index] = _cleaned(psfs, positions[[index]])[0]
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, (image, sampling) in enumerate(zip(images, samplings.tolist(), strict=True)):
        by_shape.setdefault((sampling, *image.shape), []).append(index)
    for (sampling, *_), same_shape in by_shape.items():
        stack = torch.stack([images[index] for index in same_shape])
        for members, grid in prepare_psfs(stack, tensors.box, oversampling=sampling, device=device, bands=FEW_BANDS):
            yield np.array(same_shape)[members.cpu().numpy()], grid
