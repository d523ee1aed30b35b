"""Rows of a simulated data set, drawn with GalSim: a block at a time, the same whoever draws it."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from galmeasure.render.profiles import TABLE_LOG_K, TABLE_LOG_N, load_table
from galmeasure.results.columns import TRUE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    import numpy.typing as npt

    from galmeasure.simulation.galsim.config import DatasetConfig

__all__ = ["BLOCK_ROWS", "block_rows", "draw_psf", "import_galsim", "row_type"]

BLOCK_ROWS = 50
"""Rows that share a random generator, and are drawn by one process at a time."""

_CANDIDATES = 128  # drawn at once by the random generator, before the cut
_MOST_TRIED, _MOST_DRAWN = 100_000, 3_000  # candidates and stamps in search of one galaxy within the cut
_MARGIN = 0.02  # of the estimate of the S/N by which candidates are left out before they are drawn
_PSF_ACCURACY = (("folding_threshold", 2e-4), ("maxk_threshold", 1e-4))  # its wings are extrapolated when it is read


def import_galsim() -> ModuleType:
    """Import GalSim.

    Returns
    -------
    module
        GalSim, if it is installed.

    Raises
    ------
    ImportError
        If it is not there; the message says how to get it.
    """
    try:
        import galsim
    except ImportError as err:
        msg = "GalSim is needed to simulate data sets and is not installed; the extra 'train' has it"
        raise ImportError(msg) from err
    return galsim


def row_type(config: DatasetConfig, noiseless: bool) -> np.dtype:
    """Return the type of a row: the columns of the table in order, stamps in single precision.

    Parameters
    ----------
    config : DatasetConfig
        Configuration of the data set.
    noiseless : bool
        True if rows have the stamp without noise.

    Returns
    -------
    numpy.dtype
        Structured type of a row.
    """
    stamp = ("f4", (config.stamp_size, config.stamp_size))
    columns = [("id", "i8"), ("cutout", *stamp), ("error", "f8")]
    if not config.shared_psf:
        side = config.psf_size * config.psf_oversampling
        columns.append(("psf", "f4", (side, side)))
    if noiseless:
        columns.append(("noiseless", *stamp))
    truth = ("flux", "n", "r_eff", "g1", "g2", "x", "y", "snr", "snr_total", "psf_fwhm", "sigma")
    return np.dtype(columns + [(TRUE.format(name), "f8") for name in truth])


def block_rows(config: DatasetConfig, seed: int, block: int, count: int, noiseless: bool = False) -> np.ndarray:
    """Draw the first rows of a block.

    Parameters
    ----------
    config : DatasetConfig
        Configuration of the data set.
    seed : int
        Seed of the data set.
    block : int
        Number of the block, from 0; row r of the data set is in block ``r // BLOCK_ROWS``.
    count : int
        Number of rows, at most `BLOCK_ROWS`; they do not depend on how many there are.
    noiseless : bool, optional
        True if the rows have the stamp without noise. Default False.

    Returns
    -------
    ndarray
        Structured array of the type `row_type`.

    Raises
    ------
    ValueError
        If no galaxy lies within the cut in S/N.
    """
    parameters, noise = (
        np.random.Generator(np.random.PCG64(s)) for s in np.random.SeedSequence(seed, spawn_key=(block,)).spawn(2)
    )
    rows = np.zeros(count, row_type(config, noiseless))
    rows["id"] = block * BLOCK_ROWS + 1 + np.arange(count)
    for row, (truth, image) in zip(rows, _galaxies(config, parameters), strict=False):
        _fill(row, config, truth, image, noise)
    return rows


def _galaxies(config, rng):
    """Truth and noiseless stamp of one galaxy within the cut after the other, without end."""
    tried = drawn = 0
    while True:
        candidates = _draw_candidates(config, rng)
        tried += len(candidates["n"])
        for i in np.flatnonzero(_may_pass(config, candidates)):
            truth = {name: float(values[i]) for name, values in candidates.items()}
            image = _draw_galaxy(config, tuple(truth[name] for name in _DRAWN))
            drawn += 1
            truth["snr"] = math.sqrt(np.sum(image**2)) / truth["sigma"]
            if config.snr[0] <= truth["snr"] <= config.snr[1]:
                yield truth, image
                tried = drawn = 0
        if tried >= _MOST_TRIED or drawn >= _MOST_DRAWN:
            msg = f"snr: none of {tried} galaxies lies within {config.snr[0]:g} to {config.snr[1]:g}"
            raise ValueError(msg)


def _fill(row, config, truth, image, rng):
    """One row: noise and truth."""
    light = np.maximum(image, 0.0)
    truth["snr_total"] = math.sqrt(np.sum(image**2 / (truth["sigma"] ** 2 + light / config.gain)))
    noise = rng.normal(0.0, truth["sigma"], image.shape)
    row["cutout"] = rng.poisson(light * config.gain) / config.gain + noise
    row["error"] = truth["sigma"]
    if "psf" in row.dtype.names:
        row["psf"] = draw_psf(config, truth["psf_fwhm"])
    if "noiseless" in row.dtype.names:
        row["noiseless"] = image
    for name, value in truth.items():
        row[TRUE.format(name)] = value


def _draw_candidates(config, rng):
    """Parameters of galaxies before the cut: arrays by name."""
    count = _CANDIDATES

    def uniform(name, size=count):
        lower, upper = getattr(config, name)
        if name in config.logarithmic:
            return np.clip(np.exp(rng.uniform(math.log(lower), math.log(upper), size)), lower, upper)
        return rng.uniform(lower, upper, size)

    values = {"n": np.repeat(uniform("n", -(-count // config.share_n)), config.share_n)[:count]}
    for name in ("r_eff", "flux", "psf_fwhm", "sigma"):
        values[name] = uniform(name)
    shear, angle = uniform("g"), rng.uniform(0.0, 2.0 * np.pi, count)
    values["g1"] = shear * np.cos(angle) if config.g1 is None else np.full(count, config.g1)
    values["g2"] = shear * np.sin(angle) if config.g2 is None else np.full(count, config.g2)
    for name in ("x", "y"):
        values[name] = (config.stamp_size - 1) / 2 + rng.uniform(-config.centre, config.centre, count)
    return values


_DRAWN = ("flux", "n", "r_eff", "g1", "g2", "x", "y", "psf_fwhm")


@lru_cache(maxsize=1)
def _draw_galaxy(config, values):
    """Noiseless stamp of parameters in the order of `_DRAWN`; a fixed galaxy is drawn once."""
    galsim = import_galsim()
    flux, n, r_eff, g1, g2, x, y, fwhm = values
    galaxy = galsim.Sersic(n, half_light_radius=r_eff).withFlux(flux).shear(g1=g1, g2=g2)
    centre = (config.stamp_size - 1) / 2
    image = galsim.Convolve(galaxy, _profile(config, fwhm)).drawImage(
        nx=config.stamp_size,
        ny=config.stamp_size,
        scale=config.pixel_scale,
        offset=(x - centre, y - centre),
        dtype=float,
    )
    image.array.flags.writeable = False
    return image.array


@lru_cache(maxsize=4)
def _profile(config, fwhm, accuracy=None):
    """GalSim object of the PSF, without the pixel."""
    galsim = import_galsim()
    options = {} if accuracy is None else {"gsparams": galsim.GSParams(maximum_fft_size=2**14, **dict(accuracy))}
    if config.psf == "gaussian":
        return galsim.Gaussian(fwhm=fwhm, **options)
    if config.psf == "kolmogorov":
        return galsim.Kolmogorov(fwhm=fwhm, **options)
    return galsim.Moffat(beta=config.beta, fwhm=fwhm, **options)


def draw_psf(config: DatasetConfig, fwhm: float) -> npt.NDArray[np.float32]:
    """Draw the image of a PSF with the response of the pixel.

    Parameters
    ----------
    config : DatasetConfig
        Configuration with the profile and the sampling.
    fwhm : float
        Width of the PSF without the pixel, arcsec.

    Returns
    -------
    ndarray
        Image in single precision, whose sum is the fraction of the light within it.
    """
    galsim = import_galsim()
    side = config.psf_size * config.psf_oversampling
    pixel = galsim.Pixel(config.pixel_scale)
    effective = galsim.Convolve(_profile(config, fwhm, _PSF_ACCURACY), pixel)
    step = config.pixel_scale / config.psf_oversampling
    return effective.drawImage(nx=side, ny=side, scale=step, method="no_pixel", dtype=float).array.astype(np.float32)


def _may_pass(config, values):
    """Candidates that the cut may keep, judged by an estimate of their S/N.

    Drawing is what takes long, and half of the study's candidates are too bright. What is left out here is out of the
    cut by more than the estimate can be wrong; the others are judged by their stamps. Where the estimate does not hold
    (an under-sampled PSF, light beyond the stamp) all are drawn.
    """
    shear = max(config.g[1], 0.0) if config.g1 is None else math.hypot(config.g1, config.g2)
    reach = config.r_eff[1] * math.sqrt((1 + shear) / (1 - shear))
    room = config.stamp_size * config.pixel_scale / 8
    holds = config.psf_fwhm[0] >= 1.8 * config.pixel_scale and config.centre <= config.stamp_size / 8
    if not holds or max(reach, config.psf_fwhm[1]) > room:
        return np.ones(len(values["n"]), bool)
    snr = estimate_snr(config, values)
    return (snr >= config.snr[0] * (1 - _MARGIN)) & (snr <= config.snr[1] * (1 + _MARGIN))


def estimate_snr(config: DatasetConfig, values: Mapping[str, npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """Estimate S/N over the noise of the background from the transforms of galaxy, PSF and pixel (Parseval).

    Parameters
    ----------
    config : DatasetConfig
        Configuration of the data set.
    values : dict of str to ndarray
        Parameters of the galaxies, each of shape ``(N,)``.

    Returns
    -------
    ndarray, shape (N,)
        Estimated signal-to-noise ratios.
    """
    from scipy.ndimage import map_coordinates

    log_k = np.linspace(math.log(1e-3), math.log(5.0), 60)  # radians per pixel
    k, angle = np.exp(log_k), (np.arange(12) + 0.5) * np.pi / 24
    shear = np.hypot(values["g1"], values["g2"])
    stretch = np.sqrt((1 + shear) / (1 - shear))[:, None]
    size = (values["r_eff"] / config.pixel_scale)[:, None, None]
    kappa = size * k[:, None] * np.hypot(stretch * np.cos(angle), np.sin(angle) / stretch)[:, None, :]
    at_n = (np.log(values["n"]) - TABLE_LOG_N[0]) / (TABLE_LOG_N[1] - TABLE_LOG_N[0]) + 1
    at_k = (np.log(kappa) - TABLE_LOG_K[0]) / (TABLE_LOG_K[1] - TABLE_LOG_K[0]) + 1
    where = np.broadcast_arrays(at_n[:, None, None], np.clip(at_k, 1, len(TABLE_LOG_K)))
    power = np.mean(map_coordinates(load_table(), where, order=3, prefilter=False, mode="nearest") ** 2, 2)
    widths, (table_k, table) = values["psf_fwhm"] / config.pixel_scale, _psf_transform(config.psf, config.beta)
    psf = np.interp(k * widths[:, None], table_k, table)
    integrand = power * (psf * np.sinc(k / (2 * np.pi) / math.sqrt(2)) ** 2) ** 2 * k**2
    sum_of_squares = integrand.sum(1) * (log_k[1] - log_k[0]) / (2 * np.pi)
    return values["flux"] * np.sqrt(sum_of_squares) / values["sigma"]


@lru_cache(maxsize=4)
def _psf_transform(psf, beta):
    """Transform of the PSF of unit width on a grid of wavenumbers."""
    from galmeasure.simulation.galsim.config import DatasetConfig

    profile = _profile(DatasetConfig(psf=psf, beta=beta), 1.0)
    k = np.linspace(0.0, 40.0, 400)
    return k, np.array([profile.kValue(value, 0.0).real for value in k])
