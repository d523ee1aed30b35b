"""Search for architectures with Optuna: short trainings, the poor ones stopped early, all of it resumable."""

from __future__ import annotations

import dataclasses
import itertools
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import Table

from galmeasure.training.config import TrainingConfig, read_training_config, write_training_config
from galmeasure.training.search_space import SEARCHED_ENCODERS, STUDY_GRID, check_space, choose_config, config_of
from galmeasure.training.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

    import optuna

__all__ = ["SearchResult", "SearchSettings", "search_architectures"]

_STUDY = "galmeasure"
_REPORTS = 5  # intermediate losses of a trial, by which poor ones are stopped
_SAMPLERS = ("tpe", "gp", "random")
_OBJECTIVES = ("loss", "rmse")
_UNPRUNED = 5  # trials before the first is stopped early
_LEAST_COMPLETE = 10  # trials from which importances are told
_SEED_STEP = 1000  # between the seeds of repetitions
_FAILURES = (RuntimeError, MemoryError)  # that end a trial, not the search; losses that are not finite among them


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """Settings of a search.

    Parameters
    ----------
    folder : path-like
        Folder of the results and of the storage ``trials.db``; a search that was stopped there goes on.
    base : TrainingConfig or str, optional
        Configuration, or its name or file, from which simulation, optimiser and sizes of the head are taken.
    encoders : tuple of str, optional
        Encoders to choose from.
    space : dict of str to list, optional
        Values to which choices are narrowed, by the name of the choice, for example ``{"cnn_width": [16, 32]}``.
    trials : int, optional
        Number of trials of the whole search, earlier ones included; with ``grid`` at most its number of cells.
    steps : int, optional
        Length of the training of each trial, in steps.
    sampler : {"tpe", "gp", "random"}, optional
        Sampler of Optuna: tree-structured Parzen estimator, Gaussian process, or random values.
    grid : bool, optional
        Try all cells of the study's grid of Xception instead, in random order and each to its end.
    objective : {"loss", "rmse"}, optional
        What is minimised on held-out stamps: the sum of the losses, or the mean over n, g1 and g2 and the relative
        flux and r_eff of the root mean square errors.
    repeat : int, optional
        Number of further trainings, with other seeds and the same held-out stamps, of each of the best three.
    seed : int, optional
        Seed of the sampler.
    device : str, optional
        Torch device on which to train.
    pool, held_out : int, optional
        Number of stamps of the pool of a trial, and of the held-out stamps.
    """

    folder: str | PathLike[str]
    base: TrainingConfig | str = "study-v2"
    encoders: tuple[str, ...] = SEARCHED_ENCODERS
    space: dict[str, list[Any]] = field(default_factory=dict)
    trials: int = 20
    steps: int = 500
    sampler: str = "tpe"
    grid: bool = False
    objective: str = "loss"
    repeat: int = 0
    seed: int = 0
    device: str = "cpu"
    pool: int = 2048
    held_out: int = 1024

    def __post_init__(self) -> None:
        """Check the settings."""
        for name, lowest in (("trials", 1), ("steps", _REPORTS), ("repeat", 0), ("pool", 64), ("held_out", 64)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                msg = f"{name} must be an integer of at least {lowest}, not {value!r}"
                raise ValueError(msg)
        unknown = [name for name in self.encoders if name not in SEARCHED_ENCODERS]
        if unknown or not self.encoders:
            msg = f"encoders must be among {', '.join(SEARCHED_ENCODERS)}, not {', '.join(unknown) or 'none'}"
            raise ValueError(msg)
        check_space(self.space)
        for name, words in (("sampler", _SAMPLERS), ("objective", _OBJECTIVES)):
            if getattr(self, name) not in words:
                msg = f"{name} must be one of {', '.join(words)}, not {getattr(self, name)!r}"
                raise ValueError(msg)

    @property
    def count(self) -> int:
        """Number of trials of the whole search."""
        return min(self.trials, len(_cells())) if self.grid else self.trials

    def base_config(self) -> TrainingConfig:
        """Configuration of a short training, from which that of each trial is made."""
        base = read_training_config(self.base) if isinstance(self.base, str) else self.base
        if base.network.architecture != "SersicPosterior":
            msg = f"base must be a configuration of a SersicPosterior, not of a {base.network.architecture}"
            raise ValueError(msg)
        return dataclasses.replace(
            base, name="trial", start=None, steps=self.steps, warm_up=max(1, min(base.warm_up, self.steps // 10)),
            pool=self.pool - self.pool % base.piece, held_out=self.held_out, validate_every=self.steps + 1,
            ema=min(base.ema, 1.0 - 1.0 / (1.0 + 0.1 * self.steps)),
        )  # fmt: skip


@dataclass(frozen=True)
class SearchResult:
    """What a search has found.

    Parameters
    ----------
    trials : Table
        One row per trial: ``number``, ``state``, ``value`` (the objective), ``seconds``, ``parameters`` (of the
        network) and a column for each value that was chosen.
    best : TrainingConfig
        Configuration of the best trial, for a long training.
    best_file : pathlib.Path
        The same as a file for ``galmeasure train``.
    importances : dict of str to float
        Share of the scatter of the objective that each choice common to all trials explains; empty for few trials.
    repeats : Table or None
        Objective of the best trials, ``first`` as it was in the search, and its mean and standard deviation (NaN for
        one training) over ``trainings`` with other seeds. The first value, low by selection, is not among them.
    """

    trials: Table
    best: TrainingConfig
    best_file: Path
    importances: dict[str, float] = field(default_factory=dict)
    repeats: Table | None = None


def search_architectures(settings: SearchSettings, *, report: Callable[[str], object] | None = None) -> SearchResult:
    """Search for the architecture whose short training ends best.

    Parameters
    ----------
    settings : SearchSettings
        What to choose from, and for how long.
    report : callable, optional
        Function that takes a line for each trial that ends.

    Returns
    -------
    SearchResult
        Trials and the best configuration. ``trials.ecsv``, ``importances.ecsv``, ``repeats.ecsv``,
        ``parallel_coordinates.png`` (if matplotlib is installed) and ``best.toml`` are written to the folder.

    Raises
    ------
    ImportError
        If Optuna is not installed.
    ValueError
        If a setting is wrong, the folder holds a search with other settings, or no trial has ended.

    References
    ----------
    Akiba et al. 2019, Optuna: a next-generation hyperparameter optimization framework, arXiv:1907.10902.
    """
    folder, base = Path(settings.folder), settings.base_config()
    folder.mkdir(parents=True, exist_ok=True)
    study = _open_study(settings, folder, base)
    objective = _objective(settings, base)
    tell = report or (lambda line: None)

    def after(study, trial):
        tell(_line(trial, settings.count))
        _write_trials(study, folder)
        if _complete(study):
            _write_best(study, settings, folder)

    if settings.grid:
        _run_cells(study, settings, objective, after)
    else:
        remaining = settings.trials - sum(trial.state.is_finished() for trial in study.trials)
        if remaining > 0:
            study.optimize(objective, n_trials=remaining, callbacks=[after], catch=_FAILURES)
    trials = _write_trials(study, folder)
    if not any(np.isfinite(trials["value"])):
        msg = f"trials: none of the {len(trials)} has ended; see {folder / 'trials.ecsv'}"
        raise ValueError(msg)
    best = _write_best(study, settings, folder)
    importances = _importances(study, folder)
    _draw(study, folder)
    repeats = _repeat(study, settings, base, tell) if settings.repeat else None
    if repeats is not None:
        repeats.write(folder / "repeats.ecsv", overwrite=True)
    return SearchResult(trials, best, folder / "best.toml", importances, repeats)


def _open_study(settings, folder, base):
    """Study of the folder, with trials that died while running marked as failed."""
    try:
        import optuna
    except ImportError as err:
        msg = "the search needs Optuna: pip install 'galmeasure[search]'"
        raise ImportError(msg) from err
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=_UNPRUNED, n_warmup_steps=0)
    study = optuna.create_study(
        study_name=_STUDY, storage=f"sqlite:///{(folder / 'trials.db').resolve()}", load_if_exists=True,
        pruner=optuna.pruners.NopPruner() if settings.grid else pruner, direction="minimize",
    )  # fmt: skip
    # with the same seed, a search that goes on would draw the trials of its beginning again
    study.sampler = _sampler(settings, settings.seed + len(study.trials))
    about = {"base": str(base.as_dict()), "grid": settings.grid, "objective": settings.objective}
    about["encoders"] = ",".join(settings.encoders)
    about["space"] = str(sorted(settings.space.items()))
    known = {name: value for name, value in study.user_attrs.items() if name in about}
    if known and known != about:
        different = ", ".join(name for name in about if known.get(name) != about[name])
        msg = f"folder: {folder} holds a search with another {different}; choose another folder"
        raise ValueError(msg)
    for name, value in about.items():
        study.set_user_attr(name, value)
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def _sampler(settings: SearchSettings, seed: int) -> optuna.samplers.BaseSampler:
    import optuna

    samplers = {
        "tpe": optuna.samplers.TPESampler, "gp": optuna.samplers.GPSampler, "random": optuna.samplers.RandomSampler,
    }  # fmt: skip
    return samplers[settings.sampler](seed=seed)


def _cells():
    """All cells of the study's grid."""
    return [dict(zip(STUDY_GRID, values, strict=True)) for values in itertools.product(*STUDY_GRID.values())]


def _run_cells(study, settings, objective, after):
    """Try the cells that have not run to their end, in random order, until there are as many as asked for."""
    done, cells = [trial.params for trial in _complete(study)], _cells()
    order = [cells[index] for index in np.random.default_rng(settings.seed).permutation(len(cells))]
    due = [cell for cell in order if cell not in done]
    for cell in due[: max(0, settings.count - len(done))]:
        study.enqueue_trial(cell)
        study.optimize(objective, n_trials=1, callbacks=[after], catch=_FAILURES)


def _objective(settings, base):
    """Function of a trial: the objective at the end of its training."""

    def run(trial):
        return _train(_config(trial, settings, base), settings, trial)

    return run


def _config(trial, settings, base):
    """Configuration of a trial, also of one that has ended."""
    if settings.grid:
        cell = {name: trial.suggest_categorical(name, choices) for name, choices in STUDY_GRID.items()}
        return config_of(cell["first"], cell["width"], base)
    return choose_config(trial, base, settings.encoders, settings.space)


def _train(config, settings, trial=None, held_out_seed=None):
    """Objective of a configuration after its training; poor trials are stopped early."""
    import tempfile

    import optuna

    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(config, scratch, device=settings.device, held_out_seed=held_out_seed)
        if trial is not None:
            numbers = sum(tensor.numel() for tensor in trainer.network.parameters())
            trial.set_user_attr("parameters", numbers)
        for part in range(1, _REPORTS + 1):
            trainer.run(steps=settings.steps * part // _REPORTS, progress_bar=False)
            value = _value(trainer.validate(), settings.objective)
            if not np.isfinite(value):
                msg = "the losses of the trial are not finite"
                raise RuntimeError(msg)
            if trial is not None and part < _REPORTS:
                trial.report(value, part)
                if trial.should_prune():
                    raise optuna.TrialPruned
    return value


def _value(metrics, objective):
    """Number that is minimised."""
    if objective == "loss":
        return float(sum(metrics["loss"].values()))
    return float(np.mean([metrics["rmse"][name] for name in ("flux", "n", "r_eff", "g1", "g2")]))


def _line(trial, count):
    """Line about a trial that has ended."""
    chosen = ", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in trial.params.items())
    seconds = 0.0 if trial.duration is None else trial.duration.total_seconds()
    value = "" if trial.value is None else f" {trial.value:.4f}"
    return f"trial {trial.number + 1} of {count}: {trial.state.name.lower()}{value} in {seconds:.0f} s ({chosen})"


def _short(value):
    return f"{value:.2g}" if isinstance(value, float) else value


def _write_trials(study, folder):
    """Table of all trials, also written to the folder."""
    names = sorted({name for trial in study.trials for name in trial.params})
    rows = [
        {
            "number": trial.number,
            "state": trial.state.name.lower(),
            "value": np.nan if trial.value is None or not trial.state.is_finished() else trial.value,
            "seconds": 0.0 if trial.duration is None else round(trial.duration.total_seconds(), 1),
            "parameters": trial.user_attrs.get("parameters", 0),
            **{name: str(trial.params.get(name, "")) for name in names},
        }
        for trial in study.trials
    ]
    table = Table(rows=rows or None, names=None if rows else ["number", "state", "value", "seconds", "parameters"])
    if rows:
        pruned = np.array([row["state"] != "complete" for row in rows])
        table["value"][pruned] = np.nan
    table.write(folder / "trials.ecsv", overwrite=True)
    return table


def _write_best(study, settings, folder):
    """Configuration of the best trial, also written to the folder."""
    best = _long_config(study.best_trial, settings)
    write_training_config(best, folder / "best.toml")
    return best


def _long_config(trial, settings):
    """Configuration of a trial with the length of the base's training."""
    base = read_training_config(settings.base) if isinstance(settings.base, str) else settings.base
    short = _config(trial, settings, settings.base_config())
    return dataclasses.replace(
        base, name="best", description=f"Best of a search by {settings.count} short trainings", start=None,
        network=short.network, learning_rate=short.learning_rate,
    )  # fmt: skip


def _importances(study, folder):
    """Importance of each choice that all trials have made; empty if there are too few."""
    import optuna

    shares, complete = {}, _complete(study)
    if len(complete) >= _LEAST_COMPLETE:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # choices that few trials have made
            shares = dict(
                optuna.importance.get_param_importances(
                    study, params=_common(complete), evaluator=optuna.importance.PedAnovaImportanceEvaluator()
                )
            )
    table = Table([list(shares), list(shares.values())], names=["choice", "importance"], dtype=[str, float])
    table.write(folder / "importances.ecsv", overwrite=True)
    return shares


def _complete(study):
    """Trials that ran to their end."""
    return [trial for trial in study.trials if trial.state.name == "COMPLETE"]


def _common(trials):
    """Choices that all trials have made, of which at least one exists."""
    return sorted(set.intersection(*({*trial.params} for trial in trials)))


def _draw(study, folder):
    """Picture of parallel coordinates, if matplotlib is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    complete = _complete(study)
    names = _common(complete)
    figure = Figure(figsize=(2.2 * (len(names) + 1) + 1.5, 4.0))
    axis = figure.subplots()
    columns = [[trial.value for trial in complete], *([trial.params[name] for trial in complete] for name in names)]
    places = np.column_stack([_unit(column) for column in columns])
    order = np.argsort(places[:, 0])[::-1]
    mappable = axis.scatter([], [], c=[], cmap="viridis_r", vmin=min(columns[0]), vmax=max(columns[0]))
    for row in order:
        axis.plot(places[row], color=mappable.cmap(mappable.norm(columns[0][row])), alpha=0.8)
    for place, column in enumerate(columns):
        axis.axvline(place, color="0.7", lw=0.8, zorder=0)
        for level, label in _ticks(column):
            axis.text(place, level, f" {label}", fontsize=8, va="center")
    axis.set_xticks(range(len(columns)), ["objective", *names])
    axis.set_yticks([])
    figure.colorbar(mappable, label="objective")
    figure.savefig(folder / "parallel_coordinates.png", dpi=120, bbox_inches="tight")


def _unit(column):
    """Values of one axis between 0 and 1; words by their order."""
    if isinstance(column[0], str):
        words = sorted(set(column))
        return np.array([words.index(word) for word in column]) / max(len(words) - 1, 1)
    numbers = np.array(column, dtype=float)
    return (numbers - numbers.min()) / max(np.ptp(numbers), 1e-30)


def _ticks(column):
    """Places and labels on one axis."""
    places = _unit(column)
    if isinstance(column[0], str):
        return sorted({(float(place), word) for place, word in zip(places, column, strict=True)})
    return [(0.0, f"{min(column):.3g}"), (1.0, f"{max(column):.3g}")]


def _repeat(study, settings, base, tell):
    """Objective of the best three over other seeds."""
    rows = []
    for trial in sorted(_complete(study), key=lambda trial: trial.value)[:3]:
        config, begin = _config(trial, settings, base), time.monotonic()
        values = [_again(study, trial, config, settings, number + 1) for number in range(settings.repeat)]
        std = np.std(values, ddof=1) if len(values) > 1 else np.nan
        rows.append((trial.number, trial.value, np.mean(values), std, len(values)))
        seconds = time.monotonic() - begin
        tell(f"trial {trial.number + 1} again: {rows[-1][2]:.4f} +- {rows[-1][3]:.4f} in {seconds:.0f} s")
    return Table(rows=rows, names=["number", "first", "mean", "std", "trainings"])


def _again(study, trial, config, settings, number):
    """Objective of one repetition, from the storage if it was trained before; NaN if it fails."""
    name = f"trial {trial.number} again {number}"
    if name not in study.user_attrs:
        other = dataclasses.replace(config, seed=config.seed + _SEED_STEP * number)
        try:
            value = _train(other, settings, held_out_seed=config.seed)
        except _FAILURES:
            value = np.nan
        study.set_user_attr(name, value)
    return study.user_attrs[name]
