"""Compiled loops over PSF images against the array operations that they replace."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from galmeasure.psf.images import normalise_psf, psf_stats
from galmeasure.psf.repair import fill_bad_pixels
from galmeasure.psf.wings import missing_light

pytest.importorskip("numba")

SHAPES = [(1, 1), (2, 3), (5, 5), (9, 8), (17, 16), (22, 31), (40, 41), (63, 63), (64, 64), (90, 70)]


def unusual_images(shape, seed=2):
    """Moffat, Gaussian and ringed stars with and without noise, pedestals, cut wings, off centre, constant and odd."""
    generator = np.random.default_rng(seed)
    y, x = (grid - 0.5 * (size - 1) for grid, size in zip(np.mgrid[: shape[0], : shape[1]], shape, strict=True))
    half, noise = 0.5 * max(min(shape) - 1, 1), generator.normal(size=shape)
    r2 = y**2 + 1.1 * x**2 + 0.2 * x * y
    moffats = [(1.0 + r2 / (width * half) ** 2) ** -power for width in (0.05, 0.2) for power in (1.3, 1.6, 2.5, 3.5)]
    rings = (1.0 + r2) ** -1.5 * (1.5 + np.cos(2.0 * np.sqrt(r2)))
    delta = np.zeros(shape)
    delta[shape[0] // 2, shape[1] // 2] = 1.0
    return np.stack(
        [
            *moffats, rings, rings * (1.0 + (np.abs(y) < 1.0)), np.exp(-r2 / (0.1 * half**2 + 1.0)), delta, delta[::-1],
            *(moffats[2] + level * noise for level in (1e-6, 1e-4, 1e-2)), moffats[3] + 1e-4, moffats[3] - 1e-4,
            np.where(r2 < 0.8 * half**2, moffats[2], 0.0), np.roll(moffats[5], (1, -2), (0, 1)), np.ones(shape), noise,
            -moffats[0], np.zeros(shape), 1e-305 * moffats[1], 1e305 * moffats[1], 5e-324 * np.ceil(moffats[1] - 0.5),
            1e-7 * noise - 1e-9, np.full(shape, np.nan), np.full(shape, np.inf), -np.full(shape, np.inf),
            np.where(generator.random(shape) > 0.5, 1.7e308, moffats[0]),
        ]
    )  # fmt: skip


def with_bad_pixels(stack):
    """Images with one bad pixel each, somewhere."""
    stack = stack.copy()
    for number, image in enumerate(stack):
        image.reshape(-1)[number * 37 % image.size] = (np.nan, np.inf, -np.inf)[number % 3]
    return stack


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("oversampling", [1, 3])
def test_missing_light(both_ways, shape, oversampling):
    for stack in (unusual_images(shape), with_bad_pixels(unusual_images(shape))):
        compiled, plain = both_ways(lambda: missing_light(stack, oversampling))  # noqa: B023
        assert_allclose(compiled.fraction, plain.fraction, rtol=1e-11)
        assert_allclose(compiled.error, plain.error, rtol=1e-9)
    rings = unusual_images(shape)[8:11]
    compiled, plain = both_ways(lambda: missing_light(np.asfortranarray(rings.astype(np.float32)), oversampling))
    assert_allclose(compiled.fraction, plain.fraction, rtol=1e-11)


@pytest.mark.parametrize("shape", SHAPES)
def test_norms_and_shapes(both_ways, shape):
    for stack in (unusual_images(shape), with_bad_pixels(unusual_images(shape))):
        (compiled, ours), (plain, theirs) = both_ways(lambda: normalise_psf(stack))  # noqa: B023
        assert_array_equal(ours, theirs)
        assert_allclose(compiled.images, plain.images, rtol=1e-12, atol=1e-300)
        assert_allclose(compiled.outside, plain.outside, rtol=1e-9)
        compiled, plain = both_ways(lambda: psf_stats(plain.images, theirs, 3))  # noqa: B023
        assert_allclose(compiled.offset, plain.offset, rtol=1e-11, atol=1e-13)
        assert_allclose(compiled.fwhm, plain.fwhm, rtol=1e-11)


def test_images_do_not_depend_on_each_other(both_ways):
    stack = unusual_images((63, 64))
    together, _ = both_ways(lambda: normalise_psf(stack))
    alone, _ = both_ways(lambda: [normalise_psf(image[None]) for image in stack])
    assert_array_equal(np.concatenate([psf.images for psf, _ in alone]), together[0].images)
    assert_array_equal(np.concatenate([psf.outside for psf, _ in alone]), together[0].outside)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int32, ">f4"])
def test_bad_pixels(both_ways, kind):
    with np.errstate(over="ignore"):
        stack = unusual_images((20, 21))[:20].astype(kind)
    stacks = [stack] if np.dtype(kind).kind == "i" else [stack, with_bad_pixels(stack)]
    for images in stacks:
        for given in (images, list(images), images[::2]):
            (compiled, ours), (plain, theirs) = both_ways(lambda: fill_bad_pixels(given))  # noqa: B023
            assert_array_equal(ours, theirs)
            assert_array_equal(compiled, plain)
            assert (compiled is given) == (plain is given)
