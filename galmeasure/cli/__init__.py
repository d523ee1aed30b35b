"""Command line: ``galmeasure catalog.fits``."""

from .commands import main

__all__ = ["main"]
