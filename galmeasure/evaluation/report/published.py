"""Numbers to lay results beside: those the study published, and the limit that exact posteriors set."""

__all__ = ["EXACT_RMSE", "REFERENCE_BOUNDS", "REFERENCE_RESULTS", "STUDY_PARAMETERS", "STUDY_RMSE", "STUDY_SECONDS"]

STUDY_PARAMETERS = ("flux", "n", "r_eff", "g1", "g2")
"""Order of the numbers below: flux in 1e5 electrons, n, r_eff in arcsec, g1, g2."""

STUDY_RMSE = {"1": (0.0591, 0.780, 0.0462, 0.0737, 0.0735), "2": (0.0899, 0.836, 0.0512, 0.0839, 0.0831)}
"""RMSE of the study's Xception networks on the 20,000 validation galaxies of its sets, one network a set."""

EXACT_RMSE = {"3": (0.0914, 0.960, 0.0543, 0.1011, 0.1011)}
"""RMSE that the exact posterior mean is expected to have, the root of the mean variance of the posteriors.

Of 500 galaxies of set 3 with the centre free within half a pixel; ``benchmarks/exact_posterior.py`` computes it.
"""

REFERENCE_BOUNDS = {60: (0.056, 0.78, 0.028, 0.054, 0.054), 30: (0.11, 1.56, 0.056, 0.11, 0.11)}
"""Cramer-Rao bounds of the reference galaxy that the study published, by its S/N."""

REFERENCE_RESULTS = {
    60: {
        "autoencoder": ((-0.022, 0.835, 0.025, 0.012, 0.002), (0.058, 0.789, 0.036, 0.061, 0.056)),
        "Xception CNN": ((0.039, 0.435, 0.022, 0.011, -0.013), (0.063, 0.765, 0.035, 0.048, 0.055)),
        "baseline fit": ((0.014, -0.168, 0.016, 0.015, -0.085), (0.120, 1.165, 0.063, 0.057, 0.087)),
    },
    30: {
        "autoencoder": ((0.014, 1.042, 0.041, -0.020, -0.021), (0.090, 0.745, 0.061, 0.102, 0.099)),
        "Xception CNN": ((0.052, 0.740, 0.031, 0.013, -0.024), (0.098, 0.828, 0.060, 0.091, 0.100)),
        "baseline fit": ((0.017, -0.183, 0.044, 0.055, -0.184), (0.126, 2.307, 0.133, 0.132, 0.169)),
    },
}
"""Bias and standard deviation of the study's estimators over noise draws of its reference galaxy, by S/N."""

STUDY_SECONDS = {"baseline fit": (39.0, 42.0), "networks": (9e-4, 9e-4)}
"""Seconds a galaxy that the study published, lowest and highest: the fit on a core, networks on a server with GPUs."""
