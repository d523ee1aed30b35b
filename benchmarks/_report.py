"""What all benchmarks report alike: a plain table, its file, versions, machine, date and revision."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("galmeasure", "numpy", "scipy", "astropy", "torch", "galsim")


def _command(*words):
    try:
        done = subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def revision():
    """Git revision of this checkout, with a plus when tracked files of the package differ from it."""
    changed = _command("git", "status", "--porcelain", "--untracked-files=no", "--", "../galmeasure")
    return (_command("git", "rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


def cpu_name():
    """Model name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions(*names):
    """Versions of the installed ones of some packages."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def metadata(n_cores, extra_packages=(), **more):
    """Return what a result needs to be read later."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "revision": revision(),
        "python": platform.python_version(),
        "versions": versions(*_PACKAGES, *extra_packages),
        "cpu": cpu_name(),
        "n_cores": n_cores,
        **more,
    }


def report(name, table, meta, *, title="", formats=None, output=None):
    """Print a table and write it.

    Parameters
    ----------
    name : str
        Of the result file, without extension.
    table : `~astropy.table.Table`
        The result.
    meta : dict
        From `metadata`.
    title : str, optional
        Line above the printed table.
    formats : dict, optional
        Column name to format; ``".4g"`` for floats that are not named.
    output : Path, optional
        Folder, ``benchmarks/results`` by default.
    """
    table = table.copy()
    for column in table.colnames:
        if table[column].dtype.kind == "f":
            table[column].info.format = (formats or {}).get(column, ".4g")
    table.meta = {"title": title, **meta}
    folder = RESULTS if output is None else Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.ecsv"
    table.write(path, format="ascii.ecsv", overwrite=True)
    print(f"\n{title or name}")
    print("\n".join(table.pformat(max_lines=-1, max_width=-1)))
    print(f"-> {path}")
