"""Tensors of a batch of cutouts on a device, made once, and groups of rows that the renderer can do in one go."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from galmeasure.cutouts.batches import CutoutBatch
from galmeasure.fitters.moments import psf_moments
from galmeasure.fitters.problem import Problem
from galmeasure.render.grid import prepare_psfs
from galmeasure.render.modes import stamp_transforms

__all__ = ["BatchTensors", "Group", "groups"]


@dataclass(frozen=True)
class BatchTensors:
    """Tensors of a batch of cutouts on a device.

    Parameters
    ----------
    batch : CutoutBatch
        The cutouts, in units of their noise; on a processor the tensors share its memory.
    device : str
        Torch device that holds the tensors.
    image : Tensor
        Pixels, single precision, shape ``(B, ny, nx)``.
    error : Tensor
        Noise of the pixels, shape ``(B, ny, nx)``, ``(B, 1, 1)`` or ``(1, 1, 1)``.
    good : Tensor
        Pixels that count, boolean, shape ``(B, ny, nx)``.
    gain : Tensor or None
        Electrons per unit, shape ``(B,)``; None where ``error`` holds all the noise.
    psf_index : Tensor
        Position of each row's PSF in ``batch.psf``, shape ``(B,)``.
    shape : Tensor
        True ny, nx of each cutout, shape ``(B, 2)``.
    """

    batch: CutoutBatch
    device: str
    image: torch.Tensor
    error: torch.Tensor
    good: torch.Tensor
    gain: torch.Tensor | None
    psf_index: torch.Tensor
    shape: torch.Tensor

    @classmethod
    def of(cls, batch: CutoutBatch, device: str = "cpu") -> "BatchTensors":
        """Make the tensors of a batch.

        Parameters
        ----------
        batch : CutoutBatch
            Cutouts in units of their noise.
        device : str, optional
            Torch device that is to hold the tensors.

        Returns
        -------
        BatchTensors
            Tensors of all rows.
        """
        return cls(
            batch, device, _tensor(batch.image, device), _tensor(batch.error, device), _tensor(batch.good, device),
            None if batch.gain is None else _tensor(batch.gain.astype(np.float32), device),
            _tensor(batch.psf_index, device), _tensor(batch.shape, device),
        )  # fmt: skip

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.batch)

    @property
    def box(self) -> tuple[int, int]:
        """Height and width of the stamps of the batch, in pixels."""
        return tuple(self.image.shape[1:])

    def measurable_rows(self) -> NDArray[np.int64]:
        """Rows that have at least one good pixel.

        Returns
        -------
        ndarray of int64
            Their numbers in the batch, ascending.
        """
        return np.flatnonzero(self.batch.good.any(axis=(1, 2)))

    def psf_fwhm(self) -> torch.Tensor:
        """Width of the PSF of each row.

        Returns
        -------
        Tensor
            Full width at half maximum, pixel response included, in pixels, shape ``(B,)``.
        """
        return torch.from_numpy(self.batch.psf_fwhm[self.batch.psf_index]).to(self.device)

    def problem(self) -> Problem:
        """Least-squares problem of all rows, as yet without PSFs.

        Returns
        -------
        Problem
            Problem that shares the tensors.
        """
        return Problem(self.image, self.error, self.good, self.gain, None, self.psf_index)


@dataclass(frozen=True)
class Group:
    """Rows of a batch whose PSFs fill the same Fourier bands.

    Parameters
    ----------
    rows : ndarray of int64
        Row numbers in the batch.
    problem : Problem
        Least-squares problem of these rows.
    psf_covariance : Tensor
        Adaptive second moments of each row's PSF, shape ``(B, 2, 2)``.
    shapes : Tensor
        True ny, nx of each row, shape ``(B, 2)``.
    psf_on_stamp : Tensor or None
        Transforms of the PSFs on the wavenumbers of the stamp's own period, ``(M, ny, nx // 2 + 1)``, if asked for.
    """

    rows: NDArray[np.int64]
    problem: Problem
    psf_covariance: torch.Tensor
    shapes: torch.Tensor
    psf_on_stamp: torch.Tensor | None = None


def groups(tensors: BatchTensors, *, dof: float | None = None, on_stamp: bool = False) -> Iterator[Group]:
    """Group the measurable rows of a batch by the Fourier bands of their PSFs.

    Parameters
    ----------
    tensors : BatchTensors
        Tensors of the batch.
    dof : float, optional
        Degrees of freedom of a Student t loss; Gaussian by default.
    on_stamp : bool, optional
        Also transform the PSFs on the wavenumbers of the stamp's own period.

    Yields
    ------
    Group
        Rows with their problem.
    """
    batch, measurable = tensors.batch, tensors.batch.good.any(axis=(1, 2))
    for members, grid, moments, on_period in _psf_groups(batch, tensors.box, tensors.device, on_stamp):
        rows = np.flatnonzero(measurable & np.isin(batch.psf_index, members))
        if len(rows) == 0:
            continue
        index = torch.from_numpy(rows).to(tensors.device)
        local = torch.from_numpy(np.searchsorted(members, batch.psf_index[rows])).to(tensors.device)
        problem = Problem(
            image=tensors.image[index],
            error=tensors.error if len(tensors.error) == 1 else tensors.error[index],
            good=tensors.good[index],
            gain=None if tensors.gain is None else tensors.gain[index],
            psf=grid,
            psf_index=local,
            dof=dof,
        )
        yield Group(rows, problem, moments[local], tensors.shape[index], on_period)


def _tensor(array, device):
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def _psf_groups(batch, box, device, on_stamp):
    """(positions in ``batch.psf``, PSFGrid, moments, transforms on the stamp) for PSFs that fill the same band."""
    by_shape = {}
    for position, image in enumerate(batch.psf):
        by_shape.setdefault(image.shape, []).append(position)
    by_band = {}
    for positions in by_shape.values():
        positions = np.array(positions)
        images = torch.from_numpy(np.stack([batch.psf[position] for position in positions])).to(device)
        moments = psf_moments(images, batch.psf_oversampling)
        on_period = stamp_transforms(images, box, oversampling=batch.psf_oversampling) if on_stamp else None
        for members, grid in prepare_psfs(images, box, oversampling=batch.psf_oversampling, device=device):
            members = members.cpu().numpy()
            of_members = None if on_period is None else on_period[members]
            by_band.setdefault(grid.band, []).append((positions[members], grid, moments[members], of_members))
    for entries in by_band.values():
        positions = np.concatenate([entry[0] for entry in entries])
        order = np.argsort(positions)
        transform = torch.cat([entry[1].transform for entry in entries])[order]
        grid = entries[0][1].with_transform(transform)
        on_period = torch.cat([entry[3] for entry in entries])[order] if on_stamp else None
        yield positions[order], grid, torch.cat([entry[2] for entry in entries])[order], on_period
