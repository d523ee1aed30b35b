"""``galmeasure simulate``: the study's data sets, or others, drawn with GalSim."""

import sys
from dataclasses import fields
from typing import Any

import click

from galmeasure.cli.run import reported
from galmeasure.cli.titles import TitledCommand
from galmeasure.simulation.galsim.config import DATASETS, LOGARITHMIC, PSF_FAMILIES, RANGES, DatasetConfig

__all__ = ["simulate"]


def _field_options(function):
    """Give a command an option for each field of a `DatasetConfig`."""
    for field in reversed([f for f in fields(DatasetConfig) if "help" in f.metadata]):
        name = "--" + field.name.replace("_", "-")
        default = field.default
        if field.name in RANGES:
            kind = {"type": (float, float), "metavar": "LOW HIGH"}
        elif field.name == "psf":
            kind = {"type": click.Choice(PSF_FAMILIES)}
        else:
            kind = {"type": int if isinstance(default, int) else float}
        function = click.option(name, f"field_{field.name}", help=field.metadata["help"], **kind)(function)
    return function


@click.command(cls=TitledCommand)
@click.argument("output")
@click.option("--dataset", type=click.Choice(list(DATASETS)), help="Data set of the study.  [default: 1]")
@click.option("--size", "count", type=int, required=True, help="Number of galaxies; the study has 200000.")
@click.option("--config", help="TOML (or YAML) file of the options below, their names with underscores.")
@_field_options
@click.option(
    "--logarithmic",
    multiple=True,
    type=click.Choice(LOGARITHMIC),
    help="Parameter that is uniform in the logarithm; repeatable.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random numbers.")
@click.option("--noiseless", is_flag=True, help="Write the stamps without noise as well.")
@click.option("--n-jobs", type=int, default=1, show_default=True, help="Number of processes; -1 for one per core.")
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
@click.option("--no-progress", is_flag=True, help="Show no progress bar.")
@click.option("-v", "--verbose", is_flag=True, help="Show the traceback of an error.")
def simulate(output: Any, **options: Any) -> None:
    """Simulate galaxies with GalSim and write them to OUTPUT, a FITS table of cutouts.

    galmeasure OUTPUT measures it. Ranges have two numbers, equal for a fixed value, and are uniform. What neither an
    option nor the file of --config says is that of --dataset. A run that was stopped is continued by the same command.
    Exit codes: 0 done, 2 bad arguments.
    """
    with reported(options["verbose"]):
        click.echo(_run(output, options))


def _run(output, options):
    """Simulate; the closing lines of the command."""
    import time
    from pathlib import Path

    from galmeasure.training import make_dataset

    hidden = options["no_progress"] or not sys.stderr.isatty()
    start = time.perf_counter()
    try:
        path = make_dataset(
            output,
            _config(options),
            options["count"],
            seed=options["seed"],
            n_jobs=options["n_jobs"],
            noiseless=options["noiseless"],
            overwrite=options["overwrite"],
            progress_bar=not hidden,
        )
    except KeyboardInterrupt:
        if Path(f"{output}.partial").exists():
            click.echo(f"galmeasure: {output}.partial keeps what is done; the same command continues it", err=True)
        raise
    seconds = time.perf_counter() - start
    return f"simulated {options['count']} galaxies in {seconds:.1f} s\ntable {path}"


def _config(options):
    """Configuration of the options, over that of the file, over that of the data set."""
    from galmeasure.simulation.galsim.config import get_dataset_config, make_config, read_dataset_config

    config = None if options["dataset"] is None else get_dataset_config(options["dataset"])
    if options["config"] is not None:
        config = read_dataset_config(options["config"], config)
    chosen = {key.removeprefix("field_"): v for key, v in options.items() if key.startswith("field_") and v is not None}
    if options["logarithmic"]:
        chosen["logarithmic"] = options["logarithmic"]
    return make_config(chosen, config)
