"""Small networks for tests: one of random numbers, and one that measures moments, whose answers are known."""

from dataclasses import dataclass

import torch

from galmeasure.networks import Context, NetworkConfig, PosteriorSummary, SersicPosterior
from galmeasure.priors import get_prior
from galmeasure.weights import prior_domain, save_weights

TINY = {"widths": (16, 32), "depths": (1, 1), "features": 32, "psf_features": 16, "flow_hidden": 32, "flow_context": 16}


def tiny_weights(folder, name="tiny-v1"):
    """Weights of a small network that was not trained, written to a folder."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = SersicPosterior(NetworkConfig(**TINY))
    training = {"steps": 0, "stamps": 0, "batch_size": 1, "seed": 0, "minutes": 0.0, "device": "cpu"}
    card = {
        "prior": "survey", "domain": prior_domain(get_prior("survey")),
        "simulation": {"small_stamps": 0.15, "smallest": 24}, "training": training, "metrics": {},
        "date": "2026-01-31", "revision": "unknown", "description": "Not trained",
    }  # fmt: skip
    return save_weights(folder / f"{name}.safetensors", network, card)


@dataclass
class MomentNetwork:
    """Gives the light of a stamp as the flux, its centroid, and a width as r_eff."""

    config = NetworkConfig()

    def embed_psf(self, psf, quality=None):
        return psf.flatten(1)

    def encode(self, inputs, *, psf=None, bf16=False):
        light = torch.where(inputs.good, inputs.image, 0.0).double()
        return Context(light.flatten(1), light.sum((1, 2)))

    def summarise(self, context):
        light = context.features.view(len(context.features), 64, 64)
        pixels = torch.arange(64, dtype=torch.float64)
        x, y = ((light.sum(axis) @ pixels) / context.flux_scale for axis in (1, 2))
        spread = ((light.sum(1) @ pixels**2) / context.flux_scale - x**2).clamp_min(0.01).sqrt()
        one = torch.ones_like(x)
        mean = torch.stack([context.flux_scale, one, spread, 0 * one, 0 * one, x, y], 1)
        step = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
        covariance = torch.diag_embed(0.01 * torch.ones_like(mean))
        return PosteriorSummary(mean, covariance, mean[:, None] + 0.1 * step)
