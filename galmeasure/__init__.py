"""Measure galaxies: Sersic parameters with trustworthy errors, from cutouts, a PSF and the noise."""

from galmeasure.utils.lazy import lazy_names
from galmeasure.utils.table_format import register_format

_EXPORTS = {
    "__citation__": "_version",
    "__version__": "_version",
    "Cutouts": "cutouts",
    "Flag": "flags",
    "FLAGS": "flags",
    "GalmeasureWarning": "exceptions",
    "EnsembleSersicFitter": "fitters",
    "LSQSersicFitter": "fitters",
    "NeuralSersicFitter": "fitters",
    "PSFConvolvedSersic2D": "models",
    "decode_flags": "flags",
    "get_weights": "weights",
    "list_weights": "weights",
    "read_cutouts": "io",
    "read_psf": "io",
}

register_format()

__all__, __getattr__, __dir__ = lazy_names(__name__, _EXPORTS)
