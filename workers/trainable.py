"""One trial on Ray Tune: a class trainable whose actor is reused from trial to trial."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Mapping
from typing import Any

import torch
from ray import tune

from anon_tune.errors import AnonTuneError
from anon_tune.records import Phase, TrialState
from anon_tune.spec import JobSpec, stored_spec
from anon_tune.workers.probe import PROBE_BATCHES, probe
from anon_tune.workers.tasks import Problem, load_problem
from anon_tune.workers.training import Training

__all__ = ["TrialTrainable", "run_probe"]

_PROBE_SHARE = 0.02
"""Of the steps of a full-length trial, at most so many are spent on the probe (but one at least)."""


class TrialTrainable(tune.Trainable):
    """Trains one trial an epoch at a time.

    An error in the training becomes a result with the outcome FAILED, so that only a lost worker is an error to
    Ray. The config holds `trial`, `arm`, `phase`, `seed`, `hyperparameters`.
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
        self._start(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch."""
        if self._failure is not None:
            return {"done": True, **self._failure}
        try:
            return self._epoch()
        except Exception as error:  # noqa: BLE001 - the user's model may raise anything; it is reported
            return {"done": True, **_failure(error)}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Tune wants the method; trials are repeated, not restored, so there is nothing to write."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """See save_checkpoint."""

    def _start(self, config: Mapping[str, Any]) -> None:
        self._failure: dict[str, Any] | None = None
        try:
            spec = stored_spec(self._spec)
            self._tests = config["phase"] == Phase.VERDICT
            self._metric = spec.objective.metric
            self._epochs = spec.budget.epochs
            problem, device = _problem(spec)
            self._training = Training(
                problem,
                config["arm"],
                config["hyperparameters"],
                seed=config["seed"],
                epochs=spec.budget.epochs,
                batch_size=spec.training.batch_size,
                schedule=spec.training.schedule,
                label_smoothing=spec.training.label_smoothing,
                device=device,
            )
        except Exception as error:  # noqa: BLE001 - as in step
            self._failure = _failure(error)

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
        return {**result, "metrics": metrics}


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
    problem = load_problem(spec.task, spec.data, spec.model.name, spec.model.options)
    return problem.to(device), device


def _divergence(metrics: Mapping[str, float]) -> str:
    losses = ", ".join(f"{name} {value:g}" for name, value in metrics.items() if name.endswith("loss"))
    return f"diverged: {losses}"


def _failure(error: Exception) -> dict[str, Any]:
    text = str(error) if isinstance(error, AnonTuneError) else f"{type(error).__name__}: {error}"
    return {
        "outcome": TrialState.FAILED,
        "reason": text,
        "traceback": "".join(traceback.format_exception(error)),
    }
