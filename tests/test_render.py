"""The renderer against GalSim, quadrature, finite differences and autograd."""

import numpy as np
import pytest
import torch

from galmeasure.parameters import PARAMETER_NAMES
from galmeasure.render import prepare_psf, render_raw, render_sersic
from galmeasure.render.curvature import render_curvature
from galmeasure.render.grid import fold_columns, good_size, wavenumbers
from galmeasure.render.profiles import hankel_transform, load_table, sersic_b
from galmeasure.render.sersic import _evaluate_transform

galsim = pytest.importorskip("galsim", reason="the reference renderer")


def gs_params():
    return galsim.GSParams(folding_threshold=5e-4, kvalue_accuracy=1e-6, maxk_threshold=1e-4, maximum_fft_size=2**14)


def galsim_psf(kind, fwhm):
    params = gs_params()
    return {
        "moffat": lambda: galsim.Moffat(beta=2.5, fwhm=fwhm, gsparams=params),
        "gaussian": lambda: galsim.Gaussian(fwhm=fwhm, gsparams=params),
        "kolmogorov": lambda: galsim.Kolmogorov(fwhm=fwhm, gsparams=params),
    }[kind]().shear(g1=0.03, g2=-0.02)


def psf_image(psf, size, oversampling=1):
    effective = galsim.Convolve(psf, galsim.Pixel(1.0, gsparams=gs_params()), gsparams=gs_params())
    return effective.drawImage(nx=size, ny=size, scale=1 / oversampling, method="no_pixel", dtype=float).array


def galsim_image(values, psf, shape):
    flux, n, r_eff, g1, g2, x, y = values
    galaxy = galsim.Sersic(n, half_light_radius=r_eff, gsparams=gs_params()).withFlux(flux).shear(g1=g1, g2=g2)
    offset = (x - (shape[1] - 1) / 2, y - (shape[0] - 1) / 2)
    image = galsim.Convolve(galaxy, psf, gsparams=gs_params())
    return image.drawImage(nx=shape[1], ny=shape[0], scale=1.0, offset=offset, dtype=float).array


def difference(model, truth):
    """Summed difference in sigma at S/N 100."""
    return 100 * np.sqrt(((model - truth) ** 2).sum() / (truth**2).sum())


GRID = [
    (0.3, 1.5, 0.2, 0.1, 64), (0.5, 0.7, -0.5, 0.3, 33), (1.0, 4.0, 0.0, 0.8, 64), (1.0, 0.3, 0.3, 0.0, 32),
    (2.5, 2.0, -0.2, -0.2, 48), (4.0, 1.3, 0.1, 0.4, 64), (4.0, 5.0, -0.6, 0.3, 96), (6.2, 1.0, 0.0, 0.2, 64),
    (6.2, 6.0, 0.3, -0.1, 128),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "fwhm"), [("moffat", 2.0), ("gaussian", 2.5), ("kolmogorov", 3.5), ("moffat", 6.0)])
@pytest.mark.parametrize(("native", "limit"), [(False, 0.1), (True, 0.3)])
def test_agrees_with_galsim(kind, fwhm, native, limit):
    rng = np.random.default_rng(4)
    psf = galsim_psf(kind, fwhm)
    image = psf_image(psf, 97 if native else 301, 1 if native else 3)
    for n, r_eff, g1, g2, size in GRID:
        shape = (size, size + 3)
        middle = (shape[1] - 1) / 2, (shape[0] - 1) / 2
        values = [3.0, n, r_eff, g1, g2, middle[0] + rng.uniform(-1, 1), middle[1] + rng.uniform(-1, 1)]
        grid = prepare_psf(torch.from_numpy(image)[None], shape, oversampling=1 if native else 3)
        model = render_sersic(torch.tensor([values]), grid)[0].double().numpy()
        assert difference(model, galsim_image(values, psf, shape)) < limit, (n, r_eff, g1, g2, size)


@pytest.mark.parametrize("side", [63, 64])
def test_native_psf_of_either_parity_is_extended(side):
    psf = galsim_psf("moffat", 2.1)
    values = [1.0, 3.0, 0.6, 0.1, -0.2, 31.9, 30.8]
    grid = prepare_psf(torch.from_numpy(psf_image(psf, side))[None], (64, 64))
    assert grid.fold == 2
    model = render_sersic(torch.tensor([values]), grid)[0].double().numpy()
    assert difference(model, galsim_image(values, psf, (64, 64))) < 0.1


def test_extension_leaves_a_point_source_on_the_same_phase_alone():
    image = torch.from_numpy(psf_image(galsim_psf("moffat", 2.1), 33))
    grid = prepare_psf(image[None], (33, 33), dtype=torch.float64)
    star = render_sersic(torch.tensor([[1.0, 0.5, 1e-3, 0.0, 0.0, 16.0, 16.0]], dtype=torch.float64), grid)[0]
    np.testing.assert_allclose(star, image, atol=1e-3 * image.max())


@pytest.mark.parametrize("n", [0.3, 0.5, 0.77, 1.0, 1.63, 3.1, 5.5, 7.9])
def test_tabulated_transform(n):
    kappa = np.exp(np.random.default_rng(1).uniform(np.log(2e-3), np.log(50.0), 200))
    psf = torch.zeros(1, 9, 9, dtype=torch.float64)
    psf[0, 4, 4] = 1.0
    grid = prepare_psf(psf, (64, 64), dtype=torch.float64)
    _, kx, _ = wavenumbers(grid.padded, grid.band, torch.device("cpu"), torch.float64)
    k = kx[0, 20].item()
    parameters = torch.zeros(len(kappa), 7, dtype=torch.float64)
    parameters[:, 0], parameters[:, 1] = 1.0, n
    parameters[:, 2] = torch.from_numpy(kappa / k)
    value = _evaluate_transform(parameters, grid, False)[0][:, 0, 20]
    np.testing.assert_allclose(value, hankel_transform(n, kappa), atol=2e-6)


def test_transform_of_the_exponential_and_the_gaussian():
    kappa = np.geomspace(1e-3, 1e3, 50)
    np.testing.assert_allclose(hankel_transform(1.0, kappa), (1 + (kappa / sersic_b(1.0)) ** 2) ** -1.5, atol=1e-12)
    np.testing.assert_allclose(hankel_transform(0.5, kappa), np.exp(-(kappa**2) / 4 / sersic_b(0.5)), atol=1e-12)


@pytest.mark.parametrize("n", [4.0, 8.0])
def test_high_index_against_fourier_quadrature(n):
    """A large grid with the exact transform, beyond GalSim's n = 6.2, wings wrapped negligibly."""
    sigma, r_eff, g1, size = 1.5, 2.0, 0.3, 2048
    k = 2 * np.pi * np.fft.fftfreq(size)
    ky, kx = k[:, None], k[None, : size // 2 + 1]
    scale = r_eff / np.sqrt(1 - g1**2)
    kappa = scale * np.hypot((1 + g1) * kx, (1 - g1) * ky)
    nodes = np.geomspace(1e-5, 60, 3000)
    exact = np.interp(np.log(kappa.clip(1e-5)), np.log(nodes), hankel_transform(n, nodes))
    spectrum = exact * np.exp(-0.5 * sigma**2 * (kx**2 + ky**2))
    truth = np.fft.fftshift(np.fft.irfft2(spectrum, s=(size, size)))
    low = size // 2 - 31
    truth = truth[low : low + 63, low : low + 63]
    y, x = np.mgrid[-30:31, -30:31]
    gaussian = np.exp(-(x**2 + y**2) / 2 / sigma**2) / (2 * np.pi * sigma**2)
    grid = prepare_psf(torch.from_numpy(gaussian)[None], (63, 63), dtype=torch.float64)
    values = torch.tensor([[1.0, n, r_eff, g1, 0.0, 31.0, 31.0]], dtype=torch.float64)
    assert difference(render_sersic(values, grid)[0].numpy(), truth) < 0.1


@pytest.mark.parametrize("oversampling", [1, 3])
@pytest.mark.parametrize(
    "values",
    [
        (2.0, 1.3, 2.5, 0.3, -0.2, 17.2, 20.1),
        (5.0, 4.3, 8.0, -0.6, 0.2, 16.2, 19.1),
        (5.0, 0.5, 1.0, -0.6, 0.2, 16.2, 19.1),
        (3.0, 7.9, 0.3, 0.0, 0.0, 16.0, 20.0),
    ],
)
def test_jacobian_against_central_differences(values, oversampling):
    image = psf_image(galsim_psf("moffat", 2.3), 40 * oversampling + 1, oversampling)
    grid = prepare_psf(torch.from_numpy(image)[None], (40, 33), oversampling=oversampling, dtype=torch.float64)
    parameters = torch.tensor([values], dtype=torch.float64)
    _, jacobian = render_sersic(parameters, grid, jacobian=True)
    for i, name in enumerate(PARAMETER_NAMES):
        step = torch.zeros_like(parameters)
        step[0, i] = 1e-5
        expected = (render_sersic(parameters + step, grid) - render_sersic(parameters - step, grid)) / 2e-5
        error = (jacobian[:, i] - expected).abs().max() / expected.abs().max()
        assert error < 1e-5, name


def test_autograd_agrees_with_the_jacobian():
    grid = prepare_psf(torch.from_numpy(psf_image(galsim_psf("gaussian", 3), 33))[None], (32, 32), dtype=torch.float64)
    parameters = torch.tensor([[2.0, 2.2, 3.0, 0.2, 0.1, 15.0, 16.0]], dtype=torch.float64, requires_grad=True)
    render_sersic(parameters, grid)[0, 10, 12].backward()
    with torch.no_grad():
        _, jacobian = render_sersic(parameters, grid, jacobian=True)
    torch.testing.assert_close(parameters.grad[0], jacobian[0, :, 10, 12], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("columns", [4, 5, 7, 8, 9, 10, 12, 13])
def test_folded_columns_are_every_fourth_sample(columns):
    spectrum = torch.randn(3, columns, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    spectrum[:, 0].imag.zero_()
    expected = torch.fft.irfft(spectrum, n=32)[:, ::4] * 4
    torch.testing.assert_close(torch.fft.irfft(fold_columns(spectrum, 8), n=8), expected)


def test_wrapped_light_is_subtracted():
    """A galaxy as large as the stamp: the small grid gives what a four times larger one gives."""
    image = torch.from_numpy(psf_image(galsim_psf("gaussian", 3), 33))[None]
    values = torch.tensor([[1.0, 4.0, 20.0, 0.3, 0.2, 15.0, 16.0]], dtype=torch.float64)
    small = render_sersic(values, prepare_psf(image, (32, 32), dtype=torch.float64))
    values[0, 5:] += 96
    large = render_sersic(values, prepare_psf(image, (224, 224), dtype=torch.float64))[:, 96:128, 96:128]
    assert difference(small.numpy(), large.numpy()) < 0.1


def test_batch_with_several_psfs_equals_one_by_one():
    images = torch.from_numpy(np.stack([psf_image(galsim_psf("moffat", fwhm), 33) for fwhm in (4.0, 4.5, 5.0)]))
    grid = prepare_psf(images, (32, 40))
    values = torch.tensor([[1.0, 1.0 + i, 2.0, 0.1, 0.1 * i, 20.0, 15.0 + i] for i in range(4)])
    index = torch.tensor([2, 0, 1, 2])
    together = render_raw(values, grid, index)
    for i in range(4):
        alone = prepare_psf(images[index[i]][None], (32, 40))
        torch.testing.assert_close(together[i : i + 1], render_raw(values[i : i + 1], alone), rtol=1e-4, atol=1e-5)


def test_psfs_that_are_sampled_well_and_badly_go_together():
    y, x = np.mgrid[-15:16, -15:16]
    images = torch.from_numpy(np.stack([np.exp(-(x**2 + y**2) / (2.0 * sigma**2)) for sigma in (0.5, 2.5, 0.7)]))
    values = torch.tensor([[1.0, 2.0, 3.0, 0.1, 0.2, 23.0, 24.5]], dtype=torch.float64).repeat(3, 1)
    grid = prepare_psf(images, (48, 47), dtype=torch.float64)
    together = render_sersic(values, grid, torch.arange(3))
    for i in range(3):
        alone = render_sersic(values[:1], prepare_psf(images[i : i + 1], (48, 47), dtype=torch.float64))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0.0, atol=1e-4 * float(alone.max()))


def test_psf_larger_than_the_grid_keeps_its_flux():
    image = torch.from_numpy(psf_image(galsim_psf("gaussian", 3), 101))[None]
    grid = prepare_psf(image, (16, 16))
    assert grid.transform[0, 0, 0].real == pytest.approx(float(image.sum()), rel=1e-6)


def test_good_size_has_small_factors():
    assert [good_size(side) for side in (7, 24, 91, 96, 97)] == [8, 24, 96, 96, 100]


def test_the_shipped_table_is_read_only_and_finite():
    table = load_table()
    assert np.isfinite(table).all()
    with pytest.raises(ValueError, match="read-only"):
        table[0, 0] = 0.0


@pytest.mark.slow
def test_the_shipped_table_is_what_its_script_builds():
    from galmeasure.render.profiles import build_table

    np.testing.assert_allclose(build_table(), load_table(), atol=1e-10)


@pytest.mark.parametrize("values", [(20.0, 1.3, 2.5, 0.3, -0.2, 17.2, 20.1), (5.0, 4.3, 1.2, -0.5, 0.2, 16.2, 19.1)])
def test_curvature_against_second_differences(values):
    generator = torch.Generator().manual_seed(3)
    image = psf_image(galsim_psf("gaussian", 3.0), 41)
    grid = prepare_psf(torch.from_numpy(image)[None], (40, 33), dtype=torch.float64)
    parameters = torch.tensor([values], dtype=torch.float64)
    scale = torch.tensor([1.0, 0.3, 0.2, 0.05, 0.05, 0.1, 0.1], dtype=torch.float64)
    root = scale[:, None] * torch.randn((7, 7), generator=generator, dtype=torch.float64)
    expected = torch.zeros(1, 40, 33, dtype=torch.float64)
    h = 1e-3
    for k in range(7):
        step = h * root[:, k]
        both = render_sersic(parameters + step, grid) + render_sersic(parameters - step, grid)
        expected += (both - 2 * render_sersic(parameters, grid)) / h**2
    found = render_curvature(parameters, (root @ root.T)[None], grid)
    assert (found - expected).abs().max() < 5e-3 * expected.abs().max()  # the wrapped light is not in it
