"""What an architecture search chooses from: encoders, their options and the learning rate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from galmeasure.training.config import TrainingConfig

__all__ = ["SEARCHED_ENCODERS", "STUDY_GRID", "Chooser", "choose_config", "config_of"]

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


def choose_config(trial: Chooser, base: TrainingConfig, encoders: tuple[str, ...]) -> TrainingConfig:
    """Choose a configuration.

    Parameters
    ----------
    trial : optuna.Trial
        Trial that chooses the values.
    base : TrainingConfig
        Configuration from which all other values are taken.
    encoders : tuple of str
        Names of the encoders to choose from, among ``SEARCHED_ENCODERS``.

    Returns
    -------
    TrainingConfig
        The configuration of the trial.
    """
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
