"""Quality of given models of a batch, rendered as cheaply as is exact enough."""

from functools import partial

import numpy as np
import torch

from galmeasure.fitters._encode import native_psfs, pieces_of
from galmeasure.fitters._problem import Problem
from galmeasure.fitters._quality import Quality, model_quality, piece_quality
from galmeasure.fitters._tensors import groups
from galmeasure.render.grid import native_psf, prepare_psfs

__all__ = ["batch_quality"]

_BRIGHT = 150.0
"""Signal-to-noise ratio of the pixels above which the aliases of a PSF are undone; below, they drown in the noise."""

_PIXELS = 64 * 64**2  # of the stamps rendered at once
_DEVICE_PIXELS = 1024 * 64**2
_PSF_PIECE = 16


def batch_quality(batch, values, *, device="cpu", crb=False, see=None):
    """Quality of the models of all measurable rows of a batch.

    Parameters
    ----------
    batch : CutoutBatch
        Cutouts in units of their noise.
    values : ndarray
        Parameters, shape ``(B, 7)``.
    device : str, optional
        Where to render.
    crb : bool, optional
        Also compute Cramer-Rao bounds.
    see : callable, optional
        Called with the residuals of some rows, as `ResidualWatch.see`.

    Returns
    -------
    rows : ndarray of int64
        Positions in the batch.
    quality : Quality
        Of these rows.
    """
    values = torch.from_numpy(values).to(device)
    if crb:
        parts = [(group.rows, model_quality(group.problem, values[group.rows], crb=True))
                 for group in groups(batch, device=device)]  # fmt: skip
        if see is not None:
            list(_quick(batch, values, device, see))
    else:
        parts = list(_quick(batch, values, device, see))
    if not parts:
        return np.zeros(0, dtype=np.int64), None
    return np.concatenate([rows for rows, _ in parts]), Quality.join([quality for _, quality in parts])


def _quick(batch, values, device, see):
    """Yield rows and quality, without derivatives."""
    rows = np.flatnonzero(batch.good.any(axis=(1, 2)))
    if not len(rows):
        return
    problem = _problem(batch, device)
    box = batch.image.shape[1:]
    size = max(1, (_PIXELS if device == "cpu" else _DEVICE_PIXELS) // (box[0] * box[1]))
    bright = _is_bright(problem, rows, size, device)
    for chosen, exact in ((rows[~bright], False), (rows[bright], True)):
        for members, grid, place in _grids(batch, chosen, box, exact, device):
            some = _with_grid(problem, grid, place)
            for piece, count in pieces_of(members, size):
                seen = None if see is None else partial(see, piece, count)
                found = piece_quality(some, torch.from_numpy(piece).to(device), values[piece], enlarge=False, see=seen)
                yield piece[:count], found.first(count)


def _problem(batch, device):
    """The batch's tensors, as yet without PSFs."""

    def tensor(array):
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    error = tensor(batch.error)
    gain = None if batch.gain is None else tensor(batch.gain.astype(np.float32))
    return Problem(tensor(batch.image), error, tensor(batch.good), gain, None, tensor(batch.psf_index))


def _with_grid(problem, grid, place):
    return Problem(problem.image, problem.error, problem.good, problem.gain, grid, place)


def _is_bright(problem, rows, size, device):
    """Rows whose pixels hold so much signal that the PSF must be exact, boolean."""
    found = []
    for piece, count in pieces_of(rows, size):
        image, error, good, _ = problem.data(torch.from_numpy(piece).to(device))
        excess = (good * ((image / error) ** 2 - 1.0)).flatten(1).sum(1)
        found.append((excess > _BRIGHT**2)[:count])
    return torch.cat(found).cpu().numpy()


def _grids(batch, rows, box, exact, device):
    """Yield rows, a PSFGrid for them, and which of its PSFs each row of the batch has."""
    if not len(rows):
        return
    positions, local = np.unique(batch.psf_index[rows], return_inverse=True)
    local = local.reshape(-1)
    grids = _exact_grids if exact else _plain_grid
    for members, grid in grids(batch, positions, box, device):
        chosen = np.isin(local, members)
        place = np.zeros(len(batch), dtype=np.int64)
        place[rows[chosen]] = np.searchsorted(members, local[chosen])
        yield rows[chosen], grid, torch.from_numpy(place).to(device)


def _plain_grid(batch, positions, box, device):
    images = native_psfs(batch, positions, device=device)
    parts = [native_psf(part, box) for part in images.split(_PSF_PIECE)]
    yield np.arange(len(positions)), parts[0].with_transform(torch.cat([part.transform for part in parts]))


def _exact_grids(batch, positions, box, device):
    shapes = {}
    for place, position in enumerate(positions):
        shapes.setdefault(batch.psf[position].shape, []).append(place)
    for places in shapes.values():
        places = np.array(places)
        images = torch.from_numpy(np.stack([batch.psf[positions[place]] for place in places])).to(device)
        for members, grid in prepare_psfs(images, box, oversampling=batch.psf_oversampling, device=device):
            yield places[members.cpu().numpy()], grid
