"""How do all shipped networks compare? Size, speed, errors on the study's sets and on its reference galaxy, coverage.

Every network of the registry and least squares measure the same galaxies, drawn with GalSim (set 1, 2, 3) and kept in
``benchmarks/.stamps``, and the same noise draws of the reference galaxy (``reference-60``, ``reference-30``). Each
model and set is written to ``results/compare_models.ecsv`` as soon as it is done, and skipped by a later run while its
files of weights and the number of galaxies are the same (``--overwrite`` measures again); what a model costs is in
``compare_models_cost.ecsv``. Published numbers and the exact posterior, of the results of ``exact_posterior.py`` and
``neural.py``, stand in the same table. The page ``docs/models.rst`` is made from both tables.

A network whose card has an entry ``for_sets`` measures these sets only, and the reference galaxy where it is like them.
``study-v2 given the centre`` is what these weights say once the centre is known, as it was to the study's networks:
about the best that such networks can reach.
"""

import dataclasses
import hashlib
from datetime import UTC, datetime
from pathlib import Path

import _one_core  # noqa: F401
import click
import numpy as np
import torch
from _cost import rates
from _report import RESULTS, metadata, revision
from _study_galaxies import PIXEL_SCALE, REFERENCE_FWHM, REFERENCE_SIGMA, draw_psf, moffat, reference_draws
from astropy.table import Table
from torch.utils.flop_counter import FlopCounterMode

from galmeasure import Cutouts, LSQSersicFitter, NeuralSersicFitter, get_weights, list_weights, read_cutouts
from galmeasure.evaluation.report.published import (
    REFERENCE_RESULTS,
    STUDY_DENOISED_RMSE,
    STUDY_LABEL_STD,
    STUDY_NOISELESS_RMSE,
    STUDY_RMSE,
)
from galmeasure.io.truths import read_truth
from galmeasure.parameters import PARAMETER_NAMES
from galmeasure.training import get_dataset_config, make_dataset
from galmeasure.weights import load_network

SEEDS = {"1": 9101, "2": 9102, "3": 9103, "reference-60": 9260, "reference-30": 9230}
"""Seeds of the galaxies and of the noise draws, of no training."""

SETS_LIKE_REFERENCE = {"reference-60": {"1", "2", "3"}, "reference-30": {"2", "3"}}
"""Sets whose PSF and noise are those of the reference galaxy at each S/N."""

STAMPS = Path(__file__).parent / ".stamps"
UNITS = np.array([1e5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])  # flux in 1e5, r_eff in arcsec, centres in pixels
SHARE_N = 8
"""Galaxies in a row of the drawn sets that share an index; the bootstrap takes them together."""

LSQ, NO_DIGEST = "lsq", "-"
GIVEN_CENTRE = " given the centre"
"""End of the name of a model that is told the centre."""
MIDDLE = 31.5  # of stamps of 64 pixels, where the galaxies are
CHUNK = 2000  # galaxies measured at once, which bounds the memory
PUBLISHED_SIZE = 20000  # validation galaxies of the study
FLOP_BATCHES = (64, 128)  # both fill whole chunks of the fitter; constants cancel in the difference

COLUMNS = ("model", "digest", "set", "size", "parameter", "measured", "rmse", "rmse_error", "bias", "std",
           "coverage_68", "date", "revision")  # fmt: skip
COST_COLUMNS = ("model", "digest", "parameters", "mflop", "megabytes", "galaxies_per_second", "set", "date", "revision")


class Model:
    """A network of the registry or of a file, or least squares.

    Parameters
    ----------
    name : str
        Name or path of weights, with `GIVEN_CENTRE` behind it if the centre is given; or ``"lsq"``.
    """

    def __init__(self, name):
        self.weights = None if name == LSQ else get_weights(name.removesuffix(GIVEN_CENTRE))
        self.fixed = {"x": MIDDLE, "y": MIDDLE} if name.endswith(GIVEN_CENTRE) else {}
        self.name = LSQ if self.weights is None else self.weights.name + GIVEN_CENTRE * bool(self.fixed)
        self.digest = NO_DIGEST if self.weights is None else digest_of(self.weights)

    def fitter(self):
        """Fitter with the default options."""
        if self.weights is None:
            return LSQSersicFitter()
        return NeuralSersicFitter(weights=str(self.weights.path), fixed=self.fixed)

    def sets(self, names):
        """Sets that the model is for, out of those asked for."""
        entry = None if self.weights is None else self.weights.card.get("for_sets")
        if entry is None:
            return list(names)
        known = {str(name) for name in entry}
        return [name for name in names if name in known or SETS_LIKE_REFERENCE.get(name, set()) & known]


def digest_of(weights):
    """Digest of a file of weights and of the correction beside it."""
    total = hashlib.sha256(weights.path.read_bytes())
    correction = weights.path.with_suffix(".correction")
    if correction.exists():
        total.update(correction.read_bytes())
    return total.hexdigest()[:12]


class Galaxies:
    """Cutouts of a set, their true parameters ``(N, 7)`` in published units, and what they have in common.

    Parameters
    ----------
    cutouts : `~galmeasure.Cutouts`
        Stamps.
    truth : ndarray
        Flux in 1e5, r_eff in arcsec.
    """

    def __init__(self, cutouts, truth):
        self.cutouts, self.truth = cutouts, truth
        n = truth[:, PARAMETER_NAMES.index("n")]
        shared = len(np.unique(n)) > 1
        self.groups = np.unique(n, return_inverse=True)[1] if shared else np.arange(len(n))


def load_galaxies(name, size, cache):
    """Galaxies of a set of the study or of the reference galaxy; the former are drawn once."""
    if name.startswith("reference"):
        return reference_galaxies(int(name.removeprefix("reference-")), size)
    path = drawn_file(name, size, Path(cache))
    table = read_truth(path)[:size]
    truth = np.stack([plain(table[f"true_{parameter}"]) for parameter in PARAMETER_NAMES], 1)
    return Galaxies(read_cutouts(path)[:size], truth / UNITS)


def drawn_file(name, size, cache):
    """File of at least so many galaxies of a set, drawn if there is none; its first rows are always the same."""
    for path in sorted(cache.glob(f"set{name}_seed{SEEDS[name]}_n*.fits")):
        if int(path.stem.rsplit("_n", 1)[1]) >= size:
            return path
    cache.mkdir(parents=True, exist_ok=True)
    config = dataclasses.replace(get_dataset_config(name), share_n=SHARE_N)
    path = cache / f"set{name}_seed{SEEDS[name]}_n{size}.fits"
    return make_dataset(path, config, size, seed=SEEDS[name], progress_bar=True)


def reference_galaxies(snr, draws):
    """Noise draws of the reference galaxy."""
    sigma = REFERENCE_SIGMA[snr]
    stamps = reference_draws(draws, sigma, SEEDS[f"reference-{snr}"])
    truth = stamps.truth.copy()
    truth[:, PARAMETER_NAMES.index("r_eff")] *= PIXEL_SCALE
    psf = draw_psf(moffat(REFERENCE_FWHM))
    return Galaxies(Cutouts(stamps.images, psf, error=sigma, gain=1.0, pixel_scale=PIXEL_SCALE), truth / UNITS)


def plain(column):
    return np.asarray(getattr(column, "value", column), dtype=float)


def measure(fitter, galaxies):
    """Errors ``(N, 7)`` and whether the truth lies within the 68 % interval; NaN for parameters taken as known."""
    errors, inside = [], []
    for start in range(0, len(galaxies.truth), CHUNK):
        table = fitter.fit(galaxies.cutouts[start : start + CHUNK])
        truth = galaxies.truth[start : start + CHUNK]
        value, std = (numbers_of(table, suffix) for suffix in ("_fit", "_err"))
        low, high = value - std, value + std
        if f"{PARAMETER_NAMES[0]}_q16" in table.colnames:
            low, high = (numbers_of(table, suffix) for suffix in ("_q16", "_q84"))
        errors.append(np.where(std == 0.0, np.nan, value - truth))
        inside.append((truth > low) & (truth < high))
    return np.concatenate(errors), np.concatenate(inside)


def numbers_of(table, suffix):
    return np.stack([plain(table[f"{name}{suffix}"]) for name in PARAMETER_NAMES], 1) / UNITS


def rmse_error(squares, groups, rounds=200):
    """Bootstrap error of a root mean square, with galaxies of a group drawn together."""
    total = np.bincount(groups, squares)
    count = np.bincount(groups)
    total, count = total[count > 0], count[count > 0]
    picks = np.random.default_rng(1).integers(len(total), size=(rounds, len(total)))
    return np.sqrt(total[picks].sum(1) / count[picks].sum(1)).std()


def statistics(errors, inside, groups):
    """Number of measurements, RMSE with its error, bias, standard deviation and coverage of one parameter."""
    good = np.isfinite(errors)
    if good.sum() < 2:
        return 0, np.nan, np.nan, np.nan, np.nan, np.nan
    e = errors[good]
    return (int(good.sum()), np.sqrt(np.mean(e**2)), rmse_error(e**2, groups[good]), e.mean(), e.std(ddof=1),
            inside[good].mean())  # fmt: skip


def rows_of(model, name, size, galaxies):
    """Rows of the table for one model and set, one per parameter."""
    errors, inside = measure(model.fitter(), galaxies)
    return [
        (model.name, model.digest, name, size, parameter,
         *statistics(errors[:, i], inside[:, i], galaxies.groups), *today())
        for i, parameter in enumerate(PARAMETER_NAMES)
    ]  # fmt: skip


def today():
    """Date and git revision of what is measured now."""
    return datetime.now(UTC).strftime("%Y-%m-%d"), revision()


def cost_row(model, name, galaxies, number):
    """Parameters, MFLOP, MB and rate of a model on the first galaxies of a set."""
    parameters, mflop, megabytes = 0, np.nan, np.nan
    if model.weights is not None:
        parameters = sum(tensor.numel() for tensor in load_network(model.weights).parameters())
        mflop = count_mflop(model.weights, galaxies.cutouts)
        megabytes = model.weights.path.stat().st_size / 1e6
    rate = rates({model.name: model.fitter()}, galaxies.cutouts, {model.name: number}, 2)[model.name][1]
    return model.name, model.digest, parameters, mflop, megabytes, rate, name, *today()


def count_mflop(weights, cutouts):
    """Millions of operations per galaxy without Newton steps; a multiplication and an addition are two."""
    fitter = NeuralSersicFitter(weights=str(weights.path), refine=None, precision="float32")
    totals = []
    for number in FLOP_BATCHES:
        rows = np.arange(number) % len(cutouts)
        with FlopCounterMode(display=False) as counter:
            fitter.fit(cutouts[rows])
        totals.append(counter.get_total_flops())
    return (totals[1] - totals[0]) / (FLOP_BATCHES[1] - FLOP_BATCHES[0]) / 1e6


class Results:
    """Table of results in a file that grows while a run goes on.

    Parameters
    ----------
    name : str
        Name of the file, without extension.
    columns : tuple of str
        Names of the columns.
    folder : path-like or None
        Folder of the file.
    """

    def __init__(self, name, columns, folder):
        self.name, self.columns, self.folder = name, columns, folder
        path = Path(folder or RESULTS) / f"{name}.ecsv"
        self.rows = [tuple(row) for row in Table.read(path)[list(columns)]] if path.exists() else []

    def has(self, **values):
        """True if a row has all these values."""
        return any(all(row[self.columns.index(key)] == value for key, value in values.items()) for row in self.rows)

    def replace(self, rows, *keys):
        """Put rows in the place of those that are equal in some columns, and write the file."""
        places = [self.columns.index(key) for key in keys]
        new = {tuple(row[place] for place in places) for row in rows}
        self.rows = [row for row in self.rows if tuple(row[place] for place in places) not in new] + list(rows)
        folder = Path(self.folder or RESULTS)
        folder.mkdir(parents=True, exist_ok=True)
        table = self.table(keys)
        table.write(folder / f"{self.name}.ecsv", format="ascii.ecsv", overwrite=True)

    def table(self, keys):
        """Sorted table with the digits that matter."""
        table = Table(rows=self.rows, names=self.columns)
        for column in table.itercols():
            if column.dtype.kind == "f":
                column[:] = [float(f"{value:.5g}") for value in column]
        table.sort(list(keys))
        table.meta = metadata(1)
        return table

    def show(self, title, models):
        """Print the rows of models."""
        rows = [row for row in self.rows if row[0] in models]
        print(f"\n{title}")
        print("\n".join(Table(rows=rows, names=self.columns).pformat(max_lines=-1, max_width=-1)))


def other_rows():
    """Rows of what others have measured: published numbers, and the exact posterior of earlier results."""
    return [*published_rows(), *exact_rows()]


def published_rows():
    """Published RMSE of the study's sets, and bias and standard deviation of its reference galaxy."""
    rmse = [("Xception CNN (published)", name, values) for name, values in STUDY_RMSE.items()]
    rmse += [(f"{model} (published)", "1", values) for model, values in STUDY_DENOISED_RMSE.items()]
    rmse += [("Xception CNN, images without noise (published)", "1", STUDY_NOISELESS_RMSE)]
    rmse += [("standard deviation of the labels (published)", "1", STUDY_LABEL_STD)]
    rows = []
    for model, name, values in rmse:
        for parameter, value in zip(PARAMETER_NAMES, values, strict=False):
            rows.append(other_row(model, name, PUBLISHED_SIZE, parameter, rmse=value))
    for snr, results in REFERENCE_RESULTS.items():
        for model, (bias, std) in results.items():
            for parameter, b, s in zip(PARAMETER_NAMES, bias, std, strict=False):
                values = {"rmse": np.hypot(b, s), "bias": b, "std": s}
                rows.append(other_row(f"{model} (published)", f"reference-{snr}", 0, parameter, **values))
    return rows


def exact_rows():
    """Rows of the exact posterior mean, from the results of ``exact_posterior.py`` and ``neural.py``."""
    rows = []
    for path in sorted(RESULTS.glob("exact_posterior*summary.ecsv")):
        table = Table.read(path)
        for row in table:
            values = {key: row[key] for key in ("rmse", "rmse_error", "bias", "coverage_68")}
            rows.append(
                other_row("exact posterior", table.meta["dataset"], table.meta["n"], row["parameter"], **values)
            )
    table = Table.read(RESULTS / "neural_reference.ecsv")
    table = table[[name.startswith("exact") for name in table["estimator"]]]
    for snr in np.unique(table["snr"]):
        values = {row["of"]: row for row in table[table["snr"] == snr]}
        for parameter in PARAMETER_NAMES[:5]:
            kinds = {kind: values[kind][parameter] for kind in ("rmse", "bias", "std")}
            size = table.meta["options"]["exact"]
            rows.append(other_row("exact posterior", f"reference-{snr}", size, parameter, **kinds))
    return rows


def other_row(model, name, size, parameter, **values):
    kinds = ("rmse", "rmse_error", "bias", "std", "coverage_68")
    numbers = (float(values.get(kind, np.nan)) for kind in kinds)
    return model, NO_DIGEST, name, size, parameter, size, *numbers, "-", "-"


def run(models, sizes, results, costs, *, cost_size, cache, overwrite):
    """Measure what is missing, a set at a time, so that its galaxies are read once."""
    known = [] if overwrite else [model for model in models if costs.has(model=model.name, digest=model.digest)]
    priced = known + [model for model in models if model.fixed]
    for name, size in sizes.items():
        galaxies = None
        for model in models:
            done = not overwrite and results.has(model=model.name, digest=model.digest, set=name, size=size)
            if name not in model.sets(sizes) or (done and model in priced):
                continue
            galaxies = load_galaxies(name, size, cache) if galaxies is None else galaxies
            if not done:
                results.replace(rows_of(model, name, size, galaxies), "model", "set", "parameter")
                click.echo(f"{model.name}, set {name}: measured")
            if model not in priced:
                costs.replace([cost_row(model, name, galaxies, min(cost_size, size))], "model")
                priced.append(model)


@click.command(help=__doc__)
@click.option("--models", help="Names or paths of weights, and lsq, between commas; all by default.")
@click.option("--sets", default=",".join(SEEDS), show_default=True, help="Sets between commas.")
@click.option("--size", type=int, default=20000, show_default=True, help="Galaxies of each of the sets 1 to 3.")
@click.option("--draws", type=int, default=2000, show_default=True, help="Noise draws of the reference galaxy.")
@click.option("--cost-size", type=int, default=2000, show_default=True, help="Galaxies whose time is taken.")
@click.option("--quick", is_flag=True, help="200 galaxies of each set, 50 draws, 128 galaxies for the time.")
@click.option("--overwrite", is_flag=True, help="Measure again what is there.")
@click.option("--cache", default=str(STAMPS), help="Folder in which drawn galaxies are kept.")
@click.option("--output", help="Folder of the results.")
def main(models, sets, size, draws, cost_size, quick, overwrite, cache, output):
    if quick:
        size, draws, cost_size = 200, 50, 128
    names = sets.split(",")
    unknown = sorted(set(names) - set(SEEDS))
    if unknown:
        msg = f"sets must be out of {', '.join(SEEDS)}, not {', '.join(unknown)}"
        raise click.BadParameter(msg)
    torch.set_num_threads(1)
    chosen = [Model(name) for name in (models.split(",") if models else [*shipped_names(), LSQ])]
    sizes = {name: draws if name.startswith("reference") else size for name in names}
    results = Results("compare_models", COLUMNS, output)
    costs = Results("compare_models_cost", COST_COLUMNS, output)
    results.replace(other_rows(), "model", "set", "parameter")
    run(chosen, sizes, results, costs, cost_size=cost_size, cache=cache, overwrite=overwrite)
    shown = {model.name for model in chosen}
    results.show("Models on the study's sets: flux in 1e5, r_eff in arcsec, centres in pixels", shown)
    costs.show("Costs: a multiplication and an addition are two operations; rates of one core by processor time", shown)


def shipped_names():
    """Names of the weights of the registry, and what can be reached where the centre is known."""
    return [*(weights.name for weights in list_weights()), "study-v2" + GIVEN_CENTRE]


if __name__ == "__main__":
    main()
