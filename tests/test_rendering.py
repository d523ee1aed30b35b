"""Groups of rows whose models are rendered together."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from galmeasure import Cutouts
from galmeasure.fitters.network_psfs import cleaned_psfs
from galmeasure.fitters.rendering import rendering_groups
from galmeasure.fitters.tensors import BatchTensors
from galmeasure.render import PSFGrid, prepare_psf, render_raw, render_sersic, sersic
from galmeasure.render.sersic import is_narrow_ridge
from galmeasure.utils.chunks import CHUNKS, ChunkSizes

N_ROWS = 24
RNG = np.random.default_rng(3)


def moffat(fwhm, pedestal=0.0, side=33):
    y, x = np.mgrid[:side, :side] - side // 2
    image = (1.0 + (x**2 + y**2) * 4.0 * (2.0 ** (1.0 / 2.5) - 1.0) / fwhm**2) ** -2.5
    return image / image.sum() + pedestal * image.max() / image.sum()


def mixed_tensors():
    """Bright and faint rows with narrow and wide, clean and dirty PSFs, of which some are shared."""
    kinds = [moffat(fwhm, pedestal) for fwhm in (1.6, 2.4, 3.5, 6.0) for pedestal in (0.0, 1e-3)]
    psf = [kinds[row % len(kinds)] for row in range(N_ROWS)]
    image = RNG.normal(size=(N_ROWS, 48, 48))
    image[::3, 20:28, 20:28] += 100.0
    return BatchTensors.of(next(iter(Cutouts(image, psf, error=1.0).batches())))


def test_each_row_is_in_one_group_with_its_own_psf():
    """Together they are rendered with the PSFs that each row would have alone."""
    tensors = mixed_tensors()
    psfs = cleaned_psfs(tensors.batch, np.unique(tensors.batch.psf_index))
    assert psfs.is_dirty.any()
    assert not psfs.is_dirty.all()
    groups = list(rendering_groups(tensors, np.arange(N_ROWS), psfs=psfs))
    assert np.array_equal(np.sort(np.concatenate([rows for rows, _ in groups])), np.arange(N_ROWS))
    bands = [problem.psf.band for _, problem in groups]
    assert len(bands) == len(set(bands)) > 1
    for rows, problem in groups:
        for row in rows:
            ((_, alone),) = rendering_groups(tensors, np.array([row]), psfs=psfs)
            assert alone.psf.band == problem.psf.band
            transforms = [p.psf.transform[p.psf_index[row]] for p in (problem, alone)]
            torch.testing.assert_close(*transforms, rtol=1e-4, atol=1e-5)
            assert problem.enlarge[row] == alone.enlarge[row]


def test_narrow_galaxies_share_what_is_known_of_their_psf():
    """A larger grid is made once for a PSF; rows that are not to have it are rendered on the usual one."""
    psf = prepare_psf(torch.tensor(np.stack([moffat(4.0), moffat(5.0)])), (48, 48))
    parameters = torch.tensor([[1.0, 1.0, 4.0, 0.6, 0.2, 23.0, 24.0], [1.0, 1.0, 2.0, 0.1, 0.0, 23.5, 23.5]])
    parameters = parameters.repeat(3, 1)
    index, enlarge = torch.tensor([0, 0, 1, 1, 0, 1]), torch.tensor([1, 1, 1, 1, 0, 1], dtype=torch.bool)
    assert is_narrow_ridge(parameters, psf.padded).tolist() == [True, False] * 3
    together = render_raw(parameters, psf, index, enlarge=enlarge)
    for row in range(6):
        rows = slice(row, row + 1)
        alone = render_raw(parameters[rows], psf, index[rows], enlarge=bool(enlarge[row]))
        torch.testing.assert_close(together[rows], alone, rtol=1e-4, atol=1e-6)


def test_models_in_chunks_are_those_of_one_chunk(monkeypatch):
    """However few spectra are held at once, with derivatives for autograd too."""
    psf = prepare_psf(torch.tensor(moffat(3.0))[None], (32, 32))
    parameters = torch.tensor([[100.0, 2.0, 3.0, 0.1, 0.2, 15.0, 16.0]]).repeat(5, 1)
    parameters[:, 1] += torch.arange(5)
    whole = render_sersic(parameters, psf, jacobian=True)
    monkeypatch.setattr("galmeasure.render.sersic.rows_per_chunk", lambda *_: 2)
    for one, other in zip(whole, render_sersic(parameters, psf, jacobian=True), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    parameters.requires_grad_()
    (slope,) = torch.autograd.grad(render_sersic(parameters, psf)[3, 16, 16], parameters)
    torch.testing.assert_close(slope[3], whole[1][3, :, 16, 16], rtol=1e-3, atol=1e-4)
    assert (slope[[0, 1, 2, 4]] == 0.0).all()


@pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported"), reason="this torch does not tell what oneDNN can do"
)
def test_bfloat16_is_not_chosen_where_onednn_may_not_use_it():
    """Without its instructions it is ten times as slow as single precision."""
    code = "from galmeasure.networks.precision import bf16_is_fast; print(bf16_is_fast('cpu'))"
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("n", "r_eff", "g", "side"),
    [(1.5, 2.2, 0.65, 96), (4.5, 2.2, 0.6, 128), (3.0, 6.0, 0.7, 192), (4.5, 0.8, 0.9, 192)],
)
def test_ridges_on_larger_grids(monkeypatch, n, r_eff, g, side):
    """Long, narrow galaxies are rendered on the smallest grid that gives the image of a much larger one."""
    y, x = torch.meshgrid(*2 * [torch.arange(33.0) - 16], indexing="ij")
    star = torch.exp(-(x**2 + y**2) / 6.0).double()
    psf = prepare_psf((star / star.sum())[None], (64, 64), dtype=torch.float64)
    galaxy = torch.tensor([[1.0, n, r_eff, 0.8 * g, 0.6 * g, 31.3, 31.8]], dtype=torch.float64)
    expected = render_raw(galaxy, psf.enlarged(torch.tensor([0]), 4.0), derivatives=False)
    sides, render = [], sersic._render
    monkeypatch.setattr(sersic, "_render", lambda *args: sides.append(args[1].padded[0]) or render(*args))
    difference = render_raw(galaxy, psf, derivatives=False) - expected
    assert sides == [side]
    assert difference.norm() < 1e-3 * expected.norm()  # 0.1 sigma at S/N 100


def test_enlarged_grids_are_kept(monkeypatch):
    """In whatever order PSFs are asked for, also where only one can be kept, and with gradients."""
    images = [torch.from_numpy(moffat(fwhm)).float() for fwhm in (2.6, 2.8, 3.0)]
    psf = prepare_psf(torch.stack(images), (24, 24))
    alone = [psf.with_transform(psf.transform[[number]]) for number in range(3)]
    expected = [grid.enlarged(torch.tensor([0]), 2.0) for grid in alone]
    calls = []
    monkeypatch.setattr(PSFGrid, "_on_period", lambda *args, _of=PSFGrid._on_period: calls.append(args) or _of(*args))
    for order in ([1], [2, 1, 0], [0, 0, 2]):
        grid = psf.enlarged(torch.tensor(order), 2.0)
        for number, transform in zip(order, grid.transform, strict=True):
            torch.testing.assert_close(transform, expected[number].transform[0], rtol=1e-5, atol=1e-7)
    assert [len(index) for _, index, _ in calls] == [1, 2]
    assert psf.enlarged(torch.tensor([0]), 4 / 3).padded != grid.padded
    monkeypatch.setitem(CHUNKS, "kept transforms", ChunkSizes((1,), (1,), "numbers", "few"))
    for order in ([1, 2], [0], [2, 0, 1]):
        grid = psf.enlarged(torch.tensor(order), 2.0)
        for number, transform in zip(order, grid.transform, strict=True):
            torch.testing.assert_close(transform, expected[number].transform[0], rtol=1e-5, atol=1e-7)
    learned = psf.with_transform(psf.transform.clone().requires_grad_())
    learned.enlarged(torch.tensor([0]), 2.0).transform.abs().sum().backward()
    assert learned.transform.grad.abs().sum() > 0
