"""Simulated galaxies: stamps on the fly, model galaxies in blank sky, and data sets drawn with GalSim."""

from galmeasure.utils.lazy import lazy_names

_EXPORTS = {
    "DATASETS": "galsim.config",
    "DatasetConfig": "galsim.config",
    "GalaxiesLike": "injection",
    "PSFKnowledge": "psf_knowledge",
    "SimulatedStamps": "stamps",
    "SimulationConfig": "stamps",
    "add_galaxies": "injection",
    "draw_psfs": "psfs",
    "galaxies_of_prior": "injection",
    "get_dataset_config": "galsim.config",
    "inject_galaxies": "injection",
    "make_dataset": "galsim.datasets",
    "read_dataset_config": "galsim.config",
    "simulate_cutouts": "cutouts",
    "simulate_stamps": "stamps",
}

__all__, __getattr__, __dir__ = lazy_names(__name__, _EXPORTS)
