"""Interactive app: draw galaxies and measure them, measure catalogues, and look at the study's data sets."""

from galmeasure.utils.lazy import lazy_names

_EXPORTS = {
    "run_app": "launch",
}

__all__, __getattr__, __dir__ = lazy_names(__name__, _EXPORTS)
