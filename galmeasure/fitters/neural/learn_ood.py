"""Learn what galaxies of the training domain look like to a network, by the same steps as galaxies are measured."""

from collections.abc import Iterable
from os import PathLike
from typing import Any

from galmeasure.cutouts import Cutouts
from galmeasure.fitters.neural.fitter import NeuralSersicFitter
from galmeasure.ood.typical import Observed, TypicalGalaxies
from galmeasure.weights import Weights
from galmeasure.weights.registry import find_weights

__all__ = ["learn_typical"]


class _Unscored(NeuralSersicFitter):
    """Fitter that does not read the file of typical galaxies."""

    def _typical(self):
        return None


def learn_typical(
    weights: str | PathLike | Weights, cutouts: Iterable[Cutouts], *, device: str = "cpu", **about: Any
) -> TypicalGalaxies:
    """Learn what galaxies of the training domain look like to a network, for the column ``ood_score``.

    Parameters
    ----------
    weights : str, path-like or Weights
        Weights of the network, or their name.
    cutouts : iterable of Cutouts
        Galaxies of its training domain, see `galmeasure.training.simulate_cutouts`.
    device : str, optional
        Torch device on which to compute.
    **about
        Plain JSON for the card.

    Returns
    -------
    galmeasure.calibration.TypicalGalaxies
        To be saved at `galmeasure.calibration.typical_path` of the file of weights.

    Raises
    ------
    ValueError
        If there are fewer than 2,000 galaxies.
    """
    weights = find_weights(weights, "weights")
    fitter = _Unscored(weights=weights, device=device, precision="float32")
    found = Observed.join([each for part in cutouts for each in fitter._observe(part)])
    return TypicalGalaxies.learn(found, {"weights": weights.name, "weights_sha256": weights.sha256, **about})
