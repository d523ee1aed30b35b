"""Compiled loops of the default encoder, and of the views it sees, against the operations of torch they replace."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from galmeasure.networks import StampInputs
from galmeasure.networks.encoders.mixer import StampEncoder
from galmeasure.networks.inputs import N_MOMENTS, N_NUMBERS, StampViews, make_views

pytest.importorskip("numba")


def stamps(*, error_shape=(1, 1, 1), side=64, count=7):
    """Inputs with bad pixels, one very bright galaxy, and noise from one number or from a map."""
    generator = torch.Generator().manual_seed(1)
    image = 3.0 * torch.randn(count, side, side, generator=generator)
    image[1] *= 1e4
    good = torch.rand(count, side, side, generator=generator) > 0.05
    error = 0.5 + torch.rand(error_shape, generator=generator)
    gain = torch.full((count,), 5.0)
    return StampInputs(image, error, good, gain, torch.zeros(1, 33, 33), torch.zeros(count, dtype=torch.int64))


@pytest.mark.parametrize(("shape", "side"), [((1, 1, 1), 64), ((7, 1, 1), 64), ((7, 64, 64), 64), ((7, 32, 32), 32)])
def test_views(both_ways, shape, side):
    compiled, plain = both_ways(lambda: make_views(stamps(error_shape=shape, side=side)))
    for name in ("near", "far"):
        torch.testing.assert_close(getattr(compiled, name), getattr(plain, name), rtol=1e-5, atol=2e-6)
        assert getattr(compiled, name).shape == (7, 4, side // 2, side // 2)


def test_views_keep_what_is_no_number(both_ways):
    inputs = stamps()
    inputs.image[2, 30, 30], inputs.good[2, 30, 30] = torch.nan, True
    compiled, plain = both_ways(lambda: make_views(inputs))
    assert plain.near[2].isnan().any()
    for name in ("near", "far"):
        torch.testing.assert_close(getattr(compiled, name).isnan(), getattr(plain, name).isnan())


@pytest.mark.parametrize("options", [{}, {"widths": (24, 40), "groups": 2, "depths": (1, 1)}])
@torch.no_grad()
def test_encoder(both_ways, options):
    generator = torch.Generator().manual_seed(2)
    torch.manual_seed(3)
    encoder = StampEncoder(**options)
    for block in (*encoder.fine, *encoder.coarse):
        torch.nn.init.normal_(block.psf.weight, std=0.1)
        torch.nn.init.normal_(block.norm.bias)
    numbers = [torch.randn(9, size, generator=generator) for size in (N_MOMENTS, N_NUMBERS, 64)]
    near, far = torch.randn(2, 9, 4, 32, 32, generator=generator)
    views = StampViews(near, far, numbers[0], numbers[1], torch.ones(9))
    compiled, plain = both_ways(lambda: encoder(views, numbers[2]))
    torch.testing.assert_close(compiled, plain, rtol=2e-5, atol=2e-5)
    alone = encoder(StampViews(near[:1], far[:1], numbers[0][:1], numbers[1][:1], torch.ones(1)), numbers[2][:1])
    torch.testing.assert_close(alone, plain[:1], rtol=2e-5, atol=2e-5)


def test_encoder_gives_gradients():
    """Where they are asked for, loops that know none are not used."""
    encoder = StampEncoder(widths=(24, 40), groups=2, depths=(1, 1))
    image = torch.randn(2, 4, 32, 32, requires_grad=True)
    views = StampViews(image, image, torch.randn(2, N_MOMENTS), torch.randn(2, N_NUMBERS), torch.ones(2))
    encoder(views, torch.randn(2, 64))[:, 0].sum().backward()
    assert image.grad.abs().sum() > 0
    assert all(value.grad is not None for value in encoder.fine[0].parameters())


def test_gelu():
    """As exact as single precision leaves it, zero far below, the argument far above, and NaN for NaN."""
    from galmeasure.networks.encoders.compiled import apply_gelu

    values = np.concatenate([np.linspace(-12.0, 12.0, 40_001), [np.inf, np.nan, -0.0]]).astype(np.float32)
    ours = values.copy()
    apply_gelu(ours)
    expected = functional.gelu(torch.from_numpy(values).double()).numpy()
    np.testing.assert_allclose(ours[:-3], expected[:-3], rtol=1e-6, atol=4e-6)
    assert ours[-3] == np.inf
    assert np.isnan(ours[-2])
    assert ours[-1] == 0.0
