"""Evaluating estimators: galaxies of known parameters, measurements, reference draws, report."""

import dataclasses
import sys
import time
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from galmeasure import __version__
from galmeasure.fitters.registry import FITTERS, get_fitter
from galmeasure.results.columns import TRUE
from galmeasure.workflows.executors import check_device
from galmeasure.workflows.fit_pool import FitPool
from galmeasure.workflows.galaxies import find_galaxies, read_galaxies, simulate
from galmeasure.workflows.outputs import report_folder

__all__ = ["EvaluationSettings", "column_map", "evaluate_estimators"]

REFERENCES = {60: "reference-60", 30: "reference-30"}
REFINED = " refined"
"""End of the names of refined estimators."""
SHOWN = 4
"""Galaxies whose images are shown."""

REPORT = "galmeasure_report"
"""Folder of the report unless another is given."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Settings of `evaluate_estimators`.

    Parameters
    ----------
    method : tuple of str, optional
        Names of the estimators, or ``"none"``; ``"neural"`` and ``"lsq"`` by default.
    weights : tuple of str, optional
        Weights of neural estimators; the default ones, and on galaxies like the study's those for them, by default.
    refine : bool, optional
        Whether neural estimators are also refined by importance sampling.
    dataset : str, optional
        Set of the study, ``"1"``, ``"2"`` or ``"3"``, or a file of ``galmeasure simulate``.
    against : path-like, optional
        Catalogue with true parameters; results are compared with these, and there is no data set.
    size : int, optional
        Number of galaxies; 2000, or all of the file, by default.
    report : path-like, optional
        Folder of the report; ``galmeasure_report`` by default, or none with ``against``.
    overwrite : bool, optional
        Whether the folder may hold files already.
    catalog : tuple of str, optional
        Result tables of the same galaxies, of any code.
    preset : tuple of str, optional
        Conventions of these tables: one for all, or one for each.
    columns : str, optional
        Columns that are named otherwise, such as ``"n=SERSIC_N,radius=RE"``.
    band : str, optional
        Band of the columns of these tables, for codes with several.
    pixel_scale : float, optional
        Arcsec per pixel of the radii of these tables.
    zero_point : float, optional
        Magnitude of a flux of 1.
    samples : int, optional
        Posterior draws per galaxy.
    draws : int, optional
        Noise draws of the reference galaxy at each signal-to-noise ratio; 0 for none.
    baseline_draws : int, optional
        Number of these that the study's baseline fits too.
    share_n : int, optional
        Galaxies in a row that share a Sersic index, which simulates quicker.
    bootstrap : int, optional
        Rounds of the bootstrap, for errors of the statistics.
    seed : int, optional
        Seed of the simulated galaxies.
    device : str, optional
        Torch device on which estimators compute.
    n_jobs : int, optional
        Processes that simulate and measure; -1 for one per core. Results are those of one process, to the last bit.
    progress : bool, optional
        Whether to say on a terminal what is being done.
    """

    method: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    refine: bool = False
    dataset: str = "3"
    against: str | None = None
    size: int | None = None
    report: str | PathLike | None = None
    overwrite: bool = False
    catalog: tuple[str, ...] = ()
    preset: tuple[str, ...] = ()
    columns: str | None = None
    band: str | None = None
    pixel_scale: float | None = None
    zero_point: float | None = None
    samples: int = 100
    draws: int = 1000
    baseline_draws: int = 20
    share_n: int = 1
    bootstrap: int = 200
    seed: int = 20
    device: str = "cpu"
    n_jobs: int = -1
    progress: bool = False


def evaluate_estimators(settings: EvaluationSettings) -> str:
    """Evaluate estimators on galaxies of known parameters and write a report.

    Parameters
    ----------
    settings : EvaluationSettings
        Galaxies, estimators, results of other codes, and what to write.

    Returns
    -------
    str
        Closing lines of the command.

    Raises
    ------
    CatalogError
        If a file cannot be read, or has no true parameters.
    ValueError
        If settings do not fit together.
    """
    start = time.perf_counter()
    check_device(settings.device)
    if settings.against is not None:
        return _against(settings)
    folder = report_folder(settings.report or REPORT, overwrite=settings.overwrite)
    galaxies = find_galaxies(settings.dataset, settings.seed)
    specs = _estimators(settings, galaxies.study)
    catalogs = _catalogs(settings)
    if not specs and not catalogs:
        msg = "method: none leaves nothing to evaluate without a catalog"
        raise ValueError(msg)
    from galmeasure.evaluation import Estimate, cramer_rao_bounds, write_report
    from galmeasure.evaluation.report.images import choose_rows
    from galmeasure.io.truths import read_noiseless

    with TemporaryDirectory(prefix="galmeasure_") as scratch, FitPool(settings.n_jobs, settings.device) as pool:
        path = _file(settings, galaxies, scratch)
        cutouts, truth = read_galaxies(path, settings.size)
        estimates = [_measure(name, spec, cutouts, settings, pool) for name, spec in specs.items()]
        estimates += [Estimate(name=name, table=table, about="catalogue") for name, table in catalogs.items()]
        _say(settings, "Cramer-Rao bounds")
        bounds = cramer_rao_bounds(cutouts, truth)
        noiseless = read_noiseless(path, choose_rows(truth[_snr_column(truth)], SHOWN)) if _snr_column(truth) else {}
        reference = _reference(settings, specs, scratch, pool)
        _say(settings, "report")
        page = write_report(
            folder,
            truth,
            estimates,
            cutouts=cutouts,
            noiseless=noiseless,
            bounds=bounds,
            reference=reference,
            about=[galaxies.about, f"galmeasure {__version__}."],
            zero_point=settings.zero_point,
            pixel_scale=settings.pixel_scale,
            n_bootstrap=settings.bootstrap,
            title=f"Evaluation of {', '.join(estimate.name for estimate in estimates)}",
            **_comparisons(galaxies.study),
        )
        _write_results(folder, truth, estimates)
    seconds = time.perf_counter() - start
    lines = [f"evaluated {', '.join(e.name for e in estimates)} on {len(truth)} galaxies in {seconds:.0f} s"]
    return "\n".join([*lines, f"report {page}"])


def _against(settings):
    """Results beside the truths of their own input."""
    from galmeasure.workflows.against import compare_with_input

    if settings.report is not None:
        report_folder(settings.report, overwrite=settings.overwrite)

    def measured(truth):
        from galmeasure import read_cutouts

        cutouts, specs = read_cutouts(settings.against)[: settings.size], _estimators(settings, None)
        with FitPool(settings.n_jobs, settings.device) as pool:
            return [_measure(name, spec, cutouts, settings, pool, False) for name, spec in specs.items()]

    return compare_with_input(settings, measured, _catalogs(settings))


def _estimators(settings, study):
    """Estimators by their names in the report."""
    choices = [entry.name for entry in FITTERS.values() if "evaluate" in entry.commands]
    methods = settings.method or ("neural", "lsq")
    for method in methods:
        if method not in (*choices, "none"):
            msg = f"method must be one of {', '.join(choices)}, none, not {method!r}"
            raise ValueError(msg)
    for name in ("weights", "refine"):
        if getattr(settings, name) and "neural" not in methods:
            msg = f"{name} is an option of --method neural"
            raise ValueError(msg)
    specs = {}
    for method in dict.fromkeys(methods):
        if method == "none":
            continue
        entry = get_fitter(method)
        device = settings.device if entry.uses_device else None
        if "weights" not in {option.name for option in entry.options}:
            specs[method] = entry.spec(device=device)
            continue
        for weights in settings.weights or _default_weights(study):
            name = f"{method} {Path(weights).stem}"
            specs[name] = entry.spec({"weights": weights}, device=device)
            if settings.refine:
                refined = {"weights": weights, "refine": "importance"}
                specs[name + REFINED] = entry.spec(refined, device=device)
    for spec in specs.values():  # what cannot be made is refused before anything is simulated
        spec.make()
    return specs


def _default_weights(study):
    """Default weights, and on galaxies like the study's those that were trained for them."""
    from galmeasure.weights import DEFAULT_WEIGHTS, list_weights

    names = [entry.name for entry in list_weights() if entry.prior == "study"] if study is not None else []
    return list(dict.fromkeys([DEFAULT_WEIGHTS, *names]))


def _catalogs(settings):
    """Tables of other codes by their names in the report."""
    paths, presets = settings.catalog, settings.preset or (None,)
    if len(presets) not in (1, len(paths)):
        msg = f"preset must be given once, or once for each of the {len(paths)} catalogues, not {len(presets)} times"
        raise ValueError(msg)
    if not paths:
        if settings.preset or settings.columns:
            msg = "preset and columns say how to read a catalog; give one with --catalog"
            raise ValueError(msg)
        return {}
    from galmeasure.evaluation import read_results

    presets = presets if len(presets) == len(paths) else presets * len(paths)
    how = {"columns": column_map(settings.columns), "zero_point": settings.zero_point}
    how |= {"pixel_scale": settings.pixel_scale, "band": settings.band}
    tables = {}
    for path, preset in zip(paths, presets, strict=True):
        name = Path(path).stem if preset is None else f"{Path(path).stem} ({preset})"
        while name in tables:
            name += "'"
        tables[name] = read_results(path, preset, **how)
    return tables


def column_map(text: str | None) -> dict[str, str] | None:
    """Columns by what they hold, of a text such as n=SERSIC_N,radius=RE.

    Parameters
    ----------
    text : str or None
        Option ``--columns`` of the commands, pairs between commas.

    Returns
    -------
    dict of str to str, or None
        Names of the columns; None without a text.

    Raises
    ------
    ValueError
        If the text does not consist of such pairs.
    """
    if text is None:
        return None
    pairs = [pair.split("=") for pair in text.split(",") if pair.strip()]
    if not pairs or any(len(pair) != 2 or not all(side.strip() for side in pair) for pair in pairs):
        msg = f"columns must be pairs such as n=SERSIC_N,radius=RE, not {text!r}"
        raise ValueError(msg)
    return {key.strip(): name.strip() for key, name in pairs}


def _file(settings, galaxies, scratch):
    """File of the galaxies: the one given, or a simulated one."""
    if galaxies.path is not None:
        return galaxies.path
    size = settings.size or 2000
    _say(settings, f"simulating {size} galaxies")
    how = {"seed": settings.seed, "n_jobs": settings.n_jobs if size > 100 else 1, "share_n": settings.share_n}
    return simulate(Path(scratch, "galaxies.fits"), galaxies.study, size, **how)


def _measure(name, spec, cutouts, settings, pool, samples=True):
    """Results of an estimator, with draws where it gives some."""
    from galmeasure.evaluation import Estimate

    _say(settings, f"{name}: {len(cutouts)} galaxies")
    table, seconds, core_seconds = pool.fit(spec, cutouts)
    draws, fitter = None, spec.make()
    is_flow = hasattr(fitter, "sample") and getattr(fitter, "refine", None) != "importance"  # exact draws cost too much
    if samples and settings.samples and is_flow:
        draws = fitter.sample(cutouts, n_samples=settings.samples)
    plain = name.removesuffix(REFINED) if name.endswith(REFINED) else None
    return Estimate(name=name, table=table, samples=draws, seconds=seconds, core_seconds=core_seconds, plain=plain,
                    about=_one_line(fitter))  # fmt: skip


def _reference(settings, specs, scratch, pool):
    """Noise draws of the reference galaxy, measured."""
    if not settings.draws:
        return []
    from galmeasure.evaluation import ReferenceDraws, cramer_rao_bounds
    from galmeasure.evaluation.report.reference import BASELINE

    reference, baseline = [], get_fitter("baseline").spec()
    for snr, name in REFERENCES.items():
        path = simulate(Path(scratch, f"{name}.fits"), name, settings.draws, seed=settings.seed)
        cutouts, truth = read_galaxies(path)
        others = [(label, spec) for label, spec in specs.items() if label != "baseline"]
        estimates = [_measure(label, spec, cutouts, settings, pool, False) for label, spec in others]
        count = min(settings.baseline_draws, len(cutouts))
        if count:
            estimates.append(_measure(BASELINE, baseline, cutouts[:count], settings, pool, False))
        bounds = cramer_rao_bounds(cutouts[:1], truth[:1])
        reference.append(ReferenceDraws(snr=snr, truth=truth, bounds=bounds, estimates=estimates))
    return reference


def _snr_column(truth):
    names = (TRUE.format(name) for name in ("snr_total", "snr"))
    return next((name for name in names if name in truth.colnames), None)


def _comparisons(study):
    """What is known of the study's galaxies: published numbers and the limit."""
    from galmeasure.evaluation.report.published import EXACT_RMSE, STUDY_PARAMETERS, STUDY_RMSE

    def in_table_units(values):
        return {name: v * (1e5 if name == "flux" else 1.0) for name, v in zip(STUDY_PARAMETERS, values, strict=True)}

    comparisons = {}
    if study in EXACT_RMSE:
        comparisons["limit"] = in_table_units(EXACT_RMSE[study])
    if study in STUDY_RMSE:
        comparisons["published"] = {"Xception CNN (published)": in_table_units(STUDY_RMSE[study])}
    return comparisons


def _one_line(fitter):
    """Class of a fitter and what of its configuration is not its default."""
    changed = [
        f"{field.name}={getattr(fitter, field.name)!r}"
        for field in dataclasses.fields(fitter)
        if field.init and field.default is not dataclasses.MISSING and getattr(fitter, field.name) != field.default
    ]
    return f"{type(fitter).__name__}({', '.join(changed)})"


def _write_results(folder, truth, estimates):
    """Truths and results, to be used again."""
    from galmeasure.evaluation.report.report import file_name
    from galmeasure.io import write_table

    write_table(truth, folder / "truth.fits", overwrite=True)
    for estimate in estimates:
        write_table(estimate.table, folder / f"results_{file_name(estimate.name)}.fits", overwrite=True)


def _say(settings, text):
    """Say what is being done, on a terminal."""
    if settings.progress and sys.stderr.isatty():
        click.echo(f"{text} ...", err=True)
