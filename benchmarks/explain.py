"""Do networks read from the pixels what is statistically optimal? Their derivatives beside the optimal filter.

For every shipped network and the study's reference galaxy: the derivative of the posterior mean by each pixel, at the
noiseless stamp and averaged over noise draws, correlated with the filter ``(F + P^-1)^-1 J^T W`` of a perfect linear
estimator, where P is the covariance of the prior of the network's training; also with each pixel weighted by its noise,
which is the correlation of the errors that the noise makes in both estimates.
"""

import argparse
import time

import _one_core  # noqa: F401
import numpy as np
import torch
from _report import metadata, report
from _study_galaxies import (
    REFERENCE_FWHM,
    REFERENCE_SIGMA,
    draw_psf,
    moffat,
    reference_draws,
    reference_image,
    reference_truth,
)
from astropy.table import Table

from galmeasure import Cutouts, NeuralSersicFitter, list_weights
from galmeasure.explain import optimal_filter
from galmeasure.parameters import PARAMETER_NAMES
from galmeasure.weights import load_network

NAMES = PARAMETER_NAMES[:5]
KINDS = ("noiseless stamp", "mean over draws", "mean over draws, by noise")


def correlation(first, second, weight=None):
    """Correlation of two maps over the pixels; with weights, the cosine that they give."""
    if weight is None:
        return np.corrcoef(first.ravel(), second.ravel())[0, 1]
    return np.sum(weight * first * second) / np.sqrt(np.sum(weight * first**2) * np.sum(weight * second**2))


def derivative(fitter, images, psf, sigma, parameter):
    """Mean derivative of the estimates of stamps by the pixels."""
    explanation = fitter.explain(images, psf, parameter, error=sigma, gain=1.0)
    return np.asarray(explanation.average())


def rows_of(weights, snr, args):
    """One row for each kind of correlation."""
    sigma, image, psf = REFERENCE_SIGMA[snr], reference_image(), draw_psf(moffat(REFERENCE_FWHM))
    draws = reference_draws(args.draws, sigma, args.seed + snr).images
    truth = {name: [value] for name, value in zip(PARAMETER_NAMES, reference_truth(), strict=True)}
    stamp = Cutouts(image, psf, error=sigma, gain=1.0)
    fitter, known = NeuralSersicFitter(weights=weights.name), load_network(weights).held
    table = np.empty((len(KINDS), len(NAMES)))
    for i, name in enumerate(NAMES):
        best = optimal_filter(stamp, truth, name, prior=weights.get_prior(), known=known)
        optimal = np.asarray(best.maps[0])
        table[0, i] = correlation(derivative(fitter, image, psf, sigma, name), optimal)
        mean = derivative(fitter, draws, psf, sigma, name)
        table[1, i], table[2, i] = correlation(mean, optimal), correlation(mean, optimal, sigma**2 + image)
    return [(weights.name, snr, kind, *values) for kind, values in zip(KINDS, table, strict=True)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=32, help="noise draws at each S/N (%(default)s)")
    parser.add_argument("--snr", type=int, nargs="+", choices=REFERENCE_SIGMA, default=list(REFERENCE_SIGMA))
    parser.add_argument("--weights", nargs="+", help="names of weights; all shipped ones by default")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", help="folder of the results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for weights in list_weights():
        if args.weights is None or weights.name in args.weights:
            start = time.perf_counter()
            rows += [row for snr in args.snr for row in rows_of(weights, snr, args)]
            print(f"{weights.name}: {time.perf_counter() - start:.0f} s", flush=True)
    table = Table(rows=rows, names=("weights", "snr", "kind", *NAMES))
    title = "Correlation of a network's derivatives by the pixels with the optimal filter, reference galaxy"
    meta = metadata(1, extra_packages=("captum",), draws=args.draws, seed=args.seed)
    report("explain", table, meta, title=title, formats=dict.fromkeys(NAMES, ".3f"), output=args.output)


if __name__ == "__main__":
    main()
