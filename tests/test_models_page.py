"""The page on models shows every shipped network and all tables of the benchmark."""

import sys
from pathlib import Path

import pytest

from galmeasure import list_weights

ROOT = Path(__file__).parents[1]


def test_the_page_on_models_shows_every_shipped_network():
    pytest.importorskip("docutils")
    text = (ROOT / "docs" / "models.rst").read_text(encoding="utf-8")
    sys.path.insert(0, str(ROOT / "docs" / "_ext"))
    try:
        import galmeasure_models
    finally:
        sys.path.pop(0)
    tables = [line.split("::")[1].split() for line in text.splitlines() if line.startswith(".. galmeasure-models::")]
    assert [table[0] for table in tables].count("cards") == 1
    for table in tables:
        rows = [line for line in galmeasure_models.table_lines(*table) if line.startswith("   * - ")]
        assert len(rows) > 2  # the first is the header
    names = {row[0] for row in galmeasure_models.card_rows()}
    assert names == {f"``{weights.name}``" for weights in list_weights()}
