"""Corner picture of a measured galaxy, written as SVG: matplotlib takes too long while a slider moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from galmeasure.app.measuring import SHOWN, shown_block, shown_label

if TYPE_CHECKING:
    import numpy.typing as npt

    from galmeasure.app.drawing import DrawnGalaxy
    from galmeasure.app.measuring import MeasuredGalaxy

__all__ = ["corner_picture", "panel_limits"]

_SIDE, _PITCH = 112, 126  # side of a panel, and distance of panels
_LEFT, _TOP, _BOTTOM = 84, 12, 40  # margins
_BINS = 24
_TAILS = (0.5, 99.5)  # percentiles between which draws are always shown
_REACH = 2.5  # errors of Gaussians that are shown
_MARGIN = 0.08
_ANGLES = np.linspace(0.0, 2.0 * np.pi, 73)
_DRAWS, _TRUTH, _BOUND, _ESTIMATE = "#0072B2", "#000000", "#D55E00", "#009E73"


def panel_limits(drawn: DrawnGalaxy, measured: MeasuredGalaxy) -> dict[str, tuple[float, float]]:
    """Choose what part of each parameter the picture shows.

    Parameters
    ----------
    drawn : DrawnGalaxy
        Galaxy with truth and bounds.
    measured : MeasuredGalaxy
        Measurement of this galaxy.

    Returns
    -------
    dict of str to tuple of float
        Lower and upper limit of each parameter: the draws, the truth and the estimate lie within, and the bound as far
        as it is not much wider than these.
    """
    limits = {}
    for name in SHOWN:
        values = [drawn.truth[name]]
        if np.isfinite(measured.estimate[name]):
            values.append(measured.estimate[name])
        if measured.draws is not None:
            values += np.percentile(measured.draws[name], _TAILS).tolist()
        elif np.isfinite(measured.error[name]):
            values += [measured.estimate[name] + sign * _REACH * measured.error[name] for sign in (-1, 1)]
        bound = drawn.bounds[name]
        spread = max(values) - min(values)
        reach = _REACH * bound if np.isfinite(bound) else 0.0
        reach = min(reach, spread) if spread > 0 else reach
        values += [drawn.truth[name] - reach, drawn.truth[name] + reach]
        low, high = min(values), max(values)
        margin = _MARGIN * (high - low) or max(abs(high), 1.0) * 1e-3
        limits[name] = (low - margin, high + margin)
    return limits


def corner_picture(drawn: DrawnGalaxy, measured: MeasuredGalaxy) -> str:
    """Draw the posterior of five parameters beside the truth and the Cramer-Rao bound.

    Parameters
    ----------
    drawn : DrawnGalaxy
        Galaxy with truth and bounds.
    measured : MeasuredGalaxy
        Its measurement: points are draws of the posterior; without them ellipses show the covariance of the errors.

    Returns
    -------
    str
        Picture as an SVG document.
    """
    picture = _Picture(panel_limits(drawn, measured))
    _Layers(drawn, measured).add_to(picture)
    return picture.document()


class _Picture:
    """Lines, points and labels of all panels, in units of the picture."""

    def __init__(self, limits):
        self.limits = limits
        self.lines, self.points = {}, {}

    def unit(self, name, values):
        """Numbers as fractions of the width of a panel; NaN beyond it."""
        low, high = self.limits[name]
        fraction = (np.asarray(values, dtype=float) - low) / (high - low)
        return np.where((fraction >= 0) & (fraction <= 1), fraction, np.nan)

    def add_line(self, kind, row, column, x, y):
        """Add a curve in fractions of a panel; it is broken where it leaves the panel."""
        self.lines.setdefault(kind, []).append(_placed(row, column, x, y))

    def add_points(self, kind, row, column, x, y):
        """Add points in fractions of a panel."""
        self.points.setdefault(kind, []).append(_placed(row, column, x, y))

    def document(self):
        """Write everything, one element for each kind."""
        width = _LEFT + len(SHOWN) * _PITCH
        height = _TOP + len(SHOWN) * _PITCH + _BOTTOM
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" font-family="sans-serif" font-size="13" fill="none" role="img">',
            "<title>Posterior, truth and Cramer-Rao bound</title>",
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        ]
        for kind, style in _STYLES.items():
            if kind in self.points:
                points = np.concatenate(self.points[kind])
                parts.append(f'<path class="{_class(kind)}" d="{_dots(points)}" {style}/>')
            if kind in self.lines:
                steps = "".join(_polyline(points) for points in self.lines[kind])
                parts.append(f'<path class="{_class(kind)}" d="{steps}" {style}/>')
        return "\n".join([*parts, *self._frames(), *self._legend(width), "</svg>"])

    def _frames(self):
        """Yield frames, ticks and labels."""
        last = len(SHOWN) - 1
        steps = [f"M{x:.1f} {y:.1f}h{_SIDE}v{_SIDE}h-{_SIDE}z" for x, y in _panels()]
        texts = []
        for number, name in enumerate(SHOWN):
            for text, fraction in self._ticks(name):
                ((x, y),) = _placed(last, number, [fraction], [0.0])
                steps.append(f"M{x:.1f} {y:.1f}v-5")
                texts.append(_text(x, y + 16, text))
                if number:
                    ((x, y),) = _placed(number, 0, [0.0], [fraction])
                    steps.append(f"M{x:.1f} {y:.1f}h5")
                    texts.append(_text(x - 5, y + 4, text, anchor="end"))
            ((x, y),) = _placed(last, number, [0.5], [0.0])
            texts.append(_text(x, y + 38, shown_label(name)))
            if number:
                ((x, y),) = _placed(number, 0, [0.0], [0.5])
                texts.append(_text(x - 58, y, shown_label(name), turned=True))
        yield f'<path d="{"".join(steps)}" stroke="#666666"/>'
        yield from texts

    def _ticks(self, name):
        """Texts of one to three round numbers, and where they are in a panel."""
        low, high = self.limits[name]
        step = 10.0 ** np.floor(np.log10(high - low))
        step = next(step * factor for factor in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0) if (high - low) / (step * factor) < 3)
        numbers = step * np.arange(np.ceil(low / step), np.floor(high / step) + 1)
        for number, fraction in zip(numbers, self.unit(name, numbers), strict=True):
            if np.isfinite(fraction):
                yield _number_text(number, step), float(fraction)

    def _legend(self, width):
        """Yield samples and names of what is drawn."""
        kinds = [kind for kind in _STYLES if kind in self.lines or kind in self.points]
        for number, kind in enumerate(kinds):
            y = _TOP + 14 + 22 * number
            sample = f"M{width - 205} {y}h0" if kind in self.points else f"M{width - 220} {y}h30"
            yield f'<path d="{sample}" {_STYLES[kind]}/>'
            yield _text(width - 180, y + 4, kind, anchor="start")


_STYLES = {
    "draws": f'stroke="{_DRAWS}" stroke-width="2" stroke-linecap="round" stroke-opacity="0.45"',
    "posterior": f'stroke="{_DRAWS}" stroke-width="1.6"',
    "errors of the estimate": f'stroke="{_DRAWS}" stroke-width="1.6"',
    "Cramer-Rao bound": f'stroke="{_BOUND}" stroke-width="1.6" stroke-dasharray="5 3"',
    "truth": f'stroke="{_TRUTH}" stroke-width="1"',
    "estimate": f'stroke="{_ESTIMATE}" stroke-width="8" stroke-linecap="round"',
}
"""Styles of points and lines, from the back to the front."""


def _placed(row, column, x, y):
    """Fractions of a panel as coordinates of the picture, shape ``(N, 2)``, downwards as in SVG."""
    left, bottom = _LEFT + column * _PITCH, _TOP + row * _PITCH + _SIDE
    return np.column_stack([left + _SIDE * np.asarray(x, dtype=float), bottom - _SIDE * np.asarray(y, dtype=float)])


def _panels():
    """Upper left corners of all panels."""
    for row in range(len(SHOWN)):
        for column in range(row + 1):
            yield _LEFT + column * _PITCH, _TOP + row * _PITCH


def _polyline(points):
    """Steps of a path through points, which begins anew after points that are not finite."""
    steps, begin = [], True
    for (x, y), is_shown in zip(points.tolist(), np.isfinite(points).all(axis=1).tolist(), strict=True):
        if is_shown:
            steps.append(f"{'M' if begin else 'L'}{x:.1f} {y:.1f}")
        begin = not is_shown
    return "".join(steps)


def _dots(points):
    """Steps of a path that draws each finite point."""
    return "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points[np.isfinite(points).all(axis=1)].tolist())


def _text(x, y, text, anchor="middle", turned=False):
    """Element of a text."""
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#222222"{turn}>{text}</text>'


def _number_text(number, step):
    """Number with the digits that the step between two ticks has."""
    if step >= 1e3:
        return f"{number / 1e3:,.0f}k"
    return f"{number + 0.0:.{max(0, -int(np.floor(np.log10(step) + 1e-9)))}f}"


def _class(kind):
    """Name of a kind as a class of elements."""
    return kind.lower().replace(" ", "-")


@dataclass(frozen=True)
class _Layers:
    """What is drawn in every panel."""

    drawn: DrawnGalaxy
    measured: MeasuredGalaxy

    def add_to(self, picture):
        """Add truth, bound, estimate, and draws or errors."""
        for row, vertical in enumerate(SHOWN):
            self._add_histogram(picture, row, vertical)
            for column, horizontal in enumerate(SHOWN[:row]):
                self._add_panel(picture, row, column, (horizontal, vertical))

    def _add_panel(self, picture, row, column, names):
        """One panel below the diagonal."""
        draws = self.measured.draws
        if draws is not None:
            x, y = (picture.unit(name, draws[name]) for name in names)
            picture.add_points("draws", row, column, x, y)
        elif np.isfinite(self.measured.covariance).all():
            curve = self._ellipse(self.measured.estimate, self.measured.covariance, row, column)
            self._add_curve(picture, "errors of the estimate", row, column, names, curve)
        curve = self._ellipse(self.drawn.truth, self.drawn.bound, row, column)
        self._add_curve(picture, "Cramer-Rao bound", row, column, names, curve)
        x, y = (float(picture.unit(name, self.drawn.truth[name])) for name in names)
        picture.add_line("truth", row, column, [x, x], [0, 1])
        picture.add_line("truth", row, column, [0, 1], [y, y])
        x, y = (picture.unit(name, [self.measured.estimate[name]]) for name in names)
        picture.add_points("estimate", row, column, x, y)

    def _add_curve(self, picture, kind, row, column, names, curve):
        """A curve in the units of the parameters."""
        picture.add_line(kind, row, column, *(picture.unit(name, x) for name, x in zip(names, curve, strict=True)))

    def _ellipse(self, centre, covariance, row, column):
        """Ellipse of one standard deviation around a point."""
        block = shown_block(covariance)[np.ix_([column, row], [column, row])]
        middle = np.array([centre[SHOWN[column]], centre[SHOWN[row]]])
        values, vectors = np.linalg.eigh(np.nan_to_num(block))
        circle = np.array([np.cos(_ANGLES), np.sin(_ANGLES)])
        curve = middle[:, None] + vectors @ (np.sqrt(np.maximum(values, 0.0))[:, None] * circle)
        return curve if np.isfinite(block).all() else np.full_like(curve, np.nan)

    def _add_histogram(self, picture, row, name):
        """Panel on the diagonal: densities, the highest of which fills the panel."""
        curves = {}
        grid = np.linspace(*picture.limits[name], 121)
        if self.measured.draws is not None:
            density, edges = np.histogram(
                self.measured.draws[name], bins=_BINS, range=picture.limits[name], density=True
            )
            curves["posterior"] = np.repeat(edges, 2)[1:-1], np.repeat(density, 2)
        elif np.isfinite(self.measured.error[name]):
            curve = _gaussian(grid, self.measured.estimate[name], self.measured.error[name])
            curves["errors of the estimate"] = grid, curve
        curves["Cramer-Rao bound"] = grid, _gaussian(grid, self.drawn.truth[name], self.drawn.bounds[name])
        highest = max((np.max(y) for _, y in curves.values() if np.isfinite(y).all()), default=1.0) * 1.08
        for kind, (x, y) in curves.items():
            picture.add_line(kind, row, row, picture.unit(name, x), y / highest)
        x = float(picture.unit(name, self.drawn.truth[name]))
        picture.add_line("truth", row, row, [x, x], [0, 1])


def _gaussian(x: npt.NDArray[np.float64], mean: float, deviation: float) -> npt.NDArray[np.float64]:
    """Density of a Gaussian; zero where it has no width."""
    if not deviation > 0:
        return np.zeros_like(x)
    return np.exp(-0.5 * ((x - mean) / deviation) ** 2) / (deviation * np.sqrt(2.0 * np.pi))
