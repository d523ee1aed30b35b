"""Judge measurements: metrics against the truth and the limit, pictures, reports, and codes to compare with."""

from importlib import import_module

_EXPORTS = {
    "CalibrationResult": "calibrating",
    "CatalogPreset": "catalogs",
    "Comparison": "metrics",
    "Estimate": "reference",
    "GalSimSersicFitter": "baselines",
    "GalaxiesLike": "injection",
    "Matched": "matching",
    "PRESETS": "catalogs",
    "ReferenceDraws": "reference",
    "STATISTICS": "metrics",
    "add_galaxies": "injection",
    "calibrate": "calibrating",
    "challenge_metrics": "challenge",
    "compare": "metrics",
    "convert_results": "catalogs",
    "cramer_rao_bounds": "bounds",
    "elliptical_profile": "plots",
    "expected_coverage": "posteriors",
    "galaxies_of_prior": "injection",
    "inject_galaxies": "injection",
    "match_tables": "matching",
    "plot_calibration_trends": "calibrating",
    "plot_fit": "plots",
    "quantile_uniformity": "posteriors",
    "rank_uniformity": "posteriors",
    "read_results": "catalogs",
    "reference_table": "reference",
    "sample_ranks": "posteriors",
    "write_report": "report",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name):
    """Import a public name when it is first asked for, so that plots do not load torch."""
    if name not in _EXPORTS:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    """Public names, those not yet imported included."""
    return sorted({*globals(), *__all__})
