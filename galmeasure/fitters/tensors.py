"""From a batch of cutouts to tensors on a device, grouped by what the renderer can do in one go."""

from dataclasses import dataclass

import numpy as np
import torch

from galmeasure.fitters.moments import psf_moments
from galmeasure.fitters.problem import Problem
from galmeasure.render.grid import prepare_psfs

__all__ = ["Group", "groups"]


@dataclass(frozen=True)
class Group:
    """Rows of a batch whose PSFs fill the same Fourier bands.

    Parameters
    ----------
    rows : ndarray of int64
        Positions in the batch.
    problem : Problem
        Their tensors.
    psf_covariance : Tensor
        Adaptive second moments of each row's PSF, shape ``(B, 2, 2)``.
    shapes : Tensor
        True ny, nx of each row, shape ``(B, 2)``.
    """

    rows: np.ndarray
    problem: Problem
    psf_covariance: torch.Tensor
    shapes: torch.Tensor


def groups(batch, *, device="cpu", dof=None):
    """Groups of the measurable rows of a :class:`~galmeasure.cutouts.batches.CutoutBatch`, each with its tensors."""
    usable = batch.good.any(axis=(1, 2))
    box = batch.image.shape[1:]
    for members, grid, moments in _psf_groups(batch, box, device):
        rows = np.flatnonzero(usable & np.isin(batch.psf_index, members))
        if len(rows) == 0:
            continue
        local = np.searchsorted(members, batch.psf_index[rows])
        constant = batch.error.shape[1:] == (1, 1)
        problem = Problem(
            image=_tensor(batch.image[rows], device),
            error=_tensor(batch.error[:1] if constant and batch.error.shape[0] == 1 else batch.error[rows], device),
            good=_tensor(batch.good[rows], device),
            gain=None if batch.gain is None else _tensor(batch.gain[rows].astype(np.float32), device),
            psf=grid,
            psf_index=_tensor(local, device),
            dof=dof,
        )
        yield Group(rows, problem, moments[problem.psf_index], _tensor(batch.shape[rows], device))


def _tensor(array, device):
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def _psf_groups(batch, box, device):
    """(positions in ``batch.psf``, PSFGrid, moments) for PSFs that fill the same band."""
    shapes = {}
    for position, image in enumerate(batch.psf):
        shapes.setdefault(image.shape, []).append(position)
    found = {}
    for positions in shapes.values():
        positions = np.array(positions)
        images = torch.from_numpy(np.stack([batch.psf[i] for i in positions])).to(device)
        moments = psf_moments(images, batch.psf_oversampling)
        for members, grid in prepare_psfs(images, box, oversampling=batch.psf_oversampling, device=device):
            members = members.cpu().numpy()
            found.setdefault(grid.band, []).append((positions[members], grid, moments[members]))
    for parts in found.values():
        positions = np.concatenate([part[0] for part in parts])
        order = np.argsort(positions)
        transform = torch.cat([part[1].transform for part in parts])[order]
        grid = parts[0][1].with_transform(transform)
        yield positions[order], grid, torch.cat([part[2] for part in parts])[order]
