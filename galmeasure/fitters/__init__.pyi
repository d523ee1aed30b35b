from galmeasure.fitters.base import SersicFitterBase as SersicFitterBase
from galmeasure.fitters.images import make_model_images as make_model_images
from galmeasure.fitters.images import make_residual_images as make_residual_images
from galmeasure.fitters.lsq.fitter import LSQSersicFitter as LSQSersicFitter
from galmeasure.fitters.neural.fitter import NeuralSersicFitter as NeuralSersicFitter
from galmeasure.fitters.neural.learn_correction import collect_sample as collect_sample
from galmeasure.fitters.neural.learn_correction import learn_correction as learn_correction
from galmeasure.fitters.neural.learn_ood import learn_typical as learn_typical
