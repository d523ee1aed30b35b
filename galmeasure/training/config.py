"""Configuration of a training run (simulation, network, optimisation), read from TOML."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from galmeasure.networks import NetworkConfig
from galmeasure.networks.point_config import PointConfig
from galmeasure.networks.registry import DEFAULT_ARCHITECTURE, config_class, network_class
from galmeasure.priors import Range, get_prior, prior_from_dict
from galmeasure.simulation.psf_knowledge import PSFKnowledge
from galmeasure.simulation.stamps import SimulationConfig

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

__all__ = ["TrainingConfig", "list_training_configs", "read_training_config", "write_training_config"]

_DOMAIN = {"n", "r_eff", "g_max", "centre"}
"""Fields of a network's configuration that follow from the prior."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Everything that trained weights depend on.

    Parameters
    ----------
    name : str
        Name of the weights and of their file.
    description : str, optional
        One line of description for the card.
    simulation : SimulationConfig, optional
        Distributions of galaxies, PSFs, noise and masks.
    network : NetworkConfig or PointConfig, optional
        Architecture; its domain is that of the simulation's prior.
    steps : int, optional
        Length of the schedule of the learning rate: warm-up, then half a cosine.
    batch_size : int, optional
        Number of stamps per step.
    learning_rate : float, optional
        Largest learning rate of the schedule.
    warm_up : int, optional
        Number of steps in which the learning rate rises.
    weight_decay : float, optional
        Weight decay of matrices; biases and norms have none.
    clip : float, optional
        Largest norm of the gradient; longer ones are shortened to it.
    ema : float, optional
        Memory of the moving average of the weights, which is what is kept; it begins short.
    pool, reuse, piece : int, float, int, optional
        Capacity, reuse and piece of `galmeasure.training.pool.StampPool`.
    bf16 : bool, optional
        True if the encoder's blocks compute in bfloat16 where the device has instructions for it; elsewhere, where it
        would take ten times as long, they compute in single precision.
    start : str or tuple of str, optional
        Names or files of weights to begin with, one after the other: tensors of the same name and shape are taken from
        there.
    teacher : str, optional
        Name or file of weights from which to learn. For networks of point estimates, its posterior means, given the
        centre, stand for the truth in the squared error: they carry the noise of the galaxy, which the truth does not
        know. Posterior networks learn its features, Gaussians and quantiles.
    truth_from, truth_share : float, optional
        Fraction of the schedule from which the truth is learned beside the teacher, and its share at the end.
    for_sets : tuple of int, optional
        Data sets of the study that the weights are for, for benchmarks; all by default. The card keeps them.
    noiseless : bool, optional
        True to train and to validate on stamps without noise: what the architecture can do at best.
    losses : tuple of str, optional
        Names of the losses that are minimised, for networks with several stages: ``("image",)`` trains the denoiser
        alone, ``("mean", "covariance")`` what measures. All by default.
    seed : int, optional
        Seed of the initial weights and of the stamps.
    held_out : int, optional
        Number of stamps of the held-out set, which has another seed.
    validate_every, log_every : int, optional
        Number of steps between two validations, and between two lines of the log.
    """

    name: str
    description: str = ""
    simulation: SimulationConfig = field(default_factory=SimulationConfig)
    network: NetworkConfig | PointConfig = field(default_factory=NetworkConfig)
    steps: int = 20_000
    batch_size: int = 256
    learning_rate: float = 2e-3
    warm_up: int = 300
    weight_decay: float = 0.02
    clip: float = 5.0
    ema: float = 0.999
    pool: int = 8192
    reuse: float = 4.0
    piece: int = 64
    bf16: bool = True
    start: str | tuple[str, ...] | None = None
    teacher: str | None = None
    truth_from: float = 0.6
    truth_share: float = 0.5
    for_sets: tuple[int, ...] = ()
    noiseless: bool = False
    losses: tuple[str, ...] = ()
    seed: int = 1
    held_out: int = 2048
    validate_every: int = 1000
    log_every: int = 50

    def __post_init__(self):
        """Check ranges of the numbers."""
        for name in ("steps", "batch_size", "pool", "piece", "held_out", "validate_every", "log_every"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                msg = f"{name} must be a positive integer, not {value!r}"
                raise ValueError(msg)
        for name in ("learning_rate", "clip", "reuse"):
            if not getattr(self, name) > 0:
                msg = f"{name} must be positive, not {getattr(self, name)!r}"
                raise ValueError(msg)
        if not 0.0 <= self.ema < 1.0:
            msg = f"ema must lie within 0 and 1, not {self.ema!r}"
            raise ValueError(msg)
        for name in ("truth_from", "truth_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                msg = f"{name} must lie within 0 and 1, not {getattr(self, name)!r}"
                raise ValueError(msg)
        if self.losses and not network_class(self.network.architecture).takes_targets:
            msg = f"losses must be empty for a {self.network.architecture}, which has one stage"
            raise ValueError(msg)
        if self.pool % self.piece:
            msg = f"pool must be a multiple of piece = {self.piece}, not {self.pool}"
            raise ValueError(msg)
        if not self.name or "/" in self.name:
            msg = f"name must be a file's name, not {self.name!r}"
            raise ValueError(msg)

    def as_dict(self) -> dict[str, object]:
        """Return plain values, for a card or a checkpoint."""
        return _plain(dataclasses.asdict(self) | {"network": self.network.as_dict()})


def list_training_configs() -> list[str]:
    """List the configurations that come with the package, those of all shipped weights among them.

    Returns
    -------
    list of str
        Names that `read_training_config` takes.

    Examples
    --------
    >>> from galmeasure.training import list_training_configs
    >>> list_training_configs()
    ['attention-v1', 'autoencoder-set3-v1', 'edsr-set1-v1', 'edsr-xception-set1-v1', 'rdn-set1-v1',
     'rdn-xception-set1-v1', 'smoke', 'study-v1', 'study-v2', 'survey-v1', 'survey-v2', 'survey-v3',
     'survey-v3-distilled', 'survey-v3-fast', 'xception-set1-dropout-v1', 'xception-set1-noiseless-v1',
     'xception-set1-v1', 'xception-set2-v1', 'xception-set3-v1']
    """
    folder = files("galmeasure.training") / "configs"
    return sorted(path.name.removesuffix(".toml") for path in folder.iterdir() if path.name.endswith(".toml"))


def read_training_config(config: str | PathLike) -> TrainingConfig:
    """Read the configuration of a training run.

    Parameters
    ----------
    config : str or path-like
        Name among `list_training_configs`, or a TOML file. At its top are fields of `TrainingConfig`; the table
        ``[simulation]`` holds fields of `~galmeasure.training.SimulationConfig` (``preset = "study"`` begins with
        those of the study) and ``[network]`` fields of `~galmeasure.networks.NetworkConfig`, or, with
        ``architecture = "PointPosterior"``, of ``galmeasure.networks.point_config.PointConfig``.

    Returns
    -------
    TrainingConfig
        Configuration of the training run.

    Raises
    ------
    ValueError
        If there is no such configuration, or the file cannot be read; the message names the file and the rule.

    Examples
    --------
    >>> from galmeasure.training import read_training_config
    >>> read_training_config("study-v1").simulation.prior
    'study'
    """
    if str(config) in list_training_configs():
        return _parse((files("galmeasure.training") / "configs" / f"{config}.toml").read_text(), str(config))
    path = Path(config)
    if not path.is_file():
        names = ", ".join(list_training_configs())
        msg = f"config must be a TOML file or one of {names}; there is no {str(config)!r}"
        raise ValueError(msg)
    try:
        text = path.read_text()
    except UnicodeDecodeError as err:
        msg = f"{path}: not a text file"
        raise ValueError(msg) from err
    return _parse(text, str(path))


def write_training_config(config: TrainingConfig, path: str | PathLike) -> None:
    """Write the configuration of a training run as a TOML file that `read_training_config` reads.

    Parameters
    ----------
    config : TrainingConfig
        Configuration of the training run.
    path : path-like
        File to write, or to replace.

    Raises
    ------
    ImportError
        If the package ``tomli_w`` is not installed.
    """
    try:
        import tomli_w
    except ImportError as err:
        msg = "writing a configuration needs tomli_w: pip install 'galmeasure[search]'"
        raise ImportError(msg) from err
    values = _given(config.as_dict())
    network = {name: value for name, value in values.pop("network").items() if name not in _DOMAIN}
    values["network"] = network | {"architecture": config.network.architecture}
    prior = config.simulation.prior
    if not isinstance(prior, str):
        values["simulation"]["prior"] = _given(prior.as_dict())
    Path(path).write_text(tomli_w.dumps(values), encoding="utf-8")


def _given(value):
    """Nested tables without what is None, which TOML does not know."""
    if isinstance(value, dict):
        return {name: _given(entry) for name, entry in value.items() if entry is not None}
    return [_given(entry) for entry in value] if isinstance(value, list | tuple) else value


def _parse(text, source):
    try:
        values = tomllib.loads(text)
        lists = [name for name in ("for_sets", "losses", "start") if isinstance(values.get(name), list)]
        values |= {name: tuple(values[name]) for name in lists}
        simulation = simulation_from_dict(values.pop("simulation", {}))
        options = {name: tuple(v) if isinstance(v, list) else v for name, v in values.pop("network", {}).items()}
        kind = config_class(options.pop("architecture", DEFAULT_ARCHITECTURE))
        allowed = set(kind.__dataclass_fields__) - _DOMAIN
        _check_names(options, allowed | {"architecture"}, "[network]")
        network = kind.for_prior(get_prior(simulation.prior), **options)
        _check_names(values, set(TrainingConfig.__dataclass_fields__), "the file")
        return TrainingConfig(simulation=simulation, network=network, **values)
    except (ValueError, TypeError) as err:
        msg = f"{source}: {err}"
        raise ValueError(msg) from err


def simulation_from_dict(values: Mapping[str, object]) -> SimulationConfig:
    """Build the configuration of a simulation.

    Parameters
    ----------
    values : dict
        Table ``[simulation]`` of a TOML file, or entry ``simulation`` of a card.

    Returns
    -------
    SimulationConfig
        Configuration of the simulation.

    Raises
    ------
    ValueError
        If a name is not known, or a value is out of range.
    """
    values = dict(values)
    preset = values.pop("preset", "survey")
    if preset not in ("survey", "study"):
        msg = f"preset must be 'survey' or 'study', not {preset!r}"
        raise ValueError(msg)
    base = SimulationConfig.study() if preset == "study" else SimulationConfig()
    if "small_psf_images" in values:  # cards of the first weights, whose PSFs had wings without end
        values["psf_ends"] = False
        cut = values.pop("small_psf_images")
        values["psf_knowledge"] = dataclasses.asdict(PSFKnowledge.perfect()) | {"cut": cut, "cut_light": 0.8}
    _check_names(values, set(SimulationConfig.__dataclass_fields__), "[simulation]")
    for name, value in values.items():
        if name == "background_electrons":
            values[name] = Range(*value) if isinstance(value, list) else Range(**value)
        elif name == "prior":
            values[name] = get_prior(value).name if isinstance(value, str) else prior_from_dict(value)
        elif name == "psf_knowledge":
            values[name] = _psf_knowledge(value)
        elif isinstance(value, list):
            values[name] = tuple(value)
    return dataclasses.replace(base, **values)


def _psf_knowledge(values):
    """Build a PSFKnowledge from a table."""
    _check_names(values, set(PSFKnowledge.__dataclass_fields__), "[simulation.psf_knowledge]")
    return PSFKnowledge(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


def _check_names(values, allowed, where):
    unknown = sorted(set(values) - allowed)
    if unknown:
        msg = f"{where} must hold only {', '.join(sorted(allowed))}, not {', '.join(unknown)}"
        raise ValueError(msg)


def _plain(value):
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value
