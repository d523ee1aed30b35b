"""Gallery of a catalogue while it is measured: chosen rows of each chunk, and one HTML file at the end."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from galmeasure.plotting.figures import new_figure
from galmeasure.plotting.gallery import GalleryPage
from galmeasure.utils.files import write_whole
from galmeasure.workflows.outputs import check_output

if TYPE_CHECKING:
    from astropy.table import QTable
    from numpy.typing import NDArray

    from galmeasure.cutouts import Cutouts

__all__ = ["MOST_GALAXIES", "Gallery"]

MOST_GALAXIES = 1000
"""Galaxies of a gallery, of which a browser is still quick to sort a file of some ten megabytes."""


class Gallery:
    """Gallery that is filled chunk by chunk.

    Parameters
    ----------
    path : path-like or None
        HTML file to write; None for no gallery, so that nothing is done.
    rows : ndarray of int
        Rows of the catalogue that are measured; if there are more than `MOST_GALAXIES`, so many at even distances are
        shown.
    title : str
        Title of the page.
    overwrite : bool, optional
        Whether a file that is there may be replaced.

    Raises
    ------
    ValueError
        If the file cannot be written, or is there and must not be replaced.
    ImportError
        If matplotlib is not installed.
    """

    def __init__(
        self, path: str | PathLike | None, rows: NDArray[np.int64], title: str, *, overwrite: bool = False
    ) -> None:
        self.path = None if path is None else Path(path)
        if self.path is None:
            return
        check_output(self.path, overwrite=overwrite)
        new_figure(1, 1)
        steps = np.linspace(0, len(rows) - 1, min(len(rows), MOST_GALAXIES)).round().astype(np.int64)
        self._rows = np.asarray(rows)[steps]
        self._page, self._count = GalleryPage(title), len(rows)

    def add(self, rows: NDArray[np.int64], cutouts: Cutouts, table: QTable) -> None:
        """Add the chosen ones of a chunk.

        Parameters
        ----------
        rows : ndarray of int
            Rows of the catalogue in this chunk.
        cutouts : Cutouts
            Cutouts of these rows.
        table : `~astropy.table.QTable`
            Results of these rows.
        """
        if self.path is not None:
            self._page.add(table, cutouts, self.chosen(rows))

    def chosen(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Find the rows of a chunk that are shown.

        Parameters
        ----------
        rows : ndarray of int
            Rows of the catalogue in this chunk.

        Returns
        -------
        ndarray of int
            Their places in the chunk; none without a gallery.
        """
        return np.flatnonzero(np.isin(rows, [] if self.path is None else self._rows))

    def finish(self) -> str | None:
        """Write the file.

        Returns
        -------
        str or None
            Reason why it was not written, such as a full disk: the table of results does not need it. None if it was.
        """
        if self.path is None:
            return None
        self._page.note = self._note()
        try:
            write_whole(self.path, self._page.html().encode("utf-8", "replace"))
        except OSError as err:
            return f"gallery: {self.path} was not written ({err.strerror or err})"
        return None

    def _note(self):
        """Say how many galaxies there are, and which of how many."""
        shown, planned, count = len(self._page), len(self._rows), self._count
        if shown == count:
            return f"{count:,} galaxies."
        if shown < planned:  # an earlier run has measured the others, and its journal has not all columns
            return f"{shown:,} of {count:,} galaxies, those that this run has measured."
        return f"{shown:,} of {count:,} galaxies, at even distances; --rows chooses others."
