"""Weights of trained networks: safetensors files that carry a card, the registry of those shipped, and their loader."""

from galmeasure.utils.lazy import lazy_names

_EXPORTS = {
    "DEFAULT_WEIGHTS": "registry",
    "Weights": "cards",
    "get_weights": "registry",
    "list_weights": "registry",
    "load_network": "files",
    "prior_domain": "cards",
    "save_weights": "files",
}

__all__, __getattr__, __dir__ = lazy_names(__name__, _EXPORTS)
