"""How good and how fast are the trained networks: ``sets reference calibration symmetry real speed``.

Held-out galaxies are drawn with GalSim (``--file`` takes a table that ``galmeasure simulate`` has written), those of
the survey's prior by the project's simulator with a seed that no training has used. The study's numbers are of its
own validation sets.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import _one_core  # noqa: F401
import numpy as np
import torch
from _report import metadata, report
from _study_galaxies import (
    PIXEL_SCALE,
    REFERENCE_FWHM,
    REFERENCE_SIGMA,
    draw_psf,
    moffat,
    reference_draws,
)
from astropy.table import QTable, Table
from reference_galaxy import NAMES, UNITS, columns, in_published_units, reference_bound
from scipy.stats import kstest

from galmeasure import Cutouts, LSQSersicFitter, NeuralSersicFitter, get_weights, read_cutouts
from galmeasure.evaluation.report.published import REFERENCE_RESULTS, STUDY_RMSE
from galmeasure.flags import Flag
from galmeasure.networks import StampInputs
from galmeasure.networks.base import LEVELS
from galmeasure.parameters import PARAMETER_NAMES
from galmeasure.simulation.galsim.config import get_dataset_config
from galmeasure.training import make_dataset, simulate_stamps
from galmeasure.training.config import simulation_from_dict
from galmeasure.training.pool import orient, training_psfs
from galmeasure.weights import load_network

LIMIT = {"3": (0.0873, 0.963, 0.0519, 0.0995, 0.0899)}
"""RMSE of the exact posterior mean, centre free: of ``exact_posterior.py``, whose 500 galaxies are others."""

SEEDS = {"1": 778, "2": 779, "3": 777}
PIECE = 256


def values_of(table, suffix="_fit"):
    return np.stack([np.asarray(table[f"{name}{suffix}"].value, dtype=float) for name in PARAMETER_NAMES], 1)


def truth_of(path):
    """True parameters (N, 7) of a table of ``galmeasure simulate``: r_eff in arcsec, x and y in pixels."""
    table = QTable.read(path)
    return np.stack([np.asarray(getattr(table[f"true_{name}"], "value", table[f"true_{name}"]), dtype=float)
                     for name in PARAMETER_NAMES], 1)  # fmt: skip


def rmse_with_error(errors, rng, rounds=200):
    """Root mean square along the first axis, and its bootstrap error."""
    squares = errors**2
    found = np.sqrt(squares.mean(0))
    picks = rng.integers(len(errors), size=(rounds, len(errors)))
    return found, np.array([np.sqrt(squares[pick].mean(0)) for pick in picks]).std(0)


def set_file(dataset, args, folder):
    """Table of one of the study's sets."""
    for path in args.file or ():
        if f"set{dataset}" in Path(path).name:
            return path
    path = Path(folder) / f"set{dataset}.fits"
    make_dataset(path, get_dataset_config(dataset), args.number, seed=SEEDS[dataset], progress_bar=True)
    return path


def sets(args):
    """RMSE on the study's sets, next to what it published."""
    rng, rows = np.random.default_rng(1), []
    with TemporaryDirectory() as folder:
        for dataset in args.sets:
            path = set_file(dataset, args, folder)
            cutouts, truth = read_cutouts(path)[: args.number], truth_of(path)[: args.number]
            published = np.array(STUDY_RMSE.get(dataset, [np.nan] * 5))
            rows.append((dataset, "published, Xception CNN", 0, *published, *[np.nan] * 5, *[np.nan] * 5))
            if dataset in LIMIT:
                rows.append((dataset, "exact posterior mean", 500, *LIMIT[dataset], *[np.nan] * 5, *[np.nan] * 5))
            fits = {name: (NeuralSersicFitter(weights=name), cutouts) for name in args.weights}
            if args.exact:
                exact = NeuralSersicFitter(weights=args.weights[-1], refine="importance", fixed=centre_of(cutouts))
                fits[f"{args.weights[-1]}, exact, centre given"] = exact, cutouts[: args.exact]
            for name, (fitter, stamps) in fits.items():
                values = values_of(fitter.fit(stamps))
                good = np.isfinite(values).all(1)
                errors = (values - truth[: len(stamps)])[good, :5] / np.array([1e5, 1, 1, 1, 1])
                found, error = rmse_with_error(errors, rng)
                rows.append((dataset, name, int(good.sum()), *found, *error, *(found / published)))
    names = (
        "set", "estimator", "galaxies", *NAMES, *(f"{n}_error" for n in NAMES), *(f"{n}_over_published" for n in NAMES),
    )  # fmt: skip
    title = "RMSE on the study's sets: flux [1e5], n, r_eff [arcsec], g1, g2; bootstrap errors"
    save("neural_sets", Table(rows=rows, names=names), title, args)


def centre_of(cutouts):
    """Middle of the stamps, where the study put its galaxies, as ``fixed`` takes it."""
    (shape,) = np.unique(cutouts.shapes, axis=0)
    return {"x": (shape[1] - 1) / 2.0, "y": (shape[0] - 1) / 2.0}


def reference(args):
    """Bias, scatter and RMSE of the reference galaxy, next to the published networks."""
    rows = []
    psf = draw_psf(moffat(REFERENCE_FWHM))
    for snr, sigma in REFERENCE_SIGMA.items():
        stamps = reference_draws(args.draws, sigma, args.seed + snr)
        bound = in_published_units(reference_bound(sigma, list(range(7))))
        published = {name: (np.array(b), np.array(s)) for name, (b, s) in REFERENCE_RESULTS[snr].items()}
        best = np.min([np.hypot(*published[name]) for name in ("autoencoder", "Xception CNN")], axis=0)
        for name, (bias, std) in published.items():
            add_reference(rows, snr, f"{name} (published)", bias, std, bound, best)
        fits = {f"NeuralSersicFitter, {name}": NeuralSersicFitter(weights=name) for name in args.weights}
        if args.exact:
            exact = NeuralSersicFitter(weights=args.weights[-1], refine="importance")
            fits[f"exact posterior mean, {args.weights[-1]}"] = exact
        for name, fitter in {**fits, "LSQSersicFitter": LSQSersicFitter()}.items():
            drawn = args.exact if name.startswith("exact") else args.draws
            table = fitter.fit(Cutouts(stamps.images[:drawn], psf, error=sigma, gain=1.0))
            delta = (columns(table, "_fit") - stamps.truth[:drawn])[:, :5] / UNITS
            delta = delta[np.isfinite(delta).all(1)]
            add_reference(rows, snr, name, delta.mean(0), delta.std(0, ddof=1), bound, best)
    names = ("snr", "estimator", "of", *NAMES, "below_both_networks")
    title = f"Reference galaxy, {args.draws} draws: flux [1e5], n, r_eff [arcsec], g1, g2"
    save("neural_reference", Table(rows=rows, names=names), title, args)


def add_reference(rows, snr, name, bias, std, bound, best):
    rmse = np.hypot(bias, std)
    rows.append((snr, name, "bias", *bias, -1))
    rows.append((snr, name, "std", *std, -1))
    rows.append((snr, name, "rmse", *rmse, int((rmse < best).sum())))
    rows.append((snr, name, "rmse / bound", *(rmse / bound), -1))


def held_out(name, number, seed):
    """Stamps of the prior of some weights, with a seed of their own."""
    config = simulation_from_dict(get_weights(name).card["simulation"])
    generator = torch.Generator().manual_seed(seed)
    return [simulate_stamps(config, min(512, number - i), generator=generator) for i in range(0, number, 512)]


def inputs_of(network, stamps, rows=slice(None)):
    maps = (getattr(stamps, each)[rows] for each in ("image", "error", "good", "gain"))
    psf, quality = training_psfs(stamps.psf_images, network.config.clean_psf)
    return StampInputs(*maps, psf, stamps.psf_index[rows], quality)


def posteriors(name, parts, drawn, draws, seed):
    """Means, errors and quantiles of the heads; for the first ``drawn`` stamps ranks among draws of the flow."""
    network, generator = load_network(get_weights(name)), torch.Generator().manual_seed(seed)
    found = {key: [] for key in ("truth", "mean", "std", "levels", "snr", "rank", "drawn_mean", "drawn_std")}
    done = 0
    with torch.inference_mode():
        for stamps in parts:
            for rows in torch.arange(len(stamps.image)).split(PIECE):
                context, truth = network.encode(inputs_of(network, stamps, rows)), stamps.parameters[rows]
                summary = network.summarise(context)
                found["truth"].append(truth)
                found["mean"].append(summary.mean)
                found["std"].append(summary.covariance.diagonal(dim1=1, dim2=2).sqrt())
                found["levels"].append(summary.quantiles)
                found["snr"].append(stamps.snr[rows])
                done += len(rows)
                if done > drawn:
                    continue
                samples = network.sample(context, torch.randn((draws, len(rows), 7), generator=generator))
                found["rank"].append((samples < truth).sum(0))
                found["drawn_mean"].append(samples.mean(0))
                found["drawn_std"].append(samples.std(0))
    return {key: torch.cat(value).double().numpy() for key, value in found.items()}


def deciles_of(snr):
    """Decile, 0 to 9, of each."""
    return np.argsort(np.argsort(snr)) * 10 // len(snr)


def calibration(args):
    """Coverage over the prior and in deciles of S/N, ranks of the truth among draws, heads against flow."""
    rows = []
    nominal = np.array([LEVELS[3] - LEVELS[1], LEVELS[4] - LEVELS[0]])
    for name in args.weights:
        found = posteriors(name, held_out(name, args.number, args.seed), args.drawn, args.samples, args.seed)
        truth, levels, snr = found["truth"], found["levels"], found["snr"]
        count = len(found["rank"])
        rng = np.random.default_rng(args.seed)
        # a rank is one of samples + 1 numbers: spread over its bin it is uniform on 0..1 if calibrated
        uniform = (found["rank"] + rng.random(found["rank"].shape)) / (args.samples + 1)
        sources = {
            "heads": (snr, [(truth > levels[:, low]) & (truth < levels[:, 4 - low]) for low in (1, 0)]),
            "flow": (snr[:count], [(uniform > LEVELS[low]) & (uniform < LEVELS[4 - low]) for low in (1, 0)]),
        }
        pull = (found["mean"] - truth) / found["std"]
        for i, parameter in enumerate(PARAMETER_NAMES):
            shift = (found["mean"][:count] - found["drawn_mean"])[:, i] / found["drawn_std"][:, i]
            ratio = np.median(found["std"][:count, i] / found["drawn_std"][:, i])
            for source, (by, inside) in sources.items():
                part, deciles = np.stack(inside)[:, :, i], deciles_of(by)
                per_decile = np.array([part[:, deciles == d].mean(1) for d in range(10)]) - nominal
                rows.append(
                    (name, parameter, source, part.shape[1], *(100 * part.mean(1)), *(100 * np.abs(per_decile).max(0)),
                     kstest(uniform[:, i], "uniform").pvalue, pull[:, i].mean(), pull[:, i].std(),
                     np.sqrt(np.mean(shift**2)), ratio)
                )  # fmt: skip
    names = (
        "weights", "parameter", "of", "galaxies", "inside_68.27", "inside_95.45", "worst_decile_68", "worst_decile_95",
        "ks_p", "pull_mean", "pull_std", "head_minus_flow_rms", "head_over_flow_std",
    )  # fmt: skip
    title = "Calibration on simulated galaxies, percent; worst deciles of S/N: difference from nominal"
    save("neural_calibration", Table(rows=rows, names=names), title, args)


def symmetry(args):
    """What averaging the answers for turned and flipped stamps buys."""
    rows = []
    for name in args.weights:
        network = load_network(get_weights(name))
        answers, truth = {0: [], 1: [], 2: [], 3: []}, []
        with torch.inference_mode():
            for stamps in held_out(name, args.number, args.seed):
                inputs = inputs_of(network, stamps)
                means = torch.stack([turned_mean(network, inputs, element) for element in range(8)])
                for k, elements in enumerate(([0], [0, 3], [0, 3, 5, 6], range(8))):
                    answers[k].append(means[list(elements)].mean(0))
                truth.append(stamps.parameters)
        truth = torch.cat(truth).double().numpy()
        plain = None
        for k, parts in answers.items():
            delta = torch.cat(parts).double().numpy() - truth
            delta[:, [0, 2]] /= truth[:, [0, 2]]
            rmse = np.sqrt((delta**2).mean(0))
            plain = rmse if plain is None else plain
            rows.append((name, 2**k, *rmse, *(100 * (rmse / plain - 1)), *delta.mean(0)[3:5]))
    names = (
        "weights", "orientations", *PARAMETER_NAMES, *(f"{n}_percent" for n in PARAMETER_NAMES), "bias_g1", "bias_g2",
    )  # fmt: skip
    title = "RMSE (flux, r_eff relative) of answers averaged over orientations, and percent against one orientation"
    save("neural_symmetry", Table(rows=rows, names=names), title, args)


def turned_mean(network, inputs, element):
    """Posterior mean from a turned stamp, turned back."""
    no = torch.zeros((len(inputs), 7))
    turned, _ = orient(inputs, no, element)
    mean = network.summarise(network.encode(turned)).mean
    inverse = {3: 5, 5: 3}.get(element, element)
    return orient(inputs, mean, inverse)[1]


def real(args):
    """The ten SDSS galaxies next to their least-squares fits."""
    from real_galaxies import IMFIT, read_galaxy
    from real_galaxies import PIXEL_SCALE as SCALE

    galaxies = {name: read_galaxy(args.data, name) for name in IMFIT}
    parts = {key: [galaxy[key] for galaxy in galaxies.values()] for key in ("image", "error", "psf", "mask")}
    cutouts = Cutouts(parts["image"], parts["psf"], error=parts["error"], mask=parts["mask"], pixel_scale=SCALE,
                      zero_point=0.0)  # fmt: skip
    tables = {"lsq": LSQSersicFitter().fit(cutouts)}
    fitters = {name: NeuralSersicFitter(weights=name) for name in args.weights}
    # the study's prior counts electrons, which these images do not tell
    fitters |= {f"{name} refined": NeuralSersicFitter(weights=name, refine="importance")
                for name in args.weights if get_weights(name).get_prior().electrons is None}  # fmt: skip
    tables |= {name: fitter.fit(cutouts) for name, fitter in fitters.items()}
    rows = []
    limits = {"dmag": 0.05, "dr": 0.10, "dq": 0.05, "dtheta": 3.0, "dn": 0.20}
    for i, galaxy in enumerate(IMFIT):
        for name in fitters:
            one, two = tables["lsq"][i], tables[name][i]
            get = {key: (number(one[key]), number(two[key])) for key in ("mag", "r_eff_major", "q", "theta", "n_fit")}
            difference = {
                "dmag": get["mag"][1] - get["mag"][0],
                "dr": get["r_eff_major"][1] / get["r_eff_major"][0] - 1,
                "dq": get["q"][1] - get["q"][0],
                "dtheta": (get["theta"][1] - get["theta"][0] + 90) % 180 - 90,
                "dn": get["n_fit"][1] / get["n_fit"][0] - 1,
            }
            beyond = [key for key, value in difference.items() if abs(value) > limits[key]]
            flags = " ".join(flag.name.lower() for flag in Flag if int(two["flags"]) & flag)
            score = number(two["ood_score"]) if "ood_score" in two.colnames else np.nan
            rows.append((galaxy, name, number(two["snr"]), get["n_fit"][0], *difference.values(),
                         number(one["chi2_reduced"]), number(two["chi2_reduced"]), score,
                         " ".join(beyond) or "-",
                         flags or "-"))  # fmt: skip
    names = ("id", "weights", "snr", "n_lsq", *limits, "chi2_lsq", "chi2_neural", "ood_score", "beyond", "flags")
    save("neural_real", Table(rows=rows, names=names), "Real galaxies: neural minus least squares", args)


def number(value):
    return float(getattr(value, "value", value))


def speed(args):
    """Galaxies a second, full rows from arrays in memory."""
    rng, rows = np.random.default_rng(args.seed), []
    base = reference_draws(256, 200.0, args.seed).images.astype(np.float32)
    images = base[rng.integers(256, size=args.number)]
    psf = draw_psf(moffat(REFERENCE_FWHM))
    own = np.repeat(psf[None], args.number, 0) * (1.0 + 1e-6 * rng.random((args.number, 1, 1)))
    for threads in args.threads:
        torch.set_num_threads(threads)
        for label, chosen in (("one PSF", psf), ("PSF per galaxy", own)):
            for precision in args.precision:
                fitter = NeuralSersicFitter(weights=args.weights[0], precision=precision)
                fitter.fit(images[:512], chosen[:512] if chosen.ndim == 3 else chosen, error=200.0, gain=1.0)
                best = np.inf
                for _ in range(args.repeat):
                    start = time.perf_counter()
                    fitter.fit(images, chosen, error=200.0, gain=1.0, pixel_scale=PIXEL_SCALE)
                    best = min(best, time.perf_counter() - start)
                rows.append((label, precision, threads, args.number, args.number / best))
                print(rows[-1], flush=True)
        lsq = time.perf_counter()
        LSQSersicFitter().fit(images[:200], psf, error=200.0, gain=1.0)
        rows.append(("least squares, one PSF", "float32", threads, 200, 200 / (time.perf_counter() - lsq)))
    table = Table(rows=rows, names=("case", "precision", "threads", "galaxies", "per_second"))
    lsq = {row["threads"]: row["per_second"] for row in table if row["case"].startswith("least")}
    table["over_least_squares"] = [row["per_second"] / lsq[row["threads"]] for row in table]
    torch.set_num_threads(1)
    save("neural_speed", table, "Galaxies a second, full rows", args, n_cores=max(args.threads))


def save(name, table, title, args, n_cores=1):
    shas = {each: get_weights(each).sha256[:12] for each in args.weights}
    meta = metadata(n_cores, weights=shas, options={k: v for k, v in vars(args).items() if k not in ("run", "output")})
    report(name, table, meta, title=title, output=args.output)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--weights", nargs="+", default=["study-v2", "survey-v3"], help="names or files")
    common.add_argument("--seed", type=int, default=4242)
    common.add_argument("--output", help="folder of the results")
    commands = parser.add_subparsers(required=True)
    for run, options in (
        (sets, {"sets": ["1", "2", "3"], "number": 5000, "exact": 0, "file": True}),
        (reference, {"draws": 2000, "exact": 0}),
        (calibration, {"number": 20000, "drawn": 5120, "samples": 100}),
        (symmetry, {"number": 5000}),
        (real, {"data": True}),
        (speed, {"number": 20000, "threads": [1, 2], "repeat": 2, "precision": ["float32", "bfloat16"]}),
    ):
        command = commands.add_parser(run.__name__, parents=[common], help=run.__doc__)
        command.set_defaults(run=run)
        for name, value in options.items():
            if name in ("data", "file"):
                nargs = {"required": True} if name == "data" else {"nargs": "*"}
                command.add_argument(
                    f"--{name}", help="folder" if name == "data" else "tables with setK in name", **nargs
                )
            elif isinstance(value, list):
                command.add_argument(f"--{name}", nargs="+", type=type(value[0]), default=value)
            else:
                command.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
