"""One simulated galaxy in the words of every code, written down by hand: what is read is the truth, and back again."""

import math

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.modeling.models import Sersic2D
from astropy.table import QTable, Table
from astropy.wcs import WCS
from scipy.ndimage import gaussian_filter

from galmeasure import LSQSersicFitter
from galmeasure.cli import main
from galmeasure.evaluation import PRESETS, CatalogPreset, convert_results, read_results
from galmeasure.exceptions import CatalogError
from galmeasure.flags import Flag
from galmeasure.io import write_table
from galmeasure.parameters import g_from_q_theta

SCALE, ZERO_POINT = 0.2, 26.0
X, Y, FLUX, N, MAJOR, Q, THETA = 20.25, 31.5, 4000.0, 1.0, 5.0, 0.36, 130.0
"""The galaxy: pixels from 0, semi-major radius in pixels, angle in degrees from +x."""
MAG = 26.0 - 2.5 * math.log10(4000.0)
B1 = 1.6783469900166605
"""b of an exponential profile, n = 1, where Gamma(2 n) is 1."""
INTENSITY = FLUX / (2 * math.pi * Q * MAJOR**2 * math.exp(B1) / B1**2)
RADIANS = math.pi / 180
PA = 40.0
"""Of an image with north up and east to the left: from +y, which is 90 degrees on from +x."""

AXIS = np.array([math.cos(130 * RADIANS), math.sin(130 * RADIANS)])
ACROSS = np.array([-AXIS[1], AXIS[0]])
COVARIANCE = 25.0 * np.outer(AXIS, AXIS) + (0.36 * 5.0) ** 2 * np.outer(ACROSS, ACROSS)
E = 0.64 / 1.36

CODES = {
    "galfit": {"xc": 21.25, "yc": 32.5, "mag": MAG, "n": 1.0, "re": 5.0, "ar": 0.36, "pa": 40.0},
    "galapagos": {"X_GALFIT": 21.25, "Y_GALFIT": 32.5, "MAG_GALFIT": MAG, "N_GALFIT": 1.0, "RE_GALFIT": 5.0,
                  "Q_GALFIT": 0.36, "PA_GALFIT": 40.0},
    "imfit": {"X0": 21.25, "Y0": 32.5, "PA": 40.0, "ell": 0.64, "n": 1.0, "I_e": INTENSITY, "r_e": 5.0},
    "pysersic": {"xc": 20.25, "yc": 31.5, "flux": 4000.0, "r_eff": 5.0, "n": 1.0, "ellip": 0.64, "theta": 40 * RADIANS},
    "statmorph": {"sersic_xc": 20.25, "sersic_yc": 31.5, "sersic_amplitude": INTENSITY, "sersic_n": 1.0,
                  "sersic_rhalf": 5.0, "sersic_ellip": 0.64, "sersic_theta": 130 * RADIANS},
    "petrofit": {"amplitude": INTENSITY, "r_eff": 5.0, "n": 1.0, "x_0": 20.25, "y_0": 31.5, "ellip": 0.64,
                 "theta": 130 * RADIANS},
    "astrophot": {"center": [4.05, 6.3], "q": 0.36, "PA": 40 * RADIANS, "n": 1.0, "Re": 1.0, "Ie": INTENSITY / 0.04},
    "profit": {"xcen": 20.75, "ycen": 32.0, "mag": MAG, "re": 5.0, "nser": 1.0, "ang": 40.0, "axrat": 0.36},
    "sourcextractor++": {"x": 21.25, "y": 32.5, "flux": 4000.0, "sersic_index": 1.0, "effective_radius": 5.0,
                         "aspect_ratio": 0.36, "angle": 130 * RADIANS},
    "lsst": {"i_sersicFlux": 4000.0, "sersic_index": 1.0, "sersic_reff_x": math.sqrt(COVARIANCE[0, 0]),
             "sersic_reff_y": math.sqrt(COVARIANCE[1, 1]),
             "sersic_rho": COVARIANCE[0, 1] / math.sqrt(COVARIANCE[0, 0] * COVARIANCE[1, 1])},
    "legacysurvey": {"BX": 20.25, "BY": 31.5, "FLUX_R": 4000.0, "SERSIC": 1.0, "SHAPE_R": 1.0,
                     "SHAPE_E1": E * math.cos(2 * 40 * RADIANS), "SHAPE_E2": E * math.sin(2 * 40 * RADIANS)},
}  # fmt: skip
"""By the documentation of each code, see the sources that `galmeasure.io.code_presets` names."""
BANDS = {"lsst": "i", "legacysurvey": "r"}
FLUX_UNITS = {"lsst": u.nJy, "legacysurvey": u.Unit("nmgy")}


def of_code(code):
    return Table({name: [value] for name, value in CODES[code].items()})


def truth(code=None):
    """The galaxy as galmeasure gives it."""
    g1, g2 = g_from_q_theta(Q, THETA)
    table = QTable({"id": [7], "x_fit": [X], "y_fit": [Y], "flux_fit": [FLUX], "n_fit": [N], "g1_fit": [g1],
                    "g2_fit": [g2], "q": [Q], "theta": [THETA] * u.deg, "pa": [PA] * u.deg})  # fmt: skip
    table["r_eff_fit"], table["r_eff_major"] = [MAJOR * 0.6 * SCALE] * u.arcsec, [MAJOR * SCALE] * u.arcsec
    if code in FLUX_UNITS:
        table["flux_fit"] = [FLUX] * FLUX_UNITS[code]
    return table


def number(column):
    return np.asarray(getattr(column, "value", column), dtype=float)[0]


@pytest.fixture(scope="module")
def measured():
    """The galaxy, drawn by astropy on fine pixels of an image with north up and east to the left, and measured."""
    fine, shape = 5, (61, 51)
    y, x = (np.arange(size * fine) / fine - 0.5 + 0.5 / fine for size in shape)
    model = Sersic2D(INTENSITY, 5.0, 1.0, X, Y, 0.64, math.radians(THETA))(x, y[:, None])
    model = gaussian_filter(model, 1.2 * fine, mode="constant")
    stamp = model.reshape(shape[0], fine, shape[1], fine).mean(axis=(1, 3))
    edges = [math.erf((k - 0.5) / 1.2 / 2**0.5) for k in range(-12, 14)]
    pixel = np.diff(edges)[None]
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [150.0, 2.0], [25.0, 30.0]
    wcs.wcs.cdelt = [-SCALE / 3600, SCALE / 3600]
    noise = np.random.default_rng(6).normal(scale=0.02, size=shape)
    return LSQSersicFitter().fit((stamp + noise)[None], pixel.T * pixel, error=0.02, wcs=wcs, ids=[7])


@pytest.mark.parametrize("code", CODES)
def test_a_simulated_galaxy_in_the_words_of_a_code(measured, code):
    how = {"pixel_scale": SCALE, "zero_point": ZERO_POINT, "band": BANDS.get(code)}
    table = measured.copy()
    if code in FLUX_UNITS:
        table["flux_fit"], table["flux_err"] = (table[name] * FLUX_UNITS[code] for name in ("flux_fit", "flux_err"))
    found = convert_results(table, to=code, **how)
    for name, value in CODES[code].items():
        assert np.asarray(getattr(found[name], "value", found[name]))[0] == pytest.approx(value, rel=0.01), name
    back = convert_results(found, code, **how)
    for name in ("r_eff_fit", "r_eff_major", "q", "theta", "g1_fit", "g2_fit", "n_fit", "flux_fit"):
        # theta of an angle from north is that of an image with north exactly up, also far from its centre
        rel = 1e-5 if code == "legacysurvey" else 1e-9
        assert number(back[name]) == pytest.approx(number(table[name]), rel=rel), name


def test_every_code_is_here():
    assert set(CODES) == set(PRESETS)


@pytest.mark.parametrize("code", CODES)
def test_what_is_read_is_the_truth(tmp_path, code):
    of_code(code).write(tmp_path / "galaxy.fits")
    found = read_results(tmp_path / "galaxy.fits", code, pixel_scale=SCALE, zero_point=ZERO_POINT)
    assert number(found["flux_fit"]) == pytest.approx(FLUX, rel=1e-12)
    assert found["n_fit"][0] == 1.0
    assert found["r_eff_major"][0].to_value(u.arcsec) == pytest.approx(1.0)
    assert found["r_eff_fit"][0].to_value(u.arcsec) == pytest.approx(0.6)
    assert found["q"][0] == pytest.approx(Q)
    assert found["theta"][0].to_value(u.deg) == pytest.approx(THETA)
    assert (found["g1_fit"][0], found["g2_fit"][0]) == pytest.approx(g_from_q_theta(Q, THETA))
    if code != "lsst":  # whose centres are on the sky
        assert (found["x_fit"][0], found["y_fit"][0]) == pytest.approx((X, Y))
    if code in FLUX_UNITS:
        assert found["flux_fit"].unit == FLUX_UNITS[code]


@pytest.mark.parametrize("code", CODES)
def test_what_is_exported_is_the_convention(code):
    found = convert_results(truth(code), to=code, pixel_scale=SCALE, zero_point=ZERO_POINT, band=BANDS.get(code))
    assert found[PRESETS[code].columns["id"][0]][0] == 7
    expected = CODES[code]
    assert set(found.colnames) == {*expected, PRESETS[code].columns["id"][0]}
    for name, value in expected.items():
        assert np.asarray(getattr(found[name], "value", found[name]))[0] == pytest.approx(value, rel=1e-12), name


@pytest.mark.parametrize("code", CODES)
def test_results_go_there_and_back(tmp_path, code):
    ours = many(code)
    how = {"pixel_scale": SCALE, "zero_point": ZERO_POINT, "band": BANDS.get(code)}
    write_table(convert_results(ours, to=code, **how), tmp_path / "there.fits")
    back = read_results(tmp_path / "there.fits", code, **how)
    assert back["id"].tolist() == ours["id"].tolist()
    names = set(ours.colnames) & set(back.colnames) - {"id"}
    assert names >= {"flux_fit", "n_fit", "r_eff_fit", "r_eff_major", "q", "theta", "g1_fit", "g2_fit", "n_err"} - (
        {"n_err"} if "n_err" not in PRESETS[code].columns and "n_ivar" not in PRESETS[code].columns else set()
    )
    for name in names - {"r_eff_err", "g1_err", "g2_err"}:  # which follow from others, as if these were independent
        unit = ours[name].unit
        found, expected = (np.asarray(u.Quantity(t[name], unit) if unit else t[name]) for t in (back, ours))
        rtol = 1e-5 if code == "lsst" and name.endswith("_err") else 1e-10
        if code == "lsst" and name in ("r_eff_major_err", "q_err", "theta_err"):
            continue  # of three numbers that are no longer independent
        if code == "legacysurvey" and name in ("q_err", "theta_err"):
            continue  # the components have the errors
        assert np.allclose(found, expected, rtol=rtol, atol=1e-12, equal_nan=True), name


def many(code):
    """Galaxies with errors, the last of them not measured."""
    rng = np.random.default_rng(3)
    count = 20
    q, theta = rng.uniform(0.2, 0.95, count), rng.uniform(0, 180, count)
    major, flux = rng.uniform(0.3, 2, count), rng.uniform(1e3, 1e4, count)
    g1, g2 = g_from_q_theta(q, theta)
    table = QTable(
        {"id": np.arange(count) + 10**15, "x_fit": rng.uniform(0, 99, count), "n_fit": rng.uniform(0.5, 6, count)}
    )
    table["y_fit"], table["g1_fit"], table["g2_fit"], table["q"] = rng.uniform(0, 99, count), g1, g2, q
    table["theta"], table["pa"] = theta * u.deg, (theta - 90) % 180 * u.deg
    table["flux_fit"] = flux * FLUX_UNITS.get(code, u.dimensionless_unscaled)
    table["flux_err"] = 0.01 * table["flux_fit"]
    table["r_eff_major"], table["r_eff_fit"] = major * u.arcsec, major * np.sqrt(q) * u.arcsec
    for name, error in {"x": 0.1, "y": 0.1, "n": 0.2, "q": 0.01, "g1": 0.02, "g2": 0.03}.items():
        table[f"{name}_err"] = error * rng.uniform(0.5, 1.5, count)
    table["theta_err"], table["r_eff_major_err"] = rng.uniform(1, 2, count) * u.deg, 0.02 * table["r_eff_major"]
    for name in set(table.colnames) - {"id"}:
        table[name][-1] = np.nan * (table[name].unit or 1)
    return table


GALFIT_CARDS = {"COMP_1": "sersic", "1_XC": "21.2500 +/- 0.0500", "1_YC": "[32.5000]", "1_MAG": "16.9948 +/- 0.0200",
                "1_RE": "5.0000 +/- 0.1000", "1_N": "*1.0000* +/- *0.3000*", "1_AR": "0.3600 +/- 0.0100",
                "1_PA": "40.0000 +/- 1.0000", "COMP_2": "sky", "2_SKY": "[1.3000]", "MAGZPT": 26.0}  # fmt: skip
GALFIT_TEXT = """#  Input menu file: galfit.feedme
A) gal.fits            # Input data image (FITS file)
H) 1    64   1    64   # Image region to fit (xmin xmax ymin ymax)
J) 26.000              # Magnitude photometric zeropoint
K) 0.200  0.200        # Plate scale (dx dy)    [arcsec per pixel]

# Component number: 1
 0) sersic                 #  Component type
 1) 21.2500  32.5000  1 1  #  Position x, y
 3) 16.9948     1          #  Integrated magnitude
 4) 5.0000      1          #  R_e (effective radius)   [pix]
 5) 1.0000      1          #  Sersic index n (de Vaucouleurs n=4)
 9) 0.3600      1          #  Axis ratio (b/a)
10) 40.0000     1          #  Position angle (PA) [deg: Up=0, Left=90]
 Z) 0                      #  Skip this model in output image?  (yes=1, no=0)

# Component number: 2
 0) sky                    #  Component type
 1) 1.3000      0          #  Sky background at center of fitting region [ADUs]
 Z) 0                      #  Skip this model in output image?  (yes=1, no=0)
"""
IMFIT_TEXT = f"""# Best-fit model results for imfit 1.9.0
#    imfit gal.fits -c config.dat
# Results of fit:
#   Reduced value: 1.02

X0\t\t21.2500 # +/- 0.0500
Y0\t\t32.5000 # +/- 0.0600
FUNCTION Sersic
PA\t\t   40.0 # +/- 1.0
ell\t\t   0.64 # +/- 0.01
n\t\t  1.000 # +/- 0.3
I_e\t\t{INTENSITY!r} # +/- 0.2
r_e\t\t 5.0000 # +/- 0.1

X0\t\t32.0
Y0\t\t32.0
FUNCTION FlatSky
I_sky\t\t1.3
"""


def is_the_galaxy(table):
    assert len(table) == 1
    assert (table["x_fit"][0], table["y_fit"][0]) == pytest.approx((X, Y))
    assert number(table["flux_fit"]) == pytest.approx(FLUX, rel=1e-4)
    assert table["r_eff_fit"][0].to_value(u.arcsec) == pytest.approx(0.6)
    assert table["theta"][0].to_value(u.deg) == pytest.approx(THETA)
    return True


def test_output_block_of_galfit(tmp_path):
    block = fits.HDUList([fits.PrimaryHDU(), *(fits.ImageHDU(np.zeros((8, 8))) for _ in range(3))])
    block[2].header.update(GALFIT_CARDS)
    block.writeto(tmp_path / "imgblock.fits")
    found = read_results(tmp_path / "imgblock.fits", "galfit", pixel_scale=SCALE)
    assert is_the_galaxy(found)
    assert found.meta["MAGZPT"] == 26.0
    assert found["n_err"][0] == 0.3
    assert "y_err" not in found.colnames  # since it was held fixed
    assert found["flags"][0] == Flag.NOT_CONVERGED
    other = read_results(tmp_path / "imgblock.fits", "galfit", pixel_scale=SCALE, zero_point=27.0)
    assert number(other["flux_fit"]) == pytest.approx(FLUX * 10**0.4, rel=1e-4)
    block[2].header["COMP_3"] = "expdisk"
    block.writeto(tmp_path / "several.fits")
    with pytest.raises(CatalogError, match="components must be Sersic profiles, .*; there are sersic, sky, expdisk"):
        read_results(tmp_path / "several.fits", "galfit")


def test_parameter_files_of_galfit_and_imfit(tmp_path):
    (tmp_path / "galfit.01").write_text(GALFIT_TEXT)
    assert is_the_galaxy(read_results(tmp_path / "galfit.01", "galfit", pixel_scale=SCALE))
    (tmp_path / "bestfit_parameters_imfit.dat").write_text(IMFIT_TEXT)
    found = read_results(tmp_path / "bestfit_parameters_imfit.dat", "imfit", pixel_scale=SCALE)
    assert is_the_galaxy(found)
    assert (found["x_err"][0], found["n_err"][0]) == (0.05, 0.3)
    for name, text, preset in (("a.01", GALFIT_TEXT.replace("sersic", "nuker"), "galfit"),
                               ("b.dat", IMFIT_TEXT.replace("Sersic", "Exponential"), "imfit")):  # fmt: skip
        (tmp_path / name).write_text(text)
        with pytest.raises(CatalogError, match=f"{name}: components must be Sersic profiles"):
            read_results(tmp_path / name, preset)
    (tmp_path / "cut.dat").write_text(IMFIT_TEXT[: IMFIT_TEXT.index("I_e")])
    with pytest.raises(CatalogError, match="cut.dat: component 1 has no I_e, r_e"):
        read_results(tmp_path / "cut.dat", "imfit")
    two = GALFIT_TEXT + GALFIT_TEXT[GALFIT_TEXT.index("# Component number: 1") :].replace("21.2500", "41.2500")
    (tmp_path / "two.01").write_text(two)
    assert read_results(tmp_path / "two.01", "galfit")["x_fit"].tolist() == [20.25, 40.25]


@pytest.mark.parametrize(
    ("code", "drop", "how", "message"),
    [
        ("galfit", (), {"zero_point": 26.0}, "pixel_scale must be given: galfit has radii in pix, and r_eff_.* arcsec"),
        ("galfit", (), {"pixel_scale": 0.2}, "zero_point must be given: galfit has magnitudes"),
        ("legacysurvey", ("pa",), {"band": "r", "zero_point": 22.5}, "the table must have pa: legacysurvey has angles"),
        ("legacysurvey", (), {"zero_point": 22.5}, "band must be given: legacysurvey names fluxes FLUX_<band>"),
        ("lsst", (), {"pixel_scale": 0.2, "band": "i"}, "zero_point must be given: lsst has fluxes in nJy"),
        ("astrophot", (), {}, "pixel_scale must be given: astrophot has positions in arcsec"),
        ("sextractor", (), {}, "to must be one of galfit, .*, not 'sextractor'"),
    ],
)
def test_nothing_is_guessed(code, drop, how, message):
    table = truth()
    table.remove_columns(drop)
    with pytest.raises(ValueError, match=message):
        convert_results(table, to=code, **how)


def test_a_band_of_several_is_asked_for():
    table = of_code("legacysurvey")
    table["FLUX_G"], table["FLUX_IVAR_G"] = [100.0], [4.0]
    with pytest.raises(ValueError, match="band must be given, there are fluxes in g, r"):
        convert_results(table, "legacysurvey")
    found = convert_results(table, "legacysurvey", band="g")
    assert (number(found["flux_fit"]), number(found["flux_err"])) == (100.0, 0.5)
    table["FLUX_R"].unit = u.Unit("nanomaggy", parse_strict="silent")  # as the Legacy Surveys write it
    assert convert_results(table, "legacysurvey", band="r")["flux_fit"].unit == u.Unit("nmgy")
    assert convert_results(table, "legacysurvey", band="r")["pa"][0].to_value(u.deg) == pytest.approx(PA)


def test_fluxes_between_units():
    """A flux of 1 nanomaggy is 3.631 uJy, and 22.5 mag."""
    table = truth("legacysurvey")
    lsst = convert_results(table, to="lsst", pixel_scale=SCALE, band="i")
    assert number(lsst["i_sersicFlux"]) == pytest.approx(FLUX * 3631.0)
    counts = convert_results(truth(), to="lsst", pixel_scale=SCALE, band="i", zero_point=22.5)
    assert number(counts["i_sersicFlux"]) == pytest.approx(FLUX * 3631.0)


def test_from_one_code_to_another():
    found = convert_results(of_code("imfit"), "imfit", to="profit", zero_point=ZERO_POINT)
    for name, value in CODES["profit"].items():
        assert number(found[name]) == pytest.approx(value), name
    own = CatalogPreset(columns={"radius": "hlr", "q": "q", "n": "n"}, circularised=True)
    assert number(convert_results(of_code("imfit"), "imfit", to=own)["hlr"]) == pytest.approx(3.0)
    bare = CatalogPreset(columns={"n": "SERSIC"})  # which needs no scale
    assert convert_results(truth(), to=bare).colnames == ["id", "SERSIC"]
    with pytest.raises(ValueError, match="the table must have columns of galmeasure, not a"):
        convert_results(Table({"a": [1]}), to="galfit")


def test_pixels_that_are_not_square():
    """Codes that work on pixels get the ellipse in pixels, not the one on the sky."""
    table = truth()
    table["q"], table["r_eff_major"], table["q_err"] = [0.8], [0.9] * u.arcsec, [0.1]
    found = convert_results(table, to="pysersic", pixel_scale=SCALE)
    assert number(found["r_eff"]) == pytest.approx(MAJOR)
    assert number(found["ellip"]) == pytest.approx(1 - Q)
    assert np.isnan(found["ellip_err"][0])  # that of the sky is another


def test_point_sources_and_impossible_shapes_are_nan():
    table = Table({"SERSIC": [0.0, 1.0], "SHAPE_R": [0.0, 1.0], "SHAPE_E1": [0.0, 1.5], "SHAPE_E2": [0.0, 0.0]})
    found = convert_results(table, "legacysurvey")
    assert np.isnan(found["n_fit"]).tolist() == [True, False]
    assert np.isnan(found["r_eff_fit"].value).tolist() == [True, True]
    bad = Table({"sersic_index": [1.0], "sersic_reff_x": [2.0], "sersic_reff_y": [3.0], "sersic_rho": [1.2]})
    assert np.isnan(convert_results(bad, "lsst")["q"]).all()


def test_errors_of_a_covariance_are_propagated():
    rng = np.random.default_rng(2)
    columns, sigma = {"sersic_reff_x": 5.0, "sersic_reff_y": 3.0, "sersic_rho": 0.4}, 0.01
    drawn = Table({name: value + sigma * rng.normal(size=20000) for name, value in columns.items()})
    one = Table({name: [value] for name, value in columns.items()})
    for name in columns:
        one[f"{name}Err"] = [sigma]
    many, found = convert_results(drawn, "lsst"), convert_results(one, "lsst")
    for name in ("r_eff_major", "q", "theta"):
        assert number(found[f"{name}_err"]) == pytest.approx(np.std(np.asarray(many[name])), rel=0.03), name


def test_centres_of_astrophot_come_back_from_csv(tmp_path):
    write_table(convert_results(truth(), to="astrophot", pixel_scale=SCALE), tmp_path / "there.csv")
    back = read_results(tmp_path / "there.csv", "astrophot", pixel_scale=SCALE)
    assert (back["x_fit"][0], back["y_fit"][0]) == pytest.approx((X, Y))
    assert "x_fit" not in read_results(tmp_path / "there.csv", "astrophot").colnames  # whose pixels are not known


def test_the_command_converts_there_and_back(tmp_path, capsys):
    def call(*args):
        with pytest.raises(SystemExit) as stop:
            main(["convert", *map(str, args)])
        return stop.value.code

    write_table(truth(), tmp_path / "shapes.fits")
    how = ("--pixel-scale", SCALE, "--zero-point", ZERO_POINT)
    assert call(tmp_path / "shapes.fits", "--to", "galfit", "-o", tmp_path / "galfit.csv", *how) == 0
    assert "1 rows in the conventions of galfit" in capsys.readouterr().out
    there = Table.read(tmp_path / "galfit.csv")
    assert {name: there[name][0] for name in CODES["galfit"]} == pytest.approx(CODES["galfit"])
    assert call(tmp_path / "galfit.csv", "--preset", "galfit", "-o", tmp_path / "back.fits", *how) == 0
    assert QTable.read(tmp_path / "back.fits")["g1_fit"][0] == pytest.approx(truth()["g1_fit"][0])
    capsys.readouterr()
    assert call(tmp_path / "shapes.fits", "--to", "galfit", "-o", tmp_path / "no.csv") == 2
    assert capsys.readouterr().err.startswith("galmeasure: error: pixel_scale must be given")
    assert call(tmp_path / "shapes.fits", "--to", "galfit", "-o", tmp_path / "shapes.fits", "--overwrite", *how) == 2
    assert "output must not be the catalogue itself" in capsys.readouterr().err
    assert len(Table.read(tmp_path / "shapes.fits")) == 1
