"""Pictures: of one fit, of a posterior, of many galaxies, and of what a network looks at."""

from galmeasure.utils.lazy import lazy_names

_EXPORTS = {
    "GalleryPage": "gallery",
    "elliptical_profile": "profile",
    "new_figure": "figures",
    "plot_corner": "corner",
    "plot_data": "fit",
    "plot_explanation": "explanation",
    "plot_fit": "fit",
    "plot_model": "fit",
    "plot_mosaic": "mosaic",
    "plot_profile": "fit",
    "plot_residual": "fit",
    "with_error": "figures",
}

__all__, __getattr__, __dir__ = lazy_names(__name__, _EXPORTS)
