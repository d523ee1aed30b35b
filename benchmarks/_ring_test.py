"""Bias of the shear by a ring test: pairs of galaxies turned by 90 degrees, with either sign of a small shear."""

from dataclasses import dataclass

import numpy as np
from _instruments import SIZE, Instrument, assemble, draw, nearest

APPLIED_SHEAR = 0.02
SHEAR_INDICES = np.array([0.5, 0.7, 1.0, 1.25, 1.5, 2.0, 2.5, 3.2, 4.0])
BLOCK = 10
"""Noiseless galaxies that are measured at once, which bounds the memory."""


@dataclass(frozen=True)
class Rings:
    """Noiseless images of a ring test.

    Parameters
    ----------
    instrument : Instrument
        Instrument with which they were drawn.
    noiseless : ndarray, shape (N, 2, 2, SIZE, SIZE)
        Images of S/N 1 with noise of 1 a pixel, by galaxy, sign of the shear, and turned or not.
    true_shear : ndarray, shape (N, 2, 2, 2)
        g1 and g2 of the sheared galaxies.
    """

    instrument: Instrument
    noiseless: np.ndarray
    true_shear: np.ndarray


def draw_rings(instrument, shapes, rng, *, phase=None, cache=None):
    """Draw galaxies of random shape; ``phase`` (x, y) is their centre from the middle of the stamp, in pixels."""
    modulus = np.clip(0.25 * np.sqrt(-2.0 * np.log(rng.random(shapes))), 0.0, 0.6)
    r_eff = np.clip(0.4 * np.exp(0.35 * rng.normal(size=shapes)), 0.2, 0.9) / instrument.pixel_scale
    index = nearest(1.6 * np.exp(0.45 * rng.normal(size=shapes)), SHEAR_INDICES)
    truth = assemble(index, r_eff, modulus, rng, centre=0.5)
    if phase is not None:
        truth[:, 5:7] = (SIZE - 1) / 2 + np.asarray(phase)
    noiseless, true_shear = np.empty((shapes, 2, 2, SIZE, SIZE)), np.empty((shapes, 2, 2, 2))
    for turned in (0, 1):
        galaxies = turn(truth) if turned else truth
        for i, sign in enumerate((APPLIED_SHEAR, -APPLIED_SHEAR)):
            noiseless[:, i, turned] = draw(instrument, galaxies, shear=(sign, 0.0), cache=cache)
            true_shear[:, i, turned] = sheared(galaxies[:, 3] + 1j * galaxies[:, 4], sign)
    noiseless /= np.sqrt((noiseless[:, :1, :1] ** 2).sum((3, 4), keepdims=True))
    return Rings(instrument, noiseless, true_shear)


def ring_test(fit, rings, draws, snr, rng):
    """Errors of g1 and g2 by estimator: shape (galaxies * draws, sign of the shear, turned or not, component).

    The noise of a galaxy is the same for both signs of the shear, and is turned with it. ``fit`` takes images, the PSF
    and ``psf_flux``, and gives an answer for each estimator by its name.
    """
    psf, errors = rings.instrument.psf_image(), {}
    for start in range(0, len(rings.noiseless), BLOCK):
        chunk = slice(start, start + BLOCK)
        stamps = snr * np.repeat(rings.noiseless[chunk], draws, 0)
        noise = rng.normal(size=(len(stamps), SIZE, SIZE))
        stamps[:, :, 0] += noise[:, None]
        stamps[:, :, 1] += np.rot90(noise, -1, (1, 2))[:, None]
        true = np.repeat(rings.true_shear[chunk], draws, 0)
        for name, answer in fit(stamps.reshape(-1, SIZE, SIZE), psf, psf_flux=float(psf.sum())).items():
            errors.setdefault(name, []).append(answer.values[:, 3:5].reshape(true.shape) - true)
    return {name: np.concatenate(values) for name, values in errors.items()}


def turn(truth):
    """Parameters of galaxies turned by 90 degrees about the middle of the stamp, as ``np.rot90(image, -1)`` does."""
    middle = (SIZE - 1) / 2
    x, y = truth[:, 5] - middle, truth[:, 6] - middle
    return np.column_stack([truth[:, :3], -truth[:, 3:5], middle - y, middle + x])


def sheared(ellipticity, applied):
    """Components ``(N, 2)`` of the ellipticity of galaxies after a shear along the first component."""
    total = (ellipticity + applied) / (1.0 + applied * ellipticity)
    return np.stack([total.real, total.imag], 1)


def shear_bias(errors, draws, rng):
    """Stamps without a measurement, then m, c1 and c2 with bootstrap errors over noiseless galaxies."""
    known = np.isfinite(errors).all((1, 2, 3))
    missing = int((~np.isfinite(errors).all(3)).sum())
    groups = np.repeat(np.arange(len(errors) // draws), draws)[known]
    kept = errors[known].mean(2)
    each = np.stack([(kept[:, 0, 0] - kept[:, 1, 0]) / (2.0 * APPLIED_SHEAR), *kept.mean(1).T], 1)
    means = np.stack([each[groups == group].mean(0) for group in np.unique(groups)])
    scatter = np.std([means[rng.integers(len(means), size=len(means))].mean(0) for _ in range(500)], axis=0)
    return missing, *np.stack([means.mean(0), scatter], 1).ravel()
