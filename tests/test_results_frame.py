"""The frame: stamp pixels to table units and back, with units, scales and origins of the cutouts."""

import astropy.units as u
import numpy as np
import pytest
from astropy.table import MaskedColumn, Table

from galmeasure.parameters import PARAMETER_NAMES
from galmeasure.results.columns import GALAXY_FORMS, RESULT_FORMS, TRUTH_FORMS, find_column
from galmeasure.results.frame import Frame, convert, plain_numbers

ORIGIN = np.array([[10, 20], [30, 40], [0, 0]])
FRAMES = {
    "plain": Frame(None, None, ORIGIN),
    "units": Frame(u.uJy, np.array([0.1, 0.2, 0.3]), ORIGIN),
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
@pytest.mark.parametrize("shape", [(3,), (3, 5)])
@pytest.mark.parametrize("name", [*PARAMETER_NAMES, "r_eff_major", "psf_fwhm"])
def test_column_and_values_are_inverse(frame, shape, name):
    values = np.random.default_rng(1).uniform(1.0, 9.0, shape)
    column = frame.column(name, values)
    assert getattr(column, "unit", None) == frame.unit_of(name)
    np.testing.assert_allclose(frame.values(name, column), values, rtol=1e-14)
    np.testing.assert_allclose(frame.values(name, np.asarray(column)), values, rtol=1e-14)


def test_errors_have_no_origin():
    frame = FRAMES["units"]
    assert frame.column("x", np.ones(3)).tolist() == [11.0, 31.0, 1.0]
    assert frame.column("x", np.ones(3), difference=True).tolist() == [1.0, 1.0, 1.0]
    assert frame.column("r_eff", np.ones(3), difference=True).to_value(u.arcsec).tolist() == [0.1, 0.2, 0.3]


def test_one_value_for_all_rows():
    frame = FRAMES["units"]
    np.testing.assert_allclose(frame.values("r_eff", 0.6), [6.0, 3.0, 2.0])
    np.testing.assert_allclose(frame.values("r_eff", 600 * u.mas), [6.0, 3.0, 2.0])
    np.testing.assert_allclose(frame.values("r_eff", 6 * u.pix), 6.0)
    np.testing.assert_allclose(frame.values("flux", 1 * u.mJy), 1000.0)
    assert frame.values("n", 2.5) == 2.5


@pytest.mark.parametrize(
    ("name", "column", "message"),
    [
        ("flux", 1 * u.s, "argument has unit s, which does not convert to that of the pixels, uJy"),
        ("n", 1 * u.arcsec, "argument has unit arcsec, which does not convert to none"),
        ("r_eff", 1 * u.kpc, "argument has unit kpc, which does not convert to arcsec"),
    ],
)
def test_wrong_units(name, column, message):
    with pytest.raises(ValueError, match=message):
        FRAMES["units"].values(name, column, "argument")


def test_plain_numbers():
    column = MaskedColumn([1, 2], mask=[False, True], unit="pix")
    np.testing.assert_array_equal(plain_numbers(column, "x"), [1.0, np.nan])
    for wrong in (["a"], [1j]):
        with pytest.raises(TypeError, match="x must hold real numbers"):
            plain_numbers(wrong, "x")


def test_convert():
    assert convert("flux", np.ones(1), u.mJy, u.uJy, "f") == 1000.0
    assert convert("flux", np.ones(1), None, u.uJy, "f") == 1.0
    assert convert("r_eff", np.ones(1), u.pix, u.arcsec, "r", pixel_scale=0.25) == 0.25
    assert convert("r_eff", np.ones(1), u.arcsec, u.pix, "r", pixel_scale=0.25) == 4.0
    with pytest.raises(ValueError, match="pixel_scale must be given: r is in pix, the other table in arcsec"):
        convert("r_eff", np.ones(1), u.pix, u.arcsec, "r")
    with pytest.raises(ValueError, match="f has unit s, which does not convert to uJy"):
        convert("flux", np.ones(1), u.s, u.uJy, "f")


def test_spellings():
    table = Table({name: [1.0] for name in ("n_fit", "n", "n_true", "true_n")})
    assert find_column(table, "n", TRUTH_FORMS) == "true_n"
    assert find_column(table, "n", RESULT_FORMS) == "n_fit"
    table.remove_column("true_n")
    assert find_column(table, "n", TRUTH_FORMS) == "n_true"
    assert find_column(table, "n", GALAXY_FORMS) == "n_fit"
    assert find_column(table, "x", TRUTH_FORMS) is None
