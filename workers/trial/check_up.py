"""The check-up of user code before the first trial: short runs with an optimizer that changes nothing.

Two runs with different seeds and learning rates measure the scale of the gradients, and find mistakes that would make
the job's answer worthless: a seed or a learning rate without effect, parameters that no optimizer trains. The number
of steps is fixed, so that the measurements do not depend on the speed of the machine. Needs torch alone.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from anon_tune.architecture import Computation, fingerprint
from anon_tune.errors import InputError
from anon_tune.workers.trial.check_ups import MOST_STEPS
from anon_tune.workers.trial.context import Context, Progress, TrialStopped
from anon_tune.workers.trial.device import choose_device
from anon_tune.workers.trial.dry_run import FactoryArm, dry_run
from anon_tune.workers.trial.messages import (
    CheckUpRun,
    ProbeAssignment,
    ProbeResult,
    TrainingCost,
)
from anon_tune.workers.trial.operations import counted
from anon_tune.workers.trial.probe import PROBE_BATCHES, gradient_scale
from anon_tune.workers.trial.session import Supervisor
from anon_tune.workers.trial.work import NO_REPORT, Work

__all__ = ["CheckUpSession"]

_LEARNING_RATES = (1e-3, 3e-3)
"""Learning rates that the two runs pass on; no parameter changes."""

_SHOWN = 3

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
        self._lr = _LEARNING_RATES[work.run]
        self._recorders: list[_Recorder] = []
        self._steps = 0
        self._steps_per_epoch: float | None = None
        self._value: float | None = None
        self._last = time.monotonic()
        self._seconds_per_step = float("inf")
        self._notes: list[str] = []
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

    def _optimizer(self, target: nn.Module | Iterable[Any]) -> Optimizer:
        arms = [
            FactoryArm(arm, self._spec.optimizer(arm), self._spec.spaces[arm].file, self._spec.folder, points)
            for arm, points in self._assignment.points.items()
        ]
        recorder = _Recorder(target, self._lr, self._stepped, arms)
        self._recorders.append(recorder)
        if self._computation is None:  # of the first step alone
            self._computation = self._counting.enter_context(counted())
        return recorder

    def _report(self, progress: Progress) -> None:
        value = progress.metrics[self._spec.objective.metric]
        problem = self._spec.objective.problem_of(value, untrained=True)
        if problem is not None:
            raise InputError(f"report: {problem}")
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
        if self._steps == 1:
            self._notes += _untrained(self._recorders)
        if self._steps >= MOST_STEPS or (self._steps >= PROBE_BATCHES and self._value is not None):
            self._stop()

    def _stop(self) -> None:
        if not self.context.should_stop:
            self.context.should_stop = True
            self._send()
        raise TrialStopped

    def _send(self) -> None:
        if self._supervisor is not None:
            self._supervisor.tell(self._result())

    def _result(self) -> CheckUpRun:
        self._counting.close()
        squares = [s / max(r.measured, 1) for r in self._recorders for s in r.squares]
        log_mean_sigma, quantiles = gradient_scale(squares, self._assignment.floor)
        parameters = [parameter for recorder in self._recorders for parameter in recorder.parameters]
        probe = ProbeResult(
            log_mean_sigma=log_mean_sigma,
            quantiles_log_sigma=quantiles,
            floor=self._assignment.floor,
            batches=max(recorder.measured for recorder in self._recorders),
            architecture=fingerprint(self.context.model or parameters, self._computation),
            uses_schedule=self.context.uses_schedule,
            cost=TrainingCost(seconds_per_step=self._seconds_per_step, steps_per_epoch=self._steps_per_epoch),
        )
        return CheckUpRun(
            probe=probe,
            weights="".join(recorder.weights for recorder in self._recorders),
            gradients="".join(recorder.gradients for recorder in self._recorders),
            given=self._lr,
            used=tuple(tuple(rates) for recorder in self._recorders for rates in recorder.rates),
            value=self._value,
            notes=tuple(self._notes),
        )


class _Recorder(Optimizer):
    """Optimizer that changes no parameter, adds up the squares of the first gradients, and notes learning rates."""

    def __init__(
        self,
        target: nn.Module | Iterable[Any],
        lr: float,
        stepped: Callable[[], None],
        arms: Sequence[FactoryArm],
    ) -> None:
        groups = target.parameters() if isinstance(target, nn.Module) else target
        super().__init__(groups, {"lr": lr})
        self._target = target
        self._arms = arms
        self._stepped = stepped
        self.parameters = [p for group in self.param_groups for p in group["params"]]
        self.squares = [torch.zeros_like(p, dtype=torch.float32) for p in self.parameters]
        self.rates: list[list[float]] = [[] for _ in self.param_groups]
        self.weights = _digest(self.parameters)
        self.gradients = ""
        self.measured = 0

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.measured < PROBE_BATCHES:
            self._record()
        arms, self._arms = self._arms, ()
        dry_run(arms, cast(nn.Module, self._target), closure)
        self._stepped()
        return loss

    def _record(self) -> None:
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if any(gradient.is_sparse for gradient in gradients):
            raise InputError(
                "Anon needs dense gradients, and a parameter has a sparse one. Set sparse=False in nn.Embedding."
            )
        for square, parameter in zip(self.squares, self.parameters, strict=True):
            if parameter.grad is not None:
                square += parameter.grad.detach().float().square()
        for group, rates in zip(self.param_groups, self.rates, strict=True):
            rates.append(float(group["lr"]))
        self.measured += 1
        self.gradients += _digest(gradients)


def _digest(tensors: Iterable[Tensor]) -> str:
    """Return a digest of the values of tensors."""
    found = hashlib.sha256()
    for tensor in tensors:
        values = tensor.detach().double()
        found.update(repr((values.sum().item(), values.square().sum().item())).encode())
    return found.hexdigest()[:16]


def _untrained(recorders: Sequence[_Recorder]) -> list[str]:
    """Return notes about parameters with a gradient that the trial's optimizer does not train."""
    ours = {id(parameter) for recorder in recorders for parameter in recorder.parameters}
    objects = gc.get_objects()
    others = [each for each in objects if isinstance(each, Optimizer) and not isinstance(each, _Recorder)]
    theirs = {id(p) for optimizer in others for group in optimizer.param_groups for p in group["params"]}
    names: dict[int, str] = {}
    for module in (each for each in objects if isinstance(each, nn.Module)):
        for name, parameter in module.named_parameters():
            if parameter.grad is not None and len(name) > len(names.get(id(parameter), "")):
                names[id(parameter)] = name
    left = [name for number, name in names.items() if number not in ours | theirs]
    notes = []
    if left:
        shown = ", ".join(sorted(left)[:_SHOWN]) + (
            f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
        )
        notes.append(
            f"no optimizer trains {shown}, though gradients reach them; pass them to the trial's optimizer, or "
            "freeze them (requires_grad_(False))"
        )
    if any(number in theirs for number in names if number not in ours):
        kinds = ", ".join(sorted({type(each).__name__ for each in others}))
        notes.append(f"another optimizer ({kinds}) trains some parameters; the search does not change it")
    return notes
