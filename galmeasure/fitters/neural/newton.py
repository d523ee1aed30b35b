"""Newton steps from a network's estimates towards the highest posterior density, in the network's coordinates."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from galmeasure.fitters.crop import CROPS, Crop, crop_sides
from galmeasure.fitters.network_psfs import CleanedPSFs
from galmeasure.fitters.neural.encode import EncodedChunk
from galmeasure.fitters.rendering import rendering_groups
from galmeasure.fitters.tensors import BatchTensors
from galmeasure.likelihood import normal_equations
from galmeasure.networks import SersicPosterior
from galmeasure.networks.correction import Evaluation
from galmeasure.networks.psf_cleaning import N_PSF_QUALITY
from galmeasure.networks.transform import ParameterTransform
from galmeasure.parameters import N_PARAMETERS, SERSIC
from galmeasure.render.sersic import RAW_INDEX, is_narrow_ridge, raw_jacobian_matrix, render_raw

__all__ = ["BatchEvaluation", "NetworkFrame", "evaluate_batch"]

_FLUX, _R_EFF, _G1, _G2, _X, _Y = SERSIC.indices("flux", "r_eff", "g1", "g2", "x", "y")
_SHEAR = SERSIC.slice("g1", "g2")
_BRIGHT = 40.0  # signal-to-noise ratio from which steps are taken
_SETTLED = 0.3**2  # squared length, in sigma, of a step that is not worth an evaluation
_RESTLESS = 1.0  # squared length of a step after the last evaluation that is worth a flag
_EVALUATIONS = 4  # at most, after the first
_LARGEST_EXCESS = 0.25  # of reduced chi-squared, after a step as predicted, with which steps are still taken
_BOUNDED = list(SERSIC.indices("n", "r_eff", "x", "y"))  # coordinates that are logits: index, size and centre
_LONGEST = 1.0  # of a step in the network's coordinates
_DAMPING = 1e-3


@dataclass(frozen=True)
class NetworkFrame:
    """Places of the network's coordinates of each row of a batch on its stamp.

    Parameters
    ----------
    start : Tensor
        Unconstrained coordinates of the network's estimates, shape ``(B, 7)``, double precision; NaN where there are
        none.
    flux_scale : Tensor
        Unit of the flux in these, shape ``(B,)``.
    scale, offset : Tensor
        From the network's parameters to those of the stamp, shape ``(B, 7)``.
    fwhm : Tensor
        Width of each row's PSF, pixel response included, in pixels of the network, shape ``(B,)``.
    psf_quality : Tensor
        Quality of each row's PSF image, see `galmeasure.networks.clean_psfs`, shape ``(B, 3)``.
    """

    start: torch.Tensor
    flux_scale: torch.Tensor
    scale: torch.Tensor
    offset: torch.Tensor
    fwhm: torch.Tensor
    psf_quality: torch.Tensor

    @classmethod
    def of(
        cls,
        network: SersicPosterior,
        tensors: BatchTensors,
        chunks: Iterable[EncodedChunk],
        psfs: CleanedPSFs | None = None,
    ) -> Self:
        """Frame of the rows of encoded chunks, with the CleanedPSFs of the batch."""
        batch, device, count = tensors.batch, tensors.device, len(tensors)

        def empty(*shape):
            return torch.full((count, *shape), torch.nan, dtype=torch.float64, device=device)

        quality = torch.zeros((count, N_PSF_QUALITY), dtype=torch.float64, device=device)
        frame = cls(empty(N_PARAMETERS), empty(), empty(N_PARAMETERS), empty(N_PARAMETERS), empty(), quality)
        fwhm = tensors.psf_fwhm()
        for chunk in chunks:
            keep = torch.from_numpy(chunk.keep).to(device)
            rows = torch.from_numpy(chunk.rows).to(device)[keep]
            scale = chunk.context.flux_scale[keep].double()
            frame.start[rows] = network.transform.forward(chunk.summary.mean[keep].double(), scale)
            frame.flux_scale[rows] = scale
            frame.scale[rows] = chunk.window.scale
            frame.offset[rows] = chunk.window.offset()[keep]
            frame.fwhm[rows] = fwhm[rows] / chunk.window.block
            if psfs is not None:
                index = psfs.indices_of(batch.psf_index[chunk.rows[chunk.keep]])
                frame.psf_quality[rows] = psfs.quality[torch.from_numpy(index).to(device)].double()
        return frame

    def cropped(self, crop: Crop) -> "NetworkFrame":
        """Frame of the rows of a crop, with offsets in pixels of the crop."""
        frame = self[torch.from_numpy(crop.rows).to(self.scale.device)]
        offset = frame.offset.clone()
        offset[:, SERSIC.slice("x", "y")] -= torch.from_numpy(crop.start[:, ::-1].copy()).to(offset)
        return replace(frame, offset=offset)

    def stamp(self, transform: ParameterTransform, point: Tensor) -> Tensor:
        """Parameters in pixels of the stamps, shape ``(B, 7)``, of points in the network's coordinates."""
        return transform.inverse(point, self.flux_scale) * self.scale + self.offset

    def __getitem__(self, rows: Tensor) -> "NetworkFrame":
        """Return some of the rows, in the order of the index."""
        return NetworkFrame(*(getattr(self, column.name)[rows] for column in fields(self)))


@dataclass(frozen=True)
class BatchEvaluation:
    """The exact model at the end of the steps of each row of a batch.

    Parameters
    ----------
    evaluation : Evaluation
        In the network's coordinates, ``B`` rows; NaN where there is no measurement.
    values : ndarray
        Parameters at these points in pixels of the stamp, shape ``(B, 7)``.
    n_pixels, inside : Tensor
        Good pixels, and fraction of the model's flux within the stamp, shape ``(B,)``.
    restless : ndarray of bool
        Rows that want to move further by more than an error, shape ``(B,)``.
    residual : Tensor or None
        Image minus model over the noise at these points, 0 where bad, shape ``(B, ny, nx)``, where asked for.
    """

    evaluation: Evaluation
    values: np.ndarray
    n_pixels: torch.Tensor
    inside: torch.Tensor
    restless: np.ndarray
    residual: torch.Tensor | None = None


def evaluate_batch(
    network: SersicPosterior,
    tensors: BatchTensors,
    frame: NetworkFrame,
    *,
    psfs: CleanedPSFs | None = None,
    residuals: bool = False,
) -> BatchEvaluation:
    """Evaluate the model, its residual and derivatives at a network's estimates, and after steps from there.

    Parameters
    ----------
    network : SersicPosterior
        The network, whose coordinates are used.
    tensors : BatchTensors
        Tensors of the batch.
    frame : NetworkFrame
        Estimates of the network, and where its coordinates lie.
    psfs : CleanedPSFs, optional
        Cleaned PSFs for images that need it, see `galmeasure.fitters.rendering.rendering_groups`.
    residuals : bool, optional
        Also keep the residuals, which takes as much memory as the stamps.

    Returns
    -------
    BatchEvaluation
        Evaluation of all rows.

    Notes
    -----
    Steps are those of Levenberg and Marquardt: at most four, where the signal-to-noise ratio is above 40, the model
    would fit after the step, and the step is longer than 0.3 sigma. A row's steps depend on that row alone.
    """
    batch, device = tensors.batch, tensors.device
    rows = np.flatnonzero(torch.isfinite(frame.start).all(1).cpu().numpy())
    columns = _empty(len(batch), device)
    residual = torch.zeros_like(tensors.image) if residuals else None
    start = frame.stamp(network.transform, frame.start)
    sides = crop_sides(start[rows], batch.shape[rows], tensors.psf_fwhm()[rows])
    for index, state in _final_states(network, tensors, rows[sides == 0], frame, psfs):
        _put(columns, index, state)
        if residuals:
            residual[index] = state.residual
    for side in CROPS:
        chosen = rows[sides == side]
        if not len(chosen):
            continue
        crop = Crop.of(side, batch, chosen, start[chosen][:, [_X, _Y]].cpu().numpy())
        all_rows = np.arange(len(chosen))
        cropped = BatchTensors.of(crop.batch, device)
        for index, state in _final_states(network, cropped, all_rows, frame.cropped(crop), psfs):
            local = index.cpu().numpy()
            state.chi2 = state.chi2 + torch.from_numpy(crop.chi2[local]).to(device)
            state.n_pixels = torch.from_numpy(crop.n_pixels[local]).to(device)
            members = torch.from_numpy(chosen[local]).to(device)
            _put(columns, members, state)
            if residuals:
                residual[members] = crop.whole(local, state.residual)
    return _finish(columns, network, frame, residual)


def _final_states(network, tensors, rows, frame, psfs):
    """Yield rows and where their steps ended, by groups that step together: few rows render slowly one by one."""
    if not len(rows):
        return
    start = frame.stamp(network.transform, frame.start)
    for members, problem in rendering_groups(tensors, rows, psfs=psfs):
        index = torch.from_numpy(members).to(tensors.device)
        wide = is_narrow_ridge(start[index], problem.psf.padded) & problem.enlarged(index)
        index = index[wide.byte().argsort(stable=True)]  # those that need a larger grid are rendered together
        yield index, _NewtonSteps(network, problem, index, frame[index]).run()


def _put(columns, index, state):
    for name, column in columns.items():
        column[index] = getattr(state, name).to(column.dtype)


def _empty(count, device):
    shapes = {
        "point": (N_PARAMETERS,), "score": (N_PARAMETERS,), "fisher": (N_PARAMETERS, N_PARAMETERS), "chi2": (),
        "snr": (), "steps": (), "n_pixels": (), "inside": (), "restless": (),
    }  # fmt: skip
    return {
        name: torch.full((count, *shape), torch.nan, dtype=torch.float64, device=device)
        for name, shape in shapes.items()
    }


def _finish(columns, network, frame, residual):
    values = network.transform.inverse(columns["point"], frame.flux_scale)
    dof = columns["n_pixels"] - N_PARAMETERS
    size = values[:, _R_EFF] / frame.fwhm
    evaluation = Evaluation(
        columns["point"], columns["score"], columns["fisher"], columns["chi2"], dof, columns["snr"], columns["steps"],
        size, frame.psf_quality,
    )  # fmt: skip
    stamp = (values * frame.scale + frame.offset).cpu().numpy()
    restless = columns["restless"].cpu().numpy() > 0.0
    return BatchEvaluation(evaluation, stamp, columns["n_pixels"], columns["inside"], restless, residual)


@dataclass
class _State:
    """Where each row stands; ``loss`` and ``score`` include the prior."""

    point: torch.Tensor
    loss: torch.Tensor
    score: torch.Tensor
    fisher: torch.Tensor
    chi2: torch.Tensor
    snr: torch.Tensor
    inside: torch.Tensor
    residual: torch.Tensor
    n_pixels: torch.Tensor
    steps: torch.Tensor
    restless: torch.Tensor

    def put(self, rows, state, chosen):
        """Take over rows of another state, all but the number of steps, which grows."""
        for column in fields(self):
            if column.name not in ("steps", "n_pixels", "restless"):
                getattr(self, column.name)[rows] = getattr(state, column.name)[chosen]
        self.steps[rows] += 1.0


class _NewtonSteps:
    """Steps of the rows of one chunk."""

    def __init__(self, network, problem, index, frame):
        self._network, self._problem, self._index, self._frame = network, problem, index, frame
        self._n_pixels = problem.good[index].flatten(1).sum(1).double()

    def run(self):
        """Evaluate, step, and evaluate again where that is worth it."""
        all_rows = torch.arange(len(self._index), device=self._index.device)
        state = self._evaluate(all_rows, self._frame.start)
        damping = torch.full_like(state.loss, _DAMPING)
        for _ in range(_EVALUATIONS):
            step, length = self._step(state, damping)
            rows = torch.nonzero(self._worth(state, length) & (length > _SETTLED))[:, 0]
            if not len(rows):
                break
            candidate = self._evaluate(rows, state.point[rows] + step[rows])
            better = torch.isfinite(candidate.loss) & (candidate.loss < state.loss[rows])
            state.put(rows[better], candidate, better)
            damping[rows] = damping[rows] * torch.where(better, 0.2, 30.0)
        _, length = self._step(state, torch.full_like(damping, _DAMPING))
        state.restless = (self._worth(state, length) & (length > _RESTLESS)).double()
        return state

    def _worth(self, state, length):
        """Rows that are bright enough, and whose model would fit after a step, boolean."""
        dof = (self._n_pixels - N_PARAMETERS).clamp_min(1.0)
        limit = 1.0 + torch.maximum(5.0 * torch.sqrt(2.0 / dof), torch.full_like(dof, _LARGEST_EXCESS))
        return (state.snr > _BRIGHT) & ((state.chi2 - length) / dof < limit)

    def _step(self, state, damping):
        """Damped step, and the squared length, in sigma, of the undamped one."""
        matrix = Evaluation(state.point, state.score, state.fisher, *[state.chi2] * 6).precision()
        scale = matrix.diagonal(dim1=-2, dim2=-1).sqrt()
        balanced = matrix / (scale[:, :, None] * scale[:, None, :])
        identity = torch.eye(N_PARAMETERS, dtype=matrix.dtype, device=matrix.device)
        score = (state.score / scale)[..., None]
        plain, damped = (
            torch.cholesky_solve(score, torch.linalg.cholesky_ex(balanced + ridge * identity)[0])[..., 0]
            for ridge in (1e-9, damping[:, None, None])
        )
        length = (plain * score[..., 0]).sum(1)
        step = torch.nan_to_num(damped / scale)
        return step / (step.abs().amax(1, keepdim=True) / _LONGEST).clamp_min(1.0), torch.nan_to_num(length)

    def _evaluate(self, rows, point):
        frame, transform = self._frame[rows], self._network.transform
        values = transform.inverse(point, frame.flux_scale)
        stamp = values * frame.scale + frame.offset
        rendered = [self._render(chunk, stamp[span]) for chunk, span in self._chunks(rows)]
        score, fisher, loss, chi2, snr, inside, residual = (torch.cat(column) for column in zip(*rendered, strict=True))
        jacobian = transform.jacobian(point, frame.flux_scale) * frame.scale[:, :, None]
        matrix = jacobian.mT @ raw_jacobian_matrix(stamp)
        score, fisher = (matrix @ score[..., None])[..., 0], matrix @ fisher @ matrix.mT
        log_prior, slope = _log_prior(point)
        zero = torch.zeros_like(loss)
        return _State(
            point, loss - 2.0 * log_prior, score + slope, fisher, chi2, snr, inside, residual, self._n_pixels[rows],
            zero, zero.clone(),
        )  # fmt: skip

    def _chunks(self, rows):
        """Yield rows of the problem and the span of their positions, few enough for the cache."""
        start = 0
        for chunk in self._problem.chunks(self._index[rows]):
            yield chunk, slice(start, start + len(chunk))
            start += len(chunk)

    def _render(self, rows, stamp):
        """Score and Fisher matrix by the renderer's coordinates, loss, chi-squared, S/N, light inside, residuals."""
        problem = self._problem
        image, error, good, gain = problem.data(rows)
        raw = render_raw(stamp.to(image.dtype), problem.psf, problem.psf_index[rows], enlarge=problem.enlarged(rows))
        model = raw[:, RAW_INDEX["model"]] * stamp[:, _FLUX, None, None].to(raw.dtype)
        equations = normal_equations(model, raw, image, error, good, gain, residuals=True)
        inside = equations.light / stamp[:, _FLUX]
        columns = (equations.score, equations.fisher, equations.loss, equations.chi2, equations.snr)
        return *columns, inside, equations.residual


def _log_prior(point):
    """Log density, ``(P,)``, of a broad prior by the network's coordinates, and its derivatives, ``(P, 7)``.

    It is flat in the index, in the logarithms of size and flux and in the centre, within their domain, and falls with
    the shear as ``(1 - (|g| / g_max)**2)**2``. It keeps steps inside the domain; what the prior of the training says is
    learned by the correction.
    """
    bounded = point[:, _BOUNDED]
    density = (logsigmoid(bounded) + logsigmoid(-bounded)).sum(1)
    slope = torch.zeros_like(point)
    slope[:, _BOUNDED] = 1.0 - 2.0 * torch.sigmoid(bounded)
    length = torch.hypot(point[:, _G1], point[:, _G2]).clamp_min(1e-9)
    log_cosh = length + softplus(-2.0 * length) - math.log(2.0)
    density = density + torch.log(torch.tanh(length) / length) - 6.0 * log_cosh
    radial = 2.0 / torch.sinh(2.0 * length).clamp(1e-9, 1e9) - 1.0 / length - 6.0 * torch.tanh(length)
    slope[:, _SHEAR] = (radial / length)[:, None] * point[:, _SHEAR]
    return density, slope
