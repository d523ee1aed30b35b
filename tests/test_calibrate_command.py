"""Injection into blank sky, and the command that calibrates with it."""

import json
import re

import numpy as np
import pytest
from _catalogs import gaussian, psfex, tan_wcs
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable
from scipy import ndimage

from galmeasure import Cutouts, LSQSersicFitter, NeuralSersicFitter
from galmeasure.calibration import QuantileCalibration
from galmeasure.cli import commands, main
from galmeasure.evaluation import (
    GalaxiesLike,
    add_galaxies,
    calibrate,
    compare,
    galaxies_of_prior,
    inject_galaxies,
)
from galmeasure.exceptions import CatalogError
from galmeasure.io import SkySource

SIDE = 400
SOURCES = np.array([[60.0, 80.0], [200.0, 210.0], [330.0, 120.0], [110.0, 300.0]])
SIGMA = 10.0


def sky_image(path, *, scale=1.0, correlated=False, sources=True, header=None, seed=2):
    """Write an image of noise with a few sources; gives the segmentation."""
    noise = np.random.default_rng(seed).normal(0, SIGMA, (SIDE, SIDE))
    if correlated:
        noise = ndimage.gaussian_filter(noise, 0.6, mode="wrap")
        noise *= SIGMA / noise.std()
    rows, columns = np.mgrid[:SIDE, :SIDE]
    light = np.zeros((SIDE, SIDE))
    for x, y in SOURCES if sources else ():
        light += 2000 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 2.5**2))
    cards = {**tan_wcs((SIDE, SIDE)).to_header(), "BUNIT": "adu", **(header or {})}
    fits.PrimaryHDU((scale * noise + light).astype("f4"), fits.Header(cards)).writeto(path)
    return ndimage.label(light > 1.0)[0]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    segmentation = sky_image("i.fits", header={"GAIN": 4.0})
    fits.PrimaryHDU(segmentation.astype("i4")).writeto("seg.fits")
    fits.PrimaryHDU(gaussian(33, 1.5)).writeto("psf.fits")
    return tmp_path


def source(**options):
    return SkySource("i.fits", **{"psf": "psf.fits", "error": SIGMA, "segmentation": "seg.fits", **options})


def call(*arguments):
    """Exit code of the command."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def test_positions_are_blank(folder):
    mask = np.zeros((SIDE, SIDE), dtype="i2")
    mask[:, 150:160] = 1
    fits.PrimaryHDU(mask).writeto("m.fits")
    sky = source(mask="m.fits")
    positions, fraction = sky.blank_positions(3000, 8.0, np.random.default_rng(1))
    segments = fits.getdata("seg.fits") > 0
    away, bad = (ndimage.distance_transform_edt(~each) for each in (segments, mask > 0))
    x, y = np.round(positions).astype(int).T
    assert (away[y, x] > 8.0).all()
    assert (bad[y, x] > 2.0).all()
    assert positions.min() > 31
    assert positions.max() < SIDE - 31
    room = np.s_[32 : SIDE - 32, 32 : SIDE - 32]
    assert fraction == pytest.approx(np.mean((away > 8.0)[room] & (bad > 2.0)[room]), abs=0.02)
    assert np.std(positions % 1.0) == pytest.approx(12**-0.5, abs=0.02)


def test_blank_without_segmentation(folder):
    """Sources are detected to keep away from them, and the image stays as it is."""
    sky = source(segmentation=None)
    positions, _ = sky.blank_positions(2000, 5.0, np.random.default_rng(1))
    assert np.hypot(*(positions[:, None] - SOURCES).T).min() > 8.0
    cutouts = sky.at([[64.0, 94.0]]).read([0])
    assert not cutouts.mask(0).any()
    assert np.array_equal(cutouts.image(0), fits.getdata("i.fits")[62:126, 32:96])
    detected = source(segmentation=None, detect=True).at([[64.0, 94.0]]).read([0])
    assert detected.mask(0).any()  # as galmeasure measure --detect masks neighbours


@pytest.mark.parametrize("oversampling", [1, 3])
def test_injected_light_is_galsims(folder, oversampling):
    galsim = pytest.importorskip("galsim")
    psf = galsim.Convolve(galsim.Moffat(beta=3.0, fwhm=3.5), galsim.Pixel(1.0))
    side = 45 * oversampling
    image = psf.drawImage(nx=side, ny=side, scale=1.0 / oversampling, method="no_pixel").array
    cutouts = Cutouts(np.zeros((3, 48, 48)), image, error=1.0, psf_oversampling=oversampling)
    new, truth = add_galaxies(cutouts, galaxies_of_prior(psf_fwhm=3.5, size=48), np.random.default_rng(1))
    for i, row in enumerate(truth):
        galaxy = galsim.Sersic(row["true_n"], half_light_radius=row["true_r_eff"].value, flux=row["true_flux"])
        galaxy = galsim.Convolve(galaxy.shear(g1=row["true_g1"], g2=row["true_g2"]), psf)
        offset = galsim.PositionD(row["true_x"] - 23.5, row["true_y"] - 23.5)
        drawn = galaxy.drawImage(nx=48, ny=48, scale=1.0, method="no_pixel", offset=offset).array
        away = np.sqrt(((drawn - new.image(i)) ** 2).sum()) / np.sqrt((drawn**2).sum())
        assert away < 3e-3
        assert row["true_snr"] == pytest.approx(np.sqrt((drawn**2).sum()), rel=5e-3)
        assert not cutouts.image(i).any()


def test_each_galaxy_has_its_own_sky(folder):
    sky = source(gain=0)
    cutouts, truth = inject_galaxies(sky, 60, seed=3, first=101)
    again, _ = inject_galaxies(sky, 60, seed=3, first=101)
    other, _ = inject_galaxies(sky, 60, seed=4)
    assert truth["id"].tolist() == list(range(101, 161))
    assert cutouts.ids.tolist() == truth["id"].tolist()
    image = fits.getdata("i.fits")
    model = LSQSersicFitter().make_model_images(plain(truth), cutouts)
    for i in range(60):
        x, y = cutouts.origin[i].astype(int)
        assert np.allclose(cutouts.image(i) - model[i].value, image[y : y + 64, x : x + 64], atol=0.02)
        assert np.array_equal(cutouts.image(i), again.image(i))
    assert not np.array_equal(cutouts.image(0), other.image(0))
    assert (np.abs(truth["true_x"] - cutouts.origin[:, 0] - 31.5) <= 0.5 + 1e-9).all()
    assert truth["true_r_eff"].unit == u.arcsec
    assert truth["true_flux"].unit == u.adu
    assert 10 * 0.99 < truth["true_snr"].min() < truth["true_snr"].max() < 300 * 1.01


def plain(truth):
    """Truths as a result table."""
    return QTable({name.replace("true_", "") + "_fit": truth[name] for name in truth.colnames if name != "id"})


def test_shot_noise(folder):
    """With a gain, the variance in the galaxy is that of its electrons."""
    fits.PrimaryHDU(np.zeros((SIDE, SIDE), "f4"), fits.Header(tan_wcs((SIDE, SIDE)).to_header())).writeto("zero.fits")
    sky = SkySource("zero.fits", psf="psf.fits", error=0.1, gain=2.0, segmentation="seg.fits")
    cutouts, truth = inject_galaxies(sky, 300, galaxies_of_prior(psf_fwhm=3.5, snr=(100, 300)), seed=1)
    models = LSQSersicFitter().make_model_images(plain(truth), cutouts)
    pull = [((cutouts.image(i) - m) / np.sqrt(np.maximum(m, 1.0) / 2.0))[m > 5.0] for i, m in enumerate(models)]
    assert np.mean(np.concatenate(pull) ** 2) == pytest.approx(1.0, abs=0.03)
    assert np.abs(np.concatenate(pull).mean()) < 0.02


def test_psf_of_the_position(folder):
    psfex("m.psf", shape=(SIDE, SIDE))
    sky = source(psf="m.psf")
    cutouts, truth = inject_galaxies(sky, 30, seed=1)
    position = cutouts.origin[7] + 31.5
    image = sky.psf.psf.image_at(*position)
    assert np.allclose(cutouts.psf_image(7), image / image.sum(), atol=1e-9)
    assert len(cutouts.psf_images) == 30
    table = LSQSersicFitter().fit(cutouts)
    assert np.median(np.abs(table["flux_fit"] / truth["true_flux"] - 1.0)) < 0.1


def test_galaxies_like_a_table(folder):
    rng = np.random.default_rng(1)
    flux = np.exp(rng.normal(9.5, 0.3, 500))
    table = QTable({"flux_fit": flux * u.adu, "n_fit": np.full(500, 2.0), "g1_fit": np.full(500, 0.3)})
    table["r_eff_fit"], table["g2_fit"] = 0.2 * flux / 6000.0 * u.arcsec, np.zeros(500)
    table["flags"] = np.where(np.arange(500) < 100, 2, 64)
    table["n_fit"][:100] = 7.0  # flagged
    _, truth = inject_galaxies(source(), 400, GalaxiesLike(table), seed=2)
    relation = np.corrcoef(np.log(truth["true_flux"].value), np.log(truth["true_r_eff"].value))[0, 1]
    assert relation > 0.95
    assert np.median(truth["true_r_eff"] / truth["true_flux"]).value == pytest.approx(0.2 / 6000, rel=0.05)
    assert np.std(np.log(truth["true_flux"].value)) == pytest.approx(0.3, abs=0.06)
    assert np.allclose(truth["true_n"], 2.0, rtol=1e-3)
    assert np.allclose(np.hypot(truth["true_g1"], truth["true_g2"]), 0.3, atol=1e-3)
    assert abs(truth["true_g1"].mean()) < 0.05
    with pytest.raises(ValueError, match="like has no column g2_fit"):
        GalaxiesLike(table["flux_fit", "n_fit", "r_eff_fit", "g1_fit"])
    with pytest.raises(ValueError, match="like: only 0 rows can be used"):
        GalaxiesLike(table[:100])
    with pytest.raises(ValueError, match="snr: hardly any galaxies have a signal-to-noise ratio of 9000 to 9999"):
        inject_galaxies(source(), 20, GalaxiesLike(table, snr=(9000, 9999)))
    table["flux_fit"] = flux * u.Jy
    with pytest.raises(ValueError, match=r"like\['flux_fit'\] has unit Jy, which does not convert to .* adu"):
        inject_galaxies(source(), 20, GalaxiesLike(table))


def test_truths_fit_compare(folder):
    cutouts, truth = inject_galaxies(source(), 200, seed=1)
    table = LSQSersicFitter().fit(cutouts)
    comparison = compare(truth, table, n_bootstrap=5)
    assert comparison.row("x")["robust_scatter"] < 0.3
    assert set(comparison.table["by"]) == {"all", "snr", "n", "r_eff / PSF FWHM", "|g|"}


def test_prior_in_ranges():
    prior = galaxies_of_prior("study", psf_fwhm=3.0, snr=(20, 40))
    assert (prior.snr.lower, prior.snr.upper, prior.electrons) == (20.0, 40.0, None)
    for name, value in (("snr", (5, 5)), ("n", (0.1, 4)), ("r_eff", (3, 200)), ("snr", (9, 3))):
        with pytest.raises(ValueError, match=f"{name} must be a range within"):
            galaxies_of_prior(psf_fwhm=3.0, **{name: value})


def test_too_little_sky(folder):
    fits.PrimaryHDU(np.ones((SIDE, SIDE), "i2")).writeto("full.fits")
    with pytest.raises(CatalogError, match="i.fits: too little blank sky: 0 pixels are 6.0 pixels from all sources"):
        source(segmentation="full.fits").blank_positions(10, 6.0, np.random.default_rng(1))
    with pytest.raises(ValueError, match="core must lie between 0 and half of the stamp, 32 pixels, not 300"):
        source().blank_positions(10, 300.0, np.random.default_rng(1))
    with pytest.raises(CatalogError, match="stamps of 512 pixels do not fit"):
        source(size=512).blank_positions(10, 5.0, np.random.default_rng(1))
    with pytest.raises(CatalogError, match=r"psf: must be one image, not 7"):
        source(psf=np.ones((7, 9, 9)))


def test_calibrate_refuses(folder):
    cutouts, truth = inject_galaxies(source(), 30, seed=1)
    table = LSQSersicFitter().fit(cutouts)
    with pytest.raises(ValueError, match="result must have one row per truth: 30, not 29"):
        calibrate(LSQSersicFitter(), truth, table[1:])
    with pytest.raises(ValueError, match="result: 2?[0-9] of 30 galaxies are measured properly; 200 are needed"):
        calibrate(LSQSersicFitter(), truth, table)
    with pytest.raises(ValueError, match="truth has no column true_psf_fwhm"):
        calibrate(LSQSersicFitter(), truth[[n for n in truth.colnames if n != "true_psf_fwhm"]], table)


@pytest.mark.parametrize(("kind", "before"), [("underestimated", 0.55), ("correlated", 0.6)])
def test_command(tmp_path, monkeypatch, capsys, kind, before):
    """Errors that do not hold on an image are right after a calibration, for galaxies it has not seen."""
    monkeypatch.chdir(tmp_path)
    options = {"scale": 1.5} if kind == "underestimated" else {"correlated": True}
    sky_image("i.fits", **options)
    sky_image("other.fits", **options, seed=7)
    fits.PrimaryHDU(gaussian(33, 1.5)).writeto("psf.fits")
    command = ["calibrate", "i.fits", "--psf", "psf.fits", "--error", "10", "-n", 1500]
    assert call(*command, "--report", "rep") == 0
    text = capsys.readouterr().out
    assert "calibration i_calibration.json" in text
    found = QuantileCalibration.read("i_calibration.json")
    assert found.n_galaxies >= 1490
    assert found.about["image"] == "i.fits"
    assert found.about["injected"] == 1500
    assert found.estimator["weights"] == "survey-v3"
    row = next(line for line in text.splitlines() if line.startswith("g1"))
    shown = [float(each) for each in re.findall(r"[-+]?\d+\.\d+", row)]
    expected = [100 * found.metrics[when]["g1"]["coverage_68"] for when in ("before", "after")]
    assert shown[2:4] == pytest.approx(expected, abs=0.06)
    tables = {name: QTable.read(f"rep/{name}.ecsv") for name in ("summary", "before", "after")}
    assert len(tables["before"]) == len(tables["after"])
    assert {"snr", "r_eff / PSF FWHM"} <= set(tables["after"]["by"])
    assert {path.name for path in (tmp_path / "rep").iterdir()} >= {"calibration.png", "calibration.pdf", "truth.fits"}
    sky = SkySource("other.fits", psf="psf.fits", error=10.0)
    cutouts, truth = inject_galaxies(sky, 1500, seed=99)
    # four standard errors: of the fraction among these galaxies, and of that among those it was learned from
    limit = 4.0 * np.sqrt(2.0 * 0.6827 * 0.3173 / 1500)
    for fitter, low, high in (
        (NeuralSersicFitter(), 0.0, before + 0.03),
        (NeuralSersicFitter(calibration="i_calibration.json"), 0.6827 - limit, 0.6827 + limit),
    ):
        table = fitter.fit(cutouts)
        inside = np.abs(table["x_fit"] - truth["true_x"]) <= table["x_err"]
        between = (truth["true_x"] > table["x_q16"]) & (truth["true_x"] < table["x_q84"])
        for part in (inside, between):
            assert low <= np.mean(part) <= high


def test_command_with_least_squares_and_measure(folder, capsys):
    """What is written is what galmeasure measure takes, with the same options."""
    start = ["calibrate", "i.fits", "--psf", "psf.fits", "--error", "7", "--segmentation", "seg.fits"]
    start += ["--size", "40", "--snr", 40, 90, "--n", 1, 3, "--r-eff", 0.3, 0.8, "--no-progress", "-n", 300]
    assert call(*start, "--method", "lsq", "-o", "c.json", "--seed", 5) == 0
    first = json.loads((folder / "c.json").read_text())
    assert first["about"]["galaxies"] == "S/N 40 to 90, n 1 to 3, r_eff in pixels 1.5 to 4"
    assert first["about"]["stamp"] == 40
    assert np.exp(first["ranges"]["log_snr"]) == pytest.approx([40, 90], rel=0.1)
    assert call(*start, "--method", "lsq", "-o", "c.json", "--seed", 5, "--overwrite") == 0
    again = json.loads((folder / "c.json").read_text())
    for name, parts in first["coefficients"].items():
        for part, numbers in parts.items():
            assert again["coefficients"][name][part] == pytest.approx(numbers, abs=0.01), (name, part)
    capsys.readouterr()
    QTable({"x": SOURCES[:, 0], "y": SOURCES[:, 1]}).write("l.fits")
    measure = ["measure", "l.fits", "--image", "i.fits", "--psf", "psf.fits", "--error", "7", "--method"]
    assert call(*measure, "lsq", "--calibration", "c.json", "-o", "t.fits") == 0
    assert call(*measure, "lsq", "-o", "plain.fits") == 0
    table, plain_table = QTable.read("t.fits"), QTable.read("plain.fits")
    assert table.meta["CALIBRAT"] == "c.json"
    assert (table["g1_err"] > 1.2 * plain_table["g1_err"]).all()
    assert call(*measure, "neural", "--calibration", "c.json", "-o", "u.fits") == 2
    assert "calibration was made for another estimator: for method 'lsq', not 'neural'" in capsys.readouterr().err


@pytest.mark.filterwarnings("always::galmeasure.exceptions.GalmeasureWarning")
def test_warning_of_little_sky(folder, capsys):
    room = np.ones((SIDE, SIDE), "i2")
    room[180:220, 60:100] = 0
    fits.PrimaryHDU(room).writeto("room.fits")
    command = ["calibrate", "i.fits", "--psf", "psf.fits", "--error", "10", "--size", "24", "-n", 200]
    assert call(*command, "--segmentation", "room.fits") == 0
    assert re.search(r"warning: blank sky is only \d areas of the core's radius", capsys.readouterr().err)
    assert call(*command, "--segmentation", "seg.fits", "--overwrite") == 0
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--psf", "none.fits"], "none.fits"),
        ([], "no PSF"),
        (["--psf", "psf.fits", "--core", "300"], "core must lie between"),
        (["--psf", "psf.fits", "--summary", "mean", "--method", "lsq"], "summary is an option of --method neural"),
        (["--psf", "psf.fits", "--fit-background"], "fit-background is an option of --method lsq"),
        (["--psf", "psf.fits", "--like", "none.fits"], "like: there is no file none.fits"),
        (["--psf", "psf.fits", "--like", "i.fits"], "like: i.fits cannot be read as a table"),
        (["--psf", "psf.fits", "--like", "i.fits", "--n", "1", "2"], "n and like cannot be given together"),
        (["--psf", "psf.fits", "--snr", "50", "20"], "snr must be a range"),
        (["--psf", "psf.fits", "-o", "seg.fits"], "output: seg.fits exists already"),
        (["--psf", "psf.fits", "-o", "no/c.json"], "output: there is no folder no"),
        (["--psf", "psf.fits", "--report", "."], "report: the folder . is not empty"),
        (["--psf", "psf.fits", "--error", "1", "--weight", "i.fits"], "error and weight cannot be given together"),
        (["--psf", "psf.fits", "-n", "100"], "Invalid value for '-n'"),
    ],
)
def test_command_refuses(folder, capsys, options, message):
    assert call("calibrate", "i.fits", *options) == 2
    assert message in capsys.readouterr().err
    assert not (folder / "i_calibration.json").exists()


def test_options_are_those_of_measure():
    """What says how an image is read has the same names in both commands."""
    ours, theirs = ({p.name: p for p in commands.cli.commands[name].params} for name in ("calibrate", "measure"))
    shared = set(ours) & set(theirs)
    assert {"psf", "error", "weight", "mask", "segmentation", "gain", "detect", "size", "method", "weights"} <= shared
    for name in shared:
        assert type(ours[name].type) is type(theirs[name].type)
        assert ours[name].default == theirs[name].default
