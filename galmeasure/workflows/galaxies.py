"""Galaxies of known parameters for ``galmeasure evaluate``: simulated, or of a file, and what is known of them."""

import dataclasses
from pathlib import Path

from astropy.table import QTable

from galmeasure.cutouts import Cutouts

__all__ = ["STUDY_SETS", "Galaxies", "find_galaxies", "read_galaxies", "simulate"]

STUDY_SETS = ("1", "2", "3")
_NOT_OF_THE_POPULATION = ("share_n", "psf_size", "psf_oversampling")
"""Options of a data set that change neither the galaxies nor their noise."""


@dataclasses.dataclass(frozen=True)
class Galaxies:
    """Source of galaxies of known parameters.

    Parameters
    ----------
    path : Path or None
        Their file; None if they are still to be simulated.
    study : str or None
        Set of the study that they are like, where they are.
    about : str
        A sentence on them.
    """

    path: Path | None
    study: str | None
    about: str


def find_galaxies(dataset: str, seed: int) -> Galaxies:
    """Galaxies of the option ``--dataset``; a file is only looked into.

    Parameters
    ----------
    dataset : str
        Name of a set of the study, or a file.
    seed : int
        With which a set is simulated.

    Returns
    -------
    Galaxies
        Where they come from.

    Raises
    ------
    ValueError
        If it is neither.
    CatalogError
        If the file has no true parameters.
    """
    if dataset in STUDY_SETS:
        return Galaxies(None, dataset, f"The galaxies are {_like(dataset)} (seed {seed}).{_centred(0.0)}")
    if not Path(dataset).is_file():
        msg = f"dataset must be one of {', '.join(STUDY_SETS)}, or a FITS file, not {dataset!r}"
        raise ValueError(msg)
    from galmeasure.io.truths import read_simulation

    config, seed = read_simulation(dataset)
    study = _study_set(config)
    about = f"The galaxies are those of {Path(dataset).name}"
    if study is not None:
        about += f", {_like(study)} (seed {seed})"
    return Galaxies(Path(dataset), study, f"{about}.{_centred(config.get('centre'))}")


def _like(study):
    return f"like those of the study's set {study}, drawn with GalSim"


def _centred(centre):
    return " They lie in the centre of their stamps, which the estimators are not told." if centre == 0.0 else ""


def _study_set(config):
    """Name of the study's set that a configuration of a file is of, or None."""
    from galmeasure.training import get_dataset_config

    def population(values):
        return {name: value for name, value in values.items() if name not in _NOT_OF_THE_POPULATION}

    return next((s for s in STUDY_SETS if population(get_dataset_config(s).to_dict()) == population(config)), None)


def simulate(path: Path, name: str, size: int, *, seed: int, n_jobs: int = 1, share_n: int = 1) -> Path:
    """Simulate galaxies like the study's; the file.

    Parameters
    ----------
    path : Path
        File that is written.
    name : str
        Name of the data set.
    size : int
        Number of galaxies to simulate.
    seed, n_jobs
        Seed of the random numbers and number of processes, see `galmeasure.training.make_dataset`.
    share_n : int, optional
        Galaxies in a row that share an index, see `galmeasure.training.DatasetConfig`.

    Returns
    -------
    Path
        The file.
    """
    from galmeasure.training import get_dataset_config, make_dataset

    config = get_dataset_config(name)
    if share_n > 1:
        config = dataclasses.replace(config, share_n=share_n)
    return make_dataset(path, config, size, seed=seed, n_jobs=n_jobs, noiseless=name in STUDY_SETS)


def read_galaxies(path: Path, size: int | None = None) -> tuple[Cutouts, QTable]:
    """Cutouts and truths of a file, or its first rows.

    Parameters
    ----------
    path : Path
        File with cutouts and their true parameters.
    size : int, optional
        Number of rows to read; all of them by default.

    Returns
    -------
    cutouts : Cutouts
        The galaxies.
    truth : `~astropy.table.QTable`
        Their parameters.

    Raises
    ------
    ValueError
        If there are fewer rows.
    """
    from galmeasure import read_cutouts
    from galmeasure.io.truths import read_truth

    truth, cutouts = read_truth(path), read_cutouts(path)
    if size is not None and size > len(truth):
        msg = f"size: there are {len(truth)} galaxies in {path}, fewer than {size}"
        raise ValueError(msg)
    return cutouts[: size or len(truth)], truth[: size or len(truth)]
