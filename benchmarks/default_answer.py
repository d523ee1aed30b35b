"""How right is the default answer, ``NeuralSersicFitter()``, on skies that galmeasure's simulator did not make?

Galaxies, stars and PSFs are drawn with GalSim and get Gaussian noise; least squares fits the same stamps beside it.
Noiseless stamps are kept in the folder ``--cache`` and get noise several times; standard errors come from resampling
noiseless stamps, not noisy ones. ``speed`` also takes stamps of the project's simulator.
"""

import functools
from pathlib import Path

import _one_core  # noqa: F401
import click
import numpy as np
from _answer_statistics import (
    JUDGED,
    SHARES,
    STATISTICS,
    Answer,
    deviations,
    fit,
    flag_share,
    flag_text,
    make_fitters,
    plain,
    shares,
    snr_bins,
    statistics,
)
from _cost import in_own_process, one_galaxy, rates, stamp_cost
from _instruments import (
    POPULATIONS,
    SIZE,
    draw,
    imperfect_psfs,
    instruments,
    log_uniform,
    observe,
    population_truth,
    survey_instruments,
    survey_truth,
)
from _report import metadata, report
from _ring_test import APPLIED_SHEAR, draw_rings, ring_test, shear_bias
from astropy.table import Table

from galmeasure import Cutouts, decode_flags, get_weights
from galmeasure.flags import Flag

OFFSETS = (0, 5, 10, 15, 25)
PSF_SIDES = (25, 33, 63)
REAL_LIMITS = {"dmag": 0.03, "dr": 5.0, "dn": 10.0}


def common_options(command):
    """Add the options of all subcommands, which the function receives as one namespace."""

    @functools.wraps(command)
    def run(weights, refine, quick, number, seed, cache, output, **options):
        sizes = {"quick": quick, "number": number, "seed": seed, "cache": cache, "output": output}
        return command(Settings(weights=weights, refine=refine, **sizes), **options)

    refinements = click.Choice(["default", "auto", "importance", "none"])
    for option in (
        click.option("--output", type=click.Path(path_type=Path), help="Folder of the tables."),
        click.option("--cache", type=click.Path(path_type=Path), default=Path(__file__).parent / ".stamps",
                     help="Folder of noiseless stamps; benchmarks/.stamps by default."),
        click.option("--seed", default=20261, show_default=True, help="Seed of everything random."),
        click.option("--number", type=click.IntRange(min=1), help="Noiseless images of each kind."),
        click.option("--quick", is_flag=True, help="Small numbers, to try it out."),
        click.option("--refine", type=refinements, default="default", show_default=True, help="As of the fitter."),
        click.option("--weights", help="Name or file of weights; those of the package by default."),
    ):  # fmt: skip
        run = option(run)
    return run


class Settings:
    """Options that all subcommands share.

    Parameters
    ----------
    weights, refine : str
        Options of the fitter.
    quick : bool
        Whether numbers are small.
    number : int or None
        Noiseless images of each kind, where the command line says so.
    seed : int
        Seed of everything random.
    cache, output : Path
        Folders of stamps and tables.
    """

    def __init__(self, *, weights, refine, quick, number, seed, cache, output):
        self.weights, self.refine, self.quick, self.number = weights, refine, quick, number
        self.seed, self.cache, self.output = seed, cache, output
        self.fitters = make_fitters(weights, refine)

    def count(self, usual, quick):
        """Noiseless images of each kind."""
        return self.number or (quick if self.quick else usual)

    def rng(self, *numbers):
        """Random generator of one part of a benchmark."""
        return np.random.default_rng([self.seed, *numbers])

    def fit(self, images, psf, **options):
        """Answers by name of the fitter."""
        return {name: fit(fitter, images, psf, **options) for name, fitter in self.fitters.items()}

    def save(self, name, rows, names, title, **more):
        """Print and write a table."""
        used = get_weights(self.weights) if self.weights else get_weights()
        meta = metadata(1, weights={used.name: used.sha256[:12]}, fitter=repr(self.fitters["default"]),
                        options={"quick": self.quick, "number": self.number, "seed": self.seed}, **more)  # fmt: skip
        report(f"default_{name}", Table(rows=rows, names=names), meta, title=title, output=self.output)


@click.group(help=__doc__)
def main():
    """Collect the subcommands."""


def both(answers, rows=slice(None)):
    """Answers of the default and of least squares for some rows."""
    return answers["default"][rows], answers["lsq"][rows]


def joined(parts):
    """Concatenate answers, truths, S/N and groups of several sets of stamps; groups stay apart."""
    answers = {name: Answer.concatenate([part[0][name] for part in parts]) for name in parts[0][0]}
    truth, snr = (np.concatenate([part[i] for part in parts]) for i in (1, 2))
    starts = np.cumsum([0, *(part[3].max() + 1 for part in parts[:-1])])
    groups = np.concatenate([part[3] + start for part, start in zip(parts, starts, strict=True)])
    return answers, truth, snr, groups


def measured(settings, instrument, truth, snr_of, draws, rng):
    """Answers, truths, S/N and groups of stamps of which each noiseless image gets noise ``draws`` times."""
    groups = np.repeat(np.arange(len(truth)), draws)
    noiseless = draw(instrument, truth, cache=settings.cache)[groups]
    snr = snr_of(rng, truth[groups, 2] * instrument.pixel_scale)
    images, truth = observe(noiseless, truth[groups], snr, rng)
    psf = instrument.psf_image()
    return settings.fit(images, psf, psf_flux=float(psf.sum())), truth, snr, groups


@main.command()
@common_options
def populations(settings):
    """Bias, errors, coverage and flags on three populations seen by several instruments."""
    count, draws = settings.count(75, 12), 5
    parts, rows, share_rows = {}, [], []
    for i, population in enumerate(POPULATIONS):
        for j, instrument in enumerate(instruments().values()):
            rng = settings.rng(1, i, j)
            truth = population_truth(population, instrument, count, rng)
            part = measured(settings, instrument, truth, population.snr, draws, rng)
            parts[population.name, instrument.name] = part
            add_bins(rows, share_rows, (population.name, instrument.name), part)
            click.echo(f"{population.name}, {instrument.name}: {len(part[1])} galaxies")
    summary, share_summary = [], []
    names = [population.name for population in POPULATIONS], list(instruments())
    for key in (*((name, "all") for name in names[0]), *(("all", name) for name in names[1]), ("all", "all")):
        chosen = [
            part for known, part in parts.items() if all(a in (b, "all") for a, b in zip(key, known, strict=True))
        ]
        add_bins(summary, share_summary, key, joined(chosen))
    bins = ("snr_from", "snr_to")
    keys = ("population", "instrument", *bins)
    settings.save("populations", rows, (*keys, *STATISTICS), "Populations by instrument")
    settings.save("populations_flags", share_rows, (*keys, *SHARES), "Populations by instrument: shares, percent")
    settings.save("populations_summary", summary, (*keys, *STATISTICS), "Populations and instruments together")
    settings.save("populations_summary_flags", share_summary, (*keys, *SHARES), "The same: shares, percent")


def add_bins(rows, share_rows, key, part):
    """Add the rows of the bins of S/N."""
    answers, truth, snr, groups = part
    for lower, upper, chosen in snr_bins(snr):
        answer, lsq = both(answers, chosen)
        for row in statistics(answer, lsq, truth[chosen], groups[chosen]):
            rows.append((*key, lower, upper, *row))
        share_rows.append((*key, lower, upper, *shares(answer, lsq)))


@main.command()
@common_options
def prior(settings):
    """Coverage and errors over the domain of the ``survey`` prior, by deciles of S/N."""
    psf_count, draws = (4, 1) if settings.quick else (16, 2)
    per_psf = max(1, settings.count(1000, 100) // psf_count)
    parts = []
    for i, instrument in enumerate(survey_instruments(psf_count, settings.rng(2))):
        rng = settings.rng(2, i)
        truth = survey_truth(per_psf, rng)
        snr_of = lambda rng, r_eff: log_uniform(rng, 5.0, 1000.0, len(r_eff))  # noqa: E731
        parts.append(measured(settings, instrument, truth, snr_of, draws, rng))
    answers, truth, snr, groups = joined(parts)
    rows, share_rows = [], []
    deciles = np.array_split(np.argsort(snr), 10)
    for i, chosen in enumerate([np.arange(len(snr)), *deciles]):
        key = "all" if i == 0 else str(i), snr[chosen].min(), snr[chosen].max()
        rows += [(*key, *row) for row in statistics(*both(answers, chosen), truth[chosen], groups[chosen])]
        share_rows.append((*key, *shares(*both(answers, chosen))))
    keys = ("decile", "snr_from", "snr_to")
    settings.save("prior", rows, (*keys, *STATISTICS), "Galaxies of the survey prior by deciles of S/N")
    settings.save("prior_flags", share_rows, (*keys, *SHARES), "Galaxies of the survey prior: shares, percent")


@main.command(name="psf_knowledge")
@common_options
def psf_knowledge(settings):
    """Errors where the PSF image that is told has a pedestal, noise, negative pixels or cut wings."""
    count, levels = settings.count(60, 8), (50.0, 300.0)
    instrument = instruments()["LSST"]
    truth = population_truth(POPULATIONS[0], instrument, count, settings.rng(3))
    noiseless = draw(instrument, truth, cache=settings.cache)
    rows = []
    for side in PSF_SIDES[:1] if settings.quick else PSF_SIDES:
        told = imperfect_psfs(instrument.psf_image(side), settings.rng(3, side))
        for snr in levels:
            images, true = observe(noiseless, truth, np.full(count, snr), settings.rng(3, int(snr)))
            for label, image in told.items():
                for name, answer in settings.fit(images, image).items():
                    rows.append((side, label, snr, name, *told_statistics(answer, true)))
    kinds = ("pull", "abs_pull", "relative", "abs_relative")
    columns = [f"{kind}_{name}" for name in ("r_eff", "flux", "n") for kind in kinds]
    names = ("psf_side", "psf_told", "snr", "estimator", *columns, "psf_unusual")
    title = "Imperfect PSF images: medians of errors and of their moduli, in units of the claimed error and relative"
    settings.save("psf_knowledge", rows, names, title)


def told_statistics(answer, truth):
    """Medians of errors of r_eff, flux and n, and the percentage of rows flagged ``psf_unusual``."""
    relative = deviations(answer.values, truth)
    pull = (answer.values - truth)[:, :5] / answer.errors[:, :5]
    columns = []
    for i in (2, 0, 1):
        for values in (pull[:, i], relative[:, i]):
            columns += [np.nanmedian(values), np.nanmedian(np.abs(values))]
    return *columns, flag_share(answer, Flag.PSF_UNUSUAL)


@main.command()
@common_options
@click.option("--pairs", type=click.IntRange(min=2), help="Pairs of the round PSF; 3,000 by default, quick 200.")
def shear(settings, pairs):
    """Multiplicative and additive bias of the shear from pairs of galaxies turned by 90 degrees, at S/N 200.

    The shear is applied to both galaxies of a pair, and with either sign. What is averaged is the error of the
    ellipticity, so that pairs whose own ellipticities do not cancel to second order count without noise.
    """
    pairs = pairs or (200 if settings.quick else 3000)
    rows = []
    for instrument, number in ((instruments()["LSST"], pairs), (instruments()["LSST"].sheared(0.05), pairs // 3)):
        draws = 10 if number >= 200 else 2
        shapes = max(1, -(-number // (2 * draws)))
        rings = draw_rings(instrument, shapes, settings.rng(4), cache=settings.cache)
        errors = ring_test(settings.fit, rings, draws, 200.0, settings.rng(4, 1))
        for name, values in errors.items():
            rows.append((instrument.name, name, 2 * shapes * draws, *shear_bias(values, draws, settings.rng(4, 9))))
    names = ("psf", "estimator", "pairs", "not_measured", "m", "m_err", "c1", "c1_err", "c2", "c2_err")
    settings.save("shear", rows, names, f"Shear of {APPLIED_SHEAR} applied to galaxies of S/N 200: ring test")


@main.command()
@common_options
def symmetry(settings):
    """Differences between the eight flips and turns of the same stamp, in units of the error."""
    count = settings.count(100, 10)
    instrument, rng = instruments()["LSST"], settings.rng(5)
    truth = population_truth(POPULATIONS[0], instrument, count, rng)
    snr = log_uniform(rng, 5.0, 1000.0, count)
    images, _ = observe(draw(instrument, truth, cache=settings.cache), truth, snr, rng)
    psf, rows = instrument.psf_image(), []
    answers = [settings.fit(view(images, k), view(psf[None], k)[0]) for k in range(8)]
    for name in settings.fitters:
        values = np.stack([unview(answer[name].values, k) for k, answer in enumerate(answers)])
        spread = (values.max(0) - values.min(0)) / answers[0][name].errors
        for lower, upper, chosen in [(0.0, np.inf, slice(None)), *snr_bins(snr)]:
            for i, parameter in enumerate((*JUDGED, "x", "y")):
                part = spread[chosen, i]
                rows.append((name, lower, upper, parameter, len(part), *np.nanpercentile(part, (50, 90, 100))))
    names = ("estimator", "snr_from", "snr_to", "parameter", "galaxies", "median", "percentile_90", "largest")
    settings.save("symmetry", rows, names, "Largest less smallest of eight flips and turns, in units of the error")


def view(images, k):
    """One of eight flips and turns of images: transposed (4), then flipped in y (2) and in x (1)."""
    images = images.transpose(0, 2, 1) if k & 4 else images
    images = images[:, ::-1] if k & 2 else images
    return np.ascontiguousarray(images[:, :, ::-1] if k & 1 else images)


def unview(values, k):
    """Parameters as they would have been measured on the stamp before `view`."""
    flux, n, r_eff, g1, g2, x, y = values.T
    x, g2 = (SIZE - 1 - x, -g2) if k & 1 else (x, g2)
    y, g2 = (SIZE - 1 - y, -g2) if k & 2 else (y, g2)
    x, y, g1 = (y, x, -g1) if k & 4 else (x, y, g1)
    return np.stack([flux, n, r_eff, g1, g2, x, y], 1)


@main.command()
@common_options
def offset(settings):
    """Errors of magnitude and centre for galaxies away from the middle of their stamps."""
    count, instrument = settings.count(40, 8), instruments()["LSST"]
    psf, rows = instrument.psf_image(), []
    for away in OFFSETS:
        rng = settings.rng(6)  # the same galaxies, directions and noise at each distance
        truth = population_truth(POPULATIONS[0], instrument, count, rng)
        angle, snr = rng.uniform(0.0, 2.0 * np.pi, count), log_uniform(rng, 50.0, 250.0, count)
        truth[:, 5:] += away * np.stack([np.cos(angle), np.sin(angle)], 1)
        images, true = observe(draw(instrument, truth, cache=settings.cache), truth, snr, rng)
        for name, answer in settings.fit(images, psf, psf_flux=float(psf.sum())).items():
            rows.append((away, name, count, *offset_statistics(answer, true), flag_text(answer)))
    columns = ("not_measured", "dmag_median", "dmag_largest", "dmag_above_0.1", "centre_median", "centre_largest")
    names = ("pixels", "estimator", "galaxies", *columns, "flags")
    settings.save("offset", rows, names, "Galaxies away from the middle: errors of magnitude and centre [pixels]")


def offset_statistics(answer, truth):
    """Rows without a magnitude; modulus of its error: median, largest, percent above 0.1; error of the centre."""
    with np.errstate(all="ignore"):
        dmag = np.abs(2.5 * np.log10(answer.values[:, 0] / truth[:, 0]))
    distance = np.hypot(*(answer.values - truth)[:, 5:].T)
    missing, poor = int((~np.isfinite(dmag)).sum()), 100.0 * float(np.mean(~(dmag <= 0.1)))
    return missing, np.nanmedian(dmag), np.nanmax(dmag), poor, np.nanmedian(distance), np.nanmax(distance)


@main.command()
@common_options
def stars(settings):
    """Radii, flags and the column ``point_like`` of stars."""
    count, rng, rows = settings.count(40, 8), settings.rng(7), []
    for i, snr in enumerate(np.geomspace(20.0, 1000.0, count)):
        instrument = list(instruments().values())[i % len(instruments())]
        image = instrument.draw_star(SIZE, rng.uniform(-0.5, 0.5, 2))
        image = image * (snr / np.sqrt((image**2).sum())) + rng.normal(size=image.shape)
        psf = instrument.psf_image()
        answer, lsq = both(settings.fit(image[None], psf, psf_flux=float(psf.sum())))
        radius, error = answer.values[0, 2], answer.errors[0, 2]
        flags = (" ".join(decode_flags(int(each.flags[0]))) or "-" for each in (answer, lsq))
        rows.append((instrument.name, snr, radius, error, lsq.values[0, 2], lsq.errors[0, 2], answer.point_like[0],
                     *flags))  # fmt: skip
    names = ("instrument", "snr", "r_eff", "r_eff_err", "r_eff_lsq", "r_eff_err_lsq", "point_like", "flags",
             "flags_lsq")  # fmt: skip
    settings.save("stars", rows, names, "Stars: radii in pixels")


@main.command()
@common_options
@click.argument("folder", type=click.Path(path_type=Path, exists=True), default="../shared/real")
def real(settings, folder):
    """Ten real galaxies beside least squares; FOLDER holds the files that ``real_galaxies.py`` names."""
    from real_galaxies import IMFIT, PIXEL_SCALE, read_galaxy

    paths = {path.name.removesuffix("fitim.fits"): path.parent for path in sorted(folder.rglob("G*fitim.fits"))}
    names = [name for name in IMFIT if name in paths]
    if not names:
        msg = f"{folder}: there is no G<id>fitim.fits"
        raise click.BadParameter(msg)
    galaxies = [read_galaxy(paths[name], name) for name in names]
    maps = {key: [galaxy[key] for galaxy in galaxies] for key in ("image", "error", "psf", "mask")}
    tables = {
        name: fitter.fit(Cutouts(maps["image"], maps["psf"], error=maps["error"], mask=maps["mask"],
                                 pixel_scale=PIXEL_SCALE, zero_point=0.0))
        for name, fitter in settings.fitters.items()
    }  # fmt: skip
    rows = real_rows(names, tables["default"], tables["lsq"])
    columns = ("id", "snr", "n_lsq", *REAL_LIMITS, "dq", "chi2", "chi2_lsq", "within", "flags", "flags_lsq")
    within = {key: sum(abs(row[3 + i]) < limit for row in rows) for i, (key, limit) in enumerate(REAL_LIMITS.items())}
    within["all"] = sum(row[columns.index("within")] for row in rows)
    title = "Real galaxies less least squares: magnitude, r_eff and n in percent, axis ratio. Within 0.03 mag: "
    title += f"{within['dmag']}, 5 % in r_eff: {within['dr']}, 10 % in n: {within['dn']}, all three: {within['all']}"
    settings.save("real", rows, columns, f"{title}, of {len(rows)}", within=within, limits=REAL_LIMITS)


def real_rows(names, table, lsq):
    """One row for each real galaxy."""
    dmag, dq = (plain(table[key]) - plain(lsq[key]) for key in ("mag", "q"))
    radius, index = (100.0 * (plain(table[key]) / plain(lsq[key]) - 1.0) for key in ("r_eff_fit", "n_fit"))
    rows = []
    for i, name in enumerate(names):
        difference = dmag[i], radius[i], index[i]
        within = all(abs(d) < limit for d, limit in zip(difference, REAL_LIMITS.values(), strict=True))
        flags = (" ".join(decode_flags(int(each["flags"][i]))) or "-" for each in (table, lsq))
        chi2 = (plain(each["chi2_reduced"])[i] for each in (table, lsq))
        rows.append((name, plain(table["snr"])[i], plain(lsq["n_fit"])[i], *difference, dq[i], *chi2, within, *flags))
        rows[-1] = tuple(int(value) if isinstance(value, bool) else value for value in rows[-1])
    return rows


@main.command()
@common_options
def speed(settings):
    """Rows per second on one core, one galaxy alone, and time and memory of small and large stamps.

    The first two in turns in one process, the last in a process for each. On a machine that does other work the
    rates by processor time are the ones to compare.
    """
    number, repeat = (256, 1) if settings.quick else (2048, 3)
    fitters = {"default": settings.fitters["default"], "refine none": make_fitters(settings.weights, "none")["default"],
               "lsq": settings.fitters["lsq"]}  # fmt: skip
    rows_of = {"default": number, "refine none": number, "lsq": number // 8}
    rows = []
    for label, cutouts in speed_sets(settings, number):
        found = rates(fitters, cutouts, rows_of, repeat)
        for name, (clock, processor) in found.items():
            alone = one_galaxy(fitters[name], cutouts, 5 if settings.quick else 20)
            rows.append((label, name, rows_of[name], clock, processor, processor / found["lsq"][1], *alone))
    names = ("galaxies", "estimator", "rows", "per_second", "per_cpu_second", "over_lsq", "one_alone_ms",
             "one_alone_cpu_ms")  # fmt: skip
    settings.save("speed", rows, names, "Rows per second on one core; one galaxy alone in milliseconds")
    rows = []
    for side in (6, 64, 512):
        for name, estimator, refine in (("default", "default", settings.refine), ("refine none", "default", "none"),
                                        ("lsq", "lsq", "default")):  # fmt: skip
            cost = in_own_process(stamp_cost, estimator, settings.weights, refine, side, settings.seed)
            rows.append((side, name, *cost))
    names = ("side", "estimator", "seconds", "cpu_seconds", "peak_mb")
    settings.save("speed_stamps", rows, names, "One stamp: seconds, and peak of the memory above what was taken before")


def speed_sets(settings, number):
    """Yield labels and cutouts: the domain of the survey prior, and fainter galaxies with one PSF."""
    from galmeasure.training import SimulationConfig, simulate_cutouts

    config, seed = SimulationConfig(prior="survey"), settings.seed
    yield "survey domain, many PSFs", next(simulate_cutouts(config, number, seed=seed))[0]
    instrument, rng = instruments()["LSST"], settings.rng(8)
    truth = population_truth(POPULATIONS[0], instrument, settings.count(64, 16), rng)
    groups = np.arange(number) % len(truth)
    snr = log_uniform(rng, 8.0, 59.8, number)  # one in five is above 40
    images, _ = observe(draw(instrument, truth, cache=settings.cache)[groups], truth[groups], snr, rng)
    yield "one in five above S/N 40, one PSF", Cutouts(images, instrument.psf_image(), error=1.0)


if __name__ == "__main__":
    main()
