"""What must not matter to the least-squares fit: orientation, units, padding, order, batches and threads."""

import threading

import numpy as np
import pytest
from _agreement import STOPPING, plain
from _galaxies import draw, gaussian_psf, mixed_parameters
from _lsq import PSF, SIGMA, assert_same, values
from astropy import units as u

from galmeasure import LSQSersicFitter
from galmeasure.parameters import PARAMETER_NAMES

SIDE = 30


@pytest.fixture(scope="module")
def mixed():
    """Galaxies of many kinds with noise, and their table."""
    rng = np.random.default_rng(21)
    images = draw((SIDE, SIDE), PSF, mixed_parameters(24, (SIDE, SIDE), rng)) + rng.normal(0, SIGMA, (24, SIDE, SIDE))
    return images, LSQSersicFitter().fit(images, PSF, error=SIGMA)


def assert_close(table, expected, *, signs=(1, 1), fraction=0.01, swap=False):
    """The same galaxies within a fraction of their errors, after the shears are multiplied by ``signs``."""
    wanted, error = values(expected), values(expected, "err")
    wanted = wanted * np.array([1, 1, 1, *signs, 1, 1])
    measured = ["flux", "n", "r_eff", "g1", "g2"]
    index = [PARAMETER_NAMES.index(name) for name in measured]
    offset = np.abs(values(table) - wanted)[:, index] / error[:, index]
    assert offset.max() < fraction, offset.max(0)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_rotation(mixed, quarters):
    """A quarter turn changes the sign of g1 and g2."""
    images, expected = mixed
    turned = np.rot90(images, quarters, axes=(2, 1))  # counter-clockwise with y up
    table = LSQSersicFitter().fit(turned, PSF, error=SIGMA)
    sign = (-1) ** quarters
    assert_close(table, expected, signs=(sign, sign), fraction=0.05)
    centre = (SIDE - 1) / 2
    z = (plain(expected["x_fit"]) - centre + 1j * (plain(expected["y_fit"]) - centre)) * 1j**quarters
    np.testing.assert_allclose(table["x_fit"] - centre, z.real, atol=2e-3)
    np.testing.assert_allclose(table["y_fit"] - centre, z.imag, atol=2e-3)
    change = (plain(table["theta"]) - plain(expected["theta"]) - 90 * quarters + 90) % 180 - 90
    assert (np.abs(change) < 0.05 * plain(expected["theta_err"])).all()


@pytest.mark.parametrize("axis", ["x", "y"])
def test_flip(mixed, axis):
    """A mirror changes the sign of g2."""
    images, expected = mixed
    table = LSQSersicFitter().fit(np.flip(images, 2 if axis == "x" else 1), PSF, error=SIGMA)
    assert_close(table, expected, signs=(1, -1), fraction=0.05)
    np.testing.assert_allclose(table[f"{axis}_fit"], SIDE - 1 - expected[f"{axis}_fit"], atol=2e-3)


def test_transposition(mixed):
    """The mirror at the diagonal changes the sign of g1 and exchanges x and y."""
    images, expected = mixed
    table = LSQSersicFitter().fit(images.transpose(0, 2, 1), PSF, error=SIGMA)
    assert_close(table, expected, signs=(-1, 1), fraction=0.05)
    np.testing.assert_allclose(table["x_fit"], expected["y_fit"], atol=2e-3)


@pytest.mark.parametrize("factor", [1e-9, 2.0**-40, 2.0**30, 1e9])
@pytest.mark.parametrize("gain", [None, 3.0])
def test_flux_unit(mixed, factor, gain):
    images, expected = mixed
    if gain is not None:
        expected = LSQSersicFitter().fit(images, PSF, error=SIGMA, gain=gain)
    gain = None if gain is None else gain / factor
    table = LSQSersicFitter().fit(images * factor, PSF, error=SIGMA * factor, gain=gain)
    error = values(expected, "err")
    for suffix in ("fit", "err"):
        found, wanted = values(table, suffix), values(expected, suffix)
        found[:, 0] /= factor
        assert (np.abs(found - wanted) < STOPPING * error).all()
    np.testing.assert_allclose(table["snr"], expected["snr"], rtol=1e-4)
    np.testing.assert_array_equal(table["flags"], expected["flags"])


def test_pixel_scale_changes_the_unit_of_the_radius_only(mixed):
    images, expected = mixed
    table = LSQSersicFitter().fit(images, PSF, error=SIGMA, pixel_scale=0.2)
    assert table["r_eff_fit"].unit == u.arcsec
    np.testing.assert_allclose(table["r_eff_fit"].value, 0.2 * expected["r_eff_fit"].value, rtol=1e-5)
    assert_same(table, expected, names=[name for name in PARAMETER_NAMES if name != "r_eff"])


def test_shift():
    """A stamp cut elsewhere moves the centre by whole pixels."""
    rng = np.random.default_rng(22)
    images = draw((40, 40), PSF, mixed_parameters(12, (40, 40), rng)) + rng.normal(0, SIGMA, (12, 40, 40))
    here, there = images[:, 3:37, 3:37], images[:, 2:36, 5:39]
    table, moved = (LSQSersicFitter().fit(part, PSF, error=SIGMA) for part in (here, there))
    error = values(table, "err")
    offset = values(moved) + np.array([0, 0, 0, 0, 0, 2, -1]) - values(table)
    assert (np.abs(offset) < 0.6 * error).all()  # the pixels at the border are others
    assert np.median(np.abs(offset / error)) < 0.1


def test_stack_and_list(mixed):
    """Stamps of a stack, in a list, and in a list with others of other shapes."""
    images, expected = mixed
    side = 32
    images = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    mask = np.pad(np.zeros((24, SIDE, SIDE), bool), ((0, 0), (1, 1), (1, 1)), constant_values=True)
    stack = LSQSersicFitter().fit(images, PSF, error=SIGMA, mask=mask)
    ragged = LSQSersicFitter().fit(list(images), PSF, error=SIGMA, mask=list(mask))
    others = [np.full((5 + i, side), 1.0) for i in range(24)]
    both = [image for pair in zip(images, others, strict=True) for image in pair]
    masks = [each for m, other in zip(mask, others, strict=True) for each in (m, np.zeros(other.shape, bool))]
    among = LSQSersicFitter().fit(both, PSF, error=SIGMA, mask=masks)
    assert_same(ragged, stack)
    assert_same(among[::2], stack)
    assert_close(stack, expected, fraction=0.02)


def test_padding_does_not_matter(mixed):
    """Stamps of a list are padded to a common shape, which changes the Fourier grid, not the galaxies."""
    images, expected = mixed
    ragged = LSQSersicFitter().fit(list(images), PSF, error=SIGMA)
    assert_close(ragged, expected, fraction=0.02)
    np.testing.assert_array_equal(ragged["n_pixels_fit"], expected["n_pixels_fit"])


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_batch_size(mixed, size):
    images, expected = mixed
    assert_same(LSQSersicFitter(batch_size=size).fit(images, PSF, error=SIGMA), expected)


def test_order(mixed):
    images, expected = mixed
    order = np.random.default_rng(1).permutation(len(images))
    assert_same(LSQSersicFitter().fit(images[order], PSF, error=SIGMA), expected[order])


def test_several_psfs(mixed):
    """One PSF for all, or the same one given for every cutout, among others."""
    images, expected = mixed
    psfs = [PSF if i % 2 else gaussian_psf(fwhm=3.5) for i in range(len(images))]
    table = LSQSersicFitter().fit(images, psfs, error=SIGMA)
    assert_same(table[1::2], expected[1::2])


def test_two_threads(mixed):
    images, expected = mixed
    fitter = LSQSersicFitter()
    found = {}

    def work(name, part):
        found[name] = fitter.fit(images[part], PSF, error=SIGMA)

    parts = {0: slice(0, 14), 1: slice(10, 24), 2: slice(0, 24)}
    threads = [threading.Thread(target=work, args=item) for item in parts.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, part in parts.items():
        assert_same(found[name], expected[part])


def test_inputs_are_not_modified(mixed):
    images, _ = mixed
    images, error = images.astype(">f4"), np.full(images.shape, SIGMA)
    images[3, 4, 5] = np.nan
    psf, mask = PSF * 7, np.zeros(images.shape, bool)
    before = [array.copy() for array in (images, error, psf, mask)]
    LSQSersicFitter(fit_background=True).fit(images, psf, error=error, mask=mask)
    for array, copy in zip((images, error, psf, mask), before, strict=True):
        np.testing.assert_array_equal(array, copy)
