from galmeasure.fitters.neural.fitter import NeuralSersicFitter as NeuralSersicFitter
from galmeasure.fitters.neural.fitter import learn_typical as learn_typical
