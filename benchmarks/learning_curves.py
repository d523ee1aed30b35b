"""How many stamps does a network of point estimates need that learns from a teacher, or from the truth?

One training for each number of stamps, each with a whole schedule of its own, and the errors on the same held-out
stamps. A training that is there already, in ``--folder``, is not repeated, and one that was stopped goes on: several
processes can train different ``--targets`` at once. The table has all trainings of the folder, and where the law
``limit + scale / sqrt(stamps)`` through those of each target ends.
"""

from dataclasses import replace
from pathlib import Path

import _one_core  # noqa: F401
import click
import numpy as np
from _report import metadata, report
from astropy.table import Table

from galmeasure.parameters import PARAMETER_NAMES
from galmeasure.training import read_training_config, train
from galmeasure.weights import get_weights

TARGETS = ("teacher", "truth")
NAMES = PARAMETER_NAMES[:5]


def trained(config, target, steps, folder, device):
    """Weights of a training, which is made or goes on if they are not there."""
    name = f"{config.name}-{target}-{steps}"
    path = Path(folder) / name / f"{name}.safetensors"
    if not path.exists():
        teacher = config.teacher if target == "teacher" else None
        config = replace(config, name=name, teacher=teacher, steps=steps, validate_every=steps)
        train(config, path.parent, device=device, threads=1, progress_bar=False, tell=click.echo)
    return path


def row_of(path, target, steps, batch_size):
    """Number of stamps and errors on held-out stamps of a training."""
    rmse = get_weights(str(path)).card["metrics"]["rmse"]
    return (target, steps * batch_size, *(float(f"{rmse[name]:.4g}") for name in NAMES))


def limits(rows, target):
    """Errors where the laws through those of a target end."""
    chosen = [row for row in rows if row[0] == target]
    stamps = np.array([row[1] for row in chosen], dtype=float)
    design = np.stack([np.ones(len(chosen)), stamps**-0.5], 1)
    found, *_ = np.linalg.lstsq(design, np.array([row[2:] for row in chosen]), rcond=None)
    return (f"{target}, extrapolated", -1, *(float(f"{value:.4g}") for value in found[0]))


@click.command(help=__doc__)
@click.option("--config", default="xception-set1-v1", show_default=True, help="Name or file of the configuration.")
@click.option("--steps", default="400,800,1600,3200", show_default=True, help="Numbers of steps between commas.")
@click.option("--targets", default=",".join(TARGETS), show_default=True, help="What is learned from, between commas.")
@click.option("--folder", default="runs/learning_curves", show_default=True, help="Folder of the trainings.")
@click.option("--device", default="cpu", show_default=True, help="Torch device.")
@click.option("--output", help="Folder of the results.")
def main(config, steps, targets, folder, device, output):
    config = read_training_config(config)
    numbers = [int(number) for number in steps.split(",")]
    for number in numbers:
        for target in targets.split(","):
            trained(config, target, number, folder, device)
    rows = []
    for target in TARGETS:
        paths = {number: Path(folder) / f"{config.name}-{target}-{number}" for number in numbers}
        paths = {number: path / f"{path.name}.safetensors" for number, path in paths.items()}
        rows += [row_of(path, target, number, config.batch_size) for number, path in paths.items() if path.exists()]
        if sum(row[0] == target for row in rows) > 2:
            rows.append(limits(rows, target))
    table = Table(rows=rows, names=("learned_from", "stamps", *NAMES))
    meta = metadata(1, config=config.name, held_out=config.held_out)
    report("learning_curves", table, meta, title="Errors on held-out stamps; r_eff in pixels", output=output)


if __name__ == "__main__":
    main()
