"""A page that is written from top to bottom: texts, figures (embedded, and as PNG and PDF) and tables (ECSV, LaTeX)."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table

from galmeasure.evaluation.matching import MEASURED, parameter_label

if TYPE_CHECKING:
    from collections.abc import Iterable
    from os import PathLike

    import numpy.typing as npt
    from matplotlib.figure import Figure

__all__ = ["Page"]

_STYLE = """
body {font: 16px/1.55 system-ui, sans-serif; max-width: 1280px; margin: 2rem auto; padding: 0 1.2rem; color: #1b1f24}
h1 {font-size: 1.7rem; margin-bottom: .2rem} h2 {font-size: 1.25rem; margin-top: 2.6rem; border-top: 1px solid #d0d7de;
padding-top: 1.2rem} figure {margin: 1.2rem 0} figure img {max-width: 100%; height: auto}
figcaption, .note {color: #57606a; font-size: .92rem; max-width: 60rem} p {max-width: 60rem}
table {border-collapse: collapse; font-size: .87rem; margin: 1rem 0; font-variant-numeric: tabular-nums}
th, td {padding: .25rem .7rem; border-bottom: 1px solid #e4e8ec; text-align: right; white-space: nowrap}
th {border-bottom: 1.5px solid #8c959f; vertical-align: bottom; white-space: normal} th.text, td.text {text-align: left}
tr.group td {border-top: 2px solid #b6bec7}
.scroll {overflow-x: auto} nav a {margin-right: .9rem; white-space: nowrap} code {background: #f3f4f6; padding: 0 .25em}
@media print {body {max-width: none} figure, table {break-inside: avoid}}
"""

_SAFE = (("\\", "/"), ("_", r"\_"), ("%", r"\%"), ("&", r"\&"), ("#", r"\#"), ("±", r"$\pm$"), ("|", "$|$"))
"""What LaTeX reads otherwise than it is meant."""


class Page:
    """Pieces of a page, in order.

    Parameters
    ----------
    folder : path-like
        Folder for figures and tables.
    title : str
        Title of the page.
    """

    def __init__(self, folder: str | PathLike, title: str):
        self.folder, self.title = Path(folder), title
        self._blocks, self._sections = [], []
        self.folder.mkdir(parents=True, exist_ok=True)

    def section(self, heading: str) -> None:
        """Begin a section."""
        anchor = f"s{len(self._sections) + 1}"
        self._sections.append((anchor, heading))
        self._blocks.append(f'<h2 id="{anchor}">{escape(heading)}</h2>')

    def text(self, *sentences: str) -> None:
        """Add a paragraph."""
        self._blocks.append(f"<p>{escape(' '.join(sentences))}</p>")

    def figure(self, figure: Figure, name: str, caption: str) -> None:
        """Save a figure as PNG and PDF, and embed it."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
        figure.set_layout_engine("none")  # what was found for the one serves the other
        figure.savefig(self.folder / f"{name}.pdf", dpi=110)
        (self.folder / f"{name}.png").write_bytes(buffer.getvalue())
        data = base64.b64encode(buffer.getvalue()).decode()
        image = f'<img alt="{escape(caption.partition(".")[0])}" src="data:image/png;base64,{data}">'
        self._blocks.append(f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>")

    def table(self, table: Table, name: str, caption: str, *, grouped: bool = False) -> None:
        """Show a table of texts, and write it as LaTeX; grouped: what repeats in the first column is left out."""
        write_latex(table, self.folder / f"{name}.tex", caption)
        head = "".join(f"<th{_kind(table, column)}>{escape(column)}</th>" for column in table.colnames)
        body, above = "", None
        for row in table:
            cells = [str(cell) for cell in row]
            again = grouped and cells[0] == above
            above, cells[0] = cells[0], "" if again else cells[0]
            body += '<tr class="group">' if grouped and not again else "<tr>"
            body += "".join(
                f"<td{_kind(table, c)}>{escape(cell)}</td>" for c, cell in zip(table.colnames, cells, strict=True)
            )
            body += "</tr>"
        self._blocks.append(f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>')
        self._blocks.append(f'<p class="note">{escape(caption)}</p>')

    def definitions(self, texts: Iterable[tuple[str, str]]) -> None:
        """Show names and what they mean."""
        lines = "".join(
            f'<tr><td class="text"><code>{escape(name)}</code></td><td class="text">{escape(text)}</td></tr>'
            for name, text in texts
        )
        self._blocks.append(f'<div class="scroll"><table>{lines}</table></div>')

    def write(self, name: str = "index.html") -> Path:
        """Write the page and return its path."""
        links = "".join(f'<a href="#{anchor}">{escape(heading)}</a> ' for anchor, heading in self._sections)
        first = next((i for i, block in enumerate(self._blocks) if block.startswith("<h2")), len(self._blocks))
        blocks = [*self._blocks[:first], f"<nav>{links}</nav>", *self._blocks[first:]]
        path = self.folder / name
        path.write_text(
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(self.title)}</title><style>{_STYLE}</style></head>\n<body><h1>{escape(self.title)}</h1>\n"
            + "\n".join(blocks)
            + "\n</body></html>\n",
            encoding="utf-8",
        )
        return path


def _kind(table, column):
    """Left-aligned where a column begins with a letter."""
    first = str(table[column][0]) if len(table) else ""
    return ' class="text"' if first[:1].isalpha() and first.lower() != "nan" else ""


def write_latex(table: Table, path: str | PathLike, caption: str = "") -> None:
    """Write a table of texts as LaTeX; parameters become symbols.

    Parameters
    ----------
    table : `~astropy.table.Table`
        Table whose columns are texts.
    path : path-like
        LaTeX file to write.
    caption : str, optional
        Caption of the table.
    """
    ready = Table()
    for column in table.colnames:
        ready[_latex(column)] = [_latex(str(value)) for value in table[column]]
    options = {"tabletype": "table", "caption": _latex(caption)} if caption else {}
    ready.write(path, format="ascii.latex", overwrite=True, latexdict=options)


def _latex(text):
    name, _, suffix = text.partition(" ")
    symbol = ""
    if name in MEASURED:
        symbol, text = parameter_label(name), (f" {suffix}" if suffix else "")
    for letter, safe in _SAFE:
        text = text.replace(letter, safe)
    return symbol + text


def numbers(values: npt.ArrayLike, digits: int = 3) -> list[str]:
    """Format numbers as texts.

    Parameters
    ----------
    values : array_like
        One number or several.
    digits : int, optional
        Number of significant digits. Default 3.

    Returns
    -------
    list of str
        One text per number, a dash for NaN.
    """
    return ["-" if not np.isfinite(value) else f"{value:.{digits}g}" for value in np.atleast_1d(values)]
