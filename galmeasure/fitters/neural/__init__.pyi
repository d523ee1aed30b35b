from galmeasure.fitters.neural.fitter import NeuralSersicFitter as NeuralSersicFitter
