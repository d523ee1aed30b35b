"""``galmeasure convert``: results in the conventions of another code."""

from typing import Any

import click

from galmeasure.cli.run import reported
from galmeasure.cli.titles import TitledCommand

__all__ = ["convert"]


@click.command(cls=TitledCommand)
@click.argument("catalog", metavar="TABLE")
@click.option("--to", default="galmeasure", show_default=True, help="Conventions of the output: galmeasure, or one of "
              "those of --preset.")  # fmt: skip
@click.option("--preset", help="Conventions of the input: galfit, galapagos, imfit, pysersic, statmorph, petrofit, "
              "astrophot, profit, sourcextractor++, lsst or legacysurvey.  [default: galmeasure]")  # fmt: skip
@click.option("-o", "--output", required=True, help="Table to write: .fits, .ecsv, .csv, .parquet or .votable.")
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
@click.option("--columns", help="Columns of the input that have other names, e.g. n=SERSIC_N,radius=RE.")
@click.option("--band", help="Band of the fluxes, if the code has several, e.g. r.")
@click.option("--pixel-scale", type=float, help="Pixel scale in arcsec, to convert radii between pixels and arcsec.")
@click.option("--zero-point", type=float, help="Magnitude of a flux of 1, to convert between magnitudes and fluxes.")
@click.option("-v", "--verbose", is_flag=True, help="Show the traceback of an error.")
def convert(catalog: Any, **options: Any) -> None:
    """Convert results to the conventions of another code, or from them.

    TABLE is a result table of galmeasure, or a catalogue of the code that --preset names.
    Exit codes: 0 done, 2 bad arguments or input.
    """
    with reported(options["verbose"]):
        from pathlib import Path

        from galmeasure.evaluation import convert_results, read_results
        from galmeasure.io.writers import output_format, write_table
        from galmeasure.workflows.evaluate import column_map
        from galmeasure.workflows.outputs import check_output, refuse_inputs

        output = Path(options["output"])
        refuse_inputs(output, catalog, options)
        output_format(output)
        check_output(output, overwrite=options["overwrite"])
        how = {name: options[name] for name in ("pixel_scale", "zero_point", "band")}
        table = read_results(catalog, options["preset"], columns=column_map(options["columns"]), **how)
        if options["to"] != "galmeasure":
            table = convert_results(table, to=options["to"], **how)
        write_table(table, output, overwrite=options["overwrite"])
        click.echo(f"{len(table)} rows in the conventions of {options['to']}: {output}")
