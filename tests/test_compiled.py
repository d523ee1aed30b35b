"""Compiled loops against the operations of torch that they replace."""

import os
import stat
import subprocess
import sys

import numpy as np
import pytest
import torch

from galmeasure import Cutouts
from galmeasure.fitters.lsq.fourier import Stamps
from galmeasure.fitters.problem import Problem
from galmeasure.likelihood import normal_equations
from galmeasure.parameters import SERSIC
from galmeasure.render import prepare_psf, render_raw, render_sersic
from galmeasure.render.modes import Profiles, stamp_transforms
from galmeasure.render.sersic import RAW_INDEX, described_profiles
from galmeasure.utils.compiled import VARIABLE, compiled_module

pytest.importorskip("numba")


def some_galaxies(count, side, seed=3):
    """Parameters over the whole domain, ridges and galaxies that are larger than the stamp among them."""
    generator = np.random.default_rng(seed)
    shear = generator.uniform(0.0, 0.85, count) * np.exp(1j * generator.uniform(0.0, 2.0 * np.pi, count))
    columns = [
        generator.uniform(1.0, 1e4, count), np.exp(generator.uniform(np.log(0.3), np.log(6.2), count)),
        np.exp(generator.uniform(np.log(0.3), np.log(side), count)), shear.real, shear.imag,
        *(side / 2 + generator.uniform(-3.0, 3.0, (2, count))),
    ]  # fmt: skip
    return torch.tensor(np.stack(columns, 1), dtype=torch.float32)


def star(width, side=25, oversampling=1):
    axis = (torch.arange(float(side)) - (side - 1) / 2) / oversampling
    image = torch.exp(-(axis[:, None] ** 2 + 1.2 * axis**2) / (2.0 * width**2))
    return image / image.sum()


@pytest.mark.parametrize(
    ("width", "oversampling", "shape"),
    [(0.5, 5, (32, 48)), (0.55, 3, (20, 20)), (0.7, 1, (64, 64)), (1.0, 1, (33, 40)), (2.0, 1, (64, 64)),
     (5.0, 1, (64, 64))],
)  # fmt: skip
def test_renderer(both_ways, width, oversampling, shape):
    """All bands, from half of the Nyquist wavenumber to three times it."""
    psfs = prepare_psf(torch.stack([star(width, 41, oversampling)] * 2), shape, oversampling=oversampling)
    parameters = some_galaxies(40, min(shape))
    index = torch.arange(40) % 2
    for derivatives in (True, False):
        compiled, plain = both_ways(lambda: render_raw(parameters, psfs, index, derivatives=derivatives))  # noqa: B023
        scale = plain.abs().amax((2, 3), keepdim=True)
        difference = ((compiled - plain).abs() / scale).amax((0, 2, 3))
        if derivatives:  # that by n is no more exact in either form
            assert difference[RAW_INDEX["n"]] < 5e-4
            difference[RAW_INDEX["n"]] = 0.0
        assert difference.max() < 5e-6
        assert compiled.shape == plain.shape
        assert compiled.is_contiguous()


def test_gradients_need_torch(monkeypatch):
    parameters = some_galaxies(2, 32).requires_grad_()
    psf = prepare_psf(star(1.5)[None], (32, 32))
    render_sersic(parameters, psf).sum().backward()
    assert torch.isfinite(parameters.grad).all()
    assert compiled_module("galmeasure.render.compiled", parameters.double().detach()) is None


@pytest.mark.parametrize("electrons", [None, 1e13, 0.4, 50.0])
def test_normal_equations(both_ways, electrons):
    generator = torch.Generator().manual_seed(5)
    model = 3.0 * torch.randn(6, 17, 21, generator=generator) + 2.0
    images = torch.randn(6, 7, 17, 21, generator=generator)
    data = model + torch.randn(6, 17, 21, generator=generator)
    good = torch.rand(6, 17, 21, generator=generator) > 0.2
    gain = None if electrons is None else torch.full((6,), electrons)
    for error in (torch.tensor(0.7)[None, None, None], 0.5 + torch.rand(6, 17, 21, generator=generator)):
        arguments = (model, images, data, error, good, gain)
        compiled, plain = both_ways(lambda: normal_equations(*arguments, residuals=True))  # noqa: B023
        for name in ("loss", "chi2", "score", "fisher", "snr", "light", "residual"):
            ours, theirs = getattr(compiled, name), getattr(plain, name)
            scale = theirs.abs().max()
            assert ours.dtype == theirs.dtype, name
            assert (ours - theirs).abs().max() < 2e-5 * scale, name


@pytest.mark.parametrize("derivatives", [True, False])
def test_descriptions_of_profiles(both_ways, derivatives):
    """Places in the tables, weights and forms, beyond the ends of the tables too."""
    parameters = some_galaxies(200, 64)
    parameters[:2, SERSIC.index("n")] = torch.tensor([0.2, 7.5])
    compiled, plain = both_ways(lambda: described_profiles(parameters, derivatives=derivatives))
    alike = compiled[0] == plain[0]  # others lie on a row of the table, but for rounding
    assert alike.sum() > 190
    for found, expected in zip(compiled[1:3], plain[1:3], strict=True):
        assert found.shape == expected.shape
        torch.testing.assert_close(found[alike], expected[alike], rtol=2e-5, atol=1e-3)
    torch.testing.assert_close(compiled[3], plain[3], rtol=1e-3, atol=1e-5)


def test_profiles_without_an_index_are_not_numbers(monkeypatch):
    monkeypatch.setenv(VARIABLE, "1")
    parameters = some_galaxies(4, 64)
    parameters[:3, SERSIC.index("n")] = torch.tensor([torch.nan, -1.0, torch.inf])
    first, *others = described_profiles(parameters, derivatives=True)
    assert ((first >= 0) & (first < 80)).all()
    for numbers in others:
        assert torch.isnan(numbers[:3]).all()
        assert torch.isfinite(numbers[3]).all()


@pytest.mark.parametrize(("shape", "width"), [((64, 64), 0.8), ((33, 40), 2.0)])
def test_normal_equations_on_modes(both_ways, shape, width):
    """Sums over wavenumbers, scaled to unit information and in units of the loss."""
    truth, psf_image = some_galaxies(20, min(shape)), star(width, 31)
    noise = truth[:, 0, None, None] * 1e-3
    psf = prepare_psf(psf_image[None], shape)
    image = render_sersic(truth, psf) + noise * torch.randn(20, *shape, generator=torch.Generator().manual_seed(2))
    index = torch.zeros(20, dtype=torch.int64)
    problem = Problem(image, noise, torch.ones(20, *shape, dtype=torch.bool), None, psf, index)
    (stamps,) = Stamps.of(problem, stamp_transforms(psf_image[None], shape))
    moved = truth * 1.01
    profiles = Profiles.of(moved)
    outside = profiles.light_outside(shape)
    compiled, plain = both_ways(lambda: stamps.normal_equations(stamps.rows, moved, profiles, outside))
    scale = plain.diagonal(dim1=1, dim2=2).sqrt()
    assert ((compiled - plain).abs() / (scale[:, :, None] * scale[:, None])).max() < 1e-4
    few = stamps.normal_equations(stamps.rows[3:5], moved[3:5], profiles.of_rows(torch.arange(3, 5)), outside[3:5])
    assert few.shape == (2, 8, 8)


def test_a_pixel_that_is_no_number_spoils_its_row_only(both_ways):
    model, images = torch.ones(2, 8, 8), torch.ones(2, 7, 8, 8)
    data = torch.ones(2, 8, 8)
    data[1, 3, 3] = torch.nan
    arguments = (model, images, data, torch.ones(1, 1, 1), torch.ones(2, 8, 8, dtype=torch.bool), torch.ones(2))
    for equations in both_ways(lambda: normal_equations(*arguments)):
        assert torch.isfinite(equations.loss[0])
        assert torch.isnan(equations.loss[1])


def test_rows_do_not_depend_on_each_other():
    parameters, psf = some_galaxies(30, 40), prepare_psf(star(1.3)[None], (40, 40))
    together = render_raw(parameters, psf)
    for rows in (slice(0, 1), slice(3, 10), slice(11, 30)):
        torch.testing.assert_close(render_raw(parameters[rows], psf), together[rows], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["r_eff", "g1", "x"])
def test_what_is_no_number_stays_none(name):
    """Without harm to other rows, or to memory."""
    parameters, psf = some_galaxies(3, 40), prepare_psf(star(1.3)[None], (40, 40))
    parameters[1, SERSIC.index(name)] = torch.nan
    images = render_raw(parameters, psf)
    assert torch.isfinite(images[[0, 2]]).all()
    assert torch.isnan(images[1, RAW_INDEX["model"]]).all()


SCRIPT = """
import torch
from galmeasure.render import prepare_psf, render_sersic
from galmeasure.utils.compiled import VARIABLE, compiled_module
psf = prepare_psf(torch.ones(1, 3, 3) / 9, (24, 24))
assert compiled_module("galmeasure.render.compiled") is not None
print(float(render_sersic(torch.tensor([[10.0, 1.0, 2.0, 0.1, 0.0, 12.0, 12.0]]), psf).sum()))
"""


@pytest.mark.slow
def test_no_folder_can_be_written(tmp_path):
    """Loops are compiled in the process then; the package must be where nobody can write."""
    if os.geteuid() == 0:
        environment = {"NUMBA_CACHE_DIR": "/proc/nowhere"}
    else:
        tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
        environment = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    assert 9.0 < float(done.stdout) < 10.0


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_medians_are_those_of_numpy(kind):
    generator = np.random.default_rng(4)
    tables = [
        generator.normal(size=(20, 4096)), np.ones((3, 700)), generator.integers(-3, 3, (20, 1001)).astype(float),
        generator.normal(size=(20, 300)) * 10.0 ** generator.integers(-30, 30, (20, 300)), np.arange(5.0)[None],
        np.sort(generator.exponential(size=(4, 2000))), -np.sort(generator.exponential(size=(4, 2001))),
        np.tile(generator.normal(size=64), (3, 64)), np.where(generator.random((9, 9001)) > 0.6, np.inf, 1.0),
        np.where(generator.random((9, 5000)) > 0.4, -np.inf, generator.normal(size=(9, 5000))),
    ]  # fmt: skip
    loops = compiled_module("galmeasure.utils.compiled_medians")
    for table in tables:
        values = table.astype(kind)
        values.setflags(write=False)
        good = generator.random(values.shape) > 0.2
        good[0] = len(values) == 1  # none, if there are more rows
        median = np.empty(len(values))
        loops.masked_medians(values, good, median)
        expected = [
            np.median(row[use].astype(float)) if use.any() else np.nan for row, use in zip(values, good, strict=True)
        ]
        np.testing.assert_array_equal(median, expected)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int16])
def test_batches_are_the_same_to_the_last_bit(both_ways, kind):
    """Bad pixels, bad rows, masks, unequal shapes, and all forms of the error."""
    generator = np.random.default_rng(6)
    images = [(100.0 * generator.normal(size=(20 + row % 3, 22))).astype(kind) for row in range(12)]
    if kind != np.int16:
        images[0][3, 4], images[1][5, 5], images[2][...], images[3][2, 2] = np.nan, np.inf, np.nan, 1e38
    masks = [generator.random(image.shape) > 0.9 for image in images]
    maps = [generator.uniform(0.5, 2.0, image.shape).astype(np.float32) for image in images]
    maps[4][1, 1], maps[5][1, 2], maps[6][...] = np.nan, -1.0, 0.0
    psf = np.ones((3, 3)) / 9
    for options in ({}, {"error": 3.0}, {"error": maps, "mask": masks}, {"error": maps, "gain": 2.0}):
        for count in (12, 1):
            cutouts = Cutouts(
                images[:count],
                psf,
                **{name: value[:count] if isinstance(value, list) else value for name, value in options.items()},
            )
            compiled, plain = both_ways(lambda: list(cutouts.batches(10**6)))  # noqa: B023
            for ours, theirs in zip(compiled, plain, strict=True):
                for name in ("flags", "image", "error", "good", "scale", "gain"):
                    np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    stack = np.stack([image[:20] for image in images])
    compiled, plain = both_ways(
        lambda: list(Cutouts(stack, psf, error=np.stack([m[:20] for m in maps])).batches(10**6))
    )
    np.testing.assert_array_equal(compiled[0].image, plain[0].image)
    np.testing.assert_array_equal(compiled[0].error, plain[0].error)
