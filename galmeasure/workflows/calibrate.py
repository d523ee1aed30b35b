"""Calibrating on an image: galaxies injected, measured, compared with their truths; a correction saved."""

import re
import sys
import time
import warnings
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import numpy as np
from astropy.table import QTable, vstack

from galmeasure.evaluation import compare, plot_calibration_trends
from galmeasure.evaluation.learn_calibration import calibrate
from galmeasure.exceptions import GalmeasureWarning
from galmeasure.fitters.registry import FitterSpec
from galmeasure.io import ReadOptions, SkySource, write_table
from galmeasure.simulation.injection import GalaxiesLike, core_radius, galaxies_of_prior, inject_galaxies, sky_psf_fwhm
from galmeasure.utils.chunks import chunk_size
from galmeasure.workflows.fit_pool import FitPool, joined
from galmeasure.workflows.outputs import check_output, refuse_inputs, report_folder

__all__ = ["CalibrationSettings", "calibrate_on_image"]

MOST_SHARED = 5
"""Galaxies in the same area of sky, beyond which a warning says so."""


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings:
    """Settings of `calibrate_on_image`.

    Parameters
    ----------
    fitter : FitterSpec
        Estimator that is calibrated, see `galmeasure.fitters.registry.get_fitter`.
    reading : ReadOptions, optional
        Options with which the image is read, see `galmeasure.io.SkySource`.
    output : path-like, optional
        File of the calibration; the image's name with ``_calibration.json`` by default.
    overwrite : bool, optional
        Whether a file that is there, or a report, may be replaced.
    report : path-like, optional
        Folder for tables and a figure of bias and coverage.
    number : int, optional
        Number of galaxies that are injected.
    like : path-like, optional
        Result table whose galaxies those injected resemble.
    snr, n, r_eff : tuple of float, optional
        Ranges of signal-to-noise ratio, index and radius; the last in arcsec where the pixel scale is known.
    core : float, optional
        Pixels to the nearest source; 5, or twice the PSF's FWHM, by default.
    seed : int, optional
        Seed of the galaxies and of their places.
    device : str, optional
        Torch device on which the estimator computes.
    n_jobs : int, optional
        Processes that measure; -1 for one per core. Results are those of one process, to the last bit.
    progress : bool, optional
        Whether to show a progress bar where the standard error is a terminal.
    """

    fitter: FitterSpec
    reading: ReadOptions = field(default_factory=ReadOptions)
    output: str | PathLike | None = None
    overwrite: bool = False
    report: str | PathLike | None = None
    number: int = 4000
    like: str | PathLike | None = None
    snr: tuple[float, float] | None = None
    n: tuple[float, float] | None = None
    r_eff: tuple[float, float] | None = None
    core: float | None = None
    seed: int = 1
    device: str = "cpu"
    n_jobs: int = 1
    progress: bool = False


def calibrate_on_image(image: str | PathLike, settings: CalibrationSettings) -> str:
    """Calibrate an estimator with model galaxies in the blank sky of an image, and save the calibration.

    Parameters
    ----------
    image : path-like
        Image with its own sky, in which galaxies are injected.
    settings : CalibrationSettings
        Estimator, options of reading, and galaxies.

    Returns
    -------
    str
        Closing lines, with bias and coverage before and after.

    Raises
    ------
    CatalogError
        If a file cannot be read.
    ValueError
        If settings do not fit together, or there is too little blank sky.
    """
    start = time.perf_counter()
    output = _output(image, settings)
    report = None if settings.report is None else report_folder(settings.report, overwrite=settings.overwrite)
    fitter = settings.fitter.make()
    sky = SkySource(image, **{name: value for name, value in vars(settings.reading).items() if name != "image"})
    galaxies = _galaxies(sky, fitter, settings)
    core = core_radius(sky) if settings.core is None else settings.core
    fraction = sky.blank_positions(settings.number, core, np.random.default_rng(settings.seed))[1]
    _warn_of_little_sky(sky, core, fraction, settings.number)
    truth, result = _measured(sky, galaxies, settings)
    learned = calibrate(fitter, truth, result, about=_about(image, galaxies, fraction, settings), seed=settings.seed)
    if report is not None:
        _write_report(report, learned)
    learned.calibration.save(output, overwrite=settings.overwrite)
    lines = [
        f"{len(learned.truth)} of {len(truth)} galaxies in {100 * fraction:.0f} % of the image that is blank, "
        f"{time.perf_counter() - start:.0f} s; {learned.n_left_out} failed, did not converge or ended at a bound",
        *_lines(learned.summary()),
    ]
    if sky.notes:
        lines.append(f"used {', '.join(sky.notes)}")
    if report is not None:
        lines.append(f"report {report}")
    return "\n".join([*lines, f"calibration {output}"])


def _output(image, settings):
    """Path of the calibration: the one given, or the image's name with ``_calibration.json``."""
    source = Path(re.sub(r"\[[^\[\]]*\]$", "", str(image)))
    name = source.name.removesuffix(".gz").removesuffix(".fz")
    default = source.with_name(Path(name).stem + "_calibration.json")
    path = default if settings.output is None else Path(settings.output)
    refuse_inputs(path, image, vars(settings.reading) | settings.fitter.arguments | {"like": settings.like})
    check_output(path, overwrite=settings.overwrite)
    return path


def _galaxies(sky, fitter, settings):
    """What the galaxies are like: those of a table, or of a prior in ranges."""
    if settings.like is not None:
        ranges = [name for name in ("n", "r_eff") if getattr(settings, name)]
        if ranges:
            msg = f"{ranges[0].replace('_', '-')} and like cannot be given together"
            raise ValueError(msg)
        return GalaxiesLike(_table(settings.like), **({"snr": settings.snr} if settings.snr else {}))
    r_eff = settings.r_eff
    if r_eff and sky.pixel_scale is not None:
        r_eff = tuple(value / sky.pixel_scale for value in r_eff)
    weights = getattr(fitter, "_weights", None)
    ranges = {"snr": settings.snr or None, "n": settings.n or None, "r_eff": r_eff or None}
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


def _measured(sky, galaxies, settings):
    """Truths and results of all galaxies, injected here and measured in chunks."""
    from tqdm import tqdm

    count, step, truths = settings.number, chunk_size("injected galaxies"), []

    def chunks():
        for first in range(0, count, step):
            size, seed = min(step, count - first), (settings.seed, first)
            cutouts, truth = inject_galaxies(sky, size, galaxies, core=settings.core, seed=seed, first=first + 1)
            truths.append(truth)
            yield cutouts

    hidden = not settings.progress or not sys.stderr.isatty()
    with (
        FitPool(settings.n_jobs, settings.device) as pool,
        tqdm(total=count, unit="gal", file=sys.stderr, disable=hidden, dynamic_ncols=True) as progress,
    ):
        results = list(pool.tables(settings.fitter, chunks(), progress.update))
    return vstack(truths, metadata_conflicts="silent"), joined(results)


def _warn_of_little_sky(sky, core, fraction, count):
    """Say so where galaxies share sky so much that neither half of them is independent of the other."""
    patches = fraction * np.prod([side - sky.size for side in sky.shape]) / (np.pi * core**2)
    if count > MOST_SHARED * patches:
        msg = f"blank sky is only {patches:.0f} areas of the core's radius, each used {count / patches:.0f} times: "
        msg += "the calibration and its statistics hold for this sky only"
        warnings.warn(msg, GalmeasureWarning, stacklevel=2)


def _about(image, galaxies, fraction, settings):
    """Where the galaxies come from, for the file."""
    reading, like = settings.reading, settings.like
    if like is None:
        ranges = (("S/N", galaxies.snr), ("n", galaxies.n), ("r_eff in pixels", galaxies.r_eff))
        text = ", ".join(f"{name} {r.lower:.4g} to {r.upper:.4g}" for name, r in ranges)
    else:
        text = f"like {Path(like).name}, S/N {galaxies.snr[0]:g} to {galaxies.snr[1]:g}"
    return {
        "image": Path(image).name, "psf": None if reading.psf is None else Path(reading.psf).name,
        "noise": str(next((noise for noise in (reading.error, reading.weight) if noise), None)),
        "galaxies": text, "injected": settings.number, "seed": settings.seed,
        "blank_fraction": round(float(fraction), 4), "stamp": reading.size or "default",
    }  # fmt: skip


def _lines(summary):
    """Table of bias and coverage before and after, in per cent."""
    columns = [("bias", "bias/error", "{:+.2f}", 1.0), ("coverage_68", "within 1 error", "{:.1f}", 100.0)]
    columns += [("coverage_95", "within 2 errors", "{:.1f}", 100.0), ("coverage_q", "16-84 %", "{:.1f}", 100.0)]
    columns = [column for column in columns if np.isfinite(summary[column[0]]).any()]
    ideal = {"bias": "0", "coverage_68": "68.3", "coverage_95": "95.4", "coverage_q": "68.3"}
    lines = ["before -> after, cross-validated; coverage in per cent"]
    lines.append(f"{'':8}" + "".join(f"{title:>18}" for _, title, _, _ in columns))
    for row in summary:
        cells = []
        for name, _, form, factor in columns:
            old, new = (form.format(factor * row[key]) for key in (name, f"{name}_after"))
            cells.append(f"{old + ' -> ' + new:>18}")
        lines.append(f"{row['parameter']:8}" + "".join(cells))
    lines.append(f"{'ideal':8}" + "".join(f"{ideal[name]:>18}" for name, *_ in columns))
    return lines


def _write_report(folder, calibration):
    """Tables by S/N and size before and after, the galaxies, and a figure."""
    folder.mkdir(parents=True, exist_ok=True)
    calibration.summary().write(folder / "summary.ecsv", overwrite=True)
    for name in ("before", "after"):
        table = getattr(calibration, name)
        comparison = compare(calibration.truth, table, n_bootstrap=50, name=name)
        comparison.table.write(folder / f"{name}.ecsv", overwrite=True)
        write_table(table, folder / f"galaxies_{name}.fits", overwrite=True)
    write_table(calibration.truth, folder / "truth.fits", overwrite=True)
    figure = plot_calibration_trends(calibration)
    for suffix in ("png", "pdf"):
        figure.savefig(folder / f"calibration.{suffix}", dpi=150)
