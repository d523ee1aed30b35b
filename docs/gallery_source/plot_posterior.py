"""
The posterior of one galaxy
===========================

A faint, compact galaxy: its index and radius are hardly known, and not by a Gaussian. Draws of the network's
posterior, and of the exact one, which is made of them by weighting with the pixels.
"""

import matplotlib.pyplot as plt
from astropy.table import Table

from galmeasure import LSQSersicFitter, NeuralSersicFitter, read_cutouts

path = "../../examples/demo_catalog.fits"
row = 65
galaxy = read_cutouts(path)[row : row + 1]
truth = Table.read(path, hdu=1)[row]

network = NeuralSersicFitter()
exact = NeuralSersicFitter(refine="importance")
draws = {
    "network": network.sample(galaxy, n_samples=2000, seed=1),
    "exact": exact.sample(galaxy, n_samples=300, seed=1),
}
fit = LSQSersicFitter().fit(galaxy)[0]

figure, axis = plt.subplots(figsize=(6, 4.4), layout="constrained")
for (name, sample), colour in zip(draws.items(), ("#56b4e9", "#e69f00"), strict=True):
    axis.plot(sample["n"][0], sample["r_eff"][0].value, ".", ms=3, color=colour, label=f"{name}, draws")
axis.errorbar(
    fit["n_fit"], fit["r_eff_fit"].value, fit["r_eff_err"].value, fit["n_err"], fmt="s", color="#d55e00",
    label="least squares",
)  # fmt: skip
axis.plot(truth["true_n"], truth["true_r_eff"], "*", ms=14, color="black", label="truth")
axis.set(xlabel="n", ylabel="r_eff [arcsec]")
axis.legend()

# %%
# The table holds the same in numbers: mean, standard deviation and quantiles.

table = exact.fit(galaxy)
table["n_fit", "n_err", "n_q16", "n_q50", "n_q84", "ess", "n_draws", "log_evidence"].pprint()
