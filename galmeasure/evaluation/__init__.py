"""Judge measurements: metrics against the truth and the limit, pictures, reports, and codes to compare with."""

from galmeasure.utils.lazy import lazy_names

_EXPORTS = {
    "CalibrationResult": "learn_calibration",
    "CatalogPreset": "galmeasure.io.code_presets",
    "Comparison": "metrics",
    "Estimate": "report.reference",
    "GalSimSersicFitter": "galmeasure.fitters.galsim_fitter",
    "GalaxiesLike": "galmeasure.simulation.injection",
    "Matched": "matching",
    "PRESETS": "galmeasure.io.code_presets",
    "ReferenceDraws": "report.reference",
    "STATISTICS": "metrics",
    "add_galaxies": "galmeasure.simulation.injection",
    "calibrate": "learn_calibration",
    "challenge_metrics": "challenge",
    "compare": "metrics",
    "convert_results": "galmeasure.io.other_codes",
    "cramer_rao_bounds": "bounds",
    "elliptical_profile": "galmeasure.plotting.profile",
    "expected_coverage": "coverage",
    "galaxies_of_prior": "galmeasure.simulation.injection",
    "inject_galaxies": "galmeasure.simulation.injection",
    "match_tables": "matching",
    "plot_calibration_trends": "report.calibration",
    "plot_fit": "galmeasure.plotting.fit",
    "quantile_uniformity": "coverage",
    "rank_uniformity": "coverage",
    "read_results": "galmeasure.io.other_codes",
    "reference_table": "report.reference",
    "sample_ranks": "coverage",
    "write_report": "report.report",
}

__all__, __getattr__, __dir__ = lazy_names(__name__, _EXPORTS)
