"""Reports: the command on a few galaxies, what it writes, and what it refuses; bounds and the study's table."""

import dataclasses
import re

import numpy as np
import pytest
from astropy import units as u
from astropy.table import QTable, Table

from galmeasure import Cutouts, read_cutouts
from galmeasure.cli import commands, main
from galmeasure.evaluation import (
    Estimate,
    ReferenceDraws,
    cramer_rao_bounds,
    match_tables,
    reference_table,
    write_report,
)
from galmeasure.evaluation.refinement import paired_rmse, refinement_summary
from galmeasure.evaluation.report.images import plot_images
from galmeasure.evaluation.report.page import Page, write_latex
from galmeasure.evaluation.report.published import (
    BASELINE_FIRST_ORDER,
    BASELINE_RESULTS,
    EXACT_RMSE,
    REFERENCE_BOUNDS,
    REFERENCE_RESULTS,
    STUDY_PARAMETERS,
)
from galmeasure.evaluation.report.reference import BASELINE
from galmeasure.evaluation.report.reference_tables import (
    baseline_table,
    in_brackets,
    time_table,
    time_text,
    wide_reference,
)
from galmeasure.exceptions import CatalogError
from galmeasure.flags import Flag
from galmeasure.io.truths import read_noiseless, read_truth
from galmeasure.workflows.evaluate import _comparisons
from galmeasure.workflows.galaxies import find_galaxies

pytest.importorskip("matplotlib")

NAMES = ("flux", "n", "r_eff", "g1", "g2", "x", "y")
SIGMA = {"flux": 3e3, "n": 0.3, "r_eff": 0.02, "g1": 0.05, "g2": 0.05, "x": 0.1, "y": 0.1}


def call(*args):
    """Exit code of the command."""
    with pytest.raises(SystemExit) as stop:
        main(list(args))
    return stop.value.code


def failure(capsys, *args):
    """The one line of an error."""
    assert call("evaluate", *args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err.removeprefix("galmeasure: error: ").strip()


@pytest.fixture(scope="module")
def galaxies(tmp_path_factory):
    """File of simulated galaxies."""
    pytest.importorskip("galsim")
    from galmeasure.training import DatasetConfig, make_dataset

    config = DatasetConfig(n=1.0, r_eff=(0.3, 0.6), psf_fwhm=0.7, sigma=200.0, snr=(40, 100))
    return make_dataset(tmp_path_factory.mktemp("galaxies") / "discs.fits", config, 6, seed=3, noiseless=True)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Folder that the command has written."""
    pytest.importorskip("galsim")
    folder = tmp_path_factory.mktemp("report") / "rep"
    assert call("evaluate", "--method", "lsq", "--dataset", "1", "--size", "20", "--share-n", "20", "--draws", "6",
                "--baseline-draws", "1", "--bootstrap", "4", "--n-jobs", "1", "--report", str(folder)) == 0  # fmt: skip
    return folder


def test_the_command_writes_a_page_figures_and_tables(report):
    assert (report / "index.html").exists()
    assert len(list(report.glob("*.png"))) >= 6
    assert {path.stem for path in report.glob("*.png")} == {path.stem for path in report.glob("*.pdf")}
    for name in ("metrics", "challenge", "reference"):
        assert len(Table.read(report / f"{name}.ecsv")) > 5
    for name in ("rmse", "reference", "challenge", "limits", "error_bars", "counts", "times"):
        assert r"\begin{tabular}" in (report / f"{name}.tex").read_text(encoding="utf-8")


def test_the_page_is_self_contained(report):
    page = (report / "index.html").read_text(encoding="utf-8")
    assert page.count("<img") == len(list(report.glob("*.png")))
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]{0,30})', page))
    assert "<script" not in page
    assert "<link" not in page
    anchors = re.findall(r'href="#(\w+)"', page)
    assert anchors == re.findall(r'<h2 id="(\w+)">', page)
    for words in (
        "Cramer-Rao bound",
        "Euclid Morphology Challenge",
        "Xception CNN (published)",
        "baseline fit (GalSim)",
        "The study&#x27;s baseline fit",
        "true minus measured",
    ):
        assert words in page


def test_the_numbers_are_those_of_the_results(report):
    truth, found = QTable.read(report / "truth.fits"), QTable.read(report / "results_lsq.fits")
    metrics = Table.read(report / "metrics.ecsv")
    row = metrics[(metrics["by"] == "all") & (metrics["parameter"] == "g1")][0]
    delta = np.asarray(found["g1_fit"]) - np.asarray(truth["true_g1"])
    assert row["n_used"] == 20
    assert row["rmse"] == pytest.approx(np.sqrt(np.mean(delta**2)))
    assert row["estimator"] == "lsq"
    assert row["scatter_over_crb"] > 0
    assert metrics.meta["lsq"]["n_truth"] == 20
    reference = Table.read(report / "reference.ecsv")
    assert set(reference["snr"]) == {30, 60}
    ours = reference[(reference["estimator"] == "lsq") & (reference["snr"] == 60) & (reference["parameter"] == "n")]
    assert ours["n_used"][0] == 6
    assert ours["bound"][0] == pytest.approx(0.78, rel=0.02)
    assert ours["seconds_per_galaxy"][0] > 0
    assert ours["core_seconds_per_galaxy"][0] > 0


def test_a_file_and_foreign_catalogues(galaxies, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    truth = read_truth(galaxies)
    g = np.hypot(truth["true_g1"], truth["true_g2"])
    q, theta = (1 - g) / (1 + g), np.degrees(np.arctan2(truth["true_g2"], truth["true_g1"])) / 2
    major = truth["true_r_eff"].value / 0.23 / np.sqrt(q)
    mag = 25 - 2.5 * np.log10(truth["true_flux"].value)
    other = {"NUMBER": truth["id"], "mag": mag, "re": major, "INDEX": truth["true_n"] + 0.5, "ar": q, "pa": theta - 90}
    Table(other).write("other.csv")
    ours = QTable({"id": truth["id"][:4], "INDEX": truth["true_n"][:4]})
    ours.write("ours.fits")
    command = ["evaluate", "--method", "none", "--dataset", str(galaxies), "--draws", "0", "--bootstrap", "3"]
    command += ["--catalog", "other.csv", "--catalog", "ours.fits", "--preset", "galfit", "--preset", "galmeasure"]
    command += ["--zero-point", "25", "--pixel-scale", "0.23", "--report", "rep"]
    assert call(*command, "--columns", "n=SERSIC") == 2
    assert "other.csv: columns: there is no SERSIC (for n) among NUMBER, mag" in capsys.readouterr().err
    assert call(*command, "--columns", "n=INDEX") == 0
    out, _ = capsys.readouterr()
    assert out.startswith("evaluated other (galfit), ours (galmeasure) on 6 galaxies")
    metrics = Table.read("rep/metrics.ecsv")
    rows = {(r["estimator"], r["parameter"]): r for r in metrics[metrics["by"] == "all"]}
    assert rows["other (galfit)", "n"]["bias"] == pytest.approx(0.5)
    for name in ("flux_relative", "r_eff", "g1", "g2"):
        assert rows["other (galfit)", name]["rmse"] == pytest.approx(0, abs=1e-6)
    assert rows["ours (galmeasure)", "n"]["n_failed"] == 2
    assert metrics.meta["ours (galmeasure)"]["n_missing"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "sextractor"), "method must be one of .*, none, not 'sextractor'"),
        (("--method", "none"), "method: none leaves nothing to evaluate without a catalog"),
        (("--method", "lsq", "--weights", "study-v1"), "weights is an option of --method neural"),
        (("--method", "lsq", "--refine"), "refine is an option of --method neural"),
        (("--method", "lsq", "--dataset", "4"), "dataset must be one of 1, 2, 3, or a FITS file, not '4'"),
        (("--method", "lsq", "--preset", "galfit"), "preset and columns say how to read a catalog"),
        (("--method", "lsq", "--catalog", "a", "--preset", "galfit", "--preset", "imfit"), "preset must be given once"),
        (("--method", "none", "--catalog", "a.csv", "--columns", "n"), "columns must be pairs such as n=SERSIC_N"),
        (("--method", "none", "--catalog", "a.csv"), "a.csv: no such file"),
        (("--method", "lsq", "--device", "toaster"), "device 'toaster' cannot be used"),
    ],
)
def test_wrong_arguments(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert re.match(message, failure(capsys, *arguments))
    assert not list(tmp_path.iterdir())


def test_folders_and_files_that_are_in_the_way(tmp_path, monkeypatch, capsys, galaxies):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    assert "full is not empty; give another folder, or --overwrite" in failure(capsys, "--report", "full")
    assert "report must be a folder" in failure(capsys, "--report", "full/thesis.tex")
    Table({"a": [1.0]}).write("plain.fits")
    assert "no true parameters" in failure(capsys, "--method", "lsq", "--dataset", "plain.fits")
    assert "there are 6 galaxies in" in failure(capsys, "--method", "lsq", "--dataset", str(galaxies), "--size", "7")


def test_the_command_is_known(capsys):
    assert "evaluate" in commands.cli.commands
    assert call("evaluate", "--help") == 0
    assert "reference galaxy" in capsys.readouterr().out


def test_truths_of_files(galaxies, tmp_path):
    truth = read_truth(galaxies)
    assert truth["true_r_eff"].unit == u.arcsec
    assert truth["id"].tolist() == [1, 2, 3, 4, 5, 6]
    images = read_noiseless(galaxies, [4, 1])
    assert set(images) == {1, 4}
    assert images[4].shape == (64, 64)
    with pytest.raises(CatalogError, match="none.fits: no such file"):
        read_truth(tmp_path / "none.fits")
    (tmp_path / "text.fits").write_text("text")
    with pytest.raises(CatalogError, match="text.fits: not a FITS file"):
        read_truth(tmp_path / "text.fits")


def fake(count, n_draws, rng):
    """Truth, and an estimate with right errors and draws."""
    truth = QTable({"id": np.arange(count), "true_snr": rng.uniform(10, 100, count)})
    table, samples = QTable({"id": np.arange(count)}), QTable({"id": np.arange(count)})
    centre = {"flux": 1e5, "n": 2.0, "r_eff": 0.4, "g1": 0.1, "g2": 0.1, "x": 31.5, "y": 31.5}
    for name, sigma in SIGMA.items():
        mean = centre[name] + sigma * rng.normal(size=count)
        truth[f"true_{name}"] = mean + sigma * rng.normal(size=count)
        table[f"{name}_fit"], table[f"{name}_err"] = mean, np.full(count, sigma)
        samples[name] = mean[:, None] + sigma * rng.normal(size=(count, n_draws))
    return truth, Estimate(name="fake, 100 %", table=table, samples=samples, seconds=2.0)


def test_a_report_on_tables_alone(tmp_path):
    truth, estimate = fake(300, 40, np.random.default_rng(2))
    other = Estimate(name="without errors", table=estimate.table["id", "n_fit"])
    limit, published = {"n": 0.3}, {"theirs": {"n": 0.5}}
    page = write_report(tmp_path, truth, [estimate, other], limit=limit, published=published, n_bootstrap=4)
    names = {path.stem for path in tmp_path.glob("*.png")}
    assert {"ranks_fake_100", "expected_coverage", "pulls", "calibration", "trends"} <= names
    assert not any(name.startswith("images") for name in names)
    text = page.read_text(encoding="utf-8")
    assert "theirs" in text
    assert "exact posterior mean" in text
    assert "6.7 ms" in text
    metrics = Table.read(tmp_path / "metrics.ecsv")
    rows = metrics[(metrics["by"] == "all") & (metrics["parameter"] == "n")]
    assert rows["rmse_over_limit"][0] == pytest.approx(1.0, abs=0.15)
    assert rows["rank_p"][0] > 1e-3
    with pytest.raises(ValueError, match="estimates must be at least one, of different names"):
        write_report(tmp_path, truth, [other, other])
    with pytest.raises(ValueError, match="estimates must be at least one"):
        write_report(tmp_path, truth, [])


def test_reference_table_of_known_bias_and_scatter():
    rng, count = np.random.default_rng(6), 3000
    truth = Table({f"true_{name}": np.full(count, 1e5 if name == "flux" else 0.5) for name in SIGMA})
    table = Table({f"{n}_fit": truth[f"true_{n}"] + 0.5 * s + s * rng.normal(size=count) for n, s in SIGMA.items()})
    table["n_fit"][:100] = np.nan
    bounds = Table({f"{name}_crb": [sigma] for name, sigma in SIGMA.items()})
    part = ReferenceDraws(snr=60, truth=truth, bounds=bounds, estimates=[Estimate(name="mine", table=table[:2000])])
    found = reference_table([part])
    mine = found[found["estimator"] == "mine"]
    assert mine["parameter"].tolist() == ["flux", "n", "r_eff", "g1", "g2"]
    for row in mine:
        sigma = SIGMA[row["parameter"]] / (1e5 if row["parameter"] == "flux" else 1.0)
        assert row["bias"] == pytest.approx(0.5 * sigma, abs=4 * row["bias_err"])
        assert row["std"] == pytest.approx(sigma, abs=4 * row["std_err"])
        assert row["rmse_over_bound"] == pytest.approx(np.sqrt(1.25), abs=4 * row["rmse_err"] / row["bound"])
    assert mine["n_failed"].tolist() == [0, 100, 0, 0, 0]
    published = found[found["estimator"] == "Xception CNN (published)"]
    assert published["bias"].tolist() == list(REFERENCE_RESULTS[60]["Xception CNN"][0])
    assert published["bound"].tolist() == list(REFERENCE_BOUNDS[60])
    assert len(reference_table([part], published=False)) == 5
    assert not any(name.startswith("baseline") for name in found["estimator"])


def test_the_baseline_fit_stands_apart_with_the_sign_of_measured_minus_true():
    table = baseline_table()
    assert table["galaxies"].tolist() == ["S/N 60", "S/N 60", "S/N 30", "S/N 30"]
    assert table["g2"].tolist() == ["+0.085 / 0.087", "+0.104", "+0.185 / 0.169", "+0.210"]
    assert table["r_eff [arcsec]"][0] == "-0.017 / 0.063"
    assert table["flux [1e5]"].tolist()[1::2] == ["-", "-"]
    for snr, predicted in BASELINE_FIRST_ORDER.items():
        bias = dict(zip(STUDY_PARAMETERS, BASELINE_RESULTS[snr][0], strict=True))
        assert all(predicted[name] / bias[name] == pytest.approx(1.0, abs=0.6) for name in predicted)


def test_times_and_errors_as_texts():
    assert in_brackets(0.0612, 0.0071, "+") == "+0.061(7)"
    assert in_brackets(0.7012, 0.0971) == "0.70(10)"
    assert in_brackets(12.0, 3.4) == "12(3)"
    assert in_brackets(0.5, np.nan) == "0.5"
    assert [time_text(seconds) for seconds in (0.00061, 0.9, 0.9999, 41.0)] == ["0.61 ms", "900 ms", "1 s", "41 s"]
    count = 4
    truth = Table({f"true_{name}": np.ones(count) for name in SIGMA})
    table = Table({f"{name}_fit": np.linspace(0.9, 1.2, count) for name in SIGMA})
    bounds = Table({f"{name}_crb": [1.0] for name in SIGMA})
    estimates = [
        Estimate(name="mine", table=table, seconds=0.002, core_seconds=0.004),
        Estimate(name=BASELINE, table=table[:2], seconds=2.0, core_seconds=2.0),
    ]
    parts = [ReferenceDraws(snr=snr, truth=truth, bounds=bounds, estimates=estimates) for snr in (60, 30)]
    times = time_table(reference_table(parts))
    assert times["estimator"].tolist() == ["mine", BASELINE]
    assert list(times[0])[1:] == ["8", "0.5 ms", "1 ms", "2000", "1000"]
    assert list(times[1])[1:] == ["4", "1 s", "1 s", "1", "-"]
    wide = wide_reference(reference_table(parts), parts)
    assert wide["draws"][wide["estimator"] == "mine"].tolist() == ["4", "4"]
    assert "r_eff [arcsec]" in wide.colnames
    assert set(wide["n"][wide["estimator"] == "mine"]) == {"+0.05(6) / 0.13(5)"}


def refined(estimate, part):
    """Refined results: errors smaller by a factor, with the columns of weighted draws."""
    table, count = estimate.table.copy(), len(estimate.table)
    table["ess"], table["n_draws"] = np.full(count, 120.0), np.full(count, 200)
    table["ess"][:30], table["flags"] = 4.0, np.zeros(count, dtype=np.int64)
    table["flags"][:30] = int(Flag.POOR_PROPOSAL)
    table["method"] = np.where(np.arange(count) < 30, "lsq", "neural+importance")
    table["log_evidence"] = np.where(np.arange(count) < 30, np.nan, -2000.0)
    for name in NAMES:
        table[f"{name}_fit"] = part * table[f"{name}_fit"]
        for level, shift in (("q16", -1), ("q50", 0), ("q84", 1)):
            table[f"{name}_{level}"] = table[f"{name}_fit"] + shift * table[f"{name}_err"]
    return Estimate(name="fine", table=table, plain=estimate.name)


def test_refined_posteriors_in_a_report(tmp_path):
    truth, estimate = fake(300, 20, np.random.default_rng(4))
    for name in NAMES:  # a truth of 0 makes errors proportional to what was measured
        truth[f"true_{name}"] = 0.0 * truth[f"true_{name}"]
    found = refined(estimate, 0.8)
    summary = refinement_summary(found.table)
    assert summary["median ess / draws"] == pytest.approx(0.6)
    assert summary["ess / draws below 0.05"] == pytest.approx(0.1)
    assert summary["flagged poor_proposal"] == pytest.approx(0.1)
    assert summary["method lsq"] == pytest.approx(0.1)
    assert summary["log evidence, 50 % quantile"] == -2000.0
    page = write_report(tmp_path, truth, [estimate, found], n_bootstrap=4).read_text(encoding="utf-8")
    for words in ("What the refinement is worth", "flagged poor_proposal", "fine / fake, 100 %", "below 16 %"):
        assert words in page
    assert (tmp_path / "refinement_gain.tex").read_text(encoding="utf-8").count("0.8") == len(NAMES)
    plain = write_report(tmp_path / "plain", truth, [estimate], n_bootstrap=2).read_text(encoding="utf-8")
    assert "What the refinement is worth" not in plain


def test_gain_on_the_galaxies_that_both_measured():
    truth = Table({"true_n": np.zeros(400)})
    errors = np.random.default_rng(8).normal(size=(2, 400))
    errors[0, :10] = np.nan
    both = [match_tables(truth, Table({"n_fit": each})) for each in (0.5 * errors[0], errors[1])]
    ratio, error = paired_rmse(*both, "n")
    assert ratio == pytest.approx(0.5, abs=4 * error)
    assert error == pytest.approx(0.5 / np.sqrt(390), rel=0.25)  # each RMSE is known to one over the root of 2 N
    ratio, error = paired_rmse(both[1], both[1], "n")
    assert (ratio, error) == (1.0, 0.0)
    assert np.isnan(paired_rmse(both[0], match_tables(truth, Table({"n_fit": np.zeros(400)})), "n")[0])


def test_files_like_the_sets_of_the_study_are_known(galaxies, tmp_path):
    from galmeasure.training import get_dataset_config, make_dataset

    config = dataclasses.replace(get_dataset_config("3"), share_n=4, psf_oversampling=2, psf_size=31)
    path = make_dataset(tmp_path / "mine.fits", config, 1, seed=5)
    found = find_galaxies(str(path), 0)
    assert found.study == "3"
    assert "mine.fits, like those of the study's set 3, drawn with GalSim (seed 5)" in found.about
    known = _comparisons(found.study)
    assert known["limit"]["flux"] == pytest.approx(1e5 * EXACT_RMSE["3"][0])
    assert known["published"]["Xception CNN (published)"]["n"] == 0.975
    assert "Xception CNN (published)" in _comparisons("1")["published"]
    assert find_galaxies("2", 7).about.startswith("The galaxies are like those of the study's set 2")
    other = find_galaxies(str(galaxies), 0)
    assert (other.study, _comparisons(other.study)) == (None, {})
    Table({"true_n": [1.0]}).write(tmp_path / "bare.fits")
    assert find_galaxies(str(tmp_path / "bare.fits"), 0).about == "The galaxies are those of bare.fits."


def test_bounds_are_those_that_were_published(tmp_path):
    pytest.importorskip("galsim")
    from galmeasure.training import make_dataset

    for snr, published in REFERENCE_BOUNDS.items():
        path = make_dataset(tmp_path / f"{snr}.fits", f"reference-{snr}", 1)
        bounds = cramer_rao_bounds(read_cutouts(path), read_truth(path))
        values = [bounds[f"{name}_crb"][0] for name in ("flux", "n", "r_eff", "g1", "g2")]
        assert values[2].unit == u.arcsec
        plain = np.array([getattr(value, "value", value) for value in values]) / [1e5, 1, 1, 1, 1]
        assert np.allclose(plain, published, rtol=0.04)


def test_bounds_of_wrong_arguments():
    cutouts = Cutouts(np.zeros((2, 33, 33)), np.ones((3, 3)), error=1.0)
    with pytest.raises(TypeError, match="cutouts must be a Cutouts"):
        cramer_rao_bounds(np.zeros((2, 33, 33)), Table())
    with pytest.raises(ValueError, match="truth must have a column true_n or n"):
        cramer_rao_bounds(cutouts, Table({"true_flux": [1.0, 2.0]}))


def test_images_of_galaxies(galaxies):
    cutouts, truth = read_cutouts(galaxies)[:2], read_truth(galaxies)[:2]
    table = QTable({f"{name}_fit": truth[f"true_{name}"] for name in NAMES})
    clean = list(read_noiseless(galaxies, [0, 1]).values())
    figure = plot_images(cutouts, table, noiseless=clean, scale="log", labels=["a", "b"])
    panels = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title() for axis in panels[:5]][1:3] == ["noiseless", "model"]
    difference = np.asarray(panels[4].images[0].get_array())
    assert np.abs(difference).max() < 0.3  # in errors: the model of the truth is the noiseless image
    assert len([axis for axis in plot_images(cutouts, table).axes if axis.images]) == 2 * 3
    with pytest.raises(ValueError, match="scale must be 'linear' or 'log', not 'sqrt'"):
        plot_images(cutouts, table, scale="sqrt")


def test_pages_escape_what_they_are_given(tmp_path):
    page = Page(tmp_path, "a < b")
    page.section("<script>")
    page.table(Table({"name": ["r_eff [pix]", "50 % & more"], "value": ["1 ± 2", "-"]}), "small", "of a_b")
    page.table(Table({"name": ["twice"] * 2, "value": ["1", "2"]}), "grouped", "", grouped=True)
    text = page.write().read_text(encoding="utf-8")
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert text.count("twice") == 1
    assert (tmp_path / "grouped.tex").read_text(encoding="utf-8").count("twice") == 2
    latex = (tmp_path / "small.tex").read_text(encoding="utf-8")
    assert r"$r_\mathrm{eff}$ [pix]" in latex
    assert r"50 \% \& more" in latex
    assert r"1 $\pm$ 2" in latex
    write_latex(Table({"n": ["1"]}), tmp_path / "plain.tex")
    assert "caption" not in (tmp_path / "plain.tex").read_text(encoding="utf-8")
