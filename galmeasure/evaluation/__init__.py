"""Judge measurements: metrics against the truth and the limit, pictures, reports, and codes to compare with."""

from galmeasure._lazy import lazy_names

_EXPORTS = {
    "CalibrationResult": "calibrating",
    "CatalogPreset": "presets",
    "Comparison": "metrics",
    "Estimate": "reference",
    "GalSimSersicFitter": "baselines",
    "GalaxiesLike": "injection",
    "Matched": "matching",
    "PRESETS": "presets",
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

__all__, __getattr__, __dir__ = lazy_names(__name__, _EXPORTS)
