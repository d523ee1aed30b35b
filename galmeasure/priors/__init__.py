"""Priors of the Sersic parameters: named ones, mixtures of populations, and those of a configuration."""

from galmeasure.utils.lazy import lazy_names

_EXPORTS = {
    "Disc": "distributions",
    "LogNormal": "distributions",
    "PRIORS": "prior",
    "Population": "prior",
    "Prior": "prior",
    "Range": "distributions",
    "SizeRelation": "distributions",
    "get_prior": "prior",
    "prior_from_dict": "prior",
}

__all__, __getattr__, __dir__ = lazy_names(__name__, _EXPORTS)
