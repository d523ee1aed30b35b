"""
What is no ordinary galaxy
==========================

A galaxy, the same with a cosmic ray, with a companion, and with an error map that is wrong: the ``ood_score`` of each,
and what it is that looks strange.
"""

import matplotlib.pyplot as plt
import numpy as np

from galmeasure import NeuralSersicFitter, read_cutouts

cutouts = read_cutouts("../../examples/demo_catalog.fits")[144:145]
image, error = np.array(cutouts.image(0)), np.array(cutouts.error(0))
struck, pair = image.copy(), image.copy()
struck[38, 26:36] += 30 * np.median(error)
pair[:, :-9] += 0.6 * image[:, 9:]
images = {"as it is": image, "cosmic ray": struck, "companion": pair, "noise half as large": image}
errors = np.stack([error, error, error, 0.5 * error])

table = NeuralSersicFitter().fit(list(images.values()), cutouts.psf_image(0), error=errors, gain=2.0)
figure, axes = plt.subplots(1, 4, figsize=(11, 3.2), layout="constrained")
for axis, (name, pixels), row in zip(axes, images.items(), table, strict=True):
    axis.imshow(np.arcsinh(pixels / np.median(error)), origin="lower", cmap="gray")
    axis.set_title(f"{name}\nscore {row['ood_score']:.1f} {row['ood_reason']}", fontsize=10)
    axis.set_axis_off()
