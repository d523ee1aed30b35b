"""How much memory does the command take for a long catalogue? The whole process tree is watched to its end.

A table of stamps is written and measured with ``galmeasure``, in a fresh process for every number of rows. The memory
of the command and all of its children is read twenty times a second: the largest sum of their resident memory, and
that of its part which is no file (the heap). Ten thousand different stamps are repeated as often as it takes.

``--method moments`` is an estimator that takes next to no time, so that a million rows of the reader, the journal and
the writer are seen to the end.
"""

import argparse
import gzip
import itertools
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _one_core  # noqa: F401
import numpy as np
from _report import RESULTS, metadata, report
from astropy.io import fits
from astropy.table import Table, vstack

LIMIT = 1000.0
"""Megabytes that the command may take."""

FLAT = 1.1
"""Largest ratio of the peak of the longest catalogue to that of the shortest."""

INTERVAL = 0.05
DIFFERENT = 10_000
"""Stamps that differ from one another."""

METHODS = {
    "moments": [str(Path(__file__).with_name("_moments.py")), "measure", "--method", "moments"],
    "lsq": ["-m", "galmeasure", "measure", "--method", "lsq"],
    "network": ["-m", "galmeasure", "measure", "--method", "neural", "--refine", "none"],
    "neural": ["-m", "galmeasure", "measure", "--method", "neural"],
    "fast": ["-m", "galmeasure", "measure", "--method", "neural", "--weights", "survey-v3-fast"],
}
"""Commands by the name of the estimator."""


def write_stamps(path, number, side, seed, *, psf_side=0, compress=False):
    """Table of galaxies with noise 1, and their PSF, or one of some side for each of them; written chunk by chunk."""
    rng, n_different = np.random.default_rng(seed), min(number, DIFFERENT)
    psf_width = rng.uniform(1.1, 1.3, n_different)
    height, planes = rng.uniform(20, 200, n_different), {"cutout": np.empty((n_different, side, side), ">f4")}
    for row in range(n_different):
        planes["cutout"][row] = height[row] * _gaussian(side, 2.0) + rng.normal(size=(side, side))
    if psf_side:
        planes["psf"] = np.stack([_gaussian(psf_side, width) for width in psf_width]).astype(">f4")
    table = fits.table_to_hdu(Table({name: plane[:1].astype("f4") for name, plane in planes.items()}))
    table.header["NAXIS2"] = number
    rows = np.concatenate([plane.reshape(n_different, -1) for plane in planes.values()], axis=1).astype(">f4")
    with gzip.open(path, "wb", compresslevel=1) if compress else path.open("wb") as file:
        file.write(fits.PrimaryHDU().header.tostring().encode())
        file.write(table.header.tostring().encode())
        for start in range(0, number, n_different):
            file.write(rows[: number - start].view(np.uint8))
        file.write(bytes(-file.tell() % 2880))
        if not psf_side:
            psf = fits.ImageHDU(_gaussian(side, 1.2).astype("f4"), name="PSF")
            file.write(psf.header.tostring().encode())
            file.write(psf.data.astype(">f4").tobytes())
            file.write(bytes(-file.tell() % 2880))


def _gaussian(side, width):
    """Image of a round Gaussian with a peak of 1."""
    offset = np.arange(side) - (side - 1) / 2
    return np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * width**2))


def memory_of(pid):
    """Resident megabytes of a process and all that descend from it, those that are no file, and their number."""
    parents, sizes = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            lines = (folder / "status").read_text().splitlines()
        except OSError:  # it has ended in the meantime
            continue
        fields = {name: words.split() for name, _, words in (line.partition(":") for line in lines)}
        number = int(folder.name)
        parents[number] = int(fields["PPid"][0])
        sizes[number] = [int(fields.get(name, ["0"])[0]) / 1024.0 for name in ("VmRSS", "RssAnon")]
    family = {pid}
    while grown := {number for number, parent in parents.items() if parent in family} - family:
        family |= grown
    return *np.sum([sizes.get(number, [0.0, 0.0]) for number in family], axis=0), len(family & sizes.keys())


def watch(command):
    """Run a command; its exit code, seconds, largest memory, heap and number of processes of its process tree."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    peak = np.zeros(3)
    while process.poll() is None:
        peak = np.maximum(peak, memory_of(process.pid))
        time.sleep(INTERVAL)
    print(process.stdout.read())
    return process.returncode, time.perf_counter() - start, *peak[:2].tolist(), int(peak[2])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--number", type=int, nargs="+", default=[10_000, 100_000], help="stamps, a run of each")
    parser.add_argument("--psf-side", type=int, default=0, help="pixels of a side of a PSF image for each stamp")
    parser.add_argument("--side", type=int, default=64, help="pixels of a side (%(default)s)")
    parser.add_argument("--method", nargs="+", default=["moments"], choices=METHODS, help="one series of each")
    parser.add_argument("--compress", action="store_true", help="measure .fits.gz")
    parser.add_argument("--n-jobs", type=int, default=1, help="processes that measure (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--append", action="store_true", help="add rows to the table of results that is there")
    parser.add_argument("--output", help="folder of the results")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("stamps.fits.gz" if args.compress else "stamps.fits")
        for number, method in itertools.product(args.number, args.method):
            write_stamps(path, number, args.side, args.seed, psf_side=args.psf_side, compress=args.compress)
            result = path.with_name(f"{method}.fits")
            words = ["--error", "1", "--no-progress", "--n-jobs", str(args.n_jobs), "--overwrite", "-o", str(result)]
            found = watch([sys.executable, *METHODS[method], str(path), *words])
            measured = fits.getheader(result, 1)["NAXIS2"] if found[0] == 0 else 0
            size = path.stat().st_size / 1e6
            rows.append((method, args.n_jobs, number, args.side, args.psf_side, path.suffix == ".gz", size, measured,
                         *found[1:]))  # fmt: skip
            result.unlink(missing_ok=True)
    names = ("method", "jobs", "stamps", "side", "psf_side", "gz", "input_MB", "rows", "seconds", "peak_MB", "heap_MB",
             "processes")  # fmt: skip
    table = Table(rows=rows, names=names)
    table["peak_MB"].description = "largest sum of the resident memory of all processes of the command"
    table["heap_MB"].description = "largest sum of what of it is no file"
    table["psf_side"].description = "pixels of a side of the PSF image of each stamp; 0: one PSF for all"
    before = Path(args.output or RESULTS) / "memory.ecsv"
    if args.append and before.exists():
        table = vstack([Table.read(before), table], metadata_conflicts="silent")
    title = "Memory of the command, watched to its end"
    report("memory", table, metadata(1, seed=args.seed), title=title, output=args.output)
    series = table.group_by(["method", "jobs", "side", "psf_side", "gz"]).groups
    ratios = [rows["peak_MB"].max() / rows["peak_MB"].min() for rows in series]
    is_whole = all(row["rows"] == row["stamps"] and row["peak_MB"] < LIMIT for row in table)
    raise SystemExit(0 if is_whole and max(ratios) < FLAT else 1)


if __name__ == "__main__":
    main()
