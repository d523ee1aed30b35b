"""The correction of a network's posteriors, learned from simulated galaxies and written beside its weights."""

import datetime as dt
import sys
from pathlib import Path
from typing import Any

from galmeasure.exceptions import WeightsError
from galmeasure.weights import Weights
from galmeasure.weights.corrections import correction_card, correction_path, load_correction

__all__ = ["CORRECTION_NUMBER", "correction_path", "has_correction", "write_correction"]

CORRECTION_NUMBER = 60_000
"""Galaxies simulated unless told otherwise."""

_SEED = 41
_EPOCHS = 12


def has_correction(weights: Weights, number: int) -> bool:
    """Look for a file of these weights that was learned from as many galaxies."""
    try:
        correction = load_correction(weights)
    except WeightsError:
        return False
    return correction is not None and correction_card(weights).get("simulated") == number


def write_correction(
    weights: Weights,
    number: int = CORRECTION_NUMBER,
    *,
    seed: int = _SEED,
    epochs: int = _EPOCHS,
    device: str = "cpu",
    show_progress: bool = False,
) -> tuple[Path, dict[str, Any]]:
    """Simulate galaxies of the training domain, measure them, and learn the correction of their posteriors.

    Parameters
    ----------
    weights : Weights
        Weights of the network.
    number : int, optional
        Number of galaxies that are simulated.
    seed : int, optional
        Seed of the galaxies and of the first weights of the correction.
    epochs : int, optional
        How often each galaxy is seen.
    device : str, optional
        Torch device on which to measure and to train.
    show_progress : bool, optional
        Show a bar on standard error.

    Returns
    -------
    path : pathlib.Path
        File of the correction.
    metrics : dict
        Losses and coverage on galaxies that were held out.
    """
    weights.check_posterior("a correction")
    from tqdm import tqdm

    from galmeasure.fitters import collect_sample, learn_correction
    from galmeasure.training import simulate_cutouts
    from galmeasure.training.config import simulation_from_dict
    from galmeasure.weights.corrections import save_correction

    config = simulation_from_dict(weights.card["simulation"])
    with tqdm(total=number, unit="gal", desc="correction", file=sys.stderr, disable=not show_progress) as bar:

        def chunks():
            for cutouts, truth in simulate_cutouts(config, number, seed=seed):
                yield cutouts, truth
                bar.update(len(cutouts))

        sample = collect_sample(weights, chunks(), device=device)
    correction, metrics = learn_correction(weights, sample, epochs=epochs, seed=seed, device=device)
    about = {"simulated": number, "learned": len(sample), "seed": seed, "epochs": epochs, "metrics": metrics,
             "date": dt.datetime.now(dt.UTC).date().isoformat()}  # fmt: skip
    return save_correction(weights, correction, about), metrics
