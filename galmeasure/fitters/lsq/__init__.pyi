from galmeasure.fitters.lsq.fitter import LSQSersicFitter as LSQSersicFitter
