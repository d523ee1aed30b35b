"""Registry of the architectures of networks and of their encoders, by name.

A new encoder is one file and one line in `ENCODERS`; a new architecture is one file and one entry in `ARCHITECTURES`.
This module loads no torch: classes are imported when they are asked for.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from galmeasure.networks.base import Encoder, PosteriorNetwork
    from galmeasure.networks.bodies.base import Body

__all__ = [
    "ARCHITECTURES",
    "BODIES",
    "DEFAULT_ARCHITECTURE",
    "ENCODERS",
    "Architecture",
    "body_class",
    "build_network",
    "config_class",
    "encoder_class",
    "network_class",
    "register_encoder",
]

DEFAULT_ARCHITECTURE = "SersicPosterior"
"""Architecture of a configuration file that names none."""


@dataclass(frozen=True)
class Architecture:
    """Classes of an architecture, each as the name of its module, a colon and its own name.

    Parameters
    ----------
    network : str
        Class that satisfies `galmeasure.networks.PosteriorNetwork`, made from its configuration alone.
    config : str
        Class of the configuration, with the methods of `galmeasure.networks.NetworkConfig`.
    """

    network: str
    config: str


ARCHITECTURES: dict[str, Architecture] = {
    "SersicPosterior": Architecture(
        "galmeasure.networks.posterior:SersicPosterior", "galmeasure.networks.config:NetworkConfig"
    ),
    "PointPosterior": Architecture(
        "galmeasure.networks.point:PointPosterior", "galmeasure.networks.point_config:PointConfig"
    ),
}
"""Architectures by the name that the cards of weights store."""

ENCODERS: dict[str, "str | type[Encoder]"] = {
    "attention": "galmeasure.networks.encoders.attention:AttentionEncoder",
    "cnn": "galmeasure.networks.encoders.convolutions:ConvolutionEncoder",
    "mixer": "galmeasure.networks.encoders.mixer:StampEncoder",
    "residual": "galmeasure.networks.encoders.convolutions:ResidualEncoder",
    "xception": "galmeasure.networks.encoders.xception:XceptionEncoder",
}
"""Encoders by the name that configurations and the cards of weights store; see ``galmeasure.networks.base.Encoder``."""

BODIES: dict[str, "str | type[Body]"] = {
    "autoencoder": "galmeasure.networks.bodies.autoencoder:AutoencoderBody",
    "edsr-xception": "galmeasure.networks.bodies.denoisers:EDSRXceptionBody",
    "rdn-xception": "galmeasure.networks.bodies.denoisers:RDNXceptionBody",
    "xception": "galmeasure.networks.bodies.xception:XceptionBody",
}
"""Bodies of networks of point estimates, by the name that configurations give as ``encoder``."""


def network_class(architecture: str) -> "type[PosteriorNetwork]":
    """Class of the networks of an architecture.

    Parameters
    ----------
    architecture : str
        Name in the registry.

    Returns
    -------
    type
        Class that is made from a configuration.

    Raises
    ------
    ValueError
        If there is no architecture of that name.
    """
    return _resolve(_entry("architecture", ARCHITECTURES, architecture).network)


def config_class(architecture: str) -> type:
    """Class of the configurations of an architecture; raises as `network_class`."""
    return _resolve(_entry("architecture", ARCHITECTURES, architecture).config)


def encoder_class(encoder: str) -> "type[Encoder]":
    """Class of an encoder.

    Parameters
    ----------
    encoder : str
        Name in the registry.

    Returns
    -------
    type
        Class with the methods of ``galmeasure.networks.base.Encoder``.

    Raises
    ------
    ValueError
        If there is no encoder of that name.
    """
    entry = _entry("encoder", ENCODERS, encoder)
    return _resolve(entry) if isinstance(entry, str) else entry


def body_class(body: str) -> "type[Body]":
    """Class of a body of networks of point estimates; raises as `encoder_class`."""
    entry = _entry("body", BODIES, body)
    return _resolve(entry) if isinstance(entry, str) else entry


def build_network(config: object) -> "PosteriorNetwork":
    """Network of a configuration, with random weights.

    Parameters
    ----------
    config : NetworkConfig
        Configuration; its attribute ``architecture`` names the class of the network.

    Returns
    -------
    PosteriorNetwork
        In training mode, on the CPU.

    Raises
    ------
    ValueError
        If the architecture or the encoder is not registered.
    """
    return network_class(config.architecture)(config)


def register_encoder(name: str, encoder: "type[Encoder]") -> None:
    """Add an encoder for this process, to train and measure with one that the package does not have.

    Parameters
    ----------
    name : str
        Name that a configuration gives as ``encoder``. Weights that were trained with it can be read by programs that
        have registered it under the same name.
    encoder : type
        Class with the methods of ``galmeasure.networks.base.Encoder``.

    Raises
    ------
    ValueError
        If the name belongs to another encoder.
    """
    if ENCODERS.get(name, encoder) is not encoder:
        msg = f"name must be new, and {name!r} is that of another encoder"
        raise ValueError(msg)
    ENCODERS[name] = encoder


def _entry(kind, registry, name):
    if name not in registry:
        msg = f"{kind} must be one of {', '.join(sorted(registry))}, not {name!r}"
        raise ValueError(msg)
    return registry[name]


def _resolve(path):
    """Class of a name such as ``package.module:Class``."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
