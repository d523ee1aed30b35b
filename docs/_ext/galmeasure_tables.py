"""Sphinx directives whose text is made from the package itself, so that nothing is written twice.

``galmeasure-flags``, ``galmeasure-parameters`` and ``galmeasure-datasets`` make tables of the registries;
``galmeasure-names columns`` (or ``keywords``, ``extensions``, ``pixels``, ``sky``) lists the names that files may use;
``galmeasure-table NAME`` is the table of a benchmark's results, or the columns that are named behind it, of all rows or
of those with the values that follow (``| column=value``);
``galmeasure-help NAME`` shows the help of a subcommand, or of the command itself when there is no name.
"""

import math
from pathlib import Path

from astropy.table import Table

from galmeasure.flags import FLAGS
from galmeasure.parameters import PARAMETERS

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def flag_rows():
    """Bit, value, name and meaning of every quality flag."""
    return [(str(flag.bit), str(flag.value), f"``{flag.name}``", flag.description) for flag in FLAGS]


def bounds(parameter):
    """Bounds of a parameter in words; infinite ones are those of the stamp, but for the flux."""
    limits = (parameter.lower, parameter.upper)
    if parameter.kind == "flux":
        return "none"
    if not any(map(math.isfinite, limits)):
        return "the stamp"
    unit = " pixel" if parameter.kind == "length" else ""
    return " to ".join(f"{limit:g}{unit}" if math.isfinite(limit) else "the stamp" for limit in limits)


def parameter_rows():
    """Name, bounds and meaning of every parameter."""
    return [(f"``{p.name}``", bounds(p), p.description.replace("|", r"\|")) for p in PARAMETERS]


def dataset_rows():
    """Name, galaxies, PSF and noise of every data set of the study."""
    from galmeasure.training import DATASETS

    def words(values, unit=""):
        return f"{' to '.join(f'{value:g}' for value in dict.fromkeys(values))}{unit}"

    for name, config in DATASETS.items():
        shear = f"g1 {config.g1:g}, g2 {config.g2:g}" if config.g1 is not None else f"modulus of g {words(config.g)}"
        galaxy = f"flux {words(config.flux)}, n {words(config.n)}, r_eff {words(config.r_eff)}″, {shear}"
        yield f"``{name}``", galaxy, words(config.psf_fwhm, "″"), words(config.sigma), words(config.snr)


def name_rows(kind):
    """What a name stands for, and the names that stand for it."""
    from galmeasure.io import names as _names

    if kind in ("pixels", "sky"):
        pairs = _names.PIXEL_NAMES if kind == "pixels" else _names.SKY_NAMES
        return [
            (f"``{x}``, ``{y}``", *(f"{first} is the centre of the first pixel" for first in rest))
            for x, y, *rest in pairs
        ]
    names = {"columns": _names.COLUMN_NAMES, "keywords": _names.KEYWORDS, "extensions": _names.EXTENSION_NAMES}[kind]
    return [(role.replace("_", " "), ", ".join(f"``{name}``" for name in known)) for role, known in names.items()]


def help_lines(name):
    """Help text of a subcommand, or of the command when ``name`` is empty."""
    import click

    from galmeasure.cli.commands import cli

    context = click.Context(cli, info_name="galmeasure", max_content_width=100, terminal_width=100)
    command = cli
    if name:
        command = cli.get_command(context, name)
        if command is None:
            msg = f"name must be a subcommand of galmeasure, not {name!r}"
            raise ValueError(msg)
        context = click.Context(command, info_name=name, parent=context, max_content_width=100, terminal_width=100)
    return command.get_help(context).splitlines()


def list_table(header, rows):
    """Lines of a list-table directive."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in (header, *rows):
        lines += [f"   {'*' if i == 0 else ' '} - {cell}" for i, cell in enumerate(row)]
    return [*lines, ""]


def result_lines(arguments):
    """Table of a benchmark's results, or the columns and rows of it that are named behind it, with their formats."""
    selection, *conditions = arguments.split("|")
    name, *names = selection.split()
    table = Table.read(RESULTS / f"{name}.ecsv")
    for condition in conditions:
        column, value = condition.strip().split("=")
        table = table[[str(entry) == value for entry in table[column]]]
    if not len(table):
        msg = f"{name}.ecsv must have rows where {' and '.join(conditions)}"
        raise ValueError(msg)
    if names:
        table = table[names]
    columns = [table[column].pformat(show_name=False, max_lines=-1) for column in table.colnames]
    header = [column.replace("_", " ") for column in table.colnames]
    return list_table(header, zip(*columns, strict=True))


def literal(lines):
    """Lines of a literal block."""
    return [".. code-block:: none", "", *(f"   {line}" for line in lines), ""]


def setup(app):
    """Register the directives."""
    from docutils import nodes
    from docutils.statemachine import StringList
    from sphinx.util.docutils import SphinxDirective

    def directive(make_lines):
        class Generated(SphinxDirective):
            optional_arguments = 1
            final_argument_whitespace = True

            def run(self):
                lines = make_lines(*self.arguments)
                parent = nodes.Element()
                self.state.nested_parse(StringList(lines, source=self.get_location()), self.content_offset, parent)
                return parent.children

        return Generated

    flags = list_table(("Bit", "Value", "Name", "Meaning"), flag_rows())
    parameters = list_table(("Name", "Bounds of a fit", "Meaning"), parameter_rows())
    app.add_directive("galmeasure-table", directive(result_lines))
    app.add_directive("galmeasure-flags", directive(lambda: flags))
    app.add_directive("galmeasure-parameters", directive(lambda: parameters))
    datasets = list_table(("Name", "Galaxies", "PSF FWHM", "sigma", "S/N kept"), dataset_rows())
    app.add_directive("galmeasure-datasets", directive(lambda: datasets))
    found_as = ("What", "Names, in the order in which they are looked for")
    headers = {"pixels": ("Columns", "Coordinates"), "sky": ("Columns, in degrees",)}

    def names(kind):
        return list_table(headers.get(kind, found_as), name_rows(kind))

    app.add_directive("galmeasure-names", directive(names))
    app.add_directive("galmeasure-help", directive(lambda name="": literal(help_lines(name))))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
