"""``galmeasure search``: search for an architecture by short trainings."""

from typing import Any

import click

from galmeasure.cli.run import reported
from galmeasure.cli.titles import TitledCommand

__all__ = ["search"]

_STOPPED = 130  # exit code, as of a shell


@click.command(cls=TitledCommand)
@click.argument("base", default="study-v2")
@click.option("-o", "--folder", default="search", show_default=True, help="Storage, tables, picture and best.toml.")
@click.option("--trials", type=click.IntRange(min=1), default=20, show_default=True, help="Trials of the whole search.")
@click.option("--steps", type=click.IntRange(min=5), default=500, show_default=True, help="Steps of each training.")
@click.option("--encoders", help="Encoders to choose from, with commas between them.  [default: all]")
@click.option("--space", help="TOML file of the values to which choices are narrowed, e.g. cnn_width = [16, 32].")
@click.option("--sampler", type=click.Choice(["tpe", "gp", "random"]), default="tpe", show_default=True,
              help="How the next trial is chosen: Parzen estimator, Gaussian process, at random.")  # fmt: skip
@click.option("--grid", is_flag=True, help="The study's grid instead: Xception by its numbers of filters.")
@click.option("--objective", type=click.Choice(["loss", "rmse"]), default="loss", show_default=True,
              help="Number to minimise on held-out stamps.")  # fmt: skip
@click.option("--repeat", type=click.IntRange(min=0), default=0, show_default=True,
              help="Train the best three so many times again, with other seeds.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the sampler.")
@click.option("--device", default="cpu", show_default=True, help="Where to compute, e.g. cuda.")
@click.option("-v", "--verbose", is_flag=True, help="Show where an error came from.")
def search(base: str, verbose: bool, **options: Any) -> None:
    """Search for the architecture whose short training ends best.

    BASE is the configuration of a training, a TOML file or the name of one that comes with the package: simulation and
    optimiser are taken from it. A search that was stopped goes on by the same command, and a larger number of --trials
    continues one that has ended. FOLDER/best.toml goes to galmeasure train. Exit codes: 0 done, 2 bad arguments,
    130 stopped.
    """
    with reported(verbose):
        from galmeasure.training.search import SearchSettings, search_architectures
        from galmeasure.training.search_space import read_space

        space = options.pop("space")
        if space:
            options["space"] = read_space(space)
        encoders = options.pop("encoders")
        if encoders:
            options["encoders"] = tuple(name.strip() for name in encoders.split(","))
        settings = SearchSettings(base=base, **options)
        try:
            result = search_architectures(settings, report=click.echo)
        except KeyboardInterrupt as err:
            click.echo(f"galmeasure: stopped; {settings.folder} keeps the trials that have ended, and the same command "
                       "goes on", err=True)  # fmt: skip
            raise click.exceptions.Exit(_STOPPED) from err
        complete = sum(state == "complete" for state in result.trials["state"])
        click.echo(f"{complete} of {len(result.trials)} trials ran to their end; the best one is {result.best_file}")
