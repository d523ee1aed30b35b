"""Galleries: which galaxies they show, what stands in the file, and what a browser makes of it."""

import base64
import io
import json
import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from astropy import units as u
from astropy.table import MaskedColumn, QTable

from galmeasure import Cutouts, read_cutouts
from galmeasure.cli import main
from galmeasure.fitters.registry import get_fitter
from galmeasure.plotting import GalleryPage
from galmeasure.workflows import gallery as workflow
from galmeasure.workflows import measure
from galmeasure.workflows.gallery import Gallery
from galmeasure.workflows.measure import MeasureSettings, measure_catalog

pytest.importorskip("matplotlib")

EVIL = "</script><img src=x onerror=alert(1)>&\u2028"
COUNT = 4


@pytest.fixture(scope="module")
def cutouts():
    y, x = np.mgrid[-6:7, -6:7]
    images = np.random.default_rng(3).normal(size=(COUNT, 20, 24))
    return Cutouts(images * u.adu, np.exp(-(x**2 + y**2) / 4), error=1.0 * u.adu, ids=[EVIL, "2", "10", "1"])


@pytest.fixture
def table():
    values = {"flux": 100.0 * u.adu, "n": 1.0, "r_eff": 3.0 * u.pix, "g1": 0.0, "g2": 0.0, "x": 12.0, "y": 10.0}
    table = QTable({"id": [EVIL, "2", "10", "1"]})
    for name, value in values.items():
        table[f"{name}_fit"] = u.Quantity([value] * (COUNT - 1) + [np.nan * value])
    table["n_fit"].info.description = "Sersic index"
    table["snr"], table["flags"] = [20.0, 30.0, 123456.789012, np.nan], [0, 4, 6, 1]
    table["covariance"] = np.zeros((COUNT, 7, 7))
    table["source"] = MaskedColumn([2**60, 5, 6, 7], mask=[False, True, False, False])
    return table


def data_of(html):
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1]
    return json.loads(text)


def page_of(table, cutouts):
    page = GalleryPage("Title <b>", "A note & more")
    page.add(table[:3], cutouts[:3])
    page.add(table, cutouts, [3])
    return page


def test_page_holds_rows_units_and_flags(table, cutouts):
    page = page_of(table, cutouts)
    data = data_of(page.html())
    assert len(page) == COUNT == len(data["rows"]) == len(data["images"])
    columns = {column["name"]: i for i, column in enumerate(data["columns"])}
    assert list(columns)[:3] == ["id", "flags", "snr"]
    assert "covariance" not in columns
    assert [row[columns["id"]] for row in data["rows"]] == [EVIL, "2", "10", "1"]
    assert [row[columns["snr"]] for row in data["rows"]] == [20.0, 30.0, 123456.8, None]
    assert [row[columns["source"]] for row in data["rows"]] == [float(2**60), None, 6, 7]
    headings = [data["columns"][columns[name]] for name in ("flux_fit", "n_fit", "source")]
    assert [(h["unit"], h["description"], h["first"]) for h in headings] == [
        ("adu", "", True), ("", "Sersic index", True), ("", "", False)
    ]  # fmt: skip
    assert [(flag["name"], flag["count"]) for flag in data["flags"]] == [
        ("failed", 1),
        ("not_converged", 1),
        ("at_bound", 2),
    ]


def test_texts_never_become_markup_and_nothing_is_loaded(table, cutouts):
    html = page_of(table, cutouts).html()
    assert "onerror=alert(1)>" not in html
    assert html.count("</script>") == 2
    assert "<title>Title &lt;b&gt;</title>" in html
    assert "A note &amp; more" in html
    assert "default-src 'none'" in html
    assert not re.search(r"(src|href)=[\"']?(http|//)|url\(|@import", html)


def test_thumbnails_are_images_with_the_first_row_at_the_bottom(table, cutouts):
    from PIL import Image

    bright = np.zeros((20, 24))
    bright[2, 5] = 1000.0
    page = GalleryPage("one")
    page.add(table[3:], Cutouts(bright * u.adu, cutouts.psf_image(0), error=1.0 * u.adu))
    url = data_of(page.html())["images"][0]
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")).astype(int)
    assert image.shape == (20, 3 * 24 + 4, 3)
    assert np.unravel_index(image[:, :24, 1].argmax(), (20, 24)) == (17, 5)


def test_large_catalogues_are_thinned_evenly(tmp_path, table, cutouts, monkeypatch):
    monkeypatch.setattr(workflow, "MOST_GALAXIES", 2)
    gallery = Gallery(tmp_path / "out.html", np.array([5, 6, 7, 8]), "many")
    gallery.add(np.array([5, 6]), cutouts[:2], table[:2])
    gallery.add(np.array([7, 8]), cutouts[2:], table[2:])
    assert gallery.finish() is None
    html = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert "2 of 4 galaxies, at even distances" in html
    assert [row[0] for row in data_of(html)["rows"]] == [EVIL, "1"]


def test_galaxies_that_were_not_measured_now_are_told(tmp_path, table, cutouts):
    gallery = Gallery(tmp_path / "out.html", np.arange(COUNT), "rest")
    gallery.add(np.array([2, 3]), cutouts[2:], table[2:])
    assert gallery.finish() is None
    assert "2 of 4 galaxies, those that this run has measured." in (tmp_path / "out.html").read_text(encoding="utf-8")


def test_no_gallery_does_nothing(table, cutouts):
    gallery = Gallery(None, np.arange(COUNT), "none")
    gallery.add(np.arange(COUNT), cutouts, table)
    assert gallery.finish() is None


@pytest.fixture
def catalog(tmp_path, monkeypatch):
    shutil.copy("examples/demo_catalog.fits", tmp_path / "cat.fits")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([*arguments])
    return stop.value.code


def test_command_writes_a_gallery(catalog, capsys):
    arguments = ("cat.fits", "--rows", "0:3", "--gallery", "out.html", "--method", "lsq")
    assert call(*arguments) == 0
    data = data_of((catalog / "out.html").read_text(encoding="utf-8"))
    assert [row[0] for row in data["rows"]] == [str(i) for i in read_cutouts("cat.fits").ids[:3]]
    (catalog / "cat_galmeasure.fits").unlink()
    assert call(*arguments) == 2
    assert "out.html exists already; give another name, or --overwrite" in capsys.readouterr().err
    assert call(*arguments, "--overwrite") == 0
    assert call("cat.fits", "--gallery", "cat.fits", "--overwrite") == 2
    assert "must not be the catalogue itself" in capsys.readouterr().err
    assert call("cat.fits", "cat.fits", "--gallery", "x.html") == 2
    assert "gallery is for one catalogue, and 2 were given" in capsys.readouterr().err


def test_gallery_of_a_run_that_was_stopped(catalog, monkeypatch):
    """What the journal has is shown as well, with images that are read again."""
    settings = MeasureSettings(fitter=get_fitter("lsq").spec(), rows="2:12", batch_size=3, threads=1)
    measure_catalog("cat.fits", replace(settings, output="a.fits", gallery="a.html"))
    calls, add = [], measure._Pictures.add

    def stop(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        add(*arguments)

    settings = replace(settings, output="b.fits", gallery="b.html")
    monkeypatch.setattr(measure._Pictures, "add", stop)
    with pytest.raises(KeyboardInterrupt):
        measure_catalog("cat.fits", settings)
    monkeypatch.setattr(measure._Pictures, "add", add)
    summary = measure_catalog("cat.fits", replace(settings, resume=True))
    assert summary.n_before == 6
    expected, found = (data_of((catalog / name).read_text(encoding="utf-8")) for name in ("a.html", "b.html"))
    assert len(found["rows"]) == 10
    assert found == expected
    assert "10 galaxies." in (catalog / "b.html").read_text(encoding="utf-8")


def test_full_disk_costs_the_gallery_alone(catalog, capsys, monkeypatch):
    def full(path, content):
        raise OSError(28, os.strerror(28), path)

    monkeypatch.setattr(workflow, "write_whole", full)
    assert call("cat.fits", "--rows", "0:2", "--gallery", "out.html", "--method", "lsq") == 0
    error = capsys.readouterr().err
    assert error.splitlines() == ["galmeasure: warning: gallery: out.html was not written (No space left on device)"]
    assert len(QTable.read("cat_galmeasure.fits")) == 2


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    programs = [path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path]
    with playwright.sync_playwright() as tools:
        try:
            program = tools.chromium.launch(executable_path=programs[0] if programs else None, args=["--no-sandbox"])
        except playwright.Error as err:
            pytest.skip(f"no browser: {str(err).splitlines()[0]}")
        yield program
        program.close()


def test_browser_sorts_filters_and_shows_texts_as_they_are(browser, table, cutouts, tmp_path):
    path = tmp_path / "out.html"
    path.write_text(page_of(table, cutouts).html(), encoding="utf-8")
    page, problems, requests = browser.new_page(), [], []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text))
    page.on("dialog", lambda dialog: problems.append(dialog.message))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())

    def ids():
        return [cell.text_content() for cell in page.query_selector_all("tbody td.id")]

    assert ids() == [EVIL, "2", "10", "1"]
    page.click("thead button:text-is('id')")
    assert ids()[1:] == ["1", "2", "10"] or ids()[:3] == ["1", "2", "10"]
    page.click("thead button:text-is('snr')")
    assert ids() == [EVIL, "2", "10", "1"]
    page.click("thead button:text('snr')")
    assert ids() == ["10", "2", EVIL, "1"]
    page.fill("input[aria-label='filter snr']", ">=30")
    assert ids() == ["10", "2"]
    page.fill("input[aria-label='filter snr']", "nan")
    assert ids() == ["1"]
    page.fill("input[aria-label='filter snr']", "nonsense")
    assert page.get_attribute("input[aria-label='filter snr']", "class") == "wrong"
    assert page.inner_text("#count") == "4 of 4 galaxies, page 1 of 1"
    page.click("#clear")
    page.click(".chip:has-text('at_bound')")
    assert sorted(ids()) == ["10", "2"]
    page.click(".chip:has-text('at_bound')")
    assert sorted(ids()) == sorted([EVIL, "1"])
    page.click("#columns")
    assert page.is_visible("thead button:text-is('source')")
    page.click("tbody img >> nth=0")
    assert page.is_visible("dialog img")
    assert not problems
    assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
    page.close()
