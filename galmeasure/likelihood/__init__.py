"""Likelihood of pixels with white noise, and the information that they hold."""

from galmeasure.utils.lazy import lazy_names

_EXPORTS = {
    "NormalEquations": "white_noise",
    "cramer_rao_bound": "fisher",
    "deviance": "white_noise",
    "fisher_matrix": "fisher",
    "fit_loss": "white_noise",
    "flux_of_snr": "white_noise",
    "image_products": "white_noise",
    "invert_information": "fisher",
    "log_likelihood": "white_noise",
    "normal_equations": "white_noise",
    "signal_to_noise": "white_noise",
    "variance": "white_noise",
}

__all__, __getattr__, __dir__ = lazy_names(__name__, _EXPORTS)
