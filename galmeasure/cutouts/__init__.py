"""Cutouts of galaxies with noise, masks and PSFs: the input of every fitter."""

from galmeasure.utils.lazy import lazy_names

_EXPORTS = {
    "Cutouts": "cutouts",
}

__all__, __getattr__, __dir__ = lazy_names(__name__, _EXPORTS)
