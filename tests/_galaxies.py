"""Simulated galaxies for tests of the fitters, drawn with the package's own renderer or with GalSim."""

import numpy as np
import torch

from galmeasure.render import prepare_psf, render_sersic

SCALE = 0.23
REFERENCE = {"flux": 1e5, "n": 3.0, "r_eff": 0.3, "g1": -0.069, "g2": 0.15}
"""The study's reference galaxy, r_eff in arcsec."""


def gaussian_psf(size=25, fwhm=3.0):
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    image = np.exp(-4 * np.log(2) * (x**2 + y**2) / fwhm**2)
    return image / image.sum()


def draw(shape, psf, parameters):
    """Noise-free images ``(N, ny, nx)``, double precision, of parameters ``(N, 7)`` in pixels."""
    grid = prepare_psf(torch.from_numpy(np.asarray(psf, dtype=float))[None], shape, dtype=torch.float64)
    return render_sersic(torch.as_tensor(np.atleast_2d(parameters), dtype=torch.float64), grid).numpy()


def mixed_parameters(count, shape, rng, flux=3000.0):
    """Galaxies of many kinds near the centre of the stamp, parameters ``(N, 7)`` in pixels."""
    g, angle = rng.uniform(0, 0.5, count), rng.uniform(0, 2 * np.pi, count)
    columns = [flux * rng.uniform(0.5, 2, count), rng.uniform(0.8, 3.5, count), rng.uniform(1.5, 3.0, count)]
    columns += [g * np.cos(angle), g * np.sin(angle)]
    columns += [(side - 1) / 2 + rng.uniform(-1, 1, count) for side in (shape[1], shape[0])]
    return np.stack(columns, 1)


def _params():
    """Accuracy of GalSim's drawings; its defaults are good to about 0.1 %."""
    import galsim

    return galsim.GSParams(
        folding_threshold=1e-4, stepk_minimum_hlr=10, maxk_threshold=1e-4, kvalue_accuracy=1e-6,
        xvalue_accuracy=1e-6, maximum_fft_size=12288,
    )  # fmt: skip


def galsim_psf(oversampling=3, size=64, fwhm=0.5):
    """Effective PSF of the study, a Moffat of beta 2, sampled ``oversampling`` times finer than the pixels."""
    import galsim

    side = size * oversampling + 1
    psf = galsim.Convolve(galsim.Moffat(beta=2, fwhm=fwhm), galsim.Pixel(SCALE), gsparams=_params())
    return psf.drawImage(nx=side, ny=side, scale=SCALE / oversampling, method="no_pixel", dtype=float).array


def galsim_image(size=64, fwhm=0.5, **changes):
    """Noise-free reference galaxy, or one that differs from it, in the centre of a stamp."""
    import galsim

    true = {**REFERENCE, **changes}
    galaxy = galsim.Sersic(true["n"], half_light_radius=true["r_eff"], flux=true["flux"])
    galaxy = galaxy.shear(g1=true["g1"], g2=true["g2"])
    image = galsim.Convolve(galaxy, galsim.Moffat(beta=2, fwhm=fwhm), gsparams=_params())
    return image.drawImage(nx=size, ny=size, scale=SCALE, dtype=float).array


def noisy(image, count, sigma, rng):
    """Draws ``(count, ny, nx)`` with background noise ``sigma`` and the galaxy's own shot noise at gain 1."""
    return image + rng.normal(size=(count, *image.shape)) * np.sqrt(sigma**2 + np.maximum(image, 0))
