"""The check-up of user code before the first trial: short runs with an optimizer that changes nothing.

Two runs with different seeds and learning rates measure the scale of the gradients, and find mistakes that would make
the job's answer worthless: a seed or a learning rate without effect, parameters that no optimizer trains. The number
of steps is fixed, so that the measurements do not depend on the speed of the machine. Needs torch alone.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from anon_tune.architecture import Computation, fingerprint
from anon_tune.errors import InputError
from anon_tune.workers.trial.check_ups import MOST_STEPS
from anon_tune.workers.trial.context import Context, Progress, TrialStopped
from anon_tune.workers.trial.device import choose_device
from anon_tune.workers.trial.dry_run import FactoryArm
from anon_tune.workers.trial.messages import (
    CheckUpRun,
    ProbeAssignment,
    ProbeResult,
    TrainingCost,
)
from anon_tune.workers.trial.operations import counted
from anon_tune.workers.trial.probe import PROBE_BATCHES, gradient_scale
from anon_tune.workers.trial.recorder import Recorder
from anon_tune.workers.trial.session import Supervisor
from anon_tune.workers.trial.untrained import Untrained
from anon_tune.workers.trial.work import NO_REPORT, Work

__all__ = ["CheckUpSession"]

_LEARNING_RATES = (1e-3, 3e-3)
"""Learning rates that the two runs pass on; no parameter changes."""

_NO_STEP = (
    "The training never called step() on the optimizer from optimizer(model) of its trial. Use that one."
)


class CheckUpSession:
    """One run of the check-up, inside the process of user code.

    Args:
        work: The probe, with the number of the run.
        supervisor: Gets the `CheckUpRun`. None in processes beside the one that reports.
    """

    def __init__(self, work: Work, supervisor: Supervisor | None) -> None:
        if not isinstance(work.assignment, ProbeAssignment):
            raise TypeError("a check-up needs a probe")
        self._assignment = work.assignment
        self._spec = work.spec
        self._supervisor = supervisor
        self._run = work.run
        self._lr = _LEARNING_RATES[work.run]
        self._recorders: list[Recorder] = []
        self._steps = 0
        self._steps_per_epoch: float | None = None
        self._value: float | None = None
        self._last = time.monotonic()
        self._seconds_per_step = float("inf")
        self._most_steps = self._assignment.most_steps or MOST_STEPS
        self._untrained: Untrained | None = None
        self._counting = contextlib.ExitStack()
        self._computation: Computation | None = None
        self.seed = (self._assignment.seed, self._assignment.other_seed)[work.run]
        self.context = Context(
            arm="anon",
            hyperparameters={"lr": self._lr},
            seed=self.seed,
            device=choose_device(self._spec.resources.gpu),
            length=self._spec.budget.length,
            unit=self._spec.budget.unit,
            objective=self._spec.objective,
            folder=work.files,
            make_optimizer=self._optimizer,
            tell=self._report,
            schedule=self._spec.training.schedule,
            warmup=self._spec.training.warmup,
        )

    def end(self) -> None:
        """Send the measurements of a training that ended by itself.

        Raises:
            InputError: It made no step with the trial's optimizer, or ended without a report.
        """
        if not self._steps:
            raise InputError(_NO_STEP)
        if self._value is None:
            raise InputError(NO_REPORT)
        self._send()

    def close(self) -> None:
        """Stop counting, also after a training that failed before its first step."""
        self._counting.close()

    def _optimizer(self, target: nn.Module | Iterable[Any]) -> Optimizer:
        arms = [
            FactoryArm(arm, self._spec.optimizer(arm), self._spec.spaces[arm].file, self._spec.folder, points)
            for arm, points in self._assignment.points.items()
        ]
        recorder = Recorder(target, self._lr, self._stepped, arms)
        self._recorders.append(recorder)
        if self._computation is None:  # of the first step alone
            self._computation = self._counting.enter_context(counted())
        return recorder

    def _report(self, progress: Progress) -> None:
        value = progress.metrics[self._spec.objective.metric]
        problem = self._spec.objective.problem_of(value, untrained=True)
        if problem is not None:
            raise InputError(f"report: {problem}")
        if not math.isfinite(value):
            raise InputError(
                f"report: {self._spec.objective.metric} is {value} before any parameter has changed. Check the data, "
                "the loss and the initial weights."
            )
        if self._value is None:
            self._value = value
            if self._spec.budget.unit == "epoch":
                self._steps_per_epoch = self._steps / progress.step
        if self._steps >= PROBE_BATCHES:
            self._stop()

    def _stepped(self) -> None:
        self._counting.close()
        now = time.monotonic()
        self._seconds_per_step = min(self._seconds_per_step, now - self._last)
        self._last = now
        self._steps += 1
        if self._run == 0 and self._steps <= PROBE_BATCHES:
            self._look()
        if self._steps >= self._most_steps or (self._steps >= PROBE_BATCHES and self._value is not None):
            self._stop()

    def _stop(self) -> None:
        if not self.context.should_stop:
            self.context.should_stop = True
            self._send()
        raise TrialStopped

    def _send(self) -> None:
        if self._supervisor is not None:
            self._supervisor.tell(self._result())

    def _look(self) -> None:
        if self._untrained is None:
            self._untrained = Untrained(Recorder)
        else:
            self._untrained.look(self._ours)

    @property
    def _ours(self) -> set[Tensor]:
        return {parameter for recorder in self._recorders for parameter in recorder.parameters}

    def _result(self) -> CheckUpRun:
        self._counting.close()
        stepped = [recorder for recorder in self._recorders if recorder.steps]
        # A parameter may be in two optimizers, such as one that was made again; the last one counts.
        measured = {each: recorder.mean_square(each) for recorder in stepped for each in recorder.parameters}
        log_mean_sigma, quantiles = gradient_scale(list(measured.values()), self._assignment.floor)
        probe = ProbeResult(
            log_mean_sigma=log_mean_sigma,
            quantiles_log_sigma=quantiles,
            floor=self._assignment.floor,
            batches=min(PROBE_BATCHES, max(recorder.steps for recorder in stepped)),
            architecture=fingerprint(self.context.model or list(measured), self._computation),
            uses_schedule=self.context.uses_schedule,
            cost=TrainingCost(seconds_per_step=self._seconds_per_step, steps_per_epoch=self._steps_per_epoch),
        )
        return CheckUpRun(
            probe=probe,
            optimizers=tuple(recorder.measured for recorder in self._recorders),
            value=self._value,
            notes=tuple(self._notes()),
        )

    def _notes(self) -> Iterator[str]:
        if self._untrained is not None:
            yield from self._untrained.notes(self._ours)
        trained = {each for recorder in self._recorders if recorder.steps for each in recorder.parameters}
        idle = sum(not trained.issuperset(recorder.parameters) for recorder in self._recorders)
        if idle:
            yield (
                f"{idle} of the {len(self._recorders)} optimizers made no step in the first {self._steps} steps, so "
                "the check-up did not see it"
            )
