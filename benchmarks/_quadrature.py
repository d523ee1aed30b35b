"""Sersic galaxies convolved with a PSF and the pixel by direct quadrature in real space: no Fourier transform at all.

The galaxy is a sum of points on ellipses, by a trapezoid rule that converges exponentially. The PSF is a sum of
Gaussians, and each Gaussian averaged over a pixel is a product of two differences of error functions, so that the
whole image is a sum of outer products. Nothing is truncated, wraps around or has a cusp.
"""

import numpy as np
from scipy.special import erf, gammainc, gammaincinv, gammaln

_CHUNK = 200_000


def gaussian_mixture(kind, fwhm, beta=2.0, n_nodes=24):
    """Standard deviations and weights of the Gaussians whose sum is the PSF.

    Parameters
    ----------
    kind : {"gaussian", "moffat"}
        A Moffat profile is a mixture of Gaussians over a gamma distribution of their inverse variances.
    fwhm : float
        In pixels.
    beta : float, optional
        Of the Moffat profile.
    n_nodes : int, optional
        Nodes of the mixture.

    Returns
    -------
    sigma, weight : ndarray
        Weights sum to 1.
    """
    if kind == "gaussian":
        return np.array([fwhm / np.sqrt(8 * np.log(2))]), np.ones(1)
    scale = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
    # (1 + r^2/s^2)^-beta = int t^(beta-1) exp(-t (1 + r^2/s^2)) dt / Gamma(beta), by the trapezoid rule in log t
    log_t = np.linspace(np.log(1e-5), np.log(40.0), n_nodes)
    t = np.exp(log_t)
    weight = t ** (beta - 1) * np.exp(-t)  # the flux of each Gaussian takes t^-1, d log t gives t
    return scale / np.sqrt(2 * t), weight / weight.sum()


def _rings(n, r_eff, spacing, reach):
    """Radii in pixels and light of rings: a trapezoid rule that is even in log r inside and in r out to ``reach``.

    The rule converges exponentially; farther out, light is put into logarithmic bins.
    """
    b = gammaincinv(2 * n, 0.5)
    scale = 2 * spacing
    u = np.arange(np.log(1e-7 / scale), reach / scale + 0.25, 0.5)
    radius = scale * np.logaddexp(0.0, u)
    profile = np.exp(2 * n * np.log(b) - gammaln(2 * n) - b * (radius / r_eff) ** (1 / n)) / (2 * np.pi * n * r_eff**2)
    light = 2 * np.pi * radius * profile * scale / (1 + np.exp(-u)) * 0.5
    light[-1] *= 0.5
    far = np.geomspace(radius[-1], max(r_eff * (45.0 / b) ** n, 1.1 * radius[-1]), 40)
    light_far = np.diff(gammainc(2 * n, b * (far / r_eff) ** (1 / n)))
    radius = np.concatenate([radius, np.sqrt(far[1:] * far[:-1])])
    light = np.concatenate([light, light_far])
    kept = light > 1e-15
    return radius[kept], light[kept]


def _points(parameters, spacing, reach):
    """Points x, y and their light."""
    _, n, r_eff, g1, g2, x0, y0 = parameters
    g = np.hypot(g1, g2)
    stretch = np.sqrt((1 + g) / (1 - g))
    radius, light = _rings(n, r_eff, spacing / stretch, reach * stretch)
    count = np.clip(np.ceil(2 * np.pi * np.minimum(radius, reach) * stretch / spacing), 16, None).astype(int)
    ring = np.repeat(np.arange(len(radius)), count)
    start = np.concatenate([[0], np.cumsum(count)[:-1]])
    turn = (np.arange(len(ring)) - start[ring] + 0.5 * (ring % 2)) / count[ring] * 2 * np.pi
    along, across = radius[ring] * np.cos(turn) * stretch, radius[ring] * np.sin(turn) / stretch
    angle = 0.5 * np.arctan2(g2, g1)
    x = x0 + along * np.cos(angle) - across * np.sin(angle)
    y = y0 + along * np.sin(angle) + across * np.cos(angle)
    return x, y, light[ring] / count[ring]


def _pixel_average(position, side, sigma):
    """Gaussian averaged over the pixels of a line, shape ``(side, points)``."""
    edges = erf((np.arange(side + 1)[:, None] - 0.5 - position) / (np.sqrt(2) * sigma))
    return 0.5 * np.diff(edges, axis=0)


def quadrature_image(parameters, psf, shape, spacing=0.5):
    """Noiseless image of a galaxy.

    Parameters
    ----------
    parameters : array_like, shape (7,)
        flux, n, r_eff, g1, g2, x, y in pixels.
    psf : tuple of ndarray
        From `gaussian_mixture`.
    shape : tuple of int
        ny, nx.
    spacing : float, optional
        Between points, in pixels; halve it to see that it is enough.

    Returns
    -------
    ndarray, shape (ny, nx)
        Flux per pixel.
    """
    ny, nx = shape
    x, y, light = _points(parameters, spacing, 0.75 * max(shape))
    image = np.zeros(shape)
    for sigma, weight in zip(*psf, strict=True):
        margin = 6 * sigma + 2
        near = (x > -margin) & (x < nx + margin) & (y > -margin) & (y < ny + margin)
        for rows in np.array_split(np.flatnonzero(near), max(1, near.sum() // _CHUNK)):
            across = _pixel_average(x[rows], nx, sigma)
            image += weight * (_pixel_average(y[rows], ny, sigma) * light[rows]) @ across.T
    return parameters[0] * image
