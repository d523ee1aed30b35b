"""Options of the commands that choose an estimator, made from the registry of estimators."""

from collections.abc import Callable

import click

from galmeasure.fitters.registry import DEFAULT_FITTER, FITTERS, fitter_options

__all__ = ["estimator_options"]


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
