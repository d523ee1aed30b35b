"""What it takes to train networks: simulated stamps on the fly, and reference data sets drawn with GalSim."""

from galmeasure._lazy import lazy_names

_EXPORTS = {
    "DATASETS": "dataset_config",
    "DatasetConfig": "dataset_config",
    "PSFKnowledge": "psf_knowledge",
    "SimulatedStamps": "simulate",
    "SimulationConfig": "simulate",
    "StampPool": "pool",
    "Trainer": "trainer",
    "TrainingConfig": "config",
    "draw_psfs": "psfs",
    "get_dataset_config": "dataset_config",
    "held_out_metrics": "trainer",
    "list_training_configs": "config",
    "make_dataset": "datasets",
    "read_dataset_config": "dataset_config",
    "read_training_config": "config",
    "simulate_cutouts": "cutouts",
    "simulate_stamps": "simulate",
    "train": "trainer",
}

__all__, __getattr__, __dir__ = lazy_names(__name__, _EXPORTS)
