"""Screenshot of a gallery for the documentation: run it where Chromium and the package playwright are installed."""

import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from galmeasure import NeuralSersicFitter, read_cutouts
from galmeasure.plotting import GalleryPage

PICTURE = Path(__file__).with_suffix(".png")
CATALOG = Path(__file__).parents[2] / "examples" / "demo_catalog.fits"


def write_gallery(path):
    """Measure the galaxies of the demonstration and write their gallery."""
    cutouts = read_cutouts(CATALOG)
    page = GalleryPage("Galaxies of demo_catalog.fits", f"{len(cutouts)} galaxies.")
    page.add(NeuralSersicFitter().fit(cutouts), cutouts)
    path.write_text(page.html(), encoding="utf-8")


def photograph(path):
    """Sort the gallery by the signal-to-noise ratio, choose a flag, and keep what a browser shows."""
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1240, "height": 620})
        page.goto(path.as_uri())
        page.click("thead button:text-is('snr')")
        page.click("thead button:text('snr')")
        page.click(".chip:has-text('out_of_distribution')")
        page.screenshot(path=PICTURE)
        browser.close()
    Image.open(PICTURE).convert("RGB").quantize(128).save(PICTURE, optimize=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        write_gallery(Path(folder) / "gallery.html")
        photograph(Path(folder) / "gallery.html")
