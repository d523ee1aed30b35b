"""How every command runs: errors on one line, warnings once, and an orderly end when it is stopped."""

import signal
import threading
import traceback
import warnings
from contextlib import contextmanager

import click

__all__ = ["one_line", "printable", "report_folder", "reported"]


def printable(text: object) -> str:
    """Text without the bytes of file names that are no characters, which a terminal may refuse."""
    return str(text).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def one_line(err):
    """Text of an error or a warning on one line."""
    return " ".join(printable(err).split()) or type(err).__name__


@contextmanager
def reported(verbose=False):
    """Wrong arguments and input as usage errors, warnings as lines; ``verbose`` shows where an error came from."""
    with _plain_warnings(), _terminable():
        try:
            yield
        except (ValueError, TypeError, OSError, ImportError) as err:
            if verbose:
                traceback.print_exc()
            raise click.UsageError(one_line(err)) from err


@contextmanager
def _plain_warnings():
    """Warnings as one line on stderr, each text once."""
    seen = set()

    def show(message, category, filename, lineno, file=None, line=None):
        text = one_line(message)
        if text not in seen:
            seen.add(text)
            click.echo(f"galmeasure: warning: {text}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@contextmanager
def _terminable():
    """SIGTERM ends the command as Ctrl-C does, so that temporary files go."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def report_folder(options):
    """Check ``--report``, a folder to write; that matplotlib is missing is noticed before the work, not after it."""
    from pathlib import Path

    from galmeasure.evaluation.plots import new_figure

    folder = Path(options["report"])
    if folder.exists() and not folder.is_dir():
        msg = f"report must be a folder, and {folder} is a file"
        raise ValueError(msg)
    if folder.is_dir() and any(folder.iterdir()) and not options["overwrite"]:
        msg = f"report: the folder {folder} is not empty; give another, or --overwrite"
        raise ValueError(msg)
    new_figure(1, 1)
    return folder
