"""Rows of a batch with the PSFs with which their models are rendered, as cheaply as is exact enough."""

from dataclasses import replace

import numpy as np
import torch

from galmeasure.fitters.network_psfs import native_psfs
from galmeasure.fitters.problem import Problem
from galmeasure.networks import CLEANING_SIZE
from galmeasure.render.grid import native_psfs as psfs_by_band
from galmeasure.render.grid import prepare_psfs

__all__ = ["batch_problem", "rendering_groups", "stamps_at_once"]

_BRIGHT = 150.0
"""Signal-to-noise ratio of the pixels above which the aliases of a PSF are undone; below, they drown in the noise."""

_NARROW_BRIGHT, _NARROW = 40.0, 2.0
"""That of narrow PSFs, below so many pixels FWHM, which have more aliases."""

_PIXELS = 64 * 64**2  # of the stamps rendered at once
_DEVICE_PIXELS = 1024 * 64**2


def rendering_groups(batch, rows, *, psfs=None, device="cpu"):
    """Group rows that are rendered with transforms of one band.

    Parameters
    ----------
    batch : CutoutBatch
        Cutouts in units of their noise.
    rows : ndarray of int64
        Positions in the batch.
    psfs : CleanedPSFs, optional
        With these, a PSF image with a pedestal or noise that matter is replaced by its cleaned one.
    device : str, optional
        Torch device on which models are rendered.

    Yields
    ------
    members : ndarray of int64
        Positions in the batch.
    problem : Problem
        Tensors of the whole batch, with the PSFs of the members.
    """
    problem, box = batch_problem(batch, device), batch.image.shape[1:]
    dirty = np.zeros(len(rows), dtype=bool)
    if psfs is not None:
        dirty = psfs.is_dirty[psfs.places(batch.psf_index[rows])]
    exact = _needs_exact_psf(problem, batch, rows, stamps_at_once(box, device), device)
    for is_exact, is_cleaned in ((False, False), (True, False), (False, True), (True, True)):
        chosen = rows[(exact == is_exact) & (dirty == is_cleaned)]
        if not len(chosen):
            continue
        positions, local = np.unique(batch.psf_index[chosen], return_inverse=True)
        local = local.reshape(-1)
        if is_cleaned:
            found = _cleaned_grids(psfs, positions, box, is_exact, device)
        else:
            found = (_exact_grids if is_exact else _plain_grids)(batch, positions, box, device)
        for members, grid in found:
            some = np.isin(local, members)
            place = np.zeros(len(batch), dtype=np.int64)
            place[chosen[some]] = np.searchsorted(members, local[some])
            index = torch.from_numpy(place).to(device)
            yield chosen[some], replace(problem, psf=grid, psf_index=index, enlarge=is_exact)


def batch_problem(batch, device="cpu"):
    """Tensors of a batch, as yet without PSFs."""

    def tensor(array):
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    error = tensor(batch.error)
    gain = None if batch.gain is None else tensor(batch.gain.astype(np.float32))
    return Problem(tensor(batch.image), error, tensor(batch.good), gain, None, tensor(batch.psf_index))


def stamps_at_once(box, device="cpu"):
    """Number of stamps of a shape that are rendered at once, bounded by memory."""
    pixels = _PIXELS if device == "cpu" else _DEVICE_PIXELS
    return max(1, pixels // (box[0] * box[1]))


def _needs_exact_psf(problem, batch, rows, size, device):
    """Rows whose pixels hold so much signal that the PSF must be exact, boolean."""
    found = [torch.zeros(0, device=device)]
    for index in torch.from_numpy(rows).to(device).split(size):
        image, error, good, _ = problem.data(index)
        found.append((good * ((image / error) ** 2 - 1.0)).flatten(1).sum(1))
    narrow = batch.psf_fwhm[batch.psf_index[rows]] < _NARROW
    return torch.cat(found).cpu().numpy() > np.where(narrow, _NARROW_BRIGHT, _BRIGHT) ** 2


def _plain_grids(batch, positions, box, device):
    for members, grid in psfs_by_band(native_psfs(batch, positions, 1, device, CLEANING_SIZE), box):
        yield members.cpu().numpy(), grid


def _cleaned_grids(psfs, positions, box, is_exact, device):
    places = torch.from_numpy(psfs.places(positions)).to(device)
    images = psfs.images[places] * psfs.held[places, None, None]
    for members, grid in prepare_psfs(images, box, device=device) if is_exact else psfs_by_band(images, box):
        yield members.cpu().numpy(), grid


def _exact_grids(batch, positions, box, device):
    shapes = {}
    for place, position in enumerate(positions):
        shapes.setdefault(batch.psf[position].shape, []).append(place)
    for places in shapes.values():
        places = np.array(places)
        images = torch.from_numpy(np.stack([batch.psf[positions[place]] for place in places])).to(device)
        for members, grid in prepare_psfs(images, box, oversampling=batch.psf_oversampling, device=device):
            yield places[members.cpu().numpy()], grid
