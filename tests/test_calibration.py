"""The correction of error bars: what it learns, what it leaves alone, its file, and the fitters that take it."""

import hashlib
import json
import pickle

import numpy as np
import pytest
from astropy.table import QTable

from galmeasure import Cutouts, LSQSersicFitter, NeuralSersicFitter
from galmeasure.calibration import QuantileCalibration
from galmeasure.calibration.quantiles import coverage_metrics
from galmeasure.calibration.regression import SIZES, basis, fit_mean, fit_quantile
from galmeasure.flags import Flag
from galmeasure.parameters import PARAMETER_NAMES, PARAMETERS

COUNT = 2500
SIX_SIGMA = 6.0 * np.sqrt(0.6827 * 0.3173 / COUNT)


def galaxies(count=COUNT, *, scale=1.0, bias=0.0, seed=1):
    """Truths and measurements whose posteriors are Gaussian, with errors too small by ``scale``."""
    rng = np.random.default_rng(seed)
    snr, size = np.exp(rng.uniform(np.log(8), np.log(200), count)), np.exp(rng.normal(0, 0.4, count))
    shape = np.stack([rng.uniform(1.0, 4.0, count), 3.0 * size, *rng.uniform(-0.4, 0.4, (2, count))])
    truth = np.column_stack([100.0 * snr, *shape, np.full((count, 2), 32.0)])
    error = np.column_stack([np.full(count, 100.0), 2 / snr, 6 * size / snr, *np.full((2, count), 2.0) / snr])
    error = np.column_stack([error, 0.5 / snr, 0.5 / snr])
    values = truth + scale * error * (rng.normal(size=truth.shape) + bias)
    levels = np.array([-1.0, 0.0, 1.0])[None, :, None]
    return {
        "truth": truth, "values": values, "error": error, "quantiles": values[:, None] + error[:, None] * levels,
        "snr": snr, "size": size,
    }  # fmt: skip


def learn(found, **options):
    return QuantileCalibration.fit(**found, **options)


def corrected(calibration, found):
    covariance = found["error"][:, :, None] * np.eye(7) * found["error"][:, None]
    about = {"snr": found["snr"], "size": found["size"]}
    values, covariance, quantiles = calibration.apply(found["values"], covariance, found["quantiles"], **about)
    return values, np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)), quantiles


def coverage(found, values, error):
    return np.mean(np.abs(values - found["truth"]) <= error, axis=0)


def between(found, quantiles):
    return np.mean((found["truth"] > quantiles[:, 0]) & (found["truth"] < quantiles[:, 2]), axis=0)


def test_what_is_calibrated_stays():
    found = galaxies()
    calibration = learn(found)
    terms = [len(c) for each in calibration.coefficients.values() for c in each.values()]
    assert np.mean(np.array(terms) == 0) > 0.8  # 35 of them, each seen to change with a probability of a few per cent
    other = galaxies(seed=5)
    values, error, quantiles = corrected(calibration, other)
    assert np.abs(np.log(error / other["error"])).max() < 0.1
    assert (np.abs(values - other["values"]) / other["error"]).max() < 0.2
    assert np.abs(between(other, quantiles) - 0.683).max() < 0.05


@pytest.mark.parametrize("scale", [1.3, 0.75])
def test_wrong_scale_is_found(scale):
    found, other = galaxies(scale=scale), galaxies(scale=scale, seed=5)
    assert np.abs(coverage(other, other["values"], other["error"]) - 0.683).min() > 0.08
    values, error, quantiles = corrected(learn(found), other)
    assert np.abs(coverage(other, values, error) - 0.683).max() < SIX_SIGMA
    assert np.abs(between(other, quantiles) - 0.683).max() < SIX_SIGMA


def test_bias_is_found():
    found, other = galaxies(bias=0.5), galaxies(bias=0.5, seed=5)
    calibration = learn(found)
    values, error, quantiles = corrected(calibration, other)
    pull = (values - other["truth"]) / other["error"]
    assert np.abs(pull.mean(axis=0)).max() < 0.1
    assert np.abs(np.mean(quantiles[:, 1] < other["truth"], axis=0) - 0.5).max() < 0.05
    assert np.abs(coverage(other, values, error) - 0.683).max() < SIX_SIGMA


def test_skewed_posterior():
    """Upper and lower widths are corrected each for itself."""
    found, other = galaxies(), galaxies(seed=5)
    for each in (found, other):
        each["quantiles"][:, 0] = each["quantiles"][:, 1] - 1.5 * each["error"]
        each["quantiles"][:, 2] = each["quantiles"][:, 1] + 0.7 * each["error"]
    _, _, quantiles = corrected(learn(found), other)
    below, above = (np.mean(other["truth"] < quantiles[:, k], axis=0) for k in (0, 2))
    assert np.abs(below - 0.159).max() < 0.04
    assert np.abs(above - 0.841).max() < 0.04


def test_trend_with_snr():
    found, other = galaxies(), galaxies(seed=5)
    for each in (found, other):
        each["values"] = each["truth"] + (each["values"] - each["truth"]) * (each["snr"][:, None] / 40.0) ** 0.4
        each["quantiles"] = None
    values, error, _ = corrected(learn(found), other)
    for low, high in ((8, 20), (20, 60), (60, 200)):
        some = (other["snr"] > low) & (other["snr"] < high)
        part = {key: None if each is None else each[some] for key, each in other.items()}
        assert np.abs(coverage(part, values[some], error[some]) - 0.683).max() < 0.07


def test_outliers_do_not_matter():
    found = galaxies(scale=1.3)
    clean = learn(found)
    found["values"][::50] += 1e4 * found["error"][::50]
    spoiled = learn(found)
    other = galaxies(scale=1.3, seed=5)
    some, all_of_them = corrected(clean, other), corrected(spoiled, other)
    assert np.abs(np.log(all_of_them[1] / some[1])).max() < 0.12
    assert np.median(np.abs(all_of_them[0] - some[0]) / other["error"]) < 0.1


def test_few_galaxies_change_little():
    spread = []
    for seed in range(8):
        calibration, other = learn(galaxies(150, seed=seed)), galaxies(500, seed=99)
        spread.append(np.log(corrected(calibration, other)[1] / other["error"]))
    assert np.std(spread) < 0.08
    with pytest.raises(ValueError, match="values must have at least 100 galaxies that are measured, not 99"):
        learn(galaxies(99))


def test_order_and_bounds():
    """Whatever is measured, quantiles keep their order and parameters their bounds."""
    strong = {"shift": (2.9,), "scale": (2.0,), "median": (-2.9,), "lower": (1.6,), "upper": (-1.6,)}
    calibration = QuantileCalibration(dict.fromkeys(PARAMETER_NAMES, strong), ((0.0, 5.0), (-2.0, 2.0)), 200)
    rng = np.random.default_rng(3)
    count = 2000
    quantiles = np.sort(rng.normal(size=(count, 3, 7)), axis=1)
    quantiles[:, :, [0, 2]] = np.exp(3.0 * quantiles[:, :, [0, 2]])
    quantiles[:, :, 1] = 0.3 + 7.7 / (1 + np.exp(-quantiles[:, :, 1]))
    quantiles[:, :, 3:5] = np.tanh(quantiles[:, :, 3:5])
    values = quantiles[:, 1].copy()
    values[:, 3:5] /= np.maximum(1.0, np.hypot(values[:, 3], values[:, 4]) / 0.94)[:, None]
    error = quantiles[:, 2] - quantiles[:, 0]
    found = {"values": values, "error": error, "quantiles": quantiles}
    found |= {"snr": np.exp(rng.uniform(-3, 9, count)), "size": np.exp(rng.uniform(-9, 9, count))}
    values, new_error, moved = corrected(calibration, found)
    assert (np.diff(moved, axis=1) > 0).all()
    for part in (values[:, None], moved):
        assert (part[:, :, [0, 2]] > 0).all()
        assert (part[:, :, 1] >= PARAMETERS[1].lower).all()
        assert (part[:, :, 1] <= PARAMETERS[1].upper).all()
        assert (np.abs(part[:, :, 3:5]) < 1).all()
    assert (np.hypot(values[:, 3], values[:, 4]) <= 0.95 + 1e-9).all()
    assert np.allclose(new_error / error, 5.0)  # no factor is larger than 5


def test_unknown_rows_stay():
    calibration, found = learn(galaxies(scale=1.3)), galaxies(20)
    found["snr"][:4] = np.nan, np.inf, 0.0, -1.0
    found["size"][4:6] = np.nan, np.inf
    found["values"][6] = np.nan
    found["quantiles"][7] = np.nan
    values, error, quantiles = corrected(calibration, found)
    assert np.array_equal(values[:6], found["values"][:6])
    assert np.array_equal(error[:6], found["error"][:6])
    assert np.array_equal(quantiles[:6], found["quantiles"][:6])
    assert np.isnan(values[6]).all()
    assert np.isnan(quantiles[7]).all()
    assert (error[8:] > 1.2 * found["error"][8:]).all()


def test_covariance_keeps_its_correlations():
    calibration, found = learn(galaxies(scale=1.3)), galaxies(50)
    rng = np.random.default_rng(1)
    root = rng.normal(size=(50, 7, 7))
    covariance = root @ root.transpose(0, 2, 1)
    _, new, _ = calibration.apply(found["values"], covariance, snr=found["snr"], size=found["size"])

    def correlation(matrix):
        sigma = np.sqrt(np.diagonal(matrix, axis1=1, axis2=2))
        return matrix / sigma[:, :, None] / sigma[:, None]

    assert np.allclose(correlation(new), correlation(covariance))
    assert (new[:, 0, 0] > 1.4 * covariance[:, 0, 0]).all()


@pytest.mark.parametrize("point", ["median", "mode"])
def test_points_of_posteriors(point):
    found, other = galaxies(bias=0.5), galaxies(bias=0.5, seed=5)
    values, _, quantiles = corrected(learn(found, point=point), other)
    away = np.abs(values - quantiles[:, 1]) / other["error"]
    away = away[np.hypot(values[:, 3], values[:, 4]) < 0.94]  # where the bound of both shears does not matter
    assert away.max() < (1e-12 if point == "median" else 0.2)
    assert np.abs(np.mean(values < other["truth"], axis=0) - 0.5).max() < 0.05


def test_range_is_not_left():
    calibration = learn(galaxies(scale=1.3))
    found = galaxies(2)
    found["snr"][:] = np.exp(calibration.ranges[0][1]), 1e6
    found["size"][:] = 1.0
    found["error"][1] = found["error"][0]
    _, error, _ = corrected(calibration, found)
    assert np.allclose(error[0], error[1])


def test_regression():
    rng = np.random.default_rng(1)
    u, v = rng.uniform(-1, 1, (2, 4000))
    target = 1.0 + 0.5 * u - 0.3 * v**2 + 0.2 * rng.normal(size=4000)
    for level, offset in ((0.5, 0.0), (0.8413, 0.2)):
        found = fit_quantile(u, v, target, level)
        assert np.abs(basis(u, v, len(found)) @ found - (1.0 + 0.5 * u - 0.3 * v**2 + offset)).max() < 0.08
    target[::40] = 1e6
    found = fit_mean(u, v, target)
    assert len(found) in SIZES
    assert np.abs(basis(u, v, len(found)) @ found - (1.0 + 0.5 * u - 0.3 * v**2)).max() < 0.08


def test_metrics():
    found = galaxies(scale=1.3, bias=0.5)
    metrics = coverage_metrics(found["truth"], found["values"], found["error"], found["quantiles"])
    assert metrics["n"]["bias"] == pytest.approx(0.65, abs=0.1)
    assert metrics["n"]["coverage_68"] == pytest.approx(metrics["n"]["coverage_q"])
    assert 0.45 < metrics["g1"]["coverage_68"] < 0.6


def test_file(tmp_path):
    calibration = learn(galaxies(scale=1.3), estimator={"method": "lsq"}, about={"image": "a.fits", "seed": 1})
    calibration.save(tmp_path / "c.json")
    again = QuantileCalibration.read(tmp_path / "c.json")
    assert again == calibration
    with pytest.raises(ValueError, match="exists already"):
        calibration.save(tmp_path / "c.json")
    calibration.save(tmp_path / "c.json", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]


def spoil(content, keys, value):
    for key in keys[:-1]:
        content = content[key]
    content[keys[-1]] = value


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("format",), "photometry", "is not a calibration file of galmeasure"),
        (("version",), 2, "has version 2; this galmeasure reads 1"),
        (("coefficients", "n", "scale"), [1.0, 2.0], "is damaged: coefficients of n"),
        (("coefficients", "n", "scale"), [float("nan")], "is damaged: coefficients of n"),
        (("coefficients", "g1"), {"shift": []}, "is damaged: coefficients of g1"),
        (("coefficients",), {}, "is damaged"),
        (("ranges",), {"log_snr": [1, 2]}, "is damaged: ranges"),
        (("ranges", "log_snr"), [2, 1], "is damaged: ranges"),
        (("point",), "centre", "is damaged: point"),
        (("n_galaxies",), "many", "is damaged"),
    ],
)
def test_bad_files(tmp_path, keys, value, message):
    path = tmp_path / "c.json"
    learn(galaxies(300)).save(path)
    content = json.loads(path.read_text())
    spoil(content, keys, value)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"calibration: .*(has version 2|no.* a calibration file|match its sha256)"):
        QuantileCalibration.read(path)
    content.pop("sha256")  # files of earlier versions have none
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"calibration: .*{message}"):
        QuantileCalibration.read(path)


def test_files_that_other_programs_write_again(tmp_path):
    calibration = learn(galaxies(scale=1.3), estimator={"method": "lsq"}, about={"image": "a.fits", "seed": 1})
    calibration.save(tmp_path / "c.json")
    content = json.loads((tmp_path / "c.json").read_text())
    for text in (json.dumps(content, sort_keys=True), json.dumps(dict(reversed(content.items())), indent=4)):
        (tmp_path / "c.json").write_text(text.replace("1.0,", "1,"))
        assert QuantileCalibration.read(tmp_path / "c.json") == calibration
    content["ranges"] = dict(reversed(content["ranges"].items()))
    content.pop("sha256")
    (tmp_path / "c.json").write_text(json.dumps(content))
    again = QuantileCalibration.read(tmp_path / "c.json")
    assert again == calibration
    found = galaxies(50, scale=1.3)
    rows = {"snr": found["snr"], "size": found["size"]}
    covariance = found["error"][:, :, None] * np.eye(7) * found["error"][:, None, :]
    old, new = (each.apply(found["values"], covariance, **rows) for each in (calibration, again))
    np.testing.assert_array_equal(old[1], new[1])


@pytest.mark.parametrize("number", range(5))
def test_changed_numbers_are_refused(tmp_path, number):
    path = tmp_path / "c.json"
    learn(galaxies(300)).save(path)
    text = path.read_text()
    places = [i for i in range(len(text) - 1) if text[i].isdigit() and text[i - 1] == "."]
    place = places[number * len(places) // 5]
    path.write_text(text[:place] + str(9 - int(text[place])) + text[place + 1 :])
    with pytest.raises(ValueError, match="does not match its sha256"):
        QuantileCalibration.read(path)


@pytest.mark.parametrize("data", [b"", b"\x00\xff\x10", b"[1, 2]", b"SIMPLE  =", b'"x"'])
def test_foreign_files(tmp_path, data):
    path = tmp_path / "c.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"calibration: .*c.json is"):
        QuantileCalibration.read(path)
    with pytest.raises(ValueError, match=r"calibration: .*none.json cannot be read \(No such file"):
        QuantileCalibration.read(tmp_path / "none.json")


def test_wrong_arguments():
    found = galaxies(200)
    with pytest.raises(ValueError, match="point must be one of 'mean', 'median', 'mode', not 'best'"):
        learn(found, point="best")
    with pytest.raises(ValueError, match=r"snr must have shape \(200,\)"):
        learn({**found, "snr": 1.0})
    with pytest.raises(ValueError, match=r"quantiles must have shape \(200, 3, 7\)"):
        learn({**found, "quantiles": found["values"]})
    with pytest.raises(ValueError, match=r"error must have shape \(N, 7\)"):
        learn({**found, "error": found["error"][:, :6]})


@pytest.fixture(scope="module")
def cutouts():
    """Three galaxies, one of which cannot be measured."""
    y, x = np.mgrid[-20:21, -20:21]
    rng = np.random.default_rng(1)
    images = np.stack([500 * np.exp(-np.hypot(x, y) / 3.0) + rng.normal(0, 5, x.shape) for _ in range(3)])
    images[1] = np.nan
    return Cutouts(images, np.exp(-(x**2 + y**2) / 8.0), error=5.0, pixel_scale=0.2)


def made_for(fitter, tmp_path, **options):
    calibration = learn(galaxies(scale=1.3, bias=0.3), estimator=fitter.describe_estimator(), **options)
    calibration.save(tmp_path / "field.json", overwrite=True)
    return tmp_path / "field.json"


@pytest.mark.parametrize("kind", [NeuralSersicFitter, LSQSersicFitter])
def test_fitters_take_it(tmp_path, cutouts, kind):
    path = made_for(kind(), tmp_path)
    options = {"covariance": True, "crb": True}
    options |= {"precision": "float32"} if kind is NeuralSersicFitter else {}
    plain = kind(**options).fit(cutouts)
    fitter = kind(calibration=path, **options)
    table = fitter.fit(cutouts)
    ratio = table["n_err"] / plain["n_err"]
    assert np.allclose(ratio[[0, 2]], 1.3, atol=0.08)
    assert np.isnan(table["n_fit"][1])
    assert table["flags"][1] & Flag.FAILED
    assert (table["flux_fit"] < plain["flux_fit"])[[0, 2]].all()
    assert (table["q"] != plain["q"])[[0, 2]].all()  # what is derived follows
    for name in ("snr", "chi2_reduced", "n_crb", "flags"):  # those of the model that was fitted
        assert np.allclose(table[name], plain[name], rtol=1e-3, equal_nan=True)
    variance = table["covariance"][:, 1, 1]
    assert np.allclose(variance[[0, 2]], table["n_err"][[0, 2]] ** 2)
    if kind is NeuralSersicFitter:
        assert (table["n_q84"] - table["n_q16"] > 1.1 * (plain["n_q84"] - plain["n_q16"]))[[0, 2]].all()
    again = pickle.loads(pickle.dumps(fitter)).fit(cutouts)
    assert np.allclose(again["n_err"], table["n_err"], rtol=1e-3, equal_nan=True)


def test_meta_in_fits(tmp_path, cutouts):
    path = made_for(LSQSersicFitter(), tmp_path)
    table = LSQSersicFitter(calibration=str(path)).fit(cutouts)
    table.write(tmp_path / "t.fits")
    meta = QTable.read(tmp_path / "t.fits").meta
    assert meta["CALIBRAT"] == "field.json"
    assert meta["CALIBSHA"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "CALIBRAT" not in LSQSersicFitter().fit(cutouts).meta


def test_made_for_another_estimator(tmp_path):
    path = made_for(NeuralSersicFitter(), tmp_path)
    with pytest.raises(ValueError, match="calibration was made for another estimator: for method 'neural', not 'lsq'"):
        LSQSersicFitter(calibration=path)
    with pytest.raises(ValueError, match=r"for weights 'survey-v3 \(\w{12}\)', not 'study-v2 \(\w{12}\)'"):
        NeuralSersicFitter(weights="study-v2", calibration=path)
    with pytest.raises(ValueError, match="for summary 'mean', not 'median'"):
        NeuralSersicFitter(summary="median", calibration=path)
    with pytest.raises(ValueError, match="for refine 'auto', not 'importance'"):
        NeuralSersicFitter(refine="importance", calibration=path)
    path = made_for(LSQSersicFitter(fixed={"n": 1.0}), tmp_path)
    with pytest.raises(ValueError, match=r"for fixed \['n'\], not \[\]"):
        LSQSersicFitter(calibration=path)
    with pytest.raises(ValueError, match="calibration: 7 cannot be read"):
        LSQSersicFitter(calibration=7)


def test_fixed_parameters_stay(tmp_path, cutouts):
    found = galaxies(scale=1.3)
    found["values"][:, 1], found["error"][:, 1], found["quantiles"] = found["truth"][:, 1], 0.0, None
    fitter = LSQSersicFitter(fixed={"n": 1.0})
    learn(found, estimator=fitter.describe_estimator()).save(tmp_path / "c.json")
    table = LSQSersicFitter(fixed={"n": 1.0}, calibration=tmp_path / "c.json").fit(cutouts)
    assert (table["n_fit"][[0, 2]] == 1.0).all()
    assert (table["n_err"][[0, 2]] == 0.0).all()
    assert np.allclose((table["flux_err"] / fitter.fit(cutouts)["flux_err"])[[0, 2]], 1.3, atol=0.08)
