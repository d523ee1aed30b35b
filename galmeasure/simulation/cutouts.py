"""Simulated stamps of the training as cutouts, for the fitters."""

import numpy as np
import torch

from galmeasure.cutouts import Cutouts
from galmeasure.simulation.stamps import simulate_stamps

__all__ = ["simulate_cutouts"]

_NO_SHOT_NOISE = 1e12  # electrons per unit


def simulate_cutouts(config, count, *, seed=0, chunk=2048):
    """Simulate galaxies as networks are trained on, chunk by chunk.

    Parameters
    ----------
    config : SimulationConfig
        What the stamps are like.
    count : int
        How many.
    seed : int, optional
        They are a function of it, and of ``chunk``.
    chunk : int, optional
        Galaxies in a chunk.

    Yields
    ------
    cutouts : Cutouts
        Images in units of the noise.
    parameters : ndarray
        Their truth, in these units and in pixels, shape ``(chunk, 7)``.

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
