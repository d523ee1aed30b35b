"""Warnings of galmeasure; errors are the built-in ``ValueError`` and ``TypeError``."""

from astropy.utils.exceptions import AstropyUserWarning

__all__ = ["CatalogError", "GalmeasureWarning", "WeightsError"]


class GalmeasureWarning(AstropyUserWarning):
    """Base class of every warning that galmeasure issues; at most one per call, never one per galaxy."""


class CatalogError(ValueError):
    """A file that cannot be read as a catalogue, an image or a PSF; the message names the file and the rule."""


class WeightsError(ValueError):
    """A file that cannot be used as the weights of a network; the message names the file and the rule."""
