"""The result table: columns, units, derived quantities, flags and meta."""

import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal

from galmeasure import Cutouts, Flag
from galmeasure.flags import FLAGS
from galmeasure.io import write_table
from galmeasure.parameters import g_to_q_theta
from galmeasure.results.derived import MAX_THETA_ERR, ab_zero_point, shape_columns
from galmeasure.results.table import Measurement, build_table
from galmeasure.utils.wcs import local_sky

N = 4
PSF = np.ones((5, 5))
VALUES = np.array([[100.0, 1.5, 2.0, 0.1, -0.3, 7.5, 8.5]] * N) * (1 + 0.1 * np.arange(N))[:, None]
MEASURED = ["x", "y", "flux", "n", "r_eff", "g1", "g2"]
FIRST = ["id", "flux_fit", "flux_err", "n_fit", "n_err", "r_eff_fit", "r_eff_err", "q", "q_err", "theta", "theta_err"]
FIRST += ["snr", "flags"]


def random_covariance(seed=0):
    """(N, 7, 7) positive definite, small."""
    root = np.random.default_rng(seed).normal(size=(N, 7, 7)) * 1e-3
    return root @ root.transpose(0, 2, 1)


def make_cutouts(unit=1, **options):
    """Cutouts of noise."""
    data = np.random.default_rng(0).normal(size=(N, 16, 18))
    return Cutouts(data * unit, PSF, error=1.0 * unit, **options)


def make_measurement(**options):
    """Plain measurement."""
    return Measurement(
        **{
            "values": VALUES.copy(),
            "covariance": random_covariance(),
            "flags": np.array([0, 2, 0, 64]),
            "snr": np.full(N, 30.0),
            "chi2_reduced": np.ones(N),
            "n_pixels_fit": np.full(N, 288),
            "method": "lsq",
            **options,
        }
    )


def make_wcs(rotation=0.0, scale=0.25):
    """Tangential WCS, east to the left when not rotated."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 60.0]
    wcs.wcs.crpix = [9.5, 8.5]
    turn = np.radians(rotation)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    wcs.wcs.cd = matrix @ np.diag([-scale, scale]) / 3600
    return wcs


def test_plain_columns():
    table = build_table(make_cutouts(), make_measurement())
    expected = ["id", *(name for p in MEASURED for name in (f"{p}_fit", f"{p}_err"))]
    expected += ["r_eff_major", "r_eff_major_err", "q", "q_err", "theta", "theta_err"]
    expected += ["snr", "chi2_reduced", "n_pixels_fit", "method", "flags"]
    assert table.colnames == FIRST + [name for name in expected if name not in FIRST]
    assert isinstance(table, QTable)
    assert_array_equal(table["id"], [1, 2, 3, 4])
    assert_allclose(table["flux_fit"], VALUES[:, 0])
    assert_allclose(table["x_fit"], VALUES[:, 5])
    assert_allclose(table["g2_fit"], VALUES[:, 4])
    assert_allclose(table["n_err"], np.sqrt(random_covariance()[:, 1, 1]))
    assert table["r_eff_fit"].unit == u.pix
    assert_array_equal(table["method"], ["lsq"] * N)
    assert table["flags"].dtype == np.int64
    assert all(table[name].info.description for name in table.colnames)


def test_all_columns_in_order():
    measurement = make_measurement(
        init=VALUES,
        quantiles=np.repeat(VALUES[:, None], 3, axis=1),
        crb=VALUES,
        extra={"background_fit": np.ones(N), "n_iter": np.arange(N)},
        method=np.array(["a", "b", "c", "d"]),
    )
    cutouts = make_cutouts(u.nJy, wcs=make_wcs(), ids=list("abcd"))
    table = build_table(cutouts, measurement, covariance=True)
    expected = ["id", *(f"{p}_init" for p in MEASURED), *(f"{p}_{s}" for p in MEASURED for s in ("fit", "err"))]
    expected += [f"{p}_{q}" for q in ("q16", "q50", "q84") for p in MEASURED]
    expected += ["r_eff_major", "r_eff_major_err", "q", "q_err", "theta", "theta_err", "pa", "ra", "dec"]
    expected += ["mag", "mag_err", "snr", "chi2_reduced", "n_pixels_fit", *(f"{p}_crb" for p in MEASURED)]
    expected += ["background_fit", "n_iter", "covariance", "method", "flags"]
    assert table.colnames == FIRST + [name for name in expected if name not in FIRST]
    assert all(name == name.lower() for name in table.colnames)
    for name in ("flux_init", "flux_fit", "flux_err", "flux_q16", "flux_crb", "background_fit"):
        assert table[name].unit == u.nJy, name
    for name in ("r_eff_init", "r_eff_fit", "r_eff_err", "r_eff_q84", "r_eff_crb", "r_eff_major", "r_eff_major_err"):
        assert table[name].unit == u.arcsec, name
    for name in ("theta", "theta_err", "pa", "ra", "dec"):
        assert table[name].unit == u.deg, name
    assert_allclose(table["r_eff_q50"].value, VALUES[:, 2] * 0.25, rtol=1e-6)


@pytest.mark.parametrize("extension", ["fits", "ecsv"])
def test_files(tmp_path, extension):
    cutouts = make_cutouts(u.nJy, wcs=make_wcs(), gain=1.0)
    measurement = make_measurement(init=VALUES, crb=VALUES)
    meta = {"FITTER": "LSQSersicFitter(fixed={'n': 4}, " + "x" * 90 + ")", "NAN": np.nan, "TEXT": "two\nlines \u03b8"}
    table = build_table(cutouts, measurement, covariance=True, meta=meta)
    table.write(tmp_path / f"table.{extension}")
    back = QTable.read(tmp_path / f"table.{extension}")
    assert back.colnames == table.colnames
    assert back.meta["FITTER"] == table.meta["FITTER"]
    assert back["flux_fit"].unit == u.nJy
    assert_allclose(back["covariance"], table["covariance"])


def test_failed_rows_are_nan():
    flags = np.array([0, Flag.FAILED | Flag.MANY_MASKED, 0, 0])
    extra = {"n_iter": np.arange(N)}
    measurement = make_measurement(
        flags=flags, quantiles=np.repeat(VALUES[:, None], 3, axis=1), crb=VALUES, extra=extra
    )
    table = build_table(make_cutouts(zero_point=25.0, wcs=make_wcs()), measurement, covariance=True)
    for name in table.colnames:
        if name not in ("id", "n_pixels_fit", "method", "flags", "n_iter"):
            values = np.asarray(table[name]).reshape(N, -1)
            assert_array_equal(np.isnan(values).all(axis=1), [False, True, False, False], err_msg=name)
            assert np.isfinite(values[[0, 2, 3]]).all(), name
    assert_array_equal(measurement.values, VALUES)


def test_parent_positions():
    positions = np.array([[100.0, 200.0], [50, 60], [0, 0], [8.5, 7.5]])
    table = build_table(make_cutouts(positions=positions), make_measurement(init=VALUES, crb=VALUES))
    assert_allclose(table["x_fit"], VALUES[:, 5] + positions[:, 0] - 8.5)
    assert_allclose(table["y_init"], VALUES[:, 6] + positions[:, 1] - 7.5)
    assert_allclose(table["x_crb"], VALUES[:, 5])
    assert_allclose(table["x_err"], np.sqrt(random_covariance()[:, 5, 5]))


def test_pixel_scale_per_row():
    scale = np.array([0.1, 0.2, 0.3, 0.4])
    table = build_table(make_cutouts(pixel_scale=scale), make_measurement(), covariance=True)
    assert_allclose(table["r_eff_fit"].to_value(u.arcsec), VALUES[:, 2] * scale)
    covariance = random_covariance()
    assert_allclose(table["r_eff_err"].value, np.sqrt(covariance[:, 2, 2]) * scale)
    assert_allclose(table["covariance"][:, 2, 2], covariance[:, 2, 2] * scale**2)
    assert_allclose(table["covariance"][:, 2, 0], covariance[:, 2, 0] * scale)
    assert_allclose(table["covariance"][:, 0, 1], covariance[:, 0, 1])
    assert_allclose(table["r_eff_major"].value, table["r_eff_fit"].value / np.sqrt(table["q"]))


def test_derived_errors_are_those_of_draws():
    covariance = random_covariance(5)
    columns = shape_columns(VALUES, covariance)
    for i in range(N):
        draws = np.random.default_rng(i).multivariate_normal(VALUES[i], covariance[i], size=40000)
        q, theta = g_to_q_theta(draws[:, 3], draws[:, 4])
        assert_allclose(columns["q"][i], q.mean(), rtol=1e-3)
        assert_allclose(columns["q_err"][i], q.std(), rtol=0.03)
        assert_allclose(columns["theta_err"][i], theta.std(), rtol=0.03)
        assert_allclose(columns["r_eff_major_err"][i], (draws[:, 2] / np.sqrt(q)).std(), rtol=0.03)


def test_derived_of_round_and_impossible_galaxies():
    values = np.array([[1, 1, 2, 0, 0, 0, 0], [1, 1, 2, 0.001, 0, 0, 0], [1, 1, 2, 0.9, 0.9, 0, 0], [np.nan] * 7])
    columns = shape_columns(values, np.repeat(np.eye(7)[None] * 0.01, 4, axis=0))
    assert_allclose(columns["theta_err"][:2], MAX_THETA_ERR)
    assert_allclose(columns["q_err"][0], 0.2)
    assert_allclose(columns["r_eff_major"][0], 2)
    assert np.isnan(columns["q"][2:]).all()
    assert np.isnan(columns["r_eff_major_err"][3])


@pytest.mark.parametrize("rotation", [0.0, 30.0, 200.0])
def test_sky(rotation):
    wcs = make_wcs(rotation)
    for options in ({"wcs": wcs, "positions": np.full((N, 2), 20.0)}, {"wcs": [wcs] * N}):
        cutouts = make_cutouts(**options)
        table = build_table(cutouts, make_measurement())
        sky = wcs.pixel_to_world(table["x_fit"], table["y_fit"])
        assert_allclose(table["ra"].value, sky.icrs.ra.deg, atol=1e-10)
        assert_allclose(table["dec"].value, sky.icrs.dec.deg, atol=1e-10)
        step = np.radians(table["theta"].value)
        ahead = wcs.pixel_to_world(table["x_fit"] + 0.1 * np.cos(step), table["y_fit"] + 0.1 * np.sin(step))
        expected = sky.position_angle(ahead).deg % 180
        assert_allclose((table["pa"].value - expected + 90) % 180 - 90, 0, atol=1e-3)


def test_sky_frames_and_the_meridian():
    wcs = make_wcs()
    wcs.wcs.crval = [0.0, 10.0]
    sky = local_sky([wcs, None], np.array([8.5, 8.5]), np.array([7.5, 7.5]))
    assert_allclose(sky.pixel_scale, [0.25, np.nan], rtol=1e-6)
    galactic, fk5 = make_wcs(), make_wcs()
    galactic.wcs.ctype = ["GLON-TAN", "GLAT-TAN"]
    fk5.wcs.radesys, fk5.wcs.equinox = "FK5", 1975.0
    for other in (galactic, fk5, make_wcs()):
        expected = other.pixel_to_world(3.0, 4.0).icrs
        found = local_sky([other], np.array([3.0]), np.array([4.0]))
        assert_allclose([found.ra[0], found.dec[0]], [expected.ra.deg, expected.dec.deg])
        assert_allclose(found.pixel_scale, 0.25, rtol=1e-5)


def test_magnitude_from_zero_point():
    values = VALUES.copy()
    values[2, 0] = -5
    table = build_table(make_cutouts(u.adu, zero_point=[25, 26, 27, 28]), make_measurement(values=values))
    assert_allclose(table["mag"][:2].value, [25 - 2.5 * np.log10(100), 26 - 2.5 * np.log10(110)])
    assert np.isnan(table["mag"][2])
    assert np.isnan(table["mag_err"][2])
    error = np.sqrt(random_covariance()[0, 0, 0]) / 100 * 2.5 / np.log(10)
    assert_allclose(table["mag_err"][0].value, error)
    assert table["mag"].unit == u.mag


@pytest.mark.parametrize(("unit", "mag"), [(u.nJy, 31.4), (u.Jy, 8.9), (u.nmgy, 22.5), (u.ABflux, 0.0), (u.uJy, 23.9)])
def test_magnitude_from_unit(unit, mag):
    assert_allclose(ab_zero_point(unit, None), mag, atol=1e-3)
    assert "mag" in build_table(make_cutouts(unit), make_measurement()).colnames


def test_magnitude_from_surface_brightness():
    table = build_table(make_cutouts(u.MJy / u.sr, pixel_scale=0.03), make_measurement())
    flux = (100 * u.MJy / u.sr * (0.03 * u.arcsec) ** 2).to_value(u.Jy)
    assert_allclose(table["mag"][0].value, -2.5 * np.log10(flux / 3631))
    assert "mag" not in build_table(make_cutouts(u.MJy / u.sr), make_measurement()).colnames
    assert "mag" not in build_table(make_cutouts(u.adu), make_measurement()).colnames


def test_meta():
    meta = build_table(make_cutouts(), make_measurement(), meta={"WEIGHTS": "none", "SEED": 3}).meta
    assert (meta["WEIGHTS"], meta["SEED"]) == ("none", 3)
    for flag in FLAGS:
        assert meta[f"FLAG{flag.bit}"] == f"{flag.name}: {flag.description}"
    assert {"DATE", "GALMEAS", "ASTROPY", "NUMPY", "RDEF", "GDEF"} <= set(meta)
    assert all(len(key) <= 8 and isinstance(value, str | int | float) for key, value in meta.items())


def test_huge_values_do_not_warn():
    table = build_table(make_cutouts(pixel_scale=1e200), make_measurement(values=VALUES * 1e200), covariance=True)
    assert len(table) == N


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"values": VALUES[:2]}, r"measurement.values must have shape \(4, 7\), not \(2, 7\)"),
        ({"covariance": np.zeros((4, 5, 5))}, r"measurement.covariance must have shape \(4, 7, 7\)"),
        ({"flags": np.zeros(3)}, r"measurement.flags must have shape \(4,\)"),
        ({"quantiles": np.zeros((4, 7, 3))}, r"measurement.quantiles must have shape \(4, 3, 7\)"),
        ({"extra": {"n_iter": np.zeros(2)}}, r"measurement.extra\['n_iter'\] must have 4 rows"),
    ],
)
def test_wrong_measurement(options, match):
    with pytest.raises(ValueError, match=match):
        build_table(make_cutouts(), make_measurement(**options))


def test_wrong_meta():
    with pytest.raises(ValueError, match="meta must have keys of at most 8 capitals, not 'fitter'"):
        build_table(make_cutouts(), make_measurement(), meta={"fitter": "x"})
    with pytest.raises(TypeError, match=r"meta\['FITTER'\] must be a str, int or float, not list"):
        build_table(make_cutouts(), make_measurement(), meta={"FITTER": []})


def ellipse(q, pa, jacobian):
    """Ellipticity in pixels of an ellipse of axis ratio q and position angle pa on the sky, from its quadratic form."""
    direction = np.array([np.sin(np.radians(pa)), np.cos(np.radians(pa))])  # east, north
    across = np.array([direction[1], -direction[0]])
    form = np.outer(direction, direction) / q + q * np.outer(across, across)
    inverse = np.linalg.inv(jacobian)
    (xx, xy), (_, yy) = inverse @ form @ inverse.T
    e = (xx - yy + 2j * xy) / (xx + yy)
    return e / (1 + np.sqrt(1 - abs(e) ** 2))


@pytest.mark.parametrize("pa", [0.0, 30.0, 135.0])
@pytest.mark.parametrize("matrix", [[[-0.2, 0], [0, 0.4]], [[-0.2, 0.1], [0.05, 0.3]], [[0.1, 0.3], [0.4, -0.1]]])
def test_pixels_that_are_not_square(pa, matrix):
    """Radii and angles are those on the sky, with errors that are those of draws."""
    matrix = np.array(matrix)
    wcs = make_wcs()
    wcs.wcs.cd = matrix / 3600
    area = np.sqrt(abs(np.linalg.det(matrix)))
    g = ellipse(0.5, pa, matrix)
    row = np.array([100.0, 1.5, 1.2 / area, g.real, g.imag, 8.5, 7.5])
    root = np.random.default_rng(0).normal(size=(7, 7)) * 2e-3
    covariance = np.repeat((root @ root.T)[None], N, axis=0)
    measurement = make_measurement(values=np.tile(row, (N, 1)), covariance=covariance)
    table = build_table(make_cutouts(wcs=wcs), measurement)
    assert_allclose(table["q"], 0.5, rtol=1e-4)
    assert_allclose(table["r_eff_fit"].value, 1.2, rtol=1e-4)
    assert_allclose(table["r_eff_major"].value, 1.697, rtol=1e-3)
    assert_allclose((table["pa"].value - pa + 90) % 180 - 90, 0, atol=0.02)
    draws = np.random.default_rng(1).multivariate_normal(row, covariance[0], size=20_000)
    drawn = Measurement(
        draws, np.repeat(covariance[:1], len(draws), axis=0), *(np.zeros(len(draws), dtype=int) for _ in range(4))
    )
    drawn = build_table(Cutouts(np.zeros((len(draws), 16, 18)), PSF, error=1.0, wcs=wcs), drawn)
    assert_allclose(table["q_err"][0], np.std(drawn["q"]), rtol=0.05)
    assert_allclose(table["r_eff_major_err"][0].value, np.std(drawn["r_eff_major"].value), rtol=0.05)


def printed(table, name):
    """Numbers of a column as the table prints them."""
    return [line.strip() for line in table[[name]].pformat(show_unit=False)[2:]]


class TestFormats:
    """Numbers are printed with the digits that their errors justify, and stored with all of them."""

    @pytest.fixture
    def table(self):
        covariance = np.zeros((N, 7, 7))
        covariance[:, range(7), range(7)] = np.array([30.0, 0.02, 0.013, 0.01, 0.01, 0.3, 0.0047]) ** 2
        covariance[1, 0, 0] = 2.3**2
        extra = {"ood_score": np.full(N, 1 / 3), "n_iter": np.arange(N)}
        quantiles = np.repeat(VALUES[:, None], 3, axis=1)
        found = make_measurement(covariance=covariance, extra=extra, quantiles=quantiles, init=VALUES)
        return build_table(make_cutouts(u.nJy, wcs=make_wcs(), zero_point=25.0), found)

    def test_formats(self, table):
        text = {name: printed(table, name) for name in table.colnames}
        assert text["flux_fit"][:2] == text["flux_q50"][:2] == text["flux_init"][:2] == ["100.0", "110.0"]
        assert text["flux_err"][:3:2] == ["30.0", "30.0"]
        assert text["n_fit"][0] == "1.500"
        assert text["n_err"][0] == "0.020"
        assert text["r_eff_fit"][0] == "0.5000"
        assert text["y_fit"][2] == f"{8.5 * 1.2:.4f}"
        assert text["snr"][0] == "30.0"
        assert text["ood_score"][0] == "0.33"
        assert table["pa"].info.format == table["theta"].info.format
        assert all(table[c].info.format for c in table.colnames if table[c].dtype.kind == "f")
        assert all(table[c].info.description for c in table.colnames)

    @pytest.mark.parametrize(
        ("scale", "expected"),
        [(1e-9, "1.0000e-07"), (1e-3, "0.10000"), (1e6, "100000000")],
        ids=["tiny", "small", "large"],
    )
    def test_scales(self, scale, expected):
        values, covariance = VALUES.copy(), np.zeros((N, 7, 7))
        values[:, 0], covariance[:, 0, 0] = 100 * scale, (0.5 * scale) ** 2
        table = build_table(make_cutouts(), make_measurement(values=values, covariance=covariance))
        assert printed(table, "flux_fit")[0] == expected

    def test_columns_without_errors(self):
        """Nothing is measured, or the errors are zero: there is no format, and no error."""
        for covariance in (np.zeros((N, 7, 7)), np.full((N, 7, 7), np.nan)):
            table = build_table(make_cutouts(), make_measurement(covariance=covariance))
            assert table["flux_fit"].info.format is None
            assert str(table)

    def test_slices_and_files_keep_them(self, table, tmp_path):
        expected = printed(table, "flux_err")
        for part in (table[:], table[np.arange(N)], table["id", "flux_err"], table.copy()):
            assert printed(part, "flux_err") == expected
        for ending in ("fits", "ecsv", "parquet", "votable", "csv"):
            if ending != "csv":
                table.write(tmp_path / f"a.{ending}", format=None if ending in ("fits", "ecsv") else ending)
            write_table(table, tmp_path / f"b.{ending}")
            for name in "ab":
                if (tmp_path / f"{name}.{ending}").exists():
                    back = QTable.read(tmp_path / f"{name}.{ending}", format="ascii.csv" if ending == "csv" else None)
                    for column in ("flux_fit", "flux_err", "ra", "theta", "n_fit"):
                        found, stored = (getattr(t[column], "value", t[column]) for t in (back, table))
                        assert_array_equal(np.ma.filled(found, np.nan), stored)
                    if ending in ("fits", "ecsv"):
                        assert printed(back, "flux_err") == expected
