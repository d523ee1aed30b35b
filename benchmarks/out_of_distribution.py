"""What does the score of unusual galaxies catch, how often is it a false alarm, and what could be caught at all?

False alarms: galaxies of the training domain, simulated with a seed that nothing else has used, by S/N; and those of
the training's own simulation, of whose stamps one in eight holds neighbours that are not masked. Detection: kinds of
objects that are none of the training's, drawn with GalSim at S/N 20, 50 and 200, with the 1 % threshold. Limit: what
the best Sersic model leaves of these objects without noise, as chi-squared at S/N 200; it goes as the square of S/N. At
1 % false alarms a chi-squared of 5 is noticed half of the time, one of 16 in 95 %, by a test made for just this.
"""

import argparse
import dataclasses
import itertools

import _one_core  # noqa: F401
import numpy as np
from _report import metadata, report
from _unusual_galaxies import KINDS, draw_kind
from astropy.table import Table

from galmeasure import LSQSersicFitter, NeuralSersicFitter, get_weights
from galmeasure.flags import Flag
from galmeasure.parameters import N_PARAMETERS
from galmeasure.training import simulate_cutouts
from galmeasure.training.config import simulation_from_dict

SNRS = (20, 50, 200)
EDGES = (0.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, np.inf)


def fraction(flags, bit):
    return 100.0 * float(np.mean((np.asarray(flags) & int(bit)) > 0))


def false_alarms(args):
    """Flagged galaxies of the training domain, in percent, by S/N."""
    rows = []
    training = simulation_from_dict(get_weights(args.weights).card["simulation"])
    masked = dataclasses.replace(training, masked_neighbours=1.0)
    for what, config in (("neighbours masked", masked), ("as in the training", training)):
        fitter = NeuralSersicFitter(weights=args.weights)
        tables = [fitter.fit(cutouts) for cutouts, _ in simulate_cutouts(config, args.number, seed=args.seed)]
        snr, flags = (np.concatenate([np.asarray(t[name]) for t in tables]) for name in ("snr", "flags"))
        for low, high in [(0.0, np.inf), *itertools.pairwise(EDGES)]:
            chosen = flags[(snr >= low) & (snr < high)]
            if not len(chosen):
                continue
            found = fraction(chosen, Flag.OUT_OF_DISTRIBUTION)
            error = np.sqrt(max(found, 1.0) * (100.0 - found) / len(chosen))
            rows.append((what, low, high, len(chosen), found, error, fraction(chosen, Flag.BAD_FIT)))
    names = ("stamps", "snr_from", "snr_to", "galaxies", "flagged", "flagged_error", "bad_fit")
    save("out_of_distribution_false_alarms", Table(rows=rows, names=names), "False alarms, percent", args)


def detection(args):
    """Flagged objects of each kind, in percent."""
    fitter, rows = NeuralSersicFitter(weights=args.weights), []
    for kind in KINDS:
        found, bad = [], []
        for snr in SNRS:
            images, errors, psfs, index = draw_kind(kind, snr, args.objects, args.seed)
            table = fitter.fit(images, psfs[index], error=errors)
            found.append(fraction(table["flags"], Flag.OUT_OF_DISTRIBUTION))
            bad.append(fraction(table["flags"], Flag.BAD_FIT))
        rows.append((kind, args.objects, *found, *bad))
    names = ("kind", "objects", *(f"snr_{snr}" for snr in SNRS), *(f"bad_fit_{snr}" for snr in SNRS))
    save("out_of_distribution", Table(rows=rows, names=names), "Flagged, percent, by S/N", args)


def limit(args):
    """Chi-squared of the best Sersic model at S/N 200 without noise."""
    rows, fitter = [], LSQSersicFitter(bias_correction=False)
    for kind in KINDS:
        if kind == "noise 30 % low":
            continue
        images, errors, psfs, index = draw_kind(kind, SNRS[-1], args.limit, args.seed, noise=False)
        table = fitter.fit(images, psfs[index], error=errors)
        chi2 = np.asarray(table["chi2_reduced"]) * (images[0].size - N_PARAMETERS)
        rows.append((kind, args.limit, *np.nanpercentile(chi2, (10, 25, 50, 75, 90))))
    table = Table(rows=rows, names=("kind", "objects", "p10", "p25", "p50", "p75", "p90"))
    save("out_of_distribution_limit", table, "Chi2 that the best Sersic model leaves at S/N 200, percentiles", args)


def save(name, table, title, args):
    meta = metadata(1, weights={args.weights: get_weights(args.weights).sha256[:12]}, options=vars(args))
    report(name, table, meta, title=title, formats={"snr_from": ".0f", "snr_to": ".0f"}, output=args.output)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["false_alarms", "detection", "limit"])
    parser.add_argument("--weights", default="survey-v3")
    parser.add_argument("--number", type=int, default=40_000, help="galaxies for the false alarms")
    parser.add_argument("--objects", type=int, default=1000, help="objects of each kind at each S/N")
    parser.add_argument("--limit", type=int, default=120, help="objects of each kind without noise")
    parser.add_argument("--seed", type=int, default=404)
    parser.add_argument("--output")
    args = parser.parse_args()
    for what in args.what:
        {"false_alarms": false_alarms, "detection": detection, "limit": limit}[what](args)


if __name__ == "__main__":
    main()
