"""An attempt at a trial of a task of ours, in the process that trains it, and the probe before. Needs no Ray."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from anon_tune.errors import InputError
from anon_tune.records import Phase
from anon_tune.spec import JobSpec
from anon_tune.workers.problems.tasks import Problem, load_problem
from anon_tune.workers.trial import checkpoints, output
from anon_tune.workers.trial.device import choose_device, use_threads
from anon_tune.workers.trial.dry_run import FactoryArm
from anon_tune.workers.trial.failure import failure_of, message_of
from anon_tune.workers.trial.messages import (
    Assignment,
    Completed,
    Diverged,
    Failed,
    Measurement,
    Outcome,
    ProbeAssignment,
    ProbeResult,
    StepResult,
    TrialAssignment,
)
from anon_tune.workers.trial.probe import PROBE_BATCHES, probe
from anon_tune.workers.trial.training import Training
from anon_tune.workers.trial.watchdog import Watchdog

__all__ = ["Attempt", "ProbeAttempt", "begin", "run_probe"]

_PROBE_SHARE = 0.02
"""Largest share of a full-length trial's steps that the probe takes, but at least one step."""

_TINY = 1e-8  # a learning rate for trial steps of the dry run


def begin(assignment: Assignment, spec: JobSpec) -> Attempt | ProbeAttempt:
    """Return the work on an assignment of a job."""
    if isinstance(assignment, ProbeAssignment):
        return ProbeAttempt(assignment, spec)
    return Attempt(assignment, spec)


class ProbeAttempt:
    """Runs the probe of a job in a single step.

    Args:
        assignment: What to measure.
        spec: The job.
    """

    def __init__(self, assignment: ProbeAssignment, spec: JobSpec) -> None:
        self._assignment = assignment
        self._spec = spec
        self._output = output.own(assignment.output)
        output.capture(self._output)

    def step(self) -> ProbeResult | Failed:
        """Run the probe."""
        return run_probe(self._spec, self._assignment.seed, self._assignment.floor, self._assignment.points)

    def close(self) -> None:
        """Free the memory and delete the output."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._output.unlink(missing_ok=True)


class Attempt:
    """Trains one trial one epoch at a time.

    An error in the training becomes a result with the outcome `Failed`.

    Args:
        assignment: The trial, and its folders.
        spec: The job.
    """

    def __init__(self, assignment: TrialAssignment, spec: JobSpec) -> None:
        trial = assignment.trial
        self._trial = trial
        self._spec = spec
        self._folder = assignment.folder
        self._failure: Failed | None = None
        self._resumed: int | None = None
        self._warnings: list[str] = []
        self._training: Training | None = None
        self._output = output.own(assignment.output)
        output.capture(self._output)
        self._watchdog = Watchdog(self._folder, trial.id, trial.attempts)
        self._tests = trial.phase is Phase.VERDICT
        self._metric = spec.objective.metric
        self._tests_each = self._tests and spec.objective.of != "last"
        self._epochs = spec.budget.length
        self._keeps_last = spec.may_keep(trial.arm, trial.phase)
        self._good: str | None = None
        try:
            use_threads(spec.resources.cpu)
            self._training = self._go_on(_problem(spec))
            self._pace = checkpoints.Pace(spec.training.checkpoint_seconds)
        except Exception as error:  # noqa: BLE001 - as in step
            self._failure = failure_of(error, spec.folder)

    def step(self) -> StepResult:
        """Train one epoch."""
        output.trim(self._output)
        measurement: Measurement | None = None
        outcome: Outcome | None = self._failure
        if outcome is None:
            try:
                measurement, outcome = self._epoch()
            except Exception as error:  # noqa: BLE001 - the user's model may raise anything; it is reported
                outcome = failure_of(error, self._spec.folder)
        if isinstance(outcome, Failed):
            outcome = dataclasses.replace(outcome, log=output.tail(self._output) or outcome.traceback)
        elif isinstance(outcome, Diverged):
            outcome = dataclasses.replace(outcome, log=output.tail(self._output))
        resumed, self._resumed = self._resumed, None
        warnings, self._warnings = self._warnings, []
        return StepResult(measurement=measurement, outcome=outcome, resumed=resumed, warnings=tuple(warnings))

    def close(self) -> None:
        """Free the memory and delete the files of this attempt; the driver deletes those of processes that died."""
        self._watchdog.close()
        self._training = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._output.unlink(missing_ok=True)

    def _go_on(self, problem: Problem) -> Training:
        """Prepare the training from the furthest usable checkpoint, else from fresh weights."""
        trial, problems = self._trial, list[str]()
        begin = functools.partial(
            _training, self._spec, problem, trial.arm, trial.hyperparameters, trial.seed
        )
        training = begin()
        # The last epoch is trained again: its report comes together with the end of the trial.
        for name, state in checkpoints.intact(self._folder, trial.checkpoints, self._epochs, problems):
            try:
                training.load_state_dict(state)
            except Exception as error:  # noqa: BLE001 - whatever does not fit, there may be another
                problems.append(f"checkpoint {name} does not fit: {message_of(error)}")
                training = begin()
            else:
                self._good = name
                self._resumed = training.epoch
                break
        else:
            if trial.checkpoints:
                problems.append("no checkpoint can be used; starting from scratch")
        self._warnings += problems
        return training

    def _save(self, step: int, state: Callable[[], Mapping[str, Any]]) -> str | None:
        """Write a checkpoint and return its name; if that fails, add a warning and return None."""
        name = checkpoints.checkpoint_name(self._trial.id, self._trial.attempts, step)
        try:
            with self._pace.writing():
                checkpoints.save(self._folder, name, state(), self._good)
        except Exception as error:  # noqa: BLE001 - a full disk, or a state that cannot be saved
            self._warnings.append(
                f"no checkpoint after epoch {step}, training continues: {message_of(error)}"
            )
            return None
        self._good = name
        return name

    def _is_due(self) -> bool:
        return self._pace.due or checkpoints.is_asked(self._folder)

    def _epoch(self) -> tuple[Measurement, Outcome | None]:
        training = self._training
        if training is None:
            raise RuntimeError("the trial was not prepared")
        started = time.perf_counter()
        metrics = training.run_epoch()
        metrics |= {"epoch_seconds": time.perf_counter() - started, **training.speed()}
        if self._tests and (self._tests_each or training.epoch == self._epochs) and not training.diverged:
            metrics |= training.test()
        value = metrics[f"val_{self._metric}"]
        final = metrics.get(f"test_{self._metric}", value)
        outcome: Outcome | None = None
        if training.diverged or not math.isfinite(final):
            outcome = Diverged(_divergence(metrics))
        elif training.epoch == self._epochs:
            outcome = Completed(final)
        saves = self._is_due() if outcome is None else isinstance(outcome, Completed) and self._keeps_last
        checkpoint = self._save(training.epoch, training.state_dict) if saves else None
        return Measurement(training.epoch, value, metrics, checkpoint), outcome


def run_probe(
    spec: JobSpec,
    seed: int,
    floor: float,
    points: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> ProbeResult | Failed:
    """Measure the model of a task of ours on the machine of its trials; see `probe.probe`.

    An error becomes a result, as in the trials.

    Args:
        spec: The job.
        seed: Seed of the initial weights and of the batches.
        floor: Floor of Anon's search space.
        points: Hyperparameters for the dry run of the user's factories, by arm.
    """
    try:
        use_threads(spec.resources.cpu)
        arms = [
            FactoryArm(arm, spec.optimizer(arm), spec.spaces[arm].file, spec.folder, each)
            for arm, each in (points or {}).items()
        ]
        problem = _problem(spec)
        batch_size = spec.training.batch_size
        steps = spec.budget.length * max(1, len(problem.train) // batch_size)
        batches = max(1, min(PROBE_BATCHES, int(_PROBE_SHARE * steps)))
        found = probe(
            problem,
            seed=seed,
            batch_size=batch_size,
            floor=floor,
            device=choose_device(spec.resources.gpu),
            batches=batches,
            arms=arms,
        )
        cost = _training(spec, problem, "anon", {"lr": _TINY}, seed).dry_run()
        return dataclasses.replace(found, cost=cost)
    except Exception as error:  # noqa: BLE001 - as in an attempt
        return failure_of(error, spec.folder)


def _problem(spec: JobSpec) -> Problem:
    data, model = spec.data, spec.model
    if data is None or model is None:
        raise InputError(f"{spec.task} needs data and a model.")
    problem = load_problem(
        spec.task,
        data.name,
        model.name,
        model.options,
        data.options,
        spec.folder,
        spec.training.num_workers,
    )
    return problem.to(choose_device(spec.resources.gpu))


def _training(
    spec: JobSpec, problem: Problem, arm: str, hyperparameters: Mapping[str, Any], seed: int
) -> Training:
    return Training(
        problem,
        spec.optimizer(arm),
        hyperparameters,
        seed=seed,
        epochs=spec.budget.length,
        device=choose_device(spec.resources.gpu),
        folder=spec.folder,
        **spec.training.model_dump(exclude={"checkpoint_seconds", "num_workers"}),
    )


def _divergence(metrics: Mapping[str, float]) -> str:
    losses = ", ".join(f"{name} {value:g}" for name, value in metrics.items() if name.endswith("loss"))
    return f"diverged: {losses}"
