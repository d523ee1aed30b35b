"""The ring tests of the shear: their drawings, their sums, and the survey of all estimators."""

from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from click.testing import CliRunner

pytest.importorskip("galsim")

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def rings(monkeypatch):
    """Module of the ring test."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import _ring_test

    return _ring_test


def test_turned_galaxies(rings):
    """Drawing turned parameters is the same as turning the image, as the ring test relies on."""
    from _instruments import draw, instruments

    truth = np.array([[1.0, 1.25, 3.0, 0.2, -0.1, 31.8, 31.3]])
    instrument = instruments()["LSST"]
    turned = draw(instrument, rings.turn(truth), shear=(-0.02, 0.0))
    image = np.rot90(draw(instrument, truth, shear=(0.02, 0.0)), -1, (1, 2))
    assert np.allclose(turned, image, atol=1e-5 * image.max())


def test_sheared_ellipticity_is_that_of_galsim(rings):
    import galsim

    total = galsim.Shear(g1=0.02) + galsim.Shear(g1=0.3, g2=-0.2)
    found = rings.sheared(np.array([0.3 - 0.2j]), 0.02)
    assert np.allclose(found, [[total.g1, total.g2]], atol=1e-6)


def test_shear_bias_of_known_errors(rings):
    rng, draws = np.random.default_rng(1), 4
    errors = np.zeros((80, 2, 2, 2))
    errors[:, 0, :, 0] = 0.01 * 0.02 + 0.003  # m = 0.01, c1 = 0.003
    errors[:, 1, :, 0] = -0.01 * 0.02 + 0.003
    errors[..., 1] = -0.001
    missing, m, m_err, c1, _, c2, _ = rings.shear_bias(errors, draws, rng)
    assert missing == 0
    assert np.allclose([m, c1, c2], [0.01, 0.003, -0.001])
    assert m_err < 1e-12


def test_a_perfect_estimator_has_no_bias_and_a_wrong_one_its_own(rings, tmp_path):
    """Answers that are the truth times 1.05 plus 0.002: these numbers come out, at any phase of the pixel."""
    from _instruments import instruments

    drawn = rings.draw_rings(instruments()["LSST"], 2, np.random.default_rng(1), phase=(0.5, 0.0), cache=tmp_path)
    draws = 2
    truth = np.repeat(drawn.true_shear, draws, 0).reshape(-1, 2)

    class Answer:
        def __init__(self, shear):
            self.values = np.zeros((len(shear), 7))
            self.values[:, 3:5] = shear

    def fit(images, psf, psf_flux):
        assert len(images) == len(truth)
        return {"perfect": Answer(truth), "wrong": Answer(1.05 * truth + 0.002)}

    errors = rings.ring_test(fit, drawn, draws, 50.0, np.random.default_rng(2))
    _, m, _, c1, _, c2, _ = rings.shear_bias(errors["perfect"], draws, np.random.default_rng(3))
    assert np.allclose([m, c1, c2], 0.0, atol=1e-12)
    _, m, _, c1, _, c2, _ = rings.shear_bias(errors["wrong"], draws, np.random.default_rng(3))
    assert np.allclose([m, c1, c2], [0.05, 0.002, 0.002], atol=2e-3)  # a pair does not cancel to second order


@pytest.mark.slow
def test_survey_of_estimators(rings, tmp_path, monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    import shear

    result = CliRunner().invoke(
        shear.main, ["--pairs", "8", "--output", str(tmp_path), "--cache", str(tmp_path)], catch_exceptions=False
    )
    assert result.exit_code == 0
    table = Table.read(tmp_path / "shear.ecsv")
    assert set(table["estimator"]) == set(shear.estimators())
    assert len(Table.read(tmp_path / "shear_phase.ecsv")) == 2 * len(shear.PHASES)
