"""The benchmark of two files of weights compares them on the same stamps."""

from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from click.testing import CliRunner

pytest.importorskip("galsim")

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    """Module of the benchmark, which sets the number of threads of the environment where it is imported."""
    patch = pytest.MonkeyPatch()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        patch.setenv(name, "1")
    patch.syspath_prepend(str(BENCHMARKS))
    import compare_weights

    yield compare_weights
    patch.undo()


def test_ratio_of_medians_and_its_error(benchmark):
    rng = np.random.default_rng(5)
    first, second = 0.8 * rng.normal(size=4000), rng.normal(size=4000)
    first[:3] = np.nan
    *medians, ratio, error, count = benchmark.ratio(np.median, first, second)
    assert count == 3997
    assert ratio == medians[0] / medians[1]
    assert ratio == pytest.approx(0.8, abs=4 * error)
    assert 0.005 < error < 0.04
    assert benchmark.ratio(np.median, second, second)[2:4] == (1.0, 0.0)


def test_difference_of_densities_where_both_are_finite(benchmark):
    first, second = np.array([1.0, 2.0, 4.0, -np.inf]), np.array([0.0, 2.0, 3.0, 1.0])
    *_, difference, error, count = benchmark.density_difference(first, second)
    assert (difference, count) == (pytest.approx(2 / 3), 3)
    assert error == pytest.approx(np.std([1, 0, 1], ddof=1) / np.sqrt(3))


def test_runs_on_a_few_stamps(benchmark, tmp_path):
    arguments = ["survey-v3-fast", "survey-v3", "--size", "8", "--output", str(tmp_path)]
    result = CliRunner().invoke(benchmark.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    table = Table.read(tmp_path / "compare_weights_survey-v3-fast_survey-v3.ecsv")
    assert len(table) == 30
    assert table.meta["a"].startswith("survey-v3-fast ")
    assert np.isfinite(table["value"]).all()
    refused = CliRunner().invoke(benchmark.main, ["study-v2", "study-v2"])
    assert refused.exit_code == 2
    assert "must be different weights" in refused.output
