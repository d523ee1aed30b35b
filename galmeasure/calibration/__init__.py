"""After the training: corrections of error bars, and what the residuals of typical galaxies look like."""

from galmeasure._lazy import lazy_names

_EXPORTS = {
    "QuantileCalibration": "quantiles",
    "TypicalGalaxies": "typical",
    "load_typical": "typical",
    "typical_path": "typical",
}

__all__, __getattr__, __dir__ = lazy_names(__name__, _EXPORTS)
