"""What does a noise image in the model do to a fit? The study's baseline fit, on galaxies like those it fitted.

The study published its baseline fit (GalSim and L-BFGS-B) for the first 100 galaxies of its set 1 with S/N 58 to 62,
and with S/N 28 to 32, all with a noise of 200 electrons, and added one and the same noise image to every model. Here as
many such galaxies are fitted without such an image and with one (not the study's: ``--noise-seed`` draws it). Prints
and writes, for each S/N: bias (measured minus true) and standard deviation as published and of both fits, the mean
shift between the fits with its error, and the shift that follows from the image to first order; the column ``of`` says
what a number and its ``spread`` are. The flux is not among the free parameters of that prediction, because the
minimiser leaves it at its start, the sum of the pixels.
"""

import argparse
import dataclasses
from pathlib import Path
from tempfile import TemporaryDirectory

import _one_core  # noqa: F401
import numpy as np
import torch
from _report import metadata, report
from _study_galaxies import OVERSAMPLING, PIXEL_SCALE, SIZE
from astropy.table import QTable, Table

from galmeasure import Cutouts, read_cutouts
from galmeasure.evaluation.report.published import (
    BASELINE_FIRST_ORDER,
    BASELINE_RESULTS,
    STUDY_PARAMETERS,
)
from galmeasure.fitters.galsim_fitter import GalSimSersicFitter
from galmeasure.io.truths import read_truth
from galmeasure.parameters import PARAMETER_INDEX, PARAMETER_NAMES
from galmeasure.render import prepare_psf, render_sersic
from galmeasure.training import get_dataset_config, make_dataset

SNR_RANGES = {60: (58.0, 62.0), 30: (28.0, 32.0)}
SIGMA = 200.0
"""Background noise of set 1, and of the noise image, in electrons."""

UNITS = np.array([1e5, 1.0, 1.0, 1.0, 1.0])
FREE = ("n", "r_eff", "g1", "g2")
"""Parameters that move in the fit, in the order of `first_order_shifts`."""


def draw_galaxies(snr, args):
    """Cutouts, PSF (oversampled) and true parameters ``(N, 7)`` in pixels of galaxies of set 1 near an S/N."""
    config = dataclasses.replace(get_dataset_config("1"), snr=SNR_RANGES[snr], psf_oversampling=OVERSAMPLING)
    with TemporaryDirectory() as folder:
        path = make_dataset(Path(folder) / "galaxies.fits", config, args.number, seed=args.seed + snr)
        cutouts, truth = read_cutouts(path), read_truth(path)
        images = np.stack([cutouts.image(row) for row in range(len(cutouts))]).astype(float)
        psf = np.array(cutouts.psf_image(0), dtype=float)
    values = np.stack([np.asarray(getattr(truth[f"true_{name}"], "value", truth[f"true_{name}"]), dtype=float)
                       for name in PARAMETER_NAMES], 1)  # fmt: skip
    values[:, PARAMETER_INDEX["r_eff"]] /= PIXEL_SCALE
    return images, psf, values


def frozen_noise(args):
    """Noise image of all models, ``(SIZE, SIZE)``."""
    return np.random.default_rng(args.noise_seed).normal(0.0, SIGMA, (SIZE, SIZE))


def fit(images, psf, noise):
    """Parameters ``(N, 5)`` in published units that the baseline finds with a noise image added to its models.

    A model plus the image is compared with the pixels: that is the model compared with the pixels less the image. The
    weights and the starting flux are those of the pixels themselves.
    """
    error = np.sqrt(SIGMA**2 + np.maximum(images, 0.0))
    start = QTable({"flux_init": images.sum(axis=(1, 2))})
    cutouts = Cutouts(images - noise, psf, psf_oversampling=OVERSAMPLING, error=error, pixel_scale=PIXEL_SCALE)
    table = GalSimSersicFitter().fit(cutouts, init_params=start)
    columns = (table[f"{name}_fit"] for name in STUDY_PARAMETERS)
    return np.stack([np.asarray(getattr(column, "value", column), dtype=float) for column in columns], 1) / UNITS


def first_order_shifts(images, psf, truth, noise):
    """Shift ``(N, 4)`` of the parameters `FREE` in published units by a noise image in the model, to first order."""
    grid = prepare_psf(torch.from_numpy(psf)[None], (SIZE, SIZE), oversampling=OVERSAMPLING, dtype=torch.float64)
    weight = torch.from_numpy(1.0 / (SIGMA**2 + np.maximum(images, 0.0)))
    columns = [PARAMETER_INDEX[name] for name in FREE]
    shifts = []
    for parameters, pixel_weight in zip(torch.from_numpy(truth), weight, strict=True):
        jacobian = render_sersic(parameters[None], grid, jacobian=True)[1][0, columns]
        weighted = (jacobian * pixel_weight).flatten(1)
        fisher = weighted @ jacobian.flatten(1).T
        shifts.append(-torch.linalg.solve(fisher, weighted @ torch.from_numpy(noise).flatten()).numpy())
    return np.stack(shifts) * np.array([PIXEL_SCALE if name == "r_eff" else 1.0 for name in FREE])


def named(values):
    """Dictionary of numbers by parameter with NaN where there is none."""
    return [values.get(name, np.nan) for name in STUDY_PARAMETERS]


def rows_of(snr, args):
    """Rows of the table for one signal-to-noise ratio."""
    images, psf, truth = draw_galaxies(snr, args)
    noise = frozen_noise(args)
    published = np.concatenate([truth[:, :2], truth[:, 2:3] * PIXEL_SCALE, truth[:, 3:5]], 1) / UNITS
    plain, shifted = (fit(images, psf, image) for image in (np.zeros_like(noise), noise))
    count = len(images)
    rows = [(snr, "published, sign turned", "bias / std", 100, *interleaved(*BASELINE_RESULTS[snr]))]
    for name, values in (("without noise in the model", plain), ("with noise in the model", shifted)):
        delta = values - published
        rows.append((snr, name, "bias / std", count, *interleaved(delta.mean(0), delta.std(0, ddof=1))))
    shift = shifted - plain
    error = shift.std(0, ddof=1) / np.sqrt(count)
    rows.append((snr, "with less without", "shift / error", count, *interleaved(shift.mean(0), error)))
    predicted = first_order_shifts(images, psf, truth, noise).mean(0)
    predicted = named(dict(zip(FREE, predicted, strict=True)))
    rows.append((snr, "shift to first order, this image", "shift", count, *interleaved(predicted, [np.nan] * 5)))
    study = named(BASELINE_FIRST_ORDER[snr])
    rows.append((snr, "shift to first order, the study's image", "shift", 0, *interleaved(study, [np.nan] * 5)))
    return rows


def interleaved(first, second):
    """Pairs of numbers after each other."""
    return [float(value) for pair in zip(first, second, strict=True) for value in pair]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--number", type=int, default=100, help="galaxies for each S/N")
    parser.add_argument("--seed", type=int, default=6100, help="of the galaxies")
    parser.add_argument("--noise-seed", type=int, default=1, help="of the noise image in the models")
    parser.add_argument("--output", help="folder of the results")
    args = parser.parse_args()
    rows = [row for snr in SNR_RANGES for row in rows_of(snr, args)]
    names = [f"{name}{end}" for name in STUDY_PARAMETERS for end in ("", "_spread")]
    table = Table(rows=rows, names=("snr", "fit", "of", "galaxies", *names))
    title = "Baseline fit of set 1 at S/N 60 and 30: flux [1e5], n, r_eff [arcsec], g1, g2; measured minus true"
    options = {key: value for key, value in vars(args).items() if key != "output"}
    report("baseline_fit", table, metadata(1, options=options), title=title, output=args.output)


if __name__ == "__main__":
    main()
