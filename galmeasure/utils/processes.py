"""Number of processes, and their end with the process that started them."""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing import connection, parent_process

__all__ = ["count_jobs", "leave_with_parent", "n_cores"]


def n_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count_jobs(n_jobs: int, cores: int) -> int:
    """Return the number of processes of an option ``n_jobs``.

    Parameters
    ----------
    n_jobs : int
        Number of processes, or -1 for one per core.
    cores : int
        Number of cores that may be used.

    Returns
    -------
    int
        Number of processes, at least 1.

    Raises
    ------
    ValueError
        If it is neither positive nor -1.
    """
    if n_jobs == -1:
        return cores
    if n_jobs < 1:
        msg = f"n_jobs must be 1 or more, or -1 for one per core, not {n_jobs}"
        raise ValueError(msg)
    return n_jobs


def leave_with_parent() -> None:
    """Make a worker leave Ctrl-C to its parent, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    connection.wait([parent_process().sentinel])
    os._exit(1)
