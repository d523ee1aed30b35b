"""Progress of long computations: rows that are done, told by several threads while their batch goes on."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BatchProgress", "progress"]

_LOCK = threading.Lock()


@dataclass
class BatchProgress:
    """Rows of one batch that are done.

    Parameters
    ----------
    total : int, optional
        Number of rows of the batch; of more nothing is told. Default 0.
    report : callable, optional
        Function that is told how many more rows are done, by one thread at a time.

    Attributes
    ----------
    done : int
        Number of rows that are done.

    Examples
    --------
    >>> from galmeasure.utils.progress import BatchProgress
    >>> batch = BatchProgress(5, print)
    >>> batch.add(3)
    3
    >>> batch.finish()
    2
    """

    total: int = 0
    report: Callable[[int], Any] | None = None
    done: int = field(default=0, init=False)

    def add(self, count: int) -> None:
        """Tell that more rows are done.

        Parameters
        ----------
        count : int
            Number of these rows. A row that is done again does not count where all have been done.
        """
        with _LOCK:
            count = min(count, self.total - self.done)
            self.done += count
            if count and self.report is not None:
                self.report(count)

    def finish(self) -> None:
        """Tell that all rows are done."""
        self.add(self.total)


class _Function:
    """Bar that is a function of the number of rows that are done."""

    def __init__(self, update):
        self.update = update

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def progress(total: int, show: bool | Callable[[int], Any]) -> Any:
    """Make a progress bar.

    Parameters
    ----------
    total : int
        Number of all galaxies.
    show : bool or callable
        True for a bar on the standard error, or a function that is told how many more galaxies are done.

    Returns
    -------
    context manager
        With a method ``update``, which takes the number of galaxies that are done.
    """
    from tqdm import tqdm

    return _Function(show) if callable(show) else tqdm(total=total, unit="galaxy", disable=not show)
