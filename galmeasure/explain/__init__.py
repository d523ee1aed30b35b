"""What networks look at: derivatives of their answers by the pixels, beside the statistically optimal ones."""

from galmeasure.utils.lazy import lazy_names

_EXPORTS = {
    "METHODS": "explanation",
    "Explanation": "explanation",
    "OptimalFilter": "optimum",
    "correlations": "optimum",
    "explain": "attribution",
    "optimal_filter": "optimum",
}

__all__, __getattr__, __dir__ = lazy_names(__name__, _EXPORTS)
