"""``galmeasure app``: the interactive app in a browser."""

import click

from galmeasure.cli.run import reported
from galmeasure.cli.titles import TitledCommand

__all__ = ["app"]


@click.command(cls=TitledCommand)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; 0.0.0.0 for all networks.")
@click.option("--port", type=click.IntRange(1, 65535), default=8501, show_default=True, help="Port to listen at.")
@click.option("--headless", is_flag=True, help="Open no browser.")
@click.option("--max-upload", type=click.IntRange(1, 10_000), default=50, show_default=True, metavar="MB",
              help="Largest upload in megabytes.")  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Show the traceback of an error.")
def app(host: str, port: int, headless: bool, max_upload: int, verbose: bool) -> None:
    """Open the app in a browser: draw galaxies and measure them, measure catalogues, see the study's data sets.

    It is served to this machine only, unless --host says otherwise, until it is stopped with Ctrl-C. Needs the extra
    app. Exit codes: 0 done, 2 bad arguments or Streamlit is missing.
    """
    with reported(verbose):
        from galmeasure.app.launch import is_loopback, run_app

        if not is_loopback(host):
            click.echo(f"galmeasure: warning: everyone who reaches {host}:{port} can use the app", err=True)
        click.echo("galmeasure: starting the app", err=True)
        run_app(host, port, headless=headless, max_upload_mb=max_upload)
