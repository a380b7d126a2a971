"""The job file's schema as fields of a form, and changes of fields in the text of a job file."""

from __future__ import annotations

import functools
import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import yaml
from pydantic import BaseModel

from anon_tune import catalogue
from anon_tune.documents import load_yaml
from anon_tune.search_spaces import load_space, space_names
from anon_tune.spec.editing import with_value
from anon_tune.spec.job import JobSpec

__all__ = [
    "FormField",
    "FormSection",
    "descriptions",
    "field_values",
    "form_sections",
    "space_for",
    "with_field",
]

_NOT_IN_FORM = {"command", "folder", "budget.more_seeds"}
"""Keys that are left to the text: code does not come with a page, and `anon-tune extend` writes the last."""

_TITLES = {
    "": "Model and optimizers",
    "objective": "Objective",
    "budget": "Budget",
    "search": "Search",
    "confirm": "Confirm and verdict",
    "training": "Training",
    "resources": "Resources of a trial",
}
_OPEN = {"", "objective", "budget"}
_LAST = {"seeds", "keep"}
_FOLLOWED = {"task", "model", "objective.metric"}
"""Fields from which others follow."""


@dataclass(frozen=True)
class FormField:
    """A key of the job file with a simple value.

    Attributes:
        path: The key's path, such as "budget.trials".
        help: Its meaning, in a sentence; code is in backticks.
        kind: One text, one number, one of `choices`, or several of them.
        choices: The values to choose from.
        default: The value if the key is left out, as text; empty for a key without one.
        required: Whether the key must be given.
        low: Smallest number.
        high: Largest number.
        whole: Whether only whole numbers are allowed.
    """

    path: str
    help: str
    kind: Literal["text", "number", "choice", "several"]
    choices: tuple[str, ...] = ()
    default: str = ""
    required: bool = False
    low: float | None = None
    high: float | None = None
    whole: bool = False

    @property
    def id(self) -> str:
        """The path as an id of a page."""
        return self.path.replace(".", "-")

    @property
    def name(self) -> str:
        """The key alone."""
        return self.path.rpartition(".")[2]


@dataclass(frozen=True)
class FormSection:
    """Fields under a title.

    Attributes:
        is_open: Whether most jobs set some of them.
    """

    title: str
    fields: tuple[FormField, ...]
    is_open: bool


def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """Return the first sentence of a model's docstring on each attribute."""
    section = inspect.cleandoc(model.__doc__ or "").partition("Attributes:\n")[2]
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    joined = {name: " ".join(text.split()) for name, text in entries}
    return {name: re.split(r"(?<=[^.]\.) (?=[A-Z])", text)[0].rstrip(".") for name, text in joined.items()}


def form_sections(document: Mapping[str, Any]) -> list[FormSection]:
    """Return the fields for a job file as it is now: the task decides about data sets, models and metrics."""
    return [replace(section, fields=tuple(_filled(section.fields, document))) for section in _schema()]


def field_values(document: Mapping[str, Any], sections: Sequence[FormSection]) -> dict[str, list[str]]:
    """Return the values of all fields as text, by path; a field that is not set has none."""
    paths = [field.path for section in sections for field in section.fields]
    return {path: _shown(_value_at(document, path)) for path in paths}


def with_field(text: str, path: str, values: Sequence[str]) -> str:
    """Return the text of a job file with a field set, and with what must follow from it.

    Another task gets data and a model that it can use, a metric gets its better direction, and a model its family's
    search space if the space was that of the model before.

    Args:
        text: The job file.
        path: Path of the field.
        values: Its values; without one, or with an empty one, the key is removed, so that its default counts.

    Raises:
        yaml.YAMLError: The text is not valid YAML.
        ValueError: It has an invalid date or number.
    """
    before = _document(text)
    fields = {field.path: field for section in form_sections(before) for field in section.fields}
    if path not in fields:
        return text  # an option of the data or model that there was before
    kept = [value for value in _shown(_value_at(before, path)) if value in values]
    value = _typed(fields[path], list(dict.fromkeys([*kept, *values])))
    text = with_value(text, _place(before, path), value)
    if path not in _FOLLOWED:
        return text
    for followed, value in _consequences(before, _document(text), path):
        text = with_value(text, followed.split("."), value)
    return text


def space_for(task: str, model: str) -> str:
    """Return the search space of Anon for a model of the catalogue."""
    wanted = task if task in space_names() else catalogue.MODELS[model].family
    return wanted if wanted in space_names() else "default"


@functools.cache
def _schema() -> tuple[FormSection, ...]:
    simple, sections = [], []
    for name, info in JobSpec.model_fields.items():
        kind = info.annotation
        if not (inspect.isclass(kind) and issubclass(kind, BaseModel)):
            simple.append(name)
            continue
        sections.append(FormSection(_TITLES[name], tuple(_fields(kind, f"{name}.")), name in _OPEN))
    own = [field for field in _fields(JobSpec, "") if field.path in simple]
    first = [field for field in own if field.path not in _LAST]
    last = [field for field in own if field.path in _LAST]
    return (
        FormSection(_TITLES[""], tuple(first), True),
        *sections,
        FormSection("Seeds and weights", tuple(last), False),
    )


def _fields(model: type[BaseModel], prefix: str) -> Iterator[FormField]:
    helps = descriptions(model)
    for name, info in model.model_fields.items():
        path = f"{prefix}{name}"
        if path in _NOT_IN_FORM:
            continue
        default = info.get_default(call_default_factory=True)
        required = info.is_required() or path == "budget.epochs"
        field = FormField(
            path,
            helps.get(name, ""),
            "text",
            default="" if required or default is None else ", ".join(_shown(default)),
            required=required,
        )
        if path in {"data", "model", "task", "space", "objective.metric"}:
            required = path in {"data", "model", "task"}
            yield replace(field, kind="choice", required=required, default="" if required else field.default)
        elif path == "arms":
            yield replace(field, kind="several", choices=tuple(catalogue.ARMS))
        elif (typed := _typed_field(field, info)) is not None:
            yield typed


def _typed_field(field: FormField, info: Any) -> FormField | None:
    """Return a field by the type of its key; None if its values are no simple ones."""
    options = _options(info.annotation)
    kinds = {option if typing.get_origin(option) is None else typing.get_origin(option) for option in options}
    if kinds == {Literal}:
        return replace(field, kind="choice", choices=tuple(map(str, typing.get_args(options[0]))))
    if kinds == {bool}:
        return replace(field, kind="choice", choices=("true", "false"))
    if kinds == {tuple} and typing.get_origin(typing.get_args(options[0])[0]) is Literal:
        return replace(field, kind="several", choices=typing.get_args(typing.get_args(options[0])[0]))
    if kinds == {str} or field.path in {"budget.time", "budget.trial_time"}:
        return field
    if kinds <= {int, float}:
        low, high = _limits(info.metadata)
        return replace(field, kind="number", low=low, high=high, whole=kinds == {int})
    return None


def _options(annotation: Any) -> list[Any]:
    """Return the types that a value may have, except None."""
    if typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        return [each for each in typing.get_args(annotation) if each is not types.NoneType]
    return [annotation]


def _limits(metadata: Sequence[Any]) -> tuple[float | None, float | None]:
    """Return the closed limits of a number."""
    low = next((each.ge for each in metadata if hasattr(each, "ge")), None)
    high = next((each.le for each in metadata if hasattr(each, "le")), None)
    return low, high


def _filled(fields: Sequence[FormField], document: Mapping[str, Any]) -> Iterator[FormField]:
    """Yield fields with the choices that the catalogue has for the job's task, and options of its data and model."""
    name = _text_at(document, "task")
    task = catalogue.TASKS.get(name)
    choices: dict[str, tuple[str, ...]] = {
        "task": tuple(catalogue.TASKS),
        "data": task.datasets if task else (),
        "model": task.models if task else (),
        "space": _anon_spaces(),
        "objective.metric": tuple(task.metrics) if task else (),
    }
    for field in fields:
        if task is None and name and field.path in {"data", "model"}:
            continue  # the user's own training brings them
        if field.path == "budget.steps" and task is not None and not _value_at(document, "budget.steps"):
            continue  # for the user's own training
        field = replace(field, choices=choices.get(field.path, field.choices), help=_about(field, document))
        yield _with_current(field, document)
        if field.path == "data":
            entry = catalogue.DATASETS.get(_text_at(document, "data"))
            yield from _option_fields("data", entry.options if entry else {})
        if field.path == "model":
            model = catalogue.MODELS.get(_text_at(document, "model"))
            yield from _option_fields("model", model.options if model else {})


def _about(field: FormField, document: Mapping[str, Any]) -> str:
    """Return the summary of the chosen entry of the catalogue; for other fields and the user's own, their help."""
    return _summaries().get(field.path, {}).get(_text_at(document, field.path), field.help)


@functools.cache
def _summaries() -> dict[str, dict[str, str]]:
    """Return the summary of each entry of the catalogue and of each search space, by key of the job file."""
    entries: dict[str, Mapping[str, Any]] = {
        "task": catalogue.TASKS,
        "data": catalogue.DATASETS,
        "model": catalogue.MODELS,
        "space": {name: load_space(name) for name in space_names()},
    }
    return {
        key: {name: entry.summary.rstrip(".") for name, entry in found.items()}
        for key, found in entries.items()
    }


@functools.cache
def _anon_spaces() -> tuple[str, ...]:
    return tuple(name for name in space_names() if load_space(name).optimizer == "anon")


def _with_current(field: FormField, document: Mapping[str, Any]) -> FormField:
    """Return a field whose choices hold its values in the document, such as the user's own function."""
    if field.kind not in {"choice", "several"}:
        return field
    current = _shown(_value_at(document, field.path))
    return replace(field, choices=tuple(dict.fromkeys([*field.choices, *current])))


def _option_fields(of: str, options: Mapping[str, int | float | str]) -> Iterator[FormField]:
    for name, default in options.items():
        number = not isinstance(default, str)
        yield FormField(
            f"{of}.{name}",
            f"Option of the {of}",
            "number" if number else "text",
            default=_shown(default)[0] if default != "" else "",
            required=default == "",
            low=None if not number else 1 if of == "model" else 0,
            whole=isinstance(default, int),
        )


def _document(text: str) -> dict[str, Any]:
    found = load_yaml(text, remote=True)
    return found if isinstance(found, dict) else {}


def _place(document: Mapping[str, Any], path: str) -> list[str]:
    """Return the keys on the way to a field, whose section may have its options under `options`."""
    first, *rest = path.split(".")
    section = document.get(first)
    if first in {"data", "model"} and isinstance(section, Mapping) and rest and "options" in section:
        return [first, "options", *rest]
    return [first, *rest]


def _value_at(document: Mapping[str, Any], path: str) -> Any:
    value: Any = document
    for key in _place(document, path):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value.get("name") if path in {"data", "model"} and isinstance(value, Mapping) else value


def _text_at(document: Mapping[str, Any], path: str) -> str:
    value = _value_at(document, path)
    return value if isinstance(value, str) else ""


def _shown(value: Any) -> list[str]:
    """Return a value as texts: as they are typed into a field."""
    if value is None or value == "":
        return []
    if isinstance(value, list | tuple):
        return [text for each in value for text in _shown(each)]
    if isinstance(value, bool):
        return [str(value).lower()]
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return [str(int(value))]
    return [str(value)]


def _typed(field: FormField, values: Sequence[str]) -> Any:
    """Return what to write for the texts of a field; None removes the key."""
    given = [value.strip() for value in values if value.strip()]
    if field.kind == "several":
        return given or None
    if not given:
        return "" if field.path == "name" else None
    if field.kind == "choice" and set(field.choices) == {"true", "false"}:
        return given[0] == "true"
    if field.kind == "number" or field.path in {"budget.time", "budget.trial_time"}:
        return _number(given[0])
    return given[0]


def _number(text: str) -> Any:
    """Return the number that a text is, else the text."""
    try:
        value = load_yaml(text, remote=True)
    except (yaml.YAMLError, ValueError):
        return text
    return value if isinstance(value, int | float) and not isinstance(value, bool) else text


def _consequences(
    before: Mapping[str, Any], after: Mapping[str, Any], path: str
) -> Iterator[tuple[str, str | None]]:
    """Yield the keys that follow from a changed one, with their values."""
    name = _text_at(after, "task")
    task = catalogue.TASKS.get(name)
    if task is None:
        return
    metric = _text_at(after, "objective.metric") or "loss"
    model = _text_at(after, "model")
    if path == "task":
        if _text_at(after, "data") not in task.datasets:
            yield "data", _usable(task.datasets)
        if model not in task.models:
            model = task.models[0]
            yield "model", model
        if metric not in task.metrics:
            metric = next(iter(task.metrics))
            yield "objective.metric", metric
    if task.metrics.get(metric, "min") != (_text_at(after, "objective.mode") or "min"):
        yield "objective.mode", task.metrics[metric]
    space = _text_at(before, "space")
    if model in catalogue.MODELS and path in {"task", "model"} and space in {"", _space_of(before)}:
        yield "space", space_for(name, model)


def _space_of(document: Mapping[str, Any]) -> str:
    """Return the space that the form would choose for a job's task and model."""
    model = _text_at(document, "model")
    return space_for(_text_at(document, "task"), model) if model in catalogue.MODELS else "default"


def _usable(datasets: Sequence[str]) -> str:
    """Return the first data set that needs no path."""
    return next(
        (name for name in datasets if "" not in catalogue.DATASETS[name].options.values()), datasets[0]
    )
