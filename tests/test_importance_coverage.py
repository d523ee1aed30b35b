"""Coverage of exact posteriors on galaxies of the default weights' prior, whose PSF images are right."""

from dataclasses import replace

import numpy as np
import pytest
from _agreement import plain

from galmeasure import Flag, NeuralSersicFitter
from galmeasure.training import PSFKnowledge, SimulationConfig, simulate_cutouts

NAMES = ("flux", "n", "r_eff", "g1", "g2")
COUNT = 300


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["galaxies", "survey"])
def test_exact_posteriors_hold_the_truth(prior):
    """In the mean, and above S/N 100, where a PSF image that contradicts the truth would show."""
    clean = replace(
        SimulationConfig(), prior=prior, psf_knowledge=PSFKnowledge.perfect(), neighbours=0.0, background=0.0,
        total_error=0.0, small_stamps=0.0,
    )  # fmt: skip
    cutouts, truth = next(simulate_cutouts(clean, COUNT, seed=77, chunk=COUNT))
    table = NeuralSersicFitter(refine="importance", prior=prior).fit(cutouts)
    good = (np.asarray(table["flags"]) & int(Flag.POOR_PROPOSAL)) == 0
    assert good.mean() > 0.9
    low, high = (np.stack([plain(table[f"{name}_{end}"]) for name in NAMES], 1) for end in ("q16", "q84"))
    inside = (truth[:, :5] > low) & (truth[:, :5] < high)
    for rows in (good, good & (np.asarray(table["snr"]) > 100.0)):
        allowed = 4.0 * np.sqrt(0.683 * 0.317 / rows.sum())
        np.testing.assert_allclose(inside[rows].mean(0), 0.683, atol=allowed)
        np.testing.assert_allclose(inside[rows].mean(), 0.683, atol=0.7 * allowed)
