"""Galaxies and PSFs drawn with GalSim as different instruments see them, for ``default_answer.py``.

Lengths are in pixels of the stamp unless a name says arcsec, and the order of parameters is that of
``galmeasure.parameters.PARAMETERS``: flux, n, r_eff, g1, g2, x, y. The noise of a pixel is Gaussian and has a standard
deviation of 1.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import galsim
import numpy as np
from scipy.ndimage import gaussian_filter

SIZE = 64
"""Side of a stamp."""

PSF_SIZE = 63
"""Side of a PSF image, in pixels of the stamp."""

ACCURATE = galsim.GSParams(
    folding_threshold=2e-3, maxk_threshold=1e-4, kvalue_accuracy=1e-6, xvalue_accuracy=1e-6, maximum_fft_size=16384
)
"""Stamps differ by at most 5e-5 of their norm from those of ``_study_galaxies.TIGHT``: 0.05 sigma at S/N 1000."""

N_GRID = np.round(np.geomspace(0.3, 6.2, 40), 3)
"""Sersic indices that are drawn: GalSim tabulates each of them once, which takes as long as drawing ten galaxies."""

N_FLAT = np.round(np.linspace(0.3, 6.2, 40), 3)
"""The same number of indices, uniformly distributed."""


@dataclass(frozen=True)
class Instrument:
    """Pixels and PSF of an instrument.

    Parameters
    ----------
    name : str
        Name in the tables.
    pixel_scale : float
        Arcsec per pixel.
    psf : galsim.GSObject
        PSF without the response of the pixel.
    """

    name: str
    pixel_scale: float
    psf: galsim.GSObject

    def psf_image(self, size=PSF_SIZE):
        """Image of a star, with the response of the pixel; its sum is the fraction of the light within it."""
        return self.draw_star(size).astype(float)

    def draw_star(self, size, offset=(0.0, 0.0)):
        """Image of a star of unit flux, ``offset`` (x, y) away from the middle of the stamp."""
        return self.psf.drawImage(nx=size, ny=size, scale=self.pixel_scale, offset=offset, dtype=float).array

    def sheared(self, g1, g2=0.0):
        """Return the same instrument with an elliptical PSF."""
        return replace(self, name=f"{self.name}, PSF with g1 = {g1:g}", psf=self.psf.shear(g1=g1, g2=g2))


def instruments():
    """Instruments by name, two on the ground and two in space, one of these with and without blur.

    The optics of Euclid alone have a FWHM of 1.3 pixels, which is under-sampled and outside the domain of the weights;
    with the pointing and the detector, about as in flight, it is 1.6 pixels.
    """
    optics = {"obscuration": 0.33, "pad_factor": 1.0}  # less padding draws five times as fast
    euclid = galsim.OpticalPSF(lam=700, diam=1.2, nstruts=3, strut_thick=0.03, **optics)
    hst = galsim.OpticalPSF(lam=814, diam=2.4, nstruts=4, strut_thick=0.02, **optics)
    diffusion = galsim.Gaussian(sigma=0.4 * 0.05)
    found = (
        Instrument("LSST", 0.2, galsim.Kolmogorov(fwhm=0.7)),
        Instrument("DECam", 0.263, galsim.Moffat(beta=3.0, fwhm=0.9)),
        Instrument("Euclid optics", 0.1, euclid),
        Instrument("Euclid blurred", 0.1, galsim.Convolve(euclid, galsim.Gaussian(fwhm=0.09))),
        Instrument("HST ACS", 0.05, galsim.Convolve(hst, diffusion)),
    )
    return {instrument.name: instrument for instrument in found}


def survey_instruments(count, rng):
    """Instruments with pixels of 1 arcsec, whose PSFs span the widths of the ``survey`` prior, 1.5 to 7 pixels."""
    widths = rng.permutation(np.linspace(1.6, 6.9, count))
    kinds = (
        lambda fwhm: galsim.Moffat(beta=2.5, fwhm=fwhm),
        lambda fwhm: galsim.Moffat(beta=4.0, fwhm=fwhm),
        lambda fwhm: galsim.Kolmogorov(fwhm=fwhm),
        lambda fwhm: galsim.Gaussian(fwhm=fwhm),
    )
    return [Instrument(f"survey {i}", 1.0, kinds[i % 4](float(fwhm))) for i, fwhm in enumerate(widths)]


@dataclass(frozen=True)
class Population:
    """A kind of galaxies.

    Parameters
    ----------
    name : str
        Name in the tables.
    shapes : callable
        Gives ``count`` indices, half-light radii in arcsec and axis ratios from a random generator and ``count``.
    snr : callable
        Gives signal-to-noise ratios from a random generator and the radii.
    """

    name: str
    shapes: Callable
    snr: Callable


def _cosmos_shapes(rng, count):
    index = 1.6 * np.exp(0.45 * rng.normal(size=count))
    bulges = rng.random(count) < 0.15
    index[bulges] = rng.uniform(2.5, 6.0, bulges.sum())
    return index, _lognormal(rng, 0.28, 0.18, count), 0.15 + 0.85 * rng.beta(2.5, 1.5, count)


def _cosmos_snr(rng, r_eff):
    # slope and scatter give a correlation coefficient of 0.46 with the logarithm of the radius
    return np.clip(_lognormal(rng, 25.0 * r_eff / 0.28, 0.35, len(r_eff)), 5.0, 800.0)


def _disc_shapes(rng, count):
    cosine = rng.random(count)
    return np.full(count, 1.25), _lognormal(rng, 0.35, 0.15, count), np.sqrt(cosine**2 * 0.96 + 0.04)


def _elliptical_shapes(rng, count):
    return rng.uniform(2.5, 6.0, count), _lognormal(rng, 0.4, 0.18, count), 0.4 + 0.6 * rng.beta(3.0, 1.5, count)


def _lognormal(rng, median, dex, count):
    return median * 10.0 ** (dex * rng.normal(size=count))


POPULATIONS = (
    Population("COSMOS-like", _cosmos_shapes, _cosmos_snr),
    Population("discs", _disc_shapes, lambda rng, r_eff: log_uniform(rng, 8.0, 50.0, len(r_eff))),
    Population("ellipticals", _elliptical_shapes, lambda rng, r_eff: log_uniform(rng, 40.0, 1000.0, len(r_eff))),
)
"""Faint galaxies of all kinds, discs of index 1.25 seen at random inclinations, and bright elliptical galaxies."""


def log_uniform(rng, lower, upper, count):
    """Numbers whose logarithm is uniformly distributed."""
    return np.exp(rng.uniform(math.log(lower), math.log(upper), count))


def nearest(values, grid):
    """Nearest number of a grid to each value, by ratio."""
    return grid[np.abs(np.log(np.asarray(values)[:, None] / grid)).argmin(1)]


def population_truth(population, instrument, count, rng):
    """Parameters ``(count, 7)`` of unit flux, within half a pixel of the middle."""
    index, r_eff, q = population.shapes(rng, count)
    pixels = np.clip(r_eff / instrument.pixel_scale, 0.3, 14.0)
    index = np.where(index == 1.25, 1.25, nearest(index, N_GRID))
    return assemble(index, pixels, (1.0 - q) / (1.0 + q), rng, centre=0.5)


def survey_truth(count, rng):
    """Parameters ``(count, 7)`` of unit flux from the ``survey`` prior, as far as GalSim draws its indices."""
    modulus = 0.9 * np.sqrt(1.0 - (1.0 - rng.random(count)) ** (1.0 / 3.0))
    return assemble(rng.choice(N_FLAT, count), log_uniform(rng, 0.2, 16.0, count), modulus, rng, centre=1.5)


def assemble(index, r_eff, modulus, rng, *, centre, size=SIZE):
    """Parameters of unit flux with random position angles and centres."""
    count = len(index)
    shear = modulus * np.exp(2j * np.pi * rng.random(count))
    middle = (size - 1) / 2
    x, y = middle + rng.uniform(-centre, centre, (2, count))
    return np.stack([np.ones(count), index, r_eff, shear.real, shear.imag, x, y], 1)


def draw_one(instrument, parameters, shear=None, size=SIZE):
    """Noiseless image of one galaxy; ``shear`` (g1, g2) acts on the galaxy after its own ellipticity."""
    flux, index, r_eff, g1, g2, x, y = (float(value) for value in parameters)
    scale, middle = instrument.pixel_scale, (size - 1) / 2
    galaxy = galsim.Sersic(index, half_light_radius=r_eff * scale, flux=flux, gsparams=ACCURATE).shear(g1=g1, g2=g2)
    if shear is not None:
        galaxy = galaxy.shear(g1=shear[0], g2=shear[1])
    profile = galsim.Convolve(galaxy, instrument.psf)
    return profile.drawImage(nx=size, ny=size, scale=scale, offset=(x - middle, y - middle), dtype=float).array


def draw(instrument, truth, *, shear=None, size=SIZE, cache=None):
    """Noiseless images ``(N, size, size)``, from the folder ``cache`` if they were drawn before."""
    if cache is None:
        return np.stack([draw_one(instrument, row, shear, size) for row in truth]).astype(np.float32)
    what = repr((instrument.pixel_scale, instrument.psf, shear, size, ACCURATE, galsim.__version__)).encode()
    path = Path(cache) / f"{hashlib.sha256(what + truth.tobytes()).hexdigest()[:24]}.npy"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, draw(instrument, truth, shear=shear, size=size))
    return np.load(path)


def observe(noiseless, truth, snr, rng):
    """Add noise to galaxies scaled to signal-to-noise ratios: images, and parameters with the true fluxes."""
    norm = np.sqrt((noiseless.astype(float) ** 2).sum((1, 2)))
    flux = np.asarray(snr) / norm
    images = noiseless * flux[:, None, None] + rng.normal(size=noiseless.shape)
    return images, np.concatenate([truth[:, :1] * flux[:, None], truth[:, 1:]], 1)


def imperfect_psfs(image, rng):
    """What may be told instead of a PSF image, by name."""
    peak = image.max()
    white = rng.normal(size=image.shape)
    smooth = gaussian_filter(rng.normal(size=image.shape), 1.5)
    smooth *= peak / smooth.std()
    noisy = image + 1e-3 * peak * white
    told = {"perfect": image}
    told |= {
        f"pedestal {sign}{level} %": image + float(f"{sign}1") * level / 100.0 * peak
        for level in (0.05, 0.1, 0.3)
        for sign in "-+"
    }
    told |= {f"correlated noise {100 * level:g} %": image + level * smooth for level in (3e-3, 1e-2)}
    told["two thirds negative"] = noisy - np.quantile(noisy, 2.0 / 3.0)
    told["cut wings"] = without_wings(image)
    return told


def without_wings(image, fraction=0.98):
    """PSF image that is zero beyond the radius that holds a fraction of its light."""
    y, x = np.indices(image.shape) - (np.array(image.shape)[:, None, None] - 1) / 2
    radius = np.hypot(x, y)
    order = np.argsort(radius, axis=None)
    light = np.cumsum(image.ravel()[order])
    limit = radius.ravel()[order][np.searchsorted(light, fraction * light[-1])]
    return np.where(radius <= limit, image, 0.0)
