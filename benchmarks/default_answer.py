"""How right is the default answer, ``NeuralSersicFitter()``, on skies that galmeasure's simulator did not make?

Beside least squares on the same stamps. ``populations``: GalSim galaxies of three populations with the PSFs of four
instruments, by S/N. ``psf``: PSF images told with pedestals and noise. ``shear``: multiplicative bias from pairs of
galaxies turned by 90 degrees. ``symmetry``: the eight flips and turns of a stamp. ``offset``: galaxies off the middle
of their stamps. ``stars``. ``real``: ten real galaxies. ``domain``: calibration on galaxies of the training, as trained
and clean, by S/N, in the training's simulator. ``speed``: rates on one core in one run.
"""

import argparse
import dataclasses
import time
from pathlib import Path

import _one_core  # noqa: F401
import numpy as np
from _foreign import POPULATIONS, SIDE, draw_galaxies, instruments, psf_image
from _report import metadata, report
from astropy.table import Table

from galmeasure import Cutouts, LSQSersicFitter, NeuralSersicFitter, decode_flags
from galmeasure.flags import Flag

NAMES = ("flux", "n", "r_eff", "g1", "g2")
RANGES = ((8.0, 15.0), (15.0, 50.0), (50.0, 250.0), (250.0, 1000.0))


def neural(args, **options):
    refine = None if args.refine == "none" else args.refine
    return NeuralSersicFitter(**({"weights": args.weights} if args.weights else {}), refine=refine, **options)


def columns(table, end="fit"):
    """Values of the shape parameters, without units, ``(N, 5)``."""
    return np.stack([np.asarray(getattr(table[f"{name}_{end}"], "value", table[f"{name}_{end}"])) for name in NAMES], 1)


def relative(values, truth):
    """Errors, relative ones of flux, n and r_eff."""
    scale = np.where(np.arange(5) < 3, truth[:, :5], 1.0)
    return (values - truth[:, :5]) / scale


def populations(args):
    """Bias, median errors over those of least squares, and calibration."""
    rows = []
    for instrument in instruments():
        psf = psf_image(instrument)
        for population in POPULATIONS:
            for snr in RANGES:
                images, truth = draw_galaxies(instrument, population, args.number, snr, args.seed)
                found, other = (
                    fitter.fit(images, psf, error=1.0, psf_flux=psf.sum())
                    for fitter in (neural(args), LSQSersicFitter())
                )
                rows.append((instrument, population, *snr, *judged(found, other, truth)))
    names = ["instrument", "population", "snr_from", "snr_to"]
    names += [f"{kind}_{name}" for kind in ("bias", "ratio", "coverage") for name in NAMES]
    names += ["below_q16", "above_q84", "chi2_high", "prior_dominated"]
    save("default_populations", Table(rows=rows, names=names), "The default on GalSim galaxies", args)


def judged(found, other, truth):
    """Median errors, their ratio to least squares', coverage; shares outside the quantiles, of poor chi2, flagged."""
    off, lsq = relative(columns(found), truth), relative(columns(other), truth)
    low, high = (columns(found, end) for end in ("q16", "q84"))
    below, above = (truth[:, :5] < low).mean(0), (truth[:, :5] > high).mean(0)
    ratio = np.nanmedian(np.abs(off), 0) / np.nanmedian(np.abs(lsq), 0)
    dominated = flagged(found, Flag.PRIOR_DOMINATED)
    chi2 = float((np.asarray(found["chi2_reduced"]) > 1.1).mean())
    return (*np.nanmedian(off, 0), *ratio, *(1.0 - below - above), below.mean(), above.mean(), chi2, dominated)


def flagged(table, flag):
    """Share of rows with a flag."""
    return float((np.asarray(table["flags"]) & int(flag) > 0).mean())


def psf(args):
    """Errors in units of the errors claimed, for PSF images with pedestals and correlated noise."""
    from scipy.ndimage import gaussian_filter

    rng, rows = np.random.default_rng(args.seed), []
    for side in (33, 63):
        clean = psf_image("LSST", side)
        noise = gaussian_filter(rng.normal(size=clean.shape), 1.5)
        noise *= clean.max() / noise.std()
        told = {f"pedestal {100 * level:+.1f} %": clean + level * clean.max() for level in (-3e-3, -1e-3, 1e-3, 3e-3)}
        told = {"clean": clean, **told, "noise 0.3 %": clean + 3e-3 * noise, "noise 1 %": clean + 1e-2 * noise}
        for snr in ((40.0, 60.0), (160.0, 240.0)):
            images, truth = draw_galaxies("LSST", "COSMOS-like", args.number, snr, args.seed)
            for name, image in told.items():
                row = [side, name, *snr]
                for fitter in (neural(args), LSQSersicFitter()):
                    table = fitter.fit(images, image, error=1.0)
                    pull = (columns(table) - truth[:, :5]) / columns(table, "err")
                    row += [*np.nanmedian(np.abs(pull), 0)[:3], np.nanmedian(relative(columns(table), truth), 0)[2]]
                    row.append(flagged(table, Flag.PSF_UNUSUAL))
                rows.append(row)
    kinds = [f"pull_{name}" for name in NAMES[:3]] + ["bias_r_eff", "psf_unusual"]
    names = ["psf_side", "psf_told", "snr_from", "snr_to", *kinds, *(f"{kind}_lsq" for kind in kinds)]
    save("default_psf", Table(rows=rows, names=names), "Imperfect PSF images: median of the absolute pull", args)


def shear(args):
    """Multiplicative and additive bias from a ring test at S/N 200, sheared by 0.02 along each component."""
    import galsim

    rng, scale = np.random.default_rng(args.seed), instruments()["LSST"][0]
    image, applied = psf_image("LSST"), 0.02
    response = {"neural": [], "lsq": []}
    for start in range(0, args.pairs, 250):
        shapes = []
        for _ in range(min(250, args.pairs - start)):
            g = 0.3 * np.sqrt(rng.uniform())
            shapes.append((g, rng.uniform(0, np.pi), float(rng.choice([1.0, 1.5, 2.5])), rng.uniform(0.3, 0.8)))
        stamps, signs = [], []
        for g, angle, n, size in shapes:
            for turn in (0.0, np.pi / 2):
                intrinsic = galsim.Shear(g=g, beta=(angle + turn) * galsim.radians)
                for sign in (-1.0, 1.0):
                    galaxy = galsim.Sersic(n, half_light_radius=size).shear(intrinsic).shear(g1=sign * applied, g2=0.0)
                    galaxy = galsim.Convolve(galaxy, instruments()["LSST"][1])
                    stamp = galaxy.drawImage(nx=SIDE, ny=SIDE, scale=scale, dtype=float).array
                    stamps.append(stamp * 200.0 / np.sqrt((stamp**2).sum()))
                    signs.append(sign)
        noise = np.repeat(rng.normal(size=(len(stamps) // 2, SIDE, SIDE)), 2, 0)  # cancels between the two shears
        for name, fitter in (("neural", neural(args)), ("lsq", LSQSersicFitter())):
            g1 = columns(fitter.fit(np.array(stamps) + noise, image, error=1.0))[:, 3].reshape(-1, 4)
            response[name].append((g1[:, 1] + g1[:, 3] - g1[:, 0] - g1[:, 2]) / (4.0 * applied))
    rows = []
    for name, parts in response.items():
        values = np.concatenate(parts)
        values = values[np.isfinite(values)]
        rows.append((name, len(values), values.mean() - 1.0, values.std() / np.sqrt(len(values))))
    save("default_shear", Table(rows=rows, names=("estimator", "pairs", "m", "m_error")), "Shear bias at S/N 200", args)


def symmetry(args):
    """Differences between the eight flips and turns of stamps, in units of the error: root mean square and largest."""
    rows, image = [], psf_image("LSST")
    for snr in RANGES:
        images, _ = draw_galaxies("LSST", "COSMOS-like", args.number // 2, snr, args.seed)
        views = [np.rot90(each, turn, (1, 2)) for each in (images, images[:, ::-1]) for turn in range(4)]
        tables = [neural(args).fit(np.ascontiguousarray(view), image, error=1.0) for view in views]
        values = np.stack([columns(table)[:, :3] for table in tables])
        off = (values - values.mean(0)) / columns(tables[0], "err")[:, :3]
        rows.append((*snr, *np.sqrt(np.nanmean(off**2, (0, 1))), *np.nanmax(np.abs(off), (0, 1))))
    names = ["snr_from", "snr_to", *(f"{kind}_{name}" for kind in ("rms", "largest") for name in NAMES[:3])]
    save("default_symmetry", Table(rows=rows, names=names), "Flips and turns, in errors", args)


def offset(args):
    """Galaxies off the middle of their stamps: magnitudes and positions."""
    rows, image = [], psf_image("LSST")
    images, truth = draw_galaxies("LSST", "discs of n 1.25", 40, (50.0, 250.0), args.seed)
    rng = np.random.default_rng(args.seed)
    for away in (0, 5, 10, 15, 25):
        moved = np.roll(images, (away, -away // 2), (1, 2))
        for axis, by in ((1, away), (2, -(away // 2) if away else 0)):  # what came round the edge is replaced by noise
            edge = [slice(None)] * 3
            edge[axis] = slice(0, by) if by >= 0 else slice(by, None)
            moved[tuple(edge)] = rng.normal(size=moved[tuple(edge)].shape)
        table = neural(args).fit(moved, image, error=1.0)
        dmag = -2.5 * np.log10(np.asarray(table["flux_fit"]) / truth[:, 0])
        dy = np.asarray(table["y_fit"].value) - truth[:, 6] - away
        rows.append((away, np.nanmedian(np.abs(dmag)), np.nanmax(np.abs(dmag)), np.nanmax(np.abs(dy))))
    names = ("pixels", "median_dmag", "largest_dmag", "largest_dy")
    save("default_offset", Table(rows=rows, names=names), "Galaxies off the middle", args)


def stars(args):
    """Forty stars: radius over its limit, and the column point_like."""
    import galsim

    rng, scale = np.random.default_rng(args.seed), instruments()["LSST"][0]
    image, rows = psf_image("LSST"), []
    for snr in (20.0, 100.0, 1000.0):
        stamps = []
        for _ in range(40):
            dx, dy = rng.uniform(-0.5, 0.5, 2)
            star = galsim.Convolve(instruments()["LSST"][1], galsim.DeltaFunction())
            stamp = star.drawImage(nx=SIDE, ny=SIDE, scale=scale, offset=(dx, dy), dtype=float).array
            stamps.append(stamp * snr / np.sqrt((stamp**2).sum()) + rng.normal(size=stamp.shape))
        table = neural(args).fit(np.array(stamps), image, error=1.0)
        point = np.asarray(table["point_like"])
        rows.append((snr, np.median(columns(table)[:, 2]), np.median(point), float((point > 0.5).mean())))
    names = ("snr", "r_eff_pixels", "median_point_like", "share_above_half")
    save("default_stars", Table(rows=rows, names=names), "Stars", args)


def real(args):
    """Ten real galaxies beside least squares."""
    from astropy.io import fits

    folder, rows = Path(args.folder), []
    stamps, errors, psfs, masks, ids = [], [], [], [], []
    for path in sorted(folder.glob("*fitim.fits")):
        name = path.name.removesuffix("fitim.fits")
        part = {
            end: fits.getdata(folder / f"{name}{end}.fits") for end in ("fitim", "sigma", "psfim", "mskim", "segim")
        }
        ny, nx = part["fitim"].shape
        target = part["segim"][ny // 2, nx // 2]
        stamps.append(part["fitim"])
        errors.append(part["sigma"])
        psfs.append(part["psfim"])
        masks.append((part["mskim"] > 0) | ((part["segim"] > 0) & (part["segim"] != target)))
        ids.append(name)
    found, other = (f.fit(stamps, psfs, error=errors, mask=masks, ids=ids) for f in (neural(args), LSQSersicFitter()))
    off = columns(found) / columns(other) - 1.0
    for i, name in enumerate(ids):
        dmag = -2.5 * np.log10(1.0 + off[i, 0])
        good = abs(dmag) < 0.03 and abs(off[i, 2]) < 0.05 and abs(off[i, 1]) < 0.1
        chi2 = found["chi2_reduced"][i], other["chi2_reduced"][i]
        flags = " ".join(decode_flags(int(found["flags"][i])))
        rows.append((name, found["snr"][i], dmag, off[i, 2], off[i, 1], *chi2, int(good), flags or "-"))
    names = ("id", "snr", "dmag", "dr_eff", "dn", "chi2", "chi2_lsq", "within", "flags")
    save("default_real", Table(rows=rows, names=names), "Real galaxies less least squares", args)


def domain(args):
    """Calibration on galaxies of the training's prior by deciles of S/N; median errors over those of least squares."""
    from galmeasure import get_weights
    from galmeasure.training import PSFKnowledge, simulate_cutouts
    from galmeasure.training.config import simulation_from_dict
    from galmeasure.weights import DEFAULT_WEIGHTS

    trained = simulation_from_dict(get_weights(args.weights or DEFAULT_WEIGHTS).card["simulation"])
    clean = dataclasses.replace(
        trained, psf_knowledge=PSFKnowledge.perfect(), neighbours=0.0, background=0.0, total_error=0.0, small_stamps=0.0
    )
    flat = dataclasses.replace(clean, prior="survey")
    rows = []
    for what, config in (("as trained", trained), ("clean", clean), ("clean, flat prior", flat)):
        cutouts, truth = next(simulate_cutouts(config, args.domain, seed=args.seed, chunk=args.domain))
        found = neural(args).fit(cutouts)
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
    save("default_domain", Table(rows=rows, names=[*names, "chi2_high"]), "Galaxies of the training, by S/N", args)


def speed(args):
    """Galaxies a second on one core, whole rows, the best of three, in the same run; one galaxy in milliseconds."""
    from galmeasure.priors import Range, get_prior
    from galmeasure.training import PSFKnowledge, SimulationConfig, simulate_cutouts

    clean = SimulationConfig(prior="galaxies", psf_knowledge=PSFKnowledge.perfect())
    faint = dataclasses.replace(
        get_prior("galaxies"), name="faint", snr=Range(8.0, 60.0, log=True), psf_fwhm=Range(3.2, 3.6)
    )
    one_psf = dataclasses.replace(clean, prior=faint, stamps_per_psf=args.rate)
    rows = []
    for what, config in (("the training's domain", clean), ("one in five above S/N 40, one PSF", one_psf)):
        cutouts, _ = next(simulate_cutouts(config, args.rate, seed=args.seed))
        times = [timed(fitter, cutouts) for fitter in (neural(args), dataclasses.replace(neural(args), refine=None))]
        rows.append((what, len(cutouts), *(len(cutouts) / each for each in times), times[1] / times[0]))
    stamp = np.random.default_rng(0).normal(size=(SIDE, SIDE))
    for side in (6, 64, 512):
        stamp = np.random.default_rng(0).normal(size=(side, side))
        stamp[side // 2, side // 2] += 100.0
        cutouts = Cutouts(stamp, psf_image("LSST", 33), error=1.0)
        times = [timed(fitter, cutouts) for fitter in (neural(args), dataclasses.replace(neural(args), refine=None))]
        rows.append((f"one stamp of {side} pixels", 1, *(1.0 / each for each in times), times[1] / times[0]))
    names = ("galaxies", "number", "rate", "rate_network", "ratio")
    save("default_speed", Table(rows=rows, names=names), "Galaxies a second on one core", args)


def timed(fitter, cutouts):
    """Seconds of one core, the best of three."""
    best = np.inf
    for _ in range(3):
        start = time.process_time()
        fitter.fit(cutouts)
        best = min(best, time.process_time() - start)
    return best


def save(name, table, title, args):
    meta = metadata(1, weights=args.weights or "default", refine=args.refine, seed=args.seed, number=args.number)
    report(name, table, meta, title=title, output=args.output)


PARTS = {part.__name__: part for part in (populations, psf, shear, symmetry, offset, stars, real, domain, speed)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"any of {', '.join(PARTS)}; all by default")
    parser.add_argument("-n", "--number", type=int, default=400, help="galaxies of each kind")
    parser.add_argument("--pairs", type=int, default=3000, help="pairs of the ring test")
    parser.add_argument("--domain", type=int, default=6000, help="galaxies of the training's prior")
    parser.add_argument("--rate", type=int, default=2048, help="galaxies that are timed")
    parser.add_argument("--weights", help="weights; the default ones if not given")
    parser.add_argument("--refine", default="auto", choices=("auto", "importance", "none"))
    parser.add_argument("--folder", default="../shared/real/sdss", help="of the real galaxies")
    parser.add_argument("--seed", type=int, default=20260)
    parser.add_argument("--output", help="folder of the tables; benchmarks/results by default")
    args = parser.parse_args()
    for part in args.parts:
        PARTS[part](args)


if __name__ == "__main__":
    main()
