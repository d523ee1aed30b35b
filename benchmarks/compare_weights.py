"""How much better are weights A than weights B? Both measure the same new stamps of the simulation on A's card.

Prints and writes the median absolute error and the root mean square error of each parameter (relative for the flux and
r_eff) with both, their ratio, and the mean difference of the log density that their posteriors give to the truth, each
with its error: of the networks alone, and of the default answer (Newton steps and correction).
"""

import _one_core  # noqa: F401
import click
import numpy as np
import torch
from _report import metadata, report
from astropy.table import Table

from galmeasure import NeuralSersicFitter, get_weights
from galmeasure.parameters import PARAMETER_NAMES
from galmeasure.simulation.cutouts import simulate_cutouts
from galmeasure.training.config import simulation_from_dict

ANSWERS = {"network": None, "default": "auto"}
"""Names of the answers that are compared, and the option ``refine`` of each."""

RELATIVE = [PARAMETER_NAMES.index(name) for name in ("flux", "r_eff")]
DENSITY = "log density of the truth"
CHUNK = 1024
_BOOTSTRAPS = 500


def measure(fitters, config, size, seed):
    """Errors ``(N, 7)`` and log densities of the truth ``(N,)`` of each fitter, on the same stamps."""
    errors, densities = ({name: [] for name in fitters} for _ in range(2))
    for cutouts, truth in simulate_cutouts(config, size, seed=seed, chunk=CHUNK):
        true_table = Table(truth, names=PARAMETER_NAMES)
        for name, fitter in fitters.items():
            table = fitter.fit(cutouts)
            values = [np.asarray(getattr(table[f"{p}_fit"], "value", table[f"{p}_fit"])) for p in PARAMETER_NAMES]
            error = np.stack(values, 1) - truth
            error[:, RELATIVE] /= truth[:, RELATIVE]
            errors[name].append(error)
            densities[name].append(fitter.log_prob(cutouts, parameters=true_table))
    return tuple({name: np.concatenate(chunks) for name, chunks in kind.items()} for kind in (errors, densities))


def rms(values, axis=None):
    """Root mean square."""
    return np.sqrt(np.mean(np.square(values), axis=axis))


STATISTICS = {"median error": np.median, "RMSE": rms}
"""Statistics of the absolute errors by name."""


def ratio(statistic, first, second):
    """Statistic of the absolute values of both, their ratio, and its error when galaxies are drawn again."""
    good = np.isfinite(first) & np.isfinite(second)
    first, second = np.abs(first[good]), np.abs(second[good])
    picks = np.random.default_rng(1).integers(len(first), size=(_BOOTSTRAPS, len(first)))
    ratios = statistic(first[picks], axis=1) / statistic(second[picks], axis=1)
    values = statistic(first), statistic(second)
    return *values, values[0] / values[1], ratios.std(), len(first)


def density_difference(first, second):
    """Means of the log densities of both, the mean difference and its error, where both are finite."""
    good = np.isfinite(first) & np.isfinite(second)
    difference = first[good] - second[good]
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    return first[good].mean(), second[good].mean(), difference.mean(), error, len(difference)


def rows_of(answer, names, config, size, seed):
    """Rows of one answer: two ratios for each parameter, and the difference of the log densities."""
    fitters = {name: NeuralSersicFitter(weights=name, refine=ANSWERS[answer]) for name in names}
    errors, densities = measure(fitters, config, size, seed)
    first, second = names
    rows = [
        (answer, f"{name} of {parameter}", "ratio", *ratio(statistic, errors[first][:, i], errors[second][:, i]))
        for name, statistic in STATISTICS.items()
        for i, parameter in enumerate(PARAMETER_NAMES)
    ]
    return [*rows, (answer, DENSITY, "difference", *density_difference(densities[first], densities[second]))]


@click.command(help=__doc__)
@click.argument("a")
@click.argument("b")
@click.option("--size", type=click.IntRange(min=2), default=4096, show_default=True, help="Stamps.")
@click.option("--seed", type=int, default=60001, show_default=True, help="Seed of the stamps, of no training.")
@click.option("--output", help="Folder of the results.")
def main(a, b, size, seed, output):
    if a == b:
        msg = f"a and b must be different weights, not both {a}"
        raise click.BadParameter(msg)
    torch.set_num_threads(1)
    weights = [get_weights(name) for name in (a, b)]
    config = simulation_from_dict(weights[0].card["simulation"])
    rows = [row for answer in ANSWERS for row in rows_of(answer, (a, b), config, size, seed)]
    names = ("answer", "of", "compared_by", "a", "b", "value", "error", "galaxies")
    meta = metadata(1, a=f"{weights[0].name} {weights[0].sha256[:12]}", b=f"{weights[1].name} {weights[1].sha256[:12]}",
                    size=size, seed=seed)  # fmt: skip
    name = f"compare_weights_{weights[0].name}_{weights[1].name}"
    title = f"{weights[0].name} (a) against {weights[1].name} (b) on {size} stamps of the simulation of a"
    report(name, Table(rows=rows, names=names), meta, title=title, output=output)


if __name__ == "__main__":
    main()
