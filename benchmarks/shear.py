"""How biased is the shear of each estimator? Ring tests at S/N 20, 50 and 200, and by the position within a pixel.

Galaxies are drawn with GalSim as the LSST instrument of ``default_answer.py`` sees them, with a shear of 0.02. The
multiplicative bias m and the additive biases c1, c2 are of the mean ellipticity that each estimator reports, without
any response or selection being corrected.
"""

from pathlib import Path

import _one_core  # noqa: F401
import click
import numpy as np
from _answer_statistics import fit
from _instruments import instruments
from _report import metadata, report
from _ring_test import APPLIED_SHEAR, draw_rings, ring_test, shear_bias
from astropy.table import Table

from galmeasure import EnsembleSersicFitter, LSQSersicFitter, NeuralSersicFitter, get_weights

SNRS = (20.0, 50.0, 200.0)
PHASES = ((0.0, 0.0), (0.25, 0.25), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5))
"""Centres from the middle of the stamp, which is the corner of four pixels."""

NAMES = ("m", "m_err", "c1", "c1_err", "c2", "c2_err")


def estimators():
    """Estimators by name."""
    return {
        "neural": NeuralSersicFitter(),
        "neural, no refinement": NeuralSersicFitter(refine=None),
        "neural, median": NeuralSersicFitter(summary="median"),
        "ensemble": EnsembleSersicFitter(),
        "lsq": LSQSersicFitter(),
        "lsq, no bias correction": LSQSersicFitter(bias_correction=False),
        "lsq from neural": LSQSersicFitter(init=NeuralSersicFitter()),
    }


def measured(fitters):
    """Function that gives an answer for each of some estimators."""

    def answers(images, psf, **options):
        return {name: fit(fitter, images, psf, **options) for name, fitter in fitters.items()}

    return answers


STAMPS = Path(__file__).parent / ".stamps"


@click.command(help=__doc__)
@click.option("--pairs", type=click.IntRange(min=4), default=2000, show_default=True, help="Pairs of each ring test.")
@click.option("--seed", default=20267, show_default=True, help="Seed of everything random.")
@click.option("--cache", type=click.Path(path_type=Path), default=STAMPS, help="Folder of noiseless stamps.")
@click.option("--output", type=click.Path(path_type=Path), help="Folder of the tables.")
def main(pairs, seed, cache, output):
    """Measure the biases and write both tables."""
    instrument, fitters = instruments()["LSST"], estimators()
    draws = 10 if pairs >= 200 else 2
    shapes = -(-pairs // (2 * draws))
    meta = metadata(1, seed=seed, pairs=2 * shapes * draws, shear=APPLIED_SHEAR, weights=get_weights().name)

    def biases(phase, snr, chosen, *numbers):
        rings = draw_rings(instrument, shapes, np.random.default_rng([seed, *numbers]), phase=phase, cache=cache)
        rng = np.random.default_rng([seed, 1, *numbers])
        for name, errors in ring_test(measured(chosen), rings, draws, snr, rng).items():
            missing, *values = shear_bias(errors, draws, np.random.default_rng([seed, 2]))
            yield name, missing, *values

    rows = [(snr, *row) for number, snr in enumerate(SNRS) for row in biases(None, snr, fitters, 0, number)]
    save("shear", rows, ("snr", "estimator", "not_measured", *NAMES), meta, output)
    two = {name: fitters[name] for name in ("neural", "lsq")}
    rows = [(*phase, *row) for number, phase in enumerate(PHASES) for row in biases(phase, 200.0, two, 1, number)]
    save("shear_phase", rows, ("x", "y", "estimator", "not_measured", *NAMES), meta, output)


def save(name, rows, names, meta, output):
    """Print and write a table."""
    table = Table(rows=rows, names=names)
    formats = dict.fromkeys(NAMES, ".4f")
    report(name, table, meta, title="Bias of the shear by ring tests", formats=formats, output=output)


if __name__ == "__main__":
    main()
