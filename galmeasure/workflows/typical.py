"""What is typical of the galaxies of a network's training domain, written beside its weights."""

import dataclasses
import sys
from pathlib import Path

from galmeasure.exceptions import WeightsError
from galmeasure.ood.typical import TypicalGalaxies, load_typical, typical_path
from galmeasure.weights import Weights
from galmeasure.weights.registry import known_digest

__all__ = ["NUMBER", "has_typical", "typical_path", "write_typical"]

NUMBER = 100_000
"""Galaxies simulated unless told otherwise."""

SEED = 31


def has_typical(weights: Weights, number: int) -> bool:
    """Look for a file of these weights that was learned from as many galaxies."""
    path = typical_path(weights.path)
    try:
        typical = load_typical(path, weights.sha256, known_digest(weights.sha256, path.suffix))
    except WeightsError:
        return False
    return typical is not None and typical.card.get("simulated") == number


def write_typical(
    weights: Weights, number: int = NUMBER, *, seed: int = SEED, device: str = "cpu", show_progress: bool = False
) -> tuple[Path, TypicalGalaxies]:
    """Simulate galaxies of the training domain, measure them, and write what they look like.

    Parameters
    ----------
    weights : Weights
        Weights of the network.
    number : int, optional
        Number of galaxies to simulate.
    seed : int, optional
        Seed of the galaxies.
    device : str, optional
        Torch device on which to measure.
    show_progress : bool, optional
        Show a bar on standard error.

    Returns
    -------
    path : Path
        The file.
    typical : TypicalGalaxies
        What it holds.
    """
    from tqdm import tqdm

    from galmeasure.fitters import learn_typical
    from galmeasure.training import PSFKnowledge, simulate_cutouts
    from galmeasure.training.config import simulation_from_dict

    config = simulation_from_dict(weights.card["simulation"])
    # neighbours that nobody has masked, and PSF images that are wrong, are what the score shall find
    config = dataclasses.replace(config, masked_neighbours=1.0, psf_knowledge=PSFKnowledge.perfect())
    with tqdm(total=number, unit="gal", desc="typical", file=sys.stderr, disable=not show_progress) as bar:

        def chunks():
            for cutouts, _ in simulate_cutouts(config, number, seed=seed):
                yield cutouts
                bar.update(len(cutouts))

        about = {"simulated": number, "seed": seed, "masked_neighbours": 1.0, "psf_knowledge": "perfect"}
        typical = learn_typical(weights, chunks(), device=device, **about)
    path = typical_path(weights.path)
    typical.save(path)
    return path, typical
