"""Logic of the app, without Streamlit."""

import io
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from _catalogs import field, psf_image
from astropy.io import fits
from astropy.table import QTable, Table

from galmeasure import list_weights
from galmeasure.app import uploads
from galmeasure.app.corner import _LEFT, _PITCH, _SIDE, _TOP, corner_picture, panel_limits
from galmeasure.app.drawing import PIXEL_SCALE, add_noise, draw_galaxy
from galmeasure.app.estimators import find_estimator, list_estimators, make_estimator
from galmeasure.app.launch import is_loopback, run_app, server_options
from galmeasure.app.measuring import SHOWN, flag_sentences, measure_galaxy, result_rows
from galmeasure.app.pictures import fit_mosaic, psf_picture, residual_picture, stamp_mosaic, stamp_picture
from galmeasure.app.sliders import SLIDERS, GalaxySettings
from galmeasure.app.study_sets import STUDY_SETS, describe_set, draw_study_galaxies
from galmeasure.app.uploads import (
    MAX_ROWS,
    Upload,
    UploadError,
    demo_upload,
    fit_gallery,
    measure_upload,
    plain_table,
    table_file,
)
from galmeasure.cli import main
from galmeasure.evaluation import cramer_rao_bounds
from galmeasure.flags import Flag
from galmeasure.simulation.galsim.config import get_dataset_config

DEFAULTS = {slider.name: slider.default for slider in SLIDERS}
LSQ = "Least squares"


@pytest.fixture(scope="module")
def drawn():
    """The reference galaxy of the study."""
    return draw_galaxy(GalaxySettings(**DEFAULTS))


@pytest.fixture(scope="module")
def measured(drawn):
    """The reference galaxy, measured by the default network."""
    return measure_galaxy(drawn, make_estimator(list_estimators()[0].label))


class TestSliders:
    def test_study_ranges(self):
        ranges = {slider.name: slider.study for slider in SLIDERS}
        assert ranges == {
            "psf_fwhm": (0.5, 1.0), "r_eff": (0.1, 0.6), "n": (0.5, 6.0), "q": (0.2, 1.0), "theta": (0.0, 180.0),
            "sigma": (200.0, 400.0), "flux": (3e4, 4e5),
        }  # fmt: skip

    @pytest.mark.parametrize("slider", SLIDERS, ids=lambda slider: slider.name)
    def test_wide_range_holds_that_of_the_study(self, slider):
        assert slider.wide[0] <= slider.study[0] < slider.study[1] <= slider.wide[1]

    @pytest.mark.parametrize("wide", [False, True])
    @pytest.mark.parametrize("slider", SLIDERS, ids=lambda slider: slider.name)
    def test_nearest_value_can_be_shown(self, slider, wide):
        low, high = slider.limits(wide)
        for value in (0.5 * low, low, 0.3 * low + 0.7 * high, high, 2 * high):
            nearest = slider.nearest(max(value, 1e-9), wide)
            assert low <= nearest <= high
            if wide and slider.logarithmic:
                assert nearest in slider.choices()
            else:
                steps = (nearest - low) / slider.step
                assert steps == pytest.approx(round(steps), abs=1e-6)

    def test_settings_are_checked(self):
        with pytest.raises(ValueError, match=r"^n must lie between 0.3 and 8, not 9"):
            GalaxySettings(**{**DEFAULTS, "n": 9.0})

    def test_shear(self):
        g1, g2 = GalaxySettings(**{**DEFAULTS, "q": 0.5, "theta": 90.0}).shear
        assert (g1, g2) == pytest.approx((-1 / 3, 0.0))


class TestDrawing:
    def test_reference_galaxy(self, drawn):
        assert drawn.snr == pytest.approx(60, abs=1)
        assert drawn.snr_total < drawn.snr
        total = drawn.noiseless.sum()
        assert 0.9 * drawn.truth["flux"] < total < drawn.truth["flux"]

    def test_bounds_are_those_of_the_package(self, drawn):
        bounds = cramer_rao_bounds(drawn.cutouts, Table([drawn.truth]))
        for name, bound in drawn.bounds.items():
            expected = bounds[f"{name}_crb"][0]
            assert bound == pytest.approx(float(getattr(expected, "value", expected)), rel=0.02)

    def test_noise_pattern_stays_while_the_galaxy_changes(self, drawn):
        fainter = draw_galaxy(GalaxySettings(**{**DEFAULTS, "flux": 3e4}))
        noise, other = (each.cutouts.image(0) - each.noiseless for each in (drawn, fainter))
        assert np.corrcoef(noise.ravel(), other.ravel())[0, 1] > 0.95
        renewed = draw_galaxy(drawn.settings, seed=1)
        noise_again = renewed.cutouts.image(0) - renewed.noiseless
        assert abs(np.corrcoef(noise.ravel(), noise_again.ravel())[0, 1]) < 0.1

    def test_noise_has_its_variance(self):
        light = np.full((200, 200), 90_000.0)
        noise = add_noise(light, 400.0, np.random.default_rng(3)) - light
        assert noise.std() == pytest.approx(500.0, rel=0.02)

    def test_same_as_galsim(self, drawn):
        galsim = pytest.importorskip("galsim")
        truth = drawn.truth
        galaxy = galsim.Sersic(truth["n"], half_light_radius=truth["r_eff"]).withFlux(truth["flux"])
        galaxy = galaxy.shear(g1=truth["g1"], g2=truth["g2"])
        psf = galsim.Moffat(beta=2.0, fwhm=drawn.settings.psf_fwhm)
        image = galsim.Convolve(galaxy, psf).drawImage(nx=64, ny=64, scale=PIXEL_SCALE, dtype=float).array
        assert np.sqrt(np.sum((image - drawn.noiseless) ** 2)) / drawn.settings.sigma < 0.1

    @pytest.mark.parametrize("limit", [0, 1])
    def test_corners_of_the_wide_range(self, limit):
        settings = GalaxySettings(**{slider.name: slider.wide[limit] for slider in SLIDERS})
        drawn = draw_galaxy(settings)
        assert np.isfinite(drawn.noiseless).all()
        assert np.isfinite(drawn.cutouts.image(0)).all()


class TestEstimators:
    def test_all_weights_and_methods_are_offered(self):
        labels = [choice.label for choice in list_estimators()]
        assert labels[0].endswith("(default)")
        assert len(set(labels)) == len(labels)
        for weights in list_weights():
            assert any(label.split()[1:2] == [weights.name] for label in labels)
        for word in ("Exact posterior", "Ensemble", "Least squares from"):
            assert any(label.startswith(word) for label in labels)

    def test_unknown_label(self):
        with pytest.raises(ValueError, match=r"^label must be one of .*, not 'nothing'"):
            make_estimator("nothing")

    @pytest.mark.parametrize("choice", list_estimators(), ids=lambda choice: choice.label)
    def test_each_measures_the_reference_galaxy(self, drawn, choice):
        result = measure_galaxy(drawn, make_estimator(choice.label))
        assert not result.has_failed
        for name in SHOWN:
            error = 5 * drawn.bounds[name]
            assert result.estimate[name] == pytest.approx(drawn.truth[name], abs=error)
        assert np.sqrt(np.mean(result.residual**2)) == pytest.approx(1.0, abs=0.1)
        assert ET.fromstring(corner_picture(drawn, result)).tag.endswith("svg")


class TestMeasuring:
    def test_rows(self, drawn, measured):
        rows = {row["Parameter"]: row for row in result_rows(drawn, measured)}
        assert list(rows) == ["flux [adu]", "n", "r_eff [arcsec]", "g1", "g2"]
        assert rows["flux [adu]"]["Truth"] == "100,000"
        assert float(rows["n"]["Estimate"]) == pytest.approx(measured.estimate["n"], abs=0.006)
        deviation = (measured.estimate["n"] - 3.0) / measured.error["n"]
        assert rows["n"]["Pull"] == f"{deviation:+.1f}"

    def test_draws_agree_with_the_table(self, measured):
        for name in SHOWN:
            assert np.mean(measured.draws[name]) == pytest.approx(
                measured.estimate[name], abs=0.5 * measured.error[name]
            )

    def test_failed_measurement(self, drawn):
        class Failing:
            def fit(self, cutouts):
                row = {f"{name}_fit": [np.nan] for name in drawn.truth}
                return QTable({**row, "flags": [int(Flag.FAILED)]})

        result = measure_galaxy(drawn, Failing())
        assert result.has_failed
        assert result.model is None
        assert result.residual is None
        assert {row["Estimate"] for row in result_rows(drawn, result)} == {"–"}
        assert "draws" not in corner_picture(drawn, result)
        assert flag_sentences(result.flags)[0].startswith("failed: no measurement")


class TestCorner:
    def test_limits_hold_draws_truth_and_estimate(self, drawn, measured):
        for name, (low, high) in panel_limits(drawn, measured).items():
            inside = (measured.draws[name] > low) & (measured.draws[name] < high)
            assert inside.mean() > 0.98
            assert low < drawn.truth[name] < high
            assert low < measured.estimate[name] < high

    def test_every_kind_is_drawn(self, drawn, measured):
        root = ET.fromstring(corner_picture(drawn, measured))
        paths = {path.get("class"): path.get("d") for path in root.iter() if path.get("class")}
        assert set(paths) == {"draws", "posterior", "cramer-rao-bound", "truth", "estimate"}
        n_draws = len(measured.draws["n"])
        assert 9.5 * n_draws < paths["draws"].count("h0") <= 10 * n_draws
        assert paths["truth"].count("M") == 5 + 2 * 10
        assert paths["estimate"].count("h0") == 10

    def test_errors_in_place_of_draws(self, drawn):
        result = measure_galaxy(drawn, make_estimator(LSQ))
        assert result.draws is None
        root = ET.fromstring(corner_picture(drawn, result))
        assert {"errors-of-the-estimate"} <= {path.get("class") for path in root.iter()}

    def test_bound_is_where_the_truth_is(self, drawn, measured):
        """The ellipse in the panel of g1 and g2 has its middle at the crossing of the lines of the truth."""
        root = ET.fromstring(corner_picture(drawn, measured))
        paths = {path.get("class"): path.get("d") for path in root.iter() if path.get("class")}
        left, top = _LEFT + 3 * _PITCH, _TOP + 4 * _PITCH

        def points_in_panel(kind):
            points = np.array(re.findall(r"[ML]([\d.]+) ([\d.]+)", paths[kind]), dtype=float)
            inside = (points >= (left, top)) & (points <= (left + _SIDE, top + _SIDE))
            return points[inside.all(axis=1)]

        ellipse, lines = points_in_panel("cramer-rao-bound"), points_in_panel("truth")
        assert len(ellipse) == 73
        crossing = lines[0, 0], lines[2, 1]
        assert ellipse[:-1].mean(axis=0) == pytest.approx(crossing, abs=0.2)


class TestPictures:
    def test_first_row_is_at_the_bottom(self):
        image = np.zeros((4, 4))
        image[0, 0] = 100.0
        colours = stamp_picture(image, 1.0, side=4)
        brightness = colours.astype(int).sum(axis=2)
        assert np.unravel_index(np.argmax(brightness), brightness.shape) == (3, 0)

    def test_pixels_are_not_blurred(self):
        colours = stamp_picture(np.arange(16.0).reshape(4, 4), 1.0, side=16)
        assert colours.shape == (16, 16, 3)
        assert len(np.unique(colours.reshape(-1, 3), axis=0)) == 16

    def test_residuals_are_red_and_blue(self):
        colours = residual_picture(np.array([[-5.0, 0.0, 5.0, np.nan]]), side=4)[0]
        assert colours[0, 2] > colours[0, 0]
        assert np.ptp(colours[1].astype(int)) < 10
        assert colours[2, 0] > colours[2, 2]
        assert np.ptp(colours[3].astype(int)) == 0

    def test_blank_stamp(self):
        assert stamp_picture(np.full((3, 3), np.nan), 1.0, side=3).shape == (3, 3, 3)

    def test_psf_shows_four_decades(self):
        colours = psf_picture(np.array([[1.0, 1e-2, 1e-4, 1e-9, -1.0]]), side=5)[0].astype(int).sum(axis=1)
        assert colours[0] > colours[1] > colours[2]
        assert colours[2] == colours[3] == colours[4]

    def test_mosaics(self, drawn):
        galaxies = draw_study_galaxies("1", 5)
        assert stamp_mosaic(galaxies.cutouts, columns=3, side=64).shape == (2 * 64 + 2, 3 * 64 + 4, 3)
        models = [np.full((64, 64), np.nan)] * 5
        assert fit_mosaic(galaxies.cutouts, models, columns=2, side=64).shape == (3 * 64 + 4, 6 * 64 + 10, 3)


class TestStudySets:
    @pytest.mark.parametrize("name", STUDY_SETS)
    def test_ranges_and_cut(self, name):
        galaxies, config = draw_study_galaxies(name, 60, seed=2), get_dataset_config(name)
        truth = galaxies.truth
        assert len(galaxies) == 60
        for key in ("flux", "n", "r_eff", "psf_fwhm", "sigma", "snr"):
            low, high = getattr(config, key)
            assert low - 1e-9 <= truth[key].min() <= truth[key].max() <= high + 1e-9
        assert np.hypot(truth["g1"], truth["g2"]).max() <= config.g[1]
        assert (truth["snr_total"] < truth["snr"]).all()

    def test_same_distribution_as_galsims(self):
        pytest.importorskip("galsim")
        from galmeasure.simulation.galsim.draw import block_rows

        rows = block_rows(replace(get_dataset_config("3"), share_n=10), 0, 0, 25)
        truth = draw_study_galaxies("3", 200).truth
        for name in ("snr", "snr_total", "flux", "r_eff"):
            theirs, ours = rows[f"true_{name}"], truth[name]
            error = np.hypot(theirs.std() / np.sqrt(len(theirs) / 2), ours.std() / np.sqrt(len(ours)))
            assert abs(theirs.mean() - ours.mean()) < 4 * error

    def test_each_galaxy_has_its_psf_and_noise(self):
        galaxies = draw_study_galaxies("3", 30)
        peaks = np.array([galaxies.cutouts.psf_image(i).max() for i in range(30)])
        assert np.corrcoef(peaks, galaxies.truth["psf_fwhm"])[0, 1] < -0.9
        corners = np.array([galaxies.cutouts.image(i)[:16].std() for i in range(30)])
        assert np.corrcoef(corners, galaxies.truth["sigma"])[0, 1] > 0.9

    def test_wrong_arguments(self):
        with pytest.raises(ValueError, match=r"^name must be one of 1, 2, 3, not '4'"):
            draw_study_galaxies("4", 5)
        with pytest.raises(ValueError, match=r"^count must be at least 1, not 0"):
            draw_study_galaxies("1", 0)

    def test_description(self):
        assert describe_set("1") == "Set 1: PSF FWHM 0.5 arcsec, noise 200 adu"
        assert describe_set("3") == "Set 3: PSF FWHM 0.5 to 1 arcsec, noise 200 to 400 adu"


class TestUploads:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path, monkeypatch):
        """Temporary folders of uploads in a folder of the test, which must be empty in the end."""
        place = tmp_path / "temporary"
        place.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(place))
        yield place
        assert list(place.iterdir()) == []

    def test_demo(self):
        result = measure_upload(demo_upload(), LSQ, 6)
        assert len(result.table) == len(result.cutouts) == 6
        assert result.n_total == uploads.DEMO_ROWS
        assert "gain 1 (GAIN)" in result.notes
        gallery = fit_gallery(result, 4, 12)
        assert gallery.shape == (128, 6 * 128 + 10, 3)

    def test_demo_has_its_truth(self):
        table = Table.read(io.BytesIO(demo_upload().data), format="fits")
        truth = draw_study_galaxies("3", uploads.DEMO_ROWS, seed=1).truth
        assert np.allclose(table["true_flux"], truth["flux"])

    def test_files_of_the_table(self, tmp_path):
        table = measure_upload(demo_upload(), LSQ, 2).table
        for suffix, start in ((".fits", b"SIMPLE"), (".ecsv", b"# %ECSV"), (".csv", b"id,")):
            assert table_file(table, suffix).startswith(start)
        columns = plain_table(table)
        assert "r_eff_fit [arcsec]" in columns
        assert all(values.dtype.isnative for values in columns.values())

    def test_flags_by_name(self):
        table = QTable({"id": [1, 2], "flags": [0, 6]})
        assert plain_table(table)["flags"].tolist() == ["", "not_converged, at_bound"]

    def test_one_stamp_with_a_psf(self, drawn, tmp_path):
        image, psf = drawn.cutouts.image(0), drawn.cutouts.psf_image(0)
        files = []
        for name, pixels in (("stamp.fits", image), ("psf.fits", psf)):
            fits.writeto(tmp_path / name, np.asarray(pixels, dtype=np.float32))
            files.append((tmp_path / name).read_bytes())
        upload = Upload(name="stamp.fits", data=files[0], psf=files[1], error=200.0, gain=1.0, pixel_scale=0.23)
        row = measure_upload(upload, LSQ).table[0]
        assert abs(row["flux_fit"] - 1e5) < 5 * drawn.bounds["flux"]
        assert row["r_eff_fit"].unit == "arcsec"

    def test_image_of_a_field(self, tmp_path):
        field(tmp_path / "field.fits", noise=1.0)
        fits.writeto(tmp_path / "psf.fits", psf_image().astype(np.float32))
        data, psf = ((tmp_path / name).read_bytes() for name in ("field.fits", "psf.fits"))
        result = measure_upload(Upload(name="field.fits", data=data, psf=psf, detect=True), LSQ, 3)
        assert 1 <= len(result.table) <= 3

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", "my file.fits is not an uncompressed FITS file"),
            (b"not a file", "my file.fits is not an uncompressed FITS file"),
            (b"\x1f\x8b\x08\x00", "my file.fits is not an uncompressed FITS file"),
            (b"SIMPLE  =                    T", "my_file.fits: "),
            (b"SIMPLE  =" + b"\xff" * 5000, "my_file.fits: "),
        ],
    )
    def test_bad_files(self, data, message, folder):
        with pytest.raises(UploadError) as raised:
            measure_upload(Upload(name="my file.fits", data=data), LSQ)
        assert str(raised.value).startswith(message)
        assert str(folder) not in str(raised.value)
        assert "\n" not in str(raised.value)

    def test_truncated_catalogue(self):
        demo = demo_upload()
        with pytest.raises(UploadError, match=r"demo_catalog\.fits: .*truncated"):
            measure_upload(replace(demo, data=demo.data[:20_000]), LSQ)

    def test_table_without_cutouts(self, tmp_path):
        path = tmp_path / "list.fits"
        Table({"x": [1.0], "y": [2.0]}).write(path)
        with pytest.raises(UploadError, match="no cutout column"):
            measure_upload(Upload(name="list.fits", data=path.read_bytes()), LSQ)

    def test_bad_psf(self):
        with pytest.raises(UploadError, match=r"^the PSF is not an uncompressed FITS file"):
            measure_upload(replace(demo_upload(), psf=b"GIF89a"), LSQ)

    @pytest.mark.parametrize(("option", "value"), [("pixel_scale", -1.0), ("gain", -2.0), ("error", -3.0)])
    def test_bad_numbers(self, option, value):
        with pytest.raises(UploadError, match=option):
            measure_upload(replace(demo_upload(), **{option: value}), LSQ, 2)

    def test_too_many_pixels(self, monkeypatch):
        monkeypatch.setattr(uploads, "MAX_PIXELS", 5 * 64**2)
        with pytest.raises(UploadError, match=r"stamps of 6 galaxies .* measure fewer"):
            measure_upload(demo_upload(), LSQ, 6)

    def test_names_that_are_paths(self):
        result = measure_upload(replace(demo_upload(), name="../../etc/pass wd[1].fits"), LSQ, 1)
        assert len(result.table) == 1

    def test_faults_become_messages(self, monkeypatch):
        def fail(*args):
            msg = "no such luck"
            raise RuntimeError(msg)

        monkeypatch.setattr(uploads, "_measure_in", fail)
        with pytest.raises(UploadError, match=r"demo_catalog.fits cannot be measured \(RuntimeError: no such luck\)"):
            measure_upload(demo_upload(), LSQ)

    def test_rows_are_limited(self):
        with pytest.raises(ValueError, match=f"^n_rows must be 1 to {MAX_ROWS}, not 501"):
            measure_upload(demo_upload(), LSQ, 501)

    def test_unknown_estimator(self):
        with pytest.raises(ValueError, match="^label must be one of"):
            find_estimator("none")


class TestLaunch:
    def test_server_is_private(self):
        options = server_options()
        assert options["server.address"] == "127.0.0.1"
        assert options["browser.gatherUsageStats"] == "false"
        assert options["server.maxUploadSize"] == "50"
        assert options["client.showErrorDetails"] == "none"

    @pytest.mark.parametrize(
        ("arguments", "name"),
        [
            ({"host": "a b"}, "host"),
            ({"host": ""}, "host"),
            ({"port": 0}, "port"),
            ({"max_upload_mb": 0}, "max_upload"),
        ],
    )
    def test_wrong_options(self, arguments, name):
        with pytest.raises(ValueError, match=f"^{name}"):
            server_options(**arguments)

    def test_loopback(self):
        assert [is_loopback(host) for host in ("localhost", "::1", "127.0.0.5", "10.0.0.1", "example.org")] == [
            True, True, True, False, False,
        ]  # fmt: skip

    def test_streamlit_is_missing(self, monkeypatch):
        monkeypatch.setattr("galmeasure.app.launch.find_spec", lambda name: None)
        with pytest.raises(ImportError, match=r"the app needs streamlit: pip install 'galmeasure\[app\]'"):
            run_app()

    def test_streamlit_is_called_with_the_options(self, monkeypatch):
        calls = []
        cli = pytest.importorskip("streamlit.web.cli", reason="streamlit is not installed")
        monkeypatch.setattr(cli, "main", lambda arguments, **_: calls.append(arguments))
        monkeypatch.setattr("galmeasure.app.launch._warm_up", lambda: None)
        run_app(port=9999, headless=True)
        ((run, script, *options),) = calls
        assert run == "run"
        assert script.endswith("main.py")
        assert {"--server.port=9999", "--server.headless=true", "--server.address=127.0.0.1"} <= set(options)


class TestCommand:
    @pytest.fixture
    def calls(self, monkeypatch):
        """Arguments with which the command starts the app."""
        calls = []
        monkeypatch.setattr(
            "galmeasure.app.launch.run_app", lambda host, port, **options: calls.append((host, port, options))
        )
        return calls

    @pytest.mark.parametrize(
        ("arguments", "expected", "warns"),
        [
            ((), ("127.0.0.1", 8501, {"headless": False, "max_upload_mb": 50}), False),
            (
                ("--host", "0.0.0.0", "--port", "9000", "--headless", "--max-upload", "7"),
                ("0.0.0.0", 9000, {"headless": True, "max_upload_mb": 7}),
                True,
            ),
        ],
    )
    def test_options(self, calls, capsys, arguments, expected, warns):
        with pytest.raises(SystemExit) as stop:
            main(["app", *arguments])
        assert stop.value.code == 0
        assert calls == [expected]
        assert ("warning: everyone who reaches 0.0.0.0:9000" in capsys.readouterr().err) is warns

    def test_missing_streamlit_is_one_line(self, monkeypatch, capsys):
        monkeypatch.setattr("galmeasure.app.launch.find_spec", lambda name: None)
        with pytest.raises(SystemExit) as stop:
            main(["app"])
        assert stop.value.code == 2
        assert "galmeasure: error: the app needs streamlit" in capsys.readouterr().err
