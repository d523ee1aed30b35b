"""The posterior of the seven parameters given a stamp: a conditional flow, and heads that need no sampling."""

from typing import Any

import torch
from torch import Tensor, nn

from galmeasure.networks.base import LEVELS, ONE_SIGMA_HIGH, ONE_SIGMA_LOW, Context, PosteriorSummary
from galmeasure.networks.config import NetworkConfig
from galmeasure.networks.distillation import gaussian_divergence, level_distance
from galmeasure.networks.encoders.attention import pixel_attention
from galmeasure.networks.encoders.psf import PSFEncoder
from galmeasure.networks.flow_frame import FlowFrame
from galmeasure.networks.inputs import NATIVE_SIZE, StampInputs, make_views
from galmeasure.networks.psf_cleaning import N_PSF_QUALITY
from galmeasure.networks.registry import encoder_class
from galmeasure.networks.splines import spline_flow
from galmeasure.networks.transform import ParameterTransform
from galmeasure.parameters import SERSIC

__all__ = [
    "N_TRIANGLE",
    "SersicPosterior",
    "head_losses",
    "ordered_levels",
    "parameter_scale",
    "triangle",
]

_N = SERSIC.size
_FLUX, _R_EFF = SERSIC.indices("flux", "r_eff")
N_TRIANGLE = _N * (_N + 1) // 2
"""Numbers in a lower triangular matrix of the seven parameters."""

_SLOPE = 1e-3  # smallest derivative of the splines; a default of zuko that has changed before
_LEVELS, _FEATURES = 0.1, 10.0  # by which 35 quantiles and the features weigh about as much as one divergence
_SHEAR_SCALE = 0.1
_CENTRE_SCALE = 0.2


class SersicPosterior(nn.Module):
    """Amortised posterior of flux, n, r_eff, g1, g2, x, y.

    Parameters
    ----------
    config : NetworkConfig
        Domain, encoder and sizes of the layers.

    Notes
    -----
    The flow is a neural spline flow about a Gaussian whose mean and full covariance the network gives, in the
    coordinates of `ParameterTransform`. Three heads read the same features: the posterior mean (trained by squared
    error), the covariance (Gaussian likelihood about that mean) and quantiles of each parameter (pinball loss).

    References
    ----------
    Durkan et al. 2019, Neural spline flows, arXiv:1906.04032.
    """

    held = ()
    """Parameters that are taken as known: none."""

    takes_targets = False
    """False: the network learns from the truth, or from the posterior of another network."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.transform = ParameterTransform(config.n, config.r_eff, config.g_max, config.centre, NATIVE_SIZE)
        quality = N_PSF_QUALITY if config.clean_psf else 0
        self.psf_encoder = PSFEncoder(config.psf_features, stretch=config.psf_stretch, quality=quality)
        self.encoder = encoder_class(config.encoder).from_config(config)
        self.base = nn.Linear(config.features, _N + N_TRIANGLE)
        self.flow_context = nn.Linear(config.features, config.flow_context)
        self.flow = spline_flow(
            _N, config.flow_context, transforms=config.flow_transforms, bins=config.flow_bins, slope=_SLOPE,
            hidden_features=(config.flow_hidden, config.flow_hidden),
        )  # fmt: skip
        self.heads = nn.Sequential(
            nn.Linear(config.features, config.features), nn.GELU(),
            nn.Linear(config.features, _N + N_TRIANGLE + len(LEVELS) * _N),
        )  # fmt: skip

    @property
    def domain(self) -> dict[str, Any]:
        """Domain of the parameters: bounds of ``n`` and ``r_eff``, largest ``g_max`` and ``centre``."""
        return {name: getattr(self.config, name) for name in ("n", "r_eff", "g_max", "centre")}

    @property
    def makes(self) -> tuple[str, ...]:
        """Images that the network can make: those of its encoder, ``"attention"`` or none."""
        return getattr(self.encoder, "makes", ())

    def attention(self, inputs: StampInputs, *, psf: Tensor | None = None) -> Tensor:
        """Maps of the attention of the encoder, if it has any.

        Parameters
        ----------
        inputs : StampInputs
            Stamps and their PSFs, in units of the noise.
        psf : Tensor, optional
            Result of :meth:`embed_psf` for ``inputs.psf``, if it is at hand.

        Returns
        -------
        Tensor
            Weights with which the pixels are read, mean of the heads, shape ``(B, 64, 64)``; the sum is 1.
        """
        psf = self.embed_psf(inputs.psf, inputs.psf_quality) if psf is None else psf
        near, far = self.encoder.attention_maps(make_views(inputs), psf[inputs.psf_index])
        return pixel_attention(near.mean(1), far.mean(1))

    def adapt(self, inputs: StampInputs) -> None:
        """Do nothing: the network needs no constants of the data."""

    def embed_psf(self, psf: Tensor, quality: Tensor | None = None) -> Tensor:
        """Embed PSFs ``(M, 33, 33)``, with the quality ``(M, 3)`` of their images, to be given to :meth:`encode`."""
        return self.psf_encoder(psf, quality)

    def encode(self, inputs: StampInputs, *, psf: Tensor | None = None, bf16: bool = False) -> Context:
        """Encode stamps.

        Parameters
        ----------
        inputs : StampInputs
            Stamps and their PSFs, in units of the noise.
        psf : Tensor, optional
            Result of :meth:`embed_psf` for ``inputs.psf``, if it is at hand.
        bf16 : bool, optional
            Compute the encoder's blocks in bfloat16.

        Returns
        -------
        Context
            Features and unit of the flux.
        """
        psf = self.embed_psf(inputs.psf, inputs.psf_quality) if psf is None else psf
        views = make_views(inputs)
        return Context(self.encoder(views, psf[inputs.psf_index], bf16=bf16), views.flux_scale)

    def summarise(self, context: Context) -> PosteriorSummary:
        """Mean, covariance and quantiles from the heads.

        Parameters
        ----------
        context : Context
            Encoded stamps, from :meth:`encode`.

        Returns
        -------
        PosteriorSummary
            In the unit and the pixels of the stamps.
        """
        mean, scale, factor, levels = self._heads(context)
        factor = factor * scale[..., None]
        quantiles = self.transform.marginal_inverse(levels, context.flux_scale[:, None])
        return PosteriorSummary(mean, factor @ factor.mT, quantiles)

    def frame(self, context: Context) -> FlowFrame:
        """Flow and Gaussian of each galaxy, from which draws and densities come.

        Parameters
        ----------
        context : Context
            Encoded stamps, from :meth:`encode`.
        """
        centre, factor, log_diagonal = self._base(context)
        flow_context = self.flow_context(context.features)
        return FlowFrame(
            self.flow, self.transform, self.inside, True, flow_context, centre, factor, log_diagonal.sum(-1),
            context.flux_scale,
        )  # fmt: skip

    def log_prob(self, context: Context, parameters: Tensor) -> Tensor:
        """Log posterior density of parameters, in their own units.

        Parameters
        ----------
        context : Context
            Encoded stamps of ``B`` galaxies.
        parameters : Tensor
            Points at which to evaluate, shape ``(B, 7)`` or ``(S, B, 7)``.

        Returns
        -------
        Tensor
            Shape ``(B,)`` or ``(S, B)``; minus infinity outside the domain.
        """
        return self.frame(context).log_prob(parameters)

    def sample(self, context: Context, normal: Tensor) -> Tensor:
        """Draw from the posterior.

        Parameters
        ----------
        context : Context
            Encoded stamps of ``B`` galaxies.
        normal : Tensor
            Standard normal numbers, shape ``(S, B, 7)``: the draws are a function of them.

        Returns
        -------
        Tensor
            Parameters, shape ``(S, B, 7)``.
        """
        return self.frame(context).sample(normal)

    def loss(
        self, inputs: StampInputs, parameters: Tensor, *, bf16: bool = False, teacher: "SersicPosterior | None" = None
    ) -> dict[str, Tensor]:
        """Losses of the flow and of the heads.

        Parameters
        ----------
        inputs : StampInputs
            Stamps and their PSFs, as for :meth:`encode`.
        parameters : Tensor
            Their truth, shape ``(B, 7)``.
        bf16 : bool, optional
            Compute the encoder's blocks in bfloat16, as in :meth:`encode`.
        teacher : SersicPosterior, optional
            Network with features of the same length, whose posterior is to be learned too.

        Returns
        -------
        dict of str to Tensor
            Means over the batch: ``"flow"`` (negative log density in unconstrained coordinates), ``"mean"``,
            ``"covariance"``, ``"quantiles"``, and ``"teacher"`` if there is one: how far the posterior is from its.
        """
        context = self.encode(inputs, bf16=bf16)
        values = self.transform.forward(parameters, context.flux_scale)
        flow = -self.frame(context).log_density(values)
        mean, scale, factor, levels = self._heads(context)
        target = self.transform.marginal_forward(parameters, context.flux_scale)
        losses = {"flow": flow.mean(), **head_losses(parameters, target, mean, scale, factor, levels)}
        return losses if teacher is None else losses | {"teacher": self._distance(teacher, inputs, context, bf16)}

    def gaussians(self, context: Context) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Two Gaussian approximations in unconstrained coordinates: that of the flow, and mean and covariance.

        Parameters
        ----------
        context : Context
            Encoded stamps, from :meth:`encode`.

        Returns
        -------
        flow_centre, flow_factor, head_centre, head_factor : Tensor
            Centres ``(B, 7)`` and factors ``F`` of the covariances ``F F^T``, shape ``(B, 7, 7)``.
        """
        centre, factor, _ = self._base(context)
        out = self.heads(context.features)
        head_centre = out[:, :_N]
        scale = parameter_scale(self.transform.inverse(head_centre, context.flux_scale))
        head_factor, _ = triangle(out[:, _N : _N + N_TRIANGLE])
        jacobian = self.transform.jacobian(head_centre, context.flux_scale)
        return centre, factor, head_centre, torch.linalg.solve(jacobian, scale[..., None] * head_factor)

    def inside(self, parameters: Tensor) -> Tensor:
        """Boolean ``(...)``, True where parameters ``(..., 7)`` lie in the domain, but for rounding."""
        flux, n, r_eff, g1, g2, x, y = parameters.unbind(-1)
        middle = (NATIVE_SIZE - 1) / 2.0
        config, slack = self.config, 1e-5
        inside = (flux > 0) & (torch.hypot(g1, g2) < config.g_max + slack)
        for value, (low, high) in ((n, config.n), (r_eff, config.r_eff)):
            inside &= (value >= low * (1.0 - slack)) & (value <= high * (1.0 + slack))
        for value in (x, y):
            inside &= (value - middle).abs() <= config.centre + slack
        return inside

    def _distance(self, teacher, inputs, context, bf16):
        """Mean distance from the features, Gaussians and quantiles of a teacher, which learns nothing by it."""
        with torch.no_grad():
            known = teacher.encode(inputs, bf16=bf16)
            base, (mean, unit, spread, quantiles) = teacher._base(known)[:2], teacher._heads(known)
            width = 0.5 * (quantiles[:, ONE_SIGMA_HIGH] - quantiles[:, ONE_SIGMA_LOW]).clamp_min(1e-4)
        centre, factor, _ = self._base(context)
        head, head_unit, head_spread, levels = self._heads(context)
        ratio = (head_unit / unit)[..., None]
        distance = gaussian_divergence(base, centre, factor)
        distance = distance + gaussian_divergence((mean / unit, spread), head / unit, ratio * head_spread)
        distance = distance + _LEVELS * level_distance(quantiles, levels, width)
        return (distance + _FEATURES * (context.features - known.features).square().mean(1)).mean()

    def _base(self, context):
        """Centre ``(B, 7)``, Cholesky factor ``(B, 7, 7)`` and log diagonal of the flow's Gaussian."""
        out = self.base(context.features)
        centre, factor = out[:, :_N], out[:, _N:]
        return centre, *triangle(factor)

    def _heads(self, context):
        """Mean, unit of its covariance ``(B, 7)``, Cholesky factor ``(B, 7, 7)``, quantiles ``(B, 5, 7)``."""
        out = self.heads(context.features)
        mean = self.transform.inverse(out[:, :_N], context.flux_scale)
        stop = _N + N_TRIANGLE
        factor, _ = triangle(out[:, _N:stop])
        return mean, parameter_scale(mean), factor, ordered_levels(out[:, stop:].view(-1, len(LEVELS), _N))


def triangle(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Lower triangular matrices with a positive diagonal, and the logarithms of that.

    Parameters
    ----------
    numbers : Tensor
        Entries row by row, those of the diagonal as logarithms, shape ``(B, 28)``.

    Returns
    -------
    matrix, log_diagonal : Tensor
        Shapes ``(B, 7, 7)`` and ``(B, 7)``.
    """
    row, column = torch.tril_indices(_N, _N, device=numbers.device)
    matrix = numbers.new_zeros((len(numbers), _N, _N))
    matrix[:, row, column] = numbers
    log_diagonal = matrix.diagonal(dim1=-2, dim2=-1).clamp(-9.0, 4.0)
    return torch.tril(matrix, -1) + torch.diag_embed(torch.exp(log_diagonal)), log_diagonal


def parameter_scale(mean: Tensor) -> Tensor:
    """Units in which covariances of parameters are learned, shape ``(B, 7)``: relative for flux and r_eff."""
    scale = torch.ones_like(mean)
    scale[:, SERSIC.slice("g1", "g2")], scale[:, SERSIC.slice("x", "y")] = _SHEAR_SCALE, _CENTRE_SCALE
    scale[:, _FLUX], scale[:, _R_EFF] = mean[:, _FLUX].detach(), mean[:, _R_EFF].detach()
    return scale


def ordered_levels(numbers: Tensor) -> Tensor:
    """Quantiles in ascending order from unconstrained numbers, both of shape ``(B, 5, 7)``."""
    middle, steps = numbers.select(1, 0), numbers.narrow(1, 1, len(LEVELS) - 1)
    below, above, far_below, far_above = torch.exp(steps.clamp(-9.0, 4.0)).unbind(1)
    low, high = middle - below, middle + above
    return torch.stack([low - far_below, low, middle, high, high + far_above], 1)


def head_losses(
    parameters: Tensor, target: Tensor, mean: Tensor, scale: Tensor, factor: Tensor, levels: Tensor
) -> dict[str, Tensor]:
    """Losses of mean, covariance and quantiles.

    Parameters
    ----------
    parameters : Tensor
        True parameters, shape ``(B, 7)``.
    target : Tensor
        The truth in the coordinates of the quantiles, shape ``(B, 7)``.
    mean, scale : Tensor
        Posterior mean and the units of its covariance, shape ``(B, 7)``.
    factor : Tensor
        Cholesky factor of the covariance in these units, shape ``(B, 7, 7)``.
    levels : Tensor
        Quantiles, shape ``(B, 5, 7)``.

    Returns
    -------
    dict of str to Tensor
        Means over the batch: ``"mean"``, ``"covariance"``, ``"quantiles"``.
    """
    sigma = (factor.detach() ** 2).sum(-1).sqrt()
    residual = (parameters - mean) / scale
    mean_loss = 0.5 * (residual / sigma).clamp(-30.0, 30.0).square().sum(-1)
    white = torch.linalg.solve_triangular(factor, residual.detach()[..., None], upper=False)[..., 0]
    diagonal = factor.diagonal(dim1=-2, dim2=-1)
    covariance = 0.5 * white.clamp(-30.0, 30.0).square().sum(-1) + torch.log(diagonal).sum(-1)
    width = 0.5 * (levels[:, ONE_SIGMA_HIGH] - levels[:, ONE_SIGMA_LOW]).detach().clamp_min(1e-4)
    probability = torch.tensor(LEVELS, device=target.device)[:, None]
    off = (target[:, None] - levels) / width[:, None]
    pinball = torch.maximum(probability * off, (probability - 1.0) * off)
    pinball = (pinball / (probability * (1.0 - probability))).sum((1, 2)) * 0.2
    return {"mean": mean_loss.mean(), "covariance": covariance.mean(), "quantiles": pinball.mean()}
