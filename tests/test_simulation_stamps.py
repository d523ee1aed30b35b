"""Stamps simulated in torch: PSF families against GalSim, noise, masks, priors, and agreement with the GalSim sets."""

import dataclasses

import numpy as np
import pytest
import torch
from astropy import units as u
from scipy import stats

from galmeasure import LSQSersicFitter
from galmeasure.flags import Flag
from galmeasure.likelihood import flux_of_snr, variance
from galmeasure.parameters import PARAMETER_NAMES
from galmeasure.priors import Range, get_prior
from galmeasure.render import render_sersic
from galmeasure.simulation.psfs import FAMILIES, PSFShapes, draw_psfs, psf_images
from galmeasure.simulation.stamps import SimulationConfig, simulate_stamps
from galmeasure.training import PSFKnowledge, simulate_cutouts

CLEAN = {
    "uneven_error": 0.0, "bad_columns": 0.0, "cosmic_rays": 0.0, "neighbours": 0.0, "background": 0.0,
    "small_stamps": 0.0,
}  # fmt: skip


def simulate(count=96, seed=1, **options):
    generator = torch.Generator().manual_seed(seed)
    return simulate_stamps(SimulationConfig(**options), count, generator=generator)


def noiseless(stamps):
    return render_sersic(stamps.parameters, stamps.psf_grid, stamps.psf_index)


# PSFs


def galsim_family(galsim, family, fwhm, numbers):
    if family == "moffat":
        return galsim.Moffat(beta=1.8 + 3.2 * numbers[0], fwhm=fwhm)
    if family == "gaussian":
        return galsim.Gaussian(fwhm=fwhm)
    if family == "double_gaussian":
        share, wider = 0.05 + 0.35 * numbers[0], fwhm * (1.6 + 1.4 * numbers[1])
        return galsim.Gaussian(fwhm=fwhm, flux=1 - share) + galsim.Gaussian(fwhm=wider, flux=share)
    if family == "kolmogorov":
        return galsim.Kolmogorov(fwhm=fwhm)
    return galsim.Airy(lam_over_diam=fwhm / 1.029, obscuration=0.45 * numbers[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_those_of_galsim(family):
    galsim = pytest.importorskip("galsim")
    fwhm, numbers, shear, size = 2.9, (0.55, 0.4), (0.05, -0.03), 33
    g1, g2 = (torch.tensor([g]) for g in shear)
    shapes = PSFShapes(torch.tensor([0]), torch.tensor([fwhm]), torch.tensor([numbers]), g1, g2)
    found = psf_images(shapes, families=(family,))[0].numpy()
    assert found.sum() == pytest.approx(1.0, abs=1e-5)
    assert np.abs(found[0]).max() < 1e-6 * found.max()  # the wings end inside the image
    found = found[15:-15, 15:-15]
    psf = galsim_family(galsim, family, fwhm, numbers).shear(g1=shear[0], g2=shear[1])
    params = galsim.GSParams(folding_threshold=5e-4)
    wanted = psf.withGSParams(params).drawImage(nx=size, ny=size, scale=1.0, dtype=float).array
    # up to the light of the wings that were cut
    np.testing.assert_allclose(found / found.max(), wanted / wanted.max(), atol=2e-3)
    lost = 1.0 - psf.withGSParams(params).drawImage(nx=63, ny=63, scale=1.0, dtype=float).array.sum()
    np.testing.assert_allclose(found.sum(), wanted.sum(), atol=2.0 * lost + 2e-3)


def test_images_and_transforms_are_the_same_psf():
    generator = torch.Generator().manual_seed(2)
    psfs = draw_psfs(20, Range(2.5, 6.0), (64, 64), generator=generator)
    star = torch.tensor([[1.0, 0.5, 1e-3, 0.0, 0.0, 32.0, 32.0]]).repeat(20, 1)
    drawn = render_sersic(star, psfs.grid, torch.arange(20))[:, 1:64, 1:64]
    assert (drawn - psfs.images).abs().amax() < 2e-3 * psfs.images.amax()
    np.testing.assert_allclose(drawn.sum((1, 2)), 1.0, atol=2e-3)
    assert ((psfs.fwhm >= 2.5) & (psfs.fwhm <= 6.0)).all()


def test_psf_arguments():
    with pytest.raises(ValueError, match="size must be odd"):
        draw_psfs(1, Range(2, 3), (32, 32), size=32)
    with pytest.raises(ValueError, match="families must be among"):
        draw_psfs(1, Range(2, 3), (32, 32), families=("moffat", "sinc"))


# Stamps


def test_a_batch_is_a_function_of_the_generator():
    first, second, other = simulate(), simulate(), simulate(seed=2)
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.parameters, second.parameters)
    assert not torch.equal(first.parameters, other.parameters)


@pytest.mark.parametrize("prior", ["survey", "study"])
def test_galaxies_lie_in_the_prior(prior):
    config = SimulationConfig.study() if prior == "study" else SimulationConfig()
    stamps = simulate_stamps(config, 256, generator=torch.Generator().manual_seed(3))
    inside = get_prior(prior).contains(stamps.parameters, (64, 64), stamps.snr, margin=0.02)
    assert inside.all()
    assert torch.isfinite(stamps.image).all()


def test_survey_is_uniform_in_the_logarithm_of_snr():
    stamps = simulate(count=512, seed=4, **CLEAN)
    unit = (torch.log(stamps.snr / 5) / np.log(200)).numpy()
    assert stats.kstest(unit, "uniform").pvalue > 1e-3


def test_noise_is_the_likelihoods():
    stamps = simulate(count=64, seed=5, shot_noise=0.5, **CLEAN)
    model = noiseless(stamps)
    pulls = (stamps.image - model) / variance(model, stamps.error, stamps.gain).sqrt()
    assert pulls.mean().abs() < 5 / np.sqrt(pulls.numel())
    assert pulls.var().item() == pytest.approx(1.0, abs=5 * np.sqrt(2 / pulls.numel()))
    bright = (model > 5) & torch.isfinite(stamps.gain)[:, None, None]
    assert pulls[bright].var().item() == pytest.approx(1.0, abs=6 * np.sqrt(2 / int(bright.sum())))
    has_gain = torch.isfinite(stamps.gain).float().mean().item()
    assert 0.25 < has_gain < 0.75


def test_flux_of_snr_is_exact():
    stamps = simulate(count=64, seed=6, shot_noise=1.0, **CLEAN)
    unit = noiseless(stamps) / stamps.parameters[:, 0, None, None]
    wanted = torch.logspace(0.7, 3.0, 64)
    flux = flux_of_snr(unit, wanted, stamps.error, stamps.good, stamps.gain)
    model = flux[:, None, None] * unit
    found = (model**2 / variance(model, stamps.error, stamps.gain)).flatten(1).sum(1).sqrt()
    torch.testing.assert_close(found, wanted, rtol=3e-3, atol=0)


def test_masks_and_small_stamps():
    options = CLEAN | {"small_stamps": 1.0, "smallest": 24}
    good = simulate(count=64, seed=7, **options).good
    sides = torch.stack([good.any(1).sum(1), good.any(2).sum(1)], 1)
    assert (sides >= 22).all()
    assert (sides < 64).any()
    columns = simulate(count=64, seed=8, **(CLEAN | {"bad_columns": 1.0})).good
    assert (~columns).flatten(1).any(1).float().mean() > 0.9
    tracks = simulate(count=64, seed=9, **(CLEAN | {"cosmic_rays": 1.0})).good
    share = (~tracks).float().mean().item()
    assert 0.001 < share < 0.02
    assert (
        simulate(count=16, seed=9, cosmic_rays=1.0).image[~simulate(count=16, seed=9, cosmic_rays=1.0).good] == 0
    ).all()


def test_neighbours_add_light_and_masks():
    options = CLEAN | {"neighbours": 2.0, "masked_neighbours": 0.5, "shot_noise": 0.0}
    stamps = simulate(count=128, seed=10, **options)
    residual = torch.where(stamps.good, stamps.image - noiseless(stamps), 0.0)
    chi2 = (residual**2).flatten(1).sum(1) / stamps.good.flatten(1).sum(1)
    assert (chi2 > 1.2).float().mean() > 0.3
    assert (~stamps.good).flatten(1).any(1).float().mean() > 0.2
    hidden = simulate(count=128, seed=10, **(options | {"masked_neighbours": 1.0}))
    rest = torch.where(hidden.good, hidden.image - noiseless(hidden), 0.0)
    assert (rest**2).sum() < 0.7 * (residual**2).sum()


def test_agrees_with_the_galsim_data_set(tmp_path):
    """Set 3 of GalSim and of torch: the same distributions of truth and of what the pixels hold."""
    pytest.importorskip("galsim")
    from astropy.table import Table

    from galmeasure.training import get_dataset_config, make_dataset

    path = tmp_path / "three.fits"
    make_dataset(path, get_dataset_config("3"), 160, seed=3)
    table = Table.read(path)
    stamps = simulate_stamps(SimulationConfig.study(), 1024, generator=torch.Generator().manual_seed(11))
    cutouts = np.asarray(table["cutout"], dtype=float) / np.asarray(table["true_sigma"])[:, None, None]
    peaks = np.asarray(cutouts[:, 24:40, 24:40].max((1, 2)))
    pairs = {
        "snr": (np.asarray(table["true_snr"]), stamps.snr.numpy()),
        "electrons": (np.asarray(table["true_flux"]), (stamps.parameters[:, 0] * stamps.gain).numpy()),
        "sum": (cutouts.sum((1, 2)), stamps.image.sum((1, 2)).numpy()),
        "peak": (peaks, stamps.image[:, 24:40, 24:40].amax((1, 2)).numpy()),
    }
    for name, (galsim_values, torch_values) in pairs.items():
        assert stats.ks_2samp(galsim_values, torch_values).pvalue > 1e-3, name


def test_stamps_can_be_fitted():
    from galmeasure import Cutouts, LSQSersicFitter

    stamps = simulate(count=128, seed=12, shot_noise=0.0, **CLEAN)
    cutouts = Cutouts(stamps.image.numpy(), stamps.psf_images[stamps.psf_index].numpy(), error=1.0)
    table = LSQSersicFitter().fit(cutouts)
    truth = stamps.parameters.numpy()
    clear = (np.asarray(table["flags"]) == 0) & (stamps.snr.numpy() > 50) & (truth[:, 2] > 1) & (truth[:, 2] < 5)
    assert clear.sum() > 15
    for column, index in (("flux", 0), ("g1", 3), ("g2", 4), ("x", 5), ("y", 6)):
        pulls = (np.asarray(table[f"{column}_fit"]) - truth[:, index]) / np.asarray(table[f"{column}_err"])
        assert np.abs(np.median(pulls[clear])) < 1.0, column
        assert np.median(np.abs(pulls[clear])) < 1.6, column


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior": "wide"}, "name must be one of"),
        ({"shot_noise": 1.5}, "shot_noise must lie between 0 and 1"),
        ({"prior": "study", "shot_noise": 0.5}, "shot_noise must be 1 with prior 'study'"),
        ({"neighbours": -1.0}, "neighbours must not be negative"),
        ({"smallest": 80}, "smallest must lie between 8 and size"),
    ],
)
def test_configuration_is_checked(options, message):
    with pytest.raises(ValueError, match=message):
        SimulationConfig(**options)


# The whole chain


def test_least_squares_is_right_on_bright_simulated_galaxies():
    """What is told does not contradict the truth: at S/N 1000 a fit would notice a thousandth of the flux."""
    bright = dataclasses.replace(
        get_prior("survey"), snr=Range(900.0, 1100.0), r_eff=Range(0.5, 8.0, log=True), n=Range(0.5, 6.0)
    )
    config = SimulationConfig(prior=bright, psf_knowledge=PSFKnowledge.perfect(), total_error=0.0, **CLEAN)
    ((cutouts, truth),) = simulate_cutouts(config, 200, seed=5)
    table = LSQSersicFitter(bias_correction=False).fit(cutouts)
    good = (np.asarray(table["flags"]) & int(Flag.FAILED | Flag.NOT_CONVERGED | Flag.AT_BOUND)) == 0
    assert good.mean() > 0.95
    count = good.sum()
    for i, name in enumerate(PARAMETER_NAMES):
        fit, error = (u.Quantity(table[f"{name}_{end}"]).value for end in ("fit", "err"))
        pull = (fit - truth[:, i])[good] / error[good]
        # robust, because the tails of a few narrow galaxies are not Gaussian
        assert (np.abs(pull) < 1).mean() == pytest.approx(0.683, abs=4 * np.sqrt(0.683 * 0.317 / count))
        assert np.abs(np.median(pull)) < 4 * 1.25 / np.sqrt(count)
    assert (table["chi2_reduced"] > 1.1).mean() <= 0.01


def test_imperfect_knowledge_is_told():
    ((cutouts, truth),) = simulate_cutouts(SimulationConfig(prior="galaxies"), 64, seed=2)
    assert len(cutouts) == len(truth) == 64
    assert np.isfinite(truth).all()
