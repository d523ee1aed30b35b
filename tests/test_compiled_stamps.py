"""Compiled loops over crops, residuals and small matrices against the operations of numpy and torch they replace."""

import numpy as np
import pytest
import torch

from galmeasure import Cutouts
from galmeasure.fitters.crop import Crop
from galmeasure.ood.residuals import STATISTICS, residual_features
from galmeasure.parameters import SERSIC

pytest.importorskip("numba")

PSF = np.ones((3, 3)) / 9


@pytest.mark.parametrize("form", ["number", "column", "map"])
@pytest.mark.parametrize("shape", [(64, 64), (50, 67), (40, 30)])
def test_crops(both_ways, form, shape):
    """In the middle and at all edges, with bad pixels; a stamp that is narrower than the crop has no compiled form."""
    generator = np.random.default_rng(2)
    images = generator.normal(1.0, 2.0, (9, *shape))
    images[2, 10:13, 5], images[4] = np.nan, np.nan
    error = {"number": 2.0, "column": np.linspace(1.0, 3.0, 9), "map": generator.uniform(0.5, 2.0, images.shape)}[form]
    (batch,) = Cutouts(images, PSF, error=error).batches(10**6)
    centre = generator.uniform(-5.0, 70.0, (9, 2))
    rows = np.array([0, 2, 3, 4, 8])
    residual = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(1))

    def cut():
        crop = Crop.of(32, batch, rows, centre[rows])
        return crop, crop.whole(np.array([4, 0, 1]), residual).numpy()

    (ours, whole), (theirs, expected) = both_ways(cut)
    np.testing.assert_array_equal(whole, expected)
    for name in ("start", "residual", "n_pixels", "rows"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    np.testing.assert_allclose(ours.chi2, theirs.chi2, rtol=1e-6, atol=1e-6)
    for name in ("image", "error", "good", "shape", "scale", "psf_index", "index", "flags"):
        np.testing.assert_array_equal(getattr(ours.batch, name), getattr(theirs.batch, name), err_msg=name)


def test_statistics_of_residuals(both_ways):
    """Of noise, of a peak, of a hole, and of a stamp without good pixels."""
    generator = torch.Generator().manual_seed(3)
    residual = torch.randn(40, 64, 64, generator=generator)
    residual[1, 30, 31], residual[2, 33, 33] = 40.0, -30.0
    good = torch.rand(40, 64, 64, generator=generator) > 0.1
    good[3] = False
    values = torch.zeros(40, len(SERSIC), dtype=torch.float64)
    values[:, SERSIC.index("r_eff")] = torch.linspace(0.2, 12.0, 40)
    values[:, SERSIC.slice("x", "y")] = 31.5 + 4.0 * torch.randn(40, 2, generator=generator, dtype=torch.float64)
    compiled, plain = both_ways(
        lambda: residual_features(residual * good, good, values, torch.linspace(1.5, 8.0, 40, dtype=torch.float64))
    )
    assert compiled.statistics.shape == (40, len(STATISTICS))
    torch.testing.assert_close(compiled.statistics, plain.statistics, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(compiled.moments, plain.moments, rtol=0, atol=0)


@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (3, 5, 7), (4, 4, 8), (20, 18, 33), (21, 16, 64)])
def test_products_of_small_matrices(m, k, n):
    from galmeasure.utils.compiled_math import multiply

    generator = np.random.default_rng(m)
    left, right = (generator.normal(size=size).astype(np.float32) for size in ((m, k), (k, n)))
    out = np.full((m, n), np.nan, np.float32)
    multiply(left, right, out)
    np.testing.assert_allclose(out, left.astype(float) @ right, rtol=1e-5, atol=1e-5)
