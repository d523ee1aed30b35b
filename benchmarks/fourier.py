"""What least squares gains by beginning in Fourier space, in speed, and whether that costs accuracy.

Stamps of the study's set 3, each with its own PSF, are fitted in turns within one process, on one core: by this code,
by the same code that fits in pixels only, and, with ``--before``, by the package of another checkout. Rates are per
second of the processor, so that other work on the machine matters less; the ratio is the median over the turns.
"""

import argparse
import contextlib
import sys
import time
from pathlib import Path

import _one_core  # noqa: F401
import numpy as np
import torch
from _report import metadata, report
from _study_galaxies import study_set_3
from astropy.table import Table

PACKAGE = "galmeasure"
HERE = Path(__file__).resolve().parents[1]
SHAPE = ("flux", "n", "r_eff", "g1", "g2")
ALL = (*SHAPE, "x", "y")
WORSE = 0.1
"""Difference of chi-squared that counts as another one."""


class Checkout:
    """The package as it stands in a folder, imported beside others of the same name.

    Parameters
    ----------
    folder : Path
        Folder that holds the package.
    """

    def __init__(self, folder):
        self.folder, self.modules = str(folder), {}

    @contextlib.contextmanager
    def imported(self):
        """Let imports of the package give that of this folder."""
        others = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == PACKAGE}
        sys.modules.update(self.modules)
        sys.path.insert(0, self.folder)
        try:
            yield
        finally:
            sys.path.remove(self.folder)
            self.modules = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == PACKAGE}
            sys.modules.update(others)

    def fit(self, stamps, psf):
        """Table of a fit, and seconds of the processor."""
        with self.imported():
            from galmeasure import Cutouts, LSQSersicFitter

            cutouts = Cutouts(stamps.images, psf, error=stamps.error)
            begin = time.process_time()
            table = LSQSersicFitter().fit(cutouts)
            return table, time.process_time() - begin


class PixelsOnly(Checkout):
    """The package of a folder, whose fits do not begin in Fourier space."""

    def fit(self, stamps, psf):
        """Table of a fit, and seconds of the processor."""
        with self.imported():
            from galmeasure.fitters.lsq import fourier

            begin, fourier.Stamps.of = fourier.Stamps.of, staticmethod(lambda problem, transform: [])
        try:
            return super().fit(stamps, psf)
        finally:
            fourier.Stamps.of = begin


def columns(table, suffix="fit", names=ALL):
    return np.stack([np.asarray(table[f"{name}_{suffix}"], dtype=float) for name in names], 1)


def row(name, table, expected, seconds, reference, truth):
    """One row of the report: rate, accuracy, and differences from the table of the last code."""
    moved = (np.abs(columns(table) - columns(expected)) / columns(expected, "err")).max(1)
    pixels = np.asarray(expected["n_pixels_fit"]) - len(ALL)
    chi2 = pixels * (np.asarray(table["chi2_reduced"]) - np.asarray(expected["chi2_reduced"]))
    far = moved > 0.1
    errors = columns(table, names=SHAPE) - truth[:, : len(SHAPE)]
    errors[:, 0] /= truth[:, 0]
    return (
        name, len(table) / np.median(seconds), np.median(np.divide(reference, seconds)),
        (np.asarray(table["flags"]) == 0).mean(), *np.sqrt(np.nanmean(errors**2, 0)),
        np.nanmedian(moved), (moved > 0.01).mean(), far.mean(),
        (chi2[far] < -WORSE).mean() * far.mean() if far.any() else 0.0,
        (chi2[far] > WORSE).mean() * far.mean() if far.any() else 0.0,
    )  # fmt: skip


NAMES = (
    "code", "fits_per_cpu_s", "times_the_last", "unflagged", *(f"rmse_{name}" for name in SHAPE),
    "median_moved", "moved_0.01_sigma", "moved_0.1_sigma", "of_these_better", "of_these_worse",
)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--number", type=int, default=1024, help="stamps (%(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="times that each code fits all of them (%(default)s)")
    parser.add_argument("--before", type=Path, help="folder of another checkout to compare with")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--output", help="folder of the results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    stamps = study_set_3(args.number, args.seed)
    psf = stamps.psf_images()
    codes = {"Fourier space first": Checkout(HERE), "pixels only": PixelsOnly(HERE)}
    if args.before is not None:
        codes["before"] = Checkout(args.before.resolve())
    few = type(stamps)(*(getattr(stamps, name)[:32] for name in ("images", "noiseless", "truth", "sigma", "fwhm")))
    seconds, tables = {name: [] for name in codes}, {}
    for code in codes.values():
        code.fit(few, psf[:32])  # tables and caches
    for _ in range(args.turns):
        for name, code in codes.items():
            tables[name], spent = code.fit(stamps, psf)
            seconds[name].append(spent)
    last = list(codes)[-1]
    rows = [row(name, tables[name], tables[last], seconds[name], seconds[last], stamps.truth) for name in codes]
    meta = metadata(1, number=args.number, turns=args.turns, seed=args.seed)
    title = "Least squares on set 3, a PSF per galaxy; moved and better are relative to the last row"
    report("fourier", Table(rows=rows, names=NAMES), meta, title=title, output=args.output)


if __name__ == "__main__":
    main()
