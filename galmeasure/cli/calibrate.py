"""``galmeasure calibrate``: error bars that hold on an image, learned from model galaxies in its blank sky."""

from typing import Any

import click

from galmeasure.cli.estimator_options import chosen_fitter, estimator_options
from galmeasure.cli.reading_options import reading_options
from galmeasure.cli.run import reported
from galmeasure.cli.titles import TitledCommand
from galmeasure.utils.text import printable

__all__ = ["calibrate"]


@click.command(cls=TitledCommand)
@click.argument("image")
@click.option("-o", "--output", help="Calibration to write.  [default: IMAGE_calibration.json]")
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace the output if it exists, and write into a report folder that is not empty.",
)
@click.option("--psf", help="PSF: FITS image or PSFEx .psf file.  [default: extension PSF of the image]")
@click.option(
    "--psf-oversampling", type=click.IntRange(min=1), help="Samples per pixel of the PSF image, along one side."
)
@click.option(
    "--psf-flux",
    help="Fraction of a star's light that the PSF image holds, or sum, as for measure.  [default: estimated]",
)
@click.option("--psf-includes-pixel", type=click.Choice(["yes", "no"]), help="Whether the PSF image includes the "
              "pixel's response; with no it is convolved with it.  [default: as the file says, else yes]")  # fmt: skip
@click.option("--error", help="1-sigma error: a number or an image.")
@click.option("--weight", help="Inverse variance: an image.")
@click.option(
    "--weight-type",
    type=click.Choice(["ivar", "exposure", "relative"]),
    help="Meaning of the weights, as for measure.  [default: from the name and unit]",
)
@click.option("--mask", help="Mask, not zero in bad pixels: an image.")
@click.option("--mask-bits", help="Bits of the mask that mark bad pixels, as for measure.  [default: the usual ones]")
@click.option("--segmentation", help="Image of segmentation labels; blank sky has none.")
@click.option("--detect", is_flag=True, help="Subtract the background and mask what is detected, as measure --detect.")
@click.option("--size", type=int, help="Side of the stamps in pixels.  [default: 64]")
@click.option("--pixel-scale", type=float, help="Pixel scale in arcsec.  [default: from the headers]")
@click.option("--gain", type=float, help="Electrons per flux unit; 0 for no gain.  [default: from the headers]")
@click.option("--zero-point", type=float, help="Magnitude of a flux of 1.  [default: from the headers]")
@estimator_options("calibrate")
@click.option(
    "-n",
    "--number",
    type=click.IntRange(min=200),
    default=4000,
    show_default=True,
    help="Number of galaxies to inject.",
)
@click.option(
    "--like", help="Result table of galaxies that the injected ones resemble jointly in flux, n, r_eff and g."
)
@click.option("--snr", type=float, nargs=2, help="Range of S/N.  [default: 10 300; with --like, from 5 upwards]")
@click.option("--n", type=float, nargs=2, help="Range of the Sersic index.  [default: 0.5 6]")
@click.option("--r-eff", type=float, nargs=2, help="Range of r_eff, in arcsec if the pixel scale is known, else in "
              "pixels.  [default: a quarter of the PSF's FWHM to an eighth of the stamp]")  # fmt: skip
@click.option("--core", type=float, help="Least distance from a source, pixels.  [default: 5, or twice the PSF's FWHM]")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Seed of the random numbers.")
@click.option("--report", help="Folder for tables and a figure of bias and coverage by S/N and size.")
@click.option("--device", default="cpu", show_default=True, help="Torch device for the computation, e.g. cuda.")
@click.option("--n-jobs", type=int, default=1, show_default=True, help="Number of processes that measure; -1 for one "
              "per core.")  # fmt: skip
@click.option("--no-progress", is_flag=True, help="Show no progress bar.")
@click.option("-v", "--verbose", is_flag=True, help="Show the traceback of an error.")
def calibrate(image: Any, **options: Any) -> None:
    """Calibrate error bars with model galaxies in the blank sky of IMAGE.

    Model galaxies are put into the image's own sky, with its PSF, and measured. What their truths say about bias and
    errors is written to IMAGE_calibration.json, for galmeasure measure --calibration FILE with the same method,
    weights and noise. Exit codes: 0 done, 2 bad arguments or input.
    """
    with reported(options["verbose"]):
        from galmeasure.workflows.calibrate import CalibrationSettings, calibrate_on_image

        settings = CalibrationSettings(
            fitter=chosen_fitter("calibrate", options),
            reading=reading_options(options),
            progress=not options["no_progress"],
            **{name: options[name] for name in _CALIBRATION_SETTINGS},
        )
        click.echo(printable(calibrate_on_image(image, settings)))


_CALIBRATION_SETTINGS = (
    "output", "overwrite", "report", "number", "like", "snr", "n", "r_eff", "core", "seed", "device",
    "n_jobs",
)  # fmt: skip
"""Options that are settings of `galmeasure.workflows.calibrate.calibrate_on_image` as they are."""
