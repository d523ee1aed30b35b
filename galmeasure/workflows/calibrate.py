"""What ``galmeasure calibrate`` does: galaxies injected, measured, compared with their truths; a correction saved."""

import re
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from astropy.table import QTable, vstack

from galmeasure.exceptions import GalmeasureWarning
from galmeasure.io import SkySource, write_table
from galmeasure.workflows.executors import fitter_spec
from galmeasure.workflows.measure import number_or_text, yes_or_no
from galmeasure.workflows.outputs import check_output, refuse_inputs, report_folder

__all__ = ["run"]

READ_OPTIONS = (
    "psf", "psf_oversampling", "psf_flux", "psf_includes_pixel", "error", "weight", "weight_type", "mask", "mask_bits",
    "segmentation", "size", "detect", "gain", "pixel_scale", "zero_point",
)  # fmt: skip
"""Options of the command that say how the image is read."""

MOST_SHARED = 5
"""Galaxies in the same area of sky, beyond which a warning says so."""

CHUNK = 500
"""Galaxies injected and measured at once."""


def run(image, options):
    """Calibrate an estimator on an image.

    Parameters
    ----------
    image : str
        The image.
    options : dict
        Options of the command.

    Returns
    -------
    str
        The closing lines.
    """
    start = time.perf_counter()
    output = _output(image, options)
    report = None if options["report"] is None else report_folder(options)
    fitter = fitter_spec("calibrate", options).make()
    reading = {name: options[name] for name in READ_OPTIONS}
    reading["psf_includes_pixel"] = yes_or_no(reading["psf_includes_pixel"])
    sky = SkySource(image, **reading | {name: number_or_text(reading[name]) for name in ("error", "psf_flux")})
    from galmeasure.evaluation import calibrate
    from galmeasure.simulation.injection import core_radius

    galaxies = _galaxies(sky, fitter, options)
    core = core_radius(sky) if options["core"] is None else options["core"]
    fraction = sky.blank_positions(options["number"], core, np.random.default_rng(options["seed"]))[1]
    _warn_of_little_sky(sky, core, fraction, options["number"])
    truth, result = _measured(sky, galaxies, fitter, options)
    found = calibrate(fitter, truth, result, about=_about(image, galaxies, fraction, options), seed=options["seed"])
    if report is not None:
        _write_report(report, found)
    found.calibration.save(output, overwrite=options["overwrite"])
    used = len(found.truth)
    lines = [
        f"{used} of {len(truth)} galaxies in {100 * fraction:.0f} % of the image that is blank, "
        f"{time.perf_counter() - start:.0f} s; {found.n_left_out} failed, did not converge or ended at a bound",
        *_lines(found.summary()),
    ]
    if sky.notes:
        lines.append(f"used {', '.join(sky.notes)}")
    if report is not None:
        lines.append(f"report {report}")
    return "\n".join([*lines, f"calibration {output}"])


def _output(image, options):
    """Path of the calibration: the option, or the image's name with ``_calibration.json``."""
    source = Path(re.sub(r"\[[^\[\]]*\]$", "", str(image)))
    name = source.name.removesuffix(".gz").removesuffix(".fz")
    path = (
        source.with_name(Path(name).stem + "_calibration.json")
        if options["output"] is None
        else Path(options["output"])
    )
    refuse_inputs(path, image, options)
    check_output(path, overwrite=options["overwrite"])
    return path


def _galaxies(sky, fitter, options):
    """What the galaxies are like: those of a table, or of a prior in ranges."""
    from galmeasure.evaluation import GalaxiesLike, galaxies_of_prior
    from galmeasure.simulation.injection import sky_psf_fwhm

    if options["like"] is not None:
        other = [name for name in ("n", "r_eff") if options[name]]
        if other:
            msg = f"{other[0].replace('_', '-')} and like exclude one another"
            raise ValueError(msg)
        return GalaxiesLike(_table(options["like"]), **({"snr": options["snr"]} if options["snr"] else {}))
    r_eff = options["r_eff"]
    if r_eff and sky.pixel_scale is not None:
        r_eff = tuple(value / sky.pixel_scale for value in r_eff)
    weights = getattr(fitter, "_weights", None)
    ranges = {"snr": options["snr"] or None, "n": options["n"] or None, "r_eff": r_eff or None}
    name = "survey" if weights is None else weights.prior
    return galaxies_of_prior(name, psf_fwhm=sky_psf_fwhm(sky), size=sky.size, **ranges)


def _table(path):
    if not Path(path).is_file():
        msg = f"like: there is no file {path}"
        raise ValueError(msg)
    try:
        return QTable.read(path)
    except Exception as err:  # the readers of astropy raise all kinds
        msg = f"like: {path} cannot be read as a table ({err})"
        raise ValueError(msg) from err


def _measured(sky, galaxies, fitter, options):
    """Truths and results of all galaxies, injected and measured in chunks."""
    from tqdm import tqdm

    from galmeasure.evaluation import inject_galaxies

    count, truths, results = options["number"], [], []
    hidden = options["no_progress"] or not sys.stderr.isatty()
    with tqdm(total=count, unit="gal", file=sys.stderr, disable=hidden, dynamic_ncols=True) as progress:
        for first in range(0, count, CHUNK):
            size = min(CHUNK, count - first)
            seed = (options["seed"], first)
            cutouts, truth = inject_galaxies(sky, size, galaxies, core=options["core"], seed=seed, first=first + 1)
            truths.append(truth)
            results.append(fitter.fit(cutouts))
            progress.update(size)
    return tuple(vstack(tables, metadata_conflicts="silent") for tables in (truths, results))


def _warn_of_little_sky(sky, core, fraction, count):
    """Say so where galaxies share sky so much that neither half of them is independent of the other."""
    patches = fraction * np.prod([side - sky.size for side in sky.shape]) / (np.pi * core**2)
    if count > MOST_SHARED * patches:
        msg = f"blank sky is only {patches:.0f} areas of the core's radius, each used {count / patches:.0f} times: "
        msg += "what is learned and the numbers after it are those of this sky"
        warnings.warn(msg, GalmeasureWarning, stacklevel=2)


def _about(image, galaxies, fraction, options):
    """Where the galaxies come from, for the file."""
    like = options["like"]
    if like is None:
        ranges = (("S/N", galaxies.snr), ("n", galaxies.n), ("r_eff in pixels", galaxies.r_eff))
        text = ", ".join(f"{name} {r.lower:.4g} to {r.upper:.4g}" for name, r in ranges)
    else:
        text = f"like {Path(like).name}, S/N {galaxies.snr[0]:g} to {galaxies.snr[1]:g}"
    return {
        "image": Path(image).name, "psf": None if options["psf"] is None else Path(options["psf"]).name,
        "noise": str(next((options[name] for name in ("error", "weight") if options[name]), None)),
        "galaxies": text, "injected": options["number"], "seed": options["seed"],
        "blank_fraction": round(float(fraction), 4), "stamp": options["size"] or "default",
    }  # fmt: skip


def _lines(summary):
    """Table of bias and coverage before and after, in per cent."""
    columns = [("bias", "bias/error", "{:+.2f}", 1.0), ("coverage_68", "within 1 error", "{:.1f}", 100.0)]
    columns += [("coverage_95", "within 2 errors", "{:.1f}", 100.0), ("coverage_q", "16-84 %", "{:.1f}", 100.0)]
    columns = [each for each in columns if np.isfinite(summary[each[0]]).any()]
    wanted = {"bias": "0", "coverage_68": "68.3", "coverage_95": "95.4", "coverage_q": "68.3"}
    lines = ["before -> after, cross-validated; coverage in per cent"]
    lines.append(f"{'':8}" + "".join(f"{title:>18}" for _, title, _, _ in columns))
    for row in summary:
        cells = []
        for name, _, form, factor in columns:
            old, new = (form.format(factor * row[key]) for key in (name, f"{name}_after"))
            cells.append(f"{old + ' -> ' + new:>18}")
        lines.append(f"{row['parameter']:8}" + "".join(cells))
    lines.append(f"{'ideal':8}" + "".join(f"{wanted[name]:>18}" for name, *_ in columns))
    return lines


def _write_report(folder, found):
    """Tables by S/N and size before and after, the galaxies, and a figure."""
    from galmeasure.evaluation import compare, plot_calibration_trends

    folder.mkdir(parents=True, exist_ok=True)
    found.summary().write(folder / "summary.ecsv", overwrite=True)
    for name in ("before", "after"):
        table = getattr(found, name)
        comparison = compare(found.truth, table, n_bootstrap=50, name=name)
        comparison.table.write(folder / f"{name}.ecsv", overwrite=True)
        write_table(table, folder / f"galaxies_{name}.fits", overwrite=True)
    write_table(found.truth, folder / "truth.fits", overwrite=True)
    figure = plot_calibration_trends(found)
    for suffix in ("png", "pdf"):
        figure.savefig(folder / f"calibration.{suffix}", dpi=150)
