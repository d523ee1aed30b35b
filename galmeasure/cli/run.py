"""How every command runs: errors on one line, warnings once, and an orderly end when it is stopped."""

import signal
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import click

from galmeasure.utils.text import one_line

__all__ = ["reported", "text_with_notes"]


@contextmanager
def reported(verbose: bool = False) -> Iterator[None]:
    """Wrong arguments and input as usage errors, warnings as lines; ``verbose`` shows where an error came from."""
    with _plain_warnings(), _terminable():
        try:
            yield
        except (ValueError, TypeError, OSError, ImportError) as err:
            if verbose:
                traceback.print_exc()
            raise click.UsageError(text_with_notes(one_line(err), err)) from err


def text_with_notes(text: str, err: BaseException) -> str:
    """Text on one line, with the notes of an exception behind it."""
    return "; ".join([text, *map(one_line, getattr(err, "__notes__", ()))])


@contextmanager
def _plain_warnings():
    """Warnings as one line on stderr, each text once."""
    texts = set()

    def show(message, category, filename, lineno, file=None, line=None):
        text = one_line(message)
        if text not in texts:
            texts.add(text)
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
