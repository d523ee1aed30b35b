"""How much faster are two Dask workers than one, and are their tables the same to the last bit?

A table of stamps is measured with least squares by one worker and by two, of one thread each, in turns; the time is
that of the chunks, without the start of the workers, whose estimators have been made.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import _one_core  # noqa: F401
import numpy as np
from _report import metadata, report
from astropy.table import Table, vstack
from memory import write_stamps

from galmeasure.fitters.registry import get_fitter
from galmeasure.io import open_catalog
from galmeasure.workflows.dask import cluster_chunks
from galmeasure.workflows.executors import Division


def measured(source, spec, division, address):
    """Table of all rows, and its seconds."""
    start = time.perf_counter()
    chunks = cluster_chunks(source, np.arange(len(source)), spec, division, scheduler=address)
    tables = [table for _, _, table in chunks]
    return vstack(tables, metadata_conflicts="silent"), time.perf_counter() - start


def same_bits(first, second):
    """Whether all columns of two tables have the same bytes."""
    return all(np.asarray(first[n]).tobytes() == np.asarray(second[n]).tobytes() for n in first.colnames)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--number", type=int, default=2000, help="stamps (%(default)s)")
    parser.add_argument("--side", type=int, default=24, help="pixels of a side (%(default)s)")
    parser.add_argument("--method", default="lsq", choices=("lsq", "neural"), help="estimator (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each number of workers (%(default)s)")
    parser.add_argument("--output", help="folder of the results")
    args = parser.parse_args()
    from distributed import LocalCluster

    spec, division = get_fitter(args.method).spec(device="cpu"), Division(1, batch_size=max(1, args.number // 40))
    times, tables = {1: [], 2: []}, {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stamps.fits"
        write_stamps(path, args.number, args.side, 1)
        source = open_catalog(path, error=1.0)
        options = {"threads_per_worker": 1, "dashboard_address": None, "memory_limit": 0}
        for _ in range(args.rounds):
            for workers in times:
                with LocalCluster(n_workers=workers, **options) as cluster:
                    measured(source, spec, Division(1, batch_size=args.number // 4), cluster.scheduler_address)
                    table, seconds = measured(source, spec, division, cluster.scheduler_address)
                times[workers].append(seconds)
                tables[workers] = table
    best = {workers: min(times[workers]) for workers in times}
    row = (args.method, args.number, args.side, best[1], best[2], best[1] / best[2], same_bits(tables[1], tables[2]))
    names = ("method", "stamps", "side", "one_s", "two_s", "ratio", "same_bits")
    title = f"Two Dask workers and one, on {os.cpu_count()} cores"
    report("distributed_run", Table(rows=[row], names=names), metadata(2, seed=1), title=title, output=args.output)
    raise SystemExit(0 if row[-1] else 1)


if __name__ == "__main__":
    main()
