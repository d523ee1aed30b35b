"""What is a calibration worth that ``galmeasure calibrate`` learns from an image's own sky?

Three images of sky: with the noise that is claimed, with 1 / 0.7 times as much (an error map that is 30 % too small),
and with noise correlated as a drizzled image's. Galaxies injected into each are measured by the network and by least
squares; what is learned from them corrects the measurements of other galaxies in another image of the same kind.
"""

import argparse
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import _one_core  # noqa: F401
import numpy as np
import torch
from _report import RESULTS, metadata, report
from astropy.io import fits
from astropy.table import Table, vstack
from scipy import ndimage

from galmeasure import LSQSersicFitter, NeuralSersicFitter
from galmeasure.calibration.quantiles import coverage_metrics
from galmeasure.evaluation import calibrate, inject_galaxies
from galmeasure.evaluation.learn_calibration import LEFT_OUT
from galmeasure.io import SkySource
from galmeasure.parameters import PARAMETER_NAMES

SIDE = 1500
SIGMA = 10.0
GAIN = 4.0
FWHM = 3.4
KERNEL = np.outer([0.25, 0.5, 0.25], [0.25, 0.5, 0.25])
CASES = ("correct", "underestimated", "correlated")
FITTERS = {"neural": NeuralSersicFitter, "lsq": LSQSersicFitter}
SNR = (0.0, 30.0, 100.0, np.inf)
CHUNK = 500


def moffat(side=41, beta=3.0):
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    alpha = FWHM / 2 / np.sqrt(2 ** (1 / beta) - 1)
    image = (1 + (x**2 + y**2) / alpha**2) ** -beta
    return image / image.sum()


def sky_image(case, seed):
    """Noise of one kind, whose claimed standard deviation is SIGMA."""
    noise = np.random.default_rng(seed).normal(0, SIGMA, (SIDE, SIDE))
    if case == "underestimated":
        return noise / 0.7
    if case == "correlated":
        noise = ndimage.convolve(noise, KERNEL, mode="wrap")
        noise *= SIGMA / noise.std()
    return noise


def measured(folder, case, fitters, count, seed):
    """Truths, and the results of several fitters, of galaxies in a new image."""
    path = folder / "sky.fits"
    fits.PrimaryHDU(sky_image(case, seed).astype("f4")).writeto(path, overwrite=True)
    sky = SkySource(path, psf=moffat(), error=SIGMA, gain=GAIN)
    parts = []
    for first in range(0, count, CHUNK):
        size = min(CHUNK, count - first)
        cutouts, truth = inject_galaxies(sky, size, seed=(seed, first), first=first + 1)
        parts.append((truth, *(fitter.fit(cutouts) for fitter in fitters)))
    return [vstack(list(tables), metadata_conflicts="silent") for tables in zip(*parts, strict=True)]


def columns(table, form):
    names = [form.format(name) for name in PARAMETER_NAMES]
    return np.stack([np.asarray(getattr(table[name], "value", table[name]), dtype=float) for name in names], 1)


def metrics_of(truth, table, rows):
    quantiles = None
    if "n_q16" in table.colnames:
        quantiles = np.stack([columns(table, f"{{}}_{level}") for level in ("q16", "q50", "q84")], 1)[rows]
    parts = (columns(truth, "true_{}"), columns(table, "{}_fit"), columns(table, "{}_err"))
    return coverage_metrics(*(part[rows] for part in parts), quantiles)


def rows_of(case, method, truth, before, after):
    """Rows of the report: overall and in bins of the true S/N."""
    snr = np.asarray(truth["true_snr"])
    good = (np.asarray(before["flags"]) & int(LEFT_OUT)) == 0
    for low, high in ((0.0, np.inf), *pairwise(SNR)):
        inside = good & (snr >= low) & (snr < high)
        found = [metrics_of(truth, table, inside) for table in (before, after)]
        for name in PARAMETER_NAMES:
            values = [found[k][name].get(key, np.nan) for key in ("bias", "coverage_68", "coverage_95", "coverage_q")
                      for k in (0, 1)]  # fmt: skip
            yield (case, method, low, high, name, int(inside.sum()), *values)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=3000, help="galaxies to learn from, and as many to judge (%(default)s)")
    parser.add_argument("--seed", type=int, default=11, help="of images and galaxies (%(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        for i, case in enumerate(CASES):
            plain = [kind() for kind in FITTERS.values()]
            truth, *results = measured(folder, case, plain, args.n, args.seed + 2 * i)
            calibrated = []
            for (method, kind), fitter, result in zip(FITTERS.items(), plain, results, strict=True):
                path = folder / f"{case}_{method}.json"
                calibrate(fitter, truth, result).calibration.save(path)
                calibrated.append(kind(calibration=path))
            truth, *results = measured(folder, case, [*plain, *calibrated], args.n, args.seed + 2 * i + 1)
            for k, method in enumerate(FITTERS):
                rows += rows_of(case, method, truth, results[k], results[k + len(FITTERS)])
    names = ["noise", "method", "snr_low", "snr_high", "parameter", "galaxies"]
    names += [key + end for key in ("bias", "coverage_68", "coverage_95", "coverage_q") for end in ("", "_after")]
    table = Table(rows=rows, names=names)
    meta = metadata(1, galaxies=args.n, seed=args.seed, psf=f"Moffat, FWHM {FWHM} pixels", gain=GAIN, sigma=SIGMA)
    title = "Bias over error, and coverage, of galaxies in sky, before and after a calibration from other sky"
    report("calibration", table, meta, title=title, formats=dict.fromkeys(names[6:], ".3f"), output=args.output)


if __name__ == "__main__":
    main()
