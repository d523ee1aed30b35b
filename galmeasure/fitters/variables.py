"""The fit's own variables: flux, ln n, ln r_eff, two unbounded shears, x, y and, optionally, a background."""

import torch

from galmeasure.parameters import G_MAX, N_PARAMETERS, PARAMETERS

__all__ = ["BACKGROUND", "bounds", "from_parameters", "hold_shape_of_a_point", "jacobian", "max_step", "to_parameters"]

BACKGROUND = N_PARAMETERS
"""Index of the background among the variables, when it is free."""

_SHEAR_MAX = 5.0
_MARGIN = 0.25  # how far outside the stamp a centre may go, in sides of the stamp


def from_parameters(parameters):
    """Variables ``(B, 7)`` of Sersic parameters ``(B, 7)``."""
    flux, n, r_eff, g1, g2, x, y = parameters.unbind(-1)
    g = torch.hypot(g1, g2).clamp(1e-12, G_MAX * 0.9999)
    factor = torch.atanh(g / G_MAX) / g
    return torch.stack([flux, torch.log(n), torch.log(r_eff), g1 * factor, g2 * factor, x, y], -1)


def to_parameters(variables):
    """Sersic parameters ``(B, 7)`` of variables ``(B, 7 or 8)``."""
    flux, log_n, log_r, s1, s2, x, y = variables[:, :N_PARAMETERS].unbind(-1)
    s = torch.hypot(s1, s2).clamp_min(1e-12)
    factor = G_MAX * torch.tanh(s) / s
    return torch.stack([flux, torch.exp(log_n), torch.exp(log_r), s1 * factor, s2 * factor, x, y], -1)


def jacobian(variables):
    """Derivatives of parameters (columns) by variables (rows), shape ``(B, P, P)``."""
    count, size = variables.shape
    s1, s2 = variables[:, 3], variables[:, 4]
    s = torch.hypot(s1, s2).clamp_min(1e-12)
    tangential = G_MAX * torch.tanh(s) / s
    radial = G_MAX * (1.0 - torch.tanh(s) ** 2)
    u1, u2 = s1 / s, s2 / s
    matrix = torch.eye(size, dtype=variables.dtype, device=variables.device).repeat(count, 1, 1)
    matrix[:, 1, 1] = torch.exp(variables[:, 1])
    matrix[:, 2, 2] = torch.exp(variables[:, 2])
    matrix[:, 3, 3] = tangential + (radial - tangential) * u1**2
    matrix[:, 4, 4] = tangential + (radial - tangential) * u2**2
    matrix[:, 3, 4] = matrix[:, 4, 3] = (radial - tangential) * u1 * u2
    return matrix


def bounds(shapes, size):
    """Lower and upper bounds ``(B, size)`` of the variables for stamps of ``shapes`` ``(B, 2)`` (ny, nx)."""
    count = shapes.shape[0]
    lower = torch.full((count, size), -torch.inf, dtype=torch.float64, device=shapes.device)
    upper = torch.full((count, size), torch.inf, dtype=torch.float64, device=shapes.device)
    n, r_eff = PARAMETERS[1], PARAMETERS[2]
    log = torch.tensor([n.lower, n.upper, r_eff.lower], dtype=torch.float64).log()
    lower[:, 1], upper[:, 1], lower[:, 2] = log[0], log[1], log[2]
    sides = shapes.double()
    upper[:, 2] = torch.log(sides.amax(1).clamp_min(2.0))
    lower[:, 3:5], upper[:, 3:5] = -_SHEAR_MAX, _SHEAR_MAX
    for column, axis in ((5, 1), (6, 0)):
        margin = _MARGIN * sides[:, axis]
        lower[:, column] = -0.5 - margin
        upper[:, column] = sides[:, axis] - 0.5 + margin
    return lower, upper


def hold_shape_of_a_point(held):
    """Where the radius is stopped at its bound, Sersic index and shear have no meaning: hold them too."""
    point = held[:, 2:3]
    return torch.cat([held[:, :1], held[:, 1:2] | point, point, held[:, 3:5] | point, held[:, 5:]], 1)


def max_step(size, device):
    """Longest step of each variable, shape ``(size,)``: none for flux and background."""
    step = torch.full((size,), torch.inf, dtype=torch.float64, device=device)
    step[1:7] = torch.tensor([1.0, 1.0, 1.0, 1.0, 3.0, 3.0], dtype=torch.float64)
    return step
