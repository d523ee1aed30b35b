"""Catalogues, images and PSF files to `~galmeasure.Cutouts`, and result tables to files."""

from galmeasure.io.catalog import open_catalog, read_cutouts
from galmeasure.io.psf import PSFExModel, read_psf
from galmeasure.io.sky import SkySource
from galmeasure.io.source import CatalogSource, ReadOptions
from galmeasure.io.source_list import ImageSource
from galmeasure.io.writers import ChunkedWriter, write_table

__all__ = [
    "CatalogSource",
    "ChunkedWriter",
    "ImageSource",
    "PSFExModel",
    "ReadOptions",
    "SkySource",
    "open_catalog",
    "read_cutouts",
    "read_psf",
    "write_table",
]
