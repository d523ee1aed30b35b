"""
A catalogue, measured
=====================

The demonstration catalogue holds 200 stamps: galaxies, stars, empty ones. One call measures them, and the flags
say which rows to use.
"""

import matplotlib.pyplot as plt
import numpy as np
from astropy.table import Table

from galmeasure import NeuralSersicFitter, read_cutouts

path = "../../examples/demo_catalog.fits"
cutouts = read_cutouts(path)
table = NeuralSersicFitter().fit(cutouts)
table["id", "flux_fit", "n_fit", "r_eff_fit", "q", "snr", "flags"][140:150].pprint()

# %%
# The catalogue was simulated, so that it has the truths too. Rows without flags against them:

truth = Table.read(path, hdu=1)
good = (table["flags"] == 0) & ~np.ma.getmaskarray(truth["true_n"])
figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
for axis, name, label in zip(axes, ("n", "r_eff", "g1"), ("n", "r_eff [arcsec]", "g1"), strict=True):
    values = np.asarray(table[f"{name}_fit"][good])
    errors = np.asarray(table[f"{name}_err"][good])
    true = np.asarray(truth[f"true_{name}"][good])
    axis.errorbar(true, values, errors, fmt=".", ms=4, lw=0.6, color="#0072b2")
    axis.axline((0, 0), slope=1, color="black", lw=0.8)
    axis.set(xlabel=f"true {label}", ylabel=f"measured {label}")

# %%
# Are the errors right? Pulls, the difference over the error, should be a unit Gaussian:

pulls = np.concatenate([
    np.asarray(table[f"{name}_fit"][good] - truth[f"true_{name}"][good]) / np.asarray(table[f"{name}_err"][good])
    for name in ("n", "g1", "g2")
])  # fmt: skip
figure, axis = plt.subplots(figsize=(5, 3.4), layout="constrained")
grid = np.linspace(-4, 4, 33)
axis.hist(pulls, grid, density=True, color="#56b4e9")
axis.plot(grid, np.exp(-0.5 * grid**2) / np.sqrt(2 * np.pi), color="black")
axis.set(xlabel="(measured - true) / error", ylabel="density")
