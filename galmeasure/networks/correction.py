"""A learned correction: from a network's posterior and one exact evaluation of the model to a sharper posterior."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from galmeasure.networks.base import LEVELS, Context, PosteriorNetwork, PosteriorSummary
from galmeasure.networks.flow_frame import FlowFrame
from galmeasure.networks.posterior import (
    N_TRIANGLE,
    head_losses,
    ordered_levels,
    parameter_scale,
    triangle,
)
from galmeasure.networks.psf_cleaning import N_PSF_QUALITY
from galmeasure.networks.splines import spline_flow
from galmeasure.parameters import SERSIC

__all__ = ["CorrectedContext", "Correction", "CorrectionConfig", "Evaluation", "correction_inputs", "n_inputs"]

_N = SERSIC.size
_SHEAR = SERSIC.slice("g1", "g2")
_SLOPE = 1e-3
_LONGEST = 5.0  # of a whitened score that is believed, in sigma
_PRIOR_PRECISION = (1.0, 0.3, 0.3, 1.0, 1.0, 0.3, 0.3)
_N_NUMBERS = 6
_DROPOUT = 0.5


@dataclass(frozen=True, kw_only=True)
class CorrectionConfig:
    """Architecture of a correction.

    Parameters
    ----------
    hidden : int
        Width of the two hidden layers.
    flow_transforms, flow_bins, flow_hidden, flow_context : int
        Neural spline flow: transforms, bins of the splines, width of the hidden layer, length of the context.
    """

    hidden: int = 96
    flow_transforms: int = 1
    flow_bins: int = 8
    flow_hidden: int = 48
    flow_context: int = 24

    def as_dict(self) -> dict[str, int]:
        """Plain values, for a card."""
        return asdict(self)


@dataclass(frozen=True)
class Evaluation:
    """The exact model at one point of each galaxy, in the unconstrained coordinates of a network.

    Parameters
    ----------
    point : Tensor
        Coordinates at which the model was evaluated, shape ``(B, 7)``, double precision.
    score : Tensor
        Derivative of the log posterior density by the coordinates, shape ``(B, 7)``.
    fisher : Tensor
        Expected information of the pixels, shape ``(B, 7, 7)``.
    chi2, dof, snr : Tensor
        Chi-squared, degrees of freedom and signal-to-noise ratio of the model, shape ``(B,)``.
    steps : Tensor
        Number of steps that were accepted on the way to the point, shape ``(B,)``.
    size : Tensor
        Half-light radius over the width of the PSF, shape ``(B,)``.
    psf_quality : Tensor
        Quality of each PSF image, see `galmeasure.networks.clean_psfs`, shape ``(B, 3)``.
    """

    point: torch.Tensor
    score: torch.Tensor
    fisher: torch.Tensor
    chi2: torch.Tensor
    dof: torch.Tensor
    snr: torch.Tensor
    steps: torch.Tensor
    size: torch.Tensor
    psf_quality: torch.Tensor

    def __getitem__(self, rows: Tensor | slice) -> "Evaluation":
        """Return some of the rows, in the order of the index."""
        return Evaluation(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def precision(self) -> Tensor:
        """Information of the pixels and a broad prior, shape ``(B, 7, 7)``, positive definite."""
        return self.fisher + torch.diag(self.fisher.new_tensor(_PRIOR_PRECISION))

    def whitener(self) -> tuple[Tensor, Tensor]:
        """Matrix ``W`` with ``W W^T`` the inverse of :meth:`precision`, shape ``(B, 7, 7)``, and its inverse."""
        precision = self.precision()
        scale = precision.diagonal(dim1=-2, dim2=-1).sqrt()
        balanced = precision / (scale[:, :, None] * scale[:, None, :])
        factor = torch.linalg.cholesky_ex(balanced + 1e-9 * torch.eye(_N, dtype=scale.dtype, device=scale.device))[0]
        factor = scale[:, :, None] * factor
        identity = torch.eye(_N, dtype=factor.dtype, device=factor.device).expand_as(factor)
        return torch.linalg.solve_triangular(factor, identity, upper=False).mT, factor.mT


@dataclass(frozen=True)
class CorrectedContext:
    """Encoded batch of galaxies, relative to one Newton step of each.

    Parameters
    ----------
    features : Tensor
        Hidden features, shape ``(B, hidden)``.
    flux_scale : Tensor
        Unit of the flux, shape ``(B,)``.
    anchor : Tensor
        Unconstrained coordinates to which the outputs are relative, shape ``(B, 7)``.
    whitener : Tensor
        From units of the error to unconstrained coordinates, shape ``(B, 7, 7)``.
    """

    features: torch.Tensor
    flux_scale: torch.Tensor
    anchor: torch.Tensor
    whitener: torch.Tensor

    def __getitem__(self, rows: Tensor | slice) -> "CorrectedContext":
        """Return some of the rows, in the order of the index."""
        return CorrectedContext(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def double(self) -> "CorrectedContext":
        """Return a copy in double precision, for derivatives."""
        return CorrectedContext(*(getattr(self, name).double().clone() for name in self.__dataclass_fields__))


def n_inputs(features: int) -> int:
    """Length of `correction_inputs` for an encoder with so many features."""
    return 5 * _N + _N * (_N - 1) // 2 + 2 * N_TRIANGLE + _N_NUMBERS + N_PSF_QUALITY + features


def correction_inputs(
    network: PosteriorNetwork, context: Context, evaluation: Evaluation
) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers that are nearly sufficient for the posterior, and the frame to which they are relative.

    Parameters
    ----------
    network : PosteriorNetwork
        Network whose posteriors are corrected.
    context : Context
        Encoded stamps of ``B`` galaxies, from this network.
    evaluation : Evaluation
        Exact model at one point of each of these galaxies.

    Returns
    -------
    inputs : Tensor
        Shape ``(B, n_inputs(features))``, single precision.
    anchor, whitener : Tensor
        As in `CorrectedContext`, single precision.

    Notes
    -----
    The numbers are: the estimate, the whitened score, the errors and correlations of the Fisher matrix, both centres
    of the network (that of its flow and its mean) relative to the estimate and both covariances in units of the
    Fisher matrix, chi-squared, S/N, size, steps taken, the quality of the PSF image and the encoder's features.
    """
    whitener, unwhitener = evaluation.whitener()
    point = evaluation.point
    score = (whitener.mT @ evaluation.score[..., None])[..., 0]
    step = score.clamp(-_LONGEST, _LONGEST)
    anchor = point + (whitener @ step[..., None])[..., 0]
    covariance = whitener @ whitener.mT
    sigma = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    correlation = covariance / (sigma[:, :, None] * sigma[:, None, :])
    row, column = torch.tril_indices(_N, _N, -1, device=point.device)
    flow_centre, flow_factor, head_centre, head_factor = (tensor.double() for tensor in network.gaussians(context))
    centres = [(unwhitener @ (centre - anchor)[..., None])[..., 0] for centre in (flow_centre, head_centre)]
    shapes = [_log_covariance(unwhitener @ factor) for factor in (flow_factor, head_factor)]
    dof = evaluation.dof.clamp_min(1.0)
    excess = (2.0 * evaluation.chi2).sqrt() - (2.0 * dof - 1.0).sqrt()
    numbers = [
        torch.asinh(excess), torch.log(evaluation.snr.clamp_min(0.1)), torch.log(dof),
        3.0 * torch.log(evaluation.chi2.clamp_min(1.0) / dof), torch.log(evaluation.size.clamp_min(1e-3)),
        evaluation.steps,
    ]  # fmt: skip
    columns = [
        point, torch.asinh(score), torch.log(sigma), correlation[:, row, column],
        *(torch.asinh(centre) for centre in centres), *shapes, torch.stack(numbers, 1),
        evaluation.psf_quality, context.features.double(),
    ]  # fmt: skip
    inputs = torch.nan_to_num(torch.cat(columns, 1), nan=0.0, posinf=30.0, neginf=-30.0).clamp(-30.0, 30.0)
    return inputs.float(), anchor.float(), whitener.float()


def _log_covariance(factor):
    """Numbers of order 1 that describe covariances ``factor factor^T``, shape ``(B, 28)``."""
    covariance = factor @ factor.mT
    sigma = covariance.diagonal(dim1=-2, dim2=-1).clamp_min(1e-20).sqrt()
    correlation = covariance / (sigma[:, :, None] * sigma[:, None, :])
    row, column = torch.tril_indices(_N, _N, -1, device=factor.device)
    return torch.cat([torch.log(sigma), correlation[:, row, column]], 1)


class Correction(nn.Module):
    """Posterior of the seven parameters from a network and one evaluation of the exact model.

    Parameters
    ----------
    config : CorrectionConfig
        Sizes of the layers.
    network : PosteriorNetwork
        Network whose posterior is corrected; it is not a part of this module.

    Notes
    -----
    The posterior is given relative to one Newton step from the evaluated point, in units of the errors that follow
    from the Fisher matrix there, so that for a bright galaxy the identity is nearly right and the module learns what
    is not: the curvature, the prior, neighbours, noise that the error map does not tell.

    It has the interface of `SersicPosterior` from the context on: :meth:`summarise`, :meth:`sample`, :meth:`log_prob`.
    """

    def __init__(self, config: CorrectionConfig, network: PosteriorNetwork) -> None:
        super().__init__()
        self.config, self.transform = config, network.transform
        features = self._n_features = network.config.features
        self.register_buffer("input_mean", torch.zeros(n_inputs(features)))
        self.register_buffer("input_scale", torch.ones(n_inputs(features)))
        self.dropout = nn.Dropout(_DROPOUT)  # the features are many, and what they add to the rest is little
        self.trunk = nn.Sequential(
            nn.Linear(n_inputs(features), config.hidden), nn.GELU(), nn.Linear(config.hidden, config.hidden), nn.GELU()
        )
        self.heads = nn.Linear(config.hidden, 2 * (_N + N_TRIANGLE) + len(LEVELS) * _N)
        self.flow_context = nn.Linear(config.hidden, config.flow_context)
        self.flow = spline_flow(
            _N, config.flow_context, transforms=config.flow_transforms, bins=config.flow_bins, slope=_SLOPE,
            hidden_features=(config.flow_hidden,),
        )  # fmt: skip
        with torch.no_grad():
            self.heads.weight.mul_(0.1)
            self.heads.bias.zero_()
            self.heads.bias[-len(LEVELS) * _N :].view(len(LEVELS), _N)[3:] = -0.5
        self._inside = network.inside

    def normalise(self, inputs: Tensor) -> None:
        """Set the mean and the spread of the inputs to those of a training set ``(B, D)``."""
        self.input_mean.copy_(inputs.mean(0))
        self.input_scale.copy_(inputs.std(0).clamp_min(1e-3))

    def encode(self, inputs: Tensor, anchor: Tensor, whitener: Tensor, flux_scale: Tensor) -> CorrectedContext:
        """Context from the results of `correction_inputs`.

        Parameters
        ----------
        inputs, anchor, whitener : Tensor
            Results of `correction_inputs`, shapes ``(B, D)``, ``(B, 7)`` and ``(B, 7, 7)``.
        flux_scale : Tensor
            Unit of the flux, shape ``(B,)``.

        Returns
        -------
        CorrectedContext
            To be given to the other methods.
        """
        scaled = ((inputs - self.input_mean) / self.input_scale).clamp(-10.0, 10.0)
        scaled = torch.cat([scaled[:, : -self._n_features], self.dropout(scaled[:, -self._n_features :])], 1)
        return CorrectedContext(self.trunk(scaled), flux_scale, anchor, whitener)

    def summarise(self, context: CorrectedContext) -> PosteriorSummary:
        """Mean, covariance and quantiles, a `PosteriorSummary`, of a `CorrectedContext`."""
        mean, scale, factor, levels = self._heads(context)
        factor = factor * scale[..., None]
        largest = self.transform.largest_variance(mean)
        excess = factor.square().sum(-1) / largest.clamp_min(1e-12)
        factor = factor / excess.clamp_min(1.0).sqrt()[..., None]
        quantiles = self.transform.marginal_inverse(levels, context.flux_scale[:, None])
        return PosteriorSummary(mean, factor @ factor.mT, quantiles)

    def frame(self, context: CorrectedContext) -> FlowFrame:
        """Flow and Gaussian of each galaxy, as `SersicPosterior.frame`."""
        centre, factor, log_volume = self._gaussian(context)
        flow_context = self.flow_context(context.features)
        return FlowFrame(
            self.flow, self.transform, self._inside, False, flow_context, centre, factor, log_volume, context.flux_scale
        )

    def sample(self, context: CorrectedContext, normal: Tensor) -> Tensor:
        """Draw from the posterior, as `SersicPosterior.sample`."""
        return self.frame(context).sample(normal)

    def log_prob(self, context: CorrectedContext, parameters: Tensor) -> Tensor:
        """Log posterior density of parameters in their own units, as `SersicPosterior.log_prob`."""
        return self.frame(context).log_prob(parameters)

    def loss(self, context: CorrectedContext, parameters: Tensor) -> dict[str, Tensor]:
        """Losses of the flow and of the heads, as `SersicPosterior.loss`, from a context."""
        values = self.transform.forward(parameters, context.flux_scale)
        flow = -self.frame(context).log_density(values).mean()
        heads = self._heads(context)
        target = self.transform.marginal_forward(parameters, context.flux_scale)
        return {"flow": flow, **head_losses(parameters, target, *heads)}

    def _gaussian(self, context):
        """Centre ``(B, 7)``, factor ``(B, 7, 7)`` and log determinant of the flow's Gaussian."""
        out = self.heads(context.features)[:, : _N + N_TRIANGLE]
        relative_factor, log_diagonal = triangle(out[:, _N:])
        centre = context.anchor + (context.whitener @ out[:, :_N, None])[..., 0]
        log_whitener = context.whitener.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
        return centre, context.whitener @ relative_factor, log_whitener + log_diagonal.sum(-1)

    def _heads(self, context):
        """Mean, unit of its covariance ``(B, 7)``, factor ``(B, 7, 7)``, quantiles ``(B, 5, 7)``."""
        out = self.heads(context.features)[:, _N + N_TRIANGLE :]
        values = context.anchor + (context.whitener @ out[:, :_N, None])[..., 0]
        mean = self.transform.inverse(values, context.flux_scale)
        scale = parameter_scale(mean)
        relative_factor, _ = triangle(out[:, _N : _N + N_TRIANGLE])
        jacobian = self.transform.jacobian(context.anchor, context.flux_scale) / scale[..., None]
        factor = _lower(jacobian @ context.whitener @ relative_factor)
        levels = ordered_levels(out[:, _N + N_TRIANGLE :].view(-1, len(LEVELS), _N))
        centre, sigma = self._marginals(context)
        return mean, scale, factor, centre[:, None] + sigma[:, None] * levels

    def _marginals(self, context):
        """Anchor and errors in the coordinates of each parameter alone, shape ``(B, 7)``."""
        sigma = context.whitener.square().sum(-1).sqrt()
        parameters = self.transform.inverse(context.anchor, context.flux_scale)
        jacobian = self.transform.jacobian(context.anchor, context.flux_scale)[:, _SHEAR] @ context.whitener
        shear, g_max = parameters[:, _SHEAR], self.transform.g_max
        slope = (g_max * (1.0 - (shear / g_max) ** 2)).clamp_min(1e-4)
        sigma = sigma.clone()
        sigma[:, _SHEAR] = jacobian.square().sum(-1).sqrt() / slope
        return self.transform.marginal_forward(parameters, context.flux_scale), sigma


def _lower(factor):
    """Lower triangular factors with a positive diagonal of ``factor factor^T``."""
    upper = torch.linalg.qr(factor.mT)[1]
    sign = torch.where(upper.diagonal(dim1=-2, dim2=-1) < 0.0, -1.0, 1.0)
    return (upper * sign[..., None]).mT
