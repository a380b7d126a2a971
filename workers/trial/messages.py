"""Messages between the driver of a job and the processes that train its trials. Needs neither torch nor Ray.

Ray Tune pickles them. It passes dicts and flattens nested ones, so each message is one value of such a dict. Only
`to_config`, `from_config`, `to_tune` and `from_tune` know its key. A process of user code sends its results as lines
(`lines.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from anon_tune.records import Trial, TrialState

__all__ = [
    "Assignment",
    "CheckUpRun",
    "Completed",
    "Diverged",
    "Failed",
    "GroupRates",
    "Lost",
    "Measurement",
    "OptimizerRun",
    "Outcome",
    "ProbeAssignment",
    "ProbeResult",
    "Reply",
    "Result",
    "StepResult",
    "TrainingCost",
    "TrialAssignment",
    "from_config",
    "from_tune",
    "to_config",
    "to_tune",
    "trial_of",
]

_ASSIGNMENT, _RESULT = "assignment", "result"


@dataclass(frozen=True)
class TrialAssignment:
    """A trial for the process that trains it.

    Attributes:
        trial: The trial as it was when this attempt started. `trial.attempts` is the number of the attempt, and
            `trial.checkpoints` are those that it may continue from. Its earlier reports are left out.
        folder: The job's folder of checkpoints.
        output: File for the output of the process; see `output.own`.
    """

    trial: Trial
    folder: Path
    output: Path

    def __post_init__(self) -> None:
        if self.trial.reports:
            object.__setattr__(self, "trial", dataclasses.replace(self.trial, reports=()))


@dataclass(frozen=True)
class ProbeAssignment:
    """The probe of a job, for the process that will train its first trial.

    Attributes:
        seed: Seed of the initial weights and of the batches.
        other_seed: Another seed, to see its effect on user code.
        floor: Floor of Anon's search space.
        points: Hyperparameters for the dry run of the user's factories, by arm.
        output: File for the output of the process; see `output.own`.
        most_steps: Steps after which a run of user code ends without a report; None for the usual number.
    """

    seed: int
    other_seed: int
    floor: float
    points: Mapping[str, Sequence[Mapping[str, Any]]]
    output: Path
    most_steps: int | None = None


Assignment = TrialAssignment | ProbeAssignment
"""Work for a process."""


@dataclass(frozen=True)
class Measurement:
    """Measurements of a trial after a step.

    Attributes:
        step: Epochs or steps done, in the unit of the budget, from 1.
        value: The objective on the validation split; NaN or infinite if the trial diverged.
        metrics: All other measured values, by name.
        checkpoint: Name of a durable checkpoint of the trial after this step; None if there is none.
    """

    step: int
    value: float
    metrics: Mapping[str, float]
    checkpoint: str | None = None


@dataclass(frozen=True)
class Completed:
    """The trial was trained at full length.

    Attributes:
        final: Objective at the end: on the test split in the verdict, else on the validation split.
        log: The last lines of the user's own output; None if there are none.
    """

    state: ClassVar[TrialState] = TrialState.COMPLETE
    reason: ClassVar[None] = None

    final: float
    log: str | None = None
    kind: Literal["completed"] = field(default="completed", kw_only=True)


@dataclass(frozen=True)
class Diverged:
    """A loss or the objective is not finite, or much larger than before the first step.

    Attributes:
        reason: The losses, for people.
        log: The last lines of its process's output; None if there are none.
    """

    state: ClassVar[TrialState] = TrialState.DIVERGED

    reason: str
    log: str | None = None
    kind: Literal["diverged"] = field(default="diverged", kw_only=True)


@dataclass(frozen=True)
class Failed:
    """An error ended a trial, or the probe.

    Attributes:
        reason: The error in one line, for people. The same error has the same reason in each trial.
        traceback: The traceback, from the user's own code on if the error passed through it.
        log: The last lines of its process's output; None if there are none.
    """

    state: ClassVar[TrialState] = TrialState.FAILED

    reason: str
    traceback: str
    log: str | None = None
    kind: Literal["failed"] = field(default="failed", kw_only=True)


@dataclass(frozen=True)
class Lost:
    """The process of user code was killed from outside; the trial gets another attempt.

    Attributes:
        reason: How it ended, for people.
        log: The last lines of its output; None if there are none.
    """

    reason: str
    log: str | None = None
    kind: Literal["lost"] = field(default="lost", kw_only=True)


Outcome = Completed | Diverged | Failed | Lost
"""The end of an attempt, as its process reports it."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """One message of a trial: a report, or its end, or both.

    Attributes:
        measurement: Measurements of the report; None if there is none.
        outcome: The end of the trial; None if it continues.
        resumed: Epochs or steps done before this attempt, in its first message; None if it did not resume.
        warnings: Lines for the job's log.

    Raises:
        ValueError: Both `measurement` and `outcome` are None.
    """

    measurement: Measurement | None = None
    outcome: Outcome | None = None
    resumed: int | None = None
    warnings: tuple[str, ...] = ()
    kind: Literal["step"] = "step"

    def __post_init__(self) -> None:
        if self.measurement is None and self.outcome is None:
            raise ValueError("a result needs a measurement or an outcome")


@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """Time and memory of training, measured before the first trial; None if not measured.

    Attributes:
        seconds_per_step: Duration of one step of the optimizer.
        steps_per_epoch: Steps of the optimizer per epoch; None if the budget is in steps.
        samples_per_epoch: Training examples in an epoch.
        device: Name of the device.
        peak_memory_bytes: Peak GPU memory of the tensors.
        device_memory_bytes: Total memory of the GPU.
        trials_per_device: Trials that fit on the GPU at once.
    """

    seconds_per_step: float
    steps_per_epoch: float | None = None
    samples_per_epoch: int | None = None
    device: str | None = None
    peak_memory_bytes: int | None = None
    device_memory_bytes: int | None = None
    trials_per_device: int | None = None


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """Measurements of a job's model before the first trial.

    Attributes:
        log_mean_sigma: Logarithm of the mean over all coordinates of sigma = s + eps + floor * (mean of s over the
            tensor), s being the mean squared gradient over the batches: the scale that V(gamma) is computed from.
        quantiles_log_sigma: The 5, 25, 50, 75 and 95% quantiles of log sigma, by percentage ("50%").
        floor: Floor of Anon's search space; part of sigma.
        batches: Number of batches that the gradients were averaged over.
        architecture: The model's fingerprint; see `anon_tune.architecture`.
        cost: Time and memory of training; None if only the gradients were measured.
        signature: Types and shapes of the model's inputs and outputs; None if it takes other things than tensors.
        notes: Possible mistakes in user code, for people.
        uses_schedule: Whether the training function called `context.schedule`; None for our own training loop.
    """

    log_mean_sigma: float
    quantiles_log_sigma: Mapping[str, float]
    floor: float
    batches: int
    architecture: Mapping[str, Any]
    cost: TrainingCost | None = None
    signature: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    uses_schedule: bool | None = None
    kind: Literal["probe"] = "probe"

    def as_stored(self) -> dict[str, Any]:
        """Return the job's `probe` as the ledger stores it: JSON values, without the architecture."""
        own = dataclasses.asdict(self)
        cost = own.pop("cost") or {}
        del own["architecture"], own["kind"]
        own["notes"] = list(self.notes) or None
        return {name: value for name, value in {**own, **cost}.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class GroupRates:
    """Learning rates of a param group in a run of the check-up.

    Attributes:
        used: At each step of its optimizer; 0 before the group was added.
        base: The group's `initial_lr`, which torch's schedulers multiply; None without such a scheduler.
    """

    used: tuple[float, ...]
    base: float | None = None


@dataclass(frozen=True, kw_only=True)
class OptimizerRun:
    """One optimizer in a run of the check-up; all is empty if it made no step.

    Attributes:
        weights: Digest of its parameters before its first step.
        gradients: Norm and weighted sum of the gradients of each of its first steps.
        groups: Learning rates of its param groups.
    """

    weights: str
    gradients: tuple[tuple[float, float], ...]
    groups: tuple[GroupRates, ...]


@dataclass(frozen=True, kw_only=True)
class CheckUpRun:
    """One run of user code in the check-up before the first trial.

    Attributes:
        probe: Measurements of the first gradients.
        optimizers: The trial's optimizers, in the order in which they were made.
        value: Objective of the first report; None if there was no report.
        notes: Possible mistakes that do not stop the job.
    """

    probe: ProbeResult
    optimizers: tuple[OptimizerRun, ...]
    value: float | None = None
    notes: tuple[str, ...] = ()
    kind: Literal["check_up"] = "check_up"


Result = StepResult | ProbeResult | Failed
"""Message of a process: of a trial, or the end of the probe."""


@dataclass(frozen=True)
class Reply:
    """Reply to a result: whether the trial goes on."""

    goes_on: bool


def to_config(assignment: Assignment) -> dict[str, Any]:
    """Return the config with which Tune gives an assignment to a process."""
    return {_ASSIGNMENT: assignment}


def from_config(config: Mapping[str, Any]) -> Assignment:
    """Return the assignment that `to_config` put into a config."""
    found: Assignment = config[_ASSIGNMENT]
    return found


def trial_of(config: Mapping[str, Any]) -> Trial:
    """Return the trial of a config. Raises TypeError if it holds the probe."""
    assignment = from_config(config)
    if not isinstance(assignment, TrialAssignment):
        raise TypeError(f"{assignment} has no trial")
    return assignment.trial


def to_tune(result: Result) -> dict[str, Any]:
    """Return a result for Tune. It is never `done`: the scheduler ends trials."""
    return {_RESULT: result, "done": False}


def from_tune(result: Mapping[str, Any]) -> Result:
    """Return the message that `to_tune` put into a result."""
    found: Result = result[_RESULT]
    return found
