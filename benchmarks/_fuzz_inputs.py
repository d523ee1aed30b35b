"""Small sound files of every kind that galmeasure reads, and how each is read, for ``fuzz.py``."""

import gzip
import io
import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from safetensors.torch import save

from galmeasure import LSQSersicFitter, NeuralSersicFitter
from galmeasure.calibration import QuantileCalibration
from galmeasure.io import open_catalog, read_psf
from galmeasure.networks import NetworkConfig, SersicPosterior
from galmeasure.networks.correction import Correction, CorrectionConfig
from galmeasure.ood.reference import load_ood
from galmeasure.parameters import PARAMETER_NAMES
from galmeasure.priors import get_prior
from galmeasure.utils.digests import companion_card
from galmeasure.weights import get_weights, load_network, prior_domain, save_weights
from galmeasure.weights.corrections import load_correction
from galmeasure.weights.registry import known_digest

SIDE, FIELD = 16, 48
POSITIONS = np.array([[14.3, 15.7], [33.0, 30.0]])
WEIGHTS = "study-v2"
TINY = {"widths": (16, 32), "depths": (1, 1), "features": 32, "psf_features": 16, "flow_hidden": 32, "flow_context": 16}


def gaussian(side, sigma, x=None, y=None):
    """Round Gaussian of height 1."""
    rows, columns = np.mgrid[:side, :side]
    x, y = ((side - 1) / 2 if value is None else value for value in (x, y))
    return np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2)).astype("f4")


def stamps(count=3):
    """Stamps ``(count, SIDE, SIDE)`` of galaxies with noise 1."""
    return (100 * gaussian(SIDE, 2.0) + np.random.default_rng(1).normal(size=(count, SIDE, SIDE))).astype("f4")


def field_image():
    """Image of the two sources at POSITIONS with noise 1."""
    image = np.random.default_rng(2).normal(size=(FIELD, FIELD)).astype("f4")
    return image + sum(100 * gaussian(FIELD, 2.0, x, y) for x, y in POSITIONS)


def header_of_field(distorted=False):
    """Header with a WCS and the keywords of calibrations."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ("RA---TAN-SIP", "DEC--TAN-SIP") if distorted else ("RA---TAN", "DEC--TAN")
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = (150.0, 2.0), (24.0, 24.0), (-0.2 / 3600, 0.2 / 3600)
    header = wcs.to_header()
    header.update({"BUNIT": "electron/s", "GAIN": 2.0, "EXPTIME": 100.0, "MAGZERO": 25.0})
    if distorted:
        header.update({"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 2, "B_ORDER": 2, "A_2_0": 1e-6})
    return header


def fits_bytes(*hdus, compress=False):
    """Content of a FITS file, compressed with gzip if asked for."""
    buffer = io.BytesIO()
    fits.HDUList(list(hdus)).writeto(buffer)
    return gzip.compress(buffer.getvalue(), 1, mtime=0) if compress else buffer.getvalue()


def psf_hdu():
    """Extension with a PSF image."""
    return fits.ImageHDU(gaussian(15, 1.3), name="PSF")


def table_hdu(**more):
    """Cutout table with columns of many kinds."""
    columns = {"id": np.arange(3), "cutout": stamps(), "error": np.ones(3), "mask": np.zeros((3, SIDE, SIDE), bool)}
    hdu = fits.table_to_hdu(Table({**columns, **more}))
    hdu.header.update({"PIXSCALE": 0.2, "GAIN": 3.0})
    return hdu


def variable_table():
    """Cutout table with a column of varying length, scaled integers and text."""
    pixels = np.empty(3, dtype=object)
    pixels[:] = [stamp.ravel() for stamp in stamps()]
    columns = [
        fits.Column("vignet", "PE()", array=pixels),
        fits.Column("ny", "J", array=[SIDE] * 3),
        fits.Column("nx", "J", array=[SIDE] * 3),
        fits.Column("id", "K", array=np.arange(3), null=-1),
        fits.Column("error", "I", array=np.ones(3, "u2"), bzero=32768),
        fits.Column("name", "5A", array=["a", "b", "c"]),
    ]
    return fits.BinTableHDU.from_columns(columns)


def cutout_tables():
    """Files of cutout tables."""
    fixed = fits.PrimaryHDU(), table_hdu(x=[1.0, 2.0, 3.0], y=[1.0, 2.0, 3.0]), psf_hdu()
    return [
        fits_bytes(*fixed),
        fits_bytes(fits.PrimaryHDU(), variable_table(), psf_hdu()),
        fits_bytes(*fixed, compress=True),
    ]


def extension_files():
    """Multi-extension files: plain, of scaled integers, and tile-compressed."""
    data = stamps(2)
    sets = [
        fits.ImageHDU(image, header_of_field() if name == "SCI" else None, name=name, ver=k + 1)
        for k in range(2)
        for name, image in (("SCI", data[k]), ("ERR", np.ones_like(data[k])), ("DQ", np.zeros((SIDE, SIDE), "i2")))
    ]
    integers = fits.ImageHDU((data[0] + 32768).astype("u2"), name="SCI", ver=1)
    packed = [fits.CompImageHDU(image, name="SCI") for image in data]
    for k, hdu in enumerate(packed):
        hdu.ver = k + 1
    return [
        fits_bytes(fits.PrimaryHDU(), psf_hdu(), *sets),
        fits_bytes(fits.PrimaryHDU(), psf_hdu(), integers),
        fits_bytes(fits.PrimaryHDU(), psf_hdu(), *packed),
    ]


def images():
    """Fields with their planes: plain with distortion, of integers, and tile-compressed."""
    image, ones = field_image(), np.ones((FIELD, FIELD), "f4")
    mask, labels = np.zeros((FIELD, FIELD), "u1"), np.zeros((FIELD, FIELD), "i4")
    planes = [fits.ImageHDU(ones, name="ERR"), fits.ImageHDU(mask, name="MASK"), fits.ImageHDU(labels, name="SEG")]
    header = header_of_field(distorted=True)
    integers = fits.PrimaryHDU((image * 10 + 1000).astype("u2"), header_of_field())
    packed = fits.CompImageHDU(image, header_of_field(), name="SCI")
    return [
        fits_bytes(fits.PrimaryHDU(image, header), *planes),
        fits_bytes(integers),
        fits_bytes(fits.PrimaryHDU(), packed, fits.CompImageHDU(mask, name="MASK")),
    ]


def source_table():
    """Source list with identifiers, positions of both kinds, masked values and text."""
    table = Table({"id": np.arange(2), "x": POSITIONS[:, 0], "y": POSITIONS[:, 1], "band": ["g", "r"]}, masked=True)
    table["mag"] = [20.0, 21.0]
    table["mag"].mask = [True, False]
    table["mag"].unit = "mag"
    return table


def sky_table():
    """Source list with positions on the sky, in degrees."""
    sky = WCS(header_of_field()).pixel_to_world(*POSITIONS.T)
    return Table({"id": np.arange(2), "ra": sky.ra, "dec": sky.dec})


def written(table, **options):
    """Content of the file that astropy writes of a table."""
    buffer = io.BytesIO() if options["format"] in ("votable", "parquet") else io.StringIO()
    table.write(buffer, **options)
    content = buffer.getvalue()
    return content if isinstance(content, bytes) else content.encode()


def parquet_bytes(table):
    """Content of a Parquet file; some columns are of types that only it has."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: pa.array(np.ma.getdata(table[name]).tolist()) for name in table.colnames}
    columns["tag"] = pa.array(["a", None]).dictionary_encode()
    columns["when"] = pa.array([0, 1], pa.timestamp("us"))
    columns["nested"] = pa.array([[1, 2], [3]])
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def votables():
    """VOTables in the three serialisations."""
    return [
        written(source_table(), format="votable"),
        written(sky_table(), format="votable", tabledata_format="binary"),
        written(source_table(), format="votable", tabledata_format="binary2"),
    ]


def psfex_file():
    """Model of PSFEx of first degree."""
    basis = [gaussian(15, 2.0), 0.1 * gaussian(15, 2.4), 0.05 * gaussian(15, 1.6)]
    column = fits.Column("PSF_MASK", "675E", dim="(15,15,3)", array=np.array([basis]))
    hdu = fits.BinTableHDU.from_columns([column], name="PSF_DATA")
    hdu.header.update({"POLNAXIS": 2, "POLNGRP": 1, "POLDEG1": 1, "PSF_FWHM": 3.0, "PSF_SAMP": 0.7, "PSFNAXIS": 3})
    for k, name in enumerate(("X_IMAGE", "Y_IMAGE"), 1):
        hdu.header.update({f"POLGRP{k}": 1, f"POLNAME{k}": name, f"POLZERO{k}": 24.0, f"POLSCAL{k}": 48.0})
    return fits_bytes(fits.PrimaryHDU(), hdu)


def psf_images():
    """PSF images: plain, of STPSF, and a grid over a detector."""
    stpsf = [fits.ImageHDU(gaussian(31, 2.6), name="OVERDIST"), fits.ImageHDU(gaussian(15, 1.3), name="DET_DIST")]
    stpsf[0].header.update({"OVERSAMP": 2, "PIXELSCL": 0.1})
    stpsf[1].header.update({"OVERSAMP": 2, "DET_SAMP": 1, "PIXELSCL": 0.2})
    grid = fits.PrimaryHDU(np.stack([gaussian(15, 1.3)] * 4))
    for k, place in enumerate(("(0.0,0.0)", "(0.0,48.0)", "(48.0,0.0)", "(48.0,48.0)")):
        grid.header[f"DET_YX{k}"] = place
    grid.header["OVERSAMP"] = 1
    return [fits_bytes(fits.PrimaryHDU(gaussian(15, 1.3))), fits_bytes(fits.PrimaryHDU(), *stpsf), fits_bytes(grid)]


def calibration_file(folder):
    """Calibration of least squares."""
    each = {"shift": (0.1,), "scale": (0.2, 0.1, 0.1)}
    path = folder / "sound.json"
    QuantileCalibration(
        dict.fromkeys(PARAMETER_NAMES, each), ((0.0, 5.0), (-2.0, 2.0)), 200,
        estimator=LSQSersicFitter().describe_estimator(),
    ).save(path, overwrite=True)  # fmt: skip
    return path.read_bytes()


def weights_file(folder):
    """Weights of a small network that was not trained."""
    training = {"steps": 0, "stamps": 0, "batch_size": 1, "seed": 0, "minutes": 0.0, "device": "cpu"}
    card = {
        "prior": "survey", "domain": prior_domain(get_prior("survey")), "simulation": {}, "training": training,
        "metrics": {}, "date": "2026-01-31", "revision": "unknown", "description": "Not trained",
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = SersicPosterior(NetworkConfig(**TINY))
    return save_weights(folder / "sound.safetensors", network, card).path.read_bytes()


def correction_file(folder):
    """Correction, not trained, of the same network."""
    weights_file(folder)
    weights = get_weights(folder / "sound.safetensors")
    config = CorrectionConfig(hidden=16, flow_hidden=16)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        correction = Correction(config, load_network(weights))
    tensors = {n: t.contiguous() for n, t in correction.state_dict().items() if not n.startswith("flow.base.")}
    card = {"format": 1, "arguments": config.as_dict(), "weights": weights.name, "weights_sha256": weights.sha256}
    return save(tensors, {"card": json.dumps(companion_card(card, tensors), sort_keys=True)})


def ood_file(_):
    """OOD reference that comes with the package."""
    return get_weights(WEIGHTS).path.with_suffix(".ood").read_bytes()


@lru_cache
def sound_files(name, folder):
    """Contents of the sound files of a format, each with the ending of its name and its kind."""
    folder = Path(folder)
    makers = {
        "cutout table": lambda: [(content, ".fits", "fits") for content in cutout_tables()],
        "extensions": lambda: [(content, ".fits", "fits") for content in extension_files()],
        "image": lambda: [(content, ".fits", "fits") for content in images()],
        "FITS list": lambda: [(fits_bytes(fits.PrimaryHDU(), fits.table_to_hdu(t)), ".fits", "fits")
                              for t in (source_table(), sky_table())],
        "VOTable": lambda: [(content, ".vot", "xml") for content in votables()],
        "Parquet": lambda: [(parquet_bytes(t), ".parquet", "bytes") for t in (source_table(), sky_table())],
        "ECSV": lambda: [(written(t, format="ascii.ecsv"), ".ecsv", "text") for t in (source_table(), sky_table())],
        "CSV": lambda: [(written(t, format="ascii.csv"), ".csv", "text") for t in (source_table(), sky_table())],
        "PSFEx": lambda: [(psfex_file(), ".psf", "fits")],
        "PSF image": lambda: [(content, ".fits", "fits") for content in psf_images()],
        "calibration": lambda: [(calibration_file(folder), ".json", "json")],
        "weights": lambda: [(weights_file(folder), ".safetensors", "tensors")],
        "correction": lambda: [(correction_file(folder), ".correction", "tensors")],
        "typical galaxies": lambda: [(ood_file(folder), ".ood", "tensors")],
    }  # fmt: skip
    return makers[name]()


FORMATS = (
    "cutout table", "extensions", "image", "FITS list", "VOTable", "Parquet", "ECSV", "CSV", "PSFEx", "PSF image",
    "calibration", "weights", "correction", "typical galaxies",
)  # fmt: skip
"""What is mutated."""


def write_companions(folder):
    """Write the sound files that the mutated ones are read with."""
    (folder / "field.fits").write_bytes(images()[0])
    (folder / "list.csv").write_bytes(written(source_table(), format="ascii.csv"))
    (folder / "psf.fits").write_bytes(psf_images()[0])
    weights_file(folder)


def read(name, path):
    """Read a file by the public functions for its format, and measure what it holds; gives the number of rows."""
    folder = path.parent
    psf = folder / "psf.fits"
    if name in ("cutout table", "extensions"):
        return _measure(open_catalog(path))
    if name == "image":
        return _measure(open_catalog(folder / "list.csv", image=path, psf=psf, size=SIDE))
    if name in ("FITS list", "VOTable", "Parquet", "ECSV", "CSV"):
        return _measure(open_catalog(path, image=folder / "field.fits", psf=psf, size=SIDE))
    if name in ("PSFEx", "PSF image"):
        read_psf(path)
        return _measure(open_catalog(folder / "list.csv", image=folder / "field.fits", psf=path, size=SIDE))
    return _compute(name, path)


def _measure(source):
    """Measure the first two rows, if they are not too large for a test."""
    rows = np.arange(min(2, len(source)))
    source.check_rows(rows)
    if source.n_pixels(rows).sum() > 2**16:
        return len(rows)
    if source.column_names:
        source.columns(rows, source.column_names)
    return len(LSQSersicFitter(max_iter=3).fit(source.read(rows)))


def _compute(name, path):
    """Read a file of the estimators, and use it for one galaxy."""
    stamp, psf = stamps(1), gaussian(15, 1.3)
    if name == "calibration":
        return len(LSQSersicFitter(max_iter=3, calibration=path).fit(stamp, psf, error=1.0))
    if name == "weights":
        load_network(get_weights(path))
        return len(NeuralSersicFitter(weights=path, refine=None).fit(stamp, psf, error=1.0))
    if name == "correction":
        beside = path.with_suffix(".safetensors")
        beside.write_bytes((path.parent / "sound.safetensors").read_bytes())
        load_correction(get_weights(beside))
        return len(NeuralSersicFitter(weights=beside).fit(stamp, psf, error=1.0))
    weights = get_weights(WEIGHTS)
    load_ood(path, weights.sha256, known_digest(weights.sha256, ".ood"))
    return 1
