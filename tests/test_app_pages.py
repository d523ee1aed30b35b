"""Pages of the app, run by Streamlit's own test harness."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

import galmeasure
from galmeasure.app import uploads
from galmeasure.app.drawing import draw_galaxy
from galmeasure.app.sliders import SLIDERS, GalaxySettings

pytest.importorskip("streamlit", reason="streamlit is not installed (extra app)")

from streamlit.testing.v1 import AppTest

SCRIPT = Path(galmeasure.__file__).parent / "app" / "main.py"
PAGES = {"draw": "show_draw_page", "catalog": "show_catalog_page", "sets": "show_sets_page"}


def run_page(name, **state):
    """One page of the app, run once."""
    app = AppTest.from_string(
        f"from galmeasure.app.page_{name} import {PAGES[name]}\n{PAGES[name]}()\n", default_timeout=120
    )
    for key, value in state.items():
        app.session_state[key] = value
    return checked(app.run())


def checked(app):
    """The app, without an exception on the page."""
    assert [each.message for each in app.exception] == []
    return app


def metrics(app):
    """Numbers at the head of the page."""
    return {metric.label: float(metric.value) for metric in app.metric}


def rows(app):
    """Rows of the table of the measurement, by parameter."""
    return app.table[0].value.set_index("Parameter")


def pictures(app):
    """Pictures of the page, in its order."""
    return [element for element in app.main if type(element).__name__ == "Image"]


@pytest.fixture(scope="module")
def draw_page():
    """Page with sliders; tests set all that they need."""
    return run_page("draw")


class TestDraw:
    def test_whole_app_begins_with_it(self):
        app = checked(AppTest.from_file(str(SCRIPT), default_timeout=120).run())
        assert app.title[0].value == "Draw a galaxy and measure it"

    def test_reference_galaxy(self, draw_page):
        numbers = metrics(draw_page)
        drawn = draw_galaxy(GalaxySettings(**{slider.name: slider.default for slider in SLIDERS}))
        assert numbers["S/N"] == pytest.approx(drawn.snr, abs=0.06)
        assert numbers["g1"] == pytest.approx(drawn.truth["g1"], abs=6e-4)
        assert list(rows(draw_page).index) == ["flux [adu]", "n", "r_eff [arcsec]", "g1", "g2"]

    def test_pictures(self, draw_page):
        """Three stamps, model, residual, and the corner picture."""
        captions = [image.proto.imgs[0].caption for image in pictures(draw_page)]
        assert captions == ["Without noise", "With noise", "PSF, four decades", "Model",
                            "Residual, ±5 times the noise", ""]  # fmt: skip

    def test_slider_changes_numbers_and_measurement(self):
        app = run_page("draw")
        before, table = metrics(app), rows(app)
        app.slider(key="sigma study").set_value(400.0)
        checked(app.run())
        assert metrics(app)["S/N"] == pytest.approx(before["S/N"] / 2, abs=0.1)
        assert not rows(app).equals(table)

    def test_new_noise(self):
        app = run_page("draw")
        before, table = metrics(app), rows(app)
        app.button(key="new noise").click()
        checked(app.run())
        assert metrics(app) == before
        assert (rows(app)["Truth"] == table["Truth"]).all()
        assert (rows(app)["Estimate"] != table["Estimate"]).any()
        kept = rows(app)
        assert rows(checked(app.run())).equals(kept)

    def test_wider_ranges_keep_the_galaxy(self):
        app = run_page("draw")
        app.slider(key="n study").set_value(4.5)
        checked(app.run())
        app.toggle(key="wide").set_value(True)
        checked(app.run())
        assert app.slider(key="n wide").value == 4.5
        assert app.slider(key="n wide").max == 8.0
        app.slider(key="n wide").set_value(7.5)
        app.select_slider(key="flux wide").set_value(1e7)
        checked(app.run())
        assert rows(app).loc["flux [adu]", "Truth"] == "10,000,000"
        app.toggle(key="wide").set_value(False)
        checked(app.run())
        values = {row: rows(app).loc[row, "Truth"] for row in ("flux [adu]", "n")}
        assert values["flux [adu]"] in ("100,000", "400,000")
        assert float(values["n"]) <= 6.0

    @pytest.mark.parametrize("label", ["Least squares", "Network xception-set1-v1"])
    def test_other_estimators(self, draw_page, label):
        app = run_page("draw", **{"draw estimator": label})
        assert any(caption.value.startswith(f"{label}: ") for caption in app.caption)
        assert not rows(app).equals(rows(draw_page))

    def test_slow_estimators_wait(self):
        pytest.importorskip("galsim", reason="the baseline needs GalSim")
        app = run_page("draw", **{"draw estimator": "Baseline of the study"})
        assert len(app.table) == 0
        assert "press the button" in app.info[0].value
        app.button(key="measure").click()
        assert (rows(checked(app.run()))["Error"] == "–").all()

    def test_flags_are_explained(self):
        app = run_page("draw")
        app.toggle(key="wide").set_value(True)
        checked(app.run())
        app.slider(key="r_eff wide").set_value(2.5)
        app.select_slider(key="sigma wide").set_value(5000.0)
        checked(app.run())
        assert any(warning.value.startswith(("outside_domain: ", "prior_dominated: ")) for warning in app.warning)


class TestCatalog:
    def test_demo(self):
        app = run_page("catalog", **{"catalogue rows": 14, "catalogue estimator": "Least squares"})
        assert app.success[0].value.startswith("Measured 14 of 14 galaxies")
        assert len(app.dataframe[0].value) == 14
        assert app.slider(key="gallery page").max == 2
        app.slider(key="gallery page").set_value(2)
        checked(app.run())
        assert app.caption[-1].value.endswith("of galaxies 13, 14, two in a row.")

    def test_one_galaxy_in_detail(self):
        app = run_page("catalog", **{"catalogue rows": 3, "catalogue estimator": "Least squares"})
        n_pictures = len(pictures(app))
        app.selectbox(key="one galaxy").set_value("2")
        assert len(pictures(checked(app.run()))) == n_pictures + 1

    def test_limits_are_told(self):
        app = run_page("catalog", **{"catalogue rows": 1, "catalogue estimator": "Least squares"})
        assert "at most 200 MB" in app.markdown[0].value  # Streamlit's own limit: the command sets that of the app
        assert f"first {uploads.MAX_ROWS} galaxies" in app.markdown[0].value
        assert "nothing is kept" in app.markdown[0].value

    def upload(self, data, name="mine.fits"):
        """Page after an upload."""
        app = run_page("catalog", **{"catalogue source": "Upload", "catalogue estimator": "Least squares"})
        assert len(app.success) == 0
        app.file_uploader(key="catalogue file").set_value((name, data, "application/fits"))
        return checked(app.run())

    def test_upload(self):
        app = self.upload(uploads.demo_upload().data)
        assert app.success[0].value.endswith(f"({uploads.DEMO_ROWS} in mine.fits).")

    def test_stamp_with_options(self, tmp_path):
        drawn = draw_galaxy(GalaxySettings(**{slider.name: slider.default for slider in SLIDERS}))
        fits.writeto(tmp_path / "stamp.fits", np.asarray(drawn.cutouts.image(0), dtype=np.float32))
        app = self.upload((tmp_path / "stamp.fits").read_bytes())
        assert "no PSF" in app.error[0].value
        app.checkbox(key="no psf").set_value(True)
        checked(app.run())
        assert "error_estimated" in app.caption[0].value
        app.number_input(key="error").set_value(200.0)
        app.number_input(key="pixel_scale").set_value(0.23)
        checked(app.run())
        assert "error_estimated" not in app.caption[0].value
        assert "r_eff_fit [arcsec]" in app.dataframe[0].value.columns

    @pytest.mark.parametrize("data", [b"GIF89a", b"SIMPLE  = nothing", b"SIMPLE  =" + b"\0" * 2880])
    def test_bad_upload(self, data):
        app = self.upload(data)
        assert len(app.error) == 1
        assert app.error[0].value.startswith("mine.fits")
        assert len(app.dataframe) == 0

    def test_bad_upload_after_a_good_one(self):
        app = self.upload(uploads.demo_upload().data)
        app.file_uploader(key="catalogue file").set_value(("other.fits", b"bad", "application/fits"))
        checked(app.run())
        assert len(app.error) == 1
        assert len(app.success) == 0


class TestSets:
    def test_set_and_order(self):
        app = run_page("sets", **{"set size": 100})
        assert app.caption[0].value == "60 of 100 galaxies, as drawn."
        assert len(pictures(app)) == 2
        app.radio(key="set name").set_value("3")
        app.selectbox(key="set order").set_value("snr")
        checked(app.run())
        assert app.caption[0].value == "60 of 100 galaxies, by snr."
