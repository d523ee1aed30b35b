"""The demonstration catalogue is what its script makes, and what the documentation says."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

EXAMPLES = Path(__file__).parents[1] / "examples"
CATALOG = EXAMPLES / "demo_catalog.fits"


@pytest.fixture(scope="module")
def script():
    pytest.importorskip("galsim")
    return runpy.run_path(str(EXAMPLES / "make_demo_catalog.py"))


@pytest.fixture(scope="module")
def table():
    table = Table.read(CATALOG, 1)
    table.convert_bytestring_to_unicode()
    return table


def test_contents(table):
    assert len(table) == 200
    assert table["cutout"].shape == (200, 64, 64)
    assert CATALOG.stat().st_size < 4e6
    header = fits.getheader(CATALOG, 1)
    assert (header["PIXSCALE"], header["GAIN"], header["MAGZERO"]) == (0.2, 2.0, 27.0)
    assert {"galaxy", "neighbour", "neighbour_masked", "star", "empty", "saturated", "edge"} == set(table["true_kind"])


def test_noise_is_what_it_says(table):
    frame = np.ones((64, 64), bool)
    frame[4:-4, 4:-4] = False
    alone = np.isin(table["true_kind"], ["galaxy", "star", "empty"]) & (table["true_snr"] < 50)
    scaled = np.array(table["cutout"])[alone][:, frame] / np.array(table["error"][alone])[:, None]
    assert scaled.std() == pytest.approx(1.0, abs=0.02)


def test_truth_is_the_brightness(table):
    galaxies = table[(table["true_kind"] == "galaxy") & (table["true_n"] < 1.5) & (table["true_snr"] > 50)]
    inside = np.sum(galaxies["cutout"], axis=(1, 2), dtype=float)
    noise = 64 * np.array(galaxies["error"])
    np.testing.assert_allclose(inside, galaxies["true_flux"], atol=4 * noise.max(), rtol=0.05)


@pytest.mark.slow
def test_script_makes_the_catalog(script, table):
    again = script["make_table"]()
    assert again.colnames == table.colnames
    for name in again.colnames:
        if again[name].dtype.kind in "US":
            assert list(again[name]) == list(table[name])
        else:
            atol = 1 if name == "cutout" else 0
            np.testing.assert_allclose(
                np.ma.filled(table[name].astype(float), np.nan), again[name].astype(float), rtol=1e-4, atol=atol
            )
