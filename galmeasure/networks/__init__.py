"""Networks: tensors in, tensors out. They know no files, tables or units."""

from galmeasure.networks.encoders.mixer import StampEncoder
from galmeasure.networks.inputs import NATIVE_SIZE, PSF_SIZE, StampInputs, StampViews, make_views
from galmeasure.networks.posterior import Context, NetworkConfig, PosteriorSummary, SersicPosterior
from galmeasure.networks.psf_cleaning import CLEANING_SIZE, CleanPSFs, clean_psfs
from galmeasure.networks.resize import (
    Window,
    central_window,
    network_psfs,
    psf_offsets,
    resize_stamps,
    smooth,
    width_in_blocks,
)
from galmeasure.networks.transform import ParameterTransform

__all__ = [
    "CLEANING_SIZE",
    "NATIVE_SIZE",
    "PSF_SIZE",
    "CleanPSFs",
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
    "clean_psfs",
    "make_views",
    "network_psfs",
    "psf_offsets",
    "resize_stamps",
    "smooth",
    "width_in_blocks",
]
