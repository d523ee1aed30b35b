"""Explanations of networks, and the optimal filter beside them."""

import sys
from importlib.util import find_spec

import numpy as np
import pytest
from astropy import units as u
from astropy.table import Table

from galmeasure import Cutouts, NeuralSersicFitter, get_weights, list_weights, read_cutouts
from galmeasure.evaluation import cramer_rao_bounds
from galmeasure.explain import correlations, explain, optimal_filter
from galmeasure.fitters import make_model_images

NAMES = ("flux", "n", "r_eff", "g1", "g2")
TRUTH = {"flux": 3e4, "n": 1.5, "r_eff": 4.0, "g1": 0.1, "g2": -0.15, "x": 31.5, "y": 31.5}
needs_captum = pytest.mark.skipif(find_spec("captum") is None, reason="captum is not installed")


def gaussian_psf():
    y, x = np.mgrid[-16:17, -16:17]
    return np.exp(-(x**2 + y**2) / (2 * 1.3**2))


def truth_table(count=1):
    return Table({f"{name}_fit": [value] * count for name, value in TRUTH.items()})


def galaxy(sigma=10.0, noise=0.0, **options):
    blank = Cutouts(np.zeros((64, 64)), gaussian_psf(), error=sigma)
    image = make_model_images(truth_table(), blank)[0]
    image = image + noise * sigma * np.random.default_rng(2).normal(size=image.shape)
    return Cutouts(image, gaussian_psf(), error=sigma, **options)


@pytest.fixture(scope="module")
def demo():
    return read_cutouts("examples/demo_catalog.fits")[1:4]


def numerical_derivative(fitter, cutouts, name, pixel, step):
    """Change of the network's mean with a pixel."""
    values = []
    for sign in (-1, 1):
        image = np.array(cutouts.image(0), dtype=float)
        image[pixel] += sign * step
        changed = Cutouts(image, cutouts.psf_image(0), error=cutouts.error(0), gain=2.0, pixel_scale=0.2)
        values.append(np.asarray(explain(fitter, changed, parameter=name).values)[0])
    return (values[1] - values[0]) / (2 * step)


@needs_captum
@pytest.mark.parametrize(
    ("weights", "name"), [("survey-v3", "flux"), ("survey-v3", "r_eff"), ("xception-set3-v1", "n")]
)
def test_saliency_is_the_derivative_in_the_units_of_the_table(weights, name):
    cutouts = galaxy(noise=1.0, gain=2.0, pixel_scale=0.2)
    fitter = NeuralSersicFitter(weights=weights)
    maps = np.asarray(explain(fitter, cutouts, parameter=name).maps[0])
    for pixel in ((31, 31), (34, 30)):
        expected = numerical_derivative(fitter, cutouts, name, pixel, 4.0)
        assert maps[pixel] == pytest.approx(expected, rel=0.1, abs=0.01 * np.abs(maps).max())


@needs_captum
@pytest.mark.parametrize("weights", [entry.name for entry in list_weights()])
def test_every_shipped_network_can_be_explained(weights, demo):
    fitter = NeuralSersicFitter(weights=weights, refine=None)
    explanation = fitter.explain(demo[:1], parameter="g1")
    assert np.isfinite(explanation.maps[0]).all()
    assert np.ptp(explanation.maps[0].value) > 0
    assert explanation.weights == weights
    assert explanation.values[0] == pytest.approx(fitter.fit(demo[:1])["g1_fit"][0], abs=5e-3)


@needs_captum
@pytest.mark.parametrize("weights", ["survey-v3", "xception-set3-v1"])
def test_integrated_gradients_sum_up_to_the_difference(weights, demo):
    explanation = explain(
        NeuralSersicFitter(weights=weights), demo[:2], parameter="r_eff", method="integrated_gradients"
    )
    assert explanation.maps[0].unit == u.arcsec
    difference = np.abs(explanation.values - explanation.baselines)
    assert np.all(np.abs(explanation.incompleteness) < 0.1 * difference + 0.005 * u.arcsec)
    sums = u.Quantity([pixels.sum() for pixels in explanation.maps])
    np.testing.assert_allclose(
        (explanation.baselines + sums + explanation.incompleteness).value, explanation.values.value
    )


@needs_captum
def test_explanations_do_not_depend_on_other_cutouts(demo):
    fitter = NeuralSersicFitter()
    options = {"parameter": "n", "method": "integrated_gradients", "n_steps": 4}
    small = Cutouts([demo.image(1)[5:50, 3:45] * u.adu], demo.psf_image(0), error=2.0 * u.adu)
    together = [small.image(0) * u.adu, demo.image(0) * u.adu]
    alone = explain(fitter, small, **options)
    both = explain(fitter, Cutouts(together, demo.psf_image(0), error=2.0 * u.adu), **options)
    np.testing.assert_allclose(both.maps[0], alone.maps[0], atol=2e-4 * np.abs(alone.maps[0]).max())


@needs_captum
def test_gradcam_is_labelled_and_finds_the_galaxy(demo):
    for weights, side in (("survey-v3", 8), ("attention-v1", 8), ("xception-set3-v1", 8)):
        explanation = explain(NeuralSersicFitter(weights=weights), demo[:2], parameter="flux", method="gradcam")
        assert explanation.is_upsampled
        assert explanation.map_side == side
        pixels = np.abs(explanation.average(absolute=True))
        assert pixels[16:48, 16:48].mean() > 2 * pixels[:8].mean()
        assert np.abs(explanation.maps[0]).max() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="for Xception and encoders of tokens .mixer, attention., not for autoencoder"):
        explain(NeuralSersicFitter(weights="autoencoder-set3-v1"), demo[:1], method="gradcam")


@needs_captum
def test_gradcam_stays_on_the_pixels_that_the_network_sees(demo):
    image = np.pad(demo.image(0), ((0, 0), (20, 26)))
    image += 10.0 * np.random.default_rng(1).normal(size=image.shape)
    explanation = explain(NeuralSersicFitter(), image, demo.psf_image(0), "flux", method="gradcam", error=15.0)
    assert np.isnan(explanation.maps[0]).sum() == 64 * 46
    assert np.isfinite(explanation.maps[0][:, 30:70]).all()


@needs_captum
def test_failed_cutouts_hold_nan_and_averages_leave_them_out(demo):
    images = np.stack([demo.image(0), np.zeros((64, 64))])
    explanation = explain(NeuralSersicFitter(), images, demo.psf_image(0), "g2", error=15.0)
    assert np.isnan(explanation.maps[1]).all()
    assert np.isnan(explanation.values[1])
    np.testing.assert_array_equal(explanation.average(), explanation.maps[0])
    np.testing.assert_array_equal(explanation.average(absolute=True), np.abs(explanation.maps[0]))


@needs_captum
def test_turned_views_are_explained_together(demo):
    one, eight = (NeuralSersicFitter(weights="xception-set3-v1", views=views, precision="float32") for views in (1, 8))
    plain, mean = (explain(fitter, demo[:1], parameter="flux") for fitter in (one, eight))
    assert mean.values[0].value == pytest.approx(eight.fit(demo[:1])["flux_fit"][0].value, rel=1e-4)
    assert correlation_of(plain, mean) > 0.7


def correlation_of(first, second):
    return np.corrcoef(*(np.asarray(explanation.maps[0]).ravel() for explanation in (first, second)))[0, 1]


@needs_captum
def test_refusals(demo):
    fitter = NeuralSersicFitter()
    with pytest.raises(ValueError, match="parameter must be one of flux, n, .*, not 'size'"):
        fitter.explain(demo, parameter="size")
    with pytest.raises(ValueError, match="take x as known"):
        NeuralSersicFitter(weights="xception-set1-v1").explain(demo, parameter="x")
    with pytest.raises(ValueError, match="method must be one of 'saliency'"):
        fitter.explain(demo, method="lime")
    with pytest.raises(ValueError, match="n_steps must be an integer of at least 1"):
        fitter.explain(demo, method="integrated_gradients", n_steps=0)
    with pytest.raises(TypeError, match="fitter must be a NeuralSersicFitter"):
        explain(object(), demo)
    explanation = fitter.explain(demo[:1])
    with pytest.raises(ValueError, match="for incompleteness, not 'saliency'"):
        _ = explanation.incompleteness


def test_a_missing_captum_is_told(demo, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(ImportError, match=r"explanations need captum: pip install 'galmeasure\[explain\]'"):
        NeuralSersicFitter().explain(demo[:1])


def test_optimal_filter_estimates_without_bias_and_reaches_the_bound():
    cutouts = galaxy()
    bounds = cramer_rao_bounds(cutouts, truth_table())
    step = {"flux": 10.0, "n": 1e-3, "r_eff": 1e-3, "g1": 1e-4, "g2": 1e-4}
    for name in NAMES:
        best = optimal_filter(cutouts, truth_table(), name)
        assert np.asarray(best.bounds)[0] == pytest.approx(np.asarray(bounds[f"{name}_crb"])[0], rel=1e-3)
        assert best.information[0].sum() ** -0.5 == pytest.approx(np.asarray(best.bounds)[0], rel=1e-6)
        pixels = np.asarray(best.maps[0])
        assert 10.0 * np.sqrt(np.sum(pixels**2)) == pytest.approx(np.asarray(best.bounds)[0], rel=1e-6)
        for other in NAMES:
            moved = truth_table()
            moved[f"{other}_fit"] += step[other]
            change = make_model_images(moved, cutouts)[0] - make_model_images(truth_table(), cutouts)[0]
            response = np.sum(pixels * np.asarray(change)) / step[other]
            expected = 1.0 if other == name else 0.0
            assert response * step[other] / step[name] == pytest.approx(expected * step[other] / step[name], abs=0.02)


def test_prior_and_known_parameters_narrow_the_filter():
    cutouts = galaxy(sigma=60.0)
    free = optimal_filter(cutouts, truth_table(), "n")
    narrow = optimal_filter(cutouts, truth_table(), "n", prior="study")
    known = optimal_filter(cutouts, truth_table(), "flux", known=("x", "y", "n"))
    assert narrow.errors[0] < free.errors[0]
    assert narrow.errors[0] < 5.5 / np.sqrt(12) * 1.01
    assert free.errors[0] == pytest.approx(free.bounds[0], rel=1e-6)
    assert known.bounds[0] < optimal_filter(cutouts, truth_table(), "flux").bounds[0]


def test_optimal_filter_has_units_and_no_weight_in_bad_pixels():
    mask = np.zeros((64, 64), dtype=bool)
    mask[30:33, 20:25] = True
    image = np.ones((64, 64)) * u.adu
    cutouts = Cutouts(image, gaussian_psf(), error=10 * u.adu, mask=mask, pixel_scale=0.2, gain=2.0)
    truth = {name: [value * (0.2 if name == "r_eff" else 1.0)] for name, value in TRUTH.items()}
    best = optimal_filter(cutouts, truth, "r_eff")
    assert best.maps[0].unit == u.arcsec / u.adu
    assert best.bounds.unit == u.arcsec
    assert (best.maps[0].value[mask] == 0).all()
    assert best.information[0].sum() ** -0.5 == pytest.approx(best.bounds[0].value, rel=1e-6)
    truth["n"] = [np.nan]
    assert np.isnan(optimal_filter(cutouts, truth, "r_eff").maps[0]).all()


def test_optimal_filter_refuses():
    cutouts = galaxy()
    with pytest.raises(TypeError, match="cutouts must be a Cutouts"):
        optimal_filter(np.zeros((64, 64)), truth_table())
    with pytest.raises(ValueError, match="parameter must be one that is not known"):
        optimal_filter(cutouts, truth_table(), "x", known=("x", "y"))
    with pytest.raises(ValueError, match="known must hold names of parameters"):
        optimal_filter(cutouts, truth_table(), "n", known=("size",))


@needs_captum
def test_network_reads_nearly_what_is_optimal():
    cutouts = galaxy(sigma=30.0)
    prior = get_weights("survey-v3").get_prior()
    fitter = NeuralSersicFitter(weights="survey-v3")
    for name in ("flux", "g1", "g2"):
        explanation = fitter.explain(cutouts, parameter=name)
        best = optimal_filter(cutouts, truth_table(), name, prior=prior)
        assert correlations(explanation, best)[0] > 0.85
        turned = optimal_filter(cutouts, truth_table(), "g2" if name == "g1" else "g1", prior=prior)
        with pytest.raises(ValueError, match=f"best must be of the {name} of 1 galaxies"):
            correlations(explanation, turned)


@needs_captum
def test_pictures_of_explanations(demo):
    pytest.importorskip("matplotlib")
    from galmeasure.plotting import plot_explanation

    fitter = NeuralSersicFitter()
    explanation = fitter.explain(demo, parameter="r_eff")
    axes = plot_explanation(explanation, 1)
    np.testing.assert_array_equal(axes[1].images[0].get_array(), explanation.maps[1].value)
    assert axes[1].get_title() == r"derivative of $r_\mathrm{eff}$"
    best = optimal_filter(demo, fitter.fit(demo), "r_eff")
    axes = plot_explanation(explanation, None, best=best, window=20)
    assert len(axes) == 4
    assert axes[0].get_title() == "mean of 3 [adu]"
    assert axes[0].get_xlim() == (21.5, 41.5)
    assert axes[2].get_title().startswith("optimal filter, correlation 0.")
    assert axes[3].images[0].get_array().sum() == pytest.approx(100.0)
    gradcam = fitter.explain(demo[:1], parameter="r_eff", method="gradcam")
    assert "up-sampled from 8 × 8" in plot_explanation(gradcam)[1].get_title()
    with pytest.raises(ValueError, match="index must lie between 0 and 2 or be None"):
        plot_explanation(explanation, 3)
    with pytest.raises(ValueError, match="best must be the filter of r_eff for the same 3"):
        plot_explanation(explanation, best=optimal_filter(demo, fitter.fit(demo), "n"))
