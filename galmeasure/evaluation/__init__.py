"""Judge measurements: pictures of fits and codes to compare with. Plots need matplotlib, the comparison GalSim."""

from galmeasure.evaluation.plots import elliptical_profile, plot_fit

__all__ = ["GalSimSersicFitter", "elliptical_profile", "plot_fit"]


def __getattr__(name):
    """Import the comparison when it is asked for, so that plots do not load torch."""
    if name == "GalSimSersicFitter":
        from galmeasure.evaluation.baselines import GalSimSersicFitter

        return GalSimSersicFitter
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
