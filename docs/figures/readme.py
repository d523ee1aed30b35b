"""Picture of the front page and of the README: two galaxies of the demonstration catalogue with their posteriors.

``python docs/figures/readme.py`` writes ``docs/figures/readme.png``.
"""

from pathlib import Path

import numpy as np
from astropy.table import Table
from matplotlib.figure import Figure

from galmeasure import LSQSersicFitter, NeuralSersicFitter, read_cutouts

ROWS = (146, 65)
"""Rows of the demonstration catalogue: one that is bright, and one that is faint."""

NETWORK, LEAST_SQUARES, TRUTH = "#0072b2", "#d55e00", "black"
"""Colours that differ for the colour-blind, too."""


def panels(axes, image, model, sigma):
    """Show image, model and residual in three axes."""
    limit = max(6.0, 0.6 * float(model.max()) / sigma)
    for axis, values, top in zip(axes, (image, model, image - model), (limit, limit, 5.0), strict=True):
        low = -3.0 if top == limit else -top
        axis.imshow(values / sigma, origin="lower", cmap="gray" if top == limit else "RdBu_r", vmin=low, vmax=top)
        axis.set_axis_off()


def posterior(axis, draws, fit, truth):
    """Show draws of n and r_eff, the least-squares fit and the truth."""
    axis.plot(draws["n"], draws["r_eff"].value, ".", ms=2, alpha=0.35, color=NETWORK, label="posterior draws")
    axis.errorbar(
        fit["n_fit"], fit["r_eff_fit"].value, fit["r_eff_err"].value, fit["n_err"], fmt="s", color=LEAST_SQUARES,
        label="least squares",
    )  # fmt: skip
    axis.plot(truth["true_n"], truth["true_r_eff"], "*", ms=12, color=TRUTH, label="truth")
    axis.set(xlabel="Sersic index n", ylabel="r_eff [arcsec]")


def draw():
    """Figure of two rows: stamp, model, residual, posterior."""
    path = "examples/demo_catalog.fits"
    truth, cutouts = Table.read(path, hdu=1), read_cutouts(path)
    figure = Figure(figsize=(9.6, 4.6), dpi=100, layout="constrained")
    axes = figure.subplots(2, 4, width_ratios=(1, 1, 1, 1.25))
    network, least_squares = NeuralSersicFitter(), LSQSersicFitter()
    for index, row in enumerate(ROWS):
        galaxy = cutouts[row : row + 1]
        table = network.fit(galaxy)
        sigma = float(np.median(galaxy.error(0)))
        model = network.make_model_images(table, galaxy)[0]
        panels(axes[index, :3], np.asarray(galaxy.image(0)), np.asarray(model), sigma)
        axes[index, 0].text(3, 57, f"S/N {table['snr'][0]:.0f}", color="white", fontsize=10)
        draws = {name: values[0] for name, values in network.sample(galaxy, n_samples=1500, seed=1).items()}
        posterior(axes[index, 3], draws, least_squares.fit(galaxy)[0], truth[row])
    for axis, title in zip(axes[0], ("stamp", "model", "residual"), strict=False):
        axis.set_title(title, fontsize=10)
    axes[0, 3].legend(fontsize=8, loc="best")
    return figure


if __name__ == "__main__":
    draw().savefig(Path(__file__).with_name("readme.png"))
