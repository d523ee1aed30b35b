"""``galmeasure evaluate``: how good estimators are, on galaxies of known parameters, as a report."""

from typing import Any

import click

from galmeasure.cli.run import reported
from galmeasure.cli.titles import TitledCommand

__all__ = ["evaluate"]


@click.command(cls=TitledCommand)
@click.argument("results", metavar="[RESULT]...", nargs=-1)
@click.option("--against", help="Catalogue that was measured, with columns true_<parameter> or <parameter>_true: "
              "compare the results with these, and print the statistics.")  # fmt: skip
@click.option(
    "--method",
    multiple=True,
    help="Estimator: neural, lsq, baseline (slow) or none; repeatable.  [default: neural, lsq]",
)
@click.option("--weights", multiple=True, help="Neural: weights; repeatable.  [default: survey-v3, and the study's]")
@click.option("--refine", is_flag=True, help="Neural: refine by importance sampling as well, see NeuralSersicFitter.")
@click.option(
    "--dataset", default="3", show_default=True, help="Data set of the study (1, 2 or 3), or a simulated FITS table."
)
@click.option("--size", type=click.IntRange(min=2), help="Number of galaxies.  [default: 2000, or all of the table]")
@click.option(
    "--report",
    default="galmeasure_report",
    show_default=True,
    help="Folder to write; with --against there is none by default.",
)
@click.option("--overwrite", is_flag=True, help="Write into a report folder that is not empty.")
@click.option("--catalog", multiple=True, help="Results of any code for the same galaxies, matched by id; repeatable.")
@click.option("--preset", multiple=True, help="Conventions of the catalogues: galmeasure, galfit, galapagos, imfit, "
              "pysersic, statmorph, petrofit, astrophot, profit, sourcextractor++, lsst or legacysurvey; one, or one "
              "for each.")  # fmt: skip
@click.option("--columns", help="Columns of the catalogues that have other names, e.g. n=SERSIC_N,radius=RE.")
@click.option("--band", help="Band of the fluxes, if the catalogues have several, e.g. r.")
@click.option("--pixel-scale", type=float, help="Pixel scale of the catalogues' radii in arcsec.")
@click.option("--zero-point", type=float, help="Magnitude of a flux of 1, for catalogues with magnitudes.")
@click.option(
    "--samples", type=click.IntRange(min=0), default=100, show_default=True, help="Posterior draws per galaxy."
)
@click.option("--draws", type=click.IntRange(min=0), default=1000, show_default=True,
              help="Noise draws of the reference galaxy at each S/N; 0 for none.")  # fmt: skip
@click.option("--baseline-draws", type=click.IntRange(min=0), default=20, show_default=True,
              help="Noise draws that the baseline fit of the study measures too, about a second each.")  # fmt: skip
@click.option("--share-n", type=click.IntRange(min=1), default=1, show_default=True,
              help="Successive galaxies that share a Sersic index, for a quicker simulation.")  # fmt: skip
@click.option(
    "--bootstrap",
    type=click.IntRange(min=2),
    default=200,
    show_default=True,
    help="Rounds of the bootstrap that gives the errors.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=20, show_default=True, help="Seed of the simulated galaxies."
)
@click.option("--device", default="cpu", show_default=True, help="Torch device for the computation, e.g. cuda.")
@click.option(
    "--n-jobs",
    type=int,
    default=-1,
    show_default=True,
    help="Number of processes that simulate and measure; -1 for one per core.",
)
@click.option("--no-progress", is_flag=True, help="Print no lines about the progress.")
@click.option("-v", "--verbose", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def evaluate(context: click.Context, results: tuple[str, ...], **options: Any) -> None:
    """Measure galaxies of known parameters and report bias, scatter and coverage.

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
