"""Catalogues, images and PSF files to `~galmeasure.Cutouts`, and result tables to files."""

from .catalog import open_catalog, read_cutouts
from .psf import PSFExModel, read_psf
from .sky import SkySource
from .source import CatalogSource
from .source_list import ImageSource
from .writers import ChunkedWriter, write_table

__all__ = [
    "CatalogSource",
    "ChunkedWriter",
    "ImageSource",
    "PSFExModel",
    "SkySource",
    "open_catalog",
    "read_cutouts",
    "read_psf",
    "write_table",
]
