"""The recipe for HATS catalogues: stamps in a column of lists, measured partition by partition with LSDB."""

import numpy as np
import pytest
from _catalogs import psf_image, stamps

from galmeasure import Cutouts, LSQSersicFitter
from galmeasure.workflows.dask import measure_rows

lsdb = pytest.importorskip("lsdb", reason="LSDB is not installed (tox -e lsdb)")

N_ROWS = 12
NAMES = {"stamp": "cutouts", "stamp_error": "error", "object_id": "ids"}
FITTER = LSQSersicFitter()


def measure(partition):
    """Columns of the measurements of a partition, as a data frame."""
    table = measure_rows(partition.rename(columns=NAMES), FITTER, psf=psf_image())
    return table["id", "flux_fit", "flux_err", "flags"].to_pandas()


@pytest.mark.filterwarnings("ignore")  # of the packages that LSDB is made of
def test_hats_catalogue_is_measured(tmp_path):
    """Written to HATS, read again, and measured lazily: every partition as if it were alone."""
    import pandas as pd
    import pyarrow as pa

    images = stamps(N_ROWS)
    lists = pd.Series([image.ravel() for image in images], dtype=pd.ArrowDtype(pa.list_(pa.float32())))
    frame = pd.DataFrame(
        {
            "object_id": np.arange(N_ROWS), "ra": np.linspace(10.0, 200.0, N_ROWS), "dec": np.linspace(-40, 40, N_ROWS),
            "stamp": lists, "stamp_error": np.ones(N_ROWS),
        }
    )  # fmt: skip
    catalog = lsdb.from_dataframe(frame, ra_column="ra", dec_column="dec", lowest_order=1, highest_order=3)
    catalog.write_catalog(tmp_path / "stamps_hats", catalog_name="stamps")
    catalog = lsdb.open_catalog(tmp_path / "stamps_hats")
    assert catalog.npartitions > 1
    meta = pd.DataFrame({"id": [0], "flux_fit": [0.0], "flux_err": [0.0], "flags": [0]}).iloc[:0]
    result = catalog.map_partitions(measure, meta=meta).compute().sort_values("id")
    assert result["id"].tolist() == list(range(N_ROWS))
    expected = FITTER.fit(Cutouts(images, psf_image(), error=1.0))
    np.testing.assert_allclose(result["flux_fit"], np.asarray(expected["flux_fit"]), rtol=1e-5)
    assert (result["flags"] == np.asarray(expected["flags"])).all()
