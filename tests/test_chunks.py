"""The table of chunk sizes: every entry is used, and every size that is looked up is an entry."""

import ast
from pathlib import Path

import galmeasure
from galmeasure.utils.chunks import CHUNKS, chunk_size, chunk_sizes, rows_per_chunk

PACKAGE = Path(galmeasure.__file__).parent
LOOKUPS = ("chunk_size", "chunk_sizes", "rows_per_chunk")


def names_looked_up():
    """Names that calls in the package look up in the table."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_lookup = isinstance(node, ast.Call) and getattr(node.func, "id", None) in LOOKUPS
            if is_lookup and isinstance(node.args[0], ast.Constant):
                yield node.args[0].value


def test_every_entry_is_used_and_every_use_has_an_entry():
    assert set(names_looked_up()) == set(CHUNKS)


def test_sizes_ascend_and_have_a_reason():
    for name, entry in CHUNKS.items():
        for device in ("cpu", "cuda"):
            sizes = chunk_sizes(name, device)
            assert list(sizes) == sorted(set(sizes))
            assert sizes[0] >= 1
        assert len(entry.reason.split()) >= 4, name


def test_rows_of_a_chunk():
    pixels = chunk_size("PSF pixels")
    assert rows_per_chunk("PSF pixels", pixels // 4) == 4
    assert rows_per_chunk("PSF pixels", 2 * pixels) == 1
    assert rows_per_chunk("simulated stamps", 1, "cuda") == chunk_size("simulated stamps", "cuda")
