from galmeasure.fitters.neural.fitter import NeuralSersicFitter as NeuralSersicFitter
from galmeasure.fitters.neural.learn_ood import learn_typical as learn_typical
