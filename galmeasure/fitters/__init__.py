"""Estimators: cutouts in, a table of Sersic parameters out."""

from galmeasure.utils.lazy import lazy_names

_EXPORTS = {
    "LSQSersicFitter": "lsq.fitter",
    "NeuralSersicFitter": "neural.fitter",
    "SersicFitterBase": "base",
    "collect_sample": "neural.learn_correction",
    "learn_correction": "neural.learn_correction",
    "learn_ood": "neural.learn_ood",
    "learn_typical": "neural.learn_ood",
    "make_model_images": "images",
    "make_residual_images": "images",
}

__all__, __getattr__, __dir__ = lazy_names(__name__, _EXPORTS)
