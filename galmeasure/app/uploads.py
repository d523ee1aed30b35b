"""Uploaded catalogues: measured as the command does it, in a temporary folder of which nothing stays."""

from __future__ import annotations

import io
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from galmeasure.app.estimators import find_estimator
from galmeasure.flags import FLAGS
from galmeasure.results.columns import TRUE
from galmeasure.utils.text import one_line

if TYPE_CHECKING:
    from astropy.table import QTable

    from galmeasure.cutouts import Cutouts

__all__ = [
    "DEMO_ROWS", "MAX_PIXELS", "MAX_ROWS", "MAX_UPLOAD_MB", "MeasuredCatalog", "Upload", "UploadError", "demo_upload",
    "fit_gallery", "measure_upload", "plain_table", "table_file",
]  # fmt: skip

MAX_UPLOAD_MB = 50
"""Largest upload in megabytes, unless the command says otherwise."""

MAX_ROWS = 500
"""Most galaxies of a catalogue that are measured at once; the command line has no such limit."""

MAX_PIXELS = 2**23
"""Most pixels of all stamps that are measured at once."""

DEMO_ROWS = 40
"""Galaxies of the demo catalogue."""

_MAGIC = b"SIMPLE  ="
_LOG = logging.getLogger(__name__)


class UploadError(ValueError):
    """An upload that cannot be measured; the message says why, in the words of the page."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """Files and options of one request.

    Parameters
    ----------
    name : str
        Name of the uploaded file, for messages.
    data : bytes
        Contents of a FITS file: a table of cutouts, a stamp, cutouts in extensions, or an image with ``detect``.
    psf : bytes, optional
        Contents of a FITS file with the image of the PSF; by default the PSF is that in the file.
    no_psf : bool, optional
        Whether the PSF is taken to be a delta function, where there is no image of it.
    detect : bool, optional
        Whether the file is an image of a field in which sources are to be detected.
    error, gain, pixel_scale, zero_point : float, optional
        1-sigma noise of a pixel, electrons per unit, arcsec per pixel and magnitude of one unit; by default what the
        file says.
    """

    name: str
    data: bytes = field(repr=False)
    psf: bytes | None = field(default=None, repr=False)
    no_psf: bool = False
    detect: bool = False
    error: float | None = None
    gain: float | None = None
    pixel_scale: float | None = None
    zero_point: float | None = None


@dataclass(frozen=True, eq=False)
class MeasuredCatalog:
    """Result of an upload.

    Parameters
    ----------
    name : str
        Name of the uploaded file.
    table : QTable
        Result table, as the command gives it.
    cutouts : Cutouts
        Stamps that were measured, one for each row.
    n_total : int
        Number of galaxies in the file, of which the first ones were measured.
    notes : list of str
        What was read from the headers.
    counts : dict of str to int
        Number of rows with each flag, by its name; flags that no row has are left out.
    warning : str
        Doubt about the errors of the pixels; empty if there is none.
    seconds : float
        Time that the measurements took.
    """

    name: str
    table: QTable
    cutouts: Cutouts
    n_total: int
    notes: list[str]
    counts: dict[str, int]
    warning: str
    seconds: float


def measure_upload(upload: Upload, estimator: str, n_rows: int = MAX_ROWS) -> MeasuredCatalog:
    """Measure the first galaxies of an uploaded file.

    Parameters
    ----------
    upload : Upload
        Files and options of the request.
    estimator : str
        Label of the estimator, see `galmeasure.app.estimators.list_estimators`.
    n_rows : int, optional
        Number of galaxies to measure, at most `MAX_ROWS`.

    Returns
    -------
    MeasuredCatalog
        Table, stamps and notes; no file is left.

    Raises
    ------
    UploadError
        If the files cannot be read or measured, whatever the reason.
    """
    if not 1 <= n_rows <= MAX_ROWS:
        msg = f"n_rows must be 1 to {MAX_ROWS}, not {n_rows}"
        raise ValueError(msg)
    for data, what in ((upload.data, upload.name), (upload.psf, "the PSF")):
        if data is not None and not data.startswith(_MAGIC):
            msg = f"{what} is not an uncompressed FITS file"
            raise UploadError(msg)
    with TemporaryDirectory(prefix="galmeasure-") as folder:
        try:
            return _measure_in(Path(folder), upload, find_estimator(estimator).spec, n_rows)
        except UploadError:
            raise
        except (ValueError, TypeError, OSError, ImportError) as err:
            raise UploadError(_for_the_page(err, folder)) from err
        except Exception as err:
            _LOG.exception("upload could not be measured")
            msg = f"{upload.name} cannot be measured ({type(err).__name__}: {_for_the_page(err, folder)})"
            raise UploadError(msg) from err


def demo_upload(seed: int = 1) -> Upload:
    """Make the demo catalogue: galaxies like those of the study's third data set, with their true parameters.

    Parameters
    ----------
    seed : int, optional
        Seed of the random numbers. Default 1.

    Returns
    -------
    Upload
        FITS table of cutouts, as if it had been uploaded.
    """
    from astropy import units as u
    from astropy.io import fits
    from astropy.table import Table

    from galmeasure.app.drawing import GAIN, PIXEL_SCALE
    from galmeasure.app.study_sets import draw_study_galaxies

    galaxies = draw_study_galaxies("3", DEMO_ROWS, seed)
    cutouts = galaxies.cutouts
    table = Table({"id": np.arange(1, len(cutouts) + 1)})
    table["cutout"] = np.array([cutouts.image(i) for i in range(len(cutouts))], dtype=np.float32) * u.adu
    table["error"] = galaxies.truth["sigma"] * u.adu
    table["psf"] = np.array([cutouts.psf_image(i) for i in range(len(cutouts))], dtype=np.float32)
    for name, values in galaxies.truth.items():
        table[TRUE.format(name)] = values
    table.meta = {"EXTNAME": "CUTOUTS", "PIXSCALE": PIXEL_SCALE, "GAIN": GAIN}
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.table_to_hdu(table)]).writeto(buffer)
    return Upload(name="demo_catalog.fits", data=buffer.getvalue())


def fit_gallery(measured: MeasuredCatalog, first: int, count: int) -> np.ndarray:
    """Draw stamps, models and residuals of some galaxies.

    Parameters
    ----------
    measured : MeasuredCatalog
        Result of an upload.
    first, count : int
        First row, counted from 0, and number of rows that are shown.

    Returns
    -------
    ndarray
        Picture of type uint8, shape ``(height, width, 3)``, two galaxies in a row.
    """
    from galmeasure.app.pictures import fit_mosaic
    from galmeasure.fitters import make_model_images
    from galmeasure.fitters.threads import single_threaded

    rows = slice(first, first + count)
    cutouts = measured.cutouts[rows]
    with single_threaded():
        models = make_model_images(measured.table[rows], cutouts)
    return fit_mosaic(cutouts, [np.asarray(getattr(model, "value", model)) for model in models])


def table_file(table: QTable, suffix: str) -> bytes:
    """Write a result table into memory.

    Parameters
    ----------
    table : QTable
        Result table to be written.
    suffix : str
        Ending of a file name, such as ``".fits"``, which gives the format.

    Returns
    -------
    bytes
        Contents of the file.
    """
    from galmeasure.io import write_table

    with TemporaryDirectory(prefix="galmeasure-") as folder:
        path = Path(folder, f"table{suffix}")
        write_table(table, path)
        return path.read_bytes()


def plain_table(table: QTable) -> dict[str, np.ndarray]:
    """Turn a result table into plain columns that a page can show.

    Parameters
    ----------
    table : QTable
        Result table of a measurement.

    Returns
    -------
    dict of str to ndarray
        Columns with one value per row by name and unit, the names of the flags in place of their sum.
    """
    columns = {}
    for name in table.colnames:
        values = table[name]
        if values.ndim > 1:
            continue
        unit = getattr(values, "unit", None)
        key = f"{name} [{unit}]" if unit not in (None, "") else name
        columns[key] = _native(np.asarray(getattr(values, "value", values)))
        if name == "flags":
            columns[key] = np.array([_flag_names(value) for value in columns[key]])
    return columns


def _measure_in(folder, upload, spec, n_rows):
    """Write, read and measure; the table of the workflow is read back from the folder."""
    from galmeasure.io import ReadOptions, open_catalog
    from galmeasure.io.results import read_table
    from galmeasure.io.source import NO_PSF
    from galmeasure.workflows.measure import MeasureSettings, measure_catalog

    path = _written(folder, re.sub(r"[^\w.+-]+", "_", upload.name)[-80:] or "upload.fits", upload.data)
    options = {name: getattr(upload, name) for name in ("detect", "error", "gain", "pixel_scale", "zero_point")}
    if upload.psf is not None:
        options["psf"] = _written(folder, "uploaded_psf.fits", upload.psf)
    elif upload.no_psf:
        options["psf"] = NO_PSF
    source = open_catalog(path, **options)
    rows = np.arange(min(len(source), n_rows))
    if source.n_pixels(rows).sum() > MAX_PIXELS:
        msg = f"the stamps of {len(rows)} galaxies have more than {MAX_PIXELS:,} pixels: measure fewer of them"
        raise UploadError(msg)
    settings = MeasureSettings(
        fitter=spec, reading=ReadOptions(**options), output=folder / "result.fits", rows=f"0:{len(rows)}"
    )
    summary = measure_catalog(path, settings)
    counts = {flag.name: int(count) for flag, count in zip(FLAGS, summary.by_flag, strict=True) if count}
    return MeasuredCatalog(
        upload.name, read_table(settings.output), source.read(rows), len(source), list(summary.notes), counts,
        summary.warning() or "", summary.seconds,
    )  # fmt: skip


def _written(folder, name, data):
    """Path of a new file."""
    path = folder / name
    path.write_bytes(data)
    return path


def _for_the_page(err, folder):
    """Message of an error on one line, without the temporary folder."""
    text = one_line(err)
    return text.replace(f"{Path(folder)}/", "").replace(str(folder), "")


def _native(values):
    """Numbers in the byte order of this machine, which those of FITS files are not."""
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _flag_names(value):
    """Names of the flags of a row, with commas between them."""
    return ", ".join(flag.name for flag in FLAGS if int(value) & flag.value)
