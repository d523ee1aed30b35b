"""Networks of point estimates: the study's Xception, its labels, its errors, its training by a teacher."""

import dataclasses

import numpy as np
import pytest
import torch
from astropy.table import Table

from galmeasure import NeuralSersicFitter, get_weights
from galmeasure.cli import main
from galmeasure.fitters.neural.recentre import off_middle
from galmeasure.flags import Flag
from galmeasure.networks import StampInputs, build_network
from galmeasure.networks.encoders.xception import SeparableConv2d
from galmeasure.networks.inputs import NATIVE_SIZE, PSF_SIZE
from galmeasure.networks.point_config import PointConfig
from galmeasure.parameters import SERSIC
from galmeasure.priors import Range, get_prior
from galmeasure.simulation.cutouts import simulate_cutouts
from galmeasure.training import Trainer, read_training_config, train, write_training_config
from galmeasure.training.pool import StampPool, orient
from galmeasure.training.teacher import Teacher
from galmeasure.training.trainer import begin_with
from galmeasure.weights import load_network, save_weights
from galmeasure.workflows.ood import write_ood

SMALL = {"first": 4, "width": 8, "depth": 2}
FIVE = list(SERSIC.indices("flux", "n", "r_eff", "g1", "g2"))
CENTRE = list(SERSIC.indices("x", "y"))


def small_config(name="xception-set1-v1", **changes):
    """Configuration of a short training of a small network."""
    config = read_training_config(name)
    network = dataclasses.replace(config.network, encoder_options=SMALL)
    options = {"steps": 6, "batch_size": 16, "pool": 128, "held_out": 64, "validate_every": 100, "bf16": False}
    options |= {"log_every": 2, "start": None, "network": network}
    return dataclasses.replace(config, **(options | changes))


@pytest.fixture(scope="module")
def stamps():
    """Stamps of data set 3 with their truth."""
    pool = StampPool(read_training_config("xception-set3-v1").simulation, capacity=64, seed=5)
    list(pool.fill())
    return pool.draw(48)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of a small network after some steps, with a teacher."""
    return train(small_config(), tmp_path_factory.mktemp("train"), progress_bar=False)


@pytest.fixture
def network():
    torch.manual_seed(3)
    return build_network(PointConfig(encoder_options=SMALL, psf_channel=True)).eval().requires_grad_(False)


def test_sizes_of_the_study():
    body = build_network(PointConfig()).body
    numbers = sum(tensor.numel() for tensor in body.state_dict().values())
    assert numbers == 109_304
    assert sum(isinstance(module, SeparableConv2d) for module in body.modules()) == 18
    image = torch.zeros(1, 1, NATIVE_SIZE, NATIVE_SIZE)
    assert body.maps.feature_maps(image).shape == (1, 128, 16, 16)


def test_labels_are_scaled_to_unit_range(network):
    config = network.config
    low = torch.tensor([[config.flux[0], config.n[0], config.r_eff[0], -config.g_max, -config.g_max, 31.5, 31.5]])
    high = torch.tensor([[config.flux[1], config.n[1], config.r_eff[1], config.g_max, config.g_max, 31.5, 31.5]])
    one = torch.ones(1)
    torch.testing.assert_close(network._to_labels(low, one), -torch.ones(1, 5))
    torch.testing.assert_close(network._to_labels(high, one), torch.ones(1, 5))
    torch.testing.assert_close(network._to_parameters(network._to_labels(high, one), one), high)


def test_estimates_stay_in_the_domain(network, stamps):
    inputs, _ = stamps
    context = network.encode(inputs)
    wild = dataclasses.replace(context, features=context.features * 300.0)
    mean = network.summarise(wild).mean
    assert network.inside(mean).all()
    assert network.inside(network.sample(wild, torch.randn(5, len(inputs), 7)).flatten(0, 1)).all()


def test_summary_and_draws_agree(network, stamps):
    inputs, _ = stamps
    context = network.encode(inputs)[:4]
    narrow = context.features.clone()
    narrow[:, :5] *= 0.1
    narrow[:, 5:] = 0.0
    narrow[:, [5, 7, 10, 14, 19]] = -3.0  # the diagonal of the triangle
    narrow[:, 6] = 0.03
    context = dataclasses.replace(context, features=narrow)
    summary = network.summarise(context)
    draws = network.sample(context, torch.randn((40_000, 4, 7), generator=torch.Generator().manual_seed(1)))
    error = summary.covariance.diagonal(dim1=1, dim2=2).sqrt()
    torch.testing.assert_close(draws.mean(0)[:, FIVE], summary.mean[:, FIVE], rtol=0.0, atol=float(error.max()) * 0.02)
    torch.testing.assert_close(draws.std(0)[:, FIVE], error[:, FIVE], rtol=0.02, atol=0.0)
    correlation = torch.corrcoef(draws[:, 0, :2].T)[0, 1]
    expected = summary.covariance[0, 0, 1] / (error[0, 0] * error[0, 1])
    assert abs(correlation - expected) < 0.02
    levels = torch.quantile(draws[..., FIVE], 0.84134475, dim=0)
    torch.testing.assert_close(summary.quantiles[:, 3, FIVE], levels, rtol=0.0, atol=float(error.max()) * 0.05)
    assert (summary.mean[:, CENTRE] == 31.5).all()
    assert (error[:, CENTRE] == 0.0).all()


def test_density_is_that_of_the_draws(network, stamps):
    """The mean of the density over draws is that of a Gaussian, and the volume is in the units of the parameters."""
    context = network.encode(stamps[0])[:2]
    features = torch.zeros_like(context.features)
    features[:, [5, 7, 10, 14, 19]] = -4.0
    context = dataclasses.replace(context, features=features)
    draws = network.sample(context, torch.randn((20_000, 2, 7), generator=torch.Generator().manual_seed(2)))
    covariance = network.summarise(context).covariance[:, FIVE][:, :, FIVE]
    entropy = 0.5 * (torch.logdet(covariance) + 5.0 * (1.0 + np.log(2.0 * np.pi)))
    torch.testing.assert_close(-network.log_prob(context, draws).mean(0), entropy, rtol=0.0, atol=0.05)


def test_errors_pass_no_gradient_to_the_body(network, stamps):
    inputs, truth = stamps
    network.requires_grad_(True).loss(inputs, truth)["covariance"].backward()
    assert all(tensor.grad is None or not tensor.grad.any() for tensor in network.body.parameters())
    assert any(tensor.grad.any() for tensor in network.errors.parameters())


def test_targets_replace_the_truth_in_the_labels_only(network, stamps):
    inputs, truth = stamps
    other = truth.clone()
    other[:, SERSIC.index("n")] += 1.0
    plain, moved = network.loss(inputs, truth), network.loss(inputs, truth, targets=other)
    assert moved["mean"] != plain["mean"]
    assert moved["covariance"] == plain["covariance"]


def test_psf_channel(network, stamps):
    """A network that sees the PSF answers otherwise for another PSF; the others do not."""
    inputs, _ = stamps
    wide = torch.ones_like(inputs.psf) / PSF_SIZE**2
    blurred = dataclasses.replace(inputs, psf=wide)
    assert not torch.equal(network.encode(inputs).features, network.encode(blurred).features)
    blind = build_network(PointConfig(encoder_options=SMALL)).eval()
    assert torch.equal(blind.encode(inputs).features, blind.encode(blurred).features)


def test_bad_pixels_do_not_matter(network, stamps):
    inputs, _ = stamps
    good = inputs.good.clone()
    good[:, 10, 20] = False
    spoiled = torch.where(good, inputs.image, 1e6)
    first = network.encode(dataclasses.replace(inputs, good=good))
    second = network.encode(dataclasses.replace(inputs, good=good, image=spoiled))
    assert torch.equal(first.features, second.features)


def test_normalisation_is_that_of_the_data(network, stamps):
    inputs, _ = stamps
    network.adapt(inputs)
    images = network.body.normalise(network.body._channels(inputs, inputs.psf[inputs.psf_index]))
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(2), rtol=0.0, atol=1e-4)
    torch.testing.assert_close(images.var((0, 2, 3)), torch.ones(2), rtol=1e-3, atol=0.0)
    assert network.body.normalise.count == len(inputs)


def test_gaussians_have_the_width_of_the_summary(network, stamps):
    context = network.encode(stamps[0])
    summary = network.summarise(context)
    centre, factor, _, _ = network.gaussians(context)
    jacobian = network.transform.jacobian(centre, context.flux_scale)
    covariance = jacobian @ factor @ factor.mT @ jacobian.mT
    expected = summary.covariance[:, FIVE][:, :, FIVE]
    torch.testing.assert_close(covariance[:, FIVE][:, :, FIVE], expected, rtol=2e-3, atol=1e-3)


def test_teacher_knows_the_centre():
    """Its means have the true centre, and are nearer to the truth in the shear than the truth of another galaxy."""
    config = read_training_config("xception-set2-v1")
    pool = StampPool(config.simulation, capacity=64, seed=8)
    list(pool.fill())
    inputs, truth = pool.draw(64)
    means = Teacher("study-v2").means(inputs, truth)
    assert torch.equal(means[:, CENTRE], truth[:, CENTRE])
    errors = (means - truth)[:, FIVE].std(0)
    assert (errors < 0.7 * truth[:, FIVE].std(0)).all()


def test_trained_weights_measure(weights, tmp_path):
    assert weights.card["architecture"] == "PointPosterior"
    assert weights.card["encoder"] == "xception"
    assert weights.card["training"]["teacher"] == "study-v2"
    assert set(weights.card["metrics"]["rmse"]) == {"flux", "n", "r_eff", "g1", "g2"}
    cutouts, _ = next(simulate_cutouts(small_config().simulation, 8, seed=2))
    fitter = NeuralSersicFitter(weights=weights.path)
    table = fitter.fit(cutouts)
    for name in ("flux", "n", "r_eff", "g1", "g2"):
        assert np.isfinite(np.asarray(table[f"{name}_fit"])).all()
        assert (np.asarray(table[f"{name}_err"]) > 0).all()
    assert (np.asarray(table["x_err"]) == 0).all()
    assert np.isfinite(fitter.log_prob(cutouts, parameters=table)).all()
    draws = fitter.sample(cutouts, n_samples=20)
    assert np.isfinite(np.asarray(draws["n"])).all()
    modes = NeuralSersicFitter(weights=weights.path, summary="mode").fit(cutouts)
    assert np.array_equal(np.asarray(modes["n_fit"]), np.asarray(table["n_fit"]))
    table.write(tmp_path / "table.ecsv")
    assert len(Table.read(tmp_path / "table.ecsv")) == 8


def off_middle_rows(prior):
    """Which of 100 simulated galaxies count as off the middle, and their distances from it."""
    config = dataclasses.replace(small_config().simulation, prior=prior)
    cutouts, truth = next(simulate_cutouts(config, 100, seed=4))
    (batch,) = cutouts.batches(2**24)
    distance = np.hypot(*(truth[:, CENTRE] - 31.5).T)
    return off_middle(batch, np.arange(100)), distance[batch.index]


def test_galaxies_off_the_middle_are_noticed():
    is_off, distance = off_middle_rows("study")
    assert is_off[distance > 0.55].mean() > 0.1
    assert is_off[distance < 0.2].mean() < 0.05
    is_off, _ = off_middle_rows(small_config().simulation.prior)
    assert is_off.mean() < 0.02


def test_galaxies_off_the_middle_are_flagged(weights):
    """Two pixels away, which no noise explains."""
    cutouts, _ = next(simulate_cutouts(small_config().simulation, 4, seed=2))
    shifted = np.stack([np.roll(cutouts.image(row), 2, axis=1) for row in range(4)])
    table = NeuralSersicFitter(weights=weights.path).fit(shifted, cutouts.psf_image(0), error=cutouts.error(0))
    assert ((np.asarray(table["flags"]) & int(Flag.OUTSIDE_DOMAIN)) > 0).all()


@pytest.mark.parametrize(
    "options", [{"refine": "importance"}, {"fixed": {"x": 31.5}}, {"prior": "galaxies"}], ids=lambda o: next(iter(o))
)
def test_what_needs_the_centre_is_refused(weights, options):
    with pytest.raises(ValueError, match=rf"{next(iter(options))} must be .* x, y as known"):
        NeuralSersicFitter(weights=weights.path, **options)


def test_training_resumes(tmp_path):
    whole = Trainer(small_config(), tmp_path / "whole")
    whole.run(progress_bar=False)
    half = Trainer(small_config(), tmp_path / "half")
    half.run(progress_bar=False, steps=3)
    again = Trainer(small_config(), tmp_path / "half")
    again.run(progress_bar=False)
    for one, two in zip(whole.network.state_dict().values(), again.network.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_more_channels_begin_with_the_weights_of_fewer(weights):
    network = build_network(small_config("xception-set3-v1").network)
    assert not begin_with(network, weights.path)  # the normalisation of the new channel is not known
    source = load_network(weights.path).body.maps
    assert torch.equal(network.body.maps.stem.weight[:, :1], source.stem.weight)
    assert (network.body.maps.stem.weight[:, 1] == 0.0).all()
    assert torch.equal(network.body.maps.blocks[0].first.pointwise.weight, source.blocks[0].first.pointwise.weight)


def test_unknown_body(tmp_path, network, weights):
    with pytest.raises(ValueError, match="body must be one of .*xception.*, not 'inception'"):
        build_network(PointConfig(encoder="inception"))
    saved = save_weights(tmp_path / "again.safetensors", network, weights.card)
    assert load_network(saved.path).config == network.config


def test_inputs_may_lack_a_gain(network, stamps):
    inputs, truth = stamps
    endless = StampInputs(inputs.image, inputs.error, inputs.good, torch.full_like(inputs.gain, torch.inf), inputs.psf,
                          inputs.psf_index, inputs.psf_quality)  # fmt: skip
    assert all(torch.isfinite(value) for value in network.loss(endless, truth).values())


def test_dropout_in_numbered_passes(stamps):
    """The same maps are left out for all galaxies, so that a row does not depend on the others; scatter adds errors."""
    inputs, _ = stamps
    torch.manual_seed(3)
    config = PointConfig(encoder_options=SMALL | {"dropout": 0.3}, passes=8)
    network = build_network(config).eval().requires_grad_(False)
    alone = build_network(dataclasses.replace(config, passes=0)).eval().requires_grad_(False)
    alone.load_state_dict(network.state_dict())
    summary, plain = network.summarise(network.encode(inputs)), alone.summarise(alone.encode(inputs))
    again = network.summarise(network.encode(inputs))
    assert torch.equal(summary.mean, again.mean)
    rows = torch.tensor([5])
    one = dataclasses.replace(
        inputs, image=inputs.image[rows], error=inputs.error[rows], good=inputs.good[rows], gain=inputs.gain[rows],
        psf_index=inputs.psf_index[rows], noiseless=None,
    )  # fmt: skip
    torch.testing.assert_close(network.summarise(network.encode(one)).mean, summary.mean[rows], rtol=1e-4, atol=1e-4)
    assert not torch.equal(summary.mean, plain.mean)
    labels = torch.stack([network.body(inputs, inputs.psf[inputs.psf_index], number=k)[0] for k in range(8)])
    scatter = labels.var(0, correction=0) * network.half_range.square()
    errors = summary.covariance.diagonal(dim1=1, dim2=2)[:, FIVE]
    assert (errors >= 0.99 * scatter).all()


def test_training_without_noise(tmp_path):
    trainer = Trainer(small_config("xception-set1-noiseless-v1"), tmp_path)
    trainer.run(progress_bar=False, steps=1)
    inputs, _ = trainer._held_out()
    assert torch.equal(inputs.image, inputs.noiseless)
    assert trainer.validate()["stamps"] == 64


def test_wrong_dropout():
    with pytest.raises(ValueError, match=r"dropout must lie between 0 and 1, not 1\.5"):
        build_network(PointConfig(encoder_options={"dropout": 1.5}))


def test_galaxies_of_the_training_lie_in_the_domain():
    """Of a network that knows one, under-sampled PSF; another PSF is noticed."""
    simulation = read_training_config("xception-set1-v1").simulation
    cutouts, _ = next(simulate_cutouts(simulation, 60, seed=9))
    fitter = NeuralSersicFitter(weights="xception-set1-v1")
    outside = (np.asarray(fitter.fit(cutouts)["flags"]) & int(Flag.OUTSIDE_DOMAIN)) > 0
    assert outside.mean() < 0.3  # galaxies at the edges of the prior
    wide = dataclasses.replace(get_prior(simulation.prior), psf_fwhm=Range(2.9, 2.91))
    cutouts, _ = next(simulate_cutouts(dataclasses.replace(simulation, prior=wide), 20, seed=9))
    assert ((np.asarray(fitter.fit(cutouts)["flags"]) & int(Flag.OUTSIDE_DOMAIN)) > 0).all()


def test_command_trains_point_estimates(tmp_path, monkeypatch):
    """They have neither a correction nor an out-of-distribution score, and say so when asked for one."""
    write_training_config(small_config(teacher=None, steps=2), tmp_path / "mine.toml")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["train", "mine.toml", "-o", "out", "--no-progress"])
    assert end.value.code == 0
    assert [path.suffix for path in sorted((tmp_path / "out").glob("xception*"))] == [".json", ".safetensors"]
    with pytest.raises(SystemExit) as end:
        main(["weights", "out/xception-set1-v1.safetensors", "--correct", "2000"])
    assert end.value.code == 2
    with pytest.raises(ValueError, match="an out-of-distribution score needs the posterior of all parameters"):
        write_ood(get_weights(tmp_path / "out" / "xception-set1-v1.safetensors"), 2000)


def test_fainter_galaxies_than_those_of_the_training_are_flagged():
    """Although the network gives none of them a flux below the least of its training."""
    simulation = read_training_config("xception-set1-v1").simulation
    faint = dataclasses.replace(get_prior(simulation.prior), snr=Range(2.0, 5.0), electrons=Range(0.1e4, 5e4))
    cutouts, _ = next(simulate_cutouts(dataclasses.replace(simulation, prior=faint), 40, seed=9))
    table = NeuralSersicFitter(weights="xception-set1-v1").fit(cutouts)
    assert ((np.asarray(table["flags"]) & int(Flag.OUTSIDE_DOMAIN)) > 0).mean() > 0.9


def test_views_make_the_estimates_symmetric(weights, stamps):
    """Those of a turned stamp are those of the stamp, with the signs of the shear."""
    inputs, truth = stamps
    network = load_network(weights.path).with_views(8)
    plain = network.summarise(network.encode(inputs))
    for element in (1, 2, 7):
        turned, _ = orient(inputs, truth, element)
        moved = network.summarise(network.encode(turned))
        g1, g2 = SERSIC.indices("g1", "g2")
        sign = torch.ones(7)
        sign[g1] = -1.0 if element & 1 else 1.0
        sign[g2] = -1.0 if element == 2 else 1.0
        torch.testing.assert_close(moved.mean * sign, plain.mean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(sign[:, None] * moved.covariance * sign, plain.covariance, rtol=1e-3, atol=1e-4)
    once = load_network(weights.path)
    assert not torch.allclose(plain.mean, once.summarise(once.encode(inputs)).mean)


def test_views_of_the_fitter(weights):
    cutouts, _ = next(simulate_cutouts(small_config().simulation, 4, seed=2))
    table = NeuralSersicFitter(weights=weights.path, views=8).fit(cutouts)
    once = NeuralSersicFitter(weights=weights.path).fit(cutouts)
    assert not np.array_equal(np.asarray(table["n_fit"]), np.asarray(once["n_fit"]))
    with pytest.raises(ValueError, match="views must be 1 or 8 with weights xception-set1-v1, not 4"):
        NeuralSersicFitter(weights=weights.path, views=4)
    with pytest.raises(ValueError, match="views must be 1 with weights survey-v3, not 8"):
        NeuralSersicFitter(views=8)
