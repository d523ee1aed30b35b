"""Figure of the rooms of the package and of the imports between them, read from the source."""

import ast
from pathlib import Path

import matplotlib.pyplot as plt

import galmeasure

PACKAGE = Path(galmeasure.__file__).parent

BOX_WIDTH, BOX_HEIGHT, ROW_HEIGHT = 1.75, 0.62, 1.25
"""Sizes in inches; the width holds the longest name of a room."""


def source_files(package=PACKAGE):
    """Yield room and path of every module below the root's ``__init__`` and ``__main__``."""
    for path in sorted(package.rglob("*.py")):
        room, *_ = path.relative_to(package).with_suffix("").parts
        if not room.startswith("_"):
            yield room, path


def imported_rooms(path):
    """Return the rooms that a module imports, within functions too, but for those that serve annotations alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
    ]
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("galmeasure.")}


def room_graph(package=PACKAGE):
    """Return the number of files of each room, and the rooms that it imports."""
    counts, edges = {}, {}
    for room, path in source_files(package):
        counts[room] = counts.get(room, 0) + 1
        edges.setdefault(room, set()).update(imported_rooms(path))
    return counts, {room: (others & set(counts)) - {room} for room, others in edges.items()}


def heights(edges):
    """Return the floor of each room: one above the highest room that it imports, 0 where it imports none."""
    floors = {}

    def floor(room):
        if room not in floors:
            floors[room] = 1 + max(map(floor, edges[room]), default=-1)
        return floors[room]

    for room in edges:
        floor(room)
    return floors


def direct(edges):
    """Return the imports that do not follow from others: those of a room without those of the rooms it imports."""

    def reachable(room):
        return edges[room].union(*(reachable(other) for other in edges[room]))

    return {room: others - set().union(*(reachable(other) for other in others)) for room, others in edges.items()}


def positions(floors, edges):
    """Return the centre of each room; within a floor, rooms are sorted by those below that they import."""
    rows = [sorted(room for room in floors if floors[room] == floor) for floor in range(max(floors.values()) + 1)]
    width = max(map(len, rows)) * BOX_WIDTH * 1.35
    places = {}
    for floor, row in enumerate(rows):
        means = {room: sum(places[o][0] for o in edges[room]) / max(len(edges[room]), 1) for room in row}
        for k, room in enumerate(sorted(row, key=means.get)):
            places[room] = (width * (k + 0.5) / len(row), ROW_HEIGHT * (floor + 0.5))
    return places, width, ROW_HEIGHT * len(rows)


def draw():
    """Draw rooms as boxes, floor by floor, with an arrow from each room to those that it imports directly."""
    counts, edges = room_graph()
    arrows = direct(edges)
    places, width, height = positions(heights(edges), arrows)
    figure, axis = plt.subplots(figsize=(width, height))
    for room, others in arrows.items():
        for other in others:
            start, end = places[room], places[other]
            axis.annotate(
                "",
                (end[0], end[1] + BOX_HEIGHT / 2),
                (start[0], start[1] - BOX_HEIGHT / 2),
                arrowprops={"arrowstyle": "-|>", "color": "0.55", "lw": 0.9, "shrinkA": 0, "shrinkB": 0},
                zorder=1,
            )
    for room, (x, y) in places.items():
        corner = (x - BOX_WIDTH / 2, y - BOX_HEIGHT / 2)
        axis.add_patch(plt.Rectangle(corner, BOX_WIDTH, BOX_HEIGHT, facecolor="#e8eef7", edgecolor="#30507a", zorder=2))
        files = f"{counts[room]} file{'s' if counts[room] > 1 else ''}"
        axis.text(x, y + 0.09, room, ha="center", va="center", fontsize=11, family="monospace", zorder=3)
        axis.text(x, y - 0.16, files, ha="center", va="center", fontsize=8, color="0.35", zorder=3)
    axis.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axis.set_axis_off()
    figure.subplots_adjust(0, 0, 1, 1)


if __name__ == "__main__":
    draw()
