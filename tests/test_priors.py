"""Priors: samples, densities and domains agree with each other."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from galmeasure.parameters import PARAMETERS
from galmeasure.priors import (
    PRIORS,
    Disc,
    LogNormal,
    Population,
    Prior,
    Range,
    SizeRelation,
    get_prior,
    prior_from_dict,
)

RANGES = [Range(0.5, 6.0), Range(-2.0, 1.0), Range(0.2, 16.0, log=True)]
DISCS = [Disc(0.67), Disc(0.9, concentration=2.0), Disc(0.5, concentration=0.0)]
SHAPE = (48, 64)


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("prior", RANGES)
def test_range(prior):
    """Samples follow the density, which integrates to one."""
    sample = prior.sample(4000, generator()).double().numpy()
    assert sample.shape == (4000,)
    assert sample.min() >= prior.lower
    assert sample.max() <= prior.upper
    grid = torch.linspace(prior.lower, prior.upper, 20001, dtype=torch.float64)
    density = prior.log_prob(grid).exp()
    assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-4)
    steps = 0.5 * (density[1:] + density[:-1]) * (grid[1] - grid[0])
    cumulative = np.concatenate([[0], np.cumsum(steps.numpy())])
    assert kstest(np.interp(sample, grid, cumulative), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("prior", RANGES)
def test_range_domain(prior):
    width = prior.upper - prior.lower
    outside = torch.tensor([prior.lower - 0.01 * width, prior.upper + 0.01 * width])
    bounds = torch.tensor([prior.lower, prior.upper])
    assert prior.contains(bounds.double(), 1e-6).all()
    assert not prior.contains(outside).any()
    assert (prior.log_prob(outside) == -torch.inf).all()


def test_range_margin():
    assert Range(1.0, 3.0).contains(torch.tensor([0.81, 3.19]), margin=0.1).all()
    assert not Range(1.0, 3.0).contains(torch.tensor([0.79, 3.21]), margin=0.1).any()
    assert Range(1.0, 100.0, log=True).contains(torch.tensor([0.64, 157.0]), margin=0.1).all()
    assert not Range(1.0, 100.0, log=True).contains(torch.tensor([0.62, 160.0]), margin=0.1).any()


@pytest.mark.parametrize(("lower", "upper", "log"), [(1, 1, False), (2, 1, False), (0, 1, True), (-1, 1, True)])
def test_wrong_ranges(lower, upper, log):
    with pytest.raises(ValueError, match="^lower must be below upper"):
        Range(lower, upper, log)


@pytest.mark.parametrize("disc", DISCS)
def test_disc_integrates_to_one(disc):
    """Over the plane, in polar coordinates: the density may diverge at the centre."""
    r = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000 * disc.g_max
    phi = (torch.arange(16, dtype=torch.float64) + 0.5) / 16 * 2 * torch.pi
    density = disc.log_prob(r[:, None] * torch.cos(phi), r[:, None] * torch.sin(phi)).exp()
    total = (density.mean(1) * 2 * torch.pi * r).sum() * disc.g_max / 2000
    assert total.item() == pytest.approx(1, abs=1e-5)
    assert torch.allclose(density, density[:, :1].expand_as(density))


@pytest.mark.parametrize("disc", DISCS)
def test_disc_samples_follow_the_density(disc):
    g1, g2 = (g.double() for g in disc.sample(4000, generator()))
    radius, angle = torch.hypot(g1, g2), torch.atan2(g2, g1) / (2 * torch.pi) + 0.5
    assert disc.contains(g1, g2).all()
    r = torch.linspace(0, disc.g_max, 20001, dtype=torch.float64)
    middle = 0.5 * (r[1:] + r[:-1])
    steps = disc.log_prob(middle, torch.zeros_like(middle)).exp() * 2 * torch.pi * middle * (r[1] - r[0])
    cumulative = np.concatenate([[0], np.cumsum(steps.numpy())])
    assert kstest(np.interp(radius, r, cumulative), "uniform").pvalue > 1e-3
    assert kstest(angle.numpy(), "uniform").pvalue > 1e-3


def test_disc_domain():
    disc = Disc(0.5)
    g = torch.tensor([0.49, 0.51, 0.56])
    zero = torch.zeros(3)
    assert disc.contains(g, zero).tolist() == [True, False, False]
    assert disc.contains(g, zero, margin=0.1).tolist() == [True, True, False]
    assert torch.isinf(disc.log_prob(g, zero)).tolist() == [False, True, True]


@pytest.mark.parametrize("name", list(PRIORS))
def test_samples_of_a_prior(name):
    prior = get_prior(name)
    sample = prior.sample(2000, SHAPE, generator=generator())
    assert sample.shape == (2000, len(PARAMETERS))
    columns = dict(zip((p.name for p in PARAMETERS), sample.unbind(1), strict=True))
    assert prior.n.contains(columns["n"]).all()
    assert prior.r_eff.contains(columns["r_eff"], 1e-6).all()
    assert prior.shear.contains(columns["g1"], columns["g2"]).all()
    assert (columns["x"] - 31.5).abs().max() <= prior.centre
    assert (columns["y"] - 23.5).abs().max() <= prior.centre
    assert (columns["x"] - 31.5).abs().max() > 0.9 * prior.centre
    if prior.electrons is None:
        assert (columns["flux"] == 1).all()
    else:
        assert prior.electrons.contains(columns["flux"]).all()
    snr = torch.full((2000,), 50.0)
    assert prior.contains(sample, SHAPE, snr, margin=1e-5).all()
    again = prior.sample(2000, SHAPE, generator=generator())
    assert torch.equal(sample, again)
    assert not torch.equal(sample, prior.sample(2000, SHAPE, generator=generator(2)))


def test_a_shape_for_each_stamp():
    shapes = torch.tensor([[64, 64], [32, 48]])
    sample = get_prior("study").sample(2, shapes, generator=generator())
    assert ((sample[:, 5:] - torch.tensor([[31.5, 31.5], [23.5, 15.5]])).abs() <= 0.5).all()


def middle(prior, flux=1e5):
    """One galaxy in the middle of the domain, for stamps of `SHAPE`, double precision."""
    return torch.tensor([[flux, 2.0, 1.0, 0.1, -0.2, 31.6, 23.4]], dtype=torch.float64)


def test_log_prob_is_the_sum_of_its_parts():
    prior, snr = get_prior("study"), torch.tensor([50.0], dtype=torch.float64)
    value = prior.log_prob(middle(prior, 5e4), SHAPE, snr, gain=torch.tensor([2.0]).double()).item()
    expected = -math.log(5.5) - math.log(0.5 / 0.23) - math.log(2 * math.pi * 0.67 * math.hypot(0.1, 0.2))
    expected += -math.log(3.7e5) + math.log(2.0)
    assert value == pytest.approx(expected, abs=1e-9)


def test_log_prob_where_the_flux_follows_from_the_snr():
    """Density of the flux: that of log S/N, over the flux."""
    prior, snr = get_prior("survey"), torch.tensor([50.0], dtype=torch.float64)
    value = prior.log_prob(middle(prior), SHAPE, snr).item()
    expected = -math.log(7.7) - math.log(math.log(80)) - 2 * math.log(3.0)
    expected += math.log(3 / (math.pi * 0.81)) + 2 * math.log(1 - 0.05 / 0.81)
    expected += -math.log(math.log(200)) - math.log(1e5)
    assert value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", list(PRIORS))
@pytest.mark.parametrize(
    ("column", "value"), [(0, -1.0), (1, 8.5), (1, 0.2), (2, 20.0), (2, 0.01), (3, 0.95), (5, 34.0), (6, 26.0)]
)
def test_no_density_outside(name, column, value):
    prior, snr, gain = get_prior(name), torch.tensor([50.0]).double(), torch.tensor([1.0]).double()
    galaxy = middle(prior)
    how = {"gain": gain, "psf_fwhm": torch.full_like(snr, 3.0)}
    assert torch.isfinite(prior.log_prob(galaxy, SHAPE, snr, **how)).all()
    galaxy[0, column] = value
    assert (prior.log_prob(galaxy, SHAPE, snr, **how) == -torch.inf).all()
    assert prior.contains(galaxy, SHAPE, snr).item() == (column == 0)  # the flux is judged by the S/N


@pytest.mark.parametrize("name", list(PRIORS))
def test_domain_of_snr_and_psf(name):
    prior = get_prior(name)
    galaxy, gain = middle(prior).expand(3, 7), torch.ones(3).double()
    snr = torch.tensor([prior.snr.lower * 0.9, 50.0, prior.snr.upper * 1.1]).double()
    assert prior.contains(galaxy, SHAPE, snr).tolist() == [False, True, False]
    density = prior.log_prob(galaxy, SHAPE, snr, gain=gain, psf_fwhm=torch.full_like(snr, 3.0))
    assert torch.isfinite(density).tolist() == [False, True, False]
    fwhm = torch.tensor([1.0, 3.0, 8.0]).double()
    assert prior.contains(galaxy, SHAPE, torch.full_like(snr, 50.0), fwhm).tolist() == [False, True, False]


def test_messages():
    with pytest.raises(ValueError, match="^name must be one of survey, study, galaxies, not 'best'"):
        get_prior("best")
    with pytest.raises(ValueError, match="^gain is needed: the flux of prior 'study' is in electrons"):
        get_prior("study").log_prob(middle(None), SHAPE, torch.tensor([50.0]))
    with pytest.raises(ValueError, match="^centre must not be negative, not -1"):
        Prior("x", Range(1, 2), Range(1, 2), Disc(0.5), -1, Range(5, 10), Range(2, 3))


def test_registry():
    assert {"survey", "study"} <= set(PRIORS)
    for name, prior in PRIORS.items():
        assert prior.name == name
        assert get_prior(name) is prior


def test_the_prior_of_the_study_is_that_of_its_data_sets():
    """Two lists of the same numbers, one in pixels and one in arcsec, agree."""
    from galmeasure.training import get_dataset_config

    prior, config = get_prior("study"), get_dataset_config("3")
    scale = config.pixel_scale
    assert (prior.n.lower, prior.n.upper) == config.n
    assert (prior.snr.lower, prior.snr.upper) == config.snr
    assert (prior.electrons.lower, prior.electrons.upper) == config.flux
    assert (prior.r_eff.lower * scale, prior.r_eff.upper * scale) == pytest.approx(config.r_eff)
    assert (prior.psf_fwhm.lower * scale, prior.psf_fwhm.upper * scale) == pytest.approx(config.psf_fwhm)
    assert (prior.shear.g_max, prior.shear.concentration) == (config.g[1], None)


# Populations


def test_density_of_a_mixture_is_that_of_its_draws():
    """Integral 1, and the same means by draws from it and by weighted draws from the flat prior."""
    mixture, flat = get_prior("galaxies"), get_prior("survey")
    count = 40_000
    snr, fwhm = torch.full((count,), 60.0), torch.full((count,), 2.5)
    wide = replace(flat, r_eff=mixture.r_eff)
    draws = wide.sample(count, SHAPE, snr=snr, psf_fwhm=fwhm, generator=generator()).double()
    shapes = draws.unbind(1)[1:5]
    log_ratio = mixture.log_prob_shapes(*shapes, snr.double(), fwhm.double()) - wide.log_prob_shapes(*shapes, snr)
    weight = log_ratio.exp()
    assert weight.mean().item() == pytest.approx(1.0, abs=4 * weight.std().item() / count**0.5)
    own = mixture.sample(count, SHAPE, snr=snr, psf_fwhm=fwhm, generator=generator(2)).double()
    for column in (1, 2):
        expected = (weight * draws[:, column].log()).mean()
        error = ((weight * draws[:, column].log()).std() + own[:, column].log().std()) / count**0.5
        assert own[:, column].log().mean().item() == pytest.approx(expected.item(), abs=4 * error.item())


def test_sizes_follow_brightness_and_psf():
    relation = SizeRelation(2.0, 0.3, 0.1, 50.0, snr_power=0.5, fwhm_power=-1.0)
    median = relation.at(torch.tensor([50.0, 200.0, 50.0]), torch.tensor([3.5, 3.5, 7.0])).median
    np.testing.assert_allclose(median, [2.0, 4.0, 1.0], rtol=1e-6)


@pytest.mark.parametrize("name", list(PRIORS))
def test_priors_as_plain_values(name):
    prior = get_prior(name)
    assert prior_from_dict(json.loads(json.dumps(prior.as_dict()))) == prior
    assert prior_from_dict(name) is prior
    assert prior_from_dict({"base": name}) == prior
    assert get_prior(prior) is prior


def test_sizes_need_the_psf():
    with pytest.raises(ValueError, match="psf_fwhm is needed: the sizes of prior 'galaxies' follow"):
        get_prior("galaxies").log_prob(middle(None), SHAPE, torch.tensor([50.0]).double())


LOGNORMALS = [LogNormal(1.1, 0.45, 0.3, 8.0), LogNormal(2.0, 0.7, 1.5, 3.0), LogNormal(0.1, 0.5, 0.3, 8.0)]


@pytest.mark.parametrize("prior", LOGNORMALS)
def test_lognormal(prior):
    """Samples follow the density, which integrates to one, also where most of it is cut off."""
    sample = prior.sample(4000, generator()).double().numpy()
    assert sample.min() >= prior.lower
    assert sample.max() <= prior.upper
    grid = torch.linspace(prior.lower, prior.upper, 20001, dtype=torch.float64)
    density = prior.log_prob(grid).exp()
    assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-4)
    steps = 0.5 * (density[1:] + density[:-1]) * (grid[1] - grid[0])
    cumulative = np.concatenate([[0], np.cumsum(steps.numpy())])
    assert kstest(np.interp(sample, grid, cumulative), "uniform").pvalue > 1e-3
    outside = torch.tensor([-1.0, 0.0, 0.99 * prior.lower, 1.01 * prior.upper])
    assert (prior.log_prob(outside) == -torch.inf).all()
    assert prior.contains(outside, margin=0.1).tolist() == [False, False, True, True]


def test_lognormal_with_a_median_for_each_draw():
    median = torch.tensor([0.5, 2.0, 9.0]).repeat_interleave(3000)
    sample = LogNormal(median, 0.4, 0.01, 100.0).sample(9000, generator()).double().view(3, 3000).log()
    expected = torch.tensor([0.5, 2.0, 9.0]).double().log()
    assert ((sample.mean(1) - expected).abs() < 4 * 0.4 / math.sqrt(3000)).all()
    assert ((sample.std(1) - 0.4).abs() < 4 * 0.4 / math.sqrt(6000)).all()


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((1.0, 0.5, 0.0, 2.0), "^lower must be positive and below upper, not 0.0, 2.0"),
        ((1.0, 0.5, 3.0, 2.0), "^lower must be positive and below upper, not 3.0, 2.0"),
        ((1.0, 0.0, 0.5, 2.0), "^scatter must be positive, not 0.0"),
    ],
)
@pytest.mark.parametrize("kind", [LogNormal, SizeRelation])
def test_wrong_lognormals(kind, numbers, message):
    with pytest.raises(ValueError, match=message):
        kind(*numbers)


def test_sizes_follow_snr_and_psf():
    """Half of the sizes lie below ``median (S/N / 50)**a (FWHM / 3.5)**b``."""
    relation = SizeRelation(2.0, 0.6, 1e-3, 1e3, snr_power=0.3, fwhm_power=-0.5)
    snr, fwhm = torch.tensor([50.0, 500.0, 50.0, 5.0]), torch.tensor([3.5, 3.5, 7.0, 1.75])
    expected = [2.0, 2.0 * 10**0.3, 2.0 * 2**-0.5, 2.0 * 10**-0.3 * 2**0.5]
    count = 4000
    sizes = relation.at(snr.repeat_interleave(count), fwhm.repeat_interleave(count)).sample(4 * count, generator())
    below = (sizes.view(4, count) < torch.tensor(expected)[:, None]).double().mean(1)
    assert ((below - 0.5).abs() < 4 * 0.5 / math.sqrt(count)).all()
    alone = SizeRelation(2.0, 0.6, 1e-3, 1e3, snr_power=0.3)
    assert alone.at(torch.tensor(500.0), None).median == pytest.approx(2.0 * 10**0.3)


def nodes(edges, count):
    """Points and weights of Gauss and Legendre in each interval between edges."""
    x, w = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(count))
    edges = torch.tensor(edges, dtype=torch.float64)
    half = 0.5 * edges.diff()[:, None]
    return (edges[:-1, None] + half * (x + 1.0)).flatten(), (half * w).flatten()


def quadrature(prior, snr, fwhm):
    """Density of n, r_eff and shear, and what to sum it with, on a grid of n, r_eff and the shear's length."""
    n, wn = nodes([0.3, 1.0, 2.5, 8.0], 12)
    log_r, wr = nodes(np.log([0.05, 0.2, 0.25, 0.3, 0.5, 2.0, 6.0, 16.0]), 12)
    g, wg = nodes([0.0, 0.9], 16)
    grid = [each.flatten() for each in torch.meshgrid(n, log_r.exp(), g, indexing="ij")]
    one = torch.ones_like(grid[0])
    density = prior.log_prob_shapes(grid[0], grid[1], 0.6 * grid[2], -0.8 * grid[2], snr * one, fwhm * one).exp()
    weight = wn[:, None, None] * (wr * log_r.exp())[:, None] * wg * 2.0 * torch.pi * g
    return grid, density, weight.flatten()


@pytest.mark.parametrize(("snr", "fwhm"), [(5.0, 1.2), (50.0, 3.5), (1000.0, 7.0)])
def test_galaxies_integrate_to_one_and_are_sampled(snr, fwhm):
    prior, count = get_prior("galaxies"), 6000
    (n, r_eff, _), density, weight = quadrature(prior, snr, fwhm)
    share = density * weight
    assert share.sum().item() == pytest.approx(1, abs=1e-3)
    one = torch.ones(count)
    drawn = prior.sample(count, SHAPE, snr=snr * one, psf_fwhm=fwhm * one, generator=generator()).double()
    for column, grid, values in ((1, n, [1.0, 2.5]), (2, r_eff, [0.25, 0.5, 2.0, 6.0])):
        for value in values:  # edges of the intervals of the quadrature
            expected = share[grid < value].sum().item()
            found = (drawn[:, column] < value).double().mean().item()
            assert abs(found - expected) < 4 * math.sqrt(expected * (1 - expected) / count) + 1e-3
    log_density = prior.log_prob_shapes(*drawn.unbind(1)[1:5], snr * one.double(), fwhm * one.double())
    known = torch.where(density > 0, density.log(), 0.0)
    expected = (share * known).sum()  # what also says that index, size and shear go together as they should
    spread = (share * (known - expected) ** 2).sum().sqrt()
    assert abs(log_density.mean() - expected) < 4 * spread / math.sqrt(count)


def test_sizes_of_galaxies_grow_with_brightness():
    prior, one = get_prior("galaxies"), torch.ones(4000)

    def sizes(snr, fwhm):
        drawn = prior.sample(4000, SHAPE, snr=snr * one, psf_fwhm=fwhm * one, generator=generator())
        return drawn[:, 2].log().mean().item()

    assert sizes(500.0, 3.0) > sizes(10.0, 3.0) + 0.3
    assert sizes(50.0, 6.0) < sizes(50.0, 1.5) - 0.3


def test_density_does_not_depend_on_snr_beyond_the_prior():
    """Sizes follow the S/N up to the ends of its range."""
    prior, shapes = get_prior("galaxies"), torch.tensor([[2.0], [1.0], [0.1], [0.2]]).expand(4, 4).double()
    snr, fwhm = torch.tensor([1e-3, 5.0, 1000.0, 1e9]).double(), torch.full((4,), 3.0).double()
    density = prior.log_prob_shapes(*shapes, snr, fwhm)
    assert density[0] == density[1] != density[2]
    assert density[2] == density[3]


def test_prior_from_a_table():
    population = {
        "name": "one", "fraction": 2, "n": [1, 3], "shear": {"g_max": 0.5},
        "r_eff": {"median": 2.0, "scatter": 0.5, "lower": 0.5, "upper": 8.0, "fwhm_power": -1.0},
    }  # fmt: skip
    other = population | {"n": {"median": 2, "scatter": 0.3, "lower": 1, "upper": 5}, "r_eff": [1, 2]}
    found = prior_from_dict({"base": "survey", "name": "mine", "populations": [population, other]})
    shear = Disc(0.5)
    expected = (
        Population("one", 2, Range(1, 3), SizeRelation(2.0, 0.5, 0.5, 8.0, fwhm_power=-1.0), shear),
        Population("one", 2, LogNormal(2, 0.3, 1, 5), Range(1, 2), shear),
    )
    assert found == replace(get_prior("survey"), name="mine", populations=expected)


GOOD = {"name": "a", "fraction": 1.0, "n": [1, 3], "r_eff": [1, 2], "shear": {"g_max": 0.5}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (5, "^prior must be a name or a table, not int"),
        ("best", "^name must be one of"),
        ({"base": "best"}, "^name must be one of"),
        ({"base": "survey", "colour": 1}, "^prior must hold only the fields of Prior: colour"),
        ({"name": "a", "n": [1, 2]}, "^prior must hold all fields of Prior: centre, psf_fwhm, r_eff, shear, snr"),
        ({"base": "survey", "n": [2, 1]}, "^prior.n: lower must be below upper"),
        ({"base": "survey", "n": {"lower": 0, "upper": 1, "log": True}}, "^prior.n: lower must be below upper"),
        ({"base": "survey", "n": {"lower": 1}}, "^prior.n must hold all fields of Range: upper"),
        ({"base": "survey", "n": {"lower": 1, "high": 2}}, "^prior.n must hold only the fields of Range: high"),
        ({"base": "survey", "n": {"lower": "a", "upper": 2}}, "^prior.n: "),
        ({"base": "survey", "n": [1, 2, 3]}, r"^prior.n must be a Range, not \[1, 2, 3\]"),
        ({"base": "survey", "snr": 5}, "^prior.snr must be a Range, not 5"),
        ({"base": "survey", "shear": [0, 1]}, "^prior.shear must be a Disc, not Range"),
        ({"base": "survey", "centre": -1}, "^prior: centre must not be negative"),
        ({"base": "survey", "centre": "a"}, "^prior: "),
        ({"base": "survey", "populations": 5}, "^prior.populations must be a list of tables, not 5"),
        ({"base": "survey", "populations": ["a"]}, r"^prior.populations\[0\] must be a table, not 'a'"),
        ({"base": "survey", "populations": [GOOD, {"name": "a"}]}, r"^prior.populations\[1\] must hold all fields of"),
        ({"base": "survey", "populations": [GOOD | {"size": 1}]}, r"^prior.populations\[0\] must hold only .*: size"),
        ({"base": "survey", "populations": [GOOD | {"fraction": 0}]}, r"^prior.populations\[0\]: fraction must be pos"),
        (
            {"base": "survey", "populations": [GOOD | {"n": 3}]},
            r"^prior.populations\[0\].n must be a Range or LogNormal",
        ),
        (
            {"base": "survey", "populations": [GOOD | {"n": {"median": 1, "scatter": -1, "lower": 1, "upper": 2}}]},
            r"^prior.populations\[0\].n: scatter must be positive, not -1",
        ),
        (
            {"base": "survey", "populations": [GOOD | {"n": {"median": 1, "lower": 1, "upper": 2}}]},
            r"^prior.populations\[0\].n must hold all fields of LogNormal: scatter",
        ),
        ({"base": "survey", "populations": [GOOD | {"n": [0.1, 3]}]}, "n of 'a' must lie within 0.3 to 8.0"),
    ],
)
def test_wrong_tables(values, message):
    with pytest.raises(ValueError, match=message):
        prior_from_dict(values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": Range(0.2, 3.0)}, "^populations: n of 'a' must lie within 0.3 to 8.0"),
        ({"n": LogNormal(1.0, 0.5, 0.3, 9.0)}, "^populations: n of 'a' must lie within"),
        ({"r_eff": SizeRelation(1.0, 0.5, 0.1, 9.0)}, "^populations: r_eff of 'a' must lie within 0.2 to 16.0"),
        ({"shear": Disc(0.95)}, "^populations: g_max of 'a' must not be above 0.9"),
    ],
)
def test_populations_lie_within_the_domain(changes, message):
    population = Population("a", 1.0, Range(1.0, 3.0), Range(1.0, 2.0), Disc(0.5))
    replace(get_prior("survey"), populations=(population,))
    with pytest.raises(ValueError, match=message):
        replace(get_prior("survey"), populations=(replace(population, **changes),))


def test_sizes_cannot_follow_the_snr_where_the_flux_is_in_electrons():
    relation = SizeRelation(1.0, 0.5, 0.5, 2.0, snr_power=0.2)
    population = Population("a", 1.0, Range(1.0, 3.0), relation, Disc(0.5))
    with pytest.raises(ValueError, match="^populations: r_eff of 'a' cannot follow the S/N where the flux is in elec"):
        replace(get_prior("study"), populations=(population,))
    with pytest.raises(ValueError, match="^fraction must be positive, not 0"):
        replace(population, fraction=0)
