"""The neural estimator."""

from galmeasure.utils.lazy import lazy_names

_EXPORTS = {
    "NeuralSersicFitter": "fitter",
}

__all__, __getattr__, __dir__ = lazy_names(__name__, _EXPORTS)
