"""The one table of Sersic parameters, and the change of variables between shear and axis ratio.

Renderer, priors, fitters, table columns, plots and documentation all read this table.
"""

from dataclasses import dataclass

import numpy as np

__all__ = [
    "N_PARAMETERS",
    "PARAMETERS",
    "PARAMETER_INDEX",
    "PARAMETER_NAMES",
    "SersicParameter",
    "g_from_q_theta",
    "g_to_q_theta",
]


@dataclass(frozen=True)
class SersicParameter:
    """One parameter of the Sersic model.

    Parameters
    ----------
    name : str
        Name, as used in table columns.
    kind : {"flux", "length", "position", "number"}
        What it measures: ``"flux"`` carries the unit of the cutout, ``"length"`` is
        in pixels or arcsec, ``"position"`` is in pixels, ``"number"`` has no unit.
    lower, upper : float
        Bounds of the fit, in pixels where there is a length. Infinite where the bound depends on the stamp.
    latex : str
        Label for plots.
    description : str
        One line for documentation and table metadata.
    """

    name: str
    kind: str
    lower: float
    upper: float
    latex: str
    description: str


PARAMETERS = (
    SersicParameter("flux", "flux", -np.inf, np.inf, r"$F$", "total flux of the Sersic model, integrated to infinity"),
    SersicParameter("n", "number", 0.3, 8.0, r"$n$", "Sersic index"),
    SersicParameter("r_eff", "length", 0.05, np.inf, r"$r_\mathrm{eff}$", "half-light radius, circularised: sqrt(a b)"),
    SersicParameter("g1", "number", -0.95, 0.95, r"$g_1$", "reduced shear along the x axis, |g| = (a-b)/(a+b)"),
    SersicParameter("g2", "number", -0.95, 0.95, r"$g_2$", "reduced shear along the diagonal, |g| = (a-b)/(a+b)"),
    SersicParameter("x", "position", -np.inf, np.inf, r"$x$", "centre, pixels, 0 is the centre of the first pixel"),
    SersicParameter("y", "position", -np.inf, np.inf, r"$y$", "centre, pixels, 0 is the centre of the first pixel"),
)
"""The seven parameters, in the order of every parameter vector and covariance matrix."""

N_PARAMETERS = len(PARAMETERS)
PARAMETER_NAMES = tuple(p.name for p in PARAMETERS)
PARAMETER_INDEX = {name: i for i, name in enumerate(PARAMETER_NAMES)}

G_MAX = 0.95
"""Largest ``|g|`` of a fit (axis ratio 0.026)."""


def g_to_q_theta(g1, g2):
    """Axis ratio and position angle of a reduced shear.

    Parameters
    ----------
    g1, g2 : array_like
        Components of the reduced shear, ``|g| < 1``.

    Returns
    -------
    q : ndarray
        Axis ratio ``b/a = (1 - |g|) / (1 + |g|)``.
    theta : ndarray
        Position angle of the major axis in degrees, in [0, 180), counter-clockwise from +x.

    Examples
    --------
    >>> from galmeasure.parameters import g_to_q_theta
    >>> q, theta = g_to_q_theta(0.0, 1 / 3)
    >>> print(f"{q:.2f} {theta:.1f}")
    0.50 45.0
    """
    g1, g2 = np.asarray(g1, dtype=float), np.asarray(g2, dtype=float)
    g = np.hypot(g1, g2)
    theta = np.degrees(0.5 * np.arctan2(g2, g1)) % 180.0
    theta = np.where(theta >= 180.0, 0.0, theta)
    return (1.0 - g) / (1.0 + g), theta


def g_from_q_theta(q, theta):
    """Reduced shear of an axis ratio and a position angle.

    Parameters
    ----------
    q : array_like
        Axis ratio ``b/a``, in (0, 1].
    theta : array_like
        Position angle in degrees, counter-clockwise from +x.

    Returns
    -------
    g1, g2 : ndarray
        Components of the reduced shear.

    Examples
    --------
    >>> from galmeasure.parameters import g_from_q_theta
    >>> g1, g2 = g_from_q_theta(0.5, 45.0)
    >>> print(f"{abs(g1):.2f} {g2:.3f}")
    0.00 0.333
    """
    q, angle = np.asarray(q, dtype=float), 2.0 * np.radians(np.asarray(theta, dtype=float))
    g = (1.0 - q) / (1.0 + q)
    return g * np.cos(angle), g * np.sin(angle)
