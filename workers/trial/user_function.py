"""A user's training function: run step by step in its own thread, and probed. Needs torch alone."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from anon_tune.architecture import fingerprint
from anon_tune.errors import InputError
from anon_tune.workers.trial.context import Context, Progress, TrialStopped
from anon_tune.workers.trial.dry_run import FactoryArm, dry_run
from anon_tune.workers.trial.messages import ProbeResult, TrainingCost
from anon_tune.workers.trial.probe import PROBE_BATCHES, gradient_scale

if TYPE_CHECKING:
    from anon_tune.spec import Objective

__all__ = ["NO_REPORT", "Ended", "FunctionRun", "Train", "probe_function"]

Train = Callable[[Context], object]
"""A training function with its arguments filled in."""

NO_REPORT = "The training function ended without a report. Call context.report(epoch, ...) after each epoch."

_DRY_RUN_SECONDS = 20.0


@dataclass(frozen=True)
class Ended:
    """End of a training function: it returned, or raised `error`."""

    error: BaseException | None = None


class FunctionRun:
    """A training function that waits at each of its reports until `advance` is called.

    It runs in its own thread, so that the caller stays in control. The function sees one seeded process: the global
    random states are set before it is called, and nothing else runs while it does.

    Args:
        train: The function.
        make_context: Returns the function's context, given a callback for its reports.
        seed: Seed of the global random states.
        threads: Number of torch's threads on CPU.
    """

    def __init__(
        self,
        train: Train,
        make_context: Callable[[Callable[[Progress], None]], Context],
        seed: int,
        threads: int,
    ) -> None:
        self.context = make_context(self._tell)
        self._train = train
        self._seed = seed
        self._threads = threads
        self._continue: SimpleQueue[bool] = SimpleQueue()
        self._reports: SimpleQueue[Progress | Ended] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="training", daemon=True)
        self._thread.start()

    def advance(self) -> Progress | Ended:
        """Run the function up to its next report, or to its end."""
        self._continue.put(True)
        return self._reports.get()

    def close(self, seconds: float) -> bool:
        """Stop the function at its report; return whether it has ended within so many seconds."""
        self.context.should_stop = True
        self._continue.put(False)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        if not self._continue.get():
            return
        try:
            torch.set_num_threads(self._threads)  # holds for this thread
            _seed_all(self._seed)
            self._train(self.context)
            self.context.close()
        except TrialStopped:
            self._reports.put(Ended())
        except BaseException as error:  # noqa: BLE001 - the user's function may raise anything; it is reported
            self._reports.put(Ended(error))
        else:
            self._reports.put(Ended())

    def _tell(self, progress: Progress) -> None:
        """Pass on a report and wait for `advance`, in the function's thread."""
        if not self.context.should_stop:
            self._reports.put(progress)
            if self._continue.get():
                return
        raise TrialStopped


def probe_function(
    train: Train,
    make_context: Callable[[Callable[[Progress], None], Callable[[Any], Optimizer]], Context],
    *,
    seed: int,
    floor: float,
    objective: Objective,
    seconds: float = _DRY_RUN_SECONDS,
    arms: Sequence[FactoryArm] = (),
) -> ProbeResult:
    """Measure the gradients of a training function at its initial weights, and check its first report.

    The function runs with an optimizer that changes nothing, for its first PROBE_BATCHES steps, and then up to its
    first report for at most `seconds`. So an invalid report is found before the first trial if it comes soon.

    Args:
        train: The function.
        make_context: Returns the function's context, given a callback for its reports and one for its optimizer.
        seed: Seed of the global random states.
        floor: Floor of the space; see `probe`.
        objective: The objective that the reports must contain.
        seconds: Time limit for the first report.
        arms: Arms to try with the first gradients; see `dry_run`.

    Returns:
        The result as in `probe`, with the cost of a step. Its `steps_per_epoch` are the optimizer's steps before the
        first report, divided by the step of that report; None if the probe did not wait for a report.

    Raises:
        InputError: The function made no step with `context.optimizer`, ended without a report, or its report was
            invalid; or as `dry_run`.
        Exception: Any error of the function.
    """
    probing = _Probing(objective, seconds, arms)
    context = make_context(probing.tell, probing.optimizer)
    _seed_all(seed)
    ended = False
    try:
        train(context)
        ended = True
    except TrialStopped:
        pass
    if not probing.steps:
        raise InputError(
            "The training function never called step() on the optimizer from context.optimizer(model). Use that one."
        )
    if ended and not probing.reports:
        raise InputError(NO_REPORT)
    model, squares = context.model, probing.squares
    total = sum(square.numel() for square in squares)
    unknown = {"family": "unknown", "parameters": total, "layers": {}, "share": {}}
    log_mean_sigma, quantiles = gradient_scale(squares, floor)
    return ProbeResult(
        log_mean_sigma=log_mean_sigma,
        quantiles_log_sigma=quantiles,
        floor=floor,
        batches=probing.measured,
        architecture=fingerprint(model) if model is not None else unknown,
        cost=TrainingCost(seconds_per_step=probing.seconds_per_step, steps_per_epoch=probing.steps_per_epoch),
        uses_schedule=context.uses_schedule,
    )


class _Probing:
    """Observations of a training function until it is stopped."""

    def __init__(self, objective: Objective, seconds: float, arms: Sequence[FactoryArm]) -> None:
        self._objective = objective
        self._arms = arms
        self._deadline = time.monotonic() + seconds
        self._recorders: list[_Recorder] = []
        self._last = time.monotonic()
        self.seconds_per_step = float("inf")
        self.steps_per_epoch: float | None = None
        self.steps = 0
        self.reports = 0

    @property
    def measured(self) -> int:
        """Number of steps whose gradients count."""
        return max((recorder.measured for recorder in self._recorders), default=0)

    @property
    def squares(self) -> list[Tensor]:
        """The mean squared gradient of each parameter."""
        return [s / max(r.measured, 1) for r in self._recorders for s in r.squares]

    def optimizer(self, target: nn.Module | Iterable[Any]) -> Optimizer:
        recorder = _Recorder(target, self._stepped, self._arms)
        self._recorders.append(recorder)
        return recorder

    def tell(self, progress: Progress) -> None:
        problem = self._objective.problem_of(progress.metrics[self._objective.metric], untrained=True)
        if problem is not None:
            raise InputError(f"report: {problem}")
        if not self.reports:
            self.steps_per_epoch = self.steps / progress.step
        self.reports += 1
        self._stop_if_done()

    def _stepped(self) -> None:
        now = time.monotonic()
        self.seconds_per_step = min(self.seconds_per_step, now - self._last)
        self._last = now
        self.steps += 1
        self._stop_if_done()

    def _stop_if_done(self) -> None:
        late = time.monotonic() > self._deadline
        if self.steps >= PROBE_BATCHES and (self.reports or late):
            raise TrialStopped


class _Recorder(Optimizer):
    """Optimizer that changes no parameter and adds up the squares of the first gradients."""

    def __init__(
        self, target: nn.Module | Iterable[Any], stepped: Callable[[], None], arms: Sequence[FactoryArm]
    ) -> None:
        super().__init__(target.parameters() if isinstance(target, nn.Module) else target, {"lr": 0.0})
        self._target = target
        self._arms = arms
        self._stepped = stepped
        self._parameters = [p for group in self.param_groups for p in group["params"]]
        self.squares = [torch.zeros_like(p, dtype=torch.float32) for p in self._parameters]
        self.measured = 0

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.measured < PROBE_BATCHES:
            self.measured += 1
            for square, parameter in zip(self.squares, self._parameters, strict=True):
                if parameter.grad is not None:
                    square += parameter.grad.detach().float().square()
        arms, self._arms = self._arms, ()
        dry_run(arms, self._target, closure)
        self._stepped()
        return loss


def _seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
