"""Judge measurements: pictures of fits and codes to compare with. Plots need matplotlib, the comparison GalSim."""

from galmeasure.evaluation.plots import elliptical_profile, plot_fit

__all__ = ["elliptical_profile", "plot_fit"]
