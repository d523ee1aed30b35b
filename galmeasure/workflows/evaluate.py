"""What ``galmeasure evaluate`` does: galaxies, estimators, reference draws, report."""

import dataclasses
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from galmeasure import __version__
from galmeasure.fitters.registry import FITTERS, get_fitter
from galmeasure.workflows.executors import check_device
from galmeasure.workflows.galaxies import find_galaxies, read_galaxies, simulate
from galmeasure.workflows.outputs import report_folder

__all__ = ["column_map", "run"]

REFERENCES = {60: "reference-60", 30: "reference-30"}
REFINED = " refined"
"""End of the names of refined estimators."""
SHOWN = 4
"""Galaxies whose images are shown."""


def run(options):
    """Evaluate estimators and write the report.

    Parameters
    ----------
    options : dict
        Options of the command.

    Returns
    -------
    str
        The closing lines.
    """
    start = time.perf_counter()
    check_device(options["device"])
    if options["against"] is not None:
        return _against(options)
    folder = report_folder(options)
    galaxies = find_galaxies(options["dataset"], options["seed"])
    fitters = _fitters(options, galaxies.study)
    catalogs = _catalogs(options)
    if not fitters and not catalogs:
        msg = "method: none leaves nothing to evaluate without a catalog"
        raise ValueError(msg)
    from galmeasure.evaluation import Estimate, cramer_rao_bounds, write_report
    from galmeasure.evaluation.report.images import choose_rows
    from galmeasure.io.truths import read_noiseless

    with TemporaryDirectory(prefix="galmeasure_") as scratch:
        path = _file(options, galaxies, scratch)
        cutouts, truth = read_galaxies(path, options["size"])
        estimates = [_measure(name, fitter, cutouts, options) for name, fitter in fitters.items()]
        estimates += [Estimate(name=name, table=table, about="catalogue") for name, table in catalogs.items()]
        _say(options, "Cramer-Rao bounds")
        bounds = cramer_rao_bounds(cutouts, truth)
        noiseless = read_noiseless(path, choose_rows(truth[_snr_column(truth)], SHOWN)) if _snr_column(truth) else {}
        reference = _reference(options, fitters, scratch)
        _say(options, "report")
        page = write_report(
            folder,
            truth,
            estimates,
            cutouts=cutouts,
            noiseless=noiseless,
            bounds=bounds,
            reference=reference,
            about=[galaxies.about, f"galmeasure {__version__}."],
            zero_point=options["zero_point"],
            pixel_scale=options["pixel_scale"],
            n_bootstrap=options["bootstrap"],
            title=f"Evaluation of {', '.join(estimate.name for estimate in estimates)}",
            **_comparisons(galaxies.study),
        )
        _write_results(folder, truth, estimates)
    seconds = time.perf_counter() - start
    lines = [f"evaluated {', '.join(e.name for e in estimates)} on {len(truth)} galaxies in {seconds:.0f} s"]
    return "\n".join([*lines, f"report {page}"])


def _against(options):
    """Results beside the truths of their own input."""
    from galmeasure.workflows.against import compare_with_input

    if options["report"] is not None:
        report_folder(options)

    def measured(truth):
        from galmeasure import read_cutouts

        cutouts = read_cutouts(options["against"])[: options["size"]]
        return [_measure(name, fitter, cutouts, options, False) for name, fitter in _fitters(options, None).items()]

    return compare_with_input(options, measured, _catalogs(options))


def _fitters(options, study):
    """Fitters by their names in the report."""
    known = [entry.name for entry in FITTERS.values() if "evaluate" in entry.commands]
    methods = options["method"] or ("neural", "lsq")
    for method in methods:
        if method not in (*known, "none"):
            msg = f"method must be one of {', '.join(known)}, none, not {method!r}"
            raise ValueError(msg)
    for name in ("weights", "refine"):
        if options[name] and "neural" not in methods:
            msg = f"{name} is an option of --method neural"
            raise ValueError(msg)
    fitters = {}
    for method in dict.fromkeys(methods):
        if method == "none":
            continue
        entry = get_fitter(method)
        device = options["device"] if entry.uses_device else None
        if "weights" not in {option.name for option in entry.options}:
            fitters[method] = entry.spec(device=device).make()
            continue
        for weights in options["weights"] or _default_weights(study):
            name = f"{method} {Path(weights).stem}"
            fitters[name] = entry.spec({"weights": weights}, device=device).make()
            if options["refine"]:
                refined = {"weights": weights, "refine": "importance"}
                fitters[name + REFINED] = entry.spec(refined, device=device).make()
    return fitters


def _default_weights(study):
    """Default weights, and on galaxies like the study's those that were trained for them."""
    from galmeasure.weights import DEFAULT_WEIGHTS, list_weights

    names = [each.name for each in list_weights() if each.prior == "study"] if study is not None else []
    return list(dict.fromkeys([DEFAULT_WEIGHTS, *names]))


def _catalogs(options):
    """Tables of other codes by their names in the report."""
    paths, presets = options["catalog"], options["preset"] or (None,)
    if len(presets) not in (1, len(paths)):
        msg = f"preset must be given once, or once for each of the {len(paths)} catalogues, not {len(presets)} times"
        raise ValueError(msg)
    if not paths:
        if options["preset"] or options["columns"]:
            msg = "preset and columns say how to read a catalog; give one with --catalog"
            raise ValueError(msg)
        return {}
    from galmeasure.evaluation import read_results

    presets = presets if len(presets) == len(paths) else presets * len(paths)
    how = {"columns": column_map(options["columns"]), "zero_point": options["zero_point"]}
    how |= {"pixel_scale": options["pixel_scale"], "band": options["band"]}
    tables = {}
    for path, preset in zip(paths, presets, strict=True):
        name = Path(path).stem if preset is None else f"{Path(path).stem} ({preset})"
        while name in tables:
            name += "'"
        tables[name] = read_results(path, preset, **how)
    return tables


def column_map(text):
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
    pairs = [part.split("=") for part in text.split(",") if part.strip()]
    if not pairs or any(len(pair) != 2 or not all(each.strip() for each in pair) for pair in pairs):
        msg = f"columns must be pairs such as n=SERSIC_N,radius=RE, not {text!r}"
        raise ValueError(msg)
    return {key.strip(): name.strip() for key, name in pairs}


def _file(options, galaxies, scratch):
    """File of the galaxies: the one given, or a simulated one."""
    if galaxies.path is not None:
        return galaxies.path
    size = options["size"] or 2000
    _say(options, f"simulating {size} galaxies")
    how = {"seed": options["seed"], "n_jobs": options["n_jobs"] if size > 100 else 1, "share_n": options["share_n"]}
    return simulate(Path(scratch, "galaxies.fits"), galaxies.study, size, **how)


def _measure(name, fitter, cutouts, options, samples=True):
    """Results of an estimator, with draws where it gives some."""
    from galmeasure.evaluation import Estimate

    _say(options, f"{name}: {len(cutouts)} galaxies")
    start, core_start = time.perf_counter(), time.process_time()
    table = fitter.fit(cutouts)
    seconds, core_seconds = time.perf_counter() - start, time.process_time() - core_start
    draws = None
    is_flow = hasattr(fitter, "sample") and getattr(fitter, "refine", None) != "importance"  # exact draws cost too much
    if samples and options["samples"] and is_flow:
        draws = fitter.sample(cutouts, n_samples=options["samples"])
    plain = name.removesuffix(REFINED) if name.endswith(REFINED) else None
    return Estimate(name=name, table=table, samples=draws, seconds=seconds, core_seconds=core_seconds, plain=plain,
                    about=_one_line(fitter))  # fmt: skip


def _reference(options, fitters, scratch):
    """Noise draws of the reference galaxy, measured."""
    if not options["draws"]:
        return []
    from galmeasure.evaluation import GalSimSersicFitter, ReferenceDraws, cramer_rao_bounds
    from galmeasure.evaluation.report.reference import BASELINE

    found = []
    for snr, name in REFERENCES.items():
        path = simulate(Path(scratch, f"{name}.fits"), name, options["draws"], seed=options["seed"])
        cutouts, truth = read_galaxies(path)
        estimates = [_measure(n, fitter, cutouts, options, False) for n, fitter in fitters.items() if n != "baseline"]
        count = min(options["baseline_draws"], len(cutouts))
        if count:
            estimates.append(_measure(BASELINE, GalSimSersicFitter(), cutouts[:count], options, False))
        bounds = cramer_rao_bounds(cutouts[:1], truth[:1])
        found.append(ReferenceDraws(snr=snr, truth=truth, bounds=bounds, estimates=estimates))
    return found


def _snr_column(truth):
    return next((name for name in ("true_snr_total", "true_snr") if name in truth.colnames), None)


def _comparisons(study):
    """What is known of the study's galaxies: published numbers and the limit."""
    from galmeasure.evaluation.report.published import EXACT_RMSE, STUDY_PARAMETERS, STUDY_RMSE

    def in_table_units(values):
        return {name: v * (1e5 if name == "flux" else 1.0) for name, v in zip(STUDY_PARAMETERS, values, strict=True)}

    known = {}
    if study in EXACT_RMSE:
        known["limit"] = in_table_units(EXACT_RMSE[study])
    if study in STUDY_RMSE:
        known["published"] = {"Xception CNN (published)": in_table_units(STUDY_RMSE[study])}
    return known


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


def _say(options, text):
    """Say what is being done, on a terminal."""
    if not options["no_progress"] and sys.stderr.isatty():
        click.echo(f"{text} ...", err=True)
