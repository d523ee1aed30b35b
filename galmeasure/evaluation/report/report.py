"""A report on estimators: one page to read from top to bottom, its figures and its tables."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
from astropy.table import QTable, Table, vstack

from galmeasure.evaluation.challenge import CHALLENGE_OUTLIER, challenge_metrics
from galmeasure.evaluation.matching import match_tables
from galmeasure.evaluation.metrics import STATISTICS, compare
from galmeasure.evaluation.refinement import is_refined, paired_rmse, refinement_summary
from galmeasure.evaluation.report import figures
from galmeasure.evaluation.report.images import choose_rows, plot_images
from galmeasure.evaluation.report.page import Page, numbers
from galmeasure.evaluation.report.published import STUDY_SECONDS
from galmeasure.evaluation.report.reference import reference_table
from galmeasure.evaluation.report.reference_tables import baseline_table, time_table, time_text, wide_reference
from galmeasure.evaluation.report.texts import TEXTS
from galmeasure.plotting.figures import with_error

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike
    from pathlib import Path

    import numpy.typing as npt

    from galmeasure.cutouts import Cutouts
    from galmeasure.evaluation.report.reference import Estimate, ReferenceDraws

__all__ = ["file_name", "write_report"]

_MAIN = ("flux", "n", "r_eff", "g1", "g2", "x", "y")


def write_report(
    folder: str | PathLike,
    truth: Table,
    estimates: Sequence[Estimate],
    *,
    cutouts: Cutouts | None = None,
    noiseless: Mapping[int, npt.ArrayLike] | None = None,
    bounds: Table | None = None,
    limit: Mapping[str, float] | None = None,
    published: Mapping[str, Mapping[str, float]] | None = None,
    reference: Sequence[ReferenceDraws] = (),
    title: str = "Evaluation of galaxy measurements",
    about: Sequence[str] = (),
    zero_point: float | None = None,
    pixel_scale: float | None = None,
    n_bootstrap: int = 200,
    seed: int = 0,
) -> Path:
    """Write a report on the results of one or several estimators.

    Parameters
    ----------
    folder : path-like
        Folder to write: ``index.html`` (self-contained), figures as PNG and PDF, tables as ECSV and LaTeX.
    truth : `~astropy.table.Table`
        One row per galaxy; see `match_tables`.
    estimates : list of Estimate
        Results of the estimators, whose names must differ.
    cutouts : Cutouts, optional
        Cutouts in the order of ``truth``, of which the report shows a few.
    noiseless : dict of int to array_like, optional
        Images without noise by row of ``truth``; these rows are shown.
    bounds : `~astropy.table.Table`, optional
        Cramer-Rao bounds, see `cramer_rao_bounds`.
    limit : dict of str to float, optional
        RMSE of the exact posterior mean by parameter.
    published : dict of str to dict, optional
        RMSE that others published for such galaxies, by their name and parameter.
    reference : list of ReferenceDraws, optional
        Noise draws of the reference galaxy.
    title : str, optional
        Title of the page.
    about : list of str, optional
        Sentences about the measurements, shown at the top.
    zero_point, pixel_scale, n_bootstrap, seed
        Same arguments as in `compare`.

    Returns
    -------
    Path
        Path of the page.

    Raises
    ------
    ValueError
        If there are no estimates or their names are not different.
    ImportError
        If matplotlib is not installed.
    """
    names = [estimate.name for estimate in estimates]
    if not names or len(set(names)) < len(names):
        msg = f"estimates must be at least one, of different names, not {names}"
        raise ValueError(msg)
    page = Page(folder, title)
    options = {"bounds": bounds, "limit": limit, "zero_point": zero_point, "pixel_scale": pixel_scale}
    comparisons = [
        compare(truth, e.table, samples=e.samples, name=e.name, n_bootstrap=n_bootstrap, seed=seed, **options)
        for e in estimates
    ]
    _opening(page, truth, about)
    _results(page, comparisons, estimates, limit, published or {})
    _limits(page, comparisons)
    _truth_figures(page, comparisons)
    _error_bars(page, comparisons)
    _posteriors(page, comparisons)
    _refinement(page, comparisons, estimates, n_bootstrap, seed)
    if reference:
        _reference(page, reference)
    if cutouts is not None:
        snr = comparisons[0].matched.about.get("snr", np.arange(len(truth), dtype=float))
        _images(page, cutouts, truth, estimates, snr, noiseless or {})
    _challenge(page, comparisons, n_bootstrap, seed)
    _closing(page)
    return page.write()


def _opening(page, truth, about):
    page.text(TEXTS["opening"].format(count=len(truth)))
    page.text(*about, f"Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.")


def _results(page, comparisons, estimates, limit, published):
    """Counts, and root mean squares."""
    page.section("Results in short")
    rows = []
    for c, e in zip(comparisons, estimates, strict=True):
        counts = [str(c.counts[key]) for key in ("n_truth", "n_missing", "n_failed", "n_flagged", "n_extra")]
        rows.append((c.name, *counts, time_text(e.seconds_per_galaxy), e.about or "-"))
    names = ("estimator", "galaxies", "no row", "no measurement", "flagged", "rows of no galaxy", "time per galaxy")
    table = Table(rows=rows, names=(*names, "what it is"))
    if not any(e.about for e in estimates):
        table.remove_column("what it is")
    page.table(table, "counts", TEXTS["counts"])
    parameters = _parameters(comparisons)
    table = Table({"parameter": [_label(comparisons, name) for name in parameters]})
    for c in comparisons:
        table[c.name] = [_pair(c, name, "rmse") for name in parameters]
    for name, values in published.items():
        table[name] = numbers([values.get(p, np.nan) for p in parameters], 4)
    if limit:
        table["exact posterior mean"] = numbers([limit.get(p, np.nan) for p in parameters], 4)
    caption = [TEXTS["rmse"], TEXTS["limit"] if limit else "", TEXTS["published"] if published else ""]
    page.table(table, "rmse", " ".join(filter(None, caption)))
    metrics = vstack([_named(c.table, c.name) for c in comparisons])
    metrics.meta.update({c.name: c.counts for c in comparisons})
    metrics.write(page.folder / "metrics.ecsv", format="ascii.ecsv", overwrite=True)


def _named(table, name):
    """Copy of a table with the estimator in its first column."""
    table = table.copy()
    table.meta.clear()
    table.add_column(np.full(len(table), name), 0, name="estimator")
    return table


def _truth_figures(page, comparisons):
    page.section("Measured against true")
    page.text(TEXTS["truth"])
    for c in comparisons:
        page.figure(figures.plot_predicted(c), f"predicted_{file_name(c.name)}", TEXTS["predicted"].format(name=c.name))
    page.figure(figures.plot_errors(comparisons), "errors", TEXTS["errors"])
    page.section("Errors by S/N, index, size and ellipticity")
    page.figure(figures.plot_trends(comparisons), "trends", TEXTS["trends"])


def _limits(page, comparisons):
    """Comparison with the bound and with the exact posterior."""
    kinds = ("typical_over_crb", "scatter_over_crb", "rmse_over_limit")
    if not any(np.isfinite(c.overall[kind]).any() for c in comparisons for kind in kinds):
        return
    page.section("Distance to the limit")
    page.text(TEXTS["limits"])
    page.figure(figures.plot_limits(comparisons), "limits", TEXTS["limits figure"])
    names = ("typical / bound", "scatter / bound", "rmse / exact posterior")
    page.table(
        _by_parameter(comparisons, dict(zip(names, kinds, strict=True))), "limits", TEXTS["limits table"], grouped=True
    )


def _by_parameter(comparisons, kinds):
    """One row per parameter and estimator, one column per statistic that is known of any."""
    rows = []
    for name in (n for n in _parameters(comparisons) if not n.endswith("_relative")):
        rows += [(name, c.name, *(_pair(c, name, kind) for kind in kinds.values())) for c in comparisons]
    rows = [row for row in rows if set(row[2:]) != {"-"}]
    table = Table(rows=rows, names=("parameter", "estimator", *kinds), dtype=[object] * (2 + len(kinds)))
    table.remove_columns([kind for kind in kinds if all(cell == "-" for cell in table[kind])])
    return table


def _error_bars(page, comparisons):
    """Pulls and coverage."""
    comparisons = [c for c in comparisons if c.matched.error]
    if not comparisons:
        return
    page.section("Are the error bars right?")
    page.figure(figures.plot_pulls(comparisons), "pulls", TEXTS["pulls"])
    page.figure(figures.plot_calibration(comparisons), "calibration", TEXTS["calibration"])
    kinds = {
        "mean pull": "pull_mean",
        "std of pulls": "pull_std",
        "within 1 sigma": "coverage_68",
        "within 2 sigma": "coverage_95",
    }
    page.table(_by_parameter(comparisons, kinds), "error_bars", TEXTS["error bars"], grouped=True)


def _posteriors(page, comparisons):
    """Ranks and expected coverage."""
    drawn = [c for c in comparisons if c.ranks]
    quantiles = [c for c in comparisons if c.matched.quantiles]
    if not drawn and not quantiles:
        return
    page.section("Are the posteriors right?")
    page.text(TEXTS["posteriors"])
    for c in drawn:
        page.figure(figures.plot_ranks(c), f"ranks_{file_name(c.name)}", TEXTS["ranks"].format(name=c.name))
    if drawn:
        page.figure(figures.plot_expected_coverage(drawn), "expected_coverage", TEXTS["expected coverage"])
    if quantiles:
        kinds = {f"below {level} %": f"below_q{level}" for level in (16, 50, 84)}
        kinds["p"] = "quantile_p"
        page.table(_by_parameter(quantiles, kinds), "quantiles", TEXTS["quantiles"], grouped=True)


def _refinement(page, comparisons, estimates, n_bootstrap, seed):
    """Quality of weighted draws, and their gain."""
    pairs = [(c, e) for c, e in zip(comparisons, estimates, strict=True) if is_refined(e.table)]
    if not pairs:
        return
    page.section("What the refinement is worth")
    page.text(TEXTS["refinement"])
    summaries = {c.name: refinement_summary(e.table) for c, e in pairs}
    names = list(dict.fromkeys(key for summary in summaries.values() for key in summary))
    names.sort(key=lambda name: name.startswith("log evidence"))
    table = Table({"quantity": names})
    for name, summary in summaries.items():
        table[name] = numbers([summary.get(key, np.nan) for key in names], 4)
    page.table(table, "refinement", TEXTS["refinement table"])
    by_name = {c.name: c for c in comparisons}
    pairs = [(c, by_name[e.plain]) for c, e in pairs if e.plain in by_name]
    if not pairs:
        return
    parameters = [name for name in _MAIN if all(name in c.matched.names for pair in pairs for c in pair)]
    table = Table({"parameter": parameters})
    for c, plain in pairs:
        ratios = (paired_rmse(c.matched, plain.matched, p, n_bootstrap=n_bootstrap, seed=seed) for p in parameters)
        table[f"{c.name} / {plain.name}"] = [_number(*ratio) for ratio in ratios]
    page.table(table, "refinement_gain", TEXTS["refinement gain"])


def _reference(page, reference):
    """The study's table."""
    page.section("The study's table: one galaxy, many noise draws")
    page.text(TEXTS["reference"])
    table = reference_table(reference)
    table.write(page.folder / "reference.ecsv", format="ascii.ecsv", overwrite=True)
    page.table(wide_reference(table, reference), "reference", TEXTS["reference table"], grouped=True)
    page.figure(figures.plot_reference(table), "reference", TEXTS["reference figure"])
    times = time_table(table)
    if len(times):
        published = [*STUDY_SECONDS["baseline fit"], 1.0 / STUDY_SECONDS["networks"][0]]
        page.table(times, "times", TEXTS["times"].format(*published))
    page.section("The study's baseline fit")
    page.text(TEXTS["baseline"])
    page.table(baseline_table(), "baseline", TEXTS["baseline table"], grouped=True)


def _images(page, cutouts, truth, estimates, snr, noiseless):
    """Images of a few galaxies."""
    rows = np.array(sorted(noiseless, key=lambda row: snr[row])) if noiseless else choose_rows(snr)
    page.section("Images from the estimated parameters")
    page.text(TEXTS["images"])
    for estimate in estimates:
        row = match_tables(truth, estimate.table).row[rows]
        if (row < 0).any() or not {f"{name}_fit" for name in _MAIN} <= set(estimate.table.colnames):
            continue
        for scale, word in (("linear", "linear"), ("log", "logarithmic")):
            figure = plot_images(
                cutouts[rows],
                QTable(estimate.table)[row],
                noiseless=[noiseless[i] for i in rows] if noiseless else None,
                scale=scale,
                labels=[f"S/N {snr[i]:.0f}" for i in rows],
                title=estimate.name,
            )
            text = TEXTS["images figure"].format(name=estimate.name, scale=word)
            page.figure(figure, f"images_{file_name(estimate.name)}_{scale}", text)


def _challenge(page, comparisons, n_bootstrap, seed):
    """Metrics of the Euclid Morphology Challenge."""
    page.section("In the measures of the Euclid Morphology Challenge")
    options = {"bins": 4, "n_bootstrap": n_bootstrap, "seed": seed}
    table = vstack([_named(challenge_metrics(c.matched, **options), c.name) for c in comparisons])
    table.write(page.folder / "challenge.ecsv", format="ascii.ecsv", overwrite=True)
    rows = []
    for row in table[table["by"] == "all"]:
        kinds = ("bias", "dispersion", "outlier_fraction", "within_1_sigma")
        cells = (_number(row[kind], row[f"{kind}_err"]) for kind in kinds)
        rows.append((row["parameter"], row["measure"], row["estimator"], f"{row['completeness']:.3f}", *cells))
    order = list(dict.fromkeys(row[0] for row in rows))
    rows.sort(key=lambda row: order.index(row[0]))
    names = ("parameter", "error", "estimator", "completeness", "bias", "dispersion", "outliers", "within 1 sigma")
    caption = TEXTS["challenge"].format(outlier=CHALLENGE_OUTLIER)
    page.table(Table(rows=rows, names=names), "challenge", caption, grouped=True)


def _closing(page):
    page.section("Words and files")
    page.text(TEXTS["files"])
    page.definitions(STATISTICS.items())


def _parameters(comparisons):
    """Parameters that any estimator has."""
    return list(dict.fromkeys(str(name) for c in comparisons for name in c.overall["parameter"]))


def _pair(comparison, name, kind):
    """Statistic with its error, as a text."""
    if name not in list(comparison.overall["parameter"]):
        return "-"
    row = comparison.row(name)
    return numbers(row[kind], 2)[0] if kind.endswith("_p") else _number(row[kind], row[f"{kind}_err"])


def _number(value, error):
    return with_error(float(value), float(error)) if np.isfinite(value) else "-"


def _label(comparisons, name):
    """Parameter with its unit."""
    units = (c.row(name)["unit"] for c in comparisons if name in list(c.overall["parameter"]))
    unit = next(units, "")
    return f"{name} [{unit}]" if unit else name


def file_name(name: str) -> str:
    """Name of an estimator as part of the name of a file."""
    return re.sub(r"[^\w.+-]+", "_", name).strip("_").lower()
