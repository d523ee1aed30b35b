"""Fits that begin in Fourier space end where those in pixels do, and the problem there is that of the pixels."""

import numpy as np
import pytest
import torch
from _agreement import plain
from _galaxies import draw, gaussian_psf, mixed_parameters
from _lsq import SIGMA, values

from galmeasure import Cutouts, LSQSersicFitter
from galmeasure.fitters import variables
from galmeasure.fitters.lsq import fitter, fourier
from galmeasure.fitters.lsq.fourier import FourierProblem, Stamps
from galmeasure.fitters.lsq.joint import JointProblem
from galmeasure.fitters.problem import Problem
from galmeasure.fitters.tensors import BatchTensors, groups
from galmeasure.render.modes import Profiles, modes_of_band, stamp_transforms
from galmeasure.render.profiles import hankel_transform
from galmeasure.render.sersic import quadratic_form

SHAPE = (40, 42)
PSF = gaussian_psf()


@pytest.fixture(scope="module")
def galaxies():
    """Parameters of galaxies of many kinds, and their noisy stamps."""
    rng = np.random.default_rng(8)
    parameters = mixed_parameters(24, SHAPE, rng)
    return parameters, draw(SHAPE, PSF, parameters) + rng.normal(0, SIGMA, (24, *SHAPE))


def problems(images, **options):
    """Problem in pixels of stamps, the scale of their fluxes, and their transforms."""
    batch = next(iter(Cutouts(images, PSF, error=SIGMA, **options).batches(2**20)))
    (group,) = groups(BatchTensors.of(batch), on_stamp=True)
    return group.problem, torch.from_numpy(batch.scale), Stamps.of(group.problem, group.psf_on_stamp)


def joined(stamps, count):
    return FourierProblem.join([(part, torch.arange(count)) for part in stamps])


def test_likelihood_is_that_of_the_pixels(galaxies):
    """Score and information at the truth agree within a small part of an error."""
    parameters, images = galaxies
    problem, scale, stamps = problems(images)
    truth = torch.from_numpy(np.array(parameters))
    truth[:, 0] /= scale
    points = variables.from_parameters(truth)
    near = joined(stamps, len(images))
    assert sorted(near.rows.tolist()) == list(range(len(images)))
    _, gradient, hessian = near.evaluate(torch.arange(len(images)), points[near.rows])
    _, expected, information = problem.evaluate(near.rows, points[near.rows])
    difference = (gradient - expected)[:, :, None]
    sigmas = (difference.transpose(1, 2) @ torch.linalg.solve(information, difference)).flatten().sqrt()
    assert sigmas.median() < 0.1
    assert sigmas.max() < 0.6
    ratio = hessian.diagonal(dim1=1, dim2=2) / information.diagonal(dim1=1, dim2=2)
    assert ((ratio - 1.0).abs() < 0.03).all()


def test_gradient_is_that_of_the_loss(galaxies):
    """Differences of the loss give half the negative gradient."""
    parameters, images = galaxies
    _, scale, stamps = problems(images)
    near = joined(stamps, len(images))
    start = torch.from_numpy(np.array(parameters))
    start[:, 0] *= 0.9 / scale
    points = variables.from_parameters(start)[near.rows]
    rows = torch.arange(len(points))
    _, gradient, hessian = near.evaluate(rows, points)
    for column in range(7):
        step = 0.03 / hessian[:, column, column].sqrt()
        moved = torch.zeros_like(points)
        moved[:, column] = step
        slope = (near.evaluate(rows, points + moved)[0] - near.evaluate(rows, points - moved)[0]) / (2.0 * step)
        error = 0.02 * hessian[:, column, column].sqrt() + 0.01 * gradient[:, column].abs()
        assert ((-0.5 * slope - gradient[:, column]).abs() < error).all()


def test_flux_of_a_start(galaxies):
    """The best flux at the true shape is the true one within the noise."""
    parameters, images = galaxies
    _, scale, stamps = problems(images)
    near = joined(stamps, len(images))
    truth = torch.from_numpy(np.array(parameters))
    truth[:, 0] /= scale
    flux = near.solve_flux(truth[near.rows])
    _, _, hessian = near.evaluate(torch.arange(len(images)), variables.from_parameters(truth[near.rows]))
    assert ((flux - truth[near.rows, 0]).abs() * hessian[:, 0, 0].sqrt() < 5.0).all()


@pytest.mark.parametrize("options", [{}, {"gain": 2.0}, {"uneven": True}])
def test_end_is_that_of_the_pixels(galaxies, monkeypatch, options):
    """A fit that begins in Fourier space ends where one in pixels does, or in a better minimum."""
    _, images = galaxies
    error = SIGMA
    if options.pop("uneven", False):
        error = SIGMA * (1.0 + 0.5 * np.linspace(0, 1, SHAPE[1]) * np.ones(SHAPE))
    table = LSQSersicFitter().fit(images, PSF, error=error, **options)
    monkeypatch.setattr(fourier.Stamps, "of", staticmethod(lambda problem, transform: []))
    expected = LSQSersicFitter().fit(images, PSF, error=error, **options)
    moved = np.abs(values(table) - values(expected)) / values(expected, "err")
    chi2 = (plain(table["chi2_reduced"]) - plain(expected["chi2_reduced"])) * (plain(table["n_pixels_fit"]) - 7)
    same = (moved < 0.05).all(1)
    assert same.mean() > 0.9
    assert (same | (chi2 < 0.1)).all()


def test_quality_without_a_model(galaxies, monkeypatch):
    """Chi-squared and S/N that follow from the last evaluation are those of the model."""
    _, images = galaxies
    table = LSQSersicFitter().fit(images, PSF, error=SIGMA)
    known, of_ends = [], fitter.quality_of_ends

    def none_known(*args):
        quality, is_known = of_ends(*args)
        known.append(is_known)
        return quality, torch.zeros_like(is_known)

    monkeypatch.setattr(fitter, "quality_of_ends", none_known)
    expected = LSQSersicFitter().fit(images, PSF, error=SIGMA)
    assert torch.cat(known).double().mean() > 0.5
    np.testing.assert_allclose(plain(table["snr"]), plain(expected["snr"]), rtol=3e-3)
    np.testing.assert_allclose(plain(table["chi2_reduced"]), plain(expected["chi2_reduced"]), atol=0.2 / images[0].size)
    np.testing.assert_array_equal(table["flags"], expected["flags"])


def test_few_exact_evaluations(galaxies, monkeypatch):
    """Most fits need one or two models in pixels with derivatives."""
    _, images = galaxies
    count, draw_models = [], Problem.draw

    def counted(problem, rows, *args):
        count.append(len(rows))
        return draw_models(problem, rows, *args)

    monkeypatch.setattr(Problem, "draw", counted)
    LSQSersicFitter().fit(images, PSF, error=SIGMA)
    assert sum(count) < 4.0 * len(images)


def test_stamps_that_stay_in_pixels(galaxies):
    """Masked stamps, and those of a Student t loss, are not transformed."""
    _, images = galaxies
    mask = np.zeros(images.shape, dtype=bool)
    mask[3, 5, 6] = True
    problem, _, stamps = problems(images, mask=mask)
    assert sorted(torch.cat([part.rows for part in stamps]).tolist()) == [i for i in range(len(images)) if i != 3]
    robust = Problem(problem.image, problem.error, problem.good, None, problem.psf, problem.psf_index, dof=4.0)
    assert Stamps.of(robust, torch.zeros(1, *SHAPE)) == []


def test_profiles_on_modes():
    """The coarse table of the transform is as good as single precision needs."""
    modes = modes_of_band((32, 32), 1.0, "cpu", torch.float64)
    parameters = torch.tensor(
        [[1.0, 0.35, 1.0, 0.3, 0.2, 0, 0], [1.0, 3.3, 4.0, -0.5, 0.1, 0, 0], [1.0, 7.9, 9.0, 0, 0, 0, 0]]
    )
    parameters = parameters.double()
    value, by_n, slope = Profiles.of(parameters).on_modes(modes)
    real = slice(1, int((modes.count > 0).sum()))  # without zero, and what fills the last cache line
    kappa = ((quadratic_form(parameters) @ modes.forms)[:, real]).sqrt().numpy()
    for i, n in enumerate(parameters[:, 1].tolist()):
        np.testing.assert_allclose(value[i, real].numpy(), hankel_transform(n, kappa[i]), atol=3e-5)
        change = (hankel_transform(n + 1e-3, kappa[i]) - hankel_transform(n - 1e-3, kappa[i])) / 2e-3
        np.testing.assert_allclose(by_n[i, real].numpy(), change, atol=3e-4)
        steeper = hankel_transform(n, kappa[i] * 1.001) - hankel_transform(n, kappa[i] * 0.999)
        np.testing.assert_allclose(slope[i, real].numpy() * kappa[i] ** 2, steeper / 4e-3, atol=3e-4)


def test_light_outside():
    """An exponential disc wide enough loses the light that a sum over pixels misses."""
    side, r_eff = 41, 12.0
    parameters = torch.tensor([[1.0, 1.0, r_eff, 0.0, 0.0, 20.0, 20.0]]).double()
    outside = Profiles.of(parameters).light_outside((side, side))[0, 0]
    x = (np.arange(side * 5) + 0.5) / 5 - side / 2
    radius = np.hypot(x[:, None], x)
    scale = r_eff / 1.6783469900166605
    inside = np.exp(-radius / scale).sum() / 25 / (2 * np.pi * scale**2)
    assert abs(float(outside) - (1.0 - inside)) < 2e-3


def test_transform_of_an_oversampled_psf():
    """The native wavenumbers of an oversampled image are those of a native one, if it is well sampled."""
    x = np.arange(-30, 31)
    native = np.exp(-(x[:, None] ** 2 + x**2) / (2 * 2.5**2))
    fine = (np.arange(183) - 91) / 3
    fine = np.exp(-(fine[:, None] ** 2 + fine**2) / (2 * 2.5**2)) / 9
    for shape in ((64, 64), (33, 48)):
        ours = stamp_transforms(torch.from_numpy(fine)[None], shape, oversampling=3)
        expected = stamp_transforms(torch.from_numpy(native)[None], shape)
        assert ours.shape == expected.shape == (1, shape[0], shape[1] // 2 + 1)
        # odd sides have no Nyquist wave, and that of even ones is its own alias
        inner = (ours - expected).abs() * (expected.abs() > 1e-3)
        assert inner.max() < 1e-4 * expected.abs().max()


class _Quadratic:
    def __init__(self, offset):
        self.offset = offset

    def evaluate(self, rows, variables):
        return variables[:, 0] + self.offset + 100 * rows, variables, torch.diag_embed(variables)


def test_joint_problem_keeps_rows_apart():
    joint = JointProblem.of([_Quadratic(0.0), _Quadratic(0.5)], [torch.tensor([2, 0]), torch.tensor([1, 3])])
    points = torch.arange(3.0)[:, None]
    loss, gradient, hessian = joint.evaluate(torch.tensor([3, 0, 2]), points)
    assert loss.tolist() == [100.5, 101.0, 2.0]
    assert torch.equal(gradient, points)
    assert torch.equal(hessian[:, :, 0], points)


@pytest.mark.parametrize(("shape", "band"), [((32, 32), 0.6), ((33, 40), 1.0), ((20, 17), 1.42)])
def test_full_lines_hold_the_same_wavenumbers(shape, band):
    """One line for each row, of a multiple of 8 from the first column on; what is not in the disc counts nothing."""
    short, full = (modes_of_band(shape, band, "cpu", torch.float64, full_lines=way) for way in (False, True))
    for name in ("index", "ky", "kx", "count"):
        some, others = (getattr(modes, name)[modes.count > 0] for modes in (short, full))
        torch.testing.assert_close(some, others, rtol=0.0, atol=0.0)
    start, length, order, column = full.lines.T
    assert (length % 8 == 0).all()
    assert (column == 0).all()
    assert len(np.unique(order)) == len(order)
    np.testing.assert_array_equal(start, np.append(0, length.cumsum()[:-1]))
    for line, first in enumerate(start):
        modes = slice(first, first + length[line])
        used = full.count[modes] > 0
        expected = 2.0 * np.pi / shape[0] * order[line], torch.arange(length[line]) * (2.0 * np.pi / shape[1])
        torch.testing.assert_close(full.ky[modes][used], torch.full_like(full.ky[modes][used], expected[0]))
        torch.testing.assert_close(full.kx[modes][used], expected[1][used].double())
