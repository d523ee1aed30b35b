"""Figure of what a network reads from the pixels of the study's reference galaxy, beside what is optimal."""

import matplotlib.pyplot as plt
import numpy as np
from astropy.table import Table

from galmeasure import Cutouts, NeuralSersicFitter, get_weights
from galmeasure.explain import explain, optimal_filter
from galmeasure.fitters import make_model_images
from galmeasure.plotting import plot_explanation

WEIGHTS = "study-v2"
PIXEL = 0.23  # arcsec
SIGMA = 200.0  # electrons, for a signal-to-noise ratio of 60
TRUTH = {"flux": 1e5, "n": 3.0, "r_eff": 0.3, "g1": -0.069, "g2": 0.15, "x": 31.5, "y": 31.5}
PARAMETERS = ("n", "r_eff", "g1")
N_DRAWS = 12
WINDOW = 24
FINE = 9  # samples along each side of a pixel


def moffat(fwhm, side=63, beta=2.0):
    """Return the image of a Moffat star, averaged over the pixels; ``fwhm`` in pixels."""
    fine = (np.arange(side * FINE) + 0.5) / FINE - side / 2
    radius2 = fine[:, None] ** 2 + fine**2
    scale2 = (fwhm / 2) ** 2 / (2 ** (1 / beta) - 1)
    star = (1 + radius2 / scale2) ** -beta
    return star.reshape(side, FINE, side, FINE).mean((1, 3))


def noise_draws():
    """Return cutouts of the galaxy with its noise, and a table of the truth."""
    psf, options = moffat(0.5 / PIXEL), {"error": SIGMA, "gain": 1.0, "pixel_scale": PIXEL}
    truth = Table({f"{name}_fit": [value] for name, value in TRUTH.items()})
    model = make_model_images(truth, Cutouts(np.zeros((64, 64)), psf, **options))[0]
    rng = np.random.default_rng(1)
    images = [rng.poisson(model) + rng.normal(0.0, SIGMA, model.shape) for _ in range(N_DRAWS)]
    return Cutouts(np.array(images), psf, **options), Table(
        {name: list(truth[name]) * N_DRAWS for name in truth.colnames}
    )


def draw():
    """Draw one row of panels for each parameter: galaxy, derivative, optimal filter, information."""
    cutouts, truth = noise_draws()
    fitter, prior = NeuralSersicFitter(weights=WEIGHTS), get_weights(WEIGHTS).get_prior()
    figure = plt.figure(figsize=(14.5, 3.3 * len(PARAMETERS)), layout="constrained")
    for part, name in zip(figure.subfigures(len(PARAMETERS), 1), PARAMETERS, strict=True):
        best = optimal_filter(cutouts, truth, name, prior=prior)
        plot_explanation(explain(fitter, cutouts, parameter=name), None, best=best, window=WINDOW, figure=part)


if __name__ == "__main__":
    draw()
