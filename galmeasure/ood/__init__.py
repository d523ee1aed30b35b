"""Out-of-distribution score: how unlike the galaxies of the training a galaxy looks, and in what."""

from galmeasure.utils.lazy import lazy_names

_EXPORTS = {
    "TypicalGalaxies": "typical",
    "load_typical": "typical",
    "typical_path": "typical",
}

__all__, __getattr__, __dir__ = lazy_names(__name__, _EXPORTS)
