"""A batch of cutouts as a least-squares problem: evaluates loss, gradient and curvature in small pieces."""

from dataclasses import dataclass

import torch

from galmeasure.fitters import _variables
from galmeasure.likelihood import normal_equations
from galmeasure.parameters import N_PARAMETERS
from galmeasure.render import PSFGrid, raw_jacobian_matrix, render_raw

__all__ = ["Problem"]

_PIECE = 2_500_000  # numbers in the largest temporary array, so that it stays in the cache and in the heap


@dataclass(frozen=True)
class Problem:
    """Tensors of one batch.

    Parameters
    ----------
    image, error, good : Tensor
        Shape ``(B, ny, nx)``; ``error`` broadcasts.
    gain : Tensor or None
        Shape ``(B,)``.
    psf : PSFGrid
        Transforms of the distinct PSFs.
    psf_index : Tensor
        Shape ``(B,)``.
    dof : float or None
        Of the Student t loss.
    """

    image: torch.Tensor
    error: torch.Tensor
    good: torch.Tensor
    gain: torch.Tensor | None
    psf: PSFGrid
    psf_index: torch.Tensor
    dof: float | None = None

    def pieces(self, rows):
        """Split ``rows`` so that the renderer's working set stays small."""
        ly, lx = self.psf.padded
        one = 2 * N_PARAMETERS * self.psf.fold**2 * ly * (lx // 2 + 1)
        on_device = self.image.device.type == "cpu"
        return rows.split(max(1, _PIECE // one)) if on_device else rows.split(max(1, 200 * _PIECE // one))

    def data(self, rows):
        """Image, error, good and gain of some rows."""
        error = self.error if self.error.shape[0] == 1 else self.error[rows]
        return self.image[rows], error, self.good[rows], None if self.gain is None else self.gain[rows]

    def equations(self, rows, variables):
        """Normal equations along the raw images of some rows, with the matrix from these to the variables."""
        parameters = _variables.to_parameters(variables)
        raw = render_raw(parameters.to(self.image.dtype), self.psf, self.psf_index[rows])
        model = raw[:, 0] * parameters[:, 0, None, None].to(raw.dtype)
        matrix = raw_jacobian_matrix(parameters)
        if variables.shape[1] > N_PARAMETERS:
            model = model + variables[:, _variables.BACKGROUND, None, None].to(raw.dtype)
            raw = torch.cat([raw, torch.ones_like(raw[:, :1])], 1)
            matrix = torch.nn.functional.pad(matrix, (0, 1, 0, 1))
            matrix[:, -1, -1] = 1.0
        return normal_equations(model, raw, *self.data(rows), dof=self.dof), matrix

    def evaluate(self, rows, variables):
        """Loss, half the negative gradient and half the expected second derivative, by the fit's variables."""
        losses, gradients, hessians = [], [], []
        start = 0
        for piece in self.pieces(rows):
            part = variables[start : start + len(piece)]
            start += len(piece)
            found, matrix = self.equations(piece, part)
            matrix = _variables.jacobian(part) @ matrix
            losses.append(found.loss)
            gradients.append((matrix @ found.score[:, :, None])[:, :, 0])
            hessians.append(matrix @ found.fisher @ matrix.transpose(1, 2))
        return torch.cat(losses), torch.cat(gradients), torch.cat(hessians)
