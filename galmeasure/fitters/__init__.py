"""Estimators: cutouts in, a table of Sersic parameters out."""

from galmeasure.fitters._learn_correction import collect_sample, learn_correction
from galmeasure.fitters.base import SersicFitterBase
from galmeasure.fitters.images import make_model_images, make_residual_images
from galmeasure.fitters.lsq import LSQSersicFitter
from galmeasure.fitters.neural import NeuralSersicFitter, learn_typical

__all__ = [
    "LSQSersicFitter",
    "NeuralSersicFitter",
    "SersicFitterBase",
    "collect_sample",
    "learn_correction",
    "learn_typical",
    "make_model_images",
    "make_residual_images",
]
