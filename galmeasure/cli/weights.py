"""``galmeasure weights``: which trained networks there are, and what galaxies look like to one of your own."""

import sys
from typing import Any

import click

from galmeasure.cli.run import reported
from galmeasure.cli.titles import TitledCommand

__all__ = ["weights"]


@click.command(cls=TitledCommand)
@click.argument("file", required=False)
@click.option("--ood", type=click.IntRange(min=2000), help="Simulate this number of galaxies of the training domain of "
              "FILE, and write their distributions beside it (suffix .ood), for the column ood_score.")  # fmt: skip
@click.option("--correct", type=click.IntRange(min=1500), help="Simulate this number of galaxies of the training "
              "domain of FILE, and learn the correction of --refine auto from them (suffix .correction). What "
              "--ood writes depends on it, and must be written again afterwards.")  # fmt: skip
@click.option(
    "--seed", type=click.IntRange(min=0), default=31, show_default=True, help="Seed of the simulated galaxies."
)
@click.option(
    "--overwrite", is_flag=True, help="Replace existing files, even those of weights that come with galmeasure."
)
@click.option("--device", default="cpu", show_default=True, help="Torch device for the computation, e.g. cuda.")
@click.option("-v", "--verbose", is_flag=True, help="Show the traceback of an error.")
def weights(file: Any, ood: Any, correct: Any, seed: Any, overwrite: Any, device: Any, verbose: Any) -> None:
    """List the weights that come with galmeasure, for measure --weights.

    Files of your own, from galmeasure train, are given by their path. Exit codes: 0 done, 2 bad arguments, or a file
    is damaged.
    """
    with reported(verbose):
        if (file is None) != (ood is None and correct is None):
            msg = "FILE and --ood or --correct must be given together, or none of them"
            raise ValueError(msg)
        if file is None:
            _list()
            return
        from galmeasure.weights.registry import find_weights
        from galmeasure.workflows.correction import correction_path, write_correction
        from galmeasure.workflows.executors import check_device
        from galmeasure.workflows.ood import ood_path, write_ood

        check_device(device)
        chosen = find_weights(file, "FILE")
        for number, path in ((correct, correction_path(chosen.path)), (ood, ood_path(chosen.path))):
            if number is not None and path.exists() and not overwrite:
                msg = f"{path}: exists already; --overwrite replaces it"
                raise ValueError(msg)
        how = {"seed": seed, "device": device, "show_progress": sys.stderr.isatty()}
        if correct is not None:
            path, metrics = write_correction(chosen, correct, **how)
            click.echo(f"correction learned, held-out loss {sum(metrics['loss'].values()):.3f}: {path}")
        if ood is not None:
            path, reference = write_ood(chosen, ood, **how)
            click.echo(f"distributions of {reference.card['galaxies']} galaxies learned: {path}")


def _list():
    """Print a line for each of the weights shipped."""
    from galmeasure.weights import DEFAULT_WEIGHTS, list_weights

    rows = [("name", "prior", "size", "sha256", "description")]
    for entry in list_weights():
        size = f"{entry.path.stat().st_size / 1e6:.1f} MB"
        text = entry.card["description"] + (" (default)" if entry.name == DEFAULT_WEIGHTS else "")
        rows.append((entry.name, entry.prior, size, entry.sha256[:12], text))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        columns = [text.ljust(width) for text, width in zip(row, widths, strict=False)]
        click.echo("  ".join([*columns, row[-1]]))
