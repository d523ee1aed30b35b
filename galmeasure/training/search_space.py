"""What an architecture search chooses from: encoders, their options and the learning rate."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from os import PathLike

    from galmeasure.training.config import TrainingConfig

__all__ = ["SEARCHED_ENCODERS", "STUDY_GRID", "Chooser", "check_space", "choose_config", "config_of", "read_space"]

STUDY_GRID: dict[str, tuple[int, ...]] = {
    "first": (4, 8, 16, 32, 64, 128),
    "width": (4, 8, 16, 32, 64, 128, 256, 384),
}
"""Grid of the study: filters of Xception's first convolution, and of its separable ones."""

_RATE = (3e-4, 4e-3)
_DROPOUTS = (0.0, 0.05, 0.1)


class Chooser(Protocol):
    """Part of an Optuna trial that a space needs."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """Choose one of several values."""
        ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1) -> int:
        """Choose a whole number."""
        ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Choose a number."""
        ...


def _mixer(trial: Chooser) -> dict[str, Any]:
    width = trial.suggest_int("mixer_width", 32, 128, step=32)
    depths = trial.suggest_int("mixer_fine_depth", 1, 4), trial.suggest_int("mixer_coarse_depth", 1, 4)
    return {
        "widths": (width, 2 * width), "depths": depths, "groups": trial.suggest_categorical("mixer_groups", (1, 2, 4)),
        "expansion": trial.suggest_int("mixer_expansion", 1, 3),
    }  # fmt: skip


def _convolutions(name: str) -> Callable[[Chooser], dict[str, Any]]:
    def choose(trial: Chooser) -> dict[str, Any]:
        options = {
            "width": trial.suggest_int(f"{name}_width", 16, 64, step=16),
            "depth": trial.suggest_int(f"{name}_depth", 0 if name == "cnn" else 1, 3),
            "kernel": trial.suggest_categorical(f"{name}_kernel", (3, 5)),
            "norm": trial.suggest_categorical(f"{name}_norm", (0, 1)),
            "flatten": trial.suggest_categorical(f"{name}_flatten", (0, 1)),
            "dropout": trial.suggest_categorical(f"{name}_dropout", _DROPOUTS),
        }
        return {"encoder_options": options}

    return choose


def _attention(trial: Chooser) -> dict[str, Any]:
    options = {
        "width": trial.suggest_int("attention_width", 32, 128, step=32),
        "depth": trial.suggest_int("attention_depth", 1, 5),
        "heads": trial.suggest_categorical("attention_heads", (2, 4, 8)),
        "dropout": trial.suggest_categorical("attention_dropout", _DROPOUTS),
    }
    return {"encoder_options": options}


def _xception(trial: Chooser) -> dict[str, Any]:
    options = {
        "first": trial.suggest_categorical("xception_first", (8, 16, 32)),
        "width": trial.suggest_categorical("xception_width", (16, 32, 64)),
        "depth": trial.suggest_int("xception_depth", 1, 8),
        "dropout": trial.suggest_categorical("xception_dropout", _DROPOUTS),
    }
    return {"encoder_options": options}


_SPACES: dict[str, Callable[[Chooser], dict[str, Any]]] = {
    "attention": _attention,
    "cnn": _convolutions("cnn"),
    "mixer": _mixer,
    "residual": _convolutions("residual"),
    "xception": _xception,
}

SEARCHED_ENCODERS = tuple(_SPACES)
"""Encoders that a search can choose from."""


class _Narrowed:
    """Chooser that chooses among given values where there are some, and leaves the others to a trial."""

    def __init__(self, trial, space):
        self.trial, self.space = trial, space

    def suggest_categorical(self, name, choices):
        return self.trial.suggest_categorical(name, tuple(self.space.get(name, choices)))

    def suggest_int(self, name, low, high, **step):
        return self._number(self.trial.suggest_int, name, low, high, step)

    def suggest_float(self, name, low, high, **log):
        return self._number(self.trial.suggest_float, name, low, high, log)

    def _number(self, suggest, name, low, high, options):
        if name in self.space:
            return self.trial.suggest_categorical(name, tuple(self.space[name]))
        return suggest(name, low, high, **options)


class _Names(dict):
    """Chooser that takes the first value of each choice and keeps the names."""

    def suggest_categorical(self, name, choices):
        return self.setdefault(name, choices[0])

    def suggest_int(self, name, low, high, **step):
        return self.setdefault(name, low)

    suggest_float = suggest_int


def read_space(path: str | PathLike[str]) -> dict[str, list[Any]]:
    """Read the values to which choices are narrowed.

    Parameters
    ----------
    path : path-like
        TOML file of lists, by the names that the columns of ``trials.ecsv`` have, such as ``cnn_width = [16, 32]``.

    Returns
    -------
    dict of str to list
        Values to choose from, by the name of the choice.

    Raises
    ------
    ValueError
        If the file is not TOML or there is no choice of a name.
    """
    try:
        space = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        check_space(space)
    except ValueError as err:
        msg = f"{path}: {err}"
        raise ValueError(msg) from err
    return space


def check_space(space: Mapping[str, Sequence[Any]]) -> None:
    """Check that a space has lists of values for choices that a search makes.

    Parameters
    ----------
    space : mapping of str to sequence
        Values to choose from, by the name of the choice.

    Raises
    ------
    ValueError
        If a name is that of no choice, or its values are no list or none.
    """
    names = _Names(learning_rate=_RATE[0])
    for choose in _SPACES.values():
        choose(names)
    for name, values in space.items():
        if name not in names:
            msg = f"space must hold only {', '.join(names)}, not {name}"
            raise ValueError(msg)
        if not isinstance(values, list | tuple) or not values:
            msg = f"space: {name} must be a list of at least one value, not {values!r}"
            raise ValueError(msg)


def choose_config(
    trial: Chooser, base: TrainingConfig, encoders: tuple[str, ...], space: Mapping[str, Sequence[Any]] | None = None
) -> TrainingConfig:
    """Choose a configuration.

    Parameters
    ----------
    trial : optuna.Trial
        Trial that chooses the values.
    base : TrainingConfig
        Configuration from which all other values are taken.
    encoders : tuple of str
        Names of the encoders to choose from, among ``SEARCHED_ENCODERS``.
    space : mapping of str to sequence, optional
        Values to which choices are narrowed, by the name of the choice.

    Returns
    -------
    TrainingConfig
        The configuration of the trial.
    """
    trial = _Narrowed(trial, space or {})
    encoder = trial.suggest_categorical("encoder", encoders)
    rate = trial.suggest_float("learning_rate", *_RATE, log=True)
    network = dataclasses.replace(base.network, encoder=encoder, **_SPACES[encoder](trial))
    return dataclasses.replace(base, network=network, learning_rate=rate)


def config_of(first: int, width: int, base: TrainingConfig) -> TrainingConfig:
    """Configuration of a cell of the study's grid.

    Parameters
    ----------
    first, width : int
        Filters of the first convolution of Xception and of the separable ones.
    base : TrainingConfig
        Configuration from which all other values are taken.

    Returns
    -------
    TrainingConfig
        The configuration of the cell.
    """
    options = {"first": first, "width": width}
    return dataclasses.replace(
        base, network=dataclasses.replace(base.network, encoder="xception", encoder_options=options)
    )
