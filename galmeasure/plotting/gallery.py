"""Gallery of many galaxies: one HTML file with thumbnails, sorted and filtered in the browser, without a network."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy import units as u

from galmeasure.flags import FLAGS
from galmeasure.plotting.figures import plain
from galmeasure.plotting.panels import FitImages
from galmeasure.plotting.strips import galaxy_strip, palette

if TYPE_CHECKING:
    import numpy.typing as npt
    from astropy.table import Table

    from galmeasure.cutouts import Cutouts

__all__ = ["THUMBNAIL", "GalleryPage"]

THUMBNAIL = 64
"""Longest side of an image in a gallery, in pixels; larger stamps are averaged in blocks."""

_FIRST = ("id", "flags", "snr", "chi2_reduced", "flux_fit", "mag", "n_fit", "r_eff_fit", "q", "theta", "ood_score",
          "ood_reason")  # fmt: skip
"""Columns that are shown before all are asked for."""

_LARGEST_INTEGER = 2**53  # that a number of a browser holds
_DIGITS = 7


class GalleryPage:
    """Page of galaxies, to which rows are added and which is then written out.

    Parameters
    ----------
    title : str
        Title of the page.
    note : str, optional
        Sentence under the title, such as which galaxies were chosen.
    """

    def __init__(self, title: str, note: str = "") -> None:
        self.title, self.note = title, note
        self._columns: list[dict[str, Any]] = []
        self._rows: list[list[Any]] = []
        self._images: list[str] = []

    def __len__(self) -> int:
        """Number of galaxies of the page."""
        return len(self._rows)

    def add(self, table: Table, cutouts: Cutouts, rows: npt.ArrayLike | None = None) -> None:
        """Add galaxies.

        Parameters
        ----------
        table : `~astropy.table.Table`
            Result of a fitter, one row per cutout; columns with more than one number per row are left out.
        cutouts : Cutouts
            Cutouts that were measured.
        rows : array_like of int, optional
            Rows that are added; all of them by default.
        """
        rows = np.arange(len(table)) if rows is None else np.asarray(rows, dtype=int)
        if not len(rows):
            return
        chosen = table[rows]
        if not self._columns:
            self._columns = [_heading(name, chosen[name]) for name in _scalar_columns(chosen)]
        values = [_values(chosen, column) for column in self._columns]
        self._rows += [list(row) for row in zip(*values, strict=True)]
        self._images += [_thumbnail(table[row : row + 1], cutouts[row : row + 1]) for row in rows.tolist()]

    def html(self) -> str:
        """Write the page.

        Returns
        -------
        str
            HTML that loads nothing and, by its content security policy, may not. Texts of the table stand in it as data
            and never become markup.
        """
        style, script = (
            Path(__file__).with_name(f"gallery.{kind}").read_text(encoding="utf-8") for kind in ("css", "js")
        )
        flags = [_flag(flag, self._flag_values()) for flag in FLAGS]
        data = {"columns": self._columns, "rows": self._rows, "images": self._images,
                "flags": [flag for flag in flags if flag["count"]]}  # fmt: skip
        return _PAGE.format(
            policy=f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'",
            title=escape(self.title), note=escape(self.note), style=style, script=script, data=_as_script(data),
        )  # fmt: skip

    def _flag_values(self):
        names = [column["name"] for column in self._columns]
        return [row[names.index("flags")] for row in self._rows] if "flags" in names else []


def _scalar_columns(table):
    """Names of columns with one value per row, those that are shown first at the front."""
    names = [name for name in table.colnames if np.ndim(table[name]) == 1]
    first = [name for name in _FIRST if name in names]
    return first + [name for name in names if name not in first]


def _heading(name, column):
    """Name, unit, description and kind of a column."""
    unit = getattr(column, "unit", None)
    unit = "" if unit in (None, u.dimensionless_unscaled) else str(unit)
    kind = "flags" if name == "flags" else "number" if column.dtype.kind in "iuf" and name != "id" else "text"
    description = getattr(column.info, "description", None) or ""
    return {"name": name, "unit": unit, "description": description, "kind": kind, "first": name in _FIRST}


def _values(table, column):
    """Values of a column as JSON has them; None for masked ones and for what is not a finite number."""
    if column["name"] not in table.colnames:
        return [None] * len(table)
    values = np.ma.asarray(plain(table[column["name"]])).tolist()
    return [_value(value, column["kind"]) for value in values]


def _value(value, kind):
    if value is None:
        return None if kind != "flags" else 0
    if kind == "text":
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    if isinstance(value, int):
        return value if abs(value) <= _LARGEST_INTEGER else float(value)
    return float(f"{value:.{_DIGITS}g}") if np.isfinite(value) else None


def _flag(flag, values):
    count = sum(bool(value & flag.value) for value in values)
    return {"name": flag.name, "value": flag.value, "description": flag.description, "count": count}


def _thumbnail(table, cutout):
    """Strip of one galaxy as a PNG of few colours, in a URL that holds the data."""
    from PIL import Image

    strip = galaxy_strip(FitImages.of(table, cutout), THUMBNAIL)[::-1]
    image = Image.fromarray(np.ascontiguousarray(strip)).convert("P")
    image.putpalette(palette().tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _digest(text):
    """Source of a script or style for a content security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


def _as_script(data):
    """JSON that can stand within an element ``script``, whatever its texts are."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head>
<body><header><h1>{title}</h1><p>{note}</p>
<p>Data and model are on one scale of brightness, chosen for each galaxy; residuals run from -5 (blue) to 5 (red) times
the error; bad pixels are grey. Click on a name to sort, and on an image to enlarge it.</p></header>
<noscript><p>This page needs JavaScript, which your browser has switched off.</p></noscript>
<div id="flags"></div>
<div id="tools"><button id="back" type="button">Back</button><button id="next" type="button">Next</button>
<span id="count"></span><button id="columns" type="button">Show all columns</button>
<button id="clear" type="button">Clear filters</button></div>
<div class="scroll"><table><thead></thead><tbody></tbody></table></div>
<dialog><p></p><img alt=""><button type="button">Close</button></dialog>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body></html>
"""
