"""How do kinds of errors compare, on galaxies of the training and on galaxies that the networks were not trained for?

Data set 1 of the study, and changes of it of which the networks are not told. Kinds of errors: the flow with and
without the correction by the exact model, a Gaussian head, the same with Monte-Carlo dropout, and a deep ensemble. For
each: the share of true values between the 16 and 84 % quantiles, the scatter of the pulls (half of the central 68 %),
the median error over that on the data set itself, and the share of rows that some flag marks as outside the domain or
unusual.
"""

import argparse
import dataclasses

import _one_core  # noqa: F401
import numpy as np
from _report import metadata, report
from astropy.table import Table

from galmeasure import Cutouts, EnsembleSersicFitter, NeuralSersicFitter, get_weights, list_weights
from galmeasure.flags import Flag
from galmeasure.parameters import PARAMETER_INDEX
from galmeasure.priors import Disc, Range, get_prior
from galmeasure.training import read_training_config, simulate_cutouts

NAMES = ("flux", "n", "r_eff", "g1", "g2")
BASE = read_training_config("xception-set1-v1").simulation
WRONG = int(Flag.OUTSIDE_DOMAIN | Flag.OUT_OF_DISTRIBUTION)


def changed(prior=None, **options):
    """Simulation of the data set with changes."""
    prior = dataclasses.replace(get_prior(BASE.prior), **(prior or {}))
    return dataclasses.replace(BASE, prior=prior, **options)


CASES = {
    "data set 1": changed(),
    "larger: 0.6 to 1.2 arcsec": changed({"r_eff": Range(0.6 / 0.23, 1.2 / 0.23)}),
    "flatter: shear to 0.85": changed({"shear": Disc(0.85)}),
    "fainter: S/N 5 to 10": changed({"snr": Range(5.0, 10.0), "electrons": Range(0.5e4, 1e5)}),
    "neighbours": changed(neighbours=1.0, masked_neighbours=0.0),
    "PSF 15 % wider than told": changed({"psf_fwhm": Range(1.15 * 2.1737, 1.15 * 2.1741)}),
    "noise 30 % higher than told": changed(),
}


def draw(case, number, seed):
    """Cutouts of a case and the true parameters."""
    cutouts, truth = next(simulate_cutouts(CASES[case], number, seed=seed, chunk=number))
    images = np.stack([cutouts.image(row) for row in range(number)])
    error = np.stack([cutouts.error(row) for row in range(number)])
    psf = np.stack([cutouts.psf_image(row) for row in range(number)])
    if case.startswith("PSF"):
        told, _ = next(simulate_cutouts(BASE, 8, seed=seed))
        psf = told.psf_image(0)
    if case.startswith("noise"):
        images = images + np.random.default_rng(seed).normal(size=images.shape) * np.sqrt(1.3**2 - 1.0) * error
    return Cutouts(images, psf, error=error, gain=200.0), truth


def estimators(names):
    """Estimators by what their errors are."""
    shipped = {weights.name for weights in list_weights()}
    choices = {
        "flow and correction (study-v2)": lambda: NeuralSersicFitter(weights="study-v2"),
        "flow (study-v2)": lambda: NeuralSersicFitter(weights="study-v2", refine=None),
        "flow (attention-v1)": lambda: NeuralSersicFitter(weights="attention-v1", refine=None),
        "ensemble (study-v2, attention-v1)": lambda: EnsembleSersicFitter(
            members=("study-v2", "attention-v1"), refine=None
        ),
        "Gaussian head (xception-set1-v1)": lambda: NeuralSersicFitter(weights="xception-set1-v1"),
        "Gaussian head (autoencoder-set3-v1)": lambda: NeuralSersicFitter(weights="autoencoder-set3-v1"),
        "dropout (xception-set1-dropout-v1)": lambda: NeuralSersicFitter(weights="xception-set1-dropout-v1"),
    }
    for name, make in choices.items():
        needed = name.split("(")[1].rstrip(")").split(", ")
        if shipped.issuperset(needed) and (not names or any(part in name for part in names)):
            yield name, make()


def statistics(table, truth):
    """Coverage, scatter of the pulls and median errors, of five parameters."""
    columns = [PARAMETER_INDEX[name] for name in NAMES]
    truth = truth[:, columns]

    def column(end):
        return np.stack([np.asarray(getattr(table[name + end], "value", table[name + end])) for name in NAMES], 1)

    inside = (column("_q16") < truth) & (truth < column("_q84"))
    pull = (column("_fit") - truth) / column("_err")
    low, high = np.nanpercentile(pull, (15.865525, 84.134475), axis=0)
    flagged = np.mean((np.asarray(table["flags"]) & WRONG) > 0)
    return inside.mean(), np.mean(0.5 * (high - low)), np.nanmedian(column("_err"), axis=0), 100.0 * flagged


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--number", type=int, default=2000, help="galaxies of each case (%(default)s)")
    parser.add_argument("--only", nargs="*", help="parts of the names of estimators")
    parser.add_argument("--seed", type=int, default=612)
    parser.add_argument("--output")
    args = parser.parse_args()
    stamps = {case: draw(case, args.number, args.seed) for case in CASES}
    rows, used = [], set()
    for name, fitter in estimators(args.only):
        usual = None
        for case, (cutouts, truth) in stamps.items():
            covered, scatter, errors, flagged = statistics(fitter.fit(cutouts), truth)
            usual = errors if usual is None else usual
            rows.append((case, name, covered, scatter, float(np.mean(errors / usual)), flagged))
        used |= set(name.split("(")[1].rstrip(")").split(", "))
    rows.sort(key=lambda row: list(CASES).index(row[0]))
    names = ("galaxies", "errors", "inside_68", "pull_scatter", "error_growth", "flagged_percent")
    table = Table(rows=rows, names=names)
    formats = {"inside_68": ".3f", "pull_scatter": ".2f", "error_growth": ".2f", "flagged_percent": ".1f"}
    weights = {name: get_weights(name).sha256[:12] for name in sorted(used)}
    meta = metadata(1, weights=weights, options=vars(args))
    title = f"Means over flux, n, r_eff, g1, g2; {args.number} galaxies of each kind"
    report("uncertainty", table, meta, title=title, formats=formats, output=args.output)


if __name__ == "__main__":
    main()
