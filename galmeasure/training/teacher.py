"""A trained network whose posterior means are the targets of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from galmeasure.networks.conditional import conditional_gaussian
from galmeasure.parameters import SERSIC
from galmeasure.weights import load_network

if TYPE_CHECKING:
    from os import PathLike

    from galmeasure.networks import StampInputs

__all__ = ["Teacher"]

_CENTRE = SERSIC.indices("x", "y")


class Teacher:
    """Posterior means of a trained network, given the centre.

    The squared error to the truth has the scatter of the posterior as its noise; that to the mean of the posterior has
    not, and has the same minimum. A network learns from fewer stamps by it, as far as the means are right.

    Parameters
    ----------
    weights : str or path-like
        Name or file of the weights of the teacher.
    device : str, optional
        Torch device of the stamps. Default "cpu".
    """

    def __init__(self, weights: str | PathLike, device: str = "cpu") -> None:
        self.network = load_network(weights, device)

    def means(self, inputs: StampInputs, parameters: torch.Tensor, *, bf16: bool = False) -> torch.Tensor:
        """Posterior means of stamps whose centre is known.

        Parameters
        ----------
        inputs : StampInputs
            Stamps in units of their noise.
        parameters : Tensor
            Their true parameters, shape ``(B, 7)``, of which the centre is used.
        bf16 : bool, optional
            Compute the encoder in bfloat16. Default False.

        Returns
        -------
        Tensor
            Shape ``(B, 7)``.
        """
        with torch.inference_mode():
            context = self.network.encode(inputs, bf16=bf16)
            summary = self.network.summarise(context)
            means, _ = conditional_gaussian(
                self.network.transform, summary.mean, summary.covariance, context.flux_scale, parameters, _CENTRE
            )
        return means.clone()
