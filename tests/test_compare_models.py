"""The benchmark of all models resumes, and knows what each model is for."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.table import Table
from click.testing import CliRunner

pytest.importorskip("galsim")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def benchmark():
    """Module of the benchmark, which sets the number of threads of the environment where it is imported."""
    patch = pytest.MonkeyPatch()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        patch.setenv(name, "1")
    patch.syspath_prepend(str(ROOT / "benchmarks"))
    import compare_models

    yield compare_models
    patch.undo()


@pytest.fixture(scope="module")
def runner(benchmark, tmp_path_factory):
    """Function that runs the benchmark and gives its output and its two tables."""
    folder = tmp_path_factory.mktemp("compare")

    def run(*words):
        small = ["--models", "study-v2", "--size", "5", "--draws", "3", "--cost-size", "3", "--cache", str(folder)]
        arguments = [*small, "--output", str(folder), *words]
        result = CliRunner().invoke(benchmark.main, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output, *(Table.read(folder / f"compare_models{end}.ecsv") for end in ("", "_cost"))

    run.folder = folder
    return run


def test_measures_once_and_resumes(runner):
    output, table, cost = runner("--sets", "1")
    assert "study-v2, set 1: measured" in output
    rows = table[(table["model"] == "study-v2") & (table["set"] == "1")]
    assert sorted(rows["parameter"]) == sorted(("flux", "n", "r_eff", "g1", "g2", "x", "y"))
    assert set(rows["measured"]) == {5}
    assert np.all((rows["rmse"] > 0) & (rows["rmse_error"] >= 0))
    assert 30 < cost["mflop"][0] < 40
    assert cost["galaxies_per_second"][0] > 0
    output, table, _ = runner("--sets", "1,reference-60")
    assert "study-v2, set 1: measured" not in output
    assert "study-v2, set reference-60: measured" in output
    assert np.sum(table["model"] == "study-v2") == 14
    output, table, _ = runner("--sets", "reference-60", "--draws", "4")
    assert "study-v2, set reference-60: measured" in output
    assert set(table["measured"][(table["model"] == "study-v2") & (table["set"] == "reference-60")]) == {4}
    assert "measured\n" in runner("--sets", "1", "--overwrite")[0]
    _, table, _ = runner("--sets", "1", "--size", "4")
    assert set(table["measured"][(table["model"] == "study-v2") & (table["set"] == "1")]) == {4}


def test_smaller_sets_are_the_first_rows_of_larger_ones(benchmark, runner):
    runner("--sets", "1")
    (path,) = runner.folder.glob("set1_*.fits")
    assert benchmark.drawn_file("1", 3, runner.folder) == path
    assert benchmark.drawn_file("1", 5, runner.folder) == path
    few, more = (benchmark.load_galaxies("1", size, runner.folder) for size in (3, 5))
    assert len(few.cutouts) == 3
    assert np.array_equal(few.truth, more.truth[:3])


def test_published_numbers_and_the_exact_posterior_stand_beside(runner):
    _, table, _ = runner("--sets", "1")
    xception = table[(table["model"] == "Xception CNN (published)") & (table["set"] == "3")]
    assert dict(zip(xception["parameter"], xception["rmse"], strict=True))["n"] == 0.975
    exact = table[table["model"] == "exact posterior"]
    assert {"3", "reference-60", "reference-30"} <= set(exact["set"])
    assert not any("baseline" in model for model in table["model"])


def test_a_network_measures_the_sets_of_its_card_only(benchmark):
    model = benchmark.Model("study-v2")
    names = list(benchmark.SEEDS)
    assert model.sets(names) == names
    expected = {"1": ["1", "reference-60"], "2": ["2", "reference-60", "reference-30"]}
    for name, sets in expected.items():
        model.weights = SimpleNamespace(card={"for_sets": [int(name)]})
        assert model.sets(names) == sets


def test_parameters_that_are_taken_as_known_have_no_rmse(benchmark):
    truth = np.ones((4, 7)) * [1.0, 2.0, 0.3, 0.1, 0.1, 31.5, 31.5]
    table = Table({f"{name}_fit": truth[:, i] * benchmark.UNITS[i] for i, name in enumerate(benchmark.PARAMETER_NAMES)})
    for name in benchmark.PARAMETER_NAMES:
        table[f"{name}_err"] = np.zeros(4) if name in ("x", "y") else np.ones(4)
    table["flux_fit"] += 5e4
    galaxies = SimpleNamespace(truth=truth, cutouts=np.zeros(4))
    errors, inside = benchmark.measure(SimpleNamespace(fit=lambda cutouts: table), galaxies)
    assert np.allclose(errors[:, 0], 0.5)
    assert np.isnan(errors[:, 5:]).all()
    assert inside[:, 1].all()
    statistics = benchmark.statistics(errors[:, 5], inside[:, 5], np.arange(4))
    assert statistics[0] == 0
    assert np.isnan(statistics[1:]).all()


def test_bootstrap_takes_galaxies_of_a_group_together(benchmark):
    squares = np.random.default_rng(3).exponential(size=100)
    alone = benchmark.rmse_error(squares, np.arange(100))
    repeated = benchmark.rmse_error(np.repeat(squares, 8), np.repeat(np.arange(100), 8))
    assert repeated == pytest.approx(alone, rel=1e-6)
    assert benchmark.rmse_error(np.repeat(squares, 8), np.arange(800)) < 0.6 * alone
