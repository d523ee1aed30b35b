"""Galaxies that are none of the training's, drawn with GalSim: one function for each kind."""

from dataclasses import dataclass

import galsim
import numpy as np

SIZE = 64
PSF_SIZE = 33
STAMPS_PER_PSF = 20


@dataclass
class Scene:
    """One stamp in the making.

    ``psf`` is the true one, ``given`` the one that is told; ``profile`` the galaxy before the PSF, ``noise`` what is
    told of a pixel's noise, which is 1.
    """

    rng: np.random.Generator
    fwhm: float
    beta: float
    r_eff: float
    shear: galsim.Shear

    def __post_init__(self):
        self.psf = self.moffat()
        self.given = self.psf
        self.noise = 1.0
        index = round(self.rng.uniform(0.7, 4.0), 1)  # GalSim is slow where it has to tabulate another profile
        self.profile = galsim.Sersic(n=index, half_light_radius=self.r_eff).shear(self.shear)
        self.centre = self.rng.uniform(-0.5, 0.5, 2)

    def moffat(self, factor=1.0):
        return galsim.Moffat(beta=self.beta, fwhm=factor * self.fwhm)

    def draw(self, profile, centre):
        return profile.drawImage(nx=SIZE, ny=SIZE, scale=1.0, offset=tuple(centre)).array.astype(float)

    def expected(self, snr):
        """Image of the object with a signal-to-noise ratio."""
        profile = self.psf if self.profile is None else galsim.Convolve(self.profile, self.psf)
        image = self.draw(profile, self.centre)
        return image * (snr / np.sqrt((image**2).sum()))


def as_trained(scene, snr):
    return scene.expected(snr)


def star(scene, snr):
    """A point source."""
    scene.profile = None
    return scene.expected(snr)


def blend(scene, snr):
    """A second galaxy of 0.2 to 1 times the flux, 1 to 2.5 FWHM away, not masked."""
    image, rng = scene.expected(snr), scene.rng
    size = np.exp(rng.uniform(np.log(1.0), np.log(4.0)))
    other = galsim.Sersic(n=round(rng.uniform(0.7, 4.0), 1), half_light_radius=size)
    angle, distance = rng.uniform(0.0, 2.0 * np.pi), scene.fwhm * rng.uniform(1.0, 2.5)
    place = scene.centre + distance * np.array([np.cos(angle), np.sin(angle)])
    light = scene.draw(galsim.Convolve(other, scene.psf), place)
    return image + light * (rng.uniform(0.2, 1.0) * image.sum() / light.sum())


def narrow_psf(scene, snr):
    """The PSF that is told has a FWHM 15 % below the true one."""
    scene.given = scene.moffat(0.85)
    return scene.expected(snr)


def wide_psf(scene, snr):
    """The PSF that is told has a FWHM 15 % above the true one."""
    scene.given = scene.moffat(1.15)
    return scene.expected(snr)


def low_noise(scene, snr):
    """The noise is 30 % above the one that is told."""
    scene.noise = 1.0 / 1.3
    return scene.expected(snr)


def cosmic_ray(scene, snr):
    """A track of 3 to 13 pixels of 10 to 50 sigma within 10 pixels of the middle, not masked."""
    image, rng = scene.expected(snr), scene.rng
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2.0
    x0, y0 = rng.uniform(-10.0, 10.0, 2)
    angle, half = rng.uniform(0.0, np.pi), rng.uniform(1.0, 6.0)
    along = (x - x0) * np.cos(angle) + (y - y0) * np.sin(angle)
    across = (y - y0) * np.cos(angle) - (x - x0) * np.sin(angle)
    return image + ((np.abs(along) <= half) & (np.abs(across) <= 0.5)) * rng.uniform(10.0, 50.0)


def clumpy(scene, snr):
    """An exponential disk of 60 % of the light, the rest in ten knots."""
    seed = galsim.BaseDeviate(int(scene.rng.integers(1, 2**30)))
    knots = galsim.RandomKnots(npoints=10, half_light_radius=scene.r_eff, flux=0.4, rng=seed)
    disk = galsim.Exponential(half_light_radius=scene.r_eff, flux=0.6)
    scene.profile = (disk + knots).shear(scene.shear)
    return scene.expected(snr)


def spiral(scene, snr):
    """A disk whose two arms hold 30 % of the light, as strings of knots along logarithmic spirals."""
    rng, knots = scene.rng, []
    turn, pitch = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(0.25, 0.45)
    radii = scene.r_eff * np.exp(np.linspace(np.log(0.4), np.log(2.2), 14))
    for arm in (0.0, np.pi):
        for radius in radii:
            angle = turn + arm + np.log(radius / scene.r_eff) / pitch
            knot = galsim.Gaussian(half_light_radius=0.15 * scene.r_eff, flux=0.3 / (2 * len(radii)))
            knots.append(knot.shift(radius * np.cos(angle), radius * np.sin(angle)))
    scene.profile = (galsim.Exponential(half_light_radius=scene.r_eff, flux=0.7) + galsim.Add(knots)).shear(scene.shear)
    return scene.expected(snr)


def two_component(scene, snr):
    """A round de Vaucouleurs bulge of 40 % of the light in an inclined exponential disk four times larger."""
    scene.r_eff = max(scene.r_eff, 2.5)
    bulge = galsim.DeVaucouleurs(half_light_radius=0.3 * scene.r_eff, flux=0.4)
    disk = galsim.Exponential(half_light_radius=1.3 * scene.r_eff, flux=0.6).shear(scene.shear)
    scene.profile = bulge + disk
    return scene.expected(snr)


def truncated(scene, snr):
    """The image ends 3 to 11 pixels from the middle; beyond is zero, not masked."""
    image = scene.expected(snr)
    missing = np.zeros(image.shape, dtype=bool)
    missing[:, SIZE // 2 + int(scene.rng.integers(3, 12)) :] = True
    image[np.rot90(missing, scene.rng.integers(4))] = np.nan  # becomes zero after the noise
    return image


KINDS = {
    "as trained": as_trained,
    "star": star,
    "blend": blend,
    "psf 15 % narrow": narrow_psf,
    "psf 15 % wide": wide_psf,
    "noise 30 % low": low_noise,
    "cosmic ray": cosmic_ray,
    "clumpy": clumpy,
    "spiral": spiral,
    "two components": two_component,
    "truncated stamp": truncated,
}


def draw_kind(kind, snr, count, seed, noise=True):
    """Images, 1-sigma errors that are told, PSFs and which one each stamp has."""
    rng = np.random.default_rng([list(KINDS).index(kind), int(snr), seed])
    images, errors, psfs = np.empty((count, SIZE, SIZE), np.float32), np.empty(count), []
    for i in range(count):
        if i % STAMPS_PER_PSF == 0:
            fwhm, beta = rng.uniform(2.2, 5.0), rng.uniform(2.5, 4.5)
        size, angle = np.exp(rng.uniform(np.log(1.5), np.log(6.0))), rng.uniform(0.0, np.pi)
        shear = 0.6 * np.sqrt(rng.uniform()) * np.exp(2j * angle)
        scene = Scene(rng, fwhm, beta, size, galsim.Shear(g1=shear.real, g2=shear.imag))
        image = KINDS[kind](scene, snr)
        images[i] = np.nan_to_num(image + noise * rng.standard_normal(image.shape))
        errors[i] = scene.noise
        if i % STAMPS_PER_PSF == 0:
            psfs.append(scene.given.drawImage(nx=PSF_SIZE, ny=PSF_SIZE, scale=1.0).array)
    return images, errors, np.array(psfs), np.arange(count) // STAMPS_PER_PSF
