"""Networks: parametrisation, views, symmetry, flow and heads."""

import math

import pytest
import torch
import zuko

from galmeasure.networks import (
    NATIVE_SIZE,
    PSF_SIZE,
    Context,
    NetworkConfig,
    ParameterTransform,
    SersicPosterior,
    StampInputs,
    make_views,
)
from galmeasure.networks.inputs import N_MOMENTS, N_NUMBERS
from galmeasure.networks.splines import spline_flow
from galmeasure.priors import get_prior
from galmeasure.training.pool import orient

TINY = {
    "widths": (16, 32), "depths": (1, 1), "groups": 2, "features": 32, "psf_features": 16, "flow_hidden": 16,
    "flow_context": 16,
}  # fmt: skip


@pytest.fixture
def transform():
    return ParameterTransform((0.3, 8.0), (0.2, 16.0), 0.9, 1.5, NATIVE_SIZE)


def draw_parameters(count=200, name="survey", seed=0):
    generator = torch.Generator().manual_seed(seed)
    parameters = get_prior(name).sample(count, (NATIVE_SIZE, NATIVE_SIZE), generator=generator)
    parameters[:, 0] = torch.exp(3.0 + torch.randn(count, generator=generator))
    return parameters


def gaussian(x, y, width):
    grid = torch.arange(NATIVE_SIZE, dtype=torch.float32)
    return torch.exp(-0.5 * ((grid - x) ** 2 + (grid[:, None] - y) ** 2) / width**2)


def stamps(count=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn((count, NATIVE_SIZE, NATIVE_SIZE), generator=generator)
    image += torch.stack([(5.0 + 10.0 * i) * gaussian(31.0 + 0.3 * i, 32.0, 2.0 + 0.3 * i) for i in range(count)])
    half = PSF_SIZE // 2
    offset = torch.arange(-half, half + 1, dtype=torch.float32)
    psf = torch.exp(-0.5 * (offset**2 / 2.0 + offset[:, None] ** 2 / 3.0))
    good = torch.rand(image.shape, generator=generator) > 0.05
    return StampInputs(
        image, torch.ones_like(image), good, torch.full((count,), 30.0), (psf / psf.sum())[None],
        torch.zeros(count, dtype=torch.long),
    )  # fmt: skip


def network(seed=0, **options):
    torch.manual_seed(seed)
    return SersicPosterior(NetworkConfig(**(TINY | options))).eval()


def test_transform_round_trip(transform):
    parameters = draw_parameters().double()
    scale = torch.full((len(parameters),), 20.0, dtype=torch.float64)
    values = transform.forward(parameters, scale)
    assert torch.isfinite(values).all()
    torch.testing.assert_close(transform.inverse(values, scale), parameters, rtol=1e-6, atol=1e-6)
    values = transform.marginal_forward(parameters, scale)
    torch.testing.assert_close(transform.marginal_inverse(values, scale), parameters, rtol=1e-6, atol=1e-6)


def test_volume_is_the_determinant_of_the_derivatives(transform):
    parameters = draw_parameters(20).double()
    scale = torch.full((20,), 20.0, dtype=torch.float64)
    values = transform.forward(parameters, scale)
    for row in range(20):
        jacobian = torch.autograd.functional.jacobian(lambda v, r=row: transform.inverse(v, scale[r]), values[row])
        expected = torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(transform.log_volume(values[row], scale[row]), expected, rtol=1e-5, atol=1e-5)


def test_jacobian_is_that_of_autograd(transform):
    """Also where there is no shear, and far out, where the logits are flat."""
    parameters = draw_parameters(20).double()
    parameters[0, 3:5] = 0.0
    parameters[1, 3:5] = torch.tensor([0.0, -0.89])
    scale = torch.logspace(-1.0, 3.0, 20, dtype=torch.float64)
    values = transform.forward(parameters, scale)
    values[2, [1, 2, 5, 6]] = torch.tensor([-8.0, 7.0, 9.0, -6.0]).double()
    found = transform.jacobian(values, scale)
    for row in range(20):
        expected = torch.autograd.functional.jacobian(lambda v, r=row: transform.inverse(v, scale[r]), values[row])
        torch.testing.assert_close(found[row], expected, rtol=1e-8, atol=1e-10 * scale[row])
    volume = torch.linalg.slogdet(found).logabsdet
    torch.testing.assert_close(transform.log_volume(values, scale), volume, rtol=1e-6, atol=1e-6)


def test_transform_keeps_all_numbers_inside_the_domain(transform):
    values = 30.0 * torch.randn((1000, 7), generator=torch.Generator().manual_seed(1))
    values[:, 0] = 0.0
    _, n, r_eff, g1, g2, x, y = transform.inverse(values, torch.ones(1000)).unbind(-1)
    assert ((n >= 0.3) & (n <= 8.0)).all()
    assert ((r_eff >= 0.2 - 1e-5) & (r_eff <= 16.0 + 1e-4)).all()
    assert (torch.hypot(g1, g2) <= 0.9 + 1e-6).all()
    assert ((x - 31.5).abs() <= 1.5).all()
    assert ((y - 31.5).abs() <= 1.5).all()


def test_marginal_numbers_depend_on_one_parameter_each(transform):
    parameters = draw_parameters(10).double()
    scale = torch.ones(10, dtype=torch.float64)
    other = parameters.clone()
    other[:, 4] *= 0.5
    changed = (transform.marginal_forward(other, scale) != transform.marginal_forward(parameters, scale)).any(0)
    assert changed.tolist() == [False, False, False, False, True, False, False]


def test_views_know_a_gaussian():
    image = 40.0 * torch.stack([gaussian(31.5, 31.5, width) for width in (2.0, 5.8)])
    inputs = StampInputs(
        image, torch.ones(1, 1, 1), torch.ones_like(image, dtype=torch.bool), torch.full((2,), torch.inf),
        torch.zeros(1, PSF_SIZE, PSF_SIZE), torch.zeros(2, dtype=torch.long),
    )  # fmt: skip
    views = make_views(inputs)
    assert views.near.shape == views.far.shape == (2, 4, 32, 32)
    assert views.moments.shape == (2, N_MOMENTS)
    assert views.numbers.shape == (2, N_NUMBERS)
    true_flux = 40.0 * 2.0 * math.pi * torch.tensor([2.0, 5.8]) ** 2
    torch.testing.assert_close(views.flux_scale, true_flux, rtol=0.5, atol=0.0)
    torch.testing.assert_close(views.near[:, 0], torch.asinh(image[:, 16:48, 16:48]))
    torch.testing.assert_close(views.numbers[:, 2], torch.zeros(2))  # no shot noise


def test_bad_pixels_do_not_matter():
    inputs = stamps()
    other = StampInputs(
        torch.where(inputs.good, inputs.image, 1e6),
        inputs.error,
        inputs.good,
        inputs.gain,
        inputs.psf,
        inputs.psf_index,
    )
    first, second = make_views(inputs), make_views(other)
    for name in ("near", "far", "moments", "numbers", "flux_scale"):
        assert torch.equal(getattr(first, name), getattr(second, name))


def test_bad_pixels_take_the_opposite_value():
    inputs = stamps(1)
    good = torch.ones_like(inputs.good)
    good[0, 30, 33] = False
    views = make_views(StampInputs(inputs.image, inputs.error, good, inputs.gain, inputs.psf, inputs.psf_index))
    torch.testing.assert_close(views.near[0, 0, 14, 17], torch.asinh(inputs.image[0, 33, 30]))
    assert views.near[0, 2, 14, 17] == 0.0


def test_summary_is_in_the_domain_and_in_order():
    net = network()
    with torch.inference_mode():
        summary = net.summarise(net.encode(stamps()))
    assert summary.mean.shape == (6, 7)
    assert torch.linalg.cholesky_ex(summary.covariance).info.eq(0).all()
    assert (summary.quantiles.diff(dim=1) >= 0).all()
    assert (torch.hypot(summary.mean[:, 3], summary.mean[:, 4]) < 0.9).all()


def test_gaussians_are_those_of_flow_and_heads():
    """The second is mean and covariance to first order; the first is what the flow is relative to."""
    net = network(4).double()
    with torch.no_grad():
        for each in net.heads[2], net.base:
            each.weight.mul_(3.0)
        net.heads[2].bias[7:] -= 2.0
        context = network(4).encode(stamps()).double()
        flow_centre, flow_factor, head_centre, head_factor = net.gaussians(context)
        summary = net.summarise(context)
        torch.testing.assert_close(net.transform.inverse(head_centre, context.flux_scale), summary.mean)
        jacobian = torch.stack([
            torch.autograd.functional.jacobian(lambda v, r=row: net.transform.inverse(v, context.flux_scale[r]),
                                               head_centre[row])
            for row in range(len(head_centre))
        ])  # fmt: skip
        first_order = jacobian @ head_factor @ head_factor.mT @ jacobian.mT
        unit = summary.covariance.diagonal(dim1=1, dim2=2).sqrt()
        unit = unit[:, :, None] * unit[:, None, :]
        torch.testing.assert_close(first_order / unit, summary.covariance / unit, rtol=1e-8, atol=1e-8)
        draws = net.sample(context, torch.randn((3, 6, 7), generator=torch.Generator().manual_seed(1)).double())
        values = net.transform.forward(draws, context.flux_scale.expand(3, 6))
        white = torch.linalg.solve_triangular(flow_factor, (values - flow_centre).permute(1, 2, 0), upper=False)
        density = net.flow(net.flow_context(context.features)).log_prob(white.permute(2, 0, 1))
        density = density - flow_factor.diagonal(dim1=1, dim2=2).log().sum(1)
        expected = net.log_prob(context, draws) + net.transform.log_volume(values, context.flux_scale.expand(3, 6))
        torch.testing.assert_close(density, expected, rtol=1e-5, atol=1e-4)


def test_flux_follows_the_unit():
    net, inputs = network(), stamps()
    with torch.inference_mode():
        context = net.encode(inputs)
        assert torch.allclose(
            net.summarise(context).mean[:, 0] / context.flux_scale,
            torch.exp(net.heads(context.features)[:, 0]),
            rtol=1e-4,
        )


def test_rows_do_not_depend_on_each_other():
    net, inputs = network(), stamps()
    with torch.inference_mode():
        together = net.encode(inputs).features
        part = StampInputs(
            inputs.image[2:4], inputs.error[2:4], inputs.good[2:4], inputs.gain[2:4], inputs.psf, inputs.psf_index[2:4]
        )
        torch.testing.assert_close(net.encode(part).features, together[2:4], rtol=1e-3, atol=1e-4)


def test_samples_have_the_density_of_the_flow():
    """The density of a draw is that of its normal numbers over the determinant of the map between them."""
    net, inputs = network(3).double(), stamps(2)
    inputs = StampInputs(*(getattr(inputs, name) for name in inputs.__dataclass_fields__))
    with torch.no_grad():
        context = network(3).encode(inputs)
    context = Context(context.features.double(), context.flux_scale.double())
    normal = torch.randn((5, 2, 7), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    draws = net.sample(context, normal)
    torch.testing.assert_close(net.sample(context, normal), draws)
    log_prob = net.log_prob(context, draws)
    base = torch.distributions.Normal(0.0, 1.0).log_prob(normal).sum(-1)
    for row in range(2):
        for draw in range(5):
            jacobian = torch.autograd.functional.jacobian(
                lambda z, r=row: net.sample(context[r : r + 1], z[None, None])[0, 0], normal[draw, row]
            )
            expected = base[draw, row] - torch.linalg.slogdet(jacobian).logabsdet
            torch.testing.assert_close(log_prob[draw, row], expected, rtol=1e-4, atol=1e-3)


def test_log_prob_is_minus_infinity_outside():
    net, inputs = network(), stamps(1)
    with torch.inference_mode():
        context = net.encode(inputs)
        parameters = torch.tensor([[100.0, 9.0, 2.0, 0.0, 0.0, 31.5, 31.5]])
        assert net.log_prob(context, parameters).isneginf().all()
        parameters[0, 1] = 2.0
        assert torch.isfinite(net.log_prob(context, parameters)).all()
        parameters[0, 5] = 34.0
        assert net.log_prob(context, parameters).isneginf().all()


@pytest.mark.parametrize("name", ["flow", "mean", "covariance", "quantiles"])
def test_each_loss_reaches_the_encoder(name):
    net, inputs = network(), stamps()
    parameters = draw_parameters(6)
    net.loss(inputs, parameters)[name].backward()
    gradient = net.encoder.near.weight.grad
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0


def test_heads_learn_the_moments_of_a_distribution():
    """With features that say nothing, mean, covariance and quantiles become those of the parameters."""
    net = network(1)
    count = 512
    generator = torch.Generator().manual_seed(2)
    n = 1.0 + 5.0 * torch.rand(count, generator=generator) ** 2
    parameters = torch.tensor([50.0, 0.0, 2.0, 0.1, 0.0, 31.5, 31.5]).repeat(count, 1)
    parameters[:, 1] = n
    parameters[:, 0] += 4.0 * (n - n.mean()) + torch.randn(count, generator=generator)
    parameters[:, 3:] += 0.05 * torch.randn((count, 4), generator=generator)
    parameters[:, 2] *= torch.exp(0.1 * torch.randn(count, generator=generator))
    one = stamps(1)
    inputs = StampInputs(
        *(each.expand(count, *each.shape[1:]) for each in (one.image, one.error, one.good)), one.gain.expand(count),
        one.psf, one.psf_index.expand(count),
    )  # fmt: skip
    with torch.no_grad():
        context = net.encode(inputs)
        net.encode = lambda *_, **__: context
    steps = 600
    optimizer = torch.optim.Adam(net.heads.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)  # it ends at the minimum, not near it
    for _ in range(steps):
        losses = net.loss(inputs, parameters)
        optimizer.zero_grad()
        (losses["mean"] + losses["covariance"] + losses["quantiles"]).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        summary = net.summarise(context[:1])
    spread = parameters.std(0)
    # the losses are least at the moments of these very numbers: what is left is far below their standard errors
    standard_error = count**-0.5
    assert ((summary.mean[0] - parameters.mean(0)).abs() < 0.2 * standard_error * spread).all()
    found = summary.covariance[0].diagonal().sqrt()
    torch.testing.assert_close(found, spread, rtol=0.3 * standard_error, atol=0.0)
    correlation = summary.covariance[0, 0, 1] / (found[0] * found[1])
    torch.testing.assert_close(correlation, torch.corrcoef(parameters.T)[0, 1], rtol=0.0, atol=0.2 * standard_error)
    below = (parameters[:, None] < summary.quantiles).float().mean(0)[:, :5]
    expected = torch.tensor([0.023, 0.159, 0.5, 0.841, 0.977])[:, None].expand_as(below)
    torch.testing.assert_close(below, expected, rtol=0.0, atol=0.3 * standard_error)


@pytest.mark.parametrize("element", range(8))
def test_orientations(element):
    """A turned galaxy is the galaxy with turned parameters."""
    from galmeasure.render import prepare_psf, render_sersic

    parameters = torch.tensor([[100.0, 1.5, 3.0, 0.3, 0.2, 31.0, 32.2]])
    psf = stamps(1).psf
    image = render_sersic(parameters, prepare_psf(psf, (NATIVE_SIZE, NATIVE_SIZE)))
    inputs = StampInputs(
        image, torch.ones(1, 1, 1), torch.ones_like(image, dtype=torch.bool), torch.ones(1), psf,
        torch.zeros(1, dtype=torch.long),
    )  # fmt: skip
    turned, turned_parameters = orient(inputs, parameters, element)
    again = render_sersic(turned_parameters, prepare_psf(turned.psf.contiguous(), (NATIVE_SIZE, NATIVE_SIZE)))
    torch.testing.assert_close(again, turned.image, rtol=1e-3, atol=1e-4)
    if element:
        assert not torch.allclose(turned.image, image, atol=1e-3)


def test_config_round_trip():
    config = NetworkConfig(**TINY)
    assert NetworkConfig.from_dict(config.as_dict()) == config
    with pytest.raises(ValueError, match="colour"):
        NetworkConfig.from_dict(config.as_dict() | {"colour": 1})
    study = NetworkConfig.for_prior(get_prior("study"))
    assert study.centre == 0.5
    assert study.n == (0.5, 6.0)


def test_spline_flow_is_that_of_zuko():
    """The same parameters give the same densities and draws, up to rounding."""
    options = {"transforms": 2, "bins": 8, "slope": 1e-3, "hidden_features": (16,)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = zuko.flows.NSF(7, 4, **options)
        context, normal = torch.randn(5, 4), torch.randn(5, 7)
    flow = spline_flow(7, 4, **options)
    flow.load_state_dict(expected.state_dict())
    torch.testing.assert_close(flow(context).log_prob(normal), expected(context).log_prob(normal), rtol=1e-5, atol=1e-4)
    drawn, wanted = (each(context).transform.inv(normal) for each in (flow, expected))
    torch.testing.assert_close(drawn, wanted, rtol=1e-4, atol=1e-4)
