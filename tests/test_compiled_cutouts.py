"""Compiled loops over the pixels of cutouts against the array operations that they replace, on unusual input."""

import numpy as np
import pytest

from galmeasure import Cutouts

pytest.importorskip("numba")

FIELDS = ("flags", "image", "error", "good", "scale")


def unusual_stamps(shape, kind, seed=4):
    """Noise with and without a galaxy, outliers, no variation, bad pixels, huge and tiny values; and all bad."""
    generator = np.random.default_rng(seed)
    y, x = (grid - 0.5 * (size - 1) for grid, size in zip(np.mgrid[: shape[0], : shape[1]], shape, strict=True))
    noise = 3.0 * generator.normal(size=(12, *shape))
    noise[1] += 1e4 * np.exp(-np.hypot(y, x) / 3.0)
    noise[2] *= np.where(generator.random(shape) > 0.8, 100.0, 1.0)
    noise[3] = np.round(noise[3])
    noise[4] = 7.0
    noise[5, ::2], noise[6, :, ::3] = np.nan, np.inf
    noise[7], noise[8, 0, 0] = -np.inf, 1e38
    noise[9] *= 1e30
    noise[10] *= 1e-30
    noise[11, 1:, 1:] = np.nan
    return noise.astype(kind)


def unusual_errors(shape, kind, seed=5):
    """Maps of the errors that are constant, uneven, quantised, steep, in stripes, partly or wholly not valid."""
    generator = np.random.default_rng(seed)
    maps = generator.uniform(0.5, 2.0, (12, *shape))
    maps[0] = 3.0
    maps[1] = np.where(generator.random(shape) > 0.5, 1.0, 2.0)
    maps[2] = np.round(maps[2], 1)
    maps[3] = 10.0 ** generator.uniform(-20.0, 12.0, shape)
    maps[4, :, 0] = 1e3
    maps[5, :, 1:] = np.inf
    maps[6, ::2], maps[7, 1::2], maps[8] = np.nan, -1.0, 0.0
    maps[9] *= 1e30
    maps[10] = np.sort(maps[10].ravel()).reshape(shape)
    maps[11] = np.where(np.arange(shape[1]) % 2, 1.0, np.inf)
    return maps.astype(kind)


def assert_same(both_ways, function):
    """Batches are the same to the last bit."""
    compiled, plain = both_ways(lambda: list(function().batches(10**6)))
    for ours, theirs in zip(compiled, plain, strict=True):
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    return compiled


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2, 2), (3, 4), (5, 5), (8, 3), (33, 32), (64, 64), (65, 71)])
def test_batches(both_ways, shape, kind):
    psf = np.ones((3, 3)) / 9
    stamps, maps = unusual_stamps(shape, kind), unusual_errors(shape, kind)
    masks = np.random.default_rng(6).random(stamps.shape) > 0.85
    masks[4], masks[10, : shape[0] // 2 + 1] = True, True
    some = [entry if number % 3 else None for number, entry in enumerate(maps)]
    for words in ({}, {"error": 2.0}, {"error": maps}, {"error": some}, {"error": np.linspace(-1.0, 5.0, len(stamps))}):
        for mask in (None, masks, list(masks)):
            batches = assert_same(both_ways, lambda: Cutouts(stamps, psf, mask=mask, **words))  # noqa: B023
            assert sum(len(batch) for batch in batches) == len(stamps)


@pytest.mark.parametrize("words", [{}, {"error": unusual_errors((64, 64), np.float32)}])
def test_rows_do_not_depend_on_each_other(both_ways, words):
    stamps = unusual_stamps((64, 64), np.float32)
    cutouts = Cutouts(stamps, np.ones((3, 3)) / 9, **words)
    together, _ = both_ways(lambda: list(cutouts.batches(10**6)))
    alone, _ = both_ways(lambda: list(cutouts.batches(1)))
    for name in FIELDS:
        joined = np.concatenate([getattr(batch, name) for batch in alone])
        np.testing.assert_array_equal(joined, getattr(together[0], name), err_msg=name)
