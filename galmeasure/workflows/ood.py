"""OOD reference of a network, learned from simulated galaxies of its training domain, beside its weights."""

import dataclasses
import sys
from pathlib import Path

from galmeasure.exceptions import WeightsError
from galmeasure.ood.reference import OODReference, load_ood, ood_path
from galmeasure.weights import Weights
from galmeasure.weights.registry import known_digest

__all__ = ["NUMBER", "has_ood", "ood_path", "write_ood"]

NUMBER = 100_000
"""Galaxies simulated unless told otherwise."""

SEED = 31


def has_ood(weights: Weights, number: int) -> bool:
    """Look for a file of these weights that was learned from as many galaxies."""
    path = ood_path(weights.path)
    try:
        reference = load_ood(path, weights.sha256, known_digest(weights.sha256, path.suffix))
    except WeightsError:
        return False
    return reference is not None and reference.card.get("simulated") == number


def write_ood(
    weights: Weights, number: int = NUMBER, *, seed: int = SEED, device: str = "cpu", show_progress: bool = False
) -> tuple[Path, OODReference]:
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
    reference : OODReference
        What it holds.
    """
    weights.check_posterior("an out-of-distribution score")
    from tqdm import tqdm

    from galmeasure.fitters import learn_ood
    from galmeasure.training import PSFKnowledge, simulate_cutouts
    from galmeasure.training.config import simulation_from_dict

    config = simulation_from_dict(weights.card["simulation"])
    # neighbours that nobody has masked, and PSF images that are wrong, are what the score shall find
    config = dataclasses.replace(config, masked_neighbours=1.0, psf_knowledge=PSFKnowledge.perfect())
    with tqdm(total=number, unit="gal", desc="ood", file=sys.stderr, disable=not show_progress) as bar:

        def chunks():
            for cutouts, _ in simulate_cutouts(config, number, seed=seed):
                yield cutouts
                bar.update(len(cutouts))

        about = {"simulated": number, "seed": seed, "masked_neighbours": 1.0, "psf_knowledge": "perfect"}
        reference = learn_ood(weights, chunks(), device=device, **about)
    path = ood_path(weights.path)
    reference.save(path)
    return path, reference
