"""Metrics: tables of known bias, scatter and coverage give the known answers, and nothing is dropped silently."""

import numpy as np
import pytest
from astropy import units as u
from astropy.table import MaskedColumn, QTable, Table, vstack
from scipy.stats import norm

from galmeasure.evaluation import (
    STATISTICS,
    challenge_metrics,
    compare,
    expected_coverage,
    match_tables,
    quantile_uniformity,
    rank_uniformity,
    sample_ranks,
)

COUNT = 2000
BIAS = {"flux": 500.0, "n": 0.1, "r_eff": -0.02, "g1": 0.01, "g2": 0.0, "x": 0.05, "y": 0.0}
SCATTER = {"flux": 2000.0, "n": 0.4, "r_eff": 0.03, "g1": 0.05, "g2": 0.04, "x": 0.1, "y": 0.1}


def make_truth(rng, count=COUNT):
    shear, angle = rng.uniform(0.2, 0.5, count), rng.uniform(0, 2 * np.pi, count)
    return QTable(
        {
            "id": np.arange(1, count + 1),
            "true_flux": rng.uniform(1e5, 2e5, count),
            "true_n": rng.uniform(1, 5, count),
            "true_r_eff": rng.uniform(0.3, 0.6, count) * u.arcsec,
            "true_g1": shear * np.cos(angle),
            "true_g2": shear * np.sin(angle),
            "true_x": rng.uniform(31, 32, count),
            "true_y": rng.uniform(31, 32, count),
            "true_snr": rng.uniform(10, 100, count),
            "true_psf_fwhm": np.full(count, 0.5) * u.arcsec,
        }
    )


def make_result(truth, rng, error_factor=1.0):
    """Results with the bias and scatter above, and errors that are the scatter times a factor."""
    table = QTable({"id": truth["id"]})
    for name, scatter in SCATTER.items():
        true = truth[f"true_{name}"]
        unit = true.unit or 1
        table[f"{name}_fit"] = true + (BIAS[name] + scatter * rng.normal(size=len(truth))) * unit
        table[f"{name}_err"] = np.full(len(truth), scatter * error_factor) * unit
    return table


@pytest.fixture
def rng():
    return np.random.default_rng(11)


@pytest.fixture
def truth(rng):
    return make_truth(rng)


@pytest.fixture
def result(truth, rng):
    return make_result(truth, rng)


def within(row, statistic, expected, sigma=4.0):
    """Whether a statistic is as expected, by its own error."""
    return abs(row[statistic] - expected) < sigma * row[f"{statistic}_err"]


@pytest.mark.parametrize("name", SCATTER)
def test_known_bias_and_scatter(truth, result, name):
    row = compare(truth, result, bins=0).row(name)
    scatter = SCATTER[name]
    assert within(row, "bias", BIAS[name])
    assert within(row, "median_bias", BIAS[name])
    assert within(row, "scatter", scatter)
    assert within(row, "robust_scatter", scatter)
    assert within(row, "rmse", np.hypot(BIAS[name], scatter))
    assert within(row, "pull_mean", BIAS[name] / scatter)
    assert within(row, "pull_std", 1.0)
    assert row["n_used"] == COUNT
    assert row["n_failed"] == 0
    # what theory says of the errors of a mean and of a standard deviation
    assert row["bias_err"] == pytest.approx(scatter / np.sqrt(COUNT), rel=0.2)
    assert row["scatter_err"] == pytest.approx(scatter / np.sqrt(2 * COUNT), rel=0.25)


def test_relative_differences(truth, result):
    compared = compare(truth, result, bins=0)
    flux = np.asarray(truth["true_flux"])
    expected = np.sqrt(np.mean((BIAS["flux"] ** 2 + SCATTER["flux"] ** 2) / flux**2))
    row = compared.row("flux_relative")
    assert within(row, "rmse", expected)
    assert row["unit"] == ""
    assert compared.row("r_eff")["unit"] == "arcsec"
    assert within(compared.row("r_eff_relative"), "pull_std", 1.0)


@pytest.mark.parametrize(
    ("factor", "c68", "c95"), [(1.0, 0.6827, 0.9545), (0.5, 0.3829, 0.6827), (2.0, 0.9545, 0.9999)]
)
def test_coverage(truth, rng, factor, c68, c95):
    row = compare(truth, make_result(truth, rng, factor), bins=0).row("g2")  # without a bias
    assert abs(row["coverage_68"] - c68) < 4 * np.sqrt(c68 * (1 - c68) / COUNT)
    assert abs(row["coverage_95"] - c95) < 4 * np.sqrt(c95 * (1 - c95) / COUNT) + 1e-4
    assert row["coverage_68_err"] == pytest.approx(np.sqrt(c68 * (1 - c68) / COUNT), rel=0.25)
    assert (row["pull_p"] > 1e-3) == (factor == 1.0)
    assert row["pull_std"] == pytest.approx(1 / factor, rel=0.05)


def test_coverage_is_that_of_quantiles_where_there_are_some(truth, result):
    result["g2_q16"], result["g2_q84"] = result["g2_fit"] - 9.0, result["g2_fit"] + 9.0
    result["n_q16"] = result["n_fit"] + 8.0
    result["n_q84"] = np.full(COUNT, np.nan)
    compared = compare(truth, result, bins=0, n_bootstrap=5)
    assert compared.row("g2")["coverage_68"] == 1.0
    assert np.isnan(compared.row("n")["coverage_68"])


@pytest.mark.parametrize(("width", "right"), [(1.0, True), (0.8, False)])
def test_truths_between_quantiles(truth, rng, width, right):
    result = make_result(truth, rng)
    levels = {"q16": -1.0, "q50": 0.0, "q84": 1.0}
    for name, level in levels.items():
        result[f"g2_{name}"] = result["g2_fit"] + level * width * SCATTER["g2"]  # g2 has no bias
    result["n_q16"], result["n_q84"] = result["n_fit"] - 0.1 - SCATTER["n"], result["n_fit"] - 0.1 + SCATTER["n"]
    compared = compare(truth, result, bins=0, n_bootstrap=50)
    row = compared.row("g2")
    expected = norm.cdf([width * level for level in levels.values()])
    for name, fraction in zip(("below_q16", "below_q50", "below_q84"), expected, strict=True):
        assert abs(row[name] - fraction) < 4 * np.sqrt(fraction * (1 - fraction) / COUNT)
        assert row[f"{name}_err"] == pytest.approx(np.sqrt(fraction * (1 - fraction) / COUNT), rel=0.4)
    assert (row["quantile_p"] > 1e-3) == right
    without_median = compared.row("n")
    assert np.isnan(without_median["below_q50"])
    assert without_median["quantile_p"] > 1e-3
    assert np.isnan(compared.row("g1")["quantile_p"])


def test_uniformity_of_nothing_and_of_lacking_truths():
    below = np.stack([np.arange(400) < 400 * level for level in (0.158655, 0.5, 0.841345)]).astype(float)
    assert quantile_uniformity(below) > 0.99
    below[:, ::2] = np.nan
    assert quantile_uniformity(below) > 0.99
    assert np.isnan(quantile_uniformity(np.full((3, 5), np.nan)))


def test_outliers(truth, result):
    result["n_fit"][:80] += 10.0
    row = compare(truth, result, bins=0).row("n")
    assert row["outlier_fraction"] == pytest.approx(80 / COUNT, abs=2e-3)
    assert within(row, "outlier_fraction", 80 / COUNT)
    assert row["robust_scatter"] == pytest.approx(SCATTER["n"], rel=0.1)
    assert row["scatter"] > 2 * row["robust_scatter"]


def test_ratio_to_the_bound_and_to_the_limit(truth, result):
    bounds = QTable({"n_crb": np.full(COUNT, 0.2), "r_eff_crb": np.full(COUNT, 15.0) * u.mas})
    compared = compare(truth, result, bounds=bounds, limit={"n": 0.5, "flux": 1e4}, bins=0)
    row = compared.row("n")
    assert within(row, "scatter_over_crb", 2.0)
    assert within(row, "typical_over_crb", 2.0)
    assert within(row, "rmse_over_limit", np.hypot(0.1, 0.4) / 0.5)
    assert within(compared.row("r_eff"), "scatter_over_crb", 2.0)
    assert np.isnan(compared.row("g1")["scatter_over_crb"])
    assert np.isnan(compared.row("g1")["rmse_over_limit"])
    # a bound of each galaxy: the root mean square, not the mean
    bounds["n_crb"][::2] = 0.4
    assert within(compare(truth, result, bounds=bounds, bins=0).row("n"), "scatter_over_crb", 0.4 / np.sqrt(0.1))
    result["n_crb"] = np.full(COUNT, 0.8)
    assert within(compare(truth, result, bins=0).row("n"), "scatter_over_crb", 0.5)


def test_failures_are_counted(truth, result):
    result["n_fit"][:10] = np.nan
    result["flags"] = np.where(np.arange(COUNT) < 25, 4, 0)
    shuffled = result[np.random.default_rng(1).permutation(COUNT)]
    missing = shuffled[shuffled["id"] > 7]
    extra = missing[:3].copy()
    extra["id"] = [-1, -2, -3]
    compared = compare(truth, vstack([extra, missing]), bins=2)
    assert compared.counts == {"n_truth": COUNT, "n_missing": 7, "n_failed": 3, "n_flagged": 18, "n_extra": 3}
    assert compared.row("n")["n_failed"] == 10
    assert compared.row("g1")["n_failed"] == 7
    assert within(compared.row("n"), "bias", BIAS["n"])
    binned = compared.table[(compared.table["by"] == "snr") & (compared.table["parameter"] == "n")]
    assert binned["n_failed"].sum() == 10
    assert binned["n_used"].sum() == COUNT - 10
    assert compared.table.meta["n_missing"] == 7


def test_bins(truth, rng):
    result = make_result(truth, rng)
    faint = np.asarray(truth["true_snr"]) < 40
    result["n_fit"][faint] += 1.0
    table = compare(truth, result, bins={"snr": [10, 40, 100]}).table
    rows = table[(table["by"] == "snr") & (table["parameter"] == "n")]
    assert rows["low"].tolist() == [10, 40]
    assert rows["n_used"].sum() == COUNT
    assert within(rows[0], "bias", BIAS["n"] + 1.0)
    assert within(rows[1], "bias", BIAS["n"])
    by = compare(truth, result, bins=3, n_bootstrap=2).table
    assert set(by["by"]) == {"all", "snr", "n", "r_eff / PSF FWHM", "|g|"}
    assert len(by) == 12 * (1 + 4 * 3)
    sizes = by[(by["by"] == "r_eff / PSF FWHM") & (by["parameter"] == "n")]
    assert sizes["low"][0] == pytest.approx(0.6, abs=0.01)
    assert sizes["high"][-1] == pytest.approx(1.2, abs=0.01)


def test_derived_parameters_and_angles():
    truth = Table({"true_g1": [0.3, 0.3], "true_g2": [1e-3, -1e-3], "true_r_eff": [1.0, 1.0]})
    other = Table({"q": [0.7 / 1.3] * 2, "theta": [179.0, 1.0], "r_eff_major": [np.sqrt(1.3 / 0.7)] * 2})
    matched = match_tables(truth, other)
    assert np.allclose(matched.difference("theta"), [-1.0955, 1.0955], atol=1e-3)
    assert np.allclose(matched.difference("r_eff"), 0, atol=1e-4)
    assert np.allclose(matched.difference("q"), 0, atol=1e-4)
    assert np.allclose(np.abs(matched.difference("g2")), 0.0115, atol=1e-3)


def test_units_are_made_equal():
    truth = QTable({"true_r_eff": [0.46, 0.92] * u.arcsec, "true_flux": [1.0, 2.0] * u.mJy})
    found = QTable({"r_eff_fit": [2.0, 4.0] * u.pix, "flux_fit": [1000.0, 2000.0] * u.uJy})
    matched = match_tables(truth, found, pixel_scale=0.23)
    assert np.allclose(matched.difference("r_eff"), 0)
    assert np.allclose(matched.difference("flux"), 0)
    with pytest.raises(ValueError, match="pixel_scale must be given: result"):
        match_tables(truth, found)
    found["flux_fit"] = [1.0, 2.0] * u.s
    with pytest.raises(ValueError, match=r"result\['flux_fit'\] has unit s, which does not convert to mJy"):
        match_tables(truth, found, pixel_scale=0.23)
    mags = match_tables(Table({"flux": [100.0, 0.0]}), Table({"mag": [20.0, 21.0]}), zero_point=25.0)
    assert np.allclose(mags.difference("mag"), [0.0, np.nan], equal_nan=True)


def test_masked_and_textual_ids():
    truth = Table({"id": ["7 ", "8"], "n": [1.0, 2.0]})
    found = Table({"id": [8, 7], "n_fit": MaskedColumn([2.0, 1.0], mask=[False, True])})
    matched = match_tables(truth, found)
    assert np.allclose(matched.difference("n"), [np.nan, 0.0], equal_nan=True)
    assert matched.counts()["n_failed"] == 1


@pytest.mark.parametrize(
    ("truth", "result", "error", "message"),
    [
        ({"id": [1, 1], "n": [1.0, 2.0]}, {"id": [1, 2], "n": [1.0, 2.0]}, ValueError, "truth has the id 1 more than"),
        ({"id": [1, 2], "n": [1.0, 2.0]}, {"id": [2, 2], "n": [1.0, 2.0]}, ValueError, "result has the id 2 more"),
        ({"id": [1], "n": [1.0]}, {"id": [2], "n": [1.0]}, ValueError, "result has none of the ids of truth"),
        ({"n": [1.0]}, {"n": [1.0, 2.0]}, ValueError, "result must have an id, as truth must, or as many rows: 1"),
        ({"n": [1.0]}, {"g1": [1.0]}, ValueError, "result must have a column <p>_fit or <p>"),
        ({"n": ["a"]}, {"n": [1.0]}, TypeError, r"truth\['n'\] must hold real numbers"),
        ({"n": [[1.0, 2.0]]}, {"n": [1.0]}, ValueError, r"truth\['n'\] must hold one number per row"),
        ({"n": []}, {"n": [1.0]}, ValueError, "truth must have rows"),
    ],
)
def test_tables_that_do_not_match(truth, result, error, message):
    with pytest.raises(error, match=message):
        match_tables(Table(truth), Table(result))


def test_wrong_arguments(truth, result):
    with pytest.raises(TypeError, match="truth must be an astropy table, not dict"):
        compare({}, result)
    with pytest.raises(ValueError, match="n_bootstrap must be a whole number"):
        compare(truth, result, n_bootstrap=-1)
    with pytest.raises(ValueError, match="bounds must have one row per truth"):
        compare(truth, result, bounds=Table({"n_crb": [1.0]}))
    with pytest.raises(ValueError, match="samples must have vectors of draws"):
        compare(truth, result, samples=Table({"id": truth["id"]}))
    with pytest.raises(ValueError, match="outlier must be positive"):
        challenge_metrics(truth, result, outlier=0.0)


def test_few_galaxies():
    compared = compare(Table({"n": [1.0, 2.0]}), Table({"n_fit": [1.5, np.nan]}))
    row = compared.row("n")
    assert (row["n_used"], row["n_failed"]) == (1, 1)
    assert np.isnan(row["bias"])
    with_none = compare(Table({"n": [1.0, 2.0]}), Table({"n_fit": [1.5, 2.5]}), n_bootstrap=0).row("n")
    assert with_none["bias"] == 0.5
    assert np.isnan(with_none["bias_err"])


def posterior(rng, count, n_draws, width=1.0, shift=0.0):
    """Truths and draws of posteriors that are right for a width of 1 and no shift."""
    truth, draws = {}, {}
    for name in ("n", "g1", "flux"):
        mean = rng.normal(size=count)
        truth[name] = mean + 0.3 * rng.normal(size=count)
        draws[name] = mean[:, None] + 0.3 * (shift + width * rng.normal(size=(count, n_draws)))
    return truth, draws


def test_ranks_and_expected_coverage_of_right_posteriors(rng):
    truth, draws = posterior(rng, 2000, 100)
    ranks = sample_ranks(truth, draws, rng)
    assert all(rank_uniformity(each) > 1e-3 for each in ranks.values())
    level, coverage, error = expected_coverage(truth, draws, rng=rng)
    inner = (level > 0.05) & (level < 0.95)
    assert (np.abs(coverage - level)[inner] < 4 * error[inner]).all()
    assert error[inner].max() == pytest.approx(0.5 / np.sqrt(2000), rel=0.3)


@pytest.mark.parametrize(("width", "shift"), [(0.5, 0.0), (2.0, 0.0), (1.0, 0.5)])
def test_ranks_and_expected_coverage_of_wrong_posteriors(rng, width, shift):
    truth, draws = posterior(rng, 2000, 100, width, shift)
    ranks = sample_ranks(truth, draws, rng)
    assert all(rank_uniformity(each) < 1e-6 for each in ranks.values())
    if not shift:
        level, coverage, error = expected_coverage(truth, draws, rng=rng)
        assert np.nanmax(np.abs(coverage - level)[5:-5] / error[5:-5]) > 5


def test_draws_that_lack(rng):
    truth, draws = posterior(rng, 50, 20)
    draws["n"][:10] = np.nan
    ranks = sample_ranks(truth, draws)
    assert np.isnan(ranks["n"][:10]).all()
    assert np.isfinite(ranks["g1"]).all()
    assert np.isfinite(expected_coverage(truth, draws)[1]).all()
    truth["flux"][:] = 2.0  # not drawn from a prior: left out
    assert np.array_equal(
        expected_coverage(truth, draws, rng=np.random.default_rng(1))[1],
        expected_coverage(truth, {**draws, "flux": draws["flux"] * 7}, rng=np.random.default_rng(1))[1],
    )
    assert np.isnan(expected_coverage({"flux": truth["flux"]}, {"flux": draws["flux"]})[1]).all()
    draws["n"][:] = np.nan
    assert np.isnan(expected_coverage(truth, draws)[1]).all()
    assert np.isnan(rank_uniformity(sample_ranks(truth, draws)["n"]))


def test_compare_with_draws(truth, rng):
    result = make_result(truth, rng)
    draws = QTable({"id": result["id"]})
    for name in ("n", "r_eff"):
        column = result[f"{name}_fit"]
        unit = column.unit or 1
        noise = (SCATTER[name] * rng.normal(size=(COUNT, 60)) - BIAS[name]) * unit
        draws[name] = (column[:, None] + noise).to(u.mas) if name == "r_eff" else column[:, None] + noise
    compared = compare(truth, result, samples=draws[::-1][: COUNT // 2], bins=0, n_bootstrap=5)
    assert set(compared.ranks) == {"n", "r_eff"}
    assert np.isfinite(compared.ranks["n"]).sum() == COUNT // 2
    assert compared.row("r_eff")["rank_p"] > 1e-3
    assert np.isnan(compared.row("g1")["rank_p"])
    level, coverage, error = compared.coverage
    assert (coverage[0], coverage[-1]) == (0, 1)
    assert (np.diff(coverage) >= 0).all()
    assert len(level) == len(error) == len(coverage)


def test_every_statistic_is_described(truth, result):
    table = compare(truth, result, bins=0, n_bootstrap=2).table
    for name in STATISTICS:
        assert table[name].info.description == STATISTICS[name]
        assert f"{name}_err" in table.colnames


def test_challenge_metrics(truth, rng):
    flux, n = np.asarray(truth["true_flux"]), np.asarray(truth["true_n"])
    found = Table({"id": truth["id"], "flux_fit": flux * (1.02 + 0.1 * rng.normal(size=COUNT))})
    found["flux_err"] = 0.1 * flux
    found["n_fit"] = n * 10 ** (-0.05 + 0.08 * rng.normal(size=COUNT))
    found["n_fit"][:40] *= 10.0
    table = challenge_metrics(truth, found[20:])
    rows = {row["parameter"]: row for row in table}
    assert set(rows) == {"flux", "n"}
    assert rows["flux"]["completeness"] == pytest.approx(1 - 20 / COUNT)
    assert within(rows["flux"], "bias", 0.02)
    assert within(rows["flux"], "dispersion", 0.1 * 0.9945)  # 68 % of a Gaussian lie within 0.9945 sigma
    assert within(rows["flux"], "within_1_sigma", 0.6827 - 0.0097)  # 2 % off centre
    assert rows["flux"]["outlier_fraction"] == 0
    assert within(rows["n"], "bias", -0.05)
    assert within(rows["n"], "dispersion", 0.08 * 0.9945, sigma=5)
    assert rows["n"]["outlier_fraction"] == pytest.approx(20 / (COUNT - 20))
    assert np.isnan(rows["n"]["within_1_sigma"])
    binned = challenge_metrics(match_tables(truth, found), bins={"snr": [10, 50, 100]}, n_bootstrap=3)
    assert len(binned) == 6
