"""Options of the commands that choose an estimator, made from the registry of estimators."""

from collections.abc import Callable
from typing import Any

import click

from galmeasure.fitters.registry import DEFAULT_FITTER, FITTERS, FitterSpec, fitter_options, get_fitter

__all__ = ["chosen_fitter", "estimator_options"]


def estimator_options(command: str) -> Callable:
    """Decorate a command with ``--method`` and the options of all estimators.

    Parameters
    ----------
    command : str
        Name of the command, such as ``"measure"``.

    Returns
    -------
    callable
        Decorator of a function that becomes a command.
    """
    names = [entry.name for entry in FITTERS.values() if command in entry.commands]

    def decorate(function):
        for option, text in reversed(list(fitter_options(command))):
            flag = f"--{option.name.replace('_', '-')}"
            kind = {"is_flag": True} if option.is_flag else {}
            if option.choices:
                kind = {"type": click.Choice(option.choices)}
            function = click.option(flag, help=text, **kind)(function)
        choice = click.option(
            "--method", type=click.Choice(names), default=DEFAULT_FITTER, show_default=True,
            help="Estimator: posterior of a trained network, or least squares.",
        )  # fmt: skip
        return choice(function)

    return decorate


def chosen_fitter(command: str, options: dict[str, Any]) -> FitterSpec:
    """Estimator that the options of a command ask for, checked before any process begins.

    Parameters
    ----------
    command : str
        Name of the command.
    options : dict
        Values of its options by their names.

    Returns
    -------
    FitterSpec
        Arguments that it takes to make the estimator.

    Raises
    ------
    ValueError
        If an option is one of another estimator, the device cannot be used, or there are no such weights.
    """
    from galmeasure.workflows.executors import check_device

    entry = get_fitter(options["method"])
    given = {option.name: options.get(option.name) for option, _ in fitter_options(command)}
    more = {name: options.get(name) or None for name in ("batch_size", "calibration")}
    spec = entry.spec(given, device=options["device"] if entry.uses_device else None, **more)
    check_device(options["device"])
    if given.get("weights"):
        from galmeasure.weights.registry import find_weights

        find_weights(given["weights"], "weights")
    return spec
