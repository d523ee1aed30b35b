"""A pool of simulated stamps that training draws from: each is seen a few times, with fresh noise and orientation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from galmeasure.networks import CLEANING_SIZE, StampInputs, clean_psfs, network_psfs
from galmeasure.networks.inputs import turned_inputs
from galmeasure.networks.psf_cleaning import N_PSF_QUALITY
from galmeasure.parameters import PARAMETER_INDEX
from galmeasure.simulation.stamps import SimulationConfig, add_noise, simulate_expected

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["StampPool", "orient", "training_psfs"]

_X, _Y = PARAMETER_INDEX["x"], PARAMETER_INDEX["y"]
_G1, _G2 = PARAMETER_INDEX["g1"], PARAMETER_INDEX["g2"]
_FIELDS = ("expected", "error", "good", "electrons", "shot_noise_in_error_map", "smoothed", "parameters")
_CHUNKS = 4  # of a batch, each in another orientation: enough to mix the eight over a few steps


def orient(inputs: StampInputs, parameters: torch.Tensor, element: int) -> tuple[StampInputs, torch.Tensor]:
    """Turn and flip stamps, PSFs and parameters by one of the eight symmetries of a square.

    Parameters
    ----------
    inputs : StampInputs
        Square stamps and their PSFs.
    parameters : Tensor
        Parameters of the galaxies, shape ``(B, 7)``.
    element : int
        Number of the symmetry, 0 to 7: bit 0 exchanges x and y, bit 1 flips x, bit 2 flips y.

    Returns
    -------
    inputs : StampInputs
        Turned stamps and PSFs.
    parameters : Tensor
        Parameters of the turned galaxies, shape ``(B, 7)``.
    """
    parameters = parameters.clone()
    if element & 1:
        parameters[:, [_X, _Y]] = parameters[:, [_Y, _X]]
        parameters[:, _G1] *= -1.0
    for bit, axis, column in ((2, -1, _X), (4, -2, _Y)):
        if element & bit:
            parameters[:, column] = inputs.image.shape[axis] - 1.0 - parameters[:, column]
            parameters[:, _G2] *= -1.0
    return turned_inputs(inputs, element), parameters


def training_psfs(images: torch.Tensor, clean: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Convert simulated PSF images to the form in which a network takes them.

    Parameters
    ----------
    images : Tensor
        Simulated images ``(M, S, S)``, odd side, the star on the central pixel.
    clean : bool
        True if the network takes PSFs that were cleaned.

    Returns
    -------
    images : Tensor
        Images of the network, shape ``(M, 33, 33)``.
    quality : Tensor
        Quality of the images, shape ``(M, 3)``; zero where they are not cleaned.
    """
    if not clean:
        images = network_psfs(images)
        return images, images.new_zeros((len(images), N_PSF_QUALITY))
    cleaned = clean_psfs(network_psfs(images, size=CLEANING_SIZE))
    return cleaned.central, cleaned.quality


class StampPool:
    """Stamps without noise, the oldest of which are replaced as training goes on.

    Parameters
    ----------
    config : SimulationConfig
        Distributions of galaxies, PSFs, noise and masks.
    capacity : int
        Number of stamps in the pool, a multiple of ``piece``.
    reuse : float
        Mean number of times that a stamp is drawn before it is replaced.
    seed : int
        Seed of all random numbers. Default 0.
    piece : int
        Number of stamps simulated at once. Default 64.
    clean_psf : bool
        True if the network takes PSFs that were cleaned.
    device : str
        Torch device on which stamps are simulated and kept.

    Notes
    -----
    Piece number ``i`` is a function of the seed and ``i``, so that `load_state` can simulate the pool again.
    """

    def __init__(
        self,
        config: SimulationConfig,
        *,
        capacity: int = 8192,
        reuse: float = 4.0,
        seed: int = 0,
        piece: int = 64,
        clean_psf: bool = True,
        device: str = "cpu",
    ):
        if capacity % piece:
            msg = f"capacity must be a multiple of piece = {piece}, not {capacity}"
            raise ValueError(msg)
        self.config, self.capacity, self.reuse, self.piece = config, capacity, reuse, piece
        self.device, self.seed, self.clean_psf = device, seed, clean_psf
        self.generator = self._generator(0)
        self._pieces = 0
        self._stamps_due = 0.0
        self._store = None

    @property
    def simulated(self) -> int:
        """Number of stamps simulated so far."""
        return self._pieces * self.piece

    def fill(self) -> Iterator[int]:
        """Fill the pool.

        Yields
        ------
        int
            Number of stamps in the pool, after each simulated piece.
        """
        while self.simulated < self.capacity:
            self._add()
            yield self.simulated

    def draw(self, count: int) -> tuple[StampInputs, torch.Tensor]:
        """Draw a batch with fresh noise and orientation, and replace old stamps.

        Parameters
        ----------
        count : int
            Number of stamps in the batch.

        Returns
        -------
        inputs : StampInputs
            Stamps with noise, as a network takes them.
        parameters : Tensor
            True parameters, shape ``(count, 7)``.
        """
        self._stamps_due += count / self.reuse
        while self._stamps_due >= self.piece:
            self._add()
            self._stamps_due -= self.piece
        rows = torch.randint(self.capacity, (count,), generator=self.generator, device=self.device)
        elements = torch.randint(8, (_CHUNKS,), generator=self.generator, device=self.device).tolist()
        chunks = [self._observe(chunk, element) for chunk, element in zip(rows.chunk(_CHUNKS), elements, strict=False)]
        names = "image", "error", "good", "gain", "psf", "psf_quality", "noiseless"
        *joined, quality, noiseless = (torch.cat([getattr(inputs, name) for inputs, _ in chunks]) for name in names)
        index = torch.arange(count, device=self.device)
        return StampInputs(*joined, index, quality, noiseless), torch.cat([parameters for _, parameters in chunks])

    def state(self) -> dict[str, object]:
        """Return numbers from which `load_state` makes the pool again, for a checkpoint."""
        return {"pieces": self._pieces, "owed": self._stamps_due, "generator": self.generator.get_state()}

    def load_state(self, state: dict[str, object]) -> Iterator[int]:
        """Simulate the pool of a checkpoint again.

        Parameters
        ----------
        state : dict
            Numbers that `state` returned.

        Yields
        ------
        int
            Number of stamps in the pool, after each simulated piece.
        """
        self._pieces = max(0, int(state["pieces"]) - self.capacity // self.piece)
        for done in range(int(state["pieces"]) - self._pieces):
            self._add()
            yield (done + 1) * self.piece
        self._stamps_due = float(state["owed"])
        self.generator.set_state(state["generator"])

    def _generator(self, number):
        seed = np.random.SeedSequence([self.seed, number]).generate_state(1, np.uint32)[0]
        return torch.Generator(self.device).manual_seed(int(seed))

    def _observe(self, rows, element):
        *maps, parameters = (self._store[name][rows] for name in _FIELDS)
        image, error, gain = add_noise(*maps, self.generator)
        index = torch.arange(len(rows), device=self.device)
        psf, quality = (self._store[name][rows] for name in ("psf", "psf_quality"))
        return orient(StampInputs(image, error, maps[2], gain, psf, index, quality, maps[0]), parameters, element)

    def _add(self):
        """Simulate one piece into the place of the oldest."""
        with torch.inference_mode():
            generator = self._generator(self._pieces + 1)
            stamps = simulate_expected(self.config, self.piece, generator=generator, device=self.device)
            psf, quality = training_psfs(stamps.psf_images, self.clean_psf)
            tensors = {name: getattr(stamps, name) for name in _FIELDS}
            tensors |= {"psf": psf[stamps.psf_index], "psf_quality": quality[stamps.psf_index]}
        if self._store is None:
            self._store = {
                name: torch.empty((self.capacity, *tensor.shape[1:]), dtype=tensor.dtype, device=self.device)
                for name, tensor in tensors.items()
            }
        start = (self._pieces * self.piece) % self.capacity
        for name, tensor in tensors.items():
            self._store[name][start : start + self.piece] = tensor
        self._pieces += 1
