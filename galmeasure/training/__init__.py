"""What it takes to train networks: simulated stamps on the fly, and reference data sets drawn with GalSim."""

from importlib import import_module

_EXPORTS = {
    "DATASETS": "dataset_config",
    "DatasetConfig": "dataset_config",
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

__all__ = sorted(_EXPORTS)


def __getattr__(name):
    """Import a public name when it is first asked for."""
    if name not in _EXPORTS:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    """Public names, those not yet imported included."""
    return sorted({*globals(), *__all__})
