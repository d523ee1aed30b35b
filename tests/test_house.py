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

FLOORS = (
    ("parameters", "flags", "exceptions", "utils", "_version"),
    ("transforms",),
    ("psf", "render", "networks", "priors"),
    ("cutouts", "results", "likelihood", "weights"),
    ("io", "ood", "calibration"),
    ("fitters", "simulation"),
    ("training", "evaluation", "explain", "plotting", "models"),
    ("workflows",),
    ("cli", "app"),
)
"""Rooms from the ground up: a room imports those of lower floors, and of its own floor where no circle comes of it."""

FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FORBIDDEN = {
    "fitters": {"simulation"},
    "training": {"fitters", "evaluation"},
    "networks": {"psf"},
    "likelihood": {"cutouts", "results", "weights"},
    "render": {"psf"},
}
"""Rooms that a room must not import although they are not above it: tensors in, tensors out."""

WITH_TENSORS = {"transforms", "render", "networks", "priors", "likelihood", "weights", "ood", "calibration"}
"""Rooms below the fitters that may use torch; the others also serve those who have no use for it."""

HEAVY = ("torch", "galsim", "matplotlib", "corner", "captum", "dask", "distributed", "optuna", "streamlit", "pyarrow")


def modules():
    """Path, dotted name and syntax tree of every module but the root's ``__init__`` and ``__main__``."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts not in (("__init__",), ("__main__",)):
            yield path.relative_to(PACKAGE), ".".join(parts), ast.parse(path.read_text(encoding="utf-8"))


NAMES = {name for _, name, _ in modules()}


def room_of(module):
    """Room of a dotted name within the package."""
    return module.partition(".")[0]


def imports(nodes):
    """Absolute names that the import statements among ``nodes`` may load."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules_imported(nodes):
    """Modules of the package that are imported, by their dotted names; packages by that of their ``__init__``."""
    found = {name.removeprefix("galmeasure.") for name in imports(nodes) if name.startswith("galmeasure.")}
    modules = found & NAMES
    packages = {name for name in found if f"{name}.__init__" in NAMES}
    of_modules = {name.rpartition(".")[0] for name in modules}  # a package is imported for what is in it
    return modules | {f"{name}.__init__" for name in packages - of_modules}


def may_import(room, other):
    """Whether one room may import another."""
    return room == other or (FLOOR[other] <= FLOOR[room] and other not in FORBIDDEN.get(room, ()))


def test_rooms_are_known():
    assert {room_of(name) for name in NAMES} <= set(FLOOR)


@pytest.mark.parametrize(
    ("room", "other", "allowed"),
    [
        ("cutouts", "flags", True),
        ("flags", "cutouts", False),
        ("render", "cutouts", False),
        ("fitters", "io", True),
        ("training", "fitters", False),
        ("fitters", "simulation", False),
        ("fitters", "evaluation", False),
        ("fitters", "cli", False),
    ],
)
def test_rule_itself(room, other, allowed):
    assert may_import(room, other) is allowed


def test_imports_go_down():
    up = {
        f"{path} imports {other}"
        for path, name, tree in modules()
        for other in modules_imported(ast.walk(tree))
        if not may_import(room_of(name), room_of(other))
    }
    assert not up


def circles(edges):
    """Names from which a way along the edges leads back."""
    found = set()
    for start in edges:
        seen, front = set(), set(edges[start])
        while front:
            seen |= front
            front = set().union(*(edges.get(name, set()) for name in front)) - seen
        if start in seen:
            found.add(start)
    return found


def test_no_circles():
    """Neither between modules, nor between rooms; imports within functions count."""
    between_modules, between_rooms = {}, {}
    for _, name, tree in modules():
        others = set(modules_imported(ast.walk(tree))) - {name}
        between_modules[name] = others
        between_rooms.setdefault(room_of(name), set()).update({room_of(o) for o in others} - {room_of(name)})
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == {"b", "c"}
    assert not circles(between_modules)
    assert not circles(between_rooms)


def test_root_is_public():
    """No private file at the root but the version."""
    assert [path.name for path in PACKAGE.glob("_*.py") if not path.name.startswith("__")] == ["_version.py"]


def may_import_torch(room):
    """Tensors begin with the renderer."""
    return room in WITH_TENSORS or FLOOR[room] >= FLOOR["fitters"]


def test_no_torch_below_the_renderer():
    found = []
    for path, name, tree in modules():
        nodes = tree.body if room_of(name) in ("psf", "cutouts", "results", "io") else ast.walk(tree)
        if any(each.split(".")[0] == "torch" for each in imports(nodes)) and not may_import_torch(room_of(name)):
            found.append(str(path))
    assert not found


def test_compiled_loops_are_imported_where_they_can_be_compiled():
    """By name, with `compiled_module`, or by other such loops: numba is optional."""
    modules_of_loops, found = 0, []
    for path, name, tree in modules():
        if path.name.startswith("compiled") and name != "utils.compiled":
            modules_of_loops += 1
            continue
        names = set(imports(tree.body if name == "utils.compiled" else ast.walk(tree)))
        loops = {f"galmeasure.{other}" for other in NAMES if other.split(".")[-1].startswith("compiled")}
        if names & (loops - {"galmeasure.utils.compiled"}) or any(other.split(".")[0] == "numba" for other in names):
            found.append(str(path))
    assert modules_of_loops > 4
    assert not found


def test_heavy_packages_are_imported_late():
    """Optional packages are imported where they are used, so that a missing one costs nothing else."""
    found = []
    for path, module, tree in modules():
        room = room_of(module)
        heavy = {name.split(".")[0] for name in imports(tree.body)} & set(HEAVY)
        if heavy - ({"torch"} if may_import_torch(room) and FLOOR[room] < FLOOR["workflows"] else set()):
            found.append(f"{path}: {heavy}")
    assert not found


@pytest.mark.parametrize("module", ["galmeasure", "galmeasure.cli"])
def test_import_is_light(module):
    code = f"import sys, {module}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


READ_BY_ASTROPY = {"PSFConvolvedSersic2D.evaluate"}
"""Methods whose annotations would mean something else: astropy takes them for units."""


def public_definitions(node, prefix=""):
    """Qualified name and node of the public classes, functions and methods of a module, none within functions."""
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef) and not child.name.startswith("_"):
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from public_definitions(child, f"{prefix}{child.name}.")


def parameter_entries(docstring):
    """Header and description of each entry of the section of parameters of a numpydoc docstring."""
    section = re.search(r"Parameters\n-+\n(.*?)(\n\n[A-Z]\w+\n-+|\Z)", docstring, re.DOTALL)
    text = section[1] + "\n" if section else ""
    yield from re.findall(r"^(\S[^\n]*)\n((?: {4,}[^\n]*\n?)*)", text, re.MULTILINE)


def test_parameters_are_described_in_sentences():
    """An entry of less than four words says nothing that its name does not."""
    short, count = [], 0
    for path, _, tree in modules():
        for name, node in public_definitions(tree):
            for header, description in parameter_entries(ast.get_docstring(node) or ""):
                count += 1
                if len(description.split()) < 4:
                    short.append(f"{path} {name}: {header}")
    assert count > 1000
    assert not short


def test_public_functions_have_types():
    untyped = []
    for path, _, tree in modules():
        for name, node in public_definitions(tree):
            if not isinstance(node, ast.FunctionDef) or name in READ_BY_ASTROPY:
                continue
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            missing = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
            if missing or node.returns is None:
                untyped.append(f"{path} {name}")
    assert not untyped


def lazy_packages():
    """Path of the ``__init__`` of each package whose names are imported on demand, and its table of exports."""
    for path in sorted(PACKAGE.rglob("__init__.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_EXPORTS":
                yield path, ast.literal_eval(node.value)


def test_stubs_tell_the_names_that_are_imported_on_demand():
    """Type checkers and editors do not see these otherwise."""
    packages = list(lazy_packages())
    assert len(packages) > 10
    for path, exports in packages:
        package = ".".join(("galmeasure", *path.parent.relative_to(PACKAGE).parts))
        modules = {k: v if v.startswith("galmeasure.") else f"{package}.{v}" for k, v in exports.items()}
        stub = ast.parse(path.with_suffix(".pyi").read_text(encoding="utf-8"))
        told = {alias.asname: node.module for node in stub.body for alias in node.names}
        assert told == modules, path


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
    assert f'"version": "{version}"' in (ROOT / "codemeta.json").read_text(encoding="utf-8")
    assert (ROOT / "CHANGES.rst").read_text(encoding="utf-8").startswith(version.partition(".dev")[0])


def test_citations_agree():
    """The title in the entry for BibTeX is that of the citation file."""
    title = re.search(r'^title: "(.*)"$', (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert f"{{{{{title}}}}}" in galmeasure.__citation__
    assert f"{{{galmeasure.__version__}}}" in galmeasure.__citation__


def test_workflow_calls_environments_of_tox():
    """Every environment that continuous integration asks for is one that tox.ini describes."""
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    tox = (ROOT / "tox.ini").read_text(encoding="utf-8")
    environments = re.findall(r"env: ([\w-]+) }", workflow)
    assert len(environments) > 5
    for name in environments:
        assert f"[testenv:{name}]" in tox or all(
            f"{factor}:" in tox or re.fullmatch(r"py3\d+|test", factor) for factor in name.split("-")
        )


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
