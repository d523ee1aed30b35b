"""The variables of a fit: flux, ln n, ln r_eff, two unbounded shears, x, y and, optionally, a background."""

import torch
from torch import Tensor

from galmeasure.parameters import BACKGROUND as BACKGROUND_PARAMETER
from galmeasure.parameters import G_MAX, N_PARAMETERS, SERSIC
from galmeasure.transforms import Disc, Linear, Log, SpaceTransform

__all__ = ["BACKGROUND", "bounds", "from_parameters", "hold_shape_of_a_point", "jacobian", "max_step", "to_parameters"]

_SPACES = {space.size: space for space in (SERSIC, SERSIC.extended(BACKGROUND_PARAMETER))}
_FIT = {"flux": Linear(), "n": Log(), "r_eff": Log(), "g1": Disc(G_MAX, edge=1e-4, smooth=False), "x": Linear()}
_TRANSFORMS = {size: SpaceTransform.of(space, _FIT) for size, space in _SPACES.items()}

BACKGROUND = _SPACES[N_PARAMETERS + 1].index("background")
"""Index of the background among the variables, when it is free."""

_SHEAR_MAX = 5.0  # of an unbounded shear: |g| is within 1e-4 of its largest value there
_MARGIN = 0.25  # distance to which a centre may leave the stamp, in sides of the stamp
_MAX_STEP = {"n": 1.0, "r_eff": 1.0, "g1": 1.0, "g2": 1.0, "x": 3.0, "y": 3.0}


def from_parameters(parameters: Tensor) -> Tensor:
    """Variables ``(B, 7)`` of Sersic parameters ``(B, 7)``."""
    return _TRANSFORMS[N_PARAMETERS].to_coordinates(parameters)


def to_parameters(variables: Tensor) -> Tensor:
    """Sersic parameters ``(B, 7)`` of variables ``(B, 7 or 8)``."""
    return _TRANSFORMS[N_PARAMETERS].from_coordinates(variables[:, :N_PARAMETERS])


def jacobian(variables: Tensor) -> Tensor:
    """Derivatives of parameters (columns) by variables (rows), shape ``(B, P, P)``, a symmetric matrix."""
    return _TRANSFORMS[variables.shape[1]].jacobian(variables)


def bounds(shapes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds of the variables.

    Parameters
    ----------
    shapes : Tensor
        Sides of the stamps (ny, nx), shape ``(B, 2)``.
    size : int
        Number of the variables: seven, or eight with a background.

    Returns
    -------
    lower, upper : Tensor
        Bounds, shape ``(B, size)``, infinite where there are none.
    """
    lower = torch.full((len(shapes), size), -torch.inf, dtype=torch.float64, device=shapes.device)
    upper = torch.full_like(lower, torch.inf)
    n, r_eff = (SERSIC[name] for name in ("n", "r_eff"))
    log = torch.tensor([n.lower, n.upper, r_eff.lower], dtype=torch.float64).log()
    i_n, i_r = SERSIC.indices("n", "r_eff")
    lower[:, i_n], upper[:, i_n], lower[:, i_r] = log
    sides = shapes.double()
    upper[:, i_r] = torch.log(sides.amax(1).clamp_min(2.0))
    shear = SERSIC.slice("g1", "g2")
    lower[:, shear], upper[:, shear] = -_SHEAR_MAX, _SHEAR_MAX
    for column, side in zip(SERSIC.indices("y", "x"), sides.unbind(1), strict=True):
        margin = _MARGIN * side
        lower[:, column] = -0.5 - margin
        upper[:, column] = side - 0.5 + margin
    return lower, upper


def hold_shape_of_a_point(held: Tensor) -> Tensor:
    """Held variables, with index and shear where the radius is held.

    Where the radius is stopped at its bound, the Sersic index and the shear have no meaning.

    Parameters
    ----------
    held : Tensor
        Boolean, shape ``(B, P)``, True for variables that do not move.

    Returns
    -------
    Tensor
        Boolean, shape ``(B, P)``.
    """
    held = held.clone()
    held[:, list(SERSIC.indices("n", "g1", "g2"))] |= held[:, SERSIC.slice("r_eff")]
    return held


def max_step(size: int, device: torch.device | str) -> Tensor:
    """Longest step of each variable, shape ``(size,)``: infinite for flux and background."""
    names = _SPACES[size].names
    return torch.tensor([_MAX_STEP.get(name, torch.inf) for name in names], dtype=torch.float64, device=device)
