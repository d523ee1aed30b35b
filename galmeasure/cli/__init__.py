"""Command line: ``galmeasure catalog.fits``."""

from galmeasure.cli.commands import main

__all__ = ["main"]
