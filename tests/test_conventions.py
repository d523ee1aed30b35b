"""The conversions that the documentation gives, against the codes that can be asked here."""

import numpy as np
import pytest
from astropy.modeling.models import Sersic2D
from scipy.special import gamma, gammaincinv

from galmeasure.parameters import g_from_q_theta, g_to_q_theta

SIZE = 61


def sersic2d_flux(model):
    """Total flux of astropy's model, by the formula of the conventions page."""
    n, q, bn = model.n.value, 1 - model.ellip.value, gammaincinv(2 * model.n.value, 0.5)
    factor = 2 * np.pi * n * np.exp(bn) * bn ** (-2 * n) * gamma(2 * n)
    return factor * q * model.r_eff.value**2 * model.amplitude.value


@pytest.mark.parametrize(("q", "theta"), [(0.5, 30.0), (0.8, 110.0)])
def test_astropy_and_galsim_agree(q, theta):
    """``Sersic2D`` has the semi-major radius and 1 - q; GalSim has the circularised radius and the shear."""
    galsim = pytest.importorskip("galsim")
    r_eff, n = 5.0, 1.0
    g1, g2 = map(float, g_from_q_theta(q, theta))
    ours = Sersic2D(1.0, r_eff / np.sqrt(q), n, SIZE // 2, SIZE // 2, 1 - q, np.radians(theta))
    profile = galsim.Sersic(n, half_light_radius=r_eff, flux=sersic2d_flux(ours)).shear(g1=g1, g2=g2)
    centre = galsim.PositionD(0, 0)
    y, x = np.mgrid[:SIZE, :SIZE]
    expected = ours(x, y)
    for dx, dy in [(0, 0), (4, 3), (-7, 6), (0, 12), (15, -2)]:
        value = profile.xValue(centre + galsim.PositionD(dx, dy))
        assert expected[SIZE // 2 + dy, SIZE // 2 + dx] == pytest.approx(value, rel=1e-3)


def test_theta_of_moments():
    """Counter-clockwise from +x, as photutils' ``orientation``, on an array indexed [y, x]."""
    from photutils.morphology import data_properties

    image = Sersic2D(1.0, 6.0, 1.0, 30, 30, 0.5, np.radians(25.0))(*np.mgrid[:SIZE, :SIZE][::-1])
    _, theta = g_to_q_theta(*g_from_q_theta(0.5, 25.0))
    assert data_properties(image).orientation.to_value("deg") == pytest.approx(float(theta), abs=0.1)


def test_semi_major_radius_at_half_axis_ratio():
    """The documentation's 41 %."""
    assert 1 / np.sqrt(0.5) == pytest.approx(1.41, abs=0.005)
