"""Training: stamps from the pool, one loss for flow and heads, a moving average of the weights, exact resume."""

import contextlib
import csv
import datetime as dt
import math
import subprocess
import time
from pathlib import Path

import torch
from tqdm import tqdm

from galmeasure.networks import StampInputs, build_network
from galmeasure.parameters import N_PARAMETERS, PARAMETER_INDEX, PARAMETER_NAMES
from galmeasure.priors import get_prior
from galmeasure.render.memory import reserve_heap
from galmeasure.simulation.stamps import simulate_stamps
from galmeasure.training.pool import StampPool, training_psfs
from galmeasure.training.validation import read_held_out

__all__ = ["Trainer", "held_out_metrics", "train"]

_CHECKPOINT_SECONDS = 120.0
_LONGEST_STEP = 20.0  # seconds; a process that was stopped for a while did not train
_HELD_OUT = 1_000_003  # added to the seed of a run
_EMA_START = 10.0
_PIECE = 256
_WEIGHTS = {"flow": 1.0, "mean": 1.0, "covariance": 1.0, "quantiles": 1.0}


def train(config, folder, *, device="cpu", minutes=None, threads=None, validation=None, progress_bar=True):
    """Train a network, or go on with one.

    Parameters
    ----------
    config : TrainingConfig
        The run.
    folder : path-like
        Checkpoint, log and result; a run that was stopped there goes on.
    device : str, optional
        Where.
    minutes : float, optional
        The whole run's time: the schedule is shortened to end then.
    threads : int, optional
        Threads of torch; as many as it chooses by default.
    validation : path-like, optional
        Table of ``galmeasure simulate``, on which the network is tested as well.
    progress_bar : bool, optional
        Show a bar on standard error.

    Returns
    -------
    Weights
        The weights, written to ``folder`` as ``<name>.safetensors`` with their card.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    trainer = Trainer(config, folder, device=device, validation=validation)
    trainer.run(minutes=minutes, progress_bar=progress_bar)
    return trainer.save()


class Trainer:
    """One training run.

    Parameters
    ----------
    config : TrainingConfig
        The run.
    folder : path-like
        Holds ``checkpoint.pt`` (tensors and numbers only), ``log.csv`` and the result.
    device : str, optional
        Where.
    validation : path-like, optional
        Table of ``galmeasure simulate``, on which the network is tested as well.

    Raises
    ------
    ValueError
        If the folder holds a run of another configuration, or the table of validation lacks its truth.
    """

    def __init__(self, config, folder, *, device="cpu", validation=None):
        self.config, self.folder, self.device = config, Path(folder), device
        self.folder.mkdir(parents=True, exist_ok=True)
        self.reference = (
            None if validation is None else list(read_held_out(validation, device, config.network.clean_psf))
        )
        torch.manual_seed(config.seed)
        torch.set_flush_denormal(True)
        reserve_heap()
        self.network = build_network(config.network)
        if config.start is not None:
            begin_with(self.network, config.start)
        self.network.to(device)
        self.average = [each.detach().clone() for each in self.network.parameters()]
        decays = [each for each in self.network.parameters() if each.ndim > 1]
        others = [each for each in self.network.parameters() if each.ndim <= 1]
        groups = [{"params": decays, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
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
    def checkpoint(self):
        """File that a run goes on from."""
        return self.folder / "checkpoint.pt"

    def run(self, *, minutes=None, progress_bar=True, steps=None):
        """Train to the end of the schedule.

        Parameters
        ----------
        minutes : float, optional
            Time of the whole run, earlier parts counted in; the schedule ends no later.
        progress_bar : bool, optional
            Show a bar on standard error.
        steps : int, optional
            Stop at this step, inside the schedule.
        """
        config = self.config
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

    def validate(self):
        """Metrics of the averaged weights on the held-out stamps, written to the log."""
        with self._averaged():
            self.metrics = held_out_metrics(self.network, [self._held_out()])
            if self.reference is not None:
                self.metrics["validation"] = held_out_metrics(self.network, self.reference)
        flat = {"valid_loss": sum(self.metrics["loss"].values())}
        flat |= {f"loss_{name}": value for name, value in self.metrics["loss"].items()}
        self._log("valid", flat)
        if self.reference is not None:
            losses = self.metrics["validation"]["loss"]
            self._log("table", {f"loss_{name}": value for name, value in losses.items()})
        return self.metrics

    def save(self):
        """Write the averaged weights and their card.

        Returns
        -------
        Weights
            What was written.
        """
        from galmeasure.weights import save_weights

        self.validate()
        with self._averaged():
            return save_weights(self.folder / f"{self.config.name}.safetensors", self.network, self.card())

    def card(self):
        """Card of the weights: all that is needed to make them again, and how good they are."""
        from galmeasure import __version__
        from galmeasure.weights import prior_domain

        config, prior = self.config.as_dict(), get_prior(self.config.simulation.prior)
        training = {
            name: config[name] for name in config if name not in ("name", "description", "simulation", "network")
        }
        training |= {
            "steps_done": self.step, "stamps": self.step * self.config.batch_size,
            "simulated": self.pool.simulated, "minutes": round(self.seconds / 60.0, 1), "device": str(self.device),
            "threads": torch.get_num_threads(), "torch": torch.__version__,
        }  # fmt: skip
        return {
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

    def save_checkpoint(self):
        """Write all that `run` needs to go on as if it had not stopped."""
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

    def _resume(self):
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        if state["config"] != str(self.config.as_dict()):
            msg = f"{self.checkpoint}: a run of another configuration; choose another folder"
            raise ValueError(msg)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = [each.to(self.device) for each in state["average"]]
        self.step, self.seconds = state["step"], state["seconds"]
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

    def _progress(self, minutes):
        """Part of the schedule that is done."""
        part = self.step / self.config.steps
        return part if minutes is None else max(part, self.seconds / (60.0 * minutes))

    def _train_step(self, progress):
        config = self.config
        rate = config.learning_rate * min(1.0, (self.step + 1) / config.warm_up)
        rate *= 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        inputs, parameters = self.pool.draw(config.batch_size)
        losses = self.network.loss(inputs, parameters, bf16=config.bf16)
        total = sum(_WEIGHTS[name] * value for name, value in losses.items())
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.clip)
        if torch.isfinite(norm):
            self.optimizer.step()
        memory = min(config.ema, (1.0 + self.step) / (_EMA_START + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, list(self.network.parameters()), 1.0 - memory)
        return {name: value.detach() for name, value in losses.items()}, norm

    @contextlib.contextmanager
    def _averaged(self):
        """Put the averaged weights into the network for a while."""
        own = [each.detach().clone() for each in self.network.parameters()]
        with torch.no_grad():
            torch._foreach_copy_(list(self.network.parameters()), self.average)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(list(self.network.parameters()), own)

    def _held_out(self):
        """Stamps that training never sees."""
        if not hasattr(self, "_held_out_stamps"):
            generator = torch.Generator(self.device).manual_seed(self.config.seed + _HELD_OUT)
            stamps = simulate_stamps(
                self.config.simulation, self.config.held_out, generator=generator, device=self.device
            )
            psf, quality = training_psfs(stamps.psf_images, self.config.network.clean_psf)
            inputs = StampInputs(stamps.image, stamps.error, stamps.good, stamps.gain, psf, stamps.psf_index, quality)
            self._held_out_stamps = inputs, stamps.parameters
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


def held_out_metrics(network, batches, *, bf16=False):
    """How good the heads and the flow are on simulated stamps.

    Parameters
    ----------
    network : SersicPosterior
        The network.
    batches : iterable of (StampInputs, Tensor)
        Stamps and their truth, ``(B, 7)``.
    bf16 : bool, optional
        As in `galmeasure.networks.SersicPosterior.encode`.

    Returns
    -------
    dict
        ``"stamps"``, their number; ``"loss"``; and by parameter ``"rmse"`` (flux and r_eff relative to the truth),
        ``"median_error"`` (of the absolute error), ``"pull_std"``, ``"coverage_68"`` and ``"coverage_95"``.
    """
    errors, pulls, inside = [], [], []
    losses, count = dict.fromkeys(_WEIGHTS, 0.0), 0
    with torch.inference_mode():
        for inputs, parameters in batches:
            for rows in torch.arange(len(inputs), device=parameters.device).split(_PIECE):
                part, truth = _rows_of(inputs, rows), parameters[rows]
                for name, value in network.loss(part, truth, bf16=bf16).items():
                    losses[name] += float(value) * len(rows)
                summary = network.summarise(network.encode(part, bf16=bf16))
                off = summary.mean - truth
                pulls.append(off / summary.covariance.diagonal(dim1=1, dim2=2).sqrt())
                for name in ("flux", "r_eff"):
                    off[:, PARAMETER_INDEX[name]] /= truth[:, PARAMETER_INDEX[name]]
                errors.append(off)
                low, high = summary.quantiles[:, :2], summary.quantiles[:, [4, 3]]
                inside.append(((truth[:, None] > low) & (truth[:, None] < high)).double())
                count += len(rows)
    errors, pulls, inside = torch.cat(errors), torch.cat(pulls), torch.cat(inside)

    def named(values):
        return {PARAMETER_NAMES[i]: round(float(values[i]), 5) for i in range(N_PARAMETERS)}

    return {
        "stamps": count,
        "loss": {name: round(value / count, 5) for name, value in losses.items()},
        "rmse": named(errors.square().mean(0).sqrt()),
        "median_error": named(errors.abs().median(0).values),
        "pull_std": named(pulls.std(0)),
        "coverage_68": named(inside.mean(0)[1]),
        "coverage_95": named(inside.mean(0)[0]),
    }


def begin_with(network, weights):
    """Take over, in place, those tensors of other weights that have the same name and shape.

    Parameters
    ----------
    network : SersicPosterior
        The network that is to be trained.
    weights : str or path-like
        Name of weights that galmeasure ships, or a file of weights.
    """
    from galmeasure.weights import load_network

    given, own = load_network(weights).state_dict(), network.state_dict()
    fitting = {name: tensor for name, tensor in given.items() if name in own and own[name].shape == tensor.shape}
    network.load_state_dict({**own, **fitting})


def _rows_of(inputs, rows):
    """Some of the stamps."""
    maps = (getattr(inputs, name)[rows] for name in ("image", "error", "good", "gain"))
    return StampInputs(*maps, inputs.psf, inputs.psf_index[rows], inputs.psf_quality)


def _revision():
    """Revision of the source, if this is a git checkout."""
    folder = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=folder, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()
