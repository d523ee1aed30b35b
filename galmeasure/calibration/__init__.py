"""After the training: corrections of error bars, and what the residuals of typical galaxies look like."""

from galmeasure.utils.lazy import lazy_names

_EXPORTS = {
    "QuantileCalibration": "quantiles",
    "TypicalGalaxies": "galmeasure.ood.typical",
    "load_typical": "galmeasure.ood.typical",
    "typical_path": "galmeasure.ood.typical",
}

__all__, __getattr__, __dir__ = lazy_names(__name__, _EXPORTS)
