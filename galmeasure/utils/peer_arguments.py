"""Arguments by the names that other codes have for them: refused, with ours in the message."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["refuse_words"]

OURS = {
    "error": (
        "noise", "sigma", "sig", "std", "rms", "err", "errors", "sigma_image", "sigmaimage", "sigma_map", "noise_map",
        "noise_sigma", "uncertainty", "uncertainties", "total_error", "skysig", "skyvar", "background_rms", "bkg_rms",
    ),
    "error = 1 / sqrt(weight)": (
        "weight", "weights", "weightmap", "weight_map", "weight_image", "wht", "ivar", "invvar", "inverse_variance",
    ),
    "error = sqrt(variance)": ("variance", "variances", "var", "variance_map"),
    "mask": (
        "badpix", "bad_pixels", "badpixels", "bad_pixel_mask", "bpm", "dq", "mask_image", "masks", "good", "segmap",
        "segmentation", "segm", "segment_img", "segmentation_image",
    ),
    "cutouts": ("image", "images", "data", "stamp", "stamps", "imgs", "sci", "cutout", "pixels", "target"),
    "psf": ("kernel", "psf_image", "psf_images", "psfs", "psf_model", "psfmodel", "convolution_kernel", "psf_data"),
    "psf_oversampling": (
        "oversampling", "oversample", "oversamp", "psf_oversample", "psf_sampling", "psf_upscale", "psf_fine_sampling",
    ),
    "psf_includes_pixel": ("includes_pixel", "pixel_convolved", "psf_with_pixel"),
    "gain": ("egain", "ccd_gain", "effective_gain", "exptime", "exposure_time"),
    "pixel_scale": ("pixscale", "pixelscale", "pix_scale", "scale", "plate_scale", "platescale"),
    "zero_point": ("zeropoint", "zp", "magzero", "magzpt", "mag_zero", "mag_zeropoint", "zeropt", "mag_zp"),
    "wcs": ("header", "hdr", "transform", "wcss"),
    "positions": ("position", "xy", "coords", "coordinates", "centers", "centres", "xypos"),
    "init_params": ("init", "initial", "initial_guess", "guess", "guesses", "p0", "x0", "start", "starts"),
    "ids": ("id", "names", "name", "labels", "label", "source_id"),
    "progress_bar": ("progress", "verbose", "show_progress", "tqdm"),
}  # fmt: skip
"""Names of arguments here, and those that other codes use for them."""


def refuse_words(function: str, given: Mapping[str, object], arguments: Sequence[str]) -> None:
    """Raise if there are arguments that do not exist, with the name that was probably meant.

    Parameters
    ----------
    function : str
        Name of the function that was called, for the message.
    given : dict
        Arguments that do not exist, by name.
    arguments : sequence of str
        Names of the arguments that exist.

    Raises
    ------
    TypeError
        If ``given`` has an entry.
    """
    if not given:
        return
    word = next(iter(given))
    spelt = word.lower().replace("-", "_")
    ours = next((name for name, words in OURS.items() if spelt in words), None)
    if ours is None:
        from difflib import get_close_matches

        ours = next(iter(get_close_matches(spelt, list(arguments), n=1, cutoff=0.7)), None)
    if ours is None or ours.split()[0] not in arguments:
        msg = f"{function} has no argument {word!r}; it has {', '.join(arguments)}"
    else:
        msg = f"{function} has no argument {word!r}; here that is {ours}"
    raise TypeError(msg)
