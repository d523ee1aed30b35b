"""How calibrated is the default on galaxies of its own training, by S/N, and how far from least squares?

Stamps of the training's simulator: as trained, clean (perfect PSF images, no neighbours, no residual background, gains
that are told), and clean with the flat prior ``survey``. Coverage of the 68.3 % interval, shares below and above it,
standard deviation of the pulls, median errors over those of least squares on the same stamps.
"""

import argparse
import dataclasses

import _one_core  # noqa: F401
import numpy as np
from _report import metadata, report
from astropy.table import Table

from galmeasure import LSQSersicFitter, NeuralSersicFitter, get_weights
from galmeasure.training import PSFKnowledge, simulate_cutouts
from galmeasure.training.config import simulation_from_dict
from galmeasure.weights import DEFAULT_WEIGHTS

NAMES = ("flux", "n", "r_eff", "g1", "g2")


def columns(table, end="fit"):
    """Values of the shape parameters, without units, ``(N, 5)``."""
    return np.stack([np.asarray(getattr(table[f"{name}_{end}"], "value", table[f"{name}_{end}"])) for name in NAMES], 1)


def relative(values, truth):
    """Errors, relative ones of flux, n and r_eff."""
    scale = np.where(np.arange(5) < 3, truth[:, :5], 1.0)
    return (values - truth[:, :5]) / scale


def domain(args):
    """Calibration on galaxies of the training's prior by deciles of S/N; median errors over those of least squares."""
    trained = simulation_from_dict(get_weights(args.weights).card["simulation"])
    clean = dataclasses.replace(
        trained, psf_knowledge=PSFKnowledge.perfect(), neighbours=0.0, background=0.0, total_error=0.0, small_stamps=0.0
    )
    flat = dataclasses.replace(clean, prior="survey")
    rows = []
    for what, config in (("as trained", trained), ("clean", clean), ("clean, flat prior", flat)):
        cutouts, truth = next(simulate_cutouts(config, args.number, seed=args.seed, chunk=args.number))
        found = NeuralSersicFitter(weights=args.weights, refine=None if args.refine == "none" else args.refine).fit(
            cutouts
        )
        other = LSQSersicFitter().fit(cutouts) if config is not trained else None
        order = np.argsort(np.asarray(found["snr"]))
        for part in np.array_split(order[np.isfinite(np.asarray(found["snr"])[order])], 10):
            own, lsq = found[part], None if other is None else other[part]
            low, high = (columns(own, end) for end in ("q16", "q84"))
            below, above = (truth[part][:, :5] < low).mean(0), (truth[part][:, :5] > high).mean(0)
            pull = (columns(own) - truth[part][:, :5]) / columns(own, "err")
            off = relative(columns(own), truth[part])
            ratio = np.full(5, np.nan)
            if lsq is not None:
                ratio = np.nanmedian(np.abs(off), 0) / np.nanmedian(np.abs(relative(columns(lsq), truth[part])), 0)
            chi2 = float((np.asarray(own["chi2_reduced"]) > 1.1).mean())
            snr = np.median(np.asarray(own["snr"]))
            spread = np.nanstd(np.clip(pull, -6, 6), 0)
            rows.append((what, len(part), snr, *(1 - below - above), below.mean(), above.mean(), *spread, *ratio, chi2))
    names = ["stamps", "galaxies", "snr", *(f"coverage_{name}" for name in NAMES), "below_q16", "above_q84"]
    names += [f"{kind}_{name}" for kind in ("pull", "ratio") for name in NAMES]
    meta = metadata(1, weights=args.weights, refine=args.refine, seed=args.seed, number=args.number)
    table = Table(rows=rows, names=[*names, "chi2_high"])
    report("domain", table, meta, title="Galaxies of the training, by S/N", output=args.output)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--number", type=int, default=6000, help="galaxies of each kind")
    parser.add_argument("--weights", default=DEFAULT_WEIGHTS)
    parser.add_argument("--refine", default="auto", choices=("auto", "importance", "none"))
    parser.add_argument("--seed", type=int, default=20260)
    parser.add_argument("--output", help="folder of the table; benchmarks/results by default")
    domain(parser.parse_args())


if __name__ == "__main__":
    main()
