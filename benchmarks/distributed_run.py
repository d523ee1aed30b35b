"""How much faster are two Dask workers than one, and are their tables the same to the last bit?

A table of stamps is measured with least squares by one worker and by two, of one thread each, in turns; the time is
that of the chunks, without the start of the workers, whose estimators have been made.

Two ratios are given. That by the clock needs two cores with nothing else to do: the load before each run stands beside
it. That by the processor is the time of the one worker over that of the busier one of two; it does not suffer from
other programs, and is what the clock would show if the scheduler and the client had a core of their own.
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
    """Tables of all chunks."""
    chunks = cluster_chunks(source, np.arange(len(source)), spec, division, scheduler=address)
    return [table for _, _, table in chunks]


def run(source, spec, division, n_workers):
    """Measure with some workers; the table, and what it took: clock, busiest worker, all workers, this process."""
    from distributed import Client, LocalCluster

    options = {"threads_per_worker": 1, "dashboard_address": None, "memory_limit": 0}
    with LocalCluster(n_workers=n_workers, **options) as cluster, Client(cluster) as client:
        n_first = -(-len(source) // (2 * n_workers))
        measured(source, spec, Division(1, batch_size=n_first), cluster.scheduler_address)
        workers, own, start = client.run(time.process_time), time.process_time(), time.perf_counter()
        tables = measured(source, spec, division, cluster.scheduler_address)
        seconds, own = time.perf_counter() - start, time.process_time() - own
        used = [after - workers[name] for name, after in client.run(time.process_time).items()]
    return vstack(tables, metadata_conflicts="silent"), (seconds, max(used), sum(used), own)


def same_bits(first, second):
    """Whether all columns of two tables have the same bytes."""
    return all(np.asarray(first[n]).tobytes() == np.asarray(second[n]).tobytes() for n in first.colnames)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--number", type=int, default=2400, help="stamps (%(default)s)")
    parser.add_argument("--side", type=int, default=64, help="pixels of a side (%(default)s)")
    parser.add_argument("--method", default="lsq", choices=("lsq", "neural"), help="estimator (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each number of workers (%(default)s)")
    parser.add_argument("--output", help="folder of the results")
    args = parser.parse_args()
    spec, division = get_fitter(args.method).spec(device="cpu"), Division(1, batch_size=max(1, args.number // 40))
    costs, tables, loads = {1: [], 2: []}, {}, []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stamps.fits"
        write_stamps(path, args.number, args.side, 1)
        source = open_catalog(path, error=1.0)
        for number in range(args.rounds):
            for n_workers in (1, 2) if number % 2 == 0 else (2, 1):
                loads.append(os.getloadavg()[0])
                tables[n_workers], cost = run(source, spec, division, n_workers)
                costs[n_workers].append(cost)
                print(f"{n_workers} workers: {cost[0]:.2f} s, busiest worker {cost[1]:.2f} s, load {loads[-1]:.1f}")
    (one, busy_one, all_one, _), (two, busy_two, all_two, own) = (np.min(costs[n], axis=0) for n in (1, 2))
    row = (args.method, args.number, args.side, min(loads), max(loads), one, two, one / two, busy_one, busy_two,
           busy_one / busy_two, all_two / all_one, own / all_two, same_bits(tables[1], tables[2]))  # fmt: skip
    names = ("method", "stamps", "side", "load_least", "load_most", "one_s", "two_s", "ratio", "one_cpu_s", "two_cpu_s",
             "cpu_ratio", "work_ratio", "client_share", "same_bits")  # fmt: skip
    table = Table(rows=[row], names=names)
    table[
        "load_least"
    ].description = "least load average of a minute before a run; that of the machine's idle time is 0"
    table["two_cpu_s"].description = "processor seconds of the busier one of two workers"
    table["work_ratio"].description = "processor seconds of two workers together over those of the one"
    table["client_share"].description = "processor seconds of scheduler and client over those of two workers"
    title = f"Two Dask workers and one, on {os.cpu_count()} cores: the least times of runs that take turns"
    report("distributed_run", table, metadata(2, seed=1), title=title, output=args.output)
    raise SystemExit(0 if row[-1] else 1)


if __name__ == "__main__":
    main()
