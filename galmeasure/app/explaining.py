"""What a network reads from the pixels of a galaxy that was drawn, as a picture for the page."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from galmeasure.app.drawing import DrawnGalaxy
from galmeasure.app.pictures import figure_png
from galmeasure.explain import METHODS, explain, optimal_filter
from galmeasure.fitters import NeuralSersicFitter
from galmeasure.weights import get_weights, load_network

if TYPE_CHECKING:
    from galmeasure.fitters import SersicFitterBase

__all__ = ["EXPLAINED", "can_explain", "explanation_picture"]

EXPLAINED = ("n", "r_eff", "flux", "g1", "g2")
"""Parameters in the order of the list, all of which every network measures."""

_N_STEPS = 32
"""Steps of integrated gradients, with which a slider still answers soon."""


def can_explain(estimator: SersicFitterBase) -> bool:
    """Tell whether an estimator is one network that can be explained here.

    Parameters
    ----------
    estimator : SersicFitterBase
        Estimator of the list of the app.

    Returns
    -------
    bool
        True for networks, if captum is installed.
    """
    return isinstance(estimator, NeuralSersicFitter) and find_spec("captum") is not None


def explanation_picture(
    drawn: DrawnGalaxy, estimator: NeuralSersicFitter, parameter: str = "n", method: str = "saliency"
) -> bytes:
    """Draw what the network reads, beside the statistically optimal filter at the true parameters.

    Parameters
    ----------
    drawn : DrawnGalaxy
        Galaxy with its truth.
    estimator : NeuralSersicFitter
        Estimator whose network is explained.
    parameter : str, optional
        Parameter whose estimate is explained, one of `EXPLAINED`.
    method : str, optional
        Method of the explanation, a key of ``galmeasure.explain.METHODS``.

    Returns
    -------
    bytes
        Picture as a PNG file.

    Raises
    ------
    ValueError
        If the parameter or the method is not known, or the network has no map of features for Grad-CAM.
    ImportError
        If captum or matplotlib is not installed.
    """
    from galmeasure.plotting import plot_explanation

    if method not in METHODS:
        msg = f"method must be one of {', '.join(METHODS)}, not {method!r}"
        raise ValueError(msg)
    explanation = explain(estimator, drawn.cutouts, parameter=parameter, method=method, n_steps=_N_STEPS)
    weights = get_weights(estimator.weights)
    known = load_network(weights).held
    truth = {name: [value] for name, value in drawn.truth.items()}
    best = optimal_filter(drawn.cutouts, truth, parameter, prior=weights.get_prior(), known=known)
    axes = plot_explanation(explanation, best=best, window=40)
    return figure_png(axes[0].figure)
