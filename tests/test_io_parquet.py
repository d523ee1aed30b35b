"""Cutout tables in Parquet: stamps as lists of a fixed size, tensors, or lists of any size, in files and folders."""

import json

import astropy.units as u
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from _catalogs import cutout_table, psf_image, stamps
from astropy.table import QTable

from galmeasure import read_cutouts
from galmeasure.exceptions import CatalogError
from galmeasure.io import open_catalog
from galmeasure.workflows.dask import compute_table, fitter_spec, measure_dask
from galmeasure.workflows.measure import MeasureSettings, measure_catalog

N_ROWS, SIDE = 7, 24
SHAPE = json.dumps([SIDE, SIDE])


def lists(images, **metadata):
    """Column of fixed-size lists, and its field."""
    flat = np.ascontiguousarray(images).reshape(len(images), -1)
    array = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])
    return array, lambda name: pa.field(name, array.type, metadata=metadata or None)


def tensors(images):
    """Column of Arrow's tensors of a fixed shape."""
    array = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(images))
    return array, lambda name: pa.field(name, array.type)


def write(path, columns, *, metadata=None, row_group_size=3):
    """Write a Parquet file of columns, which are arrays of Arrow or pairs of an array and a maker of its field."""
    pairs = {name: c if isinstance(c, tuple) else (pa.array(c), None) for name, c in columns.items()}
    fields = [pa.field(n, array.type) if field is None else field(n) for n, (array, field) in pairs.items()]
    table = pa.Table.from_arrays([array for array, _ in pairs.values()], schema=pa.schema(fields, metadata=metadata))
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def columns(images=None, *, first=1, kind=lists):
    images = stamps(N_ROWS) if images is None else images
    psf = np.repeat(psf_image()[None], len(images), axis=0)
    return {
        "id": np.arange(first, first + len(images)),
        "cutout": kind(images),
        "error": np.ones(len(images)),
        "psf": kind(psf),
        "name": [f"g{row}" for row in range(len(images))],
    }


@pytest.mark.parametrize("kind", [lists, tensors])
def test_the_same_cutouts_as_fits(tmp_path, kind):
    path = write(tmp_path / "cat.parquet", columns(kind=kind))
    source = open_catalog(path)
    assert (source.kind, len(source), source.column_names) == ("cutout table", N_ROWS, ["id", "error", "name"])
    cutouts = source.read([4, 2, 5])
    assert np.asarray(cutouts.ids).tolist() == [5, 3, 6]
    for k, row in enumerate((4, 2, 5)):
        np.testing.assert_array_equal(cutouts.image(k), stamps(N_ROWS)[row])
    assert source.columns([1, 6], ["name"])["name"].tolist() == ["g1", "g6"]


def test_the_same_table_as_fits(tmp_path):
    data = {"error": np.ones(N_ROWS), "psf": np.repeat(psf_image()[None], N_ROWS, axis=0)}
    cutout_table(tmp_path / "cat.fits", data, psf=False)
    write(tmp_path / "cat.parquet", columns())
    from galmeasure import LSQSersicFitter

    settings = {"fitter": fitter_spec(LSQSersicFitter()), "threads": 1, "batch_size": 4}
    for kind in ("fits", "parquet"):
        measure_catalog(tmp_path / f"cat.{kind}", MeasureSettings(output=tmp_path / f"{kind}.fits", **settings))
    expected, table = (QTable.read(tmp_path / f"{kind}.fits") for kind in ("fits", "parquet"))
    for name in ("id", "flux_fit", "n_fit", "n_err", "flags"):
        np.testing.assert_array_equal(table[name], expected[name])


def test_shapes_units_and_keywords(tmp_path):
    images = stamps(N_ROWS)[:, 2:20, :]
    made = columns(images) | {"cutout": lists(images, shape=json.dumps([18, SIDE]), unit="adu")}
    made["psf"] = lists(np.repeat(psf_image()[None], N_ROWS, axis=0))
    path = write(tmp_path / "cat.parquet", made, metadata={"PIXSCALE": "0.2", "GAIN": "3.5", "other": "x"})
    cutouts = read_cutouts(path)
    assert tuple(cutouts.shapes[0]) == (18, SIDE)
    assert cutouts.unit == u.adu
    np.testing.assert_allclose(u.Quantity(cutouts.pixel_scale, u.arcsec).value, 0.2)
    assert "gain 3.5 (GAIN)" in " ".join(open_catalog(path).notes)


def test_tables_of_astropy(tmp_path):
    table = QTable(
        {"id": [1, 2], "cutout": stamps(2).reshape(2, -1) * u.nJy, "error": np.ones(2)}, meta={"PIXSCALE": 0.3}
    )
    table.write(tmp_path / "cat.parquet")
    cutouts = read_cutouts(tmp_path / "cat.parquet", psf=psf_image())
    assert cutouts.unit == u.nJy
    np.testing.assert_array_equal(cutouts.image(1), stamps(2)[1])


def test_missing_stamps_and_lists_of_any_size(tmp_path):
    images = [image.ravel().tolist() for image in stamps(N_ROWS)]
    images[2], images[4] = None, images[4][: 16 * 16]
    path = write(tmp_path / "cat.parquet", columns() | {"cutout": images})
    cutouts = read_cutouts(path)
    assert tuple(cutouts.shapes[4]) == (16, 16)
    assert np.isnan(cutouts.image(2)).all()
    fixed = pa.array([None, *images[:2]], pa.list_(pa.float32(), SIDE * SIDE))
    path = write(tmp_path / "fixed.parquet", {"cutout": fixed, "error": np.ones(3)})
    cutouts = read_cutouts(path, psf=psf_image())
    assert np.isnan(cutouts.image(0)).all()
    np.testing.assert_array_equal(cutouts.image(2), stamps(N_ROWS)[1])


def test_folders_are_one_catalogue(tmp_path):
    folder = tmp_path / "cat"
    folder.mkdir()
    write(folder / "b.parquet", columns(stamps(3, seed=2), first=8))
    write(folder / "a.parquet", columns())
    (folder / "_metadata.parquet").write_bytes(b"no rows")
    assert np.asarray(read_cutouts(folder).ids).tolist() == list(range(1, 11))
    write(folder / "c.parquet", {"id": [1]})
    with pytest.raises(CatalogError, match=r"c\.parquet: must have the columns of .*a\.parquet"):
        open_catalog(folder)


def test_partitions_of_dask(tmp_path):
    pytest.importorskip("distributed")
    from galmeasure.fitters.registry import FitterSpec

    path = write(tmp_path / "cat.parquet", columns())
    table = compute_table(measure_dask(path, FitterSpec("_fake_fitter", "SumFitter")))
    assert table["id"].tolist() == list(range(1, N_ROWS + 1))


def test_file_changes_while_it_is_measured(tmp_path):
    path = write(tmp_path / "cat.parquet", columns())
    source = open_catalog(path)
    source.read([0])
    write(path, columns(stamps(3)))
    with pytest.raises(CatalogError, match=r"cat\.parquet: has changed since it was opened"):
        source.read([6])


@pytest.mark.parametrize("kind", ["damaged", "shape", "text", "scalar", "not square"])
def test_wrong_files(tmp_path, kind):
    path = tmp_path / "cat.parquet"
    images, made = stamps(N_ROWS), columns()
    if kind == "damaged":
        path.write_bytes(b"PAR1" + bytes(100))
    elif kind == "shape":
        write(path, made | {"cutout": lists(images, shape="[3, 4]")})
    elif kind == "text":
        write(path, made | {"cutout": [["a", "b"]] * N_ROWS})
    elif kind == "scalar":
        write(path, made | {"cutout": np.ones(N_ROWS)})
    else:
        write(path, made | {"cutout": lists(images[:, :5])})
    message = {
        "damaged": "cannot be read", "shape": r"has lists of 576 numbers, and its shape is \(3, 4\)",
        "text": "cutout must hold numbers", "scalar": "has no cutouts", "not square": "must hold one 2-D stamp per row",
    }[kind]  # fmt: skip
    with pytest.raises(CatalogError, match=message):
        open_catalog(path)
