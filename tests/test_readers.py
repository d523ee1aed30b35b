"""Stamps that the processes which measure them read themselves, where that costs no more than to send them."""

import gzip
import shutil

import numpy as np
import pytest
from _catalogs import cutout_table

from galmeasure.exceptions import CatalogError
from galmeasure.fitters.registry import FitterSpec
from galmeasure.io import open_catalog
from galmeasure.workflows.executors import Division, measured_chunks
from galmeasure.workflows.measure import MeasureSettings, measure_catalog

N_ROWS = 12
FITTER = FitterSpec("galmeasure.fitters", "LSQSersicFitter")


@pytest.fixture
def catalog(tmp_path, monkeypatch):
    monkeypatch.setattr("galmeasure.workflows.executors.n_cores", lambda: 2)
    cutout_table(tmp_path / "cat.fits", {"error": np.ones(N_ROWS)}, count=N_ROWS)
    return tmp_path / "cat.fits"


def packed(path):
    """Compressed copy of a file."""
    copy = path.with_name(f"{path.name}.gz")
    with path.open("rb") as file, gzip.open(copy, "wb") as out:
        shutil.copyfileobj(file, out)
    return copy


def chunks_of(source, n_jobs):
    return list(measured_chunks(source, np.arange(N_ROWS), FITTER, Division(1, 4), n_jobs=n_jobs))


def test_tables_are_read_by_those_who_measure(catalog):
    here, elsewhere = (chunks_of(open_catalog(catalog), n_jobs) for n_jobs in (1, 2))
    assert all(cutouts is None for _, cutouts, _ in elsewhere)
    for (rows, _, table), (other_rows, _, other) in zip(here, elsewhere, strict=True):
        np.testing.assert_array_equal(rows, other_rows)
        assert {**table.meta, "DATE": None} == {**other.meta, "DATE": None}
        for name in table.colnames:
            np.testing.assert_array_equal(table[name], other[name], err_msg=name)


def test_compressed_tables_are_unpacked_once(catalog):
    source = open_catalog(packed(catalog))
    assert not source.is_read_in_parts
    assert all(cutouts is not None for _, cutouts, _ in chunks_of(source, 2))


def test_a_file_that_has_become_shorter(catalog):
    source, content = open_catalog(catalog), catalog.read_bytes()
    catalog.write_bytes(content[: len(content) // 2])
    with pytest.raises(CatalogError, match=r"cat\.fits"):
        chunks_of(source, 2)


def test_a_file_that_is_another_one(catalog):
    """Of the same size, and written before the processes that read it have opened it."""
    source, content = open_catalog(catalog), catalog.read_bytes()
    catalog.unlink()
    catalog.write_bytes(content)
    with pytest.raises(CatalogError, match="has changed since it was opened"):
        chunks_of(source, 2)


def test_pictures_of_what_others_have_read(catalog, tmp_path):
    settings = MeasureSettings(
        output=tmp_path / "out.fits", fitter=FITTER, n_jobs=2, batch_size=4, plots=tmp_path / "p"
    )
    measure_catalog(catalog, settings)
    assert len(list((tmp_path / "p").iterdir())) == N_ROWS
