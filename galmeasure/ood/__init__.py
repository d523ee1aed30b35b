"""Out-of-distribution score: how unlike the galaxies of the training a galaxy looks, and in what."""

from galmeasure.utils.lazy import lazy_names

_EXPORTS = {
    "OODReference": "reference",
    "load_ood": "reference",
    "ood_path": "reference",
}

__all__, __getattr__, __dir__ = lazy_names(__name__, _EXPORTS)
