"""JobSpec: the user's description of a tuning job, with its validation."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, JsonValue, ValidationInfo, field_validator, model_validator

from anon_tune import catalogue
from anon_tune.documents import ProblemsError, Strict, is_function, plain, unknown
from anon_tune.records import Phase
from anon_tune.search_spaces import Space, load_space
from anon_tune.spec.limits import LARGEST_SIZE, LONGEST_COMMAND, LONGEST_NAME, too_many
from anon_tune.spec.places import SPACE_FILE, Origin, data_path, named_space, origin_of
from anon_tune.spec.sections import (
    Budget,
    Confirm,
    DataChoice,
    ModelChoice,
    Objective,
    Resources,
    Search,
    Training,
    UserSpace,
)
from anon_tune.texts import cut, plain_name, quoted

__all__ = ["COMMAND", "SMALLEST_LAG", "JobSpec", "spaces_of"]

_NAME = re.compile(r"[\w .:+-]+")

_ARM = re.compile(r"\w[\w-]{0,31}", re.ASCII)
"""An arm's name is part of the ids of trials and of their folders."""

_FEWEST_VERDICT_SEEDS = 2

_SEEDS_OF_A_LOSS = 3
"""Verdict seeds of a winner that is compared with nothing: they give its loss."""
"""Fewest seeds of a comparison, unless seeds have no effect."""

_LARGEST_GRID = 100_000
"""Most points of a grid, which is rebuilt for each suggestion: 0.2 s at this size."""

SMALLEST_LAG, _SLOTS = 4, 8
"""The default lag, and the number of parallel trials for which it suffices."""

COMMAND = "command"
"""Task of a job with a `command`."""

_OF_FUNCTIONS = {"schedule", "warmup", "checkpoint_seconds"}
"""Keys of `training` that also apply to a user's training function."""


class JobSpec(Strict):
    """A tuning job.

    Attributes:
        name: Name of the job, of up to 80 characters.
        task: A task of the catalogue, or the user's training function ("module:function"), which brings its own data
            and model and reports `objective.metric`. Left out if there is a `command`.
        command: In place of `task`, the command that trains: `python train.py --width 32`. It runs in `folder` for
            each trial, without a shell, and its script calls `anon_tune.trial()`. `{epochs}` or `{steps}`, `{seed}`
            and `{folder}` stand for the trial's length, its seed and the folder for its files.
        arguments: Keyword arguments of that function: numbers, text, booleans, null, lists, and keys and values.
            A tuple that `tune` is given arrives as a list.
        data: A data set of the catalogue with its options, or the user's function ("module:function").
        model: A model of the catalogue with its sizes, or the user's function ("module:function").
        space: Search space of Anon: one of `anon-tune spaces`, or the path of a file.
        arms: Optimizers to tune and compare; `anon` must be one of them. A path is the user's own search space.
        seeds: `fixed` states that seeds have no effect on the training. `confirm.seeds` and `confirm.verdict_seeds`
            are then 1, and the job makes no statement about seeds: its verdicts are undecided.
        keep: `best` keeps the weights of one model after the job, as `best.pt`: of the verdict trials with Anon's
            chosen configuration, the one with the best validation value. `none` keeps no weights.
        spaces: By arm, search spaces from the user's files, each of which names the arm's optimizer.
            `arms: [anon, muon.yaml]` is short for an arm muon with that file here.
        folder: Folder of the user's modules; by default the job file's.
    """

    name: str
    task: str = COMMAND
    command: str | None = None
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    data: DataChoice | None = None
    model: ModelChoice | None = None
    space: str = "default"
    objective: Objective = Field(default_factory=Objective)
    budget: Budget
    search: Search = Field(default_factory=Search)
    confirm: Confirm = Field(default_factory=Confirm)
    training: Training = Field(default_factory=Training)
    spaces: dict[str, UserSpace] = Field(default_factory=dict)
    arms: tuple[str, ...] = ("anon", "adamw", "sgd")
    resources: Resources = Field(default_factory=Resources)
    seeds: Literal["trial", "fixed"] = "trial"
    keep: Literal["best", "none"] = "none"
    folder: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _arms_by_file(cls, data: Any, info: ValidationInfo) -> Any:
        arms, spaces = data.get("arms", ()), data.get("spaces") or {}
        if not isinstance(arms, list | tuple) or not isinstance(spaces, Mapping):
            return data
        if not origin_of(info).stored:
            error = ProblemsError(filter(None, (too_many("arms", arms), too_many("spaces", spaces))))
            if error.problems:
                raise error
        names = {arm: Path(arm).stem for arm in arms if isinstance(arm, str) and arm.endswith(SPACE_FILE)}
        if not names:
            return data
        files = {name: file for file, name in names.items()}
        arms = [names.get(arm, arm) if isinstance(arm, str) else arm for arm in arms]
        return {**data, "arms": arms, "spaces": {**spaces, **files}}

    @field_validator("name")
    @classmethod
    def _name_fits(cls, name: str, info: ValidationInfo) -> str:
        if origin_of(info).stored:
            return name
        name = plain_name(name, LONGEST_NAME)
        if not _NAME.fullmatch(name):
            raise ValueError(f"{quoted(name)} is not a valid name: use letters, digits, spaces and . : + - _")
        return name

    @field_validator("arguments", mode="before")
    @classmethod
    def _plain_arguments(cls, value: Any) -> Any:
        return plain(value)

    @model_validator(mode="before")
    @classmethod
    def _one_run_of_each(cls, data: Any) -> Any:
        """Set the numbers of seeds to 1 if the job states that seeds have no effect: more runs would be the same."""
        confirm = data.get("confirm") or {}
        if data.get("seeds") != "fixed" or not isinstance(confirm, Mapping):
            return data
        return {**data, "confirm": {**confirm, "seeds": 1, "verdict_seeds": 1}}

    @field_validator("data", "model", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        """Accept `model: cnn` as short for `model: {name: cnn}`."""
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, Mapping) and "options" not in value:
            options = {key: option for key, option in value.items() if key != "name"}
            return {**({"name": value["name"]} if "name" in value else {}), "options": options}
        return value

    @field_validator("data")
    @classmethod
    def _data_found(cls, data: DataChoice | None, info: ValidationInfo) -> DataChoice | None:
        """Make the path absolute; its contents are checked where the job runs."""
        origin = origin_of(info)
        if data is None or origin.stored:
            return data
        options = dict(data.options)
        for option in ("folder", "file"):
            named = options.get(option)
            if named and isinstance(named, str):
                options[option] = data_path(option, named, origin)
        return data.model_copy(update={"options": options})

    @field_validator("arms")
    @classmethod
    def _arms_exist(cls, arms: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        # If `spaces` are invalid, which is reported already, any arm may belong to them.
        spaces: Mapping[str, UserSpace] = info.data.get("spaces", dict.fromkeys(arms))
        for arm in arms:
            if is_function(arm) and arm not in spaces:
                raise ValueError(
                    f"{quoted(arm)} needs a search space: write it to a .yaml file, with "
                    f"`optimizer: {cut(arm)}`, and name that file here"
                )
            if arm not in catalogue.ARMS and arm not in spaces:
                raise ValueError(f"{unknown('arm', arm, catalogue.ARMS)}, or the path of a .yaml file")
            if not _ARM.fullmatch(arm):
                raise ValueError(
                    f"{quoted(arm)} is not a valid arm name: use up to 32 letters, digits, '_' and '-'; rename "
                    "its file"
                )
        if "anon" not in arms:
            raise ValueError("must contain 'anon', the optimizer this job tunes")
        if len(set(arms)) != len(arms):
            raise ValueError("the same arm is listed twice")
        return arms

    @field_validator("space")
    @classmethod
    def _space_for_anon(cls, name: str, info: ValidationInfo) -> str:
        origin = origin_of(info)
        if origin.stored:
            return name  # the ledger holds the original space; the file may have been deleted
        name, space = named_space(name, origin)
        if space.optimizer != "anon":
            raise ValueError(f"{quoted(name)} is a space of {space.optimizer}; this key is for the arm anon")
        return name

    @field_validator("command")
    @classmethod
    def _command_splits(cls, command: str | None, info: ValidationInfo) -> str | None:
        if command is None:
            return None
        if len(command) > LONGEST_COMMAND and not origin_of(info).stored:
            raise ValueError(
                f"has {len(command):,} characters, and {LONGEST_COMMAND:,} are allowed; write a script that it runs"
            )
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise ValueError(f"cannot be split into words: {error}; check its quotes") from None
        if not words:
            raise ValueError("is empty; write the command that trains, such as python train.py")
        return command

    @property
    def has_own_training(self) -> bool:
        """Whether the user's code trains: a training function or a command."""
        return self.command is not None or is_function(self.task)

    @property
    def has_own_code(self) -> bool:
        """Whether the job needs code from the user's folder: a command, or a function of a module."""
        return self.command is not None or bool(self.functions())

    @model_validator(mode="after")
    def _names_exist(self, info: ValidationInfo) -> JobSpec:
        if (self.command is None) == (self.task == COMMAND):
            raise ValueError("a job needs either `task` or `command`: give exactly one of them")
        if not self.has_own_training and self.task not in catalogue.TASKS:
            raise ValueError(f"task: {unknown('task', self.task, catalogue.TASKS)}")
        error = ProblemsError(self._problems(origin_of(info)))
        if error.problems:
            raise error
        return self

    def _problems(self, origin: Origin) -> Iterator[str]:
        if not origin.stored:
            yield from self._folder_problems(origin.remote)
        if self.has_own_training:
            yield from self._function_problems(origin.stored)
        else:
            yield from self._task_problems(catalogue.TASKS[self.task], origin.stored)
        if self.search.pruner != "none":
            yield from self._grace_problems()
        if self.search.sampler == "grid" and self.search.repeats > 1:
            yield (
                "search.repeats: a grid is the same in each repeat, so it cannot measure the luck of a search; "
                "set 1, or another search.sampler"
            )
        yield from self._arm_problems()
        yield from self._value_problems()
        if not origin.stored:
            yield from self.space_problems(spaces_of(self, origin.spaces))

    def functions(self) -> dict[str, str]:
        """Return the user's functions ("module:function") that the job names, by the key that names each."""
        named = {
            "task": self.task,
            "data": self.data.name if self.data else "",
            "model": self.model.name if self.model else "",
            **{f"spaces.{arm}": space.optimizer for arm, space in self.spaces.items()},
        }
        return {key: name for key, name in named.items() if is_function(name)}

    def _folder_problems(self, remote: bool) -> Iterator[str]:
        if remote and self.folder is not None:
            yield "folder: is for job files only; a service's workers import installed modules"
        elif not remote and self.folder is None:
            for name in self.functions().values():
                yield f"folder: is missing; it is the folder from which {name} is imported"
            if self.command is not None:
                yield "folder: is missing; it is the folder in which the command runs"

    def _grace_problems(self) -> Iterator[str]:
        grace, budget = self.search.grace, self.budget
        if budget.unit == "step" and "grace" not in self.search.model_fields_set:
            yield (
                f"search.grace: is missing; with {self.search.pruner} and a budget in steps, set the number of steps "
                f"before any pruning, such as {max(1, budget.length // 10)}"
            )
        elif grace > budget.length:
            yield (
                f"search.grace: {grace} {budget.key} of grace are more than the budget's {budget.length}; lower it, "
                "or set search.pruner: none"
            )

    def _value_problems(self) -> Iterator[str]:
        of, budget = self.objective.of, self.budget
        if self.confirm.verdict_seeds < _FEWEST_VERDICT_SEEDS and self.seeds != "fixed":
            yield (
                f"confirm.verdict_seeds: expected at least {_FEWEST_VERDICT_SEEDS}, found "
                f"{self.confirm.verdict_seeds}"
            )
        if (self.objective.reports or 0) > budget.length:
            yield f"objective.of: {of} needs more reports than budget.{budget.key} ({budget.length}); lower it"
        if self.search.stop == "decided" and self.objective.practical is None:
            yield (
                "search.stop: decided needs the smallest difference that matters; set objective.practical, in units "
                f"of {self.objective.metric}"
            )
        if of == "best" and self.keep == "best":
            yield (
                "keep: best keeps the weights of the last epoch, and objective.of: best selects another epoch; "
                "remove one of them"
            )

    def _arm_problems(self) -> Iterator[str]:
        for arm, space in self.spaces.items():
            if arm not in self.arms:
                yield f"spaces.{arm}: {unknown('arm', arm, self.arms)}"
            if arm == "anon":
                yield "spaces.anon: set the space of anon with the key `space`"
            elif arm in catalogue.ARMS and space.optimizer != arm:
                yield f"spaces.{arm}: {space.file} is a space of {space.optimizer}; give this arm another name"

    def _function_problems(self, stored: bool) -> Iterator[str]:
        if self.command is None:
            who, what, way = (
                self.task,
                f"your own training function {self.task}",
                "pass it through `arguments`",
            )
        else:
            who, what, way = "your command", "your own command", "write it into `command`"
            if self.arguments:
                yield f"arguments: are for a training function; {way}"
            other = "{epochs}" if self.budget.unit == "step" else "{steps}"
            if other in self.command:
                yield f"command: has {other}, but the budget is in {self.budget.key}: write {{{self.budget.key}}}"
        for key in ("data", "model"):
            if getattr(self, key) is not None:
                yield f"{key}: {who} brings its own; {way}"
        if self.keep != "none":
            yield f"keep: only {who} can save its weights; save them there, and remove this key"
        for key in sorted(self.training.model_fields_set - _OF_FUNCTIONS if not stored else ()):
            yield f"training.{key}: has no effect with {what}; {way}"

    def _task_problems(self, task: catalogue.TaskEntry, stored: bool) -> Iterator[str]:
        if self.arguments:
            yield f"arguments: are for your own training function; {self.task} takes none"
        if self.budget.steps is not None:
            yield f"budget.steps: is for your own training; {self.task} trains in epochs: set budget.epochs"
        if self.data is None:
            known = ", ".join(task.datasets) + (", or name your own function" if task.own_data else "")
            yield f"data: is missing; {self.task} accepts {known}"
        else:
            yield from self._data_problems(task, self.data, stored)
        if self.model is None:
            yield f"model: is missing; {self.task} has {', '.join(task.models)}, or name your own function"
        else:
            yield from self._model_problems(task, self.model, stored)
        if self.training.augment and not task.images:
            yield f"training.augment: is for images, and {self.task} has none; remove it"
        if self.training.channels_last and self.model is not None:
            entry = catalogue.MODELS.get(self.model.name)
            if not task.images or (entry is not None and entry.family != "cnn"):
                what = self.model.name if task.images else self.task
                yield f"training.channels_last: is for convolutions of images, and {what} has none; remove it"
        metric = self.objective.metric
        if metric not in task.metrics:
            yield f"objective.metric: {unknown(f'metric of {self.task}', metric, task.metrics)}"
        elif self.objective.mode != task.metrics[metric]:
            mode = task.metrics[metric]
            yield f"objective.mode: the best {metric} is its {mode}imum; set mode: {mode}"

    def _model_problems(self, task: catalogue.TaskEntry, model: ModelChoice, stored: bool) -> Iterator[str]:
        if is_function(model.name):
            return
        if model.name not in task.models:
            yield f"model: {unknown(f'model of {self.task}', model.name, task.models)}"
            return
        known = catalogue.MODELS[model.name].options
        for option in model.options:
            if option not in known:
                yield f"model.{option}: {unknown(f'option of {model.name}', option, known)}"
        for option, size in model.options.items():
            if option in known and (problem := _size_problem(size, 1, stored)):
                yield f"model.{option}: {problem}"

    def _data_problems(self, task: catalogue.TaskEntry, data: DataChoice, stored: bool) -> Iterator[str]:
        name, options = data.name, data.options
        if is_function(name) and task.own_data:
            yield from self._data_function_problems(options)
            return
        if name not in task.datasets:
            yield f"data: {unknown(f'data set of {self.task}', name, task.datasets)}"
            return
        known = catalogue.DATASETS[name].options
        for option, value in options.items():
            if option not in known:
                yield f"data.{option}: {unknown(f'option of {name}', option, known)}"
            elif isinstance(known[option], int):
                if problem := _size_problem(value, 0, stored):
                    yield f"data.{option}: {problem}"
            elif isinstance(known[option], float) and not _is_size(value):
                yield f"data.{option}: expected a finite number of at least 0, found {quoted(value)}"
            elif isinstance(known[option], str) and not isinstance(value, str):
                yield f"data.{option}: expected text, found {quoted(value)}"
        for option in known:
            if known[option] == "" and not options.get(option):
                yield f"data.{option}: is missing; write data: {{name: {name}, {option}: {option.upper()}}}"

    def _data_function_problems(self, options: Mapping[str, JsonValue]) -> Iterator[str]:
        classes = options.get("classes", 1)
        if type(classes) is not int or classes < 1:
            yield f"data.classes: expected a whole number of at least 1, found {quoted(classes)}"

    def optimizer(self, arm: str) -> str:
        """Return an arm's optimizer: "anon", "adamw", "sgd", or the user's factory ("module:function")."""
        return self.spaces[arm].optimizer if arm in self.spaces else arm

    @property
    def family(self) -> str:
        """The architecture family of the spec: that of the registered model, else that of `space`."""
        entry = catalogue.MODELS.get(self.model.name) if self.model is not None else None
        return entry.family if entry is not None and entry.family in catalogue.FAMILIES else self.space

    @property
    def lag(self) -> int:
        """The number of an arm's trials before a suggestion that it does not learn from and that may still run.

        The default is 4, and 8 with one arm: enough for eight parallel trials of equal length (docs/search.md).
        """
        if self.search.lag is not None:
            return self.search.lag
        return max(SMALLEST_LAG, math.ceil(_SLOTS / len(self.arms)))

    def space_problems(self, spaces: Mapping[str, Space]) -> Iterator[str]:
        """Yield the reasons why the search cannot make its trials in these spaces, each with its key's path."""
        for arm, space in spaces.items():
            count, what = space.configurations, "configurations in the space"
            if self.search.sampler == "grid":
                count = space.on_grid(self.search.levels).configurations
                what = f"points of the grid of {self.search.levels} levels in the space"
                if count > _LARGEST_GRID:
                    yield f"search.levels: a grid of {count:g} points in the space of {arm} is too large; lower it"
            if count < self.budget.trials:
                yield (
                    f"budget.trials: {self.budget.trials} is more than the {count:g} {what} of {arm}; "
                    "lower it, or widen the space"
                )
        for arm, points in self.search.try_first.items():
            key = f"search.try_first.{arm}"
            if arm not in spaces:
                yield f"{key}: {unknown('arm', arm, spaces)}"
                continue
            if len(points) > self.budget.trials:
                yield f"{key}: {len(points)} points are more than budget.trials ({self.budget.trials})"
                continue
            seen = set()
            for index, point in enumerate(points):
                if (found := frozenset(point.items())) in seen:
                    yield f"{key}.{index}: the same point is listed twice"
                seen.add(found)
                yield from (f"{key}.{index}.{problem}" for problem in spaces[arm].problems_of(point))

    def may_keep(self, arm: str, phase: str) -> bool:
        """Whether the job may keep the weights of a trial of this arm and phase.

        Only the verdict's trials qualify: they train the chosen configuration at full length. Search trials may have
        been stopped early, and the choice among them is known only after all of them.
        """
        return self.keep == "best" and arm == "anon" and phase == Phase.VERDICT

    def planned_trials(self) -> dict[Phase, int]:
        """Return the most trials of each phase: if every arm completes, and no finalist falls behind."""
        arms, repeats, more = len(self.arms), self.search.repeats, self.budget.more_seeds
        searches = arms * repeats
        rounds = [self.confirm.verdict_seeds, *more]
        if arms == 1:
            rounds = [min(count, _SEEDS_OF_A_LOSS) for count in rounds]
        tests = searches * self.confirm.verdict_seeds * (1 + len(more)) if repeats > 1 else 0
        return {
            Phase.SEARCH: searches * self.budget.trials,
            Phase.CONFIRM: searches * min(self.confirm.finalists, self.budget.trials) * self.confirm.seeds,
            Phase.VERDICT: arms * sum(rounds) + tests,
        }


def spaces_of(spec: JobSpec, given: Mapping[str, Space] | None = None) -> dict[str, Space]:
    """Return the search space of each arm, in the spec's order, with the start points of the job's family.

    `given` are spaces by name that are not in a file on this machine.
    """
    given = given or {}

    def name(arm: str) -> str:
        if arm == "anon":
            return spec.space
        return spec.spaces[arm].file if arm in spec.spaces else arm

    def space(arm: str) -> Space:
        return given[name(arm)] if name(arm) in given else load_space(name(arm))

    return {arm: space(arm).for_family(spec.family) for arm in spec.arms}


def _size_problem(value: JsonValue, least: int, stored: bool) -> str | None:
    """Return the problem of an option that is a size, or None. Stored jobs may have larger ones."""
    if type(value) is not int or value < least:
        return f"expected a whole number of at least {least}, found {quoted(value)}"
    if value > LARGEST_SIZE and not stored:
        return f"expected at most {LARGEST_SIZE:,}, found {quoted(value)}"
    return None


def _is_size(value: JsonValue) -> bool:
    """Whether it is a finite number of at least 0; bools do not count."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
