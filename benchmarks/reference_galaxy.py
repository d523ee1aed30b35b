"""Is the least-squares fit at the statistical limit? Many noise draws of the study's reference galaxy.

Prints and writes: the Cramer-Rao bounds with what is free, next to the published ones; bias, scatter, pulls and
coverage at each S/N; the published estimators in units of the bound; and the noise-free galaxy next to its peers.
"""

import argparse

import _one_core  # noqa: F401
import numpy as np
import torch
from _report import metadata, report
from _study_galaxies import (
    OVERSAMPLING,
    PIXEL_SCALE,
    REFERENCE_FWHM,
    REFERENCE_SIGMA,
    SIZE,
    draw_psf,
    moffat,
    reference_draws,
    reference_image,
    reference_truth,
)
from astropy.table import Table

from galmeasure import Cutouts, LSQSersicFitter
from galmeasure.evaluation.report.published import REFERENCE_BOUNDS, REFERENCE_RESULTS
from galmeasure.likelihood import cramer_rao_bound, fisher_matrix
from galmeasure.parameters import PARAMETER_NAMES
from galmeasure.render import prepare_psf, render_sersic

SAMPLINGS = {"oversampled": OVERSAMPLING, "native": 1}
NAMES = PARAMETER_NAMES[:5]
UNITS = np.array([1e5, 1.0, 1.0 / PIXEL_SCALE, 1.0, 1.0])  # of the published tables, over those of the truth in pixels


def reference_grid():
    """Transform of the reference galaxy's PSF."""
    psf = torch.from_numpy(draw_psf(moffat(REFERENCE_FWHM), oversampling=OVERSAMPLING))[None]
    return prepare_psf(psf, (SIZE, SIZE), oversampling=OVERSAMPLING, dtype=torch.float64)


def reference_bound(sigma, free, gain=1.0):
    """Cramer-Rao bound (7,) of the reference galaxy in pixels; ``gain`` None ignores the source's shot noise."""
    truth = torch.from_numpy(reference_truth())[None]
    gain = None if gain is None else torch.tensor([gain], dtype=torch.float64)
    fisher = fisher_matrix(truth, reference_grid(), torch.full((1, 1, 1), sigma, dtype=torch.float64), gain=gain)
    return cramer_rao_bound(fisher, free)[0].numpy()


def second_order_bias(sigma, step=0.1):
    """Bias (7,) that any maximum-likelihood fit of the reference galaxy has to second order, in pixels.

    Box (1971, J. R. Stat. Soc. B 33, 171): the curvature of the model along the axes of the covariance ellipsoid,
    projected on the parameters; here the noise of the pixels counts as known.
    """
    truth, grid = torch.from_numpy(reference_truth())[None], reference_grid()
    model, jacobian = render_sersic(truth, grid, jacobian=True)
    weighted = jacobian / (sigma**2 + model.clamp_min(0.0))[:, None]
    covariance = torch.linalg.inv(torch.einsum("bpyx,bqyx->bpq", weighted, jacobian))
    axes = step * torch.linalg.cholesky(covariance)[0].T  # (7, 7), one axis a row
    curved = render_sersic(truth + axes, grid) + render_sersic(truth - axes, grid) - 2.0 * model
    score = -0.5 * torch.einsum("bpyx,yx->bp", weighted, curved.sum(0)) / step**2
    return torch.einsum("bpq,bq->bp", covariance, score)[0].numpy()


def in_published_units(values):
    """Flux in 1e5, r_eff in arcsec."""
    return np.asarray(values)[..., :5] / UNITS


def bounds_table():
    """Bounds for what may be free, and how far they are from the published ones."""
    choices = {
        "centre free, shot noise": (range(7), 1.0),
        "centre fixed, shot noise": (range(5), 1.0),
        "centre free, no shot noise": (range(7), None),
        "centre fixed, no shot noise": (range(5), None),
    }
    rows = []
    for snr, sigma in REFERENCE_SIGMA.items():
        published = np.array(REFERENCE_BOUNDS[snr])
        rows.append((snr, "published", *published, np.nan))
        for name, (free, gain) in choices.items():
            bound = in_published_units(reference_bound(sigma, list(free), gain))
            rows.append((snr, name, *bound, 100 * np.abs(bound / published - 1).max()))
    return Table(rows=rows, names=("snr", "free", *NAMES, "largest_difference_percent"))


def fit(images, oversampling, sigma, psf_size, from_map=None):
    """Result table of the least-squares fitter; with a noise map, that instead of sigma and gain."""
    psf = draw_psf(moffat(REFERENCE_FWHM), psf_size, oversampling)
    noise = {"error": sigma, "gain": 1.0} if from_map is None else {"error": from_map}
    return LSQSersicFitter().fit(Cutouts(images, psf, psf_oversampling=oversampling, **noise))


def columns(table, suffix):
    return np.stack([np.asarray(table[f"{name}{suffix}"].value, dtype=float) for name in PARAMETER_NAMES], 1)


def draws_table(args):
    """Bias, scatter, pulls and coverage for each S/N and sampling of the PSF."""
    rows = []
    for snr, sigma in REFERENCE_SIGMA.items():
        stamps = reference_draws(args.draws, sigma, args.seed + snr)
        bound = reference_bound(sigma, list(range(7)))
        expected = second_order_bias(sigma) / bound
        for sampling in args.psf:
            error_map = stamps.error if args.noise == "map" else None
            table = fit(stamps.images, SAMPLINGS[sampling], sigma, args.psf_size, error_map)
            values, errors = columns(table, "_fit"), columns(table, "_err")
            good = np.isfinite(values).all(1) & np.isfinite(errors).all(1)
            clean = good & (np.asarray(table["flags"]) == 0)
            delta = values - stamps.truth
            pull = delta / errors
            for i, name in enumerate(PARAMETER_NAMES):
                unit = UNITS[i] if i < 5 else 1.0
                d, p = delta[good, i], pull[good, i]
                bias, std = d.mean(), d.std(ddof=1)
                rows.append(
                    (snr, sampling, name, bound[i] / unit, bias / unit, std / unit, np.hypot(bias, std) / unit,
                     bias / bound[i], expected[i], std / bound[i], np.hypot(bias, std) / bound[i],
                     std / bound[i] / np.sqrt(len(d)), delta[clean, i].std(ddof=1) / bound[i],
                     np.median(d) / bound[i], p.mean(), p.std(ddof=1), np.mean(np.abs(p) < 1),
                     np.mean(np.abs(p) < 1.96), 1 - clean.mean())
                )  # fmt: skip
    names = (
        "snr", "psf", "parameter", "bound", "bias", "std", "rmse", "bias_over_bound", "expected_bias_over_bound",
        "std_over_bound", "rmse_over_bound", "bias_error_over_bound", "std_unflagged_over_bound",
        "median_bias_over_bound", "pull_mean", "pull_std", "coverage_68", "coverage_95", "fraction_flagged",
    )  # fmt: skip
    return Table(rows=rows, names=names)


def comparison_table(draws):
    """Bias / standard deviation of every estimator in units of the bound (centre free)."""
    rows = []
    for snr, sigma in REFERENCE_SIGMA.items():
        bound = in_published_units(reference_bound(sigma, list(range(7))))
        for name, (bias, std) in REFERENCE_RESULTS[snr].items():
            texts = [f"{b:+.2f} / {s:.2f}" for b, s in zip(bias / bound, std / bound, strict=True)]
            rows.append((snr, f"{name} (published)", *texts))
        ours = draws[draws["snr"] == snr]
        for sampling in dict.fromkeys(ours["psf"]):
            part = ours[ours["psf"] == sampling][:5]
            texts = [f"{row['bias_over_bound']:+.2f} / {row['std_over_bound']:.2f}" for row in part]
            rows.append((snr, f"LSQSersicFitter, {sampling} PSF", *texts))
    return Table(rows=rows, names=("snr", "estimator", *NAMES))


def noise_free_table(args):
    """Fit of the noise-free reference galaxy with the noise map of S/N 60.

    Not with a gain: the likelihood of the variance prefers a fainter model when residuals vanish.
    """
    image, sigma = reference_image(), REFERENCE_SIGMA[60]
    error = np.sqrt(sigma**2 + image)[None]
    rows = [("truth", *in_published_units(reference_truth()))]
    for sampling in args.psf:
        table = fit(image[None], SAMPLINGS[sampling], sigma, args.psf_size, error)
        rows.append((f"LSQSersicFitter, {sampling} PSF", *in_published_units(columns(table, "_fit")[0])))
    return Table(rows=rows, names=("code", *NAMES))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000, help="noise draws at each S/N (%(default)s)")
    parser.add_argument("--psf", nargs="+", choices=SAMPLINGS, default=list(SAMPLINGS), help="sampling of the PSF")
    parser.add_argument("--psf-size", type=int, default=63, help="side of the PSF image, stamp pixels (%(default)s)")
    parser.add_argument(
        "--noise", choices=("gain", "map"), default="gain", help="sigma and gain, or the true noise map"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="cores used (%(default)s)")
    parser.add_argument("--output", help="folder of the results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    meta = metadata(args.threads, draws=args.draws, seed=args.seed, noise=args.noise, psf_size=args.psf_size)
    bounds = bounds_table()
    report("reference_bounds", bounds, meta, title="Cramer-Rao bounds of the reference galaxy", output=args.output)
    noise_free = noise_free_table(args)
    title = "Noise-free reference galaxy: flux [1e5], n, r_eff [arcsec], g1, g2"
    formats = dict.fromkeys(NAMES, ".4f")
    report("reference_noise_free", noise_free, meta, title=title, formats=formats, output=args.output)
    draws = draws_table(args)
    title = f"LSQSersicFitter on {args.draws} noise draws; flux in 1e5, r_eff in arcsec, x and y in pixels"
    report(
        "reference_galaxy", draws, meta, title=title, formats=dict.fromkeys(draws.colnames, ".3f"), output=args.output
    )
    title = "Bias / standard deviation in units of the Cramer-Rao bound"
    report("reference_comparison", comparison_table(draws), meta, title=title, output=args.output)


if __name__ == "__main__":
    main()
