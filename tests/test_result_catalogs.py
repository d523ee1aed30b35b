"""Results of other codes: every convention of radius, angle, flux and first pixel comes back as ours."""

import math

import numpy as np
import pytest
from astropy import units as u
from astropy.table import MaskedColumn, QTable, Table

from galmeasure.evaluation import PRESETS, CatalogPreset, compare, convert_results, match_tables, read_results
from galmeasure.exceptions import CatalogError
from galmeasure.flags import Flag
from galmeasure.parameters import g_from_q_theta
from galmeasure.render.profiles import sersic_b

SCALE, ZERO_POINT, COUNT = 0.2, 27.0, 30


@pytest.fixture
def galaxies():
    """True galaxies in our words: radii in pixels, angles in degrees."""
    rng = np.random.default_rng(4)
    return {
        "x": rng.uniform(20, 40, COUNT),
        "y": rng.uniform(20, 40, COUNT),
        "flux": rng.uniform(1e3, 1e4, COUNT),
        "n": rng.uniform(0.5, 5, COUNT),
        "major": rng.uniform(2, 8, COUNT),
        "q": rng.uniform(0.2, 0.95, COUNT),
        "theta": rng.uniform(0, 180, COUNT),
    }


def intensity(galaxies):
    """Surface brightness at the half-light radius, by the formula of the page on conventions."""
    n, b = galaxies["n"], sersic_b(galaxies["n"])
    shape = np.exp(b) * b ** (-2 * n) * np.array([math.gamma(2 * each) for each in n])
    return galaxies["flux"] / (2 * np.pi * n * galaxies["q"] * galaxies["major"] ** 2 * shape)


def from_y(theta):
    return np.where(theta >= 90, theta - 90, theta + 90) - 180 * (np.arange(len(theta)) % 2)


def foreign(code, g):
    """The same galaxies as a code would write them."""
    ids = np.arange(1, COUNT + 1)
    mag = ZERO_POINT - 2.5 * np.log10(g["flux"])
    tables = {
        "galfit": lambda: {"number": ids, "xc": g["x"] + 1, "yc": g["y"] + 1, "mag": mag, "re": g["major"], "n": g["n"],
                           "ar": g["q"], "pa": from_y(g["theta"])},
        "imfit": lambda: {"id": ids, "X0": g["x"] + 1, "Y0": g["y"] + 1, "PA": from_y(g["theta"]), "ell": 1 - g["q"],
                          "n": g["n"], "I_e": intensity(g), "r_e": g["major"]},
        "pysersic": lambda: {"id": ids, "xc": g["x"], "yc": g["y"], "flux": g["flux"], "n": g["n"], "r_eff": g["major"],
                             "ellip": 1 - g["q"], "theta": np.radians(from_y(g["theta"]))},
        "statmorph": lambda: {"label": ids, "sersic_xc": g["x"], "sersic_yc": g["y"], "sersic_amplitude": intensity(g),
                              "sersic_n": g["n"], "sersic_rhalf": g["major"], "sersic_ellip": 1 - g["q"],
                              "sersic_theta": np.radians(g["theta"])},
        "sourcextractor++": lambda: {"source_id": ids, "x": g["x"] + 1, "y": g["y"] + 1, "flux": g["flux"],
                                     "sersic_index": g["n"], "effective_radius": g["major"], "aspect_ratio": g["q"],
                                     "angle": np.radians(g["theta"])},
    }  # fmt: skip
    return Table(tables[code]())


def truth_of(galaxies):
    g1, g2 = g_from_q_theta(galaxies["q"], galaxies["theta"])
    return QTable(
        {
            "id": np.arange(1, COUNT + 1),
            "true_flux": galaxies["flux"],
            "true_n": galaxies["n"],
            "true_r_eff": galaxies["major"] * np.sqrt(galaxies["q"]) * SCALE * u.arcsec,
            "true_g1": g1,
            "true_g2": g2,
            "true_x": galaxies["x"],
            "true_y": galaxies["y"],
        }
    )


@pytest.mark.parametrize("suffix", ["fits", "csv", "ecsv"])
@pytest.mark.parametrize("code", ["galfit", "imfit", "pysersic", "statmorph", "sourcextractor++"])
def test_every_convention_comes_back(tmp_path, galaxies, code, suffix):
    path = tmp_path / f"results.{suffix}"
    foreign(code, galaxies)[::-1].write(path)
    table = read_results(path, code, zero_point=ZERO_POINT)
    matched = match_tables(truth_of(galaxies), table, pixel_scale=SCALE)
    assert set(matched.names) >= {"flux", "n", "r_eff", "g1", "g2", "x", "y", "r_eff_major", "q", "theta"}
    for name in ("n", "r_eff", "g1", "g2", "x", "y", "r_eff_major", "q", "theta"):
        assert np.allclose(matched.difference(name), 0, atol=1e-6), name
    assert np.allclose(matched.difference("flux") / galaxies["flux"], 0, atol=1e-6)


def test_every_preset_says_what_it_assumes():
    for preset in PRESETS.values():
        assert "first pixel is" in preset.description
        assert {"x", "ra"} & set(preset.columns)
        assert {"radius_err", "radius_ivar", "radius_x_err"} & set(preset.columns)


def test_pixel_scale_and_units(galaxies):
    pixels = foreign("pysersic", galaxies)
    scaled = convert_results(pixels, "pysersic", pixel_scale=SCALE)
    assert scaled["r_eff_major"].unit == u.arcsec
    assert np.allclose(scaled["r_eff_major"].value, SCALE * galaxies["major"])
    pixels["r_eff"].unit, pixels["theta"] = "arcmin", galaxies["theta"] - 90
    pixels["theta"].unit, pixels["flux"].unit = "deg", "mJy"
    own = convert_results(pixels, "pysersic", pixel_scale=SCALE, zero_point=ZERO_POINT)
    assert own["r_eff_fit"].unit == u.arcmin
    assert own["flux_fit"].unit == u.mJy
    assert np.allclose(own["theta"].to_value(u.deg), galaxies["theta"])
    assert np.allclose(own["mag"].value, ZERO_POINT - 2.5 * np.log10(galaxies["flux"]))


def test_errors_are_propagated():
    rng = np.random.default_rng(8)
    true = {"radius": 5.0, "q": 0.6, "angle": 30.0, "mag": 20.0}
    sigma = {"radius": 0.05, "q": 0.01, "angle": 1.0, "mag": 0.02}
    many = {name: true[name] + sigma[name] * rng.normal(size=20000) for name in true}
    columns = {"re": "radius", "ar": "q", "pa": "angle", "mag": "mag"}
    drawn = convert_results(Table({key: many[name] for key, name in columns.items()}), "galfit", zero_point=25.0)
    one = Table({key: [true[name]] for key, name in columns.items()})
    for key, name in columns.items():
        one[f"{key}_err"] = [sigma[name]]
    found = convert_results(one, "galfit", zero_point=25.0)
    for name in ("r_eff", "g1", "g2", "flux"):
        expected = np.std(np.asarray(drawn[f"{name}_fit"]))
        assert np.asarray(found[f"{name}_err"])[0] == pytest.approx(expected, rel=0.03), name
    assert found["theta_err"][0] == 1.0 * u.deg
    assert found["r_eff_major_err"][0] == 0.05 * u.pix


def test_texts_of_galfit():
    table = Table({"id": [1, 2, 3], "re": ["4.00 +/- 0.10", "*9.00* +/- *2.00*", "[3.00]"], "ar": ["0.25"] * 3,
                   "n": ["1.5 +/- 0.1", "nan", "what"]})  # fmt: skip
    found = convert_results(table, "galfit")
    assert np.allclose(found["r_eff_fit"].value, [2.0, 4.5, 1.5])
    assert np.allclose(found["r_eff_major_err"].value, [0.1, 2.0, np.nan], equal_nan=True)
    assert np.allclose(found["n_fit"], [1.5, np.nan, np.nan], equal_nan=True)
    assert found["flags"].tolist() == [0, int(Flag.NOT_CONVERGED), 0]


def test_sentinels_and_impossible_values_are_nan():
    table = Table(
        {"sersic_n": [2.0, -99.0, 1.0], "sersic_rhalf": [3.0, -99.0, -1.0], "sersic_ellip": [0.5, -99.0, 0.1]}
    )
    found = convert_results(table, "statmorph")
    assert np.isfinite(found["n_fit"]).tolist() == [True, False, True]
    assert np.isfinite(found["r_eff_fit"].value).tolist() == [True, False, False]
    masked = Table({"n": MaskedColumn([1.0, 2.0], mask=[True, False])})
    assert np.isnan(convert_results(masked, "imfit")["n_fit"]).tolist() == [True, False]


def test_own_columns_and_conventions(tmp_path, galaxies):
    g = galaxies
    circular = g["major"] * np.sqrt(g["q"])
    table = Table(
        {"name": np.arange(1, COUNT + 1), "hlr": circular, "axis": g["q"], "phi": g["theta"], "SERSIC": g["n"]}
    )
    preset = CatalogPreset(columns={"radius": "hlr", "q": "axis", "angle": "phi"}, circularised=True)
    found = convert_results(table, preset, columns={"n": "SERSIC", "id": "name"})
    matched = match_tables(truth_of(g), found, pixel_scale=SCALE)
    for name in ("n", "r_eff", "r_eff_major", "g1", "g2"):
        assert np.allclose(matched.difference(name), 0, atol=1e-9), name
    table.write(tmp_path / "mine.csv")
    again = read_results(tmp_path / "mine.csv", columns={"n": "SERSIC", "id": "name"})
    assert set(again.colnames) == {"id", "n_fit"}


def test_our_own_tables_are_read_as_they_are(tmp_path):
    table = QTable({"id": [1, 2, 3], "n_fit": [1.0, 2.0, 3.0], "r_eff_fit": [1.0, 2.0, 3.0] * u.arcsec})
    table.write(tmp_path / "ours.fits")
    found = read_results(tmp_path / "ours.fits")
    assert found["r_eff_fit"].unit == u.arcsec
    assert compare(Table({"id": [1, 2, 3], "n": [1.0, 2.0, 2.5]}), found).row("n")["rmse"] == pytest.approx(
        0.5 / 3**0.5
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"preset": "sextractor"}, ValueError, "preset must be one of galfit, imfit, .*, not 'sextractor'"),
        ({"preset": "statmorph"}, CatalogError, "none of the columns of the preset is there; there are id, n"),
        ({"columns": {"n": "index"}}, CatalogError, r"columns: there is no index \(for n\) among id, n"),
        ({"columns": {"size": "n"}}, CatalogError, "columns must be named id, x, y, .*, not size"),
    ],
)
def test_wrong_arguments(tmp_path, arguments, error, message):
    Table({"id": [1], "n": [1.0]}).write(tmp_path / "table.csv")
    with pytest.raises(error, match=message):
        read_results(tmp_path / "table.csv", **arguments)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(CatalogError, match="none.csv: no such file"):
        read_results(tmp_path / "none.csv")
    (tmp_path / "text.fits").write_text("no table")
    with pytest.raises(CatalogError, match="text.fits: cannot be read as a table"):
        read_results(tmp_path / "text.fits")
    (tmp_path / "empty.csv").write_text("id,n\n")
    with pytest.raises(CatalogError, match="empty.csv: no rows"):
        read_results(tmp_path / "empty.csv", "galfit")
    Table({"n": ["a", "b"]}).write(tmp_path / "words.csv")
    with pytest.raises(CatalogError, match="words.csv: the column n must hold numbers"):
        read_results(tmp_path / "words.csv", "galfit")


@pytest.mark.parametrize(("field", "value"), [("angle_from", "z"), ("angle_unit", "turns")])
def test_wrong_presets(field, value):
    with pytest.raises(ValueError, match=f"{field} must be one of .*, not '{value}'"):
        CatalogPreset(**{field: value})
