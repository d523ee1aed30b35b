"""The one table of Sersic parameters, the space that they span, and shear against axis ratio.

Renderer, priors, fitters, networks, table columns, plots and documentation all read this table. The tensor
mathematics of the unbounded coordinates is in `galmeasure.transforms`, because this module must not load torch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

__all__ = [
    "BACKGROUND",
    "N_PARAMETERS",
    "PARAMETERS",
    "PARAMETER_INDEX",
    "PARAMETER_NAMES",
    "SERSIC",
    "ParameterSpace",
    "SersicParameter",
    "g_from_q_theta",
    "g_to_q_theta",
]

G_MAX = 0.95
"""Largest ``|g|`` of a fit (axis ratio 0.026)."""


@dataclass(frozen=True)
class SersicParameter:
    """One parameter of the Sersic model.

    Parameters
    ----------
    name : str
        Name, as used in table columns.
    kind : {"flux", "length", "position", "number"}
        Physical kind: ``"flux"`` carries the unit of the cutout, ``"length"`` is in pixels or arcsec, ``"position"``
        is in pixels, ``"number"`` has no unit.
    lower, upper : float
        Bounds of the fit, in pixels where there is a length. Infinite where the bound depends on the stamp.
    latex : str
        Label in LaTeX, for the axes of plots.
    description : str
        One line for documentation and table metadata.
    coordinate : {"linear", "log", "logit", "disc", "offset"}, optional
        Unbounded coordinate: the value itself, its logarithm, its logit between the bounds, the disc of radius
        ``upper`` stretched to the plane (two adjacent parameters make one disc), or the logit of the offset from the
        middle of a stamp. See `galmeasure.transforms`.
    """

    name: str
    kind: Literal["flux", "length", "position", "number"]
    lower: float
    upper: float
    latex: str
    description: str
    coordinate: Literal["linear", "log", "logit", "disc", "offset"] = "linear"


PARAMETERS = (
    SersicParameter(
        "flux", "flux", -np.inf, np.inf, r"$F$", "total flux of the Sersic model, integrated to infinity", "log"
    ),
    SersicParameter("n", "number", 0.3, 8.0, r"$n$", "Sersic index", "logit"),
    SersicParameter(
        "r_eff", "length", 0.05, np.inf, r"$r_\mathrm{eff}$", "half-light radius, circularised: sqrt(a b)", "log"
    ),
    SersicParameter(
        "g1", "number", -G_MAX, G_MAX, r"$g_1$", "reduced shear along the x axis, |g| = (a-b)/(a+b)", "disc"
    ),
    SersicParameter(
        "g2", "number", -G_MAX, G_MAX, r"$g_2$", "reduced shear along the diagonal, |g| = (a-b)/(a+b)", "disc"
    ),
    SersicParameter(
        "x", "position", -np.inf, np.inf, r"$x$", "centre, pixels, 0 is the centre of the first pixel", "offset"
    ),
    SersicParameter(
        "y", "position", -np.inf, np.inf, r"$y$", "centre, pixels, 0 is the centre of the first pixel", "offset"
    ),
)
"""The seven parameters, in the order of every parameter vector and covariance matrix."""

BACKGROUND = SersicParameter(
    "background", "flux", -np.inf, np.inf, r"$B$", "constant of the background, per pixel", "linear"
)
"""The parameter that a fit adds to the seven where the background is free."""

_DISC_SIZE = 2  # components of a shear


@dataclass(frozen=True)
class ParameterSpace:
    """An ordered set of parameters: the columns of every array that holds parameters, by name.

    A model with a background, a bulge or a second galaxy is a larger space; nothing outside of this class numbers the
    columns.

    Parameters
    ----------
    parameters : tuple of SersicParameter
        Parameters in the order of the columns; their names must differ.

    Raises
    ------
    ValueError
        If two parameters have the same name, or a disc lacks its second component.

    Examples
    --------
    >>> from galmeasure.parameters import BACKGROUND, SERSIC
    >>> SERSIC.index("r_eff"), SERSIC.slice("g1", "g2")
    (2, slice(3, 5, None))
    >>> SERSIC.extended(BACKGROUND).names[-2:]
    ('y', 'background')
    """

    parameters: tuple[SersicParameter, ...]

    def __post_init__(self) -> None:
        """Check names and discs."""
        if len(set(self.names)) != len(self.names):
            msg = f"parameters must have different names, not {', '.join(self.names)}"
            raise ValueError(msg)
        for block in self.blocks():
            if self[block[0]].coordinate == "disc" and len(block) != _DISC_SIZE:
                msg = f"parameters must have the two components of a disc side by side, not {block[0]} alone"
                raise ValueError(msg)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, in the order of the columns."""
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def size(self) -> int:
        """Number of the parameters."""
        return len(self.parameters)

    def __len__(self) -> int:
        """Return the number of the parameters."""
        return len(self.parameters)

    def __contains__(self, name: object) -> bool:
        """Tell if there is a parameter of that name."""
        return name in self._columns

    def __getitem__(self, name: str) -> SersicParameter:
        """Return the parameter of a name."""
        return self.parameters[self.index(name)]

    def index(self, name: str) -> int:
        """Column of a parameter.

        Parameters
        ----------
        name : str
            Name of the parameter.

        Returns
        -------
        int
            Its column, counted from 0.

        Raises
        ------
        ValueError
            If there is no parameter of that name.
        """
        try:
            return self._columns[name]
        except KeyError:
            msg = f"name must be one of {', '.join(self.names)}, not {name!r}"
            raise ValueError(msg) from None

    def indices(self, *names: str) -> tuple[int, ...]:
        """Columns of several parameters, one integer per name."""
        return tuple(self.index(name) for name in names)

    def slice(self, first: str, last: str | None = None) -> slice:
        """Adjacent columns, so that a subscript is a view of the array.

        Parameters
        ----------
        first, last : str
            Names of the first and the last parameter, both included; without the second name, the first column alone.

        Returns
        -------
        slice
            The columns.
        """
        start, stop = self.index(first), self.index(first if last is None else last)
        return slice(start, stop + 1)

    def extended(self, *parameters: SersicParameter) -> Self:
        """Space of these parameters and more, which follow them."""
        return type(self)((*self.parameters, *parameters))

    def without(self, *names: str) -> Self:
        """Space of these parameters but some, in the same order."""
        left_out = set(self.indices(*names))
        return type(self)(tuple(p for i, p in enumerate(self.parameters) if i not in left_out))

    def blocks(self) -> Iterator[tuple[str, ...]]:
        """Names of the parameters that share a coordinate: those of a disc, of a position, and the others alone."""
        block: list[str] = []
        for parameter in self.parameters:
            joins = parameter.coordinate in ("disc", "offset") and len(block) < _DISC_SIZE
            if block and not (joins and self[block[0]].coordinate == parameter.coordinate):
                yield tuple(block)
                block = []
            block.append(parameter.name)
        if block:
            yield tuple(block)

    @cached_property
    def _columns(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}


SERSIC = ParameterSpace(PARAMETERS)
"""The space of the seven parameters of one Sersic galaxy."""

N_PARAMETERS = SERSIC.size
PARAMETER_NAMES = SERSIC.names
PARAMETER_INDEX = {name: i for i, name in enumerate(PARAMETER_NAMES)}


def g_to_q_theta(g1: npt.ArrayLike, g2: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
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


def g_from_q_theta(q: npt.ArrayLike, theta: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
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
