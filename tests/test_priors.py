"""Priors: samples, densities and domains agree with each other."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from galmeasure.parameters import PARAMETERS
from galmeasure.priors import PRIORS, Disc, LogNormal, Prior, Range, SizeRelation, get_prior, prior_from_dict

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
    wide = dataclasses.replace(flat, r_eff=mixture.r_eff)
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


def test_log_normal_within_bounds():
    distribution = LogNormal(2.0, 0.5, 1.0, 3.0)
    draws = distribution.sample(5000, generator())
    assert distribution.contains(draws).all()
    grid = torch.linspace(0.9, 3.1, 2201, dtype=torch.float64)
    density = distribution.log_prob(grid).exp()
    assert torch.trapezoid(density, grid).item() == pytest.approx(1.0, abs=2e-3)
    below = torch.trapezoid(density[grid < 1.7], grid[grid < 1.7]).item()
    assert (draws < 1.7).float().mean().item() == pytest.approx(below, abs=0.03)


@pytest.mark.parametrize("name", list(PRIORS))
def test_priors_as_plain_values(name):
    prior = get_prior(name)
    assert prior_from_dict(json.loads(json.dumps(prior.as_dict()))) == prior
    assert prior_from_dict(name) is prior
    assert get_prior(prior) is prior


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (3, "prior must be a name or a table, not int"),
        ({"base": "best"}, "name must be one of"),
        ({"name": "x"}, "prior must hold all fields of Prior: centre, n, psf_fwhm, r_eff, shear, snr"),
        ({"base": "survey", "colour": 1}, "prior must hold only the fields of Prior: colour"),
        ({"base": "survey", "n": {"lower": 3, "upper": 2}}, "lower must be below upper"),
        ({"base": "survey", "populations": [{"name": "a"}]}, r"prior.populations\[0\] must hold all fields of"),
        ({"base": "survey", "populations": [3]}, r"prior.populations\[0\] must be a table"),
        (
            {"base": "survey", "populations": [{"name": "a", "fraction": 1, "n": [0.1, 3], "r_eff": [1, 2],
                                                "shear": {"g_max": 0.5}}]},
            "populations: n of 'a' must lie within 0.3 to 8.0",
        ),
    ],
)  # fmt: skip
def test_messages_of_tables(values, message):
    with pytest.raises(ValueError, match=message):
        prior_from_dict(values)


def test_sizes_need_the_psf():
    with pytest.raises(ValueError, match="psf_fwhm is needed: the sizes of prior 'galaxies' follow"):
        get_prior("galaxies").log_prob(middle(None), SHAPE, torch.tensor([50.0]).double())
