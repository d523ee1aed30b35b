"""Measure galaxies: Sersic parameters with trustworthy errors, from cutouts, a PSF and the noise."""

from importlib import import_module

_EXPORTS = {
    "Cutouts": "cutouts",
    "Flag": "flags",
    "FLAGS": "flags",
    "GalmeasureWarning": "exceptions",
    "LSQSersicFitter": "fitters",
    "NeuralSersicFitter": "fitters",
    "PSFConvolvedSersic2D": "models",
    "decode_flags": "flags",
    "get_weights": "weights",
    "list_weights": "weights",
    "read_cutouts": "io",
    "read_psf": "io",
}

__all__ = ["__version__", *sorted(_EXPORTS)]


def __getattr__(name):
    """Import a public name when it is first asked for, so that ``import galmeasure`` stays light."""
    if name == "__version__":
        from importlib.metadata import version

        value = version("galmeasure")
    elif name in _EXPORTS:
        value = getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    else:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    globals()[name] = value
    return value


def __dir__():
    """Public names, those not yet imported included."""
    return sorted({*globals(), *__all__})
