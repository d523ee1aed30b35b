"""The app in a real headless browser; with GALMEASURE_FIGURES it also makes the pictures of the documentation."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from astropy.table import QTable

from galmeasure.app.uploads import demo_upload

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("streamlit", reason="streamlit is not installed (extra app)")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WAIT = 120_000  # milliseconds: other work may keep the processor busy
START = 180  # seconds


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Address of the app, served by the command."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("app") / "log.txt"
    command = [sys.executable, "-m", "galmeasure", "app", "--headless", "--port", str(port), "--max-upload", "20"]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_until_healthy(process, port, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
    assert "Traceback" not in log.read_text()


def wait_until_healthy(process, port, log):
    """Wait until the server answers."""
    end = time.monotonic() + START
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"the server does not answer: {log.read_text()}")


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium: that of the system, or the one that playwright has installed."""
    system = next(filter(None, map(shutil.which, BROWSERS)), None)
    with playwright.sync_playwright() as driver:
        try:
            browser = driver.chromium.launch(executable_path=system, args=["--no-sandbox"])
        except playwright.Error as err:
            pytest.skip(f"no Chromium: {err.message.splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server):
    """New tab of a wide window; the page must not complain."""
    page = browser.new_page(viewport={"width": 1400, "height": 1150}, accept_downloads=True)
    errors = []
    page.on("pageerror", lambda error: errors.append(error))
    yield page
    page.close()
    assert errors == []


def visit(page, address):
    """Open a page of the app and wait until it stands."""
    page.goto(address)
    settle(page)


def settle(page):
    """Wait until the script has run."""
    page.get_by_test_id("stApp").wait_for(timeout=WAIT)
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]", timeout=WAIT)
    page.wait_for_timeout(300)
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]", timeout=WAIT)
    assert page.get_by_test_id("stException").count() == 0


def metric(page, label):
    """Number at the head of the page."""
    box = page.get_by_test_id("stMetric").filter(has_text=re.compile(f"^{re.escape(label)}"))
    return float(box.first.get_by_test_id("stMetricValue").inner_text().replace("−", "-"))


def estimates(page):
    """Column of the estimates in the table of the measurement."""
    cells = page.get_by_test_id("stTable").locator("tbody tr").all()
    return [row.locator("td").nth(-4).inner_text() for row in cells]


def take_picture(page, name, height=1150):
    """Picture for the documentation, where they are asked for."""
    folder = os.environ.get("GALMEASURE_FIGURES")
    if folder:
        from PIL import Image

        page.set_viewport_size({"width": 1400, "height": height})
        page.mouse.move(700, 5)
        page.wait_for_timeout(1500)
        path = Path(folder, f"app_{name}.png")
        page.screenshot(path=path)
        picture = Image.open(path).convert("RGB")
        picture = picture.resize((1000, round(picture.height * 1000 / 1400)), Image.Resampling.LANCZOS)
        picture = picture.quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=4, dither=Image.Dither.NONE)
        picture.save(path, optimize=True)  # a third of the size


def drag(page, label, distance):
    """Drag the handle of a slider by a number of pixels."""
    slider = page.get_by_test_id("stSlider").filter(has_text=label)
    slider.scroll_into_view_if_needed()
    box = slider.get_by_role("slider").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + distance, y, steps=8)
    page.mouse.up()


def test_drag_a_slider(page, server):
    visit(page, server)
    before, measured = metric(page, "S/N"), estimates(page)
    assert before == pytest.approx(60, abs=1)
    assert page.get_by_test_id("stImage").locator("img").count() == 6
    take_picture(page, "draw")
    drag(page, "Noise of a pixel", 60)
    page.wait_for_function(
        "before => !document.querySelector('[data-testid=stMetricValue]').innerText.startsWith(before)",
        arg=f"{before:.1f}", timeout=WAIT,
    )  # fmt: skip
    settle(page)
    assert 0.45 * before < metric(page, "S/N") < 0.95 * before
    assert estimates(page) != measured


def test_new_noise_and_other_estimator(page, server):
    visit(page, server)
    measured = estimates(page)
    page.get_by_role("button", name="New noise").click()
    settle(page)
    renewed = estimates(page)
    assert renewed != measured
    page.get_by_test_id("stSelectbox").first.get_by_role("combobox").click()
    page.get_by_role("option", name="Least squares", exact=True).click()
    page.get_by_text(re.compile("Least squares: [0-9]+ ms")).wait_for(timeout=WAIT)
    settle(page)
    assert estimates(page) != renewed


def test_upload_and_download(page, server, tmp_path):
    (tmp_path / "mine.fits").write_bytes(demo_upload().data)
    visit(page, f"{server}/catalogue")
    assert "at most 20 MB" in page.get_by_test_id("stMain").inner_text()
    page.get_by_text("Measured 40 of 40 galaxies").wait_for(timeout=WAIT)
    take_picture(page, "catalogue", 1500)
    page.get_by_test_id("stRadio").get_by_text("Upload").click()
    page.locator("input[type=file]").first.wait_for(state="attached", timeout=WAIT)
    page.locator("input[type=file]").first.set_input_files(tmp_path / "mine.fits")
    page.get_by_text("(40 in mine.fits)").wait_for(timeout=WAIT)
    settle(page)
    with page.expect_download(timeout=WAIT) as waiting:
        page.get_by_role("button", name="Download FITS").click()
    assert waiting.value.suggested_filename == "mine_galmeasure.fits"
    waiting.value.save_as(tmp_path / "result.fits")
    table = QTable.read(tmp_path / "result.fits")
    assert len(table) == 40
    assert table["r_eff_fit"].unit == "arcsec"


def test_bad_upload(page, server, tmp_path):
    (tmp_path / "bad.fits").write_bytes(b"SIMPLE  = not at all" * 10)
    visit(page, f"{server}/catalogue")
    page.get_by_test_id("stRadio").get_by_text("Upload").click()
    page.locator("input[type=file]").first.wait_for(state="attached", timeout=WAIT)
    page.locator("input[type=file]").first.set_input_files(tmp_path / "bad.fits")
    alert = page.get_by_test_id("stAlert").first
    alert.wait_for(timeout=WAIT)
    settle(page)
    assert alert.inner_text().startswith("bad.fits")
    assert "Traceback" not in page.get_by_test_id("stMain").inner_text()


def test_data_sets(page, server):
    visit(page, f"{server}/sets")
    page.get_by_text("60 of 200 galaxies").wait_for(timeout=WAIT)
    settle(page)
    assert page.get_by_test_id("stImage").locator("img").count() == 2
    take_picture(page, "sets", 1500)


def test_phone(browser, server):
    """The page is as wide as the window of a phone, not wider."""
    page = browser.new_page(viewport={"width": 390, "height": 800})
    visit(page, server)
    width = page.evaluate("document.documentElement.scrollWidth")
    page.close()
    assert width <= 390
