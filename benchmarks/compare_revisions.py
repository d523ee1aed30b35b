"""How much faster is the default than at another revision, and how far has its answer moved, on the same stamps?

``REVISION`` and the code as it stands take turns, each in a process of its own; the fastest run of each counts, by the
processor. Differences of values and quantiles are in units of the error, of errors relative to them, of chi-squared in
units of its scatter. Other work on the machine slows one or the other by a tenth or more.
"""

import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import _one_core  # noqa: F401
import click
import numpy as np
from _report import metadata, report
from astropy.table import Table
from default_shares import PSFS, arguments

from galmeasure import NeuralSersicFitter

HERE = Path(__file__).resolve()


def write_stamps(folder, rows, seed):
    """Write the stamps, which both revisions get, one file for each number of galaxies that share a PSF."""
    for label, count in PSFS.items():
        with (folder / f"{label}.stamps").open("wb") as file:
            pickle.dump(arguments(count, rows, seed), file)


def measure(folder, precision, repeat):
    """Write the seconds and the columns of the default for each file of stamps; run by both revisions."""
    fitter = NeuralSersicFitter(precision=precision)
    for path in sorted(folder.glob("*.stamps")):
        images, psf, options = pickle.loads(path.read_bytes())
        seconds = []
        for rows in (slice(16), *[slice(None)] * repeat):
            part = {name: values[rows] for name, values in options.items()}
            start = time.process_time()
            table = fitter.fit(images[rows], psf if psf.ndim == 2 else psf[rows], **part)
            seconds.append(time.process_time() - start)
        columns = {name: np.asarray(getattr(table[name], "value", table[name])) for name in table.colnames}
        path.with_suffix(".result").write_bytes(pickle.dumps((min(seconds[1:]), columns)))


def run(root, folder, precision, repeat):
    """Measure with the package in a folder; gives seconds and columns by label."""
    environment = {**os.environ, "PYTHONPATH": str(root)}
    words = [sys.executable, str(HERE), "--measure", str(folder), "--precision", precision, "--repeat", str(repeat)]
    subprocess.run(words, env=environment, check=True)
    return {path.stem: pickle.loads(path.read_bytes()) for path in sorted(folder.glob("*.result"))}


def unpack(revision, folder):
    """Write the package as it was at a revision."""
    archive = folder / "package.tar"
    words = ["git", "archive", "-o", str(archive), revision, "galmeasure"]
    subprocess.run(words, cwd=HERE.parent.parent, check=True)
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")


def differences(old, new):
    """Absolute differences of each column of numbers, in its own unit of error."""
    for name, before in old.items():
        if before.dtype.kind != "f":
            continue
        error = old.get(f"{name.rsplit('_', 1)[0]}_err", old.get(f"{name}_err"))
        if name == "chi2_reduced":
            error = np.sqrt(2.0 / np.maximum(old["n_pixels_fit"], 1))
        elif name.endswith("_err"):
            error = before
        change = np.abs(new[name] - before)
        change = np.minimum(change, 180.0 - change) if name == "theta" else change
        change = change if error is None else change / error
        yield name, change[np.isfinite(change)]


@click.command(help=__doc__)
@click.argument("revision", default="HEAD")
@click.option("--rows", default=2048, show_default=True, help="Galaxies.")
@click.option("--repeat", default=2, show_default=True, help="Runs in each process.")
@click.option("--turns", default=2, show_default=True, help="Processes of each revision.")
@click.option("--precision", default="float32", show_default=True, help="Of the network.")
@click.option("--seed", default=5, show_default=True, help="Seed of the stamps.")
@click.option("--measure", "folder", type=click.Path(path_type=Path), hidden=True)
@click.option("--output", type=click.Path(path_type=Path), help="Folder of the tables.")
def main(revision, rows, repeat, turns, precision, seed, folder, output):
    """Compare, or measure for a comparison."""
    if folder is not None:
        measure(folder, precision, repeat)
        return
    fastest, columns = {}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        unpack(revision, folder)
        write_stamps(folder, rows, seed)
        for _ in range(turns):
            for which, root in (("old", folder), ("new", HERE.parent.parent)):
                for label, (seconds, found) in run(root, folder, precision, repeat).items():
                    fastest[label, which] = min(seconds, fastest.get((label, which), np.inf))
                    columns[label, which] = found
    meta = metadata(1, other=revision, rows=rows, repeat=repeat, turns=turns, precision=precision, seed=seed)
    rates, moved = [], []
    for label in PSFS:
        old, new = (columns[label, which] for which in ("old", "new"))
        before, after = (rows / fastest[label, which] for which in ("old", "new"))
        rates.append((label, before, after, after / before, np.mean(old["flags"] != new["flags"])))
        for name, change in differences(old, new):
            moved.append((label, name, np.median(change), np.quantile(change, 0.99), change.max()))
    names = ("psfs", "old_per_cpu_second", "new_per_cpu_second", "ratio", "flags_differ")
    title = f"The default against that of revision {revision}"
    report("compare_revisions", Table(rows=rates, names=names), meta, title=title, output=output)
    names = ("psfs", "column", "median", "percentile_99", "largest")
    report("compare_revisions_columns", Table(rows=moved, names=names), meta, title=title, output=output)


if __name__ == "__main__":
    main()
