"""Galaxies of the study's data sets, drawn with the package's own renderer: quick, and without GalSim."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from galmeasure.app.drawing import GAIN, STAMP_SIZE, add_noise, draw_stamps, make_cutouts
from galmeasure.parameters import PARAMETER_NAMES
from galmeasure.simulation.galsim.config import DatasetConfig, get_dataset_config
from galmeasure.utils.chunks import chunk_size

if TYPE_CHECKING:
    import numpy.typing as npt

    from galmeasure.cutouts import Cutouts

__all__ = ["STUDY_SETS", "StudyGalaxies", "describe_set", "draw_study_galaxies"]

STUDY_SETS = ("1", "2", "3")
"""Names of the study's data sets."""


@dataclass(frozen=True, eq=False)
class StudyGalaxies:
    """Galaxies of one of the study's data sets.

    Parameters
    ----------
    name : str
        Name of the data set.
    truth : dict of str to ndarray
        The seven parameters, and ``psf_fwhm`` (arcsec), ``sigma`` (adu), ``snr`` over the noise of the background and
        ``snr_total`` over all noise; each of shape ``(N,)``.
    cutouts : Cutouts
        Noisy stamps with their PSFs and errors.
    """

    name: str
    truth: dict[str, npt.NDArray[np.float64]]
    cutouts: Cutouts

    def __len__(self) -> int:
        """Number of galaxies."""
        return len(self.cutouts)


def describe_set(name: str) -> str:
    """Describe a data set in one sentence.

    Parameters
    ----------
    name : str
        Name of the data set, one of `STUDY_SETS`.

    Returns
    -------
    str
        Ranges of PSF and noise.
    """
    config = get_dataset_config(name)
    fwhm = _range_text(config.psf_fwhm, "arcsec")
    return f"Set {name}: PSF FWHM {fwhm}, noise {_range_text(config.sigma, 'adu')}"


def draw_study_galaxies(name: str, count: int, seed: int = 0) -> StudyGalaxies:
    """Draw galaxies of one of the study's data sets.

    Parameters
    ----------
    name : str
        Name of the data set, one of `STUDY_SETS`.
    count : int
        Number of galaxies that are drawn.
    seed : int, optional
        Seed of the random numbers. Default 0.

    Returns
    -------
    StudyGalaxies
        Galaxies that pass the study's cut in signal-to-noise ratio.

    Raises
    ------
    ValueError
        If there is no such data set, or ``count`` is below 1.

    Examples
    --------
    >>> from galmeasure.app.study_sets import draw_study_galaxies
    >>> len(draw_study_galaxies("1", 5))
    5
    """
    from galmeasure.fitters.threads import single_threaded

    if name not in STUDY_SETS:
        msg = f"name must be one of {', '.join(STUDY_SETS)}, not {name!r}"
        raise ValueError(msg)
    if count < 1:
        msg = f"count must be at least 1, not {count}"
        raise ValueError(msg)
    config, generator = get_dataset_config(name), np.random.default_rng(seed)
    chunks, n_kept = [], 0
    with single_threaded():
        while n_kept < count:
            chunks.append(_draw_chunk(config, generator))
            n_kept += len(chunks[-1][1])
    truth = {key: np.concatenate([chunk[0][key] for chunk in chunks])[:count] for key in chunks[0][0]}
    images = np.concatenate([chunk[1] for chunk in chunks])[:count]
    psf_images = chunks[0][2][0] if config.shared_psf else np.concatenate([chunk[2] for chunk in chunks])[:count]
    noisy = add_noise(images, truth["sigma"][:, None, None], generator)
    return StudyGalaxies(name, truth, make_cutouts(noisy, psf_images, truth["sigma"]))


def _draw_chunk(config: DatasetConfig, generator):
    """Truth, noiseless stamps and PSF images of candidates that pass the cut."""
    truth = _candidates(config, generator)
    psf_fwhm = truth["psf_fwhm"][:1] if config.shared_psf else truth["psf_fwhm"]
    images, psf_images, _ = draw_stamps({key: truth[key] for key in PARAMETER_NAMES}, psf_fwhm)
    truth["snr"] = np.sqrt(np.sum(images**2, axis=(1, 2))) / truth["sigma"]
    variance = truth["sigma"][:, None, None] ** 2 + np.maximum(images, 0.0) / GAIN
    truth["snr_total"] = np.sqrt(np.sum(images**2 / variance, axis=(1, 2)))
    kept = (truth["snr"] >= config.snr[0]) & (truth["snr"] <= config.snr[1])
    psf_images = psf_images if config.shared_psf else psf_images[kept]
    return {key: values[kept] for key, values in truth.items()}, images[kept], psf_images


def _candidates(config, generator):
    """Parameters of galaxies before the cut: arrays by name."""
    count = chunk_size("study galaxies")
    truth = {key: generator.uniform(*getattr(config, key), count) for key in ("flux", "n", "r_eff")}
    shear, angle = generator.uniform(*config.g, count), generator.uniform(0.0, 2.0 * np.pi, count)
    truth |= {"g1": shear * np.cos(angle), "g2": shear * np.sin(angle)}
    truth |= dict.fromkeys(("x", "y"), np.full(count, (STAMP_SIZE - 1) / 2.0))
    return truth | {key: generator.uniform(*getattr(config, key), count) for key in ("psf_fwhm", "sigma")}


def _range_text(limits, unit):
    """Two numbers with their unit, or one where they are equal."""
    low, high = limits
    return f"{low:g} {unit}" if low == high else f"{low:g} to {high:g} {unit}"
