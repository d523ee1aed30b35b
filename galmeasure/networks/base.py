"""What every network offers: the protocols of networks and encoders, and the tensors that they exchange."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from galmeasure.networks.inputs import StampInputs, StampViews
from galmeasure.networks.transform import ParameterTransform

if TYPE_CHECKING:
    from galmeasure.networks.config import NetworkConfig

__all__ = [
    "LEVELS",
    "LOWER_LEVELS",
    "MEDIAN",
    "ONE_SIGMA_HIGH",
    "ONE_SIGMA_LOW",
    "UPPER_LEVELS",
    "Context",
    "Encoder",
    "PosteriorNetwork",
    "PosteriorSummary",
]

LEVELS = (0.02275013, 0.15865525, 0.5, 0.84134475, 0.97724987)
"""Probabilities of the quantiles: median, 1 and 2 sigma of a Gaussian."""

MEDIAN, ONE_SIGMA_LOW, ONE_SIGMA_HIGH = (LEVELS.index(level) for level in (0.5, 0.15865525, 0.84134475))
"""Places of the median and of the ends of the central 68 % among `LEVELS`."""

LOWER_LEVELS, UPPER_LEVELS = [0, 1], [4, 3]
"""Places of the lower and the upper ends of the central 95 and 68 % among `LEVELS`."""


@dataclass(frozen=True)
class Context:
    """Encoded batch of galaxies.

    Parameters
    ----------
    features : Tensor
        Features from the encoder, shape ``(B, features)``.
    flux_scale : Tensor
        Unit of the flux, shape ``(B,)``.
    """

    features: torch.Tensor
    flux_scale: torch.Tensor

    def __getitem__(self, rows: Tensor | slice) -> "Context":
        """Return some of the rows."""
        return Context(self.features[rows], self.flux_scale[rows])

    def double(self) -> "Context":
        """Return a copy in double precision, for derivatives."""
        return Context(self.features.double().clone(), self.flux_scale.double().clone())


@dataclass(frozen=True)
class PosteriorSummary:
    """Posterior of each galaxy in a few numbers.

    Parameters
    ----------
    mean : Tensor
        Posterior mean of each parameter, shape ``(B, 7)``.
    covariance : Tensor
        Covariance of the parameters, shape ``(B, 7, 7)``.
    quantiles : Tensor
        Quantiles at the probabilities ``LEVELS``, shape ``(B, 5, 7)``.
    """

    mean: torch.Tensor
    covariance: torch.Tensor
    quantiles: torch.Tensor


class Encoder(Protocol):
    """Module from views of a stamp and the embedding of its PSF to a vector of features.

    A class is added under its name to `galmeasure.networks.registry.ENCODERS`; nothing else is needed to train with
    it, to save its weights and to measure.
    """

    @classmethod
    def from_config(cls, config: "NetworkConfig") -> Self:
        """Encoder of a configuration, which may read ``config.encoder_options``."""
        ...

    @staticmethod
    def tensor_shapes(config: "NetworkConfig") -> Iterator[tuple[str, tuple[int | None, ...]]]:
        """Names and shapes of the tensors from which every number of the configuration can be told.

        They are compared with those of a file before memory is taken for a network; None stands for a length that
        does not matter.
        """
        ...

    def __call__(self, views: StampViews, psf: Tensor, *, bf16: bool = False) -> Tensor:
        """Features ``(B, config.features)``, single precision, of views and embedded PSFs ``(B, psf_features)``."""
        ...


@runtime_checkable
class PosteriorNetwork(Protocol):
    """Network that gives a posterior of the parameters of a space.

    Attributes
    ----------
    config : NetworkConfig
        Configuration from which the network can be built again.
    transform : ParameterTransform
        Unbounded coordinates in which the network works.
    held : tuple of str
        Parameters that the network does not measure but takes as known.
    makes : tuple of str
        Images that the network can make: ``"denoised"`` (method ``denoise``), ``"decoded"`` (``reconstruct``),
        ``"attention"`` (``attention``).
    takes_targets : bool
        True if :meth:`loss` takes the posterior means of another network in the place of the truth.
    """

    config: Any
    transform: ParameterTransform
    held: tuple[str, ...]
    takes_targets: bool

    @property
    def makes(self) -> tuple[str, ...]:
        """Images that the network can make."""
        ...

    @property
    def domain(self) -> dict[str, Any]:
        """Domain of the parameters: bounds of ``n`` and ``r_eff``, largest ``g_max`` and ``centre``."""
        ...

    def adapt(self, inputs: StampInputs) -> None:
        """Set constants of the normalisation by the first stamps of a training."""
        ...

    def embed_psf(self, psf: Tensor, quality: Tensor | None = None) -> Tensor:
        """Embedding of PSFs ``(M, 33, 33)``, to be given to :meth:`encode`."""
        ...

    def encode(self, inputs: StampInputs, *, psf: Tensor | None = None, bf16: bool = False) -> "Context":
        """Context of a batch of stamps, from which all other methods start."""
        ...

    def summarise(self, context: "Context") -> "PosteriorSummary":
        """Mean, covariance and quantiles."""
        ...

    def sample(self, context: "Context", normal: Tensor) -> Tensor:
        """Draws ``(S, B, P)``, a function of standard normal numbers of this shape."""
        ...

    def log_prob(self, context: "Context", parameters: Tensor) -> Tensor:
        """Log posterior density of parameters ``(B, P)`` or ``(S, B, P)``, minus infinity outside the domain."""
        ...

    def loss(self, inputs: StampInputs, parameters: Tensor, *, bf16: bool = False) -> dict[str, Tensor]:
        """Losses of a batch by name, which the training adds up."""
        ...

    def inside(self, parameters: Tensor) -> Tensor:
        """Boolean ``(...)``, True where parameters ``(..., P)`` lie in the domain."""
        ...

    def gaussians(self, context: "Context") -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Two Gaussian approximations in unbounded coordinates: centres ``(B, P)`` and factors ``(B, P, P)``."""
        ...
