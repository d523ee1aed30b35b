"""Commands and options; what they do is imported when they run, so that help is quick."""

import shlex
import sys
from typing import Any

import click
from click.shell_completion import CompletionItem

from galmeasure.cli.app import app
from galmeasure.cli.calibrate import calibrate
from galmeasure.cli.convert import convert
from galmeasure.cli.estimator_options import chosen_fitter, estimator_options
from galmeasure.cli.evaluate import evaluate
from galmeasure.cli.reading_options import reading_options
from galmeasure.cli.run import reported, text_with_notes
from galmeasure.cli.search import search
from galmeasure.cli.simulate import simulate
from galmeasure.cli.titles import TitledCommand, probably_meant
from galmeasure.cli.train import train
from galmeasure.cli.weights import weights
from galmeasure.utils.text import one_line, printable

__all__ = ["cli", "main"]


_ARGUMENTS = "galmeasure.arguments"
"""Key under which a context has all arguments of the command, as they were given."""


class DefaultGroup(click.Group):
    """Group in which ``galmeasure FILE`` means ``galmeasure measure FILE``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``measure`` in front of what is not a command."""
        ctx.meta[_ARGUMENTS] = tuple(args)
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h", "--version", "-V"):
            meant = None if ctx.resilient_parsing else probably_meant(args[0], self.commands)
            if meant is not None:
                msg = f"{args[0]}: neither a command nor a file; did you mean galmeasure {meant}?"
                raise click.UsageError(msg)
            args = ["measure", *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands, and what ``measure`` completes: its options and files."""
        command = self.commands["measure"]
        completions = super().shell_complete(ctx, incomplete)
        with click.Context(command, parent=ctx, info_name="measure", resilient_parsing=True) as measuring:
            completions += command.shell_complete(measuring, incomplete)
        if not incomplete.startswith("-"):
            completions += command.params[0].type.shell_complete(measuring, command.params[0], incomplete)
        return completions

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Usage of both forms."""
        formatter.write_usage(ctx.command_path, "CATALOG [OPTIONS]")
        formatter.write_usage(ctx.command_path, "COMMAND [OPTIONS]", prefix="       ")


def _version(ctx, _, value):
    if value and not ctx.resilient_parsing:
        from galmeasure import __version__

        click.echo(f"galmeasure {__version__}")
        ctx.exit()


@click.group(cls=DefaultGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-V", "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version."
)
def cli() -> None:
    """Measure galaxies: flux, Sersic index, half-light radius, ellipticity and centre, with errors.

    galmeasure catalog.fits measures every cutout of a catalogue and writes catalog_galmeasure.fits; it is
    short for galmeasure measure catalog.fits. See galmeasure measure --help for the options.
    """


@cli.command(cls=TitledCommand)
@click.argument("catalogs", metavar="[CATALOG]...", nargs=-1)
@click.option(
    "-o",
    "--output",
    help="Table to write: .fits, .ecsv, .csv, .parquet or .votable; - writes CSV to the standard output.",
)
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
@click.option("--resume", is_flag=True, help="Go on with a run that was stopped, if there is one.")
@estimator_options("measure")
@click.option("--calibration", help="Correct estimates and errors with a file of galmeasure calibrate.")
@click.option("--device", default="cpu", show_default=True, help="Torch device for the computation, e.g. cuda.")
@click.option("--image", help="Image in which the sources of a list are measured.")
@click.option("--detect", is_flag=True, help="Detect the sources of an image, background subtracted.")
@click.option(
    "--psf", help="PSF: FITS image, cube with one image per row, STPSF or PSFEx file; or none, for a delta function."
)
@click.option(
    "--psf-oversampling", type=click.IntRange(min=1), help="Samples per pixel of the PSF images, along one side."
)
@click.option(
    "--psf-flux",
    help="Fraction of a star's light that the PSF images hold, e.g. 0.983; or sum, for the sum of their pixels.  "
    "[default: estimated]",
)
@click.option(
    "--psf-includes-pixel",
    type=click.Choice(["yes", "no"]),
    help="Whether the PSF images include the pixel's response; with no they are convolved with it, as oversampled "
    "images of GALFIT, petrofit or Tiny Tim need.  [default: as the file says, else yes]",
)
@click.option("--error", help="1-sigma error: a number, an image, or a column of a cutout table.")
@click.option("--weight", help="Inverse variance: an image, or a column of a cutout table.")
@click.option(
    "--weight-type",
    type=click.Choice(["ivar", "exposure", "relative"]),
    help="Meaning of the weights: inverse variances, exposure times, or relative weights; with the last two the error "
    "is estimated.  "
    "[default: from the name and unit]",
)
@click.option("--mask", help="Mask, not zero in bad pixels: an image, or a column of a cutout table.")
@click.option(
    "--mask-bits",
    help="Bits of the mask that mark bad pixels: names (BAD,SAT), numbers (0,3), or the sum of their values; ~ in "
    "front means all others.  [default: the usual ones of this kind of mask, else any]",
)
@click.option("--segmentation", help="Segmentation labels, to mask neighbours: an image, or a column.")
@click.option(
    "--size", type=int, help="Side of the stamps cut from an image, in pixels.  [default: from the segments, else 64]"
)
@click.option("--pixel-scale", type=float, help="Pixel scale in arcsec.  [default: from the headers]")
@click.option("--gain", type=float, help="Electrons per flux unit; 0 for no gain.  [default: from the headers]")
@click.option("--zero-point", type=float, help="Magnitude of a flux of 1.  [default: from the headers]")
@click.option("--rows", help="Rows to measure, counted from 0, e.g. 0:100 or 3,5,7.")
@click.option("--columns", help="Columns to write, e.g. id,flux_fit,flags; columns of the input are copied.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Number of cutouts that a thread measures at once.")
@click.option("--n-jobs", type=int, default=1, show_default=True, help="Number of processes; -1 for one per core.")
@click.option("--scheduler", help="Address of a Dask scheduler, whose workers measure, e.g. tcp://10.0.0.1:8786.")
@click.option("--threads", type=click.IntRange(min=1), help="Number of threads of each process.  [default: the cores "
              "are shared among the processes]")  # fmt: skip
@click.option("--plots", help="Folder for one plot per fit; choose the fits with --rows.")
@click.option(
    "--gallery",
    help="HTML file with results and thumbnails of the galaxies, to sort and filter in a browser.",
)
@click.option("--no-progress", is_flag=True, help="Show no progress bar.")
@click.option(
    "-q", "--quiet", is_flag=True, help="Show neither a progress bar nor closing lines, only errors and warnings."
)
@click.option("-v", "--verbose", is_flag=True, help="Print more, and the traceback of an error.")
def measure(catalogs: tuple[str, ...], **options: Any) -> None:
    """Measure the galaxies of CATALOG.

    CATALOG is a FITS table of cutouts (a column cutout, image, stamp or VIGNET, plain or FITS_LDAC), a FITS file
    of cutouts in extensions, a list of sources (FITS, ECSV, CSV, Parquet, VOTable) with --image, an image
    with --detect, or the image of one galaxy. The table goes to CATALOG_galmeasure.fits unless --output says
    otherwise. Several catalogues have a table each. The name - means the standard input, and the standard output,
    to which the table goes as CSV.
    A run that is stopped keeps what was measured in OUTPUT.journal; the same command with --resume goes on.
    Exit codes: 0 done, 2 bad arguments or input.
    """
    with reported(options["verbose"]):
        from galmeasure.cli.several_catalogs import STREAM, measure_all
        from galmeasure.workflows.measure import MeasureSettings

        settings = MeasureSettings(
            fitter=chosen_fitter("measure", options),
            reading=reading_options(options),
            columns=_column_names(options["columns"]),
            progress=not (options["no_progress"] or options["quiet"]),
            how_to_resume=_resuming_command(),
            **{name: options[name] for name in _MEASURE_SETTINGS},
        )
        for summary in measure_all(catalogs, settings):
            if not options["quiet"]:
                click.echo(printable(summary), err=options["output"] == STREAM)


_MEASURE_SETTINGS = (
    "output", "overwrite", "resume", "rows", "batch_size", "n_jobs", "scheduler", "threads", "plots", "gallery",
    "verbose",
)  # fmt: skip
"""Options that are settings of `galmeasure.workflows.measure.measure_catalog` as they are."""


def _resuming_command():
    """Return the command that goes on with this one."""
    arguments = [name for name in click.get_current_context().meta.get(_ARGUMENTS, ()) if name != "--resume"]
    return shlex.join(["galmeasure", *arguments, "--resume"])


def _column_names(text):
    """Names between commas as a tuple, or None."""
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


cli.add_command(app)
cli.add_command(calibrate)
cli.add_command(convert)
cli.add_command(evaluate)
cli.add_command(search)
cli.add_command(simulate)
cli.add_command(train)
cli.add_command(weights)


def main(args: list[str] | None = None) -> None:
    """Entry point of the command ``galmeasure``; exits with 0 (done) or 2 (bad arguments or input).

    Parameters
    ----------
    args : list of str, optional
        Arguments; those of the process if not given.
    """
    try:
        code = cli.main(args=args, prog_name="galmeasure", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as err:
        click.echo(err.format_message())
        code = 2
    except click.ClickException as err:
        click.echo(f"galmeasure: error: {one_line(err.format_message())}", err=True)
        code = 2
    except (click.Abort, KeyboardInterrupt) as err:
        text = text_with_notes("stopped", err.__cause__ or err)
        click.echo(f"galmeasure: {'stopped; no table was written' if text == 'stopped' else text}", err=True)
        code = 130
    sys.exit(code if isinstance(code, int) else 0)
