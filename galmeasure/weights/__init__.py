"""Weights of trained networks: safetensors files that carry a card, the registry of those shipped, and their loader."""

from importlib import import_module

_EXPORTS = {
    "DEFAULT_WEIGHTS": "registry",
    "Weights": "cards",
    "get_weights": "registry",
    "list_weights": "registry",
    "load_network": "files",
    "prior_domain": "cards",
    "save_weights": "files",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name):
    """Import a public name when it is first asked for: the list of weights needs no torch."""
    if name not in _EXPORTS:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    """Public names, those not yet imported included."""
    return sorted({*globals(), *__all__})
