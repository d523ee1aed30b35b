"""After the training: corrections of error bars, and the reference of the out-of-distribution score."""

from galmeasure.utils.lazy import lazy_names

_EXPORTS = {
    "OODReference": "galmeasure.ood.reference",
    "QuantileCalibration": "quantiles",
    "TypicalGalaxies": "galmeasure.ood.reference",
    "load_ood": "galmeasure.ood.reference",
    "load_typical": "galmeasure.ood.reference",
    "ood_path": "galmeasure.ood.reference",
    "typical_path": "galmeasure.ood.reference",
}

__all__, __getattr__, __dir__ = lazy_names(__name__, _EXPORTS)
