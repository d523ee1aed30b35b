"""The table of parameters, and shear against axis ratio."""

import numpy as np
import pytest

from galmeasure.parameters import (
    N_PARAMETERS,
    PARAMETER_INDEX,
    PARAMETER_NAMES,
    PARAMETERS,
    g_from_q_theta,
    g_to_q_theta,
)


def test_order_of_covariance():
    assert PARAMETER_NAMES == ("flux", "n", "r_eff", "g1", "g2", "x", "y")
    assert N_PARAMETERS == 7
    assert [PARAMETER_INDEX[name] for name in PARAMETER_NAMES] == list(range(7))


@pytest.mark.parametrize("parameter", PARAMETERS, ids=lambda p: p.name)
def test_parameter(parameter):
    assert parameter.kind in {"flux", "length", "position", "number"}
    assert parameter.lower < parameter.upper
    assert parameter.latex.startswith("$")
    assert parameter.latex.endswith("$")
    assert parameter.description


@pytest.mark.parametrize("q", [0.03, 0.3, 0.99])
@pytest.mark.parametrize("theta", [0.0, 30.0, 90.0, 135.0, 179.9])
def test_round_trip(q, theta):
    q_back, theta_back = g_to_q_theta(*g_from_q_theta(q, theta))
    assert q_back == pytest.approx(q, rel=1e-12)
    assert theta_back == pytest.approx(theta, abs=1e-10)


def test_angle_is_modulo_180_degrees():
    np.testing.assert_allclose(g_from_q_theta(0.5, 200.0), g_from_q_theta(0.5, 20.0), atol=1e-15)
    _, theta = g_to_q_theta(0.3, np.array([0.0, -0.0, -1e-18, -1e-300]))
    assert np.all((theta >= 0) & (theta < 180))


def test_round_galaxy():
    assert g_to_q_theta(0.0, 0.0) == (1.0, 0.0)


def test_definition_of_reduced_shear():
    """``|g| = (a - b) / (a + b)`` and the angle is counter-clockwise from +x."""
    g1, g2 = g_from_q_theta([0.5, 0.5], [0.0, 90.0])
    np.testing.assert_allclose(g1, [1 / 3, -1 / 3])
    np.testing.assert_allclose(g2, 0.0, atol=1e-15)


def test_same_as_galsim():
    galsim = pytest.importorskip("galsim")
    g1, g2 = g_from_q_theta(0.4, 70.0)
    shear = galsim.Shear(q=0.4, beta=70.0 * galsim.degrees)
    assert (float(g1), float(g2)) == pytest.approx((shear.g1, shear.g2), rel=1e-12)


def test_nan_stays_nan():
    q, theta = g_to_q_theta(np.nan, 0.1)
    assert np.isnan(q)
    assert np.isnan(theta)
