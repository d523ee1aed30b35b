"""Stamps like those of the study: Sersic galaxies, Moffat PSFs, Gaussian and Poisson noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from galmeasure.cutouts import Cutouts
from galmeasure.parameters import N_PARAMETERS, PARAMETER_NAMES, SERSIC

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from galmeasure.app.sliders import GalaxySettings
    from galmeasure.render import PSFGrid

__all__ = [
    "GAIN",
    "PIXEL_SCALE",
    "STAMP_SIZE",
    "DrawnGalaxy",
    "add_noise",
    "draw_galaxy",
    "draw_stamps",
    "make_cutouts",
]

STAMP_SIZE = 64
"""Side of the stamps in pixels."""

PIXEL_SCALE = 0.23
"""Arcsec per pixel of the study's data sets."""

GAIN = 1.0
"""Electrons per adu of the study's data sets."""

MOFFAT_BETA = 2.0
"""Exponent of the study's PSF."""


@dataclass(frozen=True, eq=False)
class DrawnGalaxy:
    """A stamp with everything that is known about it.

    Parameters
    ----------
    settings : GalaxySettings
        Galaxy, PSF and noise that were asked for.
    noiseless : ndarray
        Stamp without noise in adu, shape ``(64, 64)``.
    cutouts : Cutouts
        Noisy stamp with its PSF and its error, as estimators take it.
    truth : dict of str to float
        True value of each of the seven parameters, in the units of a result table.
    bound : ndarray
        Smallest covariance that an unbiased estimator can have (Cramer-Rao), in the units of a result table, shape
        ``(7, 7)``; NaN where there is none.
    psf_grid : PSFGrid
        Transform of the PSF for the renderer.
    """

    settings: GalaxySettings
    noiseless: npt.NDArray[np.float64]
    cutouts: Cutouts
    truth: dict[str, float]
    bound: npt.NDArray[np.float64]
    psf_grid: PSFGrid

    @property
    def snr(self) -> float:
        """Signal-to-noise ratio over the noise of the background, by which the study chose its galaxies."""
        return float(np.sqrt(np.sum(self.noiseless**2)) / self.settings.sigma)

    @property
    def snr_total(self) -> float:
        """Signal-to-noise ratio over all noise, that of the galaxy's own light included."""
        variance = self.settings.sigma**2 + np.maximum(self.noiseless, 0.0) / GAIN
        return float(np.sqrt(np.sum(self.noiseless**2 / variance)))

    @property
    def bounds(self) -> dict[str, float]:
        """Smallest error of an unbiased estimator for each parameter."""
        return dict(zip(PARAMETER_NAMES, np.sqrt(np.diagonal(self.bound)).tolist(), strict=True))

    def model_image(self, values: Mapping[str, float]) -> npt.NDArray[np.float64]:
        """Draw a Sersic galaxy through the PSF of the stamp.

        Parameters
        ----------
        values : mapping of str to float
            The seven parameters in the units of a result table.

        Returns
        -------
        ndarray
            Image in adu, shape ``(64, 64)``.
        """
        return _render(_in_pixels(values, 1), self.psf_grid)[0]


def draw_galaxy(settings: GalaxySettings, seed: int = 0) -> DrawnGalaxy:
    """Draw a galaxy in the middle of a stamp, and its noise.

    Parameters
    ----------
    settings : GalaxySettings
        Galaxy, PSF and noise.
    seed : int, optional
        Seed of the noise: with the same seed its pattern stays as the galaxy changes. Default 0.

    Returns
    -------
    DrawnGalaxy
        Stamp with its truth and its bounds.

    Examples
    --------
    >>> from galmeasure.app.drawing import draw_galaxy
    >>> from galmeasure.app.sliders import GalaxySettings
    >>> settings = GalaxySettings(psf_fwhm=0.5, r_eff=0.3, n=3, q=0.72, theta=57, sigma=200, flux=1e5)
    >>> print(f"{draw_galaxy(settings).snr:.0f}")
    60
    """
    from galmeasure.fitters.threads import single_threaded

    g1, g2 = settings.shear
    middle = (STAMP_SIZE - 1) / 2.0
    truth = {"flux": settings.flux, "n": settings.n, "r_eff": settings.r_eff, "g1": g1, "g2": g2}
    truth |= {"x": middle, "y": middle}
    with single_threaded():
        images, psf_images, grid = draw_stamps(truth, [settings.psf_fwhm])
        noisy = add_noise(images[0], settings.sigma, np.random.default_rng(seed))
        cutouts = make_cutouts(noisy, psf_images[0], settings.sigma)
        bound = _bound(truth, grid, settings.sigma)
    return DrawnGalaxy(settings, images[0], cutouts, truth, bound, grid)


def draw_stamps(
    values: Mapping[str, npt.ArrayLike], psf_fwhm: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], PSFGrid]:
    """Draw galaxies without noise, each through its own Moffat PSF.

    Parameters
    ----------
    values : mapping of str to array_like
        The seven parameters in the units of a result table, each a number or of shape ``(N,)``.
    psf_fwhm : array_like
        Full width at half maximum of each PSF in arcsec, shape ``(N,)``; one for all galaxies if N is 1.

    Returns
    -------
    images : ndarray
        Stamps in adu, shape ``(B, 64, 64)``.
    psf_images : ndarray
        Images of the PSFs with the pixel's response, shape ``(N, 63, 63)``; their sums are the light within them.
    grid : PSFGrid
        Transforms of the PSFs.
    """
    import torch

    from galmeasure.simulation.psfs import moffat_shapes, psfs_of_shapes

    widths = torch.tensor(np.atleast_1d(psf_fwhm) / PIXEL_SCALE, dtype=torch.float32)
    count = max(len(widths), *(np.size(value) for value in values.values()))
    with torch.inference_mode():
        shapes = moffat_shapes(widths, MOFFAT_BETA)
        psfs = psfs_of_shapes(shapes, (STAMP_SIZE, STAMP_SIZE), families=("moffat",), ends=False)
        index = torch.arange(count) if len(widths) > 1 else torch.zeros(count, dtype=torch.long)
    return _render(_in_pixels(values, count), psfs.grid, index), psfs.images.double().numpy(), psfs.grid


def add_noise(
    noiseless: npt.NDArray[np.float64], sigma: npt.ArrayLike, generator: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Add Gaussian noise and the Poisson noise of the light.

    Parameters
    ----------
    noiseless : ndarray
        Stamps in adu, shape ``(..., ny, nx)``.
    sigma : array_like
        1-sigma Gaussian noise of a pixel in adu; broadcasts to the shape of the stamps.
    generator : numpy.random.Generator
        Generator of the random numbers.

    Returns
    -------
    ndarray
        Noisy stamps.
    """
    background = sigma * generator.standard_normal(noiseless.shape)  # first, so that it does not depend on the light
    return generator.poisson(np.maximum(noiseless, 0.0) * GAIN) / GAIN + background


def make_cutouts(images: npt.NDArray[np.float64], psf_images: npt.NDArray[np.float64], sigma: npt.ArrayLike) -> Cutouts:
    """Put stamps, PSFs and errors together, as estimators take them.

    Parameters
    ----------
    images : ndarray
        Noisy stamps in adu, shape ``(ny, nx)`` or ``(B, ny, nx)``.
    psf_images : ndarray
        PSF images whose sums are the light within them, one or one for each stamp.
    sigma : array_like
        1-sigma Gaussian noise of a pixel in adu, one or one for each stamp.

    Returns
    -------
    Cutouts
        Cutouts in adu with pixel scale and gain.
    """
    from astropy import units as u

    error = np.asarray(sigma, dtype=float) * u.adu
    return Cutouts(images * u.adu, psf_images, psf_flux="sum", error=error, gain=GAIN, pixel_scale=PIXEL_SCALE)


def _in_pixels(values, count):
    """Tensor ``(count, 7)`` of parameters in pixels."""
    import torch

    numbers = np.empty((count, N_PARAMETERS))
    for name in PARAMETER_NAMES:
        numbers[:, SERSIC.index(name)] = np.asarray(values[name]) / _scale(name)
    return torch.from_numpy(numbers).float()


def _scale(name):
    """Table units per unit of the stamp."""
    return PIXEL_SCALE if name == "r_eff" else 1.0


def _render(parameters, grid, index=None):
    """Images ``(B, 64, 64)`` of parameters in pixels."""
    import torch

    from galmeasure.render import render_sersic

    with torch.inference_mode():
        return render_sersic(parameters, grid, index).double().numpy()


def _bound(truth, grid, sigma):
    """Covariance of the Cramer-Rao bound in table units."""
    import torch

    from galmeasure.likelihood import fisher_matrix, invert_information

    with torch.inference_mode():
        error = torch.full((1, STAMP_SIZE, STAMP_SIZE), float(sigma))
        fisher = fisher_matrix(_in_pixels(truth, 1), grid, error, gain=torch.tensor([GAIN]))
        covariance = invert_information(fisher)[0].numpy()
    scale = np.array([_scale(name) for name in PARAMETER_NAMES])
    return covariance * scale[:, None] * scale
