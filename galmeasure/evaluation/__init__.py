"""Judge measurements: metrics against the truth and the limit, pictures, reports, and codes to compare with."""

from galmeasure.evaluation.challenge import challenge_metrics
from galmeasure.evaluation.matching import Matched, match_tables
from galmeasure.evaluation.metrics import STATISTICS, Comparison, compare
from galmeasure.evaluation.plots import elliptical_profile, plot_fit
from galmeasure.evaluation.posteriors import expected_coverage, rank_uniformity, sample_ranks

__all__ = [
    "STATISTICS",
    "Comparison",
    "GalSimSersicFitter",
    "Matched",
    "challenge_metrics",
    "compare",
    "elliptical_profile",
    "expected_coverage",
    "match_tables",
    "plot_fit",
    "rank_uniformity",
    "sample_ranks",
]


def __getattr__(name):
    """Import the comparison when it is asked for, so that plots do not load torch."""
    if name == "GalSimSersicFitter":
        from galmeasure.evaluation.baselines import GalSimSersicFitter

        return GalSimSersicFitter
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
