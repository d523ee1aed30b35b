"""After the training: corrections of error bars, and what the residuals of typical galaxies look like."""

from importlib import import_module

_EXPORTS = {
    "QuantileCalibration": "quantiles",
    "TypicalGalaxies": "typical",
    "load_typical": "typical",
    "typical_path": "typical",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name):
    """Import a public name when it is first asked for, so that corrections do not load torch."""
    if name not in _EXPORTS:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    """Public names, those not yet imported included."""
    return sorted({*globals(), *__all__})
