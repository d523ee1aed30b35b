"""Training: stamps from the pool, one loss for flow and heads, a moving average of the weights, exact resume."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import datetime as dt
import math
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from galmeasure.networks import StampInputs, build_network
from galmeasure.networks.base import LOWER_LEVELS, UPPER_LEVELS, PosteriorNetwork
from galmeasure.networks.precision import bf16_is_fast
from galmeasure.parameters import PARAMETER_INDEX, PARAMETER_NAMES
from galmeasure.priors import get_prior
from galmeasure.render.memory import reserve_heap
from galmeasure.simulation.stamps import simulate_expected
from galmeasure.training.config import TrainingConfig
from galmeasure.training.pool import StampPool, training_psfs
from galmeasure.training.teacher import Teacher
from galmeasure.training.validation import read_held_out
from galmeasure.utils.chunks import chunk_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from os import PathLike

    from galmeasure.weights.files import Weights

__all__ = ["Trainer", "held_out_metrics", "train"]

_CHECKPOINT_SECONDS = 120.0  # of work lost, at most, when a run is stopped
_LONGEST_STEP = 20.0  # seconds; a process that was stopped for a while did not train
_HELD_OUT = 1_000_003  # added to the seed of a run
_EMA_START = 10.0  # steps after which the memory of the average begins to grow
_ADAPTING = 2048  # stamps by which the normalisation of a network is set
_WEIGHTS = {"flow": 1.0, "mean": 1.0, "covariance": 1.0, "quantiles": 1.0, "image": 0.2, "teacher": 1.0}


def train(
    config: TrainingConfig,
    folder: str | PathLike,
    *,
    device: str = "cpu",
    minutes: float | None = None,
    threads: int | None = None,
    validation: str | PathLike | None = None,
    progress_bar: bool = True,
    tell: Callable[[str], object] | None = None,
) -> Weights:
    """Train a network, or go on with one.

    Parameters
    ----------
    config : TrainingConfig
        Configuration of the training run.
    folder : path-like
        Folder of checkpoint, log and result; a run that was stopped there is continued.
    device : str, optional
        Torch device on which to train, for example "cpu" or "cuda". Default "cpu".
    minutes : float, optional
        Time of the whole run in minutes, to which the schedule is shortened.
    threads : int, optional
        Number of threads of torch; by default as many as torch chooses.
    validation : path-like, optional
        Table of ``galmeasure simulate``, on which the network is tested as well.
    progress_bar : bool, optional
        Show a progress bar on standard error. Default True.
    tell : callable, optional
        Function that is given a line of text at the beginning, at each validation, and after the last step.

    Returns
    -------
    Weights
        The weights, written to ``folder`` as ``<name>.safetensors`` with their card.

    Notes
    -----
    An exception that ends the run, Ctrl-C included, has a note that says what was written.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    trainer = Trainer(config, folder, device=device, validation=validation, tell=tell)
    try:
        trainer.run(minutes=minutes, progress_bar=progress_bar)
        return trainer.save()
    except BaseException as err:
        err.add_note(trainer.about_written())
        raise


class Trainer:
    """One training run.

    Parameters
    ----------
    config : TrainingConfig
        Configuration of the training run.
    folder : path-like
        Folder that holds ``checkpoint.pt`` (tensors and numbers only), ``log.csv`` and the result.
    device : str, optional
        Torch device on which to train, for example "cpu" or "cuda". Default "cpu".
    validation : path-like, optional
        Table of ``galmeasure simulate``, on which the network is tested as well.
    held_out_seed : int, optional
        Seed of the held-out stamps, by default that of the configuration: for runs with other seeds that are to be
        measured on the same stamps.
    tell : callable, optional
        Function that is given a line of text at the beginning, at each validation, and after the last step.

    Raises
    ------
    ValueError
        If the folder holds a run of another configuration, or the table of validation lacks its truth.
    """

    def __init__(
        self,
        config: TrainingConfig,
        folder: str | PathLike,
        *,
        device: str = "cpu",
        validation: str | PathLike | None = None,
        held_out_seed: int | None = None,
        tell: Callable[[str], object] | None = None,
    ):
        self._tell, self._saved_step = (lambda _: None) if tell is None else tell, None
        self.config, self.folder, self.device = config, Path(folder), device
        self.bf16 = config.bf16 and bf16_is_fast(device)
        self.held_out_seed = config.seed if held_out_seed is None else held_out_seed
        self.folder.mkdir(parents=True, exist_ok=True)
        self.reference = (
            None if validation is None else list(read_held_out(validation, device, config.network.clean_psf))
        )
        torch.manual_seed(config.seed)
        reserve_heap()
        self.network = build_network(config.network)
        starts = [config.start] if isinstance(config.start, str) else config.start or []
        self._adapted = False
        for start in starts:
            self._adapted = begin_with(self.network, start) or self._adapted
        self.network.to(device)
        self.teacher = None if config.teacher is None else Teacher(config.teacher, device)
        if self.teacher is not None:
            self.teacher.check(config.network)
        self.average = [tensor.detach().clone() for tensor in self.network.parameters()]
        matrices = [tensor for tensor in self.network.parameters() if tensor.ndim > 1]
        vectors = [tensor for tensor in self.network.parameters() if tensor.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.99), fused=True)
        self.pool = StampPool(
            config.simulation, capacity=config.pool, reuse=config.reuse, seed=config.seed, piece=config.piece,
            clean_psf=config.network.clean_psf, device=device,
        )  # fmt: skip
        self.step = 0
        self.seconds = 0.0
        self.metrics = {}
        self._resume()

    @property
    def checkpoint(self) -> Path:
        """File from which a stopped run is continued."""
        return self.folder / "checkpoint.pt"

    def run(self, *, minutes: float | None = None, progress_bar: bool = True, steps: int | None = None) -> None:
        """Train to the end of the schedule.

        Parameters
        ----------
        minutes : float, optional
            Time of the whole run in minutes, earlier parts included; the schedule ends no later.
        progress_bar : bool, optional
            Show a progress bar on standard error. Default True.
        steps : int, optional
            Step at which to stop, before the end of the schedule.
        """
        torch.set_flush_denormal(True)  # tiny weights cost as much as a hundred others
        try:
            self._run(minutes, progress_bar, steps)
        finally:
            torch.set_flush_denormal(False)

    def about_written(self) -> str:
        """Say what a run that is stopped now has written, and how to go on."""
        if self._saved_step is None:
            return f"nothing was written to {self.folder} yet"
        return (
            f"step {self._saved_step} of {self.config.steps} is kept in {self.checkpoint}; "
            "the same command goes on from there"
        )

    def _run(self, minutes, progress_bar, steps):
        config = self.config
        begun = f"goes on at step {self.step}" if self.step else "begins"
        self._tell(f"training {config.name}, {config.steps} steps, {begun}; first the pool of {config.pool} stamps")
        self._fill(progress_bar)
        stop = config.steps if steps is None else min(steps, config.steps)
        saved = last = time.monotonic()
        sums, counted = dict.fromkeys(_WEIGHTS, 0.0), 0
        with tqdm(total=config.steps, initial=self.step, unit="step", disable=not progress_bar) as bar:
            while self.step < stop and self._progress(minutes) < 1.0:
                losses, norm = self._train_step(self._progress(minutes))
                self.step += 1
                now = time.monotonic()
                self.seconds += min(now - last, _LONGEST_STEP)
                last = now
                counted += 1
                for name, value in losses.items():
                    sums[name] += value
                bar.update()
                if self.step % config.log_every == 0:
                    means = {name: float(value) / counted for name, value in sums.items()}
                    self._log("train", means | {"gradient": norm})
                    bar.set_postfix({name: f"{value:.3f}" for name, value in means.items()})
                    sums, counted = dict.fromkeys(_WEIGHTS, 0.0), 0
                if self.step % config.validate_every == 0:
                    self.validate()
                if now - saved > _CHECKPOINT_SECONDS:
                    self.save_checkpoint()
                    saved = now
        self.save_checkpoint()

    def validate(self) -> dict[str, object]:
        """Measure the averaged weights on the held-out stamps and write the metrics to the log.

        Returns
        -------
        dict
            Metrics, see `held_out_metrics`; those on the table of validation are under ``"validation"``.
        """
        with self._averaged():
            self.metrics = held_out_metrics(self.network, [self._held_out()])
            if self.reference is not None:
                self.metrics["validation"] = held_out_metrics(self.network, self.reference)
        flat = {"valid_loss": sum(self.metrics["loss"].values())}
        flat |= {f"loss_{name}": value for name, value in self.metrics["loss"].items()}
        self._log("valid", flat)
        self._tell(self._about_validation(flat["valid_loss"]))
        if self.reference is not None:
            losses = self.metrics["validation"]["loss"]
            self._log("table", {f"loss_{name}": value for name, value in losses.items()})
        return self.metrics

    def _about_validation(self, loss):
        """Line about the metrics of a validation."""
        errors = ", ".join(f"{name} {value:.3g}" for name, value in self.metrics["rmse"].items())
        minutes = self.seconds / 60.0
        return f"step {self.step} of {self.config.steps}, {minutes:.1f} min: held-out loss {loss:.4f}; RMSE {errors}"

    def save(self) -> Weights:
        """Write the averaged weights and their card.

        Returns
        -------
        Weights
            Weights as they were written.
        """
        from galmeasure.weights import save_weights

        self._tell("the last step is done: the weights are validated and written")
        self.validate()
        with self._averaged():
            return save_weights(self.folder / f"{self.config.name}.safetensors", self.network, self.card())

    def card(self) -> dict[str, object]:
        """Return the card of the weights: all that is needed to make them again, and their metrics."""
        from galmeasure import __version__
        from galmeasure.weights import prior_domain

        config, prior = self.config.as_dict(), get_prior(self.config.simulation.prior)
        training = {
            name: config[name]
            for name in config
            if name not in ("name", "description", "simulation", "network", "for_sets")
        }
        training |= {
            "steps_done": self.step, "stamps": self.step * self.config.batch_size,
            "simulated": self.pool.simulated, "minutes": round(self.seconds / 60.0, 1), "device": str(self.device),
            "threads": torch.get_num_threads(), "torch": torch.__version__,
        }  # fmt: skip
        purpose = {"for_sets": list(self.config.for_sets)} if self.config.for_sets else {}
        return {
            **purpose,
            "architecture": self.config.network.architecture,
            "arguments": self.config.network.as_dict(),
            "version": __version__,
            "description": self.config.description,
            "prior": prior.name,
            "prior_definition": prior.as_dict(),
            "domain": prior_domain(prior),
            "simulation": config["simulation"],
            "training": training,
            "date": dt.datetime.now(dt.UTC).date().isoformat(),
            "revision": _revision(),
            "metrics": self.metrics,
        }

    def save_checkpoint(self) -> None:
        """Write all that `run` needs to continue as if it had not stopped."""
        state = {
            "config": str(self.config.as_dict()),
            "step": self.step,
            "seconds": self.seconds,
            "network": self.network.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "pool": self.pool.state(),
        }
        new = self.checkpoint.with_suffix(".new")
        torch.save(state, new)
        new.replace(self.checkpoint)
        self._saved_step = self.step

    def _resume(self):
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        if state["config"] != str(self.config.as_dict()):
            msg = f"{self.checkpoint}: a run of another configuration; choose another folder"
            raise ValueError(msg)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = [tensor.to(self.device) for tensor in state["average"]]
        self.step, self.seconds, self._adapted = state["step"], state["seconds"], True
        self._saved_step = self.step
        self._pool_state = state["pool"] | {"generator": state["pool"]["generator"].cpu()}

    def _fill(self, progress_bar):
        """Simulate the pool: the first one, or the one at which the run stopped."""
        if self.pool.simulated:
            return
        state = self.__dict__.pop("_pool_state", None)
        filling = self.pool.fill() if state is None else self.pool.load_state(state)
        with tqdm(total=self.config.pool, unit="stamp", desc="pool", disable=not progress_bar) as bar:
            for done in filling:
                bar.update(done - bar.n)
        if not self._adapted:
            self.network.adapt(self.pool.draw(min(self.config.pool, _ADAPTING))[0])
            self._adapted = True

    def _progress(self, minutes):
        """Fraction of the schedule that is done."""
        fraction = self.step / self.config.steps
        return fraction if minutes is None else max(fraction, self.seconds / (60.0 * minutes))

    def _train_step(self, progress):
        config = self.config
        rate = config.learning_rate * min(1.0, (self.step + 1) / config.warm_up)
        rate *= 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        inputs, parameters = self.pool.draw(config.batch_size)
        inputs = self._without_noise(inputs)
        options = {"only": config.losses} if config.losses else {}
        weights = dict(_WEIGHTS)
        if self.teacher is not None and self.network.takes_targets:
            options["targets"] = self._targets(inputs, parameters, progress)
        elif self.teacher is not None:
            options["teacher"] = self.teacher.network
            share = self._truth_share(progress)
            weights = {name: weight if name == "teacher" else share * weight for name, weight in weights.items()}
        losses = self.network.loss(inputs, parameters, bf16=self.bf16, **options)
        # what does not count must have no gradient at all: a gradient of zero would let its weights decay
        total = sum(weights[name] * value for name, value in losses.items() if weights[name] > 0.0)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.clip)
        if torch.isfinite(norm):
            self.optimizer.step()
        memory = min(config.ema, (1.0 + self.step) / (_EMA_START + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, list(self.network.parameters()), 1.0 - memory)
        return {name: value.detach() for name, value in losses.items()}, norm

    def _without_noise(self, inputs):
        """Stamps without their noise, if the training is of this kind."""
        return dataclasses.replace(inputs, image=inputs.noiseless) if self.config.noiseless else inputs

    def _targets(self, inputs, parameters, progress):
        """Means of the teacher, with more and more of the truth towards the end of the schedule."""
        means = self.teacher.means(inputs, parameters, bf16=self.bf16)
        return torch.lerp(means, parameters, self._truth_share(progress))

    def _truth_share(self, progress):
        """Share of the truth beside the teacher, which grows from ``truth_from`` to the end of the schedule."""
        config = self.config
        late = (min(progress, 1.0) - config.truth_from) / max(1.0 - config.truth_from, 1e-6)
        return config.truth_share * max(late, 0.0)

    @contextlib.contextmanager
    def _averaged(self):
        """Put the averaged weights into the network for a while, without dropout."""
        training = self.network.training
        trained = [tensor.detach().clone() for tensor in self.network.parameters()]
        with torch.no_grad():
            torch._foreach_copy_(list(self.network.parameters()), self.average)
        self.network.eval()
        try:
            yield
        finally:
            self.network.train(training)
            with torch.no_grad():
                torch._foreach_copy_(list(self.network.parameters()), trained)

    def _held_out(self):
        """Stamps that training never sees."""
        if not hasattr(self, "_held_out_stamps"):
            generator = torch.Generator(self.device).manual_seed(self.held_out_seed + _HELD_OUT)
            with torch.inference_mode():
                expected = simulate_expected(
                    self.config.simulation, self.config.held_out, generator=generator, device=self.device
                )
                stamps = expected.observe(generator)
            psf, quality = training_psfs(stamps.psf_images, self.config.network.clean_psf)
            maps = stamps.image, stamps.error, stamps.good, stamps.gain
            inputs = StampInputs(*maps, psf, stamps.psf_index, quality, expected.expected)
            self._held_out_stamps = self._without_noise(inputs), stamps.parameters
        return self._held_out_stamps

    def _log(self, kind, values):
        path = self.folder / "log.csv"
        fields = ["kind", "step", "minutes", "rate", *_WEIGHTS, "gradient", "valid_loss"]
        row = {name.removeprefix("loss_"): f"{float(value):.5g}" for name, value in values.items()}
        row |= {
            "kind": kind, "step": self.step, "minutes": f"{self.seconds / 60.0:.2f}",
            "rate": f"{self.optimizer.param_groups[0]['lr']:.3g}",
        }  # fmt: skip
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, fields)
            if new:
                writer.writeheader()
            writer.writerow(row)


def held_out_metrics(
    network: PosteriorNetwork, batches: Iterable[tuple[StampInputs, torch.Tensor]], *, bf16: bool = False
) -> dict[str, object]:
    """Measure the heads and the flow on simulated stamps.

    Parameters
    ----------
    network : SersicPosterior
        Network that is measured.
    batches : iterable of (StampInputs, Tensor)
        Batches of stamps and their true parameters ``(B, 7)``.
    bf16 : bool, optional
        Precision of the encoder, see `galmeasure.networks.SersicPosterior.encode`. Default False.

    Returns
    -------
    dict
        ``"stamps"``, their number; ``"loss"``; and by parameter ``"rmse"`` (flux and r_eff relative to the truth),
        ``"median_error"`` (of the absolute error), ``"pull_std"``, ``"coverage_68"`` and ``"coverage_95"``. Parameters
        that the network takes as known are left out.
    """
    errors, pulls, inside = [], [], []
    losses, count = {name: 0.0 for name in _WEIGHTS if name != "teacher"}, 0
    with torch.inference_mode():
        for inputs, parameters in batches:
            for rows in torch.arange(len(inputs), device=parameters.device).split(chunk_size("held-out stamps")):
                chunk, truth = _rows_of(inputs, rows), parameters[rows]
                for name, value in network.loss(chunk, truth, bf16=bf16).items():
                    losses[name] += float(value) * len(rows)
                summary = network.summarise(network.encode(chunk, bf16=bf16))
                error = summary.mean - truth
                pulls.append(error / summary.covariance.diagonal(dim1=1, dim2=2).sqrt())
                for name in ("flux", "r_eff"):
                    error[:, PARAMETER_INDEX[name]] /= truth[:, PARAMETER_INDEX[name]]
                errors.append(error)
                low, high = summary.quantiles[:, LOWER_LEVELS], summary.quantiles[:, UPPER_LEVELS]
                inside.append(((truth[:, None] > low) & (truth[:, None] < high)).double())
                count += len(rows)
    errors, pulls, inside = torch.cat(errors), torch.cat(pulls), torch.cat(inside)

    measured = [i for i, name in enumerate(PARAMETER_NAMES) if name not in network.held]

    def named(values):
        return {PARAMETER_NAMES[i]: round(float(values[i]), 5) for i in measured}

    return {
        "stamps": count,
        "loss": {name: round(value / count, 5) for name, value in losses.items()},
        "rmse": named(errors.square().mean(0).sqrt()),
        "median_error": named(errors.abs().median(0).values),
        "pull_std": named(pulls.std(0)),
        "coverage_68": named(inside.mean(0)[1]),
        "coverage_95": named(inside.mean(0)[0]),
    }


def begin_with(network: PosteriorNetwork, weights: str | PathLike) -> bool:
    """Copy tensors of other weights that have the same name and shape into a network, in place.

    A convolution that has more input channels here than there takes over the first ones, and the others begin at zero.

    Parameters
    ----------
    network : SersicPosterior
        Network that is to be trained.
    weights : str or path-like
        Name of weights that galmeasure ships, or a file of weights.

    Returns
    -------
    bool
        True if all constants of the data, the buffers, were taken over.
    """
    from galmeasure.weights import load_network

    source, target = load_network(weights).state_dict(), network.state_dict()
    taken = {n: tensor for n, tensor in source.items() if n in target and target[n].shape == tensor.shape}
    for name, tensor in source.items():
        more = name in target and name not in taken and tensor.ndim == 4 == target[name].ndim
        if more and target[name][:, : tensor.shape[1]].shape == tensor.shape:
            taken[name] = torch.zeros_like(target[name])
            taken[name][:, : tensor.shape[1]] = tensor
    network.load_state_dict({**target, **taken})
    return all(name in taken for name, _ in network.named_buffers() if name in target)


def _rows_of(inputs, rows):
    """Select stamps by their rows."""
    maps = (getattr(inputs, name)[rows] for name in ("image", "error", "good", "gain"))
    noiseless = None if inputs.noiseless is None else inputs.noiseless[rows]
    return StampInputs(*maps, inputs.psf, inputs.psf_index[rows], inputs.psf_quality, noiseless)


def _revision():
    """Revision of the source, if this is a git checkout."""
    folder = Path(__file__).parent
    try:
        process = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=folder, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return process.stdout.strip()
