"""Data sets drawn with GalSim, the reference: many processes, the same rows, resumable, one FITS file."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from galmeasure.simulation.galsim.config import DatasetConfig, get_dataset_config
from galmeasure.simulation.galsim.dataset_file import DatasetFile
from galmeasure.simulation.galsim.draw import BLOCK_ROWS, block_rows, import_galsim
from galmeasure.utils.processes import count_jobs, leave_with_parent, n_cores

if TYPE_CHECKING:
    from os import PathLike

__all__ = ["make_dataset"]


def make_dataset(
    path: str | PathLike,
    config: DatasetConfig | str,
    size: int,
    *,
    seed: int = 0,
    n_jobs: int = 1,
    noiseless: bool = False,
    overwrite: bool = False,
    progress_bar: bool = False,
) -> Path:
    """Simulate a data set and write it as a FITS table of cutouts.

    Parameters
    ----------
    path : path-like
        File to write, ending in .fits.
    config : DatasetConfig or str
        Configuration, or the name of one of the study's, see :data:`~galmeasure.training.DATASETS`.
    size : int
        Number of galaxies to draw.
    seed : int, optional
        Seed of the random numbers. The rows depend on the configuration and the seed only, neither on ``n_jobs`` nor on
        ``size``: a smaller data set holds the first rows of a larger one.
    n_jobs : int, optional
        Number of processes; -1 for one per core. As with all of Python's processes that are spawned, a script that
        asks for more than one needs ``if __name__ == "__main__":``.
    noiseless : bool, optional
        True to write the stamps without noise too, as a column ``noiseless``.
    overwrite : bool, optional
        True if an existing file may be replaced. Default False.
    progress_bar : bool, optional
        True to show a progress bar on standard error. Default False.

    Returns
    -------
    Path
        Path of the file.

    Raises
    ------
    FileExistsError
        If the file exists and may not be replaced.
    ImportError
        If GalSim is not installed.
    ValueError, TypeError
        If an argument is wrong, no galaxy passes the cut in S/N, or ``path.partial`` holds rows of another
        configuration.

    Notes
    -----
    A galaxy is GalSim's ``Sersic(n, half_light_radius=r_eff).withFlux(flux).shear(g1=g1, g2=g2)``, convolved with the
    PSF and drawn with GalSim's own default accuracy. Its pixels get Poisson noise (of pixels times gain) and Gaussian
    noise sigma. Columns: ``id``, ``cutout``, ``error`` (the Gaussian noise; with the keyword ``GAIN`` shot noise is
    added when the table is measured), ``psf`` where it varies, else an extension ``PSF`` (both with the pixel), and
    ``true_flux``, ``true_n``, ``true_r_eff`` (arcsec), ``true_g1``, ``true_g2``, ``true_x``, ``true_y``,
    ``true_snr`` (over the Gaussian noise: the quantity of the cut), ``true_snr_total`` (with shot noise, as the column
    ``snr`` of a result), ``true_psf_fwhm`` (arcsec) and ``true_sigma``. The header has the seed (``SIMSEED``) and the
    configuration (``SIMCONF``, JSON).

    The rows are written to ``path.partial``, which is renamed at the end. A run that was stopped is continued by the
    same call.

    Examples
    --------
    >>> from galmeasure import read_cutouts
    >>> from galmeasure.training import make_dataset
    >>> path = make_dataset("set.fits", "1", 3)  # doctest: +SKIP
    >>> len(read_cutouts(path))  # doctest: +SKIP
    3
    """
    config = _checked_config(config)
    for name, value, least in (("size", size, 1), ("seed", seed, 0)):
        _check_whole(name, value, least)
    _check_whole("n_jobs", n_jobs, -1)
    n_jobs = count_jobs(n_jobs, n_cores())
    import_galsim()
    with DatasetFile(path, config, seed, size, noiseless, overwrite) as file, _bar(file, progress_bar) as bar:
        tasks = [
            (config, seed, start // BLOCK_ROWS, min(BLOCK_ROWS, size - start), noiseless)
            for start in range(file.n_rows, size, BLOCK_ROWS)
        ]
        for rows in _blocks(tasks, min(n_jobs, len(tasks))):
            file.write(rows)
            bar.update(len(rows))
        file.finish()
    return Path(path)


def _checked_config(config):
    if isinstance(config, str):
        return get_dataset_config(config)
    if not isinstance(config, DatasetConfig):
        msg = f"config must be a DatasetConfig or the name of a data set, not {type(config).__name__}"
        raise TypeError(msg)
    return config


def _check_whole(name, value, least):
    if isinstance(value, bool) or not isinstance(value, int):
        msg = f"{name} must be a whole number, not {value!r}"
        raise TypeError(msg)
    if value < least:
        msg = f"{name} must be at least {least}, not {value}"
        raise ValueError(msg)


def _bar(file, shown):
    import sys

    from tqdm import tqdm

    return tqdm(
        total=file.size, initial=file.n_rows, unit="gal", file=sys.stderr, disable=not shown, dynamic_ncols=True
    )


def _blocks(tasks, n_jobs):
    """Rows of each task, in order; at most two blocks per process are under way."""
    if n_jobs <= 1:
        for task in tasks:
            yield block_rows(*task)
        return
    pool = ProcessPoolExecutor(n_jobs, get_context("spawn"), initializer=leave_with_parent)
    waiting, tasks = deque(), deque(tasks)
    try:
        while tasks or waiting:
            while tasks and len(waiting) < 2 * n_jobs:
                waiting.append(pool.submit(block_rows, *tasks.popleft()))
            yield waiting[0].result()
            waiting.popleft()
    except BrokenProcessPool as err:
        msg = "n_jobs: a worker process has died (not enough memory?)"
        raise ValueError(msg) from err
    finally:
        workers = list((pool._processes or {}).values()) if waiting else []
        pool.shutdown(wait=not waiting, cancel_futures=True)
        for worker in workers:  # nobody waits for their rows any more
            worker.terminate()
