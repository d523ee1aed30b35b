"""Training of networks: simulated stamps on the fly, and reference data sets drawn with GalSim."""

from galmeasure.utils.lazy import lazy_names

_EXPORTS = {
    "DATASETS": "galmeasure.simulation.galsim.config",
    "DatasetConfig": "galmeasure.simulation.galsim.config",
    "PSFKnowledge": "galmeasure.simulation.psf_knowledge",
    "SearchResult": "search",
    "SearchSettings": "search",
    "SimulatedStamps": "galmeasure.simulation.stamps",
    "SimulationConfig": "galmeasure.simulation.stamps",
    "StampPool": "pool",
    "Trainer": "trainer",
    "TrainingConfig": "config",
    "draw_psfs": "galmeasure.simulation.psfs",
    "get_dataset_config": "galmeasure.simulation.galsim.config",
    "held_out_metrics": "trainer",
    "list_training_configs": "config",
    "make_dataset": "galmeasure.simulation.galsim.datasets",
    "read_dataset_config": "galmeasure.simulation.galsim.config",
    "read_training_config": "config",
    "search_architectures": "search",
    "simulate_cutouts": "galmeasure.simulation.cutouts",
    "simulate_stamps": "galmeasure.simulation.stamps",
    "train": "trainer",
    "write_training_config": "config",
}

__all__, __getattr__, __dir__ = lazy_names(__name__, _EXPORTS)
