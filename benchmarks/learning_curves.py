"""How many stamps does a network of point estimates need that learns from a teacher, or from the truth?

One training for each number of stamps, each with a whole schedule of its own, and the errors on the same held-out
stamps. A training that is there already, in ``--folder``, is not repeated, and one that was stopped goes on: several
processes can train different ``--targets`` at once. The table has all trainings of the folder, the weights that are
shipped, and the teacher, told the centre: where the curves of networks that are trained for ever would end.
"""

from dataclasses import replace
from pathlib import Path

import _one_core  # noqa: F401
import click
import torch
from _report import metadata, report
from astropy.table import Table

from galmeasure.networks import StampInputs
from galmeasure.parameters import PARAMETER_NAMES, SERSIC
from galmeasure.simulation.stamps import simulate_stamps
from galmeasure.training import read_training_config, train
from galmeasure.training.pool import training_psfs
from galmeasure.training.teacher import Teacher
from galmeasure.weights import get_weights

TARGETS = ("teacher", "truth")
NAMES = PARAMETER_NAMES[:5]
RELATIVE = SERSIC.indices("flux", "r_eff")
HELD_OUT = 1_000_003
"""What trainings add to their seed for their held-out stamps."""


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


def shipped_row(config):
    """The same of the weights of this name that are shipped."""
    card = get_weights(config.name).card
    return ("teacher, shipped", card["training"]["stamps"], *(card["metrics"]["rmse"][name] for name in NAMES))


def teacher_row(config):
    """Errors of the posterior means of the teacher, given the centre, on the held-out stamps of the trainings."""
    generator = torch.Generator().manual_seed(config.seed + HELD_OUT)
    stamps = simulate_stamps(config.simulation, config.held_out, generator=generator)
    psf, quality = training_psfs(stamps.psf_images, config.network.clean_psf)
    inputs = StampInputs(stamps.image, stamps.error, stamps.good, stamps.gain, psf, stamps.psf_index, quality)
    errors = Teacher(config.teacher).means(inputs, stamps.parameters) - stamps.parameters
    errors[:, RELATIVE] /= stamps.parameters[:, RELATIVE]
    rmse = errors.square().mean(0).sqrt()
    values = (float(f"{rmse[PARAMETER_NAMES.index(name)]:.4g}") for name in NAMES)
    return (f"{config.teacher} given the centre", 0, *values)


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
    rows += [shipped_row(config), teacher_row(config)]
    table = Table(rows=rows, names=("learned_from", "stamps", *NAMES))
    meta = metadata(1, config=config.name, held_out=config.held_out)
    report("learning_curves", table, meta, title="Errors on held-out stamps; of flux and r_eff relative", output=output)


if __name__ == "__main__":
    main()
