"""Processes: how many there may be, and that none outlives the one that started it."""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing import connection, parent_process

__all__ = ["count_jobs", "leave_with_parent", "n_cores"]


def n_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count_jobs(n_jobs: int, cores: int) -> int:
    """Processes of an option ``n_jobs``: -1 is one a core.

    Raises
    ------
    ValueError
        If it is neither positive nor -1.
    """
    if n_jobs == -1:
        return cores
    if n_jobs < 1:
        msg = f"n_jobs must be 1 or more, or -1 for one a core, not {n_jobs}"
        raise ValueError(msg)
    return n_jobs


def leave_with_parent() -> None:
    """In a worker: leave Ctrl-C to the parent, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    connection.wait([parent_process().sentinel])
    os._exit(1)
