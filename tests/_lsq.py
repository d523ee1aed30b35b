"""Galaxies of the tests of the least-squares fit, and what their measurements must be."""

import numpy as np
from _agreement import STOPPING, plain
from _galaxies import draw, gaussian_psf

from galmeasure.parameters import PARAMETER_NAMES

SIGMA = 5.0
SHAPE = (32, 30)
PSF = gaussian_psf()
GALAXY = (5000.0, 2.0, 2.5, 0.2, -0.1, 14.7, 15.4)


def values(table, suffix="fit"):
    """Columns of the parameters, ``(N, 7)``."""
    return np.stack([plain(table[f"{name}_{suffix}"]) for name in PARAMETER_NAMES], 1)


def draws(count, seed, parameters=GALAXY, sigma=SIGMA, shape=SHAPE):
    """Noisy images of one galaxy."""
    rng = np.random.default_rng(seed)
    return draw(shape, PSF, parameters)[0] + rng.normal(0, sigma, (count, *shape))


def assert_same(table, other, names=PARAMETER_NAMES):
    """Parameters and errors are the same but for rounding, in units of the errors."""
    for name in names:
        error = plain(other[f"{name}_err"]) + 1e-9
        for suffix in ("fit", "err"):
            found, wanted = (plain(t[f"{name}_{suffix}"]) for t in (table, other))
            np.testing.assert_array_less(np.abs(found - wanted), STOPPING * error, err_msg=f"{name}_{suffix}")


def assert_normal(pulls, *, sigmas=4.0, bias=0.0):
    """Mean and scatter of pulls are those of N(0, 1), within the error of a sample of this size."""
    count = len(pulls)
    assert (np.abs(pulls.mean(0)) < sigmas / np.sqrt(count) + bias).all(), pulls.mean(0)
    # the scatter is that of clipped pulls: the likelihood of the reference galaxy has a tail
    clipped = np.clip(pulls, -3, 3)
    assert (np.abs(clipped.std(0) - 0.985) < sigmas / np.sqrt(2 * count) + 0.05).all(), clipped.std(0)
