"""Estimators that the app offers: all that galmeasure ships, by the names that the page shows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from galmeasure.fitters.registry import FitterSpec, get_fitter
from galmeasure.weights import DEFAULT_WEIGHTS, list_weights

__all__ = ["EstimatorChoice", "find_estimator", "list_estimators", "make_estimator"]


@dataclass(frozen=True)
class EstimatorChoice:
    """An estimator in the list of the app.

    Parameters
    ----------
    label : str
        Name in the list.
    about : str
        One sentence on what it is.
    spec : FitterSpec
        Estimator with its arguments.
    is_slow : bool, optional
        Whether one galaxy takes longer than moving a slider may; such an estimator waits for a button.
    """

    label: str
    about: str
    spec: FitterSpec
    is_slow: bool = False


@lru_cache(maxsize=1)
def list_estimators() -> tuple[EstimatorChoice, ...]:
    """List every estimator that can run here, the default first.

    Returns
    -------
    tuple of EstimatorChoice
        Networks, exact posterior, ensemble, least squares, and the study's baseline fit where GalSim is installed.

    Examples
    --------
    >>> from galmeasure.app.estimators import list_estimators
    >>> list_estimators()[0].label
    'Network survey-v3 (default)'
    """
    choices = [*_networks(), *_others()]
    if find_spec("galsim") is not None:
        spec = get_fitter("baseline").spec()
        choices.append(EstimatorChoice("Baseline of the study", "GalSim and L-BFGS-B, without errors.", spec, True))
    return tuple(choices)


def find_estimator(label: str) -> EstimatorChoice:
    """Look up an estimator of the list.

    Parameters
    ----------
    label : str
        Name in the list.

    Returns
    -------
    EstimatorChoice
        Entry of that name.

    Raises
    ------
    ValueError
        If the list has no such estimator.
    """
    choices = {choice.label: choice for choice in list_estimators()}
    if label not in choices:
        msg = f"label must be one of {', '.join(choices)}, not {label!r}"
        raise ValueError(msg)
    return choices[label]


@lru_cache(maxsize=32)
def make_estimator(label: str) -> Any:
    """Make an estimator of the list.

    Parameters
    ----------
    label : str
        Name in the list.

    Returns
    -------
    SersicFitterBase
        The estimator, made once and kept: estimators hold no data, so that all visitors may share it.

    Raises
    ------
    ValueError
        If the list has no such estimator.
    """
    return find_estimator(label).spec.make()


def _networks():
    """All shipped networks, the default first."""
    weights = sorted(list_weights(), key=lambda each: (each.name != DEFAULT_WEIGHTS, each.name))
    for each in weights:
        default = " (default)" if each.name == DEFAULT_WEIGHTS else ""
        spec = get_fitter("neural").spec({"weights": each.name}, covariance=True)
        yield EstimatorChoice(f"Network {each.name}{default}", f"{each.card['description']}.", spec)


def _others():
    """Estimators that are no single network."""
    neural, lsq, ensemble = (get_fitter(name) for name in ("neural", "lsq", "ensemble"))
    yield EstimatorChoice(
        f"Exact posterior from {DEFAULT_WEIGHTS}",
        "Draws of the network, weighted with the likelihood of the pixels and the prior.",
        neural.spec({"refine": "importance"}, covariance=True),
    )
    yield EstimatorChoice(
        "Ensemble of networks", "Mixture of the posteriors of several networks.", ensemble.spec(covariance=True)
    )
    yield EstimatorChoice(
        "Least squares", "Maximum likelihood by Levenberg and Marquardt's method.", lsq.spec(covariance=True)
    )
    yield EstimatorChoice(
        "Least squares from the network",
        "Maximum likelihood, started from the estimate of the default network.",
        lsq.spec({"init": "neural"}, covariance=True),
    )
