"""A batch of cutouts as a least-squares problem: evaluates loss, gradient and curvature in small chunks."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from galmeasure.fitters import variables as _variables
from galmeasure.fitters.prior_term import PriorTerm
from galmeasure.likelihood import normal_equations
from galmeasure.parameters import N_PARAMETERS, PARAMETER_INDEX
from galmeasure.render import PSFGrid, raw_jacobian_matrix, render_raw
from galmeasure.utils.chunks import rows_per_chunk
from galmeasure.utils.compiled import compiled_module

__all__ = ["Problem"]

_FLUX = PARAMETER_INDEX["flux"]
_LOOPS = "galmeasure.render.compiled"


@dataclass(frozen=True)
class Problem:
    """Tensors of one batch.

    Parameters
    ----------
    image, error, good : Tensor
        Shape ``(B, ny, nx)``; ``error`` broadcasts.
    gain : Tensor or None
        Electrons per unit, shape ``(B,)``.
    psf : PSFGrid
        Transforms of the distinct PSFs.
    psf_index : Tensor
        Number of each PSF in ``psf``, shape ``(B,)``.
    dof : float or None
        Of the Student t loss.
    prior : PriorTerm or None
        A term that is added to the loss.
    enlarge : bool or Tensor
        Whether long, narrow galaxies get a larger grid, see `galmeasure.render.render_raw`; of each row, shape
        ``(B,)``, or of all.
    """

    image: torch.Tensor
    error: torch.Tensor
    good: torch.Tensor
    gain: torch.Tensor | None
    psf: PSFGrid
    psf_index: torch.Tensor
    dof: float | None = None
    prior: PriorTerm | None = None
    enlarge: bool | torch.Tensor = True

    def chunks(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Split rows so that the renderer's working set stays small.

        Parameters
        ----------
        rows : Tensor
            Row numbers of the problem.

        Returns
        -------
        tuple of Tensor
            The rows in their order.
        """
        if compiled_module(_LOOPS, self.image) is not None:  # spectra of one model at a time
            return rows.split(rows_per_chunk("compiled models", N_PARAMETERS * self.image[0].numel()))
        rows_k, columns_k = self.psf.transform.shape[1:]
        numbers = 2 * N_PARAMETERS * max(rows_k, self.psf.padded[0]) * columns_k  # per stamp
        return rows.split(rows_per_chunk("least-squares temporaries", numbers, self.image.device.type))

    def data(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Image, error, good and gain of some rows."""
        error = self.error if self.error.shape[0] == 1 else self.error[rows]
        return self.image[rows], error, self.good[rows], None if self.gain is None else self.gain[rows]

    def of_rows(self, rows: Tensor) -> "Problem":
        """Return the problem of some rows, without the prior."""
        image, error, good, gain = self.data(rows)
        columns = {"image": image, "error": error, "good": good, "gain": gain, "enlarge": self.enlarged(rows)}
        return replace(self, **columns, psf_index=self.psf_index[rows], prior=None)

    def enlarged(self, rows: Tensor) -> bool | Tensor:
        """``enlarge`` of some rows."""
        return self.enlarge if isinstance(self.enlarge, bool) else self.enlarge[rows]

    def draw(self, rows: Tensor, parameters: Tensor, background: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Model and raw images of some rows, with the matrix from these to parameters (and background).

        Parameters
        ----------
        rows : Tensor
            Row numbers of the problem, shape ``(K,)``.
        parameters : Tensor
            Shape ``(K, 7)``, double precision.
        background : Tensor, optional
            Constant per pixel, shape ``(K,)``; adds an image of ones.
        """
        raw = render_raw(parameters.to(self.image.dtype), self.psf, self.psf_index[rows], enlarge=self.enlarged(rows))
        model = raw[:, 0] * parameters[:, _FLUX, None, None].to(raw.dtype)
        matrix = raw_jacobian_matrix(parameters)
        if background is not None:
            model = model + background[:, None, None].to(raw.dtype)
            raw = torch.cat([raw, torch.ones_like(raw[:, :1])], 1)
            matrix = torch.nn.functional.pad(matrix, (0, 1, 0, 1))
            matrix[:, -1, -1] = 1.0
        return model, raw, matrix

    def evaluate(self, rows: Tensor, variables: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, half the negative gradient and half the expected second derivative, by the fit's variables."""
        terms = []
        start = 0
        for chunk in self.chunks(rows):
            point = variables[start : start + len(chunk)]
            start += len(chunk)
            background = point[:, _variables.BACKGROUND] if point.shape[1] > N_PARAMETERS else None
            drawn = self.draw(chunk, _variables.to_parameters(point), background)
            terms.append(self.equations(chunk, point, *drawn))
        terms = tuple(torch.cat(column) for column in zip(*terms, strict=True))
        if self.prior is None:
            return terms
        return tuple(term + prior for term, prior in zip(terms, self.prior.evaluate(rows, variables), strict=True))

    def equations(
        self, rows: Tensor, variables: Tensor, model: Tensor, raw: Tensor, matrix: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, half the negative gradient and half the expected second derivative of what was drawn, without a prior.

        Parameters
        ----------
        rows : Tensor
            Row numbers of the problem, shape ``(K,)``.
        variables : Tensor
            Variables of the fit at which the models were drawn, shape ``(K, P)``.
        model, raw, matrix : Tensor
            Models, raw images and matrices, as `draw` gives them.
        """
        equations = normal_equations(model, raw, *self.data(rows), dof=self.dof)
        matrix = _variables.jacobian(variables) @ matrix
        gradient = (matrix @ equations.score[:, :, None])[:, :, 0]
        return equations.loss, gradient, matrix @ equations.fisher @ matrix.transpose(1, 2)
