"""What does the journal of finished chunks cost? The command with it and without it, in turns, in the same run.

A table of stamps is written and measured in chunks, with the journal (`galmeasure.workflows.journal`) and without it.
The estimator takes no time, so that the cost of reading and writing is not hidden behind a fit; the cost for an
estimator that takes longer follows from the seconds of a row.
"""

import argparse
import tempfile
import time
from pathlib import Path

import _one_core  # noqa: F401
import numpy as np
from _report import metadata, report
from astropy.table import QTable, Table
from memory import write_stamps

from galmeasure.fitters.registry import FitterSpec
from galmeasure.io import ReadOptions
from galmeasure.workflows.measure import MeasureSettings, measure_catalog

N_COLUMNS = 70
"""Columns of numbers of the table: as many as the default estimator has."""

DEFAULT_SECONDS = 1.0e-3
"""Seconds of a row that an estimator takes, of which the cost is told as a part: the default one on one core."""


class Sums:
    """Estimator that takes no time, with as many columns as others have."""

    def __call__(self, cutouts):
        count = len(cutouts)
        table = QTable({"id": np.asarray(cutouts.ids), "flags": np.zeros(count, dtype=np.int64)})
        for column in range(N_COLUMNS):
            table[f"column_{column}"] = np.full(count, float(column))
        return table


def seconds(path, output, *, journal):
    """Seconds of one run."""
    spec = FitterSpec("resume", "Sums")
    settings = MeasureSettings(
        fitter=spec, reading=ReadOptions(error=1.0), output=output, overwrite=True, journal=journal, batch_size=512,
        threads=1,
    )  # fmt: skip
    start = time.perf_counter()
    measure_catalog(path, settings)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--number", type=int, default=20_000, help="stamps (%(default)s)")
    parser.add_argument("--side", type=int, default=32, help="pixels of a side (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="runs with the journal and without it (%(default)s)")
    parser.add_argument("--output", help="folder of the results")
    args = parser.parse_args()
    times = {True: [], False: []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stamps.fits"
        write_stamps(path, args.number, args.side, 1)
        for _ in range(args.rounds):
            for journal in times:
                times[journal].append(seconds(path, path.with_name("result.fits"), journal=journal))
    with_journal, without = (min(times[journal]) / args.number * 1e6 for journal in (True, False))
    cost = with_journal - without
    row = (args.number, args.side, with_journal, without, cost, cost / DEFAULT_SECONDS / 1e4)
    names = ("stamps", "side", "with_us", "without_us", "cost_us", "percent_of_a_row")
    table = Table(rows=[row], names=names)
    table["cost_us"].description = "difference of the quickest runs, which took turns, microseconds a row"
    table["percent_of_a_row"].description = f"of the {1e3 * DEFAULT_SECONDS} ms that the default takes on one core"
    report("resume", table, metadata(1), title="Cost of the journal", output=args.output)
    raise SystemExit(0 if row[-1] < 2.0 else 1)


if __name__ == "__main__":
    main()
