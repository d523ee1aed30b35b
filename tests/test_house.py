"""The house rules: imports go down, importing is light, and what is written twice agrees."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import galmeasure
from galmeasure.flags import FLAGS

PACKAGE = Path(galmeasure.__file__).parent
ROOT = Path(__file__).parents[1]

FLOORS = {
    0: ("parameters", "flags", "exceptions"),
    1: ("cutouts", "table", "io"),
    2: ("render", "likelihood", "distributions", "priors", "networks"),
    3: ("weights", "calibration"),
    4: ("fitters", "models"),
    5: ("training", "evaluation"),
    6: ("parallel", "cli", "app"),
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
HEAVY = ("torch", "galsim", "matplotlib", "dask", "distributed", "optuna", "streamlit", "pyarrow")


def floor_of(room):
    """Floor of a module or folder of the package; helpers with a leading underscore are on the ground."""
    return 0 if room.startswith("_") else FLOOR[room]


def modules():
    """Path, room and syntax tree of every module but the root's ``__init__`` and ``__main__``."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts not in (("__init__",), ("__main__",)):
            yield path.relative_to(PACKAGE), parts[0], ast.parse(path.read_text(encoding="utf-8"))


def imported_names(path, node):
    """Absolute dotted names that an import statement may load."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = ("galmeasure", *path.parent.parts)
    stem = [node.module] if node.module else []
    if node.level:
        stem = [*base[: len(base) - node.level + 1], *stem]
    stem = ".".join(stem)
    return [stem, *(f"{stem}.{alias.name}" for alias in node.names)]


def imports(path, nodes):
    """Names that the import statements among ``nodes`` may load."""
    return [n for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for n in imported_names(path, node)]


def may_import(room, other):
    """Whether DESIGN's table lets one room import another."""
    if room == other:
        return True
    mine, theirs = floor_of(room), floor_of(other)
    if theirs == 6:
        return False
    if mine in (2, 3) and theirs == 1:  # tensors in, tensors out
        return False
    if (room, other) == ("training", "fitters"):
        return False
    return theirs < mine or (theirs == mine and mine in (0, 1, 2, 4))


def test_rooms_are_known():
    rooms = {room for _, room, _ in modules() if not room.startswith("_")}
    assert rooms <= set(FLOOR)


@pytest.mark.parametrize(
    ("room", "other", "allowed"),
    [
        ("cutouts", "flags", True),
        ("flags", "cutouts", False),
        ("render", "cutouts", False),
        ("fitters", "io", True),
        ("evaluation", "training", False),
        ("training", "fitters", False),
        ("fitters", "cli", False),
    ],
)
def test_rule_itself(room, other, allowed):
    assert may_import(room, other) is allowed


def rooms_imported(path, tree):
    """Rooms of the package that a module imports, anywhere in it, with the name imported."""
    for name in imports(path, ast.walk(tree)):
        package, _, rest = name.partition(".")
        room = rest.partition(".")[0]
        if package == "galmeasure" and (room in FLOOR or re.match("_[^_]", room)):
            yield room, name


def test_imports_go_down():
    up = [
        f"{path} imports {name}"
        for path, room, tree in modules()
        for other, name in rooms_imported(path, tree)
        if not may_import(room, other)
    ]
    assert not up


def users_of(helper):
    """Rooms that import a private helper, directly or by way of others."""
    users, front = set(), {helper}
    while front:
        front = {room for path, room, tree in modules() if front & {r for r, _ in rooms_imported(path, tree)}} - users
        users |= front
    return users - {helper}


def may_import_torch(room):
    """Tensors begin with the renderer; a helper may use them when the renderer's floor is its lowest user."""
    if room.startswith("_"):
        return all(floor_of(user) >= 2 for user in users_of(room) if not user.startswith("_"))
    return floor_of(room) >= 2


def test_no_torch_below_the_renderer():
    found = []
    for path, room, tree in modules():
        nodes = tree.body if floor_of(room) == 1 else ast.walk(tree)
        if any(name.split(".")[0] == "torch" for name in imports(path, nodes)) and not may_import_torch(room):
            found.append(str(path))
    assert not found


def test_heavy_packages_are_imported_late():
    """Optional packages are imported where they are used, so that a missing one costs nothing else."""
    found = []
    for path, room, tree in modules():
        if room in ("training", "parallel", "app"):
            continue
        heavy = {name.split(".")[0] for name in imports(path, tree.body)} & set(HEAVY)
        if heavy - ({"torch"} if may_import_torch(room) and floor_of(room) < 6 else set()):
            found.append(f"{path}: {heavy}")
    assert not found


@pytest.mark.parametrize("module", ["galmeasure", "galmeasure.cli"])
def test_import_is_light(module):
    code = f"import sys, {module}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_every_public_name_is_there():
    for name in galmeasure.__all__:
        assert getattr(galmeasure, name) is not None
    assert set(galmeasure.__all__) <= set(dir(galmeasure))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = galmeasure.nonsense


def metadata():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_readme_commands():
    readme = (ROOT / "README.rst").read_text(encoding="utf-8")
    first = "pip install -c constraints.txt . && galmeasure examples/demo_catalog.fits"
    second = re.search(r"^    pip install -c constraints.txt tox && (tox -e \w+)$", readme, re.MULTILINE)
    assert f"    {first}\n" in readme
    assert (ROOT / "examples" / "demo_catalog.fits").exists()
    assert metadata()["scripts"]["galmeasure"] == "galmeasure.cli:main"
    assert second
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert second[1].removeprefix("tox ") in ci
    environments = (ROOT / "tox.ini").read_text(encoding="utf-8")
    for name in set(re.findall(r"tox -e ([\w-]+)", readme)):
        assert all(factor in environments for factor in name.split("-"))


def test_versions_agree():
    version = metadata()["version"]
    assert galmeasure.__version__ == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert (ROOT / "CHANGES.rst").read_text(encoding="utf-8").startswith(version.partition(".dev")[0])


def test_oldest_versions_agree():
    """What the oldest-dependencies environment installs is what the metadata promise."""
    tox = (ROOT / "tox.ini").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"oldestdeps: ([\w-]+)==([\d.]+)\.\*", tox))
    declared = dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", spec).groups() for spec in metadata()["dependencies"])
    declared.pop("torch")  # constraints.txt says which
    for name, version in declared.items():
        assert version == pinned[name] or version == f"{pinned[name]}.0"


def test_flags_documentation_equals_the_registry():
    """The documentation's table is made from the registry, by its directive."""
    assert ".. galmeasure-flags::" in (ROOT / "docs" / "flags.rst").read_text(encoding="utf-8")
    sys.path.insert(0, str(ROOT / "docs" / "_ext"))
    try:
        pytest.importorskip("docutils")
        import galmeasure_tables
    finally:
        sys.path.pop(0)
    rows = galmeasure_tables.flag_rows()
    assert [row[:3] for row in rows] == [(str(f.bit), str(f.value), f"``{f.name}``") for f in FLAGS]
