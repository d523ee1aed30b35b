"""The benchmark of the default answer runs, and its drawings and judgements are right."""

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
    import default_answer

    yield default_answer
    patch.undo()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("stamps")


def run(benchmark, folder, cache, *words):
    """Run a subcommand; gives its tables by name."""
    options = ["--quick", "--output", str(folder), "--cache", str(cache)]
    result = CliRunner().invoke(benchmark.main, [*words, *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return {path.stem.removeprefix("default_"): Table.read(path) for path in folder.glob("default_*.ecsv")}


def test_offset(benchmark, tmp_path, cache):
    table = run(benchmark, tmp_path, cache, "offset", "--number", "3")["offset"]
    assert set(table["pixels"]) == set(benchmark.OFFSETS)
    central = table[table["pixels"] == 0]
    assert np.all(central["not_measured"] == 0)
    assert np.all(central["centre_median"] < 0.3)


def test_stars(benchmark, tmp_path, cache):
    table = run(benchmark, tmp_path, cache, "stars", "--number", "3")["stars"]
    assert len(table) == 3
    assert np.all(table["r_eff"] < 1.0)


def test_symmetry(benchmark, tmp_path, cache):
    table = run(benchmark, tmp_path, cache, "symmetry", "--number", "3", "--refine", "none")["symmetry"]
    assert "refine=None" in table.meta["fitter"]
    assert np.all(table["largest"][table["estimator"] == "lsq"] < 0.3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["populations", "prior", "psf_knowledge", "shear", "speed"])
def test_others_run(benchmark, tmp_path, cache, name):
    options = ["--pairs", "20"] if name == "shear" else ["--number", "6"]
    tables = run(benchmark, tmp_path, cache, name, *options)
    assert all(len(table) for table in tables.values())
    assert all(table.meta["title"] for table in tables.values())


def test_real_says_what_is_missing(benchmark, tmp_path):
    result = CliRunner().invoke(benchmark.main, ["real", str(tmp_path)])
    assert result.exit_code == 2
    assert "there is no G<id>fitim.fits" in result.output


def test_real_rows_count_within_limits(benchmark):
    lsq = Table({"mag": [16.0, 16.0], "q": [0.5, 0.5], "r_eff_fit": [2.0, 2.0], "n_fit": [1.0, 1.0],
                 "chi2_reduced": [1.0, 1.0], "snr": [100.0, 100.0], "flags": [0, 0]})  # fmt: skip
    table = lsq.copy()
    table["mag"] = [16.01, 16.1]
    table["flags"] = [0, 1]
    rows = benchmark.real_rows(["a", "b"], table, lsq)
    assert [row[9] for row in rows] == [1, 0]
    assert [row[10] for row in rows] == ["-", "failed"]


def test_views_are_undone(benchmark):
    """A Gaussian's centre and ellipticity, measured by moments, are the same after each flip and turn."""
    size = benchmark.SIZE
    y, x = np.mgrid[:size, :size]
    dx, dy = x - 30.0, y - 33.0
    image = np.exp(-0.5 * (dx**2 / 9.0 + dy**2 / 16.0 + 0.06 * dx * dy))

    def moments(image):
        x0, y0 = (image * x).sum() / image.sum(), (image * y).sum() / image.sum()
        xx, yy, xy = ((image * a * b).sum() for a, b in ((x - x0, x - x0), (y - y0, y - y0), (x - x0, y - y0)))
        return np.array([[1.0, 2.0, 3.0, (xx - yy) / (xx + yy), 2.0 * xy / (xx + yy), x0, y0]])

    expected = moments(image)
    for k in range(8):
        assert np.allclose(benchmark.unview(moments(benchmark.view(image[None], k)[0]), k), expected, atol=1e-6)


def test_coverage_and_pulls_of_gaussian_answers(benchmark):
    from _answer_statistics import Answer, statistics

    rng, count = np.random.default_rng(2), 4000
    truth = np.full((count, 7), 5.0)
    errors = np.full((count, 7), 0.5)
    values = truth + errors * rng.normal(size=truth.shape)
    other = np.zeros(count)
    exact = Answer(values, errors, values - errors, values + errors, other, other.astype(int), other)
    doubled = Answer(2 * values - truth, errors, 2 * values - truth, values, other, other.astype(int), other)
    from _answer_statistics import STATISTICS

    table = Table(rows=statistics(exact, doubled, truth, np.arange(count)), names=STATISTICS)
    assert np.allclose(table["inside"], 68.3, atol=3.0)
    assert np.allclose(table["pull_std"], 1.0, atol=0.05)
    assert np.allclose(table["pull_width_lsq"], 2.0, atol=0.1)
    assert np.allclose(table["ratio"], 0.5, atol=1e-6)
    assert np.all(np.abs(table["bias"]) < 4 * table["bias_err"] + 1e-9)


def test_noiseless_stamps_are_kept(tmp_path, benchmark):
    from _instruments import draw, instruments

    truth = np.array([[1.0, 1.0, 2.0, 0.1, 0.0, 31.5, 31.5]])
    first = draw(instruments()["LSST"], truth, cache=tmp_path)
    (path,) = tmp_path.glob("*.npy")
    np.save(path, first + 1.0)
    assert np.allclose(draw(instruments()["LSST"], truth, cache=tmp_path), first + 1.0)
    draw(instruments()["DECam"], truth, cache=tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 2
