"""Checks of what a command will write, before it computes: no input is written over, and the name can be written."""

import os
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from galmeasure.io.writers import check_folder
from galmeasure.plotting.figures import new_figure

__all__ = ["check_output", "refuse_inputs", "report_folder"]

INPUTS = ("image", "psf", "error", "weight", "mask", "segmentation", "calibration", "weights", "like")
"""Options of the commands that may name a file to read."""


def refuse_inputs(output: str | PathLike, catalog: str | PathLike | None, inputs: Mapping[str, Any]) -> None:
    """Raise if an output is a file that is read, by whatever name, or lies in a folder that is read.

    Parameters
    ----------
    output : path-like
        File that is to be written.
    catalog : str or None
        The command's argument, a file or ``file.fits[NAME]``.
    inputs : mapping of str to object
        Values of options by their names; those of `INPUTS` may be files.

    Raises
    ------
    ValueError
        If it is an input; the message names the option.
    """
    files = {"catalogue": catalog} | {f"--{name}": inputs.get(name) for name in INPUTS}
    for name, given in files.items():
        if not isinstance(given, str | os.PathLike):
            continue
        for source in {Path(given), Path(re.sub(r"\[[^\[\]]*\]$", "", str(given)))}:
            if _is_same(Path(output), source):
                what = "the catalogue itself" if name == "catalogue" else f"the file of {name}"
                msg = f"output must not be {what}, {output}"
                raise ValueError(msg)


def _is_same(output, source):
    """Whether two paths lead to one file, or the first into the folder that is the second."""
    try:
        if not source.exists():
            return False
        real, output_real = source.resolve(), output.resolve()
        if source.is_dir() and real in output_real.parents:
            return True
        return real == output_real or (output.exists() and output.samefile(source))
    except OSError:  # such as a name that is too long, which is refused elsewhere
        return False


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raise if a file could not be written later.

    Parameters
    ----------
    path : Path
        File that is to be written.
    overwrite : bool
        Whether one that is there may be replaced.

    Raises
    ------
    ValueError
        If the file is there and may not be replaced, its name is too long, or its folder cannot be written to.
    """
    try:
        if path.is_dir():
            msg = f"output: {path} is a folder"
            raise ValueError(msg)
        if not path.parent.is_dir():
            msg = f"output: there is no folder {path.parent}"
            raise ValueError(msg)
        check_folder(path)
    except OSError as err:
        msg = f"output: {err}"
        raise ValueError(msg) from err
    if os.path.lexists(path) and not overwrite:
        msg = f"output: {path} exists already; give another name, or --overwrite"
        raise ValueError(msg)


def report_folder(report: str | PathLike, *, overwrite: bool) -> Path:
    """Check the folder of a report before the work, and that matplotlib can be imported.

    Parameters
    ----------
    report : path-like
        Folder that is to be written.
    overwrite : bool
        Whether it may hold files already.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    ValueError
        If it is a file, or not empty and must not be overwritten.
    ImportError
        If matplotlib is not installed.
    """
    folder = Path(report)
    if folder.exists() and not folder.is_dir():
        msg = f"report must be a folder, and {folder} is a file"
        raise ValueError(msg)
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        msg = f"report: the folder {folder} is not empty; give another folder, or --overwrite"
        raise ValueError(msg)
    new_figure(1, 1)
    return folder
