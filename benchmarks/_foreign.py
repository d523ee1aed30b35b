"""Galaxies that galmeasure's simulator did not make: drawn with GalSim, with PSFs of several instruments."""

import numpy as np

SIDE = 64
_GRID = np.round(np.geomspace(0.5, 6.2, 36), 3)  # indices, few, so that GalSim keeps their tables


def instruments():
    """Pixel scale in arcsec, and the PSF without the pixel, by instrument."""
    import galsim

    return {
        "LSST": (0.2, galsim.Kolmogorov(fwhm=0.7)),
        "DECam": (0.263, galsim.Moffat(beta=3.0, fwhm=0.9)),
        "Euclid": (0.1, galsim.OpticalPSF(lam=700, diam=1.2, obscuration=0.3, nstruts=3, strut_thick=0.02)),
        "HST": (
            0.05,
            galsim.OpticalPSF(lam=600, diam=2.4, obscuration=0.33, nstruts=4, strut_thick=0.02, defocus=0.02),
        ),
    }


def psf_image(instrument, side=63):
    """Image of the PSF with the pixel's response; the sum is what it holds of the star's light."""
    import galsim

    scale, psf = instruments()[instrument]
    effective = galsim.Convolve(psf, galsim.Pixel(scale))
    return effective.drawImage(nx=side, ny=side, scale=scale, method="no_pixel", dtype=float).array


POPULATIONS = {
    "COSMOS-like": {"n": (1.6, 0.5), "r": (0.3, 0.45), "growth": 0.25, "q": (3.0, 2.0)},
    "discs of n 1.25": {"n": (1.25, 0.02), "r": (0.4, 0.4), "growth": 0.25, "q": (2.0, 2.0)},
    "spheroids": {"n": (3.8, 0.25), "r": (0.35, 0.5), "growth": 0.3, "q": (5.0, 2.0)},
}
"""Medians and scatters (natural logarithm) of n and of r_eff in arcsec at S/N 30, power of S/N with which sizes grow,
parameters of the beta distribution of axis ratios. None of them is the prior of a network."""


def draw_galaxies(instrument, population, count, snr, seed):
    """Noisy stamps of noise 1 and their truth.

    Parameters
    ----------
    instrument : str
        One of `instruments`.
    population : str
        One of `POPULATIONS`.
    count : int
        Number of galaxies.
    snr : tuple of float
        Range of the signal-to-noise ratio, uniform in its logarithm.
    seed : int
        Seed of everything.

    Returns
    -------
    images : ndarray
        Shape ``(count, 64, 64)``.
    truth : ndarray
        Parameters in the order of `galmeasure.parameters`, lengths in pixels, shape ``(count, 7)``.
    """
    import galsim

    rng, kind = np.random.default_rng(seed), POPULATIONS[population]
    scale, psf = instruments()[instrument]
    images, truth = np.zeros((count, SIDE, SIDE)), np.zeros((count, 7))
    for image, row in zip(images, truth, strict=True):
        wanted = np.exp(rng.uniform(*np.log(snr)))
        n = kind["n"][0] * np.exp(rng.normal(0.0, kind["n"][1]))
        n = _GRID[np.abs(np.log(_GRID / n)).argmin()]
        size = kind["r"][0] * (wanted / 30.0) ** kind["growth"] * np.exp(rng.normal(0.0, kind["r"][1]))
        size = float(np.clip(size, 0.5 * scale, 9.0 * scale))
        q, angle = 0.15 + 0.85 * rng.beta(*kind["q"]), rng.uniform(0.0, 2.0 * np.pi)
        g1, g2 = (1.0 - q) / (1.0 + q) * np.cos(angle), (1.0 - q) / (1.0 + q) * np.sin(angle)
        dx, dy = rng.uniform(-0.5, 0.5, 2)
        galaxy = galsim.Convolve(galsim.Sersic(float(n), half_light_radius=size).shear(g1=g1, g2=g2), psf)
        image[:] = galaxy.drawImage(nx=SIDE, ny=SIDE, scale=scale, offset=(dx, dy), dtype=float).array
        flux = wanted / np.sqrt((image**2).sum())
        image *= flux
        image += rng.normal(size=image.shape)
        row[:] = flux, n, size / scale, g1, g2, (SIDE - 1) / 2 + dx, (SIDE - 1) / 2 + dy
    return images, truth
