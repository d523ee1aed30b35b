"""Unbounded coordinates of parameters, on tensors: one transform per block of parameters, joined for a whole space.

The fit, the flow of a network, the calibration of quantiles and the importance sampler all work in coordinates that
have no bounds. Each chooses its transforms; the mathematics is here once.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import permutations
from typing import Protocol, Self

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from galmeasure.parameters import ParameterSpace, SersicParameter

__all__ = [
    "Disc",
    "Elementwise",
    "Linear",
    "Log",
    "Logit",
    "LogitOfLog",
    "LogitOfOffset",
    "SpaceTransform",
    "Tanh",
    "Transform",
    "default_transform",
]

_EDGE = 1e-6
"""Distance from the bounds, as a fraction of the domain, at which parameters are stopped: float32 resolves it."""

_SOFTENING = 1e-12
"""Square of the length below which the stretch of a disc is that at its middle; least length where there is none."""

_LEAST = 1e-30
"""Least value of which a logarithm is taken."""


class Transform(Protocol):
    """Change of variables for a block of one or more parameters, whose columns come one tensor each.

    ``scale`` is the unit of the flux of each galaxy, which broadcasts against the columns; most transforms ignore it.
    """

    def to_coordinates(self, columns: Sequence[Tensor], scale: Tensor | float) -> list[Tensor]:
        """Unbounded coordinates of parameters."""
        ...

    def from_coordinates(self, columns: Sequence[Tensor], scale: Tensor | float) -> list[Tensor]:
        """Parameters of unbounded coordinates."""
        ...

    def slopes(self, columns: Sequence[Tensor], scale: Tensor | float) -> list[list[Tensor | None]]:
        """Derivatives of parameters (outer list) by coordinates (inner list), None where they are zero."""
        ...

    def add_log_volume(self, total: Tensor | float, columns: Sequence[Tensor], scale: Tensor | float) -> Tensor:
        """Sum of ``total`` and the logarithm of the determinant of `slopes`."""
        ...


class Elementwise:
    """Transform whose columns do not mix."""

    def to_coordinates(self, columns: Sequence[Tensor], scale: Tensor | float) -> list[Tensor]:
        """Unbounded coordinates of parameters."""
        return [self._forward(column, scale) for column in columns]

    def from_coordinates(self, columns: Sequence[Tensor], scale: Tensor | float) -> list[Tensor]:
        """Parameters of unbounded coordinates."""
        return [self._inverse(column, scale) for column in columns]

    def slopes(self, columns: Sequence[Tensor], scale: Tensor | float) -> list[list[Tensor | None]]:
        """Derivatives of parameters (outer list) by coordinates (inner list), None where they are zero."""
        slopes = [self._slope(column, scale) for column in columns]
        return [[slope if i == j else None for j in range(len(columns))] for i, slope in enumerate(slopes)]


@dataclass(frozen=True)
class Linear(Elementwise):
    """The parameter itself."""

    def _forward(self, value, _scale):
        return value

    def _inverse(self, value, _scale):
        return value

    def _slope(self, value, _scale):
        return torch.ones_like(value)

    def add_log_volume(self, total: Tensor | float, columns: Sequence[Tensor], _scale: Tensor | float) -> Tensor:
        """Sum of ``total`` and the logarithm of the derivative, which is zero."""
        return total + torch.zeros_like(columns[0])


@dataclass(frozen=True)
class Log(Elementwise):
    """Logarithm of a positive parameter.

    Parameters
    ----------
    scaled : bool, optional
        Take the logarithm of the parameter over the unit of the flux of each galaxy.
    least : float, optional
        Smaller values are raised to this one first.
    """

    scaled: bool = False
    least: float = 0.0

    def _forward(self, value, scale):
        value = value.clamp_min(self.least) if self.least else value
        return torch.log(value / scale if self.scaled else value)

    def _inverse(self, value, scale):
        return scale * torch.exp(value) if self.scaled else torch.exp(value)

    _slope = _inverse

    def add_log_volume(self, total: Tensor | float, columns: Sequence[Tensor], scale: Tensor | float) -> Tensor:
        """Sum of ``total`` and the logarithm of the derivative, which is the parameter."""
        for column in columns:
            total = total + torch.log(torch.as_tensor(scale)) + column if self.scaled else total + column
        return total


@dataclass(frozen=True)
class Logit(Elementwise):
    """Logit between two bounds.

    Parameters
    ----------
    lower, upper : float
        Bounds of the parameter.
    edge : float, optional
        Fraction of the domain at which parameters are stopped on the way to its bounds; with 0 the coordinate of a
        bound is infinite, and beyond it is NaN.
    """

    lower: float
    upper: float
    edge: float = _EDGE

    def _forward(self, value, _scale):
        return _logit((value - self.lower) / (self.upper - self.lower), self.edge)

    def _inverse(self, value, _scale):
        return self.lower + (self.upper - self.lower) * torch.sigmoid(value)

    def _slope(self, value, _scale):
        return (self.upper - self.lower) * _log_slope(value).exp()

    def add_log_volume(self, total: Tensor | float, columns: Sequence[Tensor], _scale: Tensor | float) -> Tensor:
        """Sum of ``total`` and the logarithm of the derivative."""
        for column in columns:
            total = total + math.log(self.upper - self.lower) + _log_slope(column)
        return total


@dataclass(frozen=True)
class LogitOfLog(Elementwise):
    """Logit of the logarithm between those of two positive bounds.

    Parameters
    ----------
    lower, upper : float
        Bounds of the parameter.
    """

    lower: float
    upper: float

    def _forward(self, value, _scale):
        low, high = self._logs()
        return _logit((torch.log(value.clamp_min(_LEAST)) - low) / (high - low), _EDGE)

    def _inverse(self, value, _scale):
        low, high = self._logs()
        return torch.exp(low + (high - low) * torch.sigmoid(value))

    def _slope(self, value, scale):
        low, high = self._logs()
        return (high - low) * _log_slope(value).exp() * self._inverse(value, scale)

    def add_log_volume(self, total: Tensor | float, columns: Sequence[Tensor], _scale: Tensor | float) -> Tensor:
        """Sum of ``total`` and the logarithm of the derivative."""
        low, high = self._logs()
        for column in columns:
            total = total + low + (high - low) * torch.sigmoid(column) + math.log(high - low) + _log_slope(column)
        return total

    def _logs(self):
        return math.log(self.lower), math.log(self.upper)


@dataclass(frozen=True)
class LogitOfOffset(Elementwise):
    """Logit of positions about the middle of a stamp.

    Parameters
    ----------
    middle : float
        Position of the middle, pixels.
    reach : float
        Largest offset to either side, pixels.
    """

    middle: float
    reach: float

    def _forward(self, value, _scale):
        return _logit(0.5 + (value - self.middle) / (2.0 * self.reach), _EDGE)

    def _inverse(self, value, _scale):
        return self.middle + self.reach * (2.0 * torch.sigmoid(value) - 1.0)

    def _slope(self, value, _scale):
        return 2.0 * self.reach * _log_slope(value).exp()

    def add_log_volume(self, total: Tensor | float, columns: Sequence[Tensor], _scale: Tensor | float) -> Tensor:
        """Sum of ``total`` and the logarithm of the determinant of the derivatives."""
        total = total + len(columns) * math.log(2.0 * self.reach)
        for column in columns:
            total = total + _log_slope(column)
        return total


@dataclass(frozen=True)
class Tanh(Elementwise):
    """Inverse hyperbolic tangent of each component alone, for quantiles.

    Parameters
    ----------
    radius : float
        Largest absolute value of a component.
    edge : float, optional
        As in `Logit`, in units of the radius.
    """

    radius: float
    edge: float = _EDGE

    def _forward(self, value, _scale):
        fraction = value / self.radius
        return torch.atanh(fraction.clamp(-1.0 + self.edge, 1.0 - self.edge) if self.edge else fraction)

    def _inverse(self, value, _scale):
        return self.radius * torch.tanh(value)

    def _slope(self, value, _scale):
        return self.radius * (1.0 - torch.tanh(value) ** 2)

    def add_log_volume(self, total: Tensor | float, columns: Sequence[Tensor], _scale: Tensor | float) -> Tensor:
        """Sum of ``total`` and the logarithm of the determinant of the derivatives."""
        for column in columns:
            total = total + math.log(self.radius) - 2.0 * _log_cosh(column.abs())
        return total


@dataclass(frozen=True)
class Disc:
    """Stretch of a disc to the plane, ``g = radius tanh(|v|) v / |v|``.

    Parameters
    ----------
    radius : float
        Radius of the disc.
    edge : float, optional
        Distance from the rim, in units of the radius, at which parameters are stopped.
    smooth : bool, optional
        Soften the length of the coordinates near the middle, so that automatic differentiation has a derivative
        there. Fits, which have derivatives of their own, do without.
    """

    radius: float
    edge: float = _EDGE
    smooth: bool = True

    def to_coordinates(self, columns: Sequence[Tensor], _scale: Tensor | float) -> list[Tensor]:
        """Unbounded coordinates of the two components."""
        first, second = columns
        length = torch.hypot(first, second)
        length = length if self.smooth else length.clamp_min(_SOFTENING)
        stretch = torch.atanh((length / self.radius).clamp_max(1.0 - self.edge)) / length.clamp_min(_SOFTENING)
        if self.smooth:
            stretch = torch.where(length < _EDGE, 1.0 / self.radius, stretch)
        return [first * stretch, second * stretch]

    def from_coordinates(self, columns: Sequence[Tensor], _scale: Tensor | float) -> list[Tensor]:
        """Components of unbounded coordinates."""
        _, shrink = self._shrink(*columns)
        return [column * shrink for column in columns]

    def slopes(self, columns: Sequence[Tensor], _scale: Tensor | float) -> list[list[Tensor | None]]:
        """Derivatives of the components (outer list) by coordinates (inner list), a symmetric matrix."""
        length, shrink = self._shrink(*columns)
        radial = self.radius * (1.0 - torch.tanh(length) ** 2)
        first, second = (column / length for column in columns)
        diagonal = [shrink + (radial - shrink) * unit**2 for unit in (first, second)]
        mixed = (radial - shrink) * first * second
        return [[diagonal[0], mixed], [mixed, diagonal[1]]]

    def add_log_volume(self, total: Tensor | float, columns: Sequence[Tensor], _scale: Tensor | float) -> Tensor:
        """Sum of ``total`` and the logarithm of the determinant of the derivatives."""
        length, _ = self._shrink(*columns)
        stretch = torch.log(torch.tanh(length) / length)
        return total + 2.0 * math.log(self.radius) + stretch - 2.0 * _log_cosh(length)

    def _shrink(self, first, second):
        """Length of coordinates, and the factor from them to the components."""
        if self.smooth:
            length = torch.sqrt(first**2 + second**2 + _SOFTENING)
        else:
            length = torch.hypot(first, second).clamp_min(_SOFTENING)
        return length, self.radius * torch.tanh(length) / length


def default_transform(parameter: SersicParameter) -> Transform:
    """Transform that the table of parameters names.

    Parameters
    ----------
    parameter : SersicParameter
        First parameter of a block.

    Returns
    -------
    Transform
        Transform with the bounds of the table; a position, whose bounds depend on the stamp, stays as it is.
    """
    if parameter.coordinate == "log":
        return Log(scaled=parameter.kind == "flux", least=_LEAST)
    if parameter.coordinate == "logit":
        return Logit(parameter.lower, parameter.upper)
    return Disc(parameter.upper) if parameter.coordinate == "disc" else Linear()


@dataclass(frozen=True)
class SpaceTransform:
    """Change of variables between the parameters of a space and unbounded coordinates.

    Parameters
    ----------
    space : ParameterSpace
        Parameters, in the order of the columns.
    transforms : tuple of (tuple of str, Transform)
        Names of the parameters of each block and their transform, in the order of the columns.

    Examples
    --------
    >>> import torch
    >>> from galmeasure.parameters import SERSIC
    >>> from galmeasure.transforms import LogitOfOffset, SpaceTransform
    >>> transform = SpaceTransform.of(SERSIC, {"x": LogitOfOffset(31.5, 2.0)})
    >>> galaxy = torch.tensor([[500.0, 2.0, 3.0, 0.3, -0.1, 32.0, 31.0]], dtype=torch.float64)
    >>> coordinates = transform.to_coordinates(galaxy, torch.tensor([100.0]))
    >>> bool(torch.allclose(transform.from_coordinates(coordinates, torch.tensor([100.0])), galaxy))
    True
    """

    space: ParameterSpace
    transforms: tuple[tuple[tuple[str, ...], Transform], ...]

    @classmethod
    def of(cls, space: ParameterSpace, transforms: Mapping[str, Transform] | None = None) -> Self:
        """Transform of a space.

        Parameters
        ----------
        space : ParameterSpace
            Parameters, in the order of the columns.
        transforms : mapping of str to Transform, optional
            Name of the first parameter of a block, see ``ParameterSpace.blocks``, and its transform; other blocks have
            that of the table, see `default_transform`.

        Returns
        -------
        SpaceTransform
            One transform per block.
        """
        chosen = {} if transforms is None else transforms
        blocks = ((names, chosen.get(names[0]) or default_transform(space[names[0]])) for names in space.blocks())
        return cls(space, tuple(blocks))

    def with_transforms(self, transforms: Mapping[str, Transform]) -> Self:
        """Copy in which some blocks, named by their first parameters, have another transform."""
        return replace(self, transforms=tuple((names, transforms.get(names[0], t)) for names, t in self.transforms))

    def without(self, *names: str) -> Self:
        """Transform of the space without the blocks that begin with the given parameters."""
        blocks = tuple((block, transform) for block, transform in self.transforms if block[0] not in names)
        left_out = [name for block, _ in self.transforms if block[0] in names for name in block]
        return replace(self, space=self.space.without(*left_out), transforms=blocks)

    def to_coordinates(self, parameters: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """Unbounded coordinates of parameters.

        Parameters
        ----------
        parameters : Tensor
            Parameters, shape ``(..., P)``.
        scale : Tensor or float, optional
            Unit of the flux, shape ``(...)``.

        Returns
        -------
        Tensor
            Coordinates, shape ``(..., P)``.
        """
        columns = parameters.unbind(-1)
        result = [t.to_coordinates([columns[i] for i in rows], scale) for rows, t in self._rows]
        return torch.stack([column for block in result for column in block], -1)

    def from_coordinates(self, coordinates: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """Parameters of unbounded coordinates, shapes as in :meth:`to_coordinates`."""
        columns = coordinates.unbind(-1)
        result = [t.from_coordinates([columns[i] for i in rows], scale) for rows, t in self._rows]
        return torch.stack([column for block in result for column in block], -1)

    def jacobian(self, coordinates: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """Derivatives of :meth:`from_coordinates`: parameters along the rows, coordinates along the columns.

        Parameters
        ----------
        coordinates : Tensor
            Coordinates, shape ``(..., P)``.
        scale : Tensor or float, optional
            Unit of the flux, shape ``(...)``.

        Returns
        -------
        Tensor
            Shape ``(..., P, P)``; only parameters of one block are mixed. The matrix is symmetric, because the only
            block that mixes its parameters is a disc.
        """
        columns = coordinates.unbind(-1)
        matrix = coordinates.new_zeros((*coordinates.shape, len(columns)))
        for rows, transform in self._rows:
            slopes = transform.slopes([columns[i] for i in rows], scale)
            # the diagonal first: the order in which automatic differentiation adds derivatives is part of a fit's bits
            for i, row in enumerate(rows):
                matrix[..., row, row] = slopes[i][i]
            for i, j in permutations(range(len(rows)), 2):
                if slopes[i][j] is not None:
                    matrix[..., rows[i], rows[j]] = slopes[i][j]
        return matrix

    def log_volume(self, coordinates: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """Logarithm of the determinant of :meth:`jacobian`.

        Parameters
        ----------
        coordinates : Tensor
            Coordinates, shape ``(..., P)``.
        scale : Tensor or float, optional
            Unit of the flux, shape ``(...)``.

        Returns
        -------
        Tensor
            Shape ``(...)``.
        """
        columns = coordinates.unbind(-1)
        total = 0.0
        for rows, transform in self._rows:
            total = transform.add_log_volume(total, [columns[i] for i in rows], scale)
        return total

    @cached_property
    def _rows(self):
        """Columns of each block, and its transform."""
        return tuple((self.space.indices(*names), transform) for names, transform in self.transforms)


def _logit(fraction, edge):
    fraction = fraction.clamp(edge, 1.0 - edge) if edge else fraction
    return torch.log(fraction) - torch.log1p(-fraction)


def _log_slope(value):
    """Logarithm of the derivative of the logistic function."""
    return logsigmoid(value) + logsigmoid(-value)


def _log_cosh(length):
    """Logarithm of the hyperbolic cosine of what is not negative."""
    return length + softplus(-2.0 * length) - math.log(2.0)
