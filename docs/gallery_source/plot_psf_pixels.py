"""
Why the pixel must be applied once
==================================

A compact galaxy drawn without noise, and measured with two PSF images of the same telescope: that of a star, and
that of the optics alone, taken for one of a star. The second lacks the response of the pixel, and moves all that
depends on it.
"""

import matplotlib.pyplot as plt
import numpy as np

from galmeasure import Cutouts, LSQSersicFitter, PSFConvolvedSersic2D

OVERSAMPLING = 5
y, x = np.mgrid[-75:76, -75:76] / OVERSAMPLING
optics = (1 + (x**2 + y**2) / 1.6**2) ** -2.5

# %%
# ``psf_includes_pixel=False`` convolves an image of the optics with the pixel. Galaxies are drawn with the PSF of a
# star:

blank = np.zeros((64, 64))
star = Cutouts(blank, optics, error=1.0, psf_oversampling=OVERSAMPLING, psf_includes_pixel=False).psf_image(0)
ys, xs = np.mgrid[:64, :64]
figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
indices = np.array([0.7, 1.0, 2.0, 3.0, 4.0])
galaxies = np.stack([
    PSFConvolvedSersic2D(
        1e4, n=n, r_eff=1.5, g1=0.1, g2=0.0, x_0=31.5, y_0=31.5, psf=star, psf_oversampling=OVERSAMPLING
    )(xs, ys)
    for n in indices
])  # fmt: skip
fitter = LSQSersicFitter(bias_correction=False)
for includes, label in ((False, "the pixel convolved in"), (True, "the pixel forgotten")):
    table = fitter.fit(galaxies, optics, error=1.0, psf_oversampling=OVERSAMPLING, psf_includes_pixel=includes)
    axis.plot(indices, table["n_fit"], "o-", label=label)
axis.axline((1, 1), slope=1, color="black", lw=0.8)
axis.set(xlabel="true n", ylabel="measured n")
axis.legend()
