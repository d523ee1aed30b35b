"""Posterior networks that learn from another one: the distance between posteriors, and the training by it."""

import dataclasses

import pytest
import torch

from galmeasure.networks import NetworkConfig, SersicPosterior, build_network
from galmeasure.networks.distillation import gaussian_divergence, level_distance
from galmeasure.training import read_training_config, train
from galmeasure.training.pool import StampPool
from galmeasure.training.trainer import Trainer

SMALL = {"widths": (8, 8), "depths": (1, 1)}


def gaussians(count, seed):
    """Centres and lower triangular factors of random Gaussians in seven dimensions."""
    generator = torch.Generator().manual_seed(seed)
    centre, factor = (torch.randn((count, *shape), generator=generator) for shape in ((7,), (7, 7)))
    factor = 0.2 * torch.tril(factor, -1) + torch.diag_embed(0.5 + torch.rand((count, 7), generator=generator))
    return centre, factor


def test_divergence_of_gaussians_is_that_of_torch():
    target, other = gaussians(16, 0), gaussians(16, 1)
    normal = [torch.distributions.MultivariateNormal(centre, scale_tril=factor) for centre, factor in (target, other)]
    expected = torch.distributions.kl_divergence(*normal)
    torch.testing.assert_close(gaussian_divergence(target, *other), torch.log1p(expected))
    torch.testing.assert_close(gaussian_divergence(target, *target), torch.zeros(16), atol=1e-5, rtol=0.0)


def test_divergence_of_gaussians_far_apart_is_finite():
    centre, factor = gaussians(2, 0)
    assert torch.isfinite(gaussian_divergence((centre, factor), centre + 1e6, 1e-4 * factor)).all()


def test_distance_of_quantiles():
    levels = torch.zeros(1, 5, 7)
    width = torch.full((1, 7), 2.0)
    assert level_distance(levels, levels, width).item() == 0.0
    torch.testing.assert_close(level_distance(levels, levels + 1.0, width), torch.tensor([35 * 0.5 * 0.5**2]))
    torch.testing.assert_close(level_distance(levels, levels + 20.0, width), torch.tensor([35 * (10.0 - 0.5)]))


@pytest.fixture(scope="module")
def config():
    """Configuration of a small network that learns from the default."""
    config = read_training_config("survey-v3-distilled")
    network = dataclasses.replace(config.network, **SMALL)
    return dataclasses.replace(
        config, name="fast", network=network, steps=60, pool=128, batch_size=32, held_out=64, validate_every=1000,
        warm_up=5, bf16=False, ema=0.9,
    )  # fmt: skip


@pytest.fixture(scope="module")
def stamps(config):
    pool = StampPool(config.simulation, capacity=64, seed=5)
    list(pool.fill())
    return pool.draw(32)


def test_a_network_is_no_distance_from_itself(config, stamps):
    torch.manual_seed(1)
    teacher, other = build_network(config.network).eval(), build_network(config.network).eval()
    assert teacher.loss(*stamps, teacher=teacher)["teacher"].item() == pytest.approx(0.0, abs=1e-4)
    assert "teacher" not in teacher.loss(*stamps)
    losses = other.loss(*stamps, teacher=teacher)
    assert losses["teacher"].item() > 0.5
    losses["teacher"].backward()
    assert all(tensor.grad is None for tensor in teacher.parameters())
    assert other.encoder.near.weight.grad.abs().sum() > 0.0
    assert all(tensor.grad is None for tensor in other.flow.parameters())


def test_training_comes_closer_to_the_teacher(config, stamps, tmp_path):
    trainer = Trainer(config, tmp_path)
    teacher = trainer.teacher.network
    before = trainer.network.loss(*stamps, teacher=teacher)["teacher"].item()
    flow = [tensor.clone() for tensor in trainer.network.flow.parameters()]
    for old, new in zip(teacher.flow.parameters(), flow, strict=True):
        assert torch.equal(old, new)  # the training begins with all of the teacher but its encoder
    trainer.run(steps=int(0.4 * config.steps), progress_bar=False)
    assert trainer.network.loss(*stamps, teacher=teacher)["teacher"].item() < 0.8 * before
    for old, new in zip(flow, trainer.network.flow.parameters(), strict=True):
        assert torch.equal(old, new)  # until the truth is learned too, the flow stays as it is
    trainer.run(progress_bar=False)
    assert any(not torch.equal(old, new) for old, new in zip(flow, trainer.network.flow.parameters(), strict=True))


def test_card_names_the_teacher(config, tmp_path):
    weights = train(dataclasses.replace(config, steps=2), tmp_path, progress_bar=False)
    assert weights.card["training"]["teacher"] == "survey-v3"
    assert "teacher" not in weights.card["metrics"]["loss"]


@pytest.mark.parametrize(
    ("teacher", "change", "message"),
    [
        ("xception-set1-v1", {}, "teacher must be weights of a SersicPosterior, not of a PointPosterior"),
        ("survey-v3", {"features": 64}, "teacher must have the same features .*: 256, not 64"),
        ("study-v2", {}, r"teacher must have the same n as .*: \(0.5, 6.0\), not \(0.3, 8.0\)"),
    ],
)
def test_teachers_that_do_not_fit(config, tmp_path, teacher, change, message):
    network = dataclasses.replace(config.network, **change)
    wrong = dataclasses.replace(config, teacher=teacher, start=None, network=network)
    with pytest.raises(ValueError, match=message):
        Trainer(wrong, tmp_path)


def test_encoder_of_the_fast_weights_is_a_third(config):
    sizes = [read_training_config(name).network for name in ("survey-v3", "survey-v3-fast")]
    large, fast = (sum(tensor.numel() for tensor in SersicPosterior(size).encoder.fine.parameters()) for size in sizes)
    assert isinstance(sizes[1], NetworkConfig)
    assert fast < 0.5 * large
