"""``galmeasure evaluate``: how good estimators are, on galaxies of known parameters, as a report."""

from typing import Any

import click

from galmeasure.cli.run import reported
from galmeasure.cli.titles import TitledCommand

__all__ = ["evaluate"]


@click.command(cls=TitledCommand)
@click.argument("results", metavar="[RESULT]...", nargs=-1)
@click.option("--against", help="Input of the results, with columns true_<parameter> or <parameter>_true: compare "
              "with these, and print how well it went.")  # fmt: skip
@click.option(
    "--method", multiple=True, help="neural, lsq, baseline (slow) or none; repeatable.  [default: neural, lsq]"
)
@click.option("--weights", multiple=True, help="Neural: weights, repeatable.  [default: survey-v3, and the study's]")
@click.option("--refine", is_flag=True, help="Neural: also refined by importance sampling, see NeuralSersicFitter.")
@click.option(
    "--dataset", default="3", show_default=True, help="Set of the study, 1, 2 or 3, or a simulated FITS table."
)
@click.option("--size", type=click.IntRange(min=2), help="Number of galaxies.  [default: 2000, or all of the table]")
@click.option(
    "--report", default="galmeasure_report", show_default=True, help="Folder to write; with --against only if given."
)
@click.option("--overwrite", is_flag=True, help="Write into a folder that is not empty.")
@click.option("--catalog", multiple=True, help="Results of the same galaxies, by id, from any code; repeatable.")
@click.option("--preset", multiple=True, help="Conventions of the catalogues: galmeasure, galfit, galapagos, imfit, "
              "pysersic, statmorph, petrofit, astrophot, profit, sourcextractor++, lsst or legacysurvey; one, or one "
              "for each.")  # fmt: skip
@click.option("--columns", help="Columns of the catalogues that are named otherwise, e.g. n=SERSIC_N,radius=RE.")
@click.option("--band", help="Band of the catalogues' fluxes, where they have several, e.g. r.")
@click.option("--pixel-scale", type=float, help="Arcsec per pixel of the catalogues' radii.")
@click.option("--zero-point", type=float, help="Magnitude of a flux of 1, for catalogues with magnitudes.")
@click.option("--samples", type=click.IntRange(min=0), default=100, show_default=True, help="Posterior draws a galaxy.")
@click.option("--draws", type=click.IntRange(min=0), default=1000, show_default=True,
              help="Noise draws of the reference galaxy at each S/N; 0 for none.")  # fmt: skip
@click.option("--baseline-draws", type=click.IntRange(min=0), default=20, show_default=True,
              help="Those that the study's baseline fits too, about a second each.")  # fmt: skip
@click.option("--share-n", type=click.IntRange(min=1), default=1, show_default=True,
              help="Galaxies in a row that share a Sersic index: simulates quicker.")  # fmt: skip
@click.option("--bootstrap", type=click.IntRange(min=2), default=200, show_default=True, help="Rounds for the errors.")
@click.option("--seed", type=click.IntRange(min=0), default=20, show_default=True, help="Of the simulated galaxies.")
@click.option("--device", default="cpu", show_default=True, help="Where to compute, e.g. cuda.")
@click.option("--n-jobs", type=int, default=-1, show_default=True, help="Processes that simulate; -1 for one a core.")
@click.option("--no-progress", is_flag=True, help="Do not say what is being done.")
@click.option("-v", "--verbose", is_flag=True, help="Show where an error came from.")
@click.pass_context
def evaluate(context: click.Context, results: tuple[str, ...], **options: Any) -> None:
    """Measure galaxies of known parameters and report how well that went.

    galmeasure evaluate RESULT --against INPUT compares results with the true parameters in the catalogue that was
    measured; without RESULT it takes INPUT_galmeasure.fits, or measures the catalogue if there is none.

    The report is a folder with one page, index.html, to be read from top to bottom, and its figures and tables.
    Galaxies come from galmeasure simulate (--dataset FILE), or are simulated with GalSim like those of the study.
    Exit codes: 0 done, 2 bad arguments or input.
    """
    if options["against"] is not None and context.get_parameter_source("report").name == "DEFAULT":
        options["report"] = None
    options["catalog"] = (*results, *options["catalog"])
    with reported(options["verbose"]):
        from galmeasure.workflows.evaluate import EvaluationSettings, evaluate_estimators

        names = EvaluationSettings.__dataclass_fields__
        settings = EvaluationSettings(
            progress=not options["no_progress"], **{name: options[name] for name in names if name in options}
        )
        click.echo(evaluate_estimators(settings))
