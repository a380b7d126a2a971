"""The context that a user's training function receives. Needs torch alone."""

from __future__ import annotations

import math
import operator
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from anon_tune.errors import InputError
from anon_tune.optim.groups import GroupedModel
from anon_tune.workers.trial.schedules import schedule_factor

if TYPE_CHECKING:
    from anon_tune.spec import Objective, Unit

__all__ = ["Context", "Progress", "Resumable", "TrialStopped", "random_states", "set_random_states"]


class TrialStopped(BaseException):
    """Raised in the training function when its trial must stop, for example because it was pruned.

    It is not an Exception, so `except Exception` around a training step does not catch it.
    """


class Resumable(Protocol):
    """An object that a checkpoint can hold: a model, an optimizer, a schedule, or another with these methods."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state, made of tensors, numbers, text, lists and mappings."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Restore such a state."""


@dataclass(frozen=True)
class Progress:
    """Progress of a training function at one of its reports, with its state.

    Attributes:
        step: Epochs or steps done, in the unit of the budget.
        metrics: Reported values by name, including the objective.
        state: Returns the state for a checkpoint; None if the function did not call `resume`.
    """

    step: int
    metrics: Mapping[str, float]
    state: Callable[[], Mapping[str, Any]] | None


class Context:
    """One trial, as its training function sees it.

    ::

        def train(context, width=64):
            model = make_model(width).to(context.device)
            optimizer = context.optimizer(model)
            schedule = context.schedule(optimizer)
            done = context.resume(model=model, optimizer=optimizer, schedule=schedule)
            for epoch in range(done + 1, context.epochs + 1):
                ...
                schedule.step()
                context.report(epoch, loss=validation_loss)
            if context.tests:
                context.test(loss=test_loss)

    The global random states of torch, numpy and Python are seeded before the function is called. A deep copy of a
    context is the context itself, as of an open file; a pickled one knows the trial and cannot report.

    Attributes:
        arm: The optimizer to tune: "anon", "adamw", "sgd", or the name of your own arm.
        hyperparameters: Arguments of the arm's optimizer or of your factory.
        seed: Seed of this trial, for the function's own random generators.
        device: Device to train on.
        length: The full length, in the unit of the reported steps: `budget.epochs` or `budget.steps` of the job file.
        unit: That unit, "epoch" or "step".
        tests: Whether this is a trial of the verdict, which should call `test` with results on the test data. Other
            trials should not use the test data.
        folder: Folder for files of this attempt. It is deleted when the job ends or is paused.
    """

    def __init__(
        self,
        *,
        arm: str,
        hyperparameters: Mapping[str, Any],
        seed: int,
        device: torch.device,
        length: int,
        unit: Unit = "epoch",
        objective: Objective | None,
        folder: Path,
        make_optimizer: Callable[[Any], Optimizer],
        tell: Callable[[Progress], None],
        tests: bool = False,
        schedule: str = "constant",
        warmup: float = 0.0,
        saved: Mapping[str, Any] | None = None,
        is_due: Callable[[], bool] = lambda: False,
    ) -> None:
        self.arm = arm
        self.hyperparameters = dict(hyperparameters)
        self.seed = seed
        self.device = device
        self.length = length
        self.unit: Unit = unit
        self.tests = tests
        self.folder = folder
        self.should_stop = False
        """Whether the trial must stop, for code that caught TrialStopped, such as a framework's own loop."""
        self.uses_schedule = False
        """Whether the function has called `schedule`: otherwise its learning rate follows a schedule of its own."""
        self._objective = objective
        self._make_optimizer = make_optimizer
        self._tell = tell
        self._schedule = schedule, warmup
        self._saved = saved
        self._is_due = is_due
        self._resumable: dict[str, Resumable] = {}
        self._last = 0
        self._metrics: dict[str, float] = {}
        self._held: Progress | None = None
        self.model: nn.Module | None = None
        self.optimizers: list[Optimizer] = []

    def optimizer(
        self, model: nn.Module | Iterable[Any], groups: Iterable[Mapping[str, Any]] | None = None
    ) -> Optimizer:
        """Return the trial's optimizer: Anon, or the baseline of its arm, with the trial's hyperparameters.

        Args:
            model: A model, to train all its parameters; or parameters; or param groups, whose keys override the
                trial's: `{"params": biases, "weight_decay": 0.0, "lr_scale": 0.1}`. Your own factories need a model.
            groups: Such param groups of some of the model's parameters, for any arm.

        Raises:
            InputError: The arm's factory needs a model, or a group has parameters that the model does not have.
            ValueError: There are no parameters, or a value of a group is out of range.
        """
        if isinstance(model, nn.Module):
            self.model = self.model or model
        made = self._make_optimizer(model if groups is None else GroupedModel(model, groups))
        self.optimizers.append(made)
        return made

    @property
    def epochs(self) -> int:
        """The full length in epochs. Raises InputError if the budget is in steps."""
        return self._length_in("epoch")

    @property
    def steps(self) -> int:
        """The full length in steps. Raises InputError if the budget is in epochs."""
        return self._length_in("step")

    @property
    def lr(self) -> float:
        """The learning rate of this trial, for a schedule of your own: `group["lr"] = trial.lr * factor`.

        Raises:
            InputError: The arm has no hyperparameter `lr`.
        """
        if "lr" not in self.hyperparameters:
            raise InputError(
                f"the arm {self.arm} has no hyperparameter lr; it has {', '.join(self.hyperparameters)}"
            )
        return float(self.hyperparameters["lr"])

    def schedule(self, optimizer: Optimizer, steps: int | None = None) -> LambdaLR:
        """Return the job file's schedule of the learning rate (`training.schedule` and `warmup`).

        Args:
            optimizer: The optimizer whose learning rate follows the schedule.
            steps: Number of calls of `schedule.step()` over the full length; by default one per epoch, or per step if
                the budget is in steps.
        """
        self.uses_schedule = True
        name, warmup = self._schedule
        total = self.length if steps is None else steps
        return LambdaLR(optimizer, lambda step: schedule_factor(name, step, total, warmup))

    def resume(self, **objects: Resumable) -> int:
        """Save these objects and the random states in checkpoints, and restore them if there is a checkpoint.

        Call it once, right before the loop. From then on `report` writes a checkpoint whenever one is due. After an
        interruption another attempt follows, in which this restores the state. On CPU the results are then the same,
        bit for bit, if they depend on nothing else.

        Returns:
            The last step that was done; 0 in a new trial.

        Raises:
            InputError: An object cannot be saved.
        """
        for name, each in objects.items():
            if not callable(getattr(each, "state_dict", None)) or not hasattr(each, "load_state_dict"):
                raise InputError(f"resume: {name} has no state_dict and load_state_dict.")
        self._resumable = objects
        if self._saved is None:
            return 0
        saved, self._saved = self._saved, None
        for name, each in objects.items():
            if name not in saved["objects"]:
                raise InputError(f"resume: the checkpoint of this trial has no {name}.")
            each.load_state_dict(saved["objects"][name])
        set_random_states(saved["random"])
        self._last, self._metrics = int(saved["step"]), dict(saved["metrics"])
        return self._last

    @property
    def in_job(self) -> bool:
        """Whether this is a trial of a job; False for the stand-in of a script that runs alone."""
        return self._objective is not None

    @property
    def metric(self) -> str:
        """The job's `objective.metric`, which each report must contain; empty outside a job."""
        return "" if self._objective is None else self._objective.metric

    @property
    def checkpoint_due(self) -> bool:
        """Whether the next report will save a checkpoint, for code that must write files for it."""
        return self._is_due()

    def report(self, step: int, **metrics: float | Tensor) -> None:
        """Report the results of a step.

        The last report may be repeated, as by an evaluation after the training; this has no effect.

        Args:
            step: Epochs or steps done, in the unit of the budget: from 1 to the full length, and larger than the one
                before. Some may be left out.
            metrics: Numbers by name, also of numpy or as tensors with one element. The job's `objective.metric` must
                be among them, measured on the validation data.

        Raises:
            InputError: The step is out of order, a value is not a number, or the objective is missing or out of
                range.
            TrialStopped: The trial must stop. Do not catch it.
        """
        self.report_state(step, metrics, bool(self._resumable))

    def report_state(self, step: int, metrics: Mapping[str, float | Tensor], resumable: bool) -> None:
        """Report like `report`; `resumable` states whether the objects of `resume` hold the state after this step.

        For frameworks that write their own checkpoints, and only do so when `checkpoint_due`. Raises as `report`.
        """
        if not self.in_job:
            return
        done = _whole(step)
        if done is not None and done == self._last and self._repeats(metrics):
            return
        if done is None or not self._last < done <= self.length:
            raise InputError(
                f"report: expected a step after {self._last} and up to budget.{self.unit}s {self.length}, found "
                f"{step!r}."
            )
        numbers = {name: _number(name, value) for name, value in metrics.items()}
        if self._objective is not None and self._objective.metric not in numbers:
            raise InputError(
                f"report: the job's objective.metric {self._objective.metric!r} is not among the reported "
                f"{', '.join(numbers) or 'nothing'}. Report it, or name another in the job file."
            )
        self._check_scale("report", numbers)
        self._last, self._metrics = done, numbers
        progress = Progress(done, numbers, (lambda: self._state(done, numbers)) if resumable else None)
        if self.tests and done == self.length:
            self._held = progress  # `test` adds to it
        else:
            self._tell(progress)

    def test(self, **metrics: float | Tensor) -> None:
        """Report the trained model's results on the test data, after the last report: `loss=` becomes `test_loss`.

        The verdict compares the objective on these data. Outside the verdict this has no effect.

        Raises:
            InputError: A value is not a number, the objective is out of range, or it was called before a report or
                twice.
            TrialStopped: The trial must stop. Do not catch it.
        """
        if not self.in_job:
            return
        numbers = {f"test_{name}": _number(name, value) for name, value in metrics.items()}
        reported, self._metrics = self._metrics, {}
        if not reported:
            raise InputError("test: call it once, after the last report.")
        self._check_scale("test", numbers, "test_")
        if self.tests:
            # Training that ended early counts at full length with its last results.
            self._last, self._held = self.length, None
            self._tell(Progress(self.length, {**reported, **numbers}, None))

    def close(self) -> None:
        """Send the last report of a function that has ended without `test`."""
        held, self._held = self._held, None
        if held is not None:
            self._tell(held)

    def __copy__(self) -> Context:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Context:
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for pickle: the trial, without its model, its checkpoint and the way to its worker."""
        state = {**vars(self), "_tell": _not_here, "_make_optimizer": _not_here, "_is_due": _never}
        return state | {"_saved": None, "_held": None, "_resumable": {}, "model": None, "optimizers": []}

    def _length_in(self, unit: Unit) -> int:
        if unit != self.unit:
            raise InputError(
                f"The trial's length is {self.length} {self.unit}s (budget.{self.unit}s), not {unit}s: use "
                f"`{self.unit}s` in place of `{unit}s`, or set budget.{unit}s."
            )
        return self.length

    def _repeats(self, metrics: Mapping[str, float | Tensor]) -> bool:
        """Return whether the objective is that of the last report."""
        if self._objective is None:
            return False
        metric = self._objective.metric
        if metric not in self._metrics or metric not in metrics:
            return False
        before, now = self._metrics[metric], _number(metric, metrics[metric])
        return before == now or (math.isnan(before) and math.isnan(now))

    def _check_scale(self, call: str, numbers: Mapping[str, float], prefix: str = "") -> None:
        if self._objective is None:
            return
        problem = self._objective.problem_of(numbers.get(f"{prefix}{self._objective.metric}", math.nan))
        if problem is not None:
            raise InputError(f"{call}: {problem}")

    def _state(self, step: int, metrics: Mapping[str, float]) -> Mapping[str, Any]:
        return {
            "objects": {name: each.state_dict() for name, each in self._resumable.items()},
            "random": random_states(),
            "step": step,
            "metrics": dict(metrics),
        }


def _not_here(*_: Any) -> Any:
    raise InputError(
        "This is a copy of a trial's context, from a file or another process. Use the context that your training "
        "function received."
    )


def _never() -> bool:
    return False


def _whole(step: object) -> int | None:
    """Return a step as an int, also of numpy or torch; None if it is not a whole number."""
    try:
        return None if isinstance(step, bool) else operator.index(step)  # type: ignore[arg-type]
    except TypeError:
        return None


def _number(name: str, value: object) -> float:
    elements = (
        value.numel() if isinstance(value, Tensor) else np.size(value) if isinstance(value, np.ndarray) else 0
    )
    plain = value.item() if isinstance(value, Tensor | np.ndarray) and elements == 1 else value
    if isinstance(plain, int | float | np.integer | np.floating) and not isinstance(value, bool):
        return float(plain)
    shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor | np.ndarray) else ""
    raise InputError(f"{name} is a {type(value).__name__}{shape}, not a number: report numbers.")


def random_states() -> dict[str, Any]:
    """Return the states of the global random generators, in a form for checkpoints."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys, np.int64)), position, has_gauss, gauss],
        "python": random.getstate(),
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    """Set the global random generators to what `random_states` returned."""
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    kind, keys, *others = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *others))
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
