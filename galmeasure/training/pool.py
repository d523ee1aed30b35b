"""A pool of simulated stamps that training draws from: each is seen a few times, with fresh noise and orientation."""

import numpy as np
import torch

from galmeasure.networks import CLEANING_SIZE, StampInputs, clean_psfs, network_psfs
from galmeasure.networks.psf_cleaning import N_PSF_QUALITY
from galmeasure.parameters import PARAMETER_INDEX
from galmeasure.simulation.stamps import add_noise, simulate_expected

__all__ = ["StampPool", "orient", "training_psfs"]

_X, _Y = PARAMETER_INDEX["x"], PARAMETER_INDEX["y"]
_G1, _G2 = PARAMETER_INDEX["g1"], PARAMETER_INDEX["g2"]
_FIELDS = ("expected", "error", "good", "electrons", "hidden_gain", "smoothed", "parameters")
_CHUNKS = 4  # of a batch, each in an orientation of its own


def orient(inputs, parameters, element):
    """Turn and flip stamps, PSFs and parameters by one of the eight symmetries of a square.

    Parameters
    ----------
    inputs : StampInputs
        Square stamps.
    parameters : Tensor
        Shape ``(B, 7)``.
    element : int
        0 to 7: bit 0 exchanges x and y, bit 1 flips x, bit 2 flips y.

    Returns
    -------
    inputs : StampInputs
        New stamps.
    parameters : Tensor
        Their parameters.
    """
    parameters = parameters.clone()
    maps = [inputs.image, inputs.error.expand_as(inputs.image), inputs.good, inputs.psf]
    if element & 1:
        maps = [each.mT for each in maps]
        parameters[:, [_X, _Y]] = parameters[:, [_Y, _X]]
        parameters[:, _G1] *= -1.0
    for bit, axis, column in ((2, -1, _X), (4, -2, _Y)):
        if element & bit:
            maps = [each.flip(axis) for each in maps]
            parameters[:, column] = inputs.image.shape[axis] - 1.0 - parameters[:, column]
            parameters[:, _G2] *= -1.0
    image, error, good, psf = maps
    return StampInputs(image, error, good, inputs.gain, psf, inputs.psf_index, inputs.psf_quality), parameters


def training_psfs(images, clean):
    """PSF images ``(M, 33, 33)`` and their quality ``(M, 3)`` as a network takes them, from told images ``(M, S, S)``.

    Parameters
    ----------
    images : Tensor
        Images as the simulation tells them, odd side, the star on the central pixel.
    clean : bool
        Whether the network takes PSFs that were cleaned.
    """
    if not clean:
        images = network_psfs(images)
        return images, images.new_zeros((len(images), N_PSF_QUALITY))
    found = clean_psfs(network_psfs(images, size=CLEANING_SIZE))
    return found.central, found.quality


class StampPool:
    """Stamps without noise, the oldest of which are replaced as training goes on.

    Parameters
    ----------
    config : SimulationConfig
        What the stamps are like.
    capacity : int
        Stamps in the pool, a multiple of ``piece``.
    reuse : float
        How often each is seen, on average, before it is replaced.
    seed : int
        Of everything that is drawn.
    piece : int
        Stamps simulated at once.
    clean_psf : bool
        Whether the network takes PSFs that were cleaned.
    device : str
        Torch device on which stamps are simulated and kept.

    Notes
    -----
    Piece number ``i`` is a function of the seed and ``i``, so that `load_state` can simulate the pool again.
    """

    def __init__(self, config, *, capacity=8192, reuse=4.0, seed=0, piece=64, clean_psf=True, device="cpu"):
        if capacity % piece:
            msg = f"capacity must be a multiple of piece = {piece}, not {capacity}"
            raise ValueError(msg)
        self.config, self.capacity, self.reuse, self.piece = config, capacity, reuse, piece
        self.device, self.seed, self.clean_psf = device, seed, clean_psf
        self.generator = self._generator(0)
        self._pieces = 0
        self._owed = 0.0
        self._store = None

    @property
    def simulated(self):
        """Number of stamps simulated so far."""
        return self._pieces * self.piece

    def fill(self):
        """Fill the pool; yields the number of stamps in it after each piece."""
        while self.simulated < self.capacity:
            self._add()
            yield self.simulated

    def draw(self, count):
        """Draw a batch with fresh noise and orientation, and replace old stamps.

        Parameters
        ----------
        count : int
            Size of the batch.

        Returns
        -------
        inputs : StampInputs
            Stamps.
        parameters : Tensor
            Their parameters, shape ``(count, 7)``.
        """
        self._owed += count / self.reuse
        while self._owed >= self.piece:
            self._add()
            self._owed -= self.piece
        rows = torch.randint(self.capacity, (count,), generator=self.generator, device=self.device)
        elements = torch.randint(8, (_CHUNKS,), generator=self.generator, device=self.device).tolist()
        parts = [self._observe(part, element) for part, element in zip(rows.chunk(_CHUNKS), elements, strict=False)]
        names = "image", "error", "good", "gain", "psf", "psf_quality"
        *joined, quality = (torch.cat([getattr(each, name) for each, _ in parts]) for name in names)
        index = torch.arange(count, device=self.device)
        return StampInputs(*joined, index, quality), torch.cat([parameters for _, parameters in parts])

    def state(self):
        """What `load_state` needs."""
        return {"pieces": self._pieces, "owed": self._owed, "generator": self.generator.get_state()}

    def load_state(self, state):
        """Go back to a state: simulates the pool of that time again; yields the number of stamps after each piece."""
        self._pieces = max(0, int(state["pieces"]) - self.capacity // self.piece)
        for done in range(int(state["pieces"]) - self._pieces):
            self._add()
            yield (done + 1) * self.piece
        self._owed = float(state["owed"])
        self.generator.set_state(state["generator"])

    def _generator(self, number):
        seed = np.random.SeedSequence([self.seed, number]).generate_state(1, np.uint32)[0]
        return torch.Generator(self.device).manual_seed(int(seed))

    def _observe(self, rows, element):
        *maps, parameters = (self._store[name][rows] for name in _FIELDS)
        image, error, gain = add_noise(*maps, self.generator)
        index = torch.arange(len(rows), device=self.device)
        psf, quality = (self._store[name][rows] for name in ("psf", "psf_quality"))
        return orient(StampInputs(image, error, maps[2], gain, psf, index, quality), parameters, element)

    def _add(self):
        """Simulate one piece into the place of the oldest."""
        with torch.inference_mode():
            generator = self._generator(self._pieces + 1)
            new = simulate_expected(self.config, self.piece, generator=generator, device=self.device)
            psf, quality = training_psfs(new.psf_images, self.clean_psf)
            parts = {name: getattr(new, name) for name in _FIELDS}
            parts |= {"psf": psf[new.psf_index], "psf_quality": quality[new.psf_index]}
        if self._store is None:
            self._store = {
                name: torch.empty((self.capacity, *part.shape[1:]), dtype=part.dtype, device=self.device)
                for name, part in parts.items()
            }
        start = (self._pieces * self.piece) % self.capacity
        for name, part in parts.items():
            self._store[name][start : start + self.piece] = part
        self._pieces += 1
