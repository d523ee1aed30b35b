"""The exact model at a network's estimates, steps from there, and what a correction learns of them."""

import json

import numpy as np
import pytest
import torch
from _networks import tiny_weights
from click.testing import CliRunner
from safetensors.torch import load, save

from galmeasure import Cutouts, NeuralSersicFitter
from galmeasure.cli.commands import cli
from galmeasure.exceptions import WeightsError
from galmeasure.fitters import collect_sample, learn_correction
from galmeasure.fitters.batch_quality import batch_quality
from galmeasure.fitters.crop import CROPS, crop_sides
from galmeasure.fitters.neural.learn_correction import CorrectionSample
from galmeasure.fitters.neural.newton import NetworkFrame, evaluate_batch
from galmeasure.fitters.neural.posteriors import Posteriors
from galmeasure.fitters.tensors import BatchTensors
from galmeasure.likelihood import deviance
from galmeasure.networks import NATIVE_SIZE, NetworkConfig, SersicPosterior
from galmeasure.networks.correction import Correction, CorrectionConfig, Evaluation, n_inputs
from galmeasure.render import prepare_psf, render_sersic
from galmeasure.weights import get_weights
from galmeasure.weights.corrections import correction_card, correction_path, load_correction, save_correction

Y, X = np.mgrid[-16:17, -16:17]
PSF = np.exp(-(X**2 + Y**2) / (2 * 1.5**2))
PSF /= PSF.sum()
TRUTH = np.array([
    [3000.0, 1.5, 3.0, 0.2, -0.1, 31.6, 31.2], [20000.0, 3.5, 4.0, -0.1, 0.3, 31.2, 31.8],
    [2000.0, 0.8, 2.0, 0.05, 0.0, 31.5, 31.5], [120.0, 1.2, 2.5, 0.1, 0.1, 31.4, 31.7],
])  # fmt: skip
NETWORK = SersicPosterior(NetworkConfig(r_eff=(0.05, 16.0), widths=(16, 32), depths=(1, 1), features=16))


def batch_of(noise=0.0, truth=TRUTH, gain=None):
    models = render_sersic(torch.tensor(truth).float(), prepare_psf(torch.tensor(PSF)[None], (64, 64))).numpy()
    images = models + noise * np.random.default_rng(1).normal(size=models.shape)
    return next(iter(Cutouts(images, PSF, error=1.0, gain=gain).batches()))


def frame_at(values):
    """Frame whose starts are given parameters, in the pixels of 64 x 64 stamps."""
    values = torch.tensor(values, dtype=torch.float64)
    scale = torch.full((len(values),), 1000.0, dtype=torch.float64)
    one, zero = torch.ones_like(values), torch.zeros_like(values)
    start = NETWORK.transform.forward(values, scale)
    return NetworkFrame(start, scale, one, zero, torch.full_like(scale, 3.5), torch.zeros(len(values), 3).double())


def evaluate(batch, values, **options):
    with torch.inference_mode():
        return evaluate_batch(NETWORK, BatchTensors.of(batch), frame_at(values), **options)


@pytest.mark.parametrize("gain", [None, 2.0])
def test_score_is_the_derivative_of_the_posterior(gain):
    """Of rows too faint for steps, so that they stay where they are."""
    truth = TRUTH * np.array([0.01, 1, 1, 1, 1, 1, 1])
    batch = batch_of(1.0, truth, gain)
    away = truth * (1.0 + 0.05 * np.sin(np.arange(28).reshape(4, 7) + 1.0) * (np.arange(7) < 5))
    found = evaluate(batch, away).evaluation
    assert (found.steps == 0).all()
    psf = prepare_psf(torch.tensor(PSF)[None], (64, 64), dtype=torch.float64)
    image, error = torch.tensor(batch.image).double(), torch.ones((1, 1, 1), dtype=torch.float64)
    electrons = None if gain is None else torch.tensor(batch.gain)
    frame = frame_at(away)

    def log_posterior(u):
        values = NETWORK.transform.inverse(u, frame.flux_scale)
        loss = deviance(render_sersic(values, psf), image, error, torch.ones_like(image, dtype=torch.bool), electrons)
        shear = values[:, 3:5].norm(dim=1) / NETWORK.transform.g_max
        # flat in the logarithms of flux and size
        prior = NETWORK.transform.log_volume(u, frame.flux_scale) - u[:, 0] - values[:, 2].log()
        return (-0.5 * loss + prior + 2.0 * torch.log(1.0 - shear**2)).sum()

    u = frame.start.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(log_posterior(u), u)
    spread = found.fisher.diagonal(dim1=1, dim2=2).sqrt()
    np.testing.assert_allclose((found.score - wanted) / spread, 0.0, atol=0.02)


def test_steps_reach_the_optimum():
    """Bright galaxies without noise, from starts about two errors away; the faint one stays."""
    away = TRUTH.copy()
    away[:, :3] *= [1.01, 1.08, 1.03]
    away[:, 3] += 0.02
    found = evaluate(batch_of(), away)
    bright = found.evaluation.snr.numpy() > 40
    assert bright.tolist() == [True, True, True, False]
    sigma = torch.linalg.inv(found.evaluation.precision()).diagonal(dim1=1, dim2=2).sqrt()
    off = (found.evaluation.point - frame_at(TRUTH).start) / sigma
    assert off[:3].abs().max() < 0.35
    assert (found.evaluation.steps[:3] >= 1).all()
    assert found.evaluation.steps[3] == 0
    assert not found.restless.any()


def test_rows_do_not_depend_on_each_other():
    batch, away = batch_of(1.0), TRUTH * np.array([1.02, 1.05, 0.97, 1, 1, 1, 1])
    both = evaluate(batch, away)
    broken = away.copy()
    broken[[0, 2]] = np.nan
    some = evaluate(batch, broken)
    assert torch.isnan(some.evaluation.point[[0, 2]]).all()
    for name in ("point", "score", "chi2", "snr"):
        one, other = (getattr(each.evaluation, name)[[1, 3]] for each in (both, some))
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-3)


def test_quality_near_an_evaluation():
    batch = batch_of(1.0)
    found = evaluate(batch, TRUTH)
    posteriors = Posteriors(NETWORK, [], None, [], frame_at(TRUTH), found)
    near = found.values.copy()
    near[:, 0] *= 1.002
    near[:, 2] *= 0.998
    rows, quick = posteriors.quality(near)
    with torch.inference_mode():
        order, exact = batch_quality(BatchTensors.of(batch), near)
    order = np.argsort(order)
    np.testing.assert_allclose(quick.chi2, exact.chi2[order], atol=1.0)
    np.testing.assert_allclose(quick.snr, exact.snr[order], rtol=2e-3)
    assert rows.tolist() == [0, 1, 2, 3]
    assert (quick.n_pixels == NATIVE_SIZE**2).all()


def test_crops_hold_small_galaxies():
    values = torch.tensor([[50.0, 1.0, 1.0, 0.0, 0.0, 31.5, 31.5], [900.0, 1.0, 4.5, 0.3, 0.0, 31.5, 31.5],
                           [5e4, 6.0, 8.0, 0.0, 0.0, 31.5, 31.5]]).double()  # fmt: skip
    sides = crop_sides(values, np.full((3, 2), 64), torch.full((3,), 3.0).double())
    assert sides.tolist() == [CROPS[0], CROPS[1], 0]
    assert crop_sides(values, np.full((3, 2), 36), torch.full((3,), 3.0).double()).tolist() == [0, 0, 0]


# Corrections


def test_whitener():
    generator = torch.Generator().manual_seed(1)
    root = torch.randn((20, 7, 7), generator=generator, dtype=torch.float64) * torch.logspace(0, 1, 7).double()
    zero = torch.zeros(20).double()
    evaluation = Evaluation(torch.zeros(20, 7), torch.zeros(20, 7), root @ root.mT, *[zero] * 6)
    whitener, inverse = evaluation.whitener()
    identity = torch.eye(7).double().expand(20, 7, 7)
    np.testing.assert_allclose(whitener.mT @ evaluation.precision() @ whitener, identity, atol=1e-4)
    np.testing.assert_allclose(inverse @ whitener, identity, atol=1e-6)


def test_density_of_a_correction_is_that_of_its_draws():
    torch.manual_seed(3)
    correction = Correction(CorrectionConfig(hidden=16, flow_hidden=16), NETWORK).double().eval()
    with torch.no_grad():
        for each in correction.parameters():
            each.add_(0.05 * torch.randn_like(each))
    inputs = torch.randn((1, n_inputs(16)), dtype=torch.float64)
    whitener = torch.linalg.inv(torch.tril(torch.randn(1, 7, 7).double()) + 4.0 * torch.eye(7).double()).mT
    anchor, scale = 0.3 * torch.randn((1, 7)).double(), torch.full((1,), 100.0).double()
    context = correction.encode(inputs, anchor, whitener, scale)
    normal = torch.randn(7).double()
    draw = lambda z: correction.sample(context, z[None, None])[0, 0]  # noqa: E731
    volume = torch.autograd.functional.jacobian(draw, normal).det().abs().log()
    wanted = -0.5 * (normal**2).sum() - 3.5 * np.log(2 * np.pi) - volume
    found = correction.log_prob(context, draw(normal)[None])
    np.testing.assert_allclose(found.detach(), [wanted.detach()], atol=1e-3)
    summary = correction.summarise(context)
    assert (torch.linalg.eigvalsh(summary.covariance) > 0).all()
    assert (summary.quantiles.diff(dim=1) > 0).all()


def test_variance_is_one_that_the_domain_allows():
    """Where the data say nothing, as of the index of a point, and a Gaussian would reach far beyond the bounds."""
    torch.manual_seed(5)
    correction = Correction(CorrectionConfig(hidden=16, flow_hidden=16), NETWORK).eval()
    whitener = torch.diag_embed(torch.full((3, 7), 8.0))
    context = correction.encode(torch.randn(3, n_inputs(16)), torch.randn(3, 7), whitener, torch.full((3,), 100.0))
    with torch.inference_mode():
        summary = correction.summarise(context)
    variance = summary.covariance.diagonal(dim1=-2, dim2=-1)
    largest = correction.transform.largest_variance(summary.mean)
    assert (variance <= 1.0001 * largest).all()
    np.testing.assert_allclose(variance[:, 1], largest[:, 1], rtol=1e-4)  # the bound is reached in n
    n = summary.mean[:, 1]
    np.testing.assert_allclose(largest[:, 1], (n - 0.3) * (8.0 - n), rtol=1e-5)
    assert (torch.linalg.eigvalsh(summary.covariance.double()) > 0.0).all()


@pytest.fixture(scope="module")
def corrected(tmp_path_factory):
    """Untrained weights with a correction that was learned from a few galaxies."""
    from galmeasure.training import SimulationConfig, simulate_cutouts

    weights = get_weights(tiny_weights(tmp_path_factory.mktemp("corrected")).path)
    sample = collect_sample(weights, simulate_cutouts(SimulationConfig(), 1300, seed=1))
    correction, metrics = learn_correction(
        weights, sample, epochs=12, batch_size=64, config=CorrectionConfig(hidden=24)
    )
    save_correction(weights, correction, {"metrics": metrics, "simulated": 1300})
    return weights, metrics


def test_a_correction_is_learned_and_used(corrected):
    weights, metrics = corrected
    assert np.mean(metrics["coverage_68"]) == pytest.approx(0.68, abs=0.15)
    images = batch_of(1.0).image
    plain, better = (
        NeuralSersicFitter(weights=weights.path, refine=refine).fit(images, PSF, error=1.0) for refine in (None, "auto")
    )
    assert set(better["method"]) == {"neural+newton"}
    assert set(plain["method"]) == {"neural"}
    # an untrained network knows nothing, the exact model does
    off, plain_off = (np.abs(np.log(np.array(each["flux_fit"])[:3] / TRUTH[:3, 0])).mean() for each in (better, plain))
    assert off < plain_off
    assert (better["chi2_reduced"][:3] < plain["chi2_reduced"][:3]).all()
    assert (better["flux_q16"] < better["flux_q84"]).all()


def test_files_of_corrections(corrected, tmp_path):
    weights, _ = corrected
    path = correction_path(weights.path)
    assert load_correction(weights) is load_correction(weights)
    content = path.read_bytes()
    try:
        path.write_bytes(content[:200])
        with pytest.raises(WeightsError, match="is damaged, or no file of a correction"):
            NeuralSersicFitter(weights=weights.path)
        for place in np.linspace(20, len(content) - 1, 40).astype(int):
            flipped = content[place] ^ (1 << place % 8)
            path.write_bytes(content[:place] + bytes([flipped]) + content[place + 1 :])
            with pytest.raises(WeightsError):
                NeuralSersicFitter(weights=weights.path)
        path.write_bytes(content.replace(weights.sha256.encode(), b"0" * 64))
        with pytest.raises(WeightsError, match="does not match its sha256"):
            NeuralSersicFitter(weights=weights.path)
        path.write_bytes(_rewritten(content, weights_sha256="0" * 64, sha256=None))
        with pytest.raises(WeightsError, match="is not of these weights"):
            NeuralSersicFitter(weights=weights.path)
        path.write_bytes(_rewritten(content, sha256=None))  # of an earlier version
        assert load_correction(weights) is not None
        path.write_bytes(_rewritten(content, sha256=None, arguments={"hidden": 8192, "flow_hidden": 8192}))
        with pytest.raises(WeightsError, match="which its card declares"):
            load_correction(weights)
    finally:
        path.write_bytes(content)
    other = get_weights(tiny_weights(tmp_path, "other-v1").path)
    assert load_correction(other) is None


def _rewritten(content, **changes):
    """The file of a correction with another card; entries that are None go."""
    end = 8 + int.from_bytes(content[:8], "little")
    card = json.loads(json.loads(content[8:end])["__metadata__"]["card"]) | changes
    card = {name: value for name, value in card.items() if value is not None}
    return save(load(content), {"card": json.dumps(card)})


def test_few_galaxies_teach_nothing(corrected):
    with pytest.raises(ValueError, match="simulated must hold galaxies within the domain of the weights"):
        collect_sample(corrected[0], [])
    empty = CorrectionSample(*[torch.zeros(5)] * 5)
    with pytest.raises(ValueError, match="sample must hold at least 1000 galaxies, not 5"):
        learn_correction(corrected[0], empty)


def test_command_learns_a_correction(tmp_path):
    weights = tiny_weights(tmp_path)
    done = CliRunner().invoke(cli, ["weights", str(weights.path), "--correct", "1500"])
    assert done.exit_code == 0, done.output
    assert "tiny-v1.correction" in done.output
    card = correction_card(weights)
    assert (card["simulated"], card["weights"], card["seed"]) == (1500, "tiny-v1", 31)
    again = CliRunner().invoke(cli, ["weights", str(weights.path), "--correct", "1500"])
    assert again.exit_code != 0
    assert "exists already; --overwrite replaces it" in again.output
    assert CliRunner().invoke(cli, ["weights", "--correct", "1500"]).exit_code != 0
