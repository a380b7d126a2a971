"""One trial on Ray Tune: a class trainable whose actor is reused from trial to trial."""

from __future__ import annotations

import math
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ray import tune

from anon_tune.errors import AnonTuneError
from anon_tune.records import Phase, TrialState
from anon_tune.spec import JobSpec, stored_spec
from anon_tune.workers import checkpoints, output
from anon_tune.workers.probe import PROBE_BATCHES, probe
from anon_tune.workers.tasks import Problem, load_problem
from anon_tune.workers.training import Training

__all__ = ["TrialTrainable", "run_probe"]

_PROBE_SHARE = 0.02
"""Of the steps of a full-length trial, at most so many are spent on the probe (but one at least)."""


class TrialTrainable(tune.Trainable):
    """Trains one trial an epoch at a time.

    An error in the training becomes a result with the outcome FAILED, so that only a lost worker is an error to
    Ray. The config holds `trial`, `attempt`, `arm`, `phase`, `seed`, `hyperparameters`, `folder` (the job's, of
    checkpoints), `checkpoints` (what the trial may go on from) and `output`, the file for what this process writes
    meanwhile.

    Besides step, value and metrics a result may hold `checkpoint` (one that is durable and holds the trial after this
    step), `resumed` (the epochs that were done before this attempt), `warnings` (lines for the job's log) and, where
    the trial does not end well, `log` (the end of what its process wrote).
    """

    def setup(self, config: dict[str, Any], spec: Mapping[str, Any]) -> None:
        """Prepare the first trial of this actor; `spec` is the job's, as plain values."""
        self._spec = spec
        self._start(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Prepare the next trial in the same process; nothing of the last one stays."""
        self._training: Training | None = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.cleanup()
        self._start(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch."""
        output.trim(self._output)
        if self._failure is not None:
            result = {"done": True, **self._told(), **self._failure}
        else:
            try:
                result = self._epoch()
            except Exception as error:  # noqa: BLE001 - the user's model may raise anything; it is reported
                result = {"done": True, **self._told(), **_failure(error)}
        if result.get("outcome") in {TrialState.FAILED, TrialState.DIVERGED}:
            result["log"] = output.tail(self._output) or result.get("traceback")
        return result

    def cleanup(self) -> None:
        """Leave no file behind; the driver removes those of workers that died."""
        self._output.unlink(missing_ok=True)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Tune wants the method; checkpoints are written by step, and named by the ledger."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """See save_checkpoint."""

    def _start(self, config: Mapping[str, Any]) -> None:
        self._failure: dict[str, Any] | None = None
        self._news: dict[str, Any] = {}
        self._output = Path(config["output"])
        output.capture(self._output)
        try:
            spec = stored_spec(self._spec)
            self._tests = config["phase"] == Phase.VERDICT
            self._metric = spec.objective.metric
            self._epochs = spec.budget.epochs
            self._trial, self._attempt = config["trial"], config["attempt"]
            self._folder = Path(config["folder"])
            self._keeps_last = spec.may_keep(config["arm"], config["phase"])
            self._good: str | None = None
            problem, device = _problem(spec)
            self._training = self._go_on(
                lambda: Training(
                    problem,
                    config["arm"],
                    config["hyperparameters"],
                    seed=config["seed"],
                    epochs=spec.budget.epochs,
                    device=device,
                    **spec.training.model_dump(exclude={"checkpoint_seconds"}),
                ),
                config["checkpoints"],
            )
            self._pace = checkpoints.Pace(spec.training.checkpoint_seconds)
        except Exception as error:  # noqa: BLE001 - as in step
            self._failure = _failure(error)

    def _go_on(self, begin: Callable[[], Training], names: Sequence[str]) -> Training:
        """From the furthest checkpoint that can be used, else from fresh weights."""
        training = begin()
        problems: list[str] = []
        # The last epoch has its results in one report with the end of the trial: it is trained again.
        for name, state in checkpoints.intact(self._folder, names, self._epochs, problems):
            try:
                training.load_state_dict(state)
            except Exception as error:  # noqa: BLE001 - whatever does not fit, there may be another
                problems.append(f"checkpoint {name} does not fit: {error}")
                training = begin()
            else:
                self._good = name
                self._news["resumed"] = training.epoch
                break
        else:
            if names:
                problems.append("no checkpoint can be used: it starts afresh")
        self._warn(*problems)
        return training

    def _save(self, training: Training) -> dict[str, Any]:
        """Write a checkpoint and name it for the result; one that cannot be written is no failure of the trial."""
        name = checkpoints.checkpoint_name(self._trial, self._attempt, training.epoch)
        try:
            with self._pace.writing():
                checkpoints.save(self._folder, name, training.state_dict(), self._good)
        except Exception as error:  # noqa: BLE001 - a full disk, or a state that cannot be saved
            self._warn(f"no checkpoint after epoch {training.epoch}, it goes on without: {error}")
            return {}
        self._good = name
        return {"checkpoint": name}

    def _told(self) -> dict[str, Any]:
        """What the next result says besides its own, once."""
        news, self._news = self._news, {}
        return news

    def _warn(self, *lines: str) -> None:
        if lines:
            self._news["warnings"] = [*self._news.get("warnings", ()), *lines]

    def _epoch(self) -> dict[str, Any]:
        training = self._training
        if training is None:
            raise RuntimeError("the trial was not prepared")
        started = time.perf_counter()
        metrics = training.run_epoch()
        metrics["epoch_seconds"] = time.perf_counter() - started
        result: dict[str, Any] = {
            "step": training.epoch,
            "value": metrics[f"val_{self._metric}"],
            "done": False,
        }
        if training.diverged:
            result |= {"done": True, "outcome": TrialState.DIVERGED, "reason": _divergence(metrics)}
        elif training.epoch == self._epochs:
            final = result["value"]
            if self._tests:
                metrics |= training.test()
                final = metrics[f"test_{self._metric}"]
            if math.isfinite(final):
                result |= {"done": True, "outcome": TrialState.COMPLETE, "final": final}
            else:
                result |= {"done": True, "outcome": TrialState.DIVERGED, "reason": _divergence(metrics)}
        completed = result.get("outcome") == TrialState.COMPLETE
        due = self._pace.due or checkpoints.is_asked(self._folder)
        if (completed and self._keeps_last) or (not result["done"] and due):
            result |= self._save(training)
        return {**result, **self._told(), "metrics": metrics}


def run_probe(spec: Mapping[str, Any], seed: int, floor: float) -> dict[str, Any]:
    """Measure a job's model where its trials will run; see `probe.probe`.

    An error becomes a result, as in the trials: `reason` and `traceback`.
    """
    try:
        parsed = stored_spec(spec)
        problem, device = _problem(parsed)
        batch_size = parsed.training.batch_size
        steps = parsed.budget.epochs * max(1, len(problem.train) // batch_size)
        batches = max(1, min(PROBE_BATCHES, int(_PROBE_SHARE * steps)))
        return probe(problem, seed=seed, batch_size=batch_size, floor=floor, device=device, batches=batches)
    except Exception as error:  # noqa: BLE001 - as in TrialTrainable
        return _failure(error)


def _problem(spec: JobSpec) -> tuple[Problem, torch.device]:
    device = torch.device("cuda" if spec.resources.gpu > 0 and torch.cuda.is_available() else "cpu")
    torch.set_num_threads(spec.resources.cpu)
    problem = load_problem(
        spec.task, spec.data.name, spec.model.name, spec.model.options, spec.data.options, spec.folder
    )
    return problem.to(device), device


def _divergence(metrics: Mapping[str, float]) -> str:
    losses = ", ".join(f"{name} {value:g}" for name, value in metrics.items() if name.endswith("loss"))
    return f"diverged: {losses}"


def _failure(error: Exception) -> dict[str, Any]:
    trace = "".join(traceback.format_exception(error))
    sys.stdout.flush()
    sys.stderr.write(trace)
    sys.stderr.flush()
    if isinstance(error, torch.OutOfMemoryError):
        # Without the sizes in its message, which differ from trial to trial: three for one reason pause the job.
        text = (
            "CUDA out of memory. Lower training.batch_size or the model's sizes, or let fewer trials share a GPU "
            "(resources.gpu). `anon-tune logs` shows what was asked for."
        )
    else:
        text = str(error) if isinstance(error, AnonTuneError) else f"{type(error).__name__}: {error}"
    return {"outcome": TrialState.FAILED, "reason": text, "traceback": trace}
