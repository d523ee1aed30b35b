"""Search for architectures: resumable, poor trials stopped, failures survived, the best goes to the training."""

import dataclasses

import numpy as np
import pytest
from astropy.table import Table

from galmeasure.cli import main
from galmeasure.training import (
    SearchSettings,
    Trainer,
    read_training_config,
    search_architectures,
    train,
    write_training_config,
)
from galmeasure.training import search as search_module
from galmeasure.training.search_space import SEARCHED_ENCODERS, STUDY_GRID, choose_config, config_of, read_space

optuna = pytest.importorskip("optuna")
SMOKE = read_training_config("smoke")
SHORT = {"base": "smoke", "steps": 5, "pool": 64, "held_out": 64, "encoders": ("cnn", "mixer")}


@pytest.fixture
def quick(monkeypatch):
    """Trials whose training is replaced by a formula of their options, so that hundreds take seconds."""

    def objective(config, settings, trial=None, held_out_seed=None):
        value = abs(np.log(config.learning_rate / 1e-3)) + (config.network.encoder != "mixer")
        for part in range(1, 5):
            if trial is not None:
                trial.report(value, part)
                if trial.should_prune():
                    raise optuna.TrialPruned
        return value + 1e-3 * config.seed

    monkeypatch.setattr(search_module, "_train", objective)


def test_search_trains_and_writes(tmp_path):
    lines = []
    result = search_architectures(SearchSettings(folder=tmp_path, trials=2, **SHORT), report=lines.append)
    assert len(result.trials) == 2
    assert np.isfinite(result.trials["value"]).all()
    assert (result.trials["parameters"] > 1000).all()
    assert [line.split(":")[0] for line in lines] == ["trial 1 of 2", "trial 2 of 2"]
    assert len(Table.read(tmp_path / "trials.ecsv")) == 2
    assert (tmp_path / "importances.ecsv").exists()
    assert (tmp_path / "parallel_coordinates.png").stat().st_size > 5000
    best = read_training_config(result.best_file)
    assert best.network == result.best.network
    assert best.steps == SMOKE.steps
    weights = train(dataclasses.replace(best, steps=2), tmp_path / "long", progress_bar=False)
    assert weights.card["encoder"] == best.network.encoder


def test_stopped_search_goes_on(tmp_path, quick):
    first = search_architectures(SearchSettings(folder=tmp_path, trials=6, **SHORT))
    again = search_architectures(SearchSettings(folder=tmp_path, trials=9, **SHORT))
    assert len(again.trials) == 9
    assert list(again.trials["value"][:6]) == pytest.approx(list(first.trials["value"]), nan_ok=True)
    assert len(set(again.trials["learning_rate"])) == 9  # none of the beginning is drawn again
    assert len(search_architectures(SearchSettings(folder=tmp_path, trials=9, **SHORT)).trials) == 9


def test_search_that_was_killed(tmp_path, quick):
    """The trial that was running counts as failed, and another takes its place."""
    search_architectures(SearchSettings(folder=tmp_path, trials=2, **SHORT))
    study = optuna.load_study(study_name="galmeasure", storage=f"sqlite:///{tmp_path / 'trials.db'}")
    study.ask()
    result = search_architectures(SearchSettings(folder=tmp_path, trials=5, **SHORT))
    assert list(result.trials["state"]).count("running") == 0
    assert list(result.trials["state"]).count("fail") == 1
    assert len(result.trials) == 5


def test_failed_trials_are_recorded(tmp_path, monkeypatch):
    calls = []

    def fails_twice(config, settings, trial=None):
        calls.append(config)
        if len(calls) <= 2:
            msg = "the losses of the trial are not finite"
            raise RuntimeError(msg)
        return float(len(calls))

    monkeypatch.setattr(search_module, "_train", fails_twice)
    result = search_architectures(SearchSettings(folder=tmp_path, trials=4, **SHORT))
    assert list(result.trials["state"]) == ["fail", "fail", "complete", "complete"]
    assert np.isnan(result.trials["value"][:2]).all()


def test_all_trials_fail(tmp_path, monkeypatch):
    def fails(config, settings, trial=None):
        raise RuntimeError

    monkeypatch.setattr(search_module, "_train", fails)
    with pytest.raises(ValueError, match="trials: none of the 2 has ended"):
        search_architectures(SearchSettings(folder=tmp_path, trials=2, **SHORT))


def test_poor_trials_are_stopped_and_the_sampler_learns(tmp_path, quick):
    result = search_architectures(SearchSettings(folder=tmp_path, trials=40, seed=1, **SHORT))
    states = list(result.trials["state"])
    assert states.count("pruned") > 5
    assert states[:5] == ["complete"] * 5
    assert result.best.network.encoder == "mixer"
    assert abs(np.log(result.best.learning_rate / 1e-3)) < 0.2
    assert set(result.importances) <= {"encoder", "learning_rate"}


@pytest.mark.parametrize("sampler", ["gp", "random"])
def test_samplers(tmp_path, quick, sampler):
    result = search_architectures(SearchSettings(folder=tmp_path, trials=12, sampler=sampler, **SHORT))
    assert len(result.trials) == 12


def test_grid_of_the_study(tmp_path, monkeypatch):
    cells = []

    def remember(config, settings, trial=None):
        options = config.network.encoder_options
        cells.append((options["first"], options["width"]))
        return float(options["width"])

    monkeypatch.setattr(search_module, "_train", remember)
    settings = SearchSettings(folder=tmp_path, trials=60, grid=True, **SHORT)
    result = search_architectures(settings)
    assert len(set(cells)) == 48
    assert {first for first, _ in cells} == set(STUDY_GRID["first"])
    assert result.best.network.encoder == "xception"
    assert result.best.network.encoder_options["width"] == 4
    assert len(search_architectures(settings).trials) == 48
    assert len(cells) == 48


def test_cell_that_was_interrupted_is_tried_again(tmp_path, monkeypatch):
    calls = []

    def interrupted(config, settings, trial=None):
        calls.append(config)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return float(len(calls))

    monkeypatch.setattr(search_module, "_train", interrupted)
    settings = SearchSettings(folder=tmp_path, trials=4, grid=True, **SHORT)
    with pytest.raises(KeyboardInterrupt):
        search_architectures(settings)
    assert read_training_config(tmp_path / "best.toml").network == calls[0].network
    result = search_architectures(settings)
    assert list(result.trials["state"]).count("complete") == 4
    assert len({str(config.network) for config in calls}) == 4


def test_best_cells_again(tmp_path, quick):
    result = search_architectures(SearchSettings(folder=tmp_path, trials=8, repeat=2, **SHORT))
    assert len(result.repeats) == 3
    assert (result.repeats["trainings"] == 2).all()
    # the seeds of the repetitions are 1000 and 2000 later, and the formula adds 0.001 of the seed
    np.testing.assert_allclose(result.repeats["mean"] - result.repeats["first"], 1.5)
    np.testing.assert_allclose(result.repeats["std"], np.sqrt(0.5))
    assert len(Table.read(tmp_path / "repeats.ecsv")) == 3


def test_repetitions_are_not_trained_twice(tmp_path, quick, monkeypatch):
    settings = SearchSettings(folder=tmp_path, trials=4, repeat=1, **SHORT)
    first = search_architectures(settings).repeats
    monkeypatch.setattr(search_module, "_train", None)
    again = search_architectures(settings).repeats
    assert list(again["mean"]) == list(first["mean"])
    assert np.isnan(first["std"]).all()


def test_repetitions_have_the_same_held_out_stamps(tmp_path):
    other = dataclasses.replace(SMOKE, seed=SMOKE.seed + 1)
    runs = [Trainer(SMOKE, tmp_path / "a"), Trainer(other, tmp_path / "b", held_out_seed=SMOKE.seed)]
    (first, truth), (second, _) = (run._held_out() for run in runs)
    assert (first.image == second.image).all()
    assert not (Trainer(other, tmp_path / "c")._held_out()[1] == truth).all()


@pytest.mark.parametrize("encoder", SEARCHED_ENCODERS)
def test_every_choice_is_a_network(encoder):
    """All that a space offers can be built, also at the ends of its ranges."""
    from galmeasure.networks import build_network

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=4))
    for _ in range(4):
        config = choose_config(study.ask(), SMOKE, (encoder,))
        assert build_network(config.network).config.encoder == encoder
    assert config_of(4, 384, SMOKE).network.encoder_options == {"first": 4, "width": 384}


def test_another_search_in_the_folder(tmp_path, quick):
    search_architectures(SearchSettings(folder=tmp_path, trials=1, **SHORT))
    with pytest.raises(ValueError, match="holds a search with another encoders; choose another folder"):
        search_architectures(SearchSettings(folder=tmp_path, trials=2, **SHORT | {"encoders": ("mixer",)}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "trials must be an integer of at least 1, not 0"),
        ({"steps": 2}, "steps must be an integer of at least 5"),
        ({"encoders": ("vgg",)}, "encoders must be among attention, cnn, .*, not vgg"),
        ({"sampler": "grid"}, "sampler must be one of tpe, gp, random"),
        ({"objective": "speed"}, "objective must be one of loss, rmse"),
    ],
)
def test_wrong_settings(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        SearchSettings(folder=tmp_path, **options)


def test_base_of_another_architecture(tmp_path):
    with pytest.raises(ValueError, match="base must be a configuration of a SersicPosterior"):
        search_architectures(SearchSettings(folder=tmp_path, base="xception-set1-v1"))


@pytest.mark.parametrize("name", ["smoke", "study-v2", "survey-v3", "xception-set3-v1", "edsr-xception-set1-v1"])
def test_configurations_are_written_as_they_are_read(tmp_path, name):
    config = read_training_config(name)
    write_training_config(config, tmp_path / "again.toml")
    assert read_training_config(tmp_path / "again.toml") == config


def test_command(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["search", "smoke", "-o", str(tmp_path), "--trials", "1", "--steps", "5", "--encoders", "mixer"])
    assert end.value.code == 0
    assert "1 of 1 trials ran to their end" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(["search", "smoke", "-o", str(tmp_path), "--encoders", "vgg"])
    assert end.value.code == 2
    assert "encoders must be among" in capsys.readouterr().err


def test_command_that_was_stopped(tmp_path, capsys, monkeypatch):
    def interrupted(config, settings, trial=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(search_module, "_train", interrupted)
    with pytest.raises(SystemExit) as end:
        main(["search", "smoke", "-o", str(tmp_path), "--trials", "2"])
    assert end.value.code == 130
    assert "keeps the trials that have ended, and the same command goes on" in capsys.readouterr().err


def test_space_of_a_file(tmp_path, quick):
    path = tmp_path / "space.toml"
    path.write_text("learning_rate = [0.001, 0.002]\ncnn_width = [24]\ncnn_norm = [1]\n")
    settings = {"folder": tmp_path / "search", "trials": 6, **SHORT | {"encoders": ("cnn",)}}
    result = search_architectures(SearchSettings(space=read_space(path), **settings))
    assert set(result.trials["learning_rate"]) <= {"0.001", "0.002"}
    assert set(result.trials["cnn_width"]) == {"24"}
    assert len(set(result.trials["cnn_depth"])) > 1
    assert result.best.network.encoder_options["width"] == 24
    with pytest.raises(ValueError, match="holds a search with another space"):
        search_architectures(SearchSettings(**settings))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cnn_side = [3]", "space must hold only learning_rate, .*cnn_width.*, not cnn_side"),
        ("cnn_width = 3", "space: cnn_width must be a list of at least one value, not 3"),
        ("cnn_width = []", "space: cnn_width must be a list"),
        ("cnn_width", "space.toml: "),
    ],
)
def test_wrong_spaces(tmp_path, text, message):
    (tmp_path / "space.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_space(tmp_path / "space.toml")
