"""Networks: tensors in, tensors out. They know no files, tables or units."""

from galmeasure.utils.lazy import lazy_names

_EXPORTS = {
    "CLEANING_SIZE": "psf_cleaning",
    "CleanPSFs": "psf_cleaning",
    "Context": "base",
    "NATIVE_SIZE": "inputs",
    "NetworkConfig": "config",
    "PSF_SIZE": "inputs",
    "ParameterTransform": "transform",
    "PosteriorNetwork": "base",
    "PosteriorSummary": "base",
    "SersicPosterior": "posterior",
    "StampEncoder": "encoders.mixer",
    "StampInputs": "inputs",
    "StampViews": "inputs",
    "Window": "resize",
    "build_network": "registry",
    "central_window": "resize",
    "clean_psfs": "psf_cleaning",
    "make_views": "inputs",
    "network_psfs": "resize",
    "psf_offsets": "resize",
    "register_encoder": "registry",
    "resize_stamps": "resize",
    "smooth": "resize",
    "width_in_blocks": "resize",
}

__all__, __getattr__, __dir__ = lazy_names(__name__, _EXPORTS)
