"""A trained network whose posterior means, or whose whole posterior, are the targets of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from galmeasure.networks.conditional import conditional_gaussian
from galmeasure.networks.registry import DEFAULT_ARCHITECTURE
from galmeasure.parameters import SERSIC
from galmeasure.weights import load_network

if TYPE_CHECKING:
    from os import PathLike

    from galmeasure.networks import NetworkConfig, StampInputs
    from galmeasure.networks.point_config import PointConfig

__all__ = ["Teacher"]

_CENTRE = SERSIC.indices("x", "y")


class Teacher:
    """A trained network from which others learn: its posterior, or its posterior means given the centre.

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

    def check(self, config: NetworkConfig | PointConfig) -> None:
        """Check that a network can learn from this one.

        Parameters
        ----------
        config : NetworkConfig or PointConfig
            Configuration of the network that is to learn.

        Raises
        ------
        ValueError
            If the teacher has no posterior, or, for a network that learns its whole posterior, other features or
            another domain.
        """
        known = self.network.config
        if known.architecture != DEFAULT_ARCHITECTURE:
            msg = f"teacher must be weights of a {DEFAULT_ARCHITECTURE}, not of a {known.architecture}"
            raise ValueError(msg)
        if config.architecture != known.architecture:
            return
        for name in ("features", "clean_psf", "n", "r_eff", "g_max", "centre"):
            mine, other = getattr(config, name), getattr(known, name)
            if mine != other:
                msg = f"teacher must have the same {name} as the network that learns from it: {other}, not {mine}"
                raise ValueError(msg)

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
