"""PSF images in every form that is accepted, brought to distinct normalised images: `PSFCollection`."""

from galmeasure.utils.lazy import lazy_names

_EXPORTS = {
    "PSFCollection": "collection",
}

__all__, __getattr__, __dir__ = lazy_names(__name__, _EXPORTS)
