"""A trial inside the process of user code: its context, whose reports go to the supervisor. Needs torch alone."""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch.optim import Optimizer

from anon_tune.errors import InputError
from anon_tune.optim import Anon, make_optimizer, monitor
from anon_tune.records import OPTIMIZER_STEPS, Phase
from anon_tune.workers.isolation.channel import Channel
from anon_tune.workers.trial import checkpoints
from anon_tune.workers.trial.context import Context, Progress, TrialStopped
from anon_tune.workers.trial.device import choose_device
from anon_tune.workers.trial.failure import message_of
from anon_tune.workers.trial.lines import from_reply, to_line
from anon_tune.workers.trial.messages import (
    Assignment,
    CheckUpRun,
    Completed,
    Diverged,
    Failed,
    Measurement,
    Outcome,
    Result,
    StepResult,
    TrialAssignment,
)
from anon_tune.workers.trial.watchdog import Watchdog
from anon_tune.workers.trial.work import NO_REPORT, Work

__all__ = ["ChannelSupervisor", "Supervisor", "TrialSession", "seed_all", "tell_failure"]


class Supervisor(Protocol):
    """Receives the results of a session."""

    def tell(self, result: Result | CheckUpRun) -> bool:
        """Send a result; return whether the training goes on."""


class ChannelSupervisor:
    """The supervisor at the other end of this process's channel."""

    def __init__(self) -> None:
        self._channel = Channel()

    def tell(self, result: Result | CheckUpRun) -> bool:
        """Send a result, and wait for the reply; return False if the supervisor has gone."""
        try:
            return from_reply(self._channel.ask(to_line(result))).goes_on
        except OSError:
            return False


class TrialSession:
    """One attempt at a trial of user code.

    Args:
        work: The trial.
        supervisor: Gets the reports. None in processes beside the one that reports: their reports have no effect.
    """

    def __init__(self, work: Work, supervisor: Supervisor | None) -> None:
        if not isinstance(work.assignment, TrialAssignment):
            raise TypeError("a session needs a trial")
        self._spec = work.spec
        self._trial = work.assignment.trial
        self._folder = work.assignment.folder
        self._supervisor = supervisor
        self._tests = self._trial.phase is Phase.VERDICT
        self._value: float | None = None
        self._good: str | None = None
        self._resumed: int | None = None
        self._warnings: list[str] = []
        self._steps = 0
        self._pace = checkpoints.Pace(self._spec.training.checkpoint_seconds)
        if supervisor is not None:
            Watchdog(self._folder, self._trial.id, self._trial.attempts)
        saved = self._saved()
        self.context = self._context(work, saved)
        self._since = time.perf_counter()

    def end(self) -> None:
        """Report the end of a training that came to its end."""
        self.context.close()
        if self._value is None:
            raise InputError(NO_REPORT)
        self.tell(None, Completed(self._value))

    def tell(self, measurement: Measurement | None, outcome: Outcome | None) -> bool:
        """Send a result; return whether the training goes on."""
        if self._supervisor is None:
            return True
        if outcome is not None:
            sys.stdout.flush()  # what the trial printed is read from a file next
        resumed, self._resumed = self._resumed, None
        warnings, self._warnings = tuple(self._warnings), []
        result = StepResult(measurement=measurement, outcome=outcome, resumed=resumed, warnings=warnings)
        return self._supervisor.tell(result)

    def _saved(self) -> Mapping[str, Any] | None:
        """Return the furthest intact checkpoint."""
        trial, problems = self._trial, list[str]()
        found = next(
            checkpoints.intact(self._folder, trial.checkpoints, self._spec.budget.length, problems), None
        )
        if found is None:
            if trial.checkpoints:
                problems.append("no checkpoint can be used; starting from scratch")
        else:
            self._good, saved = found
            self._resumed = saved["step"]
            self._value = self._objective(saved["metrics"])
        self._warnings += problems
        return None if found is None else found[1]

    def _context(self, work: Work, saved: Mapping[str, Any] | None) -> Context:
        spec, trial = self._spec, self._trial
        return Context(
            arm=trial.arm,
            hyperparameters=trial.hyperparameters,
            seed=trial.seed,
            device=choose_device(spec.resources.gpu),
            length=spec.budget.length,
            unit=spec.budget.unit,
            objective=spec.objective,
            folder=work.files,
            make_optimizer=self._optimizer,
            tell=self._report,
            tests=self._tests,
            schedule=spec.training.schedule,
            warmup=spec.training.warmup,
            saved=saved,
            is_due=self._is_due,
        )

    def _optimizer(self, target: Any) -> Optimizer:
        """Return the trial's optimizer, whose steps are counted."""
        arm = self._spec.optimizer(self._trial.arm)
        made = make_optimizer(arm, target, self._trial.hyperparameters, self._spec.folder)
        made.register_step_post_hook(self._count_step)
        return made

    def _count_step(self, *_: Any) -> None:
        self._steps += 1

    def _report(self, progress: Progress) -> None:
        """Send a report, with a checkpoint if one is due. Raises TrialStopped if the trial must stop."""
        if self.context.should_stop:
            raise TrialStopped
        if not self.tell(*self._measured(progress)):
            self.context.should_stop = True
            raise TrialStopped

    def _measured(self, progress: Progress) -> tuple[Measurement, Outcome | None]:
        now = time.perf_counter()
        metrics = {
            **progress.metrics,
            "epoch_seconds": now - self._since,
            OPTIMIZER_STEPS: float(self._steps),
        }
        self._since, self._steps = now, 0
        for optimizer in self.context.optimizers:
            if isinstance(optimizer, Anon):
                metrics |= monitor(optimizer)
        metric = self._spec.objective.metric
        value = progress.metrics[metric]
        self._value = self._objective(progress.metrics)
        outcome, checkpoint = None, None
        if not math.isfinite(value) or not math.isfinite(self._value):
            outcome = Diverged(f"diverged: {metric} {value:g}")
        elif self._supervisor is not None and self._saves(progress):
            checkpoint = self._save(progress)
        return Measurement(progress.step, value, metrics, checkpoint), outcome

    def _objective(self, metrics: Mapping[str, float]) -> float:
        """Return the value that one report would give its trial."""
        metric = self._spec.objective.metric
        value = metrics[metric]
        return metrics.get(f"test_{metric}", value) if self._tests else value

    def _saves(self, progress: Progress) -> bool:
        return progress.state is not None and progress.step < self._spec.budget.length and self._is_due()

    def _is_due(self) -> bool:
        return self._pace.due or checkpoints.is_asked(self._folder)

    def _save(self, progress: Progress) -> str | None:
        """Write a checkpoint and return its name; if that fails, add a warning and return None."""
        name = checkpoints.checkpoint_name(self._trial.id, self._trial.attempts, progress.step)
        try:
            with self._pace.writing():
                state: Callable[[], Mapping[str, Any]] | None = progress.state
                if state is not None:
                    checkpoints.save(self._folder, name, state(), self._good)
        except Exception as error:  # noqa: BLE001 - a full disk, or a state that cannot be saved
            self._warnings.append(
                f"no checkpoint after {self._spec.budget.unit} {progress.step}, training goes on: {message_of(error)}"
            )
            return None
        self._good = name
        return name


def tell_failure(supervisor: Supervisor, assignment: Assignment, failed: Failed) -> None:
    """Report the failure of a trial or of the check-up."""
    is_trial = isinstance(assignment, TrialAssignment)
    supervisor.tell(StepResult(outcome=failed) if is_trial else failed)


def seed_all(seed: int) -> None:
    """Set the global random states of torch, numpy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
