"""Fingerprint of a run: everything on which the rows of its table depend, so that only the same run is gone on with.

Files are known by their content up to 64 MB. Beyond that, reading them twice would cost what measuring costs, and
their size, the time of their last change and 64 samples of their content stand for it: a file that was written to in
the meantime differs in the time, one that was exchanged differs in the samples.
"""

import hashlib
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from galmeasure.fitters.registry import FitterSpec
from galmeasure.io import ReadOptions
from galmeasure.utils.compiled import is_compiled

__all__ = ["file_digest", "fingerprint", "processor_kind", "versions"]

WHOLE_BYTES = 2**26
"""Size of a file up to which all of its content is read."""

N_SAMPLES = 64
SAMPLE_BYTES = 2**16


def fingerprint(
    catalog: str | os.PathLike | None, reading: ReadOptions, fitter: FitterSpec, **others: Any
) -> dict[str, Any]:
    """Fingerprint of a run, as JSON has it.

    Parameters
    ----------
    catalog : path-like or None
        File that is measured.
    reading : ReadOptions
        Options with which it is read; files among them are known by their content.
    fitter : FitterSpec
        Estimator and its arguments.
    **others
        Further settings on which the table depends, by their names.

    Returns
    -------
    dict of str to str
        One entry per option that is not None, named as users know it.
    """
    entries = {"catalogue": _about(catalog)}
    entries |= {_option(option.name): _about(getattr(reading, option.name)) for option in fields(reading)}
    entries["--method"] = f"{fitter.module}.{fitter.class_name}"
    entries |= {_option(name): _about(_weights_digest(name, value)) for name, value in fitter.arguments.items()}
    entries |= {_option(name): _about(value) for name, value in others.items()}
    return {name: value for name, value in entries.items() if value is not None} | versions()


def _option(name):
    """Option of the command with this name."""
    return f"--{name.replace('_', '-')}"


def versions() -> dict[str, str]:
    """Versions of the packages on which the last digits of the measurements depend.

    Returns
    -------
    dict of str to str
        One entry per package, named ``version of NAME``; that of numba is ``none`` where loops are not compiled.
    """
    import scipy
    import torch

    from galmeasure import __version__

    packages = {"galmeasure": __version__, "torch": torch.__version__, "numpy": np.__version__}
    packages["scipy"] = scipy.__version__
    packages["numba"] = version("numba") if is_compiled() else "none"
    return {f"version of {name}": str(number) for name, number in packages.items()}


def processor_kind() -> str:
    """Kind of the processor of this machine, on which the rounding of sums and of elementary functions depends.

    Returns
    -------
    str
        Name of its model where the system tells it, and the instructions that torch uses, for example
        ``"AMD EPYC 7B13, AVX2"``.
    """
    import torch

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.processor() or platform.machine()
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}"


def file_digest(path: str | os.PathLike) -> str:
    """Digest of a file, or of all the files in a folder.

    Parameters
    ----------
    path : path-like
        File or folder to be read.

    Returns
    -------
    str
        SHA-256 of the content of a small file; of size, time and samples of a large one.
    """
    path = Path(path)
    digest = hashlib.sha256()
    if path.is_dir():
        for entry in sorted(entry for entry in path.rglob("*") if entry.is_file()):
            digest.update(f"{entry.relative_to(path)} {file_digest(entry)}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        digest.update(f"{status.st_size}".encode())
        if status.st_size <= WHOLE_BYTES:
            while block := file.read(2**20):
                digest.update(block)
            return digest.hexdigest()
        digest.update(f" {status.st_mtime_ns}".encode())
        for place in np.linspace(0, status.st_size - SAMPLE_BYTES, N_SAMPLES).astype(np.int64).tolist():
            file.seek(place)
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _weights_digest(name, value):
    """Digest of weights that are given by a name or a file; any other value as it is."""
    if name == "weights" and isinstance(value, str):
        from galmeasure.weights.registry import find_weights

        return find_weights(value, "weights").sha256
    return value


def _about(value):
    """Text that differs where a value does; that of a file has its content in it."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, np.ndarray):
        return f"array {value.dtype} {value.shape} {hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
    if isinstance(value, FitterSpec):
        return {"class": value.class_name, **_about(dict(value.arguments))}
    if isinstance(value, Mapping):
        return {str(key): _about(entry) for key, entry in value.items()}
    if isinstance(value, str | os.PathLike):
        return _about_text(os.fspath(value))
    return repr(value)


def _about_text(text):
    """Content of the file that a text names, with the extension behind it; or the text."""
    match = re.fullmatch(r"(.+)(\[[^\[\]]+\])", text)
    for path, extension in ((text, ""), match.groups() if match else ("", "")):
        try:
            if path and Path(path).exists():
                return file_digest(path) + extension
        except OSError:
            continue
    return text
