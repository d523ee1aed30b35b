"""The benchmark of the baseline fit predicts what a noise image in the model does."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from astropy.table import Table

from galmeasure.parameters import PARAMETER_INDEX, PARAMETER_NAMES
from galmeasure.render import prepare_psf, render_sersic

pytest.importorskip("galsim")

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TRUTH = np.array([[1e5, 1.5, 1.6, 0.1, -0.2, 31.5, 31.5]])


@pytest.fixture(scope="module")
def benchmark():
    """Module of the benchmark, which sets the number of threads of the environment where it is imported."""
    patch = pytest.MonkeyPatch()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        patch.setenv(name, "1")
    patch.syspath_prepend(str(BENCHMARKS))
    import baseline_fit

    yield baseline_fit
    patch.undo()


@pytest.fixture(scope="module")
def psf(benchmark):
    """Image of the study's narrowest PSF, oversampled."""
    from _study_galaxies import OVERSAMPLING, draw_psf, moffat

    return draw_psf(moffat(0.5), oversampling=OVERSAMPLING)


def test_an_image_like_a_derivative_is_taken_up_by_its_parameter(benchmark, psf):
    grid = prepare_psf(torch.from_numpy(psf)[None], (64, 64), oversampling=benchmark.OVERSAMPLING, dtype=torch.float64)
    model, jacobian = render_sersic(torch.from_numpy(TRUTH), grid, jacobian=True)
    noise = 0.01 * jacobian[0, PARAMETER_INDEX["g2"]].numpy()
    shift = dict(zip(benchmark.FREE, benchmark.first_order_shifts(model.numpy(), psf, TRUTH, noise)[0], strict=True))
    assert shift.pop("g2") == pytest.approx(-0.01, rel=1e-6)
    assert np.allclose(list(shift.values()), 0.0, atol=1e-9)


def test_the_noise_image_moves_fits_as_predicted(benchmark, psf):
    from _study_galaxies import draw_galaxy, moffat

    image = draw_galaxy(TRUTH[0], moffat(0.5))[None]
    grid = prepare_psf(torch.from_numpy(psf)[None], (64, 64), oversampling=benchmark.OVERSAMPLING, dtype=torch.float64)
    jacobian = render_sersic(torch.from_numpy(TRUTH), grid, jacobian=True)[1]
    noise = 0.02 * jacobian[0, PARAMETER_INDEX["g1"]].numpy()
    plain, shifted = (benchmark.fit(image, psf, added) for added in (0.0 * noise, noise))
    assert plain[0, 0] == pytest.approx(image.sum() / 1e5, rel=1e-6)  # the flux stays where it starts
    assert shifted[0, 3] - plain[0, 3] == pytest.approx(-0.02, abs=0.003)
    assert abs(shifted[0, 4] - plain[0, 4]) < 0.003


@pytest.mark.slow
def test_the_table_has_published_numbers_fits_and_predictions(benchmark, tmp_path):
    args = SimpleNamespace(number=2, seed=1, noise_seed=1)
    table = Table(rows=benchmark.rows_of(60, args))
    assert len(table) == 6
    assert len(table.colnames) == 4 + 2 * 5
    assert set(benchmark.FREE) < set(PARAMETER_NAMES)
