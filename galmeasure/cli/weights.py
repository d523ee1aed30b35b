"""``galmeasure weights``: which trained networks there are."""

import click

from ._run import reported

__all__ = ["weights"]


@click.command()
def weights():
    """List the weights that come with galmeasure, for measure --weights.

    Files of your own, from galmeasure train, are given by their path. Exit codes: 0 done, 2 a file is damaged.
    """
    with reported():
        from galmeasure.weights import DEFAULT_WEIGHTS, list_weights

        rows = [("name", "prior", "size", "sha256", "description")]
        for each in list_weights():
            size = f"{each.path.stat().st_size / 1e6:.1f} MB"
            text = each.card["description"] + (" (default)" if each.name == DEFAULT_WEIGHTS else "")
            rows.append((each.name, each.prior, size, each.sha256[:12], text))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        for row in rows:
            columns = [text.ljust(width) for text, width in zip(row, widths, strict=False)]
            click.echo("  ".join([*columns, row[-1]]))
