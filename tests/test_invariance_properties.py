"""Properties of both estimators and of the shapes, for inputs that hypothesis chooses; threads and processes."""

import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from _agreement import plain
from _galaxies import draw, gaussian_psf, mixed_parameters
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from galmeasure import LSQSersicFitter, NeuralSersicFitter
from galmeasure.parameters import PARAMETER_NAMES, g_from_q_theta, g_to_q_theta

SIDE, SIGMA = 32, 1.0
PSF = gaussian_psf(25, 2.6)
COUNT = 12
FITTERS = {"lsq": LSQSersicFitter(), "neural": NeuralSersicFitter()}

seeded = settings(
    derandomize=True, database=None, deadline=None, max_examples=5, suppress_health_check=list(HealthCheck)
)
many = settings(seeded, max_examples=200)
estimator = pytest.mark.parametrize("name", FITTERS)


@pytest.fixture(scope="module")
def images():
    """Galaxies of many kinds with noise."""
    rng = np.random.default_rng(31)
    return draw((SIDE, SIDE), PSF, mixed_parameters(COUNT, (SIDE, SIDE), rng)) + rng.normal(
        0, SIGMA, (COUNT, SIDE, SIDE)
    )


@pytest.fixture(scope="module")
def expected(images):
    """Tables of both estimators."""
    return {name: fitter.fit(images, PSF, error=SIGMA) for name, fitter in FITTERS.items()}


def columns(table, kind="fit"):
    """Values of all parameters, shape (N, 7)."""
    return np.stack([plain(table[f"{name}_{kind}"]) for name in PARAMETER_NAMES], 1)


def offset(table, reference):
    """Largest difference of each row in units of its error."""
    return np.nanmax(np.abs(columns(table) - columns(reference)) / columns(reference, "err"), axis=1)


# Shapes


@many
@given(st.floats(0.001, 1.0), st.floats(0.0, 179.999))
def test_shear_of_axis_ratio_and_angle_and_back(q, theta):
    again, angle = g_to_q_theta(*g_from_q_theta(q, theta))
    assert np.isclose(again, q, rtol=1e-9)
    if q < 0.999:
        assert np.isclose((angle - theta + 90.0) % 180.0, 90.0, atol=1e-5)


@many
@given(st.floats(-0.999, 0.999), st.floats(-0.999, 0.999))
def test_axis_ratio_of_shear_and_back(g1, g2):
    if np.hypot(g1, g2) < 0.999:
        assert np.allclose(g_from_q_theta(*g_to_q_theta(g1, g2)), (g1, g2), atol=1e-9)


# Units, order and batches


@estimator
@seeded
@given(exponent=st.integers(-30, 30))
def test_unit_of_the_flux(images, expected, name, exponent):
    """Pixels, errors and the flux have one factor, from 1e-30 to 1e30; nothing else changes."""
    factor = 10.0**exponent
    table = FITTERS[name].fit(factor * images, PSF, error=factor * SIGMA)
    table["flux_fit"] = table["flux_fit"] / factor
    assert offset(table, expected[name]).max() < 1e-2
    assert np.array_equal(table["flags"], expected[name]["flags"])


@estimator
@seeded
@given(scale=st.floats(1e-4, 1e4))
def test_pixel_scale(images, expected, name, scale):
    table = FITTERS[name].fit(images, PSF, error=SIGMA, pixel_scale=scale)
    assert str(table["r_eff_fit"].unit) == "arcsec"
    np.testing.assert_allclose(plain(table["r_eff_fit"]), scale * plain(expected[name]["r_eff_fit"]), rtol=1e-6)
    np.testing.assert_allclose(plain(table["n_fit"]), plain(expected[name]["n_fit"]), rtol=1e-6)


@estimator
@seeded
@given(rows=st.permutations(range(COUNT)), size=st.integers(1, COUNT), batch=st.integers(1, COUNT + 1))
def test_rows_in_any_order_number_and_batch(images, expected, name, rows, size, batch):
    """Rows of a part of the stamps, in any order and in batches of any size, are those of all stamps."""
    rows = list(rows)[:size]
    fitter = type(FITTERS[name])(batch_size=batch)
    table = fitter.fit(images[rows], PSF, error=SIGMA)
    assert offset(table, expected[name][rows]).max() < 2e-3
    assert np.array_equal(table["flags"], expected[name]["flags"][rows])


@estimator
@seeded
@given(transposed=st.booleans(), flip_x=st.booleans(), flip_y=st.booleans())
def test_flips_and_turns(images, expected, name, transposed, flip_x, flip_y):
    """One of the eight flips and turns: shapes follow, within 0.05 errors for least squares and one for the network."""
    moved = images.transpose(0, 2, 1) if transposed else images
    moved = moved[:, :, ::-1] if flip_x else moved
    moved = moved[:, ::-1] if flip_y else moved
    table = FITTERS[name].fit(np.ascontiguousarray(moved), PSF, error=SIGMA)
    if flip_x != flip_y:
        table["g2_fit"] = -table["g2_fit"]
    x, y = plain(table["x_fit"]), plain(table["y_fit"])
    x, y = (SIDE - 1 - x if flip_x else x), (SIDE - 1 - y if flip_y else y)
    table["x_fit"], table["y_fit"] = (y, x) if transposed else (x, y)
    if transposed:
        table["g1_fit"] = -table["g1_fit"]
    assert np.median(offset(table, expected[name])) < (0.05 if name == "lsq" else 1.0)


# Threads and processes


def fit_one(fitter, images):
    """Parameters of stamps, for a process of its own."""
    return columns(fitter.fit(images, PSF, error=SIGMA))


@estimator
def test_one_fitter_in_eight_threads(images, expected, name):
    """Eight threads share one fitter and one set of stamps: each has the same bits."""
    reference = fit_one(FITTERS[name], images)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: fit_one(FITTERS[name], images), range(8)))
    assert all(np.array_equal(result, reference, equal_nan=True) for result in results)


@estimator
def test_a_process_that_is_spawned(images, name):
    """A fitter that went through pickle into a new process: the same bits."""
    again = pickle.loads(pickle.dumps(FITTERS[name]))
    assert np.array_equal(fit_one(again, images), fit_one(FITTERS[name], images), equal_nan=True)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        result = pool.submit(fit_one, FITTERS[name], images).result()
    assert np.array_equal(result, fit_one(FITTERS[name], images), equal_nan=True)


@estimator
def test_a_process_that_is_forked(tmp_path, images, name):
    """A program that fits, forks, and fits again in the child: the same bits, and no deadlock."""
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system does not fork")
    np.save(tmp_path / "images.npy", images)
    program = f"""
import multiprocessing, warnings, sys
warnings.simplefilter("ignore")
sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy as np
from test_invariance_properties import FITTERS, fit_one
images = np.load({str(tmp_path / "images.npy")!r})
before = fit_one(FITTERS[{name!r}], images)
with multiprocessing.get_context("fork").Pool(1) as pool:
    inside = pool.apply(fit_one, (FITTERS[{name!r}], images))
assert np.array_equal(before, inside, equal_nan=True)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)
