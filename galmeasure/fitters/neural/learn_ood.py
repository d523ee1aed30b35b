"""Learn what galaxies of the training domain look like to a network, by the same steps as galaxies are measured."""

from collections.abc import Iterable
from os import PathLike
from typing import Any

from galmeasure.cutouts import Cutouts
from galmeasure.fitters.neural.fitter import NeuralSersicFitter
from galmeasure.ood.reference import OODInputs, OODReference
from galmeasure.weights import Weights
from galmeasure.weights.registry import find_weights

__all__ = ["learn_ood"]


class _Unscored(NeuralSersicFitter):
    """Fitter that does not read the OOD reference."""

    def _ood_reference(self):
        return None


def learn_ood(
    weights: str | PathLike | Weights, cutouts: Iterable[Cutouts], *, device: str = "cpu", **about: Any
) -> OODReference:
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
    galmeasure.calibration.OODReference
        To be saved at `galmeasure.calibration.ood_path` of the file of weights.

    Raises
    ------
    ValueError
        If there are fewer than 2,000 galaxies.
    """
    weights = find_weights(weights, "weights")
    fitter = _Unscored(weights=weights, device=device, precision="float32")
    inputs = OODInputs.join([of_batch for chunk in cutouts for of_batch in fitter._each_ood_inputs(chunk)])
    return OODReference.learn(inputs, {"weights": weights.name, "weights_sha256": weights.sha256, **about})


learn_typical = learn_ood
"""Deprecated name of `learn_ood`."""
