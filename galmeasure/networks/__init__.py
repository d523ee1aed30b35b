"""Networks: tensors in, tensors out. They know no files, tables or units."""

from galmeasure.networks.encoder import StampEncoder
from galmeasure.networks.inputs import NATIVE_SIZE, PSF_SIZE, StampInputs, StampViews, make_views
from galmeasure.networks.posterior import Context, NetworkConfig, PosteriorSummary, SersicPosterior
from galmeasure.networks.resize import Window, central_window, network_psfs, psf_offsets, resize_stamps, smooth
from galmeasure.networks.transform import ParameterTransform

__all__ = [
    "NATIVE_SIZE",
    "PSF_SIZE",
    "Context",
    "NetworkConfig",
    "ParameterTransform",
    "PosteriorSummary",
    "SersicPosterior",
    "StampEncoder",
    "StampInputs",
    "StampViews",
    "Window",
    "central_window",
    "make_views",
    "network_psfs",
    "psf_offsets",
    "resize_stamps",
    "smooth",
]
