"""Help in titled groups, options whose files the shell completes, and what was probably meant by a mistyped word."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from galmeasure.fitters.registry import FITTERS

__all__ = ["TitledCommand", "WeightsName", "probably_meant"]

_INPUT = ("image", "detect", "error", "weight", "weight_type", "mask", "mask_bits", "segmentation", "size")
_PSF = ("psf", "psf_oversampling", "psf_flux", "psf_includes_pixel")
_UNITS = ("pixel_scale", "gain", "zero_point")
_ESTIMATOR = ("method", *dict.fromkeys(o.name for entry in FITTERS.values() for o in entry.options), "calibration")
_RUNNING = (
    "rows", "batch_size", "n_jobs", "threads", "scheduler", "device", "minutes", "no_progress", "quiet", "verbose",
    "help",
)  # fmt: skip

TITLES = {
    "measure": {
        "Results": ("output", "overwrite", "resume", "columns", "plots", "gallery"), "Estimator": _ESTIMATOR,
        "Image, noise and masks": _INPUT, "PSF": _PSF, "Units": _UNITS, "Running": _RUNNING,
    },
    "calibrate": {
        "Results": ("output", "overwrite", "report"), "Estimator": _ESTIMATOR,
        "Galaxies to inject": ("number", "like", "snr", "n", "r_eff", "core", "seed"),
        "Image, noise and masks": _INPUT, "PSF": _PSF, "Units": _UNITS, "Running": _RUNNING,
    },
    "evaluate": {
        "Report": ("report", "overwrite", "bootstrap"), "Galaxies": ("dataset", "size", "share_n", "seed"),
        "Estimators": ("method", "weights", "refine", "samples", "draws", "baseline_draws"),
        "Results of any code": ("against", "catalog", "preset", "columns", "band", "pixel_scale", "zero_point"),
        "Running": _RUNNING,
    },
}  # fmt: skip
"""Titles of the options in the help of the larger commands, in order; what is in none of them comes last."""

_FILES = (
    "against", "calibration", "catalog", "catalogs", "config", "dataset", "error", "file", "folder", "image", "like",
    "gallery", "mask", "output", "plots", "psf", "report", "segmentation", "validation", "weight",
)  # fmt: skip
"""Options and arguments that may be files, whatever else they may be: the shell completes their names."""


class WeightsName(click.Path):
    """Name of shipped weights, or a file of weights."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Names that begin so, and files."""
        from galmeasure.weights import list_weights

        names = [entry.name for entry in list_weights() if entry.name.startswith(incomplete)]
        return [*map(CompletionItem, names), *super().shell_complete(ctx, param, incomplete)]


class TitledCommand(click.Command):
    """Command whose help has its options under titles, and whose files the shell completes."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        for param in self.params:
            if param.type is click.STRING and param.name == "weights":
                param.type = WeightsName()
            elif param.type is click.STRING and param.name in _FILES:
                param.type = click.Path()

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their titles."""
        titles = TITLES.get(self.name, {})
        title_of = {name: title for title, names in titles.items() for name in names}
        records = {title: [] for title in (*titles, "Other options" if titles else "Options")}
        for param in self.get_params(ctx):
            record = None if isinstance(param, click.Argument) else param.get_help_record(ctx)
            if record is not None:
                name = "help" if "--help" in param.opts else param.name
                records[title_of.get(name, list(records)[-1])].append(record)
        for title, rows in records.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def probably_meant(word: str, commands: Iterable[str]) -> str | None:
    """Name of the command that was meant by a word that is neither a command nor a file.

    Parameters
    ----------
    word : str
        First argument of the command line.
    commands : iterable of str
        Names of the commands.

    Returns
    -------
    str or None
        The command, or None if the word is no mistyped one.
    """
    if not word.replace("-", "").isalpha() or Path(word).exists():
        return None
    return next(iter(get_close_matches(word.lower(), list(commands), n=1, cutoff=0.7)), None)
