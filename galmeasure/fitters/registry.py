"""Registry of the estimators: their names, classes and options, from which the command line takes its choices."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

__all__ = [
    "DEFAULT_FITTER",
    "FITTERS",
    "FitterOption",
    "FitterSpec",
    "RegisteredFitter",
    "fitter_options",
    "get_fitter",
]

DEFAULT_FITTER = "neural"
"""Name of the estimator that is used unless another is asked for."""

COMMANDS = ("measure", "calibrate", "evaluate")
"""Commands that offer an estimator unless its entry says otherwise."""


@dataclass(frozen=True, kw_only=True)
class FitterOption:
    """Argument of an estimator that commands offer as an option.

    Parameters
    ----------
    name : str
        Name of the argument; the option is spelled with hyphens.
    help : str
        What the help of the command says about it, without the name of the estimator.
    choices : tuple of str, optional
        Words that are accepted; any text if there are none.
    values : mapping of str to object, optional
        Values of words that do not stand for themselves, such as None for ``"none"``.
    is_flag : bool, optional
        Whether the option is a switch without a value.
    is_fitter : bool, optional
        Whether the words name other estimators, whose own options then are accepted too.
    """

    name: str
    help: str
    choices: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    is_flag: bool = False
    is_fitter: bool = False


@dataclass(frozen=True)
class FitterSpec:
    """Estimator with its arguments, to be made in this process or in another one.

    Parameters
    ----------
    module : str
        Name of the module that holds the class.
    class_name : str
        Name of the class.
    arguments : dict, optional
        Arguments with which it is made; a value that is a FitterSpec is made as well.
    name : str, optional
        Name of the estimator in the registry, for messages.
    """

    module: str
    class_name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    name: str = field(default="", compare=False)

    def make(self) -> Any:
        """Make the estimator.

        Returns
        -------
        SersicFitterBase
            New instance of the class.
        """
        arguments = {
            name: value.make() if isinstance(value, FitterSpec) else value for name, value in self.arguments.items()
        }
        return getattr(import_module(self.module), self.class_name)(**arguments)


@dataclass(frozen=True, kw_only=True)
class RegisteredFitter:
    """Entry of the registry.

    Parameters
    ----------
    name : str
        Name by which users choose the estimator.
    label : str
        Name in front of the help of its options.
    module : str
        Name of the module that holds the class.
    class_name : str
        Name of the class.
    options : tuple of FitterOption, optional
        Arguments that commands offer, besides ``device``, ``batch_size`` and ``calibration``.
    commands : tuple of str, optional
        Commands that offer the estimator.
    uses_device : bool, optional
        Whether it computes on a torch device of the user's choice.
    """

    name: str
    label: str
    module: str
    class_name: str
    options: tuple[FitterOption, ...] = ()
    commands: tuple[str, ...] = COMMANDS
    uses_device: bool = True

    def spec(self, given: Mapping[str, Any] | None = None, **arguments: Any) -> FitterSpec:
        """Arguments of the estimator from the options of a command.

        Parameters
        ----------
        given : mapping of str to object, optional
            Values of options by their names; those that are None, False or empty count as not given.
        **arguments
            Arguments that are no options of this estimator, such as ``device``; None counts as not given.

        Returns
        -------
        FitterSpec
            What it takes to make the estimator.

        Raises
        ------
        ValueError
            If an option is given that neither this estimator has nor one that it is started with.
        """
        given = {name: value for name, value in (given or {}).items() if _is_given(value)}
        arguments = {name: value for name, value in arguments.items() if value is not None}
        options = {option.name: option for option in self.options}
        inner = {
            name: get_fitter(given[name]) for name, option in options.items() if option.is_fitter and name in given
        }
        accepted = set(options).union(*({option.name for option in entry.options} for entry in inner.values()))
        for name in given:
            if name not in accepted:
                msg = f"{name.replace('_', '-')} is an option of --method {_owners(name)}, not of --method {self.name}"
                raise ValueError(msg)
        values = {name: options[name].values.get(value, value) for name, value in given.items() if name in options}
        for name, entry in inner.items():
            shared = {key: value for key, value in given.items() if key not in options}
            device = {"device": arguments["device"]} if "device" in arguments else {}
            values[name] = entry.spec(shared, **device)
        return FitterSpec(self.module, self.class_name, arguments | values, self.name)


_PRIOR = FitterOption(
    name="prior", help="Prior: galaxies, survey or study.  [default: that of the weights; no prior for lsq]"
)

_SUMMARY = FitterOption(
    name="summary",
    help="which point of the posterior to give.  [default: mean]",
    choices=("mean", "median", "mode"),
)

_PRECISION = FitterOption(
    name="precision",
    help="arithmetic of the network.  [default: bfloat16 where the processor is made for it]",
    choices=("float32", "bfloat16"),
)

_REFINE = FitterOption(
    name="refine",
    help="steps to the optimum and a learned correction (auto); exact posteriors from weighted draws "
    "(importance); or the network alone (none).  [default: auto]",
    choices=("auto", "importance", "none"),
    values={"none": None},
)

FITTERS: dict[str, RegisteredFitter] = {
    entry.name: entry
    for entry in (
        RegisteredFitter(
            name="neural",
            label="Neural",
            module="galmeasure.fitters",
            class_name="NeuralSersicFitter",
            options=(
                FitterOption(
                    name="weights",
                    help="name of weights, see galmeasure weights, or a file.  [default: survey-v3]",
                ),
                _SUMMARY,
                _PRECISION,
                _REFINE,
                _PRIOR,
            ),
        ),
        RegisteredFitter(
            name="lsq",
            label="Least squares",
            module="galmeasure.fitters",
            class_name="LSQSersicFitter",
            options=(
                FitterOption(
                    name="init",
                    help="take the starts from the neural estimate.",
                    choices=("neural",),
                    is_fitter=True,
                ),
                FitterOption(name="fit_background", help="fit a constant background as well.", is_flag=True),
                _PRIOR,
            ),
        ),
        RegisteredFitter(
            name="ensemble",
            label="Ensemble",
            module="galmeasure.fitters",
            class_name="EnsembleSersicFitter",
            options=(
                FitterOption(
                    name="members",
                    help="names or files of weights, with commas between them.  [default: survey-v3,survey-v3-fast]",
                ),
                _SUMMARY,
                _PRECISION,
                _REFINE,
            ),
        ),
        RegisteredFitter(
            name="baseline",
            label="Baseline",
            module="galmeasure.fitters.galsim_fitter",
            class_name="GalSimSersicFitter",
            commands=("evaluate",),
            uses_device=False,
        ),
    )
}
"""Estimators by their names; a new one needs its line here, and nothing else, to be offered by the commands."""


def get_fitter(name: str) -> RegisteredFitter:
    """Look up an estimator.

    Parameters
    ----------
    name : str
        Name of the estimator, a key of `FITTERS`.

    Returns
    -------
    RegisteredFitter
        Its entry.

    Raises
    ------
    ValueError
        If there is no estimator of this name.
    """
    if name not in FITTERS:
        msg = f"method must be one of {', '.join(FITTERS)}, not {name!r}"
        raise ValueError(msg)
    return FITTERS[name]


def fitter_options(command: str) -> Iterable[tuple[FitterOption, str]]:
    """Options of all estimators that a command offers.

    Parameters
    ----------
    command : str
        Name of the command, such as ``"measure"``.

    Yields
    ------
    option : FitterOption
        Each option once, in the order of the registry.
    help : str
        Its help, with the name of the estimator in front where only one has it.
    """
    entries = [entry for entry in FITTERS.values() if command in entry.commands]
    options = {option.name: option for entry in entries for option in entry.options}
    for name, option in options.items():
        owners = [entry for entry in entries if name in {choice.name for choice in entry.options}]
        yield option, option.help if len(owners) > 1 else f"{owners[0].label}: {option.help}"


def _is_given(value):
    """Whether an option of a command was given."""
    return value is not None and value is not False and value not in ("", ())


def _owners(option):
    """Names of the estimators that have an option."""
    return " or ".join(entry.name for entry in FITTERS.values() if option in {choice.name for choice in entry.options})
