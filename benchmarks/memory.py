"""How much memory does the command take for a long catalogue? The whole process tree is watched to its end.

A table of small stamps is written and measured with ``galmeasure``; the resident memory of the command and all of its
children is added up twenty times a second, and the largest sum is reported.
"""

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _one_core  # noqa: F401
import numpy as np
from _report import metadata, report
from astropy.io import fits
from astropy.table import Table

LIMIT = 2000.0
"""Megabytes that the command may take."""

INTERVAL = 0.05
CHUNK = 10_000


def write_stamps(path, number, side, seed, *, psf_of_each=False):
    """Table of galaxies with noise 1, and their PSF, or one for each of them; written chunk by chunk."""
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    profile = np.exp(-(rows**2 + columns**2) / (2 * 2.0**2))
    rng = np.random.default_rng(seed)

    def stamps(count):
        height = rng.uniform(20, 200, count)
        return (height[:, None, None] * profile + rng.normal(size=(count, side, side))).astype(">f4")

    psf = np.exp(-(rows**2 + columns**2) / (2 * 1.2**2)).astype("f4")
    names = ("cutout", "psf") if psf_of_each else ("cutout",)
    table = fits.table_to_hdu(Table({name: np.zeros((1, side, side), "f4") for name in names}))
    table.header["NAXIS2"] = number
    with path.open("wb") as file:
        file.write(fits.PrimaryHDU().header.tostring().encode())
        file.write(table.header.tostring().encode())
        for start in range(0, number, CHUNK):
            planes = stamps(min(CHUNK, number - start))[:, None]
            if psf_of_each:
                planes = np.concatenate([planes, np.broadcast_to(psf.astype(">f4"), planes.shape)], axis=1)
            file.write(planes.tobytes())
        file.write(bytes(-file.tell() % 2880))
    if not psf_of_each:
        with fits.open(path, mode="append") as hdus:
            hdus.append(fits.ImageHDU(psf, name="PSF"))


def memory_of(pid):
    """Resident megabytes of a process and all that descend from it, and their number."""
    parents, sizes = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            lines = (folder / "status").read_text().splitlines()
        except OSError:  # it has ended in the meantime
            continue
        fields = {name: words.split() for name, _, words in (line.partition(":") for line in lines)}
        number = int(folder.name)
        parents[number], sizes[number] = int(fields["PPid"][0]), int(fields.get("VmRSS", ["0"])[0]) / 1024.0
    family = {pid}
    while grown := {number for number, parent in parents.items() if parent in family} - family:
        family |= grown
    return sum(sizes.get(number, 0.0) for number in family), len(family & sizes.keys())


def watch(command):
    """Run a command; its exit code, seconds, largest memory of its process tree and largest number of processes."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    peak, most = 0.0, 1
    while process.poll() is None:
        megabytes, count = memory_of(process.pid)
        peak, most = max(peak, megabytes), max(most, count)
        time.sleep(INTERVAL)
    print(process.stdout.read())
    return process.returncode, time.perf_counter() - start, peak, most


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--number", type=int, nargs="+", default=[100_000], help="stamps; one run of each")
    parser.add_argument("--psf-of-each", action="store_true", help="a PSF image for each stamp")
    parser.add_argument("--side", type=int, default=16, help="pixels of a side (%(default)s)")
    parser.add_argument("--method", nargs="+", default=["lsq"], choices=("lsq", "neural"), help="one run of each")
    parser.add_argument("--n-jobs", type=int, default=1, help="processes that measure (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", help="folder of the results")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stamps.fits"
        for number, method in itertools.product(args.number, args.method):
            write_stamps(path, number, args.side, args.seed, psf_of_each=args.psf_of_each)
            result = path.with_name(f"{method}.fits")
            words = ["--error", "1", "--method", method, "--no-progress", "--n-jobs", str(args.n_jobs)]
            words = ["measure", str(path), *words, "--overwrite", "-o", str(result)]
            code, seconds, peak, most = watch([sys.executable, "-m", "galmeasure", *words])
            measured = len(fits.getdata(result)) if code == 0 else 0
            size = path.stat().st_size / 1e6
            psfs = number if args.psf_of_each else 1
            rows.append((method, args.n_jobs, number, psfs, args.side, size, measured, most, seconds, peak))
    names = ("method", "jobs", "stamps", "psfs", "side", "input_MB", "rows", "processes", "seconds", "peak_MB")
    table = Table(rows=rows, names=names)
    table["peak_MB"].description = "largest sum of the resident memory of all processes of the command"
    title = "Memory of the command, watched to its end"
    report("memory", table, metadata(1, seed=args.seed), title=title, output=args.output)
    raise SystemExit(0 if all(row[-1] < LIMIT and row[6] == row[2] for row in rows) else 1)


if __name__ == "__main__":
    main()
