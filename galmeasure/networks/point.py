"""Networks of point estimates: five labels of a stamp, and a Gaussian about them whose width a small head gives."""

import copy
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from galmeasure.networks.base import LEVELS, Context, PosteriorSummary
from galmeasure.networks.bodies.base import LABELS, N_LABELS
from galmeasure.networks.inputs import NATIVE_SIZE, PSF_SIZE, StampInputs, turned_inputs
from galmeasure.networks.point_config import PointConfig
from galmeasure.networks.registry import body_class
from galmeasure.networks.transform import ParameterTransform
from galmeasure.parameters import SERSIC

__all__ = ["PointPosterior"]

_COLUMNS = list(SERSIC.indices(*LABELS.names))
_FLUX_LABEL, _G1_LABEL, _G2_LABEL = LABELS.indices("flux", "g1", "g2")
_SHAPE, _PROFILE, _SHEAR = LABELS.slice("n", "g2"), LABELS.slice("n", "r_eff"), LABELS.slice("g1", "g2")
_CENTRE = list(SERSIC.indices("x", "y"))
_FLUX = SERSIC.index("flux")
_N_TRIANGLE = N_LABELS * (N_LABELS + 1) // 2
_MIDDLE = (NATIVE_SIZE - 1) / 2.0
_UNITS = (0.03, 0.28, 0.18, 0.11, 0.11)
"""Typical errors of the labels, by which the squared errors are divided before they are added."""

_CENTRE_ERROR = 1e-3  # pixels, of a centre that is known: Gaussians need a width
_LEAST = 1e-3  # share of its range by which an estimate stays inside
_QUANTILES = tuple(torch.special.ndtri(torch.tensor(LEVELS, dtype=torch.float64)).tolist())


class PointPosterior(nn.Module):
    """Point estimates with Gaussian errors, for galaxies in the middle of their stamps.

    The body gives five labels, scaled to (-1, 1) between the bounds of the training, and is trained by their squared
    error alone. A head that reads its features, and passes no gradient back, gives their covariance.

    Parameters
    ----------
    config : PointConfig
        Domain, body and sizes.
    """

    held = ("x", "y")
    """Parameters that are taken as known."""

    views = 1
    """Number of turned and flipped views whose estimates are averaged."""

    takes_targets = True
    """True: another network's posterior means can stand for the truth in the squared error."""

    def __init__(self, config: PointConfig) -> None:
        super().__init__()
        self.config = config
        self.transform = ParameterTransform(config.n, config.r_eff, config.g_max, config.centre, NATIVE_SIZE)
        self.body = body_class(config.encoder).from_config(config)
        self.errors = nn.Sequential(
            nn.Linear(self.body.features + N_LABELS, config.hidden), nn.GELU(), nn.Linear(config.hidden, _N_TRIANGLE)
        )
        shear = (-config.g_max, config.g_max)
        bounds = torch.tensor([config.flux, config.n, config.r_eff, shear, shear])
        lower, upper = bounds.unbind(1)
        self.register_buffer("lower", lower, persistent=False)
        self.register_buffer("half_range", 0.5 * (upper - lower), persistent=False)
        nn.init.zeros_(self.errors[2].weight)
        nn.init.constant_(self.errors[2].bias, -2.0)

    @property
    def domain(self) -> dict[str, Any]:
        """Domain of the parameters: bounds of ``n`` and ``r_eff``, largest ``g_max`` and ``centre``."""
        return {name: getattr(self.config, name) for name in ("n", "r_eff", "g_max", "centre")}

    def adapt(self, inputs: StampInputs) -> None:
        """Set constants of the normalisation by the first stamps of a training."""
        with torch.no_grad():
            self.body.adapt(inputs, self._psf_images(self.embed_psf(inputs.psf), inputs))

    def with_views(self, views: int) -> Self:
        """Network with the same tensors that averages its estimates for turned and flipped stamps.

        Parameters
        ----------
        views : int
            Number of symmetries of the square, from the first: 8 for all of them.

        Returns
        -------
        PointPosterior
            Network that shares the tensors of this one.
        """
        network = copy.copy(self)
        network.views = views
        return network

    def embed_psf(self, psf: Tensor, quality: Tensor | None = None) -> Tensor:
        """Numbers of PSF images ``(M, 33, 33)``, shape ``(M, 1089)``; their quality is not used."""
        return psf.flatten(1)

    def encode(self, inputs: StampInputs, *, psf: Tensor | None = None, bf16: bool = False) -> Context:
        """Estimate labels and their errors.

        Parameters
        ----------
        inputs : StampInputs
            Stamps and their PSFs, in units of the noise.
        psf : Tensor, optional
            Result of :meth:`embed_psf` for ``inputs.psf``, if it is at hand.
        bf16 : bool, optional
            Compute the convolutions in bfloat16.

        Returns
        -------
        Context
            Five labels and 15 numbers of their covariance as features; the unit of the flux is 1.
        """
        psf = self._psf_images(self.embed_psf(inputs.psf) if psf is None else psf, inputs)
        if self.views > 1:
            rows = torch.arange(len(inputs), device=psf.device)
            stamps = replace(inputs, psf=psf, psf_index=rows, psf_quality=None)
            features = _mean_of([self._view(stamps, element, bf16) for element in range(self.views)])
        elif self.config.passes and not self.training:
            numbers = range(self.config.passes)
            features = _mixed([self._features(inputs, psf, bf16=bf16, number=number) for number in numbers])
        else:
            features = self._features(inputs, psf, bf16=bf16)
        return Context(features, features.new_ones(len(features)))

    def summarise(self, context: Context) -> PosteriorSummary:
        """Estimates, their covariance and the quantiles of the Gaussian, in the unit and the pixels of the stamps."""
        labels, factor = self._gaussian(context)
        mean = self._to_parameters(self._inside(labels), context.flux_scale)
        scale = self._scale(context)
        covariance = mean.new_zeros((len(mean), SERSIC.size, SERSIC.size))
        factor = factor * scale[..., None]
        columns = torch.tensor(_COLUMNS, device=mean.device)
        covariance[:, columns[:, None], columns] = factor @ factor.mT
        sigma = factor.square().sum(-1).sqrt() / scale
        levels = labels[:, None] + mean.new_tensor(_QUANTILES)[:, None] * sigma[:, None]
        quantiles = self._to_parameters(self._inside(levels), context.flux_scale[:, None])
        return PosteriorSummary(mean, covariance, quantiles)

    def sample(self, context: Context, normal: Tensor) -> Tensor:
        """Draws ``(S, B, 7)``, a function of standard normal numbers of this shape; the centre is always the middle."""
        labels, factor = self._gaussian(context)
        drawn = labels + torch.einsum("bij,sbj->sbi", factor, normal[..., _COLUMNS])
        return self._to_parameters(self._inside(drawn), context.flux_scale)

    def log_prob(self, context: Context, parameters: Tensor) -> Tensor:
        """Log density of the five measured parameters.

        Parameters
        ----------
        context : Context
            Encoded stamps of ``B`` galaxies.
        parameters : Tensor
            Points at which to evaluate, shape ``(B, 7)`` or ``(S, B, 7)``; their centre is not read.

        Returns
        -------
        Tensor
            Shape ``(B,)`` or ``(S, B)``; minus infinity outside the domain.
        """
        labels, factor = self._gaussian(context)
        values = self._to_labels(parameters, context.flux_scale.expand(parameters.shape[:-1]))
        offset = (values - labels).unsqueeze(-1)
        white = torch.linalg.solve_triangular(factor.expand(*offset.shape[:-1], N_LABELS), offset, upper=False)[..., 0]
        log_scale = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) + self._scale(context).log().sum(-1)
        density = -0.5 * (white.square().sum(-1) + N_LABELS * torch.log(white.new_tensor(2.0 * torch.pi))) - log_scale
        return torch.where(self.inside(parameters), density, -torch.inf)

    def loss(
        self, inputs: StampInputs, parameters: Tensor, *, bf16: bool = False, targets: Tensor | None = None,
        only: tuple[str, ...] = (),
    ) -> dict[str, Tensor]:  # fmt: skip
        """Losses of labels and errors.

        Parameters
        ----------
        inputs : StampInputs
            Stamps and their PSFs, as for :meth:`encode`.
        parameters : Tensor
            Their truth, shape ``(B, 7)``.
        bf16 : bool, optional
            Compute the convolutions in bfloat16.
        targets : Tensor, optional
            What the labels are compared with, shape ``(B, 7)``; the truth by default.
        only : tuple of str, optional
            Names of the losses to compute; all by default.

        Returns
        -------
        dict of str to Tensor
            Means over the batch: ``"mean"``, the squared error of the labels in units of typical errors, that of the
            flux in electrons; ``"covariance"``, the negative log likelihood of the truth; and ``"image"``, for bodies
            that draw images, if there are noiseless ones.
        """
        psf = self._psf_images(self.embed_psf(inputs.psf), inputs)
        if only == ("image",):  # a denoiser does not need the labels
            return {"image": self.body.image_loss(inputs, None, None, psf, bf16=bf16)}
        context = self.encode(inputs, bf16=bf16)
        labels, factor = self._gaussian(context)
        truth = self._to_labels(parameters, context.flux_scale)
        target = truth if targets is None else self._to_labels(targets, context.flux_scale)
        error = (labels - target) / labels.new_tensor(_UNITS)
        electrons = torch.where(torch.isfinite(inputs.gain), inputs.gain, inputs.gain.new_ones(())).clamp_max(1e6)
        weight = electrons / electrons.mean()
        mean = 0.5 * (error[:, _SHAPE].square().sum(1) + (weight * error[:, _FLUX_LABEL]).square())
        offset = (truth - labels.detach()).unsqueeze(-1)
        white = torch.linalg.solve_triangular(factor, offset, upper=False)[..., 0].clamp(-30.0, 30.0)
        covariance = 0.5 * white.square().sum(1) + factor.diagonal(dim1=1, dim2=2).log().sum(1)
        losses = {"mean": mean.mean(), "covariance": covariance.mean()}
        if self.body.has_image_loss and inputs.noiseless is not None and (not only or "image" in only):
            flux = self._to_parameters(labels, context.flux_scale)[:, _FLUX]
            losses["image"] = self.body.image_loss(inputs, labels, flux, psf, bf16=bf16)
        return losses

    @property
    def makes(self) -> tuple[str, ...]:
        """Images that the body can make: ``"denoised"`` or ``"decoded"`` ones, or none."""
        return self.body.makes

    def denoise(self, inputs: StampInputs) -> Tensor:
        """Denoised stamps ``(B, 64, 64)`` in units of the noise, if the network makes them."""
        return self.body.denoise(inputs)

    def reconstruct(self, inputs: StampInputs) -> Tensor:
        """Decoded galaxies ``(B, 64, 64)`` in units of the noise, if the network makes them.

        Parameters
        ----------
        inputs : StampInputs
            Stamps with PSF images, or what :meth:`embed_psf` made of these.

        Returns
        -------
        Tensor
            Noiseless images of the galaxies with the estimated labels and flux.
        """
        psf = self._psf_images(self.embed_psf(inputs.psf), inputs)
        labels, _ = self.body(inputs, psf)
        flux = self._to_parameters(self._inside(labels), labels.new_ones(len(labels)))[:, _FLUX]
        return flux[:, None, None] * self.body.decode(labels, psf)

    def gaussians(self, context: Context) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gaussian approximation in unbounded coordinates, twice: centres ``(B, 7)`` and factors ``(B, 7, 7)``."""
        summary, scale = self.summarise(context), context.flux_scale
        centre = self.transform.forward(summary.mean, scale)
        covariance = summary.covariance.clone()
        covariance[:, _CENTRE, _CENTRE] = _CENTRE_ERROR**2
        factor = torch.linalg.cholesky(covariance)
        factor = torch.linalg.solve(self.transform.jacobian(centre, scale), factor)
        return centre, factor, centre, factor

    def inside(self, parameters: Tensor) -> Tensor:
        """Boolean ``(...)``, True where parameters ``(..., 7)`` lie in the domain; their centre is not read."""
        config = self.config
        flux, n, r_eff, g1, g2 = parameters[..., _COLUMNS].unbind(-1)
        inside = (flux > 0) & (torch.hypot(g1, g2) < config.g_max)
        for value, (low, high) in ((n, config.n), (r_eff, config.r_eff)):
            inside &= (value >= low) & (value <= high)
        return inside

    def _features(self, inputs, psf, **options):
        """Five labels and 15 numbers of their covariance, shape ``(B, 20)``."""
        labels, features = self.body(inputs, psf, **options)
        return torch.cat([labels, self.errors(torch.cat([features, labels], 1).detach())], 1)

    def _view(self, inputs, element, bf16):
        """Labels ``(B, 5)`` and covariance ``(B, 5, 5)`` of stamps turned by a symmetry, for the stamps as they are."""
        turned = turned_inputs(inputs, element)
        features = self._features(turned, turned.psf, bf16=bf16)
        sign = features.new_ones(N_LABELS)
        sign[_G1_LABEL] = -1.0 if element & 1 else 1.0
        sign[_G2_LABEL] = -1.0 if bool(element & 2) != bool(element & 4) else 1.0
        return features[:, :N_LABELS] * sign, _covariance(features) * sign[:, None] * sign

    def _psf_images(self, psf, inputs):
        """PSF of each stamp, shape ``(B, 33, 33)``."""
        return psf[inputs.psf_index].view(-1, PSF_SIZE, PSF_SIZE)

    def _gaussian(self, context):
        """Labels ``(B, 5)`` and the Cholesky factor of their covariance ``(B, 5, 5)``."""
        return context.features[:, :N_LABELS], _factor(context.features[:, N_LABELS:])

    def _to_labels(self, parameters, flux_scale):
        """Labels ``(..., 5)`` of parameters ``(..., 7)``."""
        values = parameters[..., _COLUMNS]
        flux = (values[..., _FLUX_LABEL] / flux_scale).clamp_max(1e6).unsqueeze(-1)
        return (torch.cat([flux, values[..., _SHAPE]], -1) - self.lower) / self.half_range - 1.0

    def _to_parameters(self, labels, flux_scale):
        """Parameters ``(..., 7)`` of labels ``(..., 5)``."""
        values = self.lower + (labels + 1.0) * self.half_range
        parameters = labels.new_full((*labels.shape[:-1], SERSIC.size), _MIDDLE)
        parameters[..., _COLUMNS] = values
        parameters[..., _FLUX] = parameters[..., _FLUX] * flux_scale
        return parameters

    def _inside(self, labels):
        """Labels moved into the domain of all parameters but the flux, which is only kept positive."""
        least = -1.0 - (1.0 - _LEAST) * self.lower[_FLUX_LABEL] / self.half_range[_FLUX_LABEL]
        flux = labels[..., _FLUX_LABEL].unsqueeze(-1).clamp_min(float(least))
        shape = labels[..., _PROFILE].clamp(-1.0 + _LEAST, 1.0 - _LEAST)
        shear = labels[..., _SHEAR]
        modulus = shear.norm(dim=-1, keepdim=True)
        shear = shear * (1.0 - _LEAST) / modulus.clamp_min(1.0 - _LEAST)
        return torch.cat([flux, shape, shear], -1)

    def _scale(self, context):
        """Units of the labels, shape ``(B, 5)``."""
        scale = self.half_range.expand(len(context.flux_scale), N_LABELS).clone()
        scale[:, _FLUX_LABEL] = scale[:, _FLUX_LABEL] * context.flux_scale
        return scale


def _factor(numbers):
    """Lower triangular matrices ``(B, 5, 5)``, the logarithms of whose diagonals are among the numbers ``(B, 15)``."""
    row, column = torch.tril_indices(N_LABELS, N_LABELS, device=numbers.device)
    matrix = numbers.new_zeros((len(numbers), N_LABELS, N_LABELS))
    matrix[:, row, column] = numbers
    diagonal = torch.exp(matrix.diagonal(dim1=-2, dim2=-1).clamp(-9.0, 2.0))
    return torch.tril(matrix, -1) + torch.diag_embed(diagonal)


def _covariance(features):
    """Covariances ``(B, 5, 5)`` of features ``(B, 20)``, double precision."""
    factor = _factor(features[:, N_LABELS:]).double()
    return factor @ factor.mT


def _mixed(passes):
    """Features ``(B, 20)`` of the Gaussian with the mean and the covariance of several passes."""
    labels = torch.stack([features[:, :N_LABELS] for features in passes])
    offset = (labels - labels.mean(0)).double()
    scatter = torch.einsum("kbi,kbj->bij", offset, offset) / len(passes)
    return _joined(labels.mean(0), torch.stack([_covariance(features) for features in passes]).mean(0) + scatter)


def _mean_of(views):
    """Features ``(B, 20)`` with the mean labels and the mean covariance of several views."""
    labels, covariances = zip(*views, strict=True)
    return _joined(torch.stack(labels).mean(0), torch.stack(covariances).mean(0))


def _joined(labels, covariance):
    """Features ``(B, 20)`` of labels and their covariance."""
    factor = torch.linalg.cholesky(covariance).to(labels.dtype)
    diagonal = torch.diag_embed(factor.diagonal(dim1=1, dim2=2).log())
    row, column = torch.tril_indices(N_LABELS, N_LABELS, device=factor.device)
    return torch.cat([labels, (torch.tril(factor, -1) + diagonal)[:, row, column]], 1)
