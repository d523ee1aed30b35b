"""The astropy model."""

import numpy as np
import pytest
from astropy.modeling.fitting import LevMarLSQFitter

from galmeasure import Cutouts, LSQSersicFitter, PSFConvolvedSersic2D


def _psf():
    y, x = np.mgrid[-12:13, -12:13]
    return np.exp(-(x**2 + y**2) / 6.0)


def test_equals_the_fitters_model_image():
    y, x = np.mgrid[:41, :35]
    model = PSFConvolvedSersic2D(500.0, 1.7, 3.0, 0.2, -0.1, 17.3, 19.8, psf=_psf())
    image = model(x, y)
    cutouts = Cutouts(image, _psf(), error=1e-3)
    fitter = LSQSersicFitter()
    table = fitter.fit(cutouts)
    assert table["n_fit"][0] == pytest.approx(1.7, abs=1e-3)
    np.testing.assert_allclose(fitter.make_model_images(table, cutouts)[0], image, atol=2e-4 * image.max())
    assert np.abs(fitter.make_residual_images(table, cutouts)[0]).max() < 2e-4 * image.max()


def test_subset_and_offset_of_the_grid():
    model = PSFConvolvedSersic2D(500.0, 1.7, 3.0, 0.2, -0.1, 17.3, 19.8, psf=_psf())
    y, x = np.mgrid[:41, :35]
    full = model(x, y)
    inner = model(x[5:30, 4:30], y[5:30, 4:30])
    np.testing.assert_allclose(inner, full[5:30, 4:30], atol=3e-5 * full.max())
    flat = model(x.ravel(), y.ravel())
    np.testing.assert_allclose(flat, full.ravel())


def test_derivatives_are_used_by_astropy():
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:41, :35]
    truth = PSFConvolvedSersic2D(500.0, 1.7, 3.0, 0.2, -0.1, 17.3, 19.8, psf=_psf())
    image = truth(x, y) + rng.normal(0, 0.05, x.shape)
    start = PSFConvolvedSersic2D(400.0, 1.0, 2.0, 0.0, 0.0, 17.0, 20.0, psf=_psf())
    fitted = LevMarLSQFitter()(start, x, y, image)
    np.testing.assert_allclose(fitted.parameters, truth.parameters, rtol=0.05, atol=0.02)
    step = 1e-5
    derivatives = truth.fit_deriv(x, y, *truth.parameters)
    for i in range(7):
        up, down = truth.parameters.copy(), truth.parameters.copy()
        up[i] += step
        down[i] -= step
        expected = (truth.evaluate(x, y, *up) - truth.evaluate(x, y, *down)) / 2 / step
        np.testing.assert_allclose(derivatives[i], expected, atol=1e-5 * np.abs(expected).max())


def test_coordinates_off_the_grid_are_refused():
    model = PSFConvolvedSersic2D(psf=_psf())
    with pytest.raises(ValueError, match="x must be pixels of a regular grid"):
        model(np.array([0.0, 0.4]), np.array([0.0, 1.0]))


def test_psf_is_required():
    with pytest.raises(TypeError, match="psf"):
        PSFConvolvedSersic2D()
