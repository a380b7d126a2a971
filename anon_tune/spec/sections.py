"""The sections of a job, each a key of the job file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, ValidationInfo, field_validator, model_validator

from anon_tune.documents import ProblemsError, Strict
from anon_tune.search_spaces import Value
from anon_tune.spec.limits import LONGEST_NAME, AtMost
from anon_tune.spec.places import SPACE_FILE, named_space, origin_of
from anon_tune.texts import plain_name, quoted

__all__ = [
    "LONGEST_SECONDS",
    "MOST_SEEDS",
    "SHORTEST_SECONDS",
    "Budget",
    "Confirm",
    "DataChoice",
    "ModelChoice",
    "Objective",
    "Resources",
    "Search",
    "Training",
    "Unit",
    "UserSpace",
    "seconds",
]

SHORTEST_SECONDS, LONGEST_SECONDS = 0.001, 3650 * 86400
"""Range of durations."""

MOST_SEEDS = 1000
"""Most seeds of the verdict, in one round or in all."""

_PRACTICAL = 0.01
"""A margin of 1%."""

Unit = Literal["epoch", "step"]
"""Unit of a trial's length and of the steps of its reports."""

_LONGEST_DURATION = 32
"""Most characters of a duration; matching a longer one would take the square of its length."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class ModelChoice(Strict):
    """A registered model and its sizes, or the user's function ("module:function") and its keyword arguments."""

    name: str
    options: dict[str, JsonValue] = Field(default_factory=dict)


class DataChoice(Strict):
    """A registered data set and its options, or the user's function ("module:function") and its arguments.

    In both, an option `folder` or `file` is a path, which is absolute after the job has been read.
    """

    name: str
    options: dict[str, JsonValue] = Field(default_factory=dict)


class Objective(Strict):
    """The objective on the validation split.

    Attributes:
        metric: Name of the metric.
        mode: `min` if smaller is better, `max` if larger is better.
        scale: Scale on which differences are compared: `log` uses the factor between two losses; `log_error` uses the
            factor between two errors, 1 - x for an accuracy x; `linear` uses the plain difference. The default is
            `log` for a minimized metric, `log_error` for a maximized accuracy, else `linear`.
        practical: The smallest difference that matters: a share on the first two scales (default 0.01, which is 1%),
            a number in units of the metric on the linear one. Without it, a linear scale has no verdict "practically
            equal".
        of: The reports of a trial that count: `last`; `last 3`, the mean of the last 3 on the scale (or of as many as
            there are); `best`. The search uses validation values. A verdict uses the test values of the same reports,
            so with `best` the validation value chooses the epoch.
    """

    metric: str = "loss"
    mode: Literal["min", "max"] = "min"
    of: str = "last"
    scale: Literal["log", "log_error", "linear"] = "log"
    practical: float | None = Field(default=_PRACTICAL, gt=0.0, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        metric, mode = data.get("metric", "loss"), data.get("mode", "min")
        scale = data.get("scale")
        if scale is None:
            is_accuracy = isinstance(metric, str) and "acc" in metric.lower()
            scale = "log" if mode == "min" else "log_error" if is_accuracy else "linear"
        practical = data.get("practical")
        if practical is None and scale != "linear":
            practical = _PRACTICAL
        return {**data, "scale": scale, "practical": practical}

    @field_validator("metric")
    @classmethod
    def _metric_named(cls, metric: str, info: ValidationInfo) -> str:
        return metric if origin_of(info).stored else plain_name(metric, LONGEST_NAME)

    @field_validator("of", mode="before")
    @classmethod
    def _way(cls, value: Any) -> str:
        found = (
            re.fullmatch(r"best|last(?:\s+([1-9][0-9]{0,5}))?", value.strip())
            if isinstance(value, str)
            else None
        )
        if found is None:
            raise ValueError(
                f"expected `last`, `best`, or for instance `last 3` for the mean of the last 3, found {quoted(value)}"
            )
        count = found[1]
        return found[0].split()[0] if count in {None, "1"} else f"last {count}"

    @property
    def reports(self) -> int | None:
        """The number of a trial's last reports that count; None: its best one."""
        return None if self.of == "best" else int(self.of.removeprefix("last") or 1)

    @model_validator(mode="after")
    def _scale_fits(self) -> Objective:
        wanted = {"log": "min", "log_error": "max"}.get(self.scale, self.mode)
        if self.mode != wanted:
            raise ProblemsError([f"scale: {self.scale} is for mode {wanted}; for {self.mode} use linear"])
        return self

    def problem_of(self, value: float, *, untrained: bool = False) -> str | None:
        """Return the problem of a value on this scale and how to fix it; None if the value is valid.

        Args:
            value: The reported value; a non-finite one is from a diverged training.
            untrained: Whether it is from an untrained model, for which a value at the scale's end is implausible.
        """
        distance = value if self.scale == "log" else 1.0 - value
        off = not 0 <= distance <= (math.inf if self.scale == "log" else 1)
        if self.scale == "linear" or not math.isfinite(value) or not (off or (untrained and distance == 0)):
            return None
        taken = "a loss above 0" if self.scale == "log" else "an accuracy from 0 to 1"
        return (
            f"{self.metric} is {value:g}, but the job's objective.scale {self.scale} needs {taken}. "
            "Set `scale: linear` under `objective`, or report another number."
        )


class Budget(Strict):
    """Budget of each search of an arm, and limits of time.

    Attributes:
        trials: Configurations of each search of an arm.
        steps: Steps of a trial at full length, in place of epochs, for the user's own training: the last step that it
            reports. It may report at any steps up to this one.
        epochs: Epochs of a trial at full length; for the user's own training, the last one that it reports. A budget
            has either epochs or steps.
        time: Working time of the whole job, such as 2h, or seconds. After that the search starts no more trials, and
            confirm and verdict use the trials there are.
        trial_time: Longest time of one attempt at a trial, such as 90m, or seconds; a trial that takes longer is
            FAILED. The default is ten times the median of the arm's COMPLETE trials, and at least ten minutes.
        more_seeds: Numbers of seeds of further rounds of the verdict, which `anon-tune extend` writes. Each round has
            its own test (docs/advice.md).
    """

    trials: int = Field(ge=1, le=10_000)
    steps: int | None = Field(default=None, ge=1, le=1_000_000_000)
    epochs: int | None = Field(default=None, ge=1, le=100_000, validate_default=True)
    time: float | None = None
    trial_time: float | None = None
    more_seeds: tuple[Annotated[int, Field(ge=2, le=MOST_SEEDS)], ...] = ()

    @field_validator("time", "trial_time", mode="before")
    @classmethod
    def _length(cls, value: Any, info: ValidationInfo) -> float | None:
        if isinstance(value, float) and origin_of(info).stored:  # earlier versions had no bounds
            return min(max(value, SHORTEST_SECONDS), LONGEST_SECONDS)
        return None if value is None else seconds(value)

    @field_validator("epochs")
    @classmethod
    def _has_one_length(cls, epochs: int | None, info: ValidationInfo) -> int | None:
        steps = info.data.get("steps", 1)  # an invalid one is reported already
        if epochs is None and steps is None:
            raise ValueError("is missing; give epochs or, for your own training, steps in its place")
        if epochs is not None and info.data.get("steps") is not None:
            raise ValueError("give either epochs or steps, the unit in which the training reports")
        return epochs

    @property
    def length(self) -> int:
        """The full length of a trial, in its unit."""
        return self.epochs or self.steps or 0

    @property
    def unit(self) -> Unit:
        """The unit of the length and of the reported steps."""
        return "epoch" if self.steps is None else "step"

    @property
    def key(self) -> str:
        """The key of the length: `epochs` or `steps`."""
        return f"{self.unit}s"

    @property
    def in_words(self) -> str:
        """The length with its unit: "2,000 steps"."""
        return f"{self.length:,} {self.key if self.length > 1 else self.unit}"


class Search(Strict):
    """Sampling of configurations, and early stopping.

    Attributes:
        sampler: `botorch`, `gp` (Optuna's Gaussian process) and `tpe` learn from the trials; `random` and `grid` do
            not.
        lag: A suggestion does not learn from the arm's last `lag` trials before it, which may still be running. So
            the same job makes the same trials, however long each takes. The default is 4; 8 with one arm.
        stop: `never` makes `budget.trials` trials of each arm. `decided` may end an arm's search earlier, from 12
            trials on: if the remaining trials are not expected to help by `objective.practical` and, for the arm
            anon, the good gammas have not changed.
        pruner: `none` stops no trial; `median` stops trials whose forecast is behind the median; `asha` is successive
            halving.
        seed: Seed of the samplers and of all trials.
        repeats: Number of independent searches of each arm, each with the whole of `budget.trials` and its own seeds.
            With 2 or more the verdict on the optimizers is measured; 5 is a good number (docs/advice.md).
        grace: Epochs before any pruning, or steps if the budget is in steps. The default is for epochs.
        reduction: At each rung of `asha`, one in `reduction` continues.
        levels: Number of values of each range in a `grid`.
        try_first: Start points by arm, instead of the space's own; missing coordinates are filled in. A list is for
            the arm anon.
    """

    sampler: Literal["botorch", "gp", "tpe", "random", "grid"] = "botorch"
    lag: int | None = Field(default=None, ge=0, le=1000)
    stop: Literal["never", "decided"] = "never"
    pruner: Literal["none", "median", "asha"] = "none"
    seed: int = Field(default=0, ge=0, lt=2**31)
    repeats: int = Field(default=1, ge=1, le=20)
    grace: Annotated[int, AtMost(10**9)] = Field(default=3, ge=1)
    reduction: Annotated[int, AtMost(10_000)] = Field(default=3, ge=2)
    levels: int = Field(default=5, ge=2, le=1000)
    try_first: dict[str, tuple[dict[str, Value], ...]] = Field(default_factory=dict)

    @field_validator("try_first", mode="before")
    @classmethod
    def _points_of_anon(cls, value: Any) -> Any:
        return {"anon": value} if isinstance(value, list | tuple) else value


class Confirm(Strict):
    """Reruns of the best configurations, to choose the winners and to compare them.

    Attributes:
        finalists: Configurations of each arm that are rerun.
        seeds: Seeds for each finalist.
        race: Whether a finalist that is clearly behind after some of its seeds is not rerun on the others.
        verdict_seeds: Largest number of fresh seeds on which two winners are compared. A comparison ends as soon as
            it is decided. With `search.repeats` the winner of each search is also tested on so many seeds of its own.
            At least 2, except with `seeds: fixed`.
    """

    finalists: int = Field(default=3, ge=1, le=20)
    seeds: int = Field(default=3, ge=1, le=50)
    race: bool = True
    verdict_seeds: int = Field(default=10, ge=1, le=100)


class Training(Strict):
    """Training settings of every trial of the job; only the optimizer differs between arms.

    Attributes:
        batch_size: Examples per step.
        schedule: Learning rate schedule: `constant`; `cosine` to 0; `step`, to a tenth after half of the steps and
            again after three quarters; `wsd`, constant, then to 0 in the last fifth.
        warmup: Share of the steps over which the learning rate rises at first.
        clip: Largest norm of the gradient over all parameters; longer gradients are scaled down to it.
        accumulate: Number of parts in which a batch is processed one after another, to save memory.
        num_workers: Processes of each trial that load the user's Dataset, beyond `resources.cpu`; 0 loads in the
            trial itself. Results do not depend on it.
        augment: Augmentation of images: `crop` shifts each by up to an eighth of its side, `flip` mirrors half of
            them.
        label_smoothing: Share of a class label that is spread over all classes, from 0 to below 1.
        precision: `bf16` computes in bfloat16 where torch's autocast does; parameters stay in 32 bits.
        channels_last: Whether convolutions use the channels-last layout, which is faster on GPUs with tensor cores.
        compile: Whether torch.compile compiles the model at the start of each trial; on CPU that needs a C++
            compiler.
        checkpoint_seconds: Least time between two checkpoints of a trial, and before its first. A lost
            attempt repeats the work since its last checkpoint. 0: after each report, unless writing takes too large a
            share of the time.
    """

    batch_size: Annotated[int, AtMost(10**7)] = Field(default=64, ge=1)
    schedule: Literal["constant", "cosine", "step", "wsd"] = "cosine"
    warmup: float = Field(default=0.0, ge=0.0, lt=1.0)
    clip: float | None = Field(default=None, gt=0.0)
    accumulate: Annotated[int, AtMost(10**7)] = Field(default=1, ge=1)
    num_workers: int = Field(default=0, ge=0, le=64)
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    augment: tuple[Literal["crop", "flip"], ...] = ()
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = False
    compile: bool = False
    checkpoint_seconds: Annotated[float, AtMost(LONGEST_SECONDS)] = Field(default=10.0, ge=0.0)


class UserSpace(Strict):
    """An arm's search space from the user's file, named by its path relative to the job file's folder.

    Attributes:
        file: Its absolute path.
        optimizer: "adamw", "sgd", or the factory that makes the arm's optimizer ("module:function").
    """

    file: str
    optimizer: str

    @model_validator(mode="before")
    @classmethod
    def _from_file(cls, value: Any, info: ValidationInfo) -> Any:
        origin = origin_of(info)
        if origin.stored:
            return value  # same as for `space`
        if not isinstance(value, str) or not value.endswith(SPACE_FILE):
            raise ValueError(f"expected the path of a .yaml file, found {quoted(value)}")
        file, space = named_space(value, origin)
        optimizer = space.optimizer
        if optimizer == "anon":
            raise ValueError(f"{file} is a space of anon; set it with the key `space`")
        return {"file": file, "optimizer": optimizer}


class Resources(Strict):
    """Resources of one trial.

    Attributes:
        cpu: CPU cores.
        gpu: GPUs; a fraction such as 0.25 lets trials share one, each with that share of its memory at most.
    """

    cpu: Annotated[int, AtMost(4096)] = Field(default=1, ge=1)
    gpu: Annotated[float, AtMost(64)] = Field(default=0.0, ge=0.0)


def seconds(value: Any) -> float:
    """Return a duration in seconds, from a number of seconds or a number with s, m, h or d, such as "90m".

    Raises:
        ValueError: It is not a duration, or not from SHORTEST_SECONDS to LONGEST_SECONDS.
    """
    length = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        length = value
    elif isinstance(value, str) and len(value) <= _LONGEST_DURATION:
        found = re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+)\s*([smhd]?)", value.strip())
        length = float(found[1]) * _UNITS[found[2] or "s"] if found else math.nan
    if not SHORTEST_SECONDS <= length <= LONGEST_SECONDS:  # nor is nan
        raise ValueError(
            f"expected a duration from {SHORTEST_SECONDS} s to {LONGEST_SECONDS // _UNITS['d']} days, such as "
            f"90m, 2h or 3600 (seconds), found {quoted(value)}"
        )
    return float(length)
