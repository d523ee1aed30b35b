"""Every shipped network does what its card says, and measures the demo catalogue from the command line."""

import numpy as np
import pytest
import torch
from astropy.table import Table

from galmeasure import list_weights
from galmeasure.cli import main
from galmeasure.networks import StampInputs
from galmeasure.parameters import PARAMETER_NAMES
from galmeasure.simulation.stamps import simulate_stamps
from galmeasure.training import held_out_metrics
from galmeasure.training.config import list_training_configs, read_training_config, simulation_from_dict
from galmeasure.training.pool import training_psfs
from galmeasure.weights import load_network

SHIPPED = list_weights()
STAMPS, STAMPS_OF_DROPOUT = 768, 256  # which looks at each of them many times


@pytest.mark.parametrize("weights", SHIPPED, ids=lambda weights: weights.name)
def test_metrics_of_the_card(weights):
    """The median errors of other stamps of the same simulation, which are known to about 6 %."""
    network, generator = load_network(weights), torch.Generator().manual_seed(90210)
    count = STAMPS_OF_DROPOUT if "dropout" in weights.name else STAMPS
    stamps = simulate_stamps(simulation_from_dict(weights.card["simulation"]), count, generator=generator)
    psf, quality = training_psfs(stamps.psf_images, network.config.clean_psf)
    inputs = StampInputs(stamps.image, stamps.error, stamps.good, stamps.gain, psf, stamps.psf_index, quality)
    metrics, card = held_out_metrics(network, [(inputs, stamps.parameters)]), weights.card["metrics"]
    names = [name for name in PARAMETER_NAMES if name not in network.held]
    assert set(card["median_error"]) == set(names)
    for name in names:
        assert metrics["median_error"][name] == pytest.approx(card["median_error"][name], rel=0.25), name
        assert metrics["coverage_68"][name] == pytest.approx(card["coverage_68"][name], abs=0.08), name


@pytest.mark.parametrize("weights", SHIPPED, ids=lambda weights: weights.name)
def test_demo_catalogue(weights, tmp_path):
    with pytest.raises(SystemExit) as end:
        main(["examples/demo_catalog.fits", "--weights", weights.name, "-o", str(tmp_path / "out.ecsv")])
    assert end.value.code == 0
    table = Table.read(tmp_path / "out.ecsv")
    assert np.isfinite(np.asarray(table["flux_fit"])).mean() > 0.8
    assert table.meta["WEIGHTS"] == weights.name


@pytest.mark.parametrize("weights", SHIPPED, ids=lambda weights: weights.name)
def test_configuration_of_the_weights(weights):
    """Shipped as well, and that of the card."""
    assert weights.name in list_training_configs()
    config = read_training_config(weights.name)
    assert config.network == weights.config
    assert config.description == weights.card["description"]
    card = weights.card["training"]
    assert card["start"] == (list(config.start) if isinstance(config.start, tuple) else config.start)
    assert card["seed"] == config.seed
