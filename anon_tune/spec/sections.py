"""The parts of a job: each a key of the job file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, ValidationInfo, field_validator, model_validator

from anon_tune.documents import Strict
from anon_tune.search_spaces import Value
from anon_tune.spec.places import SPACE_FILE, named_space, origin_of

__all__ = [
    "MOST_SEEDS",
    "Budget",
    "Confirm",
    "DataChoice",
    "ModelChoice",
    "Objective",
    "Resources",
    "Search",
    "Training",
    "UserSpace",
    "seconds",
]

MOST_SEEDS = 1000
"""Of the verdict, in one round or in all."""

_PRACTICAL = 0.01
"""A margin of 1%."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class ModelChoice(Strict):
    """A registered model and its sizes, or a function of the user ("module:function") and its keyword arguments."""

    name: str
    options: dict[str, JsonValue] = Field(default_factory=dict)


class DataChoice(Strict):
    """A registered data set and its options, or a function of the user ("module:function") and its arguments.

    Of both an option `folder` or `file` is a path, and absolute once the job has been read.
    """

    name: str
    options: dict[str, JsonValue] = Field(default_factory=dict)


class Objective(Strict):
    """What is optimized, on the validation split.

    Attributes:
        metric: Name of what is measured.
        mode: Whether a small value is good, or a large one.
        scale: Where differences count alike: `log` by the factor between two losses; `log_error` by that between two
            errors, 1 - x for an accuracy x; `linear` as they are. By default `log` for what is minimized, `log_error`
            for what is called an accuracy and maximized, else `linear`.
        practical: The smallest difference that matters: on the first two scales a share (0.01 is 1%, the default), on
            the linear one a number in units of the metric; without it nothing is called practically equal there.
        of: Which of a trial's reports count in the end: `last`; `last 3`, the mean of the last 3 on the scale (or of
            as many as there are); `best`. The search sees validation values. A verdict takes the test values of the
            same reports, so with `best` the epoch is chosen by the validation value.
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

    @field_validator("of", mode="before")
    @classmethod
    def _way(cls, value: Any) -> str:
        found = (
            re.fullmatch(r"best|last(?:\s+([1-9]\d{0,5}))?", value.strip())
            if isinstance(value, str)
            else None
        )
        if found is None:
            raise ValueError(
                f"expected `last`, `best`, or for instance `last 3` for the mean of the last 3, found {value!r}"
            )
        count = found[1]
        return found[0].split()[0] if count in {None, "1"} else f"last {count}"

    @property
    def reports(self) -> int | None:
        """How many of a trial's last reports count; None: its best one."""
        return None if self.of == "best" else int(self.of.removeprefix("last") or 1)

    @model_validator(mode="after")
    def _scale_fits(self) -> Objective:
        wanted = {"log": "min", "log_error": "max"}.get(self.scale, self.mode)
        if self.mode != wanted:
            raise ValueError(f"scale: {self.scale} is for mode {wanted}; for {self.mode} use linear")
        return self

    def problem_of(self, value: float, *, untrained: bool = False) -> str | None:
        """Return what is wrong with a value on this scale and what to do; None where it has a place there.

        Args:
            value: As it was reported; one that is not finite is of a training that diverged.
            untrained: Whether it is of a model before its training, which has no reason to be at the scale's end.
        """
        distance = value if self.scale == "log" else 1.0 - value
        off = not 0 <= distance <= (math.inf if self.scale == "log" else 1)
        if self.scale == "linear" or not math.isfinite(value) or not (off or (untrained and distance == 0)):
            return None
        taken = "a loss above 0" if self.scale == "log" else "an accuracy from 0 to 1"
        return (
            f"{self.metric} is {value:g}, where the job's objective.scale {self.scale} takes {taken}. "
            "Set `scale: linear` under `objective`, or report another number."
        )


class Budget(Strict):
    """What each search of an arm may spend: `trials` configurations of up to `epochs` epochs each.

    `time` limits the whole job, in seconds of being worked on: once they are spent the search gives out no more
    trials, and confirm and verdict follow on what there is.

    `trial_time` limits one attempt at a trial, in seconds: a trial that takes longer is FAILED. By default the limit
    is ten times the median of the arm's COMPLETE trials, and ten minutes at least.

    `more_seeds` are further rounds of the verdict by their numbers of seeds, besides `confirm.verdict_seeds`;
    `anon-tune extend` writes them. Each is tested by itself (docs/advice.md).
    """

    trials: int = Field(ge=1, le=10_000)
    epochs: int = Field(ge=1, le=100_000)
    time: float | None = None
    trial_time: float | None = None
    more_seeds: tuple[Annotated[int, Field(ge=2, le=MOST_SEEDS)], ...] = ()

    @field_validator("time", "trial_time", mode="before")
    @classmethod
    def _length(cls, value: Any) -> float | None:
        return None if value is None else seconds(value)


class Search(Strict):
    """How configurations are proposed and stopped early.

    Attributes:
        sampler: `botorch`, `gp` (Optuna's Gaussian process) and `tpe` learn from the trials; `random` and `grid` do
            not.
        lag: A suggestion learns from the arm's trials but for the last `lag` before it, which may still be running.
            So the same job makes the same trials, however long each takes. By default 4; 8 with one arm.
        stop: `never` makes `budget.trials` trials of each arm. `decided` ends an arm's search earlier, from 12 trials
            on, where the trials that are left are not expected to help by `objective.practical`, and, for the arm
            anon, the gammas that do well have not moved.
        pruner: `none` stops nothing; `median` stops what is forecast to end behind the median; `asha` is successive
            halving.
        seed: Of the samplers, and of all trials.
        repeats: So many times each arm is searched from scratch, with the whole of `budget.trials` and seeds of its
            own. With 2 or more the verdict on the optimizers is measured; 5 are a good number (docs/advice.md).
        grace: Epochs before any pruning.
        reduction: At each rung of `asha` one in `reduction` goes on.
        levels: Of each range in a `grid`.
        try_first: By arm, points that are tried first, in place of the space's own; coordinates that are left out
            are filled in. A list is meant for the arm anon.
    """

    sampler: Literal["botorch", "gp", "tpe", "random", "grid"] = "botorch"
    lag: int | None = Field(default=None, ge=0, le=1000)
    stop: Literal["never", "decided"] = "never"
    pruner: Literal["none", "median", "asha"] = "none"
    seed: int = Field(default=0, ge=0, lt=2**31)
    repeats: int = Field(default=1, ge=1, le=20)
    grace: int = Field(default=3, ge=1)
    reduction: int = Field(default=3, ge=2)
    levels: int = Field(default=5, ge=2, le=1000)
    try_first: dict[str, tuple[dict[str, Value], ...]] = Field(default_factory=dict)

    @field_validator("try_first", mode="before")
    @classmethod
    def _points_of_anon(cls, value: Any) -> Any:
        return {"anon": value} if isinstance(value, list | tuple) else value


class Confirm(Strict):
    """Finalists of each arm are rerun on `seeds` seeds; the winners are compared on up to `verdict_seeds` others.

    With `race`, a finalist that is clearly behind after some of its seeds is not rerun on the others. A comparison
    that is decided after fewer seeds ends there. With `search.repeats` the winner of each search is tested on
    `verdict_seeds` seeds of its own, too.
    """

    finalists: int = Field(default=3, ge=1, le=20)
    seeds: int = Field(default=3, ge=1, le=50)
    race: bool = True
    verdict_seeds: int = Field(default=10, ge=2, le=100)


class Training(Strict):
    """How every trial of the job is trained; only the optimizer differs between arms.

    Attributes:
        batch_size: Examples per step.
        schedule: Of the learning rate: `constant`; `cosine` to 0; `step`, to a tenth at the half and again at three
            quarters; `wsd`, constant and to 0 in the last fifth.
        warmup: Over this share of the steps the learning rate rises first.
        clip: Gradients longer than this, over all parameters together, are shortened to it.
        accumulate: A batch is done in so many parts, one after another, for want of memory.
        num_workers: Processes of each trial that make the examples of a Dataset of the user; 0: the trial's own. They
            are besides `resources.cpu`. Results do not depend on it.
        augment: Of images: `crop` moves each by up to an eighth of its side, `flip` mirrors half of them.
        precision: `bf16` computes in bfloat16 where torch's autocast does; parameters stay in 32 bits.
        channels_last: Convolutions' weights in that order, which GPUs with tensor cores are faster with.
        compile: The model is compiled by torch.compile at the start of each trial; on CPU that takes a C++ compiler.
        checkpoint_seconds: At least so long between two checkpoints of a trial, and before its first; what an
            attempt that is lost has done since is done again. 0: after each epoch, but for what writing costs.
    """

    batch_size: int = Field(default=64, ge=1)
    schedule: Literal["constant", "cosine", "step", "wsd"] = "cosine"
    warmup: float = Field(default=0.0, ge=0.0, lt=1.0)
    clip: float | None = Field(default=None, gt=0.0)
    accumulate: int = Field(default=1, ge=1)
    num_workers: int = Field(default=0, ge=0, le=64)
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    augment: tuple[Literal["crop", "flip"], ...] = ()
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = False
    compile: bool = False
    checkpoint_seconds: float = Field(default=10.0, ge=0.0)


class UserSpace(Strict):
    """An arm's search space from a file of the user, named by its path from the job file's folder.

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
            return value  # as for `space`
        if not isinstance(value, str) or not value.endswith(SPACE_FILE):
            raise ValueError(f"expected the path of a .yaml file, found {value!r}")
        file, space = named_space(value, origin)
        optimizer = space.optimizer
        if optimizer == "anon":
            raise ValueError(f"{file} is a space of anon, which has one in this job: `space`")
        return {"file": file, "optimizer": optimizer}


class Resources(Strict):
    """What one trial takes; `gpu` may be a fraction."""

    cpu: int = Field(default=1, ge=1)
    gpu: float = Field(default=0.0, ge=0.0)


def seconds(value: Any) -> float:
    """Return a length of time in seconds: a number of them, or a number with s, m, h or d, as in "90m".

    Raises:
        ValueError: It is none, or not above 0; says what is allowed.
    """
    found = re.fullmatch(r"([\d.]+)\s*([smhd]?)", str(value).strip())
    try:
        length = float(found[1]) * _UNITS[found[2] or "s"] if found else 0.0
    except ValueError:
        length = 0.0
    if isinstance(value, bool) or not 0 < length < math.inf:
        raise ValueError(
            f"expected a length of time above 0, such as 90m, 2h or 3600 (seconds), found {value!r}"
        )
    return length
