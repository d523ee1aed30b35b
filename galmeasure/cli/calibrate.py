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
@click.option("--overwrite", is_flag=True, help="Replace the output, and write into a report folder that is not empty.")
@click.option("--psf", help="PSF: FITS image or PSFEx .psf file.  [default: extension PSF of the image]")
@click.option("--psf-oversampling", type=click.IntRange(min=1), help="Samples in a pixel of the PSF image.")
@click.option("--psf-flux", help="Fraction of a star's light that the PSF image holds, or sum.  [default: estimated]")
@click.option("--psf-includes-pixel", type=click.Choice(["yes", "no"]), help="Whether the pixel's response is in the "
              "PSF image; no: it is convolved with it.  [default: what the file says, else yes]")  # fmt: skip
@click.option("--error", help="1-sigma error: a number or an image.")
@click.option("--weight", help="Inverse variance: an image.")
@click.option(
    "--weight-type",
    type=click.Choice(["ivar", "exposure", "relative"]),
    help="What weights are.  [default: from the name and unit]",
)
@click.option("--mask", help="Bad pixels, not zero: an image.")
@click.option("--mask-bits", help="Bits of the mask that are bad, as for measure.  [default: what is known, else any]")
@click.option("--segmentation", help="Segment labels: an image; blank sky is where there are none.")
@click.option("--detect", is_flag=True, help="Subtract the background and mask what is detected, as measure --detect.")
@click.option("--size", type=int, help="Side of the stamps.  [default: 64]")
@click.option("--pixel-scale", type=float, help="Arcsec per pixel.  [default: from the headers]")
@click.option("--gain", type=float, help="Electrons per unit; 0 for none.  [default: from the headers]")
@click.option("--zero-point", type=float, help="Magnitude of one unit.  [default: from the headers]")
@estimator_options("calibrate")
@click.option(
    "-n", "--number", type=click.IntRange(min=200), default=4000, show_default=True, help="Galaxies to inject."
)
@click.option("--like", help="Result table whose galaxies those injected resemble: flux, n, r_eff and g, jointly.")
@click.option("--snr", type=float, nargs=2, help="Range of S/N.  [default: 10 300; with --like: 5 and more]")
@click.option("--n", type=float, nargs=2, help="Range of the Sersic index.  [default: 0.5 6]")
@click.option("--r-eff", type=float, nargs=2, help="Range of r_eff, arcsec where the pixel scale is known, else pixels."
              "  [default: a quarter of the PSF's FWHM to an eighth of the stamp]")  # fmt: skip
@click.option("--core", type=float, help="Pixels to the nearest source.  [default: 5, or twice the PSF's FWHM]")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of the galaxies.")
@click.option("--report", help="Folder for tables and a figure of bias and coverage by S/N and size.")
@click.option("--device", default="cpu", show_default=True, help="Where to compute, e.g. cuda.")
@click.option("--no-progress", is_flag=True, help="No progress bar.")
@click.option("-v", "--verbose", is_flag=True, help="Show where an error came from.")
def calibrate(image: str, **options: Any) -> None:
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
    "output", "overwrite", "report", "number", "like", "snr", "n", "r_eff", "core", "seed",
)  # fmt: skip
"""Options that are settings of `galmeasure.workflows.calibrate.calibrate_on_image` as they are."""
