"""Configuration of a posterior network: its domain, its encoder and the sizes of its layers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from galmeasure.priors import Prior

__all__ = ["DEFAULT_ENCODER", "NetworkConfig", "known_fields", "with_lists", "with_tuples"]

DEFAULT_ENCODER = "mixer"
"""Encoder of configurations and of files of weights that name none."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Architecture of a posterior network; with it and the tensors of a file the network can be built again.

    Parameters
    ----------
    n, r_eff : tuple of float
        Bounds of the training domain, those of r_eff in pixels.
    g_max : float
        Largest modulus of the reduced shear.
    centre : float
        Largest offset of the centre from the middle of the stamp, pixels.
    widths, depths : tuple of int
        Channels and blocks of the encoder at 8 x 8 and 4 x 4 places.
    expansion, groups, features, psf_features : int
        Sizes of the encoder, see `StampEncoder`.
    clean_psf : bool
        True for a network that takes PSFs which were cleaned by `galmeasure.networks.clean_psfs`, and their quality.
    psf_stretch : float
        Stretch of the pixels of PSFs, see ``galmeasure.networks.encoders.psf.PSFEncoder``.
    flow_transforms, flow_bins, flow_hidden, flow_context : int
        Neural spline flow: transforms, bins of the splines, width of the hidden layers, length of the context.
    encoder : str
        Name of the encoder in ``galmeasure.networks.registry.ENCODERS``.
    encoder_options : dict
        Numbers, or tuples of numbers, that this encoder takes besides those above, by name.
    """

    architecture: ClassVar[str] = "SersicPosterior"
    """Name of the architecture in the registry of networks."""

    n: tuple[float, float] = (0.3, 8.0)
    r_eff: tuple[float, float] = (0.2, 16.0)
    g_max: float = 0.9
    centre: float = 1.5
    widths: tuple[int, int] = (96, 192)
    depths: tuple[int, int] = (3, 2)
    expansion: int = 2
    groups: int = 4
    features: int = 256
    psf_features: int = 64
    clean_psf: bool = False
    psf_stretch: float = 1e3
    flow_transforms: int = 2
    flow_bins: int = 8
    flow_hidden: int = 128
    flow_context: int = 64
    encoder: str = DEFAULT_ENCODER
    encoder_options: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Take the lists of a file as tuples, so that equal configurations compare equal."""
        object.__setattr__(self, "encoder_options", with_tuples(dict(self.encoder_options)))

    @classmethod
    def for_prior(cls, prior: "Prior", **options: Any) -> Self:
        """Configuration whose domain is that of a prior.

        Parameters
        ----------
        prior : galmeasure.priors.Prior
            Prior with lengths in pixels.
        **options
            All other fields of the configuration.

        Returns
        -------
        NetworkConfig
            The configuration.
        """
        return cls(
            n=(prior.n.lower, prior.n.upper), r_eff=(prior.r_eff.lower, prior.r_eff.upper), g_max=prior.shear.g_max,
            centre=max(prior.centre, 0.5), **options,
        )  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a card.

        The encoder and its options are left out where they are the defaults, as in cards that were written before
        there was a choice.
        """
        values = with_lists(asdict(self))
        if self.encoder == DEFAULT_ENCODER:
            del values["encoder"]
        if not self.encoder_options:
            del values["encoder_options"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `as_dict`.

        Parameters
        ----------
        values : mapping of str to object
            Fields of the configuration; the others have their defaults.

        Returns
        -------
        NetworkConfig
            The configuration.

        Raises
        ------
        ValueError
            If there is no field of a name.
        """
        return cls(**known_fields(cls, values))


def known_fields(config: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a file for the fields of a configuration, with tuples for lists; raises ValueError for other names."""
    unknown = sorted(set(values) - {entry.name for entry in fields(config)})
    if unknown:
        msg = f"values must hold the fields of {config.__name__} only, not {', '.join(unknown)}"
        raise ValueError(msg)
    return with_tuples(dict(values))


def with_lists(values: Any) -> Any:
    """Lists in the place of tuples, in nested dictionaries."""
    if isinstance(values, dict):
        return {name: with_lists(value) for name, value in values.items()}
    return list(values) if isinstance(values, tuple) else values


def with_tuples(values: Any) -> Any:
    """Tuples in the place of lists, in nested dictionaries."""
    if isinstance(values, dict):
        return {name: with_tuples(value) for name, value in values.items()}
    return tuple(values) if isinstance(values, list) else values
