"""Training: configuration, pool, exact resume, a loop that learns, and the command."""

import csv
import itertools
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from astropy.table import Table
from click.testing import CliRunner

from galmeasure.render import prepare_psf, render_sersic
from galmeasure.simulation.stamps import SimulationConfig
from galmeasure.training import StampPool, Trainer, list_training_configs, read_training_config, train
from galmeasure.training.config import TrainingConfig

SMOKE = read_training_config("smoke")


@pytest.fixture
def one_thread():
    """Torch with one thread: with several, the order of its sums may differ from one run to the next."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", list_training_configs())
def test_configurations_in_the_package(name):
    config = read_training_config(name)
    assert config.name == name
    assert config.description
    assert config.network.r_eff[1] > config.network.r_eff[0]


def test_configuration_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\nsteps = 7\n[simulation]\npreset = "study"\nbackground_electrons = [10, 20]\n'
        "[network]\nwidths = [32, 64]\n"
    )
    config = read_training_config(path)
    assert config.steps == 7
    assert config.simulation == replace(
        SimulationConfig.study(), background_electrons=config.simulation.background_electrons
    )
    assert config.simulation.background_electrons.upper == 20
    assert config.network.widths == (32, 64)
    assert config.network.centre == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "a"\nstep = 3', "step"),
        ('name = "a"\nsteps = 0', "steps must be a positive integer"),
        ('name = "a"\npool = 100', "pool must be a multiple"),
        ('name = "a/b"', "name must be"),
        ('name = "a"\n[simulation]\npreset = "deep"', "preset must be"),
        ('name = "a"\n[simulation]\nneighbors = 1', "neighbors"),
        ('name = "a"\n[simulation]\nneighbours = -1', "neighbours must not be negative"),
        ('name = "a"\n[network]\nn = [0, 1]', r"\[network\] must hold only"),
        ("name = ", "Invalid value"),
        ("steps = 3", "name"),
    ],
)
def test_wrong_configuration_files(tmp_path, text, message):
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_training_config(path)
    assert "wrong.toml" in str(caught.value)


def test_configuration_that_is_not_there():
    with pytest.raises(ValueError, match="survey-v1"):
        read_training_config("nowhere.toml")


def test_pool_draws_what_was_asked_for():
    pool = StampPool(SMOKE.simulation, capacity=64, reuse=2.0, seed=3, piece=32)
    assert list(pool.fill()) == [32, 64]
    inputs, parameters = pool.draw(16)
    assert inputs.image.shape == (16, 64, 64)
    assert parameters.shape == (16, 7)
    assert torch.isfinite(inputs.image).all()
    assert (inputs.error > 0).all()
    assert (inputs.image[~inputs.good] == 0).all()
    for _ in range(4):
        pool.draw(16)
    assert pool.simulated == 64 + 32  # 80 drawn, each seen twice


def test_pool_state_gives_the_same_stamps(one_thread):
    def pool():
        return StampPool(SMOKE.simulation, capacity=64, reuse=1.0, seed=3, piece=32)

    first = pool()
    list(first.fill())
    for _ in range(3):
        first.draw(32)
    state = first.state()
    image, truth = first.draw(32)
    second = pool()
    assert list(second.load_state(state)) == [32, 64]
    again, truth_again = second.draw(32)
    assert torch.equal(image.image, again.image)
    assert torch.equal(truth, truth_again)


def test_pool_capacity():
    with pytest.raises(ValueError, match="capacity must be a multiple"):
        StampPool(SMOKE.simulation, capacity=100, piece=64)


def test_a_run_that_stops_goes_on_exactly(tmp_path, one_thread):
    whole = Trainer(SMOKE, tmp_path / "whole")
    whole.run(progress_bar=False, steps=8)
    part = Trainer(SMOKE, tmp_path / "part")
    part.run(progress_bar=False, steps=5)
    rest = Trainer(SMOKE, tmp_path / "part")
    assert rest.step == 5
    rest.run(progress_bar=False, steps=8)
    assert rest.pool.simulated == whole.pool.simulated
    for one, other in zip(whole.network.parameters(), rest.network.parameters(), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(whole.average, rest.average, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("fast", [True, False])
def test_bfloat16_only_where_it_is_fast(tmp_path, monkeypatch, fast):
    """Emulated bfloat16 takes ten times as long as single precision, whatever a configuration says."""
    monkeypatch.setattr("galmeasure.training.trainer.bf16_is_fast", lambda device: fast)
    assert read_training_config("smoke").bf16
    assert Trainer(read_training_config("smoke"), tmp_path).bf16 == fast


def test_a_folder_of_another_run_is_refused(tmp_path):
    trainer = Trainer(SMOKE, tmp_path)
    trainer.save_checkpoint()
    with pytest.raises(ValueError, match="another configuration"):
        Trainer(replace(SMOKE, seed=99), tmp_path)


def test_minutes_end_the_schedule(tmp_path, monkeypatch):
    """By a clock on which a step takes a hundredth of a second."""
    ticks = itertools.count()
    monkeypatch.setattr("time.monotonic", lambda: 0.01 * next(ticks))
    trainer = Trainer(replace(SMOKE, steps=10**6), tmp_path)
    trainer.run(minutes=0.005, progress_bar=False, steps=100)
    assert 0 < trainer.step < 100
    assert trainer.seconds == pytest.approx(0.3, abs=0.05)
    rate = trainer.optimizer.param_groups[0]["lr"]
    assert rate < 0.1 * SMOKE.learning_rate


def test_training_learns(tmp_path):
    config = replace(SMOKE, steps=120, pool=512, learning_rate=5e-3)
    trainer = Trainer(config, tmp_path)
    before = trainer.validate()["loss"]
    trainer.run(progress_bar=False)
    after = trainer.validate()["loss"]
    assert after["flow"] < before["flow"] - 3.0
    assert after["mean"] < before["mean"]
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["kind"] for row in rows} == {"train", "valid"}
    assert int(rows[-1]["step"]) == 120


def test_the_average_is_what_is_kept(tmp_path):
    trainer = Trainer(SMOKE, tmp_path)
    trainer.run(progress_bar=False, steps=4)
    own = [each.detach().clone() for each in trainer.network.parameters()]
    with trainer._averaged():
        for one, other in zip(trainer.average, trainer.network.parameters(), strict=True):
            assert torch.equal(one, other)
    for one, other in zip(own, trainer.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_card_says_how_the_weights_were_made(tmp_path):
    from galmeasure.weights import get_weights, load_network

    trainer = Trainer(SMOKE, tmp_path)
    trainer.run(progress_bar=False)
    weights = trainer.save()
    card = get_weights(weights.path).card
    assert card["training"]["stamps"] == SMOKE.steps * SMOKE.batch_size
    assert card["prior"] == "survey"
    assert card["domain"]["n"] == [0.3, 8.0]
    assert set(card["metrics"]) == {"stamps", "loss", "rmse", "median_error", "pull_std", "coverage_68", "coverage_95"}
    network = load_network(weights)
    for one, other in zip(trainer.average, network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_validation_with_galsim(tmp_path):
    """Stamps of another code, read from a file, give about the loss of the simulator's own."""
    from galmeasure.training import DatasetConfig, make_dataset
    from galmeasure.training.validation import read_held_out

    path = make_dataset(tmp_path / "set.fits", DatasetConfig(n=(1, 1), psf_fwhm=(0.7, 0.7)), size=6, seed=1)
    ((inputs, truth),) = read_held_out(path)
    assert inputs.image.shape == (6, 64, 64)
    noise = inputs.image[:, :10].std()
    assert 0.9 < noise < 1.1
    model = render_sersic(truth, prepare_psf(inputs.psf, (64, 64)), inputs.psf_index)
    chi2 = ((inputs.image - model) ** 2 / (1.0 + model / inputs.gain[:, None, None])).mean((1, 2))
    assert ((chi2 > 0.9) & (chi2 < 1.1)).all()
    trainer = Trainer(SMOKE, tmp_path, validation=path)
    trainer.run(progress_bar=False, steps=1)
    metrics = trainer.validate()
    assert metrics["validation"]["stamps"] == 6
    assert metrics["stamps"] == SMOKE.held_out


def test_validation_needs_the_truth(tmp_path):
    path = tmp_path / "plain.fits"
    Table({"cutout": np.zeros((2, 64, 64)), "error": np.ones(2), "psf": np.ones((2, 5, 5))}).write(path)
    with pytest.raises(ValueError, match="true_flux"):
        Trainer(SMOKE, tmp_path, validation=path)


def test_command(tmp_path):
    from galmeasure.cli.commands import cli

    runner = CliRunner()
    folder = tmp_path / "run"
    done = runner.invoke(cli, ["train", "--smoke", "--folder", str(folder), "--threads", "1"])
    assert done.exit_code == 0, done.output
    assert "trained on 640 stamps" in done.output
    lines = done.stderr.splitlines()
    starts = (
        "training smoke, 20 steps, begins; first the pool of 256 stamps", "step 10 of 20, ", "step 20 of 20, ",
        "the last step is done: the weights are validated and written", "step 20 of 20, ",
        "the correction of --refine auto is learned from 2000 galaxies",
        "the score of unusual galaxies is learned from 2000 galaxies",
    )  # fmt: skip
    assert [line[: len(start)] for line, start in zip(lines, starts, strict=True)] == list(starts)
    assert "held-out loss" in lines[1]
    assert (folder / "smoke.safetensors").exists()
    again = runner.invoke(cli, ["train", "--smoke", "--folder", str(folder), "--threads", "1"])
    assert again.exit_code == 0, again.output


@pytest.mark.parametrize(
    ("line", "note"),
    [
        ("step 10 ", "nothing was written to {} yet"),
        ("the last step", "step 20 of 20 is kept in {}/checkpoint.pt; the same command goes on from there"),
    ],
)
def test_a_run_that_is_stopped_says_what_was_written(tmp_path, line, note):
    def stop(text):
        if text.startswith(line):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        train(SMOKE, tmp_path, progress_bar=False, tell=stop)
    assert caught.value.__notes__ == [note.format(tmp_path)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either CONFIG"),
        (["survey-v1", "--smoke"], "either CONFIG"),
        (["nowhere.toml"], "there is no 'nowhere.toml'"),
        (["--smoke", "--device", "abacus"], "device 'abacus' cannot be used"),
    ],
)
def test_command_with_wrong_arguments(tmp_path, monkeypatch, arguments, message):
    from galmeasure.cli.commands import cli

    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, ["train", *arguments])
    assert done.exit_code == 2
    assert message in " ".join(done.output.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


def test_configuration_needs_no_torch_to_be_listed():
    code = "from galmeasure.simulation.galsim.config import DATASETS; import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["learning_rate", "clip", "reuse"])
def test_numbers_that_must_be_positive(name):
    with pytest.raises(ValueError, match=f"{name} must be positive"):
        TrainingConfig(name="a", **{name: 0.0})
