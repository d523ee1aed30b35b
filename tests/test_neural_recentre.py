"""Galaxies that are not in the middle of their stamps."""

import numpy as np
import pytest

from galmeasure import Cutouts, NeuralSersicFitter
from galmeasure.fitters.neural.recentre import centre_shifts, seem_off_centre


def blob(shape, y, x, flux=400.0, sigma=2.0):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    image = np.exp(-((rows - (shape[0] - 1) / 2 - y) ** 2 + (columns - (shape[1] - 1) / 2 - x) ** 2) / (2 * sigma**2))
    return flux * image / image.sum()


PSF = blob((25, 25), 0, 0, 1.0, 1.5)


def look(images, mask=None):
    cutouts = Cutouts(images, PSF, error=1.0, mask=mask)
    batch = next(iter(cutouts.batches()))
    rows = np.arange(len(batch))
    order = np.argsort(batch.index)
    return centre_shifts(batch, rows)[order], seem_off_centre(batch, rows)[order]


@pytest.mark.parametrize("shape", [(64, 64), (61, 75), (48, 65)])
@pytest.mark.parametrize(("y", "x"), [(0, 0), (6, -4), (-12, 9), (3, 20)])
def test_a_source_is_found_where_it_is(shape, y, x):
    image = blob(shape, y, x) + np.random.default_rng(1).normal(size=shape)
    shifts, off = look(image[None])
    assert np.abs(shifts[0] - [y, x]).max() <= 1.5
    assert off[0] == (max(abs(y), abs(x)) > 0)


def test_nothing_is_found_in_noise():
    noise = np.random.default_rng(2).normal(size=(20, 64, 64))
    shifts, off = look(noise)
    assert (np.abs(shifts).sum(1) == 0).mean() > 0.9
    assert off.mean() > 0.9


def test_the_nearer_source_is_taken():
    image = blob((64, 64), 4, 3, 200.0) + blob((64, 64), -20, 15, 3000.0)
    shifts, _ = look((image + np.random.default_rng(3).normal(size=image.shape))[None])
    assert np.abs(shifts[0] - [4, 3]).max() <= 1.5


def test_masked_sources_do_not_count():
    image = blob((64, 64), 10, 0, 3000.0) + blob((64, 64), -16, 0, 400.0)
    mask = blob((64, 64), 10, 0, 3000.0) > 0.5
    shifts, _ = look((image + np.random.default_rng(4).normal(size=image.shape))[None], mask[None])
    assert np.abs(shifts[0] - [-16, 0]).max() <= 1.5


@pytest.mark.parametrize("away", [5.0, 12.0, 20.0])
def test_positions_come_back_in_the_stamp(away):
    rng = np.random.default_rng(5)
    images = np.stack([blob((64, 64), 0.3, 0.2, 900.0, 3.0), blob((64, 64), -0.4 * away, away, 900.0, 3.0)])
    table = NeuralSersicFitter().fit(images + rng.normal(size=images.shape), PSF, error=1.0)
    np.testing.assert_allclose(table["x_fit"].value, [31.7, 31.5 + away], atol=0.8)
    np.testing.assert_allclose(table["y_fit"].value, [31.8, 31.5 - 0.4 * away], atol=0.8)
    assert table["flux_fit"][1] / table["flux_fit"][0] == pytest.approx(1.0, abs=0.2)
