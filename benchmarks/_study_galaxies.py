"""Simulated galaxies for the benchmarks: the study's sets and its reference galaxy, drawn with GalSim.

Everything here is in pixels of the stamp unless it says arcsec; the order of parameters is that of
``galmeasure.parameters.PARAMETERS``: flux, n, r_eff, g1, g2, x, y.
"""

from dataclasses import dataclass

import galsim
import numpy as np

PIXEL_SCALE = 0.23
"""Arcsec per pixel."""

SIZE = 64
"""Side of a stamp."""

PSF_SIZE = 63
"""Side of a PSF image, in pixels of the stamp."""

OVERSAMPLING = 3
"""Of the PSF images called oversampled."""

TIGHT = galsim.GSParams(
    folding_threshold=1e-3,
    maxk_threshold=1e-5,
    kvalue_accuracy=1e-6,
    xvalue_accuracy=1e-6,
    integration_relerr=1e-7,
    stepk_minimum_hlr=10,
    maximum_fft_size=12288,
)
"""Parameters of GalSim for noiseless truth; its defaults are good to about 0.1 %."""

PSF_TIGHT = TIGHT.withParams(folding_threshold=1e-4)

REFERENCE = {"flux": 1e5, "n": 3.0, "r_eff": 0.3, "g1": -0.069, "g2": 0.15}
"""The study's reference galaxy, r_eff in arcsec."""

REFERENCE_FWHM = 0.5
REFERENCE_SIGMA = {60: 200.0, 30: 400.0}
"""Background noise at each signal-to-noise ratio."""


@dataclass(frozen=True)
class Stamps:
    """Noisy stamps with what made them.

    Parameters
    ----------
    images, noiseless : ndarray, shape (N, SIZE, SIZE)
        Pixels in electrons.
    truth : ndarray, shape (N, 7)
        Parameters in pixels.
    sigma : ndarray, shape (N,)
        Background noise.
    fwhm : ndarray, shape (N,)
        Of the PSF, arcsec.
    """

    images: np.ndarray
    noiseless: np.ndarray
    truth: np.ndarray
    sigma: np.ndarray
    fwhm: np.ndarray

    @property
    def error(self):
        """True noise of every pixel."""
        return np.sqrt(self.sigma[:, None, None] ** 2 + self.noiseless)

    def psf_images(self, oversampling=1, size=PSF_SIZE):
        """PSF image(s): one 2-D array if all stamps share it, else one per stamp."""
        drawn = {fwhm: draw_psf(moffat(fwhm), size, oversampling) for fwhm in np.unique(self.fwhm)}
        if len(drawn) == 1:
            return next(iter(drawn.values()))
        return np.stack([drawn[fwhm] for fwhm in self.fwhm])


def moffat(fwhm, beta=2.0):
    """Return the study's PSF; ``fwhm`` in arcsec."""
    return galsim.Moffat(beta=beta, fwhm=fwhm, gsparams=PSF_TIGHT)


def draw_psf(psf, size=PSF_SIZE, oversampling=1, scale=PIXEL_SCALE):
    """Image of a PSF with the pixel response, on pixels ``oversampling`` times finer than those of the stamp."""
    side = size * oversampling
    effective = galsim.Convolve(psf, galsim.Pixel(scale, gsparams=psf.gsparams))
    image = effective.drawImage(nx=side, ny=side, scale=scale / oversampling, method="no_pixel", dtype=float)
    return image.array


def draw_galaxy(parameters, psf, shape=(SIZE, SIZE), scale=PIXEL_SCALE, gsparams=TIGHT, method="auto"):
    """Noiseless stamp ``shape`` (ny, nx) of parameters (7,), lengths in pixels."""
    flux, n, r_eff, g1, g2, x, y = (float(value) for value in parameters)
    galaxy = galsim.Sersic(n, half_light_radius=r_eff * scale, flux=flux, gsparams=gsparams).shear(g1=g1, g2=g2)
    ny, nx = shape
    offset = x - (nx - 1) / 2, y - (ny - 1) / 2
    image = galsim.Convolve(galaxy, psf, gsparams=gsparams).drawImage(
        nx=nx, ny=ny, scale=scale, offset=offset, method=method, dtype=float
    )
    return image.array


def add_noise(noiseless, sigma, rng):
    """Poisson noise of the source (gain 1) and Gaussian noise."""
    return rng.poisson(np.maximum(noiseless, 0.0)) + rng.normal(0.0, 1.0, noiseless.shape) * sigma


def reference_truth():
    """Parameters (7,) of the reference galaxy, in pixels, at the centre of the stamp."""
    centre = (SIZE - 1) / 2
    values = dict(REFERENCE, r_eff=REFERENCE["r_eff"] / PIXEL_SCALE)
    return np.array([*values.values(), centre, centre])


def reference_image():
    """Noiseless image of the reference galaxy."""
    return draw_galaxy(reference_truth(), moffat(REFERENCE_FWHM))


def reference_draws(n_draws, sigma, seed):
    """Noise draws of the reference galaxy."""
    rng = np.random.default_rng(seed)
    noiseless = np.repeat(reference_image()[None], n_draws, 0)
    return Stamps(
        images=add_noise(noiseless, sigma, rng),
        noiseless=noiseless,
        truth=np.repeat(reference_truth()[None], n_draws, 0),
        sigma=np.full(n_draws, sigma),
        fwhm=np.full(n_draws, REFERENCE_FWHM),
    )


def _draw_prior(rng, shared_fwhm):
    """Parameters (7,) from the study's prior, PSF width and sigma of set 3."""
    shear, angle = rng.uniform(0, 0.67), rng.uniform(0, 2 * np.pi)
    centre = (SIZE - 1) / 2
    truth = [
        rng.uniform(0.3, 4) * 1e5,
        rng.uniform(0.5, 6),
        rng.uniform(0.1, 0.6) / PIXEL_SCALE,
        shear * np.cos(angle),
        shear * np.sin(angle),
        centre,
        centre,
    ]
    fwhm, sigma = rng.uniform(0.5, 1.0), rng.uniform(200, 400)
    return np.array(truth), shared_fwhm or fwhm, sigma


def study_set_3(n_stamps, seed=1, shared_fwhm=None):
    """Galaxies of the study's set 3: PSF FWHM 0.5 to 1.0 arcsec, sigma 200 to 400, S/N 10 to 100.

    Parameters
    ----------
    n_stamps : int
        How many.
    seed : int, optional
        Of the random numbers.
    shared_fwhm : float, optional
        The same PSF width for all, arcsec.

    Returns
    -------
    Stamps
        Galaxies centred on the stamp.
    """
    rng = np.random.default_rng(seed)
    rows = []
    while len(rows) < n_stamps:
        truth, fwhm, sigma = _draw_prior(rng, shared_fwhm)
        noiseless = draw_galaxy(truth, moffat(fwhm))
        if 10 <= np.sqrt((noiseless**2).sum()) / sigma <= 100:
            rows.append((add_noise(noiseless, sigma, rng), noiseless, truth, sigma, fwhm))
    return Stamps(*(np.array(column) for column in zip(*rows, strict=True)))
