"""Numbers to lay results beside: those the study published, and the limit that exact posteriors set."""

__all__ = [
    "BASELINE_FIRST_ORDER", "BASELINE_RESULTS", "EXACT_RMSE", "REFERENCE_BOUNDS", "REFERENCE_RESULTS",
    "STUDY_DENOISED_RMSE", "STUDY_LABEL_STD", "STUDY_NOISELESS_RMSE", "STUDY_PARAMETERS", "STUDY_RMSE", "STUDY_SECONDS",
]  # fmt: skip

STUDY_PARAMETERS = ("flux", "n", "r_eff", "g1", "g2")
"""Order of the numbers below: flux in 1e5 electrons, n, r_eff in arcsec, g1, g2."""

STUDY_RMSE = {
    "1": (0.0591, 0.780, 0.0462, 0.0737, 0.0735),
    "2": (0.0899, 0.836, 0.0512, 0.0839, 0.0831),
    "3": (0.0969, 0.975, 0.0542, 0.1043, 0.1038),
}
"""RMSE of the study's Xception networks on the 20,000 validation galaxies of its sets, one network a set.

That of set 3 reads the image of the PSF as a second channel. The centres were exact, and the same galaxies decided
when to stop the training.
"""

STUDY_DENOISED_RMSE = {
    "EDSR denoiser + Xception": (0.0554, 0.763, 0.0456, 0.0709, 0.0712),
    "RDN denoiser + Xception": (0.0558, 0.769, 0.0458, 0.0709, 0.0712),
}
"""RMSE of the study on its set 1 with a network in front that takes away noise; the first is its best result."""

STUDY_NOISELESS_RMSE = (0.0038, 0.029, 0.0022, 0.0041, 0.0036)
"""RMSE of the study's Xception network on images of set 1 without noise."""

STUDY_LABEL_STD = (0.487, 1.592, 0.1406, 0.2791, 0.2774)
"""Standard deviation of the true parameters of the study's set 1: the RMSE of an estimator that sees no pixels."""

EXACT_RMSE = {"3": (0.0914, 0.960, 0.0543, 0.1011, 0.1011)}
"""RMSE that the exact posterior mean is expected to have, the root of the mean variance of the posteriors.

Of 500 galaxies of set 3 with the centre free within half a pixel; ``benchmarks/exact_posterior.py`` computes it.
"""

REFERENCE_BOUNDS = {60: (0.056, 0.78, 0.028, 0.054, 0.054), 30: (0.11, 1.56, 0.056, 0.11, 0.11)}
"""Cramer-Rao bounds of the reference galaxy that the study published, by its S/N."""

REFERENCE_RESULTS = {
    60: {
        "autoencoder": ((-0.022, 0.835, 0.025, 0.012, 0.002), (0.058, 0.789, 0.036, 0.061, 0.056)),
        "autoencoder, its module": ((-0.016, -0.48, -0.012, 0.001, -0.027), (0.072, 0.67, 0.036, 0.053, 0.061)),
        "Xception CNN": ((0.039, 0.435, 0.022, 0.011, -0.013), (0.063, 0.765, 0.035, 0.048, 0.055)),
    },
    30: {
        "autoencoder": ((0.014, 1.042, 0.041, -0.020, -0.021), (0.090, 0.745, 0.061, 0.102, 0.099)),
        "autoencoder, its module": ((-0.052, -0.57, 0.001, -0.019, 0.046), (0.12, 0.85, 0.060, 0.10, 0.10)),
        "Xception CNN": ((0.052, 0.740, 0.031, 0.013, -0.024), (0.098, 0.828, 0.060, 0.091, 0.100)),
    },
}
"""Bias and standard deviation of the study's networks over noise draws of its reference galaxy, by S/N.

The study gives the autoencoder twice: in its summary, and with the module that holds it. The signs are as published.
"""

BASELINE_RESULTS = {
    60: ((-0.014, 0.169, -0.017, -0.016, 0.085), (0.120, 1.165, 0.063, 0.057, 0.087)),
    30: ((-0.017, 0.183, -0.044, -0.056, 0.185), (0.126, 2.307, 0.133, 0.132, 0.169)),
}
"""Bias (measured minus true) and standard deviation of the study's baseline fit, by S/N.

Not of the reference galaxy: of the first 100 galaxies of set 1 with S/N 58 to 62, or 28 to 32, all with a noise of 200
electrons. The study gives true minus measured; here the sign is turned, so that it is that of all other numbers.
"""

BASELINE_FIRST_ORDER = {
    60: {"r_eff": -0.020, "g1": -0.025, "g2": 0.104},
    30: {"r_eff": -0.040, "g1": -0.049, "g2": 0.210},
}
"""Bias (measured minus true) that the noise image in the models of the baseline fit gives to first order, by S/N.

The study added the same noise image to every model. The flux is held at the sum of the pixels, where its minimiser
leaves it.
"""

STUDY_SECONDS = {"baseline fit": (39.0, 42.0), "networks": (9e-4, 9e-4)}
"""Seconds a galaxy that the study published, lowest and highest: the fit on a core, networks on a server with GPUs."""
