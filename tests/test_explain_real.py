"""Explanations and pictures of real galaxies, whose stamps are larger than what the network sees."""

import numpy as np
import pytest
from test_lsq_real import REAL, real_cutouts

from galmeasure import NeuralSersicFitter
from galmeasure.explain import correlations, explain, optimal_filter
from galmeasure.plotting import GalleryPage, plot_mosaic

pytestmark = pytest.mark.skipif(not REAL.exists(), reason="the real galaxies are not here")


@pytest.fixture(scope="module")
def measured():
    cutouts, fitter = real_cutouts()[:3], NeuralSersicFitter()
    return fitter, cutouts, fitter.fit(cutouts)


def test_network_reads_real_galaxies_much_as_is_optimal(measured):
    pytest.importorskip("captum")
    fitter, cutouts, table = measured
    explanation = explain(fitter, cutouts, parameter="n")
    for pixels in explanation.maps:
        assert np.isfinite(pixels).all()
        assert (np.asarray(pixels)[:10] == 0).all()
    assert (correlations(explanation, optimal_filter(cutouts, table, "n", prior="galaxies")) > 0.6).all()


def test_pictures_of_real_galaxies(measured):
    pytest.importorskip("matplotlib")
    _, cutouts, table = measured
    axes = plot_mosaic(table, cutouts)
    assert [axis.get_title().split()[0] for axis in axes] == [str(name) for name in cutouts.ids]
    page = GalleryPage("real")
    page.add(table, cutouts)
    assert len(page.html()) < 150_000
