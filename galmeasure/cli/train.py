"""``galmeasure train``: train a network on stamps that are simulated as it goes."""

import sys
from typing import Any

import click

from galmeasure.cli.run import reported
from galmeasure.cli.titles import TitledCommand

__all__ = ["train"]

_SMOKE = 2000  # galaxies for the score, and for the correction, of a test
_LEAST_CORRECTED = 1500


@click.command(cls=TitledCommand)
@click.argument("config", required=False)
@click.option("--smoke", is_flag=True, help="Run the whole loop in seconds, as a test; takes no CONFIG.")
@click.option("-o", "--folder", help="Folder of the checkpoint, the log and the result.  [default: training_NAME]")
@click.option("--device", default="cpu", show_default=True, help="Torch device for the computation, e.g. cuda.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Duration of the whole run in minutes.")
@click.option("--threads", type=click.IntRange(min=1), help="Number of threads on a CPU.")
@click.option("--validation", help="Table written by galmeasure simulate, on which the network is tested as well.")
@click.option("--ood", type=click.IntRange(min=0), help="Number of galaxies simulated at the end, from which the "
              "score of unusual galaxies (column ood_score) is learned; 0 for none.  [default: 100000]")  # fmt: skip
@click.option("--correct", type=click.IntRange(min=0), help="Number of galaxies simulated at the end, before those "
              "of --ood, from which the correction of --refine auto is learned; 0: none. [default: 60000]")  # fmt: skip
@click.option("--no-progress", is_flag=True, help="Show no progress bar.")
@click.option("-v", "--verbose", is_flag=True, help="Show the traceback of an error.")
def train(config: Any, **options: Any) -> None:
    """Train a network as CONFIG says, a TOML file or the name of one that comes with the package.

    The result, FOLDER/NAME.safetensors, goes to galmeasure --weights. A run that was stopped goes on by the same
    command; with --minutes the schedule is shortened to end in that time. Exit codes: 0 done, 2 bad arguments.
    """
    with reported(options["verbose"]):
        click.echo(_run(config, options))


def _run(config, options):
    """Train; the closing lines of the command."""
    if options["ood"] and options["ood"] < 2000:
        msg = f"ood must be 0 or at least 2000, not {options['ood']}"
        raise ValueError(msg)
    if options["correct"] and options["correct"] < _LEAST_CORRECTED:
        msg = f"correct must be 0 or at least {_LEAST_CORRECTED}, not {options['correct']}"
        raise ValueError(msg)
    import torch

    from galmeasure.training.config import list_training_configs, read_training_config
    from galmeasure.training.trainer import train as run

    if (config is None) != options["smoke"]:
        names = ", ".join(list_training_configs())
        msg = f"give either CONFIG, a TOML file or one of {names}, or --smoke"
        raise ValueError(msg)
    try:
        torch.empty(1, device=options["device"])
    except (RuntimeError, AssertionError) as err:
        msg = f"device {options['device']!r} cannot be used: {str(err).splitlines()[0]}"
        raise ValueError(msg) from err
    config = read_training_config("smoke" if options["smoke"] else config)
    folder = options["folder"] or f"training_{config.name}"
    weights = run(
        config,
        folder,
        device=options["device"],
        minutes=options["minutes"],
        threads=options["threads"],
        validation=options["validation"],
        progress_bar=not options["no_progress"] and sys.stderr.isatty(),
        tell=_tell,
    )
    lines = [_about(weights), f"weights {weights.path}"]
    try:
        return "\n".join([*lines, *_write_beside(weights, options)])
    except BaseException as err:
        err.add_note(f"the weights {weights.path} are written; the same command learns what belongs beside them")
        raise


def _tell(text):
    """Print a line above progress bars."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)


def _write_beside(weights, options):
    """Write what belongs beside weights, if it is not there; lines that say where it is."""
    from galmeasure.networks.registry import DEFAULT_ARCHITECTURE
    from galmeasure.workflows.correction import CORRECTION_NUMBER, correction_path, has_correction, write_correction
    from galmeasure.workflows.ood import NUMBER, has_ood, ood_path, write_ood

    how = {"device": options["device"], "show_progress": not options["no_progress"] and sys.stderr.isatty()}
    lines, is_new = [], False
    if weights.card["architecture"] != DEFAULT_ARCHITECTURE and not (options["correct"] or options["ood"]):
        return lines  # point estimates have neither
    number = _galaxies(options, "correct", CORRECTION_NUMBER)
    if number:
        if not has_correction(weights, number):
            _tell(f"the correction of --refine auto is learned from {number} galaxies that are simulated (--correct)")
            write_correction(weights, number, **how)
            is_new = True
        lines.append(f"correction {correction_path(weights.path)}")
    number = _galaxies(options, "ood", NUMBER)
    if number:
        if is_new or not has_ood(weights, number):
            _tell(f"the score of unusual galaxies is learned from {number} galaxies that are simulated (--ood)")
            write_ood(weights, number, **how)
        lines.append(f"OOD reference {ood_path(weights.path)}")
    return lines


def _galaxies(options, name, default):
    """Galaxies to simulate: those asked for, or as many as a test needs, or as the weights deserve."""
    if options[name] is not None:
        return options[name]
    return _SMOKE if options["smoke"] else default


def _about(weights):
    """Line about a training."""
    training = weights.card["training"]
    loss = sum(weights.card["metrics"]["loss"].values())
    return f"trained on {training['stamps']} stamps in {training['minutes']} min, held-out loss {loss:.3f}"
