"""
What a survey can know
======================

Before any observation: how well can the Sersic index be known, at best, as a function of the size of a galaxy? The
Cramer-Rao bound answers without simulating noise.
"""

import matplotlib.pyplot as plt
import numpy as np
from astropy.table import Table

from galmeasure import Cutouts, PSFConvolvedSersic2D
from galmeasure.evaluation import cramer_rao_bounds

y, x = np.mgrid[-20:21, -20:21]
psf = (1 + (x**2 + y**2) / 4.0) ** -2.5
ys, xs = np.mgrid[:64, :64]


def bound_of_n(n, r_eff, snr=50.0):
    """Smallest error of n of any estimator without bias, with noise of 1 per pixel."""
    shape = {"n": n, "r_eff": r_eff, "g1": 0.1, "g2": 0.0}
    image = PSFConvolvedSersic2D(1.0, **shape, x_0=31.5, y_0=31.5, psf=psf)(xs, ys)
    flux = snr / np.sqrt((image**2).sum())
    truth = Table([{"flux": flux, **shape, "x": 31.5, "y": 31.5}])
    return cramer_rao_bounds(Cutouts(np.zeros((64, 64)), psf, error=1.0), truth)["n_crb"][0]


radii = np.geomspace(0.7, 6.0, 10)
figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
for n, colour in ((1.0, "#0072b2"), (4.0, "#d55e00")):
    axis.loglog(radii, [bound_of_n(n, r_eff) for r_eff in radii], "o-", color=colour, label=f"n = {n:g}")
axis.set(xlabel="r_eff [pixels]", ylabel="least error of n at S/N 50")
axis.legend()

# %%
# The PSF has a FWHM of 2.3 pixels: a galaxy of a third of it has an index that no code can measure at this S/N.
