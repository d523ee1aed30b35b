"""Data sets drawn with GalSim: distributions, noise, the same rows, stopping and going on, options, the command."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from galmeasure import LSQSersicFitter, read_cutouts
from galmeasure.cli import main
from galmeasure.training import DATASETS, DatasetConfig, get_dataset_config, make_dataset, read_dataset_config

FAST = DatasetConfig(n=1.0, r_eff=(0.2, 0.5), psf_fwhm=0.7, stamp_size=32, psf_size=31, sigma=(200.0, 300.0))
"""Galaxies that GalSim draws quickly."""


@pytest.fixture(autouse=True)
def needs_galsim():
    pytest.importorskip("galsim")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """100 galaxies of each of the study's sets, with the stamps without noise."""
    pytest.importorskip("galsim")
    folder, tables = tmp_path_factory.mktemp("study"), {}
    for name in ("1", "2", "3"):
        config = dataclasses.replace(DATASETS[name], share_n=8)
        path = make_dataset(folder / f"{name}.fits", config, 100, seed=5, noiseless=True)
        tables[name] = Table.read(path, 1)
    return tables


def test_the_sets_of_the_study_are_those_of_the_study():
    for name, fwhm, sigma in (
        ("1", (0.5, 0.5), (200, 200)),
        ("2", (0.5, 0.5), (200, 400)),
        ("3", (0.5, 1), (200, 400)),
    ):
        config = get_dataset_config(name)
        assert (config.psf_fwhm, config.sigma) == (fwhm, sigma)
        assert (config.n, config.r_eff, config.g) == ((0.5, 6.0), (0.1, 0.6), (0.0, 0.67))
        assert (config.flux, config.snr, config.centre) == ((0.3e5, 4e5), (10.0, 100.0), 0.0)
        assert (config.psf, config.beta, config.gain, config.share_n) == ("moffat", 2.0, 1.0, 1)
        assert (config.stamp_size, config.pixel_scale) == (64, 0.23)


@pytest.mark.parametrize("name", ["1", "2", "3"])
def test_rows_are_within_the_ranges(study, name):
    table, config = study[name], DATASETS[name]
    assert table["id"].tolist() == list(range(1, 101))
    assert table["cutout"].dtype == np.dtype(">f4")
    for field in ("n", "r_eff", "flux", "psf_fwhm", "sigma", "snr"):
        lower, upper = getattr(config, field)
        assert table[f"true_{field}"].min() >= lower
        assert table[f"true_{field}"].max() <= upper
    assert np.hypot(table["true_g1"], table["true_g2"]).max() <= 0.67
    assert (table["true_x"] == 31.5).all()
    assert (table["true_y"] == 31.5).all()
    np.testing.assert_array_equal(table["error"], table["true_sigma"])
    assert ("psf" in table.colnames) == (name == "3")


@pytest.mark.parametrize("name", ["1", "2", "3"])
def test_stamps_and_noise(study, name):
    """S/N as defined, the noise of sky and source, and GalSim's own drawing."""
    import galsim

    table = study[name]
    clean, sigma = np.array(table["noiseless"], dtype=float), np.array(table["true_sigma"])
    np.testing.assert_allclose(np.sqrt((clean**2).sum((1, 2))) / sigma, table["true_snr"], rtol=1e-5)
    variance = sigma[:, None, None] ** 2 + clean.clip(0)
    np.testing.assert_allclose(np.sqrt((clean**2 / variance).sum((1, 2))), table["true_snr_total"], rtol=1e-4)
    pull = (np.array(table["cutout"]) - clean) / np.sqrt(variance)
    assert pull.mean() == pytest.approx(0, abs=4 / np.sqrt(pull.size))
    assert pull.std() == pytest.approx(1, abs=4 / np.sqrt(2 * pull.size))
    bright = clean > 0.3 * sigma[:, None, None] ** 2
    if bright.sum() > 100:
        assert pull[bright].std() == pytest.approx(1, abs=4 / np.sqrt(2 * bright.sum()))
    row = table[7]
    galaxy = galsim.Sersic(row["true_n"], half_light_radius=row["true_r_eff"]).withFlux(row["true_flux"])
    galaxy = galsim.Convolve(
        galaxy.shear(g1=row["true_g1"], g2=row["true_g2"]), galsim.Moffat(beta=2, fwhm=row["true_psf_fwhm"])
    )
    image = galaxy.drawImage(nx=64, ny=64, scale=0.23, dtype=float).array
    np.testing.assert_allclose(row["noiseless"], image, atol=1e-5 * image.max())


def test_the_cut_is_that_of_the_stamps():
    """The estimate that leaves candidates out before they are drawn is far better than its margin."""
    from galmeasure.simulation.galsim import draw as _draw

    for psf in ("moffat", "gaussian", "kolmogorov"):
        config = dataclasses.replace(DATASETS["3"], psf=psf)
        values = _draw._draw_candidates(config, np.random.default_rng(3))
        estimate = _draw.estimate_snr(config, values)
        for i in range(12):
            image = _draw._draw_galaxy(config, tuple(float(values[name][i]) for name in _draw._DRAWN))
            assert estimate[i] == pytest.approx(np.sqrt((image**2).sum()) / values["sigma"][i], rel=_draw._MARGIN / 4)


def test_candidates_have_the_distributions_asked_for():
    from scipy.stats import kstest

    from galmeasure.simulation.galsim import draw as _draw

    config = DatasetConfig(centre=2.0, sigma=(100, 400), logarithmic="sigma", share_n=1)
    rng = np.random.default_rng(1)
    batches = [_draw._draw_candidates(config, rng) for _ in range(30)]
    values = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    expected = {
        "n": (values["n"] - 0.5) / 5.5,
        "r_eff": (values["r_eff"] - 0.1) / 0.5,
        "flux": (values["flux"] - 0.3e5) / 3.7e5,
        "sigma": np.log(values["sigma"] / 100) / np.log(4),
        "g": np.hypot(values["g1"], values["g2"]) / 0.67,
        "angle": np.arctan2(values["g2"], values["g1"]) / (2 * np.pi) + 0.5,
        "x": (values["x"] - 29.5) / 4,
        "y": (values["y"] - 29.5) / 4,
    }
    for name, unit in expected.items():
        assert kstest(unit, "uniform").pvalue > 1e-3, name


def test_shared_indices_keep_their_distribution():
    from galmeasure.simulation.galsim import draw as _draw

    config = DatasetConfig(share_n=8)
    n = _draw._draw_candidates(config, np.random.default_rng(1))["n"]
    assert len(np.unique(n)) == len(n) // 8
    assert len(np.unique(n[:8])) == 1


def rows_of(path):
    with fits.open(path) as hdus:
        return np.array(hdus["CUTOUTS"].data)


def test_same_rows_for_any_number_of_processes(tmp_path):
    one = rows_of(make_dataset(tmp_path / "1.fits", FAST, 120, seed=3))
    two = rows_of(make_dataset(tmp_path / "2.fits", FAST, 120, seed=3, n_jobs=2))
    np.testing.assert_array_equal(one, two)
    short = rows_of(make_dataset(tmp_path / "3.fits", FAST, 70, seed=3))
    np.testing.assert_array_equal(one[:70], short)
    other = rows_of(make_dataset(tmp_path / "4.fits", FAST, 70, seed=4))
    assert not np.isin(other["true_flux"], one["true_flux"]).any()
    assert len(np.unique(one["true_flux"])) == 120
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.fits", "2.fits", "3.fits", "4.fits"]


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """A data set of 120 rows whose run was stopped in its second block, with half a row too many."""
    from galmeasure.simulation.galsim import datasets

    blocks = datasets._blocks

    def first_only(tasks, n_jobs):
        yield from blocks(tasks[:1], n_jobs)
        raise KeyboardInterrupt

    monkeypatch.setattr(datasets, "_blocks", first_only)
    with pytest.raises(KeyboardInterrupt):
        make_dataset(tmp_path / "o.fits", FAST, 120, seed=3)
    monkeypatch.undo()
    with (tmp_path / "o.fits.partial").open("ab") as file:
        file.write(b"x" * 3000)
    return tmp_path / "o.fits"


def test_a_stopped_run_goes_on(stopped, monkeypatch):
    from galmeasure.simulation.galsim import datasets

    drawn = []
    draw = datasets.block_rows
    monkeypatch.setattr(datasets, "block_rows", lambda *task: drawn.append(task[2]) or draw(*task))
    assert not stopped.exists()
    make_dataset(stopped, FAST, 120, seed=3)
    assert drawn == [1, 2]
    whole = make_dataset(stopped.with_name("whole.fits"), FAST, 120, seed=3)
    np.testing.assert_array_equal(rows_of(stopped), rows_of(whole))
    assert not stopped.with_name("o.fits.partial").exists()
    assert len(read_cutouts(stopped)) == 120


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 4}, r"another configuration \(seed 3, not 4\); repeat that one"),
        ({"config": dataclasses.replace(FAST, sigma=100.0)}, r"sigma \[200.0, 300.0\], not \[100.0, 100.0\]"),
        ({"noiseless": True}, "noiseless False, not True"),
        ({"config": dataclasses.replace(FAST, g1=0.1, g2=0.0)}, "g1 None, not 0.1"),
    ],
)
def test_another_configuration_is_refused(stopped, changes, message):
    arguments = {"config": FAST, "size": 120, "seed": 3, **changes}
    before = stopped.with_name("o.fits.partial").read_bytes()
    with pytest.raises(ValueError, match=message):
        make_dataset(stopped, **arguments)
    assert stopped.with_name("o.fits.partial").read_bytes() == before


def test_something_else_under_the_temporary_name(tmp_path):
    (tmp_path / "o.fits.partial").write_bytes(b"hello" * 1000)
    with pytest.raises(ValueError, match="is not the beginning of a data set; delete it"):
        make_dataset(tmp_path / "o.fits", FAST, 2)


@pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")
def test_two_runs_at_once(stopped):
    import fcntl

    with stopped.with_name("o.fits.partial").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another run is writing it"):
            make_dataset(stopped, FAST, 120, seed=3)


def test_existing_files(tmp_path, capsys):
    path = make_dataset(tmp_path / "o.fits", FAST, 2, progress_bar=True)
    assert "2/2" in capsys.readouterr().err
    with pytest.raises(FileExistsError, match="exists already; --overwrite"):
        make_dataset(path, FAST, 3)
    assert len(rows_of(make_dataset(path, FAST, 3, overwrite=True))) == 3


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"size": 0}, ValueError, "size must be at least 1"),
        ({"size": 2.5}, TypeError, "size must be a whole number"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"n_jobs": 0}, ValueError, "n_jobs must be 1 or more"),
        ({"config": "4"}, ValueError, "dataset must be one of 1, 2, 3, reference-60, reference-30, not '4'"),
        ({"config": {"n": 1}}, TypeError, "config must be a DatasetConfig or the name of a data set, not dict"),
        ({"path": "o.txt"}, ValueError, "output must end in .fits"),
        ({"path": "no/o.fits"}, FileNotFoundError, "the folder does not exist"),
        ({"config": dataclasses.replace(FAST, flux=1.0)}, ValueError, "snr: none of .* galaxies lies within 10 to 100"),
    ],
)
def test_wrong_arguments(tmp_path, arguments, kind, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=message):
        make_dataset(**{"path": "o.fits", "config": FAST, "size": 2, **arguments})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ({"n": (0.2, 4)}, ValueError, "n must be a lower and an upper bound within 0.3 to 6.2"),
        ({"n": (4, 1)}, ValueError, "n must be a lower and an upper bound"),
        ({"r_eff": 0.0}, ValueError, "r_eff must be"),
        ({"g": (0.0, 1.0)}, ValueError, "g must be .* within 0 to 0.95"),
        ({"flux": (1, 2, 3)}, TypeError, "flux must be a number or a pair"),
        ({"flux": (0, float("inf"))}, ValueError, "flux must be"),
        ({"sigma": "200"}, TypeError, "sigma must be a number"),
        ({"psf_fwhm": float("nan")}, ValueError, "psf_fwhm must be"),
        ({"snr": (-1, 10)}, ValueError, "snr must be"),
        ({"g1": 0.1}, ValueError, "g1 and g2 must be given together"),
        ({"g1": 0.9, "g2": 0.9}, ValueError, "g1 and g2 must have a modulus"),
        ({"centre": -1}, ValueError, "centre must be at least 0"),
        ({"centre": 40}, ValueError, "centre must be at most half of stamp_size"),
        ({"psf": "airy"}, ValueError, "psf must be one of moffat, gaussian, kolmogorov"),
        ({"beta": 1.0}, ValueError, "beta must be 1.1 to 100"),
        ({"gain": 0.0}, ValueError, "gain must be"),
        ({"stamp_size": 4}, ValueError, "stamp_size must be 8 to 1024"),
        ({"stamp_size": 64.0}, TypeError, "stamp_size must be a whole number"),
        ({"pixel_scale": 0}, ValueError, "pixel_scale must be"),
        ({"psf_size": 1}, ValueError, "psf_size must be"),
        ({"psf_oversampling": 0}, ValueError, "psf_oversampling must be"),
        ({"share_n": 0}, ValueError, "share_n must be"),
        ({"logarithmic": "n"}, ValueError, "logarithmic must be names out of"),
    ],
)
def test_wrong_fields(values, kind, message):
    with pytest.raises(kind, match=message):
        DatasetConfig(**values)


def test_measured_by_least_squares(tmp_path):
    """The file is one that galmeasure measures: errors, gain, PSF and pixel scale are right."""
    config = DatasetConfig(
        n=(1.0, 3.0), r_eff=(0.3, 0.6), g=(0.0, 0.4), psf_fwhm=(0.7, 0.8), sigma=100.0, snr=(120, 250), centre=1.0
    )
    path = make_dataset(tmp_path / "o.fits", config, 100, seed=2, n_jobs=2)
    cutouts, truth = read_cutouts(path), Table.read(path, 1)
    np.testing.assert_array_equal(cutouts.gain, 1.0)
    np.testing.assert_array_equal(cutouts.pixel_scale, 0.23)
    table = LSQSersicFitter().fit(cutouts)
    assert str(table["flux_fit"].unit) == "adu"
    assert np.median(table["snr"] / truth["true_snr_total"]) == pytest.approx(1, abs=0.02)
    for name in ("x", "y", "flux", "n", "r_eff", "g1", "g2"):
        fit, err, true = (np.asarray(getattr(v, "value", v), dtype=float) for v in (
            table[f"{name}_fit"], table[f"{name}_err"], truth[f"true_{name}"]
        ))  # fmt: skip
        pull = (fit - true) / err
        assert np.mean(pull) == pytest.approx(0, abs=0.45), name
        assert np.std(pull) == pytest.approx(1, abs=0.3), name


def test_shared_and_oversampled_psf(tmp_path):
    config = dataclasses.replace(FAST, psf_oversampling=3)
    path = make_dataset(tmp_path / "o.fits", config, 4)
    with fits.open(path) as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "CUTOUTS", "PSF"]
        hdus.verify("exception")
        assert hdus["PSF"].data.shape == (93, 93)
        native = make_dataset(tmp_path / "n.fits", FAST, 4)
        psf = hdus["PSF"].data.reshape(31, 3, 31, 3)[:, 1, :, 1]
        np.testing.assert_allclose(9 * psf, fits.getdata(native, "PSF"), atol=3e-3 * psf.max())
    assert read_cutouts(path).psf_oversampling == 3
    varying = dataclasses.replace(config, psf_fwhm=(0.6, 0.8))
    cutouts = read_cutouts(make_dataset(tmp_path / "v.fits", varying, 4))
    assert cutouts.psf_oversampling == 3
    assert len(cutouts.psf_images) == 4


@pytest.mark.parametrize(("psf", "gain"), [("gaussian", 2.0), ("kolmogorov", 1.0)])
def test_other_psf_and_gain(tmp_path, psf, gain):
    config = dataclasses.replace(FAST, psf=psf, gain=gain, g1=0.1, g2=-0.2, flux=(1e6, 2e6), snr=(0, np.inf), sigma=1)
    path = make_dataset(tmp_path / "o.fits", config, 20, noiseless=True)
    table = Table.read(path, 1)
    assert table.meta["GAIN"] == gain
    assert set(table["true_g1"]) == {0.1}
    clean = np.array(table["noiseless"], dtype=float)
    pull = (np.array(table["cutout"]) - clean) / np.sqrt(1 + clean / gain)
    assert pull.std() == pytest.approx(1, abs=4 / np.sqrt(2 * pull.size))


@pytest.mark.parametrize(("name", "snr"), [("reference-60", 60), ("reference-30", 30)])
def test_reference_galaxy(tmp_path, name, snr):
    path = make_dataset(tmp_path / "o.fits", name, 60)
    table = Table.read(path, 1)
    first = table[0]
    truth = [first[f"true_{p}"] for p in ("flux", "n", "r_eff", "g1", "g2", "psf_fwhm")]
    assert truth == pytest.approx([1e5, 3.0, 0.3, -0.069, 0.15, 0.5])
    np.testing.assert_allclose(table["true_snr"], snr, rtol=0.01)
    assert len(np.unique(np.array(table["true_snr"]))) == 1
    assert not np.array_equal(table["cutout"][0], table["cutout"][1])


def test_header(tmp_path):
    import json

    header = fits.getheader(make_dataset(tmp_path / "o.fits", "3", 1, seed=11), 1)
    assert (header["SIMSEED"], header["GAIN"], header["PIXSCALE"], header["NAXIS2"]) == (11, 1.0, 0.23, 1)
    assert DatasetConfig(**json.loads(header["SIMCONF"])) == DATASETS["3"]


def test_files_of_options(tmp_path):
    toml, yaml = tmp_path / "c.toml", tmp_path / "c.yaml"
    toml.write_text('dataset = "reference-30"\nn = 2\nsigma = [100, 200]\nlogarithmic = ["sigma"]\n')
    config = read_dataset_config(toml)
    assert (config.n, config.sigma, config.g1, config.logarithmic) == ((2, 2), (100, 200), -0.069, ("sigma",))
    assert read_dataset_config(toml, DATASETS["1"]).g1 is None
    pytest.importorskip("yaml")
    yaml.write_text("dataset: reference-30\nn: 2\nsigma: [100, 200]\nlogarithmic: [sigma]\n")
    assert read_dataset_config(yaml) == config
    yaml.write_text("g: [0, 0.1]\ndataset: reference-30\n")
    assert read_dataset_config(yaml).g1 is None


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.toml", "n = ", "c.toml: not a TOML file"),
        ("c.yaml", "n: [", "c.yaml: not a YAML file"),
        ("c.yaml", "- 1", "c.yaml: must hold names and values"),
        ("c.toml", "m = 1", "c.toml: m is not an option of a data set; there are beta, centre"),
        ("c.toml", "n = 9", "c.toml: n must be a lower"),
        ("c.toml", "dataset = 7", "c.toml: dataset must be one of"),
        ("c.ini", "n = 9", "config must be a file ending in .toml"),
    ],
)
def test_wrong_files_of_options(tmp_path, name, text, message):
    if name.endswith(".yaml"):
        pytest.importorskip("yaml")
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_dataset_config(tmp_path / name)
    with pytest.raises(ValueError, match=r"none\.toml: no such file"):
        read_dataset_config(tmp_path / "none.toml")


def test_yaml_without_pyyaml(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    (tmp_path / "c.yml").write_text("n: 1")
    with pytest.raises(ValueError, match="YAML files need PyYAML, which is not installed; write the options as TOML"):
        read_dataset_config(tmp_path / "c.yml")


def call(*args):
    """Exit code of the command."""
    with pytest.raises(SystemExit) as stop:
        main(["simulate", *args])
    return stop.value.code


QUICK = ("--n", "1", "1", "--stamp-size", "32", "--psf-size", "31", "--psf-fwhm", "0.7", "0.7")


def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call("o.fits", "--dataset", "2", "--size", "5", *QUICK, "--seed", "4", "--noiseless", "--no-progress") == 0
    out, err = capsys.readouterr()
    assert out.startswith("simulated 5 galaxies in ")
    assert out.endswith("table o.fits\n")
    assert err == ""
    expected = dataclasses.replace(DATASETS["2"], n=1.0, stamp_size=32, psf_size=31, psf_fwhm=0.7)
    np.testing.assert_array_equal(
        rows_of("o.fits"), rows_of(make_dataset("p.fits", expected, 5, seed=4, noiseless=True))
    )
    (tmp_path / "c.toml").write_text('dataset = "2"\nsigma = 250\nn = 2\nstamp_size = 32\n')
    assert call("q.fits", "--size", "1", "--config", "c.toml", "--n", "1", "1", "--logarithmic", "flux") == 0
    table = Table.read("q.fits", 1)
    assert (table["true_n"][0], table["true_sigma"][0]) == (1.0, 250.0)
    with pytest.raises(SystemExit, match="0"):
        main(["o.fits"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "Missing option '--size'"),
        (("--size", "0"), "size must be at least 1"),
        (("--size", "2", "--n", "0.1", "3"), "n must be a lower and an upper bound within 0.3 to 6.2"),
        (("--size", "2", "--dataset", "9"), "Invalid value for '--dataset'"),
        (("--size", "2", "--config", "no.toml"), "no.toml: no such file"),
        (("--size", "2", "--g1", "0.1"), "g1 and g2 must be given together"),
    ],
)
def test_command_errors(tmp_path, monkeypatch, capsys, args, message):
    monkeypatch.chdir(tmp_path)
    assert call("o.fits", *args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"galmeasure: error: {message}")
    assert list(tmp_path.iterdir()) == []


def test_without_galsim(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "galsim", None)
    assert call("o.fits", "--size", "2") == 2
    assert "GalSim is needed to simulate data sets and is not installed; the extra 'train'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


RUN = "from galmeasure.cli import main\nif __name__ == '__main__':\n    main()\n"


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_command_goes_on(tmp_path, number):
    (tmp_path / "run.py").write_text(RUN)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "run.py", "simulate", "o.fits", "--size", "100000", "--n-jobs", "2", *QUICK]
    partial = tmp_path / "o.fits.partial"
    with subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 600
        while time.monotonic() < until and not (partial.exists() and partial.stat().st_size > 1e6):
            time.sleep(0.05)
        process.send_signal(number)
        _, err = process.communicate(timeout=300)
    assert process.returncode == {signal.SIGKILL: -signal.SIGKILL}.get(number, 130)
    assert "Traceback" not in err
    assert not (tmp_path / "o.fits").exists()
    if number == signal.SIGTERM:
        assert "o.fits.partial keeps what is done; the same command continues it" in err
    command[command.index("100000")] = "60"
    subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True)
    config = dataclasses.replace(DATASETS["1"], n=1.0, stamp_size=32, psf_size=31, psf_fwhm=0.7)
    whole = make_dataset(tmp_path / "whole.fits", config, 60)
    np.testing.assert_array_equal(rows_of(tmp_path / "o.fits"), rows_of(whole))
