"""Simulated stamps of the training as cutouts that fitters measure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from galmeasure.cutouts import Cutouts
from galmeasure.simulation.stamps import SimulationConfig, simulate_stamps

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

__all__ = ["simulate_cutouts"]

_NO_SHOT_NOISE = 1e12  # electrons per unit: shot noise is then far below that of the background


def simulate_cutouts(
    config: SimulationConfig, count: int, *, seed: int = 0, chunk: int = 2048
) -> Iterator[tuple[Cutouts, npt.NDArray[np.float64]]]:
    """Simulate galaxies like those of the training, chunk by chunk.

    Parameters
    ----------
    config : SimulationConfig
        Distributions of galaxies, PSFs, noise and masks.
    count : int
        Number of galaxies to simulate.
    seed : int, optional
        Seed of the random numbers; the galaxies depend on it and on ``chunk``. Default 0.
    chunk : int, optional
        Number of galaxies in a chunk. Default 2048.

    Yields
    ------
    cutouts : Cutouts
        Cutouts of a chunk, images in units of the noise.
    parameters : ndarray
        True parameters, in these units and in pixels, shape ``(chunk, 7)``.

    Examples
    --------
    >>> from galmeasure.training import SimulationConfig, simulate_cutouts
    >>> for cutouts, parameters in simulate_cutouts(SimulationConfig(), 12, chunk=8):
    ...     print(len(cutouts), parameters.shape)
    8 (8, 7)
    4 (4, 7)
    """
    if count < 1 or chunk < 1:
        msg = f"count and chunk must be at least 1, not {count} and {chunk}"
        raise ValueError(msg)
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, count, chunk):
        stamps = simulate_stamps(config, min(chunk, count - start), generator=generator)
        psf = stamps.psf_images.numpy()[stamps.psf_index.numpy()]
        gain = np.minimum(stamps.gain.numpy().astype(float), _NO_SHOT_NOISE)
        options = {"error": stamps.error.numpy(), "mask": ~stamps.good.numpy(), "gain": gain}
        yield Cutouts(stamps.image.numpy(), psf, **options), stamps.parameters.double().numpy()
