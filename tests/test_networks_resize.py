"""Stamps of any shape as networks take them: positions, fluxes, noise, masks and PSFs come through exactly."""

import numpy as np
import pytest
import torch
from _galaxies import draw, gaussian_psf

from galmeasure.likelihood import variance
from galmeasure.networks import (
    NATIVE_SIZE,
    PSF_SIZE,
    Window,
    central_window,
    network_psfs,
    psf_offsets,
    resize_stamps,
    smooth,
)

SHAPES = [(64, 64), (40, 51), (65, 64), (33, 90), (97, 130), (141, 140)]
SHAPES_AND_BLOCKS = [*((shape, 1) for shape in SHAPES), *((shape, k) for shape in SHAPES[-2:] for k in (2, 3, 4))]


def blob(shape, x, y, sigma=2.0, flux=100.0):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    image = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return flux * image / image.sum()


def resized(image, block=1, *, good=None, error=None, gain=None, shapes=None):
    image = torch.as_tensor(
        np.atleast_3d(image) if np.ndim(image) > 2 else np.asarray(image)[None], dtype=torch.float32
    )
    good = torch.ones_like(image, dtype=torch.bool) if good is None else torch.as_tensor(good).expand_as(image)
    error = torch.ones((1, 1, 1)) if error is None else torch.as_tensor(error, dtype=torch.float32)
    shapes = torch.tensor([image.shape[1:]] * len(image)) if shapes is None else torch.as_tensor(shapes)
    window = central_window(shapes, image, block)
    psf = torch.ones((1, PSF_SIZE, PSF_SIZE))
    return resize_stamps(image, error, good, gain, psf, torch.zeros(len(image), dtype=torch.int64), window), window


def centroid(inputs):
    """x, y of the light, shape (B, 2)."""
    light = torch.where(inputs.good, inputs.image, 0.0).double()
    pixels = torch.arange(NATIVE_SIZE, dtype=torch.float64)
    return torch.stack([light.sum(1) @ pixels, light.sum(2) @ pixels], 1) / light.sum((1, 2))[:, None]


@pytest.mark.parametrize(("shape", "block"), SHAPES_AND_BLOCKS)
@pytest.mark.parametrize(("dx", "dy"), [(0.0, 0.0), (1.3, -0.7), (-0.4, 0.6)])
def test_positions_and_fluxes_come_back(shape, block, dx, dy):
    x, y = (shape[1] - 1) / 2 + dx, (shape[0] - 1) / 2 + dy
    inputs, window = resized(blob(shape, x, y, 1.2 * block), block)
    parameters = torch.zeros((1, 7), dtype=torch.float64)
    parameters[0, 0] = torch.where(inputs.good, inputs.image, 0.0).double().sum()
    parameters[0, 2] = 3.0
    parameters[:, 5:] = centroid(inputs)
    back = window.to_stamp(parameters)[0]
    np.testing.assert_allclose(back[0], 100.0, rtol=1e-5)
    np.testing.assert_allclose(back[5:], [x, y], atol=1e-4)
    assert back[2] == 3.0 * block
    assert abs(parameters[0, 5] - 31.5) <= (abs(dx) + 0.501) / block
    assert abs(parameters[0, 6] - 31.5) <= (abs(dy) + 0.501) / block


@pytest.mark.parametrize("offset", [-0.4, -0.1, 0.1, 0.4])
def test_odd_sides_put_the_galaxy_near_the_middle(offset):
    inputs, _ = resized(blob((71, 64), 31.5 + 0.3, 35 + offset))
    x, y = centroid(inputs)[0]
    np.testing.assert_allclose([x, abs(y - 31.5)], [31.8, 0.5 - abs(offset)], atol=1e-3)


def test_rows_of_unequal_shapes():
    """Stamps that are padded at the high end are centred one by one."""
    shapes = np.array([(30, 44), (41, 33), (48, 48)])
    image, good = np.zeros((3, 48, 48)), np.zeros((3, 48, 48), bool)
    for i, (ny, nx) in enumerate(shapes):
        image[i, :ny, :nx] = blob((ny, nx), (nx - 1) / 2 + 0.2, (ny - 1) / 2 - 0.3)
        good[i, :ny, :nx] = True
    inputs, window = resized(image, good=good, shapes=shapes)
    parameters = torch.zeros((3, 7), dtype=torch.float64)
    parameters[:, 5:] = centroid(inputs)
    back = window.to_stamp(parameters)[:, 5:].numpy()
    np.testing.assert_allclose(back, (shapes[:, ::-1] - 1) / 2 + [0.2, -0.3], atol=1e-3)
    assert inputs.good.sum((1, 2)).tolist() == shapes.prod(axis=1).tolist()


def test_what_fits_is_not_copied():
    image = np.zeros((2, 64, 64), dtype=np.float32)
    tensor = torch.from_numpy(image)
    window = central_window(torch.tensor([[64, 64]] * 2), tensor)
    inputs = resize_stamps(
        tensor, torch.ones(1, 1, 1), tensor == 0, None, torch.ones(1, 33, 33), torch.zeros(2), window
    )
    assert inputs.image.data_ptr() == tensor.data_ptr()
    assert torch.isinf(inputs.gain).all()


def test_noise_of_blocks():
    """Averaged noise has the error that the stamp says, which stays near 1."""
    rng = np.random.default_rng(0)
    error = rng.uniform(0.5, 2.0, (1, 192, 192)).repeat(40, axis=0)
    error[:, :96] *= 1.5
    good = rng.random((1, 192, 192)) > 0.3
    noise = rng.normal(size=error.shape) * error
    inputs, _ = resized(np.where(good, noise, 1e6), 3, good=good, error=error)
    pull = (inputs.image / inputs.error)[:, inputs.good[0]]
    np.testing.assert_allclose(pull.std(0).mean(), 1.0, atol=0.03)
    np.testing.assert_allclose(pull.mean(), 0.0, atol=0.01)
    even, _ = resized(np.zeros((128, 128)), 2)
    np.testing.assert_allclose(even.error.expand(1, 64, 64), 1.0)


def test_shot_noise_of_blocks():
    """Electrons per unit follow the unit: the variance of a block is that of its pixels."""
    model, gain, k = torch.full((1, 128, 128), 7.0), torch.tensor([0.4]), 2
    inputs, _ = resized(model.numpy(), k, gain=gain)
    whole = variance(model, torch.ones(1, 1, 1), gain)
    blocks = variance(inputs.image, inputs.error, inputs.gain)
    np.testing.assert_allclose(blocks * k**2, torch.nn.functional.avg_pool2d(whole, k) * k**2, rtol=1e-5)


def test_masks_of_blocks():
    image = np.full((128, 128), 3.0)
    good = np.ones((128, 128), bool)
    good[0, 0] = good[2:4, 0] = False
    good[4:6, 0] = good[5, 1] = False
    image[~good] = 1e9
    inputs, _ = resized(image, 2, good=good)
    assert inputs.good[0, 0, 0]
    assert inputs.good[0, 1, 0]
    assert not inputs.good[0, 2, 0]
    np.testing.assert_allclose(inputs.image[inputs.good], 6.0)
    np.testing.assert_allclose(inputs.error[0, :3, 0], [2 / 3**0.5, 2 / 2**0.5, 1.0], rtol=1e-6)


def test_windows_turn_back():
    window = Window(torch.tensor([[3, -5], [0, 7]]), 4)
    parameters = torch.rand((2, 5, 7), dtype=torch.float64)
    np.testing.assert_allclose(window.from_stamp(window.to_stamp(parameters)), parameters)
    spread = torch.eye(7)[None].expand(2, 7, 7)
    found = window.covariance_to_stamp(spread)[0].diagonal()
    np.testing.assert_allclose(found, [16, 1, 16, 1, 1, 16, 16])


def sampled(side, oversampling, fwhm=3.5):
    return torch.from_numpy(gaussian_psf(side, fwhm * oversampling))[None]


SAMPLINGS = [(33, 1), (25, 1), (65, 1), (32, 1), (64, 1), (99, 3), (100, 3), (131, 4), (50, 2), (51, 2)]


@pytest.mark.parametrize(("side", "oversampling"), SAMPLINGS)
def test_psfs_of_any_sampling_are_one(side, oversampling):
    """Odd or even, oversampled or not: what a star on the central pixel looks like."""
    found = network_psfs(sampled(side, oversampling), oversampling)
    wanted = sampled(PSF_SIZE, 1)
    assert found.shape == (1, PSF_SIZE, PSF_SIZE)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, wanted, atol=1e-4 * float(wanted.max()))
    np.testing.assert_allclose(found.sum(), 1.0, atol=1e-4)


def test_psfs_keep_their_sum():
    """A PSF that lacks light beyond its image is not made brighter."""
    for side in (21, 22):
        np.testing.assert_allclose(network_psfs(0.9 * sampled(side, 1)).sum(), 0.9, rtol=1e-4)


@pytest.mark.parametrize("oversampling", [1, 2])
@pytest.mark.parametrize(("y", "x"), [(0.5, 0.5), (-0.3, 0.2), (1.0, -2.0)])
def test_stars_off_the_middle(y, x, oversampling):
    """Where the star stands is found, and it can be moved to the middle."""
    side = 41 * oversampling
    rows, columns = (np.arange(side) - (side - 1) / 2 - shift * oversampling for shift in (y, x))
    image = np.exp(-(rows[:, None] ** 2 + columns**2) / (2 * (1.5 * oversampling) ** 2))
    image = torch.from_numpy(image / image.sum())[None]
    np.testing.assert_allclose(psf_offsets(network_psfs(image, oversampling)), [[y, x]], atol=0.02)
    wanted = sampled(PSF_SIZE, 1, 1.5 * 2.3548)
    found = network_psfs(image, oversampling, offset=(y, x))
    np.testing.assert_allclose(found, wanted, atol=2e-4 * float(wanted.max()))


def test_smoothing():
    """Stamps and PSFs become wider by the same; masked pixels take no part, and the noise keeps its error."""
    amount = torch.tensor([0.2])
    square = (torch.arange(PSF_SIZE, dtype=torch.float64) - PSF_SIZE // 2) ** 2
    narrow = sampled(PSF_SIZE, 1, 1.2)
    wide = smooth(narrow, amount)
    np.testing.assert_allclose(wide.sum(), 1.0, rtol=1e-6)
    for axis in (1, 2):
        np.testing.assert_allclose((wide - narrow).sum(axis) @ square, 0.4, rtol=1e-5)
    image = np.full((64, 64), 5.0)
    good = np.ones((64, 64), bool)
    good[20:23, 30:40] = False
    image[~good] = 1e9
    tensor, mask = (torch.from_numpy(each)[None] for each in (image.astype("f4"), good))
    window = central_window(torch.tensor([[64, 64]]), tensor)
    psf = torch.ones(1, PSF_SIZE, PSF_SIZE)
    inputs = resize_stamps(tensor, torch.ones(1, 1, 1), mask, None, psf, torch.zeros(1), window, amount)
    np.testing.assert_allclose(inputs.image[inputs.good], 5.0, rtol=1e-5)
    assert (inputs.good == mask).float().mean() > 0.99
    assert (inputs.error == 1.0).all()


@pytest.mark.parametrize("block", [2, 3, 4])
def test_block_model_is_the_block_of_the_model(block):
    """A galaxy rendered with the blocks' PSF is what the blocks of its image are."""
    side = NATIVE_SIZE * block
    middle = (side - 1) / 2
    parameters = np.array([[1000.0, 1.5, 6.0 * block, 0.2, -0.1, middle + 0.7 * block, middle - 0.4 * block]])
    psf = gaussian_psf(65, 3.0)
    inputs, window = resized(draw((side, side), psf, parameters), block)
    blocks = network_psfs(torch.from_numpy(psf)[None], 1, block)
    small = window.from_stamp(torch.from_numpy(parameters)).numpy()
    model = draw((NATIVE_SIZE, NATIVE_SIZE), blocks[0].double().numpy(), small)
    np.testing.assert_allclose(inputs.image, model, atol=3e-3 * model.max())
    np.testing.assert_allclose(inputs.image.sum(), model.sum(), rtol=1e-3)
