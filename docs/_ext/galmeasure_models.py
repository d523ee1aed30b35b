"""Sphinx directives that make the tables of the page on models, from the cards of the weights and from benchmarks.

``galmeasure-models cards`` lists what the cards of all shipped weights say, ``cost`` what the networks cost,
``rmse SET`` and ``coverage SET`` compare models on a set of the study, and ``reference SNR`` on its reference galaxy.
The numbers are those that ``benchmarks/compare_models.py`` has written to ``benchmarks/results``.
"""

from pathlib import Path

import numpy as np
from astropy.table import Table
from galmeasure_tables import list_table

from galmeasure.evaluation.report.reference_tables import in_brackets
from galmeasure.parameters import PARAMETER_NAMES
from galmeasure.weights import list_weights

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
STUDY_NAMES = PARAMETER_NAMES[:5]
NOTHING = "–"
"""Cell without a number; a hyphen would begin a list."""

HEADINGS = {"flux": "flux [1e5]", "r_eff": "r_eff [″]", "x": "x [pixel]", "y": "y [pixel]"}


def card_rows():
    """Name, purpose, architecture, prior and training of all shipped weights."""
    for weights in list_weights():
        card = weights.card
        training = card["training"]
        kind = f"{card['architecture']}, {card.get('encoder', 'mixer')}"
        effort = (
            f"{training['stamps'] / 1e6:.2g} million stamps, {training['minutes']:g} minutes ({training['device']})"
        )
        yield f"``{weights.name}``", card["description"], kind, f"``{weights.prior}``", effort, card["date"]


def cost_rows():
    """Parameters, operations, file and rate of the models."""
    table = Table.read(RESULTS / "compare_models_cost.ecsv")
    for row in in_order(table):
        network = np.isfinite(row["mflop"])
        numbers = (f"{row['parameters'] / 1e6:.2f}", f"{row['mflop']:.0f}", f"{row['megabytes']:.1f}")
        yield (
            named(row["model"]),
            *(numbers if network else [NOTHING] * 3),
            f"{row['galaxies_per_second']:.0f}",
            row["set"],
        )


def statistic_rows(dataset, names, cell):
    """A row per model on a set: number of galaxies, and a text for each parameter.

    Parameters
    ----------
    dataset : str
        Set of the results.
    names : tuple of str
        Parameters of the columns.
    cell : callable
        Text of a row of the results.
    """
    table = Table.read(RESULTS / "compare_models.ecsv")
    table = table[table["set"] == dataset]
    for model in dict.fromkeys(str(row["model"]) for row in in_order(table)):
        rows = {str(row["parameter"]): row for row in table[table["model"] == model]}
        texts = [cell(rows[name]) if name in rows else NOTHING for name in names]
        if set(texts) != {NOTHING}:
            size = next(iter(rows.values()))["size"]
            yield named(model), str(size) if size else NOTHING, *texts


def rmse_cell(row):
    """RMSE with its error in units of the last digit."""
    if not np.isfinite(row["rmse"]):
        return NOTHING
    return in_brackets(row["rmse"], row["rmse_error"]) if np.isfinite(row["rmse_error"]) else f"{row['rmse']:.4g}"


def coverage_cell(row):
    """Percentage of truths within the 68 % interval."""
    return f"{100 * row['coverage_68']:.1f}" if np.isfinite(row["coverage_68"]) else NOTHING


def reference_cell(row):
    """Bias / standard deviation."""
    return f"{row['bias']:+.3f} / {row['std']:.3f}" if np.isfinite(row["bias"]) else NOTHING


def in_order(table):
    """Rows of shipped weights, then least squares, the exact posterior, and published numbers."""
    shipped = [weights.name for weights in list_weights()]

    def place(row):
        name = str(row["model"])
        known = [*shipped, "lsq", "exact posterior"]
        return known.index(name) if name in known else len(known), name

    return sorted(table, key=place)


def named(model):
    """Name of a model; those of weights and of least squares are literal."""
    return model if " " in str(model) else f"``{model}``"


def headings(names):
    return [HEADINGS.get(name, name) for name in names]


def table_lines(what, argument=None):
    """Lines of one of the tables."""
    if what == "cards":
        return list_table(("Weights", "For", "Network", "Prior", "Training", "Date"), card_rows())
    if what == "cost":
        header = ("Model", "Million parameters", "MFLOP", "MB", "Galaxies a second", "Measured on set")
        return list_table(header, cost_rows())
    names, cell = {
        "rmse": (PARAMETER_NAMES, rmse_cell),
        "coverage": (PARAMETER_NAMES, coverage_cell),
        "reference": (STUDY_NAMES, reference_cell),
    }[what]
    dataset = f"reference-{argument}" if what == "reference" else argument
    rows = list(statistic_rows(dataset, names, cell))
    return list_table(("Model", "Galaxies", *headings(names)), rows) if rows else ["No model was measured on it.", ""]


def setup(app):
    """Register the directive."""
    from docutils import nodes
    from docutils.statemachine import StringList
    from sphinx.util.docutils import SphinxDirective

    class ModelTable(SphinxDirective):
        required_arguments = 1
        optional_arguments = 1

        def run(self):
            parent = nodes.Element()
            lines = StringList(table_lines(*self.arguments), source=self.get_location())
            self.state.nested_parse(lines, self.content_offset, parent)
            return parent.children

    app.add_directive("galmeasure-models", ModelTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
